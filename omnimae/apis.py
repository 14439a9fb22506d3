"""From Python: models by name; classes, features and reconstructions of images and videos; maps of images.

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
import zlib
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
import torch
from mmengine.config import Config
from rich.progress import track
from torch import Tensor, nn
from torch.utils.data import DataLoader

from omnimae.checkpoint import Checkpoint, load_weights
from omnimae.config import find_config as find_config  # users look for it here
from omnimae.consistency import metrics_of
from omnimae.data.annotations import read_classes
from omnimae.data.media.frames import ClipSampling
from omnimae.data.transforms import resize
from omnimae.engine import choose_device, dtype_of, evaluating, find_run, frozen_model, load_config_for
from omnimae.inputs import Input, Item, Pipeline, PreparedInputs, default_source, list_inputs, sampling_of
from omnimae.registry import DATASETS, MODELS
from omnimae.structures import require
from omnimae.visualization.reconstructions import Reconstruction, reconstruct_sample
from omnimae.visualization.saliency import saliency
from omnimae.zoo import CLASSIFIERS, PRETRAINED, ZOO, find_checkpoint

# ---------------------------------------------------------------------------------------------------------------------
# Models by name


def get_model(
    config: Config | str | os.PathLike,
    checkpoint: str | os.PathLike | None = None,
    *,
    device: torch.device | str | None = None,
    cfg_options: Mapping[str, Any] | None = None,
) -> nn.Module:
    """Build a model of a config, in evaluation mode.

    Args:
        config: a Config, a path, or a name below ``configs/``. The folder of a run, see `find_run`, or a name in
            ``ZOO`` includes its checkpoint.
        checkpoint: path or URL of weights in any layout, or a name in ``ZOO``. None keeps initial weights, whatever
            the config's ``init_cfg``. The log lists loaded, missing and unexpected keys, see `load_weights`. A config
            with ``num_classes=None`` has the classes of its head.
        device: by default the first GPU, or the CPU, see `choose_device`.
        cfg_options: dotted keys and values that change a config of that path or name.

    Raises:
        ValueError: no such config, or a checkpoint that does not fit it.
    """
    cfg, checkpoint = resolve(config, checkpoint, cfg_options)
    return _build(cfg.model, None if checkpoint is None else Checkpoint.read(checkpoint), device, complete=False)


def resolve(
    config: Config | str | os.PathLike,
    checkpoint: str | os.PathLike | None,
    options: Mapping[str, Any] | None,
    names: Collection[str] = tuple(ZOO),
) -> tuple[Config, str | os.PathLike | None]:
    """Look up the names, see `get_model`. An error may suggest ``names`` of weights."""
    if isinstance(config, str) and config in ZOO:
        checkpoint = checkpoint or ZOO[config].url
        config = ZOO[config].config
    elif isinstance(config, str | os.PathLike) and Path(config).is_dir():
        config, found = find_run(config)
        checkpoint = checkpoint or found
    path = None if isinstance(config, Config) else find_config(config, names)
    checkpoint = None if checkpoint is None else find_checkpoint(checkpoint, names)
    return config if path is None else load_config_for(path, checkpoint, options), checkpoint


def _build(
    model_cfg: Mapping, checkpoint: Checkpoint | None, device: torch.device | str | None, *, complete: bool
) -> Any:
    # otherwise a Runner that gets the model later would initialise it again
    model_cfg = {**model_cfg, 'init_cfg': None}
    if model_cfg.get('num_classes', 0) is None:
        num_classes = checkpoint and checkpoint.num_classes
        if num_classes is None:
            raise ValueError(
                'model.num_classes=None is filled in from the head of the checkpoint, and '
                f'checkpoint={checkpoint and checkpoint.path} has none. Give the checkpoint of a fine-tuning, or set '
                'num_classes in the config.'
            )
        model_cfg['num_classes'] = num_classes
    model = MODELS.build(model_cfg)
    if checkpoint is not None:
        load_weights(model, checkpoint, complete=complete)
    return model.eval().to(device or choose_device())


# ---------------------------------------------------------------------------------------------------------------------
# Data of a config


def datasets_of(cfg: Config, loader: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield modality and config of each dataset of a loader, such as 'train_dataloader'."""
    dataset = (cfg.get(loader) or {}).get('dataset', {})
    for source in dataset.get('sources', {'': dataset}).values():
        kind = DATASETS.get(source['type']) if 'type' in source else None
        if (modality := getattr(kind, 'modality', None)) is not None:
            yield modality, source


def find_source(cfg: Config, modality: str) -> dict[str, Any] | None:
    """Find the first dataset of a modality that the config tests on, else validates on."""
    loaders = ('test_dataloader', 'val_dataloader')
    return next((source for loader in loaders for kind, source in datasets_of(cfg, loader) if kind == modality), None)


def find_classes(cfg: Config, stored: Sequence[Sequence[str]], num_classes: int) -> tuple[str, ...] | None:
    """Find ``num_classes`` names: those ``stored`` in the checkpoint, see `Checkpoint.classes`, else the config's."""
    candidates: list[Sequence[str] | None] = [*stored]
    for modality in ('image', 'video'):
        classes = (find_source(cfg, modality) or {}).get('classes')
        if isinstance(classes, str):  # a list of names among the data, which need not be here
            classes = read_classes(classes) if os.path.isfile(classes) else None
        candidates.append(classes)
    return next((tuple(names) for names in candidates if names is not None and len(names) == num_classes), None)


def training_sampling(cfg: Config) -> ClipSampling:
    """Look up how the first video source of training takes clips. It takes one of the middle instead."""
    sources = (cfg.get('train_dataloader') or {}).get('dataset', {}).get('sources', {})
    source: Mapping[str, Any] = next((x for x in sources.values() if 'clip_seconds' in x or 'sampling' in x), {})
    return sampling_of(source)._replace(num_clips=1, to_end=True)


# ---------------------------------------------------------------------------------------------------------------------
# Inference


@dataclass(eq=False)
class Result:
    """What all results have.

    Attributes:
        input: its path, or ``inputs[3]`` for an array.
        modality: 'image' or 'video'.
        error: why the input could not be read, or None.
    """

    input: str
    modality: str
    error: str | None = None


ResultT = TypeVar('ResultT', bound=Result)


class Inferencer(Generic[ResultT]):
    """Images and videos -> a result each, in their order. A subclass defines ``result_type`` and `compute`.

    Inputs of the same modality and size form a batch. A file that cannot be read has a result with an ``error``, and
    does not affect the others. The model computes in the dtype of the config's training, on a GPU mostly bfloat16. Set
    ``cfg.optim_wrapper.dtype = None`` for float32. Its last layer, and the results, are float32.

    Args:
        config: see `get_model`.
        checkpoint: see `get_model`. It must hold all weights of the model.
        device: see `get_model`.
        batch_size: inputs in a batch. Each may have several views.
        num_workers: processes that read files. 0 reads in this one.
        progress: show a progress bar.
        cfg_options: see `get_model`.

    Raises:
        ValueError: no such config, a checkpoint that does not fit, or no checkpoint.
    """

    result_type: type[ResultT]
    names: Collection[str] = tuple(ZOO)  # weights that an error may suggest

    def __init__(
        self,
        config: Config | str | os.PathLike,
        checkpoint: str | os.PathLike | None = None,
        *,
        device: torch.device | str | None = None,
        batch_size: int = 8,
        num_workers: int = 0,
        progress: bool = True,
        cfg_options: Mapping[str, Any] | None = None,
    ):
        self.cfg, checkpoint = resolve(config, checkpoint, cfg_options, self.names)
        if checkpoint is None:
            raise ValueError('checkpoint=None: results of initial weights mean nothing. Give a path, a URL or a name.')
        model_cfg, weights = self.model_config(), Checkpoint.read(checkpoint)
        self.stored_classes = weights.classes
        self.model = _build(model_cfg, weights, device, complete=True)
        self.pipelines = self.make_pipelines()
        self.batch_size, self.num_workers, self.progress = batch_size, num_workers, progress

    def model_config(self) -> dict:
        """Give the config of the model that computes the results."""
        return self.cfg.model

    def make_pipelines(self) -> dict[str, Pipeline]:
        """Modality -> what prepares its inputs: as in the config's tests. Inputs of no pipeline get an error."""
        backbone = self.model.backbone
        require(backbone, type(self).__name__, 'grid', 'patch_size')
        clip_size = backbone.grid.clip_size(backbone.patch_size)
        sources = {x: find_source(self.cfg, x) or default_source(x, clip_size) for x in ('image', 'video')}
        return {modality: Pipeline(source, modality) for modality, source in sources.items()}

    def __call__(self, inputs: Input | Sequence[Input]) -> list[ResultT]:
        """Infer all inputs, see `stream`."""
        return [*self.stream(inputs)]

    def stream(self, inputs: Input | Sequence[Input]) -> Iterator[ResultT]:
        """Infer the inputs of `list_inputs` one after the other, and keep no result.

        Raises:
            ValueError: an input that is no image, video, folder of them or array of pixels; before anything is read.
        """
        return self.stream_items(list_inputs(inputs))

    def stream_items(self, items: Sequence[Item]) -> Iterator[ResultT]:
        """Infer what `list_inputs` found, see `stream`."""
        loader = DataLoader(PreparedInputs(items, self.pipelines), batch_size=None, num_workers=self.num_workers)
        results: dict[int, ResultT] = {}
        waiting: dict[tuple, dict[int, Tensor]] = defaultdict(dict)
        next_index = 0
        for index, (clip, error) in enumerate(
            track(loader, type(self).__name__, total=len(items), disable=not self.progress)
        ):
            if clip is None:
                results[index] = self.result_type(items[index].name, items[index].modality, error)
            else:
                key = (items[index].modality, tuple(clip.shape))
                waiting[key][index] = clip
                if len(waiting[key]) == self.batch_size:
                    results |= self._finish(items, waiting.pop(key))
            while next_index in results:
                yield results.pop(next_index)
                next_index += 1
        for clips in waiting.values():
            results |= self._finish(items, clips)
        yield from (results[index] for index in sorted(results))

    @torch.inference_mode()
    def _finish(self, items: Sequence[Item], clips: Mapping[int, Tensor]) -> dict[int, ResultT]:
        device = self.model.data_preprocessor.device
        batch = torch.stack(list(clips.values())).to(device)
        with evaluating(dtype_of(self.cfg), device):
            return dict(zip(clips, self.compute(batch, [items[index] for index in clips]), strict=True))

    def compute(self, clip: Tensor, items: Sequence[Item]) -> Sequence[ResultT]:
        """(B, V, C, T, H, W) uint8, with V views, of inputs of one modality -> their results."""
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


@dataclass(eq=False)
class Classification(Result):
    """Classes of an input.

    Attributes:
        guesses: the most probable classes, best first. Empty after an error.
        scores: (classes,) logits, averaged over views, as ``tools/test.py --out`` writes them; None after an error.
            If the config tests by probabilities (``test_evaluator.softmax``), the logarithm of their average.
    """

    guesses: tuple[Guess, ...] = ()
    scores: np.ndarray | None = None


class ClassificationInferencer(Inferencer[Classification]):
    """Classify images and videos; see `Inferencer` for the other arguments and errors.

    Args:
        classes: names of the classes in the order of their labels; by default those in the checkpoint of a run, else
            those in the config.
        topk: guesses in a result.

    Raises:
        ValueError: not the config of a classifier, or another number of names than it has classes.
    """

    result_type = Classification
    names = CLASSIFIERS

    def __init__(self, *args: Any, classes: Sequence[str] | None = None, topk: int = 5, **kwargs: Any):
        super().__init__(*args, **kwargs)
        num_classes = self.model.data_preprocessor.num_classes
        self.classes = find_classes(self.cfg, self.stored_classes, num_classes) if classes is None else tuple(classes)
        if self.classes is not None and len(self.classes) != num_classes:
            raise ValueError(f'classes has {len(self.classes)} names, and the model num_classes={num_classes}.')
        self.topk = min(topk, num_classes)
        self.softmax = any(metric.get('softmax') for metric in metrics_of(self.cfg, 'test'))

    def model_config(self) -> dict:
        """Give the config's model."""
        if 'num_classes' not in self.cfg.model:
            raise ValueError(
                f'model.type={self.cfg.model.type!r} classifies nothing. Give the folder of a fine-tuning, or its '
                'config.'
            )
        return self.cfg.model

    def compute(self, clip: Tensor, items: Sequence[Item]) -> list[Classification]:
        """Average the scores over views and rank them. Of equal ones the lower class comes first."""
        logits = self.model.view_logits(clip)
        scores = logits.softmax(-1).mean(1).log() if self.softmax else logits.mean(1)
        return [*map(self._ranked, items, scores.float().cpu().numpy())]

    def _ranked(self, item: Item, scores: np.ndarray) -> Classification:
        if np.isnan(scores).any():
            raise ValueError(f'The scores of {item.name} are NaN. Take a checkpoint from before the training diverged.')
        probabilities = np.exp(scores - scores.max())
        probabilities /= probabilities.sum()
        best = np.argsort(-scores, kind='stable')[: self.topk].tolist()
        names = self.classes
        guesses = tuple(Guess(k, None if names is None else names[k], float(probabilities[k])) for k in best)
        return Classification(item.name, item.modality, None, guesses, scores)


@dataclass(eq=False)
class Explanation(Classification):
    """Classes of an input, and which places speak for the most probable one.

    Attributes:
        clip: (T, H, W, 3) uint8, the view that the classes are of; None after an error.
        effect: (t, h, w) float32 of each token, see `saliency`; None after an error.
    """

    clip: np.ndarray | None = None
    effect: np.ndarray | None = None


class Explainer(ClassificationInferencer):
    """Explain the classes of images and videos by `saliency`, in the middle one of several test views.

    See `ClassificationInferencer` for arguments and errors.
    """

    result_type = Explanation

    def compute(self, clip: Tensor, items: Sequence[Item]) -> list[Classification]:
        """Rank the classes of one view, and find the effect of each token on the first."""
        view = clip[:, clip.shape[1] // 2]
        logits, effects = saliency(self.model, view)
        ranked = map(self._ranked, items, logits.float().cpu().numpy())
        frames = view.movedim(1, -1).cpu().numpy()
        return [
            Explanation(**vars(result), clip=seen, effect=effect)
            for result, seen, effect in zip(ranked, frames, effects.cpu().numpy(), strict=True)
        ]


@dataclass(eq=False)
class FeatureVector(Result):
    """Features of an input, (D,) averaged over tokens and views; None after an error."""

    features: np.ndarray | None = None


class FeatureExtractor(Inferencer[FeatureVector]):
    """Frozen features of images and videos, those of ``tools/extract_features.py``; see `Inferencer`.

    The config of a pretraining gives the mean of the tokens, after the backbone's norm. That of a classifier gives the
    input of its head. That of a DensePredictor gives the mean of the tokens.
    """

    result_type = FeatureVector

    def model_config(self) -> dict:
        """Give the config of the backbone alone."""
        return frozen_model(self.cfg.model)

    def compute(self, clip: Tensor, items: Sequence[Item]) -> list[FeatureVector]:
        """Give a vector for each input."""
        rows = self.model.features(clip).float().cpu().numpy()
        return [FeatureVector(item.name, item.modality, None, row) for item, row in zip(items, rows, strict=True)]


@dataclass(eq=False)
class Reconstructed(Result):
    """Reconstructions of an input by name: one, or one for each task of a MultiMAE. Empty after an error."""

    reconstructions: Mapping[str, Reconstruction] = field(default_factory=dict)


class Reconstructor(Inferencer[Reconstructed]):
    """What a masked autoencoder sees of images and videos, and what it predicts; see `Inferencer`.

    Masks are drawn as in training, the same for a file name in every run. Of a video it takes the middle, as many
    seconds or frames as a training clip. A MultiMAE takes images alone, as RGB.

    Args:
        inputs: modalities that a MultiMAE sees whole, and nothing of the others. None draws a mask.

    Raises:
        ValueError: not the config of a pretraining.
    """

    result_type = Reconstructed
    names = PRETRAINED

    def __init__(self, *args: Any, inputs: Sequence[str] | None = None, **kwargs: Any):
        super().__init__(*args, **{'batch_size': 1, **kwargs})
        self.inputs = inputs

    def model_config(self) -> dict:
        """Give the config's model."""
        if self.cfg.model.type not in ('MaskedAutoencoder', 'MultiMAE'):
            raise ValueError(
                f'model.type={self.cfg.model.type!r} reconstructs nothing. Give the config of a pretraining.'
            )
        return self.cfg.model

    @property
    def is_multimodal(self) -> bool:
        """Whether the model is a MultiMAE."""
        return self.cfg.model.type == 'MultiMAE'

    def make_pipelines(self) -> dict[str, Pipeline]:
        """Crop the centre of an image, or of a clip from the middle of a video."""
        stem = self.model.backbone.tokenizers['rgb'] if self.is_multimodal else self.model.backbone
        clip_size = stem.grid.clip_size(stem.patch_size)
        sources = {'image': default_source('image', clip_size)}
        if not self.is_multimodal:
            sampling = training_sampling(self.cfg)._asdict()
            sources['video'] = {**sampling, **default_source('video', clip_size)}
        return {modality: Pipeline(source, modality) for modality, source in sources.items()}

    def compute(self, clip: Tensor, items: Sequence[Item]) -> list[Reconstructed]:
        """Reconstruct each clip with a mask of its own."""
        results = []
        for item, one in zip(items, clip, strict=True):
            sample = dict(id=Path(item.name).name, modality=item.modality, clips=dict(rgb=one[None]))
            results.append(Reconstructed(item.name, item.modality, None, self.reconstruct(sample)))
        return results

    def reconstruct(self, sample: Mapping[str, Any]) -> dict[str, Reconstruction]:
        """Reconstruct the first clip of a sample of a dataset. Its id decides the mask."""
        torch.manual_seed(zlib.crc32(os.fsencode(sample['id'])))
        with evaluating(dtype_of(self.cfg), self.model.data_preprocessor.device):
            return reconstruct_sample(self.model, sample, self.inputs)


# ---------------------------------------------------------------------------------------------------------------------
# Maps


@dataclass(eq=False)
class PredictedMap(Result):
    """Prediction of a DensePredictor for an image, upright by its EXIF and at its size.

    Attributes:
        image: (H, W, 3) uint8, upright; None after an error.
        pixels: (H, W), classes as uint8 (255 where no single class has the largest score), or depth as float32 in the
            unit that the model was trained in; None after an error.
    """

    image: np.ndarray | None = None
    pixels: np.ndarray | None = None


class MapPredictor(Inferencer[PredictedMap]):
    """Segment images, or predict their depth, from RGB; see `Inferencer`.

    The config must have a DensePredictor with RGB alone. An image is resized as in the config's tests, but whole and
    without padding, each side to the nearest multiple of the patch. The prediction is resized to the image before
    classes are chosen.

    Raises:
        ValueError: another model, or tests that resize images in another way.
    """

    result_type = PredictedMap

    def model_config(self) -> dict:
        """Give the config's model."""
        cfg = self.cfg
        if cfg.model.type != 'DensePredictor' or [*cfg.model.backbone.get('tokenizers', ['rgb'])] != ['rgb']:
            raise ValueError(
                f'{cfg.filename}: the model predicts no maps from RGB alone. Give the config of a DensePredictor whose '
                "only modality is 'rgb'."
            )
        source = find_source(cfg, 'image') or dict(transforms=[dict(type='ResizeLong', size=512)])
        self.fit: Mapping[str, Any] = next(iter(source.get('transforms', ())), {})
        if self.fit.get('type') not in ('ResizeLong', 'ResizeShort'):
            raise ValueError(
                f'{cfg.filename}: the transforms of the test source begin with {self.fit.get("type", "nothing")}. '
                'Begin them with ResizeLong or ResizeShort, whose size is that of the images.'
            )
        return cfg.model

    def make_pipelines(self) -> dict[str, Pipeline]:
        """Read images as they are."""
        require(self.model.backbone, type(self).__name__, 'patch_size')
        return {'image': Pipeline({}, 'image')}

    def compute(self, clip: Tensor, items: Sequence[Item]) -> list[PredictedMap]:
        """Give a map at the size of the images."""
        images, sides = clip[:, 0, :, 0].movedim(1, -1).cpu().numpy(), clip.shape[-2:]
        scale = self.fit['size'] / (max(sides) if self.fit['type'] == 'ResizeLong' else min(sides))
        patches = zip(sides, self.model.backbone.patch_size[1:], strict=True)
        height, width = (max(round(side * scale / patch), 1) * patch for side, patch in patches)
        resized = torch.from_numpy(resize(images, height, width, self.fit.get('interpolation', 'bilinear')))
        output = self.model.outputs({'rgb': resized.movedim(-1, 1)[:, :, None].to(clip.device)})
        maps = self.model.task.resized_results(output, sides)
        return [
            PredictedMap(item.name, item.modality, None, image, next(iter(result.values())).cpu().numpy())
            for item, image, result in zip(items, images, maps, strict=True)
        ]


def predict_maps(
    config: Config | str | os.PathLike,
    checkpoint: str | os.PathLike | None,
    inputs: Input | Sequence[Input],
    *,
    device: torch.device | str | None = None,
    cfg_options: Mapping[str, Any] | None = None,
) -> Iterator[PredictedMap]:
    """Predict maps of `list_inputs` one after the other, see `MapPredictor`."""
    predictor = MapPredictor(config, checkpoint, device=device, batch_size=1, progress=False, cfg_options=cfg_options)
    return predictor.stream(inputs)
