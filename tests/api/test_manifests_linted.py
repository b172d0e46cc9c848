"""What a linter of others has to say against what administrators apply, images set as the docs do.

The API server judges the rest: fields, CEL, Pod Security, deprecated APIs (test_manifests.py).
"""

from pathlib import Path

import pytest
import yaml

from support.checkov import Finding, findings
from support.helm import MODES, Helm
from support.installation import INSTALL, OVERLAYS, documented, kustomized, yaml_block

pytestmark = pytest.mark.timeout(1800)
"""The first run on a machine installs checkov and compiles helm."""

CONTROL_PLANE = "Deployment.kmm-operator-system.kmm-cp"
DAEMON = "PodTemplate.kmm-operator-system.kmm-daemon"

EXCUSED = {
    # A limit of CPU halts a program at work on a node that is idle; requests share out a busy one.
    Finding("CKV_K8S_11", CONTROL_PLANE),
    Finding("CKV_K8S_11", DAEMON),
    # It is a client of the API server.
    Finding("CKV_K8S_38", CONTROL_PLANE),
    # It loads kernel modules: docs/reference/privilege.md has the reason for each capability.
    Finding("CKV_K8S_25", DAEMON),
    # Whoever ends it for its memory may do so in the middle of a load.
    Finding("CKV_K8S_13", DAEMON),
    # A daemon that hangs loses its session, and an alert tells of it. A probe of its life would end
    # it just when modprobe is slow; nothing is routed to it that one of its readiness could keep
    # away, and rollouts wait until it has run for a while (kmm_cp.policy.daemonset).
    Finding("CKV_K8S_8", DAEMON),
    Finding("CKV_K8S_9", DAEMON),
}
SCRAPED = {
    # A port of the node, as that of everything that has the node's network.
    Finding("CKV_K8S_26", DAEMON),
}
"""Besides, where Prometheus scrapes the daemons."""
UNPINNED = {
    Finding(check, pod) for check in ("CKV_K8S_14", "CKV_K8S_43") for pod in (CONTROL_PLANE, DAEMON)
}


@pytest.mark.parametrize("overlay", MODES)
def test_linter_finds_in_overlays_only_what_there_is_a_reason_for(
    overlay: str, tmp_path: Path
) -> None:
    assert findings(documented(overlay, tmp_path), tmp_path) == EXCUSED


@pytest.mark.parametrize("mode", MODES.values())
def test_linter_finds_in_the_chart_only_what_there_is_a_reason_for(
    mode: str, tmp_path: Path
) -> None:
    values = yaml.safe_load(yaml_block(INSTALL, "controlPlane:"))
    made = Helm(home=tmp_path).template({**values, "certificates": {"mode": mode}})
    assert findings(made, tmp_path) == EXCUSED


@pytest.mark.parametrize("mode", MODES.values())
def test_linter_finds_in_what_has_daemons_scraped_only_what_there_is_a_reason_for(
    mode: str, tmp_path: Path
) -> None:
    values = yaml.safe_load(yaml_block(INSTALL, "controlPlane:"))
    monitoring = yaml.safe_load(yaml_block(INSTALL, "serviceMonitor:"))
    chosen = {**values, **monitoring, "certificates": {"mode": mode}}
    made = Helm(home=tmp_path).template(chosen)
    assert findings(made, tmp_path) == EXCUSED | SCRAPED


def test_linter_sees_both_images_where_nobody_has_pinned_them(tmp_path: Path) -> None:
    assert findings(kustomized(OVERLAYS / "default"), tmp_path) == EXCUSED | UNPINNED
