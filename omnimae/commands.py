"""Arguments that the tools share, and the config that follows from them."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from mmengine.config import Config
from mmengine.runner import Runner

from omnimae.config import OptionAction, default_work_dir, infer_num_classes, load_config
from omnimae.engine import add_log_backends, claim_folder, setup_distributed, setup_environment


def new_parser(description: str | None) -> argparse.ArgumentParser:
    """Make a parser for a tool that takes a config. Its --help shows the whole description."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='path of the config, or its name such as custom/pretrain')
    return parser


def add_cfg_options(parser: argparse.ArgumentParser) -> None:
    """Add --cfg-options."""
    parser.add_argument(
        '--cfg-options', nargs='+', action=OptionAction, metavar='k=v', help='change the config: a.b=1 c=[2,3]'
    )


def add_picture_arguments(parser: argparse.ArgumentParser, inputs: str, folder: str) -> None:
    """Add what a tool that draws predictions takes: checkpoint, inputs, --out-dir, --device and --cfg-options."""
    parser.add_argument('checkpoint', help='path or URL of the weights')
    parser.add_argument('inputs', nargs='+', metavar='input', help=inputs)
    parser.add_argument('--out-dir', required=True, type=Path, help=folder)
    parser.add_argument('--device', help='cuda or cpu; default: a GPU if there is one')
    add_cfg_options(parser)


def add_run_arguments(parser: argparse.ArgumentParser, work_dir: str = 'folder of the log') -> None:
    """Add --work-dir, --cfg-options, --launcher and --local_rank."""
    parser.add_argument('--work-dir', help=f'{work_dir}; default: work_dirs/PATH BELOW configs')
    add_cfg_options(parser)
    parser.add_argument(
        '--launcher', choices=['none', 'pytorch', 'slurm'], default='none', help='how ranks are started'
    )
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help='set by old launchers')


def load_run_config(args: argparse.Namespace) -> Config:
    """Prepare this process for MMEngine's Runner, and load the config with the arguments of `add_run_arguments`."""
    os.environ['LOCAL_RANK'] = os.environ.get('LOCAL_RANK') or str(args.local_rank)
    setup_environment()
    cfg = load_config(args.config, args.cfg_options)
    cfg.work_dir = args.work_dir or cfg.get('work_dir') or default_work_dir(cfg.filename)
    cfg.launcher = args.launcher
    return cfg


def train(cfg: Config, *, go_on: bool = False, overwrite: bool = False) -> None:
    """Train in the folder of ``cfg.work_dir``, see `claim_folder` for the arguments."""
    setup_distributed(cfg)  # before data are read
    note = claim_folder(cfg, go_on=go_on, overwrite=overwrite)
    infer_num_classes(cfg)
    add_log_backends(cfg)
    runner = Runner.from_cfg(cfg)
    if note is not None:
        runner.logger.warning(note)  # now there is a log file
    runner.train()
