"""Two audits compared, as one HTML file that stands on its own and as Markdown."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from markupsafe import Markup

from amnestic.report import wording
from amnestic.report.as_markdown import inert, table
from amnestic.report.before_after_rows import mean_row
from amnestic.report.comparison_figures import change_figure
from amnestic.report.comparison_rows import GroupRow, attack_rows, group_row, left_out, points
from amnestic.report.facts import listed, mapping, real
from amnestic.report.html import fill, rows
from amnestic.report.wording import NOT_MEASURED, Facts

SIDES = ("before", "after")
_UNTOLD = "Not measured: whether the two models differ."


def render_comparison(found: Mapping[str, Any]) -> str:
    """What two audits say of each other, as one HTML file.

    Args:
        found: What `amnestic.stages.compare` returns; anything may be missing.

    Returns:
        HTML in UTF-8 without scripts and without addresses to fetch from. What is missing is said to be not measured.
        Names of works and models stay text.
    """
    groups = listed(found.get("groups"))
    svg = change_figure(groups)
    context = {
        "keys": list(_keys(groups)), "headline": str(found.get("sentence") or _UNTOLD),
        "notes": [str(note) for note in found.get("notes") or ()], "groups": [group_row(group) for group in groups],
        "figure": Markup(svg),  # noqa: S704 - made and escaped by matplotlib
        "means": [mean_row(row) for row in listed(found.get("means"))], "attacks": list(attack_rows(found)),
        "left_out": left_out(found), "identity": list(_identity(found)), "protocol": list(_protocol(found)),
        "caveat": wording.NOT_A_FINDING, "power": wording.percent(real(found.get("power"))),
    }  # fmt: skip
    return fill("comparison.html.j2", context)


def comparison_markdown(found: Mapping[str, Any]) -> str:
    """The same as Markdown, for a pull request or a log.

    Args:
        found: As for `render_comparison`.

    Returns:
        Text that ends in a new line; names are escaped, so that they stay text.
    """
    groups = [group_row(group) for group in listed(found.get("groups"))]
    parts = [
        "# Comparison of two audits", f"**{inert(str(found.get('sentence') or _UNTOLD))}**",
        _list(str(note) for note in found.get("notes") or ()),
        _table(("", *(side.capitalize() for side in SIDES)), [(n, *v) for n, v in _identity(found)]),
        "## Memorization rates", _groups(groups), *_works(groups),
    ]  # fmt: skip
    for attack in attack_rows(found):
        parts += [f"## Attack {inert(attack.name)}", inert(attack.settings), _groups(attack.arms)]
        parts += _works(attack.arms)
    means = [mean_row(row) for row in listed(found.get("means"))]
    if means:
        cells = [(f"{r.name}, {r.group}", r.before, r.after, r.change, r.interval, r.reading) for r in means]
        parts += ["## Other means", _table(("Measure", "Before", "After", "Change", "Interval", "Reading"), cells)]
    parts += ["## Not compared", _list(f"{what}: {why}" for what, why in left_out(found)) or "Nothing was left out."]
    parts += ["## Protocol", _list(f"{name}: {value}" for name, value in _protocol(found))]
    parts.append(inert(wording.NOT_A_FINDING))
    return "\n\n".join(part for part in parts if part) + "\n"


def _keys(groups: Sequence[Facts]) -> Iterator[tuple[str, str, str]]:
    """Name, value and small print of the figures in the header."""
    works = next((g for g in groups if g.get("group") == "all works"), None)
    for side in SIDES:
        rate = wording.rate_of(mapping(works).get(side)) or {}
        ends = f"upper bound {wording.upper_bound(rate)}" if wording.is_zero(rate) else wording.interval(rate)
        yield f"Memorization rate {side}", wording.percent(real(rate.get("estimate"))), ends
    change = mapping(mapping(works).get("change"))
    bounds = [points(real(change.get(f"{end}_one_sided"))) for end in ("lower", "upper")]
    known = NOT_MEASURED not in bounds
    small = f"at least {bounds[0]}, at most {bounds[1]} (95\u00a0% each)" if known else "nothing to compare"
    yield "Change, in points", points(real(change.get("estimate"))), small


def _identity(found: Facts) -> Iterator[tuple[str, list[str]]]:
    sides = [mapping(found.get(side)) for side in SIDES]
    names = {"run": "Run", "model": "Model", "revision": "Revision", "dtype": "Precision", "digest": "Digest",
             "made": "Begun", "amnestic": "Version of amnestic"}  # fmt: skip
    for key, name in names.items():
        yield name, [str(side.get(key) or "not given") for side in sides]


def _protocol(found: Facts) -> Iterator[tuple[str, str]]:
    protocol, descriptor = mapping(found.get("protocol")), mapping(found.get("descriptor"))
    yield from rows({k: v for k, v in protocol.items() if k != "descriptor"})
    names = {"name": "Descriptor", "preprocessing": "Preprocessing", "digest": "Digest of the descriptor"}
    for key, name in names.items():
        yield name, str(descriptor.get(key) or NOT_MEASURED)


def _groups(groups: Sequence[GroupRow]) -> str:
    head = ("Group", "Works", "Before", "After", "Change in points", "Holm-adjusted", "Detectable", "Reading")
    cells = [
        (g.name, g.rate.works, _with(g.rate.before, g.rate.before_note), _with(g.rate.after, g.rate.after_note),
         _with(g.change, g.change_note), g.p_adjusted, g.detectable, g.reading)
        for g in groups
    ]  # fmt: skip
    return _table(head, cells) if cells else "Memorization rates: not measured."


def _works(groups: Sequence[GroupRow]) -> list[str]:
    said = []
    for group in groups:
        for what, names in (("replicate after only", group.newly), ("replicate before only", group.no_longer)):
            if names:
                said.append(f"{inert(group.name)}, {what} ({len(names)}): {', '.join(map(_code, names))}")
    return ["\n".join(f"- {line}" for line in said)] if said else []


def _with(value: str, note: str) -> str:
    return f"{value} ({note})" if note else value


def _table(head: Sequence[str], cells: Sequence[Sequence[str]]) -> str:
    return "\n".join(table(head, cells))


def _list(lines: Iterator[str]) -> str:
    return "\n".join(f"- {inert(line)}" for line in lines)


def _code(name: str) -> str:
    """A name as code, so that a reader's site neither links nor notifies whoever it resembles."""
    one_line = "".join(c if c.isprintable() else " " for c in name)
    return f"`{one_line.replace('`', chr(39)).strip() or 'without a name'}`"
