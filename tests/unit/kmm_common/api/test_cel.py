"""Rules in CEL: what is told, and what stands there if the telling fails."""

from kmm_common.api.cel import each, each_at, excused, on_change, rule, telling


def test_rule_without_placeholders_has_its_text_as_it_is() -> None:
    assert rule("self > 0", "positive {x}") == {"rule": "self > 0", "message": "positive {x}"}


def test_placeholders_are_filled_in_by_cel_and_named_where_that_fails() -> None:
    assert telling("self != ''", 'got "{x}" of {n}: 100%', x="self", n="size(self)") == {
        "rule": "self != ''",
        "messageExpression": r'"got \"%s\" of %s: 100%%".format([self, size(self)])',
        "message": 'got "x" of n: 100%',
    }


def test_rule_for_each_element_tells_of_the_first_that_breaks_it() -> None:
    bad = "self.a.filter(each, !(each.b > 0))"
    assert each("self.a", "each.b > 0", "a[{i}].b is {b}", unless="!has(self.a)", b="each.b") == {
        "rule": "!has(self.a) || self.a.all(each, each.b > 0)",
        "messageExpression": f'"a[%s].b is %s".format([self.a.indexOf({bad}[0]), '
        f"{bad}.map(each, each.b)[0]])",
        "message": "a[i].b is b",
    }


def test_rule_for_each_element_finds_elements_that_equal_nothing_by_their_index() -> None:
    first = "[0, 1].filter(i, i < size(self) && !(self[i].b > 0))[0]"
    assert each_at(2, "self[i].b > 0", "[{i}].b is {b}", b="self[i].b") == {
        "rule": "[0, 1].all(i, i >= size(self) || self[i].b > 0)",
        "messageExpression": f'"[%s].b is %s".format([{first}, [{first}].map(i, self[i].b)[0]])',
        "message": "[i].b is b",
    }


def test_what_was_so_before_excuses() -> None:
    assert excused(rule("self.a", "a"), "oldSelf.value().b") == {
        "rule": "(self.a) || (oldSelf.hasValue() && oldSelf.value().b)",
        "optionalOldSelf": True,
        "message": "a",
    }


def test_rule_about_fields_lets_pass_what_changes_none_of_them() -> None:
    same = [
        f"(has(self.{field}) ? has(oldSelf.value().{field}) && oldSelf.value().{field} == "
        f"self.{field} : !has(oldSelf.value().{field}))"
        for field in ("a", "b.c")
    ]
    made = on_change(rule("self.a > 0", "a"), "a", "b.c")
    assert made["rule"] == f"(self.a > 0) || (oldSelf.hasValue() && {' && '.join(same)})"
