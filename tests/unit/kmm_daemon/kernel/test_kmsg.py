import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kmm_daemon.kernel.kmsg import KernelLog, Record, about, parse_record, parse_syslog_line


def record(text: str, level: int = 6) -> Record:
    return Record(level=level, text=text)


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (
            b"3,339,5140124,-;kmt_core: told to fail with -19\n",
            record("kmt_core: told to fail with -19", 3),
        ),
        (b"6,1,2,c,x=y;eth0: up\n SUBSYSTEM=net\n DEVICE=n2\n", record("eth0: up")),
        (b"4,1,2,-;tab\\x09end\n", record("tab?end", 4)),
        (b"6,1,2,-;a\\x5cb", record("a\\b")),
        (b"12,1,2,-;somebody wrote this\n", None),
        (b"garbage", None),
        (b";", None),
        (b"", None),
    ],
)
def test_record_is_parsed(raw, expected):
    assert parse_record(raw) == expected


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"<3>[    5.140124] kmt_core: told to fail", record("kmt_core: told to fail", 3)),
        (b"<6>[12345.140124][    T1] eth0: up", record("eth0: up")),
        (b"<6>[12345.140124][C0] eth0: up", record("eth0: up")),
        (b"<4>no times configured", record("no times configured", 4)),
        (b"<6>[12.1] [drm] ready", record("[drm] ready")),
        (b"<4>[ 1.2] tab\tend\xff", record("tab?end\ufffd", 4)),
        (b"<12>[ 1.2] somebody wrote this", None),
        (b"garbage", None),
        (b"<>", None),
        (b"", None),
    ],
)
def test_line_of_syslog_is_parsed(raw, expected):
    assert parse_syslog_line(raw) == expected


@pytest.mark.parametrize("parse", [parse_record, parse_syslog_line])
@given(raw=st.binary())
def test_any_bytes_are_read_without_an_error(parse, raw):
    found = parse(raw)
    assert found is None or (found.text.isprintable() and 0 <= found.level <= 7)


def test_lines_about_the_module_are_kept_whatever_spelling_they_use():
    lines = [
        record("acme-gpu: unknown parameter 'x' ignored"),
        record("pci 0000:01:00.0: acme_gpu probe failed"),
        record("acme_gpu2: other"),
        record("my-acme_gpu: other"),
        record("eth0: link up", 3),
    ]
    assert about(lines, ["acme_gpu"]) == (lines[0].text, lines[1].text)


@pytest.mark.parametrize(
    "line",
    [
        "Lockdown: modprobe: unsigned module loading is restricted; see man kernel_lockdown.7",
        "Loading of unsigned module is rejected",
        "Loading of module with unavailable key is rejected",
        "x 0000:00:01.0: Direct firmware load for acme/a.bin failed with error -2",
    ],
)
def test_lines_without_a_name_are_kept_when_they_are_about_loading(line):
    assert about([record(line), record("eth0: link up")], ["acme"]) == (line,)


def test_warnings_are_kept_when_no_line_names_the_module():
    lines = [record("Invalid ELF section header overflow", 3), record("eth0: up", 6)]
    assert about(lines, ["kmt_core"]) == ("Invalid ELF section header overflow",)


def test_only_what_is_logged_from_now_on_is_seen(tmp_path: Path):
    device = tmp_path / "kmsg"
    device.write_bytes(b"6,1,2,-;before\n")
    with KernelLog.from_now(device) as log:
        assert log.readable
        with device.open("ab") as file:
            file.write(b"4,2,3,-;after\n")
        assert log.records() == (record("after", 4),)
        assert log.records() == ()


def not_permitted() -> bytes:
    raise PermissionError(1, "Operation not permitted")


def test_syslog_is_read_where_the_device_cannot_be_opened(tmp_path: Path):
    answers = iter([b"<6>[ 1.0] before\n", b"<6>[ 1.0] before\n<4>[ 2.0] after\n"])
    with KernelLog.from_now(tmp_path / "absent", lambda: next(answers)) as log:
        assert log.readable
        assert log.records() == (record("after", 4),)


def test_log_is_empty_when_neither_can_be_read(tmp_path: Path):
    with KernelLog.from_now(tmp_path / "absent", not_permitted) as log:
        assert not log.readable
        assert log.records() == ()


def test_log_that_cannot_be_read_any_more_has_nothing_new(tmp_path: Path):
    answers = iter([lambda: b"", not_permitted])
    with KernelLog.from_now(tmp_path / "absent", lambda: next(answers)()) as log:
        assert log.readable
        assert log.records() == ()


def test_reading_goes_on_when_records_were_overwritten(tmp_path: Path, monkeypatch):
    device = tmp_path / "kmsg"
    device.write_bytes(b"")
    answers: Iterator[bytes | OSError] = iter(
        [BrokenPipeError(32, "overwritten"), b"6,9,9,-;next\n", BlockingIOError(11, "")]
    )

    def read(descriptor: int, size: int) -> bytes:
        answer = next(answers)
        if isinstance(answer, OSError):
            raise answer
        return answer

    with KernelLog.from_now(device) as log, monkeypatch.context() as patched:
        patched.setattr(os, "read", read)
        assert log.records() == (record("next"),)
