"""Ranks and machines that meet, start again, and are missed; Slurm's scripts with stand-ins (tests/test_slurm.py)."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner
from programs import ROOT, TOOLS, environment
from safetensors.torch import load_file
from tiny_run import CLASSIFY, COUNTED, PRETRAIN, build_runner, write_config, write_data
from torch.distributed import HashStore, TCPStore

from omnimae.engine import folder, heartbeat
from omnimae.engine.distributed import _translate_slurm
from omnimae.engine.heartbeat import Heartbeat
from omnimae.meeting import ROUND, connect, meet, unreachable
from omnimae.registry import HOOKS


def load_launch() -> ModuleType:
    spec = importlib.util.spec_from_file_location('launch', TOOLS / 'launch.py')
    launch = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(launch)
    return launch


# Slurm's scripts


@pytest.fixture
def slurm(tmp_path: Path) -> Path:
    """A folder with stand-ins that note their arguments, one a line; srun exits with the next of `codes`."""
    stand_ins = {
        'srun': 'code=$(head -n1 codes); sed -i 1d codes; while (($#)) && [[ $1 != rank ]]; do shift; done; '
        'cat signals >>"$2" 2>/dev/null; rm -f signals; exit "$code"',
        'sinfo': '[[ $* == *%R* ]] && printf "low\\ngpu\\n" || cat gres',
        'sbatch': 'cat >script.sh; echo 12',
        'scontrol': '[[ $1 == requeue ]] || cat job',
        'scancel': '',
    }
    for name, what in stand_ins.items():
        (tmp_path / name).write_text(f'#!/usr/bin/env bash\nprintf "%s\\n" "{name}" "$@" >>{name}.txt\n{what}\n')
        (tmp_path / name).chmod(0o755)
    (tmp_path / 'gres').write_text('(null)\n')
    (tmp_path / 'job').write_text('JobId=12 Restarts=0 RunTime=00:00:09 TimeLimit=1-00:00:00 PreemptTime=N\n')
    (tmp_path / 'codes').write_text('0\n')
    for name in ('config.py', 'a config.py', 'a checkpoint.pth'):
        (tmp_path / name).touch()
    return tmp_path


def submit(folder: Path, *words: str, script: str = 'slurm_train.sh', **env: str) -> subprocess.CompletedProcess:
    env = environment(**env)
    env['PATH'] = f'{folder}:{env["PATH"]}'
    command = ['bash', str(TOOLS / script), 'gpu', 'a job', 'a config.py', *words]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)


def arguments(folder: Path, name: str = 'srun') -> list[str]:
    return (folder / f'{name}.txt').read_text().splitlines()


def value(words: list[str], option: str) -> str:
    return words[words.index(option) + 1]


@pytest.mark.parametrize(
    ('env', 'gres', 'expected'),
    [
        ({}, 'gpu:8', ('8', '8', 'gpu:8')),
        ({'GPUS': '2'}, 'gpu:8', ('2', '2', 'gpu:2')),
        ({'GPUS': '16'}, 'gpu:a100:8(S:0-1)', ('16', '8', 'gpu:8')),
        ({'GPUS': '2'}, '(null)', ('2', '2', None)),
        ({'GPUS': '6', 'GPUS_PER_NODE': '4'}, 'gpu:4', ('6', '4', 'gpu:4')),
        ({'SLURM_JOB_ID': '3', 'SLURM_NTASKS': '6', 'SLURM_JOB_NUM_NODES': '2'}, 'gpu:4', ('6', '3', None)),
        ({'SLURM_JOB_ID': '3', 'SLURM_GPUS_ON_NODE': '4', 'SLURM_JOB_NUM_NODES': '2'}, 'gpu:4', ('8', '4', None)),
        ({'SLURM_JOB_ID': '3'}, 'gpu:4', ('1', '1', None)),
        ({'GPUS': '2', 'SRUN_ARGS': '--gpus-per-task 1'}, 'gpu:4', ('2', '2', None)),
        ({'GPUS': '2', 'SRUN_ARGS': '--gres=gpu:a100:2'}, 'gpu:4', ('2', '2', None)),
    ],
)
def test_a_job_takes_what_it_needs(slurm: Path, env: dict[str, str], gres: str, expected: tuple):
    (slurm / 'gres').write_text(f'{gres}\n')
    assert submit(slurm, **env).returncode == 0
    words = arguments(slurm)
    assert (value(words, '--ntasks'), value(words, '--ntasks-per-node')) == expected[:2]
    assert ('--gres' in words and value(words, '--gres')) == (expected[2] or False)
    assert ('--cpus-per-task' in words) == ('SLURM_JOB_ID' not in env)  # a step has those of its allocation


def test_arguments_with_spaces_pass_through(slurm: Path):
    submit(slurm, 'x=a b', SRUN_ARGS='--qos long --comment "two words" --x=$HOME')
    words = arguments(slurm)
    assert [value(words, '--qos'), value(words, '--comment')] == ['long', 'two words']
    assert '--x=$HOME' in words  # no shell reads it
    assert words[-4:] == ['a config.py', '--launcher', 'slurm', 'x=a b']
    (slurm / 'srun.txt').unlink()
    submit(slurm, 'a checkpoint.pth', 'x=a b', script='slurm_test.sh', SRUN_ARGS='--account "my lab"')
    assert value(arguments(slurm), '--account') == 'my lab'
    assert arguments(slurm)[-5:] == ['a config.py', 'a checkpoint.pth', '--launcher', 'slurm', 'x=a b']


def test_a_batch_job_is_submitted(slurm: Path):
    result = submit(slurm, 'x=a b', BATCH='1', GPUS='2', SBATCH_ARGS='--time 24:00:00 --comment "two words"')
    assert 'Job 12 is queued. Its log will be work_dirs/slurm/a job-12.log' in result.stdout
    words = arguments(slurm, 'sbatch')
    assert [value(words, f'--{name}') for name in ('time', 'comment', 'ntasks', 'signal', 'output')] == [
        '24:00:00', 'two words', '2', 'USR1@120', 'work_dirs/slurm/a job-%j.log'
    ]  # fmt: skip
    assert '--requeue' in words
    assert (slurm / 'script.sh').read_text().endswith(r'/slurm_train.sh gpu a\ job a\ config.py x=a\ b ' + chr(10))
    assert not (slurm / 'srun.txt').exists()


def test_a_batch_job_gets_its_arguments_whole(slurm: Path):
    """Where the locale knows no ü, bash quotes it in a way that other shells do not read."""
    words = ['x=Müller', 'y=it\'s "so"', 'z=$HOME\nz']
    submit(slurm, *words, BATCH='1', LC_ALL='C')
    script = slurm / 'script.sh'
    assert script.read_text().startswith('#!/usr/bin/env bash\n')
    env = {**environment(SLURM_JOB_ID='12'), 'PATH': f'{slurm}:{environment()["PATH"]}'}
    subprocess.run(['bash', script], cwd=slurm, env=env, check=True)
    assert (slurm / 'srun.txt').read_text().endswith(''.join(f'{word}\n' for word in words))


TRAIN, TEST = 'bash slurm_train.sh gpu job', 'bash slurm_test.sh gpu job'


@pytest.mark.parametrize(
    ('words', 'message'),
    [
        ('bash slurm_train.sh', "PARTITION, JOB and CONFIG are needed, got ''."),
        (TEST, "PARTITION, JOB, CONFIG and CHECKPOINT are needed, got 'gpu job'."),
        (f'{TRAIN} a/b', "'a/b' is no file, no folder and no name of a config. It was looked for in {folder}. Give the "
         'path of a config, or a name, such as custom/pretrain.'),
        (f'{TEST} demo/mae b.pth', 'b.pth: no such checkpoint file. Give a file, an address, or the folder of a '
         'training.'),
        (f'GPUS=two {TRAIN} demo/mae', "GPUS must be a whole number of at least 1, got 'two'."),
        ('bash slurm_train.sh low,gpus job demo/mae', "There is no partition 'gpus'. Give one of this cluster as the "
         'first argument: gpu low.'),
        (f'{TRAIN} demo/mae', "GPUS=8 with GPUS_PER_NODE=8: a node of partition 'gpu' has 4 GPUs at most. Set "
         'GPUS_PER_NODE=4, or GPUS=4 for one node.'),
    ],
)  # fmt: skip
def test_a_job_that_cannot_run_is_refused_before_it_waits(slurm: Path, words: str, message: str):
    (slurm / 'gres').write_text('gpu:a:2(S:0,1),gpu:b:2\n(null)\n')
    command = [str(TOOLS / word) if word.endswith('.sh') else word for word in words.split()]
    command = ['env', f'PATH={slurm}:{environment()["PATH"]}', *command]
    result = subprocess.run(command, cwd=slurm, env=environment(), capture_output=True, text=True)
    assert result.returncode == 2
    assert result.stderr.endswith(f'{message.format(folder=slurm)}\n')
    assert not (slurm / 'srun.txt').exists()


@pytest.mark.parametrize('batch', ['', '1'])
def test_a_job_that_slurm_refuses_says_what_it_asked_for(slurm: Path, batch: str):
    for name in ('srun', 'sbatch'):
        (slurm / name).write_text('#!/usr/bin/env bash\nexit 1\n')
    result = submit(slurm, BATCH=batch, GPUS='2')
    assert result.returncode == (2 if batch else 1)
    asked = 'It was asked for: --partition gpu --job-name a job --ntasks 2 --ntasks-per-node 2 --cpus-per-task 12.'
    assert result.stderr.endswith(f'ask for less, or for another partition. {asked}\n')


@pytest.mark.parametrize('name', ['SRUN_ARGS', 'SBATCH_ARGS'])
def test_quotes_that_do_not_match_are_refused(slurm: Path, name: str):
    result = submit(slurm, **{name: '--comment "two words --time 9'})
    assert (result.returncode, arguments(slurm, 'sinfo') if (slurm / 'sinfo.txt').exists() else []) == (2, [])
    assert f'{name} has quotes that do not match: --comment "two words --time 9' in result.stderr


@pytest.mark.parametrize(
    ('limit', 'options', 'is_refused'),
    [
        ('00:02:00', '', True),
        ('00:02:00', '--signal USR1@30', False),
        ('00:05:00', '', False),
        ('1-00:00:00', '', False),
        ('UNLIMITED', '', False),
    ],
)
def test_a_batch_job_has_time_to_train(slurm: Path, limit: str, options: str, is_refused: bool):
    """The signal would come at once, each time that the job is queued again."""
    (slurm / 'job').write_text(f'JobId=12 TimeLimit={limit} \nJobId=13 TimeLimit=00:01:00 \n')
    result = submit(slurm, BATCH='1', SBATCH_ARGS=options)
    assert result.returncode == (2 if is_refused else 0)
    assert ('The time limit 00:02:00 leaves no time to train' in result.stderr) == is_refused
    assert (slurm / 'scancel.txt').exists() == is_refused


def test_the_log_of_a_job_has_a_folder(slurm: Path):
    env = {**environment(BATCH='1'), 'PATH': f'{slurm}:{environment()["PATH"]}'}
    command = ['bash', str(TOOLS / 'slurm_train.sh'), 'gpu', 'vit/b', 'config.py']
    subprocess.run(command, cwd=slurm, env=env, check=True)
    assert value(arguments(slurm, 'sbatch'), '--output') == 'work_dirs/slurm/vit/b-%j.log'
    assert (slurm / 'work_dirs' / 'slurm' / 'vit').is_dir()


@pytest.mark.parametrize('script', ['slurm_train.sh', 'slurm_test.sh'])
def test_a_copy_that_sbatch_made_says_what_to_do(slurm: Path, script: str):
    shutil.copy(TOOLS / script, slurm / 'slurm_script')
    command = ['bash', str(slurm / 'slurm_script'), 'gpu', 'job', 'config.py', 'checkpoint.pth']
    result = subprocess.run(command, cwd=slurm, capture_output=True, text=True)
    assert result.returncode == 2
    assert f'sbatch runs a copy of this script, which does not find the others. Say BATCH=1 bash tools/{script}' in (
        result.stderr
    )


JOB = 'JobId=12 Restarts={restarts} RunTime={ran} TimeLimit={limit} PreemptTime={preempted} x'


@pytest.mark.parametrize(
    ('signals', 'job', 'goes_on'),
    [
        ('USR1', {}, True),  # announces a time limit
        ('TERM', {}, False),  # scancel, or the failure of another rank
        ('', {}, True),  # to the process alone
        ('USR1\nTERM', {}, True),
        ('TERM', {'preempted': '2026-11-27T02:50:19'}, True),
        ('TERM', {'restarts': 1}, True),  # Slurm has queued it again already
        ('TERM', {'ran': '1-00:00:12'}, True),
        ('TERM', {'ran': '23:59:50'}, False),
        ('TERM', {'ran': '00:30:01', 'limit': '00:30:00'}, True),
        ('TERM', {'limit': 'UNLIMITED'}, False),
        ('TERM', {'limit': 'UNLIMITED preempted=x\nJobId=13 PreemptTime=2026-11-27T02:50:19'}, False),  # of its array
    ],
)
def test_a_cancelled_job_is_not_queued_again(slurm: Path, signals: str, job: dict[str, Any], goes_on: bool):
    shown = dict(restarts=0, ran='00:00:09', limit='1-00:00:00', preempted='None') | job
    (slurm / 'job').write_text(JOB.format(**shown))
    (slurm / 'signals').write_text(f'job 12\n{signals}\n')
    (slurm / 'codes').write_text('75\n0\n')
    result = submit(slurm)
    words = arguments(slurm)
    if goes_on:
        assert result.returncode == 0
        assert words[-1] == '--resume'
        assert words.count('srun') == 2
    else:
        assert result.returncode == 143
        assert 'not queued again' in result.stderr
        assert words.count('srun') == 1
    assert not [*slurm.glob('.slurm_train.*')]

    (slurm / 'signals').write_text(f'job 12\n{signals}\n')
    (slurm / 'codes').write_text('75\n')
    result = submit(slurm, SLURM_JOB_ID='12', ENVIRONMENT='BATCH')
    assert result.returncode == (75 if goes_on else 143)
    assert ('requeue' in arguments(slurm, 'scontrol')) == goes_on


def test_a_run_of_which_nothing_is_known_is_not_queued_again(slurm: Path):
    """Its ranks have left no note: they do not see this folder."""
    (slurm / 'codes').write_text('75\n0\n')
    assert submit(slurm).returncode == 143
    assert arguments(slurm).count('srun') == 1


def test_a_failure_is_not_queued_again(slurm: Path):
    (slurm / 'codes').write_text('1\n')
    assert submit(slurm).returncode == 1
    assert arguments(slurm).count('srun') == 1


def test_a_batch_job_that_runs_again_resumes(slurm: Path):
    submit(slurm, SLURM_JOB_ID='12', SLURM_RESTART_COUNT='1', ENVIRONMENT='BATCH')
    assert arguments(slurm)[-1] == '--resume'


def test_jobs_on_a_node_have_ports_of_their_own(monkeypatch: pytest.MonkeyPatch):
    env = dict(SLURM_PROCID='1', SLURM_NTASKS='2', SLURM_LOCALID='1', SLURM_NODELIST='n1', MASTER_ADDR='n1')

    def port(given: int | None = None, **more: str) -> int:
        monkeypatch.setattr(os, 'environ', {**env, **more})
        _translate_slurm(given)
        return int(os.environ['MASTER_PORT'])

    ports = [port(SLURM_JOB_ID=str(job), SLURM_STEP_ID=step) for job in range(9990, 10010) for step in '01']
    assert len({*ports}) == len(ports)
    assert all(1024 < number < 32768 for number in ports)  # Linux gives those above away
    assert port(SLURM_JOB_ID='123456789') == port(SLURM_JOB_ID='123456789', SLURM_STEP_ID='0')
    assert port(29501, SLURM_JOB_ID='7') == 29501
    assert port(29501, MASTER_PORT='5') == 5


@pytest.mark.parametrize(
    ('nodes', 'first'),
    [('n1', 'n1'), ('gpu[007-009,12],big1', 'gpu007'), ('a,b[1-2]', 'a'), ('r[3,5]n[01-04]-x.lab', 'r3n01-x.lab')],
)
def test_the_first_node_has_the_main_rank(monkeypatch: pytest.MonkeyPatch, nodes: str, first: str):
    """Where there is no scontrol, as in containers."""
    env = dict(SLURM_PROCID='1', SLURM_NTASKS='2', SLURM_LOCALID='1', SLURM_NODELIST='other', SLURM_STEP_NODELIST=nodes)
    monkeypatch.setattr(os, 'environ', {**env, 'SLURM_JOB_ID': '7', 'PATH': ''})
    _translate_slurm(None)
    assert os.environ['MASTER_ADDR'] == first


# torchrun


def test_machines_meet_by_the_environment(monkeypatch: pytest.MonkeyPatch):
    launch = load_launch()
    assert launch.rendezvous({}) == ['--standalone', '--max-restarts', '0']
    assert launch.rendezvous({'MAX_RESTARTS': '3'}) == ['--standalone', '--max-restarts', '3']
    two = dict(NNODES='2', NODE_RANK='1', MASTER_ADDR='127.0.0.1', PORT='29511')
    assert launch.rendezvous(two) == [
        *('--max-restarts', '0', '--nnodes', '2', '--node-rank', '1'),
        *('--master-addr', '127.0.0.1', '--master-port', '29511', '--rdzv-conf', 'timeout=120'),
    ]
    words = launch.rendezvous(two | {'MAX_RESTARTS': '2', 'MEET_TIMEOUT': '7'})
    assert value(words, '--rdzv-endpoint') == '127.0.0.1:29511'
    assert value(words, '--rdzv-conf') == 'is_host=0,join_timeout=7,read_timeout=7'
    assert value(words, '--local-addr') == '127.0.0.1'


@pytest.mark.parametrize('gpus', ['--work-dir', '0', 'two', ''])
@pytest.mark.parametrize('script', ['dist_train.sh CONFIG', 'dist_test.sh CONFIG CHECKPOINT'])
def test_a_number_of_gpus_that_is_missing_is_asked_for(script: str, gpus: str):
    command = ['bash', TOOLS / script.split()[0], *script.split()[1:], gpus, 'more']
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 2
    assert f'bash tools/{script} GPUS [arguments of ' in result.stderr
    assert result.stderr.endswith(f"The number of GPUs must be a whole number of at least 1, got '{gpus}'.\n")
    result = subprocess.run(command[:3], capture_output=True, text=True)
    assert result.stderr.endswith(f"{', '.join(script.split()[1:])} and GPUS are needed, got 'CONFIG'.\n")


@pytest.mark.parametrize(
    ('script', 'tool', 'words'),
    [
        ('dist_train.sh', 'train.py', ['CONFIG']),
        ('dist_test.sh', 'test.py', ['CONFIG', 'CHECKPOINT']),
        ('dist_test.sh', 'extract_features.py', ['CONFIG', 'CHECKPOINT']),
    ],
)
def test_a_tool_is_started_on_each_gpu(script: str, tool: str, words: list[str], tmp_path: Path):
    """By the ``python`` that is found first: here one that repeats its words."""
    (tmp_path / 'python').write_text('#!/bin/bash\nprintf "%s\\n" "$@"\n')
    (tmp_path / 'python').chmod(0o755)
    env = {**os.environ, 'PATH': f'{tmp_path}:{os.environ["PATH"]}', 'TOOL': tool}
    command = ['bash', TOOLS / script, *words, '2', '--out', 'a b.json']
    said = subprocess.run(command, env=env, check=True, capture_output=True, text=True).stdout.splitlines()
    launched = ['--nproc-per-node', '2', f'{TOOLS}/{tool}', *words, '--launcher', 'pytorch', '--out', 'a b.json']
    assert said == [f'{TOOLS}/launch.py', *launched]


@pytest.mark.parametrize(
    ('env', 'message'),
    [
        ({'NNODES': 'two'}, "NNODES='two': give a whole number from 1"),
        ({'NNODES': '0'}, "NNODES='0': give a whole number from 1"),
        ({'NNODES': '2'}, 'NNODES=2, and NODE_RANK and MASTER_ADDR not set. Set on each machine its NODE_RANK'),
        ({'NNODES': '2', 'NODE_RANK': '1'}, 'NNODES=2, and MASTER_ADDR not set'),
        ({'NNODES': '2', 'NODE_RANK': '2', 'MASTER_ADDR': 'a'}, "NODE_RANK='2': give a whole number from 0 to 1"),
        ({'NODE_RANK': '1'}, "NODE_RANK='1': give a whole number from 0 to 0"),  # of a run without NNODES
        ({'PORT': '99999'}, "PORT='99999': give a whole number from 0 to 65535"),
        ({'PORT': '29500', 'MEET_TIMEOUT': '2m'}, "MEET_TIMEOUT='2m': give a whole number from 1"),
        ({'MAX_RESTARTS': '-1'}, "MAX_RESTARTS='-1': give a whole number from 0"),
    ],
)
def test_an_environment_that_contradicts_itself_is_refused(env: dict[str, str], message: str):
    with pytest.raises(ValueError, match=re.escape(message)):
        load_launch().rendezvous(env)


def test_what_is_empty_is_not_set():
    assert load_launch().rendezvous(dict.fromkeys(('NNODES', 'NODE_RANK', 'MAX_RESTARTS', 'PORT'), '')) == [
        '--standalone', '--max-restarts', '0'
    ]  # fmt: skip


@pytest.mark.parametrize('host', ['127.0.0.1', '::1'])
def test_a_machine_is_known_by_the_address_that_it_has_there(host: str):
    launch = load_launch()
    assert launch._own_address(host) == host
    assert launch._own_address('nowhere.invalid') == socket.gethostname()


@pytest.mark.parametrize(
    ('others', 'message'),
    [
        ({'machine/1': 'n1 7 2'}, 'NODE_RANK=1 is there already: process 7 on n1. Number the machines'),
        ({'machine/0': 'n0 5 3'}, r'NNODES=2 here, and NNODES=3 on n0 \(NODE_RANK=0\). Set one number'),
        ({'machine/0': 'n0 5 2'}, None),
    ],
)
def test_machines_that_contradict_each_other_are_named(others: dict[str, str], message: str | None):
    launch, store = load_launch(), HashStore()
    for key, text in others.items():
        store.set(key, text)
    launch._assign = lambda *_: 'assigned'
    if message is None:
        assert launch.assign(None, store, 1, 2, None) == 'assigned'
        return
    with pytest.raises(RuntimeError, match=message):
        launch.assign(None, store, 1, 2, None)


def test_a_main_machine_that_nobody_named_is_named():
    message = 'MASTER_ADDR=127.0.0.1, port 29500, could not be reached within 5 s: nothing answers there'
    assert unreachable({}, 5).startswith(message)


def test_a_port_in_use_is_named():
    with socket.socket() as other:
        other.bind(('', 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(RuntimeError, match=f'PORT={port} on .*: Address already in use. Set PORT to another port'):
            load_launch().rendezvous({'PORT': str(port)})


RANK = """
import os, signal, sys, time
with open(sys.argv[1] + '/starts.txt', 'a') as file:
    file.write(' '.join([os.environ['RANK'], os.environ['OMNIMAE_ROUND'], *sys.argv[3:]]) + chr(10))
if os.environ['RANK'] == '1' and (sys.argv[2] != 'once' or '--resume' not in sys.argv):
    time.sleep(0.2)
    if sys.argv[2] == 'asked':
        os._exit(75)
    os.kill(os.getpid(), signal.SIGKILL)
time.sleep(0.5 if '--resume' in sys.argv else 30)
"""


@pytest.mark.slow
@pytest.mark.parametrize(('what', 'starts', 'code'), [('once', 2, 0), ('always', 3, 1), ('asked', 1, 75)])
def test_ranks_that_fail_are_started_again(tmp_path: Path, what: str, starts: int, code: int):
    """A rank is killed: all are started again, with --resume; twice at most. A rank that was asked to stop is not."""
    (tmp_path / 'rank.py').write_text(RANK)
    command = [sys.executable, TOOLS / 'launch.py', '--nproc-per-node', '2', tmp_path / 'rank.py', tmp_path, what]
    result = subprocess.run(command, env=environment(MAX_RESTARTS='2'), capture_output=True, text=True)
    assert result.returncode == code, result.stderr[-3000:]
    lines = [line.split() for line in (tmp_path / 'starts.txt').read_text().splitlines()]
    assert len(lines) == 2 * starts
    assert len({name for _, name, *_ in lines}) == starts
    assert [words[2:] for words in lines] == [[]] * 2 + [['--resume']] * (2 * starts - 2)


@pytest.mark.parametrize(
    ('env', 'message'),
    [
        ({'NODE_RANK': '0'}, '1 of NNODES=3 machines have come within 1 s, but not NODE_RANK=1, 2. Start'),
        ({'NODE_RANK': '1'}, 'MASTER_ADDR=127.0.0.1, port {port}, could not be reached within 1 s: nothing answers'),
        (
            {'NODE_RANK': '1', 'MASTER_ADDR': 'nowhere.invalid'},
            'MASTER_ADDR=nowhere.invalid, port {port}, could not be reached within 1 s: .* does not know a machine',
        ),
        ({'NODE_RANK': '0', 'MAX_RESTARTS': '1'}, 'Not all of NNODES=3 machines have come within 1 s'),
    ],
)
@pytest.mark.slow
def test_machines_that_do_not_come_are_named(env: dict[str, str], message: str):
    with socket.socket() as probe:
        probe.bind(('', 0))
        port = str(probe.getsockname()[1])
    env = environment(**{'MASTER_ADDR': '127.0.0.1', 'NNODES': '3', 'MEET_TIMEOUT': '1', 'PORT': port, **env})
    command = [sys.executable, TOOLS / 'launch.py', '--nproc-per-node', '1', 'rank.py']
    result = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)
    assert result.returncode == 1
    assert re.search(message.format(port=port), result.stderr), result.stderr[-2000:]


# ranks that meet


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> TCPStore:
    """The store of a launcher."""
    server = TCPStore('127.0.0.1', 0, None, True, wait_for_workers=False)
    ours = dict(MASTER_ADDR='127.0.0.1', MASTER_PORT=str(server.port), TORCHELASTIC_USE_AGENT_STORE='True')
    for name, text in {**ours, ROUND: 'first'}.items():
        monkeypatch.setenv(name, text)
    return server


def test_ranks_that_do_not_come_are_named(store: TCPStore, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv('RANK', '0')
    monkeypatch.setenv('WORLD_SIZE', '4')
    connect(5).set('host/2', 'there')
    with pytest.raises(RuntimeError, match=r'2 of 4 ranks have come to MASTER_ADDR=127.0.0.1, port \d+, within 0.5 s, '
                       'but not rank 1, 3. See why'):  # fmt: skip
        meet(0.5)
    for rank in '13':
        connect(5).set(f'host/{rank}', 'there')
    assert meet(5)[1] == [socket.gethostname(), 'there', 'there', 'there']
    monkeypatch.setenv(ROUND, 'second')  # after a restart nobody is there yet
    with pytest.raises(RuntimeError, match='1 of 4 ranks have come'):
        meet(0.5)


def test_a_main_rank_that_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch):
    for name, text in dict(RANK='1', WORLD_SIZE='2', MASTER_ADDR='nowhere.invalid', MASTER_PORT='29512').items():
        monkeypatch.setenv(name, text)
    with pytest.raises(RuntimeError, match='MASTER_ADDR=nowhere.invalid, port 29512, could not be reached within 1 s: '
                       '.* does not know a machine of that name'):  # fmt: skip
        meet(1)


def claim_together(monkeypatch: pytest.MonkeyPatch, *ranks: dict[str, Any]) -> list[Any]:
    """What `claim_folder` says to each of several ranks, which are threads: (resume, load_from), or an error."""
    barrier, said, answers = threading.Barrier(len(ranks)), [None] * len(ranks), [None] * len(ranks)

    def gather(own: Any) -> list[Any]:
        barrier.wait(20)
        said[int(threading.current_thread().name)] = own
        barrier.wait(20)
        return [*said]

    def of_main_rank(work: Callable[[], Any]) -> Any:
        return gather(work() if threading.current_thread().name == '0' else None)[0]

    monkeypatch.setattr(folder, 'all_gather_object', gather)
    monkeypatch.setattr(folder, 'of_main_rank', of_main_rank)

    def claim(rank: int, go_on: bool = False, **options: Any) -> None:
        cfg = Config(options)
        try:
            folder.claim_folder(cfg, go_on=go_on)
            answers[rank] = (cfg.get('resume', False), cfg.get('load_from'))
        except ValueError as error:
            answers[rank] = error

    threads = [
        threading.Thread(target=claim, args=[rank], kwargs=options, name=str(rank))
        for rank, options in enumerate(ranks)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


def test_all_ranks_go_on_from_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """What the main rank finds. A machine that came in place of another was started without --resume."""
    here, there = str(tmp_path / 'here'), str(tmp_path / 'there')
    assert claim_together(monkeypatch, dict(work_dir=here), dict(work_dir=there)) == [(False, None)] * 2
    (tmp_path / 'there').mkdir()
    (tmp_path / 'there' / 'epoch_9.pth').touch()
    nothing = claim_together(monkeypatch, dict(work_dir=here, go_on=True), dict(work_dir=there, go_on=True))
    assert nothing == [(False, None)] * 2
    latest = tmp_path / 'here' / 'epoch_2.pth'
    latest.touch()
    for ranks in ([dict(go_on=True), dict()], [dict(), dict(go_on=True)], [dict(resume=True), dict(load_from='w.pth')]):
        both = claim_together(monkeypatch, *({'work_dir': here, **options} for options in ranks))
        assert both == [(True, str(latest))] * 2
    assert (
        claim_together(monkeypatch, dict(work_dir=here, go_on=True), dict(work_dir=there)) == [(True, str(latest))] * 2
    )  # on one machine all see it

    isfile = os.path.isfile
    hidden = lambda path: isfile(path) and threading.current_thread().name != '1'  # noqa: E731
    monkeypatch.setattr(folder.os.path, 'isfile', hidden)
    errors = claim_together(monkeypatch, dict(work_dir=here, go_on=True), dict(work_dir=here, go_on=True))
    assert re.search(
        rf'{latest}, and rank 1 on {socket.gethostname()} has no such file. Give a --work-d', str(errors[0])
    )
    assert str(errors[0]) == str(errors[1])


@pytest.mark.parametrize('begins', [dict(resume=True), dict()], ids=['checkpoint', 'weights'])
def test_a_run_that_is_started_again_at_once_begins_as_it_was_told(tmp_path: Path, begins: dict[str, bool]):
    """With ``--resume PATH --resume`` or ``load_from``: what launchers add does not make it begin with nothing."""
    first = tmp_path / 'first.pth'
    first.touch()
    cfg = Config(dict(work_dir=str(tmp_path / 'work'), load_from=str(first), **begins))
    assert f'so the training starts with {first}.' in folder.claim_folder(cfg, go_on=True)
    assert (cfg.get('resume', False), cfg.load_from) == (bool(begins), str(first))
    (tmp_path / 'work' / 'preempted.pth').touch()
    assert folder.claim_folder(cfg, go_on=True) is None
    assert (cfg.resume, cfg.load_from) == (True, str(tmp_path / 'work' / 'preempted.pth'))


# signs of life


class Left(BaseException):
    """In the place of the end of a process."""


@pytest.fixture
def ranks(store: TCPStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[list[Heartbeat]]:
    """Three ranks of two machines, as threads. What they have done is in ``done``: rank -> 'saved' or 'waited'."""
    # What each main thread does is `looks`: what it says, whether it waits for others, for how many seconds.
    all_ranks = [Heartbeat(rank, ['n1', 'n1', 'n2'], silence=2.0, patience=1000.0) for rank in range(3)]

    def leave(code: int) -> None:
        raise Left(code)

    monkeypatch.setattr(heartbeat, 'exit_now', leave)
    for rank in all_ranks:
        rank.looks, rank.done, rank.interval = ('step 7: trains (x.py:1)', False, 0.0), [], 0.05
        monkeypatch.setattr(rank, '_look', lambda rank=rank: rank.looks)

        def rescue(rank: Heartbeat = rank) -> Path:
            rank.done.append('saved')
            return tmp_path / 'preempted.pth'

        def wait(has_store: bool, rank: Heartbeat = rank) -> None:
            rank.done.append('waited')

        rank.rescue = rescue
        monkeypatch.setattr(rank, '_wait_for_rescue', wait)
    messages: list[str] = []
    monkeypatch.setattr(heartbeat, 'print_log', lambda text, *_: messages.append(text))
    for rank in all_ranks:
        rank.messages = messages
    yield all_ranks
    for rank in all_ranks:
        rank.stop()


def start(ranks: list[Heartbeat]) -> None:
    def judge(rank: Heartbeat) -> None:
        try:
            Heartbeat._judge(rank)
        except Left:
            rank.over.set()

    for rank in ranks:
        rank._judge = lambda rank=rank: judge(rank)
        rank.start()
    wait_until(lambda: len(ranks[0].beats) == 3 and all(0 in rank.beats for rank in ranks))


def wait_until(condition) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.parametrize(
    ('dead', 'saves'), [([1], 0), ([0], 1), ([0, 1], 2), ([2], 0)], ids=['one', 'main', 'machine', 'other']
)
def test_a_dead_rank_is_named_and_the_first_that_lives_saves(ranks: list[Heartbeat], dead: list[int], saves: int):
    start(ranks)
    for rank in dead:
        ranks[rank].stop()
    alive = [rank for rank in range(3) if rank not in dead]
    wait_until(lambda: all(ranks[rank].over.is_set() for rank in alive))
    assert [ranks[rank].done for rank in alive] == [['saved'] if rank == saves else ['waited'] for rank in alive]
    text = '\n'.join(ranks[0].messages)
    for rank in dead:
        assert re.search(
            rf'Rank {rank} of 3 on {ranks[0].hosts[rank]} has given no sign of life for \d s. It last said: step 7: '
            r'trains \(x.py:1\).', text
        )  # fmt: skip
    assert re.search('Saved .*preempted.pth. Go on with the same command and --resume.', text)
    assert not any(f'Rank {rank} of 3' in text for rank in alive)


def test_a_late_rank_is_named_and_nobody_leaves_before_its_time(ranks: list[Heartbeat]):
    activity = 'step 7: trains and may wait for other ranks (loops.py:1)'
    ranks[2].looks = ('step 7: waits for data (feeding.py:95)', False, 30.0)
    for rank in ranks[:2]:
        rank.looks = (activity, True, 0.0)
    start(ranks)
    wait_until(lambda: len(ranks[0].beats) == 3 and ranks[0].beats[1][2])  # the main rank knows that both wait
    ranks[0].looks = (activity, True, 30.0)
    wait_until(lambda: ranks[0].messages)
    [message] = ranks[0].messages
    assert message == (
        'Rank 2 of 3 on n2 is late: for 30 s 2 rank(s) have waited for it. It last said: step 7: waits for data '
        '(feeding.py:95).'
    )
    time.sleep(1.5)
    assert not any(rank.done for rank in ranks)
    assert len(ranks[0].messages) == 1
    for rank in ranks[:2]:
        rank.looks = (activity, True, 1001.0)
    wait_until(lambda: all(rank.over.is_set() for rank in ranks))
    assert [rank.done for rank in ranks] == [['saved'], ['waited'], []]  # the late one leaves without saving
    assert 'Rank 2 of 3 on n2 has been waited for, for 1001 s' in '\n'.join(ranks[0].messages)


def test_ranks_that_all_do_something_slow_are_not_late(ranks: list[Heartbeat]):
    """Such as to compile, or the main rank alone to validate: the others do not wait yet."""
    for rank in ranks:
        rank.looks = ('is busy (compiling.py:1)', False, 900.0)
    start(ranks)
    time.sleep(1.5)
    assert not ranks[0].messages
    assert not any(rank.done for rank in ranks)


def test_the_failure_of_a_rank_is_handed_on(ranks: list[Heartbeat]):
    start(ranks)
    ranks[1].fail(ValueError('the disk is on fire'))
    wait_until(lambda: ranks[0].over.is_set() and ranks[2].over.is_set())
    assert 'Rank 1 of 3 on n1 failed: ValueError: the disk is on fire.' in ranks[0].messages[0]
    assert [rank.done for rank in ranks] == [['saved'], [], ['waited']]


def test_a_lost_connection_asks_who_is_gone(ranks: list[Heartbeat]):
    for rank in ranks:
        rank.silence = 100.0
    start(ranks)
    ranks[1].stop()
    time.sleep(0.2)
    with pytest.raises(Left):
        ranks[0].fail(RuntimeError('[gloo/transport/tcp/pair.cc:561] Connection closed by peer'))
    assert {*ranks[0].done} == {'saved'}
    assert 'Rank 1 of 3 on n1 has gone.' in ranks[0].messages[0]
    assert 'What showed it: [gloo' in ranks[0].messages[0]


def test_a_store_that_is_gone_is_its_rank(store: TCPStore, ranks: list[Heartbeat], monkeypatch: pytest.MonkeyPatch):
    for rank in ranks[1:]:
        rank.answered = -float('inf')  # what `_beat` leaves when its connection is closed
        with pytest.raises(Left):
            rank._judge()
    assert ranks[1].done == ranks[2].done == ['saved']  # which of them lives nobody knows
    assert 'Rank 0 of 3 on n1 has not answered, nor has the store of its machine' in ranks[1].messages[0]


def test_a_rank_that_cannot_save_says_why_and_what_to_do(ranks: list[Heartbeat]):
    def rescue() -> str:
        raise RuntimeError("each rank has a part of the optimizer's state (optim_wrapper.shard).")

    ranks[0].rescue = rescue
    with pytest.raises(Left):
        ranks[0].leave({1: 'has gone.'})
    assert "Nothing was saved: RuntimeError: each rank has a part of the optimizer's state (optim_wrapper.shard). " in (
        text := '\n'.join(ranks[0].messages)
    )
    assert 'Go on from the last checkpoint with the same command and --resume.' in text


def test_ranks_that_wait_for_each_other_are_named(ranks: list[Heartbeat]):
    """At different places: none of them is late. A step that takes all of them long is at one place."""
    for rank in ranks:
        rank.looks = ('step 7: trains and may wait for other ranks (loops.py:1)', True, 30.0)
    start(ranks)
    time.sleep(0.5)
    assert not ranks[0].messages
    ranks[2].looks = ('step 6: validates and may wait for other ranks (loops.py:2)', True, 31.0)
    wait_until(lambda: len(ranks[0].messages) == 3)
    assert sorted(ranks[0].messages)[2] == (
        'Rank 2 of 3 on n2 waits for others, and others wait elsewhere, for 31 s. It last said: step 6: validates and '
        'may wait for other ranks (loops.py:2).'
    )
    assert not any(rank.done for rank in ranks)


def test_a_rank_that_was_stopped_did_not_wait(monkeypatch: pytest.MonkeyPatch):
    """As a whole job is, that Slurm suspends for hours: nobody is late then."""
    clock = [0.0]
    monkeypatch.setattr(heartbeat.time, 'monotonic', lambda: clock[0])
    monkeypatch.setattr(heartbeat.traceback, 'walk_stack', lambda frame: [])
    rank = Heartbeat(0, ['here', 'there'], silence=60, patience=1800)
    waited = []
    for clock[0] in (1.0, 11.0, 21.0, 9000.0, 9010.0):
        waited.append(rank._look()[2])
    assert waited == [0, 10, 20, 35, 45]
    rank.progress += 1
    assert rank._look()[2] == 0


@pytest.mark.parametrize(
    ('error', 'is_loss'),
    [
        (RuntimeError('[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:561] Connection closed by peer'), True),
        (torch.distributed.DistBackendError('NCCL error in: x.cpp:1, remote process exited'), True),
        (RuntimeError('ProcessGroupNCCL is gone'), True),
        (RuntimeError('a worker died while it read /places/train/igloo/0001.jpg'), False),
        (ValueError('gloo'), False),
    ],
)
def test_an_error_of_the_network_is_told_from_others(error: Exception, is_loss: bool):
    assert heartbeat.is_loss(error) == is_loss


def test_a_start_of_torchrun_alone_begins_without_the_verdict_of_the_last(
    store: TCPStore, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv(ROUND)
    monkeypatch.setenv('TORCHELASTIC_RESTART_COUNT', '0')
    connect(5).set('verdict', '{}')
    monkeypatch.setenv('TORCHELASTIC_RESTART_COUNT', '1')
    assert not connect(5).check(['verdict'])


def test_a_process_that_was_stopped_itself_judges_nobody(ranks: list[Heartbeat], monkeypatch: pytest.MonkeyPatch):
    start(ranks)
    clock = time.monotonic
    monkeypatch.setattr(heartbeat.time, 'monotonic', lambda: clock() + 100.0)
    time.sleep(1.0)
    assert not any(rank.done for rank in ranks)


def test_a_rank_says_what_it_does(monkeypatch: pytest.MonkeyPatch):
    rank = Heartbeat(0, ['here'], silence=60, patience=60)
    said, waits, seconds = rank._look()
    assert re.fullmatch(r'is busy \(heartbeat.py:\d+\)', said)
    assert not waits
    rank.step = 7
    assert rank._look()[0].startswith('step 7: is busy')


class Agent:
    """Of torchrun."""

    _remaining_restarts = 3


@pytest.mark.parametrize(('codes', 'left'), [([-9], 3), ([1, 75], 3), ([75, 75], 0), ([130], 0), ([-15], 0)])
def test_ranks_that_were_asked_to_stop_are_not_started_again(codes: list[int], left: int):
    launch = load_launch()
    failures = {rank: SimpleNamespace(exitcode=code) for rank, code in enumerate(codes)}
    launch._monitor = lambda *_: SimpleNamespace(state=launch.WorkerState.FAILED, failures=failures)
    agent = Agent()
    launch.monitor(agent, None)
    assert agent._remaining_restarts == left


PROBE = """
import os, signal, time
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from omnimae.registry import HOOKS


@HOOKS.register_module()
class FaultHook(Hook):
    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if get_rank() == 0:
            return
        if runner._resume and runner.iter == 5:
            raise ValueError('the disk of rank 1 is on fire')
        if not runner._resume and runner.iter == 2:
            time.sleep(5)
        if not runner._resume and runner.iter == 4:
            os.kill(os.getpid(), signal.SIGSTOP)
"""


@pytest.mark.slow
def test_late_stopped_and_failed_ranks_cost_no_step(tmp_path: Path):
    """A rank is late and named. It is stopped and named; the run starts again by itself. It fails, and that is all."""
    (tmp_path / 'probe.py').write_text(PROBE)
    data = write_data(tmp_path / 'data')
    # AdamW would divide the noise in gradients that are zero, those of the keys' biases, by itself
    sgd = "\noptim_wrapper['optimizer'] = dict(type='SGD', lr=0.1)\n"
    hook = f"{sgd}custom_imports = dict(imports=['probe'])\ncustom_hooks = [dict(type='FaultHook')]\n"
    hook += 'env_cfg = dict(dist_cfg=dict(heartbeat=3))\ndefault_hooks = dict(checkpoint=dict(interval=10))\n'
    config = write_config(tmp_path / 'classify.py', CLASSIFY, data, hook)
    options = ['--work-dir', tmp_path / 'work', '--cfg-options', 'train_dataloader.batch_size=4']
    command = ['bash', TOOLS / 'dist_train.sh', config, '2', *options]
    env = environment(MAX_RESTARTS='1', PYTHONPATH=f'{ROOT}:{tmp_path}')
    result = subprocess.run(list(map(str, command)), env=env, capture_output=True, text=True, timeout=200)
    output = result.stdout + result.stderr
    assert result.returncode == 1, output[-4000:]
    assert re.search(r'Rank 1 of 2 on \S+ is late: for \d s 1 rank.* It last said: step 3: trains \(loops.py', output)
    assert re.search(r'Rank 1 of 2 on \S+ has given no sign of life for \d s. It last said: step ', output)
    assert output.count(f'Saved {tmp_path / "work" / "preempted.pth"}. Go on with the same command and --resume.') >= 2
    assert 'resumed epoch: 1, iter: 4' in output
    assert 'ValueError: the disk of rank 1 is on fire' in result.stderr

    more = f'{sgd}default_hooks = dict(checkpoint=dict(by_epoch=False, interval=5))\n'
    build_runner(write_config(tmp_path / 'one.py', CLASSIFY, data, more), tmp_path / 'one').train()
    ours, theirs = (torch.load(tmp_path / name, weights_only=True) for name in ('work/preempted.pth', 'one/iter_5.pth'))
    assert ours['meta']['iter'] == theirs['meta']['iter'] == 5
    for name, weight in theirs['state_dict'].items():
        torch.testing.assert_close(ours['state_dict'][name], weight, rtol=0, atol=1e-6)


# what is saved


@HOOKS.register_module()
class RescueAtHook(Hook):
    """Has another thread save in the middle of a step, as `Heartbeat` does, and ends the run."""

    priority = 'LOWEST'

    def __init__(self, is_updated: bool, seconds_stuck: float = 0.0) -> None:
        self.is_updated, self.seconds_stuck = is_updated, seconds_stuck

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        if runner.iter == 6:
            if self.seconds_stuck:
                torch.cuda._sleep(int(self.seconds_stuck * 1.5e9))  # clock cycles
            if not self.is_updated:
                self.end()

    def count_step(self, runner: Runner, data_batch: Any, counts: dict) -> None:
        if runner.iter == 6:
            self.end()

    def end(self) -> None:
        thread = threading.Thread(target=heartbeat.current.rescue)
        thread.start()
        thread.join()
        self.was_stuck = torch.cuda.is_available() and not torch.cuda.current_stream().query()
        raise SystemExit(1)


def rescued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **options: Any) -> tuple[RescueAtHook, dict[str, Any]]:
    """The checkpoint of a run with an average that was ended in its seventh step."""
    monkeypatch.setattr(heartbeat, 'current', Heartbeat(0, ['here'], silence=60, patience=60))
    write_config(tmp_path / 'pretrain.py', PRETRAIN, write_data(tmp_path / 'data'))
    hooks = [dict(type='EMAHook', begin_epoch=0), dict(type='RescueAtHook', **options)]
    runner = build_runner(tmp_path / 'pretrain.py', tmp_path / 'work', {'custom_hooks': hooks})
    with pytest.raises(SystemExit):
        runner.train()
    [hook] = [hook for hook in runner.hooks if isinstance(hook, RescueAtHook)]
    return hook, torch.load(tmp_path / 'work' / 'preempted.pth', weights_only=True)


@pytest.mark.parametrize('is_updated', [False, True])
def test_a_step_is_saved_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_updated: bool):
    """Before the update it is the step before; after it, schedule and average are brought to it, too."""
    assert rescued(tmp_path, monkeypatch, is_updated=is_updated)[1]['meta']['iter'] == 6 + is_updated
    monkeypatch.setattr(heartbeat, 'current', None)
    options = {'custom_hooks': [dict(type='EMAHook', begin_epoch=0)]}
    resumed = build_runner(tmp_path / 'pretrain.py', tmp_path / 'work', {**options, 'resume': True})
    resumed.train()
    whole = build_runner(tmp_path / 'pretrain.py', tmp_path / 'whole', options)
    whole.train()
    paths = [next((tmp_path / name).glob('epoch_2_ema.safetensors')) for name in ('work', 'whole')]
    for other, one in ((resumed.model.state_dict(), whole.model.state_dict()), map(load_file, paths)):
        for name, weight in one.items():
            assert torch.equal(other[name], weight), name


@HOOKS.register_module()
class RescueInValidationHook(RescueAtHook):
    """The same in the middle of a validation."""

    def before_val_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        if batch_idx == 1:
            self.end()


def test_what_is_saved_in_a_validation_is_no_average(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """An EMAHook gives the model its average then. It is saved where the checkpoints are, as that of the epoch."""
    monkeypatch.setattr(heartbeat, 'current', Heartbeat(0, ['here'], silence=60, patience=60))
    write_config(tmp_path / 'classify.py', CLASSIFY + COUNTED, write_data(tmp_path / 'data', num_movies=0))
    hooks = [dict(type='EMAHook', begin_epoch=0), dict(type='RescueInValidationHook', is_updated=False)]
    options = {'custom_hooks': hooks, 'default_hooks.checkpoint.out_dir': str(tmp_path / 'out')}
    with pytest.raises(SystemExit):
        build_runner(tmp_path / 'classify.py', tmp_path / 'work', options).train()
    saved, epoch = (
        torch.load(tmp_path / 'out' / 'work' / name, weights_only=True) for name in ('preempted.pth', 'epoch_1.pth')
    )
    assert saved['meta']['iter'] == epoch['meta']['iter'] == 3
    for part in ('state_dict', 'ema_state_dict'):
        for name, weight in epoch[part].items():
            assert torch.equal(saved[part][name], weight), name
    assert (tmp_path / 'work' / 'last_checkpoint').read_text() == str(tmp_path / 'out' / 'work' / 'preempted.pth')


@pytest.mark.gpu
@pytest.mark.parametrize('is_updated', [False, True])
def test_a_step_is_saved_while_the_gpu_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_updated: bool):
    """As for other ranks, in NCCL: what follows on its stream is queued and not done, the update included."""
    hook, saved = rescued(tmp_path, monkeypatch, is_updated=is_updated, seconds_stuck=40.0)
    assert hook.was_stuck
    assert saved['meta']['iter'] == 6
    whole = build_runner(
        tmp_path / 'pretrain.py', tmp_path / 'whole', {'default_hooks.checkpoint': dict(by_epoch=False, interval=6)}
    )
    monkeypatch.setattr(heartbeat, 'current', None)
    whole.train()
    theirs = torch.load(tmp_path / 'whole' / 'iter_6.pth', weights_only=True)['state_dict']
    ours = saved['ema_state_dict']  # EMAHook gave the average their place
    for name, weight in theirs.items():
        torch.testing.assert_close(ours[f'module.{name}'], weight, rtol=0, atol=1e-4)


@pytest.mark.parametrize('place', sorted({*heartbeat.ACTIVITIES, *heartbeat.WAITS}), ids=str)
def test_what_a_rank_does_is_known_by_functions_that_exist(place):
    file, function = place
    package, _, rest = file.partition('/')
    spec = importlib.util.find_spec(package)
    source = (Path(spec.origin).parent / rest).read_text()
    assert not function or re.search(rf'^ *def {function}\(', source, re.MULTILINE), f'{file} has no {function}'
