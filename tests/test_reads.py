"""Every command, and everything from Python, reads a checkpoint once."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from test_tools import tool
from tiny_run import CLASSIFY, PRETRAIN, build_runner, write_config, write_data

from omnimae.apis import ClassificationInferencer, FeatureExtractor, get_model
from omnimae.checkpoint import files, save_file
from omnimae.config import load_config
from omnimae.registry import MODELS


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The checkpoints that were read so far."""
    found: list[str] = []
    for module, name in ((torch, 'load'), (files, 'safe_open')):
        read = getattr(module, name)

        def noted(path: str | os.PathLike, *args: Any, read: Any = read, **options: Any) -> Any:
            found.append(os.path.basename(path))
            return read(path, *args, **options)

        monkeypatch.setattr(module, name, noted)
    return found


@pytest.fixture(scope='module')
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Configs of a pretraining and of a classifier that takes its classes from the checkpoint, data and weights."""
    folder = tmp_path_factory.mktemp('folder')
    write_data(folder, num_pictures=8, num_movies=1)
    for name, text in (('pretrain', PRETRAIN), ('classify', CLASSIFY)):
        write_config(folder / f'{name}.py', text, folder)
        save_file(MODELS.build(load_config(folder / f'{name}.py').model).state_dict(), folder / f'{name}.pth', {})
    write_config(folder / 'open.py', CLASSIFY.replace('num_classes=2', 'num_classes=None'), folder)
    state = MODELS.build(load_config(folder / 'classify.py').model).state_dict()
    save_file(state, folder / 'classify.safetensors', {'classes': '["a", "b"]'})
    return folder


def test_test_py(folder: Path, reads: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    words = [folder / 'open.py', folder / 'classify.safetensors', '--work-dir', tmp_path]
    monkeypatch.setattr(sys, 'argv', ['test.py', *map(str, words)])
    monkeypatch.setattr(sys, 'excepthook', sys.excepthook)  # the tool sets one
    tool('test').main()
    assert reads == ['classify.safetensors']


@pytest.mark.parametrize('entrance', [ClassificationInferencer, FeatureExtractor, get_model])
def test_from_python(folder: Path, reads: list[str], entrance: Any):
    entrance(folder / 'open.py', folder / 'classify.safetensors')
    assert reads == ['classify.safetensors']


def test_convert_checkpoint_and_visualize_reconstruction(folder: Path, reads: list[str], tmp_path: Path):
    words = [folder / 'classify.pth', tmp_path / 'timm', '--to', 'timm', '--config', folder / 'classify.py']
    tool('convert_checkpoint').main([*map(str, words)])
    words = [
        folder / 'pretrain.py',
        folder / 'pretrain.pth',
        folder / 'pictures' / 'a' / '0.png',
        '--out-dir',
        tmp_path,
    ]
    tool('visualize_reconstruction').main([*map(str, words)])
    assert reads == ['classify.pth', 'pretrain.pth']


def test_a_training_that_begins_with_weights_or_goes_on(folder: Path, reads: list[str], tmp_path: Path):
    config, weights = folder / 'classify.py', folder / 'classify.pth'
    init_cfg = dict(type='Checkpoint', checkpoint=str(folder / 'pretrain.pth'))
    build_runner(config, tmp_path / 'run', {'model.init_cfg': init_cfg, 'train_cfg.max_epochs': 1}).train()
    assert reads == ['pretrain.pth']
    build_runner(config, tmp_path / 'other', {'load_from': str(weights), 'train_cfg.max_epochs': 1}).train()
    build_runner(config, tmp_path / 'run', {'resume': True, 'model.init_cfg': init_cfg}).train()
    assert reads == ['pretrain.pth', 'classify.pth', 'epoch_1.pth']
