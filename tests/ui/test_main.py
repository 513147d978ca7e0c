"""`python -m ui`: one line for what is wrong, the promised exit codes, and a page that opens."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from ui.__main__ import main


def test_help_needs_none_of_the_heavy_libraries(root: Path) -> None:
    code = (
        "import sys; from ui.__main__ import main\n"
        "try: main(['--help'])\n"
        "except SystemExit as end: print(end.code, {'torch', 'gradio'} & {*sys.modules})"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
    )
    assert done.stdout.endswith("0 set()\n")
    assert "--auth-file" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--port", "many"], "argument --port: invalid int value: 'many'"),
        (["--prot", "7"], "unrecognized arguments: --prot 7"),
        (["--port", "0"], "port = 0: must be between 1 and 65535"),
        (["--host", "0.0.0.0"], "host = '0.0.0.0': others can reach it, so it needs a password"),
        (["--dtype", "int8"], "dtype = 'int8': must be one of float32, float16 or bfloat16"),
        (["--device", "tpu"], "device = 'tpu': must be cpu, cuda, cuda:N or mps"),
        (["--auth-file", "nobody"], "nobody: No such file or directory"),
        (["--model", ""], "source = '': "),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_what_is_wrong_is_said_in_one_line(
    arguments: list[str],
    said: str,
    capfd: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GREATCIRCLE_AUTH", raising=False)

    assert main(arguments) == 2

    out, error = capfd.readouterr()
    assert error.startswith(f"error: {said}")
    assert error.count("\n") == 1
    assert out == ""


def test_a_folder_that_cannot_be_written_to(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert main(["--out", str(tmp_path / "file" / "pictures")]) == 2
    assert re.fullmatch(r"error: .*cannot be written to.*\n", capfd.readouterr().err)


def test_a_model_that_cannot_be_had_ends_the_app(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["--model", "no/such/model", "--out", str(tmp_path)]) == 2
    out, error = capfd.readouterr()
    assert out.startswith("Greatcircle is open at http://127.0.0.1:")
    assert re.fullmatch(r"error: model 'no/such/model': no such folder.*\n", error)


def test_it_opens_says_what_runs_where_and_tidies_up(root: Path, tmp_path: Path) -> None:
    """Ended from outside, which takes the same way out as Ctrl+C."""
    command = [sys.executable, "-m", "ui", "--device", "cpu", "--out", str(tmp_path / "out")]
    (tmp_path / "temporary").mkdir()
    environment = {**os.environ, "TMPDIR": str(tmp_path / "temporary")}
    with subprocess.Popen(
        command,
        cwd=root,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout and process.stderr
        line = process.stdout.readline()
        found = re.fullmatch(r"Greatcircle is open at (http://127\.0\.0\.1:\d+/) .*\n", line)
        assert found, line
        assert httpx.get(found[1], trust_env=False).status_code == 200

        said = next(line for line in process.stderr if line.startswith("embedded"))
        assert said == "embedded on cpu in float32\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 130
        assert "Traceback" not in process.stderr.read()
    assert not list((tmp_path / "temporary").glob("greatcircle-*"))
