"""Videos that are stored as folders of numbered pictures, as many copies of Something-Something V2 and AVA are."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from omnimae.data.annotations import Rows, read_frame_list
from omnimae.data.datasets import VideoDataset
from omnimae.data.media.errors import BrokenVideoError
from omnimae.data.media.frames import pick_frames, pick_on_screen, within
from omnimae.data.media.images import read_image
from omnimae.registry import DATASETS
from omnimae.structures import Address


class FrameFolder:
    """Pictures of a folder, shown at a steady rate: reads like an open video.

    Args:
        path: of the folder.
        template: name of a picture, given its number.
        first: number of the first one.
        total: how many there are.
        frame_rate: frames a second.
        backend_args: of ``mmengine.fileio``.
    """

    def __init__(
        self, path: str, template: str, first: int, total: int, frame_rate: float, backend_args: dict | None = None
    ) -> None:
        self.path, self.template, self.first, self.backend_args = path, template, first, backend_args
        self.frame_rate = frame_rate
        self.times = np.arange(total) / frame_rate
        self.duration = total / frame_rate

    def read_clips(self, starts: Sequence[float], seconds: float, num_frames: int) -> list[NDArray[np.uint8]]:
        """What `VideoReader.read_clips` reads, RGB (num_frames, H, W, 3) each.

        Raises:
            BrokenFileError: a picture cannot be read, or they differ in size.
        """
        return [self._read(pick_frames(self.times, start, seconds, num_frames)) for start in starts]

    def read_at(self, moments: ArrayLike) -> NDArray[np.uint8]:
        """What `VideoReader.read_at` reads, RGB (len(moments), H, W, 3).

        Raises:
            BrokenFileError: as of `read_clips`.
        """
        return self._read(pick_on_screen(self.times, moments))

    def frame_times(self, start: float, stop: float) -> NDArray[np.float64]:
        """See `VideoReader.frame_times`."""
        return within(self.times, start, stop)

    def _read(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        indices, places = np.unique(indices, return_inverse=True)
        names = self._names(indices)
        pictures = [read_image(name, self.backend_args)[0] for name in names]
        for name, picture in zip(names, pictures, strict=True):
            if picture.shape != pictures[0].shape:
                raise BrokenVideoError(self.path, f'its size changes at {os.path.basename(name)}')
        return np.stack(pictures)[places]

    def _names(self, indices: NDArray[np.int64]) -> list[str]:
        return [picture_path(self.path, self.template, self.first + index) for index in indices]


class FrameNames(FrameFolder):
    """Notes what a FrameFolder would read, and reads nothing."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.names: list[str] = []

    def _read(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        self.names += self._names(np.unique(indices))
        return np.empty((len(indices), 0, 0, 3), np.uint8)


def picture_path(folder: str, template: str, number: int) -> str:
    """Return the path of a numbered picture."""
    return os.path.join(folder, template.format(number))


@DATASETS.register_module()
class FrameDataset(VideoDataset):
    """Clips of videos that are folders of numbered pictures; see `VideoDataset` for the other arguments.

    Args:
        ann_file: list of folders with some whole numbers each, see `read_frame_list`.
        columns: what these numbers are: ('total', 'label') in VideoMAE V2's lists for fine-tuning, ('start', 'total')
            in those for pretraining.
        template: name of a picture, given its number.
        frame_rate: frames a second of the pictures; 12 of Something-Something V2, 30 of AVA.
    """

    def __init__(
        self,
        *,
        ann_file: str,
        frame_rate: float,
        columns: Sequence[str] = ('total', 'label'),
        template: str = 'img_{:05}.jpg',
        **kwargs,
    ):
        if frame_rate <= 0:
            raise ValueError(f'frame_rate={frame_rate} is not positive.')
        if template.format(1) == template.format(2):
            raise ValueError(f"template={template!r} has no place for the number. Give one like 'img_{{:05}}.jpg'.")
        self.columns, self.template, self.frame_rate = columns, template, frame_rate
        super().__init__(ann_file=ann_file, **kwargs)

    def _files_of(self, row: int) -> list[str]:
        assert self.spans is not None  # every line of such a list has one
        first, total = map(int, self.spans[row])
        folder = self._path(row)
        return [folder, *(picture_path(folder, self.template, number) for number in range(first, first + total))]

    def files_of_sample(self, key: int | Address) -> Sequence[str]:
        """See `FileDataset.files_of_sample`; the pictures of the clips, not all of a folder."""
        row, rng = (key.index, next(self._generators(key))) if isinstance(key, Address) else (key, None)
        if self.skipped and self._file_to_skip(row):
            return ()
        assert self.spans is not None  # every line of such a list has one
        names = FrameNames(*self._folder_of(self._path(row), self.spans[row]))
        self._read_clips(names, rng)
        return names.names

    def _read_list(self, ann_file: str, extensions: Sequence[str], **options: Any) -> Rows:
        return read_frame_list(ann_file, self.columns, **options)

    def read(
        self, path: str, rng: np.random.Generator | None, span: Sequence[float] | np.ndarray | None = None
    ) -> list[np.ndarray]:
        """As `VideoDataset.read`; ``span`` is the number of the first picture and how many there are."""
        assert span is not None  # every line of such a list has one
        return self._read_clips(FrameFolder(*self._folder_of(path, span)), rng)

    def _folder_of(self, path: str, span: Sequence[float] | np.ndarray) -> tuple[Any, ...]:
        """Return the arguments of a FrameFolder."""
        first, total = map(int, span)
        return path, self.template, first, total, self.frame_rate, self.backend_args

    def _read_clips(self, folder: FrameFolder, rng: np.random.Generator | None) -> list[np.ndarray]:
        return self.sampling.read(folder, 0.0, folder.duration, rng, self.num_random)
