"""What was rendered is written down, and what is written down can be made again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from pipeline.errors import OutputError
from pipeline.model import Model
from pipeline.pictures import read_record
from pipeline.render import points, render
from pipeline.spec import Sampling, StillSpec
from pipeline.stills import Stills, describe

QUICK = Sampling(num_inference_steps=2, guidance_scale=3.0)


def _save(model: Model, spec: StillSpec, folder: Path, **options: bool) -> list[Path]:
    stills = Stills(folder, model, spec, **options)
    return [stills.save(frame) for frame in render(model, spec.sampling, points(model, spec))]


@pytest.mark.parametrize("scheduler", ["ddim", "euler-ancestral", "dpm++2m-sde"])
@pytest.mark.parametrize("batch_size", [1, 2])
def test_a_picture_makes_itself_again_also_as_one_of_several(
    tiny: Model, tmp_path: Path, scheduler: str, batch_size: int
):
    sampling = QUICK.replace(scheduler=scheduler, batch_size=batch_size)
    spec = StillSpec(prompt="a red apple", seed=7, count=3, sampling=sampling)

    third = _save(tiny, spec, tmp_path)[2]
    again = read_record(third).spec.replace(model=spec.model)
    (copy,) = _save(tiny, again, tmp_path)

    assert again.seed == 9
    with Image.open(copy) as made_again, Image.open(third) as made_first:
        assert made_again.tobytes() == made_first.tobytes()


def test_files_sort_as_they_were_made_and_are_not_named_after_the_prompt(
    tiny: Model, tmp_path: Path
):
    spec = StillSpec(prompt="../../etc/passwd", count=2, sampling=QUICK)

    files = _save(tiny, spec, tmp_path)

    assert sorted(files) == files == sorted(tmp_path.iterdir())
    assert [f.name[-9:] for f in files] == ["-0000.png", "-0001.png"]


def test_two_runs_never_share_a_name(tiny: Model, tmp_path: Path):
    spec = StillSpec(prompt="x", sampling=QUICK)

    assert len({Stills(tmp_path, tiny, spec).id for _ in range(50)}) == 50


def test_a_record_holds_no_open_value_and_no_path(tiny: Model, tmp_path: Path):
    spec = StillSpec(prompt="x", sampling=QUICK, model={"source": str(tiny.checkpoint.folder)})

    record = describe(tiny, spec)

    assert record.model_name == record.spec.model.source == "tiny-sd"
    assert record.model_hash == tiny.hash
    assert str(tiny.checkpoint.folder.parent) not in json.dumps(record.model_dump(mode="json"))
    open_still = [name for name, value in record.spec.sampling if value is None]
    assert open_still == ["strength"]  # an image's, and there is none


def test_without_metadata_nothing_is_told(tiny: Model, tmp_path: Path):
    spec = StillSpec(prompt="a secret", sampling=QUICK)

    (file,) = _save(tiny, spec, tmp_path, metadata=False)

    with Image.open(file) as image:
        assert image.info == {}
    assert b"secret" not in file.read_bytes()


def test_a_folder_that_is_none_leaves_nothing_behind(tiny: Model, tmp_path: Path):
    blocked = tmp_path / "file"
    blocked.write_text("in the way")

    with pytest.raises(OutputError):
        _save(tiny, StillSpec(prompt="x", sampling=QUICK), blocked)

    assert [f.name for f in tmp_path.iterdir()] == ["file"]
