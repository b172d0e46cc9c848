"""What the text of a settings file or variable says, in YAML or JSON; a key is given once only."""

import json
from collections.abc import Sequence
from typing import Any


def parsed(text: str) -> Any:
    """Return what YAML or JSON says. ValueError, also where a key is given twice.

    PyYAML is imported only for what is no JSON: an idle daemon pays 1 MiB for it, on every node.
    """
    try:
        return json.loads(text, object_pairs_hook=_once)
    except _TwiceError:
        raise
    except ValueError:
        return _parsed_yaml(text)
    except RecursionError as error:
        raise ValueError(_DEEP) from error


_DEEP = "nested too deeply"


class _TwiceError(ValueError):
    """A key is given twice: the last one would win, without a word."""


def _twice(key: str, place: str = "") -> _TwiceError:
    return _TwiceError(f"{key}: given twice{place}; remove one")


def _once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise _twice(key)
        found[key] = value
    return found


def _parsed_yaml(text: str) -> Any:
    import yaml

    class Loader(yaml.SafeLoader):
        def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
            # Keys are merged (<<) later, beside those that they give way to.
            node = super().compose_mapping_node(anchor)
            seen: set[str] = set()
            for key, _ in node.value:
                if isinstance(key, yaml.ScalarNode):
                    if key.value in seen:
                        raise _twice(key.value, f" (line {key.start_mark.line + 1})")
                    seen.add(key.value)
            return node

    try:
        return yaml.load(text, Loader)  # noqa: S506 - it is a SafeLoader
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error
    except RecursionError as error:
        raise ValueError(_DEEP) from error
