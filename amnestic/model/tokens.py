"""The text encoder from below: token ids, their embeddings, and what it makes of them."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext

import torch
from diffusers import StableDiffusionPipeline
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import CLIPTokenizer

from amnestic.core.errors import InputError
from amnestic.core.target import Vocabulary


def tokens(pipeline: StableDiffusionPipeline, texts: Sequence[str]) -> Int[Tensor, "N L"]:
    """Token ids of texts, padded and cut as the pipeline's own `encode_prompt` does it.

    Args:
        pipeline: With its tokenizer.
        texts: N texts.

    Returns:
        Ids on the CPU: the begin token, content, the end token, padding; L is the tokenizer's length.
    """
    tokenizer = pipeline.tokenizer
    read = pipeline.maybe_convert_prompt(list(texts), tokenizer)
    ids: Tensor = tokenizer(
        read, padding="max_length", max_length=tokenizer.model_max_length, truncation=True, return_tensors="pt"
    ).input_ids
    return ids


def texts_of(tokenizer: CLIPTokenizer, ids: Int[Tensor, "N L"]) -> tuple[str, ...]:
    """Texts of token ids: what stands between the begin token and the first end token.

    Not every row of ids can be typed: a piece of a word beside another one reads as a third. Read the text again to
    know what a user would get.

    Args:
        tokenizer: The pipeline's.
        ids: Rows as `tokens` gives them.

    Returns:
        One text a row.
    """
    return tuple(_decoded(tokenizer, _content(tokenizer, row)) for row in ids.tolist())


def vocabulary(pipeline: StableDiffusionPipeline) -> Vocabulary:
    """All tokens of a pipeline, and which of them can be typed.

    Args:
        pipeline: With its tokenizer and text encoder.

    Returns:
        Embeddings where the text encoder holds them; `ordinary` on the CPU.
    """
    embeddings = pipeline.text_encoder.get_input_embeddings().weight.detach()
    tokenizer = pipeline.tokenizer
    return Vocabulary(
        embeddings=embeddings, ordinary=_ordinary(tokenizer, len(embeddings)),
        begin=int(tokenizer.bos_token_id), end=int(tokenizer.eos_token_id),
    )  # fmt: skip


def encode_tokens(
    pipeline: StableDiffusionPipeline, ids: Int[Tensor, "N L"], embeddings: Float[Tensor, "N L E"] | None = None
) -> Float[Tensor, "N L W"]:
    """Last hidden states of the text encoder for token ids, or for embeddings in their place.

    Args:
        pipeline: Unchanged; a hook that puts the embeddings in place is gone afterwards, whatever happens.
        ids: Rows as `tokens` gives them; with embeddings they still say where a text ends.
        embeddings: What the text encoder reads instead of the vocabulary's rows, differentiable; in any precision.

    Returns:
        What `encode_prompt` gives for a text of these tokens, in the text encoder's precision.

    Raises:
        InputError: If the embeddings are not one row of the vocabulary's width per id.
    """
    encoder = pipeline.text_encoder
    layer, ids = encoder.get_input_embeddings(), ids.to(encoder.device)
    wanted = (*ids.shape, layer.weight.shape[1])
    if embeddings is not None and tuple(embeddings.shape) != wanted:
        raise InputError(f"expected embeddings of shape {wanted}, got {tuple(embeddings.shape)}; give one per id")
    mask = None
    if getattr(encoder.config, "use_attention_mask", False):
        ends = (ids == pipeline.tokenizer.eos_token_id).long()
        mask = (ends.cumsum(dim=1) - ends == 0).long()
    with nullcontext() if embeddings is None else _saying(layer, embeddings):
        cond: Tensor = encoder(ids, attention_mask=mask)[0]
    return cond


@contextmanager
def _saying(layer: nn.Module, values: Tensor) -> Iterator[None]:
    """The layer says `values`, whatever it is asked; transformers' CLIP text model takes no embeddings."""

    def say(_layer: nn.Module, _asked: object, out: Tensor) -> Tensor:
        return values.to(out.device, out.dtype)

    handle = layer.register_forward_hook(say)
    try:
        yield
    finally:
        handle.remove()


def _content(tokenizer: CLIPTokenizer, row: Sequence[int]) -> list[int]:
    inner = list(row[1:]) if row and row[0] == tokenizer.bos_token_id else list(row)
    return inner[: inner.index(tokenizer.eos_token_id)] if tokenizer.eos_token_id in inner else inner


def _decoded(tokenizer: CLIPTokenizer, content: Sequence[int]) -> str:
    # Some tokenizers pad with a token that users type, too ("!"), so that nothing may be skipped as special.
    text: str = tokenizer.decode(list(content), skip_special_tokens=False, clean_up_tokenization_spaces=False)
    return text.strip()


def _ordinary(tokenizer: CLIPTokenizer, size: int) -> Bool[Tensor, "V"]:
    special = set(tokenizer.all_special_ids)
    known = [i for i in range(min(len(tokenizer), size)) if i not in special]
    texts = [_decoded(tokenizer, [i]) for i in known]
    read = tokenizer(texts)["input_ids"]
    same = [list(ids[1:-1]) == [i] and text.isprintable() for i, text, ids in zip(known, texts, read, strict=True)]
    mask = torch.zeros(size, dtype=torch.bool)
    mask[known] = torch.tensor(same)
    return mask
