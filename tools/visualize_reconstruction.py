"""Draw what a pretrained model makes of images and videos of which it sees a few patches only.

python tools/visualize_reconstruction.py CONFIG CHECKPOINT INPUT... --out-dir D [--mp4]

INPUT is an image, a video, or a folder of them. Images give a page of original | masked | reconstruction, each video
a strip of frames and a GIF. Masks are drawn as in pretraining, the same ones in every run.
"""

import argparse
import math
import sys
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config
from torch import nn

from omnimae.checkpoint import load_weights
from omnimae.config import load_config
from omnimae.data.datasets import IMAGE_EXTENSIONS, VIDEO_EXTENSIONS, read_image
from omnimae.data.transforms import CenterCrop, resize
from omnimae.data.video import BrokenFileError, open_video
from omnimae.registry import MODELS
from omnimae.visualization import Reconstruction, animation, frame_strip, image_grid, reconstruct, write_gif, write_mp4

IMAGES_PER_PAGE = 8
DEFAULT_CLIP_SECONDS = 2.7


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description='Draw reconstructions of images and videos.')
    parser.add_argument('config', help='path of a pretraining config')
    parser.add_argument('checkpoint', help='path or URL of its weights, ours or published ones')
    parser.add_argument('inputs', nargs='+', type=Path, metavar='INPUT', help='images, videos, or folders of them')
    parser.add_argument('--out-dir', required=True, type=Path, help='folder for the pictures')
    parser.add_argument('--mp4', action='store_true', help='write videos as mp4 instead of GIF')
    return parser.parse_args(argv)


def find_files(inputs: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """Images and videos among the inputs and in folders of them.

    Raises:
        ValueError: a path that does not exist or that is neither, or a folder without any.
    """
    files = []
    for path in inputs:
        if not path.exists():
            raise ValueError(f'{path} does not exist. Give images, videos, or folders of them.')
        found = sorted(file for file in path.rglob('*') if _modality(file)) if path.is_dir() else [path]
        if not all(map(_modality, found)) or not found:
            raise ValueError(
                f'{path} is no image or video, nor a folder with one. Known are files that end in '
                f'{", ".join(IMAGE_EXTENSIONS + VIDEO_EXTENSIONS)}.'
            )
        files += found
    images, videos = ([file for file in files if _modality(file) == modality] for modality in ('image', 'video'))
    return images, videos


def _modality(path: Path) -> str | None:
    suffix = path.suffix.lower()
    return 'image' if suffix in IMAGE_EXTENSIONS else 'video' if suffix in VIDEO_EXTENSIONS else None


class Painter:
    """Reads files, lets the model reconstruct them and writes pictures; remembers what could not be read.

    Attributes:
        failures: 'path: reason' of each file that is no picture.
    """

    def __init__(self, model: nn.Module, title: str, clip_seconds: float, out_dir: Path):
        self.model, self.title, self.clip_seconds, self.out_dir = model, title, clip_seconds, out_dir
        grid, patch_size = model.backbone.grid, model.backbone.patch_size
        self.num_frames, self.height, self.width = (n * p for n, p in zip(grid, patch_size, strict=True))
        self.failures: list[str] = []

    def draw_images(self, paths: Sequence[Path]) -> None:
        """Draw pages of several images each."""
        results = [(path.name, result) for path in paths if (result := self.reconstruct(path))]
        for start in range(0, len(results), IMAGES_PER_PAGE):
            names, pictures = zip(*results[start : start + IMAGES_PER_PAGE], strict=True)
            target = self.out_dir / f'images_{start // IMAGES_PER_PAGE + 1}.png'
            image_grid(pictures, names, self.title).save(target)
            print(target)

    def draw_video(self, path: Path, number: int, mp4: bool) -> None:
        """Draw a strip of frames, and the clip in motion."""
        result = self.reconstruct(path)
        if result is None:
            return
        stem = self.out_dir / f'video_{number}_{path.stem}'
        strip, clip = Path(f'{stem}_strip.png'), Path(f'{stem}.mp4' if mp4 else f'{stem}.gif')
        frame_strip(result, path.name, self.title).save(strip)
        write = write_mp4 if mp4 else write_gif
        write(clip, animation(result, path.name, self.title), len(result.original) / self.clip_seconds)
        print(strip, clip, sep='\n')

    def reconstruct(self, path: Path) -> Reconstruction | None:
        """Let the model reconstruct one file; None when it cannot be read."""
        modality = _modality(path)
        try:
            frames = read_image(str(path)) if modality == 'image' else self._read_clip(path)
        except BrokenFileError as error:
            self.failures.append(str(error))
            return None
        clip = torch.from_numpy(np.ascontiguousarray(self._fit(frames))).movedim(-1, 0)
        torch.manual_seed(zlib.crc32(path.name.encode()))  # of the mask: another one for each file
        return reconstruct(self.model, clip, modality)

    def _read_clip(self, path: Path) -> np.ndarray:
        """(T, H, W, 3): the middle of the video."""
        with open_video(str(path)) as video:
            start = max(video.duration - self.clip_seconds, 0) / 2
            return video.read(start, self.clip_seconds, self.num_frames)

    def _fit(self, frames: np.ndarray) -> np.ndarray:
        """Resize (T, H, W, 3) to cover the model's size and cut its middle out."""
        height, width = frames.shape[1:3]
        scale = max(self.height / height, self.width / width)
        frames = resize(frames, math.ceil(scale * height - 1e-6), math.ceil(scale * width - 1e-6), 'bicubic')
        return CenterCrop(size=(self.height, self.width))(frames)


def build_model(cfg: Config, checkpoint: str) -> nn.Module:
    """Build the config's model with the weights of a checkpoint.

    Raises:
        ValueError: not a pretraining config, or a checkpoint that does not fit.
    """
    if cfg.model.type != 'MaskedAutoencoder':
        raise ValueError(f'model.type={cfg.model.type!r} reconstructs nothing. Give the config of a pretraining.')
    model = MODELS.build({**cfg.model, 'init_cfg': None})
    load_weights(model, checkpoint)
    return model.eval().to('cuda' if torch.cuda.is_available() else 'cpu')


def clip_seconds_of(cfg: Config) -> float:
    """Look up the clip length of the config's first video source."""
    sources = (cfg.get('train_dataloader') or {}).get('dataset', {}).get('sources', {})
    return next((x['clip_seconds'] for x in sources.values() if 'clip_seconds' in x), DEFAULT_CLIP_SECONDS)


def main(argv: Sequence[str] | None = None) -> None:
    """Draw.

    Raises:
        ValueError: inputs, config or checkpoint cannot be used.
    """
    args = parse_args(argv)
    images, videos = find_files(args.inputs)
    cfg = load_config(args.config)
    title = f'{Path(args.config).stem}, {Path(args.checkpoint).name}'
    painter = Painter(build_model(cfg, args.checkpoint), title, clip_seconds_of(cfg), args.out_dir)
    args.out_dir.mkdir(parents=True, exist_ok=True)
    painter.draw_images(images)
    for number, path in enumerate(videos, start=1):
        painter.draw_video(path, number, args.mp4)
    if painter.failures:
        total = len(images) + len(videos)
        sys.exit('\n'.join([f'{len(painter.failures)} of {total} files could not be read:', *painter.failures]))


if __name__ == '__main__':
    main()
