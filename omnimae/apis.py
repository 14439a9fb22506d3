"""From Python: models by name, classes of images and videos, their features, and maps of images.

    from omnimae.apis import ClassificationInferencer

    classify = ClassificationInferencer('vitb_in1k_ft')
    for result in classify(['cat.jpg', 'clips/', frames]):  # paths, folders, arrays; images and videos mixed
        print(result.input, result.error or result.guesses[0])

Files are prepared as in the config's ``test_dataloader`` (else ``val_dataloader``). Frames, views, crops and scores are
those of ``tools/test.py``. A modality that the config does not test is read at the model's own clip size. Its short
side is resized to that size and cropped at the centre. A video gives one clip of 2.7 seconds.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeAlias, TypeVar

import numpy as np
import torch
from mmengine.config import Config
from rich.progress import track
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from omnimae.checkpoint import load_file, load_weights, stored_classes
from omnimae.config import find_config as find_config  # users look for it here
from omnimae.config import load_config
from omnimae.data.annotations import read_classes, scan_files
from omnimae.data.lookahead import NUM_KEYS, num_workers
from omnimae.data.media import open_video
from omnimae.data.media.errors import BrokenFileError
from omnimae.data.media.extensions import IMAGE_EXTENSIONS, VIDEO_EXTENSIONS, heif_hint, modality_of
from omnimae.data.media.frames import ClipSampling, pick_frames, segments
from omnimae.data.media.images import read_image
from omnimae.data.storage.ahead import READS_IN_FLIGHT, File, ReadAhead
from omnimae.data.transforms import resize
from omnimae.data.transport import sendable
from omnimae.engine import choose_device, dtype_of, evaluating, frozen_model
from omnimae.layouts import convert
from omnimae.registry import DATASETS, MODELS, TRANSFORMS
from omnimae.structures import require
from omnimae.zoo import ZOO

Input: TypeAlias = str | os.PathLike | np.ndarray

# ---------------------------------------------------------------------------------------------------------------------
# Models by name


def get_model(
    config: Config | str | os.PathLike,
    checkpoint: str | os.PathLike | None = None,
    *,
    device: torch.device | str | None = None,
) -> nn.Module:
    """Build a model of a config, in evaluation mode.

    Args:
        config: a Config, a path, a name below ``configs/``, or a name in ``ZOO``, which includes its checkpoint.
        checkpoint: path or URL of weights in any layout, or a name in ``ZOO``. None keeps initial weights, whatever
            the config's ``init_cfg``. The log lists loaded, missing and unexpected keys, see `load_weights`. A config
            with ``num_classes=None`` has the classes of its head.
        device: by default the first GPU, or the CPU, see `choose_device`.

    Raises:
        ValueError: no such config, or a checkpoint that does not fit it.
    """
    cfg, checkpoint = _resolve(config, checkpoint)
    return _build(cfg.model, checkpoint, device, complete=False)


def _resolve(
    config: Config | str | os.PathLike, checkpoint: str | os.PathLike | None
) -> tuple[Config, str | os.PathLike | None]:
    """Look up the names."""
    if isinstance(config, str) and config in ZOO:
        checkpoint = checkpoint or ZOO[config].url
        config = ZOO[config].config
    if isinstance(checkpoint, str) and checkpoint in ZOO:
        checkpoint = ZOO[checkpoint].url
    return config if isinstance(config, Config) else load_config(find_config(config, ZOO)), checkpoint


def _resolve_trained(
    config: Config | str | os.PathLike, checkpoint: str | os.PathLike | None
) -> tuple[Config, str | os.PathLike]:
    """`_resolve`, for results that need weights."""
    cfg, checkpoint = _resolve(config, checkpoint)
    if checkpoint is None:
        raise ValueError('checkpoint=None: results of initial weights mean nothing. Give a path, a URL or a name.')
    return cfg, checkpoint


def _build(
    model_cfg: Mapping, checkpoint: str | os.PathLike | None, device: torch.device | str | None, *, complete: bool
) -> Any:
    # otherwise a Runner that gets the model later would initialise it again
    model_cfg = {**model_cfg, 'init_cfg': None}
    if model_cfg.get('num_classes', 0) is None:
        model_cfg['num_classes'] = _num_classes_of(checkpoint)
    model = MODELS.build(model_cfg)
    if checkpoint is not None:
        load_weights(model, checkpoint, complete=complete)
    return model.eval().to(device or choose_device())


def _num_classes_of(checkpoint: str | os.PathLike | None) -> int:
    """Number of classes of the head of a Classifier or of a LinearProbe."""
    state_dict = {} if checkpoint is None else convert(load_file(checkpoint)[0])
    for key in ('head.bias', 'head.1.bias'):
        if key in state_dict:
            return len(state_dict[key])
    raise ValueError(
        f'model.num_classes=None is filled in from the head of the checkpoint, and checkpoint={checkpoint} has none. '
        'Give the checkpoint of a fine-tuning, or set num_classes in the config.'
    )


# ---------------------------------------------------------------------------------------------------------------------
# Inputs


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


class Pipeline:
    """Reads clips of a file or an array of one modality as in evaluation, and makes views of them.

    Args:
        source: config of a dataset. None for the default of this module.
        modality: 'image' or 'video'.
        clip_size: (T, H, W) of the model, for the default.
    """

    def __init__(self, source: Mapping[str, Any] | None, modality: str, clip_size: tuple[int, int, int]):
        num_frames, height, width = clip_size
        if source is None:
            interpolation = 'bicubic' if modality == 'image' else 'bilinear'
            resize = dict(type='ResizeShort', size=max(height, width), interpolation=interpolation)
            crop = dict(type='CenterCrop', size=(height, width))
            source = dict(num_frames=num_frames, transforms=[resize, crop])
        self.modality = modality
        self.transforms = [TRANSFORMS.build(transform) for transform in source.get('transforms', ())]
        self.sampling = ClipSampling(**{key: source[key] for key in ClipSampling._fields if key in source})
        self.reader = source.get('reader', 'pyav')

    def __call__(self, content: str | np.ndarray) -> Tensor:
        """Prepare a path or an array (T, H, W, 3) -> uint8 (C, T, H, W), or (V, C, T, H, W) with several views.

        Raises:
            BrokenFileError: the file cannot be read.
        """
        clips = self._read(content) if isinstance(content, str) else [self._pick(content)]
        views = np.stack([self._transform(clip) for clip in clips])  # (clips, [crops,] T, H, W, 3)
        views = views.reshape(-1, *views.shape[-4:])
        return torch.from_numpy(views if len(views) > 1 else views[0]).movedim(-1, -4)

    def _read(self, path: str) -> list[np.ndarray]:
        if self.modality == 'image':
            return [read_image(path)]
        with open_video(path, reader=self.reader) as video:
            return self.sampling.read(video, 0.0, video.duration, None)

    def _pick(self, frames: np.ndarray) -> np.ndarray:
        """Spread the frames of a clip over an array, which has no times."""
        if self.modality == 'image':
            return frames
        if self.sampling.sampling == 'sparse':
            return frames[segments(len(frames), self.sampling.num_frames, None)]
        return frames[pick_frames(np.arange(len(frames)), 0, len(frames), self.sampling.num_frames)]

    def _transform(self, clip: np.ndarray) -> np.ndarray:
        for transform in self.transforms:
            clip = transform(clip, None)
        return clip


def find_source(cfg: Config, modality: str) -> dict[str, Any] | None:
    """Find the first dataset of a modality that the config tests on, else validates on."""
    for loader in ('test_dataloader', 'val_dataloader'):
        dataset = (cfg.get(loader) or {}).get('dataset', {})
        for source in dataset.get('sources', {'': dataset}).values():
            kind = DATASETS.get(source['type']) if 'type' in source else None
            if getattr(kind, 'modality', None) == modality:
                return source
    return None


class Prepared(NamedTuple):
    """An input for the model, or the reason why there is none."""

    clip: Tensor | None
    error: str | None


class _Preparation(Dataset):
    """Prepares items, in worker processes if there are any."""

    def __init__(self, items: Sequence[Item], pipelines: Mapping[str, Pipeline]):
        self.items, self.pipelines = items, pipelines
        self._reads = ReadAhead(READS_IN_FLIGHT)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Prepared:
        own = range(index, len(self), num_workers())  # items go to the workers in turn
        self._reads.plan(own[:NUM_KEYS], self._files_of)
        return self._reads.sample(index, self._prepare)[0]

    def _files_of(self, index: int) -> list[File]:
        content = self.items[index].content
        return [(content, None)] if isinstance(content, str) else []

    def _prepare(self, index: int) -> Prepared:
        item = self.items[index]
        try:
            return Prepared(sendable(self.pipelines[item.modality](item.content)), None)
        except BrokenFileError as error:
            return Prepared(None, error.reason)


# ---------------------------------------------------------------------------------------------------------------------
# Inference

Result = TypeVar('Result')


class Inferencer(Generic[Result]):
    """Images and videos -> a result each, in their order. The base of `ClassificationInferencer` and others.

    Inputs of the same modality and size form a batch. A file that cannot be read has a result with an ``error``, and
    does not affect the others. The model computes in the dtype of the config's training, on a GPU mostly bfloat16. Set
    ``cfg.optim_wrapper.dtype = None`` for float32. Its last layer, and the results, are float32.

    Args:
        config: see `get_model`.
        checkpoint: see `get_model`; one that leaves weights at their initial values is refused.
        device: see `get_model`.
        batch_size: inputs in a batch. Each may have several views.
        num_workers: processes that read files. 0 reads in this one.
        progress: show a progress bar.

    Raises:
        ValueError: no such config, a checkpoint that does not fit, or no checkpoint.
    """

    def __init__(
        self,
        config: Config | str | os.PathLike,
        checkpoint: str | os.PathLike | None = None,
        *,
        device: torch.device | str | None = None,
        batch_size: int = 8,
        num_workers: int = 0,
        progress: bool = True,
    ):
        self.cfg, self.checkpoint = _resolve_trained(config, checkpoint)
        self.model = _build(self.model_config(), self.checkpoint, device, complete=True)
        backbone = self.model.backbone
        require(backbone, type(self).__name__, 'grid', 'patch_size')
        clip_size = backbone.grid.clip_size(backbone.patch_size)
        self.pipelines = {
            modality: Pipeline(find_source(self.cfg, modality), modality, clip_size) for modality in ('image', 'video')
        }
        self.batch_size, self.num_workers, self.progress = batch_size, num_workers, progress

    def model_config(self) -> dict:
        """Give the config of the model that computes the results."""
        return self.cfg.model

    def __call__(self, inputs: Input | Sequence[Input]) -> list[Result]:
        """Infer all inputs, see `list_inputs`.

        Raises:
            ValueError: an input that is no image, video, folder of them or array of pixels; before anything is read.
        """
        items = list_inputs(inputs)
        loader = DataLoader(_Preparation(items, self.pipelines), batch_size=None, num_workers=self.num_workers)
        results: list[Any] = [None] * len(items)
        waiting: dict[tuple, dict[int, Tensor]] = defaultdict(dict)
        steps = track(loader, type(self).__name__, total=len(items), disable=not self.progress)
        for index, (clip, error) in enumerate(steps):
            if clip is None:
                results[index] = self.result(items[index], None, error)
                continue
            key = (items[index].modality, tuple(clip.shape))
            waiting[key][index] = clip
            if len(waiting[key]) == self.batch_size:
                self._finish(items, waiting.pop(key), results)
        for clips in waiting.values():
            self._finish(items, clips, results)
        return results

    @torch.inference_mode()
    def _finish(self, items: Sequence[Item], clips: Mapping[int, Tensor], results: list[Any]) -> None:
        device = self.model.data_preprocessor.device
        batch = torch.stack(list(clips.values())).to(device)
        with evaluating(dtype_of(self.cfg), device):
            computed = self.compute(batch, items[next(iter(clips))].modality)
        outputs = computed.float().cpu().numpy()
        for index, output in zip(clips, outputs, strict=True):
            results[index] = self.result(items[index], output, None)

    def compute(self, clip: Tensor, modality: str) -> Tensor:
        """(B, C, T, H, W) or (B, V, C, T, H, W), uint8 -> a row for each input."""
        raise NotImplementedError

    def result(self, item: Item, output: np.ndarray | None, error: str | None) -> Result:
        """Make the result of one input from its row, or from the reason why it has none."""
        raise NotImplementedError


class Guess(NamedTuple):
    """A class that an input may belong to.

    Attributes:
        label: index of the class.
        name: of the class, None where unknown.
        probability: softmax of the scores.
    """

    label: int
    name: str | None
    probability: float


class Classification(NamedTuple):
    """Classes of an input.

    Attributes:
        input: its path, or ``inputs[3]`` for an array.
        modality: 'image' or 'video'.
        guesses: the most probable classes, best first. Empty after an error.
        scores: (classes,) logits, averaged over views, as ``tools/test.py --out`` writes them; None after an error.
            If the config tests by probabilities (``test_evaluator.softmax``), the logarithm of their average.
        error: why the input could not be read, or None.
    """

    input: str
    modality: str
    guesses: tuple[Guess, ...]
    scores: np.ndarray | None
    error: str | None


class ClassificationInferencer(Inferencer[Classification]):
    """Classify images and videos; see `Inferencer` for the other arguments and errors.

    Args:
        classes: names of the classes in the order of their labels; by default those in the checkpoint of a run, else
            those in the config.
        topk: guesses in a result.

    Raises:
        ValueError: not the config of a classifier, or another number of names than it has classes.
    """

    def __init__(
        self,
        config: Config | str | os.PathLike,
        checkpoint: str | os.PathLike | None = None,
        *,
        classes: Sequence[str] | None = None,
        topk: int = 5,
        **kwargs: Any,
    ):
        super().__init__(config, checkpoint, **kwargs)
        num_classes = self.model.data_preprocessor.num_classes
        self.classes = self._known_classes(num_classes) if classes is None else tuple(classes)
        if self.classes is not None and len(self.classes) != num_classes:
            raise ValueError(f'classes has {len(self.classes)} names, and the model num_classes={num_classes}.')
        self.topk = min(topk, num_classes)
        self.softmax = (self.cfg.get('test_evaluator') or {}).get('softmax', False)

    def model_config(self) -> dict:
        """Give the config's model."""
        if 'num_classes' not in self.cfg.model:
            raise ValueError(
                f'model.type={self.cfg.model.type!r} classifies nothing. Give the config of a fine-tuning.'
            )
        return self.cfg.model

    def compute(self, clip: Tensor, modality: str) -> Tensor:
        """(B, [V,] C, T, H, W), uint8 -> (B, classes)."""
        logits = self.model.view_logits(clip)
        return logits.softmax(-1).mean(1).log() if self.softmax else logits.mean(1)

    def result(self, item: Item, output: np.ndarray | None, error: str | None) -> Classification:
        """Rank the scores; of equal ones the lower class comes first.

        Raises:
            ValueError: scores that are NaN.
        """
        if output is None:
            return Classification(item.name, item.modality, (), None, error)
        if np.isnan(output).any():
            raise ValueError(f'The scores of {item.name} are NaN. Take a checkpoint from before the training diverged.')
        probabilities = np.exp(output - output.max())
        probabilities /= probabilities.sum()
        best = np.argsort(-output, kind='stable')[: self.topk].tolist()
        names = self.classes
        guesses = tuple(Guess(k, None if names is None else names[k], float(probabilities[k])) for k in best)
        return Classification(item.name, item.modality, guesses, output, None)

    def _known_classes(self, num_classes: int) -> tuple[str, ...] | None:
        candidates: list[Sequence[str] | None] = [*stored_classes(str(self.checkpoint))]
        for modality in ('image', 'video'):
            classes = (find_source(self.cfg, modality) or {}).get('classes')
            if isinstance(classes, str):  # a list of names among the data, which need not be here
                classes = read_classes(classes) if os.path.isfile(classes) else None
            candidates.append(classes)
        return next((tuple(names) for names in candidates if names is not None and len(names) == num_classes), None)


class FeatureVector(NamedTuple):
    """Features of an input.

    Attributes:
        input: its path, or ``inputs[3]`` for an array.
        modality: 'image' or 'video'.
        features: (D,) averaged over tokens and views; None after an error.
        error: why the input could not be read, or None.
    """

    input: str
    modality: str
    features: np.ndarray | None
    error: str | None


class FeatureExtractor(Inferencer[FeatureVector]):
    """Frozen features of images and videos, those of ``tools/extract_features.py``; see `Inferencer`.

    The config of a pretraining gives the mean of the tokens, after the backbone's norm. That of a classifier gives the
    input of its head. That of a DensePredictor gives the mean of the tokens.
    """

    def model_config(self) -> dict:
        """Give the config of the backbone alone."""
        return frozen_model(self.cfg.model)

    def compute(self, clip: Tensor, modality: str) -> Tensor:
        """(B, [V,] C, T, H, W), uint8 -> (B, D)."""
        return self.model.features(clip)

    def result(self, item: Item, output: np.ndarray | None, error: str | None) -> FeatureVector:
        """Give the vector, or the reason why there is none."""
        return FeatureVector(item.name, item.modality, output, error)


# ---------------------------------------------------------------------------------------------------------------------
# Maps


class PredictedMap(NamedTuple):
    """Prediction of a DensePredictor for an image, upright by its EXIF and at its size.

    Attributes:
        input: its path, or ``inputs[3]`` for an array.
        image: (H, W, 3) uint8, upright; None after an error.
        pixels: (H, W), classes as uint8 (255 where no single class has the largest score), or depth as float32 in the
            unit that the model was trained in; None after an error.
        error: why there is no prediction, or None.
    """

    input: str
    image: np.ndarray | None
    pixels: np.ndarray | None
    error: str | None


def predict_maps(
    config: Config | str | os.PathLike,
    checkpoint: str | os.PathLike | None,
    inputs: Input | Sequence[Input],
    *,
    device: torch.device | str | None = None,
) -> Iterator[PredictedMap]:
    """Segment images, or predict their depth, from RGB.

    An image is resized as in the config's tests, but whole and without padding, each side to the nearest multiple of
    the patch. The prediction is resized to the image before classes are chosen.

    Args:
        config: see `get_model`. It must have a DensePredictor with RGB alone.
        checkpoint: see `get_model`; one that leaves weights at their initial values is refused.
        inputs: see `list_inputs`.
        device: see `get_model`.

    Raises:
        ValueError: another model, a checkpoint that does not fit, or none, or wrong inputs; before anything is read.
    """
    cfg, checkpoint = _resolve_trained(config, checkpoint)
    if cfg.model.type != 'DensePredictor' or [*cfg.model.backbone.get('tokenizers', ['rgb'])] != ['rgb']:
        raise ValueError(
            f'{cfg.filename}: the model predicts no maps from colours alone. Give the config of a DensePredictor whose '
            "only modality is 'rgb'."
        )
    source = find_source(cfg, 'image') or dict(transforms=[dict(type='ResizeLong', size=512)])
    fit: Mapping[str, Any] = next(iter(source.get('transforms', ())), {})
    if fit.get('type') not in ('ResizeLong', 'ResizeShort'):
        raise ValueError(
            f'{cfg.filename}: its images are tested behind {fit.get("type", "no transform")}, so the size at which it '
            'tells maps is not known. Begin the transforms of the test source with ResizeLong or ResizeShort.'
        )
    model = _build(cfg.model, checkpoint, device, complete=True)
    require(model.backbone, 'predict_maps', 'patch_size')
    return _predict_maps(model, dtype_of(cfg), fit, list_inputs(inputs))


def _predict_maps(
    model: Any, dtype: str | None, fit: Mapping[str, Any], items: Sequence[Item]
) -> Iterator[PredictedMap]:
    device = model.data_preprocessor.device
    for item in items:
        try:
            if item.modality != 'image':
                raise BrokenFileError(item.name, 'is a video, and maps are predicted of images')
            image = read_image(item.content) if isinstance(item.content, str) else item.content
        except BrokenFileError as error:
            yield PredictedMap(item.name, None, None, error.reason)
            continue
        sides = image.shape[1:3]
        scale = fit['size'] / (max(sides) if fit['type'] == 'ResizeLong' else min(sides))
        patches = zip(sides, model.backbone.patch_size[1:], strict=True)
        height, width = (max(round(side * scale / patch), 1) * patch for side, patch in patches)
        resized = resize(image, height, width, fit.get('interpolation', 'bilinear'))
        clip = torch.from_numpy(resized).movedim(-1, 0)[None]
        with torch.inference_mode():
            with evaluating(dtype, device):
                output = model.outputs({'rgb': clip.to(device)})
            [result] = model.task.resized_results(output, sides)
        [pixels] = result.values()
        yield PredictedMap(item.name, image[0], pixels.cpu().numpy(), None)
