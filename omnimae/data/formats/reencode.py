"""Smaller copies of videos, which decode faster, with the frame times of the original.

`COPIES` has the kinds. Copies with a short side of 256 pixels and H.264 cost a part of the original's decoding. Copies
as Motion JPEG take more bytes and cost less: each frame is decoded alone.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
from av.video.frame import PictureType

from omnimae.data.media import open_video
from omnimae.data.media.errors import BrokenVideoError
from omnimae.data.media.orientation import UPRIGHT, orient
from omnimae.data.media.video import VideoReader


class Copies(NamedTuple):
    """A kind of copies: encoder, container, ending of the files, pixel format and options of the encoder."""

    encoder: str
    container: str
    ending: str
    pixels: str
    options: dict[str, str]


COPIES = {
    # A keyframe every 16 frames, since clips begin anywhere and frames from the keyframe to the clip cost, too.
    # No B-frames: with them MP4 does not say how long a frame is shown. At a variable rate this may be seconds.
    'h264': Copies('libx264', 'mp4', '.mp4', 'yuv420p', {'preset': 'veryfast', 'crf': '20', 'g': '16', 'bf': '0'}),
    # The coarsest quantiser with PSNR and SSIM of at least those of the other kind.
    'mjpeg': Copies('mjpeg', 'mov', '.mov', 'yuvj420p', {'qmin': '3', 'qmax': '3'}),
}


def scaled_size(height: int, width: int, short_side: int) -> tuple[int, int]:
    """(height, width) with a short side of at most ``short_side`` and the same aspect, both even as 4:2:0 needs.

    Small frames are not enlarged.
    """
    scale = min(short_side / min(height, width), 1.0)
    return max(2 * round(height * scale / 2), 2), max(2 * round(width * scale / 2), 2)


def reencode(source: str | Path, target: str | Path, short_side: int, codec: str = 'h264') -> None:
    """Write a copy of a video with a short side of at most ``short_side`` pixels, without sound, turned upright.

    Times are those of the original. If a recording begins between keyframes, its first frame is shown from 0 on.
    ``codec`` is a key of `COPIES`.

    Raises:
        BrokenVideoError: the source cannot be read to its end. Nothing is written then.
    """
    part = f'{target}.part'
    try:
        _encode(os.fspath(source), part, short_side, COPIES[codec])
        os.replace(part, target)
    finally:
        Path(part).unlink(missing_ok=True)


def _encode(source: str, target: str, short_side: int, kind: Copies) -> None:
    with open_video(source) as video, av.open(target, 'w', format=kind.container) as container:
        packets = _packets(container, video, short_side, kind)
        last = next(packets)
        for packet in packets:
            container.mux(last)
            last = packet
        last.duration = max(round(video.duration / video.time_base) - last.pts, 1)  # no next frame tells it
        container.mux(last)


def _packets(container: Any, video: VideoReader, short_side: int, kind: Copies) -> Iterator[Any]:
    stream = None
    for stamp, frame in video.frames():
        picture = _shrink(frame, video.orientation, short_side, kind.pixels)
        if stream is None:
            stamp = 0  # a copy that begins later would be read from its first frame on, and all spans would shift
            stream = container.add_stream(kind.encoder, rate=video.frame_rate, options={**kind.options, 'threads': '1'})
            context = stream.codec_context
            context.width, context.height, context.pix_fmt = picture.width, picture.height, kind.pixels
            context.time_base = video.time_base
            context.colorspace, context.color_range = picture.colorspace, picture.color_range
        elif (picture.width, picture.height) != (stream.width, stream.height):
            picture = picture.reformat(stream.width, stream.height)
        picture.pts, picture.time_base, picture.pict_type = stamp, video.time_base, PictureType.NONE
        yield from stream.encode(picture)
    if stream is None:
        raise BrokenVideoError(video.path, 'no frames')
    yield from stream.encode(None)


def _shrink(frame: av.VideoFrame, orientation: int, short_side: int, pixels: str) -> av.VideoFrame:
    """The frame in its new size, upright."""
    height, width = scaled_size(frame.height, frame.width, short_side)
    # a JPEG has one matrix and one range (JFIF), H.264 those of the original
    target: Any = dict(dst_colorspace='ITU601', dst_color_range='JPEG') if pixels == 'yuvj420p' else {}
    if orientation == UPRIGHT:
        return frame.reformat(width, height, pixels, interpolation='BICUBIC', **target)
    stored = frame.reformat(width, height, 'rgb24', interpolation='BICUBIC').to_ndarray()
    upright: Any = np.ascontiguousarray(orient(stored, orientation))
    return av.VideoFrame.from_ndarray(upright, 'rgb24').reformat(format=pixels, **target)
