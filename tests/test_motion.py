"""Videos of pictures that move over others: what a motion does, what a frame gives away, which files there are."""

from __future__ import annotations

import importlib.util
import json
import re
from collections import Counter
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image
from tiny_benchmarks import write_image

from omnimae.synthetic import motion
from omnimae.synthetic.motion import MOTIONS, PERIOD, Film, draw_film, frames_of, make_small

ROOT = Path(__file__).parents[1]
WHITE, BLACK = np.full((8, 8, 3), 255, np.uint8), np.zeros((8, 8, 3), np.uint8)


def centres(film: Film) -> np.ndarray:
    """Where the white picture in front is in each frame, (T, 2)."""
    places = []
    for frame in frames_of(film):
        bright = frame[..., 0].astype(float)
        places.append([(np.indices(bright.shape) * bright).reshape(2, -1).sum(1) / bright.sum()])
    return np.concatenate(places)


@pytest.mark.parametrize(
    ('velocity', 'expected'),
    [((0, 6), (0, 0.6)), ((0, -6), (0, -0.6)), ((6, 0), (0.6, 0)), ((-6, 0), (-0.6, 0)), ((0, 0), (0, 0))],
)
def test_the_picture_in_front_moves_as_its_velocity_says(velocity, expected):
    still = np.zeros(2)
    places = centres(Film(WHITE, BLACK, np.full(2, PERIOD / 2.0), np.array(velocity, float), still, still))[:7]
    np.testing.assert_allclose(np.diff(places, axis=0), np.tile(expected, (6, 1)), atol=0.05)
    np.testing.assert_allclose(places[0], [(side - 1) / 2 for side in motion.FRAME_SIZE], atol=0.1)


def test_it_comes_back_on_the_other_side():
    period = PERIOD / 10.0  # of frames, at a pixel a frame
    still = np.zeros(2)
    frames = list(frames_of(Film(WHITE, BLACK, np.full(2, PERIOD / 2.0), np.array([0.0, 100.0]), still, still)))
    assert period * 10 == PERIOD
    np.testing.assert_allclose(frames[0], frames[18], atol=1)  # five times round in 18 frames of 10 pixels
    assert all(frame.max() > 200 for frame in frames)


@pytest.mark.parametrize('motion_name', MOTIONS)
def test_a_label_is_a_direction_and_a_speed(motion_name):
    films = [draw_film(WHITE, BLACK, motion_name, np.random.default_rng(i)) for i in range(50)]
    direction, speed = motion_name.split('_')
    low, high = motion.SPEEDS[speed]
    for film in films:
        assert low <= film.velocity @ motion.DIRECTIONS[direction] <= high
        assert film.velocity @ np.flip(motion.DIRECTIONS[direction]) == 0
    starts = np.array([film.start for film in films])
    assert starts.min() < 3
    assert starts.max() > PERIOD - 3


def test_the_background_stays_within_its_picture():
    framed = np.full((56, 56, 3), 255, np.uint8)
    framed[[0, -1]] = framed[:, [0, -1]] = 0  # beyond its edge a picture goes on, here in black
    for seed in range(30):
        film = draw_film(WHITE, framed, 'up_slow', np.random.default_rng(seed))
        for frame in frames_of(
            film._replace(drift=film.drift / np.linalg.norm(film.drift) * motion.BACKGROUND_SPEED[1])
        ):
            dark = frame[..., 0] < 100
            assert dark.all(0).sum() <= 1
            assert dark.all(1).sum() <= 1


@pytest.fixture
def images(tmp_path) -> Path:
    for folder, count in (('train', 18), ('test', 4)):
        for label, name in enumerate('ab'):
            for number in range(count):
                write_image(tmp_path / 'images' / folder / name / f'{number:04}.jpg', label, number)
            (tmp_path / 'images' / folder / name / '0000.txt').write_text('not an image')
    return tmp_path / 'images'


def test_files_lists_and_splits(images, tmp_path):
    root = tmp_path / 'small'
    made = make_small(root, images, size=8, workers=2)
    assert made['videos'] == 8 * (8 + 1 + 2)
    assert made['images'] == 2 * (16 + 2 + 4)
    for split, count in (('train', 8), ('val', 1), ('test', 2)):
        rows = [line.split() for line in (root / 'videos' / f'{split}.txt').read_text().splitlines()]
        assert Counter(int(label) for _, label in rows) == dict.fromkeys(range(8), count)
        for path, label in rows:
            assert path.split('/')[0] == MOTIONS[int(label)]
            assert (root / 'videos' / split / path).is_file()
    lists = {split: (root / f'images_{split}.txt').read_text().splitlines() for split in motion.SPLITS}
    assert not set(lists['train']) & set(lists['val'])
    assert lists['val'] == [f'train/{name}/{i:04}.jpg {label}' for label, name in enumerate('ab') for i in (16, 17)]
    assert lists['test'][0] == 'test/a/0000.jpg 0'
    with av.open(str(root / 'videos' / 'train' / 'up_fast' / '00000.mp4')) as container:
        frames = [frame.to_ndarray(format='rgb24', threads=1) for frame in container.decode(video=0)]
    assert np.stack(frames).shape == (motion.NUM_FRAMES, *motion.FRAME_SIZE, 3)


def test_the_same_arguments_make_the_same_files(images, tmp_path):
    made = {}
    for name in ('one', 'two'):
        make_small(tmp_path / name, images, size=8)
        files = sorted(path for path in (tmp_path / name).rglob('*') if path.is_file())
        made[name] = {path.relative_to(tmp_path / name): path.read_bytes() for path in files}
    assert made['one'] == made['two']
    assert make_small(tmp_path / 'one', images, size=8) == json.loads((tmp_path / 'one' / 'small.json').read_text())


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (dict(size=7), r'size must be at least 8.*got 7'),
        (dict(size=80), r'train.a holds 18 images, size=80 needs 180\. Choose a smaller size'),
        (dict(images='nowhere'), r"root='nowhere/train' is not a folder"),
    ],
)
def test_what_cannot_be_made_is_refused(images, tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        make_small(tmp_path / 'small', arguments.pop('images', images), **{'size': 8, **arguments})
    assert not (tmp_path / 'small').exists()


def test_other_data_at_the_root_are_left_alone(images, tmp_path):
    make_small(tmp_path / 'small', images, size=8)
    with pytest.raises(ValueError, match=r"holds other data than those of .*'size': 8, 'seed': 1, .*\. Remove it"):
        make_small(tmp_path / 'small', images, size=8, seed=1)
    Image.new('RGB', (99, 99)).save(images / 'train' / 'a' / '0000.jpg')
    with pytest.raises(ValueError, match=r"'seed': 0, .*'chosen': '\w+'}\. Remove it"):
        make_small(tmp_path / 'small', images, size=8)


def test_the_command_makes_them(images, tmp_path, capsys):
    spec = importlib.util.spec_from_file_location('prepare_dataset', ROOT / 'tools' / 'prepare_dataset.py')
    prepare_dataset = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(prepare_dataset)
    words = ['small', '--root', str(tmp_path / 'small'), '--images', str(images), '--workers', '1']
    prepare_dataset.main([*words, '--size', '8'])
    assert re.search(r'small: lists of 44 images, 88 videos \(\d+ s\)', capsys.readouterr().out)
    with pytest.raises(SystemExit):
        prepare_dataset.main([*words, '--size', '9'])
    assert re.fullmatch(r'.*: images .* holds 18 images, size=9 needs 20\. .*\n', capsys.readouterr().err)
