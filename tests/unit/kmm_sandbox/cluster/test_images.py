"""What containerd is given instead of a registry."""

import hashlib
import io
import json
import tarfile

from kmm_sandbox.cluster.images import archive


def test_an_archive_leads_by_digests_from_its_full_name_to_the_program() -> None:
    content = archive(
        "localhost/one:two",
        {"bin/one": b"#!"},
        links={"bin/other": "one"},
        entrypoint=("/bin/one",),
    )
    with tarfile.open(fileobj=io.BytesIO(content)) as layout:
        blobs = {member.name: read(layout, member.name) for member in layout}
    (entry,) = json.loads(blobs["index.json"])["manifests"]
    assert entry["annotations"] == {"io.containerd.image.name": "localhost/one:two"}
    manifest = json.loads(by_digest(blobs, entry["digest"]))
    config = json.loads(by_digest(blobs, manifest["config"]["digest"]))
    assert config["config"]["Entrypoint"] == ["/bin/one"]
    (layer,) = manifest["layers"]
    with tarfile.open(fileobj=io.BytesIO(by_digest(blobs, layer["digest"]))) as files:
        assert files.getmember("bin/one").mode == 0o755
        assert files.getmember("bin/other").linkname == "one"
        assert read(files, "bin/one") == b"#!"


def by_digest(blobs: dict[str, bytes], digest: str) -> bytes:
    content = blobs[f"blobs/{digest.replace(':', '/')}"]
    assert f"sha256:{hashlib.sha256(content).hexdigest()}" == digest
    return content


def read(archive: tarfile.TarFile, name: str) -> bytes:
    file = archive.extractfile(name)
    assert file is not None
    return file.read()
