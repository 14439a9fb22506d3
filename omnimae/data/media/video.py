"""Reading videos: what a video file shows, frame by frame.

``open_video(path).read(start, seconds, num_frames)`` gives uint8 RGB (num_frames, H, W, 3), ``.read_clips`` several
such clips, decoding no frame twice, ``.read_at(moments)`` the frames on screen then. Times are seconds after the start
of the stream. The time stamps say which frames these are, a reader only decodes them:

- ``pyav`` decodes in the calling process, from a keyframe before frames of the clip to the last of them that needs it;
- ``decord`` (`omnimae.data.media.decord`) can hang, so it decodes in a helper process that a timer kills.

Both give the same frames. Their pixels are equal too, except for 10-bit video and odd sizes: decord's FFmpeg of 2021
converts those differently.

A damaged file is an error, never a grey or a repeated picture: a file that ends before its container says, a container
that FFmpeg can only read with gaps, a frame that does not decode or that FFmpeg patched up. Changed bytes that still
make a valid stream pass for a picture (VP8, VP9 and AV1 carry no redundancy).
"""

from __future__ import annotations

import io
import itertools
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from functools import cached_property, partial
from typing import Any, BinaryIO, TypeAlias

import av
import numpy as np
from av.stream import Disposition
from av.video.reformatter import VideoReformatter
from mmengine.fileio import LocalBackend, get_file_backend
from numpy.typing import ArrayLike, NDArray

from omnimae.data.media.container import count_missing_bytes
from omnimae.data.media.errors import BrokenVideoError
from omnimae.data.media.frames import pick_frames, pick_on_screen, within

TIME_LIMIT = 60.0  # seconds that opening a file or reading a clip may take

# A title in another encoding is no reason to refuse a video. From 19.0 on PyAV takes it so by itself.
LENIENT: dict[str, Any] = {} if int(av.__version__.split('.')[0]) >= 19 else {'metadata_errors': 'replace'}

ONE_PASS = 60.0  # seconds of video up to which it is cheaper to step over packets between clips than to seek again
NO_TIME_STAMPS = 0x80  # AVFMT_NOTIMESTAMPS of FFmpeg's libavformat

Picker: TypeAlias = Callable[[ArrayLike], NDArray[np.int64]]  # ascending frame times -> indices of the wanted ones
Packet: TypeAlias = Any  # av.Packet: its stubs call every time stamp optional, and after _demux none is


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

    def frame_times(self, start: float, stop: float) -> NDArray[np.float64]:
        """Seconds at which the frames begin that begin in [start, stop), in order; decodes none.

        Raises:
            BrokenVideoError: as of `read`.
        """
        with self._reporting():
            return within(self._times(_shown(self._seek(*self._stamps(start, stop)))), start, stop)

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

    def _stamps(self, start: float, stop: float) -> tuple[int, int]:
        """Time stamps between which packets hold all frames of [start, stop) seconds."""
        begin = self._origin + math.floor(start / self._unit)
        return begin, self._origin + math.ceil(stop / self._unit) + self._max_delay

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
        begin, end = self._stamps(start, stop)

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
