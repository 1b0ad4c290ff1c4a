"""How alike images are, by the cosine of their descriptors.

All cosines of this file are the same number for the same two descriptors, whatever the batch, the chunk size or the
number of threads, and equal descriptors tie exactly. Plain matrix products do not give that: their rounding depends on
the shapes involved. Here descriptors are put on a grid of 2**-26, so that every product is a multiple of 2**-52 and
every partial sum, being at most about 1, is exact in float64 in any order. Cosines are then rounded to multiples of
2**-24, the resolution of float32 below 1, and clamped to [-1, 1]. The grid moves a cosine by at most
``sqrt(D) * 2**-26``, about 3e-7 for 512 dimensions. Nothing here is differentiable.

Descriptors must be on a device with float64 (any CPU or CUDA device).
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from amnestic.core.errors import InputError, NotFinite

GRID = 2.0**26
STEPS = 2**24
INDICES = 2**32
NORM_TOLERANCE = 0.01
BLOCK = 2**22


def paired(generated: Float[Tensor, "P S D"], originals: Float[Tensor, "P D"]) -> Float[Tensor, "P S"]:
    """Likeness of each generated image to the original of its own prompt.

    Formula: ``<g_ps, o_p>`` for unit vectors.

    Args:
        generated: Unit descriptors of P prompts times S seeds.
        originals: Unit descriptors of the P originals, in the same order.

    Returns:
        Cosines in [-1, 1], float32; comparable only within one descriptor and preprocessing.

    Raises:
        InputError: If shapes disagree or rows are not unit vectors; normalise the descriptors.
        NotFinite: If a descriptor holds NaN or infinity; encode in float32 or bfloat16.

    Example:
        >>> import torch
        >>> paired(torch.tensor([[[1.0, 0.0], [0.6, 0.8]]]), torch.tensor([[0.6, 0.8]]))
        tensor([[0.6000, 1.0000]])

    Source:
        Pizzi et al., "A Self-Supervised Descriptor for Image Copy Detection", 2022.
    """
    _require_axes(generated, 3, "generated images")
    if originals.shape != (generated.shape[0], generated.shape[2]):
        raise InputError(
            f"originals must have shape {(generated.shape[0], generated.shape[2])} to fit generated images of shape "
            f"{tuple(generated.shape)}, got {tuple(originals.shape)}; give one original per prompt"
        )
    return _cosines(torch.einsum("psd,pd->ps", _on_grid(generated), _on_grid(originals)))


def nearest(
    queries: Float[Tensor, "N D"], references: Float[Tensor, "R D"], *, k: int = 1, chunk: int = 65536
) -> tuple[Float[Tensor, "N k"], Int[Tensor, "N k"]]:
    """The k most similar references of each query, exactly.

    Formula: the k largest of ``<q_n, r_j>`` over j; equal cosines in order of j. Scores and indices are kept in one
    integer each, so that order is total and the result does not depend on `chunk`.

    Args:
        queries: Unit descriptors of N images.
        references: Unit descriptors of R references; R is below 2**32. They may be on another device or
            memory-mapped: one chunk at a time is moved to the queries' device.
        k: How many neighbours, at most R.
        chunk: References held at once; bounds memory to about ``8 * chunk * D`` bytes plus 100 MiB and the result.

    Returns:
        Cosines in [-1, 1], float32, falling along the second axis, and the int64 row numbers of the references.

    Raises:
        InputError: If shapes disagree, k is not within 1..R, chunk is below 1, or rows are not unit vectors.
        NotFinite: If a descriptor holds NaN or infinity; encode in float32 or bfloat16.

    Example:
        >>> import torch
        >>> references = torch.tensor([[0.0, 1.0], [1.0, 0.0], [1.0, 0.0]])
        >>> nearest(torch.tensor([[1.0, 0.0]]), references, k=2)
        (tensor([[1., 1.]]), tensor([[1, 2]]))

    Source:
        Somepalli et al., "Diffusion Art or Digital Forgery?", 2023 (top-1 similarity to the training set).
    """
    _require_axes(queries, 2, "queries")
    _require_axes(references, 2, "references")
    if queries.shape[1] != references.shape[1]:
        raise InputError(
            f"queries have {queries.shape[1]} dimensions and references {references.shape[1]}; "
            "encode both with the same descriptor"
        )
    if not 1 <= k <= len(references):
        raise InputError(f"k must be within 1 and the number of references ({len(references)}), got {k}")
    if chunk < 1:
        raise InputError(f"chunk must be at least 1, got {chunk}")
    blocks = torch.split(queries, max(1, BLOCK // min(chunk, len(references))))
    best = [torch.empty(len(b), 0, dtype=torch.int64, device=queries.device) for b in blocks]
    for start in range(0, len(references), chunk):
        part = _on_grid(references[start : start + chunk].to(queries.device)).T
        for i, block in enumerate(blocks):
            found = _keys(_on_grid(block) @ part, start)
            found = found.topk(min(k, found.shape[1])).values
            best[i] = torch.cat([best[i], found], dim=1)
            best[i] = best[i].topk(min(k, best[i].shape[1])).values
    keys = torch.cat(best)
    return (keys // INDICES).to(torch.float32) / STEPS, INDICES - 1 - keys % INDICES


def pair_scores(generated: Float[Tensor, "P S D"]) -> Float[Tensor, "P K"]:
    """Likeness of all pairs of images of one prompt.

    Formula: ``<g_pi, g_pj>`` for all ``i < j``, in the order (0,1), (0,2), ..., (1,2), ...

    Args:
        generated: Unit descriptors of P prompts times S seeds.

    Returns:
        The ``K = S(S-1)/2`` cosines per prompt in [-1, 1], float32; K is 0 for fewer than two seeds.

    Raises:
        InputError: If there are not three axes or rows are not unit vectors; normalise the descriptors.
        NotFinite: If a descriptor holds NaN or infinity; encode in float32 or bfloat16.

    Example:
        >>> import torch
        >>> pair_scores(torch.tensor([[[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]]]))
        tensor([[0.0000, 0.6000, 0.8000]])
    """
    _require_axes(generated, 3, "generated images")
    exact = _on_grid(generated)
    first, second = torch.triu_indices(exact.shape[1], exact.shape[1], offset=1, device=exact.device)
    return _cosines((exact @ exact.transpose(1, 2))[:, first, second])


def diversity(generated: Float[Tensor, "P S D"]) -> Float[Tensor, "P"]:
    """How alike the images of one prompt are among themselves; high means little diversity.

    Formula: ``median over i < j of <g_pi, g_pj>``, the lower middle value of an even count. It is called D_SSCD in the
    literature.

    Args:
        generated: Unit descriptors of P prompts times S seeds.

    Returns:
        One cosine per prompt in [-1, 1], float32, or NaN for fewer than two seeds; lower is more diverse. Comparable
        only within one descriptor and number of seeds.

    Raises:
        InputError: If there are not three axes or rows are not unit vectors; normalise the descriptors.
        NotFinite: If a descriptor holds NaN or infinity; encode in float32 or bfloat16.

    Example:
        >>> import torch
        >>> diversity(torch.tensor([[[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]]]))
        tensor([0.6000])

    Source:
        Hintersdorf et al., "Finding NeMo: Localizing Neurons Responsible For Memorization in Diffusion Models", 2024.
    """
    return _median(pair_scores(generated))


def same_seed(one: Float[Tensor, "P S D"], other: Float[Tensor, "P S D"]) -> Float[Tensor, "P"]:
    """How much of a model's pictures another model keeps: same prompt, same seed.

    Formula: ``median over s of <a_ps, b_ps>``, the lower middle value of an even count. It is called SSCD_Gen in the
    literature, where one model is the original and the other the edited one.

    Args:
        one: Unit descriptors of one model's images, P prompts times S seeds.
        other: Unit descriptors of another model's images of the same prompts and seeds in the same order.

    Returns:
        One cosine per prompt in [-1, 1], float32, or NaN without seeds; 1 means unchanged. Comparable only within one
        descriptor, sampler and number of seeds.

    Raises:
        InputError: If shapes disagree or rows are not unit vectors; normalise the descriptors.
        NotFinite: If a descriptor holds NaN or infinity; encode in float32 or bfloat16.

    Example:
        >>> import torch
        >>> same_seed(torch.tensor([[[1.0, 0.0], [1.0, 0.0]]]), torch.tensor([[[1.0, 0.0], [0.6, 0.8]]]))
        tensor([0.6000])

    Source:
        Hintersdorf et al., "Finding NeMo: Localizing Neurons Responsible For Memorization in Diffusion Models", 2024.
    """
    _require_axes(one, 3, "generated images")
    if one.shape != other.shape:
        raise InputError(
            f"both models' images must have one shape, got {tuple(one.shape)} and {tuple(other.shape)}; "
            "keep only prompts and seeds that both have"
        )
    return _median(_cosines(torch.einsum("psd,psd->ps", _on_grid(one), _on_grid(other))))


def _on_grid(descriptors: Tensor) -> Tensor:
    """Unit vectors as whole numbers of 1 / GRID, in float64."""
    exact = descriptors.detach().to(torch.float64, copy=True)
    norms = torch.linalg.vector_norm(exact, dim=-1)
    if not bool(norms.isfinite().all()):
        raise NotFinite("descriptors must be finite, got NaN or infinity; encode in float32 or bfloat16")
    off = (norms - 1).abs()
    if bool((off > NORM_TOLERANCE).any()):
        worst = float(norms.flatten()[off.argmax()])
        raise InputError(f"descriptors must be unit vectors, got a norm of {worst:.4g}; normalise them first")
    return exact.mul_(GRID).round_()


def _steps(dots: Tensor) -> Tensor:
    """Dot products on the squared grid as whole numbers of 1 / STEPS, in place."""
    return dots.div_(GRID * GRID / STEPS).round_().clamp_(-STEPS, STEPS)


def _cosines(dots: Tensor) -> Tensor:
    """Dot products on the squared grid as float32 cosines; adding 0 turns -0 into 0."""
    return _steps(dots).to(torch.float32) / STEPS + 0.0


def _keys(dots: Tensor, start: int) -> Tensor:
    """One whole number per pair that orders by falling cosine, then by rising index."""
    indices = torch.arange(start, start + dots.shape[1], device=dots.device)
    return _steps(dots).to(torch.int64).mul_(INDICES).add_(INDICES - 1 - indices)


def _median(values: Tensor) -> Tensor:
    """Lower middle value along the second axis, NaN where there is none."""
    if values.shape[1] == 0:
        return torch.full((values.shape[0],), torch.nan, device=values.device)
    return values.median(dim=1).values


def _require_axes(descriptors: Tensor, axes: int, name: str) -> None:
    if descriptors.ndim != axes:
        wanted = "prompts, seeds, descriptor" if axes == 3 else "images, descriptor"
        raise InputError(f"{name} must have {axes} axes ({wanted}), got shape {tuple(descriptors.shape)}; reshape them")
