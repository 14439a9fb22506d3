"""Hooks that compare the labels of the data with the model's head and with what the metrics count."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import torch
from mmengine.dist import all_reduce
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import Tensor

from omnimae.evaluation import ClipAccuracy, DepthScore, SegmentationScore
from omnimae.registry import HOOKS
from omnimae.structures import UNKNOWN_CLASS, unwrapped


def num_classes(runner: Runner) -> int | None:
    """The number of classes of the model's head. None if the model has no classes."""
    return getattr(unwrapped(runner.model).data_preprocessor, 'num_classes', None)


def check_score(runner: Runner, key: str, option: str) -> None:
    """Refuse a score that no validation computes, before the first step.

    Args:
        runner: its metrics name their scores by ``names_of(dataset)``. If one does not, nothing is refused.
        key: name of the score.
        option: key of the config that names it.
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
class HeadSizeHook(Hook):
    """Refuses data whose classes are not those of the model's head, before the first step, validation or test.

    All sources that know the names of their classes must have the same names in the same order, in training and in
    evaluation. The folders ``cat, dog`` and ``cat, fox`` give equal labels to different classes. A test compares its
    data with the names in its checkpoint: `expect`.
    """

    def __init__(self) -> None:
        self._named: tuple[str, tuple[str, ...]] | None = None  # the first source that knows names, and the names

    def expect(self, place: str, classes: Sequence[str]) -> None:
        """Compare the sources with these names, which are those of ``place``."""
        self._named = place, tuple(classes)

    def before_train(self, runner: Runner) -> None:
        """Compare with the data of training and validation."""
        self._check(runner, 'train_dataloader')
        if runner.val_loop is not None:
            self.before_val(runner)

    def before_val(self, runner: Runner) -> None:
        """Compare with the validation data."""
        self._check(runner, 'val_dataloader')

    def before_test(self, runner: Runner) -> None:
        """Compare with the test data."""
        self._check(runner, 'test_dataloader')

    def _check(self, runner: Runner, loader: str) -> None:
        size, dataset = num_classes(runner), getattr(runner, loader).dataset
        if size is None:
            return
        for name, source in zip(dataset.names, dataset.sources, strict=True):
            place = f'{loader}: source {name!r}'
            classes, labels = getattr(source, 'classes', None), getattr(source, 'labels', None)
            if classes is not None:
                _check_size(place, size, len(classes), f'has {len(classes)} classes')
                self._compare_names(place, tuple(classes))
            elif labels is not None and labels.max() >= size:
                _check_size(place, size, labels.max() + 1, f'has the label {labels.max()}, counted from 0')

    def _compare_names(self, place: str, names: tuple[str, ...]) -> None:
        first, expected = self._named = self._named or (place, names)
        if names != expected:
            label = next(i for i, pair in enumerate(zip(names, expected, strict=True)) if pair[0] != pair[1])
            raise ValueError(
                f'{place} has other classes than {first}: label {label} is {names[label]!r} here and '
                f'{expected[label]!r} there. Correct the folders, or give both the same classes=[...]; a list '
                'with numbers as labels is not compared.'
            )


def _check_size(place: str, size: int, count: int, found: str) -> None:
    if count != size:
        raise ValueError(
            f"{place} {found}, and the model's head tells {size} apart. Set model.num_classes={count}, or give the "
            "source the classes that the head knows, in the head's order: classes=[...]."
        )


@HOOKS.register_module()
class LabelHook(Hook):
    """Refuses samples without labels if a metric counts them, and names the classes that never occur.

    A class without a sample may mean a wrong ``num_classes``, or labels that are off by one. It is named before
    training. Maps are only read during training, so their absent classes are named after the first epoch and the first
    validation. Each warning is one line, whatever the number of classes.
    """

    def __init__(self) -> None:
        self._areas: dict[str, Tensor] = {}  # 'train' or 'val' -> pixels of each class so far
        self._to_count: set[str] = set()  # of 'train' and 'val': where the maps are still to be counted

    def before_train(self, runner: Runner) -> None:
        """Look at the labels of training and validation."""
        size, is_dense = num_classes(runner), getattr(unwrapped(runner.model).data_preprocessor, 'target', False)
        self._to_count = {'train', 'val'} if size is not None and is_dense else set()
        datasets = {'train': runner.train_dataloader.dataset}
        if runner.val_loop is not None:
            datasets['val'] = runner.val_dataloader.dataset
            _check_countable(datasets['val'], 'val_dataloader', runner.val_loop.evaluator.metrics, size)
        for mode, dataset in datasets.items():
            labels = [labels for source in dataset.sources if (labels := getattr(source, 'labels', None)) is not None]
            if size is not None and labels and not self._to_count:
                present = {*np.unique(np.concatenate(labels)).tolist()}
                names = class_names(dataset, size)
                _name_absent(runner, mode, present, _numbered(size) if names is None else [*map(repr, names)])

    def before_test(self, runner: Runner) -> None:
        """Look at the labels of the test."""
        metrics = runner.test_loop.evaluator.metrics
        _check_countable(runner.test_dataloader.dataset, 'test_dataloader', metrics, num_classes(runner))

    def _before_epoch(self, runner: Runner, mode: str = 'train') -> None:
        """Start to count the classes of maps, unless training resumes within this epoch."""
        is_resumed = mode == 'train' and runner.iter > runner.epoch * len(runner.train_dataloader)
        if mode in self._to_count and not is_resumed:
            self._areas[mode] = torch.zeros(UNKNOWN_CLASS + 1, dtype=torch.int64)

    def _after_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None, mode: str = 'train'
    ) -> None:
        if (areas := self._areas.get(mode)) is not None:
            for batch in data_batch if mode == 'train' else [data_batch]:
                areas += torch.bincount(batch['target'].flatten().int().cpu(), minlength=len(areas))

    def _after_epoch(self, runner: Runner, mode: str = 'train') -> None:
        """Name the classes that no map of training or validation has."""
        if (areas := self._areas.pop(mode, None)) is not None:
            self._to_count.discard(mode)
            all_reduce(areas)
            names = _numbered(num_classes(runner) or 0)
            _name_absent(runner, mode, {*areas[: len(names)].nonzero()[:, 0].tolist()}, names)


def lacking(dataset: Any, what: str = 'labels') -> list[str]:
    """Names of the sources that have no labels, or no target."""
    sources = zip(dataset.names, dataset.sources, strict=True)
    return [name for name, source in sources if getattr(source, what, ()) is None]


def _check_countable(dataset: Any, loader: str, metrics: Sequence[Any], size: int | None) -> None:
    """Refuse data without the labels or maps that a metric counts, and fewer classes than the largest k."""
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
    """The names of the classes in the order of the labels. None if no source knows ``size`` of them."""
    known = (getattr(source, 'classes', None) for source in dataset.sources)
    return next((list(names) for names in known if names is not None and len(names) == size), None)


def _numbered(size: int) -> list[str]:
    return [f'class {number}' for number in range(size)]


def _name_absent(runner: Runner, mode: str, present: Collection[int], names: Sequence[str]) -> None:
    absent = [name for number, name in enumerate(names) if number not in present]
    if len(present) == 1:
        runner.logger.warning(
            f'{mode}_dataloader: all samples are of {names[next(iter(present))]}, one of {len(names)} classes. A model '
            'that always answers it is right, so an accuracy says nothing. Check num_classes and the labels.'
        )
    elif absent:
        some = ', '.join(absent[:5]) + (f' and {len(absent) - 5} more' if len(absent) > 5 else '')
        runner.logger.warning(
            f'{mode}_dataloader: {len(absent)} of {len(names)} classes never occur: {some}. If this is not intended, '
            'check num_classes and the labels (of maps: reduce_zero_label).'
        )
