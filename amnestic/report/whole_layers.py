"""Units by layer: what localizers of the run found, and what a mitigation touched."""

import json
from collections.abc import Iterator
from typing import NamedTuple

from amnestic.report import wording
from amnestic.report.facts import count, listed, mapping, real
from amnestic.report.findings import Findings
from amnestic.report.findings_parts import Missing
from amnestic.report.subspace_figures import step_heatmap_figure
from amnestic.report.whole_pictures import Opened
from amnestic.report.wording import Facts


class Layer(NamedTuple):
    """One layer.

    Attributes:
        name: Its path.
        kind: What its units are.
        chosen: Units chosen.
        size: Units in all.
        share: The share in words.
        filled: The share relative to the layer with the highest, in per cent.
    """

    name: str
    kind: str
    chosen: int
    size: int
    share: str
    filled: float


class Layers(NamedTuple):
    """Units of one localizer or mitigation, layer by layer.

    Attributes:
        title: What chose them.
        about: How many in all, from how many works.
        layers: One by one.
        steps: A drawing of the share that each denoising step chose, or empty.
    """

    title: str
    about: str
    layers: tuple[Layer, ...]
    steps: str = ""


def layers_of(findings: Findings, opened: Opened) -> list[Layers]:
    """What the compared mitigation touched, then what every locate record of the run found.

    Args:
        findings: The document.
        opened: Files of the run by their path inside.
    """
    return [*_touched(findings), *_located(findings, opened)]


def _touched(findings: Findings) -> Iterator[Layers]:
    compared = findings.mitigated.compared
    made = compared if isinstance(compared, Missing) else compared.mitigation
    if isinstance(made, Missing) or not made.sites:
        return
    share = "" if isinstance(made.share, Missing) else f", {wording.percent(made.share)} of all weights of the U-Net"
    yield Layers(
        title=f"Touched by the mitigation {made.method.name}",
        about=f"{made.weights:,} weights{share}; made from {made.selected} works.",
        layers=_layers([(s.name, s.kind, s.chosen, s.size) for s in made.sites]),
    )


def _located(findings: Findings, opened: Opened) -> Iterator[Layers]:
    for record in findings.integrity.records:
        if record.stage != "locate":
            continue
        data = _data(opened(f"records/{record.id}/record.json"))
        counts, rows = mapping(data.get("counts")), []
        for site in listed(data.get("sites")):
            chosen, size = count(counts.get(str(site.get("name")))), _size(site.get("shape"))
            if chosen is not None and size:
                rows.append((str(site.get("name")), str(site.get("kind") or ""), chosen, size))
        if not rows:
            continue
        works, steps = len(data.get("works") or ()), mapping(data.get("steps"))
        yield Layers(
            title=f"Found by the localizer {record.method}",
            about=f"{count(data.get('units')) or 0:,} units of {works} works, "
            f"{wording.percent(real(data.get('share')))} of the units that were looked at.",
            layers=_layers(rows), steps=_heatmap(steps),
        )  # fmt: skip


def _layers(rows: list[tuple[str, str, int, int]]) -> tuple[Layer, ...]:
    shares = [chosen / size if size else 0.0 for _, _, chosen, size in rows]
    most = max(shares, default=0.0) or 1.0
    return tuple(
        Layer(*row, share=wording.percent(share), filled=100 * share / most)
        for row, share in zip(rows, shares, strict=True)
    )


def _data(content: bytes | None) -> Facts:
    try:
        found = json.loads(content or b"{}")
    except ValueError:
        return {}
    return mapping(mapping(found).get("data"))


def _size(shape: object) -> int:
    size = 1
    for side in shape if isinstance(shape, list) else (0,):
        size *= count(side) or 0
    return size


def _heatmap(steps: object) -> str:
    found = mapping(steps)
    try:
        return step_heatmap_figure(found["sites"], found["stages"], found["shares"]) if found else ""
    except (KeyError, TypeError, ValueError):
        return ""
