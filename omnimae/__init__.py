"""OmniMAE and its siblings: one Vision Transformer pretrained on images and videos by masked autoencoding."""

from importlib import import_module
from typing import Any

__version__ = '0.1.0'
_LAZY = dict(
    predict='predictions', pretrain='own_data', finetune='own_data'
)  # name -> its module, imported at first use


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    return getattr(import_module(f'{__name__}.{_LAZY[name]}'), name)
