"""Reading videos, frame by frame.

``open_video(path).read(start, seconds, num_frames)`` gives uint8 RGB (num_frames, H, W, 3). ``.read_clips`` gives
several such clips and decodes no frame twice. ``.read_at(moments)`` gives the frames on screen at these times. Times
are seconds after the start of the stream (for AVI, after its first frame). Frames and times are those of a sequential
decode. The packets determine them before anything is decoded (`packets`). A reader only decodes the selected frames:

- ``pyav`` decodes in the calling process, from a keyframe before the clip to its last frame. The output is compared
  with the packets. If they disagree, it decodes without skipping, then from the first frame of the file. In the end
  the decoded frames decide. Of Motion JPEG in MP4 it only reads the selected frames, whose places the index has.
- ``decord`` (`omnimae.data.media.decord`) may hang, so it decodes in a helper process that a timer kills. It refuses
  files of which it would give other frames.

Both give the same frames, with equal pixels except for 10-bit and interlaced video and odd sizes. decord's FFmpeg of
2021 converts those differently.

Frames are turned and mirrored as in players (`orientation`). Like the readers of the published code (decord and
PyTorchVideo's PyAV), they ignore the aspect ratio of pixels that are not square.

A damaged file is an error, never a grey or repeated picture. Damaged means: the file is shorter than its container
says, FFmpeg reads its container only with gaps, or a frame does not decode or is concealed by FFmpeg. Changed bytes
that still make a valid stream are not noticed (VP8, VP9 and AV1 have no redundancy).
"""

from __future__ import annotations

import errno
import heapq
import io
import itertools
import math
import os
import struct
import threading
import time
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from fractions import Fraction
from functools import cached_property, lru_cache, partial
from typing import Any, TypeAlias

import av
import numpy as np
from av.sidedata.sidedata import SideDataContainer
from av.sidedata.sidedata import Type as SideDataType
from av.stream import Disposition
from av.video.reformatter import VideoReformatter
from numpy.typing import ArrayLike, NDArray

from omnimae.data import storage
from omnimae.data.media.container import count_missing_bytes, has_time_offsets
from omnimae.data.media.errors import BrokenVideoError
from omnimae.data.media.frames import SAME_TIME, pick_frames, pick_on_screen, within
from omnimae.data.media.orientation import UPRIGHT, orient, orientation_of_matrix
from omnimae.data.media.packets import Packet, Picture, counter_of, group

# Seconds of CPU time that opening a file or reading a clip may take: a suspended job and a slow disk use none. decord
# may wait without end, so for it they are seconds of a clock.
TIME_LIMIT = 60.0

# A title in another encoding is no reason to refuse a video. PyAV does this itself from 19.0 on.
LENIENT: dict[str, Any] = {} if int(av.__version__.split('.')[0]) >= 19 else {'metadata_errors': 'replace'}

ONE_PASS = 60.0  # seconds of video; up to this, skipping the packets between clips is cheaper than seeking again
MAX_DELAY = 16  # frames that a decoder may hold back to sort them
# Error numbers that FFmpeg also uses for other reasons than permissions, memory or arguments
FFMPEGS_OWN = (errno.EPERM, errno.EAGAIN, errno.ENOMEM, errno.EINVAL, errno.EDOM, errno.ERANGE, errno.ENOSYS)
NO_TIME_STAMPS = 0x80  # AVFMT_NOTIMESTAMPS of FFmpeg's libavformat

_THREAD = threading.local()
END = Picture(0, False, False, [None])  # flushes a decoder

Frame: TypeAlias = Any  # av.VideoFrame, whose stubs call the time stamp optional; after _decode_run every frame has one
Picker: TypeAlias = Callable[[ArrayLike], NDArray[np.int64]]  # ascending frame times -> indices of the wanted ones


class VideoReader:
    """An open video, with what both readers need: its packets and their time stamps.

    Attributes:
        duration: in seconds.
        orientation: EXIF's number of the frame that PyAV decoded last. Clips are upright.
    """

    orientation = UPRIGHT
    _file: Any = None  # of its bytes

    def __init__(self, path: str, backend_args: dict[str, Any] | None = None) -> None:
        self.path = os.fspath(path)
        with self._reporting():
            self._source = storage.read_in_place(self.path, backend_args)
            source = self._source
            self._file = io.BytesIO(source) if isinstance(source, bytes) else storage.LocalFile(source)
            self._open()
            self._origin = self._stream.start_time or 0
            if self._container.format.name == 'avi':  # it begins with its first frame, whatever FFmpeg says
                self._origin = next(filter(_is_begin, self._demux())).pts
            self.duration = (self._find_end() - self._origin) * self._unit

    def read(self, start: float, seconds: float, num_frames: int) -> NDArray[np.uint8]:
        """Read the clip that ``pick_frames`` picks: RGB, (num_frames, H, W, 3).

        Raises:
            BrokenVideoError: there is no frame at ``start``, these frames or their references are damaged, or reading
                takes longer than ``TIME_LIMIT``.
        """
        return self.read_clips([start], seconds, num_frames)[0]

    def read_clips(self, starts: Sequence[float], seconds: float, num_frames: int) -> list[NDArray[np.uint8]]:
        """Read a clip at each start, in one pass if they are near each other.

        Raises:
            BrokenVideoError: as in `read`.
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
            BrokenVideoError: as in `read`.
        """
        moments = np.asarray(moments)
        # the end is excluded, but a frame that begins at the last moment is shown then
        return self._read_from(moments[0], moments[-1] + SAME_TIME, partial(pick_on_screen, moments=moments))

    def frame_times(self, start: float, stop: float) -> NDArray[np.float64]:
        """Start times of the frames that begin in [start, stop), in seconds and in order.

        The file is only decoded if its packets do not determine them.

        Raises:
            BrokenVideoError: as in `read`.
        """
        with self._reporting():
            begin, end, late = self._stamps(start, stop)
            try:
                stamps = _shown(self._group(self._seek(begin, late), begin))
                if begin_together(stamps):
                    raise BrokenVideoError(self.path, 'several first frames')
            except BrokenVideoError:
                stamps = self._stamps_of_all(end)
            return within(self._times(stamps), start, stop)

    def _read_from(self, start: float, stop: float, pick: Picker) -> NDArray[np.uint8]:
        self._check_begun(start)
        with self._reporting():
            return self._read(start, stop, pick)

    def _check_begun(self, start: float) -> None:
        if start >= self.duration:
            raise BrokenVideoError(self.path, f'no frame at {start:.3f} s, it lasts {self.duration:.3f} s')

    @property
    def time_base(self) -> Fraction:
        """Seconds of one unit of the time stamps of ``frames``."""
        return self._stream.time_base

    @property
    def frame_rate(self) -> Fraction:
        """Average number of frames a second."""
        return self._stream.average_rate or self._stream.guessed_rate or Fraction(25)

    def frames(self) -> Iterator[tuple[int, av.VideoFrame]]:
        """All frames as they are coded, in order of display, with time stamps after the start of the stream.

        ``orientation`` is that of the latest frame.

        Raises:
            BrokenVideoError: a frame is damaged, or takes longer than ``TIME_LIMIT``.
        """
        with self._reporting():
            for stamp, frame in self._decode_all():
                yield stamp - self._origin, frame
                self._deadline = time.thread_time() + TIME_LIMIT

    def check(self) -> None:
        """Decode all frames.

        Raises:
            BrokenVideoError: a clip could not be read: something is damaged, or the size changes.
        """
        sizes = set()
        for stamp, frame in self.frames():
            size = frame.height, frame.width
            sizes.add(size if self.orientation < 5 else size[::-1])
            if len(sizes) > 1:
                raise BrokenVideoError(self.path, f'its size changes at {float(stamp * self.time_base):.3f} s')
        if not sizes:
            raise BrokenVideoError(self.path, 'no frames')

    def close(self) -> None:
        """Close the file."""
        self._container.close()
        self._file.close()

    def __enter__(self) -> VideoReader:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _read(self, start: float, stop: float, pick: Picker) -> NDArray[np.uint8]:
        raise NotImplementedError

    def _open(self) -> None:
        size, missing = self._file.seek(0, os.SEEK_END), count_missing_bytes(self._file)
        if size == 0:
            raise BrokenVideoError(self.path, 'the file is empty')
        if missing > 0:
            raise BrokenVideoError(self.path, f'truncated, {missing} bytes are missing at its end')
        self._file.seek(0)
        container: Any = av.open(self._file, timeout=TIME_LIMIT, **LENIENT)
        stream = container.streams.best('video')
        # For FFmpeg album covers, text files and streams without a decoder are video too.
        context = None if stream is None else stream.codec_context
        if context is None or stream.disposition & Disposition.attached_pic or context.name == 'ansi':
            raise BrokenVideoError(self.path, 'no video stream')
        if container.format.flags & NO_TIME_STAMPS:  # also an AVI without its header
            raise BrokenVideoError(
                self.path, f'a bare stream without a container ({container.format.name}) has no times'
            )
        self._ends_early = missing < 0
        context.thread_type = 'NONE'
        context.thread_count = 1
        self._container = container
        self._stream = stream
        self._unit = float(stream.time_base)  # seconds
        # AVI has no display times. With B-frames those of FFmpeg are wrong by a few frames.
        self._is_unordered = container.format.name == 'avi' and context.has_b_frames
        self._counter = counter_of(context.name, context.extradata or b'')

    def _find_end(self) -> int:
        """Time stamp of the end of the last frame. Containers have none, that of the sound, or a wrong one."""
        stream = self._stream
        promised = stream.duration or (self._container.duration or 0) / av.time_base / self._unit
        frame_duration = int(1 / float(stream.average_rate or 25) / self._unit)
        packets = [packet for packet in self._seek(self._origin + int(promised) - 1) if not packet.is_discard]
        ends = [packet.pts + (packet.duration or frame_duration) for packet in packets if packet.pts is not None]
        if not ends:
            raise BrokenVideoError(self.path, 'no frame with a time stamp. Try: ffmpeg -i OLD -c copy NEW.mp4')
        return max(ends)

    def _seek(self, begin: int, end: float = math.inf) -> list[Packet]:
        """Packets from a keyframe shown at or before ``begin``, until all frames shown before ``end`` are there."""
        # After a seek FFmpeg numbers the frames of an MPEG program stream wrongly.
        target = begin if self._container.format.name != 'mpeg' else self._origin - 1
        step = int(1 / self._unit)
        while target >= self._origin:
            self._container.seek(target, stream=self._stream)
            packets = list(_from_keyframe(self._demux(end)))
            if packets and packets[0].pts <= begin:
                return packets
            target, step = target - step, 2 * step  # some containers give a later one, or nothing
        return self._rewind(end)

    def _rewind(self, end: float = math.inf) -> list[Packet]:
        """Like ``_seek``, but from the first keyframe of the file. Not every container can seek there."""
        self._reopen()
        return list(_from_keyframe(self._demux(end)))

    def _reopen(self) -> None:
        self._container.close()
        self._open()

    def _demux(self, end: float = math.inf) -> Iterator[Packet]:
        num_notes = len(self._notes)
        for packet in self._container.demux(self._stream):
            # FFmpeg skips parts of a container that it cannot read, and only logs it.
            skipped = [text.strip() for _, name, text in self._notes[num_notes:] if name == self._container.format.name]
            if self._ends_early:
                skipped = [text for text in skipped if not text.startswith('File ended prematurely')]
            if skipped or packet.is_corrupt:
                raise BrokenVideoError(self.path, f'damaged, {skipped[0] if skipped else "incomplete packet"}')
            self._check_time()
            if packet.size == 0:  # a frame that the camera dropped (AVI), or the end
                continue
            if packet.pts is None:
                packet.pts = packet.dts
            yield packet
            if packet.dts is not None and packet.dts >= end:  # no frame is shown before its dts, and dts ascend
                return

    def _stamps(self, start: float, stop: float) -> tuple[int, int, int]:
        """Time stamps of the begin and end of [start, stop) seconds, and one by which all its frames are decoded."""
        end = self._origin + math.ceil(stop / self._unit)
        late = end + math.ceil(MAX_DELAY / self.frame_rate / self._stream.time_base)
        return self._origin + math.floor(start / self._unit), end, late

    def _group(self, packets: list[Packet], begin: int) -> list[Picture]:
        """The pictures of these packets, from a keyframe at or before ``begin`` on.

        Raises:
            BrokenVideoError: only decoding shows which they are.
        """
        try:
            pictures = group(packets, self._counter)
        except ValueError as error:
            raise BrokenVideoError(self.path, f'unusual {self._stream.codec_context.name}: {error}') from error
        if pictures and begin < pictures[0].stamp and any(p.stamp < pictures[0].stamp for p in pictures):
            raise BrokenVideoError(self.path, 'unusual, frames may be shown before the first keyframe')
        return pictures

    def _decode_all(self) -> Iterator[tuple[int, av.VideoFrame]]:
        """Frames from the first keyframe on, with ascending time stamps.

        These are the frames that the file shows, in order even if it has no display times.
        """
        self._reopen()
        context = self._stream.codec_context
        delay = MAX_DELAY if context.has_b_frames else 0
        packets = _from_keyframe(self._demux())
        held: deque[av.VideoFrame] = deque()
        stamps: list[int] = []  # a heap
        first = last = None
        self.orientation = UPRIGHT
        for packet in itertools.chain(packets, [None]):
            self._check_time()
            first = packet.pts if first is None else first
            for frame in context.decode(packet):
                # A frame shown before the first keyframe may lack its references, and in Matroska its time stamp.
                if (frame.pts is None and not stamps) or (frame.is_corrupt and frame.pts < first):
                    continue
                if frame.pts is None:
                    raise BrokenVideoError(
                        self.path, 'a frame without a time stamp. Try: ffmpeg -i OLD -c copy NEW.mp4'
                    )
                if frame.is_corrupt:
                    raise BrokenVideoError(self.path, f'damaged, no clean frame for {self._at(frame.pts)}')
                heapq.heappush(stamps, frame.pts)
                held.append(frame)
            while len(held) > (delay if packet else 0):
                if last is not None and stamps[0] < last:
                    raise BrokenVideoError(
                        self.path, f'its time goes back at {self._at(last)}. Try: ffmpeg -i OLD NEW.mp4'
                    )
                last, frame = heapq.heappop(stamps), held.popleft()
                self.orientation = orientation_of(frame, self.orientation)
                yield last, frame

    def _stamps_of_all(self, end: int) -> list[int]:
        """Time stamps of all frames before ``end``, and of the first."""
        frames = self._decode_all()
        stamps = [stamp for stamp, _ in itertools.islice(frames, 1)]
        if not stamps:
            raise BrokenVideoError(self.path, 'no frames')
        return stamps + [stamp for stamp, _ in itertools.takewhile(lambda pair: pair[0] < end, frames)]

    def _times(self, stamps: list[int]) -> NDArray[np.float64]:
        """Seconds after the start of the stream, correctly rounded, which matters at the ends of a clip."""
        unit = self._stream.time_base
        return (np.array(stamps) - self._origin) * unit.numerator / unit.denominator

    def _at(self, stamp: int) -> str:
        return f'{(stamp - self._origin) * self._unit:.3f} s'

    def _check_time(self) -> None:
        if time.thread_time() > self._deadline:
            raise BrokenVideoError(self.path, f'not read within {TIME_LIMIT:g} s')

    @contextmanager
    def _reporting(self) -> Iterator[None]:
        """Turn errors of the storage and of FFmpeg into BrokenVideoError, and start the clock."""
        self._deadline = time.thread_time() + TIME_LIMIT
        logging = av.logging
        level, skips_repeated = logging.get_level(), logging.get_skip_repeated()
        logging.set_level(logging.ERROR)  # by default PyAV switches off FFmpeg's log
        logging.set_skip_repeated(False)
        try:
            with logging.Capture() as self._notes:
                yield
            if (met := getattr(self._file, 'error', None)) is not None:  # FFmpeg took it for the end of the file
                raise met
        except Exception as error:
            error = getattr(self._file, 'error', None) or error
            if not isinstance(error, OSError | av.FFmpegError):
                raise error
            notes = [text.strip() for _, _, text in self._notes]
            raise BrokenVideoError(self.path, _reason_of(error) + (f' ({notes[-1]})' if notes else '')) from error
        finally:
            logging.set_level(level)
            logging.set_skip_repeated(skips_repeated)


class Clip:
    """A clip that is filled frame by frame. A frame may occur several times.

    Args:
        path: of the video.
        picked: numbers of the frames, in order of the clip.
    """

    def __init__(self, path: str, picked: NDArray[np.int64]) -> None:
        self._path = path
        self._num_frames = len(picked)
        self._places: dict[int, list[int]] = {}
        for place, number in enumerate(picked.tolist()):
            self._places.setdefault(number, []).append(place)
        self.missing = set(self._places)
        self.frames = np.empty(0, np.uint8)

    def add(self, number: int, picture: NDArray[np.uint8], at: str) -> None:
        """Put a frame, shown at time ``at``, at all its places."""
        if not self.frames.size:
            self.frames = np.empty((self._num_frames, *picture.shape), np.uint8)
        if picture.shape != self.frames.shape[1:]:
            raise BrokenVideoError(self._path, f'its size changes at {at}')
        for place in self._places[number]:
            self.frames[place] = picture
        self.missing.remove(number)


class PyAVReader(VideoReader):
    """Decodes in this process, in one thread."""

    def _read(self, start: float, stop: float, pick: Picker) -> NDArray[np.uint8]:
        begin, end, late = self._stamps(start, stop)
        attempts: list[Callable[[], NDArray[np.uint8]]] = [
            *([lambda: self._decode_alone(begin, end, pick)] if self._is_indexed else []),
            lambda: self._decode(self._seek(begin, end), begin, pick, skip=True),
            lambda: self._decode(self._seek(begin, late), begin, pick, skip=False),
            # A keyframe may need earlier frames (gradual refresh).
            lambda: self._decode(self._rewind(late), begin, pick, skip=False),
        ]
        for attempt in attempts[1:] if self._is_unordered else attempts:
            with suppress(BrokenVideoError, av.FFmpegError):
                return attempt()
        # Packets and frames disagree, or something is damaged: decoding from the first frame decides.
        stamps = self._stamps_of_all(end)
        clip = Clip(self.path, pick(self._times(stamps)))
        for place, (stamp, frame) in enumerate(self._decode_all()):
            if place in clip.missing:
                clip.add(place, self._picture(frame), self._at(stamp))
            if not clip.missing:
                break
        return clip.frames

    @cached_property
    def _is_indexed(self) -> bool:
        """Whether the container's index has the place and the time of each frame, and all can be decoded alone."""
        stream = self._stream
        if stream.codec_context.name != 'mjpeg' or not self._container.format.name.startswith('mov,'):
            return False
        return len(stream.index_entries) == stream.frames and not has_time_offsets(self._file)

    def _decode_alone(self, begin: int, end: int, pick: Picker) -> NDArray[np.uint8]:
        """Decode the picked frames of an indexed file. No others are read.

        Raises:
            BrokenVideoError: something is damaged, or the index is not in order.
        """
        index, context = self._stream.index_entries, self._stream.codec_context
        stop = index.search_timestamp(end, backward=False)
        entries = index[max(index.search_timestamp(begin), 0) : stop if stop >= 0 else None]
        stamps = [entry.timestamp for entry in entries]
        if not stamps or stamps != sorted(set(stamps)) or any(entry.is_discard for entry in entries):
            raise BrokenVideoError(self.path, f'no frames at {self._at(begin)}, or their order is not certain')
        clip = Clip(self.path, pick(self._times(stamps)))
        for place in sorted(clip.missing):
            self._check_time()
            self._file.seek(entries[place].pos)
            packet = av.Packet(self._file.read(entries[place].size))
            packet.pts = stamps[place]
            for frame in context.decode(packet):
                if frame.is_corrupt:
                    raise BrokenVideoError(self.path, f'damaged, no clean frame for {self._at(stamps[place])}')
                self.orientation = orientation_of(frame)
                clip.add(place, self._picture(frame), self._at(stamps[place]))
        if clip.missing:
            raise BrokenVideoError(self.path, f'damaged, no frame for {self._at(stamps[min(clip.missing)])}')
        return clip.frames

    def _decode(self, packets: list[Packet], begin: int, pick: Picker, skip: bool) -> NDArray[np.uint8]:
        """Decode the picked frames of these packets, which begin with a keyframe.

        skip: skip frames that are not picked if no other refers to them, or if a keyframe follows before the next
            picked frame. Their orientation is lost.

        Raises:
            BrokenVideoError: something is damaged, or the decoded frames are not those of the packets.
        """
        pictures = self._group(packets, begin)
        stamps = _shown(pictures)
        context, coded = self._stream.codec_context, [picture.stamp for picture in pictures]
        # Time stamps may not be those of display if they are in decoding order despite B-frames, or in MPEG-4, whose
        # packets may hold two frames. Only decoding without a gap shows it.
        is_doubtful = context.has_b_frames and (self._is_unordered or coded == sorted(coded) or context.name == 'mpeg4')
        if not stamps or (skip and (is_doubtful or len(set(stamps)) < len(stamps))):
            raise BrokenVideoError(self.path, f'no frames at {self._at(begin)}, or their order is not certain')
        picked = pick(self._times(stamps))
        wanted, clip = {stamps[place] for place in picked}, Clip(self.path, picked)
        # HEVC's mark of unreferenced frames only counts within a layer.
        skips_frames = skip and context.name == 'h264'
        for run in _runs(pictures, wanted) if skip else [pictures]:
            due = _shown(run)
            came: list[int] = []  # time stamps, only roughly in order if the file has no display times
            for frame in self._decode_run(run, wanted if skips_frames else None):
                if frame.pts < due[0]:  # shown before the keyframe, see _shown
                    continue
                came.append(frame.pts)
                if len(came) > len(due):
                    break
                stamp = frame.pts if skips_frames else due[len(came) - 1]
                place = bisect_left(stamps, stamp) if skip else len(came) - 1
                if place in clip.missing:
                    clip.add(place, self._picture(frame), self._at(stamp))
                if not clip.missing and len(came) > int(is_doubtful) and _agree(due, came, skips_frames):
                    return clip.frames
            # In doubt the second frame shows whether leading frames are missing, for the first has their place.
            num_needed = len(due) if skip else max(picked) + 1 + int(is_doubtful)
            if not (_agree(due, came, True) if skips_frames else sorted(came)[:num_needed] == due[:num_needed]):
                raise BrokenVideoError(self.path, f'damaged, not every frame came from {self._at(due[0])} on')
        if clip.missing:
            raise BrokenVideoError(self.path, f'damaged, no frame for {self._at(stamps[min(clip.missing)])}')
        return clip.frames

    def _decode_run(self, run: list[Picture], wanted: set[int] | None) -> Iterator[Frame]:
        """Decode pictures from a keyframe on. With ``wanted``, skip other frames that no frame refers to."""
        context = self._stream.codec_context
        self.orientation = UPRIGHT
        for picture in [*run, END]:
            self._check_time()
            context.skip_frame = 'DEFAULT' if wanted is None or picture.stamp in wanted else 'NONREF'
            for packet in picture.packets:
                for frame in context.decode(packet):
                    if frame.pts is None:
                        raise BrokenVideoError(self.path, 'a frame without a time stamp')
                    if frame.is_corrupt:
                        raise BrokenVideoError(self.path, f'damaged, no clean frame for {self._at(frame.pts)}')
                    self.orientation = orientation_of(frame, self.orientation)
                    yield frame
        context.flush_buffers()

    def _picture(self, frame: av.VideoFrame) -> NDArray[np.uint8]:
        """The latest frame as upright RGB (H, W, 3)."""
        return orient(_to_rgb().reformat(frame, format='rgb24', threads=1).to_ndarray(), self.orientation)


def _to_rgb() -> VideoReformatter:
    """One for all frames of a thread: a new one costs more than the conversion of small frames."""
    if not hasattr(_THREAD, 'to_rgb'):
        _THREAD.to_rgb = VideoReformatter()
    return _THREAD.to_rgb


def orientation_of(frame: av.VideoFrame, before: int = UPRIGHT) -> int:
    """EXIF's number of a frame's display matrix, from the container or the frame itself (H.264, HEVC).

    The matrix of a frame holds until another matrix or a keyframe (H.264, D.2.17). ``before`` is the number of the
    frame before.
    """
    # frame.side_data and the frame would refer to each other, and their memory would stay
    side_data = SideDataContainer(frame)  # type: ignore[call-arg]  # which its stub lacks
    # most frames have none, which is known in a tenth of the time
    matrix: Any = side_data.get(SideDataType.DISPLAYMATRIX) if side_data else None
    if matrix is not None:
        return _orientation_of_bytes(bytes(matrix))
    return UPRIGHT if frame.key_frame else before


@lru_cache  # called for every frame of a turned video
def _orientation_of_bytes(matrix: bytes) -> int:
    return orientation_of_matrix(struct.unpack('9i', matrix))


def _reason_of(error: OSError | av.FFmpegError) -> str:
    """The reason of an error. FFmpeg also uses the system's error numbers for its own errors, and -1 for any."""
    if isinstance(error, av.error.ExitError):
        return f'not read within {TIME_LIMIT:g} s'
    if isinstance(error, av.FFmpegError) and error.errno in FFMPEGS_OWN:
        return f'damaged or not supported, FFmpeg stops with {errno.errorcode[error.errno]}'
    return str(error.strerror or error)


def _is_begin(packet: Packet) -> bool:
    """Whether decoding may begin here; the second of two fields has no time stamp."""
    return packet.is_keyframe and packet.pts is not None


def _from_keyframe(packets: Iterator[Packet]) -> Iterator[Packet]:
    """Skip packets before the first keyframe."""
    return itertools.dropwhile(lambda packet: not _is_begin(packet), packets)


def _shown(pictures: list[Picture]) -> list[int]:
    """Sorted time stamps of the shown frames of these pictures, which begin with a keyframe."""
    # Frames after the keyframe that are shown before it lack their references. An edit list cuts others.
    return sorted(p.stamp for p in pictures if p.is_shown and p.stamp >= pictures[0].stamp)


def begin_together(stamps: list[int]) -> bool:
    """Whether several frames begin with the first. In a cut file they may be frames without references."""
    return stamps[:1] == stamps[1:2]


def _agree(due: list[int], came: list[int], may_skip: bool) -> bool:
    """Whether the frames that came are the first of those due, or with ``may_skip`` the first and any others."""
    if may_skip:
        return came[:1] == due[:1] and came == sorted(came) and set(came) <= set(due)
    return sorted(came) == due[: len(came)]


def _runs(pictures: list[Picture], wanted: set[int]) -> list[list[Picture]]:
    """The pictures that are needed for the frames ``wanted``: runs, each from a keyframe to a wanted frame."""
    runs: list[tuple[int, int]] = []
    keyframes: list[int] = []
    for number, picture in enumerate(pictures):
        if picture.is_keyframe:
            keyframes.append(number)
        if picture.stamp not in wanted:
            continue
        # A frame that is shown before its preceding keyframe refers to frames before that.
        first = next(i for i in reversed(keyframes) if pictures[i].stamp <= picture.stamp)
        while runs and first <= runs[-1][1] + 1:  # the last run may begin later: a wanted frame may be between the two
            first = min(first, runs.pop()[0])
        runs.append((first, number))
    return [pictures[first : last + 1] for first, last in runs]
