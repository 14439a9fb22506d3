"""A plain Vision Transformer over spatio-temporal patches of images and videos.

The encoder of OmniMAE (arXiv:2206.08356, section 3.1) and of VideoMAE has pre-norm blocks and fixed sinusoidal
positions. Options give that of MAE (class token, 2-D positions) and of MAE-ST (learned positions). An image is a clip
of one frame.

Legend: B batch, C channels, T frames, H W pixels, (t, h, w) grid, N = t*h*w tokens, K visible tokens, D width,
P pixels of one patch, in the order (pt, ph, pw, c).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torchvision.ops import StochasticDepth

from omnimae.registry import MODELS
from omnimae.structures import Grid, Size3

from .ops import Linear, attend, linear

LayerNorm = partial(nn.LayerNorm, eps=1e-6)

POSITIONS = ('sincos1d', 'sincos2d', 'learned', 'separable')

# name: (embed_dim, depth, num_heads, mlp_ratio). S, B, L, H of arXiv:2010.11929; g of VideoMAE V2 (arXiv:2303.16727).
ARCHITECTURES = {
    'tiny': (192, 12, 3, 4.0),
    'small': (384, 12, 6, 4.0),
    'base': (768, 12, 12, 4.0),
    'large': (1024, 24, 16, 4.0),
    'huge': (1280, 32, 16, 4.0),
    'giant': (1408, 40, 16, 48 / 11),
}


def patchify(clip: Tensor, patch_size: Size3) -> tuple[Tensor, Grid]:
    """(B, C, T, H, W) -> (B, N, P) and the grid. For a clip of one frame P = ph*pw*C."""
    if clip.dim() != 5:
        raise ValueError(f'Clips have the shape (B, C, T, H, W), images T=1; got {tuple(clip.shape)}.')
    batch, channels, frames, height, width = clip.shape
    grid = Grid.of((frames, height, width), patch_size)
    pt, ph, pw = min(frames, patch_size[0]), *patch_size[1:]
    patches = clip.reshape(batch, channels, grid.t, pt, grid.h, ph, grid.w, pw).permute(0, 2, 4, 6, 3, 5, 7, 1)
    return patches.reshape(batch, grid.num_tokens, pt * ph * pw * channels), grid


def sinusoid_table(num_positions: int, dim: int) -> Tensor:
    """-> (1, num_positions, dim) float32: sin at even channels, cos at odd ones, over the flat token number.

    Channel j of position p has the angle p / 10000^(2*floor(j/2)/dim), in double precision as in the release.
    """
    channel = torch.arange(dim, dtype=torch.float64)
    angle = torch.arange(num_positions, dtype=torch.float64)[:, None] / 10000 ** (2 * (channel // 2) / dim)
    return torch.where(channel % 2 == 0, angle.sin(), angle.cos()).float()[None]


def sinusoid_table_2d(grid: Grid, dim: int) -> Tensor:
    """-> (1, h*w, dim) float32: MAE's table. The first half of the channels is for the column, the second for the row.

    Each half has sines, then cosines, of the index times 10000^(-i / (dim/4)).
    """
    if grid.t != 1 or dim % 4:
        raise ValueError(
            f"positions='sincos2d' are those of one time slice, in multiples of 4 channels; got {grid.t} and {dim}. "
            "Choose 'sincos1d', or patches as long as the clip."
        )
    rate = 10000 ** (-torch.arange(dim // 4, dtype=torch.float64) / (dim // 4))
    row, column = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) for n in grid[1:]), indexing='ij')
    angles = (place.flatten()[:, None] * rate for place in (column, row))
    return torch.cat([half for angle in angles for half in (angle.sin(), angle.cos())], 1).float()[None]


def fixed_table(positions: str, grid: Grid, dim: int) -> Tensor:
    """-> (1, N, dim): the positions called 'sincos1d' or 'sincos2d'."""
    if positions not in ('sincos1d', 'sincos2d'):
        raise ValueError(f"positions={positions!r} is unknown. Choose 'sincos1d' or 'sincos2d'.")
    return sinusoid_table(grid.num_tokens, dim) if positions == 'sincos1d' else sinusoid_table_2d(grid, dim)


def resize_positions(table: Tensor, source: Grid, target: Grid, mode: str = 'bicubic') -> Tensor:
    """(1, N, D) made for ``source`` -> (N', D) for ``target``.

    An image takes the first time slice, as in the release. Another number of tubelets is interpolated linearly in time,
    another image size in space by ``mode``, both as in VideoMAE.
    """
    if target == source:
        return table[0]
    table = table.reshape(*source, -1)
    if target.t == 1:
        table = table[:1]
    elif target.t != source.t:
        flat = table.flatten(1).T[None]  # (1, h*w*D, t)
        table = F.interpolate(flat, size=target.t, mode='linear')[0].T.reshape(target.t, *table.shape[1:])
    if target[1:] != source[1:]:
        space = F.interpolate(table.permute(0, 3, 1, 2), size=target[1:], mode=mode)
        table = space.permute(0, 2, 3, 1)
    return table.reshape(target.num_tokens, -1)


def learned_table(num_positions: int, dim: int) -> nn.Parameter:
    """-> (1, num_positions, dim): initially truncated normal with std 0.02, as in MAE-ST."""
    return nn.Parameter(nn.init.trunc_normal_(torch.empty(1, num_positions, dim), std=0.02))


class PositionedModule(BaseModule):
    """Positions of tokens, of encoders and decoders. They are made for one grid and resized to any other.

    Fixed positions are a buffer ``pos_embed`` (1, N, D). Learned ones are parameters: ``pos_embed`` of each token, or
    with 'separable' ``pos_embed_space`` (1, h*w, D) plus ``pos_embed_time`` (1, t, D) (MAE-ST, arXiv:2205.09113).
    The class token has a learned ``pos_embed_cls`` (1, 1, D), or zero if positions are fixed. With ``trained`` fixed
    positions are parameters that start from the sinusoids, that of the class token too.
    """

    pos_embed: Tensor
    pos_embed_space: Tensor
    pos_embed_time: Tensor
    pos_embed_cls: Tensor

    def make_positions(self, positions: str, grid: Grid, dim: int, *, cls_token: bool, trained: bool = False) -> None:
        """Register positions 'sincos1d', 'sincos2d', 'learned' or 'separable'. ``trained`` trains fixed ones."""
        if positions not in POSITIONS:
            raise ValueError(f'positions={positions!r} is unknown. Choose from {", ".join(POSITIONS)}.')
        self.positions, self.grid = positions, grid
        is_learned = positions in ('learned', 'separable')
        if positions == 'separable':
            self.pos_embed_space = learned_table(grid.h * grid.w, dim)
            self.pos_embed_time = learned_table(grid.t, dim)
        elif is_learned:
            self.pos_embed = learned_table(grid.num_tokens, dim)
        elif trained:
            self.pos_embed = nn.Parameter(fixed_table(positions, grid, dim))
        else:
            self.register_buffer('pos_embed', fixed_table(positions, grid, dim))
        if cls_token and is_learned:
            self.pos_embed_cls = learned_table(1, dim)
        elif cls_token and trained:
            self.pos_embed_cls = nn.Parameter(torch.zeros(1, 1, dim))

    def fixed_positions(self) -> Tensor | None:
        """-> (1, N, D): the initial sinusoids, which a checkpoint may replace. None if learned."""
        if self.positions in ('learned', 'separable'):
            return None
        return fixed_table(self.positions, self.grid, self.pos_embed.shape[2])

    def positions_on(self, grid: Grid) -> Tensor:
        """-> (N, D) of the tokens of this grid, see `resize_positions`."""
        if self.positions == 'separable':
            table = (self.pos_embed_time[:, :, None] + self.pos_embed_space[:, None]).flatten(1, 2)
        else:
            table = self.pos_embed
        return resize_positions(table, self.grid, grid)

    def cls_position(self) -> Tensor:
        """-> (1, 1, D)."""
        return self.pos_embed_cls if hasattr(self, 'pos_embed_cls') else torch.zeros_like(self.pos_embed[:, :1])


def xavier_linear(module: nn.Module) -> None:
    """Initialise every linear layer in the module: Xavier-uniform weight, zero bias (as in the release)."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def xavier_attention(module: nn.Module) -> None:
    """Initialise queries, keys and values of every attention as separate layers with Xavier-uniform weights."""
    for attention in module.modules():
        if isinstance(attention, Attention):
            for weight in attention.qkv.weight.data.chunk(3):
                nn.init.xavier_uniform_(weight)


class PatchEmbed(nn.Module):
    """A convolution whose stride is its kernel, applied to patches that are already cut out: a linear layer.

    The weight keeps the convolution's shape (D, C, pt, ph, pw), so that checkpoints are interchangeable.
    """

    def __init__(self, patch_size: Size3, embed_dim: int, in_channels: int = 3, *, xavier: bool = True):
        super().__init__()
        conv = nn.Conv3d(in_channels, embed_dim, patch_size)  # for torch's default initialisation of the bias
        self.weight, self.bias = conv.weight, conv.bias
        if xavier:
            nn.init.xavier_uniform_(self.weight.view(embed_dim, -1))

    def forward(self, patches: Tensor) -> Tensor:
        """(B, K, P) -> (B, K, D). Patches of one frame mean that frame repeated over the tubelet."""
        kernel = self.weight
        if patches.shape[-1] != kernel[0].numel():
            kernel = kernel.sum(2, keepdim=True)
        return linear(patches, kernel.permute(0, 2, 3, 4, 1).flatten(1), self.bias)


class QVBiasedLinear(nn.Linear):
    """Queries, keys and values, of which the keys have no bias.

    Their third of ``bias`` has no effect and no gradient. It exists so that weights fit other models. (It would not
    change the softmax over keys, but an optimizer would follow the noise of its gradient.)
    """

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., 3*D)."""
        q, k, v = self.bias.chunk(3)
        return linear(x, self.weight, torch.cat([q, torch.zeros_like(k), v]))


class Attention(nn.Module):
    """Multi-head self-attention with one fused projection for queries, keys and values.

    ``qkv_bias`` is True, False, or 'qv' for a bias of queries and values alone.
    """

    def __init__(self, dim: int, num_heads: int, qkv_bias: bool | str):
        super().__init__()
        if qkv_bias not in (True, False, 'qv'):
            raise ValueError(f"qkv_bias={qkv_bias!r} is unknown. Choose True, False or 'qv'.")
        self.num_heads = num_heads
        self.qkv = QVBiasedLinear(dim, 3 * dim) if qkv_bias == 'qv' else Linear(dim, 3 * dim, bias=bool(qkv_bias))
        self.proj = Linear(dim, dim)

    def forward(self, x: Tensor, first: int = 0) -> Tensor:
        """(B, K, D) -> (B, K - first, D): queries from ``first`` on, keys and values of all tokens."""
        batch, length, dim = x.shape
        qkv = self.qkv(x).view(batch, length, 3, self.num_heads, dim // self.num_heads)
        q, k, v = (part.transpose(1, 2) for part in qkv.unbind(2))  # gradients are stacked as the linear layer has them
        return self.proj(attend(q[:, :, first:], k, v).transpose(1, 2).flatten(2))


class CrossAttention(nn.Module):
    """Multi-head attention of queries to a context, with one fused projection for keys and values.

    ``context_dim`` is the width of the context, by default that of the queries.
    """

    def __init__(self, dim: int, num_heads: int, qkv_bias: bool, context_dim: int | None = None):
        super().__init__()
        self.num_heads = num_heads
        self.q = Linear(dim, dim, bias=qkv_bias)
        self.kv = Linear(context_dim or dim, 2 * dim, bias=qkv_bias)
        self.proj = Linear(dim, dim)

    def forward(self, queries: Tensor, context: Tensor) -> Tensor:
        """(B, Q, d), (B, K, D) -> (B, Q, d)."""
        q, k, v = (self._heads(x) for x in (self.q(queries), *self.kv(context).chunk(2, -1)))
        return self.proj(attend(q, k, v).transpose(1, 2).flatten(2))

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(2, (self.num_heads, -1)).transpose(1, 2)


class Mlp(nn.Module):
    """Two linear layers with an exact GELU between them."""

    def __init__(self, dim: int, hidden_dim: int):
        super().__init__()
        self.fc1 = Linear(dim, hidden_dim)
        self.fc2 = Linear(hidden_dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., D)."""
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    """Pre-norm transformer block; both branches may be dropped per sample (DropPath)."""

    def __init__(self, dim: int, num_heads: int, *, mlp_ratio: float, qkv_bias: bool | str, drop_path: float = 0.0):
        super().__init__()
        self.norm1 = LayerNorm(dim)
        self.attn = Attention(dim, num_heads, qkv_bias)
        self.norm2 = LayerNorm(dim)
        self.mlp = Mlp(dim, round(dim * mlp_ratio))
        self.drop_path = StochasticDepth(drop_path, mode='row') if drop_path else nn.Identity()

    def forward(self, x: Tensor, first: int = 0) -> Tensor:
        """(B, K, D) -> (B, K - first, D): the tokens from ``first`` on."""
        x = x[:, first:] + self.drop_path(self.attn(self.norm1(x), first))
        return x + self.drop_path(self.mlp(self.norm2(x)))


def run_blocks(blocks: nn.ModuleList, x: Tensor, *, grad_checkpointing: bool, first: int = 0) -> Tensor:
    """(B, K, D) -> (B, K - first, D) through all blocks. The last block outputs only tokens from ``first`` on.

    Checkpointing recomputes activations in the backward pass.
    """
    if not len(blocks):
        return x[:, first:]
    recompute = grad_checkpointing and torch.is_grad_enabled()
    starts = [0] * (len(blocks) - 1) + [first]
    for block, start in zip(blocks, starts, strict=True):
        x = checkpoint(block, x, start, use_reentrant=False) if recompute else block(x, start)
    return x


def run_to_layers(blocks: nn.ModuleList, x: Tensor, layers: Sequence[int], *, grad_checkpointing: bool) -> list[Tensor]:
    """(B, K, D) -> (B, K, D) after each of the blocks of these numbers, counted from 0, in ascending order."""
    if sorted({*layers} & {*range(len(blocks))}) != list(layers):
        raise ValueError(
            f'layers={list(layers)} are not ascending numbers of blocks. The backbone has 0 to {len(blocks) - 1}.'
        )
    outputs, start = [], 0
    for layer in layers:
        x = run_blocks(blocks[start : layer + 1], x, grad_checkpointing=grad_checkpointing)
        outputs.append(x)
        start = layer + 1
    return outputs


def layer_of(name: str, depth: int) -> int:
    """Name of a parameter of a ViT -> 0 before the blocks, i + 1 in block i, depth + 1 in the norm after them."""
    part, _, rest = name.partition('.')
    return int(rest.partition('.')[0]) + 1 if part == 'blocks' else (depth + 1) * (part == 'norm')


class Sizes(NamedTuple):
    """How large a transformer is."""

    embed_dim: int
    depth: int
    num_heads: int
    mlp_ratio: float

    @classmethod
    def of(
        cls, arch: str | None, embed_dim: int | None, depth: int | None, num_heads: int | None, mlp_ratio: float | None
    ) -> Sizes:
        """Those of ``arch``, but for what is given."""
        if arch is not None and arch not in ARCHITECTURES:
            raise ValueError(
                f'arch={arch!r} is unknown. Choose from {sorted(ARCHITECTURES)}, or give embed_dim, depth, num_heads.'
            )
        width, layers, heads, ratio = ARCHITECTURES[arch] if arch else (None, None, None, 4.0)
        embed_dim = width if embed_dim is None else embed_dim
        depth = layers if depth is None else depth
        num_heads = heads if num_heads is None else num_heads
        if embed_dim is None or depth is None or num_heads is None:
            raise ValueError(f'Give arch, or all of embed_dim={embed_dim}, depth={depth}, num_heads={num_heads}.')
        if embed_dim % num_heads:
            raise ValueError(f'num_heads={num_heads} does not divide embed_dim={embed_dim}.')
        return cls(embed_dim, depth, num_heads, ratio if mlp_ratio is None else mlp_ratio)

    def blocks(self, *, qkv_bias: bool | str, drop_path_rate: float) -> nn.ModuleList:
        """The blocks. DropPath grows linearly to the rate of the last."""
        return nn.ModuleList(
            Block(
                self.embed_dim,
                self.num_heads,
                mlp_ratio=self.mlp_ratio,
                qkv_bias=qkv_bias,
                drop_path=drop_path_rate * i / max(self.depth - 1, 1),
            )
            for i in range(self.depth)
        )


@MODELS.register_module()
class SpatioTemporalViT(PositionedModule):
    """Vision Transformer for images and videos (arXiv:2206.08356, section 3.1).

    Args:
        arch: 'tiny', 'small', 'base', 'large', 'huge' or 'giant': gives embed_dim, depth, num_heads and mlp_ratio
            where they are not given.
        qkv_bias: a bias for queries, keys and values; 'qv' leaves out that of the keys, as VideoMAE does.
        patch_size: (pt, ph, pw) pixels of a tubelet.
        clip_size: (T, H, W) of the position table. It is interpolated for clips of other sizes.
        positions: 'sincos1d' over the token's number, 'sincos2d' as in MAE for one time slice, 'learned' for every
            token, or 'separable', learned in space and time, as in MAE-ST.
        cls_token: a learned token before those of the clip, with a learned position if positions are learned. `encode`
            returns it, `forward` does not.
        pool: what `pooled` returns, the 'mean' over the tokens of the clip, or 'cls', the class token.
        train_positions: train fixed positions, starting from the sinusoids, as in MAE's fine-tuning.
        xavier_patch_embed: initialise the patch embedding Xavier-uniform, as OmniMAE and MAE do. False uses PyTorch's
            default of a convolution, as VideoMAE does.
        separate_qkv_init: initialise queries, keys and values as three layers, as MAE-ST does. False initialises them
            as one, as OmniMAE, MAE and VideoMAE do.
        drop_path_rate: DropPath rate of the last block. It grows linearly from 0 at the first.
        final_norm: LayerNorm on the output tokens, for pretraining. A classifier normalises after pooling instead.
        grad_checkpointing: recompute activations in the backward pass: less memory, a third more time.
    """

    architectures = ARCHITECTURES  # for the advice of `load_weights`

    def __init__(
        self,
        *,
        arch: str | None = None,
        embed_dim: int | None = None,
        depth: int | None = None,
        num_heads: int | None = None,
        mlp_ratio: float | None = None,
        qkv_bias: bool | str = True,
        patch_size: Size3 = (2, 16, 16),
        clip_size: Size3 = (16, 224, 224),
        positions: str = 'sincos1d',
        cls_token: bool = False,
        pool: str = 'mean',
        train_positions: bool = False,
        xavier_patch_embed: bool = True,
        separate_qkv_init: bool = False,
        drop_path_rate: float = 0.0,
        final_norm: bool = True,
        grad_checkpointing: bool = False,
        init_cfg: dict | None = None,
    ):
        super().__init__(init_cfg)
        if pool not in ('mean', 'cls'):
            raise ValueError(f"pool={pool!r} is unknown. Choose 'mean' or 'cls'.")
        if pool == 'cls' and not cls_token:
            raise ValueError("pool='cls', and the backbone has no class token. Set cls_token=True, or pool='mean'.")
        sizes = Sizes.of(arch, embed_dim, depth, num_heads, mlp_ratio)
        self.embed_dim, self.num_layers = sizes.embed_dim, sizes.depth
        self.patch_size = (*patch_size,)  # a config may have a list
        self.pool = pool
        self.num_extra_tokens = int(cls_token)
        self.grad_checkpointing = grad_checkpointing
        self.patch_embed = PatchEmbed(self.patch_size, self.embed_dim, xavier=xavier_patch_embed)
        grid = Grid.of(clip_size, self.patch_size)
        self.make_positions(positions, grid, self.embed_dim, cls_token=cls_token, trained=train_positions)
        self.blocks = sizes.blocks(qkv_bias=qkv_bias, drop_path_rate=drop_path_rate)
        self.norm = LayerNorm(self.embed_dim) if final_norm else nn.Identity()
        xavier_linear(self)
        if separate_qkv_init:
            xavier_attention(self.blocks)
        if cls_token:
            self.cls_token = nn.Parameter(torch.empty(1, 1, self.embed_dim).normal_(std=0.02))

    def forward(self, clip: Tensor) -> Tensor:
        """(B, C, T, H, W) floating, normalised -> (B, N, D): all tokens of the clip."""
        return self.encode(*self.patchify(clip))[:, self.num_extra_tokens :]

    def tokens(self, clip: Tensor) -> Tensor:
        """The same, as `Backbone` names it."""
        return self(clip)

    def pooled(self, clip: Tensor) -> Tensor:
        """(B, C, T, H, W) floating, normalised -> (B, D): mean over the tokens of the clip, or the class token."""
        return self.encode(*self.patchify(clip))[:, 0] if self.pool == 'cls' else self(clip).mean(1)

    def patchify(self, clip: Tensor) -> tuple[Tensor, Grid]:
        """(B, C, T, H, W) -> (B, N, P) and the grid, in the clip's own dtype."""
        return patchify(clip, self.patch_size)

    def encode(self, patches: Tensor, grid: Grid, tokens: Tensor | None = None) -> Tensor:
        """(B, K, P) floating, normalised patches -> (B, K, D); ``tokens`` (B, K) says which ones, None means all.

        With a class token (B, 1 + K, D), that one first.
        """
        x = run_blocks(self.blocks, self._embed(patches, grid, tokens), grad_checkpointing=self.grad_checkpointing)
        return self.norm(x)

    def encode_layers(self, patches: Tensor, grid: Grid, layers: Sequence[int], tokens: Tensor | None = None) -> Tensor:
        """As `encode`, without norm -> (len(layers), B, K, D): before the blocks (0), or after the given block."""
        x = self._embed(patches, grid, tokens)
        blocks = [layer - 1 for layer in layers if layer]
        outputs = run_to_layers(self.blocks, x, blocks, grad_checkpointing=self.grad_checkpointing)
        return torch.stack([x] * (0 in layers) + outputs)

    def feature_maps(
        self, clips: Mapping[str, Tensor], layers: Sequence[int], modalities: Sequence[str]
    ) -> list[Tensor]:
        """The modality -> (B, C, T, H, W) normalised -> (B, D, t, h, w) after each of these blocks, without norm."""
        if len(clips) != 1 or clips.keys() != {*modalities}:
            raise ValueError(
                f'A {type(self).__name__} has one modality, and was given {list(clips)} to read {list(modalities)}. '
                'Give it one, or take a MultiModalViT.'
            )
        patches, grid = self.patchify(clips[modalities[0]])
        x = self._embed(patches, grid)
        outputs = run_to_layers(self.blocks, x, layers, grad_checkpointing=self.grad_checkpointing)
        return [x[:, self.num_extra_tokens :].transpose(1, 2).unflatten(2, grid) for x in outputs]

    def layer_of(self, name: str) -> int:
        """Name of a parameter -> its layer, see `Backbone`."""
        return layer_of(name, self.num_layers)

    def _embed(self, patches: Tensor, grid: Grid, tokens: Tensor | None = None) -> Tensor:
        positions = self.positions_on(grid)
        x = self.patch_embed(patches) + (positions if tokens is None else positions[tokens])
        if self.num_extra_tokens:
            x = torch.cat([(self.cls_token + self.cls_position()).expand(x.shape[0], -1, -1), x], dim=1)
        return x
