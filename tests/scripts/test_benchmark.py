"""The command of benchmarks as other programs meet it: a card, a JSON line, a plot, exit codes."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from PIL import Image

from pipeline import cost, cost_measured
from pipeline.ladder import build_ladder
from scripts import benchmark
from scripts.benchmark import BENCHMARKS, main
from scripts.benchmarks import machine
from tests.cards import whole_card

ROOT = Path(__file__).resolve().parents[2]
RATIOS = {
    "latent": 1,
    "levels-64": 2.245,
    "levels-128": 3.25,
    "levels-320": 12.8,
    "no-attention": 33.8,
    "plain": 678.6,
}

Run = Callable[..., tuple[int, list[str], list[str]]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """The command in this process: its exit code, the lines of stdout, the lines of stderr.

    The card is counted once for all tests, and two rungs are measured.
    """
    rungs = build_ladder()[:2]
    monkeypatch.setattr(cost, "reckon", lambda: iter(whole_card()))
    monkeypatch.setattr(cost_measured, "build_ladder", lambda: rungs)
    monkeypatch.setattr(machine, "warn_if_busy", lambda found: None)
    monkeypatch.chdir(tmp_path)

    def run(*argv: str) -> tuple[int, list[str], list[str]]:
        code = main(list(argv))
        written = capsys.readouterr()
        return code, written.out.splitlines(), written.err.splitlines()

    return run


@pytest.fixture
def nothing_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counting is a failure."""
    monkeypatch.setattr(cost, "reckon", lambda: pytest.fail("began to count"))


def test_without_measuring_the_last_line_holds_what_is_known(run: Run) -> None:
    code, out, err = run("latent-vs-pixel", "--no-measure")
    document = json.loads(out[-1])

    assert (code, err) == (0, [])
    assert document["benchmark"] == "latent-vs-pixel"
    assert document["note"].startswith("cost, not quality")
    assert document["measured"] is None
    assert document["paper"]["sampling_512"] == 4.9
    ladder = [line for line in document["analytic"]["ladder"] if line["side"] == 512]
    found = {line["name"]: line["ratio"] for line in ladder}
    assert found == pytest.approx(RATIOS, rel=1e-3)
    assert document["analytic"]["exponents"]["plain"]["steps"][-1] == pytest.approx(3.69, abs=0.005)


def test_the_card_says_what_it_is_and_every_rung(run: Run) -> None:
    _, out, _ = run("latent-vs-pixel", "--no-measure")
    card = "\n".join(out[:-1])

    assert "cost, not quality" in card
    assert "Rombach et al. 2022" in card
    assert "2.9–3.2×" in card
    for words in (*RATIOS, "545.1", "33.8", "12.8", "3.69", "10.47"):
        assert words in card
    assert "…" not in card  # nothing is cut off


@pytest.mark.slow
def test_measuring_puts_theory_beside_it(run: Run) -> None:
    code, out, _ = run(
        *("latent-vs-pixel", "--side", "64", "--side", "32", "--side", "32"),
        *("--rounds", "2", "--budget", "1000", "--device", "cpu"),
    )
    measured = json.loads(out[-1])["measured"]

    assert code == 0
    cells = [(line["rung"], line["side"]) for line in measured["readings"]]
    assert cells == [(rung, side) for side in (32, 64) for rung in ("latent", "levels-64")]
    assert [line["rounds"] for line in measured["readings"]] == [2] * 4
    assert [(d["rung"], d["side"]) for d in measured["distance"]] == [
        ("levels-64", 32),
        ("levels-64", 64),
    ]
    assert [growth["rung"] for growth in measured["growth"]] == ["latent", "levels-64"]
    assert (measured["width"], measured["dtype"], measured["left_out"]) == (0.125, "float32", [])


def test_a_budget_that_allows_nothing_says_so(run: Run) -> None:
    code, out, err = run("latent-vs-pixel", "--side", "128", "--budget", "0.1", "--device", "cpu")

    assert code == 0
    assert err == ["nothing was measured: give more --budget, or smaller sides with --side"]
    assert len(json.loads(out[-1])["measured"]["left_out"]) == 2


def test_a_folder_gets_the_plot_and_the_document(run: Run) -> None:
    code, out, err = run(
        *("latent-vs-pixel", "--side", "32", "--rounds", "1", "--budget", "1000"),
        *("--device", "cpu", "--out", "new"),
    )

    assert code == 0
    assert err == [f"the plot: {Path('new/latent-vs-pixel.png')}"]
    assert Path("new/latent-vs-pixel.json").read_text().splitlines() == out[-1:]
    with Image.open("new/latent-vs-pixel.png") as image:
        assert image.width == 1300
        assert image.info == {}


def test_the_plot_has_a_row_less_without_measurements(run: Run) -> None:
    run("latent-vs-pixel", "--no-measure", "--out", ".")
    with Image.open("latent-vs-pixel.png") as image:
        assert image.height < 1000


def test_the_machine_is_named_without_paths_and_hosts(run: Run) -> None:
    _, out, _ = run("latent-vs-pixel", "--no-measure")
    document = json.loads(out[-1])

    assert document["machine"]["device"] in {"cpu", "cuda", "mps"}
    assert document["machine"]["name"]
    assert {"greatcircle", "torch", "diffusers", "python"} <= set(document["versions"])
    assert str(ROOT) not in out[-1]
    assert platform.node() not in out[-1]


@pytest.mark.parametrize(("load", "is_busy"), [(0.3, False), (3.0, True), (None, False)])
def test_a_busy_machine_is_warned_of(load: float | None, is_busy: bool) -> None:
    assert (machine.warn_if_busy({"load": load, "cores": 4}) is not None) == is_busy


def _git_repository(folder: Path) -> None:
    for arguments in (
        ["init", "-q"],
        [
            "-c",
            "user.name=A",
            "-c",
            "user.email=a@example.org",
            "commit",
            "-qm",
            "A",
            "--allow-empty",
        ],
    ):
        subprocess.run(["git", *arguments], cwd=folder, check=True)


def test_the_commit_is_the_checkouts_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _git_repository(tmp_path)
    inner = tmp_path / "unpacked"
    inner.mkdir()

    monkeypatch.setattr(machine, "_ROOT", inner)
    assert machine.find_commit() is None  # the checkout around it is another's
    monkeypatch.setattr(machine, "_ROOT", tmp_path)
    clean = machine.find_commit()
    (inner / "new").write_text("")

    assert clean is not None
    assert len(clean) == 40
    assert machine.find_commit() == f"{clean} with changes"


@pytest.mark.usefixtures("nothing_begins")
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "Missing command"),
        (["fast"], "No such command 'fast'"),
        (["latent-vs-pixel", "--side", "33"], "side = 33: must be a multiple of 8"),
        (["latent-vs-pixel", "--side", "16"], "side = 16: must be between 32 and 2048"),
        (["latent-vs-pixel", "--side", "big"], "sides = "),
        (["latent-vs-pixel", "--width", "0.3"], "must be one of 1, 0.5, 0.25, 0.125"),
        (["latent-vs-pixel", "--rounds", "0"], "rounds = 0: must be between 1 and 100"),
        (["latent-vs-pixel", "--budget", "nan"], "budget = nan"),
        (["latent-vs-pixel", "--num-inference-steps", "0"], "num_inference_steps = 0"),
        (["latent-vs-pixel", "--device", "toaster"], "device = 'toaster': not on this machine"),
        (["latent-vs-pixel", "--dtype", "int8"], "dtype = 'int8': must be one of"),
        (["latent-vs-pixel", "--device", "cpu", "--dtype", "float16"], "must be float32 on a CPU"),
        (["latent-vs-pixel", "--fast"], "No such option"),
    ],
)
def test_bad_input_is_one_line_and_code_2(run: Run, arguments: list[str], words: str) -> None:
    code, out, err = run(*arguments)

    assert (code, out, len(err)) == (2, [], 1)
    assert err[0].startswith("error: ")
    assert words in err[0]


@pytest.mark.usefixtures("nothing_begins")
def test_a_folder_that_cannot_be_is_refused_before_anything(run: Run) -> None:
    Path("file").write_text("")
    code, _, err = run("latent-vs-pixel", "--out", "file/inside")
    assert (code, len(err)) == (2, 1)


def test_every_benchmark_is_a_command_with_help(run: Run) -> None:
    for name in BENCHMARKS:
        code, out, _ = run(name, "--help")
        assert code == 0
        assert out[0].startswith(f"Usage: python -m scripts.benchmark {name}")


def test_a_request_goes_to_the_benchmark_that_made_it(monkeypatch: pytest.MonkeyPatch) -> None:
    class Request:
        pass

    other: Any = ModuleType("other")
    done: list[Any] = []
    other.Request, other.run = Request, done.append
    monkeypatch.setitem(BENCHMARKS, "other", other)

    request = Request()
    benchmark.run(request)

    assert done == [request]


def test_help_comes_without_the_heavy_libraries() -> None:
    code = (
        "import sys, scripts.benchmark;"
        "print(sorted({'torch', 'diffusers', 'matplotlib', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
