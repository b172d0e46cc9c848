"""What a load or a removal has come to, and what may be taken out: pure."""

from collections.abc import Iterable, Mapping

from kmm_common.api.names import Reason
from kmm_common.desired import DesiredModule, ModuleFailure
from kmm_daemon import builds
from kmm_daemon.kernel.contents import Contents
from kmm_daemon.kernel.moduledir import ModuleTree
from kmm_daemon.kernel.procfs import in_use
from kmm_daemon.values import KernelModule, KernelView, LoadedRecord, kernel_name

Rows = Mapping[str, KernelModule]


def built_in(module: DesiredModule, contents: Contents, view: KernelView) -> ModuleFailure | None:
    """Return why a module that the kernel has built in cannot be what the Module asks for.

    An image without a file of that name, and a Module without parameters, ask for nothing that is
    not there: such a load succeeds without modprobe.
    """
    own = contents.own
    if own not in view.builtin or own in view.modules:
        return None
    if own in contents.tree.files:
        why = "the image's module cannot replace it"
    elif module.modprobe.parameters:
        why = "parameters for it belong on the kernel command line"
    else:
        return None
    message = f"{own} is built into kernel {view.kernel_version}: {why}; leave this kernel out of "
    return ModuleFailure(reason=Reason.BUILT_IN, message=f"{message}kernelMappings")


def needs_nothing(contents: Contents, view: KernelView) -> bool:
    """Tell whether the kernel has the Module's module built in, and the image brings none."""
    own = contents.own
    return own in view.builtin and own not in contents.tree.files and own not in view.modules


def in_the_way(module: DesiredModule, contents: Contents, rows: Rows) -> tuple[str, ...]:
    """Return the in-tree modules that are really in the kernel, those that hold others first.

    One that is the image's own build is no in-tree module.
    """
    named = [kernel_name(name) for name in module.in_tree_modules_to_remove]
    there = [
        name
        for name in dict.fromkeys(named)
        if name in rows and not builds.same(rows[name], contents.builds.get(name, ""))
    ]
    return _holders_first(there, rows)


def _holders_first(names: list[str], rows: Rows) -> tuple[str, ...]:
    ordered: list[str] = []
    left = list(names)
    while left:
        free = [name for name in left if not set(rows[name].holders) & set(left)] or left[:1]
        ordered += free
        left = [name for name in left if name not in free]
    return tuple(ordered)


def stays(names: Iterable[str], group: Iterable[str], rows: Rows) -> KernelModule | None:
    """Return the first of the names that cannot go: something outside of the group uses it."""
    leaving = set(group)
    for row in (rows[name] for name in names if name in rows):
        strangers = tuple(holder for holder in row.holders if holder not in leaving)
        if row.state != "Live" or strangers or row.refcount > len(row.holders):
            return row
    return None


def came(contents: Contents, before: Rows, after: Rows) -> tuple[str, ...]:
    """Return what a load has brought into the kernel, in the order of unloading.

    Only of what the image says it needs: what others load at the same time is not ours.
    """
    return tuple(name for name in contents.unload_order if name in after and name not in before)


def missing(contents: Contents, after: KernelView) -> ModuleFailure | None:
    """Return why a load that modprobe calls a success is none."""
    for name in contents.asked:
        row = after.modules.get(name)
        if row is None and name not in after.builtin:
            message = f"modprobe reported success, but {name} is not in /proc/modules: its init "
            message += "failed with EEXIST, which modprobe does not tell, or somebody removed it"
            return ModuleFailure(reason=Reason.VANISHED, message=message, exit_code=0)
        if row and row.state != "Live":
            message = f"{name} is still {row.state}: its init has not returned"
            return ModuleFailure(reason=Reason.TIMED_OUT, message=message, exit_code=0)
    own = after.modules.get(contents.own)
    expected = contents.builds.get(contents.own, "")
    if own and builds.differs(own, expected):
        message = builds.refusal(own, expected)
        return ModuleFailure(reason=Reason.LOADED_FROM_ELSEWHERE, message=message)
    return None


def is_live(contents: Contents, before: Rows, after: Rows) -> bool:
    """Tell whether the Module's own module has become Live, whatever became of modprobe."""
    row = after.get(contents.own)
    return row is not None and row.state == "Live" and contents.own not in before


def record(
    module: DesiredModule, names: tuple[str, ...], rows: Rows, warning: str = ""
) -> LoadedRecord:
    """Return what an unload will have to undo, and what the user should know."""
    known = {name: rows[name].build for name in names if rows[name].build}
    return LoadedRecord(module=module, kernel_modules=names, builds=known, warning=warning)


def warning(contents: Contents, ignored: Iterable[str], before: Rows, cut_short: str = "") -> str:
    """Return what the user should know of a load that has succeeded; empty if nothing.

    `ignored` are parameters that the kernel did not know; `cut_short` is cutshort.warning of it.
    """
    own, unknown = contents.own or "the module", ", ".join(ignored)
    said = [
        f"{own} stands on {name} in another build than the image's: {builds.unloading(name)}"
        for name in foreign_below(contents, before)
    ]
    if unknown:
        said.insert(0, f"{own} ignores unknown parameters ({unknown}): correct modprobe.parameters")
    return "; ".join(filter(None, (cut_short, *said)))


def foreign_below(contents: Contents, rows: Rows) -> tuple[str, ...]:
    """Return modules that the Module stands on, but in another build than the image's."""
    return tuple(
        name
        for name, expected in contents.builds.items()
        if name in rows and builds.differs(rows[name], expected)
    )


def takes_only(asked: Iterable[str], tree: ModuleTree, allowed: frozenset[str], rows: Rows) -> bool:
    """Tell whether `modprobe -r` would take nothing out of the kernel but what is allowed."""
    reached = {name for one in asked for name in (one, *tree.needs.get(one, ()))}
    reached |= {name for one in reached for name in tree.soft.get(one, ())}
    return all(name in allowed for name in reached if name in rows)


def removable(name: str, rows: Rows) -> bool:
    """Tell whether a module that came along can go: it is there and nobody uses it."""
    return name in rows and rows[name].state == "Live" and not in_use(rows[name])
