"""What the daemon's DaemonSet should be, by the template that an administrator has applied."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kmm_common.errors import TerminalError

Object = dict[str, Any]

APP = "app.kubernetes.io/name"
PART_OF = {"app.kubernetes.io/part-of": "kmm"}
RESTARTED = "kubectl.kubernetes.io/restartedAt"
"""What `kubectl rollout restart` writes; taken away it would restart every daemon once more."""
MIN_READY_SECONDS = 10
"""How long a daemon must have run before a rollout goes on to the next node. One that ends at its
start, of a wrong image or setting, is Ready until then."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """Who the DaemonSet is, and whose."""

    name: str
    namespace: str
    max_unavailable: str
    """A number, or a percentage."""
    template: str
    """Name of the PodTemplate."""
    deployment: str
    """The control plane's."""


def new(wish: Wish, template: Mapping[str, Any], owner_uid: str) -> Object:
    """Return the DaemonSet of a v1 PodTemplate. TerminalError if that has no label to select by."""
    made = _template(template["template"])
    app = made["metadata"]["labels"].get(APP)
    if not app:
        raise TerminalError(
            f"PodTemplate {template['metadata']['name']}: set the label {APP} in"
            " template.metadata.labels, by which the DaemonSet selects its Pods",
            reason="InvalidTemplate",
        )
    return {
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": {
            "name": wish.name,
            "namespace": wish.namespace,
            "labels": {APP: app, **PART_OF},
            "ownerReferences": [_owner(wish, owner_uid)],
        },
        "spec": {
            "selector": {"matchLabels": {APP: app}},
            "template": made,
            "updateStrategy": _strategy(wish, {}),
            "minReadySeconds": MIN_READY_SECONDS,
        },
    }


def update(
    wish: Wish, template: Mapping[str, Any], owner_uid: str, current: Mapping[str, Any]
) -> Object | None:
    """Return what the DaemonSet is to be replaced by; None if it is as it should be.

    Labels, annotations and owners of others stay. TerminalError if another controller owns it.
    """
    wanted = new(wish, template, owner_uid)
    metadata, spec = current["metadata"], current["spec"]
    before = _template(spec["template"])
    made = wanted["spec"]["template"]
    if restarted := before["metadata"]["annotations"].get(RESTARTED):
        made["metadata"]["annotations"].setdefault(RESTARTED, restarted)
    labels = {**metadata.get("labels", {}), **wanted["metadata"]["labels"]}
    owners = _owners(wish, owner_uid, metadata)
    strategy = _strategy(wish, spec.get("updateStrategy", {}))
    if (
        before == made
        and spec.get("updateStrategy") == strategy
        and spec.get("minReadySeconds") == MIN_READY_SECONDS
        and metadata.get("labels") == labels
        and metadata.get("ownerReferences") == owners
    ):
        return None
    return {
        **wanted,
        "metadata": {**metadata, "labels": labels, "ownerReferences": owners},
        # The selector cannot change.
        "spec": {
            **spec,
            "template": made,
            "updateStrategy": strategy,
            "minReadySeconds": MIN_READY_SECONDS,
        },
    }


def _template(template: Mapping[str, Any]) -> Object:
    """Return a template with what counts of its metadata, for comparison and for writing."""
    metadata = template.get("metadata") or {}
    kept = {key: dict(metadata.get(key) or {}) for key in ("labels", "annotations")}
    return {"metadata": kept, "spec": template["spec"]}


def _strategy(wish: Wish, current: Mapping[str, Any]) -> Object:
    most = wish.max_unavailable
    rolling = {**(current.get("rollingUpdate") or {})}
    rolling["maxUnavailable"] = int(most) if most.isdigit() else most
    return {"type": "RollingUpdate", "rollingUpdate": rolling}


def _owner(wish: Wish, uid: str) -> Object:
    """Return us as the owner; blockOwnerDeletion would need a right to the owner's finalizers."""
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "name": wish.deployment,
        "uid": uid,
        "controller": True,
    }


def _owners(wish: Wish, uid: str, metadata: Mapping[str, Any]) -> list[Object]:
    """Return all owners; a Deployment of our name and another uid is one that was before us."""
    ours = ("Deployment", wish.deployment)
    others = [
        owner
        for owner in metadata.get("ownerReferences") or ()
        if (owner["kind"], owner["name"]) != ours
    ]
    for owner in others:
        if owner.get("controller"):
            raise TerminalError(
                f"DaemonSet {wish.name} belongs to {owner['kind']} {owner['name']}: delete it, or"
                " leave daemon_template empty",
                reason="OwnedByAnother",
            )
    return [*others, _owner(wish, uid)]
