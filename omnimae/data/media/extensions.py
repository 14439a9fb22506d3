"""The modality of a file by the extension of its name: image, video, or neither."""

from __future__ import annotations

import importlib.util
import os

HEIF_EXTENSIONS = ('.heic', '.heif', '.hif')  # of phones and cameras; Pillow needs pillow-heif for them
READS_HEIF = importlib.util.find_spec('pillow_heif') is not None

IMAGE_EXTENSIONS = (
    *('.jpg', '.jpeg', '.jpe', '.jfif', '.mpo', '.png', '.apng', '.webp', '.avif', '.bmp', '.dib', '.tif', '.tiff'),
    *('.ppm', '.pgm', '.pbm', '.pnm', '.jp2', '.j2k', '.j2c', '.jpc', '.jpf', '.jpx', '.tga', '.qoi'),
    *(HEIF_EXTENSIONS if READS_HEIF else ()),
)
# A GIF is a video, though many have one frame. Bare streams (.m2v, .h264, .mjpeg) have no times and are not listed.
VIDEO_EXTENSIONS = (
    *('.mp4', '.m4v', '.mov', '.qt', '.webm', '.mkv', '.mk3d', '.avi', '.divx', '.mpg', '.mpeg', '.mpe', '.m2p'),
    *('.vob', '.evo', '.mod', '.tod', '.ts', '.mts', '.m2ts', '.m2t', '.trp', '.tp', '.wmv', '.asf', '.flv', '.f4v'),
    *('.ogv', '.ogm', '.3gp', '.3g2', '.mxf', '.dv', '.rm', '.rmvb', '.wtv', '.mj2', '.nut', '.y4m', '.gif'),
)


def heif_hint(path: str | os.PathLike) -> str:
    """A hint for messages about HEIF files, if its package is missing."""
    is_heif = os.path.splitext(path)[1].lower() in HEIF_EXTENSIONS
    return ' (for HEIF: pip install pillow-heif)' if is_heif and not READS_HEIF else ''


def modality_of(path: str | os.PathLike) -> str | None:
    """'image' or 'video' by the extension in upper or lower case; None for neither."""
    ending = os.path.splitext(path)[1].lower()
    return 'image' if ending in IMAGE_EXTENSIONS else 'video' if ending in VIDEO_EXTENSIONS else None
