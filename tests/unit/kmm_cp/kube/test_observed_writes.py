"""What the API client tells of its writes, against a server on loopback that answers as told."""

from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pytest
from aiohttp import web
from kubernetes_asyncio.client import Configuration

from kmm_common.errors import KmmError
from kmm_cp.kube.client import KubeClient
from kmm_cp.kube.errors import ConflictError, UnavailableError
from kmm_cp.kube.resources import CONFIG_MAPS, NODE_MODULES_STATES, NODES

Step = Callable[[KubeClient], Coroutine[Any, Any, Any]]


class Api:
    """An API server that gives every request the same answer."""

    def __init__(self) -> None:
        self.status = 200
        self.seen: list[tuple[str, str]] = []
        self.told: list[tuple[str, str, str]] = []

    def written(self, *, resource: str, verb: str, code: str) -> None:
        self.told.append((verb, resource, code))

    async def answer(self, request: web.Request) -> web.Response:
        self.seen.append((request.method, request.path))
        return web.json_response({"kind": "Status", "metadata": {}}, status=self.status)


@pytest.fixture
async def api() -> Api:
    return Api()


@pytest.fixture
async def client(api: Api) -> AsyncIterator[KubeClient]:
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", api.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    configuration = Configuration(host=f"http://127.0.0.1:{runner.addresses[0][1]}")
    client = KubeClient(configuration, user_agent="test", field_manager="test", observer=api)
    yield client
    await client.close()
    await runner.cleanup()


@pytest.mark.parametrize(
    ("step", "method", "told"),
    [
        (
            lambda c: c.create(CONFIG_MAPS, {"metadata": {}}, namespace="ns"),
            "POST",
            ("create", "configmaps", "200"),
        ),
        (
            lambda c: c.replace(NODE_MODULES_STATES, "a", {"spec": {}}),
            "PUT",
            ("update", "nodemodulesstates", "200"),
        ),
        (
            lambda c: c.patch_merge(NODES, "a", {"metadata": {}}),
            "PATCH",
            ("patch", "nodes", "200"),
        ),
        (
            lambda c: c.patch_json(NODE_MODULES_STATES, "a", [{}], subresource="status"),
            "PATCH",
            ("patch", "nodemodulesstates/status", "200"),
        ),
        (
            lambda c: c.delete(NODE_MODULES_STATES, "a", uid="u"),
            "DELETE",
            ("delete", "nodemodulesstates", "200"),
        ),
    ],
    ids=["create", "replace", "merge", "json patch", "delete"],
)
async def test_write_is_told_by_what_it_was(
    api: Api, client: KubeClient, step: Step, method: str, told: tuple[str, str, str]
) -> None:
    await step(client)
    assert [seen for seen, _ in api.seen] == [method]
    assert api.told == [told]


@pytest.mark.parametrize(("status", "error"), [(409, ConflictError), (503, UnavailableError)])
async def test_write_that_is_refused_is_told_by_the_answer(
    api: Api, client: KubeClient, status: int, error: type[KmmError]
) -> None:
    api.status = status
    with pytest.raises(error):
        await client.patch_merge(NODES, "a", {"metadata": {}})
    assert api.told == [("patch", "nodes", str(status))]


async def test_write_without_an_answer_is_told_as_an_error(api: Api) -> None:
    configuration = Configuration(host="http://127.0.0.1:1")
    client = KubeClient(configuration, user_agent="test", field_manager="test", observer=api)
    with pytest.raises(UnavailableError):
        await client.patch_merge(NODES, "a", {"metadata": {}})
    await client.close()
    assert api.told == [("patch", "nodes", "<error>")]


async def test_reads_are_not_told(api: Api, client: KubeClient) -> None:
    await client.get(NODES, "a")
    assert [page async for page in client.pages(NODES)]
    assert api.told == []
