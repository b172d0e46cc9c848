"""The commands that pages of docs/ show, and what is wrong with them. Nothing of them is run."""

import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from kmm_sandbox.binaries import find_kubectl
from kmm_sandbox.errors import SandboxError
from kmm_sandbox.processes import run

PROGRAMS = ("kubectl", "make", "helm", "kmm", "kmm-daemon")
_COMMAND = re.compile(rf"(?:{'|'.join(PROGRAMS)}) \S")
_ENDS = ("|", "&&", "&", ";", ">", "<", "2>", "#", "\\")
_FENCED = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
_INDENTED = re.compile(r"(?:^    .*\n)+", re.MULTILINE)
_INLINE = re.compile(r"`([^`]+)`")
_FLAG = re.compile(r"^\s+(?:-(\w), )?--([\w-]+)=(.*):$", re.MULTILINE)
_OF_RESOURCES = ("annotate", "delete", "describe", "edit", "get", "label", "patch", "wait")
_LIMIT_SECONDS = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """A command with what stands before a pipe, a comment or the line's end."""

    page: Path
    words: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.page.name}: {' '.join(self.words)}"


def commands(page: Path) -> Iterator[Command]:
    """Yield the commands of our programs, and of those that go with them, of one page."""
    text = page.read_text()
    for language, block in _FENCED.findall(text):
        if language in ("", "sh", "console"):
            yield from _of_block(page, block)
    rest = _FENCED.sub("", text)
    for block in _INDENTED.findall(rest):
        yield from _of_block(page, block)
    for code in _INLINE.findall(_INDENTED.sub("", rest).replace("\n", " ")):
        yield from _parsed(page, code)


def _of_block(page: Path, block: str) -> Iterator[Command]:
    for line in block.replace("\\\n", " ").splitlines():
        yield from _parsed(page, line.strip().removeprefix("$ "))


def _parsed(page: Path, line: str) -> Iterator[Command]:
    if not _COMMAND.match(line):
        return
    words = shlex.split(line, comments=True)
    end = next((at for at, word in enumerate(words) if word in _ENDS), len(words))
    # A program alone is a name, not a command.
    if end > 1:
        yield Command(page=page, words=tuple(words[:end]))


@cache
def _help(*verbs: str) -> str:
    return run([str(find_kubectl()), *verbs, "--help"], limit=_LIMIT_SECONDS)


@cache
def _options() -> str:
    return run([str(find_kubectl()), "options"], limit=_LIMIT_SECONDS)


@dataclass(frozen=True, slots=True)
class _Flags:
    """Which flags a command of kubectl has, and which of them take no value."""

    known: frozenset[str]
    switches: frozenset[str]

    @classmethod
    def of(cls, verbs: Sequence[str]) -> "_Flags":
        found = _FLAG.findall(_help(*verbs) + _options())
        names = [(f"-{short}" if short else "", f"--{long}", value) for short, long, value in found]
        return cls(
            frozenset(name for short, long, _ in names for name in (short, long) if name),
            frozenset(
                name
                for short, long, value in names
                for name in (short, long)
                if name and value in ("true", "false")
            ),
        )


def kubectl_problem(command: Command, resources: frozenset[str]) -> str:
    """Return what kubectl would not take; empty if it takes it. `resources` are all that exist."""
    words = command.words[1:]
    # Global options may stand before the verb.
    before, rest = _split(words, _Flags.of(("get",)))
    if not rest:
        return "it has no verb"
    try:
        verbs = _verbs(rest)
    except SandboxError as error:
        return str(error)
    flags = _Flags.of(verbs)
    given, arguments = _read((*before, *rest[len(verbs) :]), flags)
    if unknown := [flag for flag in given if flag not in flags.known]:
        return f"no such flags: {unknown}"
    if verbs[0] in _OF_RESOURCES and arguments:
        named = [one.partition("/")[0] for one in arguments[0].split(",")]
        if unknown := [one for one in named if one not in resources]:
            return f"no such resources: {unknown}"
    return ""


def _split(words: Sequence[str], flags: _Flags) -> tuple[tuple[str, ...], tuple[str, ...]]:
    at = 0
    while at < len(words) and words[at].startswith("-"):
        at += 1 if "=" in words[at] or words[at] in flags.switches else 2
    return tuple(words[:at]), tuple(words[at:])


def _verbs(words: Sequence[str]) -> tuple[str, ...]:
    """Return the verb, and those below it where it is a group. SandboxError if it has none."""
    verbs = tuple(words[:1])
    while "Available Commands:" in _help(*verbs):
        below = words[len(verbs) : len(verbs) + 1]
        if not below or below[0].startswith("-"):
            break
        verbs = (*verbs, *below)
    return verbs


def _read(words: Sequence[str], flags: _Flags) -> tuple[list[str], list[str]]:
    """Return flags and other arguments, of which those behind `--` are not kubectl's."""
    given, arguments = list[str](), list[str]()
    takes_value = False
    for word in words:
        if word == "--":
            break
        if takes_value:
            takes_value = False
        elif word.startswith("-"):
            name, _, value = word.partition("=")
            given.append(name)
            takes_value = not value and name not in flags.switches
        else:
            arguments.append(word)
    return given, arguments
