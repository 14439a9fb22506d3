"""Demo data without network: real photographs, and videos of a camera that moves over them.

The photographs come with scikit-image. The label of an image or a video is the place it shows, a photograph and one of
its four corners. The light differs from file to file, so colours alone do not tell the places apart. Training and
validation show other views of the same photographs. ``few.txt`` lists the few training files that have a label. Below
``whole`` lie views of nearly whole photographs, without labels: a person recognises the objects in them.

The camera has four axes (sideways, upright, zoom, turn). Every video draws a journey along every axis. Its motion says
which axis moves, forwards or backwards. The other three stay at a random moment of their journeys.

Legend: a view is (x, y, side, angle): centre and height in pixels of the photograph, radians counter-clockwise.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from functools import cache, partial
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

import av
import cv2
import numpy as np
from PIL import Image

from omnimae.synthetic.files import Job, make_files

PHOTOGRAPHS = (
    'astronaut.png',
    'camera.png',
    'chelsea.png',
    'coffee.png',
    'motorcycle_left.png',
    'rocket.jpg',
)  # of objects, in the wheels of scikit-image 0.25 and 0.26; it downloads others
CORNERS = ('bottom_left', 'bottom_right', 'top_left', 'top_right')  # in the order of the labels
CLASSES = tuple(f'{Path(name).stem}_{corner}' for name in PHOTOGRAPHS for corner in CORNERS)
MOTIONS = {
    'pan_down': (1, 1),
    'pan_left': (0, -1),
    'pan_right': (0, 1),
    'pan_up': (1, -1),
    'rotate_left': (3, 1),
    'rotate_right': (3, -1),
    'zoom_in': (2, -1),
    'zoom_out': (2, 1),
}  # axis and sign
SPLITS = ('train', 'val')
CODECS = {
    # mbtree reads uninitialised memory, so the same frames would make different files
    '.mp4': ('libx264', {'preset': 'veryfast', 'crf': '18', 'threads': '1', 'x264-params': 'mbtree=0'}),
    '.webm': ('libvpx-vp9', {'deadline': 'realtime', 'cpu-used': '8', 'crf': '20', 'b': '0', 'threads': '1'}),
}

SHORT_SIDE = 512  # photographs are scaled to it
FRAME_SIZE = (96, 128)
VIEW_SIDES = (100, 200)  # of a video's view, in pixels of the photograph
ANGLES = (-math.radians(45), math.radians(45))
TRAVELS = ((31, 69), (31, 69), (math.log(1.2), math.log(1.45)), (math.radians(24), math.radians(54)))  # per axis
IMAGE_SIZE = (128, 128)
IMAGE_VIEW_SIDES = (200, 320)
JITTER = 40  # of a place, in pixels of the photograph
IMAGE_ANGLES = (-math.radians(12), math.radians(12))
WHOLE_SIDES = (440, 500)
SECONDS = (2.4, 3.6)
FRAME_RATES = (10, 12, 15)
IMAGES_PER_VIDEO = 2
FEWER = 3  # one of so many training videos has a label, and as many images have one
VERSION = 3  # raise it when the same size and seed make other files
RECORD = 'demo.json'


class Journey(NamedTuple):
    """Where a camera may go, by axis."""

    middles: np.ndarray
    travels: np.ndarray  # lengths
    moments: np.ndarray  # 0..1, where an axis that does not move stays


@cache
def photograph(name: str) -> np.ndarray:
    """A photograph of ``PHOTOGRAPHS`` as (H, W, 3) uint8 RGB, H <= W, its short side ``SHORT_SIDE``."""
    try:
        with (files('skimage') / 'data' / name).open('rb') as file:
            image = Image.open(file).convert('RGB')
    except (ModuleNotFoundError, FileNotFoundError) as error:
        raise ValueError(
            f'The demo data need the photograph {name} of scikit-image: {error}. '
            "Run `pip install 'scikit-image>=0.25'`."
        ) from error
    scale = SHORT_SIDE / min(image.size)
    return np.asarray(image.resize([round(side * scale) for side in image.size], Image.Resampling.LANCZOS))


def draw_journey(image: np.ndarray, corner: str, rng: np.random.Generator) -> Journey:
    """(H, W, 3) -> a journey in a corner of the image that never leaves the image."""
    shortest, longest = zip(*TRAVELS, strict=True)
    travels = rng.uniform(shortest, longest)
    ranges = np.array([np.log(VIEW_SIDES), ANGLES])
    others = rng.uniform(ranges[:, 0] + travels[2:] / 2, ranges[:, 1] - travels[2:] / 2)
    diagonal = np.exp(others[0] + travels[2] / 2) * math.hypot(1, FRAME_SIZE[1] / FRAME_SIZE[0])
    reach = (diagonal + math.hypot(*travels[:2])) / 2
    return Journey(np.concatenate([place(image, corner, reach, rng), others]), travels, rng.uniform(size=4))


def place(image: np.ndarray, corner: str, reach: float, rng: np.random.Generator) -> np.ndarray:
    """(H, W, 3) -> a centre (x, y) near the corner, at least ``reach`` pixels from the edges."""
    height, width = image.shape[:2]
    distances = reach + rng.uniform(0, JITTER, 2)
    return np.where(('right' in corner, 'bottom' in corner), (width, height) - distances, distances)


def camera_path(journey: Journey, motion: str, num_frames: int) -> np.ndarray:
    """The views (num_frames, 4) of a camera that makes this motion of ``MOTIONS``."""
    axis, sign = MOTIONS[motion]
    moments = np.tile(journey.moments, (num_frames, 1))
    moments[:, axis] = np.linspace(0, 1, num_frames)[::sign]
    sideways, upright, zoom, turn = ((moments - 0.5) * journey.travels).T
    # The camera pans along its own axes, not the photograph's, and turns about its own centre.
    tilt = journey.middles[3] + (journey.moments[3] - 0.5) * journey.travels[3]
    x = journey.middles[0] + sideways * np.cos(tilt) + upright * np.sin(tilt)
    y = journey.middles[1] - sideways * np.sin(tilt) + upright * np.cos(tilt)
    return np.stack([x, y, np.exp(journey.middles[2] + zoom), journey.middles[3] + turn], axis=1)


def film(image: np.ndarray, views: np.ndarray, frame_size: tuple[int, int] = FRAME_SIZE) -> Iterator[np.ndarray]:
    """(H, W, 3) and views (T, 4) -> T frames (h, w, 3)."""
    height, width = frame_size
    for x, y, side, angle in views:
        cos, sin = side / height * np.cos(angle), side / height * np.sin(angle)
        to_image = np.array([[cos, sin, 0.0], [-sin, cos, 0.0]])
        to_image[:, 2] = np.array([x, y]) - to_image[:, :2] @ ((width - 1) / 2, (height - 1) / 2)
        yield cv2.warpAffine(image, to_image, (width, height), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)


def write_video(path: Path, frames: Iterator[np.ndarray], rate: int, frame_size: tuple[int, int] = FRAME_SIZE) -> None:
    """Frames (h, w, 3) -> an H.264 mp4 or a VP9 webm, by the suffix of the path."""
    codec, options = CODECS[path.suffix]
    with av.open(str(path), 'w', options={'fflags': '+bitexact'}) as container:
        stream = container.add_stream(codec, rate=rate, options=options)
        stream.height, stream.width = frame_size
        stream.pix_fmt = 'yuv420p'
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format='rgb24')))
        container.mux(stream.encode())


def make_video(path: Path, rng: np.random.Generator, *, photo: str, corner: str, motion: str) -> None:
    """Film one motion over one corner of a photograph, at a random place, zoom, angle, speed and frame rate."""
    rate = int(rng.choice(FRAME_RATES))
    num_frames = round(rate * rng.uniform(*SECONDS))
    image = photograph(photo)
    views = camera_path(draw_journey(image, corner, rng), motion, num_frames)
    write_video(path, film(relight(image, rng), views), rate)


def make_image(path: Path, rng: np.random.Generator, *, photo: str, corner: str) -> None:
    """Take a picture of one corner of a photograph, at a random place, zoom and angle, in random light."""
    image = photograph(photo)
    side, angle = np.exp(rng.uniform(*np.log(IMAGE_VIEW_SIDES))), rng.uniform(*IMAGE_ANGLES)
    reach = side * (math.cos(angle) + abs(math.sin(angle))) / 2
    write_view(path, rng, image, (*place(image, corner, reach, rng), side, angle))


def make_whole(path: Path, rng: np.random.Generator, *, photo: str) -> None:
    """Take a picture of nearly the whole photograph, about its middle, in random light."""
    image = photograph(photo)
    side = rng.uniform(*WHOLE_SIDES)
    x, y = (image.shape[1::-1] + rng.uniform(-1, 1, 2) * (SHORT_SIDE - side)) / 2
    write_view(path, rng, image, (x, y, side, 0.0))


def write_view(path: Path, rng: np.random.Generator, image: np.ndarray, view: tuple[float, ...]) -> None:
    """(H, W, 3) and a view -> a JPEG of it in random light."""
    (frame,) = film(image, np.array([view]), IMAGE_SIZE)
    Image.fromarray(relight(frame, rng)).save(path, quality=90)


def relight(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(H, W, 3) uint8 -> the same in light of another colour, exposure and contrast."""
    exposure, colour, contrast = rng.uniform(-0.3, 0.3), rng.uniform(-0.3, 0.3, 3), rng.uniform(-0.5, 0.2)
    levels = (np.arange(256)[:, None] / 255) ** np.exp(exposure) * np.exp(colour)
    levels = (levels - 0.5) * np.exp(contrast) + 0.5 + rng.uniform(-0.1, 0.1)
    return cv2.LUT(image, (levels.clip(0, 1) * 255).round().astype(np.uint8)[None])


def plan(size: int, seed: int) -> list[Job]:
    """All files of the demo data: ``size`` training videos a place, in turn of all motions, and twice as many images.

    There are twice as many views of each whole photograph, too. Validation has half of that. Seeds are (seed, split,
    place, kind, number).
    """
    jobs = []
    for s, split in enumerate(SPLITS):
        count = size if split == 'train' else math.ceil(size / 2)
        for label, (photo, corner) in enumerate(itertools.product(PHOTOGRAPHS, CORNERS)):
            for i in range(IMAGES_PER_VIDEO * count):
                path = Path('images', split, CLASSES[label], f'{i:05d}.jpg')
                jobs.append(Job(path, (seed, s, label, 0, i), partial(make_image, photo=photo, corner=corner)))
            for i in range(count):
                motion = tuple(MOTIONS)[(label + i) % len(MOTIONS)]
                suffix = tuple(CODECS)[(label // len(CORNERS) + i) % len(CODECS)]
                path = Path('videos', split, CLASSES[label], f'{i:05d}_{motion}{suffix}')
                write = partial(make_video, photo=photo, corner=corner, motion=motion)
                jobs.append(Job(path, (seed, s, label, 1, i), write))
        for p, photo in enumerate(PHOTOGRAPHS):
            for i in range(IMAGES_PER_VIDEO * count):
                path = Path('whole', split, f'{Path(photo).stem}_{i:05d}.jpg')
                jobs.append(Job(path, (seed, s, p, 2, i), partial(make_whole, photo=photo)))
    return jobs


def make_demo(root: str | Path, *, size: int = 24, seed: int = 0, workers: int = 1) -> dict[str, int]:
    """Write images/SPLIT/PLACE/*.jpg, videos/SPLIT/PLACE/*.{mp4,webm}, lists, whole/SPLIT/*.jpg. Return the counts.

    Data of the same size and seed are kept. An interrupted run leaves nothing at ``root``.
    """
    if size < 1:
        raise ValueError(f'size must be at least 1, got {size}.')
    root, jobs = Path(root), plan(size, seed)
    num_videos = sum(job.path.parts[0] == 'videos' for job in jobs)
    record = dict(version=VERSION, size=size, seed=seed, videos=num_videos, images=len(jobs) - num_videos)
    labels = {name: label for label, name in enumerate(CLASSES)}
    labelled = [job.path for job in jobs if job.path.parent.name in labels]
    rows = {path: f'{path.parent.name}/{path.name} {labels[path.parent.name]}\n' for path in labelled}

    def listing(kind: str, split: str, most: int) -> str:
        files = sorted(path for path in rows if path.parts[:2] == (kind, split) and int(path.name[:5]) < most)
        return ''.join(rows[path] for path in files)

    lists = {f'videos/{split}.txt': listing('videos', split, size) for split in SPLITS}
    lists |= {f'{kind}/few.txt': listing(kind, 'train', math.ceil(size / FEWER)) for kind in ('images', 'videos')}
    make_files(root, RECORD, record, jobs, lists, workers)
    return record


def make_maps(root: str | Path) -> int:
    """Write maps for the images of demo data, and for a video of each place. Return how many files there are.

    They replace the outputs of networks on real data. Depth is the brightness of the blurred picture, with 16 bits for
    images and 8 for videos. A class is a corner of the RGB cube, one of 8. Existing files are kept.

        depth/images/SPLIT/PLACE/*.png    semseg/images/SPLIT/PLACE/*.png
        depth/videos/SPLIT/PLACE/*.npy        depth/videos/SPLIT.txt (the videos that have one)
    """
    root, count = Path(root), 0
    for image in sorted(root.glob('images/*/*/*')):
        name = image.relative_to(root).with_suffix('.png')
        if not (root / 'semseg' / name).exists():
            pixels = np.asarray(Image.open(image).convert('RGB'))
            _write_png(root / 'depth' / name, (blurred_brightness(pixels) * 256).astype(np.uint16))
            _write_png(root / 'semseg' / name, (cv2.blur(pixels, (5, 5)) // 128 @ np.array([4, 2, 1])).astype(np.uint8))
        count += 1
    for split in SPLITS:
        listed = [min(folder.iterdir()) for folder in sorted(root.glob(f'videos/{split}/*'))]
        for video in listed:
            array = (root / 'depth' / video.relative_to(root)).with_suffix('.npy')
            if not array.exists():
                array.parent.mkdir(parents=True, exist_ok=True)
                with av.open(str(video)) as container:
                    frames = [frame.to_ndarray(format='rgb24', threads=1) for frame in container.decode(video=0)]
                np.save(array, np.stack([blurred_brightness(frame) for frame in frames]).astype(np.uint8))
        lines = [f'{path.relative_to(root / "videos" / split)}\n' for path in listed]
        (root / 'depth' / 'videos' / f'{split}.txt').write_text(''.join(lines))
        count += len(listed)
    return count


def blurred_brightness(pixels: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 -> (H, W) in 0..255."""
    return cv2.GaussianBlur(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY).astype(np.float32), (0, 0), 3)


def _write_png(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
