"""Which value goes where in the objects of manifests/."""

from dataclasses import dataclass
from typing import Any

import kmm_cp.settings
import kmm_daemon.settings
from charts.template import Block, Entry, Inline, Mapping, With

CERT_MANAGER = 'eq .Values.certificates.mode "certManager"'
BUILTIN = 'eq .Values.certificates.mode "builtin"'
DAEMON_METRICS = ".Values.monitoring.podMonitor.enabled"
PODS = {
    ("Deployment", "kmm-cp"): "spec.template.spec",
    ("PodTemplate", "kmm-daemon"): "template.spec",
}

KINDS = {
    "CustomResourceDefinition": ".Values.crds.enabled",
    "Namespace": ".Values.namespace.create",
    "NetworkPolicy": ".Values.networkPolicy.enabled",
    "PodMonitor": DAEMON_METRICS,
    "PrometheusRule": ".Values.monitoring.rules.enabled",
    "ServiceMonitor": ".Values.monitoring.serviceMonitor.enabled",
}
"""What must hold for a kind to be there at all."""
NAMES = {("ConfigMap", "kmm-dashboard"): ".Values.monitoring.dashboard.enabled"}
"""The same for a single object."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A node of an object that a value sets: it replaces what is there, or is added."""

    kind: str
    name: str
    path: str
    """Keys, and names or numbers of items, between dots or slashes: slashes if a key has dots."""
    node: Inline | With | Block

    def apply(self, root: Mapping) -> None:
        """Put the node in. LookupError names the place if the object has no such part any more."""
        try:
            self._apply(root)
        except KeyError as error:
            raise LookupError(
                f"{self.kind} {self.name} has no {error.args[0]!r} of {self.path}: mend the place"
                " in charts/places.py, or the manifest"
            ) from error

    def _apply(self, root: Mapping) -> None:
        *steps, last = self.path.split("/" if "/" in self.path else ".")
        for step in steps:
            root = root.find(step).node
        if last == "+":
            root.entries.append(Entry(self.node))
            return
        # More than one where the overlays differ: the value stands for all of them.
        there = [number for number, entry in enumerate(root.entries) if entry.key == last]
        if not isinstance(self.node, With) and not there:
            raise KeyError(last)
        position = there[0] if there else len(root.entries)
        root.entries = [entry for entry in root.entries if entry.key != last]
        root.entries.insert(position, Entry(self.node, last))


def _pod(key: tuple[str, str], value: str, container: str, prefix: str) -> list[Place]:
    kind, name = key
    pod = PODS[key]
    inside = f"{pod}.containers.{container}"

    def place(path: str, node: Any) -> Place:
        return Place(kind=kind, name=name, path=path, node=node)

    setting = f'include "kmm.registryCA.setting" (dict "values" .Values "prefix" "{prefix}")'
    image = f'include "kmm.image" (list $ .Values.images.{value}) | quote'
    return [
        place(f"{inside}.image", Inline(image)),
        place(f"{inside}.imagePullPolicy", With(".Values.images.pullPolicy", inline=True)),
        place(f"{inside}.env.+", With(f"{setting} | fromYamlArray")),
        place(f"{inside}.env.+", _list("kmm.proxy")),
        place(f"{inside}.volumeMounts.+", _list("kmm.registryCA.mount")),
        place(f"{inside}.resources", With(f".Values.{value}.resources")),
        place(f"{pod}.imagePullSecrets", With(".Values.images.pullSecrets")),
        place(f"{pod}.nodeSelector", With(f".Values.{value}.nodeSelector")),
        place(f"{pod}.priorityClassName", With(f".Values.{value}.priorityClassName", inline=True)),
        place(f"{pod}.tolerations", With(f".Values.{value}.tolerations")),
        place(f"{pod}.affinity", With(f".Values.{value}.affinity")),
        place(f"{pod}.volumes.+", _list("kmm.registryCA.volume")),
    ]


def _list(template: str) -> With:
    """Return the items that a template of _helpers.tpl gives, if any."""
    return With(f'include "{template}" . | fromYamlArray')


def _policy(name: str, path: str, node: With | Block) -> Place:
    return Place(kind="NetworkPolicy", name=name, path=path, node=node)


SETTINGS = {"kmm-cp": ("controlPlane", "toYaml"), "kmm-daemon": ("daemon", "toPrettyJson")}
"""ConfigMaps of one file of settings, which values are merged into them, and how they are written.

The daemon needs no YAML in memory for what is JSON.
"""

_BY_TLS = "(not (empty .Values.controlPlane.settings.metrics_tls))"


def _probe(name: str) -> Place:
    """Return where a probe of the control plane has its scheme; HTTP if it has none."""
    return Place(
        kind="Deployment",
        name="kmm-cp",
        path=f"{PODS['Deployment', 'kmm-cp']}.containers.kmm-cp.{name}.httpGet.scheme",
        node=With(f'ternary "HTTPS" "" {_BY_TLS}', inline=True),
    )


PLACES = [
    *_pod(("Deployment", "kmm-cp"), "controlPlane", "kmm-cp", kmm_cp.settings.PREFIX),
    *_pod(("PodTemplate", "kmm-daemon"), "daemon", "daemon", kmm_daemon.settings.PREFIX),
    Place(
        kind="PodTemplate",
        name="kmm-daemon",
        path="template.spec.securityContext.seccompProfile.localhostProfile",
        node=Inline(".Values.daemon.seccompProfile | quote"),
    ),
    _probe("livenessProbe"),
    _probe("readinessProbe"),
    Place(
        kind="Deployment",
        name="kmm-cp",
        path="spec.replicas",
        node=Inline(".Values.controlPlane.replicas"),
    ),
    Place(
        kind="ConfigMap",
        name="kmm-cp",
        path="data/kmm-cp.yaml",
        node=Block('include "kmm.settings.controlPlane" .', literal=True),
    ),
    Place(
        kind="ConfigMap",
        name="kmm-daemon",
        path="data/daemon.json",
        node=Block('include "kmm.settings.daemon" .', literal=True),
    ),
    _policy("kmm-cp-daemons", "spec.ingress.0.from", _list("kmm.nodes")),
    _policy(
        "kmm-cp-metrics",
        "spec.ingress.0.from",
        Block('include "kmm.monitoring" . | trim'),
    ),
    _policy("kmm-cp-egress", "spec.egress.0.ports.+", With(".Values.networkPolicy.egressPorts")),
    Place(
        kind="PrometheusRule",
        name="kmm",
        path="metadata.labels.+",
        node=With(".Values.monitoring.rules.labels"),
    ),
    Place(
        kind="PodMonitor",
        name="kmm-daemon",
        path="metadata.labels.+",
        node=With(".Values.monitoring.podMonitor.labels"),
    ),
    Place(
        kind="ServiceMonitor",
        name="kmm-cp",
        path="spec.endpoints.0.scheme",
        node=Inline(f'ternary "https" "http" {_BY_TLS}'),
    ),
    Place(
        kind="ServiceMonitor",
        name="kmm-cp",
        path="spec.endpoints.0.tlsConfig",
        node=With(".Values.monitoring.serviceMonitor.tlsConfig"),
    ),
    Place(
        kind="ServiceMonitor",
        name="kmm-cp",
        path="metadata.labels.+",
        node=With(".Values.monitoring.serviceMonitor.labels"),
    ),
]
