"""Which frames make a clip: pure numbers, no file."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

SAME_TIME = 1e-6  # seconds by which a moment and the start of a frame, computed in two ways, may differ


def train_start(duration: float, seconds: float, u: float) -> float:
    """Start of a training clip: uniform over max(duration - seconds, 0) for u uniform in [0, 1)."""
    return u * max(duration - seconds, 0.0)


def test_starts(duration: float, seconds: float, num_clips: int, *, to_end: bool) -> list[float]:
    """Starts of the test clips, evenly spaced from 0.

    They are i * max(duration - seconds, 0) / num_clips: the last possible start is not used. With ``to_end`` it is, and
    a single clip lies in the middle.
    """
    room = max(duration - seconds, 0.0)
    if not to_end:
        return [i * room / num_clips for i in range(num_clips)]
    return [room / 2] if num_clips == 1 else [room * (i / (num_clips - 1)) for i in range(num_clips)]


test_starts.__test__ = False  # type: ignore[attr-defined]  # whatever pytest makes of the name


def sparse_moments(length: float, num_frames: int, places: ArrayLike) -> NDArray[np.float64]:
    """(num_frames,): a moment in each of ``num_frames`` equal segments of [0, length).

    ``places``, one for all or one each, are shares of a segment: TSN (arXiv:1608.00859) draws them in training.
    """
    return (np.arange(num_frames) + np.asarray(places)) * (length / num_frames)


def sparse_test_places(num_clips: int) -> list[float]:
    """Places of the frames of each test clip in their segments: the middle; of several clips i / num_clips.

    So the clips interleave.
    """
    return [0.5] if num_clips == 1 else [i / num_clips for i in range(num_clips)]


def pick_frames(times: ArrayLike, start: float, seconds: float, num_frames: int) -> NDArray[np.int64]:
    """Ascending frame times (n,) -> indices (num_frames,) of the frames that make the clip.

    Of the n frames with start <= time < start + seconds these are floor(linspace(0, n - 1, num_frames)), in whole
    numbers; if there are fewer than asked, frames repeat. If none starts then (a still in a video of variable frame
    rate), it is the frame on screen, the last that started before.
    """
    first, end = np.searchsorted(times, [start, start + seconds])
    if first == end:
        return np.full(num_frames, max(first - 1, 0))
    return first + np.arange(num_frames) * (end - 1 - first) // max(num_frames - 1, 1)


def pick_on_screen(times: ArrayLike, moments: ArrayLike) -> NDArray[np.int64]:
    """Ascending frame times (n,), moments (m,) -> indices (m,) of the frames on screen then."""
    return np.maximum(np.searchsorted(times, np.asarray(moments) + SAME_TIME, side='right') - 1, 0)


class ClipReader(Protocol):
    """What clips are read from."""

    def read_clips(self, starts: Sequence[float], seconds: float, num_frames: int) -> list[NDArray[np.uint8]]: ...

    def read_at(self, moments: ArrayLike) -> NDArray[np.uint8]: ...


class ClipSampling(NamedTuple):
    """Which clips are taken of a video.

    Attributes:
        sampling: 'dense' takes frames evenly spread over a clip of ``clip_seconds``, 'sparse' one frame in each of
            ``num_frames`` equal segments of the whole video (TSN).
        clip_seconds: length of a dense clip.
        num_frames: of a clip.
        num_clips: test clips of a video; see `test_starts` and `sparse_test_places`. Training takes random ones.
        to_end: of the dense ones, see `test_starts`.
    """

    sampling: str = 'dense'
    clip_seconds: float = 2.7
    num_frames: int = 16
    num_clips: int = 1
    to_end: bool = False

    def check(self) -> None:
        """Raise a ValueError if there is no such sampling, or a number that makes no clip."""
        if self.sampling not in ('dense', 'sparse'):
            raise ValueError(f"sampling={self.sampling!r} is unknown. Choose 'dense' or 'sparse'.")
        for name in ('clip_seconds', 'num_frames', 'num_clips'):
            if getattr(self, name) <= 0:
                raise ValueError(f'{name}={getattr(self, name)} is not positive.')

    def read(
        self, video: ClipReader, first: float, length: float, rng: np.random.Generator | None, num_random: int = 1
    ) -> list[NDArray[np.uint8]]:
        """Clips (num_frames, H, W, 3) of [first, first + length) seconds: random ones, or the test clips without rng.

        Raises:
            BrokenVideoError: as of `VideoReader.read`.
        """
        if self.sampling == 'sparse':
            places: Iterable[ArrayLike] = sparse_test_places(self.num_clips)
            if rng is not None:
                places = rng.random((num_random, self.num_frames))
            return [video.read_at(first + sparse_moments(length, self.num_frames, place)) for place in places]
        if rng is None:
            starts = test_starts(length, self.clip_seconds, self.num_clips, to_end=self.to_end)
        else:
            starts = [train_start(length, self.clip_seconds, u) for u in rng.random(num_random)]
        return video.read_clips([first + start for start in starts], min(self.clip_seconds, length), self.num_frames)
