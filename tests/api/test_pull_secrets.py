"""A pull secret reaches the nodes that are meant to have it, and nobody else."""

import asyncio
import re

import pytest

from kmm_common.api.names import PULL_SECRET_ANNOTATION, Reason
from kmm_common.desired import ModuleRef
from kmm_sandbox.errors import SandboxError
from kmm_sandbox.kubeapi import Object
from kmm_sandbox.manifests import Kubectl
from kmm_sandbox.programs import GROUPS, USER
from support.fleet import Fleet, eventually
from support.rights import Call
from support.simnode import SimNode

PASSWORD = "s3cret-of-robot"
COMMAND = re.compile(r"kubectl create rolebinding [^;:)]+--serviceaccount=\S+:[\w-]+")


async def test_pull_secret_goes_only_to_nodes_whose_state_refers_to_it(fleet: Fleet) -> None:
    meant, other = await fleet.node("a", labels={"secret": "yes"}), await fleet.node("b")
    await fleet.allow_pull_secrets()
    await make_secret(fleet)
    await fleet.apply(
        imageRepoSecret={"name": "pull"}, selector={"fleet": fleet.name, "secret": "yes"}
    )
    await fleet.apply("open")
    await fleet.loaded(meant)
    await fleet.loaded(other, name="open")
    assert other.link is not None
    [(ref, given)] = meant.images.credentials
    assert ref == fleet.ref()
    assert [(one.registry, one.username) for one in given] == [("registry.test", "robot")]
    for asked in (fleet.ref("m"), fleet.ref("open"), ModuleRef("elsewhere", "m")):
        with pytest.raises(Exception, match=r"no pull secret of Module .* is meant for this node"):
            await other.link.fetch(asked, refresh=False)
    assert PASSWORD not in fleet.control_plane.log.read_text()


async def test_pull_secret_that_is_missing_is_named(fleet: Fleet) -> None:
    node = await fleet.node()
    await fleet.allow_pull_secrets()
    await fleet.apply(imageRepoSecret={"name": "nowhere"})
    await told(fleet, node, f"Secret {fleet.name}/nowhere does not exist")


async def test_namespace_that_allows_no_secrets_is_told_the_command_and_needs_nothing_else(
    fleet: Fleet,
) -> None:
    node = await fleet.node(patient=True)
    means_refusal(fleet, "pull")
    await make_secret(fleet)
    await fleet.apply(imageRepoSecret={"name": "pull"})
    await fleet.apply("open")
    message = await told(fleet, node, f"KMM may not read Secret {fleet.name}/pull")
    await fleet.loaded(node, name="open")
    command = COMMAND.search(message)
    assert command is not None, message
    assert await everywhere_told(fleet, command[0]) == []
    await asyncio.to_thread(fleet.control_plane.cluster.kubectl, *command[0].split()[1:])
    await fleet.loaded(node)
    assert await events(fleet, Reason.IMAGE_UNAUTHORIZED) == 1


async def test_rights_end_at_one_secret_by_name_of_a_namespace_that_is_bound(fleet: Fleet) -> None:
    await fleet.allow_pull_secrets()
    await make_secret(fleet)
    cluster = fleet.control_plane.cluster
    kubectl = Kubectl(
        program=cluster.kubectl.program, kubeconfig=cluster.kubeconfig_for(USER, GROUPS)
    )

    async def get(*arguments: str) -> str:
        return await asyncio.to_thread(kubectl, "get", "secrets", *arguments, "-o", "name")

    assert await get("-n", fleet.name, "pull") == "secret/pull\n"
    for beyond in (["-A"], ["-n", fleet.name], ["-n", "kube-public", "pull"]):
        with pytest.raises(SandboxError, match="forbidden"):
            await get(*beyond)


async def test_changed_pull_secret_is_tried_at_once_and_reloads_nothing(fleet: Fleet) -> None:
    node, other = await fleet.node(patient=True), await fleet.node("b")
    node.images.password = PASSWORD
    await fleet.allow_pull_secrets()
    secret = await make_secret(fleet, "old")
    await fleet.apply(imageRepoSecret={"name": "pull"})
    await told(fleet, node, "wrong password")
    await fleet.loaded(other)
    await tried_with(fleet, node, secret)
    secret = await change_secret(fleet, PASSWORD)
    await fleet.loaded(node)
    await fleet.settled()
    assert (other.kernel.loads(fleet.ref()), other.kernel.unloads(fleet.ref())) == (1, 0)
    assert await version_told(fleet) == secret


async def test_secret_that_is_made_after_its_module_is_tried_at_once(fleet: Fleet) -> None:
    node = await fleet.node(patient=True)
    await fleet.allow_pull_secrets()
    await fleet.apply(imageRepoSecret={"name": "pull"})
    await told(fleet, node, "does not exist")
    await make_secret(fleet)
    await fleet.loaded(node)


async def told(fleet: Fleet, node: SimNode, text: str) -> str:
    """Wait until a node says this of Module m; return all that it says."""
    reports = await eventually(
        lambda: fleet.reports(node),
        lambda reports: text in reports.get("m", {}).get("error", {}).get("message", ""),
        what=text,
    )
    assert reports["m"]["error"]["reason"] == Reason.IMAGE_UNAUTHORIZED
    return str(reports["m"]["error"]["message"])


async def everywhere_told(fleet: Fleet, command: str) -> list[str]:
    """Wait until each place where a user looks has a text; return those that have not."""

    async def missing() -> list[str]:
        status = (await fleet.module() or {}).get("status", {})
        places = {
            "Ready": str((await fleet.conditions()).get("Ready")),
            "failures": str(status.get("failures")),
            "images": str(status.get("images")),
            "events": str(await fleet.events(fleet.name, "m")),
        }
        return [place for place, text in places.items() if command not in text]

    return await eventually(missing, lambda places: not places, what=command)


async def tried_with(fleet: Fleet, node: SimNode, version: str) -> None:
    """Wait until a node has tried with a version of the Secret, and failed."""
    await eventually(lambda: version_told(fleet), lambda told: told == version, what="told")

    async def tries() -> int:
        return len(node.images.credentials)

    await eventually(tries, lambda count: count == 2, what="one more try")


async def version_told(fleet: Fleet) -> str:
    module = await fleet.module() or {"metadata": {}}
    return str(module["metadata"].get("annotations", {}).get(PULL_SECRET_ANNOTATION))


async def events(fleet: Fleet, reason: str) -> int:
    """Return how many events there are about failures for a reason."""
    counted = await fleet.events(fleet.name, "m")
    return sum(number for (_, text), number in counted.items() if text.startswith(reason))


def means_refusal(fleet: Fleet, name: str) -> None:
    """Have kmm-cp ask for a Secret though the fleet's namespace does not allow it."""
    call = Call("get", "secrets", fleet.name, name, False)
    fleet.control_plane.cluster.meant_refusals.add(call)


async def make_secret(fleet: Fleet, password: str = PASSWORD) -> str:
    """Make the Secret `pull`; return its version."""
    path = f"/api/v1/namespaces/{fleet.name}/secrets"
    made = await asyncio.to_thread(fleet.api.create, path, _secret(password))
    return str(made["metadata"]["resourceVersion"])


async def change_secret(fleet: Fleet, password: str) -> str:
    """Give the Secret another password; return its version."""
    path = f"/api/v1/namespaces/{fleet.name}/secrets/pull"
    changed = await asyncio.to_thread(fleet.api.merge, path, _secret(password))
    return str(changed["metadata"]["resourceVersion"])


def _secret(password: str) -> Object:
    login = f'{{"username": "robot", "password": "{password}"}}'
    return {
        "metadata": {"name": "pull"},
        "type": "kubernetes.io/dockerconfigjson",
        "stringData": {".dockerconfigjson": f'{{"auths": {{"registry.test": {login}}}}}'},
    }
