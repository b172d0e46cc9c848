"""Where a registry may send us: redirects and token servers."""

import ipaddress
from urllib.parse import urlsplit

_METADATA_NAMES = frozenset({"metadata", "metadata.google.internal", "instance-data"})


def refusal(*, origin: str, target: str) -> str:
    """Say why a URL that `origin` names is not asked; empty if it may be.

    A registry must not make root on a node ask what only the node can reach, nor send
    credentials over plain HTTP when it is itself spoken to over HTTPS.
    """
    try:
        start, end = urlsplit(origin), urlsplit(target)
    except ValueError:
        return "is no address"
    if end.scheme not in ("http", "https") or not end.hostname:
        return "is not an http or https address"
    if start.scheme == "https" and end.scheme == "http":
        return "would leave HTTPS for plain HTTP"
    if end.hostname == start.hostname:
        return ""
    if end.hostname.lower() in _METADATA_NAMES or _is_link_local(end.hostname):
        return "is a metadata address of the node"
    if _is_loopback(end.hostname) and not _is_loopback(start.hostname or ""):
        return "is the node itself"
    return ""


def _is_link_local(host: str) -> bool:
    address = _address(host)
    return address is not None and (address.is_link_local or address.is_unspecified)


def _is_loopback(host: str) -> bool:
    address = _address(host)
    return host == "localhost" or (address is not None and address.is_loopback)


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None
    mapped = getattr(address, "ipv4_mapped", None)
    return mapped or address
