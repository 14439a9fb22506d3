"""What training begins with and decays, parameter by parameter, beside the published code.

``data/published_parameters.json`` was made by running each method's published model and optimizer groups on a small
model (192 wide, 2 blocks, 3 heads; decoders 128 wide, 1 block, 4 heads; layer decay 0.5), and by
renaming parameters as the converter does. Each has: whether it trains, whether it is decayed, the factor of its
learning rate in fine-tuning, std and greatest absolute value of its first weights (null: from a checkpoint, or fixed).
'mae_st' is the repository, 'slowfast' its group rule with the configs that fine-tuned the released weights. VideoMAE V2
gives the same as VideoMAE.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from torch import nn

from omnimae.checkpoint import load_weights, save_file
from omnimae.config import load_config
from omnimae.registry import MODELS, OPTIM_WRAPPER_CONSTRUCTORS
from omnimae.structures import Grid

CONFIGS = Path(__file__).parents[1] / 'configs'
PUBLISHED = json.loads((Path(__file__).parent / 'data' / 'published_parameters.json').read_text())
METHODS = {
    'omnimae/vit-b_in1k-ssv2_release': 'omnimae_pretrain',
    'omnimae/finetune/vit-b_in1k': 'omnimae_finetune',
    'mae/vit-b_in1k': 'mae_pretrain',
    'mae/finetune/vit-b_in1k': 'mae_finetune',
    'mae/linear/vit-b_in1k': 'mae_linear',
    'mae_st/vit-l_k400_repository': 'mae_st_pretrain',
    'mae_st/finetune/vit-b_k400': 'mae_st_slowfast',
    'mae_st/finetune/vit-l_k400_repository': 'mae_st_finetune',
    'videomae/vit-b_k400': 'videomae_pretrain',
    'videomae/finetune/vit-b_k400': 'videomae_finetune',
    'videomae/v2_vit-b_hybrid': 'videomae_pretrain',
    'videomae/finetune/v2_vit-b_k400': 'videomae_finetune',
    'multimae/vit-b_in1k': 'multimae_pretrain',
    'multimae/finetune/vit-b_in1k': 'multimae_cls',
}


@pytest.fixture(autouse=True)
def _scope():
    with DefaultScope.overwrite_default_scope('omnimae'):
        yield


def shrunken(name: str) -> Config:
    """A config with the sizes of the published run."""
    cfg = load_config(CONFIGS / f'{name}.py')
    cfg.model.pop('init_cfg', None)
    backbone, head = cfg.model.backbone, cfg.model.get('head')
    backbone.pop('arch')
    backbone.update(embed_dim=192, depth=2, num_heads=3)
    for tokenizer in backbone.get('tokenizers', {}).values():
        tokenizer.clip_size = (1, *(4 * length for length in tokenizer.patch_size[1:]))
    if 'tokenizers' not in backbone:
        backbone.update(patch_size=(backbone.patch_size[0], 8, 8), clip_size=(backbone.clip_size[0], 32, 32))
    elif 'mask_generator' in cfg.model:
        cfg.model.mask_generator.num_visible = 8
    for decoder in () if head is None else [head] if 'type' in head else head.values():
        decoder.update(embed_dim=128, depth=1, num_heads=4)
    return cfg


def groups_of(cfg: Config, model: nn.Module) -> dict[int, dict]:
    """Parameter group of each trained parameter, with a learning rate of 1 and the published run's layer decay."""
    wrapper = dict(cfg.optim_wrapper)
    wrapper['optimizer'] = dict(wrapper['optimizer'], lr=1.0)
    rule = dict(wrapper.pop('paramwise_cfg', {}))
    if rule.get('layer_decay') is not None:
        rule['layer_decay'] = 0.5
    if cfg.filename.endswith('omnimae/finetune/vit-b_in1k.py'):
        rule['rule'] = 'release'  # the config has the paper's
    constructor = wrapper.pop('constructor', 'DefaultOptimWrapperConstructor')
    groups = OPTIM_WRAPPER_CONSTRUCTORS.get(constructor)(wrapper, rule)(model).optimizer.param_groups
    return {id(parameter): group for group in groups for parameter in group['params']}


@pytest.mark.parametrize('name', METHODS)
def test_every_parameter_begins_trains_and_decays_as_published(name: str):
    cfg = shrunken(name)
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    groups = groups_of(cfg, model)
    published, parameters = dict(PUBLISHED[METHODS[name]]), dict(model.named_parameters())
    if METHODS[name] == 'mae_st_finetune':  # as the config says
        assert published['head.bias'][3] > 0
        published['head.bias'][3:] = 0.0, 0.0
    # the class token's row of MAE's positions, and fixed positions, which VideoMAE keeps in no file
    assert parameters.keys() - published.keys() <= {'backbone.pos_embed_cls'}
    assert published.keys() <= parameters.keys() | dict(model.named_buffers()).keys()
    if 'backbone.pos_embed_cls' in parameters.keys() - published.keys():
        published['backbone.pos_embed_cls'] = [*published['backbone.pos_embed'][:3], 0.0, 0.0]
    for key, (trains, decayed, factor, std, greatest) in published.items():
        parameter = parameters.get(key)
        assert (parameter is not None and parameter.requires_grad) == trains, key
        if not trains:
            continue
        group = groups[id(parameter)]
        assert group['weight_decay'] == (cfg.optim_wrapper.optimizer.weight_decay if decayed else 0.0), key
        if factor is not None:
            assert group['lr'] == pytest.approx(factor), key
        if std is not None:
            # of n draws the std is known to 1 / sqrt(2 n); the greatest of a normal distribution varies more
            assert parameter.std(correction=0).item() == pytest.approx(std, rel=4 / parameter.numel() ** 0.5), key
            assert 0.6 * greatest <= parameter.abs().max().item() <= greatest / 0.6, key


def test_first_weights_of_the_issue():
    """By hand: Xavier's std is sqrt(2 / (in + out)); a normal distribution cut at one std has 0.54 of it."""
    torch.manual_seed(0)
    head = dict(type='MAEHead', in_dim=96, patch_size=(1, 8, 8), grid=Grid(1, 4, 4), tokens='decoder')
    head |= dict(embed_dim=4096, depth=0, mask_token_std=0.02)
    tokens = [MODELS.build(dict(head, mask_token_cut=cut)).mask_token for cut in (False, True)]
    assert [x.std().item() for x in tokens] == pytest.approx([0.02, 0.0108], rel=0.05)
    assert tokens[0].abs().max() > 0.06
    assert tokens[1].abs().max() <= 0.02
    backbone = dict(type='SpatioTemporalViT', embed_dim=768, depth=1, num_heads=12)
    stds = [
        MODELS.build(dict(backbone, separate_qkv_init=separate)).blocks[0].attn.qkv.weight.std().item()
        for separate in (False, True)
    ]
    assert stds == pytest.approx([(2 / (4 * 768)) ** 0.5, (2 / (2 * 768)) ** 0.5], rel=0.01)  # 0.0255 and 0.0361


def test_trained_positions_begin_with_those_of_the_file_and_go_on_where_they_are_fixed(tmp_path: Path):
    """MAE's fine-tuning: a file of pretraining has no position of the class token, one of fine-tuning has it."""
    backbone = dict(
        type='SpatioTemporalViT', embed_dim=24, depth=1, num_heads=2, patch_size=(1, 8, 8), clip_size=(1, 16, 16)
    )
    backbone |= dict(positions='sincos2d', cls_token=True, final_norm=False)
    fixed, trained = (
        MODELS.build(dict(type='Classifier', backbone=dict(backbone, train_positions=trained), num_classes=3))
        for trained in (False, True)
    )
    fixed.backbone.pos_embed.add_(0.5)  # not the sinusoids
    save_file(fixed.state_dict(), tmp_path / 'fixed.pth', {})
    report = load_weights(trained, tmp_path / 'fixed.pth', complete=True)
    assert not report.initialised
    clip = torch.rand(2, 3, 1, 16, 16)
    torch.testing.assert_close(trained.eval().predict(clip), fixed.eval().predict(clip))
    trained.train().loss(clip, torch.tensor([0, 1]))['loss'].backward()
    with torch.no_grad():
        for table in (trained.backbone.pos_embed, trained.backbone.pos_embed_cls):
            assert table.grad.abs().sum() > 0
            table.add_(torch.randn_like(table))
    save_file(trained.state_dict(), tmp_path / 'trained.pth', {})
    load_weights(fixed, tmp_path / 'trained.pth', complete=True)
    torch.testing.assert_close(fixed.eval().predict(clip), trained.eval().predict(clip))


def test_trained_positions_return_to_the_sinusoids_for_a_file_without(tmp_path: Path):
    backbone = dict(type='SpatioTemporalViT', embed_dim=24, depth=1, num_heads=2, clip_size=(2, 32, 32))
    model = MODELS.build(dict(type='Classifier', backbone=dict(backbone, train_positions=True), num_classes=3))
    state = {key: x for key, x in model.state_dict().items() if not key.endswith('pos_embed')}
    save_file(state, tmp_path / 'bare.pth', {})
    sinusoids = model.backbone.pos_embed.detach().clone()
    model.backbone.pos_embed.data.zero_()
    assert load_weights(model, tmp_path / 'bare.pth').fixed == ('backbone.pos_embed',)
    assert torch.equal(model.backbone.pos_embed, sinusoids)
