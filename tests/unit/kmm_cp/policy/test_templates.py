"""Variables in image names."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kmm_common.errors import TerminalError
from kmm_cp.policy.templates import substituted

KNOWN = {"V": "value", "W": "other", "EMPTY": "", "V2": "longer"}


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("", ""),
        ("plain:1", "plain:1"),
        ("$V", "value"),
        ("a-$V-b", "a-value-b"),
        ("$V2", "longer"),
        ("$V.x", "value.x"),
        ("$V$W", "valueother"),
        ("${V}", "value"),
        ("${V}2", "value2"),
        ("x/${V}:${W}", "x/value:other"),
        ("$UNSET:1", ":1"),
        ("${UNSET}:1", ":1"),
        ("${EMPTY}", ""),
        ("$", "$"),
        ("a$:b", "a$:b"),
        ("$$V", "$V"),
        ("$${V}", "${V}"),
        ("$$$V", "$value"),
        ("}{", "}{"),
        ("${}", "${}"),
        ("${-x}", "${-x}"),
        ("${V:-x}", "value"),
        ("${EMPTY:-x}", "x"),
        ("${UNSET:-x}", "x"),
        ("${UNSET:-a-b:c/d}", "a-b:c/d"),
        ("${UNSET:-$W}", "other"),
        ("${UNSET:-$NONE}", ""),
        ("${UNSET:-}", ""),
        ("${V:=x}", "value"),
        ("${EMPTY:=x}", "x"),
        ("${V-x}", "value"),
        ("${EMPTY-x}", ""),
        ("${UNSET-x}", "x"),
        ("${UNSET=x}", "x"),
        ("${EMPTY=x}", ""),
        ("${V+x}", "x"),
        ("${EMPTY+x}", "x"),
        ("${UNSET+x}", ""),
        ("${V:+$W}", "other"),
        ("${UNSET:+x}", ""),
        ("${V+}", "value"),
        ("${V%.x86_64}", "value"),
        ("${V:x}", "value"),
    ],
)
def test_variables_are_replaced(template, expected):
    assert substituted(template, KNOWN, field="f") == expected


@pytest.mark.parametrize("template", ["${", "x${V", "${V:-x", "${V\n}", "$V${W:-", "${V}${"])
def test_an_unclosed_brace_is_refused_by_field(template):
    with pytest.raises(TerminalError, match=r"spec\.x: .*not closed") as refused:
        substituted(template, KNOWN, field="spec.x")
    assert refused.value.reason == "InvalidTemplate"


def test_a_brace_in_a_brace_is_refused_by_field():
    with pytest.raises(TerminalError, match=r"spec\.x: .*inside another"):
        substituted("${UNSET:-${W}}", KNOWN, field="spec.x")


@given(st.text(st.characters(exclude_characters="$")))
def test_text_without_dollars_stays_as_it_is(text):
    assert substituted(text, KNOWN, field="f") == text


@given(st.text("$V{}:-+=x\n"))
def test_any_text_gives_text_or_the_error_that_names_the_field(text):
    try:
        assert isinstance(substituted(text, KNOWN, field="spec.x"), str)
    except TerminalError as error:
        assert str(error).startswith("spec.x: ")


@given(st.text())
def test_doubled_dollars_come_back_single(text):
    assert substituted(text.replace("$", "$$"), KNOWN, field="f") == text
