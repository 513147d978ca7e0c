"""Frozen values: how they are read from TOML, overridden key by key, and refused in one line.

Knows nothing of what the values say; that is `spec`. Every refusal is a `SpecError`, the same line
from Python, the command line and the page.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Self, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from pipeline.errors import SpecError

MAX_SPEC_BYTES = 2**20

S = TypeVar("S", bound="Spec")


class Spec(BaseModel):
    """A frozen value that refuses unknown keys and says in one line what is wrong."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def __init__(self, /, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise SpecError(_say(error, type(self))) from None

    def replace(self, **values: Any) -> Self:
        """The same spec with some values changed, validated anew."""
        return type(self)(**{**dict(self), **values})


def load_spec(kind: type[S], file: Path, overrides: Sequence[str] = ()) -> S:
    """The spec in a TOML file, with `overrides` such as "sampling.guidance_scale=5" over it."""
    return parse_spec(kind, _read(file), overrides)


def parse_spec(kind: type[S], values: Mapping[str, Any], overrides: Sequence[str] = ()) -> S:
    """The spec in nested `values`, with `overrides` "dotted.key=value" laid over it."""
    nested = _copy(values)
    for override in overrides:
        _override(nested, override)
    return kind(**nested)


def _read(file: Path) -> dict[str, Any]:
    try:
        if file.stat().st_size <= MAX_SPEC_BYTES:
            return tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise SpecError(f"{file}: {error.strerror or error}") from None
    except ValueError as error:  # TOML, UTF-8, numbers of too many digits
        raise SpecError(f"{file.name}: not valid TOML: {error}") from None
    except RecursionError:
        raise SpecError(f"{file.name}: not valid TOML: nested too deeply") from None
    raise SpecError(f"{file.name}: larger than {MAX_SPEC_BYTES} bytes, no spec is")


def _copy(values: Mapping[str, Any]) -> dict[str, Any]:
    return {k: _copy(v) if isinstance(v, Mapping) else v for k, v in values.items()}


def _override(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    *tables, name = key.strip().split(".")
    if not equals or not name:
        raise SpecError(f"set {override!r}: must be KEY=VALUE, such as sampling.guidance_scale=5")
    for table in tables:
        inner = values.setdefault(table, {})
        if not isinstance(inner, dict):
            raise SpecError(f"set {override!r}: {table!r} has no keys below it")
        values = inner
    values[name] = _parse_value(text.strip())


def _parse_value(text: str) -> Any:
    """A TOML value where `text` is one, else the text itself."""
    try:
        values = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):
        return text
    return values["value"] if len(values) == 1 else text


def _say(error: ValidationError, kind: type[Spec]) -> str:
    """The first thing wrong, in one line; an unknown key says more than a missing one."""
    errors = error.errors(include_url=False)
    first = next((e for e in errors if e["type"] == "extra_forbidden"), errors[0])
    context = first.get("ctx", {})
    if isinstance(context.get("error"), SpecError):
        return str(context["error"])
    key = ".".join(str(part) for part in first["loc"] if not _is_branch(part))
    value = _shorten(first["input"])
    match first["type"]:
        case "extra_forbidden":
            return _say_unknown(key, kind)
        case "missing":
            return f"{key}: is missing"
        case "greater_than_equal" | "less_than_equal":
            return f"{key} = {value}: must be {_range(kind, first['loc'])}"
        case "literal_error":
            return f"{key} = {value}: must be one of {context['expected'].replace(chr(39), '')}"
        case "string_too_long":
            length = len(first["input"])
            return f"{key} has {length} characters: at most {context['max_length']} are allowed"
    message = first["msg"].removeprefix("Value error, ").removeprefix("Input ")
    return f"{key} = {value}: {message[0].lower()}{message[1:]}"


def _say_unknown(key: str, kind: type[Spec]) -> str:
    known = list(kind.model_fields)
    near = get_close_matches(key, known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
    return f"unknown key {key!r}: {hint}"


def _range(kind: type[Spec], location: Sequence[int | str]) -> str:
    """The bounds of a field, from its JSON schema, so that they are stated once."""
    schema = kind.model_json_schema()["properties"][location[0]]
    for bounds in [schema, *schema.get("anyOf", []), *schema.get("prefixItems", [])]:
        if "minimum" in bounds:
            return f"between {bounds['minimum']:g} and {bounds['maximum']:.12g}"
    raise AssertionError(f"{kind.__name__}.{location[0]} states no bounds")


def _is_branch(part: int | str) -> bool:
    """Whether pydantic names a branch of a union here, not a key of ours."""
    return isinstance(part, str) and (part in {"int", "float", "str"} or "[" in part)


def _shorten(value: object) -> str:
    try:
        text = repr(value)
    except ValueError:  # Python does not write integers of more than 4,300 digits
        return "a number of thousands of digits"
    return text if len(text) <= 60 else f"{text[:57]}…"
