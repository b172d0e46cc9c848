"""Our own authority and the port where daemons enrol, for clusters without cert-manager."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from kmm_common.clock import Clock
from kmm_common.errors import TerminalError
from kmm_common.listening import listening
from kmm_common.tls import ServerTls, TlsFiles, server_only
from kmm_cp.kube.client import KubeClient
from kmm_cp.kube.errors import ConflictError, NotFoundError
from kmm_cp.kube.resources import SECRETS, TOKEN_REVIEWS
from kmm_cp.roles.adapters import ConfigMapWriter, PodCache
from kmm_cp.roles.caches import Caches
from kmm_cp.serving.enrolment import Enrolment
from kmm_cp.serving.enrolport import EnrolmentPort
from kmm_cp.serving.identity import DaemonPods
from kmm_cp.serving.keeper import AuthorityKeeper, SupersededError
from kmm_cp.serving.ports import Observer, Review
from kmm_cp.serving.scraper import ScraperKeeper
from kmm_cp.serving.token import AUDIENCE
from kmm_cp.settings import EnrolmentSettings, Settings

_LABELS = {"app.kubernetes.io/part-of": "kmm"}
_EXTRA = "authentication.kubernetes.io"


@dataclass(frozen=True, slots=True, kw_only=True)
class Enrolling:
    """What a replica runs to have daemons enrol with it."""

    settings: Settings
    chosen: EnrolmentSettings
    client: KubeClient
    keeper: AuthorityKeeper
    clock: Clock

    @property
    def life(self) -> timedelta:
        return timedelta(seconds=self.chosen.certificate_seconds)

    def port(self, caches: Caches, observer: Observer, daemons: DaemonPods) -> EnrolmentPort:
        """Build the port; the keeper has prepared its files."""
        enrolment = Enrolment(
            pods=PodCache(caches.pods.store),
            tokens=TokenReviewer(self.client),
            daemons=daemons,
            signer=self.keeper.signer,
            trust_domain=self.settings.trust_domain,
            host=self._host("kmm-daemon"),
            life=self.life,
            ready=caches.pods.synced.is_set,
            observer=observer,
            clock=self.clock,
        )
        return EnrolmentPort(
            self.chosen.listen,
            enrolment=enrolment,
            server_tls=ServerTls(tls_files(self.settings), server_only),
            observer=observer,
            clock=self.clock,
        )

    def scraper(self) -> ScraperKeeper | None:
        """Build what keeps Prometheus' certificate; None where it is not asked for."""
        namespace, name = self.settings.namespace, self.settings.scraper_secret
        if not name:
            return None
        return ScraperKeeper(
            store=SecretStore(
                client=self.client, namespace=namespace, name=name, setting="scraper_secret"
            ),
            authorities=self.keeper.authorities,
            name=self._host("kmm-scraper"),
            life=self.life,
            clock=self.clock,
        )

    def _host(self, name: str) -> str:
        return f"{name}.{self.settings.namespace}.svc"

    async def open(self, port: EnrolmentPort) -> None:
        """Open the port. CannotListenError."""
        with listening("enrolment.listen", self.chosen.listen):
            await port.start()


def tls_files(settings: Settings) -> TlsFiles:
    """Return where certificate, key and authorities of the serving side are."""
    return TlsFiles(cert=settings.tls.cert, key=settings.tls.key, ca=settings.tls.ca)


def enrolling(client: KubeClient, settings: Settings, clock: Clock) -> Enrolling | None:
    """Build what keeps our own authority; None where it is not asked for."""
    chosen = settings.enrolment
    if chosen is None:
        return None
    namespace = settings.namespace
    keeper = AuthorityKeeper(
        store=SecretStore(client=client, namespace=namespace, name=chosen.secret),
        trust=ConfigMapWriter(client=client, namespace=namespace, labels=_LABELS),
        trust_name=chosen.config_map,
        files=tls_files(settings),
        hosts=chosen.server_names or (f"kmm-cp.{namespace}.svc",),
        life=timedelta(seconds=chosen.certificate_seconds),
        clock=clock,
    )
    return Enrolling(settings=settings, chosen=chosen, client=client, keeper=keeper, clock=clock)


@dataclass(frozen=True, slots=True, kw_only=True)
class SecretStore:
    """serving.keeper.AuthorityStore in a Secret that an administrator has made, empty."""

    client: KubeClient
    namespace: str
    name: str
    setting: str = "enrolment.secret"
    """Which names it."""

    async def read(self) -> tuple[Mapping[str, bytes], str]:
        secret = await self._get()
        data = secret.get("data") or {}
        content = {key: base64.b64decode(value) for key, value in data.items()}
        return content, secret["metadata"]["resourceVersion"]

    async def write(self, data: Mapping[str, bytes], version: str) -> None:
        body = await self._get()
        body["metadata"]["resourceVersion"] = version
        body["data"] = {key: base64.b64encode(value).decode() for key, value in data.items()}
        try:
            await self.client.replace(SECRETS, self.name, body, namespace=self.namespace)
        except ConflictError as error:
            raise SupersededError(str(error), reason=error.reason) from error

    async def _get(self) -> dict[str, Any]:
        try:
            return await self.client.get(SECRETS, self.name, namespace=self.namespace)
        except NotFoundError as error:
            raise TerminalError(
                f"{self.setting}: there is no Secret {self.namespace}/{self.name}; create it,"
                " without data",
                reason="NotFound",
            ) from error


@dataclass(frozen=True, slots=True)
class TokenReviewer:
    """serving.ports.Tokens."""

    client: KubeClient

    async def review(self, token: str) -> Review | None:
        spec = {"token": token, "audiences": [AUDIENCE]}
        body = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenReview",
            "spec": spec,
        }
        status = (await self.client.create(TOKEN_REVIEWS, body)).get("status") or {}
        if not status.get("authenticated"):
            return None
        user = status.get("user") or {}
        return Review(
            audiences=frozenset(status.get("audiences") or ()),
            username=user.get("username", ""),
            pod=_only(user, "pod-name"),
            pod_uid=_only(user, "pod-uid"),
        )


def _only(user: Mapping[str, Any], name: str) -> str:
    """Return the one value of what the API server adds to a user; empty for none, or for more."""
    values: Sequence[Any] = (user.get("extra") or {}).get(f"{_EXTRA}/{name}") or ()
    return str(values[0]) if len(values) == 1 else ""
