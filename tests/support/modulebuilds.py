"""Other builds of a kernel module that is at hand, made without a compiler."""

from kmm_daemon.kernel import modinfo

_NOTE, _OTHER_NOTE = b".note.gnu.build-id\0", b".note.gnu.nothings\0"


def another_build(module: bytes) -> bytes:
    """Return the module with another build-id, as it has after any change of its code."""
    build_id = bytes.fromhex(modinfo.parse(module).build_id)
    assert module.count(build_id) == 1
    return module.replace(build_id, build_id[::-1])


def without_build_id(module: bytes) -> bytes:
    """Return the module as a linker leaves it that was not told to give it a build-id."""
    assert module.count(_NOTE) == 1
    return module.replace(_NOTE, _OTHER_NOTE)
