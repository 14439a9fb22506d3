"""Draw what a pretrained model sees of images and videos, and what it predicts.

python tools/visualize_reconstruction.py RUN INPUT... --out-dir D [--mp4]
python tools/visualize_reconstruction.py CONFIG CHECKPOINT INPUT... --out-dir D [--mp4] [--cfg-options k=v ...]
python tools/visualize_reconstruction.py CONFIG_OF_A_MULTIMAE CHECKPOINT INPUT... --out-dir D [--inputs MODALITY...]

INPUT is an image, a video, or a folder of them. Images give pages of original | masked | reconstruction. Each video
gives a strip of frames and a GIF with its name. Masks are drawn as in pretraining, the same ones in every run.

For a MultiMAE, INPUT is an image or a folder. A folder takes the place of the root in the config's ``val_dataloader``,
and its first 8 samples are drawn, with a row for each task. With --inputs the model sees these modalities whole, and
nothing of the others.
"""

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from omnimae.stopping import start_tool

if __name__ == '__main__':
    start_tool('Pictures that are done are kept.')  # the imports take seconds

from mmengine.config import Config

from omnimae.apis import Reconstructor, resolve
from omnimae.commands import end_drawing, model_parser, out_folder, parse_model
from omnimae.data.media import open_video
from omnimae.data.media.extensions import modality_of
from omnimae.data.media.frames import ClipSampling
from omnimae.inputs import list_inputs, output_names
from omnimae.registry import DATASETS
from omnimae.visualization.reconstructions import (
    Reconstruction,
    animation,
    frame_strip,
    image_grid,
    reconstruction_pages,
)
from omnimae.visualization.sheets import write_gif, write_mp4

IMAGES_PER_PAGE = 8
Samples = Iterator[Mapping[str, Any]] | None


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Command line."""
    parser = model_parser(__doc__, 'images, videos, or folders of them; for a MultiMAE images, or a root of data')
    parser.add_argument('--out-dir', required=True, type=out_folder, help='folder for the pictures')
    parser.add_argument('--inputs', nargs='+', metavar='MODALITY', help='modalities that a MultiMAE sees whole')
    parser.add_argument('--mp4', action='store_true', help='write videos as mp4 instead of GIF')
    return parse_model(parser, argv)


def draw_files(reconstruct: Reconstructor, args: argparse.Namespace, names: Mapping[str, str], title: str) -> None:
    """Draw pages of several images, and each video; at the end name the files that cannot be read."""
    args.out_dir.mkdir(parents=True, exist_ok=True)
    images: list[tuple[str, Reconstruction]] = []
    files: list[Path] = []
    failures: list[str] = []
    for result in reconstruct.stream(args.paths):
        path, name = Path(result.input), names[result.input]
        if result.error is not None:
            failures.append(f'{path}: {result.error}')
            continue
        [drawn] = result.reconstructions.values()
        if result.modality == 'image':
            images.append((f'{name}{"" if name.endswith(path.suffix) else path.suffix}', drawn))
        else:
            rate = frame_rate(path, reconstruct.pipelines['video'].sampling)
            files += draw_video(drawn, path, args.out_dir / name, title, rate, args.mp4)
    for start in range(0, len(images), IMAGES_PER_PAGE):
        target = args.out_dir / f'images_{start // IMAGES_PER_PAGE + 1}.png'
        image_grid(images[start : start + IMAGES_PER_PAGE], title).save(target)
        files.append(target)
    end_drawing(files, args.out_dir, failures, len(names))


def draw_video(drawn: Reconstruction, path: Path, stem: Path, title: str, rate: float, mp4: bool) -> tuple[Path, Path]:
    """Draw a strip of frames, and the clip in motion -> their files."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    strip, clip = Path(f'{stem}_strip.png'), Path(f'{stem}.mp4' if mp4 else f'{stem}.gif')
    frame_strip(drawn, path.name, title).save(strip)
    write = write_mp4 if mp4 else write_gif
    write(clip, animation(drawn, path.name, title), rate)
    return strip, clip


def frame_rate(path: Path, sampling: ClipSampling) -> float:
    """Frames a second of a clip that is taken of a video."""
    with open_video(str(path)) as video:
        if sampling.stride is not None:
            return float(video.frame_rate / sampling.stride)
        seconds = video.duration if sampling.sampling == 'sparse' else sampling.clip_seconds
    return sampling.num_frames / seconds


def draw_tasks(
    reconstruct: Reconstructor, args: argparse.Namespace, inputs: Mapping[Path, Samples], title: str
) -> None:
    """Draw a page for each sample, or a strip of frames for each of its tasks, with a MultiMAE."""
    args.out_dir.mkdir(parents=True, exist_ok=True)
    files = []
    for path, samples in inputs.items():
        for name, results in reconstruct_input(reconstruct, path, samples):
            for key, page in reconstruction_pages(results, title).items():
                files.append(args.out_dir / f'{(key or name).replace(", ", "_").replace("/", "_")}.png')
                page.save(files[-1])
    end_drawing(files, args.out_dir, (), len(inputs))


def reconstruct_input(
    reconstruct: Reconstructor, path: Path, samples: Samples
) -> Iterator[tuple[str, Mapping[str, Reconstruction]]]:
    """Name and reconstructions of an image, or of the first samples of a data set."""
    if samples is not None:
        for sample in islice(samples, IMAGES_PER_PAGE):
            yield sample['id'], reconstruct.reconstruct(sample)
    else:
        [result] = reconstruct(path)
        if result.error is not None:
            raise ValueError(f'{path}: {result.error}')
        yield path.name, result.reconstructions


def samples_of(cfg: Config, path: Path) -> Samples:
    """Samples of a data set, None for an image."""
    if path.is_dir():
        return open_dataset(cfg, path)
    if modality_of(path) != 'image':
        raise ValueError(f'{path} is neither an image nor the root of a data set. A MultiMAE takes these.')
    list_inputs(path)  # it must exist
    return None


def open_dataset(cfg: Config, root: Path) -> Iterator[Mapping[str, Any]]:
    """Samples of the first validation source, with another root."""
    sources = (cfg.get('val_dataloader') or {}).get('dataset', {}).get('sources', {})
    if not sources:
        raise ValueError(f'{root}: a folder needs a val_dataloader in the config, which has none. Give images.')
    try:
        dataset = DATASETS.build({**next(iter(sources.values())), 'root': str(root)})
    except ValueError as error:
        raise ValueError(f'{root}: the folder cannot be the root of the val_dataloader. {error}') from error
    return (dataset[row] for row in range(len(dataset)))


def main(argv: Sequence[str] | None = None) -> None:
    """Draw.

    Raises:
        ValueError: inputs, config or checkpoint cannot be used.
    """
    args = parse_args(argv)
    cfg, checkpoint = resolve(args.config, args.checkpoint, args.cfg_options, Reconstructor.names)
    title = ', '.join([Path(args.config).stem, *([Path(args.checkpoint).name] if args.checkpoint else [])])
    # inputs that cannot be used are an error now, before the model is loaded
    if cfg.model.type == 'MultiMAE':
        inputs = {path: samples_of(cfg, path) for path in map(Path, args.paths)}
        draw_tasks(Reconstructor(cfg, checkpoint, inputs=args.inputs, progress=False), args, inputs, title)
    else:
        names = output_names(args.paths)
        draw_files(Reconstructor(cfg, checkpoint, inputs=args.inputs), args, names, title)


if __name__ == '__main__':
    sys.stdout.reconfigure(errors='backslashreplace')  # file names may be no text
    main()
