"""Mapping over container."""

import pytest

from kmm_common.desired import RegistryTLS
from kmm_cp.policy.mapping import mapping_for
from kmm_cp.policy.merge import merged
from support.policy import KERNEL, module


def merge(container, mapping):
    match = mapping_for(module(container=container, mappings=[{"regexp": ".*", **mapping}]), KERNEL)
    assert match is not None
    return merged(match)


@pytest.mark.parametrize(
    ("container", "mapping", "image", "field"),
    [
        ({}, {"containerImage": "m"}, "m", "kernelMappings[0].containerImage"),
        ({"containerImage": "c"}, {"containerImage": "m"}, "m", "kernelMappings[0].containerImage"),
        ({"containerImage": "c"}, {}, "c", "container.containerImage"),
        ({}, {}, "", "container.containerImage"),
    ],
)
def test_the_image_is_the_mapping_s_else_the_container_s(container, mapping, image, field):
    found = merge(container, mapping)
    assert found.image == image
    assert found.image_field.endswith(field)
    assert found.image_field.startswith("spec.moduleLoader.container")


@pytest.mark.parametrize(
    ("container", "mapping", "expected"),
    [
        ({}, {}, RegistryTLS()),
        ({"registryTLS": {"insecure": True}}, {}, RegistryTLS(insecure=True)),
        ({"registryTLS": {"insecure": True}}, {"registryTLS": {}}, RegistryTLS()),
        (
            {"registryTLS": {"insecure": True}},
            {"registryTLS": {"insecureSkipTLSVerify": True}},
            RegistryTLS(insecure_skip_tls_verify=True),
        ),
    ],
)
def test_registry_tls_of_the_mapping_replaces_the_container_s_whole(container, mapping, expected):
    assert merge(container, mapping).registry_tls == expected


@pytest.mark.parametrize(
    ("container", "mapping", "expected"),
    [
        ({}, {}, ()),
        ({"inTreeModuleToRemove": "a"}, {}, ("a",)),
        ({"inTreeModulesToRemove": ["a", "b"]}, {}, ("a", "b")),
        ({"inTreeModulesToRemove": ["a", "b"]}, {"inTreeModulesToRemove": ["c"]}, ("c",)),
        ({"inTreeModulesToRemove": ["a", "b"]}, {"inTreeModulesToRemove": []}, ()),
        ({"inTreeModulesToRemove": ["a", "b"]}, {"inTreeModuleToRemove": "c"}, ("c",)),
        ({"inTreeModuleToRemove": "a"}, {"inTreeModuleToRemove": "c"}, ("c",)),
        ({"inTreeModuleToRemove": "a"}, {"inTreeModulesToRemove": ["c", "d"]}, ("c", "d")),
    ],
)
def test_in_tree_modules_of_the_mapping_replace_the_container_s(container, mapping, expected):
    assert merge(container, mapping).in_tree_modules_to_remove == expected
