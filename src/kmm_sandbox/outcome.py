"""What became of a Module on the nodes, seen as a user and from inside the kernels."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from kmm_common.api import names
from kmm_sandbox.errors import SandboxError
from kmm_sandbox.kubeapi import Object
from kmm_sandbox.processes import wait_until
from kmm_sandbox.sandbox import Sandbox

SECONDS = 120.0
_STATES = f"/apis/{names.API_VERSION}/{names.NODE_MODULES_STATES}"
_MODULES = f"/apis/{names.API_VERSION}/namespaces/default/{names.MODULES}"


@dataclass(frozen=True, slots=True)
class Outcome:
    """Questions about one Module; every wait has a deadline and says what it waited for."""

    sandbox: Sandbox
    name: str
    kernel_module: str

    def wait_loaded(self) -> None:
        """Wait until status, kernels and labels of all nodes say that it is loaded."""
        self._wait(self.is_loaded, "is loaded on all nodes")

    def wait_settled(self) -> None:
        """Wait until the Module is Ready, which KMM says last."""
        self._wait(self.is_ready, "is Ready")

    def wait_gone(self) -> None:
        """Wait until neither status, kernels nor labels of any node know it, nor the API."""
        self._wait(self.is_gone, "is gone from all nodes")

    def is_loaded(self) -> bool:
        return all(self._on(name) for name in self.sandbox.nodes)

    def is_gone(self) -> bool:
        api = self.sandbox.api
        absent = api.find(f"{_MODULES}/{self.name}") is None
        return absent and not any(self._traces(name) for name in self.sandbox.nodes)

    def is_ready(self) -> bool:
        module = self.sandbox.api.get(f"{_MODULES}/{self.name}")
        status, generation = module.get("status") or {}, module["metadata"]["generation"]
        ready = [c for c in status.get("conditions") or () if c["type"] == "Ready"]
        return any(c["status"] == "True" and c["observedGeneration"] == generation for c in ready)

    def config_hashes(self) -> set[str]:
        """Return the hashes of what the nodes say they have loaded."""
        reports = (self._report(name) for name in self.sandbox.nodes)
        return {report["configHash"] for report in reports if report}

    def _on(self, node: str) -> bool:
        """Tell whether the newest desired configuration is what the node has."""
        report, entry = self._report(node), self._entry(node)
        if not report or not entry or report["state"] != "Loaded":
            return False
        same = report.get("configHash") == entry.get("configHash")
        return same and self._labelled(node) and self._in_kernel(node)

    def _traces(self, node: str) -> bool:
        if self._report(node) or self._entry(node) or self._labelled(node):
            return True
        return self._in_kernel(node)

    def _in_kernel(self, node: str) -> bool:
        return self.kernel_module in self.sandbox.nodes[node].loaded_modules()

    def _labelled(self, node: str) -> bool:
        labels = self.sandbox.api.get(f"/api/v1/nodes/{node}")["metadata"]["labels"]
        return names.ready_label("default", self.name) in labels

    def _entry(self, node: str) -> Object | None:
        return self._of(node, lambda state: (state.get("spec") or {}).get("modules"))

    def _report(self, node: str) -> Object | None:
        return self._of(node, lambda state: (state.get("status") or {}).get("modules"))

    def _of(self, node: str, part: Callable[[Object], Any]) -> Object | None:
        state = self.sandbox.api.find(f"{_STATES}/{node}") or {}
        found = [each for each in part(state) or () if each["name"] == self.name]
        return found[0] if found else None

    def _wait(self, condition: Callable[[], bool], what: str) -> None:
        def checked() -> bool:
            self.sandbox.require_alive()
            return condition()

        try:
            wait_until(checked, seconds=SECONDS, what=f"Module {self.name} {what}")
        except SandboxError as error:
            seen = self.sandbox.kubectl("get", "nodemodulesstates", "-o", "yaml")
            raise SandboxError(f"{error}; the nodes say:\n{seen}", reason=error.reason) from error
