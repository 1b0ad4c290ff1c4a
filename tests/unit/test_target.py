import json
import shutil
import warnings

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from safetensors.torch import load_file, save_file

from amnestic.core.errors import InputError, NotFinite, UnsupportedModel
from amnestic.core.records import Sampling, Unit
from amnestic.model.families import check_family, refuse_foreign_code
from amnestic.model.target import PipelineTarget

BATCH_BOUND = 2e-4
"""Largest difference of a latent (deviation about 0.9) drawn alone or among four; 1.5e-5 to 2.4e-5 was measured."""

UNITS = [Unit(p, s) for p in ("cat", "dogs") for s in (0, 1)]
PROMPTS = ["a red cat", "a red cat", "two dogs", "two dogs"]
SHORT = Sampling(num_inference_steps=3)

# Some schedulers of diffusers hand tensors to numpy in a way that numpy 2 calls outdated.
numpy_remark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.fixture(scope="module")
def target(tiny_pipeline):
    return PipelineTarget.load(str(tiny_pipeline))


def with_prediction(target, kind):
    """The same networks, read as if trained for another prediction type."""
    parts = {**target.pipeline.components, "scheduler": None}
    parts["scheduler"] = DDIMScheduler.from_config(target.pipeline.scheduler.config, prediction_type=kind)
    return PipelineTarget(ident=target.ident, pipeline=StableDiffusionPipeline(**parts, requires_safety_checker=False))


def edit_json(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


class TestIdentity:
    def test_names_the_model(self, target, tiny_pipeline):
        assert target.ident.name == str(tiny_pipeline)
        assert target.ident.family == "stable-diffusion"
        assert target.ident.dtype == "float32"
        assert len(target.ident.digest) == 64
        assert target.image_size == 64
        assert target.device.type == "cpu"

    def test_digest_is_the_same_for_a_path_and_a_live_pipeline(self, target, tiny_pipeline):
        live = StableDiffusionPipeline.from_pretrained(
            tiny_pipeline, safety_checker=None, feature_extractor=None, requires_safety_checker=False
        )
        live.unet.train()
        taken = PipelineTarget.load(live)
        assert taken.ident.digest == target.ident.digest == PipelineTarget.load(tiny_pipeline).ident.digest
        assert taken.ident.name == "StableDiffusionPipeline"
        assert not taken.pipeline.unet.training

    def test_digest_knows_one_changed_weight(self, target, tiny_copy):
        file = tiny_copy / "unet" / "diffusion_pytorch_model.safetensors"
        weights = load_file(file)
        weights["conv_in.bias"][0] += 1e-3
        save_file(weights, file, metadata={"format": "pt"})
        assert PipelineTarget.load(str(tiny_copy)).ident.digest != target.ident.digest

    @pytest.mark.parametrize(
        ("file", "key", "value"),
        [
            ("scheduler/scheduler_config.json", "prediction_type", "epsilon"),
            ("vae/config.json", "scaling_factor", 0.5),
        ],
    )
    def test_digest_knows_changed_settings(self, target, tiny_copy, file, key, value):
        edit_json(tiny_copy / file, lambda c: c.update({key: value}))
        assert PipelineTarget.load(str(tiny_copy)).ident.digest != target.ident.digest

    def test_computes_in_the_precision_asked_for(self, tiny_pipeline, target):
        low = PipelineTarget.load(str(tiny_pipeline), dtype="bfloat16")
        assert low.pipeline.unet.dtype == torch.bfloat16
        assert low.ident.digest != target.ident.digest
        images = low.decode(low.sample(UNITS[:1], PROMPTS[:1], SHORT))
        assert images[0].shape == (64, 64, 3)

    def test_loading_says_nothing(self, tiny_pipeline, capfd):
        PipelineTarget.load(str(tiny_pipeline))
        assert capfd.readouterr() == ("", "")


class TestNoise:
    def test_belongs_to_the_unit(self, target):
        together = target.noise(UNITS)
        alone = torch.cat([target.noise([u]) for u in reversed(UNITS)]).flip(0)
        assert torch.equal(together, alone)
        assert together.shape == (4, 24, 16, 16)
        assert together.dtype == torch.float32
        assert len({n.numpy().tobytes() for n in together}) == 4

    def test_is_standard_normal(self, target):
        noise = target.noise([Unit("p", s) for s in range(16)])
        assert noise.mean().abs() < 0.02
        assert (noise.std() - 1).abs() < 0.02

    def test_leaves_the_global_generator_alone(self, target):
        before = torch.get_rng_state()
        target.noise(UNITS)
        target.sample(UNITS[:1], PROMPTS[:1], SHORT)
        assert torch.equal(torch.get_rng_state(), before)

    def test_has_the_size_asked_for(self, target):
        assert target.noise(UNITS[:1], size=(32, 48)).shape == (1, 24, 8, 12)


class TestEncode:
    def test_one_row_per_prompt(self, target):
        cond = target.encode([*PROMPTS[1:3], "", "long words " * 90])
        assert cond.shape == (4, 32, 32)
        assert not cond.requires_grad
        torch.testing.assert_close(target.encode([""])[0], cond[2], atol=1e-6, rtol=0)


class TestPredict:
    @pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
    def test_is_eps_by_the_formulas_of_diffusers(self, target, kind):
        model = with_prediction(target, kind)
        scheduler = model.pipeline.scheduler
        scheduler.set_timesteps(1000)
        x, t, cond = target.noise(UNITS[:3]), torch.tensor([900, 500, 20]), target.encode(PROMPTS[:3])
        with torch.no_grad():
            eps = model.predict(x, t, cond)
            out = model.pipeline.unet(x, t, encoder_hidden_states=cond).sample
        for row in range(3):
            clean = scheduler.step(out[row], int(t[row]), x[row]).pred_original_sample
            again = scheduler.add_noise(clean, eps[row], t[row])
            torch.testing.assert_close(again, x[row], atol=2e-5, rtol=1e-4)

    def test_returns_the_noise_that_a_perfect_v_model_was_given(self, target):
        model = with_prediction(target, "v_prediction")
        clean, noise, t = target.noise(UNITS[:2]), target.noise(UNITS[2:]), torch.tensor([700, 30])
        v = model.pipeline.scheduler.get_velocity(clean, noise, t)
        x = model.pipeline.scheduler.add_noise(clean, noise, t)
        hook = model.pipeline.unet.register_forward_hook(lambda _m, _i, out: type(out)(sample=v))
        try:
            eps = model.predict(x, t, target.encode(PROMPTS[:2]))
        finally:
            hook.remove()
        torch.testing.assert_close(eps, noise, atol=1e-5, rtol=0)

    def test_is_finite_in_low_precision_near_the_clean_end(self, target):
        model = with_prediction(target, "sample")
        x = target.noise(UNITS[:1]).bfloat16()
        low = model.pipeline.unet.register_forward_hook(lambda _m, _i, out: type(out)(sample=torch.zeros_like(x)))
        try:
            eps = model.predict(x.float(), torch.tensor([0]), target.encode(PROMPTS[:1]))
        finally:
            low.remove()
        torch.testing.assert_close(eps, x.float() / 1e-4**0.5, rtol=1e-3, atol=0)

    def test_is_differentiable_in_latent_and_conditioning(self, target):
        x, cond = target.noise(UNITS[:1]).requires_grad_(), target.encode(PROMPTS[:1]).requires_grad_()
        target.predict(x, torch.tensor([500]), cond).square().sum().backward()
        for leaf in (x, cond):
            assert torch.isfinite(leaf.grad).all()
            assert leaf.grad.abs().max() > 0
        target.pipeline.unet.zero_grad()


class TestSample:
    def test_equals_the_pipelines_own_call(self, target, tiny_pipeline):
        plain = StableDiffusionPipeline.from_pretrained(
            tiny_pipeline, safety_checker=None, feature_extractor=None, requires_safety_checker=False
        )
        plain.set_progress_bar_config(disable=True)
        wanted = plain(
            prompt=PROMPTS[:2], latents=target.noise(UNITS[:2]), num_inference_steps=3, guidance_scale=3.0,
            output_type="np",
        ).images  # fmt: skip
        how = Sampling(num_inference_steps=3, guidance_scale=3.0)
        images = target.decode(target.sample(UNITS[:2], PROMPTS[:2], how))
        assert np.array_equal(np.stack(images), (wanted * 255).round().astype(np.uint8))

    def test_does_not_depend_on_the_batch(self, target):
        how = Sampling(num_inference_steps=8)
        together = target.sample(UNITS, PROMPTS, how)
        alone = torch.cat([target.sample([u], [p], how) for u, p in zip(UNITS, PROMPTS, strict=True)])
        assert together.shape == (4, 24, 16, 16)
        assert (together - alone).abs().max() < BATCH_BOUND

    @numpy_remark
    @pytest.mark.parametrize("name", ["DDPMScheduler", "EulerAncestralDiscreteScheduler"])
    def test_noise_of_stochastic_steps_belongs_to_the_unit_too(self, target, name):
        how = Sampling(scheduler=name, num_inference_steps=3)
        together = target.sample(UNITS, PROMPTS, how)
        last = target.sample(UNITS[3:], PROMPTS[3:], how)
        assert (together[3:] - last).abs().max() < BATCH_BOUND

    def test_is_repeatable_bit_for_bit(self, target):
        first = target.sample(UNITS[:2], PROMPTS[:2], SHORT)
        assert torch.equal(first, target.sample(UNITS[:2], PROMPTS[:2], SHORT))

    def test_stops_after_so_many_steps(self, target):
        calls = []
        hook = target.pipeline.unet.register_forward_hook(lambda *_: calls.append(1))
        try:
            early = target.sample(UNITS[:1], PROMPTS[:1], SHORT, stop_after=1)
            assert len(calls) == 1
            whole = target.sample(UNITS[:1], PROMPTS[:1], SHORT)
            assert len(calls) == 4
        finally:
            hook.remove()
        assert not torch.equal(early, whole)
        assert torch.equal(target.sample(UNITS[:1], PROMPTS[:1], SHORT, stop_after=9), whole)

    def test_one_step_follows_the_formula_of_ddim(self, target):
        noise, cond = target.noise(UNITS[:1]), target.encode(PROMPTS[:1])
        with torch.no_grad():
            eps = target.predict(noise, torch.tensor([999]), cond)
        alpha = target.pipeline.scheduler.alphas_cumprod[999]
        wanted = (noise - (1 - alpha).sqrt() * eps) / alpha.sqrt()
        drawn = target.sample(UNITS[:1], PROMPTS[:1], Sampling(num_inference_steps=1, guidance_scale=1.0))
        torch.testing.assert_close(drawn, wanted, atol=1e-2, rtol=1e-3)

    @numpy_remark
    @pytest.mark.parametrize("name", ["model", "PNDMScheduler", "DPMSolverMultistepScheduler"])
    def test_other_schedulers_by_name(self, target, name):
        drawn = target.sample(UNITS[:1], PROMPTS[:1], Sampling(scheduler=name, num_inference_steps=4))
        assert torch.isfinite(drawn).all()
        same = torch.equal(drawn, target.sample(UNITS[:1], PROMPTS[:1], Sampling(num_inference_steps=4)))
        assert same == (name == "model")

    def test_leaves_the_pipelines_scheduler_alone(self, target):
        scheduler = target.pipeline.scheduler
        before = dict(scheduler.config), scheduler.timesteps.clone(), scheduler.num_inference_steps
        target.sample(UNITS[:1], PROMPTS[:1], Sampling(scheduler="PNDMScheduler", num_inference_steps=4))
        target.sample(UNITS[:1], PROMPTS[:1], Sampling(scheduler="model", num_inference_steps=2))
        assert target.pipeline.scheduler is scheduler
        assert dict(scheduler.config) == before[0]
        assert torch.equal(scheduler.timesteps, before[1])
        assert scheduler.num_inference_steps == before[2]

    def test_a_scheduler_that_leaves_out_old_settings_gives_no_warning(self, target):
        parts = target.pipeline.components
        config = {k: v for k, v in parts["scheduler"].config.items() if k not in ("steps_offset", "clip_sample")}
        old = DDIMScheduler.from_config(config)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            pipeline = StableDiffusionPipeline(**{**parts, "scheduler": old}, requires_safety_checker=False)
        pipeline.scheduler = DDIMScheduler.from_config(config)
        PipelineTarget(ident=target.ident, pipeline=pipeline).sample(UNITS[:1], PROMPTS[:1], SHORT)

    @pytest.mark.parametrize(
        ("name", "hint"),
        [
            ("DDIMSheduler", "did you mean DDIMScheduler?"),
            ("FlowMatchEulerDiscreteScheduler", "expected model or a scheduler of"),
            ("UNet2DConditionModel", "expected model or a scheduler of"),
        ],
    )
    def test_refuses_an_unknown_scheduler(self, target, name, hint):
        with pytest.raises(InputError) as caught:
            target.sample(UNITS[:1], PROMPTS[:1], Sampling(scheduler=name))
        assert hint in str(caught.value)
        assert name in str(caught.value)

    @pytest.mark.parametrize(
        ("how", "stop_after", "sentence"),
        [
            (Sampling(height=60), None, "multiples of 8"),
            (Sampling(width=-8), None, "multiples of 8"),
            (Sampling(num_inference_steps=0), None, "at least 1 denoising step, got 0"),
            (Sampling(), 0, "at least 1 denoising step, got 0"),
            (Sampling(num_inference_steps=2000), None, "DDIMScheduler cannot draw in 2000 steps"),
            (Sampling(scheduler="PNDMScheduler", num_inference_steps=2), None, "PNDMScheduler cannot draw in 2 steps"),
        ],
    )
    def test_refuses_what_cannot_be_drawn(self, target, how, stop_after, sentence):
        with pytest.raises(InputError, match=sentence):
            target.sample(UNITS[:1], PROMPTS[:1], how, stop_after=stop_after)

    def test_refuses_latents_that_are_not_finite(self, target):
        hook = target.pipeline.unet.register_forward_hook(lambda _m, _i, out: (out[0] * torch.nan,))
        try:
            with pytest.raises(NotFinite, match="NaN or infinite latents"):
                target.sample(UNITS[:1], PROMPTS[:1], SHORT)
        finally:
            hook.remove()


class TestDecode:
    def test_gives_8_bit_rgb(self, target):
        images = target.decode(target.noise(UNITS[:2]) * 3)
        assert [i.shape for i in images] == [(64, 64, 3)] * 2
        assert {i.dtype for i in images} == {np.dtype(np.uint8)}

    def test_takes_latents_of_another_precision(self, target):
        latents = target.noise(UNITS[:1])
        assert np.array_equal(target.decode(latents.double())[0], target.decode(latents)[0])

    def test_refuses_what_is_not_finite(self, target):
        with pytest.raises(NotFinite, match="autoencoder"):
            target.decode(target.noise(UNITS[:1]) * torch.nan)


class TestRefusals:
    def test_another_family(self, tiny_copy):
        edit_json(tiny_copy / "model_index.json", lambda c: c.update(_class_name="StableDiffusionXLPipeline"))
        with pytest.raises(UnsupportedModel, match=r"Stable Diffusion 1\.x and 2\.x.*StableDiffusionXLPipeline"):
            PipelineTarget.load(str(tiny_copy))

    def test_another_network_inside(self, tiny_copy):
        edit_json(tiny_copy / "model_index.json", lambda c: c.update(unet=["diffusers", "UNet2DModel"]))
        with pytest.raises(UnsupportedModel, match="its unet is UNet2DModel"):
            PipelineTarget.load(str(tiny_copy))

    @pytest.mark.parametrize("entry", [None, "UNet2DConditionModel", ["diffusers"], [None, None], {}])
    def test_an_index_without_a_network(self, entry):
        with pytest.raises(UnsupportedModel, match="its unet is None"):
            check_family({"_class_name": "StableDiffusionPipeline", "unet": entry})

    def test_a_live_object_of_another_kind(self):
        with pytest.raises(UnsupportedModel, match="got Linear"):
            PipelineTarget.load(torch.nn.Linear(1, 1))

    def test_code_that_the_model_brings_along(self, tiny_copy):
        (tiny_copy / "scheduler" / "mine.py").write_text("raise SystemExit('ran')\n")
        edit_json(tiny_copy / "model_index.json", lambda c: c.update(scheduler=["mine", "Scheduler"]))
        with pytest.raises(UnsupportedModel, match="scheduler comes from mine"):
            PipelineTarget.load(str(tiny_copy))

    def test_known_libraries_are_no_foreign_code(self):
        refuse_foreign_code({"vae": ["diffusers", "X"], "image_encoder": [None, None], "requires_safety_checker": True})

    def test_pickled_weights_unless_allowed(self, tiny_copy):
        file = tiny_copy / "unet" / "diffusion_pytorch_model.safetensors"
        torch.save(load_file(file), file.with_suffix(".bin"))
        file.unlink()
        with pytest.raises(UnsupportedModel, match=r"only pickled weights .*--allow-pickle"):
            PipelineTarget.load(str(tiny_copy))
        assert PipelineTarget.load(str(tiny_copy), allow_pickle=True).image_size == 64

    def test_weights_that_are_not_finite(self, tiny_copy):
        file = tiny_copy / "vae" / "diffusion_pytorch_model.safetensors"
        weights = load_file(file)
        name = sorted(weights)[0]
        weights[name].view(-1)[0] = torch.nan
        save_file(weights, file, metadata={"format": "pt"})
        with pytest.raises(NotFinite, match=f"vae.{name} holds NaN or infinity in float32"):
            PipelineTarget.load(str(tiny_copy))

    @pytest.mark.parametrize("name", ["nowhere", "./no/where", "/no/where", "a/b/c"])
    def test_a_wrong_path(self, name):
        with pytest.raises(InputError, match="expected a model folder or a hub id"):
            PipelineTarget.load(name)

    def test_a_hub_id_while_offline(self):
        with pytest.raises(InputError, match="neither a local folder nor in the hub cache"):
            PipelineTarget.load("nobody-by-this-name/no-model")

    @pytest.mark.parametrize(
        ("name", "error", "sentence"),
        [
            ("model.ckpt", UnsupportedModel, "a pickled checkpoint, which can run code"),
            ("model.safetensors", InputError, "not a readable safetensors file"),
            ("model.zip", UnsupportedModel, r"or a \.safetensors checkpoint"),
        ],
    )
    def test_a_single_file(self, tmp_path, name, error, sentence):
        (tmp_path / name).write_bytes(b"")
        with pytest.raises(error, match=sentence):
            PipelineTarget.load(str(tmp_path / name))

    def test_a_folder_without_an_index(self, tmp_path):
        with pytest.raises(InputError, match=r"model_index.json, found none"):
            PipelineTarget.load(str(tmp_path))

    @pytest.mark.parametrize(("text", "sentence"), [("{", "is not JSON"), ("[1]", "found a list")])
    def test_a_damaged_index(self, tiny_copy, text, sentence):
        (tiny_copy / "model_index.json").write_text(text)
        with pytest.raises(InputError, match=sentence):
            PipelineTarget.load(str(tiny_copy))

    def test_truncated_weights(self, tiny_copy):
        file = tiny_copy / "unet" / "diffusion_pytorch_model.safetensors"
        file.write_bytes(file.read_bytes()[:1000])
        with pytest.raises(InputError, match="could not be loaded"):
            PipelineTarget.load(str(tiny_copy))

    @pytest.mark.parametrize("part", ["unet", "text_encoder", "scheduler"])
    def test_a_missing_part(self, tiny_copy, part):
        shutil.rmtree(tiny_copy / part)
        with pytest.raises(InputError, match="could not be loaded"):
            PipelineTarget.load(str(tiny_copy))

    def test_a_missing_tokenizer_is_not_taken_for_an_empty_one(self, tiny_copy):
        shutil.rmtree(tiny_copy / "tokenizer")
        with pytest.raises(InputError, match="restore the files of its tokenizer"):
            PipelineTarget.load(str(tiny_copy))

    def test_an_unknown_precision(self, tiny_pipeline):
        with pytest.raises(InputError, match="did you mean float16"):
            PipelineTarget.load(str(tiny_pipeline), dtype="flaot16")
