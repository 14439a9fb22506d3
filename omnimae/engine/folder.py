"""A work directory belongs to one run: a training locks it, and does not mix its files with those of another."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import socket
import time
from pathlib import Path
from typing import IO

from mmengine.config import Config
from mmengine.dist import is_main_process
from mmengine.logging import print_log

from .compat import find_latest_checkpoint, nothing_to_resume

LOCK = '.lock'
_locks: dict[Path, IO[str]] = {}  # of this process; the kernel ends them with it, also after a kill


def claim_folder(cfg: Config, *, overwrite: bool = False) -> None:
    """Make sure that ``cfg.work_dir`` is this run's alone; called before the Runner writes there.

    Args:
        cfg: says where the run goes (``work_dir``) and what it goes on from (``resume``, ``load_from``).
        overwrite: move the files of another run into ``replaced_TIME/`` of the folder.

    Raises:
        ValueError: a process is training there, there are checkpoints that this run does not go on from, or there is
            no file to resume from.
    """
    source = cfg.get('load_from') if cfg.get('resume') else None
    if source is not None and '://' not in source and not os.path.isfile(source):
        raise ValueError(f'--resume {source}: no such file. Give a checkpoint, or no path: then it is the latest one.')
    if not is_main_process():
        return
    folder = Path(cfg.work_dir).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    _lock(folder)
    for unfinished in [*folder.glob('*.pth.*.tmp'), *folder.glob('last_checkpoint.*.tmp')]:
        unfinished.unlink()  # of a run that was killed
    found = sorted(path.name for kind in ('*.pth', '*.safetensors') for path in folder.glob(kind))
    is_own = cfg.get('resume') and (source is None or Path(source).resolve().parent == folder)
    if is_own and source is None and find_latest_checkpoint(str(folder)) is None:
        print_log(nothing_to_resume(folder), 'current', logging.WARNING)
    if is_own or not found:
        return
    if not overwrite:
        raise ValueError(
            f'{folder} has files of another run: {", ".join(found[:3])}{", ..." * (len(found) > 3)}. Go on with it by '
            '--resume (without a path), give this run a folder of its own by --work-dir, or move those files aside by '
            '--overwrite.'
        )
    aside = folder / time.strftime('replaced_%Y%m%d_%H%M%S')
    aside.mkdir()
    for path in folder.iterdir():
        if path.name != LOCK and not path.name.startswith('replaced_'):
            path.rename(aside / path.name)
    print_log(f'The files of another run in {folder} are in {aside.name}/ now.', 'current', logging.WARNING)


def _lock(folder: Path) -> None:
    """Lock a folder until this process ends."""
    if folder in _locks:
        return
    file = (folder / LOCK).open('a+')
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # workers do not inherit it: they may outlive a killed run
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EAGAIN):
            message = f'{folder} cannot be locked ({error.strerror}): start no second run there.'
            print_log(message, 'current', logging.WARNING)
            return
        file.seek(0)
        raise ValueError(
            f'{folder} is in use by another training: {file.read().strip() or "it has just started"}. Wait for its '
            'end, or give this one a folder of its own by --work-dir.'
        ) from error
    file.truncate(0)
    file.write(f'process {os.getpid()} on {socket.gethostname()} since {time.strftime("%Y-%m-%d %H:%M:%S")}\n')
    file.flush()
    _locks[folder] = file
