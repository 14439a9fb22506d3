"""What a checkpoint holds: a file that is read once, its weights by our names, and ours by those of others."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import Any

import torch
from torch import Tensor

from .files import WRAPPERS, path_of, read_file, unwrap
from .layouts import (
    CLS_POSITION,
    CLS_TOKEN,
    CROSS_DECODER,
    GLOBAL_TOKENS,
    KERNEL,
    LAYOUTS,
    POOLED_NORM,
    POSITIONS,
    TASK_WEIGHTS,
    TOKEN_NORM,
    TOKENIZERS,
    Layout,
    Line,
    StateDict,
)

NATIVE = 'native'
# names of weights, or of layers with a weight and a bias
_BLOCK = ('norm1.', 'attn.proj.', 'norm2.', 'mlp.fc1.', 'mlp.fc2.')
_DECODER = ('mask_token', 'decoder_embed.', 'norm.', 'pred.')
_CROSS_ATTENTION = ('query_norm.', 'context_norm.', 'attn.q.', 'attn.kv.', 'attn.proj.', 'mlp.fc1.', 'mlp.fc2.')
# A plain ViT of ours, on the right, is what a MultiMAE has for RGB.
_PLAIN = (
    Line('backbone.blocks.', 'backbone.blocks.'),
    Line(f'{TOKENIZERS}rgb.patch_embed.', 'backbone.patch_embed.'),
    Line(f'{TOKENIZERS}rgb.pos_embed', POSITIONS),
    Line(GLOBAL_TOKENS, CLS_TOKEN),
)


@dataclass(frozen=True)
class Checkpoint:
    """Weights and all that is known of them: a file that was read once, or a model.

    ``tensors``, and all that follows from them, raise ValueError if the layout is unknown or a tensor is missing.

    Attributes:
        content: tensors by the names of the file.
        path: of the file.
        meta: what else the file says.
        layout: whose names these are, see `recognise`.
    """

    content: StateDict
    path: str = 'the model'
    meta: Mapping[str, Any] = field(default_factory=dict)
    layout: str | None = NATIVE

    @classmethod
    def read(cls, path: str | os.PathLike, layout: str | None = None) -> Checkpoint:
        """Read a file; its layout is recognised if it is not given.

        The file may be .safetensors or any file of ``torch.save``, or the address of one. In the folder of a run
        `find_weights` chooses it. Tensors are mapped from the file, not copied, where the format allows it. Files of
        MMEngine (``state_dict``), of the trainers of OmniMAE, MAE and VideoMAE (``model``) and of DeepSpeed
        (``module``) are unwrapped. With an EMA hook, MMEngine stores the averaged weights as ``state_dict``;
        ``meta['weights']`` says 'ema' or 'raw'.

        Raises:
            ValueError: as of `read_file`, or no tensors by name.
        """
        path = path_of(path)
        content = read_file(path, mmap=True)
        state_dict = unwrap(content)
        is_named = all(isinstance(key, str) and isinstance(x, Tensor) for key, x in state_dict.items())
        if not state_dict or not is_named:
            raise ValueError(f'{path}: holds no tensors by name, neither at the top nor under {", ".join(WRAPPERS)}.')
        meta = dict(content['meta']) if isinstance(content.get('meta'), dict) else {}
        if 'state_dict' in content and not str(path).endswith('.safetensors'):
            meta.setdefault('weights', 'ema' if 'ema_state_dict' in content else 'raw')
        return cls(state_dict, str(path), meta, layout or recognise(state_dict))

    def translated(self, pool: str = 'mean') -> tuple[StateDict, tuple[str, ...]]:
        """Tensors by our names, and the keys that have no place in our models, see `translate`."""
        try:
            return translate(self.content, self.layout, pool)
        except ValueError as error:
            raise ValueError(f'{self.path}: {error}') from error

    @cached_property
    def tensors(self) -> StateDict:
        """Tensors by our names."""
        return self.translated()[0]

    @cached_property
    def kind(self) -> str:
        """What the weights are of: 'pretraining', 'encoder', 'classifier', 'probe', or 'other', as a DensePredictor."""
        if self.decoders:
            return 'pretraining'
        if all(key.startswith('backbone.') for key in self.tensors):
            return 'encoder'
        if 'head.1.weight' in self.tensors:
            return 'probe'
        return 'classifier' if 'head.weight' in self.tensors else 'other'

    @cached_property
    def modalities(self) -> set[str]:
        """Those of a backbone with tokenizers; none of one that has its own patch embedding."""
        return {key.removeprefix(TOKENIZERS).split('.')[0] for key in self.tensors if key.startswith(TOKENIZERS)}

    @cached_property
    def decoders(self) -> list[str]:
        """The prefixes of decoders: ['head.'], or ['head.image.', 'head.video.'], or nothing in a classifier."""
        names = sorted(key.removesuffix('mask_token') for key in self.tensors if key.endswith('mask_token'))
        return [name for name in names if not name.startswith('backbone.')]

    def depth(self, prefix: str = 'backbone.') -> int:
        """Count the blocks of the encoder or of a decoder: the highest number, and one more."""
        numbers = (re.match(re.escape(prefix) + r'blocks\.(\d+)\.', key) for key in self.tensors)
        return max((int(match[1]) + 1 for match in numbers if match), default=0)

    @property
    def weights(self) -> str | None:
        """'ema' for averaged ones, 'raw' for others; None where the file does not say."""
        return self.meta.get('weights')

    @property
    def num_classes(self) -> int | None:
        """The classes of the head of a Classifier or of a LinearProbe; None without one."""
        biases = (self.tensors.get(key) for key in ('head.bias', 'head.1.bias'))
        return next((len(bias) for bias in biases if bias is not None), None)

    @property
    def classes(self) -> tuple[tuple[str, ...], ...]:
        """Names of the classes of our training, of each source of data that has names."""
        if 'classes' in self.meta:  # of exported weights
            return (tuple(json.loads(self.meta['classes'])),)
        stored = self.meta.get('dataset_meta')
        return tuple(tuple(names) for names in stored.values() if names) if isinstance(stored, dict) else ()


def load_file(path: str | os.PathLike) -> tuple[StateDict, dict]:
    """Read a checkpoint -> tensors by the file's names (without DDP's and compile's prefixes), and metadata."""
    checkpoint = Checkpoint.read(path)
    return checkpoint.content, dict(checkpoint.meta)


def expected_keys(model: Checkpoint) -> set[str]:
    """List all keys of a model of ours that has the parts and as many blocks as occur in these weights.

    Blocks have biases of queries, keys and values everywhere or nowhere, as the first one has them.
    """
    keys, decoders, modalities = model.tensors, model.decoders, model.modalities
    stems = [f'{TOKENIZERS}{name}.' for name in modalities] or ['backbone.']
    names = [f'{stem}patch_embed.' for stem in stems]  # a final dot: a weight and a bias
    names += [f'{prefix}{name}' for prefix in decoders for name in _DECODER]
    is_cross = CROSS_DECODER in keys
    if 'head.layer_weights' in keys:
        names += ['head.layer_weights', *(f'head.layer_norms.{number}.' for number in range(model.depth('head.')))]
    if modalities:
        more = (*_CROSS_ATTENTION, *(f'modality_embed.{name}' for name in modalities))
        names += [GLOBAL_TOKENS, *(f'{prefix}{name}' for prefix in decoders for name in more)]
    if model.kind not in ('pretraining', 'encoder'):
        names += ['norm.', 'head.']
    elif TOKEN_NORM in keys:
        names.append('backbone.norm.')
    for prefix in (*stems, *decoders):
        table = f'{prefix}pos_embed'
        names += [f'{table}_space', f'{table}_time'] if f'{table}_space' in keys else [table]
        names += [f'{table}_cls'] if CLS_TOKEN in keys else []
    for prefix in ('backbone.', *decoders):
        projections = ['attn.q', 'attn.kv'] if is_cross and prefix == 'head.' else ['attn.qkv']
        ending = '.' if f'{prefix}blocks.0.{projections[0]}.bias' in keys else '.weight'
        parts = (*_BLOCK, *(f'{name}{ending}' for name in projections))
        names += [f'{prefix}blocks.{number}.{name}' for number in range(model.depth(prefix)) for name in parts]
    optional = {f'{part}cls_token' for part in ('backbone.', *decoders)} | {f'{x}class_embed.weight' for x in stems}
    layers = {f'{name}{end}' for name in names if name.endswith('.') for end in ('weight', 'bias')}
    return layers | {name for name in names if not name.endswith('.')} | (optional & keys.keys())


def listed(keys: Collection[str], most: int = 8) -> str:
    """Write down the first of some keys, and how many more there are."""
    rest = f' and {len(keys) - most} more' if len(keys) > most else ''
    return (', '.join([*keys][:most]) + rest) or 'none'


def recognise(state_dict: Mapping) -> str | None:
    """Name the layout: one of ``LAYOUTS``, 'native' for ours, with any backbone, None for an unknown one."""
    state_dict = unwrap(state_dict)
    if any(key == KERNEL or key.startswith(TOKENIZERS) for key in state_dict):
        return NATIVE
    known = (name for name, layout in LAYOUTS.items() if any(mark in state_dict for mark in layout.marks))
    return next(known, NATIVE if any(key.startswith('backbone.') for key in state_dict) else None)


def convert(state_dict: Mapping, source: str | None = None) -> StateDict:
    """Rename a state dict of another layout to ours, see the head of ``layouts.py``. Ours is returned unchanged.

    A head on one token is left out, see `translate`.

    Args:
        state_dict: tensors by name, or a checkpoint around them (``WRAPPERS``).
        source: a name in ``LAYOUTS``, 'native', or None to recognise it.

    Raises:
        ValueError: an unknown layout, a key that has no place in ours, or a key that ours needs and that is missing.
    """
    return translate(state_dict, source)[0]


def translate(state_dict: Mapping, source: str | None = None, pool: str = 'mean') -> tuple[StateDict, tuple[str, ...]]:
    """`convert`, and the keys that it left out: parts of a decoder, a head on other tokens than the model's head reads.

    Args:
        state_dict: as of `convert`.
        source: as of `convert`.
        pool: of the model's backbone. With 'cls' a head on the class token is taken, with the norm before it, and one
            on the mean of the tokens is left out.
    """
    source = source or recognise(state_dict)
    state_dict = unwrap(state_dict)
    if source is None:
        raise ValueError(
            f'The layout of this state dict is unknown; its keys are {listed(state_dict)}. '
            f'Known layouts: {NATIVE}, {", ".join(LAYOUTS)}.'
        )
    if source == NATIVE:
        return state_dict, ()
    layout = _layout(source)
    for prefix in ('backbone.', *layout.prefixes.values()):
        state_dict = {key.removeprefix(prefix): x for key, x in state_dict.items()}
    left = tuple(key for key in state_dict if key.startswith(layout.leaves(state_dict)))
    state_dict = {key: x for key, x in state_dict.items() if key not in left}
    heads = tuple(line.theirs for line in layout.head if line.ours == 'head.')
    kind = 'classifier' if any(key.startswith(heads) for key in state_dict) else 'encoder'
    if any(key.endswith('mask_token') for key in state_dict):
        kind = 'pretraining'
    table = layout.table(kind)
    try:
        ours, unplaced = _renamed(state_dict, table)
        ours = _with_pixels(ours, channels_first=False)
    except (KeyError, IndexError, RuntimeError) as error:  # a tensor is missing or has another shape
        raise _misfit(source, f'{type(error).__name__}: {error}.') from error
    if kind == 'classifier':
        ours, head = _with_head_of(pool, ours)
        left += head
    expected = {key for key in expected_keys(Checkpoint(ours)) if _names_of(key, table)}
    unplaced += [name for key in ours if key not in expected for name in _names_of(key, table)]
    missing = [name for key in sorted(expected - ours.keys()) for name in _names_of(key, table)]
    missing = [name for name in missing if name not in state_dict]
    if unplaced or missing:
        raise _misfit(source, f'Keys without a place: {listed(unplaced)}. Missing keys: {listed(missing)}.')
    return ours, left


def _layout(source: str) -> Layout:
    if source not in LAYOUTS:
        raise ValueError(f'source={source!r} is unknown. Choose from {NATIVE}, {", ".join(LAYOUTS)}.')
    return LAYOUTS[source]


def _misfit(source: str, reason: str) -> ValueError:
    return ValueError(
        f'This state dict does not fit the layout {source!r}. {reason} Give the checkpoint as it was published, or '
        'name another source.'
    )


def _renamed(state_dict: StateDict, table: Sequence[Line], *, back: bool = False) -> tuple[StateDict, list[str]]:
    """Their tensors by our names, or ``back``; and the keys that no line matches."""
    has_token = any(key.rpartition('.')[2] == 'cls_token' for key in state_dict)
    rest, renamed = dict(state_dict), StateDict()
    for line in table:
        if line.with_token not in (None, has_token):
            continue
        old, new = (line.ours, line.theirs) if back else (line.theirs, line.ours)
        form, first = line.form.split if back else line.form.join, old.split()[0]
        for key in [*rest]:
            keys, names = [key, *_filled(old, key, first)[1:]], _filled(new, key, first)
            if names and rest.keys() >= {*keys} and not renamed.keys() & {*names}:
                try:
                    renamed |= zip(names, form(*(rest.pop(key) for key in keys)), strict=True)
                except ValueError as error:
                    raise ValueError(f'{key} {error}') from error
    return renamed, [*rest]


def _names_of(key: str, table: Sequence[Line]) -> list[str]:
    """Their names for what we call ``key``."""
    return next((names for line in table if (names := _filled(line.theirs, key, line.ours))), [])


def _filled(names: str, key: str, of: str) -> list[str]:
    """Fill the wildcards of names with what ``key`` has in them; nothing if it is none of the names ``of``."""
    match = next((found for name in of.split() if (found := _pattern(name).fullmatch(key))), None)
    parts = match.groups() if match else ()
    return [
        name.replace('*', '{}').format(*parts) + ''.join(parts[name.count('*') :]) for name in names.split() if match
    ]


@cache
def _pattern(name: str) -> re.Pattern:
    pattern = re.escape(name).replace(r'\*', '([^.]+)').replace(r'\#', r'\d+')
    return re.compile(pattern + ('(.+)' if name.endswith('.') else ''))


def _with_head_of(pool: str, ours: StateDict) -> tuple[StateDict, tuple[str, ...]]:
    """Take the head if it reads what the model pools -> weights, and the keys that are left out.

    A head reads the mean of the tokens if it has a norm of its own, and one token otherwise.
    """
    reads_mean = POOLED_NORM in ours
    if reads_mean and pool == 'mean':
        return ours, ()
    if not reads_mean and pool == 'cls' and CLS_TOKEN in ours:
        return {key.replace('backbone.norm.', 'norm.'): x for key, x in ours.items()}, ()
    left = tuple(key for key in ours if key.startswith(('head.', 'norm.')))
    return {key: x for key, x in ours.items() if key not in left}, left


def _with_pixels(ours: StateDict, *, channels_first: bool) -> StateDict:
    """Order the predicted pixels of a MultiMAE's patches by channel and place, or by place and channel."""
    ordered = dict(ours)
    for key in [key for key in ours if '.pred.' in key and GLOBAL_TOKENS in ours]:
        modality = key.split('.')[1].removeprefix('norm_')  # a task may be called norm_MODALITY
        kernel = ours.get(f'{TOKENIZERS}{modality}.patch_embed.weight')
        if kernel is None:
            raise ValueError(
                f'{key} is for {modality!r}, and the encoder has no adapter for it. No model of ours has that.'
            )
        places = kernel.shape[3] * kernel.shape[4]
        x = ours[key].unflatten(0, (places, -1) if channels_first else (-1, places))
        ordered[key] = x.transpose(0, 1).flatten(0, 1)
    return ordered


def export(
    state_dict: StateDict, target: str = 'omnimae', *, positions: Mapping[str, Tensor] | None = None
) -> StateDict:
    """Rename our weights to a published layout: the inverse of `convert`.

    Left out are learned weights of tasks, which no layout has, and biases of keys where a layout has none: a softmax
    over keys is the same without them.

    Args:
        state_dict: of our layout.
        target: a name in ``LAYOUTS``, or 'mae', whose names are timm's.
        positions: fixed sinusoids by our names, as a new model has them. Layouts with fixed positions hold no others.

    Raises:
        ValueError: the layout cannot hold this model.
    """
    layout = _layout('timm' if target == 'mae' else target)
    weights = {key: x for key, x in state_dict.items() if not key.startswith(TASK_WEIGHTS)}
    model = Checkpoint(weights)
    for key in [key for key in weights if layout.fixed_positions and key.endswith('pos_embed')]:
        x, fixed = weights.pop(key), (positions or {}).get(key)
        if fixed is None or x.shape != fixed.shape or not torch.allclose(x, fixed, atol=1e-5):
            raise ValueError(
                f'{key} does not hold the fixed sinusoids of the config, and the layout {target!r} can hold no others.'
            )
    if not layout.fits(weights) or (target == 'mae' and not {CLS_TOKEN, 'head.mask_token'} <= weights.keys()):
        raise ValueError(f'The layout {target!r} is that of {layout.holds}, and this model is another.')
    renamed, unplaced = _renamed(_with_pixels(weights, channels_first=True), layout.table(model.kind), back=True)
    if unplaced:
        raise ValueError(f'The layout {target!r} is that of {layout.holds}. It has no names for {listed(unplaced)}.')
    encoder = {name for key in weights for name in _names_of(key, layout.encoder)}
    prefix, depth = layout.prefixes.get(model.kind, ''), str(model.depth('head.'))
    return {prefix * (name in encoder) + name.replace('#', depth): x for name, x in renamed.items()}


def to_plain(state_dict: StateDict) -> tuple[StateDict, list[str]]:
    """Take from our MultiMAE, or its encoder, a plain ViT for RGB -> its weights, and the keys that are left.

    The global token becomes the class token. There is no norm after the blocks: ``final_norm=False``.
    """
    modalities, num_tokens = sorted(Checkpoint(state_dict).modalities), state_dict[GLOBAL_TOKENS].shape[1]
    if 'rgb' not in modalities or num_tokens != 1:
        raise ValueError(
            f'No plain ViT for RGB can be made of a model of {modalities} with {num_tokens} global tokens. Give one '
            "with the modality 'rgb' and one global token."
        )
    return _renamed(state_dict, _PLAIN)


def to_multimodal(state_dict: StateDict) -> tuple[StateDict, list[str]]:
    """Take from a plain ViT of ours what a MultiMAE has: blocks and the tokenizer of 'rgb' -> these, and other keys.

    A class token becomes the global token. Learned positions become one table, with that of the token in the token.
    """
    return _renamed(with_joint_positions(state_dict), _PLAIN, back=True)


def with_joint_positions(state_dict: StateDict) -> StateDict:
    """Add up the positions of places and of time slices; the class token's is added to the token."""
    joint = dict(state_dict)
    if f'{POSITIONS}_space' in joint:
        space, time = joint.pop(f'{POSITIONS}_space'), joint.pop(f'{POSITIONS}_time')
        joint[POSITIONS] = (time[:, :, None] + space[:, None]).flatten(1, 2)
    if CLS_POSITION in joint:
        joint[CLS_TOKEN] = joint[CLS_TOKEN] + joint.pop(CLS_POSITION)
    return joint
