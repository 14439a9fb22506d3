"""The numbers of the model: parity with the release, with a dense path, and the properties masking rests on."""

from __future__ import annotations

import json
import re
from pathlib import Path

import dense_reference as dense
import numpy as np
import pytest
import torch
from mmengine.utils import is_list_of
from tiny_models import GENERATORS, PRETRAINING, TRANSFER, batches, model_config
from torch import Tensor

from omnimae.data.datasets import collate_clips
from omnimae.engine.compiling import compile_loss
from omnimae.models.vit import patchify, sinusoid_table
from omnimae.registry import MODELS
from omnimae.structures import Grid, Masks

GOLDEN = json.loads((Path(__file__).parent / 'data/omnimae_tiny.json').read_text())


def autoencoder(
    *, width=48, depth=2, heads=4, head=None, masks=None, normalize='channel', **backbone
) -> torch.nn.Module:
    decoder = dict(type='MAEHead', embed_dim=32, depth=1, target=dict(type='PixelTarget', normalize=normalize))
    return MODELS.build(
        dict(
            type='MaskedAutoencoder',
            backbone=dict(type='SpatioTemporalViT', embed_dim=width, depth=depth, num_heads=heads, **backbone),
            head={**decoder, **(head or {})},
            mask_generator=masks
            or dict(image=dict(type='RandomMasking', ratio=0.9), video=dict(type='RandomMasking', ratio=0.95)),
        )
    )


def small(**kwargs) -> torch.nn.Module:
    return autoencoder(patch_size=(2, 8, 8), clip_size=(4, 32, 32), **kwargs)


def small_classifier(**kwargs) -> torch.nn.Module:
    backbone = dict(embed_dim=24, depth=1, num_heads=3, patch_size=(2, 8, 8), clip_size=(4, 32, 32))
    cfg = dict(type='Classifier', backbone=dict(type='SpatioTemporalViT', **backbone), num_classes=5, **kwargs)
    return randomise(MODELS.build(cfg))


def randomise(model: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Every parameter random, norms and biases too, so that none of them can be left out unnoticed."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(
                0.1 * torch.randn(parameter.shape, generator=generator) + ('norm' in name and 'weight' in name)
            )
    return model


# --- the release's numbers -------------------------------------------------------------------------------------------


def released_name(name: str) -> str:
    """Our parameter name -> the released one; the golden fill depends on the sorted released names."""
    rules = [
        ('backbone.patch_embed.', 'trunk.patch_embed.proj.1.'),
        ('backbone.', 'trunk.'),
        ('head.mask_token', 'trunk.mask_token'),
        ('head.pred.', 'head.'),
        ('head.blocks.', 'trunk.decoder.decoder_blocks.'),
        ('head.decoder_embed.', 'trunk.decoder.decoder_embed.'),
        ('head.norm.', 'trunk.decoder.norm.'),
        ('norm.', 'trunk.norm.'),
    ]
    for ours, theirs in rules:
        if name.startswith(ours):
            return theirs + name[len(ours) :]
    return name


def golden_fill(model: torch.nn.Module) -> torch.nn.Module:
    names = {released_name(name): parameter for name, parameter in model.named_parameters()}
    with torch.no_grad():
        for rank, name in enumerate(sorted(names)):
            j = np.arange(names[name].numel())
            value = 0.05 * np.sin(0.37 * j + rank) + ('norm' in name and name.endswith('weight'))
            names[name].copy_(torch.from_numpy(value.astype(np.float32)).view_as(names[name]))
    return model


def golden_clip(*shape: int) -> Tensor:
    j = np.arange(np.prod(shape))
    return torch.from_numpy((np.cos(0.11 * j) + 0.5 * np.sin(0.0137 * j)).astype(np.float32)).view(shape)


def golden_masks(batch: int, num_tokens: int, num_visible: int) -> Masks:
    hidden = torch.ones(batch, num_tokens, dtype=torch.bool)
    for b in range(batch):
        hidden[b, [(7919 * j + 31 * b) % num_tokens for j in range(num_visible)]] = False
    return Masks.from_hidden(hidden)


@pytest.mark.parametrize('variant', ['decoder_qkv_nobias(released)', 'decoder_qkv_bias(config)'])
@pytest.mark.parametrize(
    ('modality', 'shape', 'num_tokens', 'num_visible'),
    [('image', (2, 3, 1, 224, 224), 196, 20), ('video', (1, 3, 16, 224, 224), 1568, 79)],
)
def test_loss_gradients_and_predictions_equal_the_release(variant, modality, shape, num_tokens, num_visible):
    golden = GOLDEN[f'{variant}/{modality}']
    model = golden_fill(autoencoder(head=dict(num_heads=16, qkv_bias='nobias' not in variant)))
    clip, masks = golden_clip(*shape), golden_masks(shape[0], num_tokens, num_visible)
    assert masks.visible[0, :5].tolist() == golden['visible_idx_first5']

    loss = model(clip, modality, masks)['loss']
    loss.backward()
    assert loss.item() == pytest.approx(golden['loss'], rel=1e-6)
    parameters = {released_name(name): parameter for name, parameter in model.named_parameters()}
    for name, value in golden['grad_norm'].items():
        assert parameters[name].grad.norm().item() == pytest.approx(value, rel=1e-5), name

    # the release predicts visible tokens too; the dense path does so as well and is held against all of its output
    hidden = torch.ones(shape[0], num_tokens, dtype=torch.bool).scatter(1, masks.visible, False)
    _, prediction = dense.pretrain(
        clip, hidden, dict(model.named_parameters()), patch=(2, 16, 16), grid=(8, 14, 14), heads=4, decoder_heads=16
    )
    assert prediction.double().sum().item() == pytest.approx(golden['pred_sum'], rel=1e-5)
    assert prediction.double().square().sum().item() == pytest.approx(golden['pred_sumsq'], rel=1e-5)
    assert prediction[0, 0, :4].tolist() == pytest.approx(golden['pred_0_0_first4'], rel=1e-4)
    assert prediction[-1, -1, -4:].tolist() == pytest.approx(golden['pred_last_last4'], rel=1e-4)
    patches = torch.stack([row['patches'] for row in model.predict(clip, modality, masks)])
    torch.testing.assert_close(patches, prediction[hidden].view_as(patches), rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize(
    ('name', 'shape'),
    [('image', (2, 3, 1, 224, 224)), ('video', (1, 3, 16, 224, 224)), ('image112', (2, 3, 1, 112, 112))],
)
def test_classifier_logits_equal_the_release(name, shape):
    golden = torch.tensor(GOLDEN[f'finetune/{name}']['logits'])
    backbone = dict(type='SpatioTemporalViT', embed_dim=48, depth=2, num_heads=4)
    model = golden_fill(MODELS.build(dict(type='Classifier', backbone=backbone, num_classes=golden.shape[1])))
    torch.testing.assert_close(model.predict(golden_clip(*shape)[: len(golden)]), golden, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ('arch', 'patch', 'decoder', 'encoder_params', 'total_params'),
    [
        ('base', 16, dict(embed_dim=384, depth=4), 86_236_416, 94_217_856),
        ('base', 16, dict(embed_dim=384, depth=4, qkv_bias=True), 86_236_416, 94_222_464),
        ('large', 16, dict(embed_dim=512, depth=4), 303_885_312, 317_803_520),
        ('huge', 14, dict(embed_dim=512, depth=8), 631_187_200, 657_655_448),
    ],
)
def test_parameter_counts_of_the_paper_models(arch, patch, decoder, encoder_params, total_params):
    with torch.device('meta'):
        model = MODELS.build(
            dict(
                type='MaskedAutoencoder',
                backbone=dict(type='SpatioTemporalViT', arch=arch, patch_size=(2, patch, patch)),
                head=dict(type='MAEHead', **decoder),
                mask_generator=dict(video=dict(type='RandomMasking', ratio=0.95)),
            )
        )
    assert sum(p.numel() for p in model.backbone.parameters()) == encoder_params
    assert sum(p.numel() for p in model.parameters()) == total_params


@pytest.mark.parametrize(
    ('arch', 'num_classes', 'params'),
    [('base', 1000, 87_005_416), ('base', 174, 86_370_222), ('large', 174, 304_063_662), ('huge', 1000, 632_468_200)],
)
def test_parameter_counts_of_the_classifiers(arch, num_classes, params):
    with torch.device('meta'):
        patch = (2, 14, 14) if arch == 'huge' else (2, 16, 16)
        backbone = dict(type='SpatioTemporalViT', arch=arch, patch_size=patch)
        model = MODELS.build(dict(type='Classifier', backbone=backbone, num_classes=num_classes))
    assert sum(p.numel() for p in model.parameters()) == params


def test_position_table_has_the_published_values():
    table = sinusoid_table(1568, 768)[0]
    assert table[0, :4].tolist() == [0, 1, 0, 1]
    first = [0.8414709568, 0.5403022766, 0.8284307718, 0.5600914955]
    last = [0.1636606455, 0.9865167141, 0.1598156840, 0.9871468544]
    expected = torch.tensor([first, last])
    torch.testing.assert_close(torch.stack([table[1, :4], table[-1, -4:]]), expected, rtol=0, atol=2e-7)
    assert table.sum().item() == pytest.approx(245744.97, abs=0.05)  # the release sums in float32


# --- against the dense path ------------------------------------------------------------------------------------------


@pytest.mark.parametrize('seed', range(3))
@pytest.mark.parametrize('normalize', ['channel', None])
@pytest.mark.parametrize(
    ('patch', 'trained_for', 'size'),
    [
        ((2, 16, 16), (4, 32, 48), (4, 32, 48)),
        ((2, 16, 16), (4, 32, 48), (1, 32, 48)),
        ((2, 14, 14), (4, 28, 42), (8, 42, 28)),
        ((2, 14, 14), (4, 28, 42), (1, 56, 28)),
        ((1, 8, 8), (3, 16, 16), (5, 16, 24)),
    ],
)
def test_loss_and_gradients_equal_the_dense_path(seed, normalize, patch, trained_for, size):
    rng = np.random.default_rng(seed)
    heads, decoder_heads = int(rng.integers(1, 5)), int(rng.integers(1, 4))
    model = autoencoder(
        width=heads * 2 * int(rng.integers(2, 9)), depth=int(rng.integers(1, 4)), heads=heads, patch_size=patch,
        clip_size=trained_for, normalize=normalize, qkv_bias=bool(rng.integers(2)),
        head=dict(embed_dim=decoder_heads * 8, num_heads=decoder_heads, depth=2, qkv_bias=bool(rng.integers(2))),
        masks=dict(video=dict(type='RandomMasking', ratio=0.5)),
    )  # fmt: skip
    randomise(model, seed)
    torch.manual_seed(seed)
    clip = torch.randn(2, 3, *size)
    grid = Grid.of(size, patch)
    hidden = torch.rand(2, grid.num_tokens).argsort(1) < max(1, int(rng.uniform(0.3, 0.9) * grid.num_tokens))
    loss = model(clip, 'video', Masks.from_hidden(hidden))['loss']

    parameters = {k: v.detach().clone().requires_grad_() for k, v in model.named_parameters()}
    expected, _ = dense.pretrain(
        clip, hidden, parameters, patch=patch, grid=tuple(model.backbone.grid), heads=heads,
        decoder_heads=decoder_heads, normalize=bool(normalize),
    )  # fmt: skip
    assert loss.item() == pytest.approx(expected.item(), rel=2e-6)
    loss.backward()
    expected.backward()
    for name, parameter in model.named_parameters():
        scale = parameters[name].grad.abs().max().item() + 1e-4
        difference = (parameter.grad - parameters[name].grad).abs().max().item()
        assert difference < 1e-4 * scale, name


@pytest.mark.parametrize('size', [(4, 32, 32), (1, 32, 32), (1, 48, 16), (6, 16, 40)])
def test_classifier_equals_the_dense_path(size):
    model = small_classifier()
    clip = torch.randn(2, 3, *size)
    parameters = dict(model.named_parameters())
    expected = dense.logits(clip, parameters, patch=(2, 8, 8), grid=(2, 4, 4), heads=3)
    torch.testing.assert_close(model.logits(clip), expected, rtol=1e-5, atol=1e-6)


def test_an_image_is_a_repeated_frame():
    model = randomise(small())
    image = torch.randn(2, 3, 1, 32, 32)
    hidden = torch.rand(2, 16).argsort(1) < 14
    masks = Masks.from_hidden(hidden)
    still = model(image.repeat(1, 1, 2, 1, 1), 'image', masks)['loss']
    assert model(image, 'image', masks)['loss'].item() == pytest.approx(still.item(), rel=1e-6)


@pytest.mark.parametrize('frames', [1, 4])
def test_uint8_and_normalised_clips_give_the_same_loss(frames):
    model = randomise(small())
    clip = torch.randint(0, 256, (2, 3, frames, 32, 32), dtype=torch.uint8)
    floating = (clip / 255 - dense.MEAN.view(3, 1, 1, 1)) / dense.STD.view(3, 1, 1, 1)
    masks = Masks.from_hidden(torch.rand(2, 16 * max(frames // 2, 1)).argsort(1) < 14)
    expected = model(floating, 'video', masks)['loss'].item()
    assert model(clip, 'video', masks)['loss'].item() == pytest.approx(expected, rel=1e-5)


# --- targets ---------------------------------------------------------------------------------------------------------


def test_target_of_one_known_patch():
    target = MODELS.build(dict(type='PixelTarget', normalize='channel'))
    pixels = torch.tensor([0.0, 0.5, 0.1, 1.0, 0.5, 0.3]).view(1, 1, 6)  # two pixels, three channels
    root = 0.5**0.5  # two values at distance d from their mean have the unbiased deviation d * sqrt(2)
    expected = torch.tensor([-root, 0, -root, root, 0, root])
    torch.testing.assert_close(target(pixels)[0, 0], expected, rtol=0, atol=1e-4)
    # repeated over two frames, n counts four values: deviation d * sqrt(4/3)
    expected = torch.tensor([-1.0, 0, -1, 1, 0, 1]) * 0.75**0.5
    torch.testing.assert_close(target(pixels, repeats=2)[0, 0], expected, rtol=0, atol=1e-4)
    torch.testing.assert_close(target.restore(target(pixels, 2), pixels, 2), pixels)


def test_scored_tokens_alone_count():
    model = randomise(small())
    clip = torch.randn(2, 3, 4, 32, 32)
    masks = Masks.from_hidden(torch.rand(2, 32).argsort(1) < 24)
    scored = torch.zeros(2, 24, dtype=torch.bool)
    scored[0, :5] = scored[1, :11] = True
    pixels = model._split(clip, 'video', masks).pixels
    errors = model.head.errors(torch.stack([row['patches'] for row in model.predict(clip, 'video', masks)]), pixels)
    expected = (errors[0, :5].sum() + errors[1, :11].sum()) / 16
    loss = model(clip, 'video', masks._replace(scored=scored))['loss']
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_unknown_target_is_refused():
    with pytest.raises(ValueError, match="normalize='patchwise' is unknown"):
        small(normalize='patchwise')


# --- masks -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('generator', 'ratio', 'grid', 'hidden'),
    [
        ('RandomMasking', 0.75, (1, 14, 14), 147), ('RandomMasking', 0.9, (1, 14, 14), 176),
        ('RandomMasking', 0.75, (8, 14, 14), 1176), ('RandomMasking', 0.9, (8, 14, 14), 1411),
        ('RandomMasking', 0.95, (8, 14, 14), 1489), ('RandomMasking', 0.9, (1, 16, 16), 230),
        ('RandomMasking', 0.95, (8, 16, 16), 1945), ('TubeMasking', 0.9, (1, 14, 14), 176),
        ('TubeMasking', 0.9, (8, 14, 14), 1408), ('TubeMasking', 0.95, (8, 14, 14), 1488),
        ('TubeMasking', 0.95, (8, 16, 16), 1944), ('CausalMasking', 0.9, (8, 14, 14), 1411),
        ('CausalMasking', 0.95, (8, 14, 14), 1489), ('FrameMasking', 0.75, (8, 14, 14), 1176),
        ('FrameMasking', 0.9, (8, 14, 14), 1372), ('FrameMasking', 0.95, (8, 16, 16), 1792),
    ],
)  # fmt: skip
def test_hidden_counts_are_the_published_ones(generator, ratio, grid, hidden):
    masks = MODELS.build(dict(type=generator, ratio=ratio))(2, Grid(*grid), 'cpu')
    assert masks.decode.shape == (2, hidden)
    assert masks.visible.shape == (2, Grid(*grid).num_tokens - hidden)


# The released generators (omnivision/data/transforms/mask_image_modeling.py), run on images and clips of other sizes.
@pytest.mark.parametrize(
    ('grid', 'ratio', 'random', 'tube', 'frame'),
    [
        ((1, 7, 7), 0.75, 36, 36, None), ((1, 7, 7), 0.9, 44, 44, None), ((1, 9, 13), 0.9, 105, 105, None),
        ((1, 20, 20), 0.75, 300, 300, None), ((3, 7, 7), 0.75, 110, 108, 98), ((3, 7, 7), 0.95, 139, 138, 98),
        ((5, 9, 13), 0.9, 526, 525, 468), ((8, 7, 7), 0.75, 294, 288, 294), ((8, 7, 7), 0.95, 372, 368, 343),
        ((7, 15, 11), 0.9, 1039, 1036, 990), ((10, 16, 16), 0.9, 2304, 2300, 2304),
    ],
)  # fmt: skip
def test_hidden_counts_at_other_sizes_are_the_published_ones(grid, ratio, random, tube, frame):
    grid = Grid(*grid)
    expected = dict(RandomMasking=random, CausalMasking=random, TubeMasking=tube, FrameMasking=frame)
    for name, hidden in expected.items():
        generator = MODELS.build(dict(type=name, ratio=ratio))
        if hidden is None:  # an image is one time slice
            with pytest.raises(ValueError, match=f'FrameMasking.* hides 0 of {grid.num_tokens} tokens'):
                generator.num_hidden(grid)
        else:
            assert generator.num_hidden(grid) == hidden


@pytest.mark.parametrize(('grid', 'visible'), [((1, 14, 14), 49), ((1, 9, 13), 30), ((8, 14, 14), 392)])
def test_causal_masks_show_the_beginning(grid, visible):
    """Table 1b: of an image the top left in raster order, of a video the first frames."""
    masks = MODELS.build(dict(type='CausalMasking', ratio=0.75))(3, Grid(*grid), 'cpu')
    assert (masks.visible == torch.arange(visible)).all()
    assert (masks.decode == torch.arange(visible, Grid(*grid).num_tokens)).all()


@pytest.mark.parametrize('generator', GENERATORS)
def test_each_row_is_a_partition_of_the_grid(generator):
    masks = MODELS.build(dict(type=generator, ratio=0.7))(16, Grid(4, 3, 5), 'cpu')
    rows = torch.cat([masks.visible, masks.decode], 1).sort(1).values
    assert (rows == torch.arange(60)).all()
    assert masks.visible.dtype == torch.int64


def test_structure_of_each_mask_type():
    grid = Grid(4, 3, 5)

    def hidden(generator: str) -> Tensor:
        masks = MODELS.build(dict(type=generator, ratio=0.6))(64, grid, 'cpu')
        return torch.zeros(64, 60, dtype=torch.bool).scatter(1, masks.decode, True).view(64, *grid)

    tube, frame, causal, random = (hidden(g) for g in ('TubeMasking', 'FrameMasking', 'CausalMasking', 'RandomMasking'))
    assert (tube == tube[:, :1]).all()
    assert (frame == frame[:, :, :1, :1]).all()
    assert frame[:, :, 0, 0].sum(1).tolist() == [2] * 64
    assert (causal.flatten(1) == (torch.arange(60) >= 24)).all()
    # every token is hidden equally often: 36 of 60 in expectation, binomial spread over 64 rows is 0.061
    assert (random.float().mean(0) - 0.6).abs().max() < 0.3
    assert (random.float().mean((0, 2, 3)) - 0.6).abs().max() < 0.06
    assert len({tuple(row.flatten().tolist()) for row in random}) == 64


def test_masks_follow_the_seed_alone():
    generator = MODELS.build(dict(type='RandomMasking', ratio=0.5))
    torch.manual_seed(3)
    first = generator(4, Grid(2, 4, 4), 'cpu')
    torch.manual_seed(3)
    assert all(torch.equal(a, b) for a, b in zip(first[:2], generator(4, Grid(2, 4, 4), 'cpu')[:2], strict=True))


@pytest.mark.parametrize('ratio', [0.0, 1.0, 1.5, -0.1])
def test_impossible_ratio_is_refused(ratio):
    with pytest.raises(ValueError, match=rf'ratio={ratio} must lie between 0 and 1'):
        MODELS.build(dict(type='TubeMasking', ratio=ratio))


@pytest.mark.parametrize(
    ('masks', 'text'),
    [
        (
            dict(image=dict(type='RandomMasking', ratio=0.01)),
            r'RandomMasking\(ratio=0.01\) hides 0 of 16 tokens on a grid of 1x4x4',
        ),
        (dict(image=dict(type='FrameMasking', ratio=0.9)), r'FrameMasking\(ratio=0.9\) hides 0 of 16 tokens'),
        (
            dict(video=dict(type='FrameMasking', ratio=0.3)),
            r'FrameMasking\(ratio=0.3\) hides 0 of 32 tokens on a grid of 2x4x4',
        ),
    ],
)
def test_useless_masks_are_refused_when_the_model_is_built(masks, text):
    with pytest.raises(ValueError, match=text):
        small(masks=masks)


def test_ragged_masks_are_refused():
    with pytest.raises(ValueError, match=r'same number of tokens, got \[2, 1\]'):
        Masks.from_hidden(torch.tensor([[True, True, False], [True, False, False]]))
    with pytest.raises(ValueError, match='hidden must be bool of shape'):
        Masks.from_hidden(torch.ones(2, 3))


# --- properties of the method ----------------------------------------------------------------------------------------


@pytest.mark.parametrize('frames', [1, 4])
def test_predictions_do_not_depend_on_hidden_pixels(frames):
    model = randomise(small())
    clip = torch.randn(2, 3, frames, 32, 32)
    grid = Grid.of((frames, 32, 32), (2, 8, 8))
    hidden = torch.rand(2, grid.num_tokens).argsort(1) < grid.num_tokens - 3
    pixels = hidden.view(2, 1, *grid)
    for dim, size in zip((2, 3, 4), (frames // grid.t, 8, 8), strict=True):
        pixels = pixels.repeat_interleave(size, dim)
    other = torch.where(pixels, torch.randn_like(clip), clip)
    masks = Masks.from_hidden(hidden)
    first, second = ([row['patches'] for row in model.predict(c, 'video', masks)] for c in (clip, other))
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a, b)
    visible_moved = torch.where(pixels, clip, clip + 1)
    assert not torch.equal(first[0], model.predict(visible_moved, 'video', masks)[0]['patches'])


def test_predictions_do_not_depend_on_the_order_of_tokens():
    model = randomise(small())
    clip = torch.randn(1, 3, 4, 32, 32)
    masks = Masks.from_hidden(torch.rand(1, 32).argsort(1) < 24)
    shuffled = Masks(masks.visible.flip(1), masks.decode.flip(1))
    a, b = (model.predict(clip, 'video', m)[0]['patches'] for m in (masks, shuffled))
    torch.testing.assert_close(a, b.flip(0), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('separate', [False, True])
def test_every_parameter_gets_a_gradient_from_a_mixed_epoch(separate):
    decoder = dict(type='MAEHead', embed_dim=32, depth=1)
    model = small()
    if separate:
        cfg = dict(
            type='SpatioTemporalViT', embed_dim=48, depth=2, num_heads=4, patch_size=(2, 8, 8), clip_size=(4, 32, 32)
        )
        masks = {m: dict(type='RandomMasking', ratio=0.75) for m in ('image', 'video')}
        parts = dict(backbone=cfg, head=dict(image=decoder, video=decoder), mask_generator=masks)
        model = MODELS.build(dict(type='MaskedAutoencoder', **parts))
    randomise(model)
    model(torch.randint(0, 256, (2, 3, 1, 32, 32), dtype=torch.uint8), 'image')['loss'].backward()
    if separate:
        assert all(p.grad is None for p in model.head['video'].parameters())
    model(torch.randint(0, 256, (2, 3, 4, 32, 32), dtype=torch.uint8), 'video')['loss'].backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert without == []


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
@pytest.mark.parametrize('method', [method for method in (*PRETRAINING, *TRANSFER) if method != 'linear_images'])
def test_activation_checkpointing_changes_no_number(method, dtype):
    """Of encoder and decoder, with DropPath, whatever uses the backbone: pretraining, classifiers, dense heads."""
    cfg = model_config(method, depth=2)
    given, results = batches(cfg), []
    for flag in (False, True):
        torch.manual_seed(0)
        cfg['backbone'].update(drop_path_rate=0.5, grad_checkpointing=flag)
        if cfg.get('head', {}).get('type') == 'MAEHead':
            cfg['head']['grad_checkpointing'] = flag
        model, calls = MODELS.build(cfg).train(), []
        for block in model.backbone.blocks:
            block.register_forward_pre_hook(lambda block, _, calls=calls: calls.append(block))
        with torch.autocast('cpu', dtype, enabled=dtype != torch.float32):
            losses = [model(**arguments, mode='loss')['loss'] for arguments in given]
        sum(losses).backward()
        assert len(calls) == (1 + flag) * len(given) * len(model.backbone.blocks)
        results.append([*losses, *(x.grad for x in model.parameters() if x.grad is not None)])
    for plain, recomputed in zip(*results, strict=True):
        assert torch.equal(plain, recomputed)


def test_activation_checkpointing_changes_no_number_of_a_compiled_loss():
    cfg = model_config('finetune_videos', depth=2)
    [given], results = batches(cfg), []
    for flag in (False, True):
        torch.manual_seed(0)
        cfg['backbone'].update(drop_path_rate=0.5, grad_checkpointing=flag)
        model = MODELS.build(cfg).train()
        if flag:
            torch._dynamo.reset()
            compile_loss(model, dict(backend='aot_eager', fullgraph=True))
        torch.manual_seed(1)
        loss = model(**given, mode='loss')['loss']
        loss.backward()
        results.append([loss, *(x.grad for x in model.parameters())])
    for plain, compiled in zip(*results, strict=True):
        torch.testing.assert_close(plain, compiled, rtol=1e-5, atol=1e-6)


def test_drop_path_drops_whole_samples_and_keeps_the_mean():
    model = small(depth=3, drop_path_rate=0.4)
    assert [getattr(b.drop_path, 'p', 0.0) for b in model.backbone.blocks] == pytest.approx([0, 0.2, 0.4])
    dropped = model.backbone.blocks[2].drop_path.train()(torch.ones(4000, 2, 3))
    assert dropped.unique().tolist() == pytest.approx([0, 1 / 0.6])
    assert (dropped == dropped[:, :1, :1]).all()
    assert dropped.mean().item() == pytest.approx(1, abs=0.06)


def test_bfloat16_autocast_stays_close():
    model = randomise(small())
    clip = torch.randn(2, 3, 4, 32, 32)
    masks = Masks.from_hidden(torch.rand(2, 32).argsort(1) < 24)
    exact = model(clip, 'video', masks)['loss']
    with torch.autocast('cpu', torch.bfloat16):
        rough = model(clip, 'video', masks)['loss']
    assert rough.dtype == torch.float32
    assert rough.item() == pytest.approx(exact.item(), rel=0.02)


# --- what MMEngine and users call ------------------------------------------------------------------------------------


def test_predict_gives_one_result_per_sample():
    model = small()
    results = model(torch.randint(0, 256, (3, 3, 4, 32, 32), dtype=torch.uint8), 'video', mode='predict')
    assert is_list_of(results, dict)
    assert len(results) == 3
    assert results[0]['patches'].shape == (30, 384)
    assert sorted(results[0]['decode'].tolist() + results[0]['visible'].tolist()) == list(range(32))
    assert results[0]['modality'] == 'video'


def test_the_preprocessor_keeps_only_what_the_model_takes():
    clip, labels = torch.zeros(1, 3, 1, 8, 8, dtype=torch.uint8), torch.zeros(1, dtype=torch.int64)
    batch = dict(clips=dict(rgb=clip), modality='image', ids=['a.jpg'], failures=[], labels=labels)
    assert set(small().data_preprocessor(batch)) == {'clip', 'modality', 'labels'}


def test_one_clip_of_a_dataset_or_collate_function_from_outside_is_rgb():
    clip = torch.randint(0, 256, (1, 3, 1, 8, 8), dtype=torch.uint8)
    batch = collate_clips([dict(clip=clip, modality='image', id='a.jpg')])
    assert torch.equal(batch['clips']['rgb'], clip)
    assert small().data_preprocessor(dict(clip=clip, modality='image'))['clip'] is clip


def test_a_masked_autoencoder_predicts_one_view_of_rgb():
    model, clip = small(), torch.randint(0, 256, (2, 3, 4, 32, 32), dtype=torch.uint8)
    masks = model.draw_masks(clip)
    views, plain = (model(x, masks=masks, mode='predict') for x in (clip[:, None], clip))
    assert all(torch.equal(one['patches'], other['patches']) for one, other in zip(views, plain, strict=True))
    with pytest.raises(ValueError, match='one view of a sample, and was given 3. Set num_clips=1 .* CenterCrop'):
        model(torch.stack([clip] * 3, 1), mode='predict')
    with pytest.raises(ValueError, match=r"takes one RGB clip, and the batch has \['rgb', 'depth'\]. Set model.data_p"):
        model.data_preprocessor(dict(clips=dict(rgb=clip, depth=clip[:, :1]), modality='video'))


def test_views_are_averaged():
    model = small_classifier()
    views = torch.randint(0, 256, (2, 6, 3, 4, 32, 32), dtype=torch.uint8)
    expected = torch.stack([model.predict(views[:, v]) for v in range(6)]).mean(0)
    torch.testing.assert_close(model.predict(views), expected, rtol=1e-5, atol=1e-6)


def test_classifier_loss_is_the_smoothed_cross_entropy():
    model = small_classifier(label_smoothing=0.1)
    clip, labels = torch.randint(0, 256, (4, 3, 1, 32, 32), dtype=torch.uint8), torch.tensor([0, 4, 2, 2])
    log_p = model.predict(clip).log_softmax(1)
    target = torch.full((4, 5), 0.02).scatter(1, labels[:, None], 0.92)
    assert model(clip, labels=labels)['loss'].item() == pytest.approx(-(target * log_p).sum(1).mean().item(), rel=1e-5)
    with pytest.raises(ValueError, match='needs labels'):
        model(clip)


def test_features_are_dropped_in_training_alone():
    clip = torch.randint(0, 256, (2, 3, 1, 32, 32), dtype=torch.uint8)
    model, whole = small_classifier(dropout=0.5), small_classifier()
    torch.testing.assert_close(model.eval().logits(clip), whole.eval().logits(clip))
    features = whole.norm(whole.backbone(whole.data_preprocessor.normalize(clip)).mean(1))
    torch.manual_seed(0)
    kept = torch.nn.functional.dropout(torch.ones_like(features), 0.5)
    assert 0 < (kept == 0).sum() < kept.numel()
    torch.manual_seed(0)
    torch.testing.assert_close(model.train().logits(clip), whole.head(kept * features))


@pytest.mark.parametrize(
    ('kwargs', 'text'),
    [
        (dict(arch='giant_'), "arch='giant_' is unknown"),
        (dict(embed_dim=48), 'Give arch, or all of embed_dim=48, depth=None'),
        (dict(embed_dim=48, depth=1, num_heads=5), 'num_heads=5 does not divide embed_dim=48'),
        (dict(arch='small', clip_size=(16, 220, 224)), 'A clip of 16x220x224 .* cannot be cut into patches of 2x16x16'),
    ],
)
def test_wrong_backbone_is_refused(kwargs, text):
    with pytest.raises(ValueError, match=text):
        MODELS.build(dict(type='SpatioTemporalViT', **kwargs))


@pytest.mark.parametrize('size', [(4, 30, 32), (3, 32, 32), (4, 32, 20)])
def test_a_size_that_the_patch_does_not_divide_is_refused(size):
    with pytest.raises(ValueError, match='A clip of {}x{}x{} .* cannot be cut into patches of 2x8x8'.format(*size)):
        small()(torch.zeros(1, 3, *size, dtype=torch.uint8))


@pytest.mark.parametrize('shape', [(2, 3, 32, 32), (3, 4, 32, 32), (1, 2, 3, 4, 32, 32)])
def test_what_is_no_batch_of_clips_is_refused(shape):
    with pytest.raises(ValueError, match=rf'shape \(B, C, T, H, W\), images T=1; got {re.escape(str(shape))}'):
        patchify(torch.zeros(shape), (2, 8, 8))


def test_unknown_modality_and_mode_are_refused():
    clip = torch.zeros(1, 3, 4, 32, 32, dtype=torch.uint8)
    with pytest.raises(
        ValueError, match=r"No mask generator for modality='depth'; the model has .* add mask_generator\.depth"
    ):
        small()(clip, 'depth')
    with pytest.raises(ValueError, match="mode='tensor' is unknown"):
        small()(clip, mode='tensor')
