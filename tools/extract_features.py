"""Write the frozen features of a data set to a file: one row a sample, with its id and label.

python tools/extract_features.py CONFIG CHECKPOINT --out FILE.npz|FOLDER [--data test|val|bank] [--overwrite]
                                 [--cfg-options k=v ...] [--launcher none|pytorch|slurm]

CONFIG is any config with such data: of pretraining, fine-tuning, a linear probe or k-NN. A pretrained backbone gives
the mean of its normalised tokens, a fine-tuned one what its head sees (its norm behind the mean). Views are averaged.
The file holds ids (S,), labels (S,) (empty without labels) and features (S, D), for NumPy or tools/knn.py.

Features are written as they come, 1024 samples a file, into FOLDER, whose index.json lists them, or into
FILE.npz.parts/, from which FILE.npz is made at the end. After a kill the same command goes on, on any number of ranks.
Files that cannot be read are left out, counted, and listed in broken_files.txt of the work directory.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from mmengine.config import Config

from omnimae.checkpoint import load_weights
from omnimae.config import OptionAction, default_work_dir, infer_num_classes, load_config
from omnimae.engine import (
    EvaluationRunner,
    digest,
    digest_of_data,
    dtype_of,
    frozen_features,
    frozen_model,
    leave_distributed,
    setup_distributed,
    setup_environment,
    write_features,
)


def parse_args(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description='Write frozen features to a file.')
    parser.add_argument('config', help='path of the config')
    parser.add_argument('checkpoint', help='path or URL of the weights')
    parser.add_argument('--out', required=True, type=Path, metavar='FILE.npz|FOLDER', help='where to write')
    parser.add_argument(
        '--data', choices=['test', 'val', 'bank'], default='test',
        help='test_dataloader, val_dataloader, or the bank of a k-NN config (its training samples)',
    )  # fmt: skip
    parser.add_argument(
        '--overwrite', action='store_true', help='begin anew where features of something else were being written'
    )
    parser.add_argument('--work-dir', help='where the log goes; default: work_dirs/PATH BELOW configs')
    parser.add_argument(
        '--cfg-options', nargs='+', action=OptionAction, metavar='k=v', help='change the config: a.b=1 c=[2,3]'
    )
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm'], default='none', help='who starts the ranks')
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help='given by old launchers')
    return parser.parse_args(words)


def dataloader_of(cfg: Config, data: str) -> dict:
    """The config of the wanted loader.

    Raises:
        ValueError: the config has none.
    """
    place = (cfg.get('test_cfg') or {}) if data == 'bank' else cfg
    loader = place.get(f'{data}_dataloader')
    if loader is None:
        raise ValueError(f'{cfg.filename} has no {data}_dataloader. Choose another --data, or another config.')
    return loader


def main(words: Sequence[str] | None = None) -> None:
    """Extract."""
    args = parse_args(words)
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    setup_environment()
    cfg = load_config(args.config, args.cfg_options)
    loader = dataloader_of(cfg, args.data)
    cfg.work_dir = args.work_dir or cfg.get('work_dir') or default_work_dir(cfg.filename)
    cfg.launcher, cfg.load_from, cfg.resume = args.launcher, None, False
    cfg.model = frozen_model(cfg.model)
    infer_num_classes(cfg)  # of k-NN: the labels of both sets are those of the bank
    args.out.parent.mkdir(parents=True, exist_ok=True)  # now, not when everything is to be written
    setup_distributed(cfg)
    runner = EvaluationRunner.from_cfg(cfg)
    load_weights(runner.model, args.checkpoint, complete=True)
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
