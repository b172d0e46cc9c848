"""Builds the images of both programs and writes what they are made of: `python -m images.build`.

Asks no registry: the base is made of Debian packages, wheels are downloaded by their hashes. What
was built of the same content before is taken from the cache.
"""

import argparse
import fcntl
import hashlib
import json
import os
import platform
import shutil
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from images.base import base
from images.layout import Image
from images.sbom import sbom
from kmm_sandbox.cache import cache_directory
from kmm_sandbox.errors import SandboxError
from kmm_sandbox.machine import install_missing
from kmm_sandbox.processes import run
from kmm_sandbox.progress import Progress

REPOSITORY = Path(__file__).resolve().parents[1]
PROGRAMS = {"buildah": "buildah", "mmdebstrap": "mmdebstrap"}
NAMES = ("cp", "daemon")
LIMIT_SECONDS = 1800.0
POLICY = {"default": [{"type": "insecureAcceptAnything"}]}
"""What is pulled by whom is decided by containers-policy.json(5); nothing is pulled here."""
KEPT = 8
"""Images of a name in the cache, of some 50 MiB each; more than there are checkouts at work."""
PYTHON = "3.11"
GLIBC_MINORS = range(36, 16, -1)
"""Of glibc 2.x, from Debian 12's down: pip takes a wheel for the first, there as here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """An image and its bill of materials, as files."""

    name: str
    archive: Path
    sbom: Path

    @property
    def image(self) -> Image:
        return Image.read(self.archive)


@dataclass(frozen=True, slots=True, kw_only=True)
class Builder:
    """Builds images with a storage of its own, which goes with it."""

    cache: Path
    progress: Progress
    mirror: str | None = None
    fresh_base: bool = False
    labels: tuple[str, ...] = ()
    epoch: int = 0
    """Time of all files and of the images, seconds since 1970."""
    base_tar: Path = field(init=False)

    def __post_init__(self) -> None:
        self.cache.mkdir(parents=True, exist_ok=True)
        with self._alone(), self.progress.step("base of Debian packages"):
            path = base(self.cache, self.mirror, fresh=self.fresh_base)
        object.__setattr__(self, "base_tar", path)

    def build(self, name: str) -> Built:
        """Return the image of cp or daemon, from the cache if it is there. Raises SandboxError."""
        with self._alone() as scratch:
            context = self._context(name, scratch)
            place = self.cache / f"kmm-{name}-{self._key(context)}"
            if not place.exists():
                self._build(name, scratch).rename(place)
                self._forget(name)
        return _built(name, place)

    def build_anew(self, name: str, place: Path) -> Built:
        """Build an image, whatever is in the cache, into a directory. Raises SandboxError."""
        with self._alone() as scratch:
            self._context(name, scratch)
            shutil.move(self._build(name, scratch), place)
        return _built(name, place)

    @contextmanager
    def _alone(self) -> Iterator[Path]:
        """Hold the cache against other builders; yield a directory that is gone afterwards."""
        with (self.cache / ".lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self.progress.say("another build is in progress: waiting for it")
                fcntl.flock(lock, fcntl.LOCK_EX)
            for left in self.cache.glob("partial-*"):
                shutil.rmtree(left)
            with tempfile.TemporaryDirectory(prefix="partial-", dir=self.cache) as scratch:
                yield Path(scratch)

    def _context(self, name: str, scratch: Path) -> Path:
        context = scratch / "context"
        make_context(context, name, wheels(self.cache, name))
        return context

    def _forget(self, name: str) -> None:
        """Keep the newest images of a name only."""
        places = sorted(self.cache.glob(f"kmm-{name}-*"), key=lambda place: place.stat().st_mtime)
        for place in places[:-KEPT]:
            shutil.rmtree(place)

    def _key(self, context: Path) -> str:
        """Return a hash of all that an image is built of."""
        state = hashlib.sha256(f"{self.labels} {self.epoch}".encode())
        state.update(_digest(self.base_tar).encode())
        for path in _files(context):
            mode = path.stat().st_mode
            state.update(f"{path.relative_to(context)} {mode:o} {_digest(path)}\n".encode())
        return state.hexdigest()[:16]

    def _build(self, name: str, scratch: Path) -> Path:
        """Return a directory with the archive and the SBOM of what is built of the context."""
        reference, place = f"localhost/kmm-{name}:{project_version()}", scratch / "built"
        place.mkdir()
        with self.progress.step(f"image kmm-{name}"):
            buildah = _Buildah(scratch)
            based = buildah.imported(self.base_tar)
            buildah("build", "--tag", reference, *self._arguments(name, scratch / "context", based))
            buildah("push", reference, f"oci-archive:{place / _archive(name)}:{reference}")
        image = Image.read(place / _archive(name))
        document = sbom(image, name=f"kmm-{name}", version=project_version())
        (place / _sbom(name)).write_text(f"{json.dumps(document, indent=1)}\n")
        return place

    def _arguments(self, name: str, context: Path, based: str) -> list[str]:
        labels = (f"org.opencontainers.image.version={project_version()}", *self.labels)
        return [
            *("--isolation", "chroot", "--format", "oci", "--timestamp", str(self.epoch)),
            # Its own version is no part of what an image is.
            "--identity-label=false",
            *("--build-arg", f"BASE={based}", "--build-arg", "PIP_NO_INDEX=1"),
            *("--build-arg", f"SOURCE_DATE_EPOCH={self.epoch}"),
            *(part for label in labels for part in ("--label", label)),
            *("--file", str(context / "images" / f"{name}.Containerfile"), str(context)),
        ]


class _Buildah:
    """buildah with images and containers below a directory of its own."""

    def __init__(self, scratch: Path) -> None:
        self._policy = scratch / "policy.json"
        self._policy.write_text(json.dumps(POLICY))
        # Works on every file system, also where one overlay would lie upon another.
        storage = ("--storage-driver", "vfs", "--root", str(scratch / "storage"))
        (scratch / "tmp").mkdir()
        self._start = (
            *("env", f"TMPDIR={scratch / 'tmp'}"),
            *("buildah", *storage, "--runroot", str(scratch / "run")),
        )

    def __call__(self, command: str, *arguments: str) -> str:
        policy = ("--signature-policy", str(self._policy))
        argv = [*self._start, command, *policy, *arguments]
        return run(argv, limit=LIMIT_SECONDS).strip()

    def imported(self, tar: Path) -> str:
        """Make an image of a root directory in a tar file and return its name."""
        container = self("from", "scratch")
        run([*self._start, "add", container, str(tar), "/"], limit=LIMIT_SECONDS)
        name = "localhost/kmm-base:debian"
        self("commit", "--rm", container, name)
        return name


def make_context(context: Path, name: str, downloaded: Path) -> None:
    """Write all that a build may see: its own program's sources only, and its wheels."""
    for part in (f"src/kmm_{name}", "src/kmm_common", "images"):
        shutil.copytree(
            REPOSITORY / part,
            context / part,
            ignore=shutil.ignore_patterns("__pycache__", "wheels"),
        )
    for part in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / part, context / part)
    shutil.copytree(downloaded, context / "images/wheels")


def wheels(cache: Path, name: str) -> Path:
    """Return a directory with the wheels that an image's lock files have the hashes of."""
    locks = [REPOSITORY / "images" / f"{each}.lock" for each in (name, "build")]
    state = [*map(_digest, locks), *_tags()]
    place = cache / f"wheels-{hashlib.sha256(repr(state).encode()).hexdigest()[:16]}"
    if not place.exists():
        with tempfile.TemporaryDirectory(prefix="partial-", dir=cache) as scratch:
            partial = Path(scratch, "wheels")
            for lock in locks:
                run(_download(lock, partial), limit=LIMIT_SECONDS)
            if not place.exists():
                partial.rename(place)
    return place


def _download(lock: Path, to: Path) -> list[str]:
    return [
        *(sys.executable, "-m", "pip", "download", "-q", "--disable-pip-version-check"),
        *("--no-deps", "--only-binary=:all:", "--require-hashes", "-r", str(lock), "-d", str(to)),
        *_tags(),
    ]


def _tags() -> list[str]:
    """Return pip's options for wheels for the base's Python, whichever runs this."""
    machine = platform.machine()
    systems = [f"manylinux_2_{minor}_{machine}" for minor in GLIBC_MINORS]
    return [
        *(f"--python-version={PYTHON}", "--implementation=cp"),
        *(f"--platform={tag}" for tag in (*systems, f"manylinux2014_{machine}")),
        *("--abi=cp311", "--abi=abi3", "--abi=none"),
    ]


def project_version() -> str:
    """Return the version that pyproject.toml gives."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    return str(project["version"])


def image_cache() -> Path:
    """Return where images, and what they are made of, are kept."""
    return cache_directory() / "images"


def _built(name: str, place: Path) -> Built:
    return Built(name=f"kmm-{name}", archive=place / _archive(name), sbom=place / _sbom(name))


def _archive(name: str) -> str:
    return f"kmm-{name}.oci.tar"


def _sbom(name: str) -> str:
    return f"kmm-{name}.cdx.json"


def _files(directory: Path) -> Iterator[Path]:
    yield from sorted(path for path in directory.rglob("*") if path.is_file())


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def summary(built: Built) -> str:
    """Return one line: name, digest, and what a node pulls and unpacks."""
    image = built.image
    pulled, unpacked = image.compressed_bytes, sum(each.size for each in image.members())
    sizes = f"{pulled / 2**20:.1f} MiB, unpacked {unpacked / 2**20:.1f} MiB"
    return f"{built.name}@{image.digest}\n  {sizes}\n  {built.archive}\n  {built.sbom}"


def _epoch() -> int:
    """Return the time that all files get, in seconds. Raises SandboxError."""
    given = os.environ.get("SOURCE_DATE_EPOCH", "0")
    if not (given.isascii() and given.isdigit()):
        raise SandboxError(f"SOURCE_DATE_EPOCH: {given!r} is no number of seconds since 1970")
    return int(given)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="name", help="cp, daemon; both if none")
    parser.add_argument("--output", type=Path, help="directory to copy archives and SBOMs to")
    parser.add_argument(
        "--mirror", help="of Debian packages, instead of the one that mmdebstrap takes"
    )
    parser.add_argument("--fresh-base", action="store_true", help="with Debian's packages of today")
    parser.add_argument("--label", action="append", default=[], help="another label of the images")
    options = parser.parse_args()
    if unknown := {*options.names} - {*NAMES}:
        parser.error(f"no such image: {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}")
    progress = Progress()
    try:
        install_missing(PROGRAMS, progress)
        builder = Builder(
            cache=image_cache(),
            progress=progress,
            mirror=options.mirror,
            fresh_base=options.fresh_base,
            labels=tuple(options.label),
            epoch=_epoch(),
        )
        built = [builder.build(name) for name in options.names or NAMES]
    except SandboxError as error:
        print(f"images: {error}", file=sys.stderr)
        return 1
    for each in built:
        print(summary(each))
        if options.output:
            options.output.mkdir(parents=True, exist_ok=True)
            shutil.copy(each.archive, options.output)
            shutil.copy(each.sbom, options.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
