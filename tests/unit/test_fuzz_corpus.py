"""Every input that fuzzing starts from, or once found, keeps its parser's promises."""

from pathlib import Path

import pytest

from fuzz.targets import CORPUS, TARGETS

INPUTS = [(name, path) for name in TARGETS for path in sorted((CORPUS / name).iterdir())]


@pytest.mark.parametrize(
    ("target", "path"), INPUTS, ids=[f"{name}-{path.name}" for name, path in INPUTS]
)
def test_kept_input_is_taken_or_refused_in_words(target: str, path: Path) -> None:
    TARGETS[target].run(path.read_bytes())


def test_every_target_has_inputs_to_start_from() -> None:
    assert {name for name, _ in INPUTS} == set(TARGETS)
