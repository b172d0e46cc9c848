"""What a leader runs for as long as it leads: controllers, and services of theirs."""

import asyncio
from collections.abc import Sequence
from typing import Any

from kmm_common.clock import Clock
from kmm_cp.runtime.controller import Controller
from kmm_cp.runtime.supervision import Service, kept_up


class Term:
    """Runs once: the next term of the same replica begins from nothing."""

    def __init__(
        self, *, controllers: Sequence[Controller[Any]], services: Sequence[Service], clock: Clock
    ) -> None:
        self._controllers = controllers
        self._services = services
        self._clock = clock

    async def run(self) -> None:
        """Run until stop(); reconciles in progress are finished, services are then cancelled."""
        async with asyncio.TaskGroup() as tasks:
            services = [
                tasks.create_task(kept_up(service, self._clock), name=service.name)
                for service in self._services
            ]
            async with asyncio.TaskGroup() as controlling:
                for controller in self._controllers:
                    name = f"controller {controller.name}"
                    controlling.create_task(controller.run(), name=name)
            for task in services:
                task.cancel()

    def stop(self) -> None:
        """Let run() end when the keys in progress are done."""
        for controller in self._controllers:
            controller.stop()
