"""Which build of a kernel module one is: by its srcversion, else by its GNU build-id. Pure.

A srcversion is in modules with a MODULE_VERSION, or in all of a kernel that is configured with
MODULE_SRCVERSION_ALL; a build-id in all that the linker was told to give one, as kernels do.
"""

from kmm_daemon.values import KernelModule, KernelView, LoadedRecord

BUILD_ID = "build-id "


def build(srcversion: str, build_id: str) -> str:
    """Return what tells one build of a module from another; empty where it has neither.

    One with a srcversion is never the same as one without, so each side can say what it has.
    """
    return srcversion or (f"{BUILD_ID}{build_id}" if build_id else "")


def told(known: str) -> str:
    """Return a build as it is told to users."""
    return known if known.startswith(BUILD_ID) else f"srcversion {known}"


def same(row: KernelModule, expected: str) -> bool:
    """Tell whether the kernel is known to have the expected build of a module."""
    return row.build != "" and row.build == expected


def differs(row: KernelModule, expected: str) -> bool:
    """Tell whether the kernel is known to have another build of a module than the expected one."""
    return bool(row.build and expected and row.build != expected)


def refusal(row: KernelModule, expected: str) -> str:
    """Say how a module in the kernel is not known to be the image's, and what to do."""
    if row.build and expected:
        return (
            f"{row.name} is in the kernel with {told(row.build)}, the image has {told(expected)}: "
            f"use an image with the build in the kernel, {unloading(row.name)}"
        )
    lacks = "in the image" if row.build else "in the kernel"
    return (
        f"{row.name} is in the kernel, and nobody can tell whether it is the image's: "
        f"the one {lacks} has neither srcversion nor build-id: {unloading(row.name)}"
    )


def unloading(name: str) -> str:
    """Say how a module that somebody else has loaded gets out of the kernel, and at what risk.

    A use count does not show it: that of a network driver which carries traffic is 0.
    """
    return (
        f"unload {name} on a drained node, or name it in inTreeModulesToRemove, which unloads it "
        "even while its devices are at work"
    )


def untold(record: LoadedRecord, view: KernelView) -> str:
    """Say of a loaded Module that its kernel module could be replaced unseen; empty if not."""
    row = view.modules.get(next(iter(record.kernel_modules), ""))
    if row is None or row.state != "Live" or row.build:
        return ""
    return (
        f"{row.name} has neither srcversion nor build-id: if somebody replaces it in the kernel, "
        "that cannot be seen"
    )
