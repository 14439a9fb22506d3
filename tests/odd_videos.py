"""Whole videos whose packets are not their frames, one for one: written by hand, or encoded and then rearranged."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
from av.bitstream import BitStreamFilterContext

RATE = 20
SIZE = (64, 96)


class Piece(NamedTuple):
    """A packet."""

    data: bytes
    pts: int
    dts: int
    is_keyframe: bool


def picture(number: int, height: int, width: int) -> np.ndarray:
    """RGB (height, width, 3), of another pattern for each number."""
    y, x = np.mgrid[:height, :width]
    return np.stack([3 * x + 7 * number, 5 * y - 3 * number, 2 * (x + y) + 13 * number], -1).astype(np.uint8)


def encode(
    path: Path, codec: str, count: int = 60, b_frames: int = 0, size=SIZE, gop: int = 20, **options: str
) -> Path:
    """Encode so many pictures, 20 a second."""
    with av.open(str(path), 'w') as container:
        stream = container.add_stream(codec, rate=RATE, options=options)
        stream.thread_count = 1  # the same file on any machine
        stream.height, stream.width, stream.pix_fmt = *size, 'yuv420p'
        stream.codec_context.gop_size, stream.codec_context.max_b_frames = gop, b_frames
        for number in range(count):
            frame = av.VideoFrame.from_ndarray(picture(number, *size), 'rgb24').reformat(format='yuv420p')
            frame.pts, frame.time_base = number, Fraction(1, RATE)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def rearrange(source: Path, target: Path, change: Callable[[list[Piece]], list[Piece]], bsf: str | None = None) -> str:
    """Write the packets of a video into another file; pts and dts count frames."""
    options = {'avoid_negative_ts': 'disabled'}
    with av.open(str(source)) as old, av.open(str(target), 'w', options=options) as new:
        video = old.streams.video[0]
        stream = new.add_stream_from_template(video, opaque=True)  # there is no encoder for every decoder
        cut = BitStreamFilterContext(bsf, video) if bsf else None
        packets = [packet for packet in old.demux(video) if packet.size]
        if cut is not None:
            packets = [ready for packet in [*packets, None] for ready in cut.filter(packet)]
        tick = 1 / (RATE * video.time_base)
        pieces = [
            Piece(
                bytes(packet),
                round((packet.dts if packet.pts is None else packet.pts) / tick),
                round(packet.dts / tick),
                packet.is_keyframe,
            )
            for packet in packets
        ]
        for piece in change(pieces):
            packet = av.Packet(piece.data)
            packet.pts, packet.dts, packet.is_keyframe = piece.pts, piece.dts, piece.is_keyframe
            packet.time_base, packet.stream = Fraction(1, RATE), stream
            new.mux(packet)
    return str(target)


# ---- Surgery ----


def hide_vp8(pieces: list[Piece]) -> list[Piece]:
    """Every seventh frame is never shown."""
    return [
        piece._replace(data=bytes([piece.data[0] & ~16]) + piece.data[1:]) if number % 7 == 3 else piece
        for number, piece in enumerate(pieces)
    ]


def one_after_another(pieces: list[Piece]) -> list[Piece]:
    """Time stamps in order of decoding, as they come of a bare stream."""
    return [piece._replace(pts=number, dts=number) for number, piece in enumerate(pieces)]


def from_second_keyframe(pieces: list[Piece]) -> list[Piece]:
    """Cut off what comes before the second keyframe."""
    return pieces[[number for number, piece in enumerate(pieces) if piece.is_keyframe][1] :]


def from_second_at_zero(pieces: list[Piece]) -> list[Piece]:
    """Cut off what comes before the second keyframe, and begin with it at 0: what is shown before that has no time."""
    pieces = from_second_keyframe(pieces)
    return [piece._replace(pts=piece.pts - pieces[0].pts, dts=piece.dts - pieces[0].pts) for piece in pieces]


def from_second_at_once(pieces: list[Piece]) -> list[Piece]:
    """The same, and what is shown before it begins with it."""
    pieces = from_second_at_zero(pieces)
    return [piece._replace(pts=max(piece.pts, 0)) for piece in pieces]


def unchanged(pieces: list[Piece]) -> list[Piece]:
    """Leave all as it is."""
    return pieces


def twice_at_once(pieces: list[Piece]) -> list[Piece]:
    """Each third frame begins with the one before."""
    return [piece._replace(pts=n - (n % 3 == 2), dts=n - (n % 3 == 2)) for n, piece in enumerate(pieces)]


VOP = b'\0\0\1\xb6'


def not_coded(frame: bytes) -> bytes:
    """An MPEG-4 frame of the same time as another, which says: as the one before."""
    header = frame[frame.index(VOP) + 4 :][:4]
    bits = f'{int.from_bytes(header, "big"):0{8 * len(header)}b}'
    end = bits.index('0', 2) + 2 + 5 + 1  # type, seconds, marker, ticks of 1 / 20 s, marker
    bits = f'01{bits[2:end]}00111111'
    bits = bits[: len(bits) // 8 * 8]
    return VOP + int(bits, 2).to_bytes(len(bits) // 8, 'big')


def skip_frames(pieces: list[Piece]) -> list[Piece]:
    """Each fifth frame of an MPEG-4 video without B-frames says "as the one before"."""
    return [
        piece._replace(data=not_coded(piece.data)) if number % 5 == 3 and not piece.is_keyframe else piece
        for number, piece in enumerate(pieces)
    ]


def pack(pieces: list[Piece]) -> list[Piece]:
    """A reference and the B-frame after it in one packet, as DivX does it; the next packet is not coded."""
    packed = [piece._replace(data=piece.data.replace(b'Lavc', b'DivX503b1393p\0')) for piece in pieces]
    for number, (piece, following) in enumerate(zip(pieces, pieces[1:], strict=False)):
        if following.pts < piece.pts:
            packed[number] = piece._replace(data=packed[number].data + following.data)
            packed[number + 1] = following._replace(data=not_coded(piece.data))
    return [piece._replace(pts=number, dts=number) for number, piece in enumerate(packed)]


# ---- H.264 by hand: pictures whose samples are stored as they are ----


class BitWriter:
    """Numbers into bits."""

    def __init__(self) -> None:
        self.bits: list[str] = []

    def put(self, width: int, *values: int) -> BitWriter:
        self.bits += [f'{value:0{width}b}' for value in values]
        return self

    def ue(self, *values: int) -> BitWriter:
        for value in values:
            code = f'{value + 1:b}'
            self.bits.append('0' * (len(code) - 1) + code)
        return self

    def nal(self, header: int) -> bytes:
        """A NAL unit with its start code."""
        bits = ''.join(self.bits) + '1'
        bits += '0' * (-len(bits) % 8)
        return b'\0\0\0\1' + bytes([header]) + int(bits, 2).to_bytes(len(bits) // 8, 'big')


def h264_headers(height: int, width: int) -> bytes:
    """Parameter sets of a stream with frames and fields (frame_mbs_only_flag 0), frame_num of 8 bits."""
    sps = BitWriter().put(8, 77, 0, 30).ue(0, 4, 2, 1).put(1, 0).ue(width // 16 - 1, height // 32 - 1)
    sps.put(1, 0, 0, 1, 0, 0)  # not frames only; no MBAFF; direct_8x8; no cropping, no VUI
    pps = BitWriter().ue(0, 0).put(1, 0, 0).ue(0, 0, 0).put(1, 0).put(2, 0).ue(0, 0, 0).put(1, 1, 0, 0)
    return sps.nal(0x67) + pps.nal(0x68)


def h264_picture(planes: Sequence[np.ndarray], structure: str, number: int, idr: bool) -> bytes:
    """An I picture: a 'frame', or its 'top' or 'bottom' field. Samples 0 do not occur, so no byte needs protection."""
    if structure != 'frame':
        planes = [plane[structure == 'bottom' :: 2] for plane in planes]
    luma, *chroma = [np.maximum(plane, 1) for plane in planes]
    slice_ = BitWriter().ue(0, 7, 0).put(8, number % 256).put(1, structure != 'frame')
    if structure != 'frame':
        slice_.put(1, structure == 'bottom')
    if idr:
        slice_.ue(0)
    slice_.put(1, *([0, 0] if idr else [0])).ue(0).ue(1)  # marking; qp delta; no deblocking
    data = b''
    head = slice_
    for row in range(luma.shape[0] // 16):
        for column in range(luma.shape[1] // 16):
            head.ue(25)  # I_PCM
            bits = ''.join(head.bits)
            bits += '0' * (-len(bits) % 8)
            data += int('1' + bits, 2).to_bytes(len(bits) // 8 + 1, 'big')[1:]
            data += luma[16 * row : 16 * row + 16, 16 * column : 16 * column + 16].tobytes()
            data += b''.join(c[8 * row : 8 * row + 8, 8 * column : 8 * column + 8].tobytes() for c in chroma)
            head = BitWriter()
    return b'\0\0\0\1' + (b'\x65' if idr else b'\x61') + data + b'\x80'


def planes_of(number: int) -> list[np.ndarray]:
    """A picture as Y, U and V."""
    frame = av.VideoFrame.from_ndarray(picture(number, *SIZE), 'rgb24').reformat(format='yuv420p')
    height, width = SIZE
    yuv = frame.to_ndarray().reshape(-1)
    y, u, v = np.split(yuv, [height * width, height * width * 5 // 4])
    return [y.reshape(height, width), u.reshape(height // 2, width // 2), v.reshape(height // 2, width // 2)]


def write_h264(path: Path, structures: Sequence[str], *, together: bool = False) -> str:
    """Write frames ('frame') and pairs of fields ('fields', 'bottom first'), 20 a second, a keyframe each 10.

    together: both fields in one packet; else a packet each, the second half a frame later.
    """
    headers = h264_headers(*SIZE)
    pieces: list[tuple[bytes, int, bool]] = []
    for number, structure in enumerate(structures):
        planes, since = planes_of(number), number % 10
        order = {'frame': ['frame'], 'fields': ['top', 'bottom'], 'bottom first': ['bottom', 'top'], 'lone': ['top']}
        parts = [
            h264_picture(planes, part, since, idr=since == 0 and place == 0)
            for place, part in enumerate(order[structure])
        ]
        if since == 0:
            parts[0] = headers + parts[0]
        if together:
            parts = [b''.join(parts)]
        pieces += [(part, 2 * number + place, since == 0 and place == 0) for place, part in enumerate(parts)]
    with av.open(io.BytesIO(headers + pieces[0][0]), format='h264') as raw, av.open(str(path), 'w') as new:
        stream = new.add_stream_from_template(raw.streams.video[0])
        for data, stamp, is_keyframe in pieces:
            packet = av.Packet(data)
            packet.pts = packet.dts = stamp
            packet.duration = 2 if together else 1
            packet.time_base, packet.stream, packet.is_keyframe = Fraction(1, 2 * RATE), stream, is_keyframe
            new.mux(packet)
    return str(path)


# ---- All of them ----

REALTIME = {'cpu-used': '8', 'deadline': 'realtime'}
ALT_REF = {'cpu-used': '8', 'auto-alt-ref': '1', 'lag-in-frames': '12', 'b': '100000'}
RADL = 'radl=2:open-gop=0:keyint=20:min-keyint=20:scenecut=0:bframes=3:b-adapt=0:log-level=none'
OPEN = {'x264-params': 'open-gop=1:keyint=20:scenecut=0:b-adapt=0'}
REFRESH = {'intra-refresh': '1', 'x264-params': 'keyint=40:scenecut=0'}
MIXED = (['frame'] * 4 + ['fields'] * 3 + ['bottom first'] * 3) * 3

# name -> (folder) -> the file
ODD: dict[str, Callable[[Path], str]] = {
    'hidden vp8.webm': lambda d: rearrange(encode(d / 's.webm', 'libvpx', **REALTIME), d / 'v.webm', hide_vp8),
    'hidden vp8.avi': lambda d: rearrange(encode(d / 's.webm', 'libvpx', **REALTIME), d / 'v.avi', hide_vp8),
    'hidden vp9.avi': lambda d: rearrange(
        encode(d / 's.webm', 'libvpx-vp9', **ALT_REF), d / 'v.avi', unchanged, 'vp9_superframe_split'
    ),
    'hidden vp9.nut': lambda d: rearrange(
        encode(d / 's.webm', 'libvpx-vp9', **ALT_REF), d / 'v.nut', unchanged, 'vp9_superframe_split'
    ),
    'hidden av1.mp4': lambda d: rearrange(
        encode(d / 's.mp4', 'libsvtav1', preset='11'), d / 'v.mp4', one_after_another, 'av1_frame_split'
    ),
    'fields.mp4': lambda d: write_h264(d / 'v.mp4', ['fields'] * 30),
    'fields.mkv': lambda d: write_h264(d / 'v.mkv', ['fields'] * 30),
    'fields.ts': lambda d: write_h264(d / 'v.ts', ['fields'] * 30),
    'fields together.mp4': lambda d: write_h264(d / 'v.mp4', ['fields'] * 30, together=True),
    'fields together.ts': lambda d: write_h264(d / 'v.ts', ['fields'] * 30, together=True),
    'frames and fields.mp4': lambda d: write_h264(d / 'v.mp4', MIXED),
    'a lone field.mp4': lambda d: write_h264(d / 'v.mp4', ['fields'] * 15 + ['lone'] + ['fields'] * 14),
    'not coded.avi': lambda d: rearrange(encode(d / 's.avi', 'mpeg4'), d / 'v.avi', skip_frames),
    'not coded.mp4': lambda d: rearrange(encode(d / 's.avi', 'mpeg4'), d / 'v.mp4', skip_frames),
    'packed.avi': lambda d: rearrange(encode(d / 's.avi', 'mpeg4', b_frames=1), d / 'v.avi', pack),
    'no times.mkv': lambda d: rearrange(encode(d / 's.mp4', 'libx264', b_frames=2), d / 'v.mkv', one_after_another),
    'no times.mp4': lambda d: rearrange(encode(d / 's.mp4', 'libx264', b_frames=2), d / 'v.mp4', one_after_another),
    'no times, open.mp4': lambda d: rearrange(
        encode(d / 's.mp4', 'libx264', b_frames=2, **OPEN), d / 'v.mp4', one_after_another
    ),
    'twice at once.mkv': lambda d: rearrange(encode(d / 's.mp4', 'libx264'), d / 'v.mkv', twice_at_once),
    'leading.mkv': lambda d: rearrange(
        encode(d / 's.mp4', 'libx265', b_frames=3, **{'x265-params': RADL}), d / 'v.mkv', from_second_keyframe
    ),
    'leading, before 0.mkv': lambda d: rearrange(
        encode(d / 's.mp4', 'libx264', b_frames=2, **OPEN), d / 'v.mkv', from_second_at_zero
    ),
    'leading, at once.mkv': lambda d: rearrange(
        encode(d / 's.mkv', 'mpeg2video', b_frames=2), d / 'v.mkv', from_second_at_once
    ),
    'refresh.mp4': lambda d: str(encode(d / 'v.mp4', 'libx264', count=100, size=(64, 160), gop=40, **REFRESH)),
}
REFUSED_BY_DECORD = {
    'hidden vp9.nut': 'would give other frames',
    'hidden av1.mp4': 'decord: .*cannot find video stream',  # its FFmpeg of 2021
    'fields.ts': 'would give other frames',
    'fields together.ts': 'would give other frames',
    'a lone field.mp4': 'a field without its partner',
    'leading.mkv': 'frames may be shown before the first keyframe',
    'leading, before 0.mkv': 'would give other frames',
    'leading, at once.mkv': 'would give other frames',
}
