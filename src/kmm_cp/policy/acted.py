"""Fields of a Module that this version accepts, and does not act on yet."""

from collections.abc import Iterator

from kmm_common.api import names
from kmm_common.api.module import KernelMapping, Module, ModuleLoaderContainer
from kmm_cp.policy.conditions import Condition
from kmm_cp.policy.mapping import CONTAINER


def not_acted_on(module: Module) -> Condition | None:
    """Return the condition that names such fields, None if there are none."""
    fields = list(_fields(module))
    if not fields:
        return None
    return Condition(
        type=names.Condition.NOT_ACTED_ON,
        status=True,
        reason=names.Reason.FEATURE_NOT_AVAILABLE,
        message=f"accepted, but this version does not act on it yet: {', '.join(fields)}",
    )


def _fields(module: Module) -> Iterator[str]:
    spec = module.spec
    if spec.module_loader:
        yield from _container_fields(spec.module_loader.container)
    if spec.device_plugin:
        yield "spec.devicePlugin"
    if spec.dra:
        yield "spec.dra"
    if spec.image_rebuild_trigger_generation is not None:
        yield "spec.imageRebuildTriggerGeneration"


def _container_fields(container: ModuleLoaderContainer) -> Iterator[str]:
    yield from _build_fields(CONTAINER, container)
    for index, mapping in enumerate(container.kernel_mappings):
        yield from _build_fields(f"{CONTAINER}.kernelMappings[{index}]", mapping)


def _build_fields(path: str, source: ModuleLoaderContainer | KernelMapping) -> Iterator[str]:
    if source.build:
        yield f"{path}.build"
    if source.sign:
        yield f"{path}.sign"
