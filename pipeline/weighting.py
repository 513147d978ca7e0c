r"""Weights in prompts, in the syntax of AUTOMATIC1111's web UI, which is what people paste.

`(word)` counts 1.1 times, `((word))` 1.21 times, `(word:1.3)` 1.3 times, `[word]` a 1.1th: brackets
nest and multiply. One that is never closed reaches to the end; one that was never opened is text.
So is what follows a backslash: `\(`, `\\`. BREAK begins a new window.

What else that program finds in a prompt is refused: `[cat:dog:0.5]` and `[cat|dog]`, which change
the prompt between steps, AND, `<lora:…>`. Who pastes it has seen it work; read as words it would
give another picture, and nobody would know why. A backslash before it makes it text.

Knows text only; `prompts` turns what is read here into embeds.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from pipeline.errors import SpecError

STEP = 1.1
"""What a round bracket multiplies by, and a square one divides by."""

LARGEST = 10.0
"""The largest weight; the smallest is 0."""

_FOREIGN = r"\bAND\b | <(?=(?:lora|lyco|hypernet):[^<>]*>)"
_TOKEN = re.compile(
    rf"""\\ (?P<escaped> .? )
    | (?P<open> [(\[] )
    | (?: : \s* (?P<number> [+-]?[.\d]+ ) \s* )? (?P<close> [)\]] )
    | (?P<bar> \| )
    | (?P<break> \s* \bBREAK\b \s* )
    | (?P<foreign> {_FOREIGN} )
    | (?P<text> \s+ | . )  # spaces at once: from each, BREAK would be sought behind all others""",
    re.VERBOSE,
)
_MEANINGFUL = re.compile(rf"[\\()\[\]] | \bBREAK\b | {_FOREIGN}", re.VERBOSE)
_OPENER = {"(": "(", ")": "(", "[": "[", "]": "["}
_ADVICE = {
    "[": r"would change the prompt between steps, which is not done here: for a weight write "
    r"(word:0.9), for a bracket \[",
    "AND": r"would blend two prompts, which is not done here: for the word write \AND",
    "<": r"would add to the model, which a prompt cannot do here: say it in the model's loras",
}


@dataclass(frozen=True)
class Span:
    """Some text of a prompt, and how much it counts."""

    text: str
    weight: float = 1.0


BREAK = Span("BREAK", math.nan)
"""The end of a window, told by identity (`span is BREAK`); no text has its weight."""


def literal(prompt: str) -> tuple[Span, ...]:
    """The whole prompt as it stands."""
    return (Span(prompt),)


def escape(prompt: str) -> str:
    """`prompt` with backslashes, so that `parse_weights` reads it as it stands."""
    return _MEANINGFUL.sub(r"\\\g<0>", prompt)


def show_weights(spans: Sequence[Span]) -> str:
    """One line that tells how a prompt is read: `a | red ×1.5 | apple`."""
    return " | ".join(
        re.sub(r"[\s\x00-\x1f\x7f-\x9f]+", " ", span.text).strip()
        + ("" if span is BREAK or span.weight == 1 else f" ×{span.weight:.4g}")
        for span in spans
    )


def parse_weights(prompt: str) -> tuple[Span, ...]:
    """The spans of `prompt`, neighbours of one weight joined; at least one span.

    Takes time in proportion to the length of the prompt. Raises `SpecError` for a weight that is
    not between 0 and 10, and for what the web UI reads into a prompt beside weights.
    """
    spans: list[Span] = []
    for weight, group in groupby(_read(prompt), key=lambda span: span.weight):
        part = list(group)
        spans += part if part[0] is BREAK else [Span("".join(s.text for s in part), weight)]
    return tuple(spans) or literal("")


def _read(prompt: str) -> Iterator[Span]:
    """The pieces of `prompt`, each with the product of the brackets around it."""
    tokens = list(_TOKEN.finditer(prompt))
    factors = _pair_brackets(tokens)
    products = {"(": [1.0], "[": [1.0]}  # apart, since pairs may cross: ([)]
    for index, token in enumerate(tokens):
        kind = token.lastgroup
        if kind == "open":
            products[token[0]].append(products[token[0]][-1] * factors[index])
        elif index in factors:
            products[_OPENER[token["close"]]].pop()
        elif kind == "break":
            yield BREAK
        elif kind == "foreign":
            raise _refusal(token, _ADVICE[token[0]])
        elif text := token["escaped"] if kind == "escaped" else token[0]:
            weight = round(products["("][-1] * products["["][-1], 9)  # ([a]) is 1 to the bit
            if not 0 <= weight <= LARGEST:
                raise _refusal(token, f"has weight {weight:g}: must be between 0 and {LARGEST:g}")
            yield Span(text, weight)


def _pair_brackets(tokens: Sequence[re.Match[str]]) -> dict[int, float]:
    """What the brackets multiply by, or 1 for one that closes; those that are text are left out."""
    factors: dict[int, float] = {}
    opened: dict[str, list[int]] = {"(": [], "[": []}
    alternating: set[int] = set()
    for index, token in enumerate(tokens):
        match token.lastgroup:
            case "open":
                opened[token[0]].append(index)
                factors[index] = STEP if token[0] == "(" else 1 / STEP
            case "bar" if opened["["]:
                alternating.add(opened["["][-1])
            case "close" if opened[_OPENER[token["close"]]]:
                start = opened[_OPENER[token["close"]]].pop()
                factors[index] = 1.0
                if token["close"] == "]" and (token["number"] or start in alternating):
                    raise _refusal(tokens[start], _ADVICE["["])
                if token["number"]:
                    factors[start] = _parse_number(token)
    return factors


def _parse_number(token: re.Match[str]) -> float:
    try:
        return float(token["number"])
    except ValueError:
        raise _refusal(token, "holds no weight: must be a number, such as 1.2") from None


def _refusal(token: re.Match[str], advice: str) -> SpecError:
    """The error that shows the prompt from `token` on."""
    place = token.string[token.start() :]
    return SpecError(f"prompt: {place if len(place) <= 40 else place[:39] + '…'!r} {advice}")
