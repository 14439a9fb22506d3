"""Names of weights: ours, and one table for each published layout, read in both directions.

Ours are those of the modules: ``backbone.*``, then ``head.*`` (one decoder, or ``head.image.*`` and ``head.video.*``)
in pretraining, ``norm.*`` and ``head.*`` in a classifier. An encoder alone is ``backbone.*``.

Converting renames and restacks: no value changes, position tables included. What another encoder stores separately is
put together:

- VideoMAE and VideoMAE V2 have biases for queries and values only; that of the keys is zero. Their positions are our
  fixed sinusoids and are in no file, so the model's own tables stay. The decoder becomes an MAEHead with
  ``qkv_bias='qv', tokens='decoder', embed_bias=False``.
- MAE (arXiv:2111.06377) and other image ViTs, in timm's names or in transformers' ('vit_mae': ViTMAE, and its ViT),
  become a model of one-frame patches. A decoder in the file becomes an MAEHead with ``qkv_bias=True, tokens='decoder',
  positions='sincos2d'``.
- CrossMAE (arXiv:2401.14391) has MAE's encoder, without a norm after it, and a decoder that becomes a CrossMAEHead with
  ``positions='sincos2d'``. The released ones read all layers, the embedded tokens too: ``layers=range(13)`` for ViT-B.
- MAE-ST (arXiv:2205.09113) has learned positions, also of the class token, and separate queries, keys and values. In
  its repository ('mae_st') the decoder has a class token of its own. The released weights are SlowFast's ('slowfast'):
  that decoder goes on with the encoder's token and has a position for every token. The decoder becomes an MAEHead with
  ``qkv_bias=True, tokens='decoder'`` and ``positions='separable', cls_token=True`` or ``positions='learned'``.
- MultiMAE (arXiv:2204.01678) has adapters for inputs and outputs, our tokenizers and heads. Its predictions of a patch
  have the channels first. `to_plain` and `to_multimodal` go from it to a plain ViT and back.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple

import torch
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
CROSS_DECODER = 'head.blocks.0.attn.kv.weight'  # of a CrossMAEHead


class Form(NamedTuple):
    """How tensors are stored on the two sides of a line: functions of all of its tensors that give a tuple."""

    join: Callable[..., Sequence[Tensor]]
    split: Callable[..., Sequence[Tensor]]


class Line(NamedTuple):
    """One line of a layout's table, read in both directions.

    Several names on a side are separated by spaces. A ``*`` matches one part of a name, such as the number of a
    block. A ``#`` is the number of blocks of the decoder. A final dot matches all that begins so. Of several lines for
    the same tensors the first one is written, and all are read.

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
        fits: whether it can hold one of our state dicts, as far as the names do not say. By default any but one with a
            CrossMAEHead.
        prefixes: kind of model, see `Checkpoint` -> prefix of all names in ``encoder``. In reading all are dropped.
        leaves: their state dict -> the beginnings of names that have no place in ours.
        fixed_positions: whether positions are fixed sinusoids, which are in no file.
    """

    marks: tuple[str, ...]
    encoder: tuple[Line, ...]
    decoder: tuple[Line, ...] = ()
    head: tuple[Line, ...] = ()
    holds: str = ''
    fits: Callable[[StateDict], bool] = lambda ours: CROSS_DECODER not in ours
    prefixes: Mapping[str, str] = {}
    leaves: Callable[[Collection[str]], tuple[str, ...]] = lambda theirs: ()
    fixed_positions: bool = False

    def table(self, kind: str) -> tuple[Line, ...]:
        """The lines for a kind of model, see `Checkpoint`."""
        return (*dict(pretraining=self.decoder, classifier=self.head).get(kind, ()), *self.encoder)


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


def _transformers_blocks(theirs: str, ours: str, *, key_bias: bool) -> tuple[Line, ...]:
    """Blocks as transformers writes them in version 4; it reads those of 5, too.

    VideoMAE has q_bias in version 4, query.bias and perhaps a key.bias in 5. Of ViT, 5 has other names in memory.
    """
    query, _, value = _ATTENTION.split()
    all_three = _qkv(theirs, ours, _ATTENTION, 'bias')
    names = {
        'attention.output.dense.': 'attn.proj.',
        'attention.o_proj.': 'attn.proj.',
        'intermediate.dense.': 'mlp.fc1.',
        'output.dense.': 'mlp.fc2.',
        'layernorm_before.': 'norm1.',
        'layernorm_after.': 'norm2.',
        'mlp.': 'mlp.',
    }
    return (
        *_qkv(theirs, ours, _ATTENTION, 'weight'),
        *(all_three if key_bias else ()),
        *_qkv(theirs, ours, 'attention.attention.q_ attention.attention.v_', 'bias', form=QV),
        *all_three,
        *_qkv(theirs, ours, f'{query} {value}', 'bias', form=QV),
        *_qkv(theirs, ours, 'attention.q_proj. attention.k_proj. attention.v_proj.'),
        *(Line(f'{theirs}*.{their_name}', f'{ours}*.{name}') for their_name, name in names.items()),
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
        fits=lambda ours: 'head.mask_token' not in ours or 'head.decoder_embed.bias' in ours,
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
            *_transformers_blocks('encoder.layer.', 'backbone.blocks.', key_bias=True),
            *_transformers_blocks('layers.', 'backbone.blocks.', key_bias=True),
            Line('layernorm.', 'backbone.norm.'),
        ),
        decoder=(
            Line('decoder.decoder_pos_embed', 'head.pos_embed', ZERO_ROW),
            *_transformers_blocks('decoder.decoder_layers.', 'head.blocks.', key_bias=True),
            *_transformers_blocks('decoder.decoder_encoder.layer.', 'head.blocks.', key_bias=True),  # version 5
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
            *_transformers_blocks('encoder.layer.', 'backbone.blocks.', key_bias=False),
            Line('layernorm.', 'backbone.norm.'),
        ),
        decoder=(*_VIDEOMAE_DECODER, *_transformers_blocks('decoder.decoder_layers.', 'head.blocks.', key_bias=False)),
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
            Line('pred_head.transforms.0.#.weight', 'head.norm.weight'),
            Line('pred_head.transforms.0.#.bias', 'head.norm.bias'),
            *_qkv('pred_head.transforms.0.', 'head.blocks.', 'attn.q. attn.k. attn.v.'),
            Line('pred_head.transforms.0.', 'head.blocks.'),
            Line('pred_head.projections.0.', 'head.pred.'),
        ),
        head=(Line('norm.', 'norm.'), Line('head.projection.', 'head.')),
        holds="learned positions and, in pretraining, one MAEHead with tokens='decoder', cls_token=False",
        fits=lambda ours: _learns_positions(ours) and _has_decoder(ours),
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
    # github.com/TonyLianLong/CrossMAE: pretraining; its encoders and classifiers have timm's names
    'crossmae': Layout(
        marks=('decoder_blocks.0.cross_attn.q.weight',),
        encoder=(
            *_image_vit('cls_token', 'pos_embed', 'patch_embed.proj.'),
            Line('blocks.', 'backbone.blocks.'),
            Line('norm.', 'backbone.norm.'),
        ),
        decoder=(
            Line('decoder_pos_embed', 'head.pos_embed', ZERO_ROW),
            Line('wfm.linear.weight', 'head.layer_weights'),
            Line('dec_norms.', 'head.layer_norms.'),
            Line('decoder_blocks.*.cross_attn.', 'head.blocks.*.attn.'),
            *(line for line in _MAE_DECODER if line.ours != 'head.decoder_embed.'),
        ),
        holds='image ViTs with a class token, pretrained with one CrossMAEHead',
        fits=lambda ours: {CLS_TOKEN, CROSS_DECODER} <= ours.keys(),
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
