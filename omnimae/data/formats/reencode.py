"""Smaller copies of videos, which decode faster: H.264 in MP4, with the frame times of the original.

With a short side of 256 pixels and a keyframe every 16 frames, a clip costs a fraction of a clip of the original.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.frame import PictureType

from omnimae.data.media import open_video
from omnimae.data.media.errors import BrokenVideoError
from omnimae.data.media.orientation import UPRIGHT, orient
from omnimae.data.media.video import VideoReader

# A keyframe every 16 frames: a clip begins anywhere, and frames between the keyframe and it are decoded for nothing.
# No B-frames: with them MP4 does not say how long a frame is shown. At a variable rate this may be seconds.
OPTIONS = {'preset': 'veryfast', 'crf': '20', 'g': '16', 'bf': '0', 'threads': '1'}


def scaled_size(height: int, width: int, short_side: int) -> tuple[int, int]:
    """(height, width) with a short side of at most ``short_side`` and the same aspect, both even as H.264 needs.

    Small frames are not enlarged.
    """
    scale = min(short_side / min(height, width), 1.0)
    return max(2 * round(height * scale / 2), 2), max(2 * round(width * scale / 2), 2)


def reencode(source: str | Path, target: str | Path, short_side: int) -> None:
    """Write a copy of a video with a short side of at most ``short_side`` pixels, without sound, turned upright.

    Times are those of the original. If a recording begins between keyframes, its first frame is shown from 0 on.

    Raises:
        BrokenVideoError: the source cannot be read to its end. Nothing is written then.
    """
    part = f'{target}.part'
    try:
        _encode(os.fspath(source), part, short_side)
        os.replace(part, target)
    finally:
        Path(part).unlink(missing_ok=True)


def _encode(source: str, target: str, short_side: int) -> None:
    with open_video(source) as video, av.open(target, 'w', format='mp4') as container:
        packets = _packets(container, video, short_side)
        last = next(packets)
        for packet in packets:
            container.mux(last)
            last = packet
        last.duration = max(round(video.duration / video.time_base) - last.pts, 1)  # no next frame tells it
        container.mux(last)


def _packets(container: Any, video: VideoReader, short_side: int) -> Iterator[Any]:
    stream = None
    for stamp, frame in video.frames():
        picture = _shrink(frame, video.orientation, short_side)
        if stream is None:
            stamp = 0  # a copy that begins later would be read from its first frame on, and all spans would shift
            stream = container.add_stream('libx264', rate=video.frame_rate, options=OPTIONS)
            context = stream.codec_context
            context.width, context.height, context.pix_fmt = picture.width, picture.height, 'yuv420p'
            context.time_base = video.time_base
            context.colorspace, context.color_range = picture.colorspace, picture.color_range
        elif (picture.width, picture.height) != (stream.width, stream.height):
            picture = picture.reformat(stream.width, stream.height)
        picture.pts, picture.time_base, picture.pict_type = stamp, video.time_base, PictureType.NONE
        yield from stream.encode(picture)
    if stream is None:
        raise BrokenVideoError(video.path, 'no frames')
    yield from stream.encode(None)


def _shrink(frame: av.VideoFrame, orientation: int, short_side: int) -> av.VideoFrame:
    """The frame in its new size, upright."""
    height, width = scaled_size(frame.height, frame.width, short_side)
    if orientation == UPRIGHT:
        return frame.reformat(width, height, 'yuv420p', interpolation='BICUBIC')
    stored = frame.reformat(width, height, 'rgb24', interpolation='BICUBIC').to_ndarray()
    upright: Any = np.ascontiguousarray(orient(stored, orientation))
    return av.VideoFrame.from_ndarray(upright, 'rgb24').reformat(format='yuv420p')
