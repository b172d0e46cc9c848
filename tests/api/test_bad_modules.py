"""A Module that is wrong says so in its conditions, with field and remedy, and hurts no other."""

from collections.abc import Mapping
from typing import Any

import pytest
import yaml

from support.fleet import Fleet, eventually
from support.kmmcp import KmmCp
from support.undisturbed import undisturbed

CONTAINER = "spec.moduleLoader.container"


async def test_name_too_long_for_a_label_gives_a_condition_and_disturbs_nothing_else(
    fleet: Fleet,
) -> None:
    name = "m" + "x" * 62
    async with undisturbed(fleet) as node:
        since = fleet.audit_position()
        await fleet.apply(name, modprobe={"moduleName": "long"})
        stalled = await fleet.condition("Stalled", name=name, reason="NameTooLong")
        assert "use a shorter name" in stalled["message"]
        assert name not in await fleet.entries(node)
    assert [write for write in fleet.writes(since) if write.code == 422] == []


@pytest.mark.parametrize(
    ("image", "told"),
    [
        ("example.test/kmod:${KERNEL_VERSION", "a ${ is not closed"),
        ("example.test/kmod:${KERNEL_VERSION:-${KERNEL_X}}", "a ${ is inside another"),
        ("example.test/KMOD:1", "KMOD"),
    ],
    ids=["unclosed", "nested", "reference"],
)
async def test_wrong_image_template_gives_a_condition_that_names_the_field(
    fleet: Fleet, image: str, told: str
) -> None:
    async with undisturbed(fleet) as node:
        await fleet.apply(container={"containerImage": image})
        stalled = await fleet.condition("Stalled", reason="InvalidTemplate")
        assert stalled["message"].startswith(f"{CONTAINER}.containerImage: ")
        assert told in stalled["message"]
        assert "m" not in await fleet.entries(node)


async def test_wrong_template_in_a_mapping_is_named_with_its_index(fleet: Fleet) -> None:
    await fleet.node()
    mappings = [
        {"literal": "5.4.0"},
        {"regexp": r"^6\.", "containerImage": "example.test/kmod:${X"},
    ]
    await fleet.apply(container={"kernelMappings": mappings})
    stalled = await fleet.condition("Stalled", reason="InvalidTemplate")
    assert f"{CONTAINER}.kernelMappings[1].containerImage" in stalled["message"]


async def test_template_broken_by_an_edit_unloads_nothing(fleet: Fleet) -> None:
    node = await fleet.node()
    await fleet.apply()
    await fleet.loaded()
    container = {"containerImage": "example.test/kmod:${KERNEL_VERSION"}
    await fleet.edit("m", {"moduleLoader": {"container": container}})
    await fleet.condition("Stalled", reason="InvalidTemplate")
    await fleet.loaded()
    assert [what for what, _ in node.kernel.calls if what != "prepare"] == ["load"]


async def test_image_that_does_not_exist_is_told_by_status_and_condition(fleet: Fleet) -> None:
    async with undisturbed(fleet) as node:
        image = fleet.image("no-such-image")
        await fleet.apply(container={"containerImage": image})
        reconciling = await eventually(
            fleet.conditions,
            lambda found: "ImageNotFound" in found.get("Reconciling", {}).get("message", ""),
        )
        assert image in reconciling["Reconciling"]["message"]
        error = (await fleet.reports(node))["m"]["error"]
        assert error["reason"] == "ImageNotFound"
        rows = (await fleet.module() or {})["status"]["images"]
        assert rows[0]["state"] == "Missing"
        assert image in rows[0]["message"]
        assert fleet.label() not in await fleet.labels(node)


async def test_image_that_exists_at_last_is_loaded(fleet: Fleet) -> None:
    node = await fleet.node()
    image = fleet.image("late")
    await fleet.apply(container={"containerImage": image})
    await eventually(lambda: fleet.reports(node), lambda reports: "error" in reports.get("m", {}))
    # The node itself looks again sooner than the control plane does.
    digest = fleet.push("late")
    node.images.digests[image] = digest
    await fleet.loaded()
    assert (await fleet.reports(node))["m"]["imageDigest"] == digest
    await eventually(
        lambda: fleet.entries(node), lambda entries: entries["m"].get("imageDigest") == digest
    )
    assert node.kernel.loads(fleet.ref()) == 1


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ({"no_such_field": 1}, 'unknown field "spec.no_such_field"'),
        (
            {"moduleLoader": {"container": {"kernelMappings": [{"regexp": "("}]}}},
            "missing argument to repetition operator|missing closing",
        ),
    ],
    ids=["unknown field", "regexp"],
)
def test_apply_refuses_what_no_cluster_could_act_on(
    control_plane: KmmCp, spec: dict[str, Any], told: str
) -> None:
    base = {
        "selector": {"a": "b"},
        "moduleLoader": {
            "container": {
                "modprobe": {"moduleName": "m"},
                "containerImage": "example.test/kmod:1",
                "kernelMappings": [{"literal": "6.1.0"}],
            }
        },
    }
    body = {
        "apiVersion": "kmm.sigs.x-k8s.io/v1beta1",
        "kind": "Module",
        "metadata": {"name": "bad", "namespace": "default"},
        "spec": _merged(base, spec),
    }
    with pytest.raises(Exception, match=told):
        control_plane.cluster.kubectl.apply(yaml.safe_dump(body))


def _merged(base: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in changes.items():
        inner = merged.get(key)
        merged[key] = _merged(inner, value) if isinstance(inner, dict) else value
    return merged
