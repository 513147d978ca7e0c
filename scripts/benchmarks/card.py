"""A table for people, of plain values, and the same as one line for programs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

_COLUMNS = 118  # where stdout is no terminal


def print_document(
    name: str,
    title: str,
    columns: Mapping[str, str],
    films: Sequence[Mapping[str, Any]],
    device: torch.device,
) -> None:
    """`films` as a table, then as one JSON document with where they were made."""
    from scripts.benchmarks.machine import describe_machine, find_commit

    print_table(title, columns, films)
    machine = describe_machine(device)
    document = {"benchmark": name, "commit": find_commit(), "machine": machine, "films": films}
    print(json.dumps(document))


def print_table(title: str, columns: Mapping[str, str], lines: Sequence[Mapping[str, Any]]) -> None:
    """`lines` under the heads of `columns`, which are named by the values' keys."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left", title_style="bold")
    for head in columns.values():
        table.add_column(head, justify="left" if head in ("morph", "kind") else "right")
    for line in lines:
        table.add_row(*(_write(line[key]) for key in columns))
    console = Console()
    if not console.is_terminal:
        console = Console(width=_COLUMNS)
    console.print(table)


def _write(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.1f}" if abs(value) >= 10 else f"{value:.3f}"
    return str(value)
