"""Train a config: pretraining or fine-tuning, on one or many devices.

python tools/train.py CONFIG [--work-dir D] [--resume [PATH]] [--allow-changes] [--overwrite] [--amp]
                             [--cfg-options k=v ...] [--launcher none|pytorch|slurm]

Ctrl-C, SIGTERM, SIGHUP and SIGUSR1 save and end the run, on all ranks. Exit codes: 0, the training is done; 75, a
signal ended it, go on with --resume; 130, Ctrl-C did, or a second Ctrl-C, which does not save; 1, an error.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from importlib.util import find_spec

from omnimae.stopping import listen

if __name__ == '__main__':
    listen()  # the imports take seconds

from mmengine.config import Config
from mmengine.runner import Runner

from omnimae.config import OptionAction, default_work_dir, infer_num_classes, load_config
from omnimae.engine import claim_folder, leave_distributed, setup_distributed, setup_environment


def parse_args(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description='Train a config.')
    parser.add_argument('config', help='path of the config')
    parser.add_argument(
        '--work-dir', help='where log, checkpoints and exports go; default: work_dirs/PATH BELOW configs'
    )
    parser.add_argument(
        '--resume', nargs='?', action='append', default=[], metavar='PATH',
        help='go on from this checkpoint; without PATH from the latest one in the work directory, if there is one; '
        'both, as launchers do that start again: from the latest one, or else from PATH',
    )  # fmt: skip
    parser.add_argument(
        '--allow-changes', action='store_true',
        help='resume with another config or other data, though numbers change; the log says what follows',
    )  # fmt: skip
    parser.add_argument(
        '--overwrite', action='store_true',
        help='move files of another run in the work directory aside, into replaced_TIME/; nothing with --resume',
    )  # fmt: skip
    parser.add_argument('--amp', action='store_true', help='bfloat16 autocast')
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
    if args.amp:
        cfg.optim_wrapper.dtype = 'bfloat16'
    for path in filter(None, args.resume):
        cfg.resume, cfg.load_from = True, path
    if args.allow_changes:
        cfg.merge_from_dict({'default_hooks.resume': dict(type='ResumeHook', allow_changes=True)})


def add_log_backends(cfg: Config) -> None:
    """TensorBoard when it is installed; W&B when it is installed and its environment is set."""
    if cfg.get('visualizer') is None or cfg.visualizer.get('vis_backends') is None:
        return  # nothing but what MMEngine writes without
    present = {backend['type'] for backend in cfg.visualizer.vis_backends}
    wanted = {
        'TensorboardVisBackend': find_spec('tensorboard'),
        'WandbVisBackend': find_spec('wandb') and {'WANDB_API_KEY', 'WANDB_MODE'} & os.environ.keys(),
    }
    cfg.visualizer.vis_backends += [dict(type=name) for name, on in wanted.items() if on and name not in present]


def main() -> None:
    """Train."""
    args = parse_args()
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    setup_environment()
    cfg = load_config(args.config, args.cfg_options)
    if cfg.get('train_cfg') is None:
        raise ValueError(f'{args.config} has no training: give it train_dataloader, train_cfg and optim_wrapper.')
    apply_arguments(cfg, args)
    setup_distributed(cfg)  # before the data are looked at
    note = claim_folder(cfg, go_on=None in args.resume, overwrite=args.overwrite)
    infer_num_classes(cfg)
    add_log_backends(cfg)
    runner = Runner.from_cfg(cfg)
    if note is not None:
        runner.logger.warning(note)  # now there is a file for it
    runner.train()
    leave_distributed()


if __name__ == '__main__':
    main()
