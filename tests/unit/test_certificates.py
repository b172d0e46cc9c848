"""How long the certificates of manifests/overlays/default are valid, held against each other."""

from pathlib import Path
from typing import Any

import yaml

from support.csidriver import manifest_attributes

OVERLAY = Path(__file__).resolve().parents[2] / "manifests/overlays/default"


def certificates() -> dict[str, dict[str, Any]]:
    """Return the specs of the Certificates by name."""
    objects = yaml.safe_load_all((OVERLAY / "certificates.yaml").read_text())
    return {one["metadata"]["name"]: one["spec"] for one in objects if one["kind"] == "Certificate"}


def hours(duration: str) -> int:
    return int(duration.removesuffix("h"))


def test_authority_is_renewed_before_anybody_trusts_one_that_has_expired() -> None:
    # `ca.crt` beside a certificate is the authority's own as of that day, and is not brought anew
    # before that certificate is: with an authority that has expired nobody is trusted.
    authority, signed = certificates()["kmm-authority"], certificates()["kmm-cp"]
    daemons = manifest_attributes()["csi.cert-manager.io/duration"]
    assert hours(authority["renewBefore"]) >= max(hours(signed["duration"]), hours(daemons))
    assert hours(authority["renewBefore"]) < hours(authority["duration"])
    assert authority["privateKey"]["rotationPolicy"] == "Never"
