"""Image references, read as Docker and Kubernetes read them."""

import re
from dataclasses import dataclass

from kmm_common.oci.digest import is_digest
from kmm_common.oci.errors import InvalidReferenceError

DOCKER_HUB = "docker.io"
_DOCKER_HUB_NAMES = frozenset({"docker.io", "index.docker.io", "registry-1.docker.io"})
_DOCKER_HUB_HOST = "registry-1.docker.io"

_NAME_LENGTH = 255
_SHOWN = 200
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?"
_REGISTRY = re.compile(
    rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[0-9A-Fa-f:]{{2,39}}\])(?::(?P<port>[0-9]{{1,5}}))?", re.ASCII
)
_COMPONENT = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*", re.ASCII)
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageReference:
    """registry/repository:tag@digest; a tag, a digest, or both."""

    registry: str
    """host or host:port; docker.io where the text names none."""
    repository: str
    tag: str = ""
    digest: str = ""

    @property
    def host(self) -> str:
        """Where the registry's API is served."""
        return _DOCKER_HUB_HOST if self.registry == DOCKER_HUB else self.registry

    @property
    def version(self) -> str:
        """What a manifest is asked for by: the digest where there is one, else the tag."""
        return self.digest or self.tag

    @property
    def manifest_path(self) -> str:
        return f"/v2/{self.repository}/manifests/{self.version}"

    def blob_path(self, digest: str) -> str:
        """Return the path of a blob of this repository."""
        return f"/v2/{self.repository}/blobs/{digest}"

    def pinned(self, digest: str) -> "ImageReference":
        """Return the same repository at a digest, without the tag."""
        return ImageReference(registry=self.registry, repository=self.repository, digest=digest)

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        digest = f"@{self.digest}" if self.digest else ""
        return f"{self.registry}/{self.repository}{tag}{digest}"


def parse_reference(text: str) -> ImageReference:
    """Return the reference a text stands for. Raises InvalidReferenceError."""
    name, at, digest = text.partition("@")
    if at and not is_digest(digest):
        raise _refused(text, "the digest is not sha256: and 64 lower-case hex digits")
    registry, path = _split_registry(name)
    repository, colon, tag = path.partition(":")
    if colon and not _TAG.fullmatch(tag):
        raise _refused(text, "the tag has characters that a tag cannot have, or too many")
    repository = _checked_repository(text, _checked_registry(text, registry), repository)
    return ImageReference(
        registry=registry,
        repository=repository,
        tag=tag or ("" if digest else "latest"),
        digest=digest,
    )


def _split_registry(name: str) -> tuple[str, str]:
    first, slash, rest = name.partition("/")
    is_host = any(mark in first for mark in ".:") or first == "localhost" or first.lower() != first
    if not (slash and is_host):
        return DOCKER_HUB, name
    return (DOCKER_HUB if first in _DOCKER_HUB_NAMES else first), rest


def _checked_registry(text: str, registry: str) -> str:
    match = _REGISTRY.fullmatch(registry)
    if match is None or int(match["port"] or 0) > 65535:
        raise _refused(text, "the registry is not a host name with an optional port")
    return registry


def _checked_repository(text: str, registry: str, repository: str) -> str:
    if registry == DOCKER_HUB and "/" not in repository:
        repository = f"library/{repository}"
    if not all(_COMPONENT.fullmatch(part) for part in repository.split("/")):
        raise _refused(text, "the repository must be lower-case letters, digits and . _ - between")
    if len(registry) + 1 + len(repository) > _NAME_LENGTH:
        raise _refused(text, f"registry and repository are longer than {_NAME_LENGTH} characters")
    return repository


def _refused(text: str, problem: str) -> InvalidReferenceError:
    return InvalidReferenceError(
        f"image {text[:_SHOWN]!r}: {problem}; write registry/repository:tag "
        "or registry/repository@sha256:<64 hex digits>"
    )
