"""Videos for the small experiments, made from a folder of images: one picture moves over another moving one.

The label of a video is the motion of the front picture: its direction and its speed. Pictures, places, the motion of
the background and the start of the film have the same distribution for all labels. A front picture that leaves on one
side comes back on the other. So a single drawn frame says nothing about the label. A little is left in the file: H.264
blurs fast pictures more, which tells fast from slow in 6 of 10 single frames.

Legend: a place is (y, x) in pixels of the frame.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from omnimae.data import storage
from omnimae.data.annotations import scan_folder
from omnimae.data.media.extensions import IMAGE_EXTENSIONS
from omnimae.data.media.images import read_image
from omnimae.synthetic.demo import write_video
from omnimae.synthetic.files import Job, make_files

DIRECTIONS = {'down': (1, 0), 'left': (0, -1), 'right': (0, 1), 'up': (-1, 0)}
SPEEDS = {'fast': (26.0, 34.0), 'slow': (9.0, 13.0)}  # pixels a second
MOTIONS = tuple(f'{direction}_{speed}' for direction in DIRECTIONS for speed in SPEEDS)  # in the order of the labels
SPLITS = {'train': 1.0, 'val': 0.125, 'test': 0.25}  # share of the number of training videos
BACKGROUND_SPEED = (0.0, 12.0)  # speed of the background, in any direction
FRAME_SIZE = (32, 32)
FRONT_SIDE = 18  # of the front picture, which is cut to a disc
PERIOD = 36  # pixels after which the front picture comes back
RATE = 10
NUM_FRAMES = 20
IMAGES_PER_VIDEO = 2  # of a class, for each video of a motion
RECORD = 'small.json'
VERSION = 1  # raise it when the same arguments make other files


class Film(NamedTuple):
    """What a video shows."""

    front: np.ndarray  # (h, w, 3) uint8
    background: np.ndarray  # (h, w, 3) uint8
    start: np.ndarray  # place of the front picture
    velocity: np.ndarray  # of the front picture, pixels a second
    drift: np.ndarray  # velocity of the background
    pan: np.ndarray  # where the window on the background begins, 0..1 of the places that the drift allows


def draw_film(front: np.ndarray, background: np.ndarray, motion: str, rng: np.random.Generator) -> Film:
    """Two pictures (h, w, 3) and a motion of ``MOTIONS`` -> a film at random places and speeds."""
    direction, speed = motion.split('_')
    angle = rng.uniform(0, 2 * np.pi)
    return Film(
        front,
        background,
        rng.uniform(0, PERIOD, 2),
        np.array(DIRECTIONS[direction]) * rng.uniform(*SPEEDS[speed]),
        np.array([np.sin(angle), np.cos(angle)]) * rng.uniform(*BACKGROUND_SPEED),
        rng.uniform(size=2),
    )


def frames_of(film: Film) -> Iterator[np.ndarray]:
    """A film -> its frames (h, w, 3) uint8."""
    size = np.array(FRAME_SIZE)
    travel = np.abs(film.drift) * (NUM_FRAMES - 1) / RATE
    side = int(np.ceil((size + BACKGROUND_SPEED[1] * NUM_FRAMES / RATE).max()))
    background = cv2.resize(film.background, (side, side), interpolation=cv2.INTER_CUBIC)
    first = film.pan * (side - size - travel) + np.where(film.drift < 0, travel, 0)
    front = cv2.resize(film.front, (FRONT_SIDE, FRONT_SIDE), interpolation=cv2.INTER_AREA).astype(np.float32)
    rows, columns = (np.indices((FRONT_SIDE, FRONT_SIDE)) - (FRONT_SIDE - 1) / 2) ** 2
    disc = np.clip(FRONT_SIDE / 2 - np.sqrt(rows + columns), 0, 1).astype(np.float32)
    height, width = FRAME_SIZE
    for seconds in np.arange(NUM_FRAMES) / RATE:
        y, x = first + film.drift * seconds
        canvas = _moved(background, -y, -x, width, height).astype(np.float32)
        y, x = (film.start + film.velocity * seconds) % PERIOD - (PERIOD - size) / 2 - FRONT_SIDE / 2
        # near the edge of the period one part of the disc has not left yet, and the other is back
        for top in (y - PERIOD, y, y + PERIOD):
            for left in (x - PERIOD, x, x + PERIOD):
                if max(abs(top), abs(left)) < PERIOD:
                    share = _moved(disc, top, left, width, height)[..., None]
                    canvas += share * (_moved(front, top, left, width, height) - canvas)
        yield canvas.round().clip(0, 255).astype(np.uint8)


def _moved(picture: np.ndarray, y: float, x: float, width: int, height: int) -> np.ndarray:
    """(h, w[, 3]) -> (height, width[, 3]) with its corner at (y, x). Outside its edge pixels repeat."""
    to_frame = np.array([[1.0, 0.0, x], [0.0, 1.0, y]])
    border = cv2.BORDER_REPLICATE if picture.ndim == 3 else cv2.BORDER_CONSTANT
    return cv2.warpAffine(picture, to_frame, (width, height), flags=cv2.INTER_LINEAR, borderMode=border)


def make_video(path: Path, rng: np.random.Generator, *, images: Sequence[str], motion: str) -> None:
    """Write a video of one motion that shows two of these images."""
    front, background = (read_image(images[number])[0] for number in rng.integers(len(images), size=2))
    write_video(path, frames_of(draw_film(front, background, motion, rng)), RATE, FRAME_SIZE)


def split_images(images: Path, size: int) -> dict[str, list[tuple[str, int]]]:
    """A folder with train/CLASS and test/CLASS -> (path below it, label) of each image of train, val and test.

    The first images of each train/CLASS are for training, the last ones for validation.
    """
    splits: dict[str, list[tuple[str, int]]] = {split: [] for split in SPLITS}
    counts = {split: round(IMAGES_PER_VIDEO * size * share) for split, share in SPLITS.items()}
    names = {folder: scan_folder(str(images / folder), IMAGE_EXTENSIONS).classes for folder in ('train', 'test')}
    if not names['train'] or names['train'] != names['test']:
        raise ValueError(
            f'images {images} must have the same class folders in train and test; found {names["train"]} and '
            f'{names["test"]}.'
        )
    for label, name in enumerate(names['train']):
        paths = {
            folder: sorted(
                f'{folder}/{name}/{path}'
                for path in storage.list_files(str(images / folder / name))
                if path.lower().endswith(IMAGE_EXTENSIONS)
            )
            for folder in names
        }
        enough = dict(train=counts['train'] + counts['val'], test=counts['test'])
        for folder, needed in enough.items():
            if len(paths[folder]) < needed:
                raise ValueError(
                    f'images {images / folder / name} holds {len(paths[folder])} images, size={size} needs {needed}. '
                    'Choose a smaller size.'
                )
        chosen = dict(
            train=paths['train'][: counts['train']],
            val=paths['train'][-counts['val'] :],
            test=paths['test'][: counts['test']],
        )
        for split in SPLITS:
            splits[split] += [(path, label) for path in chosen[split]]
    return splits


def make_small(
    root: str | Path, images: str | Path, *, size: int = 500, seed: int = 0, workers: int = 1
) -> dict[str, Any]:
    """Write videos/SPLIT/MOTION/*.mp4, videos/SPLIT.txt and lists of ``images``, images_SPLIT.txt.

    Videos of a split show images of that split only. Data of the same arguments are kept. An interrupted run leaves
    nothing at ``root``.

    Args:
        root: folder to make.
        images: a folder with train/CLASS and test/CLASS.
        size: training videos of each motion; validation has an eighth of it, test a quarter.
        seed: of all random numbers.
        workers: processes.

    Returns:
        What was made, as ``RECORD`` in the folder says it.
    """
    root, images = Path(root), Path(images)
    if size < 8:
        raise ValueError(f'size must be at least 8, so that each split has a video of each motion, got {size}.')
    splits = split_images(images, size)
    videos = {split: int(size * share) for split, share in SPLITS.items()}  # of each motion
    num_videos, num_images = len(MOTIONS) * sum(videos.values()), sum(map(len, splits.values()))
    sizes = [[path, label, os.path.getsize(images / path)] for rows in splits.values() for path, label in rows]
    chosen = hashlib.sha256(json.dumps(sizes).encode()).hexdigest()[:12]
    record = dict(version=VERSION, size=size, seed=seed, videos=num_videos, images=num_images, chosen=chosen)
    jobs, lists = [], {}
    for s, (split, count) in enumerate(videos.items()):
        pool, rows = [str(images / path) for path, _ in splits[split]], []
        for label, motion in enumerate(MOTIONS):
            write = partial(make_video, images=pool, motion=motion)
            for i in range(count):
                jobs.append(Job(Path('videos', split, motion, f'{i:05d}.mp4'), (seed, s, label, i), write))
                rows.append(f'{motion}/{i:05d}.mp4 {label}\n')
        lists[f'videos/{split}.txt'] = ''.join(rows)
        lists[f'images_{split}.txt'] = ''.join(f'{path} {label}\n' for path, label in splits[split])
    make_files(root, RECORD, record, jobs, lists, workers)
    return record
