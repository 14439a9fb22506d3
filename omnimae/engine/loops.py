"""The train loop that counts optimizer steps."""

from __future__ import annotations

import itertools
import math
import re
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import all_gather_object, is_main_process
from mmengine.runner import EpochBasedTrainLoop, Runner
from torch import Tensor
from torch.utils.data import DataLoader

from omnimae.registry import LOOPS

from .compat import find_latest_checkpoint
from .hooks import append_lines


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
        max_skipped: optimizer steps in a row that may be left out because a loss is not finite.

    Raises:
        ValueError: there is no batch sampler, or an optimizer wrapper of another kind.
    """

    def __init__(
        self,
        runner: Runner,
        dataloader: DataLoader | dict[str, Any],
        max_epochs: int,
        val_begin: int = 1,
        val_interval: int = 1,
        max_skipped: int = 10,
    ) -> None:
        if isinstance(dataloader, dict) and 'batch_sampler' not in dataloader:
            raise ValueError(
                'train_dataloader has no batch_sampler, so EpochTrainLoop cannot tell the micro-batches of a step. '
                "Add batch_sampler=dict(type='MixedBatchSampler', global_batch_size=...)."
            )
        super().__init__(runner, dataloader, max_epochs, val_begin, val_interval)
        self.batch_sampler = self.dataloader.batch_sampler
        self.max_skipped = max_skipped
        self._skipped_in_a_row = 0
        runner.message_hub.update_info('steps_per_epoch', len(self.dataloader))
        # Schedulers are built before MMEngine's RuntimeInfoHook says this.
        runner.message_hub.update_info('max_iters', self.max_iters)

    def run(self) -> torch.nn.Module:
        """Train to the end."""
        accumulation, optim_wrapper = self.batch_sampler.accumulation, self.runner.optim_wrapper
        if not hasattr(optim_wrapper, 'skipped'):
            raise ValueError(
                f'optim_wrapper.type is {type(optim_wrapper).__name__}, which makes a step whatever the loss is. Use '
                "AutocastOptimWrapper, with dtype=None, 'bfloat16' or 'float16': it leaves out what is not finite."
            )
        optim_wrapper._accumulative_counts = accumulation
        # The Runner has just told the wrapper steps where it counts micro-batches.
        optim_wrapper.initialize_count_status(
            self.runner.model, self.iter * accumulation, self.max_iters * accumulation
        )
        self.runner.call_hook('before_train')
        self._validate_if_due()  # a run that was stopped in a validation is resumed in front of it
        while self.epoch < self.max_epochs and not self.stop_training:
            self.run_epoch()
            self._decide_current_val_interval()
            self._validate_if_due()
        self.runner.call_hook('after_train')
        return self.runner.model

    def _validate_if_due(self) -> None:
        """Validate behind an epoch that asks for it, once; a checkpoint knows whether that has been done."""
        runner, epoch = self.runner, self.epoch
        is_over = 0 < epoch == self.iter / len(self.dataloader)
        is_due = epoch >= self.val_begin and (epoch % self.val_interval == 0 or epoch == self.max_epochs)
        if runner.val_loop is None or not (is_over and is_due) or runner.message_hub.get_info('validated', 0) == epoch:
            return
        runner.message_hub.update_info('validated', epoch)
        runner.val_loop.run()

    def run_epoch(self) -> None:
        """Train the steps of the epoch that are still to be done.

        Raises:
            RuntimeError: a worker of the loader died; the message names the file that it was reading.
        """
        self.runner.call_hook('before_train_epoch')
        self.runner.model.train()
        first_step = self.iter - self.epoch * len(self.dataloader)
        self.batch_sampler.start_step = first_step
        batches = iter(self.dataloader)
        for step in range(first_step, len(self.dataloader)):
            # All micro-batches come before the hooks, so that waiting for them counts as data time.
            try:
                micro_batches = list(itertools.islice(batches, self.batch_sampler.accumulation))
            except RuntimeError as error:
                self._name_fatal_files(error)
                raise
            self.run_iter(step, micro_batches)
        self.runner.call_hook('after_train_epoch')
        self._epoch += 1

    def run_iter(self, idx: int, data_batch: list[dict[str, Any]]) -> None:
        """One optimizer step over the micro-batches ``data_batch``.

        Raises:
            FloatingPointError: more than ``max_skipped`` steps in a row had a loss that is not finite.
        """
        runner = self.runner
        runner.call_hook('before_train_iter', batch_idx=idx, data_batch=data_batch)
        logs = [runner.model.train_step(batch, optim_wrapper=runner.optim_wrapper) for batch in data_batch]
        outputs = _mean(logs)
        if runner.optim_wrapper.skipped:
            self._note_skipped(idx, [batch['ids'] for batch in data_batch], [log['loss'].item() for log in logs])
        else:
            self._skipped_in_a_row = 0
        runner.call_hook('after_train_iter', batch_idx=idx, data_batch=data_batch, outputs=outputs)
        self._iter += 1

    def _name_fatal_files(self, error: RuntimeError) -> None:
        """If a loader's worker died (out of memory, a crash in a codec), list and say which file it was reading.

        Raises:
            RuntimeError: with the file and how to go on without it.
        """
        message = re.match(r'DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\)(.*)', str(error))
        if message is None:
            return
        paths = [self.dataloader.dataset.being_read(int(process)) for process in message[1].split(', ')]
        file = Path(self.runner.work_dir, 'broken_files.txt')
        append_lines(file, (f'{path}\ta loader worker died reading it' for path in paths if path is not None))
        raise RuntimeError(
            f'A loader worker died ({message[2].strip(" .")}) while it read {", ".join(map(str, paths))}. If memory '
            'was short, lower train_dataloader.num_workers. To go on without the file, which is listed now: --resume '
            f'--cfg-options train_dataloader.dataset.sources.NAME.skip={file}'
        ) from error

    def _note_skipped(self, idx: int, ids: list[list[str]], losses: list[float]) -> None:
        """Write down what the step was made of, on any rank, and stop when there are too many in a row."""
        self._skipped_in_a_row += 1
        count = self.runner.message_hub.get_info('skipped_steps', 0) + 1
        self.runner.message_hub.update_info('skipped_steps', count)
        own = [f'loss {loss}: {", ".join(i)}' for loss, i in zip(losses, ids, strict=True) if not math.isfinite(loss)]
        lines = [line for rank in all_gather_object(own) for line in rank]
        place = f'epoch {self.epoch + 1}, step {idx + 1} (iteration {self.iter + 1})'
        file = Path(self.runner.work_dir, 'skipped_steps.txt')
        if is_main_process():
            append_lines(file, (f'{place}\t{line}' for line in lines))
        self.runner.logger.warning(f'No update at {place}, {count} left out so far: {lines[0]}')
        if self._skipped_in_a_row > self.max_skipped:
            raise FloatingPointError(
                f'The loss is not finite at {place}, {self._skipped_in_a_row} steps in a row; train_cfg.max_skipped='
                f'{self.max_skipped}. The samples are in {file}, the last good weights in '
                f'{find_latest_checkpoint(self.runner.work_dir)}. Lower optim_wrapper.optimizer.lr or set '
                'optim_wrapper.clip_grad, and go on with --resume.'
            )


def _mean(logs: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {key: torch.stack([log[key].detach() for log in logs]).mean() for key in logs[0]}
