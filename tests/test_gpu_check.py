"""benchmarks/gpu_check.py: how it goes on after failures, and its checks on a GPU where there is one."""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import time
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).parents[1] / 'benchmarks'))
import gpu_check
from gpu_check import CHECKS, Check, Machine, Result


def fails(machine: Machine) -> Result:
    raise ValueError(f'of {machine.device}\nand more')


def dies(machine: Machine) -> Result:
    os._exit(7)


def hangs(machine: Machine) -> Result:
    print('began')
    time.sleep(100)


ODD = {
    'fails': Check(fails, 1),
    'dies': Check(dies, 1),
    'hangs': Check(hangs, 0.5),
    'works': Check(lambda machine: Result(True, 'fine'), 1),
    'card': Check(fails, 1, needs_card=True),
}


@pytest.fixture
def machine(demo_root: Path, tmp_path: Path) -> Machine:
    return gpu_check.look(demo_root, tmp_path)


def test_what_fails_dies_or_hangs_stops_no_other(
    demo_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    monkeypatch.setattr(gpu_check, 'CHECKS', ODD)
    forked = multiprocessing.get_context('fork')  # else the checks of this test would not be found
    monkeypatch.setattr(gpu_check.multiprocessing, 'get_context', lambda method: forked)
    with pytest.raises(SystemExit, match='True'):
        gpu_check.main(['--out', str(tmp_path), '--data', str(demo_root)])
    said = capsys.readouterr().out.splitlines()
    assert [line.split(' (')[0].strip() for line in said[:5]] == [
        'FAIL fails', 'FAIL dies', 'FAIL hangs', 'PASS works', '-    card'
    ]  # fmt: skip
    assert said[0].endswith('ValueError: of cpu, see fails.log')
    assert said[1].endswith('it died with 7, see dies.log')
    assert said[2].endswith('it did not end within 5 s, see hangs.log')
    assert said[4].endswith('needs a GPU')
    assert (tmp_path / 'hangs.log').read_text() == 'began\n'
    assert 'ValueError: of cpu\nand more' in (tmp_path / 'fails.log').read_text()
    checks = json.loads((tmp_path / 'results.json').read_text())['checks']
    assert {name: row['passed'] for name, row in checks.items()} == dict(
        fails=False, dies=False, hangs=False, works=True, card=None
    )
    with pytest.raises(SystemExit, match='False'):
        gpu_check.main(
            ['--out', str(tmp_path), '--data', str(demo_root), '--only', 'works', 'fails', '--minutes', '0.005']
        )
    assert 'no time left' in (tmp_path / 'table.md').read_text()


@pytest.mark.parametrize('name', ['parity', 'drift', 'steps', 'memory', 'evaluation'])
def test_checks_run_on_a_cpu(name: str, machine: Machine):
    torch.manual_seed(0)
    result = CHECKS[name].run(machine)
    assert result.passed, result.says


@pytest.mark.gpu
@pytest.mark.parametrize('name', CHECKS)
def test_on_a_gpu(name: str, machine: Machine):
    assert machine.has_card, 'PyTorch sees no GPU'
    result = gpu_check.run_check(name, machine, 5 * CHECKS[name].seconds)
    assert result.passed, result.says
