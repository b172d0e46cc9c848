"""Images that lie, are hostile, or closed: the node takes what is promised, or nothing."""

import base64
import gzip
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from kmm_common.api import names
from kmm_sandbox import kmodimage, samples
from kmm_sandbox.network import HOST_ADDRESS
from kmm_sandbox.processes import wait_until
from kmm_sandbox.registry import Login, Registry
from support.stage import Stage, own_module, push_own

CORE = "kmt_core"
TIDY_SECONDS = 60.0
PRIVATE_PORT = 5001
BINDING = Path(__file__).parents[2] / "manifests/samples/pull-secrets.yaml"
PASSWORD = "correct-horse-battery-staple"


def blob_file(stage: Stage, digest: str) -> Path:
    """Return where the registry keeps a blob."""
    name = digest.removeprefix("sha256:")
    storage = stage.sandbox.directory / "registry/storage/docker/registry/v2/blobs/sha256"
    return storage / name[:2] / name / "data"


def test_layer_with_other_bytes_than_promised_is_never_unpacked(stage: Stage) -> None:
    sandbox = stage.sandbox
    extra = {f"{CORE}.ko": own_module(sandbox.kernel.version, CORE)}
    layer = kmodimage.layer(
        kmodimage.kmod_files(sandbox.kernel, extra=extra) | {"salt": b"tampered"}
    )
    image = kmodimage.push(sandbox.registry, "kmod/tampered", "v1", kmodimage.image(layer))
    stored = blob_file(stage, kmodimage.digest_of(layer))
    content = bytearray(stored.read_bytes())
    content[len(content) // 2] ^= 1
    stored.write_bytes(content)
    trees = {name: stage.store(name, "trees") for name in sandbox.nodes}
    stage.run("tampered", image, {"moduleName": CORE})
    message = stage.wait_failed("tampered", "DigestMismatch")
    assert kmodimage.digest_of(layer) in message
    for name in sandbox.nodes:
        assert stage.store(name, "trees") == trees[name]
        # A node that was early is trying again meanwhile.
        stage.until(partial(_nothing_half_unpacked, stage, name), f"no half unpacked on {name}")
        assert CORE not in sandbox.nodes[name].loaded_modules()


def test_tag_is_resolved_once_for_all_nodes_and_a_moved_tag_reloads_nothing(stage: Stage) -> None:
    image = push_own(stage.sandbox, "moving", CORE)
    outcome = stage.run("moving", image, {"moduleName": CORE})
    outcome.wait_loaded()
    digests = {stage.report(node, "moving")["imageDigest"] for node in stage.sandbox.nodes}
    assert len(digests) == 1
    before = {node: stage.steps(node) for node in stage.sandbox.nodes}
    files = {f"{CORE}.ko": own_module(stage.sandbox.kernel.version, CORE, "v2")}
    moved = kmodimage.image(
        kmodimage.layer(kmodimage.kmod_files(stage.sandbox.kernel, extra=files))
    )
    kmodimage.push(stage.sandbox.registry, "kmod/moving", "v1", moved)
    # Whatever else happens to the nodes: the Module was not touched.
    other = stage.apply("other", samples.push(stage.sandbox, "other", ("slip",)), "slip")
    other.wait_loaded()
    assert {stage.report(node, "moving")["imageDigest"] for node in before} == digests
    for node, steps in before.items():
        assert stage.steps(node) == [*steps, ("load", "default/other")]


@contextmanager
def private_registry(stage: Stage) -> Iterator[Registry]:
    registry = Registry.start(
        stage.sandbox.directory / "private",
        stage.sandbox.launcher,
        host=HOST_ADDRESS,
        port=PRIVATE_PORT,
        login=Login(user="robot", password=PASSWORD),
    )
    try:
        yield registry
    finally:
        registry.stop()


def apply_secret(stage: Stage, login: Login) -> None:
    config = login.docker_config(f"{HOST_ADDRESS}:{PRIVATE_PORT}")
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "pull", "namespace": "default"},
        "type": "kubernetes.io/dockerconfigjson",
        "stringData": {".dockerconfigjson": config},
    }
    stage.sandbox.kubectl.apply(yaml.safe_dump(secret))


def allow_pull_secrets(stage: Stage) -> None:
    """Let the control plane read the pull secrets of the namespace of our Modules, as users do."""
    stage.sandbox.kubectl.apply(BINDING.read_text())


def test_private_image_needs_the_right_secret_which_is_found_nowhere_afterwards(
    stage: Stage,
) -> None:
    with private_registry(stage) as registry:
        files = kmodimage.kmod_files(
            stage.sandbox.kernel,
            extra={f"{CORE}.ko": own_module(stage.sandbox.kernel.version, CORE)},
        )
        built = kmodimage.image(kmodimage.layer(files | {"salt": b"private"}))
        image = kmodimage.push(registry, "kmod/private", "v1", built)
        apply_secret(stage, Login(user="robot", password="wrong"))
        allow_pull_secrets(stage)
        outcome = stage.run("private", image, {"moduleName": CORE}, secret="pull")
        message = stage.wait_failed("private", "ImageUnauthorized")
        assert "Secret default/pull" in message
        apply_secret(stage, Login(user="robot", password=PASSWORD))
        outcome.wait_loaded()
        config = Login(user="robot", password=PASSWORD).docker_config(registry.address)
        secrets = (PASSWORD, base64_of(f"robot:{PASSWORD}"), base64_of(config))
        # The search does find what is there.
        assert stage.sandbox.kubectl("get", "secrets", "-o", "json").count(secrets[2])
    assert traces_of(secrets, stage) == []


def base64_of(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


OBJECTS = "modules,events,nodes,configmaps,nodemodulesstates"
PLACES = "/var/lib/kmm /run/kmm /proc/[0-9]*/cmdline /proc/[0-9]*/environ"


def traces_of(secrets: Sequence[str], stage: Stage) -> list[str]:
    """Return where a text is, of all logs, resources, disks and processes."""
    directory = stage.sandbox.directory
    kubernetes = stage.sandbox.plane.layout
    logs = [*directory.glob("logs/*"), *directory.glob("node*/*.log"), kubernetes.audit_log]
    texts = {str(log): log.read_text(errors="replace") for log in logs}
    assert texts[str(kubernetes.audit_log)]
    texts[OBJECTS] = stage.sandbox.kubectl("get", OBJECTS, "--all-namespaces", "-o", "json")
    found = [place for place, text in texts.items() if any(each in text for each in secrets)]
    for name, node in stage.sandbox.nodes.items():
        # From standard input, not from an argument that it would find.
        search = f"grep -rlsaF -f /dev/stdin {PLACES}"
        answer = node.execute("sh", "-c", search, stdin="\n".join(secrets))
        found += [f"{name}:{path}" for path in answer.stdout.split()]
    return found


def _member(name: str, kind: bytes = tarfile.REGTYPE, **fields: Any) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type = kind
    for key, value in fields.items():
        setattr(member, key, value)
    return member


def hostile_layers(kernel: str) -> dict[str, tuple[bytes, str]]:
    """Return layers, and what the user is told of each, by name."""
    inside = f"opt/lib/modules/{kernel}"
    file = (_member(f"{inside}/m.ko", size=2), b"ko")
    hostile = {
        "dots": (_member("../../etc/cron.d/evil", size=2), "has '..' in its path"),
        "absolute": (_member("/etc/evil", size=2), "has an absolute path"),
        "symlink": (
            _member(f"{inside}/out", tarfile.SYMTYPE, linkname="/etc"),
            "which is outside of",
        ),
        "hardlink": (
            _member(f"{inside}/out", tarfile.LNKTYPE, linkname="etc/shadow"),
            "which is outside of",
        ),
        "device": (
            _member(f"{inside}/mem", tarfile.CHRTYPE, devmajor=1, devminor=1),
            "is a character device",
        ),
    }
    layers = {
        name: (kmodimage.layer_of([file, (member, b"ko" if member.isreg() else b"")]), told)
        for name, (member, told) in hostile.items()
    }
    layers["zeros"] = (ten_gigabytes(f"{inside}/zeros.ko"), "unpacks to more than")
    return layers


def ten_gigabytes(name: str) -> bytes:
    """Return a layer of some 10 MB with a file of 10 GB: gzip members follow one another."""
    hundred = 100 * 2**20
    header = _member(name, size=100 * hundred).tobuf(tarfile.GNU_FORMAT)
    return gzip.compress(header) + 100 * gzip.compress(bytes(hundred), compresslevel=1)


def test_hostile_layers_are_refused_by_name_and_write_nothing(stage: Stage) -> None:
    sandbox = stage.sandbox
    layers = hostile_layers(sandbox.kernel.version)
    for name, (layer, _) in layers.items():
        # The diff id of ten gigabytes is of no interest here.
        image = kmodimage.image(layer) if name != "zeros" else _without_diff_id(layer)
        pushed = kmodimage.push(sandbox.registry, f"kmod/{name}", "v1", image)
        stage.run(name, pushed, {"moduleName": f"m_{name}"})
    honest = stage.apply("honest", samples.push(sandbox, "honest", ("slip",)), "slip")
    honest.wait_loaded()
    for name, (_, told) in layers.items():
        assert told in stage.wait_failed(name, "ImageInvalid")
    for name, node in sandbox.nodes.items():
        assert node.execute("test", "-e", "/etc/cron.d/evil").code == 1
        assert node.execute("test", "-e", "/etc/evil").code == 1
        # One node may still be at what another has refused already.
        wait_until(
            partial(_nothing_half_unpacked, stage, name),
            seconds=TIDY_SECONDS,
            what=f"no half unpacked image on {name}",
        )
        assert names.ready_label("default", "honest") in stage.labels(name)


def _nothing_half_unpacked(stage: Stage, node: str) -> bool:
    return stage.store(node, "tmp") == []


def _without_diff_id(layer: bytes) -> kmodimage.Image:
    tiny = kmodimage.layer({"x": b""})
    image = kmodimage.image(tiny)
    old = f'"digest": "{kmodimage.digest_of(tiny)}", "size": {len(tiny)}'
    new = f'"digest": "{kmodimage.digest_of(layer)}", "size": {len(layer)}'
    manifest = image.manifest.decode().replace(old, new).encode()
    config = {digest: blob for digest, blob in image.blobs.items() if blob != tiny}
    return kmodimage.Image(manifest=manifest, blobs={**config, kmodimage.digest_of(layer): layer})
