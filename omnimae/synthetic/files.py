"""Files of a made data set: each follows from its seed, and the folder is there when all of them are."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np


class Job(NamedTuple):
    """One file to make."""

    path: Path  # below the root
    seed: tuple[int, ...]
    write: Callable[[Path, np.random.Generator], None]


def run_job(job: Job, root: Path) -> None:
    """Make one file."""
    job.write(root / job.path, np.random.default_rng(job.seed))


def make_files(
    root: Path, record_name: str, record: Mapping[str, Any], jobs: Sequence[Job], lists: Mapping[str, str], workers: int
) -> None:
    """Make all files and lists in ``root.unfinished``, then rename it. A folder with the same record is kept."""
    if root.exists():
        file = root / record_name
        if file.is_file() and json.loads(file.read_text()) == record:
            return
        raise ValueError(
            f'root {root} exists and holds other data than those of {record}. Remove it or choose another root.'
        )
    unfinished = root.with_name(f'{root.name}.unfinished')
    shutil.rmtree(unfinished, ignore_errors=True)
    for folder in {job.path.parent for job in jobs}:
        (unfinished / folder).mkdir(parents=True)
    with ProcessPoolExecutor(workers) as pool:
        list(pool.map(partial(run_job, root=unfinished), jobs, chunksize=16))
    for name, text in {**lists, record_name: json.dumps(record)}.items():
        (unfinished / name).write_text(text)
    unfinished.rename(root)
