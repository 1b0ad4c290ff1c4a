"""Finding 3: what a mitigation changed, in copies and in usefulness."""

from collections.abc import Mapping

from amnestic.report.findings_parts import Difference, Method, Missing, Open, Part, Rate
from amnestic.report.findings_process import Cost


class EditedSite(Part):
    """A layer that a mitigation touched.

    Attributes:
        name: Path of the layer.
        stage: ``down``, ``mid`` or ``up``.
        kind: What its units are.
        chosen: Units touched.
        size: Units in all.
    """

    name: str
    stage: str
    kind: str
    chosen: int
    size: int


class Mitigation(Part):
    """What was changed in the model.

    Attributes:
        kind: ``edit`` (chosen weights are changed) or ``fine-tuning``.
        method: The mitigation with its settings.
        located_by: What chose the weights, with its settings.
        weights: Weights changed.
        share: Share of all weights of the U-Net.
        selected: How many works it was made from.
        works: Which ones.
        other_works: Works that replicated and were not used for it.
        sites: Layers touched; empty where all were.
        traces: How well the changed places can be seen in the weights.
        cost: What it took.
    """

    kind: str
    method: Method
    located_by: Method | Missing
    weights: int
    share: float | Missing
    selected: int
    works: tuple[str, ...]
    other_works: tuple[str, ...]
    sites: tuple[EditedSite, ...]
    traces: Mapping[str, float | None]
    cost: Cost | Missing


class PairedRate(Part):
    """A memorization rate before and after, over the same works and seeds.

    Attributes:
        group: Which works; ``held-out`` and ``base`` are controls.
        works: How many.
        before: Rate before.
        after: Rate after.
        only_before: Works that replicated before alone.
        only_after: Works that replicate after alone.
        p_value: Of McNemar's exact test, or null.
    """

    group: str
    works: int
    before: Rate
    after: Rate
    only_before: int | None
    only_after: int | None
    p_value: float | None


class PairedScore(Part):
    """A metric before and after, over the same works and seeds.

    Attributes:
        name: Of the metric.
        group: Which works or prompts.
        unit: What it is measured in.
        direction: ``lower is better``, ``higher is better`` or empty.
        before: Mean before.
        after: Mean after.
        change: After minus before, over before where its method begins with "relative".
    """

    name: str
    group: str
    unit: str
    direction: str
    before: float | None
    after: float | None
    change: Difference


class Compared(Part):
    """This run's model beside the model before the mitigation.

    Attributes:
        before: Name of the model before.
        before_digest: SHA-256 over its weights.
        before_run: Name of its run.
        mitigation: What was changed.
        rates: Memorization rates, works and controls.
        changes: Similarity, and usefulness on prompts that have nothing to do with the works.
        distances: Distances to real images; lower is nearer.
        not_measured: What was left out.
    """

    before: str
    before_digest: str
    before_run: str
    mitigation: Mitigation | Missing
    rates: tuple[PairedRate, ...]
    changes: tuple[PairedScore, ...]
    distances: tuple[PairedScore, ...]
    not_measured: tuple[Open, ...]


class MadeFromThis(Part):
    """A mitigation made from this run's model; what it is worth stands in the report of the model that came out.

    Attributes:
        id: Name of its record or edit.
        mitigation: What was changed.
        result: SHA-256 over the weights of the model that came out, or missing.
    """

    id: str
    mitigation: Mitigation
    result: str | Missing


class Mitigated(Part):
    """Finding 3: what a mitigation changed, in copies and in usefulness.

    Attributes:
        sentences: The finding in words.
        compared: The model before and after, where this run's model is the mitigated one.
        made: Mitigations made from this run's model.
    """

    sentences: tuple[str, ...]
    compared: Compared | Missing
    made: tuple[MadeFromThis, ...]
