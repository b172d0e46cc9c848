"""Images that no registry is asked for: pause, and one with busybox, as archives for containerd."""

import io
import json
import shutil
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from kmm_sandbox import kmodimage
from kmm_sandbox.errors import SandboxError
from kmm_sandbox.processes import run

PAUSE = "localhost/pause:sandbox"
BUSYBOX = "localhost/busybox:sandbox"
_SOURCE = Path(__file__).parent / "pause.c"
_FREESTANDING = ("-Os", "-static", "-nostdlib", "-ffreestanding", "-fno-stack-protector")
_LINKER = b"/ld-linux-x86-64.so"
APPLETS = ("cat", "echo", "ls", "modprobe", "sh", "sleep", "true", "uname")


def pause_archive() -> bytes:
    """Return the image of the Pods' first process. Raises SandboxError without a compiler."""
    with tempfile.TemporaryDirectory() as scratch:
        program = Path(scratch) / "pause"
        run(["cc", *_FREESTANDING, "-o", str(program), str(_SOURCE)], limit=60)
        return archive(PAUSE, {"pause": program.read_bytes()}, entrypoint=("/pause",))


def busybox_archive() -> bytes:
    """Return an image with a shell and a few tools. Raises SandboxError."""
    found = shutil.which("busybox")
    content = Path(found).read_bytes() if found else _LINKER
    if _LINKER in content:
        raise SandboxError("no busybox that needs no libraries: apt-get install busybox-static")
    links = {f"bin/{applet}": "busybox" for applet in APPLETS}
    return archive(BUSYBOX, {"bin/busybox": content}, links=links)


def read_archive(path: Path) -> kmodimage.Image:
    """Return the only image of an OCI archive. Raises SandboxError."""
    try:
        with tarfile.open(path) as layout:
            content = {each.name: _content(layout, each) for each in layout if each.isfile()}
        (entry,) = json.loads(content["index.json"])["manifests"]
        manifest = content.pop(_blob(entry["digest"]))
    except (OSError, tarfile.TarError, KeyError, ValueError) as error:
        raise SandboxError(f"{path} is no OCI archive of one image: {error!r}") from error
    blobs = {
        name.removeprefix("blobs/").replace("/", ":", 1): each
        for name, each in content.items()
        if name.startswith("blobs/")
    }
    return kmodimage.Image(manifest=manifest, blobs=blobs)


def archive(
    name: str,
    programs: Mapping[str, bytes],
    *,
    links: Mapping[str, str] | None = None,
    entrypoint: Sequence[str] = (),
) -> bytes:
    """Return an OCI archive of one image: programs and links by path, under a full name."""
    members = [_program(path, content) for path, content in programs.items()]
    members += [(_link(path, target), b"") for path, target in (links or {}).items()]
    runs = {"Entrypoint": [*entrypoint], "Env": ["PATH=/bin"]}
    made = kmodimage.image(kmodimage.layer_of(members), runs=runs)
    return oci_archive(name, made)


def oci_archive(name: str, image: kmodimage.Image) -> bytes:
    """Return an image as a tar of an OCI layout, in which containerd finds its full name."""
    entry = {
        "mediaType": kmodimage.MANIFEST,
        "digest": image.digest,
        "size": len(image.manifest),
        "annotations": {"io.containerd.image.name": name},
    }
    files = {
        "oci-layout": json.dumps({"imageLayoutVersion": "1.0.0"}).encode(),
        "index.json": json.dumps({"schemaVersion": 2, "manifests": [entry]}).encode(),
        **{
            _blob(digest): content
            for digest, content in {**image.blobs, image.digest: image.manifest}.items()
        },
    }
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as layout:
        for path, content in files.items():
            member = tarfile.TarInfo(path)
            member.size = len(content)
            layout.addfile(member, io.BytesIO(content))
    return raw.getvalue()


def _blob(digest: str) -> str:
    """Return the path of what has this digest in an OCI layout."""
    return f"blobs/{digest.replace(':', '/', 1)}"


def _content(layout: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = layout.extractfile(member)
    return file.read() if file else b""


def _program(path: str, content: bytes) -> tuple[tarfile.TarInfo, bytes]:
    member = tarfile.TarInfo(path)
    member.size, member.mode = len(content), 0o755
    return member, content


def _link(path: str, target: str) -> tarfile.TarInfo:
    member = tarfile.TarInfo(path)
    member.type, member.linkname = tarfile.SYMTYPE, target
    return member
