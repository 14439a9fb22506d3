"""Every workaround for MMEngine 0.10.7 and torch, each with its reason and the version that mends it.

The same code serves MMEngine's maintained fork ``onedl-mmengine`` 0.10.12, which has the same import name.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
import warnings
from importlib import metadata
from pathlib import Path
from typing import Any

import mmengine.runner.runner as runner_module
import torch
from mmengine.config import Config
from mmengine.fileio import LocalBackend, get_file_backend
from mmengine.runner import CheckpointLoader, save_checkpoint

from omnimae.checkpoint import load_file, replacing

MMCV_VERSION = '2.1.0'


def setup_environment() -> None:
    """Check what is installed and silence what nobody can mend; every tool calls this first."""
    # MMEngine imports pkg_resources for `_base_ = ['mmpretrain::...']`, and setuptools 80 warns about it on every
    # start. Mended in MMEngine 0.11.0, which uses importlib.metadata; until then setup.py keeps setuptools below 81.
    warnings.filterwarnings('ignore', message='pkg_resources is deprecated', category=UserWarning)
    # MMEngine hands DDP broadcast_buffers=False, for which torch 2.15 has another name. Not mended in 0.11.0rc0.
    warnings.filterwarnings('ignore', message='`broadcast_buffers` is deprecated', category=FutureWarning)
    check_mmcv()


def check_mmcv() -> None:
    """Exactly one of mmcv-lite and mmcv, in the one version that MMPretrain 1.2.0 and MMAction2 1.2.0 both accept.

    Both packages unpack into the same folder, so the two at once import as a mixture; MMAction2 refuses mmcv 2.2 at
    import. Not mended: neither project has had a release since.

    Raises:
        ImportError: none, both, or another version.
    """
    found = {}
    for name in ('mmcv', 'mmcv-lite'):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    if [version.split('+')[0] for version in found.values()] != [MMCV_VERSION]:
        installed = ' and '.join(f'{name} {version}' for name, version in found.items()) or 'neither mmcv nor mmcv-lite'
        raise ImportError(
            f'Found {installed}; exactly one of mmcv-lite and mmcv is needed, version {MMCV_VERSION}. '
            f'Run: pip uninstall -y mmcv mmcv-lite && pip install mmcv-lite=={MMCV_VERSION}'
        )


# MMEngine leaves torch.load's default, which runs code from the file before torch 2.6 and, for URLs, in every
# version; onedl-mmengine tries the safe way first and then runs the code after all. So every prefix goes through this
# function. Not mended in MMEngine 0.11.0rc0, which asks for the unsafe way outright.
@CheckpointLoader.register_scheme(prefixes=tuple(CheckpointLoader._schemes), force=True)
def load_from_plain(filename: str, map_location: Any = None) -> dict[str, Any]:
    """Read a whole checkpoint of the Runner, or weights from ``.safetensors`` or a URL; nothing in it is executed.

    Raises:
        ValueError: no such file, not a checkpoint, or one that holds more than tensors and plain values.
    """
    if filename.endswith('.safetensors') or not os.path.isfile(filename):
        state_dict, meta = load_file(filename)
        return {'state_dict': state_dict, 'meta': meta}
    try:
        return torch.load(filename, map_location=map_location, weights_only=True)
    except Exception as error:  # whatever broken bytes lead torch to
        raise ValueError(
            f'Checkpoint {filename} is refused: it cannot be read as tensors and plain values alone ({error}). '
            'Where you trust its origin, save its state dict alone and give that file.'
        ) from error


def save_whole(
    checkpoint: dict[str, Any], filename: str, file_client_args: None = None, backend_args: dict | None = None
) -> None:
    """Write a checkpoint of the Runner under another name, to the disk, and only then under its own.

    MMEngine writes in place, so a run that is killed leaves half a checkpoint by the right name, and a full disk an
    error that does not name the file. Not mended in 0.11.0rc0. Other storages than local files keep MMEngine's way.

    The checksums that torch adds take longer than writing the file: 8 GB take 25 s with them and 10 s without, on a
    disk of 0.8 GB/s. Torch never reads them: a file with one wrong bit loads with and without.

    Raises:
        OSError: it could not be written; what was there before is whole.
    """
    if not isinstance(get_file_backend(filename, backend_args=backend_args), LocalBackend):
        save_checkpoint(checkpoint, filename, file_client_args, backend_args)
        return
    checksums = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        with replacing(filename) as unfinished:
            torch.save(checkpoint, unfinished)
    finally:
        torch.serialization.set_crc32_options(checksums)


runner_module.save_checkpoint = save_whole


def find_latest_checkpoint(work_dir: str) -> str | None:
    """Give the checkpoint that ``last_checkpoint`` names, or else the newest one in the folder; None if there is none.

    MMEngine writes ``last_checkpoint`` in place, so it may be empty after a kill, and stores the path as it was given,
    which is wrong from another folder or when the work directory was moved. Not mended in 0.11.0rc0.
    """
    folder = Path(work_dir)
    named = folder / 'last_checkpoint'
    if named.exists() and (text := named.read_text().strip()):
        for path in (folder / Path(text).name, Path(text)):
            if path.exists():
                return str(path)
    whole = [path for path in folder.glob('*.pth') if not path.name.startswith('best_')]
    return str(max(whole, key=lambda path: path.stat().st_mtime)) if whole else None


runner_module.find_latest_checkpoint = find_latest_checkpoint


def setup_distributed(cfg: Config) -> None:
    """Let ``cfg.launcher`` work without a GPU; called between loading a config and building the Runner.

    MMEngine always calls ``torch.cuda.set_device`` and always hands DDP a device id; both fail on a CPU. Not mended
    in 0.11.0rc0. It does leave a process group alone that exists already.
    """
    if cfg.get('launcher', 'none') == 'none' or torch.cuda.is_available():
        return
    if cfg.launcher == 'slurm':
        _translate_slurm()
    torch.distributed.init_process_group('gloo')
    wrapper = dict(
        type='MMDistributedDataParallel',
        broadcast_buffers=False,
        find_unused_parameters=cfg.get('find_unused_parameters', False),
    )
    cfg.model_wrapper_cfg = {**wrapper, **cfg.get('model_wrapper_cfg', {}), 'device_ids': None}


def leave_distributed() -> None:
    """End the process group, all ranks together: the last thing that a program does, not after an error.

    MMEngine leaves it to the end of the interpreter. Where a model in DDP is still alive there, gloo's threads still
    run, and they abort a finished rank now and then ("terminate called without an active exception", exit code -6 in
    one of some dozen runs). So with gloo a rank ends without that last part. Not mended in MMEngine 0.11.0rc0 and torch
    2.15.
    """
    if not torch.distributed.is_initialized():
        return
    torch.distributed.barrier()
    if torch.distributed.get_backend() == 'gloo':
        _exit_now(0)
    torch.distributed.destroy_process_group()


def exit_together(code: int) -> None:
    """End this process with an exit code from within the training, and all ranks at the same time."""
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
        _exit_now(code)  # a model in DDP is alive, see leave_distributed
    raise SystemExit(code)


def _exit_now(code: int) -> None:
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    time.sleep(0.2)  # a rank that is gone resets the connections from which others still read the barrier
    os._exit(code)


def _translate_slurm() -> None:
    env = os.environ
    if 'MASTER_ADDR' not in env:
        hosts = subprocess.check_output(['scontrol', 'show', 'hostnames', env['SLURM_NODELIST']], text=True)
        env['MASTER_ADDR'] = hosts.split()[0]
    env.setdefault('MASTER_PORT', '29500')
    env.update(RANK=env['SLURM_PROCID'], WORLD_SIZE=env['SLURM_NTASKS'], LOCAL_RANK=env['SLURM_LOCALID'])
