"""From a folder to a trained model: `pretrain` and `finetune` choose a config of ``configs/custom`` and run it.

Each choice is printed with its reason. The config is written to ``out/config.py``, as a base and what differs from it.
A person goes on from there: ``omnimae train out/config.py --resume`` is the same training.
"""

from __future__ import annotations

import difflib
import math
import os
import re
import shlex
import tarfile
import tempfile
import zipfile
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from mmengine.config import Config

from omnimae.checkpoint import Checkpoint, replacing
from omnimae.commands import train
from omnimae.config import load_config
from omnimae.data import storage
from omnimae.data.annotations import count_endings, read_labels
from omnimae.data.media.extensions import IMAGE_EXTENSIONS, VIDEO_EXTENSIONS, modality_of
from omnimae.engine import choose_device, find_run, num_cores, parts_of, setup_environment
from omnimae.engine.compat import find_latest_checkpoint
from omnimae.engine.folder import lock, unlock
from omnimae.engine.precision import computes
from omnimae.planning import GIB, count_step, fitting_batch, inputs_of, memory_of, sources_of
from omnimae.registry import MODELS
from omnimae.stopping import named_command
from omnimae.structures import check_out
from omnimae.zoo import PRETRAINED, ZOO, find_checkpoint

# arch -> what differs from the base model; those with a letter have released weights
SIZES: dict[str, dict[str, Any]] = {
    'tiny': dict(backbone=dict(arch='tiny', patch_size=(2, 32, 32)), head=dict(embed_dim=96, depth=2, num_heads=3)),
    'base': {},
    'large': dict(backbone=dict(arch='large'), head=dict(embed_dim=512)),
    'huge': dict(backbone=dict(arch='huge', patch_size=(2, 14, 14)), head=dict(embed_dim=512, depth=8)),
}
# the parts of labelled data, by the words that their folders may have as names, see `_word`
PARTS = dict(train=('train', 'training'), val=('val', 'valid', 'validation'), test=('test', 'testing'))
KINDS = dict(images='image', videos='video')
NO_CLASSES = {*KINDS, *(name for names in PARTS.values() for name in names)}  # folders of a layout, see `_word`
LAYOUTS = (
    'DATA/train/CLASS/* and DATA/val/CLASS/*, DATA/CLASS/*, or one of the two below images and videos, such as '
    'DATA/{images,videos}/CLASS/*'
)
Found = dict[str, dict[str, tuple[Path, dict[str, list[str]]]]]  # kind -> 'train', 'val' -> folder, class -> files
AFTER_PRETRAINING = (
    'omnimae plot-run {run}                  # is it healthy; pictures are in {run}/reconstructions',
    'omnimae finetune DATA --checkpoint {run} --out classifier',
)
AFTER_FINETUNING = (
    'omnimae plot-run {run}                  # is it healthy',
    'omnimae predict FILES --model {run} --out predictions.csv',
    'omnimae test {run} --analyze {run}/errors',
    'omnimae explain {run} FILES --out-dir {run}/explained',
)
REPLICAS = dict(images=1, videos=4)  # of configs/custom/pretrain.py
BETTER = 'Published weights are a better start: omnimae finetune DATA --arch base.'
FROM_SCRATCH = '10,000 images of CIFAR-10 gave an accuracy of 51 % after 1875 steps of 16.'  # docs/evidence_details.md


class Choice(NamedTuple):
    """What was chosen for a run, why, and how to change it."""

    name: str
    value: Any
    reason: str
    change: str

    def __str__(self) -> str:
        return f'{self.name}: {self.value}. {self.reason} To change it: {self.change}.'


def pretrain(
    images: str | os.PathLike | None = None,
    videos: str | os.PathLike | None = None,
    out: str | os.PathLike = 'pretrained',
    arch: str = 'auto',
    epochs: int | None = None,
) -> Path:
    """Pretrain OmniMAE on folders of images, of videos, or both, without labels.

    A second call with the same arguments resumes. `finetune` takes ``out`` as its ``checkpoint``.

    Args:
        images: folder of images, with sub-folders or without.
        videos: folder of videos, likewise.
        out: folder of ``config.py``, log, checkpoints and pictures.
        arch: 'tiny' for a try on a CPU, 'base', 'large' or 'huge'. 'auto' takes 'base' with a GPU, else 'tiny'.
        epochs: passes over the files. None derives them from the number of files.

    Returns:
        ``out``.

    Raises:
        ValueError: no folder, a folder without such files, ``epochs`` below 1, or an ``out`` that has another run.
    """
    given = {name: x for name, x in (('images', images), ('videos', videos)) if x is not None}
    if not given:
        raise ValueError('pretrain has no data. Give images=FOLDER, videos=FOLDER, or both.')
    _check_call(out, epochs)
    lists: dict[str, Sequence[str]] = {}
    for name, x in given.items():
        lists |= _unlabelled(x, name)
    folders = {name: Path(x).absolute() for name, x in given.items()}
    rows = {name: len(lists[f'train_{name}.txt']) for name in folders}
    sources = {
        mode: {name: dict(root=str(x), ann_file=_beside(f'{mode}_{name}.txt')) for name, x in folders.items()}
        for mode in ('train', 'val')
    }
    arch, chosen = _choose_arch(arch)
    samples = sum(count * REPLICAS[name] for name, count in rows.items())
    weights = None if arch == 'tiny' or sum(rows.values()) >= 100_000 else _released(f'vit{arch[0]}_pretrain')
    if weights is not None:
        start = Choice('weights', weights, 'Fewer than 100,000 files profit from a start.', 'model.init_cfg=None')
    else:
        why = 'There are no released ones.' if arch == 'tiny' else 'Many files, or the released ones cannot be read.'
        start = Choice('weights', 'from scratch', why, 'model.init_cfg')
    largest, steps = (32, (300, 10, 100)) if arch == 'tiny' else (256, (100_000, 100, 1600))  # a CPU's steps are slow
    schedule = _Schedule.of(rows, REPLICAS, largest, epochs, steps)
    rate = 1e-3 if arch == 'tiny' else (1e-4 if weights else 2e-4) * schedule.batch / 256
    changes: dict[str, Any] = dict(
        model=dict(SIZES[arch]),
        train_dataloader=dict(dataset=dict(sources=sources['train'])),
        val_dataloader=dict(dataset=dict(sources=sources['val'])),
        optim_wrapper=dict(optimizer=dict(lr=rate)),
        custom_hooks=[dict(type='ReconstructionHook', interval=schedule.interval)],
    )
    if weights is not None:
        changes['model']['init_cfg'] = dict(type='Checkpoint', checkpoint=weights)
    base = 'pretrain' if len(folders) == 2 else f'pretrain_{next(iter(folders))}'
    print(f'{samples} crops an epoch of {_told(rows)}. {_expected(schedule, sum(rows.values()), weights)}')
    return _run(base, changes, lists, rows, schedule, [chosen, start], Path(out), AFTER_PRETRAINING)


def finetune(
    data: str | os.PathLike,
    out: str | os.PathLike = 'finetuned',
    checkpoint: str | os.PathLike | None = None,
    arch: str = 'auto',
    epochs: int | None = None,
) -> Path:
    """Fine-tune a classifier of images, videos, or both, which share their classes.

    A second call with the same arguments resumes. `predict` takes ``out`` as its ``model``.

    Args:
        data: a folder per class, below ``train`` and ``val`` or just so. If ``data`` holds nothing but ``images`` and
            ``videos``, each of the two may have either form. Or a table: ``labels.csv`` with paths relative to it,
            labels, and perhaps a column split (train or val). Without ``val`` one file in five is held out, by its
            name alone. Lists in ``out`` say which.
        out: folder of ``config.py``, log and checkpoints.
        checkpoint: folder of a run of `pretrain`, weights, or a name in ``ZOO``. None takes the released weights, or
            starts from scratch if there are none for ``arch`` or they cannot be downloaded.
        arch: see `pretrain`; 'auto' is that of ``checkpoint``.
        epochs: passes over the files. None derives them from the number of files.

    Returns:
        ``out``.

    Raises:
        ValueError: data without classes, an empty class folder, folders whose sub-folders look like the classes, a
            checkpoint of another ``arch``, ``epochs`` below 1, or an ``out`` that has another run.
    """
    _check_call(out, epochs)
    labelled = _labelled(data)
    rows, classes = labelled.rows, labelled.classes
    model: dict[str, Any]
    weights: str | None
    if checkpoint is not None:
        weights, model, arch = _start(checkpoint, arch)
        chosen = Choice('arch', arch, f'It is that of {checkpoint}.', 'checkpoint')
        start = Choice('weights', weights, 'checkpoint names them.', 'checkpoint')
    else:
        arch, chosen = _choose_arch(arch)
        model = dict(backbone=SIZES[arch].get('backbone', {}))
        weights = None if arch == 'tiny' else _released(f'vit{arch[0]}_pretrain')
        why = 'It has no released weights.' if arch == 'tiny' else 'The released weights cannot be downloaded.'
        start = Choice('weights', weights or 'from scratch', 'Released by OmniMAE.' if weights else why, 'checkpoint')
    largest, steps = (32, (300, 5, 50)) if arch == 'tiny' else (64, (5000, 20, 100))
    schedule = _Schedule.of(rows, dict.fromkeys(rows, 1), largest, epochs, steps)
    is_few = sum(rows.values()) < 50 * len(classes)
    mixing = Choice(
        'mixup and CutMix', 'off' if is_few else 'on', f'{sum(rows.values()) / len(classes):.0f} files a class; 50 are '
        'enough.', 'model.data_preprocessor.mixing',
    )  # fmt: skip
    rate = 1e-3 if arch == 'tiny' else (1.25e-4 if weights else 2.5e-4) * schedule.batch / 64
    model |= dict(num_classes=len(classes), init_cfg=None if weights is None else dict(checkpoint=weights))
    if is_few:
        model.setdefault('data_preprocessor', {})['mixing'] = None
    if weights is None or arch == 'tiny':
        decay, why = 1.0, 'All layers must still learn.'
    else:
        decay, why = (0.65, 'Few files change the lower layers less.') if is_few else (0.75, 'This is the recipe.')
    decays = Choice('layer decay', decay, why, 'optim_wrapper.paramwise_cfg.layer_decay')
    changes = dict(
        model=model,
        train_dataloader=dict(dataset=dict(sources=labelled.sources['train'])),
        val_dataloader=dict(dataset=dict(sources=labelled.sources['val'])),
        test_dataloader=dict(dataset=dict(sources=labelled.sources['val'])),
        optim_wrapper=dict(optimizer=dict(lr=rate), paramwise_cfg=dict(layer_decay=decay)),
        default_hooks=dict(checkpoint=dict(save_best='accuracy/top1')),
    )
    base = 'finetune' if len(rows) == 2 else f'finetune_{next(iter(rows))}'
    print(f'{len(classes)} classes, {_told(rows)} to train on. {labelled.note}')
    named = ', '.join(f'{name} {labelled.counts[name]}' for name in classes[:30])
    print(f'Files of each class: {named}{f", and {len(classes) - 30} more classes" if len(classes) > 30 else ""}.')
    if weights is None:
        print(f'{schedule.epochs * schedule.steps} steps of {schedule.batch} from scratch. {FROM_SCRATCH} {BETTER}')
    choices = [chosen, start, mixing, decays]
    return _run(base, changes, labelled.lists, rows, schedule, choices, Path(out), AFTER_FINETUNING)


# ---------------------------------------------------------------------------------------------------------------------
# Data


class _Labelled(NamedTuple):
    """Labelled files. ``sources``: 'train' or 'val' -> 'images' or 'videos' -> changes of that source."""

    classes: tuple[str, ...]
    counts: Mapping[str, int]  # files of each class, with those held out
    rows: dict[str, int]
    sources: dict[str, dict[str, dict[str, str]]]
    lists: dict[str, Sequence[str]]
    note: str


def _check_call(out: str | os.PathLike, epochs: int | None) -> None:
    """Refuse what can be refused before the data are looked at."""
    if epochs is not None and epochs < 1:
        raise ValueError(f'epochs={epochs} trains nothing. Give 1 or more, or leave it out: then it is chosen.')
    check_out(out, is_folder=True, name='out: ')


def _files_in(folder: str | os.PathLike, name: str) -> list[str]:
    """All files below a folder. An error has the path as it was given, by the ``name`` of its argument."""
    if not Path(folder).is_dir():
        what = 'is not a folder' if name in KINDS else 'is neither a folder nor a table'
        raise ValueError(f'{name}={os.fspath(folder)!r} {what}. {storage.REMEDY}')
    return storage.list_files(str(Path(folder).absolute()))


def _unlabelled(folder: str | os.PathLike, kind: str) -> dict[str, list[str]]:
    """Lists of the files to train on and, of 20 files or more, of one in twenty to follow the loss on."""
    files = _files_in(folder, kind)
    paths = [path for path in files if modality_of(path) == KINDS[kind]]
    if not paths:
        held = f'It holds {count_endings(files)}. ' if files else ''
        raise ValueError(f'{kind}={os.fspath(folder)!r} has no {KINDS[kind]}. {held}Name the folder that has them.')
    if others := [path for path in files if modality_of(path) is None]:
        print(f'{folder}: files passed over: {count_endings(others)}.')
    train, val = _split(paths, min(len(paths) // 20, 1000))
    told = f'{len(val)} of {len(paths)} {kind} are held out' if val else f'No {kind} are held out, since there are few'
    print(f'{told}. val_{kind}.txt lists the files of the validation loss.')
    return {f'train_{kind}.txt': train, f'val_{kind}.txt': val or train}


def _split(paths: Iterable[str], count: int) -> tuple[list[str], list[str]]:
    """-> the other paths, and ``count`` that are held out. Their names alone decide."""
    ordered = sorted(paths, key=lambda path: (zlib.crc32(os.fsencode(path)), path))
    return sorted(ordered[count:]), sorted(ordered[:count])


def _beside(name: str) -> str:
    """A file in the folder of the config."""
    return f'{{{{ fileDirname }}}}/{name}'


def _labelled(data: str | os.PathLike) -> _Labelled:
    if is_table := Path(data).is_file():
        _check_is_table(Path(data))
    found = _of_table(Path(data).absolute()) if is_table else _of_folders(Path(data), _files_in(data, 'data'))
    classes = tuple(sorted({name for parts in found.values() for name in parts['train'][1]}))
    if len(classes) < 2:
        remedy = 'Correct its labels' if is_table else f'Make a folder per class; known are {LAYOUTS}'
        raise ValueError(f'{data} has one class, {"".join(classes)!r}, and a classifier needs two or more. {remedy}.')
    if blank := [name for name in classes if name != name.strip()]:
        raise ValueError(f'The name of the class folder {blank[0]!r} begins or ends with a blank. Rename it.')
    for of_kind in found.values():
        _check_held_out(of_kind['train'][0], *of_kind['val'], classes, is_table=is_table)
    _say_what_is_alike(classes)
    _say_what_is_not_shared(found)
    return _as_sources(found, classes, is_listed=is_table)


def _check_is_table(path: Path) -> None:
    """Refuse files that are no text."""
    if path.suffix.lower() in ('.xlsx', '.xls', '.ods'):
        raise ValueError(f'{path} is a spreadsheet. Save it as CSV, and give that file.')
    if zipfile.is_zipfile(path) or tarfile.is_tarfile(path):
        raise ValueError(f'{path} is an archive. Unpack it, and give the folder.')
    if modality_of(path) is not None:
        raise ValueError(f'{path} is one file. Give a folder; known are {LAYOUTS}, or a table, .csv.')


def _check_held_out(
    root: Path, folder: Path, held_out: Iterable[str], classes: Sequence[str], *, is_table: bool
) -> None:
    """Refuse classes that are held out and not trained on."""
    unknown = sorted({*held_out} - {*classes})
    if not unknown:
        return
    name, plain = unknown[0], {_plain(known): known for known in classes}
    meant = plain.get(_plain(name)) or next(iter(difflib.get_close_matches(name, classes, 1)), None)
    remedy = f'Add files to {root / name}, or remove or rename {folder / name}.'
    if is_table:
        remedy = f'Add rows of {name!r} to the split train, or correct or remove those of the split val.'
    hint = f' Did you mean {meant!r}, which has training files?' if meant else ''
    place = 'The split val' if is_table else folder
    raise ValueError(f'{place} has classes without training files: {_some(unknown)}. {remedy}{hint}')


def _plain(name: str) -> str:
    """A name without what often differs by mistake: case, blanks and the like, a plural."""
    return re.sub(r'[\W_]', '', name.casefold()).removesuffix('s') or name


def _say_what_is_alike(classes: Sequence[str]) -> None:
    """Print names that may mean the same class."""
    alike = defaultdict(list)
    for name in classes:
        alike[_plain(name)].append(name)
    if pairs := [' and '.join(names) for names in alike.values() if len(names) > 1]:
        print(f'Some classes have almost the same name: {_some(pairs)}. If they are one, join their folders or labels.')


def _say_what_is_not_shared(found: Found) -> None:
    """Print the classes that images or videos alone have."""
    if len(found) < 2:
        return
    images, videos = ({*found[kind]['train'][1]} for kind in KINDS)
    alone = dict(images=sorted(images - videos), videos=sorted(videos - images))
    if told := ' '.join(f'Of {kind} alone: {_some(names)}.' for kind, names in alone.items() if names):
        print(
            f'Images and videos have different classes. {told} One classifier will have them all. For two classifiers '
            'give the images alone, then the videos alone.'
        )


def _some(names: Sequence[str], count: int = 3) -> str:
    return ', '.join(names[:count]) + (f' and {len(names) - count} more' if len(names) > count else '')


def _of_table(table: Path) -> Found:
    """Files of a table. Their folder is the one that holds all."""
    rows: dict[str, dict[str, list[tuple[str, str]]]] = {}
    for place, path, label, split in read_labels(table, (*IMAGE_EXTENSIONS, *VIDEO_EXTENSIONS)):
        file = os.path.normpath(table.parent / path)
        if not os.path.exists(file):
            raise ValueError(f'{place}: {path} does not exist. Paths are relative to the folder of the table.')
        mode = next((mode for mode, names in PARTS.items() if (split.lower() or 'train') in names), None)
        if mode is None:
            raise ValueError(f'{place}: the split {split!r} is unknown. Write train, val or test.')
        kind = next(kind for kind, modality in KINDS.items() if modality == modality_of(path))
        rows.setdefault(kind, dict(train=[], val=[], test=[]))[mode].append((file, label))
    found: Found = {}
    for kind, parts in rows.items():
        root = os.path.commonpath([os.path.dirname(file) for part in parts.values() for file, _ in part])
        if parts['test']:
            print(f'{table}: passed over {len(parts["test"])} {kind} of the split test.')
        found[kind] = {}
        for mode in ('train', 'val'):
            files = defaultdict(list)
            for file, label in parts[mode]:
                files[label].append(os.path.relpath(file, root))
            found[kind][mode] = Path(root), files
    return found


def _of_folders(data: Path, files: Sequence[str]) -> Found:
    data = data.absolute()
    media = sorted(path for path in files if modality_of(path) is not None)
    found: Found = {}
    unused = {*files}
    levels = {tuple(path.split('/')[:-1]) for path in media}
    for kind, modality in KINDS.items():
        root, below = data, ''
        if {path.partition('/')[0] for path in media} <= KINDS.keys() or any(
            len(level) >= 3 and level[0] == kind and _word(level[1]) in PARTS['train'] for level in levels
        ):
            root, below = data / kind, f'{kind}/'
        inside = [path.removeprefix(below) for path in media if path.startswith(below)]
        paths = [path for path in inside if modality_of(path) == modality]
        parts = {mode: _part(root, mode, paths) for mode in ('train', 'val')}
        if parts['train'][1]:
            found[kind] = parts
        elif paths and not any(
            len(level) >= 2 and {*map(_word, level[:2])} & {*PARTS['train']}
            for level in {tuple(path.split('/')[:-1]) for path in inside}
        ):
            _check_level(root, inside)
            found[kind] = {'train': (root, _classes_below(root, '', paths)), 'val': (root / 'val', {})}
        for folder, classes in found.get(kind, {}).values():
            prefix = '' if folder == data else f'{folder.relative_to(data)}/'
            unused -= {f'{prefix}{path}' for of_class in classes.values() for path in of_class}
    if not found:
        hint = f' Give {above}.' if (above := _above_classes(data, media)) else ''
        for level in sorted(level for level in levels if len(level) == 2 and _word(level[1]) in PARTS['train']):
            hint = f' If {level[0]} is a class, turn the levels round: {data}/{level[1]}/{level[0]}.'
            break
        raise ValueError(
            f'{data} has no image and no video in class folders; it holds {count_endings(files)}. Known are {LAYOUTS}, '
            f'or a table, .csv.{hint}{_table_hint(data)}'
        )
    _check_none_is_empty(data, found, files)
    if unused:
        print(f'{data}: files passed over: {count_endings(sorted(unused))}.')
    return found


def _word(name: str) -> str:
    """The name of a folder as a word: 'train' for Train, train_set and the like."""
    return re.sub('[ _-]?(set|data)$', '', name.lower())


def _part(root: Path, mode: str, paths: Sequence[str]) -> tuple[Path, dict[str, list[str]]]:
    """Folder and classes of a part of the data."""
    tops = {path.partition('/')[0] for path in paths if path.count('/') >= 2}
    folder = next((top for name in PARTS[mode] for top in sorted(tops) if _word(top) == name), None)
    return root / (folder or mode), {} if folder is None else _classes_below(root, folder, paths)


def _check_level(root: Path, paths: Sequence[str]) -> None:
    """Refuse folders of folders. A class may have sub-folders, so most classes must have several, and hardly a file."""
    folders: dict[str, set[str]] = defaultdict(set)  # class -> its sub-folders with files
    num_inside = 0
    for path in paths:
        name, inner = path.partition('/')[0], os.path.dirname(path)
        folders[name] |= {inner} - {name, *(f'{name}/{kind}' for kind in KINDS)}
        num_inside += inner in folders[name]
    deep = sorted(name for name, inner in folders.items() if len(inner) > 1)
    tops = sorted({path.partition('/')[0] for path in paths if '/' in path})
    wrong = [name for name in tops if _word(name) in NO_CLASSES]
    if not wrong and (2 * len(deep) <= len(folders) or num_inside < 0.9 * len(paths)):
        return
    above = _above_classes(root, paths)
    hint = f' Give the folder of the classes: {above}.' if above else ''
    if wrong:
        is_class = tops != wrong and any(os.path.dirname(path) == wrong[0] for path in paths)
        way_out = f' If it is a class, move all classes into {root}/train.' if is_class else _table_hint(root)
        raise ValueError(
            f'{root}: {wrong[0]!r} would be a class. Folders of that name are part of a layout; known are {LAYOUTS}.'
            f'{hint}{way_out}'
        )
    told = [f'{name} has {_some(sorted(x.removeprefix(f"{name}/") for x in folders[name]))}' for name in deep]
    way_out = f' If {_some(deep)} are the classes, move them into {root}/train.' if len(deep) > 1 else ''
    counts = Counter(inner for name in deep for inner in {x.split('/')[1] for x in folders[name]})
    common = sorted(inner for inner, count in counts.items() if count > max(1, len(deep) / 2))
    if common:  # either level may be that of the classes, and no folder has all files of them
        hint = f' If {_some(common)} are the classes, make a folder of each, as {root}/{common[0]}.'
    raise ValueError(
        f'{root}: the files are not in class folders, but in folders below them: {_some(told)}.{way_out}{hint}'
    )


def _above_classes(root: Path, paths: Sequence[str]) -> str:
    """Folders below ``root`` that `finetune` could take, as the folders of the files say."""
    above = set()
    for folder in {os.path.dirname(path) for path in paths}:
        parent, name = os.path.split(folder)
        while _word(os.path.basename(parent)) in NO_CLASSES:
            parent = os.path.dirname(parent)
        if parent and _word(name) not in NO_CLASSES:
            above.add(str(root / parent))
    return ' or '.join([*sorted(above)[:3], *([f'one of {len(above) - 3} more'] if len(above) > 3 else [])])


def _check_none_is_empty(data: Path, found: Found, files: Sequence[str]) -> None:
    known: dict[Path, set[str]] = defaultdict(set)
    for parts in found.values():
        for folder, classes in parts.values():
            known[folder] |= classes.keys()
    for folder, names in known.items():
        there = [path for path in folder.iterdir() if path.is_dir() and path.name[0] != '.'] if folder.is_dir() else []
        for path in sorted(there):
            if path.name not in names:
                below = f'{path.relative_to(data)}/'
                held = count_endings([file for file in files if file.startswith(below)])
                raise ValueError(
                    f'The class folder {path} has no file that can be used; it holds {held}. Put images or videos into '
                    'it, or remove it.'
                )


def _classes_below(root: Path, folder: str, paths: Iterable[str]) -> dict[str, list[str]]:
    """Class -> its files relative to ``root/folder``."""
    classes = defaultdict(list)
    for path in paths:
        rest = path.removeprefix(f'{folder}/') if folder else path
        if rest == path and folder:
            continue
        name, slash, _ = rest.partition('/')
        if not slash:
            raise ValueError(
                f'{root / path} is in no class folder. Move it into one, or elsewhere; known are {LAYOUTS}.'
                f'{_table_hint(root)}'
            )
        classes[name].append(rest)
    return classes


def _table_hint(root: Path) -> str:
    folders = (root, *([root.parent] if root.name in KINDS else []))
    tables = [table for folder in folders for ending in ('csv', 'tsv') for table in sorted(folder.glob(f'*.{ending}'))]
    return f' If {tables[0].name} has the labels, give it instead: {tables[0]}.' if tables else ''


def _as_sources(found: Found, classes: tuple[str, ...], *, is_listed: bool) -> _Labelled:
    sources: dict[str, dict[str, dict[str, str]]] = dict(train={}, val={})
    lists: dict[str, Sequence[str]] = {'classes.txt': classes}
    rows, notes, num_held_out = {}, [], 0
    for kind, parts in found.items():
        (root, files), (val_root, held_out) = parts['train'], parts['val']
        if held_out and not is_listed:
            for mode, folder in (('train', root), ('val', val_root)):
                sources[mode][kind] = dict(root=str(folder), classes=_beside('classes.txt'))
            rows[kind] = sum(map(len, files.values()))
            num_held_out += sum(map(len, held_out.values()))
            continue
        split: dict[str, list[str]] = dict(train=[], val=[])
        for name in sorted({*files, *held_out}):
            paths, given = files.get(name, []), held_out.get(name, [])
            count = max(1, round(len(paths) / 5)) if len(paths) > 1 else 0
            for mode, part in zip(split, (paths, given) if held_out else _split(paths, count), strict=True):
                split[mode] += [f'{path} {name}' for path in part]
        if not split['val']:
            raise ValueError(f'{root} has one file a class, so none can be held out. Add files, or a folder val.')
        num_held_out += len(split['val'])
        for mode, lines in split.items():
            lists[f'{mode}_{kind}.txt'] = lines
            own = dict(ann_file=_beside(f'{mode}_{kind}.txt'), classes=_beside('classes.txt'))
            sources[mode][kind] = dict(root=str(root), **own)
        rows[kind] = len(split['train'])
        if not held_out:
            notes.append(
                f'There is no val of {kind}: {len(split["val"])} files are held out by their names, listed in '
                f'val_{kind}.txt.'
            )
    error = 100 / math.sqrt(num_held_out)  # two standard errors of a share near 50 %
    notes.append(f'{num_held_out} files measure the accuracy, so it is known to {min(error, 50):.0f} points.')
    counts: Counter[str] = Counter()
    for parts in found.values():
        for _, files in parts.values():
            counts.update({name: len(paths) for name, paths in files.items()})
    return _Labelled(classes, counts, rows, sources, lists, ' '.join(notes))


def _told(rows: Mapping[str, int]) -> str:
    return ' and '.join(f'{count} {kind}' for kind, count in rows.items())


# ---------------------------------------------------------------------------------------------------------------------
# Choices


def _expected(schedule: _Schedule, files: int, weights: str | None) -> str:
    """What a pretraining can be expected to gain, by docs/evidence_details.md and docs/which_config.md."""
    steps = schedule.epochs * schedule.steps
    samples = steps * schedule.batch
    if weights is not None:
        return '' if files >= 1000 else f'For fewer than 1,000 files fine-tuning alone is enough as a rule. {BETTER}'
    known = (
        f'It will see {samples} crops in {steps} steps. On 10,000 images of CIFAR-10, pretraining from scratch gained '
        '0.2 points of accuracy after 16,000, 4 points after 48,000 and 15 after 1,300,000.'
    )
    return known if samples >= 48_000 and files >= 1000 else f'{known} So expect no gain here. {BETTER}'


def _choose_arch(arch: str) -> tuple[str, Choice]:
    if arch not in (*SIZES, 'auto'):
        raise ValueError(f'arch={arch!r} is unknown. Choose from {", ".join(SIZES)}, or auto.')
    has_card = choose_device() != 'cpu'
    why = 'It was given.' if arch != 'auto' else 'There is a GPU.' if has_card else 'There is no GPU: this is a try.'
    arch = arch if arch != 'auto' else 'base' if has_card else 'tiny'
    return arch, Choice('arch', arch, why, f'arch={"large" if arch == "base" else "base"}')


def _released(name: str) -> str | None:
    """The address of released weights. None if they cannot be downloaded, and the reason is printed."""
    try:
        Checkpoint.read(ZOO[name].url)
    except (OSError, ValueError) as error:
        print(error)
        return None
    return ZOO[name].url


def _start(checkpoint: str | os.PathLike, arch: str) -> tuple[str, dict[str, Any], str]:
    """-> path of the weights, and the parts of a model and the arch that they fit."""
    name, address = os.fspath(checkpoint), find_checkpoint(checkpoint, PRETRAINED)
    if name in ZOO or Path(name).is_dir():
        config, weights = (ZOO[name].config, address) if name in ZOO else find_run(name)
        cfg = load_config(config)
        if name not in ZOO:
            _say_if_unfinished(Path(name), cfg, weights)
        model = parts_of(cfg.model, 'backbone', 'data_preprocessor')
        known = model.get('backbone', {}).get('arch') or 'custom'
    else:
        tensors, weights = Checkpoint.read(checkpoint).tensors, name
        shape = tuple(tensors['backbone.patch_embed.weight'].shape) if 'backbone.patch_embed.weight' in tensors else ()
        for known in SIZES:
            model = dict(backbone=SIZES[known].get('backbone', {}))
            with torch.device('meta'):
                built = MODELS.build(dict(_BASE, **model['backbone']))
            if tuple(built.state_dict()['patch_embed.weight'].shape) == shape:
                break
        else:
            raise ValueError(f'{name} has the weights of none of {", ".join(SIZES)}. Give the folder of its run.')
    if arch not in ('auto', known):
        raise ValueError(f'arch={arch!r}, and {name} has arch={known!r}. Leave arch out, or give another checkpoint.')
    path = str(weights)
    return path if '://' in path else str(Path(path).absolute()), model, known


def _say_if_unfinished(run: Path, cfg: Config, weights: str | os.PathLike) -> None:
    latest = find_latest_checkpoint(str(run)) or str(weights)
    epochs = (cfg.get('train_cfg') or {}).get('max_epochs')
    meta = {} if '://' in latest else Checkpoint.read(latest).meta
    if epochs is not None and 'epoch' in meta and int(meta['epoch']) < epochs:
        print(
            f'{run} is unfinished: it has done {meta["epoch"]} of {epochs} epochs ({meta["iter"]} steps). Fine-tuning '
            f'starts from its {Path(weights).name}. To finish it first: omnimae train {cfg.filename} --resume'
        )


_BASE = dict(type='SpatioTemporalViT', arch='base', patch_size=(2, 16, 16), clip_size=(16, 224, 224))


class _Schedule(NamedTuple):
    """How long, and how much at once."""

    epochs: int
    steps: int  # of an epoch
    batch: int  # the global batch size
    choices: tuple[Choice, Choice]

    @property
    def interval(self) -> int:
        """Epochs between validations, ten in all."""
        return max(1, self.epochs // 10)

    @classmethod
    def of(
        cls, rows: Mapping[str, int], replicas: Mapping[str, int], largest: int, epochs: int | None,
        range_: tuple[int, int, int],
    ) -> _Schedule:  # fmt: skip
        """Choose. ``range_`` has the steps to aim at, and the fewest and most epochs."""
        samples = sum(count * replicas[name] for name, count in rows.items())
        batch = min(largest, max(16, 2 ** int(math.log2(max(samples / 8, 1)))))
        size = Choice(
            'global batch size', batch, f'{samples} samples an epoch should make eight steps or more, of at most '
            f'{largest}.', 'train_dataloader.batch_sampler.global_batch_size, and the learning rate with it',
        )  # fmt: skip
        steps = sum(math.ceil(count * replicas[name] / batch) for name, count in rows.items())
        aim, low, high = range_
        chosen = epochs or min(max(round(aim / steps), low), high)
        why = 'It was given.' if epochs else f'About {aim} steps of {steps} an epoch, from {low} to {high} epochs.'
        return cls(chosen, steps, batch, (Choice('epochs', chosen, why, 'epochs=N'), size))


def _machine(changes: Mapping[str, Any], base: str, rows: Mapping[str, int], batch: int) -> list[Choice]:
    """Batch size, workers and precision of this machine."""
    device, cores = choose_device(), num_cores()
    if device == 'cpu':
        size = Choice('batch size', min(batch, 32), 'A CPU gains nothing from more.', 'train_dataloader.batch_size')
        workers = max(1, cores // 2)
    else:
        memory = torch.cuda.mem_get_info()[0]
        with tempfile.TemporaryDirectory() as folder:
            draft = Path(folder, 'config.py')
            draft.write_text(_text(base, changes, ()), encoding='utf-8')
            fitting = fitting_size(draft, rows, batch, memory)
        size = Choice(
            'batch size', fitting, f'It fits {memory / GIB:.0f} GiB and divides {batch}.', 'train_dataloader.batch_size'
        )
        workers = min(8, cores)
    types = [name for name in ('bfloat16', 'float16') if device == 'cuda' and computes(getattr(torch, name), device)]
    dtype = types[0] if types else None
    return [
        size,
        Choice('workers', workers, f'This process may use {cores} CPU cores.', 'train_dataloader.num_workers'),
        Choice('precision', dtype or 'float32', f'This is what a {device} is fast at.', 'optim_wrapper.dtype'),
    ]


def fitting_size(config: Path, rows: Mapping[str, int], global_batch_size: int, memory: float) -> int:
    """The largest batch size of a device with ``memory`` bytes that divides the global one, see `omnimae.planning`."""
    cfg = load_config(config)
    with torch.device('meta'):
        model = MODELS.build(cfg.model)
    sizes = []
    for source in sources_of(cfg, rows):
        count = count_step(model, inputs_of(cfg, source), reduced=True)
        largest = memory_of(model, count, source, ema=False, num_shards=1).largest_batch(memory)
        sizes.append(fitting_batch(largest, global_batch_size, 1, source.replicas))
    if not min(sizes):
        raise ValueError(f'{memory / GIB:.1f} GiB hold no sample of this model. Give a smaller arch.')
    return min(sizes)


# ---------------------------------------------------------------------------------------------------------------------
# Run


def _run(
    base: str, changes: dict[str, Any], lists: Mapping[str, Sequence[str]], rows: Mapping[str, int],
    schedule: _Schedule, choices: Sequence[Choice], out: Path, hints: Sequence[str],
) -> Path:  # fmt: skip
    """Write config and lists, and train. Continue a run that has the same ones."""
    setup_environment()
    size, workers, dtype = machine = _machine(changes, base, rows, schedule.batch)
    choices = [*choices, *schedule.choices, *machine]
    loader = dict(num_workers=workers.value, pin_memory=choose_device() == 'cuda')
    for name in [name for name in changes if name.endswith('_dataloader')]:
        changes[name] = {**loader, **changes[name]}
    changes['train_dataloader'] |= dict(batch_size=size.value, batch_sampler=dict(global_batch_size=schedule.batch))
    changes['optim_wrapper']['dtype'] = None if dtype.value == 'float32' else dtype.value
    changes['param_scheduler'] = dict(warmup_epochs=schedule.epochs // 20)
    changes['train_cfg'] = dict(max_epochs=schedule.epochs, val_interval=schedule.interval)
    hooks = changes.setdefault('default_hooks', {})
    hooks['checkpoint'] = dict(interval=schedule.interval, **hooks.get('checkpoint', {}))
    hooks['logger'] = dict(interval=min(max(schedule.epochs * schedule.steps // 50, 1), 50))
    for choice in choices:
        print(choice)
    texts = {name: ''.join(f'{line}\n' for line in lines) for name, lines in lists.items()}
    texts['config.py'] = _text(base, changes, choices)
    folder = out.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    lock(folder, 'out')
    try:
        goes_on = find_latest_checkpoint(str(folder)) is not None
        for name, text in texts.items():
            file = folder / name
            if goes_on and (not file.exists() or file.read_text('utf-8', 'surrogateescape') != text):
                raise ValueError(
                    f'{out} has a run, and its {name} differs from that of this call. Give another out. To go on with '
                    f'that run: omnimae train {out}/config.py --resume.'
                )
            with replacing(file) as unfinished:
                unfinished.write_text(text, 'utf-8', 'surrogateescape')
        print(f'The config is {out / "config.py"}. To go on from it: omnimae train {out / "config.py"} --resume')
        cfg = load_config(folder / 'config.py')
        cfg.launcher = 'none'
        with named_command(f'omnimae train {shlex.quote(str(out / "config.py"))}'):
            train(cfg, go_on=goes_on)
    finally:
        unlock(folder)
    print('Next:', *(hint.format(run=shlex.quote(str(out))) for hint in hints), sep='\n  ')
    return out


def _text(base: str, changes: Mapping[str, Any], choices: Iterable[Choice]) -> str:
    """A config that inherits ``custom/BASE`` and sets what differs."""
    lines = [f'# {choice}' for choice in choices]
    lines += [f"_base_ = 'omnimae::custom/{base}.py'", '', "work_dir = '{{ fileDirname }}'  # where this file is"]
    lines += [f'{key} = {_code(value, len(key) + 3, "")}' for key, value in changes.items()]
    return '\n'.join(lines) + '\n'


def _code(value: Any, used: int, indent: str) -> str:
    """A value as Python, on one line if it fits."""
    if not isinstance(value, dict):
        return repr(value) if not isinstance(value, list) else f'[{", ".join(_code(x, 0, indent) for x in value)}]'
    inner = f'{indent}    '
    items = [f'{key}={_code(item, len(key) + 2 + len(inner), inner)}' for key, item in value.items()]
    line = f'dict({", ".join(items)})'
    if '\n' not in line and used + len(line) <= 110:
        return line
    return 'dict(\n' + ''.join(f'{inner}{item},\n' for item in items) + f'{indent})'
