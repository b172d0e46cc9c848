from dataclasses import replace
from pathlib import Path

import pytest

from kmm_common.api.names import Reason
from kmm_common.desired import DesiredModule, Modprobe, ModprobeArgs
from kmm_common.errors import TransientError
from kmm_daemon.kernel import modinfo
from kmm_daemon.kernel.firmware import Firmware
from kmm_daemon.kernel.modprobe import ModprobeKernel
from kmm_daemon.kernel.runner import Completed, Deadline
from kmm_daemon.values import Kernel, LoadedRecord, Process, ReadyImage, StepError
from support.modulefile import write_module
from support.tmpkernel import KERNEL, PID, TmpKernel, Trouble, image, loaded, module

STACK = {"top": ("mid", "1"), "mid": ("low", "2"), "low": ("", "3")}
STUCK = Completed(exit_code=None, timed_out=True, stuck=True)


@pytest.fixture
def node(tmp_path: Path) -> TmpKernel:
    return TmpKernel(tmp_path / "node")


@pytest.fixture
def kernel(node: TmpKernel) -> ModprobeKernel:
    return node.kernel()


@pytest.fixture
def stack(node: TmpKernel) -> ReadyImage:
    return image(node.root / "images/stack", STACK)


async def refused(step) -> StepError:
    with pytest.raises(StepError) as caught:
        await step
    return caught.value


def test_it_is_the_kernel_that_the_agent_asks_for(kernel: ModprobeKernel):
    port: Kernel = kernel
    assert port is kernel


async def test_inspection_returns_the_versions_of_all_that_a_load_may_bring(kernel, stack):
    assert await kernel.inspect(module("top"), stack) == {"top": "1", "mid": "2", "low": "3"}
    assert list(await kernel.inspect(module("top"), stack)) == ["top", "mid", "low"]


async def test_load_records_what_came_and_unload_takes_it_out(node, kernel, stack):
    record = await kernel.load(module("top"), stack)
    assert record == LoadedRecord(
        module=replace(module("top"), image_digest="sha256:stack"),
        kernel_modules=("top", "mid", "low"),
        builds={"top": "1", "mid": "2", "low": "3"},
    )
    await kernel.unload(record, frozenset())
    assert node.rows == {}
    assert list((node.root / "run/modules").iterdir()) == []


async def test_image_that_links_to_the_hosts_modules_brings_what_it_needs_of_them(node, kernel):
    host = node.root / "lib/modules" / KERNEL / "kernel"
    host.mkdir(parents=True)
    write_module(host, "low", srcversion="3")
    built = image(node.root / "images/linked", {"top": ("low", "1")})
    index = built.root / "opt/lib/modules" / KERNEL / "modules.dep"
    index.write_text("top.ko: host/kernel/low.ko\nhost/kernel/low.ko:\n")
    assert await kernel.inspect(module("top"), built) == {"top": "1", "low": "3"}
    record = await kernel.load(module("top"), built)
    assert record.kernel_modules == ("top", "low")
    await kernel.unload(record, frozenset())
    assert node.rows == {}
    assert (host / "low.ko").exists()


async def test_what_was_there_before_is_not_recorded_and_stays(node, kernel, stack):
    node.insert("low", build="3")
    record = await kernel.load(module("top"), stack)
    assert record.kernel_modules == ("top", "mid")
    await kernel.unload(record, frozenset())
    assert set(node.rows) == {"low"}


async def test_unload_leaves_what_others_need(node, kernel, stack):
    record = await kernel.load(module("top"), stack)
    await kernel.unload(record, frozenset({"mid", "low"}))
    assert set(node.rows) == {"mid", "low"}


async def test_unload_leaves_what_came_along_and_is_used_by_then(node, kernel, stack):
    record = await kernel.load(module("top"), stack)
    node.rows["low"] = replace(node.rows["low"], refcount=2)
    node.show()
    await kernel.unload(record, frozenset())
    assert set(node.rows) == {"low"}


async def test_busy_module_is_not_unloaded_and_nothing_else_is_touched(node, kernel, stack):
    record = await kernel.load(module("top"), stack)
    node.rows["top"] = replace(node.rows["top"], refcount=1)
    node.show()
    error = await refused(kernel.unload(record, frozenset()))
    assert error.failure.reason == Reason.IN_USE
    assert set(node.rows) == {"top", "mid", "low"}


async def test_unload_of_what_is_gone_already_succeeds(node, kernel, stack):
    record = await kernel.load(module("top"), stack)
    node.rows.clear()
    node.show()
    await kernel.unload(record, frozenset())


async def test_image_without_an_index_is_loaded(node, kernel):
    plain = image(node.root / "images/plain", STACK, indexed=False)
    assert await kernel.inspect(module("top"), plain) == {"top": "1", "mid": "2", "low": "3"}
    record = await kernel.load(module("top"), plain)
    assert record.kernel_modules == ("top", "mid", "low")
    assert not (plain.root / "opt/lib/modules/6.1.176/modules.dep").exists()


async def test_link_to_itself_in_an_image_is_in_nobodys_way(node, kernel, stack):
    directory = stack.root / f"opt/lib/modules/{KERNEL}"
    (directory / "loop").symlink_to("loop")
    record = await kernel.load(module("low"), stack)
    assert record.kernel_modules == ("low",)


async def test_failed_load_takes_back_what_it_brought(node, kernel, stack):
    node.trouble["top"] = Trouble(
        completed=Completed(
            exit_code=1, stderr="modprobe: ERROR: could not insert 'top': No such device\n"
        ),
        kernel_log="3,1,2,-;top: no hardware\n",
    )
    error = await refused(kernel.load(module("top"), stack))
    assert error.failure.reason == Reason.DEVICE_ERROR
    assert error.failure.kernel_log == ("top: no hardware",)
    assert node.rows == {}


async def test_module_that_has_a_missing_symbol_is_named_where_it_is_known(node, kernel, stack):
    node.trouble["low"] = Trouble(
        completed=Completed(
            exit_code=1,
            stderr="modprobe: ERROR: could not insert 'low': Unknown symbol in module\n",
        ),
        kernel_log="4,1,2,-;low: Unknown symbol deep (err -2)\n",
    )
    assert "no loaded module has" in (await refused(kernel.load(module("low"), stack))).args[0]
    places = {
        "the host has in bottom": node.root / "lib/modules/6.1.176",
        "the image has in bottom": stack.root / "opt/lib/modules/6.1.176",
    }
    for told, directory in places.items():
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "modules.symbols").write_text("alias symbol:deep bottom\n")
        assert told in (await refused(kernel.load(module("low"), stack))).args[0]


async def test_module_that_comes_along_and_is_blacklisted_is_named(node, kernel, stack):
    node.trouble["top"] = Trouble(
        completed=Completed(
            exit_code=1, stderr="modprobe: ERROR: could not insert 'top': Operation not permitted\n"
        ),
        kernel_log="3,1,2,-;Module low is blacklisted\n",
    )
    error = await refused(kernel.load(module("top"), stack))
    assert (error.failure.reason, error.retry) == (Reason.PERMISSION_DENIED, False)
    assert "command line forbids low" in error.failure.message


async def test_success_that_the_kernel_does_not_confirm_is_a_failure(node, kernel, stack):
    node.trouble["top"] = Trouble(completed=Completed(exit_code=0))
    error = await refused(kernel.load(module("top"), stack))
    assert error.failure.reason == Reason.VANISHED
    assert node.rows == {}


async def test_another_deadline_holds_for_what_is_started_from_then_on(node, kernel, stack):
    await kernel.load(module("low"), stack)
    kernel.limit(Deadline(seconds=1.0))
    await kernel.load(module("top"), stack)
    assert (node.deadlines[0], node.deadlines[-1]) == (Deadline(), Deadline(seconds=1.0))


@pytest.mark.parametrize(
    ("ended", "warning"),
    [
        (
            Completed(exit_code=None, signal=9, timed_out=True),
            "modprobe was ended after modprobe_seconds while the module was loaded; devices may be "
            "missing: raise modprobe_seconds, then reload the module",
        ),
        (
            Completed(exit_code=None, signal=9),
            "modprobe was killed while the module was loaded; devices may be missing: reload the "
            "module",
        ),
        (Completed(exit_code=0, timed_out=True), ""),
        (Completed(exit_code=1), ""),
    ],
    ids=["time-out", "signal", "ended at the deadline", "failed"],
)
async def test_load_succeeds_however_modprobe_ended_when_the_module_is_live_and_warns_if_killed(
    node, kernel, stack, ended, warning
):
    node.trouble["low"] = Trouble(completed=ended, state="Live")
    record = await kernel.load(module("low"), stack)
    assert (record.kernel_modules, record.warning) == (("low",), warning)


async def test_module_that_is_still_loading_at_the_deadline_is_left_alone(node, kernel, stack):
    late = Completed(exit_code=None, signal=9, timed_out=True)
    node.trouble["low"] = Trouble(completed=late, state="Loading")
    error = await refused(kernel.load(module("low"), stack))
    assert error.failure.reason == Reason.TIMED_OUT
    assert set(node.rows) == {"low"}


async def test_nothing_is_started_for_a_module_while_its_process_is_stuck(node, kernel, stack):
    node.trouble["low"] = Trouble(completed=STUCK)
    for _ in range(2):
        error = await refused(kernel.load(module("low"), stack))
        assert error.failure.reason == Reason.STILL_RUNNING
        assert f"process {PID} (modprobe low) has not ended" in error.failure.message
    assert len(node.commands) == 1
    await kernel.load(
        module("top", modules_loading_order=()), image(node.root / "o", {"top": ("", "")})
    )
    node.end_stuck()
    del node.trouble["low"]
    assert (await kernel.load(module("low"), stack)).kernel_modules == ("low",)


async def test_process_that_has_not_ended_is_known_to_the_next_daemon(node, kernel, stack):
    node.trouble["low"] = Trouble(completed=STUCK, state="Loading")
    await refused(kernel.load(module("low"), stack))
    process = Process(ref=module("low").ref, pid=PID, program="modprobe", names=("low",))
    assert (await node.kernel().view()).at_work == {module("low").ref: process}
    error = await refused(node.kernel().load(module("low"), stack))
    assert error.failure.reason == Reason.STILL_RUNNING
    assert len(node.commands) == 1
    node.end_stuck()
    assert (await node.kernel().view()).at_work == {}


async def test_all_that_raw_arguments_name_is_in_the_hands_of_the_process(node, kernel, stack):
    raw = module("top", raw_args=ModprobeArgs(load=("-d", "/opt", "-q", "else-where", "low")))
    node.trouble["low"] = Trouble(completed=STUCK)
    await refused(kernel.load(raw, stack))
    process = (await kernel.view()).at_work[raw.ref]
    assert process.names == ("low", "else_where")


async def test_removal_that_does_not_end_forbids_a_load(node, kernel, stack):
    record = await kernel.load(module("top"), stack)
    node.removals_stuck.add("top")
    error = await refused(kernel.unload(record, frozenset()))
    assert f"process {PID} (rmmod top) has not ended" in error.failure.message
    before = len(node.commands)
    assert (await refused(kernel.load(module("top"), stack))).reason == Reason.STILL_RUNNING
    assert len(node.commands) == before


async def test_in_tree_module_makes_room_for_the_images(node, kernel, stack):
    node.insert("top", build="in-tree")
    record = await kernel.load(module("top", in_tree=("top", "absent")), stack)
    assert node.rows["top"].build == "1"
    assert record.kernel_modules == ("top", "mid", "low")


async def test_in_tree_modules_all_stay_when_one_is_in_use(node, kernel, stack):
    node.insert("one")
    node.insert("two")
    node.rows["two"] = replace(node.rows["two"], refcount=1)
    node.show()
    error = await refused(kernel.load(module("top", in_tree=("one", "two")), stack))
    assert error.failure.reason == Reason.IN_USE
    assert set(node.rows) == {"one", "two"}
    assert all("rmmod" not in command[0] for command in node.commands)


async def test_module_from_elsewhere_is_not_replaced_unasked(node, kernel, stack):
    node.insert("top", build="other")
    error = await refused(kernel.load(module("top"), stack))
    assert error.failure.reason == Reason.LOADED_FROM_ELSEWHERE
    assert "unloads it even while its devices are at work" in error.failure.message
    assert node.rows["top"].build == "other"


async def test_module_that_comes_from_elsewhere_while_firmware_is_copied_is_nobodys_load(
    node, kernel, stack, monkeypatch
):
    install = Firmware.install

    async def beside_udev(self, *shipment):
        node.insert("top", build="1")
        await install(self, *shipment)

    monkeypatch.setattr(Firmware, "install", beside_udev)
    error = await refused(kernel.load(module("top", parameters=("debug=1",)), stack))
    assert (error.failure.reason, error.retry) == (Reason.LOADED_FROM_ELSEWHERE, True)
    assert node.commands == []


async def test_builds_without_a_srcversion_are_told_apart_by_their_build_ids(node, kernel):
    ours, theirs = "build-id 01", "build-id 02"
    built = image(node.root / "images/ids", {"top": ("low", ours), "low": ("", ours)})
    assert await kernel.inspect(module("top"), built) == {"top": ours, "low": ours}
    node.insert("low", build=theirs)
    record = await kernel.load(module("top"), built)
    assert record.builds == {"top": ours}
    assert "top stands on low in another build than the image's" in record.warning


async def test_built_in_module_needs_no_modprobe_when_the_image_brings_none(node, stack):
    node.build_in("zram")
    kernel = node.kernel()
    assert await kernel.inspect(module("zram"), stack) == {}
    record = await kernel.load(module("zram"), stack)
    assert record.kernel_modules == ()
    assert node.commands == []
    await kernel.unload(record, frozenset())


async def test_built_in_module_is_refused_when_the_image_brings_another(node, stack):
    node.build_in("top")
    error = await refused(node.kernel().inspect(module("top"), stack))
    assert (error.failure.reason, error.retry) == (Reason.BUILT_IN, False)


@pytest.mark.parametrize(
    ("wanted", "reason", "retry"),
    [
        (module("nosuch"), Reason.MODULE_NOT_FOUND, False),
        (module("top", modules_loading_order=("top", "later")), Reason.MODULE_NOT_FOUND, True),
        (module("-x"), Reason.INVALID_MODULE, False),
        (module("top", dir_name="/elsewhere"), Reason.IMAGE_WITHOUT_KERNEL, False),
    ],
)
async def test_image_that_cannot_serve_is_refused_before_anything_is_run(
    node, kernel, stack, wanted, reason, retry
):
    for step in (kernel.inspect(wanted, stack), kernel.load(wanted, stack)):
        error = await refused(step)
        assert (error.failure.reason, error.retry) == (reason, retry)
    assert node.commands == []


def raw(*load: str, unload: tuple[str, ...] = ()) -> DesiredModule:
    probe = Modprobe(raw_args=ModprobeArgs(load=load, unload=unload))
    return replace(module(""), modprobe=probe)


async def test_raw_arguments_are_obeyed_both_ways(node, kernel, stack):
    wanted = raw("-d", "/opt", "top", unload=("-r", "-d", "/opt", "top"))
    record = await kernel.load(wanted, stack)
    assert record.kernel_modules == ("top", "mid", "low")
    node.commands.clear()
    await kernel.unload(record, frozenset())
    assert node.commands[0][1] == "-r"
    assert node.rows == {}


async def test_arguments_for_unload_are_used_when_nothing_else_would_go(node, kernel, stack):
    record = await kernel.load(module("top", args=ModprobeArgs(unload=("-v",))), stack)
    node.commands.clear()
    await kernel.unload(record, frozenset())
    assert "-v" in node.commands[0]
    assert node.rows == {}


async def test_arguments_for_unload_are_not_used_when_others_need_a_part(node, kernel, stack):
    record = await kernel.load(module("top", args=ModprobeArgs(unload=("-v",))), stack)
    node.commands.clear()
    await kernel.unload(record, frozenset({"low"}))
    assert [command[1:] for command in node.commands] == [["top"], ["mid"]]
    assert set(node.rows) == {"low"}


async def test_firmware_is_there_when_the_module_loads_and_gone_after_it(node, kernel, stack):
    (stack.root / "fw").mkdir()
    (stack.root / "fw/a.bin").write_text("blob")
    record = await kernel.load(module("low", firmware_path="/fw"), stack)
    assert (node.root / "firmware/a.bin").read_text() == "blob"
    await kernel.unload(record, frozenset())
    assert not (node.root / "firmware/a.bin").exists()


async def test_firmware_is_taken_back_when_the_load_fails(node, kernel, stack):
    (stack.root / "fw").mkdir()
    (stack.root / "fw/a.bin").write_text("blob")
    node.trouble["low"] = Trouble(completed=Completed(exit_code=1))
    await refused(kernel.load(module("low", firmware_path="/fw"), stack))
    assert not (node.root / "firmware/a.bin").exists()


async def test_firmware_conflict_is_found_before_room_is_made(node, kernel, stack):
    (stack.root / "fw").mkdir()
    (stack.root / "fw/a.bin").write_text("blob")
    (node.root / "firmware").mkdir()
    (node.root / "firmware/a.bin").write_text("the host's")
    node.insert("low", build="in-tree")
    error = await refused(kernel.load(module("low", firmware_path="/fw", in_tree=("low",)), stack))
    assert error.failure.reason == Reason.FIRMWARE_CONFLICT
    assert node.rows["low"].build == "in-tree"


async def test_firmware_of_modules_that_went_away_with_an_earlier_boot_is_removed(
    node, kernel, stack
):
    (stack.root / "fw").mkdir()
    (stack.root / "fw/a.bin").write_text("blob")
    await kernel.load(module("low", firmware_path="/fw"), stack)
    await kernel.keep_firmware_of(frozenset((module("low").ref,)))
    assert (node.root / "firmware/a.bin").exists()
    await kernel.keep_firmware_of(frozenset())
    assert not (node.root / "firmware/a.bin").exists()


async def test_module_without_exit_says_that_only_a_reboot_helps(node, kernel, stack):
    record = await kernel.load(module("low"), stack)
    node.rows["low"] = replace(node.rows["low"], refcount=0)
    (node.root / "proc/modules").write_text("low 1 0 [permanent], Live 0x0\n")
    node.rmmod = lambda name: Completed(exit_code=1, stderr="rmmod: ERROR: busy\n")
    error = await refused(kernel.unload(record, frozenset()))
    assert error.failure.reason == Reason.IN_USE
    assert "only a reboot" in error.failure.message
    assert loaded((node.root / "proc/modules").read_text()) == {"low"}


async def test_ignored_parameter_is_a_warning_of_a_load_that_succeeds(node, kernel, stack, caplog):
    node.trouble["low"] = Trouble(
        completed=Completed(),
        kernel_log="4,1,2,-;low: unknown parameter 'bogus' ignored\n",
        state="Live",
    )
    record = await kernel.load(module("low", parameters=("bogus=1",)), stack)
    told = "low ignores unknown parameters (bogus): correct modprobe.parameters"
    assert record.warning == told
    logged = next(e for e in caplog.records if e.getMessage() == "loaded with a warning")
    assert logged.kmm_fields == {"ref": "ns/low", "said": told}


async def test_error_of_the_node_itself_is_told_and_tried_again(node, kernel, stack, monkeypatch):
    async def not_started(argv, deadline, claim):
        raise TransientError("cannot start /sbin/modprobe: Cannot allocate memory")

    monkeypatch.setattr(node, "run", not_started)
    error = await refused(kernel.load(module("low"), stack))
    assert (error.failure.reason, error.retry) == (Reason.MODPROBE_FAILED, True)
    assert error.failure.message == "cannot start /sbin/modprobe: Cannot allocate memory"


async def test_unusable_run_directory_is_told(node, kernel, stack):
    (node.root / "run/modules").symlink_to("/dev/full")
    error = await refused(kernel.load(module("low"), stack))
    assert error.failure.reason == Reason.MODPROBE_FAILED
    assert "/run/modules" in error.failure.message


async def test_check_finds_a_firmware_conflict_before_anything_is_touched(node, kernel, stack):
    (stack.root / "fw").mkdir()
    (stack.root / "fw/a.bin").write_text("blob")
    (node.root / "firmware").mkdir()
    (node.root / "firmware/a.bin").write_text("the host's")
    node.insert("low", build="older")
    new = module("low", firmware_path="/fw")
    error = await refused(kernel.check(new, stack, frozenset({"low"})))
    assert error.failure.reason == Reason.FIRMWARE_CONFLICT
    assert (set(node.rows), node.commands) == ({"low"}, [])


async def test_check_finds_in_tree_modules_that_are_in_use_by_what_stays(node, kernel, stack):
    node.needs["user"] = ("intree",)
    for name in ("intree", "user"):
        node.insert(name)
    new = module("low", in_tree=("intree",))
    error = await refused(kernel.check(new, stack, frozenset({"low"})))
    assert (error.failure.reason, node.commands) == (Reason.IN_USE, [])
    await kernel.check(new, stack, frozenset({"low", "user"}))


async def test_view_has_the_readable_parameters_of_modules_that_are_asked_about(node, kernel):
    for name in ("low", "mid"):
        node.insert(name)
        (node.root / f"sys/module/{name}/parameters").mkdir()
        (node.root / f"sys/module/{name}/parameters/debug").write_text("Y\n")
    (node.root / "sys/module/low/parameters/hidden").mkdir()
    rows = (await kernel.view(frozenset({"low", "absent"}))).modules
    assert (rows["low"].parameters, rows["mid"].parameters) == ({"debug": "Y"}, {})


async def test_adoption_brings_the_firmware_and_runs_nothing(node, kernel, stack):
    (stack.root / "fw").mkdir()
    (stack.root / "fw/a.bin").write_text("blob")
    node.insert("low", build="3")
    await kernel.adopt(module("low", firmware_path="/fw"), stack)
    assert (node.root / "firmware/a.bin").read_text() == "blob"
    assert node.commands == []


OTHER_RELEASE = "6.1.177 SMP mod_unload "


def rebuild(stack: ReadyImage, name: str, vermagic: str) -> None:
    """Have the image's module of a name be built for another kernel."""
    depends, srcversion = STACK[name]
    directory = stack.root / f"opt/lib/modules/{KERNEL}"
    write_module(directory, name, depends=depends, srcversion=srcversion, vermagic=vermagic)


@pytest.mark.parametrize("name", ["top", "low"], ids=["own", "dependency"])
async def test_file_that_the_kernel_cannot_take_is_refused_before_room_is_made(
    node, kernel, stack, name
):
    rebuild(stack, name, OTHER_RELEASE)
    node.insert("intree")
    wanted = module("top", in_tree=("intree",))
    for step in (kernel.check(wanted, stack, frozenset()), kernel.load(wanted, stack)):
        error = await refused(step)
        assert (error.failure.reason, error.retry) == (Reason.WRONG_VERMAGIC, False)
        assert error.failure.message == (
            f"{name} is built for kernel '6.1.177 SMP mod_unload', this node runs '6.1.176': "
            "build it for that"
        )
    assert (set(node.rows), node.commands) == ({"intree"}, [])


async def test_older_module_stays_when_the_kernel_cannot_take_the_new_file(node, kernel, stack):
    rebuild(stack, "top", OTHER_RELEASE)
    node.insert("top", build="older")
    error = await refused(kernel.check(module("top"), stack, frozenset({"top"})))
    assert error.failure.reason == Reason.WRONG_VERMAGIC


async def test_dependency_of_the_same_name_that_makes_room_does_not_stand_for_the_images(
    node, kernel, stack
):
    rebuild(stack, "low", OTHER_RELEASE)
    node.insert("low", build="in-tree")
    error = await refused(kernel.load(module("top", in_tree=("low",)), stack))
    assert error.failure.reason == Reason.WRONG_VERMAGIC
    assert set(node.rows) == {"low"}


async def test_dependency_of_the_same_name_that_stays_is_the_one_that_counts(node, kernel, stack):
    rebuild(stack, "low", OTHER_RELEASE)
    node.insert("low", build="another")
    record = await kernel.load(module("top"), stack)
    assert record.kernel_modules == ("top", "mid")


@pytest.mark.parametrize(
    ("vermagic", "options"),
    [
        ("6.1.177 SMP mod_unload modversions ", ()),
        (OTHER_RELEASE, ("--force",)),
        (OTHER_RELEASE, ("-v", "--force-vermagic")),
        (OTHER_RELEASE, ("-vf",)),
    ],
)
async def test_what_only_the_kernel_can_tell_of_a_file_is_left_to_it(
    node, kernel, stack, vermagic, options
):
    rebuild(stack, "top", vermagic)
    await kernel.load(module("top", args=ModprobeArgs(load=options)), stack)
    assert set(node.rows) == {"top", "mid", "low"}


async def test_each_file_of_the_image_is_read_once_by_a_check(kernel, stack, monkeypatch):
    read, asked = modinfo.read, []

    def counted(path: Path) -> modinfo.ModuleInfo:
        asked.append(path.stem)
        return read(path)

    monkeypatch.setattr(modinfo, "read", counted)
    await kernel.check(module("top"), stack, frozenset())
    assert sorted(asked) == ["low", "mid", "top"]
