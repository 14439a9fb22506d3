"""Checkpoints: reading them safely, converting between published layouts and ours, loading them into a model.

Our names are those of the modules: ``backbone.*``, then ``head.*`` (one decoder, or ``head.image.*`` and
``head.video.*``) in pretraining, ``norm.*`` and ``head.*`` in a classifier. Converting only renames: no value changes,
position tables included.
"""

from __future__ import annotations

import os
import pickle
import re
import zipfile
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from itertools import chain
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlparse

import safetensors.torch
import torch
from mmengine.dist import barrier, get_rank
from mmengine.logging import print_log
from mmengine.model import update_init_info
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from omnimae.registry import WEIGHT_INITIALIZERS

StateDict = dict[str, Tensor]

NATIVE = 'native'

BLOCK_KEYS = tuple(
    f'{layer}.{parameter}'
    for layer in ('norm1', 'attn.qkv', 'attn.proj', 'norm2', 'mlp.fc1', 'mlp.fc2')
    for parameter in ('weight', 'bias')
)


# ---------------------------------------------------------------------------------------------------------------------
# Files


def load_file(path: str | os.PathLike) -> tuple[StateDict, dict]:
    """Read a checkpoint -> its tensors by name, and what else it says of itself.

    The file may be .safetensors or any file of ``torch.save``, or the http(s) address of one. Tensors are mapped
    from the file, not copied, where the format allows it. Files of MMEngine (``state_dict``) and of the OmniMAE
    trainer (``model``) are unwrapped. MMEngine stores averaged weights as ``state_dict`` when an EMA hook was active;
    ``meta['weights']`` says 'ema' or 'raw'.

    Raises:
        ValueError: no such file, not a checkpoint, or one that holds more than tensors and plain values: such a file
            could run code while it is read, and is refused.
    """
    path = _local(str(path))
    if not os.path.isfile(path):
        raise ValueError(f'{path}: no such checkpoint file. Check the path.')
    if path.endswith('.safetensors'):
        return _load_safetensors(path)
    content = _load_pickle(path)
    state_dict = unwrap(content)
    if not state_dict or not all(isinstance(value, Tensor) for value in state_dict.values()):
        raise ValueError(f'{path}: holds no tensors by name, neither at the top nor under "state_dict" or "model".')
    meta = content.get('meta')
    meta = dict(meta) if isinstance(meta, dict) else {}
    if 'state_dict' in content:
        meta.setdefault('weights', 'ema' if 'ema_state_dict' in content else 'raw')
    return dict(state_dict), meta


def save_file(state_dict: Mapping[str, Tensor], path: str | os.PathLike, meta: Mapping[str, str]) -> None:
    """Write weights and a few words about them, as .safetensors or else as a file of torch; never half a file.

    Raises:
        ValueError: the folder does not exist.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise ValueError(f'{path}: the folder {path.parent} does not exist. Create it first.')
    unfinished = path.with_name(path.name + '.tmp')
    if path.suffix == '.safetensors':
        # the format wants every tensor whole and in storage of its own
        whole = {key: x.detach().clone(memory_format=torch.contiguous_format) for key, x in state_dict.items()}
        safetensors.torch.save_file(whole, unfinished, dict(meta))
    else:
        torch.save(dict(state_dict=dict(state_dict), meta=dict(meta)), unfinished)
    os.replace(unfinished, path)


def unwrap(content: Mapping) -> Mapping:
    """Find the state dict within a checkpoint: under 'state_dict', under 'model', or the whole of it."""
    for key in ('state_dict', 'model'):
        if isinstance(content.get(key), Mapping):
            return content[key]
    return content


def _local(path: str) -> str:
    """Give a path back; download an http(s) address, once, into torch's folder for checkpoints."""
    address = urlparse(path)
    if address.scheme not in ('http', 'https'):
        return path
    folder = os.path.join(torch.hub.get_dir(), 'checkpoints')
    target = os.path.join(folder, os.path.basename(address.path))
    if get_rank() != 0:
        barrier()  # the first process downloads; only those on machines with another disk still have to
    if not os.path.exists(target):
        os.makedirs(folder, exist_ok=True)
        try:
            torch.hub.download_url_to_file(path, target, progress=False)
        except OSError as error:
            raise ValueError(f'{path}: cannot be downloaded ({error}). Fetch it by hand and give its path.') from error
    if get_rank() == 0:
        barrier()
    return target


def _load_safetensors(path: str) -> tuple[StateDict, dict]:
    try:
        with safe_open(path, framework='pt') as file:
            return {key: file.get_tensor(key) for key in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f'{path}: not a readable .safetensors file ({error}). Truncated? Copy it again.') from error


def _load_pickle(path: str) -> dict:
    try:
        content = torch.load(path, map_location='cpu', weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        if not _starts_like_a_pickle(path):
            raise ValueError(f'{path}: not a checkpoint, neither of torch.save nor .safetensors.') from error
        raise ValueError(
            f'{path}: refused, because it holds more than tensors and plain values and could run code when read '
            f'({_first_line(error)}). Where you trust it, save its state dict alone with torch.save and give that file.'
        ) from error
    except (RuntimeError, EOFError, KeyError, ValueError) as error:
        raise ValueError(f'{path}: no readable checkpoint ({_first_line(error)}). Truncated? Copy it again.') from error
    if not isinstance(content, dict):
        raise ValueError(f'{path}: holds a {type(content).__name__}, expected a dict of tensors by name.')
    return content


def _starts_like_a_pickle(path: str) -> bool:
    with open(path, 'rb') as file:
        return zipfile.is_zipfile(path) or file.read(1) == b'\x80'


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


# ---------------------------------------------------------------------------------------------------------------------
# Layouts


class Layout(NamedTuple):
    """How another code base names what we have: pairs of prefixes, (theirs, ours), the more specific ones first.

    Attributes:
        mark: a key that every checkpoint of that layout has, and no other.
        pretraining: prefixes of an encoder with its decoder.
        classifier: prefixes of an encoder with a linear head.
        spellings: other prefixes for the same thing, (theirs, the spelling used above).
    """

    mark: str
    pretraining: tuple[tuple[str, str], ...]
    classifier: tuple[tuple[str, str], ...]
    spellings: tuple[tuple[str, str], ...] = ()


_OMNIMAE_ENCODER = (
    ('trunk.pos_embed', 'backbone.pos_embed'),
    ('trunk.patch_embed.proj.1.', 'backbone.patch_embed.'),
    ('trunk.blocks.', 'backbone.blocks.'),
)

LAYOUTS = {
    # github.com/facebookresearch/omnivore: the published files, and the checkpoints that its trainer writes
    'omnimae': Layout(
        mark='trunk.patch_embed.proj.1.weight',
        pretraining=(
            *_OMNIMAE_ENCODER,
            ('trunk.norm.', 'backbone.norm.'),
            ('trunk.mask_token', 'head.mask_token'),
            ('trunk.decoder.pos_embed', 'head.pos_embed'),
            ('trunk.decoder.decoder_embed.', 'head.decoder_embed.'),
            ('trunk.decoder.decoder_blocks.', 'head.blocks.'),
            ('trunk.decoder.norm.', 'head.norm.'),
            ('head.', 'head.pred.'),
        ),
        classifier=(*_OMNIMAE_ENCODER, ('trunk.norm.', 'norm.'), ('head.', 'head.')),
        # the trainer: MAE head, head inside a Sequential (SSv2), plain head (IN1K)
        spellings=(('heads.0.projector.', 'head.'), ('heads.0.0.', 'head.'), ('heads.0.', 'head.')),
    ),
}


def recognise(state_dict: Mapping) -> str | None:
    """Say whose layout this is: a name in ``LAYOUTS``, 'native' for ours, None for neither."""
    state_dict = unwrap(state_dict)
    if 'backbone.patch_embed.weight' in state_dict:
        return NATIVE
    return next((name for name, layout in LAYOUTS.items() if layout.mark in state_dict), None)


def convert(state_dict: Mapping, source: str | None = None) -> StateDict:
    """Rename a state dict of another layout to ours; the tensors are the same ones. Ours stays as it is.

    Args:
        state_dict: tensors by name, or a checkpoint around them ('model', 'state_dict').
        source: a name in ``LAYOUTS``, 'native', or None to recognise it.

    Raises:
        ValueError: an unknown layout, a key that has no place in ours, or a key that ours needs and that is missing.
    """
    state_dict = unwrap(state_dict)
    source = source or recognise(state_dict)
    if source is None:
        raise ValueError(
            f'The layout of this state dict is unknown; its keys are {_listed(state_dict)}. '
            f'Known layouts: {NATIVE}, {", ".join(LAYOUTS)}.'
        )
    if source == NATIVE:
        return dict(state_dict)
    layout = _layout(source)
    pairs = layout.pretraining if _is_pretraining(state_dict) else layout.classifier
    origin: dict[str, str] = {}
    unplaced = []
    for key in state_dict:
        new = _renamed(_renamed(key, layout.spellings) or key, pairs)
        if new is None or new in origin:
            unplaced.append(key)
        else:
            origin[new] = key
    needed = _native_keys(origin)
    unplaced += [origin[new] for new in origin if new not in needed]
    backward = tuple((ours, theirs) for theirs, ours in pairs)
    missing = [str(_renamed(key, backward)) for key in sorted(needed - origin.keys())]
    if unplaced or missing:
        raise ValueError(
            f'This state dict does not fit the layout {source!r}. Keys without a place: {_listed(unplaced)}. '
            f'Missing keys: {_listed(missing)}. Give the checkpoint as it was published, or name another source.'
        )
    return {new: state_dict[key] for new, key in origin.items()}


def export(state_dict: Mapping[str, Tensor], source: str = 'omnimae') -> StateDict:
    """Rename our state dict to the published layout ``source``: the inverse of ``convert``.

    A decoder with qkv biases keeps them: the OmniMAE trainer has such keys, the published models have not.

    Raises:
        ValueError: an unknown layout, or a model that the layout has no names for (one decoder per modality).
    """
    layout = _layout(source)
    if len(_decoders(state_dict)) > 1:
        raise ValueError(
            f'The layout {source!r} has one decoder for all modalities, this model has one for each: '
            f'{", ".join(_decoders(state_dict))}. Only models with a shared decoder can be exported.'
        )
    pairs = layout.pretraining if _is_pretraining(state_dict) else layout.classifier
    backward = tuple((ours, theirs) for theirs, ours in pairs)
    exported = {new: value for key, value in state_dict.items() if (new := _renamed(key, backward))}
    unplaced = [key for key in state_dict if not _renamed(key, backward)]
    if unplaced:
        raise ValueError(f'The layout {source!r} has no names for {_listed(unplaced)}. Give a state dict of ours.')
    return exported


def _layout(source: str) -> Layout:
    if source not in LAYOUTS:
        raise ValueError(f'source={source!r} is unknown. Choose from {NATIVE}, {", ".join(LAYOUTS)}.')
    return LAYOUTS[source]


def _renamed(key: str, pairs: Iterable[tuple[str, str]]) -> str | None:
    """Exchange the prefix; None when no pair knows it. A prefix without a final dot is a whole key."""
    for old, new in pairs:
        if key == old or (old.endswith('.') and key.startswith(old)):
            return new + key[len(old) :]
    return None


def _native_keys(state_dict: Collection[str]) -> set[str]:
    """List the keys that a model of ours has, with as many blocks as occur in these keys."""
    names = ['backbone.pos_embed', *_affine('backbone.patch_embed.'), *_block_keys('backbone.blocks.', state_dict)]
    if not _is_pretraining(state_dict):
        return {*names, *_affine('norm.', 'head.')}
    for prefix in ('backbone.', *_decoders(state_dict)):
        names += _affine(f'{prefix}norm.')
    for prefix in _decoders(state_dict):
        names += [f'{prefix}mask_token', f'{prefix}pos_embed', *_affine(f'{prefix}decoder_embed.', f'{prefix}pred.')]
        names += _block_keys(f'{prefix}blocks.', state_dict)
    return set(names)


def _affine(*prefixes: str) -> list[str]:
    return [prefix + name for prefix in prefixes for name in ('weight', 'bias')]


def _block_keys(prefix: str, state_dict: Collection[str]) -> list[str]:
    """List the keys of the blocks 0..last, with qkv biases everywhere or nowhere, as the first block has it."""
    bias = f'{prefix}0.attn.qkv.bias' in state_dict
    names = [name for name in BLOCK_KEYS if bias or name != 'attn.qkv.bias']
    return [f'{prefix}{block}.{name}' for block in range(_depth(prefix, state_dict)) for name in names]


def _depth(prefix: str, state_dict: Collection[str]) -> int:
    numbers = (re.match(re.escape(prefix) + r'(\d+)\.', key) for key in state_dict)
    return max((int(match[1]) + 1 for match in numbers if match), default=0)


def _is_pretraining(state_dict: Collection[str]) -> bool:
    return any(key.endswith('mask_token') for key in state_dict)


def _decoders(state_dict: Collection[str]) -> list[str]:
    """Prefixes of our decoders: ['head.'], or ['head.image.', 'head.video.'], or nothing in a classifier."""
    return sorted(key.removesuffix('mask_token') for key in state_dict if key.endswith('mask_token'))


def _listed(keys: Collection[str], most: int = 8) -> str:
    keys = list(keys)
    rest = f' and {len(keys) - most} more' if len(keys) > most else ''
    return (', '.join(keys[:most]) + rest) or 'none'


# ---------------------------------------------------------------------------------------------------------------------
# Into a model


class LoadReport(NamedTuple):
    """What happened to each tensor.

    Attributes:
        path: of the checkpoint.
        source: its layout, see ``recognise``.
        loaded: keys of the model that took their values from the file.
        left: keys of the file (under our names) that the model does not take.
        initialised: keys of the model that keep their initial values.
    """

    path: str
    source: str
    loaded: tuple[str, ...]
    left: tuple[str, ...]
    initialised: tuple[str, ...]

    def __str__(self) -> str:
        parts = (('loaded', self.loaded), ('left in the file', self.left), ('freshly initialised', self.initialised))
        return f'Weights from {self.path} (layout {self.source}): ' + '; '.join(
            f'{what} {len(keys)} tensors ({_grouped(keys)})' for what, keys in parts if keys
        )


def load_weights(model: nn.Module, path: str | os.PathLike) -> LoadReport:
    """Load a checkpoint of any known layout into a model; logs and returns what was loaded, left and initialised.

    A pretraining model needs every tensor of it. A classifier takes the backbone of a pretraining checkpoint and leaves
    its final norm and decoder (as the release does; the norm belongs to single tokens); of a classifier's checkpoint it
    takes everything, but leaves a head for other classes.

    Raises:
        ValueError: the file cannot be read, its layout is unknown, or its tensors do not fit the model.
    """
    content, _ = load_file(path)
    try:
        state_dict = convert(content)
    except ValueError as error:
        raise ValueError(f'{path}: {error}') from error
    target = model.state_dict()
    if 'backbone.patch_embed.weight' not in target:
        raise ValueError(f'{path}: a checkpoint fills a model, not a {type(model).__name__}. Move init_cfg up to it.')
    wanted = _wanted(state_dict, target, path)
    _check_fit(wanted, target, state_dict, path)
    model.load_state_dict({key: state_dict[key] for key in target if wanted(key)}, strict=False)
    report = LoadReport(
        path=str(path),
        source=str(recognise(content)),
        loaded=tuple(filter(wanted, target)),
        left=tuple(key for key in state_dict if not wanted(key)),
        initialised=tuple(key for key in target if not wanted(key)),
    )
    print_log(str(report), logger='current')
    return report


@WEIGHT_INITIALIZERS.register_module(name='Checkpoint')
class CheckpointInit:
    """Start a model from a checkpoint: ``init_cfg=dict(type='Checkpoint', checkpoint=PATH)`` on the model.

    Unlike MMEngine's 'Pretrained' it converts published layouts, and refuses what does not fit.

    Args:
        checkpoint: path or http(s) address, see ``load_weights``.
    """

    def __init__(self, *, checkpoint: str):
        self.checkpoint = checkpoint

    def __call__(self, module: nn.Module) -> None:
        # MMEngine initialises the children after any initializer but its own 'Pretrained'; they have to come first
        for child in module.children():
            if hasattr(child, 'init_weights'):
                child.init_weights()
                child.is_init = True
        load_weights(module, self.checkpoint)
        if hasattr(module, '_params_init_info'):
            update_init_info(module, init_info=f'Checkpoint: {self.checkpoint}')


def _wanted(state_dict: StateDict, target: StateDict, path: str | os.PathLike) -> Callable[[str], bool]:
    """Which keys, of file and model alike, have to meet."""
    if _is_pretraining(target):
        if not _is_pretraining(state_dict):
            raise ValueError(f'{path}: holds a classifier, which has no decoder. Give a checkpoint of pretraining.')
        return lambda key: True
    if _is_pretraining(state_dict):
        return lambda key: key.startswith('backbone.') and not key.startswith('backbone.norm.')
    head = {key for key in chain(state_dict, target) if key.startswith('head.')}
    if all(key in state_dict and key in target and state_dict[key].shape == target[key].shape for key in head):
        return lambda key: True
    return lambda key: key not in head


def _check_fit(
    wanted: Callable[[str], bool], target: StateDict, state_dict: StateDict, path: str | os.PathLike
) -> None:
    if _is_pretraining(target) and _decoders(state_dict) != _decoders(target):
        raise ValueError(
            f'{path}: holds {_decoder_words(state_dict)}, the model has {_decoder_words(target)}. Give the model what '
            "the file has: head=dict(type='MAEHead', ...) is shared, head=dict(image=..., video=...) is one each."
        )
    missing = [key for key in target if wanted(key) and key not in state_dict]
    unexpected = [key for key in state_dict if wanted(key) and key not in target]
    common = [key for key in target if wanted(key) and key in state_dict]
    resized = [key for key in common if state_dict[key].shape != target[key].shape]
    faults = []
    if resized:
        key, here, there = resized[0], *(tuple(x[resized[0]].shape) for x in (state_dict, target))
        faults.append(f'{key} is {here} in the file and {there} in the model ({len(resized)} tensors differ in size).')
    if missing:
        faults.append(f'The file lacks {_listed(missing)}.')
    if unexpected:
        faults.append(f'The model has no place for {_listed(unexpected)}.')
    if faults:
        faults.append(_remedy(state_dict, target, [*resized, *missing, *unexpected]))
        raise ValueError(f'{path} does not fit the model. {" ".join(faults)}')


def _remedy(state_dict: StateDict, target: StateDict, keys: list[str]) -> str:
    if all(key.endswith('pos_embed') for key in keys):
        tokens = state_dict['backbone.pos_embed'].shape[1]
        return (
            f'Set clip_size to the one the checkpoint was made for ({tokens} tokens): clips of any other size run then '
            'too, with interpolated positions.'
        )
    if all(key.endswith('attn.qkv.bias') for key in keys):
        part = 'backbone' if keys[0].startswith('backbone.') else 'head'
        return f'Set {part}.qkv_bias={keys[0] in state_dict} in the model.'
    return f'The file has {_describe(state_dict)}; the model has {_describe(target)}. Choose the model of that size.'


def _describe(state_dict: StateDict) -> str:
    width, _, *patch_size = state_dict['backbone.patch_embed.weight'].shape
    text = f'embed_dim={width}, depth={_depth("backbone.blocks.", state_dict)}, patch_size={tuple(patch_size)}'
    for prefix in _decoders(state_dict):
        weight = state_dict.get(f'{prefix}decoder_embed.weight')
        if weight is not None:
            text += f', {prefix}embed_dim={len(weight)}, {prefix}depth={_depth(f"{prefix}blocks.", state_dict)}'
    return text


def _decoder_words(state_dict: StateDict) -> str:
    decoders = [prefix.rstrip('.') for prefix in _decoders(state_dict)]
    if decoders == ['head']:
        return 'one shared decoder (head)'
    return f'one decoder per modality ({", ".join(decoders)})'


def _grouped(keys: Iterable[str]) -> str:
    """Keys counted by their first two names: 'backbone.pos_embed 1, backbone.blocks 144, norm 2'."""
    groups = ('.'.join(re.sub(r'\.(weight|bias)$', '', key).split('.')[:2]) for key in keys)
    return ', '.join(f'{group} {count}' for group, count in Counter(groups).items())
