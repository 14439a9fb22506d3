"""Reading images and maps."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImagePalette, UnidentifiedImageError
from PIL.ImageFile import ImageFile
from PIL.TiffImagePlugin import TiffImageFile

from omnimae.data import storage
from omnimae.data.media.errors import BrokenImageError
from omnimae.data.media.extensions import READS_HEIF
from omnimae.data.media.jpeg import SOI, SamplingError, decode_jpeg, plain_jpeg
from omnimae.data.media.orientation import UPRIGHT, orient
from omnimae.data.media.png import SIGNATURE, chunks_of_pixels
from omnimae.stopping import StorageAwayError

JPEGS = ('JPEG', 'MPO')
HEIF_BRANDS = {b'heic', b'heix', b'heim', b'heis', b'hevc', b'hevx'}
WHITE = 255
PHOTOMETRIC = ExifTags.Base.PhotometricInterpretation
WHITE_IS_ZERO = 0  # one of TIFF
SIGNED = 2  # a sample format of TIFF
PLANES, TOGETHER, APART = ExifTags.Base.PlanarConfiguration, 1, 2  # the channels of a pixel, in TIFF


def decode_image(data: bytes) -> NDArray[np.uint8]:
    """An image file's bytes -> uint8 RGB (H, W, 3), turned upright as its EXIF orientation says.

    Transparent pixels are put on white. Of 16-bit greys the upper 8 bits are used. Only complete images pass.

    Raises:
        Exception: of any type; Pillow's readers raise many for broken files.
    """
    return np.ascontiguousarray(orient(*_decoded(_decode_rgb, data)))


class Stored(NamedTuple):
    """A file's pixels as they are stored."""

    path: str
    pixels: NDArray  # (1, H, W, 3), or of a map (1, H, W, 1)
    orientation: int  # EXIF's number, see `orient`

    @property
    def upright(self) -> NDArray:
        """The pixels, turned upright."""
        return np.ascontiguousarray(orient(self.pixels, self.orientation))


def read_image(path: str, backend_args: dict | None = None) -> NDArray[np.uint8]:
    """An image file -> uint8 RGB (1, H, W, 3), a clip of one frame; see `decode_image`.

    Raises:
        BrokenImageError: the file cannot be read in full.
    """
    return read_stored(path, backend_args).upright


def read_stored(path: str, backend_args: dict | None = None) -> Stored:
    """Like `read_image`, but as stored.

    Raises:
        BrokenImageError: the file cannot be read in full.
    """
    return _read(path, backend_args, _decode_rgb)


def read_stored_map(path: str, backend_args: dict | None = None) -> Stored:
    """Read an image file of one channel as its numbers: grey levels or palette indices.

    Greys of fewer than 8 bits, or of a PGM with another maximum than 255, are not scaled to 255.

    Raises:
        BrokenImageError: the file cannot be read in full, or has several channels.
    """
    return _read(path, backend_args, _decode_map)


# ---- Content of a file -> pixels as stored, and their orientation ----


def _decoded(decode: Callable[[bytes], tuple[NDArray, int]], data: bytes) -> tuple[NDArray, int]:
    """Decode a file. If Pillow refuses the metadata of a PNG, decode only the chunks of its pixels."""
    if not data.startswith(SIGNATURE):
        return decode(data)
    chunks = chunks_of_pixels(data)
    try:
        return decode(data)
    except Exception:
        return decode(b''.join(chunks))


def _decode_rgb(data: bytes) -> tuple[NDArray[np.uint8], int]:
    """-> uint8 RGB (H, W, 3)."""
    image = _open(data)
    if image.format not in JPEGS:
        return _decode(image, lambda: _to_rgb(image, data))
    try:
        if image.mode == 'CMYK':  # stored inverted, as by Adobe; nobody else writes CMYK
            ink = WHITE - decode_jpeg(data, 'CMYK')
            return np.array(Image.frombytes('CMYK', image.size, ink).convert('RGB')), _orientation(image)
        return decode_jpeg(data), _orientation(image)
    except SamplingError:  # rare; Pillow reads them, but misses damage in the middle
        return _decode(image, lambda: np.array(image.convert('RGB')))


def _decode_map(data: bytes) -> tuple[NDArray, int]:
    """-> numbers (H, W, 1)."""
    image = _open(data)
    if len(image.getbands()) > 1:
        raise ValueError('has several channels, but a map has one')
    if image.format in JPEGS:
        return decode_jpeg(data, 'GRAY'), _orientation(image)
    maximum = _maximum_of(image, data)
    return _decode(image, lambda: _unscaled(np.array(image), maximum)[..., None])


def _open(data: bytes) -> ImageFile:
    """Read the header. Decompression bombs are refused."""
    if data[4:8] != b'ftyp' or HEIF_BRANDS.isdisjoint(data[i : i + 4] for i in range(8, min(data[3], len(data)), 4)):
        try:
            image = Image.open(io.BytesIO(data))
        except UnidentifiedImageError:
            if not data.startswith(bytes((0xFF, SOI))):
                raise
            image = Image.open(io.BytesIO(plain_jpeg(data)))
        return _repaired(image) if isinstance(image, TiffImageFile) else image
    if not READS_HEIF:
        raise ValueError('HEIF needs another package: pip install pillow-heif')
    import pillow_heif

    image_of_heif: Any = pillow_heif.open_heif(io.BytesIO(data)).to_pillow()  # without tiles, because it is decoded
    return image_of_heif


def _repaired(image: TiffImageFile) -> TiffImageFile:
    """Repair what Pillow 13 misreads: uncompressed planes, and palettes of 8 bits (taken for 16)."""
    if image.tag_v2.get(PLANES) == APART and image.info['compression'] == 'raw':
        if len(image.getbands()) == 1:  # one plane is the whole picture; Pillow would lose its depth and its inversion
            image.tag_v2[PLANES], image.tile = TOGETHER, []
            image._setup()
        elif _bits_of(image) == 16:  # for 8
            tiles: Any = image.tile
            order = ';16B' if image.tag_v2.prefix == b'MM' else ';16L'
            image.tile = [tile._replace(args=(tile.args[0] + order, *tile.args[1:])) for tile in tiles]
    if image.mode == 'P' and max(palette := image.tag_v2[ExifTags.Base.ColorMap]) < 256:  # libtiff does the same
        image.palette = ImagePalette.raw('RGB;L', bytes(palette))
    return image


def _decode(image: Image.Image, to_pixels: Callable[[], NDArray]) -> tuple[NDArray, int]:
    turned = _orientation(image) if image.format == 'TIFF' else UPRIGHT  # Pillow turns only these itself
    image.load()
    pixels = to_pixels()
    if turned != UPRIGHT:
        return orient(pixels, {6: 8, 8: 6}.get(turned, turned)), turned
    return pixels, _orientation(image)


def _orientation(image: Image.Image) -> int:
    try:
        number = image.getexif().get(ExifTags.Base.Orientation, UPRIGHT)
    except SyntaxError:  # damaged metadata, the picture may be good
        return UPRIGHT
    return number if number in range(1, 9) else UPRIGHT


def _bits_of(image: Image.Image, data: bytes = b'') -> int:
    """Bits of a channel in the file. Pillow's modes do not show them."""
    if image.format == 'PNG':
        return data[24]
    if isinstance(image, TiffImageFile):
        return image.tag_v2.get(ExifTags.Base.BitsPerSample, (1,))[0]
    return 16 if image.mode.startswith('I') else 8


def _maximum_of(image: ImageFile, data: bytes) -> int:
    """The maximum of a grey file, not loaded yet, that Pillow scales to white; 0 if it does not."""
    args = image.tile[0].args if image.format == 'PPM' else None
    if isinstance(args, tuple) and image.mode != '1':
        return args[1]
    bits = _bits_of(image, data)
    return 2**bits - 1 if image.mode == 'L' and bits < 8 else 0


def _unscaled(levels: NDArray, maximum: int) -> NDArray:
    """Undo Pillow's scaling of grey levels 0 to ``maximum``. Levels of 1 bit become booleans."""
    if not maximum:
        return levels
    white = WHITE if levels.dtype == np.uint8 else 2**16 - 1
    numbers = (levels.astype(np.int64) * maximum + white // 2) // white
    return numbers.astype(bool if maximum == 1 else levels.dtype)


def _to_rgb(image: Image.Image, data: bytes) -> NDArray[np.uint8]:
    """-> (H, W, 3)."""
    bits = _bits_of(image, data)
    if image.format == 'TGA' and not data[17] & 0b1111:  # no bits of alpha, so the fourth channel is unused
        image = image.convert({'RGBA': 'RGB', 'LA': 'L'}.get(image.mode, image.mode))
    key = None if image.mode == 'P' else image.info.pop('transparency', None)  # the transparent colour
    if image.has_transparency_data:
        image = (image.convert('LA') if image.mode == 'La' else image).convert('RGBA')  # Pillow has no shorter way
        return np.array(Image.alpha_composite(Image.new('RGBA', image.size, 'white'), image).convert('RGB'))
    if image.mode == 'F':
        raise ValueError('floating-point pixels have no known range; store 8 or 16 bits')
    is_signed = isinstance(image, TiffImageFile) and SIGNED in image.tag_v2.get(ExifTags.Base.SampleFormat, ())
    if is_signed or (image.mode == 'I' and image.format not in ('PNG', 'PPM')):  # 'I' of these is 16 bits
        raise ValueError('signed or 32-bit pixels have no known range; store 8 or 16 bits')
    if image.mode.startswith('I'):  # Pillow's own conversion clips at 255
        grey = np.asarray(image)
        is_key = grey == key
        if isinstance(image, TiffImageFile) and image.tag_v2.get(PHOTOMETRIC) == WHITE_IS_ZERO:
            grey = 2**bits - 1 - grey
        pixels = np.repeat((grey >> bits - 8).astype(np.uint8)[..., None], 3, axis=-1)
    else:
        pixels = np.array(image.convert('RGB'))
        if key is not None:
            key = np.array(key) % 2**bits
            is_key = (pixels == (key >> 8 if bits == 16 else key * 255 // (2**bits - 1))).all(-1)
            if bits == 16:
                is_key &= (_lower_bytes(data) == key & 0xFF).all(-1)
    if key is not None:
        pixels[is_key] = WHITE
    return pixels


def _lower_bytes(data: bytes) -> NDArray[np.uint8]:
    """The lower bytes of a PNG of 16-bit RGB. Pillow reads the upper bytes, so the two are swapped here."""
    image = _open(data)
    image.tile = [tile._replace(args='RGB;16L') for tile in image.tile]
    return np.asarray(image)


def _read(path: str, backend_args: dict | None, decode: Callable[[bytes], tuple[NDArray, int]]) -> Stored:
    data = b''
    try:
        data = storage.read(path, backend_args)
        pixels, orientation = _decoded(decode, data)
    except StorageAwayError:
        raise
    except UnidentifiedImageError as error:
        reason = 'not an image that Pillow reads' if data else 'the file is empty'
        raise BrokenImageError(path, reason) from error
    except Exception as error:  # backends and Pillow's readers have no common type
        raise BrokenImageError(path, _reason(error)) from error
    return Stored(path, pixels[None], orientation)


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f'{type(error).__name__}: {error.strerror}'
    text = str(error)
    if isinstance(error, OSError) and text.removeprefix('-').isdecimal():  # libtiff's
        return f'damaged, the decoder gave up with error {text}'
    return text if type(error) in (OSError, ValueError) else f'{type(error).__name__}: {text}'
