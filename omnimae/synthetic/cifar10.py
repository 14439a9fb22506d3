"""CIFAR-10 as a folder of JPEG files, made from the archive of its authors."""

from __future__ import annotations

import itertools
import shutil
from collections import defaultdict
from pathlib import Path

from torchvision.datasets import CIFAR10


def make_cifar10(root: str | Path, archive: str | Path) -> int:
    """Write {train,test}/CLASS/NUMBER.jpg at Pillow's own quality, 75; return how many.

    A run that breaks off leaves nothing at ``root``.

    Args:
        root: to be made.
        archive: the folder that holds ``cifar-10-batches-py``, unpacked from cifar-10-python.tar.gz of
            https://www.cs.toronto.edu/~kriz/cifar.html.
    """
    root, unfinished = Path(root), Path(f'{root}.unfinished')
    if root.exists():
        raise ValueError(f'root {root} exists. Remove it or choose another root.')
    try:
        splits = {split: CIFAR10(archive, train=split == 'train') for split in ('train', 'test')}
    except RuntimeError as error:
        raise ValueError(
            f'archive {archive} does not hold cifar-10-batches-py as it was published. Unpack cifar-10-python.tar.gz '
            'of https://www.cs.toronto.edu/~kriz/cifar.html there.'
        ) from error
    shutil.rmtree(unfinished, ignore_errors=True)
    for split, samples in splits.items():
        numbers: defaultdict[str, itertools.count] = defaultdict(itertools.count)
        for name in samples.classes:
            (unfinished / split / name).mkdir(parents=True)
        for image, label in samples:
            name = samples.classes[label]
            image.save(unfinished / split / name / f'{next(numbers[name]):04d}.jpg')
    unfinished.rename(root)
    return sum(map(len, splits.values()))
