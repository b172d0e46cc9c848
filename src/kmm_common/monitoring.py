"""What Prometheus and the kubelet ask a program: /metrics, /healthz, /readyz."""

from collections.abc import Callable

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST

from kmm_common.listening import host_and_port, listening

SETTING = "metrics_listen"


class MonitoringServer:
    """Serves from start() to stop(); alive as long as it answers."""

    def __init__(
        self,
        address: str,
        *,
        exposition: Callable[[], bytes],
        ready: Callable[[], bool] = lambda: True,
    ) -> None:
        """`exposition` returns the metrics in Prometheus' text format."""
        self._address = address
        self._exposition = exposition
        self._ready = ready
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        """Open the port. CannotListenError if it is taken."""
        app = web.Application()
        app.router.add_get("/metrics", self._metrics)
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/readyz", self._readyz)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        host, port = host_and_port(self._address)
        try:
            with listening(SETTING, self._address):
                await web.TCPSite(self._runner, host, port).start()
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Close the port."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def _metrics(self, _: web.Request) -> web.Response:
        headers = {"Content-Type": CONTENT_TYPE_LATEST}
        return web.Response(body=self._exposition(), headers=headers)

    async def _healthz(self, _: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def _readyz(self, _: web.Request) -> web.Response:
        if self._ready():
            return web.Response(text="ok\n")
        return web.Response(status=503, text="not ready yet\n")
