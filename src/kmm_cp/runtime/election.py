"""Who may lead: decided from one record that all candidates share and their own clocks. Pure.

No two clocks are ever compared. Who leads counts from before it asked for a renewal; who waits
counts from after it has seen one. So the one has stopped before the other may begin.
"""

from dataclasses import dataclass, replace

from kmm_common.errors import TransientError


class ChangedError(TransientError):
    """The record is not any more what it was when it was seen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Times in seconds; each less than the one before."""

    duration: float = 15.0
    """After which a record that does not change is anybody's."""
    renew_deadline: float = 10.0
    """After which a leader that could not renew the record leads no more."""
    retry_period: float = 2.0
    """Between two looks of a candidate, or two renewals of a leader."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What candidates share."""

    holder: str
    """Empty after a leader has stepped down."""
    duration: float
    """What the holder asks others to wait for, in seconds."""
    transitions: int
    """How often it went to another holder."""
    stamp: str = ""
    """Another one with each renewal; nothing is read into it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sight:
    """What a candidate has seen, and since when it is so by the candidate's own clock."""

    record: Record
    since: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """The decision to write this record."""

    record: Record


@dataclass(frozen=True, slots=True, kw_only=True)
class Wait:
    """The decision to look again in so many seconds."""

    seconds: float


def seen(before: Sight | None, record: Record | None, now: float) -> Sight | None:
    """Return the sight after a look that ended now.

    A record that somebody has deleted is as if it had not changed: its holder may still lead.
    """
    if record is None or (before is not None and before.record == record):
        return before
    return Sight(record=record, since=now)


def decide(
    sight: Sight | None, *, identity: str, term: int | None, now: float, timing: Timing
) -> Claim | Wait:
    """Return what a candidate does about what it has seen.

    `term` is the number of transitions that its own claim had last; None before its first look:
    a record with its name is then of a life that is over, and needs no waiting for.
    """
    if sight is None:
        return Claim(record=_record(identity, 0, timing))
    record = sight.record
    if record.holder == identity and record.transitions == term:
        return Claim(record=_record(identity, record.transitions, timing))
    former_life = record.holder == identity and term is None
    left = sight.since + (record.duration or timing.duration) - now
    if record.holder and not former_life and left > 0:
        return Wait(seconds=min(left, timing.retry_period))
    return Claim(record=_record(identity, record.transitions + 1, timing))


def released(record: Record) -> Record:
    """Return what a leader leaves behind: anybody may take it at once."""
    return replace(record, holder="", duration=1.0)


def _record(identity: str, transitions: int, timing: Timing) -> Record:
    return Record(holder=identity, duration=timing.duration, transitions=transitions)
