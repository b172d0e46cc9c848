"""What the page about debugging a node has people run and look for is there."""

import json
import re
from pathlib import Path

import pytest
import yaml

import kmm_daemon.metrics
from kmm_daemon import lock
from kmm_daemon.cli import main
from kmm_daemon.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs/how-to/debug-a-node.md").read_text()
COMMANDS = "\n".join(re.findall(r"```\n(.*?)```", TEXT, re.DOTALL))
TEMPLATE = yaml.safe_load((ROOT / "manifests/base/daemon/podtemplate.yaml").read_text())
DAEMON_JSON = json.loads((ROOT / "manifests/base/daemon.json").read_text())


def default(setting: str) -> object:
    return DAEMON_JSON.get(setting, Settings.model_fields[setting].default)


def test_resources_that_are_asked_for_are_defined() -> None:
    asked = set(re.findall(r"kubectl (?:get|describe) (\w+)", TEXT))
    crds = [yaml.safe_load(file.read_text()) for file in (ROOT / "crds").glob("*.yaml")]
    defined = {crd["spec"]["names"][form] for crd in crds for form in ("plural", "singular")}
    assert asked
    assert asked <= defined


def test_metrics_that_are_named_are_served() -> None:
    named = set(re.findall(r"`(kmm_daemon_\w+)`", TEXT))
    served = kmm_daemon.metrics.Metrics(version="1").exposition().decode()
    assert named
    assert all(f"# TYPE {name} " in served for name in named)
    assert f":{str(default('metrics_listen')).rpartition(':')[2]}/metrics" in COMMANDS


def test_messages_that_are_looked_for_are_logged() -> None:
    messages = {
        "peer refused", "update sent", "update journaled", "step started", "step ended",
        "task", "tasks told", "profiled", "profile ended",
    }  # fmt: skip
    source = "".join(file.read_text() for file in (ROOT / "src").rglob("*.py"))
    for message in messages:
        assert f"`{message}`" in TEXT
        assert f'"{message}"' in source


def test_daemon_is_found_by_its_label_its_settings_and_its_lock() -> None:
    pod = TEMPLATE["template"]
    assert pod["metadata"]["labels"]["app.kubernetes.io/name"] == "kmm-daemon"
    assert "-l app.kubernetes.io/name=kmm-daemon " in COMMANDS
    assert f"status {' '.join(pod['spec']['containers'][0]['args'])}\n" in COMMANDS
    assert f'open("{default("run_dir")}/{lock.NAME}")' in COMMANDS


def test_status_is_a_command_of_the_daemon(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["status", "--help"])
    assert "--config CONFIG" in capsys.readouterr().out
