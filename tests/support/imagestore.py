"""An image store of one node in front of a registry that lies."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from kmm_common.backoff import Backoff
from kmm_common.clock import SystemClock
from kmm_common.desired import DesiredModule, ModuleRef
from kmm_common.oci.credentials import RegistryCredential
from kmm_common.oci.platform import Platform
from kmm_common.oci.transport import Timeouts
from kmm_daemon.images.limits import GIB, PullLimits, UnpackLimits
from kmm_daemon.images.source import ImageStore

LIMITS = PullLimits(timeouts=Timeouts(connect=2.0, read=0.3), total_seconds=20.0)


@dataclass
class Secrets:
    """The control plane's answers about pull secrets, newest last."""

    answers: list[Sequence[RegistryCredential] | Exception] = field(default_factory=list)
    asked: list[tuple[ModuleRef, bool]] = field(default_factory=list)

    async def fetch(self, ref: ModuleRef, refresh: bool) -> Sequence[RegistryCredential]:
        self.asked.append((ref, refresh))
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


class HastyClock(SystemClock):
    """Sleeps nothing, and notes how long it should have."""

    def __init__(self) -> None:
        self.slept: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)


@dataclass
class Node:
    """The parts of a node that the image store needs."""

    directory: Path
    secrets: Secrets = field(default_factory=Secrets)
    desired: list[DesiredModule] = field(default_factory=list)
    clock: HastyClock = field(default_factory=HastyClock)

    def store(
        self,
        *,
        max_bytes: int = GIB,
        limits: PullLimits = LIMITS,
        unpack_limits: UnpackLimits | None = None,
        ca_file: Path | None = None,
    ) -> ImageStore:
        """Return the store as a freshly started daemon makes it."""
        return ImageStore(
            self.directory,
            credentials=self.secrets,
            desired=lambda: self.desired,
            clock=self.clock,
            max_bytes=max_bytes,
            platform=Platform(architecture="amd64"),
            pull_limits=limits,
            unpack_limits=unpack_limits,
            ca_file=ca_file,
            backoff=Backoff(base=1.0, cap=300.0, jitter=0.0),
        )

    def leftovers(self) -> list[Path]:
        """Return what is left of work in progress."""
        return list((self.directory / "tmp").iterdir())
