"""What may have changed, where a Module fails, that no object of ours tells: Secret and tag."""

from collections.abc import Iterable, Iterator

from kmm_common.api.module import Module
from kmm_common.api.names import PULL_SECRET_ANNOTATION, Reason
from kmm_common.desired import DesiredModule
from kmm_common.oci.reference import parse_reference
from kmm_cp.policy.digests import ImageKey, image_key
from kmm_cp.policy.pause import module_pause
from kmm_cp.policy.truth import is_loaded
from kmm_cp.policy.values import NodeState

_SECRET_MAY_HELP = frozenset({Reason.IMAGE_UNAUTHORIZED, Reason.IMAGE_NOT_FOUND})
"""Some registries say of a repository that it is not there to whoever may not read it."""
_IMAGE_MAY_HELP = frozenset(
    {
        Reason.IMAGE_NOT_FOUND,
        Reason.IMAGE_INVALID,
        Reason.IMAGE_WITHOUT_KERNEL,
        Reason.DIGEST_MISMATCH,
        Reason.FIRMWARE_MISSING,
        Reason.MODULE_NOT_FOUND,
        Reason.UNKNOWN_SYMBOL,
        Reason.WRONG_VERMAGIC,
        Reason.SIGNATURE_REJECTED,
        Reason.INVALID_MODULE,
    }
)


def secret_to_follow(module: Module) -> str:
    """Return the name of the Secret whose change lets nodes try again; empty for none."""
    secret = module.spec.image_repo_secret
    if secret is None or module.deleting or module_pause(module).on:
        return ""
    failures = module.status.get("failures") or ()
    return secret.name if any(row["reason"] in _SECRET_MAY_HELP for row in failures) else ""


def is_told(module: Module, version: str) -> bool:
    """Tell whether nodes were told to try with a version of the Secret; one is empty if unknown."""
    return version in ("", module.metadata.annotations.get(PULL_SECRET_ANNOTATION))


def images_in_doubt(module: Module, states: Iterable[NodeState]) -> list[DesiredModule]:
    """Return an entry for each image whose digest failed on nodes and is loaded on none.

    Where a node has it loaded, all nodes stay with that digest: they load the same bytes.
    """
    if module.deleting or module_pause(module).on:
        return []
    failed: dict[ImageKey, DesiredModule] = {}
    loaded: set[ImageKey] = set()
    for entry, state in _pinned(module, states):
        report = state.report_of(entry.ref)
        if is_loaded(entry, report, state):
            loaded.add(image_key(entry))
        elif report and report.error and report.error.reason in _IMAGE_MAY_HELP and state.accepted:
            failed.setdefault(image_key(entry), entry)
    return [entry for key, entry in failed.items() if key not in loaded]


def _pinned(
    module: Module, states: Iterable[NodeState]
) -> Iterator[tuple[DesiredModule, NodeState]]:
    for state in states:
        entry = state.entry(module.ref) if state.intact else None
        if entry is None or entry.uid != module.metadata.uid or not entry.image_digest:
            continue
        if not parse_reference(entry.image).digest:
            yield entry, state
