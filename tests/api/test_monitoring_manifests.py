"""Alerts and dashboard that are shipped, in Debian's promtool: what they ask for is there."""

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from kmm_cp.roles.metrics import Metrics as ControlPlaneMetrics
from kmm_daemon.metrics import Metrics as DaemonMetrics
from kmm_sandbox.repository import REPOSITORY
from support.prometheus import prometheus_installed, promtool, written

MONITORING = REPOSITORY / "manifests/monitoring"
ALERTS = yaml.safe_load((MONITORING / "alerts.yaml").read_text())["spec"]["groups"]
RULES = [rule for group in ALERTS for rule in group["rules"]]
LONG = 60
"""Minutes of samples: longer than what any alert waits for."""

Series = dict[str, str]
"""promtool's notation of the samples, one a minute, by series."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """Samples by which an alert fires, and some that are near it by which it does not."""

    fires: Series
    labels: dict[str, str] = field(default_factory=dict)
    silent: Series


def always(value: float) -> str:
    return f"{value}x{LONG}"


def rising(by: float) -> str:
    return f"0+{by}x{LONG}"


def once() -> str:
    """Return a counter that has risen by one when a third of the time had passed."""
    return f"0x{LONG // 3} 1x{LONG}"


NODE = 'job="kmm-daemon",instance="a"'
ON_NODE = {"job": "kmm-daemon", "instance": "a"}


def stalls(long: int) -> Series:
    """Return ten turns a minute of a daemon's event loop, and so many of more than a second."""
    name = "kmm_daemon_event_loop_stall_seconds"
    return {
        f"{name}_count{{{NODE}}}": rising(10 + long),
        f'{name}_bucket{{{NODE},le="1.0"}}': rising(10),
    }


CASES = {
    "KmmControlPlaneDown": Case(
        fires={"up": always(1)}, silent={'kmm_cp_build_info{version="1"}': always(1)}
    ),
    "KmmNoLeader": Case(
        fires={'kmm_cp_leader{instance="a"}': always(0), 'kmm_cp_leader{instance="b"}': always(0)},
        silent={'kmm_cp_leader{instance="a"}': always(0), 'kmm_cp_leader{instance="b"}': always(1)},
    ),
    "KmmSeveralLeaders": Case(
        fires={'kmm_cp_leader{instance="a"}': always(1), 'kmm_cp_leader{instance="b"}': always(1)},
        silent={'kmm_cp_leader{instance="a"}': always(0), 'kmm_cp_leader{instance="b"}': always(1)},
    ),
    "KmmOtherKmm": Case(
        fires={"kmm_cp_neighbours": always(1)}, silent={"kmm_cp_neighbours": always(0)}
    ),
    "KmmReconcilesFail": Case(
        fires={'kmm_cp_reconciles_total{controller="node",result="terminal"}': once()},
        labels={"controller": "node"},
        silent={'kmm_cp_reconciles_total{controller="node",result="transient"}': rising(1)},
    ),
    "KmmReconcilesCrash": Case(
        fires={'kmm_cp_reconciles_total{controller="node",result="crash"}': rising(1)},
        labels={"controller": "node"},
        silent={'kmm_cp_reconciles_total{controller="node",result="crash"}': once()},
    ),
    "KmmQueueStuck": Case(
        fires={'kmm_cp_queue_depth{controller="node"}': always(500)},
        labels={"controller": "node"},
        silent={'kmm_cp_queue_depth{controller="node"}': f"500x{LONG - 2} 0 500"},
    ),
    "KmmWritesForbidden": Case(
        fires={
            'kmm_cp_api_writes_total{resource="nodes",verb="patch",code="403"}': rising(1),
        },
        labels={"resource": "nodes", "verb": "patch"},
        silent={
            'kmm_cp_api_writes_total{resource="nodes",verb="patch",code="409"}': rising(1),
        },
    ),
    "KmmPeersRefused": Case(
        fires={'kmm_cp_refused_peers_total{reason="NoPod"}': rising(1)},
        labels={"reason": "NoPod"},
        silent={'kmm_cp_refused_peers_total{reason="PodDeleting"}': rising(1)},
    ),
    "KmmSessionsFlapping": Case(
        fires={"kmm_cp_sessions_flapping_total": rising(1)},
        silent={"kmm_cp_sessions_flapping_total": always(7)},
    ),
    "KmmSettingsNotReloaded": Case(
        fires={f"kmm_daemon_config_last_reload_successful{{{NODE}}}": always(0)},
        labels=ON_NODE,
        silent={f"kmm_daemon_config_last_reload_successful{{{NODE}}}": always(1)},
    ),
    "KmmEventLoopStalls": Case(
        fires=stalls(1),
        labels=ON_NODE,
        silent=stalls(0),
    ),
    "KmmDaemonNotScraped": Case(
        fires={f"up{{{NODE}}}": always(0)},
        labels=ON_NODE,
        silent={f"up{{{NODE}}}": always(1), 'up{job="kmm-cp",instance="a"}': always(0)},
    ),
    "KmmDaemonWithoutSession": Case(
        fires={f"kmm_daemon_session_connected{{{NODE}}}": always(0)},
        labels=ON_NODE,
        silent={f"kmm_daemon_session_connected{{{NODE}}}": always(1)},
    ),
    "KmmDaemonNotEnrolled": Case(
        fires={f'kmm_daemon_enrolments_total{{{NODE},result="failed"}}': rising(0.2)},
        labels={**ON_NODE, "result": "failed"},
        silent={
            f'kmm_daemon_enrolments_total{{{NODE},result="failed"}}': always(3),
            f'kmm_daemon_enrolments_total{{{NODE},result="ok"}}': rising(0.2),
        },
    ),
    "KmmDaemonCertificateExpires": Case(
        fires={f"kmm_daemon_certificate_expiration_timestamp_seconds{{{NODE}}}": always(3700)},
        labels=ON_NODE,
        silent={f"kmm_daemon_certificate_expiration_timestamp_seconds{{{NODE}}}": always(7200)},
    ),
    "KmmModulesFailed": Case(
        fires={f'kmm_daemon_modules{{{NODE},state="Failed"}}': always(2)},
        labels={**ON_NODE, "state": "Failed"},
        silent={f'kmm_daemon_modules{{{NODE},state="Loaded"}}': always(2)},
    ),
    "KmmModulesUnderWay": Case(
        fires={
            f'kmm_daemon_modules{{{NODE},state="Pulling"}}': always(1),
            f'kmm_daemon_modules{{{NODE},state="Loading"}}': always(0),
        },
        labels=ON_NODE,
        silent={
            f'kmm_daemon_modules{{{NODE},state="Pulling"}}': always(0),
            f'kmm_daemon_modules{{{NODE},state="Loaded"}}': always(1),
        },
    ),
    "KmmModprobeHangs": Case(
        fires={f"kmm_daemon_unended_processes{{{NODE}}}": always(1)},
        labels=ON_NODE,
        silent={f"kmm_daemon_unended_processes{{{NODE}}}": f"1x{LONG - 3} 0 1 1"},
    ),
    "KmmModulesVanish": Case(
        fires={f"kmm_daemon_drift_total{{{NODE}}}": rising(0.1)},
        labels=ON_NODE,
        silent={f"kmm_daemon_drift_total{{{NODE}}}": always(3)},
    ),
}


@pytest.fixture(scope="module", autouse=True)
def installed() -> None:
    prometheus_installed()


@pytest.fixture
def rules(tmp_path: Path) -> Path:
    return written(tmp_path / "rules.yaml", {"groups": ALERTS})


def test_monitor_selects_the_service_of_the_metrics_and_one_of_its_ports() -> None:
    monitor = yaml.safe_load((MONITORING / "monitors.yaml").read_text())
    text = (REPOSITORY / "manifests/base/services.yaml").read_text()
    wanted = monitor["spec"]["selector"]["matchLabels"].items()
    (service,) = [
        each
        for each in yaml.safe_load_all(text)
        if wanted <= each["metadata"].get("labels", {}).items()
    ]
    assert service["metadata"]["namespace"] == monitor["metadata"]["namespace"]
    ports = {port["name"] for port in service["spec"]["ports"]}
    assert {endpoint["port"] for endpoint in monitor["spec"]["endpoints"]} <= ports


def test_rules_are_sound(rules: Path) -> None:
    assert f"{len(RULES)} rules found" in promtool("check", "rules", rules)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_alert_fires_when_it_should_and_only_then(rule: dict[str, Any], rules: Path) -> None:
    case, name = CASES[rule["alert"]], rule["alert"]
    labels = {"alertname": name, "alertstate": "firing", **rule["labels"], **case.labels}
    fired = {"labels": f"ALERTS{_braced(labels)}", "value": 1}
    tests = [_test(name, case.fires, [fired]), _test(name, case.silent, [])]
    content = {"rule_files": [str(rules)], "evaluation_interval": "1m", "tests": tests}
    said = promtool("test", "rules", written(rules.with_name("test.yaml"), content))
    assert "SUCCESS" in said


def _test(alert: str, series: Series, firing: list[dict[str, Any]]) -> dict[str, Any]:
    # What promtool has for alerts would have every word of their annotations repeated.
    asked = f"ALERTS{_braced({'alertname': alert, 'alertstate': 'firing'})}"
    expected = {"expr": asked, "eval_time": f"{LONG}m", "exp_samples": firing}
    return {
        "interval": "1m",
        "input_series": [{"series": one, "values": values} for one, values in series.items()],
        "promql_expr_test": [expected],
    }


def _braced(labels: dict[str, str]) -> str:
    pairs = ",".join(f'{name}="{value}"' for name, value in labels.items())
    return f"{{{pairs}}}"


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_alert_is_about_what_is_served_and_says_what_to_do(rule: dict[str, Any]) -> None:
    assert_served(rule["expr"].replace("kmm_(cp|daemon)_", "kmm_cp_"))
    assert rule["labels"]["severity"] in ("critical", "warning")
    assert rule["annotations"].keys() == {"summary", "description"}


def test_dashboard_asks_for_what_is_served(tmp_path: Path) -> None:
    panels = json.loads((MONITORING / "dashboard.json").read_text())["panels"]
    asked = [target["expr"] for panel in panels for target in panel.get("targets", ())]
    for expr in asked:
        assert_served(expr)
    rules = [{"record": f"panel:{number}", "expr": expr} for number, expr in enumerate(asked)]
    content = {"groups": [{"name": "dashboard", "rules": rules}]}
    said = promtool("check", "rules", written(tmp_path / "rules.yaml", content))
    assert f"{len(asked)} rules found" in said


def assert_served(expr: str) -> None:
    """Check that the programs have every metric of an expression."""
    served = b"".join(
        metrics.exposition()
        for metrics in (ControlPlaneMetrics(version="1"), DaemonMetrics(version="1"))
    ).decode()
    names = set(re.findall(r"\bkmm_[a-z_]+", expr))
    # `up` is Prometheus' own, of every target.
    assert names or expr.startswith("up{")
    for name in names:
        family = re.sub("_(bucket|count)$", "", name)
        assert re.search(rf"^# TYPE {family} ", served, re.MULTILINE), name


def test_served_metrics_are_what_prometheus_wants() -> None:
    for metrics in (ControlPlaneMetrics(version="1"), DaemonMetrics(version="1")):
        promtool("check", "metrics", told=metrics.exposition().decode())
