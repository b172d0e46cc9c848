"""Spec and status keep everything on their way through JSON, and no more than is set."""

from hypothesis import given
from hypothesis import strategies as st

from kmm_common.api.nodemodulesstate import (
    DaemonStatus,
    NodeStatus,
    spec_from_json,
    spec_hash,
    spec_to_json,
    status_from_json,
    status_to_json,
)
from kmm_common.desired import (
    DesiredModule,
    Modprobe,
    ModprobeArgs,
    ModuleFailure,
    ModuleState,
    RegistryTLS,
    ReportedModule,
)

words = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), min_size=1, max_size=8)
maybe = st.one_of(st.just(""), words)
lists = st.lists(words, max_size=3).map(tuple)
arguments = st.builds(ModprobeArgs, load=lists, unload=lists)
modprobes = st.builds(
    Modprobe,
    module_name=maybe,
    dir_name=words,
    parameters=lists,
    args=arguments,
    raw_args=arguments,
    firmware_path=maybe,
    modules_loading_order=lists,
)
desired = st.builds(
    DesiredModule,
    namespace=words,
    name=words,
    uid=words,
    kernel_version=words,
    image=words,
    image_digest=maybe,
    image_pull_policy=words,
    pull_secret=maybe,
    registry_tls=st.builds(RegistryTLS, insecure=st.booleans()),
    in_tree_modules_to_remove=lists,
    modprobe=modprobes,
    config_hash=maybe,
    conflicts_with=maybe,
    version=maybe,
)
failures = st.builds(
    ModuleFailure,
    reason=words,
    message=words,
    exit_code=st.one_of(st.none(), st.integers(0, 255)),
    kernel_log=lists,
)
reported = st.builds(
    ReportedModule,
    namespace=words,
    name=words,
    uid=words,
    state=st.sampled_from(ModuleState),
    in_kernel=st.booleans(),
    image_digest=maybe,
    config_hash=maybe,
    attempts=st.integers(0, 1000),
    since_ms=st.integers(0, 4_000_000_000_000),
    error=st.one_of(st.none(), failures),
)


@given(st.lists(desired, max_size=3, unique_by=lambda module: module.ref))
def test_spec_comes_back_ordered_and_whole(modules: list[DesiredModule]) -> None:
    ordered = tuple(sorted(modules, key=lambda module: module.ref))
    assert spec_from_json(spec_to_json(modules)) == ordered


@given(
    st.builds(
        NodeStatus,
        observed_generation=st.integers(-1, 100),
        boot_id=maybe,
        kernel_version=maybe,
        daemon=st.builds(DaemonStatus, connected=st.booleans(), sequence=st.integers(0, 9)),
        modules=st.lists(reported, max_size=3).map(tuple),
    )
)
def test_status_comes_back_whole(status: NodeStatus) -> None:
    assert status_from_json(status_to_json(status, desired=1)) == status


def test_a_missing_status_is_unobserved() -> None:
    assert status_from_json(None).observed_generation == -1


def test_what_has_its_default_is_not_written() -> None:
    module = DesiredModule(namespace="ns", name="m", uid="u", kernel_version="6.1", image="i:1")
    assert spec_to_json([module]) == {
        "modules": [
            {"namespace": "ns", "name": "m", "uid": "u", "kernelVersion": "6.1", "image": "i:1"}
        ]
    }


def test_the_first_failure_and_the_counts_are_summarised() -> None:
    error = ModuleFailure(reason="InUse", message="held by ppp_generic")
    modules = tuple(
        ReportedModule(namespace="ns", name=name, uid="u", state=state, error=problem)
        for name, state, problem in [
            ("a", ModuleState.LOADED, None),
            ("b", ModuleState.FAILED, error),
        ]
    )
    written = status_to_json(NodeStatus(modules=modules), desired=2)
    assert written["summary"] == {"desired": 2, "loaded": 1, "failed": 1, "error": "ns/b: InUse"}


def test_the_hash_of_a_spec_is_of_what_is_written_whatever_the_order() -> None:
    one, two = (
        DesiredModule(namespace="ns", name=name, uid="u", kernel_version="6.1", image="i:1")
        for name in "ab"
    )
    assert spec_hash((one, two)) == spec_hash((two, one))
    assert spec_hash((one, two)) != spec_hash((one,))
    # Pinned: else a release that adds a field would make every spec look edited.
    assert spec_hash((one,)).startswith("e0f761c52aaa")
