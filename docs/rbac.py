"""Makes docs/reference/rbac.md of the rights that are shipped and the comments above them."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

MANIFESTS = Path(__file__).resolve().parents[1] / "manifests"
PAGE = Path(__file__).parent / "reference/rbac.md"

HEAD = """# Rights of the control plane

`kmm-cp` runs as ServiceAccount `kmm-cp` of its own namespace, and has the rights of
`manifests/base/rbac.yaml` and no others. The tests' control plane runs as that ServiceAccount too.
`make test` holds every request in the API server's audit log against these rules: it fails on a
right that nothing needed, on a request that no rule covers, and on a refusal that no test meant.
What the leader asks for has the user agent `kmm-cp-leader`, the rest `kmm-cp`, and each needs the
rights of its own roles. The daemon has no right at the API server at all. Why it is so:
[ADR 19](../adr/0019-rights.md).

This page is generated from the manifests.
"""

ENROLMENT = """
Only where the control plane has an authority of its own (`manifests/builtin-ca/rbac.yaml`,
[ADR 21](../adr/0021-enrolment.md)):
"""

SCRAPER = """
Besides, where it also signs for Prometheus (`manifests/daemon-metrics/builtin-ca/rbac.yaml`,
[ADR 27](../adr/0027-daemon-metrics.md)):
"""

TAIL = """
## Pull secrets

A Module names its pull secret in `imageRepoSecret`; it is in the Module's namespace. KMM reads it
only where that namespace allows it, by a RoleBinding to the ClusterRole `kmm-pull-secrets`, which
is shipped and bound nowhere. KMM's own namespace is no place for it, and so none for Modules with
pull secrets: the keys of its authorities are there.

    kubectl create rolebinding kmm-pull-secrets -n NAMESPACE --clusterrole=kmm-pull-secrets \\
      --serviceaccount=kmm-operator-system:kmm-cp

or as a file for GitOps, `manifests/samples/pull-secrets.yaml`. Whoever may read the namespace's
Secrets may make it, so a namespace's administrator needs nobody else. For one Secret only, a Role
of your own does as well, since KMM never lists Secrets:

    kubectl create role kmm-pull-secret -n NAMESPACE --verb=get --resource=secrets \\
      --resource-name=SECRET
    kubectl create rolebinding kmm-pull-secret -n NAMESPACE --role=kmm-pull-secret \\
      --serviceaccount=kmm-operator-system:kmm-cp

Without it the Module's nodes fail with `ImageUnauthorized`, and the message has the command.
Nothing else is disturbed. Once it is bound, nodes try again by themselves within seconds.

A pull secret is read at the moment of a pull and kept in memory for ten seconds. While pulls with
it fail, the control plane looks at its version, not at its content, every five seconds; a new
version is tried at once.
"""


def page() -> str:
    """Return the page's text."""
    shipped, enrolment = (MANIFESTS / f"{name}/rbac.yaml" for name in ("base", "builtin-ca"))
    scraper = MANIFESTS / "daemon-metrics/builtin-ca/rbac.yaml"
    return "".join(
        [
            *(HEAD, _sections(shipped)),
            *(ENROLMENT, _sections(enrolment)),
            *(SCRAPER, _sections(scraper), TAIL),
        ]
    )


def _sections(manifest: Path) -> str:
    return "".join(_section(part) for part in manifest.read_text().split("\n---\n"))


def _section(part: str) -> str:
    role = yaml.safe_load(part)
    if role["kind"] not in ("Role", "ClusterRole"):
        return ""
    above = part.partition("apiVersion:")[0].rstrip().split("\n\n")[-1]
    intro = " ".join(line.removeprefix("# ") for line in above.splitlines())
    rows = [
        f"| {_resources(rule)} | {', '.join(rule['verbs'])} | {why} |"
        for rule, why in zip(role["rules"], _comments(part), strict=True)
    ]
    where = f", in namespace {role['metadata']['namespace']}" if role["kind"] == "Role" else ""
    head = f"\n## {role['kind']} {role['metadata']['name']}{where}\n"
    return "\n".join(
        [
            head,
            *([intro, ""] if intro else []),
            "| what | verbs | why |",
            "|---|---|---|",
            *rows,
            "",
        ]
    )


def _resources(rule: Mapping[str, Any]) -> str:
    found = [
        f"`{resource}.{group}`" if group else f"`{resource}`"
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    ]
    names = [f"`{name}`" for name in rule.get("resourceNames", ())]
    return ", ".join(found) + (f" named {', '.join(names)}" if names else "")


def _comments(part: str) -> Iterator[str]:
    """Yield the comment above each rule; two rules with nothing in between share one."""
    why, fresh = "", True
    for line in part.partition("\nrules:\n")[2].splitlines():
        if line.startswith("  # "):
            why, fresh = (line[4:], False) if fresh else (f"{why} {line[4:]}", False)
        elif line.startswith("  - "):
            fresh = True
            yield why
