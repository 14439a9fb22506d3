"""Checkpoints that are complete on the disk, hold plain data and fit the model; exports of weights."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.dist import is_main_process, master_only
from mmengine.fileio import LocalBackend, join_path
from mmengine.hooks import CheckpointHook as MMEngineCheckpointHook
from mmengine.hooks import EMAHook, Hook
from mmengine.logging import HistoryBuffer
from mmengine.runner import BaseLoop, Runner
from torch import Tensor, nn

from omnimae.checkpoint import load_file, replacing, save_file
from omnimae.registry import HOOKS
from omnimae.stopping import command_with, saved
from omnimae.structures import unwrapped

from .compat import (
    apply_patches,
    find_latest_checkpoint,
    loaded_path,
    save_alone,
    wait_until_written,
    written_later,
)
from .hooks import Batches, Logs
from .labels import check_score, class_names, num_classes


@HOOKS.register_module()
class CheckpointHook(MMEngineCheckpointHook):
    """MMEngine's CheckpointHook, which removes old checkpoints last. The options are the same.

    MMEngine removes the oldest checkpoint, or the best one, before it writes the new one. A kill in between loses it:
    with ``max_keep_ckpts=1`` the only one. (Not mended in 0.11.0rc0.) If a run resumes from another folder, MMEngine
    removes the best checkpoint there. This hook removes files in the run's own folder alone.

    With ``save_best='accuracy/top1'`` each validation adds the best value and its epoch to the log and to the curves
    ``accuracy/top1_best`` and ``accuracy/top1_best_epoch``. The weights are those that were validated: with an EMAHook
    the averaged ones. `ExportHook` also writes them alone.

    An epoch may take hours. So ``timed.pth`` is written, again and again, if there was no other checkpoint for some
    time. It is written in the background while training continues. It is removed after training.

    Args:
        args: of MMEngine's.
        minutes: between checkpoints; None for MMEngine's checkpoints alone.
        kwargs: of MMEngine's.

    Raises:
        FloatingPointError: the weights are not finite. The last good checkpoint stays.
    """

    def __init__(self, *args: Any, minutes: float | None = 15.0, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.minutes = minutes

    @property
    def best(self) -> dict[str, str]:
        """Metric -> path of its best checkpoint so far."""
        if not self.save_best:
            return {}
        single = len(self.key_indicators) == 1
        paths = {self.key_indicators[0]: self.best_ckpt_path} if single else self.best_ckpt_path_dict
        return {key: path for key, path in paths.items() if path}

    def before_train(self, runner: Runner) -> None:
        """Check ``save_best``. Look for the best checkpoint of a resumed run in its own folder first."""
        super().before_train(runner)
        if is_main_process() and isinstance(self.file_backend, LocalBackend):
            os.makedirs(self.out_dir, exist_ok=True)  # may be outside the work directory
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
        """Save the best weights, and log the best score."""
        if not isinstance(runner._train_loop, BaseLoop):
            return  # Runner.val() alone
        super().after_val_epoch(runner, metrics)
        for key, path in self.best.items():
            score = runner.message_hub.get_info('best_score' if len(self.key_indicators) == 1 else f'best_score_{key}')
            when = int(re.findall(r'\d+', os.path.basename(path))[-1])
            unit = 'epoch' if self.by_epoch else 'iter'
            runner.visualizer.add_scalars({f'{key}_best': score, f'{key}_best_{unit}': when}, step=runner.epoch)
            runner.logger.info(f'{key}: last {metrics[key]:.4f}, best {score:.4f} at {unit} {when}.')

    def count_step(self, runner: Runner, data_batch: Batches, counts: dict[str, float]) -> None:
        """Decide by the clock of the main rank whether a checkpoint is due (EpochTrainLoop)."""
        passed = (time.monotonic() - self._saved_at) / 60
        counts['time_to_save'] = is_main_process() and self.minutes is not None and passed >= self.minutes

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Batches, outputs: Logs = None) -> None:
        """Save if a checkpoint is due."""
        super().after_train_iter(runner, batch_idx, data_batch, outputs)
        if runner.train_loop.counts['time_to_save']:
            self.check_finite(runner)
            with written_later(lambda: master_only(_note_latest)(runner, self._timed)):
                meta = dict(epoch=runner.epoch, iter=runner.iter + 1)
                options = dict(meta=meta, by_epoch=False, backend_args=self.backend_args)
                runner.save_checkpoint(self.out_dir, 'timed.pth', **options)
            self._saved_at = time.monotonic()

    def after_train(self, runner: Runner) -> None:
        """Remove ``timed.pth``, unless it is the latest checkpoint."""
        super().after_train(runner)
        wait_until_written()
        is_last = os.path.basename(find_latest_checkpoint(runner.work_dir) or '') == 'timed.pth'
        if is_main_process() and not is_last and self.file_backend.isfile(self._timed):
            self.file_backend.remove(self._timed)

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict[str, Any]) -> None:
        self.check_finite(runner)
        with self._removing_last():
            super()._save_checkpoint_with_step(runner, step, meta)
        saved.set()
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
                    'optim_wrapper.optimizer.lr or set optim_wrapper.clip_grad, and go on from the last with '
                    f'{command_with("--resume")}.'
                )

    def _save_best_checkpoint(self, runner: Runner, metrics: dict[str, float]) -> None:
        with self._removing_last():
            super()._save_best_checkpoint(runner, metrics)

    @contextmanager
    def _removing_last(self) -> Iterator[None]:
        backend = self.file_backend
        isfile, remove, outdated = backend.isfile, backend.remove, list[str]()
        # If the run was resumed from another folder, the best checkpoint there stays.
        backend.isfile = lambda path: os.path.dirname(path) == self.out_dir and isfile(path)
        backend.remove = outdated.append
        try:
            yield
        finally:
            backend.isfile, backend.remove = isfile, remove
        for path in outdated:
            if path not in self.best.values():  # else the new one took its name
                remove(path)


def save_preempted(runner: Runner, steps: int, *, alone: bool = False) -> str:
    """Save ``preempted.pth`` with the raw weights next to the other checkpoints, and note that it is the latest.

    Args:
        runner: what is saved.
        steps: number of steps that it has done.
        alone: save from this rank, without the others.

    Returns:
        Its path.
    """
    places = ((hook.out_dir, hook.backend_args) for hook in runner.hooks if isinstance(hook, CheckpointHook))
    folder, backend_args = next(places, (runner.work_dir, None))
    for hook in runner.hooks:
        if getattr(hook, 'is_swapped', False):  # in a validation the model has the averaged weights of our EMAHook
            hook._swap_ema_parameters()
    save = partial(save_alone, runner) if alone else runner.save_checkpoint
    meta = dict(epoch=runner.epoch, iter=steps)
    save(folder, 'preempted.pth', meta=meta, by_epoch=False, backend_args=backend_args)
    path = join_path(folder, 'preempted.pth', backend_args=backend_args)
    if alone or is_main_process():
        _note_latest(runner, path)
    return path


def _note_latest(runner: Runner, path: str) -> None:
    Path(runner.work_dir).mkdir(parents=True, exist_ok=True)  # only another machine may have it so far
    with replacing(Path(runner.work_dir, 'last_checkpoint')) as file:
        file.write_text(path)
    saved.set()


@HOOKS.register_module()
class PlainCheckpointHook(Hook):
    """Makes checkpoints plain data, which load with ``weights_only=True``, and refuses those of another model.

    MMEngine stores its curves as HistoryBuffer objects and NumPy scalars. This hook stores tensors and Python numbers,
    and makes buffers again on loading. In memory the curves are limited to ``HISTORY`` values, because each update
    copies the whole curve: 2.9 ms of CPU at 500,000 values, for each of a dozen curves, in each step. The log files
    keep all values. Neither is mended in MMEngine 0.11.0rc0.
    """

    HISTORY = 10_000

    def __init__(self) -> None:
        apply_patches()

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Replace values that are not plain data."""
        for key in checkpoint.keys() - {'state_dict', 'ema_state_dict', 'optimizer'}:
            checkpoint[key] = _to_plain(checkpoint[key])

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Check the model, and make buffers of the curves again."""
        _check_fit(unwrapped(runner.model), checkpoint.get('state_dict', checkpoint), loaded_path(runner))
        scalars = checkpoint.get('message_hub', {}).get('log_scalars', {})
        for key, (values, counts) in scalars.items():
            scalars[key] = HistoryBuffer(values.tolist(), counts.tolist())

    def after_train_epoch(self, runner: Runner) -> None:
        """Limit the curves in memory."""
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
    """Refuse ``weights`` whose names and shapes are not those of ``model``."""
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
    """Writes weights alone as ``.safetensors``, at the end of training and every ``interval`` epochs.

    The metadata and the file's name say whether the weights are 'raw' or 'ema'. With an EMAHook both are written. The
    metadata of a classifier include the names of its classes if the training data have them. If the CheckpointHook
    keeps the best weights, they are also written at the end, as they were validated.

    Args:
        interval: epochs between exports; -1 exports at the end only.
    """

    priority = 'VERY_LOW'  # after EMAHook, so that the average includes the last step

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
        """Export the best weights, and the last ones if the run was stopped between its last checkpoint and export."""
        if self._exported != runner.epoch:
            self._export(runner, runner.epoch)
        for hook in runner.hooks:
            for key, path in hook.best.items() if isinstance(hook, CheckpointHook) else ():
                if os.path.isfile(path):  # not on a remote storage
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
    """The names in the order of the labels, as JSON. Empty if there are none."""
    names = class_names(runner.train_dataloader.dataset, num_classes(runner))
    return {} if names is None else {'classes': json.dumps(names)}
