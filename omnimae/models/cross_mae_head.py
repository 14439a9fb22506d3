"""A decoder of cross-attention: hidden tokens read the visible ones, not one another (CrossMAE, arXiv:2401.14391).

Legend: B batch, K visible tokens, M decoded tokens, D encoder width, d decoder width, J blocks, P pixels of a patch.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from omnimae.registry import MODELS
from omnimae.structures import Grid, Masks, Size3

from .mae_head import PixelHead
from .vit import CrossAttention, LayerNorm, Mlp, xavier_linear


class CrossBlock(nn.Module):
    """Pre-norm block of cross-attention and MLP. Its queries do not depend on one another."""

    def __init__(self, dim: int, context_dim: int, num_heads: int, *, mlp_ratio: float, qkv_bias: bool):
        super().__init__()
        self.norm1 = LayerNorm(dim)
        self.attn = CrossAttention(dim, num_heads, qkv_bias, context_dim)
        self.norm2 = LayerNorm(dim)
        self.mlp = Mlp(dim, round(dim * mlp_ratio))

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """(B, M, d) queries, (B, K, D) normalised context -> (B, M, d)."""
        x = x + self.attn(self.norm1(x), context)
        return x + self.mlp(self.norm2(x))


@MODELS.register_module()
class CrossMAEHead(PixelHead):
    """Predicts the pixels of hidden patches by cross-attention to the encoded visible ones (CrossMAE).

    Every predicted token is independent of the others. So any part of them can be decoded, at its share of the cost,
    see ``decode_ratio`` of a `MaskedAutoencoder`.

    Args:
        in_dim, patch_size, grid, num_extra_tokens: the backbone's; the model fills them in.
        embed_dim, depth, num_heads: of the decoder.
        qkv_bias: a bias for queries, keys and values.
        positions: as of the backbone.
        layers: numbers of encoder layers in ascending order, 0 for the embedded tokens. Each block reads a learned mix
            of their outputs (the "weighted feature maps"), with a norm of its own. None reads the encoder's output.
        target: a PixelTarget.
        grad_checkpointing: recompute activations in the backward pass.
    """

    def __init__(
        self,
        *,
        in_dim: int,
        patch_size: Size3,
        grid: Grid,
        num_extra_tokens: int = 0,
        embed_dim: int = 384,
        depth: int = 4,
        num_heads: int = 16,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        positions: str = 'sincos1d',
        layers: Sequence[int] | None = None,
        target: dict | None = None,
        grad_checkpointing: bool = False,
        init_cfg: dict | None = None,
    ):
        super().__init__(init_cfg)
        if embed_dim % num_heads:
            raise ValueError(f'CrossMAEHead: num_heads={num_heads} does not divide embed_dim={embed_dim}.')
        if not isinstance(qkv_bias, bool):
            raise ValueError(f'CrossMAEHead: qkv_bias={qkv_bias!r} is unknown. Choose True or False.')
        self.layers = None if layers is None else (*layers,)
        self.grad_checkpointing = grad_checkpointing
        self.make_positions(positions, grid, embed_dim, cls_token=False)
        self.mask_token = nn.Parameter(torch.empty(1, embed_dim).normal_(std=0.02))
        self.blocks = nn.ModuleList(
            CrossBlock(embed_dim, in_dim, num_heads, mlp_ratio=mlp_ratio, qkv_bias=qkv_bias) for _ in range(depth)
        )
        if self.layers is not None:
            self.layer_weights = nn.Parameter(nn.init.xavier_uniform_(torch.empty(depth, len(self.layers))))
            self.layer_norms = nn.ModuleList(LayerNorm(in_dim) for _ in range(depth))
        self.make_output(embed_dim, patch_size, grid, target)
        xavier_linear(self)

    def forward(self, latent: Tensor, masks: Masks, grid: Grid) -> Tensor:
        """(B, K, D) encoded tokens, or (layers, B, K, D) of ``layers`` -> (B, M, P) predictions for ``masks.decode``.

        Tokens before the visible ones, as a class token, are read too.
        """
        # added after the gather: the mask token's gradient is then a sum, and fixed positions have none
        x = self.mask_token + self.positions_on(grid)[masks.decode]
        for block, context in zip(self.blocks, self._contexts(latent), strict=True):
            if self.grad_checkpointing and torch.is_grad_enabled():
                x = checkpoint(block, x, context, use_reentrant=False)
            else:
                x = block(x, context)
        return self.pred(self.norm(x))

    def _contexts(self, latent: Tensor) -> list[Tensor]:
        """-> J of (B, K, D): what each block reads."""
        if self.layers is None:
            return [latent] * len(self.blocks)
        mixed = (self.layer_weights @ latent.flatten(1)).view(-1, *latent.shape[1:])
        return [norm(x) for norm, x in zip(self.layer_norms, mixed, strict=True)]
