"""The Helm chart: it gives what the overlays are, and the real API server takes it."""

import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from kmm_sandbox.binaries import KubernetesRelease
from kmm_sandbox.errors import SandboxError
from kmm_sandbox.kubeapi import Object
from support.certificates import NAMESPACE
from support.certmanager import running_cert_manager
from support.cluster import Cluster, running_cluster
from support.helm import CHART, MODES, Helm, without_helm
from support.installation import (
    INSTALL,
    OVERLAYS,
    STRICT,
    Installation,
    installed,
    inventory,
    kustomized,
    yaml_block,
)
from support.prometheusoperator import definitions

pytestmark = pytest.mark.timeout(3600)
"""The first run on a machine compiles helm and cert-manager's controllers."""

Id = tuple[str, str, str]
_MONITORING = f"/apis/monitoring.coreos.com/v1/namespaces/{NAMESPACE}"
RULES, MONITORS = f"{_MONITORING}/prometheusrules", f"{_MONITORING}/servicemonitors"
DAEMON_MONITORS = f"{_MONITORING}/podmonitors"
UPGRADE = INSTALL.with_name("upgrade.md")
SETTINGS = ("kmm-cp.yaml", "daemon.json")
WHOLE = {"namespace": {"create": True}}
"""Values by which the chart gives all that an overlay does."""
APP_VERSION = yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"]
MONITORING = yaml.safe_load(yaml_block(INSTALL, "serviceMonitor:"))
"""Values by which it gives all that the components do, as the docs show them."""
AUTHORITY = yaml.safe_load(yaml_block(INSTALL, "registryCA:"))
PROXY = yaml.safe_load(yaml_block(INSTALL, "noProxy:"))
"""Values for a registry with an authority of its own, and for one behind a proxy, there as well."""


@pytest.fixture
def helm(tmp_path: Path) -> Helm:
    return Helm(home=tmp_path)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """One for these tests: they delete the namespace and the definitions that others use."""
    logs = tmp_path_factory.mktemp("cert-manager")
    with (
        running_cluster(tmp_path_factory.mktemp("chart")) as running,
        running_cert_manager(running, logs),
    ):
        yield running


def by_id(manifest: str) -> dict[Id, Object]:
    """Return objects by kind, namespace and name; settings as what they say, not as text."""
    objects = [one for one in yaml.safe_load_all(manifest) if one]
    return {identity(one): parsed(without_helm(one)) for one in objects}


def identity(one: Object) -> Id:
    metadata = one["metadata"]
    return one["kind"], metadata.get("namespace", ""), metadata["name"]


def parsed(one: Object) -> Object:
    """Return a ConfigMap with the settings of its files; another object as it is."""
    if one["kind"] != "ConfigMap" or "data" not in one:
        return one
    data = {
        key: yaml.safe_load(text) if key in SETTINGS else text for key, text in one["data"].items()
    }
    return {**one, "data": data}


@pytest.mark.parametrize(("overlay", "mode"), MODES.items())
def test_chart_gives_what_the_overlay_does(helm: Helm, overlay: str, mode: str) -> None:
    made = by_id(helm.template({**WHOLE, "certificates": {"mode": mode}}))
    assert made == by_id(tagged(kustomized(OVERLAYS / overlay)))


def tagged(manifest: str) -> str:
    """Return an overlay's objects with the images' tags that the chart gives by itself."""
    changed, count = re.subn(
        "^( *image: kmm-(?:cp|daemon))$", rf"\1:{APP_VERSION}", manifest, flags=re.MULTILINE
    )
    assert count == 2
    return changed


@pytest.mark.parametrize(("overlay", "mode"), MODES.items())
def test_chart_gives_what_the_components_for_monitoring_do(
    helm: Helm, tmp_path: Path, overlay: str, mode: str
) -> None:
    with_components = kustomized(with_monitoring(tmp_path, overlay))
    made = helm.template({**WHOLE, **MONITORING, "certificates": {"mode": mode}})
    assert by_id(made) == by_id(tagged(with_components))


def with_monitoring(directory: Path, overlay: str) -> Path:
    """Write one with all components, as the docs show it for the default one; return where."""
    text = yaml_block(INSTALL, "components:")
    for named in ("overlays/default", "daemon-metrics/cert-manager"):
        assert named in text
    if overlay == "builtin-ca":
        text = text.replace("overlays/default", "overlays/builtin-ca")
        text = text.replace("daemon-metrics/cert-manager", "daemon-metrics/builtin-ca")
    ours = os.path.relpath(OVERLAYS.parent, directory.resolve())
    (directory / "kustomization.yaml").write_text(text.replace("kmm/manifests", ours))
    return directory


@pytest.mark.parametrize("overlay", MODES)
def test_server_takes_the_components_for_monitoring_beside_an_overlay(
    cluster: Cluster, tmp_path: Path, overlay: str
) -> None:
    cluster.kubectl.apply_crds(definitions())
    manifest = kustomized(with_monitoring(tmp_path, overlay))
    try:
        with installed(Installation(cluster=cluster, overlay=overlay, manifest=manifest)):
            (rule,) = cluster.api.items(RULES)
            assert rule["spec"]["groups"]
            (monitor,) = cluster.api.items(MONITORS)
            assert monitor["spec"]["endpoints"]
            (daemons,) = cluster.api.items(DAEMON_MONITORS)
            (endpoint,) = daemons["spec"]["podMetricsEndpoints"]
            assert endpoint["tlsConfig"]["serverName"] == f"kmm-daemon.{NAMESPACE}.svc"
            dashboard = cluster.api.get(f"/api/v1/namespaces/{NAMESPACE}/configmaps/kmm-dashboard")
            assert dashboard["metadata"]["labels"]["grafana_dashboard"] == "1"
    finally:
        for definition in definitions():
            cluster.kubectl("delete", "-f", str(definition))


def test_namespace_is_left_to_whoever_installs_unless_it_is_asked_for(helm: Helm) -> None:
    made = by_id(helm.template({}))
    assert by_id(kustomized(OVERLAYS / "default")).keys() - made.keys() == {
        ("Namespace", "", NAMESPACE)
    }


def test_another_namespace_is_named_everywhere(helm: Helm) -> None:
    for mode in MODES.values():
        values = {**WHOLE, **MONITORING, "certificates": {"mode": mode}}
        text = helm.template(values, namespace="drivers")
        assert NAMESPACE not in text
        namespaces = {namespace for _, namespace, _ in by_id(text)}
        assert namespaces == {"", "drivers"}


@pytest.mark.parametrize("mode", MODES.values())
def test_chart_is_well_made(helm: Helm, mode: str) -> None:
    assert "0 chart(s) failed" in helm.lint({"certificates": {"mode": mode}})


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"replicas": 2}, "additional properties 'replicas' not allowed"),
        ({"controlPlane": {"replicas": 0}}, "at '/controlPlane/replicas': minimum"),
        ({"certificates": {"mode": "vault"}}, "at '/certificates/mode': value must be one of"),
        (
            {"images": {"daemon": {"digest": "sha256:12"}}},
            "at '/images/daemon/digest': 'sha256:12' does not match",
        ),
        (
            {"daemon": {"tolerations": [{"operator": "exists"}]}},
            "at '/daemon/tolerations/0/operator'",
        ),
        (
            {"daemon": {"resources": {"limits": {"memory": "1 GB"}}}},
            "at '/daemon/resources/limits/memory'",
        ),
        ({"registryCA": {"name": "registry-ca"}}, "additional properties 'name' not allowed"),
        ({"registryCA": {"configMap": "Registry_CA"}}, "at '/registryCA/configMap': 'Registry_CA'"),
        ({"proxy": {"httpsProxy": "proxy.example:3128"}}, "at '/proxy/httpsProxy'"),
        (
            {"proxy": {"httpsProxy": "http://user:s3cret@proxy.example:3128"}},
            "at '/proxy/httpsProxy'",
        ),
        ({"proxy": {"noProxy": ["a.example,b.example"]}}, "at '/proxy/noProxy/0'"),
        ({"networkPolicy": {"nodeCIDRs": ["10.0.0.1"]}}, "at '/networkPolicy/nodeCIDRs/0'"),
        (
            {"controlPlane": {"settings": {"tolerated_failure": "1"}}},
            "at '/controlPlane/settings': additional properties 'tolerated_failure' not allowed",
        ),
        (
            {"daemon": {"settings": {"drift_check_seconds": 0}}},
            "at '/daemon/settings/drift_check_seconds': exclusiveMinimum",
        ),
    ],
)
def test_wrong_value_is_refused_by_its_name(helm: Helm, values: dict[str, Any], said: str) -> None:
    with pytest.raises(SandboxError, match=re.escape(said)):
        helm.template(values)


def test_kubernetes_that_is_older_than_the_oldest_is_refused(helm: Helm) -> None:
    oldest = KubernetesRelease.OLDEST.minor
    older = f"1.{int(oldest.removeprefix('1.')) - 1}.99"
    with pytest.raises(SandboxError, match=f"requires kubeVersion: >={oldest}.0-0"):
        helm("template", "kmm", str(CHART), "--kube-version", older)
    assert helm("template", "kmm", str(CHART), "--kube-version", f"{oldest}.0")


@pytest.mark.parametrize(
    ("image", "suffix"),
    [
        ({}, f":{APP_VERSION}"),
        ({"tag": "next"}, ":next"),
        ({"digest": "sha256:" + "1" * 64}, "@sha256:" + "1" * 64),
    ],
    ids=["neither", "tag", "digest"],
)
def test_image_is_of_the_release_unless_a_value_says_which(
    helm: Helm, image: dict[str, str], suffix: str
) -> None:
    images = {"registry": "registry.example", "controlPlane": image, "daemon": image}
    made = by_id(helm.template({"images": images}))
    pods = (
        made["Deployment", NAMESPACE, "kmm-cp"]["spec"]["template"]["spec"],
        made["PodTemplate", NAMESPACE, "kmm-daemon"]["template"]["spec"],
    )
    found = [container["image"] for pod in pods for container in pod["containers"]]
    assert found == [f"registry.example/{name}{suffix}" for name in ("kmm-cp", "kmm-daemon")]


def test_probes_and_monitor_ask_by_tls_where_metrics_are_served_so(helm: Helm) -> None:
    tls = {"cert": "/tls.crt", "key": "/tls.key", "ca": "/ca.crt", "names": ["prometheus"]}
    monitor = {"enabled": True, "tlsConfig": {"serverName": "kmm-cp"}}
    values = {
        "controlPlane": {"settings": {"metrics_tls": tls}},
        "monitoring": {"serviceMonitor": monitor},
    }
    made = by_id(helm.template(values))
    pod = made["Deployment", NAMESPACE, "kmm-cp"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    for probe in ("livenessProbe", "readinessProbe"):
        assert container[probe]["httpGet"]["scheme"] == "HTTPS"
    (endpoint,) = made["ServiceMonitor", NAMESPACE, "kmm-cp"]["spec"]["endpoints"]
    assert (endpoint["scheme"], endpoint["tlsConfig"]) == ("https", monitor["tlsConfig"])


def test_every_value_of_the_docs_reaches_its_objects(helm: Helm) -> None:
    values = yaml.safe_load(yaml_block(INSTALL, "controlPlane:"))
    made = by_id(helm.template(values))
    pods = {
        "controlPlane": made["Deployment", NAMESPACE, "kmm-cp"]["spec"]["template"]["spec"],
        "daemon": made["PodTemplate", NAMESPACE, "kmm-daemon"]["template"]["spec"],
    }
    for name, pod in pods.items():
        (container,) = pod["containers"]
        image = values["images"][name]
        registry = values["images"]["registry"]
        assert container["image"] == f"{registry}/{image['repository']}@{image['digest']}"
        assert pod["imagePullSecrets"] == values["images"]["pullSecrets"]
    assert pods["daemon"]["nodeSelector"] == values["daemon"]["nodeSelector"]
    ends = ("daemons", "metrics", "egress")
    policies = [made["NetworkPolicy", NAMESPACE, f"kmm-cp-{end}"] for end in ends]
    nodes, metrics, egress = (policy["spec"] for policy in policies)
    selectors = [each["namespaceSelector"] for each in metrics["ingress"][0]["from"]]
    (namespace,) = values["networkPolicy"]["monitoringNamespaces"]
    assert selectors == [{"matchLabels": {"kubernetes.io/metadata.name": namespace}}]
    cidrs = [each["ipBlock"]["cidr"] for each in nodes["ingress"][0]["from"]]
    assert cidrs == values["networkPolicy"]["nodeCIDRs"]
    assert values["networkPolicy"]["egressPorts"][0] in egress["egress"][0]["ports"]
    for config_map, program in (("kmm-cp", "controlPlane"), ("kmm-daemon", "daemon")):
        (settings,) = made["ConfigMap", NAMESPACE, config_map]["data"].values()
        assert values[program]["settings"].items() <= settings.items()
        assert settings["log_format"] == "json"


@pytest.mark.parametrize(("overlay", "mode"), MODES.items())
@pytest.mark.parametrize(("values", "patch"), [(AUTHORITY, "_REGISTRY_CA"), (PROXY, "HTTPS_PROXY")])
def test_values_for_a_registry_give_what_the_patches_of_the_docs_do(
    helm: Helm, tmp_path: Path, overlay: str, mode: str, values: dict[str, Any], patch: str
) -> None:
    ours = os.path.relpath(OVERLAYS / overlay, tmp_path.resolve())
    patched = {"resources": [ours], "patches": yaml.safe_load(yaml_block(INSTALL, patch))}
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(patched))
    made = by_id(helm.template({**WHOLE, **values, "certificates": {"mode": mode}}))
    assert made == by_id(tagged(kustomized(tmp_path)))


def test_seccomp_profile_of_another_place_is_the_one_that_the_daemon_asks_for(helm: Helm) -> None:
    place = "operator/kmm-daemon.json"
    made = by_id(helm.template({"daemon": {"seccompProfile": place}}))
    pod = made["PodTemplate", NAMESPACE, "kmm-daemon"]["template"]["spec"]
    wanted = {"type": "Localhost", "localhostProfile": place}
    assert pod["securityContext"]["seccompProfile"] == wanted


def test_labels_by_which_a_prometheus_selects_reach_what_it_selects(helm: Helm) -> None:
    labels = {"release": "kube-prometheus"}
    parts = {"serviceMonitor": "ServiceMonitor", "podMonitor": "PodMonitor"}
    parts["rules"] = "PrometheusRule"
    chosen = {part: {"enabled": True, "labels": labels} for part in parts}
    made = by_id(helm.template({"monitoring": chosen}))
    for kind in parts.values():
        (found,) = [one for (each, _, _), one in made.items() if each == kind]
        assert labels.items() <= found["metadata"]["labels"].items()


@pytest.mark.parametrize(("overlay", "mode"), MODES.items())
def test_server_takes_what_helm_prints_strictly_and_an_upgrade_changes_what_it_should(
    cluster: Cluster, helm: Helm, overlay: str, mode: str
) -> None:
    values = {**WHOLE, **AUTHORITY, **PROXY, "certificates": {"mode": mode}}
    first = Installation(cluster=cluster, overlay=overlay, manifest=helm.template(values))
    with installed(first):
        before = specs(cluster, first)
        daemon = {"settings": {"drift_check_seconds": 20}}
        upgrade = helm.template({**values, "controlPlane": {"replicas": 3}, "daemon": daemon})
        cluster.kubectl("apply", *STRICT, stdin=upgrade)
        after = specs(cluster, first)
    changed = {key for key, spec in after.items() if spec != before[key]}
    assert changed == {("Deployment", NAMESPACE, "kmm-cp"), ("ConfigMap", NAMESPACE, "kmm-daemon")}


def specs(cluster: Cluster, installation: Installation) -> dict[Id, Object]:
    """Return what the server has of an installation's objects, without what controllers write."""
    text = cluster.kubectl("get", "-o", "json", "-f", "-", stdin=installation.manifest)
    return {identity(one): _written_by_users(one) for one in yaml.safe_load(text)["items"]}


def _written_by_users(one: Object) -> Object:
    metadata = {k: one["metadata"].get(k) for k in ("labels", "uid")}
    return {**{k: v for k, v in one.items() if k != "status"}, "metadata": metadata}


def test_release_is_installed_upgraded_and_uninstalled_and_leaves_the_definitions_only(
    cluster: Cluster, helm: Helm
) -> None:
    api, namespace = cluster.api, f"/api/v1/namespaces/{NAMESPACE}"
    api.ensure("/api/v1/namespaces", {"metadata": {"name": NAMESPACE}})
    before = inventory(cluster)
    to = ("--kubeconfig", str(cluster.kubeconfig), "--namespace", NAMESPACE)
    told = helm("install", "kmm", str(CHART), *to, "--set", "certificates.mode=builtin")
    assert f"kubectl label namespace {NAMESPACE} pod-security.kubernetes.io/enforce=" in told
    label = {"pod-security.kubernetes.io/enforce": "privileged"}
    api.merge(namespace, {"metadata": {"labels": label}})
    told = helm(
        "upgrade", "kmm", str(CHART), *to, "--reuse-values", "--set", "daemon.nodeSelector.a=b"
    )
    assert "kubectl label" not in told
    template = api.get(f"{namespace}/podtemplates/kmm-daemon")["template"]["spec"]
    assert template["nodeSelector"] == {"a": "b"}
    assert "tokens" not in template and "token" in str(template["volumes"])
    helm("upgrade", "kmm", str(CHART), *to, "--reuse-values", "--set", "crds.enabled=false")
    helm("uninstall", "kmm", *to, "--wait")
    left = {line.split()[0] for line in inventory(cluster) - before}
    assert left == {"CustomResourceDefinition", "APIService"}
    for name in ("modules", "nodemodulesstates"):
        cluster.kubectl("delete", "crd", f"{name}.kmm.sigs.x-k8s.io")


def test_chart_takes_over_what_an_overlay_has_applied_and_changes_nothing(
    cluster: Cluster, helm: Helm
) -> None:
    manifest = tagged(kustomized(OVERLAYS / "builtin-ca"))
    overlay = Installation(cluster=cluster, overlay="builtin-ca", manifest=manifest)
    with installed(overlay) as installation:
        before = specs(cluster, installation)
        (line,) = re.findall(r"^helm install kmm .*$", UPGRADE.read_text(), re.MULTILINE)
        _, *arguments = shlex.split(line.replace("kmm/charts/kmm", str(CHART)))
        values = ["-" if each == "values.yaml" else each for each in arguments]
        kubeconfig = ("--kubeconfig", str(cluster.kubeconfig))
        helm(*values, *kubeconfig, stdin=yaml.safe_dump({"certificates": {"mode": "builtin"}}))
        after = specs(cluster, installation)
    changed = {key for key in after if without_helm(after[key]) != without_helm(before[key])}
    assert {kind for kind, _, _ in changed} <= {"ConfigMap"}
    for key in changed:
        assert parsed(after[key])["data"] == parsed(before[key])["data"]
