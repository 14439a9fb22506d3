"""Which packets of a stream show a frame. Most do, and the headers of the others say so.

- VP8, VP9 and AV1 have frames that are never shown (alt-ref). They may have their own packets.
- The two fields of an interlaced H.264 or MPEG-2 frame may come in two packets.
- MPEG-4 packets may say "not coded", or hold two frames. Then the next packet shows the second one (DivX).

`group` joins the packets of one frame. Its rules are those of the specifications and of FFmpeg's decoders. Other
streams raise a ValueError: only decoding shows their frames.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, TypeAlias

Packet: TypeAlias = Any  # av.Packet, whose stubs call every time stamp optional
Data: TypeAlias = bytes | memoryview
Counter: TypeAlias = Callable[[Sequence[Data]], list[int]]  # packets -> how many frames begin to be shown with each


class Picture(NamedTuple):
    """A frame as it is stored."""

    stamp: int  # time stamp of the frame
    is_keyframe: bool  # decoding may begin here
    is_shown: bool  # not cut by an edit list
    packets: list[Packet]  # in order of decoding, with those of frames that are never shown


def group(packets: Sequence[Packet], counter: Counter | None) -> list[Picture]:
    """Packets, in order of decoding, -> pictures.

    Raises:
        ValueError: headers that no rule covers.
    """
    if counter is None:
        # Packets without a time stamp follow a first keyframe and lack their references: they show nothing.
        return [
            Picture(packet.pts, packet.is_keyframe, not packet.is_discard, [packet])
            for packet in packets
            if packet.pts is not None
        ]
    if counter is _count_vp9 and any(packet.is_discard for packet in packets):
        raise ValueError('frames that an edit list cuts may be shown again, and FFmpeg cuts that too')
    pictures: list[Picture] = []
    waiting: list[Packet] = []  # those before the first packet that shows a frame
    try:
        counts = counter([memoryview(packet) for packet in packets])
    except IndexError:
        raise ValueError('a header is cut off') from None
    for packet, count in zip(packets, counts, strict=False):  # counts end before half a frame
        if count == 1:
            if packet.pts is None:
                raise ValueError('a frame without a time stamp')
            first = waiting[0] if waiting else packet
            pictures.append(Picture(packet.pts, first.is_keyframe, not packet.is_discard, [*waiting, packet]))
            waiting = []
        elif count > 1:
            raise ValueError('a packet shows several frames')
        elif pictures:
            pictures[-1].packets.append(packet)
        else:
            waiting.append(packet)
    return pictures


def counter_of(codec: str, extradata: bytes) -> Counter | None:
    """The counter of a codec's frames by packet; None if each packet shows one.

    Args:
        codec: FFmpeg's name of the codec or its decoder.
        extradata: the stream's headers, as in the container.
    """
    if codec == 'mpeg4':
        return Mpeg4(extradata)
    if codec == 'h264':
        fields = H264Fields(extradata)
        return fields if fields.may_occur else None
    return _COUNTERS.get(codec)


# ---- Frames that are never shown ----


def _count_vp8(packets: Sequence[Data]) -> list[int]:
    return [data[0] >> 4 & 1 for data in packets]  # RFC 6386, 9.1


def _count_vp9(packets: Sequence[Data]) -> list[int]:
    return [sum(_vp9_shows(data) for data in _split_superframe(packet)) for packet in packets]


def _vp9_shows(data: Data) -> bool:
    bits = data[0] << 1 if data[0] & 0x30 == 0x30 else data[0]  # profile 3 has one more bit before
    return bool(bits & 8 or bits & 2)  # show_existing_frame, show_frame


def _split_superframe(data: Data) -> list[Data]:
    """Annex B of the VP9 specification: an index at the end gives the sizes of the frames in a packet."""
    marker = data[-1]
    count, width = (marker & 7) + 1, (marker >> 3 & 3) + 1
    begin = len(data) - 2 - count * width
    if marker & 0xE0 != 0xC0 or begin < 0 or data[begin] != marker:
        return [data]
    frames: list[Data] = []
    place = 0
    for number in range(count):
        at = begin + 1 + number * width
        size = int.from_bytes(data[at : at + width], 'little')
        if size:
            frames.append(data[place : place + size])
        place += size
    return frames


def _count_av1(packets: Sequence[Data]) -> list[int]:
    return [any(map(_obu_shows, _split_obus(data))) for data in packets]  # one of several layers is shown


def _split_obus(data: Data) -> Iterator[tuple[int, int]]:
    """Type and first byte of each open bitstream unit (5.3 of the AV1 specification)."""
    place = 0
    while place < len(data):
        header = data[place]
        place += 2 if header & 4 else 1
        size, shift = len(data) - place, 0
        if header & 2:
            size = 0
            while True:
                size |= (data[place] & 127) << shift
                shift, place = shift + 7, place + 1
                if not data[place - 1] & 128:
                    break
        if size:
            yield header >> 3 & 15, data[place]
        place += size


def _obu_shows(unit: tuple[int, int]) -> bool:
    kind, byte = unit
    return kind in (3, 6) and bool(byte & 0x80 or byte & 0x10)  # a frame's header: show_existing_frame, show_frame


# ---- MPEG-4: frames that are not coded, and two in a packet ----

_VOP = re.compile(rb'\x00\x00\x01\xb6(.{,8})', re.S)
_VOL = re.compile(rb'\x00\x00\x01[\x20-\x2f](.{,32})', re.S)


class Mpeg4:
    """Counts coded frames. As in FFmpeg, the next packet, which is not coded, shows a second one in a packet."""

    def __init__(self, extradata: bytes) -> None:
        self._width = 0  # bits of a frame's time
        self._read_header(extradata)

    def __call__(self, packets: Sequence[Data]) -> list[int]:
        if all(len(data) > 24 for data in packets):  # a packet that is not coded is smaller, even with user data
            return [1] * len(packets)
        counts, held = [], 0
        for data in packets:
            self._read_header(data)
            held = min(held + sum(map(self._is_coded, _VOP.findall(data))), 2)
            counts.append(min(held, 1))
            held -= counts[-1]
        return counts

    def _read_header(self, data: Data) -> None:
        """ISO 14496-2, 6.2.3: the resolution of times determines their number of bits."""
        for found in _VOL.findall(data):
            bits = Bits(found)
            bits.read(9)
            version = bits.read(7) >> 3 if bits.read(1) else 1
            if bits.read(4) == 15:
                bits.read(16)
            if bits.read(1):
                bits.read(3)
                if bits.read(1):
                    bits.read(79)
            if bits.read(2) == 3 and version != 1:
                bits.read(4)
            bits.read(1)
            self._width = max((bits.read(16) - 1).bit_length(), 1)

    def _is_coded(self, header: bytes) -> int:
        if not self._width:
            raise ValueError('a frame without its header')
        bits = Bits(header)
        bits.read(2)
        while bits.read(1):
            pass
        bits.read(2 + self._width)
        return bits.read(1)


# ---- Fields ----


def _pair(packets: Sequence[Sequence[tuple[str, int]]]) -> list[int]:
    """Pictures of each packet -> number of frames of each. A picture is 'frame', 'top' or 'bottom', and a number.

    Both fields of a frame share the number. Counts end before a last field without its partner.
    """
    counts, first, begin = [], None, 0
    for place, pictures in enumerate(packets):
        counts.append(0)
        for parity, number in pictures:
            if first is None:
                counts[-1] += 1
                first, begin = (None if parity == 'frame' else (parity, number)), place
            elif parity not in ('frame', first[0]) and number == first[1]:
                first = None
            else:
                raise ValueError('a field without its partner')
    return counts if first is None else counts[:begin]


_PICTURE_CODING = re.compile(rb'\x00\x00\x01\xb5[\x80-\x8f].(.)', re.S)


def _count_mpeg2(packets: Sequence[Data]) -> list[int]:
    parities = ('frame', 'top', 'bottom', 'frame')
    return _pair(
        [[(parities[found[0] & 3], 0) for found in _PICTURE_CODING.findall(data)] or [('frame', 0)] for data in packets]
    )


class H264Fields:
    """Counts frames of H.264 packets that may hold fields."""

    def __init__(self, extradata: bytes) -> None:
        self._sequences: dict[int, tuple[bool, int, bool]] = {}  # see _read_parameters
        self._sequence_of: dict[int, int] = {}  # picture parameter set -> sequence
        self._length_size = 0
        if extradata[:1] == b'\1':  # avcC, ISO 14496-15
            self._length_size = (extradata[4] & 3) + 1
            units, place = [], 5
            for mask in (31, 255):
                count, place = extradata[place] & mask, place + 1
                for _ in range(count):
                    size = int.from_bytes(extradata[place : place + 2], 'big')
                    units.append(extradata[place + 2 : place + 2 + size])
                    place += 2 + size
        else:
            units = _split_start_codes(extradata)
        for unit in units:
            self._read_parameters(unit)
        # a sequence may have fields, or the sequences are unknown before the first packet
        self.may_occur = any(fields for fields, _, _ in self._sequences.values()) or not self._sequences

    def __call__(self, packets: Sequence[Data]) -> list[int]:
        return _pair([self._pictures(bytes(data)) for data in packets])

    def _pictures(self, data: bytes) -> list[tuple[str, int]]:
        found: list[tuple[str, int]] = []
        for unit in self._split(data):
            if unit[0] & 31 in (1, 2, 5):
                if (picture := self._read_slice(unit)) not in found[-1:]:
                    found.append(picture)
            else:
                self._read_parameters(unit)
        return found

    def _split(self, data: bytes) -> list[bytes]:
        if not self._length_size:
            return _split_start_codes(data)
        units, place = [], 0
        while place + self._length_size < len(data):
            begin = place + self._length_size
            place = begin + int.from_bytes(data[place:begin], 'big')
            units.append(data[begin:place])
        return [unit for unit in units if unit]

    def _read_slice(self, unit: bytes) -> tuple[str, int]:
        bits = Bits(unit[1:32].replace(b'\0\0\3', b'\0\0'))
        bits.read_ue(2)
        try:
            has_fields, width, has_planes = self._sequences[self._sequence_of[bits.read_ue()]]
        except KeyError:
            raise ValueError('a slice without its sequence') from None
        bits.read(2 * has_planes)
        number = bits.read(width)
        if not has_fields or not bits.read(1):
            return 'frame', number
        return ('bottom' if bits.read(1) else 'top'), number

    def _read_parameters(self, unit: bytes) -> None:
        """H.264, 7.3.2.1 -> whether a sequence may have fields, the bits of frame_num, whether planes are separate."""
        bits = Bits(unit[1:].replace(b'\0\0\3', b'\0\0'))
        if unit[0] & 31 == 8:
            self._sequence_of[bits.read_ue()] = bits.read_ue()
        if unit[0] & 31 != 7:
            return
        profile, _, number = bits.read(8), bits.read(16), bits.read_ue()
        has_planes = False
        if profile in (100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135):
            chroma = bits.read_ue()
            has_planes = chroma == 3 and bool(bits.read(1))
            bits.read_ue(2)
            bits.read(1)
            if bits.read(1):
                for matrix in range(12 if chroma == 3 else 8):
                    if bits.read(1):
                        _skip_scaling(bits, 16 if matrix < 6 else 64)
        width = bits.read_ue() + 4
        order = bits.read_ue()
        if order == 0:
            bits.read_ue()
        elif order == 1:
            bits.read(1)
            bits.read_ue(2)
            bits.read_ue(bits.read_ue())
        bits.read_ue()
        bits.read(1)
        bits.read_ue(2)
        self._sequences[number] = not bits.read(1), width, has_planes


def _skip_scaling(bits: Bits, size: int) -> None:
    last = following = 8
    for _ in range(size):
        if following:
            code = bits.read_ue()
            following = (last + (code + 1 >> 1 if code & 1 else -(code >> 1))) % 256
        last = following or last


def _split_start_codes(data: bytes) -> list[bytes]:
    return [unit for unit in data.split(b'\0\0\1')[1:] if unit]


class Bits:
    """Reads numbers from a string of bits."""

    def __init__(self, data: bytes) -> None:
        self._value, self._left = int.from_bytes(data, 'big'), 8 * len(data)

    def read(self, width: int) -> int:
        """The next ``width`` bits."""
        if width > self._left:
            raise ValueError('a header is cut off')
        self._left -= width
        return self._value >> self._left & (1 << width) - 1

    def read_ue(self, count: int = 1) -> int:
        """The last of the next ``count`` Exp-Golomb codes (9.1 of H.264)."""
        value = 0
        for _ in range(count):
            zeros = 0
            while not self.read(1):
                zeros += 1
            value = (1 << zeros) - 1 + self.read(zeros)
        return value


_COUNTERS: dict[str, Counter] = {
    'vp8': _count_vp8,
    'vp9': _count_vp9,
    'av1': _count_av1,
    'libdav1d': _count_av1,
    'mpeg2video': _count_mpeg2,
}
