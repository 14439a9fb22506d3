"""Reading images and maps: what an image file shows."""

from __future__ import annotations

import io

import numpy as np
import simplejpeg
from mmengine import fileio
from PIL import ExifTags, Image, UnidentifiedImageError

from omnimae.data.media.errors import BrokenImageError


def decode_image(data: bytes) -> np.ndarray:
    """An image file's bytes -> uint8 RGB (H, W, 3), turned upright as its EXIF orientation says.

    Transparent pixels are laid on white; of 16-bit greys the upper 8 bits count. Only complete images pass.

    Raises:
        Exception: whatever Pillow's readers raise on broken files, of many types.
    """
    image: Image.Image = Image.open(io.BytesIO(data))  # refuses decompression bombs
    if image.format in ('JPEG', 'MPO') and image.mode in ('L', 'RGB'):
        pixels = _decode_jpeg(data)
        turn = _TURNS.get(_orientation(image))
        return pixels if turn is None else np.array(Image.fromarray(pixels).transpose(turn))
    image.load()
    turn = _TURNS.get(_orientation(image))
    if image.mode != 'RGB':
        image = _to_rgb(image)
    if turn is not None:
        image = image.transpose(turn)
    return np.array(image)


def _decode_jpeg(data: bytes) -> np.ndarray:
    """What Pillow decodes, to the last bit and a fifth faster, but for damage: Pillow drops libjpeg's warnings.

    A JPEG without its middle is grey or shifted from there on, which the format betrays in 19 of 20 cases.
    """
    try:
        return simplejpeg.decode_jpeg(data, strict=True)
    except ValueError as error:
        if 'extraneous bytes before marker 0xd9' not in str(error):  # behind the last pixel
            raise
        return simplejpeg.decode_jpeg(data, strict=False)


_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def _orientation(image: Image.Image) -> int:
    try:
        return image.getexif().get(ExifTags.Base.Orientation, 1)
    except SyntaxError:  # the notes are garbage, which need not cost the picture
        return 1


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.has_transparency_data:
        image = image.convert('RGBA')
        return Image.alpha_composite(Image.new('RGBA', image.size, 'white'), image).convert('RGB')
    if image.mode.startswith('I'):  # Pillow's own conversion cuts everything above 255
        image = Image.fromarray((np.asarray(image) >> 8).clip(0, 255).astype(np.uint8))
    elif image.mode == 'F':
        raise ValueError('floating-point pixels have no known range; store 8 or 16 bits')
    return image.convert('RGB')


def read_image(path: str, backend_args: dict | None = None) -> np.ndarray:
    """An image file -> uint8 RGB (1, H, W, 3), a clip of one frame; see `decode_image`.

    Raises:
        BrokenImageError: the file cannot be read in full.
    """
    try:
        data = fileio.get(path, backend_args=backend_args)
        return decode_image(data)[None]
    except UnidentifiedImageError as error:
        raise BrokenImageError(path, 'not an image' if data else 'the file is empty') from error
    except Exception as error:  # Pillow has no common type for what its readers raise
        raise BrokenImageError(path, f'{type(error).__name__}: {error}') from error


def read_map(path: str, backend_args: dict | None = None) -> np.ndarray:
    """An image file of one channel -> its numbers as they are, (1, H, W, 1): levels of grey, or indices of a palette.

    Raises:
        BrokenImageError: the file cannot be read in full, or has colours.
    """
    try:
        with Image.open(io.BytesIO(fileio.get(path, backend_args=backend_args))) as image:
            pixels = np.array(image)
    except UnidentifiedImageError as error:
        raise BrokenImageError(path, 'not an image') from error
    except Exception as error:  # Pillow has no common type for what its readers raise
        raise BrokenImageError(path, f'{type(error).__name__}: {error}') from error
    if pixels.ndim != 2:
        raise BrokenImageError(path, 'has colours, and a map has one channel')
    return pixels[None, ..., None]
