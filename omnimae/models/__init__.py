"""Backbone, mask generators, head, and the two models made of them; importing this room fills the registry."""

from .augment import MixupCutMix, RandomErasing
from .classifier import Classifier
from .mae import MaskedAutoencoder
from .mae_head import MAEHead, PixelTarget
from .masking import (
    CausalMasking,
    DualMasking,
    FrameMasking,
    RandomMasking,
    RunningCellMasking,
    TubeMasking,
)
from .preprocessor import ClipPreprocessor
from .probe import FrozenBackbone, LinearProbe
from .vit import SpatioTemporalViT

__all__ = [
    'CausalMasking',
    'Classifier',
    'ClipPreprocessor',
    'DualMasking',
    'FrameMasking',
    'FrozenBackbone',
    'LinearProbe',
    'MAEHead',
    'MaskedAutoencoder',
    'MixupCutMix',
    'PixelTarget',
    'RandomErasing',
    'RandomMasking',
    'RunningCellMasking',
    'SpatioTemporalViT',
    'TubeMasking',
]
