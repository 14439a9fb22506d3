"""Sheets: rows of images with a title, labels and captions; clips as GIF or mp4."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple, cast

import av
import numpy as np
from PIL import Image, ImageDraw, ImageFont

MARGIN = 8  # pixels between panels
MIN_PANEL = 160  # smaller panels are enlarged by whole factors, pixel by pixel
STRIP_FRAMES = 8  # of a clip, in its frame strip
INK, FAINT, WHITE = (20, 20, 20), (95, 95, 95), (255, 255, 255)


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


def strip_frames(num_frames: int) -> list[int]:
    """Indices of the frames in a frame strip, evenly spread over the clip."""
    return np.linspace(0, num_frames - 1, min(STRIP_FRAMES, num_frames)).round().astype(int).tolist()


def enlarged(pixels: np.ndarray, scale: int) -> np.ndarray:
    """(..., H, W, 3) -> the same with each pixel as ``scale`` x ``scale`` pixels."""
    return pixels.repeat(scale, -3).repeat(scale, -2)


def of_one_size(panels: Sequence[np.ndarray]) -> list[np.ndarray]:
    """(H, W, 3) each -> the same size. Smaller ones, such as class maps with a stride, are enlarged."""
    height = max(len(panel) for panel in panels)
    return [enlarged(panel, height // len(panel)) for panel in panels]


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
            notes = [_text(note, small, FAINT, step - MARGIN) for note in row.notes]
            blocks.append(_side_by_side(notes, left, step, width))
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
    for piece in re.findall(r'\S{1,20}\s*', text):  # words; long ones, such as file names, in pieces
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
    block = _side_by_side([Image.fromarray(enlarged(panel, scale)) for panel in row.panels], left, step, width)
    if row.label:
        ImageDraw.Draw(block).text((0, block.height / 2), row.label, INK, font, anchor='lm')
    return block


def _side_by_side(cells: Sequence[Image.Image], left: int, step: int, width: int) -> Image.Image:
    block = Image.new('RGB', (width, max(cell.height for cell in cells)), WHITE)
    for i, cell in enumerate(cells):
        block.paste(cell, (left + i * step, 0))
    return block


def _stacked(blocks: Sequence[Image.Image], width: int) -> Image.Image:
    height = sum(block.height + MARGIN for block in blocks) + MARGIN
    page = Image.new('RGB', (width + 2 * MARGIN, height), WHITE)
    y = MARGIN
    for block in blocks:
        page.paste(block, (MARGIN, y))
        y += block.height + MARGIN
    return page
