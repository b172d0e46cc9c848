"""Which settings of the daemon are taken with enrolment."""

from pathlib import Path

import pytest
import yaml

from kmm_common.errors import TerminalError
from kmm_daemon import settings

TLS = {"cert": "/tls/tls.crt", "key": "/tls/tls.key", "ca": "/trusted/ca.crt"}
ENROL = {"server": "kmm-cp:8444"}


def load(directory: Path, **content: object) -> settings.Settings:
    file = directory / "daemon.yaml"
    file.write_text(yaml.safe_dump({"server": "kmm-cp:8443", **content}))
    return settings.load(file, {})


def test_daemon_enrols_only_if_it_is_told_where(tmp_path: Path) -> None:
    assert load(tmp_path, tls=TLS).enrol is None
    chosen = load(tmp_path, tls=TLS, enrol=ENROL).enrol
    assert chosen is not None
    assert (chosen.server, chosen.token) == ("kmm-cp:8444", Path("/var/run/secrets/kmm/token"))


def test_files_that_are_replaced_at_once_are_in_one_directory(tmp_path: Path) -> None:
    apart = {**TLS, "key": "/elsewhere/tls.key"}
    load(tmp_path, tls=apart)
    with pytest.raises(TerminalError, match=r"yaml: tls\.cert, tls\.key: must be in one directory"):
        load(tmp_path, tls=apart, enrol=ENROL)
