"""Sources of samples: folders or lists of image and video files, and their mixture.

The key of a training sample is an `Address`. All its randomness follows from it, so every worker of every run makes the
same sample. The key of an evaluation sample is an int: no randomness, all test views.
"""

from __future__ import annotations

import glob
import inspect
import itertools
import logging
import mmap
import operator
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
from mmengine.logging import print_log
from torch import Tensor
from torch.utils.data import Dataset

from omnimae.data import storage
from omnimae.data.annotations import BLANK, Rows, encoding_hint, read_classes, read_lines
from omnimae.data.lookahead import following_keys
from omnimae.data.media.errors import BrokenFileError
from omnimae.data.media.extensions import IMAGE_EXTENSIONS, VIDEO_EXTENSIONS
from omnimae.data.media.frames import ClipSampling
from omnimae.data.readers import File, FileReader, ImageFiles, VideoFiles
from omnimae.data.storage.ahead import READS_IN_FLIGHT, ReadAhead
from omnimae.data.tables import StringTable, digest
from omnimae.data.transforms import resize
from omnimae.data.transport import keep_freed_memory, new_storage, sendable
from omnimae.registry import DATASETS, FUNCTIONS, TRANSFORMS
from omnimae.structures import VARIABLES, Address, Batch, Sample, with_clips

MAX_ATTEMPTS = 20  # broken files in a row before training stops
NUM_PROBED = 16  # files of a list that are looked for; one must exist


class ReadingNotes:
    """The file that each process reads. The process that forked it sees it even after a crash.

    The slot follows from the process id. If two processes share one, which is rare, the last one counts.
    """

    SLOTS, SIZE = 1024, 4096

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, self.SLOTS * self.SIZE)  # only pages that are written to take memory

    def write(self, path: str) -> None:
        """Note that this process starts to read ``path``."""
        text = os.fsencode(f'{os.getpid()} {path}\0')[: self.SIZE]
        begin = os.getpid() % self.SLOTS * self.SIZE
        self._memory[begin : begin + len(text)] = text

    def read(self, process: int) -> str | None:
        """The path that the process with this id noted last, or None."""
        begin = process % self.SLOTS * self.SIZE
        pid, _, path = os.fsdecode(self._memory[begin : begin + self.SIZE].split(b'\0')[0]).partition(' ')
        return path if pid == str(process) else None


READING = ReadingNotes()


class FileDataset(Dataset):
    """Samples from files of one modality.

    A subclass has ``modality`` and ``default_extensions``. It passes a reader on, or defines `read`.

    Args:
        reader: lists and reads the files. A class that defines `read` needs none.
        root: folder of the files.
        ann_file: list of ``path label`` or ``path`` lines with paths relative to ``root``, or of spans in videos, see
            `read_list`. Without it all files below ``root`` are taken and its sub-folders are the classes, see
            `scan_folder`. From Python also `Rows`.
        transforms: configs of the transforms, in order.
        replicas: crops of each training sample. The file is read once for all.
        classes: class names in the order of their indices, or a text file with one name a line. The default are the
            names of the sub-folders, sorted as text ('10' before '2', as torchvision does).
        num_classes: of the model; labels are checked against it.
        extensions: of the files, lower case. The default are the usual ones of the modality.
        select: keeps only the lines of ``ann_file`` that contain it, such as one folder.
        skip: a file with a path before the first tab of each line, such as ``broken_files.txt`` of a run. Training
            replaces these files, evaluation leaves them out.
        allow_outside: whether lines of ``ann_file`` may name files outside ``root``.
        backend_args: of ``mmengine.fileio``, for remote files. ``ann_file`` and ``classes`` may be local.
    """

    modality: str
    default_extensions: tuple[str, ...]

    def __init__(
        self,
        reader: FileReader | None = None,
        /,
        *,
        root: str,
        ann_file: str | Rows | None = None,
        transforms: Sequence[dict] = (),
        replicas: int = 1,
        classes: Sequence[str] | str | None = None,
        num_classes: int | None = None,
        extensions: Sequence[str] | None = None,
        select: str | None = None,
        skip: str | None = None,
        allow_outside: bool = False,
        backend_args: dict | None = None,
    ):
        if replicas < 1:
            raise ValueError(f'replicas={replicas} makes no crop. Give 1 or more.')
        self.reader = FileReader() if reader is None else reader
        root, ann_file, classes, skip = map(_without_home, (root, ann_file, classes, skip))
        if not isinstance(root, str):
            raise storage.NoFilesError(f'root={root!r} is no path. Give the path of a folder.')
        if not isinstance(ann_file, str | Rows | None):
            raise ValueError(f'ann_file={ann_file!r} is no path. Give the path of a file.')
        self.root = root
        self._roots = storage.ROOTS  # for spawned workers
        self.replicas = replicas
        self.backend_args = storage.backend_args_of(root, backend_args)
        self.transforms = [_build_transform(transform) for transform in transforms]
        if isinstance(classes, str):
            classes = read_classes(classes, backend_args=storage.args_of_list(classes, root, backend_args))
        if ann_file is None and select is not None:
            raise ValueError(
                f'select={select!r} picks lines of ann_file, which is missing. Give ann_file, or no select.'
            )
        if isinstance(ann_file, Rows):
            rows, ann_file = ann_file, None
        else:
            rows = self.reader.list_rows(
                root,
                ann_file,
                self.default_extensions if extensions is None else extensions,
                self.backend_args,
                list_args=None if ann_file is None else storage.args_of_list(ann_file, root, backend_args),
                classes=classes,
                select=select,
                allow_outside=allow_outside,
            )
        self.skip = skip
        self.skipped = set() if skip is None else _read_paths(skip)
        self.classes = rows.classes
        self.paths = StringTable.of(rows.paths)
        self.ids = self.paths if rows.ids is None else StringTable.of(rows.ids)
        self.labels = None if rows.labels is None else np.asarray(rows.labels, dtype=np.int64)
        self.spans = None if rows.spans is None else np.asarray(rows.spans, dtype=np.float64)
        self.partners = {folder: StringTable.of(paths) for folder, paths in rows.partners.items()}
        if self.spans is not None and not self.reader.reads_spans:
            raise ValueError(
                f'ann_file={ann_file!r} has spans ("path start stop label") and {type(self).__name__} reads whole '
                'files. Leave start and stop out, or use VideoDataset.'
            )
        if self.classes is not None and num_classes is None:
            num_classes = len(self.classes)
        self._check_labels(num_classes, ann_file or root)
        if ann_file is not None:
            self._check_not_all_missing(ann_file)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, key: int | Address) -> Sample:
        """A training sample for an `Address`, an evaluation sample for an int.

        Raises:
            BrokenFileError: the file cannot be read, in evaluation. Training takes another row, drawn from the address.
        """
        return self._train_sample(key) if isinstance(key, Address) else self._evaluation_sample(as_row(key))

    def skipped_rows(self) -> list[int]:
        """The rows with a file that ``skip`` lists. Evaluation leaves them out."""
        rows = range(len(self)) if self.skipped else ()
        return [row for row in rows if self._file_to_skip(row) is not None]

    def fingerprint(self) -> dict[str, Any]:
        """The number of rows and digests of their content. They do not depend on ``root``."""
        ids = None if self.ids is self.paths else self.ids.digest()
        partners = {f'files of {folder}': paths.digest() for folder, paths in self.partners.items()}
        return dict(rows=len(self), paths=self.paths.digest(), ids=ids, **partners) | {
            name: None if value is None else digest(np.asarray(value).tobytes())
            for name, value in (('labels', self.labels), ('spans', self.spans), ('classes', self.classes))
        }

    def read(self, path: str, rng: np.random.Generator | None) -> Sequence[Any]:
        """Clips of a file, see `FileReader.read`.

        Raises:
            BrokenFileError: the file cannot be read.
        """
        return self.reader.read(path if isinstance(path, File) else self._file_at(path), rng)

    def files_of_sample(self, key: int | Address) -> Sequence[str]:
        """Paths of the files that the sample of this key reads, in order, to read them ahead.

        Reading ahead stops if they are not read by `storage`.
        """
        row = key.index if isinstance(key, Address) else key

        def generator() -> np.random.Generator | None:
            return next(self._generators(key)) if isinstance(key, Address) else None

        return () if self._file_to_skip(row) else self.reader.files_to_read(self._file(row), generator)

    def _path(self, row: int) -> str:
        path = os.path.join(self.root, self.paths[row])
        # '..' is relative to a linked folder's link, where prepare_dataset.py puts files, and not to its target.
        return os.path.normpath(path) if self.paths[row].startswith('../') else path

    def _file(self, row: int) -> File:
        file = self._file_at(self._path(row))
        file.span = None if self.spans is None else self.spans[row]
        file.partners = {folder: paths[row] for folder, paths in self.partners.items()}
        return file

    def _file_at(self, path: str) -> File:
        file = File(path)
        file.backend_args = self.backend_args
        return file

    def _file_to_skip(self, row: int) -> str | None:
        files = self.reader.files_of(self._file(row)) if self.skipped else ()
        return next((path for path in files if os.path.abspath(path) in self.skipped), None)

    def _read(self, row: int, rng: np.random.Generator | None) -> Sequence[Any]:
        file = self._file(row)
        READING.write(file)
        return self.read(file, rng)

    def _generators(self, address: Address, attempt: int = 0) -> Iterator[np.random.Generator]:
        """Generators of a sample: one for its file and clip, then one for each replica."""
        seeds = np.random.SeedSequence((address.seed, address.source, address.index, attempt))
        return map(np.random.default_rng, seeds.spawn(1 + self.replicas))

    def _train_sample(self, address: Address) -> Sample:
        failures: list[tuple[str, str]] = []
        for attempt in range(MAX_ATTEMPTS):
            rng, *replica_rngs = self._generators(address, attempt)
            row = address.index if attempt == 0 else int(rng.integers(len(self)))
            try:
                if path := self._file_to_skip(row):
                    raise BrokenFileError(path, f'is to be skipped, says {self.skip}')
                clips = self._read(row, rng)
            except BrokenFileError as error:
                failures.append((error.path, error.reason))
                continue
            crops = [self._transform(*pair) for pair in zip(itertools.cycle(clips), replica_rngs, strict=False)]
            return self._sample(row, crops, failures)
        listing = '\n'.join(f'{path}: {reason}' for path, reason in failures)
        raise ValueError(f'{MAX_ATTEMPTS} files in a row below {self.root!r} cannot be read. Check them:\n{listing}')

    def _evaluation_sample(self, row: int) -> Sample:
        crops = [self._transform(clip, None) for clip in self._read(row, None)]
        if not isinstance(crops[0], Mapping):
            crops = [view for crop in crops for view in crop.reshape(-1, *crop.shape[-4:])]  # ([3,] T, H, W, 3)
        sample = self._sample(row, crops, [])
        sample['clips'] = {name: views[None] for name, views in sample['clips'].items()}
        return sample

    def _transform(self, clip: Any, rng: np.random.Generator | None) -> Any:
        for transform in self.transforms:
            if isinstance(clip, Mapping):  # the same change of all modalities
                seed = None if rng is None else int(rng.integers(2**63))
                clip = {
                    name: transform(x, None if seed is None else np.random.default_rng(seed))
                    for name, x in clip.items()
                }
            else:
                clip = transform(clip, rng)
        return clip

    def _sample(self, row: int, crops: list[Any], failures: list[tuple[str, str]]) -> Sample:
        named = [crop if isinstance(crop, Mapping) else {'rgb': crop} for crop in crops]
        strides = self.reader.strides
        clips = {name: _tensor([_shrunk(crop[name], strides.get(name, 1)) for crop in named]) for name in named[0]}
        sample = Sample(clips=clips, modality=self.modality, id=self.ids[row], failures=failures)
        if self.reader.target is not None:
            sample['target'] = clips.pop(self.reader.target)
        if self.labels is not None:
            sample['label'] = int(self.labels[row])
        return sample

    def _check_labels(self, num_classes: int | None, origin: str) -> None:
        if self.labels is None:
            return
        wrong = self.labels < 0
        if num_classes is not None:
            wrong |= self.labels >= num_classes
        if wrong.any():
            row = int(wrong.argmax())
            raise ValueError(
                f'{origin}: the label {self.labels[row]} of {self.paths[row]!r} is out of range, the first of '
                f'{wrong.sum()}. Labels count from 0{"" if num_classes is None else f" to {num_classes - 1}"}. Correct '
                'them, or num_classes.'
            )

    def _check_not_all_missing(self, ann_file: str) -> None:
        storage.remember_root(self.root)
        rows = np.unique(np.linspace(0, len(self) - 1, NUM_PROBED, dtype=int))
        paths = [self._path(row) for row in rows]
        missing = [path for path in paths if storage.exists(path, self.backend_args) is False]
        if len(missing) == len(paths):
            is_below = self.root and missing[0].startswith(os.path.join(self.root, ''))
            if is_below and storage.is_local(self.root, self.backend_args) and not os.path.isdir(self.root):
                raise storage.NoFilesError(f'root={self.root!r} is not a folder. {storage.REMEDY}')
            raise ValueError(
                f'None of the {len(paths)} files looked for exist, the first is {missing[0]!r}. The paths in '
                f'ann_file={ann_file!r} are relative to root={self.root!r}; correct one of the two.'
                + encoding_hint(missing[0])
            )
        if missing:
            told = f'{ann_file}: {len(missing)} of {len(paths)} files looked for are missing, first {missing[0]!r}.'
            told += encoding_hint(missing[0])
            print_log(told, 'current', logging.WARNING)


def as_row(key: Any) -> int:
    """A key of a dataset as the number of a row.

    Raises:
        TypeError: a slice, a list or a name.
    """
    try:
        return operator.index(key)
    except TypeError:
        raise TypeError(
            f'dataset[{key!r}]: a dataset has one sample a row. Give a number. For several rows take '
            'torch.utils.data.Subset(dataset, range(3)).'
        ) from None


def _without_home(path: Any) -> Any:
    """Text of a path, without '~'; other values stay."""
    return os.path.expanduser(os.fspath(path)) if isinstance(path, str | os.PathLike) else path


def _shrunk(clip: np.ndarray, stride: int) -> np.ndarray:
    return clip if stride == 1 else resize(clip, clip.shape[1] // stride, clip.shape[2] // stride, 'bilinear')


def _tensor(crops: Sequence[np.ndarray]) -> Tensor:
    """(..., T, H, W, C) each -> (R, ..., C, T, H, W)."""
    return torch.from_numpy(crops[0][None] if len(crops) == 1 else np.stack(crops)).movedim(-1, -4)


def _build_transform(cfg: dict) -> Callable[[np.ndarray, np.random.Generator | None], np.ndarray]:
    transform = TRANSFORMS.build(cfg)
    try:
        inspect.signature(transform).bind(None, None)
    except TypeError as error:
        raise ValueError(
            f'transforms: {cfg["type"]} does not take a clip (T, H, W, 3) and a generator. Wrap it in a class that '
            'does.'
        ) from error
    return transform


def _read_paths(file: str) -> set[str]:
    if not os.path.isfile(file):
        raise ValueError(f'skip={file!r} is no file. Give one with a path a line, such as broken_files.txt of a run.')
    return {os.path.abspath(line.split('\t')[0].strip(BLANK)) for line in read_lines(file) if line.strip(BLANK)}


@DATASETS.register_module()
class ImageDataset(FileDataset):
    """Images as clips of one frame; see `FileDataset` for the arguments."""

    modality = 'image'
    default_extensions = IMAGE_EXTENSIONS

    def __init__(self, **kwargs: Any):
        super().__init__(ImageFiles(), **kwargs)


@DATASETS.register_module()
class VideoDataset(FileDataset):
    """Clips of videos; see `FileDataset` for the other arguments.

    Args:
        make_reader: makes the reader from the sampling and the number of training clips. The default is `VideoFiles`.
        clip_seconds: length of a clip; 2.7 for SSv2 and EK100, 2.0 for K400 in the paper's recipe.
        num_frames: frames of a clip.
        num_clips: test clips of a video, evenly spread over it. Training takes one at a random time.
        new_clips: every replica is a clip at another random time, as in MAE-ST, not a crop of the same one.
        to_end: the last test clip ends with the video, and a single one is in its middle. Otherwise the first begins
            with the video, and the last does not reach the end.
        sampling: 'dense', or a rule that counts frames: 'sparse', 'strided', 'spread' or 'resampled', see
            `ClipSampling`. These ignore ``clip_seconds`` and ``to_end``.
        stride: of 'strided', 'spread' and 'resampled', in frames.
        reader: 'pyav', 'decord', or another key of `omnimae.data.media.READERS`. For spans in long videos 'pyav', which
            does not decode them from the start.
        replicas: see `FileDataset`.
    """

    modality = 'video'
    default_extensions = VIDEO_EXTENSIONS

    def __init__(
        self,
        make_reader: Callable[[ClipSampling, int], FileReader] | None = None,
        /,
        *,
        clip_seconds: float = 2.7,
        num_frames: int = 16,
        num_clips: int = 1,
        new_clips: bool = False,
        to_end: bool = False,
        sampling: str = 'dense',
        stride: int | None = None,
        reader: str = 'pyav',
        replicas: int = 1,
        **kwargs: Any,
    ):
        clips = ClipSampling(sampling, clip_seconds, num_frames, num_clips, to_end, stride)
        clips.check()
        make_reader = make_reader or partial(VideoFiles, decoder=reader)
        super().__init__(make_reader(clips, replicas if new_clips else 1), replicas=replicas, **kwargs)


class Source(Protocol):
    """What a mixture needs of a dataset, which need not be a `FileDataset`."""

    modality: str
    replicas: int

    def __len__(self) -> int: ...

    def __getitem__(self, key: int | Address) -> Sample: ...


@DATASETS.register_module()
class MixedDataset(Dataset):
    """Several sources. A batch takes samples of one (`MixedBatchSampler`, `EvalBatchSampler`).

    Args:
        sources: name -> config of a dataset.
        num_classes: of the model. If given, every source needs labels, and all need the same class names.
        reads_in_flight: files that each process of a loader reads at once while it decodes another, see `ReadAhead`. 0
            reads a file when it is decoded. The samples are the same.
    """

    def __init__(
        self,
        *,
        sources: Mapping[str, dict],
        num_classes: int | None = None,
        reads_in_flight: int = READS_IN_FLIGHT,
    ):
        if not isinstance(reads_in_flight, int) or reads_in_flight < 0:
            raise ValueError(
                f'reads_in_flight={reads_in_flight!r} is no whole number from 0 on. Give 0 to read nothing ahead.'
            )
        self._reads = ReadAhead(reads_in_flight) if reads_in_flight else None
        self._reads_by_itself: set[int] = set()  # numbers of sources that do not use what is read ahead
        if not sources:
            raise ValueError('sources is empty. Name at least one: sources=dict(NAME=dict(type=...)).')
        self.names = tuple(sources)
        self.sources: list[Source] = [_build_source(name, cfg, sources) for name, cfg in sources.items()]
        self.starts = np.cumsum([0, *(len(source) for source in self.sources)])
        if num_classes is not None:
            _check_classes(dict(zip(self.names, self.sources, strict=True)), num_classes)

    def __len__(self) -> int:
        return int(self.starts[-1])

    def __getitem__(self, key: int | Address) -> Sample:
        """The sample of an `Address`, or of a row counted through all sources. It names its source.

        A row with a broken file has no clips, and the reason in ``failures``. The evaluation decides about it.
        """
        number, own_key = self._locate(key)
        source = self.sources[number]
        try:
            sample = source[own_key]
        except BrokenFileError as error:
            if isinstance(key, Address):
                raise
            sample = Sample(modality=source.modality, failures=[(error.path, error.reason)])
        # other forms are for other collate functions
        return {**with_clips(sample), 'source': self.names[number]} if isinstance(sample, dict) else sample

    def __getitems__(self, keys: Sequence[int | Address]) -> list[Sample]:
        """The samples of a batch, as torch's loaders ask. Meanwhile the files of the following ones are read ahead."""
        keep_freed_memory()
        if self._reads is None:
            return [self[key] for key in keys]
        self._reads.plan([*keys, *following_keys(keys)], self._files_of)
        samples = []
        for key in keys:
            sample, is_of_use = self._reads.sample(key, self.__getitem__)
            samples.append(sample)
            if not is_of_use:
                self._reads_by_itself.add(self._locate(key)[0])
        return samples

    def _files_of(self, key: int | Address) -> list[tuple[str, Any]]:
        """Path and backend_args of each file of a sample that can be read ahead."""
        number, own_key = self._locate(key)
        source: Any = self.sources[number]
        if number in self._reads_by_itself or not hasattr(source, 'files_of_sample'):
            return []
        return [(path, source.backend_args) for path in source.files_of_sample(own_key)]

    def _locate(self, key: int | Address) -> tuple[int, int | Address]:
        """The number of a source, and the key of its sample there."""
        if isinstance(key, Address):
            return key.source, key
        row = range(len(self))[as_row(key)]
        number = int(np.searchsorted(self.starts, row, side='right')) - 1
        return number, int(row - self.starts[number])

    def skipped_rows(self) -> list[int]:
        """The rows, counted through all sources, that evaluation leaves out, see `FileDataset`."""
        skipped: Iterator[list[int]] = (getattr(source, 'skipped_rows', list)() for source in self.sources)
        return [int(start) + row for start, rows in zip(self.starts, skipped, strict=False) for row in rows]

    def fingerprint(self) -> dict[str, dict[str, Any]]:
        """Source -> `FileDataset.fingerprint`, or only the number of rows for other datasets."""
        return {
            name: source.fingerprint() if hasattr(source, 'fingerprint') else {'rows': len(source)}
            for name, source in zip(self.names, self.sources, strict=True)
        }

    def being_read(self, process: int) -> str | None:
        """The file that a loader's worker, living or dead, started to read last; None if unknown."""
        return READING.read(process)

    @property
    def metainfo(self) -> dict:
        """Class names of each source, for MMEngine's metrics and visualisers."""
        return {name: getattr(source, 'classes', None) for name, source in zip(self.names, self.sources, strict=True)}


def _build_source(name: str, cfg: dict, sources: Mapping[str, dict]) -> Source:
    try:
        source = DATASETS.build(cfg)
    except ValueError as error:
        remedy = _variable_of(cfg, str(error))
        remedy += _remedy_without(cfg, sources) if isinstance(error, storage.NoFilesError) else ''
        raise ValueError(f'Source {name!r}: {error}{remedy}') from error
    classes = getattr(source, 'classes', None)
    print_log(
        f'Source {name!r}: {len(source)} {source.modality}s' + (f' of {len(classes)} classes' if classes else ''),
        'current',
    )
    return source


def _variable_of(cfg: dict, error: str) -> str:
    """The environment variable that gives a path which the error names, and what belongs there."""
    for value in (str(value) for value in cfg.values() if isinstance(value, str | os.PathLike)):
        for path, name in sorted(VARIABLES.items(), reverse=True):  # the longest first
            if f"'{value}" in error and (value == path or value.startswith(f'{path}/')):
                below = value.removeprefix(path).lstrip('/')
                if cfg['type'] in ('ImageDataset', 'VideoDataset') and cfg.get('ann_file') is None:
                    below += '/CLASS' * bool(below)
                if os.environ.get(name):
                    near = [os.path.dirname(path) or '.', *sorted(glob.glob(f'{glob.escape(path)}/*'))]
                    meant = [x for x in near if below and os.path.isdir(os.path.join(x, below.removesuffix('/CLASS')))]
                    remedy = f' Set {name}={meant[0]}.' if meant else f' The data belong in {path}/{below}.'
                    return f' It follows from {name}={path}.' + (remedy if below else '')
                if not below:
                    return f' {name} is not set. Set it to the folder of your files.'
                return f' {name} is not set. If your data are in /my/data/{below}, set {name}=/my/data.'
    return ''


def _remedy_without(cfg: dict, sources: Mapping[str, dict]) -> str:
    """Configs that train on the other modality alone, for a source without files."""
    modality, *others = dict.fromkeys(
        getattr(DATASETS.get(x['type']), 'modality', '') for x in (cfg, *sources.values())
    )
    if not modality or others not in (['image'], ['video']):
        return ''
    names = ' or '.join(f'custom/{task}_{others[0]}s' for task in ('pretrain', 'finetune'))
    return f' If you have no {modality}s, take a config of {others[0]}s alone, such as {names}.'


def _check_classes(sources: Mapping[str, Source], num_classes: int) -> None:
    """Raise a ValueError unless all sources have labels of the same ``num_classes`` classes."""
    known: dict[str, tuple[str, ...]] = {}
    for name, source in sources.items():
        classes, labels = (getattr(source, attribute, None) for attribute in ('classes', 'labels'))
        if labels is None:
            raise ValueError(
                f'Source {name!r} has no labels, and num_classes={num_classes} asks for them. Sort its files into a '
                'folder per class, or give an ann_file of "path label" lines.'
            )
        largest = int(labels.max())
        if classes is None and largest >= num_classes:
            raise ValueError(
                f'num_classes={num_classes}, but source {name!r} has the label {largest}, counted from 0. Set '
                f'num_classes={largest + 1}, there and in the model, or correct the labels.'
            )
        if classes is not None:
            known[name] = tuple(classes)
    for (name, classes), (other, others) in itertools.pairwise(known.items()):
        if classes != others:
            only = {name: sorted({*classes} - {*others}), other: sorted({*others} - {*classes})}
            found = '; '.join(f'only {key!r} has {_some(names)}' for key, names in only.items() if names)
            raise ValueError(
                f'Sources {name!r} and {other!r} have different classes: {found or "the same names in another order"}. '
                'Give both the same classes, a list or a file with one name a line.'
            )
    for name, classes in known.items():
        if len(classes) != num_classes:
            raise ValueError(
                f'num_classes={num_classes}, but source {name!r} has {len(classes)} classes: {_some(classes)}. Set '
                f'num_classes={len(classes)}, there and in the model; or, if its folders are not all, give it classes, '
                'a list or a file with one name a line.'
            )


def _some(names: Sequence[str]) -> str:
    return ', '.join(map(repr, names[:3])) + (', ...' if len(names) > 3 else '')


@FUNCTIONS.register_module()
def collate_clips(samples: Sequence[Sample]) -> Batch:
    """Samples of one modality -> a batch with all their replicas: clips (R, ...) each -> (B, ...).

    Clips are channels-last in memory, as they are decoded and cut into patches. Samples that could not be read only add
    their ``failures``. A batch of only such samples has no clips.
    """
    modalities = sorted({sample['modality'] for sample in samples})
    if len(modalities) > 1:
        raise ValueError(f'A batch of {modalities} cannot be made. Use MixedBatchSampler or EvalBatchSampler.')
    everything = [with_clips(sample) for sample in samples]
    samples = [sample for sample in everything if 'clips' in sample]
    repeats = [len(next(iter(sample['clips'].values()))) for sample in samples]
    batch = Batch(
        modality=modalities[0],
        ids=[sample['id'] for sample, n in zip(samples, repeats, strict=True) for _ in range(n)],
        failures=[failure for sample in everything for failure in sample.get('failures', ())],
    )
    if 'source' in everything[0]:
        batch['source'] = everything[0]['source']
    if not samples:
        return batch
    names = samples[0]['clips']
    batch['clips'] = {name: _joined([sample['clips'][name] for sample in samples], samples) for name in names}
    if 'label' in samples[0]:
        labels = torch.tensor([sample['label'] for sample in samples])
        batch['labels'] = sendable(labels.repeat_interleave(torch.tensor(repeats)))
    if 'target' in samples[0]:
        batch['target'] = _joined([sample['target'] for sample in samples], samples)
    return batch


def _joined(clips: Sequence[Tensor], samples: Sequence[Sample]) -> Tensor:
    """(R, ..., C, T, H, W) of each sample -> (B, ..., C, T, H, W), channels-last in memory."""
    sizes = {tuple(clip.shape[1:]): sample['id'] for clip, sample in zip(clips, samples, strict=True)}
    if len(sizes) > 1:
        raise ValueError(f'Clips of different sizes cannot be stacked: {sizes}. End the transforms with a crop.')
    clips = [clip.movedim(-4, -1) for clip in clips]
    out = torch.empty(0, dtype=clips[0].dtype)
    out.set_(new_storage(sum(clip.nbytes for clip in clips)))
    return torch.cat(clips, out=out.view(-1, *clips[0].shape[1:])).movedim(-1, -4)
