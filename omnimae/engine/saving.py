"""What a run leaves on the disk to go on from: checkpoints that are whole, plain and fit; exports; preemption."""

from __future__ import annotations

import json
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from mmengine.dist import all_reduce, get_world_size, is_main_process, master_only
from mmengine.fileio import LocalBackend, join_path
from mmengine.hooks import CheckpointHook as MMEngineCheckpointHook
from mmengine.hooks import EMAHook, Hook
from mmengine.logging import HistoryBuffer
from mmengine.runner import BaseLoop, Runner
from torch import Tensor, nn

from omnimae.checkpoint import load_file, replacing, save_file
from omnimae.registry import HOOKS
from omnimae.stopping import (
    INTERRUPTED,
    PREEMPTED,
    SIGNALS,
    StorageAwayError,
    WaitEnded,
    heard,
    saving,
    storage_patience,
)

from .compat import (
    all_come,
    apply_patches,
    exit_now,
    exit_together,
    find_latest_checkpoint,
    loaded_path,
    someone_waits,
    wait_until_written,
    written_later,
)
from .hooks import check_score, class_names, unwrapped
from .reading import message_of
from .sharding import ShardedOptimizer


@HOOKS.register_module()
class CheckpointHook(MMEngineCheckpointHook):
    """MMEngine's, by the same name and with the same options, which removes old checkpoints last.

    MMEngine removes the oldest one, or the best so far, before it writes the new one. A run that is killed in between
    has lost it: with ``max_keep_ckpts=1`` all there was. (0.11.0rc0 still does.) Where a run was resumed from another
    folder, MMEngine removes the best one there. Here nothing is removed but in the run's own folder.

    With ``save_best='accuracy/top1'`` every validation says in the log and in the curves (``accuracy/top1_best`` and
    ``accuracy/top1_best_epoch``) what was best and when, beside what it is now. The weights are those that were
    validated: the average, with an EMAHook. `ExportHook` writes them alone, too.

    An epoch may take hours. So ``timed.pth`` is written, too, and in its place again, as often as no other checkpoint
    was for some time. Training waits for the disk neither time: it is written in the background. It goes when training
    is over.

    Args:
        args: of MMEngine's.
        minutes: between checkpoints; None writes those that MMEngine does alone.
        kwargs: of MMEngine's.

    Raises:
        FloatingPointError: the weights are not finite; the last good checkpoint stays.
    """

    def __init__(self, *args: Any, minutes: float | None = 15.0, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.minutes = minutes

    @property
    def best(self) -> dict[str, str]:
        """Metric -> path of the checkpoint that was best in it so far."""
        if not self.save_best:
            return {}
        single = len(self.key_indicators) == 1
        paths = {self.key_indicators[0]: self.best_ckpt_path} if single else self.best_ckpt_path_dict
        return {key: path for key, path in paths.items() if path}

    def before_train(self, runner: Runner) -> None:
        """Find the best checkpoint of a resumed run in its own folder, if it was moved or copied there."""
        super().before_train(runner)
        if is_main_process() and isinstance(self.file_backend, LocalBackend):
            os.makedirs(self.out_dir, exist_ok=True)  # of another ``out_dir`` than the work directory
        for key in self.save_best or ():
            if key != 'auto':
                check_score(runner, key, 'default_hooks.checkpoint.save_best')
        self._saved_at = time.monotonic()
        self._timed = self.file_backend.join_path(self.out_dir, 'timed.pth')
        for key, path in self.best.items():
            here = os.path.join(self.out_dir, os.path.basename(path))
            if os.path.isfile(here):
                if len(self.key_indicators) == 1:
                    self.best_ckpt_path = here
                else:
                    self.best_ckpt_path_dict[key] = here

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float]) -> None:
        """Keep what is best, and say so."""
        if not isinstance(runner._train_loop, BaseLoop):
            return  # Runner.val() alone
        super().after_val_epoch(runner, metrics)
        for key, path in self.best.items():
            score = runner.message_hub.get_info('best_score' if len(self.key_indicators) == 1 else f'best_score_{key}')
            when = int(re.findall(r'\d+', os.path.basename(path))[-1])
            unit = 'epoch' if self.by_epoch else 'iter'
            runner.visualizer.add_scalars({f'{key}_best': score, f'{key}_best_{unit}': when}, step=runner.epoch)
            runner.logger.info(f'{key}: last {metrics[key]:.4f}, best {score:.4f} at {unit} {when}.')

    def count_step(self, runner: Runner, data_batch: Any, counts: dict[str, float]) -> None:
        """Whether it is time for a checkpoint, by the clock of the main rank (EpochTrainLoop)."""
        passed = (time.monotonic() - self._saved_at) / 60
        counts['time_to_save'] = is_main_process() and self.minutes is not None and passed >= self.minutes

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict[str, Tensor] | None = None
    ) -> None:
        """Save if it is time."""
        super().after_train_iter(runner, batch_idx, data_batch, outputs)
        if runner.train_loop.counts['time_to_save']:
            self.check_finite(runner)
            with written_later(lambda: master_only(_note_latest)(runner, self._timed)):
                meta = dict(epoch=runner.epoch, iter=runner.iter + 1)
                options = dict(meta=meta, by_epoch=False, backend_args=self.backend_args)
                runner.save_checkpoint(self.out_dir, 'timed.pth', **options)
            self._saved_at = time.monotonic()

    def after_train(self, runner: Runner) -> None:
        """Remove the checkpoint by time, if there is a later one."""
        super().after_train(runner)
        wait_until_written()
        is_last = os.path.basename(find_latest_checkpoint(runner.work_dir) or '') == 'timed.pth'
        if is_main_process() and not is_last and self.file_backend.isfile(self._timed):
            self.file_backend.remove(self._timed)

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict[str, Any]) -> None:
        self.check_finite(runner)
        with self._removing_last():
            super()._save_checkpoint_with_step(runner, step, meta)
        self._saved_at = time.monotonic()

    def check_finite(self, runner: Runner) -> None:
        """Refuse to save weights that are not finite.

        Raises:
            FloatingPointError: names one.
        """
        for name, weight in unwrapped(runner.model).state_dict().items():
            if not weight.isfinite().all():
                raise FloatingPointError(
                    f'{name} is not finite, so no checkpoint is written over the good ones in {self.out_dir}. Lower '
                    'optim_wrapper.optimizer.lr or set optim_wrapper.clip_grad, and go on from the last with --resume.'
                )

    def _save_best_checkpoint(self, runner: Runner, metrics: dict[str, float]) -> None:
        if not self.save_best:  # and there may be no training: Runner.val()
            return
        with self._removing_last():
            super()._save_best_checkpoint(runner, metrics)

    @contextmanager
    def _removing_last(self) -> Iterator[None]:
        backend = self.file_backend
        isfile, remove, outdated = backend.isfile, backend.remove, list[str]()
        # Of a run that was resumed from another folder, the best so far is still there, and stays.
        backend.isfile = lambda path: os.path.dirname(path) == self.out_dir and isfile(path)
        backend.remove = outdated.append
        try:
            yield
        finally:
            backend.isfile, backend.remove = isfile, remove
        for path in outdated:
            if path not in self.best.values():  # else the new one took its name
                remove(path)


@HOOKS.register_module()
class PreemptionHook(Hook):
    """Saves and ends the run when somebody asks for it: Ctrl-C, SIGTERM, SIGHUP, SIGUSR1 (Slurm's ``USR1@120``).

    A rank that was signalled tells the others at the end of the optimizer step or validation that is running. All save
    ``preempted.pth`` together. The exit code is 75, which ``slurm_train.sh`` answers with ``--resume``, and 130 after
    Ctrl-C. A second Ctrl-C does not wait for the end of the step.

    Data that do not come hold up no one: a rank that waits for them ends its wait at once, or, if there are several
    ranks, after ``PATIENCE``, in which the others may finish the step with it. A validation ends at once: the resumed
    run does it again. Ranks that do not meet in ``PATIENCE``, because one is in a collective with another, leave the
    saving to the main one; where that is in the collective, the RescueHook saves when the others are gone.

    A storage that does not answer ends the run in the same way, with the exit code 75, or 1 where it refuses to.
    """

    # Behind everything else of the step.
    priority = 'LOWEST'
    GRACE = 60.0  # seconds that a loader's worker outlives SIGTERM, which clusters send to every process
    PATIENCE = 10.0  # seconds

    def __init__(self) -> None:
        self._before: dict[int, Any] = {}  # what the signals did before training
        self._loop: Any = None
        self._preempted = self._interrupted = False
        self._validates = self._is_stopping = False

    def before_train(self, runner: Runner) -> None:
        """Listen, in this process and in the loader's workers."""
        self._preempted = self._interrupted = self._validates = self._is_stopping = False
        self._loop = runner.train_loop
        if threading.current_thread() is threading.main_thread():  # no other may listen
            self._before = {number: signal.signal(number, self._ask) for number in heard()}
            self._before[signal.SIGALRM] = signal.signal(signal.SIGALRM, self._end_wait)
            saving.set()
        for loader in [runner.train_dataloader] + ([runner.val_dataloader] if runner.val_loop is not None else []):
            loader.worker_init_fn = _Outliving(self.GRACE, loader.worker_init_fn)
            loader.timeout += storage_patience() if loader.timeout else 0

    @property
    def was_asked(self) -> bool:
        """Whether this rank was asked to stop."""
        return self._preempted

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self._interrupted:
            raise KeyboardInterrupt
        self._interrupted |= number == signal.SIGINT
        self._preempted = True
        if not self._is_stopping:
            others = get_world_size() > 1 and not self._validates
            signal.setitimer(signal.ITIMER_REAL, self.PATIENCE if others else 0.01, 1.0)

    def _end_wait(self, number: int, frame: FrameType | None) -> None:
        feed = getattr(self._loop, 'feed', None)
        if self._validates or (feed is not None and feed.is_waiting):
            raise WaitEnded

    def count_step(self, runner: Runner, data_batch: Any, counts: dict[str, float]) -> None:
        """Say whether this rank was asked (EpochTrainLoop)."""
        counts |= dict(asked_to_stop=self._preempted, interrupted=self._interrupted)

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict[str, Tensor] | None = None
    ) -> None:
        """Stop after this step if any rank was asked to."""
        counts = runner.train_loop.counts
        if counts['asked_to_stop']:
            self._stop(runner, INTERRUPTED if counts['interrupted'] else PREEMPTED, step_is_over=True)

    def before_val_epoch(self, runner: Runner) -> None:
        """Signals end the validation from now on."""
        self._validates = bool(self._before)

    def after_val_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Let the ranks count together what they have; or leave, if another does."""
        if batch_idx + 1 == len(runner.val_dataloader):
            self._validates = False
        elif self._validates and someone_waits():
            raise WaitEnded

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Stop behind this validation."""
        self._validates = False
        if not isinstance(runner._train_loop, BaseLoop) or runner.train_loop is not self._loop:
            return
        asked = torch.tensor([float(self._preempted), float(self._interrupted)])
        all_reduce(asked, 'max')
        if asked[0]:
            self._stop(runner, INTERRUPTED if asked[1] else PREEMPTED)

    def stop_waiting(self, runner: Runner) -> None:
        """Stop between two steps, because the data of the next do not come, or in a validation (EpochTrainLoop)."""
        self._validates, self._is_stopping = False, True
        self._stop(runner, self._code, together=all_come(self.PATIENCE))

    @property
    def _code(self) -> int:
        return INTERRUPTED if self._interrupted else PREEMPTED

    def stop_away(self, runner: Runner, error: StorageAwayError) -> None:
        """Stop because a storage does not answer, which this rank or all know (EpochTrainLoop)."""
        self._validates, self._is_stopping = False, True
        together = all_come(self.PATIENCE)
        if is_main_process() or not together:
            runner.logger.error(message_of(error))
        self._stop(runner, error.code, together=together, why='The storage is away')

    def stop_listening(self, runner: Runner) -> None:
        """Training ended, however: the signals do again what they did before (EpochTrainLoop)."""
        saving.clear()
        if self._before:
            signal.setitimer(signal.ITIMER_REAL, 0)
        while self._before:
            signal.signal(*self._before.popitem())

    def _stop(
        self, runner: Runner, code: int, step_is_over: bool = False, together: bool = True, why: str = 'Preempted'
    ) -> None:
        """Save and exit; not ``together`` where other ranks wait in the step for this one, so that only one saves."""
        self._validates, self._is_stopping = False, True
        if self._before:
            signal.setitimer(signal.ITIMER_REAL, 0)
        take_own_weights(runner)
        is_sharded = isinstance(runner.optim_wrapper.optimizer, ShardedOptimizer)
        saves = together or (is_main_process() and not is_sharded)
        if saves:
            path = save_preempted(runner, runner.save_checkpoint, runner.iter + step_is_over, notes=is_main_process())
            runner.logger.info(f'{why}: saved {path}, the exit code is {code}. Go on with --resume.')
        for number in self._before.keys() - {signal.SIGINT}:  # the first rank to leave may make the launcher end others
            signal.signal(number, signal.SIG_IGN)
        runner.visualizer.close()
        if together:
            exit_together(code)
        exit_now(code)


def take_own_weights(runner: Runner) -> None:
    """Within a validation, which an EMAHook gives the averaged ones."""
    for hook in runner.hooks:
        if getattr(hook, 'is_swapped', False):
            hook._swap_ema_parameters()


def save_preempted(runner: Runner, save: Callable[..., None], steps: int, *, notes: bool = True) -> str:
    """Save ``preempted.pth`` where the checkpoints are.

    Args:
        runner: what is saved.
        save: as ``runner.save_checkpoint``.
        steps: that it has done.
        notes: that it is the latest.

    Returns:
        Its path.
    """
    places = ((hook.out_dir, hook.backend_args) for hook in runner.hooks if isinstance(hook, CheckpointHook))
    folder, backend_args = next(places, (runner.work_dir, None))
    meta = dict(epoch=runner.epoch, iter=steps)
    save(folder, 'preempted.pth', meta=meta, by_epoch=False, backend_args=backend_args)
    path = join_path(folder, 'preempted.pth', backend_args=backend_args)
    if notes:
        _note_latest(runner, path)
    return path


def _note_latest(runner: Runner, path: str) -> None:
    Path(runner.work_dir).mkdir(parents=True, exist_ok=True)  # another machine may have had it
    with replacing(Path(runner.work_dir, 'last_checkpoint')) as file:
        file.write_text(path)


class _Outliving:
    """What a worker does first: get ready to live on for ``seconds`` after a SIGTERM that is not its parent's.

    The other signals that ask for a stop are its parent's alone.
    """

    def __init__(self, seconds: float, then: Callable[[int], None] | None) -> None:
        self.seconds, self.then = seconds, then

    def __call__(self, worker: int) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
        for number in SIGNALS:
            if number != signal.SIGTERM:
                signal.signal(number, signal.SIG_IGN)
        threading.Thread(target=self._wait, daemon=True).start()
        if self.then is not None:
            self.then(worker)

    def _wait(self) -> None:
        parent, seconds = os.getppid(), self.seconds
        received: signal.struct_siginfo | None = signal.sigwaitinfo([signal.SIGTERM])
        while received is not None and received.si_pid != parent and seconds > 0:
            begin = time.monotonic()
            received = signal.sigtimedwait([signal.SIGTERM], seconds)
            seconds -= time.monotonic() - begin
        os._exit(0)


@HOOKS.register_module()
class PlainCheckpointHook(Hook):
    """Keeps checkpoints plain data, that load with ``weights_only=True``, and refuses those of another model.

    MMEngine stores its curves as HistoryBuffer objects with numpy scalars beside them; here they become tensors and
    Python numbers, and buffers again on loading. The curves in memory are cut to ``HISTORY`` values: every update
    copies the whole curve, 2.9 ms of CPU at 500,000 values, times a dozen curves, in every step. (The log files keep
    everything.) Neither is mended in MMEngine 0.11.0rc0.
    """

    HISTORY = 10_000

    def __init__(self) -> None:
        apply_patches()

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Replace in place what is not plain."""
        for key in checkpoint.keys() - {'state_dict', 'ema_state_dict', 'optimizer'}:
            checkpoint[key] = _to_plain(checkpoint[key])

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Make buffers of the curves again."""
        _check_fit(unwrapped(runner.model), checkpoint.get('state_dict', checkpoint), loaded_path(runner))
        scalars = checkpoint.get('message_hub', {}).get('log_scalars', {})
        for key, (values, counts) in scalars.items():
            scalars[key] = HistoryBuffer(values.tolist(), counts.tolist())

    def after_train_epoch(self, runner: Runner) -> None:
        """Bound the curves in memory."""
        for buffer in runner.message_hub.log_scalars.values():
            buffer.max_length = self.HISTORY


def _to_plain(value: Any) -> Any:
    if isinstance(value, HistoryBuffer):
        return [torch.from_numpy(np.asarray(part, np.float64)) for part in value.data]
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    if isinstance(value, dict):
        return {key: _to_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        items = [_to_plain(item) for item in value]
        return items if isinstance(value, list) else tuple(items)
    return value if value is None or isinstance(value, str | int | float | Tensor) else str(value)


def _check_fit(model: nn.Module, weights: dict[str, Tensor], path: str | None) -> None:
    """Names and shapes of ``weights`` must be those of ``model``."""
    needed, given = ({key: tuple(value.shape) for key, value in x.items()} for x in (model.state_dict(), weights))
    misfits = [key for key in sorted(needed.keys() | given.keys()) if needed.get(key) != given.get(key)]
    if misfits:
        key = misfits[0]
        raise ValueError(
            f'Checkpoint {path} does not fit the model: {key} is {given.get(key, "absent")} there and '
            f'{needed.get(key, "absent")} in the model ({len(misfits)} such keys). Use the config it was trained with; '
            "to start another model from its weights use init_cfg=dict(type='Checkpoint', checkpoint=...)."
        )


@HOOKS.register_module()
class ExportHook(Hook):
    """Writes weights alone as ``.safetensors``, at the end of training and, if asked, on the way.

    The file's metadata and its name say whether the weights are 'raw' or 'ema'; with an EMAHook both are written. Of a
    classifier the metadata also hold the names of its classes, where the training data know them. Where the
    CheckpointHook keeps the best weights, they are written at the end, too: those that were validated.

    Args:
        interval: epochs between exports; -1 exports at the end only.
    """

    # Behind EMAHook, so that the average includes the last step.
    priority = 'VERY_LOW'

    def __init__(self, interval: int = -1) -> None:
        self.interval = interval
        self._exported = 0  # epoch

    @master_only
    def after_train_epoch(self, runner: Runner) -> None:
        """Export when due."""
        if self.every_n_epochs(runner, self.interval) or self.is_last_train_epoch(runner):
            self._export(runner, runner.epoch + 1)

    @master_only
    def after_train(self, runner: Runner) -> None:
        """Export what a run lacks that was stopped between its last checkpoint and its export; and the best weights."""
        if self._exported != runner.epoch:
            self._export(runner, runner.epoch)
        for hook in runner.hooks:
            for key, path in hook.best.items() if isinstance(hook, CheckpointHook) else ():
                if os.path.isfile(path):  # else it is on a remote storage
                    self._export_best(runner, key, Path(path))

    def _export(self, runner: Runner, epoch: int) -> None:
        models = [('raw', unwrapped(runner.model))]
        models += [('ema', hook.ema_model.module) for hook in runner.hooks if isinstance(hook, EMAHook)]
        for weights, model in models:
            path = Path(runner.work_dir, f'epoch_{epoch}_{weights}.safetensors')
            meta = {'weights': weights, 'epoch': str(epoch), 'iter': str(runner.iter)} | _class_names(runner)
            save_file({key: value.cpu() for key, value in model.state_dict().items()}, path, meta)
            runner.logger.info(f'Exported {weights} weights to {path}.')
        self._exported = epoch

    def _export_best(self, runner: Runner, key: str, path: Path) -> None:
        state_dict, meta = load_file(path)
        weights = meta['weights']
        place = {name: str(meta[name]) for name in ('epoch', 'iter')}
        file = Path(runner.work_dir, f'{path.stem}_{weights}.safetensors')
        save_file(state_dict, file, {'weights': weights, 'best': key} | place | _class_names(runner))
        runner.logger.info(f'Exported the {weights} weights that were best in {key} to {file}.')


def _class_names(runner: Runner) -> dict[str, str]:
    """The names in the order of the labels, as JSON; nothing where there are none."""
    size: Any = getattr(unwrapped(runner.model).data_preprocessor, 'num_classes', None)
    names = class_names(runner.train_dataloader.dataset, size)
    return {} if names is None else {'classes': json.dumps(names)}
