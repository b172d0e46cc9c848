"""Fields that are accepted and not acted on yet."""

import pytest

from kmm_cp.policy.acted import not_acted_on
from support.policy import module

C = "spec.moduleLoader.container"
SIGN = {"keySecret": {"name": "k"}, "certSecret": {"name": "c"}, "filesToSign": ["/opt/a.ko"]}
BUILD = {"dockerfileConfigMap": {"name": "d"}}
IMAGE = {"regexp": ".", "containerImage": "r.example/k:1"}
PLUGIN = {"container": {"image": "r.example/p:1"}}


@pytest.mark.parametrize(
    ("kmod", "fields"),
    [
        (module(container={"build": BUILD}), [f"{C}.build"]),
        (module(container={"sign": SIGN}), [f"{C}.sign"]),
        (
            module(mappings=[IMAGE, {**IMAGE, "build": BUILD, "sign": SIGN}]),
            [f"{C}.kernelMappings[1].build", f"{C}.kernelMappings[1].sign"],
        ),
        (module(spec={"devicePlugin": PLUGIN}), ["spec.devicePlugin"]),
        (module(spec={"dra": {**PLUGIN, "driverName": "d.example"}}), ["spec.dra"]),
        (module(spec={"imageRebuildTriggerGeneration": 0}), ["spec.imageRebuildTriggerGeneration"]),
        (module(spec={"moduleLoader": None, "devicePlugin": PLUGIN}), ["spec.devicePlugin"]),
    ],
)
def test_each_field_is_named(kmod, fields):
    condition = not_acted_on(kmod)
    assert condition is not None
    assert condition.status
    assert condition.reason == "FeatureNotAvailable"
    assert condition.message.endswith(f": {', '.join(fields)}")


@pytest.mark.parametrize(
    "kmod",
    [
        module(),
        module(spec={"moduleLoader": None}),
        module(spec={"tolerations": [{"operator": "Exists"}]}, container={"version": "1"}),
    ],
)
def test_nothing_is_said_of_a_module_that_is_acted_on_whole(kmod):
    assert not_acted_on(kmod) is None
