"""Data sets as their authors distribute them: the paper's six benchmarks and others.

A reader (``read_NAME``) turns the official annotation files into an `Annotation`. `preparation.prepare` turns it into
the lists that training reads.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from omnimae.data.formats.annotation_files import Annotation
from omnimae.data.formats.images import read_in1k, read_inat18, read_p365
from omnimae.data.formats.videos import (
    read_ek100,
    read_hmdb51,
    read_k400,
    read_k600,
    read_k700,
    read_k710,
    read_ssv2,
    read_ucf101,
)


class Benchmark(NamedTuple):
    """How a benchmark is read and the names of its lists."""

    read: Callable[..., Annotation]  # folder -> annotation; with several folds also the number of one
    prefix: str  # of the lists' names
    modality: str  # 'image' or 'video'
    num_classes: int  # of the full set
    list_root: str = '.'  # folder below the root that the paths in the lists are relative to
    num_folds: int = 1  # of the authors' splits into training and testing

    def list_name(self, split: str) -> str:
        """Name of the list of a split."""
        return f'{self.prefix}_{split}_list_{self.modality}s.txt'


BENCHMARKS = {
    'in1k': Benchmark(read_in1k, 'imagenet', 'image', 1000),
    'inat18': Benchmark(read_inat18, 'inat2018', 'image', 8142),
    'p365': Benchmark(read_p365, 'places365', 'image', 365),
    'k400': Benchmark(read_k400, 'kinetics400', 'video', 400),
    'ssv2': Benchmark(read_ssv2, 'sthv2', 'video', 174, 'videos'),  # MMAction2's lists of SSv2 are relative to it
    'ek100': Benchmark(read_ek100, 'epic100', 'video', 3806),
    'k600': Benchmark(read_k600, 'kinetics600', 'video', 600),
    'k700': Benchmark(read_k700, 'kinetics700', 'video', 700),
    'k710': Benchmark(read_k710, 'kinetics710', 'video', 710),
    'ucf101': Benchmark(read_ucf101, 'ucf101', 'video', 101, num_folds=3),
    'hmdb51': Benchmark(read_hmdb51, 'hmdb51', 'video', 51, num_folds=3),
}
