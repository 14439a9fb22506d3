"""Which way up a picture is: EXIF's orientations 1 to 8, for images, maps and videos alike.

Files store a picture as the sensor read it and say how it is to be shown: one of four rotations, mirrored or not.
Photos say it by EXIF's number, videos by a matrix. Both come down to that number here.
"""

from __future__ import annotations

from collections.abc import Sequence

from numpy.typing import NDArray

UPRIGHT = 1

# EXIF's number (CIPA DC-008, tag 0x0112) -> do rows and columns change places; the direction of columns, of rows then.
_MOVES = {
    1: (False, 1, 1),
    2: (False, -1, 1),
    3: (False, -1, -1),
    4: (False, 1, -1),
    5: (True, 1, 1),
    6: (True, -1, 1),
    7: (True, -1, -1),
    8: (True, 1, -1),
}


def orient(pixels: NDArray, orientation: int) -> NDArray:
    """Pixels (..., H, W, C) as stored -> a view of them as they are to be shown.

    Numbers other than 1 to 8 move nothing.
    """
    transposed, columns, rows = _MOVES.get(orientation, _MOVES[UPRIGHT])
    if transposed:
        pixels = pixels.swapaxes(-3, -2)
    return pixels[..., ::rows, ::columns, :]


def orientation_of_matrix(matrix: Sequence[float]) -> int:
    """EXIF's number of a display matrix, or of the orientation nearest to it.

    ``matrix`` is (a, b, u, c, d, v, x, y, w), row by row as MP4 and FFmpeg have it: the stored pixel in column p and
    row q is shown in column a p + c q and row b p + d q. Its scale and place count for nothing. Of an odd angle, which
    players show as a rotated rectangle, the nearest of the eight is taken.
    """
    a, b, _, c, d = matrix[:5]

    def likeness(number: int) -> float:
        transposed, columns, rows = _MOVES[number]
        return columns * (c if transposed else a) + rows * (b if transposed else d)

    return max(_MOVES, key=likeness)  # the first of equals: nothing moves for a matrix of zeros
