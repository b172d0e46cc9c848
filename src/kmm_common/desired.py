"""The desired and the reported state of a node: the values that walk through the whole product.

The control plane plans `DesiredModule`s, stores them in `NodeModulesState.spec.modules`, sends
them over the wire, and the daemon carries them out; `ReportedModule`s come back the same way into
`NodeModulesState.status.modules`. The fields are declared once, here; `kmm_common.api` derives
the CRD from them and `kmm_common.wire` the messages. No pydantic here: the daemon imports it.
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, fields, is_dataclass
from enum import StrEnum
from typing import Any

MESSAGE_BYTES = 512
KERNEL_LOG_LINES = 10
KERNEL_LOG_BYTES = 1024


@dataclass(frozen=True, slots=True, order=True)
class ModuleRef:
    """Namespace and name of a Module."""

    namespace: str
    name: str

    @classmethod
    def parse(cls, text: str) -> "ModuleRef":
        """Return the ref that prints as "namespace/name"."""
        namespace, _, name = text.partition("/")
        return cls(namespace, name)

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistryTLS:
    """How the registry of an image is spoken to."""

    insecure: bool = False
    """Plain HTTP."""
    insecure_skip_tls_verify: bool = False
    """HTTPS without verifying the certificate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModprobeArgs:
    """Arguments for the two directions of modprobe."""

    load: tuple[str, ...] = ()
    """For loading."""
    unload: tuple[str, ...] = ()
    """For unloading."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Modprobe:
    """How modprobe is called; upstream's ModprobeSpec."""

    module_name: str = ""
    """Empty only with rawArgs."""
    dir_name: str = "/opt"
    """Directory of the image that holds lib/modules/<kernel>: modprobe -d."""
    parameters: tuple[str, ...] = ()
    """Module parameters, name=value."""
    args: ModprobeArgs = ModprobeArgs()
    """Options put before the module's name."""
    raw_args: ModprobeArgs = ModprobeArgs()
    """The whole command line after the program's name; everything else is ignored."""
    firmware_path: str = ""
    """Directory of the image whose content is copied to the host's firmware directory."""
    modules_loading_order: tuple[str, ...] = ()
    """First the module itself, then what must be loaded before it, each before its left one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DesiredModule:
    """One Module on one node: an entry of NodeModulesState.spec.modules."""

    namespace: str
    """metadata.namespace of the Module."""
    name: str
    """metadata.name of the Module."""
    uid: str
    """metadata.uid of the Module."""
    kernel_version: str
    """The kernel this entry is for, as uname -r prints it; on another one it is left alone."""
    image: str
    """Image reference, variables replaced."""
    image_digest: str = ""
    """sha256:<hex>; empty while the control plane could not resolve the image."""
    image_pull_policy: str = "IfNotPresent"
    """Always, IfNotPresent or Never."""
    pull_secret: str = ""
    """Name of a Secret in the Module's namespace; its content is never stored."""
    registry_tls: RegistryTLS = RegistryTLS()
    """How the registry of the image is spoken to."""
    in_tree_modules_to_remove: tuple[str, ...] = ()
    """Modules of the kernel's own tree that are unloaded before the load. KMM does not bring them
    back: modprobe by hand or a reboot does."""
    modprobe: Modprobe = Modprobe()
    """How modprobe is called."""
    config_hash: str = ""
    """Hash of what of this entry reaches the kernel."""
    conflicts_with: str = ""
    """namespace/name of the Module that owns the same kernel module on this node."""
    version: str = ""
    """spec.moduleLoader.container.version of the Module."""
    retry: str = ""
    """Another one than before ends what a failure holds off; it reaches no kernel."""

    @property
    def ref(self) -> ModuleRef:
        return ModuleRef(self.namespace, self.name)


class ModuleState(StrEnum):
    """Where a Module is on a node."""

    PENDING = "Pending"
    PULLING = "Pulling"
    LOADING = "Loading"
    LOADED = "Loaded"
    UNLOADING = "Unloading"
    FAILED = "Failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModuleFailure:
    """Why a Module is not where it should be."""

    reason: str
    """One word, as in docs/reference/reasons.md."""
    message: str
    """What failed, and what to do; at most 512 bytes."""
    exit_code: int | None = None
    """modprobe's, where it ended with one."""
    kernel_log: tuple[str, ...] = ()
    """What the kernel said meanwhile; at most 10 lines and 1 KiB."""

    def bounded(self) -> "ModuleFailure":
        """Return a copy that fits the bounds of NodeModulesState.status."""
        lines: list[str] = []
        left = KERNEL_LOG_BYTES
        for line in self.kernel_log[-KERNEL_LOG_LINES:]:
            kept = cut(line, left)
            left -= len(kept.encode())
            if kept:
                lines.append(kept)
        return ModuleFailure(
            reason=self.reason,
            message=cut(self.message, MESSAGE_BYTES),
            exit_code=self.exit_code,
            kernel_log=tuple(lines),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportedModule:
    """What a daemon says about one Module: an entry of NodeModulesState.status.modules."""

    namespace: str
    name: str
    uid: str
    state: ModuleState
    in_kernel: bool = False
    """True while the Module's module is in the running kernel, whatever its config; also while one
    of its name is, and the image is not there yet that can tell whose it is."""
    image_digest: str = ""
    """Of what is in the kernel; of what is being brought there while nothing is."""
    config_hash: str = ""
    attempts: int = 0
    since_ms: int = 0
    """Unix time in milliseconds of the last change of state."""
    error: ModuleFailure | None = None
    retrying: bool = False
    """Failed, and the daemon will try again by itself."""
    warning: str = ""
    """What is not as its user thinks, of what is in the kernel: a parameter that it ignores."""

    @property
    def ref(self) -> ModuleRef:
        return ModuleRef(self.namespace, self.name)


def config_hash(module: DesiredModule, *, image_digest: str | None = None) -> str:
    """Return the hash of what reaches the kernel: digest, names, parameters, order, firmware.

    `image_digest` replaces the entry's own, for an entry that was resolved on the node. Pull
    policy, secret, image name and the Module's uid are left out: they reload nothing.
    """
    content = {
        "digest": module.image_digest if image_digest is None else image_digest,
        "kernel": module.kernel_version,
        "inTree": module.in_tree_modules_to_remove,
        "modprobe": _said(module.modprobe),
    }
    return hashlib.sha256(_canonical(content)).hexdigest()[:32]


def content_hash(modules: Iterable[DesiredModule]) -> bytes:
    """Return the SHA-256 over a whole desired state, whatever the order of its modules."""
    ordered = sorted(modules, key=lambda module: module.ref)
    return hashlib.sha256(_canonical([_said(module) for module in ordered])).digest()


def _said(value: Any) -> Any:
    """Return a dataclass as a dict without what has its default.

    So no hash changes when a release adds a field: control planes and daemons of two releases work
    together, and an upgrade reloads nothing.
    """
    if not is_dataclass(value):
        return value
    given = {field: getattr(value, field.name) for field in fields(value)}
    return {field.name: _said(one) for field, one in given.items() if one != field.default}


def _canonical(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def cut(text: str, limit: int) -> str:
    """Return as much of the start of a text as fits into so many bytes."""
    return text.encode()[: max(limit, 0)].decode(errors="ignore")
