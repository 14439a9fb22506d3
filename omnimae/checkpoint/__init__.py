"""Checkpoints: files read and written safely, published layouts both ways, weights into a model.

``load_weights(model, path)`` is the way from a file to a model. `Checkpoint.read` reads a file once for several uses.
"""

from .exporting import Resizing, export_timm, export_transformers, image_processor
from .files import find_latest_checkpoint, find_weights, is_run, read_file, replacing, save_file, unwrap
from .label_maps import read_label_map
from .layouts import LAYOUTS
from .loading import WEIGHTS, CheckpointInit, LoadReport, load_weights
from .translation import (
    NATIVE,
    Checkpoint,
    convert,
    export,
    load_file,
    recognise,
    to_multimodal,
    to_plain,
    translate,
)

__all__ = [
    'LAYOUTS',
    'NATIVE',
    'WEIGHTS',
    'Checkpoint',
    'CheckpointInit',
    'LoadReport',
    'Resizing',
    'convert',
    'export',
    'export_timm',
    'export_transformers',
    'find_latest_checkpoint',
    'find_weights',
    'image_processor',
    'is_run',
    'load_file',
    'load_weights',
    'read_file',
    'read_label_map',
    'recognise',
    'replacing',
    'save_file',
    'to_multimodal',
    'to_plain',
    'translate',
    'unwrap',
]
