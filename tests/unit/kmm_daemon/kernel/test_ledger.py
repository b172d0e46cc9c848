import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from kmm_common.api.names import Reason
from kmm_common.desired import ModuleFailure, ModuleRef
from kmm_daemon.kernel.ledger import Entry, Ledger, Placement, User, place, refs, release

A = User(namespace="ns", name="a", boot_id="b1")
B = User(namespace="ns", name="b", boot_id="b1")
OLD_B = User(namespace="ns", name="b", boot_id="b0")


def ledger(**files: Entry) -> Ledger:
    return Ledger(files=files)


def test_new_file_is_written_and_remembered():
    outcome = place(Ledger(), A, {"f": "1"}, {})
    assert outcome == Placement(ledger=ledger(f=Entry(sha256="1", users=(A,))), write=("f",))


def test_file_that_the_host_has_itself_is_used_and_stays_the_hosts():
    assert place(Ledger(), A, {"f": "1"}, {"f": "1"}) == Placement(ledger=Ledger())


def test_same_file_of_two_modules_is_shared():
    outcome = place(ledger(f=Entry(sha256="1", users=(A,))), B, {"f": "1"}, {"f": "1"})
    assert outcome == Placement(ledger=ledger(f=Entry(sha256="1", users=(A, B))))


def test_file_is_written_again_when_it_vanished_from_the_host():
    outcome = place(ledger(f=Entry(sha256="1", users=(A,))), A, {"f": "1"}, {"f": ""})
    assert outcome == Placement(ledger=ledger(f=Entry(sha256="1", users=(A,))), write=("f",))


def test_own_file_is_replaced_when_the_module_brings_another():
    outcome = place(ledger(f=Entry(sha256="1", users=(A,))), A, {"f": "2"}, {"f": "1"})
    expected = ledger(f=Entry(sha256="2", users=(A,)))
    assert outcome == Placement(ledger=expected, write=("f",), replace=("f",))


def test_file_of_a_module_of_an_earlier_boot_is_taken_over():
    outcome = place(ledger(f=Entry(sha256="1", users=(OLD_B,))), A, {"f": "2"}, {"f": "1"})
    expected = ledger(f=Entry(sha256="2", users=(A,)))
    assert outcome == Placement(ledger=expected, write=("f",), replace=("f",))


@pytest.mark.parametrize(
    ("known", "host", "words"),
    [
        (ledger(f=Entry(sha256="1", users=(B,))), {"f": "1"}, "Module ns/b has put other content"),
        (Ledger(), {"f": "1"}, "the host has other content there"),
        (ledger(f=Entry(sha256="2", users=(A,))), {"f": "3"}, "the host has other content there"),
    ],
)
def test_other_content_is_a_conflict_that_names_file_and_owner(known, host, words):
    failure = place(known, A, {"f": "2", "g": "9"}, host)
    assert isinstance(failure, ModuleFailure)
    assert failure.reason == Reason.FIRMWARE_CONFLICT
    assert words in failure.message
    assert failure.message.startswith("firmware file f ")


def test_file_goes_with_its_last_user():
    shared = ledger(f=Entry(sha256="1", users=(A, B)))
    left, orphans = release(shared, frozenset({A.ref}))
    assert (left, orphans) == (ledger(f=Entry(sha256="1", users=(B,))), {})
    assert release(left, frozenset({B.ref})) == (Ledger(), {"f": "1"})


def test_modules_with_files_are_listed():
    assert refs(ledger(f=Entry(sha256="1", users=(A, B)))) == {A.ref, B.ref}


PATHS, CONTENTS = st.sampled_from("fgh"), st.sampled_from("12")
USERS = st.sampled_from([A, B, User(namespace="ns", name="c", boot_id="b1")])


@given(st.dictionaries(PATHS, CONTENTS), USERS)
def test_release_undoes_a_place(wanted, user):
    outcome = place(Ledger(), user, wanted, {})
    assert isinstance(outcome, Placement)
    assert release(outcome.ledger, frozenset({user.ref})) == (Ledger(), wanted)


class Host(RuleBasedStateMachine):
    """Modules come and go on a host that has files of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.own = {"f": "1"}
        self.files = dict(self.own)
        self.ledger = Ledger()
        self.wants: dict[ModuleRef, dict[str, str]] = {}

    @rule(user=USERS, wanted=st.dictionaries(PATHS, CONTENTS))
    def load(self, user: User, wanted: dict[str, str]) -> None:
        if user.ref in self.wants:
            return
        outcome = place(self.ledger, user, wanted, self.files)
        if isinstance(outcome, Placement):
            self.files.update({path: wanted[path] for path in outcome.write})
            self.ledger, self.wants[user.ref] = outcome.ledger, wanted

    @precondition(lambda self: self.wants)
    @rule(data=st.data())
    def unload(self, data: st.DataObject) -> None:
        ref = data.draw(st.sampled_from(sorted(self.wants)))
        del self.wants[ref]
        self.ledger, orphans = release(self.ledger, frozenset({ref}))
        for path, sha256 in orphans.items():
            assert self.files.pop(path) == sha256

    @invariant()
    def every_module_has_its_files_and_the_host_its_own(self) -> None:
        needed = [item for wanted in self.wants.values() for item in wanted.items()]
        assert self.files == {**self.own, **dict(needed)}
        assert all(self.files[path] == sha256 for path, sha256 in needed)


TestHost = Host.TestCase
