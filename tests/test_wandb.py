"""Weights & Biases: when it is on, what it is told, and that it stops no training. A stand-in takes its place."""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from mmengine.config import Config
from mmengine.visualization import Visualizer

from omnimae.engine import add_log_backends
from omnimae.registry import VISBACKENDS


class Wandb(ModuleType):
    """What MMEngine and we call of the package; everything is kept in ``calls``."""

    def __init__(self) -> None:
        super().__init__('wandb')
        self.__spec__ = ModuleSpec('wandb', None)
        self.calls: list[tuple[str, Any]] = []
        self.error: Exception | None = None
        self.config = SimpleNamespace(update=lambda values, **options: self.calls.append(('config', options)))
        self.run = SimpleNamespace(log_code=lambda **options: self.calls.append(('code', options)))

    def init(self, **options: Any) -> None:
        self.calls.append(('init', options))
        if self.error is not None and options.get('mode') != 'offline':
            raise self.error

    def __getattr__(self, name: str) -> Any:
        if name not in ('define_metric', 'log', 'join', 'teardown'):
            raise AttributeError(name)
        return lambda *args, **options: self.calls.append((name, args[0] if args else options.get('name')))

    def of(self, name: str) -> list[Any]:
        return [what for kind, what in self.calls if kind == name]


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Wandb:
    """The stand-in, and nobody logged in."""
    module = Wandb()
    monkeypatch.setitem(sys.modules, 'wandb', module)
    for name in ('WANDB_API_KEY', 'WANDB_MODE', 'WANDB_BASE_URL', 'WANDB_PROJECT', 'WANDB_NAME', 'NETRC'):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv('HOME', str(tmp_path))
    return module


def backends(work_dir: Path, **options: Any) -> list[dict[str, Any]]:
    """Those of W&B in the config of a run."""
    visualizer = dict(type='Visualizer', vis_backends=[dict(type='LocalVisBackend')])
    cfg = Config(dict(work_dir=str(work_dir), visualizer=visualizer, **options))
    add_log_backends(cfg)
    return [dict(x) for x in cfg.visualizer.vis_backends if x['type'] == 'WandbVisBackend']


NETRC = 'machine {} login user password key\n'


@pytest.mark.parametrize(
    ('environment', 'netrc', 'on'),
    [
        ({}, None, False),
        ({'WANDB_API_KEY': 'key'}, None, True),
        ({'WANDB_MODE': 'offline'}, None, True),
        ({'WANDB_MODE': 'online'}, None, False),  # it would ask for a key
        ({}, NETRC.format('api.wandb.ai'), True),
        ({}, NETRC.format('github.com'), False),
        ({}, 'no netrc', False),
        ({'WANDB_BASE_URL': 'https://wandb.of.us/'}, NETRC.format('wandb.of.us'), True),
        ({'WANDB_MODE': 'disabled', 'WANDB_API_KEY': 'key'}, NETRC.format('api.wandb.ai'), False),
    ],
)
def test_wandb_is_on_after_login(wandb, tmp_path, monkeypatch, environment, netrc, on):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    if netrc is not None:
        (tmp_path / '.netrc').write_text(netrc)
        (tmp_path / '.netrc').chmod(0o600)
    assert len(backends(tmp_path / 'run')) == on
    assert not wandb.calls  # nothing is sent yet


def test_wandb_is_off_if_it_is_not_installed(wandb, tmp_path, monkeypatch):
    monkeypatch.setenv('WANDB_API_KEY', 'key')
    monkeypatch.setattr('omnimae.engine.curves.find_spec', lambda name: None)
    assert not backends(tmp_path / 'run')


def test_a_resumed_run_goes_on_in_the_same_run(wandb, tmp_path, monkeypatch):
    monkeypatch.setenv('WANDB_API_KEY', 'key')
    [first] = backends(tmp_path / 'cats' / 'run')
    [again] = backends(tmp_path / 'cats' / 'run', resume=True)
    [new] = backends(tmp_path / 'cats' / 'run', resume=False)
    start = first['init_kwargs']
    assert again == first
    assert new['init_kwargs']['id'] != start['id']
    assert (start['project'], start['name'], start['resume']) == ('omnimae', 'cats/run', 'allow')
    monkeypatch.setenv('WANDB_PROJECT', 'mine')
    assert backends(tmp_path / 'other')[0]['init_kwargs']['project'] == 'mine'


@pytest.mark.parametrize('error', [None, OSError('no network\nat all')])
def test_curves_keep_their_names_whether_wandb_answers_or_not(wandb, tmp_path, monkeypatch, error):
    monkeypatch.setenv('WANDB_API_KEY', 'key')
    wandb.error = error
    said: list[str] = []
    monkeypatch.setattr('omnimae.engine.curves.print_log', lambda text, *_: said.append(text))
    [options] = backends(tmp_path / 'run')
    visualizer = Visualizer(vis_backends=[VISBACKENDS.build(dict(options, save_dir=str(tmp_path)))])
    visualizer.add_config(Config(dict(a=1)))
    visualizer.add_scalars({'loss': 0.5, 'iter': 3})
    visualizer.add_scalars({'accuracy/top1': 90.0}, step=1)
    visualizer.close()
    starts = wandb.of('init')
    assert [start.get('mode') for start in starts] == [None, *([] if error is None else ['offline'])]
    assert {start['id'] for start in starts} == {options['init_kwargs']['id']}
    assert len(wandb.of('teardown')) == len(starts) - 1
    assert [text.partition('. ')[0] for text in said] == ['W&B does not take this run (no network)'] * (
        error is not None
    )
    assert wandb.of('define_metric') == ['iter', '*']
    assert wandb.of('log') == [{'loss': 0.5, 'iter': 3}, {'accuracy/top1': 90.0}]
    assert wandb.of('config') == [dict(allow_val_change=True)]
    assert not wandb.of('code')
    assert len(wandb.of('join')) == 1
