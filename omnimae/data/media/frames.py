"""Which frames make a clip: pure numbers, no files."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple, Protocol, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

Indices: TypeAlias = NDArray[np.int64]

SAME_TIME = 1e-6  # seconds; tolerance between two computations of the same time


def train_start(duration: float, seconds: float, u: float) -> float:
    """Start of a training clip: uniform over max(duration - seconds, 0) for u uniform in [0, 1)."""
    return u * max(duration - seconds, 0.0)


def test_starts(duration: float, seconds: float, num_clips: int, *, to_end: bool) -> list[float]:
    """Starts of the test clips, evenly spaced from 0.

    They are i * max(duration - seconds, 0) / num_clips, without the last possible start. With ``to_end`` it is used,
    and a single clip is in the middle.
    """
    last = max(duration - seconds, 0.0)
    if not to_end:
        return [i * last / num_clips for i in range(num_clips)]
    return [last / 2] if num_clips == 1 else [last * (i / (num_clips - 1)) for i in range(num_clips)]


test_starts.__test__ = False  # type: ignore[attr-defined]  # pytest would take it for a test


# Frames by their number: the rules of released code, for a video of ``num`` frames.


def strided(num: int, start: int, stride: int, num_frames: int) -> Indices:
    """Every ``stride``-th frame from ``start`` on: VideoMAE's pretraining. Near the end of the video a frame repeats.

    A step to the last frame is only taken if the clip fits.
    """
    steps = max(num - 2 - start, 0) // stride
    return start + stride * np.minimum(np.arange(num_frames), steps)


def spread(num: int, start: int, stride: int, num_frames: int) -> Indices:
    """Frames spread over ``stride * num_frames``, both ends included: VideoMAE's fine-tuning (I3D's dense sampling).

    For a shorter video they are num // stride frames spread over all of it, then its last one.
    """
    window = stride * num_frames
    if num > window:
        places = np.linspace(start, start + window, num_frames)
        return np.minimum(places, start + window - 1).astype(np.int64)
    places = np.linspace(0, num, num // stride)
    places = np.append(places, np.full(num_frames - len(places), num))
    return np.minimum(places, num - 1).astype(np.int64)


def strided_test(num: int, stride: int, num_frames: int, num_clips: int) -> list[Indices]:
    """Test clips of VideoMAE: every ``stride``-th frame, clips evenly spaced; one clip is in the middle."""
    grid = np.arange(0, num, stride)
    grid = np.append(grid, np.full(max(num_frames - len(grid), 0), grid[-1]))
    last = len(grid) - num_frames
    starts = [last // 2] if num_clips == 1 else [int(i * (last / (num_clips - 1))) for i in range(num_clips)]
    return [grid[start : start + num_frames] for start in starts]


def resampled(num: int, start: float, length: float, num_frames: int) -> Indices:
    """Frames spread over ``length`` frames from ``start`` on, both fractional: SlowFast and MAE-ST."""
    places = np.linspace(start, start + length - 1, num_frames)
    return (places.clip(0, num - 1) + SAME_TIME).astype(np.int64)


def resampled_test_starts(num: int, length: float, num_clips: int) -> list[int]:
    """Starts of the test clips of SlowFast, an integer number of frames apart; one clip is in the middle."""
    last = max(num - length, 0) + SAME_TIME
    return [int(last / 2)] if num_clips == 1 else [i * int(last / (num_clips - 1)) for i in range(num_clips)]


def segments(num: int, num_frames: int, rng: np.random.Generator | None) -> Indices:
    """One frame in each of ``num_frames`` equal segments (TSN, arXiv:1608.00859): a random one, or the middle.

    A segment has num // num_frames frames. The rest at the end is not used. For a shorter video the first frame
    repeats, as in VideoMAE V2. VideoMAE uses only the first frame then.
    """
    size = num // num_frames
    if not size:
        return np.maximum(np.arange(num - num_frames, num), 0)
    place = size // 2 if rng is None else rng.integers(size, size=num_frames)
    return np.arange(num_frames) * size + place


def segments_test(num: int, num_frames: int, num_clips: int) -> list[Indices]:
    """Interleaved test clips of one frame in each segment; one clip has the middle frames."""
    if num_clips == 1:
        return [segments(num, num_frames, None)]
    size = num / num_frames
    return [(i * size / num_clips + size * np.arange(num_frames)).astype(np.int64) for i in range(num_clips)]


# Frames by their time.


def pick_frames(times: ArrayLike, start: float, seconds: float, num_frames: int) -> NDArray[np.int64]:
    """Ascending frame times (n,) -> indices (num_frames,) of the frames of a clip.

    They are floor(linspace(0, n - 1, num_frames)) of the n frames with start <= time < start + seconds, up to
    ``SAME_TIME``. If n is smaller than num_frames, frames repeat. If no frame starts then (a still in a video of
    variable frame rate), it is the last one that started before.
    """
    first, end = np.searchsorted(times, np.array([start, start + seconds]) - SAME_TIME)
    if first == end:
        return np.full(num_frames, max(first - 1, 0))
    return first + np.arange(num_frames) * (end - 1 - first) // max(num_frames - 1, 1)


def pick_on_screen(times: ArrayLike, moments: ArrayLike) -> NDArray[np.int64]:
    """Ascending frame times (n,), moments (m,) -> indices (m,) of the frames on screen then."""
    return np.maximum(np.searchsorted(times, np.asarray(moments) + SAME_TIME, side='right') - 1, 0)


def within(times: NDArray[np.float64], start: float, stop: float) -> NDArray[np.float64]:
    """The ascending times in [start, stop), up to ``SAME_TIME``."""
    begin, end = np.searchsorted(times, [start - SAME_TIME, stop - SAME_TIME])
    return times[begin:end]


class ClipReader(Protocol):
    """A video from which clips are read."""

    @property
    def frame_rate(self) -> Fraction | float: ...

    def read_clips(self, starts: Sequence[float], seconds: float, num_frames: int) -> list[NDArray[np.uint8]]: ...

    def read_at(self, moments: ArrayLike) -> NDArray[np.uint8]: ...

    def frame_times(self, start: float, stop: float) -> NDArray[np.float64]: ...


SAMPLINGS = ('dense', 'sparse', 'strided', 'spread', 'resampled')
FRAME_RATE = 30  # of SlowFast's strides


class ClipSampling(NamedTuple):
    """Which clips are taken from a video.

    'dense' takes frames evenly spread over a clip of ``clip_seconds``. The other samplings count frames, as the
    released code of OmniMAE's siblings does:

    - 'sparse': one frame in each of ``num_frames`` equal segments of the video (TSN)
    - 'strided': every ``stride``-th frame (VideoMAE's pretraining)
    - 'spread': frames spread over ``stride * num_frames`` frames (VideoMAE's fine-tuning)
    - 'resampled': like 'spread', for a video resampled to 30 frames a second (MAE-ST, SlowFast).

    Attributes:
        sampling: one of these names.
        clip_seconds: length of a dense clip.
        num_frames: of a clip.
        num_clips: test clips of a video. Training takes random ones.
        to_end: of dense test clips, see `test_starts`.
        stride: frames from one of the clip to the next.
    """

    sampling: str = 'dense'
    clip_seconds: float = 2.7
    num_frames: int = 16
    num_clips: int = 1
    to_end: bool = False
    stride: int | None = None

    def check(self) -> None:
        """Raise a ValueError if the sampling is unknown, or a number is wrong."""
        if self.sampling not in SAMPLINGS:
            choices = f'{", ".join(map(repr, SAMPLINGS[:-1]))} or {SAMPLINGS[-1]!r}'
            raise ValueError(f'sampling={self.sampling!r} is unknown. Choose {choices}.')
        if (self.sampling in ('dense', 'sparse')) != (self.stride is None):
            raise ValueError(
                f"stride={self.stride} and sampling={self.sampling!r}: 'strided', 'spread' and 'resampled' need a "
                'stride, in frames; the others have none.'
            )
        for name in ('clip_seconds', 'num_frames', 'num_clips', 'stride'):
            if (value := getattr(self, name)) is not None and value <= 0:
                raise ValueError(f'{name}={value} is not positive. Give a positive number.')

    def read(
        self,
        video: ClipReader,
        first: float,
        length: float,
        rng: np.random.Generator | None,
        num_random: int = 1,
        clock: ClipReader | None = None,
    ) -> list[NDArray[np.uint8]]:
        """Clips (num_frames, H, W, 3) in [first, first + length) seconds: random ones, or the test clips without rng.

        Args:
            video: to read from.
            first: begin of the range, in seconds.
            length: of the range, in seconds.
            rng: None for the test clips.
            num_random: number of random clips.
            clock: the video whose frames are counted; None is ``video``. Aligned videos are read at the same moments.

        Raises:
            BrokenVideoError: as in `VideoReader.read`.
        """
        if self.sampling == 'dense':
            if rng is None:
                starts = test_starts(length, self.clip_seconds, self.num_clips, to_end=self.to_end)
            else:
                starts = [train_start(length, self.clip_seconds, u) for u in rng.random(num_random)]
            seconds = min(self.clip_seconds, length)
            return video.read_clips([first + start for start in starts], seconds, self.num_frames)
        clock = clock or video
        times = clock.frame_times(first, first + length)
        if not len(times):  # a still: the frame on screen
            times = np.array([first])
        clips = [times[clip] for clip in self.pick(len(times), float(clock.frame_rate), rng, num_random)]
        if len(clips) == 1:
            return [video.read_at(clips[0])]
        moments, places = np.unique(np.concatenate(clips), return_inverse=True)  # no frame is decoded twice
        frames = video.read_at(moments)
        return [frames[part] for part in places.reshape(len(clips), -1)]

    def pick(self, num: int, rate: float, rng: np.random.Generator | None, num_random: int = 1) -> list[Indices]:
        """Frame indices (num_frames,) of each clip of ``num`` frames, ``rate`` a second. Not for 'dense'."""
        if rng is not None:
            return [self._draw(num, rate, rng) for _ in range(num_random)]
        count, clips = self.num_frames, self.num_clips
        if self.sampling == 'sparse':
            return segments_test(num, count, clips)
        assert self.stride is not None  # see check
        if self.sampling == 'resampled':
            length = _resampled_length(self.stride * count, rate)
            return [resampled(num, start, length, count) for start in resampled_test_starts(num, length, clips)]
        if self.sampling == 'spread' and clips == 1:  # the validation of VideoMAE V2
            return [spread(num, (num - self.stride * count) // 2, self.stride, count)]
        return strided_test(num, self.stride, count, clips)

    def _draw(self, num: int, rate: float, rng: np.random.Generator) -> Indices:
        if self.sampling == 'sparse':
            return segments(num, self.num_frames, rng)
        assert self.stride is not None  # see check
        window = self.stride * self.num_frames
        if self.sampling == 'strided':
            return strided(num, int(rng.integers(max(num - window + 1, 1))), self.stride, self.num_frames)
        if self.sampling == 'spread':
            return spread(num, int(rng.integers(max(num - window, 1))), self.stride, self.num_frames)
        length = _resampled_length(window, rate)
        return resampled(num, rng.random() * max(num - length, 0), length, self.num_frames)


def _resampled_length(window: int, rate: float) -> float:
    """The number of frames that lasts as long as ``window`` frames of a video with 30 a second."""
    return max(window * rate / FRAME_RATE, 1.0)
