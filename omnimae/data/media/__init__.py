"""Decoding files: frames of videos, images and maps. All decoders are here.

`open_video` opens a video with either reader, `read_image` reads a picture. `frames` selects the frames of a clip.

Pixels become RGB by the matrix and the range that the file states (by default BT.601 and limited range). As in the
published data loaders, nothing else is applied: no profile (ICC), gamma or HDR transfer, no alpha of videos, and no
aspect ratio of pixels that are not square.
"""

from __future__ import annotations

import importlib.util
from typing import Any

from omnimae.data.media.decord import DecordReader
from omnimae.data.media.video import PyAVReader, VideoReader

READERS: dict[str, type[VideoReader]] = {'pyav': PyAVReader, 'decord': DecordReader}


def open_video(path: str, reader: str = 'pyav', backend_args: dict[str, Any] | None = None) -> VideoReader:
    """Open a video: a context manager with ``.duration`` in seconds and ``.read(start, seconds, num_frames)``.

    Args:
        path: a local file, read in place, or an address in another storage of ``mmengine.fileio``, read whole.
        reader: 'pyav' or 'decord'.
        backend_args: for ``mmengine.fileio.get_file_backend``.

    Raises:
        BrokenVideoError: the file is missing, damaged or not a video.
        ValueError: the reader is unknown or not installed.
    """
    return reader_class(reader)(path, backend_args)


def reader_class(reader: str) -> type[VideoReader]:
    """The class of a name in `READERS`. A ValueError says that it is unknown or not installed."""
    if reader not in READERS:
        raise ValueError(f'reader is {reader!r}. Choose one of {sorted(READERS)}.')
    if reader == 'decord' and importlib.util.find_spec('decord') is None:
        raise ValueError("reader is 'decord', which is not installed. Use 'pyav', or: pip install decord")
    return READERS[reader]
