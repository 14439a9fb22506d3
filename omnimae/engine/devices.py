"""Device and CPU cores for tools, Runner and ``omnimae.apis``; why a GPU cannot be used. Tested: CPU and CUDA alone."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from functools import cache
from pathlib import Path

import torch

# folder, pattern: one entry for each NVIDIA GPU of the machine
_CARDS = (Path('/proc/driver/nvidia/gpus'), '*'), (Path('/dev'), 'nvidia[0-9]*')
_DRIVER = Path('/proc/driver/nvidia/version')


def choose_device() -> str:
    """The device named by the environment variable ``OMNIMAE_DEVICE``, else 'cuda' where PyTorch has a GPU, else 'cpu'.

    Others, such as Apple's 'mps', are untested and never chosen automatically.

    Raises:
        RuntimeError: the machine has a GPU, PyTorch cannot use it, and nobody asked for the CPU.
    """
    if name := os.environ.get('OMNIMAE_DEVICE'):
        return _checked(name)
    if torch.cuda.is_available():
        return 'cuda'
    _refuse_idle_card(os.environ.get('CUDA_VISIBLE_DEVICES'))
    return 'cpu'


def num_cores() -> int:
    """CPU cores that this process may use (Linux), or that the machine has (elsewhere)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1


def _checked(name: str) -> str:
    try:
        is_kind = torch.device(name).index is None
    except RuntimeError:  # PyTorch does not know the name
        is_kind = False
    if not is_kind:
        raise ValueError(
            f"OMNIMAE_DEVICE={name!r} is no kind of device. Choose 'cpu', 'cuda' or 'mps'. CUDA_VISIBLE_DEVICES picks "
            'the GPU.'
        )
    return name


@cache
def _refuse_idle_card(visible: str | None) -> None:
    """Raise if a GPU would stay idle, unless ``CUDA_VISIBLE_DEVICES`` asks for that."""
    if visible is not None and not re.match(r'\s*(\d|GPU-|MIG-)', visible):  # '', '-1', Slurm's 'NoDevFiles'
        return
    if not _has_card():
        return
    version = re.search(r'\d+\.\d[\d.]*', _DRIVER.read_text() if _DRIVER.exists() else '')
    if torch.version.cuda is None:
        problem = 'is built without CUDA. Install a build with CUDA (https://pytorch.org/get-started)'
    else:
        problem = (
            f'is built for CUDA {torch.version.cuda}: {_reason()} Update the driver, or install a PyTorch for an older '
            'CUDA (https://pytorch.org/get-started/previous-versions)'
        )
    named = '' if visible is None else f' CUDA_VISIBLE_DEVICES={visible!r} must name a GPU that is there.'
    raise RuntimeError(
        f'This machine has an NVIDIA GPU, driver {version[0] if version else "unknown"}, that PyTorch '
        f'{torch.__version__} cannot use; it {problem}.'
        f"{named} To compute on the CPU on purpose, set CUDA_VISIBLE_DEVICES=''."
    )


def _has_card() -> bool:
    if any(any(folder.glob(pattern)) for folder, pattern in _CARDS):
        return True
    command = shutil.which('nvidia-smi')  # the only sign under WSL
    try:
        return command is not None and not subprocess.run([command, '-L'], capture_output=True, timeout=20).returncode
    except (OSError, subprocess.TimeoutExpired):
        return False


def _reason() -> str:
    """PyTorch's own reason for not using the GPU, as one sentence."""
    try:
        torch.cuda.init()
    except Exception as error:  # RuntimeError, AssertionError, DeferredCudaCallError
        return str(error).split('. ')[0].strip().rstrip('.') + '.'
    return 'No GPU is found.'


def check_ranks(ranks: int) -> None:
    """Refuse more ranks on this machine than it has GPUs."""
    count = torch.cuda.device_count()
    if ranks > count:
        visible = os.environ.get('CUDA_VISIBLE_DEVICES')
        raise ValueError(
            f'{ranks} ranks on this machine, and PyTorch sees {count} GPU(s) (CUDA_VISIBLE_DEVICES='
            f'{"is not set" if visible is None else repr(visible)}). Give each rank a GPU of its own: start {count} '
            f'(GPUS={count} of dist_train.sh and dist_test.sh, torchrun --nproc-per-node {count}, under Slurm '
            f"GPUS_PER_NODE={count}), or name more in CUDA_VISIBLE_DEVICES ('' computes on the CPU)."
        )
