"""The project agrees with itself: versions, pins, configs, what the README promises."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parent.parent
CONFIGS = sorted((ROOT / "configs").glob("*.toml"))

# Distributions by the name they are imported under, where it differs and they may be missing here.
NAMED_OTHERWISE = {"skimage": ["scikit-image"]}


def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def pins() -> dict[str, str]:
    """Name -> version, in the order of the file."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    split = [line.split("==") for line in lines if not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in split}


def requirements(*extras: str) -> list[Requirement]:
    wanted = project()["dependencies"] + [
        line for extra in extras for line in project()["optional-dependencies"][extra]
    ]
    return [Requirement(line) for line in wanted]


def tracked() -> list[Path]:
    """The files of the project: what git holds, or would hold."""
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listing.returncode:
        pytest.skip("not a git checkout, so which files belong to the project is not known")
    return [path for name in listing.stdout.splitlines() if (path := ROOT / name).is_file()]


def test_the_readme_names_the_two_commands() -> None:
    text = (ROOT / "README.md").read_text()
    assert "make app" in text
    assert "make test" in text


def test_the_readme_leads_to_what_exists() -> None:
    text = (ROOT / "README.md").read_text()
    found = re.findall(r"(?:\]\(|src=\")([^)#\"]+)", text)
    links = [link for link in found if "://" not in link]

    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_the_python_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    block = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    assert block is not None
    monkeypatch.chdir(tmp_path)

    exec(compile(block[1], "README.md", "exec"), {})

    assert sorted(path.name for path in tmp_path.iterdir()) == ["apple-0.png", "apple-1.png"]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_configs_say_what_they_show(path: Path) -> None:
    assert path.read_text().startswith("# ")


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_configs_load(path: Path) -> None:
    from pipeline.spec import MorphSpec, StillSpec
    from pipeline.values import load_spec
    from scripts.embedded.recipe import load_recipe

    if path.name == "embedded.toml":
        assert load_recipe(path).defaults
    elif "[[keyframes]]" in path.read_text():
        assert len(load_spec(MorphSpec, path).keyframes) > 1
    else:
        assert load_spec(StillSpec, path).prompt


def test_torch_is_pinned_first() -> None:
    assert next(iter(pins().items())) == ("torch", "2.13.0")


def test_pins_are_versions_and_nothing_else() -> None:
    """No hosts, no local builds: the same names serve a laptop, a Mac and a GPU."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    strange = [line for line in lines if not re.fullmatch(r"#.*|[\w.-]+==[\w.]+", line)]
    assert strange == []


def test_pins_lie_within_the_ranges() -> None:
    pinned = pins()
    for requirement in requirements("test", "dev", "train"):
        name = canonicalize_name(requirement.name)
        assert name in pinned, f"{name} is not pinned"
        assert Version(pinned[name]) in requirement.specifier, f"{name} {pinned[name]}"


def test_versions_agree() -> None:
    from pipeline.record import VERSION

    version = project()["version"]
    changelog = (ROOT / "CHANGELOG.md").read_text()
    newest = re.search(r"^## (\d+\.\d+\.\d+)", changelog, flags=re.MULTILINE)

    assert newest is not None
    assert newest[1] == version == VERSION


def test_python_of_the_makefile_is_the_one_required() -> None:
    text = (ROOT / "Makefile").read_text()
    assert project()["requires-python"] == ">=3.11,<3.14"
    assert "(3, 11) <= sys.version_info < (3, 14)" in text


@pytest.mark.parametrize(
    ("folders", "extras"),
    [(("pipeline", "ui"), ()), (("scripts",), ("train",)), (("tests",), ("test", "train"))],
)
def test_what_is_imported_is_declared(folders: tuple[str, ...], extras: tuple[str, ...]) -> None:
    own = {"pipeline", "scripts", "ui", "tests", "conftest"}
    declared = {canonicalize_name(r.name) for r in requirements(*extras)}
    distributions = NAMED_OTHERWISE | packages_distributions()
    undeclared = {
        name: str(path.relative_to(ROOT))
        for folder in folders
        for path in (ROOT / folder).rglob("*.py")
        for name in _imported(path)
        if name not in own and name not in sys.stdlib_module_names
        if not declared & {canonicalize_name(d) for d in distributions.get(name, [name])}
    }
    assert undeclared == {}


def _imported(path: Path) -> set[str]:
    nodes = list(ast.walk(ast.parse(path.read_text())))
    plain = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    parts = {
        node.module or "" for node in nodes if isinstance(node, ast.ImportFrom) if not node.level
    }
    return {name.partition(".")[0] for name in plain | parts}


def test_no_file_knows_the_machine_it_was_written_on() -> None:
    here = [f"{place}/" for place in (ROOT, Path.home()) if len(place.parts) > 1]
    pattern = re.compile("|".join(map(re.escape, here)))
    text_files = [path for path in tracked() if path.suffix not in {".png", ".safetensors"}]

    assert text_files
    assert [
        path.name for path in text_files if pattern.search(path.read_text(errors="replace"))
    ] == []


def test_the_packages_are_the_folders() -> None:
    """Setuptools would not discover this layout, so the list in pyproject.toml must be right."""
    tool = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    found = {
        ".".join(path.parent.relative_to(ROOT).parts)
        for top in ("pipeline", "scripts", "ui")
        for path in (ROOT / top).rglob("__init__.py")
    }
    assert found == set(tool["packages"])
