"""Data: sources of images and videos, transforms and samplers. Importing it fills the registries."""

from omnimae.data import aligned, datasets, dense_transforms, frame_folders, randaugment, samplers, transforms

__all__ = ['aligned', 'datasets', 'dense_transforms', 'frame_folders', 'randaugment', 'samplers', 'transforms']
