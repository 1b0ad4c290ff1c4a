import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers.decoders import ByteLevel
from tokenizers.pre_tokenizers import ByteLevel as Bytes
from transformers import CLIPTokenizer

from amnestic.core.seeds import generator, seeded_init
from amnestic.testbed.text_encoder import MAX_TOKENS, Contrastive, embed_all, new_text_encoder, tokenize


@pytest.fixture(scope="module")
def text_model(tokenizer):
    with seeded_init(0, "text"):
        return new_text_encoder(tokenizer, width=16, layers=1).eval()


def pieces(tokenizer, text):
    return tokenizer(text, add_special_tokens=False).input_ids


def squeezed(text):
    return "".join(text.split())


def test_captions_of_works_fit_the_length(tokenizer, collection):
    captions = [v.caption for w in (*collection.works, *collection.heldout) for v in w.versions]
    lengths = {caption: len(pieces(tokenizer, caption)) + 2 for caption in captions}
    assert {c: n for c, n in lengths.items() if n > MAX_TOKENS} == {}


def test_captions_of_scenes_fit_the_length(tokenizer, scenes):
    assert max(len(pieces(tokenizer, s.caption)) for s in scenes) + 2 <= MAX_TOKENS


@settings(max_examples=80, deadline=None)
@given(text=st.text(max_size=20))
@example(text="a collage of owl, kite on red and teal rings")
@example(text="Ünï çödé 日本語 \U0001f600 \x00 e\u0301")
def test_any_text_becomes_bytes_that_are_known(tokenizer, text):
    ids = pieces(tokenizer, text)
    assert tokenizer.eos_token_id not in ids  # CLIP's unknown token is its end token
    assert tokenizer.unk_token_id not in ids
    spelled = [t.removesuffix("</w>") for t in tokenizer.convert_ids_to_tokens(ids)]
    wanted = tokenizer.backend_tokenizer.normalizer.normalize_str(text)
    assert squeezed(ByteLevel().decode(spelled)) == squeezed(wanted)


def test_every_byte_is_a_token_inside_and_at_the_end_of_a_word(tokenizer):
    vocabulary = tokenizer.get_vocab()
    assert all(a in vocabulary and f"{a}</w>" in vocabulary for a in Bytes.alphabet())
    assert sorted(vocabulary.values()) == list(range(len(tokenizer)))


def test_the_tokenizer_survives_being_saved(tokenizer, collection, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    loaded = CLIPTokenizer.from_pretrained(tmp_path)
    texts = [*(v.caption for w in collection.works for v in w.versions), "", "Ünï çödé \U0001f600", "a " * 100]
    assert torch.equal(tokenize(loaded, texts), tokenize(tokenizer, texts))
    assert loaded.model_max_length == MAX_TOKENS


def test_ids_begin_end_and_are_padded_as_the_pipeline_does_it(tokenizer):
    ids = tokenize(tokenizer, ["an owl on a red background", "", "owl " * 100])
    assert ids.shape == (3, MAX_TOKENS)
    assert (ids[:, 0] == tokenizer.bos_token_id).all()
    assert (ids[:, -1] == tokenizer.eos_token_id).all()
    assert (ids[1, 1:] == tokenizer.eos_token_id).all()
    assert (ids[2, 1:-1] != tokenizer.eos_token_id).all()


def test_states_have_one_row_per_token_and_do_not_depend_on_batches(tokenizer, text_model, scenes):
    ids = tokenize(tokenizer, [s.caption for s in scenes[:7]])
    states = embed_all(text_model, ids)
    assert states.shape == (7, MAX_TOKENS, 16)
    assert not states.requires_grad
    torch.testing.assert_close(embed_all(text_model, ids, batch=2), states, atol=1e-5, rtol=1e-4)


def test_the_pooled_state_is_that_of_the_first_end_token(tokenizer, text_model):
    ids = tokenize(tokenizer, ["an owl", "a bell and a drum on a blue background"])
    with torch.no_grad():
        out = text_model(ids)
    ends = (ids == tokenizer.eos_token_id).int().argmax(dim=1)
    torch.testing.assert_close(out.pooler_output, out.last_hidden_state[torch.arange(2), ends])


def test_pairs_are_told_apart_after_a_few_steps(tokenizer):
    with seeded_init(0, "contrastive"):
        model = Contrastive(new_text_encoder(tokenizer, width=16, layers=1), width=16)
    images = torch.randint(0, 256, (4, 3, 1, 1), generator=generator(0, "images")).expand(4, 3, 32, 32).byte()
    ids = tokenize(tokenizer, ["an owl", "a bell", "a red kite", "two drums"])
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(150):
        loss = model(images, ids)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
