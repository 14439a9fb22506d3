"""Label maps: which class of a checkpoint each class of a model is."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from omnimae.structures import as_utf8

from .files import first_line
from .translation import Checkpoint


def read_label_map(label_map: str | Mapping[str, str]) -> list[int]:
    """Read a label map -> for each class of the model, in order, its index in the checkpoint.

    Args:
        label_map: a JSON file with that list, as VideoMAE V2 has them for its 710 classes. Or two files of class names,
            one a line in the order of the labels: ``dict(source=..., target=...)``, of the checkpoint and of the model.
            ``renamed`` is a JSON file of {name in target: name in source} for names that differ.

    Raises:
        ValueError: a file that is missing or holds something else, or a class that the checkpoint does not have.
    """
    if isinstance(label_map, str):
        rows = _read_json(label_map)
        if not isinstance(rows, list) or not rows or not all(type(row) is int for row in rows):
            raise ValueError(
                f'label_map={label_map!r} holds no list of class indices. Give one, or two lists of names.'
            )
        return rows
    if not {'source', 'target'} <= label_map.keys() <= {'source', 'target', 'renamed'}:
        raise ValueError(f'label_map has the keys {sorted(label_map)}. Give source and target, and renamed if needed.')
    source, target = (_read_names(label_map[key]) for key in ('source', 'target'))
    renamed = _read_json(label_map['renamed']) if 'renamed' in label_map else {}
    if not isinstance(renamed, dict):
        raise ValueError(f'label_map.renamed={label_map["renamed"]!r} holds no names by name. Give {{target: source}}.')
    index = {name: row for row, name in enumerate(source)}
    names = [name if name in index else renamed.get(name, name) for name in target]
    if missing := [name for name in names if name not in index]:
        raise ValueError(
            f'{label_map["source"]} has no class {missing[0]!r} ({len(missing)} of {len(names)} are missing), which '
            f'{label_map["target"]} has. Correct the lists, or name what differs in label_map.renamed.'
        )
    return [index[name] for name in names]


def _read_names(path: str) -> list[str]:
    if not os.path.isfile(path):
        raise ValueError(f'label_map: {path} does not exist. Give a file with one class name a line.')
    return [line.strip() for line in as_utf8(Path(path).read_bytes()).decode().split('\n') if line.strip()]


def _read_json(path: str) -> Any:
    try:
        return json.loads(as_utf8(Path(path).read_bytes()))
    except (OSError, ValueError) as error:
        raise ValueError(f'label_map: {path} is no readable JSON file ({first_line(error)}). Correct it.') from None


def picked_head(file: Checkpoint, target: Checkpoint, label_map: str | Mapping[str, str]) -> dict[str, Tensor]:
    """Pick those rows of the file's head that are the classes of ``target``.

    Raises:
        ValueError: as of `read_label_map`, one of the two has no head, or the map is for other classes.
    """
    if target.kind != 'classifier':
        raise ValueError('label_map is for the head of a Classifier, and this model has none. Leave it out.')
    if file.kind != 'classifier':
        raise ValueError(
            f'{file.path}: holds no classifier, so label_map has no head to pick from. Give the checkpoint of a '
            'fine-tuning, or leave label_map out.'
        )
    rows = read_label_map(label_map)
    num_rows, num_classes = (len(side.tensors['head.weight']) for side in (file, target))
    if len(rows) != num_classes:
        raise ValueError(
            f'label_map={label_map!r} is for {len(rows)} classes, and the model has num_classes={num_classes}. Give '
            'the map for these classes.'
        )
    if wrong := [number for number, row in enumerate(rows) if not 0 <= row < num_rows]:
        raise ValueError(
            f'label_map={label_map!r}: class {wrong[0]} is class {rows[wrong[0]]} of the checkpoint, and {file.path} '
            f'has a head for {num_rows}, counted from 0. Give the checkpoint and the map that belong together.'
        )
    return {key: file.tensors[key][rows] for key in ('head.weight', 'head.bias')}
