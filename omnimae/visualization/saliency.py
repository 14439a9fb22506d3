"""Saliency: which tokens of an image or clip speak for a class, and pictures of it.

A model is a Classifier, a LinearProbe or an AttentiveProbe. Its type is Any, because this module does not import the
models.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from omnimae.structures import Grid, require, without_autocast
from omnimae.visualization.sheets import Row, sheet, strip_frames


def saliency(model: Any, clip: Tensor, labels: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """(B, 3, T, H, W) uint8 -> logits (B, classes), and the effect of each token on one of them, (B, t, h, w).

    The effect is the gradient of the logit by a token before the last layer, times the token minus the mean token. It
    estimates how much less the logit would be if the token was the mean token. This is gradient times activation, as
    in HiResCAM (arXiv:2011.08891), of centred tokens. Without the mean it would be 0 for a class token, whose layer
    normalises each token first. It explains the last layer and the head alone. In a deep ViT a token also holds what it
    has read from other places.

    Args:
        model: a classifier in evaluation mode. Its backbone has a last layer that takes the tokens of a grid.
        clip: of one modality and size.
        labels: (B,) classes; by default those with the largest logits.

    Raises:
        ValueError: another backbone.
    """
    backbone, reads = model.backbone, getattr(model, 'reads', 'pooled')  # an AttentiveProbe reads tokens
    require(backbone, 'saliency', 'patch_size', reads, 'layer_of', 'num_layers', 'num_extra_tokens')
    if hasattr(backbone, 'modalities'):
        raise ValueError(f'{type(backbone).__name__} has tokens of several modalities. Explain a model of one clip.')
    grid = Grid.of(clip.shape[2:], backbone.patch_size)
    # no gradient before the last layer, and from there on also in inference mode
    with torch.inference_mode(False), torch.no_grad(), _input_of_last_layer(backbone) as seen:
        features = getattr(backbone, reads)(model.data_preprocessor.normalize(clip.clone()))
        logits = without_autocast(model.head, model.norm(features))
        tokens = seen[0] if seen else clip
        if tokens.dim() != 3 or tokens.shape[1] != backbone.num_extra_tokens + grid.num_tokens:
            raise ValueError(
                f'The last layer of {type(backbone).__name__} takes {tuple(tokens.shape)}, and not a token for each of '
                f'the {grid.num_tokens} places of a grid. Explain a plain ViT.'
            )
        labels = logits.argmax(1) if labels is None else labels.clone()
        [gradient] = torch.autograd.grad(logits.gather(1, labels[:, None]).sum(), tokens)
    gradient, x = (part.detach()[:, backbone.num_extra_tokens :].float() for part in (gradient, tokens))
    return logits.detach(), (gradient * (x - x.mean(1, keepdim=True))).sum(2).unflatten(1, grid)


@contextmanager
def _input_of_last_layer(backbone: Any) -> Iterator[list[Tensor]]:
    """A list that gets the input of the last layer. From there on gradients are computed."""
    names = [name for name, _ in backbone.named_parameters() if backbone.layer_of(name) == backbone.num_layers]
    layer = backbone.get_submodule(os.path.commonprefix(names).rpartition('.')[0])
    seen: list[Tensor] = []

    def keep(module: Any, args: tuple) -> tuple:
        torch.set_grad_enabled(True)
        seen.append(args[0].detach().requires_grad_())
        return (seen[-1], *args[1:])

    handle = layer.register_forward_pre_hook(keep)
    try:
        yield seen
    finally:
        handle.remove()


def overlay(frames: np.ndarray, effect: np.ndarray) -> np.ndarray:
    """(T, H, W, 3) uint8, (t, h, w) -> (T, H, W, 3): grey frames, and in colour what speaks for the class.

    The largest effect of the clip is red, half of it green. What speaks against the class has no colour.
    """
    from matplotlib import colormaps  # here, as it takes long to import

    positive = torch.from_numpy(effect).clamp(min=0)
    smooth = F.interpolate(positive[:, None], frames.shape[1:3], mode='bilinear')[:, 0]
    shares = (smooth / positive.max().clamp(min=1e-12)).clamp(0, 1)
    share = shares.repeat_interleave(len(frames) // len(effect), 0).numpy()[..., None]
    grey = frames.mean(-1, keepdims=True) / 255
    colours = np.asarray(colormaps['turbo'](0.15 + 0.8 * share[..., 0]))[..., :3]
    opacity = 0.75 * np.minimum(2 * share, 1)
    return (255 * (grey * (1 - opacity) + colours * opacity)).round().astype(np.uint8)


def saliency_sheet(frames: np.ndarray, effect: np.ndarray, title: str, label: str) -> Image.Image:
    """Draw an image beside its overlay, or a strip of a clip's frames above theirs. ``label`` names the class."""
    drawn, what = overlay(frames, effect), 'image' if len(frames) == 1 else 'clip'
    colours = (
        f'Colour: how much a place speaks for {label}. Red is the most in this {what}, green is half of that, blue is '
        'little. Grey is nothing, or against it.'
    )
    if len(frames) == 1:
        return sheet(title, [Row([frames[0], drawn[0]], caption=colours)], ['input', f'for {label}'])
    chosen = strip_frames(len(frames))
    rows = [Row([*frames[chosen]], 'input'), Row([*drawn[chosen]], f'for {label}', caption=colours)]
    return sheet(title, rows, [f'frame {i + 1}' for i in chosen])
