"""Objects of Kubernetes as the text of a Helm template, with values and conditions in it."""

import difflib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import yaml

INDENT = 2


@dataclass(frozen=True, slots=True)
class Inline:
    """What an expression gives, in place of a scalar."""

    expression: str


@dataclass(frozen=True, slots=True)
class With:
    """A key, or an item, that is there only if an expression gives something."""

    expression: str
    inline: bool = False
    """What it gives is a scalar."""


@dataclass(frozen=True, slots=True)
class Block:
    """Lines that an expression gives: more keys if the entry has no key, else what is below it."""

    expression: str
    literal: bool = False
    """What it gives is one string."""


@dataclass(slots=True)
class Entry:
    """One item of a list, or one key of a mapping; `condition` is empty if it is always there."""

    node: Any
    key: str = ""
    condition: str = ""


@dataclass(slots=True)
class Mapping:
    """A mapping, or a list (`listed`), part of which depends on values."""

    entries: list[Entry] = field(default_factory=list)
    listed: bool = False

    def find(self, step: str) -> Entry:
        """Return the entry of a key; of a list, the item of a name or number. KeyError if none."""
        for number, entry in enumerate(self.entries):
            if step in (_name(entry.node), str(number)) if self.listed else step == entry.key:
                return entry
        raise KeyError(step)


def _name(node: Any) -> str:
    if isinstance(node, Mapping) and not node.listed:
        return next((str(entry.node) for entry in node.entries if entry.key == "name"), "")
    return ""


def tree(value: Any) -> Any:
    """Return an object of which nothing depends on values yet."""
    if isinstance(value, dict):
        return Mapping([Entry(tree(one), key) for key, one in value.items()])
    if isinstance(value, list):
        return Mapping([Entry(tree(one)) for one in value], listed=True)
    return value


def merged(left: Any, right: Any, conditions: tuple[str, str]) -> Any:
    """Return both of two variants, of which each condition chooses one where they differ."""
    if isinstance(left, dict):
        return Mapping(list(_merged_keys(left, right, conditions)))
    if isinstance(left, list):
        return Mapping(list(_merged_items(left, right, conditions)), listed=True)
    return left


def _merged_keys(
    left: dict[str, Any], right: dict[str, Any], conditions: tuple[str, str]
) -> Iterator[Entry]:
    for key in [*left, *(key for key in right if key not in left)]:
        if key in left and key in right and _alike(left[key], right[key]):
            yield Entry(merged(left[key], right[key], conditions), key)
            continue
        for side, condition in zip((left, right), conditions, strict=True):
            if key in side:
                yield Entry(tree(side[key]), key, condition)


def _alike(left: Any, right: Any) -> bool:
    return left == right or (type(left) is type(right) and isinstance(left, dict | list))


def _merged_items(
    left: list[Any], right: list[Any], conditions: tuple[str, str]
) -> Iterator[Entry]:
    matcher = difflib.SequenceMatcher(None, _identities(left), _identities(right), autojunk=False)
    for tag, start, end, other_start, other_end in matcher.get_opcodes():
        if tag == "equal":
            pairs = zip(left[start:end], right[other_start:other_end], strict=True)
            yield from (Entry(merged(one, other, conditions)) for one, other in pairs)
        elif len(left) == len(right) == 1 and _alike(left[0], right[0]):
            yield Entry(merged(left[0], right[0], conditions))
        else:
            yield from (Entry(tree(one), "", conditions[0]) for one in left[start:end])
            yield from (Entry(tree(one), "", conditions[1]) for one in right[other_start:other_end])


def _identities(items: list[Any]) -> list[str]:
    """Return by what items are known: their names, else all that they are."""
    named = (isinstance(item, dict) and item.get("name") for item in items)
    return [name or json.dumps(item) for name, item in zip(named, items, strict=True)]


@dataclass(frozen=True, slots=True)
class Extra:
    """What objects have besides, or differently, where a value asks for it."""

    condition: str
    """Of the value."""
    within: str = ""
    """The variant in which they have it; empty for all of them."""

    @property
    def both(self) -> str:
        """The condition of what only this variant has."""
        return f"and {self.condition} ({self.within})" if self.within else self.condition

    def extend(self, root: Mapping, base: Any, more: Any) -> None:
        """Put into the tree of an object what `more` has besides `base`. Nothing may be missing."""
        if isinstance(base, dict):
            self._keys(root, base, more)
        else:
            self._items(root, base, more)

    def _keys(self, root: Mapping, base: dict[str, Any], more: dict[str, Any]) -> None:
        for key, value in more.items():
            if key not in base:
                self._insert(root, Entry(tree(value), key), len(root.entries))
            elif base[key] != value and _alike(base[key], value):
                self.extend(self._found(root, key).node, base[key], value)
            elif base[key] != value:
                there = self._found(root, key)
                there.condition = f"not {self.condition}"
                self._insert(root, Entry(tree(value), key), root.entries.index(there) + 1)

    def _items(self, root: Mapping, base: list[Any], more: list[Any]) -> None:
        names, old = _identities(more), dict(zip(_identities(base), base, strict=True))
        for number, (name, item) in enumerate(zip(names, more, strict=True)):
            if name not in old:
                self._insert(root, Entry(tree(item)), _before(root, names[number + 1 :]))
            elif old[name] != item:
                self.extend(self._found(root, name).node, old[name], item)

    def _found(self, root: Mapping, step: str) -> Entry:
        """Return the entry of a key, or the item of a name, that this variant has."""
        ours = (entry for entry in root.entries if entry.condition in ("", self.within))
        return next(entry for entry in ours if step in (entry.key, _name(entry.node)))

    def _insert(self, root: Mapping, entry: Entry, position: int) -> None:
        for there in root.entries:
            if (there.key, there.node) == (entry.key, entry.node):
                there.condition = self.condition
                return
        entry.condition = self.both
        root.entries.insert(position, entry)


def _before(root: Mapping, names: Sequence[str]) -> int:
    """Return where in a list the first of these items is; its end if none is there."""
    known = {_name(entry.node): number for number, entry in reversed([*enumerate(root.entries)])}
    return next((known[name] for name in names if name in known), len(root.entries))


@dataclass(frozen=True, slots=True)
class Writer:
    """Writes trees as text; `escape` makes of any text one that Helm renders as it should be."""

    escape: Callable[[str], str]

    def scalar(self, value: Any) -> str:
        """Return a scalar in YAML, on one line."""
        if isinstance(value, str) and ("\n" in value or self.escape(value) != value):
            return self.escape(json.dumps(value, ensure_ascii=False))
        return yaml.safe_dump(value, width=10**9, allow_unicode=True).removesuffix("...\n").strip()

    def lines(self, node: Mapping, depth: int = 0) -> list[str]:
        """Return the lines of a mapping or a list at a depth of columns."""
        found = list[str]()
        for condition, entries in groupby(node.entries, key=lambda entry: entry.condition):
            inner = [line for each in entries for line in self._entry(each, node.listed, depth)]
            found += when(condition, inner)
        return found

    def _entry(self, entry: Entry, listed: bool, depth: int) -> list[str]:
        if isinstance(entry.node, With):
            return _with(entry.node, entry.key, depth)
        if isinstance(entry.node, Block) and not entry.key:
            return [_block(entry.node.expression, depth)]
        return (
            self._item(entry.node, depth) if listed else self._value(entry.key, entry.node, depth)
        )

    def _item(self, node: Any, depth: int) -> list[str]:
        if not isinstance(node, Mapping):
            return [f"{' ' * depth}- {self._inline(node)}"]
        lines = self.lines(node, depth + INDENT)
        first = next(number for number, line in enumerate(lines) if line[:1] == " ")
        lines[first] = f"{' ' * depth}- {lines[first].lstrip()}"
        return lines

    def _value(self, key: str, node: Any, depth: int) -> list[str]:
        head = f"{' ' * depth}{self.scalar(key)}:"
        inner = depth + INDENT
        if isinstance(node, Block):
            return [f"{head} |" if node.literal else head, _block(node.expression, inner)]
        if isinstance(node, Mapping) and node.entries:
            return [head, *self.lines(node, inner)]
        if isinstance(node, str) and "\n" in node:
            return [f"{head} {_chomping(node)}", *self._text(node, inner)]
        return [f"{head} {self._inline(node)}"]

    def _inline(self, node: Any) -> str:
        if isinstance(node, Inline):
            return f"{{{{ {node.expression} }}}}"
        if isinstance(node, Mapping):
            return "[]" if node.listed else "{}"
        return self.scalar(node)

    def _text(self, text: str, depth: int) -> list[str]:
        lines = self.escape(text).rstrip("\n").split("\n")
        return [f"{' ' * depth}{line}".rstrip() for line in lines]


def _with(node: With, key: str, depth: int) -> list[str]:
    if node.inline:
        body = [f"{' ' * depth}{key}: {{{{ . | quote }}}}"]
    elif key:
        body = [f"{' ' * depth}{key}:", _block("toYaml .", depth + INDENT)]
    else:
        body = [_block("toYaml .", depth)]
    return when(node.expression, body, keyword="with")


def _block(expression: str, depth: int) -> str:
    return f"{' ' * depth}{{{{- {expression} | nindent {depth} }}}}"


def _chomping(text: str) -> str:
    return "|" if text.endswith("\n") else "|-"


def when(condition: str, lines: Sequence[str], keyword: str = "if") -> list[str]:
    """Return lines that are there only under a condition, if there is one."""
    if not condition:
        return list(lines)
    return [f"{{{{- {keyword} {condition} }}}}", *lines, "{{- end }}"]


def escaped(text: str) -> str:
    """Return text of which Helm leaves every brace as it is."""
    return text.replace("{{", '{{ "{{" }}')
