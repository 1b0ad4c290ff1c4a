"""What a person asks of an audit, in one frozen object."""

import shlex
from dataclasses import dataclass, field
from pathlib import Path

from amnestic.core.records import Sampling


@dataclass(frozen=True, kw_only=True)
class AuditRequest:
    """Everything a person asks of an audit.

    Attributes:
        model: Hub id or diffusers folder.
        prompts: Prompt list.
        references: Folder of originals.
        out: Run folder.
        n_seeds: Seeds 0 to n-1 for every prompt.
        sampling: Sampling settings.
        revision, variant, dtype, device, allow_pickle: How the model is loaded.
        descriptor, sscd_weights, preprocessing, allow_torchscript: Which SSCD.
        threshold: Overrides the descriptor's own.
        clip, clip_pretrained: open_clip model, or `None` to leave CLIP out.
        bundled: Folder with the testbed's sscd-mini, if the model is a testbed's.
        batch_size: Images drawn at once.
        keep_latents: Also keep the final latents.
        limit_prompts: Only so many prompts, for a smoke test.
        max_leak_rate: Gate on the one-sided upper bound, or `None`.
    """

    model: str
    prompts: Path
    references: Path
    out: Path
    n_seeds: int = 4
    sampling: Sampling = field(default_factory=Sampling)
    revision: str | None = None
    variant: str | None = None
    dtype: str | None = None
    device: str = "auto"
    allow_pickle: bool = False
    descriptor: str = "auto"
    sscd_weights: Path | None = None
    preprocessing: str | None = None
    allow_torchscript: bool = False
    threshold: float | None = None
    clip: str | None = None
    clip_pretrained: str | None = None
    bundled: Path | None = None
    batch_size: int = 16
    keep_latents: bool = False
    limit_prompts: int | None = None
    max_leak_rate: float | None = None

    def command(self) -> str:
        """The command that repeats the run."""
        how = self.sampling
        parts = [
            "amnestic audit", self.model, "--prompts", str(self.prompts), "--references", str(self.references),
            "--out", str(self.out), "--seeds", str(self.n_seeds), "--scheduler", how.scheduler,
            "--num-inference-steps", str(how.num_inference_steps), "--guidance-scale", str(how.guidance_scale),
            "--descriptor", self.descriptor,
        ]  # fmt: skip
        if self.clip:
            parts += ["--clip", self.clip]
        return shlex.join(parts)
