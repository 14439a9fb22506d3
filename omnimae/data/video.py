"""Which frames of a video make a clip, and reading them: the only room that knows a video decoder.

``open_video(path).read(start, seconds, num_frames)`` gives uint8 RGB (num_frames, H, W, 3), ``.read_clips`` several
such clips, decoding no frame twice, ``.read_at(moments)`` the frames on screen then; times are seconds after the start
of the stream. The time stamps of the packets say which frames these are, the reader only decodes them:

- ``pyav`` decodes in the calling process, from a keyframe before frames of the clip to the last of them that needs it;
- ``decord`` can hang for ever with the GIL held, so it decodes in a helper process that a timer kills.

Both give the same frames, and the same colours but for 10-bit video and odd sizes, which decord's FFmpeg of 2021
converts differently.

A damaged file is an error, never a grey or a repeated picture: a file that ends before its container says, a container
that FFmpeg can only read with gaps, a frame that does not decode or that FFmpeg patched up. Changed bytes that still
make a valid stream pass for a picture (VP8, VP9 and AV1 carry no redundancy).
"""

from __future__ import annotations

import importlib.util
import inspect
import io
import itertools
import math
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from functools import cached_property, partial
from typing import Any, BinaryIO, NamedTuple, Protocol, TypeAlias

import av
import numpy as np
from av.stream import Disposition
from av.video.reformatter import VideoReformatter
from mmengine.fileio import LocalBackend, get_file_backend
from numpy.typing import ArrayLike, NDArray

TIME_LIMIT = 60.0  # seconds that opening a file or reading a clip may take

# A title in another encoding is no reason to refuse a video. From 19.0 on PyAV takes it so by itself.
LENIENT: dict[str, Any] = {} if int(av.__version__.split('.')[0]) >= 19 else {'metadata_errors': 'replace'}

ONE_PASS = 60.0  # seconds of video up to which it is cheaper to step over packets between clips than to seek again
NO_TIME_STAMPS = 0x80  # AVFMT_NOTIMESTAMPS of FFmpeg's libavformat
SAME_TIME = 1e-6  # seconds by which a moment and the start of a frame, computed in two ways, may differ

Picker: TypeAlias = Callable[[ArrayLike], NDArray[np.int64]]  # ascending frame times -> indices of the wanted ones
Packet: TypeAlias = Any  # av.Packet: its stubs call every time stamp optional, and after _demux none is


class BrokenFileError(ValueError):
    """A file that cannot be used, and why.

    torch's DataLoader re-raises a worker's exception with the whole message as its only argument, hence the default.
    """

    def __init__(self, path: str, reason: str = '') -> None:
        super().__init__(path, reason)
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        return f'{self.path}: {self.reason}' if self.reason else self.path


class BrokenVideoError(BrokenFileError):
    """A video that is missing, damaged, or no video."""


# ---- Which frames ----


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


# ---- Is the file whole ----


def count_missing_bytes(file: BinaryIO) -> int:
    """How much earlier than its container says a file ends; 0 if it is whole or its container does not say.

    FFmpeg reads truncated Matroska, WebM and AVI files to their end without a word.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    head = file.read(64)
    if head[:4] == b'RIFF':  # AVI
        length = int.from_bytes(head[4:8], 'little')
        return max(8 + length - size, 0) if length < 0xFFFFFFFF else 0
    if head[:4] == b'\x1aE\xdf\xa3':  # Matroska and WebM: an EBML header, then one segment
        length, begin = _read_vint(head, 4)
        begin += length
        length, end = _read_vint(head, begin + 4)
        return max(end + length - size, 0) if head[begin : begin + 4] == b'\x18\x53\x80\x67' else 0
    if head[4:8] in (b'ftyp', b'moov', b'mdat', b'wide', b'free', b'skip'):  # MP4 and QuickTime
        return _count_missing_box_bytes(file, size)
    return 0


def _read_vint(data: bytes, begin: int) -> tuple[int, int]:
    """Read an EBML number of variable length: the number, 0 where it says 'unknown', and where it ends."""
    num_bytes = 9 - (data[begin : begin + 1] or b'\x01')[0].bit_length()
    value = int.from_bytes(data[begin : begin + num_bytes], 'big') & (1 << 7 * num_bytes) - 1
    return (0 if value == (1 << 7 * num_bytes) - 1 else value), begin + num_bytes


def _count_missing_box_bytes(file: BinaryIO, size: int) -> int:
    begin = 0
    while begin + 8 <= size:
        file.seek(begin)
        head = file.read(16)
        length = int.from_bytes(head[:4], 'big')
        if length == 1:
            length = int.from_bytes(head[8:16], 'big')
        if length < 8:  # 0: to the end of the file
            return 0
        begin += length
        if begin > size and head[4:8] in (b'moov', b'mdat', b'moof'):
            return begin - size
    return 0


# ---- Reading ----


def open_video(path: str, reader: str = 'pyav', backend_args: dict[str, Any] | None = None) -> VideoReader:
    """Open a video: a context manager with ``.duration`` in seconds and ``.read(start, seconds, num_frames)``.

    Args:
        path: a local file, read in place, or an address in another storage of ``mmengine.fileio``, fetched whole.
        reader: 'pyav' or 'decord'.
        backend_args: for ``mmengine.fileio.get_file_backend``.

    Raises:
        BrokenVideoError: the file is missing, damaged, or no video.
        ValueError: there is no such reader, or it is not installed.
    """
    check_reader(reader)
    return READERS[reader](path, backend_args)


def check_reader(reader: str) -> None:
    """Raise a ValueError if there is no such reader, or if it is not installed."""
    if reader not in READERS:
        raise ValueError(f'reader is {reader!r}. Choose one of {sorted(READERS)}.')
    if reader == 'decord' and importlib.util.find_spec('decord') is None:
        raise ValueError("reader is 'decord', which is not installed. Use 'pyav', or: pip install decord")


class VideoReader:
    """An open video, and what both readers need of it: its packets and their time stamps."""

    def __init__(self, path: str, backend_args: dict[str, Any] | None = None) -> None:
        self.path = os.fspath(path)
        with self._reporting():
            self._source = _fetch(self.path, backend_args)
            self._open()
            self._origin = self._stream.start_time or 0
            self.duration = (self._find_end() - self._origin) * self._unit

    def read(self, start: float, seconds: float, num_frames: int) -> NDArray[np.uint8]:
        """Read the clip that ``pick_frames`` picks: RGB, (num_frames, H, W, 3).

        Raises:
            BrokenVideoError: nothing is shown at ``start``, these frames or what they refer to are damaged, or it
                takes longer than ``TIME_LIMIT``.
        """
        return self.read_clips([start], seconds, num_frames)[0]

    def read_clips(self, starts: Sequence[float], seconds: float, num_frames: int) -> list[NDArray[np.uint8]]:
        """Read what `read` reads at each start, in one pass where they lie near each other.

        Raises:
            BrokenVideoError: as of `read`.
        """
        if max(starts) - min(starts) > ONE_PASS:
            return [self.read(start, seconds, num_frames) for start in starts]

        def pick(times: ArrayLike) -> NDArray[np.int64]:
            return np.concatenate([pick_frames(times, start, seconds, num_frames) for start in starts])

        self._check_begun(max(starts))
        frames = self._read_from(min(starts), max(starts) + seconds, pick)
        return list(frames.reshape(len(starts), num_frames, *frames.shape[1:]))

    def read_at(self, moments: ArrayLike) -> NDArray[np.uint8]:
        """Read the frames that `pick_on_screen` picks, at ascending moments: RGB, (len(moments), H, W, 3).

        Raises:
            BrokenVideoError: as of `read`.
        """
        moments = np.asarray(moments)
        return self._read_from(moments[0], moments[-1], partial(pick_on_screen, moments=moments))

    def _read_from(self, start: float, stop: float, pick: Picker) -> NDArray[np.uint8]:
        self._check_begun(start)
        with self._reporting():
            return self._read(start, stop, pick)

    def _check_begun(self, start: float) -> None:
        if start >= self.duration:
            raise BrokenVideoError(self.path, f'no frame at {start:.3f} s, it lasts {self.duration:.3f} s')

    @property
    def time_base(self) -> Fraction:
        """Seconds that a time stamp of ``frames`` counts."""
        return self._stream.time_base

    @property
    def frame_rate(self) -> Fraction:
        """Frames a second, on average."""
        return self._stream.average_rate or Fraction(25)

    def frames(self) -> Iterator[tuple[int, av.VideoFrame]]:
        """All frames as they are coded, in order of display, with their time stamps after the start of the stream.

        Raises:
            BrokenVideoError: a frame is damaged, or takes longer than ``TIME_LIMIT``.
        """
        with self._reporting():
            stamps = None
            if self._max_delay:
                self._reopen()
                stamps = iter(sorted(packet.pts for packet in self._demux()))
            self._reopen()
            context, not_shown = self._stream.codec_context, set()
            origin = None
            for packet in itertools.chain(self._demux(), [None]):
                if packet is not None:
                    if origin is None and not packet.is_keyframe:
                        continue
                    origin = packet.pts if origin is None else origin
                    if packet.is_discard or packet.pts < origin:
                        not_shown.add(packet.pts)
                for frame in context.decode(packet):
                    stamp = frame.pts if stamps is None else next(stamps, None)
                    if stamp is None:  # a StopIteration here would end the caller's program, not this file
                        raise BrokenVideoError(self.path, 'it has more frames than packets')
                    if frame.is_corrupt:
                        raise BrokenVideoError(self.path, f'damaged, no clean frame for {self._at(stamp)}')
                    if stamp not in not_shown:
                        yield stamp - self._origin, frame
                self._deadline = time.monotonic() + TIME_LIMIT

    def close(self) -> None:
        """Let go of the file."""
        self._container.close()

    def __enter__(self) -> VideoReader:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _read(self, start: float, stop: float, pick: Picker) -> NDArray[np.uint8]:
        raise NotImplementedError

    def _open(self) -> None:
        source: str | BinaryIO
        file: BinaryIO
        if isinstance(self._source, str):
            # Without 'file:' FFmpeg takes the first half of 'a:b.mp4' for a protocol.
            source, file = f'file:{self._source}', open(self._source, 'rb')
        else:
            source, file = io.BytesIO(self._source), io.BytesIO(self._source)
        with file:
            size, missing = file.seek(0, os.SEEK_END), count_missing_bytes(file)
        if size == 0:
            raise BrokenVideoError(self.path, 'the file is empty')
        if missing:
            raise BrokenVideoError(self.path, f'truncated, {missing} bytes are missing at its end')
        container: Any = av.open(source, timeout=TIME_LIMIT, **LENIENT)
        stream = container.streams.best('video')
        # Pictures of an album and text files count as video with FFmpeg, and so does what it has no decoder for.
        context = None if stream is None else stream.codec_context
        if context is None or stream.disposition & Disposition.attached_pic or context.name == 'ansi':
            raise BrokenVideoError(self.path, 'no video stream')
        if container.format.flags & NO_TIME_STAMPS:  # also what FFmpeg makes of an AVI without its front
            raise BrokenVideoError(
                self.path, f'a bare stream without a container ({container.format.name}) has no times'
            )
        context.thread_type = 'NONE'
        context.thread_count = 1
        self._container = container
        self._stream = stream
        self._unit = float(stream.time_base)  # seconds
        # AVI has no times of display, and with B-frames those of FFmpeg are wrong by a few frames: these have to be
        # counted as they come out, up to 16 packets late.
        self._max_delay = 16 if container.format.name == 'avi' and context.has_b_frames else 0

    def _find_end(self) -> int:
        """Time stamp at which the last frame ends. Containers give none, or that of the sound, or a wrong one."""
        stream = self._stream
        promised = stream.duration or (self._container.duration or 0) / av.time_base / self._unit
        frame_duration = int(1 / float(stream.average_rate or 25) / self._unit)
        packets = [packet for packet in self._seek(self._origin + int(promised) - 1) if not packet.is_discard]
        if not packets:
            raise BrokenVideoError(self.path, 'no frames')
        return max(packet.pts + (packet.duration or frame_duration) for packet in packets)

    def _seek(self, begin: int, end: float = math.inf) -> list[Packet]:
        """Packets from a keyframe that is shown at or before ``begin`` until all that are shown before ``end`` came."""
        # After a seek FFmpeg numbers the frames of an MPEG program stream wrongly.
        target = begin if self._container.format.name != 'mpeg' else self._origin - 1
        step = int(1 / self._unit)
        while target >= self._origin:
            self._container.seek(target, stream=self._stream)
            packets = _from_keyframe(self._demux(end))
            if packets and packets[0].pts <= begin:
                return packets
            target, step = target - step, 2 * step  # some containers come up with a later one, or with nothing
        return self._rewind(end)

    def _rewind(self, end: float = math.inf) -> list[Packet]:
        """Like ``_seek``, but from the first keyframe of the file. Not every container can seek there."""
        self._reopen()
        return _from_keyframe(self._demux(end))

    def _reopen(self) -> None:
        self.close()
        self._open()

    def _demux(self, end: float = math.inf) -> Iterator[Packet]:
        num_notes = len(self._notes)
        for packet in self._container.demux(self._stream):
            # FFmpeg steps over what it cannot make out in a container, and only notes it down.
            skipped = [text.strip() for _, name, text in self._notes[num_notes:] if name == self._container.format.name]
            if skipped or packet.is_corrupt:
                raise BrokenVideoError(self.path, f'damaged, {skipped[0] if skipped else "incomplete packet"}')
            self._check_time()
            if packet.size == 0:  # a frame that the camera dropped (AVI), or the end
                continue
            if packet.pts is None:
                packet.pts = packet.dts
            if packet.pts is None:
                raise BrokenVideoError(self.path, 'no time stamps. Try: ffmpeg -i OLD -c copy NEW.mp4')
            yield packet
            if packet.dts is not None and packet.dts >= end:  # no frame is shown before its dts, and dts ascend
                return

    def _times(self, stamps: list[int]) -> NDArray[np.float64]:
        """Seconds after the start of the stream, each the nearest floating number: at the ends of a clip it matters."""
        unit = self._stream.time_base
        return (np.array(stamps) - self._origin) * unit.numerator / unit.denominator

    def _at(self, stamp: int) -> str:
        return f'{(stamp - self._origin) * self._unit:.3f} s'

    def _check_time(self) -> None:
        if time.monotonic() > self._deadline:
            raise BrokenVideoError(self.path, f'not read within {TIME_LIMIT:g} s')

    @contextmanager
    def _reporting(self) -> Iterator[None]:
        """Turn errors of the storage and of FFmpeg into BrokenVideoError, and start the clock."""
        self._deadline = time.monotonic() + TIME_LIMIT
        logging = av.logging
        level, skips_repeated = logging.get_level(), logging.get_skip_repeated()
        logging.set_level(logging.ERROR)  # by default PyAV lets FFmpeg note down nothing
        logging.set_skip_repeated(False)
        try:
            with logging.Capture() as self._notes:
                yield
        except (OSError, av.FFmpegError) as error:
            notes = [text.strip() for _, _, text in self._notes]
            reason = f'{error.strerror or error}' + (f' ({notes[-1]})' if notes else '')
            raise BrokenVideoError(self.path, reason) from error
        finally:
            logging.set_level(level)
            logging.set_skip_repeated(skips_repeated)


class PyAVReader(VideoReader):
    """Decodes in this process, in one thread."""

    def _read(self, start: float, stop: float, pick: Picker) -> NDArray[np.uint8]:
        begin = self._origin + math.floor(start / self._unit)
        end = self._origin + math.ceil(stop / self._unit) + self._max_delay

        def decode(packets: list[Packet], skip: bool) -> NDArray[np.uint8]:
            stamps = _shown(packets)
            if not stamps:
                raise BrokenVideoError(self.path, f'no frames at {start:.3f} s')
            return self._decode(packets, [stamps[i] for i in pick(self._times(stamps))], skip)

        try:
            return decode(self._seek(begin, end), skip=True)
        except (BrokenVideoError, av.FFmpegError):
            # A keyframe may need earlier frames (gradual refresh), so the judge is decoding from the first on.
            return decode(self._rewind(end), skip=False)

    def _decode(self, packets: list[Packet], wanted: list[int], skip: bool) -> NDArray[np.uint8]:
        """Decode the frames with the time stamps ``wanted``, and no packet behind the last of them.

        skip: leave out the frames that no other refers to, and from one wanted frame to the last keyframe before the
            next, unless they are wanted.
        """
        context = self._stream.codec_context
        # HEVC's mark only speaks for frames of the same layer.
        skips_frames = skip and context.name in ('h264', 'mpeg4') and not self._max_delay
        stamps = iter(_shown(packets))
        missing = set(wanted)
        last = max(i for i, packet in enumerate(packets) if packet.pts in missing) + self._max_delay
        runs = _runs(packets, missing) if skip and not self._max_delay else [packets[: last + 1]]
        clip = None
        for run in runs:
            for packet in [*run, None]:  # None: hand out what is left
                self._check_time()
                context.skip_frame = 'NONREF' if skips_frames and packet and packet.pts not in missing else 'DEFAULT'
                for frame in context.decode(packet):
                    stamp = next(stamps, None) if self._max_delay else frame.pts
                    if frame.is_corrupt:
                        raise BrokenVideoError(self.path, f'damaged, no clean frame for {self._at(max(wanted))}')
                    if stamp not in missing:
                        continue
                    missing.remove(stamp)
                    picture = self._picture(frame)
                    if clip is None:
                        clip = np.empty((len(wanted), *picture.shape), np.uint8)
                    if picture.shape != clip.shape[1:]:
                        raise BrokenVideoError(self.path, f'its size changes at {self._at(stamp)}')
                    for place in np.flatnonzero(np.equal(wanted, stamp)):  # a mask takes three times as long
                        clip[place] = picture
                    if not missing:
                        return clip
            context.flush_buffers()
        raise BrokenVideoError(self.path, f'damaged, no frame for {self._at(min(missing))}')

    def _picture(self, frame: av.VideoFrame) -> NDArray[np.uint8]:
        """RGB (H, W, 3), turned the way the file says it is to be shown."""
        picture = self._to_rgb.reformat(frame, format='rgb24', threads=1).to_ndarray()
        return np.rot90(picture, round(frame.rotation / 90))

    @cached_property
    def _to_rgb(self) -> VideoReformatter:
        return VideoReformatter()  # one for all frames: a new one costs three times the conversion of a small frame


class DecordReader(VideoReader):
    """Decodes with decord in a helper process, from the first frame of the file on: long videos are for pyav."""

    def __init__(self, path: str, backend_args: dict[str, Any] | None = None) -> None:
        super().__init__(path, backend_args)
        if self._container.format.name not in DECORD_FORMATS:
            raise BrokenVideoError(self.path, "decord would give other frames of it. Use reader='pyav'.")
        with self._reporting():
            self._reopen()
            packets = [(packet.pts, packet.is_discard) for packet in self._demux()]
        self._num_packets = len(packets)
        stamps = sorted(stamp for stamp, is_discard in packets if not is_discard)  # an edit list may cut some
        self._frame_times = self._times(stamps)

    def _read(self, start: float, stop: float, pick: Picker) -> NDArray[np.uint8]:
        indices, places = np.unique(pick(self._frame_times), return_inverse=True)
        return _decord_process().read(self.path, self._source, indices, self._num_packets)[places]


READERS: dict[str, type[VideoReader]] = {'pyav': PyAVReader, 'decord': DecordReader}


def _fetch(path: str, backend_args: dict[str, Any] | None) -> str | bytes:
    """Give the path of a local file, or the content of one elsewhere."""
    backend = get_file_backend(path, backend_args=backend_args)
    return path if isinstance(backend, LocalBackend) else backend.get(path)


def _from_keyframe(packets: Iterator[Packet]) -> list[Packet]:
    """Leave out what comes before the first keyframe."""
    return list(itertools.dropwhile(lambda packet: not packet.is_keyframe, packets))


def _shown(packets: list[Packet]) -> list[int]:
    """Give the time stamps of the frames that these packets, from a keyframe on, show, in order of display."""
    # Frames that follow the keyframe but are shown before it lack what they refer to; an edit list cuts others.
    return sorted({packet.pts for packet in packets if packet.pts >= packets[0].pts and not packet.is_discard})


def _runs(packets: list[Packet], wanted: set[int]) -> list[list[Packet]]:
    """Cut out the packets that the frames ``wanted`` need: runs from a keyframe to a wanted frame each."""
    runs: list[tuple[int, int]] = []
    keyframes: list[int] = []
    for number, packet in enumerate(packets):
        if packet.is_keyframe:
            keyframes.append(number)
        if packet.pts not in wanted:
            continue
        # A frame that is shown before the keyframe in front of it refers to what comes before that.
        first = next(i for i in reversed(keyframes) if packets[i].pts <= packet.pts)
        while runs and first <= runs[-1][1] + 1:  # the last may begin later: a wanted frame may come between these two
            first = min(first, runs.pop()[0])
        runs.append((first, number))
    return [packets[first : last + 1] for first, last in runs]


# ---- decord's process ----

DECORD_FORMATS = ('mov,mp4,m4a,3gp,3g2,mj2', 'matroska,webm', 'avi')
DECORD_PROCESSES: dict[int, DecordProcess] = {}  # by the id of the process that started it: a fork needs its own


class DecordProcess:
    """Decodes for this process. It ends with it, or by the kernel's timer when decord hangs."""

    def __init__(self) -> None:
        # Its source is all it gets: no torch, no part of this package, so it takes 0.1 s and 50 MB.
        # subprocess, because a DataLoader's workers are daemons and those may have no multiprocessing children.
        program = f'{inspect.getsource(_serve_decord)}\n_serve_decord()'
        command = [sys.executable, '-c', program]
        self._process: Any = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._lock = threading.Lock()

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    @property
    def pid(self) -> int:
        return self._process.pid

    def read(self, path: str, source: str | bytes, indices: NDArray[np.int64], num_frames: int) -> NDArray[np.uint8]:
        """Frames (N, H, W, 3) with the numbers ``indices`` of a video that has ``num_frames``."""
        try:
            with self._lock:
                pickle.dump((source, indices.tolist(), num_frames, TIME_LIMIT), self._process.stdin)
                self._process.stdin.flush()
                answer = pickle.load(self._process.stdout)
        except (EOFError, BrokenPipeError, pickle.UnpicklingError) as error:
            status = self._process.wait()
            hung = status == -signal.SIGALRM
            reason = f'decord {f"took longer than {TIME_LIMIT:g} s" if hung else f"died with status {status}"}'
            raise BrokenVideoError(path, reason) from error
        if isinstance(answer, str):
            raise BrokenVideoError(path, answer)
        return answer


def _decord_process() -> DecordProcess:
    process = DECORD_PROCESSES.get(os.getpid())
    if process is None or not process.is_alive:
        process = DECORD_PROCESSES[os.getpid()] = DecordProcess()
    return process


def _serve_decord() -> None:
    """Be the helper's whole program: answer (source, numbers of frames, count, time limit) with frames or a reason."""
    import io
    import os
    import pickle
    import signal
    import sys
    import tempfile

    import decord
    import numpy

    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # ends the process, whoever holds the GIL
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGALRM])
    answers = os.fdopen(os.dup(1), 'wb')
    log = tempfile.TemporaryFile()
    os.dup2(log.fileno(), 1)
    os.dup2(log.fileno(), 2)
    decord.logging.set_level(decord.logging.INFO)

    opened, position = None, 0
    video: Any = None
    answer: Any
    while True:
        try:
            source, indices, num_packets, seconds = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        signal.setitimer(signal.ITIMER_REAL, seconds)
        log.truncate(0)
        try:
            if source != opened or indices[0] < position:
                opened, position = None, 0
                video = decord.VideoReader(io.BytesIO(source) if isinstance(source, bytes) else source, num_threads=1)
                opened = source
            if len(video) != num_packets:
                raise ValueError(f'counts {len(video)} frames where there are {num_packets}')
            # Every frame: its seeking and skipping goes wrong with open GOPs, gradual refresh, B-frames in AVI.
            frames = []
            while position <= indices[-1]:
                frame = video.next()
                if position in indices:
                    frames.append(frame.asnumpy())
                position += 1
            answer = numpy.stack(frames)
            log.seek(0)
            if b'concealing' in log.read():  # the one trace in decord of a frame that FFmpeg patched up
                raise ValueError('damaged, a frame does not decode')
        except Exception as error:
            opened = None
            answer = f'decord: {(str(error) or repr(error)).splitlines()[0]}'
        signal.setitimer(signal.ITIMER_REAL, 0)
        pickle.dump(answer, answers, protocol=5)
        answers.flush()
