"""How much a bucket lets through at once, and for long."""

from kmm_common.bucket import Bucket


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_burst_is_there_at_once_and_the_rest_comes_in_time() -> None:
    clock = Clock()
    bucket = Bucket(rate=2.0, burst=3.0, now=clock)
    assert [bucket.take() for _ in range(5)] == [2.0, 1.0, 0.0, -1.0, -2.0]
    clock.now += 2.0
    assert bucket.take() == 1.0


def test_more_than_the_burst_is_never_saved_up() -> None:
    clock = Clock()
    bucket = Bucket(rate=2.0, burst=3.0, now=clock)
    clock.now += 1000.0
    assert bucket.take(4.0) == -1.0
