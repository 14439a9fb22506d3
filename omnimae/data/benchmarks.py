"""Benchmarks as their authors distribute them, the paper's six and others: annotation files -> files, labels, spans.

A reader (``read_NAME``) turns the official annotation files into an `Annotation`; its docstring is the layout that it
expects. `preparation.prepare` makes of it what training reads.
"""

from __future__ import annotations

import csv
import json
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from omnimae.data import storage
from omnimae.data.annotations import BLANK, is_outside, read_classes, read_lines, scan_folder
from omnimae.data.media.extensions import IMAGE_EXTENSIONS, VIDEO_EXTENSIONS

SPLITS = ('train', 'val')


class Item(NamedTuple):
    """A sample as the annotation has it.

    Attributes:
        path: of its file, relative to the root of the benchmark, with slashes.
        label: class index, or None where the authors keep it to themselves.
        span: (start, stop) in seconds inside a longer video, or None for the whole file.
        id: its name in results, or None where the path serves.
    """

    path: str
    label: int | None
    span: tuple[float, float] | None = None
    id: str | None = None


class Annotation(NamedTuple):
    """What the annotation files of a benchmark say.

    Attributes:
        splits: 'train' and 'val' -> items; of EPIC-Kitchens 'test', too, where its videos are there.
        classes: names in the order of the labels.
        actions: of EPIC-Kitchens: (action, verb, noun) each, in the order of the labels.
    """

    splits: dict[str, list[Item]]
    classes: tuple[str, ...]
    actions: tuple[tuple[int, int, int], ...] = ()


# ---- Readers ----


def read_in1k(root: Path) -> Annotation:
    """ImageNet-1K, data/imagenet by habit.

    Layout::

        train/WNID/*.JPEG
        val/WNID/*.JPEG, or val/*.JPEG with a list of their labels

    Instead of the folders, a list decides where there is one: meta/{train,val}.txt or {train,val}.txt with a
    "PATH LABEL" a line, the path below train or val and the label a WNID or its place among the sorted ones; or
    LOC_val_solution.csv as Kaggle gives it.
    """
    lists = {split: _first(root, f'meta/{split}.txt', f'{split}.txt') for split in SPLITS}
    if lists['train'] is None:
        classes = _class_folders(root / 'train')
    else:
        classes = tuple(sorted({path.partition('/')[0] for _, path, _ in _read_pairs(lists['train'])}))
    index = {name: label for label, name in enumerate(classes)}
    solution = _first(root, 'LOC_val_solution.csv')
    splits = {}
    for split, file in lists.items():
        if file is not None:
            splits[split] = _in1k_items(root, split, file, _read_pairs(file), index)
        elif split == 'val' and solution is not None:
            splits[split] = _in1k_items(root, split, solution, _read_solution(solution), index)
        elif not _class_folders(root / split):
            raise ValueError(
                f'{root / split} has no class folders, and there is no list of its labels. Sort the files into '
                f'folders, or add meta/{split}.txt or, for val, LOC_val_solution.csv; --help shows the layout.'
            )
        else:
            rows = scan_folder(str(root / split), IMAGE_EXTENSIONS, classes=classes)
            pairs = zip(rows.paths, rows.labels or (), strict=True)
            splits[split] = [Item(f'{split}/{path}', label) for path, label in pairs]
    return Annotation(splits, classes)


# Tell the order of a list's labels: the classes of ILSVRC2012_validation_ground_truth.txt have other numbers.
_FIRST_OF_IN1K_VAL = {
    'ILSVRC2012_val_00000001': 'n01751748',
    'ILSVRC2012_val_00000002': 'n09193705',
    'ILSVRC2012_val_00000003': 'n02105855',
}


def _in1k_items(
    root: Path, split: str, file: Path, rows: Iterable[tuple[str, str, str]], index: dict[str, int]
) -> list[Item]:
    # Lists of val are made for flat folders, and many sort the files into class folders later.
    by_name = _index_files(root, [split], IMAGE_EXTENSIONS, key=os.path.basename) if split == 'val' else {}
    items = _Items(file)
    for place, path, label in rows:
        found = by_name.get(os.path.basename(path), f'{split}/{path}')
        number, folder = _label(label, index, file, place), found.split('/')[1]
        known = _FIRST_OF_IN1K_VAL.get(os.path.splitext(os.path.basename(path))[0], folder)
        for name, whose in ((folder, 'its folder'), (known, 'this image')):
            if index.get(name, number) != number:
                raise ValueError(
                    f'{file}, {place}: the label {label} is not that of {whose}, {name!r}, which is number '
                    f'{index[name]} of the sorted ones (ILSVRC2012_validation_ground_truth.txt counts in another '
                    'order). Number the classes so, or write the WNID as label.'
                )
        items.add(place, path, found, number)
    return items.items


def _read_solution(file: Path) -> Iterator[tuple[str, str, str]]:
    """Kaggle's (place, path, WNID)."""
    for number, row in _read_csv(file, ('ImageId', 'PredictionString')):
        yield f'line {number}', f'{row["ImageId"]}.JPEG', row['PredictionString'].split(' ')[0]


def read_inat18(root: Path) -> Annotation:
    """The iNaturalist 2018 set, data/inat2018 by habit.

    Layout::

        train2018.json  val2018.json    (with images, annotations and categories; also in annotations/)
        train_val2018/KINGDOM/CATEGORY/*.jpg
    """
    splits: dict[str, list[Item]] = {}
    classes: dict[int, str] = {}
    for split in SPLITS:
        file = _find(root, f'{split}2018.json', f'annotations/{split}2018.json')
        content = _read_json(file)
        images, annotations, categories = (
            _json_part(content, key, file) for key in ('images', 'annotations', 'categories')
        )
        if split == 'train':
            classes = dict(sorted(_by_id(categories, 'categories', 'name', file).items()))
        index = {category: label for label, category in enumerate(classes)}
        names = _by_id(images, 'images', 'file_name', file)
        items = _Items(file)
        for number, entry in enumerate(annotations):
            place = f'annotations[{number}]'
            image, category = (_field(entry, key, file, place) for key in ('image_id', 'category_id'))
            if image not in names:
                raise ValueError(f'{file}, {place}: no entry of images has the id {image!r}. Fetch the file anew.')
            if category not in index:
                raise ValueError(
                    f'{file}, {place}: category_id {category!r} is not one of the {len(index)} categories of '
                    'train2018.json. Give both files of the same year.'
                )
            items.add(place, image, names[image], index[category])
        splits[split] = items.items
    return Annotation(splits, tuple(classes.values()))


def _by_id(entries: list, part: str, key: str, file: Path) -> dict[int, str]:
    return {
        _field(entry, 'id', file, f'{part}[{number}]'): str(_field(entry, key, file, f'{part}[{number}]'))
        for number, entry in enumerate(entries)
    }


def read_p365(root: Path) -> Annotation:
    """Places365-Standard, data/places365 by habit; images of 256 x 256 pixels ("small") where there, else large ones.

    Layout::

        places365_train_standard.txt  places365_val.txt  categories_places365.txt (for the names)
        data_256/LETTER/CLASS/*.jpg   val_256/*.jpg       (small; data_256_standard serves as well), or
        data_large/LETTER/CLASS/*.jpg val_large/*.jpg     (large; data_large_standard serves as well)
    """
    index = _read_places(root)
    folders = {
        'train': ('data_256', 'data_256_standard', 'data_large', 'data_large_standard'),
        'val': ('val_256', 'val_large'),
    }
    splits = {}
    for split, name in dict(train='places365_train_standard.txt', val='places365_val.txt').items():
        file, folder = _find(root, name), _find(root, *folders[split]).name
        items = _Items(file)
        for place, path, label in _read_pairs(file):
            items.add(place, path, f'{folder}/{path.lstrip("/")}', _label(label, index, file, place))
        splits[split] = items.items
    return Annotation(splits, tuple(index))


def _read_places(root: Path) -> dict[str, int]:
    """Names without the letter, /a/airfield -> airfield, -> class; from the training list where they have no file."""
    file = _first(root, 'categories_places365.txt')
    if file is None:
        train = _find(root, 'places365_train_standard.txt')
        categories = dict((label, os.path.dirname(path)) for _, path, label in _read_pairs(train))
        labels = sorted(categories, key=lambda label: (len(label), label))  # numbers, or an error below
        rows = [('the labels', categories[label], label) for label in labels]
        file = train
    else:
        rows = list(_read_pairs(file))
    index: dict[str, int] = {}
    for place, name, label in rows:
        if label != str(len(index)):
            raise ValueError(f'{file}, {place}: the label of {name!r} is {label}, not {len(index)}. Fetch it anew.')
        index[name[3:]] = len(index)
    return index


def read_k400(root: Path) -> Annotation:
    """Kinetics-400, data/kinetics400 by habit.

    Layout::

        annotations/kinetics_{train,val}.csv    (label,youtube_id,time_start,time_end,split,is_cc; also {train,val}.csv,
                                                 validate.csv, kinetics400_{train,val}.csv, or beside annotations)
        videos_{train,val}/[CLASS/]YOUTUBEID_000010_000020.mp4    (also {train,val} or videos for both; any container)

    Classes are the sorted labels of the training file, or those of label_map_k400.txt where it is there.
    """
    return _read_kinetics(root, 400)


def read_k600(root: Path) -> Annotation:
    """Kinetics-600, data/kinetics600 by habit.

    Layout, as of Kinetics-400::

        annotations/kinetics_{train,val}.csv    (also {train,val}.csv, validate.csv, kinetics600_{train,val}.csv)
        videos_{train,val}/[CLASS/]YOUTUBEID_000010_000020.mp4

    Classes are the sorted labels of the training file, or those of label_map_k600.txt where it is there.
    """
    return _read_kinetics(root, 600)


def read_k700(root: Path) -> Annotation:
    """Kinetics-700, data/kinetics700 by habit.

    Layout, as of Kinetics-400::

        annotations/kinetics_{train,val}.csv    (also {train,val}.csv, validate.csv, kinetics700_{train,val}.csv)
        videos_{train,val}/[CLASS/]YOUTUBEID_000010_000020.mp4

    Classes are the sorted labels of the training file, or those of label_map_k700.txt where it is there.
    """
    return _read_kinetics(root, 700)


def _read_kinetics(root: Path, size: int) -> Annotation:
    names = dict(train=('train',), val=('val', 'validate'))
    files = {
        split: _find(
            root,
            *(
                f'{folder}{prefix}{name}.csv'
                for folder in ('annotations/', '')
                for prefix in ('kinetics_', f'kinetics{size}_', '')
                for name in names[split]
            ),
        )
        for split in SPLITS
    }
    label_map = _first(root, f'label_map_k{size}.txt', f'annotations/label_map_k{size}.txt')
    columns = ('label', 'youtube_id', 'time_start', 'time_end')
    if label_map is None:
        classes = tuple(sorted({row['label'] for _, row in _read_csv(files['train'], columns)}))
    else:
        classes = read_classes(str(label_map))
    index = {name: label for label, name in enumerate(classes)}
    splits = {}
    for split, file in files.items():
        found = _index_files(root, [f'videos_{split}', split, 'videos'], VIDEO_EXTENSIONS)
        items = _Items(file)
        for number, row in _read_csv(file, columns):
            place, name = f'line {number}', row['youtube_id']
            start, stop = _span(row['time_start'], row['time_end'], file, place)
            name = f'{name}_{int(start):06}_{int(stop):06}'
            path = found.get(name) or found.get(row['youtube_id']) or f'videos_{split}/{name}.mp4'
            items.add(place, name, path, _label(row['label'], index, file, place, indices=False))
        splits[split] = items.items
    return Annotation(splits, classes)


def read_k710(root: Path) -> Annotation:
    """Kinetics-710 of VideoMAE V2 (arXiv:2303.16727): K400, K600 and K700 together, data/kinetics710 by habit.

    Layout::

        {train,val}.csv          (VideoMAE V2's lists, "PATH LABEL" a line, labels from 0 on; also in annotations/)
        label_map_k710.txt       (the names, one a line in the order of the labels; also in annotations/)
        videos_train/ k400/ ...  (the videos, in folders of any name)

    A video is found by the name of its file, whatever folders the list puts before it.
    """
    classes = read_classes(str(_find_annotation(root, 'label_map_k710.txt')))
    index = {name: label for label, name in enumerate(classes)}
    # not the smaller copies that ``--short-side`` makes of them
    folders = sorted(x.name for x in os.scandir(root) if x.is_dir() and not re.fullmatch(r'videos_\d+', x.name))
    found = _index_files(root, folders, VIDEO_EXTENSIONS)
    splits = {}
    for split in SPLITS:
        file = _find_annotation(root, f'{split}.csv')
        items = _Items(file)
        for place, path, label in _read_pairs(file):
            name = os.path.splitext(os.path.basename(path))[0]
            items.add(place, name, found.get(name, path.lstrip('/')), _label(label, index, file, place))
        splits[split] = items.items
    return Annotation(splits, classes)


def read_ucf101(root: Path, fold: int = 1) -> Annotation:
    """UCF101, data/ucf101 by habit; the lists are those of one of its three splits (--fold).

    Layout::

        ucfTrainTestlist/{classInd,trainlist01,testlist01}.txt    (also without the folder, or in annotations/)
        UCF-101/CLASS/*.avi                                       (also videos/; any container)
    """
    folders = ('ucfTrainTestlist/', '', 'annotations/')
    numbers = _find(root, *(f'{folder}classInd.txt' for folder in folders))
    index: dict[str, int] = {}
    for place, number, name in _read_pairs(numbers):
        if number != str(len(index) + 1):
            raise ValueError(f'{numbers}, {place}: the number of {name!r} is {number}, not {len(index) + 1}. Fetch it.')
        index[name] = len(index)
    found = _index_files(root, ['UCF-101', 'videos'], VIDEO_EXTENSIONS)
    splits = {}
    for split, name in dict(train='trainlist', val='testlist').items():
        file = _find(root, *(f'{folder}{name}{fold:02}.txt' for folder in folders))
        items = _Items(file)
        for row, line in enumerate(read_lines(file), start=1):
            if not line.strip(BLANK):
                continue
            place, path = f'line {row}', line.split()[0]  # behind it training has the class's number
            stem = os.path.splitext(os.path.basename(path))[0]
            label = _label(os.path.dirname(path), index, file, place, indices=False)
            items.add(place, path, found.get(stem, f'UCF-101/{path}'), label)
        splits[split] = items.items
    return Annotation(splits, tuple(index))


def read_hmdb51(root: Path, fold: int = 1) -> Annotation:
    """HMDB51, data/hmdb51 by habit; the lists are those of one of its three splits (--fold).

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
        raise ValueError(
            f'{root} has no testTrainMulti_7030_splits/*{ending}. Put it there as it is distributed; --help shows the '
            'layout.'
        )
    classes = tuple(file.name.removesuffix(ending) for file in files)
    collected = {split: _Items(files[0].parent) for split in SPLITS}
    found = _index_files(root, ['videos', *classes], VIDEO_EXTENSIONS)
    for label, file in enumerate(files):
        for place, path, use in _read_pairs(file):
            if use not in ('0', '1', '2'):
                raise ValueError(f'{file}, {place}: {use!r} behind {path!r} is none of 0, 1 and 2. Fetch it anew.')
            if use != '0':
                item = found.get(os.path.splitext(path)[0], f'videos/{classes[label]}/{path}')
                collected['train' if use == '1' else 'val'].add(f'{file.name}, {place}', path, item, label)
    return Annotation({split: items.items for split, items in collected.items()}, classes)


def read_ssv2(root: Path) -> Annotation:
    """Something-Something v2, data/sthv2 by habit.

    Layout::

        something-something-v2-{labels,train,validation}.json    (or {labels,train,validation}.json, or in annotations/)
        videos/ID.webm    (or .mp4; link the folder 20bn-something-something-v2 to it)
    """
    files = {
        key: _find(
            root,
            *(
                f'{folder}{prefix}{key}.json'
                for folder in ('', 'annotations/')
                for prefix in ('something-something-v2-', '')
            ),
        )
        for key in ('labels', 'train', 'validation')
    }
    numbers = _read_json(files['labels'])
    if not isinstance(numbers, dict):
        raise ValueError(f'{files["labels"]} does not say a number for each template. Fetch the file anew.')
    classes = tuple(sorted(numbers, key=lambda name: (len(str(numbers[name])), str(numbers[name]))))
    if [str(numbers[name]) for name in classes] != list(map(str, range(len(classes)))):
        raise ValueError(
            f'{files["labels"]}: the labels do not count from 0 to {len(classes) - 1}. Fetch the file anew.'
        )
    labels = {name: label for label, name in enumerate(classes)}
    found = _index_files(root, ['videos'], VIDEO_EXTENSIONS)
    splits = {}
    for split, key in dict(train='train', val='validation').items():
        file = files[key]
        items = _Items(file)
        entries = _read_json(file)
        if not isinstance(entries, list):
            raise ValueError(f'{file} is no list of videos. Give the file as it is distributed.')
        for number, entry in enumerate(entries):
            place = f'entry {number}'
            name, template = (str(_field(entry, key, file, place)) for key in ('id', 'template'))
            template = template.replace('[', '').replace(']', '')
            label = _label(template, labels, file, place, indices=False)
            items.add(place, name, found.get(name, f'videos/{name}.webm'), label)
        splits[split] = items.items
    return Annotation(splits, classes)


def read_ek100(root: Path) -> Annotation:
    """EPIC-Kitchens-100, data/epic100 by habit.

    Layout::

        EPIC_100_{train,validation}.csv               (also in annotations/)
        EPIC_100_{verb,noun}_classes.csv              (for the names; also in annotations/)
        EPIC_100_test_timestamps.csv                  (for the challenge, with the videos of its test set; the same)
        EPIC_100_unseen_participant_ids_validation.csv EPIC_100_tail_{verbs,nouns}.csv    (for their scores; the same)
        PNN/videos/PNN_NN.MP4                         (long videos; also below videos/ or EPIC-KITCHENS/), or
        NARRATIONID.mp4                               (trimmed clips, below clips/ or videos/)

    A class is an action: a pair of verb and noun that occurs in training or validation, in their order, 3806 of them.
    actions.csv says which: action,verb,noun. The id of a sample is its narration_id, as challenge submissions want it.
    """
    columns = ('narration_id', 'video_id', 'start_timestamp', 'stop_timestamp')
    files = {
        split: _find_annotation(root, f'EPIC_100_{name}.csv')
        for split, name in dict(train='train', val='validation').items()
    }
    verbs = _read_names(_first_annotation(root, 'EPIC_100_verb_classes.csv'), 97)
    nouns = _read_names(_first_annotation(root, 'EPIC_100_noun_classes.csv'), 300)
    participants = sorted(f'{folder.name}/videos' for folder in root.glob('P[0-9][0-9]'))  # frames lie beside videos
    found = _index_files(root, ['clips', 'videos', 'EPIC-KITCHENS', *participants], VIDEO_EXTENSIONS)
    rows = {split: list(_read_csv(file, (*columns, 'verb_class', 'noun_class'))) for split, file in files.items()}
    pairs = {
        split: [
            (
                _label(row['verb_class'], verbs, files[split], f'line {number}'),
                _label(row['noun_class'], nouns, files[split], f'line {number}'),
            )
            for number, row in rows[split]
        ]
        for split in SPLITS
    }
    index = {pair: action for action, pair in enumerate(sorted({*pairs['train'], *pairs['val']}))}
    labels: dict[str, list[int | None]] = {split: [index[pair] for pair in pairs[split]] for split in SPLITS}
    if (file := _first_annotation(root, 'EPIC_100_test_timestamps.csv')) is not None:
        test = list(_read_csv(file, columns))
        if any(row[key] in found for _, row in test for key in ('narration_id', 'video_id')):
            files['test'], rows['test'], labels['test'] = file, test, [None] * len(test)
    splits = {}
    for split, file in files.items():
        items = _Items(file)
        for (number, row), label in zip(rows[split], labels[split], strict=True):
            place, name, video = f'line {number}', row['narration_id'], row['video_id']
            start, stop = (_seconds(row, f'{end}_timestamp', file, place) for end in ('start', 'stop'))
            span = _span(start, stop, file, place)
            path = found.get(video, f'{video[:3]}/videos/{video}.MP4')
            items.add(place, name, found.get(name, path), label, None if name in found else span, name)
        splits[split] = items.items
    verb_names, noun_names = list(verbs), list(nouns)
    classes = tuple(f'{verb_names[verb]} {noun_names[noun]}' for verb, noun in index)
    return Annotation(splits, classes, tuple((action, *pair) for pair, action in index.items()))


class Benchmark(NamedTuple):
    """How a benchmark is read and what its lists are called.

    Attributes:
        read: folder -> annotation; with several folds it takes the number of one.
        prefix: of the lists' names.
        modality: 'image' or 'video'.
        num_classes: of the full set.
        list_root: the folder that the paths in the lists are relative to, below the root.
        num_folds: how many ways to split training and testing the authors have.
    """

    read: Callable[..., Annotation]
    prefix: str
    modality: str
    num_classes: int
    list_root: str = '.'
    num_folds: int = 1

    def list_name(self, split: str) -> str:
        """Name of the list of a split."""
        return f'{self.prefix}_{split}_list_{self.modality}s.txt'


BENCHMARKS = {
    'in1k': Benchmark(read_in1k, 'imagenet', 'image', 1000),
    'inat18': Benchmark(read_inat18, 'inat2018', 'image', 8142),
    'p365': Benchmark(read_p365, 'places365', 'image', 365),
    'k400': Benchmark(read_k400, 'kinetics400', 'video', 400),
    'ssv2': Benchmark(read_ssv2, 'sthv2', 'video', 174, 'videos'),  # MMAction2's lists of SSv2 are relative to it
    'ek100': Benchmark(read_ek100, 'epic100', 'video', 3806),
    'k600': Benchmark(read_k600, 'kinetics600', 'video', 600),
    'k700': Benchmark(read_k700, 'kinetics700', 'video', 700),
    'k710': Benchmark(read_k710, 'kinetics710', 'video', 710),
    'ucf101': Benchmark(read_ucf101, 'ucf101', 'video', 101, num_folds=3),
    'hmdb51': Benchmark(read_hmdb51, 'hmdb51', 'video', 51, num_folds=3),
}


# ---- Annotation files ----


class _Items:
    """Collects the items of one annotation file, each key once."""

    def __init__(self, file: Path):
        self.file = file
        self.places: dict[Any, str] = {}
        self._items: list[Item] = []

    def add(self, place: str, key: Any, *item: Any) -> None:
        """Add the `Item` that stands at ``place``.

        Raises:
            ValueError: one of that ``key`` is there already, or its path leaves the folder of the data.
        """
        if key in self.places:
            raise ValueError(f'{self.file}, {place}: {key!r} stands at {self.places[key]} too. Drop one of the two.')
        if is_outside(item[0]):  # copies of it would be written outside, too
            raise ValueError(f'{self.file}, {place}: {item[0]!r} leaves the folder of the data. Correct the line.')
        self.places[key] = place
        self._items.append(Item(*item))

    @property
    def items(self) -> list[Item]:
        if not self._items:
            raise ValueError(f'{self.file} has no samples. Fetch the file anew.')
        return self._items


def _first(root: Path, *names: str) -> Path | None:
    return next((root / name for name in names if (root / name).exists()), None)


def _find(root: Path, *names: str) -> Path:
    """The first of the files or folders that exists.

    Raises:
        ValueError: none does.
    """
    found = _first(root, *names)
    if found is None:
        raise ValueError(
            f'{root} has no {" or ".join(names[:4])}. Put it there as it is distributed; --help shows the layout.'
        )
    return found


def _first_annotation(root: Path, name: str) -> Path | None:
    return _first(root, name, f'annotations/{name}')


def _find_annotation(root: Path, name: str) -> Path:
    return _find(root, name, f'annotations/{name}')


def _class_folders(folder: Path) -> tuple[str, ...]:
    if not folder.is_dir():
        raise ValueError(f'{folder} is not a folder. Put it there as it is distributed; --help shows the layout.')
    return tuple(sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and entry.name[0] != '.'))


def _index_files(
    root: Path, folders: Iterable[str], extensions: Sequence[str], key: Callable[[str], str] | None = None
) -> dict[str, str]:
    """Files below the folders that exist, earlier ones first -> path by name without extension, or by ``key``."""
    found: dict[str, str] = {}
    for folder in folders:
        if not (root / folder).is_dir():
            continue
        for path in sorted(
            path for path in storage.list_files(str(root / folder)) if path.lower().endswith(tuple(extensions))
        ):
            name = os.path.splitext(os.path.basename(path))[0] if key is None else key(path)
            found.setdefault(name, f'{folder}/{path}')
    return found


def _read_pairs(file: Path) -> Iterator[tuple[str, str, str]]:
    """(place, path, label) of each line; the label is the last word."""
    for number, line in enumerate(read_lines(file), start=1):
        if not (line := line.strip(BLANK)):
            continue
        path, _, label = line.rpartition(' ')
        if not path:
            raise ValueError(f'{file}, line {number}, {line!r}: not "PATH LABEL". Correct the line.')
        yield f'line {number}', path.strip(BLANK), label


def _read_csv(file: Path, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """(number of the line, column -> value) of each row."""
    with open(file, newline='', encoding='utf-8-sig', errors='surrogateescape') as lines:
        reader = csv.DictReader(lines)
        if missing := [column for column in columns if column not in (reader.fieldnames or ())]:
            raise ValueError(f'{file}, line 1: no column {", ".join(missing)}. Fetch the file anew, with its header.')
        for row in reader:
            if any(row[column] is None for column in columns):
                raise ValueError(f'{file}, line {reader.line_num}: too few columns. Correct the line.')
            yield reader.line_num, row


def _read_names(file: Path | None, num_classes: int) -> dict[str, int]:
    """EPIC-Kitchens' names of verbs or nouns -> class; without the file the numbers are the names."""
    if file is None:
        return {str(label): label for label in range(num_classes)}
    names: dict[str, int] = {}
    for number, row in _read_csv(file, ('id', 'key')):
        if row['id'] != str(len(names)) or row['key'] in names:
            raise ValueError(f'{file}, line {number}: id {row["id"]} of {row["key"]!r} is out of order. Fetch it anew.')
        names[row['key']] = len(names)
    return names


def _field(entry: Any, key: str, file: Path, place: str) -> Any:
    if not isinstance(entry, dict) or key not in entry:
        raise ValueError(f'{file}, {place}: no {key!r}. Give the file as it is distributed, with labels.')
    return entry[key]


def _read_json(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding='utf-8'))
    except ValueError as error:
        raise ValueError(f'{file} is no JSON: {error}. Fetch the file anew.') from None


def _json_part(content: Any, key: str, file: Path) -> list:
    if not isinstance(content, dict) or key not in content:
        raise ValueError(f'{file} has no {key!r}. Give the file as it is distributed.')
    return content[key]


def _label(text: str, index: dict[str, int], file: Path, place: str, *, indices: bool = True) -> int:
    """A class name, or if ``indices`` a class index, -> class index."""
    if text in index:
        return index[text]
    if indices and text.isdecimal() and int(text) < len(index):
        return int(text)
    some = ', '.join(map(repr, islice(index, 3)))
    raise ValueError(
        f'{file}, {place}: the class {text!r} is not one of the {len(index)} known ({some}, ...). Correct it.'
    )


def _span(start: str | float, stop: str | float, file: Path, place: str) -> tuple[float, float]:
    try:
        first, last = float(start), float(stop)
    except ValueError:
        raise ValueError(
            f'{file}, {place}: start {start!r} and stop {stop!r} are not both numbers. Correct it.'
        ) from None
    if not 0 <= first < last < math.inf:
        raise ValueError(f'{file}, {place}: stop {stop} is not after start {start}. Correct the line, or drop it.')
    return first, last


def _seconds(row: dict[str, str], column: str, file: Path, place: str) -> float:
    """HH:MM:SS.ss -> seconds."""
    try:
        hours, minutes, seconds = row[column].split(':')
        return round(3600 * int(hours) + 60 * int(minutes) + float(seconds), 6)
    except ValueError:
        raise ValueError(f'{file}, {place}: {column} {row[column]!r} is not HH:MM:SS.ss. Correct it.') from None
