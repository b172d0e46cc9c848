import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kmm_common.oci.errors import InvalidImageError
from kmm_common.oci.manifest import MANIFEST_BYTES, Index, Manifest, parse_manifest
from kmm_common.oci.platform import Platform

DIGEST = f"sha256:{'a' * 64}"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar+zstd"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"


def entry(**changes):
    return {"mediaType": OCI_LAYER, "digest": DIGEST, "size": 5, **changes}


def written(**fields) -> bytes:
    return json.dumps({"schemaVersion": 2, **fields}).encode()


@pytest.mark.parametrize("media_type", [OCI_LAYER, DOCKER_LAYER])
def test_a_manifest_gives_its_layers_in_order(media_type):
    second = entry(digest=f"sha256:{'b' * 64}")
    found = parse_manifest(written(layers=[entry(mediaType=media_type), second]))
    assert isinstance(found, Manifest)
    assert [(one.digest[-1], one.size) for one in found.layers] == [("a", 5), ("b", 5)]


def test_an_index_gives_its_platforms():
    platform = {"os": "linux", "architecture": "arm", "variant": "v7"}
    found = parse_manifest(written(manifests=[entry(platform=platform), entry()]))
    assert isinstance(found, Index)
    assert found.manifests[0].platform == Platform(architecture="arm", variant="v7")
    assert found.manifests[1].platform is None


BAD = {
    "not JSON": (b"{", "not JSON"),
    "too deep": (b"[" * 100_000, "not JSON"),
    "not text": (b"\xff\xfe", "not JSON"),
    "not an object": (b"[]", "not a JSON object"),
    "too large": (b" " * (MANIFEST_BYTES + 1), "larger than"),
    "old": (b'{"schemaVersion": 1}', "schemaVersion"),
    "neither": (written(config={}), "neither"),
    "both": (written(layers=[], manifests=[]), "both"),
    "layers of text": (written(layers="x"), "layers must be a list"),
    "many layers": (written(layers=[entry()] * 513), "at most 512"),
    "a layer of text": (written(layers=[entry(), "x"]), r"layers\[1\] must be an object"),
    "a weak digest": (written(layers=[entry(digest="md5:0")]), r"layers\[0\].digest"),
    "a digest with a path": (written(layers=[entry(digest=f"sha256:../{'a' * 61}")]), "digest"),
    "no digest": (written(manifests=[{}]), r"manifests\[0\].digest"),
    "a negative size": (written(layers=[entry(size=-1)]), r"layers\[0\].size"),
    "a huge size": (written(layers=[entry(size=2**60)]), r"layers\[0\].size"),
    "a size that is true": (written(layers=[entry(size=True)]), r"layers\[0\].size"),
    "an encrypted layer": (
        written(layers=[entry(mediaType=f"{OCI_LAYER}+encrypted")]),
        r"layers\[0\].mediaType .* use tar",
    ),
}


@pytest.mark.parametrize(("content", "told"), BAD.values(), ids=BAD)
def test_what_is_no_manifest_is_refused_and_the_field_named(content, told):
    with pytest.raises(InvalidImageError, match=told):
        parse_manifest(content)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)


@given(st.sampled_from(["layers", "manifests"]), json_values, json_values)
def test_any_json_is_a_manifest_or_refused(field, value, platform):
    for content in (value, [value], [entry(platform=platform)], [entry(size=value)]):
        try:
            parse_manifest(written(**{field: content}))
        except InvalidImageError:
            continue
