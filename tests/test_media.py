"""What files show where other toolkits were reported to show something else, and what is not applied, as in theirs."""

from __future__ import annotations

import io
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import odd_videos
import pytest
from PIL import Image

from omnimae.data.annotations import scan_files
from omnimae.data.formats.reencode import COPIES, reencode
from omnimae.data.media import READERS, open_video
from omnimae.data.media.extensions import VIDEO_EXTENSIONS
from omnimae.data.media.images import decode_image

RGB = np.array([200, 50, 20])
KR_KB = {'bt601': (0.299, 0.114), 'bt709': (0.2126, 0.0722), 'bt2020': (0.2627, 0.0593)}  # of ITU-R BT.601, .709, .2020
COLORSPACE = {'bt601': 6, 'bt709': 1, 'bt2020': 9}  # numbers of ISO/IEC 23091-4, table 4
LIMITED, FULL = 1, 2  # of FFmpeg's AVColorRange


def encode(path: Path, frame: av.VideoFrame, codec: str, num_frames: int = 8, **context: Any) -> str:
    """Write a still of ten frames a second."""
    with av.open(str(path), 'w') as container:
        stream = container.add_stream(codec, rate=10)
        stream.width, stream.height, stream.pix_fmt = frame.width, frame.height, frame.format.name
        for name, value in context.items():
            setattr(stream.codec_context, name, value)
        for number in range(num_frames):
            frame.pts, frame.time_base = number, Fraction(1, 10)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return str(path)


def yuv(matrix: str, color_range: int) -> av.VideoFrame:
    """A frame of the colour RGB, by the recommendation's own formulas."""
    kr, kb = KR_KB[matrix]
    red, green, blue = RGB / 255
    luma = kr * red + (1 - kr - kb) * green + kb * blue
    cb, cr = (blue - luma) / (2 - 2 * kb), (red - luma) / (2 - 2 * kr)
    levels = (
        (255 * luma, 128 + 255 * cb, 128 + 255 * cr)
        if color_range == FULL
        else (16 + 219 * luma, 128 + 224 * cb, 128 + 224 * cr)
    )
    planes = np.concatenate([np.full(64 * 48 // share, round(x)) for x, share in zip(levels, (1, 4, 4), strict=True)])
    return av.VideoFrame.from_ndarray(planes.reshape(72, 64).astype(np.uint8), 'yuv420p')


@pytest.mark.parametrize('color_range', [LIMITED, FULL])
@pytest.mark.parametrize('matrix', KR_KB)
def test_colours_of_a_video_are_those_of_its_matrix_and_range(tmp_path, matrix, color_range):
    """PyAV-Org/PyAV#2149 and #2230, meta-pytorch/torchcodec#1262: full range, or BT.709, read as limited BT.601."""
    colours = dict(colorspace=COLORSPACE[matrix], color_range=color_range)
    path = encode(tmp_path / 'v.mkv', yuv(matrix, color_range), 'ffv1', **colours)
    copies = {codec: str(tmp_path / f'copy{kind.ending}') for codec, kind in COPIES.items()}
    for codec, copy in copies.items():
        reencode(path, copy, 48, codec)
    for file, readers in ((path, READERS), *((copy, ['pyav']) for copy in copies.values())):
        for reader in readers:
            with open_video(file, reader) as video:
                assert np.abs(video.read(0.0, 0.8, 2)[:, 20, 30].astype(int) - RGB).max() <= 5, (file, reader)


@pytest.mark.parametrize(
    ('ending', 'codec', 'kind'),
    [
        *(('mts', 'libx264', 'mpegts'), ('M2TS', 'libx264', 'mpegts'), ('ts', 'mpeg2video', 'mpegts')),
        *(('vob', 'mpeg2video', 'vob'), ('gif', 'gif', 'gif')),
    ],
)
def test_videos_of_every_ending_are_found_and_read(tmp_path, ending, codec, kind):
    name = f'v.{ending}'
    with av.open(str(tmp_path / name), 'w', format=kind) as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, 'rgb8' if codec == 'gif' else 'yuv420p'
        for number in range(25):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 10 * number, np.uint8), 'rgb24')
            frame = frame.reformat(format=stream.pix_fmt)
            frame.pts, frame.time_base = number, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    assert scan_files(str(tmp_path), VIDEO_EXTENSIONS) == [name]
    with open_video(tmp_path / name) as video:
        assert video.duration == pytest.approx(1.0, abs=0.05)
        shown = video.read(0.0, 0.98, 4).mean((1, 2, 3))
    assert np.abs(shown - [0, 80, 160, 240]).max() < 20  # a GIF has 256 colours


def test_before_the_first_keyframe_of_a_recording_its_frame_is_shown(tmp_path):
    """facebookresearch/pytorchvideo#246: clips of a stream that begins between keyframes (broadcasts) were None."""
    whole = odd_videos.encode(tmp_path / 'whole.ts', 'libx264')
    path = odd_videos.rearrange(whole, tmp_path / 'v.ts', lambda pieces: pieces[10:])
    with av.open(path) as container:
        first = next(container.decode(video=0)).to_ndarray(format='rgb24', threads=1)
    with open_video(path) as video:
        assert 1.9 < video.duration < 2.6  # of 2.5 s the first half second cannot be decoded
        for clip in (video.read(0.0, 0.2, 2), video.read_at([0.0, 0.1])):
            np.testing.assert_array_equal(clip, np.stack([first, first]))


@pytest.mark.parametrize('transfer', ['smpte2084', 'arib-std-b67'])
def test_the_transfer_of_hdr_is_not_applied(tmp_path, transfer):
    """meta-pytorch/torchcodec#585: levels come out as they are coded, as of all readers of FFmpeg's kind."""
    number = {'smpte2084': 16, 'arib-std-b67': 18}[transfer]
    colours = dict(colorspace=9, color_range=LIMITED, color_primaries=9)
    frame = yuv('bt2020', LIMITED).reformat(format='yuv420p10le')
    shown = []
    for name, more in (('hdr', dict(color_trc=number)), ('sdr', {})):
        with open_video(encode(tmp_path / f'{name}.mkv', frame, 'ffv1', **colours, **more)) as video:
            shown.append(video.read(0.0, 0.8, 1))
    np.testing.assert_array_equal(*shown)


@pytest.mark.parametrize('reader', READERS)
def test_pixels_that_are_not_square_stay_as_they_are_stored(tmp_path, reader):
    """meta-pytorch/torchcodec#733."""
    path = encode(tmp_path / 'v.mp4', yuv('bt601', LIMITED), 'mpeg4', sample_aspect_ratio=Fraction(16, 9))
    with av.open(path) as container:
        assert container.streams.video[0].sample_aspect_ratio == Fraction(16, 9)
    with open_video(path, reader) as video:
        assert video.read(0.0, 0.8, 1).shape == (1, 48, 64, 3)


def test_of_videos_alpha_is_not_applied(tmp_path):
    """Zulko/moviepy#2229: the colour under transparent pixels is shown, as ffmpeg does; images have white there."""
    pixels = np.zeros((48, 64, 4), np.uint8)
    pixels[:] = (*RGB, 0)
    with open_video(encode(tmp_path / 'v.mov', av.VideoFrame.from_ndarray(pixels, 'rgba'), 'png')) as video:
        assert video.read(0.0, 0.8, 1)[0, 20, 30].tolist() == RGB.tolist()


def test_profiles_and_gamma_are_not_applied():
    """chaiNNer-org/chaiNNer#3296: the published data loaders take the levels of the file for sRGB, whatever it says."""
    from PIL import ImageCms, PngImagePlugin

    image = Image.new('RGB', (8, 8), tuple(RGB.tolist()))
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile('XYZ')).tobytes()
    chunks = PngImagePlugin.PngInfo()
    chunks.add(b'gAMA', (100000).to_bytes(4, 'big'))
    for options in (dict(icc_profile=profile), dict(pnginfo=chunks)):
        file = io.BytesIO()
        image.save(file, 'PNG', **options)
        assert (decode_image(file.getvalue()) == RGB).all()


@pytest.mark.parametrize('codec', COPIES)
def test_a_copy_has_the_times_of_its_original(tmp_path, codec):
    """Spans of a list mean the same moments in both (prepare_dataset.py ek100 --short-side)."""
    whole = odd_videos.encode(tmp_path / 'whole.ts', 'libx264')
    path = odd_videos.rearrange(whole, tmp_path / 'v.ts', lambda pieces: pieces[10:])
    target = tmp_path / f'copy{COPIES[codec].ending}'
    reencode(path, target, 64, codec)
    with open_video(path) as original, open_video(str(target)) as copy:
        assert copy.duration == pytest.approx(original.duration, abs=0.02)
        clips = [video.read(1.0, 0.5, 4).astype(int) for video in (original, copy)]
    assert np.abs(clips[0] - clips[1]).mean() < 8
