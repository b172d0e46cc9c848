"""Debian's Prometheus: its server, and promtool."""

import asyncio
import http.client
import json
import subprocess
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any

import yaml

from kmm_sandbox.machine import install_missing
from kmm_sandbox.ports import KeptPorts
from kmm_sandbox.processes import Launcher, wait_until
from kmm_sandbox.progress import Progress
from support.fleet import eventually

PACKAGES = {"prometheus": "prometheus", "promtool": "prometheus"}
LIMIT_SECONDS = 120.0
READY_SECONDS = 60.0
INTERVAL = "1s"
"""Of scrapes and of rules."""

Json = dict[str, Any]


def prometheus_installed() -> None:
    """Install it if this machine has none. SandboxError if it cannot be."""
    install_missing(PACKAGES, Progress())


def promtool(*words: str | Path, told: str = "") -> str:
    """Run promtool; return what it said. AssertionError with that if it is not content."""
    ran = subprocess.run(
        ["promtool", *map(str, words)],
        input=told,
        capture_output=True,
        text=True,
        timeout=LIMIT_SECONDS,
        check=False,
    )
    said = f"{ran.stdout}{ran.stderr}"
    assert ran.returncode == 0, said
    return said


def written(path: Path, content: Mapping[str, Any]) -> Path:
    """Write a YAML file; return its path."""
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


@dataclass(frozen=True, slots=True, kw_only=True)
class Prometheus:
    """A running server."""

    address: str
    """host:port."""

    def query(self, expression: str) -> list[Json]:
        """Return the samples that an expression has now."""
        query = urllib.parse.urlencode({"query": expression})
        found: list[Json] = self._get(f"query?{query}")["result"]
        return found

    def value(self, expression: str) -> float | None:
        """Return the value of an expression that has one sample at most."""
        found = self.query(expression)
        return float(found[0]["value"][1]) if found else None

    def problem(self, job: str) -> str:
        """Return why the last scrape of a job's one target failed; "" if it did not."""
        targets = self._get("targets?state=active")["activeTargets"]
        (target,) = [each for each in targets if each["labels"]["job"] == job]
        error: str = target["lastError"]
        return error

    def rules(self) -> list[Json]:
        """Return the rules of all groups."""
        return [rule for group in self._get("rules")["groups"] for rule in group["rules"]]

    def is_ready(self) -> bool:
        """Tell whether it answers queries."""
        try:
            return self._exchange("/-/ready")[0] == HTTPStatus.OK
        except OSError:
            return False

    def _get(self, path: str) -> Any:
        return json.loads(self._exchange(f"/api/v1/{path}")[1])["data"]

    def _exchange(self, path: str) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection(self.address, timeout=LIMIT_SECONDS)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()


@contextmanager
def running_prometheus(
    directory: Path, jobs: Sequence[Json], *, rules: Sequence[Path] = ()
) -> Iterator[Prometheus]:
    """Run a server on loopback with these scrape_configs, until the end of the block."""
    content = {
        "global": {"scrape_interval": INTERVAL, "evaluation_interval": INTERVAL},
        "rule_files": list(map(str, rules)),
        "scrape_configs": list(jobs),
    }
    directory.mkdir(parents=True, exist_ok=True)
    config = written(directory / "prometheus.yaml", content)
    promtool("check", "config", config)
    with KeptPorts() as ports:
        address = ports.address()
        argv = ["prometheus", f"--config.file={config}", f"--web.listen-address={address}"]
        argv.append(f"--storage.tsdb.path={directory / 'data'}")
        process = Launcher(logs=directory, leashed=True).start("prometheus", argv)
        try:
            prometheus = Prometheus(address=address)
            wait_until(prometheus.is_ready, seconds=READY_SECONDS, what="Prometheus")
            yield prometheus
            process.require_alive()
        finally:
            process.kill()


def job(name: str, endpoint: Json, address: str) -> Json:
    """Return the scrape_config that the Prometheus Operator makes of an endpoint for a target."""
    return {
        "job_name": name,
        "metrics_path": endpoint["path"],
        "scheme": endpoint["scheme"],
        "static_configs": [{"targets": [address]}],
    }


async def asked(prometheus: Prometheus, expression: str, value: float = 1.0) -> None:
    """Wait until an expression has a value."""
    await eventually(
        lambda: asyncio.to_thread(prometheus.value, expression),
        lambda found: found == value,
        what=expression,
    )


async def refused(prometheus: Prometheus, name: str, told: str) -> None:
    """Wait until a scrape has failed for a reason."""
    await eventually(
        lambda: asyncio.to_thread(prometheus.problem, name),
        lambda problem: told in problem,
        what=f"{name}: {told}",
    )
    assert await asyncio.to_thread(prometheus.value, f'up{{job="{name}"}}') == 0.0
