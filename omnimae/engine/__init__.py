"""What MMEngine's Runner needs from us: optimizer wrapper and groups, schedule, train loop, hooks, workarounds."""

from .compat import leave_distributed, setup_distributed, setup_environment
from .hooks import (
    BrokenFileHook,
    ExportHook,
    HeadSizeHook,
    PlainCheckpointHook,
    ReconstructionHook,
    StepSeedHook,
    ThroughputHook,
)
from .loops import EpochTrainLoop
from .optim import LARS, AutocastOptimWrapper, LayerDecayConstructor, WarmupCosineLR
from .testing import KNNHook, KNNTestLoop, extract, frozen_model

__all__ = [
    'AutocastOptimWrapper',
    'BrokenFileHook',
    'EpochTrainLoop',
    'ExportHook',
    'HeadSizeHook',
    'KNNHook',
    'KNNTestLoop',
    'LARS',
    'LayerDecayConstructor',
    'PlainCheckpointHook',
    'ReconstructionHook',
    'StepSeedHook',
    'ThroughputHook',
    'WarmupCosineLR',
    'extract',
    'frozen_model',
    'leave_distributed',
    'setup_distributed',
    'setup_environment',
]
