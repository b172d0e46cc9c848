"""Debian's Prometheus scrapes a real control plane and a real daemon, as what is shipped says."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import yaml

from kmm_sandbox.pki import Identity
from kmm_sandbox.repository import REPOSITORY
from support.certificates import Certificates
from support.cluster import Cluster
from support.daemonprocess import running_daemon
from support.fleet import Fleet, eventually
from support.kmmcp import KmmCp, new_control_plane
from support.prometheus import (
    Json,
    Prometheus,
    asked,
    job,
    prometheus_installed,
    refused,
    running_prometheus,
    written,
)

MONITORING = REPOSITORY / "manifests/monitoring"
GROUPS = yaml.safe_load((MONITORING / "alerts.yaml").read_text())["spec"]["groups"]
RULES = [rule for group in GROUPS for rule in group["rules"]]
METRIC = re.compile(r"\bkmm_(?:cp|daemon)_[a-z_]+")

NOT_YET = {
    "kmm_daemon_failures_total",
    "kmm_daemon_step_duration_seconds_bucket",
    "kmm_daemon_enrolments_total",
}
"""Counted by reason from the first failure on, by step and by attempt from the first one on."""


@pytest.fixture(scope="module", autouse=True)
def installed() -> None:
    prometheus_installed()


def monitor(name: str) -> Json:
    """Return the spec of a monitor that is shipped."""
    documents = yaml.safe_load_all((MONITORING / "monitors.yaml").read_text())
    (found,) = [each["spec"] for each in documents if each["metadata"]["name"] == name]
    spec: Json = found
    return spec


def tls_config(certificates: Certificates, **identity: Any) -> Json:
    """Return what the Prometheus Operator makes of a tlsConfig; a client only with an identity."""
    config: Json = {"ca_file": str(certificates.server().ca), "server_name": "localhost"}
    if identity:
        files = certificates.issue(Identity(common_name="x", client=True, **identity))
        config |= {"cert_file": str(files.cert), "key_file": str(files.key)}
    return config


@pytest.fixture
async def scraped(fleet: Fleet, tmp_path: Path) -> AsyncIterator[Prometheus]:
    """A server that scrapes the control plane and the daemon of a node without Modules."""
    assert isinstance(fleet.control_plane, KmmCp)
    node = await fleet.node(daemon=False)
    files = await asyncio.to_thread(node.certificate)
    (endpoint,) = monitor("kmm-cp")["endpoints"]
    control_plane = job("kmm-cp", endpoint, fleet.control_plane.settings["metrics_listen"])
    with running_daemon(tmp_path / "daemon", server_port=fleet.control_plane.port, files=files) as (
        _,
        address,
    ):
        jobs = [control_plane, job("kmm-daemon", endpoint, address)]
        rules = [written(tmp_path / "rules.yaml", {"groups": GROUPS})]
        with running_prometheus(tmp_path / "prometheus", jobs, rules=rules) as prometheus:
            yield prometheus


async def test_both_programs_are_up_and_have_what_alerts_and_dashboard_ask_for(
    scraped: Prometheus, fleet: Fleet
) -> None:
    for name in ("kmm-cp", "kmm-daemon"):
        await asked(scraped, f'up{{job="{name}"}}')
    await asked(scraped, 'kmm_daemon_session_connected{job="kmm-daemon"}')
    await asked(scraped, "sum(kmm_cp_leader)")
    asking = "\n".join(
        [*(rule["expr"] for rule in RULES), (MONITORING / "dashboard.json").read_text()]
    )
    names = set(METRIC.findall(asking)) - NOT_YET
    assert len(names) > 20
    for name in names:
        job_name = "kmm-cp" if name.startswith("kmm_cp_") else "kmm-daemon"
        await asked(scraped, f'count({name}{{job="{job_name}"}}) > bool 0')


async def test_every_alert_is_evaluated_without_an_error_and_tells_of_nothing(
    scraped: Prometheus,
) -> None:
    await asked(scraped, 'kmm_daemon_session_connected{job="kmm-daemon"}')

    async def look() -> list[Any]:
        return await asyncio.to_thread(scraped.rules)

    evaluated = await eventually(
        look, lambda rules: {rule["health"] for rule in rules} == {"ok"}, what="rules evaluated"
    )
    assert {rule["name"] for rule in evaluated} == {rule["alert"] for rule in RULES}
    assert scraped.query('ALERTS{alertstate="firing"}') == []


def metrics_tls(certificates: Certificates) -> Json:
    """Return a program's setting: metrics for one name only."""
    files = certificates.server()
    paths = {"cert": str(files.cert), "key": str(files.key), "ca": str(files.ca)}
    return {**paths, "names": [SCRAPER]}


SCRAPER = "prometheus.monitoring.svc"


async def test_metrics_over_tls_are_for_the_scraper_that_is_named(
    fleet: Fleet, kubernetes: Cluster, tmp_path: Path
) -> None:
    """A second replica of the control plane and a daemon, which serve by TLS."""
    node = await fleet.node(daemon=False)
    files = await asyncio.to_thread(node.certificate)
    certificates = fleet.control_plane.certificates
    replica = new_control_plane(kubernetes, tmp_path / "replica", certificates=certificates)
    replica.settings |= {"replica": "by-tls", "metrics_tls": metrics_tls(certificates)}
    (tmp_path / "replica").mkdir()
    stranger = Certificates(tmp_path / "stranger")
    with (
        closing(replica),
        running_daemon(
            tmp_path / "daemon",
            server_port=fleet.control_plane.port,
            files=files,
            metrics_tls=metrics_tls(certificates),
        ) as (_, address),
    ):
        await asyncio.to_thread(replica.launch)
        programs = {"kmm-cp": replica.settings["metrics_listen"], "kmm-daemon": address}
        scrapers = {
            "named": tls_config(certificates, hosts=[SCRAPER]),
            "other": tls_config(certificates, hosts=["other.monitoring.svc"]),
            "nobody": tls_config(certificates),
            "stranger": {
                **tls_config(stranger, hosts=[SCRAPER]),
                "ca_file": str(certificates.server().ca),
            },
        }
        endpoint = {"path": "/metrics", "scheme": "https"}
        jobs = [
            {**job(f"{program}/{scraper}", endpoint, target), "tls_config": config}
            for program, target in programs.items()
            for scraper, config in scrapers.items()
        ]
        with running_prometheus(tmp_path / "prometheus", jobs) as prometheus:
            for program in programs:
                await asked(prometheus, f'up{{job="{program}/named"}}')
                for scraper, told in REFUSED.items():
                    await refused(prometheus, f"{program}/{scraper}", told)
            await asked(prometheus, 'kmm_daemon_session_connected{job="kmm-daemon/named"}')
        assert await asyncio.to_thread(replica.stop) == 0


REFUSED = {"other": "403 Forbidden", "nobody": "403 Forbidden", "stranger": "Get "}
"""A part of what Prometheus says; for the stranger there is no answer, in more than one wording."""
