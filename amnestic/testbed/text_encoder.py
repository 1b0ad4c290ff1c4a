"""The pipeline's text encoder: a small `CLIPTextModel`, trained contrastively, then frozen."""

import json
from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Float, Int, UInt8
from tokenizers.pre_tokenizers import ByteLevel
from torch import Tensor, nn
from torch.nn import functional
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from amnestic.testbed.autoencoder import to_float

WIDTH = 128
MAX_TOKENS = 32


def new_tokenizer(captions: Sequence[str], *, vocabulary: int = 900) -> CLIPTokenizer:
    """A byte-level BPE tokenizer in CLIP's format, fitted to captions that hold no work's caption.

    Every byte is a token, so any text can be read, whatever the captions hold.
    """
    fitted = CLIPTokenizer().train_new_from_iterator(captions, vocabulary)
    learned = sorted(fitted.get_vocab(), key=fitted.get_vocab().__getitem__)
    alphabet = sorted(ByteLevel.alphabet())
    special = [str(fitted.bos_token), str(fitted.eos_token)]
    tokens = dict.fromkeys([*special, *alphabet, *(f"{a}</w>" for a in alphabet), *learned])
    merges = json.loads(fitted.backend_tokenizer.to_str())["model"]["merges"]
    return CLIPTokenizer(
        vocab={token: index for index, token in enumerate(tokens)},
        merges=[tuple(m) for m in merges],
        model_max_length=MAX_TOKENS,
    )


def new_text_encoder(tokenizer: CLIPTokenizer, *, width: int = WIDTH, layers: int = 4) -> CLIPTextModel:
    """An untrained CLIP text model for the tokenizer."""
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=width * 4,
        projection_dim=width,
        num_hidden_layers=layers,
        num_attention_heads=4,
        max_position_embeddings=MAX_TOKENS,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return CLIPTextModel(config)


def tokenize(tokenizer: CLIPTokenizer, captions: Sequence[str]) -> Int[Tensor, "N L"]:
    """Token ids, padded and cut to the model's length as the pipeline does it."""
    out = tokenizer(list(captions), padding="max_length", max_length=MAX_TOKENS, truncation=True, return_tensors="pt")
    ids: Tensor = out.input_ids
    return ids


class Contrastive(nn.Module):
    """A text model beside a small convolutional image tower; the tower is thrown away."""

    def __init__(self, text: CLIPTextModel, *, width: int = WIDTH) -> None:
        """Pair `text` with an untrained tower."""
        super().__init__()
        self.text = text
        sizes = (3, 32, 64, 128, 192)
        self.tower = nn.Sequential(
            *[
                nn.Sequential(
                    nn.Conv2d(a, b, 3, stride=2, padding=1), nn.GroupNorm(8, b), nn.SiLU(),
                    nn.Conv2d(b, b, 3, padding=1), nn.GroupNorm(8, b), nn.SiLU(),
                )
                for a, b in pairwise(sizes)
            ]
        )  # fmt: skip
        self.image_head = nn.Linear(sizes[-1] * 2, width)
        self.text_head = nn.Linear(width, width)
        self.scale = nn.Parameter(torch.tensor(2.7))

    def forward(self, images: UInt8[Tensor, "N 3 H W"], tokens: Int[Tensor, "N L"]) -> Float[Tensor, ""]:
        """Symmetric InfoNCE loss of one batch of pairs (Radford et al., CLIP, 2021)."""
        maps = self.tower(to_float(images))
        seen = self.image_head(torch.cat([maps.mean((2, 3)), maps.amax((2, 3))], dim=1))
        read = self.text_head(self.text(tokens).pooler_output)
        logits = self.scale.exp().clamp(max=50) * functional.normalize(seen) @ functional.normalize(read).T
        target = torch.arange(len(logits))
        return functional.cross_entropy(logits, target) / 2 + functional.cross_entropy(logits.T, target) / 2


@torch.no_grad()
def embed_all(text: CLIPTextModel, tokens: Int[Tensor, "N L"], *, batch: int = 256) -> Float[Tensor, "N L W"]:
    """Last hidden states of all captions, as the pipeline hands them to the U-Net."""
    text.eval()
    return torch.cat([text(chunk).last_hidden_state for chunk in tokens.split(batch)])
