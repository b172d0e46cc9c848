"""What is in our own files before there is an authority; the rest is tested with a real server."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import pytest

from kmm_common.tls import ServerTls, TlsFiles
from kmm_cp.serving.keeper import KEY, AuthorityKeeper
from support.virtualclock import VirtualClock


@dataclass(slots=True)
class Kept:
    """The Secret, and what daemons are shown."""

    data: Mapping[str, bytes] = field(default_factory=dict)
    shown: Mapping[str, str] = field(default_factory=dict)

    async def read(self) -> tuple[Mapping[str, bytes], str]:
        return self.data, "1"

    async def write(self, data: Mapping[str, bytes], version: str) -> None:
        self.data = data

    async def apply(self, name: str, data: Mapping[str, str]) -> None:
        self.shown = data


@pytest.fixture
def files(tmp_path: Path) -> TlsFiles:
    place = tmp_path / "tls"
    return TlsFiles(cert=place / "tls.crt", key=place / "tls.key", ca=place / "ca.crt")


def keeper(files: TlsFiles, kept: Kept) -> AuthorityKeeper:
    return AuthorityKeeper(
        store=kept,
        trust=kept,
        trust_name="kmm-ca",
        files=files,
        hosts=("localhost",),
        life=timedelta(days=1),
        clock=VirtualClock(),
    )


async def test_files_stand_in_for_those_of_an_authority_that_daemons_are_shown_alone(
    files: TlsFiles,
) -> None:
    kept = Kept()
    keeping = keeper(files, kept)
    await keeping.stand_in()
    ServerTls(files)
    stood_in = files.ca.read_text()
    assert (kept.data, kept.shown) == ({}, {})
    await keeping.prepare()
    ServerTls(files)
    assert files.ca.read_text() == kept.shown[KEY] != stood_in


async def test_files_that_are_there_are_as_good(files: TlsFiles) -> None:
    kept = Kept()
    await keeper(files, kept).prepare()
    before = files.cert.read_bytes()
    await keeper(files, kept).stand_in()
    assert files.cert.read_bytes() == before
    files.key.unlink()
    await keeper(files, kept).stand_in()
    ServerTls(files)
