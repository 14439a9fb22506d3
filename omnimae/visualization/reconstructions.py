"""Reconstructions: what a masked autoencoder sees, what it predicts, and how to read the pictures.

A model is a MaskedAutoencoder or a MultiMAE, a target a PixelTarget, or has the same methods. Their types are Any,
because this module does not import the models.

Legend: T frames, H W pixels, N tokens, M decoded tokens, P pixels of a patch in the order (pt, ph, pw, c).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from omnimae.structures import Grid, Masks, Size3, only_view, require, token_spans
from omnimae.visualization.maps import greys, palette
from omnimae.visualization.sheets import Row, enlarged, sheet, strip_frames

PANELS = ('original', 'masked', 'reconstruction')
HIDDEN_GREY = 127


class Reconstruction(NamedTuple):
    """Three views of one clip, (T, H, W, 3) uint8 each, and a caption.

    If the model predicts only some frames of a clip, the views have only these.

    Attributes:
        original: the clip.
        masked: the clip with hidden patches in grey.
        reconstruction: visible patches of the clip, and predictions of the hidden ones.
        caption: modality, number of visible tokens, and how predictions became pixels.
        numbers: indices of these frames in the clip.
    """

    original: np.ndarray
    masked: np.ndarray
    reconstruction: np.ndarray
    caption: str
    numbers: Sequence[int]


@torch.no_grad()
def reconstruct(model: Any, clip: Tensor, modality: str, masks: Masks | None = None) -> Reconstruction:
    """(3, T, H, W) uint8 -> what a masked autoencoder sees and predicts, with a random mask unless one is given.

    If the model predicts normalised patches, their mean and std are those of the true patch. The caption says so.
    """
    if clip.dtype != torch.uint8 or clip.dim() != 4:
        raise ValueError(f'reconstruct needs a uint8 clip of shape (3, T, H, W), got {clip.dtype} {tuple(clip.shape)}.')
    head = model.head_of(modality)
    require(head, 'a reconstruction', 'target')
    training = model.training
    model.eval()
    clip = clip.to(next(model.parameters()).device)
    result = model.predict(clip[None], modality, masks)[0]
    model.train(training)

    patches, grid = model.backbone.patchify(clip[None])
    everywhere = torch.arange(grid.num_tokens, device=clip.device)[None]
    pixels = head.predicted_pixels(patches, everywhere, grid)[0].float() / 255
    tubelet = clip.shape[1] // grid.t
    numbers = torch.arange(grid.t)[:, None] * tubelet + head.target.frames_of(grid.t, tubelet)
    decode = result['decode']
    predicted = _restore(head.target, result['patches'].float(), pixels[decode])

    seen = torch.zeros(grid.num_tokens, dtype=torch.bool, device=clip.device)
    seen[result['visible']] = True
    masked = torch.where(seen[:, None], pixels, HIDDEN_GREY / 255)
    reconstruction = masked.clone()
    reconstruction[decode] = torch.where(seen[decode, None], pixels[decode], predicted)

    num_predicted = int((~seen[decode]).sum())
    caption = _caption(head.target, modality, int(seen.sum()), len(seen), num_predicted, float(result['loss']))
    if numbers.numel() < clip.shape[1]:
        caption += f' Of {clip.shape[1]} frames {numbers.numel()} are predicted.'
    patch_size = model.backbone.patch_size
    return Reconstruction(
        original=_frames(pixels, grid, patch_size),
        masked=_frames(masked, grid, patch_size),
        reconstruction=_frames(reconstruction, grid, patch_size),
        caption=caption,
        numbers=numbers.flatten().tolist(),
    )


def _restore(target: Any, prediction: Tensor, pixels: Tensor) -> Tensor:
    """(M, repeats*P) predictions, (M, P) true pixels in 0..1 -> (M, P) predicted pixels in 0..1.

    For an image the model predicts every frame of a tubelet. The result is their mean.
    """
    repeats = prediction.shape[-1] // pixels.shape[-1]
    copies = prediction.unflatten(-1, (repeats, -1)).transpose(0, 1)
    return target.restore(copies, pixels.expand_as(copies), repeats).mean(0).clamp(0, 1)


def _frames(patches: Tensor, grid: Grid, patch_size: Size3) -> np.ndarray:
    """(N, P) in 0..1 -> (T, H, W, 3) uint8."""
    pt = patches.shape[1] // (3 * patch_size[1] * patch_size[2])
    x = patches.view(*grid, pt, *patch_size[1:], 3).permute(0, 3, 1, 4, 2, 5, 6)
    x = x.reshape(grid.t * pt, grid.h * patch_size[1], grid.w * patch_size[2], 3)
    return (x * 255).round().to(torch.uint8).cpu().numpy()


def _caption(target: Any, modality: str, num_visible: int, num_tokens: int, num_predicted: int, loss: float) -> str:
    num_hidden = num_tokens - num_visible
    text = f'{modality}, {100 * num_hidden / num_tokens:.1f} % hidden: {num_visible} of {num_tokens} patches visible, '
    text += f'loss {loss:.3f}. {_how_restored(target)}'
    if num_predicted < num_hidden:
        text += f' Of {num_hidden} hidden patches {num_predicted} are predicted, the others stay grey.'
    return text


def _how_restored(target: Any) -> str:
    if target.normalize is None:
        return 'Patches are predicted as they are.'
    return 'Patches are predicted normalised: mean and contrast of each hidden one are those of the original.'


# ---------------------------------------------------------------------------------------------------------------------
# Several modalities


@torch.no_grad()
def reconstruct_tasks(
    model: Any, clips: Mapping[str, Tensor], inputs: Sequence[str] | None = None, masks: Masks | None = None
) -> dict[str, Reconstruction]:
    """What a MultiMAE sees and predicts, for each of its tasks.

    Depth is grey from the minimum to the maximum of the original, and each class has its own colour. Without an
    original among the clips its panel is grey. A task that predicts normalised patches is left out then, because it
    needs their mean and std.

    Args:
        model: a MultiMAE.
        clips: modality -> (C, T, H, W) as stored.
        inputs: modalities that the model sees whole, and nothing of the others. None uses ``masks``.
        masks: over the tokens of all clips. None draws one as in training.
    """
    device = next(model.parameters()).device
    batch = {name: clip[None].to(device) for name, clip in clips.items()}
    patches, grids = model.backbone.patchify(model.data_preprocessor.normalize(batch))
    if inputs is not None:
        masks = _show_whole(inputs, grids).to(device)
    training = model.training
    model.eval()
    result = model.predict(batch, masks)[0]
    model.train(training)

    seen = torch.zeros(sum(grid.num_tokens for grid in grids.values()), dtype=torch.bool, device=device)
    seen[result['visible']] = True
    seen_of = {name: seen[span] for name, span in token_spans(grids).items()}
    visible = ', '.join(f'{int(x.sum())} of {len(x)} patches of {name}' for name, x in seen_of.items())
    drawn: dict[str, Reconstruction] = {}
    for task, prediction in result['patches'].items():
        head = model.head_of(task)
        original = patches[head.modality][0] if head.modality in patches else None
        if original is None and head.target is not None:
            continue
        predicted, true = _pictures(model, head, prediction.float(), original)
        own = seen_of.get(head.modality, seen.new_zeros(len(predicted)))[:, None]
        views = (true, torch.where(own, true, HIDDEN_GREY / 255), torch.where(own, true, predicted))
        grid, patch_size = model.grid_of(head.modality, grids), model.backbone.tokenizers[head.modality].patch_size
        error = result['losses'].get(task, torch.tensor(torch.nan))
        caption = f'{visible} visible' + (f', {head.error} {float(error):.3f}' if error.isfinite() else '') + '. '
        caption += f'No {head.modality} is given. ' if original is None else ''
        caption += '' if head.target is None else _how_restored(head.target)
        original_frames, masked, reconstruction = (_frames(view, grid, patch_size) for view in views)
        numbers = range(len(original_frames))
        drawn[task] = Reconstruction(original_frames, masked, reconstruction, caption.strip(), numbers)
    height = max(result.original.shape[1] for result in drawn.values())
    for task, result in drawn.items():
        scale = height // result.original.shape[1]
        original, masked, reconstruction = (enlarged(frames, scale) for frames in result[:3])
        drawn[task] = result._replace(original=original, masked=masked, reconstruction=reconstruction)
    return drawn


def reconstruct_sample(
    model: Any, sample: Mapping[str, Any], inputs: Sequence[str] | None = None
) -> dict[str, Reconstruction]:
    """A sample of a dataset -> its reconstructions by name: one, or one for each task of a MultiMAE."""
    clips = {name: only_view(clip)[0] for name, clip in sample['clips'].items()}
    if isinstance(model.mask_generator, Mapping):  # a MaskedAutoencoder, which has one for each modality
        return {sample['id']: reconstruct(model, clips['rgb'], sample['modality'])}
    results = reconstruct_tasks(model, clips, inputs)
    return {f'{sample["id"]}, {task}': result for task, result in results.items()}


def _show_whole(inputs: Sequence[str], grids: Mapping[str, Grid]) -> Masks:
    if not inputs or set(inputs) - set(grids):
        raise ValueError(f'inputs={list(inputs)} are not all among the clips, {list(grids)}. Name some of these.')
    hidden = [torch.full((1, grid.num_tokens), name not in inputs) for name, grid in grids.items()]
    return Masks.from_hidden(torch.cat(hidden, 1))


def _pictures(model: Any, head: Any, prediction: Tensor, original: Tensor | None) -> tuple[Tensor, Tensor]:
    """(N, P) prediction, (N, P) normalised original -> pictures of both, (N, 3 * pixels) in 0..1.

    For an image the model predicts every frame of a tubelet. The result is their mean.
    """
    is_map = head.error == 'cross_entropy'
    size = prediction.shape[1] if original is None else original.shape[1] * (head.channels if is_map else 1)
    copies = prediction.unflatten(1, (-1, size)).transpose(0, 1)
    if is_map:
        colours = palette(head.channels).to(prediction.device)
        classes = copies.mean(0).unflatten(1, (-1, head.channels)).argmax(2)
        predicted = colours[classes].flatten(1)
        true = None if original is None else colours[original.long().clamp(max=head.channels)].flatten(1)
    else:
        if head.target is not None:
            copies = head.target.restore(copies, cast(Tensor, original).expand_as(copies), len(copies))
        values = copies.mean(0)
        predicted = _as_rgb(model, head, values, values if original is None else original)
        true = None if original is None else _as_rgb(model, head, original, original)
    return predicted, torch.full_like(predicted, HIDDEN_GREY / 255) if true is None else true


def _as_rgb(model: Any, head: Any, values: Tensor, like: Tensor) -> Tensor:
    """(N, P) normalised -> (N, 3 * pixels) in 0..1, as pixels, or in greys between the extremes of ``like``."""
    if head.channels == 3:
        return model.data_preprocessor.modalities[head.modality].pixels_of_patches(values).clamp(0, 1)
    grey = greys(values, like)
    return grey.unflatten(1, (-1, head.channels)).mean(2).repeat_interleave(3, 1)


# ---------------------------------------------------------------------------------------------------------------------
# Pages


def image_grid(results: Iterable[tuple[str, Reconstruction]], title: str) -> Image.Image:
    """Draw images of one size with their names as original | masked | reconstruction, one row each."""
    rows = [
        Row([x.original[0], x.masked[0], x.reconstruction[0]], caption=f'{name}: {x.caption}') for name, x in results
    ]
    return sheet(title, rows, PANELS)


def frame_strip(result: Reconstruction, name: str, title: str) -> Image.Image:
    """Draw a clip as three strips of evenly spaced frames, original, masked and reconstruction."""
    chosen = strip_frames(len(result.original))
    rows = [Row([*frames[chosen]], label) for label, frames in zip(PANELS, result[:3], strict=True)]
    rows[-1] = rows[-1]._replace(caption=f'{name}: {result.caption}')
    return sheet(title, rows, [f'frame {result.numbers[i] + 1}' for i in chosen])


def animation(result: Reconstruction, name: str, title: str) -> list[Image.Image]:
    """Draw a clip as pages of original | masked | reconstruction, one per frame."""
    return [
        sheet(title, [Row(panels, caption=f'{name}: {result.caption}')], PANELS)
        for panels in zip(*result[:3], strict=True)
    ]


def reconstruction_pages(results: Mapping[str, Reconstruction], title: str) -> dict[str, Image.Image]:
    """Draw reconstructions by name: images on one page named '', clips as a frame strip each."""
    if all(len(result.original) == 1 for result in results.values()):
        return {'': image_grid(results.items(), title)}
    return {name: frame_strip(result, name, title) for name, result in results.items()}
