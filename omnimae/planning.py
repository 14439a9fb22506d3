"""Predicts the cost of a training: memory, time, loader cores.

A training step runs once on fake tensors, which have shapes and no numbers. It records the FLOPs and the moved bytes of
every operation, and the lifetime of every tensor. A roofline turns these into seconds: an operation takes the larger of
FLOPs over the card's rate and bytes over its bandwidth.

The rates of `CARDS` are from data sheets. `FITTED` has the numbers that are not counted, with their origin.
"""

from __future__ import annotations

import copy
import inspect
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_leaves

from omnimae.flops import Counter
from omnimae.models import ops
from omnimae.registry import DATASETS

GIB = 2**30


class Fitted(NamedTuple):
    """A number that is neither counted nor in a data sheet."""

    value: float
    origin: str


_H200 = 'fitted to 11 steps of OmniMAE B, L and H in bfloat16 on an H200, 2026-11-27'
_LOADER = 'a core of an EPYC: benchmarks/results/2026-11-21_loader_epyc-2-cores.md'
_COPIES = 'benchmarks/results/2026-11-27_copies_epyc-2-cores.md'
FITTED = {
    'product_share': Fitted(0.55, _H200),
    'attention_share': Fitted(0.275, 'measured on an H200: 272 of 989 TFLOP/s, with heads of 80'),
    'narrow_attention_share': Fitted(0.13, 'measured on an H200: 131 of 989 TFLOP/s, with heads of 24'),
    'bandwidth_share': Fitted(0.45, _H200),
    'launch': Fitted(30e-6, f'{_H200}, 25 to 35 us: the time of its host'),
    'context_gib': Fitted(1.0, 'assumed: the driver, cuBLAS and the allocator, before the first tensor'),
    'usable': Fitted(0.92, 'assumed: share of the rest that an allocator hands out before it is too fragmented'),
    'image_ms': Fitted(1.2, f'to open and decode, on {_LOADER}'),
    'image_crop_ms': Fitted(0.2, f'of each crop, on {_LOADER}'),
    'video_ms': Fitted(33.9, f'to open and decode, on {_LOADER}'),
    'video_crop_ms': Fitted(1.8, f'of each crop, on {_LOADER}'),
    'reencoded': Fitted(0.5, f'share of video_ms after prepare_dataset.py --short-side 256, on {_LOADER}'),
    'reencoded_mjpeg': Fitted(0.16, f'the same with --codec mjpeg: {_COPIES}'),
}
CONTEXT = FITTED['context_gib'].value * GIB

Inputs = Callable[[int], Mapping[str, Any]]  # number of samples -> arguments of the model's forward


class Card(NamedTuple):
    """A device by its data sheet, and the shares of these rates that a training reaches.

    Attributes:
        tflops: 10^12 FLOPs a second of dense bfloat16 products with float32 sums.
        bandwidth: of its memory, in 10^9 bytes a second.
        memory: in GiB.
        float32: 10^12 FLOPs a second of float32 products without TF32.
        product_share: share of ``tflops`` in a product of large matrices.
        attention_share, narrow_attention_share: share of ``tflops`` in fused attention with heads of at least 64, and
            with narrower ones.
        bandwidth_share: share of ``bandwidth``.
        launch: seconds of the host for an operation. A step takes at least this for each.
    """

    tflops: float
    bandwidth: float
    memory: float
    float32: float
    product_share: float = FITTED['product_share'].value
    attention_share: float = FITTED['attention_share'].value
    narrow_attention_share: float = FITTED['narrow_attention_share'].value
    bandwidth_share: float = FITTED['bandwidth_share'].value
    launch: float = FITTED['launch'].value


# From the makers' data sheets, without sparsity.
CARDS = {
    'h200': Card(989, 4800, 141, 67),
    'h100': Card(989, 3350, 80, 67),
    'a100-80': Card(312, 2039, 80, 19.5),
    'a100': Card(312, 1555, 40, 19.5),
    'l40s': Card(362, 864, 48, 91.6),
    'a6000': Card(155, 768, 48, 38.7),
    '5090': Card(210, 1792, 32, 105),
    '4090': Card(165, 1008, 24, 82.6),
    '3090': Card(71, 936, 24, 35.6),
}


class StepCount(NamedTuple):
    """Cost of one micro-batch, forward and backward, linear in its size.

    Each array has a row for the fixed part and one for a sample.

    Attributes:
        flops, moved: (2, operations), FLOPs and bytes.
        heads: (operations,), width of the heads of an attention, 0 elsewhere.
        alive: (2, 2), peak bytes of activations in the forward pass and in the backward pass.
    """

    flops: NDArray[np.float64]
    moved: NDArray[np.float64]
    heads: NDArray[np.int64]
    alive: NDArray[np.float64]

    @property
    def num_kernels(self) -> int:
        """Number of operations that the host launches."""
        return len(self.heads)

    def total_flops(self, batch_size: int) -> float:
        """FLOPs of a micro-batch, forward and backward."""
        return float((_line(batch_size) @ self.flops).sum())

    def seconds(self, batch_size: int, card: Card, *, reduced: bool) -> float:
        """Time of a micro-batch on a card, in bfloat16 (``reduced``) or float32."""
        rate = 1e12 * (card.tflops if reduced else card.float32)
        attention = np.where(self.heads < 64, card.narrow_attention_share, card.attention_share)
        shares = np.where(self.heads > 0, attention, card.product_share)
        flops, moved = _line(batch_size) @ self.flops, _line(batch_size) @ self.moved
        busy = np.maximum(flops / (rate * shares), moved / (1e9 * card.bandwidth * card.bandwidth_share)).sum()
        return max(float(busy), self.num_kernels * card.launch)


def _line(batch_size: int) -> NDArray[np.float64]:
    return np.array([1.0, batch_size])


def count_step(model: nn.Module, inputs: Inputs, *, reduced: bool) -> StepCount:
    """Run forward and backward of a model on fake tensors, twice, with 2 and with 4 samples."""
    own = copy.deepcopy(model)  # the caller's stays on its device
    with as_on_a_card(), FakeTensorMode(allow_non_fake_inputs=True):
        fake = own.to_empty(device='cpu').train()
        (rows, alive), (more_rows, more_alive) = (_run(fake, inputs(size), reduced) for size in (2, 4))
    if len(rows) != len(more_rows):
        raise ValueError(
            f'{type(model).__name__} takes {len(rows)} operations for 2 samples and {len(more_rows)} for 4. The cost '
            'of a batch can be predicted only if it always takes the same ones.'
        )
    (flops, moved, heads), (more_flops, more_moved, _) = np.array(rows).T, np.array(more_rows).T
    return StepCount(_fit(flops, more_flops), _fit(moved, more_moved), heads.astype(np.int64), _fit(alive, more_alive))


def _fit(two: Any, four: Any) -> NDArray[np.float64]:
    slope = (np.asarray(four, float) - two) / 2
    return np.stack([two - 2 * slope, slope])


def _run(
    model: nn.Module, arguments: Mapping[str, Any], reduced: bool
) -> tuple[list[tuple[int, int, int]], list[float]]:
    trained = [x for x in model.parameters() if x.requires_grad]
    gradients = [torch.zeros_like(x) for x in trained]  # as in every step but the first
    for x, gradient in zip(trained, gradients, strict=True):
        x.grad = gradient
    with Counter([*model.parameters(), *model.buffers(), *gradients]) as counter:
        for x in tree_leaves(arguments):
            if isinstance(x, Tensor):
                counter.follow(x)
        with torch.autocast('cpu', torch.bfloat16, enabled=reduced):
            loss = model(**arguments, mode='loss')['loss']
        forward, counter.peak = counter.peak, counter.alive
        loss.backward()
    return counter.rows, [forward, counter.peak]


@contextmanager
def as_on_a_card() -> Iterator[None]:
    """Disable the CPU paths of layers. Without a driver, fake tensors of a GPU have no backward pass."""
    with patch.multiple(ops, USE_OWN_ATTENTION=False, USE_ONEDNN=False):
        yield


# ---- What a config trains on ----

# Training rows of published data sets, by a word of their folder or list. Used if the data are not there.
PUBLISHED_ROWS = {
    'imagenet': 1281167,
    'sthv2': 168913,
    'kinetics400': 240436,
    'kinetics710': 658340,
    'inat2018': 437513,
    'places365': 1803460,
    'epic100': 67217,
    'ek100': 67217,
    'ucf101': 9537,
    'hmdb51': 3570,
    'ade20k': 20210,
    'nyuv2': 795,
}


class Source(NamedTuple):
    """One source of the training data, as the config has it.

    Attributes:
        name, modality: of the source.
        rows: number of files or spans, None if unknown.
        origin: where ``rows`` is known from.
        replicas: samples of a row.
        repeats: how often an epoch takes each row.
        clips: name of each input of the model -> (C, T, H, W), dtype.
        target: shape and dtype of the target, None if it is no map.
    """

    name: str
    modality: str
    rows: int | None
    origin: str
    replicas: int
    repeats: float
    clips: Mapping[str, tuple[tuple[int, int, int, int], torch.dtype]]
    target: tuple[tuple[int, int, int, int], torch.dtype] | None

    @property
    def bytes_a_sample(self) -> int:
        """Bytes that the loader sends for a sample."""
        parts = [*self.clips.values(), *([] if self.target is None else [self.target])]
        return sum(int(np.prod(shape)) * dtype.itemsize for shape, dtype in parts)

    def steps(self, global_batch_size: int) -> int | None:
        """Optimizer steps of an epoch, by the rule of `MixedBatchSampler`."""
        if self.rows is None:
            return None
        return int(-(-self.rows * self.replicas // global_batch_size) * self.repeats + 1e-9)


def sources_of(cfg: Mapping[str, Any], rows: Mapping[str, int]) -> list[Source]:
    """The sources of ``train_dataloader``. ``rows`` gives the number of files of some."""
    loader = cfg['train_dataloader']
    sources = loader['dataset']['sources']
    if unknown := sorted(set(rows) - set(sources)):
        raise ValueError(f'--rows names {unknown}, but the sources are {list(sources)}. Name those.')
    repeats = loader.get('sampler', {}).get('repeats') or {}
    return [_source(name, source, rows.get(name), repeats.get(name, 1.0)) for name, source in sources.items()]


def _source(name: str, cfg: Mapping[str, Any], rows: int | None, repeats: float) -> Source:
    kind: Any = DATASETS.get(cfg['type'])
    sizes = [transform['size'] for transform in cfg.get('transforms', ()) if 'size' in transform]
    if not sizes:
        raise ValueError(f'train_dataloader.dataset.sources.{name}.transforms have no size. Add a crop.')
    height, width = (sizes[-1],) * 2 if isinstance(sizes[-1], int) else sizes[-1]
    frames = 1
    if kind.modality == 'video':
        frames = cfg.get('num_frames', inspect.signature(kind).parameters['num_frames'].default)
    clips = {'clip': ((3, frames, height, width), torch.uint8)}
    if 'modalities' in cfg:
        clips = {key: _map(key, part, frames, height, width) for key, part in cfg['modalities'].items()}
    target = clips.pop(cfg['target']) if cfg.get('target') else None
    known, origin = _count_rows(cfg) if rows is None else (rows, '--rows')
    return Source(name, kind.modality, known, origin, cfg.get('replicas', 1), repeats, clips, target)


def _map(
    name: str, cfg: Mapping[str, Any], frames: int, height: int, width: int
) -> tuple[tuple[int, int, int, int], torch.dtype]:
    channels, dtype = {'rgb': (3, torch.uint8), 'depth': (1, torch.int32)}.get(cfg.get('kind', name), (1, torch.uint8))
    stride = cfg.get('stride', 1)
    return (channels, frames, height // stride, width // stride), dtype


def _count_rows(cfg: Mapping[str, Any]) -> tuple[int | None, str]:
    where = str(cfg.get('ann_file') or cfg['root'])
    if os.path.exists(where):
        return len(DATASETS.build(dict(cfg))), 'the data'
    for word, count in PUBLISHED_ROWS.items():
        if word in f'{cfg["root"]}/{where}':
            return count, 'publication'
    return None, 'nowhere'


def inputs_of(cfg: Mapping[str, Any], source: Source) -> Inputs:
    """Number of samples -> arguments of the model's forward, as its preprocessor gives them in training."""
    model = cfg['model']
    preprocessor = model.get('data_preprocessor') or {}
    mixes = bool(preprocessor.get('mixing'))
    normalised = mixes or bool(preprocessor.get('erasing'))

    def inputs(size: int) -> Mapping[str, Any]:
        """Arguments for a batch of ``size`` samples."""
        clips = {
            name: torch.zeros(size, *shape, dtype=torch.float32 if normalised else dtype)
            for name, (shape, dtype) in source.clips.items()
        }
        arguments: dict[str, Any] = dict(clips=clips)
        if 'clip' in clips:
            arguments = dict(clip=clips['clip'], modality=source.modality)
        if source.target is not None:
            shape, dtype = source.target
            arguments['target'] = torch.zeros(size, *shape, dtype=dtype)
        elif model.get('num_classes') is not None:
            labels = torch.zeros(size, dtype=torch.int64)
            arguments['labels'] = F.one_hot(labels, model['num_classes']).float() if mixes else labels
        return arguments

    return inputs


# ---- Memory ----


class Memory(NamedTuple):
    """Bytes on one device during a micro-batch.

    Attributes:
        fixed: what -> bytes that do not depend on the batch size.
        alive: (2, 2), peak bytes of activations, see `StepCount`.
    """

    fixed: Mapping[str, float]
    alive: NDArray[np.float64]

    def activations(self, batch_size: int) -> float:
        """Bytes at the higher of the two peaks."""
        return float((_line(batch_size) @ self.alive).max())

    def of(self, batch_size: int) -> float:
        """Bytes in all."""
        return sum(self.fixed.values()) + self.activations(batch_size)

    def largest_batch(self, memory: float) -> int:
        """Number of samples that fit ``memory`` bytes."""
        room = CONTEXT + (memory - CONTEXT) * FITTED['usable'].value - sum(self.fixed.values())
        once, per_sample = self.alive
        return max(int(((room - once) / per_sample).min()), 0)


def memory_of(model: nn.Module, count: StepCount, source: Source, *, ema: bool, num_shards: int) -> Memory:
    """Weights, gradients and AdamW's two moments in float32, plus a micro-batch and the next one."""
    size = 4.0 * sum(parameter.numel() for parameter in model.parameters())
    trained = 4.0 * sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    fixed = {'weights': size, 'gradients': trained, 'AdamW': 2 * trained / num_shards}
    if ema:
        fixed['average of the weights'] = size
    fixed['CUDA, cuBLAS'] = CONTEXT
    return Memory(fixed, count.alive + [[0], [source.bytes_a_sample]])


def fitting_batch(largest: int, global_batch_size: int, num_gpus: int, replicas: int) -> int:
    """The largest micro-batch of at most ``largest`` samples that divides the global batch. 0 if there is none."""
    if global_batch_size % num_gpus:
        return 0
    per_gpu = global_batch_size // num_gpus
    sizes = (size for size in range(min(largest, per_gpu), 0, -1) if per_gpu % size == 0 and size % replicas == 0)
    return next(sizes, 0)
