"""Runs that stop early save first: on a signal, without a storage, and after the loss of other ranks."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from types import FrameType
from typing import Any

import torch
from mmengine.dist import all_reduce, get_world_size, is_main_process
from mmengine.hooks import EMAHook, Hook
from mmengine.runner import BaseLoop, Runner

from omnimae.registry import HOOKS
from omnimae.stopping import (
    INTERRUPTED,
    PREEMPTED,
    SIGNALS,
    StorageAwayError,
    WaitEnded,
    command_with,
    exit_now,
    heard,
    saved,
    saving,
    say_saving,
    storage_patience,
    watching,
)

from . import heartbeat
from .distributed import all_come, exit_together, someone_waits
from .feeding import Feed
from .hooks import Batches, Logs
from .loops import VALIDATED
from .reading import message_of
from .saving import CheckpointHook, save_preempted
from .sharding import ShardedOptimizer


@HOOKS.register_module()
class PreemptionHook(Hook):
    """Saves and ends the run on Ctrl-C, SIGTERM, SIGHUP and SIGUSR1 (Slurm's ``USR1@120``).

    A rank that gets a signal tells the others at the end of the current optimizer step or validation. All save
    ``preempted.pth`` together. The exit code is 75, after which ``slurm_train.sh`` resumes, or 130 after Ctrl-C. A
    second Ctrl-C does not wait for the end of the step.

    Waiting for data does not delay the stop. A single rank ends its wait at once. Of several ranks, one ends its wait
    after ``PATIENCE``, in which the others may finish the step with it. A validation ends at once, and the resumed run
    repeats it. If the ranks do not meet within ``PATIENCE``, because one is in a collective with another, only the main
    rank saves. If the main rank is in that collective, the RescueHook saves when the others are gone.

    A storage that does not answer ends the run in the same way. The exit code is 75, or 1 if it refuses access.
    """

    priority = 'LOWEST'  # after all other hooks of the step
    GRACE = 60.0  # seconds that a loader's worker survives SIGTERM, which clusters send to every process
    PATIENCE = 10.0  # seconds

    def __init__(self) -> None:
        self.asked = 0  # the exit code that a signal has asked this rank for
        self._before: dict[int, Any] = {}  # signal -> its handler before training
        self._loop: BaseLoop | None = None
        self._validates = self._is_stopping = False

    def before_train(self, runner: Runner) -> None:
        """Handle signals, in this process and in the loader's workers."""
        self.asked, self._validates, self._is_stopping = 0, False, False
        self._loop = runner.train_loop
        if threading.current_thread() is threading.main_thread():  # only this thread may set handlers
            self._before = {number: signal.signal(number, self._ask) for number in heard()}
            self._before[signal.SIGALRM] = signal.signal(signal.SIGALRM, self._end_wait)
            saved.set() if runner.iter else saved.clear()
            saving.set()
        for loader in [runner.train_dataloader] + ([runner.val_dataloader] if runner.val_loop is not None else []):
            loader.worker_init_fn = _SurvivingWorker(self.GRACE, loader.worker_init_fn)
            loader.timeout += storage_patience() if loader.timeout else 0

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if not watching.is_set():  # else the thread of `listen` answers, and ends the process at a second Ctrl-C
            if number == signal.SIGINT and self.asked == INTERRUPTED:
                raise KeyboardInterrupt
            say_saving(number)
        self.asked = max(self.asked, INTERRUPTED if number == signal.SIGINT else PREEMPTED)
        if not self._is_stopping:
            others = get_world_size() > 1 and not self._validates
            signal.setitimer(signal.ITIMER_REAL, self.PATIENCE if others else 0.01, 1.0)

    def _end_wait(self, number: int, frame: FrameType | None) -> None:
        feed: Feed | None = getattr(self._loop, 'feed', None)
        if self._validates or (feed is not None and feed.is_waiting):
            raise WaitEnded

    def count_step(self, runner: Runner, data_batch: Batches, counts: dict[str, float]) -> None:
        """Tell the other ranks whether this one was asked to stop (EpochTrainLoop)."""
        counts |= dict(asked_to_stop=self.asked > 0, interrupted=self.asked == INTERRUPTED)

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Batches, outputs: Logs = None) -> None:
        """Stop after this step if any rank was asked to."""
        counts = runner.train_loop.counts
        if counts['asked_to_stop']:
            self._stop(runner, INTERRUPTED if counts['interrupted'] else PREEMPTED, step_is_over=True)

    def before_val_epoch(self, runner: Runner) -> None:
        """From now on signals end the validation."""
        self._validates = bool(self._before)

    def after_val_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Leave the validation if another rank does. After its last batch, all ranks finish it together."""
        if batch_idx + 1 == len(runner.val_dataloader):
            self._validates = False
        elif self._validates and someone_waits():
            raise WaitEnded

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Stop after this validation if any rank was asked to."""
        self._validates = False
        if self._loop is not None:  # else this is Runner.val() alone
            code = torch.tensor(float(self.asked))
            all_reduce(code, 'max')
            if code:
                self._stop(runner, int(code))

    def stop_waiting(self, runner: Runner) -> None:
        """Stop between two steps, while the data of the next are awaited, or in a validation (EpochTrainLoop)."""
        self._stop(runner, self.asked or PREEMPTED, meet=True)

    def stop_away(self, runner: Runner, error: StorageAwayError) -> None:
        """Stop because a storage does not answer, which this rank or all know (EpochTrainLoop)."""
        self._stop(runner, error.code, meet=True, error=error)

    def stop_listening(self, runner: Runner) -> None:
        """Training has ended: restore the signals' handlers (EpochTrainLoop)."""
        saving.clear()
        if self._before:
            signal.setitimer(signal.ITIMER_REAL, 0)
        while self._before:
            signal.signal(*self._before.popitem())
        self._loop = None

    def _stop(
        self,
        runner: Runner,
        code: int,
        *,
        step_is_over: bool = False,
        meet: bool = False,
        error: StorageAwayError | None = None,
    ) -> None:
        """Save and exit. If the ranks have to ``meet`` first, but do not come, the main rank saves alone."""
        self._validates, self._is_stopping = False, True
        if self._before:
            signal.setitimer(signal.ITIMER_REAL, 0)
        together = not meet or all_come(self.PATIENCE)
        if error is not None and (is_main_process() or not together):
            runner.logger.error(message_of(error))
        if together or (is_main_process() and not isinstance(runner.optim_wrapper.optimizer, ShardedOptimizer)):
            steps = runner.iter + step_is_over
            path = save_preempted(runner, steps)
            why = 'The storage is away' if error else 'Stopped' if code == INTERRUPTED else 'Preempted'
            advice = f'Go on with {command_with("--resume")}.'
            runner.logger.info(f'{why}: saved {path} after {steps} steps, the exit code is {code}. {advice}')
        for number in self._before.keys() - {signal.SIGINT}:  # the first rank to leave may make the launcher end others
            signal.signal(number, signal.SIG_IGN)
        runner.visualizer.close()
        if together:
            exit_together(code)
        exit_now(code)


class _SurvivingWorker:
    """Start a worker so that it survives SIGTERM for ``seconds``, unless its parent sends it.

    The worker ignores the other signals that ask for a stop.
    """

    def __init__(self, seconds: float, then: Callable[[int], None] | None) -> None:
        self.seconds, self.then = seconds, then

    def __call__(self, worker: int) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
        for number in SIGNALS:
            if number != signal.SIGTERM:
                signal.signal(number, signal.SIG_IGN)
        # multiprocessing's thread that hands tensors to the parent prints a traceback if the parent ends meanwhile
        sys.excepthook = lambda *_: None
        threading.Thread(target=self._wait, daemon=True).start()
        if self.then is not None:
            self.then(worker)

    def _wait(self) -> None:
        parent, seconds = os.getppid(), self.seconds
        received: signal.struct_siginfo | None = signal.sigwaitinfo([signal.SIGTERM])
        while received is not None and received.si_pid != parent and seconds > 0:
            begin = time.monotonic()
            received = signal.sigtimedwait([signal.SIGTERM], seconds)
            seconds -= time.monotonic() - begin
        os._exit(0)


@HOOKS.register_module()
class RescueHook(Hook):
    """Saves ``preempted.pth`` when other ranks are dead, late for too long, or failed. See `Heartbeat`.

    Each rank has the whole model and optimizer, so any living rank can save them. It saves the state after the last
    complete update. A thread does this while the main thread waits for the lost ranks. On a GPU it uses its own stream,
    because the main stream waits as well.
    """

    priority = 'VERY_LOW'  # before and after a validation: after EMAHook and before CheckpointHook

    def __init__(self) -> None:
        self.updating = threading.Lock()
        self.updates = self._before = 0  # of the optimizer: so far, and before this step
        self._step = -1
        self._is_validating = False
        self._updated: torch.cuda.Event | None = None

    def before_train(self, runner: Runner) -> None:
        """Register with the heartbeat, and note each update of the weights."""
        self.runner = runner
        if heartbeat.current is None:
            return
        optimizer = runner.optim_wrapper.optimizer
        optimizer.register_step_pre_hook(lambda *_: self.updating.acquire() and None)
        optimizer.register_step_post_hook(lambda *_: self._note_update())
        heartbeat.current.exit_code, heartbeat.current.rescue = self._exit_code, self.save
        heartbeat.current.step = runner.iter + 1

    def _exit_code(self) -> int:
        asked = any(hook.asked for hook in self.runner.hooks if isinstance(hook, PreemptionHook))
        return PREEMPTED if asked else 1

    def _note_update(self) -> None:
        self.updates += 1
        if torch.cuda.is_available():
            self._updated = torch.cuda.Event()
            self._updated.record()
        self.updating.release()

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Note the counts before the step."""
        if heartbeat.current is None:
            return
        self._before, self._step = self.updates, runner.iter
        self._averaged = {hook: hook.ema_model.steps.clone() for hook in self._ema_hooks()}  # without a wait

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
        """Save the state after the last complete step. Any thread of any rank may call this.

        Raises:
            RuntimeError: this rank has only a part of the state, or is in the middle of an update.
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
            # in a validation, and while the rank waits for data, the step is counted already
            is_updated = runner.iter == self._step and self.updates > self._before
            step_is_over = is_updated and (self._updated is None or self._wait_for_update())
            if step_is_over:
                self._complete_step()
            for hook in runner.hooks:
                if isinstance(hook, CheckpointHook):
                    hook.check_finite(runner)
            if self._is_validating:
                runner.message_hub.update_info(VALIDATED, 0)  # --resume repeats it
            return save_preempted(runner, runner.iter + step_is_over, alone=True)

    def _wait_for_update(self) -> bool:
        """Whether the GPU has updated the weights. If not, it still waits for other ranks."""
        assert self._updated is not None
        done = threading.Event()
        for _ in range(100):
            if self._updated.query() or done.wait(0.1):
                return True
        return False

    def _complete_step(self) -> None:
        """Do what the hooks do after the update, unless they have done it."""
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
