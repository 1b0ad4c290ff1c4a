"""What a person sees on a terminal, and what a machine reads from it: progress, tables and JSON."""

import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime, timedelta
from math import prod
from typing import TYPE_CHECKING, Any, NoReturn

from rich.console import Console
from rich.table import Table

from amnestic.core.amounts import percent
from amnestic.core.records import plain

if TYPE_CHECKING:
    from amnestic.core.store import Record


class _Console(Console):
    def on_broken_pipe(self) -> NoReturn:  # rich ends the process itself, with code 1; the command line has a say
        raise BrokenPipeError


errors = _Console(stderr=True, highlight=False, soft_wrap=True, markup=False, emoji=False)
out = _Console(highlight=False, soft_wrap=True, markup=False, emoji=False)

UNITS = {"generate": "images", "draw": "images", "embed": "images", "train": "steps", "fine-tune": "steps"}
SECONDS_BETWEEN_LINES = 30.0


@dataclass(frozen=True, kw_only=True)
class Manner:
    """How much is said besides results.

    Attributes:
        quiet: No progress.
        verbose: A line of progress every half minute where there is no terminal.
    """

    quiet: bool = False
    verbose: bool = False


manner: ContextVar[Manner] = ContextVar("manner", default=Manner())  # noqa: B039 - frozen


@contextmanager
def progress_bars() -> Iterator[Callable[[str, int, int], None]]:
    """Progress with rates and the time left on a terminal, a line now and then elsewhere, nothing when quiet."""
    if manner.get().quiet or os.environ.get("RANK", "0") != "0":  # of several processes, the first one speaks
        yield lambda what, done, total: None
        return
    if not errors.is_terminal:
        yield _log_lines(every_tenth=not manner.get().verbose)
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    shown = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"))
    with Progress(*shown, TimeRemainingColumn(), TextColumn("left"), console=errors) as bars:
        tasks: dict[str, Any] = {}
        paces: dict[str, Callable[[int], float | None]] = {}

        def show(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total, completed=done, rate="")
                paces[what] = _pace(done)
            bars.update(tasks[what], completed=done, total=total, rate=_rate(what, paces[what](done)))

        yield show


def _log_lines(
    *, every_tenth: bool = True, clock: Callable[[], float] = time.monotonic
) -> Callable[[str, int, int], None]:
    """Lines for a log: the first, the last, and between them one for each tenth that took long enough."""
    shown: dict[str, tuple[int, float]] = {}
    paces: dict[str, Callable[[int], float | None]] = {}

    def show(what: str, done: int, total: int) -> None:
        now, tenth = clock(), 10 * done // max(1, total)
        pace = paces.setdefault(what, _pace(done, clock))
        before, last = shown.get(what, (-1, -SECONDS_BETWEEN_LINES))
        is_due = now - last >= SECONDS_BETWEEN_LINES and (tenth > before or not every_tenth)
        if what in shown and not is_due and not (done >= total and before < 10):
            return
        shown[what] = (tenth, now)
        speed = pace(done)
        parts = [f"{done} of {total}"]
        if speed:
            left = timedelta(seconds=round((total - done) / speed))
            parts += [_rate(what, speed), *([f"{left} left"] if done < total else [])]
        errors.print(f"{datetime.now():%H:%M:%S} {what}: {', '.join(parts)}", markup=False)

    return show


def _pace(begun_at: int, clock: Callable[[], float] = time.monotonic) -> Callable[[int], float | None]:
    """How many per second since now; what was done before does not count."""
    started = clock()

    def speed(done: int) -> float | None:
        seconds = clock() - started
        return (done - begun_at) / seconds if done > begun_at and seconds > 0 else None

    return speed


def _rate(what: str, speed: float | None) -> str:
    """A speed in words, such as ``2.5 images/s``, or per minute when that reads better."""
    if not speed:
        return ""
    unit = UNITS.get(what.split(" ", 1)[0], "")
    per_minute = speed < 0.5
    return f"{60 * speed if per_minute else speed:.3g} {unit}/{'min' if per_minute else 's'}".replace(" /", "/")


def print_json(value: Any) -> None:  # noqa: ANN401 - any plain data
    """The result as one JSON document, the only thing on standard output."""
    sys.stdout.write(json.dumps(plain(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def print_record_json(record: "Record") -> None:
    """A record without its tensors, which lie beside it in the run folder."""
    print_json(
        {
            "record": record.id, "stage": record.stage, "made_by": record.made_by, "parents": record.parents,
            "data": record.data,
        }
    )  # fmt: skip


def print_summary(summary: Mapping[str, Any]) -> None:
    """Leak rate beside its controls, as a small table."""
    table = Table(title=f"Replication under {summary['descriptor']['name']} > {summary['threshold']['value']:.3g}")
    for column in ("prompts", "works", "leak rate", "95 % interval", "one-sided upper"):
        table.add_column(column)

    def add(name: str, found: dict[str, Any]) -> None:
        if found["estimate"] is None:
            table.add_row(name, "0", "not measured", "", "")
            return
        estimate, lower, upper, bound = (
            "-" if found[key] is None else percent(found[key])
            for key in ("estimate", "lower", "upper", "upper_one_sided")
        )
        table.add_row(name, str(found["n"]), estimate, f"{lower} to {upper}", bound)

    add("works", summary["leak_rate"])
    for step in summary["ladder"]:
        mean = "-" if step["mean_score"] is None else f"{step['mean_score']:.2f}"
        add(f"  rung {step['rung']} (mean {mean})", step["leak_rate"])
    for name, found in summary["by_label"].items():
        add(f"  label {name}", found["leak_rate"])
    for name, found in summary["controls"].items():
        add(f"control: {name}", found["leak_rate"])
    out.print(table)
    out.print(f"verdict: {summary['verdict']}")


def print_contract(measured: dict[str, Any] | None) -> None:
    """What a testbed promises beside what was measured."""
    if not measured:
        out.print("not measured yet; run: amnestic testbed verify DIR")
        return
    table = Table(title=f"contract, measured with {measured['descriptor']}")
    for column in ("promise", "limit", "measured", "holds"):
        table.add_column(column)
    for row in measured["contract"]:
        table.add_row(row["promise"], row["limit"], row["measured"], "yes" if row["holds"] else "NO")
    out.print(table)


def print_located(name: str, data: Mapping[str, Any]) -> None:
    """How many units of every layer were found."""
    counts = f"{len(data['works'])} works, {len(data['controls'])} controls"
    out.print(f"{data['outcome']}: {counts}, {data['passes']} passes of the U-Net, {data['seconds']} s", markup=False)
    if data["outcome"] == "found":
        table = Table(title=f"{data['units']:,} units, {percent(data['share'])} of those searched")
        for column in ("layer", "stage", "kind", "found", "of", "share"):
            table.add_column(column)
        for site in data["sites"]:
            found, size = data["counts"][site["name"]], prod(site["shape"])
            table.add_row(
                site["name"], site["stage"], site["kind"], f"{found:,}", f"{size:,}", percent(found / size)
            )  # fmt: skip
        out.print(table)
    out.print(f"record: {name}", markup=False)


def print_extraction(name: str, data: Mapping[str, Any]) -> None:
    """What an extraction attack claimed, and what its claims are worth."""
    table = Table(title=f"{data['claimed']} of {data['prompts']} prompts claimed, {data['seeds']} images each")
    for column in ("", "share", "95 % interval", "n"):
        table.add_column(column)
    for what in ("recall", "precision"):
        found = data[what]
        if found["estimate"] is None:
            table.add_row(what, "not measured", "", str(found["n"]))
        else:
            table.add_row(
                what,
                percent(found["estimate"]),
                f"{percent(found['lower'])} to {percent(found['upper'])}",
                str(found["n"]),
            )
    out.print(table)
    out.print(f"{data['passes']:,} rows through the U-Net\nrecord: {name}", markup=False)


def print_sharing(data: Mapping[str, Any]) -> None:
    """How much the masks of disjoint sets overlap, layer by layer."""
    table = Table(title="IoU of masks: memorized sets with each other, with controls, and by chance")
    for column in ("layer", "memorized", "with controls", "random", "p (Holm)"):
        table.add_column(column)
    for row in data["layers"]:
        shown = ("within_memorized", "with_controls", "random", "p_adjusted")
        table.add_row(row["site"], *("-" if row[k] is None else f"{row[k]:.3f}" for k in shown))
    out.print(table)
    p_value = data["whole_test"]["p_value"]
    out.print("p over all layers together: " + ("not measured" if p_value is None else f"{p_value:.4f}"))
    for note in (data["convention"], *data["notes"]):
        out.print(note, markup=False)


def print_attack(name: str, data: Mapping[str, Any]) -> None:
    """What an attack brought back, beside its controls."""
    verdict = data["verdict"]
    table = Table(title="share of works that came back")
    for column in ("arm", "n", "before", "after", "95 % interval", "mean SSCD"):
        table.add_column(column)
    for arm, found in verdict["arms"].items():
        last = found["curve"][-1]
        after = last["ever"]
        table.add_row(
            arm, str(after["n"]), percent(found["before"]["estimate"]), percent(after["estimate"]),
            f"{percent(after['lower'])} to {percent(after['upper'])}", f"{last['mean']['estimate']:.2f}",
        )  # fmt: skip
    out.print(table)
    out.print(verdict["sentence"], markup=False)
    for flag in verdict["flags"]:
        out.print(f"flag: {flag['name']}: {flag['because']}; {flag['remedy']}", markup=False)
    out.print(f"record: {name}", markup=False)


def print_story(chapters: Sequence[Any]) -> None:
    """What each model draws by itself and what an attack brings out of it, side by side."""
    table = Table(title="the story: share of the attacked works that are drawn as copies")
    for column in ("model", "all works, own prompts", "attacked works, own prompts", "after the attack", "n"):
        table.add_column(column)
    for chapter in chapters:
        plain, told = chapter.summary["leak_rate"]["estimate"], ["-", "-", "-"]
        if chapter.attacked is not None:
            arm = chapter.attacked.data["verdict"]["arms"]["works"]
            last = arm["curve"][-1]["ever"]
            told = [percent(arm["before"]["estimate"]), percent(last["estimate"]), str(last["n"])]
        table.add_row(chapter.name, "-" if plain is None else percent(plain), *told)
    out.print(table)
    for chapter in chapters:
        if chapter.attacked is not None:
            out.print(f"{chapter.name}: {chapter.attacked.data['verdict']['sentence']}", markup=False)
