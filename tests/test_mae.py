"""MAE from our parts: class token, 2-D positions, targets normalised over all channels, its files both ways."""

from __future__ import annotations

from pathlib import Path

import dense_reference as dense
import pytest
import torch
import torch.nn.functional as F
from mmengine.registry import DefaultScope
from test_flops import counted_macs
from torch import Tensor

from omnimae.checkpoint import export, export_timm, export_transformers, load_weights, recognise, translate
from omnimae.config import load_config
from omnimae.engine.optim import LayerDecayConstructor
from omnimae.flops import pretraining_rows
from omnimae.models.vit import sinusoid_table_2d
from omnimae.registry import MODELS
from omnimae.structures import Grid, Masks

CONFIGS = Path(__file__).parents[1] / 'configs' / 'mae'
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
TARGET = dict(type='PixelTarget', normalize='patch', mean=MEAN, std=STD)


@pytest.fixture(autouse=True)
def _scope(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr('omnimae.models.ops.USE_ONEDNN', False)  # whose products torch's counter does not know
    with DefaultScope.overwrite_default_scope('omnimae'):
        yield


def image_backbone(**more) -> dict:
    size = dict(embed_dim=24, depth=2, num_heads=2, patch_size=(1, 8, 8), clip_size=(1, 32, 24))
    return dict(type='SpatioTemporalViT', positions='sincos2d', **{'cls_token': True, **size, **more})


def autoencoder(backbone: dict, **head) -> torch.nn.Module:
    head = dict(type='MAEHead', qkv_bias=True, positions='sincos2d', tokens='decoder', target=TARGET, **head)
    masks = dict(image=dict(type='RandomMasking', ratio=0.75))
    return MODELS.build(dict(type='MaskedAutoencoder', backbone=backbone, head=head, mask_generator=masks))


def tiny(**more) -> torch.nn.Module:
    return autoencoder(image_backbone(**more), embed_dim=16, depth=2, num_heads=4)


def mae_file() -> dict[str, Tensor]:
    """Make the weights of a pretraining model, named as MAE's repository does."""

    def block(prefix: str, dim: int) -> dict[str, tuple[int, ...]]:
        sizes = {
            'attn.qkv': (3 * dim, dim),
            'attn.proj': (dim, dim),
            'mlp.fc1': (4 * dim, dim),
            'mlp.fc2': (dim, 4 * dim),
        }
        sizes |= {'norm1': (dim,), 'norm2': (dim,)}
        return {f'{prefix}.{i}.{name}.weight': size for i in range(2) for name, size in sizes.items()}

    shapes = {'patch_embed.proj.weight': (24, 3, 8, 8), **block('blocks', 24), 'norm.weight': (24,)}
    shapes |= {'decoder_embed.weight': (16, 24), **block('decoder_blocks', 16), 'decoder_norm.weight': (16,)}
    shapes |= {'decoder_pred.weight': (192, 16)}
    shapes |= {key.replace('weight', 'bias'): shape[:1] for key, shape in shapes.items()}
    shapes |= {'cls_token': (1, 1, 24), 'pos_embed': (1, 13, 24), 'mask_token': (1, 1, 16)}
    shapes['decoder_pos_embed'] = (1, 13, 16)
    generator = torch.Generator().manual_seed(0)
    state = {
        key: 0.3 * torch.randn(shape, generator=generator) + (key.endswith('weight') and 'norm' in key)
        for key, shape in shapes.items()
    }
    for key in ('pos_embed', 'decoder_pos_embed'):
        state[key][:, 0] = 0
    return state


def features(image: Tensor, p: dict[str, Tensor], visible: Tensor | None = None) -> Tensor:
    """(B, 3, H, W) -> (B, 1 + K, D), the class token first, before any final norm."""
    x = F.conv2d(image, p['patch_embed.proj.weight'], p['patch_embed.proj.bias'], stride=8).flatten(2).transpose(1, 2)
    x = x + p['pos_embed'][:, 1:]
    if visible is not None:
        x = torch.stack([row[tokens] for row, tokens in zip(x, visible, strict=True)])
    cls = (p['cls_token'] + p['pos_embed'][:, :1]).expand(len(x), -1, -1)
    return dense.blocks(torch.cat([cls, x], 1), p, 'blocks', 2)


def plain_loss(image: Tensor, hidden: Tensor, p: dict[str, Tensor]) -> Tensor:
    """Compute MAE's loss the plain way: mask tokens put between the others, everything predicted, then masked."""
    visible = torch.stack([torch.nonzero(~row)[:, 0] for row in hidden])
    y = F.linear(dense.norm(features(image, p, visible), p, 'norm'), p['decoder_embed.weight'], p['decoder_embed.bias'])
    full = p['mask_token'].expand(*hidden.shape, -1).clone()
    full[~hidden] = y[:, 1:].flatten(0, 1)
    y = torch.cat([y[:, :1], full], 1) + p['decoder_pos_embed']
    y = dense.norm(dense.blocks(y, p, 'decoder_blocks', 4), p, 'decoder_norm')
    prediction = F.linear(y, p['decoder_pred.weight'], p['decoder_pred.bias'])[:, 1:]
    target = image.unflatten(3, (3, 8)).unflatten(2, (4, 8)).permute(0, 2, 4, 3, 5, 1).flatten(1, 2).flatten(2)
    target = (target - target.mean(2, keepdim=True)) / (target.var(2, keepdim=True) + 1e-6).sqrt()
    errors = (prediction - target).square().mean(2)
    return (errors * hidden).sum() / hidden.sum()


def test_positions_by_hand():
    table = sinusoid_table_2d(Grid(1, 2, 3), 8)[0]
    place = torch.tensor([2, 0.02, 1, 0.01])  # the last token: column 2, row 1, at rates of 1 and 1/100
    (a, b), (c, d) = place[:2], place[2:]
    expected = torch.stack([a.sin(), b.sin(), a.cos(), b.cos(), c.sin(), d.sin(), c.cos(), d.cos()])
    torch.testing.assert_close(table[5], expected)
    assert table[0].tolist() == [0, 0, 1, 1, 0, 0, 1, 1]
    assert torch.equal(table[1, 4:], table[0, 4:])  # the same row


def test_target_over_all_channels_by_hand():
    target = MODELS.build(dict(type='PixelTarget', normalize='patch', mean=(0.5, 0.5, 0.5), std=(0.1, 0.1, 0.2)))
    pixels = torch.tensor([0.5, 0.4, 0.9, 0.6, 0.5, 0.5]).view(1, 1, 6)  # two pixels, three channels
    scaled = torch.tensor([0.0, -1, 2, 1, 0, 0])  # mean 1/3, squares of what is left 16/3, over 5
    torch.testing.assert_close(target(pixels)[0, 0], (scaled - 1 / 3) / (16 / 15) ** 0.5, rtol=0, atol=1e-5)
    torch.testing.assert_close(target.restore(target(pixels), pixels), pixels)
    plain = MODELS.build(dict(type='PixelTarget', normalize=None, mean=(0.5, 0.5, 0.5), std=(0.1, 0.1, 0.2)))
    torch.testing.assert_close(plain(pixels)[0, 0], scaled)
    torch.testing.assert_close(plain.restore(plain(pixels), pixels), pixels)


def test_loss_and_gradients_of_a_converted_file_are_its_own(tmp_path: Path):
    state = mae_file()
    torch.save({'model': state}, tmp_path / 'mae.pth')
    model = tiny()
    report = load_weights(model, tmp_path / 'mae.pth', complete=True)
    assert (report.source, report.left, report.initialised, report.fixed) == ('timm', (), (), ())
    image = torch.randn(3, 3, 32, 24)
    hidden = torch.rand(3, 12).argsort(1) < 9
    parameters = {key: x.clone().requires_grad_() for key, x in state.items()}
    expected = plain_loss(image, hidden, parameters)
    loss = model(image.unsqueeze(2), 'image', Masks.from_hidden(hidden))['loss']
    assert loss.item() == pytest.approx(expected.item(), rel=2e-6)
    loss.backward()
    expected.backward()
    for ours, theirs in (
        ('backbone.cls_token', 'cls_token'), ('backbone.blocks.0.attn.qkv.weight', 'blocks.0.attn.qkv.weight'),
        ('head.decoder_embed.bias', 'decoder_embed.bias'), ('head.pred.weight', 'decoder_pred.weight'),
    ):  # fmt: skip
        torch.testing.assert_close(model.get_parameter(ours).grad, parameters[theirs].grad, rtol=1e-4, atol=1e-6)


def test_files_come_back(tmp_path: Path):
    state = mae_file()
    ours, left = translate(state)
    assert left == ()
    assert set(ours) == set(tiny().state_dict())
    assert recognise(ours) == 'native'
    again = export(ours, 'mae')
    assert again.keys() == state.keys()
    assert all(torch.equal(again[key], state[key]) for key in state)
    with pytest.raises(ValueError, match=r"layout 'mae' is that of .* with backbone\.cls_token=True"):
        export({key: x for key, x in ours.items() if key != 'backbone.cls_token'}, 'mae')
    with pytest.raises(ValueError, match='decoder_pos_embed gives the class token a position'):
        translate(state | {'decoder_pos_embed': torch.ones(1, 13, 16)})
    # a position of the class token is added to it
    moved = translate(state | {'pos_embed': state['pos_embed'] + 1})[0]
    torch.testing.assert_close(moved['backbone.cls_token'], state['cls_token'] + 1)


@torch.no_grad()
def test_a_fine_tuned_file_gives_its_own_logits_and_comes_back(tmp_path: Path):
    state = {key: x for key, x in mae_file().items() if not key.startswith(('decoder_', 'mask_', 'norm.'))}
    state |= {'fc_norm.weight': torch.randn(24), 'fc_norm.bias': torch.randn(24)}
    state |= {'head.weight': torch.randn(5, 24), 'head.bias': torch.randn(5)}
    torch.save({'model': state}, tmp_path / 'ft.pth')
    model = MODELS.build(dict(type='Classifier', backbone=image_backbone(), num_classes=5))
    assert load_weights(model, tmp_path / 'ft.pth', complete=True).left == ()
    image = torch.randn(2, 3, 32, 24)
    pooled = dense.norm(features(image, state)[:, 1:].mean(1), state, 'fc_norm')
    expected = F.linear(pooled, state['head.weight'], state['head.bias'])
    torch.testing.assert_close(model.logits(image.unsqueeze(2)), expected, rtol=1e-4, atol=1e-5)
    weights, config = export_timm(model.state_dict(), model.backbone)
    assert weights.keys() == state.keys()
    assert all(torch.equal(weights[key], state[key]) for key in state)
    assert config['model_args']['class_token']
    plain = MODELS.build(dict(type='Classifier', backbone=image_backbone(cls_token=False), num_classes=5))
    left = load_weights(plain, tmp_path / 'ft.pth').left
    assert set(left) == {'backbone.cls_token', 'norm.weight', 'norm.bias', 'head.weight', 'head.bias'}
    with pytest.raises(ValueError, match=r"head on the class token, and this model has pool='mean'\. Export to timm"):
        export_transformers(model.state_dict(), model.backbone)


def test_a_head_on_the_class_token_is_left():
    state = {key: x for key, x in mae_file().items() if not key.startswith(('decoder_', 'mask_'))}
    ours, left = translate(state | {'head.weight': torch.zeros(5, 24), 'head.bias': torch.zeros(5)})
    assert left == ('head.weight', 'head.bias')
    assert {'backbone.norm.weight', 'backbone.cls_token'} < set(ours)


def test_a_model_without_class_token_cannot_go_on_pretraining_one_with_it(tmp_path: Path):
    torch.save(mae_file(), tmp_path / 'mae.pth')
    with pytest.raises(ValueError, match=r'no place for backbone\.cls_token\. .* model\.backbone\.cls_token=True$'):
        load_weights(tiny(cls_token=False), tmp_path / 'mae.pth')


@torch.no_grad()
@pytest.mark.parametrize('cls_token', [True, False])
def test_a_classifier_takes_the_class_token_where_it_has_one(tmp_path: Path, cls_token: bool):
    state = mae_file()
    torch.save({'model': state}, tmp_path / 'mae.pth')
    model = MODELS.build(dict(type='Classifier', backbone=image_backbone(cls_token=cls_token), num_classes=5))
    report = load_weights(model, tmp_path / 'mae.pth')
    assert ('backbone.cls_token' in report.loaded, 'backbone.cls_token' in report.left) == (cls_token, not cls_token)
    image = torch.randn(2, 3, 32, 24)
    tokens = model.backbone(image.unsqueeze(2))
    assert tokens.shape == (2, 12, 24)  # the class token is not pooled
    expected = features(image, state)[:, 1:]
    assert torch.allclose(tokens, expected, rtol=1e-4, atol=1e-5) == cls_token


@torch.no_grad()
def test_a_classifier_may_begin_with_the_class_token_and_its_norm(tmp_path: Path):
    state = mae_file()
    torch.save({'model': state}, tmp_path / 'mae.pth')
    backbone = image_backbone(pool='cls')
    model = MODELS.build(dict(type='Classifier', backbone=backbone, num_classes=5, pretrained_norm=True))
    assert load_weights(model, tmp_path / 'mae.pth').initialised == ('head.weight', 'head.bias')
    image = torch.randn(2, 3, 32, 24)
    token = dense.norm(features(image, state)[:, 0], state, 'norm')
    expected = F.linear(token, model.head.weight, model.head.bias)
    torch.testing.assert_close(model.logits(image.unsqueeze(2)), expected, rtol=1e-4, atol=1e-6)


def test_arithmetic_with_a_class_token_is_what_torch_counts():
    model = tiny()
    row = pretraining_rows(model)[1]
    assert (row.num_visible, row.num_tokens) == (3, 12)
    assert counted_macs(lambda: model.loss(torch.zeros(2, 3, 1, 32, 24), 'image')) == 2 * row.total


# The published files, with the fixed positions, which are no parameters here.
@pytest.mark.parametrize(
    ('arch', 'patch', 'positions', 'published'),
    [('base', 16, 197, 111_907_840), ('large', 16, 197, 329_541_888), ('huge', 14, 257, 657_074_508)],
)
def test_parameter_counts(arch, patch, positions, published):
    with torch.device('meta'):
        backbone = dict(arch=arch, patch_size=(1, patch, patch), clip_size=(1, 224, 224), cls_token=True)
        backbone |= dict(type='SpatioTemporalViT', positions='sincos2d')
        model = autoencoder(backbone, embed_dim=512, depth=8, num_heads=16)
    fixed = positions * (model.backbone.embed_dim + 512)
    assert sum(x.numel() for x in model.parameters()) + fixed == published


def test_positions_of_several_slices_and_unknown_choices_are_refused():
    with pytest.raises(ValueError, match=r"'sincos2d' are those of one time slice.*; got 2 and 24"):
        tiny(clip_size=(2, 32, 24))
    with pytest.raises(ValueError, match="positions='rotary' is unknown. Choose from sincos1d, sincos2d, learned"):
        MODELS.build(image_backbone() | dict(positions='rotary'))
    with pytest.raises(ValueError, match=r'mean=\(0, 0, 0\) and std=None. Give both or neither'):
        MODELS.build(dict(type='PixelTarget', mean=(0, 0, 0)))


def test_the_class_token_learns_like_the_patch_embedding():
    model = tiny()
    wrapper = dict(type='AutocastOptimWrapper', optimizer=dict(type='AdamW', lr=1.0, weight_decay=0.05))
    groups = LayerDecayConstructor(wrapper, dict(layer_decay=0.5, rule='paper')).param_groups(model)
    [group] = [group for group in groups if any(x is model.backbone.cls_token for x in group['params'])]
    assert any(x is model.backbone.patch_embed.weight for x in group['params'])
    assert group['lr'] == 0.125  # two blocks lie between it and the head


# Of the same ViTs in timm, whose positions are trained, too.
@pytest.mark.parametrize(('size', 'published'), [('b', 86_567_656), ('l', 304_326_632), ('h', 632_045_800)])
def test_parameters_of_the_classifiers(size, published):
    with torch.device('meta'):
        model = MODELS.build(load_config(CONFIGS / 'finetune' / f'vit-{size}_in1k.py').model)
    assert sum(x.numel() for x in model.parameters()) == published


# PRETRAIN.md and main_pretrain.py of the release: 1.5e-4 of 256 images, 4096 a step; 1600 epochs made its weights
@pytest.mark.parametrize('size', ['b', 'l', 'h'])
def test_pretraining_recipes(size):
    cfg = load_config(CONFIGS / f'vit-{size}_in1k.py')
    [images] = cfg.train_dataloader.dataset.sources.values()
    assert images.transforms == [
        dict(type='RandomResizedCrop', size=224, scale=(0.2, 1.0), interpolation='bicubic'),
        dict(type='Flip', prob=0.5),
    ]
    assert cfg.train_dataloader.batch_sampler.global_batch_size == 4096
    optimizer = dict(type='AdamW', lr=2.4e-3, betas=(0.9, 0.95), weight_decay=0.05, fused=True)
    assert (cfg.optim_wrapper.optimizer, cfg.optim_wrapper.get('clip_grad')) == (optimizer, None)
    schedule = dict(type='WarmupCosineLR', warmup_epochs=40, start_lr=0.0, end_lr=0.0, rescale=True)
    assert (cfg.param_scheduler, cfg.train_cfg.max_epochs) == (schedule, 1600)
    assert cfg.model.mask_generator.image == dict(type='RandomMasking', ratio=0.75, round_down='visible')


@pytest.mark.parametrize(('side', 'visible'), [(224, 49), (240, 56), (272, 72), (368, 132)])
def test_kept_patches_are_rounded_down_at_every_size(side, visible):
    """int(L * (1 - mask_ratio)) of models_mae.py."""
    generator = MODELS.build(load_config(CONFIGS / 'vit-b_in1k.py').model.mask_generator.image)
    grid = Grid(1, side // 16, side // 16)
    assert grid.num_tokens - generator.num_hidden(grid) == visible


# FINETUNE.md of the release: rate of 256 images, layer decay, DropPath, epochs.
@pytest.mark.parametrize(
    ('size', 'rate', 'layer_decay', 'drop_path', 'epochs'),
    [('b', 5e-4, 0.65, 0.1, 100), ('l', 1e-3, 0.75, 0.2, 50), ('h', 1e-3, 0.75, 0.3, 50)],
)
def test_fine_tuning_recipes(size, rate, layer_decay, drop_path, epochs):
    cfg = load_config(CONFIGS / 'finetune' / f'vit-{size}_in1k.py')
    assert cfg.train_dataloader.batch_sampler.global_batch_size == 1024
    optimizer = dict(type='AdamW', lr=rate * 4, betas=(0.9, 0.999), weight_decay=0.05, fused=True)
    assert cfg.optim_wrapper.optimizer == optimizer
    spared = ('cls_token', 'pos_embed', 'pos_embed_cls')
    assert cfg.optim_wrapper.paramwise_cfg == dict(layer_decay=layer_decay, rule='paper', no_decay=spared)
    schedule = dict(type='WarmupCosineLR', warmup_epochs=5, start_lr=0.0, end_lr=1e-6, rescale=True)
    assert cfg.param_scheduler == schedule
    assert cfg.train_cfg.max_epochs == epochs
    pretrained = load_config(CONFIGS / f'vit-{size}_in1k.py').model.backbone
    assert cfg.model.backbone == dict(pretrained, train_positions=True, drop_path_rate=drop_path)
    assert (cfg.model.head_init_std, cfg.model.label_smoothing, cfg.custom_hooks) == (2e-5, 0.1, [])
    assert cfg.model.data_preprocessor.erasing == dict(type='RandomErasing', fill='noise', prob=0.25)
    train, test = (loader.dataset.sources.images for loader in (cfg.train_dataloader, cfg.test_dataloader))
    # timm.data.create_transform(interpolation='bicubic'): RandAugment fills with the mean colour in levels
    augment = dict(type='RandAugment', policy='timm', magnitude=9, num_layers=2)
    assert train.transforms == [
        dict(type='RandomResizedCrop', size=224, scale=(0.08, 1.0), interpolation='bicubic'),
        dict(type='Flip', prob=0.5),
        dict(augment, interpolation='bicubic', fill=(124, 116, 104)),
    ]
    mixing = dict(type='MixupCutMix', mixup_alpha=0.8, cutmix_alpha=1.0, switch_prob=0.5)
    assert cfg.model.data_preprocessor.mixing == mixing
    assert [transform['size'] for transform in test.transforms] == [256, 224]
