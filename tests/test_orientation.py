"""The eight orientations, on a picture of six pixels that tells them apart."""

from __future__ import annotations

import math

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageOps

from omnimae.data.media.orientation import orient, orientation_of_matrix

STORED = np.array([[1, 2, 3], [4, 5, 6]], np.uint8)
# EXIF's number -> what is shown, and the first five of the nine numbers of the matrix that says so
SHOWN = {
    1: ([[1, 2, 3], [4, 5, 6]], (1, 0, 0, 0, 1)),
    2: ([[3, 2, 1], [6, 5, 4]], (-1, 0, 0, 0, 1)),
    3: ([[6, 5, 4], [3, 2, 1]], (-1, 0, 0, 0, -1)),
    4: ([[4, 5, 6], [1, 2, 3]], (1, 0, 0, 0, -1)),
    5: ([[1, 4], [2, 5], [3, 6]], (0, 1, 0, 1, 0)),
    6: ([[4, 1], [5, 2], [6, 3]], (0, 1, 0, -1, 0)),
    7: ([[6, 3], [5, 2], [4, 1]], (0, -1, 0, -1, 0)),
    8: ([[3, 6], [2, 5], [1, 4]], (0, -1, 0, 1, 0)),
}


@pytest.mark.parametrize('orientation', SHOWN)
def test_orient_by_hand_and_by_pillow(orientation):
    shown = orient(STORED[..., None], orientation)
    assert shown[..., 0].tolist() == SHOWN[orientation][0]
    image = Image.fromarray(STORED)
    image.getexif()[ExifTags.Base.Orientation] = orientation
    np.testing.assert_array_equal(ImageOps.exif_transpose(image), shown[..., 0])
    clip = np.stack([STORED, STORED + 10])[..., None]
    np.testing.assert_array_equal(orient(clip, orientation), np.stack([shown, shown + 10]))


@pytest.mark.parametrize('number', [0, 9, -1])
def test_a_number_that_is_no_orientation_moves_nothing(number):
    assert orient(STORED[..., None], number)[..., 0].tolist() == STORED.tolist()


@pytest.mark.parametrize('orientation', SHOWN)
def test_orientation_of_matrix(orientation):
    shown, matrix = SHOWN[orientation]
    a, b, _, c, d = matrix
    placed = {(b * p + d * q, a * p + c * q): STORED[q, p] for q in range(2) for p in range(3)}
    assert [placed[place] for place in sorted(placed)] == [x for row in shown for x in row]
    matrix = [65536 * x for x in matrix]
    assert orientation_of_matrix([*matrix, 0, 640 << 16, 480 << 16, 1 << 30]) == orientation
    a, b, _, c, d = matrix
    assert orientation_of_matrix([a * 3, b, 0, c, d * 3, 0, 0, 0, 1]) == orientation  # pixels that are not square
    for angle in (-40, 25):  # of what is shown
        cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
        turned = [cos * a - sin * b, sin * a + cos * b, 0, cos * c - sin * d, sin * c + cos * d]
        assert orientation_of_matrix([*turned, 0, 0, 0, 1]) == orientation


def test_a_matrix_that_says_nothing_moves_nothing():
    assert orientation_of_matrix([0] * 9) == 1
