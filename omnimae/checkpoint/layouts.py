"""Published layouts: one table each, read in both directions, from their names to ours and back.

Converting renames and restacks: no value changes, position tables included. What another encoder stores separately is
put together:

- VideoMAE and VideoMAE V2 have biases for queries and values only; that of the keys is zero. Their positions are our
  fixed sinusoids and are in no file, so the model's own tables stay. The decoder becomes an MAEHead with
  ``qkv_bias='qv', tokens='decoder', embed_bias=False``.
- MAE (arXiv:2111.06377) and other image ViTs, in timm's names or in transformers' ('vit_mae': ViTMAE, and its ViT),
  become a model of one-frame patches. A decoder in the file becomes an MAEHead with ``qkv_bias=True, tokens='decoder',
  positions='sincos2d'``.
- MAE-ST (arXiv:2205.09113) has learned positions, also of the class token, and separate queries, keys and values. In
  its repository ('mae_st') the decoder has a class token of its own. The released weights are SlowFast's ('slowfast'):
  that decoder goes on with the encoder's token and has a position for every token. The decoder becomes an MAEHead with
  ``qkv_bias=True, tokens='decoder'`` and ``positions='separable', cls_token=True`` or ``positions='learned'``.
- MultiMAE (arXiv:2204.01678) has adapters for inputs and outputs, our tokenizers and heads. Its predictions of a patch
  have the channels first. `to_plain` and `to_multimodal` go from it to a plain ViT and back.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from .files import unwrap
from .names import (
    CLS_POSITION,
    CLS_TOKEN,
    GLOBAL_TOKENS,
    KERNEL,
    POOLED_NORM,
    POSITIONS,
    TASK_WEIGHTS,
    TOKENIZERS,
    StateDict,
    expected_keys,
    kind_of,
    listed,
    modalities_of,
    num_blocks,
)

NATIVE = 'native'


class Form(NamedTuple):
    """How tensors are stored on the two sides of a line: functions of all of its tensors that give a tuple."""

    join: Callable[..., Sequence[Tensor]]
    split: Callable[..., Sequence[Tensor]]


class Line(NamedTuple):
    """One line of a layout's table, read in both directions.

    Several names on a side are separated by spaces. A ``*`` matches one part of a name, such as the number of a
    block; a final dot matches all that begins so. Of several lines for the same tensors the first one is written, and
    all are read.

    Attributes:
        theirs: names in the layout. The line is used only if all of them are there.
        ours: names in our models, likewise.
        form: of the tensors; by default the same on both sides.
        with_token: whether the line is for models with a class token, or for those without; None for both.
    """

    theirs: str
    ours: str
    form: Form = Form(lambda *x: x, lambda *x: x)
    with_token: bool | None = None


class Layout(NamedTuple):
    """How another code base names what we have.

    Attributes:
        marks: keys of which every checkpoint of that layout has one, and no other has.
        encoder: table of the encoder.
        decoder: table of what else a pretraining model has.
        head: table of what else a classifier has.
        holds: the models that the layout has names for.
        fits: whether it can hold one of our state dicts, as far as the names do not say.
        prefixes: prefix of the encoder's names in 'pretraining' and in a 'classifier'. In reading all are dropped.
        leaves: their state dict -> the beginnings of names that have no place in ours.
        numbered: beginning of the decoder's blocks, where the next number, ``#`` in the table, is its norm.
        fixed_positions: whether positions are fixed sinusoids, which are in no file.
    """

    marks: tuple[str, ...]
    encoder: tuple[Line, ...]
    decoder: tuple[Line, ...] = ()
    head: tuple[Line, ...] = ()
    holds: str = ''
    fits: Callable[[StateDict], bool] = lambda ours: True
    prefixes: Mapping[str, str] = {}
    leaves: Callable[[Collection[str]], tuple[str, ...]] = lambda theirs: ()
    numbered: str = ''
    fixed_positions: bool = False

    def table(self, kind: str, depth: int) -> tuple[Line, ...]:
        """The lines for a kind of model, see `kind_of`, whose decoder has ``depth`` blocks."""
        more = dict(pretraining=self.decoder, classifier=self.head).get(kind, ())
        return tuple(line._replace(theirs=line.theirs.replace('#', str(depth))) for line in (*more, *self.encoder))


def _with_zero_row(positions: Tensor) -> Tensor:
    """(1, N, D) -> (1, 1 + N, D): the class token's position is zero."""
    return torch.cat([torch.zeros_like(positions[:, :1]), positions], 1)


def _without_zero_row(positions: Tensor) -> tuple[Tensor]:
    if positions[:, 0].any():
        raise ValueError('gives the class token a position, and our decoder has none for it.')
    return (positions[:, 1:],)


def _of_image(kernel: Tensor) -> tuple[Tensor]:
    if kernel.shape[2] != 1:
        raise ValueError(f'has patches of {kernel.shape[2]} frames, and this layout is for images alone.')
    return (kernel.squeeze(2),)


def _as_map(positions: Tensor) -> tuple[Tensor]:
    side = math.isqrt(positions.shape[1])
    if side**2 != positions.shape[1]:
        raise ValueError(f'has {positions.shape[1]} places, and this layout is for square images alone.')
    return (positions.transpose(1, 2).unflatten(2, (side, side)),)


# separate queries, keys and values; VideoMAE's keys have no bias, ours is zero
QKV = Form(lambda *parts: (torch.cat(parts),), lambda x: x.chunk(3))
QV = Form(lambda query, value: (torch.cat([query, torch.zeros_like(query), value]),), lambda x: x.chunk(3)[::2])
# a kernel for images is one of one frame
FRAME = Form(lambda x: (x.unsqueeze(2) if x.dim() == 4 else x,), _of_image)
# (1, ..., 1, d) is (1, d) in ours
ROW = Form(lambda x: (x.flatten(0, -2),), lambda x: (x.unsqueeze(0),))
# the class token takes its position into itself (zero in MAE); MAE's decoder has none for it
INTO_TOKEN = Form(
    lambda token, table: (token + table[:, :1], table[:, 1:]), lambda token, table: (token, _with_zero_row(table))
)
ZERO_ROW = Form(_without_zero_row, lambda table: (_with_zero_row(table),))
# the class token's position is the first row of a joint table
FIRST_ROW = Form(
    lambda token, table: (token, table[:, :1], table[:, 1:]),
    lambda token, own, table: (token, torch.cat([own, table], 1)),
)
DECODER_ROW = Form(lambda table: (table[:, :1], table[:, 1:]), lambda own, table: (torch.cat([own, table], 1),))
# a table of positions as a map of (1, D, h, w)
MAP = Form(lambda x: (x.flatten(2).transpose(1, 2) if x.dim() == 4 else x,), _as_map)


def _qkv(theirs: str, ours: str, names: str, *parameters: str, form: Form = QKV) -> tuple[Line, ...]:
    """Lines of queries, keys and values that are separate in the blocks, by these names."""
    return tuple(
        Line(' '.join(f'{theirs}*.{name}{end}' for name in names.split()), f'{ours}*.attn.qkv.{end}', form)
        for end in parameters or ('weight', 'bias')
    )


_ATTENTION = 'attention.attention.query. attention.attention.key. attention.attention.value.'


def _transformers_blocks(theirs: str, ours: str, *biases: Line) -> tuple[Line, ...]:
    """Blocks as transformers writes them, with the lines for the biases of queries, keys and values."""
    names = (
        ('attention.output.dense.', 'attn.proj.'),
        ('intermediate.dense.', 'mlp.fc1.'),
        ('output.dense.', 'mlp.fc2.'),
        ('layernorm_before.', 'norm1.'),
        ('layernorm_after.', 'norm2.'),
    )
    lines = (Line(f'{theirs}*.{their_name}', f'{ours}*.{name}') for their_name, name in names)
    return (*_qkv(theirs, ours, _ATTENTION, 'weight'), *biases, *lines)


def _videomae_blocks(theirs: str, ours: str) -> tuple[Line, ...]:
    """Blocks of VideoMAE in transformers: version 4 writes q_bias, 5 query.bias and perhaps a key.bias."""
    query, _, value = _ATTENTION.split()
    return _transformers_blocks(
        theirs,
        ours,
        *_qkv(theirs, ours, 'attention.attention.q_ attention.attention.v_', 'bias', form=QV),
        *_qkv(theirs, ours, _ATTENTION, 'bias'),
        *_qkv(theirs, ours, f'{query} {value}', 'bias', form=QV),
    )


def _vit_blocks(theirs: str, ours: str) -> tuple[Line, ...]:
    """Blocks of ViT and ViTMAE in transformers: as in files, and as version 5 has them in memory."""
    return (
        *_transformers_blocks(theirs, ours, *_qkv(theirs, ours, _ATTENTION, 'bias')),
        *_qkv(theirs, ours, 'attention.q_proj. attention.k_proj. attention.v_proj.'),
        Line(f'{theirs}*.attention.o_proj.', f'{ours}*.attn.proj.'),
        Line(f'{theirs}*.mlp.', f'{ours}*.mlp.'),
    )


def _image_vit(cls_token: str, pos_embed: str, patch_embed: str) -> tuple[Line, ...]:
    """The stem of a ViT for images."""
    return (
        Line(f'{cls_token} {pos_embed}', f'{CLS_TOKEN} {POSITIONS}', INTO_TOKEN),
        Line(cls_token, CLS_TOKEN),
        Line(pos_embed, POSITIONS),
        Line(f'{patch_embed}weight', KERNEL, FRAME),
        Line(f'{patch_embed}bias', 'backbone.patch_embed.bias'),
    )


_POOLED = (Line('fc_norm.', 'norm.'), Line('head.', 'head.'))  # timm's names for what follows the pooling

_VIDEOMAE_DECODER = (
    Line('mask_token', 'head.mask_token', ROW),
    Line('encoder_to_decoder.weight', 'head.decoder_embed.weight'),
    Line('decoder.norm.', 'head.norm.'),
    Line('decoder.head.', 'head.pred.'),
)

_MAE_DECODER = (
    Line('mask_token', 'head.mask_token', ROW),
    Line('decoder_embed.', 'head.decoder_embed.'),
    Line('decoder_blocks.', 'head.blocks.'),
    Line('decoder_norm.', 'head.norm.'),
    Line('decoder_pred.', 'head.pred.'),
)


def _learned_positions(theirs: str, ours: str) -> tuple[Line, ...]:
    """MAE-ST's positions of places, of time slices and of the class token."""
    return (
        Line(f'{theirs}pos_embed_spatial', f'{ours}pos_embed_space'),
        Line(f'{theirs}pos_embed_temporal', f'{ours}pos_embed_time'),
        Line(f'{theirs}pos_embed_class', f'{ours}pos_embed_cls'),
    )


_MAE_ST_ENCODER = (
    Line('cls_token pos_embed', f'{CLS_TOKEN} {CLS_POSITION} {POSITIONS}', FIRST_ROW),
    *_learned_positions('', 'backbone.'),
    Line('cls_token', CLS_TOKEN),
    Line('pos_embed', POSITIONS),
    Line('patch_embed.proj.', 'backbone.patch_embed.'),
    *_qkv('blocks.', 'backbone.blocks.', 'attn.q. attn.k. attn.v.'),
    Line('blocks.', 'backbone.blocks.'),
    Line('norm.', 'backbone.norm.'),
)
_MAE_ST_POSITIONS = (
    Line('decoder_pos_embed', 'head.pos_embed_cls head.pos_embed', DECODER_ROW, with_token=True),
    Line('decoder_pos_embed', 'head.pos_embed'),
)

_PRETRAINED = "; in pretraining with backbone.cls_token=True and one MAEHead with tokens='decoder'"


def _has_decoder(ours: StateDict, *keys: str) -> bool:
    """Whether a decoder, if there is one, is one MAEHead with tokens='decoder', and the model has these keys, too."""
    if 'head.mask_token' not in ours:
        return True
    width = ours['head.mask_token'].shape[-1]
    return {'head.decoder_embed.bias', *keys} <= ours.keys() and len(ours['head.decoder_embed.weight']) == width


def _learns_positions(ours: StateDict) -> bool:
    return (CLS_POSITION if CLS_TOKEN in ours else f'{POSITIONS}_space') in ours


_MULTIMAE_DECODER = (
    Line('output_adapters.*.pos_emb', 'head.*.pos_embed', MAP),
    Line('output_adapters.*.mask_token', 'head.*.mask_token', ROW),
    Line('output_adapters.*.task_embeddings.', 'head.*.modality_embed.', ROW),
    Line('output_adapters.*.decoder_transformer.', 'head.*.blocks.'),
    Line('output_adapters.*.decoder.', 'head.*.attn.'),
    Line('output_adapters.*.proj_context.', 'head.*.decoder_embed.'),
    Line('output_adapters.*.out_norm.', 'head.*.norm.'),
    Line('output_adapters.*.out_proj.', 'head.*.pred.'),
    Line('output_adapters.', 'head.'),
)


def _transfer_heads(keys: Collection[str]) -> tuple[str, ...]:
    """MultiMAE's heads of transfer, which have no mask token."""
    tasks = {key.split('.')[1] for key in keys if key.startswith('output_adapters.')}
    return tuple(f'output_adapters.{x}.' for x in sorted(tasks) if f'output_adapters.{x}.mask_token' not in keys)


LAYOUTS = {
    # github.com/facebookresearch/omnivore: the published files, and the checkpoints that its trainer writes
    'omnimae': Layout(
        marks=('trunk.patch_embed.proj.1.weight',),
        encoder=(
            Line('trunk.pos_embed', POSITIONS),
            Line('trunk.patch_embed.proj.1.', 'backbone.patch_embed.'),
            Line('trunk.blocks.', 'backbone.blocks.'),
            Line('trunk.norm.', 'backbone.norm.'),
        ),
        decoder=(
            Line('trunk.mask_token', 'head.mask_token'),
            Line('trunk.decoder.pos_embed', 'head.pos_embed'),
            Line('trunk.decoder.decoder_embed.', 'head.decoder_embed.'),
            Line('trunk.decoder.decoder_blocks.', 'head.blocks.'),
            Line('trunk.decoder.norm.', 'head.norm.'),
            Line('head.', 'head.pred.'),
            Line('heads.0.projector.', 'head.pred.'),  # of its trainer
        ),
        # the trainer has the head in a Sequential for SSv2, and a plain one for IN1K
        head=(
            Line('trunk.norm.', 'norm.'),
            Line('head.', 'head.'),
            Line('heads.0.0.', 'head.'),
            Line('heads.0.', 'head.'),
        ),
        holds="a whole OmniMAE, with one decoder for all modalities; others have the layout of their model's method",
    ),
    # github.com/MCG-NJU/VideoMAE and github.com/OpenGVLab/VideoMAEv2
    'videomae': Layout(
        marks=('encoder.blocks.0.attn.q_bias', 'blocks.0.attn.q_bias', 'backbone.blocks.0.attn.q_bias'),
        encoder=(
            Line('cls_token', CLS_TOKEN),
            Line('patch_embed.proj.', 'backbone.patch_embed.'),
            *_qkv('blocks.', 'backbone.blocks.', 'attn.q_ attn.v_', 'bias', form=QV),
            Line('blocks.', 'backbone.blocks.'),
            Line('norm.', 'backbone.norm.'),
        ),
        decoder=(
            *_VIDEOMAE_DECODER,
            *_qkv('decoder.blocks.', 'head.blocks.', 'attn.q_ attn.v_', 'bias', form=QV),
            Line('decoder.blocks.', 'head.blocks.'),
        ),
        head=_POOLED,
        holds="fixed positions and, in pretraining, one MAEHead with tokens='decoder', embed_bias=False",
        prefixes=dict(pretraining='encoder.'),
        fixed_positions=True,
    ),
    # ViTMAE and ViT as transformers names them; its VideoMAE has no class token
    'vit_mae': Layout(
        marks=('vit.embeddings.cls_token', 'embeddings.cls_token'),
        encoder=(
            *_image_vit(
                'embeddings.cls_token', 'embeddings.position_embeddings', 'embeddings.patch_embeddings.projection.'
            ),
            *_vit_blocks('encoder.layer.', 'backbone.blocks.'),
            *_vit_blocks('layers.', 'backbone.blocks.'),
            Line('layernorm.', 'backbone.norm.'),
        ),
        decoder=(
            Line('decoder.decoder_pos_embed', 'head.pos_embed', ZERO_ROW),
            *_vit_blocks('decoder.decoder_layers.', 'head.blocks.'),
            *_vit_blocks('decoder.decoder_encoder.layer.', 'head.blocks.'),  # version 5
            *(line._replace(theirs=f'decoder.{line.theirs}') for line in _MAE_DECODER if line.ours != 'head.blocks.'),
        ),
        head=(Line('fc_norm.', 'norm.'), Line('classifier.', 'head.')),
        holds='image ViTs' + _PRETRAINED,
        fits=lambda ours: _has_decoder(ours, CLS_TOKEN),
        prefixes=dict(pretraining='vit.', classifier='vit.'),
        leaves=lambda keys: ('pooler.', *(() if 'decoder.decoder_pred.weight' in keys else ('decoder.',))),
    ),
    # VideoMAE as transformers names it
    'huggingface': Layout(
        marks=(
            'videomae.embeddings.patch_embeddings.projection.weight',
            'embeddings.patch_embeddings.projection.weight',
        ),
        encoder=(
            Line('embeddings.patch_embeddings.projection.', 'backbone.patch_embed.'),
            *_videomae_blocks('encoder.layer.', 'backbone.blocks.'),
            Line('layernorm.', 'backbone.norm.'),
        ),
        decoder=(*_VIDEOMAE_DECODER, *_videomae_blocks('decoder.decoder_layers.', 'head.blocks.')),
        head=(Line('fc_norm.', 'norm.'), Line('classifier.', 'head.')),
        holds='fixed positions, without a class token',
        prefixes=dict(pretraining='videomae.', classifier='videomae.'),
        fixed_positions=True,
    ),
    # github.com/EPFL-VILAB/MultiMAE
    'multimae': Layout(
        marks=('global_tokens',),
        encoder=(
            Line('global_tokens', GLOBAL_TOKENS),
            Line('input_adapters.*.pos_emb', f'{TOKENIZERS}*.pos_embed', MAP),
            Line('input_adapters.*.class_emb.', f'{TOKENIZERS}*.class_embed.'),
            Line('input_adapters.*.proj.weight', f'{TOKENIZERS}*.patch_embed.weight', FRAME),
            Line('input_adapters.*.proj.bias', f'{TOKENIZERS}*.patch_embed.bias'),
            Line('encoder.', 'backbone.blocks.'),
        ),
        decoder=_MULTIMAE_DECODER,
        holds='a MultiMAE, or the encoder of one',
        leaves=_transfer_heads,
    ),
    # MAE-ST in github.com/facebookresearch/SlowFast: the published files
    'slowfast': Layout(
        marks=('pred_head.projections.0.weight', 'head.projection.weight'),
        encoder=_MAE_ST_ENCODER,
        decoder=(
            *_MAE_ST_POSITIONS,
            *_learned_positions('dec_', 'head.'),
            Line('mask_token', 'head.mask_token', ROW),
            Line('decoder_embed.', 'head.decoder_embed.'),
            Line('pred_head.transforms.0.#.', 'head.norm.'),
            *_qkv('pred_head.transforms.0.', 'head.blocks.', 'attn.q. attn.k. attn.v.'),
            Line('pred_head.transforms.0.', 'head.blocks.'),
            Line('pred_head.projections.0.', 'head.pred.'),
        ),
        head=(Line('norm.', 'norm.'), Line('head.projection.', 'head.')),
        holds="learned positions and, in pretraining, one MAEHead with tokens='decoder', cls_token=False",
        fits=lambda ours: _learns_positions(ours) and _has_decoder(ours),
        numbered='pred_head.transforms.0.',
    ),
    # github.com/facebookresearch/mae_st
    'mae_st': Layout(
        marks=('pos_embed_spatial', 'blocks.0.attn.q.weight'),
        encoder=_MAE_ST_ENCODER,
        decoder=(
            *_MAE_ST_POSITIONS,
            *_learned_positions('decoder_', 'head.'),
            Line('decoder_cls_token', 'head.cls_token'),
            *_qkv('decoder_blocks.', 'head.blocks.', 'attn.q. attn.k. attn.v.'),
            *_MAE_DECODER,
        ),
        head=(Line('norm.', 'norm.'), Line('head.', 'head.')),
        holds="learned positions and, in pretraining, one MAEHead with tokens='decoder', cls_token=True",
        fits=lambda ours: (
            _learns_positions(ours) and _has_decoder(ours, *(['head.cls_token'] if CLS_TOKEN in ours else []))
        ),
    ),
    # github.com/facebookresearch/mae and the image ViTs of timm
    'timm': Layout(
        marks=('blocks.0.attn.qkv.weight',),
        encoder=(
            *_image_vit('cls_token', 'pos_embed', 'patch_embed.proj.'),
            Line('blocks.', 'backbone.blocks.'),
            Line('norm.', 'backbone.norm.'),
        ),
        decoder=(
            Line('decoder_pos_embed', 'head.pos_embed', ZERO_ROW, with_token=True),
            Line('decoder_pos_embed', 'head.pos_embed'),
            *_MAE_DECODER,
        ),
        head=_POOLED,
        holds='image ViTs' + _PRETRAINED,
        fits=lambda ours: _has_decoder(ours, CLS_TOKEN),
        leaves=lambda keys: ('pooler.', *(() if 'decoder_pred.weight' in keys else ('mask_token', 'decoder_'))),
    ),
}


# A plain ViT of ours, on the right, is what a MultiMAE has for RGB.
_PLAIN = (
    Line('backbone.blocks.', 'backbone.blocks.'),
    Line(f'{TOKENIZERS}rgb.patch_embed.', 'backbone.patch_embed.'),
    Line(f'{TOKENIZERS}rgb.pos_embed', POSITIONS),
    Line(GLOBAL_TOKENS, CLS_TOKEN),
)


def recognise(state_dict: Mapping) -> str | None:
    """Name the layout: one of ``LAYOUTS``, 'native' for ours, with any backbone, None for an unknown one."""
    state_dict = _bare(unwrap(state_dict))
    if KERNEL in state_dict or modalities_of(state_dict):
        return NATIVE
    known = (name for name, layout in LAYOUTS.items() if any(mark in state_dict for mark in layout.marks))
    return next(known, NATIVE if any(key.startswith('backbone.') for key in state_dict) else None)


def _bare(state_dict: Mapping) -> StateDict:
    """Drop the prefixes of torch.compile and DistributedDataParallel."""
    return {key.replace('_orig_mod.', '').removeprefix('module.'): value for key, value in state_dict.items()}


def convert(state_dict: Mapping, source: str | None = None) -> StateDict:
    """Rename a state dict of another layout to ours, see the head of this module. Ours is returned unchanged.

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
    state_dict = _bare(unwrap(state_dict))
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
    kind = kind_of(state_dict)
    if kind != 'pretraining':
        kind = 'classifier' if any(key.startswith(heads) for key in state_dict) else 'encoder'
    table = layout.table(kind, num_blocks(layout.numbered, state_dict) - 1 if layout.numbered else 0)
    try:
        ours, unplaced = _renamed(state_dict, table)
        ours = _with_pixels(ours, channels_first=False)
    except (KeyError, IndexError, RuntimeError) as error:  # a tensor is missing or has another shape
        raise _misfit(source, f'{type(error).__name__}: {error}.') from error
    if kind == 'classifier':
        ours, head = _with_head_of(pool, ours)
        left += head
    expected = {key for key in expected_keys(ours) if _names_of(key, table)}
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
        form = line.form.split if back else line.form.join
        for key in [key for key in rest if _pattern(old.split()[0]).fullmatch(key)]:
            keys, names = ([_filled(name, key, old) for name in side.split()] for side in (old, new))
            if rest.keys() >= {*keys} and not renamed.keys() & {*names}:
                try:
                    renamed |= zip(names, form(*(rest.pop(key) for key in keys)), strict=True)
                except ValueError as error:
                    raise ValueError(f'{key} {error}') from error
    return renamed, [*rest]


@cache
def _pattern(name: str) -> re.Pattern:
    return re.compile(re.escape(name).replace(r'\*', '([^.]+)') + ('(.+)' if name.endswith('.') else ''))


def _filled(name: str, key: str, names: str) -> str:
    """Fill the wildcards of a name with what ``key`` has in them, which one of ``names`` matches."""
    match = next(found for other in names.split() if (found := _pattern(other).fullmatch(key)))
    parts = iter(match.groups())
    return re.sub(r'\*', lambda _: next(parts), name) + ''.join(parts)


def _names_of(key: str, table: Sequence[Line]) -> list[str]:
    """Their names for what we call ``key``."""
    for line in table:
        if any(_pattern(name).fullmatch(key) for name in line.ours.split()):
            return [_filled(name, key, line.ours) for name in line.theirs.split()]
    return []


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
    for key in [key for key in ours if '.pred.' in key and modalities_of(ours)]:
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
    layout, kind = _layout('timm' if target == 'mae' else target), kind_of(state_dict)
    weights = {key: x for key, x in state_dict.items() if not key.startswith(TASK_WEIGHTS)}
    for key in [key for key in weights if layout.fixed_positions and key.endswith('pos_embed')]:
        x, fixed = weights.pop(key), (positions or {}).get(key)
        if fixed is None or x.shape != fixed.shape or not torch.allclose(x, fixed, atol=1e-5):
            raise ValueError(
                f'{key} does not hold the fixed sinusoids of the config, and the layout {target!r} can hold no others.'
            )
    if not layout.fits(weights) or (target == 'mae' and not {CLS_TOKEN, 'head.mask_token'} <= weights.keys()):
        raise ValueError(f'The layout {target!r} is that of {layout.holds}, and this model is another.')
    table = layout.table(kind, num_blocks('head.blocks.', weights))
    renamed, unplaced = _renamed(_with_pixels(weights, channels_first=True), table, back=True)
    if unplaced:
        raise ValueError(f'The layout {target!r} is that of {layout.holds}. It has no names for {listed(unplaced)}.')
    encoder = {name for key in weights if key.startswith('backbone.') for name in _names_of(key, layout.encoder)}
    return {layout.prefixes.get(kind, '') * (name in encoder) + name: x for name, x in renamed.items()}


def to_plain(state_dict: StateDict) -> tuple[StateDict, list[str]]:
    """Take from our MultiMAE, or its encoder, a plain ViT for RGB -> its weights, and the keys that are left.

    The global token becomes the class token. There is no norm after the blocks: ``final_norm=False``.
    """
    modalities, num_tokens = sorted(modalities_of(state_dict)), state_dict[GLOBAL_TOKENS].shape[1]
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
