"""A render on disk: where its files lie and what they are called.

Names come from the run and the frame's index, never from a prompt.
"""

from __future__ import annotations

from pathlib import Path

from pipeline.checkpoint import hash_file
from pipeline.files import new_run_id, prepare_folder
from pipeline.fitting import fit_box
from pipeline.model import Model
from pipeline.pictures import read_size, save_png
from pipeline.record import ImageRecord, Record, anonymise, current_versions
from pipeline.render import Frame
from pipeline.sources import anonymous_source
from pipeline.spec import ImageSpec, Sampling, StillSpec


class Stills:
    """The pictures of one resolved `StillSpec`, saved in `folder` as RUN-INDEX.png.

    The folder is made and tried, and its space held against what the pictures can take, before the
    first is rendered. Raises `OutputError`.
    """

    def __init__(
        self, folder: Path, model: Model, spec: StillSpec, *, metadata: bool = True
    ) -> None:
        self.folder, self.model, self.spec, self.metadata = folder, model, spec, metadata
        _, rows, columns = model.noise_shape(spec.sampling)
        prepare_folder(folder, spec.count * 3 * rows * columns * model.codec.downscale**2)
        self.id = new_run_id()

    def save(self, frame: Frame) -> Path:
        """Write `frame` whole or not at all; its file. Raises `OutputError`."""
        file = self.folder / f"{self.id}-{frame.index:04d}.png"
        save_png(frame.image, file, self.record(frame.index) if self.metadata else None)
        return file

    def record(self, index: int) -> Record:
        """What picture `index` was rendered from: enough to make it again, alone."""
        return describe(self.model, self.spec.single(index))


def describe(model: Model, spec: StillSpec) -> Record:
    """The record of one picture of `model`, free of paths."""
    spec = model.resolve(spec)
    return Record(
        spec=anonymise(spec),
        model_name=model.name,
        model_hash=model.hash,
        hashes=dict(model.hashes),
        image=None if spec.image is None else _describe_image(spec.image, spec.sampling),
        device=model.device.type,
        dtype=str(model.dtype).removeprefix("torch."),
        versions=current_versions(),
    )


def _describe_image(image: ImageSpec, sampling: Sampling) -> ImageRecord:
    assert sampling.width is not None and sampling.height is not None
    file = Path(image.source)
    width, height = size = read_size(file)
    return ImageRecord(
        name=anonymous_source(image.source),
        hash=hash_file(file),
        width=width,
        height=height,
        box=fit_box(size, (sampling.width, sampling.height), image.fit),
    )
