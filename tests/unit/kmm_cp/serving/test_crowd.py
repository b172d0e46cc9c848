"""How much one peer can have of what all share."""

import pytest

from kmm_cp.serving import crowd
from kmm_cp.serving.crowd import Connections, CrowdedError, Handshakes


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crowd, "HANDSHAKES_PER_HOST", 2)
    monkeypatch.setattr(crowd, "CONNECTIONS_PER_POD", 2)


def test_host_has_so_many_handshakes_at_a_time_and_other_hosts_have_theirs() -> None:
    handshakes = Handshakes()
    handshakes.begin("a")
    handshakes.begin("a")
    with pytest.raises(CrowdedError, match="2 others of its host"):
        handshakes.begin("a")
    handshakes.begin("b")
    handshakes.end("a")
    handshakes.begin("a")
    with pytest.raises(CrowdedError):
        handshakes.begin("a")


class Pods:
    """Connections by number, some of which are in use."""

    def __init__(self, *busy: int) -> None:
        self.closed: list[int] = []
        self.connections = Connections[int](
            close=self.closed.append, is_idle=lambda one: one not in busy
        )

    def open(self, name: str, *numbers: int) -> None:
        for number in numbers:
            self.connections.opened(name, number)


def test_one_connection_too_many_ends_the_oldest_idle_one() -> None:
    pods = Pods(1)
    pods.open("a", 1, 2, 3)
    assert pods.closed == [2]
    pods.open("a", 4)
    assert pods.closed == [2, 3]


def test_where_none_is_idle_the_oldest_ends() -> None:
    pods = Pods(1, 2, 3)
    pods.open("a", 1, 2, 3)
    assert pods.closed == [1]


def test_connections_of_others_and_those_that_have_ended_do_not_count() -> None:
    pods = Pods()
    pods.open("a", 1, 2)
    pods.open("b", 3, 4)
    pods.connections.closed("a", 1)
    pods.connections.closed("a", 1)
    pods.open("a", 5)
    assert pods.closed == []
