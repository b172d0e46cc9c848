"""The classifier on what a real kernel, modprobe and rmmod have said: `make collect-errors`."""

from dataclasses import replace
from pathlib import Path

import pytest

from errors.cases import CASES
from errors.collected import Collected, decode, difference, encode, read_all, write_all
from kmm_common.api.names import Reason
from kmm_daemon.kernel.classify import ignored_parameters

COLLECTED = read_all()
DEVICE = "init of kmt_core failed with"

EXPLAINED: dict[str, tuple[Reason, bool, *tuple[str, ...]]] = {
    "not-found": (Reason.MODULE_NOT_FOUND, False, "no module kmt_absent for kernel", "moduleName"),
    "unknown-symbol": (Reason.UNKNOWN_SYMBOL, True, "kmt_user needs symbol kmt_answer", "image"),
    "unknown-symbols-in-tree": (Reason.UNKNOWN_SYMBOL, True, "ppp_generic needs symbol slhc_"),
    "duplicate-symbol": (
        Reason.LOADED_FROM_ELSEWHERE,
        True,
        "kmt_twin exports symbol kmt_answer, which kmt_core has",
        "inTreeModulesToRemove",
    ),
    "wrong-vermagic": (
        Reason.WRONG_VERMAGIC,
        False,
        "kmt_core is built for kernel '6.1.177 mod_unload', this node runs '6.1.176 mod_unload'",
    ),
    "other-architecture": (Reason.INVALID_MODULE, False, "Invalid architecture in ELF header: 183"),
    "truncated": (Reason.INVALID_MODULE, False, "Invalid ELF section header overflow", "build"),
    "not-elf": (Reason.INVALID_MODULE, False, "Invalid ELF header len 20", "build the image again"),
    "bad-value": (Reason.BAD_PARAMETER, False, "does not take 'abc' for parameter fail"),
    "value-out-of-range": (Reason.BAD_PARAMETER, False, "'99999999999' for parameter fail"),
    "firmware-missing": (Reason.FIRMWARE_MISSING, True, "kmt/absent.bin", "firmwarePath"),
    "already-loaded": (
        Reason.LOADED_FROM_ELSEWHERE,
        True,
        "kmt_core is in the kernel already",
        "inTreeModulesToRemove",
    ),
    "init-fails-no-device": (Reason.DEVICE_ERROR, True, f"{DEVICE} ENODEV: No such device"),
    "init-fails-io": (Reason.DEVICE_ERROR, True, f"{DEVICE} EIO: Input/output error"),
    "init-fails-busy": (Reason.DEVICE_ERROR, True, f"{DEVICE} EBUSY: Device or resource busy"),
    "init-fails-no-memory": (Reason.DEVICE_ERROR, True, f"{DEVICE} ENOMEM"),
    "init-fails-timeout": (Reason.DEVICE_ERROR, True, f"{DEVICE} ETIMEDOUT"),
    "init-fails-no-entry": (Reason.DEVICE_ERROR, True, f"{DEVICE} ENOENT: it did not find"),
    "init-fails-invalid": (Reason.DEVICE_ERROR, True, f"{DEVICE} EINVAL"),
    "init-fails-not-permitted": (Reason.PERMISSION_DENIED, True, "the driver itself may refuse"),
    "killed": (Reason.KILLED, True, "a signal ended modprobe (9)"),
    "in-use-by-module": (Reason.IN_USE, True, "kmt_core is in use by module kmt_user: stop"),
    "in-use-by-open-file": (Reason.IN_USE, True, "by sleep (process 7) with /dev/kmt_core"),
    "in-use-by-mount": (Reason.IN_USE, True, "configfs", "the mount at /sys/kernel/config"),
    "in-use-by-nobody-visible": (Reason.IN_USE, True, "refcount 1", "nothing that /proc shows"),
    "built-in": (Reason.BUILT_IN, False, "ext4 is built into kernel 6.1.176"),
    "no-capability": (Reason.PERMISSION_DENIED, True, "CAP_SYS_MODULE"),
    "modules-disabled": (Reason.PERMISSION_DENIED, True, "kernel.modules_disabled is 1"),
}
SILENT = {"unknown-parameter", "init-fails-exists"}
"""Where modprobe exits with 0."""


@pytest.mark.parametrize("name", EXPLAINED)
def test_error_of_a_real_kernel_is_explained(name: str) -> None:
    reason, retry, *words = EXPLAINED[name]
    told = COLLECTED[name].explained()
    assert (told.failure.reason, told.retry) == (reason, retry)
    assert [word for word in words if word not in told.failure.message] == [], told.failure.message
    assert told.failure.exit_code == COLLECTED[name].exit_code != 0
    assert told.failure.bounded() == told.failure


def test_parameter_that_a_real_kernel_ignores_is_found_though_modprobe_succeeds() -> None:
    ignored = COLLECTED["unknown-parameter"]
    assert (ignored.exit_code, ignored.stderr) == (0, "")
    assert ignored.row is not None
    assert ignored_parameters(ignored.attempt().kernel_log) == ("bogus",)


def test_init_that_says_eexist_is_a_success_for_modprobe_and_no_module() -> None:
    silent = COLLECTED["init-fails-exists"]
    assert (silent.exit_code, silent.stderr, silent.row) == (0, "", None)


def test_every_case_is_collected_and_explained() -> None:
    assert COLLECTED.keys() == CASES.keys() == EXPLAINED.keys() | SILENT


@pytest.mark.parametrize("error", COLLECTED.values(), ids=COLLECTED)
def test_file_of_an_error_reads_as_it_was_written(error: Collected) -> None:
    assert decode(encode(error)) == error


def test_difference_names_what_is_new_gone_or_changed(tmp_path: Path) -> None:
    kept, new = tmp_path / "kept", tmp_path / "new"
    busy, killed = COLLECTED["in-use-by-module"], COLLECTED["killed"]
    write_all({"same": busy, "changed": killed, "gone": killed}, kept)
    write_all({"same": busy, "changed": replace(killed, signal=15), "new": killed}, new)
    found = difference(kept, new)
    assert '-  "signal": 9,\n+  "signal": 15,' in found
    for name in ("changed", "gone", "new"):
        assert f"--- kept/{name}.json\n+++ collected now/{name}.json" in found
    assert "same" not in found
    assert difference(kept, kept) == ""


def test_what_is_different_every_time_is_not_kept() -> None:
    error = replace(COLLECTED["killed"], stderr="ctx=0x55d1c0 path", users=("sh (process 812)",))
    text = encode(error)
    assert "ctx=0x0 path" in text
    assert "sh (process 7)" in text
