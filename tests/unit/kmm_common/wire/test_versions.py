"""Which version of the protocol two releases speak, and what of it must never change."""

from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import DescriptorProto, EnumDescriptorProto, FileDescriptorSet
from grpc_tools import protoc  # type: ignore[import-untyped]

from kmm_common.wire import versions
from kmm_common.wire.generate import CHECKOUT, PROTOS

RELEASED = CHECKOUT / "protos/released"


@pytest.mark.parametrize(
    ("newest", "oldest", "version"),
    [
        (1, 0, None),
        (2, 0, 2),
        (3, 0, 3),
        (4, 0, None),
        (4, 3, 3),
        (5, 4, None),
        (2, 1, 2),
        (0, 0, None),
    ],
)
def test_newest_version_of_both_sides_is_spoken(
    monkeypatch: pytest.MonkeyPatch, newest: int, oldest: int, version: int | None
) -> None:
    monkeypatch.setattr(versions, "OLDEST", 2)
    monkeypatch.setattr(versions, "NEWEST", 3)
    assert versions.common(newest, oldest) == version
    assert versions.spoken() == "versions 2 to 3"


def test_each_version_that_is_spoken_is_kept_as_it_was_released() -> None:
    spoken = {f"{version}.proto" for version in range(versions.OLDEST, versions.NEWEST + 1)}
    assert spoken <= {path.name for path in RELEASED.iterdir()}


@pytest.mark.parametrize("released", sorted(RELEASED.iterdir()), ids=lambda path: path.name)
def test_nothing_that_was_released_has_another_number_or_type_now(
    released: Path, tmp_path: Path
) -> None:
    """Peers of that release would read one thing for another."""
    before = described(released.parent, released.name, tmp_path)
    now = described(CHECKOUT / "protos", PROTOS[0], tmp_path)
    assert {name: now.get(name) for name in before} == before


def described(directory: Path, name: str, scratch: Path) -> dict[str, str]:
    """Return type and number of every field, enum value and method of a proto file."""
    output = scratch / "descriptors"
    arguments = ["protoc", f"--proto_path={directory}", f"--descriptor_set_out={output}", name]
    assert protoc.main(arguments) == 0
    (file,) = FileDescriptorSet.FromString(output.read_bytes()).file
    found: dict[str, str] = {}
    for message in file.message_type:
        _describe(message, message.name, found)
    for service in file.service:
        for method in service.method:
            streams = (method.client_streaming, method.server_streaming)
            found[f"{service.name}.{method.name}"] = (
                f"{method.input_type} -> {method.output_type} {streams}"
            )
    return found


def _describe(message: DescriptorProto, name: str, found: dict[str, str]) -> None:
    for field in message.field:
        found[f"{name}.{field.name}"] = (
            f"{field.number} {field.type} {field.label} {field.type_name}"
        )
    for enum in message.enum_type:
        _describe_enum(enum, f"{name}.{enum.name}", found)
    for nested in message.nested_type:
        _describe(nested, f"{name}.{nested.name}", found)


def _describe_enum(enum: EnumDescriptorProto, name: str, found: dict[str, str]) -> None:
    for value in enum.value:
        found[f"{name}.{value.name}"] = str(value.number)
