"""`PipelineTarget`: any supported diffusers pipeline behind a handful of methods.

One convention for all models: predictions are *eps*, the noise in units of the latent, whatever
the model was trained to predict. Starting noise belongs to a unit (prompt, seed), is drawn on the
CPU, and so does not depend on batch size, order, device or number of processes.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from amnestic.core.edits import Change, Edit
from amnestic.core.errors import InputError, NotFinite
from amnestic.core.names import did_you_mean
from amnestic.core.records import Sampling, TargetId, Unit
from amnestic.core.seeds import generator
from amnestic.core.tape import Keep, Tape
from amnestic.core.target import Vocabulary
from amnestic.core.units import Site, Units
from amnestic.model.adapters import fuse_adapters
from amnestic.model.digests import WEIGHTS, digest_of, index_of
from amnestic.model.edits import edited, require_fit, scaling, touched
from amnestic.model.families import check_family
from amnestic.model.loading import DTYPES, load_pipeline
from amnestic.model.pictures import decode, latents_of, pixels
from amnestic.model.quiet import quiet
from amnestic.model.scheduling import require_drawable, with_scheduler
from amnestic.model.sites import layer, sites
from amnestic.model.taps import attributed, masked, record
from amnestic.model.tokens import encode_tokens, texts_of, tokens, vocabulary


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
        model: str | Path | StableDiffusionPipeline,
        *,
        revision: str | None = None,
        variant: str | None = None,
        dtype: str | None = None,
        device: str | torch.device = "cpu",
        allow_pickle: bool = False,
        config: str | Path | None = None,
        lora: Sequence[str] = (),
    ) -> "PipelineTarget":
        """Load a model from the hub, a folder, or take a live pipeline.

        Args:
            model: Hub id, local diffusers folder, checkpoint in one file, or a live pipeline; a live one is cast,
                moved and put into evaluation mode and frozen itself, not copied.
            revision: Hub revision.
            variant: Weight variant such as ``fp16``.
            dtype: ``float32``, ``float16`` or ``bfloat16``; default float32 on CPU, else float16.
            device: Where to compute.
            allow_pickle: Load weights that must be unpickled, which can run code.
            config: Diffusers folder with the settings of a checkpoint in one file.
            lora: Adapters that are put into the weights, each a file or hub id, ``:SCALE`` behind it or not.

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
        if isinstance(model, (str, Path)):
            pipeline = load_pipeline(
                str(model), revision=revision, variant=variant, dtype=DTYPES[chosen], allow_pickle=allow_pickle,
                config=Path(config) if config else None,
            )  # fmt: skip
        else:
            check_family(index_of(model))
            pipeline = model.to(dtype=DTYPES[chosen])
        adapters = fuse_adapters(pipeline, lora)
        for part in WEIGHTS:
            getattr(pipeline, part).eval().requires_grad_(False)  # gradients flow to inputs, not to weights
        ident = TargetId(
            name=str(model) if isinstance(model, (str, Path)) else type(model).__name__,
            family=check_family(index_of(pipeline)),
            revision=revision or "",
            variant=variant or "",
            dtype=chosen,
            digest=digest_of(pipeline),
            config=str(config or ""),
            adapters=adapters,
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
            cond: Tensor = self.pipeline.encode_prompt(list(prompts), self.device, 1, False)[0]
        return cond

    def tokens(self, texts: Sequence[str]) -> Int[Tensor, "N L"]:
        """Token ids of texts as `encode` reads them; see `amnestic.model.tokens.tokens`."""
        return tokens(self.pipeline, texts)

    def texts_of(self, ids: Int[Tensor, "N L"]) -> tuple[str, ...]:
        """Texts of token ids; see `amnestic.model.tokens.texts_of`."""
        return texts_of(self.pipeline.tokenizer, ids)

    def vocabulary(self) -> Vocabulary:
        """All tokens, and which of them can be typed; see `amnestic.model.tokens.vocabulary`."""
        return vocabulary(self.pipeline)

    def encode_tokens(
        self, ids: Int[Tensor, "N L"], embeddings: Float[Tensor, "N L E"] | None = None
    ) -> Float[Tensor, "N L W"]:
        """Conditioning of token ids or their embeddings; see `amnestic.model.tokens.encode_tokens`."""
        return encode_tokens(self.pipeline, ids, embeddings).to(self.device)

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
        out: Tensor = self.pipeline.unet(x, t, encoder_hidden_states=cond).sample
        kind = self.pipeline.scheduler.config.prediction_type
        if kind == "epsilon":
            return out
        signal, noise = self._levels(t, x)
        if kind == "v_prediction":
            return signal * out + noise * x
        return (x - signal * out) / noise

    @property
    def train_timesteps(self) -> int:
        """How many timesteps the training schedule has; they count from 0, the cleanest."""
        return len(self.pipeline.scheduler.alphas_cumprod)

    def noised(
        self, x0: Float[Tensor, "N C H W"], noise: Float[Tensor, "N C H W"], t: Int[Tensor, "N"]
    ) -> Float[Tensor, "N C H W"]:
        """Clean latents with noise added as in training: the forward process of the model's scheduler.

        Formula: x_t = sqrt(a_t) x0 + sqrt(1 - a_t) noise, with a the cumulative alpha.

        Args:
            x0: Clean latents, scaled as the U-Net sees them.
            noise: Standard normal noise.
            t: Training timesteps, 0 (clean) to T-1 (noise).

        Returns:
            What `predict` takes at `t`; on the device and in the precision of `x0`.
        """
        signal, rest = self._levels(t, x0)
        return signal * x0 + rest * noise

    def _levels(self, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """sqrt(a_t) and sqrt(1 - a_t), one per row of `like`."""
        alpha: Tensor = self.pipeline.scheduler.alphas_cumprod.to(like.device)[t].reshape(-1, 1, 1, 1)
        return alpha.sqrt().to(like.dtype), (1 - alpha).sqrt().to(like.dtype)

    def signal(self, t: Int[Tensor, "N"]) -> Float[Tensor, "N"]:
        """What `noised` multiplies clean latents by: sqrt(a_t) with a the cumulative alpha; float32 on the CPU."""
        alpha: Tensor = self.pipeline.scheduler.alphas_cumprod.cpu()[t.cpu()]
        return alpha.float().sqrt()

    @property
    def prediction_type(self) -> str:
        """What the model was trained to predict: ``epsilon``, ``v_prediction`` or ``sample``."""
        return str(self.pipeline.scheduler.config.prediction_type)

    def sites(self, kind: str) -> tuple[Site, ...]:
        """Sites of one kind, in the order in which they compute; see `amnestic.model.sites.sites`."""
        return sites(self.pipeline.unet, kind)

    def weight(self, site: Site) -> Float[Tensor, "D U"]:
        """The weight matrix of a site's linear layer, D outputs, U inputs; not a copy."""
        return layer(self.pipeline.unet, site).weight.detach()

    def record(self, sites: Sequence[Site], keep: Keep) -> AbstractContextManager[Tape]:
        """Show what passes through sites to `keep`; see `amnestic.model.taps.record`."""
        return record(self.pipeline.unet, sites, keep)

    def attribute(self, sites: Sequence[Site], keep: Keep) -> AbstractContextManager[Tape]:
        """Show activation x gradient of sites to `keep`; see `amnestic.model.taps.attributed`."""
        return attributed(self.pipeline.unet, sites, keep)

    def masked(self, factors: Mapping[Site, Float[Tensor, "... U"]]) -> AbstractContextManager[None]:
        """Multiply what neurons say, row by row if wanted; see `amnestic.model.taps.masked`."""
        return masked(self.pipeline.unet, factors)

    def touched(self, units: Units) -> Mapping[str, Int[Tensor, "n"]]:
        """Places of the weights through which units speak; see `amnestic.model.edits.touched`."""
        return touched(self.pipeline.unet, units)

    def parameter(self, path: str) -> Tensor:
        """A parameter of the U-Net by its path, without gradient; not a copy."""
        values: Tensor = self.pipeline.unet.get_parameter(path).detach()
        return values

    def scaling(self, units: Units, factor: float) -> Mapping[str, Change]:
        """The change that multiplies what units say by a factor; see `amnestic.model.edits.scaling`."""
        return scaling(self.pipeline.unet, units, factor)

    def require_fit(self, edit: Edit) -> None:
        """Refuse an edit that was made for other weights; see `amnestic.model.edits.require_fit`."""
        require_fit(self.pipeline.unet, edit)

    @contextmanager
    def edited(self, edit: Edit) -> Iterator["PipelineTarget"]:
        """The model with an edit applied; afterwards it is as before, bit for bit.

        Args:
            edit: Made for this model. The pipeline is shared: while the context lasts, this target draws edited
                images, too.

        Yields:
            A target that knows it is another model; its digest is that of the edited weights, wherever they lie.

        Raises:
            InputError: If the edit was made for other weights.
        """
        with edited(self.pipeline.unet, edit):
            yield replace(self, ident=replace(self.ident, digest=digest_of(self.pipeline)))

    def with_unet(self, unet: torch.nn.Module) -> "PipelineTarget":
        """The same components around another U-Net, as a target that knows it is another model.

        Args:
            unet: Finite, and of the same shape; becomes part of the target, frozen.

        Returns:
            A target that shares everything else with this one.

        Raises:
            NotFinite: If a weight is NaN or infinite.
        """
        parts = {**self.pipeline.components, "unet": unet.eval().requires_grad_(False)}
        pipeline = type(self.pipeline)(**parts, requires_safety_checker=False)
        pipeline.set_progress_bar_config(disable=True)
        return PipelineTarget(ident=replace(self.ident, digest=digest_of(pipeline)), pipeline=pipeline)

    def save(self, folder: Path) -> None:
        """Write the model as a plain diffusers folder of safetensors, in the precision it was loaded in.

        What the configs tell of where the model lay on this machine is left out.
        """
        with quiet():
            self.pipeline.save_pretrained(folder, safe_serialization=True)
        for file in folder.rglob("*.json"):
            content = json.loads(file.read_text())
            if isinstance(content, dict) and content.pop("_name_or_path", None) is not None:
                file.write_text(json.dumps(content, indent=2) + "\n")

    def through(self, site: Site, cond: Float[Tensor, "N L W"]) -> Float[Tensor, "N L U"]:
        """What a ``value`` or ``key`` site says of a conditioning; the rest of the U-Net is not needed for that."""
        out: Tensor = layer(self.pipeline.unet, site)(cond)
        return out

    def timesteps(self, how: Sampling) -> Int[Tensor, "T"]:
        """Training timesteps at which `sample` calls the U-Net, in order."""
        scheduler = with_scheduler(self.pipeline, how.scheduler, how.num_inference_steps).scheduler
        steps: Tensor = scheduler.timesteps
        return steps

    def noise_shape(self) -> tuple[int, int, int]:
        """Shape of one image's starting noise, C x H x W."""
        side = self.pipeline.unet.config.sample_size
        return (self.pipeline.unet.config.in_channels, side, side)

    def sample(
        self, units: Sequence[Unit], prompts: Sequence[str], how: Sampling, *, stop_after: int | None = None,
        tape: Tape | None = None, cond: Float[Tensor, "N L W"] | None = None, start: Tensor | None = None,
    ) -> Float[Tensor, "N C H W"]:  # fmt: skip
        """Latents drawn by the pipeline's own `__call__`.

        Args:
            units: N pairs of prompt id and seed; decide the starting noise.
            prompts: N texts.
            how: Scheduler, steps and guidance.
            stop_after: Stop after so many denoising steps, at least 1, and return what is there.
            tape: Started, so that what `record` shows is labelled.
            cond: Conditioning that speaks instead of `prompts`; guidance still pushes away from the empty prompt.
            start: Starting noise ``(N, C, H, W)`` instead of the units' own.

        Returns:
            Final (or intermediate) latents, N x C x H x W, on the device.

        Raises:
            InputError: If the scheduler, the number of steps or the size cannot be used.
            NotFinite: If latents hold NaN or infinity.
        """
        height, width = how.height or self.image_size, how.width or self.image_size
        require_drawable(how, height, width, stop_after)

        def after_step(pipe: Any, step: int, _t: Any, kwargs: dict[str, Any]) -> dict[str, Any]:  # noqa: ANN401
            pipe._interrupt = stop_after is not None and step + 1 >= stop_after
            return kwargs

        pipeline = with_scheduler(self.pipeline, how.scheduler, how.num_inference_steps)
        if tape is not None:
            tape.start(guided=how.guidance_scale > 1)
        noise = self.noise(units, size=(height, width)) if start is None else start
        spoken = {"prompt": list(prompts)} if cond is None else {"prompt_embeds": self._own(cond)}
        latents: Tensor = pipeline(
            **spoken,
            height=height,
            width=width,
            num_inference_steps=how.num_inference_steps,
            guidance_scale=how.guidance_scale,
            generator=[generator(0, "steps", u.prompt_id, str(u.seed)) for u in units],
            latents=self._own(noise),
            output_type="latent",
            callback_on_step_end=after_step,
        ).images
        if not bool(torch.isfinite(latents).all()):
            raise NotFinite(
                f"{self.ident.name} produced NaN or infinite latents; check its weights, or use --dtype float32"
            )
        return latents

    def _own(self, values: Tensor) -> Tensor:
        return values.to(self.device, self.pipeline.unet.dtype)

    def latents_of(self, images: Sequence[NDArray[np.uint8]]) -> Float[Tensor, "N C h w"]:
        """Latents of pictures, scaled as the U-Net sees them; see `amnestic.model.pictures.latents_of`."""
        return latents_of(self.pipeline.vae, images)

    def pixels(self, latents: Float[Tensor, "N C H W"]) -> Float[Tensor, "N 3 h w"]:
        """Pictures of latents in [0, 1], differentiable in the latents; see `amnestic.model.pictures.pixels`."""
        return pixels(self.pipeline.vae, latents)

    def decode(self, latents: Float[Tensor, "N C H W"]) -> list[NDArray[np.uint8]]:
        """8-bit images of latents; see `amnestic.model.pictures.decode`."""
        return decode(self.pipeline, latents, name=self.ident.name)
