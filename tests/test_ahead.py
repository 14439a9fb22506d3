"""Reading ahead: every source has several reads in flight, and no sample, order or error is another one for it."""

from __future__ import annotations

import mmap
import os
import pickle
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.fileio import BaseStorageBackend, LocalBackend, register_backend
from PIL import Image
from test_storage import Handler, Server
from tiny_run import PRETRAIN, build_runner, write_config, write_data
from torch.utils.data import DataLoader, Dataset

from omnimae.data import lookahead, storage, transport
from omnimae.data.aligned import AlignedDataset
from omnimae.data.datasets import MixedDataset, collate_clips
from omnimae.data.lookahead import NUM_KEYS, following_keys, look_ahead
from omnimae.data.samplers import EvalBatchSampler, EvalSampler, MixedBatchSampler, MixedSampler
from omnimae.data.storage import ahead, patience
from omnimae.data.storage.ahead import ReadAhead
from omnimae.inputs import Pipeline, PreparedInputs, default_source, list_inputs
from omnimae.registry import DATASETS
from omnimae.stopping import StorageAwayError, WaitEnded

CROP = [dict(type='RandomResizedCrop', size=16)]
CENTRE = [dict(type='ResizeShort', size=16), dict(type='CenterCrop', size=(16, 16))]


class SlowBackend(BaseStorageBackend):
    """Local files, each of which takes a while; one instance must not be used by two threads at once."""

    most = np.frombuffer(mmap.mmap(-1, 8), np.int64)  # in flight at once in a process; a worker writes here, too
    in_flight: Counter[int] = Counter()  # by process: a worker is forked while reads are in flight here
    lock = threading.Lock()
    read: list[str] = []

    def __init__(self, name: str = '') -> None:
        self.is_busy = False

    def get(self, filepath: Any) -> bytes:
        assert not self.is_busy
        self.is_busy = True
        with self.lock:
            self.in_flight[os.getpid()] += 1
            self.most[:] = max(self.most, self.in_flight[os.getpid()])
            self.read.append(str(filepath))
        self.pause()
        with self.lock:
            self.in_flight[os.getpid()] -= 1
        self.is_busy = False
        return Path(filepath).read_bytes()

    def get_text(self, filepath: Any, encoding: str = 'utf-8') -> str:
        return Path(filepath).read_text(encoding)

    def pause(self) -> None:
        time.sleep(0.005)


def wait_until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.002)


def end_together(monkeypatch: pytest.MonkeyPatch, count: int, after: int = 1) -> None:
    """Reads end when so many are in flight at once; the first ones show how large files are."""

    def pause(self: SlowBackend) -> None:
        wait_until(lambda: len(self.read) <= after or self.most >= count)

    monkeypatch.setattr(SlowBackend, 'pause', pause)


register_backend('slow_in_tests', SlowBackend, force=True)
SLOW = dict(backend='slow_in_tests')
SLOW_ARGS = dict(backend_args=SLOW)


@pytest.fixture(autouse=True)
def _however_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are read ahead from the first one on, and all of them are."""
    monkeypatch.setattr(ahead, 'FAST', -1.0)
    monkeypatch.setattr(ahead, 'PROBED', sys.maxsize)


@pytest.fixture(autouse=True)
def _counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Each test counts its own reads: those that an earlier one planned have ended."""
    monkeypatch.setattr(ahead, 'IDLE', 0.05)
    SlowBackend.most[:], SlowBackend.read = 0, []
    before = threading.enumerate()  # one of another test may wait for a storage that never comes
    yield
    for thread in threading.enumerate():
        if thread.name == 'read ahead' and thread not in before:
            thread.join(10)
            assert not thread.is_alive()


@pytest.fixture(scope='module')
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures, videos, folders of frames, and pictures with maps, with a list of each: other storages list nothing."""
    root = write_data(tmp_path_factory.mktemp('data'), num_pictures=40, num_movies=6)
    rng = np.random.default_rng(0)
    for number in range(6):
        (root / 'frames' / f'{number}').mkdir(parents=True)
        for frame in range(12):
            Image.fromarray(rng.integers(0, 256, (20, 24, 3), np.uint8)).save(
                root / 'frames' / f'{number}' / f'{frame:03}.png'
            )
        for folder, shape in (('rgb', (20, 24, 3)), ('depth', (20, 24))):
            (root / 'aligned' / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, shape, np.uint8)).save(root / 'aligned' / folder / f'{number}.png')
    (root / 'frames.txt').write_text(''.join(f'{number} 12 0\n' for number in range(6)))
    for folder in ('pictures', 'movies'):
        files = sorted(path.relative_to(root / folder) for path in (root / folder).rglob('*') if path.is_file())
        (root / f'{folder}.txt').write_text(''.join(f'{path}\n' for path in files))
    return root


def sources_of(data: Path, transforms: list[dict] = CROP, **options: Any) -> dict[str, dict]:
    def listed(folder: str) -> dict[str, Any]:
        return dict(root=str(data / folder), ann_file=str(data / f'{folder}.txt'), transforms=transforms, **options)

    clips = dict(num_frames=4, clip_seconds=0.5)
    return dict(
        pictures=dict(type='ImageDataset', **listed('pictures')),
        movies=dict(type='VideoDataset', replicas=2, **clips, **listed('movies')),
        frames=dict(type='FrameDataset', frame_rate=12, template='{:03}.png', **clips, **listed('frames')),
        counted=dict(
            type='FrameDataset', frame_rate=12, template='{:03}.png', sampling='strided', stride=2, num_frames=3,
            new_clips=True, replicas=2, **listed('frames'),
        ),
    )  # fmt: skip


def loader_of(
    sources: dict[str, dict],
    *,
    reads: int = 16,
    workers: int = 0,
    training: bool = True,
    start: int = 0,
    size: int = 4,
    rank: int = 0,
    ranks: int = 1,
) -> DataLoader:
    dataset = MixedDataset(sources=sources, reads_in_flight=reads)
    batches: Any
    if training:
        sampler = MixedSampler(dataset=dataset, seed=3)
        batches = MixedBatchSampler(sampler=sampler, batch_size=size, rank=rank, world_size=ranks)
        batches.start_step = start
    else:
        rows = EvalSampler(dataset=dataset, rank=rank, world_size=ranks)
        batches = EvalBatchSampler(sampler=rows, batch_size=size)
    return DataLoader(dataset, batch_sampler=batches, collate_fn=collate_clips, num_workers=workers)


def contents(loader: Iterable[dict]) -> list[tuple]:
    """All that a loader gives, to be compared."""
    return [
        (batch['ids'], batch['failures'], batch['clips']['rgb'].numpy().tobytes() if 'clips' in batch else None)
        for batch in loader
    ]


# ---- The same samples ----


@pytest.mark.parametrize('training', [True, False])
@pytest.mark.parametrize('workers', [0, 2])
def test_batches_are_those_without_bit_for_bit(data, tmp_path, training, workers):
    shutil.copytree(data, root := tmp_path / 'data')
    broken = root / 'pictures' / 'a' / '4.png'
    broken.write_bytes(broken.read_bytes()[:100])
    sources = sources_of(root, CROP if training else CENTRE, **SLOW_ARGS)
    plain = contents(loader_of(sources, reads=0, training=training))
    assert any(failures for _, failures, _ in plain)
    assert contents(loader_of(sources, training=training, workers=workers)) == plain
    rest = contents(loader_of(sources, training=training, workers=workers, start=5))
    assert rest == (plain[5:] if training else plain)


def test_ranks_share_the_samples_of_one(data):
    sources = sources_of(data)
    for rank in (0, 1):
        one, two = (contents(loader_of(sources, reads=reads, rank=rank, ranks=2)) for reads in (0, 16))
        assert one == two


def test_every_file_is_read_once_and_none_that_no_sample_needs(data, monkeypatch):
    monkeypatch.setattr(patience, '_read_well', {})  # one frame is missing, so one that was read is asked for again
    monkeypatch.setattr(patience, 'WITNESSES', 0)
    sources = sources_of(data, **SLOW_ARGS)
    del sources['counted']  # which has the files of 'frames', that are read once for both
    contents(loader_of(sources))
    with_it, SlowBackend.read = sorted(SlowBackend.read), []
    contents(loader_of(sources, reads=0))
    assert with_it == sorted(SlowBackend.read)


def test_files_of_aligned_modalities_are_read_ahead(data):
    modalities = dict(rgb={}, depth={})
    source = AlignedDataset(root=str(data / 'aligned'), modalities=modalities, transforms=CROP)
    files = [Path(path).relative_to(data / 'aligned').as_posix() for path in source.files_of_sample(2)]
    assert sorted(files) == ['depth/2.png', 'rgb/2.png']


# ---- Latency ----


@pytest.mark.parametrize('workers', [0, 1])
def test_latency_disappears(data, monkeypatch, workers):
    """No read ends before 13 are in flight: 40 take the time of four."""
    together = threading.Barrier(13)
    monkeypatch.setattr(SlowBackend, 'pause', lambda self: len(self.read) > 1 and together.wait(60))
    sources = dict(pictures=sources_of(data, **SLOW_ARGS)['pictures'])
    assert [failures for _, failures, _ in contents(loader_of(sources, workers=workers))] == [[]] * 10


@pytest.mark.parametrize('training', [True, False])
@pytest.mark.parametrize('workers', [0, 1])
@pytest.mark.parametrize('kind', ['pictures', 'movies', 'frames'])
def test_every_loader_has_many_reads_in_flight(data, monkeypatch, kind, workers, training):
    end_together(monkeypatch, count := 5 if kind == 'movies' else 10)
    sources = {kind: sources_of(data, CROP if training else CENTRE, **SLOW_ARGS)[kind]}
    contents(loader_of(sources, workers=workers, training=training, size=2))  # 2 videos, or one in two crops
    assert SlowBackend.most >= count


def test_small_batches_look_beyond_themselves(data, monkeypatch):
    """Of one file each: what comes next is known from the batches that follow."""
    end_together(monkeypatch, 10)
    loader = loader_of(dict(pictures=sources_of(data, **SLOW_ARGS)['pictures']), size=1)
    contents(loader)
    assert 10 <= SlowBackend.most <= 17


def test_http_has_many_reads_in_flight(data, monkeypatch):
    class Late(Handler):
        count = in_flight = most = 0
        lock = threading.Lock()

        def do_GET(self) -> None:  # noqa: N802  # the name is http.server's
            if self.headers['Range'] is not None:  # is the file there?
                return super().do_GET()
            with self.lock:
                Late.count, Late.in_flight = Late.count + 1, Late.in_flight + 1
                Late.most = max(Late.most, Late.in_flight)
            wait_until(lambda: Late.count == 1 or Late.most >= 4)  # the server accepts five at once
            super().do_GET()
            with self.lock:
                Late.in_flight -= 1

    server = Server()
    server.RequestHandlerClass = Late
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        pictures = data / 'pictures'
        server.files = {f'p/{path.relative_to(pictures)}': path.read_bytes() for path in pictures.rglob('*.png')}
        sources = dict(pictures=dict(sources_of(data)['pictures']))
        plain = contents(loader_of(sources, reads=0))
        sources['pictures']['root'] = f'{server.url}/p'
        assert contents(loader_of(sources)) == plain
        assert Late.most >= 4
    finally:
        server.shutdown()
        server.server_close()


# ---- What a batch says of those that follow ----


@pytest.mark.parametrize('num_workers', [1, 3])
@pytest.mark.parametrize('size', [1, 3, 50])
def test_a_worker_knows_its_next_keys(monkeypatch, size, num_workers):
    class Info:
        pass

    Info.num_workers = num_workers
    monkeypatch.setattr(lookahead, 'get_worker_info', lambda: Info)
    plain = [[size * number + i for i in range(size)] for number in range(200)]
    batches = [pickle.loads(pickle.dumps(batch)) for batch in look_ahead(iter(plain))]
    assert batches == plain
    for number, batch in enumerate(batches):
        own = [key for later in plain[number + num_workers :: num_workers] for key in later]
        known = following_keys(batch)
        assert known == own[: len(known)]
        assert len(known) >= min(len(own), NUM_KEYS, 64 // num_workers * min(size, NUM_KEYS))
        assert len(pickle.dumps(batch)) < 2**16


def test_nothing_is_drawn_before_the_first_batch():
    drawn = []

    def batches() -> Iterator[list[int]]:
        drawn.append(True)
        yield [1]

    iterator = look_ahead(batches())
    assert not drawn
    assert next(iterator) == [1]


# ---- One process ----


def numbered(folder: Path, count: int, size: int = 1000) -> list[str]:
    folder.mkdir(exist_ok=True)
    for number in range(count):
        (folder / f'{number}').write_bytes(bytes([number]) * size)
    return [str(folder / f'{number}') for number in range(count)]


def read_all(reads: ReadAhead, paths: list[str], backend_args: Any = None, window: int = 10) -> list[int]:
    """The first byte of each file, read with a plan of the next ones."""
    found = []
    for place, path in enumerate(paths):
        reads.plan(paths[place : place + window], lambda path: [(path, backend_args)])
        content, is_of_use = reads.sample(path, lambda path: storage.read(path, backend_args))
        assert is_of_use
        found.append(content[0])
    return found


def test_reads_in_flight_are_bounded_and_in_order(tmp_path, monkeypatch):
    together = threading.Barrier(3)
    monkeypatch.setattr(SlowBackend, 'pause', lambda self: len(self.read) > 1 and together.wait(60))
    paths = numbered(tmp_path, 31)
    assert read_all(ReadAhead(3), paths, SLOW) == list(range(31))
    assert SlowBackend.most in (3, 4)  # with the one that is waited for
    assert len(SlowBackend.read) == 31
    assert [int(Path(path).name) for path in SlowBackend.read] == pytest.approx(list(range(31)), abs=4)


def test_memory_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(ahead, 'MAX_BYTES', 4500)
    reads, paths = ReadAhead(8), numbered(tmp_path, 20)
    reads.plan(paths, lambda path: [(path, SLOW)])
    wait_until(lambda: len(SlowBackend.read) == 4)
    time.sleep(0.1)
    assert len(SlowBackend.read) == 4
    assert read_all(reads, paths, SLOW) == list(range(20))
    assert SlowBackend.most <= 5


def test_files_larger_than_memory_allows_are_read_when_they_are_wanted(tmp_path, monkeypatch):
    monkeypatch.setattr(ahead, 'MAX_BYTES', 500)
    paths = numbered(tmp_path, 6)
    assert read_all(ReadAhead(8), paths, SLOW) == list(range(6))
    assert SlowBackend.most == 1
    assert len(SlowBackend.read) == 6


def test_after_one_large_file_small_ones_are_read_ahead_again(tmp_path, monkeypatch):
    monkeypatch.setattr(ahead, 'MAX_BYTES', 50_000)
    end_together(monkeypatch, 8, after=30)
    paths = numbered(tmp_path, 40, size=500)
    Path(paths[0]).write_bytes(bytes(100_000))
    assert read_all(ReadAhead(8), paths, SLOW, window=20) == list(range(40))
    assert SlowBackend.most in (8, 9)


def test_a_large_local_file_is_read_in_place_and_a_small_one_comes_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(ahead, 'WHOLE', 5000)
    monkeypatch.setattr(ahead, 'HINT', 1000)
    [small, other], [large] = numbered(tmp_path, 2), numbered(tmp_path / 'large', 1, 6000)
    reads = ReadAhead(2)
    reads.plan([small, large, other], lambda path: [(path, None)])
    assert reads.sample(small, storage.read_in_place) == (bytes(1000), True)
    assert reads.sample(large, storage.read_in_place) == (large, True)
    assert storage.read_in_place(other) == other  # outside of a sample nothing is taken


def test_where_no_thread_can_be_started_files_are_read_when_they_are_wanted(tmp_path, monkeypatch):
    """A container may bound the number of processes and threads."""

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, 'start', refuse)
    assert read_all(ReadAhead(8), numbered(tmp_path, 40), SLOW, window=20) == list(range(40))


def test_an_error_is_raised_for_its_file_and_for_no_other(tmp_path):
    paths = numbered(tmp_path, 6)
    os.remove(paths[2])
    reads = ReadAhead(4)
    reads.plan(paths, lambda path: [(path, SLOW)])
    for number, path in enumerate(paths):
        if number == 2:
            with pytest.raises(FileNotFoundError, match=path):
                reads.sample(path, lambda path: storage.read(path, SLOW))
        else:
            assert reads.sample(path, lambda path: storage.read(path, SLOW))[0][0] == number
    assert SlowBackend.read.count(paths[2]) == 1  # which could take minutes; whether others are there is asked once
    assert len(SlowBackend.read) == 7


def test_a_storage_that_is_away_stops_the_batch_that_needs_it(data, monkeypatch):
    monkeypatch.setenv('OMNIMAE_STORAGE_PATIENCE', '0.1')

    def get(self: Any, path: Any) -> bytes:
        raise ConnectionResetError('gone')

    monkeypatch.setattr(SlowBackend, 'get', get)
    with pytest.raises(StorageAwayError, match='gone'):
        contents(loader_of(sources_of(data, **SLOW_ARGS), workers=1))


def test_the_same_path_in_two_storages_is_two_files(tmp_path):
    [path] = numbered(tmp_path, 1)
    reads = ReadAhead(2)
    reads.plan([0, 1], lambda key: [(path, [None, dict(SLOW, name='b')][key])])
    assert reads.sample(0, lambda key: storage.read(path))[1]
    assert reads.sample(1, lambda key: storage.read(path, dict(SLOW, name='b')))[1]
    assert SlowBackend.read == [path]


def test_a_file_of_several_samples_is_read_once(tmp_path):
    [path] = numbered(tmp_path, 1)
    reads = ReadAhead(2)
    reads.plan(range(4), lambda key: [(path, SLOW)])
    assert [reads.sample(key, lambda key: storage.read(path, SLOW))[0][0] for key in range(4)] == [0] * 4
    assert SlowBackend.read == [path]


def test_what_is_planned_no_more_is_forgotten_and_threads_end(tmp_path, monkeypatch):
    """As when an epoch ends early, or a loader begins anew."""
    monkeypatch.setattr(ahead, 'IDLE', 0.05)
    paths = numbered(tmp_path, 20)
    reads = ReadAhead(4)
    before = set(threading.enumerate())
    reads.plan(paths[:10], lambda path: [(path, SLOW)])
    mine = set(threading.enumerate()) - before
    assert len(mine) == 4
    assert all(thread.daemon for thread in mine)
    reads.plan(paths[15:], lambda path: [(path, SLOW)])
    assert set(reads._reads) == {(path, repr(SLOW)) for path in paths[15:]}
    assert [reads.sample(path, lambda path: storage.read(path, SLOW))[0][0] for path in paths[15:]] == [*range(15, 20)]
    wait_until(lambda: not any(thread.is_alive() for thread in mine))
    assert (reads._num_alive, reads._num_in_flight, reads._bytes_unused) == (0, 0, 0)


def test_a_fork_begins_anew(tmp_path, monkeypatch):
    paths = numbered(tmp_path, 8)
    reads = ReadAhead(4)
    read_all(reads, paths, SLOW)
    parent, forked = os.getpid(), threading.Event()
    monkeypatch.setattr(SlowBackend, 'pause', lambda self: os.getpid() == parent and forked.wait(60))
    reads.plan(paths, lambda path: [(path, SLOW)])
    wait_until(lambda: SlowBackend.in_flight[parent] == 4)  # the fork knows of them, and has no threads
    process = os.fork()
    if process == 0:
        signal.alarm(60)
        os._exit(0 if read_all(reads, paths, SLOW) == list(range(8)) else 1)
    forked.set()
    assert os.waitpid(process, 0) == (process, 0)


def test_a_wait_for_a_read_can_be_ended(tmp_path, monkeypatch):
    """A signal ends it, though the read itself hangs; and what hangs keeps nobody waiting at the exit."""
    hanging = threading.Event()
    monkeypatch.setattr(SlowBackend, 'pause', lambda self: hanging.wait(60))
    [path] = numbered(tmp_path, 1)

    def stop(*_: Any) -> None:
        raise WaitEnded

    before = signal.signal(signal.SIGALRM, stop)
    try:
        reads, begin = ReadAhead(1), time.monotonic()
        reads.plan([path], lambda path: [(path, SLOW)])
        wait_until(lambda: bool(SlowBackend.read))
        with pytest.raises(WaitEnded):  # noqa: PT012  # the signal may come sooner than the wait
            signal.setitimer(signal.ITIMER_REAL, 0.3)
            reads.sample(path, lambda path: storage.read(path, SLOW))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        hanging.set()
    assert time.monotonic() - begin < 50


# ---- Sources of others ----


@DATASETS.register_module()
class Foreign(Dataset):
    """Knows nothing of reading ahead."""

    modality, replicas = 'image', 1

    def __len__(self) -> int:
        return 100

    def __getitem__(self, key: Any) -> dict:
        return dict(clip=torch.full((1, 3, 1, 2, 2), key.index), modality='image', id=str(key.index))


@DATASETS.register_module()
class ByItself(Foreign):
    """Says which files it reads, and reads them past `storage`."""

    backend_args = SLOW

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def files_of_sample(self, key: Any) -> list[str]:
        return [f'{self.folder}/{key.index}']


def test_a_source_that_knows_nothing_of_it_works():
    assert len(contents(loader_of(dict(foreign=dict(type='Foreign'))))) == 25


def test_files_are_not_read_ahead_for_a_source_that_reads_by_itself(tmp_path):
    numbered(tmp_path, 100)
    contents(loader_of(dict(own=dict(type='ByItself', folder=str(tmp_path))), size=1))
    assert len(SlowBackend.read) <= NUM_KEYS + 1  # what was planned when the first was read


@pytest.mark.parametrize('value', [-1, '16', 1.5])
def test_what_is_no_number_of_reads_is_refused(data, value):
    with pytest.raises(ValueError, match=rf'reads_in_flight={value!r} is no whole number from 0 on\. Give 0'):
        MixedDataset(sources=sources_of(data), reads_in_flight=value)


@pytest.mark.parametrize('workers', [0, 1])
def test_files_of_an_inferencer_are_read_ahead(data, monkeypatch, workers):
    items = list_inputs(str(data / 'pictures'))
    pipelines = {'image': Pipeline(default_source('image', (1, 16, 16)), 'image')}

    def prepared() -> list[bytes]:
        loader = DataLoader(PreparedInputs(items, pipelines), batch_size=None, num_workers=workers)
        return [clip.numpy().tobytes() for clip, _ in loader]

    plain, backend = prepared(), SlowBackend()
    end_together(monkeypatch, 10)

    def get(self: Any, path: Any) -> bytes:
        backend.is_busy = False  # what threads may share
        return backend.get(path)

    monkeypatch.setattr(LocalBackend, 'get', get)
    assert prepared() == plain
    assert SlowBackend.most >= 10


def test_a_run_ends_with_the_weights_of_one_without(data, tmp_path):
    weights = []
    for reads in (0, 16):
        options = {'train_dataloader.dataset.reads_in_flight': reads}
        runner = build_runner(write_config(tmp_path / 'c.py', PRETRAIN, data), tmp_path / f'{reads}', options)
        runner.train()
        weights.append(runner.model.state_dict())
    assert all(torch.equal(x, weights[1][name]) for name, x in weights[0].items())


# ---- The way to the main process ----


def mapping_of(x: torch.Tensor) -> str:
    for line in Path('/proc/self/maps').read_text().splitlines():
        begin, end = (int(number, 16) for number in line.split()[0].split('-'))
        if begin <= x.data_ptr() < end:
            return line
    raise AssertionError


def test_batches_of_a_worker_need_no_dev_shm(data):
    source = dict(sources_of(data)['pictures'], ann_file=None)
    for batch in loader_of(dict(pictures=source), workers=1):
        assert '/memfd:' in mapping_of(batch['clips']['rgb'])
        assert '/memfd:' in mapping_of(batch['labels'])


def test_where_the_system_forbids_it_files_do(data, monkeypatch):
    def forbidden(name: str) -> int:
        raise PermissionError(name)

    plain = contents(loader_of(sources_of(data), reads=0))
    monkeypatch.setattr(os, 'memfd_create', forbidden)
    assert contents(loader_of(sources_of(data), workers=1)) == plain


def test_outside_of_a_worker_memory_is_not_shared():
    assert not torch.empty(0, dtype=torch.uint8).set_(transport.new_storage(8)).is_shared()
    x = torch.arange(3)
    assert transport.sendable(x) is x


class PageFaults(Dataset):
    """Pages that Linux hands out for blocks of 48 MB in all, after such blocks were freed."""

    def __init__(self, data):
        self.dataset = MixedDataset(sources=sources_of(data))

    def __len__(self):
        return 1

    def __getitem__(self, row):
        self.dataset.__getitems__([])
        for _ in range(3):
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            for block in [np.empty(2**24, np.uint8) for _ in range(3)]:
                block[::4096] = 0
            block = None
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


@pytest.mark.skipif(not sys.platform.startswith('linux'), reason='glibc')
def test_a_worker_keeps_freed_memory(data):
    [faults] = DataLoader(PageFaults(data), batch_size=None, num_workers=1)
    assert faults < 1000  # of 12288 pages


SMALL_SHM = """
import torch
from test_ahead import loader_of, sources_of
from pathlib import Path
source = sources_of(Path({data!r}), [dict(type='RandomResizedCrop', size=512)])['movies']
number = sum(len(batch['clips']['rgb']) for batch in loader_of(dict(movies=source), workers=2, size=4))
print('clips:', number)
"""


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0 or shutil.which('unshare') is None, reason='mounts a file system')
def test_a_machine_whose_dev_shm_is_too_small(data):
    """One batch is 12 MB here, and /dev/shm has 1."""
    mount = 'mount -t tmpfs -o size=1m tmpfs /dev/shm && exec "$@"'
    program = [sys.executable, '-c', SMALL_SHM.format(data=str(data))]
    env = dict(os.environ, PYTHONPATH=os.pathsep.join([str(Path(__file__).parent), *sys.path]))
    done = subprocess.run(
        ['unshare', '-m', 'sh', '-c', mount, 'sh', *program], env=env, capture_output=True, text=True, timeout=120
    )
    assert 'clips: 12' in done.stdout, done.stderr


def test_nothing_is_read_ahead_while_reads_are_fast(monkeypatch: pytest.MonkeyPatch):
    """The first reads show how fast a storage is; later, one in ``PROBED``."""
    monkeypatch.setattr(ahead, 'FAST', 1e-3)
    monkeypatch.setattr(ahead, 'PROBED', 16)
    seconds = now = 0.0

    def content(path: str, backend_args: Any) -> bytes:
        nonlocal now
        now += seconds * (threading.current_thread() is threading.main_thread())
        return b''

    monkeypatch.setattr(ahead, 'perf_counter', lambda: now)
    monkeypatch.setattr(ahead, '_content', content)
    reads = ReadAhead(4)

    def read_ahead(keys: Sequence[int]) -> list[int]:
        chosen: list[int] = []
        reads.plan(keys, lambda key: chosen.append(key) or [(str(key), None)])
        for key in keys:
            reads.sample(key, lambda key: storage.read(str(key)))
        return chosen

    assert read_ahead(range(64)) == []
    seconds = 0.02
    assert read_ahead(range(64, 128)) == [key for key in range(65, 128) if key not in (79, 95, 111, 127)]
    seconds = 0.0
    assert len(read_ahead(range(128, 256))) == 120
    assert read_ahead(range(256, 320)) == []
