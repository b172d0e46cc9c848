import dataclasses

import betterproto2
import pytest
from hypothesis import given

from kmm_common.desired import DesiredModule, ModuleRef, ReportedModule
from kmm_common.wire import convert
from kmm_common.wire.errors import MessageError
from kmm_common.wire.gen.kmm import v1 as pb
from support.desired import DESIRED, REPORTED, desired, reported


@given(DESIRED)
def test_desired_module_is_the_same_after_its_way_through_bytes(module: DesiredModule) -> None:
    data = bytes(convert.desired_to_message(module))
    assert convert.desired_from_message(pb.DesiredModule.parse(data)) == module


@given(REPORTED)
def test_reported_module_is_the_same_after_its_way_through_bytes(module: ReportedModule) -> None:
    data = bytes(convert.reported_to_message(module))
    assert convert.reported_from_message(pb.ModuleReport.parse(data)) == module


@pytest.mark.parametrize(
    ("value", "message"), [(DesiredModule, pb.DesiredModule), (ReportedModule, pb.ModuleReport)]
)
def test_message_has_exactly_the_fields_of_its_value(
    value: type[DesiredModule | ReportedModule], message: type[pb.DesiredModule | pb.ModuleReport]
) -> None:
    names = {field.name for field in dataclasses.fields(value)}
    assert {field.name for field in dataclasses.fields(message)} - {"_unknown_fields"} == names


@pytest.mark.parametrize("missing", ["registry_tls", "modprobe"])
def test_desired_module_without_a_part_is_refused_by_the_parts_name(missing: str) -> None:
    message = convert.desired_to_message(desired())
    setattr(message, missing, None)
    with pytest.raises(MessageError, match=f"default/simple: {missing} is missing"):
        convert.desired_from_message(message)


@pytest.mark.parametrize("state", [0, 7, 99, -1])
def test_report_with_an_unknown_state_is_refused(state: int) -> None:
    message = convert.reported_to_message(reported())
    message.state = pb.ModuleReportState(state)
    with pytest.raises(MessageError, match=f"default/simple: state {state} is not known"):
        convert.reported_from_message(message)


@pytest.mark.parametrize("field", ["uid", "image_digest", "config_hash"])
def test_report_with_an_endless_text_is_refused(field: str) -> None:
    message = convert.reported_to_message(reported())
    setattr(message, field, "x" * 1025)
    with pytest.raises(MessageError, match="more than 1024 characters"):
        convert.reported_from_message(message)


@pytest.mark.parametrize("since", [-1, 253_402_300_800_000, 2**63 - 1])
def test_report_with_a_time_that_cannot_be_written_is_refused(since: int) -> None:
    message = convert.reported_to_message(reported())
    message.since_ms = since
    with pytest.raises(MessageError, match="since_ms is not a time"):
        convert.reported_from_message(message)


def test_warning_is_bounded_when_it_comes_in() -> None:
    message = convert.reported_to_message(reported())
    message.warning = "x" * 511 + "é"
    assert convert.reported_from_message(message).warning == "x" * 511


def test_failure_is_bounded_when_it_comes_in() -> None:
    message = convert.reported_to_message(reported())
    message.error = pb.ModuleError(reason="InUse", message="x" * 5000, kernel_log=["y" * 900] * 40)
    failure = convert.reported_from_message(message).error
    assert failure is not None
    assert len(failure.message) == 512
    assert sum(len(line) for line in failure.kernel_log) == 1024


def test_report_that_names_a_module_twice_is_refused() -> None:
    message = convert.reported_to_message(reported())
    with pytest.raises(MessageError, match="twice"):
        convert.modules_from_messages([message, message])


@pytest.mark.parametrize("message", [None, pb.ModuleRef(), pb.ModuleRef(name="a")])
def test_reference_without_namespace_and_name_is_refused(message: pb.ModuleRef | None) -> None:
    with pytest.raises(MessageError, match="needs namespace and name"):
        convert.ref_from_message(message)


def test_reference_comes_back() -> None:
    ref = ModuleRef("default", "simple")
    assert convert.ref_from_message(convert.ref_to_message(ref)) == ref


def test_only_member_of_a_oneof_is_returned() -> None:
    ack = pb.Ack(uid="u", generation=3)
    assert convert.only_member(pb.ReportMessage(ack=ack), "kind") == ack


@pytest.mark.parametrize(
    "message",
    [pb.ReportMessage(), pb.ReportMessage(ack=pb.Ack(), resync=pb.Resync())],
    ids=["none", "two"],
)
def test_oneof_without_exactly_one_member_is_refused(message: pb.ReportMessage) -> None:
    with pytest.raises(MessageError, match="exactly one of ack, hello, resync, state"):
        convert.only_member(message, "kind")


def test_no_field_hides_a_method_of_messages() -> None:
    methods = set(dir(betterproto2.Message))
    kinds = [kind for kind in vars(pb).values() if isinstance(kind, type)]
    messages = [kind for kind in kinds if issubclass(kind, betterproto2.Message)]
    declared = [dataclasses.fields(kind) for kind in kinds if dataclasses.is_dataclass(kind)]
    assert len(declared) == len(messages) > 0
    names = {field.name for fields in declared for field in fields}
    assert names & methods <= {"_unknown_fields"}
