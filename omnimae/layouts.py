"""Key layouts of published checkpoints: recognising them, renaming them to ours, and back.

Our names are those of the modules: ``backbone.*``, then ``head.*`` (one decoder, or ``head.image.*`` and
``head.video.*``) in pretraining, ``norm.*`` and ``head.*`` in a classifier; an encoder alone is ``backbone.*``.
Converting renames: no value changes, position tables included. What another encoder stores apart is put together:

- VideoMAE and VideoMAE V2 have a bias for queries and values only; the third for the keys is zero. Their positions are
  our fixed sinusoids and stand in no file, so the model's own tables stay. The decoder becomes an MAEHead with
  ``qkv_bias='qv', tokens='decoder', embed_bias=False``.
- MAE (arXiv:2111.06377) and other image ViTs, of timm's names or of transformers' ('vit_mae': ViTMAE, and its ViT),
  become a model of one-frame patches. Where the decoder is in the file it becomes an MAEHead with ``qkv_bias=True,
  tokens='decoder', positions='sincos2d'``.
- MAE-ST (arXiv:2205.09113) has learned positions, of the class token too, and queries, keys and values apart. Its
  repository ('mae_st') has a class token of the decoder's own; the released weights are SlowFast's ('slowfast'), whose
  decoder goes on with the encoder's and has a position for every token. The decoder becomes an MAEHead with
  ``qkv_bias=True, tokens='decoder'`` and ``positions='separable', cls_token=True`` or ``positions='learned'``.
- MultiMAE (arXiv:2204.01678) has adapters for inputs and outputs, our tokenizers and heads; its predictions of a patch
  have the channels first. `take_modality` and `as_modality` go from it to a plain ViT and back.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from omnimae.structures import Grid

StateDict = dict[str, Tensor]

NATIVE = 'native'
WRAPPERS = ('state_dict', 'model', 'module', 'model_state')  # keys under which checkpoints keep the weights

POSITIONS = 'backbone.pos_embed'
KERNEL = 'backbone.patch_embed.weight'
CLS_TOKEN = 'backbone.cls_token'
CLS_POSITION = 'backbone.pos_embed_cls'
GLOBAL_TOKENS = 'backbone.global_tokens'
TOKENIZERS = 'backbone.tokenizers.'
TASK_WEIGHTS = 'log_variances.'
OF_COLOURS = ('backbone.blocks.', f'{TOKENIZERS}rgb.', GLOBAL_TOKENS)  # what `take_modality` takes of a MultiMAE
OF_PLAIN = ('backbone.blocks.', 'backbone.patch_embed.', POSITIONS, CLS_TOKEN)  # and `as_modality` of a plain ViT
BLOCK_KEYS = tuple(
    f'{layer}.{parameter}'
    for layer in ('norm1', 'attn.qkv', 'attn.proj', 'norm2', 'mlp.fc1', 'mlp.fc2')
    for parameter in ('weight', 'bias')
)


class Layout(NamedTuple):
    """How another code base names what we have: pairs of prefixes, (theirs, ours), the more specific ones first.

    Attributes:
        marks: keys of which every checkpoint of that layout has one, and no other has.
        pretraining: prefixes of an encoder with its decoder.
        classifier: prefixes of an encoder with a linear head.
        spellings: other prefixes for the same thing, (theirs, the spelling used above).
        simplify: their state dict -> one of the names above, and the keys that have no place in ours.
        fixed_positions: the files hold no position table, since it is the fixed one.
        cls_positions: the class token has positions of its own.
        embed_bias: whether the projection from the encoder to the decoder has a bias.
        needs_norm: whether the encoder of a pretraining model always ends in a norm.
        head_may_read_a_token: whether a classifier may read one token instead of the mean.
    """

    marks: tuple[str, ...]
    pretraining: tuple[tuple[str, str], ...]
    classifier: tuple[tuple[str, str], ...]
    spellings: tuple[tuple[str, str], ...] = ()
    simplify: Callable[[StateDict], tuple[StateDict, tuple[str, ...]]] = lambda state_dict: (state_dict, ())
    fixed_positions: bool = False
    cls_positions: bool = False
    embed_bias: bool = True
    needs_norm: bool = True
    head_may_read_a_token: bool = False


def _simplify_timm(state_dict: StateDict) -> tuple[StateDict, tuple[str, ...]]:
    """An image ViT: its kernel is one of one frame, and the class token takes its position into itself (zero in MAE).

    Left is what is there of a decoder that is not whole, and transformers' pooler.
    """
    without_place = ['pooler.', *([] if 'decoder_pred.weight' in state_dict else ['mask_token', 'decoder_'])]
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


def _simplify_mae_st(state_dict: StateDict) -> tuple[StateDict, tuple[str, ...]]:
    """MAE-ST: queries, keys and values apart; the class token's position is the first row of a joint table.

    A classifier has its norm, of the name of that of pretraining, behind the pooling.
    """
    plain: StateDict = {}
    for key, x in state_dict.items():
        block, dot, projection = key.rpartition('attn.')
        name, _, parameter = projection.partition('.')
        parts = [f'{block}attn.{part}.{parameter}' for part in 'qkv']
        if dot and name in 'qkv' and all(part in state_dict for part in parts):
            plain[f'{block}attn.qkv.{parameter}'] = torch.cat([state_dict[part] for part in parts])
        elif key in ('pos_embed', 'decoder_pos_embed') and 'cls_token' in state_dict:
            plain[f'{key}_class'], plain[key] = x[:, :1], x[:, 1:]
        elif key.startswith('norm.') and 'head.weight' in state_dict:
            plain[f'fc_{key}'] = x
        else:
            plain[key] = x
    _flatten_mask_token(plain)
    return plain, ()


def _simplify_slowfast(state_dict: StateDict) -> tuple[StateDict, tuple[str, ...]]:
    """MAE-ST as SlowFast names it: blocks and norm of the decoder are numbered through."""
    last = num_blocks('pred_head.transforms.0.', state_dict) - 1
    names = (
        (f'pred_head.transforms.0.{last}.', 'decoder_norm.'),
        ('pred_head.transforms.0.', 'decoder_blocks.'),
        ('pred_head.projections.0.', 'decoder_pred.'),
        ('head.projection.', 'head.'),
        *((f'dec_{name}', f'decoder_{name}') for name, _ in _LEARNED_POSITIONS),
    )
    return _simplify_mae_st({_renamed(key, names) or key: x for key, x in state_dict.items()})


# MultiMAE's parts of an adapter, (theirs, ours), in this order
_MULTIMAE_INPUTS = (('.pos_emb', '.pos_embed'), ('.class_emb.', '.class_embed.'), ('.proj.', '.patch_embed.'))
_MULTIMAE_OUTPUTS = (
    ('.pos_emb', '.pos_embed'),
    ('.task_embeddings.', '.modality_embed.'),
    ('.decoder_transformer.', '.blocks.'),
    ('.decoder.', '.attn.'),
    ('.proj_context.', '.decoder_embed.'),
    ('.out_norm.', '.norm.'),
    ('.out_proj.', '.pred.'),
)
_MULTIMAE = (
    ('global_tokens', GLOBAL_TOKENS),
    ('input_adapters.', TOKENIZERS),
    ('encoder.', 'backbone.blocks.'),
    ('output_adapters.', 'head.'),
)


def _simplify_multimae(state_dict: StateDict) -> tuple[StateDict, tuple[str, ...]]:
    """MultiMAE: images only, positions as maps, channels before places in what is predicted.

    Left are heads of transfer, which have no mask token.
    """
    tasks = {key.split('.')[1] for key in state_dict if key.startswith('output_adapters.')}
    heads = tuple(f'output_adapters.{x}.' for x in tasks if f'output_adapters.{x}.mask_token' not in state_dict)
    plain: StateDict = {}
    for key, x in state_dict.items():
        if key.startswith(heads):
            continue
        names = _MULTIMAE_INPUTS if key.startswith('input_adapters.') else _MULTIMAE_OUTPUTS
        name = _replaced(key, names) if '_adapters.' in key else key
        if name.endswith('.pos_embed') and x.dim() == 4:
            x = x.flatten(2).transpose(1, 2)
        elif name.endswith('.patch_embed.weight'):
            x = x.unsqueeze(2)
        elif name.endswith('.mask_token') or '.modality_embed.' in name:
            x = x.flatten(0, -2)
        elif '.pred.' in name:
            x = x.unflatten(0, (-1, _places_in_patch(key, state_dict))).transpose(0, 1).flatten(0, 1)
        plain[name] = x
    return plain, tuple(key for key in state_dict if key.startswith(heads))


def _places_in_patch(key: str, state_dict: StateDict) -> int:
    """How many pixels a patch of a task's modality has; a task may be called norm_MODALITY."""
    modality = key.split('.')[1].removeprefix('norm_')
    kernel = state_dict.get(f'input_adapters.{modality}.proj.weight')
    if kernel is None:
        raise ValueError(f'{key} is for {modality!r}, of which the encoder has no adapter. No model of ours has that.')
    return kernel.shape[2] * kernel.shape[3]


def _flatten_mask_token(state_dict: StateDict) -> None:
    """(1, 1, d) -> (1, d), as ours is."""
    if 'mask_token' in state_dict:
        state_dict['mask_token'] = state_dict['mask_token'].flatten(0, -2)


def _simplify_huggingface(state_dict: StateDict) -> tuple[StateDict, tuple[str, ...]]:
    """VideoMAE of transformers: separate queries, keys and values, their biases under one of two names."""
    plain = _joined({_replaced(key.removeprefix('videomae.'), HUGGINGFACE_NAMES): x for key, x in state_dict.items()})
    _flatten_mask_token(plain)
    return plain, ()


def _simplify_vit_mae(state_dict: StateDict) -> tuple[StateDict, tuple[str, ...]]:
    """ViTMAE of transformers, or its ViT, as version 4 or 5 names them: MAE's decoder has names of its own."""
    names = (*_VIT_MAE_NAMES, *HUGGINGFACE_NAMES)
    return _simplify_timm(_joined({_replaced(key.removeprefix('vit.'), names): x for key, x in state_dict.items()}))


def _with_head_of(pool: str, state_dict: StateDict) -> tuple[StateDict, tuple[str, ...]]:
    """A classifier of timm's names pools the mean of the tokens if it has ``fc_norm``, and one token otherwise."""
    if 'head.weight' not in state_dict or is_pretraining(state_dict):
        return state_dict, ()
    is_mean = 'fc_norm.weight' in state_dict
    if is_mean and pool == 'mean':
        return state_dict, ()
    if not is_mean and pool == 'cls' and 'cls_token' in state_dict:
        return {re.sub(r'^norm\.', 'fc_norm.', key): x for key, x in state_dict.items()}, ()
    left = tuple(key for key in state_dict if key.startswith(('head.', 'fc_norm.')))
    return {key: x for key, x in state_dict.items() if key not in left}, left


def _joined(state_dict: StateDict) -> StateDict:
    """Put queries, keys and values of transformers together."""
    plain: StateDict = {}
    projections: dict[str, StateDict] = {}
    for name, x in state_dict.items():
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
    return plain


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

# what ViTMAE has beside VideoMAE, (theirs, MAE's or version 4's), in this order; version 5 writes 'decoder_encoder'
_VIT_MAE_NAMES = (
    ('decoder.decoder_encoder.layer.', 'decoder_blocks.'),
    ('decoder.decoder_layers.', 'decoder_blocks.'),
    ('decoder.', ''),
    ('embeddings.cls_token', 'cls_token'),
    ('embeddings.position_embeddings', 'pos_embed'),
    ('encoder.layer.', 'blocks.'),
    ('layers.', 'blocks.'),
    *((f'attention.{name[0]}_proj.', f'attention.attention.{name}.') for name in ('query', 'key', 'value')),
    ('attention.o_proj.', 'attn.proj.'),
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

_LEARNED_POSITIONS = (
    ('pos_embed_spatial', 'backbone.pos_embed_space'),
    ('pos_embed_temporal', 'backbone.pos_embed_time'),
    ('pos_embed_class', CLS_POSITION),
)
_MAE_ST = (
    *_LEARNED_POSITIONS,
    *((f'decoder_{theirs}', ours.replace('backbone.', 'head.')) for theirs, ours in _LEARNED_POSITIONS),
    ('decoder_cls_token', 'head.cls_token'),
    *_MAE,
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
        head_may_read_a_token=True,
    ),
    # ViTMAE and ViT as transformers names them; its VideoMAE has no class token
    'vit_mae': Layout(
        marks=('vit.embeddings.cls_token', 'embeddings.cls_token'),
        pretraining=_MAE,
        classifier=_TIMM,
        simplify=_simplify_vit_mae,
        head_may_read_a_token=True,
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
        head_may_read_a_token=True,
    ),
    # github.com/EPFL-VILAB/MultiMAE
    'multimae': Layout(
        marks=('global_tokens',),
        pretraining=_MULTIMAE,
        classifier=_MULTIMAE[:-1],
        simplify=_simplify_multimae,
        needs_norm=False,
    ),
    # MAE-ST in github.com/facebookresearch/SlowFast: the published files
    'slowfast': Layout(
        marks=('pred_head.projections.0.weight', 'head.projection.weight'),
        pretraining=_MAE_ST,
        classifier=(*_LEARNED_POSITIONS, *_TIMM),
        simplify=_simplify_slowfast,
        cls_positions=True,
    ),
    # github.com/facebookresearch/mae_st
    'mae_st': Layout(
        marks=('pos_embed_spatial', 'blocks.0.attn.q.weight'),
        pretraining=_MAE_ST,
        classifier=(*_LEARNED_POSITIONS, *_TIMM),
        simplify=_simplify_mae_st,
        cls_positions=True,
    ),
    # github.com/facebookresearch/mae and the image ViTs of timm
    'timm': Layout(
        marks=('blocks.0.attn.qkv.weight',),
        pretraining=_MAE,
        classifier=_TIMM,
        simplify=_simplify_timm,
        head_may_read_a_token=True,
    ),
}


def unwrap(content: Mapping) -> Mapping:
    """Find the state dict within a checkpoint: under one of ``WRAPPERS``, or the whole of it."""
    for key in WRAPPERS:
        if isinstance(content.get(key), Mapping):
            return content[key]
    return content


def recognise(state_dict: Mapping) -> str | None:
    """Say whose layout this is: a name in ``LAYOUTS``, 'native' for ours, None for neither."""
    state_dict = _bare(unwrap(state_dict))
    if KERNEL in state_dict or is_multimodal(state_dict):
        return NATIVE
    return next((name for name, layout in LAYOUTS.items() if any(mark in state_dict for mark in layout.marks)), None)


def _bare(state_dict: Mapping) -> StateDict:
    """Names without what torch.compile and DistributedDataParallel put before them."""
    return {key.replace('_orig_mod.', '').removeprefix('module.'): value for key, value in state_dict.items()}


def convert(state_dict: Mapping, source: str | None = None) -> StateDict:
    """Rename a state dict of another layout to ours, see the head of this module. Ours stays as it is.

    A head on one token is left out, see `translate`.

    Args:
        state_dict: tensors by name, or a checkpoint around them (``WRAPPERS``).
        source: a name in ``LAYOUTS``, 'native', or None to recognise it.

    Raises:
        ValueError: an unknown layout, a key that has no place in ours, or a key that ours needs and that is missing.
    """
    return translate(state_dict, source)[0]


def translate(state_dict: Mapping, source: str | None = None, pool: str = 'mean') -> tuple[StateDict, tuple[str, ...]]:
    """`convert`, and the keys that it left out: a head on anything but what the model pools, parts of a decoder.

    Args:
        state_dict: as of `convert`.
        source: as of `convert`.
        pool: of the model's backbone. With 'cls' a head on the class token is taken, with the norm before it, and one
            on the mean of the tokens is left.
    """
    source = source or recognise(state_dict)
    state_dict = _bare(unwrap(state_dict))
    if source is None:
        raise ValueError(
            f'The layout of this state dict is unknown; its keys are {listed(state_dict)}. '
            f'Known layouts: {NATIVE}, {", ".join(LAYOUTS)}.'
        )
    if source == NATIVE:
        return state_dict, ()
    layout = _layout(source)
    try:
        state_dict, left = layout.simplify(state_dict)
        if layout.head_may_read_a_token:
            state_dict, heads = _with_head_of(pool, state_dict)
            left += heads
    except (KeyError, IndexError, RuntimeError) as error:  # what it takes apart or puts together is not there
        raise ValueError(
            f'This state dict does not fit the layout {source!r}: {type(error).__name__}: {error}. Give the checkpoint '
            'as it was published, or name another source.'
        ) from error
    pairs = layout.pretraining if is_pretraining(state_dict) else layout.classifier
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
            f'This state dict does not fit the layout {source!r}. Keys without a place: {listed(unplaced)}. '
            f'Missing keys: {listed(missing)}. Give the checkpoint as it was published, or name another source.'
        )
    return {new: state_dict[key] for new, key in origin.items()}, left


def export(state_dict: Mapping[str, Tensor]) -> StateDict:
    """Rename our state dict to OmniMAE's published layout: the inverse of ``convert``.

    A decoder with qkv biases keeps them: the OmniMAE trainer has such keys, the published models have not.

    Raises:
        ValueError: a model that the layout has no names for (one decoder per modality, an encoder alone).
    """
    if len(decoder_prefixes(state_dict)) > 1:
        raise ValueError(
            "The layout 'omnimae' has one decoder for all modalities, this model has one for each: "
            f'{", ".join(decoder_prefixes(state_dict))}. Only models with a shared decoder can be exported.'
        )
    layout = LAYOUTS['omnimae']
    pairs = layout.pretraining if is_pretraining(state_dict) else layout.classifier
    backward = tuple((ours, theirs) for theirs, ours in pairs)
    exported = {new: value for key, value in state_dict.items() if (new := _renamed(key, backward))}
    unplaced = [key for key in state_dict if not _renamed(key, backward)]
    if unplaced:
        raise ValueError(
            f"The layout 'omnimae' has no names for {listed(unplaced)}. Export to the "
            "layout of the model's own method, or give a whole OmniMAE."
        )
    return exported


# timm's model of each width; any other is its ViT-B with other numbers
_TIMM_MODELS = {384: 'vit_small_patch16_224', 1024: 'vit_large_patch16_224', 1280: 'vit_huge_patch14_224'}


_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # a ClipPreprocessor's, where a config says no other


def export_timm(
    state_dict: StateDict,
    *,
    grid: Grid,
    num_heads: int,
    mean: tuple[float, ...] = _MEAN,
    std: tuple[float, ...] = _STD,
) -> tuple[StateDict, dict]:
    """Our encoder or classifier -> the image ViT of timm that computes the same of an image, and its config.json.

    timm has no tubelets: the kernel is summed over time, which is what an image repeated over the tubelet meets, and of
    the positions the first temporal slice is taken, as our backbone does; learned ones are added up. A pretraining
    model gives its encoder with the norm of single tokens; a classifier gives ``fc_norm`` and ``head``. A folder with
    the two files is read by ``timm.create_model('local-dir:FOLDER', pretrained=True)``.

    Args:
        state_dict: of our layout.
        grid: of the clips that the position table is made for, ``model.backbone.grid``.
        num_heads: of each block of the encoder.
        mean: per RGB channel, of the pixels that the weights expect.
        std: likewise.

    Raises:
        ValueError: not of our layout, or positions of another grid.
    """
    state_dict = _with_joint_positions(state_dict)
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
        depth=num_blocks('blocks.', weights),
        num_heads=num_heads,
        mlp_ratio=len(weights['blocks.0.mlp.fc1.weight']) / dim,
        qkv_bias='blocks.0.attn.qkv.bias' in weights,
        class_token='cls_token' in weights,
        global_pool='avg',
        fc_norm='fc_norm.weight' in weights,
    )
    if not {'norm.weight', 'fc_norm.weight'} & weights.keys():
        model_args['final_norm'] = False
    about_data = dict(input_size=(3, *image_size), mean=mean, std=std, interpolation='bicubic', crop_pct=1.0)
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
        raise ValueError('VideoMAE of transformers has no class token. Export to ViTMAE or timm.')
    if not torch.allclose(state_dict[POSITIONS], positions, atol=1e-5):
        raise ValueError(
            f'{POSITIONS} does not hold the fixed sinusoids (it came from MAE, perhaps), and VideoMAE of transformers '
            'can hold no others. Export to timm.'
        )
    is_classifier = 'head.weight' in state_dict and not is_pretraining(state_dict)
    weights = _huggingface_weights(state_dict, 'videomae.' if is_classifier else '')
    return weights, _huggingface_config(state_dict, grid, num_heads, is_classifier)


def _huggingface_weights(state_dict: StateDict, prefix: str) -> StateDict:
    weights: StateDict = {}
    for key, x in state_dict.items():
        name = _encoder_name(key, state_dict)
        if name in (None, 'pos_embed'):
            continue
        if name.startswith('fc_norm.'):
            weights[name] = x
        elif name.startswith('head.'):
            weights[_replaced(name, _HUGGINGFACE_BACKWARD)] = x
        elif name.endswith('.attn.qkv.bias'):
            # transformers 4 has these names, 5 takes them for query.bias and value.bias
            block = _replaced(name.removesuffix('attn.qkv.bias'), [('blocks.', 'encoder.layer.')])
            for part, value in zip(('q_bias', None, 'v_bias'), x.chunk(3), strict=True):
                if part is not None:
                    weights[f'{prefix}{block}attention.attention.{part}'] = value
        else:
            named = _apart(name, x).items()
            weights |= {prefix + _replaced(part, _HUGGINGFACE_BACKWARD): value for part, value in named}
    return weights


def _apart(name: str, x: Tensor) -> StateDict:
    """Queries, keys and values of timm's names as transformers has them; anything else as it is."""
    block, dot, parameter = name.partition('attn.qkv.')
    if not dot:
        return {name: x}
    names = (f'{block}attention.attention.{part}.{parameter}' for part in ('query', 'key', 'value'))
    return dict(zip(names, x.chunk(3), strict=True))


def _huggingface_config(state_dict: StateDict, grid: Grid, num_heads: int, is_classifier: bool) -> dict[str, Any]:
    tubelet = state_dict[KERNEL].shape[2]
    return dict(
        _encoder_config(state_dict, grid, num_heads),
        architectures=['VideoMAEForVideoClassification' if is_classifier else 'VideoMAEModel'],
        model_type='videomae',
        num_frames=grid.t * tubelet,
        tubelet_size=tubelet,
        use_mean_pooling=is_classifier,
    )


def _encoder_config(state_dict: StateDict, grid: Grid, num_heads: int) -> dict[str, Any]:
    """What the configs of transformers' ViTs share; a classifier's has the names of its classes."""
    dim, _, _, height, width = state_dict[KERNEL].shape
    config: dict[str, Any] = dict(
        image_size=_one_or_two(grid.h * height, grid.w * width),
        patch_size=_one_or_two(height, width),
        hidden_size=dim,
        num_hidden_layers=num_blocks('backbone.blocks.', state_dict),
        num_attention_heads=num_heads,
        intermediate_size=len(state_dict['backbone.blocks.0.mlp.fc1.weight']),
        layer_norm_eps=1e-6,
        qkv_bias='backbone.blocks.0.attn.qkv.bias' in state_dict,
    )
    if 'head.weight' in state_dict:
        config['id2label'] = {str(label): f'LABEL_{label}' for label in range(len(state_dict['head.weight']))}
        config['label2id'] = {name: int(label) for label, name in config['id2label'].items()}
    return config


class MAEDecoder(NamedTuple):
    """What the weights of MAE's decoder do not tell.

    Attributes:
        num_heads: of each of its blocks.
        normalize: of its PixelTarget.
        mask_ratio: share of the patches that are hidden.
    """

    num_heads: int
    normalize: str | None
    mask_ratio: float


def export_vit_mae(
    state_dict: StateDict, *, grid: Grid, num_heads: int, pool: str = 'mean', decoder: MAEDecoder | None = None
) -> tuple[StateDict, dict]:
    """Our image model with a class token -> ViTMAE or ViT of transformers, and its config.json.

    A pretraining model gives a ``ViTMAEForPreTraining``, an encoder a ``ViTMAEModel``, a classifier with ``pool='cls'``
    a ``ViTForImageClassification``. Names are those of version 4, which 5 reads.

    Args:
        state_dict: of our layout.
        grid: of the images that the position table is made for, ``model.backbone.grid``.
        num_heads: of each block of the encoder.
        pool: of the backbone.
        decoder: of a pretraining model.

    Raises:
        ValueError: not of our layout, patches of several frames, a decoder that is not MAE's, a head on the mean of the
            patches, or no norm behind the blocks.
    """
    state_dict = _with_joint_positions(state_dict)
    _check_native(state_dict, grid)
    is_classifier = 'head.weight' in state_dict and decoder is None
    if state_dict[KERNEL].shape[2] != 1:
        raise ValueError('With a class token transformers has ViTMAE, which is for images alone. Export to timm.')
    if is_classifier and pool != 'cls':
        raise ValueError(
            "transformers' ViT has its head on the class token, and this model has pool='mean'. Export to timm."
        )
    if not {'norm.weight', 'backbone.norm.weight'} & state_dict.keys():
        raise ValueError(
            'ViTMAE of transformers has a norm behind the blocks, and this model has none. Export to timm.'
        )
    if decoder is None:
        plain = {name: x for key, x in state_dict.items() if (name := _encoder_name(key, state_dict))}
        plain['pos_embed'] = _with_first_row(plain['pos_embed'])
        plain['patch_embed.proj.weight'] = plain['patch_embed.proj.weight'].squeeze(2)
        plain = {name.removeprefix('fc_'): x for name, x in plain.items()}
    else:
        plain = export_mae(state_dict)
    weights: StateDict = {}
    prefix = '' if decoder is None and not is_classifier else 'vit.'
    for name, x in plain.items():
        weights |= {_vit_mae_name(part, prefix): value for part, value in _apart(name, x).items()}
    config = _encoder_config(state_dict, grid, num_heads)
    if is_classifier:
        return weights, dict(config, architectures=['ViTForImageClassification'], model_type='vit')
    if decoder is None:
        return weights, dict(config, architectures=['ViTMAEModel'], model_type='vit_mae')
    if decoder.normalize == 'channel':
        raise ValueError("ViTMAE of transformers has no target.normalize='channel'. Choose 'patch' or None.")
    return weights, dict(
        config,
        architectures=['ViTMAEForPreTraining'],
        model_type='vit_mae',
        decoder_hidden_size=len(state_dict['head.decoder_embed.weight']),
        decoder_num_hidden_layers=num_blocks('head.blocks.', state_dict),
        decoder_num_attention_heads=decoder.num_heads,
        decoder_intermediate_size=len(state_dict['head.blocks.0.mlp.fc1.weight']),
        mask_ratio=decoder.mask_ratio,
        norm_pix_loss=decoder.normalize == 'patch',
    )


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
            f"tokens='decoder'. It has no names for {listed(unplaced)}."
        )
    if state_dict[KERNEL].shape[2] != 1 or state_dict['head.pos_embed'].shape[2] != len(state_dict['head.norm.weight']):
        raise ValueError("The layout 'mae' has patches of one frame and mask tokens of the decoder's width.")
    weights = {str(names[key]): x for key, x in state_dict.items()}
    for name in ('pos_embed', 'decoder_pos_embed'):
        weights[name] = _with_first_row(weights[name])
    weights['patch_embed.proj.weight'] = weights['patch_embed.proj.weight'].squeeze(2)
    weights['mask_token'] = weights['mask_token'].unsqueeze(0)
    return weights


def export_mae_st(state_dict: StateDict) -> StateDict:
    """Our pretraining model, classifier or encoder -> the names of MAE-ST's repository.

    Raises:
        ValueError: positions that are not learned, or a decoder of another kind.
    """
    if 'head.decoder_embed.weight' in state_dict and CLS_TOKEN in state_dict and 'head.cls_token' not in state_dict:
        raise ValueError(
            "The layout 'mae_st' has a class token of the decoder's own, and this decoder goes on with the encoder's. "
            "Export to 'slowfast'."
        )
    return _mae_st_names(state_dict, 'mae_st')


def export_slowfast(state_dict: StateDict) -> StateDict:
    """Our pretraining model, classifier or encoder -> the names of MAE-ST's released files, which are SlowFast's.

    Raises:
        ValueError: positions that are not learned, or a decoder of another kind.
    """
    if 'head.cls_token' in state_dict:
        raise ValueError("The layout 'slowfast' has no class token of the decoder's own. Export to 'mae_st'.")
    depth = num_blocks('head.blocks.', state_dict)
    names = (
        ('decoder_norm.', f'pred_head.transforms.0.{depth}.'),
        ('decoder_blocks.', 'pred_head.transforms.0.'),
        ('decoder_pred.', 'pred_head.projections.0.'),
        ('head.', 'head.projection.'),
        *((f'decoder_{theirs}', f'dec_{theirs}') for theirs, _ in _LEARNED_POSITIONS),
    )
    return {_renamed(key, names) or key: x for key, x in _mae_st_names(state_dict, 'slowfast').items()}


def _mae_st_names(state_dict: StateDict, target: str) -> StateDict:
    layout = LAYOUTS[target]
    pairs = layout.pretraining if is_pretraining(state_dict) else layout.classifier
    names = {key: _renamed(key, tuple((ours, theirs) for theirs, ours in pairs)) for key in state_dict}
    unplaced = [key for key, name in names.items() if name is None]
    is_learned = (CLS_POSITION if CLS_TOKEN in state_dict else 'backbone.pos_embed_space') in state_dict
    if unplaced or not is_learned or len(state_dict.get('head.decoder_embed.weight', ())) != _width(state_dict):
        raise ValueError(
            f'The layout {target!r} is that of learned positions (backbone.positions) and of one MAEHead with '
            f"tokens='decoder'. It has no names for {listed(unplaced)}."
        )
    weights: StateDict = {}
    for key, x in state_dict.items():
        name = str(names[key])
        block, dot, parameter = name.partition('attn.qkv.')
        if dot:
            weights |= {f'{block}attn.{part}.{parameter}': rows for part, rows in zip('qkv', x.chunk(3), strict=True)}
        else:
            weights[name.removeprefix('fc_')] = x.unsqueeze(0) if name == 'mask_token' else x
    for name in ('pos_embed', 'decoder_pos_embed'):
        if name in weights and f'{name}_class' in weights:
            weights[name] = torch.cat([weights.pop(f'{name}_class'), weights[name]], 1)
    return weights


def _width(state_dict: StateDict) -> int:
    """Of the mask token, 0 without one."""
    return state_dict['head.mask_token'].shape[-1] if 'head.mask_token' in state_dict else 0


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
    has_decoder = is_pretraining(state_dict)
    backward = tuple((ours, theirs) for theirs, ours in (_VIDEOMAE if has_decoder else _TIMM))
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
        if has_decoder and key.startswith('backbone.'):
            name = f'encoder.{name}'
        if name.endswith('attn.qkv.bias'):
            prefix = name.removesuffix('qkv.bias')
            weights[f'{prefix}q_bias'], _, weights[f'{prefix}v_bias'] = x.chunk(3)
        else:
            weights[name] = x.unsqueeze(0) if name == 'mask_token' else x
    return weights


def export_multimae(state_dict: StateDict) -> StateDict:
    """Our MultiMAE, or its encoder -> the published names. Learned weights of the tasks stand in no published file.

    Raises:
        ValueError: patches of several frames, or a grid that is not square.
    """
    backward = tuple((ours, theirs) for theirs, ours in _MULTIMAE)
    for key, x in state_dict.items():
        if key.endswith('.patch_embed.weight') and x.shape[2] != 1:
            raise ValueError(f"{key}: patches of {x.shape[2]} frames; the layout 'multimae' is for images alone.")
    weights: StateDict = {}
    for key, x in state_dict.items():
        if key.startswith(TASK_WEIGHTS):
            continue
        name = _renamed(key, backward)
        if name is None or not is_multimodal(state_dict):
            raise ValueError(f"The layout 'multimae' has no name for {key}. Give a MultiMAE, or the encoder of one.")
        table = _MULTIMAE_INPUTS if name.startswith('input_adapters.') else _MULTIMAE_OUTPUTS
        if '_adapters.' in name:
            # .norm. and .attn. of the blocks keep their names
            head, blocks, rest = name.partition('.blocks.')
            name = _replaced(head + ('.' if blocks else ''), [(ours, theirs) for theirs, ours in table])
            name = name.removesuffix('.') + '.decoder_transformer.' + rest if blocks else name
        if name.endswith('.pos_emb'):
            side = math.isqrt(x.shape[1])
            if side**2 != x.shape[1]:
                raise ValueError(f"{key} has {x.shape[1]} places; the layout 'multimae' is for square images alone.")
            x = x.transpose(1, 2).unflatten(2, (side, side))
        elif key.endswith('patch_embed.weight'):
            x = x.squeeze(2)
        elif key.endswith('.mask_token') or '.modality_embed.' in key:
            x = x.unsqueeze(0)
        weights[name] = x
    for name in [name for name in weights if '.out_proj.' in name]:
        x = weights[name].unflatten(0, (_places_in_patch(name, weights), -1))
        weights[name] = x.transpose(0, 1).flatten(0, 1)
    return weights


def take_modality(state_dict: StateDict, modality: str = 'rgb') -> StateDict:
    """Our MultiMAE, or its encoder -> a plain ViT of ours that sees one of its modalities.

    The global token becomes the class token. There is no norm behind the blocks: ``final_norm=False``.

    Raises:
        ValueError: the model has no such modality, or several global tokens.
    """
    prefix = f'{TOKENIZERS}{modality}.'
    if modality not in modalities_of(state_dict) or state_dict[GLOBAL_TOKENS].shape[1] != 1:
        raise ValueError(
            f'No plain ViT of modality={modality!r} can be made of a model of {sorted(modalities_of(state_dict))} with '
            f'{state_dict[GLOBAL_TOKENS].shape[1]} global tokens. Name one of these, of a model with one global token.'
        )
    weights = {key: x for key, x in state_dict.items() if key.startswith('backbone.blocks.')}
    weights |= {'backbone.' + key.removeprefix(prefix): x for key, x in state_dict.items() if key.startswith(prefix)}
    return {CLS_TOKEN: state_dict[GLOBAL_TOKENS], **weights}


def as_modality(state_dict: StateDict, modality: str = 'rgb') -> StateDict:
    """A plain ViT of ours -> what it has of a MultiMAE: blocks and one tokenizer, without the norm behind the blocks.

    A class token becomes the global token. Learned positions become one table, with that of the token in the token.
    """
    state_dict = _with_joint_positions(state_dict)
    weights = {key: x for key, x in state_dict.items() if key.startswith('backbone.blocks.')}
    for name in ('patch_embed.weight', 'patch_embed.bias', 'pos_embed'):
        if f'backbone.{name}' in state_dict:
            weights[f'{TOKENIZERS}{modality}.{name}'] = state_dict[f'backbone.{name}']
    if CLS_TOKEN in state_dict:
        weights[GLOBAL_TOKENS] = state_dict[CLS_TOKEN]
    return weights


_HUGGINGFACE_BACKWARD = tuple((timm, theirs) for theirs, timm in HUGGINGFACE_NAMES)
_VIT_MAE_BACKWARD = (
    ('cls_token', 'embeddings.cls_token'),
    ('pos_embed', 'embeddings.position_embeddings'),
    *_HUGGINGFACE_BACKWARD,
)


def _encoder_name(key: str, state_dict: Collection[str]) -> str | None:
    """Name a tensor of ours as timm does; None for a decoder's."""
    if is_pretraining(state_dict) and not key.startswith('backbone.'):
        return None
    return _renamed(key, tuple((ours, theirs) for theirs, ours in _TIMM))


def _one_or_two(height: int, width: int) -> int | list[int]:
    return height if height == width else [height, width]


def _vit_mae_name(name: str, prefix: str) -> str:
    """Name a tensor of MAE's as ViTMAE of transformers does; the prefix is that of the encoder."""
    if name.startswith('decoder_blocks.'):
        return 'decoder.decoder_layers.' + _replaced(name.removeprefix('decoder_blocks.'), _HUGGINGFACE_BACKWARD)
    if name.startswith(('decoder_', 'mask_token')):
        return f'decoder.{name}'
    return ('' if name.startswith('head.') else prefix) + _replaced(name, _VIT_MAE_BACKWARD)


def _with_joint_positions(state_dict: StateDict) -> StateDict:
    """One table for positions of places and of time slices; the class token's goes into the token."""
    joint = dict(state_dict)
    if f'{POSITIONS}_space' in joint:
        space, time = joint.pop(f'{POSITIONS}_space'), joint.pop(f'{POSITIONS}_time')
        joint[POSITIONS] = (time[:, :, None] + space[:, None]).flatten(1, 2)
    if CLS_POSITION in joint:
        joint[CLS_TOKEN] = joint[CLS_TOKEN] + joint.pop(CLS_POSITION)
    return joint


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
    parts = [f'{TOKENIZERS}{name}.' for name in sorted(modalities_of(state_dict))] or ['backbone.']
    names = [*_affine(*(f'{part}patch_embed.' for part in parts)), *_block_keys('backbone.blocks.', state_dict)]
    for part in parts:
        names += _position_keys(part, state_dict, layout)
    if is_multimodal(state_dict):
        names += [GLOBAL_TOKENS, *(key for key in state_dict if key.endswith('.class_embed.weight'))]
    if CLS_TOKEN in state_dict:
        names.append(CLS_TOKEN)
    if is_encoder(state_dict):
        return {*names, *(_affine('backbone.norm.') if 'backbone.norm.weight' in state_dict else ())}
    if not is_pretraining(state_dict):
        return {*names, *_affine('norm.', 'head.')}
    if layout.needs_norm or 'backbone.norm.weight' in state_dict:
        names += _affine('backbone.norm.')
    for prefix in decoder_prefixes(state_dict):
        names += [f'{prefix}mask_token', f'{prefix}decoder_embed.weight']
        names += _affine(f'{prefix}norm.', f'{prefix}pred.')
        names += [f'{prefix}decoder_embed.bias'] if layout.embed_bias else []
        names += _position_keys(prefix, state_dict, layout)
        names += [f'{prefix}cls_token'] if f'{prefix}cls_token' in state_dict else []
        names += _block_keys(f'{prefix}blocks.', state_dict)
        if is_multimodal(state_dict):
            names += _affine(*(prefix + name for name in _CROSS_ATTENTION))
            names += [f'{prefix}modality_embed.{name}' for name in modalities_of(state_dict)]
    return set(names)


def _position_keys(prefix: str, state_dict: Collection[str], layout: Layout) -> list[str]:
    if layout.fixed_positions:
        return []
    names = [f'{prefix}pos_embed']
    if f'{prefix}pos_embed_space' in state_dict:
        names = [f'{prefix}pos_embed_space', f'{prefix}pos_embed_time']
    return [*names, f'{prefix}pos_embed_cls'] if layout.cls_positions and CLS_TOKEN in state_dict else names


_CROSS_ATTENTION = ('query_norm.', 'context_norm.', 'attn.q.', 'attn.kv.', 'attn.proj.', 'mlp.fc1.', 'mlp.fc2.')


def _affine(*prefixes: str) -> list[str]:
    return [prefix + name for prefix in prefixes for name in ('weight', 'bias')]


def _block_keys(prefix: str, state_dict: Collection[str]) -> list[str]:
    """List the keys of the blocks 0..last, with qkv biases everywhere or nowhere, as the first block has it."""
    bias = f'{prefix}0.attn.qkv.bias' in state_dict
    names = [name for name in BLOCK_KEYS if bias or name != 'attn.qkv.bias']
    return [f'{prefix}{block}.{name}' for block in range(num_blocks(prefix, state_dict)) for name in names]


def num_blocks(prefix: str, state_dict: Collection[str]) -> int:
    numbers = (re.match(re.escape(prefix) + r'(\d+)\.', key) for key in state_dict)
    return max((int(match[1]) + 1 for match in numbers if match), default=0)


def is_pretraining(state_dict: Collection[str]) -> bool:
    return any(key.endswith('mask_token') for key in state_dict)


def is_multimodal(state_dict: Collection[str]) -> bool:
    return any(key.startswith(TOKENIZERS) for key in state_dict)


def modalities_of(state_dict: Collection[str]) -> set[str]:
    """Return the modalities of a backbone with tokenizers; none of one that has its own patch embedding."""
    return {key.removeprefix(TOKENIZERS).split('.')[0] for key in state_dict if key.startswith(TOKENIZERS)}


def is_encoder(state_dict: Collection[str]) -> bool:
    return all(key.startswith('backbone.') for key in state_dict)


def decoder_prefixes(state_dict: Collection[str]) -> list[str]:
    """Prefixes of our decoders: ['head.'], or ['head.image.', 'head.video.'], or nothing in a classifier."""
    return sorted(key.removesuffix('mask_token') for key in state_dict if key.endswith('mask_token'))


def listed(keys: Collection[str], most: int = 8) -> str:
    keys = list(keys)
    rest = f' and {len(keys) - most} more' if len(keys) > most else ''
    return (', '.join(keys[:most]) + rest) or 'none'
