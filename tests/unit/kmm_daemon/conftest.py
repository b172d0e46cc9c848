"""A node for the tests of the agent."""

from collections.abc import AsyncIterator

import pytest

from support.node import Node


@pytest.fixture
async def node() -> AsyncIterator[Node]:
    node = await Node().start()
    yield node
    await node.stop()
