"""Metrics: accuracy over views, EPIC-Kitchens verbs and nouns, mIoU, depth, k-NN."""

from .epic import Actions, Subsets, load_actions, load_subsets, make_submission, marginal, write_submission
from .features import INDEX, Features, knn, knn_accuracy, load_features
from .maps import DepthScore, SegmentationScore
from .metrics import ClipAccuracy, ReconstructionLoss, count
from .scores import Scores, accuracy, confusion_matrix, load_scores, without_zeros

__all__ = [
    'INDEX',
    'Actions',
    'ClipAccuracy',
    'DepthScore',
    'Features',
    'ReconstructionLoss',
    'Scores',
    'SegmentationScore',
    'Subsets',
    'accuracy',
    'confusion_matrix',
    'count',
    'knn',
    'knn_accuracy',
    'load_actions',
    'load_features',
    'load_scores',
    'load_subsets',
    'make_submission',
    'marginal',
    'without_zeros',
    'write_submission',
]
