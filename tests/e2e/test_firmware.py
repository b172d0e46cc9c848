"""Firmware of a Module: there when its module asks for it, gone with its last user."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from kmm_sandbox import kmodimage
from kmm_sandbox.process.node import Node
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


MODPROBE = {"moduleName": CORE, "firmwarePath": "/firmware", "parameters": ["fw=kmt/blob.bin"]}
IMMUTABLE = "/lib/firmware"


@contextmanager
def read_only(node: Node) -> Iterator[None]:
    """Have a node's /lib/firmware be read-only meanwhile, as on an immutable host."""
    # A file system that cannot be written: of a directory that is only mounted so, a container's
    # runtime makes one that can.
    mount = f"mount -t tmpfs -o ro tmpfs {IMMUTABLE}"
    node.execute("sh", "-c", f"mkdir -p {IMMUTABLE} && {mount}").check()
    assert "Read-only" in node.execute("touch", f"{IMMUTABLE}/x").stderr
    try:
        yield
    finally:
        node.execute("umount", IMMUTABLE).check()


def search_path(node: Node) -> str:
    return node.execute("cat", SEARCH_PATH).check().strip("\0\n")


def set_search_path(node: Node, path: str) -> None:
    """Set firmware_class.path as somebody else; the kernel takes a NUL for an empty text."""
    node.execute("sh", "-c", f"printf '{path or chr(92) + '0'}' > {SEARCH_PATH}").check()


def test_host_with_a_read_only_firmware_directory_has_its_own_path_back_afterwards(
    stage: Stage,
) -> None:
    image = image_with_firmware(stage, "immutable", CORE, b"seventeen bytes!!")
    node = stage.sandbox.nodes["node1"]
    with read_only(node):
        outcome = stage.run("immutable", image, MODPROBE)
        outcome.wait_loaded()
        assert search_path(node) == DIRECTORY
        stage.delete("immutable")
        outcome.wait_gone()
        assert search_path(node) == ""


def test_search_path_of_somebody_else_is_told_and_left_alone_until_it_is_free(
    stage: Stage,
) -> None:
    nodes = stage.sandbox.nodes.values()
    for node in nodes:
        set_search_path(node, "/opt/theirs")
    image = image_with_firmware(stage, "theirs", CORE, b"seventeen bytes!!")
    outcome = stage.run("theirs", image, MODPROBE)
    message = stage.wait_failed("theirs", "FirmwareFailed")
    assert "the kernel looks for firmware in /opt/theirs, which somebody else has set" in message
    for node in nodes:
        assert CORE not in node.loaded_modules()
        assert firmware_on(stage, node.name) == ""
        assert search_path(node) == "/opt/theirs"
        set_search_path(node, "")
    outcome.wait_loaded()
    stage.delete("theirs")
    outcome.wait_gone()
    assert [search_path(node) for node in nodes] == ["", "", ""]


@contextmanager
def firmware_directory(stage: Stage, node: Node, directory: str) -> Iterator[None]:
    """Have a node's daemon put firmware into another directory meanwhile, which its Pod mounts."""
    usual = node.pod
    spec = json.loads(json.dumps(usual.spec))
    container = spec["containers"][0]
    container["env"].append({"name": "KMM_DAEMON_FIRMWARE_DIR", "value": directory})
    for volume in (*spec["volumes"], *container["volumeMounts"]):
        if volume["name"] == "firmware" and "mountPath" in volume:
            volume["mountPath"] = directory
        elif volume["name"] == "firmware":
            volume["hostPath"]["path"] = directory
    starts = stage.daemon_starts(node.name)
    node.pod = replace(usual, spec=spec)
    node.run_daemon()
    stage.until(lambda: stage.daemon_starts(node.name) > starts, f"{node.name} starts its daemon")
    try:
        yield
    finally:
        node.pod = usual
        node.run_daemon()


def test_search_path_of_somebody_else_can_be_the_daemons_directory(stage: Stage) -> None:
    """On a read-only host, as the message says; the path stays theirs to the end."""
    node, theirs = stage.sandbox.nodes["node1"], "/opt/theirs"
    set_search_path(node, theirs)
    image = image_with_firmware(stage, "common", CORE, b"seventeen bytes!!")
    with read_only(node), firmware_directory(stage, node, theirs):
        outcome = stage.run("common", image, MODPROBE)
        outcome.wait_loaded()
        assert node.execute("cat", f"{theirs}/kmt/blob.bin").check() == "seventeen bytes!!"
        stage.delete("common")
        outcome.wait_gone()
        assert node.execute("ls", theirs).check() == ""
        assert search_path(node) == theirs
    set_search_path(node, "")


def test_daemon_that_is_told_to_write_to_a_read_only_directory_names_the_remedy(
    stage: Stage,
) -> None:
    """Which is the directory that the manifest has: with that it is loaded."""
    node = stage.sandbox.nodes["node1"]
    image = image_with_firmware(stage, "stubborn", CORE, b"seventeen bytes!!")
    with read_only(node), firmware_directory(stage, node, IMMUTABLE):
        outcome = stage.run("stubborn", image, MODPROBE)
        stage.until(lambda: firmware_error(stage, node) != "", "node1 says that it cannot write")
        remedy = f"set the daemon's firmware directory to a writable one, as {DIRECTORY}"
        assert f"Read-only file system: {remedy}" in firmware_error(stage, node)
        assert CORE not in node.loaded_modules()
    outcome.wait_loaded()
    assert firmware_on(stage, node.name) == "seventeen bytes!!"
    stage.delete("stubborn")
    outcome.wait_gone()


def firmware_error(stage: Stage, node: Node) -> str:
    error = stage.report(node.name, "stubborn").get("error") or {}
    return str(error["message"]) if error.get("reason") == "FirmwareFailed" else ""


def test_files_outlive_a_reboot_and_go_with_their_last_module_after_it(stage: Stage) -> None:
    firmware = b"shared"
    first = stage.run("first", image_with_firmware(stage, "first", CORE, firmware), MODPROBE)
    second = stage.run(
        "second",
        image_with_firmware(stage, "second", "slip", firmware),
        {"moduleName": "slip", "firmwarePath": "/firmware"},
    )
    first.wait_loaded()
    second.wait_loaded()
    rebooted, switched_off = stage.sandbox.nodes["node1"], stage.sandbox.nodes["node2"]
    rebooted.reboot()
    assert firmware_on(stage, rebooted.name) == "shared"
    first.wait_loaded()
    stage.delete("first")
    first.wait_gone()
    assert firmware_on(stage, rebooted.name) == "shared"
    # The last one goes while a node is off: its file goes as soon as the node knows.
    switched_off.machine.switch_off()
    stage.delete("second", wait=False)
    stage.until(lambda: firmware_on(stage, rebooted.name) == "", "the file goes from node1")
    switched_off.machine.switch_on()
    second.wait_gone()
    for name, node in stage.sandbox.nodes.items():
        stage.until(lambda name=name: firmware_on(stage, name) == "", f"no file is on {name}")  # type: ignore[misc]
        assert node.execute("ls", DIRECTORY).stdout.split() == []
