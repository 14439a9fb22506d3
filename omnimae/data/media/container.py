"""Whether the file of a video is whole, from its container alone."""

from __future__ import annotations

import os
from typing import BinaryIO


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
