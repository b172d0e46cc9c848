"""Who may read metrics over TLS: whoever has a certificate with a name that is listed."""

import logging
import ssl
from collections.abc import Mapping
from typing import Any

from kmm_common.logs import log
from kmm_common.settings import MetricsTlsSettings
from kmm_common.tls import ServerTls, TlsFiles, TlsFilesError, bound_read_buffers

logger = logging.getLogger(__name__)

_KINDS = ("DNS", "URI")


class ScraperTls(ServerTls):
    """The metrics' side of TLS; its files are looked at in each handshake, without a timer."""

    def __init__(self, settings: MetricsTlsSettings) -> None:
        """Read the files. TlsFilesError."""
        self._names = frozenset(settings.names)
        self._problem = ""
        bound_read_buffers()
        files = TlsFiles(cert=settings.cert, key=settings.key, ca=settings.ca)
        super().__init__(files, _for_probes_too)

    def admits(self, certificate: Mapping[str, Any] | None) -> bool:
        """Tell whether a peer's certificate, which is one of our authority's, has a listed name."""
        names = (certificate or {}).get("subjectAltName", ())
        return any(kind in _KINDS and name in self._names for kind, name in names)

    def _lead_over(
        self, connection: ssl.SSLObject, name: str | None, context: ssl.SSLContext
    ) -> None:
        self._refresh()
        super()._lead_over(connection, name, context)

    def _refresh(self) -> None:
        try:
            self.reload()
        except TlsFilesError as error:
            if str(error) != self._problem:
                log(logger, logging.ERROR, "certificates not reloaded", error=str(error))
            self._problem = str(error)
        else:
            self._problem = ""


def _for_probes_too(context: ssl.SSLContext) -> None:
    """Have a certificate checked if there is one: the kubelet, which probes, has none."""
    context.verify_mode = ssl.CERT_OPTIONAL
    context.set_alpn_protocols(["http/1.1"])
