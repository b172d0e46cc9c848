"""python -m fuzz.replay TARGET DIRECTORY ...: give a target every file of these directories."""

import sys
from pathlib import Path

from fuzz.targets import TARGETS


def main() -> None:
    name, *directories = sys.argv[1:]
    for directory in map(Path, directories):
        for path in sorted(directory.iterdir()):
            TARGETS[name].run(path.read_bytes())


if __name__ == "__main__":
    main()
