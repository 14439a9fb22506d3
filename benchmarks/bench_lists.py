"""How long a list of millions of files takes from the start of a rank to its first batch, and how much memory.

    python benchmarks/bench_lists.py [--rows 1281000] [--files 200000]

Each line is a fresh process: the first reads the list, the others what it kept. The last scans a folder without a list.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time


def main() -> None:
    """Make the data and start the processes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--rows', type=int, default=1_281_000)
    parser.add_argument('--files', type=int, default=200_000)
    parser.add_argument('--measure', nargs='*', help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        measure(*args.measure)
        return
    with tempfile.TemporaryDirectory() as folder:
        listed = os.path.join(folder, 'list.txt')
        with open(listed, 'w') as out:
            for row in range(args.rows):
                label, number = divmod(row, 1300)
                path = f'train/n{label * 7:08}/n{label * 7:08}_{number * 13}.JPEG'
                out.write(f'{path} {label}\n')
                if row < args.files:
                    if number == 0:
                        os.makedirs(os.path.dirname(os.path.join(folder, path)))
                    open(os.path.join(folder, path), 'wb').close()
        os.utime(listed, (1, 1))
        for what in ('list, first time', 'list, again', 'list, again'):
            subprocess.run([sys.executable, __file__, '--measure', what, folder, listed], check=True)
        subprocess.run([sys.executable, __file__, '--measure', 'scan', os.path.join(folder, 'train')], check=True)


def measure(what: str, root: str, listed: str | None = None) -> None:
    """Build the dataset and its sampler, draw a batch of addresses, and say what that took."""
    from omnimae.data.datasets import ImageDataset, MixedDataset
    from omnimae.data.samplers import MixedBatchSampler, MixedSampler

    before, start, work = peak(), time.perf_counter(), time.process_time()
    source = dict(type=ImageDataset, root=root, ann_file=listed)
    sampler = MixedSampler(dataset=MixedDataset(sources=dict(images=source)), seed=0)
    next(iter(MixedBatchSampler(sampler=sampler, batch_size=256, global_batch_size=2048, rank=0, world_size=8)))
    took, work = time.perf_counter() - start, time.process_time() - work
    print(f'{what}: {took:.2f} s ({work:.2f} s of CPU), {peak() - before:.0f} MB more than {before:.0f} MB of imports')


def peak() -> float:
    """Return the largest memory of this process so far, in MB; what is mapped counts."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


if __name__ == '__main__':
    main()
