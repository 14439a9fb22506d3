"""Make the files that the configs expect of a dataset: `python tools/prepare_dataset.py DATASET --root DIR [...]`."""

from __future__ import annotations

import argparse
import os
import time

from omnimae.data.demo import make_demo


def add_demo(datasets: argparse._SubParsersAction) -> None:
    """The subcommand `demo`: real photographs and video files of a camera moving over them, made without network."""
    parser = datasets.add_parser('demo', help=add_demo.__doc__)
    parser.add_argument('--size', type=int, default=8, help='training videos for each pair of photograph and motion')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--workers', type=int, default=os.cpu_count(), help='processes')
    parser.set_defaults(run=prepare_demo)


def prepare_demo(args: argparse.Namespace) -> None:
    """Make the demo data and say what lies where."""
    start = time.perf_counter()
    made = make_demo(args.root, size=args.size, seed=args.seed, workers=args.workers)
    seconds = time.perf_counter() - start
    print(f'{args.root}: {made["images"]} images, {made["videos"]} videos ({seconds:.0f} s)')


def main() -> None:
    """Read the command line and prepare one dataset."""
    parser = argparse.ArgumentParser(description=__doc__)
    datasets = parser.add_subparsers(dest='dataset', required=True, metavar='DATASET')
    add_demo(datasets)
    for dataset in datasets.choices.values():
        dataset.add_argument('--root', required=True, help='folder of the dataset, data/NAME by habit')
    args = parser.parse_args()
    try:
        args.run(args)
    except ValueError as error:
        parser.exit(1, f'{parser.prog}: {error}\n')


if __name__ == '__main__':
    main()
