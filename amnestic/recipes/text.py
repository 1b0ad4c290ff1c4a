"""The text of a recipe as plain values: YAML or TOML, hostile until shown otherwise."""

import tomllib

import yaml

from amnestic.core.errors import InputError

MOST_DEPTH = 20

At = tuple[str | int, ...]
"""Keys and numbers of entries that lead to a value."""


def from_toml(text: str, name: str) -> tuple[object, dict[At, int]]:
    """The values in a TOML text; it keeps no lines.

    Raises:
        InputError: If it is none.
    """
    try:
        return tomllib.loads(text), {}
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise InputError(f"{name} is no TOML ({_flat(error)}); correct it") from error


def from_yaml(text: str, name: str) -> tuple[object, dict[At, int]]:
    """The values in a YAML text, and the lines of its keys and entries; plain data only, which is never code.

    Args:
        text: The text.
        name: What it is called in messages.

    Raises:
        InputError: If it is none, holds tags, anchors or aliases, is nested too deeply, or a key stands twice.
    """
    try:
        _require_plain(text, name)
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        lines: dict[At, int] = {}
        if node is not None:
            _note_lines(node, (), lines, name)
        return yaml.safe_load(text), lines
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InputError(f"{name} is no YAML ({_flat(error)}); correct it") from error


def _require_plain(text: str, name: str) -> None:
    """Refuse what is more than plain data, before anything is built of it."""
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        line = f"{name}, line {event.start_mark.line + 1 if event.start_mark else '?'}"
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise InputError(f"{line}: recipes have no anchors and aliases; use variables instead")
        if tag := getattr(event, "tag", None):
            raise InputError(f"{line}: recipes have no tags, got {shown(tag)}; write plain values")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MOST_DEPTH:
            raise InputError(f"{line}: expected at most {MOST_DEPTH} levels, got more; write it flatter")


def _note_lines(node: yaml.Node, at: At, lines: dict[At, int], name: str) -> None:
    """Lines of keys and entries; a key that stands twice, of which one would be lost, is refused."""
    lines[at] = node.start_mark.line + 1
    if isinstance(node, yaml.SequenceNode):
        for i, one in enumerate(node.value):
            _note_lines(one, (*at, i), lines, name)
    elif isinstance(node, yaml.MappingNode):
        for key, one in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode) or key.tag != "tag:yaml.org,2002:str":
                raise InputError(f"{name}, line {line}: expected a name before the colon, got something else; quote it")
            place = (*at, key.value)
            if place in lines:
                raise InputError(f"{name}, line {line}: {shown(key.value)} stands there twice; keep one of them")
            _note_lines(one, place, lines, name)
            lines[place] = line


def _flat(error: BaseException) -> str:
    told = " ".join(str(error).split()) or type(error).__name__
    return told if len(told) <= 200 else told[:197] + "..."


def shown(value: object) -> str:
    """A value for a message: control characters escaped, length bounded."""
    text = repr(str(value)) if isinstance(value, str) else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
