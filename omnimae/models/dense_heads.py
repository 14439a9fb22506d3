"""Heads for dense prediction, as in MultiMAE: ConvNeXt blocks for segmentation, DPT for depth.

MultiMAE: arXiv:2204.01678, appendix. Sizes and initial weights are those of its release. A head reads feature maps of
some blocks of the backbone, ``layers``. -1 is the last.

Legend: B batch, D width of the maps, (h, w) tokens, (H, W) pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from mmengine.model import BaseModule
from torch import Tensor, nn

from omnimae.registry import MODELS
from omnimae.structures import without_autocast

from .ops import Linear
from .vit import LayerNorm, Mlp, xavier_linear


class ConvNeXtBlock(nn.Module):
    """A depthwise 7x7 convolution, LayerNorm and an MLP, added to the input (arXiv:2201.03545), without layer scale."""

    def __init__(self, dim: int):
        super().__init__()
        self.dwconv = nn.Conv2d(dim, dim, 7, padding=3, groups=dim)
        self.norm = LayerNorm(dim)
        self.mlp = Mlp(dim, 4 * dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        y = self.dwconv(x).movedim(1, -1)
        return x + self.mlp(self.norm(y)).movedim(-1, 1)


def dims_of(in_dim: int | Sequence[int], layers: Sequence[int]) -> list[int]:
    """Width of the maps of all layers, or of each -> those of ``layers``."""
    return [in_dim if isinstance(in_dim, int) else in_dim[layer] for layer in layers]


@MODELS.register_module()
class ConvNeXtHead(BaseModule):
    """Turns every token into ``upscale`` x ``upscale`` pixels of a map, then applies ConvNeXt blocks.

    Args:
        in_dim: D of the maps, or of each layer's map where they differ. The model sets it.
        out_channels: of the result. The model sets it.
        embed_dim: numbers that a token is projected to: upscale^2 pixels of embed_dim / upscale^2 channels.
        upscale: pixels of the map along a side of a token.
        depth: blocks.
    """

    layers = (-1,)

    def __init__(
        self,
        *,
        in_dim: int | Sequence[int],
        out_channels: int,
        embed_dim: int = 6144,
        upscale: int = 4,
        depth: int = 4,
        init_cfg: dict | None = None,
    ):
        super().__init__(init_cfg)
        if embed_dim % upscale**2:
            raise ValueError(f'ConvNeXtHead: embed_dim={embed_dim} is no multiple of upscale={upscale} squared.')
        self.upscale = upscale
        self.proj = Linear(dims_of(in_dim, self.layers)[0], embed_dim)
        self.blocks = nn.Sequential(*(ConvNeXtBlock(embed_dim // upscale**2) for _ in range(depth)))
        self.pred = nn.Conv2d(embed_dim // upscale**2, out_channels, 1)
        xavier_linear(self)

    def forward(self, maps: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        """[(B, D, h, w)], (H, W) -> (B, out_channels, H, W)."""
        [x] = maps
        x = self.proj(x.movedim(1, -1)).unflatten(-1, (self.upscale, self.upscale, -1))  # (B, h, w, row, column, C)
        x = x.permute(0, 5, 1, 3, 2, 4).flatten(4).flatten(2, 3)
        return F.interpolate(without_autocast(self.pred, self.blocks(x)), size=size, mode='bilinear')


class ResidualConv(nn.Module):
    """Two 3x3 convolutions, each after a ReLU, added to the input."""

    def __init__(self, dim: int):
        super().__init__()
        self.conv1 = nn.Conv2d(dim, dim, 3, padding=1)
        self.conv2 = nn.Conv2d(dim, dim, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        return x + self.conv2(F.relu(self.conv1(F.relu(x))))


class Fusion(nn.Module):
    """Adds a finer map to a coarser one and enlarges the sum."""

    def __init__(self, dim: int, has_coarser: bool):
        super().__init__()
        self.residual1 = ResidualConv(dim) if has_coarser else nn.Identity()
        self.residual2 = ResidualConv(dim)
        self.proj = nn.Conv2d(dim, dim, 1)

    def forward(self, x: Tensor, coarser: Tensor | None, size: Sequence[int]) -> Tensor:
        """(B, C, H, W), the coarser (B, C, H, W) if there is one -> (B, C, *size)."""
        x = self.residual1(x) if coarser is None else coarser + self.residual1(x)
        x = F.interpolate(self.residual2(x), size=tuple(size), mode='bilinear', align_corners=True)
        return self.proj(x)


@MODELS.register_module()
class DPTHead(BaseModule):
    """Maps of four blocks at four scales, fused from coarse to fine (arXiv:2103.13413), with its head for depth.

    Only tokens of the maps are read (DPT's readout 'ignore'). There is no batch norm.

    Args:
        in_dim: D of the maps, or of each layer's map where they differ. The model sets it.
        out_channels: of the result. The model sets it.
        layers: four blocks of the backbone.
        layer_dims: channels of their maps, which have 4, 2, 1 and 1/2 pixels along the side of a token.
        dim: channels of the fused map.
    """

    def __init__(
        self,
        *,
        in_dim: int | Sequence[int],
        out_channels: int,
        layers: Sequence[int] = (2, 5, 8, 11),
        layer_dims: Sequence[int] = (96, 192, 384, 768),
        dim: int = 256,
        init_cfg: dict | None = None,
    ):
        super().__init__(init_cfg)
        if len(layers) != 4 or len(layer_dims) != 4:
            raise ValueError(
                f'DPTHead has four scales: layers={tuple(layers)} and layer_dims={tuple(layer_dims)}. Give four each.'
            )
        self.layers = (*layers,)
        scales = [
            nn.ConvTranspose2d(layer_dims[0], layer_dims[0], 4, stride=4),
            nn.ConvTranspose2d(layer_dims[1], layer_dims[1], 2, stride=2),
            nn.Identity(),
            nn.Conv2d(layer_dims[3], layer_dims[3], 3, stride=2, padding=1),
        ]
        self.reassemble = nn.ModuleList(
            nn.Sequential(nn.Conv2d(of_layer, width, 1), scale, nn.Conv2d(width, dim, 3, padding=1, bias=False))
            for of_layer, width, scale in zip(dims_of(in_dim, self.layers), layer_dims, scales, strict=True)
        )
        self.fuse = nn.ModuleList(Fusion(dim, has_coarser=i < 3) for i in range(4))
        self.head = nn.Conv2d(dim, dim // 2, 3, padding=1)
        self.pred = nn.Sequential(nn.Conv2d(dim // 2, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, out_channels, 1))

    def forward(self, maps: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        """Four (B, D, h, w), (H, W) -> (B, out_channels, H, W)."""
        scaled = [reassemble(x) for reassemble, x in zip(self.reassemble, maps, strict=True)]
        finest = [2 * length for length in scaled[0].shape[2:]]
        sizes = [finest, *(x.shape[2:] for x in scaled[:3])]  # a map is enlarged to the size of the next finer one
        fused = None
        for fuse, x, target in zip(reversed(self.fuse), reversed(scaled), reversed(sizes), strict=True):
            fused = fuse(x, fused, target)
        x = F.interpolate(self.head(fused), size=size, mode='bilinear', align_corners=True)
        return without_autocast(self.pred[-1], self.pred[:-1](x))
