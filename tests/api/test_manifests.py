"""What administrators apply, on a real API server with its and cert-manager's controllers."""

import base64
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography import x509

import kmm_daemon.settings
from kmm_common.api.names import CONTAINS_MODULES_LABEL
from kmm_sandbox.errors import SandboxError
from kmm_sandbox.kubeapi import ApiError, Object
from kmm_sandbox.processes import wait_until
from support.certificates import NAMESPACE
from support.certmanager import running_cert_manager
from support.certvolume import CertificateVolume
from support.cluster import Cluster, running_cluster
from support.installation import (
    INSTALL,
    Installation,
    composed,
    containers,
    documented,
    installed,
    inventory,
    kustomized,
    yaml_block,
)
from support.kmmcp import KmmCp, new_control_plane

pytestmark = pytest.mark.timeout(3600)
"""The first run on a machine compiles cert-manager's controllers."""

IN_NAMESPACE = f"/api/v1/namespaces/{NAMESPACE}"
SECONDS = 60.0
PROBES = ("livenessProbe", "readinessProbe")
NODE: Object = {"metadata": {"name": "manifests", "labels": {"kubernetes.io/os": "linux"}}}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """One for these tests: they delete the namespace and the definitions that others use."""
    with running_cluster(tmp_path_factory.mktemp("manifests")) as running:
        logs = tmp_path_factory.mktemp("cert-manager")
        with running_cert_manager(running, logs):
            running.api.ensure("/api/v1/nodes", NODE)
            yield running


@pytest.fixture(scope="module", params=["default", "builtin-ca"])
def installation(cluster: Cluster, request: pytest.FixtureRequest) -> Iterator[Installation]:
    """Each overlay, after the API server has judged it strictly and without a warning."""
    with installed(Installation.render(cluster, request.param)) as made:
        yield made


def test_control_plane_is_within_the_level_restricted_and_the_daemon_is_not(
    installation: Installation,
) -> None:
    api = installation.cluster.api
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    api.ensure("/api/v1/namespaces", {"metadata": {"name": "restricted", "labels": labels}})

    accounts = "/api/v1/namespaces/restricted/serviceaccounts"
    api.ensure(accounts, {"metadata": {"name": "probe"}})

    def pod(name: str) -> None:
        spec = {**installation.pod(name), "serviceAccountName": "probe"}
        body = {"metadata": {"name": "probe"}, "spec": spec}
        api.create("/api/v1/namespaces/restricted/pods?dryRun=All", body)

    pod("kmm-cp")
    with pytest.raises(ApiError, match="violates PodSecurity"):
        pod("kmm-daemon")


def test_deprecated_api_does_not_pass(installation: Installation) -> None:
    metadata = {"name": "deprecated", "namespace": "default"}
    endpoints = {"apiVersion": "v1", "kind": "Endpoints", "metadata": metadata}
    with pytest.raises(SandboxError, match="Endpoints is deprecated"):
        replace(installation, manifest=yaml.safe_dump(endpoints)).try_out()


def test_every_image_is_one_that_administrators_set(installation: Installation) -> None:
    found = {container["image"] for container in containers(installation.objects)}
    assert found == {"kmm-cp", "kmm-daemon"}


def test_probes_and_services_lead_to_ports_that_settings_open(installation: Installation) -> None:
    (container,) = installation.pod("kmm-cp")["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    settings, daemon = installation.settings("kmm-cp"), installation.settings("kmm-daemon")
    assert settings["metrics_listen"] == f":{ports['metrics']}"
    probes = (container[name]["httpGet"]["port"] for name in ("livenessProbe", "readinessProbe"))
    assert set(probes) == {"metrics"}
    services = installation.of("Service")
    served = {
        port["port"]: ports[port["targetPort"]] for port in services["kmm-cp"]["spec"]["ports"]
    }
    wanted = [daemon["server"]]
    if "enrol" in daemon:
        wanted.append(daemon["enrol"]["server"])
    for address in wanted:
        host, _, port = address.rpartition(":")
        assert host == f"kmm-cp.{NAMESPACE}.svc"
        assert served[int(port)] == int(port)
    allowed = installation.of("NetworkPolicy")["kmm-cp-daemons"]["spec"]["ingress"][0]["ports"]
    assert {ports[each["port"]] for each in allowed} == set(served.values())


def test_daemon_takes_its_settings(installation: Installation, tmp_path: Path) -> None:
    (text,) = installation.of("ConfigMap")["kmm-daemon"]["data"].values()
    file = tmp_path / "daemon.json"
    file.write_text(text)
    settings = kmm_daemon.settings.load(file, environment={})
    (container,) = installation.pod("kmm-daemon")["containers"]
    mounted = {Path(mount["mountPath"]) for mount in container["volumeMounts"]}
    tls = settings.tls
    assert {tls.cert.parent, tls.key.parent, tls.ca.parent, settings.firmware_dir} <= mounted
    assert {settings.run_dir, settings.state_dir} <= mounted
    assert settings.enrol is None or settings.enrol.token.parent in mounted


@pytest.fixture
def control_plane(installation: Installation, tmp_path: Path) -> Iterator[KmmCp]:
    """One as the Deployment's Pod would run: its settings, its certificates, its account."""
    plane = new_control_plane(installation.cluster, tmp_path)
    settings = installation.settings("kmm-cp")
    own = {key: plane.settings[key] for key in ("kubeconfig", "namespace", "replica", "listen")}
    moved = {
        name: str(tmp_path / "tls" / Path(path).name) for name, path in settings["tls"].items()
    }
    plane.settings = {
        **settings,
        **own,
        "metrics_listen": plane.settings["metrics_listen"],
        "tls": moved,
    }
    if "enrolment" in settings:
        plane.settings["enrolment"] = {"listen": plane.ports.address()}
    else:
        CertificateVolume(tmp_path / "tls").replace(issued(installation))
    try:
        yield plane
    finally:
        plane.close()


def issued(installation: Installation) -> dict[str, bytes]:
    """Wait for the Secret that the Deployment mounts; return its content."""
    volumes = {one["name"]: one for one in installation.pod("kmm-cp")["volumes"]}
    path = f"{IN_NAMESPACE}/secrets/{volumes['tls']['secret']['secretName']}"
    api = installation.cluster.api
    wait_until(lambda: api.find(path) is not None, seconds=SECONDS, what=path)
    return {key: base64.b64decode(value) for key, value in api.get(path)["data"].items()}


def test_controllers_make_the_pods_that_the_manifests_ask_for(
    installation: Installation, control_plane: KmmCp
) -> None:
    api = installation.cluster.api

    control_plane.start()

    def names() -> list[str]:
        pods = api.items(f"{IN_NAMESPACE}/pods")
        return sorted(pod["metadata"]["labels"]["app.kubernetes.io/name"] for pod in pods)

    wait_until(
        lambda: names() == ["kmm-cp", "kmm-cp", "kmm-daemon"],
        seconds=SECONDS,
        what="two Pods of the control plane, one of the daemon for one node",
    )
    events = api.items(f"{IN_NAMESPACE}/events")
    assert events
    assert not [event["message"] for event in events if event["reason"] == "FailedCreate"]


def test_control_plane_leads_with_the_rights_and_certificates_that_are_applied(
    installation: Installation, control_plane: KmmCp
) -> None:
    control_plane.start()
    wait_until(control_plane.leads, seconds=SECONDS, what="a leader")
    (certificate, *_) = x509.load_pem_x509_certificates(
        Path(control_plane.settings["tls"]["cert"]).read_bytes()
    )
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    host, _, _ = installation.settings("kmm-daemon")["server"].rpartition(":")
    assert host in names.get_values_for_type(x509.DNSName)
    assert control_plane.stop() == 0
    assert control_plane.refusals() == set()


@pytest.mark.parametrize(
    ("role", "verb", "resource", "allowed"),
    [
        ("view", "get", "modules", True),
        ("view", "watch", "nodemodulesstates", True),
        ("view", "create", "modules", False),
        ("edit", "list", "modules", True),
        ("edit", "create", "modules", False),
        ("edit", "patch", "modules", False),
        ("admin", "list", "modules", True),
        ("admin", "create", "modules", False),
        ("admin", "delete", "modules", False),
        ("kmm-editor", "create", "modules", True),
        ("kmm-editor", "patch", "modules", True),
        ("kmm-editor", "update", "nodemodulesstates", False),
    ],
)
def test_nobody_writes_modules_unless_he_was_given_the_role_for_it(
    installation: Installation, role: str, verb: str, resource: str, allowed: bool
) -> None:
    api, user = installation.cluster.api, f"holder-of-{role}"
    rbac = "rbac.authorization.k8s.io"
    binding = {
        "metadata": {"name": f"test-{role}"},
        "roleRef": {"apiGroup": rbac, "kind": "ClusterRole", "name": role},
        "subjects": [{"apiGroup": rbac, "kind": "User", "name": user}],
    }
    path = f"/apis/{rbac}/v1/clusterrolebindings"
    api.ensure(path, binding)

    def may(verb: str, resource: str) -> bool:
        attributes = {"group": "kmm.sigs.x-k8s.io", "resource": resource, "verb": verb}
        spec = {"user": user, "resourceAttributes": {**attributes, "namespace": "default"}}
        answer = api.create("/apis/authorization.k8s.io/v1/subjectaccessreviews", {"spec": spec})
        return bool(answer["status"]["allowed"])

    try:
        # Until the controller has put the roles together.
        wait_until(lambda: may("list", "modules"), seconds=SECONDS, what=f"rights of {role}")
        assert may(verb, resource) is allowed
    finally:
        api.delete(f"{path}/test-{role}")


def test_overlay_of_the_docs_sets_images_by_digest_and_opens_what_it_says(
    installation: Installation, tmp_path: Path
) -> None:
    made = replace(installation, manifest=documented(installation.overlay, tmp_path))
    made.try_out()
    assert all(
        re.search(r"@sha256:[0-9a-f]{64}$", each["image"]) for each in containers(made.objects)
    )
    policies = made.of("NetworkPolicy")
    nodes = policies["kmm-cp-daemons"]["spec"]["ingress"][0]
    assert nodes["from"][0] == {"ipBlock": {"cidr": "10.0.0.0/16"}}
    assert nodes["ports"]
    (monitoring,) = policies["kmm-cp-metrics"]["spec"]["ingress"][0]["from"]
    labels: Any = monitoring["namespaceSelector"]["matchLabels"]
    assert labels == {"kubernetes.io/metadata.name": "observability"}
    ports = policies["kmm-cp-egress"]["spec"]["egress"][0]["ports"]
    assert {"port": 5000, "protocol": "TCP"} in ports


def test_patches_of_the_docs_have_the_control_planes_metrics_asked_for_by_tls(
    tmp_path: Path,
) -> None:
    composed(tmp_path, "builtin-ca", "monitoring")
    overlay = tmp_path / "kustomization.yaml"
    overlay.write_text(overlay.read_text() + yaml_block(INSTALL, "value: HTTPS"))
    objects = {
        (one["kind"], one["metadata"]["name"]): one
        for one in yaml.safe_load_all(kustomized(tmp_path))
    }
    (container,) = containers([objects["Deployment", "kmm-cp"]])
    asked = {probe: container[probe]["httpGet"]["scheme"] for probe in PROBES}
    assert asked == dict.fromkeys(PROBES, "HTTPS")
    (endpoint,) = objects["ServiceMonitor", "kmm-cp"]["spec"]["endpoints"]
    assert endpoint["scheme"] == "https"


def test_namespace_with_a_label_that_nobody_took_off_goes_at_a_later_try(
    installation: Installation,
) -> None:
    api = installation.cluster.api
    api.merge(IN_NAMESPACE, {"metadata": {"labels": {CONTAINS_MODULES_LABEL: ""}}})
    refused = "namespace contains one or more Module resources"
    with pytest.raises(SandboxError, match=refused):
        installation.delete()
    assert api.get(IN_NAMESPACE)["status"]["phase"] == "Active"

    def is_deleted() -> bool:
        # The API server knows of a policy's end a moment later.
        try:
            installation.delete()
        except SandboxError as error:
            assert refused in str(error)
            return False
        return True

    wait_until(is_deleted, seconds=SECONDS, what="everything deleted")
    assert api.find(IN_NAMESPACE) is None


def test_nothing_is_left_when_it_is_deleted(installation: Installation) -> None:
    cluster = installation.cluster
    installation.delete()
    before = inventory(cluster)
    installation.apply_first()
    installation.apply()
    assert inventory(cluster) > before
    installation.delete()
    assert inventory(cluster) == before
    assert not [line for line in before if "kmm" in line.lower()]
