"""Two Modules for one kernel module."""

from dataclasses import replace
from datetime import datetime

from hypothesis import given
from hypothesis import strategies as st

from kmm_common.desired import Modprobe
from kmm_cp.policy.conflicts import kernel_module, with_conflicts
from support.policy import NOW, entry

EARLIER, LATER = datetime.fromisoformat("2025-01-01T00:00:00Z"), NOW


def kmod(name, module_name, **modprobe):
    return entry(name, modprobe=Modprobe(module_name=module_name, **modprobe))


def losers(entries, created, in_kernel=()):
    refs = {each.name: each.ref for each in entries}
    moments = {ref: created[name] for name, ref in refs.items()}
    found = with_conflicts(entries, moments, {refs[name] for name in in_kernel})
    return {each.name: each.conflicts_with for each in found if each.conflicts_with}


A, B, C = kmod("a", "drv"), kmod("b", "drv"), kmod("c", "drv")
SAME_AGE = dict.fromkeys("abc", EARLIER)


def test_modules_of_different_names_do_not_conflict():
    assert losers([A, kmod("b", "other")], SAME_AGE) == {}


def test_the_oldest_wins():
    assert losers([A, B], {"a": LATER, "b": EARLIER}) == {"a": "default/b"}


def test_the_first_by_namespace_and_name_wins_at_the_same_age():
    assert losers([B, A], SAME_AGE) == {"b": "default/a"}


def test_the_one_in_the_kernel_wins_over_an_older_one():
    assert losers([A, B], {"a": EARLIER, "b": LATER}, "b") == {"a": "default/b"}


def test_every_loser_names_the_same_winner():
    assert losers([A, B, C], SAME_AGE) == {"b": "default/a", "c": "default/a"}


def test_dashes_and_underscores_are_the_same():
    assert losers([kmod("a", "a-b_c"), kmod("b", "a_b-c")], SAME_AGE) == {"b": "default/a"}


def test_case_is_not_the_same():
    assert losers([kmod("a", "drv"), kmod("b", "DRV")], SAME_AGE) == {}


def test_raw_args_without_a_name_conflict_with_nothing():
    assert losers([kmod("a", ""), kmod("b", "")], SAME_AGE) == {}


def test_a_shared_dependency_is_no_conflict():
    a = kmod("a", "one", modules_loading_order=("one", "base"))
    b = kmod("b", "two", modules_loading_order=("two", "base"))
    assert losers([a, b, kmod("c", "base")], SAME_AGE) == {}


def test_a_conflict_that_is_over_is_cleared():
    stale = replace(A, conflicts_with="default/gone")
    assert losers([stale], SAME_AGE) == {}


def test_the_kernel_spells_names_with_underscores():
    assert kernel_module(kmod("a", "a-b")) == "a_b"


ENTRIES = st.lists(
    st.tuples(st.sampled_from("abcdef"), st.sampled_from(["x", "x-y", "x_y", ""])),
    unique_by=lambda pair: pair[0],
).map(lambda pairs: [kmod(*pair) for pair in pairs])
MOMENTS = st.lists(st.sampled_from([EARLIER, LATER]), min_size=6, max_size=6)


@given(ENTRIES, MOMENTS, st.sets(st.sampled_from("abcdef")), st.randoms())
def test_each_kernel_module_has_one_owner_whatever_the_order(entries, moments, inside, random):
    created = {entry(name).ref: moment for name, moment in zip("abcdef", moments, strict=True)}
    in_kernel = {entry(name).ref for name in inside}
    found = with_conflicts(entries, created, in_kernel)
    owners = [kernel_module(each) for each in found if not each.conflicts_with]
    assert sorted(set(owners) - {""}) == sorted(name for name in owners if name)
    assert {kernel_module(each) for each in found} == set(owners)
    shuffled = random.sample(entries, len(entries))
    assert with_conflicts(shuffled, created, in_kernel) == found
    assert with_conflicts(found, created, in_kernel) == found
