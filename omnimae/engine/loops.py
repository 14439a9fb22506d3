"""The train loop that counts optimizer steps."""

from __future__ import annotations

import itertools
from typing import Any

import torch
from mmengine.runner import EpochBasedTrainLoop, Runner
from torch import Tensor
from torch.utils.data import DataLoader

from omnimae.registry import LOOPS


@LOOPS.register_module()
class EpochTrainLoop(EpochBasedTrainLoop):
    """An iteration is one optimizer step, of as many micro-batches as the batch sampler says.

    Iterations, schedules, intervals and checkpoints all count optimizer steps; ``train_step`` runs once a micro-batch,
    the hooks once a step, with the list of its micro-batches. Training resumes inside an epoch at the step where it
    stopped, and nothing before that step is read again.

    Args:
        runner: given by the Runner.
        dataloader: given by the Runner; its batch sampler is a MixedBatchSampler.
        max_epochs: length of the training.
        val_begin: first epoch with a validation.
        val_interval: epochs between validations.

    Raises:
        ValueError: there is no batch sampler.
    """

    def __init__(
        self,
        runner: Runner,
        dataloader: DataLoader | dict[str, Any],
        max_epochs: int,
        val_begin: int = 1,
        val_interval: int = 1,
    ) -> None:
        if isinstance(dataloader, dict) and 'batch_sampler' not in dataloader:
            raise ValueError(
                'train_dataloader has no batch_sampler, so EpochTrainLoop cannot tell the micro-batches of a step. '
                "Add batch_sampler=dict(type='MixedBatchSampler', global_batch_size=...)."
            )
        super().__init__(runner, dataloader, max_epochs, val_begin, val_interval)
        self.batch_sampler = self.dataloader.batch_sampler
        # Schedulers are built before MMEngine's RuntimeInfoHook says this.
        runner.message_hub.update_info('max_iters', self.max_iters)

    def run(self) -> torch.nn.Module:
        """Train to the end."""
        accumulation, optim_wrapper = self.batch_sampler.accumulation, self.runner.optim_wrapper
        optim_wrapper._accumulative_counts = accumulation
        # The Runner has just told the wrapper steps where it counts micro-batches.
        optim_wrapper.initialize_count_status(
            self.runner.model, self.iter * accumulation, self.max_iters * accumulation
        )
        return super().run()

    def run_epoch(self) -> None:
        """Train the steps of the epoch that are still to be done."""
        self.runner.call_hook('before_train_epoch')
        self.runner.model.train()
        first_step = self.iter - self.epoch * len(self.dataloader)
        self.batch_sampler.start_step = first_step
        batches = iter(self.dataloader)
        for step in range(first_step, len(self.dataloader)):
            # All micro-batches come before the hooks, so that waiting for them counts as data time.
            self.run_iter(step, list(itertools.islice(batches, self.batch_sampler.accumulation)))
        self.runner.call_hook('after_train_epoch')
        self._epoch += 1

    def run_iter(self, idx: int, data_batch: list[dict[str, Any]]) -> None:
        """One optimizer step over the micro-batches ``data_batch``.

        Raises:
            FloatingPointError: the loss is not finite, as in the release.
        """
        runner = self.runner
        runner.call_hook('before_train_iter', batch_idx=idx, data_batch=data_batch)
        outputs = _mean([runner.model.train_step(batch, optim_wrapper=runner.optim_wrapper) for batch in data_batch])
        if not outputs['loss'].isfinite():
            raise FloatingPointError(
                f'The loss is {outputs["loss"].item()} at epoch {self.epoch + 1}, step {idx + 1} (iteration '
                f'{self.iter + 1}). Lower optim_wrapper.optimizer.lr or set optim_wrapper.clip_grad.'
            )
        runner.call_hook('after_train_iter', batch_idx=idx, data_batch=data_batch, outputs=outputs)
        self._iter += 1


def _mean(logs: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {key: torch.stack([log[key].detach() for log in logs]).mean() for key in logs[0]}
