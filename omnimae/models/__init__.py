"""Backbone, mask generators, head, and the two models made of them; importing this room fills the registry."""

from .augment import MixupCutMix, RandomErasing
from .classifier import Classifier
from .mae import MaskedAutoencoder
from .mae_head import MAEHead, PixelTarget
from .masking import CausalMasking, FrameMasking, RandomMasking, TubeMasking
from .preprocessor import ClipPreprocessor
from .probe import FrozenBackbone, LinearProbe
from .vit import SpatioTemporalViT

__all__ = [
    'CausalMasking',
    'Classifier',
    'ClipPreprocessor',
    'FrameMasking',
    'FrozenBackbone',
    'LinearProbe',
    'MAEHead',
    'MaskedAutoencoder',
    'MixupCutMix',
    'PixelTarget',
    'RandomErasing',
    'RandomMasking',
    'SpatioTemporalViT',
    'TubeMasking',
]
