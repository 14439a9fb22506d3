"""The orientation of a picture: EXIF's numbers 1 to 8, for images, maps and videos.

Files store a picture as the sensor read it, and say how to show it: one of four rotations, mirrored or not. Photos say
it with EXIF's number, videos with a matrix. Here both become that number.
"""

from __future__ import annotations

from collections.abc import Sequence

from numpy.typing import NDArray

UPRIGHT = 1

# EXIF's number (CIPA DC-008, tag 0x0112) -> whether to swap rows and columns, then the directions of columns and rows.
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
    """Pixels (..., H, W, C) as stored -> an upright view of them. Other numbers than 1 to 8 change nothing."""
    transposed, columns, rows = _MOVES.get(orientation, _MOVES[UPRIGHT])
    if transposed:
        pixels = pixels.swapaxes(-3, -2)
    return pixels[..., ::rows, ::columns, :]


def orientation_of_matrix(matrix: Sequence[float]) -> int:
    """EXIF's number of the orientation nearest to a display matrix.

    ``matrix`` is (a, b, u, c, d, v, x, y, w), row by row as in MP4 and FFmpeg. The stored pixel in column p and row q
    is shown in column a p + c q and row b p + d q. Scale and translation are ignored. Players show other angles as a
    rotated rectangle. Here they become the nearest of the eight orientations.
    """
    a, b, _, c, d = matrix[:5]

    def likeness(number: int) -> float:
        transposed, columns, rows = _MOVES[number]
        return columns * (c if transposed else a) + rows * (b if transposed else d)

    return max(_MOVES, key=likeness)  # the first of equals: a matrix of zeros changes nothing
