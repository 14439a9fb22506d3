"""The train loop that counts optimizer steps."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.dist import all_gather_object, all_reduce, get_world_size, is_main_process
from mmengine.runner import EpochBasedTrainLoop, Runner
from torch import Tensor, nn
from torch.utils._pytree import tree_map
from torch.utils.data import DataLoader

from omnimae.registry import LOOPS
from omnimae.stopping import StorageAwayError, WaitEnded, command_with
from omnimae.structures import unwrapped

from .compat import find_latest_checkpoint
from .compiling import compile_loss
from .devices import choose_device
from .feeding import Feed
from .reading import append_lines, naming_fatal_files, raise_together

# Key of the message hub: the last epoch that was validated. MMEngine logs all keys that begin with `val`.
VALIDATED = 'epoch_of_validation'


@LOOPS.register_module()
class EpochTrainLoop(EpochBasedTrainLoop):
    """An iteration is one optimizer step of several micro-batches, whose number the batch sampler decides.

    Iterations, schedules, intervals and checkpoints count optimizer steps. ``train_step`` runs once for each
    micro-batch. The hooks run once for each step, with the list of its micro-batches. Training resumes inside an epoch
    at the step where it stopped. No earlier sample is read again.

    Gradient and logged values of a step do not depend on its division into micro-batches and ranks, apart from random
    numbers: masks, DropPath and mixing are drawn for each micro-batch. The loss of a micro-batch is weighted by the
    number of its samples. A model may choose other weights by a method ``begin_step(batches, sizes, num_samples)``. It
    is called before the first forward of a step, without gradient, with the micro-batches of this rank, the numbers of
    their samples, and the number of samples on all ranks. A micro-batch of size 0 only makes up the number. The method
    may add arguments of ``forward`` to the batches. It returns None, or a count for each micro-batch: () is what its
    loss is a mean over; (tasks,) comes back weighted as the argument ``shares``.

    A hook may have these methods besides MMEngine's:

    * ``count_step(runner, data_batch, counts)``, after the update, adds numbers of this rank to the dict ``counts``,
      with the same keys on all ranks. In ``after_train_iter`` the loop's ``counts`` are their sums over ranks. A
      collective in the hook would synchronise with the device in each step.
    * ``stop_waiting(runner)``: WaitEnded has ended the wait for a step, or a validation.
    * ``stop_away(runner, error)``, on all ranks at the same place: a storage does not answer.
    * ``on_error(runner, error)``: another error ends training.
    * ``stop_listening(runner)``: training has ended, with or without an error.

    Args:
        runner: given by the Runner.
        dataloader: given by the Runner; its batch sampler is a MixedBatchSampler.
        max_epochs: length of the training.
        val_begin: first epoch with a validation.
        val_interval: epochs between validations.
        max_skipped: consecutive steps that may be left out because a loss or a gradient is not finite.
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
        if isinstance(dataloader, dict) and dataloader.get('batch_sampler') is None:
            raise ValueError(
                'train_dataloader has no batch_sampler, so EpochTrainLoop cannot tell the micro-batches of a step. '
                "Add batch_sampler=dict(type='MixedBatchSampler', global_batch_size=...)."
            )
        if val_interval < 1:
            raise ValueError(
                f'train_cfg.val_interval={val_interval} is not positive. Give the epochs between two validations; to '
                'train without any set val_cfg, val_dataloader and val_evaluator to None.'
            )
        super().__init__(runner, dataloader, max_epochs, val_begin, val_interval)
        self.batch_sampler = self.dataloader.batch_sampler
        _check_auto_scale_lr(runner.auto_scale_lr or {}, self.batch_sampler.global_batch_size)
        self.max_skipped = max_skipped
        self._skipped_in_a_row = 0
        self._buffers: list[Tensor] = []  # of batch norms, if there are several ranks
        self._form: dict[str, Any] | None = None  # shapes of a batch, if other ranks may wait for this one
        # MMEngine would compile train_step with the optimizer in 16 graphs, and fail if groups are ConfigDicts.
        runner._maybe_compile = self._compile  # type: ignore[method-assign]
        runner.message_hub.update_info('steps_per_epoch', len(self.dataloader))
        # MMEngine's RuntimeInfoHook sets this after the schedulers are built.
        runner.message_hub.update_info('max_iters', self.max_iters)

    def _compile(self, target: str) -> None:
        """The Runner calls this between loading a checkpoint and training."""
        if compile_loss(unwrapped(self.runner.model), self.runner.cfg.get('compile')):
            self.runner.logger.info('The loss is compiled: the first step of each modality takes a minute or more.')

    def run(self) -> torch.nn.Module:
        """Train to the end."""
        if not hasattr(self.runner.optim_wrapper, 'skipped'):
            name = type(self.runner.optim_wrapper).__name__
            raise ValueError(
                f'optim_wrapper.type is {name}, which makes a step with any loss. Use AutocastOptimWrapper, with '
                "dtype=None, 'bfloat16' or 'float16': it leaves out steps that are not finite."
            )
        self.runner.model.train()
        norms = [x for x in self.runner.model.modules() if isinstance(x, nn.modules.batchnorm._BatchNorm)]
        self._buffers = [buffer for norm in norms for buffer in norm.buffers()] if get_world_size() > 1 else []
        _check_batch_norm(unwrapped(self.runner.model), self.batch_sampler)
        _check_mixing(unwrapped(self.runner.model), self.dataloader)
        try:
            self.runner.call_hook('before_train')
            self._validate_if_due()  # a run that was stopped in a validation repeats it
            while self.epoch < self.max_epochs and not self.stop_training:
                with naming_fatal_files(self.runner, self.dataloader.dataset, 'train_dataloader'):
                    self.run_epoch()
                self._decide_current_val_interval()
                self._validate_if_due()
            self.runner.call_hook('after_train')
        except StorageAwayError as error:
            self.runner.call_hook('stop_away', error=error)
            raise
        except Exception as error:
            self.runner.call_hook('on_error', error=error)
            raise
        finally:
            self.runner.call_hook('stop_listening')
        return self.runner.model

    def _validate_if_due(self) -> None:
        """Validate after an epoch if due, once: checkpoints store the last validated epoch."""
        runner, epoch = self.runner, self.epoch
        is_over = 0 < epoch == self.iter / len(self.dataloader)
        is_due = epoch >= self.val_begin and (epoch % self.val_interval == 0 or epoch == self.max_epochs)
        before = runner.message_hub.get_info(VALIDATED, 0)
        if runner.val_loop is None or not (is_over and is_due) or before == epoch:
            return
        runner.message_hub.update_info(VALIDATED, epoch)
        try:
            runner.val_loop.run()
        except (StorageAwayError, WaitEnded) as error:
            runner.message_hub.update_info(VALIDATED, before)
            if isinstance(error, StorageAwayError):
                raise
            runner.call_hook('stop_waiting')

    def run_epoch(self) -> None:
        """Train the remaining steps of the epoch."""
        self.runner.call_hook('before_train_epoch')
        self.runner.model.train()
        first_step = self.iter - self.epoch * len(self.dataloader)
        self.batch_sampler.start_step = first_step
        self.feed = Feed(self._steps(first_step), unwrapped(self.runner.model).data_preprocessor)
        try:
            for step, micro_batches in enumerate(self.feed, first_step):
                self.run_iter(step, micro_batches)
        except WaitEnded:
            self.runner.call_hook('stop_waiting')
        self.runner.call_hook('after_train_epoch')
        self._epoch += 1

    def _steps(self, first: int) -> Iterator[list[dict[str, Any]]]:
        """The micro-batches of each step, read before its hooks, so that the wait counts as data time."""
        batches = iter(self.dataloader)
        for step in range(first, len(self.dataloader)):
            count = len(self.batch_sampler.step_sizes(step))
            try:
                micro_batches = list(itertools.islice(batches, count))
            except StorageAwayError as error:
                if self._form is None:  # one rank, or no step was trained yet
                    raise
                yield _NoData([tree_map(_zeros, self._form)] * count, error)
                return
            if get_world_size() > 1:
                self._form = tree_map(_on_meta, micro_batches[0])
            yield micro_batches

    def run_iter(self, idx: int, data_batch: list[dict[str, Any]]) -> None:
        """One optimizer step over the micro-batches ``data_batch``.

        Raises:
            FloatingPointError: more than ``max_skipped`` consecutive steps were not finite.
        """
        runner, wrapper = self.runner, self.runner.optim_wrapper
        error = data_batch.error if isinstance(data_batch, _NoData) else None
        runner.call_hook('before_train_iter', batch_idx=idx, data_batch=data_batch)
        batches = self.feed.take(data_batch)
        weights = self._begin_step(batches, self.batch_sampler.step_sizes(idx))
        if error is not None:
            weights = [math.nan] * len(weights)  # no rank makes the step
        wrapper.begin_step(weights)
        before = [(buffer, buffer.clone()) for buffer in self._buffers]
        logs = [runner.model.train_step(batch, optim_wrapper=wrapper) for batch in self.feed.on_device(batches)]
        self.feed.look_ahead()
        counts: dict[str, float] = {'storage_away': error is not None}
        runner.call_hook('count_step', data_batch=data_batch, counts=counts)
        skipped, outputs, self.counts = _read(logs, weights, wrapper, counts)
        if self.counts['storage_away']:
            for buffer, value in before:
                buffer.copy_(value)
            raise_together(error)
        if skipped:
            self._note_skipped(idx, [batch['ids'] for batch in data_batch], [log['loss'].item() for log in logs])
        else:
            self._skipped_in_a_row = 0
        runner.call_hook('after_train_iter', batch_idx=idx, data_batch=data_batch, outputs=outputs)
        self._iter += 1

    def _begin_step(self, batches: list[dict[str, Any]], sizes: np.ndarray) -> Sequence[float | Tensor]:
        """The weight of each micro-batch in the mean of the step, 1 on average over micro-batches and ranks."""
        own, num_samples = sizes[:, self.batch_sampler.rank].tolist(), int(sizes.sum())
        model, counts = unwrapped(self.runner.model), None
        begin_step: Any = getattr(model, 'begin_step', None)
        if begin_step is not None:
            with torch.no_grad(), self.runner.optim_wrapper.optim_context(model):
                counts = begin_step(batches, own, num_samples)
        if counts is None:
            return [size * sizes.size / num_samples for size in own]
        # This does not synchronise with the device.
        counts = [count.to(choose_device(), non_blocking=True) for count in counts]
        table = torch.stack([count * (size > 0) for count, size in zip(counts, own, strict=True)])
        total = table.sum(0)
        all_reduce(total)
        weights = (table * sizes.size / total.clamp(min=1)).unbind()
        if table.dim() == 1:
            return weights
        for batch, shares in zip(batches, weights, strict=True):
            batch['shares'] = shares
        return [1.0] * len(batches)

    def _note_skipped(self, idx: int, ids: list[list[str]], losses: list[float]) -> None:
        """Log and list the samples of a step that was left out, of all ranks. Stop after too many in a row."""
        self._skipped_in_a_row += 1
        count = self.runner.message_hub.get_info('skipped_steps', 0) + 1
        self.runner.message_hub.update_info('skipped_steps', count)
        parts = [part for rank in all_gather_object([*zip(losses, ids, strict=True)]) for part in rank]
        lines = [f'loss {loss}: {", ".join(names)}' for loss, names in parts if not math.isfinite(loss)]
        lines = lines or [f'loss {loss}, gradient not finite: {", ".join(names)}' for loss, names in parts]
        place = f'epoch {self.epoch + 1}, step {idx + 1} (iteration {self.iter + 1})'
        file = Path(self.runner.work_dir, 'skipped_steps.txt')
        if is_main_process():
            append_lines(file, (f'{place}\t{line}' for line in lines))
        self.runner.logger.warning(f'No update at {place}, {count} left out so far: {lines[0]}')
        if self._skipped_in_a_row > self.max_skipped:
            raise FloatingPointError(
                f'The loss or its gradient is not finite at {place}, {self._skipped_in_a_row} steps in a row; '
                f'train_cfg.max_skipped={self.max_skipped}. The samples are in {file}, the last good weights in '
                f'{find_latest_checkpoint(self.runner.work_dir)}. Lower optim_wrapper.optimizer.lr or set '
                f'optim_wrapper.clip_grad, and go on with {command_with("--resume")}.'
            )


class _NoData(list[dict[str, Any]]):
    """Micro-batches of zeros for a rank whose storage is away. With them it reaches the collectives of the others."""

    def __init__(self, micro_batches: list[dict[str, Any]], error: StorageAwayError) -> None:
        super().__init__(micro_batches)
        self.error = error


def _on_meta(x: Any) -> Any:
    return torch.empty_like(x, device='meta') if isinstance(x, Tensor) else x


def _zeros(x: Any) -> Any:
    return torch.zeros_like(x, device='cpu') if isinstance(x, Tensor) else x


def _read(
    logs: list[dict[str, Tensor]], weights: Sequence[float | Tensor], wrapper: Any, counts: dict[str, float]
) -> tuple[bool, dict[str, Tensor], dict[str, float]]:
    """Copy to the host: whether the step was left out, the values that it logs, and the sum of ``counts`` over ranks.

    This is the only copy in a step, because each copy waits until the device has done the whole step. The values are
    means over micro-batches and ranks, or of this rank alone if the step was left out.
    """
    parts = [torch.stack([*x.values()]).detach().float() for x in logs]  # may be in bfloat16, which has no 257
    own = torch.stack([part * weight for part, weight in zip(parts, weights, strict=True)]).mean(0)
    sums = torch.cat([own, torch.tensor([*counts.values()]).to(own, non_blocking=True)])
    all_reduce(sums)
    of_wrapper = {'skipped': wrapper.skipped, **getattr(wrapper, 'logs', {})}  # a user may have them on the host
    rest = torch.stack([torch.as_tensor(x).to(own, non_blocking=True) for x in of_wrapper.values()])
    own, means, totals, rest = torch.cat([own, sums, rest]).cpu().split([len(own), len(own), len(counts), len(rest)])
    more = dict(zip(of_wrapper, rest, strict=True))
    skipped = bool(more.pop('skipped'))
    values, more = (own, {}) if skipped else (means / get_world_size(), more)
    return skipped, dict(zip(logs[0], values, strict=True)) | more, dict(zip(counts, totals.tolist(), strict=True))


def _check_auto_scale_lr(options: Mapping[str, Any], global_batch_size: int) -> None:
    if options.get('enable', False):
        factor = global_batch_size / options.get('base_batch_size', global_batch_size)
        raise ValueError(
            'auto_scale_lr.enable=True scales by train_dataloader.batch_size, which is one micro-batch of a rank: the '
            'learning rate would depend on the machine. A step has global_batch_size='
            f'{global_batch_size} on all. Remove auto_scale_lr and multiply optim_wrapper.optimizer.lr by {factor:g}.'
        )


def _check_batch_norm(model: nn.Module, batch_sampler: Any) -> None:
    """Refuse batch norms that would see a part of a step."""
    accumulation, world_size = max(batch_sampler.accumulation), batch_sampler.world_size
    for name, module in model.named_modules():
        if not (isinstance(module, nn.modules.batchnorm._BatchNorm) and module.training):
            continue
        if accumulation == 1 and (world_size == 1 or isinstance(module, nn.SyncBatchNorm)):
            continue
        raise ValueError(
            f'model.{name} is a {type(module).__name__}, which would normalise each of {accumulation} micro-batches of '
            f'{world_size} rank(s) by itself, not the global_batch_size={batch_sampler.global_batch_size}. Set '
            f"train_dataloader.batch_size={batch_sampler.global_batch_size // world_size}, and sync_bn='torch' on "
            'several ranks; or use a norm of single samples.'
        )


def _check_mixing(model: nn.Module, dataloader: DataLoader) -> None:
    """Refuse mixing if a micro-batch has only replicas of one sample."""
    if getattr(model.data_preprocessor, 'mixing', None) is None:
        return
    dataset: Any = dataloader.dataset
    sampler: Any = dataloader.batch_sampler
    for name, source, size in zip(dataset.names, dataset.sources, sampler.batch_sizes, strict=True):
        if size <= source.replicas:
            raise ValueError(
                f'model.data_preprocessor.mixing mixes the samples of a micro-batch, and for the source {name!r} '
                f'train_dataloader.batch_size={size}, replicas={source.replicas}, leaves nothing to mix with. Set '
                f'train_dataloader.batch_size to {2 * source.replicas} or more, or mixing=None.'
            )
