"""k-NN on frozen features, as a test loop and as a hook of pretraining."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import torch
from mmengine.dist import all_gather_object
from mmengine.evaluator import Evaluator
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.runner import Runner
from mmengine.runner import TestLoop as MMEngineTestLoop
from torch import Tensor
from torch.utils.data import DataLoader

from omnimae.evaluation import ClipAccuracy, Features, knn, knn_accuracy
from omnimae.registry import HOOKS, LOOPS
from omnimae.stopping import command_with
from omnimae.structures import Batch, pooled_views, require, unwrapped

from .extraction import collect, frozen_features
from .labels import lacking
from .precision import device_of, dtype_of, evaluating
from .reading import Readable
from .testing import Evaluation


def extract(compute: Callable[[Batch], Tensor], batches: Readable) -> Features:
    """Features of all samples that can be read, in the order of the data set, on every rank.

    Args:
        compute: a batch of the loader -> (B, D).
        batches: of labelled samples, by an EvalSampler. With several ranks each has its share.
    """
    with batches.watching():
        own = collect(compute, (batch for _, batch in batches))
    batches.finish()
    return _in_turn(all_gather_object(own))


def _in_turn(shares: Sequence[Features]) -> Features:
    """Undo EvalSampler: the first sample of each rank, then the second of each, and so on."""
    shares = [share for share in shares if len(share.ids)]  # features of no sample have no width
    turns = np.concatenate([np.arange(len(share.ids)) for share in shares])
    order = np.argsort(turns, kind='stable')
    return Features(*(np.concatenate(parts)[order] for parts in zip(*shares, strict=True)))


@LOOPS.register_module()
class KNNTestLoop(Evaluation, MMEngineTestLoop):
    """Test a frozen backbone by k-NN: the votes of the nearest samples of a bank are the scores (`evaluation.knn`).

    The model is a FrozenBackbone. Each rank has the whole bank, and a share of the tested samples.

    Args:
        runner: given by the Runner.
        dataloader: given by the Runner; the samples to classify.
        evaluator: given by the Runner; a ClipAccuracy.
        bank_dataloader: labelled training samples, cropped as in testing.
        num_classes: of the labels.
        k: neighbours that vote.
        temperature: of the votes' weights.
        dtype: precision of the features; None is that of the config's training.
    """

    mode = 'test'

    def __init__(
        self,
        runner: Runner,
        dataloader: DataLoader | dict[str, Any],
        evaluator: Evaluator | dict[str, Any] | list,
        bank_dataloader: dict[str, Any],
        num_classes: int,
        k: int = 20,
        temperature: float = 0.07,
        dtype: Literal['bfloat16', 'float16'] | None = None,
    ) -> None:
        super().__init__(runner, dataloader, evaluator)
        self.bank_dataloader = runner.build_dataloader(bank_dataloader, seed=runner.seed)
        _check_labels(self.bank_dataloader, 'bank_dataloader')
        if k > (size := len(self.bank_dataloader.dataset)):
            raise ValueError(
                f'test_cfg.k={k} neighbours are more than the {size} samples of the bank. Run '
                f'{command_with("--cfg-options", f"test_cfg.k={min(5, size)}")}'
            )
        for metric in self.evaluator.metrics:
            if isinstance(metric, ClipAccuracy):
                metric.check_size(num_classes)
        self.num_classes, self.k, self.temperature = num_classes, k, temperature
        self.dtype = dtype or dtype_of(runner.cfg)

    def run(self) -> dict[str, float]:
        """Extract the bank, then test."""
        self.runner.model.eval()
        self.runner.logger.info(f'Features of the bank, {len(self.bank_dataloader.dataset)} samples:')
        batches = Readable(self.runner, self.bank_dataloader, 'test_cfg.bank_dataloader', 'k-NN')
        self._features = frozen_features(self.runner.model, self.dtype)
        bank = extract(self._features, batches)
        self.bank, self.labels = (torch.from_numpy(part).to(device_of(self.runner.model)) for part in bank[:0:-1])
        return super().run()

    def predict(self, batch: Batch) -> list:
        """Classify one batch."""
        features = self._features(batch)
        votes = knn(features, self.bank, self.labels, self.num_classes, k=self.k, temperature=self.temperature)
        scores = votes.masked_fill(votes == 0, -torch.inf)  # a class without a vote is in no top k
        return [dict(scores=row, probabilities=share) for row, share in zip(scores, votes, strict=True)]


@HOOKS.register_module()
class KNNHook(Hook):
    """Measures pretraining by k-NN on two small labelled sets, every ``interval`` epochs.

    The features are the mean of the tokens after the backbone's norm, with the raw weights (not an average of them).
    Log and curves have the accuracy as ``NAME/top1``. The hook changes neither the training's RNG state nor its
    checkpoints. Two hooks with two names measure images and videos. Files that cannot be read are left out and listed.
    Some are opened before training.

    Args:
        bank_dataloader: labelled samples that vote, by an EvalSampler, cropped as in testing. Ten thousand are enough.
        query_dataloader: labelled samples to classify.
        name: of the curve.
        interval: epochs between two measurements. There is always one after the last epoch.
        k: neighbours that vote.
        temperature: of the votes' weights.
    """

    def __init__(
        self,
        *,
        bank_dataloader: dict[str, Any],
        query_dataloader: dict[str, Any],
        name: str = 'knn',
        interval: int = 10,
        k: int = 20,
        temperature: float = 0.07,
    ) -> None:
        self.loaders = dict(bank=bank_dataloader, query=query_dataloader)
        self.name, self.interval, self.k, self.temperature = name, interval, k, temperature

    def before_train(self, runner: Runner) -> None:
        """Build the loaders and check the backbone, so that a mistake is found before the first step."""
        require(unwrapped(runner.model).backbone, f'KNNHook {self.name!r}', 'pooled')
        self.built = {}
        for key, cfg in self.loaders.items():
            loader = runner.build_dataloader(cfg, seed=runner.seed)
            _check_labels(loader, f'{self.name}: {key}_dataloader')
            self.built[key] = Readable(runner, loader, f'{self._place(runner)}.{key}_dataloader', None)
            self.built[key].open_some()

    def _place(self, runner: Runner) -> str:
        """Key of this hook in the config."""
        hooks = enumerate(runner.cfg.get('custom_hooks') or ())
        own = ('KNNHook', self.name)
        return next((f'custom_hooks.{n}' for n, x in hooks if (x.get('type'), x.get('name', 'knn')) == own), self.name)

    def after_train_epoch(self, runner: Runner) -> None:
        """Measure when due."""
        if not (self.every_n_epochs(runner, self.interval) or self.is_last_train_epoch(runner)):
            return
        model = unwrapped(runner.model)
        was_training = model.training
        model.eval()
        dtype = dtype_of(runner.cfg)

        def compute(batch: Batch) -> Tensor:
            with evaluating(dtype, device_of(model)):
                return _pooled(model, batch)

        with torch.random.fork_rng(devices=[]):  # evaluation draws from the CPU's alone, for its loaders
            bank, queries = (extract(compute, batches) for batches in self.built.values())
        model.train(was_training)
        result = knn_accuracy(bank, queries, k=self.k, temperature=self.temperature)
        runner.visualizer.add_scalar(f'{self.name}/top1', result['top1'], step=runner.epoch + 1)
        runner.logger.info(f'Epoch {runner.epoch + 1}: {self.name}/top1: {result["top1"]:.4f}')


def _pooled(model: BaseModel, batch: Batch) -> Tensor:
    """A batch of the loader -> (B, D), averaged over views."""
    inputs = model.data_preprocessor(batch)
    clip = inputs['clip'] if 'clip' in inputs else inputs['clips']  # of a MultiModalPreprocessor
    return pooled_views(model.backbone, model.data_preprocessor, clip).mean(1)


def _check_labels(loader: DataLoader, place: str) -> None:
    """Refuse samples without labels, before any features are computed."""
    if names := lacking(loader.dataset):
        raise ValueError(f'{place}: source {names[0]!r} has no labels, which k-NN needs. Give the dataset labels.')
