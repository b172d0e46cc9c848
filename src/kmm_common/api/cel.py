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

    `condition` and `values` call the element `each`; the placeholder {i} is its index.
    """
    bad = f"{items}.filter(each, !({condition}))"
    filled = {name: f"{bad}.map(each, {value})[0]" for name, value in values.items()}
    if "{i}" in text:
        filled["i"] = f"{items}.indexOf({bad}[0])"
    wanted = f"{items}.all(each, {condition})"
    return telling(f"{unless} || {wanted}" if unless else wanted, text, **filled)


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
