"""Real Slurm on this machine: three nodes, each a slurmd.

As root: apt-get install slurm-wlm munge && bash tools/run_tests.sh -m slurm
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tiny_run import CLASSIFY, write_config, write_data

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.slurm

# A requeued job waits until its old credentials have expired: seconds here, two minutes by default.
CONF = """
ClusterName=test
SlurmctldHost={host}
SlurmctldPort={port}
SlurmUser=root
SlurmdUser=root
AuthInfo=socket={folder}/munge.socket,cred_expire=8
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
KillWait=20
SchedulerParameters=batch_sched_delay=1,requeue_delay=1
GresTypes=gpu
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={n1} CPUs=2 Features=old
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={n2} CPUs=2
NodeName=n3 NodeHostname={host} NodeAddr=127.0.0.1 Port={n3} CPUs=2 Gres=gpu:2
PartitionName=low Nodes=n1,n2 Default=YES State=UP PriorityTier=1
PartitionName=grace Nodes=n1,n2 State=UP PriorityTier=1 GraceTime=30
PartitionName=high Nodes=n1,n2 State=UP PriorityTier=10
PartitionName=gpu Nodes=n3 State=UP
"""

STARTED = r'(?s)rank [01] of 2.*rank [01] of 2'

# In the place of train.py: says with what it was started, and stops as train.py does.
RANK = """
import os, signal, sys, time

def save(number, frame):
    print(f'rank {rank} got {signal.Signals(number).name}', flush=True)
    time.sleep(1)
    os._exit(75)

rank = os.environ['SLURM_PROCID']
for number in (signal.SIGTERM, signal.SIGUSR1):
    signal.signal(number, save)
gpus = os.environ.get('CUDA_VISIBLE_DEVICES')
size, node = os.environ['SLURM_NTASKS'], os.environ['SLURMD_NODENAME']
print(f'rank {rank} of {size} on {node}, GPUs {gpus}: {sys.argv[1:]}', flush=True)
if 'crash' in sys.argv and rank == '1':
    time.sleep(1)
    sys.exit(1)
time.sleep(3 if '--resume' in sys.argv or 'short' in sys.argv else 300)
"""


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(('127.0.0.1', 0))
        return sock.getsockname()[1]


def call(*words: str, **options) -> str:
    return subprocess.run(words, check=True, capture_output=True, text=True, **options).stdout


@pytest.fixture(scope='module')
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cluster of three nodes; its folder. What a test has left there ends with it."""
    if os.geteuid() or not shutil.which('slurmctld') or not shutil.which('munged'):
        pytest.fail('This needs root, slurm-wlm and munge: apt-get install slurm-wlm munge')
    folder = tmp_path_factory.mktemp('slurm')
    for above in (folder, *folder.parents[:2]):
        above.chmod(0o755)  # munge lets everybody reach its socket, or nobody
    host, ports = socket.gethostname(), {name: str(free_port()) for name in ('port', 'n1', 'n2', 'n3')}
    (folder / 'slurm.conf').write_text(CONF.format(folder=folder, host=host, **ports))
    (folder / 'state').mkdir()
    for number in (0, 1):
        os.mknod(folder / f'gpu{number}', 0o600 | stat.S_IFCHR, os.makedev(1, 3))
    (folder / 'gres.conf').write_text(f'NodeName=n3 Name=gpu File={folder}/gpu[0-1]\n')
    (folder / 'munge.key').write_bytes(os.urandom(1024))
    (folder / 'munge.key').chmod(0o600)
    before = os.environ.get('SLURM_CONF')
    os.environ['SLURM_CONF'] = str(folder / 'slurm.conf')
    files = {'key-file': 'key', 'socket': 'socket', 'pid-file': 'pid', 'log-file': 'log', 'seed-file': 'seed'}
    call('munged', '--force', *(f'--{option}={folder}/munge.{name}' for option, name in files.items()))
    call('slurmctld', '-c')
    for node in ('n1', 'n2', 'n3'):
        (folder / f'spool.{node}').mkdir()
        call('slurmd', '-N', node)
    wait_until(lambda: call('sinfo', '-h', '-N', '-o', '%t', '-p', 'low,gpu').split() == ['idle'] * 3, 30)
    yield folder
    end_jobs()
    for file in [*folder.glob('*.pid')]:
        os.kill(int(file.read_text()), signal.SIGTERM)
    os.environ.pop('SLURM_CONF')
    if before:
        os.environ['SLURM_CONF'] = before


def end_jobs() -> None:
    call('scancel', '--user', 'root')
    wait_until(lambda: not job_numbers(), 60)


def wait_until(condition, seconds: float) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.2)


@pytest.fixture
def place(tmp_path: Path, cluster: Path) -> Iterator[Path]:
    """A folder with the scripts, and a stand-in for train.py and test.py."""
    (tmp_path / 'tools').mkdir()
    for script in (ROOT / 'tools').glob('slurm*.sh'):
        shutil.copy(script, tmp_path / 'tools')
    for name in ('train', 'test'):
        (tmp_path / 'tools' / f'{name}.py').write_text(RANK)
    for name in ('config.py', 'a config.py', 'a checkpoint.pth'):
        (tmp_path / name).touch()
    yield tmp_path
    end_jobs()


def environment(**more: str) -> dict[str, str]:
    env = {**os.environ, 'PATH': f'{Path(sys.executable).parent}:{os.environ["PATH"]}'}
    env.pop('CUDA_VISIBLE_DEVICES', None)  # Slurm sets it
    return {**env, 'GPUS': '2', 'CPUS_PER_TASK': '1', **more}


class Job:
    """A batch job of slurm_train.sh."""

    def __init__(self, place: Path, *words: str, partition: str = 'low', script: Path | str = '', **env: str) -> None:
        command = ['bash', script or 'tools/slurm_train.sh', partition, 'a job', 'a config.py', *words]
        said = call(*command, cwd=place, env=environment(BATCH='1', **env))
        self.number = re.match(r'Job (\d+) is queued', said)[1]
        self.file = place / 'work_dirs' / 'slurm' / f'a job-{self.number}.log'

    @property
    def log(self) -> str:
        return self.file.read_text() if self.file.exists() else ''

    def show(self, key: str) -> str:
        return re.search(rf'\b{key}=(\S*)', call('scontrol', '-o', 'show', 'job', self.number))[1]

    def wait_for(self, pattern: str, seconds: float = 60) -> None:
        try:
            wait_until(lambda: re.search(pattern, self.log), seconds)
        except AssertionError:
            pytest.fail(f'{pattern!r} did not come: {self.show("JobState")}\n{self.log}')

    def end(self, seconds: float = 60) -> str:
        wait_until(lambda: self.show('JobState') not in ('PENDING', 'RUNNING', 'COMPLETING'), seconds)
        return self.show('JobState')


def interactive(place: Path, *words: str, partition: str = 'low', **env: str) -> subprocess.Popen:
    command = ['bash', 'tools/slurm_train.sh', partition, 'a job', 'a config.py', *words]
    output = (place / 'output.txt').open('w')
    return subprocess.Popen(command, cwd=place, env=environment(**env), stdout=output, stderr=subprocess.STDOUT)


def output_of(place: Path, pattern: str) -> str:
    wait_until(lambda: re.search(pattern, (place / 'output.txt').read_text()), 60)
    return (place / 'output.txt').read_text()


def job_numbers() -> list[str]:
    return call('squeue', '-h', '-o', '%A').split()


def test_scancel_cancels_a_batch_job(place: Path):
    job = Job(place)
    job.wait_for(STARTED)
    call('scancel', job.number)
    assert job.end() == 'CANCELLED'
    assert 'rank 0 got SIGTERM' in job.log
    assert 'The job was cancelled' in job.log
    time.sleep(15)  # a requeued job would have come back
    assert job.show('JobState') == 'CANCELLED'
    assert '--resume' not in job.log.replace('with --resume', '')
    assert not [*place.glob('.slurm_train.*')]


def test_scancel_cancels_a_job_that_is_waited_for(place: Path):
    process = interactive(place)
    output_of(place, STARTED)
    [number] = job_numbers()
    call('scancel', number)
    assert process.wait(60) == 143
    output = (place / 'output.txt').read_text()
    assert 'rank 0 got SIGTERM' in output
    assert 'The job was cancelled' in output
    wait_until(lambda: not job_numbers(), 5)


def test_a_cancelled_step_is_not_queued_again(place: Path):
    job = Job(place)
    job.wait_for(STARTED)
    call('scancel', f'{job.number}.0')
    assert job.end() == 'FAILED'
    assert job.show('ExitCode') == '137:0'  # scancel kills steps at once


@pytest.mark.parametrize('signal_at', ['USR1@20', 'B:USR1@20', 'CONT@1'])
def test_a_time_limit_queues_a_batch_job_again(place: Path, signal_at: str):
    """The signal goes to the ranks, or to the batch script alone, or there is none but the SIGTERM at the limit."""
    job = Job(
        place,
        'x=two words',
        SBATCH_ARGS=f'--time {1 + signal_at.endswith("20")} --signal {signal_at} --comment "two words"',
    )
    job.wait_for(STARTED)
    assert 'two words' in call('scontrol', '-o', 'show', 'job', job.number)
    job.wait_for('rank 0 got ', 150)
    job.wait_for(r"rank 0 of 2.*'x=two words', '--resume'\]", 90)
    assert job.end() == 'COMPLETED', job.log
    assert job.show('Restarts') == '1'
    assert not [*place.glob('.slurm_train.*')]


@pytest.mark.parametrize('options', ['--time 2 --signal USR1@20', '--time 1'])
def test_a_time_limit_queues_a_job_that_is_waited_for_again(place: Path, options: str):
    process = interactive(place, SRUN_ARGS=options)
    output_of(place, STARTED)
    assert process.wait(200) == 0
    output = (place / 'output.txt').read_text()
    assert 'rank 0 got ' in output
    assert re.search(r"rank 0 of 2.*'--resume'\]", output)


@pytest.mark.parametrize('partition', ['low', 'grace'])
def test_a_preempted_batch_job_is_queued_again(place: Path, partition: str):
    """By Slurm itself, or in the grace time by us."""
    job = Job(place, partition=partition)
    job.wait_for(STARTED)
    call('srun', '-p', 'high', '-N', '2', '--exclusive', 'sleep', '4')
    job.wait_for(r"rank 0 of 2.*'--resume'\]", 90)
    assert 'rank 0 got SIGTERM' in job.log
    assert job.end() == 'COMPLETED'
    assert job.show('Restarts') == '1'


def test_a_preempted_job_that_is_waited_for_is_queued_again(place: Path):
    process = interactive(place)
    output_of(place, STARTED)
    call('srun', '-p', 'high', '-N', '2', '--exclusive', 'sleep', '4')
    assert process.wait(90) == 0
    assert re.search(r"rank 0 of 2.*'--resume'\]", (place / 'output.txt').read_text())


def test_a_failure_is_not_queued_again(place: Path):
    """One rank fails, and Slurm ends the other, which exits with 75."""
    job = Job(place, 'crash')
    assert job.end() == 'FAILED'
    assert job.show('ExitCode') in ('143:0', '1:0')
    assert interactive(place, 'crash').wait(60) in (143, 1)
    wait_until(lambda: not job_numbers(), 5)
    assert job.log.count('rank 0 of 2') == 1


def test_gpus_and_nodes(place: Path):
    job = Job(place, 'short', GPUS='3', GPUS_PER_NODE='2')
    assert job.end() == 'COMPLETED'
    assert sorted(re.findall(r'rank (\d) of 3 on (n\d), GPUs', job.log)) == [('0', 'n1'), ('1', 'n1'), ('2', 'n2')]
    job = Job(place, 'short', partition='gpu')
    assert job.end() == 'COMPLETED'
    assert job.log.count('GPUs 0,1:') == 2
    assert interactive(place, 'short', partition='gpu').wait(60) == 0
    assert (place / 'output.txt').read_text().count('GPUs 0,1:') == 2
    assert interactive(place, 'short').wait(60) == 0
    assert (place / 'output.txt').read_text().count('GPUs None:') == 2


def test_what_slurm_reads_passes_through(place: Path):
    job = Job(place, SBATCH_ACCOUNT='physics', SBATCH_CONSTRAINT='old', SBATCH_ARGS="--comment 'a b' --nice=7")
    job.wait_for(STARTED)
    assert [job.show(key) for key in ('Account', 'Features', 'Nice')] == ['physics', 'old', '7']
    call('scancel', job.number)
    process = interactive(place, SLURM_ACCOUNT='physics', SLURM_CONSTRAINT='old', SRUN_ARGS="--comment 'a b'")
    output_of(place, STARTED)
    shown = call('scontrol', '-o', 'show', 'job', job_numbers()[-1])
    assert all(part in shown for part in ('Account=physics', 'Features=old', 'Comment=a b'))
    call('scancel', job_numbers()[-1])
    process.wait(60)


def test_a_script_of_ones_own(place: Path):
    """What was allocated is taken; the script's own signals and requeue hold."""
    lines = '#!/bin/bash\n#SBATCH --ntasks 3 --nodes 2 --requeue --open-mode append --output own.log\n'
    (place / 'own.sh').write_text(f'{lines}exec bash tools/slurm_train.sh low own config.py\n')
    env = environment()
    del env['GPUS'], env['CPUS_PER_TASK']
    number = call('sbatch', '--parsable', 'own.sh', cwd=place, env=env).strip()
    log = place / 'own.log'
    wait_until(lambda: log.exists() and log.read_text().count('of 3 on') == 3, 60)
    call('scancel', '--signal', 'USR1', number)
    wait_until(lambda: log.read_text().count("'--resume']") == 3, 60)
    wait_until(lambda: 'COMPLETED' in call('scontrol', '-o', 'show', 'job', number), 60)


def test_testing(place: Path):
    command = ['bash', 'tools/slurm_test.sh', 'low', 'a job', 'a config.py', 'a checkpoint.pth', 'short']
    output = call(*command, cwd=place, env=environment(), stderr=None)
    assert output.count("'a config.py', 'a checkpoint.pth', '--launcher', 'slurm', 'short'") == 2


def test_trainings_share_a_node_and_go_on(cluster: Path, tmp_path: Path):
    """Two real jobs of two ranks each on two nodes: neither takes the other's port; one is preempted and goes on."""
    config = write_config(tmp_path / 'classify.py', CLASSIFY, write_data(tmp_path / 'data'))
    options = ['--cfg-options', 'train_dataloader.batch_size=4', 'train_cfg.max_epochs=200']
    env = dict(GPUS_PER_NODE='1', SBATCH_ARGS='--nodes 2', MASTER_ADDR='127.0.0.1')  # nobody knows n1 but Slurm
    jobs = []
    names = ('one', 'two')
    for name in names:
        (tmp_path / name).mkdir()
        words = ['bash', ROOT / 'tools' / 'slurm_train.sh', 'low', name, config, '--work-dir', 'work', *options]
        said = call(*map(str, words), cwd=tmp_path / name, env=environment(BATCH='1', **env))
        jobs.append(re.match(r'Job (\d+) is queued', said)[1])
    logs = [tmp_path / name / 'work_dirs/slurm' / f'{name}-{job}.log' for name, job in zip(names, jobs, strict=True)]
    try:
        for log in logs:
            wait_until(lambda log=log: log.exists() and re.search(r'Epoch.train. +.3.', log.read_text()), 180)
        call('scancel', '--signal', 'USR1', jobs[0])
        for log in logs:
            wait_until(lambda log=log: (log.parents[2] / 'work' / 'epoch_200.pth').exists(), 300)
    except AssertionError:
        pytest.fail('\n\n'.join(log.read_text()[-3000:] for log in logs if log.exists()))
    finally:
        end_jobs()
    assert 'Preempted: saved' in logs[0].read_text()
    assert 'resumed' in logs[0].read_text()
    weights = [torch.load(log.parents[2] / 'work' / 'epoch_200.pth', weights_only=True)['state_dict'] for log in logs]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
