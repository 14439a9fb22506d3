"""Convert published weights to ours; the file names decide the formats (.safetensors, or else a file of torch.save).

python tools/convert_checkpoint.py SRC DST [--source omnimae]
"""

import argparse
import os
from collections.abc import Sequence

from omnimae.checkpoint import LAYOUTS, convert, load_file, recognise, save_file


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description='Convert published weights to ours.')
    parser.add_argument('src', help='path or URL of a published checkpoint, or one of ours')
    parser.add_argument('dst', help='file to write, .pth or .safetensors')
    parser.add_argument('--source', choices=sorted(LAYOUTS), help='layout of SRC; recognised when not given')
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Convert.

    Raises:
        ValueError: SRC cannot be read, its layout is unknown or incomplete, or DST is SRC.
    """
    args = parse_args(argv)
    if os.path.realpath(args.src) == os.path.realpath(args.dst):
        raise ValueError(f'DST={args.dst} is SRC, which would be overwritten while it is read. Name another file.')
    state_dict, meta = load_file(args.src)
    source = args.source or recognise(state_dict)
    try:
        converted = convert(state_dict, source)
    except ValueError as error:
        raise ValueError(f'{args.src}: {error}') from error
    kept = {key: str(meta[key]) for key in ('weights', 'epoch', 'iter') if key in meta}
    save_file(converted, args.dst, {'converted_from': str(source), **kept})
    print(f'{args.src} (layout {source}): {len(converted)} tensors -> {args.dst}')


if __name__ == '__main__':
    main()
