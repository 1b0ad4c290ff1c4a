"""Options from a file: what ``--config`` reads and ``--print-config`` writes.

```yaml
audit:                    # a command
  seeds: 4                # its options by their long names, its arguments by theirs
  prompts: works.csv      # from the working directory, as on the command line
locate:
  option: {share: 0.01}   # or [share=0.01]
testbed:
  build: {seed: 1}
```
"""

import tomllib
from collections.abc import Callable, Mapping
from enum import Enum
from pathlib import Path
from typing import Any

import yaml

from amnestic.core.errors import InputError
from amnestic.core.names import did_you_mean

Reader = Callable[[str], Any]
READERS: Mapping[str, Reader] = {
    ".yaml": yaml.safe_load, ".yml": yaml.safe_load, ".json": yaml.safe_load, ".toml": tomllib.loads,
}  # fmt: skip


def key_of(param: Any) -> str:  # noqa: ANN401 - an option or argument; typer does not publish their types
    """Name of an option or argument in a file: that of the command line without dashes in front.

    Args:
        param: Option or argument of a command.
    """
    longest: str = max(param.opts, key=len)
    return longest.lstrip("-").replace("_", "-")


def defaults_from(file: Path, tree: Any) -> dict[str, Any]:  # noqa: ANN401 - a typer group
    """What a file says, as the defaults of a tree of commands.

    Args:
        file: YAML, TOML or JSON.
        tree: All commands.

    Returns:
        Values by command and name of the parameter, nested as the commands are.

    Raises:
        InputError: If the file cannot be read, names what there is not, or a value has the wrong shape.
    """
    if file.suffix not in READERS:
        raise InputError(f"expected a config file that ends in .yaml, .toml or .json, got {file}")
    try:
        content = READERS[file.suffix](file.read_text("utf-8"))
    except OSError as error:
        raise InputError(f"expected a config file at {file}, which cannot be read ({error.strerror})") from error
    except (ValueError, yaml.YAMLError, RecursionError) as error:
        raise InputError(f"{file} is no {file.suffix[1:]} ({' '.join(str(error).split())})") from error
    return _commands(tree, {} if content is None else content, f"{file}:")


def resolved(command: Any, values: Mapping[str, Any]) -> dict[str, Any]:  # noqa: ANN401 - a typer command
    """Effective options of a command as a file would hold them; what has no value is left out.

    Args:
        command: The command.
        values: Values by name of the parameter.

    Returns:
        Plain values by option.
    """
    found = {key_of(p): _plain(values.get(p.name)) for p in command.params if p.name in values}
    return {key: value for key, value in found.items() if value not in (None, [])}


def _commands(group: Any, content: Any, where: str) -> dict[str, Any]:  # noqa: ANN401
    found = {}
    for name, inside in _mapping(content, f"{where} expected commands").items():
        if name not in group.commands:
            raise InputError(f"{where} there is no command {name}{did_you_mean(name, group.commands)}")
        command, place = group.commands[name], f"{where} {name}:"
        within = _commands if hasattr(command, "commands") else _options
        found[name] = within(command, {} if inside is None else inside, place)
    return found


def _options(command: Any, content: Any, where: str) -> dict[str, Any]:  # noqa: ANN401
    known = {key_of(param): param for param in command.params if param.expose_value}
    found = {}
    for name, value in _mapping(content, f"{where} expected options").items():
        key = name.replace("_", "-")
        if key not in known:
            raise InputError(f"{where} {command.name} has no option {name}{did_you_mean(key, known)}")
        if value is not None:
            found[known[key].name] = _value(known[key], value, f"{where} {name}:")
    return found


def _mapping(content: Any, expected: str) -> dict[str, Any]:  # noqa: ANN401
    if not isinstance(content, dict):
        raise InputError(f"{expected} such as NAME: VALUE, got {_short(content)}")
    return {str(name): value for name, value in content.items()}


def _value(param: Any, value: Any, where: str) -> Any:  # noqa: ANN401
    """As the command line would give it: words, which the option's own type then checks."""
    if getattr(param, "is_bool_flag", False):
        if not isinstance(value, bool):
            raise InputError(f"{where} expected true or false, got {_short(value)}")
        return value
    if param.multiple or param.nargs != 1:
        if isinstance(value, dict):
            return [f"{key}={_word(inside, where)}" for key, inside in value.items()]
        return [_word(one, where) for one in (value if isinstance(value, list) else [value])]
    if isinstance(value, list | dict):
        raise InputError(f"{where} expected one value, got {_short(value)}")
    return _word(value, where)


def _word(value: Any, where: str) -> str:  # noqa: ANN401
    if isinstance(value, list | dict):
        return yaml.safe_dump(value, default_flow_style=True, width=float("inf")).strip()
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)


def _short(value: Any) -> str:  # noqa: ANN401
    text = str(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def _plain(value: Any) -> Any:  # noqa: ANN401
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return str(value) if isinstance(value, Path) else value
