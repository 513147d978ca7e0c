"""Prompts are read as the web UI reads them whose syntax people paste."""

from __future__ import annotations

import time
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.errors import SpecError
from pipeline.weighting import BREAK, LARGEST, Span, escape, literal, parse_weights, show_weights

# Worked out by hand from the rules in the web UI's wiki ("Attention/emphasis") and from the
# examples above its parser. Weights are exact: products are rounded to nine places.
READ = {
    # what its documentation shows
    "normal text": [("normal text", 1)],
    "an (important) word": [("an ", 1), ("important", 1.1), (" word", 1)],
    "a ((word))": [("a ", 1), ("word", 1.21)],
    "a [word]": [("a ", 1), ("word", 0.909090909)],
    "a (word:1.5)": [("a ", 1), ("word", 1.5)],
    "a (word:0.25)": [("a ", 1), ("word", 0.25)],
    r"a \(word\)": [("a (word)", 1)],
    "(unbalanced": [("unbalanced", 1.1)],
    r"\(literal\]": [("(literal]", 1)],
    "(unnecessary)(parens)": [("unnecessaryparens", 1.1)],
    "a (((house:1.3)) [on] a (hill:0.5), sun, (((sky))).": [
        ("a ", 1), ("house", 1.573), (" ", 1.1), ("on", 1), (" a ", 1.1), ("hill", 0.55),
        (", sun, ", 1.1), ("sky", 1.4641), (".", 1.1),
    ],
    # weights
    "(red: 1.5 )": [("red", 1.5)],
    "(red:.5)": [("red", 0.5)],
    "(red:+2)": [("red", 2)],
    "(red:0)": [("red", 0)],
    "(red:10)": [("red", 10)],
    "((red:1.5))": [("red", 1.65)],
    "(a (b:2) c:1.5)": [("a ", 1.5), ("b", 3), (" c", 1.5)],
    "(a:b:1.5)": [("a:b", 1.5)],
    "(a\nb:2)": [("a\nb", 2)],
    "((a:100):0.01)": [("a", 1)],
    # brackets that cancel, cross, stay open, or were never opened
    "a (([[b]])) c": [("a b c", 1)],
    "(a [b) c] d": [("a ", 1.1), ("b", 1), (" c", 0.909090909), (" d", 1)],
    "[a": [("a", 0.909090909)],
    "((a) b": [("a", 1.21), (" b", 1.1)],
    "(a]": [("a]", 1.1)],
    "a red) apple]": [("a red) apple]", 1)],
    "a:1.5) b": [("a:1.5) b", 1)],
    "a:0.5] b": [("a:0.5] b", 1)],
    "(a:0.5] b)": [("a:0.5] b", 1.1)],
    "([)]a": [("a", 1)],
    "": [("", 1)],
    "()": [("", 1)],
    "(:1.5)": [("", 1)],
    # what looks like syntax and is text
    "a: b": [("a: b", 1)],
    "(a:b)": [("a:b", 1.1)],
    "[a:b]": [("a:b", 0.909090909)],
    "(a|b)": [("a|b", 1.1)],
    "a | b [c": [("a | b ", 1), ("c", 0.909090909)],
    "[c|d": [("c|d", 0.909090909)],
    "BREAKFAST and OUTBREAK": [("BREAKFAST and OUTBREAK", 1)],
    "a break AND_B": [("a break AND_B", 1)],
    "a <3 b, <lora>": [("a <3 b, <lora>", 1)],
    # backslashes
    r"\[a\] \\": [("[a] \\", 1)],
    r"\\(a)": [("\\", 1), ("a", 1.1)],
    r"(a\)b)": [("a)b", 1.1)],
    r"(a\:2)": [("a:2", 1.1)],
    r"\m/ \o/": [("m/ o/", 1)],
    r"\BREAK \AND \<lora:a:1>": [("BREAK AND <lora:a:1>", 1)],
    r"[a\|b]": [("a|b", 0.909090909)],
    "a\\": [("a", 1)],
}  # fmt: skip


@pytest.mark.parametrize("prompt", READ)
def test_it_is_read_as_there(prompt: str):
    assert parse_weights(prompt) == tuple(Span(*span) for span in READ[prompt])


@pytest.mark.parametrize(
    ("prompt", "texts"),
    [
        ("a BREAK b", ["a", BREAK, "b"]),
        ("a\n BREAK\n\nBREAK b", ["a", BREAK, BREAK, "b"]),
        ("BREAK", [BREAK]),
        ("a,BREAK", ["a,", BREAK]),
        ("a (red BREAK green) b", ["a ", "red", BREAK, "green", " b"]),
        ("(a) BREAK (b)", ["a", BREAK, "b"]),
    ],
)
def test_break_ends_a_window_and_takes_the_spaces_around_it(prompt: str, texts: list):
    spans = parse_weights(prompt)

    assert [s if s is BREAK else s.text for s in spans] == texts


def test_the_word_break_is_no_break():
    (span,) = parse_weights(escape("BREAK"))

    assert span == Span("BREAK")
    assert span is not BREAK
    assert span != BREAK


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        ("a [cat:dog:0.5] b", "'[cat:dog:0.5] b' would change the prompt between steps"),
        ("a [dog:0.5]", "'[dog:0.5]' would change"),
        ("[cat::12]", "'[cat::12]' would change"),
        ("[(cat:1.2):[dog]: .5 ]", "'[(cat:1.2):[dog]: .5 ]' would change"),
        ("(a [cat|dog])", "'[cat|dog])' would change"),
        ("[cat|(dog:1.1)|[cow]]", "'[cat|(dog:1.1)|[cow]]' would change"),
        ("a cat <lora:add_detail:0.8>", "'<lora:add_detail:0.8>' would add to the model"),
        ("[a [b|c] d", "'[b|c] d' would change"),
        ("<lyco:x:1>", "would add"),
        ("<hypernet:x>", "say it in the model's loras"),
        ("a cat AND a dog", r"'AND a dog' would blend two prompts"),
        ("a (cat:11), b", "'cat:11), b' has weight 11: must be between 0 and 10"),
        ("(a:-1)", "'a:-1)' has weight -1: must be"),
        ("(a:1.2.3) b", "':1.2.3) b' holds no weight: must be a number, such as 1.2"),
        ("(wait:...)", "':...)' holds no weight"),
        ("(a:" + "9" * 400 + ")", "has weight inf: must be"),
        ("(" * 8_000 + "(a:0)", "has weight nan: must be"),  # infinity times 0
        ("[\n:0.5]" + "x" * 99, r"'[\n:0.5]xxx"),
    ],
)
def test_what_would_mean_something_else_is_refused_in_one_line(prompt: str, said: str):
    with pytest.raises(SpecError) as caught:
        parse_weights(prompt)

    line = str(caught.value)
    assert line.startswith("prompt: ")
    assert said in line
    assert len(line) < 200
    assert "\n" not in line


@pytest.mark.parametrize("prompt", [r"\[cat:dog:0.5]", r"\[cat|dog]", r"\AND", r"\<lora:a:1>"])
def test_a_backslash_lets_all_of_it_through(prompt: str):
    assert parse_weights(prompt) == literal(prompt[1:])


# Letters alone would seldom spell what means something.
PIECES = st.sampled_from(
    [*"ab()[]:\\.1| \n<>", "(a:1.5)", ":0.5]", "BREAK", "AND", "<lora:a:1>", "é", "𝄞"]
)
PROMPTS = st.text() | st.lists(PIECES, max_size=30).map("".join)


@given(PROMPTS)
@example("<lora:(a)>")
@example("<lora:<lora:a>")
@example("\\BREAK(AND")
def test_an_escaped_text_is_read_as_it_stands(text: str):
    assert parse_weights(escape(text)) == literal(text)


@given(PROMPTS)
def test_whatever_the_prompt_it_is_read_or_refused(prompt: str):
    try:
        spans = parse_weights(prompt)
    except SpecError:
        return

    assert spans
    assert all(s is BREAK or 0 <= s.weight <= LARGEST for s in spans)
    assert all(s.text for s in spans) or spans == literal("")
    assert all(a.weight != b.weight for a, b in pairwise(spans))


@given(st.lists(st.sampled_from(["a", "b c", ", ", "(", ")", "[", "]", " d"]), max_size=40))
def test_no_text_is_lost_and_none_is_added(pieces: list[str]):
    """Brackets go where they pair or reach to the end, and stay where they were never opened."""
    expected, opened = "", {")": 0, "]": 0}
    for piece in pieces:
        if piece in "([":
            opened[")" if piece == "(" else "]"] += 1
        elif opened.get(piece):
            opened[piece] -= 1
        else:
            expected += piece
    try:
        spans = parse_weights("".join(pieces))
    except SpecError:  # 25 round brackets are more than ten times
        assert pieces.count("(") > 24
        return

    assert "".join(span.text for span in spans) == expected


@given(st.lists(st.sampled_from(["()", "[]", *(f"(:{w / 100})" for w in range(1, 300))])))
def test_nested_brackets_multiply(around: list[str]):
    prompt, weight = "a", 1.0
    for pair in around:
        prompt = pair[0] + prompt + pair[1:]
        weight *= {"()": 1.1, "[]": 1 / 1.1}.get(pair) or float(pair[2:-1])

    if weight > LARGEST:
        with pytest.raises(SpecError, match="must be between 0 and 10"):
            parse_weights(prompt)
    else:
        # Nine places are kept; the products' own rounding is a millionth of that.
        assert parse_weights(prompt)[0].weight == pytest.approx(weight, abs=1e-9)


@given(PROMPTS, PROMPTS)
def test_texts_with_a_break_between_are_read_apart(first: str, second: str):
    spans = parse_weights(f"{escape(first)} BREAK {escape(second)}")

    assert [span.text for span in spans if span is not BREAK] == [
        text for text in (first.rstrip(), second.lstrip()) if text
    ]
    assert sum(span is BREAK for span in spans) == 1


HOSTILE = {
    "open round": "(" * 10_000 + "a",
    "open square": "[" * 10_000 + "a",
    "open before each letter": "[a" * 5_000,
    "closed at the end": "[" * 5_000 + "a" + "]" * 5_000,
    "never opened": ")" * 10_000,
    "backslashes": "\\" * 10_000,
    "spaces": " " * 10_000,
    "colon, spaces": ": " * 5_000,
    "colon, digits": ":" + "1" * 10_000,
    "one bar after the other": "[" + "|" * 10_000,
    "loras without an end": "<lora:" * 1_600,
    "breaks": "BREAK " * 1_600,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_time_grows_with_the_length_and_nothing_recurses(name: str):
    """Three times the longest prompt of a spec: linear 0.1 s of processor time, quadratic 4 s."""
    started = time.process_time()
    try:
        parse_weights(HOSTILE[name] * 3)
    except SpecError as error:
        assert "must be between 0 and 10" in str(error)  # 1.1 to the 25th and more

    assert time.process_time() - started < 1


def test_weights_can_be_shown():
    assert show_weights(parse_weights("a (red:1.5) apple")) == "a | red ×1.5 | apple"
    assert show_weights(parse_weights("a\nb BREAK [c]")) == "a b | BREAK | c ×0.9091"
    assert show_weights(parse_weights("")) == ""
    # Nothing in a pasted prompt moves the cursor of the terminal it is shown in.
    assert show_weights(literal("a\x1b[2J\r\nb\x9b1mc")) == "a [2J b 1mc"
