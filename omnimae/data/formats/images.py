"""ImageNet-1K, iNaturalist 2018 and Places365 as their authors distribute them.

The docstring of a reader shows the layout that it expects.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from omnimae.data.annotations import scan_folder
from omnimae.data.formats.annotation_files import (
    ANNOTATIONS,
    SPLITS,
    Annotation,
    Item,
    Items,
    class_folders,
    field_of,
    find,
    find_any,
    index_files,
    label_of,
    read_csv,
    read_json,
    read_pairs,
    stem_of,
)
from omnimae.data.media.extensions import IMAGE_EXTENSIONS


def read_in1k(root: Path) -> Annotation:
    """ImageNet-1K, usually in data/imagenet.

    Layout::

        train/WNID/*.JPEG
        val/WNID/*.JPEG, or val/*.JPEG with a list of their labels

    A list replaces the labels of the folders: meta/{train,val}.txt or {train,val}.txt with "PATH LABEL" lines, or
    Kaggle's LOC_val_solution.csv. The path is relative to train or val. The label is a WNID or its index among the
    sorted WNIDs.
    """
    lists = {split: find_any(root, f'meta/{split}.txt', f'{split}.txt') for split in SPLITS}
    if lists['train'] is None:
        classes = class_folders(root / 'train')
    else:
        classes = tuple(sorted({path.partition('/')[0] for _, path, _ in read_pairs(lists['train'])}))
    index = {name: label for label, name in enumerate(classes)}
    solution = find_any(root, 'LOC_val_solution.csv')
    splits = {}
    for split, file in lists.items():
        if file is not None:
            splits[split] = _in1k_items(root, split, file, read_pairs(file), index)
        elif split == 'val' and solution is not None:
            splits[split] = _in1k_items(root, split, solution, _read_solution(solution), index)
        elif not class_folders(root / split):
            raise ValueError(
                f'{root / split} has no class folders, and there is no list of its labels. Sort the files into '
                f'folders, or add meta/{split}.txt (for val also LOC_val_solution.csv); --help shows the layout.'
            )
        else:
            rows = scan_folder(str(root / split), IMAGE_EXTENSIONS, classes=classes)
            pairs = zip(rows.paths, rows.labels or (), strict=True)
            splits[split] = [Item(f'{split}/{path}', label) for path, label in pairs]
    return Annotation(splits, classes)


# They show how a list numbers the classes: ILSVRC2012_validation_ground_truth.txt has other numbers.
_FIRST_OF_IN1K_VAL = {
    'ILSVRC2012_val_00000001': 'n01751748',
    'ILSVRC2012_val_00000002': 'n09193705',
    'ILSVRC2012_val_00000003': 'n02105855',
}


def _in1k_items(
    root: Path, split: str, file: Path, rows: Iterable[tuple[str, str, str]], index: dict[str, int]
) -> list[Item]:
    # Lists of val are for a flat folder. Many users sort its files into class folders later.
    by_name = index_files(root, [split], IMAGE_EXTENSIONS, key=os.path.basename) if split == 'val' else {}
    items = Items(file)
    for place, path, label in rows:
        found = by_name.get(os.path.basename(path), f'{split}/{path}')
        number, folder = label_of(label, index, file, place), found.split('/')[1]
        known = _FIRST_OF_IN1K_VAL.get(stem_of(path), folder)
        for name, whose in ((folder, 'its folder'), (known, 'this image')):
            if index.get(name, number) != number:
                raise ValueError(
                    f'{file}, {place}: the label {label} is not that of {whose}, {name!r}, which is number '
                    f'{index[name]} of the sorted ones (ILSVRC2012_validation_ground_truth.txt has another '
                    'order). Number the classes in sorted order, or write WNIDs as labels.'
                )
        items.add(place, path, found, number)
    return items.items


def _read_solution(file: Path) -> Iterator[tuple[str, str, str]]:
    """Kaggle's (place, path, WNID)."""
    for number, row in read_csv(file, ('ImageId', 'PredictionString')):
        yield f'line {number}', f'{row["ImageId"]}.JPEG', row['PredictionString'].split(' ')[0]


def read_inat18(root: Path) -> Annotation:
    """INaturalist 2018, usually in data/inat2018.

    Layout::

        train2018.json  val2018.json    (with images, annotations and categories; also in annotations/)
        train_val2018/KINGDOM/CATEGORY/*.jpg
    """
    splits: dict[str, list[Item]] = {}
    classes: dict[int, str] = {}
    for split in SPLITS:
        file = find(root, f'{split}2018.json', folders=ANNOTATIONS)
        content = read_json(file)
        images, annotations, categories = (
            field_of(content, key, file, 'top level') for key in ('images', 'annotations', 'categories')
        )
        if split == 'train':
            classes = dict(sorted(_by_id(categories, 'categories', 'name', file).items()))
        index = {category: label for label, category in enumerate(classes)}
        names = _by_id(images, 'images', 'file_name', file)
        items = Items(file)
        for number, entry in enumerate(annotations):
            place = f'annotations[{number}]'
            image, category = (field_of(entry, key, file, place) for key in ('image_id', 'category_id'))
            if image not in names:
                raise ValueError(f'{file}, {place}: no entry of images has the id {image!r}. Fetch it again.')
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
        field_of(entry, 'id', file, f'{part}[{number}]'): str(field_of(entry, key, file, f'{part}[{number}]'))
        for number, entry in enumerate(entries)
    }


def read_p365(root: Path) -> Annotation:
    """Places365-Standard, usually in data/places365. Small images (256 x 256) are preferred to large ones.

    Layout::

        places365_train_standard.txt  places365_val.txt  categories_places365.txt (for the names)
        data_256/LETTER/CLASS/*.jpg   val_256/*.jpg       (small; or data_256_standard)
        data_large/LETTER/CLASS/*.jpg val_large/*.jpg     (large; or data_large_standard)
    """
    index = _read_places(root)
    folders = {
        'train': ('data_256', 'data_256_standard', 'data_large', 'data_large_standard'),
        'val': ('val_256', 'val_large'),
    }
    splits = {}
    for split, name in dict(train='places365_train_standard.txt', val='places365_val.txt').items():
        file, folder = find(root, name), find(root, *folders[split]).name
        items = Items(file)
        for place, path, label in read_pairs(file):
            items.add(place, path, f'{folder}/{path.lstrip("/")}', label_of(label, index, file, place))
        splits[split] = items.items
    return Annotation(splits, tuple(index))


def _read_places(root: Path) -> dict[str, int]:
    """Names without the letter (/a/airfield -> airfield) -> class, from the names' file or the training list."""
    file = find_any(root, 'categories_places365.txt')
    if file is None:
        train = find(root, 'places365_train_standard.txt')
        categories = dict((label, os.path.dirname(path)) for _, path, label in read_pairs(train))
        labels = sorted(categories, key=lambda label: (len(label), label))  # numbers, or an error below
        rows = [('the labels', categories[label], label) for label in labels]
        file = train
    else:
        rows = list(read_pairs(file))
    index: dict[str, int] = {}
    for place, name, label in rows:
        if label != str(len(index)):
            raise ValueError(f'{file}, {place}: the label of {name!r} is {label}, not {len(index)}. Fetch it again.')
        index[name[3:]] = len(index)
    return index
