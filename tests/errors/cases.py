"""Every error that the nodes' kernel can be made to show: pure but for reading modules.

It rejects no signature (built without CONFIG_MODULE_SIG: module.sig_enforce means nothing to it),
is never locked down (no CONFIG_SECURITY_LOCKDOWN_LSM) and compares no versions of symbols (no
CONFIG_MODVERSIONS): for these test_classify.py has the words of the kernel's source.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from kmm_sandbox import kmodimage
from kmm_sandbox.umlkernel import UmlKernel
from support.stage import own_module

CORE, USER, TWIN = "kmt_core", "kmt_user", "kmt_twin"
Files = Mapping[str, bytes]

_HOLD_OPEN = (
    'setsid sh -c "echo \\$\\$ > /run/holder; exec sleep 1000" < /dev/kmt_core > /dev/null 2>&1 &'
    " until [ -s /run/holder ]; do :; done"
)
_LET_GO = "kill $(cat /run/holder) && rm /run/holder && until rmmod kmt_core; do :; done"
_KILL_WHILE_LOADING = (
    '(until grep -q "^kmt_core .* Loading " /proc/modules; do :; done; kill -KILL $$) & exec "$@"'
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """How one error is provoked."""

    about: str
    name: str = CORE
    """What is loaded or unloaded."""
    image: str = "whole"
    """One of images()."""
    unload: bool = False
    parameters: tuple[str, ...] = ()
    load_args: tuple[str, ...] = ()
    unload_args: tuple[str, ...] = ()
    """With some, modprobe unloads; without, rmmod."""
    wrapper: tuple[str, ...] = ()
    """The words before the command line of modprobe or rmmod."""
    before: tuple[str, ...] = ()
    """Command lines for sh; $LOAD is modprobe with the image of this case."""
    after: tuple[str, ...] = ()
    """Command lines that tidy up."""


def images(kernel: UmlKernel) -> dict[str, Files]:
    """Return the files of kmod images by path, by the image's name."""
    core, user = own_module(kernel.version, CORE), own_module(kernel.version, USER)
    alone = _image(kernel, {CORE: core})
    ppp = next(file for path, file in kernel.closure(("ppp_generic",)).items() if "ppp_gen" in path)
    return {
        "whole": _image(kernel, {CORE: core, USER: user}, "configfs"),
        "without kmt_core": _image(kernel, {USER: user}),
        "without slhc": _image(kernel, {"ppp_generic": ppp.read_bytes()}),
        "twin": _image(kernel, {CORE: core, TWIN: core.replace(CORE.encode(), TWIN.encode())}),
        "other kernel": _replaced(alone, _for_another_kernel(core, kernel.version)),
        "other architecture": _replaced(alone, core[:18] + b"\xb7\x00" + core[20:]),
        "truncated": _replaced(alone, core[: len(core) // 3]),
        "text": _replaced(alone, b"this is no ELF file\n"),
    }


def _image(kernel: UmlKernel, own: Files, *stock: str) -> Files:
    extra = {f"{name}.ko": content for name, content in own.items()}
    return kmodimage.kmod_files(kernel, stock, extra=extra)


def _replaced(files: Files, content: bytes) -> Files:
    """Return the files with this one as kmt_core.ko, which depmod has seen whole."""
    return {path: content if path.endswith(f"{CORE}.ko") else old for path, old in files.items()}


def _for_another_kernel(core: bytes, version: str) -> bytes:
    other = version[:-1] + ("7" if version[-1] != "7" else "8")
    return core.replace(f"vermagic={version} ".encode(), f"vermagic={other} ".encode())


def _init_fails(number: int, name: str) -> Case:
    return Case(about=f"init returns -{name}", parameters=(f"fail={number}",))


CASES: Mapping[str, Case] = {
    "not-found": Case(about="the image has no such module", name="kmt_absent"),
    "unknown-symbol": Case(
        about="the module that has the symbol is not in the image",
        name=USER,
        image="without kmt_core",
    ),
    "unknown-symbols-in-tree": Case(
        about="the module that has the symbols is the host's, not the image's",
        name="ppp_generic",
        image="without slhc",
    ),
    "duplicate-symbol": Case(
        about="a module that is loaded exports the same symbol",
        name=TWIN,
        image="twin",
        before=(f"$LOAD {CORE}",),
        after=(f"rmmod {CORE}",),
    ),
    "wrong-vermagic": Case(about="the module is built for another kernel", image="other kernel"),
    "other-architecture": Case(
        about="the module is built for another processor", image="other architecture"
    ),
    "truncated": Case(about="two thirds of the file are missing", image="truncated"),
    "not-elf": Case(about="the file is a text", image="text"),
    "unknown-parameter": Case(
        about="the kernel ignores a parameter that it does not know",
        parameters=("bogus=1", "delay_ms=1"),
        after=(f"rmmod {CORE}",),
    ),
    "bad-value": Case(about="a parameter is no number", parameters=("fail=abc",)),
    "value-out-of-range": Case(
        about="a parameter is too large a number", parameters=("fail=99999999999",)
    ),
    "firmware-missing": Case(
        about="init asks for firmware that nobody has", parameters=("fw=kmt/absent.bin",)
    ),
    "already-loaded": Case(
        about="the module is loaded already, and --first-time forbids that",
        load_args=("--first-time",),
        before=(f"$LOAD {CORE}",),
        after=(f"rmmod {CORE}",),
    ),
    "init-fails-no-device": _init_fails(19, "ENODEV"),
    "init-fails-io": _init_fails(5, "EIO"),
    "init-fails-busy": _init_fails(16, "EBUSY"),
    "init-fails-no-memory": _init_fails(12, "ENOMEM"),
    "init-fails-timeout": _init_fails(110, "ETIMEDOUT"),
    "init-fails-no-entry": _init_fails(2, "ENOENT"),
    "init-fails-invalid": _init_fails(22, "EINVAL"),
    "init-fails-exists": _init_fails(17, "EEXIST"),
    "init-fails-not-permitted": _init_fails(1, "EPERM"),
    "killed": Case(
        about="modprobe is killed while the module's init runs",
        parameters=("delay_ms=5000",),
        wrapper=("/bin/sh", "-c", _KILL_WHILE_LOADING, "sh"),
        after=(f"rmmod {CORE}",),
    ),
    "in-use-by-module": Case(
        about="another module stands on it",
        unload=True,
        before=(f"$LOAD {USER}",),
        after=(f"rmmod {USER}", f"rmmod {CORE}"),
    ),
    "in-use-by-open-file": Case(
        about="a process has its device open",
        unload=True,
        before=(f"$LOAD {CORE}", _HOLD_OPEN),
        after=(_LET_GO,),
    ),
    "in-use-by-mount": Case(
        about="its file system is mounted",
        name="configfs",
        unload=True,
        before=("$LOAD configfs", "mount -t configfs none /sys/kernel/config"),
        after=("umount /sys/kernel/config", "rmmod configfs"),
    ),
    "in-use-by-nobody-visible": Case(
        about="the kernel itself holds it",
        unload=True,
        before=(f"$LOAD {CORE} hold=Y",),
        after=(f"echo N > /sys/module/{CORE}/parameters/hold", f"rmmod {CORE}"),
    ),
    "built-in": Case(
        about="the kernel has it built in", name="ext4", unload=True, unload_args=("--verbose",)
    ),
    "no-capability": Case(
        about="modprobe runs without CAP_SYS_MODULE",
        wrapper=("/usr/bin/setpriv", "--bounding-set=-sys_module", "--inh-caps=-sys_module"),
    ),
    # The last one: only a reboot takes it back.
    "modules-disabled": Case(
        about="kernel.modules_disabled is set",
        before=("echo 1 > /proc/sys/kernel/modules_disabled",),
    ),
}
"""By the name of the file that it becomes."""
