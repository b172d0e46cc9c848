"""What the API client asks for, and what it makes of answers, against a server on loopback."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web
from kubernetes_asyncio.client import Configuration
from kubernetes_asyncio.config import ConfigException

from kmm_common.errors import TransientError
from kmm_cp.kube.client import KubeClient
from kmm_cp.kube.errors import GoneError, NotLeadingError, TooManyRequestsError, UnavailableError
from kmm_cp.kube.resources import CONFIG_MAPS, MODULES, NODES


class Api:
    """An API server that gives the answers that a test has put up, in their order."""

    def __init__(self) -> None:
        self.answers: list[web.Response] = []
        self.asked: list[dict[str, str]] = []
        self.paths: list[str] = []

    async def answer(self, request: web.Request) -> web.Response:
        self.asked.append(dict(request.query))
        self.paths.append(request.path)
        return self.answers.pop(0)


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
    client = KubeClient(configuration, user_agent="test", field_manager="test")
    yield client
    await client.close()
    await runner.cleanup()


async def events(client: KubeClient, **where: Any) -> list[Any]:
    return [
        event async for event in client.watch(MODULES, resource_version="7", inactivity=30, **where)
    ]


async def test_list_follows_its_tokens(api: Api, client: KubeClient) -> None:
    api.answers = [
        web.json_response({"metadata": {"continue": "t1"}}),
        web.json_response({"metadata": {"continue": ""}}),
    ]
    pages = client.pages(CONFIG_MAPS, namespace="ns", label_selector="a=b", limit=2)
    assert len([page async for page in pages]) == 2
    asked = {"limit": "2", "labelSelector": "a=b"}
    assert api.asked == [asked, {**asked, "continue": "t1"}]
    assert set(api.paths) == {"/api/v1/namespaces/ns/configmaps"}


async def test_watch_asks_for_bookmarks_and_yields_lines(api: Api, client: KubeClient) -> None:
    api.answers = [web.Response(text='{"type": "ADDED"}\n{"type": "BOOKMARK"}\n')]
    assert await events(client, label_selector="a=b") == [{"type": "ADDED"}, {"type": "BOOKMARK"}]
    (asked,) = api.asked
    assert asked["allowWatchBookmarks"] == "true"
    assert (asked["resourceVersion"], asked["labelSelector"]) == ("7", "a=b")


async def test_event_of_two_megabytes_is_read(api: Api, client: KubeClient) -> None:
    api.answers = [web.Response(text='{"type": "' + "x" * 2**21 + '"}\n')]
    (event,) = await events(client)
    assert len(event["type"]) == 2**21


async def test_event_that_is_cut_off_is_an_outage(api: Api, client: KubeClient) -> None:
    api.answers = [web.Response(text='{"type": "ADD')]
    with pytest.raises(UnavailableError, match="watch /apis/kmm"):
        await events(client)


async def test_watch_from_too_long_ago_is_refused_as_gone(api: Api, client: KubeClient) -> None:
    api.answers = [web.json_response({"kind": "Status", "code": 410}, status=410)]
    with pytest.raises(GoneError):
        await events(client)


@pytest.mark.parametrize(("header", "wait"), [("3", 3.0), ("", None), ("soon", None), ("-1", None)])
async def test_pause_that_the_server_asks_for_is_told(
    api: Api, client: KubeClient, header: str, wait: float | None
) -> None:
    api.answers = [web.Response(status=429, headers={"Retry-After": header})]
    with pytest.raises(TooManyRequestsError) as caught:
        await client.get(NODES, "a")
    assert caught.value.retry_after == wait


@pytest.mark.parametrize("status", [200, 502])
async def test_answer_that_is_no_json_is_an_outage(
    api: Api, client: KubeClient, status: int
) -> None:
    api.answers = [web.Response(status=status, text="<html>a gateway</html>")]
    with pytest.raises(TransientError) as caught:
        await client.get(NODES, "a")
    assert str(caught.value).startswith("GET /api/v1/nodes/a: ")
    assert "gateway" not in str(caught.value)


async def test_server_that_is_not_reached_is_told_in_words() -> None:
    configuration = Configuration(host="http://127.0.0.1:1")
    away = KubeClient(configuration, user_agent="test", field_manager="test")
    with pytest.raises(UnavailableError) as caught:
        await away.get(NODES, "a")
    await away.close()
    assert str(caught.value).startswith(
        "GET /api/v1/nodes/a: ClientConnectorError: Cannot connect to host 127.0.0.1:1 "
    )


async def test_token_that_cannot_be_renewed_is_an_outage() -> None:
    def renew(configuration: Configuration) -> None:
        raise ConfigException("exec: process returned 1")

    configuration = Configuration(host="http://127.0.0.1:1", api_key={"BearerToken": "old"})
    configuration.refresh_api_key_hook = renew
    client = KubeClient(configuration, user_agent="test", field_manager="test")
    for asked in (client.get(NODES, "a"), events(client)):
        with pytest.raises(UnavailableError, match="exec: process returned 1"):
            await asked
    await client.close()


async def test_fenced_client_sends_no_write_that_may_not_be_made_and_reads_all_the_same(
    api: Api, client: KubeClient
) -> None:
    api.answers = [web.json_response({"metadata": {}}) for _ in range(3)]
    fenced = client.fenced(lambda: False, user_agent="leader")
    for write in (
        fenced.create(NODES, {"metadata": {}}),
        fenced.replace(NODES, "a", {}),
        fenced.patch_merge(NODES, "a", {}),
        fenced.patch_json(NODES, "a", []),
        fenced.delete(NODES, "a"),
    ):
        with pytest.raises(NotLeadingError):
            await write
    assert api.paths == []
    await fenced.get(NODES, "a")
    await client.patch_merge(NODES, "a", {})
    await client.fenced(lambda: True, user_agent="leader").patch_merge(NODES, "a", {})
    assert api.paths == ["/api/v1/nodes/a"] * 3
