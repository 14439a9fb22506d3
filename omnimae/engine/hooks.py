"""Hooks that MMEngine lacks. In training, ``data_batch`` is the list of a step's micro-batches (see EpochTrainLoop)."""

from __future__ import annotations

import itertools
import logging
import math
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import mmengine.hooks
import numpy as np
import torch
from mmengine.dist import all_gather_object, get_rank, master_only
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmengine.visualization import LocalVisBackend
from torch import Tensor

from omnimae.registry import HOOKS
from omnimae.structures import Batch, require, unwrapped
from omnimae.visualization.maps import predictions_sheet
from omnimae.visualization.reconstructions import Reconstruction, reconstruct_sample, reconstruction_pages

from .labels import check_score
from .precision import device_of, dtype_of, evaluating
from .reading import Readable, judge_of, list_broken

Batches = list[Batch]
Logs = dict[str, Tensor] | None


def _seed_everything(*address: int) -> None:
    """Seed PyTorch's generators on all devices from numbers such as (seed, step, rank)."""
    torch.manual_seed(int(np.random.SeedSequence(address).generate_state(1, np.uint64)[0]))


@HOOKS.register_module()
class StepSeedHook(Hook):
    """Masks and DropPath of a step follow from (seed, step, rank), so a resumed run needs no saved generator.

    Those of validation and test follow from (seed, batch, rank): every epoch sees the same masks.
    """

    def _before_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, mode: str = 'train') -> None:
        training = mode == 'train'
        _seed_everything(runner.seed, training, runner.iter if training else batch_idx, get_rank())


@HOOKS.register_module()
class RuntimeInfoHook(mmengine.hooks.RuntimeInfoHook):
    """MMEngine's RuntimeInfoHook, with curves of finite numbers alone.

    The log shows means over ten steps. One NaN, of a step that is left out, would make ten of them NaN. The values of
    such steps are in ``skipped_steps.txt``.
    """

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Batches, outputs: Logs = None) -> None:
        """Add the finite values of the step to the curves."""
        finite = {key: value for key, value in (outputs or {}).items() if math.isfinite(value)}
        super().after_train_iter(runner, batch_idx, data_batch, finite)


@HOOKS.register_module()
class EarlyStoppingHook(mmengine.hooks.EarlyStoppingHook):
    """MMEngine's EarlyStoppingHook, which continues to count in a resumed run. The options are the same.

    MMEngine starts again at zero. A run that is often stopped and resumed would never stop early. Not mended in
    0.11.0rc0.
    """

    priority = 'LOW'  # before the CheckpointHook, which may save after a validation

    def before_train(self, runner: Runner) -> None:
        """Restore the best score, and the number of validations since then."""
        check_score(runner, self.monitor, 'monitor of EarlyStoppingHook')
        stored = runner.message_hub.get_info(self._key)
        if stored is not None:
            self.best_score, self.wait_count = stored

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float]) -> None:
        """Decide, and store the state of the decision."""
        super().after_val_epoch(runner, metrics)
        runner.message_hub.update_info(self._key, (float(self.best_score), self.wait_count))

    @property
    def _key(self) -> str:
        return f'early_stopping_{self.monitor}'


@HOOKS.register_module()
class EMAHook(mmengine.hooks.EMAHook):
    """MMEngine's EMAHook, which knows whether the model has the averaged weights. The options are the same.

    Attributes:
        is_swapped: the model has them, as in validation and test.

    Args:
        args: of MMEngine's.
        momentum: weight of the newest parameters in the average, such as 1e-4; None is MMEngine's default.
        kwargs: of MMEngine's, and of its ``ema_type``.
    """

    is_swapped = False

    def __init__(self, *args: Any, momentum: float | None = None, **kwargs: Any) -> None:
        if momentum is not None and not 0 < momentum <= 0.5:
            raise ValueError(
                f'EMAHook: momentum={momentum} is the share of the newest weights in the average, between 0 and 0.5. '
                'An average that keeps 0.9999 in each step has momentum=0.0001.'
            )
        super().__init__(*args, **kwargs, **({} if momentum is None else {'momentum': momentum}))

    def _swap_ema_parameters(self) -> None:
        super()._swap_ema_parameters()
        self.is_swapped = not self.is_swapped


@HOOKS.register_module()
class IterTimerHook(mmengine.hooks.IterTimerHook):
    """MMEngine's IterTimerHook, for steps of images and of clips, and for `Feed.look_ahead`.

    A step of clips may take ten times as long as one of images. So the time left (``eta``) follows from the mean of
    each modality. There is none before a step of each is done.

    While the GPU computes, the loop waits for the loader. That wait is part of ``data_time`` of the step that was read.
    It delays training only if the GPU is done earlier.
    """

    def before_train(self, runner: Runner) -> None:
        """Start to measure."""
        super().before_train(runner)
        loader = runner.train_dataloader
        steps: Counter[str] = Counter()
        for source, count in zip(loader.dataset.sources, loader.batch_sampler.steps, strict=True):
            steps[source.modality] += count
        self._of_epoch = +steps  # of an epoch, without modalities that have none
        self._done: Counter[str] = Counter()  # since this start
        self._seconds: Counter[str] = Counter()

    def _before_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, mode: str = 'train') -> None:
        ahead = runner.train_loop.feed.seconds_ahead if mode == 'train' else 0.0
        runner.message_hub.update_scalar(f'{mode}/data_time', time.time() - self.t + ahead)

    def _after_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None, mode: str = 'train'
    ) -> None:
        super()._after_iter(runner, batch_idx, data_batch, outputs, mode)
        if mode != 'train':
            return
        hub, modality = runner.message_hub, data_batch[0]['modality']
        self._done[modality] += 1
        self._seconds[modality] += hub.get_scalar('train/time').current()
        hub.runtime_info.pop('eta')
        if self._done.keys() >= self._of_epoch.keys():
            epoch = sum(steps * self._seconds[name] / self._done[name] for name, steps in self._of_epoch.items())
            hub.update_info('eta', epoch / self._of_epoch.total() * (runner.max_iters - runner.iter - 1))


@HOOKS.register_module()
class LoggerHook(mmengine.hooks.LoggerHook):
    """MMEngine's LoggerHook, which also shows the first step, and continues if a log cannot be written.

    The options are the same.
    On a full disk the run continues without the lines that do not fit. A warning names each such file once: the log,
    scalars.json, or the folder of another backend. The lines of scalars.json stay whole.
    """

    def before_run(self, runner: Runner) -> None:
        """Handle the errors of the log's file and of the visualizer's backends."""
        super().before_run(runner)
        self._missed: set[str] = set()
        self._is_first = self.interval > 1
        logger = runner.logger  # not the runner: what is set here lives as long as the process
        for handler in logger.handlers:
            if isinstance(handler, logging.FileHandler):
                handler.handleError = partial(self._log_failed, logger, handler)  # type: ignore[method-assign]
        for backend in runner.visualizer._vis_backends.values():
            if isinstance(backend, LocalVisBackend):
                backend._dump = partial(self._append, logger, backend._dump)
            for name in ('add_config', 'add_graph', 'add_image', 'add_scalar', 'add_scalars', 'close'):
                setattr(backend, name, partial(self._write, logger, getattr(backend, name), str(backend._save_dir)))

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Batches, outputs: Logs = None) -> None:
        """Show the first step of a start at once, the others every ``interval`` steps."""
        if self._is_first:
            self._is_first = False
            loss = f', loss {outputs["loss"]:.4f}' if outputs and 'loss' in outputs else ''
            runner.logger.info(
                f'Step {runner.iter + 1} of {runner.max_iters}{loss}. A line every {self.interval} steps follows.'
            )
        super().after_train_iter(runner, batch_idx, data_batch, outputs)

    def _log_failed(self, logger: logging.Logger, handler: logging.FileHandler, record: logging.LogRecord) -> None:
        error = sys.exc_info()[1]
        if isinstance(error, OSError):
            self._warn(logger, handler.baseFilename, error)
        else:
            logging.FileHandler.handleError(handler, record)

    def _append(self, logger: logging.Logger, dump: Callable, values: dict[str, Any], file: str, kind: str) -> None:
        size = os.path.getsize(file) if os.path.exists(file) else 0
        try:
            dump(values, file, kind)
        except OSError as error:
            self._warn(logger, file, error)
            if os.path.exists(file):
                os.truncate(file, size)  # no half of a line

    def _write(self, logger: logging.Logger, write: Callable, place: str, *args: Any, **options: Any) -> None:
        try:
            write(*args, **options)
        except OSError as error:
            self._warn(logger, place, error)

    def _warn(self, logger: logging.Logger, place: str, error: OSError) -> None:
        if place not in self._missed:
            self._missed.add(place)
            logger.warning(
                f'{place} cannot be written ({error.strerror}). Training continues. Output to it is lost until there '
                'is space.'
            )


@HOOKS.register_module()
class ThroughputHook(Hook):
    """Logs the parts of a step at the start, then images or clips per second over all ranks.

    Replicas count: a video cropped four times is four clips. A classifier of images and videos also logs ``top1`` and
    ``cross_entropy`` of each, such as ``top1_image``. The modality of ``top1`` and ``loss`` changes from step to step.
    """

    # After IterTimerHook, which has the same priority and is registered first. Before LoggerHook.
    priority = 'NORMAL'

    def before_train(self, runner: Runner) -> None:
        """Log the model, the parts of a step, for each source if they differ, and the optimizer's groups."""
        model = unwrapped(runner.model)
        runner.logger.info(
            f'Training {type(model).__name__}, {sum(x.numel() for x in model.parameters()) / 1e6:.1f} M parameters, on '
            f'{device_of(model)}. Config, environment and all messages are in {runner.log_dir}.'
        )
        dataset, sampler = runner.train_dataloader.dataset, runner.train_dataloader.batch_sampler
        self._is_mixed = len({source.modality for source in dataset.sources}) > 1
        cuts = [
            f'{size} per rank x {sampler.world_size} ranks x {accumulation} accumulated micro-batches'
            for size, accumulation in zip(sampler.batch_sizes, sampler.accumulation, strict=True)
        ]
        if len({*cuts}) > 1:
            sources = zip(cuts, dataset.names, dataset.sources, strict=True)
            cuts = [f'{cut} ({source.modality}s of {name})' for cut, name, source in sources]
        runner.logger.info(
            f'Effective batch: {" = ".join([str(sampler.global_batch_size), *dict.fromkeys(cuts)])}; '
            f'{len(runner.train_dataloader)} optimizer steps per epoch, {runner.max_iters} in all.'
        )
        uses = map(_uses, dataset.names, dataset.sources, sampler.steps, itertools.repeat(sampler.global_batch_size))
        runner.logger.info(f'An epoch takes {", ".join(uses)}.')
        sizes: Counter[str] = Counter()
        for group in runner.optim_wrapper.param_groups:
            values = {'lr': group.get('initial_lr', group.get('lr')), 'weight decay': group.get('weight_decay')}
            text = ', '.join(f'{key} {x:.4g}' for key, x in values.items() if x is not None)
            sizes[text] += sum(x.numel() for x in group['params'])
        lines = ''.join(f'\n  {size:,} parameters: {options}' for options, size in sizes.items())
        runner.logger.info(f'Optimizer groups:{lines}')

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Batches, outputs: Logs = None) -> None:
        """Log the throughput of the step, including the wait for data, and accuracy and loss of its modality."""
        samples = runner.train_dataloader.batch_sampler.step_sizes(batch_idx).sum()
        modality = data_batch[0]['modality']
        unit = 'images' if modality == 'image' else 'clips'
        if (seconds := runner.message_hub.log_scalars.get('train/time')) is not None:  # of the timer hook
            runner.message_hub.update_scalar(f'train/{unit}_per_second', samples / seconds.current())
        if self._is_mixed and outputs is not None and 'top1' in outputs:
            runner.message_hub.update_scalar(f'train/top1_{modality}', outputs['top1'])
            runner.message_hub.update_scalar(f'train/cross_entropy_{modality}', outputs['loss'])


def _uses(name: str, source: Any, steps: int, size: int) -> str:
    """How often an epoch takes a file of a source, and how small its steps are if it has few."""
    crops = len(source) * source.replicas
    count = f'{steps / math.ceil(crops / size) * source.replicas:.3g}'
    times = f'each {source.modality} of {name!r} {"once" if count == "1" else f"{count} times"}'
    return times if crops >= size else f'{times} (a step has {crops} instead of {size} samples: there are few files)'


@HOOKS.register_module()
class BrokenFileHook(Hook):
    """Counts the files that cannot be read, over all ranks, lists them, and stops when there are too many.

    ``broken_files.txt`` in the work directory has one line per file: path, tab, reason. Training stops when more than
    ``min_failures`` files, and more than ``max_ratio`` of those tried so far, are broken. All ranks stop at the same
    step. A broken file counts once, however often the sampler returns to it.

    Validation files are opened before training: all if they are few, else as many as `reading.SECONDS` allow.

    Args:
        min_failures: number of broken files that is always accepted.
        max_ratio: share of the tried files that may be broken.
    """

    def __init__(self, min_failures: int = 10, max_ratio: float = 0.01) -> None:
        self.min_failures, self.max_ratio = min_failures, max_ratio

    def before_train(self, runner: Runner) -> None:
        """Restore the counts of a resumed run, and open validation files."""
        self.tried = runner.message_hub.get_info('files_tried', 0)
        self.broken = dict(runner.message_hub.get_info('broken_files', {}))
        if runner.val_loop is not None:
            judge = judge_of(runner.val_loop.evaluator.metrics)
            Readable(runner, runner.val_dataloader, 'val_dataloader', judge).open_some()

    def count_step(self, runner: Runner, data_batch: Batches, counts: dict[str, float]) -> None:
        """Count the files of the step on this rank (EpochTrainLoop)."""
        failures = sum(len(batch.get('failures', [])) for batch in data_batch)
        read = sum(len(set(batch['ids'])) for batch in data_batch)  # replicas share their file
        counts |= dict(files_tried=read + failures, files_broken=failures)

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Batches, outputs: Logs = None) -> None:
        """Add the counts of all ranks."""
        counts = runner.train_loop.counts
        self.tried += int(counts['files_tried'])
        runner.message_hub.update_info('files_tried', self.tried)
        if counts['files_broken']:
            failures = [failure for batch in data_batch for failure in batch.get('failures', [])]
            self._record(runner, [failure for rank in all_gather_object(failures) for failure in rank])

    def _record(self, runner: Runner, failures: list[tuple[str, str]]) -> None:
        new = {path: reason for path, reason in failures if path not in self.broken}
        self.broken.update(new)
        runner.message_hub.update_info('broken_files', self.broken)
        file = list_broken(runner.work_dir, new)
        for path, reason in new.items():
            runner.logger.warning(f'Broken file, replaced by another: {path} ({reason})')
        if len(self.broken) > max(self.min_failures, self.max_ratio * self.tried):
            lines = ''.join(f'\n  {path}: {reason}' for path, reason in self.broken.items())
            raise ValueError(
                f'{len(self.broken)} broken files among {self.tried} tried, more than min_failures={self.min_failures} '
                f'and max_ratio={self.max_ratio} of BrokenFileHook allow. Repair or remove them; the list is in '
                f'{file}:{lines}'
            )


class PictureHook(Hook):
    """Draws the same few held-out samples every ``interval`` epochs. Subclasses implement `draw`.

    The samples are the first readable ones of each source of ``val_dataloader``. The pictures are written to ``folder``
    in the work directory.

    Args:
        interval: epochs between pictures; the last epoch always has them.
        num_samples: per source.
    """

    folder: str

    def __init__(self, interval: int = 10, num_samples: int = 4) -> None:
        self.interval, self.num_samples = interval, num_samples

    def before_train(self, runner: Runner) -> None:
        """Refuse a run without held-out data."""
        if runner.val_loop is None:
            raise ValueError(
                f'{type(self).__name__} needs held-out samples: set val_dataloader, val_cfg, val_evaluator.'
            )

    @master_only
    def after_train_epoch(self, runner: Runner) -> None:
        """Draw when due."""
        if not (self.every_n_epochs(runner, self.interval) or self.is_last_train_epoch(runner)):
            return
        folder = Path(runner.work_dir, self.folder)
        folder.mkdir(exist_ok=True)
        model, dataset = unwrapped(runner.model), runner.val_dataloader.dataset
        for name, begin, end in zip(dataset.names, dataset.starts, dataset.starts[1:], strict=False):
            readable = (sample for row in range(begin, end) if 'clips' in (sample := dataset[row]))
            samples = [*itertools.islice(readable, self.num_samples)]
            _seed_everything(runner.seed)
            with evaluating(dtype_of(runner.cfg), device_of(model)):
                self.draw(
                    model, samples, folder / f'epoch_{runner.epoch + 1}_{name}', f'{name}, epoch {runner.epoch + 1}'
                )
        runner.logger.info(f'{self.folder.capitalize()} are in {folder}.')

    def draw(self, model: Any, samples: Sequence[Mapping[str, Any]], stem: Path, title: str) -> None:
        """Write pictures whose paths begin with ``stem``."""
        raise NotImplementedError


@HOOKS.register_module()
class ReconstructionHook(PictureHook):
    """Draws reconstructions, with the same masks each time: a sheet per image source, a frame strip per clip."""

    folder = 'reconstructions'

    def before_train(self, runner: Runner) -> None:
        """Also refuse a head that cannot be drawn."""
        super().before_train(runner)
        model = unwrapped(runner.model)
        for name in model.mask_generator if isinstance(model.mask_generator, Mapping) else model.head:
            require(model.head_of(name), type(self).__name__, 'target', 'errors')

    def draw(self, model: Any, samples: Sequence[Mapping[str, Any]], stem: Path, title: str) -> None:
        """Write ``STEM.png``, or ``STEM_1.png`` and so on."""
        results: dict[str, Reconstruction] = {}
        for sample in samples:
            results |= reconstruct_sample(model, sample)
        for number, (name, page) in enumerate(reconstruction_pages(results, title).items(), start=1):
            page.save(f'{stem}_{number}.png' if name else f'{stem}.png')


@HOOKS.register_module()
class PredictionHook(PictureHook):
    """Draws input, ground truth and prediction of a DensePredictor: a sheet per source."""

    folder = 'predictions'

    def draw(self, model: Any, samples: Sequence[Mapping[str, Any]], stem: Path, title: str) -> None:
        """Write ``STEM.png``."""
        predictions_sheet(model, samples, title).save(f'{stem}.png')
