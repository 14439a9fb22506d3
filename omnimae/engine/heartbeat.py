"""Ranks watch each other, name late or dead ones, and save before they end.

PyTorch's time-outs come after 10 to 30 minutes and name no rank. NCCL's end the process at once. Here a thread of each
rank writes a sign of life to the process group's store, with the activity of the main thread. The main rank reads all
of them. The others read that of the main rank, and all of them if it is silent. This tells a rank that was killed or
stopped, or whose machine is gone, from one that validates, compiles or saves for a long time.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import threading
import time
import traceback
from collections.abc import Callable, Collection
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

from mmengine.logging import print_log
from torch import distributed as dist
from torch.distributed import Store

from omnimae.meeting import connect
from omnimae.stopping import command_with, exit_now

PACKAGE = str(Path(__file__).parents[1])
# file, function -> activity of a rank
ACTIVITIES = {
    ('omnimae/engine/feeding.py', '_wait_for_step'): 'waits for data',
    ('omnimae/engine/loops.py', 'run_iter'): 'trains',
    ('omnimae/engine/loops.py', '_validate_if_due'): 'validates',
    ('mmengine/runner/runner.py', 'test'): 'evaluates',
    ('mmengine/runner/runner.py', 'save_checkpoint'): 'saves a checkpoint',
    ('mmengine/runner/runner.py', 'load_or_resume'): 'loads a checkpoint',
}
# Functions in which a rank may wait for others. With NCCL the host waits for its GPU, which waits for the others.
WAITS = {
    ('torch/distributed/distributed_c10d.py', ''),
    ('torch/autograd/graph.py', '_engine_run_backward'),
    ('omnimae/engine/loops.py', '_read'),
    ('omnimae/engine/optim.py', '_update'),
}


class Heartbeat:
    """Signs of life of this rank, and a watch over those of the others.

    A rank without a sign of life for ``silence`` seconds is dead. A rank that others wait for is late. It is named
    after the same time, and given up after ``patience``. The rank that finds this out writes a verdict to the store.
    Then all end: the first living rank saves, and the others wait for it. A process that was itself stopped does not
    count the time that it missed.

    Args:
        rank: of this process.
        hosts: of all ranks.
        silence: seconds.
        patience: seconds.

    Attributes:
        rescue: saves the training and returns the path. None if there is nothing to save.
        exit_code: of a rank that ends because it lost others.
        step: of training, counted from 1; 0 before training.
        progress: a number that changes while the rank makes progress.
    """

    def __init__(self, rank: int, hosts: list[str], *, silence: float, patience: float) -> None:
        self.rank, self.hosts, self.silence, self.patience = rank, hosts, silence, patience
        self.interval = min(2.0, silence / 10)
        self.rescue: Callable[[], str | None] | None = None
        self.exit_code: Callable[[], int] = lambda: 1
        self.step = self.progress = 0
        self.watches_all = rank == 0
        self.over = threading.Event()
        self.leaving = threading.Lock()
        self.verdict: dict[int, str] = {}
        self.beats: dict[int, list[Any]] = {}  # rank -> number, activity, whether it waits, seconds at one place
        now = time.monotonic()
        self.answered = now  # time of the store's last answer
        self.seen = dict.fromkeys(range(len(hosts)), now)  # rank -> time of its last new sign
        self._mark, self._looked, self._seconds = (0, 0, 0), now, 0.0  # at one place
        self._reported: dict[int, float] = {}

    def start(self) -> None:
        """Start both threads."""
        for target in (self._beat, self._judge):
            threading.Thread(target=target, daemon=True, name=f'heartbeat{target.__name__}').start()

    def stop(self) -> None:
        """Stop watching: from now on ranks may end."""
        self.over.set()

    def _connect(self) -> Store:
        return connect(self.silence)  # the process group's connection may be busy for minutes

    # The thread that talks to the store, and may wait for it.

    def _beat(self) -> None:
        try:
            store, number = self._connect(), 0
            while not self.over.wait(self.interval if number else 0):
                number += 1
                store.set(f'beat/{self.rank}', json.dumps([number, *self._look()]))
                now = time.monotonic()
                self.watches_all |= now - self.seen[0] > self.silence / 2
                for rank in range(len(self.hosts)) if self.watches_all else [0]:
                    self._read(store, rank, now)
                if store.check(['verdict']):
                    self.verdict = {int(rank): text for rank, text in json.loads(store.get('verdict')).items()}
                self.answered = time.monotonic()
        except RuntimeError:  # the process that has the store is gone
            self.answered = -float('inf')

    def _read(self, store: Store, rank: int, now: float) -> None:
        if not store.check([f'beat/{rank}']):
            return
        beat = json.loads(store.get(f'beat/{rank}'))
        if rank not in self.beats or self.beats[rank][0] != beat[0]:
            self.seen[rank] = now
        self.beats[rank] = beat

    def _look(self) -> tuple[str, bool, float]:
        """What the main thread does, whether it may wait for other ranks, and for how many seconds so far."""
        main = sys._current_frames().get(threading.main_thread().ident or 0)
        frames = [frame for frame, _ in traceback.walk_stack(main)] if main is not None else []
        names = [(frame.f_code.co_filename, frame.f_code.co_name) for frame in frames]
        doing = next((text for name in names for place, text in ACTIVITIES.items() if _is(place, name)), 'is busy')
        waits = any(_is(place, name) for name in names for place in WAITS)
        mark = hash(tuple((id(frame), frame.f_lasti) for frame in frames)), _collectives(), self.progress
        now = time.monotonic()
        passed, self._looked = min(now - self._looked, self.silence / 4), now  # time in which it was stopped is no wait
        self._seconds = self._seconds + passed if mark == self._mark else 0.0
        self._mark = mark
        own = [frame for frame in frames if frame.f_code.co_filename.startswith(PACKAGE)] or frames
        place = f'{Path(own[0].f_code.co_filename).name}:{own[0].f_lineno}' if own else 'at its end'
        step = f'step {self.step}: ' * bool(self.step)
        others = ' and may wait for other ranks' * waits
        return f'{step}{doing}{others} ({place})', waits, self._seconds

    # The thread that judges. It never waits for the store.

    def _judge(self) -> None:
        before = time.monotonic()
        pause = min(1.0, self.interval)
        while not self.over.wait(pause):
            now = time.monotonic()
            if now - before > pause + self.silence / 4:  # this process was stopped, and perhaps all were
                self.answered, self.seen = now, dict.fromkeys(self.seen, now)
            before = now
            lost = self.verdict or self._lost(now)
            if lost and not self.over.wait(1.0):  # at the end of a run the main rank may end a moment before this one
                self.leave(lost)

    def _lost(self, now: float) -> dict[int, str]:
        if now - self.answered > self.silence:
            silent = '' if self.answered < 0 else f' for {self.silence:g} s'
            return {0: self._about(0, f'has not answered{silent}, nor has the store of its machine')}
        if self.rank and now - self.seen[0] <= self.silence:
            return {}
        dead = {rank: now - seen for rank, seen in self.seen.items() if now - seen > self.silence and rank != self.rank}
        if dead:
            limit = self.silence / 3  # after the main rank fell silent, the others were watched no longer than this
            dead = {rank: now - seen for rank, seen in self.seen.items() if now - seen > limit and rank != self.rank}
            why = 'has given no sign of life for'
            return {rank: self._about(rank, f'{why} {seconds:.0f} s') for rank, seconds in dead.items()}
        return self._late(now)

    def _late(self, now: float) -> dict[int, str]:
        """Log the late ranks. Returns those that are late for more than ``patience``."""
        waiting = {rank: seconds for rank, (_, _, waits, seconds) in self.beats.items() if waits}
        longest = max(waiting.values(), default=0.0)
        if longest <= self.silence:
            self._reported = {}
            return {}
        late = [rank for rank in self.beats if rank not in waiting]
        is_apart = len({does for _, does, _, _ in self.beats.values()}) > 1
        for rank in late or (waiting if is_apart else ()):
            if longest > 2 * self._reported.get(rank, 0.0):
                self._reported[rank] = longest
                why = f'is late: for {longest:.0f} s {len(waiting)} rank(s) have waited for it'
                apart = f'waits for others, and others wait elsewhere, for {waiting.get(rank, 0.0):.0f} s'
                message = f'{self._name(rank)} {why if late else apart}'
                print_log(self._about(rank, message), 'current', logging.WARNING)
        if longest <= self.patience:
            return {}
        if late:
            return {rank: self._about(rank, f'has been waited for, for {longest:.0f} s') for rank in late}
        return {rank: self._about(rank, f'waits, as all do, for {seconds:.0f} s') for rank, seconds in waiting.items()}

    def _name(self, rank: int) -> str:
        return f'Rank {rank} of {len(self.hosts)} on {self.hosts[rank]}'

    def _about(self, rank: int, why: str) -> str:
        last = f'It last said: {self.beats[rank][1]}' if rank in self.beats else 'It has said nothing yet'
        return f'{why}. {last}.'

    def fail(self, error: BaseException) -> None:
        """Handle an error of this rank.

        If it is the loss of another rank (see `is_loss`), this does not return. Otherwise it tells the other ranks.
        """
        if not is_loss(error):
            self.stop()
            self._tell({self.rank: f'failed: {type(error).__name__}: {error}.'})
            return
        now = time.monotonic()
        self.watches_all = True
        end = now + 3 * self.interval + 1.0
        while time.monotonic() < end and not self.verdict and self.answered > 0:
            time.sleep(0.1)
        silent = [rank for rank, seen in self.seen.items() if seen < now + self.interval and rank != self.rank]
        lost = self.verdict or {rank: self._about(rank, 'has gone') for rank in silent}
        self.leave(lost if self.answered > 0 else {0: self._about(0, 'has gone')}, error)

    def leave(self, lost: dict[int, str], error: BaseException | None = None) -> None:
        """Log the lost ranks, save or wait until another rank has saved, and end this process.

        Args:
            lost: rank -> what is wrong with it.
            error: that showed the loss.
        """
        with self.leaving:  # never released
            if not self.verdict:
                self._tell(lost)
            lines = [f'{self._name(rank)} {why}' for rank, why in lost.items()]
            lines += [f'What showed it: {error}'] * (error is not None)
            is_late = {*lost} >= {*range(len(self.hosts))}  # all wait: no rank is lost, but none continues
            has_store = self.answered > 0 and time.monotonic() - self.answered < self.silence
            if self.rank in lost and not is_late and has_store:  # without a store the launcher is gone
                lines.append('This is that rank: the others went on without it.')
            elif self.rank in self._savers({} if is_late else lost, has_store) and self.rescue is not None:
                lines.append(self._save())
                self._tell({}, 'rescued')
            elif self.rescue is not None:
                self._wait_for_rescue(has_store)
            print_log('\n'.join(lines), 'current', logging.ERROR)
            exit_now(self.exit_code())

    def _savers(self, lost: Collection[int], has_store: bool) -> set[int]:
        """The first living rank. Without the store that is unknown: ranks 0 and 1, and the first on another machine."""
        ranks = range(len(self.hosts))
        if has_store:
            return {next(rank for rank in ranks if rank not in lost)}
        return {0, 1, next((rank for rank in ranks if self.hosts[rank] != self.hosts[0]), 0)}

    def _save(self) -> str:
        assert self.rescue is not None
        again = command_with('--resume')
        end = time.monotonic() + 600
        while 'saves a checkpoint' in self._look()[0] and time.monotonic() < end:  # by the main thread
            time.sleep(0.5)
        try:
            path = self.rescue()
        except Exception as error:  # the log still has to say why all ranks end
            return f'Nothing was saved: {type(error).__name__}: {error} Go on from the last checkpoint with {again}.'
        return 'Nothing new was to be saved.' if path is None else f'Saved {path}. Go on with {again}.'

    def _wait_for_rescue(self, has_store: bool) -> None:
        """Wait for the rank that saves, because the launcher ends all ranks when the first one ends."""
        if not has_store:
            time.sleep(min(60.0, self.silence))
            return
        with suppress(RuntimeError):
            self._connect().wait(['rescued'], timedelta(seconds=5 * self.silence))

    def _tell(self, lost: dict[int, str], key: str = 'verdict') -> None:
        """Write to the store, without waiting for long if it does not answer."""

        def tell() -> None:
            with suppress(RuntimeError):
                self._connect().set(key, json.dumps(lost))

        thread = threading.Thread(target=tell, daemon=True)
        thread.start()
        thread.join(5.0)


def is_loss(error: BaseException) -> bool:
    """Whether an error of gloo or NCCL says that other ranks cannot be reached."""
    names = r'\b(gloo\b|nccl|processgroup)'  # not 'igloos.jpg'
    return isinstance(error, RuntimeError) and bool(re.search(names, str(error), re.IGNORECASE))


def _is(place: tuple[str, str], name: tuple[str, str]) -> bool:
    return name[0].endswith(place[0]) and place[1] in ('', name[1])


def _collectives() -> int:
    """The number of collectives that this rank has begun."""
    try:
        group: Any = dist.distributed_c10d._get_default_group()
        return group._get_sequence_number_for_group()
    except (RuntimeError, ValueError):  # there is no group, or it does not count
        return 0


current: Heartbeat | None = None  # of this process


def begin(rank: int, hosts: list[str], *, silence: float, patience: float) -> None:
    """Start the heartbeat of this process."""
    global current
    current = Heartbeat(rank, hosts, silence=silence, patience=patience)
    current.start()


def end() -> None:
    """Stop the heartbeat of this process: from now on ranks may end."""
    if current is not None:
        current.stop()
