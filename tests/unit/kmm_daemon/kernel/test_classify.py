"""Texts are those of kmod 30 and Linux 6.1 where a User-Mode Linux kernel can show the case."""

import inspect
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kmm_common.api.names import Reason
from kmm_common.desired import ModuleRef
from kmm_daemon.kernel import classify
from kmm_daemon.kernel.classify import (
    Attempt,
    ignored_parameters,
    in_use,
    load_failure,
    unload_failure,
)
from kmm_daemon.kernel.runner import Completed
from kmm_daemon.values import KernelModule, Process

NOT_INSERTED = "modprobe: ERROR: could not insert '{}': {}\n"
ENOENT = "Unknown symbol in module, or unknown parameter (see dmesg)"


def attempt(stderr: str = "", log: str | tuple[str, ...] = (), **more) -> Attempt:
    completed = more.pop("completed", Completed(exit_code=1, stderr=stderr))
    lines = (log,) if isinstance(log, str) else log
    return Attempt(name="kmt_core", completed=completed, kernel_log=lines, kernel="6.1.176", **more)


def refused(error: str, log: str | tuple[str, ...] = (), name: str = "kmt_core", **more) -> Attempt:
    return attempt(NOT_INSERTED.format(name, error), log, **more)


LOADS = [
    (
        attempt(
            "modprobe: FATAL: Module nosuch not found in directory /run/sh/lib/modules/6.1.176\n"
        ),
        Reason.MODULE_NOT_FOUND,
        False,
        "no module nosuch for kernel 6.1.176",
    ),
    (
        attempt(
            "modprobe: FATAL: Module kmt-core not found in directory /run/sh/lib/modules/6.1.176\n",
            files={"kmt_core": "extra/kmt-core.ko.gz"},
        ),
        Reason.INVALID_MODULE,
        False,
        "modprobe here does not know the compression of extra/kmt-core.ko.gz: put it into",
    ),
    (
        refused(ENOENT, "kmt_user: Unknown symbol kmt_answer (err -2)", "kmt_user"),
        Reason.UNKNOWN_SYMBOL,
        True,
        "kmt_user needs symbol kmt_answer",
    ),
    (
        refused("Invalid argument", "kmt_user: disagrees about version of symbol kmt_answer"),
        Reason.UNKNOWN_SYMBOL,
        True,
        "another version of symbol kmt_answer",
    ),
    (
        refused(
            "Invalid argument",
            (
                "kmt_user: disagrees about version of symbol kmt_answer",
                "kmt_user: Unknown symbol kmt_answer (err -22)",
            ),
        ),
        Reason.UNKNOWN_SYMBOL,
        True,
        "another version of symbol kmt_answer: build it against",
    ),
    (
        refused("No such device", "kmt_core: no symbol version for module_layout"),
        Reason.DEVICE_ERROR,
        True,
        "ENODEV",
    ),
    (
        refused("Exec format error", "mine: exports duplicate symbol foo (owned by other)"),
        Reason.LOADED_FROM_ELSEWHERE,
        True,
        "symbol foo, which other has",
    ),
    (
        refused(
            "Exec format error",
            "kmt_user: version magic '6.1.177 mod_unload ' should be '6.1.176 mod_unload '",
        ),
        Reason.WRONG_VERMAGIC,
        False,
        "'6.1.177 mod_unload', this node runs '6.1.176 mod_unload'",
    ),
    (
        refused("Exec format error", vermagic="6.1.177 mod_unload", log_readable=False),
        Reason.WRONG_VERMAGIC,
        False,
        "'6.1.177 mod_unload', this node runs '6.1.176'",
    ),
    (
        refused("Exec format error", "Invalid ELF section header overflow"),
        Reason.INVALID_MODULE,
        False,
        "kmt_core: Invalid ELF section header overflow",
    ),
    (refused("Invalid module format"), Reason.INVALID_MODULE, False, "kmt_core"),
    (
        refused(
            "Exec format error",
            r"Invalid ELF header magic: != \177ELF",
            files={"kmt_core": "extra/kmt-core.ko.gz"},
        ),
        Reason.INVALID_MODULE,
        False,
        "modprobe here does not know the compression of extra/kmt-core.ko.gz: put it into",
    ),
    (
        refused(
            "Exec format error",
            "Invalid architecture in ELF header: 183",
            files={"kmt_core": "extra/kmt-core.ko.gz"},
        ),
        Reason.INVALID_MODULE,
        False,
        "kmt_core: Invalid architecture in ELF header: 183",
    ),
    (
        refused("Key was rejected by service"),
        Reason.SIGNATURE_REJECTED,
        False,
        "Key was rejected by service",
    ),
    (refused("Required key not available"), Reason.SIGNATURE_REJECTED, False, "sign the module"),
    (
        refused(
            "Operation not permitted",
            "Lockdown: modprobe: unsigned module loading is restricted; see man kernel_lockdown.7",
        ),
        Reason.SIGNATURE_REJECTED,
        False,
        "kernel lockdown forbids unsigned module loading",
    ),
    (
        refused("Key was rejected by service", "Loading of unsigned module is rejected"),
        Reason.SIGNATURE_REJECTED,
        False,
        "rejects it: unsigned module",
    ),
    (
        refused("Invalid argument", "kmt_core: `abc' invalid for parameter `fail'"),
        Reason.BAD_PARAMETER,
        False,
        "does not take 'abc' for parameter fail",
    ),
    (
        refused("Numerical result out of range", parameters=("numdummies=99999999999",)),
        Reason.BAD_PARAMETER,
        False,
        "refuses numdummies=99999999999 (Numerical result out of range)",
    ),
    (
        refused("Invalid argument", parameters=("a=b",), log_readable=False),
        Reason.BAD_PARAMETER,
        False,
        "refuses a=b",
    ),
    (
        refused(
            ENOENT,
            (
                "platform kmt_core: firmware: failed to load acme/a.bin (-2)",
                "platform kmt_core: Direct firmware load for acme/a.bin failed with error -2",
            ),
        ),
        Reason.FIRMWARE_MISSING,
        True,
        "firmware acme/a.bin, which this node does not have (-2)",
    ),
    (refused("Module already in kernel"), Reason.LOADED_FROM_ELSEWHERE, True, "kmt_core is in"),
    (
        refused("Invalid argument", "sysfs: cannot create duplicate filename '/module/kmt_core'"),
        Reason.LOADED_FROM_ELSEWHERE,
        True,
        "kmt_core is in the kernel already",
    ),
    (
        attempt("modprobe: FATAL: Module ext4 is builtin.\n"),
        Reason.BUILT_IN,
        False,
        "built into kernel 6.1.176",
    ),
    (refused("No such device"), Reason.DEVICE_ERROR, True, "failed with ENODEV: No such device"),
    (refused("Cannot allocate memory"), Reason.DEVICE_ERROR, True, "ENOMEM"),
    (refused("Device or resource busy"), Reason.DEVICE_ERROR, True, "EBUSY"),
    (refused("Input/output error", name="dep"), Reason.DEVICE_ERROR, True, "init of dep failed"),
    (refused("Connection timed out"), Reason.DEVICE_ERROR, True, "ETIMEDOUT"),
    (refused("Invalid argument"), Reason.DEVICE_ERROR, True, "EINVAL"),
    (refused(ENOENT, "kmt_core: told to fail with -2"), Reason.DEVICE_ERROR, True, "ENOENT"),
    (refused(ENOENT, log_readable=False), Reason.DEVICE_ERROR, True, "may not read it"),
    (refused("Operation not permitted"), Reason.PERMISSION_DENIED, True, "CAP_SYS_MODULE"),
    (refused("Permission denied"), Reason.PERMISSION_DENIED, True, "security module"),
    (refused("Operation not permitted"), Reason.PERMISSION_DENIED, True, "module_blacklist"),
    (
        refused("Operation not permitted", modules_disabled=True),
        Reason.PERMISSION_DENIED,
        True,
        "kernel.modules_disabled is 1",
    ),
    (
        refused("Operation not permitted", "module: Module kmt_core is blacklisted"),
        Reason.PERMISSION_DENIED,
        False,
        "module_blacklist on the kernel's command line forbids kmt_core: take it out of there",
    ),
    (
        refused("Operation not permitted", "Module kmt-low is blacklisted", names=("kmt_low",)),
        Reason.PERMISSION_DENIED,
        False,
        "forbids kmt-low",
    ),
    (
        refused("Operation not permitted", "Module other is blacklisted", names=("kmt_low",)),
        Reason.PERMISSION_DENIED,
        True,
        "CAP_SYS_MODULE",
    ),
    (
        attempt(completed=Completed(exit_code=None, signal=15, timed_out=True)),
        Reason.TIMED_OUT,
        True,
        "kmt_core took too long",
    ),
    (
        attempt(completed=Completed(exit_code=None, signal=9)),
        Reason.KILLED,
        True,
        "a signal ended modprobe (9)",
    ),
    (
        attempt("something new\nand its last line\n"),
        Reason.MODPROBE_FAILED,
        True,
        "kmt_core: and its last line",
    ),
    (attempt(""), Reason.MODPROBE_FAILED, True, "said nothing and exited with 1"),
]


@pytest.mark.parametrize(("done", "reason", "retry", "words"), LOADS)
def test_failed_load_is_explained(done, reason, retry, words):
    error = load_failure(done)
    assert (error.failure.reason, error.retry) == (reason, retry)
    assert re.search(re.escape(words), error.failure.message)
    assert error.failure.exit_code == done.completed.exit_code
    assert error.failure.kernel_log == done.kernel_log


def no_firmware(device: str, file: str = "a.bin") -> str:
    return f"{device}Direct firmware load for {file} failed with error -2"


OTHERS = no_firmware("platform regulatory.0: ", "regulatory.db")


@pytest.mark.parametrize(
    "device",
    [
        "kmt_core 0000:3b:00.0: ",
        "kmt-core 0000:3b:00.0: ",
        "platform kmt_core.0: ",
        "misc kmt_core: ",
        "kmt_low usb1: ",
    ],
)
@pytest.mark.parametrize("error", [ENOENT, "Input/output error"])
def test_firmware_is_the_cause_where_the_line_names_a_module_of_the_load(device, error):
    log = (OTHERS, no_firmware(device))
    told = load_failure(refused(error, log, names=("kmt_core", "kmt_low"))).failure
    assert told.reason == Reason.FIRMWARE_MISSING
    assert "kmt_core asks for firmware a.bin" in told.message
    assert told.kernel_log == log


@pytest.mark.parametrize("device", ["", "(NULL device *): ", "usb 6-1: ", "pci 0000:01:00.0: "])
def test_firmware_nobody_is_named_for_is_the_cause_only_of_a_file_not_found(device):
    line = no_firmware(device)
    assert load_failure(refused(ENOENT, line)).failure.reason == Reason.FIRMWARE_MISSING
    for other in (refused("Input/output error", line), refused(ENOENT, (line, OTHERS))):
        assert load_failure(other).failure.reason == Reason.DEVICE_ERROR


@pytest.mark.parametrize(
    "device", ["ice 0000:3b:00.0: ", "kmt_core2 0000:01:00.0: ", "platform regulatory.0: "]
)
def test_firmware_another_driver_has_asked_for_is_not_the_cause_but_stays_in_the_log(device):
    line = no_firmware(device)
    for error, reason in ((ENOENT, Reason.DEVICE_ERROR), ("Operation not permitted", "Permission")):
        told = load_failure(refused(error, line)).failure
        assert told.reason.startswith(reason)
        assert told.kernel_log == (line,)


def test_every_explanation_fits_into_the_status():
    for done, *_ in LOADS:
        assert load_failure(done).failure.bounded().message == load_failure(done).failure.message


def test_process_that_cannot_be_killed_is_named():
    process = Process(ref=ModuleRef("ns", "m"), pid=827, program="modprobe", names=("m", "below"))
    completed = Completed(exit_code=None, timed_out=True)
    error = load_failure(attempt(completed=completed, unended=process))
    assert error.failure.reason == Reason.STILL_RUNNING
    assert "process 827 (modprobe m) has not ended" in error.failure.message


def row(**fields) -> KernelModule:
    return KernelModule(name="slhc", **fields)


UNLOADS = [
    (
        attempt("rmmod: ERROR: Module slhc is in use by: ppp_generic\n"),
        row(refcount=1, holders=("ppp_generic",)),
        (),
        Reason.IN_USE,
        "slhc is in use by module ppp_generic",
    ),
    (
        attempt("modprobe: FATAL: Module ppp_generic is in use.\n"),
        row(refcount=2),
        ("pppd (process 7) with /dev/ppp",),
        Reason.IN_USE,
        "by pppd (process 7) with /dev/ppp",
    ),
    (
        attempt("rmmod: ERROR: could not remove module slhc: Resource temporarily unavailable\n"),
        row(),
        (),
        Reason.IN_USE,
        "refcount 0",
    ),
    (
        attempt("rmmod: ERROR: Module kmt_core is in use\n"),
        row(refcount=1, state="Loading"),
        (),
        Reason.IN_USE,
        "still Loading",
    ),
    (
        attempt(completed=Completed(exit_code=None, signal=9, timed_out=True)),
        row(refcount=-1, state="Unloading"),
        (),
        Reason.TIMED_OUT,
        "took too long",
    ),
    (
        attempt("rmmod: ERROR: could not remove module slhc: Operation not permitted\n"),
        row(),
        (),
        Reason.PERMISSION_DENIED,
        "CAP_SYS_MODULE",
    ),
    (attempt("rmmod: ERROR: odd\n"), row(), (), Reason.MODPROBE_FAILED, "rmmod: ERROR: odd"),
]


@pytest.mark.parametrize(("done", "now", "users", "reason", "words"), UNLOADS)
def test_failed_unload_is_explained(done, now, users, reason, words):
    error = unload_failure(done, now, users)
    assert error.failure.reason == reason
    assert words in error.failure.message
    assert error.retry


def test_holders_and_users_are_both_named():
    text = in_use(row(refcount=2, holders=("a", "b")), ("x (process 1) with /dev/y",))
    assert text == (
        "slhc is in use by module a, module b, x (process 1) with /dev/y: stop or unload that first"
    )


def test_parameters_that_the_kernel_ignores_are_found():
    lines = (
        "dummy: unknown parameter 'bogus' ignored",
        "x: unknown parameter '--foo' ignored",
        "y",
    )
    assert ignored_parameters(lines) == ("bogus", "--foo")


@given(st.text(), st.lists(st.text()).map(tuple))
def test_every_text_has_an_explanation(stderr, log):
    failure = load_failure(attempt(stderr, log)).failure
    assert failure.message
    assert failure.reason in set(Reason)


def tried_again() -> dict[str, set[bool]]:
    """Return what the reference tells users, by reason: both where it is `yes, unless` or so."""
    text = (Path(__file__).parents[4] / "docs/reference/reasons.md").read_text()
    rows = (line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| `"))
    return {row[0].strip("`"): _answers(row[3].strip()) for row in rows if len(row) == 4}


def _answers(words: str) -> set[bool]:
    return {True, False} if words.startswith("yes, unless") else {words != "no"}


def test_reference_tells_what_is_tried_again():
    told = tried_again()
    made = {(str(reason), retry) for _, reason, retry, _ in LOADS}
    assert {(reason, again) for reason, _ in made for again in told[reason]} == made


def test_every_reason_of_the_classifier_has_a_case():
    used = set(re.findall(r"Cause\(\s*Reason\.(\w+)", inspect.getsource(classify)))
    cases = {reason.name for _, reason, _, _ in LOADS}
    assert used - cases == {"IN_USE"}, "only an unload says InUse"
