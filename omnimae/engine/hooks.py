"""Hooks that MMEngine lacks. In training, ``data_batch`` is the list of a step's micro-batches (see EpochTrainLoop)."""

from __future__ import annotations

import difflib
import functools
import itertools
import logging
import math
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.dist import all_gather_object, all_reduce, get_rank, master_only
from mmengine.hooks import EarlyStoppingHook as MMEngineEarlyStoppingHook
from mmengine.hooks import EMAHook as MMEngineEMAHook
from mmengine.hooks import Hook
from mmengine.hooks import IterTimerHook as MMEngineIterTimerHook
from mmengine.hooks import LoggerHook as MMEngineLoggerHook
from mmengine.hooks import RuntimeInfoHook as MMEngineRuntimeInfoHook
from mmengine.runner import Runner
from mmengine.visualization import LocalVisBackend
from torch import Tensor, nn

from omnimae.evaluation import ClipAccuracy, DepthScore, SegmentationScore
from omnimae.registry import HOOKS
from omnimae.structures import UNKNOWN_CLASS, Batch, require, unwrapped
from omnimae.visualization.maps import predictions_sheet
from omnimae.visualization.reconstructions import Reconstruction, reconstruct_sample, reconstruction_pages

from .precision import dtype_of, evaluating
from .reading import Readable, judge_of, list_broken


def _seed_everything(*address: int) -> None:
    """Torch's generators on all devices, from what the random numbers belong to."""
    torch.manual_seed(int(np.random.SeedSequence(address).generate_state(1, np.uint64)[0]))


def check_score(runner: Runner, key: str, option: str) -> None:
    """Refuse what no validation will count, now and not after the first one.

    Args:
        runner: its metrics say what they count, as ours do; else nothing is refused.
        key: of the score.
        option: that names it in the config.
    """
    if runner.val_loop is None:
        raise ValueError(
            f'{option}={key!r} is a score of validations, and this run has none. Set val_dataloader, val_cfg and '
            f'val_evaluator, or {option}=None.'
        )
    known: set[str] = set()
    for metric in runner.val_loop.evaluator.metrics:
        names = getattr(metric, 'names_of', lambda dataset: None)(runner.val_dataloader.dataset)
        if names is None:
            return
        known |= {f'{metric.prefix}/{name}' for name in names}
    if key not in known:
        near = difflib.get_close_matches(key, known, 1)
        hint = f'Did you mean {near[0]!r}?' if near else f'It has {", ".join(sorted(known))}.'
        raise ValueError(f'{option}={key!r} is no score of the validation. {hint}')


@HOOKS.register_module()
class StepSeedHook(Hook):
    """Masks and DropPath of a step follow from (seed, step, rank), so a resumed run needs no saved generator.

    Those of validation and test follow from (seed, batch, rank): every epoch sees the same masks.
    """

    def _before_iter(
        self, runner: Runner, batch_idx: int, data_batch: list[Batch] | Batch | None = None, mode: str = 'train'
    ) -> None:
        training = mode == 'train'
        _seed_everything(runner.seed, training, runner.iter if training else batch_idx, get_rank())


@HOOKS.register_module()
class RuntimeInfoHook(MMEngineRuntimeInfoHook):
    """MMEngine's, by the same name, with curves of finite numbers alone.

    The log shows means over ten steps: one NaN, of a step that is left out, made ten of them NaN. What it was stands in
    ``skipped_steps.txt``. An optimizer may have no learning rate, as some have that find their own.
    """

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: list[Batch] | Batch | None = None) -> None:
        """Note the step and its learning rate."""
        if any(group.get('lr') is None for group in runner.optim_wrapper.param_groups):
            runner.message_hub.update_info('iter', runner.iter)
        else:
            super().before_train_iter(runner, batch_idx, data_batch)

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: list[Batch] | None = None,
        outputs: dict[str, Tensor] | None = None,
    ) -> None:
        """Add what the step says of itself to the curves."""
        finite = {key: value for key, value in (outputs or {}).items() if math.isfinite(value)}
        super().after_train_iter(runner, batch_idx, data_batch, finite)


@HOOKS.register_module()
class EarlyStoppingHook(MMEngineEarlyStoppingHook):
    """MMEngine's, by the same name and with the same options, which goes on counting in a resumed run.

    MMEngine begins anew: a run that is stopped and resumed now and then never stops early. Not mended in 0.11.0rc0.
    """

    priority = 'LOW'  # before the CheckpointHook, which may save behind a validation

    def before_train(self, runner: Runner) -> None:
        """Take up the best score and the validations since."""
        check_score(runner, self.monitor, 'monitor of EarlyStoppingHook')
        stored = runner.message_hub.get_info(self._key)
        if stored is not None:
            self.best_score, self.wait_count = stored

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float]) -> None:
        """Decide, and keep what is decided by."""
        super().after_val_epoch(runner, metrics)
        runner.message_hub.update_info(self._key, (float(self.best_score), self.wait_count))

    @property
    def _key(self) -> str:
        return f'early_stopping_{self.monitor}'


@HOOKS.register_module()
class EMAHook(MMEngineEMAHook):
    """MMEngine's, by the same name and with the same options, which knows whether the model has the average now.

    Attributes:
        is_swapped: so it is in validation and test.

    Args:
        args: of MMEngine's.
        momentum: share of the newest weights in the average, as 1e-4; None is MMEngine's, or what has none.
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
class IterTimerHook(MMEngineIterTimerHook):
    """MMEngine's, by the same name, for a loop that waits for the loader while the GPU computes: `Feed.look_ahead`.

    That is ``data_time``, too, of the step that was waited for. It is lost only as far as the GPU was done earlier.
    """

    def _before_iter(
        self, runner: Runner, batch_idx: int, data_batch: list[Batch] | Batch | None = None, mode: str = 'train'
    ) -> None:
        ahead = runner.train_loop.feed.seconds_ahead if mode == 'train' else 0.0
        runner.message_hub.update_scalar(f'{mode}/data_time', time.time() - self.t + ahead)


@HOOKS.register_module()
class LoggerHook(MMEngineLoggerHook):
    """MMEngine's, by the same name and with the same options: a log that cannot be written does not end a run.

    The run goes on without what a full disk does not take. It is said once which file that is: the log, scalars.json,
    or the folder of another backend. The lines of scalars.json stay whole.
    """

    def before_run(self, runner: Runner) -> None:
        """Take care of the errors of the log's file and of the visualizer's backends."""
        super().before_run(runner)
        self._missed: set[str] = set()
        for handler in runner.logger.handlers:
            if isinstance(handler, logging.FileHandler):
                handler.handleError = functools.partial(self._log_failed, runner, handler)  # type: ignore[method-assign]
        for backend in runner.visualizer._vis_backends.values():
            if isinstance(backend, LocalVisBackend):
                backend._dump = self._going_on(runner, backend._dump, None)
            for name in ('add_config', 'add_graph', 'add_image', 'add_scalar', 'add_scalars', 'close'):
                method = getattr(backend, name)
                setattr(backend, name, self._going_on(runner, method, str(backend._save_dir)))

    def _log_failed(self, runner: Runner, handler: logging.FileHandler, record: logging.LogRecord) -> None:
        error = sys.exc_info()[1]
        if isinstance(error, OSError):
            self._say(runner, handler.baseFilename, error)
        else:
            logging.FileHandler.handleError(handler, record)

    def _going_on(self, runner: Runner, write: Callable, place: str | None) -> Callable:
        """``write``, which says that it failed. Without a ``place`` its file, the second argument, stays as it was."""

        def try_to_write(*args: Any, **options: Any) -> Any:
            file = args[1] if place is None else None
            size = os.path.getsize(file) if file is not None and os.path.exists(file) else 0
            try:
                return write(*args, **options)
            except OSError as error:
                self._say(runner, str(place or file), error)
                if file is not None and os.path.exists(file):
                    os.truncate(file, size)

        return try_to_write

    def _say(self, runner: Runner, place: str, error: OSError) -> None:
        if place not in self._missed:
            self._missed.add(place)
            runner.logger.warning(
                f'{place} cannot be written ({error.strerror}). Training goes on, and what would be written there is '
                'lost until there is room.'
            )


@HOOKS.register_module()
class ThroughputHook(Hook):
    """Says at the start what a step is made of, and logs images or clips per second over all ranks.

    Replicas count: a video cropped four times is four clips. Where images and clips are classified, ``top1_image`` and
    ``top1_video`` are logged, too: ``top1`` is now of the one, now of the other.
    """

    # Behind IterTimerHook, which has the same priority and comes first; before its LoggerHook.
    priority = 'NORMAL'

    def before_train(self, runner: Runner) -> None:
        """Log batch size, ranks, accumulation and steps; for each source where the sizes differ."""
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
        sizes: Counter[str] = Counter()
        for group in runner.optim_wrapper.param_groups:
            values = {'lr': group.get('initial_lr', group.get('lr')), 'weight decay': group.get('weight_decay')}
            text = ', '.join(f'{key} {x:.4g}' for key, x in values.items() if x is not None)
            sizes[text] += sum(x.numel() for x in group['params'])
        lines = ''.join(f'\n  {size:,} parameters: {options}' for options, size in sizes.items())
        runner.logger.info(f'Optimizer groups:{lines}')

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: list[Batch],
        outputs: dict[str, Tensor] | None = None,
    ) -> None:
        """Log the throughput of the step, waiting for data included, and the accuracy of its modality."""
        samples = runner.train_dataloader.batch_sampler.step_sizes(batch_idx).sum()
        modality = data_batch[0]['modality']
        unit = 'images' if modality == 'image' else 'clips'
        if (seconds := runner.message_hub.log_scalars.get('train/time')) is not None:  # of the timer hook
            runner.message_hub.update_scalar(f'train/{unit}_per_second', samples / seconds.current())
        if self._is_mixed and outputs is not None and 'top1' in outputs:
            runner.message_hub.update_scalar(f'train/top1_{modality}', outputs['top1'])


@HOOKS.register_module()
class BrokenFileHook(Hook):
    """Counts the files that could not be read, over all ranks, lists them, and stops when there are too many.

    ``broken_files.txt`` in the work directory has one line per file: path, tab, reason. Training stops, on all ranks
    at the same step, when more files are broken than ``min_failures`` and than ``max_ratio`` of those tried so far. A
    broken file counts once, however often the sampler comes back to it.

    Files of the validation are opened before training: all where they are few, else as many as `reading.SECONDS` allow.

    Args:
        min_failures: as many broken files are always accepted.
        max_ratio: share of the tried files that may be broken.
    """

    def __init__(self, min_failures: int = 10, max_ratio: float = 0.01) -> None:
        self.min_failures, self.max_ratio = min_failures, max_ratio

    def before_train(self, runner: Runner) -> None:
        """Take up the counts of a resumed run, and open files of the validation."""
        self.tried = runner.message_hub.get_info('files_tried', 0)
        self.broken = dict(runner.message_hub.get_info('broken_files', {}))
        if runner.val_loop is not None:
            judge = judge_of(runner.val_loop.evaluator.metrics)
            Readable(runner, runner.val_dataloader, 'val_dataloader', judge).open_some()

    def count_step(self, runner: Runner, data_batch: list[Batch], counts: dict[str, float]) -> None:
        """Count the files of the step on this rank (EpochTrainLoop)."""
        failures = sum(len(batch.get('failures', [])) for batch in data_batch)
        read = sum(len(set(batch['ids'])) for batch in data_batch)  # replicas share their file
        counts |= dict(files_tried=read + failures, files_broken=failures)

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: list[Batch],
        outputs: dict[str, Tensor] | None = None,
    ) -> None:
        """Take up the counts of all ranks."""
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


@HOOKS.register_module()
class HeadSizeHook(Hook):
    """Refuses data of other classes than the model's head, before the first step, validation or test.

    All sources that know the names of their classes, of training and of what follows it, must have the same names in
    the same order: folders ``cat, dog`` and ``cat, fox`` make the same labels of different classes. A test compares
    them with the names in its checkpoint, which the tool hands over: `expect`.
    """

    def __init__(self) -> None:
        self._named: tuple[str, tuple[str, ...]] | None = None  # the first source that knows names, and these

    def expect(self, place: str, classes: Sequence[str]) -> None:
        """Compare the sources with these names, that ``place`` has."""
        self._named = place, tuple(classes)

    def before_train(self, runner: Runner) -> None:
        """Compare with the training data, and with those of the validation that will follow."""
        self._check(runner.model, runner.train_dataloader.dataset, 'train_dataloader')
        if runner.val_loop is not None:
            self.before_val(runner)

    def before_val(self, runner: Runner) -> None:
        """Compare with the validation data."""
        self._check(runner.model, runner.val_dataloader.dataset, 'val_dataloader')

    def before_test(self, runner: Runner) -> None:
        """Compare with the test data."""
        self._check(runner.model, runner.test_dataloader.dataset, 'test_dataloader')

    def _check(self, model: nn.Module, dataset: Any, loader: str) -> None:
        size = getattr(unwrapped(model).data_preprocessor, 'num_classes', None)
        if size is None:
            return
        _check_head(size, dataset, loader)
        for name, source in zip(dataset.names, dataset.sources, strict=True):
            if (classes := getattr(source, 'classes', None)) is None:
                continue
            place, names = f'{loader}: source {name!r}', tuple(classes)
            first, expected = self._named = self._named or (place, names)
            if names != expected:
                label = next(i for i, pair in enumerate(zip(names, expected, strict=True)) if pair[0] != pair[1])
                raise ValueError(
                    f'{place} has other classes than {first}: label {label} is {names[label]!r} here and '
                    f'{expected[label]!r} there. Correct the folders, or give both the same classes=[...]; a list '
                    'with numbers as labels is not compared.'
                )


def _check_head(size: int, dataset: Any, loader: str) -> None:
    """Sources that know their classes have as many as the model; those with labels alone have none beyond."""
    for name, source in zip(dataset.names, dataset.sources, strict=True):
        classes, labels = getattr(source, 'classes', None), getattr(source, 'labels', None)
        if classes is not None and len(classes) != size:
            found, count = f'has {len(classes)} classes', len(classes)
        elif labels is not None and labels.max() >= size:
            found, count = f'has the label {labels.max()}, counted from 0', labels.max() + 1
        else:
            continue
        raise ValueError(
            f"{loader}: source {name!r} {found}, and the model's head tells {size} apart. Set model.num_classes="
            f"{count}, or give the source the classes that the head knows, in the head's order: classes=[...]."
        )


@HOOKS.register_module()
class LabelHook(Hook):
    """Refuses samples without labels where they are to be counted, and names the classes that never occur.

    Both at the start, before anything is trained or tested: a class that no sample has may be a wrong ``num_classes``,
    or labels that are one off. Of maps, which nobody has read yet, it is said after the first epoch and the first
    validation. Each is one line, whatever the number of classes.
    """

    def before_train(self, runner: Runner) -> None:
        """Look at the labels of training and of the validation that will follow."""
        preprocessor = unwrapped(runner.model).data_preprocessor
        size = getattr(preprocessor, 'num_classes', None)
        self._areas: dict[str, Tensor] = {}  # of the classes in maps, while they are counted
        self._to_count = {'train', 'val'} if size is not None and getattr(preprocessor, 'target', False) else set()
        datasets = {'train': runner.train_dataloader.dataset}
        if runner.val_loop is not None:
            datasets['val'] = runner.val_dataloader.dataset
            _check_countable(datasets['val'], 'val_dataloader', runner.val_loop.evaluator.metrics, size)
        for mode, dataset in datasets.items():
            labels = [labels for source in dataset.sources if (labels := getattr(source, 'labels', None)) is not None]
            if size is not None and labels and not self._to_count:
                present = {*np.unique(np.concatenate(labels)).tolist()}
                _name_absent(runner, f'{mode}_dataloader', present, size, class_names(dataset, size))

    def before_test(self, runner: Runner) -> None:
        """Look at the labels of the test."""
        size = getattr(unwrapped(runner.model).data_preprocessor, 'num_classes', None)
        metrics = runner.test_loop.evaluator.metrics
        _check_countable(runner.test_dataloader.dataset, 'test_dataloader', metrics, size)

    def before_train_epoch(self, runner: Runner) -> None:
        """Begin to count the classes of maps, unless the run goes on from within this epoch."""
        if runner.iter == runner.epoch * len(runner.train_dataloader):
            self._begin('train')

    def before_val_epoch(self, runner: Runner) -> None:
        """Begin to count the classes of maps."""
        self._begin('val')

    def _begin(self, mode: str) -> None:
        if mode in getattr(self, '_to_count', ()):
            self._areas[mode] = torch.zeros(UNKNOWN_CLASS + 1, dtype=torch.int64)

    def _after_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Any = None,
        outputs: Any = None,
        mode: str = 'train',
    ) -> None:
        if (areas := getattr(self, '_areas', {}).get(mode)) is not None:
            for batch in data_batch if mode == 'train' else [data_batch]:
                areas += torch.bincount(batch['target'].flatten().int().cpu(), minlength=len(areas))

    def after_train_epoch(self, runner: Runner) -> None:
        """Name the classes that no map of training has."""
        self._end(runner, 'train')

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Name the classes that no map of validation has."""
        self._end(runner, 'val')

    def _end(self, runner: Runner, mode: str) -> None:
        if (areas := getattr(self, '_areas', {}).pop(mode, None)) is not None:
            self._to_count.discard(mode)
            all_reduce(areas)
            size = getattr(unwrapped(runner.model).data_preprocessor, 'num_classes', 0)
            present = {*areas[:size].nonzero()[:, 0].tolist()}
            _name_absent(runner, f'{mode}_dataloader', present, size, None)


def lacking(dataset: Any, what: str = 'labels') -> list[str]:
    """Names of the sources that have no labels, or no target."""
    sources = zip(dataset.names, dataset.sources, strict=True)
    return [name for name, source in sources if getattr(source, what, ()) is None]


def _check_countable(dataset: Any, loader: str, metrics: Sequence[Any], size: int | None) -> None:
    """Where a metric counts, there is what it counts; and as many classes as the largest k of a ClipAccuracy."""
    for metric in metrics:
        if isinstance(metric, SegmentationScore | DepthScore) and (names := lacking(dataset, 'target')):
            raise ValueError(
                f'{loader}: source {names[0]!r} has no true maps, and {type(metric).__name__} needs them. Set target '
                'of the dataset.'
            )
        if not isinstance(metric, ClipAccuracy):
            continue
        if size is not None:
            metric.check_size(size)
        unlabelled = lacking(dataset)
        if unlabelled and (metric.out_file is None or len(unlabelled) < len(dataset.names)):
            remedy = (
                'test with --out FILE.json, which writes the scores alone'
                if loader == 'test_dataloader'
                else 'train without validation: val_dataloader=val_cfg=val_evaluator=None'
            )
            raise ValueError(
                f'{loader}: source {unlabelled[0]!r} has no labels, and ClipAccuracy counts them. Sort its files into '
                f'a folder per class or give an ann_file of "path label" lines; or {remedy}.'
            )


def class_names(dataset: Any, size: int | None) -> list[str] | None:
    """The names of the classes in the order of the labels; None where no source knows ``size`` of them."""
    known = (getattr(source, 'classes', None) for source in dataset.sources)
    return next((list(names) for names in known if names is not None and len(names) == size), None)


def _name_absent(runner: Runner, loader: str, present: Collection[int], size: int, classes: list[str] | None) -> None:
    names = [f'class {number}' for number in range(size)] if classes is None else [*map(repr, classes)]
    absent = [name for number, name in enumerate(names) if number not in present]
    if len(present) == 1:
        runner.logger.warning(
            f'{loader}: all samples are of {names[next(iter(present))]}, one of {len(names)} classes. To answer it '
            'always is right, so an accuracy says nothing. Check num_classes and the labels.'
        )
    elif absent:
        some = ', '.join(absent[:5]) + (f' and {len(absent) - 5} more' if len(absent) > 5 else '')
        runner.logger.warning(
            f'{loader}: {len(absent)} of {len(names)} classes never occur: {some}. If that is not meant, check '
            'num_classes and the labels (of maps: reduce_zero_label).'
        )


class PictureHook(Hook):
    """Draws the same few held-out samples every ``interval`` epochs. A subclass says how: `draw`.

    The samples are the first of each source of ``val_dataloader`` that can be read; pictures go to ``folder`` in the
    work directory.

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
            with evaluating(dtype_of(runner.cfg), next(model.parameters()).device):
                self.draw(
                    model, samples, folder / f'epoch_{runner.epoch + 1}_{name}', f'{name}, epoch {runner.epoch + 1}'
                )
        runner.logger.info(f'{self.folder.capitalize()} are in {folder}.')

    def draw(self, model: Any, samples: Sequence[Mapping[str, Any]], stem: Path, title: str) -> None:
        """Write pictures whose paths begin with ``stem``."""
        raise NotImplementedError


@HOOKS.register_module()
class ReconstructionHook(PictureHook):
    """Draws reconstructions, always with the same masks: a sheet per image source, a frame strip per clip."""

    folder = 'reconstructions'

    def before_train(self, runner: Runner) -> None:
        """Refuse a head that cannot be drawn, too."""
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
    """Draws what a DensePredictor is given, what is true and what it predicts: a sheet per source."""

    folder = 'predictions'

    def draw(self, model: Any, samples: Sequence[Mapping[str, Any]], stem: Path, title: str) -> None:
        """Write ``STEM.png``."""
        predictions_sheet(model, samples, title).save(f'{stem}.png')
