"""Masks tried on each other's works: a table of memorization rates, ready to be shown."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from amnestic.report import wording
from amnestic.report.facts import count, mapping, real
from amnestic.report.wording import NOT_MEASURED, Facts, percent

Rates = Sequence[Sequence[Facts]]


class Cell(NamedTuple):
    """A rate; `filled` is the rate itself or `None`, `own` whether the mask was made from these works."""

    rate: str
    counted: str
    meaning: str
    filled: float | None
    own: bool


class TransferRow(NamedTuple):
    """The rates on every set under one mask."""

    name: str
    cells: tuple[Cell, ...]


class Transfer(NamedTuple):
    """The whole table; without rows, `why` says why not."""

    rows: tuple[TransferRow, ...]
    columns: tuple[str, ...]
    sentence: str
    method: str
    why: str


def transfer_of(found: Facts) -> Transfer:
    """Memorization rates without a mask and with that of each set, on the works of each set.

    Args:
        found: ``data["transfer"]``: ``rates``, a row without a mask and then one per set, of a rate per set; or `None`
            with ``why``.

    Returns:
        Rows and words.
    """
    rates: Rates = [[mapping(rate) for rate in row] for row in found.get("rates") or ()]
    if not rates:
        return Transfer((), (), "", "", str(found.get("why") or "no reason given"))
    rows = tuple(
        TransferRow(_mask(i), tuple(_cell(rate, i, j) for j, rate in enumerate(row, start=1)))
        for i, row in enumerate(rates)
    )
    methods = dict.fromkeys(str(rate["method"]) for row in rates for rate in row if rate.get("method"))
    columns = tuple(f"set {j + 1}" for j in range(max(map(len, rates))))
    return Transfer(rows, columns, _sentence(rates), " / ".join(methods), "")


def _mask(i: int) -> str:
    return f"mask of set {i}" if i else "no mask"


def _cell(rate: Facts, i: int, j: int) -> Cell:
    share, n = real(rate.get("estimate")), count(rate.get("n"))
    counted = "" if share is None or n is None else f"{round(share * n)} of {n}"
    known = f"{percent(share)}{f' ({counted} works)' if counted else ''}"
    ends = f"95\u00a0% interval {wording.interval(rate)}"
    if wording.is_zero(rate):
        ends += f", one-sided upper bound {wording.upper_bound(rate)}"
    meaning = f"Works of set {j}, {_mask(i)}: {known if share is None else f'{known}, {ends}'}"
    return Cell(percent(share), counted, meaning, share, i == j)


def _sentence(rates: Rates) -> str:
    masked = [(i, j, rate) for i, row in enumerate(rates[1:]) for j, rate in enumerate(row)]
    before = _mean(rates[0])
    own, other = (_mean(rate for i, j, rate in masked if (i == j) == same) for same in (True, False))
    return (
        f"Mean over sets: {before} without a mask, {own} when the units of the same set are zeroed, {other} when those "
        "of another set are."
    )


def _mean(rates: Iterable[Facts]) -> str:
    known = [share for rate in rates if (share := real(rate.get("estimate"))) is not None]
    return percent(sum(known) / len(known)) if known else NOT_MEASURED
