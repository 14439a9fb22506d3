"""Names of our models' weights, and what they tell. No other module guesses from the keys of a state dict.

Names are those of the modules: ``backbone.*``, then ``head.*`` (one decoder, or ``head.image.*`` and ``head.video.*``)
in pretraining, ``norm.*`` and ``head.*`` in a classifier. An encoder alone is ``backbone.*``.
"""

from __future__ import annotations

import re
from collections.abc import Collection

from torch import Tensor

StateDict = dict[str, Tensor]

POSITIONS = 'backbone.pos_embed'
KERNEL = 'backbone.patch_embed.weight'
CLS_TOKEN = 'backbone.cls_token'
CLS_POSITION = 'backbone.pos_embed_cls'
GLOBAL_TOKENS = 'backbone.global_tokens'
TOKENIZERS = 'backbone.tokenizers.'
TOKEN_NORM = 'backbone.norm.weight'  # of single tokens
POOLED_NORM = 'norm.weight'  # after pooling
TASK_WEIGHTS = 'log_variances.'
# layers with a weight and a bias
_BLOCK = ('norm1', 'attn.qkv', 'attn.proj', 'norm2', 'mlp.fc1', 'mlp.fc2')
_DECODER = ('decoder_embed', 'norm', 'pred')
_CROSS_ATTENTION = ('query_norm', 'context_norm', 'attn.q', 'attn.kv', 'attn.proj', 'mlp.fc1', 'mlp.fc2')


def kind_of(keys: Collection[str]) -> str:
    """Name what keys belong to: 'pretraining', 'encoder', 'classifier', 'probe', or 'other', as a DensePredictor."""
    if any(key.endswith('mask_token') and not key.startswith('backbone.') for key in keys):
        return 'pretraining'
    if all(key.startswith('backbone.') for key in keys):
        return 'encoder'
    if 'head.1.weight' in keys:
        return 'probe'
    return 'classifier' if 'head.weight' in keys else 'other'


def modalities_of(keys: Collection[str]) -> set[str]:
    """List the modalities of a backbone with tokenizers; none of one that has its own patch embedding."""
    return {key.removeprefix(TOKENIZERS).split('.')[0] for key in keys if key.startswith(TOKENIZERS)}


def decoders_of(keys: Collection[str]) -> list[str]:
    """List the prefixes of decoders: ['head.'], or ['head.image.', 'head.video.'], or nothing in a classifier."""
    decoders = (key for key in keys if key.endswith('mask_token') and not key.startswith('backbone.'))
    return sorted(key.removesuffix('mask_token') for key in decoders)


def num_blocks(prefix: str, keys: Collection[str]) -> int:
    """Count the numbers after a prefix: the highest one, and one more."""
    numbers = (re.match(re.escape(prefix) + r'(\d+)\.', key) for key in keys)
    return max((int(match[1]) + 1 for match in numbers if match), default=0)


def expected_keys(keys: Collection[str]) -> set[str]:
    """List all keys of a model of ours that has the parts and as many blocks as occur in these keys.

    Blocks have biases of queries, keys and values everywhere or nowhere, as the first one has them.
    """
    kind, modalities, decoders = kind_of(keys), modalities_of(keys), decoders_of(keys)
    stems = [f'{TOKENIZERS}{name}.' for name in modalities] or ['backbone.']
    layers = {f'{stem}patch_embed' for stem in stems}
    layers |= {prefix + name for prefix in decoders for name in (*_DECODER, *(_CROSS_ATTENTION if modalities else ()))}
    if kind not in ('pretraining', 'encoder'):
        layers |= {'norm', 'head'}
    elif TOKEN_NORM in keys:
        layers.add('backbone.norm')
    optional = [f'{prefix}cls_token' for prefix in ('backbone.', *decoders)]
    optional += [f'{stem}class_embed.weight' for stem in stems]
    single = {key for key in optional if key in keys}
    single |= {f'{prefix}mask_token' for prefix in decoders} | ({GLOBAL_TOKENS} if modalities else set())
    single |= {f'{prefix}modality_embed.{name}' for prefix in decoders for name in modalities}
    for prefix in (*stems, *decoders):
        table = f'{prefix}pos_embed'
        single |= {f'{table}_space', f'{table}_time'} if f'{table}_space' in keys else {table}
        single |= {f'{table}_cls'} if CLS_TOKEN in keys else set()
    for prefix in ('backbone.blocks.', *(f'{prefix}blocks.' for prefix in decoders)):
        blocks = range(num_blocks(prefix, keys))
        layers |= {f'{prefix}{block}.{name}' for block in blocks for name in _BLOCK if name != 'attn.qkv'}
        parameters = ('weight', 'bias') if f'{prefix}0.attn.qkv.bias' in keys else ('weight',)
        single |= {f'{prefix}{block}.attn.qkv.{name}' for block in blocks for name in parameters}
    return single | {f'{layer}.{name}' for layer in layers for name in ('weight', 'bias')}


def listed(keys: Collection[str], most: int = 8) -> str:
    """Write down the first of some keys, and how many more there are."""
    rest = f' and {len(keys) - most} more' if len(keys) > most else ''
    return (', '.join([*keys][:most]) + rest) or 'none'
