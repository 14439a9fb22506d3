"""Backbones, mask generators, heads, and the models made of them. The import registers them."""

from .augment import MixupCutMix, RandomErasing
from .classifier import Classifier
from .cross_attention_head import CrossAttentionHead
from .cross_mae_head import CrossMAEHead
from .dense import DensePredictor, DepthTask, SegmentationTask
from .dense_heads import ConvNeXtHead, DPTHead
from .mae import MaskedAutoencoder
from .mae_head import MAEHead, PixelTarget
from .masking import (
    BlockMasking,
    CausalMasking,
    DirichletMasking,
    DualMasking,
    FrameMasking,
    PerFrameMasking,
    RandomMasking,
    RunningCellMasking,
    TubeMasking,
)
from .multimae import MultiMAE
from .multimodal_vit import ClassMapTokenizer, MultiModalViT, PatchTokenizer
from .preprocessor import ClipPreprocessor, DepthPreprocessor, MultiModalPreprocessor
from .probe import AttentiveProbe, FrozenBackbone, LinearProbe
from .vit import SpatioTemporalViT

__all__ = [
    'AttentiveProbe',
    'BlockMasking',
    'CausalMasking',
    'ClassMapTokenizer',
    'Classifier',
    'ClipPreprocessor',
    'ConvNeXtHead',
    'CrossAttentionHead',
    'CrossMAEHead',
    'DPTHead',
    'DensePredictor',
    'DepthPreprocessor',
    'DepthTask',
    'DirichletMasking',
    'DualMasking',
    'FrameMasking',
    'FrozenBackbone',
    'LinearProbe',
    'MAEHead',
    'MaskedAutoencoder',
    'MixupCutMix',
    'MultiMAE',
    'MultiModalPreprocessor',
    'MultiModalViT',
    'PatchTokenizer',
    'PerFrameMasking',
    'PixelTarget',
    'RandomErasing',
    'RandomMasking',
    'RunningCellMasking',
    'SegmentationTask',
    'SpatioTemporalViT',
    'TubeMasking',
]
