"""Fine-tune a classifier on a folder per class. It chooses all settings, and says why.

python tools/finetune.py DATA --out RUN [--checkpoint RUN|FILE|NAME] [--arch tiny|base|large|huge] [--epochs N]

DATA has train/CLASS/* and val/CLASS/*, or CLASS/* alone, or images and videos, each with one of the two. Or it is a
table, labels.csv: paths relative to it, labels, and perhaps a column split. Without val, one file in five is held out.
RUN gets config.py, the log and checkpoints. The same command again resumes. predict.py --model RUN uses the result. To
change more, edit RUN/config.py and train it: train.py RUN/config.py.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from omnimae.stopping import listen

if __name__ == '__main__':
    listen()  # the imports take seconds

import omnimae


def parse_args(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('data', help='folder of images, videos or both, or a table of them')
    parser.add_argument('--out', required=True, help='folder of the run')
    parser.add_argument('--checkpoint', help='folder of a pretraining, weights or a short name; default: released ones')
    parser.add_argument('--arch', default='auto', help='tiny, base, large or huge; default: base with a GPU, else tiny')
    parser.add_argument('--epochs', type=int, help='passes over the files; default: from their number')
    return parser.parse_args(words)


if __name__ == '__main__':
    omnimae.finetune(**vars(parse_args()))
