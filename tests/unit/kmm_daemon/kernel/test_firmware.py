import json
from pathlib import Path

import pytest

from kmm_common.api.names import Reason
from kmm_common.desired import DesiredModule
from kmm_daemon.kernel import firmware as firmware_module
from kmm_daemon.kernel.firmware import Firmware
from kmm_daemon.kernel.ledgerfile import LedgerFile, write_whole
from kmm_daemon.values import ReadyImage, StepError
from support.tmpkernel import module

A = module("a", firmware_path="/firmware")
B = module("b", firmware_path="firmware/")


class World:
    """A host's firmware directory, with the kernel's search path."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.directory = root / "host"
        self.ledger = root / "state/firmware.json"
        self.search_path = root / "path"
        self.search_path.write_text("\n")

    @property
    def firmware(self) -> Firmware:
        """A fresh one each time, as after a restart of the daemon."""
        return Firmware(
            directory=self.directory,
            ledger=LedgerFile(self.ledger),
            search_path=self.search_path,
        )

    def image(self, name: str, **files: str) -> ReadyImage:
        root = self.root / "images" / name
        for path, content in files.items():
            target = root / "firmware" / path.replace("__", "/")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(content)
        return ReadyImage(digest="d", root=root)

    async def install(self, wanted: DesiredModule, image: ReadyImage, boot: str = "b1") -> None:
        shipment = await self.firmware.scan(wanted, image)
        await self.firmware.check(shipment, boot)
        await self.firmware.install(shipment, boot)

    async def remove(self, wanted: DesiredModule, boot: str = "b1") -> None:
        await self.firmware.remove(frozenset((wanted.ref,)), boot)

    def files(self) -> dict[str, str]:
        paths = (path for path in self.directory.rglob("*") if path.is_file())
        return {str(path.relative_to(self.directory)): path.read_text() for path in paths}


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


async def test_files_come_with_the_module_and_go_with_it(world: World):
    await world.install(A, world.image("a", acme__a="1", b="2"))
    assert world.files() == {"acme/a": "1", "b": "2"}
    await world.remove(A)
    assert world.files() == {}
    assert list(world.directory.iterdir()) == []


async def test_shared_file_goes_with_its_last_user(world: World):
    await world.install(A, world.image("a", f="1"))
    await world.install(B, world.image("b", f="1"))
    await world.remove(A)
    assert world.files() == {"f": "1"}
    await world.remove(B)
    assert world.files() == {}


async def test_nothing_is_touched_when_a_file_conflicts(world: World):
    await world.install(A, world.image("a", f="1"))
    with pytest.raises(StepError, match="f is not written: Module ns/a has put") as caught:
        await world.install(B, world.image("b", e="new", f="2"))
    assert caught.value.failure.reason == Reason.FIRMWARE_CONFLICT
    assert world.files() == {"f": "1"}


async def test_file_of_the_host_is_neither_replaced_nor_removed(world: World):
    world.directory.mkdir()
    (world.directory / "f").write_text("host")
    with pytest.raises(StepError, match="the host has other content"):
        await world.install(A, world.image("a", f="mine"))
    await world.install(B, world.image("b", f="host"))
    await world.remove(B)
    assert world.files() == {"f": "host"}


async def test_file_that_somebody_has_changed_since_is_left(world: World):
    await world.install(A, world.image("a", f="1"))
    (world.directory / "f").write_text("changed")
    await world.remove(A)
    assert world.files() == {"f": "changed"}


async def test_files_of_an_earlier_boot_go_when_their_module_is_no_longer_desired(world: World):
    await world.install(A, world.image("a", f="1"))
    await world.install(B, world.image("b", g="2"))
    await world.firmware.keep_only(frozenset((B.ref,)), "b2")
    assert world.files() == {"g": "2"}


async def test_own_file_is_replaced_when_the_image_changes(world: World):
    await world.install(A, world.image("a", f="1"))
    await world.install(A, world.image("a2", f="2"))
    assert world.files() == {"f": "2"}


async def test_kernel_is_pointed_to_the_directory_until_the_last_module_has_gone(world: World):
    await world.install(A, world.image("a", f="1"))
    assert world.search_path.read_text() == str(world.directory)
    await world.remove(A)
    assert world.search_path.read_text() == "\0"


async def test_search_path_of_somebody_else_is_left(world: World):
    world.search_path.write_text("/opt/fw\n")
    with pytest.raises(StepError, match="looks for firmware in /opt/fw") as caught:
        await world.install(A, world.image("a", f="1"))
    assert caught.value.failure.reason == Reason.FIRMWARE_FAILED
    assert world.files() == {}
    assert world.search_path.read_text() == "/opt/fw\n"


@pytest.mark.parametrize(
    "searched_anyway",
    ["/lib/firmware", "/lib/firmware\n", "/lib/firmware/\n", "/lib/firmware/updates"],
)
async def test_search_path_that_adds_nothing_is_replaced_until_the_last_module_has_gone(
    world: World, searched_anyway
):
    """As upstream KMM leaves it on each node."""
    world.search_path.write_text(searched_anyway)
    await world.install(A, world.image("a", f="1"))
    await world.install(B, world.image("b", g="2"))
    assert world.search_path.read_text() == str(world.directory)
    await world.remove(A)
    assert world.search_path.read_text() == str(world.directory)
    await world.remove(B)
    assert world.search_path.read_text() == searched_anyway.strip()


async def test_search_path_below_one_that_adds_nothing_is_left(world: World):
    world.search_path.write_text("/lib/firmware/acme\n")
    with pytest.raises(StepError, match="looks for firmware in /lib/firmware/acme"):
        await world.install(A, world.image("a", f="1"))


@pytest.mark.parametrize("end", ["\n", "/\n"])
async def test_search_path_that_was_right_before_stays(world: World, end):
    world.search_path.write_text(f"{world.directory}{end}")
    await world.install(A, world.image("a", f="1"))
    await world.remove(A)
    assert world.search_path.read_text() == f"{world.directory}{end}"


async def test_search_path_of_another_boot_is_not_given_back(world: World):
    await world.install(A, world.image("a", f="1"))
    world.search_path.write_text("\n")
    await world.remove(A, boot="b2")
    assert world.search_path.read_text() == "\n"


async def test_link_inside_the_image_is_followed_and_copied(world: World):
    image = world.image("a", f="1", d__g="2")
    (image.root / "firmware/link").symlink_to("f")
    (image.root / "firmware/dir").symlink_to("d")
    await world.install(A, image)
    assert world.files() == {"f": "1", "link": "1", "d/g": "2", "dir/g": "2"}
    assert not (world.directory / "link").is_symlink()


async def test_link_out_of_the_image_is_refused(world: World):
    image = world.image("a", f="1")
    (image.root / "firmware/out").symlink_to("/etc/hostname")
    with pytest.raises(StepError, match="out links out of the image") as caught:
        await world.install(A, image)
    assert not caught.value.retry
    assert world.files() == {}


async def test_links_in_a_circle_are_refused(world: World, monkeypatch):
    monkeypatch.setattr(firmware_module, "MOST_ENTRIES", 50)
    image = world.image("a", f="1")
    for name in ("x", "y"):
        (image.root / "firmware" / name).symlink_to(".")
    with pytest.raises(StepError, match="links to itself"):
        await world.install(A, image)


async def test_link_to_itself_is_no_file(world: World):
    image = world.image("a", f="1")
    (image.root / "firmware/loop").symlink_to("loop")
    await world.install(A, image)
    assert set(world.files()) == {"f"}


async def test_link_of_the_host_that_leads_out_of_its_directory_is_refused(world: World):
    world.directory.mkdir()
    (world.root / "elsewhere").mkdir()
    (world.directory / "acme").symlink_to(world.root / "elsewhere")
    with pytest.raises(StepError, match=r"acme leads out of"):
        await world.install(A, world.image("a", acme__a="1"))
    assert list((world.root / "elsewhere").iterdir()) == []


async def test_image_without_the_directory_is_refused(world: World):
    (world.root / "images/a").mkdir(parents=True)
    with pytest.raises(StepError, match=r"no directory /firmware: correct modprobe\.firmwarePath"):
        await world.install(A, ReadyImage(digest="d", root=world.root / "images/a"))


async def test_module_without_firmware_leaves_no_trace(world: World):
    await world.install(module("c"), world.image("c"))
    await world.remove(module("c"))
    assert not world.ledger.exists()
    assert not world.directory.exists()


async def test_damaged_ledger_is_set_aside_and_the_files_become_the_hosts(world: World):
    await world.install(A, world.image("a", f="1"))
    world.ledger.write_text("{damaged")
    await world.install(A, world.image("a", f="1"))
    await world.remove(A)
    assert world.files() == {"f": "1"}
    assert world.ledger.with_suffix(".unusable.json").read_text() == "{damaged"


@pytest.mark.parametrize(
    "content", ['{"format": 2, "ledger": {}}', "[]", '{"format": 1, "ledger": 3}']
)
async def test_ledger_of_another_format_is_set_aside(world: World, content):
    world.ledger.parent.mkdir()
    world.ledger.write_text(content)
    await world.install(A, world.image("a", f="1"))
    assert json.loads(world.ledger.read_text())["format"] == 1


async def test_unwritable_directory_is_named(world: World):
    world.directory.write_text("a file")
    with pytest.raises(StepError, match=str(world.directory)) as caught:
        await world.install(A, world.image("a", f="1"))
    assert caught.value.failure.reason == Reason.FIRMWARE_FAILED


def test_no_partial_file_is_left_when_the_write_fails(tmp_path: Path):
    (tmp_path / "target").mkdir()
    (tmp_path / "target/full").touch()
    with pytest.raises(OSError):
        write_whole(tmp_path / "target", b"x", mode=0o644)
    assert [path.name for path in tmp_path.iterdir()] == ["target"]
