"""Every way in which a Module says how its kernel module is loaded, and every way to fail."""

import gzip
import lzma
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import zstandard

from kmm_common.api import names
from kmm_sandbox import kmodimage, samples
from support.stage import Stage, own_file, own_module, push_files, push_own

CORE = "kmt_core"


def rows(stage: Stage, node: str) -> list[str]:
    """Return the modules of a kernel, the one that came last first."""
    return list(stage.sandbox.nodes[node].loaded_modules())


def test_modules_of_a_loading_order_come_one_after_the_other_and_all_go(stage: Stage) -> None:
    """softdep cannot be seen in modules.dep: only the Module says that slhc comes first."""
    kernel = stage.sandbox.kernel
    extra = {f"{CORE}.ko": own_module(kernel.version, CORE)}
    files = kmodimage.kmod_files(kernel, ("slhc", "ppp_generic"), extra=extra)
    image = push_files(stage.sandbox, "ordered", files)
    order = [CORE, "ppp_generic", "slhc"]
    outcome = stage.run("ordered", image, {"moduleName": CORE, "modulesLoadingOrder": order})
    outcome.wait_loaded()
    for node in stage.sandbox.nodes:
        assert [row for row in rows(stage, node) if row in order] == order
    stage.delete("ordered")
    outcome.wait_gone()
    for node in stage.sandbox.nodes:
        assert not set(order).intersection(rows(stage, node))


def test_what_the_image_says_goes_along_with_a_module_comes_and_goes_with_it(stage: Stage) -> None:
    """xts itself says `softdep pre: ecb`: only modules.softdep has it, nothing depends on it."""
    files = kmodimage.kmod_files(stage.sandbox.kernel, ("xts", "ecb"))
    outcome = stage.run("along", push_files(stage.sandbox, "along", files), {"moduleName": "xts"})
    outcome.wait_loaded()
    for node in stage.sandbox.nodes:
        assert {"xts", "ecb"} <= set(rows(stage, node))
    stage.delete("along")
    outcome.wait_gone()
    for node in stage.sandbox.nodes:
        assert "ecb" not in rows(stage, node)


COMPRESSED: dict[str, Callable[[bytes], bytes]] = {
    "xz": lzma.compress,
    "zst": zstandard.compress,
    "": bytes,
}


@pytest.mark.parametrize("suffix", ["xz", "zst", ""])
@pytest.mark.parametrize("indexed", [True, False], ids=["modules.dep", "no modules.dep"])
def test_modules_of_any_build_are_loaded_with_what_they_need(
    stage: Stage, suffix: str, indexed: bool
) -> None:
    """Compressed one by one as distributions do it, and with or without depmod's work."""
    compress = COMPRESSED[suffix]
    version, end = stage.sandbox.kernel.version, f".{suffix}" if suffix else ""
    extra = {f"{m}.ko{end}": compress(own_module(version, m)) for m in (CORE, "kmt_user")}
    files = kmodimage.kmod_files(stage.sandbox.kernel, extra=extra, depmod=indexed)
    assert any(path.endswith("/modules.dep") for path in files) == indexed
    name = f"built{suffix}{indexed}".lower()
    outcome = stage.run(name, push_files(stage.sandbox, name, files), {"moduleName": "kmt_user"})
    outcome.wait_loaded()
    for node in stage.sandbox.nodes:
        assert rows(stage, node)[:2] == ["kmt_user", CORE]
    stage.delete(name)
    outcome.wait_gone()
    for node in stage.sandbox.nodes:
        assert CORE not in rows(stage, node)


def test_compression_that_modprobe_does_not_know_is_named(stage: Stage) -> None:
    """modprobe itself says "not found", or nothing of the file but that it is none."""
    packed = gzip.compress(own_module(stage.sandbox.kernel.version, CORE))
    files = kmodimage.kmod_files(
        stage.sandbox.kernel, extra={f"{CORE}.ko.gz": packed}, depmod=False
    )
    outcome = stage.run("gzip", push_files(stage.sandbox, "gzip", files), {"moduleName": CORE})
    if "+ZLIB" in stage.sandbox.nodes["node1"].execute("kmod", "--version").check():
        outcome.wait_loaded()
    else:
        message = stage.wait_failed("gzip", "InvalidModule")
        assert f"compression of extra/{CORE}.ko.gz: put it into the image as .ko" in message


def test_module_of_another_directory_is_loaded_with_its_arguments(stage: Stage) -> None:
    kernel = stage.sandbox.kernel
    extra = {f"{CORE}.ko": own_module(kernel.version, CORE)}
    files = kmodimage.kmod_files(kernel, extra=extra, dir_name="/drivers/mine")
    outcome = stage.run(
        "elsewhere",
        push_files(stage.sandbox, "elsewhere", files),
        {
            "moduleName": CORE,
            "dirName": "/drivers/mine",
            "parameters": ["delay_ms=3", "exit_delay_ms=4"],
            "args": {"load": ["--verbose"], "unload": ["--verbose"]},
        },
    )
    outcome.wait_loaded()
    for node in stage.sandbox.nodes:
        assert stage.parameter(node, CORE, "delay_ms") == "3"
        assert stage.parameter(node, CORE, "exit_delay_ms") == "4"
    stage.delete("elsewhere")
    outcome.wait_gone()


def test_raw_arguments_are_the_whole_command_line(stage: Stage) -> None:
    image = push_own(stage.sandbox, "raw", CORE)
    raw = {"load": ["-d", "/opt", CORE, "delay_ms=5"], "unload": ["-r", "-d", "/opt", CORE]}
    stage.run("raw", image, {"rawArgs": raw})
    for node in stage.sandbox.nodes:
        stage.until(
            lambda node=node: stage.parameter(node, CORE, "delay_ms") == "5",  # type: ignore[misc]
            f"{CORE} on {node}",
        )
        stage.until(
            lambda node=node: stage.report(node, "raw").get("state") == "Loaded",  # type: ignore[misc]
            f"raw is Loaded on {node}",
        )
    stage.delete("raw")
    for node in stage.sandbox.nodes:
        assert CORE not in rows(stage, node)


def test_module_that_is_loaded_already_and_is_the_images_is_adopted(stage: Stage) -> None:
    for node in stage.sandbox.nodes.values():
        node.execute("insmod", own_file(stage.sandbox.kernel.version, CORE)).check()
    before = {node: stage.steps(node) for node in stage.sandbox.nodes}
    outcome = stage.run("mine", push_own(stage.sandbox, "mine", CORE), {"moduleName": CORE})
    outcome.wait_loaded()
    assert {node: stage.steps(node) for node in stage.sandbox.nodes} == before
    stage.delete("mine")
    outcome.wait_gone()


def test_module_that_somebody_loaded_from_elsewhere_is_left_alone_until_it_goes(
    stage: Stage,
) -> None:
    nodes = stage.sandbox.nodes
    for node in nodes.values():
        node.execute("insmod", own_file(stage.sandbox.kernel.version, CORE, "v2")).check()
    outcome = stage.run("theirs", push_own(stage.sandbox, "theirs", CORE), {"moduleName": CORE})
    message = stage.wait_failed("theirs", "LoadedFromElsewhere")
    assert "srcversion" in message
    assert "inTreeModulesToRemove" in message
    for name, node in nodes.items():
        assert names.ready_label("default", "theirs") not in stage.labels(name)
        node.execute("rmmod", CORE).check()
    outcome.wait_loaded()


def test_module_that_vanishes_is_noticed_and_comes_back(stage: Stage) -> None:
    outcome = stage.run("gone", push_own(stage.sandbox, "gone", CORE), {"moduleName": CORE})
    outcome.wait_loaded()
    node = stage.sandbox.nodes["node2"]
    loads = stage.steps("node2").count(("load", "default/gone"))
    node.execute("rmmod", CORE).check()
    stage.until(
        lambda: stage.steps("node2").count(("load", "default/gone")) == loads + 1, "loaded again"
    )
    outcome.wait_loaded()
    assert "module vanished from the kernel" in stage.daemon_log("node2")


def another_kernel(stage: Stage) -> str:
    """Return a version as long as that of the nodes' kernel, which is not theirs."""
    version = stage.sandbox.kernel.version
    return version[:-1] + ("7" if version[-1] != "7" else "8")


def _broken(stage: Stage) -> dict[str, bytes]:
    """Return the files of an image in which nothing can be loaded, by path."""
    kernel = stage.sandbox.kernel
    core = own_module(kernel.version, CORE)
    other = another_kernel(stage)
    spoiled = core.replace(f"vermagic={kernel.version} ".encode(), f"vermagic={other} ".encode())
    assert spoiled != core
    extra = {
        "kmt_user.ko": own_module(kernel.version, "kmt_user"),
        # Under another name also inside: the kernel's words about kmt_core are kmt_user's as well.
        "kmt_magi.ko": spoiled.replace(b"kmt_core", b"kmt_magi"),
        "kmt_truncated.ko": core[: len(core) // 3],
        "kmt_text.ko": b"this is no ELF file\n",
    }
    return kmodimage.kmod_files(kernel, extra=extra, depmod=False)


FAILURES = {
    "symbol": ("kmt_user", "UnknownSymbol", "kmt_answer"),
    "vermagic": ("kmt_magi", "WrongVermagic", "kmt_magi is built for kernel"),
    "truncated": ("kmt_truncated", "InvalidModule", "truncated"),
    "text": ("kmt_text", "InvalidModule", "not an ELF file"),
    "absent": ("kmt_absent", "ModuleNotFound", "kmt_absent"),
}


def test_what_cannot_be_loaded_says_why_on_every_node(stage: Stage) -> None:
    """One broken file in an image must not hide what is wrong with another."""
    for name, (module, _, _) in FAILURES.items():
        files = {p: c for p, c in _broken(stage).items() if p.endswith(f"/{module}.ko")}
        files = files or {p: c for p, c in _broken(stage).items() if "kmt_user" in p}
        stage.run(name, push_files(stage.sandbox, name, files), {"moduleName": module})
    for name, (_, reason, told) in FAILURES.items():
        assert told in stage.wait_failed(name, reason)
        for node in stage.sandbox.nodes:
            assert names.ready_label("default", name) not in stage.labels(node)
            assert not stage.report(node, name).get("inKernel")
    for node in stage.sandbox.nodes:
        require_evidence(stage.report(node, "symbol")["error"], "Unknown symbol kmt_answer")
        magic = stage.report(node, "vermagic")["error"]["message"]
        for version in (f"'{stage.sandbox.kernel.version}'", f"'{another_kernel(stage)} "):
            assert version in magic
    failed = ("get", "events", "--field-selector", "reason=ModuleFailed")
    stage.until(
        lambda: all(told in stage.sandbox.kubectl(*failed) for _, _, told in FAILURES.values()),
        "an event about every failure",
    )


def test_parameter_that_the_kernel_ignores_is_a_warning_until_it_is_corrected(
    stage: Stage,
) -> None:
    """modprobe exits with 0, and the module works: only without what the user asked for."""
    image = push_own(stage.sandbox, "ignored", CORE)
    wrong = {"moduleName": CORE, "parameters": ["delay_ms=3", "delay_s=4"]}
    stage.run("ignored", image, wrong).wait_loaded()
    for node in stage.sandbox.nodes:
        said = stage.report(node, "ignored")
        assert said["warning"] == (
            f"{CORE} ignores unknown parameters (delay_s): correct modprobe.parameters"
        )
        assert "error" not in said
        assert stage.parameter(node, CORE, "delay_ms") == "3"
    right = {"moduleName": CORE, "parameters": ["delay_ms=4"]}
    stage.run("ignored", image, right)
    for node in stage.sandbox.nodes:
        stage.until(
            lambda node=node: is_loaded_without_a_warning(stage.report(node, "ignored")),  # type: ignore[misc]
            f"{node} has nothing to warn of",
        )
        assert stage.parameter(node, CORE, "delay_ms") == "4"


def is_loaded_without_a_warning(report: Mapping[str, Any]) -> bool:
    return report.get("state") == "Loaded" and "warning" not in report


def test_module_of_the_host_that_has_a_missing_symbol_is_named(stage: Stage) -> None:
    files = stage.sandbox.kernel.closure(("ppp_generic",))
    ppp = {f"{p.name}": p.read_bytes() for p in files.values() if p.name == "ppp_generic.ko"}
    image = push_files(stage.sandbox, "ppp", kmodimage.kmod_files(stage.sandbox.kernel, extra=ppp))
    stage.run("ppp", image, {"moduleName": "ppp_generic"})
    message = stage.wait_failed("ppp", "UnknownSymbol")
    assert message.startswith("ppp_generic needs symbol slhc_")
    assert "which the host has in slhc: add that to the image" in message


def test_modprobe_that_somebody_kills_is_told_and_tried_again(stage: Stage) -> None:
    """Its init fails in the end: one that succeeds is in the kernel, whoever was killed."""
    node = stage.sandbox.nodes["node1"]
    image = push_own(stage.sandbox, "core", CORE)
    stage.apply("killed", image, CORE, parameters=["delay_ms=15000", "fail=19"])
    stage.until(lambda: stage.initializes("node1", CORE), f"init of {CORE}")
    node.execute("sh", "-c", "kill -9 $(grep -lx modprobe /proc/[0-9]*/comm | cut -d/ -f3)").check()
    stage.until(
        lambda: stage.report("node1", "killed").get("error", {}).get("reason") == "Killed",
        "node1 says that modprobe was killed",
    )
    assert "a signal ended modprobe (9)" in stage.report("node1", "killed")["error"]["message"]
    stage.wait_failed("killed", "DeviceError")


def require_evidence(error: Mapping[str, Any], line: str) -> None:
    """Require what modprobe exited with, and what the kernel said about it."""
    assert error["exitCode"] == 1
    assert [said for said in error["kernelLog"] if line in said], error


@pytest.mark.parametrize(("suffix", "kernel"), [("other", "5.4.0-1-amd64"), ("none", "")])
def test_image_for_another_kernel_says_for_which_it_is(
    stage: Stage, suffix: str, kernel: str
) -> None:
    files = {f"opt/lib/modules/{kernel}/m.ko": b"x"} if kernel else {"etc/hello": b"x"}
    image = push_files(stage.sandbox, f"kernel-{suffix}", files)
    stage.run("mistaken", image, {"moduleName": "m"})
    message = stage.wait_failed("mistaken", "ImageWithoutKernel")
    assert stage.sandbox.kernel.version in message
    assert kernel in message


def test_kernel_that_no_mapping_fits_is_told_by_the_module(stage: Stage) -> None:
    image = samples.push(stage.sandbox, "mapped", ("slip",))
    mappings = [{"literal": "5.4.0", "containerImage": image}]
    stage.run("unmapped", image, {"moduleName": "slip"}, container={"kernelMappings": mappings})
    stage.until(lambda: "Ready" in stage.conditions("unmapped"), "the Module says it is Ready")
    assert stage.conditions("unmapped")["Ready"]["reason"] == "NoMatchingKernel"
    assert stage.report("node1", "unmapped") == {}
