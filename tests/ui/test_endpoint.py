"""/generate over HTTP: through the queue, with the spec's own words, to the PNGs themselves."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import Any

import gradio as gr
import pytest
import torch
from gradio_client import Client
from gradio_client.exceptions import AppError

from pipeline.errors import SpecError
from pipeline.model import Model
from pipeline.pictures import read_record
from pipeline.spec import Sampling, StillSpec
from tests.ui.conftest import Served, at_hand, loading_once, open_served
from ui.app import WAITING, Address
from ui.endpoint import make_endpoint

FAST = {"num_inference_steps": 2, "width": 64, "height": 64}


@pytest.fixture(scope="module")
def client(served: Served, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    downloads = tmp_path_factory.mktemp("downloads")
    client = Client(served.url, verbose=False, download_files=downloads)
    yield client
    client.close()


def generate(client: Client, **values: Any) -> list[Path]:
    values = {"prompt": "a pear", **FAST, **values}
    return [Path(file) for file in client.predict(**values, api_name="/generate")]


def test_the_files_are_the_pictures_byte_for_byte(client: Client, served: Served) -> None:
    before = set(served.folder.iterdir())
    files = generate(client, seed=5, count=2, negative_prompt="a leaf", scheduler="euler")
    kept = sorted(set(served.folder.iterdir()) - before)

    assert [file.name for file in files] == [file.name for file in kept]
    assert [file.read_bytes() for file in files] == [file.read_bytes() for file in kept]
    spec = read_record(files[1]).spec
    assert (spec.seed, spec.prompt, spec.negative_prompt) == (6, "a pear", "a leaf")
    assert spec.sampling.scheduler == "euler"


def test_no_negative_prompt_is_not_an_empty_one(client: Client) -> None:
    given, empty = (
        read_record(generate(client, **values)[0]).spec.negative_prompt
        for values in ({}, {"negative_prompt": ""})
    )
    assert (given, empty) == (None, "")


def test_the_same_seed_makes_the_same_picture(client: Client) -> None:
    one, other = generate(client, seed=9), generate(client, seed=9)
    assert one[0].read_bytes() == other[0].read_bytes()


def test_only_generate_is_offered(client: Client) -> None:
    assert set(client.view_api(return_format="dict")["named_endpoints"]) == {"/generate"}


BAD: list[dict[str, Any]] = [
    {"num_inference_steps": 0},
    {"num_inference_steps": -1},
    {"num_inference_steps": 10**9},
    {"num_inference_steps": 2.5},
    {"num_inference_steps": "many"},
    {"num_inference_steps": [20]},
    {"guidance_scale": -1},
    {"guidance_scale": 10**6},
    {"width": 0},
    {"width": 10**5},
    {"height": -8},
    {"scheduler": "dpm"},
    {"scheduler": ""},
    {"scheduler": {"name": "ddim"}},
    {"seed": -1},
    {"seed": 2**32},
    {"seed": None},
    {"count": 0},
    {"count": 10**6},
    {"seed": 2**32 - 1, "count": 2},
    {"prompt": "x" * 10_001},
    {"prompt": 7},
    {"prompt": None},
    {"negative_prompt": "x" * 10_001},
]


def in_python(values: dict[str, Any]) -> StillSpec:
    values = {"prompt": "a pear", **FAST, **values}
    sampling = {k: values.pop(k) for k in list(values) if k in Sampling.model_fields}
    return StillSpec(**values, sampling=Sampling(**sampling))


@pytest.mark.parametrize("values", BAD, ids=lambda values: str(values)[:40])
def test_bad_values_are_refused_in_the_words_of_python(
    client: Client, served: Served, values: dict[str, Any]
) -> None:
    before = set(served.folder.iterdir())
    with pytest.raises(SpecError) as expected:
        in_python(values)
    with pytest.raises(AppError) as raised:
        generate(client, **values)

    assert raised.value.message == str(expected.value)
    assert set(served.folder.iterdir()) == before


@pytest.mark.parametrize("word", ["NaN", "Infinity", "-Infinity"])
def test_numbers_that_are_none_are_refused(served: Served, word: str) -> None:
    """JSON has no such numbers, but Python reads them, so they get as far as the spec."""
    with pytest.raises(SpecError) as expected:
        in_python({"guidance_scale": float(word)})
    body = f'{{"data": ["a pear", null, 0, 1, 2, {word}, null, 64, 64, false, null, 0.2]}}'
    headers = {"Content-Type": "application/json"}

    joined = served.send("POST", "/gradio_api/call/generate", content=body, headers=headers)
    told = served.send("GET", f"/gradio_api/call/generate/{joined.json()['event_id']}")

    assert f'"error": "{expected.value}"' in told.text


def test_the_queue_cannot_be_gone_round(served: Served) -> None:
    body = {"data": ["a pear"]}
    assert served.send("POST", "/gradio_api/run/generate", json=body).status_code == 404


def test_a_render_that_goes_wrong_is_said_and_leaves_no_file(
    embedded: Model, tmp_path: Path
) -> None:
    class Broken(torch.nn.Module):
        config = embedded.unet.config

        def forward(self, latents: Any, *args: Any, **kwargs: Any) -> Any:
            return (latents * float("nan"),)

    endpoint = make_endpoint(at_hand(replace(embedded, unet=Broken())), tmp_path)
    with pytest.raises(gr.Error, match="not finite"):
        list(endpoint("a pear", num_inference_steps=2))
    assert list(tmp_path.iterdir()) == []


def test_a_cancelled_run_ends_within_a_step(client: Client, served: Served) -> None:
    before = set(served.folder.iterdir())
    job = client.submit(
        prompt="a pear", **{**FAST, "num_inference_steps": 1000}, api_name="/generate"
    )
    while not job.outputs():
        time.sleep(0.01)
    job.cancel()

    began = time.monotonic()
    generate(client)  # it is in the same queue: answered only once the other has ended
    assert time.monotonic() - began < 10, "a thousand steps take far longer"
    assert len(set(served.folder.iterdir()) - before) == 1


# T13: a queue that is full


@pytest.fixture
def unready(
    embedded: Model, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Served, Event]]:
    """An app whose model comes only when the event is set."""
    ready = Event()
    loading = loading_once(ready, embedded)
    for served in open_served(loading, tmp_path_factory.mktemp("late"), Address()):
        yield served, ready
        ready.set()


def test_a_full_queue_says_so_and_recovers(unready: tuple[Served, Event]) -> None:
    served, ready = unready
    body = {
        "data": ["a pear", None, 0, 1, 1, 1.0, None, 64, 64, False, None, 0.2],
        "session_hash": "crowd",
    }
    join = {**body, "fn_index": served.function("generate")}

    answers = [served.send("POST", "/gradio_api/queue/join", json=join) for _ in range(200)]

    refused = [answer for answer in answers if answer.status_code == 503]
    accepted = [answer for answer in answers if answer.status_code == 200]
    assert len(refused) + len(accepted) == 200
    assert 1 <= len(accepted) <= WAITING + 1
    assert all("Queue is full" in answer.json()["detail"] for answer in refused)

    # The page still opens, and still says how the model is getting on.
    assert served.send("GET", "/").status_code == 200
    look = {"data": [None], "fn_index": served.function("look"), "session_hash": "page"}
    assert "loading embedded" in served.send("POST", "/gradio_api/run/look", json=look).text

    ready.set()
    deadline = time.monotonic() + 60
    while len(list(served.folder.iterdir())) < len(accepted) and time.monotonic() < deadline:
        time.sleep(0.05)
    client = Client(served.url, verbose=False)
    assert len(generate(client)) == 1
    client.close()
