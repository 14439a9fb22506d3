"""Validation and tests within the Runner: files that cannot be read, and precision."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager

import torch
from mmengine.dist import master_only
from mmengine.evaluator import Evaluator
from mmengine.runner import Runner
from mmengine.runner import TestLoop as MMEngineTestLoop
from mmengine.runner import ValLoop as MMEngineValLoop
from mmengine.runner.loops import _parse_losses, _update_losses
from torch import nn
from torch.utils.data import DataLoader

from omnimae.registry import LOOPS
from omnimae.structures import Batch

from .precision import dtype_of, evaluating
from .reading import Readable, judge_of


class EvaluationRunner(Runner):
    """A Runner that does not train: its config goes beside its log, and that of a training in the folder stays."""

    @master_only
    def dump_config(self) -> None:
        """Write the config."""
        self.cfg.dump(os.path.join(self._log_dir, os.path.basename(self.cfg.filename or 'config.py')))


class Evaluation:
    """What the loops below share: files that cannot be read are left out, or refused on all ranks at the end."""

    mode: str
    runner: Runner
    dataloader: DataLoader
    evaluator: Evaluator

    def run(self) -> dict[str, float]:
        """Evaluate."""
        runner, mode = self.runner, self.mode
        runner.call_hook(f'before_{mode}')
        runner.call_hook(f'before_{mode}_epoch')
        runner.model.eval()
        batches = Readable(runner, self.dataloader, f'{mode}_dataloader', judge_of(self.evaluator.metrics))
        losses: dict = {}
        for number, batch in batches:
            runner.call_hook(f'before_{mode}_iter', batch_idx=number, data_batch=batch)
            with torch.no_grad():
                outputs, losses = _update_losses(self.predict(batch), losses)
            self.evaluator.process(data_samples=outputs, data_batch=batch)
            runner.call_hook(f'after_{mode}_iter', batch_idx=number, data_batch=batch, outputs=outputs)
        batches.finish()
        metrics = self.evaluator.evaluate(len(self.dataloader.dataset))  # type: ignore[arg-type]
        if losses:
            metrics |= _parse_losses(losses, mode)
        runner.call_hook(f'after_{mode}_epoch', metrics=metrics)
        runner.call_hook(f'after_{mode}')
        return metrics

    def predict(self, batch: Batch) -> list:
        """What the model makes of the samples of a batch."""
        raise NotImplementedError


@LOOPS.register_module()
class ValLoop(Evaluation, MMEngineValLoop):
    """MMEngine's, by the same name and with the same options, which predicts in what the recipe trains in.

    Where no metric needs every sample, those that cannot be read are left out and listed, see `Readable`.
    """

    mode = 'val'

    def predict(self, batch: Batch) -> list:
        """Validate one batch."""
        with _predicting(self):
            return self.runner.model.val_step(batch)


@LOOPS.register_module()
class TestLoop(Evaluation, MMEngineTestLoop):
    """MMEngine's, by the same name and with the same options, which predicts in what the recipe trains in.

    Where no metric needs every sample, those that cannot be read are left out and listed, see `Readable`.
    """

    mode = 'test'

    def predict(self, batch: Batch) -> list:
        """Test one batch."""
        with _predicting(self):
            return self.runner.model.test_step(batch)


def _predicting(loop: ValLoop | TestLoop) -> AbstractContextManager:
    return evaluating('float16' if loop.fp16 else dtype_of(loop.runner.cfg), device_of(loop.runner.model))


def device_of(model: nn.Module) -> torch.device:
    return next(model.parameters()).device
