"""Which frames make a clip, and reading them: against sequential decoding of videos whose frames carry their number."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import time
from fractions import Fraction
from functools import cache
from pathlib import Path
from unittest.mock import Mock

import av
import mmengine.fileio
import numpy as np
import pytest
import torch
from av.bitstream import BitStreamFilterContext
from torch.utils.data import DataLoader, Dataset

from omnimae.data import media
from omnimae.data.formats.reencode import reencode
from omnimae.data.media import READERS, decord, open_video, video
from omnimae.data.media.container import count_missing_bytes
from omnimae.data.media.errors import BrokenFileError, BrokenVideoError
from omnimae.data.media.frames import ClipSampling, pick_frames, pick_on_screen
from omnimae.data.media.orientation import orient, orientation_of_matrix
from omnimae.data.media.packets import Picture

SHARED_DATA = os.environ.get('OMNIMAE_SHARED_DATA')


# ---- Which frames ----


@pytest.mark.parametrize(
    ('duration', 'seconds', 'u', 'start'), [(10.0, 2.5, 0.0, 0.0), (10.0, 2.5, 0.5, 3.75), (2.0, 2.5, 0.9, 0.0)]
)
def test_train_start(duration, seconds, u, start):
    assert media.frames.train_start(duration, seconds, u) == start


@pytest.mark.parametrize(
    ('duration', 'num_clips', 'starts'),
    [(12.5, 5, [0, 2, 4, 6, 8]), (12.5, 1, [0]), (2.5, 3, [0, 0, 0]), (1.0, 5, [0, 0, 0, 0, 0])],
)
def test_starts_of_test_clips(duration, num_clips, starts):
    assert media.frames.test_starts(duration, 2.5, num_clips, to_end=False) == starts


@pytest.mark.parametrize(
    ('duration', 'num_clips', 'starts'),
    [(12.5, 5, [0, 2.5, 5, 7.5, 10]), (12.5, 1, [5]), (2.5, 3, [0, 0, 0]), (1.0, 1, [0])],
)
def test_starts_of_test_clips_that_reach_the_end(duration, num_clips, starts):
    assert media.frames.test_starts(duration, 2.5, num_clips, to_end=True) == starts


@pytest.mark.parametrize(
    ('times', 'start', 'seconds', 'num_frames', 'expected'),
    [
        pytest.param(range(10), 2, 4, 4, [2, 3, 4, 5], id='start counts, end does not'),
        pytest.param(range(10), 1.5, 4, 4, [2, 3, 4, 5], id='start between frames'),
        pytest.param(range(10), 0, 10, 4, [0, 3, 6, 9], id='first and last'),
        pytest.param(range(10), 0, 10, 5, [0, 2, 4, 6, 9], id='floor'),
        pytest.param(range(10), 2, 4, 8, [2, 2, 2, 3, 3, 4, 4, 5], id='fewer frames than asked'),
        pytest.param(range(10), 2, 4, 1, [2], id='one frame asked'),
        pytest.param([0], 0, 2.7, 3, [0, 0, 0], id='one-frame video'),
        pytest.param([0, 1, 5, 6, 7], 0, 6, 3, [0, 1, 2], id='times, not indices'),
        pytest.param([0, 1, 5], 2, 2, 3, [1, 1, 1], id='a still: the frame on screen'),
        pytest.param([0.04, 1], 0, 0.04, 2, [0, 0], id='before the first frame'),
        pytest.param(np.arange(100) / 50, 0.6, 1.8 - 0.6, 60, range(30, 90), id='end excluded up to rounding'),
        pytest.param(np.arange(100) / 50, 1.1 - 0.5, 0.2, 10, range(30, 40), id='start included up to rounding'),
        pytest.param([0, 1, 5], 5.5, 2, 2, [2, 2], id='behind the last frame'),
    ],
)
def test_pick_frames(times, start, seconds, num_frames, expected):
    assert pick_frames(list(times), start, seconds, num_frames).tolist() == list(expected)


@pytest.mark.parametrize('num_frames', [8, 16, 32])
def test_pick_frames_is_the_published_formula(num_frames):
    for n in range(1, 200):
        expected = torch.linspace(0, n - 1, num_frames).long()  # pytorchvideo 0.1.5, UniformTemporalSubsample
        assert pick_frames(np.arange(n), 0, n, num_frames).tolist() == expected.tolist()


@pytest.mark.parametrize(
    ('times', 'moments', 'expected'),
    [
        pytest.param(range(8), [0, 1.5, 1.99, 2, 7.9], [0, 1, 1, 2, 7], id='the frame on screen'),
        pytest.param(range(8), [3 - 1e-9, 3 + 1e-9], [3, 3], id='up to rounding'),
        pytest.param([0, 1, 5, 6], [2, 4.9, 5.5, 90], [1, 1, 2, 3], id='times, not indices'),
        pytest.param([0.04, 1], [0], [0], id='before the first frame'),
        pytest.param([0], [0.5, 1.5], [0, 0], id='one-frame video'),
    ],
)
def test_frames_on_screen(times, moments, expected):
    assert pick_on_screen(list(times), moments).tolist() == expected


RELEASED = json.loads((Path(__file__).parent / 'data' / 'released_sampling.json').read_text())


class Share:
    """Draws the same share of every range, and remembers the range."""

    def __init__(self, share: float):
        self.share, self.high = share, 1

    def integers(self, high: int, size: int | None = None):
        self.high = high
        drawn = min(int(self.share * high), high - 1)
        return drawn if size is None else np.full(size, drawn)

    def random(self) -> float:
        return self.share


@pytest.mark.parametrize('name', RELEASED)
def test_frames_are_those_that_the_released_code_picks(name):
    """Frames by video length, of VideoMAE, VideoMAE V2 and MAE-ST, run with a stubbed reader.

    Of training they are those of the smallest, the middle and the largest random number. 'resampled' has the frame
    rate in its name, the others their stride.
    """
    sampling, *number, use = name.split('-')
    rate = float(number[0]) if sampling == 'resampled' else 25.0
    stride = None if sampling == 'sparse' else 4 if sampling == 'resampled' else int(number[0])
    num_clips = dict(test=5, test2=2, test7=7).get(use, 1)
    rule = ClipSampling(sampling, num_frames=16, num_clips=num_clips, stride=stride)
    rule.check()
    for num, expected in RELEASED[name].items():
        if use != 'train':
            assert [clip.tolist() for clip in rule.pick(int(num), rate, None)] == expected
            continue
        draws = [Share(share) for share in (0, 0.5, 0.999999)]
        picked = [rule.pick(int(num), rate, draw)[0].tolist() for draw in draws]
        if sampling != 'resampled':
            assert {draw.high for draw in draws} == {expected['starts']}
            expected = expected['drawn']
        assert picked == expected, num


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (dict(sampling='uniform'), "sampling='uniform' is unknown. Choose 'dense', 'sparse', 'strided', 'spread' or"),
        (dict(sampling='strided'), "stride=None and sampling='strided': 'strided', 'spread' and 'resampled' need a"),
        (dict(stride=4), "stride=4 and sampling='dense'"),
        (dict(sampling='spread', stride=0), 'stride=0 is not positive'),
    ],
)
def test_samplings_that_there_are_not(arguments, message):
    with pytest.raises(ValueError, match=message):
        ClipSampling(**arguments).check()


# ---- Videos whose frames carry their number ----


def picture(number, height, width):
    """RGB (height, width, 3): the upper half shows the bits of the number, the lower half moves."""
    y, x = np.mgrid[:height, :width]
    image = np.stack([3 * x + 7 * number, 5 * y - 3 * number, 2 * (x + y) + number], -1).astype(np.uint8)
    image[: height // 2] = 255 * (number >> (8 * x[: height // 2] // width) & 1)[..., None]
    return image


def number_of(frame):
    """Read the number off a picture."""
    strip = frame[frame.shape[0] // 8 : frame.shape[0] * 3 // 8].mean((0, 2))
    return sum(1 << bit for bit, part in enumerate(np.array_split(strip, 8)) if part[2:-2].mean() > 128)


def encode(
    path,
    stamps=range(60),
    codec='libx264',
    pix_fmt='yuv420p',
    rate=20,
    size=(64, 96),
    rotation=0,
    matrix=None,
    b_frames=2,
    **options,
):
    """Write a video with one numbered frame per time stamp (in 1 / rate s) and a keyframe at least every 20 frames."""
    with av.open(str(path), 'w') as container:
        stream = container.add_stream(codec, rate=min(rate, 25), options=options)
        stream.thread_count = 1  # the same file on any machine
        stream.height, stream.width, stream.pix_fmt = *size, pix_fmt
        stream.codec_context.time_base = Fraction(1, rate)
        stream.codec_context.gop_size = 20
        stream.codec_context.max_b_frames = b_frames
        if rotation:
            stream.set_display_rotation(rotation)
        if matrix:
            stream.set_display_matrix([round(65536 * x) for x in matrix[:8]] + [1 << 30])
        for number, stamp in enumerate(stamps):
            frame = av.VideoFrame.from_ndarray(picture(number, *size), 'rgb24').reformat(format=pix_fmt)
            frame.pts, frame.time_base = stamp, Fraction(1, rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return str(path)


UNEVEN = [0, 50, 100, 350, 400, 401, 900, 950, 1000, 4000, 4020, 4040, 4500, 4600]  # ms, with a still of 3 s
CLOSED = {'x264-params': 'scenecut=0'}
KINDS = {
    'mp4': dict(name='v.mp4', **CLOSED),
    'webm': dict(name='v.webm', codec='libvpx-vp9', b_frames=0, **{'cpu-used': '8', 'deadline': 'realtime'}),
    'mkv': dict(name='v.mkv', **CLOSED),
    'uneven mp4': dict(name='v.mp4', stamps=UNEVEN, rate=1000),
    'uneven mkv': dict(name='v.mkv', stamps=UNEVEN, rate=1000),
    'late start': dict(name='v.mkv', stamps=range(40, 100)),
    'negative stamps': dict(name='v.mp4', stamps=range(-10, 50)),
    'open gop': dict(name='v.mp4', **{'x264-params': 'open-gop=1:scenecut=0:bframes=3'}),
    'gradual refresh': dict(name='v.mp4', b_frames=0, **{'intra-refresh': '1'}),
    'hevc': dict(name='v.mp4', codec='libx265', **{'x265-params': 'bframes=4:b-adapt=0:log-level=none'}),
    'avi mpeg4': dict(name='v.avi', codec='mpeg4'),
    'avi h264': dict(name='v.avi'),
    'turned': dict(name='v.mp4', rotation=90),
    'mjpeg mov': dict(name='v.mov', codec='mjpeg', pix_fmt='yuvj420p', b_frames=0),
    'uneven mjpeg': dict(
        name='v.mp4', codec='mjpeg', pix_fmt='yuvj420p', b_frames=0, stamps=UNEVEN, rate=1000, rotation=180
    ),
    'ts': dict(name='v.ts'),
    'flv': dict(name='v.flv'),
}
PYAV_ONLY = ('ts', 'flv')


@pytest.fixture(scope='module')
def make(tmp_path_factory):
    """Make a video of a kind, once."""

    @cache
    def make(kind):
        options = dict(KINDS[kind])
        return encode(tmp_path_factory.mktemp('video') / options.pop('name'), **options)

    return make


def decode_sequentially(path):
    """Times after the start of the stream, ascending, and the frames shown at them."""
    with av.open(path) as container:
        stream = container.streams.video[0]
        frames = list(container.decode(stream))
        # AVI has no times of display: frames come out in order, labelled in order of decoding; the first is at 0.
        origin = min(frame.pts for frame in frames) if path.endswith('avi') else stream.start_time
        return np.array(sorted(float((frame.pts - origin) * stream.time_base) for frame in frames)), frames


def expected_clip(times, frames, start, seconds, num_frames):
    times = np.round(times, 6)  # no frame of these begins so near an end but at it
    begin, end = round(start, 6), round(start + seconds, 6)
    inside = [i for i, t in enumerate(times) if begin <= t < end] or [max(np.flatnonzero(times <= begin))]
    picked = [frames[inside[i]] for i in np.floor(np.linspace(0, len(inside) - 1, num_frames)).astype(int)]
    return np.stack([as_shown(frame) for frame in picked])


def as_shown(frame):
    matrix = frame.side_data.get('DISPLAYMATRIX')
    pixels = frame.to_ndarray(format='rgb24', threads=1)
    return orient(pixels, 1 if matrix is None else orientation_of_matrix(np.frombuffer(matrix, np.int32)))


@pytest.mark.parametrize(
    ('kind', 'reader'),
    [(kind, 'pyav') for kind in KINDS] + [(kind, 'decord') for kind in KINDS if kind not in PYAV_ONLY],
)
def test_clips_equal_sequential_decoding(make, kind, reader):
    path = make(kind)
    times, frames = decode_sequentially(path)
    with open_video(path, reader) as opened:
        for start, seconds in [(0.1, 0.7), (1.9, 0.8), (1.05, 0.3), (2.15, 0.25), (0.1, 2.7)]:  # forth and back
            clip = opened.read(start, seconds, 8)
            assert clip.dtype == np.uint8
            np.testing.assert_array_equal(clip, expected_clip(times, frames, start, seconds, 8))


@pytest.mark.parametrize(
    ('kind', 'reader'),
    [(kind, 'pyav') for kind in KINDS] + [(kind, 'decord') for kind in KINDS if kind not in PYAV_ONLY],
)
def test_several_clips_at_once_equal_sequential_decoding(make, kind, reader):
    path = make(kind)
    times, frames = decode_sequentially(path)
    with open_video(path, reader) as opened:
        for starts in ([1.9, 0.1, 1.05, 0.3], [0.2, 0.2], [2.3]):  # apart, overlapping, the same
            clips = opened.read_clips(starts, 0.5, 4)
            for clip, start in zip(clips, starts, strict=True):
                np.testing.assert_array_equal(clip, expected_clip(times, frames, start, 0.5, 4))
        with pytest.raises(BrokenVideoError, match=r'no frame at 9\.000 s'):
            opened.read_clips([0.1, 9.0], 0.5, 4)


def test_no_frame_of_several_clips_is_decoded_twice(make, monkeypatch):
    runs, cut = [], video._runs
    monkeypatch.setattr(video, '_runs', lambda *args: runs.append(cut(*args)) or runs[-1])
    with open_video(make('webm')) as opened:  # 60 frames, 20 a second; a keyframe every 20
        together = opened.read_clips([0.1, 0.5, 2.1, 0.3], 0.5, 4)
        assert [[len(run) for run in each] for each in runs] == [[20, 12]]  # nothing of the second before 2
        monkeypatch.setattr(video, 'ONE_PASS', 0.0)
        apart = opened.read_clips([0.1, 0.5, 2.1, 0.3], 0.5, 4)
    assert len(runs) == 5
    np.testing.assert_array_equal(together, apart)


@pytest.mark.parametrize(
    ('kind', 'reader'),
    [(kind, 'pyav') for kind in KINDS] + [(kind, 'decord') for kind in KINDS if kind not in PYAV_ONLY],
)
def test_sparse_clips_equal_sequential_decoding(make, kind, reader):
    path = make(kind)
    times, frames = decode_sequentially(path)
    with open_video(path, reader) as opened:
        # all over the video, at its end, three in one frame, and two far from each other
        for moments in ((np.arange(8) + 0.5) * opened.duration / 8, [2.3, 2.45], [1.01, 1.02, 1.03], [0.37, 2.16]):
            on_screen = [max(np.flatnonzero(times <= moment), default=0) for moment in moments]
            expected = [as_shown(frames[i]) for i in on_screen]
            np.testing.assert_array_equal(opened.read_at(moments), expected)


@pytest.mark.parametrize(
    ('kind', 'reader'),
    [(kind, 'pyav') for kind in KINDS] + [(kind, 'decord') for kind in KINDS if kind not in PYAV_ONLY],
)
def test_strides_count_frames(make, kind, reader):
    """Whatever the frame rate, and where it varies; in several clips no frame is decoded twice."""
    path = make(kind)
    times, frames = decode_sequentially(path)
    with open_video(path, reader) as opened:
        np.testing.assert_allclose(opened.frame_times(0, opened.duration), times, atol=1e-9)
        np.testing.assert_allclose(opened.frame_times(times[3], times[9]), times[3:9], atol=1e-9)
        rule = ClipSampling('strided', num_frames=4, num_clips=3, stride=3)
        clips = rule.read(opened, 0.0, opened.duration, None)
        for clip, numbers in zip(clips, rule.pick(len(times), 25.0, None), strict=True):
            expected = [as_shown(frames[i]) for i in numbers]
            np.testing.assert_array_equal(clip, expected)
        rule = ClipSampling('spread', num_frames=4, stride=1)
        [clip] = rule.read(opened, times[3], times[9] - times[3], None)  # of the frames 3 to 8 of a span
        [numbers] = rule.pick(6, 25.0, None)
        np.testing.assert_array_equal(clip, opened.read_at(times[3 + numbers]))


@pytest.mark.parametrize('kind', ['mp4', 'webm'])
def test_resampled_clips_follow_the_frame_rate_of_the_container(make, kind):
    """60 frames, 20 a second: 12 frames at a stride of 2 of 30 a second are spread over 16 of them."""
    with open_video(make(kind)) as opened:
        [clip] = ClipSampling('resampled', num_frames=12, stride=2).read(opened, 0.0, opened.duration, None)
        expected = np.linspace(22, 22 + 15, 12).astype(int)  # the middle: (60 - 16) / 2
        np.testing.assert_array_equal(clip, opened.read_at(expected / 20))


def test_what_lies_between_keyframes_and_wanted_frames_is_not_decoded(make, monkeypatch):
    monkeypatch.setattr(video.VideoReader, '_reopen', lambda *args: pytest.fail('decoded from the start'))
    runs, cut = [], video._runs
    monkeypatch.setattr(video, '_runs', lambda *args: runs.append(cut(*args)) or runs[-1])
    with open_video(make('webm')) as opened:  # 60 frames, 20 a second; a keyframe every 20
        assert [number_of(frame) for frame in opened.read_at([0.1, 1.2, 2.05])] == [2, 24, 41]
        assert [number_of(frame) for frame in opened.read_at([1.9, 2.0])] == [38, 40]
        assert opened.frame_times(1.2, 2.0).tolist() == pytest.approx(np.arange(24, 40) / 20)
    assert [[len(run) for run in each] for each in runs] == [[3, 5, 2], [19, 1]]


def test_a_frame_shown_before_the_keyframe_in_front_of_it_is_decoded_from_the_one_before():
    # in the order of decoding; the one shown at 18 refers to both keyframes and follows one shown at 24
    pictures = [Picture(stamp, stamp in (0, 20), True, []) for stamp in (0, 8, 4, 20, 24, 18, 28)]
    for wanted in ({18, 24}, {4, 18, 24}):
        assert [[picture.stamp for picture in run] for run in video._runs(pictures, wanted)] == [[0, 8, 4, 20, 24, 18]]
    assert [[picture.stamp for picture in run] for run in video._runs(pictures, {8, 24})] == [[0, 8], [20, 24]]


@pytest.mark.parametrize('kind', PYAV_ONLY)
def test_decord_refuses_what_it_would_read_wrongly(make, kind):
    with pytest.raises(BrokenVideoError, match=f"v.{kind}: decord would give other frames of it. Use reader='pyav'"):
        open_video(make(kind), 'decord')


@pytest.mark.parametrize('reader', READERS)
@pytest.mark.parametrize(
    ('kind', 'origin', 'duration'),
    [('mp4', 0, 3.0), ('webm', 0, 3.0), ('late start', 0, 3.0), ('negative stamps', 10, 2.5), ('avi mpeg4', 0, 3.0)],
)  # fmt: skip
def test_frames_are_those_of_their_time(make, kind, origin, duration, reader):
    with open_video(make(kind), reader) as opened:
        assert opened.duration == pytest.approx(duration, abs=2e-3)
        numbers = [number_of(frame) for frame in opened.read(1.0, 0.8, 16)]
    assert numbers == [origin + 20 + i for i in range(16)]


@pytest.mark.parametrize('reader', READERS)
def test_pictures_are_turned_as_the_file_says(make, reader):
    with open_video(make('turned'), reader) as opened:
        clip = opened.read(1.0, 0.8, 4)
    assert clip.shape == (4, 96, 64, 3)
    assert [number_of(np.rot90(frame, -1)) for frame in clip] == [20, 25, 30, 35]  # stored: 90 degrees clockwise


# By FFmpeg's own filters, which its players insert: where a pixel of the first row is shown
MATRICES = {
    1: (1, 0, 0, 0, 1, 0, 0, 0, 1),
    2: (-1, 0, 0, 0, 1, 0, 96, 0, 1),
    3: (-1, 0, 0, 0, -1, 0, 96, 64, 1),
    4: (1, 0, 0, 0, -1, 0, 0, 64, 1),
    5: (0, 1, 0, 1, 0, 0, 0, 0, 1),
    6: (0, 1, 0, -1, 0, 0, 64, 0, 1),
    7: (0, -1, 0, -1, 0, 0, 64, 96, 1),
    8: (0, -1, 0, 1, 0, 0, 0, 96, 1),
}
FILTERS = {2: 'hflip', 3: 'hflip,vflip', 4: 'vflip', 5: 'transpose=cclock_flip', 6: 'transpose=clock'}
FILTERS |= {7: 'transpose=clock_flip', 8: 'transpose=cclock'}


def filtered(path, filters):
    """The first frame as a filter graph of FFmpeg shows it, RGB."""
    with av.open(path) as container:
        stream = container.streams.video[0]
        graph = av.filter.Graph()
        nodes = [
            graph.add_buffer(template=stream),
            *(graph.add(*f.split('=')) for f in filters),
            graph.add('buffersink'),
        ]
        graph.link_nodes(*nodes).configure()
        graph.push(next(container.decode(stream)))
        return graph.pull().to_ndarray(format='rgb24')


@pytest.mark.parametrize('orientation', MATRICES)
def test_pictures_are_turned_and_mirrored_as_players_do_it(tmp_path, orientation):
    path = encode(tmp_path / 'v.mp4', range(3), matrix=MATRICES[orientation])
    filters = FILTERS.get(orientation)
    shown = filtered(path, filters.split(',') if filters else [])
    with open_video(path) as opened:
        np.testing.assert_array_equal(opened.read_at([0.0])[0], shown)
    reencode(path, tmp_path / 'copy.mp4', 64)
    with open_video(tmp_path / 'copy.mp4') as copy:
        assert copy.read_at([0.0]).shape[1:] == shown.shape
        assert np.abs(copy.read_at([0.0])[0] - shown.astype(int)).mean() < 12
    if orientation in (1, 3, 6, 8):
        with open_video(path, 'decord') as opened:
            assert np.abs(opened.read_at([0.0])[0] - shown.astype(int)).mean() < 1
    else:
        with pytest.raises(BrokenVideoError, match="decord would not turn or mirror it. Use reader='pyav'"):
            open_video(path, 'decord')


def test_frames_that_say_themselves_how_they_are_shown(tmp_path):
    path = str(tmp_path / 'v.mp4')
    with av.open(encode(tmp_path / 's.mp4', range(40))) as source, av.open(path, 'w') as target:
        video, stream = source.streams.video[0], target.add_stream_from_template(source.streams.video[0])
        message = 'h264_metadata=display_orientation=insert:rotate=180:flip=horizontal'
        for packet in BitStreamFilterContext(message, video, stream).filter(next(source.demux(video))):
            packet.stream = stream
            target.mux(packet)
    with open_video(path) as opened, open_video(tmp_path / 's.mp4') as plain:
        np.testing.assert_array_equal(opened.read_at([0.0]), plain.read_at([0.0])[:, ::-1])
    with pytest.raises(BrokenVideoError, match='decord would not turn or mirror it'):
        open_video(path, 'decord')


def say(source, path, messages):
    """Copy an H.264 video with messages of display orientation: number of a frame -> (mirrored, quarters to the left).

    They are byte for byte those of FFmpeg's filter h264_metadata, which writes some after the frame, where none counts.
    """
    with av.open(source) as container, av.open(path, 'w') as target:
        video, stream = container.streams.video[0], target.add_stream_from_template(container.streams.video[0])
        for packet in list(container.demux(video))[:-1]:
            copy = packet
            if (message := messages.get(round(packet.pts * packet.time_base * 20))) is not None:
                mirrored, quarters = message
                bits = f'0{mirrored:b}0{quarters << 14:016b}0100' + '1'  # H.264, D.1.27
                unit = bytes([6, 47, 3]) + int(bits, 2).to_bytes(3, 'big') + b'\x80'
                copy = av.Packet(struct.pack('>I', len(unit)) + unit + bytes(packet))
                copy.pts, copy.dts, copy.time_base = packet.pts, packet.dts, packet.time_base
                copy.is_keyframe = packet.is_keyframe
            copy.stream = stream
            target.mux(copy)


def test_a_message_holds_until_the_next_or_a_keyframe(make, tmp_path):
    path, moments = str(tmp_path / 'v.mp4'), np.arange(60) / 20
    say(make('mp4'), path, {0: (True, 0), 40: (False, 2), 51: (True, 2)})
    with open_video(make('mp4')) as opened:
        stored = opened.read_at(moments)
    shown = np.concatenate([stored[:20, :, ::-1], stored[20:40], stored[40:51, ::-1, ::-1], stored[51:, ::-1]])
    with open_video(path) as opened:
        for start, stop in [(0, 60), (45, 55), (25, 35), (5, 15), (15, 25), (35, 45)]:  # forth and back
            np.testing.assert_array_equal(opened.read_at(moments[start:stop]), shown[start:stop])
            np.testing.assert_array_equal(opened.read_at(moments[[start, stop - 1]]), shown[[start, stop - 1]])
    reencode(path, tmp_path / 'copy.mp4', 64)
    with open_video(tmp_path / 'copy.mp4') as copy:
        assert np.abs(copy.read_at(moments) - shown.astype(int)).mean((1, 2, 3)).max() < 12


def test_messages_that_change_the_size(make, tmp_path):
    path = str(tmp_path / 'v.mp4')
    say(make('mp4'), path, {0: (False, 1), 20: (False, 1), 40: (False, 1)})
    with open_video(path) as opened:
        opened.check()
        assert opened.read(0.0, 3.0, 8).shape == (8, 96, 64, 3)
    say(make('mp4'), path, {0: (False, 1), 20: (False, 1)})
    with open_video(path) as opened, pytest.raises(BrokenVideoError, match=r'its size changes at 2\.000 s'):
        opened.check()


@pytest.mark.parametrize('reader', READERS)
@pytest.mark.parametrize('kind', ['uneven mp4', 'uneven mkv'])
def test_times_decide_where_the_frame_rate_varies(make, kind, reader):
    with open_video(make(kind), reader) as opened:
        assert [number_of(f) for f in opened.read(0.3, 0.65, 4)] == [3, 4, 5, 6]
        assert [number_of(f) for f in opened.read(1.5, 2.0, 3)] == [8, 8, 8]  # the still
        assert [number_of(f) for f in opened.read(3.5, 2.0, 5)] == [9, 10, 11, 12, 13]


@pytest.mark.parametrize('reader', READERS)
def test_frames_that_an_edit_list_cuts_do_not_count(make, tmp_path, reader):
    data = bytearray(Path(make('mp4')).read_bytes())
    begin = data.index(b'elst') + 12  # behind type, version, and number of entries: 3000 ms
    data[begin : begin + 4] = struct.pack('>I', 1500)
    path = tmp_path / 'v.mp4'
    path.write_bytes(data)
    with open_video(path, reader) as opened:
        assert opened.duration == pytest.approx(1.5)
        assert [number_of(frame) for frame in opened.read(1.3, 0.5, 4)] == [26, 27, 28, 29]


def test_streams_that_start_between_keyframes(make, tmp_path):
    path = str(tmp_path / 'v.mkv')
    with av.open(make('open gop')) as source, av.open(path, 'w') as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in list(source.demux(video=0))[30:-1]:
            packet.stream = stream
            target.mux(packet)
    times, frames = decode_sequentially(path)
    assert times[0] > 0.4
    assert len(frames) == 20
    with open_video(path) as opened:
        assert opened.duration == pytest.approx(1.5, abs=0.11)
        for start in (0.1, 0.3, 0.9):
            np.testing.assert_array_equal(opened.read(start, 0.6, 8), expected_clip(times, frames, start, 0.6, 8))


def test_of_motion_jpeg_only_the_wanted_frames_are_read(make, tmp_path, monkeypatch):
    kinds = ('mjpeg mov', 'uneven mjpeg')
    clips = {}
    for kind in kinds:
        with open_video(make(kind)) as opened, monkeypatch.context() as patched:
            clips[kind] = opened.read(0.3, 0.9, 4)
            patched.setattr(video.PyAVReader, '_seek', lambda *args: pytest.fail('read all of the clip'))
            count = Mock(wraps=opened._file.read)
            patched.setattr(opened._file, 'read', count)
            np.testing.assert_array_equal(opened.read(0.3, 0.9, 4), clips[kind])
            assert count.call_count == len({clip.tobytes() for clip in clips[kind]})
    # what the index does not say is left to the packets: cut frames, frames shown at another time, damaged ones
    content = Path(make('mjpeg mov')).read_bytes()
    for word in (b'ctts', b'mvex'):
        path = tmp_path / 'v.mov'
        path.write_bytes(content.replace(b'udta', word))
        with open_video(str(path)) as opened:
            assert not opened._is_indexed
            np.testing.assert_array_equal(opened.read(0.3, 0.9, 4), clips['mjpeg mov'])
    path = damage(make('mjpeg mov'), tmp_path / 'damaged.mov', 0, bytes(400))
    with open_video(path) as opened, pytest.raises(BrokenVideoError, match='Invalid data|damaged'):
        opened.read(0.0, 0.2, 4)


def test_seeking_suffices(make, monkeypatch):
    monkeypatch.setattr(video.VideoReader, '_reopen', lambda *args: pytest.fail('decoded from the start'))
    for kind in ('mp4', 'webm', 'mkv', 'open gop', 'hevc', 'late start'):
        with open_video(make(kind)) as opened:
            for start in (0.0, 0.4, 1.0, 1.95, 2.2):
                numbers = [number_of(frame) for frame in opened.read(start, 0.5, 4)]
                assert numbers == [round(20 * start) + i for i in (0, 3, 6, 9)]


@pytest.mark.parametrize('reader', READERS)
@pytest.mark.parametrize('num_stored', [1, 3])
def test_short_videos_repeat_frames(tmp_path, num_stored, reader):
    path = encode(tmp_path / 'v.mp4', range(num_stored))
    with open_video(path, reader) as opened:
        numbers = [number_of(frame) for frame in opened.read(0.0, 2.7, 7)]
    assert numbers == {1: [0] * 7, 3: [0, 0, 0, 1, 1, 1, 2]}[num_stored]


@pytest.mark.parametrize(
    ('name', 'options'),
    [('v.mp4', dict(pix_fmt='yuv420p10le')), ('v.webm', dict(codec='libvpx-vp9', b_frames=0, size=(65, 97)))],
    ids=['10 bit', 'odd size'],
)
def test_readers_differ_a_little_in_unusual_formats(tmp_path, name, options):
    path = encode(tmp_path / name, range(10), **options)
    times, frames = decode_sequentially(path)
    expected = expected_clip(times, frames, 0.0, 0.5, 5)
    with open_video(path) as pyav, open_video(path, 'decord') as decord:
        np.testing.assert_array_equal(pyav.read(0.0, 0.5, 5), expected)
        # measured: 2.4 and 1.7 grey levels, of 255, in these gaudy pictures
        assert np.abs(decord.read(0.0, 0.5, 5) - expected.astype(float)).mean() < 3


@pytest.mark.parametrize('promised', [0.5, 40.0])
def test_duration_is_measured_not_believed(make, tmp_path, promised):
    data = bytearray(Path(make('webm')).read_bytes())
    begin = data.index(b'\x44\x89\x88') + 3
    data[begin : begin + 8] = struct.pack('>d', 1000 * promised)
    path = tmp_path / 'lies.webm'
    path.write_bytes(data)
    with av.open(str(path)) as container:
        assert container.duration == promised * 1e6
    with open_video(path) as opened:
        assert opened.duration == pytest.approx(3.0)
        with pytest.raises(BrokenVideoError, match=r'lies.webm: no frame at 5.000 s, it lasts 3.000 s'):
            opened.read(5.0, 1.0, 4)


class Memory(mmengine.fileio.BaseStorageBackend):
    """A storage that knows nothing but get."""

    def __init__(self, path):
        self.path = path

    def get(self, filepath):
        if filepath != 'memory://v.mp4':
            raise FileNotFoundError(f'there is no {filepath}')
        return Path(self.path).read_bytes()

    def get_text(self, filepath):
        raise NotImplementedError


@pytest.mark.parametrize('reader', READERS)
def test_other_storages_are_read_through_mmengine(make, reader):
    mmengine.fileio.register_backend('memory', Memory, force=True)
    backend_args = dict(backend='memory', path=make('mp4'))
    with open_video('memory://v.mp4', reader, backend_args) as opened, open_video(make('mp4'), reader) as local:
        np.testing.assert_array_equal(opened.read(1.0, 1.0, 4), local.read(1.0, 1.0, 4))
    with pytest.raises(BrokenVideoError, match='there is no memory://w.mp4'):
        open_video('memory://w.mp4', reader, backend_args)


def test_names_that_ffmpeg_takes_for_protocols(make, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path('concat:a%03d.mp4').write_bytes(Path(make('mp4')).read_bytes())
    with open_video('concat:a%03d.mp4') as opened:
        assert number_of(opened.read(0.0, 1.0, 1)[0]) == 0


# ---- Broken files ----


def box(kind, length, content=b''):
    return struct.pack('>I4s', length, kind) + content


@pytest.mark.parametrize(
    ('data', 'missing'),
    [
        pytest.param(b'', 0, id='empty'),
        pytest.param(b'no video at all, only text', 0, id='text'),
        pytest.param(b'RIFF' + struct.pack('<I', 100) + bytes(100), 0, id='whole avi'),
        pytest.param(b'RIFF' + struct.pack('<I', 100) + bytes(60), 40, id='cut avi'),
        pytest.param(b'RIFF' + struct.pack('<I', 0xFFFFFFFF) + bytes(60), 0, id='avi of unknown length'),
        pytest.param(b'\x1aE\xdf\xa3\x81\0\x18\x53\x80\x67\x40\x64' + bytes(100), 0, id='whole mkv'),
        pytest.param(b'\x1aE\xdf\xa3\x81\0\x18\x53\x80\x67\x40\x64' + bytes(93), 7, id='cut mkv'),
        pytest.param(b'\x1aE\xdf\xa3\x81\0\x18\x53\x80\x67\x01' + b'\xff' * 7 + bytes(9), 0, id='endless mkv'),
        pytest.param(box(b'ftyp', 16, bytes(8)) + box(b'mdat', 50, bytes(42)), 0, id='whole mp4'),
        pytest.param(box(b'ftyp', 16, bytes(8)) + box(b'mdat', 50, bytes(12)), 30, id='cut mp4'),
        pytest.param(box(b'ftyp', 8) + box(b'mdat', 1, struct.pack('>Q', 99)) + bytes(9), 74, id='cut big mp4'),
        pytest.param(box(b'ftyp', 8) + box(b'mdat', 0) + bytes(9), 0, id='mp4 to the end of the file'),
        pytest.param(box(b'ftyp', 8) + b'junk behind it', 0, id='mp4 with junk'),
    ],
)
def test_count_missing_bytes(data, missing):
    assert count_missing_bytes(io.BytesIO(data)) == missing


def write_sound(path):
    with av.open(str(path), 'w') as container:
        stream = container.add_stream('aac', rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), 'fltp', 'mono')
        frame.sample_rate = 8000
        container.mux([*stream.encode(frame), *stream.encode()])


@pytest.mark.parametrize('reader', READERS)
@pytest.mark.parametrize(
    ('name', 'write', 'reason'),
    [
        ('missing.mp4', lambda path: None, 'No such file'),
        ('folder.mp4', lambda path: path.mkdir(), 'Is a directory'),
        ('empty.mp4', lambda path: path.touch(), 'the file is empty'),
        ('text.mp4', lambda path: path.write_text('a line\n' * 99), 'Invalid data found'),
        ('text.txt', lambda path: path.write_text('a line\n' * 99), 'no video stream'),
        ('sound.mp4', write_sound, 'no video stream'),
    ],
)
def test_files_that_are_no_video(tmp_path, name, write, reason, reader):
    write(tmp_path / name)
    with pytest.raises(BrokenVideoError, match=f'{name}: .*{reason}'):
        open_video(tmp_path / name, reader)


@pytest.mark.parametrize('share', [0.3, 0.99])
@pytest.mark.parametrize('kind', ['mp4', 'webm', 'mkv', 'avi mpeg4'])
def test_truncated_files(make, tmp_path, kind, share):
    data = Path(make(kind)).read_bytes()
    path = tmp_path / Path(make(kind)).name
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(BrokenVideoError, match=r'truncated, \d+ bytes are missing|moov atom not found'):
        open_video(path)


@pytest.mark.parametrize('extra', [8, 3000])
@pytest.mark.parametrize(
    'kind', ['mp4 index first', 'mp4 fragments', 'mp4 fragments of old', 'avi mpeg4', 'mkv', 'webm']
)
def test_a_length_that_reaches_over_the_end_of_a_whole_file(make, tmp_path, kind, extra):
    """All that the index refers to is inside; without the last byte of that, the file is truncated."""
    flags = {
        'mp4 index first': '+faststart',
        'mp4 fragments': '+frag_keyframe+empty_moov+default_base_moof+skip_trailer',
        'mp4 fragments of old': '+frag_keyframe+empty_moov+skip_trailer',
    }.get(kind)
    name = 'v.mp4' if flags else Path(make(kind)).name
    path = tmp_path / name
    if flags:
        with av.open(make('mp4')) as old, av.open(str(path), 'w', container_options={'movflags': flags}) as new:
            stream = new.add_stream_from_template(old.streams.video[0])
            for packet in old.demux(video=0):
                if packet.size:
                    packet.stream = stream
                    new.mux(packet)
    else:
        path.write_bytes(Path(make(kind)).read_bytes())
    with open_video(path) as whole:
        expected = whole.read(0.0, 3.0, 8)
    data = bytearray(path.read_bytes())
    if name.endswith('avi'):
        struct.pack_into('<I', data, 4, struct.unpack_from('<I', data, 4)[0] + extra)
    elif name.endswith('mp4'):
        begin = data.rindex(b'mdat') - 4
        struct.pack_into('>I', data, begin, len(data) - begin + extra)
    else:
        begin = data.index(b'\x18\x53\x80\x67') + 5
        data[begin : begin + 7] = (int.from_bytes(data[begin : begin + 7], 'big') + extra).to_bytes(7, 'big')
    path.write_bytes(data)
    with open_video(path) as opened:
        np.testing.assert_array_equal(opened.read(0.0, 3.0, 8), expected)
    for cut in (1, 500):
        path.write_bytes(data[:-cut])
        with pytest.raises(BrokenVideoError, match=f'truncated, {extra + cut} bytes are missing'):
            open_video(path)


def test_a_codec_that_nobody_knows(make, tmp_path):
    path = tmp_path / 'v.mp4'
    path.write_bytes(Path(make('mp4')).read_bytes().replace(b'avc1', b'x9x9'))
    with pytest.raises(BrokenVideoError, match='no video stream'):
        open_video(path)


@pytest.mark.parametrize('kind', ['mp4', 'mkv', 'webm', 'avi mpeg4', 'hevc'])
def test_files_without_their_front_or_middle(make, tmp_path, kind):
    data, path = Path(make(kind)).read_bytes(), tmp_path / Path(make(kind)).name
    rng = np.random.default_rng(0)
    for number in range(12):
        length = int(rng.integers(1, 3000))
        begin = 0 if number < 3 else int(rng.integers(1, len(data) - length))
        path.write_bytes(data[:begin] + data[begin + length :])
        with pytest.raises(BrokenVideoError, match=r'v\.\w+: .'), open_video(path) as opened:
            opened.read(0.0, 3.0, 60)


def test_a_stream_without_a_container(make, tmp_path):
    path = tmp_path / 'v.m4v'
    with av.open(make('avi mpeg4')) as container:
        path.write_bytes(b''.join(bytes(packet) for packet in container.demux(video=0)))
    with pytest.raises(BrokenVideoError, match=r'bare stream without a container \(m4v\)'):
        open_video(str(path))


def damage(source, target, skip, data):
    """Overwrite part of the frame at the second keyframe, ``skip`` bytes behind its begin."""
    with av.open(source) as container:
        packet = [p for p in container.demux(video=0) if p.is_keyframe][1]
    content = bytearray(Path(source).read_bytes())
    content[packet.pos + skip : packet.pos + skip + len(data)] = data
    Path(target).write_bytes(content)
    return str(target)


@pytest.mark.parametrize('reader', READERS)
@pytest.mark.parametrize(
    ('kind', 'skip', 'reason'),
    [
        ('mp4', 0, 'Invalid data found|decord: .*Check failed'),
        ('webm', -4, 'damaged, .* EBML number'),  # FFmpeg alone goes on with the next cluster
    ],
)
def test_overwritten_parts(make, tmp_path, kind, skip, reason, reader):
    path = damage(make(kind), tmp_path / Path(make(kind)).name, skip, bytes(200))
    with pytest.raises(BrokenVideoError, match=reason), open_video(path, reader) as opened:
        opened.read(1.2, 0.5, 4)


def patched_up(path):
    """Whether FFmpeg alone hands out all 60 frames without an error, some of them patched up."""
    try:
        with av.open(path) as container:
            stream = container.streams.video[0]
            stream.thread_type = 'NONE'
            frames = list(container.decode(stream))
    except av.FFmpegError:
        return False
    return len(frames) == 60 and any(frame.is_corrupt for frame in frames)


@pytest.mark.parametrize('reader', READERS)
@pytest.mark.parametrize('kind', ['mp4', 'avi mpeg4'])
def test_frames_that_ffmpeg_patches_up(make, tmp_path, kind, reader):
    path = str(tmp_path / Path(make(kind)).name)
    assert any(patched_up(damage(make(kind), path, skip, b'\x5a\xa5' * 8)) for skip in range(100, 2000, 50))
    with open_video(path, reader) as opened:
        with pytest.raises(BrokenVideoError, match=r'damaged, (no clean frame for 1\.\d+ s|a frame does not decode)'):
            opened.read(1.2, 0.5, 4)
        if reader == 'pyav':  # the other GOPs are fine
            with open_video(make(kind)) as whole:
                for start in (0.1, 2.2):
                    np.testing.assert_array_equal(opened.read(start, 0.5, 4), whole.read(start, 0.5, 4))


def test_damage_is_found_at_each_read(make, tmp_path):
    path = damage(make('webm'), tmp_path / 'v.webm', -4, bytes(200))
    for _ in range(3):  # FFmpeg's second note of the same kind must not get lost
        with pytest.raises(BrokenVideoError, match='EBML'), open_video(path) as opened:
            opened.read(0.9, 0.5, 4)


def test_reading_takes_bounded_time(make, monkeypatch):
    with open_video(make('mp4')) as opened:
        monkeypatch.setattr(video, 'TIME_LIMIT', -1.0)
        with pytest.raises(BrokenVideoError, match='not read within -1 s'):
            opened.read(0.0, 1.0, 4)


@pytest.mark.parametrize(
    ('error', 'reason'),
    [
        (av.error.PermissionError(1, 'Operation not permitted'), 'damaged or not supported, FFmpeg stops with EPERM$'),
        (av.error.ArgumentError(22, 'Invalid argument'), 'damaged or not supported, FFmpeg stops with EINVAL$'),
        (av.error.ExitError(-1, 'Immediate exit requested'), 'not read within 60 s$'),
        (av.error.OSError(5, 'Input/output error'), 'Input/output error$'),
        (PermissionError(13, 'Permission denied'), 'Permission denied$'),
    ],
)
def test_reasons_say_what_is_wrong(make, monkeypatch, error, reason):
    path = make('mp4')

    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(video.av, 'open', fail)
    with pytest.raises(BrokenVideoError, match=reason):
        open_video(path)


def test_ffmpeg_logs_as_before(make):
    av.logging.set_level(av.logging.PANIC)
    try:
        with open_video(make('mp4')) as opened:
            opened.read(0.0, 1.0, 4)
        assert (av.logging.get_level(), av.logging.get_skip_repeated()) == (av.logging.PANIC, True)
    finally:
        av.logging.set_level(None)


@pytest.mark.parametrize('kind', [BrokenFileError, BrokenVideoError])
def test_errors_survive_pickling(kind):
    error = pickle.loads(pickle.dumps(kind('a.mp4', 'it is broken')))
    assert (type(error), error.path, error.reason) == (kind, 'a.mp4', 'it is broken')
    assert str(error) == 'a.mp4: it is broken'
    assert isinstance(error, ValueError)


def test_unknown_reader():
    with pytest.raises(ValueError, match=r"reader is 'opencv'. Choose one of \['decord', 'pyav'\]"):
        open_video('v.mp4', 'opencv')


def test_decord_not_installed(monkeypatch):
    monkeypatch.setattr(media.importlib.util, 'find_spec', lambda name: None)
    with pytest.raises(ValueError, match='not installed. Use .*pip install decord'):
        open_video('v.mp4', 'decord')


# ---- decord's process, and DataLoader workers ----


def is_running(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def wait_for_end(pid, seconds=10.0):
    deadline = time.monotonic() + seconds
    while is_running(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not is_running(pid)


@pytest.mark.parametrize(
    ('crime', 'reason'),
    [
        ('ctypes.PyDLL(None).pause()', 'decord took longer than 1 s'),  # hangs with the GIL held
        ('os.abort()', 'decord died with status -6'),
    ],
)
def test_a_hanging_decord_is_killed_and_replaced(make, tmp_path, monkeypatch, crime, reason):
    (tmp_path / 'decord.py').write_text(
        'import ctypes, os\n'
        'class logging:\n    INFO = 0\n    set_level = print\n'
        f'def VideoReader(*args, **kwargs):\n    {crime}\n'
    )
    monkeypatch.setattr(decord, 'DECORD_PROCESSES', {})
    with open_video(make('mp4'), 'decord') as opened:
        with monkeypatch.context() as patch:
            patch.setattr(video, 'TIME_LIMIT', 1.0)
            patch.setenv('PYTHONPATH', str(tmp_path), prepend=os.pathsep)
            with pytest.raises(BrokenVideoError, match=f'v.mp4: {reason}'):
                opened.read(0.0, 1.0, 4)
        broken = decord.DECORD_PROCESSES[os.getpid()].pid
        assert not is_running(broken)
        assert [number_of(frame) for frame in opened.read(0.0, 1.0, 2)] == [0, 19]
        assert decord.DECORD_PROCESSES[os.getpid()].pid != broken
        assert is_running(decord.DECORD_PROCESSES[os.getpid()].pid)


class Clips(Dataset):
    """What a worker makes of a video: its frames' numbers, and the id of its helper process."""

    def __init__(self, paths, reader):
        self.paths = paths
        self.reader = reader

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, index):
        with open_video(self.paths[index], self.reader) as opened:
            numbers = [number_of(frame) for frame in opened.read(1.0, 0.8, 4)]
        helper = decord.DECORD_PROCESSES.get(os.getpid())
        return numbers, helper.pid if helper else 0


@pytest.mark.parametrize('reader', READERS)
def test_reading_in_workers(make, reader):
    with open_video(make('mp4'), reader) as opened:  # a helper of this process, which the workers must not share
        opened.read(0.0, 1.0, 1)
    paths = [make('mp4'), make('webm')] * 4
    samples = list(DataLoader(Clips(paths, reader), batch_size=None, num_workers=2))
    assert [numbers for numbers, _ in samples] == [[20, 25, 30, 35]] * 8
    helpers = {helper for _, helper in samples}
    if reader == 'decord':
        assert len(helpers) == 2
        assert decord.DECORD_PROCESSES[os.getpid()].pid not in helpers
        assert all(wait_for_end(helper) for helper in helpers)


def test_errors_leave_workers_as_what_they_are(tmp_path):
    path = str(tmp_path / 'empty.mp4')
    Path(path).touch()
    loader = DataLoader(Clips([path], 'pyav'), batch_size=None, num_workers=1)
    with pytest.raises(BrokenVideoError, match='empty.mp4: the file is empty'):
        next(iter(loader))


# ---- Real clips ----


@pytest.mark.skipif(not SHARED_DATA, reason='set OMNIMAE_SHARED_DATA to a folder with clips/')
def test_real_clips_equal_sequential_decoding():
    paths = sorted(str(path) for path in Path(SHARED_DATA or '', 'clips').iterdir())
    assert len(paths) == 9
    for path in paths:
        times, frames = decode_sequentially(path)
        with open_video(path) as pyav, open_video(path, 'decord') as decord:
            assert pyav.duration == decord.duration
            assert times[-1] < pyav.duration < times[-1] + 0.2
            for start in media.frames.test_starts(pyav.duration, 2.7, 2, to_end=False):
                expected = expected_clip(times, frames, start, 2.7, 16)
                np.testing.assert_array_equal(pyav.read(start, 2.7, 16), expected, err_msg=f'pyav {path} {start}')
                np.testing.assert_array_equal(decord.read(start, 2.7, 16), expected, err_msg=f'decord {path} {start}')
