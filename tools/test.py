"""Run the test loop of a config on a checkpoint: of this package, of MMEngine's Runner, or a released one.

python tools/test.py CONFIG CHECKPOINT [--out FILE] [--cfg-options k=v ...] [--launcher none|pytorch|slurm]

The scores that --out writes are counted again, or averaged with those of other tests, by tools/score.py. Data without
labels, such as a challenge's test set, have scores alone.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from mmengine.config import Config
from mmengine.dist import is_main_process

from omnimae.checkpoint import Checkpoint, load_weights
from omnimae.config import OptionAction, default_work_dir, infer_num_classes, load_config
from omnimae.engine import EvaluationRunner, HeadSizeHook, leave_distributed, setup_distributed, setup_environment
from omnimae.structures import to_json


def parse_args(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description='Test a checkpoint.')
    parser.add_argument('config', help='path of the config')
    parser.add_argument('checkpoint', help='path or URL of the weights')
    parser.add_argument('--work-dir', help='where the log goes; default: work_dirs/PATH BELOW configs')
    parser.add_argument(
        '--out', type=Path, metavar='FILE.json',
        help='write the metrics there, ids, labels and scores of a classifier to FILE.npz, predicted maps below FILE/',
    )  # fmt: skip
    parser.add_argument(
        '--cfg-options', nargs='+', action=OptionAction, metavar='k=v', help='change the config: a.b=1 c=[2,3]'
    )
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm'], default='none', help='who starts the ranks')
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help='given by old launchers')
    return parser.parse_args(words)


def apply_arguments(cfg: Config, args: argparse.Namespace) -> None:
    """Write what the command line says into the config."""
    cfg.work_dir = args.work_dir or cfg.get('work_dir') or default_work_dir(cfg.filename)
    cfg.launcher = args.launcher
    cfg.load_from, cfg.resume = None, False
    evaluators = cfg.test_evaluator if isinstance(cfg.test_evaluator, list) else [cfg.test_evaluator]
    for evaluator in evaluators:
        if args.out and evaluator['type'] == 'ClipAccuracy':
            evaluator['out_file'] = str(args.out.with_suffix('.npz'))
        elif args.out and evaluator['type'] in ('SegmentationScore', 'DepthScore'):
            evaluator['out_dir'] = str(args.out.with_suffix(''))


def main() -> None:
    """Test."""
    args = parse_args()
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    setup_environment()
    cfg = load_config(args.config, args.cfg_options)
    if cfg.get('test_evaluator') is None:
        raise ValueError(f'{args.config} has no test: give it test_dataloader, test_cfg and test_evaluator.')
    apply_arguments(cfg, args)
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)  # now, not when hours of testing are to be written
    setup_distributed(cfg)
    checkpoint = Checkpoint.read(args.checkpoint)
    classes = max(checkpoint.classes, key=len, default=None)
    infer_num_classes(cfg, classes)
    runner = EvaluationRunner.from_cfg(cfg)
    load_weights(runner.model, checkpoint, complete=True)
    del checkpoint  # its memory
    if classes is not None:
        for hook in runner.hooks:
            if isinstance(hook, HeadSizeHook):
                hook.expect(args.checkpoint, classes)
    metrics = runner.test()
    if args.out and is_main_process():
        args.out.with_suffix('.json').write_text(to_json(metrics, indent=2) + '\n')
    leave_distributed()


if __name__ == '__main__':
    main()
