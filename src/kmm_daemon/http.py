"""What Prometheus and the kubelet ask the daemon: /metrics, /healthz, /readyz."""

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST

from kmm_daemon.metrics import Metrics


class HttpServer:
    """Started when the daemon knows what the kernel has: ready with or without a control plane."""

    def __init__(self, address: str, *, metrics: Metrics) -> None:
        host, _, port = address.rpartition(":")
        self._host, self._port = host.strip("[]") or None, int(port)
        self._metrics = metrics
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        """Open the port. OSError if it is taken."""
        app = web.Application()
        app.router.add_get("/metrics", self._exposition)
        app.router.add_get("/healthz", self._alive)
        app.router.add_get("/readyz", self._alive)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        await web.TCPSite(self._runner, self._host, self._port).start()

    async def stop(self) -> None:
        """Close the port."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def _exposition(self, _: web.Request) -> web.Response:
        body = self._metrics.exposition()
        return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def _alive(self, _: web.Request) -> web.Response:
        return web.Response(text="ok\n")
