"""NeMo, written down step by step: an oracle for tests, not for use.

Source: Hintersdorf et al., "Finding NeMo: Localizing Neurons Responsible for Memorization in Diffusion
Models", NeurIPS 2024, and the programs released with it.

Which part follows which section of the method specification:

* `value_layers`: 0.1, value projections of the cross-attention, down blocks in order, then the middle;
* `initial_latents`, `noise_difference`, `min_max`: 2.1, one pass, no guidance, `t_index` 1 as released
  (0 as printed), the initial noise untouched, every sample and channel scaled to [0, 1];
* `ms_ssim` (a file of its own), `pair_scores`, `best_pair_scores`, `kept_seeds`, `calibrated_threshold`: 2.1;
* `token_mean_activations`, `activation_statistics`: 2.2;
* `candidates`, `initial_selection`: 2.3, corrected by 2.8 (give up at ``<=``, never after acceptance);
* `refine`: 2.4, with the tie rule of 2.8;
* `blocked`: 2.5.

Nothing here imports the product. Letters: N samples (seeds), C H W, L tokens, W width.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from .ms_ssim_literal import BETAS, ms_ssim

Neurons = dict[str, list[int]]  # layer -> outputs of its value projection
Score = Callable[[Neurons], float]
Order = Literal["ascending", "deduplicated", "published"]

THRESHOLD = 0.428


def value_layers(unet: Any) -> list[str]:
    """Names of ``attn2.to_v`` in the down blocks, in order, then in the middle block; seven in SD 1.4."""
    blocks = [(f"down_blocks.{index}", block) for index, block in enumerate(unet.down_blocks)]
    if unet.mid_block is not None:
        blocks.append(("mid_block", unet.mid_block))
    names = []
    for block_name, block in blocks:
        for number, attention in enumerate(getattr(block, "attentions", None) or []):
            for inner in range(len(attention.transformer_blocks)):
                names += [f"{block_name}.attentions.{number}.transformer_blocks.{inner}.attn2.to_v"]
    return names


def initial_latents(unet: Any, n: int = 10, seed: int = 1) -> Tensor:
    """``(n, C, H, W)`` from a CPU generator in one draw; the side is the U-Net's ``sample_size``."""
    size = unet.config.sample_size
    height, width = (size, size) if isinstance(size, int) else size
    return torch.randn((n, unet.config.in_channels, height, width), generator=torch.Generator().manual_seed(seed))


def min_max(delta: Tensor) -> Tensor:
    """Every sample and every channel on its own to [0, 1] over its pixels; a flat channel is an error (2.8)."""
    result = torch.empty_like(delta)
    for sample in range(delta.shape[0]):
        for channel in range(delta.shape[1]):
            values = delta[sample, channel]
            low, high = values.min(), values.max()
            if not high > low:
                raise ValueError(f"channel {channel} of sample {sample} is flat or not finite; it has no min-max form")
            result[sample, channel] = (values - low) / (high - low)
    return result


def predicted_noise(unet: Any, scheduler: Any, latents: Tensor, t: Tensor, embedding: Tensor) -> Tensor:
    """Noise as the model sees it in `latents`: the output itself, or eps computed from a predicted v."""
    cond = embedding.expand(len(latents), -1, -1)
    output: Tensor = unet(scheduler.scale_model_input(latents, t), t, encoder_hidden_states=cond).sample
    kind = scheduler.config.prediction_type
    if kind == "v_prediction":
        alpha: Tensor = scheduler.alphas_cumprod[int(t)]
        return alpha.sqrt() * output + (1 - alpha).sqrt() * latents
    if kind != "epsilon":
        raise ValueError(f"expected a model of noise or v, got {kind}")
    return output


@contextmanager
def blocked(unet: nn.Module, neurons: Mapping[str, Sequence[int]], factor: float = 0.0) -> Iterator[None]:
    """2.5: the outputs `neurons` of the named layers times `factor`, for all tokens and rows."""

    def hook(indices: list[int]) -> Callable[[nn.Module, object, Tensor], Tensor]:
        def scale(_module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
            changed = output.clone()
            for index in indices:
                changed[..., index] = output[..., index] * factor
            return changed

        return scale

    modules = dict(unet.named_modules())
    handles = [modules[name].register_forward_hook(hook(sorted(set(chosen)))) for name, chosen in neurons.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def noise_difference(
    unet: Any,
    scheduler: Any,
    latents: Tensor,
    embedding: Tensor,
    *,
    neurons: Mapping[str, Sequence[int]] | None = None,
    factor: float = 0.0,
    steps: int = 50,
    t_index: int = 1,
    wasted_passes: bool = False,
) -> Tensor:
    """Scaled difference of predicted and initial noise, ``(N, C, H, W)`` in [0, 1].

    Args:
        unet: The U-Net.
        scheduler: Its scheduler; a copy is set to `steps`.
        latents: Initial noise ``(N, C, H, W)``, never denoised.
        embedding: Of one prompt, ``(1, L, W)``.
        neurons: What to block.
        factor: What blocked outputs are multiplied by.
        steps: Sampling steps that define the timesteps.
        t_index: Which of these timesteps to ask for: 1 as released, 0 as printed.
        wasted_passes: Ask for all timesteps before it as well and forget the answers, as the released
            program does; the result is the same.

    Returns:
        One delta a seed, min-max normalised.
    """
    own = type(scheduler).from_config(scheduler.config)
    own.set_timesteps(steps)
    with blocked(unet, neurons or {}, factor):
        for t in own.timesteps[0 if wasted_passes else t_index : t_index + 1]:
            noise = predicted_noise(unet, own, latents, t, embedding)
    return min_max(noise - latents)


def pair_scores(deltas: Tensor, *, betas: Sequence[float] = BETAS) -> dict[tuple[int, int], float]:
    """Similarity of all pairs of seeds, computed in one call so that they share one data range."""
    pairs = [(i, j) for i in range(len(deltas)) for j in range(i + 1, len(deltas))]
    values = ms_ssim(deltas[[i for i, _ in pairs]], deltas[[j for _, j in pairs]], betas=betas)
    return {pair: float(value) for pair, value in zip(pairs, values, strict=True)}


def best_pair_scores(deltas: Tensor, *, betas: Sequence[float] = BETAS) -> list[float]:
    """For each seed the largest similarity to another seed."""
    scores = pair_scores(deltas, betas=betas)
    return [max(value for pair, value in scores.items() if seed in pair) for seed in range(len(deltas))]


def kept_seeds(deltas: Tensor, *, threshold: float = THRESHOLD, betas: Sequence[float] = BETAS) -> list[int]:
    """Seeds whose best similarity is above the threshold; none means: not memorized."""
    return [seed for seed, value in enumerate(best_pair_scores(deltas, betas=betas)) if value > threshold]


def calibrated_threshold(prompts: Sequence[Tensor], *, betas: Sequence[float] = BETAS) -> float:
    """Mean plus one (unbiased) standard deviation, over prompts, of the largest pair score of a prompt.

    Args:
        prompts: Deltas ``(N, C, H, W)`` of each non-memorized prompt.
        betas: Exponents of the scales.

    Returns:
        The threshold, 0.428 in the paper.
    """
    best = [max(pair_scores(deltas, betas=betas).values()) for deltas in prompts]
    return float(np.mean(best) + np.std(best, ddof=1))


@torch.no_grad()
def token_mean_activations(unet: Any, embedding: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
    """For each layer the mean over all tokens, padding included, of the absolute outputs: ``(width,)``, float32.

    The U-Net runs once on zeros, as any latents and timestep give the same values.
    """
    seen: dict[str, Tensor] = {}

    def hook(name: str) -> Callable[[nn.Module, object, Tensor], None]:
        def keep(_module: nn.Module, _inputs: object, output: Tensor) -> None:
            seen[name] = output[0].float().abs().mean(dim=0)

        return keep

    modules = dict(unet.named_modules())
    handles = [modules[name].register_forward_hook(hook(name)) for name in layers]
    try:
        unet(torch.zeros_like(initial_latents(unet, 1)), 0, encoder_hidden_states=embedding)
    finally:
        for handle in handles:
            handle.remove()
    return {name: seen[name] for name in layers}


def activation_statistics(
    unet: Any, embeddings: Sequence[Tensor], layers: Sequence[str]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Mean and unbiased standard deviation over held-back prompts, by layer, each ``(width,)``."""
    rows = [token_mean_activations(unet, embedding, layers) for embedding in embeddings]
    means, stds = {}, {}
    for name in layers:
        stacked = torch.stack([row[name] for row in rows])
        means[name], stds[name] = stacked.mean(dim=0), stacked.std(dim=0, unbiased=True)
    return means, stds


def candidates(
    activations: Mapping[str, Tensor],
    means: Mapping[str, Tensor],
    stds: Mapping[str, Tensor],
    *,
    theta: float,
    k: int,
    order: Order = "ascending",
) -> Neurons:
    """C: neurons with ``|a - mu| / sigma > theta``, and the k most active of each layer.

    Args:
        activations: Token means of the prompt, ``(width,)`` by layer.
        means: Of the held-back prompts.
        stds: Of the held-back prompts.
        theta: Threshold of the z-score, strict.
        k: How many of the most active; capped at the width; of equal ones the lower index.
        order: ``published`` keeps the released list, outliers ascending and then the most active by
            falling activation, duplicates included; ``deduplicated`` keeps each neuron's last place in that
            list; ``ascending`` sorts the set by index.

    Returns:
        Neurons of each layer, in the order in which `refine` tries them.
    """
    result: Neurons = {}
    for name, values in activations.items():
        z = (values - means[name]).abs() / stds[name]
        outliers = [index for index in range(len(values)) if z[index] > theta]
        ranked = sorted(range(len(values)), key=values.tolist().__getitem__, reverse=True)  # stable: ties keep order
        listed = outliers + ranked[: min(k, len(values))]
        if order == "ascending":
            listed = sorted(set(listed))
        if order == "deduplicated":
            listed = [index for place, index in enumerate(listed) if index not in listed[place + 1 :]]
        result[name] = listed
    return result


@dataclass(frozen=True, kw_only=True)
class Selection:
    """How the search of 2.3 ended.

    Attributes:
        neurons: C.
        score: Similarity with C blocked.
        threshold: What refinement compares with; `score` after giving up.
        gave_up: Whether theta or k reached its end first.
        tried: ``(theta, k, score)`` of every evaluation.
    """

    neurons: Neurons
    score: float
    threshold: float
    gave_up: bool
    tried: tuple[tuple[float, int, float], ...]


def initial_selection(
    propose: Callable[[float, int], Neurons],
    score: Score,
    *,
    accept: float = THRESHOLD,
    refinement: float = THRESHOLD,
    theta: float = 5.0,
    theta_step: float = 0.25,
    min_theta: float = 1.0,
    k: int = 0,
    max_k: int = 1280,
) -> Selection:
    """2.3: lower theta and raise k until blocking brings the similarity down to `accept`.

    `propose` gives the `candidates` of the prompt for a theta and a k; `score` the largest similarity
    over the kept seeds with them blocked. After every failure theta loses `theta_step`, while it is
    above `min_theta`, and k gains one; the search gives up when either arrives at its end, with the
    candidates evaluated last. `refinement` is the threshold handed on after acceptance.
    """
    tried: list[tuple[float, int, float]] = []
    while True:
        neurons = propose(theta, k)
        value = score(neurons)
        tried.append((theta, k, value))
        if value <= accept:
            return Selection(neurons=neurons, score=value, threshold=refinement, gave_up=False, tried=tuple(tried))
        if theta > min_theta:
            theta = theta - theta_step
        k = k + 1
        if theta <= min_theta or k >= max_k:
            return Selection(neurons=neurons, score=value, threshold=value, gave_up=True, tried=tuple(tried))


def refine(neurons: Neurons, score: Score, threshold: float, *, tie_tolerance: float | None = None) -> Neurons:
    """2.4: take whole layers, then single neurons, out of the blocked set while the score stays below.

    Args:
        neurons: C by layer, in the order of `value_layers`; layers are visited from the last to the first.
        score: Largest similarity over the kept seeds with the given neurons blocked.
        threshold: What is dropped keeps the score strictly below this.
        tie_tolerance: Scores within this of the threshold count as equal and are dropped too (2.8, after
            giving up); ``None`` for the strict test alone.

    Returns:
        R by layer, the same keys.
    """

    def may_go(value: float) -> bool:
        return value < threshold or (tie_tolerance is not None and abs(value - threshold) <= tie_tolerance)

    kept = {name: list(chosen) for name, chosen in neurons.items()}
    for name in reversed(list(kept)):
        if kept[name]:
            without = {**kept, name: []}
            if may_go(score(without)):
                kept = without
    for name in reversed(list(kept)):
        for neuron in list(kept[name]):
            shorter = list(kept[name])
            shorter.remove(neuron)
            without = {**kept, name: shorter}
            if may_go(score(without)):
                kept = without
    return kept


@dataclass(frozen=True, kw_only=True)
class Located:
    """What NeMo says of one prompt.

    Attributes:
        kept: Seeds above the pair threshold; none: not memorized, all else is empty or 0.
        selection: How the search ended, or ``None``.
        refined: Neurons left after refinement.
        refined_score: Similarity with these blocked.
    """

    kept: list[int]
    selection: Selection | None
    refined: Neurons
    refined_score: float


def locate(
    unet: Any,
    scheduler: Any,
    embedding: Tensor,
    statistics: tuple[Mapping[str, Tensor], Mapping[str, Tensor]],
    *,
    layers: Sequence[str] | None = None,
    latents: Tensor | None = None,
    n: int = 10,
    seed: int = 1,
    pair_threshold: float = THRESHOLD,
    accept: float = THRESHOLD,
    refinement: float = THRESHOLD,
    betas: Sequence[float] = BETAS,
    steps: int = 50,
    t_index: int = 1,
    factor: float = 0.0,
    order: Order = "ascending",
    tie_tolerance: float | None = 1e-4,
    search: Mapping[str, Any] | None = None,
    wasted_passes: bool = False,
) -> Located:
    """2.1 to 2.4 for one prompt; U-Net and scheduler are as before afterwards.

    Arguments are those of the functions above. `statistics` comes from `activation_statistics`,
    `latents` replaces the draw of `n` and `seed`, `pair_threshold`, `accept` and `refinement` are
    the three thresholds, `tie_tolerance` is used only after the search gave up, and `search` is the
    schedule of `initial_selection`: theta, theta_step, min_theta, k, max_k.
    """
    names = value_layers(unet) if layers is None else list(layers)
    start = initial_latents(unet, n, seed) if latents is None else latents

    def delta(neurons: Neurons | None = None) -> Tensor:
        return noise_difference(
            unet, scheduler, start, embedding, neurons=neurons, factor=factor, steps=steps, t_index=t_index,
            wasted_passes=wasted_passes,
        )  # fmt: skip

    plain = delta()
    kept = kept_seeds(plain, threshold=pair_threshold, betas=betas)
    if not kept:
        return Located(kept=[], selection=None, refined={name: [] for name in names}, refined_score=0.0)

    def score(neurons: Neurons) -> float:
        return float(ms_ssim(plain[kept], delta(neurons)[kept], betas=betas).max())

    activations = token_mean_activations(unet, embedding, names)

    def propose(theta: float, k: int) -> Neurons:
        return candidates(activations, statistics[0], statistics[1], theta=theta, k=k, order=order)

    selection = initial_selection(propose, score, accept=accept, refinement=refinement, **(search or {}))
    tolerance = tie_tolerance if selection.gave_up else None
    refined = refine(selection.neurons, score, selection.threshold, tie_tolerance=tolerance)
    return Located(kept=kept, selection=selection, refined=refined, refined_score=score(refined))
