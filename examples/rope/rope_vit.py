"""A backbone of one's own: a ViT whose attention knows places by rotary positions alone, for images and videos.

Queries and keys are turned by angles that grow with the place of their token (RoFormer, arXiv:2104.09864), so that
their product depends on the distance of two tokens. As in V-JEPA 2 (arXiv:2506.09985, section 2.1) a third of each head
tells the time, a third the row and a third the column. There is no table of positions: clips may have any size.

Legend: B batch, N tokens of a clip, K given ones, D width, d width of a head, P pixels of a patch.
"""

import torch
import torch.nn.functional as F
from mmengine.model import BaseModule
from torch import nn

from omnimae.models.vit import LayerNorm, Mlp, PatchEmbed, patchify, xavier_linear
from omnimae.registry import MODELS
from omnimae.structures import Grid


def rotary_angles(grid, head_dim, base, device):
    """-> (N, 3 * (d // 6)): an angle for each pair of channels that is turned; what is left of a head stays.

    The pairs of an axis turn by base^(-i / pairs) for each step along it, i = 0, 1, ...
    """
    pairs = head_dim // 6
    rates = base ** (-torch.arange(pairs, device=device) / pairs)
    places = torch.cartesian_prod(*(torch.arange(n, device=device) for n in grid))  # (N, 3)
    return (places[:, :, None] * rates).flatten(1)


def rotate(x, angles):
    """(B, heads, K, d), (K, pairs) or (B, 1, K, pairs) -> (B, heads, K, d)."""
    a, b, rest = x.tensor_split([angles.shape[-1], 2 * angles.shape[-1]], -1)
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    return torch.cat([a * cos - b * sin, a * sin + b * cos, rest], -1)


class RotaryBlock(nn.Module):
    """A pre-norm block; ``angles`` are those of its tokens."""

    def __init__(self, dim, num_heads, mlp_ratio):
        super().__init__()
        self.num_heads = num_heads
        self.norm1 = LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.norm2 = LayerNorm(dim)
        self.mlp = Mlp(dim, round(dim * mlp_ratio))

    def forward(self, x, angles):
        """(B, K, D) -> (B, K, D)."""
        heads = self.qkv(self.norm1(x)).unflatten(2, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        q, k, v = heads.unbind()
        answer = F.scaled_dot_product_attention(rotate(q, angles), rotate(k, angles), v)
        x = x + self.proj(answer.transpose(1, 2).flatten(2))
        return x + self.mlp(self.norm2(x))


@MODELS.register_module()
class RopeViT(BaseModule):
    """A ViT with rotary positions along time, rows and columns.

    Args:
        clip_size: (T, H, W) of the clips that it is made for; others do as well.
        base: the slowest pairs of channels turn by about 1 / base for each step.
        final_norm: LayerNorm after the last block; a classifier has its own.
    """

    num_extra_tokens = 0

    def __init__(
        self,
        *,
        embed_dim=768,
        depth=12,
        num_heads=12,
        mlp_ratio=4.0,
        patch_size=(2, 16, 16),
        clip_size=(16, 224, 224),
        base=10000.0,
        final_norm=True,
        init_cfg=None,
    ):
        super().__init__(init_cfg)
        self.embed_dim, self.num_layers, self.patch_size = embed_dim, depth, (*patch_size,)
        self.grid = Grid.of(clip_size, self.patch_size)
        self.head_dim, self.base = embed_dim // num_heads, base
        if embed_dim % num_heads or self.head_dim < 6:
            raise ValueError(
                f'RopeViT: embed_dim={embed_dim} in num_heads={num_heads} heads. Give heads of one width, 6 or more.'
            )
        self.patch_embed = PatchEmbed(self.patch_size, embed_dim)
        self.blocks = nn.ModuleList(RotaryBlock(embed_dim, num_heads, mlp_ratio) for _ in range(depth))
        self.norm = LayerNorm(embed_dim) if final_norm else nn.Identity()
        xavier_linear(self)

    def patchify(self, clip):
        """(B, C, T, H, W) -> (B, N, P) and the grid."""
        return patchify(clip, self.patch_size)

    def encode(self, patches, grid, tokens=None):
        """(B, K, P) normalised -> (B, K, D); ``tokens`` (B, K) says which of the grid, None means all."""
        return self.norm(self._outputs(patches, grid, tokens)[-1])

    def tokens(self, clip):
        """(B, C, T, H, W) normalised -> (B, N, D)."""
        return self.encode(*self.patchify(clip))

    def pooled(self, clip):
        """(B, C, T, H, W) normalised -> (B, D)."""
        return self.tokens(clip).mean(1)

    def feature_maps(self, clips, layers, modalities):
        """Of the one modality: (B, C, T, H, W) normalised -> (B, D, t, h, w) after each of these layers."""
        patches, grid = self.patchify(clips[modalities[0]])
        outputs = self._outputs(patches, grid)
        return [outputs[layer].transpose(1, 2).unflatten(2, grid) for layer in layers]

    def layer_of(self, name):
        """Name of a parameter -> its layer, for layer decay."""
        if name.startswith('blocks.'):
            return int(name.split('.')[1]) + 1
        return self.num_layers + 1 if name.startswith('norm.') else 0

    def _outputs(self, patches, grid, tokens=None):
        angles = rotary_angles(grid, self.head_dim, self.base, patches.device)
        if tokens is not None:
            angles = angles[tokens][:, None]
        outputs = [self.patch_embed(patches)]
        for block in self.blocks:
            outputs.append(block(outputs[-1], angles))
        return outputs[1:]
