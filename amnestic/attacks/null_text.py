"""The starting noise of a known image under the empty prompt: an attack that says nothing (TINA, CVPR 2026)."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from amnestic.core.attacks import Attack, AttackCase, Search, Tried
from amnestic.core.errors import InputError
from amnestic.core.registry import register
from amnestic.core.seeds import generator
from amnestic.core.target import Target
from amnestic.parallel import shrinking_batches

SOLVERS = ("iterate", "adamw")


@register
@dataclass(frozen=True, kw_only=True)
class NullText(Attack):
    """Inverts a known image to a starting noise under the empty prompt, so that no text has to survive unlearning.

    Formula: one DDIM step backwards is the fixed point of ``z = r x + b eps(z, t, "")`` with x the latents one step
    cleaner, ``r = s_t / s``, ``b = n_t - r n``, s and n the shares of signal and noise (``s^2 + n^2 = 1``), at x's
    timestep and, with index t, at the next noisier one. The original itself counts as without noise.

    A starting noise can carry any image: it has as many numbers as the picture, and an exact inversion brings back
    what the model never saw. That something comes back therefore says nothing, however alike it looks. Only the
    difference to controls does: images that the model cannot know, inverted with the same settings. Where these come
    back as well, nothing was found out about memorization.

    A step of the search is one pass over all timesteps at which the model would draw, from clean to noise, that begins
    where the pass before it ended, so that a whole starting noise is held after each; at step 0 it is a random one.

    Drawing from the noise is deterministic with DDIM alone. Guidance then has no effect, for it pushes from the empty
    prompt towards the conditioning, which is the empty prompt itself.

    Published: 25 iterations of AdamW at 0.001 per timestep over 50 timesteps, here ``solver=adamw iterations=25
    steps=1``; taken to move the latents, since a search that moves the embedding would speak again.

    Cost: N works x steps x T x iterations rows forward for T timesteps at which the model would draw; with ``adamw``
    these flow back as well, and each timestep of a pass has one row more. With T = 50 and the defaults a pass has 250
    and the whole search 1,250, as many as TINA takes steps of AdamW. Judging is apart.

    Pitfalls: Audits with another scheduler than ``DDIMScheduler`` are refused. The loss tells how far the noise is from
    a fixed point: where it stays large, more `iterations` or `steps` are wanted before anything is concluded. AdamW
    moves a number by about `learning_rate` a step, so that ``adamw`` with the default iterations hardly leaves the
    plain step of DDIM backwards that each pass begins with.

    Attributes:
        steps: Passes over all timesteps.
        iterations: Per timestep and pass.
        solver: ``iterate`` (plain fixed-point iteration) or ``adamw`` (on the squared distance to the fixed point).
        learning_rate: Of AdamW.
        batch_size: Most rows computed at once; does not change the result beyond rounding.
        seed: Seed of the noise at step 0.

    Source:
        "TINA: Text-Free Inversion Attack", CVPR 2026; the fixed point: Pan, Gherardi, Xie, Huang, "Effective
        Real Image Editing with Accelerated Iterative Diffusion Inversion", ICCV 2023; DDIM: Song, Meng, Ermon, ICLR
        2021.
    """

    searches: ClassVar[str] = "noise"
    uses_gradient: ClassVar[bool] = False  # a gradient of zero is a fixed point that was found
    steps: int = 5
    iterations: int = 5
    solver: str = "iterate"
    learning_rate: float = 0.001
    batch_size: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse settings without meaning."""
        if self.solver not in SOLVERS:
            raise ValueError(f"expected {', '.join(SOLVERS)}; got {self.solver}")
        if min(self.steps, self.iterations, self.batch_size) < 1 or self.learning_rate <= 0:
            raise ValueError("steps, iterations, batch_size and learning_rate must be positive")

    def search(self, target: Target, case: AttackCase, attempt: int) -> Search:
        """One pass for all goals at once; a goal that is left alone neither moves nor costs a row."""
        if case.sampling.scheduler != "DDIMScheduler":
            raise InputError(
                f"null-text inverts DDIM, the audit drew with {case.sampling.scheduler}; audit with DDIMScheduler first"
            )
        empty, times = target.encode([""]), _ascending(target.timesteps(case.sampling))
        cond = empty.expand(len(case.goals), -1, -1)
        noise = [
            torch.randn(target.noise_shape(), generator=generator(self.seed, "null-text", g.id)) for g in case.goals
        ]
        clean = torch.stack([goal.original.detach().float().cpu() for goal in case.goals])
        path: list[Tensor] = []
        unknown = torch.full((len(clean),), torch.nan)
        asleep = yield Tried(cond=cond, loss=unknown, gradient=unknown, start=torch.stack(noise))
        held = torch.stack(noise)
        for _ in range(self.steps):
            awake = [i for i in range(len(clean)) if i not in asleep]
            loss, held = unknown.clone(), held.clone()
            loss[awake], held[awake] = self._pass(target, empty, clean, path, awake, times)
            asleep = yield Tried(cond=cond, loss=loss, gradient=unknown, start=held)

    def _pass(
        self, target: Target, empty: Float[Tensor, "1 L W"], clean: Float[Tensor, "N C H W"], path: list[Tensor],
        awake: list[int], times: Int[Tensor, "T"],
    ) -> tuple[Float[Tensor, "A"], Float[Tensor, "A C H W"]]:  # fmt: skip
        """Mean squared distance to the fixed points over all timesteps, and the starting noise; updates the path."""
        signal = [1.0, *target.signal(times).tolist()]
        noise = [max(1 - s * s, 0.0) ** 0.5 for s in signal]
        x, loss = clean[awake], torch.zeros(len(awake))
        for k, t in enumerate(times.tolist()):
            if k == len(path):  # nobody who sleeps in the first pass wakes up in a later one
                path.append(clean.clone())
                path[k][awake] = x
            ratio, guess = signal[k + 1] / signal[k], path[k][awake]
            x, off = self._backwards(target, empty, x, guess, (ratio, noise[k + 1] - ratio * noise[k]), t)
            path[k][awake] = x
            loss += off / len(times)
        return loss, x

    def _backwards(
        self, target: Target, empty: Float[Tensor, "1 L W"], x: Float[Tensor, "A C H W"],
        guess: Float[Tensor, "A C H W"], line: tuple[float, float], t: int,
    ) -> tuple[Float[Tensor, "A C H W"], Float[Tensor, "A"]]:  # fmt: skip
        """The latents one timestep noisier, and how far the last look was from the fixed point, in batches."""
        solve = self._iterate if self.solver == "iterate" else self._descend

        def parts(size: int) -> list[tuple[Tensor, Tensor]]:
            spans = [slice(start, start + size) for start in range(0, len(x), size)]
            return [
                solve(_Step(target=target, empty=empty, cleaner=x[s].to(empty.device), line=line, t=t), guess[s])
                for s in spans
            ]

        found = shrinking_batches(parts, start=self.batch_size)
        return torch.cat([z for z, _ in found]), torch.cat([off for _, off in found])

    @torch.no_grad()
    def _iterate(self, step: "_Step", guess: Float[Tensor, "B C H W"]) -> tuple[Tensor, Tensor]:
        z = guess.to(step.cleaner.device)
        for _ in range(self.iterations):
            before, z = z, step(z)
        return z.cpu(), (z - before).square().mean(dim=(1, 2, 3)).cpu()

    def _descend(self, step: "_Step", guess: Float[Tensor, "B C H W"]) -> tuple[Tensor, Tensor]:
        with torch.no_grad():  # so short a search must begin near its end: at a plain step of DDIM backwards
            z = step(guess.to(step.cleaner.device))
        z.requires_grad_()
        optimizer = torch.optim.AdamW([z], lr=self.learning_rate)
        for _ in range(self.iterations):
            with torch.enable_grad():
                off = (z - step(z)).square()
                (z.grad,) = torch.autograd.grad(off.sum(), z)
            optimizer.step()
        return z.detach().cpu(), off.detach().mean(dim=(1, 2, 3)).cpu()


@dataclass(frozen=True, kw_only=True, eq=False)
class _Step:
    """The map whose fixed point DDIM would denoise to the cleaner latents."""

    target: Target
    empty: Tensor
    cleaner: Tensor
    line: tuple[float, float]
    t: int

    def __call__(self, z: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        times = torch.full((len(z),), self.t, device=z.device)
        eps = self.target.predict(z.to(self.empty.dtype), times, self.empty.expand(len(z), -1, -1)).float()
        ratio, slope = self.line
        moved: Tensor = ratio * self.cleaner + slope * eps
        return moved


def _ascending(timesteps: Tensor) -> Int[Tensor, "T"]:
    """Timesteps from clean to noise, each once, whatever the scheduler calls them."""
    times: Tensor = torch.unique(timesteps.detach().cpu().float().round().long())
    return times
