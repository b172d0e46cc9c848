"""Which settings of the control plane are taken, and what is said about others."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import yaml

from kmm_common.errors import TerminalError
from kmm_cp import settings

TLS = {"cert": "tls.crt", "key": "tls.key", "ca": "ca.crt"}


def load(path: Path, content: Any, **variables: str) -> settings.Settings:
    file = path / "kmm-cp.yaml"
    file.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return settings.load(file, variables)


def test_only_certificates_must_be_set(tmp_path: Path) -> None:
    chosen = load(tmp_path, {"tls": TLS})
    assert chosen.kubeconfig is None
    assert (chosen.listen, chosen.metrics_listen) == ("0.0.0.0:8443", "127.0.0.1:8080")
    assert chosen.tls.cert == Path("tls.crt")


def test_variable_overrides_the_file_as_yaml(tmp_path: Path) -> None:
    variables = {"KMM_CP_DISCONNECTED_SECONDS": "7", "KMM_CP_TLS": yaml.safe_dump(TLS)}
    chosen = load(tmp_path, {"disconnected_seconds": 9}, **variables, OTHER="x")
    assert chosen.disconnected_seconds == 7.0
    assert chosen.tls.ca == Path("ca.crt")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ({}, "tls: must be set"),
        ({"tls": {"cert": "a", "key": "b"}}, "tls.ca: must be set"),
        ({"tls": TLS, "lisen": ":1"}, "lisen: there is no such setting; remove it or correct"),
        (
            {"tls": TLS, "listen": "8443"},
            "listen: '8443' is not taken; it must be like 0.0.0.0:8443",
        ),
        ({"tls": TLS, "listen": ":65536"}, "the port is above 65535"),
        ({"tls": TLS, "tolerated_failures": "-1"}, "it must be like 3 or 10%"),
        ({"tls": TLS, "disconnected_seconds": 0}, "disconnected_seconds: Input should be greater"),
        ({"tls": TLS, "disconnected_seconds": math.inf}, "disconnected_seconds: "),
        ('{"tls": {}, "disconnected_seconds": Infinity}', "disconnected_seconds: "),
        (
            {"tls": TLS, "namespace": "Not_A"},
            "namespace: 'Not_A' is not taken; it must be like kmm",
        ),
        ({"tls": TLS, "scraper_secret": "kmm-scraper"}, "scraper_secret: needs enrolment"),
        (
            {"tls": TLS, "scraper_secret": "one", "enrolment": {"secret": "one"}},
            "scraper_secret: must be another Secret than enrolment.secret",
        ),
        ({"tls": TLS, "log_format": "xml"}, "log_format: Input should be 'text' or 'json'"),
        (
            {"tls": TLS, "lease": {"duration_seconds": 10}},
            "renew_deadline_seconds (10) must be less",
        ),
        ({"tls": TLS, "lease": {"retry_period_seconds": 5}}, "retry_period_seconds (5) must be"),
        ({"tls": TLS, "lease": {"name": "A"}}, "lease.name: "),
        ({"tls": TLS, "enrolment": {"certificate_seconds": 60}}, "enrolment.certificate_seconds: "),
        (
            {"tls": {**TLS, "ca": "elsewhere/ca.crt"}, "enrolment": {}},
            "kmm-cp.yaml: tls.cert, tls.key, tls.ca: must be in one directory, where enrolment is",
        ),
        (
            {"tls": TLS, "lease": {"name": "kmm.sigs.x-k8s.io"}},
            "name must not be kmm.sigs.x-k8s.io",
        ),
        (
            {"tls": TLS, "daemon_template": "kmm-daemon"},
            "kmm-cp.yaml: daemon_daemonset: must be set where daemon_template is",
        ),
        ({"tls": TLS, "daemon_max_unavailable": "some"}, "it must be like 1 or 10%"),
        ([1], "must be a mapping of settings"),
        ("a: [", "kmm-cp.yaml"),
    ],
)
def test_wrong_setting_is_named_with_what_it_may_be(
    tmp_path: Path, content: Any, told: str
) -> None:
    with pytest.raises(TerminalError) as caught:
        load(tmp_path, content)
    assert told in str(caught.value)
    assert str(tmp_path / "kmm-cp.yaml") in str(caught.value)
    assert caught.value.reason == "InvalidSettings"


def test_json_is_read_like_yaml(tmp_path: Path) -> None:
    chosen = load(tmp_path, json.dumps({"tls": TLS, "disconnected_seconds": 9}, indent=2))
    assert chosen == load(tmp_path, {"tls": TLS, "disconnected_seconds": 9})


def test_variable_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(TerminalError, match="variable KMM_CP_LISTEN: "):
        load(tmp_path, {"tls": TLS}, KMM_CP_LISTEN="[::1")


def test_wrong_variable_is_told_apart_from_the_file(tmp_path: Path) -> None:
    with pytest.raises(TerminalError) as caught:
        load(tmp_path, {"tls": TLS, "lisen": 1}, KMM_CP_NEIGHBOURS="never", KMM_CP_TYPO="1")
    told = str(caught.value)
    assert "variable KMM_CP_NEIGHBOURS: neighbours: Input should be 'refuse' or 'warn'" in told
    assert "variable KMM_CP_TYPO: typo: there is no such setting" in told
    assert f"settings file {tmp_path / 'kmm-cp.yaml'}: lisen: there is no such setting" in told


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(TerminalError, match=r"nowhere\.yaml"):
        settings.load(tmp_path / "nowhere.yaml", {})
