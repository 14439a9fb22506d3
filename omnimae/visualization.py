"""Draws reconstructions, with what the model saw, what it predicted, and how to read it.

A model is a MaskedAutoencoder or a MultiMAE, a target a PixelTarget, or has the same methods. Their types are Any,
since this module does not import the models.

Legend: T frames, H W pixels, N tokens, M decoded tokens, P pixels of a patch, in the order (pt, ph, pw, c).
"""

from __future__ import annotations

import colorsys
import os
import re
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any, NamedTuple, cast

import av
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from omnimae.structures import UNKNOWN_CLASS, Grid, Masks, Size3, require, token_spans

Frames = np.ndarray
"""(T, H, W, 3) uint8, RGB."""

PANELS = ('original', 'masked', 'reconstruction')

HIDDEN_GREY = 127
MARGIN = 8  # pixels between panels
MIN_PANEL = 160  # smaller panels are enlarged by whole factors, pixel by pixel
STRIP_FRAMES = 8  # of a clip, in its frame strip
INK, FAINT, WHITE = (20, 20, 20), (95, 95, 95), (255, 255, 255)


class Reconstruction(NamedTuple):
    """Three views of one clip, (T, H, W, 3) uint8 each, and a caption.

    If the model predicts only some frames of a clip, the views have only these.

    Attributes:
        original: the clip.
        masked: hidden patches are grey.
        reconstruction: hidden patches are the model's, visible ones the clip's own.
        caption: modality, visible tokens, and how pixels were made of predictions.
        numbers: which frames of the clip these are, counted from 0.
    """

    original: Frames
    masked: Frames
    reconstruction: Frames
    caption: str
    numbers: Sequence[int]


@torch.no_grad()
def reconstruct(model: Any, clip: Tensor, modality: str, masks: Masks | None = None) -> Reconstruction:
    """(3, T, H, W) uint8 -> what a masked autoencoder sees and predicts. Draws a mask unless one is given.

    A model that predicts normalised patches does not know their mean and std. They are taken from the true patch, and
    the caption says so.
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

    patch_size = model.backbone.patch_size
    return Reconstruction(
        original=_frames(pixels, grid, patch_size),
        masked=_frames(masked, grid, patch_size),
        reconstruction=_frames(reconstruction, grid, patch_size),
        caption=_caption(head.target, modality, grid, int(seen.sum()), float(result['loss']))
        + _left_grey(int((~seen).sum()), int((~seen[decode]).sum()))
        + (f' Of {clip.shape[1]} frames {numbers.numel()} are predicted.' if numbers.numel() < clip.shape[1] else ''),
        numbers=numbers.flatten().tolist(),
    )


def _restore(target: Any, prediction: Tensor, pixels: Tensor) -> Tensor:
    """(M, repeats*P) predictions, (M, P) true pixels in 0..1 -> (M, P) predicted pixels in 0..1.

    For an image the model predicts every frame of a tubelet. The result is their mean.
    """
    repeats = prediction.shape[-1] // pixels.shape[-1]
    copies = prediction.unflatten(-1, (repeats, -1)).transpose(0, 1)
    return target.restore(copies, pixels.expand_as(copies), repeats).mean(0).clamp(0, 1)


def _frames(patches: Tensor, grid: Grid, patch_size: Size3) -> Frames:
    """(N, P) in 0..1 -> (T, H, W, 3) uint8."""
    pt = patches.shape[1] // (3 * patch_size[1] * patch_size[2])
    x = patches.view(*grid, pt, *patch_size[1:], 3).permute(0, 3, 1, 4, 2, 5, 6)
    x = x.reshape(grid.t * pt, grid.h * patch_size[1], grid.w * patch_size[2], 3)
    return (x * 255).round().to(torch.uint8).cpu().numpy()


def _caption(target: Any, modality: str, grid: Grid, num_visible: int, loss: float) -> str:
    num_tokens = grid.num_tokens
    hidden = 100 * (1 - num_visible / num_tokens)
    text = f'{modality}, {hidden:.1f} % hidden: {num_visible} of {num_tokens} patches visible, loss {loss:.3f}. '
    return text + _how_restored(target)


def _left_grey(num_hidden: int, num_predicted: int) -> str:
    if num_predicted == num_hidden:
        return ''
    return f' Of {num_hidden} hidden patches {num_predicted} are predicted, the others stay grey.'


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
    """Modality -> (C, T, H, W) as stored -> what a MultiMAE sees and predicts, for each of its tasks.

    RGB is shown as it is, depth in greys from the minimum to the maximum of the original, each class in its own colour.
    A task without an original among the clips shows grey for it. A task that predicts normalised patches needs the
    statistics of the original, and is left out without it.

    Args:
        model: a MultiMAE.
        clips: of each available modality.
        inputs: modalities that the model sees completely, and none of the others (any-to-any). None uses ``masks``.
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
    return {task: _enlarged(result, height // result.original.shape[1]) for task, result in drawn.items()}


def reconstruct_sample(model: Any, sample: Mapping[str, Any]) -> dict[str, Reconstruction]:
    """A sample of a dataset -> what the model sees and predicts, one or one for each of its tasks, by name."""
    if 'clips' not in sample:
        return {sample['id']: reconstruct(model, sample['clip'][0], sample['modality'])}
    results = reconstruct_tasks(model, {name: clip[0] for name, clip in sample['clips'].items()})
    return {f'{sample["id"]}, {task}': result for task, result in results.items()}


def _show_whole(inputs: Sequence[str], grids: Mapping[str, Grid]) -> Masks:
    if not inputs or set(inputs) - set(grids):
        raise ValueError(
            f'inputs={list(inputs)} are not all among the clips, {list(grids)}. Name one or more of these.'
        )
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
        palette = _palette(head.channels).to(prediction.device)
        classes = copies.mean(0).unflatten(1, (-1, head.channels)).argmax(2)
        predicted = palette[classes].flatten(1)
        true = None if original is None else palette[original.long().clamp(max=head.channels)].flatten(1)
    else:
        if head.target is not None:
            copies = head.target.restore(copies, cast(Tensor, original).expand_as(copies), len(copies))
        values = copies.mean(0)
        predicted = _colours(model, head, values, values if original is None else original)
        true = None if original is None else _colours(model, head, original, original)
    return predicted, torch.full_like(predicted, HIDDEN_GREY / 255) if true is None else true


def _colours(model: Any, head: Any, values: Tensor, like: Tensor) -> Tensor:
    """(N, P) normalised -> (N, 3 * pixels) in 0..1, as pixels, or in greys between the extremes of ``like``."""
    if head.channels == 3:
        return model.data_preprocessor.modalities[head.modality].pixels_of_patches(values).clamp(0, 1)
    low, high = like.min(), like.max()
    grey = ((values - low) / (high - low).clamp(min=1e-6)).clamp(0, 1)
    return grey.unflatten(1, (-1, head.channels)).mean(2).repeat_interleave(3, 1)


def _palette(num_classes: int) -> Tensor:
    """-> (num_classes + 1, 3) in 0..1. Distinct colours of classes, far apart for near numbers, and black for none."""
    rows = [
        colorsys.hsv_to_rgb(i * 0.618 % 1, (0.85, 0.5)[i // 2 % 2], (0.95, 0.65)[i % 2]) for i in range(num_classes)
    ]
    return torch.tensor([*rows, (0.0, 0.0, 0.0)])


def _enlarged(result: Reconstruction, scale: int) -> Reconstruction:
    original, masked, reconstruction = (frames.repeat(scale, 1).repeat(scale, 2) for frames in result[:3])
    return result._replace(original=original, masked=masked, reconstruction=reconstruction)


# ---------------------------------------------------------------------------------------------------------------------
# Maps


@torch.no_grad()
def predictions_sheet(model: Any, samples: Sequence[Mapping[str, Any]], title: str) -> Image.Image:
    """Draw inputs, truth and prediction of a DensePredictor for samples with a target, one row each.

    Each class has its own colour. Depth is shown in greys from the minimum to the maximum of the truth, for the
    prediction too. Black is unknown.
    """
    device, training = next(model.parameters()).device, model.training
    model.eval()
    rows = []
    for sample in samples:
        [prediction] = model.predict({name: clip[:1].to(device) for name, clip in sample['clips'].items()})[0].values()
        truth = sample['target'][0, 0, 0]
        panels = [map_picture(clip[0, :, 0]) for clip in sample['clips'].values()]
        panels += [map_picture(x.cpu()[None], like=truth) for x in (truth, prediction)]
        rows.append(Row(of_one_size(panels), caption=sample['id']))
    model.train(training)
    return sheet(title, rows, [*samples[0]['clips'], 'truth', 'prediction'])


def of_one_size(panels: Sequence[np.ndarray]) -> list[np.ndarray]:
    """(H, W, 3) each -> the same size. Smaller ones, as class maps with a stride, are enlarged by whole factors."""
    height = max(len(panel) for panel in panels)
    return [panel.repeat(height // len(panel), 0).repeat(height // len(panel), 1) for panel in panels]


def map_picture(pixels: Tensor, like: Tensor | None = None) -> np.ndarray:
    """(C, H, W) RGB, classes (uint8) or depth -> (H, W, 3) uint8. Depth is scaled to the extremes of ``like``."""
    if len(pixels) == 3:
        return pixels.permute(1, 2, 0).numpy()
    if pixels.dtype == torch.uint8:
        colours = _palette(UNKNOWN_CLASS)[pixels[0].long()]
    else:
        known = pixels if like is None else like
        known = known[known >= 0].float()
        low, high = (known.min(), known.max()) if len(known) else (torch.tensor(0.0), torch.tensor(1.0))
        grey = ((pixels[0] - low) / (high - low).clamp(min=1e-6)).clamp(0, 1)
        colours = torch.where(pixels[0] < 0, 0, 0.1 + 0.9 * grey)[..., None].expand(-1, -1, 3)
    return (colours * 255).round().to(torch.uint8).numpy()


# ---------------------------------------------------------------------------------------------------------------------
# Pictures


class Row(NamedTuple):
    """One row of a sheet, with images side by side and their texts.

    Attributes:
        panels: (H, W, 3) uint8 each, of one size on the whole sheet.
        label: left of the panels.
        notes: below each panel.
        caption: below the row.
    """

    panels: Sequence[np.ndarray]
    label: str = ''
    notes: Sequence[str] = ()
    caption: str = ''


def image_grid(results: Sequence[Reconstruction], names: Sequence[str], title: str) -> Image.Image:
    """Draw images of one size as original | masked | reconstruction, one row each."""
    rows = [
        Row([panel[0] for panel in result[:3]], caption=f'{name}: {result.caption}')
        for result, name in zip(results, names, strict=True)
    ]
    return sheet(title, rows, PANELS)


def frame_strip(result: Reconstruction, name: str, title: str) -> Image.Image:
    """Draw a clip as three strips of evenly spaced frames, original, masked and reconstruction."""
    num_frames = len(result.original)
    chosen = np.linspace(0, num_frames - 1, min(STRIP_FRAMES, num_frames)).round().astype(int)
    rows = [Row(frames[chosen], label) for label, frames in zip(PANELS, result[:3], strict=True)]
    rows[-1] = rows[-1]._replace(caption=f'{name}: {result.caption}')
    return sheet(title, rows, [f'frame {result.numbers[i] + 1}' for i in chosen])


def animation(result: Reconstruction, name: str, title: str) -> list[Image.Image]:
    """Draw a clip as pages of original | masked | reconstruction, one per frame."""
    return [
        sheet(title, [Row(panels, caption=f'{name}: {result.caption}')], PANELS)
        for panels in zip(*result[:3], strict=True)
    ]


def sheet(title: str, rows: Sequence[Row], columns: Sequence[str] = ()) -> Image.Image:
    """Draw rows of images, with a title and texts for columns, rows and single images."""
    panel_height, panel_width = rows[0].panels[0].shape[:2]
    scale = max(1, -(-MIN_PANEL // min(panel_height, panel_width)))
    step = panel_width * scale + MARGIN
    width = step * max(len(row.panels) for row in rows) - MARGIN
    font_size = max(14, width // 100)
    small, font, large = (_font(factor * font_size) for factor in (1, 1.25, 1.5))
    left = max((int(font.getlength(row.label)) + MARGIN for row in rows if row.label), default=0)
    width += left

    blocks = [_text(title, large, INK, width)]
    if columns:
        blocks.append(_column_labels(columns, font, left, step, width))
    for row in rows:
        blocks.append(_panels(row, font, scale, left, step, width))
        if row.notes:
            blocks.append(_notes(row.notes, small, left, step, width))
        if row.caption:
            blocks.append(_text(row.caption, small, FAINT, width))
        if row.notes or row.caption:
            blocks.append(Image.new('RGB', (width, MARGIN), WHITE))  # away from the next row
    return _stacked(blocks, width)


def write_gif(path: str | os.PathLike, pages: Sequence[Image.Image], frames_per_second: float) -> None:
    """Write pages of one size as an endless GIF."""
    pages[0].save(path, save_all=True, append_images=pages[1:], duration=round(1000 / frames_per_second), loop=0)


def write_mp4(path: str | os.PathLike, pages: Sequence[Image.Image], frames_per_second: float) -> None:
    """Write pages of one size as an H.264 video that every player shows."""
    width, height = (size - size % 2 for size in pages[0].size)  # 4:2:0 colour needs even sides
    rate = Fraction(frames_per_second).limit_denominator(1000)
    with av.open(os.fspath(path), 'w') as container:
        stream = container.add_stream('libx264', rate=rate, options={'crf': '18'})
        stream.width, stream.height, stream.pix_fmt = width, height, 'yuv420p'
        for page in pages:
            container.mux(stream.encode(av.VideoFrame.from_image(page.crop((0, 0, width, height)))))
        container.mux(stream.encode(None))


def _font(size: float) -> ImageFont.FreeTypeFont:
    return cast(ImageFont.FreeTypeFont, ImageFont.load_default(size))  # without a size it returns another kind


def _text(text: str, font: ImageFont.FreeTypeFont, ink: tuple[int, int, int], width: int) -> Image.Image:
    lines = _wrapped(text, font, width)
    line_height = round(1.3 * font.size)
    block = Image.new('RGB', (width, line_height * len(lines)), WHITE)
    draw = ImageDraw.Draw(block)
    for i, line in enumerate(lines):
        draw.text((0, (i + 0.5) * line_height), line, ink, font, anchor='lm')
    return block


def _wrapped(text: str, font: ImageFont.FreeTypeFont, width: int) -> list[str]:
    lines = ['']
    for piece in re.findall(r'\S{1,20}\s*', text):  # words, the long ones (names of files) in pieces
        if font.getlength((lines[-1] + piece).rstrip()) > width:
            lines.append('')
        lines[-1] += piece
    return lines


def _column_labels(
    columns: Sequence[str], font: ImageFont.FreeTypeFont, left: int, step: int, width: int
) -> Image.Image:
    block = Image.new('RGB', (width, round(1.3 * font.size)), WHITE)
    draw = ImageDraw.Draw(block)
    for i, label in enumerate(columns):
        draw.text((left + i * step + (step - MARGIN) / 2, block.height / 2), label, INK, font, anchor='mm')
    return block


def _panels(row: Row, font: ImageFont.FreeTypeFont, scale: int, left: int, step: int, width: int) -> Image.Image:
    height = row.panels[0].shape[0] * scale
    block = Image.new('RGB', (width, height), WHITE)
    if row.label:
        ImageDraw.Draw(block).text((0, height / 2), row.label, INK, font, anchor='lm')
    for i, panel in enumerate(row.panels):
        enlarged = np.ascontiguousarray(panel).repeat(scale, 0).repeat(scale, 1)
        block.paste(Image.fromarray(enlarged), (left + i * step, 0))
    return block


def _notes(notes: Sequence[str], font: ImageFont.FreeTypeFont, left: int, step: int, width: int) -> Image.Image:
    texts = [_text(note, font, FAINT, step - MARGIN) for note in notes]
    block = Image.new('RGB', (width, max(text.height for text in texts)), WHITE)
    for i, text in enumerate(texts):
        block.paste(text, (left + i * step, 0))
    return block


def _stacked(blocks: Sequence[Image.Image], width: int) -> Image.Image:
    height = sum(block.height + MARGIN for block in blocks) + MARGIN
    page = Image.new('RGB', (width + 2 * MARGIN, height), WHITE)
    y = MARGIN
    for block in blocks:
        page.paste(block, (MARGIN, y))
        y += block.height + MARGIN
    return page
