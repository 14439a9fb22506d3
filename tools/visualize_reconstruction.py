"""Draw what a pretrained model makes of images and videos of which it sees a few patches only.

python tools/visualize_reconstruction.py CONFIG CHECKPOINT INPUT... --out-dir D [--mp4]
python tools/visualize_reconstruction.py CONFIG_OF_A_MULTIMAE CHECKPOINT INPUT... --out-dir D [--inputs MODALITY...]

INPUT is an image, a video, or a folder of them. Images give a page of original | masked | reconstruction, each video
a strip of frames and a GIF. Masks are drawn as in pretraining, the same ones in every run.

For a MultiMAE INPUT is an image, or the root of a data set as that of the config's ``val_dataloader``, of which the
first 8 samples are drawn, with a row for each task. With --inputs the model sees these modalities whole, and nothing of
the others.
"""

import argparse
import math
import os
import sys
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from torch import Tensor, nn

from omnimae.apis import list_inputs
from omnimae.checkpoint import load_weights
from omnimae.config import load_config
from omnimae.data.media import open_video
from omnimae.data.media.errors import BrokenFileError
from omnimae.data.media.extensions import modality_of
from omnimae.data.media.frames import ClipSampling
from omnimae.data.media.images import read_image
from omnimae.data.transforms import CenterCrop, resize
from omnimae.engine import choose_device, dtype_of, evaluating
from omnimae.registry import DATASETS, MODELS
from omnimae.visualization.reconstructions import (
    Reconstruction,
    animation,
    frame_strip,
    image_grid,
    reconstruct,
    reconstruct_tasks,
    reconstruction_pages,
)
from omnimae.visualization.sheets import write_gif, write_mp4

IMAGES_PER_PAGE = 8


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description='Draw reconstructions of images and videos.')
    parser.add_argument('config', help='path of a pretraining config')
    parser.add_argument('checkpoint', help='path or URL of its weights, ours or published ones')
    parser.add_argument(
        'paths',
        nargs='+',
        type=Path,
        metavar='INPUT',
        help='images, videos, or folders of them; for a MultiMAE images, or the root of a data set',
    )
    parser.add_argument('--out-dir', required=True, type=Path, help='folder for the pictures')
    parser.add_argument('--inputs', nargs='+', metavar='MODALITY', help='what a MultiMAE sees, of the modalities')
    parser.add_argument('--mp4', action='store_true', help='write videos as mp4 instead of GIF')
    return parser.parse_args(argv)


def find_files(inputs: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """Images and videos among the inputs and in folders of them; see `list_inputs`."""
    items = list_inputs(inputs)
    images, videos = ([Path(x.name) for x in items if x.modality == modality] for modality in ('image', 'video'))
    return images, videos


class Painter:
    """Reads files, lets the model reconstruct them and writes pictures; remembers what could not be read.

    Attributes:
        failures: 'path: reason' of each file that is no picture.
    """

    def __init__(self, model: nn.Module, title: str, sampling: ClipSampling, out_dir: Path):
        self.model, self.title, self.out_dir = model, title, out_dir
        self.num_frames, self.height, self.width = model.backbone.grid.clip_size(model.backbone.patch_size)
        self.sampling = sampling._replace(num_frames=self.num_frames)
        self.frame_rate = 0.0  # of the clip that was read last
        self.failures: list[str] = []

    def draw_images(self, paths: Sequence[Path]) -> None:
        """Draw pages of several images each."""
        results = [(path.name, result) for path in paths if (result := self.reconstruct(path))]
        for start in range(0, len(results), IMAGES_PER_PAGE):
            target = self.out_dir / f'images_{start // IMAGES_PER_PAGE + 1}.png'
            image_grid(results[start : start + IMAGES_PER_PAGE], self.title).save(target)
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
        write(clip, animation(result, path.name, self.title), self.frame_rate)
        print(strip, clip, sep='\n')

    def reconstruct(self, path: Path) -> Reconstruction | None:
        """Let the model reconstruct one file; None when it cannot be read."""
        modality = modality_of(path)
        try:
            frames = read_image(str(path)) if modality == 'image' else self._read_clip(path)
        except BrokenFileError as error:
            self.failures.append(str(error))
            return None
        clip = torch.from_numpy(np.ascontiguousarray(self._fit(frames))).movedim(-1, 0)
        torch.manual_seed(zlib.crc32(os.fsencode(path.name)))  # of the mask: another one for each file
        return reconstruct(self.model, clip, modality)

    def _read_clip(self, path: Path) -> np.ndarray:
        """(T, H, W, 3): the middle of the video."""
        with open_video(str(path)) as video:
            seconds = video.duration if self.sampling.sampling == 'sparse' else self.sampling.clip_seconds
            stride = self.sampling.stride
            self.frame_rate = self.num_frames / seconds if stride is None else float(video.frame_rate / stride)
            return self.sampling.read(video, 0.0, video.duration, None)[0]

    def _fit(self, frames: np.ndarray) -> np.ndarray:
        return fit(frames, self.height, self.width)


def fit(frames: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize (T, H, W, 3) to cover (height, width) and cut that out of its middle."""
    scale = max(height / frames.shape[1], width / frames.shape[2])
    size = (math.ceil(scale * length - 1e-6) for length in frames.shape[1:3])
    return CenterCrop(size=(height, width))(resize(frames, *size, 'bicubic'))


def draw_tasks(model: nn.Module, cfg: Config, args: argparse.Namespace, title: str) -> None:
    """Draw a page for each sample, or a strip of frames for each task of it, with a MultiMAE."""
    for name, clips in find_samples(model, cfg, args.paths):
        torch.manual_seed(zlib.crc32(os.fsencode(name)))  # of the mask: another one for each sample
        results = reconstruct_tasks(model, clips, args.inputs)
        named = {f'{name}, {task}': result for task, result in results.items()}
        for key, page in reconstruction_pages(named, title).items():
            path = args.out_dir / f'{(key or name).replace(", ", "_").replace("/", "_")}.png'
            page.save(path)
            print(path)


def find_samples(model: Any, cfg: Config, paths: Sequence[Path]) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Name and clips of images, and of the first samples of the data sets among the paths.

    Raises:
        ValueError: a path that is neither, or a config without held-out data.
    """
    stem = model.backbone.tokenizers['rgb']
    for path in paths:
        if path.is_dir():
            sources = (cfg.get('val_dataloader') or {}).get('dataset', {}).get('sources', {})
            if not sources:
                raise ValueError(
                    f'{path}: a folder is read as val_dataloader says, which the config lacks. Give images.'
                )
            try:
                dataset = DATASETS.build({**next(iter(sources.values())), 'root': str(path)})
            except ValueError as error:
                raise ValueError(
                    f'{path}: a folder is read as val_dataloader says, in the place of its root. {error}'
                ) from error
            for row in range(min(IMAGES_PER_PAGE, len(dataset))):
                sample = dataset[row]
                yield sample['id'], {key: clip[0] for key, clip in sample['clips'].items()}
        elif modality_of(path) == 'image':
            size = stem.grid.clip_size(stem.patch_size)[1:]
            frames = np.ascontiguousarray(fit(read_image(str(path)), *size))
            yield path.name, {'rgb': torch.from_numpy(frames).movedim(-1, 0)}
        else:
            raise ValueError(f'{path} is no image, nor the root of a data set. A MultiMAE takes these.')


def build_model(cfg: Config, checkpoint: str) -> nn.Module:
    """Build the config's model with the weights of a checkpoint.

    Raises:
        ValueError: not a pretraining config, or a checkpoint that does not fit.
    """
    if cfg.model.type not in ('MaskedAutoencoder', 'MultiMAE'):
        raise ValueError(f'model.type={cfg.model.type!r} reconstructs nothing. Give the config of a pretraining.')
    model = MODELS.build({**cfg.model, 'init_cfg': None})
    load_weights(model, checkpoint, complete=True)
    return model.eval().to(choose_device())


def sampling_of(cfg: Config) -> ClipSampling:
    """Look up how the config's first video source takes clips: here one, of the middle."""
    sources = (cfg.get('train_dataloader') or {}).get('dataset', {}).get('sources', {})
    source = next((x for x in sources.values() if 'clip_seconds' in x or 'sampling' in x), {})
    sampling = ClipSampling(**{key: source[key] for key in ClipSampling._fields if key in source})
    return sampling._replace(num_clips=1, to_end=True)


def draw(cfg: Config, args: argparse.Namespace) -> None:
    """Draw a page for each sample of several modalities, or for images and each video."""
    if cfg.model.type == 'MultiMAE':
        args.out_dir.mkdir(parents=True, exist_ok=True)
        model = build_model(cfg, args.checkpoint)
        draw_tasks(model, cfg, args, f'{Path(args.config).stem}, {Path(args.checkpoint).name}')
        return
    images, videos = find_files(args.paths)
    title = f'{Path(args.config).stem}, {Path(args.checkpoint).name}'
    painter = Painter(build_model(cfg, args.checkpoint), title, sampling_of(cfg), args.out_dir)
    args.out_dir.mkdir(parents=True, exist_ok=True)
    painter.draw_images(images)
    for number, path in enumerate(videos, start=1):
        painter.draw_video(path, number, args.mp4)
    if painter.failures:
        total = len(images) + len(videos)
        sys.exit('\n'.join([f'{len(painter.failures)} of {total} files could not be read:', *painter.failures]))


def main(argv: Sequence[str] | None = None) -> None:
    """Draw.

    Raises:
        ValueError: inputs, config or checkpoint cannot be used.
    """
    args = parse_args(argv)
    cfg = load_config(args.config)
    with evaluating(dtype_of(cfg), choose_device()):
        draw(cfg, args)


if __name__ == '__main__':
    sys.stdout.reconfigure(errors='backslashreplace')  # names of files need not be text
    main()
