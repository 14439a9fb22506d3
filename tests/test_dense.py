"""Transfer to segmentation and depth: heads as published, losses by hand, any subset of modalities."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import timm.models.convnext
import torch
import torch.nn.functional as F
from test_tools import contains, enlarged
from torch.utils._pytree import tree_leaves
from transformers import DPTConfig
from transformers.models.dpt.modeling_dpt import DPTDepthEstimationHead, DPTNeck

from omnimae.models.dense_heads import ConvNeXtBlock, ConvNeXtHead, DPTHead
from omnimae.registry import MODELS
from omnimae.visualization.maps import map_picture, predictions_sheet

VIT = dict(type='SpatioTemporalViT', embed_dim=16, depth=4, num_heads=2, patch_size=(1, 8, 8), clip_size=(1, 32, 32))
OMNI = dict(VIT, patch_size=(2, 8, 8), clip_size=(4, 32, 32), cls_token=True)
TOKENIZERS = dict(
    rgb=dict(type='PatchTokenizer', channels=3, patch_size=(1, 8, 8), clip_size=(1, 32, 32)),
    depth=dict(type='PatchTokenizer', channels=1, patch_size=(1, 8, 8), clip_size=(1, 32, 32)),
    semseg=dict(
        type='ClassMapTokenizer',
        num_classes=5,
        class_dim=4,
        padding_class=True,
        patch_size=(1, 2, 2),
        clip_size=(1, 8, 8),
    ),
)
CONVNEXT = dict(type='ConvNeXtHead', embed_dim=128, depth=2)
DPT = dict(type='DPTHead', layers=(0, 1, 2, 3), layer_dims=(8, 12, 16, 20), dim=12)
SEGMENTATION = dict(type='SegmentationTask', num_classes=6)


def multimodal(*names: str) -> dict:
    tokenizers = {name: TOKENIZERS[name] for name in names}
    return dict(type='MultiModalViT', embed_dim=16, depth=4, num_heads=2, tokenizers=tokenizers)


def build(backbone: dict, head: dict = CONVNEXT, task: dict = SEGMENTATION, **more):
    torch.manual_seed(0)
    return MODELS.build(dict(type='DensePredictor', backbone=backbone, head=head, task=task, **more)).eval()


def clips(*names: str, height: int = 32, width: int = 48) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    made = dict(
        rgb=torch.randint(0, 256, (2, 3, 1, height, width), dtype=torch.uint8),
        depth=torch.randint(0, 60000, (2, 1, 1, height, width), dtype=torch.int32),
        semseg=torch.randint(0, 5, (2, 1, 1, height // 4, width // 4), dtype=torch.uint8),
    )
    return {name: made[name] for name in names}


# ---------------------------------------------------------------------------------------------------------------------
# Heads


def test_convnext_block_is_timms():
    torch.manual_seed(0)
    published = timm.models.convnext.ConvNeXtBlock(12, ls_init_value=None)
    block = ConvNeXtBlock(12)
    weights = {key.replace('conv_dw', 'dwconv'): x.normal_() for key, x in published.state_dict().items()}
    block.load_state_dict(weights)
    x = torch.randn(2, 12, 9, 10)
    torch.testing.assert_close(block(x), published(x), rtol=1e-5, atol=1e-4)


def test_convnext_head_lays_the_numbers_of_a_token_out_as_rows_and_columns():
    head = ConvNeXtHead(in_dim=8, out_channels=2, embed_dim=8, upscale=2, depth=0)
    with torch.no_grad():
        head.proj.weight.copy_(torch.eye(8))
        head.pred.weight.copy_(torch.eye(2)[..., None, None])
        head.pred.bias.zero_()
    tokens = (
        torch.arange(8 * 2 * 3).float().view(1, 8, 2, 3)
    )  # number k of the token at (row, column): 6 k + 3 row + column
    result = head([tokens], (4, 6))  # of its own size: nothing is interpolated
    # token (0, 0) has the numbers 0, 6, .., 42 for [row][column][channel] of its four pixels
    assert result[0, :, :2, :2].tolist() == [[[0, 12], [24, 36]], [[6, 18], [30, 42]]]
    assert result[0, 0, ::2, ::2].tolist() == tokens[0, 0].tolist()


def test_dpt_head_is_that_of_transformers():
    """Neck and depth head of DPT with readout 'ignore'; theirs ends in a ReLU more."""
    torch.manual_seed(0)
    config = DPTConfig(
        hidden_size=16,
        neck_hidden_sizes=[8, 12, 20, 24],
        reassemble_factors=[4, 2, 1, 0.5],
        fusion_hidden_size=16,
        readout_type='ignore',
        is_hybrid=False,
    )
    neck, published = DPTNeck(config).eval(), DPTDepthEstimationHead(config).eval()
    head = DPTHead(in_dim=16, out_channels=1, layer_dims=(8, 12, 20, 24), dim=16).eval()
    theirs, ours = neck.state_dict(), {}
    for i in range(4):
        names = {
            f'reassemble_stage.layers.{i}.projection': f'reassemble.{i}.0',
            f'reassemble_stage.layers.{i}.resize': f'reassemble.{i}.1',
            f'convs.{i}': f'reassemble.{i}.2',
            f'fusion_stage.layers.{3 - i}.projection': f'fuse.{i}.proj',
        }
        units = (1, 2) if i < 3 else (2,)  # the coarsest has nothing to add: theirs is there without use
        for unit, conv in itertools.product(units, (1, 2)):
            residual = f'fusion_stage.layers.{3 - i}.residual_layer{unit}.convolution{conv}'
            names[residual] = f'fuse.{i}.residual{unit}.conv{conv}'
        for source, name in names.items():
            keys = [key for key in theirs if key.rpartition('.')[0] == source]
            ours |= {f'{name}.{key.rpartition(".")[2]}': theirs[key] for key in keys}
    layers = {'0': 'head', '2': 'pred.0', '4': 'pred.2'}
    for key, x in published.state_dict().items():
        _, layer, parameter = key.split('.')
        ours[f'{layers[layer]}.{parameter}'] = x
    head.load_state_dict(ours)
    maps = [torch.randn(2, 16, 4, 6) for _ in range(4)]
    tokens = [F.pad(x.flatten(2).transpose(1, 2), (0, 0, 1, 0)) for x in maps]
    expected = published.head[:-1](neck(tokens, 4, 6)[-1])
    torch.testing.assert_close(head(maps, (64, 96)), expected, rtol=1e-5, atol=1e-6)


def test_dpt_head_takes_odd_grids():
    head = DPTHead(in_dim=16, out_channels=2, layer_dims=(8, 12, 20, 24), dim=16)
    maps = [torch.randn(1, 16, 5, 7) for _ in range(4)]
    assert head(maps, (70, 98)).shape == (1, 2, 70, 98)


def test_published_sizes():
    """Of the release: 9,588,630, and 20,065,921 less two convolutions of the coarsest fusion that nothing reaches."""
    with torch.device('meta'):
        heads = ConvNeXtHead(in_dim=768, out_channels=150), DPTHead(in_dim=768, out_channels=1)
    assert [sum(x.numel() for x in head.parameters()) for head in heads] == [9_588_630, 20_065_921 - 1_180_160]


# ---------------------------------------------------------------------------------------------------------------------
# Tasks


def test_cross_entropy_over_the_pixels_that_have_a_class():
    task = MODELS.build(dict(type='SegmentationTask', num_classes=2))
    output = torch.zeros(1, 2, 1, 4)
    output[0, 1] = torch.tensor([0.0, math.log(3), math.log(3), 9.0])
    target = torch.tensor([0, 1, 0, 255], dtype=torch.uint8).view(1, 1, 1, 1, 4)
    result = task.loss(output, target)
    assert result['loss'].item() == pytest.approx((math.log(2) + math.log(4 / 3) + math.log(4)) / 3, rel=1e-6)
    assert result['top1'].item() == pytest.approx(100 / 3)  # equal scores are no answer
    assert task.results(output)[0]['classes'].tolist() == [[255, 1, 1, 1]]


def test_resized_results_are_those_of_the_resized_output():
    """Also where classes are equal or no numbers: none counts."""
    output = torch.randn(2, 7, 9, 13).mul(2).round()
    output[0, 3, 2, 5] = output[1, 0, 4, 4] = math.nan
    task = MODELS.build(dict(type='SegmentationTask', num_classes=7))
    for got, expected in zip(
        task.resized_results(output, (30, 41)),
        task.results(F.interpolate(output, size=(30, 41), mode='bilinear')),
        strict=True,
    ):
        assert torch.equal(got['classes'], expected['classes'])
        assert (got['classes'] == 255).any()
        assert (got['classes'] != 255).any()


def test_a_crop_of_padding_alone_costs_nothing():
    for task, target in (
        (SEGMENTATION, torch.full((1, 1, 1, 4, 4), 255, dtype=torch.uint8)),
        (dict(type='DepthTask'), torch.full((1, 1, 1, 4, 4), -1)),
    ):
        task = MODELS.build(task)
        output = torch.randn(1, task.out_channels, 4, 4, requires_grad=True)
        loss = task.loss(output, target)['loss']
        loss.backward()
        assert loss.item() == 0
        assert not output.grad.any()


def test_reversed_huber_by_hand():
    """Errors 0.5, 1, 10 of which c = 2: 0.5 and 1 as they are, 10 as (100 + 4) / 4 = 26; the fourth is not known."""
    target = torch.tensor([100, 100, 120, -1], dtype=torch.int32).view(1, 1, 1, 1, 4)  # standardised 0, 0, 10
    output = torch.tensor([0.5, -1.0, 0.0, 99.0]).view(1, 1, 1, 4)
    berhu, l1 = (MODELS.build(dict(type='DepthTask', mean=100.0, std=2.0, error=error)) for error in ('berhu', 'l1'))
    assert berhu.loss(output, target)['loss'].item() == pytest.approx((0.5 + 1 + 26) / 3)
    assert l1.loss(output, target)['loss'].item() == pytest.approx(11.5 / 3)
    assert berhu.results(output)[0]['depth'].tolist() == [[101.0, 98.0, 100.0, 298.0]]


def test_depth_without_its_unknown_pixels():
    """Those that are known are standardised as if there were no others, and the others are 0."""
    normalizer = MODELS.build(dict(type='DepthPreprocessor'))
    torch.manual_seed(0)
    depth = torch.randint(0, 60000, (2, 1, 1, 4, 10), dtype=torch.int32)
    alone = normalizer.normalize(depth)
    mixed = torch.full((2, 1, 1, 8, 10), -1, dtype=torch.int32)
    mixed[:, :, :, ::2] = depth
    result = normalizer.normalize(mixed)
    torch.testing.assert_close(result[:, :, :, ::2], alone)
    assert not result[:, :, :, 1::2].any()
    assert not normalizer.normalize(torch.full_like(depth, -1)).any()
    values = (depth[0].flatten() / 2**16).sort().values[4:36]
    expected = (depth[0] / 2**16 - values.mean()) / (values.var() + 1e-6).sqrt()
    torch.testing.assert_close(alone[0], expected)


# ---------------------------------------------------------------------------------------------------------------------
# Models


@pytest.mark.parametrize(
    ('backbone', 'names', 'read'),
    [
        (VIT, ['rgb'], ['rgb']),
        (OMNI, ['rgb'], ['rgb']),
        (multimodal('rgb'), ['rgb'], ['rgb']),
        (multimodal('depth'), ['depth'], ['depth']),
        (multimodal('rgb', 'depth'), ['depth', 'rgb'], ['rgb']),
        (multimodal('rgb', 'depth', 'semseg'), ['rgb', 'semseg', 'depth'], ['rgb', 'depth']),
    ],
)
@pytest.mark.parametrize('head', [CONVNEXT, DPT])
def test_every_parameter_learns_and_every_input_counts(backbone, names, read, head):
    model = build(backbone, head, read=read)
    given = clips(*names)
    output = model.outputs(given)
    assert output.shape == (2, 6, 32, 48)
    target = torch.randint(0, 6, (2, 1, 1, 32, 48), dtype=torch.uint8)
    model(given, target)['loss'].backward()
    without = [name for name, x in model.named_parameters() if x.grad is None or not x.grad.any()]
    assert not without
    [first, second] = model(given, mode='predict')
    assert first['classes'].shape == (32, 48)
    assert first['classes'].dtype == torch.uint8
    for name in names:
        other = {**given, name: given[name].flip(0)}
        assert (model.outputs(other) - output).abs().max() > 1e-4, name


def test_a_model_of_several_modalities_takes_some():
    model = build(multimodal('rgb', 'depth'))
    assert model.outputs(clips('rgb')).shape == (2, 6, 32, 48)
    torch.testing.assert_close(model.outputs(clips('depth', 'rgb')), model.outputs(clips('rgb', 'depth')))


def test_maps_stand_where_their_tokens_do():
    """The map of a modality behind the last block is its own tokens, by row and column."""
    backbone = MODELS.build(multimodal('rgb', 'depth')).eval()
    given = {name: clip.float() for name, clip in clips('rgb', 'depth').items()}
    both = backbone.feature_maps(given, [1, 3], ['depth', 'rgb'])
    tokens = backbone(given)
    assert [x.shape for x in both] == [(2, 32, 1, 4, 6)] * 2
    torch.testing.assert_close(both[1][:, :16].flatten(2).transpose(1, 2), tokens.of('depth'))
    torch.testing.assert_close(both[1][:, 16:, 0, 2, 3], tokens.of('rgb')[:, 2 * 6 + 3])
    vit = MODELS.build(dict(OMNI, final_norm=False)).eval()
    [early, late] = vit.feature_maps({'rgb': given['rgb']}, [0, 3], ['rgb'])
    torch.testing.assert_close(late.flatten(2).transpose(1, 2), vit(given['rgb']))
    assert not torch.equal(early, late)


@pytest.mark.parametrize(
    ('call', 'message'),
    [
        (lambda: build(VIT).outputs(clips('rgb', 'depth')), r"has one modality, and was given \['rgb', 'depth'\]"),
        (lambda: build(multimodal('rgb', 'depth')).outputs(clips('depth')), r"reads \['rgb'\], and \['rgb'\] are not"),
        (lambda: build(VIT, dict(DPT, layers=(0, 1, 2, 4))), r'layers=\(0, 1, 2, 4\), but the backbone has .* 0 to 3'),
        (lambda: build(VIT, dict(DPT, layers=(0, 2, 1, 3))), r'layers=\(0, 2, 1, 3\) are not ascending numbers'),
        (lambda: build(VIT, dict(DPT, layers=(0, 1, 3, -1))), r'layers=\(0, 1, 3, -1\) are not ascending numbers'),
        (lambda: build(multimodal('rgb'), read=('rbg',)), r"read=\('rbg',\) .* Choose from \['rgb'\]"),
        (lambda: build(VIT, read='rgb'), r"read='rgb' is one name. Give a list: read=\('rgb',\)"),
        (lambda: build(VIT, dict(DPT, layers=(0, 0, 1, 2))), r'ends before the last block, 3'),
        (lambda: MODELS.build(multimodal('depth')).grid, r"A lone clip is RGB, and .* \['depth'\]"),
        (lambda: build(VIT, dict(DPT, layers=(0, 1))), r'four scales: layers=\(0, 1\)'),
        (lambda: build(VIT, dict(CONVNEXT, embed_dim=100)), 'embed_dim=100 is no multiple of upscale=4 squared'),
        (lambda: build(VIT, task=dict(type='DepthTask', error='l2')), "error='l2' is unknown"),
        (lambda: build(VIT, task=dict(type='SegmentationTask', num_classes=400)), 'num_classes=400 is too many'),
        (lambda: build(VIT)(clips('rgb')), 'needs a target, and this batch has none'),
        (lambda: build(VIT)(clips('rgb'), mode='tensor'), "mode='tensor' is unknown"),
        (
            lambda: build(OMNI).outputs({'rgb': torch.zeros(1, 3, 4, 32, 32)}),
            'DensePredictor takes images, and was given clips of 2 tubelets',
        ),
    ],
)
def test_what_cannot_be(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_class_that_the_model_does_not_have_is_named():
    model = build(VIT)
    target = torch.zeros(2, 1, 1, 8, 8, dtype=torch.uint8)
    target[1, 0, 0, 3, 3], target[0, 0, 0, 0, 0] = 6, 255
    batch = dict(clips=clips('rgb'), target=target, ids=['a.png', 'b.png'])
    with pytest.raises(ValueError, match=r"map of 'b.png' has the class 6, none of the model's 6"):
        model.data_preprocessor(batch)
    target[target == 6] = 5
    assert set(model.data_preprocessor(batch)) == {'clips', 'target'}


@pytest.mark.parametrize('kind', ['DensePredictor', 'MultiMAE', 'Classifier'])
def test_an_input_without_class_is_named_where_the_tokenizer_knows_none(kind):
    tokenizers = dict(rgb=TOKENIZERS['rgb'], semseg=dict(TOKENIZERS['semseg'], padding_class=False))
    parts: dict[str, dict] = dict(
        DensePredictor=dict(head=CONVNEXT, task=SEGMENTATION),
        MultiMAE=dict(
            head=dict(rgb=dict(type='CrossAttentionHead', error='mse', embed_dim=16, num_heads=2)),
            mask_generator=dict(type='DirichletMasking', num_visible=4),
        ),
        Classifier=dict(num_classes=3, data_preprocessor=dict(type='MultiModalPreprocessor')),
    )
    batch = dict(clips=clips('rgb', 'semseg'), ids=['a.png', 'b.png'])
    maps = batch['clips']['semseg']
    maps[1, 0, 0, 3, 3] = 255
    model = MODELS.build(dict(type=kind, backbone=dict(multimodal(), tokenizers=tokenizers), **parts[kind]))
    with pytest.raises(ValueError, match=r"semseg of 'b.png' has the class 255, none of .*semseg.padding_class=True"):
        model.data_preprocessor(batch)
    maps[1, 0, 0, 3, 3] = 4
    assert set(model.data_preprocessor(batch)) == {'clips'}
    maps[1, 0, 0, 3, 3] = 255
    model = MODELS.build(dict(type=kind, backbone=multimodal('rgb', 'semseg'), **parts[kind]))  # it pads
    assert set(model.data_preprocessor(batch)) == {'clips'}


def test_a_target_goes_to_a_model_that_predicts_it():
    head = dict(rgb=dict(type='CrossAttentionHead', error='mse', embed_dim=16, num_heads=2))
    masks = dict(type='DirichletMasking', num_visible=4)
    multimae = MODELS.build(dict(type='MultiMAE', backbone=multimodal('rgb'), head=head, mask_generator=masks))
    classifier = MODELS.build(
        dict(type='Classifier', backbone=VIT, num_classes=3, data_preprocessor=dict(type='MultiModalPreprocessor'))
    )
    batch = dict(clips=clips('rgb'), target=torch.full((2, 1, 1, 32, 48), 7, dtype=torch.uint8), ids=['a', 'b'])
    batch['labels'] = torch.tensor([0, 2])
    assert multimae(**multimae.data_preprocessor(batch))['loss'].isfinite()
    assert set(classifier.data_preprocessor(batch)) == {'clips', 'labels'}
    depth = build(VIT, task=dict(type='DepthTask'))
    assert depth(**depth.data_preprocessor(batch))['loss'].isfinite()


# ---------------------------------------------------------------------------------------------------------------------
# Classes of whole images


def test_a_classifier_pools_all_tokens_of_all_modalities():
    backbone = multimodal('rgb', 'depth')
    torch.manual_seed(0)
    model = MODELS.build(
        dict(
            type='Classifier',
            backbone=backbone,
            num_classes=3,
            head_init_std=0.5,
            data_preprocessor=dict(type='MultiModalPreprocessor'),
        )
    ).eval()
    batch = dict(clips=clips('depth', 'rgb'), labels=torch.tensor([0, 2]), ids=['a', 'b'], modality='image')
    inputs = model.data_preprocessor(batch)
    scores = torch.stack([row['scores'] for row in model(**inputs, mode='predict')])
    tokens = model.backbone(model.data_preprocessor.normalize(batch['clips'])).x  # the global token, too
    assert tokens.shape[1] == 2 * 24 + 1
    torch.testing.assert_close(scores, model.head(model.norm(tokens.mean(1))))
    loss = model(**inputs)['loss']
    assert loss.item() == pytest.approx(F.cross_entropy(scores, batch['labels']).item(), rel=1e-6)
    batch['labels'][1] = 3
    with pytest.raises(ValueError, match="label 3 of 'b' is none of the model's 3 classes"):
        model.data_preprocessor(batch)


@pytest.mark.parametrize('preprocessor', ['ClipPreprocessor', 'MultiModalPreprocessor'])
def test_a_lone_clip_is_rgb(preprocessor):
    torch.manual_seed(0)
    cfg = dict(type='Classifier', backbone=multimodal('rgb', 'semseg'), num_classes=3, head_init_std=0.5)
    model = MODELS.build(dict(cfg, data_preprocessor=dict(type=preprocessor))).eval()
    clip = clips('rgb')['rgb']
    [given] = tree_leaves(model.data_preprocessor(dict(clips=dict(rgb=clip))))
    assert given is clip
    tokens = model.backbone({'rgb': model.data_preprocessor.normalize(clip)}).x
    torch.testing.assert_close(model.predict(clip), model.head(model.norm(tokens.mean(1))))
    torch.testing.assert_close(model.predict(torch.stack([clip, clip], 1)), model.predict(clip))


# ---------------------------------------------------------------------------------------------------------------------
# Pictures


@pytest.mark.parametrize('task', [SEGMENTATION, dict(type='DepthTask', mean=30000.0, std=9000.0)])
def test_a_sheet_shows_inputs_truth_and_prediction(task):
    model = build(multimodal('rgb', 'depth'), task=task).train()
    given = clips('rgb', 'depth', width=32)
    classes = torch.randint(0, 6, (1, 1, 1, 32, 32), dtype=torch.uint8)
    target = classes if task == SEGMENTATION else given['depth'][1:]
    sample = dict(id='room.png', clips={name: clip[:1] for name, clip in given.items()}, target=target)
    page = np.asarray(predictions_sheet(model, [sample], 'a title'))
    assert model.training
    [prediction] = model.eval().predict(sample['clips'])[0].values()
    truth = target[0, 0, 0]
    assert contains(page, enlarged(given['rgb'][0, :, 0].permute(1, 2, 0).numpy(), 5))
    for pixels, like in ((given['depth'][0, 0, 0], given['depth'][0]), (truth, truth), (prediction, truth)):
        assert contains(page, enlarged(map_picture(pixels[None], like=like), 5))


def test_colours_of_maps():
    """Every class has its own colour, depth a grey between the extremes; black says that nothing is known."""
    classes = map_picture(torch.arange(256, dtype=torch.uint8).view(1, 16, 16)).reshape(-1, 3)
    assert classes[255].tolist() == [0, 0, 0]
    assert len({tuple(colour) for colour in classes[:150].tolist()}) == 150
    depth = torch.tensor([[[-1, 100, 150, 200]]], dtype=torch.int32)
    assert map_picture(depth)[0, :, 0].tolist() == [0, 26, 140, 255]
    assert map_picture(torch.tensor([[[-5.0, 50.0, 150.0, 999.0]]]), like=depth)[0, :, 0].tolist() == [0, 26, 140, 255]
    assert not map_picture(torch.full((1, 1, 2), -1)).any()
