"""Arithmetic of a forward pass, counted from the layers of a model: the meta device will do.

Counted are the multiply-accumulates (MACs) of every linear layer (the patch embedding is one) and of both products of
attention, queries with keys and weights with values. Norms, biases, GELU and softmax are left out.

A backbone is a SpatioTemporalViT, a head an MAEHead, a model a MaskedAutoencoder, a MultiMAE or a Classifier, or what
has the same layers by the same names; their types are Any, since this room does not import the models.

Legend: N tokens of the clip, K visible ones, M decoded ones.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from omnimae.structures import Grid

FORMULA = """\
MACs of one clip, forward (1 MAC = 2 FLOPs). N tokens, K of them visible, M predicted; norms, biases, GELU and softmax
are not counted.
  blocks(n)        = n * their linear weights (qkv, proj, fc1, fc2) + 2 * n^2 * width per block (attention)
  encoder(K)       = K * patch embedding + blocks(K); an image embeds one frame, with the kernel summed over time
  decoder(L, K, M) = K * decoder embedding + blocks(L) + M * prediction; nobody reads the last block's output for the
                     L - M other tokens, which saves their proj, fc1, fc2 and rows of attention
  masked           = encoder(K) + decoder(K + M, K, M), what runs; M = N - K where every hidden token is predicted
  all tokens       = encoder(N) + decoder(N, N, N), the same network with nothing hidden and every patch predicted
A class token adds one to K in the encoder, to L and K in the decoder; to L alone there if the decoder has its own. The
decoder's queries are the same for every clip: N rows of its embedding once per batch, which are not counted."""


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


def block_macs(blocks: Any, num_tokens: int) -> int:
    """Count transformer blocks, each on all ``num_tokens`` tokens."""
    return num_tokens * _linear_macs(blocks) + sum(2 * num_tokens**2 * block.attn.proj.in_features for block in blocks)


def _linear_macs(module: nn.Module) -> int:
    """Count the linear layers below, on one token."""
    return sum(layer.weight.numel() for layer in module.modules() if isinstance(layer, nn.Linear))


def encoder_macs(backbone: Any, num_tokens: int, modality: str) -> int:
    """Count the backbone on ``num_tokens`` tokens of the clip."""
    patch_embed = backbone.patch_embed.weight.numel() // (backbone.patch_size[0] if modality == 'image' else 1)
    return num_tokens * patch_embed + block_macs(backbone.blocks, num_tokens + _num_extra(backbone))


def decoder_macs(head: Any, *, num_tokens: int, num_visible: int, num_predicted: int) -> int:
    """Count a decoder over ``num_tokens`` tokens, of which ``num_visible`` come from the encoder."""
    embedding = num_visible * head.decoder_embed.weight.numel()
    blocks = block_macs(head.blocks, num_tokens) - (num_tokens - num_predicted) * _unread_macs(
        head.blocks[-1], num_tokens
    )
    return embedding + blocks + num_predicted * head.pred.weight.numel()


def _unread_macs(block: Any, num_tokens: int) -> int:
    """Count what the last decoder block leaves out for each token that is not predicted."""
    linear = sum(layer.weight.numel() for layer in (block.attn.proj, block.mlp.fc1, block.mlp.fc2))
    return linear + 2 * num_tokens * block.attn.proj.in_features


def masked_row(model: Any, modality: str, what: str, num_visible: int, num_predicted: int | None = None) -> Row:
    """Count a masked autoencoder that encodes ``num_visible`` tokens; all of them means that nothing is hidden.

    It predicts ``num_predicted`` tokens, by default those that are hidden.
    """
    num_tokens = _grid(model.backbone, modality).num_tokens
    num_decoded = num_tokens
    if num_predicted is None:
        num_predicted = num_tokens - num_visible or num_tokens
    else:
        num_decoded = num_visible + num_predicted
    extra, head = _num_extra(model.backbone), model.head_of(modality)
    decoder = decoder_macs(
        head,
        num_tokens=num_decoded + extra,
        num_visible=num_visible + (extra if getattr(head, 'cls_token', None) is None else 0),
        num_predicted=num_predicted,
    )
    return Row(modality, what, num_visible, num_tokens, encoder_macs(model.backbone, num_visible, modality), decoder)


def pretraining_rows(model: Any) -> list[Row]:
    """Count a masked autoencoder per modality: nothing hidden, what runs, and with the paper's rounding.

    Where the decoder has a mask of its own, what the encoder's alone would save stands before what runs.
    """
    rows = []
    for modality, generator in model.mask_generator.items():
        grid = _grid(model.backbone, modality)
        num_tokens = grid.num_tokens
        num_visible = num_tokens - generator.num_hidden(grid)
        rows.append(masked_row(model, modality, 'all tokens', num_tokens))
        num_predicted = None
        if hasattr(generator, 'num_decoded'):
            num_predicted = generator.num_decoded(grid)
            rows.append(masked_row(model, modality, 'masked for the encoder alone', num_visible))
        rows.append(masked_row(model, modality, 'masked, as it runs', num_visible, num_predicted))
        if getattr(generator, 'round_down', None) == 'hidden':  # a generator from outside need not round
            visible = _visible_in_paper(num_tokens, generator.ratio)
            rows.append(masked_row(model, modality, "masked, the paper's rounding", visible))
    return rows


def classifier_rows(model: Any) -> list[Row]:
    """Count a classifier or frozen backbone on one view of an image and of a video; a head counts with the encoder."""
    rows = []
    head = _linear_macs(model) - _linear_macs(model.backbone)
    for modality in ('image', 'video'):
        num_tokens = _grid(model.backbone, modality).num_tokens
        encoder = encoder_macs(model.backbone, num_tokens, modality) + head
        rows.append(Row(modality, 'one view', num_tokens, num_tokens, encoder, 0))
    return rows


@torch.no_grad()
def dense_macs(model: Any, size: int) -> int:
    """Count a DensePredictor on a square image of colours, depth or both, as PyTorch counts: convolutions, too."""
    tokenizers = getattr(model.backbone, 'tokenizers', None)
    channels = {'rgb': 3} if tokenizers is None else {name: part.channels for name, part in tokenizers.items()}
    device = next(model.parameters()).device
    clips = {name: torch.empty(1, number, 1, size, size, device=device) for name, number in channels.items()}
    with FlopCounterMode(display=False) as counter:
        model.eval().outputs(clips)
    return counter.get_total_flops() // 2


def task_rows(model: Any) -> list[Row]:
    """Count a MultiMAE with nothing hidden and as it runs, as PyTorch counts: the encoder, and all decoders together.

    The patches of all tokens are embedded, also of those that are hidden.
    """
    parts = model.backbone.tokenizers.items()
    device, grids = model.backbone.global_tokens.device, {name: part.grid for name, part in parts}
    patches = {}
    for name, part in parts:
        is_map, shape = hasattr(part, 'class_embed'), (1, part.grid.num_tokens, math.prod(part.patch_size))
        patches[name] = (
            torch.zeros(shape, dtype=torch.long, device=device)
            if is_map
            else torch.zeros(*shape[:2], shape[2] * part.channels, device=device)
        )
    modality = 'image' if all(part.grid.t * part.patch_size[0] == 1 for _, part in parts) else 'video'
    num_tokens = sum(grid.num_tokens for grid in grids.values())
    rows = []
    for what, num_visible in (('all tokens', num_tokens), ('masked, as it runs', model.mask_generator.num_visible)):
        visible = torch.zeros(1, num_visible, dtype=torch.long, device=device)
        with torch.no_grad(), FlopCounterMode(display=False) as encoder:
            latent = model.backbone.encode(patches, grids, visible)
        with torch.no_grad(), FlopCounterMode(display=False) as decoder:
            for task in model.head:
                model.head_of(task)(latent, visible, grids, grids[model.head_of(task).modality])
        macs = (counter.get_total_flops() // 2 for counter in (encoder, decoder))
        rows.append(Row(modality, what, num_visible, num_tokens, *macs))
    return rows


def _visible_in_paper(num_tokens: int, ratio: float) -> int:
    """Round the visible tokens down (19 of 196 at 0.9); the code rounds the hidden ones down (and sees 20)."""
    return int(round(num_tokens * (1 - ratio), 6))


def _num_extra(backbone: Any) -> int:
    """Count the tokens that are none of the clip's; a backbone from outside need not know."""
    return getattr(backbone, 'num_extra_tokens', 0)


def _grid(backbone: Any, modality: str) -> Grid:
    return backbone.grid._replace(t=1) if modality == 'image' else backbone.grid
