"""What containers of real kubelets have logged, also those whose Pods are gone.

A kubelet removes the logs of a Pod soon after the Pod, and those of a container that has ended
when a second one has. So every file is given another name as soon as it is seen, on the same file
system: it grows on under that one.
"""

import contextlib
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

LOOK_SECONDS = 0.2
PARTIAL = "P"
"""Tag of a line in the log of a container that the next one goes on with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PodLogs:
    """Of the nodes whose kubelets write below these directories."""

    places: dict[str, Path]
    """By node, the directory that has one directory for each Pod."""
    kept: Path
    _ended: threading.Event = field(default_factory=threading.Event)

    def start(self) -> threading.Thread:
        """Look for new files until stop(); return the thread, which is to be joined then."""
        looks = threading.Thread(target=self._look, name="pod-logs")
        looks.start()
        return looks

    def stop(self) -> None:
        self._ended.set()

    def of(self, node: str, program: str) -> list[Path]:
        """Return files with what containers of a node's Pods have logged, in their order.

        One directory a Pod. `program` is the label that Pods' names begin with.
        """
        self._keep_new()
        files = list((self.kept / node).glob(f"*_{program}-*/*.log"))
        lines = {file: list(unwrapped(file.read_text(errors="replace"))) for file in files}
        told = sorted((file for file in files if lines[file]), key=lambda file: lines[file][0])
        return [self._written(file, [text for _, text in lines[file]]) for file in told]

    def _written(self, file: Path, texts: list[str]) -> Path:
        """Write the lines as the container wrote them; return the file."""
        plain = file.with_suffix(".txt")
        plain.write_text("".join(f"{text}\n" for text in texts))
        return plain

    def _look(self) -> None:
        while not self._ended.wait(LOOK_SECONDS):
            self._keep_new()

    def _keep_new(self) -> None:
        for node, place in self.places.items():
            for log in place.glob("*/*/*.log*"):
                # A packed one is the copy of one that has been seen.
                if log.suffix not in (".gz", ".tmp"):
                    with contextlib.suppress(FileNotFoundError):
                        self._keep(node, place, log)

    def _keep(self, node: str, place: Path, log: Path) -> None:
        """Give a file a name of ours; one that was renamed, as it was full, has one already."""
        pod = log.relative_to(place).parts[0]
        ours = self.kept / node / pod / f"{log.stat().st_ino}.log"
        ours.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            os.link(log, ours)


def unwrapped(text: str) -> Iterator[tuple[str, str]]:
    """Yield the moment of each line in a container's log, and the line.

    Of what is still being written nothing. See Kubernetes' design proposal of the CRI log format:
    `<RFC 3339> <stream> <P or F> <text>`.
    """
    begun: dict[str, str] = {}
    for row in text.split("\n")[:-1]:
        moment, stream, tag, said = row.split(" ", 3)
        begun[stream] = begun.get(stream, "") + said
        if tag != PARTIAL:
            yield moment, begun.pop(stream)
