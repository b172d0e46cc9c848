"""The daemon's Pod, from the manifest to what a container runtime runs: kubelet's part of it.

Only what the daemon's DaemonSet uses is known here; what it says that is not known is refused.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from kmm_sandbox.errors import SandboxError
from kmm_sandbox.repository import REPOSITORY

Object = dict[str, Any]

MANIFESTS = REPOSITORY / "manifests/base/daemon"
IMAGE = (Path("/usr"), Path("/etc"))
"""What stands for the image's system: the node's, read-only."""
_IMAGE_ENVIRONMENT = ("PATH=/usr/sbin:/usr/bin:/sbin:/bin", "PYTHONUNBUFFERED=1")
LINKS = ("bin", "lib", "lib64", "sbin")
"""Of a root directory, to those of /usr."""

# What containerd and CRI-O give every container that is not privileged.
_SYSTEM_MOUNTS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("/proc", "proc", ("nosuid", "noexec", "nodev")),
    ("/dev", "tmpfs", ("nosuid", "strictatime", "mode=755", "size=65536k")),
    ("/dev/pts", "devpts", ("nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620")),
    ("/dev/shm", "tmpfs", ("nosuid", "noexec", "nodev", "mode=1777", "size=64m")),  # noqa: S108
    ("/dev/mqueue", "mqueue", ("nosuid", "noexec", "nodev")),
    ("/sys", "sysfs", ("nosuid", "noexec", "nodev", "ro")),
)
_MASKED = (
    *("/proc/asound", "/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/latency_stats"),
    *("/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware"),
)
_READ_ONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")


@dataclass(frozen=True, slots=True, kw_only=True)
class DaemonPod:
    """The DaemonSet's Pod and its seccomp profile, in the runtime's format."""

    spec: Object
    seccomp: Object

    @classmethod
    def read(cls, directory: Path = MANIFESTS) -> "DaemonPod":
        """Read podtemplate.yaml and seccomp.json."""
        template = yaml.safe_load((directory / "podtemplate.yaml").read_text())
        seccomp = json.loads((directory / "seccomp.json").read_text())
        return cls(spec=template["template"]["spec"], seccomp=seccomp)

    @property
    def container(self) -> Object:
        """The only container. Raises SandboxError if there are more, or if it is privileged."""
        if len(self.spec["containers"]) != 1 or self.spec.get("initContainers"):
            raise SandboxError("the sandbox runs Pods of one container only")
        container: Object = self.spec["containers"][0]
        if container["securityContext"].get("privileged"):
            raise SandboxError("the sandbox runs no privileged Pods")
        return container

    @property
    def capabilities(self) -> list[str]:
        """As the kernel calls them. Raises SandboxError if a runtime's own would remain."""
        wanted = self.container["securityContext"]["capabilities"]
        if wanted["drop"] != ["ALL"]:
            raise SandboxError("drop ALL capabilities: what is left differs between runtimes")
        return [f"CAP_{name}" for name in wanted["add"]]

    @property
    def made(self) -> list[str]:
        """Directories that kubelet makes on the node."""
        sources = (volume.get("hostPath", {}) for volume in self.spec["volumes"])
        return [each["path"] for each in sources if each.get("type") == "DirectoryOrCreate"]

    def runtime_config(
        self, argv: Sequence[str], *, volumes: Mapping[str, Path], places: Sequence[Path]
    ) -> Object:
        """Return the OCI runtime's config.json.

        `argv` runs programs below `places`, which stand for the image's own; `volumes` has the
        content of those volumes that are no directories of the node.
        """
        context = self.container["securityContext"]
        capabilities = self.capabilities
        return {
            "ociVersion": "1.0.2",
            "process": {
                "user": {
                    "uid": self.spec["securityContext"]["runAsUser"],
                    "gid": self.spec["securityContext"]["runAsGroup"],
                },
                "args": [*argv],
                "env": [*_IMAGE_ENVIRONMENT, *self._environment()],
                "cwd": "/",
                "capabilities": dict.fromkeys(("bounding", "effective", "permitted"), capabilities),
                "noNewPrivileges": not context["allowPrivilegeEscalation"],
            },
            "root": {"path": "rootfs", "readonly": context["readOnlyRootFilesystem"]},
            "mounts": [*_system_mounts(), *_image_mounts(places), *self._mounts(volumes)],
            "linux": {
                "namespaces": [{"type": kind} for kind in self._namespaces()],
                # The runtime adds /dev/null and its like.
                "resources": {"devices": [{"allow": False, "access": "rwm"}]},
                "maskedPaths": [*_MASKED],
                "readonlyPaths": [*_READ_ONLY],
                "seccomp": self._profile(),
            },
        }

    def _environment(self) -> list[str]:
        return [f"{each['name']}={each['value']}" for each in self.container.get("env", ())]

    def _namespaces(self) -> list[str]:
        own = [] if self.spec.get("hostNetwork") else ["network", "uts"]
        return ["mount", "ipc", *own, *([] if self.spec.get("hostPID") else ["pid"])]

    def _profile(self) -> Object:
        if self.spec["securityContext"]["seccompProfile"]["type"] != "Localhost":
            raise SandboxError("the sandbox has no runtime's own seccomp profile")
        return self.seccomp

    def _mounts(self, volumes: Mapping[str, Path]) -> list[Object]:
        on_node = {each["name"]: each.get("hostPath") for each in self.spec["volumes"]}
        return [
            _mount(
                (on_node[each["name"]] or {"path": str(volumes[each["name"]])})["path"],
                each["mountPath"],
                *("rbind", "rprivate", "ro" if each.get("readOnly") else "rw"),
            )
            for each in self.container["volumeMounts"]
        ]


def make_bundle(directory: Path, config: Object) -> None:
    """Write an OCI bundle, whose root directory is empty but for links."""
    root = directory / "rootfs"
    root.mkdir(parents=True, exist_ok=True)
    for name in LINKS:
        if not (root / name).is_symlink():
            (root / name).symlink_to(f"usr/{name}")
    (directory / "config.json").write_text(json.dumps(config))


def _system_mounts() -> list[Object]:
    return [
        {"destination": place, "type": kind, "source": kind, "options": [*options]}
        for place, kind, options in _SYSTEM_MOUNTS
    ]


def _image_mounts(places: Sequence[Path]) -> list[Object]:
    outside = (place for place in places if not any(map(place.is_relative_to, IMAGE)))
    # An image has none of the node's mounts: nothing recursive here.
    return [_mount(str(path), str(path), "bind", "private", "ro") for path in (*IMAGE, *outside)]


def _mount(source: str, destination: str, *options: str) -> Object:
    return {
        "destination": destination,
        "type": "bind",
        "source": source,
        "options": [*options],
    }
