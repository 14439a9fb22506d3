"""The head of a masked autoencoder: decoder, pixel targets and loss (arXiv:2206.08356, section 3.2).

Legend: B batch, K visible tokens, M decoded tokens, N all tokens, D encoder width, P pixels of a patch, in the order
(pt, ph, pw, c). Pixels are in 0..1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omnimae.registry import MODELS
from omnimae.structures import Grid, Masks, Size3, check_pixel_statistics

from .ops import Linear
from .vit import Block, LayerNorm, PositionedModule, run_blocks, xavier_attention, xavier_linear


@MODELS.register_module()
class PixelTarget(nn.Module):
    """What the decoder predicts of a patch.

    Args:
        normalize: 'channel' subtracts the mean and divides by the std of each channel over the patch (the paper's
            target). 'patch' takes those of all channels together (MAE's). None leaves plain pixels (the visualisation
            model of B.4).
        eps_on: where 1e-6 is added, 'variance' (OmniMAE) or 'deviation' (VideoMAE).
        frames: which frames of a tubelet are predicted: 'all'; 'first', one each, as the released MAE-ST was trained;
            'spread', one each, of frames spread over the clip with its first and last among them, as MAE-ST's
            repository does: 0, 2, 4, 6, 8, 10, 12 and 15 of 16.
        mean, std: per RGB channel; scale pixels first, as MAE does with those of the encoder's input. None leaves them
            in 0..1.
    """

    mean: Tensor | None
    std: Tensor | None
    eps = 1e-6  # on the variance of pixels in 0..1: a patch with a standard deviation of 1e-3 is damped to 0.7

    def __init__(
        self,
        *,
        normalize: str | None = 'channel',
        eps_on: str = 'variance',
        frames: str = 'all',
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ):
        if normalize not in ('channel', 'patch', None):
            raise ValueError(f"PixelTarget: normalize={normalize!r} is unknown. Choose 'channel', 'patch' or None.")
        if eps_on not in ('variance', 'deviation'):
            raise ValueError(f"PixelTarget: eps_on={eps_on!r} is unknown. Choose 'variance' or 'deviation'.")
        if frames not in ('all', 'first', 'spread'):
            raise ValueError(f"PixelTarget: frames={frames!r} is unknown. Choose 'all', 'first' or 'spread'.")
        if (mean is None) != (std is None):
            raise ValueError(f'PixelTarget: mean={mean} and std={std}. Give both or neither.')
        if mean is not None and std is not None:
            check_pixel_statistics('PixelTarget', mean, std)
        super().__init__()
        self.normalize = normalize
        self.eps_on = eps_on
        self.frames = frames
        # buffers, to be on the device before the first step
        self.register_buffer('mean', None if mean is None else torch.tensor(mean), persistent=False)
        self.register_buffer('std', None if std is None else torch.tensor(std), persistent=False)

    def frames_of(self, num_slices: int, tubelet: int, device: torch.device | str = 'cpu') -> Tensor:
        """-> (t, F) int64: the frames of each tubelet that are predicted, counted within it."""
        if self.frames == 'all':
            return torch.arange(tubelet, device=device).expand(num_slices, -1)
        if self.frames == 'first':
            return torch.zeros(num_slices, 1, dtype=torch.int64, device=device)
        # in whole numbers: frame i * (T - 1) / (t - 1) of the clip, less the i * tubelet frames before
        return (torch.arange(num_slices, device=device) * (tubelet - 1) // max(num_slices - 1, 1))[:, None]

    def forward(self, pixels: Tensor, repeats: int = 1) -> Tensor:
        """(B, M, P) pixels -> (B, M, P) target; ``repeats``: how often a patch of one frame fills the tubelet."""
        values = self._scaled(pixels)
        if self.normalize is not None:
            _, deviation, centred = self._statistics(values, repeats)
            values = centred / deviation
        return values.flatten(-2)

    def restore(self, prediction: Tensor, pixels: Tensor, repeats: int = 1) -> Tensor:
        """(B, M, P) prediction -> (B, M, P) pixels, with the statistics of the true patch where they were removed."""
        values = prediction.unflatten(-1, (-1, 3))
        if self.normalize is not None:
            mean, deviation, _ = self._statistics(self._scaled(pixels), repeats)
            values = values * deviation + mean
        if self.mean is not None:
            values = values * self.std + self.mean
        return values.flatten(-2)

    def _scaled(self, pixels: Tensor) -> Tensor:
        """(B, M, P) in 0..1 -> (B, M, P/3, 3)."""
        values = pixels.unflatten(-1, (-1, 3))
        if self.mean is None:
            return values
        return (values - self.mean) / self.std

    def _statistics(self, values: Tensor, repeats: int) -> tuple[Tensor, Tensor, Tensor]:
        """(B, M, P/3, 3) -> mean and deviation per patch and channel, or per patch, and values less their mean.

        The variance is unbiased over the *repeated* patch: the count includes every copy of the frame.
        """
        dims = (-2, -1) if self.normalize == 'patch' else (-2,)
        mean = values.mean(dims, keepdim=True)
        centred = values - mean
        count = repeats * math.prod([values.shape[dim] for dim in dims])  # torch.compile takes no generator
        variance = centred.square().sum(dims, keepdim=True) * repeats / (count - 1)
        if self.eps_on == 'deviation':
            return mean, variance.sqrt() + self.eps, centred
        return mean, (variance + self.eps).sqrt(), centred


class PixelHead(PositionedModule):
    """What decoders of pixels share: target, last layers and loss. A subclass has ``forward``, see `Head`."""

    def make_output(self, embed_dim: int, patch_size: Size3, grid: Grid, target: dict | None) -> None:
        """Make the target, and the layers from the last block's output to the predicted pixels."""
        self.target = MODELS.build(target or dict(type='PixelTarget'))
        self.norm = LayerNorm(embed_dim)
        pt, ph, pw = patch_size
        self.frame_values = 3 * ph * pw  # of a patch
        self.pred = Linear(embed_dim, self.target.frames_of(grid.t, pt).shape[1] * self.frame_values)

    def loss(self, latent: Tensor, masks: Masks, grid: Grid, pixels: Tensor) -> dict[str, Tensor]:
        """(B, K, D), pixels (B, M, P) of the decoded patches in 0..1 -> {'loss': mean over the scored tokens}."""
        errors = self.errors(self(latent, masks, grid), self.predicted_pixels(pixels, masks.decode, grid))
        if masks.scored is None:
            return {'loss': errors.mean()}
        return {'loss': (errors * masks.scored).sum() / masks.scored.sum().clamp(min=1)}

    def predicted_pixels(self, pixels: Tensor, decode: Tensor, grid: Grid) -> Tensor:
        """(B, M, P) of the decoded patches, (B, M) -> (B, M, P') of those of their frames that are predicted."""
        tubelet = pixels.shape[2] // self.frame_values
        frames = self.target.frames_of(grid.t, tubelet, decode.device)
        if frames.shape[1] == tubelet:
            return pixels
        choice = frames[decode // (grid.h * grid.w)]  # (B, M, F)
        patches = pixels.unflatten(2, (tubelet, -1))
        return patches.gather(2, choice[..., None].expand(-1, -1, -1, self.frame_values)).flatten(2)

    def errors(self, prediction: Tensor, pixels: Tensor) -> Tensor:
        """(B, M, P) predictions, (B, M, P) `predicted_pixels` -> (B, M): mean squared error of each token, in float32.

        The pixels of an image are one frame, which every frame of the predicted tubelet has to match.
        """
        repeats = prediction.shape[-1] // pixels.shape[-1]
        target = self.target(pixels.float(), repeats)
        prediction = prediction.float().unflatten(-1, (repeats, -1))
        return F.mse_loss(prediction, target.unsqueeze(-2).expand_as(prediction), reduction='none').mean((-2, -1))


@MODELS.register_module()
class MAEHead(PixelHead):
    """A shallow transformer that predicts the pixels of hidden patches from the encoded visible ones.

    Attention does not care about order, so the decoder runs on ``[visible | decode]`` and its last M outputs are the
    predictions: no un-shuffling, no full-size buffers.

    Args:
        in_dim, patch_size, grid, num_extra_tokens: the backbone's; the model fills them in.
        embed_dim, depth, num_heads: of the decoder.
        qkv_bias: as of the backbone; OmniMAE's released weights have none in the decoder, the release's training config
            has it.
        positions: as of the backbone.
        tokens: 'encoder': mask token and positions live at the encoder's width and are added *before* the projection to
            the decoder's, as in OmniMAE. 'decoder': at the decoder's width, after the projection, as in VideoMAE.
        embed_bias: whether that projection has a bias.
        cls_token: the decoder has a learned class token of its own, as in MAE-ST's repository, and does not see the
            encoder's. Without it the encoder's goes on, as in MAE and in MAE-ST's released weights.
        xavier_embed: begin with a Xavier-uniform projection, as OmniMAE and MAE do; False takes that of PyTorch's
            linear layer, as VideoMAE does.
        separate_qkv_init: as of the backbone.
        mask_token_std: std of the mask token's initial normal distribution.
        mask_token_cut: draw it within one std, as VideoMAE does.
        pred_std: std of the prediction layer's initial weights. None means Xavier-uniform, as in the other layers.
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
        qkv_bias: bool | str = False,
        positions: str = 'sincos1d',
        tokens: str = 'encoder',
        embed_bias: bool = True,
        cls_token: bool = False,
        xavier_embed: bool = True,
        separate_qkv_init: bool = False,
        mask_token_std: float = 0.0,
        mask_token_cut: bool = False,
        pred_std: float | None = 0.02,
        target: dict | None = None,
        grad_checkpointing: bool = False,
        init_cfg: dict | None = None,
    ):
        super().__init__(init_cfg)
        if embed_dim % num_heads:
            raise ValueError(f'MAEHead: num_heads={num_heads} does not divide embed_dim={embed_dim}.')
        if tokens not in ('encoder', 'decoder'):
            raise ValueError(f"MAEHead: tokens={tokens!r} is unknown. Choose 'encoder' or 'decoder'.")
        if cls_token and tokens != 'decoder':
            raise ValueError(f"MAEHead: cls_token={cls_token} and tokens={tokens!r}. Choose tokens='decoder' with it.")
        self.tokens = tokens
        self.grad_checkpointing = grad_checkpointing
        dim = in_dim if tokens == 'encoder' else embed_dim
        self.mask_token = nn.Parameter(torch.zeros(1, dim))
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim)) if cls_token else None
        self.make_positions(positions, grid, dim, cls_token=cls_token or num_extra_tokens > 0)
        self.decoder_embed = Linear(in_dim, embed_dim, bias=embed_bias)
        self.blocks = nn.ModuleList(
            Block(embed_dim, num_heads, mlp_ratio=mlp_ratio, qkv_bias=qkv_bias) for _ in range(depth)
        )
        self.make_output(embed_dim, patch_size, grid, target)
        for part in (self.decoder_embed, self.blocks, self.pred) if xavier_embed else (self.blocks, self.pred):
            xavier_linear(part)
        if separate_qkv_init:
            xavier_attention(self.blocks)
        if pred_std is not None:
            nn.init.trunc_normal_(self.pred.weight, std=pred_std)
        if mask_token_std and mask_token_cut:
            nn.init.trunc_normal_(self.mask_token, std=mask_token_std, a=-mask_token_std, b=mask_token_std)
        elif mask_token_std:
            nn.init.normal_(self.mask_token, std=mask_token_std)

    def forward(self, latent: Tensor, masks: Masks, grid: Grid) -> Tensor:
        """(B, K, D) encoded visible tokens -> (B, M, P) predictions for ``masks.decode``.

        Tokens before the K visible ones, as a class token, take part.
        """
        positions = self.positions_on(grid)
        queries = self.mask_token + positions  # (N, ...): the same for every sample
        seen = positions[masks.visible]
        extra = latent.shape[1] - seen.shape[1]
        if self.cls_token is not None:
            latent = latent[:, extra:]
        elif extra:
            seen = torch.cat([self.cls_position().expand(len(seen), extra, -1), seen], dim=1)
        if self.tokens == 'encoder':
            queries = self.decoder_embed(queries)
            visible = self.decoder_embed(latent + seen)
        else:
            visible = self.decoder_embed(latent) + seen
        if self.cls_token is not None:
            visible = torch.cat([(self.cls_token + self.cls_position()).expand(len(visible), -1, -1), visible], dim=1)
        x = torch.cat([visible, queries[masks.decode]], dim=1)
        x = run_blocks(self.blocks, x, grad_checkpointing=self.grad_checkpointing, first=visible.shape[1])
        return self.pred(self.norm(x))
