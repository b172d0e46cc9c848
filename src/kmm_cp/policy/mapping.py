"""Which kernel mapping is for a kernel: the first that matches."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import re2

from kmm_common.api.module import KernelMapping, Module, ModuleLoaderContainer
from kmm_common.api.names import Reason
from kmm_common.errors import TerminalError
from kmm_cp.policy.kernel import trimmed

CONTAINER = "spec.moduleLoader.container"


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """The mapping that a kernel gets, in its container."""

    container: ModuleLoaderContainer
    index: int

    @property
    def mapping(self) -> KernelMapping:
        return self.container.kernel_mappings[self.index]

    @property
    def path(self) -> str:
        """Where it is in the Module."""
        return f"{CONTAINER}.kernelMappings[{self.index}]"


def mapping_for(module: Module, kernel_version: str) -> Match | None:
    """Return the first mapping that matches a kernel, given as uname -r prints it.

    Raises TerminalError, which names the field, for a regexp that RE2 does not take.
    """
    loader = module.spec.module_loader
    if loader is None:
        return None
    kernel = trimmed(kernel_version)
    candidates = range(len(loader.container.kernel_mappings))
    matches = (Match(container=loader.container, index=index) for index in candidates)
    return next((match for match in matches if _is_for(match, kernel)), None)


def _is_for(match: Match, kernel: str) -> bool:
    mapping = match.mapping
    if mapping.literal and mapping.literal == kernel:
        return True
    try:
        return bool(mapping.regexp) and _compiled(mapping.regexp).search(kernel) is not None
    except re2.error as error:
        raise TerminalError(
            f"{match.path}.regexp: {mapping.regexp!r} is not an RE2 expression: {_text(error)}",
            reason=Reason.INVALID_MAPPING,
        ) from error


@lru_cache(maxsize=1024)
def _compiled(regexp: str) -> Any:
    options = re2.Options()
    options.log_errors = False
    return re2.compile(regexp, options)


def _text(error: Exception) -> str:
    told = error.args[0] if error.args else ""
    return told.decode(errors="replace") if isinstance(told, bytes) else str(told)
