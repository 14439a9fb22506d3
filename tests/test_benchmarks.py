"""The six benchmarks in their authors' formats -> lists; checks that go on where they stopped; smaller copies."""

from __future__ import annotations

import csv
import importlib.util
import json
import os
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from mmengine.registry import DefaultScope
from tiny_benchmarks import TINY, write_csv, write_ek100_test, write_image, write_json, write_lines, write_video

from omnimae.config import load_config
from omnimae.data.annotations import read_list
from omnimae.data.datasets import ImageDataset, VideoDataset
from omnimae.data.formats import BENCHMARKS, preparation, read_ek100, read_k400, read_p365, read_ssv2
from omnimae.data.formats.preparation import prepare
from omnimae.data.formats.reencode import COPIES, reencode, scaled_size
from omnimae.data.media import open_video
from omnimae.data.media.errors import BrokenVideoError
from omnimae.structures import Address

ROOT = Path(__file__).parents[1]
SHARED_DATA = os.environ.get('OMNIMAE_SHARED_DATA')
CROP = dict(type='RandomResizedCrop', size=32)
VIDEOS = [name for name, benchmark in BENCHMARKS.items() if benchmark.modality == 'video']


@pytest.fixture(autouse=True)
def _scope():
    with DefaultScope.overwrite_default_scope('omnimae'):
        yield


@pytest.fixture
def root(tmp_path, request) -> Path:
    """A tiny copy of the benchmark that the test is about."""
    tiny = TINY[request.param]
    tiny.write(tmp_path / tiny.folder)
    return tmp_path / tiny.folder


def of(name: str):
    """Parametrize `root`."""
    return pytest.mark.parametrize('root', [name], indirect=True)


def lines(root: Path, name: str, split: str = 'train') -> list[str]:
    return (root / BENCHMARKS[name].list_name(split)).read_text().splitlines()


def report(root: Path) -> list[list[str]]:
    with open(root / 'left_out.csv', newline='') as file:
        return list(csv.reader(file))[1:]


# Lists ----------------------------------------------------------------------------------------------------------------


def test_each_has_a_tiny_copy():
    assert TINY.keys() == BENCHMARKS.keys(), 'Add it to TINY of tests/tiny_benchmarks.py, as its authors lay it out.'


@pytest.mark.parametrize('name', TINY)
def test_lists_of_the_distributed_layout(name, tmp_path):
    tiny = TINY[name]
    root = tmp_path / tiny.folder
    tiny.write(root)
    prepared = prepare(name, root)
    assert (prepared.kept, prepared.left_out) == (dict(train=8, val=8), dict(train=0, val=0))
    assert prepared.num_classes == len(tiny.classes)
    train, val = (lines(root, name, split) for split in ('train', 'val'))
    assert (train[0], train[-1], val[0]) == tiny.lines
    assert (root / 'classes.txt').read_text().splitlines() == tiny.classes
    assert report(root) == []

    dataset_type = VideoDataset if name in VIDEOS else ImageDataset
    dataset = dataset_type(
        root=str(root / BENCHMARKS[name].list_root),
        ann_file=str(root / BENCHMARKS[name].list_name('train')),
        classes=str(root / 'classes.txt'),
        transforms=[CROP],
    )
    colours = {int(dataset.labels[row]): set() for row in range(8)}
    for row in range(8):
        sample = dataset[Address(0, row, 0)]
        assert sample['failures'] == []
        colours[sample['label']].add(int(sample['clips']['rgb'].float().mean(dim=(0, 2, 3, 4)).argmax()))
    if name not in ('ek100',):  # the tiny files show their class by colour
        assert all(len(found) == 1 for found in colours.values())


def test_list_names_are_those_that_configs_read():
    names = {name: BENCHMARKS[name].list_name('train') for name in BENCHMARKS}
    assert names == names | {
        'in1k': 'imagenet_train_list_images.txt',
        'inat18': 'inat2018_train_list_images.txt',
        'p365': 'places365_train_list_images.txt',
        'k400': 'kinetics400_train_list_videos.txt',
        'ssv2': 'sthv2_train_list_videos.txt',
        'ek100': 'epic100_train_list_videos.txt',
        'k600': 'kinetics600_train_list_videos.txt',
        'k700': 'kinetics700_train_list_videos.txt',
        'k710': 'kinetics710_train_list_videos.txt',
        'ucf101': 'ucf101_train_list_videos.txt',
        'hmdb51': 'hmdb51_train_list_videos.txt',
    }


@pytest.mark.parametrize('short_side', [None, 32])
@of('ssv2')
def test_pretraining_reads_the_lists_of_ssv2(root, monkeypatch, short_side):
    TINY['in1k'].write(root.parent / 'imagenet')
    (root / 'videos').rename(root.parent / 'far away')
    (root / 'videos').symlink_to(root.parent / 'far away')  # a linked folder, as usual for videos
    prepare('ssv2', root, short_side=short_side)
    monkeypatch.setenv('OMNIMAE_DATA', str(root.parent))
    cfg = load_config(ROOT / 'configs' / 'omnimae' / 'vit-b_in1k-ssv2.py')
    source = dict(cfg.train_dataloader.dataset.sources.ssv2)
    source.pop('type')
    sample = VideoDataset(**source)[Address(1, 3, 0)]
    assert (sample['id'], sample['failures']) == ('4.webm', [])


@of('ek100')
def test_actions_are_pairs_of_training_and_validation_in_order(root):
    prepare('ek100', root)
    assert (root / 'actions.csv').read_text() == 'action,verb,noun\n0,0,1\n1,1,2\n2,2,0\n3,2,2\n'
    assert {line.split()[3] for line in lines(root, 'ek100')} == {'0', '1', '2'}
    assert {line.split()[3] for line in lines(root, 'ek100', 'val')} == {'0', '1', '2', '3'}


@of('ek100')
def test_ek100_of_the_test_set_has_no_labels(root):
    write_ek100_test(root)
    assert prepare('ek100', root).kept == dict(train=8, val=8, test=2)
    assert lines(root, 'ek100', 'test') == [
        f'P03/videos/P03_101.MP4 0.500 3.000 id=P03_101_{number}' for number in range(2)
    ]
    dataset = VideoDataset(root=str(root), ann_file=str(root / 'epic100_test_list_videos.txt'))
    assert (dataset.labels, dataset[1]['id']) == (None, 'P03_101_1')
    (root / 'P03' / 'videos' / 'P03_101.MP4').unlink()  # the annotations alone, as their repository has them
    assert prepare('ek100', root).kept == dict(train=8, val=8)


@of('ek100')
def test_ek100_of_trimmed_clips_and_without_names(root):
    write_video(root / 'clips' / 'P01' / 'P01_01_3.mp4', 0, 0)
    for kind in ('verb', 'noun'):
        (root / f'EPIC_100_{kind}_classes.csv').unlink()
    (root / 'annotations').mkdir()
    (root / 'EPIC_100_train.csv').rename(root / 'annotations' / 'EPIC_100_train.csv')
    (root / 'EPIC-KITCHENS').mkdir()
    (root / 'P02').rename(root / 'EPIC-KITCHENS' / 'P02')
    prepare('ek100', root)
    assert lines(root, 'ek100')[2:4] == [
        'P01/videos/P01_01.MP4 4.500 8.000 2 id=P01_01_2',
        'clips/P01/P01_01_3.mp4 0 id=P01_01_3',
    ]
    assert lines(root, 'ek100', 'val')[0].startswith('EPIC-KITCHENS/P02/videos/P02_01.MP4 0.000 3.500 0')
    assert (root / 'classes.txt').read_text().splitlines()[3] == '2 2'


@of('in1k')
def test_in1k_of_lists_and_of_a_flat_val(root):
    names = sorted((root / 'val').glob('*/*.JPEG'))
    wnids = {path.name: path.parent.name for path in names}
    for path in names:
        path.rename(root / 'val' / path.name)
    for wnid in set(wnids.values()):
        (root / 'val' / wnid).rmdir()
    with pytest.raises(
        ValueError, match=r'val has no class folders, and there is no list of its labels. Sort the files'
    ):
        prepare('in1k', root)
    solution = [dict(ImageId=name[:-5], PredictionString=f'{wnid} 1 2 3 4 ') for name, wnid in wnids.items()]
    write_csv(root / 'LOC_val_solution.csv', solution)
    prepare('in1k', root)
    expected = 'val/ILSVRC2012_val_00000003.JPEG 2'
    assert expected in lines(root, 'in1k', 'val')
    (root / 'LOC_val_solution.csv').unlink()
    classes = sorted(set(wnids.values()))
    write_lines(root / 'meta' / 'val.txt', [f'{name} {classes.index(wnid)}' for name, wnid in wnids.items()])
    write_lines(
        root / 'meta' / 'train.txt', ['n01440764/n01440764_0.JPEG 0', *(f'{wnid}/x.JPEG {wnid}' for wnid in classes)]
    )
    prepared = prepare('in1k', root)
    assert (prepared.kept, prepared.left_out) == (dict(train=1, val=8), dict(train=4, val=0))
    assert expected in lines(root, 'in1k', 'val')
    (root / 'val' / 'n02123045').mkdir()  # sorted later: the flat list still serves
    (root / expected.split()[0]).rename(root / 'val' / 'n02123045' / 'ILSVRC2012_val_00000003.JPEG')
    prepare('in1k', root)
    assert 'val/n02123045/ILSVRC2012_val_00000003.JPEG 2' in lines(root, 'in1k', 'val')


@of('in1k')
def test_in1k_labels_in_the_order_of_the_devkit_are_refused(root):
    # The devkit calls the class of the first image 490, the 66th of the sorted WNIDs: reported of MMPretrain (#11).
    (root / 'train' / 'n03445777').rename(root / 'train' / 'n01751748')
    first = 'ILSVRC2012_val_00000001.JPEG'
    (root / 'val' / 'n01440764' / first).rename(root / 'val' / first)
    (root / 'val.txt').write_text(f'{first} 1\n')
    with pytest.raises(
        ValueError,
        match=r"val.txt, line 1: the label 1 is not that of this image, 'n01751748', which is number 2 of the sorted",
    ):
        prepare('in1k', root)
    (root / 'val.txt').write_text(f'{first} 2\n')
    assert prepare('in1k', root).kept['val'] == 1


@of('p365')
def test_p365_of_large_images_and_without_names(root):
    (root / 'data_256').rename(root / 'data_large')
    (root / 'val_256').rename(root / 'val_large')
    (root / 'categories_places365.txt').unlink()
    prepare('p365', root)
    assert lines(root, 'p365')[1] == 'data_large/a/apartment_building/outdoor/00000002.jpg 1'
    assert lines(root, 'p365', 'val')[1] == 'val_large/Places365_val_00000002.jpg 1'
    assert (root / 'classes.txt').read_text().splitlines() == ['airfield', 'apartment_building/outdoor', 'beach']


@of('k400')
def test_k400_of_other_names_and_containers(root):
    (root / 'annotations' / 'kinetics_val.csv').rename(root / 'validate.csv')
    (root / 'videos_val').rename(root / 'val')
    (root / 'val' / '-_val1_000010_000020.mp4').rename(root / 'val' / '-_val1.mp4')
    (root / 'val' / '-_val2_000020_000030.mp4').unlink()
    write_video(root / 'val' / '-_val2_000020_000030.webm', 2, 0, codec='libvpx-vp9')
    prepare('k400', root)
    assert lines(root, 'k400', 'val')[:3] == [
        'val/-_val0_000000_000010.mp4 0',
        'val/-_val1.mp4 1',
        'val/-_val2_000020_000030.webm 2',
    ]


@of('ssv2')
def test_ssv2_of_the_newer_names(root):
    for path in root.glob('*.json'):
        path.rename(root / path.name.removeprefix('something-something-v2-'))
    assert len(read_ssv2(root).splits['train']) == 8


@of('ucf101')
def test_folds_of_ucf101(root):
    first = [path for split in ('train', 'val') for path in (prepare('ucf101', root), lines(root, 'ucf101', split))[1]]
    prepare('ucf101', root, fold=2)
    assert lines(root, 'ucf101', 'val') + lines(root, 'ucf101') == first
    with pytest.raises(ValueError, match=r'ucf101 has no ucfTrainTestlist/trainlist03.txt or trainlist03.txt or annot'):
        prepare('ucf101', root, fold=3)
    with pytest.raises(ValueError, match=r'fold=4 is not one of the 3 of ucf101\. Count from 1'):
        prepare('ucf101', root, fold=4)
    file = root / 'ucfTrainTestlist' / 'classInd.txt'
    file.write_text('1 ApplyEyeMakeup\n3 Archery\n')
    with pytest.raises(ValueError, match=r"classInd.txt, line 2: the number of 'Archery' is 3, not 2"):
        prepare('ucf101', root)
    file.write_text('1 ApplyEyeMakeup\n2 Archery\n')
    with pytest.raises(ValueError, match=r"trainlist01.txt, line 3: the class 'BoxingSpeedBag' is not one of the 2"):
        prepare('ucf101', root)


@of('hmdb51')
def test_hmdb51_of_other_places_and_wrong_lists(root):
    folder = root / 'testTrainMulti_7030_splits'
    for path in [*(root / 'videos').iterdir(), *folder.iterdir()]:
        path.rename(root / path.name)
    assert prepare('hmdb51', root).kept == dict(train=8, val=8)
    assert lines(root, 'hmdb51')[0] == 'brush_hair/April_09_brush_hair_u_nm_np1_ba_goo_0.avi 0'
    file = root / 'cartwheel_test_split1.txt'
    file.write_text('a.avi 3\n')
    with pytest.raises(ValueError, match=r"cartwheel_test_split1.txt, line 1: '3' after 'a.avi' is not 0, 1 or 2"):
        prepare('hmdb51', root)
    with pytest.raises(ValueError, match=r'hmdb51 has no testTrainMulti_7030_splits/\*_test_split2.txt'):
        prepare('hmdb51', root, fold=2)


@of('k710')
def test_k710_finds_its_videos_anywhere_but_among_the_copies(root):
    (root / 'k400').rename(root / 'videos_train')
    prepare('k710', root, short_side=32)
    assert lines(root, 'k710')[7] == 'videos_32/videos_train/-_train7.mp4 1 id=videos_train/-_train7.mp4'
    (root / 'videos_32').rename(root / 'videos_32_mjpeg')
    prepare('k710', root)
    assert lines(root, 'k710')[7] == 'videos_train/-_train7.mp4 1'


@of('k710')
def test_k710_has_no_videos_outside(root):
    (root / 'train.csv').write_text('k400/../../a.mp4 1\n')
    with pytest.raises(ValueError, match=r"train.csv, line 1: 'k400/../../a.mp4' leaves the folder of the data"):
        prepare('k710', root, short_side=32)


@of('k710')
def test_k710_needs_its_names(root):
    (root / 'train.csv').write_text('k400/-_train1.mp4 710\n')
    with pytest.raises(
        ValueError, match=r"train.csv, line 1: the class '710' is not one of the 3 known \('zumba', 'abs"
    ):
        prepare('k710', root)
    (root / 'label_map_k710.txt').unlink()
    with pytest.raises(ValueError, match=r'kinetics710 has no label_map_k710.txt or annotations/label_map_k710.txt'):
        prepare('k710', root)


# What cannot be used --------------------------------------------------------------------------------------------------


@of('k400')
def test_missing_and_broken_videos_are_reported_and_left_out(root):
    (root / 'videos_val' / '-_val1_000010_000020.mp4').unlink()
    broken = root / 'videos_train' / 'zumba' / '-_train2_000020_000030.mp4'
    broken.write_bytes(broken.read_bytes()[:900])
    (root / 'videos_train' / 'zumba' / '-_train5_000050_000060.mp4').write_bytes(b'')
    prepared = prepare('k400', root)
    assert (prepared.kept, prepared.left_out) == (dict(train=6, val=7), dict(train=2, val=1))
    found = report(root)
    assert [row[:2] for row in found] == [
        ['train', 'videos_train/zumba/-_train2_000020_000030.mp4'],
        ['train', 'videos_train/zumba/-_train5_000050_000060.mp4'],
        ['val', 'videos_val/-_val1_000010_000020.mp4'],
    ]
    assert 'truncated' in found[0][3]
    assert [row[3] for row in found[1:]] == ['the file is empty', 'the file is missing']
    assert not any('_train2_' in line or '_train5_' in line for line in lines(root, 'k400'))


@of('in1k')
def test_a_truncated_image_is_left_out(root):
    path = root / 'train' / 'n01440764' / 'n01440764_4.JPEG'
    path.write_bytes(path.read_bytes()[:-100])
    assert prepare('in1k', root).left_out == dict(train=1, val=0)
    assert report(root)[0][1] == 'train/n01440764/n01440764_4.JPEG'


def rewrite_csv(file: Path, row: int, **changes: str) -> None:
    with open(file, newline='') as stream:
        rows = list(csv.DictReader(stream))
    rows[row] |= changes
    write_csv(file, rows)


@of('ek100')
def test_a_span_outside_the_file_is_reported(root):
    file = root / 'EPIC_100_train.csv'
    rewrite_csv(file, 3, start_timestamp='01:00:20.00', stop_timestamp='01:00:24.00')
    rewrite_csv(file, 4, start_timestamp='00:00:19.50', stop_timestamp='00:00:24.00')  # begins in it: cut at its end
    assert prepare('ek100', root).left_out == dict(train=1, val=0)
    reason = 'the span begins at 3620.000 s, but the video lasts 20.000 s'
    assert report(root) == [['train', 'P01/videos/P01_01.MP4', 'P01_01_3', reason]]


@of('ssv2')
def test_a_split_without_files_is_an_error(root):
    for number in range(101, 109):
        (root / 'videos' / f'{number}.webm').unlink()
    with pytest.raises(
        ValueError, match=r'val: none of the 8 samples can be used\. The first, .*videos/101.webm.*: the file is miss'
    ):
        prepare('ssv2', root)
    assert len(report(root)) == 8


# Wrong annotations ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('root', 'file', 'row', 'changes', 'message'),
    [
        (
            'k400',
            'annotations/kinetics_val.csv',
            1,
            dict(label='yodelling'),
            r"kinetics_val.csv, line 3: the class 'yod",
        ),
        (
            'k400',
            'annotations/kinetics_train.csv',
            0,
            dict(time_end='0'),
            r'train.csv, line 2: stop 0 is not after start 0',
        ),
        (
            'k400',
            'annotations/kinetics_train.csv',
            0,
            dict(time_end='x'),
            r"line 2: start '0' and stop 'x' are not both",
        ),
        (
            'k400',
            'annotations/kinetics_train.csv',
            0,
            dict(time_end='inf'),
            r'train.csv, line 2: stop inf is not after start 0',
        ),
        (
            'k400',
            'annotations/kinetics_train.csv',
            1,
            dict(youtube_id='-_train0', time_start='0', time_end='10'),
            r"line 3: '-_train0_000000_000010' is also at line 2. Remove one",
        ),
        (
            'ek100',
            'EPIC_100_validation.csv',
            2,
            dict(verb_class='3'),
            r"validation.csv, line 4: the class '3' is not one",
        ),
        (
            'ek100',
            'EPIC_100_validation.csv',
            2,
            dict(noun_class='x'),
            r"validation.csv, line 4: the class 'x' is not one",
        ),
        (
            'ek100',
            'EPIC_100_train.csv',
            0,
            dict(stop_timestamp='00:00:00.00'),
            r'EPIC_100_train.csv, line 2: stop 0.0 is not after start 0.0',
        ),
        (
            'ek100',
            'EPIC_100_train.csv',
            5,
            dict(start_timestamp='12.5'),
            r"train.csv, line 7: start_timestamp '12.5' is not HH:MM:SS.ss",
        ),
        ('ek100', 'EPIC_100_train.csv', 5, dict(narration_id='P01_01_0'), r"line 7: 'P01_01_0' is also at line 2"),
    ],
    indirect=['root'],
)
def test_wrong_tables(root, file, row, changes, message):
    rewrite_csv(root / file, row, **changes)
    name = 'k400' if 'kinetics' in file else 'ek100'
    with pytest.raises(ValueError, match=message):
        prepare(name, root)


def rewrite_json(file: Path, change) -> None:
    content = json.loads(file.read_text())
    change(content)
    write_json(file, content)


SSV2, INAT = 'something-something-v2', 'train2018.json'


@pytest.mark.parametrize(
    ('root', 'file', 'change', 'message'),
    [
        (
            'ssv2',
            f'{SSV2}-train.json',
            lambda x: x[2].update(template='Eating [something]'),
            r"train.json, entry 2: the class 'Eating something' is not one of the 3 known \('Holding something'",
        ),
        (
            'ssv2',
            f'{SSV2}-train.json',
            lambda x: x[2].pop('template'),
            r"entry 2: no 'template'. Give the file as it is",
        ),
        ('ssv2', f'{SSV2}-train.json', lambda x: x[2].update(id='1'), r"entry 2: '1' is also at entry 0"),
        ('ssv2', f'{SSV2}-validation.json', lambda x: x.clear(), r'validation.json has no samples'),
        (
            'ssv2',
            f'{SSV2}-labels.json',
            lambda x: x.update({'Holding something': '7'}),
            r'labels.json: the labels are not 0 to 2',
        ),
        (
            'ssv2',
            f'{SSV2}-labels.json',
            lambda x: x.update({'Holding something': 'none'}),
            r'labels.json: the labels are not 0 to 2',
        ),
        (
            'inat18',
            INAT,
            lambda x: x['images'][1].pop('file_name'),
            r"json, images\[1\]: no 'file_name'\. Give the file",
        ),
        ('inat18', INAT, lambda x: x['categories'][2].pop('id'), r"json, categories\[2\]: no 'id'\. Give the file"),
        ('inat18', INAT, lambda x: x.pop('images'), r"train2018.json, top level: no 'images'"),
        (
            'inat18',
            INAT,
            lambda x: x['annotations'][1].update(image_id=77),
            r'annotations\[1\]: no entry of images has',
        ),
        (
            'inat18',
            'val2018.json',
            lambda x: x['annotations'][1].update(category_id=9000),
            r'val2018.json, annotations\[1\]: category_id 9000 is not one of the 3 categories of train2018.json',
        ),
        (
            'inat18',
            INAT,
            lambda x: x['annotations'][1].update(image_id=0),
            r'annotations\[1\]: 0 is also at annotations\[0',
        ),
    ],
    indirect=['root'],
)
def test_wrong_json(root, file, change, message):
    rewrite_json(root / file, change)
    with pytest.raises(ValueError, match=message):
        prepare('ssv2' if file.startswith(SSV2) else 'inat18', root)


@pytest.mark.parametrize(
    ('root', 'file', 'text', 'message'),
    [
        (
            'p365',
            'places365_val.txt',
            'a.jpg 0\nb.jpg 3',
            r"places365_val.txt, line 2: the class '3' is not one of the 3",
        ),
        ('p365', 'places365_val.txt', 'a.jpg 0\na.jpg 1', r"line 2: 'a.jpg' is also at line 1"),
        ('p365', 'places365_val.txt', 'a.jpg', r"line 1, 'a.jpg' is not \"PATH LABEL\""),
        ('p365', 'places365_val.txt', '', r'places365_val.txt has no samples'),
        (
            'p365',
            'categories_places365.txt',
            '/a/x 1',
            r"categories_places365.txt, line 1: the label of '/a/x' is 1, not 0",
        ),
        ('ssv2', f'{SSV2}-labels.json', '["a"]', r'labels.json does not give each template a number'),
        ('ssv2', f'{SSV2}-train.json', '{"1": "a"}', r'train.json is not a list of videos'),
        (
            'in1k',
            'train.txt',
            'n1/a.JPEG 1\nn2/b.JPEG 0\n',
            r"train.txt, line 1: the label 1 is not that of its folder, 'n1', which is number 0",
        ),
        ('in1k', 'val.txt', 'a.JPEG n99', r"val.txt, line 1: the class 'n99' is not one of the 4 known"),
        ('inat18', 'val2018.json', '{', r'val2018.json is not JSON: .* Fetch it again'),
        (
            'k400',
            'annotations/kinetics_val.csv',
            'label,split\n',
            r'line 1: no column youtube_id, time_start, time_end',
        ),
        (
            'k400',
            'label_map_k400.txt',
            'abseiling\n',
            r"train.csv, line 3: the class 'air drumming' is not one of the 1",
        ),
        ('k400', 'label_map_k400.txt', 'abseiling\nabseiling\n', r"line 2: the class 'abseiling' is in line 1 too"),
        ('ek100', 'EPIC_100_verb_classes.csv', 'id,key\n1,take\n', r"line 2: id 1 of 'take' is out of order"),
    ],
    indirect=['root'],
)
def test_wrong_files(root, file, text, message):
    (root / file).write_text(text)
    name = next(name for name, tiny in TINY.items() if tiny.folder == root.name)
    with pytest.raises(ValueError, match=message):
        prepare(name, root)


@pytest.mark.parametrize(
    ('root', 'file', 'message'),
    [
        ('in1k', 'train', r'train is not a folder. Put it there as it is distributed'),
        ('inat18', 'val2018.json', r'inat2018 has no val2018.json or annotations/val2018.json. Put it there'),
        ('p365', 'places365_val.txt', r'places365 has no places365_val.txt. Put it there'),
        ('p365', 'val_256', r'places365 has no val_256 or val_large'),
        ('k400', 'annotations/kinetics_val.csv', r'kinetics400 has no annotations/kinetics_val.csv or '),
        ('ssv2', f'{SSV2}-labels.json', r'sthv2 has no something-something-v2-labels.json or labels.json'),
        ('ek100', 'EPIC_100_train.csv', r'epic100 has no EPIC_100_train.csv or annotations/EPIC_100_train.csv'),
    ],
    indirect=['root'],
)
def test_missing_annotations(root, file, message):
    (root / file).rename(root / 'elsewhere')
    name = next(name for name, tiny in TINY.items() if tiny.folder == root.name)
    with pytest.raises(ValueError, match=message):
        prepare(name, root)


def test_wrong_arguments(tmp_path):
    with pytest.raises(ValueError, match=r"root='nowhere' is not a folder. Correct the path, link the data"):
        prepare('k400', 'nowhere')
    with pytest.raises(ValueError, match=r'short_side=256 is for videos'):
        prepare('in1k', tmp_path, short_side=256)


# Checks go on where they stopped --------------------------------------------------------------------------------------


@of('in1k')
def test_files_are_checked_once(root, monkeypatch, capsys):
    checked = []
    check = preparation._check
    monkeypatch.setattr(preparation, '_check', lambda path, *how: checked.append(path) or check(path, *how))
    prepare('in1k', root)
    assert len(checked) == 16
    before = lines(root, 'in1k')
    prepare('in1k', root)
    assert len(checked) == 16
    assert lines(root, 'in1k') == before
    write_image(root / 'train' / 'n01440764' / 'n01440764_0.JPEG', 1, 99)  # another picture
    (root / 'train' / 'n01440764' / 'n01440764_4.JPEG').unlink()
    prepare('in1k', root)
    assert [os.path.basename(path) for path in checked[16:]] == ['n01440764_0.JPEG']
    assert len(lines(root, 'in1k')) == 7


@of('k400')
def test_a_file_that_could_not_be_read_is_tried_again(root, monkeypatch):
    check = preparation._check
    slow = preparation.Check(reason='not read within 60 s')
    monkeypatch.setattr(preparation, '_check', lambda path, *how: slow if '_val3_' in path else check(path, *how))
    assert prepare('k400', root).left_out == dict(train=0, val=1)
    monkeypatch.setattr(preparation, '_check', check)
    assert prepare('k400', root).left_out == dict(train=0, val=0)


@of('k400')
def test_an_interrupted_run_goes_on(root, monkeypatch):
    checked = []
    check = preparation._check

    def interrupted(path: str, *how):
        if len(checked) == 11:
            raise KeyboardInterrupt
        checked.append(path)
        return check(path, *how)

    monkeypatch.setattr(preparation, '_check', interrupted)
    with pytest.raises(KeyboardInterrupt):
        prepare('k400', root)
    with open(root / 'checked_files.jsonl', 'a') as file:
        file.write('["videos_train/x.mp4", [12')  # killed while it wrote
    first, checked[:] = list(checked), []
    monkeypatch.setattr(preparation, '_check', lambda path, *how: checked.append(path) or check(path, *how))
    assert prepare('k400', root).kept == dict(train=8, val=8)
    assert len(checked) == 5  # the first 11 had been kept
    assert not set(first) & set(checked)


def write_damaged(path: Path) -> None:
    """40 frames in two GOPs, the second damaged."""
    with av.open(str(path), 'w') as container:
        stream = container.add_stream('libx264', rate=10, options={'x264-params': 'keyint=20:scenecut=0:bframes=0'})
        stream.width, stream.height = 64, 48
        noise = np.random.default_rng(0).integers(0, 255, (40, 48, 64, 3), dtype=np.uint8)
        for pixels in noise:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, 'rgb24')))
        container.mux(stream.encode(None))
    with av.open(str(path)) as container:
        packet = [packet for packet in container.demux(video=0) if packet.is_keyframe][1]
    data = bytearray(path.read_bytes())
    data[packet.pos + packet.size // 3 : packet.pos + packet.size // 3 * 2] = bytes(packet.size // 3)
    path.write_bytes(data)


@of('k400')
def test_nothing_is_kept_that_training_will_refuse(root):
    """Whatever frame is damaged; and what an earlier version had only opened is read again."""
    video = next(path for path in sorted(root.rglob('*_val3_*.mp4')))
    write_damaged(video)
    with open_video(video) as opened:
        opened.read(0.0, 1.0, 4)  # its begin is fine
        with pytest.raises(BrokenVideoError, match='damaged'):
            opened.read(2.5, 1.0, 4)
    stat = video.stat()
    row = [str(video.relative_to(root)), [stat.st_size, stat.st_mtime_ns], 4.0, None]
    (root / 'checked_files.jsonl').write_text(f'{json.dumps(row)}\n')
    assert prepare('k400', root).left_out == dict(train=0, val=1)
    assert 'damaged, no clean frame for 2.' in report(root)[0][-1]
    (root / 'checked_files.jsonl').unlink()
    assert prepare('k400', root, short_side=32).left_out == dict(train=0, val=1)  # found as the copy is made


@of('p365')
def test_workers_find_the_same(root):
    (root / 'val_256' / 'Places365_val_00000003.jpg').write_bytes(b'x')
    prepare('p365', root, workers=2)
    several = lines(root, 'p365', 'val'), report(root)
    (root / 'checked_files.jsonl').unlink()
    prepare('p365', root)
    assert (lines(root, 'p365', 'val'), report(root)) == several
    assert len(several[0]) == 7


# Smaller copies -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('height', 'width', 'expected'),
    [
        (1080, 1920, (256, 456)),
        (1920, 1080, (456, 256)),
        (240, 427, (240, 428)),
        (256, 340, (256, 340)),
        (2, 9000, (2, 9000)),
        (720, 725, (256, 258)),
    ],
)
def test_sizes_are_even_and_never_larger(height, width, expected):
    assert scaled_size(height, width, 256) == expected


UNEVEN = [0, 50, 100, 350, 400, 401, 900, 950, 1000, 4000, 4020, 4040, 4500, 4600]  # ms, with a still of 3 s


def write_uneven(path: Path, *, rotation: int = 0, full_range: bool = False, codec: str = 'libx264') -> None:
    """A video of variable frame rate, 96 x 64, frame i of the grey 16 i; the upper left quarter is red."""
    with av.open(str(path), 'w') as container:
        stream = container.add_stream(codec, rate=25, options=dict(crf='10') if codec == 'libx264' else {})
        stream.height, stream.width, stream.pix_fmt = 64, 96, 'yuvj420p' if full_range else 'yuv420p'
        stream.codec_context.time_base = Fraction(1, 1000)
        if rotation:
            stream.set_display_rotation(rotation)
        audio = container.add_stream('aac' if path.suffix == '.mp4' else 'libopus', rate=48000)
        for i, stamp in enumerate(UNEVEN):
            picture = np.full((64, 96, 3), 16 * i, np.uint8)
            picture[:32, :48] = (200, 0, 0)
            frame = av.VideoFrame.from_ndarray(picture, 'rgb24').reformat(format=stream.pix_fmt)
            frame.pts, frame.time_base = stamp, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 2 * 960), np.int16), 's16', 'stereo')
        sound.rate, sound.pts = 48000, 0
        container.mux(audio.encode(sound))
        for each in (stream, audio):
            container.mux(each.encode(None))


@pytest.mark.parametrize('codec', COPIES)
@pytest.mark.parametrize('kind', ['plain', 'rotated', 'full range', 'mkv'])
def test_a_copy_shows_the_same_at_the_same_times(tmp_path, kind, codec):
    source, target = tmp_path / ('a.mkv' if kind == 'mkv' else 'a.mp4'), tmp_path / f'b{COPIES[codec].ending}'
    write_uneven(source, rotation=90 if kind == 'rotated' else 0, full_range=kind == 'full range')
    reencode(source, target, 32, codec)
    assert sorted(path.name for path in tmp_path.iterdir()) == [source.name, target.name]
    with av.open(str(target)) as container:
        assert [stream.type for stream in container.streams] == ['video']
        assert container.streams.video[0].codec_context.name == codec
        is_keyframe = [packet.is_keyframe for packet in container.demux(video=0) if packet.size]
        assert len(is_keyframe) == len(UNEVEN)
        assert all(is_keyframe) or codec == 'h264'
    with open_video(str(source)) as before, open_video(str(target)) as after:
        times = [
            [round(float(1000 * stamp * video.time_base)) for stamp, _ in video.frames()] for video in (before, after)
        ]
        assert times == [UNEVEN, UNEVEN]
        assert after.duration == pytest.approx(before.duration, abs=0.002)
        for start in (0.0, 0.9, 4.0):
            old, new = before.read(start, 0.6, 4).astype(float), after.read(start, 0.6, 4).astype(float)
            assert old.shape[1:3] == ((96, 64) if kind == 'rotated' else (64, 96))
            assert new.shape[1:3] == tuple(n // 2 for n in old.shape[1:3])
            corners = (slice(None), slice(8, None, 16), slice(8, None, 16))
            small = (slice(None), slice(4, None, 8), slice(4, None, 8))
            assert np.abs(old[corners] - new[small]).mean() < 4


def test_a_broken_video_leaves_no_copy(tmp_path):
    write_video(tmp_path / 'a.mp4', 0, 0)
    (tmp_path / 'a.mp4').write_bytes((tmp_path / 'a.mp4').read_bytes()[:-2000])
    with pytest.raises(BrokenVideoError, match='truncated'):
        reencode(tmp_path / 'a.mp4', tmp_path / 'b.mp4', 32)
    assert [path.name for path in tmp_path.iterdir()] == ['a.mp4']


@pytest.mark.parametrize('name', VIDEOS)
def test_lists_name_the_copies_and_keep_the_ids(name, tmp_path):
    root = tmp_path / TINY[name].folder
    TINY[name].write(root)
    options = dict(root=str(root / BENCHMARKS[name].list_root), transforms=[CROP])
    options |= dict(ann_file=str(root / BENCHMARKS[name].list_name('train')), allow_outside=name == 'ssv2')
    prepare(name, root)
    ids = [VideoDataset(**options).ids[row] for row in range(8)]
    prepare(name, root, short_side=32)
    dataset = VideoDataset(**options)
    assert [dataset.ids[row] for row in range(8)] == ids
    assert all('videos_32/' in dataset.paths[row] and dataset.paths[row].endswith('.mp4') for row in range(8))
    sample = dataset[Address(0, 5, 0)]
    assert (sample['id'], sample['failures']) == (ids[5], [])
    with open_video(str(next((root / 'videos_32').rglob('*.mp4')))) as video:
        assert video.read(0.0, 1.0, 1).shape == (1, 32, 42, 3)
    prepare(name, root)  # the originals are still there
    assert 'videos_32' not in lines(root, name)[0]


@of('k400')
def test_copies_are_made_once(root, monkeypatch):
    made = []
    monkeypatch.setattr(
        preparation, 'reencode', lambda source, target, *how: made.append(target) or reencode(source, target, *how)
    )
    prepare('k400', root, short_side=32)
    assert len(made) == 16
    one = root / 'videos_32' / 'videos_val' / '-_val3_000030_000040.mp4'
    one.unlink()
    (root / 'videos_32' / 'videos_val' / '-_val4_000040_000050.mp4.part').write_bytes(b'killed here')
    prepare('k400', root, short_side=32)
    assert [str(one)] == made[16:]


@of('k400')
def test_kinds_of_copies_do_not_mix(root):
    prepare('k400', root, short_side=32)
    before = {path: path.stat() for path in (root / 'videos_32').rglob('*.*')}
    prepare('k400', root, short_side=32, codec='mjpeg')
    assert lines(root, 'k400')[0].startswith('videos_32_mjpeg/videos_train/abseiling/-_train0_000000_000010.mov 0 id=')
    assert {path: path.stat() for path in (root / 'videos_32').rglob('*.*')} == before
    with open_video(str(root / 'videos_32_mjpeg' / 'videos_val' / '-_val3_000030_000040.mov')) as video:
        assert video.read(0.0, 1.0, 1).shape == (1, 32, 42, 3)
    for wrong in (dict(short_side=32, codec='vp9'), dict(codec='mjpeg')):
        with pytest.raises(
            ValueError, match=r"codec='\w+' is for copies, one of \['h264', 'mjpeg'\]. Give short_side, too"
        ):
            prepare('k400', root, **wrong)


@of('k400')
def test_a_video_that_breaks_while_it_is_copied_is_left_out(root, monkeypatch):
    def breaks(source, target, *how):
        if '_val3_' in str(source):
            raise BrokenVideoError(str(source), 'damaged, no clean frame for 9.000 s')
        reencode(source, target, *how)

    monkeypatch.setattr(preparation, 'reencode', breaks)
    assert prepare('k400', root, short_side=32).left_out == dict(train=0, val=1)
    assert report(root)[0][3] == 'damaged, no clean frame for 9.000 s'


# The command ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def command():
    spec = importlib.util.spec_from_file_location('prepare_dataset', ROOT / 'tools' / 'prepare_dataset.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


@of('ssv2')
def test_the_command_says_what_it_wrote(root, command, capsys):
    (root / 'videos' / '3.webm').unlink()
    command(['ssv2', '--root', str(root), '--workers', '1', '--short-side', '32'])
    said = capsys.readouterr().out
    assert f'{root}/sthv2_train_list_videos.txt: 7 videos, 1 left out, see {root}/left_out.csv\n' in said
    assert f'{root}/sthv2_val_list_videos.txt: 8 videos\n' in said
    assert f'{root}/classes.txt: 3 classes of 174\n' in said


@of('ucf101')
def test_the_command_takes_another_fold(root, command):
    command(['ucf101', '--root', str(root), '--workers', '1', '--fold', '2'])
    assert lines(root, 'ucf101')[0].startswith('UCF-101/BoxingSpeedBag/v_BoxingSpeedBag_g08')
    command(['ucf101', '--root', str(root), '--workers', '1'])
    assert lines(root, 'ucf101')[0].startswith('UCF-101/ApplyEyeMakeup/v_ApplyEyeMakeup_g00')


def test_the_command_fails_in_one_line(tmp_path, command, capsys):
    with pytest.raises(SystemExit, match='1'):
        command(['k400', '--root', str(tmp_path)])
    assert capsys.readouterr().err.count('\n') == 1


@pytest.mark.parametrize('name', TINY)
def test_help_shows_the_layout(name, command, capsys):
    with pytest.raises(SystemExit, match='0'):
        command([name, '--help'])
    said = capsys.readouterr().out
    assert 'Layout' in said
    assert f'usually in data/{TINY[name].folder}' in said
    assert ('--short-side' in said) == (name in VIDEOS)


# Real annotation files ------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not SHARED_DATA, reason='set OMNIMAE_SHARED_DATA')
class TestRealFiles:
    annotations = Path(SHARED_DATA or '') / 'annotations'

    @of('ek100')
    def test_ek100(self, root):
        for name in ('validation', 'verb_classes', 'noun_classes'):
            (root / f'EPIC_100_{name}.csv').write_bytes((self.annotations / f'EPIC_100_{name}.csv').read_bytes())
        annotation = read_ek100(root)
        items = {item.id: item for item in annotation.splits['val']}
        assert len(items) == 9668
        item = items['P01_11_10']  # take paper, verb 0, noun 49, 00:00:49.15 to 00:00:50.95
        assert (item.path, item.span) == ('P01/videos/P01_11.MP4', (49.15, 50.95))
        assert annotation.classes[item.label] == 'take paper'
        assert annotation.actions[item.label] == (item.label, 0, 49)
        pairs = [pair for _, *pair in annotation.actions]
        assert pairs == sorted(pairs)
        assert max(verb for verb, _ in pairs) < 97
        assert max(noun for _, noun in pairs) < 300

    @of('k400')
    def test_k400_classes_are_sorted_labels(self, root):
        names = (self.annotations / 'label_map_k400.txt').read_text().splitlines()
        assert names == sorted(names)
        assert len(names) == BENCHMARKS['k400'].num_classes
        (root / 'label_map_k400.txt').write_bytes((self.annotations / 'label_map_k400.txt').read_bytes())
        annotation = read_k400(root)
        assert annotation.classes == tuple(names)
        assert names[annotation.splits['train'][1].label] == 'air drumming'

    @of('ssv2')
    def test_ssv2_templates_match_the_labels(self, root):
        names = (self.annotations / 'ssv2_label_map.txt').read_text().splitlines()
        write_json(root / f'{SSV2}-labels.json', {name: str(i) for i, name in enumerate(names)})
        entries = [dict(id=str(i), template=name.replace('something', '[something]')) for i, name in enumerate(names)]
        write_json(root / f'{SSV2}-train.json', entries)
        write_json(root / f'{SSV2}-validation.json', entries)
        annotation = read_ssv2(root)
        assert [item.label for item in annotation.splits['train']] == list(range(174))
        assert annotation.classes == tuple(names)

    @of('p365')
    def test_p365(self, root):
        file = 'categories_places365.txt'
        (root / file).write_bytes((self.annotations / file).read_bytes())
        classes = read_p365(root).classes
        assert len(classes) == 365
        assert classes[:2] == ('airfield', 'airplane_cabin')
        assert 'apartment_building/outdoor' in classes


def test_class_names_survive_the_list(tmp_path):
    (tmp_path / 'list.txt').write_text('videos_train/air drumming/x.mp4 1 id=videos_train/air drumming/x.webm\n')
    rows = read_list(str(tmp_path / 'list.txt'), ['.mp4', '.webm'])
    assert (rows.paths, rows.labels) == (['videos_train/air drumming/x.mp4'], [1])
    assert rows.ids == ['videos_train/air drumming/x.webm']
