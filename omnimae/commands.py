"""Arguments that the tools share, and the config that follows from them."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from mmengine.config import Config
from mmengine.runner import Runner

from omnimae.config import OptionAction, default_work_dir, find_config, infer_num_classes
from omnimae.data.media.extensions import modality_of
from omnimae.engine import (
    add_log_backends,
    claim_folder,
    find_run,
    load_config_for,
    setup_distributed,
    setup_environment,
)
from omnimae.structures import check_out


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


def model_parser(description: str | None, inputs: str) -> argparse.ArgumentParser:
    """Make a parser for a tool that takes a model and ``inputs``. `parse_model` parses."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        'paths', nargs='+', metavar='RUN|CONFIG CHECKPOINT|INPUT', help=f'the model, and {inputs}, in any order'
    )
    parser.add_argument('--model', dest='config', help='folder of a run, or a config')
    parser.add_argument('--checkpoint', help='path, URL or short name of the weights; default: the best of the folder')
    add_cfg_options(parser)
    return parser


def parse_model(parser: argparse.ArgumentParser, words: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse a command line, and take config and checkpoint out of ``paths`` if no option gives them."""
    args = parser.parse_args(words)
    if args.config is None:
        misspelt = (path for path in args.paths if not Path(path).exists() and modality_of(path) is None)
        args.config = next(filter(_is_model, args.paths), next(misspelt, args.paths[0]))
        args.paths.remove(args.config)
    if args.checkpoint is None and not Path(args.config).is_dir():
        weights = (x for x in args.paths if modality_of(x) is None and (not Path(x).is_dir() or _is_model(x)))
        if (checkpoint := next(weights, None)) is not None:
            args.checkpoint = checkpoint
            args.paths.remove(checkpoint)
    if not args.paths:
        parser.error('no input. Give RUN INPUT..., or CONFIG CHECKPOINT INPUT...')
    return args


def _is_model(path: str) -> bool:
    """Whether it is the folder of a run, or a config."""
    try:
        find_run(path) if Path(path).is_dir() else find_config(path)
    except ValueError:
        return False
    return True


def out_folder(text: str) -> Path:
    """Type of an argument: a folder to write to."""
    try:
        return check_out(text, is_folder=True)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def add_picture_arguments(parser: argparse.ArgumentParser, folder: str) -> None:
    """Add what a tool that draws predictions takes: --out-dir and --device."""
    parser.add_argument('--out-dir', required=True, type=out_folder, help=folder)
    parser.add_argument('--device', help='cuda or cpu; default: a GPU if there is one')


def end_drawing(files: Sequence[Path], folder: Path, failures: Sequence[str], num_inputs: int) -> None:
    """Print how many files a tool has written to a folder. Exit with the inputs that could not be read, if any."""
    if files:
        names = ', '.join(str(file.relative_to(folder)) for file in files[:5])
        print(f'{len(files)} file{"s" * (len(files) > 1)} in {folder}: {names}{", ..." * (len(files) > 5)}')
    if failures:
        sys.exit('\n'.join([f'{len(failures)} of {num_inputs} files could not be read:', *failures]))


def add_run_arguments(parser: argparse.ArgumentParser, work_dir: str = 'folder of the log') -> None:
    """Add --work-dir, --cfg-options, --launcher and --local_rank."""
    parser.add_argument('--work-dir', help=f'{work_dir}; default: work_dirs/PATH BELOW configs')
    add_cfg_options(parser)
    parser.add_argument(
        '--launcher', choices=['none', 'pytorch', 'slurm'], default='none', help='how ranks are started'
    )
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help='set by old launchers')


def load_run_config(args: argparse.Namespace, checkpoint: str | os.PathLike | None = None) -> Config:
    """Prepare this process for MMEngine's Runner, and load the config with the arguments of `add_run_arguments`.

    ``checkpoint``: see `load_config_for`.
    """
    os.environ['LOCAL_RANK'] = os.environ.get('LOCAL_RANK') or str(args.local_rank)
    setup_environment()
    cfg = load_config_for(args.config, checkpoint, args.cfg_options)
    cfg.work_dir = args.work_dir or cfg.get('work_dir') or default_work_dir(cfg.filename)
    check_out(cfg.work_dir, is_folder=True, name='--work-dir: ')
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
