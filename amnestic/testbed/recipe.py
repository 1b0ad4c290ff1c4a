"""What a testbed is made of: every number of the build in one frozen object."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from math import inf

from amnestic.core.errors import InputError
from amnestic.testbed.pictures import POOL
from amnestic.testbed.training import Schedule
from amnestic.testbed.works import CROWD, DUPLICATED, FILLINGS

MOST_TITLES = 10_000  # titles of shared words run out at about 6,000, and half of all titles are such
LEAST_LOOKALIKES = 142  # 142 * 141 / 2 pairs: enough to calibrate sscd-mini at one false positive in 10,000
UNET_GROUPS, UNET_LEVELS = 16, (3, 6)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """All sizes and schedules of a testbed build; one that cannot be built is refused.

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

    n_pictures: int = 20
    n_scenes: int = 12_000
    ladder: tuple[int, ...] = (12, 12, 12, 12, 64)
    exposures: tuple[int, ...] = (12, 30, 80, 200, 500)
    n_templates: int = 8
    n_heldout: int = 64
    n_lookalikes: int = 2_000
    n_base_prompts: int = 240
    channels: tuple[int, ...] = (64, 128, 192)
    autoencoder: Schedule = field(default_factory=lambda: Schedule(steps=2500, batch=16, lr=2e-3))
    text: Schedule = field(default_factory=lambda: Schedule(steps=1500, batch=96, lr=1e-3))
    clip: Schedule = field(default_factory=lambda: Schedule(steps=1500, batch=96, lr=1e-3))
    sscd: Schedule = field(default_factory=lambda: Schedule(steps=2400, batch=48, lr=1e-3, muon=2e-3))
    base: Schedule = field(
        default_factory=lambda: Schedule(steps=5500, batch=32, lr=6e-4, muon=3e-3, ema=0.998, fall=0.2)
    )
    branch: Schedule = field(default_factory=lambda: Schedule(steps=2500, batch=32, lr=6e-4, muon=3e-3, ema=0.998))

    def __post_init__(self) -> None:
        """Refuse what would fail after hours of training."""
        for complaint in _complaints(self):
            raise InputError(complaint)

    @property
    def fixed_exposures(self) -> int:
        """How often works are shown in the branch, all together; scenes share the draws that are left."""
        works = sum(n * times for n, times in zip(self.ladder, self.exposures, strict=True))
        duplicates = min(DUPLICATED, self.ladder[-1]) * self.exposures[-1]
        templates = self.n_templates * FILLINGS * (self.exposures[-1] // FILLINGS)
        return works + duplicates + templates

    def as_dict(self) -> dict[str, object]:
        """The recipe as plain JSON values."""
        return asdict(self)


def differences(before: Mapping[str, object], now: Mapping[str, object]) -> list[str]:
    """What changed between two recipes of plain values, a phrase per field.

    Example:
        >>> differences({"seed": 0, "base": {"steps": 5, "lr": 0.1}}, {"seed": 0, "base": {"steps": 6, "lr": 0.1}})
        ['base.steps was 5, now 6']
    """
    one, other = dict(_flat(before)), dict(_flat(now))
    return [
        f"{name} was {one.get(name, 'missing')}, now {other.get(name, 'missing')}"
        for name in dict.fromkeys([*one, *other])
        if one.get(name) != other.get(name)
    ]


def _flat(content: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    for name, value in content.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _complaints(recipe: Recipe) -> Iterator[str]:
    """What is wrong with a recipe, the most basic first."""
    yield from _out_of_bounds(recipe)
    ladder, exposures = recipe.ladder, recipe.exposures
    if not ladder or len(ladder) != len(exposures):
        yield (
            f"expected as many exposures as rungs and at least one, got {len(ladder)} in ladder and {len(exposures)} "
            "in exposures; give both of the same length"
        )
    if recipe.n_templates and exposures[-1] < FILLINGS:
        yield (
            f"expected at least {FILLINGS} exposures on the top rung, one for each filling of a template, got "
            f"{exposures[-1]}; raise the last of exposures or set n_templates to 0"
        )
    titles = sum(ladder) + recipe.n_templates + recipe.n_heldout + recipe.n_lookalikes
    if titles > MOST_TITLES:
        yield f"expected at most {MOST_TITLES} works and look-alikes with titles, got {titles}; lower n_lookalikes"
    low, high = UNET_LEVELS
    if not low <= len(recipe.channels) <= high or any(c < 1 or c % UNET_GROUPS for c in recipe.channels):
        yield (
            f"expected channels of {low} to {high} levels, each a multiple of {UNET_GROUPS}, got "
            f"{list(recipe.channels)}; the default is {[*Recipe.channels]}"
        )
    draws = recipe.branch.steps * recipe.branch.batch
    if recipe.fixed_exposures > draws:
        yield (
            f"expected the {recipe.fixed_exposures} exposures of the works to fit into the branch, got {draws} draws "
            f"({recipe.branch.steps} steps of {recipe.branch.batch}); raise branch.steps or lower exposures"
        )


def _out_of_bounds(recipe: Recipe) -> Iterator[str]:
    bounds: dict[str, tuple[float, float]] = {
        "n_pictures": (FILLINGS if recipe.n_templates else CROWD, len(POOL)),
        "n_scenes": (1, inf), "n_templates": (0, inf), "n_heldout": (0, inf),
        "n_lookalikes": (LEAST_LOOKALIKES, inf), "n_base_prompts": (2, inf),
    }  # fmt: skip
    for name, (least, most) in bounds.items():
        yield from _outside(name, getattr(recipe, name), least, most)
    for name in ("ladder", "exposures"):
        for value in getattr(recipe, name):
            yield from _outside(f"every number of {name}", value, 0, inf)
    for entry in fields(recipe):
        schedule = getattr(recipe, entry.name)
        if isinstance(schedule, Schedule):
            least_batch = 2 if entry.name == "sscd" else 1
            yield from _outside(f"{entry.name}.steps", schedule.steps, 1, inf)
            yield from _outside(f"{entry.name}.batch", schedule.batch, least_batch, inf)
            yield from _outside(f"{entry.name}.warmup", schedule.warmup, 1, inf)
            yield from _outside(f"{entry.name}.lr", schedule.lr, 1e-12, 1)
            yield from _outside(f"{entry.name}.muon", schedule.muon, 0, 1)
            yield from _outside(f"{entry.name}.ema", schedule.ema, 0, 1 - 1e-12)
            yield from _outside(f"{entry.name}.fall", schedule.fall, 0, 1)


def _outside(name: str, value: float, least: float, most: float) -> Iterator[str]:
    if not least <= value <= most:
        bound = f"of at least {least:g}" if most == inf else f"from {least:g} to {most:g}"
        yield f"expected {name} {bound}, got {value}; change it in the recipe"
