"""Weights for timm and transformers, with the configs of their models and image processors."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from omnimae.structures import Grid

from .layouts import CLS_TOKEN, KERNEL, POOLED_NORM, POSITIONS, TOKEN_NORM, StateDict
from .translation import Checkpoint, export, with_joint_positions

# timm's model of each width; any other is its ViT-B with other numbers
_TIMM_MODELS = {384: 'vit_small_patch16_224', 1024: 'vit_large_patch16_224', 1280: 'vit_huge_patch14_224'}
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of a ClipPreprocessor, if a config has no other


class Resizing(NamedTuple):
    """How frames get their size: to a short side of ``short``, then the middle (height, width); None does nothing."""

    short: int | None = None
    crop: tuple[int, int] | None = None
    interpolation: str = 'bicubic'

    @classmethod
    def of(cls, transforms: Sequence[Mapping[str, Any]]) -> Resizing | None:
        """Read transforms of a test source. None if others than ResizeShort, CenterCrop and ThreeCrop are among them.

        Of the three views of ThreeCrop it is the middle one.
        """
        short, crop = ([x for x in transforms if x['type'] in types] for types in (_SHORT, _CROPS))
        if [*short[:1], *crop[:1]] != [*transforms]:
            return None
        size = crop[0]['size'] if crop else None
        return cls(
            short[0]['size'] if short else None,
            (size, size) if isinstance(size, int) else size and tuple(size),
            short[0].get('interpolation', 'bilinear').removesuffix('_antialias') if short else 'bicubic',
        )


_SHORT, _CROPS = ('ResizeShort',), ('CenterCrop', 'ThreeCrop')


def export_timm(
    state_dict: StateDict,
    backbone: Any,
    *,
    mean: Sequence[float] = _MEAN,
    std: Sequence[float] = _STD,
    resizing: Resizing | None = None,
    classes: Sequence[str] | None = None,
) -> tuple[StateDict, dict]:
    """Our encoder or classifier -> the image ViT of timm that computes the same for an image, and its config.json.

    timm has no tubelets. The kernel is summed over time, as for an image repeated over the tubelet. The positions are
    those of the first temporal slice, as in our backbone; learned ones are added up. A pretraining model gives its
    encoder with the norm of single tokens; a classifier gives ``fc_norm`` and ``head``. A folder with the two files is
    read by ``timm.create_model('local-dir:FOLDER', pretrained=True)``.

    Args:
        state_dict: of our layout.
        backbone: of its model, or of one with fewer blocks: for the clip size, heads, fixed positions and pooling.
        mean: per RGB channel, of the pixels that the weights expect.
        std: likewise.
        resizing: of the tests, for ``pretrained_cfg``. Without it an image's short side is that of the model.
        classes: names in the order of the labels.
    """
    model, grid, config = _prepared(with_joint_positions(state_dict), backbone)
    if getattr(backbone, 'pool', 'mean') == 'cls' and POOLED_NORM in model.tensors:
        raise ValueError("timm is for heads on the mean of the tokens here, and this model has pool='cls'.")
    kernel = model.tensors[KERNEL].sum(2, keepdim=True)
    image = {KERNEL: kernel, POSITIONS: model.tensors[POSITIONS][:, : grid.h * grid.w]}
    weights = export(model.tensors | image, 'timm')
    dim, _, _, height, width = kernel.shape
    image_size, num_classes = (grid.h * height, grid.w * width), model.num_classes or 0
    model_args = dict(
        img_size=image_size,
        patch_size=(height, width),
        embed_dim=dim,
        depth=config['num_hidden_layers'],
        num_heads=config['num_attention_heads'],
        mlp_ratio=config['intermediate_size'] / dim,
        qkv_bias=config['qkv_bias'],
        class_token='cls_token' in weights,
        global_pool='avg',
        fc_norm='fc_norm.weight' in weights,
    )
    if not {'norm.weight', 'fc_norm.weight'} & weights.keys():
        model_args['final_norm'] = False
    resizing = resizing or Resizing()
    about = dict(
        input_size=(3, *image_size),
        mean=mean,
        std=std,
        interpolation=resizing.interpolation,
        crop_pct=_crop_pct(image_size[0], resizing.short or image_size[0]),
        num_classes=num_classes,
        first_conv='patch_embed.proj',
        classifier='head',
    )
    name = _TIMM_MODELS.get(dim, 'vit_base_patch16_224')
    names = dict(label_names=[*classes]) if classes else {}
    return weights, dict(
        architecture=name,
        num_classes=num_classes,
        num_features=dim,
        model_args=model_args,
        pretrained_cfg=about,
        **names,
    )


def _crop_pct(size: int, short: int) -> float:
    """Give the share from which timm computes ``short``, rounded down."""
    share = size / short
    return share if int(size / share) == short else size / (short + 0.5)


def export_transformers(
    state_dict: StateDict,
    backbone: Any,
    decoder: Mapping[str, Any] | None = None,
    *,
    classes: Sequence[str] | None = None,
) -> tuple[StateDict, dict]:
    """Our weights -> the model of transformers that computes the same, and its config.json.

    Without a class token this is VideoMAE. A pretraining model gives a ``VideoMAEModel`` whose ``last_hidden_state`` is
    our backbone's output. A classifier gives a ``VideoMAEForVideoClassification``, whose last norm has an eps of 1e-5,
    ours of 1e-6.

    An image model with a class token is ViTMAE or ViT. A pretraining model gives a ``ViTMAEForPreTraining``, an encoder
    a ``ViTMAEModel``, a classifier with ``pool='cls'`` a ``ViTForImageClassification``. Names are those of version 4,
    which 5 reads.

    Args:
        state_dict: of our layout.
        backbone: as of `export_timm`.
        decoder: what the weights of MAE's decoder do not tell, for the config: ``decoder_num_attention_heads``,
            ``mask_ratio`` and ``norm_pix_loss``. Without it a pretraining model gives its encoder.
        classes: names in the order of the labels, for ``id2label``.
    """
    if CLS_TOKEN not in state_dict:
        return _export_videomae(state_dict, backbone, classes)
    model, _, config = _prepared(with_joint_positions(state_dict), backbone, classes, whole=decoder is not None)
    weights, is_classifier = model.tensors, model.kind == 'classifier'
    if is_classifier and getattr(backbone, 'pool', 'mean') != 'cls':
        raise ValueError(
            "transformers' ViT has its head on the class token, and this model has pool='mean'. Export to timm."
        )
    if not {POOLED_NORM, TOKEN_NORM} & weights.keys():
        raise ValueError('ViTMAE of transformers has a norm after the blocks, and this model has none. Export to timm.')
    if is_classifier:  # the norm before a head on the class token is the encoder's there
        weights = {re.sub(r'^norm\.', 'backbone.norm.', key): x for key, x in weights.items()}
    exported = export(weights, 'vit_mae')
    if decoder is None:
        name, model_type = ('ViTForImageClassification', 'vit') if is_classifier else ('ViTMAEModel', 'vit_mae')
        return exported, dict(config, architectures=[name], model_type=model_type)
    return exported, dict(
        config,
        architectures=['ViTMAEForPreTraining'],
        model_type='vit_mae',
        decoder_hidden_size=len(weights['head.decoder_embed.weight']),
        decoder_num_hidden_layers=model.depth('head.'),
        decoder_intermediate_size=len(weights['head.blocks.0.mlp.fc1.weight']),
        **decoder,
    )


def image_processor(
    model_type: str, resizing: Resizing, *, mean: Sequence[float] = _MEAN, std: Sequence[float] = _STD
) -> dict:
    """Give the preprocessor_config.json with which ``AutoImageProcessor`` makes the pixels of our tests.

    Its bilinear filter is antialiased, ours is not. Of a crop at half a pixel it takes the lower one.

    Args:
        model_type: of the model's config.json. VideoMAE takes lists of frames, others take images.
        resizing: of the tests.
        mean: per RGB channel, for values in 0..1.
        std: likewise.
    """
    config: dict[str, Any] = dict(
        image_processor_type='VideoMAEImageProcessor' if model_type == 'videomae' else 'BitImageProcessor',
        do_resize=resizing.short is not None,
        resample=dict(bilinear=2, bicubic=3)[resizing.interpolation],  # Pillow's
        do_center_crop=resizing.crop is not None,
        do_rescale=True,
        rescale_factor=1 / 255,
        do_normalize=True,
        image_mean=[*mean],
        image_std=[*std],
    )
    if resizing.short is not None:
        config['size'] = dict(shortest_edge=resizing.short)
    if resizing.crop is not None:
        config['crop_size'] = dict(zip(('height', 'width'), resizing.crop, strict=True))
    return config


def _export_videomae(state_dict: StateDict, backbone: Any, classes: Sequence[str] | None) -> tuple[StateDict, dict]:
    model, grid, config = _prepared(state_dict, backbone, classes)
    positions = _stem(backbone).fixed_positions()
    if positions is None:
        raise ValueError('VideoMAE of transformers has fixed positions, and this model learns them. Export to timm.')
    tubelet, is_classifier = model.tensors[KERNEL].shape[2], model.kind == 'classifier'
    return export(model.tensors, 'huggingface', positions={POSITIONS: positions}), dict(
        config,
        architectures=['VideoMAEForVideoClassification' if is_classifier else 'VideoMAEModel'],
        model_type='videomae',
        num_frames=grid.t * tubelet,
        tubelet_size=tubelet,
        use_mean_pooling=is_classifier,
    )


def _stem(backbone: Any) -> Any:
    """What has the positions: the backbone, or its tokenizer of RGB."""
    return backbone.tokenizers['rgb'] if hasattr(backbone, 'tokenizers') else backbone


def _prepared(
    state_dict: StateDict, backbone: Any, classes: Sequence[str] | None = None, *, whole: bool = False
) -> tuple[Checkpoint, Grid, dict[str, Any]]:
    """Encoder, or ``whole`` model, with fixed positions if VideoMAE's file did without; its grid; its config.

    The config is what those of transformers' ViTs share; a classifier's has the names of its classes.
    """
    model, grid, positions = Checkpoint(state_dict), _stem(backbone).grid, _stem(backbone).fixed_positions()
    weights = state_dict if positions is None else {POSITIONS: positions, **state_dict}
    if model.kind == 'pretraining' and not whole:
        weights = {key: x for key, x in weights.items() if key.startswith('backbone.')}
    if not {KERNEL, POSITIONS} <= weights.keys():
        raise ValueError(f'{KERNEL} or {POSITIONS} is missing. Load the weights into a model of ours, export that.')
    if weights[POSITIONS].shape[1] != grid.num_tokens:
        raise ValueError(
            f'{POSITIONS} has {weights[POSITIONS].shape[1]} positions, and clips of the model have '
            f'{"x".join(map(str, grid))} tokens. Give the clip_size that the checkpoint was made for.'
        )
    model = Checkpoint(weights)
    dim, _, _, height, width = weights[KERNEL].shape
    config: dict[str, Any] = dict(
        image_size=_one_or_two(grid.h * height, grid.w * width),
        patch_size=_one_or_two(height, width),
        hidden_size=dim,
        num_hidden_layers=model.depth(),
        num_attention_heads=backbone.blocks[0].attn.num_heads,
        intermediate_size=len(weights['backbone.blocks.0.mlp.fc1.weight']),
        layer_norm_eps=1e-6,
        qkv_bias='backbone.blocks.0.attn.qkv.bias' in weights,
    )
    if model.kind == 'classifier':
        names = classes or [f'LABEL_{label}' for label in range(len(weights['head.weight']))]
        config |= dict(
            id2label={str(label): name for label, name in enumerate(names)},
            label2id={name: label for label, name in enumerate(names)},
        )
    return model, grid, config


def _one_or_two(height: int, width: int) -> int | list[int]:
    return height if height == width else [height, width]
