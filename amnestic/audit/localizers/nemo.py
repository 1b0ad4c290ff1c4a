"""Value neurons that hold one memorized prompt's image (Hintersdorf et al., NeurIPS 2024)."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from amnestic.audit.letting_go import Neurons, Order, refined
from amnestic.audit.noise_difference import NoiseDifferences, Witnesses
from amnestic.audit.value_activations import Usual, activity, usual
from amnestic.core.errors import InputError
from amnestic.core.methods import Case, Finding, Localizer
from amnestic.core.registry import register
from amnestic.core.target import Target
from amnestic.core.units import Site
from amnestic.measures.ms_ssim import THREE_SCALES, smallest_side

SCALES = {"ms-ssim-3": THREE_SCALES, "ms-ssim-2": (0.5, 0.5), "ssim": (1.0,)}
TIE = 1e-4  # scores closer than this are decided by rounding
MOST_K = 1280
ORDERS: dict[str, Order] = {"one-by-one": "one-by-one", "grouped": "grouped", "witnessed": "sized"}
STEPS_AHEAD = 4  # steps of the schedule that share a batch
TEXTS_AT_ONCE = 64
ROWS_AHEAD = 3  # rows of a batch while neurons are let go


@register
@dataclass(frozen=True, kw_only=True)
class Nemo(Localizer):
    """Neurons of cross-attention values whose silence makes the first noise prediction forget the image.

    For each memorized prompt: neurons with an unusual activation, more and more of them, until the
    noise difference no longer resembles the unblocked one; then those that are not needed are let go.

    Cost: ``m n_seeds`` rows forward for m memorized prompts, ``c n_seeds`` for c controls where the threshold is
    calibrated, and at most `n_seeds` a test: about ``(theta - min_theta) / theta_step`` tests a prompt to choose
    neurons, then with ``one-by-one`` at most one for each layer and chosen neuron. Three prompts of the testbed took 94
    to 116 rows with ``ssim`` and ``witnessed``, 411 to 551 in the literal order.

    Pitfalls: Read the outcomes in the notes. With the published layers it gave up on 28 of 32 works of the testbed;
    without all that it found, 107 of 384 neurons, a rate of 0 was left on them and of .03 on others, but of 24 works
    pruned in this way 50 steps of `Dori` brought .875 back. With ``layers=all`` it gave up on none, and base prompts
    lost 32 % of their CLIP alignment; neurons of 4 works alone left .25 on these and .39 on the others.

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
        refine: ``one-by-one`` (the published order of tests), ``grouped`` (halves of a layer's neurons are
            let go at once while that leaves the image forgotten), or ``witnessed`` (groups of a size that
            fits how many may go; only starting noises that showed the image before are asked at every test,
            all of them at the end, and what one refutes is taken back; the fastest with ``ssim``, while the
            others score noises only together). All three give the same neurons if letting go of more never
            makes the image less visible.

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
    refine: str = "one-by-one"

    def __post_init__(self) -> None:
        """Refuse settings without meaning."""
        for value, known in ((self.similarity, tuple(SCALES)), (self.layers, ("down+mid", "all")),
                             (self.refine, tuple(ORDERS))):  # fmt: skip
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
        texts = [p.prompt for p in case.controls]
        starts = range(0, len(texts), TEXTS_AT_ONCE)
        found = torch.cat([noises.likeness(target.encode(texts[i : i + TEXTS_AT_ONCE])) for i in starts])
        return float(found.mean() + found.std())

    def _one(
        self, noises: NoiseDifferences, cond: Tensor, active: dict[Site, Tensor], ordinary: Usual, threshold: float
    ) -> tuple[Neurons, dict[str, object]]:
        """Neurons of one prompt, and how they were found."""
        plain = noises.plain(cond)
        kept = noises.kept(plain, threshold)
        if not kept:
            return {}, {"outcome": "not memorized by this score", "kept_seeds": []}
        witnesses = Witnesses(noises, cond, plain, kept)
        chosen, score, gave_up = self._initial(witnesses, active, ordinary, threshold)
        bound = score if gave_up else threshold

        def forgets(score: float) -> bool:
            return score < bound or (gave_up and abs(score - bound) <= TIE)

        final = self._refined(chosen, witnesses, forgets)
        return final, {
            "outcome": "gave up" if gave_up else "found", "kept_seeds": kept, "initial": sum(map(len, chosen.values())),
            "refined": sum(map(len, final.values())), "score": score,
        }  # fmt: skip

    def _initial(
        self, witnesses: Witnesses, active: dict[Site, Tensor], ordinary: Usual, threshold: float
    ) -> tuple[Neurons, float, bool]:
        """More and more neurons until the image is forgotten; the last choice when it never is."""
        chosen, score = Neurons({site: [] for site in active}), 1.0
        steps = self._steps(active, ordinary)
        while ahead := list(islice(steps, max(1, STEPS_AHEAD // witnesses.asked))):
            for chosen, first in zip(ahead, witnesses.first([_as_masks(c) for c in ahead]), strict=True):
                score = first
                if score <= threshold and (score := self._whole(witnesses, chosen, first)) <= threshold:
                    return chosen, score, False
        return chosen, self._whole(witnesses, chosen, score), True

    def _whole(self, witnesses: Witnesses, chosen: Neurons, first: float) -> float:
        """Score over all noises, given that of the first ones; the most similar one is asked first from now on."""
        others = witnesses.others(_as_masks(chosen))
        if others > first:
            witnesses.turn()
        return max(first, others)

    def _steps(self, active: dict[Site, Tensor], ordinary: Usual) -> Iterator[Neurons]:
        """What the schedule of `theta` proposes; nothing new is left out."""
        theta, before = self.theta, None
        for k in range(MOST_K):
            chosen = {s: candidates(a, ordinary.z(s, a), theta=theta, k=k) for s, a in active.items()}
            if chosen != before and any(chosen.values()):
                yield chosen
            before, theta = chosen, (theta - self.theta_step if theta > self.min_theta else theta)
            if theta <= self.min_theta:
                break

    def _refined(self, chosen: Neurons, witnesses: Witnesses, forgets: Callable[[float], bool]) -> Neurons:
        """What is needed of the chosen neurons; all noises are asked at every test, or late."""
        late = self.refine == "witnessed"

        def others_forget(choice: Neurons) -> bool:
            forgotten = forgets(witnesses.others(_as_masks(choice)))
            if not forgotten:
                witnesses.turn(beside=late)
            return forgotten

        def ask(choices: Sequence[Neurons]) -> list[bool]:
            first = [forgets(score) for score in witnesses.first([_as_masks(c) for c in choices])]
            return [ok and (late or others_forget(c)) for ok, c in zip(first, choices, strict=True)]

        return refined(
            chosen, ask, lambda choice: not late or others_forget(choice), order=ORDERS[self.refine],
            ahead=lambda: max(1, ROWS_AHEAD // witnesses.asked) if late else 1,
        )  # fmt: skip


def candidates(activity: Float[Tensor, "U"], z: Float[Tensor, "U"], *, theta: float, k: int) -> list[int]:
    """Neurons whose z-score exceeds `theta`, and the `k` most active ones, in ascending order."""
    strongest = activity.argsort(descending=True, stable=True)[:k].tolist()
    return sorted({*(z > theta).nonzero().flatten().tolist(), *strongest})


def _as_masks(neurons: Neurons) -> dict[Site, Tensor]:
    masks = {}
    for site, chosen in neurons.items():
        if chosen:
            masks[site] = torch.zeros(site.shape, dtype=torch.bool)
            masks[site][chosen] = True
    return masks
