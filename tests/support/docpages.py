"""The pages of docs/, as tests read them."""

import re
from pathlib import Path

from kmm_common.api import crd

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
REFERENCE = DOCS / "reference"
OTHER_RESOURCES = frozenset(
    (
        *("certificaterequest", "certificaterequests", "certificates", "issuer", "issuers"),
        *("clusterrolebinding", "configmap", "crd", "daemonset", "deployment", "namespace"),
        *("clusterrole", "daemonsets", "networkpolicy", "podtemplate", "role", "service"),
        *("poddisruptionbudget", "serviceaccount"),
        *("validatingadmissionpolicy", "validatingadmissionpolicybinding"),
        *("events", "node", "nodes", "pod", "pods", "rolebinding", "secret"),
        *("validatingwebhookconfiguration", "validatingwebhookconfigurations"),
    )
)
"""Of Kubernetes and of cert-manager, as pages name them."""
UPSTREAM_RESOURCES = frozenset(("nodemodulesconfigs", "preflightvalidations"))
"""Of upstream KMM, which its users come from."""


def table_rows(page: Path) -> list[dict[str, str]]:
    """Return the rows of a page's tables, by the heads of their columns."""
    found, heads = list[dict[str, str]](), list[str]()
    for line in page.read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split(" | ")] if line[:1] == "|" else []
        if not cells:
            heads = []
        elif not heads:
            heads = cells
        elif not set(line) <= set("|-"):
            found.append(dict(zip(heads, cells, strict=True)))
    return found


def names_in(cell: str) -> list[str]:
    """Return what a cell has in code font."""
    return re.findall(r"`([^`]+)`", cell)


def resources() -> frozenset[str]:
    """Return the names of resources that a command may have."""
    ours = set[str]()
    for definition in (crd.module(), crd.node_modules_state()):
        names = definition["spec"]["names"]
        ours |= {names["plural"], names["singular"], *names.get("shortNames", ())}
    return OTHER_RESOURCES | UPSTREAM_RESOURCES | ours
