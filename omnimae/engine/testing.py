"""Validation and tests within the Runner: files that cannot be read, and precision."""

from __future__ import annotations

import os

import torch
from mmengine.dist import master_only
from mmengine.evaluator import Evaluator
from mmengine.runner import Runner
from mmengine.runner import TestLoop as MMEngineTestLoop
from mmengine.runner import ValLoop as MMEngineValLoop
from mmengine.runner.loops import _parse_losses, _update_losses
from torch.utils.data import DataLoader

from omnimae.registry import LOOPS
from omnimae.structures import Batch

from .precision import device_of, dtype_of, evaluating
from .reading import Readable, judge_of


class EvaluationRunner(Runner):
    """A Runner that does not train. It writes its config beside its log and keeps the training's config."""

    @master_only
    def dump_config(self) -> None:
        """Write the config."""
        self.cfg.dump(os.path.join(self._log_dir, os.path.basename(self.cfg.filename or 'config.py')))


class Evaluation:
    """What the loops below share.

    Files that cannot be read are listed. They are left out if no metric needs every sample. Otherwise the evaluation
    fails, on all ranks, at its end.
    """

    mode: str
    fp16: bool
    runner: Runner
    dataloader: DataLoader
    evaluator: Evaluator

    def run(self) -> dict[str, float]:
        """Evaluate."""
        runner, mode = self.runner, self.mode
        runner.call_hook(f'before_{mode}')
        runner.call_hook(f'before_{mode}_epoch')
        runner.model.eval()
        for metric in self.evaluator.metrics:
            if getattr(metric, 'collect_dir', '') is None:  # MMEngine would take .dist_test/ in the current folder
                metric.collect_dir = os.path.join(runner.log_dir, 'collected')
        batches = Readable(runner, self.dataloader, f'{mode}_dataloader', judge_of(self.evaluator.metrics))
        losses: dict = {}
        with batches.watching():
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
        """Evaluate the samples of one batch, in the precision that the recipe trains in."""
        dtype = 'float16' if self.fp16 else dtype_of(self.runner.cfg)
        with evaluating(dtype, device_of(self.runner.model)):
            return getattr(self.runner.model, f'{self.mode}_step')(batch)


@LOOPS.register_module()
class ValLoop(Evaluation, MMEngineValLoop):
    """MMEngine's ValLoop, in the precision of training and without unreadable files: see `Readable`."""

    mode = 'val'


@LOOPS.register_module()
class TestLoop(Evaluation, MMEngineTestLoop):
    """MMEngine's TestLoop, in the precision of training and without unreadable files: see `Readable`."""

    mode = 'test'
