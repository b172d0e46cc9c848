"""What the samples of manifests say, held against the manifests that they are for."""

from pathlib import Path
from typing import Any

import yaml

from kmm_common.tls import PodIdentity, pod_uri
from kmm_sandbox.pki import TRUST_DOMAIN
from support.certificates import NAMESPACE, SERVICE_ACCOUNT
from support.csidriver import manifest_attributes

SAMPLES = Path(__file__).resolve().parents[2] / "manifests/samples"


COMPONENT = SAMPLES.parent / "daemon-metrics/cert-manager"


def policies(sample: str = "approver-policy.yaml") -> dict[str, dict[str, Any]]:
    """Return the specs of the policies by name."""
    objects = yaml.safe_load_all((SAMPLES / sample).read_text())
    kind = "CertificateRequestPolicy"
    return {one["metadata"]["name"]: one["spec"] for one in objects if one["kind"] == kind}


def test_policy_for_daemons_allows_what_their_manifest_asks_for_and_nothing_else() -> None:
    asked = {key.partition("/")[2]: value for key, value in manifest_attributes().items()}
    any_pod = PodIdentity(namespace=NAMESPACE, service_account=SERVICE_ACCOUNT, name="*", uid="*")
    pattern = pod_uri(any_pod, TRUST_DOMAIN).removesuffix("/*")
    assert asked["uri-sans"] == (
        pattern.replace(NAMESPACE, "${POD_NAMESPACE}")
        .replace(SERVICE_ACCOUNT, "${SERVICE_ACCOUNT_NAME}")
        .replace("*", "${POD_NAME}/${POD_UID}")
    )
    size = int(asked["key-size"])
    assert policies()["kmm-daemon"] == {
        "allowed": {
            "usages": asked["key-usages"].split(","),
            "uris": {"required": True, "values": [pattern]},
        },
        "constraints": {
            "maxDuration": asked["duration"],
            "privateKey": {"algorithm": asked["key-algorithm"], "minSize": size, "maxSize": size},
        },
        "selector": {
            "issuerRef": {
                "group": "cert-manager.io",
                "kind": "Issuer",
                "name": asked["issuer-name"],
            },
            "namespace": {"matchNames": [NAMESPACE]},
        },
    }


def test_policies_for_metrics_allow_what_the_component_asks_for_and_nothing_else() -> None:
    metrics = policies("approver-policy-metrics.yaml")
    template = yaml.safe_load((COMPONENT / "daemon.yaml").read_text())["template"]["spec"]
    (csi,) = (one["csi"] for one in template["volumes"] if "csi" in one)
    asked = {key.partition("/")[2]: value for key, value in csi["volumeAttributes"].items()}
    daemon = policies()["kmm-daemon"]
    names = {"required": True, "values": [asked["dns-names"]]}
    usages = asked["key-usages"].split(",")
    allowed = {**daemon["allowed"], "usages": usages, "dnsNames": names}
    assert metrics["kmm-daemon-metrics"] == {**daemon, "allowed": allowed}
    certificate = yaml.safe_load((COMPONENT / "certificate.yaml").read_text())["spec"]
    shown = {"required": True, "values": certificate["dnsNames"]}
    assert metrics["kmm-scraper"] == {
        "allowed": {"usages": certificate["usages"], "dnsNames": shown},
        "constraints": {**daemon["constraints"], "maxDuration": certificate["duration"]},
        "selector": daemon["selector"],
    }
