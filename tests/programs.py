"""Programs in processes that are forked from one that has imported torch and MMEngine, which takes seconds.

Each of them imports this package anew and has a state of its own, as if it were started by a user.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch.distributed import TCPStore

ROOT = Path(__file__).parents[1]
TOOLS = ROOT / 'tools'
FORKED = multiprocessing.get_context('forkserver')
# setuptools has pkg_resources, which MMEngine imports; its visualizer imports matplotlib.
FORKED.set_forkserver_preload(
    ['mmengine.runner', 'torch.utils.tensorboard', 'torchvision', 'av', 'cv2', 'matplotlib.pyplot', 'setuptools']
)


@atexit.register
def _end_all() -> None:
    """Leave nothing of a failed test, for which this process would wait."""
    for process in multiprocessing.active_children():
        if isinstance(process, FORKED.Process):
            process.kill()


def environment(**more: str) -> dict[str, str]:
    """Of a program of this repository that is run by the python that runs the tests."""
    path = f'{Path(sys.executable).parent}:{os.environ["PATH"]}'
    return {**os.environ, 'PATH': path, 'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '1', **more}


class Program:
    """``python SCRIPT WORDS``, or a function, in a process of its own, with what `subprocess.Popen` has of it.

    Args:
        what: a script, or a function of a module.
        words: its arguments.
        output: folder of the files ``stdout`` and ``stderr``, which hold what it says.
        env: the whole environment.
        cwd: folder in which it runs.
    """

    def __init__(
        self, what: Path | Callable, *words: Any, output: Path, env: dict[str, str] | None = None, cwd: Path = ROOT
    ) -> None:
        output.mkdir(parents=True, exist_ok=True)
        self.output, self.args = output, (what, *words)
        for name in ('stdout', 'stderr'):
            (output / name).write_text('')
        env = environment() if env is None else env
        self._process = FORKED.Process(target=_run, args=(what, words, output, env, cwd))
        self._process.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float = 300.0) -> int:
        self._process.join(timeout)
        if self._process.exitcode is None:
            self.send_signal(signal.SIGKILL)
            raise subprocess.TimeoutExpired(self.args, timeout, self.said('stdout'), self.said('stderr'))
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def said(self, where: str) -> str:
        return (self.output / where).read_text()

    def completed(self) -> subprocess.CompletedProcess:
        return subprocess.CompletedProcess(self.args, self.wait(), self.said('stdout'), self.said('stderr'))


def _run(what: Path | Callable, words: tuple, output: Path, env: dict[str, str], folder: Path) -> None:
    for number, name in ((1, 'stdout'), (2, 'stderr')):
        os.dup2(os.open(output / name, os.O_WRONLY | os.O_APPEND), number)
    os.setpgid(0, 0)
    multiprocessing.set_start_method(None, force=True)
    os.environ.clear()
    os.environ.update(env)
    os.chdir(folder)
    sys.path[:0] = filter(None, env.get('PYTHONPATH', '').split(os.pathsep))
    if callable(what):
        what(*words)
    else:
        sys.path.insert(0, str(what.absolute().parent))
        sys.argv = [*map(str, (what, *words))]
        runpy.run_path(str(what), run_name='__main__')


def run_program(what: Path | Callable, *words: Any, **options: Any) -> subprocess.CompletedProcess:
    """Run a `Program` to its end."""
    return Program(what, *words, **options).completed()


def command(what: Path, *words: Any, **options: Any) -> str:
    """Run a `Program` that ends well; returns what it says."""
    result = run_program(what, *words, **options)
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout + result.stderr


def start_ranks(
    what: Path | Callable, *words: Any, output: Path, env: dict[str, str] | None = None, cwd: Path = ROOT
) -> list[Program]:
    """Start two ranks, as torchrun would; scripts need ``--launcher pytorch``."""
    store = TCPStore('127.0.0.1', 0, None, True, wait_for_workers=False)
    env = {**(environment() if env is None else env), 'WORLD_SIZE': '2', 'LOCAL_WORLD_SIZE': '2'}
    env |= dict(MASTER_ADDR='127.0.0.1', MASTER_PORT=str(store.port), TORCHELASTIC_USE_AGENT_STORE='True')
    ranks = [
        Program(what, *words, output=output / f'rank{rank}', env=env | {'RANK': rank, 'LOCAL_RANK': rank}, cwd=cwd)
        for rank in '01'
    ]
    ranks[0].store = store  # it lives as long as they do
    return ranks


def run_ranks(what: Path | Callable, *words: Any, **options: Any) -> list[subprocess.CompletedProcess]:
    """Run two ranks to their ends."""
    ranks = start_ranks(what, *words, **options)
    return [rank.completed() for rank in ranks]
