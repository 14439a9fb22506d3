"""Image files of every kind that Pillow writes, and JPEGs whose headers are odd or whose scans are cut."""

from __future__ import annotations

import io
import re
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
import skimage.data
import tifffile
from PIL import ExifTags, Image, UnidentifiedImageError

from omnimae.data.media import images
from omnimae.data.media.errors import BrokenImageError
from omnimae.data.media.images import decode_image, read_image, read_stored_map

PHOTO = Image.fromarray(skimage.data.astronaut()[:200, :304])


def encoded(image: Image.Image, kind: str = 'JPEG', **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def by_pillow(data: bytes) -> np.ndarray:
    return np.array(Image.open(io.BytesIO(data)).convert('RGB'))


# JPEG: odd headers ----------------------------------------------------------------------------------------------------


def segment(marker: int, content: bytes) -> bytes:
    return struct.pack('>BBH', 0xFF, marker, len(content) + 2) + content


def put(data: bytes, marker: int, what: bytes) -> bytes:
    """``what`` in front of the first of these markers."""
    place = data.index(bytes((0xFF, marker)))
    return data[:place] + what + data[place:]


def with_scan_parameters(data: bytes, parameters: bytes) -> bytes:
    place = data.index(b'\xff\xda') + 2
    end = place + int.from_bytes(data[place : place + 2], 'big')
    return data[: end - 3] + parameters + data[end:]


def adobe(transform: int) -> bytes:
    return segment(0xEE, b'Adobe\0\x64\0\0\0\0' + bytes([transform]))


def without_jfif(data: bytes) -> bytes:
    return data.replace(b'JFIF\0', b'JFXY\0')


# what is done to the header -> libjpeg's warning of it
ODDITIES = {
    'JFIF revision': (lambda x: x.replace(b'JFIF\0\1\1', b'JFIF\0\0\0'), 'unknown JFIF revision number 0.00'),
    'stray before DQT': (lambda x: put(x, 0xDB, b'\0\0'), '2 extraneous bytes before marker 0xdb'),
    'stray before DHT': (lambda x: put(x, 0xC4, b'\xff\0abc'), '5 extraneous bytes before marker 0xc4'),
    'stray before SOS': (lambda x: put(x, 0xDA, b'\0'), '1 extraneous bytes before marker 0xda'),
    'ICC number': (lambda x: put(x, 0xDB, segment(0xE2, b'ICC_PROFILE\0\3\2' + bytes(99))), 'bad ICC marker'),
    'ICC lacks one': (lambda x: put(x, 0xDB, segment(0xE2, b'ICC_PROFILE\0\1\2' + bytes(99))), 'bad ICC marker'),
    'Adobe': (lambda x: put(without_jfif(x), 0xDB, adobe(3)), 'Unknown Adobe color transform code 3'),
    'Adobe late': (lambda x: put(without_jfif(x), 0xDA, adobe(2)), 'Unknown Adobe color transform code 2'),
    'Samsung': (lambda x: with_scan_parameters(x, b'\0\0\0'), 'Invalid SOS parameters for sequential JPEG'),
}
ODDITIES['several'] = (
    lambda x: ODDITIES['JFIF revision'][0](ODDITIES['stray before DQT'][0](ODDITIES['Samsung'][0](x))),
    'unknown JFIF revision number 0.00',
)


@pytest.mark.parametrize('options', [{}, dict(subsampling=0), dict(restart_marker_rows=1)], ids=['', '444', 'restart'])
@pytest.mark.parametrize(('make', 'warning'), ODDITIES.values(), ids=ODDITIES)
def test_a_jpeg_with_an_odd_header_shows_what_the_clean_one_does(make, warning, options):
    clean = encoded(PHOTO, **options)
    odd = make(clean)
    with pytest.raises(ValueError, match=warning):
        simplejpeg.decode_jpeg(odd, strict=True)
    np.testing.assert_array_equal(decode_image(odd), by_pillow(clean))
    np.testing.assert_array_equal(by_pillow(odd), by_pillow(clean))


@pytest.mark.parametrize('make', [make for make, _ in ODDITIES.values()], ids=ODDITIES)
def test_an_odd_header_hides_no_cut(make):
    odd, refused = make(encoded(PHOTO, restart_marker_rows=1)), 0
    begins = range(odd.index(b'\xff\xda') + 50, len(odd) - 1000, 500)
    for begin in begins:
        try:
            decode_image(odd[:begin] + odd[begin + 701 :])
        except ValueError as error:
            refused += bool(re.search('orrupt|RST', str(error)))
    assert refused >= 0.95 * len(begins)


def test_colours_are_told_by_the_same_markers_as_before():
    """Without its JFIF and Adobe markers a file of RGB would be taken for one of YCbCr."""
    plain = Image.fromarray(np.asarray(PHOTO)[..., ::-1])
    data = put(encoded(plain, keep_rgb=True), 0xDB, b'\0\0')
    np.testing.assert_array_equal(decode_image(data), by_pillow(data))
    assert np.abs(decode_image(data).astype(int) - np.asarray(plain)).mean() < 5
    grey = ODDITIES['several'][0](encoded(PHOTO.convert('L')))
    np.testing.assert_array_equal(decode_image(grey), by_pillow(grey))


def test_rubbish_before_the_end_passes_and_missing_rows_do_not():
    """With restart markers libjpeg's first warning is the same for both."""
    whole = encoded(PHOTO, restart_marker_rows=1)
    restarts = [match.start() for match in re.finditer(rb'\xff[\xd0-\xd7]', whole)]
    np.testing.assert_array_equal(decode_image(whole[:-2] + b'rubbish' * 9 + whole[-2:]), by_pillow(whole))
    cut = whole[: restarts[5]] + b'rubbish' * 9 + whole[-2:]
    with pytest.raises(ValueError, match='extraneous bytes before marker 0xd9'):
        simplejpeg.decode_jpeg(cut, strict=True)
    with pytest.raises(ValueError, match='found marker 0xd9 instead of RST5'):
        decode_image(cut)


@pytest.mark.parametrize('options', [{}, dict(progressive=True)], ids=['', 'progressive'])
def test_a_cmyk_jpeg_without_its_middle_is_an_error(options):
    whole, refused = encoded(PHOTO.convert('CMYK'), **options), 0
    np.testing.assert_array_equal(decode_image(whole), by_pillow(whole))
    np.testing.assert_array_equal(decode_image(put(whole, 0xDB, b'\0\0')), by_pillow(whole))
    unknown = whole.replace(adobe(0)[4:], adobe(3)[4:])
    assert unknown != whole
    np.testing.assert_array_equal(decode_image(unknown), by_pillow(unknown))
    begins = range(3000, len(whole) - 1000, len(whole) // 30)
    for begin in begins:
        try:
            decode_image(whole[:begin] + whole[begin + 701 :])
        except ValueError:
            refused += 1
    assert refused >= 0.8 * len(begins)


def test_samplings_that_simplejpeg_does_not_know_are_left_to_pillow():
    data = bytearray(encoded(PHOTO.convert('CMYK'), subsampling=0))
    place = data.index(b'\xff\xc0') + 10
    data[place + 1] = 0x12  # of the first of the four: another scan, but a valid header
    with pytest.raises(ValueError, match='Could not determine subsampling'):
        simplejpeg.decode_jpeg(bytes(data), 'CMYK')
    np.testing.assert_array_equal(decode_image(bytes(data)), by_pillow(bytes(data)))


@pytest.mark.parametrize(
    'notes',
    [b'\0', b'stray', segment(0xE0, b'JFIF\0'), segment(0xE2, b'ICC_PROFILE\0'), segment(0xEE, b'Adobe')],
    ids=['stray', 'strays', 'JFIF cut short', 'ICC cut short', 'Adobe cut short'],
)
@pytest.mark.parametrize('mode', ['RGB', 'L', 'CMYK'])
def test_jpegs_that_pillow_does_not_open_show_what_the_clean_ones_do(notes, mode, tmp_path):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    clean = encoded(PHOTO.convert(mode), exif=exif)
    odd = clean[:2] + notes + clean[2:]
    with pytest.raises(UnidentifiedImageError):
        by_pillow(odd)
    np.testing.assert_array_equal(decode_image(odd), np.rot90(by_pillow(clean), -1))
    (tmp_path / 'a.jpg').write_bytes(odd[:-2000] + odd[-1000:])
    with pytest.raises(BrokenImageError, match='[Pp]remature end|orrupt'):
        read_image(str(tmp_path / 'a.jpg'))


# Every mode of every format -------------------------------------------------------------------------------------------

SIZE = (13, 11)  # width, height


def pixels_of(mode: str) -> np.ndarray:
    rng = np.random.default_rng(7)
    shape = SIZE[::-1]
    if mode == '1':
        return rng.integers(0, 2, shape).astype(bool)
    if mode.startswith('I'):
        return rng.integers(0, 2**16, shape).astype(np.int32 if mode == 'I' else np.uint16)
    channels = dict(L=0, P=0, LA=2, RGB=3, RGBX=4, RGBA=4, CMYK=4, YCbCr=3)[mode]
    return rng.integers(0, 256, (*shape, channels) if channels else shape, np.uint8)


PALETTE = np.random.default_rng(8).integers(0, 256, (256, 3), np.uint8)


def image_of(mode: str) -> Image.Image:
    pixels = pixels_of(mode)
    if mode in ('1', 'I', 'I;16', 'L', 'LA', 'RGB', 'RGBA'):
        return Image.fromarray(pixels)
    image = Image.frombytes(mode, SIZE, pixels.tobytes())
    if mode == 'P':
        image.putpalette(PALETTE.tobytes())
    return image


def composed(mode: str) -> np.ndarray:
    """What such pixels show, by their definition: floating RGB on white."""
    x = pixels_of(mode).astype(float)
    if mode == 'P':
        return PALETTE[pixels_of(mode)].astype(float)
    if mode in ('1', 'L', 'I', 'I;16'):
        x = dict({'1': x * 255, 'L': x}).get(mode, np.floor(x / 256))
        return np.repeat(x[..., None], 3, -1)
    if mode in ('LA', 'RGBA'):
        alpha = x[..., -1:] / 255
        return np.broadcast_to(x[..., :-1], (*x.shape[:2], 3)) * alpha + 255 * (1 - alpha)
    if mode == 'CMYK':
        return (255 - x[..., :3]) * (255 - x[..., 3:]) / 255
    if mode == 'YCbCr':  # JFIF 1.02
        y, cb, cr = x[..., 0], x[..., 1] - 128, x[..., 2] - 128
        return np.stack([y + 1.402 * cr, y - 0.344136 * cb - 0.714136 * cr, y + 1.772 * cb], -1).clip(0, 255)
    return x[..., :3]


WRITTEN = {  # format -> options without loss, modes
    'PNG': ({}, ['1', 'L', 'LA', 'P', 'RGB', 'RGBA', 'I;16']),
    'TIFF': ({}, ['1', 'L', 'LA', 'P', 'RGB', 'RGBA', 'RGBX', 'CMYK', 'YCbCr', 'I;16']),
    'WEBP': (dict(lossless=True, exact=True), ['RGB', 'RGBA']),
    'BMP': ({}, ['1', 'L', 'P', 'RGB']),
    'TGA': ({}, ['1', 'L', 'LA', 'P', 'RGB', 'RGBA']),
    'PPM': ({}, ['1', 'L', 'RGB', 'I;16']),
    'JPEG2000': ({}, ['L', 'LA', 'RGB', 'RGBA', 'I;16']),
    'QOI': ({}, ['RGB', 'RGBA']),
    'GIF': ({}, ['1', 'L', 'P']),
}


@pytest.mark.parametrize(('kind', 'mode'), [(kind, mode) for kind, (_, modes) in WRITTEN.items() for mode in modes])
def test_rgb_is_what_the_pixels_mean(kind, mode):
    decoded = decode_image(encoded(image_of(mode), kind, **WRITTEN[kind][0]))
    assert decoded.shape == (*SIZE[::-1], 3)
    assert np.abs(decoded - composed(mode)).max() <= 1


@pytest.mark.parametrize('mode', ['L', 'LA', 'RGB', 'RGBA'])
def test_avif_shows_about_what_was_stored(mode):
    image = PHOTO.resize((76, 50)).convert(mode)
    decoded = decode_image(encoded(image, 'AVIF', quality=95, subsampling='4:4:4'))
    assert np.abs(decoded.astype(int) - np.asarray(image.convert('RGB'))).mean() < 3


def test_heif_is_read_upright_by_pillow_heif():
    pillow_heif = pytest.importorskip('pillow_heif')
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6  # what is stored in a HEIF file is turned already
    buffer = io.BytesIO()
    pillow_heif.from_pillow(PHOTO).save(buffer, quality=90, exif=exif.tobytes())
    decoded = decode_image(buffer.getvalue())
    assert np.abs(decoded.astype(int) - np.rot90(np.asarray(PHOTO), -1)).mean() < 3


def test_heif_without_pillow_heif_names_it(monkeypatch):
    monkeypatch.setattr(images, 'READS_HEIF', False)
    with pytest.raises(ValueError, match='HEIF needs another package: pip install pillow-heif'):
        decode_image(b'\0\0\0\x18ftypmif1\0\0\0\0mif1heic' + bytes(100))


# Transparent colours --------------------------------------------------------------------------------------------------


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack('>I', len(data)) + name + data + struct.pack('>I', zlib.crc32(name + data))


def png(bits: int, color: int, pixels: np.ndarray, transparent: bytes) -> bytes:
    """A PNG by its specification, of one row: (W,) or (W, 3)."""
    text = ''.join(format(value, f'0{bits}b') for value in pixels.ravel().tolist())
    row = int(text.ljust(-len(text) % 8 + len(text), '0'), 2).to_bytes((len(text) + 7) // 8, 'big')
    header = struct.pack('>IIBBBBB', len(pixels), 1, bits, color, 0, 0, 0)
    return b'\x89PNG\r\n\x1a\n' + b''.join(
        chunk(*pair)
        for pair in (
            (b'IHDR', header),
            (b'tRNS', transparent),
            (b'IDAT', zlib.compress(b'\0' + row)),
            (b'IEND', b''),
        )
    )


@pytest.mark.parametrize('bits', [1, 2, 4, 8, 16])
def test_of_grey_png_the_transparent_level_is_white(bits):
    levels = np.arange(2 ** min(bits, 8)) * (1 if bits < 16 else 256) + (bits == 16)
    shown = levels * 255 // (2**bits - 1) if bits <= 8 else levels >> 8
    for key in {0, len(levels) // 3, len(levels) - 1}:
        decoded = decode_image(png(bits, 0, levels, struct.pack('>H', levels[key])))
        expected = np.where(np.arange(len(levels)) == key, 255, shown)
        assert decoded[0].tolist() == [[value] * 3 for value in expected.tolist()]


def test_of_16_bit_greys_only_the_very_level_is_transparent():
    decoded = decode_image(png(16, 0, np.array([0x1233, 0x1234, 0x1235]), b'\x12\x34'))
    assert decoded[0, :, 0].tolist() == [0x12, 255, 0x12]


@pytest.mark.parametrize('bits', [8, 16])
def test_of_rgb_png_the_transparent_colour_is_white(bits):
    pixels = np.array([[10, 20, 30], [10, 20, 31], [0, 255, 52], [10, 20, 30]]) * (1 if bits == 8 else 257)
    decoded = decode_image(png(bits, 2, pixels, struct.pack('>HHH', *pixels[0])))
    assert decoded[0].tolist() == [[255, 255, 255], [10, 20, 31], [0, 255, 52], [255, 255, 255]]


def test_of_16_bit_rgb_only_the_very_colour_is_transparent():
    pixels = np.array([[0x1234, 0x5678, 0x9ABC], [0x1234, 0x5678, 0x9ABD], [0x1134, 0x5678, 0x9ABC]])
    decoded = decode_image(png(16, 2, pixels, struct.pack('>HHH', *pixels[0])))
    assert decoded[0].tolist() == [[255] * 3, [0x12, 0x56, 0x9A], [0x11, 0x56, 0x9A]]


@pytest.mark.parametrize('transparency', [3, bytes([255, 0, 128, 255])], ids=['one', 'levels'])
def test_of_palettes_the_transparent_entries_are_white(transparency):
    image = Image.frombytes('P', (4, 1), bytes(range(4)))
    image.putpalette(PALETTE.tobytes())
    decoded = decode_image(encoded(image, 'PNG', transparency=transparency))
    levels = [255, 255, 255, 0] if transparency == 3 else list(transparency)
    alpha = np.array(levels)[:, None] / 255
    assert np.abs(decoded[0] - (PALETTE[:4] * alpha + 255 * (1 - alpha))).max() <= 1


@pytest.mark.parametrize('mode', ['P', 'L'])
def test_of_gif_the_transparent_entry_is_white(mode):
    image = Image.frombytes('P', (4, 1), bytes((1, 2, 3, 1)))
    image.putpalette(PALETTE.tobytes() if mode == 'P' else np.repeat(np.arange(256, dtype=np.uint8), 3).tobytes())
    decoded = decode_image(encoded(image, 'GIF', transparency=2))
    assert decoded[0, 1].tolist() == [255, 255, 255]
    assert decoded[0, 0].tolist() == (PALETTE[1].tolist() if mode == 'P' else [1, 1, 1])


@pytest.mark.parametrize('premultiplied', [True, False])
def test_alpha_of_tiff_may_be_multiplied_into_the_grey(premultiplied):
    grey, alpha = np.array([200, 200, 200, 10]), np.array([255, 128, 0, 64])
    shown = grey * alpha / 255 + 255 - alpha
    stored = np.stack([(grey * alpha / 255).round() if premultiplied else grey, alpha], -1).astype(np.uint8)
    tags = {256: 4, 257: 1, 258: 8 << 16 | 8, 262: 1, 273: 8, 277: 2, 279: 8, 338: 1 if premultiplied else 2}
    entries = [struct.pack('<HHII', tag, 3, 2 if tag == 258 else 1, value) for tag, value in tags.items()]
    data = b'II*\0' + struct.pack('<I', 16) + stored.tobytes() + struct.pack('<H', len(tags)) + b''.join(entries)
    assert np.abs(decode_image(data + bytes(4))[0, :, 0] - shown).max() <= 1


@pytest.mark.parametrize('mode', ['LA', 'RGBA'])
def test_of_tga_without_bits_of_alpha_nothing_is_transparent(mode):
    data = bytearray(encoded(image_of(mode), 'TGA'))
    assert data[17] & 15 == 8
    data[17] ^= 8
    expected = np.broadcast_to(pixels_of(mode)[..., :-1], (*SIZE[::-1], 3))
    np.testing.assert_array_equal(decode_image(bytes(data)), expected)


# PNG: odd notes -------------------------------------------------------------------------------------------------------

NOTES = {
    'checksum': chunk(b'tEXt', b'Title\0Photo')[:-1] + b'?',
    'EXIF checksum': chunk(b'eXIf', b'MM\0*')[:-1] + b'?',
    'short pHYs': chunk(b'pHYs', b'\0\0'),
    'empty gAMA': chunk(b'gAMA', b''),
    'odd iCCP': chunk(b'iCCP', b'name\0\7'),
    'long text': chunk(b'zTXt', b'a\0\0' + zlib.compress(bytes(2**20 + 1))),
}


@pytest.mark.parametrize('note', NOTES.values(), ids=NOTES)
@pytest.mark.parametrize('place', [b'IDAT', b'IEND'])
def test_a_png_with_an_odd_note_shows_what_the_clean_one_does(note, place):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    data = encoded(PHOTO.convert('RGBA'), 'PNG', exif=exif)
    begin = data.index(place) - 4
    data = data[:begin] + note + data[begin:]
    np.testing.assert_array_equal(decode_image(data), np.rot90(np.asarray(PHOTO), -1))
    for cut in (data[:-2000], data[:-2000] + data[-1000:]):
        with pytest.raises(ValueError, match='damaged or cut, the checksum of its chunk IDAT is wrong'):
            decode_image(cut)


def test_what_makes_the_pixels_of_a_png_is_no_note():
    data = png(8, 0, np.arange(4), b'\0\1')
    for name in ('IHDR', 'tRNS', 'IDAT'):
        end = data.index(name.encode()) + 5
        with pytest.raises(ValueError, match=f'the checksum of its chunk {name} is wrong'):
            decode_image(data[:end] + bytes([data[end] ^ 1]) + data[end + 1 :])


def test_a_png_that_lacks_bytes_of_its_last_rows_is_an_error():
    """Pillow reads it: rubbish makes rows enough."""
    data = encoded(PHOTO, 'PNG')
    whole = data.index(b'IEND') - 4
    damaged = data[: whole - 104] + bytes(100) + data[whole - 4 :]
    assert (by_pillow(damaged) != np.asarray(PHOTO)).any()
    with pytest.raises(ValueError, match='damaged or cut'):
        decode_image(damaged)
    trailing = chunk(b'IDAT', b'')[:-1] + b'?'  # behind the end anything may stand
    np.testing.assert_array_equal(decode_image(data + trailing), np.asarray(PHOTO))


# Numbers without a known range ----------------------------------------------------------------------------------------


def tiff(pixels: np.ndarray, bits: int, sample_format: int = 1, white_is_zero: bool = False, planes: int = 1) -> bytes:
    """A TIFF by its specification, of one row and one channel; the bytes of ``pixels`` are stored as they are."""
    order, data = '>' if pixels.dtype.byteorder == '>' else '<', pixels.tobytes()
    width = len(data) * 8 // bits
    values = {256: width, 257: 1, 258: bits, 259: 1, 262: int(not white_is_zero)}
    values |= {273: 8, 277: 1, 278: 1, 279: len(data), 284: planes, 339: sample_format}
    tags = b''.join(struct.pack(f'{order}HHII', tag, 4, 1, value) for tag, value in values.items())
    head = (b'II*\0', b'MM\0*')[order == '>'] + struct.pack(f'{order}I', 8 + len(data))
    return head + data + struct.pack(f'{order}H', len(values)) + tags + bytes(4)


GREY = np.arange(256)
TWELVE = np.array([[a >> 4, (a & 15) << 4 | b >> 8, b & 255] for a, b in (GREY * 16 + 5).reshape(-1, 2)], np.uint8)


@pytest.mark.parametrize(
    ('data', 'expected'),
    [
        (tiff((GREY * 257).astype('<u2'), 16), GREY),
        (tiff((GREY * 257).astype('>u2'), 16), GREY),
        (tiff((GREY * 257).astype('<u2'), 16, white_is_zero=True), 255 - GREY),
        (tiff(GREY.astype('u1'), 8, white_is_zero=True), 255 - GREY),
        (tiff(TWELVE.ravel(), 12), GREY),
        (b'P5\n256 1\n1023\n' + (GREY * 4 + 3).astype('>u2').tobytes(), GREY),
    ],
    ids=['16', '16 big end first', '16 inverted', '8 inverted', '12', 'pgm of 10'],
)
def test_greys_of_every_width(data, expected):
    assert decode_image(data)[0, :, 0].tolist() == expected.tolist()


@pytest.mark.parametrize(
    ('data', 'kind'),
    [
        (tiff(GREY.astype('<i4'), 32, 2), 'signed or 32-bit'),
        (tiff(GREY.astype('<u4'), 32), 'signed or 32-bit'),
        (tiff(GREY.astype('<i2'), 16, 2), 'signed or 32-bit'),
        (tiff(GREY.astype('i1'), 8, 2), 'signed or 32-bit'),
        (tiff(GREY.astype('<f4'), 32, 3), 'floating-point'),
    ],
    ids=['int32', 'uint32', 'int16', 'int8', 'float32'],
)
def test_numbers_without_a_known_range_are_refused(data, kind, tmp_path):
    (tmp_path / 'a.tif').write_bytes(data)
    with pytest.raises(BrokenImageError, match=f'a.tif: {kind} pixels have no known range; store 8 or 16 bits'):
        read_image(str(tmp_path / 'a.tif'))


# TIFF: planes and palettes --------------------------------------------------------------------------------------------


@pytest.mark.parametrize('order', '<>')
@pytest.mark.parametrize('mode', ['RGB', 'RGBA'])
@pytest.mark.parametrize('options', [{}, dict(tile=(16, 16)), dict(rowsperstrip=4), dict(compression='zlib')], ids=str)
def test_planes_of_16_bits(order, mode, options):
    levels = pixels_of(mode).astype(np.uint16)
    rng = np.random.default_rng(9)
    noise = rng.integers(0, 256, levels.shape, np.uint16)
    buffer = io.BytesIO()
    tifffile.imwrite(
        buffer,
        np.moveaxis(levels << 8 | noise, -1, 0),
        photometric='rgb',
        planarconfig='separate',
        extrasamples=['unassalpha'] * (mode == 'RGBA'),
        byteorder=order,
        metadata=None,
        **options,
    )
    assert np.abs(decode_image(buffer.getvalue()) - composed(mode)).max() <= 1


@pytest.mark.parametrize('white_is_zero', [True, False])
@pytest.mark.parametrize('bits', [1, 2, 4, 8, 16])
def test_one_plane_is_the_whole_picture(bits, white_is_zero):
    stored = GREY.astype('<u2' if bits == 16 else 'u1')
    together, apart = (decode_image(tiff(stored, bits, 1, white_is_zero, planes)) for planes in (1, 2))
    np.testing.assert_array_equal(apart, together)


@pytest.mark.parametrize('scale', [1, 256, 257])
def test_palettes_of_tiff_have_8_or_16_bits(scale):
    buffer = io.BytesIO()
    palette = PALETTE.T.astype(np.uint16) * scale
    tifffile.imwrite(buffer, pixels_of('P'), photometric='palette', colormap=palette, metadata=None)
    np.testing.assert_array_equal(decode_image(buffer.getvalue()), composed('P'))


# Maps -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('most', [1, 15, 100, 255, 256, 1023, 65535])
@pytest.mark.parametrize('plain', [True, False])
def test_numbers_of_pgm_are_those_of_the_file(most, plain, tmp_path):
    numbers = np.arange(most + 1)
    stored = ' '.join(map(str, numbers)).encode() if plain else numbers.astype('u1' if most < 256 else '>u2').tobytes()
    (tmp_path / 'a.pgm').write_bytes(f'P{2 if plain else 5}\n{len(numbers)} 1\n{most}\n'.encode() + stored)
    assert read_stored_map(str(tmp_path / 'a.pgm')).pixels.ravel().tolist() == numbers.tolist()


@pytest.mark.parametrize('kind', ['png', 'tif'])
@pytest.mark.parametrize('bits', [2, 4, 8])
def test_greys_of_few_bits_are_numbers_in_maps(kind, bits, tmp_path):
    numbers = np.arange(2**bits)
    packed = np.packbits((numbers[:, None] >> np.arange(bits)[::-1] & 1).astype(np.uint8).ravel())
    data = png(bits, 0, numbers, b'\0\1') if kind == 'png' else tiff(packed, bits)
    (tmp_path / f'a.{kind}').write_bytes(data)
    assert read_stored_map(str(tmp_path / f'a.{kind}')).pixels.ravel().tolist() == numbers.tolist()


# Reasons --------------------------------------------------------------------------------------------------------------


def test_reasons_say_what_is_wrong(tmp_path: Path):
    def reason(name: str) -> str:
        with pytest.raises(BrokenImageError) as caught:
            read_image(str(tmp_path / name))
        return caught.value.reason

    (tmp_path / 'folder.jpg').mkdir()
    (tmp_path / 'text.jpg').write_text('hello')
    (tmp_path / 'cut.tif').write_bytes(encoded(PHOTO, 'TIFF', compression='tiff_lzw')[:5000])
    whole = encoded(PHOTO)
    (tmp_path / 'cut.jpg').write_bytes(whole[:5000])
    (tmp_path / 'colors.png').write_bytes(encoded(PHOTO, 'PNG'))
    assert reason('folder.jpg') == 'IsADirectoryError: Is a directory'
    assert reason('gone.jpg') == 'FileNotFoundError: No such file or directory'
    assert reason('text.jpg') == 'not an image that Pillow reads'
    assert reason('cut.jpg') == 'Premature end of JPEG file'
    assert not re.fullmatch(r'\W*\d+', reason('cut.tif'))
    with pytest.raises(BrokenImageError, match='colors.png: has several channels, but a map has one'):
        read_stored_map(str(tmp_path / 'colors.png'))
