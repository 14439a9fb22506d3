"""Train a config: pretrain or fine-tune, on one or many devices.

python tools/train.py CONFIG [--work-dir D] [--resume [PATH]] [--allow-changes] [--overwrite] [--amp]
                             [--cfg-options k=v ...] [--launcher none|pytorch|slurm]

Ctrl-C, SIGTERM, SIGHUP and SIGUSR1 save a checkpoint and end the run, on all ranks. A second Ctrl-C does not save.
Exit codes: 0 the training is done, 75 a signal ended it, 130 Ctrl-C ended it, 1 an error. After 75 and 130 continue
with --resume.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from omnimae.stopping import listen

if __name__ == '__main__':
    listen()  # the imports take seconds

from mmengine.config import Config

from omnimae.commands import add_run_arguments, load_run_config, new_parser, train
from omnimae.engine import leave_distributed


def parse_args(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Command line."""
    parser = new_parser(__doc__)
    add_run_arguments(parser, 'folder of the log, checkpoints and exports')
    parser.add_argument(
        '--resume', nargs='?', action='append', default=[], metavar='PATH',
        help='continue from this checkpoint; without PATH from the latest one in the work directory, or start if there '
        'is none; given both ways, from the latest one, else from PATH',
    )  # fmt: skip
    parser.add_argument(
        '--allow-changes', action='store_true',
        help='resume even if the config or the data have changed and numbers will differ; the log lists the changes',
    )  # fmt: skip
    parser.add_argument(
        '--overwrite', action='store_true',
        help='move files of another run in the work directory into replaced_TIME/; no effect with --resume',
    )  # fmt: skip
    parser.add_argument('--amp', action='store_true', help='train in bfloat16 autocast')
    return parser.parse_args(words)


def apply_arguments(cfg: Config, args: argparse.Namespace) -> None:
    """Write what the command line says into the config."""
    if args.amp:
        cfg.optim_wrapper.dtype = 'bfloat16'
    for path in filter(None, args.resume):
        cfg.resume, cfg.load_from = True, path
    if args.allow_changes:
        cfg.merge_from_dict({'default_hooks.resume': dict(type='ResumeHook', allow_changes=True)})


def main() -> None:
    """Train."""
    args = parse_args()
    cfg = load_run_config(args)
    if cfg.get('train_cfg') is None:
        raise ValueError(f'{args.config} has no training. Add train_dataloader, train_cfg and optim_wrapper.')
    apply_arguments(cfg, args)
    train(cfg, go_on=None in args.resume, overwrite=args.overwrite)
    leave_distributed()


if __name__ == '__main__':
    main()
