"""The demo data: what the motions mean, where cameras go, which files there are."""

from __future__ import annotations

import itertools
import json
import sys
from collections import Counter
from functools import partial
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from PIL import Image

from omnimae.synthetic import demo
from omnimae.synthetic.demo import (
    CLASSES,
    MOTIONS,
    PHOTOGRAPHS,
    Journey,
    camera_path,
    draw_journey,
    film,
    make_demo,
    make_maps,
)
from omnimae.synthetic.files import Job, run_job

# A journey with round numbers; the angle is a quarter turn, so sideways is upright in the photograph.
JOURNEY = Journey(
    middles=np.array([100.0, 80.0, np.log(40), 0.0]),
    travels=np.array([20.0, 10.0, np.log(4), np.pi / 3]),
    moments=np.array([0.5, 0.5, 0.5, 0.5]),
)


def read(path: Path) -> tuple[np.ndarray, str, float]:
    """-> frames (T, H, W, 3), codec, seconds."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frames = np.stack([frame.to_ndarray(format='rgb24', threads=1) for frame in container.decode(stream)])
        return frames, stream.codec_context.name, len(frames) / float(stream.average_rate)


def digests(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob('*') if path.is_file()}


@pytest.mark.parametrize(
    ('motion', 'expected'),
    [
        ('pan_left', [(110, 80, 40, 0), (100, 80, 40, 0), (90, 80, 40, 0)]),
        ('pan_right', [(90, 80, 40, 0), (100, 80, 40, 0), (110, 80, 40, 0)]),
        ('pan_up', [(100, 85, 40, 0), (100, 80, 40, 0), (100, 75, 40, 0)]),
        ('pan_down', [(100, 75, 40, 0), (100, 80, 40, 0), (100, 85, 40, 0)]),
        ('zoom_in', [(100, 80, 80, 0), (100, 80, 40, 0), (100, 80, 20, 0)]),
        ('zoom_out', [(100, 80, 20, 0), (100, 80, 40, 0), (100, 80, 80, 0)]),
        ('rotate_left', [(100, 80, 40, -np.pi / 6), (100, 80, 40, 0), (100, 80, 40, np.pi / 6)]),
        ('rotate_right', [(100, 80, 40, np.pi / 6), (100, 80, 40, 0), (100, 80, 40, -np.pi / 6)]),
    ],
)
def test_what_each_motion_does_to_the_view(motion: str, expected: list[tuple]):
    np.testing.assert_allclose(camera_path(JOURNEY, motion, 3), expected, atol=1e-12)


def test_the_camera_pans_along_its_own_axes():
    tilted = JOURNEY._replace(middles=np.array([100.0, 80.0, np.log(40), np.pi / 2]))
    # turned left by a quarter, the camera's right is the photograph's up
    path = camera_path(tilted, 'pan_right', 2)
    np.testing.assert_allclose(path[:, :2], [(100, 90), (100, 70)], atol=1e-12)


def test_a_camera_turned_left_sees_the_photograph_turned_right():
    image = demo.photograph('coffee.png')
    views = np.array([(200.0, 200.0, 64.0, 0.0), (200.0, 200.0, 64.0, np.pi / 2)])
    upright, turned = film(image, views, (64, 64))
    np.testing.assert_array_equal(turned, np.rot90(upright, -1))


def test_a_view_of_the_frame_s_size_is_the_photograph_itself():
    image = demo.photograph('coffee.png')
    (frame,) = film(image, np.array([(99.5, 59.5, 40.0, 0.0)]), (40, 60))
    np.testing.assert_array_equal(frame, image[40:80, 70:130])


@pytest.mark.parametrize('corner', demo.CORNERS)
@pytest.mark.parametrize('photo', PHOTOGRAPHS)
def test_no_camera_leaves_the_photograph_or_its_corner(photo: str, corner: str):
    image = demo.photograph(photo)
    height, width = demo.FRAME_SIZE
    corners = np.array(list(itertools.product((-0.5, 0.5), (-0.5, 0.5)))) * (width / height, 1)
    size = np.array([image.shape[1], image.shape[0]])
    for seed in range(20):
        journey = draw_journey(image, corner, np.random.default_rng(seed))
        assert ('right' in corner, 'bottom' in corner) == tuple(journey.middles[:2] > size / 2)
        for motion in MOTIONS:
            for x, y, side, angle in camera_path(journey, motion, 5):
                turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
                places = (x, y) + side * corners @ turn
                assert (places >= 0).all()
                assert (places <= size).all()


def test_a_motion_and_its_reverse_show_the_same_frames():
    journey = draw_journey(demo.photograph('coffee.png'), 'top_left', np.random.default_rng(0))
    for one, other in [('pan_left', 'pan_right'), ('pan_up', 'pan_down'), ('zoom_in', 'zoom_out')]:
        np.testing.assert_array_equal(camera_path(journey, one, 9), camera_path(journey, other, 9)[::-1])
    np.testing.assert_array_equal(camera_path(journey, 'rotate_left', 9), camera_path(journey, 'rotate_right', 9)[::-1])


def test_golden_numbers_of_a_seed():
    # pixels of JPEG and PNG, of Lanczos and of warping may differ in the last bits between versions
    image = demo.photograph('coffee.png')
    journey = draw_journey(image, 'top_left', np.random.default_rng((0, 0, 4, 1, 0)))
    np.testing.assert_allclose(journey.middles, [180.729753, 188.757337, 4.80491, -0.372012], rtol=1e-5)
    frames = np.stack(list(film(image, camera_path(journey, 'pan_left', 3))))
    colours = [(172.90, 68.06, 39.83), (172.80, 61.61, 33.18), (173.89, 61.19, 28.60)]
    np.testing.assert_allclose(frames.mean((1, 2)), colours, atol=0.5)


def test_every_place_is_filmed_and_every_motion_is_seen(demo_root: Path):
    for split in demo.SPLITS:
        for kind in ('images', 'videos'):
            assert {path.name for path in (demo_root / kind / split).iterdir()} == set(CLASSES)
        motions = Counter(path.stem[6:] for path in (demo_root / 'videos' / split).glob('*/*'))
        assert motions.keys() == MOTIONS.keys()


@pytest.mark.parametrize('size', [1, 8, 10])
def test_places_and_motions_are_balanced(size: int):
    paths = Counter(job.path.parts[:3] for job in demo.plan(size, seed=0))
    for name in CLASSES:
        for split, videos in (('train', size), ('val', -(-size // 2))):
            assert (paths['videos', split, name], paths['images', split, name]) == (videos, 2 * videos)
    motions = Counter(job.path.stem[6:] for job in demo.plan(size, seed=0) if job.path.parts[:2] == ('videos', 'train'))
    assert max(motions.values()) == min(motions.values()) == 24 * size / 8


def test_light_changes_colours_and_keeps_shapes():
    image = demo.photograph('coffee.png')
    relit = [demo.relight(image, np.random.default_rng(seed)) for seed in range(20)]
    assert np.std([pixels.mean((0, 1)) for pixels in relit], axis=0).min() > 10
    for pixels in relit:
        assert np.corrcoef(image.mean(2).flatten(), pixels.mean(2).flatten())[0, 1] > 0.8


def test_images_are_jpeg_files(demo_root: Path):
    for path in demo_root.glob('images/*/*/00000.jpg'):
        with Image.open(path) as image:
            assert image.format == 'JPEG'
            assert image.size == demo.IMAGE_SIZE


def test_whole_photographs_have_no_label_and_show_the_middle(demo_root: Path):
    for split, count in (('train', 6), ('val', 4)):
        assert len(list((demo_root / 'whole' / split).iterdir())) == count * len(demo.PHOTOGRAPHS)
    for name in demo.PHOTOGRAPHS:
        image = demo.photograph(name)
        left = (image.shape[1] - demo.SHORT_SIDE) // 2
        middle = cv2.resize(image[:, left : left + demo.SHORT_SIDE], demo.IMAGE_SIZE, interpolation=cv2.INTER_AREA)
        with Image.open(demo_root / 'whole' / 'val' / f'{Path(name).stem}_00000.jpg') as view:
            taken = np.asarray(view).mean(2)
        blurred = [cv2.blur(grey.astype(np.float32), (16, 16)).flatten() for grey in (middle.mean(2), taken)]
        assert np.corrcoef(*blurred)[0, 1] > 0.5  # the light differs by colour


def read_rows(file: Path) -> list[list[str]]:
    return [line.split() for line in file.read_text().splitlines()]


def test_lists_name_files_with_their_labels(demo_root: Path):
    for split in demo.SPLITS:
        rows = read_rows(demo_root / 'videos' / f'{split}.txt')
        folder = demo_root / 'videos' / split
        assert {path for path, _ in rows} == {str(path.relative_to(folder)) for path in folder.rglob('*.*')}
        assert all(sorted(CLASSES)[int(label)] == path.split('/')[0] for path, label in rows)


@pytest.mark.parametrize('kind', ['images', 'videos'])
def test_a_third_of_the_videos_and_as_many_images_have_a_label(demo_root: Path, kind: str):
    rows = read_rows(demo_root / kind / 'few.txt')
    assert len(rows) == len({path for path, _ in rows}) == 24
    assert [int(label) for _, label in rows] == [*range(24)]
    for path, label in rows:
        assert (demo_root / kind / 'train' / path).is_file()
        assert sorted(CLASSES)[int(label)] == path.split('/')[0]


@pytest.mark.parametrize(('suffix', 'codec'), [('.mp4', 'h264'), ('.webm', 'vp9')])
@pytest.mark.parametrize(('motion', 'direction'), [('pan_left', 1), ('pan_right', -1)])
def test_files_hold_the_motion(tmp_path: Path, suffix: str, codec: str, motion: str, direction: int):
    path = tmp_path / f'video{suffix}'
    demo.make_video(path, np.random.default_rng(0), photo='motorcycle_left.png', corner='top_left', motion=motion)
    frames, name, seconds = read(path)
    assert codec in name
    assert frames.shape[1:] == (*demo.FRAME_SIZE, 3)
    assert demo.SECONDS[0] - 0.1 <= seconds <= demo.SECONDS[1] + 0.1
    grey = frames.mean(3, dtype=np.float32)
    shifts = np.array([cv2.phaseCorrelate(a, b)[0] for a, b in itertools.pairwise(grey)])
    assert direction * shifts[:, 0].mean() > 3 * np.abs(shifts[:, 1].mean())


def test_the_same_seed_makes_the_same_bytes_whatever_the_processes(
    demo_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    # of both kinds of files and all folders; maps are made for the first video of a place
    jobs = [job for job in demo.plan(3, 0) if '00000' in job.path.name][::5]
    monkeypatch.setattr(demo, 'plan', lambda size, seed: jobs)
    make_demo(tmp_path / 'again', size=3, workers=1)
    make_maps(tmp_path / 'again')
    again = {path: data for path, data in digests(tmp_path / 'again').items() if not path.endswith(('.txt', '.json'))}
    assert {path.partition('/')[0] for path in again} == {'images', 'videos', 'whole', 'depth', 'semseg'}
    assert again.items() <= digests(demo_root).items()


def test_another_seed_makes_other_files(tmp_path: Path):
    for seed in (0, 1):
        jobs = demo.plan(1, seed)
        for job in (jobs[0], jobs[-7], jobs[-1]):  # an image, a video, a whole photograph
            (tmp_path / str(seed) / job.path).parent.mkdir(parents=True, exist_ok=True)
            run_job(job, tmp_path / str(seed))
    ones, others = digests(tmp_path / '0'), digests(tmp_path / '1')
    assert ones.keys() == others.keys()
    assert all(ones[path] != others[path] for path in ones)


def test_finished_data_are_left_alone_and_others_are_not_overwritten(demo_root: Path):
    before = {path: path.stat().st_mtime_ns for path in demo_root.glob('*/*/*/*')}
    made = make_demo(demo_root, size=3)
    assert made == json.loads((demo_root / 'demo.json').read_text())
    assert (made['videos'], made['images']) == (24 * 5, (24 + 6) * 10)
    with pytest.raises(ValueError, match=r"demo exists and holds other data than those of .*'size': 2, 'seed': 0, "):
        make_demo(demo_root, size=2)
    assert {path: path.stat().st_mtime_ns for path in demo_root.glob('*/*/*/*')} == before


def test_a_run_that_breaks_off_leaves_nothing_at_the_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write = partial(demo.make_video, photo='no.png', corner='top_left', motion='pan_up')
    monkeypatch.setattr(
        demo, 'plan', lambda size, seed: [Job(Path('videos', 'train', CLASSES[0], '00000.gif'), (0,), write)]
    )
    with pytest.raises(ValueError, match=r'photograph no\.png of scikit-image.*pip install'):
        make_demo(tmp_path / 'demo', size=1)
    assert not (tmp_path / 'demo').exists()


def test_error_without_scikit_image(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, 'skimage', None)
    demo.photograph.cache_clear()
    with pytest.raises(ValueError, match=r"photograph coffee\.png of scikit-image.*pip install 'scikit-image>=0\.25'"):
        demo.photograph('coffee.png')


def test_size_must_be_positive(tmp_path: Path):
    with pytest.raises(ValueError, match='size must be at least 1, got 0'):
        make_demo(tmp_path / 'demo', size=0)
