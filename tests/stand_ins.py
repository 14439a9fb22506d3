"""Commands of the documents with small models: what a reader would run for hours runs here in seconds.

Everything else is as written: the tool, its arguments, the config and its data loading.
"""

from __future__ import annotations

import os
import re
import runpy
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

SMALL_BACKBONE = dict(embed_dim=24, depth=4, num_heads=2)
SMALL_HEADS = {
    **dict.fromkeys(('MAEHead', 'CrossMAEHead'), dict(embed_dim=16, depth=1, num_heads=2)),
    'CrossAttentionHead': dict(embed_dim=16, depth=1, num_heads=2),
    'ConvNeXtHead': dict(embed_dim=64, depth=1),
    'AttentiveProbe': dict(num_queries=8),
}


def dicts(value: Any) -> Iterator[dict]:
    """All dicts within a config, outer ones first."""
    if isinstance(value, Mapping):
        yield value
    for part in value.values() if isinstance(value, Mapping) else value if isinstance(value, (list, tuple)) else ():
        yield from dicts(part)


def stand_in(url: str) -> str:
    """The small weights that are there in place of released ones."""
    return os.path.join(os.environ['STAND_INS'], os.path.basename(url))


def shrink(cfg: Any) -> Any:
    """The same config with a small model, short clips, small batches and one epoch."""
    for part in dicts(cfg._cfg_dict):
        kind = part.get('type')
        if kind in ('SpatioTemporalViT', 'MultiModalViT'):
            part.pop('arch', None)
            part.update(SMALL_BACKBONE)
            if 'clip_size' in part:
                part['clip_size'] = (min(part['clip_size'][0], 4), *part['clip_size'][1:])
        elif kind in SMALL_HEADS:
            part.update(SMALL_HEADS[kind])
        elif kind == 'Checkpoint' and str(part['checkpoint']).startswith('https:'):
            part['checkpoint'] = stand_in(part['checkpoint'])
        if 'num_frames' in part:
            part['num_frames'] = 4
        if 'num_workers' in part:
            part.update(num_workers=0, persistent_workers=False, batch_size=4)
        if 'global_batch_size' in part:
            part['global_batch_size'] = 4
    for key, changes in dict(
        train_cfg=dict(max_epochs=1, val_interval=1),
        param_scheduler=dict(warmup_epochs=0),
        optim_wrapper=dict(dtype=None),
    ).items():
        if cfg.get(key):
            cfg[key].update(changes)
    return cfg


def small_configs() -> None:
    """Let every config that is loaded from here on be a small one, and released weights those of such models."""
    import omnimae.config as module
    from omnimae.zoo import ZOO

    loaded = module.load_config
    module.load_config = lambda *args, **kwargs: shrink(loaded(*args, **kwargs))
    ZOO.update({name: weights._replace(url=stand_in(weights.url)) for name, weights in ZOO.items()})


def run_tool(script: Path, *words: str) -> None:
    """``python SCRIPT WORDS`` with small models."""
    small_configs()
    sys.path.insert(0, str(script.parent))
    sys.argv = [str(script), *words]
    runpy.run_path(str(script), run_name='__main__')


def run_text(text: str) -> None:
    """A block of Python with small models."""
    small_configs()
    exec(compile(text, 'block.py', 'exec'), {'__name__': '__main__'})


def as_here(text: str, folder: Path) -> str:
    """Places and epochs of the documents -> those of a test in a folder."""
    text = re.sub(r'(?<![\w./])/my/', f'{folder}/my/', text)
    text = re.sub(r'https://dl\.fbaipublicfiles\.com/\S+\.torch', lambda match: stand_in(match[0]), text)
    return re.sub(r'epoch_\d+', 'epoch_1', text)
