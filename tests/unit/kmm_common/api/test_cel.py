"""Rules in CEL: what is told, and what stands there if the telling fails."""

from kmm_common.api.cel import each, rule, telling


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
