"""Videos that are stored as folders of numbered pictures, as many copies of Something-Something V2 and AVA are."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from omnimae.data.annotations import Rows, read_frame_list
from omnimae.data.datasets import VideoDataset
from omnimae.data.media.errors import BrokenVideoError
from omnimae.data.media.frames import ClipSampling
from omnimae.data.media.images import read_image
from omnimae.data.readers import File, FileReader, TimedFrames
from omnimae.registry import DATASETS

ReadPicture: TypeAlias = Callable[[str], NDArray[np.uint8]]


class FrameFolder(TimedFrames):
    """Pictures of a folder, shown at a steady rate.

    Args:
        path: of the folder.
        template: name of a picture, given its number.
        first: number of the first one.
        total: how many there are.
        frame_rate: frames a second.
        read_picture: path -> RGB (1, H, W, 3).
    """

    def __init__(
        self, path: str, template: str, first: int, total: int, frame_rate: float, read_picture: ReadPicture
    ) -> None:
        super().__init__(np.arange(total) / frame_rate, total / frame_rate)
        self.path, self.template, self.first, self.read_picture = path, template, first, read_picture

    def frames_at(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        """RGB (n, H, W, 3).

        Raises:
            BrokenFileError: a picture cannot be read, or they differ in size.
        """
        indices, places = np.unique(indices, return_inverse=True)
        names = self.paths(indices)
        pictures = [self.read_picture(name)[0] for name in names]
        for name, picture in zip(names, pictures, strict=True):
            if picture.shape != pictures[0].shape:
                raise BrokenVideoError(self.path, f'its size changes at {os.path.basename(name)}')
        return np.stack(pictures)[places]

    def paths(self, indices: Iterable[int]) -> list[str]:
        """Paths of the pictures with these indices, counted from 0."""
        return [os.path.join(self.path, self.template.format(self.first + index)) for index in indices]


class FrameFolders(FileReader):
    """Clips of folders of numbered pictures. ``File.span`` is the number of the first one and how many there are.

    Args:
        sampling, num_random: as of `VideoFiles`.
        columns, template, frame_rate: as of `FrameDataset`.
    """

    reads_spans = True

    def __init__(
        self, sampling: ClipSampling, num_random: int, *, columns: Sequence[str], template: str, frame_rate: float
    ):
        if frame_rate <= 0:
            raise ValueError(f'frame_rate={frame_rate} is not positive.')
        if template.format(1) == template.format(2):
            raise ValueError(f"template={template!r} has no place for the number. Give one like 'img_{{:05}}.jpg'.")
        self.sampling, self.num_random = sampling, num_random
        self.columns, self.template, self.frame_rate = columns, template, frame_rate

    def list_rows(self, root: str, ann_file: Any, *args: Any, list_args: dict | None, **options: Any) -> Rows:
        """Rows of a list, see `read_frame_list`."""
        return read_frame_list(ann_file, self.columns, backend_args=list_args, **options)

    def files_of(self, file: File) -> list[str]:
        """The folder and all its pictures."""
        folder = self._open(file)
        return [file, *folder.paths(range(len(folder.times)))]

    def files_to_read(self, file: File, generator: Callable[[], np.random.Generator | None]) -> list[str]:
        """The pictures of the clips."""
        paths: list[str] = []

        def note(path: str) -> NDArray[np.uint8]:
            paths.append(path)
            return np.empty((1, 0, 0, 3), np.uint8)

        self._read(self._open(file, note), generator())
        return paths

    def read(self, file: File, rng: np.random.Generator | None) -> list[NDArray[np.uint8]]:
        """Clips (num_frames, H, W, 3).

        Raises:
            BrokenFileError: see `FrameFolder.frames_at`.
        """
        return self._read(self._open(file), rng)

    def _open(self, file: File, read_picture: ReadPicture | None = None) -> FrameFolder:
        assert file.span is not None  # every line of such a list has one
        first, total = map(int, file.span)
        read_picture = read_picture or partial(read_image, backend_args=file.backend_args)
        return FrameFolder(str(file), self.template, first, total, self.frame_rate, read_picture)

    def _read(self, folder: FrameFolder, rng: np.random.Generator | None) -> list[NDArray[np.uint8]]:
        return self.sampling.read(folder, 0.0, folder.duration, rng, self.num_random)


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
        **kwargs: Any,
    ):
        make_reader = partial(FrameFolders, columns=columns, template=template, frame_rate=frame_rate)
        super().__init__(make_reader, ann_file=ann_file, **kwargs)
