"""What a person asks of an audit, in one frozen object."""

import math
import shlex
from dataclasses import dataclass, field, fields
from pathlib import Path

from amnestic.core.errors import InputError
from amnestic.core.names import bundled_folder, path_for_others
from amnestic.core.records import Keep, Sampling
from amnestic.core.store import Run

FOLDER = "local-dir:"


@dataclass(frozen=True, kw_only=True)
class AuditRequest:
    """Everything a person asks of an audit.

    Attributes:
        model: Hub id, diffusers folder, or checkpoint in one file.
        prompts: Prompt list, or a folder as `datasets` lays out images with captions.
        references: Folder of originals.
        out: Run folder.
        n_seeds: Seeds 0 to n-1 for every prompt.
        sampling: Sampling settings.
        revision, variant, dtype, device, allow_pickle, config: How the model is loaded.
        lora: Adapters that are put into its weights, each a file or hub id, ``:SCALE`` behind it or not.
        descriptor, sscd_weights, preprocessing, allow_torchscript: Which SSCD.
        threshold: Overrides the descriptor's own.
        clip, clip_pretrained: open_clip model, or `None` to leave CLIP out.
        bundled: Folder with the testbed's sscd-mini, if the model is a testbed's.
        batch_size: Images drawn at once.
        keep: What is kept of each image.
        limit_prompts: Only so many prompts, for a smoke test.
        max_leak_rate: Gate on the one-sided upper bound, or `None`.
        before: Folder of an audit of the model before an edit, to compare with.
        twin: Folder of an audit of a model that never saw the works, the optimum of unlearning.
        real_images: Real images of base prompts, a folder or parquet, from which distances are measured.
        show_originals: Show pictures in the report as they are; by default they are blurred, so that it copies no work.
        shortcut: A shorter command that asks for the same, such as ``amnestic demo``, word by word.
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
    config: Path | None = None
    lora: tuple[str, ...] = ()
    descriptor: str = "auto"
    sscd_weights: Path | None = None
    preprocessing: str | None = None
    allow_torchscript: bool = False
    threshold: float | None = None
    clip: str | None = None
    clip_pretrained: str | None = None
    bundled: Path | None = None
    batch_size: int = 16
    keep: Keep = Keep.IMAGES
    limit_prompts: int | None = None
    max_leak_rate: float | None = None
    before: Path | None = None
    twin: Path | None = None
    real_images: Path | None = None
    show_originals: bool = False
    shortcut: tuple[str, ...] = ()

    def check(self) -> None:
        """Refuse values that cannot be meant.

        Raises:
            InputError: If one is out of its range; the sentence names the option.
        """
        if self.n_seeds < 1:
            raise InputError(f"expected at least 1 seed, got {self.n_seeds}")
        if self.keep not in list(Keep):
            raise InputError(f"expected keep to be one of {', '.join(Keep)}; got {self.keep}")
        limit, guidance = self.max_leak_rate, self.sampling.guidance_scale
        if limit is not None and not 0 <= limit <= 1:
            hint = f"; {limit:g} % is {limit / 100:g}" if 1 < limit <= 100 else "; correct it"
            raise InputError(f"--max-leak-rate {limit:g}: expected a share between 0 and 1{hint}")
        if self.threshold is not None and not -1 <= self.threshold <= 1:
            raise InputError(f"--threshold {self.threshold:g}: expected a cosine between -1 and 1; correct it")
        if self.before is None and (self.twin is not None or self.real_images is not None):
            given = "--twin" if self.twin is not None else "--real-images"
            raise InputError(f"{given} is for a comparison with the model before an edit; give --before RUN as well")
        if not 0 <= guidance < math.inf:
            raise InputError(f"--guidance-scale {guidance:g}: expected a number from 0 on; 1 switches guidance off")

    def command(self) -> str:
        """The command that repeats the run, for any shell; without where files lie on this machine."""
        how = self.sampling
        words = [
            "amnestic", "audit", self.model, "--prompts", self.prompts, "--references", self.references,
            "--out", self.out, "--seeds", self.n_seeds, "--scheduler", how.scheduler,
            "--num-inference-steps", how.num_inference_steps, "--guidance-scale", how.guidance_scale,
            "--descriptor", self.descriptor, *self._options(),
        ]  # fmt: skip
        return " ".join(_quoted(str(word)) for word in self.shortcut or words)

    def _options(self) -> list[object]:
        """Options that were set to something else than their default."""
        how, usual = self.sampling, {f.name: f.default for f in fields(self)}
        named = {
            "--height": how.height, "--width": how.width, "--sscd-weights": self.sscd_weights,
            "--preprocessing": self.preprocessing, "--threshold": self.threshold, "--clip": self.clip,
            "--clip-pretrained": self.clip_pretrained, "--max-leak-rate": self.max_leak_rate,
            "--revision": self.revision, "--variant": self.variant, "--dtype": self.dtype,
            "--limit": self.limit_prompts, "--before": self.before, "--twin": self.twin,
            "--real-images": self.real_images, "--model-config": self.config,
        }  # fmt: skip
        found: list[object] = [word for pair in named.items() if pair[1] is not None for word in pair]
        found += [word for one in self.lora for word in ("--lora", one)]
        for name in ("device", "batch_size", "keep"):
            if getattr(self, name) != usual[name]:
                found += [f"--{name.replace('_', '-')}", getattr(self, name)]
        found += ["--allow-torchscript"] * self.allow_torchscript + ["--allow-pickle"] * self.allow_pickle
        found += ["--show-originals"] * self.show_originals
        return found


def references_for(prompts: Path, references: Path | None) -> Path:
    """The folder of originals: the one given, else a folder that holds captions and images both.

    Raises:
        InputError: If none is given and the prompts are a list alone.
    """
    if references is None and not prompts.is_dir():
        raise InputError(f"{prompts} holds no images; give the folder of originals with --references")
    return prompts if references is None else references


def descriptor_beside(model: str, before: Path | None = None) -> Path | None:
    """The sscd-mini of the testbed that a model folder, or the model of an earlier run, belongs to; else `None`."""
    folder = Path(model).parent / "descriptors" / "sscd-mini"
    if (folder / "config.json").is_file():
        return folder
    if before is not None and (before / "manifest.json").is_file():
        return descriptor_beside(Run.open(before).manifest()["settings"]["model"]["name"])
    return None


def _quoted(word: str) -> str:
    """One word for a shell; the folder of the bundled testbed by the command that prints it."""
    before, home, after = word.partition(str(bundled_folder()))
    if not home or after[:1] not in ("", "/"):
        return shlex.quote(_for_others(word))
    around = [shlex.quote(part) if part else "" for part in (before, after)]
    return around[0] + '"$(amnestic testbed path)"' + around[1]


def _for_others(word: str) -> str:
    """A word of a command without the folders of this machine; what is no path, or stays inside, as it was typed."""
    kind = FOLDER if word.startswith(FOLDER) else ""
    path = Path(word.removeprefix(kind)).expanduser()
    return kind + path_for_others(str(path)) if path.is_absolute() or ".." in path.parts else word
