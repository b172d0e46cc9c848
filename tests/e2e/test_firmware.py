"""Firmware of a Module: there when its module asks for it, gone with its last user."""

from kmm_sandbox import kmodimage
from support.stage import Stage, own_module, push_files

CORE = "kmt_core"
DIRECTORY = "/var/lib/firmware"
SEARCH_PATH = "/sys/module/firmware_class/parameters/path"


def image_with_firmware(stage: Stage, name: str, module: str, firmware: bytes) -> str:
    kernel = stage.sandbox.kernel
    own = {f"{CORE}.ko": own_module(kernel.version, CORE)} if module == CORE else {}
    files = kmodimage.kmod_files(kernel, () if own else (module,), extra=own)
    return push_files(stage.sandbox, name, files | {"firmware/kmt/blob.bin": firmware})


def firmware_on(stage: Stage, node: str) -> str:
    """Return the file's content; empty if there is none."""
    return stage.sandbox.nodes[node].execute("cat", f"{DIRECTORY}/kmt/blob.bin").stdout


def test_module_finds_its_firmware_which_goes_with_it(stage: Stage) -> None:
    image = image_with_firmware(stage, "firmware", CORE, b"seventeen bytes!!")
    modprobe = {
        "moduleName": CORE,
        "firmwarePath": "/firmware",
        "parameters": ["fw=kmt/blob.bin"],
    }
    outcome = stage.run("firmware", image, modprobe)
    outcome.wait_loaded()
    for name, node in stage.sandbox.nodes.items():
        assert "firmware kmt/blob.bin has 17 bytes" in node.execute("dmesg").check()
        assert firmware_on(stage, name) == "seventeen bytes!!"
        assert node.execute("cat", SEARCH_PATH).stdout.strip() == DIRECTORY
    stage.delete("firmware")
    outcome.wait_gone()
    for node in stage.sandbox.nodes.values():
        assert node.execute("ls", DIRECTORY).stdout.split() == []
        assert node.execute("cat", SEARCH_PATH).stdout.strip("\0\n") == ""


def test_missing_firmware_is_named(stage: Stage) -> None:
    image = image_with_firmware(stage, "missing", CORE, b"x")
    stage.run("missing", image, {"moduleName": CORE, "parameters": ["fw=kmt/absent.bin"]})
    assert "kmt/absent.bin" in stage.wait_failed("missing", "FirmwareMissing")


def test_other_content_for_the_same_file_is_a_conflict_until_the_first_one_goes(
    stage: Stage,
) -> None:
    modprobe = {"moduleName": CORE, "firmwarePath": "/firmware"}
    first = stage.run("first", image_with_firmware(stage, "first", CORE, b"one"), modprobe)
    first.wait_loaded()
    other = image_with_firmware(stage, "second", "slip", b"two")
    second = stage.run("second", other, {"moduleName": "slip", "firmwarePath": "/firmware"})
    message = stage.wait_failed("second", "FirmwareConflict")
    assert "kmt/blob.bin" in message
    assert "default/first" in message
    for node in stage.sandbox.nodes:
        assert firmware_on(stage, node) == "one"
    stage.delete("first")
    second.wait_loaded()
    for node in stage.sandbox.nodes:
        assert firmware_on(stage, node) == "two"


def test_same_content_is_shared_and_goes_with_its_last_user(stage: Stage) -> None:
    firmware = b"shared"
    first = stage.run(
        "first",
        image_with_firmware(stage, "first", CORE, firmware),
        {"moduleName": CORE, "firmwarePath": "/firmware"},
    )
    second = stage.run(
        "second",
        image_with_firmware(stage, "second", "slip", firmware),
        {"moduleName": "slip", "firmwarePath": "/firmware"},
    )
    first.wait_loaded()
    second.wait_loaded()
    stage.delete("first")
    first.wait_gone()
    assert {firmware_on(stage, node) for node in stage.sandbox.nodes} == {"shared"}
    stage.delete("second")
    second.wait_gone()
    assert {firmware_on(stage, node) for node in stage.sandbox.nodes} == {""}
