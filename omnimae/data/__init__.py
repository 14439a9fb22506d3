"""Data: sources of images and videos, transforms and samplers. Importing it fills the registries."""

from omnimae.data import aligned, datasets, dense_transforms, frames, randaugment, samplers, transforms, video

__all__ = ['aligned', 'datasets', 'dense_transforms', 'frames', 'randaugment', 'samplers', 'transforms', 'video']
