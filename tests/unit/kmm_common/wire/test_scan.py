import pytest
from grpclib.const import Status
from grpclib.exceptions import GRPCError
from hypothesis import example, given
from hypothesis import strategies as st

from kmm_common.wire import convert
from kmm_common.wire.codec import Codec, Pre
from kmm_common.wire.errors import MessageError
from kmm_common.wire.gen.kmm import v1 as pb
from kmm_common.wire.scan import FIELDS, UNKNOWN_FIELDS, check
from support.desired import REPORTED

REPORTS = st.builds(
    lambda sequence, modules: pb.ReportMessage(
        state=pb.StateReport(
            sequence=sequence, modules=[convert.reported_to_message(one) for one in modules]
        )
    ),
    st.integers(0, 2**64 - 1),
    st.lists(REPORTED, max_size=3),
)


@given(REPORTS)
def test_every_message_that_we_make_passes(message: pb.ReportMessage) -> None:
    check(bytes(message), pb.ReportMessage)


@given(st.binary(max_size=200))
@example(b"\x08")
@example(b"\x0a\xff")
@example(b"\x0b")
@example(b"\xff" * 11)
def test_garbage_is_decoded_or_refused_and_nothing_else(data: bytes) -> None:
    decode_or_refuse(data)


def decode_or_refuse(data: bytes) -> None:
    try:
        Codec().decode(data, pb.ReportMessage)
    except GRPCError as error:
        assert error.status is Status.INVALID_ARGUMENT


@given(REPORTS, st.data())
def test_damaged_message_is_decoded_or_refused_and_nothing_else(
    message: pb.ReportMessage, data: st.DataObject
) -> None:
    whole = bytearray(bytes(message) or b"\x00")
    whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    decode_or_refuse(bytes(whole))


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"\x0a\x05ab", "cut off inside a field"),
        (b"\x0a", "cut off inside a number"),
        (b"\x10\x80", "cut off inside a number"),
        (b"\x08\x01", "Ack.uid is not of type string"),
        (b"\x12\x01a", "Ack.generation is not of type int64"),
        (b"\x15\x00\x00\x00\x00", "Ack.generation is not of type int64"),
        (b"\x0b", "wire type 3"),
    ],
)
def test_malformed_message_is_refused_with_the_reason(data: bytes, problem: str) -> None:
    with pytest.raises(MessageError, match=problem):
        check(data, pb.Ack)


def test_fields_of_a_newer_version_are_let_through() -> None:
    newer = bytes(pb.Ack(uid="u", generation=2)) + b"\xfa\x06\x01x" + b"\x98\x06\x07"
    decoded = Codec().decode(newer, pb.Ack)
    assert isinstance(decoded, pb.Ack)
    assert decoded.generation == 2


def test_message_of_very_many_empty_parts_is_refused() -> None:
    with pytest.raises(MessageError, match=f"more than {FIELDS} fields"):
        check(b"\x22\x00" * (FIELDS + 1), pb.StateReport)


def test_message_of_very_many_unknown_fields_is_refused() -> None:
    with pytest.raises(MessageError, match="too many unknown fields"):
        check(b"\x98\x06\x07" * (UNKNOWN_FIELDS + 1), pb.Ack)


def test_text_that_is_not_utf8_is_refused() -> None:
    with pytest.raises(GRPCError) as caught:
        Codec().decode(b"\x0a\x01\xff", pb.Ack)
    assert caught.value.status is Status.INVALID_ARGUMENT


def test_encoded_message_is_passed_through() -> None:
    assert Codec().encode(Pre(b"as it is"), pb.Update) == b"as it is"


def test_message_of_another_kind_is_not_sent() -> None:
    with pytest.raises(TypeError, match="expected Update, not Ack"):
        Codec().encode(pb.Ack(), pb.Update)
