"""Labels and what they are read back as."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kmm_common.api.names import (
    label_fits,
    module_version_label,
    parse_ready_label,
    parse_version_ready_label,
    ready_label,
    version_ready_label,
)

NAMESPACES = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,8}[a-z0-9])?", fullmatch=True)
NAMES = st.from_regex(r"[a-z0-9]([a-z0-9.-]{0,8}[a-z0-9])?", fullmatch=True).filter(
    lambda name: not name.endswith(".version")
)


@given(NAMESPACES, NAMES)
def test_labels_are_read_back_as_their_module(namespace, name):
    assert parse_ready_label(ready_label(namespace, name)) == (namespace, name)
    assert parse_version_ready_label(version_ready_label(namespace, name)) == (namespace, name)
    assert parse_ready_label(version_ready_label(namespace, name)) is None
    assert parse_ready_label(module_version_label(namespace, name)) is None


DOMAIN = "kmm.node.kubernetes.io"


@pytest.mark.parametrize(
    ("key", "ready", "version"),
    [
        (f"{DOMAIN}/ns.mod.ready", ("ns", "mod"), None),
        (f"{DOMAIN}/ns.my.mod.ready", ("ns", "my.mod"), None),
        (f"{DOMAIN}/ns.mod.version.ready", None, ("ns", "mod")),
        (f"{DOMAIN}/ns.version.ready", ("ns", "version"), None),
        (f"{DOMAIN}/ns.version.version.ready", None, ("ns", "version")),
        (f"{DOMAIN}/mod.ready", None, None),
        (f"{DOMAIN}/.mod.ready", None, None),
        (f"{DOMAIN}/ns..ready", None, None),
        (f"{DOMAIN}/ready", None, None),
        (f"{DOMAIN}/ns.mod.device-plugin-ready", None, None),
        ("other.io/ns.mod.ready", None, None),
        ("ns.mod.ready", None, None),
        ("", None, None),
    ],
)
def test_only_labels_of_this_kind_are_read(key, ready, version):
    assert parse_ready_label(key) == ready
    assert parse_version_ready_label(key) == version


@pytest.mark.parametrize(("length", "fits"), [(63, True), (64, False)])
def test_a_label_fits_by_its_name_behind_the_slash(length, fits):
    assert label_fits(f"{DOMAIN}/{'n' * length}") is fits
