"""A small model of every method and batches for it: for tests of how a step runs, not of what it learns."""

from __future__ import annotations

from inspect import signature
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from omnimae.config import load_config
from omnimae.models.masking import RandomMasking
from omnimae.registry import MODELS

DEMO = Path(__file__).parents[1] / 'configs' / 'demo'

PRETRAINING = ('pretrain', 'cross', 'mae', 'mae_st', 'videomae_v2', 'multimae', 'multimae_video')
TRANSFER = ('finetune_videos', 'mae_finetune', 'linear_images', 'multimae_finetune', 'depth')

# Mask generators of the package that hide any ratio.
GENERATORS = [
    name
    for name, kind in MODELS.module_dict.items()
    if isinstance(kind, type)
    and issubclass(kind, RandomMasking)
    and kind.__module__ == RandomMasking.__module__
    and 'round_down' in signature(kind).parameters
]


def model_config(method: str, depth: int = 1) -> dict[str, Any]:
    """The model of a demo config with an encoder of ``depth`` blocks.

    'depth' is that of estimating it, 'cross' that of OmniMAE with CrossMAE's decoder, on a part of the hidden tokens.
    """
    config = {'depth': 'multimae_finetune', 'cross': 'pretrain'}.get(method, method)
    cfg = load_config(DEMO / f'{config}.py').model.to_dict()
    cfg['backbone'].update(depth=depth, embed_dim=32, num_heads=2)
    if method == 'cross':
        cfg['head'] = dict(type='CrossMAEHead', embed_dim=16, depth=2, num_heads=2, layers=[*range(depth + 1)])
        cfg['decode_ratio'] = 0.5
    if method == 'depth':
        cfg['backbone']['depth'] = 4
        cfg['head'] = dict(type='DPTHead', layers=(0, 1, 2, 3), layer_dims=(8, 8, 8, 8), dim=8)
        cfg['task'] = dict(type='DepthTask')
    if cfg['type'] in ('Classifier', 'LinearProbe'):
        cfg['num_classes'] = 3
    if method == 'multimae_finetune':
        cfg['head'].update(embed_dim=64, depth=1)
    return cfg


def batches(cfg: dict[str, Any], size: int = 4) -> list[dict[str, Any]]:
    """Arguments of the model's ``forward``: a batch of each modality that it trains on."""
    if 'tokenizers' in cfg['backbone']:
        return [_of_modalities(cfg, size)]
    frames, height, width = cfg['backbone']['clip_size']
    given = []
    for modality in cfg.get('mask_generator', ['image' if frames == 1 else 'video']):
        shape = size, 3, 1 if modality == 'image' else frames, height, width
        given.append(dict(clip=_integers(256, *shape), modality=modality))
        if 'num_classes' in cfg:
            given[-1]['labels'] = torch.arange(size) % cfg['num_classes']
    return given


def _of_modalities(cfg: dict[str, Any], size: int) -> dict[str, Any]:
    clips = {}
    for name, tokenizer in cfg['backbone']['tokenizers'].items():
        limit, dtype = (8, torch.uint8) if name == 'semseg' else (256, torch.uint8 if name == 'rgb' else torch.int32)
        clips[name] = _integers(limit, size, tokenizer.get('channels', 1), *tokenizer['clip_size']).to(dtype)
    given: dict[str, Any] = dict(clips=clips)
    if 'task' in cfg:
        shape = size, 1, *cfg['backbone']['tokenizers']['rgb']['clip_size']
        given['target'] = _integers(8, *shape) if 'num_classes' in cfg['task'] else _integers(3000, *shape).int()
    return given


def _integers(limit: int, *shape: int) -> Tensor:
    return torch.randint(limit, shape, dtype=torch.uint8 if limit <= 256 else torch.int32)
