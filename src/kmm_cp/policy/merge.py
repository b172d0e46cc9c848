"""What a kernel mapping says, over what the container says for all mappings."""

from dataclasses import dataclass

from kmm_common.desired import RegistryTLS
from kmm_cp.policy.mapping import CONTAINER, Match


@dataclass(frozen=True, slots=True, kw_only=True)
class Merged:
    """Where a kmod image is and what its module replaces, for one mapping."""

    image: str
    """A template."""
    image_field: str
    """Path of the field that the image is from."""
    registry_tls: RegistryTLS
    in_tree_modules_to_remove: tuple[str, ...]


def merged(match: Match) -> Merged:
    """Merge a mapping over its container."""
    mapping, container = match.mapping, match.container
    return Merged(
        image=mapping.container_image or container.container_image,
        image_field=f"{match.path if mapping.container_image else CONTAINER}.containerImage",
        registry_tls=_registry_tls(match),
        in_tree_modules_to_remove=_in_tree(match),
    )


def _registry_tls(match: Match) -> RegistryTLS:
    """The mapping's replaces the container's as a whole."""
    spec = match.mapping.registry_tls or match.container.registry_tls
    if spec is None:
        return RegistryTLS()
    return RegistryTLS(
        insecure=spec.insecure, insecure_skip_tls_verify=spec.insecure_skip_tls_verify
    )


def _in_tree(match: Match) -> tuple[str, ...]:
    """An empty list in the mapping counts, too: that kernel has nothing to remove."""
    for source in (match.mapping, match.container):
        if source.in_tree_module_to_remove:
            return (source.in_tree_module_to_remove,)
        if "in_tree_modules_to_remove" in source.model_fields_set:
            return source.in_tree_modules_to_remove
    return ()
