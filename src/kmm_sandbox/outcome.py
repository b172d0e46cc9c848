"""What became of a Module on the nodes, seen as a user and from inside the kernels."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from kmm_common.api import names
from kmm_sandbox.errors import SandboxError
from kmm_sandbox.kubeapi import KubeApi, Object
from kmm_sandbox.manifests import Kubectl
from kmm_sandbox.nodestates import STATES
from kmm_sandbox.processes import wait_until

SECONDS = 120.0
_MODULES = f"/apis/{names.API_VERSION}/namespaces/default/{names.MODULES}"


class Kernel(Protocol):
    """A node that tells what its kernel has."""

    def loaded_modules(self) -> dict[str, str]:
        """Return the rows of /proc/modules by the module's name."""


class Observed(Protocol):
    """What a Module is looked at in: the nodes that are to have it, and ways in."""

    @property
    def nodes(self) -> Mapping[str, Kernel]: ...

    @property
    def api(self) -> KubeApi: ...

    @property
    def kubectl(self) -> Kubectl: ...

    def require_alive(self) -> None:
        """Raise SandboxError if a part has ended by itself."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """Questions about one Module; every wait has a deadline and says what it waited for."""

    sandbox: Observed
    name: str
    kernel_module: str

    def wait_loaded(self) -> None:
        """Wait until status, kernels and labels of all nodes say that it is loaded."""
        self._wait(self.is_loaded, "is loaded on all nodes")

    def wait_loaded_since(self, node: str, boot_id: str) -> None:
        """Wait until it is loaded everywhere, on a node in that boot."""
        self._wait(lambda: self.says_loaded_since(node, boot_id), f"is loaded anew on {node}")
        self.wait_loaded()

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

    def says_loaded(self) -> bool:
        """Tell whether every node's status says that the desired configuration is loaded."""
        states = self._states()
        return len(states) == len(self.sandbox.nodes) and all(map(self._state_loaded, states))

    def says_loaded_since(self, node: str, boot_id: str) -> bool:
        """Tell whether a node's status says it of that boot."""
        state = self.sandbox.api.find(f"{STATES}/{node}") or {}
        same = (state.get("status") or {}).get("bootId") == boot_id
        return same and self._state_loaded(state)

    def says_gone(self) -> bool:
        """Tell whether no node's status knows the Module any more."""
        states = self._states()
        return not any(self._named(state, part) for state in states for part in ("spec", "status"))

    def is_ready(self) -> bool:
        module = self.sandbox.api.get(f"{_MODULES}/{self.name}")
        status, generation = module.get("status") or {}, module["metadata"]["generation"]
        ready = [c for c in status.get("conditions") or () if c["type"] == "Ready"]
        return any(c["status"] == "True" and c["observedGeneration"] == generation for c in ready)

    def config_hashes(self) -> set[str]:
        """Return the hashes of what the nodes say they have loaded."""
        reports = (self._named(state, "status") for state in self._states())
        return {report["configHash"] for report in reports if report}

    def _states(self) -> list[Object]:
        return self.sandbox.api.items(STATES)

    def _named(self, state: Object, part: str) -> Object | None:
        modules = (state.get(part) or {}).get("modules") or ()
        return next((each for each in modules if each["name"] == self.name), None)

    def _state_loaded(self, state: Object) -> bool:
        entry, report = self._named(state, "spec"), self._named(state, "status")
        if not entry or not report or report["state"] != "Loaded":
            return False
        return bool(report.get("configHash") == entry.get("configHash"))

    def _on(self, node: str) -> bool:
        """Tell whether the newest desired configuration is what the node has."""
        state = self.sandbox.api.find(f"{STATES}/{node}") or {}
        return self._state_loaded(state) and self._labelled(node) and self._in_kernel(node)

    def _traces(self, node: str) -> bool:
        state = self.sandbox.api.find(f"{STATES}/{node}") or {}
        if any(self._named(state, part) for part in ("spec", "status")) or self._labelled(node):
            return True
        return self._in_kernel(node)

    def _in_kernel(self, node: str) -> bool:
        return self.kernel_module in self.sandbox.nodes[node].loaded_modules()

    def _labelled(self, node: str) -> bool:
        labels = self.sandbox.api.get(f"/api/v1/nodes/{node}")["metadata"]["labels"]
        return names.ready_label("default", self.name) in labels

    def _wait(self, condition: Callable[[], bool], what: str) -> None:
        def checked() -> bool:
            self.sandbox.require_alive()
            return condition()

        try:
            wait_until(checked, seconds=SECONDS, what=f"Module {self.name} {what}")
        except SandboxError as error:
            seen = self.sandbox.kubectl("get", "nodemodulesstates", "-o", "yaml")
            raise SandboxError(f"{error}; the nodes say:\n{seen}", reason=error.reason) from error
