"""Lists of millions of files: read quickly, once a machine, and never wrongly."""

from __future__ import annotations

import errno
import os
import re
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from omnimae.data import annotations, tables
from omnimae.data.annotations import read_frame_list, read_list
from omnimae.data.datasets import ImageDataset
from omnimae.data.tables import StringTable, read_table, write_table

LINES = [
    'a.jpg', 'b.JPG 1', 'c.jpg  12 ', 'd/e.jpg\t3\r', 'my dog.jpg 4', 'f.jpg cat', 'g.jpg a cat', 'h.jpg 0 2 1', '',
    'i.jpg 0 -1', 'j.jpg 1 id=x', 'k.jpg id=y', 'l.jpg m.jpg', 'n.jpg 0 2', '../o.jpg 1', 'p/../q.jpg 1', '/r.jpg 1',
    's://t.jpg 1', 'u.png 1', 'v.jpg 1_0', 'w.jpg \u0663', 'x.jpg 99999999999999999999', 'y.jpg 1.5', 'z.jpg\x0b 1',
    '\xe4.jpg 7', 'a..b.jpg 2', 'c.jpg.jpg 5', '.jpg 6', 'K.jp\u212a 1', 'd.jpg 5 6', ' e.jpg 8',
]  # fmt: skip


@pytest.fixture(autouse=True)
def all_lists_are_long(monkeypatch, tmp_path):
    monkeypatch.setattr(annotations, 'STORED_FROM', 1)
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))


def write_list(file, text, seconds_ago=60):
    file.write_bytes(text if isinstance(text, bytes) else text.encode('utf-8', 'surrogateescape'))
    moment = time.time() - seconds_ago
    os.utime(file, (moment, moment))
    return str(file)


def plain(rows):
    return [None if column is None else np.asarray(column).tolist() for column in rows[:-1]]  # no partners


def attempt(*args, **kwargs):
    try:
        return plain(read_list(*args, **kwargs))
    except ValueError as error:
        return str(error)


@example(['../a.jpg 1'], None, False, None, 60)
@example(['a.jpg 1', 's://t.jpg 1'], None, False, None, 60)
@example(['n/a.jpg 1', 'n/a.jpg 2'], None, False, None, 1)
@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.sampled_from(LINES) | st.integers(0, 50).map(lambda i: f'n/{i}.jpg {i % 3}'), max_size=12),
    st.sampled_from([None, 'n/', '.', 'cat']),
    st.booleans(),
    st.sampled_from([None, ['cat', 'a cat', '12', 'y']]),
    st.integers(1, 60),
)
def test_reading_quickly_gives_the_same_rows_and_errors(tmp_path_factory, lines, select, outside, classes, part):
    file = tmp_path_factory.mktemp('list') / 'list.txt'
    file.write_text('\n'.join(lines), encoding='utf-8')
    options = dict(select=select, allow_outside=outside, classes=classes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(annotations, 'PART', part)
        quick = attempt(str(file), ['.jpg', '.jpk'], **options)
        patch.setattr(annotations, '_read_fast', lambda *args: None)
        assert quick == attempt(str(file), ['.jpg', '.jpk'], **options)


def test_reading_quickly_is_quick(tmp_path):
    text = ''.join(f'train/n{i % 1000:08}/n{i % 1000:08}_{i}.JPEG {i % 1000}\n' for i in range(60_000)).encode()
    parser = annotations._LineParser(['.jpg', '.jpeg'], (), False)
    start = time.process_time()
    columns = annotations._read_fast(text, None, parser)
    middle = time.process_time()
    assert [parser.parse(line).path for line in text.decode().splitlines()] == columns['paths']
    assert 3 * (middle - start) < time.process_time() - middle


def test_a_long_list_is_read_once(tmp_path, monkeypatch):
    file = write_list(tmp_path / 'list.txt', '\ufeffa.jpg 0\n\udcff b.jpg 2\n')
    first = read_list(file, ['.jpg'])
    assert (first.paths, first.labels.tolist()) == (['a.jpg', '\udcff b.jpg'], [0, 2])
    [name] = {*os.listdir(tmp_path)} - {'list.txt'}
    assert re.fullmatch(r'\.list\.txt\.\w{16}\.rows', name)
    monkeypatch.setattr(annotations, '_text_of', None)
    again = read_list(file, ['.jpg'])
    assert plain(again) == plain(first)
    assert not again.labels.flags.owndata  # mapped
    os.utime(file, (1, 1))
    with pytest.raises(TypeError, match='not callable'):  # it is read again
        read_list(file, ['.jpg'])


@pytest.mark.parametrize('change', ['a.jpg 1\nb.jpg 2\n', 'a.jpg 0\nb.jpg 2\nc.jpg 0\n', b'a.jpg 0\nc.jpg 2\n'])
def test_a_changed_list_is_read_again(tmp_path, change):
    file = write_list(tmp_path / 'list.txt', 'a.jpg 0\nb.jpg 2\n', seconds_ago=90)
    read_list(file, ['.jpg'])
    write_list(tmp_path / 'list.txt', change)
    (tmp_path / 'other').mkdir()
    assert plain(read_list(file, ['.jpg'])) == plain(
        read_list(write_list(tmp_path / 'other' / 'l.txt', change), ['.jpg'])
    )


def test_options_are_not_confused(tmp_path):
    file = write_list(tmp_path / 'list.txt', 'n/a.jpg 0\nn/b.png 2\nm/c.jpg 1\n')
    for _ in range(2):
        assert read_list(file, ['.jpg', '.png']).paths == ['n/a.jpg', 'n/b.png', 'm/c.jpg']
        assert read_list(file, ['.jpg', '.png'], select='n/').paths == ['n/a.jpg', 'n/b.png']
        assert read_list(file, ['.jpg', '.png'], select='m/').paths == ['m/c.jpg']
        assert read_list(file, ['.jpg', '.png'], classes=['2', '0', '1']).labels.tolist() == [1, 0, 2]
        assert read_list(file, ['.jpg', '.png'], classes=['2', '0', '1']).classes == ('2', '0', '1')
        with pytest.raises(ValueError, match=r"line 2, 'n/b.png 2': The path does not end"):
            read_list(file, ['.jpg'])
        with pytest.raises(ValueError, match=r'out of range, the first of 1'):
            ImageDataset(root=str(tmp_path), ann_file=file, num_classes=2)


def test_spans_ids_and_folders_of_frames_are_kept(tmp_path, monkeypatch):
    spans = write_list(tmp_path / 'list.txt', 'a.mp4 0 2\nb.mp4\na.mp4 0.25 1 id=x\n')
    frames = write_list(tmp_path / 'frames.txt', 'a 3 17 0\nb 1 20 1\n')
    first = plain(read_list(spans, ['.mp4'])), plain(read_frame_list(frames, ['start', 'total', 'label']))
    monkeypatch.setattr(annotations, '_text_of', None)
    assert (plain(read_list(spans, ['.mp4'])), plain(read_frame_list(frames, ['start', 'total', 'label']))) == first
    assert first[0][3:] == [[[0, 2], [0, float('inf')], [0.25, 1]], ['a.mp4 0-2', 'b.mp4', 'x']]


def test_a_list_written_just_now_is_not_kept(tmp_path):
    read_list(write_list(tmp_path / 'list.txt', 'a.jpg\n', seconds_ago=0), ['.jpg'])
    assert os.listdir(tmp_path) == ['list.txt']


def forbid(monkeypatch, *folders):
    def write(file, *args):
        if os.path.dirname(file) in map(str, folders):
            raise OSError(errno.EROFS, 'Read-only file system')
        return write_table(file, *args)

    monkeypatch.setattr(tables, 'write_table', write)


def test_read_only_folders(tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr(tables, 'print_log', lambda text, *args, **kwargs: told.append(text))
    file = write_list(tmp_path / 'list.txt', 'a.jpg 0\n')
    forbid(monkeypatch, tmp_path)
    assert read_list(file, ['.jpg']).paths == ['a.jpg']
    [cached] = (tmp_path / 'cache' / 'omnimae').iterdir()
    assert re.fullmatch(
        rf'{tmp_path}/\.list\S+ cannot be written \(Read-only.*\), so its rows are stored in {cached}.', told[0]
    )
    with monkeypatch.context() as patch:
        patch.setattr(annotations, '_text_of', None)
        assert read_list(file, ['.jpg']).paths == ['a.jpg']
    cached.unlink()
    forbid(monkeypatch, tmp_path, cached.parent)
    assert read_list(file, ['.jpg']).paths == ['a.jpg']
    assert len(told) == 2
    assert 'every rank parses it' in told[1]


def test_a_user_without_a_home_has_no_cache(tmp_path, monkeypatch):
    """As in a container that runs with the number of any user."""

    def home():
        raise RuntimeError('Could not determine home directory.')

    monkeypatch.setattr(tables.Path, 'home', home)
    monkeypatch.delenv('XDG_CACHE_HOME')
    for file in (tmp_path / 'a', tmp_path / 'nowhere' / 'a'):
        for _ in range(2):
            assert tables.stored(str(file), {}, lambda: dict(x=StringTable(['a'])))['x'] == ['a']
    assert (tmp_path / 'a').exists()


def test_damaged_tables_are_not_believed(tmp_path):
    names = [f'{number}.jpg' for number in range(50)]
    file = write_list(tmp_path / 'list.txt', '\n'.join(names))
    assert read_list(file, ['.jpg']).paths == names
    [table] = tmp_path.glob('.list*')
    whole = table.read_bytes()
    ends = whole.index((5 * np.arange(1, 4)).tobytes())
    for wrong in (
        b'', whole[:-64], whole[:100], whole[64:], whole.replace(b'"size": ', b'"size":  '), b'x' * 5000,
        whole[:ends] + np.int64(-3).tobytes() + whole[ends + 8 :], whole[:ends] + b'\x7f' * 8 + whole[ends + 8 :],
        whole.replace(b'0.jpg', b'/.jpg'), whole.replace(b'10.jpg', b'../x.j'),
        whole.replace(b'"|u1"', b'"001"'),
    ):  # fmt: skip
        table.write_bytes(wrong)
        assert read_list(file, ['.jpg']).paths == names


def note(text):
    with open(os.environ['NOTES'], 'a') as out:
        out.write(text)


def read_slowly(file):
    def fast(text, select, parser):
        note('x')
        time.sleep(0.3)
        return None

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(annotations, '_read_fast', fast)
        return plain(read_list(file, ['.jpg']))


def test_ranks_that_start_at_once_read_it_once(tmp_path, monkeypatch):
    monkeypatch.setenv('NOTES', str(tmp_path / 'notes'))
    file = write_list(tmp_path / 'list.txt', 'a.jpg 3\nb.jpg 4\n')
    with ProcessPoolExecutor(4, get_context('fork')) as pool:
        assert [*pool.map(read_slowly, [file] * 4)] == [[['a.jpg', 'b.jpg'], [3, 4], None, None, None]] * 4
    assert (tmp_path / 'notes').read_text() == 'x'


def root_of(array):
    while getattr(array, 'base', None) is not None:
        array = array.base
    return type(array).__name__


def test_only_files_of_a_local_disk_are_mapped(tmp_path, monkeypatch):
    write_table(tmp_path / 'table', {}, dict(numbers=np.arange(9)))
    for major, kind in ((8, 'mmap'), (0, 'ndarray')):
        monkeypatch.setattr(os, 'major', lambda device, major=major: major)
        columns = read_table(tmp_path / 'table', {})
        assert columns['numbers'].tolist() == [*range(9)]
        assert root_of(columns['numbers']) == kind


def test_tables_of_nothing_and_of_other_matters(tmp_path):
    columns = dict(names=StringTable([]), numbers=np.zeros((0, 2)), none=None, words=StringTable(['', '\udc80', 'b']))
    write_table(tmp_path / 'table', dict(a=(1, 2)), columns)
    read = read_table(tmp_path / 'table', dict(a=[1, 2]))
    assert read['numbers'].shape == (0, 2)
    assert read['none'] is None
    assert (read['names'], read['words']) == ([], ['', '\udc80', 'b'])
    assert read_table(tmp_path / 'table', dict(a=[1, 3])) is None
    assert os.stat(tmp_path / 'table').st_mode & 0o044 == 0o044  # others read it, too
