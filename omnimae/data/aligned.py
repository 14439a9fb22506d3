"""RGB with maps of the same pixels, depth or classes: one folder for each modality, with files of the same names.

The layout is MultiMAE's (arXiv:2204.01678), also for ADE20K, Hypersim and NYUv2:

    root/rgb/some/where/name.jpg    root/depth/some/where/name.png    root/semseg/some/where/name.png

Maps of videos are arrays. No common video format keeps 16 bits or exact class indices:

    root/rgb/some/where/name.mp4    root/depth/some/where/name.npy
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from omnimae.data import storage
from omnimae.data.annotations import Rows, scan_files
from omnimae.data.datasets import FileDataset
from omnimae.data.media import open_video
from omnimae.data.media.errors import BrokenFileError, BrokenImageError
from omnimae.data.media.extensions import IMAGE_EXTENSIONS, VIDEO_EXTENSIONS
from omnimae.data.media.frames import ClipSampling
from omnimae.data.media.images import Stored, read_stored, read_stored_map
from omnimae.data.media.orientation import UPRIGHT, orient
from omnimae.data.media.video import VideoReader
from omnimae.data.readers import File, FileReader, TimedFrames
from omnimae.data.tables import StringTable
from omnimae.registry import DATASETS
from omnimae.structures import UNKNOWN_CLASS, UNKNOWN_DEPTH

KINDS = ('rgb', 'depth', 'classes')
ALIGNED_AS = ('stored', 'upright')
VALID = 255  # in masks of known depth


class Modality(NamedTuple):
    """How the files of one modality are read.

    Attributes:
        kind: 'rgb', 'depth' (8 or 16 bits, in any unit), or 'classes' (8-bit class indices, 255 where there is none).
        folder: of its files, below the root.
        stride: side of the square of pixels that becomes one pixel after all transforms (MultiMAE's input of classes:
            4).
        valid: folder of masks that are 255, or white of 1 bit, where the depth is known. Elsewhere it becomes -1.
        reduce_zero_label: class 0 becomes none, and all others move down by one (ADE20K, NYUv2).
        num_classes: a file with other classes, or with none, counts as broken. None accepts any.
    """

    kind: str
    folder: str
    stride: int = 1
    valid: str | None = None
    reduce_zero_label: bool = False
    num_classes: int | None = None

    @classmethod
    def of(cls, name: str, cfg: Mapping[str, Any]) -> Modality:
        """Name and config of a modality -> the modality."""
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


class AlignedImages(FileReader):
    """Pictures and maps of the same pixels, by modality.

    Args:
        root, modalities, target, aligned_as: as of `AlignedDataset`.
    """

    partner_extensions: tuple[str, ...] = IMAGE_EXTENSIONS

    def __init__(self, root: str, modalities: Mapping[str, Mapping[str, Any]], target: str | None, aligned_as: str):
        check_aligned_as(aligned_as)
        self.root, self.target, self.aligned_as = root, target, aligned_as
        self.modalities = {name: Modality.of(name, cfg) for name, cfg in modalities.items()}
        if not {*self.modalities} - {target} or (target is not None and target not in self.modalities):
            raise ValueError(
                f'modalities are {list(self.modalities)} and target={target!r}. The target must be one of them, and at '
                'least one must remain as input.'
            )
        self.strides = {name: modality.stride for name, modality in self.modalities.items()}
        self.first = next(iter(self.modalities.values()))

    def list_rows(
        self, root: str, ann_file: str | None, extensions: Sequence[str], backend_args: dict | None, **options: Any
    ) -> Rows:
        """Rows of the first modality, with the partners of each. With a target they have no labels."""
        if self.target is not None and ann_file is None:  # a folder all/ or data/ is no class
            rows = Rows(scan_files(root, extensions, backend_args), None, None)
        else:
            rows = super().list_rows(root, ann_file, extensions, backend_args, **options)
        if self.target is not None:
            rows = rows._replace(labels=None, classes=None)
        paths = StringTable.of(rows.paths)
        stems = [os.path.splitext(path)[0] for path in paths]
        folders = (folder for modality in self.modalities.values() for folder in (modality.folder, modality.valid))
        partners = {
            folder: paths if folder == self.first.folder else self._partners(folder, stems, backend_args)
            for folder in dict.fromkeys(filter(None, folders))
        }
        return rows._replace(paths=paths, partners=partners)

    def _partners(self, folder: str, stems: Sequence[str], backend_args: dict | None) -> StringTable:
        found = files_by_stem(os.path.join(self.root, folder), self.partner_extensions, backend_args)
        missing = [stem for stem in stems if stem not in found]
        if missing:
            raise ValueError(
                f'{os.path.join(self.root, folder)!r} has no file for {missing[0]!r} of '
                f'{os.path.join(self.root, self.first.folder)!r}, the first of {len(missing)}. Complete it, or leave '
                'these out by an ann_file.'
            )
        return StringTable(found[stem] for stem in stems)

    def files_of(self, file: File) -> list[str]:
        """A file of each folder."""
        return [self._path(file, folder) for folder in file.partners]

    def _path(self, file: File, folder: str) -> str:
        return os.path.join(self.root, folder, file.partners[folder])

    def read(self, file: File, rng: np.random.Generator | None) -> list[dict[str, NDArray]]:
        """See `read_aligned`; all of one size."""
        maps = read_aligned(self.modalities, partial(self._path, file), self.aligned_as, file.backend_args)
        return [self._checked_sizes(file, maps)]

    def _checked_sizes(self, file: File, maps: dict[str, NDArray]) -> dict[str, NDArray]:
        sizes = {name: pixels.shape[1:3] for name, pixels in maps.items()}
        if len(set(sizes.values())) > 1:
            raise BrokenImageError(
                file, f'its modalities have different sizes, {sizes}, aligned_as={self.aligned_as!r}'
            )
        return maps


class AlignedVideos(AlignedImages):
    """Clips of videos and maps of the same frames, by modality.

    Args:
        sampling: which clips.
        root, modalities, target, aligned_as: as of `AlignedDataset`.
    """

    partner_extensions = (*VIDEO_EXTENSIONS, '.npy')

    def __init__(self, sampling: ClipSampling, *args: Any):
        super().__init__(*args)
        self.sampling = sampling
        if self.first.kind != 'rgb' or any(modality.valid is not None for modality in self.modalities.values()):
            raise ValueError(
                f"modalities={list(self.modalities)}: put one of kind='rgb' first, whose videos give the times, and "
                'use no valid=...: store negative depth where it is unknown.'
            )

    def read(self, file: File, rng: np.random.Generator | None) -> list[dict[str, NDArray]]:
        """One clip (num_frames, H, W, 3), and maps (num_frames, H, W, 1) of its frames.

        Raises:
            BrokenFileError: a video or an array cannot be read, or does not hold what the modality is.
        """
        seed = None if rng is None else int(rng.integers(2**63))
        paths = {name: self._path(file, modality.folder) for name, modality in self.modalities.items()}
        clips: dict[str, NDArray] = {}
        with ExitStack() as opened:
            videos = {
                name: opened.enter_context(open_video(path, backend_args=file.backend_args))
                for name, path in paths.items()
                if self.modalities[name].kind == 'rgb'
            }
            length = min(video.duration for video in videos.values())
            clock = next(iter(videos.values()))
            for name, path in paths.items():
                video: Any = videos.get(name) or MapVideo(path, clock, file.backend_args)
                generator = None if seed is None else np.random.default_rng(seed)  # the same moments for all
                [pixels] = self.sampling.read(video, 0.0, length, generator, clock=clock)
                own = videos[name].orientation if name in videos else UPRIGHT
                turn = _turn_of(path, own, self.aligned_as, clock.orientation)
                pixels = orient(pixels, turn) if own == UPRIGHT else pixels  # turned videos are read upright
                clips[name] = pixels if name in videos else _checked(pixels, self.modalities[name], path)
        return [self._checked_sizes(file, clips)]


@DATASETS.register_module()
class AlignedDataset(FileDataset):
    """Samples of several modalities, aligned pixel by pixel. A transform changes all in the same way.

    The files of a sample have the same paths, except for the modality's folder and the extension.

    Args:
        make_reader: makes the reader from ``root``, ``modalities``, ``target`` and ``aligned_as``.
        root: folder of the modalities' folders.
        modalities: name -> dict of a `Modality`. ``kind`` and ``folder`` default to the name. The files of the first
            one are the samples; each needs its partners.
        target: the modality to be predicted. It is no input. None makes all of them inputs.
        aligned_as: how the files of a sample are aligned. 'stored': as stored, for maps made without regard to EXIF,
            such as MultiMAE's. All are turned by the picture's EXIF. 'upright': as viewers show them, such as maps of
            `predict_maps`. Each is turned by its own EXIF. Samples are upright in both cases. If sizes or the EXIF of a
            map contradict it, the sample is broken.
        ann_file: as of `FileDataset`, of files of the first modality.
        kwargs: as of `FileDataset`.
    """

    modality = 'image'
    default_extensions = IMAGE_EXTENSIONS

    def __init__(
        self,
        make_reader: Callable[..., AlignedImages] = AlignedImages,
        /,
        *,
        root: str,
        modalities: Mapping[str, Mapping[str, Any]],
        target: str | None = None,
        aligned_as: str = 'stored',
        **kwargs: Any,
    ):
        reader = make_reader(root, modalities, target, aligned_as)
        super().__init__(reader, root=os.path.join(root, reader.first.folder), **kwargs)


@DATASETS.register_module()
class AlignedVideoDataset(AlignedDataset):
    """Clips of several modalities, aligned frame by frame and pixel by pixel; see `AlignedDataset`.

    Maps are a .npy file of integers, (frames, height, width), one for each frame of the first video. Another number of
    maps is spread evenly over it, so they match its frames only roughly. Depth may be negative where unknown. Clips end
    with the shortest of several videos.

    By default maps are aligned with the stored frames, and turned with them by the container's display matrix. For maps
    of frames from players, ffmpeg or OpenCV set ``aligned_as='upright'``.

    Args:
        clip_seconds, num_frames, sampling, stride: as of `VideoDataset`. Testing takes one clip of a video.
        kwargs: as of `AlignedDataset`.
    """

    modality = 'video'
    default_extensions = VIDEO_EXTENSIONS

    def __init__(
        self,
        *,
        clip_seconds: float = 2.7,
        num_frames: int = 16,
        sampling: str = 'dense',
        stride: int | None = None,
        **kwargs: Any,
    ):
        clips = ClipSampling(sampling, clip_seconds, num_frames, stride=stride)
        clips.check()
        super().__init__(partial(AlignedVideos, clips), **kwargs)


class MapVideo(TimedFrames):
    """Maps of the frames of a video. Of the whole array only the frames that are asked for are read.

    Args:
        path: of the array, (frames, height, width).
        clock: the video. As many maps as it has frames have the times of these. Others are spread evenly over it.
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
            raise BrokenFileError(path, 'an archive of arrays; store one array')
        if self.array.ndim != 3 or not self.array.size or self.array.dtype.kind not in 'iu':
            raise BrokenFileError(
                path, f'{self.array.dtype} {self.array.shape}; store integers of shape (frames, height, width)'
            )
        times = clock.frame_times(0.0, clock.duration)
        if len(times) != len(self.array):
            times = np.arange(len(self.array)) * clock.duration / len(self.array)
        super().__init__(times, clock.duration)

    def frames_at(self, indices: NDArray[np.int64]) -> NDArray:
        """Maps (n, H, W, 1).

        Raises:
            BrokenFileError: they cannot be read.
        """
        if self.file is None or not self.array.flags.c_contiguous:
            return self.array[indices][..., None]
        # Not mapped: a page that its disk does not give would end the process.
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
        raise BrokenImageError(path, f'classes of {pixels.dtype}; store 8 bits')
    if modality.reduce_zero_label:
        pixels = np.where(pixels == UNKNOWN_CLASS, pixels, pixels - np.uint8(1))  # 0 - 1 is 255
    if modality.num_classes is not None and (largest := int(pixels.max())) >= modality.num_classes:
        raise BrokenImageError(path, f'has the class {largest}, and num_classes={modality.num_classes}')
    return pixels


def files_by_stem(folder: str, extensions: Sequence[str], backend_args: dict | None = None) -> dict[str, str]:
    """Path without extension -> path, of the files below a folder."""
    found: dict[str, str] = {}
    for path in scan_files(folder, extensions, backend_args):
        other = found.setdefault(os.path.splitext(path)[0], path)
        if other != path:
            raise ValueError(
                f'{folder!r} has both {other!r} and {path!r}, which differ only in the extension. Move one.'
            )
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
    """Read the pictures and maps of a sample, upright. The caller checks that their sizes agree.

    Args:
        modalities: by name.
        path_of: folder -> the sample's file there.
        aligned_as: as of `AlignedDataset`.
        backend_args: of ``mmengine.fileio``.

    Returns:
        By name: pictures (1, H, W, 3), uint8; maps (1, H, W, 1), depth as int16 or int32, classes as uint8.

    Raises:
        BrokenImageError: a file cannot be read in full, is no such modality, or has another orientation.
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
    """EXIF's number of the turn of a file: its own if 'upright', that of the picture if 'stored'."""
    if aligned_as == 'upright':
        return own
    if own not in (UPRIGHT, orientation):
        raise BrokenImageError(
            path,
            f'its orientation is {own} and that of the picture {orientation}, which contradicts '
            "aligned_as='stored'. Try 'upright'",
        )
    return orientation
