"""Kinetics, Something-Something V2, EPIC-Kitchens-100, UCF101 and HMDB51 as their authors distribute them.

The docstring of a reader shows the layout that it expects.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

from omnimae.data.annotations import BLANK, read_classes, read_lines
from omnimae.data.formats.annotation_files import (
    ANNOTATIONS,
    HELP,
    SPLITS,
    Annotation,
    Items,
    field_of,
    find,
    find_any,
    index_files,
    label_of,
    read_csv,
    read_json,
    read_names,
    read_pairs,
    seconds_of,
    span_of,
    stem_of,
)
from omnimae.data.media.extensions import VIDEO_EXTENSIONS


def _kinetics(size: int) -> Callable[[Path], Annotation]:
    """The reader of Kinetics-400, 600 or 700."""

    def read(root: Path) -> Annotation:
        return _read_kinetics(root, size)

    read.__doc__ = (_read_kinetics.__doc__ or '').replace('SIZE', str(size))  # the layout that --help shows
    return read


def _read_kinetics(root: Path, size: int) -> Annotation:
    """Kinetics-SIZE, usually in data/kineticsSIZE.

    Layout::

        annotations/kinetics_{train,val}.csv    (label,youtube_id,time_start,time_end,split,is_cc; or {train,val}.csv,
                                                 validate.csv, kineticsSIZE_{train,val}.csv; also without annotations/)
        videos_{train,val}/[CLASS/]YOUTUBEID_000010_000020.mp4    (or {train,val}, or videos for both; any container)

    Classes are the labels of label_map_kSIZE.txt if it exists, else the sorted labels of the training file.
    """
    prefixes, names = ('kinetics_', f'kinetics{size}_', ''), dict(train=('train',), val=('val', 'validate'))
    files = {
        split: find(
            root,
            *(f'{prefix}{name}.csv' for prefix in prefixes for name in names[split]),
            folders=ANNOTATIONS[::-1],
        )
        for split in SPLITS
    }
    label_map = find_any(root, f'label_map_k{size}.txt', folders=ANNOTATIONS)
    columns = ('label', 'youtube_id', 'time_start', 'time_end')
    if label_map is None:
        classes = tuple(sorted({row['label'] for _, row in read_csv(files['train'], columns)}))
    else:
        classes = read_classes(str(label_map))
    index = {name: label for label, name in enumerate(classes)}
    splits = {}
    for split, file in files.items():
        found = index_files(root, [f'videos_{split}', split, 'videos'], VIDEO_EXTENSIONS)
        items = Items(file)
        for number, row in read_csv(file, columns):
            place, name = f'line {number}', row['youtube_id']
            start, stop = span_of(row['time_start'], row['time_end'], file, place)
            name = f'{name}_{int(start):06}_{int(stop):06}'
            path = found.get(name) or found.get(row['youtube_id']) or f'videos_{split}/{name}.mp4'
            items.add(place, name, path, label_of(row['label'], index, file, place, indices=False))
        splits[split] = items.items
    return Annotation(splits, classes)


read_k400, read_k600, read_k700 = map(_kinetics, (400, 600, 700))


def read_k710(root: Path) -> Annotation:
    """Kinetics-710 of VideoMAE V2 (arXiv:2303.16727): K400, K600 and K700 together, usually in data/kinetics710.

    Layout::

        {train,val}.csv          (VideoMAE V2's lists, "PATH LABEL" a line, labels from 0 on; also in annotations/)
        label_map_k710.txt       (the names, one a line in the order of the labels; also in annotations/)
        videos_train/ k400/ ...  (the videos, in folders of any name)

    A video is found by its file name. The folders in the list do not matter.
    """
    classes = read_classes(str(find(root, 'label_map_k710.txt', folders=ANNOTATIONS)))
    index = {name: label for label, name in enumerate(classes)}
    # without the smaller copies of ``--short-side``
    folders = sorted(
        x.name for x in os.scandir(root) if x.is_dir() and not re.fullmatch(r'videos_\d+(_mjpeg)?', x.name)
    )
    found = index_files(root, folders, VIDEO_EXTENSIONS)
    splits = {}
    for split in SPLITS:
        file = find(root, f'{split}.csv', folders=ANNOTATIONS)
        items = Items(file)
        for place, path, label in read_pairs(file):
            name = stem_of(path)
            items.add(place, name, found.get(name, path.lstrip('/')), label_of(label, index, file, place))
        splits[split] = items.items
    return Annotation(splits, classes)


def read_ucf101(root: Path, fold: int = 1) -> Annotation:
    """UCF101, usually in data/ucf101. The lists are those of one of its three splits (--fold).

    Layout::

        ucfTrainTestlist/{classInd,trainlist01,testlist01}.txt    (also without the folder, or in annotations/)
        UCF-101/CLASS/*.avi                                       (also videos/; any container)
    """
    folders = ('ucfTrainTestlist/', *ANNOTATIONS)
    numbers = find(root, 'classInd.txt', folders=folders)
    index: dict[str, int] = {}
    for place, number, name in read_pairs(numbers):
        if number != str(len(index) + 1):
            raise ValueError(
                f'{numbers}, {place}: the number of {name!r} is {number}, not {len(index) + 1}. Fetch it again.'
            )
        index[name] = len(index)
    found = index_files(root, ['UCF-101', 'videos'], VIDEO_EXTENSIONS)
    splits = {}
    for split, name in dict(train='trainlist', val='testlist').items():
        file = find(root, f'{name}{fold:02}.txt', folders=folders)
        items = Items(file)
        for row, line in enumerate(read_lines(file), start=1):
            if not line.strip(BLANK):
                continue
            place, path = f'line {row}', line.split()[0]  # training lists have the class's number after it
            label = label_of(os.path.dirname(path), index, file, place, indices=False)
            items.add(place, path, found.get(stem_of(path), f'UCF-101/{path}'), label)
        splits[split] = items.items
    return Annotation(splits, tuple(index))


def read_hmdb51(root: Path, fold: int = 1) -> Annotation:
    """HMDB51, usually in data/hmdb51. The lists are those of one of its three splits (--fold).

    Layout::

        testTrainMulti_7030_splits/CLASS_test_split1.txt    ("NAME.avi 1" a line: 1 training, 2 testing, 0 neither; also
                                                             without the folder, or in annotations/)
        videos/CLASS/*.avi                                  (also without the folder; any container)

    Classes are the sorted names of these files.
    """
    ending = f'_test_split{fold}.txt'
    folders = [root / name for name in ('testTrainMulti_7030_splits', '.', 'annotations')]
    files = next((listed for folder in folders if (listed := sorted(folder.glob(f'*{ending}')))), None)
    if files is None:
        raise ValueError(f'{root} has no testTrainMulti_7030_splits/*{ending}. {HELP}')
    classes = tuple(file.name.removesuffix(ending) for file in files)
    collected = {split: Items(files[0].parent) for split in SPLITS}
    found = index_files(root, ['videos', *classes], VIDEO_EXTENSIONS)
    for label, file in enumerate(files):
        for place, path, use in read_pairs(file):
            if use not in ('0', '1', '2'):
                raise ValueError(f'{file}, {place}: {use!r} after {path!r} is not 0, 1 or 2. Fetch it again.')
            if use != '0':
                item = found.get(stem_of(path), f'videos/{classes[label]}/{path}')
                collected['train' if use == '1' else 'val'].add(f'{file.name}, {place}', path, item, label)
    return Annotation({split: items.items for split, items in collected.items()}, classes)


def read_ssv2(root: Path) -> Annotation:
    """Something-Something v2, usually in data/sthv2.

    Layout::

        something-something-v2-{labels,train,validation}.json    (or {labels,train,validation}.json, or in annotations/)
        videos/ID.webm    (or .mp4; link the folder 20bn-something-something-v2 to it)
    """
    files = {
        key: find(root, f'something-something-v2-{key}.json', f'{key}.json', folders=ANNOTATIONS)
        for key in ('labels', 'train', 'validation')
    }
    numbers = read_json(files['labels'])
    if not isinstance(numbers, dict):
        raise ValueError(f'{files["labels"]} does not give each template a number. Fetch it again.')
    classes = tuple(sorted(numbers, key=lambda name: (len(str(numbers[name])), str(numbers[name]))))
    if [str(numbers[name]) for name in classes] != list(map(str, range(len(classes)))):
        raise ValueError(f'{files["labels"]}: the labels are not 0 to {len(classes) - 1}. Fetch it again.')
    labels = {name: label for label, name in enumerate(classes)}
    found = index_files(root, ['videos'], VIDEO_EXTENSIONS)
    splits = {}
    for split, key in dict(train='train', val='validation').items():
        file = files[key]
        items = Items(file)
        entries = read_json(file)
        if not isinstance(entries, list):
            raise ValueError(f'{file} is not a list of videos. Give the file as it is distributed.')
        for number, entry in enumerate(entries):
            place = f'entry {number}'
            name, template = (str(field_of(entry, key, file, place)) for key in ('id', 'template'))
            template = template.replace('[', '').replace(']', '')
            label = label_of(template, labels, file, place, indices=False)
            items.add(place, name, found.get(name, f'videos/{name}.webm'), label)
        splits[split] = items.items
    return Annotation(splits, classes)


def read_ek100(root: Path) -> Annotation:
    """EPIC-Kitchens-100, usually in data/epic100.

    Layout::

        EPIC_100_{train,validation}.csv               (also in annotations/)
        EPIC_100_{verb,noun}_classes.csv              (for the names; also in annotations/)
        EPIC_100_test_timestamps.csv                  (for the challenge, with the videos of its test set)
        EPIC_100_unseen_participant_ids_validation.csv EPIC_100_tail_{verbs,nouns}.csv    (for their scores)
        PNN/videos/PNN_NN.MP4                         (long videos; also below videos/ or EPIC-KITCHENS/), or
        NARRATIONID.mp4                               (trimmed clips, below clips/ or videos/)

    A class is an action, that is a pair of verb and noun in training or validation, in sorted order. There are 3806.
    actions.csv lists them: action,verb,noun. The id of a sample is its narration_id, as challenge submissions need it.
    """
    columns = ('narration_id', 'video_id', 'start_timestamp', 'stop_timestamp')
    files = {
        split: find(root, f'EPIC_100_{name}.csv', folders=ANNOTATIONS)
        for split, name in dict(train='train', val='validation').items()
    }
    verbs = read_names(find_any(root, 'EPIC_100_verb_classes.csv', folders=ANNOTATIONS), 97)
    nouns = read_names(find_any(root, 'EPIC_100_noun_classes.csv', folders=ANNOTATIONS), 300)
    participants = sorted(f'{folder.name}/videos' for folder in root.glob('P[0-9][0-9]'))  # frames are in other folders
    found = index_files(root, ['clips', 'videos', 'EPIC-KITCHENS', *participants], VIDEO_EXTENSIONS)
    rows = {split: list(read_csv(file, (*columns, 'verb_class', 'noun_class'))) for split, file in files.items()}
    pairs = {
        split: [
            (
                label_of(row['verb_class'], verbs, files[split], f'line {number}'),
                label_of(row['noun_class'], nouns, files[split], f'line {number}'),
            )
            for number, row in rows[split]
        ]
        for split in SPLITS
    }
    index = {pair: action for action, pair in enumerate(sorted({*pairs['train'], *pairs['val']}))}
    labels: dict[str, list[int | None]] = {split: [index[pair] for pair in pairs[split]] for split in SPLITS}
    if (file := find_any(root, 'EPIC_100_test_timestamps.csv', folders=ANNOTATIONS)) is not None:
        test = list(read_csv(file, columns))
        if any(row[key] in found for _, row in test for key in ('narration_id', 'video_id')):
            files['test'], rows['test'], labels['test'] = file, test, [None] * len(test)
    splits = {}
    for split, file in files.items():
        items = Items(file)
        for (number, row), label in zip(rows[split], labels[split], strict=True):
            place, name, video = f'line {number}', row['narration_id'], row['video_id']
            start, stop = (seconds_of(row, f'{end}_timestamp', file, place) for end in ('start', 'stop'))
            span = span_of(start, stop, file, place)
            path = found.get(video, f'{video[:3]}/videos/{video}.MP4')
            items.add(place, name, found.get(name, path), label, None if name in found else span, name)
        splits[split] = items.items
    verb_names, noun_names = list(verbs), list(nouns)
    classes = tuple(f'{verb_names[verb]} {noun_names[noun]}' for verb, noun in index)
    return Annotation(splits, classes, tuple((action, *pair) for pair, action in index.items()))
