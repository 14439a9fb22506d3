"""Draw which places of an image or video speak for the class that a classifier predicts.

python tools/explain.py RUN INPUT... --out-dir D
python tools/explain.py CONFIG CHECKPOINT INPUT... --out-dir D [--cfg-options k=v ...]

D gets a picture for each input, with its name: the image beside its map, or a strip of frames above theirs. Red is the
most. Of several test views the middle one is explained. The maps are gradient times activation, as in HiResCAM
(arXiv:2011.08891), of the tokens before the last layer. So they tell what the last layer reads, see `saliency`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from omnimae.stopping import start_tool

if __name__ == '__main__':
    start_tool('Pictures that are done are kept.')  # the imports take seconds

from mmengine.registry import init_default_scope

from omnimae.apis import Explainer
from omnimae.commands import add_picture_arguments, end_drawing, model_parser, parse_model
from omnimae.inputs import output_names
from omnimae.visualization.saliency import saliency_sheet


def parse_args(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Command line."""
    parser = model_parser(__doc__, 'images, videos, or folders of them')
    add_picture_arguments(parser, 'folder for the pictures')
    return parse_model(parser, words)


def main(words: Sequence[str] | None = None) -> None:
    """Explain."""
    args = parse_args(words)
    init_default_scope('omnimae')
    names = output_names(args.paths)  # a missing file is an error now, before the model is loaded
    explain = Explainer(args.config, args.checkpoint, device=args.device, cfg_options=args.cfg_options)
    files, failures = [], []
    for result in explain.stream(args.paths):
        if result.clip is None or result.effect is None:
            failures.append(f'{result.input}: {result.error}')
            continue
        label, name, probability = result.guesses[0]
        title = f'{Path(result.input).name}: {name or f"class {label}"}, {probability:.0%}'
        path = args.out_dir / f'{names[result.input]}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        saliency_sheet(result.clip, result.effect, title, name or f'class {label}').save(path)
        files.append(path)
    end_drawing(files, args.out_dir, failures, len(names))


if __name__ == '__main__':
    sys.stdout.reconfigure(errors='backslashreplace')  # file names may be no text
    main()
