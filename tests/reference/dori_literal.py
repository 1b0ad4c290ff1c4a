"""DoRI's search, written down step by step: an oracle for tests, not for use.

Source: Kowalczuk, Hintersdorf, Struppek, Kersting, Dziedzic, Boenisch, "Finding DoRI", ICML 2026, arXiv 2507.16880;
section 1.1 of the method specification: one image at a time, fresh noise and timesteps in every step, the plain
squared error, Adam (Kingma & Ba, 2015) with its defaults, the embedding alone moves.

Nothing here imports the product. Letters: B draws per step, C H W, L tokens, W width.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Draws = Callable[[int], tuple[Tensor, Tensor]]  # step -> noise (B, C, H, W) and timesteps (B,)


def squared_error(unet: Any, scheduler: Any, x0: Tensor, noise: Tensor, t: Tensor, y: Tensor, aim: str) -> Tensor:
    """Mean over everything of the error of one batch's noise or velocity; y is ``(L, W)``."""
    rows = []
    for row in range(len(noise)):
        alpha = scheduler.alphas_cumprod[int(t[row])]
        noisy = alpha.sqrt() * x0 + (1 - alpha).sqrt() * noise[row]
        out = unet(noisy[None], t[row : row + 1], encoder_hidden_states=y[None]).sample[0]
        known = {"noise": noise[row], "velocity": alpha.sqrt() * noise[row] - (1 - alpha).sqrt() * x0}
        found = {"noise": out}
        if scheduler.config.prediction_type == "v_prediction":
            found = {"noise": alpha.sqrt() * out + (1 - alpha).sqrt() * noisy, "velocity": out}
        rows.append(((found[aim] - known[aim]) ** 2).mean())
    return sum(rows[1:], rows[0]) / len(rows)


def attack(
    unet: Any, scheduler: Any, x0: Tensor, y0: Tensor, draws: Draws, *, steps: int = 50, lr: float = 0.1,
    aim: str = "noise", radius: float | None = None, free: Tensor | None = None,
) -> tuple[list[Tensor], list[float], list[float]]:  # fmt: skip
    """The embedding before and after every step, and the loss and the gradient's length of every step."""
    y, first, second = y0.clone(), torch.zeros_like(y0), torch.zeros_like(y0)
    held, losses, lengths = [y0.clone()], [], []
    for step in range(1, steps + 1):
        noise, t = draws(step - 1)
        point = y.clone().requires_grad_()
        loss = squared_error(unet, scheduler, x0, noise, t, point, aim)
        (gradient,) = torch.autograd.grad(loss, point)
        if free is not None:
            gradient = gradient * free[:, None]
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        y = y - lr * (first / (1 - 0.9**step)) / ((second / (1 - 0.999**step)).sqrt() + 1e-8)
        if radius is not None and (y - y0).norm() > radius:
            y = y0 + (y - y0) * radius / (y - y0).norm()
        held.append(y.clone())
        losses.append(float(loss.detach()))
        lengths.append(float(gradient.norm()))
    return held, losses, lengths
