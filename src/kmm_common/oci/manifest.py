"""Manifests and indexes, read within bounds. Every error names the field."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from kmm_common.oci.digest import is_digest
from kmm_common.oci.errors import InvalidImageError
from kmm_common.oci.platform import Platform

MANIFEST_BYTES = 4 * 1024 * 1024
LAYERS = 512
MANIFESTS = 512
BLOB_BYTES = 64 * 1024**3

_OCI = "application/vnd.oci.image"
_DOCKER = "application/vnd.docker.distribution"
ACCEPTED = (
    f"{_OCI}.manifest.v1+json",
    f"{_OCI}.index.v1+json",
    f"{_DOCKER}.manifest.v2+json",
    f"{_DOCKER}.manifest.list.v2+json",
)
_LAYER_TYPES = frozenset(
    {f"{_OCI}.layer.{kind}" for kind in ("v1.tar", "v1.tar+gzip", "v1.tar+zstd")}
    | {f"{_OCI}.layer.nondistributable.{kind}" for kind in ("v1.tar", "v1.tar+gzip", "v1.tar+zstd")}
    | {
        "application/vnd.docker.image.rootfs.diff.tar",
        "application/vnd.docker.image.rootfs.diff.tar.gzip",
        "application/vnd.docker.image.rootfs.diff.tar.zstd",
        "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Descriptor:
    """What a manifest says of a blob."""

    media_type: str
    digest: str
    size: int
    """Bytes."""
    platform: Platform | None = None
    """Only in an index."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """An image for one platform: its layers, the lowest first."""

    layers: tuple[Descriptor, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Index:
    """Images for several platforms."""

    manifests: tuple[Descriptor, ...]


def parse_manifest(content: bytes) -> Manifest | Index:
    """Return what a manifest's bytes say. Raises InvalidImageError."""
    document = _document(content)
    if document.get("schemaVersion") != 2:
        raise _invalid("schemaVersion must be 2")
    if "manifests" in document and "layers" in document:
        raise _invalid("has both layers and manifests")
    if "manifests" in document:
        return Index(manifests=_list(document, "manifests", MANIFESTS, _manifest_entry))
    if "layers" in document:
        return Manifest(layers=_list(document, "layers", LAYERS, _layer))
    raise _invalid("has neither layers nor manifests")


def _invalid(problem: str) -> InvalidImageError:
    return InvalidImageError(f"manifest: {problem}; push the image anew")


def _document(content: bytes) -> dict[str, Any]:
    if len(content) > MANIFEST_BYTES:
        raise _invalid(f"larger than {MANIFEST_BYTES} bytes")
    try:
        document = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise _invalid("not JSON") from error
    if not isinstance(document, dict):
        raise _invalid("not a JSON object")
    return document


def _list(
    document: dict[str, Any], field: str, limit: int, read: Callable[[Any, str], Descriptor]
) -> tuple[Descriptor, ...]:
    entries = document[field]
    if not isinstance(entries, list) or len(entries) > limit:
        raise _invalid(f"{field} must be a list of at most {limit} entries")
    return tuple(read(entry, f"{field}[{at}]") for at, entry in enumerate(entries))


def _layer(entry: Any, field: str) -> Descriptor:
    descriptor = _descriptor(entry, field)
    if descriptor.media_type not in _LAYER_TYPES:
        raise InvalidImageError(
            f"manifest: {field}.mediaType {descriptor.media_type[:100]!r} is not a layer that KMM "
            "reads; use tar, tar+gzip or tar+zstd layers"
        )
    return descriptor


def _manifest_entry(entry: Any, field: str) -> Descriptor:
    descriptor = _descriptor(entry, field)
    platform = entry.get("platform")
    if not isinstance(platform, dict):
        return descriptor
    return Descriptor(
        media_type=descriptor.media_type,
        digest=descriptor.digest,
        size=descriptor.size,
        platform=Platform(
            os=str(platform.get("os", "")),
            architecture=str(platform.get("architecture", "")),
            variant=str(platform.get("variant", "")),
        ),
    )


def _descriptor(entry: Any, field: str) -> Descriptor:
    if not isinstance(entry, dict):
        raise _invalid(f"{field} must be an object")
    digest, size, media_type = entry.get("digest"), entry.get("size"), entry.get("mediaType")
    if not isinstance(digest, str) or not is_digest(digest):
        raise _invalid(f"{field}.digest must be sha256 and 64 hex digits")
    if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= BLOB_BYTES:
        raise _invalid(f"{field}.size must be 0 to {BLOB_BYTES} bytes")
    if not isinstance(media_type, str):
        raise _invalid(f"{field}.mediaType must be a string")
    return Descriptor(media_type=media_type, digest=digest, size=size)
