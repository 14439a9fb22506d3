"""Make the lists and classes.txt that the configs expect of a dataset, or make a small dataset.

python tools/prepare_dataset.py DATASET --root DIR [...]

Nothing is downloaded. `DATASET --help` shows the layout of files, which is that of the authors. An interrupted run
continues, and a later run checks only new files.
"""

from __future__ import annotations

import argparse
import inspect
import os
import re
import time
from collections.abc import Sequence

from omnimae.stopping import start_tool

if __name__ == '__main__':
    start_tool('The same command goes on. For demo, small and cifar10 it starts anew.')  # the imports take seconds

from omnimae.data.aligned import ALIGNED_AS
from omnimae.data.formats import BENCHMARKS
from omnimae.data.formats.packing import pack
from omnimae.data.formats.parts import Part
from omnimae.data.formats.preparation import prepare, prepare_aligned
from omnimae.data.formats.reencode import COPIES
from omnimae.data.storage.shards import index, root_of
from omnimae.structures import check_out
from omnimae.synthetic.cifar10 import make_cifar10
from omnimae.synthetic.demo import make_demo, make_maps
from omnimae.synthetic.motion import make_small


def add_demo(datasets: argparse._SubParsersAction) -> None:
    """The subcommand `demo`: photographs, and videos of a camera moving over them, made without network."""
    parser = datasets.add_parser('demo', help=add_demo.__doc__)
    parser.add_argument('--size', type=int, default=24, help='training videos of each place')
    parser.add_argument('--seed', type=int, default=0)
    parser.set_defaults(run=prepare_demo)


def prepare_demo(args: argparse.Namespace) -> None:
    """Make the demo data."""
    start = time.perf_counter()
    made = make_demo(args.root, size=args.size, seed=args.seed, workers=args.workers)
    num_maps = make_maps(args.root)
    seconds = time.perf_counter() - start
    print(f'{args.root}: {made["images"]} images, {made["videos"]} videos, maps of {num_maps} ({seconds:.0f} s)')


def add_cifar10(datasets: argparse._SubParsersAction) -> None:
    """The subcommand `cifar10`: the authors' archive as JPEG files, ROOT/{train,test}/CLASS/NUMBER.jpg."""
    parser = datasets.add_parser('cifar10', help=add_cifar10.__doc__)
    parser.add_argument(
        '--archive', required=True, help='folder with cifar-10-batches-py, unpacked from cifar-10-python.tar.gz'
    )
    parser.set_defaults(run=prepare_cifar10)


def prepare_cifar10(args: argparse.Namespace) -> None:
    """Write the files."""
    print(f'{args.root}: {make_cifar10(args.root, args.archive)} images')


def add_small(datasets: argparse._SubParsersAction) -> None:
    """The subcommand `small`: lists of images, and videos of these images moving over each other."""
    parser = datasets.add_parser('small', help=add_small.__doc__)
    parser.add_argument(
        '--images',
        type=str,
        default='data/cifar10',
        help='folder with train/CLASS and test/CLASS, as of CIFAR-10; the configs expect data/cifar10',
    )
    parser.add_argument(
        '--size', type=int, default=500, help='training videos of each motion, and half the images of each class'
    )
    parser.add_argument('--seed', type=int, default=0)
    parser.set_defaults(run=prepare_small)


def prepare_small(args: argparse.Namespace) -> None:
    """Make the data of the small experiments."""
    start = time.perf_counter()
    made = make_small(args.root, args.images, size=args.size, seed=args.seed, workers=args.workers)
    seconds = time.perf_counter() - start
    print(f'{args.root}: lists of {made["images"]} images, {made["videos"]} videos ({seconds:.0f} s)')


def add_multimae(datasets: argparse._SubParsersAction) -> None:
    """The subcommand `multimae`: check that images have complete pseudo labels of the same size.

    ROOT/rgb/CLASS/NAME.jpg, ROOT/depth/CLASS/NAME.png (8 or 16 bits) and ROOT/semseg/CLASS/NAME.png (8 bits). Writes
    ROOT/aligned_list.txt, an ann_file of complete samples, and ROOT/left_out.csv with the others and the reasons. Makes
    no labels. The published ones are of Omnidata's DPT-Hybrid (depth) and of Mask2Former with a Swin-S (COCO's 133
    classes).
    """
    layout = inspect.getdoc(add_multimae)
    parser = datasets.add_parser(
        'multimae',
        help=layout.splitlines()[0],
        description=layout,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    names = ('rgb', 'depth', 'semseg')
    parser.add_argument(
        '--modalities', nargs='+', choices=names, default=names, help='modalities to check; default: all'
    )
    parser.add_argument('--num-classes', type=int, default=133, help='of semseg; default: 133')
    parser.add_argument(
        '--aligned-as',
        choices=ALIGNED_AS,
        default='stored',
        help="orientation of labels if EXIF rotates an image, see AlignedDataset; default: 'stored'",
    )
    add_parts(parser)
    parser.set_defaults(run=prepare_multimae)


def prepare_multimae(args: argparse.Namespace) -> None:
    """Check the samples."""
    kinds: dict[str, dict] = dict(rgb={}, depth={}, semseg=dict(kind='classes', num_classes=args.num_classes))
    modalities = {name: kinds[name] for name in args.modalities}
    prepared = prepare_aligned(
        args.root, modalities, aligned_as=args.aligned_as, part=args.part, merge=args.merge, workers=args.workers
    )
    if isinstance(prepared, int):
        print(f'{args.root}: part {args.part}, {prepared} samples checked')
        return
    print(f'{prepared.list}: {prepared.kept} samples')
    for name, count in prepared.lacking.items():
        print(f'{count} without {name}')
    print(f'{prepared.broken} complete samples cannot be used; see {prepared.report}')


def add_benchmark(datasets: argparse._SubParsersAction, name: str) -> None:
    """The subcommand of a benchmark. Its help is the docstring of the benchmark's reader."""
    benchmark = BENCHMARKS[name]
    layout = inspect.getdoc(benchmark.read)
    parser = datasets.add_parser(
        name,
        help=layout.splitlines()[0],
        description=layout,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    if benchmark.modality == 'video':
        parser.add_argument(
            '--short-side',
            type=int,
            metavar='PIXELS',
            help='also write copies of the videos with at most this short side, usually 256, to ROOT/videos_PIXELS '
            'and list these: they decode several times faster. The originals stay',
        )
        parser.add_argument(
            '--codec',
            choices=COPIES,
            default='h264',
            help='of the copies. mjpeg makes ROOT/videos_PIXELS_mjpeg: three times as fast as h264 to read, about five '
            'times the bytes; default: h264',
        )
    if benchmark.num_folds > 1:
        folds = range(1, benchmark.num_folds + 1)
        parser.add_argument('--fold', type=int, choices=folds, help="which of the authors' splits; default: 1")
    add_parts(parser)
    parser.set_defaults(run=prepare_benchmark, short_side=None, codec='h264', fold=1)


def prepare_benchmark(args: argparse.Namespace) -> None:
    """Write the lists of a benchmark."""
    benchmark = BENCHMARKS[args.dataset]
    prepared = prepare(
        args.dataset,
        args.root,
        fold=args.fold,
        short_side=args.short_side,
        codec=args.codec,
        part=args.part,
        merge=args.merge,
        workers=args.workers,
    )
    if isinstance(prepared, int):
        print(f'{args.root}: part {args.part}, {prepared} files checked')
        return
    for split, kept in prepared.kept.items():
        left_out = prepared.left_out[split]
        rest = f', {left_out} left out, see {prepared.report}' if left_out else ''
        print(f'{os.path.join(args.root, benchmark.list_name(split))}: {kept} {benchmark.modality}s{rest}')
    print(f'{os.path.join(args.root, "classes.txt")}: {prepared.num_classes} classes of {benchmark.num_classes}')


def add_shard(datasets: argparse._SubParsersAction) -> None:
    """The subcommand `shard`: pack the data of a folder into a few tar archives, which are read without unpacking.

    Packs images, videos and .npy maps, copies lists (.txt, .csv, ...) of ROOT itself, and verifies everything. In
    configs the new folder takes the place of the old one. An interrupted run continues. If ROOT has .tar archives
    already, as of WebDataset, only their index is written.
    """
    layout = inspect.getdoc(add_shard)
    parser = datasets.add_parser(
        'shard',
        help=layout.splitlines()[0],
        description=layout,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('--out', help='folder of the archives; default: ROOT_shards')
    parser.add_argument('--size', type=parse_size, default='1GB', help='of an archive; default: 1GB')
    add_parts(parser)
    parser.set_defaults(run=prepare_shards)


def prepare_shards(args: argparse.Namespace) -> None:
    """Write the archives, or the index of existing ones."""
    root = os.path.abspath(args.root)
    if root_of(root) is not None and args.out is None:
        columns = index(root)
        print(f'{args.root}: {len(columns["names"])} files in {len(columns["archives"])} archives')
        return
    out = check_out(args.out or f'{root}_shards', is_folder=True, name='--out: ')
    packed = pack(root, out, size=args.size, part=args.part, merge=args.merge, workers=args.workers)
    part = '' if args.part is None else f'part {args.part}, '
    print(f'{out}: {part}{packed.files} files in {packed.archives} archives, {packed.written} of them new')
    if packed.copied:
        print(f'copied: {", ".join(packed.copied)}')
    if packed.passed_over:
        print(f'passed over {packed.passed_over} files that are no images, videos or maps')


def parse_size(text: str) -> int:
    """'1GB' or '500 MB' -> bytes."""
    words = re.fullmatch(r'([0-9.]+) ?([KMGT]?)(i?)B?', text.strip(), re.IGNORECASE)
    try:
        number = float(words[1]) if words else 0.0
    except ValueError:
        number = 0.0
    size = (
        int(number * (1024 if words and words[3] else 1000) ** ' KMGT'.index(words[2].upper() or ' ')) if words else 0
    )
    if size < 1:
        raise argparse.ArgumentTypeError(f'{text!r} is no size. Write 1GB or 500MB.')
    return size


def add_parts(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that divide the work between machines."""
    either = parser.add_mutually_exclusive_group()
    either.add_argument(
        '--part',
        type=parse_part,
        metavar='NUMBER/TOTAL',
        help='do only this part of the work, such as 3/16; each machine does another part in the same ROOT',
    )
    either.add_argument('--merge', type=int, metavar='TOTAL', help='merge the results of this many parts')


def parse_part(text: str) -> Part:
    """'3/16' -> the part."""
    try:
        return Part.of(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def main(argv: Sequence[str] | None = None) -> None:
    """Read the command line and prepare one dataset."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    datasets = parser.add_subparsers(dest='dataset', required=True, metavar='DATASET')
    add_demo(datasets)
    add_cifar10(datasets)
    add_small(datasets)
    add_multimae(datasets)
    add_shard(datasets)
    for name in BENCHMARKS:
        add_benchmark(datasets, name)
    for dataset in datasets.choices.values():
        dataset.add_argument('--root', required=True, help='folder of the dataset, usually data/NAME')
        dataset.add_argument(
            '--workers', type=int, default=os.cpu_count(), help='number of processes; default: all cores'
        )
    args = parser.parse_args(argv)
    try:
        args.run(args)
    except (ValueError, OSError) as error:
        parser.exit(1, f'{parser.prog}: {error}\n')


if __name__ == '__main__':
    main()
