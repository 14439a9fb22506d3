"""Pretrain on folders of images and videos, without labels. It chooses all settings, and says why.

python tools/pretrain.py [--images FOLDER] [--videos FOLDER] --out RUN [--arch tiny|base|large|huge] [--epochs N]

RUN gets config.py, the log, checkpoints and pictures. The same command again resumes. finetune.py --checkpoint RUN
starts from the result. To change more, edit RUN/config.py and train it: train.py RUN/config.py.
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
    parser.add_argument('--images', help='folder of images, with sub-folders or without')
    parser.add_argument('--videos', help='folder of videos, with sub-folders or without')
    parser.add_argument('--out', required=True, help='folder of the run')
    parser.add_argument('--arch', default='auto', help='tiny, base, large or huge; default: base with a GPU, else tiny')
    parser.add_argument('--epochs', type=int, help='passes over the files; default: from their number')
    return parser.parse_args(words)


if __name__ == '__main__':
    omnimae.pretrain(**vars(parse_args()))
