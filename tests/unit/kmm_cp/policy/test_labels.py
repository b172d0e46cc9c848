"""The ready labels of a node."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kmm_common.desired import ModuleRef, ModuleState
from kmm_cp.policy.labels import LabelChange, label_change
from support.policy import BOOT, DIGEST, entry, failed, loaded, node, state

DOMAIN = "kmm.node.kubernetes.io"
READY = f"{DOMAIN}/default.simple.ready"
VERSION = f"{DOMAIN}/default.simple.version.ready"
SIMPLE = ModuleRef("default", "simple")
ADDED = LabelChange(patch={READY: ""}, added=(SIMPLE,))
REMOVED = LabelChange(patch={READY: None}, removed=(SIMPLE,))
NOTHING = LabelChange()

WANTED = entry()
CHANGED = entry(in_tree_modules_to_remove=("old",))


def changed(labels, nms, *, live=False, boot_id=BOOT):
    given = dict.fromkeys(labels, "") if isinstance(labels, list) else labels
    return label_change(node(labels=given, boot_id=boot_id), nms, live=live)


@pytest.mark.parametrize(
    ("nms", "unlabelled", "labelled"),
    [
        pytest.param(state(WANTED, reports=(loaded(WANTED),)), ADDED, NOTHING, id="loaded"),
        pytest.param(state(WANTED), NOTHING, REMOVED, id="a complete report omits it"),
        pytest.param(state(), NOTHING, REMOVED, id="unloaded"),
        pytest.param(
            state(WANTED, reports=(failed(WANTED),)), NOTHING, REMOVED, id="the load failed"
        ),
        pytest.param(
            state(reports=(loaded(WANTED, state=ModuleState.FAILED),)),
            NOTHING,
            NOTHING,
            id="the unload failed",
        ),
        pytest.param(
            state(reports=(loaded(WANTED, state=ModuleState.UNLOADING),)),
            NOTHING,
            NOTHING,
            id="being unloaded",
        ),
        pytest.param(
            state(CHANGED, reports=(loaded(WANTED),)), NOTHING, NOTHING, id="of an older config"
        ),
        pytest.param(
            state(CHANGED, reports=(loaded(WANTED, state=ModuleState.PULLING),)),
            NOTHING,
            NOTHING,
            id="a newer image is being pulled",
        ),
        pytest.param(
            state(CHANGED, reports=(loaded(WANTED, state=ModuleState.FAILED),)),
            NOTHING,
            NOTHING,
            id="the newer image failed, the older is still there",
        ),
        *(
            pytest.param(
                state(WANTED, reports=(loaded(WANTED, state=coming),), observed=0),
                NOTHING,
                NOTHING,
                id=f"of the name, and {coming} until the image can tell whose it is",
            )
            for coming in (
                ModuleState.PENDING,
                ModuleState.PULLING,
                ModuleState.LOADING,
                ModuleState.FAILED,
            )
        ),
        pytest.param(
            state(WANTED, accepted=-1, observed=-1, boot_id=""),
            NOTHING,
            NOTHING,
            id="a daemon that has accepted nothing",
        ),
        pytest.param(
            state(WANTED, reports=(loaded(WANTED, uid="older"),)),
            NOTHING,
            NOTHING,
            id="of the Module's predecessor",
        ),
        pytest.param(
            state(WANTED, reports=(loaded(WANTED, in_kernel=False),)),
            NOTHING,
            REMOVED,
            id="not in the kernel, whatever the state",
        ),
        pytest.param(
            state(WANTED, reports=(loaded(WANTED, state=ModuleState.LOADING, in_kernel=False),)),
            NOTHING,
            REMOVED,
            id="being loaded",
        ),
        pytest.param(
            state(entry(digest=""), reports=(loaded(entry(digest=""), digest=DIGEST),)),
            ADDED,
            NOTHING,
            id="loaded with a digest of the daemon's own",
        ),
        pytest.param(state(WANTED, boot_id=""), NOTHING, NOTHING, id="nothing was said yet"),
        pytest.param(None, NOTHING, NOTHING, id="no NodeModulesState"),
    ],
)
def test_the_label_says_what_is_in_the_kernel(nms, unlabelled, labelled):
    for live in (False, True):
        assert changed([], nms, live=live) == unlabelled
        assert changed([READY], nms, live=live) == labelled


LOADED = state(WANTED, reports=(loaded(WANTED),))


def test_a_new_boot_removes_the_label_while_no_session_stands():
    assert changed([READY], LOADED, boot_id="new") == REMOVED


def test_a_boot_that_a_daemon_only_names_removes_the_label():
    unaccepted = state(WANTED, accepted=-1, observed=-1, boot_id="new")
    assert changed([READY], unaccepted, boot_id=BOOT, live=True) == REMOVED
    assert changed([READY], unaccepted, boot_id="new") == REMOVED


def test_a_live_session_s_boot_is_the_truth():
    assert changed([READY], LOADED, boot_id="new", live=True) == NOTHING
    assert changed([READY], state(WANTED), boot_id="new", live=True) == REMOVED


def test_no_label_is_added_while_kubelet_and_session_name_different_boots():
    assert changed([], LOADED, boot_id="new", live=True) == NOTHING
    assert changed([], LOADED, boot_id="new", live=False) == NOTHING


def test_a_node_whose_boot_is_not_known_follows_the_status_under_a_session():
    assert changed([], LOADED, boot_id="", live=True) == ADDED
    assert changed([], LOADED, boot_id="") == NOTHING
    assert changed([READY], LOADED, boot_id="") == NOTHING
    assert changed([READY], state(WANTED), boot_id="") == REMOVED


VERSIONED = replace(WANTED, version="2")
NEWER = replace(CHANGED, version="3")


@pytest.mark.parametrize(
    ("nms", "labels", "patch"),
    [
        (state(VERSIONED, reports=(loaded(VERSIONED),)), {}, {READY: "", VERSION: "2"}),
        (state(VERSIONED, reports=(loaded(VERSIONED),)), {READY: ""}, {VERSION: "2"}),
        (state(VERSIONED, reports=(loaded(VERSIONED),)), {READY: "", VERSION: "1"}, {VERSION: "2"}),
        (state(VERSIONED, reports=(loaded(VERSIONED),)), {READY: "", VERSION: "2"}, {}),
        (state(VERSIONED, reports=(loaded(VERSIONED),)), {VERSION: "2"}, {READY: ""}),
        (state(WANTED, reports=(loaded(WANTED),)), {READY: "", VERSION: "2"}, {VERSION: None}),
        (state(NEWER, reports=(loaded(VERSIONED),)), {READY: "", VERSION: "2"}, {}),
        (state(NEWER, reports=(loaded(VERSIONED),)), {READY: ""}, {}),
        (state(NEWER, reports=(loaded(VERSIONED),)), {VERSION: "2"}, {VERSION: None}),
        (state(VERSIONED), {READY: "", VERSION: "2"}, {READY: None, VERSION: None}),
        (state(), {VERSION: "2"}, {VERSION: None}),
    ],
)
def test_the_version_label_says_which_version_is_in_the_kernel(nms, labels, patch):
    assert changed(labels, nms).patch == patch


def test_a_value_changed_by_hand_is_restored_and_is_no_news():
    assert changed({READY: "x"}, LOADED) == LabelChange(patch={READY: ""})


@pytest.mark.parametrize("nms", [state(), state(boot_id="old")])
def test_labels_of_modules_that_are_gone_are_cleaned_up(nms):
    labels = [f"{DOMAIN}/ns.my.mod.ready", f"{DOMAIN}/ns.my.mod.version.ready"]
    change = changed(labels, nms)
    assert change.patch == dict.fromkeys(labels)
    assert change.removed == (ModuleRef("ns", "my.mod"),)


@pytest.mark.parametrize(
    "key",
    [
        "kubernetes.io/hostname",
        f"{DOMAIN}/simple.ready",
        f"{DOMAIN}/default.simple.device-plugin-ready",
        f"{DOMAIN}/version-module.default.simple",
        f"{DOMAIN}/version-module.default.ready",
        f"{DOMAIN}/version-module.default.simple.version.ready",
        "other.io/default.simple.ready",
    ],
)
def test_labels_of_others_are_left_alone(key):
    assert changed([key], state()) == NOTHING


def test_a_module_named_version_has_a_label_as_any_other():
    kmod = entry("version")
    key = f"{DOMAIN}/default.version.ready"
    assert changed([], state(kmod, reports=(loaded(kmod),))).added == (kmod.ref,)
    assert changed([key], state()) == LabelChange(patch={key: None}, removed=(kmod.ref,))


def test_a_module_whose_label_would_be_anothers_has_none():
    kmod, other = entry("simple.version"), entry("simple", version="1")
    nms = state(kmod, other, reports=(loaded(kmod), loaded(other)))
    key = f"{DOMAIN}/default.simple"
    assert changed([], nms).patch == {f"{key}.ready": "", f"{key}.version.ready": "1"}


def test_a_label_that_kubernetes_would_refuse_is_not_asked_for():
    kmod = entry("n" * 60)
    assert changed([], state(kmod, reports=(loaded(kmod),))) == NOTHING


REPORTS = st.builds(
    lambda name, state, inside, version: loaded(
        replace(entry(name), version=version), state=state, in_kernel=inside
    ),
    st.sampled_from("ab"),
    st.sampled_from(ModuleState),
    st.booleans(),
    st.sampled_from(["", "1"]),
)
LABELS = st.dictionaries(
    st.sampled_from(
        [f"{DOMAIN}/default.{n}{s}" for n in "abc" for s in (".ready", ".version.ready")]
    ),
    st.sampled_from(["", "1"]),
)
STATES = st.builds(
    lambda names, reports, boot: state(*map(entry, sorted(names)), reports=reports, boot_id=boot),
    st.sets(st.sampled_from("ab")),
    st.lists(REPORTS, max_size=2, unique_by=lambda report: report.name).map(tuple),
    st.sampled_from(["", BOOT, "old"]),
)


def patched(labels, patch):
    merged = {**labels, **patch}
    return {key: value for key, value in merged.items() if value is not None}


@given(LABELS, STATES, st.booleans())
def test_labels_that_were_patched_need_no_patch(labels, nms, live):
    patch = changed(labels, nms, live=live).patch
    assert changed(patched(labels, patch), nms, live=live) == NOTHING


@given(LABELS, STATES, st.booleans())
def test_a_label_is_left_only_on_what_the_running_boot_has_in_its_kernel(labels, nms, live):
    after = patched(labels, changed(labels, nms, live=live).patch)
    if not nms.status.boot_id:
        assert after == labels
        return
    inside = {report.name for report in nms.status.modules if report.in_kernel}
    current = nms.status.boot_id == BOOT or live
    allowed = inside if current else set()
    assert {key.split(".")[4] for key in after} <= allowed
