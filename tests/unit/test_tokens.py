"""The doors to the text encoder: ids, texts and embeddings of tokens."""

import pytest
import torch

from amnestic.core.errors import InputError
from amnestic.core.seeds import generator
from amnestic.model import tokens as doors
from amnestic.model.target import PipelineTarget
from amnestic.testbed.text_encoder import new_tokenizer

TEXTS = ["a red cat on a blue mat", "", "two dogs, under a Tree-house 2024!"]


@pytest.fixture(scope="module")
def target(tiny_pipeline):
    return PipelineTarget.load(tiny_pipeline)


def hooks_of(target):
    return sum(len(m._forward_hooks) for m in target.pipeline.text_encoder.modules())


class TestReading:
    def test_ids_are_those_that_the_pipeline_reads(self, target):
        ids = target.tokens(TEXTS)
        assert ids.shape == (3, 32)
        assert torch.equal(target.encode_tokens(ids), target.encode(TEXTS))

    def test_texts_come_back_as_they_are_read(self, target):
        ids = target.tokens(TEXTS)
        texts = target.texts_of(ids)
        assert texts[:2] == ("a red cat on a blue mat", "")
        assert torch.equal(target.tokens(texts), ids)

    def test_a_long_text_is_cut(self, target):
        ids = target.tokens(["a red cat " * 40])
        assert ids.shape == (1, 32)
        assert ids[0, -1] == target.vocabulary().end
        assert target.texts_of(ids)[0].startswith("a red cat a red cat")

    def test_a_pad_token_that_users_type_is_part_of_their_text(self):
        """As in Stable Diffusion 2, whose tokenizer pads with an exclamation mark."""
        tokenizer = new_tokenizer(["a red cat"], vocabulary=300)
        tokenizer.pad_token = "!"
        ids = torch.tensor(tokenizer(["wow! a cat", "a"], padding="max_length", max_length=16)["input_ids"])
        assert ids[1, -1] == tokenizer.pad_token_id != tokenizer.eos_token_id
        assert doors.texts_of(tokenizer, ids)[1] == "a"
        again = tokenizer(list(doors.texts_of(tokenizer, ids)), padding="max_length", max_length=16)["input_ids"]
        assert torch.equal(torch.tensor(again), ids)
        assert not doors._ordinary(tokenizer, len(tokenizer))[tokenizer.pad_token_id]


class TestVocabulary:
    def test_embeddings_are_the_models_own(self, target):
        known = target.vocabulary()
        weight = target.pipeline.text_encoder.get_input_embeddings().weight
        assert known.embeddings.data_ptr() == weight.data_ptr()
        assert not known.embeddings.requires_grad
        assert known.ordinary.shape == (len(weight),)

    def test_ordinary_words_survive_in_any_order(self, target):
        known = target.vocabulary()
        choices = known.ordinary.nonzero()[:, 0]
        assert 20 < len(choices) < len(known.ordinary)
        ids = target.tokens([""]).repeat(50, 1)
        drawn = choices[torch.randint(len(choices), (50, 12), generator=generator(0, "words"))]
        ids[:, 1:13], ids[:, 13] = drawn, known.end
        assert torch.equal(target.tokens(target.texts_of(ids)), ids)

    def test_pieces_of_words_special_and_unprintable_tokens_are_not_ordinary(self, target):
        known, vocabulary = target.vocabulary(), target.pipeline.tokenizer.get_vocab()
        assert known.ordinary[vocabulary["cat</w>"]]
        for token in ("c", "<|startoftext|>", "<|endoftext|>", "Ā</w>"):
            assert not known.ordinary[vocabulary[token]], token
        assert (known.begin, known.end) == tuple(target.tokens([""])[0, :2].tolist())


class TestEmbeddings:
    def test_the_vocabularys_own_say_what_the_ids_say(self, target):
        ids = target.tokens(TEXTS)
        found = target.encode_tokens(ids, target.vocabulary().embeddings[ids])
        assert torch.equal(found, target.encode(TEXTS))

    def test_others_speak_instead_of_the_ids(self, target):
        ids, others = target.tokens(["a cat"]), target.tokens(["two dogs"])
        found = target.encode_tokens(ids, target.vocabulary().embeddings[others])
        torch.testing.assert_close(found, target.encode(["two dogs"]))

    def test_gradients_are_those_of_finite_differences(self, tiny_pipeline):
        target = PipelineTarget.load(tiny_pipeline)
        target.pipeline.text_encoder.double()
        ids = target.tokens(["a red cat"])
        point = target.vocabulary().embeddings[ids].clone().requires_grad_()
        aim = torch.randn((1, 32, 32), generator=generator(0, "aim"), dtype=torch.float64)

        def value(embeddings):
            return (target.encode_tokens(ids, embeddings) * aim).sum()

        (slope,) = torch.autograd.grad(value(point), point)
        assert slope.isfinite().all()
        for place in [(0, 0, 3), (0, 2, 7), (0, 3, 30), (0, 9, 1)]:
            step = torch.zeros_like(point)
            step[place] = 1e-5
            with torch.no_grad():
                expected = (value(point + step) - value(point - step)) / 2e-5
            torch.testing.assert_close(slope[place], expected, rtol=1e-5, atol=1e-8)

    def test_later_tokens_do_not_move_what_comes_before(self, target):
        ids = target.tokens(["a red cat"])
        point = target.vocabulary().embeddings[ids].clone().requires_grad_()
        said = target.encode_tokens(ids, point)[0, 2]
        (slope,) = torch.autograd.grad(said @ torch.arange(32.0), point)
        assert slope[0, 2].abs().max() > 0
        assert not slope[0, 3:].any()

    def test_leaves_no_hook_even_after_an_error(self, target):
        ids, hooks = target.tokens(["a cat"]), hooks_of(target)
        target.encode_tokens(ids, target.vocabulary().embeddings[ids])
        assert hooks_of(target) == hooks
        with pytest.raises((RuntimeError, ValueError, IndexError)):
            target.encode_tokens(ids.repeat(1, 9), target.vocabulary().embeddings[ids.repeat(1, 9)])
        assert hooks_of(target) == hooks
        assert torch.equal(target.encode_tokens(ids), target.encode(["a cat"]))

    def test_embeddings_of_another_shape_are_refused(self, target):
        with pytest.raises(InputError, match=r"expected embeddings of shape \(1, 32, 32\), got \(1, 31, 32\)"):
            target.encode_tokens(target.tokens(["a cat"]), torch.zeros(1, 31, 32))

    def test_a_text_encoder_that_masks_padding_gets_its_mask(self, tiny_pipeline):
        target = PipelineTarget.load(tiny_pipeline)
        target.pipeline.text_encoder.config.use_attention_mask = True
        assert torch.equal(target.encode_tokens(target.tokens(TEXTS)), target.encode(TEXTS))
