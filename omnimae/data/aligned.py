"""Pictures beside maps of the same pixels: depth, or a class for every pixel; a folder each, files of the same names.

The layout is MultiMAE's (arXiv:2204.01678), and that of ADE20K, Hypersim and NYUv2 as it is used with them:

    root/rgb/some/where/name.jpg    root/depth/some/where/name.png    root/semseg/some/where/name.png

Videos have videos of colours there and maps as arrays (no video format in use keeps 16 bits, nor classes as they are):

    root/rgb/some/where/name.mp4    root/depth/some/where/name.npy
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from omnimae.data import storage
from omnimae.data.annotations import Rows, scan_files
from omnimae.data.datasets import ImageDataset
from omnimae.data.media import open_video
from omnimae.data.media.errors import BrokenFileError, BrokenImageError
from omnimae.data.media.extensions import IMAGE_EXTENSIONS, VIDEO_EXTENSIONS
from omnimae.data.media.frames import ClipSampling, pick_frames, pick_on_screen, within
from omnimae.data.media.images import Stored, read_stored, read_stored_map
from omnimae.data.media.orientation import UPRIGHT, orient
from omnimae.data.media.video import VideoReader
from omnimae.data.tables import StringTable
from omnimae.data.transforms import resize
from omnimae.registry import DATASETS
from omnimae.structures import UNKNOWN_CLASS, UNKNOWN_DEPTH, Sample

KINDS = ('rgb', 'depth', 'classes')
ALIGNED_AS = ('stored', 'upright')
VALID = 255  # in masks of known depth


class Modality(NamedTuple):
    """How the files of one modality are read.

    Attributes:
        kind: 'rgb'; 'depth': numbers of 8 or 16 bits, in whatever unit; 'classes': class indices of 8 bits, 255 where
            there is none.
        folder: below the root, where its files are.
        stride: side of the square of pixels that becomes one, behind all transforms (MultiMAE's input of classes: 4).
        valid: folder of masks that are 255, or white of 1 bit, where the depth is known; elsewhere it becomes -1.
        reduce_zero_label: class 0 becomes none, and all others move down by one (ADE20K, NYUv2).
        num_classes: a file of classes with others than these, or with none, counts as broken; None takes any.
    """

    kind: str
    folder: str
    stride: int = 1
    valid: str | None = None
    reduce_zero_label: bool = False
    num_classes: int | None = None

    @classmethod
    def of(cls, name: str, cfg: Mapping[str, Any]) -> Modality:
        """What a config describes."""
        if unknown := sorted(set(cfg) - set(cls._fields)):
            raise ValueError(f'modalities.{name} has no {unknown[0]!r}. Known are {", ".join(cls._fields)}.')
        modality = cls(**{'kind': name, 'folder': name, **{word: x for word, x in cfg.items() if x is not None}})
        if modality.stride < 1:
            raise ValueError(f'modalities.{name}.stride={modality.stride} is not positive. Give 1 or more.')
        if modality.kind not in KINDS:
            raise ValueError(
                f'modalities.{name}.kind={modality.kind!r} is unknown. Choose one of {", ".join(map(repr, KINDS))}.'
            )
        for word, kind in dict(valid='depth', reduce_zero_label='classes', num_classes='classes').items():
            if modality.kind != kind and getattr(modality, word) != cls._field_defaults[word]:
                raise ValueError(
                    f'modalities.{name}.{word} is for kind={kind!r}, not {modality.kind!r}. Leave it out '
                    f'(in an inheriting config: set it to {cls._field_defaults[word]}), or set kind.'
                )
        return modality


@DATASETS.register_module()
class AlignedDataset(ImageDataset):
    """Samples of several modalities, aligned pixel by pixel: every transform does the same to all of them.

    Files belong together when their paths differ only in the modality's folder and in their endings.

    Args:
        root: folder of the modalities' folders.
        modalities: name -> dict of a `Modality`; ``kind`` and ``folder`` are the name where they are left out. The
            files of the first one count: each must have its partners.
        target: the modality to be predicted, which is no input then; None has all as inputs.
        aligned_as: how the files of a sample lie on each other. 'stored': pixel on pixel as they are stored, as maps
            do that were made without regard to EXIF, MultiMAE's among them; all are turned as the picture's EXIF says.
            'upright': as viewers show them, as maps of `predict_maps` do; each is turned as its own EXIF says. Samples
            are upright in both cases, and both are the same where no EXIF turns a picture. Where sizes or the EXIF of
            a map tell that it is the other one, the sample is broken.
        ann_file: as of `FileDataset`, of files of the first modality.
        kwargs: as of `FileDataset`.
    """

    map_extensions: tuple[str, ...] = IMAGE_EXTENSIONS

    def __init__(
        self,
        *,
        root: str,
        modalities: Mapping[str, Mapping[str, Any]],
        target: str | None = None,
        aligned_as: str = 'stored',
        **kwargs: Any,
    ):
        check_aligned_as(aligned_as)
        self.aligned_as = aligned_as
        self.modalities = {name: Modality.of(name, cfg) for name, cfg in modalities.items()}
        if not {*self.modalities} - {target} or (target is not None and target not in self.modalities):
            raise ValueError(
                f'modalities are {list(self.modalities)} and target={target!r}: the target is to be one of them, and '
                'an input has to be left.'
            )
        self.target = target
        first = next(iter(self.modalities.values()))
        if first.kind != 'rgb':
            kwargs.setdefault('extensions', self.map_extensions)
        super().__init__(root=os.path.join(root, first.folder), **kwargs)
        if target is not None:  # a folder all/ or data/ is no class
            self.labels = self.classes = None
        stems = [os.path.splitext(self.paths[row])[0] for row in range(len(self))]
        folders = dict.fromkeys(
            folder for m in self.modalities.values() for folder in (m.folder, m.valid) if folder is not None
        )
        self.files = {folder: self._partners(root, folder, stems) for folder in folders if folder != first.folder}
        self.files[first.folder] = self.paths
        self.aligned_root = root

    def fingerprint(self) -> dict[str, Any]:
        """Of the partners, too."""
        return super().fingerprint() | {f'files of {folder}': table.digest() for folder, table in self.files.items()}

    def _partners(self, root: str, folder: str, stems: Sequence[str]) -> StringTable:
        extensions = tuple(dict.fromkeys((*self.default_extensions, *self.map_extensions)))
        found = files_by_stem(os.path.join(root, folder), extensions, self.backend_args)
        missing = [stem for stem in stems if stem not in found]
        if missing:
            raise ValueError(
                f'{os.path.join(root, folder)!r} has no file for {missing[0]!r} of {self.root!r}, the first of '
                f'{len(missing)}. Complete it, or leave these out by an ann_file.'
            )
        return StringTable(found[stem] for stem in stems)

    def _scan(self, root: str, extensions: Sequence[str], **options: Any) -> Rows:
        if self.target is not None:  # a folder all/ or data/ is no class
            return Rows(scan_files(root, extensions, self.backend_args), None, None)
        return super()._scan(root, extensions, **options)

    def _read(self, row: int, rng: np.random.Generator | None) -> list[Any]:
        def path_of(folder: str) -> str:
            return self._file(folder, row)

        maps = read_aligned(self.modalities, path_of, self.aligned_as, self.backend_args)
        self._check_sizes(row, maps)
        return [maps]

    def _check_sizes(self, row: int, maps: Mapping[str, NDArray]) -> None:
        sizes = {name: pixels.shape[1:3] for name, pixels in maps.items()}
        if len(set(sizes.values())) > 1:
            raise BrokenImageError(
                self._path(row), f'its modalities have different sizes, {sizes}, aligned_as={self.aligned_as!r}'
            )

    def _file(self, folder: str, row: int) -> str:
        return os.path.join(self.aligned_root, folder, self.files[folder][row])

    def _files_of(self, row: int) -> list[str]:
        return [self._file(folder, row) for folder in self.files]

    def _transform(self, clip: Any, rng: np.random.Generator | None) -> Any:
        for transform in self.transforms:
            seed = None if rng is None else int(rng.integers(2**63))
            rngs = {name: None if seed is None else np.random.default_rng(seed) for name in clip}
            clip = {name: transform(x, rngs[name]) for name, x in clip.items()}
        strides = {name: modality.stride for name, modality in self.modalities.items()}
        return {name: _shrunk(x, strides[name]) for name, x in clip.items()}

    def _evaluation_sample(self, row: int) -> Sample:
        [maps] = self._read(row, None)
        return self._sample(row, [self._transform(maps, None)], [])

    def _sample(self, row: int, crops: list[Any], failures: list[tuple[str, str]]) -> Sample:
        clips = {name: _tensor([crop[name] for crop in crops]) for name in crops[0]}
        target = None if self.target is None else clips.pop(self.target)
        sample = Sample(clips=clips, modality=self.modality, id=self.ids[row], failures=failures)
        if target is not None:
            sample['target'] = target
        if self.labels is not None:
            sample['label'] = int(self.labels[row])
        return sample


@DATASETS.register_module()
class AlignedVideoDataset(AlignedDataset):
    """Clips of several modalities, aligned frame by frame and pixel by pixel; see `AlignedDataset`.

    Maps are a .npy file of whole numbers, (frames, height, width), one for each frame of the first video. Other numbers
    count as evenly spread over it, and are only near its frames in time. Depth may be negative where it is not known.
    Of several videos the shortest says where clips end.

    As of images, maps are aligned with the frames as stored and are turned with them, as the container's display matrix
    says. For maps of frames as players show them, which ffmpeg and OpenCV give, set ``aligned_as='upright'``.

    Args:
        clip_seconds, num_frames, sampling, stride: as of `VideoDataset`; testing takes one clip of a video.
    """

    modality = 'video'
    default_extensions = VIDEO_EXTENSIONS
    map_extensions = ('.npy',)

    def __init__(
        self,
        *,
        clip_seconds: float = 2.7,
        num_frames: int = 16,
        sampling: str = 'dense',
        stride: int | None = None,
        **kwargs: Any,
    ):
        self.sampling = ClipSampling(sampling, clip_seconds, num_frames, stride=stride)
        self.sampling.check()
        super().__init__(**kwargs)
        first, *others = self.modalities.values()
        if first.kind != 'rgb' or any(other.valid is not None for other in others):
            raise ValueError(
                f"modalities={list(self.modalities)}: name one of kind='rgb' first, whose videos tell the time, and "
                'none with valid=...: store negative depth where it is not known.'
            )

    def _read(self, row: int, rng: np.random.Generator | None) -> list[Any]:
        seed = None if rng is None else int(rng.integers(2**63))
        paths = {name: self._file(modality.folder, row) for name, modality in self.modalities.items()}
        clips: dict[str, np.ndarray] = {}
        with ExitStack() as opened:
            videos = {
                name: opened.enter_context(open_video(path, backend_args=self.backend_args))
                for name, path in paths.items()
                if self.modalities[name].kind == 'rgb'
            }
            length = min(video.duration for video in videos.values())
            clock = next(iter(videos.values()))
            for name, path in paths.items():
                # of a VideoReader maps have what sampling needs
                video: Any = videos.get(name) or MapVideo(path, clock, self.backend_args)
                generator = None if seed is None else np.random.default_rng(seed)  # the same moments for all
                [pixels] = self.sampling.read(video, 0.0, length, generator, clock=clock)
                own = videos[name].orientation if name in videos else UPRIGHT
                turn = _turn_of(path, own, self.aligned_as, clock.orientation)
                pixels = orient(pixels, turn) if own == UPRIGHT else pixels  # the others come turned
                clips[name] = pixels if name in videos else _checked(pixels, self.modalities[name], path)
        self._check_sizes(row, clips)
        return [clips]


class MapVideo:
    """Maps of the frames of a video, read as a video is: of the whole array only the frames that are asked for.

    Args:
        path: of the array, (frames, height, width).
        clock: the video. Maps as many as its frames begin with them; others are evenly spread over it.
        backend_args: of ``mmengine.fileio``.

    Raises:
        BrokenFileError: no array of whole numbers, (frames, height, width).
    """

    def __init__(self, path: str, clock: VideoReader, backend_args: dict | None = None):
        self.path = path
        try:
            with storage.local_copy(path, backend_args) as local:
                self.array = storage.insist(lambda: np.load(local, mmap_mode='r', allow_pickle=False), path)
            self.file = storage.LocalFile(path) if storage.is_local(path, backend_args) else None
        except (OSError, EOFError, ValueError) as error:
            raise BrokenFileError(path, f'{type(error).__name__}: {error}') from error
        if not isinstance(self.array, np.ndarray):
            raise BrokenFileError(path, 'an archive of arrays, and maps are one array')
        if self.array.ndim != 3 or not self.array.size or self.array.dtype.kind not in 'iu':
            raise BrokenFileError(
                path, f'{self.array.dtype} {self.array.shape}, and maps are whole numbers (frames, height, width)'
            )
        self.frame_rate = len(self.array) / clock.duration
        self.times = clock.frame_times(0.0, clock.duration)
        if len(self.times) != len(self.array):
            self.times = np.arange(len(self.array)) * clock.duration / len(self.array)

    def read_clips(self, starts: Sequence[float], seconds: float, num_frames: int) -> list[np.ndarray]:
        """Maps (num_frames, H, W, 1) of each clip, see `pick_frames`."""
        return [self._maps(pick_frames(self.times, start, seconds, num_frames)) for start in starts]

    def read_at(self, moments: np.ndarray) -> np.ndarray:
        """Maps (n, H, W, 1) of these moments in seconds, see `pick_on_screen`."""
        return self._maps(pick_on_screen(self.times, moments))

    def frame_times(self, start: float, stop: float) -> np.ndarray:
        """See `VideoReader.frame_times`."""
        return within(self.times, start, stop)

    def _maps(self, indices: np.ndarray) -> np.ndarray:
        if self.file is None or not self.array.flags.c_contiguous:
            return self.array[indices][..., None]
        # A mapped page that its disk does not give would end the process.
        maps, size = np.empty((len(indices), *self.array.shape[1:], 1), self.array.dtype), self.array[0].nbytes
        for place, index in enumerate(indices):
            try:
                data = self.file.read_at(self.array.offset + int(index) * size, size)
                maps[place] = np.frombuffer(data, self.array.dtype).reshape(maps.shape[1:])
            except (OSError, ValueError) as error:
                raise BrokenFileError(self.path, f'frame {index}: {error}') from error
        return maps


def _checked(pixels: np.ndarray, modality: Modality, path: str) -> np.ndarray:
    """(T, H, W, 1) as stored -> depth as int16 or int32, classes as uint8."""
    if modality.kind == 'depth':
        if pixels.dtype.kind == 'f':
            raise BrokenImageError(path, 'floating-point depth has no known unit; store 8 or 16 bits')
        return pixels.astype(np.int16 if pixels.dtype == np.uint8 else np.int32)
    if pixels.dtype != np.uint8:
        raise BrokenImageError(path, f'classes of {pixels.dtype}, which has to be 8 bits')
    if modality.reduce_zero_label:
        pixels = np.where(pixels == UNKNOWN_CLASS, pixels, pixels - np.uint8(1))  # 0 - 1 is 255
    if modality.num_classes is not None and (largest := int(pixels.max())) >= modality.num_classes:
        raise BrokenImageError(path, f'has the class {largest}, and num_classes={modality.num_classes}')
    return pixels


def files_by_stem(folder: str, extensions: Sequence[str], backend_args: dict | None = None) -> dict[str, str]:
    """Paths below a folder, by themselves without their endings."""
    found: dict[str, str] = {}
    for path in scan_files(folder, extensions, backend_args):
        other = found.setdefault(os.path.splitext(path)[0], path)
        if other != path:
            raise ValueError(f'{folder!r} has both {other!r} and {path!r}, and partners share a stem. Move one.')
    return found


def check_aligned_as(aligned_as: str) -> None:
    """Raise a ValueError for an unknown word."""
    if aligned_as not in ALIGNED_AS:
        raise ValueError(f"aligned_as={aligned_as!r} is unknown. Choose 'stored' or 'upright'.")


def read_aligned(
    modalities: Mapping[str, Modality],
    path_of: Callable[[str], str],
    aligned_as: str = 'stored',
    backend_args: dict | None = None,
) -> dict[str, NDArray]:
    """Read the pictures and maps of a sample, upright; that they are of one size, the caller checks.

    Args:
        modalities: by name.
        path_of: gives the sample's file in a folder.
        aligned_as: as of `AlignedDataset`.
        backend_args: of ``mmengine.fileio``.

    Returns:
        By name: pictures (1, H, W, 3), uint8; maps (1, H, W, 1), depth as int16 or int32, classes as uint8.

    Raises:
        BrokenImageError: a file that cannot be read in full, does not hold what the modality is, or says another
            orientation.
    """

    def read(kind: str, folder: str) -> Stored:
        return (read_stored if kind == 'rgb' else read_stored_map)(path_of(folder), backend_args)

    stored = {name: read(modality.kind, modality.folder) for name, modality in modalities.items()}
    pictures = [name for name, modality in modalities.items() if modality.kind == 'rgb']
    orientation = stored[(pictures or [*modalities])[0]].orientation

    def upright(file: Stored) -> NDArray:
        return orient(file.pixels, _turn_of(file.path, file.orientation, aligned_as, orientation))

    clips = {}
    for name, modality in modalities.items():
        pixels = upright(stored[name])
        if modality.kind != 'rgb':
            pixels = _checked(pixels, modality, stored[name].path)
        if modality.valid is not None:
            valid = upright(read('mask', modality.valid))
            if valid.shape != pixels.shape:
                raise BrokenImageError(
                    stored[name].path, f'its mask has the size {valid.shape[1:3]}, not {pixels.shape[1:3]}'
                )
            pixels[~valid if valid.dtype == bool else valid != VALID] = UNKNOWN_DEPTH
        clips[name] = np.ascontiguousarray(pixels)
    return clips


def _turn_of(path: str, own: int, aligned_as: str, orientation: int) -> int:
    """Number of the orientation by which a file is turned: its own, or that of the picture if all are stored alike."""
    if aligned_as == 'upright':
        return own
    if own not in (UPRIGHT, orientation):
        raise BrokenImageError(
            path,
            f'its orientation is {own} and that of the picture {orientation}, which contradicts '
            "aligned_as='stored'. Try 'upright'",
        )
    return orientation


def _shrunk(clip: np.ndarray, stride: int) -> np.ndarray:
    return clip if stride == 1 else resize(clip, clip.shape[1] // stride, clip.shape[2] // stride, 'bilinear')


def _tensor(crops: Sequence[np.ndarray]) -> Tensor:
    """(T, H, W, C) each -> (R, C, T, H, W)."""
    return torch.from_numpy(np.stack(crops)).movedim(-1, -4)
