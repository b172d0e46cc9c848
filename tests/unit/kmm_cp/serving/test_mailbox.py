import asyncio
import itertools

from hypothesis import given
from hypothesis import strategies as st

from kmm_cp.serving.mailbox import LEFT_UIDS, Mailbox
from kmm_cp.serving.values import Target
from support.serving import target
from support.virtualclock import rest


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 5)), max_size=20))
def test_target_never_goes_back(puts: list[tuple[str, int]]) -> None:
    mailbox, seen = Mailbox(), list[Target]()
    for uid, generation in puts:
        if mailbox.put(target(generation, uid=uid)):
            assert mailbox.target is not None
            seen.append(mailbox.target)
    for earlier, later in itertools.pairwise(seen):
        assert earlier.uid != later.uid or earlier.generation < later.generation
    order = [uid for uid, _ in itertools.groupby(one.uid for one in seen)]
    assert len(order) == len(set(order)), "no object comes back"


def test_newest_target_replaces_the_ones_nobody_has_read() -> None:
    mailbox = Mailbox()
    for generation in (1, 2, 3):
        assert mailbox.put(target(generation))
    assert mailbox.target == target(3)


def test_object_that_was_left_is_refused() -> None:
    mailbox = Mailbox()
    mailbox.put(target(1, uid="old"))
    mailbox.leave("old")
    assert mailbox.target is None
    assert not mailbox.put(target(9, uid="old"))


def test_left_objects_are_remembered_within_bounds() -> None:
    mailbox = Mailbox()
    for number in range(LEFT_UIDS + 1):
        mailbox.leave(f"uid-{number}")
    assert mailbox.put(target(1, uid="uid-0"))
    assert not mailbox.put(target(1, uid="uid-1"))


async def test_news_comes_once_for_all_that_happened() -> None:
    mailbox, woken = Mailbox(), list[int]()

    async def read() -> None:
        while True:
            await mailbox.news()
            woken.append(mailbox.target.generation if mailbox.target else 0)

    reader = asyncio.create_task(read())
    mailbox.put(target(1))
    mailbox.put(target(2))
    await rest()
    mailbox.put(target(1))
    await rest()
    mailbox.stir()
    await rest()
    assert woken == [2, 2]
    reader.cancel()
    await asyncio.gather(reader, return_exceptions=True)
