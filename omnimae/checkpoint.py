"""Checkpoints: reading and writing them safely, loading them into a model.

Published layouts are converted on the way (`omnimae.layouts`). Weights of an image ViT loaded into a model of longer
tubelets are *inflated* (`inflate`). A backbone with ``cls_token=True`` takes their class token; any other leaves it:
tokens can no longer attend to it, so features differ from those of the file until they are fine-tuned. (MAE's
fine-tuning pools the other tokens, too.)
"""

from __future__ import annotations

import argparse
import difflib
import hashlib
import json
import os
import pickle
import re
import secrets
import zipfile
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlparse

import safetensors.torch
import torch
from mmengine.dist import barrier, get_rank
from mmengine.logging import print_log
from mmengine.model import update_init_info
from mmengine.runner.checkpoint import (
    _get_mmengine_home,
    get_deprecated_model_names,
    get_external_models,
    get_mmcls_models,
    get_torchvision_models,
)
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from omnimae.layouts import (
    CLS_POSITION,
    CLS_TOKEN,
    GLOBAL_TOKENS,
    NATIVE,
    OF_COLOURS,
    OF_PLAIN,
    POSITIONS,
    TASK_WEIGHTS,
    TOKENIZERS,
    WRAPPERS,
    StateDict,
    as_modality,
    decoder_prefixes,
    is_encoder,
    is_multimodal,
    is_pretraining,
    listed,
    modalities_of,
    num_blocks,
    recognise,
    take_modality,
    translate,
    unwrap,
)
from omnimae.layouts import convert as convert  # users look for it here
from omnimae.registry import FUNCTIONS, WEIGHT_INITIALIZERS
from omnimae.structures import Grid, HasPositions, unwrapped

# ---------------------------------------------------------------------------------------------------------------------
# Files

# Beginnings of MMEngine's names of published weights -> their addresses.
CATALOGUES: dict[str, Callable[[], dict[str, str]]] = {
    **dict.fromkeys(('torchvision', 'modelzoo'), get_torchvision_models),
    **dict.fromkeys(('open-mmlab', 'openmmlab'), get_external_models),
    'mmcls': get_mmcls_models,
}


def load_file(path: str | os.PathLike) -> tuple[StateDict, dict]:
    """Read a checkpoint -> its tensors by name, and what else it says of itself.

    The file may be .safetensors or any file of ``torch.save``, or the address of one. Tensors are mapped
    from the file, not copied, where the format allows it. Files of MMEngine (``state_dict``), of the trainers of
    OmniMAE, MAE and VideoMAE (``model``) and of DeepSpeed (``module``) are unwrapped. MMEngine stores averaged weights
    as ``state_dict`` when an EMA hook was active; ``meta['weights']`` says 'ema' or 'raw'.

    Raises:
        ValueError: no such file, not a checkpoint, or one that holds more than tensors and plain values: such a file
            could run code while it is read, and is refused.
    """
    path = str(path)
    with local_file(path) as local:
        if not os.path.isfile(local):
            raise ValueError(f'{path}: no such checkpoint file. Check the path.')
        if path.endswith('.safetensors'):
            return _load_safetensors(local)
        content = _load_pickle(local)
    state_dict = unwrap(content)
    if not state_dict or not all(isinstance(value, Tensor) for value in state_dict.values()):
        raise ValueError(f'{path}: holds no tensors by name, neither at the top nor under {", ".join(WRAPPERS)}.')
    meta = content.get('meta')
    meta = dict(meta) if isinstance(meta, dict) else {}
    if 'state_dict' in content:
        meta.setdefault('weights', 'ema' if 'ema_state_dict' in content else 'raw')
    return dict(state_dict), meta


@contextmanager
def local_file(path: str) -> Iterator[str]:
    """A path as it is; of http(s) that of a copy that stays, of another storage (``s3://``) that of one for a while."""
    path = _address(path)
    if '://' not in path or path.startswith(('http://', 'https://')):
        yield _local(path)
        return
    with ExitStack() as fetching:
        try:
            copy = fetching.enter_context(FUNCTIONS.get('find_backend')(path).get_local_path(path))
        except (OSError, ImportError) as error:
            raise ValueError(f'{path}: cannot be fetched ({error}). Check the address, and its credentials.') from error
        yield str(copy)


def _address(path: str) -> str:
    """What MMEngine's names of published weights, such as ``torchvision://vit_b_16``, stand for."""
    scheme, _, name = path.partition('://')
    if scheme not in CATALOGUES:
        return path
    addresses = CATALOGUES[scheme]()
    name = get_deprecated_model_names().get(name, name) if scheme.startswith('open') else name
    if name not in addresses:
        near = difflib.get_close_matches(name, addresses, 1)
        raise ValueError(f'{path}: {scheme} has no weights of that name.' + (f' Near is {near[0]}.' if near else ''))
    address = addresses[name]
    return address if '://' in address else os.path.join(_get_mmengine_home(), address)


def stored_classes(path: str | os.PathLike) -> tuple[tuple[str, ...], ...]:
    """Names of the classes that a checkpoint of ours was trained on: of each source of a Runner's that knows them."""
    _, meta = load_file(path)
    if 'classes' in meta:  # of exported weights
        return (tuple(json.loads(meta['classes'])),)
    stored = meta.get('dataset_meta')
    return tuple(tuple(names) for names in stored.values() if names) if isinstance(stored, dict) else ()


@contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
    """Give a name beside ``path`` to write to; afterwards the file, whole and on the disk, takes the place of ``path``.

    Raises:
        OSError: it could not be written. What was at ``path`` before is still there.
    """
    path = Path(path)
    unfinished = path.with_name(f'{path.name}.{secrets.token_hex(4)}.tmp')  # nobody else's
    try:
        unfinished.touch()
        mode = unfinished.stat().st_mode  # as the umask says; safetensors gives files to their owner alone
        yield unfinished
        if unfinished.stat().st_mode != mode:
            unfinished.chmod(mode)
        _to_disk(unfinished)
        os.replace(unfinished, path)
        _to_disk(path.parent)  # the new name, too
    except (OSError, RuntimeError) as error:  # torch's writer turns a full disk into a RuntimeError
        reason = str(error.strerror if isinstance(error, OSError) else error).splitlines()[0]
        raise OSError(
            f'{path} could not be written: {reason}. What was there before is whole. See that the folder has room and '
            'can be written to.'
        ) from error
    finally:
        with suppress(OSError):
            unfinished.unlink()


def _to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def save_file(state_dict: Mapping[str, Tensor], path: str | os.PathLike, meta: Mapping[str, str]) -> None:
    """Write weights and a few words about them, as .safetensors or else as a file of torch; never half a file."""
    path = Path(path)
    if not path.parent.is_dir():
        raise ValueError(f'{path}: the folder {path.parent} does not exist. Create it first.')
    with replacing(path) as unfinished:
        if path.suffix == '.safetensors':
            # the format wants every tensor whole and in storage of its own
            whole = {key: x.detach().clone(memory_format=torch.contiguous_format) for key, x in state_dict.items()}
            safetensors.torch.save_file(whole, unfinished, dict(meta))
        else:
            torch.save(dict(state_dict=dict(state_dict), meta=dict(meta)), unfinished)


def _local(path: str) -> str:
    """Give a path back; download an http(s) address, once, into torch's folder for checkpoints."""
    address = urlparse(path)
    if address.scheme not in ('http', 'https'):
        return path
    folder = os.path.join(torch.hub.get_dir(), 'checkpoints')
    # Hugging Face calls every file model.safetensors; the address tells them apart
    stem, suffix = os.path.splitext(os.path.basename(address.path))
    target = os.path.join(folder, f'{stem}-{hashlib.sha256(path.encode()).hexdigest()[:8]}{suffix}')
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
        # MAE's and VideoMAE's trainers store their command line along, a plain container of values
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(path, map_location='cpu', weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        if not _starts_like_a_pickle(path):
            raise ValueError(f'{path}: not a checkpoint, neither of torch.save nor .safetensors.') from error
        raise ValueError(
            f'{path}: refused, because it holds more than tensors and plain values and could run code when read '
            f'({_first_line(error)}). Where you trust it, save its state dict alone with torch.save and give that file.'
        ) from error
    except Exception as error:  # whatever broken bytes lead torch to
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
# Into a model


WEIGHTS = {'ema': 'the average (EMA)', 'raw': 'raw, not averaged'}


class LoadReport(NamedTuple):
    """What happened to each tensor.

    Attributes:
        path: of the checkpoint.
        source: its layout, see ``recognise``.
        loaded: keys of the model that took their values from the file.
        left: keys of the file (under our names where they have one) that the model does not take.
        initialised: keys of the model that keep their initial values.
        inflated: those of ``loaded`` that were repeated over time, see `inflate`.
        fixed: keys of the model that hold constants which the file does not.
        weights: 'ema' for averaged ones, 'raw' for others; None where the file does not say.
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
    path: str | os.PathLike,
    *,
    complete: bool = False,
    label_map: str | Mapping[str, str] | None = None,
) -> LoadReport:
    """Load a checkpoint of any known layout into a model; logs and returns what was loaded, left and initialised.

    A pretraining model needs every tensor of it, but for learned weights of tasks, with which it may begin anew. A
    classifier takes the backbone of a pretraining checkpoint or of an encoder and leaves the decoder, and the final
    norm where its backbone has none (as the release does; the norm belongs to single tokens) unless it wants it as its
    own (``pretrained_norm``); of a classifier's checkpoint it takes everything, but leaves a head for other classes. A
    DensePredictor takes the backbone of all of these, and a classifier that of a DensePredictor. Between a model of
    several modalities and a plain ViT the blocks and the tokenizer of 'rgb' are what both have.

    Args:
        model: a MaskedAutoencoder, a MultiMAE, a Classifier or a DensePredictor.
        path: see `load_file`.
        complete: refuse a checkpoint that leaves weights of the model at their initial values; results of testing and
            inference would be meaningless.
        label_map: which class of the file each class of the model is: then a head for other classes is not left, but
            its rows are picked, see `read_label_map`.

    Raises:
        ValueError: the file cannot be read, its layout is unknown, or its tensors do not fit the model.
    """
    content, meta = load_file(path)
    model = unwrapped(model)
    target, backbone = model.state_dict(), dict(model.named_children()).get('backbone')
    if backbone is None:
        raise ValueError(f'{path}: a checkpoint fills a model, not a {type(model).__name__}. Move init_cfg up to it.')
    # what has a norm behind the pooling is a classifier, or looks at one
    pool = getattr(backbone, 'pool', 'mean') if 'norm.weight' in target else 'mean'
    is_ours, source = is_multimodal(target) or isinstance(backbone, HasPositions), recognise(content)
    if not is_ours and any(key.startswith('backbone.') for key in content):
        source = NATIVE
    elif not is_ours and source is not None:
        raise ValueError(
            f'{path}: has the layout {source!r}, which has no names for a {type(backbone).__name__}. Give a checkpoint '
            'of a training with this backbone.'
        )
    state_dict, left = _translate(content, path, pool, source)
    apart: tuple[str, ...] = ()
    if is_ours:
        _check_kind(state_dict, target, path)
        state_dict, apart = _of_kind(state_dict, target)
    state_dict = _with_cls_position(state_dict, target)
    has_positions = any('.pos_embed' in key for key in state_dict)
    fixed = () if has_positions else _restore_fixed_positions(model)
    target = {key: x for key, x in target.items() if key not in fixed}
    takes_norm = getattr(model, 'pretrained_norm', False)
    if takes_norm:
        state_dict = {re.sub(r'^backbone\.norm\.', 'norm.', key): x for key, x in state_dict.items()}
    if label_map is not None:
        state_dict = _with_picked_head(state_dict, target, label_map, path)
    state_dict, inflated = _inflate_all(state_dict, target, model)
    wanted = _wanted(state_dict, target, path, takes_norm, pretrains=hasattr(model, 'mask_generator'))
    _check_fit(wanted, target, state_dict, path)
    if complete:
        _check_complete(wanted, target, state_dict, path, left, pool)
    model.load_state_dict({key: state_dict[key] for key in target if wanted(key)}, strict=False)
    report = LoadReport(
        path=str(path),
        source=str(source),
        loaded=tuple(filter(wanted, target)),
        left=(*(key for key in state_dict if not wanted(key)), *apart, *left),
        initialised=tuple(key for key in target if not wanted(key)),
        inflated=inflated,
        fixed=fixed,
        weights=meta.get('weights'),
    )
    print_log(str(report), logger='current')
    return report


def _translate(
    content: StateDict, path: str | os.PathLike, pool: str, source: str | None
) -> tuple[StateDict, tuple[str, ...]]:
    """Tensors of a file in our layout, and the keys that have no place there."""
    try:
        state_dict, left = translate(content, source, pool)
    except ValueError as error:
        raise ValueError(f'{path}: {error}') from error
    for key, x in state_dict.items():  # what is taken apart later
        for ending, dims in (('.patch_embed.weight', '(D, C, pt, ph, pw)'), ('.pos_embed', '(1, N, D)')):
            if key.endswith(ending) and x.dim() != dims.count(',') + 1:
                raise ValueError(f'{path}: {key} has the shape {tuple(x.shape)} instead of {dims}.')
    return state_dict, left


def _check_kind(state_dict: StateDict, target: StateDict, path: str | os.PathLike) -> None:
    if is_multimodal(state_dict) and is_pretraining(target) and not is_multimodal(target):
        raise ValueError(
            f'{path}: holds a model of several modalities, whose decoders are others. Give a checkpoint of a '
            'MaskedAutoencoder, or a MultiMAE or a Classifier to load it into.'
        )


def _with_cls_position(state_dict: StateDict, target: StateDict) -> StateDict:
    """The class token's position goes into the token where the model has none, and is zero where the file has none."""
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
    """The file has no positions: set the model's fixed ones to what they begin with -> their keys."""
    fixed = []
    for key in model.state_dict():
        part = model.get_submodule(key.rpartition('.')[0])
        if not key.endswith('.pos_embed') or not isinstance(part, HasPositions):
            continue
        if (positions := part.fixed_positions()) is not None:
            model.state_dict()[key].copy_(positions)
            fixed.append(key)
    return tuple(fixed)


def _of_kind(state_dict: StateDict, target: StateDict) -> tuple[StateDict, tuple[str, ...]]:
    """Weights of several modalities for a model of one, and the other way round: its colours are what both have.

    With them come the keys of all else. A model may tell one class more apart than the file, that of pixels without
    one: its vector is zero.
    """
    if is_multimodal(state_dict) and not is_multimodal(target):
        return take_modality(state_dict), tuple(key for key in state_dict if not key.startswith(OF_COLOURS))
    if is_multimodal(target) and not is_multimodal(state_dict):
        return as_modality(state_dict), tuple(key for key in state_dict if not key.startswith(OF_PLAIN))
    padded = dict(state_dict)
    for key, x in state_dict.items():
        if key.endswith('.class_embed.weight') and key in target and len(target[key]) == len(x) + 1:
            padded[key] = torch.cat([x, torch.zeros_like(x[:1])])
    return padded, ()


def _inflate_all(state_dict: StateDict, target: StateDict, model: nn.Module) -> tuple[StateDict, tuple[str, ...]]:
    """`inflate` every patch embedding that both have."""
    inflated: tuple[str, ...] = ()
    for key in [key for key in target if key.endswith('.patch_embed.weight') and key in state_dict]:
        prefix = key.removesuffix('patch_embed.weight')
        part = model.get_submodule(prefix.removesuffix('.'))
        if not isinstance(part, HasPositions):  # of a backbone from outside
            continue
        positions = part.fixed_positions()  # the model's own may be those of weights that it was given before
        if prefix.startswith(TOKENIZERS) and positions is not None:
            positions = positions[:, :: part.grid.h * part.grid.w]  # one place at every time step
        state_dict, keys = inflate(state_dict, target[key].shape[2], part.grid, positions, prefix)
        inflated += keys
    return state_dict, inflated


def inflate(
    state_dict: StateDict, tubelet: int, grid: Grid, positions: Tensor | None, prefix: str = 'backbone.'
) -> tuple[StateDict, tuple[str, ...]]:
    """Let a model of one-frame patches start one of ``tubelet`` frames: -> weights, and the keys that changed.

    The kernel is repeated over the tubelet and divided by its length (I3D, arXiv:1705.07750), so that a tubelet that
    does not move gives the activations that the image gave.

    The positions at time step t are those of the image, plus what our fixed sinusoids change from step 0 to t. Images
    and the first step meet exactly the positions of the image model. Without the second term a clip and the same clip
    in another order of its tubelets would be one to the model, for ever, since the table is not trained. (Our choice:
    the release has no code for it, and MAE-ST's learned positions in time need a table that is.)

    Args:
        state_dict: of our layout.
        tubelet: frames of the model's patches.
        grid: of the clips that the model's position table is made for.
        positions: (1, N, D), the fixed sinusoids, with which a new model begins; None where it learns them.
        prefix: of the names of kernel and positions.
    """
    inflated = {}
    kernel, table = state_dict[f'{prefix}patch_embed.weight'], state_dict.get(f'{prefix}pos_embed')
    if kernel.shape[2] == 1 and tubelet > 1:
        inflated[f'{prefix}patch_embed.weight'] = kernel.expand(-1, -1, tubelet, -1, -1) / tubelet
        if (
            table is not None
            and positions is not None
            and grid.t > 1
            and table.shape[1] == grid.h * grid.w
            and table.shape[2] == positions.shape[2]
        ):
            steps = (positions[0, : grid.t] - positions[0, :1]).cpu()
            inflated[f'{prefix}pos_embed'] = (table + steps[:, None]).flatten(0, 1)[None]
    return {**state_dict, **inflated}, tuple(inflated)


def read_label_map(label_map: str | Mapping[str, str]) -> list[int]:
    """Say which class of a checkpoint each class of a model is: an index for each of the model's classes, in order.

    Args:
        label_map: a JSON file with that list, as VideoMAE V2 has them for its 710 classes; or files of class names, one
            a line in the order of the labels, ``dict(source=..., target=...)`` for those of the checkpoint and of the
            model, and with ``renamed`` a JSON file of {name in target: name in source} for those that differ.

    Raises:
        ValueError: a file that is missing or holds something else, or a class that the checkpoint does not have.
    """
    if isinstance(label_map, str):
        rows = _read_json(label_map)
        if not isinstance(rows, list) or not rows or not all(type(row) is int for row in rows):
            raise ValueError(
                f'label_map={label_map!r} holds no list of class indices. Give one, or two lists of names.'
            )
        return rows
    if not {'source', 'target'} <= label_map.keys() <= {'source', 'target', 'renamed'}:
        raise ValueError(f'label_map has the keys {sorted(label_map)}. Give source and target, and renamed if needed.')
    source, target = (_read_names(label_map[key]) for key in ('source', 'target'))
    renamed = _read_json(label_map['renamed']) if 'renamed' in label_map else {}
    if not isinstance(renamed, dict):
        raise ValueError(f'label_map.renamed={label_map["renamed"]!r} holds no names by name. Give {{target: source}}.')
    index = {name: row for row, name in enumerate(source)}
    names = [name if name in index else renamed.get(name, name) for name in target]
    if missing := [name for name in names if name not in index]:
        raise ValueError(
            f'{label_map["source"]} has no class {missing[0]!r} ({len(missing)} of {len(names)} are missing), which '
            f'{label_map["target"]} has. Correct the lists, or name what differs in label_map.renamed.'
        )
    return [index[name] for name in names]


def _read_names(path: str) -> list[str]:
    if not os.path.isfile(path):
        raise ValueError(f'label_map: {path} does not exist. Give a file with one class name a line.')
    return [line.strip() for line in Path(path).read_text(encoding='utf-8').split('\n') if line.strip()]


def _read_json(path: str) -> Any:
    try:
        return json.loads(Path(path).read_text(encoding='utf-8'))
    except (OSError, ValueError) as error:
        raise ValueError(f'label_map: {path} is no readable JSON file ({_first_line(error)}). Correct it.') from None


def _with_picked_head(
    state_dict: StateDict, target: StateDict, label_map: str | Mapping[str, str], path: str | os.PathLike
) -> StateDict:
    """Pick the rows of the head that the model's classes are."""
    if 'head.weight' not in target or is_pretraining(target):
        raise ValueError('label_map is for the head of a Classifier, and this model has none. Leave it out.')
    if 'head.weight' not in state_dict or is_pretraining(state_dict):
        raise ValueError(
            f'{path}: holds no classifier, so label_map has no head to pick from. Give the checkpoint of a '
            'fine-tuning, or leave label_map out.'
        )
    rows, num_classes, num_rows = read_label_map(label_map), len(target['head.weight']), len(state_dict['head.weight'])
    if len(rows) != num_classes:
        raise ValueError(
            f'label_map={label_map!r} is for {len(rows)} classes, and the model has num_classes={num_classes}. Give '
            'the map to those.'
        )
    for number, row in enumerate(rows):
        if not 0 <= row < num_rows:
            raise ValueError(
                f'label_map={label_map!r}: class {number} is class {row} of the checkpoint, and {path} has a head for '
                f'{num_rows}, counted from 0. Give the checkpoint and the map that belong together.'
            )
    return state_dict | {key: state_dict[key][rows] for key in ('head.weight', 'head.bias')}


def _head_keys(keys: Iterable[str]) -> set[str]:
    return {key for key in keys if key.startswith('head.')}


@WEIGHT_INITIALIZERS.register_module(name=['Checkpoint', 'Pretrained'])
class CheckpointInit:
    """Start a model from a checkpoint: ``init_cfg=dict(type='Checkpoint', checkpoint=PATH)`` on the model.

    It converts published layouts, and refuses what does not fit. It takes the place of MMEngine's 'Pretrained', which
    leaves out in silence what has another name.

    Args:
        checkpoint: path or http(s) address, see ``load_weights``.
        label_map: for a classifier that begins with the head of another, see `read_label_map`.
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


def _wanted(
    state_dict: StateDict, target: StateDict, path: str | os.PathLike, takes_norm: bool, *, pretrains: bool
) -> Callable[[str], bool]:
    """Which keys, of file and model alike, have to meet."""
    head = _head_keys(chain(state_dict, target))
    heads = [_head_keys(keys) for keys in (state_dict, target)]
    apart = tuple(f'{TOKENIZERS}{name}.' for name in modalities_of(state_dict) ^ modalities_of(target))
    if is_multimodal(target) and is_encoder(state_dict):  # perhaps of a plain ViT, which has no global token
        apart = (*apart, *({GLOBAL_TOKENS} - state_dict.keys()))
        return lambda key: key.startswith('backbone.') and not key.startswith(apart)
    if pretrains:
        if not is_pretraining(state_dict) and ('norm.weight' in state_dict or not set.intersection(*heads)):
            kind = 'an encoder alone' if is_encoder(state_dict) else 'a classifier'
            raise ValueError(
                f'{path}: holds {kind}, which has no decoder. Give a checkpoint of pretraining, or a Classifier to '
                'load it into.'
            )
        return lambda key: not key.startswith(TASK_WEIGHTS) or (key in state_dict and key in target)
    token_norm = 'backbone.norm.weight'  # in pretraining and in what is frozen; a Classifier has it behind the pooling
    is_probe = token_norm in state_dict and token_norm not in target
    loses_token = CLS_TOKEN in state_dict and CLS_TOKEN not in target  # and with it what was trained on top
    # a classifier's stands on a norm, one for maps on tokens
    has_other_norm = ('norm.weight' in state_dict) != ('norm.weight' in target)
    is_other_head = all(heads) and has_other_norm
    if is_pretraining(state_dict) or is_encoder(state_dict) or is_probe or loses_token or is_other_head:
        cls_keys = {CLS_TOKEN, CLS_POSITION} - target.keys()
        unwanted = (*(() if token_norm in target else ('backbone.norm.',)), *cls_keys, *apart)
        wanted = ('backbone.', 'norm.') if takes_norm else 'backbone.'
        return lambda key: key.startswith(wanted) and not key.startswith(unwanted)
    if all(key in state_dict and key in target and state_dict[key].shape == target[key].shape for key in head):
        return lambda key: True
    return lambda key: key not in head


def _check_fit(
    wanted: Callable[[str], bool], target: StateDict, state_dict: StateDict, path: str | os.PathLike
) -> None:
    if (
        is_pretraining(target)
        and is_pretraining(state_dict)
        and decoder_prefixes(state_dict) != decoder_prefixes(target)
    ):
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
        faults.append(f'The file lacks {listed(missing)}.')
    if unexpected:
        faults.append(f'The model has no place for {listed(unexpected)}.')
    if faults:
        faults.append(_remedy(state_dict, target, [*resized, *missing, *unexpected]))
        raise ValueError(f'{path} does not fit the model. {" ".join(faults)}')


def _check_complete(
    wanted: Callable[[str], bool],
    target: StateDict,
    state_dict: StateDict,
    path: str | os.PathLike,
    left: Collection[str],
    pool: str,
) -> None:
    initial = [key for key in target if not wanted(key)]
    if not initial:
        return
    if 'head.weight' in left and 'head.weight' in target:
        if CLS_TOKEN not in state_dict:
            raise ValueError(
                f"{path}: its head reads the first patch alone (VideoMAE's use_mean_pooling=False), which no model of "
                'ours does. Fine-tune a classifier from it, which leaves this head.'
            )
        reads, remedy = ('class token', 'cls') if pool == 'mean' else ('mean of the patches', 'mean')
        raise ValueError(
            f"{path}: its head reads the {reads}, and the model has pool={pool!r}. Set model.backbone.pool='{remedy}'"
            f'{" and model.backbone.cls_token=True" if remedy == "cls" else ""}.'
        )
    heads = [len(state['head.weight']) for state in (state_dict, target) if 'head.weight' in state]
    if len({*heads}) == 2 and not is_pretraining(state_dict):
        raise ValueError(
            f'{path} has a head for {heads[0]} classes, and the model has num_classes={heads[1]}. Give the config that '
            f'the checkpoint was trained with, or set model.num_classes={heads[0]}.'
        )
    raise ValueError(
        f'{path} has no values for {listed(initial, 4)}, so the results of this model would be meaningless. Give the '
        'checkpoint of a training with this config.'
    )


def _remedy(state_dict: StateDict, target: StateDict, keys: list[str]) -> str:
    if all(key in state_dict and key.endswith('.pos_embed') for key in keys):
        tokens = state_dict[keys[0]].shape[1]
        return (
            f'Set clip_size to the one the checkpoint was made for ({tokens} tokens): clips of any other size run then '
            'too, with interpolated positions.'
        )
    if 'norm.weight' in state_dict and ('backbone.norm.weight' in target or 'norm.weight' in keys):
        return "It is a classifier's, whose norm stands behind the pooling. Set model.norm='pooled'."
    if all(key.startswith('backbone.norm.') for key in keys):
        return f'Set backbone.final_norm={keys[0] in state_dict} in the model.'
    if all('.pos_embed' in key for key in keys) and any('.pos_embed_' in key for key in keys):
        if all(key in state_dict and key in target for key in keys):
            return 'Set clip_size to the one the checkpoint was made for: clips of any other size run then, too.'
        return 'Their positions are of another kind. Set backbone.positions and head.positions to that of the file.'
    if 'head.cls_token' in keys:
        return f'Set head.cls_token={"head.cls_token" in state_dict} in the model, and head.positions as in the file.'
    if CLS_TOKEN in keys and all(key == CLS_TOKEN or key.endswith('.pos_embed_cls') for key in keys):
        return f'Set backbone.cls_token={CLS_TOKEN in state_dict} in the model.'
    if all(key.endswith(('decoder_embed.bias', 'mask_token', 'pos_embed')) for key in keys):
        return "The mask token is at another width. See head.tokens: 'encoder' (OmniMAE) or 'decoder' (VideoMAE)."
    if all(key.endswith('attn.qkv.bias') for key in keys):
        part = 'backbone' if keys[0].startswith('backbone.') else 'head'
        return f'Set {part}.qkv_bias={keys[0] in state_dict} in the model.'
    here, there = _describe(state_dict), _describe(target)
    if here == there:
        return f'Both have {here}, but other parts. Give the config that the file was trained with.'
    return f'The file has {here}; the model has {there}. Choose the model of that size.'


def _describe(state_dict: StateDict) -> str:
    kernels = [x for key, x in state_dict.items() if key.endswith('.patch_embed.weight') and x.dim() == 5]
    if not kernels:
        return _grouped(key for key in state_dict if key.startswith('backbone.')) or 'no backbone'
    width, _, *patch_size = kernels[0].shape
    text = f'embed_dim={width}, depth={num_blocks("backbone.blocks.", state_dict)}, patch_size={tuple(patch_size)}'
    for prefix in decoder_prefixes(state_dict):
        weight = state_dict.get(f'{prefix}decoder_embed.weight')
        if weight is not None:
            text += f', {prefix}embed_dim={len(weight)}, {prefix}depth={num_blocks(f"{prefix}blocks.", state_dict)}'
    return text


def _decoder_words(state_dict: StateDict) -> str:
    decoders = [prefix.rstrip('.') for prefix in decoder_prefixes(state_dict)]
    if decoders == ['head']:
        return 'one shared decoder (head)'
    return f'one decoder per modality ({", ".join(decoders)})'


def _grouped(keys: Iterable[str]) -> str:
    """Keys counted by their first two names: 'backbone.pos_embed 1, backbone.blocks 144, norm 2'."""
    groups = ('.'.join(re.sub(r'\.(weight|bias)$', '', key).split('.')[:2]) for key in keys)
    return ', '.join(f'{group} {count}' for group, count in Counter(groups).items())
