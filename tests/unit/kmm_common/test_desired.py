"""Hashes that two releases agree on."""

from dataclasses import dataclass, fields

from kmm_common.desired import DesiredModule, Modprobe, config_hash, content_hash
from support.desired import desired


@dataclass(frozen=True, slots=True, kw_only=True)
class LaterModprobe(Modprobe):
    """What a later release may make of it."""

    nice: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class LaterModule(DesiredModule):
    """What a later release may make of it."""

    urgency: str = "Normal"


def later(module: DesiredModule, *, urgency: str = "Normal", nice: int = 0) -> DesiredModule:
    """Return a module as a later release knows it."""

    def given(value: object) -> dict[str, object]:
        return {field.name: getattr(value, field.name) for field in fields(value)}  # type: ignore[arg-type]

    modprobe = LaterModprobe(**given(module.modprobe), nice=nice)  # type: ignore[arg-type]
    return LaterModule(**{**given(module), "modprobe": modprobe}, urgency=urgency)  # type: ignore[arg-type]


def test_hashes_are_those_of_every_release_before() -> None:
    """They are in journals, in status and on the wire: another value reloads whole fleets."""
    module = desired(parameters=("a=1",))
    assert config_hash(module) == "8f888bfed1cacfb34313b54634eddc55"
    assert (
        content_hash([module]).hex()
        == "414bff55d12107c096ecce337454e7621e3e9980b70f484df07a25dad8e295da"
    )


def test_field_that_a_later_release_adds_changes_no_hash_until_it_is_set() -> None:
    module = desired(parameters=("a=1",))
    assert config_hash(later(module)) == config_hash(module)
    assert content_hash([later(module)]) == content_hash([module])
    assert config_hash(later(module, nice=1)) != config_hash(module)
    assert content_hash([later(module, urgency="High")]) != content_hash([module])
