"""Which packets show a frame: videos of many kinds against a sequential decode, and the headers by hand."""

from __future__ import annotations

from collections import Counter
from functools import cache

import av
import numpy as np
import pytest
from odd_videos import ODD, REFUSED_BY_DECORD, encode

from omnimae.data.media import open_video, video
from omnimae.data.media.errors import BrokenVideoError
from omnimae.data.media.packets import counter_of, group


@pytest.fixture(scope='module')
def make(tmp_path_factory):
    """Make a video of a kind, once."""
    return cache(lambda kind: ODD[kind](tmp_path_factory.mktemp('odd')))


def decode_sequentially(path):
    """Times of all frames that come out of a file, and their pixels (N, H, W, 3)."""
    with av.open(path) as container:
        stream = container.streams.video[0]
        stream.thread_type = 'NONE'
        frames = list(container.decode(stream))
        stamps = sorted(frame.pts for frame in frames)
        origin = stamps[0] if path.endswith('.avi') else stream.start_time
        times = [float((stamp - origin) * stream.time_base) for stamp in stamps]
        return np.array(times), np.stack([frame.to_ndarray(format='rgb24', threads=1) for frame in frames])


KINDS_AND_READERS = [(kind, 'pyav') for kind in ODD] + [
    (kind, 'decord') for kind in ODD if kind not in REFUSED_BY_DECORD
]


@pytest.mark.parametrize(('kind', 'reader'), KINDS_AND_READERS)
def test_frames_and_times_equal_sequential_decoding(make, kind, reader):
    times, frames = decode_sequentially(make(kind))
    assert len({frame.tobytes() for frame in frames}) > 0.9 * len(frames)  # what is compared can be told apart
    rng = np.random.default_rng(0)
    with open_video(make(kind), reader) as opened:
        assert times[-1] < opened.duration <= times[-1] + 0.11
        for begin, end in ((0.0, opened.duration), (0.83, 1.96)):
            assert opened.frame_times(begin, end).tolist() == times[(begin <= times) & (times < end)].tolist()
        for _ in range(12):
            seconds, num_frames = rng.choice([0.2, 0.7, 1.5]), int(rng.choice([3, 8, 16]))
            start = rng.uniform(0, opened.duration - seconds)
            inside = np.flatnonzero((start <= times) & (times < start + seconds))
            inside = inside if len(inside) else np.flatnonzero(times <= start)[-1:]
            picked = inside[(len(inside) - 1) * np.arange(num_frames) // (num_frames - 1)]
            assert_same(opened.read(start, seconds, num_frames), frames[picked], reader)
        for moments in np.sort(rng.uniform(max(times[0], 0), opened.duration, (3, 8))):
            assert_same(opened.read_at(moments), frames[np.searchsorted(times, moments, side='right') - 1], reader)
        at_once = np.flatnonzero(np.diff(times, append=opened.duration) == 0)  # the last of several counts
        for last in range(5, len(times), 5):  # at the very times of frames, as samplings that count frames ask for them
            picked = np.setdiff1d([last - 5, last - 2, last], at_once)
            assert_same(opened.read_at(times[picked]), frames[picked], reader)


def assert_same(clip, expected, reader):
    if reader == 'decord':  # converts interlaced colours in another way
        clip, expected = (x.astype(int).mean((2, 3)).round(-1) for x in (clip, expected))
        assert np.abs(clip - expected).mean() < 3
    else:
        np.testing.assert_array_equal(clip, expected)


@pytest.mark.parametrize('kind', ODD)
def test_all_frames_equal_sequential_decoding(make, kind):
    times, frames = decode_sequentially(make(kind))
    with open_video(make(kind)) as opened:
        found = [
            (float(stamp * opened.time_base), frame.to_ndarray(format='rgb24', threads=1))
            for stamp, frame in opened.frames()
        ]
    assert [time for time, _ in found] == times.tolist()
    np.testing.assert_array_equal([pixels for _, pixels in found], frames)


@pytest.mark.parametrize(('kind', 'reason'), REFUSED_BY_DECORD.items())
def test_decord_refuses_what_it_cannot_read(make, kind, reason):
    with pytest.raises(BrokenVideoError, match=f'{reason}.*reader=.pyav'), open_video(make(kind), 'decord') as opened:
        opened.read(0.5, 0.5, 4)


DECODED_FROM_THE_START = {
    'a lone field.mp4',
    'leading.mkv',
    'leading, at once.mkv',
    'no times, open.mp4',
    'packed.avi',
    'refresh.mp4',
}


@pytest.mark.parametrize('kind', sorted(ODD.keys() - DECODED_FROM_THE_START))
def test_what_headers_tell_is_read_from_the_nearest_keyframe(make, monkeypatch, kind):
    times, _ = decode_sequentially(make(kind))
    expected = times[(1.1 <= times) & (times < 1.4)].tolist()
    assert len(expected) > 2
    with open_video(make(kind)) as opened:
        monkeypatch.setattr(video.VideoReader, '_reopen', lambda *args: pytest.fail('decoded from the start'))
        assert len(opened.read(1.1, 0.3, 4)) == 4
        if kind != 'twice at once.mkv':  # of several first frames only decoding tells which are shown
            assert opened.frame_times(1.1, 1.4).tolist() == expected


def test_clips_before_the_first_keyframe_show_its_frame(tmp_path):
    data = encode(tmp_path / 's.ts', 'mpeg2video', b_frames=2).read_bytes()
    path = tmp_path / 'v.ts'
    path.write_bytes(data[len(data) // 5 // 188 * 188 :])
    times, frames = decode_sequentially(str(path))
    assert times[0] > 0.3
    with open_video(path) as opened:
        for start, seconds in ((0.0, 0.1), (0.05, 0.2)):
            np.testing.assert_array_equal(opened.read(start, seconds, 2), frames[[0, 0]])
        np.testing.assert_array_equal(opened.read(times[0], 0.2, 4), frames[:4])


def test_a_time_that_goes_back_is_found(tmp_path):
    path, data = tmp_path / 'v.flv', encode(tmp_path / 's.flv', 'libx264').read_bytes()
    path.write_bytes(data + data[13:])  # without the second header
    with open_video(path) as opened, pytest.raises(BrokenVideoError, match=r'its time goes back at 2\.\d+ s'):
        opened.check()


def test_frames_without_times_are_in_their_order_however_short_the_clip(make):
    times, frames = decode_sequentially(make('no times, open.mp4'))
    with open_video(make('no times, open.mp4')) as opened:
        for time, frame in zip(times, frames, strict=True):
            np.testing.assert_array_equal(opened.read(time, 0.04, 1), frame[None])


# ---- Headers ----


def bits(text):
    """Bytes of a string of bits."""
    text = text.replace(' ', '')
    return int(text.ljust(-(-len(text) // 8) * 8, '0'), 2).to_bytes(-(-len(text) // 8), 'big')


SHOWN = bits('10 0 0 0 1 1 0')  # VP9: frame marker, profile 0, not an existing one, inter, shown
HIDDEN = bits('10 0 0 0 1 0 0')
EXISTING = bits('10 0 0 1 010')
AV1_HIDDEN = bits('0 0110 0 1 0') + b'\2' + bits('0 01 0 0000') + b'\0'  # a frame of two bytes
AV1_SHOWN = bits('0 0011 0 1 0') + b'\1' + bits('0 01 1 0000')
AV1_EXISTING = bits('0 0011 0 1 0') + b'\1' + bits('1 010 0000')
AV1_DELIMITER = bits('0 0010 0 1 0') + b'\0'


def superframe(*frames):
    index = bits(f'110 00 {len(frames) - 1:03b}')
    return b''.join(frames) + index + bytes(map(len, frames)) + index


def coding(structure):
    """MPEG-2: start code of a picture, and its coding extension."""
    return b'\0\0\1\0abc\0\0\1\xb5' + bits(f'1000 0000 0000 0000 0000 00 {structure:02b}')


@pytest.mark.parametrize(
    ('codec', 'packets', 'counts'),
    [
        ('vp8', [b'\x10ab', b'\x01ab', b'\x11ab'], [1, 0, 1]),
        ('vp9', [SHOWN, HIDDEN, EXISTING], [1, 0, 1]),
        ('vp9', [superframe(HIDDEN + b'x', SHOWN), superframe(HIDDEN), superframe(SHOWN, SHOWN)], [1, 0, 2]),
        ('vp9', [bits('10 1 1 0 0 1 1'), bits('10 1 1 0 0 1 0'), bits('10 1 1 0 1 0 0')], [1, 0, 1]),  # profile 3
        ('av1', [AV1_DELIMITER + AV1_HIDDEN + AV1_SHOWN, AV1_HIDDEN, AV1_EXISTING], [1, 0, 1]),
        ('libdav1d', [AV1_SHOWN + AV1_SHOWN], [1]),  # of two layers
        ('mpeg2video', [coding(3), coding(1), coding(2), coding(2) + coding(1), b'any'], [1, 1, 0, 1, 1]),
        ('mpeg2video', [coding(3), coding(1)], [1]),  # ends between its fields
    ],
)
def test_frames_of_packets(codec, packets, counts):
    assert counter_of(codec, b'')(packets) == counts


@pytest.mark.parametrize('packets', [[coding(1), coding(3)], [coding(1), coding(1)]])
def test_a_field_without_its_partner(packets):
    with pytest.raises(ValueError, match='a field without its partner'):
        counter_of('mpeg2video', b'')(packets)


def test_codecs_whose_packets_are_frames_need_no_look(make):
    assert counter_of('hevc', b'') is counter_of('mjpeg', b'') is None
    with av.open(make('refresh.mp4')) as container:
        assert counter_of('h264', container.streams.video[0].codec_context.extradata) is None


def test_hidden_packets_go_with_the_picture_before_them(make):
    with av.open(make('hidden vp8.webm')) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    pictures = group(packets[3:], counter_of('vp8', b''))  # the first is hidden
    assert [packet.pts for picture in pictures for packet in picture.packets] == [packet.pts for packet in packets[3:]]
    assert Counter(len(picture.packets) for picture in pictures) == {1: 39, 2: 9}
    assert [packet.pts for packet in pictures[0].packets] == [150, 200]
    assert pictures[0].stamp == 200


class FakePacket(bytes):
    """As much of a packet as grouping asks for."""

    pts, is_keyframe, is_discard = 0, True, True


def test_what_an_edit_list_cuts_of_vp9_may_be_shown_again():
    with pytest.raises(ValueError, match='may be shown again'):
        group([FakePacket(SHOWN), FakePacket(EXISTING)], counter_of('vp9', b''))
