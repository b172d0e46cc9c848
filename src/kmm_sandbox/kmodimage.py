"""Kmod images made of files: a layer, a config and a manifest, and their way into a registry."""

import gzip
import hashlib
import io
import json
import shutil
import tarfile
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from kmm_sandbox.errors import SandboxError
from kmm_sandbox.kerneltree import KernelTree
from kmm_sandbox.registry import Registry

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"

INDEXES = ("modules.builtin", "modules.builtin.modinfo", "modules.order")


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """An image in memory; blobs by digest."""

    manifest: bytes
    blobs: Mapping[str, bytes]

    @property
    def digest(self) -> str:
        """sha256:<hex> of the manifest."""
        return digest_of(self.manifest)


def digest_of(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def image(
    *layers: bytes, architecture: str = "amd64", runs: Mapping[str, object] | None = None
) -> Image:
    """Return an image of gzipped tar layers, the lowest first; `runs` is for one that is run."""
    config = json.dumps(
        {
            "architecture": architecture,
            "os": "linux",
            **({"config": runs} if runs else {}),
            "rootfs": {
                "type": "layers",
                "diff_ids": [digest_of(gzip.decompress(layer)) for layer in layers],
            },
        }
    ).encode()
    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": _descriptor(CONFIG, config),
            "layers": [_descriptor(LAYER, layer) for layer in layers],
        }
    ).encode()
    return Image(manifest=manifest, blobs={digest_of(each): each for each in (config, *layers)})


def layer(files: Mapping[str, bytes]) -> bytes:
    """Return a layer with these files, by path; the same bytes every time."""
    members = []
    for path, content in sorted(files.items()):
        member = tarfile.TarInfo(path.lstrip("/"))
        member.size, member.mode = len(content), 0o644
        members.append((member, content))
    return layer_of(members)


def layer_of(members: Iterable[tuple[tarfile.TarInfo, bytes]]) -> bytes:
    """Return a layer with exactly these members, hostile ones included."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for member, content in members:
            archive.addfile(member, io.BytesIO(content))
    return gzip.compress(raw.getvalue(), mtime=0)


def kmod_files(
    kernel: KernelTree,
    names: Sequence[str] = (),
    *,
    extra: Mapping[str, bytes] | None = None,
    dir_name: str = "/opt",
    depmod: bool = True,
    host_link: str = "",
) -> dict[str, bytes]:
    """Return the files of a kmod image: stock modules with all they need, and extra ones.

    `names` are modules of the kernel's own tree; `extra` are .ko contents by file name. depmod
    sees the kernel's own tree behind a `host_link`, which is not among the files.
    """
    tree: dict[str, bytes] = {
        path: file.read_bytes() for path, file in kernel.closure(tuple(names)).items()
    }
    tree |= {f"extra/{name}": content for name, content in (extra or {}).items()}
    if depmod:
        tree |= _indexes(kernel, tree, host_link)
    base = f"{dir_name.strip('/')}/lib/modules/{kernel.version}"
    return {f"{base}/{path}": content for path, content in tree.items()}


def push(registry: Registry, repository: str, tag: str, pushed: Image) -> str:
    """Push an image; return its reference with the tag. Raises SandboxError."""
    for digest, content in pushed.blobs.items():
        registry.put_blob(repository, digest, content)
    registry.put_manifest(repository, tag, pushed.manifest, MANIFEST)
    return f"{registry.address}/{repository}:{tag}"


def _indexes(kernel: KernelTree, tree: Mapping[str, bytes], host_link: str) -> dict[str, bytes]:
    """Return what depmod makes of a module tree."""
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch) / "lib/modules" / kernel.version
        for path, content in tree.items():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_bytes(content)
        if host_link:
            (root / host_link).symlink_to(kernel.modules)
        for name in INDEXES:
            if (kernel.modules / name).exists():
                shutil.copy(kernel.modules / name, root / name)
        kernel.depmod(Path(scratch))
        made = {path.name: path.read_bytes() for path in root.iterdir() if path.is_file()}
    if "modules.dep" not in made:
        raise SandboxError(f"depmod made no modules.dep for {kernel.version}")
    return made


def _descriptor(media_type: str, content: bytes) -> dict[str, object]:
    return {"mediaType": media_type, "digest": digest_of(content), "size": len(content)}
