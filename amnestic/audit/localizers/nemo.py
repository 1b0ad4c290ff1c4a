"""Value neurons that hold one memorized prompt's image (Hintersdorf et al., NeurIPS 2024)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from amnestic.audit.noise_difference import NoiseDifferences
from amnestic.audit.value_activations import Usual, activity, usual
from amnestic.core.errors import InputError
from amnestic.core.methods import Case, Finding, Localizer
from amnestic.core.registry import register
from amnestic.core.target import Target
from amnestic.core.units import Site
from amnestic.measures.ms_ssim import THREE_SCALES, smallest_side

Neurons = dict[Site, list[int]]
Judge = Callable[[Sequence[Neurons]], list[float]]

SCALES = {"ms-ssim-3": THREE_SCALES, "ms-ssim-2": (0.5, 0.5), "ssim": (1.0,)}
TIE = 1e-4  # scores closer than this are decided by rounding
MOST_K = 1280


@register
@dataclass(frozen=True, kw_only=True)
class Nemo(Localizer):
    """Neurons of cross-attention values whose silence makes the first noise prediction forget the image.

    For each memorized prompt: neurons with an unusual activation, more and more of them, until the
    noise difference no longer resembles the unblocked one; then those that are not needed are let go.

    Attributes:
        threshold: Similarity above which a noise difference counts as that of a memorized image.
            Published for Stable Diffusion 1.4: 0.428. ``None``: calibrated on the controls of the
            case with the setting of detection, mean plus one standard deviation.
        similarity: ``ms-ssim-3`` (published; latents of at least 44 pixels), ``ms-ssim-2`` or
            ``ssim`` (smaller ones; they need a threshold of their own).
        n_seeds: Starting noises per prompt. Published: 10.
        seed: Seed of the generator that draws them in one call. Published: 1.
        t_index: Which of the sampler's timesteps is asked: 1 as in the released code, 0 as printed.
        theta: First bound on the z-score; lowered by `theta_step` after every failure down to `min_theta`.
        theta_step: See `theta`.
        min_theta: See `theta`.
        layers: ``down+mid`` (the published seven) or ``all``.
        refine: ``grouped`` (halves of a layer's neurons are let go at once while that leaves the image
            forgotten), or ``one-by-one`` (the published order of tests).

    Source:
        Hintersdorf, Struppek, Kersting, Dziedzic, Boenisch, "Finding NeMo: Localizing Neurons
        Responsible for Memorization in Diffusion Models", NeurIPS 2024, and its released code.
    """

    kind: ClassVar[str] = "value"
    threshold: float | None = None
    similarity: str = "ms-ssim-3"
    n_seeds: int = 10
    seed: int = 1
    t_index: int = 1
    theta: float = 5.0
    theta_step: float = 0.25
    min_theta: float = 1.0
    layers: str = "down+mid"
    refine: str = "grouped"

    def __post_init__(self) -> None:
        """Refuse settings without meaning."""
        for value, known in ((self.similarity, tuple(SCALES)), (self.layers, ("down+mid", "all")),
                             (self.refine, ("grouped", "one-by-one"))):  # fmt: skip
            if value not in known:
                raise ValueError(f"expected {', '.join(known)}; got {value}")
        if self.n_seeds < 2 or self.theta_step <= 0:
            raise ValueError(
                f"n_seeds must be at least 2 and theta_step positive, got {self.n_seeds}, {self.theta_step}"
            )

    def locate(self, target: Target, case: Case) -> Finding:
        """Every prompt on its own; the masks unite what was found."""
        self._check(target)
        sites = [s for s in target.sites(self.kind) if self.layers == "all" or s.stage != "up"]
        noises = NoiseDifferences(
            target, case.sampling, n_seeds=self.n_seeds, seed=self.seed, t_index=self.t_index,
            betas=SCALES[self.similarity],
        )  # fmt: skip
        ordinary = usual(target, sites, [p.prompt for p in case.controls])
        threshold = self._threshold(target, case, noises)
        active = activity(target, sites, [p.prompt for p in case.memorized])
        masks = {s.name: torch.zeros(s.shape, dtype=torch.bool) for s in target.sites(self.kind)}
        prompts: dict[str, object] = {}
        for row, prompt in enumerate(case.memorized):
            cond = target.encode([prompt.prompt])
            neurons, told = self._one(noises, cond, {s: a[row] for s, a in active.items()}, ordinary, threshold)
            for site, chosen in neurons.items():
                masks[site.name][chosen] = True
            prompts[prompt.id] = told | {"neurons": {s.name: c for s, c in neurons.items() if c}}
        return Finding(masks=masks, passes=noises.rows, notes={"threshold": threshold, "prompts": prompts})

    def _check(self, target: Target) -> None:
        side, least = min(target.noise_shape()[1:]), smallest_side(len(SCALES[self.similarity]))
        if side < least:
            fitting = [name for name, betas in SCALES.items() if smallest_side(len(betas)) <= side]
            raise InputError(
                f"similarity {self.similarity} needs latents of at least {least} pixels, {target.ident.name} has "
                f"{side}; use one of {', '.join(fitting) or 'no known one'}, calibrated anew"
            )

    def _threshold(self, target: Target, case: Case, noises: NoiseDifferences) -> float:
        """The given one, or mean plus one deviation of the controls' largest likeness."""
        if self.threshold is not None:
            return self.threshold
        found = [noises.likeness(noises.plain(target.encode([p.prompt]))) for p in case.controls]
        return float(torch.tensor(found).mean() + torch.tensor(found).std())

    def _one(
        self, noises: NoiseDifferences, cond: Tensor, active: dict[Site, Tensor], ordinary: Usual, threshold: float
    ) -> tuple[Neurons, dict[str, object]]:
        """Neurons of one prompt, and how they were found."""
        plain = noises.plain(cond)
        kept = noises.kept(plain, threshold)
        if not kept:
            return {}, {"outcome": "not memorized by this score", "kept_seeds": []}

        def judge(choices: Sequence[Neurons]) -> list[float]:
            return noises.scores(cond, plain, kept, [_as_masks(c) for c in choices])

        chosen, score, gave_up = self._initial(judge, active, ordinary, threshold)
        bound = score if gave_up else threshold
        final = refined(
            chosen, judge, lambda s: s < bound or (gave_up and abs(s - bound) <= TIE), grouped=self.refine == "grouped"
        )
        return final, {
            "outcome": "gave up" if gave_up else "found", "kept_seeds": kept, "initial": sum(map(len, chosen.values())),
            "refined": sum(map(len, final.values())), "score": score,
        }  # fmt: skip

    def _initial(
        self, judge: Judge, active: dict[Site, Tensor], ordinary: Usual, threshold: float
    ) -> tuple[Neurons, float, bool]:
        """More and more neurons until the image is forgotten; the last choice when it never is."""
        theta, before, score = self.theta, None, 1.0
        for k in range(MOST_K):
            chosen = {s: candidates(a, ordinary.z(s, a), theta=theta, k=k) for s, a in active.items()}
            if chosen != before and any(chosen.values()):
                (score,) = judge([chosen])
            if score <= threshold:
                return chosen, score, False
            before, theta = chosen, (theta - self.theta_step if theta > self.min_theta else theta)
            if theta <= self.min_theta:
                break
        return chosen, score, True


def candidates(activity: Float[Tensor, "U"], z: Float[Tensor, "U"], *, theta: float, k: int) -> list[int]:
    """Neurons whose z-score exceeds `theta`, and the `k` most active ones, in ascending order."""
    strongest = activity.argsort(descending=True, stable=True)[:k].tolist()
    return sorted({*(z > theta).nonzero().flatten().tolist(), *strongest})


def refined(chosen: Neurons, judge: Judge, may_go: Callable[[float], bool], *, grouped: bool) -> Neurons:
    """Let go of layers, then of neurons, from the last layer to the first, while the image stays forgotten.

    Args:
        chosen: Neurons by site, in order of computation.
        judge: Similarity for choices of neurons.
        may_go: Whether a similarity says that the image is still forgotten.
        grouped: Let halves of a layer's neurons go at once where that works; else one by one.

    Returns:
        What is needed of `chosen`.
    """
    left = {site: list(neurons) for site, neurons in chosen.items()}

    def without(site: Site, gone: Sequence[int]) -> bool:
        smaller = left | {site: [n for n in left[site] if n not in set(gone)]}
        if not may_go(judge([smaller])[0]):
            return False
        left.update(smaller)
        return True

    for site in reversed(list(left)):
        if left[site]:
            without(site, left[site])
    for site in reversed(list(left)):
        pending = [left[site]] if grouped else [[n] for n in left[site]]
        while pending:
            group = pending.pop(0)
            if group and not without(site, group) and len(group) > 1:
                half = len(group) // 2
                pending[:0] = [group[:half], group[half:]]
    return left


def _as_masks(neurons: Neurons) -> dict[Site, Tensor]:
    masks = {}
    for site, chosen in neurons.items():
        if chosen:
            masks[site] = torch.zeros(site.shape, dtype=torch.bool)
            masks[site][chosen] = True
    return masks
