import pytest
from hypothesis import given
from hypothesis import strategies as st

from kmm_common.oci.errors import InvalidReferenceError
from kmm_common.oci.reference import ImageReference, parse_reference

DIGEST = "sha256:" + "0123456789abcdef" * 4

GOOD = {
    "m": ("docker.io", "library/m", "latest", ""),
    "m:1": ("docker.io", "library/m", "1", ""),
    "team/m:1.2-rc_3": ("docker.io", "team/m", "1.2-rc_3", ""),
    "docker.io/m": ("docker.io", "library/m", "latest", ""),
    "index.docker.io/team/m": ("docker.io", "team/m", "latest", ""),
    "localhost/m": ("localhost", "m", "latest", ""),
    "localhost:5000/a/b/c:x": ("localhost:5000", "a/b/c", "x", ""),
    "host:5000/m": ("host:5000", "m", "latest", ""),
    "r.example/my.team/m__x:1": ("r.example", "my.team/m__x", "1", ""),
    "[::1]:5000/m:1": ("[::1]:5000", "m", "1", ""),
    f"r.example/m@{DIGEST}": ("r.example", "m", "", DIGEST),
    f"r.example:443/a/m:1@{DIGEST}": ("r.example:443", "a/m", "1", DIGEST),
}

BAD = [
    "",
    ":1",
    "m:",
    "m:1:2",
    "r.example/",
    "r.example//m",
    "/m",
    "team/UPPER",
    "team/m:" + "x" * 129,
    "m@",
    f"m@sha512:{'0' * 128}",
    f"m@md5:{'0' * 32}",
    f"m@{DIGEST.upper()}",
    f"m@{DIGEST}0",
    "r.example:99999/m",
    "r_example.com/m",
    "https://r.example/m",
    "m 1",
    "m\n",
    "../m",
    "a/../m",
    "r.example/m?x=1",
    "user@r.example/m",
    "x" * 300,
    "m:\u0661",
]


@pytest.mark.parametrize(("text", "parts"), GOOD.items())
def test_a_reference_is_read_as_docker_reads_it(text, parts):
    found = parse_reference(text)
    assert (found.registry, found.repository, found.tag, found.digest) == parts


@pytest.mark.parametrize("text", BAD)
def test_what_is_no_reference_is_refused_with_the_remedy(text):
    with pytest.raises(InvalidReferenceError, match="write registry/repository:tag") as caught:
        parse_reference(text)
    assert len(str(caught.value)) < 500
    assert "\n" not in str(caught.value)


def test_docker_hub_is_asked_where_its_api_is():
    assert parse_reference("m").host == "registry-1.docker.io"
    assert parse_reference("r.example:5000/m").host == "r.example:5000"


def test_a_digest_is_asked_for_before_a_tag():
    assert parse_reference(f"m:1@{DIGEST}").manifest_path == f"/v2/library/m/manifests/{DIGEST}"
    assert parse_reference("r.example/m:1").manifest_path == "/v2/m/manifests/1"


references = st.builds(
    ImageReference,
    registry=st.from_regex(r"\A[a-z0-9]{1,8}\.[a-z]{2,5}(:[1-9][0-9]{0,3})?\Z"),
    repository=st.from_regex(r"\A[a-z0-9]{1,5}(/[a-z0-9]{1,5}([._-][a-z0-9]{1,3})?){0,3}\Z"),
    tag=st.from_regex(r"\A[A-Za-z0-9_][A-Za-z0-9_.-]{0,20}\Z"),
    digest=st.sampled_from(["", DIGEST]),
)


@given(references)
def test_a_reference_written_out_reads_as_itself(reference):
    hub = reference.registry in ("index.docker.io", "registry-1.docker.io")
    assert hub or parse_reference(str(reference)) == reference


@given(st.text(max_size=80))
def test_any_text_is_a_reference_or_refused_and_its_path_stays_beneath_v2(text):
    try:
        found = parse_reference(text)
    except InvalidReferenceError:
        return
    assert found.manifest_path.startswith("/v2/")
    assert ".." not in found.manifest_path.split("/")
    assert not set(found.manifest_path + found.host) & set(" \n\r\t?#%\\")
