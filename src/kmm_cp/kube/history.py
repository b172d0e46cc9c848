"""What the informers of one program tell each other of the server's history."""

from collections.abc import Callable


class History:
    """Told by the informer that finds the server put back, on behalf of all.

    Only a collection whose newest change was undone shows it. Of another one nothing is missing at
    first; but what changes there, until the server has counted up to where a watch goes on, that
    watch never brings.
    """

    def __init__(self) -> None:
        self._followers: list[Callable[[], None]] = []

    def follow(self, broke: Callable[[], None]) -> None:
        """Call it, synchronously, when the server was put back."""
        self._followers.append(broke)

    def broke(self) -> None:
        """Nothing of what any informer knows is certain any more."""
        for follower in self._followers:
            follower()
