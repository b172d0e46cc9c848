"""Files that are replaced all at once, as kubelet and cert-manager's CSI driver do it.

Every version has a directory of its own, `..data` is a symbolic link to the current one, and what
users open are links through `..data`: a rename of that link shows all of a new version in one step
(Kubernetes' AtomicWriter).
"""

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

_DATA = "..data"


def publish(directory: Path, files: Mapping[str, bytes]) -> None:
    """Replace the files of a directory, by name; their owner alone can read them. OSError."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    version = Path(tempfile.mkdtemp(prefix="..version.", dir=directory))
    try:
        for name, content in files.items():
            path = version / name
            path.touch(mode=0o600)
            path.write_bytes(content)
        _show(directory, version, files)
    except BaseException:
        shutil.rmtree(version, ignore_errors=True)
        raise
    _sweep(directory, version)


def _show(directory: Path, version: Path, names: Mapping[str, bytes]) -> None:
    link = directory / f"{_DATA}_tmp"
    link.unlink(missing_ok=True)
    link.symlink_to(version.name)
    link.replace(directory / _DATA)
    for name in names:
        seen = directory / name
        if not seen.is_symlink():
            seen.unlink(missing_ok=True)
            seen.symlink_to(f"{_DATA}/{name}")


def _sweep(directory: Path, current: Path) -> None:
    """Remove older versions, and what a process left that was killed while it wrote."""
    for each in directory.glob("..version.*"):
        if each != current:
            shutil.rmtree(each, ignore_errors=True)
