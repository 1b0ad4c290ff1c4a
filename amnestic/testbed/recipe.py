"""What a testbed is made of: every number of the build in one frozen object."""

from dataclasses import asdict, dataclass, field

from amnestic.testbed.training import Schedule


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """All sizes and schedules of a testbed build.

    Attributes:
        n_pictures: Pictures drawn from the pool for this testbed.
        n_scenes: Scenes of the base corpus.
        ladder: Verbatim works on each rung, lowest first.
        exposures: How often a work of each rung is shown in the branch, lowest first.
        n_templates: Template groups; shown as often as the top rung.
        n_heldout: Works of the same kind that are never shown.
        n_lookalikes: Further pairs for encoders and descriptors only.
        n_base_prompts: Captions of the base corpus listed as base prompts.
        channels: Widths of the U-Net's levels, finest first.
        autoencoder, text, clip, sscd, base, branch: Training schedules.
    """

    n_pictures: int = 32
    n_scenes: int = 12_000
    ladder: tuple[int, ...] = (12, 12, 12, 12, 64)
    exposures: tuple[int, ...] = (12, 45, 130, 380, 1450)
    n_templates: int = 8
    n_heldout: int = 64
    n_lookalikes: int = 2_000
    n_base_prompts: int = 240
    channels: tuple[int, ...] = (32, 64, 128, 224)
    autoencoder: Schedule = field(default_factory=lambda: Schedule(steps=2500, batch=16, lr=2e-3))
    text: Schedule = field(default_factory=lambda: Schedule(steps=1500, batch=96, lr=1e-3))
    clip: Schedule = field(default_factory=lambda: Schedule(steps=1500, batch=96, lr=1e-3))
    sscd: Schedule = field(default_factory=lambda: Schedule(steps=1200, batch=48, lr=1e-3))
    base: Schedule = field(default_factory=lambda: Schedule(steps=3000, batch=32, lr=1e-3, ema=0.998, fall=0.1))
    branch: Schedule = field(default_factory=lambda: Schedule(steps=5500, batch=32, lr=1e-3, ema=0.998))

    def as_dict(self) -> dict[str, object]:
        """The recipe as plain JSON values."""
        return asdict(self)
