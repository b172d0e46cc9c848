"""Every name that users and other tools see: API group, labels, finalizers, reasons, events.

Names that upstream KMM has are upstream's.
"""

from enum import StrEnum

GROUP = "kmm.sigs.x-k8s.io"
VERSION = "v1beta1"
API_VERSION = f"{GROUP}/{VERSION}"
MODULES = "modules"
NODE_MODULES_STATES = "nodemodulesstates"

LABEL_DOMAIN = "kmm.node.kubernetes.io"
CONTAINS_MODULES_LABEL = "kmm.node.k8s.io/contains-modules"
MODULE_FINALIZER = f"{LABEL_DOMAIN}/module-finalizer"
TOLERATED_FAILURES_ANNOTATION = f"{LABEL_DOMAIN}/tolerated-failures"
"""On a Module: how many nodes, or which share (10%), may fail before it is Stalled."""
PAUSED_ANNOTATION = f"{LABEL_DOMAIN}/paused"
"""On a Module or a Node, "true": what nodes have of it, or the node has, stays as it is."""
RETRY_ANNOTATION = f"{LABEL_DOMAIN}/retry"
"""On a Module: when its value changes, every node that failed tries again at once."""
PULL_SECRET_ANNOTATION = f"{LABEL_DOMAIN}/pull-secret-version"
"""On a Module: the version of its pull Secret that nodes on which a pull failed are to try.

Written by the control plane.
"""

SPEC_HASH_ANNOTATION = f"{LABEL_DOMAIN}/spec-hash"
"""On a NodeModulesState: spec_hash() of what the control plane wrote there."""

_ORDERS = "version-module"
"""What the labels by which versions are ordered have where others have a namespace."""

LABEL_NAME_LENGTH = 63
"""Kubernetes' limit for the part of a label key behind the slash."""


def ready_label(namespace: str, name: str) -> str:
    """Return the label that says: this Module's module is in the kernel of the running boot."""
    return f"{LABEL_DOMAIN}/{namespace}.{name}.ready"


def version_ready_label(namespace: str, name: str) -> str:
    """Return the label that carries the version of the loaded module."""
    return f"{LABEL_DOMAIN}/{namespace}.{name}.version.ready"


def module_version_label(namespace: str, name: str) -> str:
    """Return the label by which an administrator orders a version onto a node."""
    return f"{LABEL_DOMAIN}/{_ORDERS}.{namespace}.{name}"


def parse_ready_label(key: str) -> tuple[str, str] | None:
    """Return (namespace, name) of a ready label, None for any other key.

    A namespace has no dots, a Module's name may have: the first dot separates them.
    """
    prefix, suffix = f"{LABEL_DOMAIN}/", ".ready"
    if not (key.startswith(prefix) and key.endswith(suffix)):
        return None
    namespace, _, name = key[len(prefix) : -len(suffix)].partition(".")
    if not namespace or not name or namespace == _ORDERS or name.endswith(".version"):
        return None
    return namespace, name


def parse_version_ready_label(key: str) -> tuple[str, str] | None:
    """Return (namespace, name) of a label with a loaded version, None for any other key."""
    stem = key.removesuffix(".version.ready")
    return parse_ready_label(f"{stem}.ready") if stem != key else None


def labels_are_own(namespace: str, name: str) -> bool:
    """Tell whether the Module's labels can be no label of another kind or Module.

    The ready label of `x.version` is the version label of `x`; those of a namespace
    version-module order versions.
    """
    return parse_ready_label(ready_label(namespace, name)) == (namespace, name)


def label_fits(key: str) -> bool:
    """Tell whether Kubernetes accepts the key's length."""
    return len(key.rpartition("/")[2]) <= LABEL_NAME_LENGTH


class Condition(StrEnum):
    """Types of conditions on Module and NodeModulesState."""

    READY = "Ready"
    RECONCILING = "Reconciling"
    STALLED = "Stalled"
    NOT_ACTED_ON = "NotActedOn"
    DELETION_WAITS = "DeletionWaits"
    PAUSED = "Paused"


class Event(StrEnum):
    """Reasons of events."""

    MODULE_LOADED = "ModuleLoaded"
    MODULE_UNLOADED = "ModuleUnloaded"
    MODULE_FAILED = "ModuleFailed"
    MODULE_UNREADABLE = "ModuleUnreadable"
    STATE_RESTORED = "StateRestored"
    SESSION_FLAPPING = "SessionFlapping"
    IDENTITY_REFUSED = "IdentityRefused"
    ANOTHER_KMM = "AnotherKMM"
    LEADER_ELECTION = "LeaderElection"
    DAEMON_SET_WRITTEN = "DaemonSetWritten"


class Reason(StrEnum):
    """Why a Module is not Loaded on a node, or a Module is not Ready.

    The first group is the daemon's, the second the control plane's; the third says why a node
    is not planned to have a Module.
    """

    KERNEL_MISMATCH = "KernelMismatch"
    CONFLICT = "Conflict"
    IMAGE_NOT_FOUND = "ImageNotFound"
    IMAGE_UNAUTHORIZED = "ImageUnauthorized"
    IMAGE_PULL_FAILED = "ImagePullFailed"
    IMAGE_INVALID = "ImageInvalid"
    IMAGE_WITHOUT_KERNEL = "ImageWithoutKernel"
    DIGEST_MISMATCH = "DigestMismatch"
    DISK_FULL = "DiskFull"
    FIRMWARE_CONFLICT = "FirmwareConflict"
    FIRMWARE_FAILED = "FirmwareFailed"
    FIRMWARE_MISSING = "FirmwareMissing"
    MODULE_NOT_FOUND = "ModuleNotFound"
    UNKNOWN_SYMBOL = "UnknownSymbol"
    WRONG_VERMAGIC = "WrongVermagic"
    SIGNATURE_REJECTED = "SignatureRejected"
    BAD_PARAMETER = "BadParameter"
    IN_USE = "InUse"
    BUILT_IN = "BuiltIn"
    LOADED_FROM_ELSEWHERE = "LoadedFromElsewhere"
    DEVICE_ERROR = "DeviceError"
    INVALID_MODULE = "InvalidModule"
    PERMISSION_DENIED = "PermissionDenied"
    TIMED_OUT = "TimedOut"
    STILL_RUNNING = "StillRunning"
    KILLED = "Killed"
    VANISHED = "Vanished"
    MODPROBE_FAILED = "ModprobeFailed"

    READY = "Ready"
    PROGRESSING = "Progressing"
    NODES_NOT_READY = "NodesNotReady"
    NODES_FAILED = "NodesFailed"
    NO_MATCHING_NODES = "NoMatchingNodes"
    NO_MATCHING_KERNEL = "NoMatchingKernel"
    NAME_TOO_LONG = "NameTooLong"
    NAME_RESERVED = "NameReserved"
    INVALID_TEMPLATE = "InvalidTemplate"
    INVALID_MAPPING = "InvalidMapping"
    FEATURE_NOT_AVAILABLE = "FeatureNotAvailable"
    WAITING_FOR_UNLOAD = "WaitingForUnload"
    TOLERATED_FAILURES = "ToleratedFailures"
    PAUSED = "Paused"
    NODES_PAUSED = "NodesPaused"
    INVALID_ANNOTATION = "InvalidAnnotation"

    DELETING = "Deleting"
    NO_MODULE_LOADER = "NoModuleLoader"
    SELECTOR_MISMATCH = "SelectorMismatch"
    CORDONED = "Cordoned"
    UNTOLERATED_TAINT = "UntoleratedTaint"
    VERSION_NOT_ORDERED = "VersionNotOrdered"
    VERSION_HELD = "VersionHeld"
