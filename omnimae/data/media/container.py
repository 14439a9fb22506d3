"""Whether a video file is complete, by its container only."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, NamedTuple

import numpy as np


def count_missing_bytes(file: BinaryIO) -> int:
    """The number of bytes that are missing at the end of a file by its container; 0 if none are, or it does not say.

    FFmpeg reads truncated Matroska, WebM and AVI files to their end without a warning. If a length exceeds the file but
    everything in the container's index is inside, the length is wrong and the file is complete. Then the number is
    negative.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    head = file.read(64)
    if head[:4] == b'RIFF':  # AVI
        length = int.from_bytes(head[4:8], 'little')
        missing = max(8 + length - size, 0) if length < 0xFFFFFFFF else 0
        return -missing if missing and _holds(_has_avi_index, file, size) else missing
    if head[:4] == b'\x1aE\xdf\xa3':  # Matroska and WebM: an EBML header, then one segment
        length, begin = _read_vint(head, 4)
        begin += length
        length, end = _read_vint(head, begin + 4)
        missing = max(end + length - size, 0) if head[begin : begin + 4] == b'\x18\x53\x80\x67' else 0
        return -missing if missing and _holds(_ends_with_cues, file, end, size) else missing
    if head[4:8] in (b'ftyp', b'moov', b'mdat', b'wide', b'free', b'skip'):  # MP4 and QuickTime
        return _count_missing_box_bytes(file, size)
    return 0


def _holds(judge: Callable[..., bool], *args: Any) -> bool:
    """The answer of an index; False if the index is damaged."""
    try:
        return judge(*args)
    except (IndexError, KeyError, ValueError):
        return False


# ---- Matroska ----


def _read_vint(data: bytes, begin: int) -> tuple[int, int]:
    """Read an EBML number of variable length: the number, 0 for 'unknown', and its end."""
    num_bytes = 9 - (data[begin : begin + 1] or b'\x01')[0].bit_length()
    value = int.from_bytes(data[begin : begin + num_bytes], 'big') & (1 << 7 * num_bytes) - 1
    return (0 if value == (1 << 7 * num_bytes) - 1 else value), begin + num_bytes


def _ends_with_cues(file: BinaryIO, begin: int, size: int) -> bool:
    """Whether the elements of a segment are in the file, with the index, which is written last, after all clusters."""
    kinds = []
    while begin < size:
        file.seek(begin)
        head = file.read(16)
        width = 9 - head[0].bit_length()
        length, content = _read_vint(head, width)
        kinds.append(head[:width])
        begin += content + length
        if not length or begin > size:
            return False
    cues, cluster = b'\x1c\x53\xbb\x6b', b'\x1f\x43\xb6\x75'
    return cues in kinds and cluster not in kinds[kinds.index(cues) :]


# ---- AVI ----


def _has_avi_index(file: BinaryIO, size: int) -> bool:
    """Whether the old index, which is written last, and all its chunks are in the file."""
    begin, movi = 12, 0
    while begin + 8 <= size:
        file.seek(begin)
        head = file.read(12)
        length = int.from_bytes(head[4:8], 'little')
        if head[:4] not in (b'LIST', b'JUNK', b'idx1'):
            return False
        if head[:4] == b'LIST' and head[8:12] == b'movi':
            movi = begin + 8
        if head[:4] == b'idx1':
            entries = np.frombuffer(_read(file, begin + 8, length), '<u4')
            if begin + 8 + length > size or not movi:
                return False
            places, sizes = entries[2::4].astype(np.int64), entries[3::4].astype(np.int64)
            places = places if places[0] >= movi else places + movi  # relative to the file or to the list
            return bool(max(places + 8 + sizes) <= begin)
        begin += 8 + length + length % 2
    return False


# ---- MP4 ----


class Box(NamedTuple):
    """A box of MP4: its name, and the begin and end of its content."""

    kind: bytes
    begin: int
    end: int


def _boxes(file: BinaryIO, begin: int, end: int) -> Iterator[Box]:
    while begin + 8 <= end:
        head = _read(file, begin, 16)
        length, content = int.from_bytes(head[:4], 'big'), begin + 8
        if length == 1:
            length, content = int.from_bytes(head[8:16], 'big'), begin + 16
        if length < 8:  # 0: to the end of the file
            return
        yield Box(head[4:8], content, begin + length)
        begin += length


def _count_missing_box_bytes(file: BinaryIO, size: int) -> int:
    last: dict[bytes, Box] = {}
    for box in _boxes(file, 0, size):
        if box.end > size and box.kind in (b'moov', b'mdat', b'moof'):
            inside = box.kind == b'mdat' and b'moov' in last and _holds(_has_all_samples, file, last, size)
            return size - box.end if inside else box.end - size
        last[box.kind] = box
    return 0


def has_time_offsets(file: BinaryIO) -> bool:
    """Whether an MP4 may show a frame at another time than that of decoding, or has fragments."""
    size = file.seek(0, os.SEEK_END)
    [moov] = [box for box in _boxes(file, 0, size) if box.kind == b'moov']
    header = _read(file, moov.begin, moov.end - moov.begin)
    return b'ctts' in header or b'mvex' in header


def _has_all_samples(file: BinaryIO, boxes: dict[bytes, Box], size: int) -> bool:
    """Whether all samples of the tables and of the last fragment are in the file."""
    ends = [_end_of_fragment(file, boxes[b'moof'], boxes[b'moov'])] if b'moof' in boxes else []
    for track in _find(file, boxes[b'moov'], b'trak'):
        [table] = _find(file, track, b'mdia', b'minf', b'stbl')
        ends.append(_end_of_track(file, table))
    return max(ends) <= size


def _find(file: BinaryIO, parent: Box, *kinds: bytes) -> list[Box]:
    """Boxes of the last kind, within those of the one before it, and so on."""
    parents = [parent]
    for kind in kinds:
        parents = [box for outer in parents for box in _boxes(file, outer.begin, outer.end) if box.kind == kind]
    return parents


def _end_of_track(file: BinaryIO, table: Box) -> int:
    """ISO 14496-12, 8.7: sizes of samples, samples of each run of chunks, offsets of chunks."""
    boxes = {box.kind: box for box in _boxes(file, table.begin, table.end)}
    places = boxes.get(b'stco') or boxes[b'co64']
    offsets = _numbers(file, places, 8, '>u4' if places.kind == b'stco' else '>u8')
    if not len(offsets):
        return 0
    constant, count = _numbers(file, boxes[b'stsz'], 4)[:2]
    sizes = np.full(count, constant) if constant else _numbers(file, boxes[b'stsz'], 12)[:count]
    firsts, counts, _ = _numbers(file, boxes[b'stsc'], 8).reshape(-1, 3).T
    counts = np.repeat(counts, np.diff([*firsts, len(offsets) + 1]))
    bounds = np.concatenate([[0], np.cumsum(sizes)])[np.concatenate([[0], np.cumsum(counts)])]
    return int(max(offsets + np.diff(bounds)))


def _end_of_fragment(file: BinaryIO, moof: Box, moov: Box) -> int:
    """ISO 14496-12, 8.8: runs of samples of each track, their sizes with defaults."""
    defaults = {}
    for box in _find(file, moov, b'mvex', b'trex'):
        track, _, _, default = _numbers(file, box, 4)[:4]
        defaults[track] = default
    ends, begin = [0], moof.begin - 8
    for traf in _find(file, moof, b'traf'):
        [head] = _find(file, traf, b'tfhd')
        flags = _numbers(file, head, 0)[0] & 0xFFFFFF
        words = list(_numbers(file, head, 4))
        default = defaults.get(words.pop(0), 0)
        base = (int(words.pop(0)) << 32) + int(words.pop(0)) if flags & 1 else begin
        for bit in (2, 8):
            if flags & bit:
                words.pop(0)
        default = words.pop(0) if flags & 16 else default
        end = base
        for run in _find(file, traf, b'trun'):
            flags = _numbers(file, run, 0)[0] & 0xFFFFFF
            words = list(_numbers(file, run, 4))
            count = words.pop(0)
            end = base + words.pop(0) if flags & 1 else end
            if flags & 4:
                words.pop(0)
            width = sum(bool(flags & bit) for bit in (0x100, 0x200, 0x400, 0x800))
            sizes = words[bool(flags & 0x100) :: width][:count] if flags & 0x200 else [default] * count
            end += sum(sizes)
        ends.append(int(end))
    return max(ends)


def _numbers(file: BinaryIO, box: Box, skip: int, kind: str = '>u4') -> np.ndarray:
    """Integers of a box after its first ``skip`` bytes."""
    data = _read(file, box.begin + skip, box.end - box.begin - skip)
    return np.frombuffer(data[: len(data) // np.dtype(kind).itemsize * np.dtype(kind).itemsize], kind).astype(np.int64)


def _read(file: BinaryIO, begin: int, length: int) -> bytes:
    file.seek(begin)
    return file.read(length)
