"""What the metrics of all replicas say together."""

from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from kmm_sandbox.errors import SandboxError
from kmm_sandbox.replicas import Replicas

ROWS = """\
# TYPE kmm_cp_sessions gauge
kmm_cp_sessions 2.0
kmm_cp_sessions_flapping_total 7.0
kmm_cp_reconciles_total{controller="node",result="ok"} 3.0
kmm_cp_reconciles_total{controller="module",result="ok"} 1.0
"""


@pytest.fixture
def place() -> Iterator[str]:
    """A replica's host and port; anything else than its metrics is empty there."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(ROWS.encode() if self.path == "/metrics" else b"")

        def log_message(self, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, args=(0.01,)).start()
        yield f"127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def test_sessions_of_all_replicas_are_added_up(place: str) -> None:
    assert Replicas([place, place]).sessions() == 4


def test_reconciles_of_every_replica_are_told(place: str) -> None:
    rows = Replicas([place, place]).reconciles()
    assert len(rows) == 4
    assert rows[0] == 'kmm_cp_reconciles_total{controller="module",result="ok"} 1.0'


def test_endpoint_without_those_metrics_is_refused(place: str) -> None:
    with pytest.raises(SandboxError, match="has no row"):
        Replicas([f"{place}/elsewhere?"]).sessions()
