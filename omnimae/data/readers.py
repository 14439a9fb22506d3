"""How the files of a source are listed and read: what a `FileDataset` is given."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from omnimae.data.annotations import Rows, read_list, scan_folder
from omnimae.data.media import reader_class
from omnimae.data.media.errors import BrokenVideoError
from omnimae.data.media.frames import ClipSampling, pick_frames, pick_on_screen, within
from omnimae.data.media.images import read_image


class File(str):
    """The path of a row's file, and what else a reader needs.

    Attributes:
        backend_args: of ``mmengine.fileio``.
        span: (start, stop) in seconds; None for a whole file.
        partners: folder -> path of the row's file there, for sources of several folders.
    """

    backend_args: dict | None = None
    span: Sequence[float] | NDArray[np.float64] | None = None
    partners: Mapping[str, str] = {}


class FileReader:
    """Lists and reads the files of a source. Only `read` has no default.

    Attributes:
        reads_spans: whether a row may be a span of a file.
        target: the modality to be predicted. It is no input.
        strides: modality -> side of the square of pixels that becomes one pixel after all transforms; 1 by default.
    """

    reads_spans = False
    target: str | None = None
    strides: Mapping[str, int] = {}

    def list_rows(
        self,
        root: str,
        ann_file: str | None,
        extensions: Sequence[str],
        backend_args: dict | None,
        *,
        classes: Sequence[str] | None,
        list_args: dict | None,
        **options: Any,
    ) -> Rows:
        """Rows of ``ann_file``, see `read_list`; without it of all files below ``root``, see `scan_folder`.

        ``list_args`` are the ``backend_args`` of ``ann_file``. ``options`` are ``select`` and ``allow_outside``.
        """
        if ann_file is None:
            return scan_folder(root, extensions, classes=classes, backend_args=backend_args)
        return read_list(ann_file, extensions, classes=classes, backend_args=list_args, **options)

    def files_of(self, file: File) -> Sequence[str]:
        """Paths of all files of a row. A row is skipped if ``skip`` lists one of them."""
        return [file]

    def files_to_read(self, file: File, generator: Callable[[], np.random.Generator | None]) -> Sequence[str]:
        """Paths of the files that `read` reads, in that order: they are read ahead. ``generator`` gives its rng."""
        return self.files_of(file)

    def read(self, file: File, rng: np.random.Generator | None) -> Sequence[Any]:
        """Clips of a row: one in training, or one per replica; the test clips without rng.

        A clip is uint8 RGB, (T, H, W, 3), or a dict of such clips and of maps (T, H, W, 1), by modality.

        Raises:
            BrokenFileError: the file cannot be read.
        """
        raise NotImplementedError


class ImageFiles(FileReader):
    """Images, as clips of one frame."""

    def read(self, file: File, rng: np.random.Generator | None) -> list[NDArray[np.uint8]]:
        """One clip (1, H, W, 3).

        Raises:
            BrokenImageError: the file cannot be read in full.
        """
        return [read_image(str(file), file.backend_args)]


class VideoFiles(FileReader):
    """Clips of videos.

    Args:
        sampling: which clips.
        num_random: clips at random times in training.
        decoder: a key of `omnimae.data.media.READERS`. Workers get its class, whatever their start method.
    """

    reads_spans = True

    def __init__(self, sampling: ClipSampling, num_random: int = 1, decoder: str = 'pyav'):
        self.sampling, self.num_random, self.decoder = sampling, num_random, reader_class(decoder)

    def read(self, file: File, rng: np.random.Generator | None) -> list[NDArray[np.uint8]]:
        """Clips (num_frames, H, W, 3) from within the span. One shorter than a clip repeats frames.

        Raises:
            BrokenVideoError: the video cannot be read, or the span is outside of it.
        """
        with self.decoder(str(file), file.backend_args) as video:
            first, stop = (0.0, video.duration) if file.span is None else file.span
            length = min(stop, video.duration) - first
            if length <= 0:
                raise BrokenVideoError(
                    file, f'the span from {first:.3f} s on lies outside, it lasts {video.duration:.3f} s'
                )
            return self.sampling.read(video, first, length, rng, self.num_random)


class TimedFrames:
    """Frames whose times are known: a `ClipReader` like an open video. A subclass gives them by `frames_at`.

    Args:
        times: seconds at which they begin, ascending.
        duration: in seconds.
    """

    def __init__(self, times: NDArray[np.float64], duration: float):
        self.times, self.duration, self.frame_rate = times, duration, len(times) / duration

    def frames_at(self, indices: NDArray[np.int64]) -> NDArray:
        """Frames (n, H, W, C).

        Raises:
            BrokenFileError: they cannot be read.
        """
        raise NotImplementedError

    def read_clips(self, starts: Sequence[float], seconds: float, num_frames: int) -> list[NDArray]:
        """Frames (num_frames, H, W, C) of each clip, see `pick_frames`."""
        return [self.frames_at(pick_frames(self.times, start, seconds, num_frames)) for start in starts]

    def read_at(self, moments: ArrayLike) -> NDArray:
        """Frames (n, H, W, C) of these moments in seconds, see `pick_on_screen`."""
        return self.frames_at(pick_on_screen(self.times, moments))

    def frame_times(self, start: float, stop: float) -> NDArray[np.float64]:
        """Seconds at which frames begin in [start, stop)."""
        return within(self.times, start, stop)
