"""OmniMAE the plain way: all patches convolved, explicit attention, full-size decoder buffers, float pixels.

Written from the paper and the specification of the released model, sharing no code with the package: the fast path is
held against it, its numbers in the tests and its speed in benchmarks/bench_step.py.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

MEAN = torch.tensor([0.485, 0.456, 0.406])
STD = torch.tensor([0.229, 0.224, 0.225])


def sinusoid(positions: int, dim: int) -> Tensor:
    """-> (1, positions, dim), as numpy computes it."""
    p, j = np.arange(positions)[:, None], np.arange(dim)[None]
    angle = p / np.power(10000, 2 * (j // 2) / dim)
    angle[:, 0::2], angle[:, 1::2] = np.sin(angle[:, 0::2]), np.cos(angle[:, 1::2])
    return torch.from_numpy(angle.astype(np.float32))[None]


@cache
def position_table(grid: tuple, dim: int, target: tuple, device: torch.device) -> Tensor:
    """-> (1, N', dim): the sinusoids made for ``grid``, resized to ``target``; kept, as models keep them."""
    return resized(sinusoid(grid[0] * grid[1] * grid[2], dim), grid, target).to(device)


def resized(table: Tensor, source: tuple, target: tuple) -> Tensor:
    """(1, N, D) -> (1, N', D): first slice for images, bicubic in space, linear in time."""
    t, h, w = target
    if target == source:
        return table
    slices = table.view(*source, -1).permute(0, 3, 1, 2)  # (t, D, h, w)
    slices = slices[:1] if t == 1 else slices
    if (h, w) != tuple(source[1:]):
        slices = F.interpolate(slices, size=(h, w), mode='bicubic', align_corners=False)
    if len(slices) != t:
        slices = F.interpolate(slices.permute(1, 0, 2, 3)[None], size=(t, h, w), mode='trilinear')[0].permute(
            1, 0, 2, 3
        )
    return slices.permute(0, 2, 3, 1).reshape(1, t * h * w, -1)


def attention(x: Tensor, p: dict, name: str, heads: int) -> Tensor:
    b, n, d = x.shape
    qkv = F.linear(x, p[f'{name}.qkv.weight'], p.get(f'{name}.qkv.bias')).view(b, n, 3, heads, d // heads)
    q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
    weights = (q @ k.transpose(-1, -2) * (d // heads) ** -0.5).softmax(-1)
    return F.linear((weights @ v).transpose(1, 2).reshape(b, n, d), p[f'{name}.proj.weight'], p[f'{name}.proj.bias'])


def norm(x: Tensor, p: dict, name: str) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], p[f'{name}.weight'], p[f'{name}.bias'], 1e-6)


def blocks(x: Tensor, p: dict, name: str, heads: int) -> Tensor:
    i = 0
    while f'{name}.{i}.norm1.weight' in p:
        block = f'{name}.{i}'
        x = x + attention(norm(x, p, f'{block}.norm1'), p, f'{block}.attn', heads)
        hidden = F.gelu(
            F.linear(norm(x, p, f'{block}.norm2'), p[f'{block}.mlp.fc1.weight'], p[f'{block}.mlp.fc1.bias'])
        )
        x = x + F.linear(hidden, p[f'{block}.mlp.fc2.weight'], p[f'{block}.mlp.fc2.bias'])
        i += 1
    return x


def stem(clip: Tensor, p: dict, patch: tuple) -> tuple[Tensor, Tensor, tuple]:
    """Floating clip -> (B, N, D) tokens, the repeated clip, and the grid."""
    if clip.shape[2] == 1:
        clip = clip.repeat(1, 1, patch[0], 1, 1)
    feature = F.conv3d(clip, p['backbone.patch_embed.weight'], p['backbone.patch_embed.bias'], stride=patch)
    return feature.flatten(2).transpose(1, 2), clip, tuple(feature.shape[2:])


def pretrain(
    clip: Tensor, hidden: Tensor, p: dict, *, patch: tuple, grid: tuple, heads: int, decoder_heads: int, normalize=True
) -> tuple[Tensor, Tensor]:
    """(B, 3, T, H, W) normalised, (B, N) bool -> the loss, (B, N, P) predictions of all tokens.

    ``grid``: what the position table was made for.
    """
    x, clip, here = stem(clip, p, patch)
    b, n, d = x.shape
    position = position_table(grid, d, here, x.device)
    x = x + position
    latent = norm(blocks(x[~hidden].view(b, -1, d), p, 'backbone.blocks', heads), p, 'backbone.norm')
    full = torch.empty(b, n, d, device=x.device)
    full[hidden] = p['head.mask_token']
    full[~hidden] = latent.reshape(-1, d)
    y = F.linear(full + position, p['head.decoder_embed.weight'], p['head.decoder_embed.bias'])
    y = norm(blocks(y, p, 'head.blocks', decoder_heads), p, 'head.norm')
    prediction = F.linear(y, p['head.pred.weight'], p['head.pred.bias'])

    mean, std = (x.view(3, 1, 1, 1).to(clip.device) for x in (MEAN, STD))
    pixels = clip * std + mean
    (t, h, w), (pt, ph, pw) = here, patch
    pixels = pixels.view(b, 3, t, pt, h, ph, w, pw).permute(0, 2, 4, 6, 3, 5, 7, 1).reshape(b, n, -1, 3)
    if normalize:
        pixels = (pixels - pixels.mean(2, keepdim=True)) / (pixels.var(2, keepdim=True, unbiased=True) + 1e-6).sqrt()
    errors = (prediction - pixels.flatten(2)).square().mean(-1)
    return (errors * hidden).sum() / hidden.sum(), prediction


def logits(clip: Tensor, p: dict, *, patch: tuple, grid: tuple, heads: int) -> Tensor:
    """(B, 3, T, H, W) normalised -> (B, classes)."""
    x, _, here = stem(clip, p, patch)
    x = x + position_table(grid, x.shape[-1], here, x.device)
    x = blocks(x, p, 'backbone.blocks', heads).mean(1)
    return F.linear(norm(x, p, 'norm'), p['head.weight'], p['head.bias'])
