"""Wanda-style subspace pruning, written down step by step: an oracle for tests, not for use.

Source: Chavhan et al., "Memorized Images in Diffusion Models share a Subspace that can be Located and
Deleted", 2024; the norms and masks are those of the ConceptPrune programs by the same authors.

Which part follows which section of the method specification:

* `ffn_output_layers`: 3.1, the second feed-forward linear of every transformer block, by name;
* `record_prompt`: 3.2, whole sampling runs, the same seed before every prompt, every U-Net call;
* `normalised_rows`, `column_norms`: 3.2, both guidance rows, rows to unit length, root of summed squares;
* `scores`, `top_per_row`, `step_mask`: 3.3, per output row, target strictly above contrast;
* `paired_with_contrast`: 3.3, the empty prompt, or non-memorized prompts cut to the shorter list;
* `union_over_steps`, `pruned`: 3.4;
* float32 throughout, the CPU generator, calls counted and not assumed: 3.7 and 3.8.

Nothing here imports the product. Letters: D outputs, F inputs (the 4d of the papers), L tokens.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import DTypeLike, NDArray
from torch import Tensor, nn

Array = NDArray[Any]
Mask = NDArray[np.bool_]
Recording = dict[str, list[Array]]  # layer -> U-Net call -> (2, L, F)
Norms = dict[str, list[Array]]  # layer -> U-Net call -> (F,)
Prompt = str | Tensor
Compare = Literal["scores", "norms"]


def ffn_output_layers(unet: nn.Module) -> list[str]:
    """3.1: names of Linear modules with ``ff.net`` and without ``proj``, in alphabetical order (down, mid, up)."""
    names = []
    for name, module in unet.named_modules():
        if isinstance(module, nn.Linear) and "ff.net" in name and "proj" not in name:
            names += [name]
    return sorted(names)


def normalised_rows(rows: Array, *, dtype: DTypeLike = np.float32) -> Array:
    """3.2: every row divided by its L2 norm; a zero row stays zero (3.8). Shape ``(rows, F)`` in and out."""
    result = np.zeros(rows.shape, dtype=dtype)
    for index in range(rows.shape[0]):
        row = rows[index].astype(dtype)
        norm = np.sqrt(np.sum(row * row, dtype=dtype))
        result[index] = row / np.maximum(norm, np.asarray(1e-12, dtype=dtype))
    return result


def column_norms(prompts: Sequence[Array], *, dtype: DTypeLike = np.float32) -> Array:
    """3.2: norm of each input column over the rows of all prompts, at one call and one layer.

    Args:
        prompts: One array ``(2, L, F)`` a prompt: the inputs of the linear for the unconditional and
            the conditional row. Both count.
        dtype: Floating type of the arithmetic.

    Returns:
        ``A`` of shape ``(F,)``: the root of the sum of squares.
    """
    total = np.zeros(prompts[0].shape[-1], dtype=dtype)
    for activation in prompts:
        if activation.ndim != 3 or activation.shape[0] != 2:
            raise ValueError(f"expected both guidance rows, (2, L, F), got {activation.shape}; use guidance above 1")
        rows = normalised_rows(activation.reshape(-1, activation.shape[-1]), dtype=dtype)
        for row in rows:
            total = total + row * row
    return np.sqrt(total)


def all_norms(recordings: Sequence[Recording], *, dtype: DTypeLike = np.float32) -> Norms:
    """3.2: `column_norms` for every layer and every U-Net call; one recording a prompt."""
    result: Norms = {}
    for layer in recordings[0]:
        calls = {len(recording[layer]) for recording in recordings}
        if len(calls) != 1:
            raise ValueError(f"{layer} ran {sorted(calls)} times; all prompts need equally many U-Net calls")
        result[layer] = []
        for call in range(calls.pop()):
            result[layer].append(column_norms([recording[layer][call] for recording in recordings], dtype=dtype))
    return result


def scores(weight: Array, norm: Array, *, dtype: DTypeLike = np.float32) -> Array:
    """3.3: ``S[i, j] = |W[i, j]| * A[j]``; `weight` is ``(D, F)``, `norm` is ``(F,)``."""
    result = np.zeros(weight.shape, dtype=dtype)
    for i in range(weight.shape[0]):
        for j in range(weight.shape[1]):
            result[i, j] = abs(weight[i, j].astype(dtype)) * norm[j].astype(dtype)
    return result


def top_per_row(score: Array, ratio: float) -> Mask:
    """3.3: the ``int(ratio * F)`` largest entries of every output row; of equal ones the lower column."""
    count = int(ratio * score.shape[1])
    if count == 0:
        warnings.warn(f"ratio {ratio} of {score.shape[1]} inputs selects nothing", stacklevel=2)
    mask = np.zeros(score.shape, dtype=bool)
    for i in range(score.shape[0]):
        ranked = np.argsort(-score[i], kind="stable")
        for j in ranked[:count]:
            mask[i, j] = True
    return mask


def step_mask(weight: Array, target: Array, contrast: Array, ratio: float, *, compare: Compare = "scores") -> Mask:
    """3.3: the mask at one U-Net call and one layer.

    Args:
        weight: ``(D, F)``.
        target: Norms ``(F,)`` of the memorized prompts.
        contrast: Norms ``(F,)`` of the contrast prompts.
        ratio: Share r of each output row.
        compare: ``scores`` tests ``|W| A_target > |W| A_contrast`` entry by entry (3.3), ``norms``
            tests ``A_target > A_contrast`` column by column (3.7, 3.8). They differ where W is 0 or
            where the products round to a tie.

    Returns:
        ``(D, F)``, true where an entry is to be pruned.
    """
    target_score = scores(weight, target, dtype=target.dtype)
    contrast_score = scores(weight, contrast, dtype=target.dtype)
    mask = top_per_row(target_score, ratio)
    for i in range(weight.shape[0]):
        for j in range(weight.shape[1]):
            by_score = target_score[i, j] > contrast_score[i, j]
            by_norm = target[j] > contrast[j]
            if not (by_score if compare == "scores" else by_norm):
                mask[i, j] = False
    return mask


def union_over_steps(masks: Sequence[Mask], tau: int, *, select_ratio: float = 0.0) -> Mask:
    """3.4: entries marked in more than ``select_ratio * tau`` of the first `tau` U-Net calls; 0 is the plain union."""
    if len(masks) < tau:
        raise ValueError(f"tau is {tau}, but only {len(masks)} U-Net calls were recorded; lower tau or sample longer")
    count = np.zeros(masks[0].shape, dtype=int)
    for mask in masks[:tau]:
        count = count + mask
    return np.asarray(count > select_ratio * tau)


def masks_of(
    weights: Mapping[str, Array],
    target: Norms,
    contrast: Norms,
    *,
    ratio: float,
    tau: int,
    select_ratio: float = 0.0,
    compare: Compare = "scores",
) -> dict[str, Mask]:
    """3.3 and 3.4 for all layers: weights ``(D, F)`` and norms by layer name give masks ``(D, F)``."""
    result = {}
    for layer, weight in weights.items():
        steps = []
        for at_target, at_contrast in zip(target[layer][:tau], contrast[layer][:tau], strict=True):
            steps.append(step_mask(weight, at_target, at_contrast, ratio, compare=compare))
        result[layer] = union_over_steps(steps, tau, select_ratio=select_ratio)
    return result


def pruned(weight: Tensor, mask: Mask) -> Tensor:
    """3.4: a copy of `weight` with zeros where the mask is true, in the weight's own type."""
    result = weight.detach().clone()
    result[torch.from_numpy(mask).to(weight.device)] = 0
    return result


def paired_with_contrast(
    targets: Sequence[Prompt], others: Sequence[Prompt] | None = None, empty: str = ""
) -> tuple[list[Prompt], list[Prompt]]:
    """3.3: the empty prompt once a target, or other prompts; then both lists end with the shorter one."""
    contrast: list[Prompt] = [empty] * len(targets) if others is None else list(others)
    count = min(len(targets), len(contrast))
    return list(targets[:count]), contrast[:count]


def record_calls(unet: nn.Module, layers: Sequence[str], run: Callable[[], object]) -> Recording:
    """Inputs of each layer, one entry a U-Net call, in float32, while `run` is at work."""
    modules = dict(unet.named_modules())
    recording: Recording = {layer: [] for layer in layers}
    calls = []

    def count(_module: nn.Module, _inputs: object) -> None:
        calls.append(1)

    def keeper(layer: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def keep(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            recording[layer].append(inputs[0].detach().float().cpu().numpy().copy())

        return keep

    handles = [unet.register_forward_pre_hook(count)]
    handles += [modules[layer].register_forward_pre_hook(keeper(layer)) for layer in layers]
    try:
        with torch.no_grad():
            run()
    finally:
        for handle in handles:
            handle.remove()
    for layer in layers:
        if len(recording[layer]) != len(calls):
            raise ValueError(
                f"{layer} ran {len(recording[layer])} times in {len(calls)} U-Net calls; expected once each"
            )
    return recording


def record_prompt(
    pipeline: Any,
    prompt: Prompt,
    layers: Sequence[str],
    *,
    steps: int = 50,
    guidance_scale: float = 7.5,
    seed: int = 0,
    latents: Tensor | None = None,
) -> Recording:
    """3.2: one whole sampling run of one prompt, every U-Net call recorded.

    Args:
        pipeline: The pipeline with its own scheduler; unchanged afterwards.
        prompt: A text, or a text embedding ``(1, L, W)`` (3.7, last but one paragraph).
        layers: Names of linears below the U-Net.
        steps: Sampling steps asked for; the scheduler may make more U-Net calls (PNDM: one more).
        guidance_scale: Above 1, so that the unconditional row runs too.
        seed: Of the CPU generator, made anew for every prompt.
        latents: Starting noise to take instead of that of the generator.

    Returns:
        By layer one array ``(2, L, F)`` a U-Net call: unconditional row, then conditional row.
    """
    given: dict[str, Any] = {"prompt": prompt}
    if isinstance(prompt, Tensor):
        with torch.no_grad():
            empty = pipeline.encode_prompt("", pipeline.unet.device, 1, False)[0]
        given = {"prompt_embeds": prompt, "negative_prompt_embeds": empty}

    def run() -> object:
        return pipeline(
            **given,
            num_inference_steps=steps,
            guidance_scale=guidance_scale,
            generator=torch.Generator().manual_seed(seed),
            latents=latents,
            output_type="latent",
        )

    return record_calls(pipeline.unet, layers, run)


def locate(
    pipeline: Any,
    targets: Sequence[Prompt],
    others: Sequence[Prompt] | None = None,
    *,
    layers: Sequence[str] | None = None,
    ratio: float = 0.01,
    tau: int = 10,
    select_ratio: float = 0.0,
    steps: int = 50,
    guidance_scale: float = 7.5,
    seed: int = 0,
    latents: Tensor | None = None,
    compare: Compare = "scores",
    dtype: DTypeLike = np.float32,
) -> dict[str, Mask]:
    """3.1 to 3.4 in one go: which feed-forward weights belong to the memorized prompts.

    Args:
        pipeline: A text-to-image pipeline with a U-Net.
        targets: Memorized prompts (or embeddings).
        others: Contrast prompts; ``None`` takes the empty prompt once a target.
        layers: Layers to score; default all of `ffn_output_layers`.
        ratio: Share r of each output row.
        tau: How many U-Net calls, in sampling order, enter the union.
        select_ratio: Share of these calls that must be exceeded.
        steps: Sampling steps.
        guidance_scale: Of the sampling.
        seed: Reset before every prompt, so that all runs share the starting noise.
        latents: Starting noise of all runs instead.
        compare: See `step_mask`.
        dtype: Floating type of norms and scores.

    Returns:
        By layer a mask ``(D, F)``, true where a weight is to be pruned.
    """
    chosen = ffn_output_layers(pipeline.unet) if layers is None else list(layers)
    target_prompts, contrast_prompts = paired_with_contrast(targets, others)

    def norms(prompts: Sequence[Prompt]) -> Norms:
        how: dict[str, Any] = {"steps": steps, "guidance_scale": guidance_scale, "seed": seed, "latents": latents}
        return all_norms([record_prompt(pipeline, prompt, chosen, **how) for prompt in prompts], dtype=dtype)

    modules = dict(pipeline.unet.named_modules())
    weights = {layer: modules[layer].weight.detach().float().cpu().numpy() for layer in chosen}
    return masks_of(
        weights,
        norms(target_prompts),
        norms(contrast_prompts),
        ratio=ratio,
        tau=tau,
        select_ratio=select_ratio,
        compare=compare,
    )
