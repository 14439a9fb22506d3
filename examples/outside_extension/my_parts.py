"""A mask generator and a dataset of one's own, outside the package; ``pretrain.py`` beside it uses them by name."""

import numpy as np
import torch

from omnimae.data.datasets import FileDataset
from omnimae.data.media.errors import BrokenFileError
from omnimae.registry import DATASETS, MODELS
from omnimae.structures import Masks


@MODELS.register_module()
class BandMasking:
    """Show one band of ``rows`` rows of patches, at a random height; hide the rest."""

    def __init__(self, *, rows):
        self.rows = rows

    def num_hidden(self, grid):
        """Tell how many tokens are hidden, as many in every sample."""
        if not 0 < self.rows < grid.h:
            raise ValueError(f'BandMasking: rows={self.rows} must lie between 0 and the {grid.h} rows of the grid.')
        return grid.num_tokens - grid.t * self.rows * grid.w

    def __call__(self, batch_size, grid, device):
        """-> Masks of ``batch_size`` rows."""
        first = torch.randint(grid.h - self.rows + 1, (batch_size, 1), device=device)
        row = torch.arange(grid.h, device=device)
        hidden = (row < first) | (row >= first + self.rows)  # (B, h)
        return Masks.from_hidden(hidden[:, None, :, None].expand(batch_size, *grid))


@DATASETS.register_module()
class ArrayVideos(FileDataset):
    """Videos stored as NumPy arrays, (T, H, W, 3) uint8; a clip is ``num_frames`` frames in a row."""

    modality = 'video'
    default_extensions = ('.npy',)

    def __init__(self, *, num_frames, **kwargs):
        super().__init__(**kwargs)
        self.num_frames = num_frames

    def read(self, path, rng):
        """-> [clip (T, H, W, 3)], at a random time in training; all randomness comes from ``rng``."""
        try:
            video = np.load(path, mmap_mode='r')
        except (OSError, ValueError) as error:
            raise BrokenFileError(path, str(error)) from error  # training takes another file, and counts this one
        if len(video) < self.num_frames:
            raise BrokenFileError(path, f'{len(video)} frames, {self.num_frames} are needed')
        start = 0 if rng is None else rng.integers(len(video) - self.num_frames + 1)
        return [np.array(video[start : start + self.num_frames])]
