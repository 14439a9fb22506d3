"""Inputs of a model from files, folders and arrays: which there are, and a clip of each as in evaluation."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from PIL import Image, ImageOps
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

Pixels: TypeAlias = np.ndarray | Tensor | Image.Image
Input: TypeAlias = str | os.PathLike | Pixels | Sequence[Pixels]  # a sequence within a sequence: frames of a video


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
        inputs: one or several. Arrays are (H, W, 3) or grey (H, W) for an image, (T, H, W, 3) for a video, uint8, or
            float from 0 to 1. Tensors may have their channels first. Images may be of PIL. A list in the list has the
            frames of a video. An alpha channel is laid on white, as in files.

    Raises:
        ValueError: a path that does not exist or is neither image nor video, a folder without any, a wrong array.
    """
    items: list[Item] = []
    for number, content in enumerate(several(inputs)):
        if isinstance(content, str | os.PathLike):
            items += _path_items(content)
        else:
            frames = _frames(f'inputs[{number}]', content)
            items.append(Item(f'inputs[{number}]', 'image' if len(frames) == 1 else 'video', frames))
    return items


def several(inputs: Any) -> Iterable[Any]:
    """One input or several -> several."""
    is_one = isinstance(inputs, str | bytes | os.PathLike | Pixels | Mapping) or not isinstance(inputs, Iterable)
    return [inputs] if is_one else inputs


def output_names(inputs: Input | Sequence[Input]) -> dict[str, str]:
    """Name of each `Item` -> a name for its outputs, such as 'a/1' for 'photos/a/1.jpg'. No two files have the same.

    It is the path below the folder that holds all ``inputs``, without its ending. 'a/1.jpg' and 'a/1.png' keep theirs.
    """
    paths = [*several(inputs)]
    files = {item.name: item.content for item in list_inputs(paths)}
    given = [Path(os.path.abspath(path)) for path in paths if isinstance(path, str | os.PathLike)]
    folder = os.path.commonpath([path if path.is_dir() else path.parent for path in given]) if given else ''
    whole = {
        name: Path(os.path.relpath(content, folder) if isinstance(content, str) else name)
        for name, content in files.items()
    }
    count = Counter([*whole.values(), *(path.with_suffix('') for path in whole.values() if path.suffix)])
    return {name: str(path if count[short := path.with_suffix('')] > 1 else short) for name, path in whole.items()}


def _frames(name: str, content: Any) -> np.ndarray:
    """Pixels, or a list of frames -> uint8 RGB (T, H, W, 3)."""
    if isinstance(content, list | tuple) and content and all(isinstance(frame, Pixels) for frame in content):
        frames = [_frames(f'{name}[{number}]', frame) for number, frame in enumerate(content)]
        if len({frame.shape for frame in frames} | {(1, *frames[0].shape[1:])}) > 1:
            raise ValueError(f'{name} has frames of several sizes. Give images (H, W, 3) of one size.')
        return np.concatenate(frames)
    if isinstance(content, Image.Image):
        if content.mode[0] in 'IF':
            raise ValueError(
                f'{name} is an image of PIL of mode {content.mode!r}, whose range is unknown. Give 8 bits.'
            )
        is_clear = content.has_transparency_data
        content = np.array(ImageOps.exif_transpose(content).convert('RGBA' if is_clear else 'RGB'))
    is_tensor = isinstance(content, Tensor)
    array = content.detach().cpu().numpy() if is_tensor else content
    if not isinstance(array, np.ndarray):
        raise ValueError(f'{name} is a {type(array).__name__}. Give paths, arrays, tensors or images of PIL.')
    found = f'{name} is {array.dtype} of shape {array.shape}'
    remedy = 'Give uint8 RGB, (H, W, 3) for an image or (T, H, W, 3) for a video.'
    if array.dtype.kind == 'f' and array.size:
        low, high = float(array.min()), float(array.max())
        if not 0 <= low <= high <= 1:
            raise ValueError(f'{found} from {low:g} to {high:g}. Floats must be from 0 to 1, not normalised. {remedy}')
        array = (array * 255).round().astype(np.uint8)
    if array.ndim == 2:
        array = array[..., None]
    choices = (-1, -3) if is_tensor else (-1,)
    places = [place for place in choices if array.ndim in (3, 4) and array.shape[place] in (1, 3, 4)]
    if is_tensor and array.ndim == 4 and array.shape[0] == 3 and array.shape[-1] != 3:
        places.append(0)  # (3, T, H, W), as our clips
    if array.dtype != np.uint8 or len(places) != 1 or not array.size:
        raise ValueError(f'{found}. {remedy}')
    array = np.moveaxis(array, places[0], -1)
    frames = array[None] if array.ndim == 3 else array
    if frames.shape[-1] == 4:
        alpha = frames[..., 3:].astype(np.uint16)
        return ((frames[..., :3] * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)
    return np.ascontiguousarray(np.broadcast_to(frames, (*frames.shape[:-1], 3)))


def _path_items(given: str | os.PathLike) -> Iterator[Item]:
    path = Path(given).expanduser()
    if not os.fspath(given).strip() or not path.exists():
        is_address = '://' in os.fspath(given)
        remedy = 'Download it first' if is_address else 'Give images, videos, or folders of them'
        raise ValueError(f'{os.fspath(given) or repr("")} does not exist. {remedy}.')
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
        """Prepare a path or an array (T, H, W, 3) -> uint8 (V, C, T, H, W) with V test views.

        Raises:
            BrokenFileError: the file cannot be read.
        """
        clips = self.reader.read(File(content), None) if isinstance(content, str) else [self._pick(content)]
        views = np.stack([self._transform(clip) for clip in clips])  # (clips, [crops,] T, H, W, 3)
        return torch.from_numpy(views.reshape(-1, *views.shape[-4:])).movedim(-1, -4)

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
