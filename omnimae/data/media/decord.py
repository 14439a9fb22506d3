"""Decoding with decord in a helper process, because it can hang forever while it holds the GIL."""

from __future__ import annotations

import inspect
import itertools
import os
import pickle
import signal
import subprocess
import sys
import threading
from typing import Any

import av
import numpy as np
from av.bitstream import BitStreamFilterContext
from numpy.typing import NDArray

from omnimae.data import storage
from omnimae.data.media import video
from omnimae.data.media.errors import BrokenVideoError
from omnimae.data.media.frames import within
from omnimae.data.media.orientation import UPRIGHT
from omnimae.data.media.video import Picker, VideoReader, begin_together, orientation_of

CHUNK = 2**20  # bytes
DECORD_FORMATS = ('mov,mp4,m4a,3gp,3g2,mj2', 'matroska,webm', 'avi')
DECORD_PROCESSES: dict[int, DecordProcess] = {}  # by the id of the process that started it; a fork needs its own


class DecordReader(VideoReader):
    """Decodes with decord in a helper process, from the first frame of the file. Use pyav for long videos."""

    def __init__(self, path: str, backend_args: dict[str, Any] | None = None) -> None:
        super().__init__(path, backend_args)
        if self._container.format.name not in DECORD_FORMATS:
            raise BrokenVideoError(self.path, "decord would give other frames of it. Use reader='pyav'.")
        with self._reporting():
            self._reopen()
            packets = list(self._demux())
        try:
            pictures = self._group(packets, self._origin - 1)
        except BrokenVideoError as error:
            raise BrokenVideoError(self.path, f"{error.reason}. Use reader='pyav'.") from error
        has_all_stamps = sum(len(picture.packets) for picture in pictures) == len(packets)
        stamps = sorted(p.stamp for p in pictures if p.is_shown)  # an edit list may cut some
        if not pictures or not pictures[0].is_keyframe or not has_all_stamps or begin_together(stamps):
            raise BrokenVideoError(self.path, "decord would give other frames of it. Use reader='pyav'.")
        with self._reporting():
            if not self._turns_alike():
                raise BrokenVideoError(self.path, "decord would not turn or mirror it. Use reader='pyav'.")
        self._num_packets = len(packets)
        self._frame_times = self._times(stamps)

    def _turns_alike(self) -> bool:
        """Whether decord gives upright frames: it only knows the rotations of MP4."""
        frame = self._first_frame()
        orientation = orientation_of(frame)
        if orientation == UPRIGHT:
            return True
        if self._container.format.name != DECORD_FORMATS[0] or orientation not in (3, 6, 8) or frame.rotation % 90:
            return False
        messages = dict(h264='6', hevc='39-40').get(self._stream.codec_context.name)  # they may turn frames too
        return messages is None or orientation_of(self._first_frame(without=messages)) == orientation

    def _first_frame(self, without: str | None = None) -> av.VideoFrame:
        """The first frame, decoded without NAL units of these types."""
        self._reopen()
        packets = self._demux()
        if without is not None:
            cut = BitStreamFilterContext(f'filter_units=remove_types={without}', self._stream)
            packets = itertools.chain.from_iterable(map(cut.filter, packets))
        decode = self._stream.codec_context.decode
        return next(frame for packet in itertools.chain(packets, [None]) for frame in decode(packet))

    def frame_times(self, start: float, stop: float) -> NDArray[np.float64]:
        """See `VideoReader.frame_times`."""
        return within(self._frame_times, start, stop)

    def _read(self, start: float, stop: float, pick: Picker) -> NDArray[np.uint8]:
        indices, places = np.unique(pick(self._frame_times), return_inverse=True)
        source = self._source
        if isinstance(source, storage.Span):
            self._file.seek(0)
            source = self._file.read()
        try:
            frames = _decord_process().read(self.path, source, indices, self._num_packets)
        except BrokenVideoError:
            # It reads local files itself, so their storage may be away. Reading the file here waits for it.
            for begin in range(0, self._file.seek(0, os.SEEK_END), CHUNK):
                self._file.seek(begin)
                self._file.read(CHUNK)
            frames = _decord_process().read(self.path, source, indices, self._num_packets)
        return frames[places]


class DecordProcess:
    """Decodes for this process. It ends with this process, or by the kernel's timer when decord hangs."""

    def __init__(self) -> None:
        # It gets only its source, without torch and this package, so it takes 0.1 s and 50 MB. It is a subprocess
        # because a DataLoader's workers are daemons, which may have no multiprocessing children.
        program = f'{inspect.getsource(_serve_decord)}\n_serve_decord()'
        command = [sys.executable, '-c', program]
        # It has its own session, or Ctrl-C would end it before this process has saved.
        pipe = subprocess.PIPE
        self._process: Any = subprocess.Popen(command, stdin=pipe, stdout=pipe, start_new_session=True)
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
                pickle.dump((source, indices.tolist(), num_frames, video.TIME_LIMIT), self._process.stdin)
                self._process.stdin.flush()
                answer = pickle.load(self._process.stdout)
        except (EOFError, BrokenPipeError, pickle.UnpicklingError) as error:
            status = self._process.wait()
            hung = status == -signal.SIGALRM
            reason = f'decord {f"took longer than {video.TIME_LIMIT:g} s" if hung else f"died with status {status}"}'
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
    """The program of the helper: answer (source, frame numbers, count, time limit) with frames or a reason."""
    import io
    import os
    import pickle
    import re
    import signal
    import sys
    import tempfile

    import decord
    import numpy

    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # ends the process, even if decord holds the GIL
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
            # Read every frame, because seeking and skipping fail with open GOPs, gradual refresh, B-frames in AVI.
            frames = []
            while position <= indices[-1]:
                frame = video.next()
                if position in indices:
                    frames.append(frame.asnumpy())
                position += 1
            answer = numpy.stack(frames)
            log.seek(0)
            if b'concealing' in log.read():  # decord's only trace of a frame that FFmpeg concealed
                raise ValueError('damaged, a frame does not decode')
        except Exception as error:
            opened = None
            text = re.sub(
                r'^\[[\d:]+\] \S+: ', '', (str(error) or repr(error)).splitlines()[0]
            )  # without the time and the line number
            answer = f"decord: {text}. Try reader='pyav'."
        signal.setitimer(signal.ITIMER_REAL, 0)
        pickle.dump(answer, answers, protocol=5)
        answers.flush()
