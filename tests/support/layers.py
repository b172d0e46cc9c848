"""Layers of images, made by hand, so that they can be wrong."""

import gzip
import io
import tarfile

import zstandard

KERNEL = "6.1.0-test"
MODULES = f"opt/lib/modules/{KERNEL}"


class Member(tarfile.TarInfo):
    """A member that carries its content."""

    content = b""


def file(name: str, content: bytes = b"ko", *, mode: int = 0o644) -> Member:
    member = Member(name)
    member.size, member.mode, member.content = len(content), mode, content
    return member


def directory(name: str) -> Member:
    return special(name, tarfile.DIRTYPE)


def symlink(name: str, target: str) -> Member:
    return special(name, tarfile.SYMTYPE, target)


def hardlink(name: str, target: str) -> Member:
    return special(name, tarfile.LNKTYPE, target)


def special(name: str, kind: bytes, target: str = "") -> Member:
    member = Member(name)
    member.type, member.linkname = kind, target
    return member


def tar(*members: Member) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for member in members:
            archive.addfile(member, io.BytesIO(member.content) if member.isreg() else None)
    return buffer.getvalue()


def layer(*members: Member) -> bytes:
    """A gzip layer."""
    return gzip.compress(tar(*members), mtime=0)


def zstd_layer(*members: Member) -> bytes:
    return zstandard.compress(tar(*members))


def module(name: str = "a.ko", content: bytes = b"ko") -> Member:
    """A file in the directory of the kernel."""
    return file(f"{MODULES}/{name}", content)
