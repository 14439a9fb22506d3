"""Checkpoints: reading them safely, converting between published layouts and ours, loading them into a model.

Our names are those of the modules: ``backbone.*``, then ``head.*`` (one decoder, or ``head.image.*`` and
``head.video.*``) in pretraining, ``norm.*`` and ``head.*`` in a classifier; an encoder alone is ``backbone.*``.
Converting renames: no value changes, position tables included. What another encoder stores apart is put together:

- VideoMAE and VideoMAE V2 have a bias for queries and values only; the third for the keys is zero. Their positions are
  our fixed sinusoids and stand in no file, so the model's own tables stay. The decoder becomes an MAEHead with
  ``qkv_bias='qv', tokens='decoder', embed_bias=False``.
- MAE (arXiv:2111.06377) and other image ViTs of timm's names become a model of one-frame patches. Loaded into a model
  of longer tubelets they are *inflated* (`inflate`). A backbone with ``cls_token=True`` takes their class token; any
  other leaves it: tokens can no longer attend to it, so features differ from MAE's own until they are fine-tuned.
  (MAE's fine-tuning pools the other tokens, too.) Where the decoder is in the file it becomes an MAEHead with
  ``qkv_bias=True, tokens='decoder', positions='sincos2d'``.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import pickle
import re
import zipfile
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlparse

import safetensors.torch
import torch
from mmengine.dist import barrier, get_rank
from mmengine.logging import print_log
from mmengine.model import update_init_info
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from omnimae.registry import WEIGHT_INITIALIZERS
from omnimae.structures import Grid

StateDict = dict[str, Tensor]

NATIVE = 'native'
WRAPPERS = ('state_dict', 'model', 'module')  # keys under which checkpoints keep the weights

POSITIONS = 'backbone.pos_embed'
KERNEL = 'backbone.patch_embed.weight'
CLS_TOKEN = 'backbone.cls_token'
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
    from the file, not copied, where the format allows it. Files of MMEngine (``state_dict``), of the trainers of
    OmniMAE, MAE and VideoMAE (``model``) and of DeepSpeed (``module``) are unwrapped. MMEngine stores averaged weights
    as ``state_dict`` when an EMA hook was active; ``meta['weights']`` says 'ema' or 'raw'.

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
        raise ValueError(f'{path}: holds no tensors by name, neither at the top nor under {", ".join(WRAPPERS)}.')
    meta = content.get('meta')
    meta = dict(meta) if isinstance(meta, dict) else {}
    if 'state_dict' in content:
        meta.setdefault('weights', 'ema' if 'ema_state_dict' in content else 'raw')
    return dict(state_dict), meta


@contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
    """Give a name beside ``path`` to write to; afterwards the file, whole and on the disk, takes the place of ``path``.

    Raises:
        OSError: it could not be written. What was at ``path`` before is still there.
    """
    path = Path(path)
    unfinished = path.with_name(path.name + '.tmp')
    try:
        yield unfinished
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
    """Write weights and a few words about them, as .safetensors or else as a file of torch; never half a file.

    Raises:
        ValueError: the folder does not exist.
        OSError: as of `replacing`.
    """
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


def unwrap(content: Mapping) -> Mapping:
    """Find the state dict within a checkpoint: under one of ``WRAPPERS``, or the whole of it."""
    for key in WRAPPERS:
        if isinstance(content.get(key), Mapping):
            return content[key]
    return content


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
# Layouts


class Layout(NamedTuple):
    """How another code base names what we have: pairs of prefixes, (theirs, ours), the more specific ones first.

    Attributes:
        marks: keys of which every checkpoint of that layout has one, and no other has.
        pretraining: prefixes of an encoder with its decoder.
        classifier: prefixes of an encoder with a linear head.
        spellings: other prefixes for the same thing, (theirs, the spelling used above).
        simplify: their state dict -> one of the names above, and the keys that have no place in ours.
        fixed_positions: the files hold no position table, since it is the fixed one.
        embed_bias: whether the projection from the encoder to the decoder has a bias.
        needs_norm: whether the encoder of a pretraining model always ends in a norm.
    """

    marks: tuple[str, ...]
    pretraining: tuple[tuple[str, str], ...]
    classifier: tuple[tuple[str, str], ...]
    spellings: tuple[tuple[str, str], ...] = ()
    simplify: Callable[[StateDict], tuple[StateDict, tuple[str, ...]]] = lambda state_dict: (state_dict, ())
    fixed_positions: bool = False
    embed_bias: bool = True
    needs_norm: bool = True


def _simplify_timm(state_dict: StateDict) -> tuple[StateDict, tuple[str, ...]]:
    """An image ViT: its kernel is one of one frame, and the class token takes its position into itself (zero in MAE).

    Left is a head on the class token, as ours pool the others, and what is there of a decoder that is not whole.
    """
    without_place = [] if 'decoder_pred.weight' in state_dict else ['mask_token', 'decoder_']
    if 'cls_token' in state_dict and 'fc_norm.weight' not in state_dict:
        without_place.append('head')
    left = tuple(key for key in state_dict if key.startswith(tuple(without_place)))
    plain = {key: x for key, x in state_dict.items() if key not in left}
    _flatten_mask_token(plain)
    if (kernel := plain.get('patch_embed.proj.weight')) is not None and kernel.dim() == 4:
        plain['patch_embed.proj.weight'] = kernel.unsqueeze(2)
    if 'cls_token' in plain and 'pos_embed' in plain:
        plain['cls_token'] = plain['cls_token'] + plain['pos_embed'][:, :1]
        plain['pos_embed'] = plain['pos_embed'][:, 1:]
    if 'cls_token' in plain and 'decoder_pos_embed' in plain:
        if plain['decoder_pos_embed'][:, 0].any():
            raise ValueError('decoder_pos_embed gives the class token a position, and ours has none in the decoder.')
        plain['decoder_pos_embed'] = plain['decoder_pos_embed'][:, 1:]
    return plain, left


def _simplify_videomae(state_dict: StateDict) -> tuple[StateDict, tuple[str, ...]]:
    """VideoMAE: the encoder of a pretraining model has a prefix; queries and values have a bias, keys have none."""
    plain = {key.removeprefix('backbone.').removeprefix('encoder.'): x for key, x in state_dict.items()}
    _flatten_mask_token(plain)
    for key in [key for key in plain if key.endswith('attn.q_bias')]:
        prefix = key.removesuffix('q_bias')
        query, value = plain.pop(key), plain.pop(f'{prefix}v_bias', None)
        if value is not None:
            plain[f'{prefix}qkv.bias'] = torch.cat([query, torch.zeros_like(query), value])
    return plain, ()


def _flatten_mask_token(state_dict: StateDict) -> None:
    """(1, 1, d) -> (1, d), as ours is."""
    if 'mask_token' in state_dict:
        state_dict['mask_token'] = state_dict['mask_token'].flatten(0, -2)


def _simplify_huggingface(state_dict: StateDict) -> tuple[StateDict, tuple[str, ...]]:
    """VideoMAE of transformers: separate queries, keys and values, their biases under one of two names."""
    plain: StateDict = {}
    projections: dict[str, StateDict] = {}
    for key, x in state_dict.items():
        name = _replaced(key.removeprefix('videomae.'), HUGGINGFACE_NAMES)
        block, _, projection = name.partition('.attention.attention.')
        if projection:
            renamed = {'q_bias': 'query.bias', 'v_bias': 'value.bias'}.get(projection, projection)
            projections.setdefault(block, {})[renamed] = x
        else:
            plain[name] = x
    for block, parts in projections.items():
        _fuse(parts, 'weight', f'{block}.attn.qkv.weight', plain)
        if 'query.bias' in parts:
            parts.setdefault('key.bias', torch.zeros_like(parts['query.bias']))
            _fuse(parts, 'bias', f'{block}.attn.qkv.bias', plain)
    _flatten_mask_token(plain)
    return plain, ()


def _fuse(parts: StateDict, parameter: str, name: str, into: StateDict) -> None:
    keys = [f'{projection}.{parameter}' for projection in ('query', 'key', 'value')]
    if all(key in parts for key in keys):
        into[name] = torch.cat([parts[key] for key in keys])


def _replaced(key: str, names: Iterable[tuple[str, str]]) -> str:
    for old, new in names:
        key = key.replace(old, new)
    return key


# (theirs, timm's), in this order; transformers has a dense layer for three of our four
HUGGINGFACE_NAMES = (
    ('embeddings.patch_embeddings.projection.', 'patch_embed.proj.'),
    ('decoder.decoder_layers.', 'decoder.blocks.'),
    ('encoder.layer.', 'blocks.'),
    ('attention.output.dense.', 'attn.proj.'),
    ('intermediate.dense.', 'mlp.fc1.'),
    ('output.dense.', 'mlp.fc2.'),
    ('layernorm_before.', 'norm1.'),
    ('layernorm_after.', 'norm2.'),
    ('layernorm.', 'norm.'),
    ('classifier.', 'head.'),
)

_OMNIMAE_ENCODER = (
    ('trunk.pos_embed', POSITIONS),
    ('trunk.patch_embed.proj.1.', 'backbone.patch_embed.'),
    ('trunk.blocks.', 'backbone.blocks.'),
)

# timm's names: MAE's own, VideoMAE's after its parts are put together, and those that transformers' are mapped to
_TIMM = (
    ('cls_token', CLS_TOKEN),
    ('pos_embed', POSITIONS),
    ('patch_embed.proj.', 'backbone.patch_embed.'),
    ('blocks.', 'backbone.blocks.'),
    ('norm.', 'backbone.norm.'),
    ('fc_norm.', 'norm.'),
    ('head.', 'head.'),
)

# VideoMAE's decoder; its encoder has timm's names
_VIDEOMAE = (
    ('mask_token', 'head.mask_token'),
    ('encoder_to_decoder.', 'head.decoder_embed.'),
    ('decoder.blocks.', 'head.blocks.'),
    ('decoder.norm.', 'head.norm.'),
    ('decoder.head.', 'head.pred.'),
    *(pair for pair in _TIMM if pair[1].startswith('backbone.')),
)

_MAE = (
    ('mask_token', 'head.mask_token'),
    ('decoder_pos_embed', 'head.pos_embed'),
    ('decoder_embed.', 'head.decoder_embed.'),
    ('decoder_blocks.', 'head.blocks.'),
    ('decoder_norm.', 'head.norm.'),
    ('decoder_pred.', 'head.pred.'),
    *(pair for pair in _TIMM if pair[1].startswith('backbone.')),
)

LAYOUTS = {
    # github.com/facebookresearch/omnivore: the published files, and the checkpoints that its trainer writes
    'omnimae': Layout(
        marks=('trunk.patch_embed.proj.1.weight',),
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
    # github.com/MCG-NJU/VideoMAE and github.com/OpenGVLab/VideoMAEv2
    'videomae': Layout(
        marks=('encoder.blocks.0.attn.q_bias', 'blocks.0.attn.q_bias', 'backbone.blocks.0.attn.q_bias'),
        pretraining=_VIDEOMAE,
        classifier=_TIMM,
        simplify=_simplify_videomae,
        fixed_positions=True,
        embed_bias=False,
    ),
    # VideoMAE as transformers names it
    'huggingface': Layout(
        marks=(
            'videomae.embeddings.patch_embeddings.projection.weight',
            'embeddings.patch_embeddings.projection.weight',
        ),
        pretraining=_VIDEOMAE,
        classifier=_TIMM,
        simplify=_simplify_huggingface,
        fixed_positions=True,
        embed_bias=False,
        needs_norm=False,  # use_mean_pooling=True, the default of a new model there, takes it away
    ),
    # github.com/facebookresearch/mae and the image ViTs of timm
    'timm': Layout(marks=('blocks.0.attn.qkv.weight',), pretraining=_MAE, classifier=_TIMM, simplify=_simplify_timm),
}


def recognise(state_dict: Mapping) -> str | None:
    """Say whose layout this is: a name in ``LAYOUTS``, 'native' for ours, None for neither."""
    state_dict = _bare(unwrap(state_dict))
    if KERNEL in state_dict:
        return NATIVE
    return next((name for name, layout in LAYOUTS.items() if any(mark in state_dict for mark in layout.marks)), None)


def _bare(state_dict: Mapping) -> StateDict:
    """Names without what torch.compile and DistributedDataParallel put before them."""
    return {key.replace('_orig_mod.', '').removeprefix('module.'): value for key, value in state_dict.items()}


def convert(state_dict: Mapping, source: str | None = None) -> StateDict:
    """Rename a state dict of another layout to ours, see the head of this module. Ours stays as it is.

    Of image ViTs a head on the class token is left out; see `translate`.

    Args:
        state_dict: tensors by name, or a checkpoint around them (``WRAPPERS``).
        source: a name in ``LAYOUTS``, 'native', or None to recognise it.

    Raises:
        ValueError: an unknown layout, a key that has no place in ours, or a key that ours needs and that is missing.
    """
    return translate(state_dict, source)[0]


def translate(state_dict: Mapping, source: str | None = None) -> tuple[StateDict, tuple[str, ...]]:
    """`convert`, and the keys that it left out: a head on the class token, parts of a decoder."""
    source = source or recognise(state_dict)
    state_dict = _bare(unwrap(state_dict))
    if source is None:
        raise ValueError(
            f'The layout of this state dict is unknown; its keys are {_listed(state_dict)}. '
            f'Known layouts: {NATIVE}, {", ".join(LAYOUTS)}.'
        )
    if source == NATIVE:
        return state_dict, ()
    layout = _layout(source)
    state_dict, left = layout.simplify(state_dict)
    pairs = layout.pretraining if _is_pretraining(state_dict) else layout.classifier
    origin: dict[str, str] = {}
    unplaced = []
    for key in state_dict:
        new = _renamed(_renamed(key, layout.spellings) or key, pairs)
        if new is None or new in origin:
            unplaced.append(key)
        else:
            origin[new] = key
    needed = _native_keys(origin, layout)
    unplaced += [origin[new] for new in origin if new not in needed]
    backward = tuple((ours, theirs) for theirs, ours in pairs)
    missing = [str(_renamed(key, backward)) for key in sorted(needed - origin.keys())]
    if unplaced or missing:
        raise ValueError(
            f'This state dict does not fit the layout {source!r}. Keys without a place: {_listed(unplaced)}. '
            f'Missing keys: {_listed(missing)}. Give the checkpoint as it was published, or name another source.'
        )
    return {new: state_dict[key] for new, key in origin.items()}, left


def export(state_dict: Mapping[str, Tensor]) -> StateDict:
    """Rename our state dict to OmniMAE's published layout: the inverse of ``convert``.

    A decoder with qkv biases keeps them: the OmniMAE trainer has such keys, the published models have not.

    Raises:
        ValueError: a model that the layout has no names for (one decoder per modality, an encoder alone).
    """
    if len(_decoders(state_dict)) > 1:
        raise ValueError(
            "The layout 'omnimae' has one decoder for all modalities, this model has one for each: "
            f'{", ".join(_decoders(state_dict))}. Only models with a shared decoder can be exported.'
        )
    layout = LAYOUTS['omnimae']
    pairs = layout.pretraining if _is_pretraining(state_dict) else layout.classifier
    backward = tuple((ours, theirs) for theirs, ours in pairs)
    exported = {new: value for key, value in state_dict.items() if (new := _renamed(key, backward))}
    unplaced = [key for key in state_dict if not _renamed(key, backward)]
    if unplaced:
        raise ValueError(f"The layout 'omnimae' has no names for {_listed(unplaced)}. Give a whole model of ours.")
    return exported


# timm's model of each width; any other is its ViT-B with other numbers
_TIMM_MODELS = {384: 'vit_small_patch16_224', 1024: 'vit_large_patch16_224', 1280: 'vit_huge_patch14_224'}


def export_timm(state_dict: StateDict, *, grid: Grid, num_heads: int) -> tuple[StateDict, dict]:
    """Our encoder or classifier -> the image ViT of timm that computes the same of an image, and its config.json.

    timm has no tubelets: the kernel is summed over time, which is what an image repeated over the tubelet meets, and of
    the positions the first temporal slice is taken, as our backbone does. A pretraining model gives its encoder with
    the norm of single tokens; a classifier gives ``fc_norm`` and ``head``. A folder with the two files is read by
    ``timm.create_model('local-dir:FOLDER', pretrained=True)``.

    Args:
        state_dict: of our layout.
        grid: of the clips that the position table is made for, ``model.backbone.grid``.
        num_heads: of each block of the encoder.

    Raises:
        ValueError: not of our layout, or positions of another grid.
    """
    _check_native(state_dict, grid)
    weights = {new: x for key, x in state_dict.items() if (new := _encoder_name(key, state_dict))}
    kernel = weights['patch_embed.proj.weight'] = state_dict[KERNEL].sum(2)
    weights['pos_embed'] = state_dict[POSITIONS][:, : grid.h * grid.w]
    if 'cls_token' in weights:
        weights['pos_embed'] = _with_first_row(weights['pos_embed'])
    patch_size, dim = tuple(kernel.shape[2:]), kernel.shape[0]
    image_size = (grid.h * patch_size[0], grid.w * patch_size[1])
    num_classes = len(weights['head.weight']) if 'head.weight' in weights else 0
    model_args = dict(
        img_size=image_size,
        patch_size=patch_size,
        embed_dim=dim,
        depth=_depth('blocks.', weights),
        num_heads=num_heads,
        mlp_ratio=len(weights['blocks.0.mlp.fc1.weight']) / dim,
        qkv_bias='blocks.0.attn.qkv.bias' in weights,
        class_token='cls_token' in weights,
        global_pool='avg',
        fc_norm='fc_norm.weight' in weights,
    )
    about_data = dict(input_size=(3, *image_size), mean=_MEAN, std=_STD, interpolation='bicubic', crop_pct=1.0)
    about = dict(about_data, num_classes=num_classes, first_conv='patch_embed.proj', classifier='head', license='other')
    name = _TIMM_MODELS.get(dim, 'vit_base_patch16_224')
    return weights, dict(
        architecture=name, num_classes=num_classes, num_features=dim, model_args=model_args, pretrained_cfg=about
    )


def export_huggingface(
    state_dict: StateDict, *, grid: Grid, num_heads: int, positions: Tensor
) -> tuple[StateDict, dict]:
    """Our encoder or classifier -> VideoMAE of transformers, and its config.json.

    A pretraining model gives a ``VideoMAEModel`` whose ``last_hidden_state`` is our backbone's output; a classifier
    gives a ``VideoMAEForVideoClassification``, whose last norm has transformers' eps of 1e-5 where ours is 1e-6. The
    biases of the keys are left out: a softmax over keys is the same without them.

    Args:
        state_dict: of our layout.
        grid: of the clips that the position table is made for, ``model.backbone.grid``.
        num_heads: of each block of the encoder.
        positions: (1, N, D), the fixed sinusoids, ``backbone.pos_embed`` of a new model; transformers' model has no
            others.

    Raises:
        ValueError: not of our layout, positions of another grid, or positions that are not the fixed ones.
    """
    _check_native(state_dict, grid)
    if CLS_TOKEN in state_dict:
        raise ValueError('VideoMAE of transformers has no class token. Export to timm.')
    if not torch.allclose(state_dict[POSITIONS], positions, atol=1e-5):
        raise ValueError(
            f'{POSITIONS} does not hold the fixed sinusoids (it came from MAE, perhaps), and VideoMAE of transformers '
            'can hold no others. Export to timm.'
        )
    is_classifier = 'head.weight' in state_dict and not _is_pretraining(state_dict)
    prefix = 'videomae.' if is_classifier else ''
    weights: StateDict = {}
    for key, x in state_dict.items():
        name = _encoder_name(key, state_dict)
        if name in (None, 'pos_embed'):
            continue
        if name.startswith('fc_norm.'):
            weights[name] = x
        elif name.startswith('head.'):
            weights[_replaced(name, _HUGGINGFACE_BACKWARD)] = x
        elif '.attn.qkv.' in name:
            block = _replaced(name.partition('.attn.qkv.')[0] + '.', [('blocks.', 'encoder.layer.')])
            parts = dict(zip(('query', 'key', 'value'), x.chunk(3), strict=True))
            if name.endswith('weight'):
                named = {f'{part}.weight': value for part, value in parts.items()}
            else:
                # transformers 4 has these names, 5 takes them for query.bias and value.bias
                named = {'q_bias': parts['query'], 'v_bias': parts['value']}
            weights |= {f'{prefix}{block}attention.attention.{part}': value for part, value in named.items()}
        else:
            weights[prefix + _replaced(name, _HUGGINGFACE_BACKWARD)] = x
    dim, _, tubelet, height, width = state_dict[KERNEL].shape
    config: dict[str, Any] = dict(
        architectures=['VideoMAEForVideoClassification' if is_classifier else 'VideoMAEModel'],
        model_type='videomae',
        image_size=_one_or_two(grid.h * height, grid.w * width),
        patch_size=_one_or_two(height, width),
        num_frames=grid.t * tubelet,
        tubelet_size=tubelet,
        hidden_size=dim,
        num_hidden_layers=_depth('backbone.blocks.', state_dict),
        num_attention_heads=num_heads,
        intermediate_size=len(state_dict['backbone.blocks.0.mlp.fc1.weight']),
        layer_norm_eps=1e-6,
        qkv_bias='backbone.blocks.0.attn.qkv.bias' in state_dict,
        use_mean_pooling=is_classifier,
    )
    if is_classifier:
        config['id2label'] = {str(label): f'LABEL_{label}' for label in range(len(state_dict['head.weight']))}
        config['label2id'] = {name: int(label) for label, name in config['id2label'].items()}
    return weights, config


def export_mae(state_dict: StateDict) -> StateDict:
    """Our pretraining model of images -> MAE's names.

    Raises:
        ValueError: a model without class token, of tubelets, or with another decoder.
    """
    backward = tuple((ours, theirs) for theirs, ours in _MAE)
    names = {key: _renamed(key, backward) for key in state_dict}
    unplaced = [key for key, name in names.items() if name is None]
    if unplaced or CLS_TOKEN not in state_dict or 'head.decoder_embed.bias' not in state_dict:
        raise ValueError(
            "The layout 'mae' is that of a pretraining model with backbone.cls_token=True and one MAEHead with "
            f"tokens='decoder'. It has no names for {_listed(unplaced)}."
        )
    if state_dict[KERNEL].shape[2] != 1 or state_dict['head.pos_embed'].shape[2] != len(state_dict['head.norm.weight']):
        raise ValueError("The layout 'mae' has patches of one frame and mask tokens of the decoder's width.")
    weights = {str(names[key]): x for key, x in state_dict.items()}
    for name in ('pos_embed', 'decoder_pos_embed'):
        weights[name] = _with_first_row(weights[name])
    weights['patch_embed.proj.weight'] = weights['patch_embed.proj.weight'].squeeze(2)
    weights['mask_token'] = weights['mask_token'].unsqueeze(0)
    return weights


def _with_first_row(positions: Tensor) -> Tensor:
    """(1, N, D) -> (1, 1 + N, D): the class token's position is zero."""
    return torch.cat([torch.zeros_like(positions[:, :1]), positions], 1)


def export_videomae(state_dict: StateDict, *, positions: Mapping[str, Tensor]) -> StateDict:
    """Our pretraining model, classifier or encoder -> VideoMAE's and VideoMAE V2's names.

    The biases of the keys are left out: a softmax over keys is the same without them.

    Args:
        state_dict: of our layout; a decoder with ``tokens='decoder', embed_bias=False``.
        positions: the fixed sinusoids by name, from a new model; the layout has no place for others.

    Raises:
        ValueError: not of our layout, positions that are not the fixed ones, or a decoder of another kind.
    """
    for key, x in state_dict.items():
        if key.endswith('pos_embed') and not (x.shape == positions[key].shape and torch.allclose(x, positions[key])):
            raise ValueError(f'{key} does not hold the fixed sinusoids of the config, and VideoMAE can hold no others.')
    is_pretraining = _is_pretraining(state_dict)
    backward = tuple((ours, theirs) for theirs, ours in (_VIDEOMAE if is_pretraining else _TIMM))
    weights: StateDict = {}
    for key, x in state_dict.items():
        if key.endswith('pos_embed'):
            continue
        name = _renamed(key, backward)
        if name is None or key == 'head.decoder_embed.bias':
            raise ValueError(
                f"The layout 'videomae' has no name for {key}. Its decoder is one MAEHead with "
                "tokens='decoder', embed_bias=False."
            )
        if is_pretraining and key.startswith('backbone.'):
            name = f'encoder.{name}'
        if name.endswith('attn.qkv.bias'):
            prefix = name.removesuffix('qkv.bias')
            weights[f'{prefix}q_bias'], _, weights[f'{prefix}v_bias'] = x.chunk(3)
        else:
            weights[name] = x.unsqueeze(0) if name == 'mask_token' else x
    return weights


_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # what the exported weights expect of their pixels
_HUGGINGFACE_BACKWARD = tuple((timm, theirs) for theirs, timm in HUGGINGFACE_NAMES)


def _encoder_name(key: str, state_dict: Collection[str]) -> str | None:
    """Name a tensor of ours as timm does; None for a decoder's."""
    if _is_pretraining(state_dict) and not key.startswith('backbone.'):
        return None
    return _renamed(key, tuple((ours, theirs) for theirs, ours in _TIMM))


def _one_or_two(height: int, width: int) -> int | list[int]:
    return height if height == width else [height, width]


def _check_native(state_dict: StateDict, grid: Grid) -> None:
    if KERNEL not in state_dict or POSITIONS not in state_dict:
        raise ValueError(f'{KERNEL} or {POSITIONS} is missing. Load the weights into a model of ours, export that.')
    if 'head.1.weight' in state_dict:
        raise ValueError('This is a LinearProbe, whose head has no place there. Give the weights of its backbone.')
    if state_dict[POSITIONS].shape[1] != grid.num_tokens:
        raise ValueError(
            f'{POSITIONS} has {state_dict[POSITIONS].shape[1]} positions, and clips of the model have '
            f'{"x".join(map(str, grid))} tokens. Give the clip_size that the checkpoint was made for.'
        )


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


def _native_keys(state_dict: Collection[str], layout: Layout) -> set[str]:
    """List the keys that a model of ours has, with as many blocks as occur in these keys."""
    names = [*_affine('backbone.patch_embed.'), *_block_keys('backbone.blocks.', state_dict)]
    if not layout.fixed_positions:
        names.append(POSITIONS)
    if CLS_TOKEN in state_dict:
        names.append(CLS_TOKEN)
    if _is_encoder(state_dict):
        return {*names, *(_affine('backbone.norm.') if 'backbone.norm.weight' in state_dict else ())}
    if not _is_pretraining(state_dict):
        return {*names, *_affine('norm.', 'head.')}
    if layout.needs_norm or 'backbone.norm.weight' in state_dict:
        names += _affine('backbone.norm.')
    for prefix in _decoders(state_dict):
        names += [f'{prefix}mask_token', f'{prefix}decoder_embed.weight']
        names += _affine(f'{prefix}norm.', f'{prefix}pred.')
        names += [f'{prefix}decoder_embed.bias'] if layout.embed_bias else []
        names += [] if layout.fixed_positions else [f'{prefix}pos_embed']
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


def _is_encoder(state_dict: Collection[str]) -> bool:
    return all(key.startswith('backbone.') for key in state_dict)


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
        left: keys of the file (under our names where they have one) that the model does not take.
        initialised: keys of the model that keep their initial values.
        inflated: those of ``loaded`` that were repeated over time, see `inflate`.
        fixed: keys of the model that hold constants which the file does not.
    """

    path: str
    source: str
    loaded: tuple[str, ...]
    left: tuple[str, ...]
    initialised: tuple[str, ...]
    inflated: tuple[str, ...] = ()
    fixed: tuple[str, ...] = ()

    def __str__(self) -> str:
        parts = (
            ('loaded', self.loaded),
            ('of these inflated from images', self.inflated),
            ('fixed and not in the file', self.fixed),
            ('left in the file', self.left),
            ('freshly initialised', self.initialised),
        )
        return f'Weights from {self.path} (layout {self.source}): ' + '; '.join(
            f'{what} {len(keys)} tensors ({_grouped(keys)})' for what, keys in parts if keys
        )


def load_weights(model: nn.Module, path: str | os.PathLike, *, complete: bool = False) -> LoadReport:
    """Load a checkpoint of any known layout into a model; logs and returns what was loaded, left and initialised.

    A pretraining model needs every tensor of it. A classifier takes the backbone of a pretraining checkpoint or of an
    encoder and leaves the decoder, and the final norm where its backbone has none (as the release does; the norm
    belongs to single tokens); of a classifier's checkpoint it takes everything, but leaves a head for other classes.

    Args:
        model: a MaskedAutoencoder or a Classifier.
        path: see `load_file`.
        complete: refuse a checkpoint that leaves weights of the model at their initial values; results of testing and
            inference would be meaningless.

    Raises:
        ValueError: the file cannot be read, its layout is unknown, or its tensors do not fit the model.
    """
    content, _ = load_file(path)
    try:
        state_dict, left = translate(content)
    except ValueError as error:
        raise ValueError(f'{path}: {error}') from error
    model = getattr(model, 'module', model)  # within DDP
    target = model.state_dict()
    if KERNEL not in target:
        raise ValueError(f'{path}: a checkpoint fills a model, not a {type(model).__name__}. Move init_cfg up to it.')
    fixed = () if POSITIONS in state_dict else tuple(key for key in target if key.endswith('pos_embed'))
    target = {key: x for key, x in target.items() if key not in fixed}
    backbone: Any = model.backbone
    positions = backbone.fixed_positions()  # the model's own may be those of weights that it was given before
    for key in fixed:
        part: Any = model.get_submodule(key.removesuffix('.pos_embed'))
        part.pos_embed.copy_(part.fixed_positions())
    state_dict, inflated = inflate(state_dict, target[KERNEL].shape[2], backbone.grid, positions)
    wanted = _wanted(state_dict, target, path)
    _check_fit(wanted, target, state_dict, path)
    if complete:
        _check_complete(wanted, target, state_dict, path)
    model.load_state_dict({key: state_dict[key] for key in target if wanted(key)}, strict=False)
    report = LoadReport(
        path=str(path),
        source=str(recognise(content)),
        loaded=tuple(filter(wanted, target)),
        left=(*(key for key in state_dict if not wanted(key)), *left),
        initialised=tuple(key for key in target if not wanted(key)),
        inflated=inflated,
        fixed=fixed,
    )
    print_log(str(report), logger='current')
    return report


def inflate(state_dict: StateDict, tubelet: int, grid: Grid, positions: Tensor) -> tuple[StateDict, tuple[str, ...]]:
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
        positions: (1, N, D), the fixed sinusoids, with which a new model begins.
    """
    inflated = {}
    kernel, table = state_dict[KERNEL], state_dict.get(POSITIONS)
    if kernel.shape[2] == 1 and tubelet > 1:
        inflated[KERNEL] = kernel.expand(-1, -1, tubelet, -1, -1) / tubelet
        if (
            table is not None
            and grid.t > 1
            and table.shape[1] == grid.h * grid.w
            and table.shape[2] == positions.shape[2]
        ):
            steps = (positions[0, : grid.t] - positions[0, :1]).cpu()
            inflated[POSITIONS] = (table + steps[:, None]).flatten(0, 1)[None]
    return {**state_dict, **inflated}, tuple(inflated)


def _head_keys(keys: Iterable[str]) -> set[str]:
    return {key for key in keys if key.startswith('head.')}


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
        child: Any  # a Module, which need not be MMEngine's
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
            kind = 'an encoder alone' if _is_encoder(state_dict) else 'a classifier'
            raise ValueError(
                f'{path}: holds {kind}, which has no decoder. Give a checkpoint of pretraining, or a Classifier to '
                'load it into.'
            )
        return lambda key: True
    token_norm = 'backbone.norm.weight'  # in pretraining and in what is frozen; a Classifier has it behind the pooling
    is_probe = token_norm in state_dict and token_norm not in target
    loses_token = CLS_TOKEN in state_dict and CLS_TOKEN not in target  # and with it what was trained on top
    if _is_pretraining(state_dict) or _is_encoder(state_dict) or is_probe or loses_token:
        unwanted = (*(() if token_norm in target else ('backbone.norm.',)), *({CLS_TOKEN} - target.keys()))
        return lambda key: key.startswith('backbone.') and not key.startswith(unwanted)
    head = _head_keys(chain(state_dict, target))
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


def _check_complete(
    wanted: Callable[[str], bool], target: StateDict, state_dict: StateDict, path: str | os.PathLike
) -> None:
    initial = [key for key in target if not wanted(key)]
    if not initial:
        return
    heads = [len(state['head.weight']) for state in (state_dict, target) if 'head.weight' in state]
    if len(heads) == 2 and not _is_pretraining(state_dict):
        raise ValueError(
            f'{path} has a head for {heads[0]} classes, and the model has num_classes={heads[1]}. Give the config that '
            f'the checkpoint was trained with, or set model.num_classes={heads[0]}.'
        )
    raise ValueError(
        f'{path} has no values for {_listed(initial, 4)}, so the results of this model would be meaningless. Give the '
        'checkpoint of a training with this config.'
    )


def _remedy(state_dict: StateDict, target: StateDict, keys: list[str]) -> str:
    if POSITIONS in state_dict and all(key.endswith('.pos_embed') for key in keys):
        tokens = state_dict[POSITIONS].shape[1]
        return (
            f'Set clip_size to the one the checkpoint was made for ({tokens} tokens): clips of any other size run then '
            'too, with interpolated positions.'
        )
    if 'backbone.norm.weight' in target and 'norm.weight' in state_dict:
        return "It is a classifier's, whose norm stands behind the pooling. Set model.norm='pooled'."
    if keys == [CLS_TOKEN]:
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
