"""Some works of a prompt list, with its controls, as a prompt list of its own."""

import csv
import io
from collections.abc import Sequence
from dataclasses import astuple, dataclass, replace
from pathlib import Path

from amnestic.audit.prompt_sets import work_of
from amnestic.audit.selection import Selection, part_of_works
from amnestic.core.errors import InputError
from amnestic.core.names import did_you_mean
from amnestic.core.records import Prompt
from amnestic.core.store import write_atomically
from amnestic.parallel import team
from amnestic.sources.prompts import COLUMNS, read_prompts

CONTROLS = ("base", "heldout")


@dataclass(frozen=True, kw_only=True)
class ChooseRequest:
    """Which rows of a prompt list are asked for.

    Attributes:
        prompts: The prompt list. Originals of the new one count from the folder of references.
        out: File of the new list, a CSV.
        works: Names of works; empty for all of them. A work that no column names is called after its original.
        rung: Only works on this rung of the ladder.
        part: Which of how many equal parts, such as (1, 2); works are dealt as `Selection` deals them.
        limit: At most so many works, the first of the list.
        n_controls: At most so many ordinary prompts and as many held-out ones; default all of the list.
    """

    prompts: Path
    out: Path
    works: tuple[str, ...] = ()
    rung: int | None = None
    part: tuple[int, int] | None = None
    limit: int | None = None
    n_controls: int | None = None


def choose(request: ChooseRequest) -> tuple[Prompt, ...] | None:
    """Write the rows that were asked for, in the order of the list.

    Args:
        request: What is asked.

    Returns:
        The rows; `None` in processes other than the main one.

    Raises:
        InputError: If the list cannot be read, or no work is left.
    """
    return team("cpu").on_main(lambda: _written(request))


def chosen(prompts: Sequence[Prompt], request: ChooseRequest) -> tuple[Prompt, ...]:
    """The rows of a list that are asked for.

    Args:
        prompts: The list.
        request: What is asked.

    Returns:
        Prompts of the chosen works, and controls.

    Raises:
        InputError: If a work is not in the list, or none is left.

    Example:
        >>> some = [Prompt(id=n, prompt=n, image=f"{n}.png", work=n) for n in ("a", "b")]
        >>> asked = ChooseRequest(prompts=Path("all.csv"), out=Path("some.csv"), works=("b",))
        >>> [p.id for p in chosen([*some, Prompt(id="c", prompt="c", label="base")], asked)]
        ['b', 'c']
    """
    first: dict[str, Prompt] = {}
    for prompt in prompts:
        if prompt.label not in CONTROLS and prompt.image:
            first.setdefault(work_of(prompt), replace(prompt, work=work_of(prompt)))
    for name in request.works:
        if name not in first:
            raise InputError(f"expected a work of {request.prompts}, got {name}{did_you_mean(name, first)}")
    dealt = part_of_works(tuple(first.values()), Selection(rung=request.rung, part=request.part))
    names = [n for n, p in first.items() if p.id in dealt and (not request.works or n in request.works)]
    wanted, left = set(names[: request.limit]), dict.fromkeys(CONTROLS, request.n_controls)
    if not wanted:
        raise InputError(f"no work of {request.prompts} is left; name other works, or another rung or part")
    rows = []
    for prompt in prompts:
        if prompt.label in CONTROLS:
            more = left[prompt.label]
            if more is not None:
                left[prompt.label] = more - 1
            if more is None or more > 0:
                rows.append(prompt)
        elif prompt.image and work_of(prompt) in wanted:
            rows.append(prompt)
    return tuple(rows)


def _written(request: ChooseRequest) -> tuple[Prompt, ...]:
    rows = chosen(read_prompts(request.prompts), request)
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(COLUMNS)
    writer.writerows(["" if cell is None else cell for cell in astuple(row)] for row in rows)
    write_atomically(request.out, text.getvalue())
    return rows
