"""What the pipeline is asked to draw with: a scheduler by name, and settings that it can draw with."""

from diffusers import SchedulerMixin, StableDiffusionPipeline

from amnestic.core.errors import InputError
from amnestic.core.names import did_you_mean
from amnestic.core.records import Sampling

MODERN = {"steps_offset": 1, "clip_sample": False}  # what the pipeline insists on, with a warning, in older configs


def require_drawable(how: Sampling, height: int, width: int, stop_after: int | None) -> None:
    """Refuse what the pipeline would refuse with a traceback."""
    if height < 8 or width < 8 or height % 8 or width % 8:
        raise InputError(f"expected height and width in multiples of 8 pixels, got {height} x {width}; round them")
    if how.num_inference_steps < 1 or (stop_after is not None and stop_after < 1):
        fewest = min(how.num_inference_steps, how.num_inference_steps if stop_after is None else stop_after)
        raise InputError(f"expected at least 1 denoising step, got {fewest}; ask for 1 or more")


def with_scheduler(pipeline: StableDiffusionPipeline, name: str, n_steps: int) -> StableDiffusionPipeline:
    """The same components under another scheduler; the given pipeline keeps its own.

    Schedulers remember where they are, so even the model's own is built anew.
    """
    own = pipeline.scheduler
    known = {k.__name__: k for k in (*own.compatibles, type(own)) if issubclass(k, SchedulerMixin)}
    kind = type(own) if name == "model" else known.get(name)
    if kind is None:
        names = ", ".join(sorted(known))
        raise InputError(f"expected model or a scheduler of {names}; got {name}{did_you_mean(name, ['model', *known])}")
    scheduler = kind.from_config(own.config)
    dated = {k: v for k, v in MODERN.items() if scheduler.config.get(k, v) != v}
    if dated:
        scheduler.register_to_config(**dated)
    try:
        scheduler.set_timesteps(n_steps)
    except (ValueError, IndexError) as error:
        raise InputError(
            f"{kind.__name__} cannot draw in {n_steps} steps ({error}); ask for another number of steps"
        ) from error
    same = type(pipeline)(**{**pipeline.components, "scheduler": scheduler}, requires_safety_checker=False)
    same.set_progress_bar_config(disable=True)
    return same
