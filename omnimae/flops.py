"""Arithmetic of a forward pass. PyTorch counts it while the model runs on the meta device.

It counts the multiply-accumulates (MACs) of linear layers (the patch embedding is one), of convolutions, and of both
products of attention. Norms, biases, GELU and softmax are not counted.

Any backbone and head works. A model is a MaskedAutoencoder, a MultiMAE, a Classifier, or has the same methods. Their
types are Any, since this module does not import the models.

Legend: N tokens of the clip, K visible ones, M decoded ones.
"""

from __future__ import annotations

import copy
import math
import weakref
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from omnimae.structures import Backbone, Grid, Masks, part_of, require

FORMULA = """\
MACs of one clip, forward (1 MAC = 2 FLOPs). N tokens, K of them visible, M predicted; norms, biases, GELU and softmax
are not counted. PyTorch counts them as the model runs; a ViT with an MAEHead comes to this:
  blocks(n)        = n * their linear weights (qkv, proj, fc1, fc2) + 2 * n^2 * width per block (attention)
  encoder(K)       = K * patch embedding + blocks(K); an image embeds one frame, with the kernel summed over time
  decoder(L, K, M) = K * decoder embedding + blocks(L) + M * prediction; the last block computes no output for the
                     L - M other tokens, which saves their proj, fc1, fc2 and rows of attention
  masked           = encoder(K) + decoder(K + M, K, M), what runs; M = N - K where every hidden token is predicted
  all tokens       = encoder(N) + decoder(N, N, N), the same network with nothing hidden and every patch predicted
A CrossMAEHead has blocks of M queries, which are linear in M, and for each the keys and values of K tokens:
  cross(K, M)      = depth * (K * kv + M * (q, proj, fc1, fc2) + 2 * M * K * width) + M * prediction
A class token adds one to K in the encoder, to L and K in the decoder; to L alone there if the decoder has its own. The
decoder's queries are the same for every clip. Their embedding, N rows once per batch, is not counted."""

CLIPS = 8191  # of a counted batch. It is prime: it divides the FLOPs of an operation only if that runs for each clip.


class Row(NamedTuple):
    """One line of the count.

    Attributes:
        modality: 'image' or 'video'.
        what: which of the variants is counted.
        num_visible: K.
        num_tokens: N.
        encoder, decoder: MACs of one clip.
    """

    modality: str
    what: str
    num_visible: int
    num_tokens: int
    encoder: int
    decoder: int

    @property
    def total(self) -> int:
        """MACs of encoder and decoder together."""
        return self.encoder + self.decoder


class Counter(TorchDispatchMode):
    """Records (FLOPs, bytes, width of a head or 0) of every operation except views.

    Attributes:
        alive: bytes of the living tensors, without ``own``.
        peak: the maximum of ``alive`` so far.
    """

    def __init__(self, own: Iterable[Tensor] = ()) -> None:
        super().__init__()
        self.rows: list[tuple[int, int, int]] = []
        self.alive = self.peak = 0
        self._followed = {x.untyped_storage()._cdata for x in own}

    def follow(self, x: Tensor) -> None:
        """Count the memory of a tensor until nothing uses it any more."""
        storage = x.untyped_storage()
        address, size = storage._cdata, storage.nbytes()
        if address not in self._followed:
            self._followed.add(address)
            self.alive += size
            self.peak = max(self.peak, self.alive)
            weakref.finalize(storage, self._end, address, size)

    def _end(self, address: int, size: int) -> None:
        self._followed.remove(address)
        self.alive -= size

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        outputs = [x for x in tree_leaves(result) if isinstance(x, Tensor)]
        inputs = [x for x in tree_leaves(args) if isinstance(x, Tensor)]
        owned = {id(x.untyped_storage()) for x in inputs}
        if not outputs or all(id(x.untyped_storage()) in owned for x in outputs):
            return result  # a view
        for x in outputs:
            self.follow(x)
        packet, flops, head = function.overloadpacket, 0, 0
        if '_flash_attention' in str(packet):
            flops, head = _attention_flops(str(packet), inputs)
        elif packet in flop_registry:
            flops = flop_registry[packet](*args, **(kwargs or {}), out_val=result)
        self.rows.append((flops, sum(x.nbytes for x in (*inputs, *outputs)), head))
        return result


def _attention_flops(name: str, inputs: Sequence[Tensor]) -> tuple[int, int]:
    query, key = inputs[1:3] if 'backward' in name else inputs[:2]
    batch, heads, length, width = query.shape
    products = 5 if 'backward' in name else 2
    return 2 * products * batch * heads * length * key.shape[2] * width, width


def count_macs(part: Any, run: Callable[[Any, int], object]) -> int:
    """Count one clip of a batch. Computation once per batch is not counted.

    Args:
        part: a model, or a part of one. A copy of it runs without numbers, in evaluation mode.
        run: (copy, number of clips) -> its forward pass, on tensors of the meta device.
    """
    copied = copy.deepcopy(part).to('meta').eval()
    with torch.device('meta'), torch.no_grad(), Counter() as counter:
        try:
            run(copied, CLIPS)
        except (RuntimeError, NotImplementedError) as error:
            raise ValueError(
                f'The arithmetic of {type(part).__name__} cannot be counted, because it does not run without numbers, '
                f'on the meta device: {error}'
            ) from error
    return sum(flops for flops, *_ in counter.rows if flops % CLIPS == 0) // (2 * CLIPS)


def _tokens(batch_size: int, number: int) -> Tensor:
    return torch.zeros(batch_size, number, dtype=torch.int64)


def encoder_macs(backbone: Backbone, num_tokens: int, modality: str) -> int:
    """Count the backbone on ``num_tokens`` tokens of the clip."""
    frames, grid = 1 if modality == 'image' else backbone.patch_size[0], _grid(backbone, modality)
    values = 3 * frames * math.prod(backbone.patch_size[1:])
    return count_macs(
        backbone,
        lambda own, size: own.encode(torch.zeros(size, num_tokens, values), grid, _tokens(size, num_tokens)),
    )


def decoder_macs(model: Any, modality: str, num_visible: int, num_predicted: int) -> int:
    """Count the head of a masked autoencoder for ``num_visible`` visible tokens of the clip."""
    backbone, grid = model.backbone, _grid(model.backbone, modality)
    head = model.head_of(modality)
    layers = getattr(head, 'layers', None)
    outer = () if layers is None else (len(layers),)
    shape = backbone.num_extra_tokens + num_visible, backbone.embed_dim
    return count_macs(
        head,
        lambda head, size: head(
            torch.zeros(*outer, size, *shape), Masks(_tokens(size, num_visible), _tokens(size, num_predicted)), grid
        ),
    )


def masked_row(model: Any, modality: str, what: str, num_visible: int, num_predicted: int | None = None) -> Row:
    """Count a masked autoencoder that encodes ``num_visible`` tokens. All of them means that nothing is hidden.

    It predicts ``num_predicted`` tokens, by default the hidden ones.
    """
    num_tokens = _grid(model.backbone, modality).num_tokens
    if num_predicted is None and num_visible == num_tokens:
        # a CrossMAEHead reads encoded tokens and predicts others; for an MAEHead both are one sequence
        is_cross = hasattr(model.head_of(modality), 'layers')
        decoder = decoder_macs(model, modality, num_tokens if is_cross else 0, num_tokens)
        embed = getattr(model.head_of(modality), 'decoder_embed', None)  # a head from outside need have none
        if embed is not None:
            size = num_tokens, model.backbone.embed_dim
            decoder += count_macs(embed, lambda embed, batch_size: embed(torch.zeros(batch_size, *size)))
    else:
        predicted = num_tokens - num_visible if num_predicted is None else num_predicted
        decoder = decoder_macs(model, modality, num_visible, predicted)
    return Row(modality, what, num_visible, num_tokens, encoder_macs(model.backbone, num_visible, modality), decoder)


def pretraining_rows(model: Any) -> list[Row]:
    """Count a masked autoencoder per modality, with nothing hidden, as it runs, and with the paper's rounding.

    If the decoder has a mask of its own, or predicts a part (``decode_ratio``), a row with the encoder's mask alone
    comes before the row as it runs.
    """
    rows = []
    for modality, generator in model.mask_generator.items():
        grid = _grid(model.backbone, modality)
        num_tokens = grid.num_tokens
        num_visible = num_tokens - generator.num_hidden(grid)
        rows.append(masked_row(model, modality, 'all tokens', num_tokens))
        ratio = getattr(model, 'decode_ratio', 1)
        num_predicted = None
        if hasattr(generator, 'num_decoded') or ratio < 1:
            num_predicted = part_of(getattr(generator, 'num_decoded', generator.num_hidden)(grid), ratio)
            rows.append(masked_row(model, modality, 'masked for the encoder alone', num_visible))
        rows.append(masked_row(model, modality, 'masked, as it runs', num_visible, num_predicted))
        if getattr(generator, 'round_down', None) == 'hidden':  # a generator from outside need not round
            visible = _visible_in_paper(num_tokens, generator.ratio)
            predicted = part_of(num_tokens - visible, ratio)
            rows.append(masked_row(model, modality, "masked, the paper's rounding", visible, predicted))
    return rows


def classifier_rows(model: Any) -> list[Row]:
    """Count a classifier or frozen backbone on one view of an image and of a video. A head counts with the encoder."""
    backbone: Backbone = model.backbone
    require(backbone, 'the count of a view', 'grid', 'patch_size')
    frames, height, width = backbone.grid.clip_size(backbone.patch_size)

    def row(modality: str, length: int) -> Row:
        clip, num_tokens = (3, length, height, width), _grid(backbone, modality).num_tokens
        macs = count_macs(model, lambda own, size: own(torch.zeros(size, *clip), mode='predict'))
        return Row(modality, 'one view', num_tokens, num_tokens, macs, 0)

    return [row('image', 1), row('video', frames)]


def dense_macs(model: Any, size: int) -> int:
    """Count a DensePredictor on a square image of RGB, depth or both, convolutions included."""
    tokenizers = getattr(model.backbone, 'tokenizers', None)
    channels = {'rgb': 3} if tokenizers is None else {name: part.channels for name, part in tokenizers.items()}
    return count_macs(
        model,
        lambda own, number: own.outputs({name: torch.zeros(number, c, 1, size, size) for name, c in channels.items()}),
    )


def task_rows(model: Any) -> list[Row]:
    """Count the encoder and all decoders of a MultiMAE, with nothing hidden and as it runs.

    It embeds the patches of all tokens, hidden ones too.
    """
    parts = model.backbone.tokenizers.items()
    grids = {name: part.grid for name, part in parts}
    modality = 'image' if all(part.grid.t * part.patch_size[0] == 1 for _, part in parts) else 'video'
    num_tokens = sum(grid.num_tokens for grid in grids.values())
    values = {name: part.in_channels * math.prod(part.patch_size) for name, part in parts}

    def encode(backbone: Any, size: int, num_visible: int) -> None:
        patches = {name: torch.zeros(size, grid.num_tokens, values[name]) for name, grid in grids.items()}
        backbone.encode(patches, grids, _tokens(size, num_visible))

    def decode(heads: Any, size: int, num_visible: int) -> None:
        latent = torch.zeros(size, num_visible + model.backbone.num_extra_tokens, model.backbone.embed_dim)
        for head in heads.values():
            head(latent, _tokens(size, num_visible), grids, grids[head.modality])

    def row(what: str, seen: int) -> Row:
        encoder = count_macs(model.backbone, lambda own, size: encode(own, size, seen))
        decoder = count_macs(model.head, lambda own, size: decode(own, size, seen))
        return Row(modality, what, seen, num_tokens, encoder, decoder)

    return [row('all tokens', num_tokens), row('masked, as it runs', model.mask_generator.num_visible)]


def _visible_in_paper(num_tokens: int, ratio: float) -> int:
    """Round the visible tokens down (19 of 196 at 0.9). The code rounds the hidden ones down (20 are visible)."""
    return int(round(num_tokens * (1 - ratio), 6))


def _grid(backbone: Backbone, modality: str) -> Grid:
    return backbone.grid._replace(t=1) if modality == 'image' else backbone.grid
