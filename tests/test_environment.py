"""Importing changes nothing of another package; `setup_environment` does, and then all that MMEngine reads is read."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import mmengine.runner.checkpoint as theirs
import pytest
import torch
from imports_change_nothing import import_everything
from mmengine import fileio
from mmengine.fileio.backends import backends, prefix_to_backends
from mmengine.runner import CheckpointLoader

from omnimae.checkpoint import files, load_file
from omnimae.data.storage.backends import find_backend, register_backends
from omnimae.data.storage.http import HTTPBackend

ROOT = Path(__file__).parents[1]


def test_imports_change_nothing_of_other_packages():
    import_everything()  # and with it what it imports
    wanted = ('mmengine', 'mmcv', 'torch', 'torchvision', 'cv2', 'numpy', 'PIL', 'av', 'matplotlib', 'safetensors')
    names = sorted(name for name in sys.modules if name.split('.')[0] in wanted)
    program = [sys.executable, '-W', 'ignore', str(ROOT / 'tests' / 'imports_change_nothing.py')]
    result = subprocess.run(program, input='\n'.join(names), capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-3000:]
    assert result.stdout.split() == []


# ---- names of published weights ----

NAMES = ('torchvision://net', 'modelzoo://net', 'open-mmlab://net', 'openmmlab://net', 'mmcls://net')
URL = 'https://download.invalid/net.pth'


class Malice:
    """Runs code when it is unpickled."""

    def __reduce__(self):
        return (print, ('code from a checkpoint ran',))


@pytest.fixture
def download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What a download of the published ``net`` gives."""
    for module in (theirs, files):
        for kind in ('torchvision', 'external', 'mmcls'):
            monkeypatch.setattr(module, f'get_{kind}_models', lambda: dict(net=URL, local='net.pth'))
    for scheme in files.CATALOGUES:
        monkeypatch.setitem(files.CATALOGUES, scheme, lambda: dict(net=URL, local='net.pth'))
    monkeypatch.setenv('MMENGINE_HOME', str(tmp_path))
    path = tmp_path / 'net.pth'
    monkeypatch.setattr(files, '_downloaded', lambda address: str(path))
    torch.save({'state_dict': {'backbone.x': torch.arange(3.0)}, 'meta': {'epoch': 5}}, path)
    return path


@pytest.mark.parametrize('name', NAMES)
def test_published_weights_are_read_by_mmengine_and_by_us(download: Path, name: str):
    [value] = CheckpointLoader.load_checkpoint(name)['state_dict'].values()
    assert value.tolist() == [0, 1, 2]
    assert load_file(name)[0]['backbone.x'].tolist() == [0, 1, 2]


@pytest.mark.parametrize('name', [*NAMES, URL, 'open-mmlab://local'])
def test_no_way_runs_code_of_a_checkpoint(download: Path, capsys: pytest.CaptureFixture, name: str):
    torch.save(Malice(), download)
    for read in (CheckpointLoader.load_checkpoint, load_file):
        with pytest.raises((ValueError, pickle.UnpicklingError)):
            read(name)
    assert 'ran' not in capsys.readouterr().out


def test_what_is_not_published_is_named(download: Path):
    with pytest.raises(
        ValueError, match=r'torchvision://nett: torchvision has no weights of that name\. Near is net\.'
    ):
        load_file('torchvision://nett')
    with pytest.raises(ValueError, match=r"'nowhere://net': no backend reads addresses of nowhere://"):
        load_file('nowhere://net')


# ---- storages ----


@pytest.fixture
def tables(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """MMEngine's tables, as they were before."""
    before = dict(backends), dict(prefix_to_backends)
    yield
    for table, content in zip((backends, prefix_to_backends), before, strict=True):
        table.clear()
        table.update(content)


def test_ours_take_the_place_of_mmengines(tables: None):
    for name in ('http', 'https'):
        prefix_to_backends[name] = fileio.HTTPBackend
    assert type(find_backend('http://a/b')) is HTTPBackend
    assert type(fileio.get_file_backend('http://a/b')) is fileio.HTTPBackend
    register_backends()
    assert type(fileio.get_file_backend('http://a/b')) is HTTPBackend


def test_ours_never_take_the_place_of_somebody_elses(tables: None):
    class Own(fileio.LocalBackend):
        """Of a company."""

    fileio.register_backend('own', Own, prefixes=['gs'], force=True)
    fileio.register_backend('http', Own, force=True)
    register_backends()
    assert type(find_backend('gs://a/b')) is Own
    assert type(find_backend('a/b', dict(backend='http'))) is Own
    assert type(fileio.get_file_backend('gs://a/b')) is Own
    assert type(fileio.get_file_backend('http://a/b')) is HTTPBackend
