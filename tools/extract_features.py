"""Write frozen features of a data set to a file, one row a sample, with ids and labels.

python tools/extract_features.py CONFIG CHECKPOINT --out FILE.npz|FOLDER [--data test|val|bank] [--overwrite]
                                 [--cfg-options k=v ...] [--launcher none|pytorch|slurm]

CONFIG is any config with such data: of a pretraining, a fine-tuning, a linear probe or k-NN. A pretrained backbone
gives the mean of its normalised tokens. A fine-tuned one gives the input of its head. Views are averaged. The file has
ids (S,), labels (S,), which may be empty, and features (S, D), for NumPy or tools/knn.py.

Every 1024 samples are written to a file in FOLDER, whose index.json lists them, or in FILE.npz.parts/, which becomes
FILE.npz at the end. After a kill the same command continues, on any number of ranks. Files that cannot be read are left
out, counted, and listed in broken_files.txt of the work directory.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from omnimae.stopping import start_tool

if __name__ == '__main__':
    start_tool('Features of finished shards are kept. The same command goes on.')  # the imports take seconds

from mmengine.config import Config

from omnimae.checkpoint import Checkpoint, load_weights
from omnimae.commands import add_run_arguments, load_run_config, new_parser
from omnimae.config import infer_num_classes
from omnimae.engine import (
    EvaluationRunner,
    digest,
    digest_of_data,
    dtype_of,
    frozen_features,
    frozen_model,
    leave_distributed,
    setup_distributed,
    write_features,
)
from omnimae.structures import check_out


def parse_args(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Command line."""
    parser = new_parser(__doc__)
    parser.add_argument('checkpoint', help='path or URL of the weights')
    parser.add_argument('--out', required=True, type=Path, metavar='FILE.npz|FOLDER', help='what to write')
    parser.add_argument(
        '--data', choices=['test', 'val', 'bank'], default='test',
        help='test_dataloader, val_dataloader, or the bank of a k-NN config (its training samples)',
    )  # fmt: skip
    parser.add_argument(
        '--overwrite', action='store_true', help='replace unfinished features of another checkpoint, config or data'
    )
    add_run_arguments(parser)
    return parser.parse_args(words)


def dataloader_of(cfg: Config, data: str) -> dict:
    """The config of the chosen loader."""
    place = (cfg.get('test_cfg') or {}) if data == 'bank' else cfg
    loader = place.get(f'{data}_dataloader')
    if loader is None:
        raise ValueError(f'{cfg.filename} has no {data}_dataloader. Choose another --data, or another config.')
    return loader


def main(words: Sequence[str] | None = None) -> None:
    """Extract."""
    args = parse_args(words)
    check_out(args.out, is_folder=args.out.suffix != '.npz', name='--out: ')
    cfg = load_run_config(args, args.checkpoint)
    loader = dataloader_of(cfg, args.data)
    cfg.load_from, cfg.resume = None, False
    cfg.model = frozen_model(cfg.model)
    args.out.parent.mkdir(parents=True, exist_ok=True)  # an error now costs no hours
    setup_distributed(cfg)
    checkpoint = Checkpoint.read(args.checkpoint)
    infer_num_classes(cfg)  # k-NN: the labels of both sets are those of the bank
    runner = EvaluationRunner.from_cfg(cfg)
    load_weights(runner.model, checkpoint, complete=True)
    del checkpoint  # its memory
    runner.model.eval()

    built = runner.build_dataloader(loader, seed=runner.seed)
    origin = dict(
        weights=digest(runner.model),
        model=str(cfg.model),
        precision=str(dtype_of(cfg)),
        data=f'{digest_of_data(built.dataset)} {loader.dataset}',
    )
    key = ('test_cfg.' if args.data == 'bank' else '') + f'{args.data}_dataloader'
    compute = frozen_features(runner.model, dtype_of(cfg))
    write_features(runner, compute, built, args.out, key=key, origin=origin, overwrite=args.overwrite)
    leave_distributed()


if __name__ == '__main__':
    main()
