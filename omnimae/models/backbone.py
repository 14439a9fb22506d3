"""Anybody's backbone, by its config."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from omnimae.registry import MODELS
from omnimae.structures import Grid, require


def build_backbone(cfg: Mapping[str, Any], asker: str, *members: str, final_norm: bool = True) -> Any:
    """Build an encoder for a model that needs these members of `Backbone`."""
    kind = MODELS.get(cfg['type']) if isinstance(cfg['type'], str) else cfg['type']
    if kind is not None and not final_norm:
        parameters = inspect.signature(kind).parameters
        if 'final_norm' in parameters or any(x.kind is x.VAR_KEYWORD for x in parameters.values()):
            cfg = {**cfg, 'final_norm': False}
    backbone = MODELS.build({**cfg})
    require(backbone, asker, *members)
    if 'grid' in members and not isinstance(backbone.grid, Grid):
        raise ValueError(
            f'{type(backbone).__name__}.grid={backbone.grid!r} is a {type(backbone.grid).__name__}. Make it '
            'omnimae.structures.Grid(t, h, w).'
        )
    return backbone
