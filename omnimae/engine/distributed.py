"""Several ranks: their devices, how they meet, wait for each other, decide together and leave."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
from mmengine.config import Config
from mmengine.dist import broadcast_object_list, is_main_process
from mmengine.registry import MODEL_WRAPPERS
from torch.nn.parallel import DistributedDataParallel

from omnimae.meeting import meet
from omnimae.stopping import exit_now

from . import heartbeat
from .devices import check_ranks, choose_device
from .precision import set_float32_precision


def setup_distributed(cfg: Config) -> None:
    """Check and set up the devices, and connect the ranks. Call it after loading a config and before building a Runner.

    MMEngine connects ranks for GPUs alone: it always calls ``torch.cuda.set_device`` and gives DDP a device id. It does
    not tell PyTorch the GPU of a rank, so every barrier of NCCL guesses, with a warning. If a config has
    ``model_wrapper_cfg``, MMEngine drops ``find_unused_parameters`` and its own ``broadcast_buffers=False``. Not mended
    in 0.11.0rc0. It keeps a process group that exists already.

    Raises:
        RuntimeError: the machine has a GPU that PyTorch cannot use, or the ranks do not meet.
    """
    device = choose_device()
    if device == 'cuda':
        set_float32_precision(cfg.get('env_cfg', {}).get('float32_precision', 'high'))
    launcher = cfg.get('launcher', 'none')
    _check_launcher(launcher)
    if launcher == 'none':
        return
    options = dict(cfg.get('env_cfg', {}).get('dist_cfg', {}))
    backend, port = options.pop('backend', 'nccl'), options.pop('port', None)
    patience, silence = (_seconds(options, *pair) for pair in (('timeout', 1800.0), ('heartbeat', 60.0)))
    if cfg.launcher == 'slurm':
        _translate_slurm(port)
    gpu = int(os.environ['LOCAL_RANK'])
    if device == 'cuda':
        if cfg.launcher == 'slurm' and 'SLURM_GPUS_PER_TASK' in os.environ:
            gpu = 0  # each rank sees its own alone
        check_ranks(max(int(os.environ.get('LOCAL_WORLD_SIZE') or 1), gpu + 1))
        torch.cuda.set_device(gpu)
        if backend == 'nccl':
            options['device_id'] = torch.device(device, gpu)
    else:
        backend = 'gloo'
    store, hosts = meet(2 * silence)
    rank, limit = int(os.environ['RANK']), timedelta(seconds=patience + silence)  # the heartbeat acts earlier
    store.set_timeout(limit)  # of the process group's waits for the store
    torch.distributed.init_process_group(
        backend, store=store, rank=rank, world_size=len(hosts), timeout=limit, **options
    )
    if len(hosts) > 1:
        heartbeat.begin(rank, hosts, silence=silence, patience=patience)
    given = cfg.get('model_wrapper_cfg') or {}
    if issubclass(MODEL_WRAPPERS.get(given.get('type', 'MMDistributedDataParallel')), DistributedDataParallel):
        cfg.model_wrapper_cfg = {
            'type': 'MMDistributedDataParallel',
            'broadcast_buffers': False,
            'gradient_as_bucket_view': True,
            'find_unused_parameters': cfg.get('find_unused_parameters', parts_vary(cfg)),
            **given,
            'device_ids': [gpu] if device == 'cuda' else None,
        }


def _check_launcher(launcher: str) -> None:
    """Refuse an environment that is not the launcher's. Without a launcher each rank would do all of the work."""
    sizes = dict(WORLD_SIZE='pytorch', SLURM_STEP_NUM_TASKS='slurm')
    for name, other in sizes.items() if launcher == 'none' else ():
        if (number := os.environ.get(name, '1')) not in ('', '0', '1'):
            raise ValueError(
                f'{name}={number} in the environment: so many processes were started. Without a launcher each does '
                f'all of the work, in one folder. Add --launcher {other}; or unset {name}, if this is the only one.'
            )
    needed = dict(pytorch='RANK', slurm='SLURM_PROCID').get(launcher)
    if needed is not None and not os.environ.get(needed):
        program, script = ('torchrun', 'dist') if launcher == 'pytorch' else ('srun', 'slurm')
        raise ValueError(
            f'--launcher {launcher}: {needed} is not in the environment, so {program} did not start this process. Use '
            f'tools/{script}_train.sh or {script}_test.sh, or no --launcher.'
        )


def _seconds(options: dict[str, Any], key: str, default: float) -> float:
    seconds = options.pop(key, default)
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not seconds > 0:
        raise ValueError(f'env_cfg.dist_cfg.{key}={seconds!r} is no number of seconds. Give one, such as {default:g}.')
    return float(seconds)


def parts_vary(cfg: Config) -> bool:
    """Whether batches may use different parts of the model, which DDP has to know (``find_unused_parameters``).

    A decoder for one modality has no gradient from a batch of another. The same holds for the parts of a modality that
    some sources lack.
    """
    sources = ((cfg.get('train_dataloader') or {}).get('dataset') or {}).get('sources') or {}
    head = cfg.model.get('head') or {}
    is_separate = len(head) > 1 and {*head} <= {'image', 'video'}
    return is_separate or len({frozenset(source.get('modalities', ())) for source in sources.values()}) > 1


def leave_distributed() -> None:
    """End the process group, all ranks together. The last call of a program, but not after an error.

    MMEngine leaves this to the end of the interpreter. If a model in DDP is still alive then, gloo's threads sometimes
    abort a finished rank ("terminate called without an active exception", exit code -6 in one of some dozen runs). So
    with gloo a rank exits at once. Not mended in MMEngine 0.11.0rc0 and torch 2.15.
    """
    if not torch.distributed.is_initialized():
        return
    torch.distributed.barrier()
    heartbeat.end()
    if torch.distributed.get_backend() == 'gloo':
        exit_now(0)
    torch.distributed.destroy_process_group()


def exit_together(code: int) -> None:
    """End all ranks at the same time with an exit code, from within the training."""
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
        heartbeat.end()
        exit_now(code)  # a model in DDP is alive: see leave_distributed
    raise SystemExit(code)


def of_main_rank(work: Callable[[], Any]) -> Any:
    """Run ``work`` on the main rank. All ranks return its result, or raise its ValueError or OSError."""
    answer: list[Any] = [None]
    if is_main_process():
        try:
            answer = [work()]
        except (ValueError, OSError) as error:
            answer = [error]
    broadcast_object_list(answer)
    if isinstance(answer[0], Exception):
        raise answer[0]
    return answer[0]


def all_come(seconds: float) -> bool:
    """Whether all ranks call this within so many seconds. It uses the store, as some may be in a collective."""
    if not torch.distributed.is_initialized():
        return True
    number, end = _waiting(1), time.monotonic() + seconds
    while number < torch.distributed.get_world_size() and time.monotonic() < end:
        time.sleep(0.1)
        number = _waiting(0)
    come = number == torch.distributed.get_world_size()
    if not come:
        _waiting(-1)
    return come


def someone_waits() -> bool:
    """Whether another rank is in `all_come`."""
    return torch.distributed.is_initialized() and _waiting(0) > 0


def _waiting(more: int) -> int:
    """Add to the number of ranks in `all_come`, and return it."""
    try:
        return torch.distributed.distributed_c10d._get_default_store().add('ranks_that_wait', more)
    except torch.distributed.DistError:  # the launcher, which keeps the store, is gone
        return 0


def _translate_slurm(port: int | None) -> None:
    """Set PyTorch's variables from those of the Slurm step, which may have other nodes than its job.

    The port follows from the numbers of job and step.
    """
    env = os.environ
    if not env.get('MASTER_ADDR'):
        env['MASTER_ADDR'] = _first_node(env.get('SLURM_STEP_NODELIST') or env['SLURM_NODELIST'])
    job, step = (int(env.get(f'SLURM_{name}_ID', 0)) for name in ('JOB', 'STEP'))
    env['MASTER_PORT'] = env.get('MASTER_PORT') or str(port or 15000 + (job + 101 * step) % 15000)  # jobs share nodes
    env.update(RANK=env['SLURM_PROCID'], WORLD_SIZE=env['SLURM_NTASKS'], LOCAL_RANK=env['SLURM_LOCALID'])


def _first_node(nodes: str) -> str:
    """The first node of a list such as ``gpu[007-009,12],big1``. Slurm's own scontrol is missing in containers."""
    first = re.match(r'([^,\[]|\[[^]]*\])+', nodes)
    assert first is not None, nodes
    return re.sub(r'\[([^],-]+)[^]]*\]', r'\1', first[0])
