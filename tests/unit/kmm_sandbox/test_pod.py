"""What the daemon may do on a node, as its manifest says it, and as a runtime is told."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kmm_sandbox.errors import SandboxError
from kmm_sandbox.pod import DaemonPod, make_bundle

Object = dict[str, Any]

RIGHTS = {
    "CAP_SYS_MODULE",
    "CAP_SYSLOG",
    "CAP_SYS_PTRACE",
    "CAP_DAC_READ_SEARCH",
    "CAP_SETUID",
    "CAP_SETGID",
    "CAP_KILL",
    "CAP_CHOWN",
    "CAP_FOWNER",
}
NEVER = {
    *("mount", "umount2", "pivot_root", "chroot", "unshare", "setns", "open_by_handle_at"),
    *("ptrace", "process_vm_readv", "process_vm_writev", "bpf", "perf_event_open", "keyctl"),
    *("kexec_load", "kexec_file_load", "reboot", "swapon", "iopl", "ioperm", "mknod", "mknodat"),
    *("io_uring_setup", "userfaultfd", "settimeofday", "clock_settime", "sethostname"),
}
REFERENCE = Path(__file__).resolve().parents[3] / "docs/reference/privilege.md"


@pytest.fixture
def pod() -> DaemonPod:
    return DaemonPod.read()


def changed(pod: DaemonPod, change: Callable[[Object], Any]) -> DaemonPod:
    """Return the Pod with another spec; its first container is what `change` is given."""
    spec = copy.deepcopy(pod.spec)
    change(spec)
    return DaemonPod(spec=spec, seccomp=pod.seccomp)


def config(pod: DaemonPod) -> Object:
    volumes = {"config": Path("/node/config"), "tls": Path("/node/tls")}
    places = (Path("/usr/local"), Path("/opt/python"))
    return pod.runtime_config(("kmm-daemon",), volumes=volumes, places=places)


def test_daemon_has_nine_capabilities_and_is_not_privileged(pod: DaemonPod) -> None:
    assert set(pod.capabilities) == RIGHTS
    assert "privileged" not in pod.container["securityContext"]
    assert pod.container["securityContext"]["allowPrivilegeEscalation"] is False
    assert pod.spec["automountServiceAccountToken"] is False


def test_profile_refuses_what_it_does_not_list(pod: DaemonPod) -> None:
    assert pod.seccomp["defaultAction"] == "SCMP_ACT_ERRNO"
    rules = pod.seccomp["syscalls"]
    allowed = {
        name for rule in rules if rule["action"] == "SCMP_ACT_ALLOW" for name in rule["names"]
    }
    assert {"init_module", "finit_module", "delete_module", "syslog", "execve"} <= allowed
    assert allowed & NEVER == set()
    assert [rule["names"] for rule in rules if rule["action"] != "SCMP_ACT_ALLOW"] == [["clone3"]]


def test_every_right_is_explained(pod: DaemonPod) -> None:
    page = REFERENCE.read_text()
    mounts = [each["mountPath"] for each in pod.container["volumeMounts"]]
    assert mounts
    for thing in (*pod.capabilities, *mounts, "hostPID", "hostNetwork"):
        assert f"`{thing}`" in page, thing


def test_node_is_writable_where_the_manifest_says_so(pod: DaemonPod) -> None:
    mounts = {each["destination"]: each for each in config(pod)["mounts"]}
    assert mounts["/run/kmm"]["source"] == "/run/kmm"
    assert "rw" in mounts["/run/kmm"]["options"]
    assert "ro" in mounts["/lib/modules"]["options"]
    assert mounts["/etc/kmm-tls"]["source"] == "/node/tls"
    assert {"ro", "nosuid"} <= set(mounts["/sys"]["options"])


def test_image_is_read_only_and_has_what_lies_outside_of_it(pod: DaemonPod) -> None:
    made = config(pod)
    binds = [each["destination"] for each in made["mounts"] if each["type"] == "bind"]
    assert binds[:3] == ["/usr", "/etc", "/opt/python"]
    assert "/usr/local" not in binds
    assert made["root"]["readonly"] is True


def test_runtime_is_told_what_the_manifest_says(pod: DaemonPod) -> None:
    made = config(pod)
    assert {tuple(each) for each in made["process"]["capabilities"].values()} == {
        tuple(pod.capabilities)
    }
    assert made["process"]["noNewPrivileges"] is True
    assert made["linux"]["seccomp"] == pod.seccomp
    assert [each["type"] for each in made["linux"]["namespaces"]] == ["mount", "ipc"]


def test_pod_without_the_nodes_processes_and_network_has_its_own(pod: DaemonPod) -> None:
    alone = changed(pod, lambda spec: spec.update(hostPID=False, hostNetwork=False))
    namespaces = [each["type"] for each in config(alone)["linux"]["namespaces"]]
    assert namespaces == ["mount", "ipc", "network", "uts", "pid"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda spec: spec["containers"].append({}), "one container only"),
        (lambda spec: spec.update(initContainers=[{}]), "one container only"),
        (
            lambda spec: spec["containers"][0]["securityContext"]["capabilities"].update(drop=[]),
            "drop ALL",
        ),
        (
            lambda spec: spec["securityContext"].update(seccompProfile={"type": "RuntimeDefault"}),
            "no runtime's own seccomp profile",
        ),
        (
            lambda spec: spec["containers"][0]["securityContext"].update(privileged=True),
            "privileged",
        ),
    ],
)
def test_pod_that_the_sandbox_cannot_run_is_refused(
    pod: DaemonPod, change: Callable[[Object], Any], said: str
) -> None:
    with pytest.raises(SandboxError, match=said):
        config(changed(pod, change))


def test_bundle_is_made_anew_over_an_old_one(pod: DaemonPod, tmp_path: Path) -> None:
    make_bundle(tmp_path, {"old": True})
    make_bundle(tmp_path, config(pod))
    assert json.loads((tmp_path / "config.json").read_text()) == config(pod)
    assert (tmp_path / "rootfs/lib").readlink() == Path("usr/lib")


def test_environment_is_the_manifests(pod: DaemonPod) -> None:
    def change(spec: Object) -> None:
        spec["containers"][0]["env"] = [{"name": "KMM_DAEMON_LOG_FORMAT", "value": "json"}]

    said = config(changed(pod, change))["process"]["env"]
    assert "KMM_DAEMON_LOG_FORMAT=json" in said
    assert not any(one.startswith("PYTHONTZPATH=") for one in said)
    assert "PYTHONTZPATH=" in config(pod)["process"]["env"]
