"""What the report shows: plain values that are already measured, nothing to look up and nothing to compute."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """One work beside what the model made of its caption.

    Attributes:
        work: Identifier of the work.
        label: ``VM`` (verbatim), ``TM`` (template), ``heldout``, ``base`` or ``none``.
        rung: Rung of the multiplicity ladder, or ``None`` without a ladder.
        prompt: The text given to the model; hostile until shown otherwise.
        reference: The original as bytes of a PNG or JPEG, or ``None`` when it could not be read.
        generations: Seed, similarity to the original and bytes of each image that is shown.
        best_score: Highest similarity over the seeds, in [-1, 1], or ``None`` when it was not measured.
        replicated: Whether the best score is above the threshold of the run.
        pixel: Pixel measures of the best image: ``ssim``, ``tiled_l2`` and for templates
            ``error_outside_mask`` and ``error_inside_mask``.
        before: The same for the model before an edit, with the same seeds; empty without one. A seed that is missing
            on one side stays empty there.
    """

    work: str
    label: str
    rung: int | None
    prompt: str
    reference: bytes | None
    generations: tuple[tuple[int, float, bytes], ...]
    best_score: float | None
    replicated: bool
    pixel: Mapping[str, float | None] = field(default_factory=dict)
    before: tuple[tuple[int, float, bytes], ...] = ()


@dataclass(frozen=True, kw_only=True)
class Page:
    """Everything on the page.

    A rate is a mapping with the fields of `amnestic.core.records.Rate`. Whatever is ``None``, absent or
    not finite is shown as "not measured", never as zero.

    For an edited model, ``summary["before_after"]`` is a mapping:

    - ``before``, ``after``: ``{model, digest, run}``, the run being the name of its folder;
    - ``edit``: ``None``, or ``{method, parameters, located_by, located_parameters, weights, share, selected, sites}``:
      how many weights were changed, which share of all weights of the U-Net that is, how many works were used to
      locate them, and a list of ``{name, stage, kind, chosen, size}`` with the stage ``down``, ``mid`` or ``up``;
    - ``rates``: list of ``{group, works, before, after, mcnemar}``, two rates over the same works and the fields of
      `amnestic.measures.paired.McNemar`; the group ``all works`` is the one that is put into words;
    - ``changes``: list of ``{name, group, unit, direction, before, after, change}`` with two means and the fields of
      `amnestic.measures.paired.PairedChange`; the direction is ``lower is better``, ``higher is better`` or empty;
      the change is relative when its method begins with "relative"; what gets lost on groups whose name begins with
      ``base`` or ``held`` is the cost of the edit;
    - ``distances``: list of ``{name, unit, before, after, change}``, the same without one-sided bounds; lower is
      nearer;
    - ``not_measured``: list of name and reason.

    Attributes:
        title: Heading of the page.
        summary: The content of ``summary.json``:

            - ``model``, ``protocol``, ``descriptor``, ``threshold``: mappings, as in `amnestic.core.records`;
            - ``works``: ``{total, replicated, replicated_by_any_prompt}``, the last one optional; the others and every
              rate over works go by the first prompt of a work; ``leak_rate``: a rate over works;
            - ``controls``: name -> ``{works or n, leak_rate, images, max_score}``, two rates as above and a score,
              each against all references;
            - ``by_label``: label -> ``{works, replicated, leak_rate}``, or label -> rate;
            - ``ladder``: list of ``{rung, works, mean_score, lower, upper, leak_rate}``; the mean is
              over works and seeds and the interval is its own, the leak rate is a share or a rate;
            - ``similarity``: metric -> ``{median, mad, n, unit}`` or ``"not measured"``;
            - ``median_based_rate``, ``clip``: rates beside the one that decides, optional;
            - ``references``: ``counts``, status -> count; beside it any key with reason -> count, id -> reason,
              or a list of ``{id, status, reason}``;
            - ``verdict``: ``pass``, ``fail``, ``inconclusive``, ``none`` or a sentence; ``limit``: a share;
            - ``timings``: stage -> seconds;
            - ``before_after``: only for an edited model, as above.
        evidence: Works with their images, in any order.
        unshown: How many prompts above and how many below the threshold are left out of `evidence`.
        blurred: Whether pictures are blurred, which the page says.
        scores: Group such as ``works`` or ``held-out`` -> similarities, for the histograms.
        not_measured: What was left out, and why.
        flags: Validity warnings: raised if, meaning, remedy.
        reproduce: Command lines that repeat the run.
        provenance: Versions, machine and time.
        figures: Caption -> one ``<svg>`` element made by a figure function of this room, each under another name;
            shown with the comparison before and after an edit. Anything else is left out and said to be.
    """

    title: str
    summary: Mapping[str, Any]
    evidence: tuple[Evidence, ...] = ()
    unshown: tuple[int, int] = (0, 0)
    blurred: bool = False
    scores: Mapping[str, Sequence[float]] = field(default_factory=dict)
    not_measured: tuple[tuple[str, str], ...] = ()
    flags: tuple[tuple[str, str, str], ...] = ()
    reproduce: tuple[str, ...] = ()
    provenance: Mapping[str, Any] = field(default_factory=dict)
    figures: Mapping[str, str] = field(default_factory=dict)
