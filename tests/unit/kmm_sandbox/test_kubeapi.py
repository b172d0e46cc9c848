"""What a request says of an API server that ends while it answers."""

import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from kmm_sandbox.kubeapi import KubeApi
from kmm_sandbox.pki import Authority, Identity


@pytest.fixture
def broken(tmp_path: Path) -> Iterator[KubeApi]:
    """Return a client of a server that closes in the middle of its only answer."""
    authority = Authority("test")
    identity = Identity(common_name="test", hosts=("127.0.0.1",), server=True, client=True)
    cert, key = authority.issue(identity).write(tmp_path, "test")
    ca, _ = authority.credential.write(tmp_path, "ca")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)

    def answer() -> None:
        accepted, _ = listening.accept()
        with context.wrap_socket(accepted, server_side=True) as connection:
            connection.recv(4096)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{")

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=answer)
        thread.start()
        url = f"https://127.0.0.1:{listening.getsockname()[1]}"
        yield KubeApi.login(url=url, ca=ca, cert=cert, key=key)
        thread.join()


def test_half_an_answer_is_an_error_of_the_connection(broken: KubeApi) -> None:
    with pytest.raises(ConnectionError, match="GET /api: IncompleteRead"):
        broken.get("/api")
