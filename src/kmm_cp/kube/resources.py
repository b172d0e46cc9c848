"""The resources the control plane reads and writes."""

from dataclasses import dataclass

from kmm_common.api import names


@dataclass(frozen=True, slots=True, kw_only=True)
class Resource:
    """Where a resource is found in the API."""

    group: str
    version: str
    plural: str
    namespaced: bool

    def path(self, name: str = "", *, namespace: str = "", subresource: str = "") -> str:
        """Return the URL path of a collection, or of one object with `name`."""
        root = f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"
        inside = f"/namespaces/{namespace}" if self.namespaced and namespace else ""
        parts = [f"{root}{inside}/{self.plural}", name, subresource]
        return "/".join(part for part in parts if part)


MODULES = Resource(group=names.GROUP, version=names.VERSION, plural=names.MODULES, namespaced=True)
NODE_MODULES_STATES = Resource(
    group=names.GROUP, version=names.VERSION, plural=names.NODE_MODULES_STATES, namespaced=False
)
NODES = Resource(group="", version="v1", plural="nodes", namespaced=False)
NAMESPACES = Resource(group="", version="v1", plural="namespaces", namespaced=False)
PODS = Resource(group="", version="v1", plural="pods", namespaced=True)
SECRETS = Resource(group="", version="v1", plural="secrets", namespaced=True)
CONFIG_MAPS = Resource(group="", version="v1", plural="configmaps", namespaced=True)
EVENTS = Resource(group="", version="v1", plural="events", namespaced=True)
TOKEN_REVIEWS = Resource(
    group="authentication.k8s.io", version="v1", plural="tokenreviews", namespaced=False
)
DEPLOYMENTS = Resource(group="apps", version="v1", plural="deployments", namespaced=True)
DAEMON_SETS = Resource(group="apps", version="v1", plural="daemonsets", namespaced=True)
POD_TEMPLATES = Resource(group="", version="v1", plural="podtemplates", namespaced=True)
LEASES = Resource(group="coordination.k8s.io", version="v1", plural="leases", namespaced=True)
