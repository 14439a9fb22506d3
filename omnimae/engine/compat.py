"""The workarounds for MMEngine 0.10.7 and PyTorch, each with its reason and the version that mends it.

They also serve ``onedl-mmengine`` 0.10.12, MMEngine's maintained fork, which has the same import name.
"""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import cache
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace, TracebackType
from typing import Any

import mmengine.hooks.checkpoint_hook as checkpoint_hook_module
import mmengine.hub.hub as hub_module
import mmengine.runner.checkpoint as checkpoint_module
import mmengine.runner.log_processor as log_processor_module
import mmengine.runner.runner as runner_module
import torch
from mmengine.dist import is_main_process, master_only
from mmengine.fileio import FileClient, JsonHandler, LocalBackend, get_file_backend, register_handler
from mmengine.logging import print_log
from mmengine.registry import FUNCTIONS as ROOT_FUNCTIONS
from mmengine.runner import CheckpointLoader, Runner, load_checkpoint
from torch import nn
from torch.utils.data import DataLoader

from omnimae.checkpoint import find_latest_checkpoint, load_weights, read_file, replacing, unwrap
from omnimae.config import offer_configs
from omnimae.registry import FUNCTIONS
from omnimae.stopping import StorageAwayError, exit_now, follow_launcher
from omnimae.structures import to_json

from .devices import choose_device, num_cores
from .testing import TestLoop, ValLoop


def setup_environment() -> None:
    """Apply the workarounds, and silence warnings that a user cannot mend. Every tool calls this first.

    Importing this package changes no other package. Call this as well if you build a Runner without a tool.
    """
    # MMEngine hands DDP broadcast_buffers=False, for which torch 2.15 has another name. Not mended in 0.11.0rc0.
    warnings.filterwarnings('ignore', message='`broadcast_buffers` is deprecated', category=FutureWarning)
    # Configs are for GPUs. Without one pin_memory=True does nothing, and PyTorch warns at every loader.
    warnings.filterwarnings('ignore', message="'pin_memory' argument is set as true but no accelerator")
    apply_patches()
    follow_launcher()
    sys.excepthook = _exit_when_away


def apply_patches() -> None:
    """Apply the workarounds below to MMEngine in this process. A second call changes nothing.

    `PlainCheckpointHook`, which every training has, calls this as well, for a Runner that no tool of ours builds.
    """
    offer_configs()
    FUNCTIONS.get('register_backends')()
    # Runner.build_dataloader looks for collate functions in the root registry only.
    ROOT_FUNCTIONS.register_module('collate_clips', module=FUNCTIONS.get('collate_clips'), force=True)
    register_handler('json')(PlainJsonHandler)
    # The other schemes, such as torchvision://, lead to one of these.
    CheckpointLoader.register_scheme(READ_PLAINLY, load_from_plain, force=True)
    hub_module.load_checkpoint = load_published
    checkpoint_module.load_from_http = load_from_plain  # MMEngine looks up the URL of torchvision://resnet50
    # The CheckpointHook makes a FileClient that it does not use, and that refuses an ``out_dir`` on other storages.
    checkpoint_hook_module.FileClient = SimpleNamespace(
        infer_client=lambda options, uri: options and FileClient.infer_client(options, uri)
    )
    log_processor_module.get_max_cuda_memory = max_memory
    runner_module.save_checkpoint = save_whole
    runner_module.find_latest_checkpoint = find_latest_checkpoint
    runner_module.ValLoop, runner_module.TestLoop = ValLoop, TestLoop  # of a config that names no type
    runner_module.get_device = choose_device  # MMEngine takes any accelerator, also untested ones
    # MMEngine logs 140 lines of which hook is called when.
    Runner.get_hooks_info = lambda runner: ', '.join(type(hook).__name__ for hook in runner.hooks)
    Runner.build_dataloader = staticmethod(build_dataloader)
    methods = build_logger, dump_config, save_checkpoint, register_default_hooks, build_param_scheduler
    for method in (*methods, _init_model_weights):
        setattr(Runner, method.__name__, method)


def _exit_when_away(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    """Print the error that ends the program. A storage that is away has its own exit code, as in training."""
    sys.__excepthook__(kind, error, traceback)
    if isinstance(error, StorageAwayError):
        exit_now(error.code)


# MMEngine leaves torch.load's default, which runs code from the file before torch 2.6 and, for URLs, in every
# version. onedl-mmengine tries the safe way first, but then runs the code. So files, URLs and object stores use this
# function. Not mended in MMEngine 0.11.0rc0, which asks for the unsafe way.
READ_PLAINLY = ('', 'http://', 'https://', r'(\S+\:)?s3://', r'(\S+\:)?petrel://')


def load_from_plain(filename: str, *_: Any, **ignored: Any) -> dict[str, Any]:
    """Read a whole checkpoint of the Runner, or weights, from a file or a URL. No code in it is executed.

    The result is always in CPU memory, from which model and optimizer copy what they need. On the device it would take
    twice the memory, and some devices have no float64, the type of the curves.
    """
    checkpoint = read_file(filename)
    if 'state_dict' not in checkpoint:
        checkpoint = {'state_dict': unwrap(checkpoint), 'meta': {}}
    checkpoint.get('meta', {}).pop('config', None)  # MMEngine's Runner would run it
    return checkpoint


def load_published(model: nn.Module, filename: str) -> None:
    """Load weights for `mmengine.hub.get_model`. MMEngine converts no layout: it would ignore all published keys."""
    ours = type(model).__module__.startswith('omnimae.')
    load_weights(model, filename, complete=True) if ours else load_checkpoint(model, filename)


def save_whole(
    checkpoint: dict[str, Any], filename: str, file_client_args: dict | None = None, backend_args: dict | None = None
) -> None:
    """Write a checkpoint of the Runner to the disk under a temporary name, then rename it.

    MMEngine writes in place. After a kill half a checkpoint has the right name, and the error of a full disk does not
    name the file. Not mended in 0.11.0rc0. A storage of another kind receives the whole file or nothing.

    PyTorch's checksums take longer than writing the file: 8 GB take 25 s with them and 10 s without, on a disk of 0.8
    GB/s. PyTorch never reads them. A file with a wrong bit loads either way.

    Raises:
        OSError: it could not be written. An earlier file of that name is whole.
    """
    if file_client_args is None:
        backend = get_file_backend(filename, backend_args=backend_args)
    else:
        backend = FileClient.infer_client(file_client_args, filename)
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
    """Write the checkpoints that are saved within this context to the disk in the background, then call ``then``.

    The next save waits for the end of it, see `wait_until_written`.
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
    """Wait for the background writing of `written_later`.

    Raises:
        OSError: see `save_whole`.
    """
    global _written
    written, _written = _written, None
    if written is not None:
        written.result()


def save_checkpoint(runner: Runner, *args: Any, save_optimizer: bool = True, **options: Any) -> None:
    """Save a checkpoint on the main rank. The other ranks send their parts of a sharded optimizer.

    In MMEngine the other ranks do not take part, and its own ZeroRedundancyOptimizer waits for them. Not mended in
    0.11.0rc0.
    """
    wait_until_written()
    if is_main_process():
        _save_checkpoint(runner, *args, save_optimizer=save_optimizer, **options)
    elif save_optimizer:
        runner.optim_wrapper.state_dict()


def save_alone(runner: Runner, folder: str, name: str, **options: Any) -> None:
    """As ``Runner.save_checkpoint``, on any rank, without the others."""
    wait_until_written()
    _save_checkpoint.__wrapped__(runner, folder, name, **options)


_save_checkpoint: Any = Runner.save_checkpoint


@master_only
def dump_config(runner: Runner, *, fits: bool = False) -> None:
    """`Runner.dump_config`, which keeps a config that is in the work directory. The backends write it as well.

    A run that is resumed keeps its config until its checkpoint ``fits``: `ResumeHook` calls this again then.
    """
    path = Path(runner.work_dir, Path(runner.cfg.filename or f'{runner.timestamp}.py').name)
    is_resumed = runner._resume and loaded_path(runner) is not None and not fits
    if not (path.exists() and (is_resumed or (runner.cfg.filename and path.samefile(runner.cfg.filename)))):
        runner.cfg.dump(str(path))


def loaded_path(runner: Runner) -> str | None:
    """The path of the checkpoint that a run loads or resumes from."""
    return runner._load_from or find_latest_checkpoint(runner.work_dir)


def nothing_to_resume(folder: str | os.PathLike, source: str | None = None) -> str:
    """The warning of a run that should resume from the latest checkpoint of a folder without one."""
    begins = 'from its beginning' if source is None else f'with {source}'
    return f'--resume: no checkpoint in {folder}, so the training starts {begins}.'


_build_logger: Any = Runner.build_logger
# Messages that go to the log's file only, by their beginning: environment, config, and the like.
FILE_ONLY = (
    *(f'\n{"-" * 60}', 'Config:\n', 'Hooks will be executed', 'Distributed training is not used', 'Exp name: '),
    *('Optimizer groups:', 'Checkpoints will be saved to ', 'paramwise_options'),
)


def build_logger(runner: Runner, *args: Any, **options: Any) -> logging.Logger:
    """As MMEngine, whose screen shows hundreds of lines before the first step. The file still has them."""
    logger = _build_logger(runner, *args, **options)
    for handler in logger.handlers:
        if not isinstance(handler, logging.FileHandler):
            handler.addFilter(_is_for_screen)
    return logger


def _is_for_screen(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith(FILE_ONLY)


_begin_weights: Any = Runner._init_model_weights


def _init_model_weights(runner: Runner) -> None:
    """As MMEngine, but not for a resumed run. Its checkpoint has all weights. The file of ``init_cfg`` may be gone."""
    if not (runner._resume and loaded_path(runner)):
        _begin_weights(runner)


_register_default_hooks = Runner.register_default_hooks
_OF_MMENGINE = ('runtime_info', 'timer', 'sampler_seed', 'logger', 'param_scheduler', 'checkpoint')


def register_default_hooks(runner: Runner, hooks: dict[str, Any] | None = None) -> None:
    """Remove a hook of any name by ``default_hooks.NAME=None``. MMEngine knows the names of its own hooks alone."""
    hooks = dict(hooks or {})
    if hooks.get('plain_checkpoint', True) is None:
        raise ValueError(
            'default_hooks.plain_checkpoint=None: without the PlainCheckpointHook checkpoints hold objects, which are '
            'not read again. Leave it in.'
        )
    given = {name: hook for name, hook in hooks.items() if hook is not None or name in _OF_MMENGINE}
    _register_default_hooks(runner, given)


_build_dataloader: Any = Runner.build_dataloader


def build_dataloader(dataloader: Any, *args: Any, **options: Any) -> DataLoader:
    """As MMEngine, with at most a worker for each CPU core of this process. Recipes are for machines with many cores.

    PyTorch warns of more workers. Samples do not depend on their number.
    """
    asked, cores = dataloader.get('num_workers', 0) if isinstance(dataloader, dict) else 0, num_cores()
    if asked > cores:
        _say_workers(asked, cores)
        dataloader = {**dataloader, 'num_workers': cores}
    return _build_dataloader(dataloader, *args, **options)


@cache
def _say_workers(asked: int, cores: int) -> None:
    print_log(f'num_workers is {cores} instead of {asked}: this process may use {cores} CPU cores.', 'current')


_build_param_scheduler = Runner.build_param_scheduler


def build_param_scheduler(runner: Runner, scheduler: Any) -> Any:
    """As MMEngine, whose error is only a KeyError if the optimizer has no learning rate."""
    optimizer: Any = getattr(runner.optim_wrapper, 'optimizer', None)
    if scheduler and optimizer is not None and any(group.get('lr') is None for group in optimizer.param_groups):
        raise ValueError(
            f'optim_wrapper.optimizer is {type(optimizer).__name__} without a learning rate, and param_scheduler sets '
            'one. Give optim_wrapper.optimizer.lr, or param_scheduler=None.'
        )
    return _build_param_scheduler(runner, scheduler)


class PlainJsonHandler(JsonHandler):
    """MMEngine's JsonHandler, with null for NaN and Infinity, for which other readers of JSON refuse the whole file."""

    def dump_to_fileobj(self, obj: Any, file: Any, **options: Any) -> None:
        """Write to an open file."""
        file.write(to_json(obj, **options))

    def dump_to_str(self, obj: Any, **options: Any) -> str:
        """The text."""
        return to_json(obj, **options)


def max_memory(device: torch.device | None = None) -> int:
    """Peak GPU memory since the last call, in MiB.

    MMEngine sends the number to the GPU and back, which synchronises twice. Not mended in 0.11.0rc0.
    """
    peak = torch.cuda.max_memory_allocated(device) // 2**20
    torch.cuda.reset_peak_memory_stats(device)
    return peak
