"""What the program that enrols says when it cannot, and that it leaves what is there."""

import json
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from kmm_cp.serving.issue import Signer, daemon_certificate, requested_key
from kmm_daemon.link.enrol import NotEnrolledError, Place, enrol, main
from kmm_daemon.link.renewal import TRUSTED
from kmm_sandbox.pki import LIFETIME, Identity
from support.certificates import Certificates
from support.steppedclock import SteppedClock

TOKEN = "the.pods.token"
Respond = Callable[[dict[str, str]], tuple[int, bytes]]


@dataclass
class Peer:
    """A control plane whose answers a test chooses, and who enrols with it."""

    certificates: Certificates
    directory: Path
    respond: Respond

    def __post_init__(self) -> None:
        (self.directory / "token").write_text(f"{TOKEN}\n")
        ca = self.certificates.authority.credential.cert_pem
        (self.directory / "ca.crt").write_bytes(ca)

    def certified(self, request: dict[str, str]) -> tuple[int, bytes]:
        """Answer as the real one does."""
        assert request["token"] == TOKEN
        credential = self.certificates.authority.credential
        signer = Signer(certificate=credential.certificate, key=credential.key)
        key = requested_key(request["csr"].encode())
        now = SteppedClock().now()
        pem = daemon_certificate(
            signer, key, "spiffe://kmm.test", host="d.test", now=now, life=LIFETIME
        )
        return 200, json.dumps({"certificate": pem.decode()}).encode()

    @contextmanager
    def serving(self, identity: Identity) -> Iterator[Place]:
        """Serve until the end of the block."""
        files = self.certificates.issue(identity)
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(files.cert, files.key)
        server = HTTPServer(("127.0.0.1", 0), self._handler())
        server.socket = context.wrap_socket(server.socket, server_side=True)
        server.handle_error = lambda *_: None  # type: ignore[method-assign]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield self.place(server.server_address[1])
        finally:
            server.shutdown()
            server.server_close()
            thread.join()

    def place(self, port: int) -> Place:
        tls = self.directory / "tls"
        return Place(
            server=f"127.0.0.1:{port}",
            server_name="localhost",
            token=self.directory / "token",
            ca=self.directory / "ca.crt",
            cert=tls / "tls.crt",
            key=tls / "tls.key",
        )

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        peer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                length = int(self.headers["Content-Length"])
                status, body = peer.respond(json.loads(self.rfile.read(length)))
                self.send_response(status)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        return Handler


@pytest.fixture
def peer(tmp_path: Path) -> Peer:
    made = Peer(Certificates(tmp_path / "pki"), tmp_path, lambda _: (500, b""))
    made.respond = made.certified
    return made


SERVER = Identity(common_name="server", hosts=["localhost"], server=True)


def test_key_and_certificate_of_one_issue_are_written_with_what_was_trusted(peer: Peer) -> None:
    with peer.serving(SERVER) as place:
        enrol(place)
        first = place.key.read_bytes()
        enrol(place)
    key = load_pem_private_key(place.key.read_bytes(), password=None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    certificate = x509.load_pem_x509_certificate(place.cert.read_bytes())
    assert certificate.public_key() == key.public_key()
    assert place.key.read_bytes() != first
    assert place.cert.with_name(TRUSTED).read_bytes() == place.ca.read_bytes()


def refused(peer: Peer, place: Place) -> str:
    """Return what is said; nothing may be written."""
    with pytest.raises(NotEnrolledError) as caught:
        enrol(place)
    assert not place.cert.exists()
    assert not place.key.exists()
    assert TOKEN not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (401, b'{"error": "token: has expired; read it anew"}', "token: has expired; read it anew"),
        (503, b"<html>", "set enrol.server to its enrolment.listen"),
        (200, b"{}", "the control plane's answer has no certificate"),
        (200, b'{"certificate": "none"}', "the control plane's answer has no certificate"),
        (200, b"[1]", "the control plane's answer has no certificate"),
    ],
)
def test_answer_that_is_no_certificate_is_told(
    peer: Peer, status: int, body: bytes, words: str
) -> None:
    peer.respond = lambda _: (status, body)
    with peer.serving(SERVER) as place:
        assert words in refused(peer, place)


def test_certificate_for_another_key_is_not_taken(peer: Peer) -> None:
    other = peer.certificates.authority.issue(Identity(common_name="other", client=True))
    answer = json.dumps({"certificate": other.cert_pem.decode()}).encode()
    peer.respond = lambda _: (200, answer)
    with peer.serving(SERVER) as place:
        assert "is for another key" in refused(peer, place)


def noting(asked: list[dict[str, str]]) -> Respond:
    """Note what is asked, and answer with an error."""

    def respond(request: dict[str, str]) -> tuple[int, bytes]:
        asked.append(request)
        return 500, b""

    return respond


@pytest.mark.parametrize(
    ("host", "name"), [("another", "localhost"), ("another", "127.0.0.1")], ids=["name", "address"]
)
def test_server_with_another_name_is_not_told_the_token(peer: Peer, host: str, name: str) -> None:
    asked: list[dict[str, str]] = []
    peer.respond = noting(asked)
    with peer.serving(Identity(common_name="x", hosts=[host], server=True)) as place:
        said = refused(peer, replace(place, server_name=name))
    assert f"does not name {name}: set server_name to one of" in said
    assert asked == []


def test_server_that_is_no_server_is_not_told_the_token(peer: Peer) -> None:
    """Another daemon's certificate is of the same authority."""
    asked: list[dict[str, str]] = []
    peer.respond = noting(asked)
    with peer.serving(Identity(common_name="x", hosts=["localhost"], client=True)) as place:
        assert "is not of an authority in" in refused(peer, place)
    assert asked == []


@pytest.mark.parametrize(
    ("days", "words"), [(-60, "has expired by this node's clock"), (60, "is not valid yet")]
)
def test_certificate_of_another_time_names_the_clock(
    peer: Peer, days: float, words: str, tmp_path: Path
) -> None:
    clock = SteppedClock(timedelta(days=days))
    peer = Peer(Certificates(tmp_path / "then", clock=clock), tmp_path, peer.respond)
    with peer.serving(SERVER) as place:
        assert words in refused(peer, place)


def test_what_is_not_mounted_is_named(peer: Peer, tmp_path: Path) -> None:
    place = peer.place(1)
    assert "no answer from 127.0.0.1:1" in refused(peer, place)
    place.ca.write_bytes(b"")
    assert "has no certificate: wait for the control plane" in refused(peer, place)
    place.ca.unlink()
    assert f"tls.ca: {place.ca}: No such file" in refused(peer, place)
    place.token.unlink()
    gone = replace(place, ca=peer.certificates.server().ca)
    assert f"enrol.token: {place.token}: No such file" in refused(peer, gone)


def test_program_ends_with_one_line_or_none(peer: Peer, capsys: pytest.CaptureFixture[str]) -> None:
    with peer.serving(SERVER) as place:
        names = {"server": place.server, "server-name": place.server_name}
        paths = {"token": place.token, "ca": place.ca, "cert": place.cert, "key": place.key}
        argv = [f"--{name}={value}" for name, value in {**names, **paths}.items()]
        assert main(argv) == 0
        peer.respond = lambda _: (403, b'{"error": "its pod is being deleted"}')
        assert main(argv) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert "its pod is being deleted" in said.err
