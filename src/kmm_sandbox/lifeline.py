"""The pipe to the outer half: closed means that it is time to end."""

import select
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Lifeline:
    """The reading end."""

    descriptor: int

    def cut(self, *, within: float = 0.0) -> bool:
        """Tell whether the other side has closed, waiting so many seconds for it."""
        readable, _, _ = select.select([self.descriptor], [], [], within)
        return bool(readable)
