"""Text to prompt embeds.

Knows a tokenizer and a text encoder; knows nothing of what the embeds will guide. A prompt that is
longer than the encoder's window is read in several windows, one after the other: nothing is cut.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pipeline.tensors import Embeds

if TYPE_CHECKING:
    from transformers import CLIPTextModel, CLIPTokenizer


@dataclass(frozen=True)
class TextEncoder:
    """A tokenizer and the encoder it was made for."""

    tokenizer: CLIPTokenizer
    encoder: CLIPTextModel

    @property
    def window(self) -> int:
        """How many tokens the encoder reads at once, with the two that mark start and end."""
        return int(self.tokenizer.model_max_length)

    def encode(self, prompt: str) -> Embeds:
        """Hidden states of `prompt`, (1, tokens, width); tokens is a multiple of the window."""
        windows = [self.encoder(ids[None], return_dict=False)[0] for ids in self._split(prompt)]
        return torch.cat(windows, dim=1)

    def _split(self, prompt: str) -> list[Tensor]:
        """Token ids of each window: start, words, end, padding."""
        tokenizer = self.tokenizer
        words = tokenizer(prompt, add_special_tokens=False, verbose=False).input_ids
        room = self.window - 2
        parts = [words[i : i + room] for i in range(0, max(len(words), 1), room)]
        ids = [
            [tokenizer.bos_token_id, *part, tokenizer.eos_token_id]
            + [tokenizer.pad_token_id] * (room - len(part))
            for part in parts
        ]
        return list(torch.tensor(ids, device=self.encoder.device))


def pad_embeds(embeds: Embeds, empty: Embeds, tokens: int) -> Embeds:
    """`embeds` lengthened to `tokens` by windows of the empty prompt (never by zeros)."""
    missing = (tokens - embeds.shape[1]) // empty.shape[1]
    return torch.cat([embeds, *[empty] * missing], dim=1)
