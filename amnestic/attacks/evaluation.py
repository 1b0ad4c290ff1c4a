"""What candidates are worth on common draws, and slopes by goal: in batches that memory can hold."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from amnestic.attacks.losses import Rows, joined, known_image_loss, lossless_scale
from amnestic.core.target import Target
from amnestic.parallel import shrinking_batches


def compared(
    target: Target, cond: Float[Tensor, "A K L W"], rows: Sequence[Rows], *, weighting: str, batch_size: int
) -> Float[Tensor, "A K"]:
    """Mean denoising loss of K candidates for each of A goals, forward only.

    Formula: ``l[a, k] = mean_d w_t mean (eps(x_t, t, cond[a, k]) - noise)^2`` with x_t, t, noise the d-th draw of goal
    a, the same for all its candidates.

    Args:
        target: The model.
        cond: Candidates by goal, in the precision that computes.
        rows: As many draws for every goal, one entry a goal.
        weighting: Of the loss; see `denoising_loss`.
        batch_size: Most rows at once, fewer when memory runs out; does not change the result beyond rounding.

    Returns:
        Losses, float32 on the CPU; comparable among the candidates of a goal, not among goals.
    """
    (goals, candidates), draws = cond.shape[:2], len(rows[0].t)
    flat, every = cond.flatten(0, 1), joined(list(rows))
    of = torch.arange(goals * candidates).repeat_interleave(draws)
    draw = torch.arange(goals * draws).reshape(goals, 1, draws).expand(goals, candidates, draws).flatten()
    loss, done = torch.zeros(len(flat)), 0

    @torch.no_grad()
    def go_on(size: int) -> None:
        nonlocal done
        while done < len(of):
            part = slice(done, done + size)
            held = flat[of[part].to(flat.device)]
            values = known_image_loss(target, _picked(every, draw[part]), held, weighting=weighting)
            loss.index_add_(0, of[part], values.float().cpu() / draws)
            done += size

    shrinking_batches(go_on, start=batch_size)
    return loss.reshape(goals, candidates)


def slopes(
    target: Target, cond: Float[Tensor, "A L W"], rows: Sequence[Rows], *, weighting: str, batch_size: int,
    precision: torch.dtype,
) -> tuple[Float[Tensor, "A"], Float[Tensor, "A L W"]]:  # fmt: skip
    """Mean denoising loss of one conditioning per goal, and its gradient.

    Args:
        target: The model.
        cond: One conditioning per goal.
        rows: As many draws for every goal, one entry a goal.
        weighting: Of the loss; see `denoising_loss`.
        batch_size: Most rows at once, fewer when memory runs out; does not change the result beyond rounding.
        precision: In which the model computes.

    Returns:
        Losses, float32 on the CPU, and gradients, float32 where `cond` lies; zero where the loss does not depend on
        it.
    """
    draws, point, every = len(rows[0].t), cond.detach().float(), joined(list(rows))
    of = torch.arange(len(point)).repeat_interleave(draws)
    loss, gradient, done = torch.zeros(len(point)), torch.zeros_like(point), 0
    scale = lossless_scale(every.x0, draws)

    def go_on(size: int) -> None:
        nonlocal done
        while done < len(of):
            part = slice(done, done + size)
            owner = of[part].to(point.device)
            held = point[owner].requires_grad_()
            some = _picked(every, torch.arange(len(of))[part])
            with torch.enable_grad():
                values = known_image_loss(target, some, held.to(precision), weighting=weighting) / draws
                slope = _gradient(values.sum() * scale, held)
            gradient.index_add_(0, owner, slope / scale)
            loss.index_add_(0, of[part], values.detach().float().cpu())
            done += size

    shrinking_batches(go_on, start=batch_size)
    return loss, gradient


def token_slopes(
    target: Target, ids: Int[Tensor, "A L"], embeddings: Float[Tensor, "A L E"], rows: Sequence[Rows], *,
    weighting: str, batch_size: int,
) -> tuple[Float[Tensor, "A"], Float[Tensor, "A L E"]]:  # fmt: skip
    """Mean denoising loss of one row of token embeddings per goal, and its gradient through the text encoder.

    Args:
        target: The model.
        ids: Token ids, which say where the text ends.
        embeddings: What the text encoder reads.
        rows: As many draws for every goal, one entry a goal.
        weighting: Of the loss; see `denoising_loss`.
        batch_size: Most rows at once.

    Returns:
        Losses, float32 on the CPU, and gradients, float32 where `embeddings` lie.
    """

    def read(part: slice) -> Tensor:
        with torch.no_grad():
            return target.encode_tokens(ids[part], embeddings[part])

    cond = in_chunks(read, len(ids), batch_size=batch_size)
    loss, slope = slopes(target, cond, rows, weighting=weighting, batch_size=batch_size, precision=cond.dtype)
    size = slope.abs().amax(dim=(1, 2), keepdim=True).clamp(min=torch.finfo(slope.dtype).tiny)

    def back(part: slice) -> Tensor:
        held = embeddings[part].detach().float().requires_grad_()
        with torch.enable_grad():
            said = target.encode_tokens(ids[part], held)
            # A slope of length about one does not round to zero on its way back in half precision.
            total = (said * (slope[part] / size[part]).to(said.dtype)).sum()
            return _gradient(total, held) * size[part]

    return loss, in_chunks(back, len(ids), batch_size=batch_size)


def encoded(target: Target, texts: Sequence[str], *, batch_size: int) -> Float[Tensor, "N L W"]:
    """Conditioning of at least one text, in parts that memory can hold."""
    return in_chunks(lambda part: target.encode(texts[part]), len(texts), batch_size=batch_size)


def in_chunks(work: Callable[[slice], Tensor], n: int, *, batch_size: int) -> Tensor:
    """What `work` makes of consecutive parts, one after the other.

    Args:
        work: From a part to its rows.
        n: How many rows there are, at least 1.
        batch_size: Most at once, fewer when memory runs out.

    Returns:
        All rows.
    """

    def parts(size: int) -> Tensor:
        return torch.cat([work(slice(start, start + size)) for start in range(0, n, size)])

    found: Tensor = shrinking_batches(parts, start=batch_size)
    return found


def _gradient(total: Tensor, held: Tensor) -> Tensor:
    if not total.requires_grad:
        return torch.zeros_like(held)
    (slope,) = torch.autograd.grad(total, held, allow_unused=True)
    return torch.zeros_like(held) if slope is None else slope


def _picked(rows: Rows, which: Int[Tensor, "R"]) -> Rows:
    return Rows(x0=rows.x0[which], noise=rows.noise[which], t=rows.t[which])
