"""Every workaround for MMEngine 0.10.7 and torch, each with its reason and the version that mends it.

The same code serves MMEngine's maintained fork ``onedl-mmengine`` 0.10.12, which has the same import name.
"""

from __future__ import annotations

import logging
import os
import re
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from io import BytesIO
from pathlib import Path
from types import TracebackType
from typing import Any

import mmengine.hooks.checkpoint_hook as checkpoint_hook_module
import mmengine.optim.optimizer.default_constructor as constructor_module
import mmengine.runner.checkpoint as checkpoint_module
import mmengine.runner.log_processor as log_processor_module
import mmengine.runner.runner as runner_module
import torch
from mmengine.config import Config
from mmengine.dist import broadcast_object_list, is_main_process
from mmengine.fileio import FileClient, JsonHandler, LocalBackend, exists, get_file_backend, register_handler
from mmengine.logging import print_log
from mmengine.registry import FUNCTIONS as ROOT_FUNCTIONS
from mmengine.registry import MODEL_WRAPPERS
from mmengine.runner import CheckpointLoader, Runner
from mmengine.runner import save_checkpoint as save_in_place
from torch.nn.parallel import DistributedDataParallel

from omnimae.checkpoint import read_file, replacing, unwrap
from omnimae.config import offer_configs
from omnimae.meeting import meet
from omnimae.registry import FUNCTIONS
from omnimae.stopping import StorageAwayError, exit_now, follow_launcher
from omnimae.structures import to_json

from . import heartbeat
from .devices import check_ranks, choose_device
from .precision import set_float32_precision
from .testing import TestLoop, ValLoop


def setup_environment() -> None:
    """Mend MMEngine, silence what nobody can mend; every tool calls this first.

    Importing this package changes nothing of another one. Whoever builds a Runner without a tool calls this, too.
    """
    # MMEngine imports pkg_resources for `_base_ = ['mmpretrain::...']`, and setuptools 80 warns about it on every
    # start. Mended in MMEngine 0.11.0, which uses importlib.metadata; until then setuptools stays below 81.
    warnings.filterwarnings('ignore', message='pkg_resources is deprecated', category=UserWarning)
    # MMEngine hands DDP broadcast_buffers=False, for which torch 2.15 has another name. Not mended in 0.11.0rc0.
    warnings.filterwarnings('ignore', message='`broadcast_buffers` is deprecated', category=FutureWarning)
    apply_patches()
    follow_launcher()
    sys.excepthook = _exit_when_away


def apply_patches() -> None:
    """Change in MMEngine, for this process, what the functions below say. Doing it again changes nothing.

    `PlainCheckpointHook`, which every training has, does it, too, for a Runner that no tool of ours builds.
    """
    offer_configs()
    FUNCTIONS.get('register_backends')()
    # Runner.build_dataloader looks for collate functions in the root registry only.
    ROOT_FUNCTIONS.register_module('collate_clips', module=FUNCTIONS.get('collate_clips'), force=True)
    register_handler('json')(PlainJsonHandler)
    # The other schemes, such as torchvision://, end in one of these.
    CheckpointLoader.register_scheme(READ_PLAINLY, load_from_plain, force=True)
    checkpoint_module.load_from_http = load_from_http
    checkpoint_hook_module.FileClient = FileClientIfAsked
    log_processor_module.get_max_cuda_memory = max_memory
    runner_module.save_checkpoint = save_whole
    runner_module.find_latest_checkpoint = checkpoint_to_resume
    runner_module.ValLoop, runner_module.TestLoop = ValLoop, TestLoop  # of a config that names no type
    runner_module.get_device = choose_device  # MMEngine takes any accelerator that it knows, also what nobody tried
    # MMEngine logs each parameter with its options, and 140 lines of which hook is called when.
    constructor_module.print_log = log_no_options
    Runner.get_hooks_info = lambda runner: ', '.join(type(hook).__name__ for hook in runner.hooks)
    for method in (save_checkpoint, register_default_hooks, build_param_scheduler, _init_model_weights):
        setattr(Runner, method.__name__, method)


def _exit_when_away(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    """Report what ends the program. A storage that is away before or after a training has its exit code, too."""
    sys.__excepthook__(kind, error, traceback)
    if isinstance(error, StorageAwayError):
        exit_now(error.code)


# MMEngine leaves torch.load's default, which runs code from the file before torch 2.6 and, for URLs, in every
# version; onedl-mmengine tries the safe way first and then runs the code after all. So files, URLs and object stores go
# through this function. Not mended in MMEngine 0.11.0rc0, which asks for the unsafe way outright.
READ_PLAINLY = ('', 'http://', 'https://', r'(\S+\:)?s3://', r'(\S+\:)?petrel://')


def load_from_plain(filename: str, map_location: Any = None) -> dict[str, Any]:
    """Read a whole checkpoint of the Runner, or weights, from a file or an address; nothing in it is executed.

    Always into the memory of the CPU, from where model and optimizer take what they need: the Runner would ask for all
    of it on the device, twice the memory, and float64, which the curves are in, is unknown to some.
    """
    checkpoint = read_file(filename)
    if 'state_dict' not in checkpoint:
        checkpoint = {'state_dict': unwrap(checkpoint), 'meta': {}}
    checkpoint.get('meta', {}).pop('config', None)  # MMEngine's Runner would run it
    return checkpoint


def load_from_http(filename: str, map_location: Any = None, **options: Any) -> dict[str, Any]:
    """As `load_from_plain`: MMEngine looks up the URL of ``torchvision://resnet50`` and calls this."""
    return load_from_plain(filename, map_location)


def save_whole(
    checkpoint: dict[str, Any], filename: str, file_client_args: dict | None = None, backend_args: dict | None = None
) -> None:
    """Write a checkpoint of the Runner under another name, to the disk, and only then under its own.

    MMEngine writes in place, so a run that is killed leaves half a checkpoint by the right name, and a full disk an
    error that does not name the file. Not mended in 0.11.0rc0. A storage of another kind takes it whole or not at all.

    The checksums that torch adds take longer than writing the file: 8 GB take 25 s with them and 10 s without, on a
    disk of 0.8 GB/s. Torch never reads them: a file with one wrong bit loads with and without.

    Raises:
        OSError: it could not be written; what was there before is whole.
    """
    if file_client_args is not None:
        save_in_place(checkpoint, filename, file_client_args, backend_args)
        return
    backend = get_file_backend(filename, backend_args=backend_args)
    if not isinstance(backend, LocalBackend):
        content = BytesIO()
        torch.save(checkpoint, content)
        backend.put(content.getvalue(), filename)
        return
    Path(filename).parent.mkdir(parents=True, exist_ok=True)
    checksums = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        with ExitStack() as writing:
            torch.save(checkpoint, writing.enter_context(replacing(filename)))
            if _later is not None:
                _later.push(writing.pop_all())
    finally:
        torch.serialization.set_crc32_options(checksums)


_later: ExitStack | None = None
_writer = ThreadPoolExecutor(1)
_written: Future[None] | None = None


@contextmanager
def written_later(then: Callable[[], None]) -> Iterator[None]:
    """Of checkpoints saved within, the bytes go to the disk in the background, and then the name; then call ``then``.

    The next save waits for them, see `wait_until_written`.
    """
    global _later, _written
    with ExitStack() as _later:
        try:
            yield
            rest = _later.pop_all()
        finally:
            _later = None

    def finish() -> None:
        rest.close()
        then()

    _written = _writer.submit(finish)


def wait_until_written() -> None:
    """Wait for what `written_later` left to do.

    Raises:
        OSError: as of `save_whole`.
    """
    global _written
    written, _written = _written, None
    if written is not None:
        written.result()


def save_checkpoint(runner: Runner, *args: Any, save_optimizer: bool = True, **options: Any) -> None:
    """Save a checkpoint on the main rank, with the parts that the others have of a sharded optimizer.

    MMEngine leaves out the other ranks, for which its own ZeroRedundancyOptimizer then waits. Not mended in 0.11.0rc0.
    """
    wait_until_written()
    if is_main_process():
        _save_checkpoint(runner, *args, save_optimizer=save_optimizer, **options)
    elif save_optimizer:
        runner.optim_wrapper.state_dict()


def save_alone(runner: Runner, folder: str, name: str, **options: Any) -> None:
    """As ``Runner.save_checkpoint``, on whatever rank this is; no other rank is needed for it."""
    wait_until_written()
    _save_checkpoint.__wrapped__(runner, folder, name, **options)


_save_checkpoint: Any = Runner.save_checkpoint


def find_latest_checkpoint(work_dir: str) -> str | None:
    """Give the checkpoint that ``last_checkpoint`` names, or else the newest one in the folder; None if there is none.

    MMEngine writes ``last_checkpoint`` in place, so it may be empty after a kill, and stores the path as it was given,
    which is wrong from another folder or when the work directory was moved. Not mended in 0.11.0rc0.
    """
    folder = Path(work_dir)
    named = folder / 'last_checkpoint'
    if named.exists() and (text := named.read_text().strip()):
        for path in (str(folder / Path(text).name), text):
            if os.path.exists(path) or ('://' in path and exists(path)):
                return path
    whole = [path for path in folder.glob('*.pth') if not path.name.startswith('best_')]
    return str(max(whole, key=lambda path: path.stat().st_mtime)) if whole else None


def loaded_path(runner: Runner) -> str | None:
    """Give the path of the checkpoint that a run begins with or goes on from."""
    return runner._load_from or find_latest_checkpoint(runner.work_dir)


def checkpoint_to_resume(work_dir: str) -> str | None:
    """As `find_latest_checkpoint`. MMEngine says that it resumed from None. Not mended in 0.11.0rc0."""
    path = find_latest_checkpoint(work_dir)
    if path is None:
        print_log(nothing_to_resume(work_dir), 'current', logging.WARNING)
    return path


def nothing_to_resume(folder: str | os.PathLike, source: str | None = None) -> str:
    """What a run says that was told to go on and has nothing to go on from, but for the file that it begins with."""
    begins = 'so the training starts from its beginning' if source is None else f'so the training begins with {source}'
    return f'--resume: no checkpoint in {folder}, {begins}.'


_begin_weights: Any = Runner._init_model_weights


def _init_model_weights(runner: Runner) -> None:
    """As MMEngine, but for a run that goes on: its checkpoint has all weights, and ``init_cfg``'s may be gone."""
    if not (runner._resume and loaded_path(runner)):
        _begin_weights(runner)


_register_default_hooks = Runner.register_default_hooks
_OF_MMENGINE = ('runtime_info', 'timer', 'sampler_seed', 'logger', 'param_scheduler', 'checkpoint')


def register_default_hooks(runner: Runner, hooks: dict[str, Any] | None = None) -> None:
    """Leave out a hook of ours, too, where ``default_hooks.NAME=None``: MMEngine knows its own names alone."""
    hooks = dict(hooks or {})
    if hooks.get('plain_checkpoint', True) is None:
        raise ValueError(
            'default_hooks.plain_checkpoint=None: without the PlainCheckpointHook checkpoints hold objects, which are '
            'not read again. Leave it in.'
        )
    given = {name: hook for name, hook in hooks.items() if hook is not None or name in _OF_MMENGINE}
    _register_default_hooks(runner, given)


_build_param_scheduler = Runner.build_param_scheduler


def build_param_scheduler(runner: Runner, scheduler: Any) -> Any:
    """As MMEngine, which says no more than KeyError where the optimizer has no learning rate."""
    optimizer: Any = getattr(runner.optim_wrapper, 'optimizer', None)
    if scheduler and optimizer is not None and any(group.get('lr') is None for group in optimizer.param_groups):
        raise ValueError(
            f'optim_wrapper.optimizer is {type(optimizer).__name__} without a learning rate, and param_scheduler sets '
            'one. Give optim_wrapper.optimizer.lr, or param_scheduler=None.'
        )
    return _build_param_scheduler(runner, scheduler)


def log_no_options(message: str, *args: Any, **options: Any) -> None:
    """As MMEngine's ``print_log``, without one line for each option of each parameter."""
    if not message.startswith('paramwise_options'):
        print_log(message, *args, **options)


class FileClientIfAsked:
    """In place of MMEngine's in its CheckpointHook, which makes one that it does not use, and warns of it.

    It knows no storage but its own, so ``out_dir`` could be on no other.
    """

    @staticmethod
    def infer_client(file_client_args: dict[str, Any] | None = None, uri: Any = None) -> FileClient | None:
        """Give none where none is asked for."""
        return None if file_client_args is None else FileClient.infer_client(file_client_args, uri)


class PlainJsonHandler(JsonHandler):
    """MMEngine's, which writes NaN and Infinity as such; other readers of JSON refuse the whole file."""

    def dump_to_fileobj(self, obj: Any, file: Any, **options: Any) -> None:
        """Write to an open file."""
        file.write(to_json(obj, **options))

    def dump_to_str(self, obj: Any, **options: Any) -> str:
        """Give the text."""
        return to_json(obj, **options)


def max_memory(device: torch.device | None = None) -> int:
    """MiB of GPU memory that were in use at most since the last call.

    MMEngine sends the number to the GPU and back, which waits for it twice. Not mended in 0.11.0rc0.
    """
    peak = torch.cuda.max_memory_allocated(device) // 2**20
    torch.cuda.reset_peak_memory_stats(device)
    return peak


def setup_distributed(cfg: Config) -> None:
    """Check and set up the devices and let the ranks meet; called between loading a config and building the Runner.

    MMEngine would do the latter itself, for GPUs alone: it always calls ``torch.cuda.set_device`` and hands DDP a
    device id. It does not tell PyTorch which GPU a rank has, so every barrier of NCCL guesses, with a warning. Where a
    config has ``model_wrapper_cfg`` it drops ``find_unused_parameters`` and its own ``broadcast_buffers=False``. Not
    mended in 0.11.0rc0. It does leave a process group alone that exists already.

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
        check_ranks(max(int(os.environ.get('LOCAL_WORLD_SIZE', 1)), gpu + 1))
        torch.cuda.set_device(gpu)
        if backend == 'nccl':
            options['device_id'] = torch.device(device, gpu)
    else:
        backend = 'gloo'
    store, hosts = meet(2 * silence)
    rank, limit = int(os.environ['RANK']), timedelta(seconds=patience + silence)  # the heartbeat comes before it
    store.set_timeout(limit)  # for what the process group waits for there
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
    """Whether the environment is that of the launcher; without one each of several ranks would do all of the work."""
    sizes = dict(WORLD_SIZE='pytorch', SLURM_STEP_NUM_TASKS='slurm')
    for name, other in sizes.items() if launcher == 'none' else ():
        if (number := os.environ.get(name, '1')) not in ('', '0', '1'):
            raise ValueError(
                f'{name}={number} in the environment: so many processes were started. Without a launcher each does '
                f'all of the work, in one folder. Add --launcher {other}; or unset {name}, if this is the only one.'
            )
    needed = dict(pytorch='RANK', slurm='SLURM_PROCID').get(launcher)
    if needed is not None and needed not in os.environ:
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
    """Whether the batches of a training may use different parts of its model, of which DDP has to be told.

    A decoder for each modality has no gradient from a batch of the other; nor has what belongs to a modality that some
    sources lack.
    """
    sources = ((cfg.get('train_dataloader') or {}).get('dataset') or {}).get('sources') or {}
    head = cfg.model.get('head') or {}
    is_separate = len(head) > 1 and {*head} <= {'image', 'video'}
    return is_separate or len({frozenset(source.get('modalities', ())) for source in sources.values()}) > 1


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
    heartbeat.end()
    if torch.distributed.get_backend() == 'gloo':
        exit_now(0)
    torch.distributed.destroy_process_group()


def exit_together(code: int) -> None:
    """End this process with an exit code from within the training, and all ranks at the same time."""
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
        heartbeat.end()
        exit_now(code)  # a model in DDP is alive, see leave_distributed
    raise SystemExit(code)


def of_main_rank(work: Callable[[], Any]) -> Any:
    """What ``work`` gives on the main rank, on all ranks; they raise what it raises there of ValueError and OSError."""
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
    """Whether all ranks call this within so many seconds. Nothing else waits: some may be in a collective."""
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
    """Add to the number of ranks in `all_come`."""
    try:
        return torch.distributed.distributed_c10d._get_default_store().add('ranks_that_wait', more)
    except torch.distributed.DistError:  # the launcher, which keeps the store, is gone
        return 0


def _translate_slurm(port: int | None) -> None:
    """Of the step, which may have other nodes than its job; the port follows from both numbers."""
    env = os.environ
    if 'MASTER_ADDR' not in env:
        env['MASTER_ADDR'] = _first_node(env.get('SLURM_STEP_NODELIST') or env['SLURM_NODELIST'])
    job, step = (int(env.get(f'SLURM_{name}_ID', 0)) for name in ('JOB', 'STEP'))
    env.setdefault('MASTER_PORT', str(port or 15000 + (job + 101 * step) % 15000))  # jobs may share a node
    env.update(RANK=env['SLURM_PROCID'], WORLD_SIZE=env['SLURM_NTASKS'], LOCAL_RANK=env['SLURM_LOCALID'])


def _first_node(nodes: str) -> str:
    """Of a list such as ``gpu[007-009,12],big1``. Slurm's own scontrol is missing in containers."""
    first = re.match(r'([^,\[]|\[[^]]*\])+', nodes)
    assert first is not None, nodes
    return re.sub(r'\[([^],-]+)[^]]*\]', r'\1', first[0])
