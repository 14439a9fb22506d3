"""Inputs of a model from files, folders and arrays: which there are, and a clip of each as in evaluation."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from omnimae.data.annotations import scan_files
from omnimae.data.lookahead import NUM_KEYS, num_workers
from omnimae.data.media.errors import BrokenFileError
from omnimae.data.media.extensions import IMAGE_EXTENSIONS, VIDEO_EXTENSIONS, heif_hint, modality_of
from omnimae.data.media.frames import ClipSampling, pick_frames, segments
from omnimae.data.readers import File, ImageFiles, VideoFiles
from omnimae.data.storage.ahead import READS_IN_FLIGHT, ReadAhead
from omnimae.data.transport import sendable
from omnimae.registry import TRANSFORMS

Input: TypeAlias = str | os.PathLike | np.ndarray


def sampling_of(source: Mapping[str, Any]) -> ClipSampling:
    """Look up how a source of videos takes clips."""
    return ClipSampling(**{key: source[key] for key in ClipSampling._fields if key in source})


class Item(NamedTuple):
    """One image or video.

    Attributes:
        name: its path, or ``inputs[3]`` for an array.
        modality: 'image' or 'video'.
        content: its path, or uint8 RGB (T, H, W, 3).
    """

    name: str
    modality: str
    content: str | np.ndarray


def list_inputs(inputs: Input | Sequence[Input]) -> list[Item]:
    """Paths, folders and arrays -> every image and video in them, in their order. Files of a folder are sorted by path.

    The ending of a file gives its modality. Other files in a folder are counted in the log.

    Args:
        inputs: one or several. An array is uint8 RGB, (H, W, 3) for an image and (T, H, W, 3) for a video.

    Raises:
        ValueError: a path that does not exist or is neither image nor video, a folder without any, a wrong array.
    """
    if isinstance(inputs, str | os.PathLike | np.ndarray):
        inputs = [inputs]
    items: list[Item] = []
    for number, content in enumerate(inputs):
        if isinstance(content, np.ndarray):
            items.append(_array_item(f'inputs[{number}]', content))
        else:
            items += _path_items(Path(content))
    return items


def output_names(inputs: Input | Sequence[Input]) -> dict[str, str]:
    """Name of each `Item` -> a name for its outputs, such as 'a/1' for 'photos/a/1.jpg'. No two files have the same.

    It is the path below the folder that holds all ``inputs``, without its ending. 'a/1.jpg' and 'a/1.png' keep theirs.
    """
    paths = [inputs] if isinstance(inputs, str | os.PathLike | np.ndarray) else inputs
    files = {item.name: item.content for item in list_inputs(paths)}
    given = [Path(os.path.abspath(path)) for path in paths if not isinstance(path, np.ndarray)]
    folder = os.path.commonpath([path if path.is_dir() else path.parent for path in given]) if given else ''
    whole = {
        name: Path(os.path.relpath(content, folder) if isinstance(content, str) else name)
        for name, content in files.items()
    }
    count = Counter([*whole.values(), *(path.with_suffix('') for path in whole.values() if path.suffix)])
    return {name: str(path if count[short := path.with_suffix('')] > 1 else short) for name, path in whole.items()}


def _array_item(name: str, array: np.ndarray) -> Item:
    if array.dtype != np.uint8 or array.ndim not in (3, 4) or array.shape[-1] != 3 or not array.size:
        raise ValueError(
            f'{name} is {array.dtype} of shape {array.shape}. Give uint8 RGB, (H, W, 3) for an image or (T, H, W, 3) '
            'for a video.'
        )
    frames = array[None] if array.ndim == 3 else array
    return Item(name, 'image' if len(frames) == 1 else 'video', frames)


def _path_items(path: Path) -> Iterator[Item]:
    if not path.exists():
        raise ValueError(f'{path} does not exist. Give images, videos, or folders of them.')
    extensions = (*IMAGE_EXTENSIONS, *VIDEO_EXTENSIONS)
    for file in [path / file for file in scan_files(str(path), extensions)] if path.is_dir() else [path]:
        modality = modality_of(file)
        if modality is None:
            known = f'Known are files that end in {", ".join(extensions)}.'
            raise ValueError(f'{file} is neither image nor video{heif_hint(file)}. {known}')
        yield Item(str(file), modality, str(file))


def default_source(modality: str, clip_size: tuple[int, int, int]) -> dict[str, Any]:
    """How files are prepared if no config says it: resized to (T, H, W) of a model and cropped at the centre."""
    num_frames, height, width = clip_size
    interpolation = 'bicubic' if modality == 'image' else 'bilinear'
    resize = dict(type='ResizeShort', size=max(height, width), interpolation=interpolation)
    return dict(num_frames=num_frames, transforms=[resize, dict(type='CenterCrop', size=(height, width))])


class Pipeline:
    """Reads clips of a file or an array of one modality as in evaluation, and makes views of them.

    Args:
        source: config of a dataset, as far as it says how files are read and transformed.
        modality: 'image' or 'video'.
    """

    def __init__(self, source: Mapping[str, Any], modality: str):
        self.transforms = [TRANSFORMS.build(transform) for transform in source.get('transforms', ())]
        self.sampling = None if modality == 'image' else sampling_of(source)
        decoder = source.get('reader', 'pyav')
        self.reader = ImageFiles() if self.sampling is None else VideoFiles(self.sampling, decoder=decoder)

    def __call__(self, content: str | np.ndarray) -> Tensor:
        """Prepare a path or an array (T, H, W, 3) -> uint8 (C, T, H, W), or (V, C, T, H, W) with several views.

        Raises:
            BrokenFileError: the file cannot be read.
        """
        clips = self.reader.read(File(content), None) if isinstance(content, str) else [self._pick(content)]
        views = np.stack([self._transform(clip) for clip in clips])  # (clips, [crops,] T, H, W, 3)
        views = views.reshape(-1, *views.shape[-4:])
        return torch.from_numpy(views if len(views) > 1 else views[0]).movedim(-1, -4)

    def _pick(self, frames: np.ndarray) -> np.ndarray:
        """Spread the frames of a clip over an array, which has no times."""
        if self.sampling is None:
            return frames
        if self.sampling.sampling == 'sparse':
            return frames[segments(len(frames), self.sampling.num_frames, None)]
        return frames[pick_frames(np.arange(len(frames)), 0, len(frames), self.sampling.num_frames)]

    def _transform(self, clip: np.ndarray) -> np.ndarray:
        for transform in self.transforms:
            clip = transform(clip, None)
        return clip


class PreparedInputs(Dataset):
    """Items -> clip and None, or None and the reason why there is no clip. Workers may prepare them."""

    def __init__(self, items: Sequence[Item], pipelines: Mapping[str, Pipeline]):
        self.items, self.pipelines = items, pipelines
        self._reads = ReadAhead(READS_IN_FLIGHT)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> tuple[Tensor | None, str | None]:
        own = range(index, len(self), num_workers())  # items go to the workers in turn
        self._reads.plan(own[:NUM_KEYS], self._files_of)
        return self._reads.sample(index, self._prepare)[0]

    def _files_of(self, index: int) -> list[tuple[str, None]]:
        content = self.items[index].content
        return [(content, None)] if isinstance(content, str) else []

    def _prepare(self, index: int) -> tuple[Tensor | None, str | None]:
        item = self.items[index]
        if item.modality not in self.pipelines:
            return None, f'is a {item.modality}, and the model takes {" and ".join(self.pipelines)}s'
        try:
            return sendable(self.pipelines[item.modality](item.content)), None
        except BrokenFileError as error:
            return None, error.reason
