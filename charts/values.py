"""What administrators may set of the chart; values.yaml, its schema and page are made of it."""

import textwrap
from collections.abc import Iterator
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field

import kmm_cp.settings
import kmm_daemon.settings

Name = Annotated[str, Field(min_length=1)]
Labels = dict[str, str]
Quantity = Annotated[str, Field(pattern=r"^[0-9.]+([eE][-+]?[0-9]+|[numkKMGTPE]i?)?$")] | float
Quantities = dict[str, Quantity]
Port = Annotated[int, Field(ge=1, le=65535)]
CONTROL_PLANE_AFFINITY: dict[str, Any] = {
    "nodeAffinity": {
        "preferredDuringSchedulingIgnoredDuringExecution": [
            {
                "weight": 1,
                "preference": {
                    "matchExpressions": [
                        {"key": "node-role.kubernetes.io/control-plane", "operator": "Exists"}
                    ]
                },
            }
        ]
    },
    "podAntiAffinity": {
        "preferredDuringSchedulingIgnoredDuringExecution": [
            {
                "weight": 100,
                "podAffinityTerm": {
                    "topologyKey": "kubernetes.io/hostname",
                    "labelSelector": {"matchLabels": {"app.kubernetes.io/name": "kmm-cp"}},
                },
            }
        ]
    },
}
DAEMON_AFFINITY: dict[str, Any] = {
    "nodeAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": {
            "nodeSelectorTerms": [
                {
                    "matchExpressions": [
                        {"key": "kubernetes.io/os", "operator": "In", "values": ["linux"]},
                        {
                            "key": "eks.amazonaws.com/compute-type",
                            "operator": "NotIn",
                            "values": ["fargate"],
                        },
                        {"key": "type", "operator": "NotIn", "values": ["virtual-kubelet"]},
                    ]
                }
            ]
        }
    }
}


class Strict(BaseModel):
    """Unknown names are refused. A text under a field is its documentation."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class Image(Strict):
    """Where an image is."""

    repository: Name
    """Without registry, tag and digest."""
    tag: Annotated[str, Field(pattern=r"^([\w][\w.-]{0,127})?$")] = ""
    """Has no effect if a digest is set; the chart's appVersion if both are empty."""
    digest: Annotated[str, Field(pattern=r"^(sha256:[0-9a-f]{64})?$")] = ""
    """`sha256:...`; without it nodes may run different bytes."""


class PullSecret(Strict):
    """A Secret of the release's namespace."""

    name: Name
    """Its name."""


class Images(Strict):
    """Which images run, for both programs."""

    registry: str = ""
    """Before each repository, such as registry.example/kmm."""
    pullPolicy: Literal["", "Always", "IfNotPresent", "Never"] = ""
    """Kubernetes' own default if empty."""
    pullSecrets: tuple[PullSecret, ...] = ()
    """Secrets for the registry, as `[{name: ...}]`."""
    controlPlane: Image = Image(repository="kmm-cp")
    """The image of kmm-cp."""
    daemon: Image = Image(repository="kmm-daemon")
    """The image of kmm-daemon."""


class RegistryCA(Strict):
    """What certificates of registries must be signed by, for both programs."""

    configMap: Annotated[str, Field(pattern=r"^([a-z0-9]([-a-z0-9.]*[a-z0-9])?)?$")] = ""
    """A ConfigMap of the release's namespace, with authorities as PEM, which hold instead of the
    system's, and whatever settings say of registry_ca. The system's hold if empty."""
    key: Annotated[str, Field(pattern=r"^[-._a-zA-Z0-9]+$")] = "ca.crt"
    """Where in it."""


ProxyURL = Annotated[str, Field(pattern=r"^(https?://[^\s/@?#]+/?)?$")]
"""Without user and password: what is in an object is no secret."""


class Proxy(Strict):
    """Through which both programs ask registries."""

    httpsProxy: ProxyURL = ""
    """For registries with TLS, such as http://proxy.example:3128, without a password; none if
    empty."""
    httpProxy: ProxyURL = ""
    """The same for those without TLS."""
    noProxy: tuple[Annotated[str, Field(pattern=r"^[^\s,]+$")], ...] = ()
    """Hosts, domains and CIDRs that are asked without; the API server is anyway."""


class Toleration(Strict):
    """As in a Pod."""

    key: str | None = None
    """Of the taint; every one if left out."""
    operator: Literal["Exists", "Equal", "Lt", "Gt"] | None = None
    """How the value is compared."""
    value: str | None = None
    """Of the taint."""
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    """Of the taint; every one if left out."""
    tolerationSeconds: int | None = None
    """For NoExecute."""


class Resources(Strict):
    """As in a container."""

    requests: Quantities | None = None
    """What the scheduler sets aside."""
    limits: Quantities | None = None
    """What it may not exceed."""


class ControlPlane(Strict):
    """The Deployment kmm-cp."""

    replicas: Annotated[int, Field(ge=1)] = 2
    """All serve daemons, one leads."""
    resources: Resources = Resources(
        requests={"cpu": "100m", "memory": "128Mi"}, limits={"memory": "1Gi"}
    )
    """Of its container."""
    priorityClassName: str = "system-cluster-critical"
    """Of its Pods."""
    nodeSelector: Labels = {}
    """Which nodes its Pods may be on."""
    tolerations: tuple[Toleration, ...] = (
        Toleration(
            key="node-role.kubernetes.io/control-plane", operator="Exists", effect="NoSchedule"
        ),
    )
    """Of its Pods. Nodes may not become ready before their drivers are loaded."""
    affinity: dict[str, Any] = CONTROL_PLANE_AFFINITY
    """Of its Pods; by default on the cluster's own control plane, and apart from each other."""
    settings: dict[str, Any] = {}
    """Merged into the settings that the chart brings (docs/reference/settings.md)."""


class Daemon(Strict):
    """The PodTemplate kmm-daemon, of which the control plane makes the DaemonSet."""

    resources: Resources = Resources(requests={"cpu": "10m", "memory": "64Mi"})
    """Of its container. A limit of memory must leave room for an image that is being unpacked."""
    priorityClassName: str = "system-node-critical"
    """Of its Pods."""
    nodeSelector: Labels = {}
    """Which nodes it runs on; all if empty."""
    tolerations: tuple[Toleration, ...] = (Toleration(operator="Exists"),)
    """Of its Pods; every taint, by default."""
    affinity: dict[str, Any] = DAEMON_AFFINITY
    """Of its Pods; by default for nodes that run Linux and containers of their own."""
    seccompProfile: Name = "kmm/daemon.json"
    """Where each node has manifests/base/daemon/seccomp.json, below `seccomp` of the kubelet's root
    directory."""
    settings: dict[str, Any] = {}
    """Merged into the settings that the chart brings (docs/reference/settings.md)."""


class Certificates(Strict):
    """Who signs what control plane and daemons show each other."""

    mode: Literal["certManager", "builtin"] = "certManager"
    """certManager: cert-manager and its CSI driver, both installed already. builtin: an authority
    of the control plane's own."""


class ExtraPort(Strict):
    """A port of a NetworkPolicy."""

    port: Port
    """Its number."""
    protocol: Literal["TCP", "UDP", "SCTP"] = "TCP"
    """Of the connection."""


class NetworkPolicy(Strict):
    """Who may connect to the control plane, and where it may connect to."""

    enabled: bool = True
    """Whether NetworkPolicies are installed; without them every Pod may connect."""
    nodeCIDRs: tuple[Annotated[str, Field(pattern=r"^[0-9a-fA-F.:]+/\d{1,3}$")], ...] = ()
    """The addresses of your nodes, from which daemons come; every address if empty, and then mutual
    TLS alone decides."""
    monitoringNamespaces: Annotated[tuple[Name, ...], Field(min_length=1)] = ("monitoring",)
    """The namespaces whose Pods may read metrics."""
    egressPorts: tuple[ExtraPort, ...] = ()
    """Of registries, proxies and API servers at other ports than 443 and 6443."""


class Rules(Strict):
    """The PrometheusRule."""

    enabled: bool = False
    """Needs the Prometheus Operator's definitions."""
    labels: Labels = {}
    """By which your Prometheus selects rules."""


class Monitor(Strict):
    """The ServiceMonitor of the control plane."""

    enabled: bool = False
    """Needs the Prometheus Operator's definitions."""
    labels: Labels = {}
    """By which your Prometheus selects monitors."""
    tlsConfig: dict[str, Any] = {}
    """What Prometheus shows and trusts where controlPlane.settings has metrics_tls, as in the
    Prometheus Operator's API."""


class DaemonMonitor(Strict):
    """The PodMonitor of the daemons, and all that they need to be scraped."""

    enabled: bool = False
    """Opens port 8081 of each node for it, by TLS with certificates on both sides, whatever
    daemon.settings says of metrics_listen and metrics_tls. Needs the Prometheus Operator's
    definitions."""
    labels: Labels = {}
    """By which your Prometheus selects monitors."""


class Dashboard(Strict):
    """The ConfigMap with the dashboard."""

    enabled: bool = False
    """Taken up by Grafana's sidecar."""


class Monitoring(Strict):
    """What is scraped, alerts and a dashboard."""

    serviceMonitor: Monitor = Monitor()
    """That Prometheus scrapes the control plane."""
    podMonitor: DaemonMonitor = DaemonMonitor()
    """That Prometheus scrapes the daemons."""
    rules: Rules = Rules()
    """The alerts."""
    dashboard: Dashboard = Dashboard()
    """The dashboard."""


class Definitions(Strict):
    """The CustomResourceDefinitions."""

    enabled: bool = True
    """Leave them out where somebody else applies them."""
    keep: bool = True
    """`helm uninstall` leaves them, and with them every Module."""


class Namespace(Strict):
    """The release's namespace."""

    create: bool = False
    """For `helm template` and tools that apply what it prints. `helm install` keeps its record in
    the namespace, so there it has to be made before."""


class Values(Strict):
    """All of them."""

    images: Images = Images()
    """Which images run."""
    registryCA: RegistryCA = RegistryCA()
    """What certificates of registries must be signed by, for both programs."""
    proxy: Proxy = Proxy()
    """Through which both programs ask registries."""
    controlPlane: ControlPlane = ControlPlane()
    """The Deployment kmm-cp."""
    daemon: Daemon = Daemon()
    """The daemons' Pods."""
    certificates: Certificates = Certificates()
    """Who signs what control plane and daemons show each other."""
    networkPolicy: NetworkPolicy = NetworkPolicy()
    """Who may connect to the control plane, and where it may connect to."""
    monitoring: Monitoring = Monitoring()
    """What is scraped, alerts and a dashboard."""
    crds: Definitions = Definitions()
    """The CustomResourceDefinitions. They are templates, since Helm never upgrades what is in a
    chart's folder crds."""
    namespace: Namespace = Namespace()
    """The release's namespace."""


SETTINGS: dict[str, type[BaseModel]] = {
    "controlPlane": kmm_cp.settings.Settings,
    "daemon": kmm_daemon.settings.Settings,
}
"""Of which program the `settings` below a value are."""
_DROPPED = {"default", "title", "format", "examples"}
"""Keywords of pydantic's schemas: values.yaml has the defaults, and Helm no use for the others."""


def schema() -> dict[str, Any]:
    """Return the JSON schema of values.yaml; names that are not known are refused."""
    made = _inlined(Values)
    made["properties"]["global"] = {
        "type": "object",
        "description": "Not read. Helm hands it to charts within charts.",
    }
    for value, model in SETTINGS.items():
        place = made["properties"][value]["properties"]["settings"]
        # The program's own defaults, and those that the chart brings, hold for what is left out.
        place.update(_without_required(_inlined(model)))
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **made}


def _inlined(model: type[BaseModel]) -> dict[str, Any]:
    made = model.model_json_schema()
    resolved: dict[str, Any] = _resolved(made, made.pop("$defs", {}))
    resolved.pop("description", None)
    return resolved


def _resolved(node: Any, known: dict[str, Any]) -> Any:
    """Return a part of a schema with what it refers to in it."""
    if isinstance(node, list):
        return [_resolved(each, known) for each in node]
    if not isinstance(node, dict):
        return node
    if "$ref" in node:
        node = {**known[node["$ref"].rpartition("/")[2]], **node}
        del node["$ref"]
    made = {key: value for key, value in node.items() if key not in _DROPPED}
    return {
        key: {name: _resolved(one, known) for name, one in value.items()}
        if key == "properties"
        else _resolved(value, known)
        for key, value in made.items()
    }


def _without_required(node: Any) -> Any:
    if isinstance(node, list):
        return [_without_required(each) for each in node]
    if not isinstance(node, dict):
        return node
    return {key: _without_required(value) for key, value in node.items() if key != "required"}


def rows(model: BaseModel | None = None, prefix: str = "") -> Iterator[tuple[str, Any, str]]:
    """Yield path, default (as in values.yaml) and meaning of each value."""
    model = model or Values()
    for name, value in type(model).model_fields.items():
        default = getattr(model, name)
        if isinstance(default, Strict) and not isinstance(default, Resources):
            yield from rows(default, f"{prefix}{name}.")
        else:
            plain = model.model_dump(mode="json", exclude_none=True)[name]
            yield f"{prefix}{name}", plain, _line(value.description)


def yaml_lines(model: BaseModel | None = None, depth: int = 0) -> Iterator[str]:
    """Yield values.yaml: each value's meaning above its default."""
    model, indent = model or Values(), "  " * depth
    for name, value in type(model).model_fields.items():
        default = getattr(model, name)
        yield from (f"{indent}# {line}" for line in _wrapped(_line(value.description)))
        if isinstance(default, Strict) and not isinstance(default, Resources):
            yield f"{indent}{name}:"
            yield from yaml_lines(default, depth + 1)
        else:
            plain = model.model_dump(mode="json", exclude_none=True)[name]
            yield f"{indent}{name}: {flow(plain)}"


def flow(value: Any) -> str:
    """Return a value as YAML on one line."""
    text = yaml.safe_dump(value, default_flow_style=True, width=10**9, sort_keys=False)
    text = text.removesuffix("...\n").strip()
    return '""' if value == "" else text


def _line(text: str | None) -> str:
    return " ".join((text or "").split())


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, 110)
