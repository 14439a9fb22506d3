"""What MMEngine's Runner needs from us: optimizer and schedule, train loop, hooks, checkpoints, workarounds."""

from .analysis import analyze
from .compat import setup_environment
from .curves import WandbVisBackend, add_log_backends
from .devices import choose_device, num_cores
from .distributed import leave_distributed, setup_distributed
from .extraction import digest, digest_of_data, frozen_features, frozen_model, write_features
from .folder import claim_folder, find_run
from .following import load_config_for, parts_of
from .hooks import (
    BrokenFileHook,
    EarlyStoppingHook,
    EMAHook,
    IterTimerHook,
    LoggerHook,
    PredictionHook,
    ReconstructionHook,
    RuntimeInfoHook,
    StepSeedHook,
    ThroughputHook,
)
from .knn import KNNHook, KNNTestLoop
from .labels import HeadSizeHook, LabelHook
from .loops import EpochTrainLoop
from .optim import LARS, AutocastOptimWrapper, LayerDecayConstructor, WarmupCosineLR
from .precision import dtype_of, evaluating
from .preemption import PreemptionHook, RescueHook
from .resuming import ResumeHook
from .saving import CheckpointHook, ExportHook, PlainCheckpointHook
from .testing import EvaluationRunner, TestLoop, ValLoop

__all__ = [
    'AutocastOptimWrapper',
    'BrokenFileHook',
    'CheckpointHook',
    'EMAHook',
    'EarlyStoppingHook',
    'EpochTrainLoop',
    'EvaluationRunner',
    'ExportHook',
    'HeadSizeHook',
    'IterTimerHook',
    'KNNHook',
    'KNNTestLoop',
    'LARS',
    'LabelHook',
    'LayerDecayConstructor',
    'LoggerHook',
    'PlainCheckpointHook',
    'PredictionHook',
    'PreemptionHook',
    'ReconstructionHook',
    'RescueHook',
    'ResumeHook',
    'RuntimeInfoHook',
    'StepSeedHook',
    'TestLoop',
    'ThroughputHook',
    'ValLoop',
    'WandbVisBackend',
    'WarmupCosineLR',
    'add_log_backends',
    'analyze',
    'choose_device',
    'claim_folder',
    'digest',
    'digest_of_data',
    'dtype_of',
    'evaluating',
    'find_run',
    'frozen_features',
    'frozen_model',
    'leave_distributed',
    'load_config_for',
    'num_cores',
    'parts_of',
    'setup_distributed',
    'setup_environment',
    'write_features',
]
