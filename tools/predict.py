"""Classify images and videos with a fine-tuned model, and write a table.

python tools/predict.py INPUT... --model RUN [--checkpoint FILE] [--out predictions.csv] [--topk K]
python tools/predict.py CONFIG CHECKPOINT INPUT... [--out predictions.csv] [--topk K] [--cfg-options k=v ...]

RUN is the folder of a fine-tuning, such as the --out of finetune.py. It may also be a config; then give --checkpoint.
Each row has the input, its class and score, the next classes, and the error of a file that cannot be read.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from omnimae.stopping import say_start

if __name__ == '__main__':
    say_start()  # the imports take seconds

import omnimae
from omnimae.commands import add_cfg_options
from omnimae.config import load_config


def parse_args(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        'inputs', nargs='+', metavar='input', help='images, videos, or folders of them; without --model a config and '
        'a checkpoint first',
    )  # fmt: skip
    parser.add_argument('--model', help='folder of a fine-tuning, or a config')
    parser.add_argument('--checkpoint', help='path, URL or short name of the weights; default: the best of the folder')
    parser.add_argument(
        '--out', default='predictions.csv', help='the table, .csv or .parquet; default: predictions.csv'
    )
    parser.add_argument('--topk', type=int, default=5, help='classes of a row; default: 5')
    parser.add_argument('--device', help='cuda or cpu; default: a GPU if there is one')
    parser.add_argument('--num-workers', type=int, default=0, help='processes that read files; default: 0')
    add_cfg_options(parser)
    args = parser.parse_args(words)
    if args.model is None:
        if len(args.inputs) < 3 or args.checkpoint is not None:
            parser.error('give --model RUN and inputs, or CONFIG CHECKPOINT INPUT...')
        args.model, args.checkpoint, *args.inputs = args.inputs
    elif args.cfg_options:
        parser.error('--cfg-options change a config. Give CONFIG CHECKPOINT INPUT... instead of --model')
    return args


def main(words: Sequence[str] | None = None) -> None:
    """Predict."""
    args = vars(parse_args(words))
    if options := args.pop('cfg_options'):
        args['model'] = load_config(args['model'], options)
    print(omnimae.predict(args.pop('inputs'), **args))


if __name__ == '__main__':
    sys.stdout.reconfigure(errors='backslashreplace')  # file names may be no text
    main()
