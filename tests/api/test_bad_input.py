"""What is wrong is told where its user looks, names field and remedy, and hurts no other."""

import asyncio
import dataclasses
import struct
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from grpclib.const import Status
from grpclib.exceptions import GRPCError, StreamTerminatedError

from kmm_common.desired import ModuleRef
from kmm_common.tls import PodIdentity, TlsFiles, client_context, pod_uri
from kmm_sandbox.pki import TRUST_DOMAIN
from support.certificates import NAMESPACE, SERVICE_ACCOUNT, Certificates
from support.fleet import Fleet, eventually
from support.kmmcp import KmmCp
from support.serving import DEADLINE, Watch, dialled, request, watch
from support.simnode import PODS, SimNode

CONTAINER = "spec.moduleLoader.container"


@asynccontextmanager
async def undisturbed(fleet: Fleet) -> AsyncIterator[SimNode]:
    """Load a Module before; another one must be loaded after, over the same session."""
    node = await fleet.node("honest")
    await fleet.apply("before")
    await fleet.loaded(node, name="before")
    yield node
    await fleet.apply("after")
    await fleet.loaded(node, name="after")
    assert len(fleet.control_plane.told("session opened", node=node.name)) == 1
    assert node.kernel.loads(fleet.ref("before")) == 1
    assert fleet.control_plane.alive


# Modules.


async def test_name_too_long_for_a_label_gives_a_condition_and_disturbs_nothing_else(
    fleet: Fleet,
) -> None:
    name = "m" + "x" * 62
    async with undisturbed(fleet) as node:
        since = fleet.audit_position()
        await fleet.apply(name, modprobe={"moduleName": "long"})
        stalled = await fleet.condition("Stalled", name=name, reason="NameTooLong")
        assert "use a shorter name" in stalled["message"]
        assert name not in await fleet.entries(node)
    assert [write for write in fleet.writes(since) if write.code == 422] == []


@pytest.mark.parametrize(
    ("image", "told"),
    [
        ("example.test/kmod:${KERNEL_VERSION", "a ${ is not closed"),
        ("example.test/kmod:${KERNEL_VERSION:-${KERNEL_X}}", "a ${ is inside another"),
        ("example.test/KMOD:1", "KMOD"),
    ],
    ids=["unclosed", "nested", "reference"],
)
async def test_wrong_image_template_gives_a_condition_that_names_the_field(
    fleet: Fleet, image: str, told: str
) -> None:
    async with undisturbed(fleet) as node:
        await fleet.apply(container={"containerImage": image})
        stalled = await fleet.condition("Stalled", reason="InvalidTemplate")
        assert stalled["message"].startswith(f"{CONTAINER}.containerImage: ")
        assert told in stalled["message"]
        assert "m" not in await fleet.entries(node)


async def test_wrong_template_in_a_mapping_is_named_with_its_index(fleet: Fleet) -> None:
    await fleet.node()
    mappings = [
        {"literal": "5.4.0"},
        {"regexp": r"^6\.", "containerImage": "example.test/kmod:${X"},
    ]
    await fleet.apply(container={"kernelMappings": mappings})
    stalled = await fleet.condition("Stalled", reason="InvalidTemplate")
    assert f"{CONTAINER}.kernelMappings[1].containerImage" in stalled["message"]


async def test_template_broken_by_an_edit_unloads_nothing(fleet: Fleet) -> None:
    node = await fleet.node()
    await fleet.apply()
    await fleet.loaded()
    container = {"containerImage": "example.test/kmod:${KERNEL_VERSION"}
    await fleet.edit("m", {"moduleLoader": {"container": container}})
    await fleet.condition("Stalled", reason="InvalidTemplate")
    await fleet.loaded()
    assert [what for what, _ in node.kernel.calls if what != "prepare"] == ["load"]


async def test_image_that_does_not_exist_is_told_by_status_and_condition(fleet: Fleet) -> None:
    async with undisturbed(fleet) as node:
        image = fleet.image("no-such-image")
        await fleet.apply(container={"containerImage": image})
        reconciling = await eventually(
            fleet.conditions,
            lambda found: "ImageNotFound" in found.get("Reconciling", {}).get("message", ""),
        )
        assert image in reconciling["Reconciling"]["message"]
        error = (await fleet.reports(node))["m"]["error"]
        assert error["reason"] == "ImageNotFound"
        rows = (await fleet.module() or {})["status"]["images"]
        assert rows[0]["state"] == "Missing"
        assert image in rows[0]["message"]
        assert fleet.label() not in await fleet.labels(node)


async def test_image_that_exists_at_last_is_loaded(fleet: Fleet) -> None:
    node = await fleet.node()
    image = fleet.image("late")
    await fleet.apply(container={"containerImage": image})
    await eventually(lambda: fleet.reports(node), lambda reports: "error" in reports.get("m", {}))
    # The node itself looks again sooner than the control plane does.
    digest = fleet.push("late")
    node.images.digests[image] = digest
    await fleet.loaded()
    assert (await fleet.reports(node))["m"]["imageDigest"] == digest
    await eventually(
        lambda: fleet.entries(node), lambda entries: entries["m"].get("imageDigest") == digest
    )
    assert node.kernel.loads(fleet.ref()) == 1


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ({"no_such_field": 1}, 'unknown field "spec.no_such_field"'),
        (
            {"moduleLoader": {"container": {"kernelMappings": [{"regexp": "("}]}}},
            "missing argument to repetition operator|missing closing",
        ),
    ],
    ids=["unknown field", "regexp"],
)
def test_apply_refuses_what_no_cluster_could_act_on(
    control_plane: KmmCp, spec: dict[str, Any], told: str
) -> None:
    base = {
        "selector": {"a": "b"},
        "moduleLoader": {
            "container": {
                "modprobe": {"moduleName": "m"},
                "containerImage": "example.test/kmod:1",
                "kernelMappings": [{"literal": "6.1.0"}],
            }
        },
    }
    body = {
        "apiVersion": "kmm.sigs.x-k8s.io/v1beta1",
        "kind": "Module",
        "metadata": {"name": "bad", "namespace": "default"},
        "spec": _merged(base, spec),
    }
    with pytest.raises(Exception, match=told):
        control_plane.cluster.kubectl.apply(yaml.safe_dump(body))


def _merged(base: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in changes.items():
        inner = merged.get(key)
        merged[key] = _merged(inner, value) if isinstance(inner, dict) else value
    return merged


# Pull secrets.


async def test_pull_secret_goes_only_to_nodes_whose_state_refers_to_it(fleet: Fleet) -> None:
    meant, other = await fleet.node("a", labels={"secret": "yes"}), await fleet.node("b")
    await asyncio.to_thread(_make_secret, fleet)
    await fleet.apply(
        imageRepoSecret={"name": "pull"}, selector={"fleet": fleet.name, "secret": "yes"}
    )
    await fleet.apply("open")
    await fleet.loaded(meant)
    await fleet.loaded(other, name="open")
    assert other.link is not None
    [(ref, given)] = meant.images.credentials
    assert ref == fleet.ref()
    assert [(one.registry, one.username) for one in given] == [("registry.test", "robot")]
    for asked in (fleet.ref("m"), fleet.ref("open"), ModuleRef("elsewhere", "m")):
        with pytest.raises(Exception, match=r"no pull secret of Module .* is meant for this node"):
            await other.link.fetch(asked, refresh=False)
    assert "s3cret-of-robot" not in fleet.control_plane.log.read_text()


async def test_pull_secret_that_is_missing_is_named(fleet: Fleet) -> None:
    node = await fleet.node()
    await fleet.apply(imageRepoSecret={"name": "nowhere"})
    await eventually(
        lambda: fleet.reports(node),
        lambda reports: (
            f"Secret {fleet.name}/nowhere does not exist"
            in reports.get("m", {}).get("error", {}).get("message", "")
        ),
    )


def _make_secret(fleet: Fleet) -> None:
    config = '{"auths": {"registry.test": {"username": "robot", "password": "s3cret-of-robot"}}}'
    fleet.api.create(
        f"/api/v1/namespaces/{fleet.name}/secrets",
        {
            "metadata": {"name": "pull"},
            "type": "kubernetes.io/dockerconfigjson",
            "stringData": {".dockerconfigjson": config},
        },
    )


# Peers that are no daemon, or not that of the node they would like to be.


def _identity(fleet: Fleet, **changes: str) -> PodIdentity:
    pod = "kmm-daemon-" + f"{fleet.name}-honest"
    uid = fleet.api.get(f"{PODS}/{pod}")["metadata"]["uid"]
    known = PodIdentity(namespace=NAMESPACE, service_account=SERVICE_ACCOUNT, name=pod, uid=uid)
    return dataclasses.replace(known, **changes)


def _files(fleet: Fleet, **changes: str) -> TlsFiles:
    return fleet.control_plane.certificates.uris(pod_uri(_identity(fleet, **changes), TRUST_DOMAIN))


async def _refusal(fleet: Fleet, files: TlsFiles) -> GRPCError:
    """Greet as a daemon would; return how the control plane refuses."""
    async with asyncio.timeout(DEADLINE), dialled(fleet.control_plane.port, files) as channel:
        with pytest.raises(GRPCError) as caught:
            async with watch(channel) as stream:
                await stream.send_message(request(), end=True)
                await _answer(stream)
    return caught.value


async def _answer(stream: Watch) -> None:
    await stream.recv_message()
    await stream.recv_trailing_metadata()


@pytest.mark.parametrize(
    "changes",
    [
        {"uid": "00000000-0000-0000-0000-000000000000"},
        {"service_account": "default"},
        {"namespace": "default"},
    ],
    ids=["deleted pod", "other account", "other namespace"],
)
async def test_certificate_that_is_no_daemons_is_refused_and_learns_nothing(
    fleet: Fleet, changes: dict[str, str]
) -> None:
    async with undisturbed(fleet) as node:
        files = await asyncio.to_thread(_files, fleet, **changes)
        refusal = await _refusal(fleet, files)
        assert refusal.status is Status.PERMISSION_DENIED
        assert (refusal.message or "").startswith("not a daemon of this cluster: ")
        assert node.name not in (refusal.message or "")


async def test_pod_that_nobody_knows_is_told_to_try_again(fleet: Fleet) -> None:
    async with undisturbed(fleet):
        files = await asyncio.to_thread(_files, fleet, name="kmm-daemon-unknown")
        refusal = await _refusal(fleet, files)
        assert refusal.status is Status.UNAVAILABLE


async def test_certificate_of_a_deleted_pod_ends_its_session_rights(fleet: Fleet) -> None:
    async with undisturbed(fleet):
        node = await fleet.node("replaced")
        files = await asyncio.to_thread(node.certificate)
        await node.stop()
        await asyncio.to_thread(fleet.api.delete, f"{PODS}/{node.pod}")
        await asyncio.to_thread(node.register_pod)
        refusal = await eventually(
            lambda: _refusal(fleet, files),
            lambda refusal: refusal.status is Status.PERMISSION_DENIED,
        )
        assert "earlier pod" in (refusal.message or "")
        await node.start()
        await fleet.loaded(node, name="before")


async def test_daemon_with_the_certificate_of_another_node_speaks_for_that_node_only(
    fleet: Fleet,
) -> None:
    """It takes over the session of its certificate's node; what it is on does not matter."""
    async with undisturbed(fleet):
        rogue = await fleet.node("rogue", daemon=False)
        files = await asyncio.to_thread(rogue.certificate)
        async with dialled(fleet.control_plane.port, files) as channel, watch(channel) as stream:
            await stream.send_message(request(), end=True)
            async with asyncio.timeout(DEADLINE):
                update = await stream.recv_message()
            assert update is not None
            state = await fleet.state(rogue) or {}
            assert update.uid == state["metadata"]["uid"]
            await stream.cancel()


async def test_certificate_of_another_authority_gets_no_connection(
    fleet: Fleet, tmp_path: Path
) -> None:
    async with undisturbed(fleet):
        identity = await asyncio.to_thread(_identity, fleet)
        foreign = Certificates(tmp_path / "foreign").uris(pod_uri(identity, TRUST_DOMAIN))
        trusted = await asyncio.to_thread(_files, fleet)
        files = dataclasses.replace(foreign, ca=trusted.ca)
        with pytest.raises((OSError, StreamTerminatedError)):
            await _refusal(fleet, files)


async def test_length_of_one_gib_ends_that_stream_only(fleet: Fleet) -> None:
    async with undisturbed(fleet) as node:
        files = await asyncio.to_thread(node.certificate)
        async with dialled(fleet.control_plane.port, files) as channel:
            with pytest.raises(GRPCError) as caught:
                async with asyncio.timeout(DEADLINE), watch(channel) as stream:
                    await stream.send_request()
                    await stream._stream.send_data(b"\x00" + struct.pack(">I", 2**30) + b"x" * 99)
                    await stream.recv_message()
        assert caught.value.status is Status.RESOURCE_EXHAUSTED


@pytest.mark.parametrize("inside_tls", [False, True], ids=["plain", "tls"])
async def test_garbage_on_the_port_disturbs_nobody(fleet: Fleet, *, inside_tls: bool) -> None:
    async with undisturbed(fleet) as node:
        files = await asyncio.to_thread(node.certificate)
        context = client_context(files) if inside_tls else None
        reader, writer = await asyncio.open_connection(
            "127.0.0.1",
            fleet.control_plane.port,
            ssl=context,
            server_hostname="localhost" if context else None,
        )
        try:
            writer.write(b"\xff" * 100_000)
            async with asyncio.timeout(DEADLINE):
                await _to_the_end(reader)
        finally:
            writer.close()
            await asyncio.gather(writer.wait_closed(), return_exceptions=True)


async def _to_the_end(reader: asyncio.StreamReader) -> None:
    try:
        while await reader.read(65536):
            pass
    except OSError:
        return


# Settings.


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"listen": "8443"}, "listen"),
        ({"namespace": "Not_A_Name"}, "namespace"),
        ({"tolerated_failures": "many"}, "tolerated_failures"),
        ({"no_such": 1}, "no_such: there is no such setting; remove it or correct its name"),
        ({"tls": None}, "tls"),
        ({"disconnected_seconds": 0}, "disconnected_seconds"),
        ({"log_format": "xml"}, "log_format"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_wrong_setting_ends_kmm_cp_with_code_2_and_its_name(
    control_plane: KmmCp, tmp_path: Path, changes: dict[str, Any], told: str
) -> None:
    ended = _run(tmp_path, {**control_plane.settings, **changes})
    assert ended.returncode == 2
    assert told in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"kubeconfig": "/no/such/kubeconfig"}, "/no/such/kubeconfig"),
        (
            {"tls": {"cert": "/no/such/cert", "key": "/no/such/key", "ca": "/no/such/ca"}},
            "/no/such/",
        ),
    ],
    ids=["kubeconfig", "certificate"],
)
def test_file_that_is_missing_ends_kmm_cp_with_code_1_and_its_name(
    control_plane: KmmCp, tmp_path: Path, changes: dict[str, Any], told: str
) -> None:
    free = {"listen": "127.0.0.1:0", "metrics_listen": "127.0.0.1:0"}
    ended = _run(tmp_path, {**control_plane.settings, **free, **changes})
    assert ended.returncode == 1
    assert told in ended.stderr
    assert "Traceback" not in ended.stderr


def test_port_that_is_taken_ends_kmm_cp_with_code_1_and_says_so(
    control_plane: KmmCp, tmp_path: Path
) -> None:
    ended = _run(tmp_path, {**control_plane.settings, "metrics_listen": "127.0.0.1:0"})
    assert ended.returncode == 1
    assert "address already in use" in ended.stderr


def _run(directory: Path, settings: Mapping[str, Any]) -> "subprocess.CompletedProcess[str]":
    config = directory / "kmm-cp.yaml"
    config.write_text(yaml.safe_dump(dict(settings)))
    argv = [sys.executable, "-m", "kmm_cp.cli", "--config", str(config)]
    return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
