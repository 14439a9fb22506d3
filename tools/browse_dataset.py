"""Draw samples as the training loader yields them, one page for each source, with replicas side by side.

python tools/browse_dataset.py CONFIG --out-dir D [--cfg-options k=v ...]
"""

import argparse
import sys
from collections.abc import Sequence

from omnimae.stopping import start_tool

if __name__ == '__main__':
    start_tool('Pages that are done are kept.')  # the imports take seconds

import numpy as np
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from PIL import Image
from torch.utils.data import DataLoader

from omnimae.commands import add_cfg_options, new_parser, out_folder
from omnimae.config import load_config
from omnimae.engine import setup_environment
from omnimae.structures import Batch
from omnimae.visualization.maps import map_picture
from omnimae.visualization.sheets import Row, of_one_size, sheet, strip_frames

NUM_SAMPLES = {'image': 16, 'video': 4}
IMAGES_PER_ROW = 4


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Command line."""
    parser = new_parser(__doc__)
    add_cfg_options(parser)
    parser.add_argument('--out-dir', required=True, type=out_folder, help='folder for the pages, one per source')
    return parser.parse_args(argv)


def first_batches(loader: DataLoader) -> dict[str, Batch]:
    """Read a few samples of the first micro-batch of each source."""
    dataset, batches = loader.dataset, {}
    for addresses in loader.batch_sampler:
        source = addresses[0].source
        name = dataset.names[source]
        if name not in batches:
            few = addresses[: NUM_SAMPLES[dataset.sources[source].modality]]
            batches[name] = loader.collate_fn([dataset[address] for address in few])
        if len(batches) == len(dataset.names):
            break
    return batches


def page(batch: Batch, name: str, replicas: int, classes: Sequence[str] | None) -> Image.Image:
    """Draw the samples of a source."""
    notes = [_note(batch, i, classes) for i in range(0, len(batch['ids']), replicas)]
    if [*batch['clips']] != ['rgb'] or 'target' in batch:
        return _aligned_page(batch, name, replicas, notes)
    clips = batch['clips']['rgb'].movedim(-4, -1).numpy()  # (B, T, H, W, 3)
    samples = clips.reshape(-1, replicas, *clips.shape[1:])
    _, frames, height, width, _ = clips.shape
    title = f'{name}: {len(samples)} {batch["modality"]}s of {frames}x{height}x{width} (frames x height x width)'
    if replicas > 1:
        title += f', {replicas} replicas each'
    if batch['modality'] == 'video':
        return sheet(title, _video_rows(samples, notes))
    return sheet(title, _image_rows(samples[:, :, 0], notes))


def _note(batch: Batch, row: int, classes: Sequence[str] | None) -> str:
    note = batch['ids'][row]
    if 'labels' in batch:
        label = int(batch['labels'][row])
        note += f', label {label}' + (f' ({classes[label]})' if classes else '')
    return note


def _aligned_page(batch: Batch, name: str, replicas: int, notes: Sequence[str]) -> Image.Image:
    """Draw the modalities of a sample side by side, those of a video one below the other. The target is last."""
    clips = {**batch['clips'], **({'target': batch['target']} if 'target' in batch else {})}
    num_frames = next(iter(clips.values())).shape[2]
    chosen = strip_frames(num_frames)
    rows = []
    for i in range(len(batch['ids'])):
        pictures = {key: [map_picture(clip[i, :, t], like=clip[i]) for t in chosen] for key, clip in clips.items()}
        if num_frames == 1:
            rows.append(Row(of_one_size([frames[0] for frames in pictures.values()])))
        else:
            columns = [of_one_size(frames) for frames in zip(*pictures.values(), strict=True)]
            rows += [Row(frames, key) for key, frames in zip(pictures, zip(*columns, strict=True), strict=True)]
        rows[-1] = rows[-1]._replace(caption=notes[i // replicas])
    title = f'{name}: {len(notes)} {batch["modality"]}s of {len(clips)} modalities'
    return sheet(title, rows, [*clips] if num_frames == 1 else ())


def _image_rows(samples: np.ndarray, notes: Sequence[str]) -> list[Row]:
    """(S, R, H, W, 3) -> rows of the replicas of a sample, or of several samples without replicas."""
    if samples.shape[1] > 1:
        return [Row(replicas, caption=note) for replicas, note in zip(samples, notes, strict=True)]
    starts = range(0, len(samples), IMAGES_PER_ROW)
    return [Row(samples[i : i + IMAGES_PER_ROW, 0], notes=notes[i : i + IMAGES_PER_ROW]) for i in starts]


def _video_rows(samples: np.ndarray, notes: Sequence[str]) -> list[Row]:
    """(S, R, T, H, W, 3) -> a strip of frames of each replica, those of a sample one below the other."""
    num_replicas, num_frames = samples.shape[1:3]
    chosen = strip_frames(num_frames)
    rows = []
    for replicas, note in zip(samples, notes, strict=True):
        labels = [f'replica {i + 1}' if num_replicas > 1 else '' for i in range(num_replicas)]
        rows += [Row(clip[chosen], label) for clip, label in zip(replicas, labels, strict=True)]
        rows[-1] = rows[-1]._replace(caption=note)
    return rows


def main(argv: Sequence[str] | None = None) -> None:
    """Draw the pages."""
    args = parse_args(argv)
    setup_environment()
    cfg = load_config(args.config, args.cfg_options)
    if cfg.get('train_dataloader') is None:
        raise ValueError(f'{args.config} has no train_dataloader, so there is nothing to show.')
    init_default_scope('omnimae')
    loader = Runner.build_dataloader(cfg.train_dataloader, seed=0)
    args.out_dir.mkdir(parents=True, exist_ok=True)
    sources = dict(zip(loader.dataset.names, loader.dataset.sources, strict=True))
    for name, batch in first_batches(loader).items():
        for path, reason in batch['failures']:
            print(f'replaced a broken file: {path}: {reason}')
        path = args.out_dir / f'{name}.png'
        page(batch, name, sources[name].replicas, getattr(sources[name], 'classes', None)).save(path)
        print(path)


if __name__ == '__main__':
    sys.stdout.reconfigure(errors='backslashreplace')  # file names may be no text
    main()
