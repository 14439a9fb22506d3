"""Shards: archives read as the folders that they were packed from, and archives of all kinds that others made."""

from __future__ import annotations

import errno
import filecmp
import io
import os
import re
import runpy
import tarfile
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import torch
from test_storage import Server
from tiny_benchmarks import write_image, write_in1k, write_kinetics, write_video
from tiny_run import PRETRAIN, build_runner, write_config, write_data

from omnimae.data import storage
from omnimae.data.aligned import AlignedDataset
from omnimae.data.datasets import ImageDataset, VideoDataset
from omnimae.data.formats import packing
from omnimae.data.formats.packing import pack
from omnimae.data.formats.parts import Part
from omnimae.data.formats.preparation import prepare, prepare_aligned
from omnimae.data.frame_folders import FrameDataset
from omnimae.data.media.errors import BrokenVideoError
from omnimae.data.storage import local, patience, shards
from omnimae.data.tables import StringTable, write_table
from omnimae.stopping import StorageAwayError
from omnimae.structures import Address

BACKEND = dict(backend='shards')


@pytest.fixture(autouse=True)
def _scope(monkeypatch, tmp_path):
    from mmengine.registry import DefaultScope

    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    with DefaultScope.overwrite_default_scope('omnimae'):
        yield


@pytest.fixture
def told(monkeypatch):
    lines = []
    for module in (shards, shards.stored.__globals__):
        target = module if isinstance(module, dict) else module.__dict__
        monkeypatch.setitem(target, 'print_log', lambda text, *args, **kwargs: lines.append(text))
    return lines


def write_tar(file, members, **options):
    """Members are name -> content, or TarInfo of something else."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(file, 'w', **options) as archive:
        for member in members.items() if isinstance(members, dict) else members:
            if isinstance(member, tarfile.TarInfo):
                archive.addfile(member)
            else:
                info = tarfile.TarInfo(member[0])
                info.size = len(member[1])
                archive.addfile(info, io.BytesIO(member[1]))
    return file


def special(name, kind, **attributes):
    info = tarfile.TarInfo(name)
    info.type = kind
    for attribute, value in attributes.items():
        setattr(info, attribute, value)
    return info


def assert_same(first, second):
    assert (len(first), first.classes) == (len(second), second.classes)
    assert first.fingerprint() == second.fingerprint()
    for row in range(len(first)):
        for key in (row, Address(0, row, 7)):
            one, other = first[key], second[key]
            assert {name: one[name] for name in one if name not in ('clips', 'target')} == {
                name: other[name] for name in other if name not in ('clips', 'target')
            }
            for clip, twin in zip(clips_of(one), clips_of(other), strict=True):
                assert torch.equal(clip, twin)


def clips_of(sample):
    return [*sample['clips'].values()]


# Samples --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('size', [1, 4000, 10**9])
def test_images_are_those_of_the_folder(tmp_path, size):
    for number in range(7):
        write_image(tmp_path / 'loose' / f'class {number % 3}' / f'{number}.jpg', number % 3, number)
    (tmp_path / 'loose' / 'notes.pdf').write_bytes(b'x')
    lines = ['class 2/2.jpg 5', 'class 0/0.jpg 1', 'class 0/6.jpg 1 id=six']
    (tmp_path / 'loose' / 'list.txt').write_text('\n'.join(lines))
    packed = pack(tmp_path / 'loose', tmp_path / 'packed', size=size)
    assert packed == (7, {1: 7, 4000: packed.archives, 10**9: 1}[size], packed.archives, 1, ['list.txt'])
    loose, there = str(tmp_path / 'loose'), str(tmp_path / 'packed')
    assert_same(ImageDataset(root=loose), ImageDataset(root=there))
    assert_same(*(ImageDataset(root=root, ann_file=f'{root}/list.txt') for root in (loose, there)))
    assert_same(ImageDataset(root=f'{loose}/class 1'), ImageDataset(root=f'{there}/class 1/'))
    (tmp_path / 'wrong.txt').write_text('class 0/9.jpg')
    with pytest.raises(ValueError, match='None of the 1 files'):
        ImageDataset(root=there, ann_file=str(tmp_path / 'wrong.txt'))


def test_videos_frames_and_aligned_data_are_those_of_the_folder(tmp_path):
    loose, there = tmp_path / 'loose', tmp_path / 'packed'
    write_video(loose / 'videos' / 'a b.mp4', 0, 0)
    write_video(loose / 'videos' / 'c.mp4', 1, 1)
    (loose / 'spans.txt').write_text('videos/a b.mp4 0 1 0\nvideos/c.mp4 0.5 2 1\n')
    (loose / 'frames.txt').write_text('frames/x 3 1\n')
    for number in range(1, 4):
        write_image(loose / 'frames' / 'x' / f'img_{number:05}.jpg', 1, number)
    for number in range(3):
        write_image(loose / 'rgb' / f'{number}.jpg', 1, number)
        write_image(loose / 'rgb2' / f'{number}.png', 1, number)
    pack(loose, there, size=10_000)
    assert len([*there.glob('*.tar')]) > 2
    for make in (
        lambda root: VideoDataset(root=root, ann_file=f'{root}/spans.txt', num_frames=4),
        lambda root: VideoDataset(root=f'{root}/videos', num_frames=4, reader='decord'),
        lambda root: FrameDataset(root=root, ann_file=f'{root}/frames.txt', frame_rate=3, num_frames=2),
        lambda root: AlignedDataset(root=root, modalities=dict(rgb=dict(), rgb2=dict(kind='rgb'))),
    ):
        assert_same(make(str(loose)), make(str(there)))


@pytest.mark.parametrize('reader', ['pyav', 'decord'])
def test_of_a_large_video_a_decoder_reads_what_it_needs(tmp_path, monkeypatch, reader):
    loose, there = tmp_path / 'loose', tmp_path / 'packed'
    for number in range(2):
        write_video(loose / f'{number}.mp4', number, number)
    pack(loose, there)
    monkeypatch.setattr(shards, 'LARGE', 1000)
    monkeypatch.setattr(shards.Shards, 'read', None)  # which reads all
    one, other = (VideoDataset(root=str(root), num_frames=4, reader=reader) for root in (loose, there))
    assert_same(one, other)
    os.utime(there / '000000.tar', (1, 1))
    with pytest.raises(BrokenVideoError, match=r'has changed since training began to read it'):
        other[0]


def test_a_run_that_began_on_loose_files_goes_on_on_shards(tmp_path):
    loose = write_data(tmp_path / 'loose', num_pictures=12, num_movies=4)
    pack(loose, tmp_path / 'packed', size=30_000)
    weights = {}
    for name, options in (
        ('loose', {}),
        ('packed', dict(resume=True, load_from=str(tmp_path / 'run' / 'epoch_1.pth'))),
    ):
        config = write_config(tmp_path / f'{name}.py', PRETRAIN, tmp_path / name)
        runner = build_runner(config, tmp_path / ('run' if name == 'loose' else 'resumed'), options)
        runner.train()
        weights[name] = runner.model.state_dict()
    assert runner.iter == 6
    assert all(torch.equal(tensor, weights['packed'][key]) for key, tensor in weights['loose'].items())


def test_labels_in_cls_files(tmp_path):
    picture = (write_image(tmp_path / 'a.jpg', 0, 0), (tmp_path / 'a.jpg').read_bytes())[1]
    write_tar(
        tmp_path / 't' / '0.tar', {'b.jpg': picture, 'b.cls': b'12\n', 'a.jpg': picture, 'a.cls': b'3', 'a.json': b'{}'}
    )
    write_tar(tmp_path / 't' / '1.tar', {'c.seg.jpg': picture, 'c.cls': b'0'})
    dataset = ImageDataset(root=str(tmp_path / 't'))
    assert ([*dataset.paths], dataset.labels.tolist(), dataset.classes) == (
        ['a.jpg', 'b.jpg', 'c.seg.jpg'],
        [3, 12, 0],
        None,
    )
    write_tar(tmp_path / 'u' / '0.tar', {'b.jpg': picture, 'b.cls': b'dog\n', 'a.jpg': picture, 'a.cls': b'cat'})
    dataset = ImageDataset(root=str(tmp_path / 'u'))
    assert (dataset.labels.tolist(), dataset.classes) == ([0, 1], ('cat', 'dog'))
    dataset = ImageDataset(root=str(tmp_path / 'u'), classes=['cow', 'dog', 'cat'])
    assert (dataset.labels.tolist(), dataset.classes) == ([2, 1], ('cow', 'dog', 'cat'))
    with pytest.raises(ValueError, match=r"label 'cat' of 'a.jpg' is not in classes"):
        ImageDataset(root=str(tmp_path / 'u'), classes=['dog'])
    write_tar(tmp_path / 'u' / '1.tar', {'c.jpg': picture})
    with pytest.raises(ValueError, match=r"'c.jpg' has no .cls file, and 2 others have one"):
        ImageDataset(root=str(tmp_path / 'u'))


# Archives of others ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('form', [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT])
def test_names_and_contents_of_every_form(tmp_path, form):
    long = '/'.join(['n' * 60] * 2) + '/x.jpg'
    names = ['./a/b.jpg', 'a/\xe4.jpg', 'a/\udcff.jpg', 'a//c.jpg', long, 'a/./d.jpg', 'line\nbreak.jpg']
    names += [] if form == tarfile.USTAR_FORMAT else [f'{"long " * 60}.jpg']
    write_tar(tmp_path / '0.tar', {name: name.encode(errors='replace') for name in names}, format=form)
    write_tar(tmp_path / 'B.TAR', {'e.jpg': b'', 'f.jpg': bytes(1500)}, format=form)
    expected = {name.replace('./', '').replace('//', '/'): name.encode(errors='replace') for name in names}
    expected |= {'e.jpg': b'', 'f.jpg': bytes(1500)}
    backend = storage.backend_args_of(str(tmp_path))
    assert sorted(storage.list_files(str(tmp_path), backend)) == sorted(expected)
    for name, data in expected.items():
        assert storage.read(f'{tmp_path}/{name}', backend) == data
        assert storage.read(f'{tmp_path}/{name}', backend, 1, 5) == data[1:5]
    assert [storage.exists(f'{tmp_path}/{name}', backend) for name in ('e.jpg', 'a', 'g.jpg')] == [True, True, False]
    with pytest.raises(FileNotFoundError):
        storage.read(f'{tmp_path}/a', backend)


def test_what_is_no_file_is_passed_over_and_counted(tmp_path, told):
    members = [
        ('a.jpg', b'old'),
        special('b.jpg', tarfile.SYMTYPE, linkname='/etc/passwd'),
        special('c.jpg', tarfile.LNKTYPE, linkname='a.jpg'),
        special('d.jpg', tarfile.CHRTYPE),
        special('e.jpg', tarfile.FIFOTYPE),
        special('f', tarfile.DIRTYPE),
        special('g.jpg', tarfile.GNUTYPE_SPARSE),
        ('.hidden.jpg', b'x'),
        ('f/._a.jpg', b'x'),
        ('a.jpg', b'new'),
    ]
    write_tar(tmp_path / '0.tar', members, format=tarfile.GNU_FORMAT)
    backend = storage.backend_args_of(str(tmp_path))
    assert storage.list_files(str(tmp_path), backend) == ['a.jpg']
    assert storage.read(f'{tmp_path}/a.jpg', backend) == b'new'
    assert told[1] == (
        f'{tmp_path}: skipped members of the archives: 2 devices and pipes, 2 links, 1 older members of a name, '
        '1 sparse files'
    )


def test_names_are_never_paths(tmp_path):
    (tmp_path / 'secret.jpg').write_bytes(b'secret')
    (tmp_path / 't').mkdir()
    names = ['../secret.jpg', '/etc/x.jpg', 'a/../../secret2.jpg', f'{tmp_path}/y.jpg', '..', 'https://host/z.jpg']
    write_tar(tmp_path / 't' / '0.tar', {name: name.encode() for name in names})
    root = str(tmp_path / 't')
    backend = storage.backend_args_of(root)
    listed = {
        name: storage.read(os.path.join(root, name), backend).decode() for name in storage.list_files(root, backend)
    }
    assert listed == {
        'secret.jpg': '../secret.jpg',
        'secret2.jpg': 'a/../../secret2.jpg',
        'etc/x.jpg': '/etc/x.jpg',
        f'{tmp_path}/y.jpg'[1:]: f'{tmp_path}/y.jpg',
        'https:/host/z.jpg': 'https://host/z.jpg',
    }
    dataset = ImageDataset(root=root)
    assert all(os.path.normpath(dataset._path(row)).startswith(f'{root}/') for row in range(len(dataset)))


def test_one_name_in_several_archives(tmp_path, told):
    for name in ('x', 'y'):
        write_tar(tmp_path / f'{name}.tar', {'c/0.seg.png': name.encode(), 'c/0.jpg': name.encode()})
    backend = storage.backend_args_of(str(tmp_path))
    assert storage.list_files(str(tmp_path), backend) == ['c/0~x.jpg', 'c/0~x.seg.png', 'c/0~y.jpg', 'c/0~y.seg.png']
    assert storage.read(f'{tmp_path}/c/0~y.jpg', backend) == b'y'
    assert 'several archives have members of the same name' in told[1]
    (tmp_path / 'z').mkdir()
    for name in ('x.tar', 'x.TAR'):
        write_tar(tmp_path / 'z' / name, {'0.jpg': b''})
    with pytest.raises(ValueError, match=r"z: '0~x\.jpg' is in two archives of one name.*Rename"):
        ImageDataset(root=str(tmp_path / 'z'))


def test_an_index_leads_to_no_other_file(tmp_path, monkeypatch):
    """It comes with the archives, from anywhere."""
    root, secret = tmp_path / 'root', tmp_path / 'secret'
    write_tar(root / '0.tar', {'c/0.jpg': b'abc'})
    secret.write_bytes(b'secret')
    columns, [found, lies] = shards.index(str(root)), [os.stat(file) for file in (root / '0.tar', secret)]
    columns |= dict(archives=StringTable(['../secret']), begins=np.array([0]), sizes=np.array([6]))
    columns['stats'] = np.array([(lies.st_size, lies.st_mtime_ns)])
    about = dict(archives=['0.tar'], stats=[(found.st_size, found.st_mtime_ns)])
    write_table(root / 'shards.index', about, columns)
    assert storage.read(f'{root}/c/0.jpg', BACKEND) == b'abc'
    write_table(root / 'shards.index', about, columns)
    with (
        serving(root) as server,
        pytest.raises(ValueError, match=r"names the archive '\.\./secret', which is in another folder"),
    ):
        ImageDataset(root=f'{server.url}/root', backend_args=BACKEND)


@contextmanager
def serving(folder):
    """A web server with the files of a folder, below its name."""
    server = Server()
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        server.files = {f'{folder.name}/{file.name}': file.read_bytes() for file in folder.iterdir()}
        yield server
    finally:
        server.shutdown()
        server.server_close()


def test_an_index_of_other_archives_is_noticed_on_a_server(tmp_path, monkeypatch):
    for name in ('0', '1'):
        write_tar(tmp_path / f'{name}.tar', {f'c/{name}.jpg': b'abc'})
    shards.index(str(tmp_path))
    with serving(tmp_path) as server:
        name = f'{tmp_path.name}/1.tar'
        server.files[name] += bytes(10240)
        message = rf'{server.url}/{name} has 20480 bytes, but 10240 in shards\.index beside it\. Write it'
        with pytest.raises(ValueError, match=message):
            ImageDataset(root=f'{server.url}/{tmp_path.name}', backend_args=BACKEND)
        del server.files[name]
        with pytest.raises(ValueError, match=rf'{server.url}/{name} does not exist, but shards\.index beside it'):
            ImageDataset(root=f'{server.url}/{tmp_path.name}', backend_args=BACKEND)


def test_a_large_member_of_archives_that_are_away_is_not_broken(tmp_path, monkeypatch):
    monkeypatch.setenv('OMNIMAE_STORAGE_PATIENCE', '0.1')
    monkeypatch.setattr(shards, 'LARGE', 100)
    root = tmp_path / 'root'
    write_tar(root / '0.tar', {'c/0.mp4': bytes(1000), 'd/1.mp4': bytes(1000)})
    dataset = VideoDataset(root=str(root), num_frames=2)
    root.rename(tmp_path / 'gone')
    for _ in range(2):
        with pytest.raises(StorageAwayError, match=f'Storage {root} is away'):
            dataset[0]
        monkeypatch.setattr(shards, '_known', {})  # as in a worker that was not forked


def cut(data):
    return data[: data.index(b'd' * 700) + 300]


def with_a_negative_size(data):
    header = bytearray(data[:512])
    header[124:136] = b'\xff' * 10 + b'\xfe\x00'  # -512 in the form of sizes beyond 8 GiB
    header[148:156] = b'%06o\0 ' % (sum(header[:148]) + sum(header[156:]) + 8 * 32)
    return bytes(header) + data[512:]


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (cut, r'0\.tar is truncated, damaged or not a tar archive'),
        (lambda data: data[:512], r'0\.tar is truncated, damaged'),
        (lambda data: data[:2560], r'0\.tar is truncated or damaged at byte 2560'),
        (lambda data: data[:1024], r'0\.tar is truncated'),
        (lambda data: data[:1030] + b'\xff' * 40 + data[1070:], r'0\.tar is truncated or damaged at byte 1024'),
        (lambda data: b'', r'0\.tar is truncated, damaged or not a tar archive'),
        (lambda data: b'<html>' * 300, r'0\.tar is truncated, damaged or not a tar archive'),
        (lambda data: data + data, r'0\.tar continues after its end at byte'),
        (lambda data: data + bytes(2**21) + data, r'0\.tar continues after its end at byte'),
        (with_a_negative_size, r'0\.tar is truncated, damaged or not a tar archive: a size below 0'),
        (lambda data: b'\x1f\x8b' + data, r'0\.tar is compressed.*gunzip'),
    ],
)
def test_damaged_archives_are_named(tmp_path, change, message):
    file = write_tar(tmp_path / '0.tar', {'a.jpg': b'abc', 'b.jpg': b'd' * 700})
    file.write_bytes(change(file.read_bytes()))
    with pytest.raises(ValueError, match=message):
        ImageDataset(root=str(tmp_path))


def test_compressed_archives_are_refused_by_name(tmp_path):
    write_tar(tmp_path / '0.tar', {'a.jpg': b'abc'})
    (tmp_path / 'x.tar.gz').write_bytes(b'')
    with pytest.raises(
        ValueError, match=r'x\.tar\.gz is compressed.*gunzip, unxz, zstd -d\).*The folder has 1 such archives'
    ):
        ImageDataset(root=str(tmp_path))


def test_folders_with_other_data_are_read_as_folders(tmp_path):
    write_image(tmp_path / 'train' / 'a.jpg', 0, 0)
    write_tar(tmp_path / 'train.tar', {'b.jpg': b''})
    assert [*ImageDataset(root=str(tmp_path)).paths] == ['train/a.jpg']
    with pytest.raises(ValueError, match='is not a folder of .tar files, nor in one'):
        ImageDataset(root=str(tmp_path), backend_args=BACKEND)


# Index ----------------------------------------------------------------------------------------------------------------


def test_the_index_follows_the_archives(tmp_path, monkeypatch, told):
    root, args = str(tmp_path / 't'), (tmp_path / 't' / '0.tar', {'a.jpg': b'1'})
    os.utime(write_tar(*args), (1, 1))
    backend = storage.backend_args_of(root)
    assert storage.list_files(root, backend) == ['a.jpg']
    assert os.path.exists(f'{root}/shards.index')
    with monkeypatch.context() as patch:
        patch.setattr(shards, 'scan', None)  # from now on it is known
        assert storage.list_files(root, backend) == ['a.jpg']
    os.utime(write_tar(args[0], {'b.jpg': b'2'}), (2, 2))
    with pytest.raises(OSError, match=r'has changed since training began to read it\. Stop and resume'):
        storage.read(f'{root}/a.jpg', backend)
    assert storage.list_files(root, backend) == ['b.jpg']
    assert storage.read(f'{root}/b.jpg', backend) == b'2'
    write_tar(tmp_path / 't' / '1.tar', {'c.jpg': b'3'})
    assert storage.list_files(root, backend) == ['b.jpg', 'c.jpg']
    (tmp_path / 't' / '1.tar').unlink()
    assert storage.list_files(root, backend) == ['b.jpg']

    def write(file, *rest):
        if os.path.dirname(file) == root:
            raise PermissionError(13, 'Permission denied')
        write_table(file, *rest)

    monkeypatch.setitem(shards.stored.__globals__, 'write_table', write)
    os.utime(args[0], (3, 3))
    assert storage.list_files(root, backend) == ['b.jpg']
    assert re.search(
        r'shards.index cannot be written \(Permission denied\), so its rows are stored in .*/cache/omnimae/', told[-1]
    )
    monkeypatch.setattr(shards, 'scan', None)
    assert storage.list_files(root, backend) == ['b.jpg']


def test_descriptors_are_shared_and_bounded(tmp_path, monkeypatch):
    contents = {}
    for number in range(6):
        members = {f'{number}-{row}.jpg': os.urandom(3000) for row in range(20)}
        write_tar(tmp_path / f'{number}.tar', members)
        contents |= members
    backend = storage.backend_args_of(str(tmp_path))
    storage.list_files(str(tmp_path), backend)
    opened = []
    real = os.open
    monkeypatch.setattr(os, 'open', lambda path, *args: (opened.append(path), real(path, *args))[1])
    rng = np.random.default_rng(0)
    names = [*contents] * 5

    def check(_):
        for row in rng.integers(len(names), size=100):
            assert storage.read(f'{tmp_path}/{names[row]}', backend) == contents[names[row]]

    def descriptors():
        links = (os.path.join('/proc/self/fd', name) for name in os.listdir('/proc/self/fd'))
        return [os.readlink(link) for link in links if os.path.lexists(link) and '.tar' in os.readlink(link)]

    with ThreadPoolExecutor(4) as pool:
        [*pool.map(check, range(8))]
        assert sorted(opened) == [str(tmp_path / f'{number}.tar') for number in range(6)]
        if not (child := os.fork()):  # which reads from what its parent opened
            try:
                check(0)
            finally:
                os._exit(len(opened) != 6)
        assert os.waitpid(child, 0)[1] == 0
        shards._open_archive.cache_clear()
        monkeypatch.setattr(shards, '_open_archive', lru_cache(2)(shards._open_archive.__wrapped__))
        [*pool.map(check, range(8))]
    assert len(opened) > 20
    assert len(descriptors()) <= 2


def test_an_archive_that_is_away_for_a_moment_is_opened_anew(tmp_path, monkeypatch):
    for number in range(2):
        write_tar(tmp_path / f'{number}.tar', {f'c/{number}.jpg': b'abc'})
    monkeypatch.setattr(patience, 'FIRST_PAUSE', 0.01)
    monkeypatch.setenv('OMNIMAE_STORAGE_PATIENCE', '0.3')
    backend = storage.backend_args_of(str(tmp_path))
    storage.list_files(str(tmp_path), backend)
    assert storage.read(f'{tmp_path}/c/1.jpg', backend) == b'abc'
    real, stale = os.pread, set()

    def pread(number, *args):
        if number in stale:
            raise OSError(errno.ESTALE, 'Stale file handle')
        return real(number, *args)

    monkeypatch.setattr(os, 'pread', pread)
    storage.read(f'{tmp_path}/c/0.jpg', backend)
    links = {int(name): f'/proc/self/fd/{name}' for name in os.listdir('/proc/self/fd')}
    stale.update(number for number, link in links.items() if os.path.realpath(link) == f'{tmp_path}/0.tar')
    assert storage.read(f'{tmp_path}/c/0.jpg', backend) == b'abc'
    storage.read(f'{tmp_path}/c/1.jpg', backend)
    bad = (tmp_path / '0.tar').stat().st_ino  # a disk with one bad sector: others can be read, so the file is broken

    def pread_of_a_bad_disk(number, *args):
        if os.fstat(number).st_ino == bad:
            raise OSError(errno.EIO, 'Input/output error')
        return real(number, *args)

    monkeypatch.setattr(os, 'pread', pread_of_a_bad_disk)
    with pytest.raises(OSError, match='but others can be read'):
        storage.read(f'{tmp_path}/c/0.jpg', backend)


def test_over_http_the_index_is_fetched_once_and_members_by_their_ranges(tmp_path, monkeypatch):
    for number in range(4):
        write_image(tmp_path / 'loose' / f'{number % 2}' / f'{number} #.jpg', number % 2, number)
    pack(tmp_path / 'loose', tmp_path / 'packed', size=3000)
    server = Server()
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        for file in (tmp_path / 'packed').iterdir():
            server.files[f'data/packed/{file.name}'] = file.read_bytes()
        dataset = ImageDataset(root=f'{server.url}/data/packed', backend_args=BACKEND)
        assert_same(ImageDataset(root=str(tmp_path / 'loose')), dataset)
        assert server.requests[0] == ('/data/packed/shards.index', None)
        assert all(path.endswith('.tar') and asked for path, asked in server.requests[1:])
        server.faults = [503, 'cut']
        assert dataset[0]['label'] == 0
        with pytest.raises(ValueError, match=r'no shards\.index is in this folder.*prepare_dataset\.py shard --root'):
            ImageDataset(root=f'{server.url}/other', backend_args=BACKEND)
        server.takes_ranges = False
        monkeypatch.setattr(shards, '_known', {})
        with pytest.raises(ValueError, match=r'packed gives whole files only'):
            ImageDataset(root=f'{server.url}/data/packed', backend_args=BACKEND)
    finally:
        server.shutdown()
        server.server_close()


# Packing --------------------------------------------------------------------------------------------------------------


def write_folder(root):
    for number in range(9):
        write_image(root / f'{number % 2}' / f'{number}.jpg', number % 2, number)
        os.utime(root / f'{number % 2}' / f'{number}.jpg', (1000 + number, 1000 + number))
    (root / 'list.txt').write_text('0/0.jpg\n')


def same_folders(first, second):
    names = sorted(os.listdir(first))
    return names == sorted(os.listdir(second)) and filecmp.cmpfiles(first, second, names, shallow=False)[0] == names


def test_an_interrupted_run_goes_on(tmp_path, monkeypatch):
    loose, out = tmp_path / 'loose', tmp_path / 'out'
    write_folder(loose)
    whole = pack(loose, tmp_path / 'whole', size=4000)
    assert whole.archives > 3
    calls = []
    real = packing._compare

    def interrupt(*args):
        calls.append(args)
        if len(calls) == 3:
            raise KeyboardInterrupt
        real(*args)

    monkeypatch.setattr(packing, '_compare', interrupt)
    with pytest.raises(KeyboardInterrupt):
        pack(loose, out, size=4000)
    assert sorted(os.listdir(out)) == ['000000.tar', '000001.tar']
    assert pack(loose, out, size=4000).written == whole.archives - 2
    assert same_folders(out, tmp_path / 'whole')
    assert pack(loose, out, size=4000).written == 0
    (out / '000001.tar').write_bytes(b'x')  # damaged
    (loose / '0' / '0.jpg').write_bytes((loose / '0' / '0.jpg').read_bytes())  # changed since
    assert pack(loose, out, size=4000).written == 2
    with pytest.raises(ValueError, match=r'000001\.tar is not one of the 1 archives of these files and this size'):
        pack(loose, out, size=10**6)


def test_what_is_written_is_read_back(tmp_path, monkeypatch):
    write_folder(tmp_path / 'loose')
    real = os.fsync

    def damage(number):
        real(number)
        os.pwrite(number, b'\xff', 700)

    monkeypatch.setattr(os, 'fsync', damage)
    with pytest.raises(ValueError, match=r"'0/0\.jpg' reads back differently"):
        pack(tmp_path / 'loose', tmp_path / 'out')
    assert os.listdir(tmp_path / 'out') == []


def test_the_command(tmp_path, capsys):
    main = runpy.run_path(str(Path(__file__).parents[1] / 'tools' / 'prepare_dataset.py'))['main']
    write_folder(tmp_path / 'loose')
    words = ['shard', '--workers', '1', '--root']
    main([*words, f'{tmp_path}/loose/', '--size', '4 KB', '--part', '2/2'])
    with pytest.raises(SystemExit):
        main([*words, f'{tmp_path}/loose', '--size', '4KB', '--merge', '2'])
    assert re.search(
        r'archives are missing or hold other files.* Run --part 1/2 again, then merge', capsys.readouterr().err
    )
    main([*words, f'{tmp_path}/loose', '--size', '4KB'])
    assert f'{tmp_path}/loose_shards: 9 files in' in capsys.readouterr().out
    (tmp_path / 'loose_shards' / 'shards.index').unlink()
    main([*words, f'{tmp_path}/loose_shards'])
    assert f'{tmp_path}/loose_shards: 9 files in' in capsys.readouterr().out
    assert (tmp_path / 'loose_shards' / 'shards.index').exists()
    for wrong in ('1 pound', '0', '1.2.3GB', ''):
        with pytest.raises(SystemExit):
            main([*words, f'{tmp_path}/loose', '--size', wrong])
        assert 'is no size. Write 1GB or 500MB' in capsys.readouterr().err


@pytest.mark.parametrize('total', [1, 3, 16])
def test_parts_are_those_of_one_machine(tmp_path, total):
    loose = tmp_path / 'loose'
    write_folder(loose)
    whole = pack(loose, tmp_path / 'whole', size=4000)
    counts = []
    for number in range(total, 0, -1):
        if number < total:
            with pytest.raises(ValueError, match=rf'--part 1/{total}.* again, then merge'):
                pack(loose, tmp_path / 'out', size=4000, merge=total)
        counts.append(pack(loose, tmp_path / 'out', size=4000, part=Part(number, total)).files)
    assert sum(counts) == whole.files
    pack(loose, tmp_path / 'out', size=4000, merge=total)
    assert same_folders(tmp_path / 'out', tmp_path / 'whole')


@pytest.mark.parametrize(
    ('out', 'options', 'message'),
    [
        ('loose/out', {}, r"is in root='.*loose'"),
        ('loose', {}, r"is in root='.*loose'"),
        ('out', dict(size=0), r'size=0 is not positive'),
        ('out', dict(merge=0), r'merge=0 is not a number of parts'),
        ('.', {}, r"out=.* holds 'loose', so it would not be read as archives\. Give an empty folder"),
    ],
)
def test_packing_refuses(tmp_path, out, options, message):
    write_folder(tmp_path / 'loose')
    with pytest.raises(ValueError, match=message):
        pack(tmp_path / 'loose', tmp_path / out, **options)


def test_packing_waits_for_its_files(tmp_path, monkeypatch):
    monkeypatch.setattr(patience, 'FIRST_PAUSE', 0.01)
    monkeypatch.setenv('OMNIMAE_STORAGE_PATIENCE', '20')
    write_folder(tmp_path / 'loose')
    pack(tmp_path / 'loose', tmp_path / 'whole')
    real, left = os.pread, [3]

    def pread(*args):
        left[0] -= 1
        if left[0] >= 0:
            raise OSError(errno.EIO, 'Input/output error')
        return real(*args)

    monkeypatch.setattr(os, 'pread', pread)
    pack(tmp_path / 'loose', tmp_path / 'out')
    assert same_folders(tmp_path / 'out', tmp_path / 'whole')
    left[0] = 10**9
    monkeypatch.setattr(local, 'read_from_disk', pread)
    monkeypatch.setenv('OMNIMAE_STORAGE_PATIENCE', '0.1')
    with pytest.raises(StorageAwayError, match=rf'Storage {tmp_path}/loose is away'):
        pack(tmp_path / 'loose', tmp_path / 'other')


def test_packing_names_what_is_at_fault(tmp_path, monkeypatch):
    write_folder(tmp_path / 'loose')
    (tmp_path / 'loose' / '0' / 'x.jpg').symlink_to(tmp_path / 'nowhere.jpg')
    with pytest.raises(ValueError, match=r'loose/0/x\.jpg is missing, or a broken link\. Remove it'):
        pack(tmp_path / 'loose', tmp_path / 'out')
    (tmp_path / 'loose' / '0' / 'x.jpg').unlink()

    def full(*args, **options):
        raise OSError(errno.ENOSPC, 'No space left on device')

    monkeypatch.setattr(tarfile, 'copyfileobj', full)
    with pytest.raises(ValueError, match=r'out/000000\.tar cannot be written: No space left on device'):
        pack(tmp_path / 'loose', tmp_path / 'out')


def test_what_killed_runs_left_is_removed(tmp_path):
    write_folder(tmp_path / 'loose')
    pack(tmp_path / 'loose', tmp_path / 'whole', size=4000)
    (tmp_path / 'out').mkdir()
    for name in ('000000.tar.other.17.part', '000001.tar.host.1.part'):
        (tmp_path / 'out' / name).write_bytes(bytes(100))
    pack(tmp_path / 'loose', tmp_path / 'out', size=4000)
    assert same_folders(tmp_path / 'out', tmp_path / 'whole')


@pytest.mark.parametrize('text', ['0/3', '4/3', '3', '1/0', 'a/b', '1/3/5', '-1/3'])
def test_wrong_parts(text):
    with pytest.raises(ValueError, match=rf"part='{text}' is not a part\. Write 3/16"):
        Part.of(text)


def prepared_files(root):
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob('*')) if path.is_file()}


@pytest.mark.parametrize(
    ('name', 'write', 'options'),
    [('in1k', write_in1k, {}), ('k400', write_kinetics, dict(short_side=32, codec='mjpeg'))],
)
def test_preparation_in_parts_is_that_of_one_machine(tmp_path, name, write, options):
    (tmp_path / 'data').mkdir()
    write(tmp_path / 'data')
    spoilt = next(path for path in sorted((tmp_path / 'data').rglob('*.*')) if path.suffix in ('.JPEG', '.mp4'))
    spoilt.write_bytes(spoilt.read_bytes()[:300])
    roots = [tmp_path / 'one', tmp_path / 'many']
    for root in roots:
        os.system(f'cp -rp {tmp_path / "data"} {root}')
    assert prepare(name, roots[0], **options).left_out['train'] == 1
    for number in (3, 1):
        prepare(name, roots[1], part=Part(number, 3), **options)
    with pytest.raises(ValueError, match=r'parts 2/3 are missing'):
        prepare(name, roots[1], merge=3, **options)
    prepare(name, roots[1], part=Part(2, 3), **options)
    if name == 'k400':
        with pytest.raises(ValueError, match=r'parts 1/3, 2/3, 3/3 were made of other files or with other options'):
            prepare(name, roots[1], merge=3)
    prepare(name, roots[1], merge=3, **options)
    one, many = map(prepared_files, roots)
    assert one == many


def test_aligned_preparation_in_parts(tmp_path):
    roots = [tmp_path / 'one', tmp_path / 'many']
    for root in roots:
        for number in range(5):
            write_image(root / 'rgb' / f'{number}.jpg', 1, number)
            write_image(root / 'b' / f'{number}.png', 1, number)
        (root / 'b' / '2.png').write_bytes(b'')
    modalities = dict(rgb={}, b=dict(kind='rgb'))
    prepare_aligned(roots[0], modalities)
    for number in (1, 2):
        prepare_aligned(roots[1], modalities, part=Part(number, 2))
    merged = prepare_aligned(roots[1], modalities, merge=2)
    assert (merged.kept, merged.broken) == (4, 1)
    assert prepared_files(roots[0]) == prepared_files(roots[1])


@pytest.mark.parametrize('call', ['stat', 'scandir'])
def test_a_folder_of_archives_that_is_away_for_a_moment_is_none_of_loose_files(tmp_path, monkeypatch, call):
    monkeypatch.setattr(patience, 'FIRST_PAUSE', 0.01)
    write_tar(tmp_path / 'root' / '0.tar', {'c/0.jpg': b'abc'})
    real, left = getattr(os, call), [2]

    def ask(path='.', **options):
        if str(path) == f'{tmp_path}/root' and left[0]:
            left[0] -= 1
            raise OSError(errno.EIO, 'Input/output error', path)
        return real(path, **options)

    monkeypatch.setattr(os, call, ask)
    assert ImageDataset(root=str(tmp_path / 'root')).paths == ['c/0.jpg']
    assert left == [0]
