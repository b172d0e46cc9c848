"""The CRDs in the repository are what the models give, and nothing a structural schema forbids."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from kmm_common.api import crd
from kmm_common.api.module import Module, ModuleSpec
from kmm_common.api.schema import attribute_docstrings, of_model
from kmm_common.desired import DesiredModule


def walk(schema: Any) -> Iterator[dict[str, Any]]:
    """Yield every object within a schema."""
    if isinstance(schema, dict):
        yield schema
        for each in schema.values():
            yield from walk(each)
    if isinstance(schema, list):
        for each in schema:
            yield from walk(each)


def test_the_files_are_up_to_date() -> None:
    for path, text in crd.files().items():
        assert path.read_text() == text, f"{path.name}: make generate"


@pytest.mark.parametrize("made", [crd.module(), crd.node_modules_state()])
def test_the_schema_is_structural(made: dict[str, Any]) -> None:
    for each in walk(made["spec"]["versions"][0]["schema"]):
        assert not {"$ref", "anyOf", "allOf", "title", "$defs", "const"} & each.keys()


def test_rules_that_count_elements_count_as_many_as_there_can_be() -> None:
    counting = [
        (json.JSONDecoder().raw_decode(rule["rule"])[0], each["maxItems"])
        for each in walk(crd.module())
        for rule in each.get("x-kubernetes-validations", ())
        if rule["rule"].startswith("[")
    ]
    assert len(counting) == 4
    assert all(indexes == list(range(most)) for indexes, most in counting)


def test_nothing_that_rules_compare_is_of_types_that_equal_nothing() -> None:
    spec = crd.module()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    for compared in ("tolerations", "moduleLoader"):
        for each in walk(spec["properties"][compared]):
            assert "x-kubernetes-preserve-unknown-fields" not in each


def test_every_field_of_a_module_is_explained() -> None:
    unexplained = [
        name
        for each in walk(of_model(ModuleSpec))
        if isinstance(each.get("properties"), dict)
        for name, field in each["properties"].items()
        if isinstance(field, dict) and "type" in field and "description" not in field
    ]
    assert not unexplained


def test_a_field_is_described_by_the_string_below_it() -> None:
    assert attribute_docstrings(DesiredModule)["uid"] == "metadata.uid of the Module."


def test_fields_of_a_newer_version_are_ignored() -> None:
    module = Module.from_object(
        {
            "metadata": {"name": "m", "namespace": "ns", "future": 1},
            "spec": {"selector": {}, "future": {"a": 1}},
        }
    )
    assert module.spec.module_loader is None
