"""What training has come to is saved when other ranks are lost."""

from __future__ import annotations

import threading
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from mmengine.hooks import EMAHook, Hook
from mmengine.runner import Runner

from omnimae.registry import HOOKS
from omnimae.stopping import PREEMPTED

from . import heartbeat
from .compat import save_alone
from .loops import VALIDATED
from .saving import CheckpointHook, PreemptionHook, save_preempted, take_own_weights
from .sharding import ShardedOptimizer


@HOOKS.register_module()
class RescueHook(Hook):
    """Saves ``preempted.pth`` when other ranks are dead, late for too long, or failed; see `Heartbeat`.

    Each rank has the whole model and optimizer, so one that lives can save them: the state after the last step whose
    update is complete. A thread does so while the main one waits for ranks that will not come. On a GPU it has a stream
    of its own, because the main one waits, too.
    """

    # After EMAHook and before CheckpointHook in what comes before and after a validation.
    priority = 'VERY_LOW'

    def __init__(self) -> None:
        self.updating = threading.Lock()
        self.updates = self._before = 0  # of the optimizer; until this step began
        self._step = -1
        self._is_validating = False
        self._updated: torch.cuda.Event | None = None

    def before_train(self, runner: Runner) -> None:
        """Note each update of the weights, and be ready."""
        self.runner = runner
        if heartbeat.current is None:
            return
        optimizer = runner.optim_wrapper.optimizer
        optimizer.register_step_pre_hook(lambda *_: self.updating.acquire() and None)
        optimizer.register_step_post_hook(lambda *_: self._note_update())
        heartbeat.current.exit_code, heartbeat.current.rescue = self._exit_code, self.save
        heartbeat.current.step = runner.iter + 1

    def _exit_code(self) -> int:
        asked = any(hook.was_asked for hook in self.runner.hooks if isinstance(hook, PreemptionHook))
        return PREEMPTED if asked else 1

    def _note_update(self) -> None:
        self.updates += 1
        if torch.cuda.is_available():
            self._updated = torch.cuda.Event()
            self._updated.record()
        self.updating.release()

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Note the state before the step."""
        if heartbeat.current is None:
            return
        self._before, self._step = self.updates, runner.iter
        self._averaged = {hook: hook.ema_model.steps.clone() for hook in self._ema_hooks()}  # on its device: no wait

    def _after_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None, mode: str = 'train'
    ) -> None:
        if heartbeat.current is not None:
            heartbeat.current.progress += 1
            heartbeat.current.step += mode == 'train'

    def before_val_epoch(self, runner: Runner) -> None:
        """The model may have averaged weights from now on."""
        self._is_validating = True

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """It has its own again."""
        self._is_validating = False

    def on_error(self, runner: Runner, error: Exception) -> None:
        """Training ends with an error (EpochTrainLoop)."""
        if heartbeat.current is not None:
            heartbeat.current.fail(error)

    def stop_listening(self, runner: Runner) -> None:
        """Training is over."""
        if heartbeat.current is not None:
            heartbeat.current.rescue = None

    def save(self) -> str:
        """Save the state after the last complete step; called from any thread, on any rank.

        Raises:
            RuntimeError: this rank has not all of it, or is in the middle of an update.
            FloatingPointError: the weights are not finite.
        """
        runner = self.runner
        if isinstance(runner.optim_wrapper.optimizer, ShardedOptimizer):
            raise RuntimeError("each rank has a part of the optimizer's state (optim_wrapper.shard).")
        if self._is_validating and not all(hasattr(hook, 'is_swapped') for hook in self._ema_hooks()):
            raise RuntimeError('during a validation the model has the averaged weights of an EMAHook that is not ours.')
        if not self.updating.acquire(timeout=60):
            raise RuntimeError('the weights were being updated.')
        with _own_stream():
            # in a validation, or where it waits for data, the step is counted already
            is_updated = runner.iter == self._step and self.updates > self._before
            step_is_over = is_updated and (self._updated is None or self._wait_for_update())
            if step_is_over:
                self._complete_step()
            for hook in runner.hooks:
                if isinstance(hook, CheckpointHook):
                    hook.check_finite(runner)
            take_own_weights(runner)
            if self._is_validating:
                runner.message_hub.update_info(VALIDATED, 0)  # again, after --resume
            return save_preempted(runner, partial(save_alone, runner), runner.iter + step_is_over)

    def _wait_for_update(self) -> bool:
        """Whether the GPU has updated the weights; if not, it waits for other ranks before it does."""
        assert self._updated is not None
        done = threading.Event()
        for _ in range(100):
            if self._updated.query() or done.wait(0.1):
                return True
        return False

    def _complete_step(self) -> None:
        """Do what the hooks would have done after the update, if they have not."""
        for scheduler in self.runner.param_schedulers or []:
            if not scheduler.by_epoch and scheduler.last_step == self.runner.iter:
                scheduler.step()
        for hook in self._ema_hooks():
            if hook.ema_model.steps.item() == self._averaged[hook].item():
                hook.after_train_iter(self.runner, 0)

    def _ema_hooks(self) -> list[EMAHook]:
        return [hook for hook in self.runner.hooks if isinstance(hook, EMAHook)]


def _own_stream() -> AbstractContextManager:
    return torch.cuda.stream(torch.cuda.Stream()) if torch.cuda.is_available() else nullcontext()
