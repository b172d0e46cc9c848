"""The Prometheus Operator's CustomResourceDefinitions: files of its Go module, nothing is built."""

from pathlib import Path

from kmm_sandbox.cache import cache_directory
from kmm_sandbox.gotoolchain import find_go
from kmm_sandbox.progress import Progress
from support.goprogram import sources

_MODULE = "github.com/prometheus-operator/prometheus-operator"
_DIRECTORY = "example/prometheus-operator-crd"
_PLURALS = ("podmonitors", "prometheusrules", "servicemonitors")


def definitions() -> list[Path]:
    """Return the definitions of PodMonitor, PrometheusRule and ServiceMonitor."""
    go = find_go(cache_directory(), Progress())
    directory = sources(go, Path(__file__).parent, _MODULE) / _DIRECTORY
    return [directory / f"monitoring.coreos.com_{plural}.yaml" for plural in _PLURALS]
