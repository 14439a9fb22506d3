"""Classify images and videos with a fine-tuned model, and write a table.

python tools/predict.py INPUT... --model RUN [--checkpoint FILE] [--out predictions.csv] [--topk K]
python tools/predict.py CONFIG CHECKPOINT INPUT... [--out predictions.csv] [--topk K] [--cfg-options k=v ...]

RUN is the folder of a fine-tuning, such as the --out of finetune.py. Words may have any order, also without --model.
Each row has the input, its class and score, the next classes, and the error of a file that cannot be read.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from omnimae.stopping import start_tool

if __name__ == '__main__':
    start_tool('No table was written. The same command starts anew.')  # the imports take seconds

import omnimae
from omnimae.apis import ClassificationInferencer, resolve
from omnimae.commands import model_parser, parse_model


def parse_args(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Command line."""
    parser = model_parser(__doc__, 'images, videos, or folders of them')
    parser.add_argument(
        '--out', default='predictions.csv', help='the table, .csv or .parquet; default: predictions.csv'
    )
    parser.add_argument('--topk', type=int, default=5, help='classes of a row; default: 5')
    parser.add_argument('--device', help='cuda or cpu; default: a GPU if there is one')
    parser.add_argument('--num-workers', type=int, default=0, help='processes that read files; default: 0')
    return parse_model(parser, words)


def main(words: Sequence[str] | None = None) -> None:
    """Predict."""
    args = vars(parse_args(words))
    names = ClassificationInferencer.names
    model, checkpoint = resolve(args.pop('config'), args.pop('checkpoint'), args.pop('cfg_options'), names)
    print(omnimae.predict(args.pop('paths'), model, checkpoint=checkpoint, **args))


if __name__ == '__main__':
    sys.stdout.reconfigure(errors='backslashreplace')  # file names may be no text
    main()
