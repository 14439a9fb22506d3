"""What MMEngine's Runner needs from us: optimizer wrapper and groups, schedule, train loop, hooks, workarounds."""

from .compat import setup_distributed, setup_environment
from .hooks import (
    BrokenFileHook,
    ExportHook,
    PlainCheckpointHook,
    ReconstructionHook,
    StepSeedHook,
    ThroughputHook,
)
from .loops import EpochTrainLoop
from .optim import AutocastOptimWrapper, LayerDecayConstructor, WarmupCosineLR

__all__ = [
    'AutocastOptimWrapper',
    'BrokenFileHook',
    'EpochTrainLoop',
    'ExportHook',
    'LayerDecayConstructor',
    'PlainCheckpointHook',
    'ReconstructionHook',
    'StepSeedHook',
    'ThroughputHook',
    'WarmupCosineLR',
    'setup_distributed',
    'setup_environment',
]
