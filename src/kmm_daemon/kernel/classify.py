"""Why modprobe or rmmod failed, in words a person can act on: pure.

modprobe exits 1 whatever happened: only its text and the kernel log of that moment tell.
"""

import errno
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from kmm_common.api.names import Reason
from kmm_common.desired import ModuleFailure
from kmm_daemon import builds
from kmm_daemon.kernel import symbols, vermagic
from kmm_daemon.kernel.runner import Completed
from kmm_daemon.kernel.symbols import Exporters
from kmm_daemon.unended import still_running
from kmm_daemon.values import KernelModule, Process, StepError, kernel_name

_ERRNO = {os.strerror(number): name for number, name in errno.errorcode.items()}
"""What a C program prints, by which error it is."""
_NO_SUCH_FILE = "Unknown symbol in module, or unknown parameter (see dmesg)"
"""modprobe's words for ENOENT, whatever its cause."""

_WORD = re.compile(r"[\w-]+")
_NOT_INSERTED = re.compile(r"could not insert '([^']+)': (.+)")
_NOT_REMOVED = re.compile(r"could not remove (?:module |')?([\w-]+)'?: (.+)")
_NOT_FOUND = re.compile(r"Module (\S+) not found in directory")
_VERMAGIC = re.compile(r"(\S+): version magic '([^']*)' should be '([^']*)'")
_TWICE = re.compile(r"(\S+): exports duplicate symbol (\S+) \(owned by (\S+)\)")
_NO_FIRMWARE = re.compile(r"Direct firmware load for (\S+) failed with error (-\d+)")
_NO_DRIVER = re.compile(r"((\(NULL device \*\)|(pci|usb) [\da-f:.-]+): )?")
"""What is before that where no driver has the device: it names nobody."""
_BAD_VALUE = re.compile(r"(\S+): `(.*)' (?:invalid|too large) for parameter `(.*)'")
_IGNORED = re.compile(r"(\S+): unknown parameter '(.*)' ignored")
_LOCKDOWN = re.compile(r"Lockdown: \S+: (.+?) is restricted")
_REJECTED = re.compile(r"Loading of (.+) is rejected")
_NO_ELF = re.compile(r"Invalid (?:architecture in )?ELF.*")
_BLACKLISTED = re.compile(r"Module (\S+) is blacklisted")
_COMPRESSED = (".gz", ".xz", ".zst")
_SIGNATURE_ERRORS = ("EKEYREJECTED", "ENOKEY", "EKEYEXPIRED", "EKEYREVOKED", "EBADMSG")
_ALREADY = re.compile(r"Module already in kernel|cannot create duplicate filename '/module/")


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One run of modprobe or rmmod, and what was known around it."""

    name: str
    """kernel_name of what was asked for; empty with rawArgs."""
    names: tuple[str, ...] = ()
    """kernel_names of what it may have touched."""
    completed: Completed
    kernel_log: tuple[str, ...] = ()
    """Lines of that moment."""
    log_readable: bool = True
    kernel: str = ""
    parameters: tuple[str, ...] = ()
    vermagic: str = ""
    """Of the Module's own file."""
    files: Mapping[str, str] = field(default_factory=dict)
    """The image's modules: path by kernel_name."""
    modules_disabled: bool = False
    exporters: Exporters = field(default_factory=Exporters)
    """Of symbols that were missing."""
    unended: Process | None = None
    """What even SIGKILL has not ended."""

    @property
    def refused(self) -> tuple[str, str]:
        """Return the module that could not be inserted or removed, and the text of the error."""
        stderr = self.completed.stderr
        match = _NOT_INSERTED.search(stderr) or _NOT_REMOVED.search(stderr)
        return (match[1], match[2].strip()) if match else (self.name, "")

    @property
    def error(self) -> str:
        """Return the name of the errno; empty if there is none."""
        text = self.refused[1]
        if text == _NO_SUCH_FILE:
            return "ENOENT"
        return "ENOEXEC" if text == "Invalid module format" else _ERRNO.get(text, "")

    def names_own(self, text: str) -> bool:
        """Tell whether a text names a module of this attempt, in either spelling."""
        own = {kernel_name(name) for name in (self.name, self.refused[0], *self.names)}
        return any(kernel_name(word) in own for word in _WORD.findall(text))

    def first(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        """Return the first line of the kernel log that matches."""
        return next(filter(None, map(pattern.search, self.kernel_log)), None)


@dataclass(frozen=True, slots=True)
class Cause:
    """A reason with its message; `retry` is False where only another image or entry helps."""

    reason: Reason
    message: str
    retry: bool = True


def load_failure(attempt: Attempt) -> StepError:
    """Return why a load failed: the first rule that has an answer."""
    return _told(attempt, _LOAD_RULES)


def unload_failure(attempt: Attempt, row: KernelModule | None, users: Iterable[str]) -> StepError:
    """Return why a removal failed; `row` is the module as it is now, `users` who has it open."""
    stderr = attempt.completed.stderr
    busy = "is in use" in stderr or attempt.error in ("EBUSY", "EAGAIN")
    if row and not attempt.completed.timed_out and (busy or row.holders or row.refcount > 0):
        return _error(attempt, Cause(Reason.IN_USE, in_use(row, users)))
    return _told(attempt, _UNLOAD_RULES)


def in_use(row: KernelModule, users: Iterable[str] = ()) -> str:
    """Say who holds a module, as far as that can be seen."""
    if row.state != "Live":
        return f"{row.name} is still {row.state}: its init or exit has not returned"
    holders = [f"module {name}" for name in row.holders]
    by = ", ".join((*holders, *users))
    if by:
        return f"{row.name} is in use by {by}: stop or unload that first"
    return f"{row.name} is in use (refcount {row.refcount}), by nothing that /proc shows"


def ignored_parameters(kernel_log: Iterable[str]) -> tuple[str, ...]:
    """Return the parameters that the kernel did not know: modprobe succeeds all the same."""
    return tuple(match[2] for match in map(_IGNORED.search, kernel_log) if match)


def _told(attempt: Attempt, rules: Iterable[Callable[[Attempt], Cause | None]]) -> StepError:
    cause = next(filter(None, (rule(attempt) for rule in rules)), None)
    return _error(attempt, cause or _unknown(attempt))


def _error(attempt: Attempt, cause: Cause) -> StepError:
    failure = ModuleFailure(
        reason=cause.reason,
        message=cause.message,
        exit_code=attempt.completed.exit_code,
        kernel_log=attempt.kernel_log,
    )
    return StepError(failure, retry=cause.retry)


def _timed_out(attempt: Attempt) -> Cause | None:
    if attempt.unended:
        told = still_running(attempt.unended)
        return Cause(Reason(told.reason), told.message)
    if attempt.completed.timed_out:
        return Cause(Reason.TIMED_OUT, f"{attempt.name or 'modprobe'} took too long and was ended")
    return None


def _killed(attempt: Attempt) -> Cause | None:
    number = attempt.completed.signal
    message = f"a signal ended modprobe ({number}): out of memory, or somebody killed it"
    return Cause(Reason.KILLED, message) if number else None


def _signature(attempt: Attempt) -> Cause | None:
    name, text = attempt.refused
    if match := attempt.first(_LOCKDOWN):
        why = f"kernel lockdown forbids {match[1]}"
    elif match := attempt.first(_REJECTED):
        why = f"the kernel rejects it: {match[1]}"
    elif attempt.error in _SIGNATURE_ERRORS:
        why = f"the kernel rejects its signature: {text}"
    else:
        return None
    remedy = "sign the module with a key that this machine trusts (MOK or platform keyring)"
    return Cause(Reason.SIGNATURE_REJECTED, f"{name}: {why}; {remedy}", retry=False)


def _vermagic(attempt: Attempt) -> Cause | None:
    if match := attempt.first(_VERMAGIC):
        name, built, running = match[1], match[2].strip(), match[3].strip()
    elif attempt.error == "ENOEXEC" and attempt.vermagic.split(" ")[0] not in ("", attempt.kernel):
        name, built, running = attempt.name, attempt.vermagic, attempt.kernel
    else:
        return None
    return Cause(Reason.WRONG_VERMAGIC, vermagic.told(name, built, running), retry=False)


def _symbol(attempt: Attempt) -> Cause | None:
    # First: loading the module that exports a symbol does not help one built for another.
    if why := symbols.withheld(attempt.kernel_log):
        return Cause(Reason.UNKNOWN_SYMBOL, why)
    if lack := symbols.missing(attempt.kernel_log):
        return Cause(Reason.UNKNOWN_SYMBOL, symbols.told(lack, attempt.exporters))
    if match := attempt.first(_TWICE):
        message = (
            f"{match[1]} exports symbol {match[2]}, which {match[3]} has in the kernel already: "
            f"{builds.unloading(match[3])}"
        )
        return Cause(Reason.LOADED_FROM_ELSEWHERE, message)
    return None


def _firmware(attempt: Attempt) -> Cause | None:
    match = _own_firmware(attempt)
    if match is None:
        return None
    message = f"{attempt.refused[0]} asks for firmware {match[1]}, which this node does not have "
    return Cause(
        Reason.FIRMWARE_MISSING, f"{message}({match[2]}): put it under the image's firmwarePath"
    )


def _own_firmware(attempt: Attempt) -> re.Match[str] | None:
    """Return the line of a file that this load has asked for.

    Other drivers ask at the same time, and for files that they can do without.
    """
    found = list(filter(None, map(_NO_FIRMWARE.search, attempt.kernel_log)))
    own = [match for match in found if attempt.names_own(_asking(match))]
    if not own and attempt.error == "ENOENT" and all(map(_names_nobody, found)):
        own = found
    return own[0] if own else None


def _asking(match: re.Match[str]) -> str:
    """Return what the kernel says of the device: its driver, else its bus, then its name."""
    return match.string[: match.start()]


def _names_nobody(match: re.Match[str]) -> bool:
    return _NO_DRIVER.fullmatch(_asking(match)) is not None


def _parameter(attempt: Attempt) -> Cause | None:
    name, text = attempt.refused
    if match := attempt.first(_BAD_VALUE):
        message = f"{match[1]} does not take {match[2]!r} for parameter {match[3]}: correct"
    elif attempt.parameters and (
        attempt.error == "ERANGE" or (attempt.error == "EINVAL" and not attempt.log_readable)
    ):
        message = f"{name} refuses {' '.join(attempt.parameters)} ({text}): correct"
    else:
        return None
    return Cause(Reason.BAD_PARAMETER, f"{message} modprobe.parameters", retry=False)


def _not_found(attempt: Attempt) -> Cause | None:
    match = _NOT_FOUND.search(attempt.completed.stderr)
    if match is None:
        return None
    if unknown := _unknown_compression(attempt, match[1]):
        return unknown
    message = f"the image has no module {match[1]} for kernel {attempt.kernel}: correct moduleName"
    return Cause(Reason.MODULE_NOT_FOUND, f"{message}, dirName or the image", retry=False)


def _unknown_compression(attempt: Attempt, name: str) -> Cause | None:
    """Which compressions a modprobe knows is decided when it is built."""
    path = attempt.files.get(kernel_name(name), "")
    if not path.endswith(_COMPRESSED):
        return None
    message = f"modprobe here does not know the compression of {path}: put it into the image as .ko"
    return Cause(Reason.INVALID_MODULE, message, retry=False)


def _already_loaded(attempt: Attempt) -> Cause | None:
    if not (_ALREADY.search(attempt.completed.stderr) or attempt.first(_ALREADY)):
        return None
    name = attempt.refused[0]
    message = f"{name} is in the kernel already: {builds.unloading(name)}"
    return Cause(Reason.LOADED_FROM_ELSEWHERE, message)


def _built_in(attempt: Attempt) -> Cause | None:
    if "is builtin" not in attempt.completed.stderr:
        return None
    message = f"{attempt.name} is built into kernel {attempt.kernel} and cannot be replaced"
    return Cause(Reason.BUILT_IN, message, retry=False)


def _invalid_file(attempt: Attempt) -> Cause | None:
    if attempt.error != "ENOEXEC":
        return None
    match = attempt.first(_NO_ELF)
    unknown = _unknown_compression(attempt, attempt.refused[0])
    if unknown and match and "magic" in match[0]:
        return unknown
    why = match[0] if match else "truncated, not for this architecture, or of another build"
    message = f"the kernel does not take the file of {attempt.refused[0]}: {why}"
    return Cause(Reason.INVALID_MODULE, f"{message}; build the image again", retry=False)


def _blacklisted(attempt: Attempt) -> Cause | None:
    found = filter(None, map(_BLACKLISTED.search, attempt.kernel_log))
    name = next((match[1] for match in found if attempt.names_own(match[1])), "")
    if not name or attempt.error != "EPERM":
        return None
    message = f"module_blacklist on the kernel's command line forbids {name}: take it out of there "
    return Cause(Reason.PERMISSION_DENIED, f"{message}and reboot the node", retry=False)


def _forbidden(attempt: Attempt) -> Cause | None:
    text = attempt.refused[1]
    if attempt.modules_disabled and attempt.error == "EPERM":
        message = "kernel.modules_disabled is 1: no module can be loaded or unloaded until a reboot"
    elif (
        attempt.error in ("EPERM", "EACCES")
        or "Operation not permitted" in attempt.completed.stderr
    ):
        why = text or "Operation not permitted"
        message = f"{attempt.refused[0]}: {why}: the daemon needs CAP_SYS_MODULE, and a security "
        message += "module, the kernel's module_blacklist or the driver itself may refuse, too"
    else:
        return None
    return Cause(Reason.PERMISSION_DENIED, message)


def _device(attempt: Attempt) -> Cause | None:
    name, text = attempt.refused
    if not attempt.error:
        return None
    if attempt.error != "ENOENT":
        message = f"init of {name} failed with {attempt.error}: {text}"
    elif attempt.log_readable:
        message = f"init of {name} failed with ENOENT: it did not find something it needs"
    else:
        message = f"{name}: a symbol, a file or a device is missing (ENOENT); the kernel log would "
        message += "say which, but the daemon may not read it"
    return Cause(Reason.DEVICE_ERROR, message)


def _unknown(attempt: Attempt) -> Cause:
    last = attempt.completed.stderr.strip().rpartition("\n")[2]
    said = last or f"it said nothing and exited with {attempt.completed.exit_code}"
    return Cause(Reason.MODPROBE_FAILED, f"{attempt.name or 'rawArgs'}: {said}")


_LOAD_RULES = (
    _timed_out,
    _killed,
    _signature,
    _vermagic,
    _symbol,
    _parameter,
    _firmware,
    _not_found,
    _already_loaded,
    _built_in,
    _invalid_file,
    _blacklisted,
    _forbidden,
    _device,
)
_UNLOAD_RULES = (_timed_out, _killed, _built_in, _forbidden)
