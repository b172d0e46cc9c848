"""The Prometheus Operator's CustomResourceDefinitions: files of its Go module, nothing is built."""

from pathlib import Path

from kmm_sandbox.binaries import cache_directory
from kmm_sandbox.gotoolchain import find_go
from kmm_sandbox.progress import Progress
from support.goprogram import sources

_MODULE = "github.com/prometheus-operator/prometheus-operator"
_RULES = "example/prometheus-operator-crd/monitoring.coreos.com_prometheusrules.yaml"


def definition_of_rules() -> Path:
    """Return the definition of PrometheusRule."""
    go = find_go(cache_directory(), Progress())
    return sources(go, Path(__file__).parent, _MODULE) / _RULES
