"""A plain Vision Transformer over patches of several aligned modalities: the encoder of MultiMAE (arXiv:2204.01678).

A *tokenizer* per modality turns patches into tokens. The blocks see the tokens of all modalities as one sequence,
followed by a few global tokens. Only the tokenizer distinguishes modalities. Clips are (B, C, T, H, W) in every
modality. An image has T=1. A map of classes has one channel of integers.

Legend: B batch, K visible tokens, N tokens of a modality, D width, G global tokens, P values of one patch, in the order
(pt, ph, pw, c), grid (t, h, w).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from mmengine.model import BaseModule
from torch import Tensor, nn

from omnimae.registry import MODELS
from omnimae.structures import Grid, Size3, gather_tokens, token_spans

from .vit import (
    LayerNorm,
    PatchEmbed,
    Sizes,
    layer_of,
    patchify,
    resize_positions,
    run_blocks,
    run_to_layers,
    sinusoid_table,
    sinusoid_table_2d,
    xavier_attention,
    xavier_linear,
)


def place_table(grid: Grid, dim: int) -> Tensor:
    """-> (1, N, dim) float32: MultiMAE's fixed positions, for clips too.

    In space they are MAE's with rows before columns. Time step t adds the 1-D sinusoids of t minus those of step 0. So
    an image, and the first step of a clip, has exactly the published table. (This is our choice. There is no
    published model of several modalities of video.)
    """
    if dim % 4:
        raise ValueError(f'embed_dim={dim} is no multiple of 4, as positions of rows and columns need. Change it.')
    place = sinusoid_table_2d(grid._replace(t=1), dim).roll(dim // 2, 2)
    steps = sinusoid_table(grid.t, dim)
    return (place + (steps - steps[:, :1]).transpose(0, 1)).flatten(0, 1)[None]


class Tokenizer(nn.Module):
    """Patches of one modality -> tokens with their positions.

    Attributes:
        channels: values of a predicted pixel.
        in_channels: values of a pixel of the clip, 1 in a map of classes.
        resize_mode: interpolation of positions to clips of another size.
        input_classes: number of classes of a map. None for other modalities, and for maps with any classes.
    """

    channels: int
    in_channels: int
    input_classes: int | None = None
    pos_embed: Tensor
    resize_mode = 'bicubic'

    def __init__(self, embed_dim: int, patch_size: Size3, clip_size: Size3):
        super().__init__()
        self.patch_size = (*patch_size,)  # a config may have a list
        self.grid = Grid.of(clip_size, self.patch_size)
        self.embed_dim = embed_dim
        self.register_buffer('pos_embed', self.fixed_positions())

    def fixed_positions(self) -> Tensor:
        """-> (1, N, D): the initial sinusoids of ``pos_embed``. A checkpoint may replace them."""
        return place_table(self.grid, self.embed_dim)

    def patchify(self, clip: Tensor) -> tuple[Tensor, Grid]:
        """(B, C, T, H, W) -> (B, N, P) and the grid, in the clip's own dtype."""
        return patchify(clip, self.patch_size)

    def forward(self, patches: Tensor, grid: Grid) -> Tensor:
        """(B, N, P) all patches of a grid -> (B, N, D)."""
        return self.embed(patches) + resize_positions(self.pos_embed, self.grid, grid, self.resize_mode)

    def embed(self, patches: Tensor) -> Tensor:
        """(B, N, P) -> (B, N, D), without positions."""
        raise NotImplementedError


@MODELS.register_module()
class PatchTokenizer(Tokenizer):
    """A linear layer on the values of a patch, such as RGB or depth.

    Args:
        embed_dim: the backbone sets it.
        channels: of the modality, 3 for RGB, 1 for depth.
        patch_size: (pt, ph, pw) pixels.
        clip_size: (T, H, W) of the position table. It is interpolated for other sizes.
    """

    def __init__(
        self, *, embed_dim: int, channels: int, patch_size: Size3 = (1, 16, 16), clip_size: Size3 = (1, 224, 224)
    ):
        super().__init__(embed_dim, patch_size, clip_size)
        self.channels = self.in_channels = channels
        self.patch_embed = PatchEmbed(self.patch_size, embed_dim, channels)

    def embed(self, patches: Tensor) -> Tensor:
        """(B, N, P) floating -> (B, N, D)."""
        return self.patch_embed(patches)


@MODELS.register_module()
class ClassMapTokenizer(Tokenizer):
    """For semantic maps: a learned vector for each pixel's class, then a linear layer on those of a patch.

    Args:
        embed_dim: the backbone sets it.
        num_classes: of the maps, 133 in COCO's panoptic maps.
        class_dim: width of the vector of a class.
        padding_class: an extra class with a zero vector, for pixels without a class (255) or with a higher number.
        patch_size: (pt, ph, pw) pixels of the map. MultiMAE's maps have a quarter of the image's height and width.
        clip_size: (T, H, W) of the map, for the position table.
    """

    resize_mode = 'bilinear'

    def __init__(
        self,
        *,
        embed_dim: int,
        num_classes: int,
        class_dim: int = 64,
        padding_class: bool = False,
        patch_size: Size3 = (1, 4, 4),
        clip_size: Size3 = (1, 56, 56),
    ):
        super().__init__(embed_dim, patch_size, clip_size)
        self.channels, self.in_channels = num_classes, 1
        self.input_classes = None if padding_class else num_classes
        self.class_embed = nn.Embedding(
            num_classes + padding_class, class_dim, padding_idx=num_classes if padding_class else None
        )
        self.patch_embed = PatchEmbed(self.patch_size, embed_dim, class_dim)
        with torch.no_grad():
            nn.init.trunc_normal_(self.class_embed.weight, std=0.02)
            self.class_embed.weight[num_classes:] = 0

    def embed(self, patches: Tensor) -> Tensor:
        """(B, N, P) classes, integers -> (B, N, D)."""
        classes = patches.long()
        if self.class_embed.padding_idx is not None:
            classes = classes.clamp(max=self.class_embed.padding_idx)
        return self.patch_embed(self.class_embed(classes).flatten(2))


class ModalTokens(NamedTuple):
    """Output tokens of all modalities of a batch.

    Attributes:
        x: (B, N of all modalities + G, D), one modality after the other, the global tokens last.
        grids: of each modality, in that order.
    """

    x: Tensor
    grids: dict[str, Grid]

    def of(self, modality: str) -> Tensor:
        """-> (B, N, D): the tokens of one modality, in the order of its grid."""
        return self.x[:, token_spans(self.grids)[modality]]

    def maps(self, modality: str) -> Tensor:
        """-> (B, D, t, h, w): the tokens of one modality as a map."""
        return self.of(modality).transpose(1, 2).unflatten(2, self.grids[modality])

    @property
    def extra(self) -> Tensor:
        """(B, G, D): the global tokens."""
        return self.x[:, sum(grid.num_tokens for grid in self.grids.values()) :]


@MODELS.register_module()
class MultiModalViT(BaseModule):
    """The encoder of MultiMAE (arXiv:2204.01678, section 3.2): tokenizers, blocks, by default no final norm.

    Any subset of the modalities may be given, in any order. The order of tokens is that of ``tokenizers``.

    Args:
        tokenizers: modality -> config of its tokenizer.
        arch: 'small', 'base', 'large', 'huge' or 'giant': gives embed_dim, depth, num_heads and mlp_ratio where they
            are not given.
        num_global_tokens: learned tokens after those of the modalities, without positions.
        drop_path_rate: DropPath rate of the last block. It grows linearly from 0 at the first.
        final_norm: LayerNorm on the output tokens. MultiMAE has none.
        grad_checkpointing: recompute activations in the backward pass: less memory, a third more time.
    """

    tokenizers: Any  # a ModuleDict, of Tokenizers

    def __init__(
        self,
        *,
        tokenizers: Mapping[str, dict],
        arch: str | None = None,
        embed_dim: int | None = None,
        depth: int | None = None,
        num_heads: int | None = None,
        mlp_ratio: float | None = None,
        qkv_bias: bool | str = True,
        num_global_tokens: int = 1,
        drop_path_rate: float = 0.0,
        final_norm: bool = False,
        grad_checkpointing: bool = False,
        init_cfg: dict | None = None,
    ):
        super().__init__(init_cfg)
        if not tokenizers:
            raise ValueError('tokenizers is empty. Name at least one modality: tokenizers=dict(rgb=dict(type=...)).')
        sizes = Sizes.of(arch, embed_dim, depth, num_heads, mlp_ratio)
        self.embed_dim, self.num_layers = sizes.embed_dim, sizes.depth
        self.num_extra_tokens = num_global_tokens
        self.grad_checkpointing = grad_checkpointing
        self.tokenizers = nn.ModuleDict(
            {name: MODELS.build({'embed_dim': self.embed_dim, **cfg}) for name, cfg in tokenizers.items()}
        )
        self.global_tokens = nn.Parameter(torch.empty(1, num_global_tokens, self.embed_dim))
        self.blocks = sizes.blocks(qkv_bias=qkv_bias, drop_path_rate=drop_path_rate)
        self.norm = LayerNorm(self.embed_dim) if final_norm else nn.Identity()
        nn.init.trunc_normal_(self.global_tokens, std=0.02)
        xavier_linear(self.blocks)
        xavier_attention(self.blocks)

    @property
    def modalities(self) -> tuple[str, ...]:
        """Names, in the order of the tokens."""
        return tuple(self.tokenizers)

    @property
    def input_classes(self) -> dict[str, int]:
        """Modality -> number of classes of its maps, where limited."""
        return {name: x.input_classes for name, x in self.tokenizers.items() if x.input_classes is not None}

    @property
    def patch_size(self) -> Size3:
        """Of a lone clip, which is RGB."""
        return self._rgb.patch_size

    @property
    def grid(self) -> Grid:
        """Of a lone clip, which is RGB, of the configured size."""
        return self._rgb.grid

    @property
    def _rgb(self) -> Tokenizer:
        if 'rgb' not in self.tokenizers:
            raise ValueError(
                f"A lone clip is RGB, and the backbone's modalities are {list(self.modalities)}. Name them."
            )
        return self.tokenizers['rgb']

    def forward(self, clips: Mapping[str, Tensor]) -> ModalTokens:
        """Modality -> (B, C, T, H, W) normalised, or integers of a class map -> all tokens of these modalities."""
        tokens = self.forward_layers(clips, [self.num_layers - 1])[0]
        return tokens._replace(x=self.norm(tokens.x))

    def pooled(self, clips: Mapping[str, Tensor] | Tensor) -> Tensor:
        """Modality -> (B, C, T, H, W), or a lone clip of RGB -> (B, D): mean over all tokens, the global ones too."""
        return self.tokens(clips).mean(1)

    def tokens(self, clips: Mapping[str, Tensor] | Tensor) -> Tensor:
        """Modality -> (B, C, T, H, W), or a lone clip of RGB -> (B, N + G, D): all tokens, the global ones too."""
        return self({'rgb': clips} if isinstance(clips, Tensor) else clips).x

    def forward_layers(self, clips: Mapping[str, Tensor], layers: Sequence[int]) -> list[ModalTokens]:
        """Tokens after each of the blocks of these numbers, from 0, ascending, without norm; see ``forward``."""
        patches, grids = self.patchify(clips)
        x = self._with_global_tokens(self.embed(patches, grids))
        outputs = run_to_layers(self.blocks, x, layers, grad_checkpointing=self.grad_checkpointing)
        return [ModalTokens(x, grids) for x in outputs]

    def feature_maps(
        self, clips: Mapping[str, Tensor], layers: Sequence[int], modalities: Sequence[str]
    ) -> list[Tensor]:
        """-> (B, D of each of ``modalities``, t, h, w) after each of these blocks; see ``forward_layers``."""
        tokens = self.forward_layers(clips, layers)
        return [torch.cat([x.maps(name) for name in modalities], 1) for x in tokens]

    def patchify(self, clips: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Grid]]:
        """Modality -> (B, C, T, H, W) -> patches (B, N, P) and grid of each, in the order of the tokenizers."""
        if not clips or (unknown := sorted(set(clips) - set(self.modalities))):
            raise ValueError(
                f'The backbone has tokenizers for {list(self.modalities)}, and was given '
                f'{unknown if clips else "no clip"}. Give clips of at least one of these modalities and no other.'
            )
        given = {name: self.tokenizers[name].patchify(clips[name]) for name in self.modalities if name in clips}
        return {name: pair[0] for name, pair in given.items()}, {name: pair[1] for name, pair in given.items()}

    def grids_of(self, clips: Mapping[str, Tensor]) -> dict[str, Grid]:
        """Modality -> (B, C, T, H, W) -> the grid of each, as ``patchify``."""
        given = [name for name in self.modalities if name in clips]
        return {name: Grid.of(clips[name].shape[2:], self.tokenizers[name].patch_size) for name in given}

    def embed(self, patches: Mapping[str, Tensor], grids: Mapping[str, Grid]) -> Tensor:
        """Modality -> (B, N, P) -> (B, N of all, D): tokens with their positions, one modality after the other."""
        return torch.cat([self.tokenizers[name](x, grids[name]) for name, x in patches.items()], 1)

    def encode(self, patches: Mapping[str, Tensor], grids: Mapping[str, Grid], visible: Tensor) -> Tensor:
        """Modality -> (B, N, P), and which tokens of all, (B, K), are seen -> (B, K + G, D)."""
        x = self._with_global_tokens(gather_tokens(self.embed(patches, grids), visible))
        return self.norm(run_blocks(self.blocks, x, grad_checkpointing=self.grad_checkpointing))

    def layer_of(self, name: str) -> int:
        """Name of a parameter -> its layer, see `Backbone`."""
        return layer_of(name, self.num_layers)

    def _with_global_tokens(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.global_tokens.expand(x.shape[0], -1, -1)], 1)
