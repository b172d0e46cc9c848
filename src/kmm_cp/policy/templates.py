"""Variables in image names: $V, ${V}, ${V:-other} and their kin, as upstream reads them."""

import re
from collections.abc import Mapping

from kmm_common.api.names import Reason
from kmm_common.errors import TerminalError

_TOKEN = re.compile(
    r"\$(?:(?P<dollar>\$)|(?P<name>\w+)|\{(?P<content>[^}\r\n]*)(?P<closed>\})?)", re.ASCII
)
_CONTENT = re.compile(r"(?P<name>\w+)(?:(?P<operator>:?[-=+])(?P<other>.+))?.*", re.ASCII)
_VARIABLE = re.compile(r"\$(?P<name>\w+)", re.ASCII)


def substituted(template: str, variables: Mapping[str, str], *, field: str) -> str:
    """Return the template with its variables replaced; one that is not set becomes empty.

    `$$` stands for one dollar. `${V-other}`, `${V=other}`: other if V is not set; with a colon
    also if V is empty. `${V+other}`: other if V is set, else nothing. `other` is text or one
    `$W`. Raises TerminalError, which names the field, for a `${` that is not closed or nested.
    """

    def replacement(token: re.Match[str]) -> str:
        if token["dollar"]:
            return "$"
        if token["name"]:
            return variables.get(token["name"], "")
        if not token["closed"]:
            raise _refused(field, template, "a ${ is not closed: add the }")
        if "${" in token["content"]:
            raise _refused(field, template, "a ${ is inside another: write $NAME there")
        return _expression(token, variables)

    return _TOKEN.sub(replacement, template)


def _expression(token: re.Match[str], variables: Mapping[str, str]) -> str:
    content = _CONTENT.fullmatch(token["content"])
    if content is None:
        return token[0]
    value = variables.get(content["name"])
    match content["operator"]:
        case "+" | ":+":
            return "" if value is None else _alternative(content["other"], variables)
        case ":-" | ":=":
            return value or _alternative(content["other"], variables)
        case "-" | "=" if value is None:
            return _alternative(content["other"], variables)
    return value or ""


def _alternative(text: str, variables: Mapping[str, str]) -> str:
    variable = _VARIABLE.fullmatch(text)
    return variables.get(variable["name"], "") if variable else text


def _refused(field: str, template: str, problem: str) -> TerminalError:
    return TerminalError(f"{field}: {template!r}: {problem}", reason=Reason.INVALID_TEMPLATE)
