"""Sources of images and videos: real files of every awkward kind, addressed randomness, batches."""

from __future__ import annotations

import copy
import inspect
import io
import os
import re
import struct
import zlib
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import skimage.data
import torch
from hypothesis import given
from hypothesis import strategies as st
from mmengine import fileio
from mmengine.registry import FUNCTIONS, DefaultScope
from mmengine.runner import Runner
from PIL import Image

from omnimae.data import annotations, datasets, readers
from omnimae.data.annotations import (
    StringTable,
    read_classes,
    read_frame_list,
    read_list,
    scan_files,
    scan_folder,
)
from omnimae.data.datasets import ImageDataset, MixedDataset, VideoDataset, collate_clips
from omnimae.data.formats.preparation import _write_lines
from omnimae.data.frame_folders import FrameDataset
from omnimae.data.media import READERS
from omnimae.data.media.errors import BrokenFileError, BrokenImageError, BrokenVideoError
from omnimae.data.media.extensions import HEIF_EXTENSIONS, IMAGE_EXTENSIONS, VIDEO_EXTENSIONS, modality_of
from omnimae.data.media.images import decode_image, read_image
from omnimae.data.media.video import PyAVReader
from omnimae.engine.reading import append_lines
from omnimae.registry import DATASETS
from omnimae.structures import Address, Sample

CROP = dict(type='RandomResizedCrop', size=32, scale=(0.3, 1.0))
END = '(truncated|Premature end of JPEG file)'  # of a file that ends early
TEST = (dict(type='ResizeShort', size=32), dict(type='CenterCrop', size=32))


# Files of our own making ----------------------------------------------------------------------------------------------


def picture(seed: int = 0, height: int = 60, width: int = 80) -> Image.Image:
    """Smooth and different in every quarter."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, kind: str = 'JPEG', **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def write_image(path: Path, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded(picture(seed), quality=95))


def write_video(path: Path, num_frames: int = 30, codec: str = 'libx264', base: int = 0, fps: int = 10) -> None:
    """Frame i is one flat grey, ``base + 4 i``: a picture tells its time, wherever it is cropped."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), 'w') as container:
        stream = container.add_stream(codec, rate=fps)
        stream.width, stream.height, stream.pix_fmt = 64, 48, 'yuv420p'
        stream.codec_context.time_base = Fraction(1, fps)
        for i in range(num_frames):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), (base + 4 * i) % 256, np.uint8), format='rgb24')
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


@pytest.fixture(scope='module')
def data(tmp_path_factory) -> Path:
    """images/{cat,dog}/N.jpg, 7 in all; videos/N.{mp4,webm}, 5 in all and one of half a second."""
    root = tmp_path_factory.mktemp('data')
    for i in range(7):
        write_image(root / 'images' / ('cat' if i < 4 else 'dog') / f'{i}.jpg', seed=i)
    for i in range(4):
        write_video(root / 'videos' / f'{i}.mp4', base=20 * i)
    write_video(root / 'videos' / '4.webm', codec='libvpx-vp9')
    write_video(root / 'short' / '0.mp4', num_frames=5)
    return root


@pytest.fixture(autouse=True)
def _scope():
    with DefaultScope.overwrite_default_scope('omnimae'):
        yield


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b'x')


# Rows -----------------------------------------------------------------------------------------------------------------


@given(st.lists(st.text(st.characters(exclude_categories=['Cs'], exclude_characters='\0'))))
def test_string_table_is_a_list_of_strings(strings):
    table = StringTable(strings)
    assert len(table) == len(strings)
    assert [table[i] for i in range(len(table))] == strings
    assert [table[i - len(table)] for i in range(len(table))] == strings
    with pytest.raises(IndexError, match='out of range'):
        table[len(strings)]


def test_folders_are_classes_sorted_at_any_depth(tmp_path):
    touch(
        tmp_path,
        'b/2.jpg',
        'b/deep/1.JPEG',
        'a b/3.png',
        'a b/.hidden.jpg',
        'b/notes.txt',
        '.cache/4.jpg',
    )
    rows = scan_folder(str(tmp_path), IMAGE_EXTENSIONS)
    assert rows.paths == ['a b/3.png', 'b/2.jpg', 'b/deep/1.JPEG']
    assert rows.labels == [0, 1, 1]
    assert rows.classes == ('a b', 'b')
    rows = scan_folder(str(tmp_path), IMAGE_EXTENSIONS, classes=['b', 'c', 'a b'])
    assert rows.labels == [2, 0, 0]
    assert rows.classes == ('b', 'c', 'a b')


def test_a_file_in_the_root_makes_a_folder_without_classes(tmp_path):
    touch(tmp_path, '2.jpg', 'holiday/1.jpg')
    assert scan_folder(str(tmp_path), IMAGE_EXTENSIONS)[:3] == (['2.jpg', 'holiday/1.jpg'], None, None)
    with pytest.raises(ValueError, match=r"has a file outside the class folders, '2.jpg'. Move it, or drop classes"):
        scan_folder(str(tmp_path), IMAGE_EXTENSIONS, classes=['holiday'])


def warnings_of(monkeypatch) -> list[str]:
    said: list[str] = []
    for module in (datasets, annotations):
        monkeypatch.setattr(module, 'print_log', lambda message, *rest: said.append(message))
    return said


def test_what_is_passed_over_is_counted_by_ending(tmp_path, monkeypatch):
    said = warnings_of(monkeypatch)
    touch(tmp_path, 'a/1.jpg', 'a/2.JPG', 'a/3.txt', 'b/4.TXT', 'b/5.webp2', 'b/6.jpg', 'b/README', 'b/.hidden.txt')
    assert scan_folder(str(tmp_path), IMAGE_EXTENSIONS).paths == ['a/1.jpg', 'a/2.JPG', 'b/6.jpg']
    assert said == [f'{tmp_path}: files passed over: .txt 2 (a/3.txt), .webp2 1, no ending 1']
    touch(tmp_path, *(f'b/x.{number}' for number in range(10)))
    scan_files(str(tmp_path), IMAGE_EXTENSIONS)
    assert said[1].startswith(f'{tmp_path}: files passed over: .txt 2 (a/3.txt), .0 1, .1 1, .2 1, ')
    assert said[1].endswith(', ...')
    said.clear()
    touch(tmp_path, 'only/1.jpg')
    scan_folder(str(tmp_path / 'only'), IMAGE_EXTENSIONS)
    assert said == []


def test_heif_is_read_with_pillow_heif_and_named_without(tmp_path, monkeypatch):
    said = warnings_of(monkeypatch)
    monkeypatch.setattr('omnimae.data.media.extensions.READS_HEIF', False)
    touch(tmp_path, 'a/1.jpg', 'a/2.heic')
    scan_folder(str(tmp_path), ('.jpg',))
    assert said == [f'{tmp_path}: files passed over: .heic 1 (a/2.heic) (for HEIF: pip install pillow-heif)']
    (tmp_path / 'list.txt').write_text('a/2.HEIC 1')
    with pytest.raises(ValueError, match=r'does not end in one of .jpg \(for HEIF: pip install pillow-heif\). Correct'):
        read_list(str(tmp_path / 'list.txt'), ('.jpg',))


@pytest.mark.parametrize(
    ('names', 'held'),
    [(['b/1.gif', 'b/c/2.txt', 'b/3.txt'], '.txt 2 (b/3.txt), .gif 1'), (['b/.x.jpg'], 'nothing'), ([], 'nothing')],
)
def test_a_class_folder_without_a_file_is_an_error(tmp_path, names, held):
    touch(tmp_path, 'a/1.jpg', 'c/1.jpg', *names)
    (tmp_path / 'b').mkdir(exist_ok=True)
    with pytest.raises(ValueError, match=rf"'b', the first of 1, .* it holds {re.escape(held)}. Remove"):
        scan_folder(str(tmp_path), IMAGE_EXTENSIONS)
    with pytest.raises(ValueError, match="the class folder 'b'"):
        ImageDataset(root=str(tmp_path))
    assert scan_folder(str(tmp_path), IMAGE_EXTENSIONS, classes=['a', 'b', 'c']).labels == [0, 2]
    touch(tmp_path, '0.jpg')  # no classes, then
    assert scan_folder(str(tmp_path), IMAGE_EXTENSIONS).paths == ['0.jpg', 'a/1.jpg', 'c/1.jpg']
    (tmp_path / 'd').mkdir()
    (tmp_path / '0.jpg').unlink()
    with pytest.raises(ValueError, match="'b', the first of 2"):
        scan_folder(str(tmp_path), IMAGE_EXTENSIONS)


def test_a_folder_without_any_file_says_what_it_holds(tmp_path):
    touch(tmp_path, 'a.txt')
    with pytest.raises(ValueError, match=r'no file that ends in .jpg, .*; it holds .txt 1 \(a.txt\). Correct root or'):
        scan_folder(str(tmp_path), IMAGE_EXTENSIONS)


def test_a_link_back_is_an_error(tmp_path):
    touch(tmp_path, 'cat/1.jpg')
    (tmp_path / 'cat' / 'again').symlink_to(tmp_path / 'cat')
    with pytest.raises(ValueError, match='cat/again is a link to a folder that it is in. Remove it'):
        scan_folder(str(tmp_path), IMAGE_EXTENSIONS)


def test_every_ending_is_an_image_or_a_video():
    assert not {*IMAGE_EXTENSIONS} & {*VIDEO_EXTENSIONS}
    assert {'.avif', '.jfif', '.jp2', '.webp'} <= {*IMAGE_EXTENSIONS}
    assert {'.gif', '.ts', '.mts', '.m2ts', '.vob'} <= {*VIDEO_EXTENSIONS}
    assert [modality_of(x) for x in ('a.b/c.JPEG', Path('A.MTS'), 'a.jpg.txt', '.jpg', 'jpg')] == [
        'image',
        'video',
        None,
        None,
        None,
    ]
    known = Image.registered_extensions()
    assert all(known[ending] in {*Image.OPEN, 'MPO'} for ending in IMAGE_EXTENSIONS if ending not in HEIF_EXTENSIONS)


NAMES = ['a\x85b', '\x85', 'a\x0b b\x0c', 'a\x1c\x1d\x1e\x1f', 'a\u2028\u2029', '\u3000a', os.fsdecode(b'caf\xe9')]


def test_names_hold_whatever_ends_a_line_elsewhere(tmp_path):
    """Names round a list, in paths, classes and ids, as in the folder itself."""
    classes = tuple(sorted(NAMES))
    for number, name in enumerate(classes):
        write_image(tmp_path / 'images' / name / f'{name}.jpg', seed=number)
    scanned = ImageDataset(root=str(tmp_path / 'images'))
    assert scanned.classes == classes
    rows = [f'{path} {name} id={name}' for path, name in zip(scanned.paths, classes, strict=True)]
    _write_lines(tmp_path / 'list.txt', rows)
    _write_lines(tmp_path / 'classes.txt', classes)
    listed = ImageDataset(
        root=str(tmp_path / 'images'), ann_file=str(tmp_path / 'list.txt'), classes=str(tmp_path / 'classes.txt')
    )
    assert [*listed.paths] == [*scanned.paths]
    assert [*listed.ids] == [*classes]
    assert listed.labels.tolist() == scanned.labels.tolist() == [*range(len(classes))]
    assert torch.equal(listed[3]['clips']['rgb'], scanned[3]['clips']['rgb'])
    skip = tmp_path / 'broken_files.txt'
    append_lines(skip, [f'{tmp_path}/images/{path}\tbroken' for path in scanned.paths])
    with pytest.raises(ValueError, match='is to be skipped'):
        ImageDataset(root=str(tmp_path / 'images'), skip=str(skip))[Address(0, 2, 0)]
    datasets.READING.write(scanned.paths[0])
    assert datasets.READING.read(os.getpid()) == scanned.paths[0]


def test_names_of_frame_folders_hold_them_too(tmp_path):
    _write_lines(tmp_path / 'list.txt', [f'{name} 5 1' for name in NAMES])
    assert read_frame_list(str(tmp_path / 'list.txt'), ['total', 'label']).paths == NAMES


def test_linked_folders_are_followed(tmp_path):
    touch(tmp_path, 'real/cat/1.jpg')
    (tmp_path / 'links').mkdir()
    (tmp_path / 'links' / 'cat').symlink_to(tmp_path / 'real' / 'cat')
    assert scan_folder(str(tmp_path / 'links'), ['.jpg']).paths == ['cat/1.jpg']


@pytest.mark.parametrize(
    ('line', 'path', 'label'),
    [
        ('a/b.jpg 3', 'a/b.jpg', 3),
        ('a/b.JPG\t3', 'a/b.JPG', 3),
        ('my holiday/b 2.jpg 3', 'my holiday/b 2.jpg', 3),
        ('a.jpg b.jpg   1', 'a.jpg b.jpg', 1),
        ('x.png cat', 'x.png', 0),
        ('x.png a dog in the rain', 'x.png', 1),
        ('  x.png 1  ', 'x.png', 1),
    ],
)
def test_lines_with_labels(tmp_path, line, path, label):
    (tmp_path / 'list.txt').write_text(f'\n{line}\n\n')
    rows = read_list(str(tmp_path / 'list.txt'), ['.jpg', '.png'], classes=['cat', 'a dog in the rain'])
    assert (rows.paths, rows.labels) == ([path], [label])


def test_the_mark_that_windows_puts_before_text_is_no_part_of_it(tmp_path):
    (tmp_path / 'list.txt').write_text('a.jpg cat\nb.jpg dog\n', encoding='utf-8-sig')
    (tmp_path / 'classes.txt').write_text('cat\ndog\n', encoding='utf-8-sig')
    classes = read_classes(str(tmp_path / 'classes.txt'))
    rows = read_list(str(tmp_path / 'list.txt'), ['.jpg'], classes=classes)
    assert (classes, rows.paths, [*rows.labels]) == (('cat', 'dog'), ['a.jpg', 'b.jpg'], [0, 1])


def test_paths_may_go_round_below_root_and_leave_it_when_allowed(tmp_path):
    (tmp_path / 'list.txt').write_text('a/../b..c.jpg 0\n')
    assert read_list(str(tmp_path / 'list.txt'), ['.jpg']).paths == ['a/../b..c.jpg']
    (tmp_path / 'list.txt').write_text('../b.jpg 0\n')
    assert read_list(str(tmp_path / 'list.txt'), ['.jpg'], allow_outside=True).paths == ['../b.jpg']


def test_lines_without_labels(tmp_path):
    (tmp_path / 'list.txt').write_text('a/1.mp4\nmy clip 7.mp4\r\n')
    assert read_list(str(tmp_path / 'list.txt'), ['.mp4'])[:3] == (['a/1.mp4', 'my clip 7.mp4'], None, None)


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('', 'has no lines. Write one "path" or "path label" a line'),
        ('a.jpg 1\nb.gif 2', r"list.txt, line 2, 'b.gif 2': The path does not end in one of .jpg"),
        ('a.jpg 1\n\nb.jpg', r"list.txt, line 3, 'b.jpg': Some lines have a label and some have none"),
        ('a.jpg\nb.jpg 1', r"list.txt, line 2, 'b.jpg 1': Some lines have a label and some have none"),
        (
            'a.jpg zebra',
            r"line 1, 'a.jpg zebra': The label 'zebra' is neither a class index nor one of classes. Correct",
        ),
        ('a.jpg 1.5', r"line 1, 'a.jpg 1.5': The label '1.5' is neither a class index"),
        ('a.jpg0 1', r"line 1, 'a.jpg0 1': The path does not end in one of"),
        ('a.jpg 1\n../b.jpg 1', r"line 2, '../b.jpg 1': The path leaves root. Correct it, or set allow_outside=True"),
        ('a/../../b.jpg 1', r'line 1, .*: The path leaves root'),
        ('/etc/b.jpg 1', r'line 1, .*: The path leaves root'),
        ('http://b.jpg 1', r'line 1, .*: The path leaves root'),
    ],
)
def test_wrong_lists_name_file_line_text_and_remedy(tmp_path, text, message):
    (tmp_path / 'list.txt').write_text(text)
    with pytest.raises(ValueError, match=message):
        read_list(str(tmp_path / 'list.txt'), ['.jpg'], classes=['cat', 'dog'])


@pytest.mark.parametrize(
    ('line', 'path', 'span', 'label', 'name'),
    [
        ('a.mp4 0.5 2.25 1', 'a.mp4', (0.5, 2.25), 1, 'a.mp4 0.5-2.25'),
        ('my clip.mp4 3661.04 3662 a dog in the rain', 'my clip.mp4', (3661.04, 3662.0), 1, 'my clip.mp4 3661.04-3662'),
        ('a.mp4 0 2 cat id=P01_11_0', 'a.mp4', (0.0, 2.0), 0, 'P01_11_0'),
        ('a.mp4 1 id=P01_11_0', 'a.mp4', None, 1, 'P01_11_0'),
        ('a.mp4 0 2 2 4', 'a.mp4', (0.0, 2.0), 2, 'a.mp4 0-2'),
        ('a.mp4 1 id=b.mp4', 'a.mp4', None, 1, 'b.mp4'),
        ('a.mp4 10 20', 'a.mp4', None, 3, None),
        ('a.mp4 0 2 \x0bb', 'a.mp4', (0.0, 2.0), 4, 'a.mp4 0-2'),
    ],
)
def test_lines_with_spans_and_ids(tmp_path, line, path, span, label, name):
    (tmp_path / 'list.txt').write_text(line)
    classes = ['cat', 'a dog in the rain', '2 4', '10 20', '\x0bb']
    rows = read_list(str(tmp_path / 'list.txt'), ['.mp4'], classes=classes)
    assert (rows.paths, rows.labels) == ([path], [label])
    assert (rows.spans is None) if span is None else (rows.spans.tolist() == [[*span]])
    assert rows.ids == (None if name is None else [name])


def test_spans_without_labels_and_whole_files_among_them(tmp_path):
    (tmp_path / 'list.txt').write_text('a.mp4 0 2\nb.mp4\nid=3.mp4 0.25 1 id=x\n')
    rows = read_list(str(tmp_path / 'list.txt'), ['.mp4'])
    assert rows.paths == ['a.mp4', 'b.mp4', 'id=3.mp4']
    assert rows.labels is None
    assert rows.spans.tolist() == [[0.0, 2.0], [0.0, float('inf')], [0.25, 1.0]]
    assert rows.ids == ['a.mp4 0-2', 'b.mp4', 'x']


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('a.mp4 2.5 2.5 1', r'line 1, .* The span from 2.5 to 2.5 s is none. Write "path start stop label" with 0 <='),
        ('a.mp4 0 1 1\na.mp4 3 2 1', r'list.txt, line 2, .* The span from 3 to 2 s is none'),
        ('a.mp4 -1 2 1', r'The span from -1 to 2 s is none'),
        ('a.mp4 0 inf 1', r'The span from 0 to inf s is none'),
        ('a.mp4 0 1 zebra', r"The label 'zebra' is neither a class index nor one of classes"),
        ('a.mp4 1\nb.mp4 2\na.mp4 1', r"list.txt, line 3, 'a.mp4 1': Its id 'a.mp4' is that of line 1 too. Drop one"),
        ('a.mp4 0 1 1\na.mp4 0 1 2', r"line 2, .* Its id 'a.mp4 0-1' is that of line 1 too. Drop one, or add id=NAME"),
        ('a.mp4 0 1 1 id=x\n\nb.mp4 1 id=x', r"line 3, .* Its id 'x' is that of line 1 too"),
    ],
)
def test_wrong_spans_and_ids_name_line_and_remedy(tmp_path, text, message):
    (tmp_path / 'list.txt').write_text(text)
    with pytest.raises(ValueError, match=message):
        read_list(str(tmp_path / 'list.txt'), ['.mp4'], classes=['cat', 'dog', 'cow'])


def test_class_names_come_from_a_file(data, tmp_path):
    (tmp_path / 'classes.txt').write_text('bird\n dog \ncat\n\n')
    assert read_classes(str(tmp_path / 'classes.txt')) == ('bird', 'dog', 'cat')
    dataset = ImageDataset(root=str(data / 'images'), classes=str(tmp_path / 'classes.txt'))
    assert (dataset.classes, dataset.labels.tolist()) == (('bird', 'dog', 'cat'), [2, 2, 2, 2, 1, 1, 1])


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        (None, r"classes='.*classes.txt' does not exist. Correct it, or write one class name a line there"),
        ('\n', 'has no lines. Write one class name a line'),
        ('cat\n\ndog\ncat', r"classes.txt, line 4: the class 'cat' is in line 1 too. Drop one"),
    ],
)
def test_wrong_files_of_classes(tmp_path, text, message):
    if text is not None:
        (tmp_path / 'classes.txt').write_text(text)
    with pytest.raises(ValueError, match=message):
        read_classes(str(tmp_path / 'classes.txt'))


def test_names_without_classes_say_the_remedy(tmp_path):
    (tmp_path / 'list.txt').write_text('a.jpg cat')
    with pytest.raises(ValueError, match=r"'cat' is neither .* Give classes=\[...\] to use names"):
        read_list(str(tmp_path / 'list.txt'), ['.jpg'])


def test_wrong_sources_fail_when_built_and_name_the_source(data, tmp_path):
    ann = tmp_path / 'list.txt'
    images = str(data / 'images')

    def fails(text: str, message: str, **kwargs):
        ann.write_text(text)
        cfg = dict(type='ImageDataset', root=images, **kwargs)
        with pytest.raises(ValueError, match=f'Source .pets.: .*{message}'):
            MixedDataset(sources=dict(pets=cfg))

    fails('', 'has no lines', ann_file=str(ann))
    fails('', r"ann_file='nowhere.txt' does not exist", ann_file='nowhere.txt')
    fails('', r'holds no file that ends in .bmp', extensions=['.bmp'])
    fails('', r"has folders that are not in classes, \['dog'\]", classes=['cat'])
    fails(
        '',
        r"the label 1 of 'dog/4.jpg' is out of range, the first of 3. Labels count from 0 to 0. Correct them",
        num_classes=1,
    )
    fails(
        'cat/0.jpg 0\ncat/1.jpg 7',
        r"list.txt: the label 7 of 'cat/1.jpg' is out of range.* Labels count from 0 to 4",
        ann_file=str(ann),
        num_classes=5,
    )
    fails('cat/0.jpg 2', r'the label 2 .* Labels count from 0 to 1', ann_file=str(ann), classes=['cat', 'dog'])
    fails('cat/0.jpg -1', r'the label -1 .* out of range', ann_file=str(ann))
    fails(
        'x/0.jpg 1\nx/1.jpg 1',
        r"None of the 2 files looked for exist, the first is '.*images/x/0.jpg'. The paths in "
        r'ann_file=.* are relative to root=.*; correct one of the two',
        ann_file=str(ann),
    )
    fails('', 'replicas=0 makes no crop', replicas=0)
    with pytest.raises(ValueError, match=r"Source 'pets': root='nowhere' is not a folder. Correct the path"):
        MixedDataset(sources=dict(pets=dict(type='ImageDataset', root='nowhere')))
    with pytest.raises(ValueError, match=r"Source 'clips': num_frames=0 is not positive"):
        MixedDataset(sources=dict(clips=dict(type='VideoDataset', root=str(data / 'videos'), num_frames=0)))
    with pytest.raises(ValueError, match='sources is empty. Name at least one'):
        MixedDataset(sources={})


def test_some_missing_files_are_a_warning(data, tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(datasets, 'print_log', lambda message, *rest: said.append(message))
    (tmp_path / 'list.txt').write_text('cat/0.jpg\ncat/nope.jpg\n')
    assert len(ImageDataset(root=str(data / 'images'), ann_file=str(tmp_path / 'list.txt'))) == 2
    assert len(said) == 1
    assert '1 of 2 files looked for are missing' in said[0]


def test_any_storage_of_mmengine_serves(data):
    files = {f'store/{p.relative_to(data)}': p.read_bytes() for p in data.rglob('*') if p.suffix in ('.jpg', '.webm')}
    files['store/list.txt'] = b'images/cat/0.jpg 1\nimages/dog/5.jpg 0\n'

    class Memory(fileio.BaseStorageBackend):
        def get(self, filepath):
            return files[filepath]

        def get_text(self, filepath, encoding='utf-8'):
            return files[filepath].decode(encoding)

        def exists(self, filepath):
            return filepath in files

        def isdir(self, filepath):
            return any(name.startswith(f'{filepath}/') for name in files)

        def list_dir_or_file(self, root, list_dir=True, list_file=True, suffix=None, recursive=False):
            return (name.removeprefix(f'{root}/') for name in files if name.startswith(f'{root}/'))

    fileio.register_backend('memory', Memory, force=True)
    remote, local = dict(backend_args=dict(backend='memory'), transforms=TEST), dict(transforms=TEST)
    listed = ImageDataset(root='store', ann_file='store/list.txt', **remote)
    scanned = ImageDataset(root='store/images', **remote)
    on_disk = ImageDataset(root=str(data / 'images'), **local)
    assert [listed[i]['label'] for i in range(2)] == [1, 0]
    assert torch.equal(listed[1]['clips']['rgb'], on_disk[5]['clips']['rgb'])
    assert [scanned[i]['id'] for i in range(7)] == [on_disk[i]['id'] for i in range(7)]
    video = VideoDataset(root='store/videos', num_frames=4, **remote)
    here = VideoDataset(root=str(data / 'videos'), num_frames=4, **local)
    assert torch.equal(video[0]['clips']['rgb'], here[4]['clips']['rgb'])
    with pytest.raises(ValueError, match=r"root='http://x' cannot be listed by HTTPBackend. Give an ann_file"):
        ImageDataset(root='http://x')


# Pictures -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('orientation', range(1, 9))
def test_exif_orientation_is_applied(orientation):
    upright = picture()
    stored = {
        1: upright,
        2: upright.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        3: upright.transpose(Image.Transpose.ROTATE_180),
        4: upright.transpose(Image.Transpose.FLIP_TOP_BOTTOM),
        5: upright.transpose(Image.Transpose.TRANSPOSE),
        6: upright.transpose(Image.Transpose.ROTATE_90),  # shown turned clockwise
        7: upright.transpose(Image.Transpose.TRANSVERSE),
        8: upright.transpose(Image.Transpose.ROTATE_270),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    for kind in ('JPEG', 'PNG'):
        decoded = decode_image(encoded(stored, kind, exif=exif, **({'quality': 100} if kind == 'JPEG' else {})))
        assert decoded.shape == (60, 80, 3)
        assert np.abs(decoded.astype(int) - np.asarray(upright)).max() < 20


@pytest.mark.filterwarnings('ignore:Corrupt EXIF')
@pytest.mark.parametrize('header', [b'', b'MM\0*', b'II*\0', b'MM\0*\0\0\0\x08'])
@pytest.mark.parametrize('kind', ['JPEG', 'PNG', 'WEBP'])
def test_damaged_exif_does_not_cost_the_image(kind, header):
    damaged = encoded(picture(), kind, exif=b'Exif\0\0' + header + b'garbage' * 5)
    np.testing.assert_array_equal(decode_image(damaged), decode_image(encoded(picture(), kind)))


GREY = np.arange(256, dtype=np.uint8).reshape(16, 16)


@pytest.mark.parametrize(
    ('data', 'expected'),
    [
        (encoded(Image.fromarray(GREY), 'PNG'), GREY[..., None]),
        (encoded(Image.fromarray(GREY.astype(np.uint16) * 257), 'PNG'), GREY[..., None]),
        (encoded(Image.fromarray(GREY > 99), 'PNG'), (GREY > 99)[..., None] * 255),
        (encoded(Image.fromarray(GREY).quantize(256), 'PNG'), GREY[..., None]),
    ],
    ids=['grey', 'grey 16 bit', 'black and white', 'palette'],
)
def test_greyscale_of_any_depth_becomes_rgb(data, expected):
    decoded = decode_image(data)
    assert decoded.dtype == np.uint8
    np.testing.assert_array_equal(decoded, np.broadcast_to(expected, (16, 16, 3)))


def test_transparent_pixels_lie_on_white():
    rgba = np.zeros((1, 3, 4), np.uint8)
    rgba[0] = [(200, 100, 0, 255), (200, 100, 0, 0), (0, 0, 0, 128)]
    expected = [[200, 100, 0], [255, 255, 255], [127, 127, 127]]
    np.testing.assert_array_equal(decode_image(encoded(Image.fromarray(rgba), 'PNG'))[0], expected)
    np.testing.assert_array_equal(
        decode_image(encoded(Image.fromarray(rgba), 'WEBP', lossless=True, exact=True))[0], expected
    )


def test_cmyk_keeps_its_colours():
    red = Image.new('RGB', (16, 16), (255, 0, 0))
    decoded = decode_image(encoded(red.convert('CMYK'), quality=100))
    assert np.abs(decoded.astype(int) - (255, 0, 0)).max() < 5


@pytest.mark.filterwarnings('ignore:Corrupt EXIF')
@pytest.mark.parametrize('kind', ['JPEG', 'PNG', 'WEBP', 'TIFF', 'BMP'])
def test_a_truncated_image_is_an_error_wherever_it_ends(kind, tmp_path):
    whole = encoded(picture(), kind)
    last = len(whole) - (23 if kind == 'PNG' else 1)  # all pixels of a PNG stand before its last 22 bytes
    ends = [0, 1, 10, *np.linspace(20, last, 12, dtype=int).tolist()]
    for end in ends:
        touch(tmp_path, 'a.png')
        (tmp_path / 'a.png').write_bytes(whole[:end])
        with pytest.raises(BrokenImageError, match='a.png: '):
            ImageDataset(root=str(tmp_path))[0]


@pytest.mark.parametrize('options', [{}, {'subsampling': 0}, {'progressive': True}, {'restart_marker_rows': 1}])
def test_a_jpeg_without_its_middle_is_an_error(options, tmp_path):
    photo = Image.fromarray(skimage.data.astronaut())
    whole = encoded(photo, 'JPEG', quality=85, **options)
    touch(tmp_path, 'a.jpg')
    begins, refused = range(2000, len(whole) - 9000, len(whole) // 50), 0
    for begin in begins:
        (tmp_path / 'a.jpg').write_bytes(whole[:begin] + whole[begin + 701 :])
        try:
            ImageDataset(root=str(tmp_path))[0]
        except BrokenImageError as error:
            refused += 'orrupt' in error.reason or 'Huffman' in error.reason or 'marker' in error.reason
    assert refused >= 0.8 * len(begins)  # rarely what is left is a valid stream


def test_jpegs_are_decoded_as_pillow_does():
    photo = skimage.data.astronaut()[:201, :302]
    for image in (Image.fromarray(photo), Image.fromarray(photo).convert('L')):
        for options in ({}, {'subsampling': 0}, {'subsampling': 1}, {'progressive': True}, {'quality': 30}):
            data = encoded(image, 'JPEG', **options)
            np.testing.assert_array_equal(decode_image(data), np.array(Image.open(io.BytesIO(data)).convert('RGB')))
    np.testing.assert_array_equal(decode_image(data[:-2] + b'rubbish' + data[-2:]), decode_image(data))


@pytest.mark.parametrize(
    ('kind', 'options'), [('GIF', {}), ('PNG', {}), ('WEBP', {'lossless': True})], ids=['GIF', 'PNG', 'WEBP']
)
def test_of_an_animation_the_first_picture_counts(kind, options):
    red, blue = Image.new('RGB', (8, 8), (255, 0, 0)), Image.new('RGB', (8, 8), (0, 0, 255))
    data = encoded(red, kind, save_all=True, append_images=[blue], duration=100, **options)
    np.testing.assert_array_equal(decode_image(data), np.broadcast_to((255, 0, 0), (8, 8, 3)))


@pytest.mark.parametrize('kind', ['PNG', 'JPEG', 'BMP'])
def test_a_header_that_promises_a_huge_picture_is_an_error(kind, tmp_path):
    data = bytearray(encoded(Image.new('RGB', (8, 8)), kind))
    if kind == 'PNG':
        data[16:24] = struct.pack('>II', 60_000, 60_000)
        data[29:33] = struct.pack('>I', zlib.crc32(data[12:29]))
    elif kind == 'BMP':
        data[18:26] = struct.pack('<ii', 60_000, 60_000)
    else:
        begin = data.index(b'\xff\xc0') + 5
        data[begin : begin + 4] = struct.pack('>HH', 60_000, 60_000)
    touch(tmp_path, 'a.png')
    (tmp_path / 'a.png').write_bytes(data)
    with pytest.raises(BrokenImageError, match='DecompressionBombError'):
        ImageDataset(root=str(tmp_path))[0]


@pytest.mark.parametrize(
    ('content', 'reason'),
    [(b'', 'the file is empty'), (b'hello world' * 100, 'not an image'), (None, 'FileNotFoundError')],
)
def test_a_file_that_is_no_image_says_why(content, reason, tmp_path):
    touch(tmp_path, 'a.jpg')
    dataset = ImageDataset(root=str(tmp_path))
    (tmp_path / 'a.jpg').unlink() if content is None else (tmp_path / 'a.jpg').write_bytes(content)
    with pytest.raises(BrokenImageError, match=reason) as caught:
        dataset[0]
    assert caught.value.path == str(tmp_path / 'a.jpg')


def test_a_decompression_bomb_is_an_error(tmp_path, monkeypatch):
    write_image(tmp_path / 'a.jpg')
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 60 * 80 // 2 - 1)
    with pytest.raises(BrokenImageError, match='DecompressionBombError'):
        ImageDataset(root=str(tmp_path))[0]


# Samples --------------------------------------------------------------------------------------------------------------


def images(data: Path, **kwargs) -> ImageDataset:
    return ImageDataset(root=str(data / 'images'), **{**dict(transforms=[CROP]), **kwargs})


def videos(data: Path, folder: str = 'videos', **kwargs) -> VideoDataset:
    return VideoDataset(
        root=str(data / folder), **{**dict(transforms=[CROP], clip_seconds=1.0, num_frames=4), **kwargs}
    )


def test_an_image_is_a_clip_of_one_frame(data):
    sample = images(data)[Address(0, 5, 1)]
    assert (sample['modality'], sample['id'], sample['label'], sample['failures']) == ('image', 'dog/5.jpg', 1, [])
    assert sample['clips']['rgb'].shape == (1, 3, 1, 32, 32)
    assert sample['clips']['rgb'].dtype == torch.uint8
    whole = images(data, transforms=())[2]['clips']['rgb'][0, 0, :, 0].permute(1, 2, 0).numpy()
    np.testing.assert_array_equal(whole, np.asarray(Image.open(data / 'images' / 'cat' / '2.jpg')))


def test_a_video_without_classes_has_no_label(data):
    sample = videos(data)[Address(1, 4, 1)]
    assert (sample['modality'], sample['id']) == ('video', '4.webm')
    assert 'label' not in sample
    assert sample['clips']['rgb'].shape == (1, 3, 4, 32, 32)


@pytest.mark.parametrize('make', [images, videos])
def test_a_sample_follows_from_its_address_alone(data, make):
    dataset = make(data, replicas=2)
    address = Address(0, 3, 2**63 + 5)
    torch.manual_seed(0)
    np.random.seed(0)
    first = dataset[address]['clips']['rgb']
    dataset[Address(0, 1, 9)]
    torch.manual_seed(1)
    np.random.seed(1)
    assert torch.equal(first, make(data, replicas=2)[address]['clips']['rgb'])
    for other in (address._replace(seed=6), address._replace(source=1)):
        assert not torch.equal(first, dataset[other]['clips']['rgb'])


def test_replicas_are_crops_of_one_decoded_image(data, monkeypatch):
    decoded = []
    monkeypatch.setattr(readers, 'read_image', lambda *args: decoded.append(1) or read_image(*args))
    clip = images(data, replicas=4)[Address(0, 0, 0)]['clips']['rgb']
    assert clip.shape == (4, 3, 1, 32, 32)
    assert len(decoded) == 1
    assert all(not torch.equal(clip[i], clip[j]) for i in range(4) for j in range(i))
    alone = images(data)[Address(0, 0, 0)]['clips']['rgb']
    assert torch.equal(clip[:1], alone)  # a replica does not depend on how many follow


def times_of(clip: torch.Tensor, base: int = 0) -> np.ndarray:
    """(..., C, T, H, W) -> (..., T): the frame numbers that the flat greys tell."""
    return (clip.float().mean(dim=(-4, -2, -1)) - base).div(4).round().int().numpy()


def test_replicas_share_the_clip_in_time(data):
    dataset = videos(data, replicas=3)
    starts = set()
    for seed in range(8):
        times = times_of(dataset[Address(1, 0, seed)]['clips']['rgb'])
        assert (times == times[0]).all()
        assert (times[0] - times[0][0]).tolist() == [0, 3, 6, 9]  # of 10 frames in a second
        starts.add(times[0][0])
    assert len(starts) > 3
    assert min(starts) >= 0
    assert max(starts) <= 20


def test_each_replica_may_be_a_clip_of_its_own_time(data, monkeypatch):
    opened = []
    monkeypatch.setitem(READERS, 'pyav', lambda *args: opened.append(1) or PyAVReader(*args))
    dataset = videos(data, replicas=4, new_clips=True)
    drawn = [times_of(dataset[Address(1, 0, seed)]['clips']['rgb']) for seed in range(8)]
    assert len(opened) == 8  # once for all four
    assert all((times - times[:, :1] == [0, 3, 6, 9]).all() for times in drawn)  # of 10 frames in a second
    starts = np.array(drawn)[:, :, 0]
    assert (starts.std(1) > 0).sum() > 6
    assert 0 <= starts.min() < 5 < 15 < starts.max() <= 20
    alone = videos(data, new_clips=True)[Address(1, 0, 3)]['clips']['rgb']
    assert torch.equal(alone, videos(data)[Address(1, 0, 3)]['clips']['rgb'])
    sparse = times_of(videos(data, replicas=3, new_clips=True, sampling='sparse')[Address(1, 0, 3)]['clips']['rgb'])
    assert len({tuple(times) for times in sparse.tolist()}) == 3


@pytest.mark.parametrize('reader', ['pyav', 'decord'])
def test_test_clips_are_spread_over_the_video(data, reader):
    dataset = videos(data, transforms=TEST, num_clips=4, reader=reader)
    clip = dataset[0]['clips']['rgb']
    assert clip.shape == (1, 4, 3, 4, 32, 32)
    assert times_of(clip)[0, :, 0].tolist() == [0, 5, 10, 15]  # i * (3 - 1) / 4 seconds
    assert torch.equal(clip, dataset[0]['clips']['rgb'])


def test_test_clips_may_reach_the_end(data):
    clips = videos(data, transforms=TEST, num_clips=5, to_end=True)[0]['clips']['rgb']
    assert times_of(clips)[0, :, 0].tolist() == [0, 5, 10, 15, 20]  # i * (3 - 1) / 4 seconds
    assert times_of(videos(data, transforms=TEST, to_end=True)[0]['clips']['rgb'])[0, 0].tolist() == [10, 13, 16, 19]


@pytest.mark.parametrize('reader', ['pyav', 'decord'])
def test_sparse_clips_go_through_the_whole_video(data, reader):
    sparse = dict(sampling='sparse', num_frames=5, reader=reader)  # five segments of six frames
    assert times_of(videos(data, transforms=TEST, **sparse)[0]['clips']['rgb'])[0, 0].tolist() == [3, 9, 15, 21, 27]
    clips = times_of(videos(data, transforms=TEST, num_clips=2, **sparse)[0]['clips']['rgb'])
    assert clips[0].tolist() == [[0, 6, 12, 18, 24], [3, 9, 15, 21, 27]]
    drawn = [times_of(videos(data, replicas=2, **sparse)[Address(1, 0, seed)]['clips']['rgb']) for seed in range(20)]
    assert all((times[0] == times[1]).all() for times in drawn)
    assert all((times[0] // 6).tolist() == [0, 1, 2, 3, 4] for times in drawn)
    assert {time % 6 for times in drawn for time in times[0].tolist()} == {*range(6)}


def test_sparse_clips_stay_in_the_span(long_video):
    dataset = spans(long_video, 'long.mp4 130 138 2', 'long.mp4 20.2 20.8 0', sampling='sparse')
    assert times_of(dataset[0]['clips']['rgb'])[0, 0].tolist() == [11, 13, 15, 17]
    assert times_of(dataset[1]['clips']['rgb'])[0, 0].tolist() == [20] * 4  # the frame on screen


def test_an_unknown_sampling_is_an_error_when_built(data):
    with pytest.raises(ValueError, match="sampling='uniform' is unknown. Choose 'dense', 'sparse', 'strided'"):
        videos(data, sampling='uniform')


def test_views_are_clip_major_and_crop_minor(data, tmp_path):
    write_video(tmp_path / 'a.mp4')
    three = [dict(type='ResizeShort', size=32), dict(type='ThreeCrop', size=32)]
    views = videos(tmp_path, '.', transforms=three, num_clips=2)[0]['clips']['rgb']
    assert views.shape == (1, 6, 3, 4, 32, 32)
    assert times_of(views)[0, :, 0].tolist() == [0, 0, 0, 10, 10, 10]
    picture_views = images(data, transforms=three)[0]['clips']['rgb']
    assert picture_views.shape == (1, 3, 3, 1, 32, 32)
    left, right = picture_views[0, 0], picture_views[0, 2]
    resized = images(data, transforms=three[:1])[0]['clips']['rgb'][0, 0]
    assert torch.equal(left, resized[..., :32])
    assert torch.equal(right, resized[..., -32:])
    assert images(data, transforms=TEST)[0]['clips']['rgb'].shape == (1, 1, 3, 1, 32, 32)


def test_an_unknown_reader_is_an_error_when_built(data):
    with pytest.raises(ValueError, match="reader is 'cv2'. Choose one of"):
        videos(data, reader='cv2')


def test_a_video_shorter_than_the_clip_repeats_frames(data):
    clip = videos(data, 'short', transforms=TEST, num_frames=8, clip_seconds=2.7)[0]['clips']['rgb']
    assert times_of(clip)[0, 0].tolist() == [0, 0, 1, 1, 2, 2, 3, 4]  # floor(linspace(0, 4, 8))


# Folders of pictures, and lists of many sources -----------------------------------------------------------------------


@pytest.fixture
def hybrid(tmp_path, data) -> Path:
    """Lists as of VideoMAE V2: hybrid.txt of videos and of folders of pictures, train.csv of labelled folders."""
    for folder, name, numbers in (
        ('SomethingV2/7', 'img_{:05}.jpg', (1, 17)),
        ('AVA/x', 'image_{:06}.jpg', (901, 931)),
    ):
        (tmp_path / folder).mkdir(parents=True)
        for number in range(*numbers):
            grey = np.full((40, 48, 3), 4 * (number % 30), np.uint8)
            Image.fromarray(grey).save(tmp_path / folder / name.format(number), quality=100)
    (tmp_path / 'k400').symlink_to(data / 'videos')
    lines = ['k400/0.mp4 0 -1', 'k400/1.mp4 0 -1', 'SomethingV2/7 1 16', 'AVA/x 901 15', 'AVA/x 916 15']
    (tmp_path / 'hybrid.txt').write_text('\n'.join(lines))
    (tmp_path / 'train.csv').write_text('SomethingV2/7 16 3\n')
    return tmp_path


def test_there_is_nothing_to_select_without_a_list(hybrid):
    with pytest.raises(ValueError, match="select='k400/' picks lines of ann_file, which is missing"):
        VideoDataset(root=str(hybrid), select='k400/')


def test_sources_of_one_list(hybrid):
    same = dict(root=str(hybrid), ann_file=str(hybrid / 'hybrid.txt'), num_frames=4, transforms=[CROP])
    kinetics = VideoDataset(select='k400/', clip_seconds=1.0, **same)
    assert [kinetics.ids[row] for row in range(2)] == ['k400/0.mp4', 'k400/1.mp4']
    assert kinetics.spans is None
    assert kinetics[Address(0, 1, 0)]['failures'] == []
    pictures = dict(same, columns=('start', 'total'))
    ssv2 = FrameDataset(select='SomethingV2', clip_seconds=8 / 12, frame_rate=12, **pictures)
    starts = set()
    for seed in range(30):
        times = times_of(ssv2[Address(0, 0, seed)]['clips']['rgb'])[0]
        assert (times - times[0]).tolist() == [0, 2, 4, 7]  # floor(linspace(0, 7, 4)): eight pictures at 12 a second
        starts.add(int(times[0]))
    assert starts == {*range(2, 10)}
    ava = FrameDataset(select='AVA', clip_seconds=1.0, frame_rate=30, template='image_{:06}.jpg', **pictures)
    assert [ava.ids[row] for row in range(2)] == ['AVA/x 901-916', 'AVA/x 916-931']
    assert {int(time) for row in (0, 1) for time in times_of(ava[Address(0, row, 0)]['clips']['rgb'])[0]} == {
        1, 5, 10, 15, 16, 20, 25, 0  # 930 has the grey of 0
    }  # fmt: skip


def test_labelled_folders_of_pictures(hybrid):
    options = dict(root=str(hybrid), ann_file=str(hybrid / 'train.csv'), frame_rate=12, num_frames=4, transforms=TEST)
    sample = FrameDataset(sampling='sparse', num_clips=2, **options)[0]
    assert (sample['label'], sample['id']) == (3, 'SomethingV2/7')
    assert times_of(sample['clips']['rgb'])[0].tolist() == [[1, 5, 9, 13], [3, 7, 11, 15]]
    last = FrameDataset(clip_seconds=0.5, to_end=True, **options)[0]['clips']['rgb']
    assert times_of(last)[0, 0].tolist() == [6, 7, 9, 11]
    listed = hybrid / 'broken_files.txt'
    for name in ('', '/img_00007.jpg'):
        listed.write_text(f'{hybrid}/SomethingV2/7{name}\n')
        with pytest.raises(ValueError, match=f'SomethingV2/7{name}: is to be skipped, says {listed}'):
            FrameDataset(skip=str(listed), **options)[Address(0, 0, 0)]
    (hybrid / 'SomethingV2' / '7' / 'img_00007.jpg').unlink()
    with pytest.raises(BrokenImageError, match='img_00007.jpg: FileNotFoundError'):
        FrameDataset(clip_seconds=2.0, num_classes=4, **dict(options, num_frames=16))[0]
    Image.new('RGB', (20, 20)).save(hybrid / 'SomethingV2' / '7' / 'img_00007.jpg')
    with pytest.raises(BrokenVideoError, match='SomethingV2/7: its size changes at img_00007.jpg'):
        FrameDataset(clip_seconds=2.0, **dict(options, num_frames=16))[0]


@pytest.mark.parametrize(
    ('text', 'options', 'message'),
    [
        ('a 1', {}, r"train.csv, line 1, 'a 1': It is not \"FOLDER total label\" with whole numbers"),
        ('a x 2', {}, r"line 1, 'a x 2': It is not \"FOLDER total label\""),
        ('a 0 2', {}, r"line 1, 'a 0 2': 0 pictures from number 1 on are none"),
        ('a 5 2\n\na 5 3', {}, r"line 3, 'a 5 3': Its id 'a' is that of line 1 too. Drop one"),
        ('../a 5 2', {}, r"'../a 5 2': The path leaves root"),
        ('a/../.. 5 2', {}, r"'a/../.. 5 2': The path leaves root"),
        ('a 5 2', dict(columns=('start', 'label')), r"columns=\['start', 'label'\] are not 'total' and some"),
        ('a 5 2', dict(template='img.jpg'), r"template='img.jpg' has no place for the number"),
        ('a 5 2', dict(frame_rate=0), r'frame_rate=0 is not positive'),
        ('a 5 2', dict(select='AVA'), r"train.csv' has no lines with select='AVA'"),
    ],
)
def test_wrong_lists_of_folders_are_refused(tmp_path, text, options, message):
    (tmp_path / 'train.csv').write_text(text)
    with pytest.raises(ValueError, match=message):
        FrameDataset(root=str(tmp_path), ann_file=str(tmp_path / 'train.csv'), **{'frame_rate': 12, **options})


# Spans ----------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope='module')
def long_video(tmp_path_factory) -> Path:
    """long.mp4: 40 minutes at 1 frame a second, a keyframe each 10; frame i is the grey 4 * (i % 60)."""
    root = tmp_path_factory.mktemp('long')
    with av.open(str(root / 'long.mp4'), 'w') as container:
        stream = container.add_stream('libx264', rate=1, options=dict(preset='ultrafast', tune='zerolatency'))
        stream.width, stream.height, stream.pix_fmt = 64, 48, 'yuv420p'
        stream.codec_context.gop_size = 10
        for i in range(2400):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 4 * (i % 60), np.uint8), format='rgb24')
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return root


def spans(root: Path, *lines: str, **kwargs) -> VideoDataset:
    (root / 'list.txt').write_text('\n'.join(lines))
    kwargs = dict(clip_seconds=4.0, num_frames=4, transforms=TEST) | kwargs
    return VideoDataset(root=str(root), ann_file=str(root / 'list.txt'), **kwargs)


@pytest.mark.parametrize('reader', ['pyav', 'decord'])
def test_test_clips_are_spread_over_the_span(long_video, reader):
    dataset = spans(long_video, 'long.mp4 130 144 2 id=P01_11_7', num_clips=5, reader=reader)
    sample = dataset[0]
    assert (sample['id'], sample['label']) == ('P01_11_7', 2)
    # starts 130 + i * (14 - 4) / 5; greys count within the minute
    times = times_of(sample['clips']['rgb'])[0].tolist()
    assert times == [[10 + 2 * i, 11 + 2 * i, 12 + 2 * i, 13 + 2 * i] for i in range(5)]


def test_training_clips_stay_in_the_span(long_video):
    dataset = spans(long_video, 'long.mp4 61 70 0', 'long.mp4 5 6 1', transforms=[CROP])
    starts = set()
    for seed in range(60):
        times = times_of(dataset[Address(0, 0, seed)]['clips']['rgb'])[0].tolist()
        assert 1 <= times[0] <= times[-1] < 10
        starts.add(times[0])
    assert starts >= {2, 3, 4, 5}


def test_a_span_shorter_than_the_clip_repeats_its_frames(long_video):
    dataset = spans(long_video, 'long.mp4 7 9 0', 'long.mp4 20.2 20.8 0', 'long.mp4 2398 9000 0', num_clips=2)
    assert times_of(dataset[0]['clips']['rgb'])[0].tolist() == [[7, 7, 7, 8]] * 2  # floor(linspace(0, 1, 4))
    assert times_of(dataset[1]['clips']['rgb'])[0].tolist() == [[20] * 4] * 2  # the frame on screen
    assert times_of(dataset[2]['clips']['rgb'])[0].tolist() == [[58, 58, 58, 59]] * 2  # cut at the end of the video


def test_a_span_behind_the_end_is_a_broken_file(long_video):
    lines = ('long.mp4 2400 2402 0', 'long.mp4 0 9 0')
    dataset = spans(long_video, *lines)
    with pytest.raises(BrokenVideoError, match=r'the span from 2400.000 s on lies outside, it lasts 2400.000 s'):
        dataset[0]
    sample = spans(long_video, *lines, transforms=[CROP])[Address(0, 0, 3)]
    assert sample['id'] == 'long.mp4 0-9'
    assert 'lies outside' in sample['failures'][0][1]


def test_reading_a_span_does_not_decode_from_the_start(long_video, monkeypatch):
    demuxed = []
    demux = PyAVReader._demux
    monkeypatch.setattr(PyAVReader, '_demux', lambda *args: (demuxed.append(p.pts) or p for p in demux(*args)))
    clip = spans(long_video, 'long.mp4 2055 2060 0')[0]['clips']['rgb']
    assert times_of(clip)[0, 0].tolist() == [15, 16, 17, 18]
    assert len(demuxed) < 40  # of 2400: the last group, which tells the duration, and that of the span


def test_spans_are_for_videos(data, tmp_path):
    (tmp_path / 'list.txt').write_text('cat/0.jpg 0 2 1')
    with pytest.raises(ValueError, match=r'has spans .* and ImageDataset reads whole files. Leave start and stop out'):
        ImageDataset(root=str(data / 'images'), ann_file=str(tmp_path / 'list.txt'))


# Classes of a mixture -------------------------------------------------------------------------------------------------


@pytest.fixture
def own(data, tmp_path) -> Path:
    """A folder per class with images and videos in it."""
    for i, name in enumerate(['cat', 'cat', 'dog']):
        write_image(tmp_path / 'train' / name / f'{i}.jpg', seed=i)
        (tmp_path / 'train' / name / f'{i}.mp4').write_bytes((data / 'videos' / '0.mp4').read_bytes())
    return tmp_path


def own_sources(own: Path, **photos) -> dict:
    folder = str(own / 'train')
    return dict(
        photos=dict(type='ImageDataset', root=folder) | photos,
        clips=dict(type='VideoDataset', root=folder),
    )


def test_images_and_videos_of_the_same_folders_share_their_classes(own):
    dataset = MixedDataset(sources=own_sources(own), num_classes=2)
    assert [source.labels.tolist() for source in dataset.sources] == [[0, 0, 1], [0, 0, 1]]
    assert dataset.metainfo == dict(photos=('cat', 'dog'), clips=('cat', 'dog'))


def test_classes_that_do_not_agree_say_the_right_number(own, data, tmp_path):
    def fails(message: str, num_classes: int = 2, **photos):
        with pytest.raises(ValueError, match=message):
            MixedDataset(sources=own_sources(own, **photos), num_classes=num_classes)

    fails(r"num_classes=3, but source 'photos' has 2 classes: 'cat', 'dog'. Set num_classes=2, there and in the", 3)
    fails(r"'photos' and 'clips' have different classes: the same names in another order", classes=['dog', 'cat'])
    newt = ['cat', 'dog', 'newt']
    fails(r"'photos' and 'clips' have different classes: only 'photos' has 'newt'. Give both", 3, classes=newt)
    fails(
        r"Source 'photos' has no labels, and num_classes=2 asks for them", root=str(data / 'short'), extensions=['.mp4']
    )
    (tmp_path / 'list.txt').write_text('cat/0.jpg 0\ndog/2.jpg 4')
    fails(
        r"num_classes=2, but source 'photos' has the label 4, counted from 0. Set num_classes=5",
        ann_file=str(tmp_path / 'list.txt'),
    )
    write_image(own / 'train' / 'newt' / '9.jpg')
    fails(r"Source 'clips': .* the class folder 'newt', the first of 1, has no file .* it holds .jpg 1", 3)


# Broken files ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def broken(data, tmp_path) -> Path:
    """Row 1 of 5 is truncated, in both modalities."""
    for i in range(5):
        write_image(tmp_path / 'images' / f'{i}.jpg', seed=i)
        target = tmp_path / 'videos' / f'{i}.mp4'
        target.parent.mkdir(exist_ok=True)
        target.write_bytes((data / 'videos' / f'{i % 4}.mp4').read_bytes())
    for path in (tmp_path / 'images' / '1.jpg', tmp_path / 'videos' / '1.mp4'):
        path.write_bytes(path.read_bytes()[:700])
    return tmp_path


@pytest.mark.parametrize('make', [images, videos])
def test_in_training_another_row_takes_the_place_of_a_broken_file(broken, make):
    dataset = make(broken, replicas=2)
    replacements = set()
    for seed in range(30):
        sample = dataset[Address(0, 1, seed)]
        assert sample['clips']['rgb'].shape[0] == 2
        assert sample['id'][0] != '1'
        assert re.search(END, sample['failures'][0][1])
        assert {path[-5:] for path, _ in sample['failures']} <= {'1.jpg', '1.mp4'}
        assert torch.equal(sample['clips']['rgb'], dataset[Address(0, 1, seed)]['clips']['rgb'])
        replacements.add(sample['id'][0])
    assert replacements == {'0', '2', '3', '4'}


@pytest.mark.parametrize(('make', 'error'), [(images, BrokenImageError), (videos, BrokenVideoError)])
def test_in_evaluation_a_broken_file_is_an_error(broken, make, error):
    with pytest.raises(error, match=f'1.*{END}') as caught:
        make(broken, transforms=TEST)[1]
    assert isinstance(caught.value, BrokenFileError)


def test_a_source_of_broken_files_gives_up_with_the_list(tmp_path):
    touch(tmp_path, '0.jpg', '1.jpg')
    with pytest.raises(
        ValueError, match=r'(?s)20 files in a row below .* cannot be read. .*0.jpg: not an image that .*\n.*1.jpg'
    ):
        ImageDataset(root=str(tmp_path))[Address(0, 0, 0)]


# Batches --------------------------------------------------------------------------------------------------------------


def sample_of(value: int, replicas: int = 1, **extra) -> Sample:
    clip = torch.full((replicas, 3, 2, 4, 5), value, dtype=torch.uint8)
    return Sample(clips=dict(rgb=clip), modality='video', id=f'v{value}', **extra)


def test_collate_flattens_replicas():
    broken = [('x.mp4', 'truncated')]
    batch = collate_clips([sample_of(1, 2, label=7, failures=broken), sample_of(2, 2, label=8, failures=[])])
    assert batch['clips']['rgb'].shape == (4, 3, 2, 4, 5)
    assert batch['clips']['rgb'][:, 0, 0, 0, 0].tolist() == [1, 1, 2, 2]
    assert batch['labels'].tolist() == [7, 7, 8, 8]
    assert batch['ids'] == ['v1', 'v1', 'v2', 'v2']
    assert (batch['failures'], batch['modality']) == (broken, 'video')
    assert 'labels' not in collate_clips([sample_of(1), sample_of(2)])


def test_collate_keeps_every_pixel_in_its_place():
    clips = torch.randint(0, 256, (2, 3, 4, 2, 6, 5), dtype=torch.uint8)
    for parts in (clips[:, :, :3].unbind(0), clips[:, None, :, :3].unbind(0)):  # without and with views
        batch = collate_clips([Sample(clips=dict(rgb=part), modality='video', id='v') for part in parts])
        assert torch.equal(batch['clips']['rgb'], torch.cat(parts))
        assert batch['clips']['rgb'].movedim(-4, -1).is_contiguous()


def test_samples_that_make_no_batch_say_the_remedy():
    with pytest.raises(ValueError, match=r"A batch of \['image', 'video'\] cannot be made. Use MixedBatchSampler"):
        collate_clips([sample_of(1), sample_of(2) | dict(modality='image')])
    wider = dict(rgb=torch.zeros(1, 3, 2, 4, 6, dtype=torch.uint8))
    with pytest.raises(ValueError, match=r"different sizes .*'v1'.*'v2'.* End the transforms with a crop"):
        collate_clips([sample_of(1), sample_of(2) | dict(clips=wider)])


def mixed(data: Path, transforms=None, **video) -> dict:
    photos = dict(type='ImageDataset', root=str(data / 'images'), transforms=transforms or [CROP, dict(type='Flip')])
    clips = dict(type='VideoDataset', root=str(data / 'videos'), transforms=transforms or [CROP])
    return dict(
        type='MixedDataset', sources=dict(photos=photos, clips=clips | dict(clip_seconds=1.0, num_frames=4) | video)
    )


def train_loader(dataset: dict, num_workers: int = 0) -> dict:
    return dict(
        batch_size=4,
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
        dataset=dataset,
        sampler=dict(type='MixedSampler', repeats=dict(clips=0.5)),
        batch_sampler=dict(type='MixedBatchSampler', global_batch_size=8),
        collate_fn=dict(type='collate_clips'),
    )


def build(cfg: dict, seed: int = 1):
    return Runner.build_dataloader(copy.deepcopy(cfg), seed=seed)


def assert_same(batch: dict, other: dict) -> None:
    assert batch.keys() == other.keys()
    for key, value in batch.items():
        if key == 'clips':
            value, other = value['rgb'], {**other, key: other[key]['rgb']}
        assert torch.equal(value, other[key]) if isinstance(value, torch.Tensor) else value == other[key], key


def test_a_loader_has_at_most_a_worker_for_each_core(data, recwarn):
    loader = build(train_loader(mixed(data, replicas=2), num_workers=1000))
    assert loader.num_workers == len(os.sched_getaffinity(0))
    assert not recwarn.list


def test_training_batches_are_the_same_with_and_without_workers(data):
    cfg = mixed(data, replicas=2)
    alone, workers = build(train_loader(cfg)), build(train_loader(cfg, num_workers=2))
    for epoch in range(2):
        for loader in (alone, workers):
            loader.batch_sampler.sampler.set_epoch(epoch)
        batches = list(alone)
        assert len(alone) == 2  # ceil(7 / 8) + int(ceil(5 * 2 / 8) * 0.5) steps
        assert sorted((b['modality'], tuple(b['clips']['rgb'].shape)) for b in batches) == [
            ('image', (3, 3, 1, 32, 32)),  # 7 images, each once
            ('image', (4, 3, 1, 32, 32)),
            ('video', (4, 3, 4, 32, 32)),
            ('video', (4, 3, 4, 32, 32)),
        ]
        for batch, other in zip(batches, workers, strict=True):
            assert_same(batch, other)
        assert all(('labels' in batch) == (batch['modality'] == 'image') for batch in batches)


@pytest.mark.parametrize('num_workers', [0, 2])
def test_evaluation_gives_each_row_once_and_always_the_same(data, num_workers):
    cfg = dict(
        batch_size=3,
        num_workers=num_workers,
        dataset=mixed(data, transforms=list(TEST)),
        sampler=dict(type='EvalSampler'),
        batch_sampler=dict(type='EvalBatchSampler'),
        collate_fn=dict(type='collate_clips'),
    )
    loader = build(cfg)
    batches = list(loader)
    assert [(b['modality'], len(b['ids'])) for b in batches] == [
        ('image', 3), ('image', 3), ('image', 1), ('video', 3), ('video', 2)
    ]  # fmt: skip
    assert len(loader) == 5
    assert sum((b['ids'] for b in batches), []) == [
        *[f'cat/{i}.jpg' for i in range(4)], *[f'dog/{i}.jpg' for i in (4, 5, 6)],
        '0.mp4', '1.mp4', '2.mp4', '3.mp4', '4.webm',
    ]  # fmt: skip
    for batch, other in zip(batches, build(cfg, seed=2), strict=True):
        assert_same(batch, other)


def test_random_transforms_in_evaluation_are_an_error(data):
    with pytest.raises(ValueError, match='RandomResizedCrop is random, but evaluation is not'):
        images(data)[0]


def test_mixed_dataset_counts_rows_through_its_sources(data):
    dataset = DATASETS.build(mixed(data, transforms=list(TEST)))
    assert len(dataset) == 12
    assert [dataset[i]['id'] for i in (0, 6, 7, 11, -1)] == ['cat/0.jpg', 'dog/6.jpg', '0.mp4', '4.webm', '4.webm']
    with pytest.raises(IndexError, match='out of range'):
        dataset[12]
    assert dataset.names == ('photos', 'clips')
    assert dataset.metainfo == dict(photos=('cat', 'dog'), clips=None)


def test_a_broken_file_of_an_evaluation_is_named_and_costs_the_others_nothing(broken):
    cfg = dict(
        batch_size=2,
        num_workers=1,
        dataset=mixed(broken, transforms=list(TEST)),
        sampler=dict(type='EvalSampler'),
        batch_sampler=dict(type='EvalBatchSampler'),
        collate_fn=dict(type='collate_clips'),
    )
    batches = list(build(cfg))
    found = [failure for batch in batches for failure in batch['failures']]
    assert f'{broken}/images/1.jpg' in [path for path, _ in found]
    dataset = build(cfg).dataset
    assert sum(len(batch['ids']) for batch in batches) == len(dataset) - len(found)
    assert all(
        len(batch['ids']) == len(batch['clips']['rgb'] if 'clips' in batch else ()) and 'source' in batch
        for batch in batches
    )
    with pytest.raises(BrokenImageError, match=f'images/1.jpg: .*{END}'):
        dataset.sources[0][1]


def test_collate_is_found_where_mmengine_looks():
    assert FUNCTIONS.get('collate_clips') is FUNCTIONS.get('omnimae.collate_clips') is collate_clips


@pytest.mark.parametrize('cls', [ImageDataset, VideoDataset, MixedDataset])
def test_datasets_are_configured_by_name(cls):
    assert all(p.kind is not p.POSITIONAL_OR_KEYWORD for p in inspect.signature(cls).parameters.values())


SHARED = os.environ.get('OMNIMAE_SHARED_DATA')


@pytest.mark.skipif(not SHARED, reason='set OMNIMAE_SHARED_DATA')
def test_real_photographs_and_clips():
    crop = dict(type='RandomResizedCrop', size=224)
    dataset = MixedDataset(
        sources=dict(
            images=dict(
                type='ImageDataset', root=f'{SHARED}/images', transforms=[crop | dict(interpolation='bicubic')]
            ),
            clips=dict(type='VideoDataset', root=f'{SHARED}/clips', transforms=[crop], replicas=2),
        )
    )
    for source, shape in enumerate([(1, 3, 1, 224, 224), (2, 3, 16, 224, 224)]):
        for row in range(min(len(dataset.sources[source]), 9)):
            sample = dataset[Address(source, row, 0)]
            assert sample['clips']['rgb'].shape == shape
            assert sample['failures'] == []
            assert sample['clips']['rgb'].float().std() > 5
