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
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cache
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


class Form(NamedTuple):
    """How tensors are stored on the two sides of a line: functions of all of its tensors that give a tuple."""

    join: Callable[..., Sequence[Tensor]]
    split: Callable[..., Sequence[Tensor]]


class Line(NamedTuple):
    """One line of a layout's table, read in both directions.

    A ``*`` stands for one part of a name, as the number of a block; a final dot for all that begins so. Of several
    lines for the same tensors the first one is written, and all are read.

    Attributes:
        theirs: names in the layout; a line counts only where all of them are there.
        ours: names in our models, likewise.
        form: of the tensors; the same on both sides by default.
        with_token: whether the line is for models with a class token, or for those without; None for both.
    """

    theirs: str | tuple[str, ...]
    ours: str | tuple[str, ...]
    form: Form = Form(lambda *x: x, lambda *x: x)
    with_token: bool | None = None


class Layout(NamedTuple):
    """How another code base names what we have.

    Attributes:
        marks: keys of which every checkpoint of that layout has one, and no other has.
        encoder: table of the encoder.
        decoder: table of what else a pretraining model has.
        head: table of what else a classifier has.
        holds: what models the layout has names for.
        prefixes: what stands before the encoder's names in 'pretraining' and in a 'classifier'.
        strips: prefixes that are left out in reading.
        leaves: their state dict -> the beginnings of names that have no place in ours.
        numbered: beginning of the decoder's blocks, where the next number, ``#`` in the table, is its norm.
        needs_norm: whether the encoder of a pretraining model always ends in a norm.
        head_may_read_a_token: whether a classifier may read one token instead of the mean.
    """

    marks: tuple[str, ...]
    encoder: tuple[Line, ...]
    decoder: tuple[Line, ...] = ()
    head: tuple[Line, ...] = ()
    holds: str = ''
    prefixes: Mapping[str, str] = {}
    strips: tuple[str, ...] = ()
    leaves: Callable[[Collection[str]], tuple[str, ...]] = lambda keys: ()
    numbered: str = ''
    needs_norm: bool = True
    head_may_read_a_token: bool = False

    def table(self, kind: str, depth: int) -> tuple[Line, ...]:
        """The lines of an 'encoder', a 'classifier' or a 'pretraining' model, whose decoder has ``depth`` blocks."""
        more = dict(pretraining=self.decoder, classifier=self.head).get(kind, ())
        return tuple(
            line._replace(theirs=line.theirs.replace('#', str(depth))) if isinstance(line.theirs, str) else line
            for line in (*more, *self.encoder)
        )


def _with_zero_row(positions: Tensor) -> Tensor:
    """(1, N, D) -> (1, 1 + N, D): the class token's position is zero."""
    return torch.cat([torch.zeros_like(positions[:, :1]), positions], 1)


def _without_zero_row(positions: Tensor) -> tuple[Tensor]:
    if positions[:, 0].any():
        raise ValueError('decoder_pos_embed gives the class token a position, and ours has none in the decoder.')
    return (positions[:, 1:],)


def _as_map(positions: Tensor) -> tuple[Tensor]:
    side = math.isqrt(positions.shape[1])
    return (positions.transpose(1, 2).unflatten(2, (side, side)),)


# queries, keys and values apart; VideoMAE's keys have no bias, and ours is zero
QKV = Form(lambda *parts: (torch.cat(parts),), lambda x: x.chunk(3))
QV = Form(lambda query, value: (torch.cat([query, torch.zeros_like(query), value]),), lambda x: x.chunk(3)[::2])
# a kernel for images is one of one frame
FRAME = Form(lambda x: (x.unsqueeze(2) if x.dim() == 4 else x,), lambda x: (x.squeeze(2),))
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


def _apart(
    theirs: str, ours: str, *names: str, parameters: Sequence[str] = ('weight', 'bias'), form: Form = QKV
) -> tuple[Line, ...]:
    """Lines of queries, keys and values that stand apart in the blocks, by these names."""
    return tuple(
        Line(tuple(f'{theirs}*.{name}{parameter}' for name in names), f'{ours}*.attn.qkv.{parameter}', form)
        for parameter in parameters
    )


def _qv_biases(theirs: str, ours: str) -> Line:
    """Biases of VideoMAE's blocks."""
    return Line((f'{theirs}*.attn.q_bias', f'{theirs}*.attn.v_bias'), f'{ours}*.attn.qkv.bias', QV)


def _image_vit(cls_token: str, pos_embed: str, patch_embed: str) -> tuple[Line, ...]:
    """The stem of a ViT for images."""
    return (
        Line((cls_token, pos_embed), (CLS_TOKEN, POSITIONS), INTO_TOKEN),
        Line(cls_token, CLS_TOKEN),
        Line(pos_embed, POSITIONS),
        Line(f'{patch_embed}weight', KERNEL, FRAME),
        Line(f'{patch_embed}bias', 'backbone.patch_embed.bias'),
    )


def _transformers_blocks(theirs: str, ours: str, *biases: Line) -> tuple[Line, ...]:
    """Blocks as transformers writes them."""
    names = (
        ('attention.output.dense.', 'attn.proj.'),
        ('intermediate.dense.', 'mlp.fc1.'),
        ('output.dense.', 'mlp.fc2.'),
        ('layernorm_before.', 'norm1.'),
        ('layernorm_after.', 'norm2.'),
    )
    attention = [f'attention.attention.{name}.' for name in ('query', 'key', 'value')]
    return (
        *_apart(theirs, ours, *attention, parameters=['weight']),
        *biases,
        *(Line(f'{theirs}*.{their_name}', f'{ours}*.{name}') for their_name, name in names),
    )


def _videomae_blocks(theirs: str, ours: str) -> tuple[Line, ...]:
    """Blocks of VideoMAE in transformers: version 4 writes q_bias, 5 query.bias and perhaps a key.bias."""
    query, key, value = (f'attention.attention.{name}.' for name in ('query', 'key', 'value'))
    early = tuple(f'{theirs}*.attention.attention.{name}_bias' for name in 'qv')
    return _transformers_blocks(
        theirs,
        ours,
        Line(early, f'{ours}*.attn.qkv.bias', QV),
        *_apart(theirs, ours, query, key, value, parameters=['bias']),
        *_apart(theirs, ours, query, value, parameters=['bias'], form=QV),
    )


def _vit_blocks(theirs: str, ours: str) -> tuple[Line, ...]:
    """Blocks of ViT and ViTMAE in transformers: as files have them, and as version 5 has them in memory."""
    attention = [f'attention.attention.{name}.' for name in ('query', 'key', 'value')]
    newer = [f'attention.{name}_proj.' for name in 'qkv']
    names = (('attention.o_proj.', 'attn.proj.'), ('mlp.', 'mlp.'))
    return (
        *_transformers_blocks(theirs, ours, *_apart(theirs, ours, *attention, parameters=['bias'])),
        *_apart(theirs, ours, *newer),
        *(Line(f'{theirs}*.{their_name}', f'{ours}*.{name}') for their_name, name in names),
    )


_POOLED = (Line('fc_norm.', 'norm.'), Line('head.', 'head.'))  # timm's names for what is behind the pooling

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
    Line(('cls_token', 'pos_embed'), (CLS_TOKEN, CLS_POSITION, POSITIONS), FIRST_ROW),
    *_learned_positions('', 'backbone.'),
    Line('cls_token', CLS_TOKEN),
    Line('pos_embed', POSITIONS),
    Line('patch_embed.proj.', 'backbone.patch_embed.'),
    *_apart('blocks.', 'backbone.blocks.', 'attn.q.', 'attn.k.', 'attn.v.'),
    Line('blocks.', 'backbone.blocks.'),
    Line('norm.', 'backbone.norm.'),
)
_MAE_ST_POSITIONS = (
    Line('decoder_pos_embed', ('head.pos_embed_cls', 'head.pos_embed'), DECODER_ROW, with_token=True),
    Line('decoder_pos_embed', 'head.pos_embed'),
)


_LEARNED = "learned positions (backbone.positions) and of one MAEHead with tokens='decoder'"

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
        # the trainer has the head inside a Sequential for SSv2, and a plain one for IN1K
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
            _qv_biases('blocks.', 'backbone.blocks.'),
            Line('blocks.', 'backbone.blocks.'),
            Line('norm.', 'backbone.norm.'),
        ),
        decoder=(
            *_VIDEOMAE_DECODER,
            _qv_biases('decoder.blocks.', 'head.blocks.'),
            Line('decoder.blocks.', 'head.blocks.'),
        ),
        head=_POOLED,
        holds="fixed positions, and of one MAEHead with tokens='decoder', embed_bias=False",
        prefixes=dict(pretraining='encoder.'),
        strips=('backbone.', 'encoder.'),
        head_may_read_a_token=True,
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
        prefixes=dict(pretraining='vit.', classifier='vit.'),
        strips=('vit.',),
        leaves=lambda keys: ('pooler.', *(() if 'decoder.decoder_pred.weight' in keys else ('decoder.',))),
        head_may_read_a_token=True,
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
        prefixes=dict(pretraining='videomae.', classifier='videomae.'),
        strips=('videomae.',),
        needs_norm=False,  # use_mean_pooling=True, the default of a new model there, takes it away
        head_may_read_a_token=True,
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
        needs_norm=False,
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
            *_apart('pred_head.transforms.0.', 'head.blocks.', 'attn.q.', 'attn.k.', 'attn.v.'),
            Line('pred_head.transforms.0.', 'head.blocks.'),
            Line('pred_head.projections.0.', 'head.pred.'),
        ),
        head=(Line('norm.', 'norm.'), Line('head.projection.', 'head.')),
        holds=_LEARNED,
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
            *_apart('decoder_blocks.', 'head.blocks.', 'attn.q.', 'attn.k.', 'attn.v.'),
            *_MAE_DECODER,
        ),
        head=(Line('norm.', 'norm.'), Line('head.', 'head.')),
        holds=_LEARNED,
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
        holds="backbone.cls_token=True, patches of one frame, and of one MAEHead with tokens='decoder'",
        leaves=lambda keys: ('pooler.', *(() if 'decoder_pred.weight' in keys else ('mask_token', 'decoder_'))),
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
    """Say whose layout this is: a name in ``LAYOUTS``, 'native' for ours, of any backbone, None for neither."""
    state_dict = _bare(unwrap(state_dict))
    if KERNEL in state_dict or is_multimodal(state_dict):
        return NATIVE
    known = (name for name, layout in LAYOUTS.items() if any(mark in state_dict for mark in layout.marks))
    return next(known, NATIVE if any(key.startswith('backbone.') for key in state_dict) else None)


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
    for prefix in layout.strips:
        state_dict = {key.removeprefix(prefix): x for key, x in state_dict.items()}
    left = tuple(key for key in state_dict if key.startswith(layout.leaves(state_dict)))
    state_dict = {key: x for key, x in state_dict.items() if key not in left}
    kind = _kind(state_dict, [str(line.theirs) for line in layout.head if line.ours == 'head.'])
    table = layout.table(kind, num_blocks(layout.numbered, state_dict) - 1 if layout.numbered else 0)
    try:
        ours, unplaced = _renamed(state_dict, table)
        if is_multimodal(ours):
            ours = _with_pixels(ours, channels_first=False)
    except (KeyError, IndexError, RuntimeError) as error:  # what it takes apart or puts together is not there
        raise ValueError(
            f'This state dict does not fit the layout {source!r}: {type(error).__name__}: {error}. Give the checkpoint '
            'as it was published, or name another source.'
        ) from error
    if layout.head_may_read_a_token and kind == 'classifier':
        ours, heads = _with_head_of(pool, ours)
        left += heads
    needed = {key for key in _native_keys(ours, layout) if _names_of(key, table)}
    unplaced += [name for key in ours if key not in needed for name in _names_of(key, table)]
    missing = [name for key in sorted(needed - ours.keys()) for name in _names_of(key, table)]
    missing = [name for name in missing if name not in state_dict]
    if unplaced or missing:
        raise ValueError(
            f'This state dict does not fit the layout {source!r}. Keys without a place: {listed(unplaced)}. '
            f'Missing keys: {listed(missing)}. Give the checkpoint as it was published, or name another source.'
        )
    return ours, left


def _kind(state_dict: Collection[str], heads: Sequence[str] = ('head.',)) -> str:
    if is_pretraining(state_dict):
        return 'pretraining'
    return 'classifier' if any(key.startswith(tuple(heads)) for key in state_dict) else 'encoder'


def _renamed(state_dict: StateDict, table: Sequence[Line], *, back: bool = False) -> tuple[StateDict, list[str]]:
    """Their tensors by our names, or ``back``; and the keys that no line is for."""
    has_token = any(key.rpartition('.')[2] == 'cls_token' for key in state_dict)
    rest, renamed = dict(state_dict), StateDict()
    for line in table:
        if line.with_token not in (None, has_token):
            continue
        old, new = (line.ours, line.theirs) if back else (line.theirs, line.ours)
        form = line.form.split if back else line.form.join
        for key in [key for key in rest if _pattern(_tuple(old)[0]).fullmatch(key)]:
            keys, names = ([_filled(name, key, old) for name in _tuple(side)] for side in (old, new))
            if rest.keys() >= {*keys} and not renamed.keys() & {*names}:
                renamed |= zip(names, form(*(rest.pop(key) for key in keys)), strict=True)
    return renamed, [*rest]


@cache
def _pattern(name: str) -> re.Pattern:
    return re.compile(re.escape(name).replace(r'\*', '([^.]+)') + ('(.+)' if name.endswith('.') else ''))


def _tuple(names: str | tuple[str, ...]) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else names


def _filled(name: str, key: str, pattern: str | tuple[str, ...]) -> str:
    """A name of a line with what ``key``, which one of the names of the other side is for, has in its open places."""
    match = next(found for other in _tuple(pattern) if (found := _pattern(other).fullmatch(key)))
    parts = iter(match.groups())
    return re.sub(r'\*', lambda _: next(parts), name) + ''.join(parts)


def _names_of(key: str, table: Sequence[Line]) -> list[str]:
    """Their names for what we call ``key``."""
    for line in table:
        if any(_pattern(name).fullmatch(key) for name in _tuple(line.ours)):
            return [_filled(name, key, line.ours) for name in _tuple(line.theirs)]
    return []


def _with_head_of(pool: str, state_dict: StateDict) -> tuple[StateDict, tuple[str, ...]]:
    """A head is on the mean of the tokens if it has a norm of its own, and on one token otherwise."""
    is_mean = 'norm.weight' in state_dict
    if is_mean and pool == 'mean':
        return state_dict, ()
    if not is_mean and pool == 'cls' and CLS_TOKEN in state_dict:
        return {key.replace('backbone.norm.', 'norm.'): x for key, x in state_dict.items()}, ()
    left = tuple(key for key in state_dict if key.startswith(('head.', 'norm.')))
    return {key: x for key, x in state_dict.items() if key not in left}, left


def _with_pixels(state_dict: StateDict, *, channels_first: bool) -> StateDict:
    """Our MultiMAE with the predicted pixels of a patch ordered by channel and place, or by place and channel."""
    ordered = {}
    for key, x in state_dict.items():
        if '.pred.' in key:
            modality = key.split('.')[1].removeprefix('norm_')  # a task may be called norm_MODALITY
            kernel = state_dict.get(f'{TOKENIZERS}{modality}.patch_embed.weight')
            if kernel is None:
                raise ValueError(
                    f'{key} is for {modality!r}, of which the encoder has no adapter. No model of ours has that.'
                )
            places = kernel.shape[3] * kernel.shape[4]
            x = x.unflatten(0, (places, -1) if channels_first else (-1, places)).transpose(0, 1).flatten(0, 1)
        ordered[key] = x
    return ordered


def _written(state_dict: StateDict, target: str) -> StateDict:
    """Our tensors by the names of a layout."""
    layout, kind = LAYOUTS[target], _kind(state_dict)
    table = layout.table(kind, num_blocks('head.blocks.', state_dict))
    weights, unplaced = _renamed(state_dict, table, back=True)
    if unplaced:
        raise ValueError(f'The layout {target!r} is that of {layout.holds}. It has no names for {listed(unplaced)}.')
    encoder = {name for key in state_dict if key.startswith('backbone.') for name in _names_of(key, layout.encoder)}
    return {layout.prefixes.get(kind, '') * (name in encoder) + name: x for name, x in weights.items()}


def export(state_dict: StateDict) -> StateDict:
    """Rename our state dict to OmniMAE's published layout: the inverse of ``convert``.

    A decoder with qkv biases keeps them: the OmniMAE trainer has such keys, the published models have not.
    """
    if len(decoder_prefixes(state_dict)) > 1:
        raise ValueError(
            "The layout 'omnimae' has one decoder for all modalities, this model has one for each: "
            f'{", ".join(decoder_prefixes(state_dict))}. Only models with a shared decoder can be exported.'
        )
    return _written(state_dict, 'omnimae')


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
    """
    state_dict = _with_joint_positions(state_dict)
    _check_native(state_dict, grid)
    of_image = {KERNEL: state_dict[KERNEL].sum(2, keepdim=True), POSITIONS: state_dict[POSITIONS][:, : grid.h * grid.w]}
    weights = _written({**_without_decoder(state_dict), **of_image}, 'timm')
    kernel = weights['patch_embed.proj.weight']
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
    """
    _check_native(state_dict, grid)
    if CLS_TOKEN in state_dict:
        raise ValueError('VideoMAE of transformers has no class token. Export to ViTMAE or timm.')
    if not torch.allclose(state_dict[POSITIONS], positions, atol=1e-5):
        raise ValueError(
            f'{POSITIONS} does not hold the fixed sinusoids (it came from MAE, perhaps), and VideoMAE of transformers '
            'can hold no others. Export to timm.'
        )
    state_dict = _without_decoder(state_dict)
    weights = _written({key: x for key, x in state_dict.items() if key != POSITIONS}, 'huggingface')
    return weights, _huggingface_config(state_dict, grid, num_heads, 'head.weight' in state_dict)


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
    if decoder is None:  # the norm before a head on the class token is the encoder's there
        plain = {
            key if key.startswith('head.') else f'backbone.{key.removeprefix("backbone.")}': x
            for key, x in _without_decoder(state_dict).items()
        }
    else:
        _check_mae(state_dict)
        plain = state_dict
    weights = _written(plain, 'vit_mae')
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
    """Our pretraining model of images -> MAE's names."""
    _check_mae(state_dict)
    return _written(state_dict, 'timm')


def _check_mae(state_dict: StateDict) -> None:
    if (
        not {CLS_TOKEN, 'head.decoder_embed.bias'} <= state_dict.keys()
        or state_dict[KERNEL].shape[2] != 1
        or state_dict['head.pos_embed'].shape[2] != len(state_dict['head.norm.weight'])
    ):
        raise ValueError(
            "The layout 'mae' is that of a pretraining model with backbone.cls_token=True, patches of one frame and "
            "one MAEHead with tokens='decoder', and this is another."
        )


def export_mae_st(state_dict: StateDict) -> StateDict:
    """Our pretraining model, classifier or encoder -> the names of MAE-ST's repository."""
    if 'head.decoder_embed.weight' in state_dict and CLS_TOKEN in state_dict and 'head.cls_token' not in state_dict:
        raise ValueError(
            "The layout 'mae_st' has a class token of the decoder's own, and this decoder goes on with the encoder's. "
            "Export to 'slowfast'."
        )
    return _with_learned_positions(state_dict, 'mae_st')


def export_slowfast(state_dict: StateDict) -> StateDict:
    """Our pretraining model, classifier or encoder -> the names of MAE-ST's released files, which are SlowFast's."""
    if 'head.cls_token' in state_dict:
        raise ValueError("The layout 'slowfast' has no class token of the decoder's own. Export to 'mae_st'.")
    return _with_learned_positions(state_dict, 'slowfast')


def _with_learned_positions(state_dict: StateDict, target: str) -> StateDict:
    is_learned = (CLS_POSITION if CLS_TOKEN in state_dict else f'{POSITIONS}_space') in state_dict
    width = state_dict['head.mask_token'].shape[-1] if 'head.mask_token' in state_dict else 0
    if not is_learned or len(state_dict.get('head.decoder_embed.weight', ())) != width:
        raise ValueError(f'The layout {target!r} is that of {LAYOUTS[target].holds}, and this model has others.')
    return _written(state_dict, target)


def export_videomae(state_dict: StateDict, *, positions: Mapping[str, Tensor]) -> StateDict:
    """Our pretraining model, classifier or encoder -> VideoMAE's and VideoMAE V2's names.

    The biases of the keys are left out: a softmax over keys is the same without them.

    Args:
        state_dict: of our layout; a decoder with ``tokens='decoder', embed_bias=False``.
        positions: the fixed sinusoids by name, from a new model; the layout has no place for others.
    """
    for key, x in state_dict.items():
        if key.endswith('pos_embed') and not (x.shape == positions[key].shape and torch.allclose(x, positions[key])):
            raise ValueError(f'{key} does not hold the fixed sinusoids of the config, and VideoMAE can hold no others.')
    return _written({key: x for key, x in state_dict.items() if not key.endswith('pos_embed')}, 'videomae')


def export_multimae(state_dict: StateDict) -> StateDict:
    """Our MultiMAE, or its encoder -> the published names. Learned weights of the tasks stand in no published file."""
    for key, x in state_dict.items():
        if key.endswith('.patch_embed.weight') and x.shape[2] != 1:
            raise ValueError(f"{key}: patches of {x.shape[2]} frames; the layout 'multimae' is for images alone.")
    for key, x in state_dict.items():
        if key.endswith('.pos_embed') and math.isqrt(x.shape[1]) ** 2 != x.shape[1]:
            raise ValueError(f"{key} has {x.shape[1]} places; the layout 'multimae' is for square images alone.")
    weights = {key: x for key, x in state_dict.items() if not key.startswith(TASK_WEIGHTS)}
    return _written(_with_pixels(weights, channels_first=True), 'multimae')


def take_modality(state_dict: StateDict, modality: str = 'rgb') -> StateDict:
    """Our MultiMAE, or its encoder -> a plain ViT of ours that sees one of its modalities.

    The global token becomes the class token. There is no norm behind the blocks: ``final_norm=False``.
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


def _one_or_two(height: int, width: int) -> int | list[int]:
    return height if height == width else [height, width]


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


def _without_decoder(state_dict: StateDict) -> StateDict:
    if not is_pretraining(state_dict):
        return state_dict
    return {key: x for key, x in state_dict.items() if key.startswith('backbone.')}


def _native_keys(state_dict: Collection[str], layout: Layout) -> set[str]:
    """List the keys that a model of ours may have, with as many blocks as occur in these keys."""
    parts = [f'{TOKENIZERS}{name}.' for name in sorted(modalities_of(state_dict))] or ['backbone.']
    names = [*_affine(*(f'{part}patch_embed.' for part in parts)), *_block_keys('backbone.blocks.', state_dict)]
    for part in parts:
        names += _position_keys(part, state_dict)
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
        names += [f'{prefix}mask_token', *_affine(*(prefix + name for name in ('decoder_embed.', 'norm.', 'pred.')))]
        names += _position_keys(prefix, state_dict)
        names += [f'{prefix}cls_token'] if f'{prefix}cls_token' in state_dict else []
        names += _block_keys(f'{prefix}blocks.', state_dict)
        if is_multimodal(state_dict):
            names += _affine(*(prefix + name for name in _CROSS_ATTENTION))
            names += [f'{prefix}modality_embed.{name}' for name in modalities_of(state_dict)]
    return set(names)


def _position_keys(prefix: str, state_dict: Collection[str]) -> list[str]:
    is_separable = f'{prefix}pos_embed_space' in state_dict
    names = [f'{prefix}pos_embed_space', f'{prefix}pos_embed_time'] if is_separable else [f'{prefix}pos_embed']
    return [*names, f'{prefix}pos_embed_cls'] if CLS_TOKEN in state_dict else names


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
    return any(key.endswith('mask_token') and not key.startswith('backbone.') for key in state_dict)


def is_multimodal(state_dict: Collection[str]) -> bool:
    return any(key.startswith(TOKENIZERS) for key in state_dict)


def modalities_of(state_dict: Collection[str]) -> set[str]:
    """Return the modalities of a backbone with tokenizers; none of one that has its own patch embedding."""
    return {key.removeprefix(TOKENIZERS).split('.')[0] for key in state_dict if key.startswith(TOKENIZERS)}


def is_encoder(state_dict: Collection[str]) -> bool:
    return all(key.startswith('backbone.') for key in state_dict)


def decoder_prefixes(state_dict: Collection[str]) -> list[str]:
    """Prefixes of our decoders: ['head.'], or ['head.image.', 'head.video.'], or nothing in a classifier."""
    decoders = (key for key in state_dict if not key.startswith('backbone.'))
    return sorted(key.removesuffix('mask_token') for key in decoders if key.endswith('mask_token'))


def listed(keys: Collection[str], most: int = 8) -> str:
    keys = list(keys)
    rest = f' and {len(keys) - most} more' if len(keys) > most else ''
    return (', '.join(keys[:most]) + rest) or 'none'
