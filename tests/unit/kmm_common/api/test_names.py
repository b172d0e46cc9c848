"""Labels and what they are read back as."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kmm_common.api.names import (
    label_fits,
    labels_are_own,
    module_version_label,
    parse_ready_label,
    parse_version_ready_label,
    ready_label,
    version_ready_label,
)

WORDS = st.sampled_from(["version", "ready", "version-module", "device-plugin-ready", "a", "b-c"])
NAMESPACES = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,8}[a-z0-9])?", fullmatch=True) | WORDS
NAMES = st.lists(NAMESPACES, min_size=1, max_size=4).map(".".join)
MODULES = st.tuples(NAMESPACES, NAMES)
OWN = MODULES.filter(lambda module: labels_are_own(*module))


def labels(namespace, name):
    return {
        ready_label(namespace, name),
        version_ready_label(namespace, name),
        module_version_label(namespace, name),
    }


@given(OWN, OWN)
def test_no_two_modules_share_a_label(one, other):
    assert len(labels(*one)) == 3
    assert one == other or not labels(*one) & labels(*other)


@pytest.mark.parametrize(
    ("namespace", "name", "own"),
    [
        ("ns", "x", True),
        ("ns", "version", True),
        ("ns", "x.version.y", True),
        ("ns", "x.ready", True),
        ("ns", "ready", True),
        ("ns", "x.version", False),
        ("ns", "version.version", False),
        ("version-module", "ns.x", False),
    ],
)
def test_labels_are_a_modules_own_unless_its_name_is_that_of_another_kind(namespace, name, own):
    assert labels_are_own(namespace, name) is own


@given(OWN)
def test_labels_are_read_back_as_their_module(module):
    namespace, name = module
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
        (f"{DOMAIN}/version-module.ns.ready", None, None),
        (f"{DOMAIN}/version-module.ns.mod.version.ready", None, None),
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
