"""Weights into a model: what fits is loaded, the rest is reported, and what cannot fit is refused with a remedy.

Published layouts are converted. Weights of an image ViT are *inflated* for a model of longer tubelets (`_inflated`). A
backbone with ``cls_token=True`` takes their class token; any other leaves it. Tokens can then no longer attend to it,
so features differ from those of the file until they are fine-tuned. (MAE's fine-tuning pools the other tokens, too.)
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from mmengine.logging import print_log
from mmengine.model import update_init_info
from torch import nn

from omnimae.registry import WEIGHT_INITIALIZERS
from omnimae.stopping import command_with
from omnimae.structures import HasPositions, unwrapped

from .files import is_run
from .label_maps import picked_head
from .layouts import (
    CLS_POSITION,
    CLS_TOKEN,
    GLOBAL_TOKENS,
    POOLED_NORM,
    POSITIONS,
    TASK_WEIGHTS,
    TOKEN_NORM,
    TOKENIZERS,
    StateDict,
)
from .translation import NATIVE, Checkpoint, listed, to_multimodal, to_plain

Sizes = tuple[int, int, int, float]  # embed_dim, depth, num_heads, mlp_ratio
WEIGHTS = {'ema': 'the average (EMA)', 'raw': 'raw, not averaged'}


class LoadReport(NamedTuple):
    """What happened to each tensor.

    Attributes:
        path: of the checkpoint.
        source: its layout, see ``recognise``.
        loaded: keys of the model that took their values from the file.
        left: keys of the file that the model does not take, by our names where they have one.
        initialised: keys of the model that keep their initial values.
        inflated: those of ``loaded`` that were repeated over time, see `_inflated`.
        fixed: keys of the model that hold constants which are not in the file.
        weights: see `Checkpoint.weights`.
    """

    path: str
    source: str
    loaded: tuple[str, ...]
    left: tuple[str, ...]
    initialised: tuple[str, ...]
    inflated: tuple[str, ...] = ()
    fixed: tuple[str, ...] = ()
    weights: str | None = None

    def __str__(self) -> str:
        parts = (
            ('loaded', self.loaded),
            ('of these inflated from images', self.inflated),
            ('fixed and not in the file', self.fixed),
            ('left in the file', self.left),
            ('freshly initialised', self.initialised),
        )
        kind = '' if self.weights is None else f', {WEIGHTS.get(self.weights, self.weights)}'
        return f'Weights from {self.path} (layout {self.source}{kind}): ' + '; '.join(
            f'{what} {len(keys)} tensors ({_grouped(keys)})' for what, keys in parts if keys
        )


def load_weights(
    model: nn.Module,
    checkpoint: str | os.PathLike | Checkpoint,
    *,
    complete: bool = False,
    label_map: str | Mapping[str, str] | None = None,
) -> LoadReport:
    """Load a checkpoint of any known layout into a model; log and return what was loaded, left and initialised.

    A pretraining model needs all of its tensors, except learned weights of tasks, with which it may begin anew. A
    classifier takes the backbone of a pretraining checkpoint or of an encoder, and leaves the decoder. It leaves the
    final norm, too, if its backbone has none (as the release does: the norm belongs to single tokens), or takes it as
    its own (``pretrained_norm``). From a classifier's checkpoint it takes everything but a head for other classes. A
    DensePredictor takes the backbone of all of these, and a classifier that of a DensePredictor. A model of several
    modalities and a plain ViT share the blocks and the tokenizer of 'rgb'.

    Args:
        model: a MaskedAutoencoder, a MultiMAE, a Classifier or a DensePredictor.
        checkpoint: path or address, see `Checkpoint.read`; or one that was read.
        complete: refuse a checkpoint that leaves weights of the model at their initial values. Results of testing and
            inference would be meaningless.
        label_map: which class of the file each class of the model is, see `read_label_map`. Then rows of a head for
            other classes are picked.

    Raises:
        ValueError: the file cannot be read, its layout is unknown, or its tensors do not fit the model.
    """
    given = checkpoint if isinstance(checkpoint, Checkpoint) else Checkpoint.read(checkpoint)
    model = unwrapped(model)
    target, backbone = Checkpoint(model.state_dict()), dict(model.named_children()).get('backbone')
    if backbone is None:
        raise ValueError(f'{given.path}: it is for a model, not for a {type(model).__name__}. Move init_cfg up to it.')
    # a classifier, or a FrozenBackbone of its features, has a norm after the pooling
    pool = getattr(backbone, 'pool', 'mean') if POOLED_NORM in target.tensors else 'mean'
    is_ours = bool(target.modalities) or isinstance(backbone, HasPositions)
    if not is_ours and given.layout is not None and not any(key.startswith('backbone.') for key in given.content):
        raise ValueError(
            f'{given.path}: has the layout {given.layout!r}, which has no names for a {type(backbone).__name__}. Give '
            'a checkpoint of a training with this backbone.'
        )
    if not is_ours and given.layout is not None:
        given = replace(given, layout=NATIVE)
    weights, left = given.translated(pool)
    weights, apart = _of_kind(Checkpoint(weights, given.path), target) if is_ours else (weights, ())
    weights = _with_cls_position(weights, target.tensors)
    has_positions = any('.pos_embed' in key for key in weights)
    fixed = () if has_positions else _restore_fixed_positions(model)
    target = Checkpoint({key: x for key, x in target.tensors.items() if key not in fixed})
    takes_norm = getattr(model, 'pretrained_norm', False)
    if takes_norm:
        weights = {re.sub(r'^backbone\.norm\.', 'norm.', key): x for key, x in weights.items()}
    if label_map is not None:
        weights |= picked_head(Checkpoint(weights, given.path), target, label_map)
    weights, inflated = _inflated(weights, target.tensors, model)
    file = Checkpoint(weights, given.path)
    wanted = _wanted(file, target, takes_norm, pretrains=hasattr(model, 'mask_generator'))
    _check_fit(wanted, file, target, getattr(backbone, 'architectures', {}))
    if complete:
        _check_complete(wanted, file, target, left, pool)
    model.load_state_dict({key: weights[key] for key in target.tensors if wanted(key)}, strict=False)
    report = LoadReport(
        path=given.path,
        source=str(given.layout),
        loaded=tuple(filter(wanted, target.tensors)),
        left=(*(key for key in weights if not wanted(key)), *apart, *left),
        initialised=tuple(key for key in target.tensors if not wanted(key)),
        inflated=inflated,
        fixed=fixed,
        weights=given.weights,
    )
    print_log(str(report), logger='current')
    return report


def _of_kind(file: Checkpoint, target: Checkpoint) -> tuple[StateDict, tuple[str, ...]]:
    """Weights of several modalities for a model of one, or the reverse: both have RGB -> weights, and other keys.

    The model's map of classes may have one class more than the file's, for pixels without a class. Its vector is zero.
    """
    for key, x in file.tensors.items():  # of which the code below needs the dimensions
        for ending, dims in (('.patch_embed.weight', '(D, C, pt, ph, pw)'), ('.pos_embed', '(1, N, D)')):
            if key.endswith(ending) and x.dim() != dims.count(',') + 1:
                raise ValueError(f'{file.path}: {key} has the shape {tuple(x.shape)} instead of {dims}.')
    if file.modalities and not target.modalities:
        if target.kind == 'pretraining':
            raise ValueError(
                f'{file.path}: holds a model of several modalities, whose decoders are others. Give a checkpoint of a '
                'MaskedAutoencoder, or a MultiMAE or a Classifier to load it into.'
            )
        weights, rest = to_plain(file.tensors)
    elif target.modalities and not file.modalities:
        weights, rest = to_multimodal(file.tensors)
    else:
        weights, rest = dict(file.tensors), []
        for key, x in file.tensors.items():
            if key.endswith('.class_embed.weight') and len(target.tensors.get(key, ())) == len(x) + 1:
                weights[key] = torch.cat([x, torch.zeros_like(x[:1])])
    return weights, tuple(rest)


def _with_cls_position(state_dict: StateDict, target: StateDict) -> StateDict:
    """Add the class token's position to the token if the model has none; make it zero if the file has none."""
    state_dict = dict(state_dict)
    if CLS_TOKEN not in state_dict or CLS_TOKEN not in target:
        return state_dict
    if CLS_POSITION in state_dict and CLS_POSITION not in target:
        state_dict[CLS_TOKEN] = state_dict[CLS_TOKEN] + state_dict.pop(CLS_POSITION)
    elif CLS_POSITION in target and CLS_POSITION not in state_dict and POSITIONS in target:
        state_dict[CLS_POSITION] = torch.zeros_like(state_dict[CLS_TOKEN])
    return state_dict


@torch.no_grad()
def _restore_fixed_positions(model: nn.Module) -> tuple[str, ...]:
    """Reset the model's fixed positions to their first values, because the file has none -> their keys."""
    fixed = []
    for key in model.state_dict():
        part = model.get_submodule(key.rpartition('.')[0])
        if not key.endswith('.pos_embed') or not isinstance(part, HasPositions):
            continue
        if (positions := part.fixed_positions()) is not None:
            model.state_dict()[key].copy_(positions)
            fixed.append(key)
    return tuple(fixed)


def _inflated(weights: StateDict, target: StateDict, model: nn.Module) -> tuple[StateDict, tuple[str, ...]]:
    """Extend weights of one-frame patches to the model's tubelets -> weights, and the keys that changed.

    The kernel is repeated over the tubelet and divided by its length (I3D, arXiv:1705.07750), so that a tubelet that
    does not move gives the activations of the image.

    The positions at time step t are those of the image, plus the change of our fixed sinusoids from step 0 to t. So
    images and the first step have exactly the positions of the image model. Without the second term the model could
    not tell the order of tubelets, since the table is not trained. (Our choice: the release has no code for it, and
    MAE-ST's learned positions in time need a trained table.)
    """
    inflated = {}
    for key in [key for key in target if key.endswith('.patch_embed.weight') and key in weights]:
        prefix, kernel, tubelet = key.removesuffix('patch_embed.weight'), weights[key], target[key].shape[2]
        part = model.get_submodule(prefix.removesuffix('.'))
        if not isinstance(part, HasPositions) or kernel.shape[2] != 1 or tubelet == 1:
            continue  # of a backbone from outside, or of patches as long
        inflated[key] = kernel.expand(-1, -1, tubelet, -1, -1) / tubelet
        grid, table = part.grid, weights.get(f'{prefix}pos_embed')
        positions = part.fixed_positions()  # the model's own may be those of weights that it was given before
        if positions is None or table is None or grid.t == 1:
            continue
        if table.shape[1:] != (grid.h * grid.w, positions.shape[2]):
            continue
        if prefix.startswith(TOKENIZERS):
            positions = positions[:, :: grid.h * grid.w]  # one place at every time step
        steps = (positions[0, : grid.t] - positions[0, :1]).cpu()
        inflated[f'{prefix}pos_embed'] = (table + steps[:, None]).flatten(0, 1)[None]
    return {**weights, **inflated}, tuple(inflated)


def _wanted(file: Checkpoint, target: Checkpoint, takes_norm: bool, *, pretrains: bool) -> Callable[[str], bool]:
    """Which keys, of file and model alike, must be in both."""
    theirs, ours = file.tensors, target.tensors
    heads = [{key for key in side if key.startswith('head.')} for side in (theirs, ours)]
    apart = tuple(f'{TOKENIZERS}{name}.' for name in file.modalities ^ target.modalities)
    if target.modalities and file.kind == 'encoder':  # perhaps of a plain ViT, which has no global token
        apart = (*apart, *({GLOBAL_TOKENS} - theirs.keys()))
        return lambda key: key.startswith('backbone.') and not key.startswith(apart)
    if pretrains:
        if file.kind != 'pretraining' and (POOLED_NORM in theirs or not set.intersection(*heads)):
            kind = 'an encoder alone' if file.kind == 'encoder' else 'a classifier'
            raise ValueError(
                f'{file.path}: holds {kind}, which has no decoder. Give a checkpoint of pretraining, or a Classifier '
                'to load it into.'
            )
        return lambda key: not key.startswith(TASK_WEIGHTS) or (key in theirs and key in ours)
    is_probe = TOKEN_NORM in theirs and TOKEN_NORM not in ours
    loses_token = CLS_TOKEN in theirs and CLS_TOKEN not in ours  # and with it what was trained on top
    # the norm of a classifier is of pooled features, that of a DensePredictor of tokens
    is_other_head = all(heads) and (POOLED_NORM in theirs) != (POOLED_NORM in ours)
    if file.kind in ('pretraining', 'encoder') or is_probe or loses_token or is_other_head:
        cls_keys = {CLS_TOKEN, CLS_POSITION} - ours.keys()
        unwanted = (*(() if TOKEN_NORM in ours else ('backbone.norm.',)), *cls_keys, *apart)
        wanted = ('backbone.', 'norm.') if takes_norm else 'backbone.'
        return lambda key: key.startswith(wanted) and not key.startswith(unwanted)
    head = set.union(*heads)
    if all(key in theirs and key in ours and theirs[key].shape == ours[key].shape for key in head):
        return lambda key: True
    return lambda key: key not in head


def _check_fit(
    wanted: Callable[[str], bool], file: Checkpoint, target: Checkpoint, architectures: Mapping[str, Sizes]
) -> None:
    theirs, ours = file.tensors, target.tensors
    if {file.kind, target.kind} == {'pretraining'} and file.decoders != target.decoders:
        raise ValueError(
            f'{file.path}: its decoders are {listed(file.decoders)}, those of the model {listed(target.decoders)}. '
            "Give the model what the file has: head=dict(type='MAEHead', ...) is one for all modalities, "
            'head=dict(image=..., video=...) one for each.'
        )
    missing = [key for key in ours if wanted(key) and key not in theirs]
    unexpected = [key for key in theirs if wanted(key) and key not in ours]
    resized = [key for key in ours if wanted(key) and key in theirs and theirs[key].shape != ours[key].shape]
    faults = []
    if resized:
        key, here, there = resized[0], *(tuple(x[resized[0]].shape) for x in (theirs, ours))
        faults.append(f'{key} is {here} in the file and {there} in the model ({len(resized)} tensors differ in size).')
    if missing:
        faults.append(f'The file lacks {listed(missing)}.')
    if unexpected:
        faults.append(f'The model has no place for {listed(unexpected)}.')
    if faults:
        remedy = _remedy(file, target, [*resized, *missing, *unexpected], architectures)
        raise ValueError(f'{file.path} does not fit the model. {" ".join(faults)} {remedy}')


def _check_complete(
    wanted: Callable[[str], bool], file: Checkpoint, target: Checkpoint, left: tuple[str, ...], pool: str
) -> None:
    initial = [key for key in target.tensors if not wanted(key)]
    if not initial:
        return
    if 'head.weight' in left and 'head.weight' in target.tensors:
        if CLS_TOKEN not in file.tensors:
            raise ValueError(
                f"{file.path}: its head reads the first patch alone (VideoMAE's use_mean_pooling=False), which no "
                'model of ours does. Fine-tune a classifier from it, which leaves this head.'
            )
        reads, other = ('class token', 'cls') if pool == 'mean' else ('mean of the patches', 'mean')
        options = [f'backbone.pool={other}', *(['backbone.cls_token=True'] if other == 'cls' else [])]
        raise ValueError(f'{file.path}: its head reads the {reads}, and the model has pool={pool!r}. {_set(*options)}')
    heads = [len(side.tensors['head.weight']) for side in (file, target) if 'head.weight' in side.tensors]
    if len({*heads}) == 2 and file.kind != 'pretraining':
        raise ValueError(
            f'{file.path} has a head for {heads[0]} classes, and the model has num_classes={heads[1]}. Give the config '
            f'that the checkpoint was trained with, or set model.num_classes={heads[0]}.'
        )
    raise ValueError(
        f'{file.path} has no values for {listed(initial, 4)}, so the results of this model would be meaningless. Give '
        'the checkpoint of a training with this config.'
    )


def _remedy(file: Checkpoint, target: Checkpoint, keys: list[str], architectures: Mapping[str, Sizes]) -> str:
    """Name the setting that explains all of these keys, or else the sizes of both sides."""
    theirs, ours = file.tensors, target.tensors

    def all_match(pattern: str) -> bool:
        return all(re.fullmatch(pattern, key) for key in keys)

    if all_match(r'.*\.pos_embed\w*') and ours.keys() & theirs.keys() >= {*keys}:
        tokens = f' ({theirs[keys[0]].shape[1]} tokens)' if all_match(r'.*\.pos_embed') else ''
        return (
            f'Set clip_size to the one the checkpoint was made for{tokens}: clips of any other size work then too, '
            'with interpolated positions.'
        )
    options = _options(file, target, architectures)
    if POOLED_NORM in theirs and (TOKEN_NORM in ours or POOLED_NORM in keys):
        return f"It is a classifier's, whose norm follows the pooling. {_set('norm=pooled', *options)}"
    if all_match(r'.*\.pos_embed\w*') and not all_match(r'.*\.pos_embed'):
        return 'Their positions are of another kind. Set backbone.positions and head.positions to that of the file.'
    if 'head.cls_token' in keys:
        return f'Set head.cls_token={"head.cls_token" in theirs} in the model, and head.positions as in the file.'
    if any(key.endswith('attn.kv.weight') for key in keys):
        kinds = 'CrossMAEHead', 'MAEHead'
        ours_first = any(key.endswith('attn.kv.weight') for key in ours)
        return f"The decoders are of two kinds. Set head.type='{kinds[ours_first]}' in the model."
    if all_match(r'.*(decoder_embed\.bias|mask_token|pos_embed)') and not all_match(r'.*pos_embed'):
        return "The mask token is at another width. See head.tokens: 'encoder' (OmniMAE) or 'decoder' (VideoMAE)."
    settings = {
        'backbone.final_norm': r'backbone\.norm\..*',
        'backbone.cls_token': r'backbone\.cls_token|.*\.pos_embed_cls',
        'backbone.qkv_bias': r'backbone\..*attn\.qkv\.bias',
        'head.qkv_bias': r'head\..*attn\.(qkv|q|kv)\.bias',
    }
    for setting, pattern in settings.items():
        if all_match(pattern):
            option = f'{setting}={keys[0] in theirs}'
            return _set(option) if setting.startswith('backbone.') else f'Set {option} in the model.'
    here, there = _describe(file), _describe(target)
    if here == there:
        return f'Both have {here}, but other parts. Give the config that the file was trained with.'
    folder = os.path.dirname(file.path)
    config = f', or the config in {folder}' if is_run(Path(folder)) else ''
    advice = _set(*options) if options else f'Choose the model of that size{config}.'
    return f'The file has {here}; the model has {there}. {advice}'


def _set(*options: str) -> str:
    """Advise options of the model."""
    return f'Run {command_with("--cfg-options", *(f"model.{option}" for option in options))}'


def _options(file: Checkpoint, target: Checkpoint, architectures: Mapping[str, Sizes]) -> list[str]:
    """What gives the backbone of a config the sizes of the file. Nothing if that is not all, or they have no name."""
    kernels = [side.tensors.get('backbone.patch_embed.weight') for side in (file, target)]
    if target.decoders or any(kernel is None or kernel.dim() != 5 for kernel in kernels):
        return []
    sizes, patches = [], []
    for side, kernel in zip((file, target), kernels, strict=True):
        width, _, *patch = kernel.shape  # type: ignore[union-attr]
        sizes.append((width, side.depth()))
        patches.append(','.join(map(str, patch)))
    name = next((name for name, size in architectures.items() if size[:2] == sizes[0]), None)
    if name is None:
        return []
    options = [f'backbone.arch={name}'] if sizes[0] != sizes[1] else []
    return options + ([f'backbone.patch_size={patches[0]}'] if patches[0] != patches[1] else [])


def _describe(side: Checkpoint) -> str:
    kernels = [x for key, x in side.tensors.items() if key.endswith('.patch_embed.weight') and x.dim() == 5]
    if not kernels:
        return _grouped(key for key in side.tensors if key.startswith('backbone.')) or 'no backbone'
    width, _, *patch_size = kernels[0].shape
    text = f'embed_dim={width}, depth={side.depth()}, patch_size={tuple(patch_size)}'
    for prefix in side.decoders:
        weight = side.tensors.get(f'{prefix}norm.weight')
        if weight is not None:
            text += f', {prefix}embed_dim={len(weight)}, {prefix}depth={side.depth(prefix)}'
    return text


def _grouped(keys: Iterable[str]) -> str:
    """Keys counted by their first two names: 'backbone.pos_embed 1, backbone.blocks 144, norm 2'."""
    groups = ('.'.join(re.sub(r'\.(weight|bias)$', '', key).split('.')[:2]) for key in keys)
    return ', '.join(f'{group} {count}' for group, count in Counter(groups).items())


@WEIGHT_INITIALIZERS.register_module(name=['Checkpoint', 'Pretrained'])
class CheckpointInit:
    """Start a model from a checkpoint: ``init_cfg=dict(type='Checkpoint', checkpoint=PATH)`` on the model.

    It converts published layouts, and refuses what does not fit. It replaces MMEngine's 'Pretrained', which silently
    ignores keys with other names.

    Args:
        checkpoint: path or http(s) address, see ``load_weights``.
        label_map: for a classifier that takes over a head for other classes, see `read_label_map`.
    """

    def __init__(self, *, checkpoint: str, label_map: str | dict[str, str] | None = None):
        self.checkpoint = checkpoint
        self.label_map = label_map

    def __call__(self, module: nn.Module) -> None:
        # MMEngine initialises the children after any initializer but its own 'Pretrained'; they have to come first
        child: Any  # a Module, which need not be MMEngine's
        for child in module.children():
            if hasattr(child, 'init_weights') and not getattr(child, 'is_init', False):
                child.init_weights()
                child.is_init = True
        load_weights(module, self.checkpoint, label_map=self.label_map)
        if hasattr(module, '_params_init_info'):
            update_init_info(module, init_info=f'Checkpoint: {self.checkpoint}')
