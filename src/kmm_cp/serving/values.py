"""What the serving side knows of a node: what it should have, and what its daemon says."""

from collections.abc import Mapping
from dataclasses import dataclass

from kmm_common.desired import DesiredModule, ModuleRef, ReportedModule


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """The persisted desired state of a node: spec and identity of its NodeModulesState."""

    uid: str
    generation: int
    modules: tuple[DesiredModule, ...]

    def by_ref(self) -> Mapping[ModuleRef, DesiredModule]:
        """Return the modules by their Module."""
        return {module.ref: module for module in self.modules}


@dataclass(frozen=True, slots=True, kw_only=True)
class Journaled:
    """The desired state that a daemon has journaled; empty without a journal of this boot."""

    uid: str = ""
    generation: int = 0
    content_hash: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The complete truth of a node; a Module that it omits has no module in the kernel."""

    sequence: int
    uid: str
    observed_generation: int
    modules: tuple[ReportedModule, ...]
    accepted_uid: str = ""
    accepted_generation: int = 0
    """The desired state that modules is about; of older daemons unknown."""

    @property
    def knows_the_boot(self) -> bool:
        """Tell whether it says anything of its boot.

        A daemon that has no journal of it and has accepted nothing yet does not know what there is.
        """
        return bool(self.accepted_uid or self.uid)


@dataclass(frozen=True, slots=True, kw_only=True)
class Greeting:
    """What a daemon opens a session with."""

    protocol_version: int
    """The newest one that both sides speak."""
    instance: str
    boot_id: str
    kernel_version: str
    daemon_version: str
    journaled: Journaled
    report: Report
