"""System calls that the image worker gives up for good, by libseccomp.

The Pod's profile (manifests/base/daemon/seccomp.json) allows what daemon and modprobe need; this
takes away what is left of it and of no use for pulling and unpacking, whatever the profile is.
"""

import ctypes
import errno
import os

LIBRARY = "libseccomp.so.2"
FORBIDDEN = (
    # Other programs.
    *("execve", "execveat"),
    # The kernel: modules, its log, another kernel, programs in it.
    *("init_module", "finit_module", "delete_module", "syslog", "kexec_load", "kexec_file_load"),
    *("bpf", "perf_event_open", "reboot", "userfaultfd"),
    *("io_uring_setup", "io_uring_enter", "io_uring_register"),
    # Other processes, other users, keys.
    *("ptrace", "process_vm_readv", "process_vm_writev", "pidfd_getfd", "kcmp"),
    *("setuid", "setgid", "setreuid", "setregid", "setresuid", "setresgid", "setgroups", "capset"),
    *("add_key", "request_key", "keyctl"),
    # Other file systems and namespaces; files by handle know no root directory.
    *("mount", "umount2", "move_mount", "open_tree", "fsopen", "fsconfig", "fsmount", "fspick"),
    *("mount_setattr", "pivot_root", "chroot", "unshare", "setns", "open_by_handle_at"),
    *("mknod", "mknodat", "swapon", "swapoff"),
)

_ALLOW = 0x7FFF0000
_REFUSE = 0x00050000 | errno.EPERM
_UNKNOWN = -1


def forbid(names: tuple[str, ...] = FORBIDDEN) -> None:
    """Have these calls refused with EPERM, in all threads to come. Raises OSError.

    The process must have no_new_privs.
    """
    library = _library()
    context = library.seccomp_init(ctypes.c_uint32(_ALLOW))
    if not context:
        raise OSError(errno.ENOMEM, "seccomp_init")
    try:
        for name in names:
            number = library.seccomp_syscall_resolve_name(name.encode())
            # A libseccomp that is older than a call does not know it.
            if number != _UNKNOWN:
                rule = library.seccomp_rule_add(context, _REFUSE, number, 0)
                _require(rule, name)
        _require(library.seccomp_load(context), "seccomp_load")
    finally:
        library.seccomp_release(context)


def _library() -> ctypes.CDLL:
    try:
        library = ctypes.CDLL(LIBRARY)
    except OSError as error:
        raise OSError(errno.ENOENT, f"no {LIBRARY}: install libseccomp 2") from error
    library.seccomp_init.restype = ctypes.c_void_p
    library.seccomp_rule_add.argtypes = (
        *(ctypes.c_void_p, ctypes.c_uint32, ctypes.c_int, ctypes.c_uint),
    )
    for function in (library.seccomp_load, library.seccomp_release):
        function.argtypes = (ctypes.c_void_p,)
    return library


def _require(result: int, what: str) -> None:
    if result < 0:
        raise OSError(-result, f"{what}: {os.strerror(-result)}")
