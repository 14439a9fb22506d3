"""VideoMAE and VideoMAE V2 from our parts: dual masking, their decoder, their numbers."""

from __future__ import annotations

from pathlib import Path

import dense_reference as dense
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmengine.registry import DefaultScope
from torch import Tensor

from omnimae.checkpoint import convert
from omnimae.config import load_config
from omnimae.flops import classifier_rows, pretraining_rows
from omnimae.registry import MODELS
from omnimae.structures import Grid, Masks

CONFIGS = Path(__file__).parents[1] / 'configs' / 'videomae'

DUAL = dict(
    type='DualMasking', encoder=dict(type='TubeMasking', ratio=0.9), decoder=dict(type='RunningCellMasking', ratio=0.5)
)
DECODER = dict(
    type='MAEHead',
    qkv_bias='qv',
    tokens='decoder',
    embed_bias=False,
    target=dict(type='PixelTarget', eps_on='deviation'),
)
# arch: decoder, patch; parameters of the whole and of the encoder; GMACs of a clip: encoder, decoder with the encoder's
# mask alone and with both (github.com/OpenGVLab/VideoMAEv2, run and counted; the paper has 35.5, 25.9 and 241.6)
SIZES = {
    'small': (dict(embed_dim=192, num_heads=3), 16, 24_029_376, 21_879_936, (4.56, 6.98, 3.28)),
    'base': (dict(embed_dim=384, num_heads=6), 16, 94_210_944, 86_227_200, (15.91, 19.53, 9.93)),
    'large': (dict(embed_dim=512, num_heads=8), 16, 317_782_016, 303_860_736, (52.04, 30.99, 16.23)),
    'huge': (dict(embed_dim=512, num_heads=8), 16, 645_659_392, 631_607_040, (105.84, 31.01, 16.25)),
    'giant': (
        dict(embed_dim=512, num_heads=8, mlp_ratio=48 / 11), 14, 1_026_306_560, 1_011_610_752, (218.19, 45.77, 23.42),
    ),
}  # fmt: skip

# encoder and decoder together: masked for the encoder alone, and for both
TOTALS = {
    'small': (11.54, 7.84),
    'base': (35.44, 25.84),
    'large': (83.03, 68.27),
    'huge': (136.86, 122.09),
    'giant': (263.96, 241.61),
}


@pytest.fixture(autouse=True)
def _scope():
    with DefaultScope.overwrite_default_scope('omnimae'):
        yield


def autoencoder(backbone: dict, head: dict, masks: dict = DUAL) -> torch.nn.Module:
    backbone = dict(type='SpatioTemporalViT', qkv_bias='qv', **backbone)
    parts = dict(backbone=backbone, head={**DECODER, **head}, mask_generator=dict(video=masks))
    return MODELS.build(dict(type='MaskedAutoencoder', **parts))


def tiny(**head) -> torch.nn.Module:
    """Make a model with random parameters everywhere, in the biases of the keys too."""
    backbone = dict(embed_dim=24, depth=2, num_heads=2, patch_size=(2, 8, 8), clip_size=(8, 32, 32))
    masks = dict(DUAL, encoder=dict(type='TubeMasking', ratio=0.75))
    model = autoencoder(backbone, dict(embed_dim=16, depth=2, num_heads=2, **head), masks)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator) + ('norm' in name))
    return model


# --- masks -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('ratio', [0.25, 0.5, 0.75])
def test_running_cells_are_the_published_ones(ratio):
    hidden = round(4 * ratio)
    queue = [1] * hidden + [0] * (4 - hidden)
    generator = MODELS.build(dict(type='RunningCellMasking', ratio=ratio))
    patterns = generator.patterns(Grid(8, 4, 6)).view(4, 8, 4, 6)
    for pattern in range(4):
        for frame in range(8):
            start = (pattern + frame + 1) % 4  # the release turns its queue before the first frame, too
            cell = [queue[(start + i) % 4] for i in range(4)]
            assert patterns[pattern, frame].int().tolist() == 2 * [3 * cell[:2], 3 * cell[2:]]
    assert generator.num_hidden(Grid(8, 4, 6)) == 8 * 24 * ratio


def test_the_first_running_cell_by_hand():
    first = MODELS.build(dict(type='RunningCellMasking', ratio=0.5)).patterns(Grid(4, 2, 2))[0]
    assert first.view(4, 4).int().tolist() == [[1, 0, 0, 1], [0, 0, 1, 1], [0, 1, 1, 0], [1, 1, 0, 0]]


@pytest.mark.parametrize('ratio', [0.25, 0.5, 0.75])
def test_every_place_is_hidden_equally_often_over_four_slices(ratio):
    generator, grid = MODELS.build(dict(type='RunningCellMasking', ratio=ratio)), Grid(8, 4, 6)
    masks = generator(32, grid, 'cpu')
    hidden = torch.zeros(32, 192).scatter(1, masks.decode, 1.0).view(32, 8, 24)
    for first in range(5):
        assert (hidden[:, first : first + 4].mean(1) == ratio).all()
    assert len({tuple(row.tolist()) for row in masks.decode}) == 4
    rows = torch.cat([masks.visible, masks.decode], 1).sort(1).values
    assert (rows == torch.arange(192)).all()


@pytest.mark.parametrize(('side', 'visible', 'decoded', 'scored'), [(14, 160, 784, 704), (16, 208, 1024, 920)])
def test_dual_masking_has_the_published_counts(side, visible, decoded, scored):
    generator, grid = MODELS.build(DUAL), Grid(8, side, side)
    masks = generator(3, grid, 'cpu')
    assert (masks.visible.shape, masks.decode.shape) == ((3, visible), (3, decoded))
    assert masks.scored.sum(1).tolist() == [scored] * 3
    assert (generator.num_hidden(grid), generator.num_decoded(grid)) == (grid.num_tokens - visible, decoded)


def test_dual_masking_scores_what_the_encoder_does_not_see():
    masks = MODELS.build(dict(DUAL, encoder=dict(type='RandomMasking', ratio=0.6)))(16, Grid(2, 4, 4), 'cpu')
    for visible, decode, scored in zip(*masks, strict=True):
        assert scored.tolist() == [token not in visible.tolist() for token in decode.tolist()]
    assert len(set(masks.scored.sum(1).tolist())) > 1  # rows differ
    assert len({tuple(row.tolist()) for row in masks.visible}) == 16


def test_cells_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r'ratio=0.6 of a cell of 2x2. Choose 0.25, 0.5 or 0.75'):
        MODELS.build(dict(type='RunningCellMasking', ratio=0.6))
    with pytest.raises(ValueError, match='a grid of 4x3x4 .* is not made of cells of 2x2'):
        autoencoder(
            dict(embed_dim=8, depth=1, num_heads=1, patch_size=(2, 8, 8), clip_size=(8, 24, 32)),
            dict(embed_dim=8, num_heads=1),
        )


# --- parts -----------------------------------------------------------------------------------------------------------


def test_the_bias_of_the_keys_has_no_effect_and_no_gradient():
    model = tiny()
    qkv = model.backbone.blocks[0].attn.qkv
    x = torch.randn(3, 24)
    bias = torch.cat([qkv.bias[:24], torch.zeros(24), qkv.bias[48:]])
    torch.testing.assert_close(qkv(x), F.linear(x, qkv.weight, bias))
    model(torch.randn(2, 3, 8, 32, 32))['loss'].backward()
    for block in (*model.backbone.blocks, *model.head.blocks):
        query, key, value = block.attn.qkv.bias.grad.chunk(3)
        assert query.abs().min() > 0
        assert value.abs().min() > 0
        assert (key == 0).all()


def test_targets_divided_by_the_deviation_and_epsilon():
    pixels = torch.tensor([0.0, 0.5, 0.1, 0.0, 0.5, 0.1 + 2e-6]).view(1, 1, 6)  # two pixels, three channels
    damped = MODELS.build(dict(type='PixelTarget', eps_on='deviation'))
    root = 0.5**0.5  # 1e-6 from the mean, divided by a deviation of sqrt(2) * 1e-6, and by 1e-6 more
    expected = torch.tensor([0, 0, -1 / (1 / root + 1), 0, 0, 1 / (1 / root + 1)])
    torch.testing.assert_close(damped(pixels)[0, 0], expected, rtol=0, atol=0.01)  # float32 steps of 7e-9
    assert MODELS.build(dict(type='PixelTarget'))(pixels).abs().max() < 0.002
    torch.testing.assert_close(damped.restore(damped(pixels), pixels), pixels)


def test_unknown_choices_are_refused():
    with pytest.raises(ValueError, match="eps_on='std' is unknown. Choose 'variance' or 'deviation'"):
        MODELS.build(dict(type='PixelTarget', eps_on='std'))
    with pytest.raises(ValueError, match="tokens='both' is unknown. Choose 'encoder' or 'decoder'"):
        tiny(tokens='both')
    with pytest.raises(ValueError, match="qkv_bias='kv' is unknown. Choose True, False or 'qv'"):
        tiny(qkv_bias='kv')


def test_first_weights():
    torch.manual_seed(0)
    backbone = dict(embed_dim=96, depth=1, num_heads=2, xavier_patch_embed=False)
    weights = dict(mask_token_std=0.02, mask_token_cut=True, pred_std=None, xavier_embed=False)
    head = autoencoder(backbone, dict(embed_dim=96, num_heads=2, **weights)).head
    assert 0.015 < head.mask_token.abs().max() <= 0.02
    bound = (6 / (96 + 1536)) ** 0.5
    assert 0.99 * bound < head.pred.weight.abs().max() <= bound
    bound = 96**-0.5  # of a linear layer of PyTorch
    assert 0.99 * bound < head.decoder_embed.weight.abs().max() <= bound
    # of a convolution: uniform up to 1 / sqrt(inputs); Xavier's goes up to sqrt(6 / (inputs + outputs))
    for xavier, bound in ((False, 1536**-0.5), (True, (6 / (96 + 1536)) ** 0.5)):
        cfg = dict(backbone, type='SpatioTemporalViT', xavier_patch_embed=xavier)
        assert 0.99 * bound < MODELS.build(cfg).patch_embed.weight.abs().max() <= bound


# --- the whole -------------------------------------------------------------------------------------------------------


def dense_loss(clip: Tensor, masks: Masks, p: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Loss and predictions the plain way: explicit attention, queries before visible tokens, a loop over samples."""
    keys = {name: torch.ones(3).repeat_interleave(len(x) // 3) for name, x in p.items() if name.endswith('qkv.bias')}
    for name, kept in keys.items():
        kept.chunk(3)[1].zero_()
        p = {**p, name: p[name] * kept}
    tokens, _, grid = dense.stem(clip, p, (2, 8, 8))
    tokens = tokens + dense.sinusoid(tokens.shape[1], 24)
    pixels = clip * dense.STD.view(3, 1, 1, 1) + dense.MEAN.view(3, 1, 1, 1)
    pixels = pixels.unflatten(4, (grid[2], 8)).unflatten(3, (grid[1], 8)).unflatten(2, (grid[0], 2))
    pixels = pixels.permute(0, 2, 4, 6, 3, 5, 7, 1).flatten(1, 3).flatten(2, 4)  # (B, N, 128, 3)
    target = ((pixels - pixels.mean(2, keepdim=True)) / (pixels.std(2, keepdim=True) + 1e-6)).flatten(2)
    position, total, predictions = dense.sinusoid(tokens.shape[1], 16)[0], 0.0, []
    for row, (visible, decode, scored) in enumerate(zip(*masks, strict=True)):
        latent = dense.norm(dense.blocks(tokens[row : row + 1, visible], p, 'backbone.blocks', 2), p, 'backbone.norm')
        queries = (p['head.mask_token'] + position[decode])[None]
        x = torch.cat([queries, latent @ p['head.decoder_embed.weight'].T + position[visible]], 1)
        x = dense.norm(dense.blocks(x, p, 'head.blocks', 2), p, 'head.norm')[0, : len(decode)]
        predictions.append(F.linear(x, p['head.pred.weight'], p['head.pred.bias']))
        total = total + (predictions[-1] - target[row, decode]).square().mean(1)[scored].sum()
    return total / masks.scored.sum(), torch.stack(predictions)


def test_loss_gradients_and_predictions_equal_the_dense_path():
    model, clip = tiny(), torch.randn(3, 3, 8, 32, 32)
    masks = MODELS.build(dict(DUAL, encoder=dict(type='RandomMasking', ratio=0.7)))(3, Grid(4, 4, 4), 'cpu')
    parameters = {name: x.detach().clone().requires_grad_() for name, x in model.named_parameters()}
    expected, predictions = dense_loss(clip, masks, parameters)
    loss = model(clip, 'video', masks)['loss']
    assert loss.item() == pytest.approx(expected.item(), rel=2e-6)
    results = model.predict(clip, 'video', masks)
    torch.testing.assert_close(torch.stack([row['patches'] for row in results]), predictions, rtol=1e-4, atol=1e-5)
    weights = masks.scored.sum(1) / masks.scored.sum()
    assert sum(w * row['loss'] for w, row in zip(weights, results, strict=True)).item() == pytest.approx(loss.item())
    loss.backward()
    expected.backward()
    for name, parameter in model.named_parameters():
        scale = parameters[name].grad.abs().max() + 1e-4
        assert (parameter.grad - parameters[name].grad).abs().max() < 1e-4 * scale, name


def test_outputs_and_loss_equal_the_release():
    golden = np.load(Path(__file__).parent / 'data' / 'videomaev2_tiny.npz')
    state = {key[11:]: torch.from_numpy(golden[key]) for key in golden.files if key.startswith('state_dict/')}
    backbone = dict(embed_dim=48, depth=2, num_heads=4, clip_size=(16, 64, 64))
    masking = dict(DUAL, encoder=dict(type='TubeMasking', ratio=0.75))
    model = autoencoder(backbone, dict(embed_dim=32, depth=2, num_heads=2), masking)
    missing = model.load_state_dict(convert(state), strict=False)
    assert missing == (['backbone.pos_embed', 'head.pos_embed'], [])
    hidden, dropped = (torch.from_numpy(golden[key]) for key in ('enc_mask', 'dec_mask'))
    clip = torch.from_numpy(np.random.RandomState(0).randn(2, 3, 16, 64, 64)).float()  # the release got the same
    patterns = model.mask_generator['video'].decoder.patterns(Grid(8, 4, 4))
    assert (dropped[:, None] == patterns).all(2).any(1).all()
    decode = Masks.from_hidden(dropped).visible
    masks = Masks(Masks.from_hidden(hidden).visible, decode, hidden.gather(1, decode))
    patches = torch.stack([row['patches'] for row in model.predict(clip, 'video', masks)])
    quarter = torch.from_numpy(golden['out'])  # every fourth value, to keep the file small
    torch.testing.assert_close(patches[..., ::4], quarter, rtol=0, atol=1e-5)
    wide = patches.double()
    made = dict(out_sums=wide.unflatten(2, (-1, 4)).sum(2), out_squares=wide.square().sum(2))  # of all values
    for key, value in made.items():
        torch.testing.assert_close(value, torch.from_numpy(golden[key]), rtol=0, atol=1e-4)
    assert model(clip, 'video', masks)['loss'].item() == pytest.approx(float(golden['loss']), rel=1e-6)


def without_key_biases(module: torch.nn.Module) -> int:
    """Count parameters as the release has them: it stores no third of zeros."""
    sizes = ((name, x.numel()) for name, x in module.named_parameters())
    return sum(size * 2 // 3 if name.endswith('qkv.bias') else size for name, size in sizes)


def unread_macs(block, num_tokens: int) -> int:
    """Count what the last block of the decoder leaves out for each token that is not predicted."""
    linear = sum(layer.weight.numel() for layer in (block.attn.proj, block.mlp.fc1, block.mlp.fc2))
    return linear + 2 * num_tokens * block.attn.proj.in_features


LARGE = ('large', 'huge', 'giant')  # a count takes seconds


@pytest.mark.parametrize('arch', [pytest.param(x, marks=pytest.mark.slow) if x in LARGE else x for x in SIZES])
def test_parameters_and_arithmetic_are_the_published_ones(arch):
    head, patch, whole, encoder, gmacs = SIZES[arch]
    with torch.device('meta'):
        model = autoencoder(dict(arch=arch, patch_size=(2, patch, patch)), dict(depth=4, **head))
    assert without_key_biases(model) == whole
    assert without_key_biases(model.backbone) == encoder

    one, dual = pretraining_rows(model)[1:]
    assert (one.what, dual.what) == ('masked for the encoder alone', 'masked, as it runs')
    visible, num_tokens = one.num_visible, one.num_tokens
    # Two things that we leave out the release computes: embeddings of hidden patches, and of visible tokens what nobody
    # reads of the last block of the decoder.
    hidden_patches = (num_tokens - visible) * model.backbone.patch_embed.weight.numel()
    counted = [one.encoder + hidden_patches]
    for row, length in ((one, num_tokens), (dual, visible + num_tokens // 2)):
        counted.append(row.decoder + visible * unread_macs(model.head.blocks[-1], length))
    assert [x / 1e9 for x in counted] == pytest.approx(gmacs, abs=0.006)
    assert [(counted[0] + decoder) / 1e9 for decoder in counted[1:]] == pytest.approx(TOTALS[arch], abs=0.006)
    assert dual.encoder == one.encoder


# Videos a step, rate per 256 of them, epochs: the released scripts; tokens seen and predicted.
@pytest.mark.parametrize(
    ('name', 'arch', 'videos', 'rate', 'epochs', 'tokens'),
    [
        ('vit-s_k400', 'small', 1024, 1.5e-4, 1600, (160, 1408)),
        ('vit-b_k400', 'base', 2048, 1.5e-4, 1600, (160, 1408)),
        ('vit-b-800e_k400', 'base', 2048, 1.5e-4, 800, (160, 1408)),
        ('vit-b-800e_ssv2', 'base', 2048, 1.5e-4, 800, (160, 1408)),
        ('vit-l_k400', None, 512, 1.5e-4, 1600, (160, 1408)),
        ('vit-h_k400', None, 1024, 1.5e-4, 1600, (160, 1408)),
        ('vit-s_ssv2', 'small', 1024, 1.5e-4, 2400, (160, 1408)),
        ('vit-b_ssv2', 'base', 2048, 1.5e-4, 2400, (160, 1408)),
        ('vit-b_ucf101', 'base', 192, 3e-4, 3200, (392, 1176)),
        ('v2_vit-b_hybrid', 'base', 1024, 1e-3, 200, (160, 784)),
        ('v2_vit-l_hybrid', 'large', 1536, 1e-3, 300, (160, 784)),
        ('v2_vit-h_hybrid', 'huge', 2048, 1e-3, 300, (160, 784)),
        ('v2_vit-g_hybrid', 'giant', 2048, 6e-4, 300, (208, 1024)),
    ],
)
def test_recipes(name, arch, videos, rate, epochs, tokens):
    cfg = load_config(CONFIGS / f'{name}.py')
    [replicas] = {source.get('replicas', 1) for source in cfg.train_dataloader.dataset.sources.values()}
    assert cfg.train_dataloader.batch_sampler.global_batch_size == videos * replicas
    assert replicas == (4 if name.startswith('v2') else 1)
    assert cfg.optim_wrapper.optimizer.lr == pytest.approx(rate * videos / 256)
    assert cfg.param_scheduler.end_lr == pytest.approx(1e-5 * videos / 256)
    assert (cfg.param_scheduler.start_lr, cfg.param_scheduler.peak_in_warmup) == (0.0, True)
    for source_name, source in cfg.train_dataloader.dataset.sources.items():
        assert (source.sampling, source.stride, source.num_frames) == ('strided', 2 if source_name == 'ssv2' else 4, 16)
        assert source.transforms == [dict(type='MultiScaleCrop', size=224)]
    assert cfg.train_cfg.max_epochs == epochs
    with torch.device('meta'):
        model = MODELS.build(cfg.model)
    masks = model.mask_generator['video'](1, model.backbone.grid, 'cpu')
    assert (masks.visible.shape[1], masks.decode.shape[1]) == tokens
    assert arch is None or without_key_biases(model) == SIZES[arch][2]  # V1 has deeper decoders in its L and H


# The released scripts: rate of 256 videos, layer decay, weight decay, DropPath, dropout, epochs, videos a step, crops
FINETUNE = {
    'vit-s_k400': (5e-4, 0.75, 0.05, 0.1, 0.0, 150, 12 * 32, 2),
    'vit-b_k400': (5e-4, 0.75, 0.05, 0.1, 0.0, 75, 6 * 64, 2),
    'vit-b-800e_k400': (1e-3, 0.75, 0.05, 0.1, 0.0, 100, 8 * 64, 1),
    'vit-l_k400': (2e-3, 0.75, 0.05, 0.1, 0.0, 35, 2 * 64, 2),
    'vit-h_k400': (1e-3, 0.75, 0.05, 0.2, 0.5, 50, 8 * 64, 2),
    'vit-s_ssv2': (1e-3, 0.7, 0.05, 0.1, 0.0, 40, 12 * 32, 2),
    'vit-b_ssv2': (5e-4, 0.75, 0.05, 0.1, 0.0, 30, 6 * 64, 2),
    'vit-b-800e_ssv2': (5e-4, 0.75, 0.05, 0.1, 0.0, 50, 8 * 64, 1),
    'vit-b_ucf101': (5e-4, 0.7, 0.05, 0.2, 0.5, 100, 16 * 8, 2),
    'v2_vit-b_k400': (7e-4, 0.75, 0.05, 0.1, 0.0, 90, 16 * 32, 2),
    'v2_vit-b_k710': (7e-4, 0.75, 0.05, 0.1, 0.0, 90, 16 * 32, 2),
    'v2_vit-b_ssv2': (2e-3, 0.65, 0.05, 0.1, 0.0, 25, 16 * 16, 2),
    'v2_vit-l_k400': (2e-3, 0.75, 0.05, 0.2, 0.0, 35, 6 * 32, 2),
    'v2_vit-l_ssv2': (5e-4, 0.75, 0.05, 0.2, 0.0, 20, 6 * 32, 2),
    'v2_vit-h_k400': (1e-3, 0.8, 0.05, 0.2, 0.5, 40, 4 * 32, 2),
    'v2_vit-h_k600': (1e-3, 0.8, 0.05, 0.2, 0.5, 40, 4 * 32, 2),
    'v2_vit-h_k710': (1e-3, 0.8, 0.05, 0.2, 0.5, 40, 4 * 32, 2),
    'v2_vit-h_ssv2': (5e-4, 0.8, 0.05, 0.2, 0.0, 20, 4 * 32, 2),
    'v2_vit-g_k400': (1e-3, 0.9, 0.1, 0.2, 0.0, 30, 3 * 64, 2),
    'v2_vit-g_k710': (1e-3, 0.9, 0.1, 0.3, 0.0, 35, 3 * 32, 2),
    'v2_vit-g-k710_k400': (1e-5, 0.9, 0.1, 0.25, 0.0, 3, 3 * 32, 2),
    'v2_vit-g-k710_k600': (1e-5, 0.9, 0.1, 0.25, 0.0, 3, 3 * 32, 2),
    'v2_vit-g_ssv2': (3e-4, 0.9, 0.05, 0.25, 0.0, 20, 3 * 32, 2),
    'v2_vit-g-k710_ucf101': (1e-3, 0.9, 0.05, 0.35, 0.5, 50, 3 * 8, 2),
    'v2_vit-g-k710_hmdb51': (5e-4, 0.9, 0.05, 0.35, 0.5, 15, 3 * 8, 2),
}
FLOORS = {'vit-h_k400': 1e-5, 'vit-b_ucf101': 1e-5}
WARMUPS = {'v2_vit-g-k710_k400': 1, 'v2_vit-g-k710_k600': 1}
CLASSES = dict(k400=400, k600=600, k710=710, ssv2=174, ucf101=101, hmdb51=51)


def test_every_released_fine_tuning_is_there():
    assert {path.stem for path in (CONFIGS / 'finetune').glob('*.py')} == FINETUNE.keys()


@pytest.mark.parametrize('name', FINETUNE)
def test_fine_tuning_recipes(name):
    rate, layer_decay, weight_decay, drop_path, dropout, epochs, videos, replicas = FINETUNE[name]
    cfg = load_config(CONFIGS / 'finetune' / f'{name}.py')
    [train], [val], [test] = (cfg[f'{split}_dataloader'].dataset.sources.values() for split in ('train', 'val', 'test'))
    assert train.replicas == replicas
    assert cfg.train_dataloader.batch_sampler.global_batch_size == videos * replicas
    assert videos * replicas % (8 * cfg.train_dataloader.batch_size) == 0  # 8 GPUs, as the docstring says
    optimizer = cfg.optim_wrapper.optimizer
    assert optimizer.lr == pytest.approx(rate * videos / 256)
    assert (optimizer.type, optimizer.betas, optimizer.weight_decay) == ('AdamW', (0.9, 0.999), weight_decay)
    assert cfg.optim_wrapper.get('clip_grad') == (dict(max_norm=5.0) if name == 'v2_vit-g_k710' else None)
    assert cfg.optim_wrapper.paramwise_cfg == dict(layer_decay=layer_decay, rule='paper')
    scheduler = cfg.param_scheduler
    assert (scheduler.start_lr, scheduler.warmup_epochs) == (0.0, WARMUPS.get(name, 5))
    assert scheduler.peak_in_warmup
    assert scheduler.end_lr == pytest.approx(FLOORS.get(name, 1e-6) * videos / 256)
    assert cfg.train_cfg.max_epochs == epochs

    benchmark = name.rpartition('_')[2]
    sparse = benchmark == 'ssv2'
    assert [x.get('sampling', 'dense') for x in (train, val, test)] == 3 * ['sparse' if sparse else 'spread']
    assert {x.num_frames for x in (train, val, test)} == {16}
    if not sparse:
        assert {x.stride for x in (train, val, test)} == {2 if benchmark == 'hmdb51' else 4}
    assert (val.get('num_clips', 1), test.num_clips) == (1, 2 if sparse else 5)
    resized = dict(type='ResizeShort', size=224, interpolation='bilinear')
    assert val.transforms == [resized, dict(type='CenterCrop', size=224)]
    assert test.transforms == [resized, dict(type='ThreeCrop', size=224, round_down=True)]
    augment = dict(type='RandAugment', policy='timm', magnitude=7, num_layers=4, interpolation='bicubic')
    crop = dict(type='RandomResizedCrop', size=224, scale=(0.08, 1.0))  # bilinear, without antialiasing
    assert train.transforms == [augment, crop, *([] if sparse else [dict(type='Flip', prob=0.5)])]

    backbone = cfg.model.backbone
    assert backbone.arch == dict(s='small', b='base', l='large', h='huge', g='giant')[name.removeprefix('v2_')[4]]
    assert backbone.patch_size == ((2, 14, 14) if backbone.arch == 'giant' else (2, 16, 16))
    assert (backbone.qkv_bias, backbone.drop_path_rate) == ('qv', drop_path)
    assert (cfg.model.get('dropout', 0.0), cfg.model.head_init_std) == (dropout, 2e-5)
    assert (cfg.model.num_classes, cfg.model.label_smoothing) == (CLASSES[benchmark], 0.1)
    assert cfg.model.data_preprocessor.erasing == dict(type='RandomErasing', fill='noise', prob=0.25)
    mixing = dict(type='MixupCutMix', mixup_alpha=0.8, cutmix_alpha=1.0, switch_prob=0.5)
    assert cfg.model.data_preprocessor.mixing == mixing
    assert not cfg.get('custom_hooks')  # no average of weights
    assert ('label_map' in cfg.model.init_cfg) == (name in WARMUPS)
    # engine_for_finetuning.merge averages the softmax of the views
    assert (cfg.val_evaluator.softmax, cfg.test_evaluator.softmax) == (True, True)


@pytest.mark.parametrize('name', FINETUNE)
def test_fine_tuning_begins_where_another_recipe_ends(name):
    """The file that is looked for is the one that the config of the step before writes last."""
    start = Path(load_config(CONFIGS / 'finetune' / f'{name}.py').model.init_cfg.checkpoint)
    assert start.parts[:2] == ('work_dirs', 'videomae')
    before = load_config(CONFIGS / start.parent.relative_to('work_dirs/videomae').with_suffix('.py'))
    assert start.name == f'epoch_{before.train_cfg.max_epochs}_raw.safetensors'
    assert ('800e' in name) == ('800e' in str(start))
    fine_tuned = load_config(CONFIGS / 'finetune' / f'{name}.py').model.backbone
    assert before.model.backbone.arch == fine_tuned.arch
    assert before.model.backbone.patch_size == fine_tuned.patch_size


# github.com/OpenGVLab/VideoMAEv2, built and counted: of 400 and of 710 classes; GMACs of a view.
@pytest.mark.parametrize(
    ('arch', 'patch', 'published', 'gmacs'),
    [
        ('small', 16, (22_033_936, 22_153_286), 56.9),
        ('base', 16, (86_534_800, 86_773_190), 180.3),
        pytest.param('large', 16, (304_270_736, 304_588_486), 596.8, marks=pytest.mark.slow),
        pytest.param('huge', 16, (632_119_440, 632_516_550), 1191.0, marks=pytest.mark.slow),
        pytest.param('giant', 14, (1_012_174_352, 1_012_611_142), 2542.8, marks=pytest.mark.slow),
    ],
)
def test_parameters_and_arithmetic_of_the_classifiers(arch, patch, published, gmacs):
    backbone = dict(type='SpatioTemporalViT', arch=arch, patch_size=(2, patch, patch), qkv_bias='qv')
    for num_classes, count in zip((400, 710), published, strict=True):
        with torch.device('meta'):
            model = MODELS.build(dict(type='Classifier', backbone=backbone, num_classes=num_classes))
        assert without_key_biases(model) == count
    assert classifier_rows(model)[1].total / 1e9 == pytest.approx(gmacs, abs=0.06)


# github.com/MCG-NJU/VideoMAE, built and counted with the decoders of its scripts
@pytest.mark.parametrize(
    ('name', 'published'),
    [('vit-s', 24_029_376), ('vit-b', 94_210_944), ('vit-l', 342_996_992), ('vit-h', 692_487_296)],
)
def test_parameters_of_the_first_version(name, published):
    with torch.device('meta'):
        model = MODELS.build(load_config(CONFIGS / f'{name}_k400.py').model)
    assert without_key_biases(model) == published
