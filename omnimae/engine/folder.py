"""A work directory belongs to one run. A training locks it, and never mixes its files with those of another run."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import shlex
import socket
import time
from pathlib import Path
from typing import IO

from mmengine.config import Config
from mmengine.dist import all_gather_object
from mmengine.logging import print_log

from omnimae.checkpoint import find_latest_checkpoint, find_weights, is_run
from omnimae.config import load_config
from omnimae.stopping import command_with

from .compat import nothing_to_resume
from .distributed import of_main_rank

LOCK = '.lock'
_locks: dict[Path, IO[str]] = {}  # of this process; the kernel releases them at its end, also after a kill


def claim_folder(cfg: Config, *, go_on: bool = False, overwrite: bool = False) -> str | None:
    """Decide what this run resumes from, and reserve its folders. All ranks call this before they build a Runner.

    The folders are ``cfg.work_dir`` and, if the CheckpointHook has an ``out_dir``, the folder of the same name there.

    The main rank decides for all. A machine that sees other files would train something else. A machine that replaces
    another one was not told to resume.

    Args:
        cfg: has the place of the run (``work_dir``) and its start (``resume``, ``load_from``). The decision is written
            to these keys.
        go_on: resume from the latest checkpoint in the folder. If there is none, start as ``cfg`` says.
        overwrite: move the files of another run into ``replaced_TIME/`` of the folder.

    Returns:
        A note for the log if there was nothing to resume from.
    """
    go_on |= bool(cfg.get('resume')) and cfg.get('load_from') is None
    wishes = all_gather_object((go_on, bool(cfg.get('resume')), cfg.get('load_from')))
    resumes, source = max((wish[1:] for wish in wishes), key=lambda wish: wish[0])
    go_on = any(wish[0] for wish in wishes)
    folders = [Path(cfg.work_dir).resolve()]
    out_dir = ((cfg.get('default_hooks') or {}).get('checkpoint') or {}).get('out_dir')
    if out_dir is not None and '://' not in out_dir:
        folders.append(Path(out_dir, Path(cfg.work_dir).absolute().name).resolve())  # as MMEngine names it
    resumes, source, note = of_main_rank(lambda: _claim(folders, go_on, resumes, source, overwrite))
    if resumes and source is not None and '://' not in source:
        seen = all_gather_object((socket.gethostname(), os.path.isfile(source)))
        if missing := [f'{rank} on {host}' for rank, (host, there) in enumerate(seen) if not there]:
            raise ValueError(
                f'--resume: the main rank goes on from {source}, and rank {", ".join(missing)} has no such file. Give '
                'a --work-dir that all machines share, or copy the file to the same place there.'
            )
    if go_on or resumes:
        cfg.resume, cfg.load_from = resumes, source
    return note


def _claim(
    folders: list[Path], go_on: bool, resumes: bool, source: str | None, overwrite: bool
) -> tuple[bool, str | None, str | None]:
    """Lock the folders. Returns ``resume`` and ``load_from`` of the run, and the note for the log."""
    latest, note = find_latest_checkpoint(str(folders[0])) if go_on else None, None
    if latest is not None:
        resumes, source = True, latest
    elif go_on:
        resumes, note = resumes and source is not None, nothing_to_resume(folders[0], source)
        print_log(note, 'current', logging.WARNING)
    if resumes and source is not None and '://' not in source and not os.path.isfile(source):
        raise ValueError(f'--resume {source}: no such file. Give a checkpoint, or no path: then it is the latest one.')
    for folder in folders:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock(folder, '--work-dir')
            for unfinished in [*folder.glob('*.pth.*.tmp'), *folder.glob('last_checkpoint.*.tmp')]:
                unfinished.unlink()  # left by a killed run
        except OSError as error:
            raise ValueError(
                f'{folder} cannot be written ({error.strerror}). Free some space, or give another --work-dir.'
            ) from error
    is_own = go_on or (resumes and source is not None and Path(source).resolve().parent in folders)
    for folder, files in [(folder, _files_of_a_run(folder)) for folder in folders if not is_own]:
        if files:
            _move_aside(folder, files, overwrite=overwrite)
    return resumes, source, note


def _files_of_a_run(folder: Path) -> list[str]:
    """Checkpoints and exports in the folder, or the checkpoint elsewhere that a run in this folder has written."""
    found = sorted(path.name for kind in ('*.pth', '*.safetensors') for path in folder.glob(kind))
    latest = find_latest_checkpoint(str(folder))
    return found or ([] if latest is None else [latest])


def _move_aside(folder: Path, found: list[str], *, overwrite: bool) -> None:
    """Move the files of another run into a folder, or refuse them."""
    if not overwrite:
        raise ValueError(
            f'{folder} has files of another run: {", ".join(found[:3])}{", ..." * (len(found) > 3)}. Go on with it by '
            f'{command_with("--resume")} (without a path), move those files aside by {command_with("--overwrite")}, or '
            'give this run its own folder (--work-dir or --out).'
        )
    aside = folder / time.strftime('replaced_%Y%m%d_%H%M%S')
    aside.mkdir()
    for path in folder.iterdir():
        if path.name != LOCK and not path.name.startswith('replaced_'):
            path.rename(aside / path.name)
    print_log(f'The files of another run in {folder} are in {aside.name}/ now.', 'current', logging.WARNING)


def find_run(folder: str | os.PathLike) -> tuple[Path, Path]:
    """Find the config of a run and its weights: the best ones if the run kept them, else the last.

    Raises:
        ValueError: the folder has no config, several configs, or no checkpoint.
    """
    folder = Path(folder)
    configs = sorted(path for path in folder.glob('*.py'))
    configs = [folder / 'config.py'] if folder / 'config.py' in configs else configs
    checkpoint = find_weights(folder)
    if len(configs) == 1 and checkpoint is None and is_run(folder):
        raise ValueError(
            f'{folder} is the folder of a run that has not saved a checkpoint yet{_when_it_saves(configs[0])}. Wait '
            f'for one, or start it again: omnimae train {shlex.quote(str(configs[0]))} --resume'
        )
    if len(configs) != 1 or checkpoint is None:
        found = ', '.join(path.name for path in configs) or 'no config'
        raise ValueError(
            f'{folder} is not the folder of one run that has saved a checkpoint: it has {found}, and '
            f'{"no checkpoint" if checkpoint is None else Path(checkpoint).name}. Give the --out of omnimae finetune, '
            'a work directory, or a config and a checkpoint.'
        )
    return configs[0], Path(checkpoint)


def _when_it_saves(config: Path) -> str:
    """When a run has its checkpoints, as far as its config says so."""
    try:
        cfg = load_config(config)
    except ValueError:
        return ''
    hook = (cfg.get('default_hooks') or {}).get('checkpoint') or {}
    counted = (
        (hook.get('interval', -1), 'epoch' if hook.get('by_epoch', True) else 'step'),
        (hook.get('minutes', 15.0) or 0, 'minute'),
    )
    times = [f'every {unit}' if number == 1 else f'every {number:g} {unit}s' for number, unit in counted if number > 0]
    return f'. It saves {", ".join([*times, "at its end"])} and when Ctrl-C stops it'


def lock(folder: Path, option: str) -> None:
    """Lock a folder (a resolved path) until this process ends or calls `unlock`. ``option`` sets another folder."""
    if folder in _locks:
        return
    file = (folder / LOCK).open('a+')
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # workers, which may outlive a killed run, do not inherit it
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EAGAIN):
            message = f'{folder} cannot be locked ({error.strerror}): start no second run there.'
            print_log(message, 'current', logging.WARNING)
            return
        file.seek(0)
        raise ValueError(
            f'{folder} is in use by another run: {file.read().strip() or "it has just started"}. Wait for its end, or '
            f'give this run another place by {option}.'
        ) from error
    file.truncate(0)
    file.write(f'process {os.getpid()} on {socket.gethostname()} since {time.strftime("%Y-%m-%d %H:%M:%S")}\n')
    file.flush()
    _locks[folder] = file


def unlock(folder: Path) -> None:
    """Release a lock of this process, and remove its file."""
    file = _locks.pop(folder, None)
    if file is not None:
        (folder / LOCK).unlink(missing_ok=True)
        file.close()
