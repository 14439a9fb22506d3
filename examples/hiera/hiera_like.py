"""A hierarchical backbone of one's own, like Hiera (arXiv:2306.00989), and a head for its maps of several strides.

Tokens of 4x4 pixels become fewer and wider from stage to stage. What is hidden is a *mask unit*: the pixels of one
token of the last stage, 32x32 with four stages. Tokens of a unit stay together, so that hidden units are left out
from the first stage on, and the pretraining sees a unit as its patch.

Of the published code differ: tokens are cut without overlap (there a 7x7 convolution), the pretraining does not fuse
the maps of all stages, and its targets are those of the MAEHead.

Legend: B batch, U units, S tokens of a unit (a power of 4, along a Z-curve: the four of a 2x2 square stand together), D
width, P pixels of a unit.
"""

import torch
import torch.nn.functional as F
from mmengine.model import BaseModule
from torch import nn

from omnimae.models.vit import LayerNorm, Mlp, PatchEmbed, patchify, xavier_linear
from omnimae.registry import MODELS
from omnimae.structures import Grid

PIXELS = 4  # along a side of a token of the first stage


def to_z_order(x, levels):
    """(..., 2^levels * a, 2^levels * b, D) -> (..., 4^levels, a, b, D): the squares of a map along a Z-curve."""
    lead = x.dim() - 3
    x = x.unflatten(lead + 1, (*[2] * levels, -1)).unflatten(lead, (*[2] * levels, -1))
    rows, columns = (range(lead + i * (levels + 1), lead + i * (levels + 1) + levels) for i in (0, 1))
    places = [axis for pair in zip(rows, columns, strict=True) for axis in pair]
    x = x.permute(*range(lead), *places, lead + levels, lead + 2 * levels + 1, -1)
    return x.flatten(lead, lead + 2 * levels - 1) if levels else x.unsqueeze(lead)


def to_map(x, levels):
    """(..., 4^levels, D) -> (..., 2^levels, 2^levels, D): the inverse, for squares of one token."""
    lead = x.dim() - 2
    if levels:
        x = x.unflatten(lead, [2] * 2 * levels)
        x = x.permute(*range(lead), *range(lead, lead + 2 * levels, 2), *range(lead + 1, lead + 2 * levels, 2), -1)
        return x.flatten(lead + levels, lead + 2 * levels - 1).flatten(lead, lead + levels - 1)
    return x.unsqueeze(lead)


class HieraBlock(nn.Module):
    """A pre-norm block; the first of a stage makes four tokens one, by the largest of their queries."""

    def __init__(self, dim, dim_out, num_heads, *, is_local, pools, mlp_ratio=4.0):
        super().__init__()
        self.num_heads, self.is_local, self.pools = num_heads, is_local, pools
        self.norm1 = LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim_out)
        self.proj = nn.Linear(dim_out, dim_out)
        self.skip = nn.Linear(dim, dim_out) if pools else None
        self.norm2 = LayerNorm(dim_out)
        self.mlp = Mlp(dim_out, round(dim_out * mlp_ratio))

    def forward(self, x):
        """(B, U, S, D) -> (B, U, S or S / 4, D'); attention within each unit, or over all of them."""
        y = self.norm1(x)
        q, k, v = self.qkv(y).chunk(3, -1)
        if self.pools:
            q, x = self._pool(q), self._pool(self.skip(y))
        shape = q.shape
        if not self.is_local:
            q, k, v = (part.flatten(1, 2).unsqueeze(1) for part in (q, k, v))
        q, k, v = (part.unflatten(3, (self.num_heads, -1)).transpose(2, 3) for part in (q, k, v))
        answer = F.scaled_dot_product_attention(q, k, v).transpose(2, 3).reshape(shape)
        x = x + self.proj(answer)
        return x + self.mlp(self.norm2(x))

    @staticmethod
    def _pool(x):
        return x.unflatten(2, (-1, 4)).amax(3)


@MODELS.register_module()
class HieraLike(BaseModule):
    """A hierarchical vision transformer for images and videos; the default is of the size of Hiera-T.

    Args:
        dims, depths, num_heads: width, blocks and heads of each stage.
        local_stages: stages whose attention stays within mask units; as in Hiera the block that leads out of one does.
        tubelet: frames of a token.
        clip_size: (T, H, W) that the learned positions are made for; clips of other sizes get them interpolated.
        final_norm: LayerNorm after the last block; a classifier has its own.
    """

    num_extra_tokens = 0

    def __init__(
        self,
        *,
        dims=(96, 192, 384, 768),
        depths=(1, 2, 7, 2),
        num_heads=(1, 2, 4, 8),
        local_stages=(0, 1),
        tubelet=2,
        clip_size=(16, 224, 224),
        final_norm=True,
        init_cfg=None,
    ):
        super().__init__(init_cfg)
        if not len(dims) == len(depths) == len(num_heads):
            raise ValueError(
                f'HieraLike: dims={dims}, depths={depths}, num_heads={num_heads}. Give one for each stage.'
            )
        self.levels = len(dims) - 1
        unit = PIXELS * 2**self.levels
        self.patch_size = (tubelet, unit, unit)
        self.grid = Grid.of(clip_size, self.patch_size)
        self.embed_dim, self.num_layers = dims[-1], sum(depths)
        stages = [stage for stage, depth in enumerate(depths) for _ in range(depth)]
        self.layer_dims = [dims[stage] for stage in stages]
        self.patch_embed = PatchEmbed((tubelet, PIXELS, PIXELS), dims[0])
        t, h, w = self.grid
        self.pos_embed_space = nn.Parameter(torch.empty(1, h << self.levels, w << self.levels, dims[0]))
        self.pos_embed_time = nn.Parameter(torch.empty(t, 1, 1, dims[0]))
        self.blocks = nn.ModuleList()
        for before, stage in zip([0, *stages[:-1]], stages, strict=True):
            attention = dict(is_local=before in local_stages, pools=before != stage)
            self.blocks.append(HieraBlock(dims[before], dims[stage], num_heads[stage], **attention))
        self.norm = LayerNorm(self.embed_dim) if final_norm else nn.Identity()
        xavier_linear(self)
        for table in (self.pos_embed_space, self.pos_embed_time):
            nn.init.trunc_normal_(table, std=0.02)

    def patchify(self, clip):
        """(B, C, T, H, W) -> (B, U, P) pixels of each mask unit, and their grid."""
        return patchify(clip, self.patch_size)

    def encode(self, patches, grid, tokens=None):
        """(B, K, P) normalised units -> (B, K, D); ``tokens`` (B, K) says which of the grid, None means all."""
        return self.norm(self._outputs(patches, grid, tokens)[-1].squeeze(2))

    def tokens(self, clip):
        """(B, C, T, H, W) normalised -> (B, N, D)."""
        return self.encode(*self.patchify(clip))

    def pooled(self, clip):
        """(B, C, T, H, W) normalised -> (B, D)."""
        return self.tokens(clip).mean(1)

    def feature_maps(self, clips, layers, modalities):
        """Of the one modality: (B, C, T, H, W) normalised -> (B, D', t, h', w') after each of these layers."""
        patches, grid = self.patchify(clips[modalities[0]])
        outputs = self._outputs(patches, grid)
        return [self._map(outputs[layer], grid) for layer in layers]

    def layer_of(self, name):
        """Name of a parameter -> its layer, for layer decay."""
        if name.startswith('blocks.'):
            return int(name.split('.')[1]) + 1
        return self.num_layers + 1 if name.startswith('norm.') else 0

    def _outputs(self, patches, grid, tokens=None):
        unit = self.patch_size[1]
        x = patches.unflatten(2, (-1, unit, unit, 3)).movedim(2, -2)  # (B, K, unit, unit, frames, 3)
        x = to_z_order(x.flatten(4), self.levels)  # (B, K, S, 4, 4, frames * 3)
        x = x.unflatten(5, (-1, 3)).movedim(5, 3).flatten(3)  # pixels in the order of the kernel
        positions = self._positions(grid)
        x = self.patch_embed(x) + (positions if tokens is None else positions[tokens])
        outputs = []
        for block in self.blocks:
            x = block(x)
            outputs.append(x)
        return outputs

    def _positions(self, grid):
        """-> (U, S, D)."""
        space, time = self.pos_embed_space.movedim(3, 1), self.pos_embed_time
        if grid[1:] != self.grid[1:]:
            space = F.interpolate(space, size=[n << self.levels for n in grid[1:]], mode='bicubic')
        if grid.t == 1:
            time = time[:1]
        elif grid.t != self.grid.t:
            time = F.interpolate(time[:, 0, 0].T[None], size=grid.t, mode='linear')[0].T[:, None, None]
        side = 1 << self.levels
        units = space[0].unflatten(2, (grid.w, side)).unflatten(1, (grid.h, side)).permute(1, 3, 2, 4, 0)
        units = to_z_order(units, self.levels)[:, :, :, 0, 0]  # (h, w, S, D)
        return (units.flatten(0, 1) + time).flatten(0, 1)

    def _map(self, x, grid):
        """(B, U, S, D) -> (B, D, t, h * side, w * side)."""
        x = to_map(x, (x.shape[2].bit_length() - 1) // 2).unflatten(1, grid)  # (B, t, h, w, side, side, D)
        return x.permute(0, 6, 1, 2, 4, 3, 5).flatten(5).flatten(3, 4)


@MODELS.register_module()
class PyramidHead(BaseModule):
    """Maps of several strides -> scores of each pixel: every map is added to the finer ones (arXiv:1612.03144).

    Args:
        in_dim: width of the maps of each layer of the backbone; the model fills it in.
        out_channels: of the result; the model fills it in.
        layers: the last block of each stage.
        dim: channels of the pyramid.
    """

    def __init__(self, *, in_dim, out_channels, layers=(0, 2, 9, 11), dim=256, init_cfg=None):
        super().__init__(init_cfg)
        self.layers = (*layers,)
        self.lateral = nn.ModuleList(nn.Conv2d(in_dim[layer], dim, 1) for layer in layers)
        self.pred = nn.Conv2d(dim, out_channels, 3, padding=1)

    def forward(self, maps, size):
        """A (B, D', h', w') of each layer, (H, W) -> (B, out_channels, H, W)."""
        x = self.lateral[-1](maps[-1])
        for lateral, finer in zip(self.lateral[-2::-1], maps[-2::-1], strict=True):
            x = lateral(finer) + F.interpolate(x, size=finer.shape[2:], mode='nearest')
        return F.interpolate(self.pred(x), size=size, mode='bilinear')
