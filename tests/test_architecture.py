"""The house stands as designed: floors, who may import what, docstrings, sizes."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# Imports go down; on one floor they may go sideways, but never in a circle.
FLOORS: dict[int, set[str]] = {
    1: {"errors", "values", "weighting", "timing", "spec", "trip", "tensors"},
    2: {
        "checkpoint", "allowed", "headers", "families", "lora", "spelling",
        "sources", "hub", "repository", "download", "catalogue",
        "prompts", "codec", "denoise", "guidance", "network",
        "noise", "interpolate", "arc", "spline", "disturb",
        "pictures", "containers", "fitting", "video", "encoders", "boxes",
        "quality", "report", "figures", "views", "loss", "soundness", "perceptual", "peak",
        "files", "record", "defaults", "store", "locks", "timeline",
    },
    3: {
        "model", "loaders", "single_file", "adapters", "safety", "memory",
        "path", "inversion", "retime", "curve", "cost",
        "autoencoder", "ladder", "cost_readings", "cost_figures",
    },
    4: {"render", "roundtrip", "morph", "course", "identity", "cost_measured"},
    5: {"stills", "sharing", "workshop", "run", "outcome"},
}  # fmt: skip
FLOOR_OF = {name: floor for floor, names in FLOORS.items() for name in names}

# A library that knows no page, no command line and no progress bar.
FOREIGN = {"gradio", "typer", "argparse", "click", "tqdm", "rich", "ui", "scripts"}

# Weights become modules here, and nowhere else.
# `ladder` makes networks of configs alone, to count what they cost.
LOADERS = {"loaders", "single_file", "adapters", "safety", "ladder"}

MAX_LINES = 350
MAX_FUNCTION_LINES = 60


@dataclass(frozen=True)
class Import:
    """One imported name: `from module import name`, or `import module` with no name."""

    module: str
    name: str | None
    line: int

    @property
    def top(self) -> str:
        return self.module.partition(".")[0]


def imports(source: str, *, for_types: bool = True) -> list[Import]:
    """Every import in `source`, in functions too; on demand without what only type checkers see."""
    return [found for node in _walk(ast.parse(source), for_types) for found in _imports_of(node)]


def _walk(node: ast.AST, for_types: bool) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        if for_types or not (isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test)):
            yield child
            yield from _walk(child, for_types)


def _imports_of(node: ast.AST) -> list[Import]:
    match node:
        case ast.Import(names=names):
            return [Import(alias.name, None, node.lineno) for alias in names]
        case ast.ImportFrom(module=module, names=names, level=level):
            base = ".".join(filter(None, ["pipeline" if level else "", module]))
            return [Import(base, alias.name, node.lineno) for alias in names]
    return []


def imported_modules(source: str) -> set[str]:
    """The modules of pipeline/ that `source` imports, by their short names."""
    parts = {
        f"{i.module}.{i.name}" if i.module == "pipeline" and i.name else i.module
        for i in imports(source)
        if i.top == "pipeline"
    }
    return {part.split(".")[1] if "." in part else "__init__" for part in parts}


def misplaced(name: str, source: str, floor_of: dict[str, int]) -> list[str]:
    """What module `name` imports from above its own floor, or from the package's front door."""
    return [
        f"{name} (floor {floor_of[name]}) imports {other} (floor {floor_of.get(other, '?')})"
        for other in sorted(imported_modules(source))
        if floor_of.get(other, 99) > floor_of[name]
    ]


MODULES = {path.stem: path for path in sorted((ROOT / "pipeline").glob("*.py"))}
INNER = {name: path for name, path in MODULES.items() if name != "__init__"}
CODE = [
    path for top in ("pipeline", "scripts", "ui") for path in sorted((ROOT / top).rglob("*.py"))
]

every_module = pytest.mark.parametrize("name", INNER)
every_file = pytest.mark.parametrize("path", CODE, ids=lambda path: str(path.relative_to(ROOT)))


@every_module
def test_every_module_has_a_floor(name: str) -> None:
    assert name in FLOOR_OF, f"pipeline/{name}.py is on no floor: say in this file where it belongs"


@every_module
def test_imports_go_down(name: str) -> None:
    assert misplaced(name, INNER[name].read_text(), FLOOR_OF) == []


def test_no_circle() -> None:
    graph = {name: imported_modules(path.read_text()) for name, path in INNER.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_a_misplaced_import_would_be_seen() -> None:
    floors = {"low": 1, "high": 2}

    assert misplaced("low", "def f():\n    from pipeline.high import g", floors)
    assert misplaced("low", "from pipeline import high", floors)
    assert misplaced("low", "from .high import g", floors)
    assert misplaced("low", "import pipeline.high", floors)
    assert misplaced("low", "import pipeline", floors)
    assert misplaced("high", "from pipeline.low import g\nimport torch", floors) == []


@pytest.mark.parametrize("name", MODULES)
def test_the_library_knows_no_page_and_no_command_line(name: str) -> None:
    foreign = [i for i in imports(MODULES[name].read_text()) if i.top in FOREIGN]
    assert foreign == []


@every_module
def test_models_are_loaded_in_one_place(name: str) -> None:
    """A few import diffusers' and transformers' models; `denoise` takes schedulers."""
    found = [
        i
        for i in imports(INNER[name].read_text(), for_types=False)
        if i.top in {"diffusers", "transformers"} and not _is_plumbing(i)
    ]
    if name == "denoise":  # which names them, or takes them by the name in a config
        found = [i for i in found if not (i.name or "Scheduler").endswith("Scheduler")]
    assert name in LOADERS or found == []


def _is_plumbing(found: Import) -> bool:
    """Versions and logging are no models."""
    return found.name in {"__version__", "logging"} or found.module.endswith(".logging")


@every_module
def test_what_is_public_says_what_it_is(name: str) -> None:
    tree = ast.parse(INNER[name].read_text())
    public = [
        node
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")
    ]
    assert ast.get_docstring(tree), f"pipeline/{name}.py does not say what it does"
    assert [node.name for node in public if not ast.get_docstring(node)] == []


@every_file
def test_files_and_functions_are_small(path: Path) -> None:
    source = path.read_text()
    lines = {
        node.name: (node.end_lineno or 0) - node.lineno + 1
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }

    assert len(source.splitlines()) <= MAX_LINES
    assert {name: length for name, length in lines.items() if length > MAX_FUNCTION_LINES} == {}


COMMANDS = ("generate", "morph", "roundtrip", "benchmark", "study_latents")


@pytest.mark.parametrize(
    "name",
    ["pipeline.spec", "pipeline.trip", *(f"scripts.{name}" for name in COMMANDS), "ui.__main__"],
)
def test_the_door_opens_without_the_heavy_libraries(name: str) -> None:
    """Commands parse and refuse before torch is loaded, which takes seconds."""
    heavy = {"torch", "diffusers", "transformers", "numpy", "PIL", "gradio"}
    code = f"import sys, {name}; print(sorted({heavy!r} & set(sys.modules)))"

    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )

    assert done.stdout.strip() == "[]"
