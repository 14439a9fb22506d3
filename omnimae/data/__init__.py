"""Data: sources of images and videos, transforms and samplers. Importing it fills the registries."""

from omnimae.data import datasets, randaugment, samplers, transforms, video

__all__ = ['datasets', 'randaugment', 'samplers', 'transforms', 'video']
