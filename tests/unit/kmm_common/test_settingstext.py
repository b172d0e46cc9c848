"""Texts of settings that are taken, and that are not."""

import pytest

from kmm_common.settingstext import parsed


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"a": {"b": 1}, "c": {"b": 1}}', {"a": {"b": 1}, "c": {"b": 1}}),
        ("a: {b: 1}\nc: {b: 1}", {"a": {"b": 1}, "c": {"b": 1}}),
        ("a: &a {b: 1, d: 2}\nc: {<<: *a, b: 3}", {"a": {"b": 1, "d": 2}, "c": {"b": 3, "d": 2}}),
        (
            "x: &x {b: 1}\ny: {z: &z {<<: *x, b: 2}}\nc: {<<: *z}",
            {"x": {"b": 1}, "y": {"z": {"b": 2}}, "c": {"b": 2}},
        ),
        ("", None),
        (":8443", ":8443"),
    ],
)
def test_yaml_and_json_are_read(text: str, said: object) -> None:
    assert parsed(text) == said


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{"a": 1, "a": 2}', r"^a: given twice; remove one$"),
        ('{"tls": {"ca": 1, "ca": 1}}', r"^ca: given twice; remove one$"),
        ("a: 1\nb: 2\na: 3", r"^a: given twice \(line 3\); remove one$"),
        ("tls:\n  ca: 1\n  'ca': 1", r"^ca: given twice \(line 3\); remove one$"),
        pytest.param("[" * 100_000, "^nested too deeply$", id="deep JSON"),
        pytest.param("a: " + "[" * 20_000, "^nested too deeply$", id="deep YAML"),
        ('a: !!python/object/apply:os.system ["true"]', "could not determine a constructor"),
        ("a: [", r"line 1, column 5"),
    ],
)
def test_what_cannot_be_taken_is_told(text: str, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        parsed(text)
