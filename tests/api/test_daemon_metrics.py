"""Debian's Prometheus scrapes a real daemon as the components of manifests/daemon-metrics say."""

import asyncio
import json
import os
import re
import shlex
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID
from grpclib.const import Status
from grpclib.exceptions import GRPCError

from kmm_common.tls import TlsFiles
from kmm_cp.serving.ports import Refusal
from kmm_sandbox.binaries import find_kubectl
from kmm_sandbox.kubeapi import Object
from kmm_sandbox.machine import install_missing
from kmm_sandbox.processes import run
from kmm_sandbox.progress import Progress
from support import rights
from support.certificates import NAMESPACE
from support.certmanager import issued, running_cert_manager
from support.certvolume import CertificateVolume
from support.cluster import running_cluster
from support.csidriver import CsiVolume
from support.daemonprocess import running_daemon
from support.enrolled import Mounts, enrolling_control_plane
from support.fleet import Fleet, eventually, running_fleet
from support.installation import Installation, composed
from support.kmmcp import KmmCp, new_control_plane, prepare_cluster
from support.prometheus import Json, asked, job, prometheus_installed, refused, running_prometheus
from support.serving import DEADLINE, dialled, request, watch
from support.simnode import PODS, SimNode

pytestmark = pytest.mark.timeout(3600)
"""The first run on a machine compiles cert-manager's controllers."""

MANIFESTS = Path(__file__).resolve().parents[2] / "manifests"
COMPONENTS = {"default": "daemon-metrics/cert-manager", "builtin-ca": "daemon-metrics/builtin-ca"}
PAGE = MANIFESTS.parent / "docs/how-to/certificates.md"
SECRETS = f"/api/v1/namespaces/{NAMESPACE}/secrets"
SERVER_NAME = f"kmm-cp.{NAMESPACE}.svc"
_numbers = count(1)


@pytest.fixture(scope="module", autouse=True)
def installed() -> None:
    prometheus_installed()


@dataclass(frozen=True, slots=True, kw_only=True)
class Shipped:
    """An overlay with its component, and a node whose daemon is not started."""

    installation: Installation
    fleet: Fleet
    node: SimNode
    files: TlsFiles
    """Of the daemon; they may not be there yet."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Of the daemon besides, as they are here."""

    @property
    def environment(self) -> dict[str, Any]:
        """What the daemon's Pod sets, by the name of the setting."""
        return environment(self.installation, "kmm-daemon", "KMM_DAEMON_")

    def metrics_tls(self) -> Json:
        """Return the component's setting, of the files that the overlay's settings name."""
        overlay = self.installation.settings("kmm-daemon")["tls"]
        here = {overlay[name]: str(getattr(self.files, name)) for name in ("cert", "key", "ca")}
        told = self.environment["metrics_tls"]
        return {**told, **{name: here[told[name]] for name in ("cert", "key", "ca")}}

    def monitor(self) -> Object:
        """Return the one endpoint of the PodMonitor."""
        (endpoint,) = self.installation.of("PodMonitor")["kmm-daemon"]["spec"][
            "podMetricsEndpoints"
        ]
        found: Object = endpoint
        return found

    def scraper(self, directory: Path) -> Json:
        """Return what the Prometheus Operator makes of the PodMonitor's tlsConfig."""
        tls = self.monitor()["tlsConfig"]
        asked_for = {
            "ca_file": tls["ca"]["secret"],
            "cert_file": tls["cert"]["secret"],
            "key_file": tls["keySecret"],
        }
        found: Json = {"server_name": tls["serverName"]}
        directory.mkdir()
        for name, reference in asked_for.items():
            data = issued(self.fleet.api, f"{SECRETS}/{reference['name']}")
            file = directory / name
            file.write_bytes(data[reference["key"]])
            found[name] = str(file)
        return found


def environment(installation: Installation, pod: str, prefix: str) -> dict[str, Any]:
    """Return the settings that a Pod's variables have, by their names."""
    (container,) = installation.pod(pod)["containers"]
    variables = {each["name"]: each.get("value") for each in container["env"]}
    return {
        name.removeprefix(prefix).lower(): yaml.safe_load(value)
        for name, value in variables.items()
        if name.startswith(prefix) and value is not None
    }


@pytest.fixture(scope="module", params=COMPONENTS)
def installation(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Installation]:
    """Each overlay with its component, on a cluster of its own."""
    overlay = request.param
    manifest = composed(tmp_path_factory.mktemp("overlay"), overlay, COMPONENTS[overlay])
    with running_cluster(tmp_path_factory.mktemp("kubernetes")) as cluster:
        yield Installation(cluster=cluster, overlay=overlay, manifest=manifest)


@pytest.fixture(scope="module")
def plane(installation: Installation, tmp_path_factory: pytest.TempPathFactory) -> Iterator[KmmCp]:
    """kmm-cp with what the overlay gives it; its own certificates are as shipped."""
    directory, cluster = tmp_path_factory.mktemp("kmm-cp"), installation.cluster
    with ExitStack() as stack:
        if installation.overlay == "default":
            prepare_cluster(cluster)
            stack.enter_context(running_cert_manager(cluster, directory / "cert-manager"))
            for kind in ("Issuer", "Certificate"):
                cluster.kubectl.apply(yaml.safe_dump_all(installation.of(kind).values()))
            made = new_control_plane(cluster, directory)
            volume = CertificateVolume(directory / "tls")
            volume.replace(issued(cluster.api, f"{SECRETS}/kmm-cp-tls"))
            files = volume.files
            made.settings["tls"] = {
                "cert": str(files.cert),
                "key": str(files.key),
                "ca": str(files.ca),
            }
        else:
            made = enrolling_control_plane(cluster, directory)
            scraper = MANIFESTS / COMPONENTS["builtin-ca"] / "scraper.yaml"
            cluster.kubectl("apply", "-f", str(scraper), "-f", str(rights.SCRAPER))
            told = environment(installation, "kmm-cp", "KMM_CP_")
            made.settings["scraper_secret"] = told["scraper_secret"]
        try:
            yield made
            assert made.stop() == 0
            assert made.refusals() == set()
        finally:
            made.close()


@pytest.fixture
async def shipped(
    installation: Installation, plane: KmmCp, tmp_path: Path
) -> AsyncIterator[Shipped]:
    async with running_fleet(plane, f"s{next(_numbers)}", tmp_path) as fleet:
        node = await fleet.node(daemon=False)
        make = _with_a_volume if installation.overlay == "default" else _that_enrols
        yield await asyncio.to_thread(make, installation, fleet, node)


def _with_a_volume(installation: Installation, fleet: Fleet, node: SimNode) -> Shipped:
    """Return one whose certificate cert-manager's CSI driver brings."""
    (csi,) = (one["csi"] for one in installation.pod("kmm-daemon")["volumes"] if "csi" in one)
    volume = CsiVolume(
        api=fleet.api,
        pod=fleet.api.get(f"{PODS}/{node.pod}"),
        attributes=csi["volumeAttributes"],
        directory=fleet.directory / "tls",
    )
    volume.publish()
    return Shipped(
        installation=installation,
        fleet=fleet,
        node=node,
        files=volume.files,
        settings={"server_name": SERVER_NAME},
    )


def _that_enrols(installation: Installation, fleet: Fleet, node: SimNode) -> Shipped:
    """Return one that gets its certificate by itself, after its start."""
    mounts = Mounts(node=node, plane=fleet.control_plane, directory=fleet.directory / "mounts")
    mounts.project()
    enrol = {"server": mounts.enrolling.server, "token": str(mounts.token)}
    return Shipped(
        installation=installation,
        fleet=fleet,
        node=node,
        files=mounts.files,
        settings={"enrol": enrol},
    )


async def test_prometheus_reads_a_daemons_metrics_and_nobody_else_does(
    shipped: Shipped, tmp_path: Path
) -> None:
    endpoint, files = shipped.monitor(), shipped.files
    with running_daemon(
        tmp_path / "daemon",
        server_port=shipped.fleet.control_plane.port,
        files=files,
        metrics_tls=shipped.metrics_tls(),
        **shipped.settings,
    ) as (_, address):

        async def enrolled() -> bool:
            return files.cert.exists()

        await eventually(enrolled, what="the daemon's certificate")
        scraper = await asyncio.to_thread(shipped.scraper, tmp_path / "scraper")
        authority = {name: scraper[name] for name in ("ca_file", "server_name")}
        daemon = {**authority, "cert_file": str(files.cert), "key_file": str(files.key)}
        jobs = [
            {**job(name, endpoint, address), "tls_config": config}
            for name, config in {"scraper": scraper, "nobody": authority, "daemon": daemon}.items()
        ]
        plain = job("plain", {**endpoint, "scheme": "http"}, address)
        control_plane = {**scraper, "server_name": SERVER_NAME}
        posing = {**job("posing", endpoint, address), "tls_config": control_plane}
        with running_prometheus(tmp_path / "prometheus", [*jobs, plain, posing]) as prometheus:
            await asked(prometheus, 'up{job="scraper"}')
            await asked(prometheus, 'kmm_daemon_session_connected{job="scraper"}')
            for name in ("nobody", "daemon"):
                await refused(prometheus, name, "403 Forbidden")
            await refused(prometheus, "plain", "Get ")
            # The daemon's certificate is not the control plane's.
            await refused(prometheus, "posing", f"not {SERVER_NAME}")
        read = await asyncio.to_thread(by_hand, shipped, address, tmp_path)
        assert "\nkmm_daemon_session_connected 1.0\n" in read


def by_hand(shipped: Shipped, address: str, directory: Path) -> str:
    """Read a daemon's metrics by the commands that the docs show."""
    install_missing({"curl": "curl"}, Progress())
    blocks = re.findall(r"```\n(.*?)```", PAGE.read_text(), re.DOTALL)
    (commands,) = [block for block in blocks if "curl" in block]
    script = commands.replace("NODE-ADDRESS:8081", address)
    kubectl = f"{find_kubectl().parent}:{os.environ['PATH']}"
    kubeconfig = shipped.installation.cluster.kubeconfig
    argv = ["env", f"PATH={kubectl}", f"KUBECONFIG={kubeconfig}", "bash", "-euc"]
    return run([*argv, f"cd {shlex.quote(str(directory))}\n{script}"], limit=60)


def test_port_that_is_scraped_is_the_one_that_the_daemon_opens_on_its_node(
    installation: Installation, plane: KmmCp
) -> None:
    pod = installation.pod("kmm-daemon")
    (container,) = pod["containers"]
    (port,) = container["ports"]
    assert pod["hostNetwork"]
    told = environment(installation, "kmm-daemon", "KMM_DAEMON_")
    assert told["metrics_listen"] == f":{port['containerPort']}"
    # The daemon has no YAML in memory where everything is JSON.
    for each in container["env"]:
        if each["name"].startswith("KMM_DAEMON_"):
            json.loads(each["value"])
    monitor = installation.of("PodMonitor")["kmm-daemon"]["spec"]
    assert [one["port"] for one in monitor["podMetricsEndpoints"]] == [port["name"]]
    (template,) = installation.of("PodTemplate").values()
    labels = template["template"]["metadata"]["labels"]
    assert monitor["selector"]["matchLabels"].items() <= labels.items()
    # By this job an alert asks whether daemons are scraped.
    assert labels[monitor["jobLabel"]] == "kmm-daemon"
    # As the control plane makes it of the template.
    spec = {"selector": monitor["selector"], "template": template["template"]}
    path = f"/apis/apps/v1/namespaces/{NAMESPACE}/daemonsets?dryRun=All"
    plane.cluster.api.create(path, {"metadata": {"name": "probe"}, "spec": spec})


async def test_scrapers_certificate_is_for_clients_only_and_opens_no_session(
    shipped: Shipped, tmp_path: Path
) -> None:
    fleet = shipped.fleet
    told = await asyncio.to_thread(shipped.scraper, tmp_path / "scraper")
    certificate = x509.load_pem_x509_certificate(Path(told["cert_file"]).read_bytes())
    purposes = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(purposes) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == shipped.environment["metrics_tls"]["names"]
    files = TlsFiles(
        cert=Path(told["cert_file"]), key=Path(told["key_file"]), ca=Path(told["ca_file"])
    )
    server = str(shipped.settings.get("server_name", "localhost"))
    async with dialled(fleet.control_plane.port, files, server_name=server) as channel:
        with pytest.raises(GRPCError) as caught:
            async with asyncio.timeout(DEADLINE), watch(channel) as stream:
                await stream.send_message(request(), end=True)
                await stream.recv_message()
                await stream.recv_trailing_metadata()
    assert caught.value.status is Status.PERMISSION_DENIED
    assert await asyncio.to_thread(fleet.control_plane.told, "peer refused", reason=Refusal.NO_POD)


async def test_secret_of_the_scraper_has_a_certificate_of_the_authority_that_signs_now(
    shipped: Shipped,
) -> None:
    data = await asyncio.to_thread(issued, shipped.fleet.api, f"{SECRETS}/kmm-scraper")
    certificate = x509.load_pem_x509_certificate(data["tls.crt"])
    trusted = x509.load_pem_x509_certificates(data["ca.crt"])
    certificate.verify_directly_issued_by(trusted[0])
