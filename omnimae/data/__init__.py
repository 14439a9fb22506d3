"""Data: sources of images and videos, transforms and samplers. Importing it fills the registries."""

from omnimae.data import datasets, samplers, transforms, video

__all__ = ['datasets', 'samplers', 'transforms', 'video']
