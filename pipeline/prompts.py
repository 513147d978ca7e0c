"""Text to prompt embeds: weights, windows, and one or several text encoders.

Knows tokenizers and text encoders; knows nothing of what the embeds will guide. A prompt that is
longer than the encoder's window is read in several windows, one after the other: nothing is cut.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import groupby
from typing import TYPE_CHECKING

import torch

from pipeline.tensors import Embeds, Pooled, PromptEmbeds
from pipeline.weighting import BREAK, Span, literal, parse_weights

if TYPE_CHECKING:
    from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

REACH = 20
"""Tokens that a window gives up so as to end behind a comma, as in AUTOMATIC1111's web UI."""

Token = tuple[int, float]
"""An id and its weight."""


@dataclass(frozen=True, kw_only=True)
class TextEncoder:
    """A tokenizer and the encoder it was made for; `skip` of its last layers are left out.

    XL reads the layer before the last, as it is; the others read the last, normalised.
    """

    tokenizer: CLIPTokenizer
    encoder: CLIPTextModel | CLIPTextModelWithProjection
    device: torch.device
    skip: int = 0
    is_xl: bool = False

    @property
    def room(self) -> int:
        """How many tokens a window holds beside the two that mark its start and end."""
        return int(self.tokenizer.model_max_length) - 2

    def split(self, spans: Sequence[Span]) -> list[list[Token]]:
        """The tokens of each window, at least one window."""
        windows = []
        for is_break, part in groupby(spans, lambda span: span is BREAK):
            if not is_break:
                windows += list(self._cut([t for span in part for t in self._tokenize(span)]))
        return windows or [[]]

    def encode(self, windows: Sequence[Sequence[Token]]) -> tuple[Embeds, Pooled | None]:
        """Hidden states, (1, tokens, width), and the first window's pooled vector if it has one."""
        read = [self._read(window) for window in windows]
        return torch.cat([embeds for embeds, _ in read], dim=1), read[0][1]

    def _tokenize(self, span: Span) -> list[Token]:
        ids = self.tokenizer(span.text, add_special_tokens=False, verbose=False).input_ids
        return [(token, span.weight) for token in ids]

    def _cut(self, tokens: list[Token]) -> Iterator[list[Token]]:
        while len(tokens) > self.room:
            end = self.room
            near = [i + 1 for i in range(end - min(REACH, end), end) if tokens[i][0] == self._comma]
            end = near[-1] if near else end
            yield tokens[:end]
            tokens = tokens[end:]
        yield tokens

    @cached_property
    def _comma(self) -> int:
        return int(self.tokenizer(",", add_special_tokens=False).input_ids[0])

    def _read(self, window: Sequence[Token]) -> tuple[Embeds, Pooled | None]:
        tokenizer = self.tokenizer
        padding = self.room - len(window)
        ids = [tokenizer.bos_token_id, *(token for token, _ in window), tokenizer.eos_token_id]
        ids += [tokenizer.pad_token_id] * padding
        weights = [1.0, *(weight for _, weight in window), *[1.0] * (1 + padding)]

        output = self.encoder(torch.tensor([ids], device=self.device), output_hidden_states=True)
        return _weigh(self._choose(output), weights), getattr(output, "text_embeds", None)

    def _choose(self, output: object) -> Embeds:
        """The hidden states that the network was trained with."""
        states: tuple[Embeds, ...] = output.hidden_states  # type: ignore[attr-defined]
        if self.is_xl:
            return states[-2 - self.skip]
        normalise = getattr(self.encoder, "text_model", self.encoder).final_layer_norm
        normalised: Embeds = normalise(states[-1 - self.skip])
        return normalised


@dataclass(frozen=True, kw_only=True)
class TextEncoders:
    """All text encoders of a model, side by side: two in XL, one elsewhere.

    `words` are those that textual inversions brought, with the tokens each stands for.
    """

    encoders: tuple[TextEncoder, ...]
    words: Mapping[str, str] = field(default_factory=dict)
    zeros_if_no_negative: bool = False

    @property
    def widths(self) -> tuple[int, ...]:
        """How wide each encoder's block of the embeds is; they are blended each by itself."""
        return tuple(int(one.encoder.config.hidden_size) for one in self.encoders)

    def encode(self, prompt: str, *, plain: bool = False) -> PromptEmbeds:
        """Embeds of `prompt`, (1, tokens, width); tokens is a multiple of the window."""
        spans = literal(prompt) if plain else parse_weights(prompt)
        spans = tuple(span if span is BREAK else self._spell_out(span) for span in spans)
        split = [encoder.split(spans) for encoder in self.encoders]
        longest = max(map(len, split))
        read = [
            encoder.encode(windows + [[]] * (longest - len(windows)))
            for encoder, windows in zip(self.encoders, split, strict=True)
        ]
        return PromptEmbeds(torch.cat([embeds for embeds, _ in read], dim=-1), read[-1][1])

    def encode_negative(
        self, prompt: str | None, positive: PromptEmbeds, *, plain: bool = False
    ) -> PromptEmbeds:
        """Embeds of a negative prompt; of none at all zeros in XL, else the empty prompt's."""
        if prompt is None and self.zeros_if_no_negative:
            return positive.zeros()
        return self.encode(prompt or "", plain=plain)

    def _spell_out(self, span: Span) -> Span:
        """Each word of a textual inversion as the tokens it stands for, whole words only."""
        if not self.words:
            return span
        readings = {word.lower(): reading for word, reading in self.words.items()}
        longest_first = sorted(self.words, key=len, reverse=True)
        text = re.sub(
            "|".join(map(_pattern, longest_first)),
            lambda found: readings[found[0].lower()],
            span.text,
            flags=re.IGNORECASE,
        )
        return Span(text, span.weight)


def pad_embeds(prompt: PromptEmbeds, empty: PromptEmbeds, tokens: int) -> PromptEmbeds:
    """`prompt` lengthened to `tokens` by windows of the empty prompt (never by zeros)."""
    missing = (tokens - prompt.embeds.shape[1]) // empty.embeds.shape[1]
    return PromptEmbeds(torch.cat([prompt.embeds, *[empty.embeds] * missing], dim=1), prompt.pooled)


def _weigh(embeds: Embeds, weights: Sequence[float]) -> Embeds:
    """Each token's states times its weight, then all times what gives their mean back.

    As AUTOMATIC1111's web UI does it; without weights nothing is touched.
    """
    if all(weight == 1 for weight in weights):
        return embeds
    weighed = embeds * torch.tensor(weights, dtype=embeds.dtype, device=embeds.device)[:, None]
    weighed *= embeds.mean() / weighed.mean()
    return weighed


def _pattern(word: str) -> str:
    """Where `word` stands; one that begins or ends with a letter is not sought inside others."""
    escaped = re.escape(word)
    return rf"(?<!\w){escaped}(?!\w)" if word[0].isalnum() or word[-1].isalnum() else escaped
