"""What a file shows: frames of videos, images, maps; everything that knows a decoder is here.

`open_video` gives an open video by either reader, `read_image` a picture; `frames` says which frames make a clip.

Levels become RGB by the matrix and the range that the file states (BT.601 and limited range where it states none). As
in the published data loaders, nothing else is done to them: profiles (ICC), gamma, the transfer of HDR, alpha of videos
and the shape of pixels that are not square are not applied.
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
        path: a local file, read in place, or an address in another storage of ``mmengine.fileio``, fetched whole.
        reader: 'pyav' or 'decord'.
        backend_args: for ``mmengine.fileio.get_file_backend``.

    Raises:
        BrokenVideoError: the file is missing, damaged, or no video.
        ValueError: there is no such reader, or it is not installed.
    """
    return reader_class(reader)(path, backend_args)


def reader_class(reader: str) -> type[VideoReader]:
    """The class that `READERS` has for a name. A ValueError says if there is none, or if it is not installed."""
    if reader not in READERS:
        raise ValueError(f'reader is {reader!r}. Choose one of {sorted(READERS)}.')
    if reader == 'decord' and importlib.util.find_spec('decord') is None:
        raise ValueError("reader is 'decord', which is not installed. Use 'pyav', or: pip install decord")
    return READERS[reader]
