"""Draw what one model makes of images and clips as more and more of them is hidden.

python benchmarks/draw_ratios.py CONFIG CHECKPOINT --seen FILE... --unseen FILE... --out-dir D [--ratios 0.75 0.9 0.95]

CONFIG is that of a pretraining. Tokens are hidden at random, whatever it says. Writes images.png, a row for each
image, and a video_NUMBER.png for each video, a row for each ratio.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from omnimae.apis import Reconstructor, list_inputs
from omnimae.registry import MODELS
from omnimae.visualization.reconstructions import Reconstruction
from omnimae.visualization.sheets import Row, sheet

COLUMNS = 4  # frames of a clip


def parse_args(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description='Draw reconstructions at several shares of hidden tokens.')
    parser.add_argument('config', help='path of a pretraining config')
    parser.add_argument('checkpoint', help='path of its weights')
    parser.add_argument('--seen', nargs='+', type=Path, required=True, metavar='FILE', help='of the training data')
    parser.add_argument('--unseen', nargs='+', type=Path, required=True, metavar='FILE', help='of other data')
    parser.add_argument('--out-dir', type=Path, required=True, help='folder for the pictures')
    parser.add_argument('--ratios', nargs='+', type=float, default=[0.75, 0.9, 0.95])
    return parser.parse_args(words)


def reconstructions(reconstruct: Reconstructor, path: str, ratios: Sequence[float]) -> list[Reconstruction]:
    """One file, hidden by each ratio.

    Raises:
        ValueError: the file cannot be read, or a ratio hides nothing or everything.
    """
    results = []
    for ratio in ratios:
        masking = MODELS.build(dict(type='RandomMasking', ratio=ratio))
        reconstruct.model.mask_generator = dict(image=masking, video=masking)
        [result] = reconstruct(path)
        if result.error is not None:
            raise ValueError(f'{path}: {result.error}')
        results += result.reconstructions.values()
    return results


def image_row(label: str, results: Sequence[Reconstruction]) -> Row:
    """Original | what is seen | what is made of it | ... of one image."""
    pairs = [panel[0] for result in results for panel in (result.masked, result.reconstruction)]
    return Row([results[0].original[0], *pairs], label)


def clip_rows(results: Sequence[Reconstruction], ratios: Sequence[float]) -> list[Row]:
    """The original's frames, then of each ratio what is seen and what is made of it."""
    chosen = torch.linspace(0, len(results[0].original) - 1, COLUMNS).round().long().tolist()
    rows = [Row(results[0].original[chosen], 'original')]
    for result, ratio in zip(results, ratios, strict=True):
        rows += [
            Row(result.masked[chosen], f'{100 * ratio:g} % hidden'),
            Row(result.reconstruction[chosen], 'predicted'),
        ]
    return rows


def main(words: Sequence[str] | None = None) -> None:
    """Draw."""
    args = parse_args(words)
    reconstruct = Reconstructor(args.config, args.checkpoint, progress=False)
    args.out_dir.mkdir(parents=True, exist_ok=True)
    rows, number = [], 0
    for label, paths in (('seen', args.seen), ('unseen', args.unseen)):
        for item in list_inputs(paths):
            results = reconstructions(reconstruct, item.name, args.ratios)
            if item.modality == 'image':
                rows.append(image_row(label, results))
                continue
            number += 1
            title = f'{label} in training: {Path(item.name).parent.name}'
            sheet(title, clip_rows(results, args.ratios)).save(args.out_dir / f'video_{number}.png')
    if rows:
        heads = [head for ratio in args.ratios for head in (f'{100 * ratio:g} % hidden', 'predicted')]
        sheet('seen in training, and not', rows, ['original', *heads]).save(args.out_dir / 'images.png')


if __name__ == '__main__':
    try:
        main()
    except ValueError as error:
        sys.exit(f'draw_ratios.py: {error}')
