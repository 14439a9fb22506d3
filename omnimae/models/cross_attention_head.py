"""The head of one task of MultiMAE (arXiv:2204.01678, section 3.3): cross-attention to all tokens.

Legend: B batch, K visible tokens of all modalities, G global tokens, N tokens of the predicted modality, D width of the
encoder, d of the decoder, P values of one patch, in the order (pt, ph, pw, c).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from mmengine.model import BaseModule
from torch import Tensor, nn

from omnimae.registry import MODELS
from omnimae.structures import Grid, Size3, token_spans

from .mae_head import PixelTarget
from .multimodal_vit import place_table
from .ops import Linear
from .vit import (
    Block,
    CrossAttention,
    LayerNorm,
    Mlp,
    resize_positions,
    run_blocks,
    xavier_attention,
    xavier_linear,
)

ERRORS = ('mse', 'l1', 'cross_entropy')


@MODELS.register_module()
class CrossAttentionHead(BaseModule):
    """Predicts every patch of one modality from the encoded visible tokens of all.

    The queries are the tokens of the predicted modality: encoded ones where visible, mask tokens elsewhere. They attend
    once to all encoded tokens, then to one another.

    Args:
        in_dim, patch_sizes, channels, grids: of the backbone, and of its tokenizers by modality. The model sets them.
        modality: which one is predicted. By default the model sets the name of the task.
        error: 'mse', 'l1', or 'cross_entropy' for class maps.
        target: a PixelTarget. None predicts the normalised patch itself.
        embed_dim, depth, num_heads: of the decoder. ``depth`` counts the blocks after the cross-attention.
        float32: compute this decoder outside autocast, as the release does for class maps.
    """

    def __init__(
        self,
        *,
        in_dim: int,
        patch_sizes: Mapping[str, Size3],
        channels: Mapping[str, int],
        grids: Mapping[str, Grid],
        modality: str,
        error: str,
        target: dict | None = None,
        embed_dim: int = 256,
        depth: int = 2,
        num_heads: int = 8,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        float32: bool = False,
        init_cfg: dict | None = None,
    ):
        super().__init__(init_cfg)
        if modality not in grids:
            raise ValueError(
                f'CrossAttentionHead: the backbone has no tokenizer for modality={modality!r}. Choose from '
                f'{list(grids)}; a task of another name says so: NAME=dict(modality=...).'
            )
        if error not in ERRORS:
            raise ValueError(f'CrossAttentionHead: error={error!r} is unknown. Choose one of {", ".join(ERRORS)}.')
        if error == 'cross_entropy' and target is not None:
            raise ValueError(f'CrossAttentionHead: target={target} is for values, not for classes. Set it to None.')
        if embed_dim % num_heads:
            raise ValueError(f'CrossAttentionHead: num_heads={num_heads} does not divide embed_dim={embed_dim}.')
        self.modality = modality
        self.error = error
        self.channels = channels[modality]
        self.target = None if target is None else MODELS.build(target)
        if isinstance(self.target, PixelTarget):
            self._check_pixel_target(self.target)
        self.float32 = float32
        # the largest of all modalities, so that it has positions for each
        self.grid = Grid(*map(max, zip(*grids.values(), strict=True)))
        self.mask_token = nn.Parameter(torch.zeros(1, embed_dim))
        self.register_buffer('pos_embed', self.fixed_positions())
        self.modality_embed = nn.ParameterDict({name: torch.empty(1, embed_dim) for name in grids})
        self.decoder_embed = Linear(in_dim, embed_dim)
        self.query_norm = LayerNorm(embed_dim)
        self.context_norm = LayerNorm(embed_dim)
        self.attn = CrossAttention(embed_dim, num_heads, qkv_bias)
        self.norm = LayerNorm(embed_dim)
        self.mlp = Mlp(embed_dim, round(embed_dim * mlp_ratio))
        self.blocks = nn.ModuleList(
            Block(embed_dim, num_heads, mlp_ratio=mlp_ratio, qkv_bias=qkv_bias) for _ in range(depth)
        )
        pt, ph, pw = patch_sizes[modality]
        self.pred = Linear(embed_dim, pt * ph * pw * self.channels)
        xavier_linear(self)
        xavier_attention(self.blocks)
        for weight in self.attn.kv.weight.data.chunk(2):
            nn.init.xavier_uniform_(weight)
        for embedding in self.modality_embed.values():
            nn.init.trunc_normal_(embedding, std=0.02)

    def _check_pixel_target(self, target: PixelTarget) -> None:
        if self.channels != 3:
            raise ValueError(
                f'CrossAttentionHead: a PixelTarget is of RGB, and modality={self.modality!r} has '
                f'channels={self.channels}. Leave target out.'
            )
        if target.frames != 'all':
            raise ValueError(
                f'CrossAttentionHead: target.frames={target.frames!r} has no effect, every frame is predicted. Leave '
                'it out.'
            )

    def fixed_positions(self) -> Tensor:
        """-> (1, N, d): the initial sinusoids of ``pos_embed``."""
        return place_table(self.grid, self.mask_token.shape[1])

    def forward(self, latent: Tensor, visible: Tensor, grids: Mapping[str, Grid], grid: Grid) -> Tensor:
        """(B, K + G, D) encoded tokens -> (B, N, P) predictions of all patches; for a class map P counts logits.

        Args:
            latent: of the backbone's ``encode``.
            visible: (B, K), which of the tokens of all modalities they are.
            grids: of the modalities that the encoder was given, in its order.
            grid: of the clip to predict.
        """
        device = latent.device.type
        if not self.float32 or device == 'meta':  # which has no autocast
            return self._decode(latent, visible, grids, grid)
        with torch.autocast(device, enabled=False):
            return self._decode(latent.float(), visible, grids, grid)

    def _decode(self, latent: Tensor, visible: Tensor, grids: Mapping[str, Grid], grid: Grid) -> Tensor:
        table = torch.cat([self._places(name, other) for name, other in grids.items()])
        tokens = self.decoder_embed(latent)
        seen, extra = tokens[:, : visible.shape[1]] + table[visible], tokens[:, visible.shape[1] :]
        if self.modality in grids:
            slots = (self.mask_token + table).expand(len(seen), -1, -1)
            slots = slots.scatter(1, visible[:, :, None].expand_as(seen), seen)
            queries = slots[:, token_spans(grids)[self.modality]]
        else:
            queries = (self.mask_token + self._places(self.modality, grid)).expand(len(seen), -1, -1)
        context = torch.cat([seen, extra.to(seen.dtype)], 1)
        x = self.attn(self.query_norm(queries), self.context_norm(context))
        x = x + self.mlp(self.norm(x))
        return self.pred(run_blocks(self.blocks, x, grad_checkpointing=False))

    def _places(self, modality: str, grid: Grid) -> Tensor:
        """-> (N, d): positions of the tokens of a modality, plus its embedding."""
        return self.modality_embed[modality] + resize_positions(self.pos_embed, self.grid, grid, 'bilinear')

    def errors(self, prediction: Tensor, patches: Tensor) -> Tensor:
        """(B, N, P), (B, N, P) normalised patches or classes -> (B, N): mean error of each token, in float32.

        An image has one frame, the target of every frame of the predicted tubelet. Pixels without a class have none.
        """
        prediction = prediction.float()
        if self.error == 'cross_entropy':
            logits = prediction.unflatten(-1, (-1, patches.shape[-1], self.channels))
            classes = patches.long().unsqueeze(-2).expand(logits.shape[:-1]).clamp(max=self.channels)
            errors = F.cross_entropy(
                logits.flatten(0, -2), classes.flatten(), ignore_index=self.channels, reduction='none'
            )
            return errors.view(classes.shape).mean((-2, -1))
        prediction = prediction.unflatten(-1, (-1, patches.shape[-1]))
        target = patches.float() if self.target is None else self.target(patches.float(), prediction.shape[-2])
        target = target.unsqueeze(-2).expand_as(prediction)
        function = F.mse_loss if self.error == 'mse' else F.l1_loss
        return function(prediction, target, reduction='none').mean((-2, -1))
