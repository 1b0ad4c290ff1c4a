"""`PipelineTarget`: any supported diffusers pipeline behind a handful of methods.

One convention for all models: predictions are *eps*, the noise in units of the latent, whatever
the model was trained to predict. Starting noise belongs to a unit (prompt, seed), is drawn on the
CPU, and so does not depend on batch size, order, device or number of processes.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import diffusers
import numpy as np
import torch
from diffusers import SchedulerMixin, StableDiffusionPipeline
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from amnestic.core.errors import InputError, NotFinite
from amnestic.core.names import did_you_mean
from amnestic.core.records import Sampling, TargetId, Unit
from amnestic.core.seeds import generator
from amnestic.model.families import check_family
from amnestic.model.loading import DTYPES, load_pipeline


@dataclass(frozen=True, kw_only=True)
class PipelineTarget:
    """A text-to-image pipeline with a U-Net, as methods see it.

    Attributes:
        ident: Which model this is.
        pipeline: The diffusers pipeline itself; not changed by any method here.
    """

    ident: TargetId
    pipeline: StableDiffusionPipeline

    @classmethod
    def load(
        cls,
        model: str | StableDiffusionPipeline,
        *,
        revision: str | None = None,
        variant: str | None = None,
        dtype: str | None = None,
        device: str | torch.device = "cpu",
        allow_pickle: bool = False,
    ) -> "PipelineTarget":
        """Load a model from the hub, a folder, or take a live pipeline.

        Args:
            model: Hub id, local diffusers folder, or a live pipeline.
            revision: Hub revision.
            variant: Weight variant such as ``fp16``.
            dtype: ``float32``, ``float16`` or ``bfloat16``; default float32 on CPU, else float16.
            device: Where to compute.
            allow_pickle: Load weights that must be unpickled, which can run code.

        Returns:
            The target on `device`, in evaluation mode.

        Raises:
            InputError: If the model or an option is wrong; says what to do.
            UnsupportedModel: If the family or weight format is refused.
            NotFinite: If weights hold NaN or infinity.
        """
        chosen = dtype or ("float32" if torch.device(device).type == "cpu" else "float16")
        if chosen not in DTYPES:
            raise InputError(f"expected a dtype of {', '.join(DTYPES)}, got {chosen}{did_you_mean(chosen, DTYPES)}")
        if isinstance(model, str):
            pipeline = load_pipeline(
                model, revision=revision, variant=variant, dtype=DTYPES[chosen], allow_pickle=allow_pickle
            )
        else:
            check_family({"_class_name": type(model).__name__} | dict(model.config))
            pipeline = model.to(dtype=DTYPES[chosen])
        ident = TargetId(
            name=model if isinstance(model, str) else type(model).__name__,
            family=check_family({"_class_name": type(pipeline).__name__} | dict(pipeline.config)),
            revision=revision or "",
            variant=variant or "",
            dtype=chosen,
            digest=_digest(pipeline),
        )
        pipeline.to(device)
        pipeline.set_progress_bar_config(disable=True)
        return cls(ident=ident, pipeline=pipeline)

    @property
    def device(self) -> torch.device:
        """Where the U-Net computes."""
        return torch.device(self.pipeline.unet.device)

    @property
    def image_size(self) -> int:
        """Side in pixels of the images that the model draws by default."""
        return int(self.pipeline.unet.config.sample_size * self.pipeline.vae_scale_factor)

    def encode(self, prompts: Sequence[str]) -> Float[Tensor, "N L W"]:
        """Conditioning of prompts as the U-Net receives it.

        Args:
            prompts: N texts; cut to the tokenizer's length, as the pipeline does.

        Returns:
            Last hidden states of the text encoder, N prompts, L tokens, W width.
        """
        with torch.no_grad():
            cond, _ = self.pipeline.encode_prompt(list(prompts), self.device, 1, False)
        return cond

    def noise(self, units: Sequence[Unit], *, size: tuple[int, int] | None = None) -> Float[Tensor, "N C H W"]:
        """Starting noise of each unit, N(0, I), drawn on the CPU from the unit's own seed.

        Args:
            units: N pairs of prompt id and seed.
            size: Height and width in pixels; default the model's own.

        Returns:
            Float32 noise on the CPU; not scaled for any scheduler.
        """
        height, width = (s // self.pipeline.vae_scale_factor for s in size or (self.image_size, self.image_size))
        shape = (self.pipeline.unet.config.in_channels, height, width)
        return torch.stack(
            [torch.randn(shape, generator=generator(0, "noise", u.prompt_id, str(u.seed))) for u in units]
        )

    def predict(
        self, x: Float[Tensor, "N C H W"], t: Int[Tensor, "N"], cond: Float[Tensor, "N L W"]
    ) -> Float[Tensor, "N C H W"]:
        """Predicted noise *eps*, differentiable in `x` and `cond`.

        Formula: eps = out for epsilon models; eps = sqrt(a) v + sqrt(1-a) x for v-prediction;
        eps = (x - sqrt(a) x0) / sqrt(1-a) for sample prediction, with a the cumulative alpha of t.

        Args:
            x: Noisy latents.
            t: Training timesteps, 0 (clean) to T-1 (noise).
            cond: Conditioning from `encode`.

        Returns:
            Noise in units of the latent; comparable between models of all prediction types.
        """
        out = self.pipeline.unet(x, t, encoder_hidden_states=cond).sample
        kind = self.pipeline.scheduler.config.prediction_type
        if kind == "epsilon":
            return out
        alpha = self.pipeline.scheduler.alphas_cumprod.to(x.device)[t].reshape(-1, 1, 1, 1).to(x.dtype)
        if kind == "v_prediction":
            return alpha.sqrt() * out + (1 - alpha).sqrt() * x
        return (x - alpha.sqrt() * out) / (1 - alpha).sqrt()

    def sample(
        self, units: Sequence[Unit], prompts: Sequence[str], how: Sampling, *, stop_after: int | None = None
    ) -> Float[Tensor, "N C H W"]:
        """Latents drawn by the pipeline's own `__call__`.

        Args:
            units: N pairs of prompt id and seed; decide the starting noise.
            prompts: N texts.
            how: Scheduler, steps and guidance.
            stop_after: Stop after so many denoising steps and return what is there.

        Returns:
            Final (or intermediate) latents, N x C x H x W, on the device.

        Raises:
            InputError: If the scheduler does not exist.
            NotFinite: If latents hold NaN or infinity.
        """
        height, width = how.height or self.image_size, how.width or self.image_size

        def after_step(pipe: Any, step: int, _t: Any, kwargs: dict[str, Any]) -> dict[str, Any]:  # noqa: ANN401
            pipe._interrupt = stop_after is not None and step + 1 >= stop_after
            return kwargs

        pipeline = _with_scheduler(self.pipeline, how.scheduler)
        latents = pipeline(
            prompt=list(prompts),
            height=height,
            width=width,
            num_inference_steps=how.num_inference_steps,
            guidance_scale=how.guidance_scale,
            generator=[generator(0, "steps", u.prompt_id, str(u.seed)) for u in units],
            latents=self.noise(units, size=(height, width)).to(self.device, self.pipeline.unet.dtype),
            output_type="latent",
            callback_on_step_end=after_step,
        ).images
        if not bool(torch.isfinite(latents).all()):
            raise NotFinite(
                f"{self.ident.name} produced NaN or infinite latents; check its weights, or use --dtype float32"
            )
        return latents

    @torch.no_grad()
    def decode(self, latents: Float[Tensor, "N C H W"]) -> list[NDArray[np.uint8]]:
        """Images of latents, 8-bit RGB, each of shape ``(H, W, 3)``.

        Raises:
            NotFinite: If the decoder's output holds NaN or infinity.
        """
        out = self.pipeline.vae.decode(latents / self.pipeline.vae.config.scaling_factor, return_dict=False)[0]
        if not bool(torch.isfinite(out).all()):
            raise NotFinite(f"the autoencoder of {self.ident.name} produced NaN; use --dtype float32")
        images = self.pipeline.image_processor.postprocess(out.detach(), output_type="np")
        return list((images * 255).round().astype(np.uint8))


def _with_scheduler(pipeline: StableDiffusionPipeline, name: str) -> StableDiffusionPipeline:
    """The same components under another scheduler; the given pipeline keeps its own."""
    if name == "model":
        kind = type(pipeline.scheduler)
    else:
        kind = getattr(diffusers, name, None)
        if not (isinstance(kind, type) and issubclass(kind, SchedulerMixin)):
            known = [n for n in dir(diffusers) if n.endswith("Scheduler")]
            raise InputError(f"expected a diffusers scheduler, got {name}{did_you_mean(name, known)}")
    parts = {**pipeline.components, "scheduler": kind.from_config(pipeline.scheduler.config)}
    same = type(pipeline)(**parts, requires_safety_checker=False)
    same.set_progress_bar_config(disable=True)
    return same


def _digest(pipeline: StableDiffusionPipeline) -> str:
    """SHA-256 over all weights and the scheduler's settings; also a look that the weights are finite."""
    settings = {k: v for k, v in dict(pipeline.scheduler.config).items() if not k.startswith("_")}
    total = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
    for part in ("unet", "vae", "text_encoder"):
        for name, tensor in sorted(getattr(pipeline, part).state_dict().items()):
            if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
                raise NotFinite(f"{part}.{name} holds NaN or infinity; the weights are damaged, download them again")
            total.update(f"{part}.{name}".encode())
            total.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return total.hexdigest()
