"""Tiny copies of the benchmarks, laid out and annotated as their authors distribute them.

Each ``write_NAME(root)`` makes one below ``root``: a few classes, eight samples a split, real JPEG and video files.
What `tools/prepare_dataset.py NAME --root ROOT` makes of it is what a config of that benchmark reads.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
from PIL import Image

SPLITS = ('train', 'val')
FPS = 10


class Tiny(NamedTuple):
    """One of the benchmarks.

    Attributes:
        folder: its name below ``data`` by habit, which the configs expect.
        write: makes it in a folder.
        classes: the lines of classes.txt.
        lines: the first and the last line of the list of training, the first of validation.
    """

    folder: str
    write: Callable[[Path], None]
    classes: list[str]
    lines: tuple[str, str, str]


def write_in1k(root: Path) -> None:
    """train/WNID/WNID_N.JPEG and val/WNID/ILSVRC2012_val_N.JPEG."""
    for i in range(8):
        wnid, label = [('n01440764', 0), ('n01443537', 1), ('n02123045', 2), ('n03445777', 3)][i % 4]
        write_image(root / 'train' / wnid / f'{wnid}_{i}.JPEG', label, i)
        write_image(root / 'val' / wnid / f'ILSVRC2012_val_{i + 1:08}.JPEG', label, 8 + i)


def write_inat18(root: Path) -> None:
    """train2018.json, val2018.json and train_val2018/KINGDOM/CATEGORY/HASH.jpg."""
    kingdoms = {0: 'Plantae', 1: 'Insecta', 2: 'Aves'}
    categories = [dict(id=i, name=f'species {i}', supercategory=name) for i, name in kingdoms.items()]
    for s, split in enumerate(SPLITS):
        ids = [100 * s + i for i in range(8)]
        names = {i: f'train_val2018/{kingdoms[i % 3]}/{i % 3}/{i:032x}.jpg' for i in ids}
        for i, name in names.items():
            write_image(root / name, i % 3, i)
        write_json(
            root / f'{split}2018.json',
            dict(
                info=dict(year=2018),
                images=[dict(id=i, file_name=name, height=40, width=48, license=3) for i, name in names.items()],
                categories=categories,
                annotations=[dict(id=1000 + i, image_id=i, category_id=i % 3) for i in ids],
            ),
        )


def write_p365(root: Path) -> None:
    """places365_{train_standard,val}.txt, categories_places365.txt, data_256/LETTER/CLASS/N.jpg, val_256/NAME.jpg."""
    categories = ['/a/airfield', '/a/apartment_building/outdoor', '/b/beach']
    train, val = [], []
    for i in range(8):
        label = i % 3
        train.append(f'{categories[label]}/{i + 1:08}.jpg {label}')
        val.append(f'Places365_val_{i + 1:08}.jpg {label}')
        write_image(root / f'data_256{categories[label]}/{i + 1:08}.jpg', label, i)
        write_image(root / 'val_256' / f'Places365_val_{i + 1:08}.jpg', label, 8 + i)
    write_lines(root / 'places365_train_standard.txt', train)
    write_lines(root / 'places365_val.txt', val)
    write_lines(root / 'categories_places365.txt', [f'{name} {label}' for label, name in enumerate(categories)])


def write_kinetics(root: Path) -> None:
    """annotations/kinetics_{train,val}.csv, videos_train/CLASS/ID_START_STOP.mp4 and flat videos_val/*.mp4."""
    classes = ['abseiling', 'air drumming', 'zumba']
    for s, split in enumerate(SPLITS):
        rows = []
        for i in range(8):
            name, start = f'-_{split}{i}', 10 * i
            rows.append(dict(label=classes[i % 3], youtube_id=name, time_start=start, time_end=start + 10, split=split))
            folder = root / f'videos_{split}' / (classes[i % 3] if split == 'train' else '')
            write_video(folder / f'{name}_{start:06}_{start + 10:06}.mp4', i % 3, 10 * s + i)
        write_csv(root / 'annotations' / f'kinetics_{split}.csv', [row | dict(is_cc=0) for row in rows])


def write_k710(root: Path) -> None:
    """{train,val}.csv with a prefix of somebody's disk, label_map_k710.txt, k400/ID.mp4 and k700/ID_START_STOP.mp4."""
    for s, split in enumerate(SPLITS):
        paths = [f'k400/-_{split}{i}.mp4' if i % 2 else f'k700/-_{split}{i}_000010_000020.mp4' for i in range(8)]
        for i, path in enumerate(paths):
            write_video(root / path, i % 3, 10 * s + i)
        write_lines(root / f'{split}.csv', [f'your_path/{path} {i % 3}' for i, path in enumerate(paths)])
    write_lines(root / 'label_map_k710.txt', ['zumba', 'abseiling', 'drumming in the air'])


def write_ucf101(root: Path) -> None:
    """ucfTrainTestlist/{classInd,trainlistNN,testlistNN}.txt and UCF-101/CLASS/v_CLASS_gNN_cNN.avi."""
    classes = ['ApplyEyeMakeup', 'Archery', 'BoxingSpeedBag']
    names = [f'{classes[i % 3]}/v_{classes[i % 3]}_g{i:02}_c01.avi' for i in range(16)]
    for i, name in enumerate(names):
        write_video(root / 'UCF-101' / name, i % 3, i, codec='mpeg4')
    write_lines(root / 'ucfTrainTestlist' / 'classInd.txt', [f'{i + 1} {name}' for i, name in enumerate(classes)])
    for fold, (train, test) in {1: (names[:8], names[8:]), 2: (names[8:], names[:8])}.items():
        labelled = [f'{name} {classes.index(name.partition("/")[0]) + 1}' for name in train]
        write_lines(root / 'ucfTrainTestlist' / f'trainlist0{fold}.txt', labelled)
        write_lines(root / 'ucfTrainTestlist' / f'testlist0{fold}.txt', test)


def write_hmdb51(root: Path) -> None:
    """testTrainMulti_7030_splits/CLASS_test_split1.txt, with videos that are in neither, and videos/CLASS/*.avi."""
    for label, name in enumerate(('brush_hair', 'cartwheel')):
        videos = [f'April_09_{name}_u_nm_np1_ba_goo_{i}.avi' for i in range(9)]
        for i, video in enumerate(videos):
            write_video(root / 'videos' / name / video, label, 10 * label + i, codec='mpeg4')
        uses = [f'{video} {(1, 2)[i % 2] if i < 8 else 0} ' for i, video in enumerate(videos)]
        write_lines(root / 'testTrainMulti_7030_splits' / f'{name}_test_split1.txt', uses)


def write_ssv2(root: Path) -> None:
    """something-something-v2-{labels,train,validation}.json and videos/ID.webm."""
    templates = ['Holding [something]', 'Pushing [something] from left to right', 'Moving [something] and [something]']
    plain = sorted(template.replace('[', '').replace(']', '') for template in templates)
    write_json(root / 'something-something-v2-labels.json', {name: str(label) for label, name in enumerate(plain)})
    for s, split in enumerate(('train', 'validation')):
        entries = []
        for i in range(8):
            template = templates[i % 3]
            label = template.replace('[something]', 'a cup').lower()
            entries.append(dict(id=str(100 * s + i + 1), label=label, template=template, placeholders=['a cup']))
            write_video(root / 'videos' / f'{100 * s + i + 1}.webm', i % 3, 10 * s + i, codec='libvpx-vp9')
        write_json(root / f'something-something-v2-{split}.json', entries)


def write_ek100(root: Path) -> None:
    """EPIC_100_{train,validation}.csv, EPIC_100_{verb,noun}_classes.csv and long videos PNN/videos/PNN_NN.MP4.

    Three verbs, three nouns and four actions, one of which occurs in validation only.
    """
    verbs, nouns = ['take', 'put', 'wash'], ['tap', 'spoon', 'plate']
    actions = [(0, 1), (1, 2), (2, 0), (2, 2)]
    for s, split in enumerate(('train', 'validation')):
        video = f'P0{s + 1}_01'
        write_video(root / f'P0{s + 1}' / 'videos' / f'{video}.MP4', s, s, seconds=20)
        rows = []
        for i in range(8):
            verb, noun = actions[i % (3 + s)]
            start, stop = 2.25 * i, 2.25 * i + (0.5 if i == 7 else 3.5)
            rows.append(
                dict(
                    narration_id=f'{video}_{i}',
                    participant_id=video[:3],
                    video_id=video,
                    narration_timestamp=timestamp(start, 3),
                    start_timestamp=timestamp(start, 2),
                    stop_timestamp=timestamp(stop, 2),
                    start_frame=int(start * FPS) + 1,
                    stop_frame=int(stop * FPS) + 1,
                    narration=f'{verbs[verb]}, {nouns[noun]}',
                    verb=verbs[verb],
                    verb_class=verb,
                    noun=nouns[noun],
                    noun_class=noun,
                    all_nouns=[nouns[noun]],
                    all_noun_classes=[noun],
                )
            )
        write_csv(root / f'EPIC_100_{split}.csv', rows)
    for kind, names in dict(verb=verbs, noun=nouns).items():
        rows = [dict(id=i, key=name, instances=[name], category='any') for i, name in enumerate(names)]
        write_csv(root / f'EPIC_100_{kind}_classes.csv', rows)


def write_ek100_test(root: Path) -> None:
    """What the challenge needs: EPIC_100_test_timestamps.csv, two segments of P03, and the lists of its subsets."""
    write_video(root / 'P03' / 'videos' / 'P03_101.MP4', 0, 7, seconds=5)
    times = dict(start_timestamp=timestamp(0.5, 2), stop_timestamp=timestamp(3, 2), start_frame=6, stop_frame=31)
    named = dict(participant_id='P03', video_id='P03_101', narration_timestamp=timestamp(1, 3))
    rows = [dict(narration_id=f'P03_101_{i}', **named, **times) for i in range(2)]
    write_csv(root / 'EPIC_100_test_timestamps.csv', rows)
    write_lines(root / 'EPIC_100_unseen_participant_ids_validation.csv', ['participant_id', 'P02'])
    write_lines(root / 'EPIC_100_tail_verbs.csv', ['verb', '2'])
    write_lines(root / 'EPIC_100_tail_nouns.csv', ['noun', '1'])


TINY = {
    'in1k': Tiny(
        'imagenet',
        write_in1k,
        ['n01440764', 'n01443537', 'n02123045', 'n03445777'],
        (
            'train/n01440764/n01440764_0.JPEG 0',
            'train/n03445777/n03445777_7.JPEG 3',
            'val/n01440764/ILSVRC2012_val_00000001.JPEG 0',
        ),
    ),
    'inat18': Tiny(
        'inat2018',
        write_inat18,
        ['species 0', 'species 1', 'species 2'],
        (
            f'train_val2018/Plantae/0/{0:032x}.jpg 0',
            f'train_val2018/Insecta/1/{7:032x}.jpg 1',
            f'train_val2018/Insecta/1/{100:032x}.jpg 1',
        ),
    ),
    'p365': Tiny(
        'places365',
        write_p365,
        ['airfield', 'apartment_building/outdoor', 'beach'],
        (
            'data_256/a/airfield/00000001.jpg 0',
            'data_256/a/apartment_building/outdoor/00000008.jpg 1',
            'val_256/Places365_val_00000001.jpg 0',
        ),
    ),
    'k400': Tiny(
        'kinetics400',
        write_kinetics,
        ['abseiling', 'air drumming', 'zumba'],
        (
            'videos_train/abseiling/-_train0_000000_000010.mp4 0',
            'videos_train/air drumming/-_train7_000070_000080.mp4 1',
            'videos_val/-_val0_000000_000010.mp4 0',
        ),
    ),
    'ssv2': Tiny(
        'sthv2',
        write_ssv2,
        ['Holding something', 'Moving something and something', 'Pushing something from left to right'],
        (
            '1.webm 0',
            '8.webm 2',
            '101.webm 0',
        ),
    ),
    'ek100': Tiny(
        'epic100',
        write_ek100,
        ['take spoon', 'put plate', 'wash tap', 'wash plate'],
        (
            'P01/videos/P01_01.MP4 0.000 3.500 0 id=P01_01_0',
            'P01/videos/P01_01.MP4 15.750 16.250 1 id=P01_01_7',
            'P02/videos/P02_01.MP4 0.000 3.500 0 id=P02_01_0',
        ),
    ),
    'k710': Tiny(
        'kinetics710',
        write_k710,
        ['zumba', 'abseiling', 'drumming in the air'],
        (
            'k700/-_train0_000010_000020.mp4 0',
            'k400/-_train7.mp4 1',
            'k700/-_val0_000010_000020.mp4 0',
        ),
    ),
    'ucf101': Tiny(
        'ucf101',
        write_ucf101,
        ['ApplyEyeMakeup', 'Archery', 'BoxingSpeedBag'],
        (
            'UCF-101/ApplyEyeMakeup/v_ApplyEyeMakeup_g00_c01.avi 0',
            'UCF-101/Archery/v_Archery_g07_c01.avi 1',
            'UCF-101/BoxingSpeedBag/v_BoxingSpeedBag_g08_c01.avi 2',
        ),
    ),
    'hmdb51': Tiny(
        'hmdb51',
        write_hmdb51,
        ['brush_hair', 'cartwheel'],
        (
            'videos/brush_hair/April_09_brush_hair_u_nm_np1_ba_goo_0.avi 0',
            'videos/cartwheel/April_09_cartwheel_u_nm_np1_ba_goo_6.avi 1',
            'videos/brush_hair/April_09_brush_hair_u_nm_np1_ba_goo_1.avi 0',
        ),
    ),
}
for _name in ('k600', 'k700'):
    TINY[_name] = TINY['k400']._replace(folder=f'kinetics{_name[1:]}')


# Files ----------------------------------------------------------------------------------------------------------------


def write_image(path: Path, label: int, seed: int) -> None:
    """A JPEG of 40 x 48 pixels; classes differ in colour."""
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse = np.random.default_rng(seed).integers(0, 120, (4, 5, 3), dtype=np.uint8)
    coarse[..., label % 3] += 120
    Image.fromarray(coarse).resize((48, 40), Image.Resampling.BICUBIC).save(path, 'JPEG')


def write_video(path: Path, label: int, seed: int, *, seconds: float = 2.0, codec: str = 'libx264') -> None:
    """A video of 48 x 64 pixels, 10 frames a second and a keyframe each second; classes differ in colour."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    kinds = {
        'libx264': ('mp4', dict(preset='ultrafast')),
        'libvpx-vp9': ('webm', {'deadline': 'realtime', 'cpu-used': '8'}),
        'mpeg4': ('avi', {}),
    }
    container_format, fast = kinds[codec]
    with av.open(str(path), 'w', format=container_format) as container:
        stream = container.add_stream(codec, rate=FPS, options=fast)
        stream.width, stream.height, stream.pix_fmt = 64, 48, 'yuv420p'
        stream.codec_context.gop_size = FPS
        stream.codec_context.time_base = Fraction(1, FPS)
        for i in range(round(seconds * FPS)):
            picture = np.full((48, 64, 3), rng.integers(0, 60, 3), np.uint8)
            picture[..., label % 3] += 120
            picture[:, 3 * i % 64] = 255
            frame = av.VideoFrame.from_ndarray(picture, 'rgb24')
            frame.pts, frame.time_base = i, Fraction(1, FPS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """A text file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(''.join(f'{line}\n' for line in lines), encoding='utf-8')


def write_json(path: Path, content: object) -> None:
    """A JSON file."""
    write_lines(path, [json.dumps(content)])


def write_csv(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    """A CSV file with a header."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open('w', newline='', encoding='utf-8') as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def timestamp(seconds: float, digits: int) -> str:
    """Seconds -> HH:MM:SS.ss, as EPIC-Kitchens writes it."""
    return f'{int(seconds // 3600):02}:{int(seconds // 60 % 60):02}:{seconds % 60:0{3 + digits}.{digits}f}'
