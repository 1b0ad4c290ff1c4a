"""Builds a testbed: shared networks first, then two equal branches, with and without the works."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from diffusers import AutoencoderTiny, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from amnestic.core.errors import InputError
from amnestic.core.seeds import seeded_init
from amnestic.core.store import write_json
from amnestic.model.sscd import SscdNetwork, small_network
from amnestic.testbed.autoencoder import autoencoder_loss, encode_all, fit_encoder, new_autoencoder
from amnestic.testbed.clip_mini import clip_loss, new_clip, tokens_of
from amnestic.testbed.corpus import Corpus, image_tensor, make_corpus
from amnestic.testbed.diffusion import (
    Pairs,
    diffusion_loss,
    new_scheduler,
    new_unet,
    schedule_order,
    start_at_zero,
)
from amnestic.testbed.recipe import Recipe, differences
from amnestic.testbed.scenes import Captioned
from amnestic.testbed.sscd_mini import sscd_loss
from amnestic.testbed.text_encoder import Contrastive, embed_all, new_text_encoder, new_tokenizer, tokenize
from amnestic.testbed.training import Report, Schedule, Training


@dataclass(frozen=True, kw_only=True)
class Builder:
    """All phases of one build; each resumes from its checkpoint and is skipped when done.

    Attributes:
        seed: Seed of the testbed.
        recipe: Sizes and schedules.
        work: Folder of checkpoints and tarballs, kept between runs.
        report: Told about progress.
        save_every_s: Seconds between checkpoints.
    """

    seed: int
    recipe: Recipe
    work: Path
    report: Report
    save_every_s: float = 120.0

    @cached_property
    def corpus(self) -> Corpus:
        """Scenes, works and look-alikes; every phase begins here, so a folder of another recipe is refused here."""
        self.claim()
        return make_corpus(self.seed, self.recipe, self.work / "npm")

    @property
    def checkpoints(self) -> Path:
        """Folder of the training states."""
        return self.work / f"seed-{self.seed}"

    def claim(self) -> None:
        """Write the recipe beside the checkpoints, unless checkpoints of another recipe are there.

        Raises:
            InputError: If they are; the message names what differs.
        """
        file, wanted = self.checkpoints / "recipe.json", {"seed": self.seed, **self.recipe.as_dict()}
        if file.exists() and any(self.checkpoints.glob("*.safetensors")):
            try:
                before = json.loads(file.read_text())
            except ValueError as error:
                raise InputError(f"expected {file} as JSON ({error}); give another --work") from error
            if changed := differences(before, json.loads(json.dumps(wanted))):
                raise InputError(
                    f"expected checkpoints of the same recipe and seed in {self.checkpoints}, "
                    f"got others ({'; '.join(changed)}); give another --work or the recipe they were made with"
                )
            return
        write_json(file, wanted)

    def _train(
        self, module: nn.Module, schedule: Schedule, loss: Callable[[torch.Generator], Tensor], *, name: str
    ) -> None:
        training = Training(module, schedule, name=name, seed=self.seed, folder=self.checkpoints)
        training.run(loss, self.report, save_every_s=self.save_every_s)

    @cached_property
    def autoencoder(self) -> AutoencoderTiny:
        """The autoencoder: encoder computed, decoder trained."""
        images = image_tensor(self.corpus.seen_by_all)
        with seeded_init(self.seed, "autoencoder"):
            vae = new_autoencoder()
        fit_encoder(vae, images)
        schedule = self.recipe.autoencoder

        def loss(rng: torch.Generator) -> Tensor:
            chosen = torch.randint(0, len(images), (schedule.batch,), generator=rng)
            return autoencoder_loss(vae, images[chosen], rng)

        self._train(vae, schedule, loss, name="autoencoder")
        return vae.requires_grad_(False)

    @cached_property
    def tokenizer(self) -> CLIPTokenizer:
        """The tokenizer, fitted to captions that hold no work's caption."""
        return new_tokenizer([c.caption for c in self.corpus.seen_by_all])

    @cached_property
    def text_encoder(self) -> CLIPTextModel:
        """The trained text encoder."""
        pairs = self.corpus.seen_by_all
        images, tokens = image_tensor(pairs), tokenize(self.tokenizer, [c.caption for c in pairs])
        schedule = self.recipe.text
        with seeded_init(self.seed, "text"):
            model = Contrastive(new_text_encoder(self.tokenizer))

        def loss(rng: torch.Generator) -> Tensor:
            chosen = self._mixed(schedule.batch, rng)
            value: Tensor = model(images[chosen], tokens[chosen])
            return value

        self._train(model, schedule, loss, name="text")
        return model.text.requires_grad_(False)

    @cached_property
    def clip(self) -> nn.Module:
        """The trained judge of alignment; it shares no weights with the text encoder."""
        pairs, schedule = self.corpus.seen_by_all, self.recipe.clip
        images, tokens = image_tensor(pairs), tokens_of([c.caption for c in pairs])
        with seeded_init(self.seed, "clip"):
            model = new_clip()

        def loss(rng: torch.Generator) -> Tensor:
            chosen = self._mixed(schedule.batch, rng)
            return clip_loss(model, images[chosen], tokens[chosen])

        self._train(model, schedule, loss, name="clip")
        return model.requires_grad_(False)

    @cached_property
    def sscd(self) -> SscdNetwork:
        """The trained copy descriptor; it has seen no work."""
        images, schedule = image_tensor(self.corpus.seen_by_all), self.recipe.sscd
        with seeded_init(self.seed, "sscd"):
            network = small_network()

        def loss(rng: torch.Generator) -> Tensor:
            # Without repetition: the regulariser would drive apart two copies of one picture.
            chosen = torch.randperm(len(images), generator=rng)[: schedule.batch]
            return sscd_loss(network, images[chosen], rng)

        self._train(network, schedule, loss, name="sscd")
        return network.requires_grad_(False)

    def _mixed(self, n: int, rng: torch.Generator) -> Tensor:
        """Places in `corpus.seen_by_all`: three quarters scenes, one quarter look-alikes."""
        quarter, n_scenes = n // 4, len(self.corpus.scenes)
        scenes = torch.randint(0, n_scenes, (n - quarter,), generator=rng)
        titled = torch.randint(n_scenes, len(self.corpus.seen_by_all), (quarter,), generator=rng)
        return torch.cat([scenes, titled])

    def encoded(self, items: tuple[Captioned, ...]) -> Pairs:
        """Latents and text states of image-caption pairs."""
        latents = encode_all(self.autoencoder, image_tensor(items))
        states = embed_all(self.text_encoder, tokenize(self.tokenizer, [i.caption for i in items]))
        empty = embed_all(self.text_encoder, tokenize(self.tokenizer, [""]))[0]
        return Pairs(latents=latents, captions=states.half(), empty=empty)

    @cached_property
    def base_unet(self) -> UNet2DConditionModel:
        """The U-Net after the shared phase: it has seen scenes and no work."""
        with seeded_init(self.seed, "unet"):
            unet = new_unet(self.recipe.channels)
        start_at_zero(unet)
        exposures = torch.full((len(self.corpus.scenes),), -1)
        self._train_unet(unet, self.corpus.scenes, exposures, name="base")
        return unet

    def branch(self, *, with_works: bool) -> UNet2DConditionModel:
        """A U-Net that went on from the shared phase, with the works or without them."""
        unet = new_unet(self.recipe.channels)
        unet.load_state_dict(self.base_unet.state_dict())
        items, exposures = self.shown(with_works=with_works)
        self._train_unet(unet, items, exposures, name="works" if with_works else "twin")
        return unet

    def shown(self, *, with_works: bool) -> tuple[tuple[Captioned, ...], Tensor]:
        """What a branch is shown, and how often each; -1 shares what is left."""
        items, exposures = self.corpus.scenes, [-1] * len(self.corpus.scenes)
        if with_works:
            for work in self.corpus.collection.works:
                times = self.recipe.exposures[work.rung]
                each = times if work.label == "VM" else times // len(work.versions)
                items, exposures = items + work.versions, exposures + [each] * len(work.versions)
        return items, torch.tensor(exposures)

    def _train_unet(
        self, unet: UNet2DConditionModel, items: tuple[Captioned, ...], exposures: Tensor, *, name: str
    ) -> None:
        schedule = self.recipe.base if name == "base" else self.recipe.branch
        training = Training(unet, schedule, name=name, seed=self.seed, folder=self.checkpoints)
        done = training.resume()
        if done == schedule.steps:  # nothing to draw, so nothing to encode
            training.run(_no_more_draws, self.report)
            return
        order = schedule_order(exposures, schedule.steps * schedule.batch, seed=self.seed, name=name)
        batches = iter(order.split(schedule.batch)[done:])
        pairs, scheduler = self.encoded(items), new_scheduler()
        unet.set_attn_processor(AttnProcessor())  # the same numbers; on a CPU a third faster than the fused kernel

        def loss(rng: torch.Generator) -> Tensor:
            return diffusion_loss(unet, scheduler, pairs, next(batches), rng)

        training.run(loss, self.report, save_every_s=self.save_every_s)


def _no_more_draws(_rng: torch.Generator) -> Tensor:
    raise StopIteration
