"""Names: what a person may have meant, and what others are told instead of a path on this machine."""

import os
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A suggestion to append to an error sentence, or an empty string.

    Example:
        >>> did_you_mean("DDIMSheduler", ["DDIMScheduler", "PNDMScheduler"])
        '; did you mean DDIMScheduler?'
        >>> did_you_mean("xyz", ["DDIMScheduler"])
        ''
    """
    close = get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]}?" if close else ""


def bundled_folder() -> Path:
    """Where the testbed that ships with the package lies, if this installation carries one."""
    return Path(__file__).resolve().parents[1] / "testbed" / "data"


def name_for_others(model: str) -> str:
    """A model's name for people who do not have this machine.

    Args:
        model: Hub id or folder, as it was given.

    Returns:
        The last two parts of a folder, ``amnestic testbed/...`` inside the bundled testbed, else what was given.

    Example:
        >>> name_for_others("CompVis/stable-diffusion-v1-4")
        'CompVis/stable-diffusion-v1-4'
        >>> name_for_others(str(bundled_folder() / "pipeline"))
        'amnestic testbed/pipeline'
    """
    folder = Path(model).expanduser()
    if not (folder.is_absolute() or folder.is_dir()):
        return model
    resolved = folder.resolve()
    if resolved.is_relative_to(bundled_folder()):
        return "/".join(["amnestic testbed", *resolved.relative_to(bundled_folder()).parts])
    return _end_of(_whole(folder))


def path_for_others(path: str) -> str:
    """A path for people who do not have this machine.

    Args:
        path: As it was given, absolute or from the working directory.

    Returns:
        The path from the working directory when it leads inside, else its last two parts.

    Example:
        >>> path_for_others("originals/a.png"), path_for_others("/home/someone/models/mine")
        ('originals/a.png', 'models/mine')
    """
    whole = _whole(Path(path).expanduser())
    return whole.relative_to(Path.cwd()).as_posix() if whole.is_relative_to(Path.cwd()) else _end_of(whole)


def _whole(path: Path) -> Path:
    return Path(os.path.abspath(path))  # links keep the name they were given


def _end_of(whole: Path) -> str:
    return "/".join(whole.relative_to(whole.anchor).parts[-2:])
