"""MAE-ST from our parts: learned positions, one predicted frame per tubelet, its masks, its files both ways."""

from __future__ import annotations

import math
import runpy
from pathlib import Path
from typing import NamedTuple

import dense_reference as dense
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.registry import DefaultScope
from test_flops import counted_macs
from torch import Tensor

from omnimae.checkpoint import convert, export, load_weights, recognise, translate
from omnimae.config import load_config
from omnimae.engine.optim import LayerDecayConstructor
from omnimae.flops import pretraining_rows
from omnimae.models.vit import resize_positions
from omnimae.registry import MODELS
from omnimae.structures import Grid, Masks
from omnimae.visualization.reconstructions import frame_strip, reconstruct

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / 'configs' / 'mae_st'
GRAY = dict(mean=(0.45,) * 3, std=(0.225,) * 3)


class Size(NamedTuple):
    """Of a small model: width and heads of encoder and decoder, patch and clip."""

    encoder: int
    heads: int
    decoder: int
    decoder_heads: int
    patch: tuple[int, int, int]
    clip: tuple[int, int, int]

    @property
    def grid(self) -> Grid:
        return Grid.of(self.clip, self.patch)


SIZE = Size(24, 2, 16, 4, (2, 8, 6), (8, 24, 12))
GRID, PATCH, CLIP = SIZE.grid, SIZE.patch, SIZE.clip
OTHER_SIZES = (Size(36, 3, 24, 2, (4, 4, 8), (12, 12, 24)), Size(20, 5, 28, 7, (1, 6, 6), (3, 18, 30)))
# layout: whether the decoder's positions are separable, whether it has a class token of its own
LAYOUTS = {'mae_st': (True, True), 'slowfast': (False, False)}


@pytest.fixture(autouse=True)
def _scope(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr('omnimae.models.ops.USE_ONEDNN', False)  # whose products torch's counter does not know
    with DefaultScope.overwrite_default_scope('omnimae'):
        yield


def tiny_backbone(**more) -> dict:
    size = dict(embed_dim=24, depth=2, num_heads=2, patch_size=PATCH, clip_size=CLIP)
    return dict(type='SpatioTemporalViT', **{'positions': 'separable', 'cls_token': True, **size, **more})


def autoencoder(backbone: dict, layout: str = 'mae_st', frames: str = 'spread', masks: dict | None = None, **head):
    positions, own = LAYOUTS[layout]
    target = dict(type='PixelTarget', normalize='patch', frames=frames, **GRAY)
    head = dict(type='MAEHead', qkv_bias=True, tokens='decoder', cls_token=own, target=target, **head)
    return MODELS.build(
        dict(
            type='MaskedAutoencoder',
            data_preprocessor=dict(type='ClipPreprocessor', **GRAY),
            backbone=backbone,
            head=dict(head, positions='separable' if positions else 'learned'),
            mask_generator=dict(video=masks or dict(type='RandomMasking', ratio=0.75, round_down='visible')),
        )
    )


def tiny(layout: str = 'mae_st', frames: str = 'spread', size: Size = SIZE, **backbone) -> torch.nn.Module:
    sizes = dict(embed_dim=size.encoder, num_heads=size.heads, patch_size=size.patch, clip_size=size.clip)
    backbone = tiny_backbone(**{**sizes, **backbone})
    return autoencoder(backbone, layout, frames, embed_dim=size.decoder, depth=2, num_heads=size.decoder_heads)


def published_file(layout: str, size: Size = SIZE) -> dict[str, Tensor]:
    """Make the weights of a pretraining model with the names of MAE-ST's repository, or of the released files."""

    def block(prefix: str, dim: int) -> dict[str, tuple[int, ...]]:
        sizes = {f'attn.{part}': (dim, dim) for part in ('q', 'k', 'v', 'proj')}
        sizes |= {'mlp.fc1': (4 * dim, dim), 'mlp.fc2': (dim, 4 * dim), 'norm1': (dim,), 'norm2': (dim,)}
        return {f'{prefix}{name}.weight': size for name, size in sizes.items()}

    encoder, decoder, grid = size.encoder, size.decoder, size.grid
    shapes = {'patch_embed.proj.weight': (encoder, 3, *size.patch), 'norm.weight': (encoder,)}
    shapes |= {'decoder_embed.weight': (decoder, encoder)}
    names = ('decoder_blocks.{}.', 'decoder_norm.', 'decoder_pred.')
    if layout == 'slowfast':
        names = ('pred_head.transforms.0.{}.', 'pred_head.transforms.0.2.', 'pred_head.projections.0.')
    for i in range(2):
        shapes |= block(f'blocks.{i}.', encoder) | block(names[0].format(i), decoder)
    shapes |= {f'{names[1]}weight': (decoder,), f'{names[2]}weight': (size.patch[1] * size.patch[2] * 3, decoder)}
    shapes |= {key.replace('weight', 'bias'): shape[:1] for key, shape in shapes.items()}
    tables = {'spatial': grid.h * grid.w, 'temporal': grid.t, 'class': 1}
    shapes |= {'cls_token': (1, 1, encoder), 'mask_token': (1, 1, decoder)}
    shapes |= {f'pos_embed_{name}': (1, number, encoder) for name, number in tables.items()}
    if layout == 'mae_st':
        shapes |= {f'decoder_pos_embed_{name}': (1, number, decoder) for name, number in tables.items()}
        shapes |= {'decoder_cls_token': (1, 1, decoder)}
    else:
        shapes |= {'decoder_pos_embed': (1, 1 + grid.num_tokens, decoder)}
    generator = torch.Generator().manual_seed(0)
    return {
        key: 0.3 * torch.randn(shape, generator=generator) + (len(shape) == 1 and key.endswith('weight'))
        for key, shape in shapes.items()
    }


def fused(p: dict[str, Tensor]) -> dict[str, Tensor]:
    """Queries, keys and values of one linear layer, as the plain path reads them."""
    joint = {
        key.replace('attn.q.', 'attn.qkv.'): torch.cat([p[key.replace('attn.q.', f'attn.{x}.')] for x in 'qkv'])
        for key in p
        if '.attn.q.' in key
    }
    return {**p, **joint}


def table(p: dict[str, Tensor], prefix: str = '') -> Tensor:
    """-> (1, 1 + N, D): positions of the class token and of all tokens."""
    if f'{prefix}pos_embed' in p:
        return p[f'{prefix}pos_embed']
    space, time = p[f'{prefix}pos_embed_spatial'], p[f'{prefix}pos_embed_temporal']
    joint = space.repeat(1, time.shape[1], 1) + time.repeat_interleave(space.shape[1], dim=1)
    return torch.cat([p[f'{prefix}pos_embed_class'], joint], 1)


def features(clip: Tensor, p: dict[str, Tensor], visible: Tensor | None = None, size: Size = SIZE) -> Tensor:
    """(B, 3, T, H, W) -> (B, 1 + K, D), the class token first, before the norm."""
    x = (
        F.conv3d(clip, p['patch_embed.proj.weight'], p['patch_embed.proj.bias'], stride=size.patch)
        .flatten(2)
        .transpose(1, 2)
    )
    x = torch.cat([p['cls_token'].expand(len(x), -1, -1), x], 1) + table(p)
    if visible is not None:
        x = torch.stack([row[[0, *(tokens + 1)]] for row, tokens in zip(x, visible.numpy(), strict=True)])
    return dense.blocks(x, fused(p), 'blocks', size.heads)


def plain_loss(clip: Tensor, hidden: Tensor, p: dict[str, Tensor], layout: str, size: Size) -> Tensor:
    """Compute MAE-ST's loss the plain way: mask tokens put between the others, everything predicted, then masked."""
    names = ('decoder_blocks', 'decoder_norm', 'decoder_pred')
    if layout == 'slowfast':
        names = ('pred_head.transforms.0', 'pred_head.transforms.0.2', 'pred_head.projections.0')
    visible = torch.stack([torch.nonzero(~row)[:, 0] for row in hidden])
    latent = dense.norm(features(clip, p, visible, size), p, 'norm')
    y = F.linear(latent, p['decoder_embed.weight'], p['decoder_embed.bias'])
    full = p['mask_token'].expand(*hidden.shape, -1).clone()
    full[~hidden] = y[:, 1:].flatten(0, 1)
    first = p['decoder_cls_token'].expand(len(y), -1, -1) if layout == 'mae_st' else y[:, :1]
    y = torch.cat([first, full], 1) + table(p, 'decoder_')
    y = dense.norm(dense.blocks(y, fused(p), names[0], size.decoder_heads), p, names[1])
    prediction = F.linear(y, p[f'{names[2]}.weight'], p[f'{names[2]}.bias'])[:, 1:]
    grid, (tubelet, height, width), last = size.grid, size.patch, size.clip[0] - 1
    chosen = torch.linspace(0, last, grid.t).long() if layout == 'mae_st' else torch.arange(0, last + 1, tubelet)
    frames = clip[:, :, chosen].unflatten(4, (grid.w, width)).unflatten(3, (grid.h, height))
    target = frames.permute(0, 2, 3, 5, 4, 6, 1).flatten(1, 3).flatten(2)
    target = (target - target.mean(2, keepdim=True)) / (target.var(2, keepdim=True) + 1e-6).sqrt()
    errors = (prediction - target).square().mean(2)
    return (errors * hidden).sum() / hidden.sum()


# --- the whole -------------------------------------------------------------------------------------------------------


def test_outputs_and_loss_equal_the_release():
    golden = np.load(ROOT / 'tests' / 'data' / 'mae_st_tiny.npz')
    state = {key[11:]: torch.from_numpy(golden[key]) for key in golden.files if key.startswith('state_dict/')}
    backbone = dict(type='SpatioTemporalViT', embed_dim=48, depth=2, num_heads=4, clip_size=(16, 64, 64))
    backbone |= dict(positions='separable', cls_token=True)
    model = autoencoder(backbone, embed_dim=32, depth=2, num_heads=4)
    model.load_state_dict(convert(state))
    hidden, *out = (torch.from_numpy(golden[key]) for key in ('mask', 'out', 'out_sums', 'out_squares'))
    clip = torch.from_numpy(np.random.RandomState(0).randn(2, 3, 16, 64, 64)).float()  # the release got the same
    masks = Masks.from_hidden(hidden.bool())
    assert torch.equal(masks.visible, torch.from_numpy(golden['ids_keep']).sort(1).values)
    patches = torch.stack([row['patches'] for row in model.predict(clip, 'video', masks)])
    wide = patches.double()
    # every fourth value, to keep the file small; and sums and squares of all
    made = patches[..., ::4], wide.unflatten(2, (-1, 4)).sum(2), wide.square().sum(2)
    for one, part, tolerance in zip(made, out, (1e-5, 1e-4, 1e-4), strict=True):
        expected = torch.stack([row[decode] for row, decode in zip(part, masks.decode, strict=True)])
        torch.testing.assert_close(one, expected, rtol=0, atol=tolerance)
    assert model(clip, 'video', masks)['loss'].item() == pytest.approx(float(golden['loss']), rel=1e-6)


@pytest.mark.parametrize('size', [SIZE, *OTHER_SIZES], ids=str)
@pytest.mark.parametrize(('layout', 'frames'), [('mae_st', 'spread'), ('slowfast', 'first')])
def test_loss_and_gradients_of_a_converted_file_are_its_own(tmp_path: Path, layout: str, frames: str, size: Size):
    state = published_file(layout, size)
    wrapped = {'model': state} if layout == 'mae_st' else {'epoch': 199, 'model_state': state, 'cfg': 'TASK: ssl\n'}
    torch.save(wrapped, tmp_path / 'published.pyth')
    model = tiny(layout, frames, size)
    report = load_weights(model, tmp_path / 'published.pyth', complete=True)
    assert (report.source, report.left, report.initialised, report.fixed) == (layout, (), (), ())
    torch.manual_seed(0)
    clip = torch.randn(3, 3, *size.clip)
    hidden = torch.rand(3, size.grid.num_tokens).argsort(1) < 0.7 * size.grid.num_tokens
    parameters = {key: x.clone().requires_grad_() for key, x in state.items()}
    expected = plain_loss(clip, hidden, parameters, layout, size)
    loss = model(clip, 'video', Masks.from_hidden(hidden))['loss']
    assert loss.item() == pytest.approx(expected.item(), rel=2e-6)
    loss.backward()
    expected.backward()
    gradients = {name: x.grad for name, x in model.named_parameters()}
    assert all(grad.abs().max() > 0 for name, grad in gradients.items())
    again = export(gradients, layout)
    for key, parameter in parameters.items():
        scale = parameter.grad.abs().max() + 1e-2  # that of the keys' bias is noise around zero
        assert (again[key] - parameter.grad).abs().max() < 1e-4 * scale, key


@pytest.mark.parametrize('layout', LAYOUTS)
def test_files_come_back(layout):
    state = published_file(layout)
    assert recognise(state) == layout
    ours, left = translate({'model_state': state})
    assert left == ()
    assert set(ours) == set(tiny(layout, 'first').state_dict())
    assert recognise(ours) == 'native'
    again = export(ours, layout)
    assert again.keys() == state.keys()
    assert all(torch.equal(again[key], state[key]) for key in state)
    # SlowFast's own models have one layer for queries, keys and values
    joint = {key: x for key, x in fused(state).items() if not any(f'.attn.{part}.' in key for part in 'qkv')}
    assert all(torch.equal(x, ours[key]) for key, x in translate(joint, layout)[0].items())
    with pytest.raises(ValueError, match=r'does not fit the layout.*without a place: blocks\.1\.attn\.q\.weight'):
        translate({key: x for key, x in state.items() if key != 'blocks.1.attn.k.weight'})


def test_files_with_other_positions_come_back():
    """Both repositories know joint tables in the encoder, SlowFast separable ones in the decoder."""
    state = published_file('slowfast')
    joint = {key: x for key, x in state.items() if not key.startswith('pos_embed')} | {'pos_embed': table(state)}
    ours = convert(joint)
    tiny('slowfast', 'first', positions='learned').load_state_dict(ours)
    assert all(torch.equal(x, joint[key]) for key, x in export(ours, 'slowfast').items())
    apart = {key: x for key, x in state.items() if key != 'decoder_pos_embed'}
    apart |= {f'dec_{key}': x[..., :16] for key, x in state.items() if key.startswith('pos_embed_')}
    ours = convert(apart)
    assert {'head.pos_embed_space', 'head.pos_embed_time', 'head.pos_embed_cls'} < set(ours)
    assert all(torch.equal(x, apart[key]) for key, x in export(ours, 'slowfast').items())


def test_layouts_refuse_what_they_have_no_names_for():
    mae_st, slowfast = (convert(published_file(layout)) for layout in ('mae_st', 'slowfast'))
    with pytest.raises(ValueError, match=r"'mae_st' is that of .* cls_token=True, and this model is another"):
        export(slowfast, 'mae_st')
    with pytest.raises(ValueError, match=r"'slowfast' is that of .* no names for head\.cls_token"):
        export(mae_st, 'slowfast')
    fixed = MODELS.build(dict(type='MaskedAutoencoder', backbone=tiny_backbone(positions='sincos1d'),
                              head=dict(type='MAEHead', embed_dim=16, depth=1, num_heads=4, cls_token=True,
                                        tokens='decoder'),
                              mask_generator=dict(video=dict(type='RandomMasking', ratio=0.5))))  # fmt: skip
    with pytest.raises(ValueError, match="layout 'mae_st' is that of learned positions"):
        export(fixed.state_dict(), 'mae_st')


@pytest.mark.parametrize(
    ('options', 'remedy'),
    [
        (dict(layout='slowfast'), r'Set head\.cls_token=True in the model, and head\.positions'),
        (dict(positions='sincos1d'), r'positions are of another kind\. Set backbone\.positions and head\.positions'),
        (dict(clip_size=(16, 24, 12)), 'Set clip_size to the one the checkpoint was made for'),
        (dict(cls_token=False), r'--cfg-options model\.backbone\.cls_token=True'),
    ],
)
def test_models_of_another_kind_are_told(tmp_path: Path, options: dict, remedy: str):
    torch.save(published_file('mae_st'), tmp_path / 'mae_st.pth')
    with pytest.raises(ValueError, match=remedy):
        load_weights(tiny(**options), tmp_path / 'mae_st.pth')


@torch.no_grad()
@pytest.mark.parametrize('layout', LAYOUTS)
def test_a_fine_tuned_file_gives_its_own_logits_and_comes_back(tmp_path: Path, layout: str):
    state = {key: x for key, x in published_file(layout).items() if not key.startswith(('dec', 'mask', 'pred_head'))}
    head = 'head.' if layout == 'mae_st' else 'head.projection.'
    state |= {f'{head}weight': torch.randn(5, 24), f'{head}bias': torch.randn(5)}
    torch.save({'model_state': state}, tmp_path / 'ft.pyth')
    model = MODELS.build(
        dict(
            type='Classifier', backbone=tiny_backbone(), num_classes=5, data_preprocessor=dict(type='ClipPreprocessor')
        )
    )
    assert load_weights(model, tmp_path / 'ft.pyth', complete=True).source == layout
    clip = torch.randn(2, 3, *CLIP)
    pooled = dense.norm(features(clip, state)[:, 1:].mean(1), state, 'norm')
    expected = F.linear(pooled, state[f'{head}weight'], state[f'{head}bias'])
    torch.testing.assert_close(model.logits(clip), expected, rtol=1e-4, atol=1e-5)
    weights = export(model.state_dict(), layout)
    assert weights.keys() == state.keys()
    assert all(torch.equal(weights[key], state[key]) for key in state)


@torch.no_grad()
def test_timm_computes_the_same_of_an_image(tmp_path: Path):
    timm = pytest.importorskip('timm')
    model = MODELS.build(dict(type='Classifier', backbone=tiny_backbone(), num_classes=5)).eval()
    for parameter in model.parameters():
        parameter.normal_(std=0.2)
    torch.save(model.state_dict(), tmp_path / 'ours.pth')
    pixels = dict(GRAY, type='ClipPreprocessor')
    cfg = dict(type='Classifier', backbone=tiny_backbone(), num_classes=5, data_preprocessor=pixels)
    Config(dict(default_scope='omnimae', model=cfg)).dump(tmp_path / 'config.py')
    convert_checkpoint = runpy.run_path(str(ROOT / 'tools' / 'convert_checkpoint.py'))['main']
    command = [str(tmp_path / 'ours.pth'), str(tmp_path / 'folder'), '--config', str(tmp_path / 'config.py'), '--to']
    convert_checkpoint([*command, 'timm'])
    theirs = timm.create_model(f'local-dir:{tmp_path}/folder', pretrained=True).eval()
    image = torch.randn(2, 3, 1, 24, 12)
    torch.testing.assert_close(theirs(image[:, :, 0]), model.logits(image), rtol=1e-3, atol=1e-4)
    assert (theirs.pretrained_cfg['mean'], theirs.pretrained_cfg['std']) == ([0.45] * 3, [0.225] * 3)
    with pytest.raises(ValueError, match=r"head on the class token, and this model has pool='mean'"):
        convert_checkpoint([*command, 'huggingface'])


@torch.no_grad()
@pytest.mark.parametrize('pretrained_norm', [True, False])
def test_a_classifier_may_begin_with_the_norm_of_pretraining(tmp_path: Path, pretrained_norm: bool):
    state = published_file('slowfast')
    torch.save({'model_state': state}, tmp_path / 'pt.pyth')
    cfg = dict(type='Classifier', backbone=tiny_backbone(), num_classes=5, pretrained_norm=pretrained_norm)
    model = MODELS.build(cfg)
    report = load_weights(model, tmp_path / 'pt.pyth')
    assert set(report.initialised) == {'head.weight', 'head.bias', *(() if pretrained_norm else NORM)}
    assert torch.equal(model.norm.bias, state['norm.bias']) == pretrained_norm
    clip = torch.randn(2, 3, *CLIP)
    torch.testing.assert_close(model.backbone(clip), features(clip, state)[:, 1:], rtol=1e-4, atol=1e-5)
    # an encoder alone, and a backbone that has no class token
    encoder = {key: x for key, x in state.items() if not key.startswith(('dec', 'mask', 'pred_head'))}
    torch.save(encoder, tmp_path / 'encoder.pyth')
    assert set(load_weights(MODELS.build(cfg), tmp_path / 'encoder.pyth').initialised) == set(report.initialised)
    plain = MODELS.build(cfg | dict(backbone=tiny_backbone(cls_token=False)))
    left = load_weights(plain, tmp_path / 'pt.pyth').left
    assert {'backbone.cls_token', 'backbone.pos_embed_cls'} < set(left)
    again = MODELS.build(cfg)  # of a classifier, it is the norm behind the pooling
    torch.save({f'{key}': x + 1 for key, x in model.state_dict().items()}, tmp_path / 'ours.pth')
    load_weights(again, tmp_path / 'ours.pth', complete=True)
    torch.testing.assert_close(again.norm.weight, model.norm.weight + 1)


NORM = ('norm.weight', 'norm.bias')


@pytest.mark.parametrize('layout', LAYOUTS)
def test_converting_on_the_command_line(tmp_path: Path, layout: str):
    torch.save({'model_state': published_file(layout)}, tmp_path / 'published.pyth')
    convert_checkpoint = runpy.run_path(str(ROOT / 'tools' / 'convert_checkpoint.py'))['main']
    ours, again = tmp_path / 'ours.safetensors', tmp_path / 'again.pth'
    convert_checkpoint([str(tmp_path / 'published.pyth'), str(ours)])
    convert_checkpoint([str(ours), str(again), '--to', layout])
    written = torch.load(again, weights_only=True)['state_dict']
    assert all(torch.equal(written[key], x) for key, x in published_file(layout).items())


# --- parts -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(('frames', 'tubelet', 'slices'), [(16, 2, 8), (16, 4, 4), (8, 2, 4), (32, 2, 16), (2, 2, 1)])
def test_predicted_frames_are_the_published_ones(frames: int, tubelet: int, slices: int):
    """Frames within their tubelets, against frames counted through the clip."""
    rules = {'spread': torch.linspace(0, frames - 1, slices).long(), 'first': torch.arange(0, frames, tubelet)}
    rules['all'] = torch.arange(frames)
    for rule, expected in rules.items():
        within = MODELS.build(dict(type='PixelTarget', frames=rule)).frames_of(slices, tubelet)
        assert (torch.arange(slices)[:, None] * tubelet + within).flatten().tolist() == expected.tolist()
    if frames == 16 and tubelet == 2:
        assert rules['spread'].tolist() == [0, 2, 4, 6, 8, 10, 12, 15]


def test_a_token_predicts_one_frame():
    model = tiny()
    assert model.head.pred.out_features == 8 * 6 * 3
    with torch.device('meta'):
        base = dict(type='SpatioTemporalViT', arch='base', positions='separable', cls_token=True)
        assert autoencoder(base, embed_dim=512).head.pred.out_features == 768
    image = model.predict(torch.randn(2, 3, 1, 24, 12), 'video', Masks.from_hidden(torch.rand(2, 6).argsort(1) < 4))
    assert image[0]['patches'].shape == (4, 144)
    clip, masks = torch.randn(1, 3, *CLIP), Masks.from_hidden(torch.rand(1, 24).argsort(1) < 18)
    before = model(clip, 'video', masks)['loss'].item()
    unread = clip.clone()
    hidden = torch.zeros(24).scatter(0, masks.decode[0], 1).view(4, 3, 2).bool()
    unread[0, :, [1, 3, 5, 6]] += torch.randn(3, 4, 24, 12) * hidden.repeat_interleave(8, 1).repeat_interleave(6, 2)
    assert model(unread, 'video', masks)['loss'].item() == before  # frames 0, 2, 4, 7 are predicted
    with pytest.raises(ValueError, match="frames='odd' is unknown. Choose 'all', 'first' or 'spread'"):
        MODELS.build(dict(type='PixelTarget', frames='odd'))


def test_pictures_show_the_predicted_frames():
    model, clip = tiny(), torch.randint(256, (3, *CLIP), dtype=torch.uint8)
    result = reconstruct(model, clip, 'video')
    assert result.numbers == [0, 2, 4, 7]
    assert 'Of 8 frames 4 are predicted.' in result.caption
    np.testing.assert_array_equal(result.original, clip[:, [0, 2, 4, 7]].permute(1, 2, 3, 0))
    masks = Masks.from_hidden(torch.rand(1, 24).argsort(1) < 18)
    pixels = model.data_preprocessor.pixels_of_patches(model.backbone.patchify(clip[None])[0][:, masks.decode[0]])
    truth = model.head.target(model.head.predicted_pixels(pixels, masks.decode, GRID))[0]
    row = dict(patches=truth, decode=masks.decode[0], visible=masks.visible[0], loss=torch.tensor(0.0))
    model.predict = lambda *args: [row]
    result = reconstruct(model, clip, 'video', masks)
    assert np.abs(result.reconstruction.astype(int) - result.original).max() <= 1  # the target itself is the clip
    assert frame_strip(result, 'clip', 'title').width > 4 * 160
    whole = reconstruct(autoencoder(tiny_backbone(), frames='all', embed_dim=16, num_heads=4), clip, 'video')
    assert whole.numbers == [*range(8)]
    assert 'frames' not in whole.caption


@torch.no_grad()
def test_learned_positions_of_other_clips():
    backbone = MODELS.build(tiny_backbone()).eval()
    space, time = backbone.pos_embed_space[0], backbone.pos_embed_time[0]
    table = (time[:, None] + space).flatten(0, 1)
    assert torch.equal(backbone.positions_on(GRID), table)
    assert torch.equal(backbone.positions_on(Grid(1, 3, 2)), table[:6])  # an image is the first step
    for grid in (Grid(2, 3, 2), Grid(4, 6, 5), Grid(1, 5, 5)):
        torch.testing.assert_close(backbone.positions_on(grid), resize_positions(table[None], GRID, grid))
    # interpolated apart, they are the same: the weights of an interpolation add up to one
    longer = F.interpolate(time.T[None], size=8, mode='linear')[0].T
    torch.testing.assert_close(backbone.positions_on(Grid(8, 3, 2)), (longer[:, None] + space).flatten(0, 1))
    for clip_size, tokens in (((1, 24, 12), 6), ((4, 24, 12), 12), ((8, 40, 24), 80)):
        assert backbone(torch.randn(2, 3, *clip_size)).shape == (2, tokens, 24)
        assert math.isfinite(tiny().predict(torch.randn(1, 3, *clip_size), 'video')[0]['loss'])
    joint = MODELS.build(tiny_backbone(positions='learned'))
    assert joint.pos_embed.shape == (1, 24, 24)
    assert torch.equal(joint.positions_on(Grid(1, 3, 2)), joint.pos_embed[0, :6])


def test_first_weights():
    torch.manual_seed(0)
    model = autoencoder(tiny_backbone(embed_dim=96), embed_dim=96, num_heads=4, mask_token_std=0.02, pred_std=None)
    for part in (model.backbone, model.head):
        for table in (part.pos_embed_space, part.pos_embed_time, part.pos_embed_cls):
            assert table.std().item() == pytest.approx(0.02, rel=0.2)
    assert not model.head.cls_token.any()
    assert model.backbone.cls_token.std().item() == pytest.approx(0.02, rel=0.2)
    with pytest.raises(ValueError, match="cls_token=True and tokens='encoder'. Choose tokens='decoder'"):
        MODELS.build(dict(type='MAEHead', in_dim=24, patch_size=PATCH, grid=GRID, cls_token=True))


def test_learned_positions_learn_like_the_patch_embedding():
    model = tiny()
    wrapper = dict(type='AutocastOptimWrapper', optimizer=dict(type='AdamW', lr=1.0, weight_decay=0.05))
    groups = LayerDecayConstructor(wrapper, dict(layer_decay=0.5, rule='paper')).param_groups(model)
    for name in ('pos_embed_space', 'pos_embed_time', 'pos_embed_cls', 'cls_token'):
        [group] = [g for g in groups if any(x is getattr(model.backbone, name) for x in g['params'])]
        assert (group['lr'], group['weight_decay']) == (0.125, 0.05)  # two blocks lie between it and the head


@pytest.mark.parametrize('layout', LAYOUTS)
def test_arithmetic_is_what_torch_counts(layout: str):
    model = tiny(layout)
    row = pretraining_rows(model)[1]
    assert (row.num_visible, row.num_tokens) == (6, 24)
    assert counted_macs(lambda: model.loss(torch.zeros(2, 3, *CLIP), 'video')) == 2 * row.total


# --- masks -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('kind', 'ratio', 'by_visible', 'by_hidden'),
    [
        ('RandomMasking', 0.9, 156, 157), ('RandomMasking', 0.95, 78, 79), ('RandomMasking', 0.75, 392, 392),
        ('TubeMasking', 0.9, 152, 160), ('PerFrameMasking', 0.9, 152, 160), ('FrameMasking', 0.75, 392, 392),
        ('FrameMasking', 0.7, 392, 588), ('BlockMasking', 0.75, 392, 392), ('BlockMasking', 0.9, 156, 157),
    ],
)  # fmt: skip
def test_counts(kind: str, ratio: float, by_visible: int, by_hidden: int):
    """Of 8x14x14 tokens; the visible ones of agnostic masks are the published 156, OmniMAE's 157."""
    for round_down, visible in (('visible', by_visible), ('hidden', by_hidden)):
        generator = MODELS.build(dict(type=kind, ratio=ratio, round_down=round_down))
        masks = generator(3, Grid(8, 14, 14), 'cpu')
        assert (masks.visible.shape[1], masks.decode.shape[1]) == (visible, 1568 - visible)
        assert generator.num_hidden(Grid(8, 14, 14)) == 1568 - visible
        assert (torch.cat([masks.visible, masks.decode], 1).sort(1).values == torch.arange(1568)).all()


def test_the_count_of_visible_tokens_is_the_published_formula():
    for ratio in (0.5, 0.75, 0.9, 0.95, 0.98):
        for grid in (Grid(8, 14, 14), Grid(8, 16, 16), Grid(1, 14, 14), Grid(4, 10, 10)):
            generator = MODELS.build(dict(type='RandomMasking', ratio=ratio, round_down='visible'))
            assert grid.num_tokens - generator.num_hidden(grid) == int(grid.num_tokens * (1 - ratio))
    with pytest.raises(ValueError, match="RandomMasking: round_down='both' is unknown. Choose 'hidden' or 'visible'"):
        MODELS.build(dict(type='RandomMasking', ratio=0.9, round_down='both'))
    with pytest.raises(ValueError, match=r'FrameMasking\(ratio=0.9\) hides 1568 of 1568 tokens'):
        MODELS.build(dict(type='FrameMasking', ratio=0.9, round_down='visible')).num_hidden(Grid(8, 14, 14))


def test_each_time_slice_hides_equally_many_of_its_own():
    masks = MODELS.build(dict(type='PerFrameMasking', ratio=0.75))(64, Grid(4, 4, 5), 'cpu')
    hidden = torch.zeros(64, 80).scatter(1, masks.decode, 1.0).view(64, 4, 20)
    assert (hidden.sum(2) == 15).all()
    assert all(not torch.equal(hidden[:, i], hidden[:, j]) for i in range(4) for j in range(i))
    assert hidden.mean((0, 1)).sub(0.75).abs().max() < 0.12  # every place alike


def test_blocks_are_contiguous_and_everywhere():
    grid = Grid(8, 14, 14)
    generator = MODELS.build(dict(type='BlockMasking', ratio=0.5, min_size=(2, 4, 4), max_size=(4, 8, 8)))
    masks = generator(128, grid, 'cpu')
    hidden = torch.zeros(128, 1568).scatter(1, masks.decode, 1.0).view(128, *grid)
    assert (hidden.flatten(1).sum(1) == 784).all()

    def alike(x: Tensor) -> float:
        """Share of neighbours, in time, height and width, that are both hidden or both visible."""
        pairs = [(x[:, 1:], x[:, :-1]), (x[:, :, 1:], x[:, :, :-1]), (x[..., 1:], x[..., :-1])]
        return min((a == b).float().mean().item() for a, b in pairs)

    scattered = MODELS.build(dict(type='RandomMasking', ratio=0.5))(128, grid, 'cpu')
    assert alike(hidden) > 0.75
    assert alike(torch.zeros(128, 1568).scatter(1, scattered.decode, 1.0).view(128, *grid)) < 0.55
    assert len({tuple(row.tolist()) for row in masks.visible}) == 128
    assert hidden.mean(0)[:, 3:-3, 3:-3].min() > 0.2  # not only where most blocks meet
    one = MODELS.build(dict(type='BlockMasking', ratio=0.1, min_size=(4, 7, 7), max_size=(4, 7, 7)))(16, grid, 'cpu')
    for row in one.decode:  # 156 of the 196 tokens of the first block, as far as it goes, slice by slice
        t, y, x = row // 196, row % 196 // 14, row % 14
        assert [int(part.max() - part.min()) for part in (t, y, x)] == [3, 6, 6]
        assert torch.bincount(t - t.min()).tolist() == [49, 49, 49, 9]
    with pytest.raises(ValueError, match=r'min_size=\(5, 4, 4\), max_size=\(4, 8, 8\). Give sides from 1 on'):
        MODELS.build(dict(type='BlockMasking', ratio=0.5, min_size=(5, 4, 4)))


# --- sizes -----------------------------------------------------------------------------------------------------------


# Published: 99.9 M for ViT-B; counted by hand from the sizes, positions and class tokens included.
@pytest.mark.parametrize(
    ('arch', 'patch', 'mae_st', 'slowfast'),
    [
        ('base', 16, 99_898_880, 100_596_736), ('large', 16, 317_731_584, 318_429_440),
        ('huge', 14, 645_232_460, 646_145_356), ('huge', 16, 645_678_080, 646_375_936),
    ],
)  # fmt: skip
def test_parameter_counts(arch: str, patch: int, mae_st: int, slowfast: int):
    for layout, expected in (('mae_st', mae_st), ('slowfast', slowfast)):
        with torch.device('meta'):
            backbone = tiny_backbone(patch_size=(2, patch, patch), clip_size=(16, 224, 224))
            backbone = {key: x for key, x in backbone.items() if key not in ('embed_dim', 'depth', 'num_heads')}
            model = autoencoder(backbone | dict(arch=arch), layout, embed_dim=512, depth=4, num_heads=8)
        assert sum(x.numel() for x in model.parameters()) == expected


# Videos a step, rate, both ends of the schedule, epochs and those of the warm-up; tokens seen, parameters: SlowFast's
# configs/masked_ssl for as many machines as take these videos, and PRETRAIN.md of MAE-ST's repository.
@pytest.mark.parametrize(
    ('name', 'videos', 'rate', 'start', 'end', 'epochs', 'warmup', 'visible', 'parameters'),
    [
        ('vit-b_k400', 64 * 8, 1e-4 * 8, 1e-6 * 8, 1e-6 * 8, 200, 60, 156, 100_596_736),
        ('vit-l_k400', 32 * 16, 1e-4 * 16, 1e-6 * 16, 1e-6 * 16, 200, 30, 156, 318_429_440),
        ('vit-h_k400', 32 * 16, 1e-4 * 16, 1e-6 * 16, 1e-6 * 16, 400, 60, 156, 646_375_936),
        ('vit-l_k400_repository', 256, 1.6e-3, 0.0, 0.0, 100, 5, 156, 317_731_584),
        ('ablations/mask_agnostic-90', 512, 1.6e-3, 1.6e-5, 1.6e-5, 200, 30, 156, 318_429_440),
        ('ablations/mask_space-90', 512, 1.6e-3, 1.6e-5, 1.6e-5, 200, 30, 152, 318_429_440),
        ('ablations/mask_time-75', 512, 1.6e-3, 1.6e-5, 1.6e-5, 200, 30, 392, 318_429_440),
        ('ablations/mask_block-75', 512, 1.6e-3, 1.6e-5, 1.6e-5, 200, 30, 392, 318_429_440),
    ],
)
def test_pretraining_recipes(name, videos, rate, start, end, epochs, warmup, visible, parameters):
    cfg = load_config(CONFIGS / f'{name}.py')
    [source] = cfg.train_dataloader.dataset.sources.values()
    assert (source.replicas, source.new_clips) == (4, True)
    assert (source.sampling, source.stride, source.num_frames) == ('resampled', 4, 16)
    assert source.transforms[0] == dict(type='RandomResizedCrop', size=224, scale=(0.5, 1.0))
    assert source.transforms[1:] == [dict(type='Flip', prob=0.5)]
    assert cfg.train_dataloader.batch_sampler.global_batch_size == 4 * videos
    optimizer, scheduler = cfg.optim_wrapper.optimizer, cfg.param_scheduler
    assert (optimizer.betas, optimizer.weight_decay, cfg.optim_wrapper.clip_grad.max_norm) == ((0.9, 0.95), 0.05, 0.02)
    rates = (optimizer.lr, scheduler.start_lr, scheduler.end_lr)
    assert rates == pytest.approx((rate, start, end))
    assert (cfg.train_cfg.max_epochs, scheduler.warmup_epochs) == (epochs, warmup)
    with torch.device('meta'):
        model = MODELS.build(cfg.model)
    masks = model.mask_generator['video'](1, model.backbone.grid, 'cpu')
    assert (masks.visible.shape[1], masks.decode.shape[1]) == (visible, 1568 - visible)
    assert sum(x.numel() for x in model.parameters()) == parameters
    assert model.head.blocks[0].attn.num_heads == (16 if name.endswith('repository') else 8)
    assert model.head.target.frames == ('spread' if name.endswith('repository') else 'first')
    for part in (cfg.model.data_preprocessor, cfg.model.head.target):
        assert (part.mean, part.std) == ((0.45,) * 3, (0.225,) * 3)


# Rate per machine of 16 videos, machines, crops of a video, layer decay, DropPath, dropout, epochs, floor, millions of
# parameters: SlowFast.
@pytest.mark.parametrize(
    ('name', 'rate', 'machines', 'replicas', 'decay', 'drop_path', 'dropout', 'epochs', 'floor', 'millions'),
    [
        ('vit-b_k400', 6e-4, 8, 2, 0.65, 0.1, 0.3, 75, 1e-5, 87),
        ('vit-l_k400', 3e-4, 8, 2, 0.75, 0.2, 0.3, 50, 1e-5, 304),
        ('vit-h_k400', 3e-4, 16, 1, 0.8, 0.2, 0.5, 75, 1e-6, 632),
    ],
)
def test_fine_tuning_recipes(name, rate, machines, replicas, decay, drop_path, dropout, epochs, floor, millions):
    cfg = load_config(CONFIGS / 'finetune' / f'{name}.py')
    [train], [val], [test] = (cfg[f'{split}_dataloader'].dataset.sources.values() for split in ('train', 'val', 'test'))
    assert {(x.sampling, x.stride, x.num_frames) for x in (train, val, test)} == {('resampled', 4, 16)}
    assert (train.replicas, test.num_clips, test.transforms[-1].type) == (replicas, 7, 'ThreeCrop')
    augment = dict(type='RandAugment', policy='timm', magnitude=7, num_layers=2, interpolation='bicubic')
    crop = dict(type='RandomResizedCrop', size=224, scale=(0.08, 1.0))
    assert train.transforms == [augment, crop, dict(type='Flip', prob=0.5)]
    resized = dict(type='ResizeShort', size=224, interpolation='bilinear')
    assert val.transforms == [resized, dict(type='CenterCrop', size=224)]
    assert test.transforms == [resized, dict(type='ThreeCrop', size=224)]
    assert cfg.train_dataloader.batch_sampler.global_batch_size == 16 * machines * replicas
    optimizer, scheduler = cfg.optim_wrapper.optimizer, cfg.param_scheduler
    assert (optimizer.betas, optimizer.weight_decay, cfg.optim_wrapper.clip_grad.max_norm) == ((0.9, 0.999), 0.05, 5.0)
    expected = (rate * machines, 1e-8 * machines, floor * machines)
    assert (optimizer.lr, scheduler.start_lr, scheduler.end_lr) == pytest.approx(expected)
    assert cfg.optim_wrapper.paramwise_cfg == dict(layer_decay=decay, rule='paper')
    assert (cfg.train_cfg.max_epochs, scheduler.warmup_epochs) == (epochs, 5)
    assert (cfg.model.backbone.drop_path_rate, cfg.model.dropout) == (drop_path, dropout)
    assert (cfg.model.head_init_std, cfg.model.label_smoothing, cfg.model.pretrained_norm) == (2e-5, 0.1, True)
    assert cfg.model.data_preprocessor.erasing == dict(type='RandomErasing', fill='noise', prob=0.25)
    assert cfg.test_evaluator.softmax
    mixing = dict(type='MixupCutMix', mixup_alpha=0.8, cutmix_alpha=1.0, switch_prob=0.5)
    assert cfg.model.data_preprocessor.mixing == mixing
    assert not cfg.get('custom_hooks')  # no average of weights
    start = f'VIT_{name[4].upper()}_16x4_MAE_PT'
    assert cfg.model.init_cfg.checkpoint.startswith(f'https://dl.fbaipublicfiles.com/pyslowfast/masked_models/{start}')
    with torch.device('meta'):
        model = MODELS.build(cfg.model)
    assert sum(x.numel() for x in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.6)


def test_the_fine_tuning_of_the_repository():
    """FINETUNE.md, and main_finetune.py and main_test.py where it says nothing, beside SlowFast's recipe."""
    cfg, other = (load_config(CONFIGS / 'finetune' / f'vit-l_k400{end}.py') for end in ('_repository', ''))
    optimizer, scheduler = cfg.optim_wrapper.optimizer, cfg.param_scheduler
    assert (optimizer.lr, cfg.optim_wrapper.clip_grad.max_norm, cfg.optim_wrapper.dtype) == (2.4e-3, 5.0, None)
    assert (scheduler.start_lr, scheduler.end_lr, scheduler.warmup_epochs) == (0.0, 1e-6, 5)
    assert (cfg.train_cfg.max_epochs, cfg.train_dataloader.batch_sampler.global_batch_size) == (50, 256)
    assert (cfg.model.backbone.drop_path_rate, cfg.model.dropout) == (0.2, 0.3)
    assert (cfg.test_dataloader.dataset.sources.videos.num_clips, cfg.test_evaluator.softmax) == (10, True)
    assert (cfg.model, cfg.train_dataloader, cfg.val_dataloader) == (
        other.model,
        other.train_dataloader,
        other.val_dataloader,
    )
    with torch.device('meta'):
        model = MODELS.build(cfg.model)
    wrapper = dict(type='AutocastOptimWrapper', optimizer=optimizer)
    constructor = LayerDecayConstructor(wrapper, cfg.optim_wrapper.paramwise_cfg)
    spared = {id(x) for group in constructor.param_groups(model) if not group['weight_decay'] for x in group['params']}
    names = {name for name, x in model.named_parameters() if id(x) in spared and x.dim() > 1}
    assert names == {f'backbone.{name}' for name in ('cls_token', 'pos_embed_space', 'pos_embed_time', 'pos_embed_cls')}
