"""Validation rules of a CRD: a CEL expression, and the text for whoever breaks it.

A text may have placeholders, `Toleration[{i}]`. The API server fills them in by a CEL expression;
should that fail at run time, the placeholders' names stand there instead (`Toleration[i]`). That is
also the form in which docs/reference/validation.md lists the text.
"""

import json
from string import Formatter
from typing import Any

Rule = dict[str, Any]
"""An element of x-kubernetes-validations."""


def rule(expression: str, text: str) -> Rule:
    """Return a rule whose text is always the same."""
    return {"rule": expression, "message": text}


def telling(expression: str, text: str, **values: str) -> Rule:
    """Return a rule whose text tells what is wrong: `values` are in CEL, by placeholder."""
    return {
        "rule": expression,
        "messageExpression": _filled_in(text, values),
        "message": text.format(**{name: name for name in values}),
    }


def each(items: str, condition: str, text: str, *, unless: str = "", **values: str) -> Rule:
    """Return a rule for all elements of a list, whose text tells of the first that breaks it.

    `condition` and `values` call the element `each`; the placeholder {i} is its index. There must
    be nothing of Kubernetes' own types (meta.Opaque) in the elements: what is no part of the schema
    never equals itself in CEL, so that indexOf() does not find it.
    """
    bad = f"{items}.filter(each, !({condition}))"
    filled = {name: f"{bad}.map(each, {value})[0]" for name, value in values.items()}
    if "{i}" in text:
        filled["i"] = f"{items}.indexOf({bad}[0])"
    wanted = f"{items}.all(each, {condition})"
    return telling(f"{unless} || {wanted}" if unless else wanted, text, **filled)


def each_at(most: int, condition: str, text: str, **values: str) -> Rule:
    """Return a rule for all elements of a list of `most` at most, whatever is in the elements.

    `condition` and `values` speak of self[i]; elsewhere as each().
    """
    indexes = f"{list(range(most))}"
    first = f"{indexes}.filter(i, i < size(self) && !({condition}))[0]"
    filled = {name: f"[{first}].map(i, {value})[0]" for name, value in values.items()}
    wanted = f"{indexes}.all(i, i >= size(self) || {condition})"
    return telling(wanted, text, i=first, **filled)


def excused(found: Rule, before: str) -> Rule:
    """Return a rule that an object may break if `before` is true of what it was: oldSelf.value().

    The API server itself lets pass what breaks a rule and is unchanged, but only as a whole: one
    that is older than a rule about two of its fields could not change a third. And a rule that has
    an excuse does without the API server's: it must let pass whatever is unchanged.
    """
    expression = f"({found['rule']}) || (oldSelf.hasValue() && {before})"
    return {**found, "rule": expression, "optionalOldSelf": True}


def on_change(found: Rule, *fields: str) -> Rule:
    """Return a rule about some fields of an object, for a new one and when one of them changes.

    There must be nothing of Kubernetes' own types in the fields either.
    """
    return excused(found, " && ".join(map(_same, fields)))


def _same(field: str) -> str:
    """Return what tells in CEL whether a field is as before.

    Not `oldSelf.?field == self.?field`: of optional values the API server estimates no size, and
    takes a comparison for endless if it has none of either side.
    """
    old, new = f"oldSelf.value().{field}", f"self.{field}"
    return f"(has({new}) ? has({old}) && {old} == {new} : !has({old}))"


def _filled_in(text: str, values: dict[str, str]) -> str:
    """Return the text as a CEL expression.

    format() and not +: the API server estimates the cost of + by the longest possible strings, and
    takes a number, or what filter() found, for endless.
    """
    pattern, wanted = "", list[str]()
    for literal, name, *_ in Formatter().parse(text):
        pattern += literal.replace("%", "%%")
        if name:
            pattern += "%s"
            wanted.append(values[name])
    # CEL takes the escapes of JSON.
    return f"{json.dumps(pattern)}.format([{', '.join(wanted)}])"
