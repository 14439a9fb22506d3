"""Segment images, or predict their depth, with a fine-tuned DensePredictor.

python tools/predict_maps.py RUN INPUT... --out-dir D
python tools/predict_maps.py CONFIG CHECKPOINT INPUT... --out-dir D [--cfg-options k=v ...]

D/maps gets a map of each image, with its name and at its size: classes in 8 bits, or depth in 16, in the unit of the
training data. D/pictures shows image and map side by side. Both are upright, as the EXIF of the image says. To train
with such maps, set ``aligned_as='upright'`` in the source, see `AlignedDataset`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from omnimae.stopping import start_tool

if __name__ == '__main__':
    start_tool('Maps that are done are kept.')  # the imports take seconds

import numpy as np
import torch
from mmengine.registry import init_default_scope
from PIL import Image

from omnimae.apis import MapPredictor
from omnimae.commands import add_picture_arguments, end_drawing, model_parser, parse_model
from omnimae.inputs import output_names
from omnimae.visualization.maps import map_picture
from omnimae.visualization.sheets import Row, sheet


def parse_args(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Command line."""
    parser = model_parser(__doc__, 'image files, or folders of them')
    add_picture_arguments(parser, 'folder for maps and pictures')
    return parse_model(parser, words)


def main(words: Sequence[str] | None = None) -> None:
    """Predict."""
    args = parse_args(words)
    init_default_scope('omnimae')
    names = output_names(args.paths)  # a missing file is an error now, before the model is loaded
    options = dict(device=args.device, batch_size=1, cfg_options=args.cfg_options)
    predict = MapPredictor(args.config, args.checkpoint, **options)
    files, failures = [], []
    for result in predict.stream(args.paths):
        if result.image is None or result.pixels is None:
            failures.append(f'{result.input}: {result.error}')
            continue
        path, picture = (args.out_dir / folder / f'{names[result.input]}.png' for folder in ('maps', 'pictures'))
        for file in (path, picture):
            file.parent.mkdir(parents=True, exist_ok=True)
        pixels = result.pixels
        if pixels.dtype != np.uint8:
            pixels = pixels.round().clip(0, 2**16 - 1).astype(np.uint16)
        Image.fromarray(pixels).save(path)
        panels = [result.image, map_picture(torch.from_numpy(result.pixels)[None])]
        sheet(names[result.input], [Row(panels)], ['image', 'prediction']).save(picture)
        files += [path, picture]
    end_drawing(files, args.out_dir, failures, len(names))


if __name__ == '__main__':
    sys.stdout.reconfigure(errors='backslashreplace')  # file names may be no text
    main()
