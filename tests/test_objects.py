"""Object stores: fsspec's memory, and S3 as moto serves it where it is installed: `pip install s3fs 'moto[server]'`."""

from __future__ import annotations

import importlib.util
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import mmengine
import numpy as np
import pytest
import torch
from mmengine import fileio
from test_storage import assert_same, train
from tiny_run import PRETRAIN, write_config, write_data

from omnimae.checkpoint import load_file
from omnimae.data import storage
from omnimae.data.datasets import ImageDataset
from omnimae.data.media import open_video
from omnimae.data.media.errors import BrokenImageError
from omnimae.data.media.images import read_image
from omnimae.data.storage import backends, objects, patience
from omnimae.stopping import StorageAwayError, StorageRefusedError

HAS_S3 = importlib.util.find_spec('moto') is not None and importlib.util.find_spec('s3fs') is not None
KEYS = {'AWS_ACCESS_KEY_ID': 'id', 'AWS_SECRET_ACCESS_KEY': 'secret', 'AWS_DEFAULT_REGION': 'us-east-1'}


@pytest.fixture(scope='module')
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = write_data(tmp_path_factory.mktemp('data'))
    (data / 'list.txt').write_text('a/0.png 0\nb/1.png 1\n')
    return data


@pytest.fixture(scope='module')
def s3_server() -> Iterator[str]:
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(port=0)
    server.start()
    yield 'http://{}:{}'.format(*server.get_host_and_port())
    server.stop()


NEEDS_S3 = pytest.mark.skipif(not HAS_S3, reason='no moto or s3fs')


@pytest.fixture(params=['memory', pytest.param('s3', marks=NEEDS_S3)])
def bucket(request: pytest.FixtureRequest, data: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The address of a copy of the data."""
    if request.param == 's3':
        for name, value in KEYS.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv('AWS_ENDPOINT_URL', request.getfixturevalue('s3_server'))
    monkeypatch.setattr(patience, 'FIRST_PAUSE', 0.01)
    monkeypatch.setenv('OMNIMAE_STORAGE_PATIENCE', '0.3')
    monkeypatch.setattr(backends, '_instances', {})
    address = f'{request.param}://bucket/data'
    store = fsspec.get_filesystem_class(request.param)(skip_instance_cache=True)
    if not store.exists(f'{address}/list.txt'):
        store.mkdirs('bucket', exist_ok=True)
        store.put(f'{data}/', f'{address}/', recursive=True)
        store.pipe_file(f'{address}/pictures/.hidden/0.png', b'')
    return address


def test_files_lie_there_as_on_a_disk(bucket: str, data: Path):
    crop = [dict(type='CenterCrop', size=32)]
    here, there = (ImageDataset(root=f'{place}/pictures', transforms=crop) for place in (data, bucket))
    assert [there.ids[i] for i in range(20)] == [here.ids[i] for i in range(20)]
    assert there.classes == ('a', 'b')
    assert torch.equal(there[7]['clips']['rgb'], here[7]['clips']['rgb'])
    for list_file in (f'{bucket}/list.txt', data / 'list.txt'):
        listed = ImageDataset(root=f'{bucket}/pictures', ann_file=str(list_file), transforms=crop)
        assert (listed[1]['id'], listed[1]['label'], len(listed)) == ('b/1.png', 1, 2)
    with open_video(f'{bucket}/movies/0.mp4') as one, open_video(f'{data}/movies/0.mp4') as other:
        np.testing.assert_array_equal(one.read(0.0, 0.5, 4), other.read(0.0, 0.5, 4))
    with pytest.raises(BrokenImageError, match=r'bucket/data/nothing\.png: .*no such file'):
        read_image(f'{bucket}/nothing.png')
    with pytest.raises(ValueError, match=r"root='.*data/nowhere' is not a folder"):
        ImageDataset(root=f'{bucket}/nowhere')
    content = (data / 'list.txt').read_bytes()
    for part in [(0, 5), (5, 9), (15, None), (15, 100), (20, 30), (3, 3)]:
        assert storage.read(f'{bucket}/list.txt', None, *part) == content[slice(*part)], part
    assert storage.exists(f'{bucket}/list.txt') is True
    assert storage.exists(f'{bucket}/nothing') is False


def test_checkpoints_lie_there(bucket: str, data: Path, tmp_path: Path):
    backend = fileio.get_file_backend(bucket)
    address = backend.join_path(bucket, 'run/', 'weights.pth')
    assert address == f'{bucket}/run/weights.pth'
    mmengine.runner.checkpoint.save_checkpoint({'state_dict': {'x': torch.arange(3.0)}, 'meta': {}}, address)
    assert load_file(address)[0]['x'].tolist() == [0, 1, 2]
    assert [*backend.list_dir_or_file(f'{bucket}/run')] == ['weights.pth']
    assert (backend.isfile(address), backend.isdir(f'{bucket}/run'), backend.isdir(address)) == (True, True, False)
    with backend.get_local_path(address) as local:
        assert os.path.getsize(local) > 0
    backend.remove(address)
    assert not backend.exists(address)
    with pytest.raises(ValueError, match=r'run/weights\.pth: cannot be fetched \(.*no such file'):
        load_file(address)


@pytest.mark.parametrize('bucket', ['memory', pytest.param('s3', marks=[NEEDS_S3, pytest.mark.slow])], indirect=True)
def test_a_training_reads_and_writes_there(bucket: str, data: Path, tmp_path: Path):
    """Pictures and videos by workers, which are forked after this process has used the store; goes on from there."""
    torch.set_num_threads(1)
    hook = 'default_hooks.checkpoint'
    options: dict[str, Any] = {'train_dataloader.num_workers': 2}
    here = write_config(tmp_path / 'here.py', PRETRAIN, data)
    there = write_config(tmp_path / 'there.py', PRETRAIN.replace('{data}', bucket), data)
    whole = train(here, tmp_path / 'whole')
    options[f'{hook}.out_dir'] = f'{bucket}/runs'
    assert_same(whole, train(there, tmp_path / 'first', **options))
    resumed = train(there, tmp_path / 'rest', **options, resume=True, load_from=f'{bucket}/runs/first/epoch_1.pth')
    assert_same(whole, resumed)


class Failing:
    """A file system whose reads raise."""

    def __init__(self, error: Exception) -> None:
        self.error, self.calls = error, 0

    def cat_file(self, *_: Any, **__: Any) -> bytes:
        self.calls += 1
        raise self.error


class NoCredentialsError(Exception): ...


@pytest.mark.parametrize(
    ('error', 'kind', 'message'),
    [
        (RuntimeError('pool is closed'), StorageAwayError, 'Storage s3://b is away, .*RuntimeError: pool is closed'),
        (OSError(16, 'SlowDown'), StorageAwayError, 'Storage s3://b is away, .*SlowDown'),
        (TimeoutError('slow'), StorageAwayError, 'Storage s3://b is away, .*slow'),
        (PermissionError('Forbidden'), StorageRefusedError, r's3://b/a\.png: PermissionError: Forbidden\. .*cred'),
        (NoCredentialsError('none'), StorageRefusedError, r's3://b/a\.png: NoCredentialsError: none\. .*credentials'),
        (FileNotFoundError('b/a.png'), BrokenImageError, r's3://b/a\.png: .*no such file'),
        (OSError(22, 'InvalidRange'), BrokenImageError, r's3://b/a\.png: .*InvalidRange'),
    ],
)
def test_what_object_stores_raise_is_sorted(monkeypatch, error: Exception, kind: type, message: str):
    store = Failing(error)
    monkeypatch.setattr(objects.FsspecBackend, '_open', lambda self, prefix: store)
    monkeypatch.setattr(backends, '_instances', {})
    monkeypatch.setattr(patience, 'FIRST_PAUSE', 0.01)
    monkeypatch.setenv('OMNIMAE_STORAGE_PATIENCE', '0.1')
    with pytest.raises(kind, match=message):
        read_image('s3://b/a.png')
    assert (store.calls > 1) == (kind is StorageAwayError)


def test_a_process_that_is_forked_while_a_thread_connects_does_not_wait_for_it(monkeypatch):
    """Threads that read ahead connect at the first read; those of the parent do not go on in a child."""
    connects, may_go_on, parent = threading.Event(), threading.Event(), os.getpid()
    real = objects.FsspecBackend._open

    def connect(backend: Any, prefix: str) -> Any:
        if os.getpid() == parent:
            connects.set()
            may_go_on.wait()
        return real(backend, prefix)

    monkeypatch.setattr(objects.FsspecBackend, '_open', connect)
    backend = objects.FsspecBackend()
    thread = threading.Thread(target=backend.exists, args=('memory://nothing',))
    thread.start()
    connects.wait()
    child = os.fork()
    if child == 0:
        signal.alarm(10)
        os._exit(42 if not backend.exists('memory://nothing') else 1)
    _, status = os.waitpid(child, 0)
    may_go_on.set()
    thread.join()
    assert os.waitstatus_to_exitcode(status) == 42


def test_what_is_not_installed_is_named(monkeypatch):
    def missing(prefix: str) -> type:
        raise ImportError('Install it')

    monkeypatch.setattr(fsspec, 'get_filesystem_class', missing)
    monkeypatch.setattr(backends, '_instances', {})
    with pytest.raises(ImportError, match=r"s3:// need another package. Run: pip install s3fs \(or: pip install 'omni"):
        ImageDataset(root='s3://bucket/data')
    with pytest.raises(ImportError, match=r'gs:// need another package. Run: pip install gcsfs'):
        ImageDataset(root='gs://bucket/data')


class Boxes(fileio.BaseStorageBackend):
    """One file with many pictures, as LMDB: it has arguments, and knows no other file."""

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)

    def get(self, filepath: str) -> bytes | None:
        file = self.folder / filepath
        return file.read_bytes() if filepath.startswith('pictures/') and file.exists() else None

    def get_text(self, filepath: str) -> str:
        raise NotImplementedError


def test_a_list_may_lie_beside_a_store_of_pictures(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(patience, '_read_well', {})  # other tests read files of that name elsewhere
    fileio.register_backend('boxes', Boxes, force=True)
    args = dict(backend='boxes', folder=str(data))
    (tmp_path / 'classes.txt').write_text('first\nsecond\n')
    lists = dict(ann_file=str(data / 'list.txt'), classes=str(tmp_path / 'classes.txt'))
    source = ImageDataset(root='pictures', backend_args=args, transforms=[dict(type='CenterCrop', size=32)], **lists)
    assert (source[1]['label'], source.classes) == (1, ('first', 'second'))
    with pytest.raises(BrokenImageError, match='Boxes has no such file'):
        read_image('pictures/nothing.png', args)
    with pytest.raises(ValueError, match="ann_file='nowhere.txt' does not exist"):
        ImageDataset(root='pictures', ann_file='nowhere.txt', backend_args=args)
    assert storage.args_of_list('memory://x/list.txt', 'pictures', args) is None
    assert storage.args_of_list('memory://x/list.txt', 'memory://x/pictures', args) == args
