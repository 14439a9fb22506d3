"""Two machines that are network namespaces, each with a rank. As root: bash tools/run_tests.sh -m netns."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tiny_run import CLASSIFY, build_runner, write_config, write_data

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.netns

# A step takes a tenth of a second, so that something can happen meanwhile; `go` in the work directory ends that.
PROBE = """
import os, time
from pathlib import Path
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from omnimae.registry import HOOKS


@HOOKS.register_module()
class SlowHook(Hook):
    def before_train_iter(self, runner, batch_idx, data_batch=None):
        file = Path(runner.work_dir, f'rank{get_rank()}')
        new = file.with_name(f'{file.name}.{os.getpid()}')
        new.write_text(f'{os.getpid()} {runner.iter}')
        new.replace(file)  # readers find it whole
        if not Path(runner.work_dir, 'go').exists():
            time.sleep(0.1)
"""


def ip(*words: str) -> None:
    subprocess.run(['ip', *words], check=True)


@pytest.fixture
def machines() -> Iterator[list[str]]:
    """Names of two namespaces with a cable between them."""
    if os.geteuid() or not shutil.which('ip'):
        pytest.fail('This needs root and iproute2: apt-get install iproute2')
    names = [f'omnimae{os.getpid()}{letter}' for letter in 'ab']
    for name in names:
        ip('netns', 'add', name)
        ip('-n', name, 'link', 'set', 'lo', 'up')
    ip('link', 'add', 'cable', 'netns', names[0], 'type', 'veth', 'peer', 'name', 'cable', 'netns', names[1])
    for number, name in enumerate(names, start=1):
        ip('-n', name, 'address', 'add', f'10.99.7.{number}/24', 'dev', 'cable')
        ip('-n', name, 'link', 'set', 'cable', 'up')
    yield names
    for name in names:
        ip('netns', 'delete', name)


class Run:
    """The training of a tiny model on two machines."""

    def __init__(self, machines: list[str], folder: Path, **env: str) -> None:
        self.machines, self.folder, self.work = machines, folder, folder / 'work'
        (folder / 'probe.py').write_text(PROBE)
        self.data = write_data(folder / 'data')
        # AdamW would divide the noise in gradients that are zero, those of the keys' biases, by itself
        self.more = "\noptim_wrapper['optimizer'] = dict(type='SGD', lr=0.1)\n"
        self.more += "default_hooks = dict(checkpoint=dict(interval=10))\ntrain_cfg['max_epochs'] = 40\n"
        hook = "custom_imports = dict(imports=['probe'])\ncustom_hooks = [dict(type='SlowHook')]\n"
        hook += 'env_cfg = dict(dist_cfg=dict(heartbeat=6))\n'
        self.config = write_config(folder / 'classify.py', CLASSIFY, self.data, self.more + hook)
        path = f'{Path(sys.executable).parent}:{os.environ["PATH"]}'
        python = dict(PYTHONPATH=f'{ROOT}:{folder}', OMP_NUM_THREADS='1', CUDA_VISIBLE_DEVICES='')
        network = dict(NNODES='2', MASTER_ADDR='10.99.7.1', PORT='29577', GLOO_SOCKET_IFNAME='cable')
        self.env = {**os.environ, 'PATH': path, **python, **network, **env}
        self.parts = [self.start(number) for number in (0, 1)]

    def start(self, number: int) -> subprocess.Popen:
        options = ['--work-dir', str(self.work), '--cfg-options', 'train_dataloader.batch_size=4']
        command = ['bash', str(ROOT / 'tools' / 'dist_train.sh'), str(self.config), '1', *options]
        shell = ['bash', '-c', 'hostname "$0" && exec "$@"', f'machine{number}', *command]
        inside = ['ip', 'netns', 'exec', self.machines[number], 'unshare', '--uts', *shell]
        env = {**self.env, 'NODE_RANK': str(number)}
        with (self.folder / f'output{number}.txt').open('a') as file:
            return subprocess.Popen(inside, env=env, stdout=file, stderr=file, start_new_session=True)

    def output(self, number: int) -> str:
        return (self.folder / f'output{number}.txt').read_text()

    def rank(self, number: int) -> tuple[int, int]:
        """Process and step."""
        file = self.work / f'rank{number}'
        process, step = (file.read_text().split() if file.exists() else []) or (0, -1)
        return int(process), int(step)

    def wait_for_step(self, step: int, seconds: float = 120) -> None:
        self.wait_until(lambda: min(self.rank(0)[1], self.rank(1)[1]) >= step, seconds)

    def wait_until(self, condition, seconds: float) -> None:
        end = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > end:
                pytest.fail('\n\n'.join(self.output(number)[-5000:] for number in (0, 1)))
            time.sleep(0.1)

    def wait_for_end(self, *codes: int) -> None:
        self.wait_until(lambda: all(part.poll() is not None for part in self.parts), 200)
        assert [part.returncode for part in self.parts] == [*codes]

    def end(self) -> None:
        for part in self.parts:
            if part.poll() is None:
                os.killpg(part.pid, signal.SIGKILL)
        for number in (0, 1):
            process = self.rank(number)[0]
            if process and Path(f'/proc/{process}').exists():
                os.kill(process, signal.SIGKILL)

    def check_weights(self) -> None:
        """They are those of a run on one machine that nothing happened to."""
        whole = build_runner(write_config(self.folder / 'one.py', CLASSIFY, self.data, self.more), self.folder / 'one')
        whole.train()
        ours = torch.load(self.work / 'epoch_40.pth', weights_only=True)['state_dict']
        for name, weight in whole.model.state_dict().items():
            torch.testing.assert_close(ours[name], weight, rtol=0, atol=1e-5)


def test_a_machine_that_is_gone_is_named_and_its_step_saved(machines: list[str], tmp_path: Path):
    run = Run(machines, tmp_path)
    try:
        run.wait_for_step(10)
        begin = time.monotonic()
        ip('-n', machines[1], 'link', 'set', 'cable', 'down')
        run.wait_until(
            lambda: 'Go on with the same command and --resume.' in run.output(0) and 'Go on with' in run.output(1), 60
        )
        seconds = time.monotonic() - begin
        assert re.search(
            r'Rank 1 of 2 on machine1 has given no sign of life for \d+ s. It last said: st', run.output(0)
        )
        assert 'Rank 0 of 2 on machine0 has not answered for 6 s, nor has the store of its machine' in run.output(1)
        run.wait_for_end(1, 1)
        ended = time.monotonic() - begin
        saved = torch.load(run.work / 'preempted.pth', weights_only=True)['meta']['iter']
        assert saved in (run.rank(0)[1], run.rank(0)[1] + 1)
        print(f'named and saved after {seconds:.0f} s with a heartbeat of 6 s, ended after {ended:.0f} s')
        # the cable is back, and both are started again by hand
        ip('-n', machines[1], 'link', 'set', 'cable', 'up')
        (run.work / 'go').touch()
        run.env['MAX_RESTARTS'] = '0'
        script = run.config.read_text()
        run.config.write_text(f'{script}\nresume = True\n')
        run.parts = [run.start(number) for number in (0, 1)]
        run.wait_for_end(0, 0)
        run.check_weights()
    finally:
        run.end()


@pytest.mark.parametrize('number', [0, 1])
def test_a_killed_rank_brings_both_machines_back(machines: list[str], tmp_path: Path, number: int):
    run = Run(machines, tmp_path, MAX_RESTARTS='2')
    try:
        run.wait_for_step(10)
        before = [run.rank(0), run.rank(1)]
        os.kill(run.rank(number)[0], signal.SIGKILL)
        run.wait_until(lambda: all(run.rank(other)[0] != before[other][0] for other in (0, 1)), 120)
        assert min(run.rank(0)[1], run.rank(1)[1]) >= before[0][1] - 1
        (run.work / 'go').touch()
        run.wait_for_end(0, 0)
        run.check_weights()
    finally:
        run.end()


def test_a_machine_that_comes_back_joins(machines: list[str], tmp_path: Path):
    """Its launcher and its rank are killed, and it is started again."""
    run = Run(machines, tmp_path, MAX_RESTARTS='2')
    try:
        run.wait_for_step(10)
        before = [run.rank(0), run.rank(1)]
        os.killpg(run.parts[1].pid, signal.SIGKILL)
        for rank in (0, 1):  # whichever is there: c10d numbers the machines
            try:
                text = Path(f'/proc/{before[rank][0]}/environ').read_text()
            except OSError:
                continue
            if 'NODE_RANK=1' in text:
                os.kill(before[rank][0], signal.SIGKILL)
        run.parts[1].wait()
        time.sleep(2)
        run.parts[1] = run.start(1)
        run.wait_until(lambda: all(run.rank(other)[0] != before[other][0] for other in (0, 1)), 180)
        (run.work / 'go').touch()
        run.wait_for_end(0, 0)
        run.check_weights()
    finally:
        run.end()


def test_a_signal_starts_nothing_again(machines: list[str], tmp_path: Path):
    run = Run(machines, tmp_path, MAX_RESTARTS='2')
    try:
        run.wait_for_step(10)
        os.kill(run.rank(1)[0], signal.SIGUSR1)
        run.wait_for_end(75, 75)
        assert (run.work / 'preempted.pth').exists()
    finally:
        run.end()
