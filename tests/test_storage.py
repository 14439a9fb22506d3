"""Storages that are away, slow or refuse: each fault is injected, by a web server of its own or below `os`."""

from __future__ import annotations

import errno
import gzip
import io
import itertools
import os
import pickle
import re
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest
import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner
from PIL import Image
from programs import ROOT, TOOLS, environment, run_ranks
from streams import Streams
from tiny_run import CLASSIFY, build_runner, write_config, write_data

from omnimae.data import storage
from omnimae.data.aligned import MapVideo
from omnimae.data.datasets import ImageDataset
from omnimae.data.formats.preparation import check_files
from omnimae.data.media import READERS, open_video, video
from omnimae.data.media.errors import BrokenFileError, BrokenImageError
from omnimae.data.media.images import read_image
from omnimae.data.storage import patience
from omnimae.data.storage.http import quoted
from omnimae.engine import compat, loops, setup_environment
from omnimae.engine.feeding import Feed
from omnimae.registry import DATASETS, HOOKS
from omnimae.stopping import PREEMPTED, StorageAwayError, StorageRefusedError, WaitEnded, storage_patience

PICTURE = np.random.default_rng(0).integers(0, 256, (40, 48, 3), np.uint8)


def png(picture: np.ndarray = PICTURE) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, 'PNG')
    return stream.getvalue()


class Server(ThreadingHTTPServer):
    """Serves ``files``. ``faults`` are met one by one, each by one request: a status, or 'hang', 'cut', 'reset'."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(('127.0.0.1', 0), Handler)
        self.files: dict[str, bytes] = {}
        self.faults: list[Any] = []
        self.requests: list[tuple[str, str | None]] = []  # path as it came, range
        self.logins: list[str | None] = []  # of each request
        self.takes_ranges = True
        self.bad: set[str] = set()  # names of files that get 500
        self.url = f'http://127.0.0.1:{self.server_port}'

    def handle_error(self, *_: Any) -> None: ...


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server, asked = self.server, self.headers['Range']
        server.requests.append((self.path, asked))
        server.logins.append(self.headers['Authorization'])
        fault = server.faults.pop(0) if server.faults else None
        fault = 500 if self.path.lstrip('/') in server.bad else fault
        data = server.files.get(unquote(self.path).lstrip('/'))
        if fault == 'hang':
            time.sleep(3)
        elif fault == 'reset':
            self.connection.close()
        elif isinstance(fault, tuple):
            self.answer(fault[0], **fault[1])
        elif isinstance(fault, int) or data is None:
            self.answer(fault or 404)
        elif asked and server.takes_ranges:
            first, _, last = asked.removeprefix('bytes=').partition('-')
            if int(first) >= len(data):
                self.answer(416)
            else:
                part = data[int(first) : int(last) + 1 if last else None]
                told = f'bytes {first}-{int(first) + len(part) - 1}/{len(data)}'
                self.answer(206, part, Content_Range=told)
        else:
            self.answer(200, data, is_cut=fault == 'cut')

    def answer(self, status: int, data: bytes = b'', is_cut: bool = False, **headers: Any) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace('_', '-'), value)
        self.send_header('Content-Length', str(len(data)))
        self.end_headers()
        self.wfile.write(data[: len(data) // 2] if is_cut else data)

    def log_message(self, *_: Any) -> None: ...


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, 'FIRST_PAUSE', 0.01)
    monkeypatch.setenv('OMNIMAE_STORAGE_PATIENCE', '0.3')
    monkeypatch.setenv('OMNIMAE_STORAGE_TIMEOUT', '20')


PASSING = [500, 502, 503, 504, 429, 408, 'hang', 'cut', 'reset']


@pytest.fixture
def fault(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int | str:
    """One of PASSING. A server that hangs is given little time, and one that answers enough on a busy machine."""
    if request.param == 'hang':
        monkeypatch.setenv('OMNIMAE_STORAGE_TIMEOUT', '0.2')
    return request.param


@pytest.mark.parametrize('fault', PASSING, indirect=True)
def test_a_server_that_is_away_for_a_moment_costs_no_file(server: Server, monkeypatch, fault: int | str):
    monkeypatch.setenv('OMNIMAE_STORAGE_PATIENCE', '20')
    server.files['a.png'] = png()
    server.faults = [fault, fault]
    np.testing.assert_array_equal(read_image(f'{server.url}/a.png')[0], PICTURE)
    assert len(server.requests) == 3 or fault == 'hang'


@pytest.mark.parametrize('fault', PASSING, indirect=True)
def test_a_server_that_stays_away_is_named(server: Server, fault: int | str):
    server.faults = [fault] * 100
    begin = time.monotonic()
    message = rf'Storage {server.url} is away, .*: \d+ reads of {server.url}/a\.png failed in .*OMNIMAE'
    with pytest.raises(StorageAwayError, match=message):
        read_image(f'{server.url}/a.png')
    assert 0.3 <= time.monotonic() - begin < 60


def test_one_file_that_a_server_never_gives_is_broken(server: Server):
    server.files['b.png'], server.bad = png(), {'a.png'}
    read_image(f'{server.url}/b.png')
    with pytest.raises(BrokenImageError, match=r'a\.png: .*HTTP 500 .*, \d+ times in \S+ s, but others can be read'):
        read_image(f'{server.url}/a.png')


def test_where_nobody_listens_a_storage_is_away():
    for url in ('http://127.0.0.1:1', 'http://nowhere.invalid', 'https://127.0.0.1:1'):
        with pytest.raises(StorageAwayError, match=rf'Storage {url} is away'):
            read_image(f'{url}/a.png')
    assert StorageAwayError.code == 75


@pytest.mark.parametrize('status', [401, 403, 407])
def test_a_server_that_refuses_stops_at_once(server: Server, monkeypatch, status: int):
    monkeypatch.setenv('OMNIMAE_STORAGE_PATIENCE', '100')
    server.faults = [status]
    with pytest.raises(
        StorageRefusedError, match=rf'{server.url}/a\.png: HTTP {status} .*Check its permissions, and the cred'
    ):
        read_image(f'{server.url}/a.png')
    assert StorageRefusedError.code == 1


@pytest.mark.parametrize('status', [404, 410, 400])
def test_a_file_that_is_not_on_a_server_is_broken(server: Server, status: int):
    server.faults = [status]
    with pytest.raises(BrokenImageError, match=rf'a\.png: .*HTTP {status}'):
        read_image(f'{server.url}/a.png')
    assert len(server.requests) == 1


def test_a_server_says_how_long_it_wants_to_be_left_alone(server: Server, monkeypatch):
    monkeypatch.setenv('OMNIMAE_STORAGE_PATIENCE', '20')
    server.files['a'], server.faults = b'a', [(503, dict(Retry_After='1'))]
    begin = time.monotonic()
    assert storage.read(f'{server.url}/a') == b'a'
    assert time.monotonic() - begin > 1


@pytest.mark.parametrize('takes_ranges', [True, False])
def test_parts_of_files(server: Server, tmp_path: Path, takes_ranges: bool):
    data = server.files['a'] = bytes(range(100))
    server.takes_ranges = takes_ranges
    (tmp_path / 'a').write_bytes(data)
    for address in (f'{server.url}/a', str(tmp_path / 'a')):
        for start, stop in [(0, None), (0, 1), (10, 20), (90, 120), (95, None), (100, None), (200, 210), (7, 7)]:
            assert storage.read(address, None, start, stop) == data[start:stop], (address, start, stop)
    if takes_ranges:
        assert ('/a', 'bytes=10-19') in server.requests


@pytest.mark.parametrize('name', ['a b', 'ä', '50%', 'a#1', 'a+b&c=d', "o'k(1)[2]", 'a\udce4'])
def test_names_of_any_kind_are_found_on_a_server(server: Server, name: str):
    name += '.png'
    server.files['ordner ö/' + name.encode('utf-8', 'surrogateescape').decode(errors='replace')] = png()
    assert read_image(f'{server.url}/ordner ö/{name}').shape == (1, 40, 48, 3)


def test_an_address_that_is_quoted_already_stays():
    assert quoted('http://h:8/a%20b?sig=x%2By&t=1') == 'http://h:8/a%20b?sig=x%2By&t=1'
    assert quoted('http://bücher.example/a') == 'http://xn--bcher-kva.example/a'


def test_a_server_sends_elsewhere(server: Server):
    server.files['new place/ä.png'] = png()
    server.faults = [(302, dict(Location='/new place/\u00c3\u00a4.png'))]  # its bytes are UTF-8
    assert read_image(f'{server.url}/a.png').shape == (1, 40, 48, 3)


def test_a_server_that_sends_to_a_login_refuses(server: Server):
    server.files['login'] = b'<html>'
    page = (200, dict(Content_Type='text/html; charset=utf-8', data=b'<html>Log in</html>'))
    for faults, message in (
        ([(302, dict(Location='/login')), page], r'a\.png: .*sends the web page .*/login instead of the file'),
        ([(302, dict(Location='/a.png'))] * 20, r'a\.png: HTTP 302 .*infinite loop'),
        ([(307, dict(Location='file:///etc/passwd'))], r"a\.png: HTTP 307 .*'file:///etc/passwd' is not allowed"),
    ):
        server.faults = [*faults]
        with pytest.raises(StorageRefusedError, match=message):
            read_image(f'{server.url}/a.png')
    server.files['page.html'] = b'<html>'
    assert storage.read(f'{server.url}/page.html') == b'<html>'


def test_a_server_may_compress_what_it_sends(server: Server):
    whole = (200, dict(Content_Encoding='gzip', data=gzip.compress(png())))
    server.faults = [whole]
    np.testing.assert_array_equal(read_image(f'{server.url}/a.png')[0], PICTURE)
    server.faults = [whole]
    assert storage.read(f'{server.url}/a.png', None, 1, 4) == b'PNG'


def test_a_name_and_a_password_in_an_address_are_sent(server: Server):
    server.files['a'] = b'abc'
    server.faults = [(302, dict(Location='/a'))]
    address = server.url.replace('://', '://me%40home:a%3Ab@')
    assert storage.read(f'{address}/other') == b'abc'
    assert server.logins == ['Basic bWVAaG9tZTphOmI=', None]  # where the server sends to is another's


@pytest.mark.parametrize(
    ('root', 'message'),
    [
        ('http:///a', r"'http:///a/a\.png' is not an address: no host given"),
        ('http://127.0.0.1:x', r"'http://127\.0\.0\.1:x/a\.png' is not an address: nonnumeric port: 'x'"),
        ('http://[::1', r'Invalid IPv6 URL'),
        ('nosuch://a', r"'nosuch://a.*: no backend reads addresses of nosuch://\. Give backend_args=dict\(backend="),
        ('file:///a', r"'file:///a.*: no backend reads addresses of file://\..* or only the path"),
    ],
)
def test_a_wrong_address_is_told_at_once(tmp_path: Path, monkeypatch, root: str, message: str):
    monkeypatch.setenv('OMNIMAE_STORAGE_PATIENCE', '100')
    (tmp_path / 'list.txt').write_text('a.png\n')
    with pytest.raises(ValueError, match=message):
        ImageDataset(root=root, ann_file=str(tmp_path / 'list.txt'))


def test_a_server_is_asked_for_files_before_training(server: Server):
    assert storage.exists(f'{server.url}/a') is False
    server.files['a'] = b''
    assert storage.exists(f'{server.url}/a') is True
    server.faults = [503]
    assert storage.exists(f'{server.url}/a') is True
    server.faults = [403]
    with pytest.raises(StorageRefusedError):
        storage.exists(f'{server.url}/a')


@pytest.mark.parametrize('value', ['soon', '-1', 'nan'])
def test_settings_are_numbers(monkeypatch, value: str):
    monkeypatch.setenv('OMNIMAE_STORAGE_PATIENCE', value)
    with pytest.raises(ValueError, match=f"OMNIMAE_STORAGE_PATIENCE='{value}' is no number of seconds. Give one, such"):
        storage_patience()
    monkeypatch.setenv('OMNIMAE_STORAGE_PATIENCE', '')
    assert (storage_patience(), patience.timeout()) == (120, 20)


# ---------------------------------------------------------------------------------------------------------------------
# A root that is gone


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return write_config(tmp_path / 'classify.py', CLASSIFY, write_data(tmp_path / 'data', num_movies=0))


@HOOKS.register_module()
class UnmountingHook(Hook):
    """Takes the folder ``root`` away before a step, for some seconds or for good; may send a signal then."""

    def __init__(self, root: str, step: int, seconds: float | None = None, number: int | None = None) -> None:
        self.root, self.step, self.seconds, self.number = Path(root), step, seconds, number

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: list) -> None:
        if runner.iter == self.step:
            self.root.rename(f'{self.root}.away')
            threading.Thread(target=self._go_on, daemon=True).start()

    def _go_on(self) -> None:
        while not any(patience._away_since[:]):  # until somebody has seen it
            time.sleep(0.02)
        if self.number is not None:
            os.kill(os.getpid(), self.number)
        if self.seconds is not None:
            time.sleep(self.seconds)
            Path(f'{self.root}.away').rename(self.root)


def train(config: Path, work: Path, **options: Any) -> Runner:
    runner = build_runner(config, work, options)
    runner.train()
    return runner


def assert_same(one: Runner, other: Runner) -> None:
    for name, weight in one.model.state_dict().items():
        assert torch.equal(other.model.state_dict()[name], weight), name


@pytest.mark.parametrize('num_workers', [0, 2])
def test_a_root_that_is_gone_for_a_moment_is_waited_for(config: Path, tmp_path: Path, monkeypatch, num_workers: int):
    torch.set_num_threads(1)
    monkeypatch.setenv('OMNIMAE_STORAGE_PATIENCE', '30')
    root, workers = tmp_path / 'data' / 'pictures', {'train_dataloader.num_workers': num_workers}
    hook = dict(type='UnmountingHook', root=str(root), step=1, seconds=0.3)
    whole, waited = train(config, tmp_path / 'whole'), train(config, tmp_path / 'work', custom_hooks=[hook], **workers)
    assert_same(whole, waited)
    assert not (tmp_path / 'work' / 'broken_files.txt').exists()
    [log] = (tmp_path / 'work').glob('*/*.log')
    told = re.findall(r'WARNING - (Storage .*)', log.read_text())
    assert len(told) == 2, told
    assert re.match(rf'Storage {root} is away, trying again for 30 s: .*\.png: No such file or directory', told[0])
    assert re.match(rf'Storage {root} is back after \d\.\d s\.', told[1])


@pytest.mark.parametrize(('num_workers', 'on_gpu', 'iteration'), [(0, False, 2), (2, False, 3), (0, True, 2)])
def test_a_run_whose_root_stays_away_saves_and_goes_on_later(
    config: Path, tmp_path: Path, monkeypatch, num_workers: int, on_gpu: bool, iteration: int
):
    torch.set_num_threads(1)
    whole = train(config, tmp_path / 'whole')
    if on_gpu:
        Streams(monkeypatch)  # it reads the next step before this one is over
    root, workers = tmp_path / 'data' / 'pictures', {'train_dataloader.num_workers': num_workers}
    hook = dict(type='UnmountingHook', root=str(root), step=1)
    with pytest.raises(SystemExit) as end:
        train(config, tmp_path / 'work', custom_hooks=[hook], **workers)
    assert end.value.code == PREEMPTED
    [log] = (tmp_path / 'work').glob('*/*.log')
    assert re.search(rf'ERROR - .* Storage {root} is away, as seen from .*: \d+ reads of .*\.png fail', log.read_text())
    assert 'The storage is away: saved' in log.read_text()
    assert not (tmp_path / 'work' / 'broken_files.txt').exists()
    saved = torch.load(tmp_path / 'work' / 'preempted.pth', weights_only=True)['meta']
    assert iteration <= saved['iter'] < 10  # steps whose files were read ahead are trained, too
    assert saved['epoch'] == saved['iter'] // 3
    Path(f'{root}.away').rename(root)
    assert_same(whole, train(config, tmp_path / 'work', resume=True, **workers))


@pytest.mark.parametrize('num_workers', [0, 2])
def test_a_signal_does_not_wait_for_a_storage(config: Path, tmp_path: Path, monkeypatch, num_workers: int):
    torch.set_num_threads(1)
    monkeypatch.setenv('OMNIMAE_STORAGE_PATIENCE', '100')
    root = tmp_path / 'data' / 'pictures'
    hook = dict(type='UnmountingHook', root=str(root), step=1, number=signal.SIGUSR1)
    begin = time.monotonic()
    with pytest.raises(SystemExit) as end:
        train(config, tmp_path / 'work', custom_hooks=[hook], **{'train_dataloader.num_workers': num_workers})
    assert end.value.code == PREEMPTED
    assert time.monotonic() - begin < 90
    [log] = (tmp_path / 'work').glob('*/*.log')
    assert 'Preempted: saved' in log.read_text()
    assert num_workers or f'Storage {root} is away, trying' in log.read_text()


def test_a_loaders_own_limit_counts_from_the_patience_on(config: Path, tmp_path: Path, monkeypatch):
    torch.set_num_threads(1)
    monkeypatch.setenv('OMNIMAE_STORAGE_PATIENCE', '30')
    hook = dict(type='UnmountingHook', root=str(tmp_path / 'data' / 'pictures'), step=1, seconds=2.0)
    limits = {'train_dataloader.num_workers': 1, 'train_dataloader.timeout': 1}
    assert train(config, tmp_path / 'work', custom_hooks=[hook], **limits).iter == 6


def test_a_file_that_is_missing_below_a_root_is_broken_as_ever(config: Path, tmp_path: Path, monkeypatch):
    (tmp_path / 'list.txt').write_text('a/0.png\nb/nothing.png\n../videos/beside.png\n')
    root = tmp_path / 'data' / 'pictures'
    source = ImageDataset(root=str(root), ann_file=str(tmp_path / 'list.txt'), allow_outside=True)
    with monkeypatch.context() as patch:
        patch.setattr(patience, '_insist', None)  # nothing is tried again
        for row in (1, 2):
            with pytest.raises(BrokenImageError, match='FileNotFoundError'):
                source[row]
    root.rename(tmp_path / 'gone')
    for row in (0, 2):  # beside the root, and away with it
        with pytest.raises(StorageAwayError, match=f'Storage {root} is away'):
            source[row]


def test_a_mount_point_without_its_file_system_is_away(tmp_path: Path, monkeypatch):
    (tmp_path / 'root').mkdir()
    (tmp_path / 'root' / 'a.png').write_bytes(png())
    source = ImageDataset(root=str(tmp_path / 'root'))
    (tmp_path / 'root' / 'a.png').unlink()
    with pytest.raises(BrokenImageError):
        source[0]
    monkeypatch.setitem(patience.ROOTS, str(tmp_path / 'root'), patience.Root(-1, True))  # of another file system
    with pytest.raises(StorageAwayError, match=f'Storage {tmp_path}/root is away'):
        source[0]


@DATASETS.register_module()
class LostImages(ImageDataset):
    """Has a storage that goes away in the fourth step."""

    reads = 0

    def read(self, path: str, rng: np.random.Generator | None) -> list[np.ndarray]:
        self.reads += 1
        if self.reads > 3 * 8 - 4:  # the third has four samples left
            raise StorageAwayError('Storage data is away')
        return super().read(path, rng)


def test_a_rank_without_data_comes_to_where_the_others_wait(config: Path, tmp_path: Path, monkeypatch):
    """The step is computed with zeros, left out on all ranks, and counted by none; in short, with one rank for all."""
    monkeypatch.setattr(loops, 'get_world_size', lambda: 2)
    whole = tmp_path / 'whole' / 'epoch_1.pth'
    train(config, tmp_path / 'whole', **{'train_dataloader.batch_size': 4})
    steps, run_iter = list[str](), loops.EpochTrainLoop.run_iter

    def noted(loop: Any, idx: int, data_batch: Any) -> None:
        steps.append(type(data_batch).__name__)
        run_iter(loop, idx, data_batch)

    monkeypatch.setattr(loops.EpochTrainLoop, 'run_iter', noted)
    kind = {'train_dataloader.dataset.sources.pictures.type': 'LostImages', 'train_dataloader.batch_size': 4}
    with pytest.raises(SystemExit) as end:
        train(config, tmp_path / 'work', **kind)
    assert end.value.code == PREEMPTED
    assert steps == [*['list'] * 3, '_NoData']
    ours, theirs = (torch.load(file, weights_only=True) for file in (tmp_path / 'work' / 'preempted.pth', whole))
    assert (ours['meta']['iter'], ours['meta']['epoch']) == (3, 1)
    torch.testing.assert_close(ours['state_dict'], theirs['state_dict'], rtol=0, atol=0)
    torch.testing.assert_close(ours['optimizer'], theirs['optimizer'], rtol=0, atol=0)


PROBE = """
from mmengine.dist import get_rank
from omnimae.data.datasets import ImageDataset
from omnimae.registry import DATASETS
from omnimae.stopping import StorageAwayError


@DATASETS.register_module()
class LostImages(ImageDataset):
    reads = 0

    def read(self, path, rng):
        self.reads += 1
        if get_rank() == 1 and self.reads > 12:  # in its fourth step of four samples
            raise StorageAwayError('Storage data is away')
        return super().read(path, rng)
"""


def test_ranks_save_and_stop_together_when_one_has_no_data(config: Path, tmp_path: Path):
    (tmp_path / 'probe.py').write_text(PROBE)
    config.write_text(config.read_text() + "\ncustom_imports = dict(imports=['probe'])\n")
    options = ['train_dataloader.batch_size=4', 'train_dataloader.dataset.sources.pictures.type=LostImages']
    words = [TOOLS / 'train.py', config, '--launcher', 'pytorch', '--work-dir', tmp_path / 'work', '--cfg-options']
    ranks = run_ranks(*words, *options, output=tmp_path, env=environment(PYTHONPATH=f'{tmp_path}:{ROOT}'))
    assert [rank.returncode for rank in ranks] == [PREEMPTED] * 2, ranks[0].stderr[-3000:]
    assert len(re.findall('ERROR - .* Storage data is away', ''.join(rank.stdout + rank.stderr for rank in ranks))) == 1
    [log] = (tmp_path / 'work').glob('*/*.log')
    assert 'Storage data is away' in log.read_text()  # of the main rank
    train(write_config(config, CLASSIFY, tmp_path / 'data'), tmp_path / 'whole')
    files = (tmp_path / 'work' / 'preempted.pth', tmp_path / 'whole' / 'epoch_1.pth')
    ours, whole = (torch.load(file, weights_only=True) for file in files)
    assert ours['meta']['iter'] == whole['meta']['iter'] == 3
    for name, weight in whole['state_dict'].items():
        if not name.endswith('qkv.bias'):  # keys have no gradient of their biases, and Adam makes steps of its rounding
            torch.testing.assert_close(ours['state_dict'][name], weight, rtol=0, atol=1e-6)


# ---------------------------------------------------------------------------------------------------------------------
# Disks that give errors


class Disk:
    """Makes reads of local files below ``root`` fail as the system would, from one read on, for so many reads."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
        self.root, self.begin, self.count, self.number = str(root), 0, 0, errno.EIO
        self.only = ''  # in the name of a file
        self.reads = 0
        pread, real_open = os.pread, open
        name_of = '/proc/self/fd/{}'.format

        def read_part(file: int, *args: int) -> bytes:
            return self._read(os.readlink(name_of(file)), pread, file, *args)

        def open_file(path: Any, *args: Any, **more: Any) -> Any:
            return self._read(path, real_open, path, *args, **more)

        monkeypatch.setattr(os, 'pread', read_part)
        monkeypatch.setattr('builtins.open', open_file)

    def _read(self, path: Any, call: Any, *args: Any, **more: Any) -> Any:
        if str(path).startswith(self.root) and self.only in str(path):
            self.reads += 1
            if self.begin <= self.reads - 1 < self.begin + self.count:
                raise OSError(self.number, os.strerror(self.number), str(path))
        return call(*args, **more)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Disk:
    return Disk(monkeypatch, tmp_path)


NUMBERS = [errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN, errno.EHOSTDOWN, errno.EMFILE]


@pytest.mark.parametrize('number', NUMBERS)
def test_a_disk_that_fails_for_a_moment_costs_no_file(tmp_path: Path, disk: Disk, monkeypatch, number: int):
    monkeypatch.setenv('OMNIMAE_STORAGE_PATIENCE', '20')
    (tmp_path / 'a.png').write_bytes(png())
    disk.number, disk.begin, disk.count = number, disk.reads, 2
    np.testing.assert_array_equal(read_image(str(tmp_path / 'a.png'))[0], PICTURE)
    disk.begin, disk.count = disk.reads, 10_000
    monkeypatch.setenv('OMNIMAE_STORAGE_PATIENCE', '0.1')
    with pytest.raises(StorageAwayError, match=rf'Storage {tmp_path} is away, .*: {os.strerror(number)}\. Go'):
        read_image(str(tmp_path / 'a.png'))


def test_a_file_on_a_bad_sector_is_broken_and_named(tmp_path: Path, disk: Disk):
    for name in ('a.png', 'b.png'):
        (tmp_path / name).write_bytes(png())
    disk.only, disk.count = 'a.png', 10_000
    message = r'a\.png: OSError: Input/output error, \d+ times in \d+\.\d s, but others can be read'
    with pytest.raises(BrokenImageError, match=message):
        read_image(str(tmp_path / 'a.png'))


def movie(path: Path) -> Path:
    write_data(path.parent / 'made', num_pictures=0, num_movies=1)
    return (path.parent / 'made' / 'movies' / '0.mp4').rename(path)


@pytest.mark.parametrize('reader', READERS)
def test_a_disk_that_fails_within_a_video_changes_no_frame(tmp_path: Path, disk: Disk, monkeypatch, reader: str):
    """At any of its reads: FFmpeg would take some for the end of the file, and show other frames."""
    path = str(movie(tmp_path / 'v.mp4'))

    def read() -> np.ndarray:
        with open_video(path, reader) as opened:
            return opened.read(0.2, 0.8, 6)

    disk.reads = 0
    expected, num_reads = read(), disk.reads
    assert num_reads > 3
    for first in range(num_reads):
        monkeypatch.setenv('OMNIMAE_STORAGE_PATIENCE', '20')
        disk.reads, disk.begin, disk.count, disk.number = 0, first, 1, NUMBERS[first % 3]
        np.testing.assert_array_equal(read(), expected)
        monkeypatch.setenv('OMNIMAE_STORAGE_PATIENCE', '0')
        disk.reads, disk.count = 0, 10_000
        with pytest.raises(StorageAwayError, match=rf'Storage {tmp_path} is away'):
            read()


def test_a_job_that_was_suspended_breaks_no_video(tmp_path: Path, monkeypatch):
    """Slurm suspends jobs for hours, and laptops sleep."""
    jumps = itertools.count(step=100.0)
    monkeypatch.setattr(time, 'monotonic', lambda: next(jumps))
    with open_video(str(movie(tmp_path / 'v.mp4'))) as opened:
        assert opened.read(0.2, 0.8, 6).shape == (6, 48, 64, 3)


def test_waiting_for_a_disk_is_not_the_time_of_a_decoder(tmp_path: Path, disk: Disk, monkeypatch):
    path = str(movie(tmp_path / 'v.mp4'))
    monkeypatch.setenv('OMNIMAE_STORAGE_PATIENCE', '20')
    monkeypatch.setattr(video, 'TIME_LIMIT', 10.0)
    monkeypatch.setattr(patience, 'FIRST_PAUSE', 40.0)
    clock, slept = time.monotonic, list[float]()
    monkeypatch.setattr(time, 'sleep', slept.append)
    monkeypatch.setattr(time, 'monotonic', lambda: clock() + sum(slept))
    disk.reads, disk.begin, disk.count = 0, 2, 1
    with open_video(path) as opened:
        assert opened.read(0.2, 0.8, 6).shape == (6, 48, 64, 3)
    assert sum(slept) > 10


def test_a_signal_ends_the_wait_for_a_video(tmp_path: Path, disk: Disk, monkeypatch):
    """PyAV drops what is no Exception where it asks for bytes."""
    path = str(movie(tmp_path / 'v.mp4'))
    monkeypatch.setenv('OMNIMAE_STORAGE_PATIENCE', '60')
    monkeypatch.setattr(patience, 'FIRST_PAUSE', 30.0)

    def end(*_: Any) -> None:
        raise WaitEnded

    for first in (0, 1, 3, 4):
        disk.reads, disk.begin, disk.count = 0, first, 10_000
        before = signal.signal(signal.SIGALRM, end)
        with pytest.raises(WaitEnded):  # noqa: PT012  # the signal may come sooner than the wait
            signal.setitimer(signal.ITIMER_REAL, 0.2)
            open_video(path)
        signal.signal(signal.SIGALRM, before)


def test_maps_of_a_video_are_read_and_not_mapped(tmp_path: Path, disk: Disk, monkeypatch):
    """A page that the disk does not give would be SIGBUS."""
    monkeypatch.setenv('OMNIMAE_STORAGE_PATIENCE', '20')
    maps = np.arange(12 * 8, dtype=np.uint16).reshape(12, 2, 4)
    np.save(tmp_path / 'm.npy', maps)
    with open_video(str(movie(tmp_path / 'v.mp4'))) as clock:
        opened = MapVideo(str(tmp_path / 'm.npy'), clock)
        disk.reads, disk.begin, disk.count = 0, 0, 2
        np.testing.assert_array_equal(opened.read_at(np.array([0.0, 0.31, 1.1]))[..., 0], maps[[0, 3, 11]])
        assert disk.reads == 3 + 2
        os.truncate(tmp_path / 'm.npy', 200)
        with pytest.raises(BrokenFileError, match=r'm\.npy: frame 11: '):
            opened.read_at(np.array([1.1]))


# ---------------------------------------------------------------------------------------------------------------------
# Verdicts: away or broken


def test_a_wrong_setting_is_told_at_the_start_and_of_no_file(tmp_path: Path, monkeypatch):
    (tmp_path / 'root').mkdir()
    (tmp_path / 'root' / 'a.png').write_bytes(png())
    monkeypatch.setenv('OMNIMAE_STORAGE_PATIENCE', '2min')
    with pytest.raises(ValueError, match="OMNIMAE_STORAGE_PATIENCE='2min' is no number of seconds"):
        ImageDataset(root=str(tmp_path / 'root'))
    monkeypatch.delenv('OMNIMAE_STORAGE_PATIENCE')
    monkeypatch.setenv('OMNIMAE_STORAGE_TIMEOUT', '2min')
    with pytest.raises(ValueError, match="^OMNIMAE_STORAGE_TIMEOUT='2min' is no number of seconds"):
        storage.exists('http://127.0.0.1:1/a')


def test_workers_that_begin_anew_know_the_roots(tmp_path: Path, monkeypatch):
    """As those of multiprocessing_context='spawn' do."""
    root = tmp_path / 'root'
    root.mkdir()
    (root / 'a.png').write_bytes(png())
    data = pickle.dumps(ImageDataset(root=str(root)))
    root.rename(tmp_path / 'gone')
    patience.ROOTS.clear()
    patience._read_well.clear()
    with pytest.raises(StorageAwayError, match=f'Storage {root} is away'):
        pickle.loads(data)[0]


def test_a_file_that_is_missing_below_a_root_that_may_not_be_listed_is_broken(tmp_path: Path, monkeypatch):
    """A folder may be searched by names alone (mode 711)."""
    root = tmp_path / 'root'
    root.mkdir()
    (root / 'a.png').write_bytes(png())
    (tmp_path / 'list.txt').write_text('a.png\nb.png\n')
    for name in ('listdir', 'scandir'):
        real = getattr(os, name)

        def ask(path: Any = '.', real: Any = real) -> Any:
            if path == str(root):
                raise PermissionError(errno.EACCES, 'Permission denied', path)
            return real(path)

        monkeypatch.setattr(os, name, ask)
    source = ImageDataset(root=str(root), ann_file=str(tmp_path / 'list.txt'))
    with pytest.raises(BrokenImageError, match='FileNotFoundError'):
        source[1]


def test_a_file_that_is_missing_elsewhere_is_not_away_with_another_root(tmp_path: Path):
    for name in ('root', 'other'):
        (tmp_path / name).mkdir()
        (tmp_path / name / 'a.png').write_bytes(png())
    ImageDataset(root=str(tmp_path / 'root'))
    shutil.rmtree(tmp_path / 'root')
    with pytest.raises(BrokenImageError, match='FileNotFoundError'):
        read_image(str(tmp_path / 'other' / 'b.png'))


def test_when_all_files_that_were_read_are_missing_the_storage_is_away(server: Server, tmp_path: Path, monkeypatch):
    """A server whose disk is gone says 404; links lead to a disk that is gone."""
    monkeypatch.setenv('OMNIMAE_STORAGE_PATIENCE', '20')
    (tmp_path / 'root').mkdir()
    for folder in ('disk', 'root'):
        (tmp_path / folder).mkdir(exist_ok=True)
    for name in ('a.png', 'b.png', 'c.png'):
        server.files[name] = png()
        (tmp_path / 'disk' / name).write_bytes(png())
        (tmp_path / 'root' / name).symlink_to(tmp_path / 'disk' / name)
    links = ImageDataset(root=str(tmp_path / 'root'))
    addresses = [f'{server.url}/{name}.png' for name in 'abc']
    files, server_files = tmp_path / 'disk', server.files

    def lose() -> None:
        server.files = {}
        files.rename(tmp_path / 'gone')

    def find() -> None:
        server.files = server_files
        (tmp_path / 'gone').rename(files)

    for row in (0, 1):
        links[row], read_image(addresses[row])
    lose()
    threading.Timer(0.3, find).start()
    assert links[2]['clips']['rgb'].shape == (1, 1, 3, 1, 40, 48)
    assert read_image(addresses[2]).shape == (1, 40, 48, 3)
    monkeypatch.setenv('OMNIMAE_STORAGE_PATIENCE', '0.3')
    lose()
    with pytest.raises(StorageAwayError, match=rf'Storage {tmp_path}/root is away, .*: No such file or directory\. Go'):
        links[2]
    with pytest.raises(StorageAwayError, match=rf'Storage {server.url} is away, .*: HTTP 404 Not Found\. Go'):
        read_image(addresses[2])
    find()
    (tmp_path / 'disk' / 'c.png').unlink()
    del server.files['c.png']
    for read in (lambda: links[2], lambda: read_image(addresses[2])):
        begin = time.monotonic()
        with pytest.raises(BrokenImageError, match='FileNotFoundError'):
            read()
        assert time.monotonic() - begin < 0.3


def test_an_empty_file_is_no_sign_that_a_disk_can_be_read(tmp_path: Path, disk: Disk):
    for name in ('a.png', 'b.png'):
        (tmp_path / name).write_bytes(png())
    (tmp_path / 'empty').touch()
    disk.only, disk.count = '.png', 10_000
    with pytest.raises(StorageAwayError, match=f'Storage {tmp_path} is away'):
        read_image(str(tmp_path / 'a.png'))


def test_a_part_that_a_server_did_not_mean_is_not_taken_for_another(server: Server):
    server.files['a'] = bytes(range(100))
    for told in ('bytes 0-9/100', 'bytes 20-29/100', 'items 10-19/100', ''):
        server.faults = [(206, dict(Content_Range=told, data=b'0123456789'))]
        with pytest.raises(ConnectionError, match=rf"asked for the bytes from 10 on, but the server sent '{told}'"):
            storage._read(f'{server.url}/a', None, 10, 20)


@pytest.mark.parametrize('has_folder', [True, False])
def test_a_root_that_is_missing_at_the_start_is_told_as_that(tmp_path: Path, has_folder: bool):
    root = tmp_path / 'nowhere' / 'root'
    (tmp_path / 'list.txt').write_text('a.png\nb.png\n')
    if has_folder:
        root.mkdir(parents=True)
        message = r'None of the 2 files looked for exist, the first is .*root/a\.png.*relative to root'
    else:
        message = rf"root='{root}' is not a folder. Correct the path, link the data to it, or mount its storage"
        with pytest.raises(ValueError, match=message):
            ImageDataset(root=str(root))
    with pytest.raises(ValueError, match=message):
        ImageDataset(root=str(root), ann_file=str(tmp_path / 'list.txt'))


# ---------------------------------------------------------------------------------------------------------------------
# Validation, tests


@pytest.mark.parametrize('where', ['validation', 'k-NN'])
def test_a_root_that_is_gone_in_an_evaluation_saves_and_repeats_it(config: Path, tmp_path: Path, where: str):
    torch.set_num_threads(1)
    root = tmp_path / 'held out'
    shutil.copytree(tmp_path / 'data' / 'pictures', root)
    text = config.read_text() + f'\ntest_dataloader["dataset"]["sources"]["pictures"]["root"] = {str(root)!r}\n'
    if where == 'validation':
        text += 'val_dataloader, val_evaluator, val_cfg = test_dataloader, test_evaluator, dict(type="ValLoop")\n'
    else:
        loaders = 'bank_dataloader=test_dataloader, query_dataloader=test_dataloader'
        text += f'custom_hooks = [dict(type="KNNHook", interval=1, k=3, {loaders})]\n'
    config.write_text(text)
    whole = train(config, tmp_path / 'whole')
    hook = f'dict(type="UnmountingHook", root={str(root)!r}, step=2)'
    hooks = 'custom_hooks += ' if where == 'k-NN' else 'custom_hooks = '
    config.write_text(f'{text}{hooks}[{hook}]\n')
    with pytest.raises(SystemExit) as end:
        train(config, tmp_path / 'work')
    assert end.value.code == PREEMPTED
    assert torch.load(tmp_path / 'work' / 'preempted.pth', weights_only=True)['meta']['iter'] == 3
    Path(f'{root}.away').rename(root)
    config.write_text(text)
    resumed = train(config, tmp_path / 'work', resume=True)
    assert_same(whole, resumed)
    name = dict(validation='accuracy/top1', **{'k-NN': 'knn/top1'})[where]
    logs = [''.join(log.read_text() for log in (tmp_path / work).glob('*/*.log')) for work in ('whole', 'work')]
    values = [re.findall(rf'{name}: (0?\.?\d+\.\d+)', log) for log in logs]
    assert len(values[0]) == 2
    assert values[0] == values[1]


def test_programs_that_train_nothing_have_the_exit_codes_of_a_training(monkeypatch, capsys):
    codes = list[int]()
    monkeypatch.setattr(compat, 'exit_now', codes.append)
    monkeypatch.setattr(sys, 'excepthook', sys.excepthook)
    setup_environment()
    for error in (StorageAwayError('x is away'), StorageRefusedError('x refuses'), ValueError('x')):
        sys.excepthook(type(error), error, None)
    assert codes == [75, 1]
    assert 'StorageAwayError: x is away' in capsys.readouterr().err


def test_preparing_says_nothing_of_files_whose_disk_is_away(tmp_path: Path, disk: Disk, monkeypatch):
    (tmp_path / 'p').mkdir()
    paths = ['p/a.png', 'p/b.png', 'p/nothing.png']
    for path in paths[:2]:
        (tmp_path / path).write_bytes(png())
    checks = check_files(tmp_path, paths, 'image')
    assert [checks[path].reason for path in paths] == [None, None, 'the file is missing']
    (tmp_path / 'checked_files.jsonl').unlink()
    disk.only, disk.count = '.png', 10_000
    with pytest.raises(StorageAwayError, match=f'Storage {tmp_path} is away'):
        check_files(tmp_path, paths, 'image')
    stat = os.stat

    def stale(path: Any, **more: Any) -> os.stat_result:
        if str(path).endswith('.png'):
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), str(path))
        return stat(path, **more)

    monkeypatch.setattr(os, 'stat', stale)
    with pytest.raises(StorageAwayError, match=f'Storage {tmp_path} is away, .*Stale file handle'):
        check_files(tmp_path, paths, 'image')
    assert (tmp_path / 'checked_files.jsonl').read_text() == ''


def test_a_step_that_is_awaited_ahead_ends_no_epoch(monkeypatch):
    """While the device computes a step, the next one does not come: what ends the loop is told after this step."""
    Streams(monkeypatch)

    def steps() -> Iterator[list[dict[str, Any]]]:
        yield [{'ids': ['a']}]
        raise StorageAwayError('x is away')

    feed = Feed(steps(), preprocessor=None)
    assert next(feed) == [{'ids': ['a']}]
    feed.look_ahead()
    with pytest.raises(StorageAwayError, match='x is away'):
        next(feed)
