"""How kmm-cp refuses to start: exit codes, and one line that names setting and remedy."""

import logging
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from kmm_cp.cli import main
from support.certificates import Certificates

CLUSTER = {"clusters": [{"name": "c", "cluster": {"server": "http://127.0.0.1:9"}}]}
CONTEXT = {"contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}]}
KUBECONFIG = {
    "apiVersion": "v1",
    "kind": "Config",
    "current-context": "x",
    "users": [{"name": "u", "user": {}}],
    **CLUSTER,
    **CONTEXT,
}


@pytest.fixture(autouse=True)
def root_logger() -> Iterator[None]:
    """Take back what a program does to the process's logs."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture
def taken() -> Iterator[str]:
    """An address that somebody listens at."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"127.0.0.1:{listener.getsockname()[1]}"


def start(directory: Path, **changes: Any) -> int:
    """Start kmm-cp with good settings but for the changes."""
    files = Certificates(directory).server()
    kubeconfig = directory / "kubeconfig"
    kubeconfig.write_text(yaml.safe_dump(KUBECONFIG))
    settings = {
        "kubeconfig": str(kubeconfig),
        "listen": "127.0.0.1:0",
        "metrics_listen": "127.0.0.1:0",
        "tls": {"cert": str(files.cert), "key": str(files.key), "ca": str(files.ca)},
    }
    config = directory / "kmm-cp.yaml"
    config.write_text(yaml.safe_dump({**settings, **changes}))
    return main(["--config", str(config)])


@pytest.mark.parametrize("setting", ["listen", "metrics_listen"])
def test_taken_port_is_exit_code_1_with_setting_port_and_remedy(
    tmp_path: Path, taken: str, setting: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert start(tmp_path, **{setting: taken}) == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith(f"kmm-cp: {setting} {taken}: ")
    assert "address already in use" in line
    assert line.endswith(f"; set {setting} to another address, or end what uses it")


@pytest.mark.parametrize(
    ("changes", "code", "told"),
    [
        ({"listen": "nowhere"}, 2, "listen: "),
        ({"kubconfig": "x"}, 2, "kubconfig: there is no such setting"),
        ({"kubeconfig": "/nowhere/kubeconfig"}, 1, "kubeconfig /nowhere/kubeconfig: "),
        ({"tls": {"cert": "/no", "key": "/no", "ca": "/no"}}, 1, "/no"),
    ],
    ids=["wrong value", "unknown setting", "no kubeconfig", "no certificate"],
)
def test_refusal_is_one_line_that_names_what_is_wrong(
    tmp_path: Path,
    changes: dict[str, Any],
    code: int,
    told: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert start(tmp_path, **changes) == code
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("kmm-cp: ")
    assert told in line
