"""The shared types: Grid, Masks, Backbone, Head, Address, Sample, Batch.

Legend: B batch, C channels, T frames, H W pixels, N = t*h*w tokens, K visible tokens, M decoded tokens. Tokens are
numbered with t slowest, then h, then w.
"""

from __future__ import annotations

import codecs
import json
import math
import os
from collections.abc import Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypedDict, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

Size3 = tuple[int, int, int]

# Values of unknown pixels in maps, such as padding.
UNKNOWN_CLASS = 255
UNKNOWN_DEPTH = -1

# Paths that configs take from environment variables, or their defaults -> the variable. `load_config` adds them.
VARIABLES: dict[str, str] = {}


class Grid(NamedTuple):
    """How many patches a clip has along time, height and width."""

    t: int
    h: int
    w: int

    @property
    def num_tokens(self) -> int:
        """N = t*h*w."""
        return self.t * self.h * self.w

    @classmethod
    def of(cls, clip_size: Sequence[int], patch_size: Size3) -> Grid:
        """The grid of a clip of (T, H, W) pixels. One frame makes one tubelet.

        Raises:
            ValueError: the patch does not divide the clip.
        """
        (frames, height, width), (pt, ph, pw) = clip_size, patch_size
        if (frames != 1 and frames % pt) or height % ph or width % pw:
            raise ValueError(
                f'A clip of {frames}x{height}x{width} (frames x height x width) cannot be cut into patches of '
                f'{pt}x{ph}x{pw}. Choose a size that the patch divides, or one frame for an image.'
            )
        return cls(max(frames // pt, 1), height // ph, width // pw)

    def clip_size(self, patch_size: Size3) -> Size3:
        """(T, H, W) pixels of a clip that has this grid."""
        return self.t * patch_size[0], self.h * patch_size[1], self.w * patch_size[2]


def token_spans(grids: Mapping[str, Grid]) -> dict[str, slice]:
    """The slice of each modality's tokens when all are concatenated."""
    ends = accumulate(grid.num_tokens for grid in grids.values())
    return {name: slice(end - grid.num_tokens, end) for (name, grid), end in zip(grids.items(), ends, strict=True)}


class Masks(NamedTuple):
    """Which tokens the encoder sees and which the decoder predicts.

    Attributes:
        visible: (B, K) int64, tokens that the encoder sees.
        decode: (B, M) int64, tokens that the decoder predicts.
        scored: (B, M) bool, the decoded tokens that count in the loss; None counts all.
    """

    visible: Tensor
    decode: Tensor
    scored: Tensor | None = None

    @classmethod
    def from_hidden(cls, hidden: Tensor) -> Masks:
        """(B, N) or (B, t, h, w) bool, True = hidden -> Masks that decode the hidden tokens.

        Raises:
            ValueError: not boolean, or the rows hide different numbers of tokens. (The OmniMAE release then silently
                mixes tokens of different samples.)
        """
        if hidden.dtype != torch.bool or hidden.dim() < 2:
            raise ValueError(
                f'hidden must be bool of shape (B, N) or (B, t, h, w), got {hidden.dtype} {tuple(hidden.shape)}.'
            )
        hidden = hidden.flatten(1)
        counts = hidden.sum(1)
        if (counts != counts[0]).any():
            raise ValueError(f'Every row of hidden must hide the same number of tokens, got {counts.tolist()}.')
        order = hidden.to(torch.uint8).argsort(dim=1, stable=True)
        num_visible = hidden.shape[1] - int(counts[0])
        return cls(order[:, :num_visible], order[:, num_visible:])

    def part(self, ratio: float) -> Masks:
        """The same masks with a random share of the decoded tokens of each sample, `part_of` them."""
        num_decoded = part_of(self.decode.shape[1], ratio)
        order = torch.rand(self.decode.shape, device=self.decode.device).argsort(1)
        choice = order[:, :num_decoded].sort(1).values
        scored = None if self.scored is None else self.scored.gather(1, choice)
        return Masks(self.visible, self.decode.gather(1, choice), scored)

    def to(self, device: torch.device | str) -> Masks:
        """The same masks on another device."""
        scored = None if self.scored is None else self.scored.to(device)
        return Masks(self.visible.to(device), self.decode.to(device), scored)


def part_of(number: int, ratio: float) -> int:
    """How many tokens a share of them is: rounded, and at least one."""
    return max(round(ratio * number), 1)


class Backbone(Protocol):
    """What models, heads, the optimizer, checkpoints, counts and tools need of an encoder.

    No other code knows the names of its parameters. Each user needs some members only. Pretraining needs ``patchify``,
    ``encode`` and all attributes but ``num_layers``. A classifier, k-NN and features need ``embed_dim`` and ``pooled``.
    An attentive probe needs ``embed_dim`` and ``tokens``. Layer decay needs ``num_layers`` and ``layer_of``. Heads for
    maps need ``embed_dim``, ``num_layers`` and ``feature_maps``.

    A decoder that reads ``layers`` needs ``encode_layers(patches, grid, layers, tokens=None)``, which is optional. It
    is ``encode`` without norm -> (len(layers), B, extra + K, D). Layer 0 is the input of the first one, L the last.

    A classifier has a norm of its own after the pooling. It sets ``final_norm=False`` where the constructor takes it.
    That leaves out the norm after the last layer, which is called ``norm``.

    Attributes:
        embed_dim: D, width of the output tokens.
        patch_size: (pt, ph, pw) pixels of a token, the smallest piece that can be hidden.
        grid: tokens of a clip of the size in the config, a `Grid`.
        num_extra_tokens: tokens of ``encode`` before those of the clip, such as a class token.
        num_layers: L, of layer decay and feature maps.
        layer_dims: optional, the width of each layer's map. D by default.
    """

    embed_dim: int
    patch_size: Size3
    grid: Grid
    num_extra_tokens: int
    num_layers: int

    def patchify(self, clip: Tensor) -> tuple[Tensor, Grid]:
        """(B, C, T, H, W) -> (B, N, P) pixels of each token, in the order (pt, ph, pw, c), and the grid."""

    def encode(self, patches: Tensor, grid: Grid, tokens: Tensor | None = None) -> Tensor:
        """(B, K, P) normalised -> (B, extra + K, D); ``tokens`` (B, K) says which of the grid, None means all."""

    def pooled(self, clip: Tensor) -> Tensor:
        """(B, C, T, H, W) normalised -> (B, D): what a classifier reads."""

    def tokens(self, clip: Tensor) -> Tensor:
        """(B, C, T, H, W) normalised -> (B, N, D): what an attentive probe reads."""

    def feature_maps(
        self, clips: Mapping[str, Tensor], layers: Sequence[int], modalities: Sequence[str]
    ) -> list[Tensor]:
        """Modality -> (B, C, T, H, W) normalised -> (B, D, t, h, w) after each of ``layers``, numbers in 0..L-1.

        The maps of ``modalities`` are concatenated along D. Each layer may have a grid of its own.
        """

    def layer_of(self, name: str) -> int:
        """Name of a parameter of the backbone -> 0 before the layers, i + 1 in layer i, L + 1 after them."""


@runtime_checkable
class HasPositions(Protocol):
    """A module with positions for a grid: our ViTs, tokenizers and MAEHeads."""

    grid: Grid

    def fixed_positions(self) -> Tensor | None:
        """-> (1, N, D): the initial ``pos_embed``, which a checkpoint may replace. None if it is learned."""


class Head(Protocol):
    """What a MaskedAutoencoder needs of a decoder.

    Attributes:
        target: a PixelTarget, or an object with its methods. Only pictures need it.
        layers: optional, the layers of the backbone that it reads. Then ``latent`` is of ``encode_layers``.
    """

    target: Any

    def __call__(self, latent: Tensor, masks: Masks, grid: Grid) -> Tensor:
        """(B, extra + K, D) encoded tokens -> (B, M, P) predictions for ``masks.decode``."""

    def loss(self, latent: Tensor, masks: Masks, grid: Grid, pixels: Tensor) -> dict[str, Tensor]:
        """As ``__call__``, with pixels (B, M, P) of the decoded patches in 0..1 -> {'loss': ...}."""

    def predicted_pixels(self, pixels: Tensor, decode: Tensor, grid: Grid) -> Tensor:
        """(B, M, P) of the decoded patches, (B, M) -> (B, M, P') of their predicted frames."""

    def errors(self, prediction: Tensor, pixels: Tensor) -> Tensor:
        """(B, M, P) predictions, (B, M, P) `predicted_pixels` -> (B, M).

        The pixels of an image are one frame, which every frame of the predicted tubelet has to match.
        """


def require(part: Backbone | Head, asker: str, *members: str) -> None:
    """Refuse a backbone or head from outside that lacks a member, before it is used."""
    if missing := [name for name in members if not hasattr(part, name)]:
        raise ValueError(
            f'{type(part).__name__} lacks {" and ".join(missing)}, which {asker} needs. See Backbone and Head in '
            'omnimae/structures.py.'
        )


def unknown_mode(mode: str) -> ValueError:
    """What a model's ``forward`` raises for other modes."""
    return ValueError(f"mode={mode!r} is unknown. Choose 'loss' or 'predict'.")


def unwrapped(model: Any) -> Any:
    """The model itself, out of its DDP wrapper."""
    return getattr(model, 'module', model)


def gather_tokens(x: Tensor, tokens: Tensor) -> Tensor:
    """(B, N, P), (B, K) -> (B, K, P): the given tokens of each row."""
    return x.gather(1, tokens[:, :, None].expand(-1, -1, x.shape[2]))


def is_first(scores: Tensor, labels: Tensor) -> Tensor:
    """(B, classes, ...), (B, ...) -> (B, ...) bool: whether the label's score is above those of all other classes.

    A tie or NaN is wrong. So a model with equal scores is never right. (With argmax it would be right on class 0.)
    """
    return (~(scores < scores.gather(1, labels.unsqueeze(1)))).sum(1) == 1


def without_autocast(layer: nn.Module, x: Tensor) -> Tensor:
    """Apply a layer in the precision of its weights. Bfloat16 would round different scores to equal ones."""
    x, device = x.to(next(layer.parameters()).dtype), x.device.type
    # there is none on the meta device; and an exported program stays free of it
    if not torch.amp.is_autocast_available(device) or not torch.is_autocast_enabled(device):
        return layer(x)
    with torch.autocast(device, enabled=False):
        return layer(x)


class Address(NamedTuple):
    """Which sample to read, and its randomness. The sampler hands it to the dataset.

    Attributes:
        source: position of the source in ``MixedDataset.sources``.
        index: row in that source.
        seed: follows from (run seed, epoch, pass over the source); every crop and clip of the sample follows from
            (seed, source, index, replica).
    """

    source: int
    index: int  # type: ignore[assignment]  # replaces tuple.index
    seed: int


def sizes_by_source(batch_size: int | Mapping[str, int], sources: Mapping[str, Any]) -> dict[str, tuple[str, int]]:
    """How many samples of each source make a micro-batch, and the key that says so.

    Args:
        batch_size: one number for all sources, or one for each source or modality. A source's own takes precedence.
        sources: name -> dataset or its class, with a ``modality``.

    Returns:
        Source name -> its key and number, such as ``('batch_size.video', 32)``.

    Raises:
        ValueError: an unknown key, a source without a number, or a value that is no whole number.
    """
    sizes: dict[str, tuple[str, Any]] = dict.fromkeys(sources, ('batch_size', batch_size))
    if isinstance(batch_size, Mapping):
        modalities = {name: source.modality for name, source in sources.items()}
        for key, size in batch_size.items():
            if key not in (known := (*modalities, *modalities.values())):
                raise ValueError(
                    f'batch_size.{key}={size}: no source and no modality has that name. Remove it, or name one of '
                    f'{", ".join(dict.fromkeys(known))}.'
                )
        for name, modality in modalities.items():
            key = name if name in batch_size else modality
            if key not in batch_size:
                raise ValueError(
                    f'batch_size={dict(batch_size)} has no number for the source {name!r}. Add batch_size.{name}, or '
                    f'batch_size.{modality} for all sources of that modality.'
                )
            sizes[name] = f'batch_size.{key}', batch_size[key]
    for key, size in sizes.values():
        if not isinstance(size, int):
            raise ValueError(f'{key}={size!r} is no whole number. Give 1 or more.')
    return sizes


class Sample(TypedDict, total=False):
    """What a dataset returns for an address.

    Attributes:
        clips: (R, C, T, H, W) with R replicas, in evaluation (1, V, C, T, H, W) with V test views, of each aligned
            modality. 'rgb' is uint8, and alone in most data sets. Depth is int16 or int32 with C=1, as stored, negative
            where unknown. A map of classes is uint8 with C=1, 255 where there is none. Absent if it cannot be read.
        modality: 'image' or 'video'.
        label: class index. Absent if the source has no labels.
        target: (R, 1, T, H, W), depth or classes of every pixel, to be predicted. Absent if the source has none.
        id: names the sample in results and error messages. It is its path within the source.
        source: name of its source in a MixedDataset.
        failures: (path, reason) of each file that was replaced. In evaluation the reason why there are no clips.
    """

    clips: dict[str, Tensor]
    modality: str
    label: int
    target: Tensor
    id: str
    source: str
    failures: list[tuple[str, str]]


def check_pixel_statistics(place: str, mean: Sequence[float], std: Sequence[float]) -> None:
    """Refuse values that cannot be mean and std of RGB channels in 0..1, such as those of 0..255."""
    if len(mean) != 3 or len(std) != 3 or not all(0 <= x <= 1 for x in mean) or not all(0 < x <= 1 for x in std):
        raise ValueError(
            f'{place}: mean={mean!r} and std={std!r} must be three numbers each, of RGB channels in 0..1. Divide those '
            'of 0..255 by 255.'
        )


def with_clips(data: Mapping[str, Any]) -> Any:
    """The same sample or batch with ``clips``. A dataset or collate function from outside may give one RGB ``clip``."""
    named = {'clips': {'rgb': data['clip']}} if 'clip' in data else {}
    return {key: value for key, value in data.items() if key != 'clip'} | named


def with_views(clip: Tensor) -> Tensor:
    """(B, V, C, T, H, W), or (B, C, T, H, W) of one view, as callers from Python have it -> the former."""
    return clip if clip.dim() == 6 else clip.unsqueeze(1)


def only_view(clip: Tensor) -> Tensor:
    """(B, 1, C, T, H, W) or (B, C, T, H, W) -> the latter."""
    views = with_views(clip)
    if views.shape[1] != 1:
        raise ValueError(
            f'The model predicts one view of a sample, and was given {views.shape[1]}. Set num_clips=1 and end the '
            'transforms of val_dataloader and test_dataloader with a CenterCrop.'
        )
    return views[:, 0]


def pooled_views(
    backbone: Backbone, preprocessor: Any, clip: Tensor | Mapping[str, Tensor], member: str = 'pooled'
) -> Tensor:
    """(B, V, C, T, H, W) or (B, C, T, H, W), of RGB or of each modality -> (B, V, D); the latter has one view.

    ``member`` 'tokens' gives (B, V, N, D).
    """
    if isinstance(clip, Mapping) and clip.keys() == {'rgb'}:
        clip = clip['rgb']
    views = tree_map(with_views, clip)
    features = getattr(backbone, member)(preprocessor.normalize(tree_map(lambda x: x.flatten(0, 1), views)))
    return features.unflatten(0, (-1, tree_leaves(views)[0].shape[1]))


class Batch(TypedDict, total=False):
    """Collated samples of one modality.

    Attributes:
        clips: (B, C, T, H, W), in evaluation (B, V, C, T, H, W) with V test views, of each modality, as of `Sample`.
        modality: 'image' or 'video'.
        labels: (B,) int64. Absent if the source has no labels.
        target: (B, 1, T, H, W), as of `Sample`.
        ids: B names.
        source: name of their source in a MixedDataset.
        failures: (path, reason) of each file that was replaced. In evaluation of each sample left out.
    """

    clips: dict[str, Tensor]
    modality: str
    labels: Tensor
    target: Tensor
    ids: list[str]
    source: str
    failures: list[tuple[str, str]]


def as_utf8(text: bytes) -> bytes:
    """A text in UTF-8, UTF-16 or UTF-32 -> UTF-8 without a byte order mark. Lines end with a line feed."""
    is_wide = text.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE))
    if is_wide or text.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        text = text.decode('utf-32' if is_wide else 'utf-16', 'replace').encode()
    elif len(text) > 1 and 0 in text[:2]:  # without a mark; texts have no zeros
        text = text.decode('utf-16-be' if text[0] == 0 else 'utf-16-le', 'replace').encode()
    text = text.removeprefix(codecs.BOM_UTF8)
    return text if b'\n' in text else text.replace(b'\r', b'\n')


def check_out(path: str | os.PathLike, *, is_folder: bool, name: str = '') -> Path:
    """Refuse to write to a file as if it were a folder, the reverse, and a place without permission.

    ``name`` begins the error.
    """
    path = Path(path)
    if file := next((x for x in ([path] if is_folder else []) + [*path.parents] if x.is_file()), None):
        raise ValueError(f'{name}{file} is a file. Give a folder, which may be new.')
    if not is_folder and path.is_dir():
        raise ValueError(f'{name}{path} is a folder. Give the name of a file.')
    folder = next(x for x in [path, *path.absolute().parents] if x.is_dir())
    if locked := next((x for x in (folder, path) if x.exists() and not os.access(x, os.W_OK)), None):
        raise ValueError(f'{name}{locked} cannot be written. Change its permissions, or give another place.')
    return path


def to_json(value: Any, **options: Any) -> str:
    """Standard JSON: NaN and infinity become null, tensors and arrays become lists and numbers.

    Args:
        value: of dicts, lists, tensors, arrays and plain values.
        options: of ``json.dumps``.
    """
    return json.dumps(_jsonable(value), **options, allow_nan=False)


def _jsonable(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | range):
        return [_jsonable(item) for item in value]
    if isinstance(value, Tensor | np.ndarray | np.generic):
        return _jsonable(value.tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value
