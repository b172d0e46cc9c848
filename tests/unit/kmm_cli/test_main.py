"""How `kmm` ends when there is nothing to show, or nobody to show it to."""

import asyncio
import json
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

PROGRAM = """
import signal, sys
from kmm_cli.main import main
# A test run in the background has its children ignore it.
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.exit(main())
"""


class Api:
    """An API server that has what a test says, on every path."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.installed = True

    async def answer(self, _request: web.Request) -> web.Response:
        self.asked.set()
        await self.may_answer.wait()
        if not self.installed:
            return web.Response(status=404, text="404 page not found")
        return web.json_response({"metadata": {}, "items": []})


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    api = Api()
    app = web.Application()
    app.router.add_get("/{path:.*}", api.answer)
    async with TestServer(app) as server:
        content = {
            "current-context": "a",
            "contexts": [{"name": "a", "context": {"cluster": "c", "user": "u"}}],
            "clusters": [{"name": "c", "cluster": {"server": str(server.make_url("/"))}}],
            "users": [{"name": "u", "user": {"token": "t"}}],
        }
        (tmp_path / "kubeconfig").write_text(json.dumps(content))
        yield api
        api.may_answer.set()


async def started(tmp_path: Path, *, stdout: int = PIPE) -> Process:
    argv = ("status", "--kubeconfig", str(tmp_path / "kubeconfig"))
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", PROGRAM, *argv), stdout=stdout, stderr=PIPE
    )


async def test_cluster_without_kmm_is_told_as_one(api: Api, tmp_path: Path) -> None:
    api.installed = False
    kmm = await started(tmp_path)
    out, told = await kmm.communicate()
    assert (kmm.returncode, out) == (1, b"")
    (line,) = told.decode().splitlines()
    assert line.startswith("kmm: GET /apis/kmm.sigs.x-k8s.io/v1beta1/modules: HTTP 404; ")
    assert "KMM is not installed there" in line


async def test_interruption_ends_it_without_a_word(api: Api, tmp_path: Path) -> None:
    api.may_answer.clear()
    kmm = await started(tmp_path)
    await api.asked.wait()
    kmm.send_signal(signal.SIGINT)
    assert await kmm.communicate() == (b"", b"")
    assert kmm.returncode == 130


async def test_reader_that_stops_reading_is_no_error(api: Api, tmp_path: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    kmm = await started(tmp_path, stdout=write)
    os.close(write)
    _, told = await kmm.communicate()
    assert (kmm.returncode, told) == (0, b"")
