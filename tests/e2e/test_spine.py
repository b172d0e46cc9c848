"""The spine: a Module becomes a kernel module in three real kernels, and goes again."""

import pytest
from prometheus_client.parser import text_string_to_metric_families

from kmm_common.api import names
from kmm_sandbox import samples
from support.stage import STATES, Stage, push_own
from support.staged import Staged

pytestmark = pytest.mark.spine


def test_module_is_loaded_everywhere_and_told_everywhere(stage: Stage[Staged]) -> None:
    image = samples.push(stage.sandbox, "ppp", ("ppp_generic",))
    outcome = stage.apply("ppp", image, "ppp_generic")
    outcome.wait_loaded()
    outcome.wait_settled()
    for node in stage.sandbox.nodes.values():
        assert {"ppp_generic", "slhc"} <= node.loaded_modules().keys()
    table = stage.sandbox.kubectl("get", "nodemodulesstate", "node1").splitlines()[1].split()
    assert table[:6] == ["node1", stage.sandbox.kernel.version, "1", "1", "0", "true"]
    events = stage.sandbox.kubectl("get", "events", "-o", "yaml")
    assert "Module default/ppp loaded into the kernel" in events


def test_daemon_answers_probes_and_prometheus_on_its_node(stage: Stage[Staged]) -> None:
    outcome = stage.apply("slip", samples.push(stage.sandbox, "slip", ("slip",)), "slip")
    outcome.wait_loaded()
    for node in stage.sandbox.nodes.values():
        assert stage.asked(node, "/healthz")[0] == stage.asked(node, "/readyz")[0] == 200
        code, text = stage.asked(node, "/metrics")
        assert code == 200
        families = text_string_to_metric_families(text)
        measured = {
            (s.name, *s.labels.values()): s.value for each in families for s in each.samples
        }
        assert measured["kmm_daemon_session_connected",] == 1
        assert measured["kmm_daemon_modules", "Loaded"] == 1
        assert measured["kmm_daemon_loads_total", "ok"] >= 1


def test_a_changed_parameter_reaches_the_kernel_by_one_reload(stage: Stage[Staged]) -> None:
    image = push_own(stage.sandbox, "core", "kmt_core")
    outcome = stage.apply("core", image, "kmt_core", parameters=["exit_delay_ms=1"])
    outcome.wait_loaded()
    before = {node: len(stage.steps(node)) for node in stage.sandbox.nodes}
    stage.apply("core", image, "kmt_core", parameters=["exit_delay_ms=2"])
    parameter = "/sys/module/kmt_core/parameters/exit_delay_ms"
    for name, node in stage.sandbox.nodes.items():
        stage.until(
            lambda node=node: node.execute("cat", parameter).stdout.strip() == "2",  # type: ignore[misc]
            f"new parameter on {name}",
        )
        outcome.wait_loaded()
        assert stage.steps(name)[before[name] :] == [
            ("unload", "default/core"),
            ("load", "default/core"),
        ]


def test_a_shared_dependency_stays_for_the_module_that_needs_it(stage: Stage[Staged]) -> None:
    slip = stage.apply("slip", samples.push(stage.sandbox, "slip", ("slip",)), "slip")
    ppp = stage.apply("ppp", samples.push(stage.sandbox, "ppp", ("ppp_generic",)), "ppp_generic")
    slip.wait_loaded()
    ppp.wait_loaded()
    stage.delete("ppp")
    ppp.wait_gone()
    assert all("slhc" in node.loaded_modules() for node in stage.sandbox.nodes.values())
    stage.delete("slip")
    slip.wait_gone()
    assert not any("slhc" in node.loaded_modules() for node in stage.sandbox.nodes.values())


def test_a_busy_module_keeps_its_label_and_says_why_until_it_is_free(stage: Stage[Staged]) -> None:
    outcome = stage.apply("core", push_own(stage.sandbox, "core", "kmt_core"), "kmt_core")
    outcome.wait_loaded()
    node = stage.sandbox.nodes["node2"]
    hold = "/sys/module/kmt_core/parameters/hold"
    node.execute("sh", "-c", f"echo Y > {hold}").check()
    stage.delete("core", wait=False)
    stage.until(
        lambda: stage.report("node2", "core").get("error", {}).get("reason") == "InUse",
        "node2 says that the module is in use",
    )
    assert stage.report("node2", "core")["inKernel"] is True
    assert names.ready_label("default", "core") in stage.labels("node2")
    stage.until(
        lambda: "node2" in stage.conditions("core").get("DeletionWaits", {}).get("message", ""),
        "the Module says whom its deletion waits for",
    )
    node.execute("sh", "-c", f"echo N > {hold}").check()
    outcome.wait_gone()


def test_a_reboot_brings_the_module_back(stage: Stage[Staged]) -> None:
    outcome = stage.apply("slip", samples.push(stage.sandbox, "slip", ("slip",)), "slip")
    outcome.wait_loaded()
    node = stage.sandbox.nodes["node3"]
    before = node.boot_id()
    node.power_cycle()
    stage.until(lambda: node.boot_id() not in ("", before), "new boot")
    stage.until(
        lambda: outcome.says_loaded_since("node3", node.boot_id()), "loaded in the new boot"
    )
    outcome.wait_loaded()


def test_a_restart_of_the_daemon_reloads_nothing(stage: Stage[Staged]) -> None:
    outcome = stage.apply("slip", samples.push(stage.sandbox, "slip", ("slip",)), "slip")
    outcome.wait_loaded()
    before = stage.steps("node1")
    instance = stage.sandbox.api.get(f"{STATES}/node1")["status"]["daemon"]["instance"]
    stage.sandbox.nodes["node1"].restart_daemon()
    stage.until(
        lambda: (
            stage.sandbox.api.get(f"{STATES}/node1")["status"]["daemon"]["instance"] != instance
        ),
        "session of the new daemon",
    )
    outcome.wait_loaded()
    assert stage.steps("node1") == before


def test_an_image_that_does_not_exist_is_told_and_heals_when_it_is_pushed(
    stage: Stage[Staged],
) -> None:
    missing = f"{stage.sandbox.registry.address}/kmod/late:{samples.TAG}"
    outcome = stage.apply("late", missing, "slip")
    stage.until(lambda: stage.errors("late") == {"ImageNotFound"}, "all nodes say ImageNotFound")
    samples.push(stage.sandbox, "late", ("slip",))
    outcome.wait_loaded()


@pytest.mark.parametrize(
    ("name", "parameters", "reason", "told", "kernel_said"),
    [
        (
            "fails",
            ["fail=19"],
            "DeviceError",
            "init of kmt_core failed with ENODEV: No such device",
            "told to fail with -19",
        ),
        ("refuses", ["fail=many"], "BadParameter", "'many' for parameter fail", "`many' invalid"),
    ],
)
def test_a_load_that_fails_says_why_and_leaves_no_label(
    stage: Stage[Staged], name: str, parameters: list[str], reason: str, told: str, kernel_said: str
) -> None:
    image = push_own(stage.sandbox, "core", "kmt_core")
    stage.apply(name, image, "kmt_core", parameters=parameters)
    assert told in stage.wait_failed(name, reason)
    for node in stage.sandbox.nodes:
        error = stage.report(node, name)["error"]
        assert error["exitCode"] == 1
        assert [line for line in error["kernelLog"] if kernel_said in line], error
        assert names.ready_label("default", name) not in stage.labels(node)


def test_two_modules_for_one_kernel_module_conflict_and_the_other_takes_over(
    stage: Stage[Staged],
) -> None:
    image = samples.push(stage.sandbox, "slip", ("slip",))
    first = stage.apply("first", image, "slip")
    first.wait_loaded()
    second = stage.apply("second", image, "slip", parameters=["slip_maxdev=16"])
    stage.until(lambda: stage.errors("second") == {"Conflict"}, "the second one conflicts")
    assert "default/first" in stage.report("node1", "second")["error"]["message"]
    stage.delete("first")
    second.wait_loaded()


def test_a_second_daemon_on_a_node_is_refused_in_words(stage: Stage[Staged]) -> None:
    node = stage.sandbox.nodes["node1"]
    answer = node.run_in_pod(*node.daemon_argv())
    assert answer.code == 1
    assert "another kmm-daemon (process" in answer.stderr


@pytest.mark.own_nodes
def test_a_node_tells_what_it_knows_also_without_its_daemon(stage: Stage) -> None:
    stage.apply("slip", samples.push(stage.sandbox, "slip", ("slip",)), "slip").wait_loaded()
    node = stage.sandbox.nodes["node1"]
    text = node.run_in_pod(*node.daemon_argv("status")).check()
    assert f"boot {node.boot_id()}" in text
    assert "daemon         process " in text
    assert "session        with the control plane, since " in text
    assert "certificate    valid until " in text
    assert "Module default/slip: Loaded\n  in the kernel  slip, slhc\n" in text
    node.stop_daemon()
    stage.until(
        lambda: (
            "daemon         does not run" in node.run_in_pod(*node.daemon_argv("status")).check()
        ),
        "no daemon",
    )
    assert "Module default/slip: Loaded" in node.run_in_pod(*node.daemon_argv("status")).check()
    node.restart_daemon()
