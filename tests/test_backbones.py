"""Anybody's backbone and head: the examples from the first step to the last tool; errors name what is missing."""

from __future__ import annotations

import importlib
import math
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from mmengine.registry import DefaultScope
from test_tools import tool
from tiny_run import CLASSIFY, PRETRAIN, RECONSTRUCTED, build_runner, write_config, write_data
from torch import nn

from omnimae.apis import FeatureExtractor
from omnimae.checkpoint import convert, load_weights, recognise
from omnimae.config import load_config
from omnimae.engine import LayerDecayConstructor
from omnimae.flops import encoder_macs, pretraining_rows
from omnimae.models.vit import SpatioTemporalViT
from omnimae.planning import count_step
from omnimae.registry import MODELS
from omnimae.structures import Grid
from omnimae.visualization.reconstructions import reconstruct

ROOT = Path(__file__).parents[1]
EXAMPLES = {
    'rope': ('rope_vit', dict(type='RopeViT', embed_dim=24, depth=2, num_heads=2, clip_size=(4, 32, 32))),
    'hiera': (
        'hiera_like',
        dict(type='HieraLike', dims=(8, 24), depths=(1, 1), num_heads=(1, 2), local_stages=(0,), clip_size=(4, 32, 32)),
    ),
}
MASKS = dict(image=dict(type='RandomMasking', ratio=0.5), video=dict(type='RandomMasking', ratio=0.75))
KNN = """
model['backbone'] = {backbone}
custom_imports = dict(imports=['{module}'])
labelled = dict(
    batch_size=10,
    num_workers=0,
    dataset=dict(
        type='MixedDataset',
        sources=dict(
            pictures=dict(pictures, ann_file='{data}/list.txt', transforms=[dict(type='CenterCrop', size=32)])
        ),
    ),
    sampler=dict(type='EvalSampler'),
    batch_sampler=dict(type='EvalBatchSampler'),
    collate_fn=dict(type='collate_clips'),
)
custom_hooks = [dict(type='KNNHook', bank_dataloader=labelled, query_dataloader=labelled, interval=1, k=1)]
"""


@pytest.fixture(autouse=True)
def _scope():
    with DefaultScope.overwrite_default_scope('omnimae'):
        yield


def example(name: str) -> ModuleType:
    """The module of an example, as ``custom_imports`` finds it."""
    folder = str(ROOT / 'examples' / name)
    if folder not in sys.path:
        sys.path.append(folder)
    return importlib.import_module(EXAMPLES[name][0])


def autoencoder(backbone: dict, **head) -> nn.Module:
    """A small one."""
    head = dict(type='MAEHead', embed_dim=16, depth=1, num_heads=2) | head
    return MODELS.build(dict(type='MaskedAutoencoder', backbone=backbone, head=head, mask_generator=MASKS))


@pytest.fixture(scope='module')
def data(tmp_path_factory) -> Path:
    """8 pictures in two classes, 2 videos, and a list with labels."""
    folder = write_data(tmp_path_factory.mktemp('data') / 'made', num_pictures=8, num_movies=2)
    (folder / 'list.txt').write_text(''.join(f'{"ab"[i % 2]}/{i}.png {i % 2}\n' for i in range(8)))
    return folder


@pytest.mark.parametrize('name', EXAMPLES)
def test_an_outside_backbone_goes_all_the_way(name, data, tmp_path, capsys):
    """Pretrained, resumed, loaded, fine-tuned with layer decay, tested, drawn, counted, asked for features."""
    example(name)
    module, backbone = EXAMPLES[name]
    more = KNN.format(backbone=backbone, module=module, data=data)
    config = write_config(tmp_path / 'pretrain.py', PRETRAIN, data, more)
    whole = build_runner(config, tmp_path / 'whole')
    whole.train()
    assert all(x.isfinite().all() for x in whole.model.state_dict().values())
    [scalars] = (tmp_path / 'whole').glob('*/vis_data/scalars.json')
    assert scalars.read_text().count('"knn/top1": 100.0') == 2  # k=1, of the bank itself
    options = {'load_from': str(tmp_path / 'whole' / 'epoch_1.pth'), 'resume': True}
    resumed = build_runner(config, tmp_path / 'resumed', options)
    resumed.train()
    for key, x in resumed.model.state_dict().items():
        assert torch.equal(x, whole.model.state_dict()[key]), key

    weights = tmp_path / 'whole' / 'epoch_2_raw.safetensors'
    own = f'\nmodel["backbone"] = {backbone}\ncustom_imports = dict(imports=[{module!r}])\n'
    own += f'model["init_cfg"] = dict(type="Checkpoint", checkpoint="{weights}")\n'
    tuned = write_config(tmp_path / 'tune.py', CLASSIFY, data, own)
    runner = build_runner(tuned, tmp_path / 'tuned', {'train_cfg.max_epochs': 1})
    report = load_weights(runner.model, weights)
    assert {*report.loaded} == {f'backbone.{key}' for key in runner.model.backbone.state_dict()}
    assert {*report.initialised} == {'norm.weight', 'norm.bias', 'head.weight', 'head.bias'}
    runner.train()
    rates = {round(group['lr'] / 1e-3, 6) for group in runner.optim_wrapper.optimizer.param_groups}
    assert rates == {round(0.75**n, 6) for n in (4, 3, 2, 1)}  # stem, two layers, what is after them
    assert load_weights(runner.model, tmp_path / 'tuned' / 'epoch_1.pth', complete=True).initialised == ()
    assert 0 <= runner.test()['accuracy/top1'] <= 100

    files = [str(data / 'pictures/a/0.png'), str(data / 'movies/0.mp4')]
    tool('visualize_reconstruction').main([str(config), str(weights), *files, '--out-dir', str(tmp_path / 'drawn')])
    assert {path.suffix for path in (tmp_path / 'drawn').rglob('*.*')} == {'.png', '.gif'}
    capsys.readouterr()
    tool('get_flops').main([str(config)])
    assert re.search(r'width 24, 2 blocks, .*clips of 4x32x32', capsys.readouterr().out)
    [one, other] = FeatureExtractor(str(config), weights, progress=False)(files)
    assert one.features.shape == other.features.shape == (24,)


@pytest.mark.slow
@pytest.mark.parametrize('name', EXAMPLES)
def test_what_an_outside_backbone_costs_is_foretold(name):
    example(name)
    count = count_step(autoencoder(EXAMPLES[name][1]), inputs, reduced=False)
    assert count.total_flops(1) > 0


def inputs(size: int) -> dict:
    return dict(clip=torch.zeros(size, 3, 4, 32, 32, dtype=torch.uint8), modality='video')


@pytest.mark.parametrize(
    ('name', 'parameters', 'gmacs'),
    [('rope', 86.2e6, 17.5), ('hiera', 27.1e6, 4.9)],
)
def test_the_configs_of_the_examples(name, parameters, gmacs):
    """Sizes and arithmetic of an image are those of the published models: ViT-B, and Hiera-T but for its head."""
    example(name)
    with torch.device('meta'):
        model = MODELS.build(load_config(ROOT / 'examples' / name / 'pretrain.py').model)
    assert sum(x.numel() for x in model.backbone.parameters()) == pytest.approx(parameters, rel=0.01)
    num_tokens = model.backbone.grid.h * model.backbone.grid.w
    assert encoder_macs(model.backbone, num_tokens, 'image') / 1e9 == pytest.approx(gmacs, abs=0.1)


def test_rotary_positions_tell_distances_alone():
    """The product of a query and a key stays as it is when both move by as much (arXiv:2104.09864, eq. 16)."""
    rope = example('rope')
    grid = Grid(3, 4, 5)
    angles = rope.rotary_angles(grid, 20, 10000.0, 'cpu')
    assert angles.shape == (60, 9)
    # time 2, row 1, column 3, each with rates of 1, 10000^(-1/3), 10000^(-2/3)
    expected = [place * 10000 ** (-i / 3) for place in (2, 1, 3) for i in range(3)]
    torch.testing.assert_close(angles[2 * 20 + 1 * 5 + 3], torch.tensor(expected))
    q, k = torch.randn(2, 20, generator=torch.Generator().manual_seed(0))

    def product(one: int, other: int) -> float:
        turned = [rope.rotate(x.view(1, 1, 1, 20), angles[[place]]) for x, place in ((q, one), (k, other))]
        return float((turned[0] * turned[1]).sum())

    move = 1 * 20 + 1 * 5 + 1
    assert product(0, 7) == pytest.approx(product(0 + move, 7 + move), rel=1e-5)
    assert product(0, 7) != pytest.approx(product(0, 8), rel=1e-2)
    assert product(0, 0) == pytest.approx(float(q @ k), rel=1e-5)


def filled(module: nn.Module) -> nn.Module:
    """Weights that follow from their names."""
    for name, x in module.state_dict().items():
        values = torch.sin(torch.arange(x.numel(), dtype=torch.float64) * 0.7 + len(name)) * 0.3
        x.copy_(values.view(x.shape))
    return module


def test_hiera_computes_what_the_published_code_does():
    """github.com/facebookresearch/hiera with patches that do not overlap, given the same weights by its names."""
    module = example('hiera')
    small = dict(dims=(6, 12, 24), depths=(1, 2, 1), num_heads=(1, 2, 4), local_stages=(0,), clip_size=(4, 32, 32))
    model = filled(module.HieraLike(**small, final_norm=False))
    clip = torch.sin(torch.arange(2 * 3 * 4 * 32 * 32, dtype=torch.float64) * 0.37).float().view(2, 3, 4, 32, 32)
    patches, grid = model.patchify(clip)
    tokens = torch.tensor([[0, 3, 5], [1, 2, 7]])
    with torch.no_grad():
        seen = model.encode(patches.gather(1, tokens[:, :, None].expand(-1, -1, patches.shape[2])), grid, tokens)
        maps = model.feature_maps({'rgb': clip}, [0, 2, 3], ['rgb'])
    torch.testing.assert_close(seen[0, :, 0], torch.tensor([-0.1235686, -0.1226986, -0.1291533]), atol=1e-5, rtol=0)
    torch.testing.assert_close(seen[1, :, 23], torch.tensor([-0.9072949, -0.9078849, -0.9098308]), atol=1e-5, rtol=0)
    assert [tuple(x.shape) for x in maps] == [(2, 6, 2, 8, 8), (2, 12, 2, 4, 4), (2, 24, 2, 2, 2)]
    moments = [value for x in maps for value in (x.mean().item(), x.std().item())]
    assert moments == pytest.approx([-0.0354179, 0.6162192, 0.0873854, 0.8719079, 0.0171864, 1.0366912], abs=1e-5)


def test_maps_of_several_strides_are_read():
    example('hiera')
    _, backbone = EXAMPLES['hiera']
    for head in (
        dict(type='PyramidHead', layers=(0, 1), dim=8),
        dict(type='ConvNeXtHead', embed_dim=64, depth=1),
    ):
        task = dict(type='SegmentationTask', num_classes=3)
        model = MODELS.build(dict(type='DensePredictor', backbone=dict(backbone), head=head, task=task))
        target = torch.randint(3, (2, 1, 1, 48, 32), dtype=torch.uint8)
        clips = dict(rgb=torch.randint(256, (2, 3, 1, 48, 32), dtype=torch.uint8))
        model(clips, target)['loss'].backward()
        assert all(x.grad is not None for x in model.head.parameters())
        assert model(clips, mode='predict')[0]['classes'].shape == (48, 32)


# --- what is missing -------------------------------------------------------------------------------------------------


class Lacking(SpatioTemporalViT):
    """A backbone that has all but one thing."""

    def __init__(self, missing: str):
        super().__init__(embed_dim=12, depth=2, num_heads=2, patch_size=(2, 8, 8), clip_size=(4, 16, 16))
        self.__dict__['missing'] = missing

    def __getattribute__(self, name: str):
        if name == object.__getattribute__(self, '__dict__').get('missing'):
            raise AttributeError(name)
        return super().__getattribute__(name)


MODELS.register_module(module=Lacking, force=True)

CLASSIFIER = dict(type='Classifier', num_classes=2)
DENSE = dict(type='DensePredictor', head=dict(type='ConvNeXtHead', embed_dim=16), task=dict(type='DepthTask'))
MAE = dict(
    type='MaskedAutoencoder', head=dict(type='MAEHead', embed_dim=16, depth=1, num_heads=2), mask_generator=MASKS
)
ASKED = [
    *((member, MAE) for member in ('patchify', 'encode', 'grid', 'embed_dim', 'patch_size', 'num_extra_tokens')),
    *((member, CLASSIFIER) for member in ('embed_dim', 'pooled')),
    *((member, dict(type='FrozenBackbone')) for member in ('embed_dim', 'pooled')),
    *((member, DENSE) for member in ('embed_dim', 'num_layers', 'feature_maps')),
]


@pytest.mark.parametrize(('member', 'model'), ASKED, ids=lambda x: x if isinstance(x, str) else x['type'])
def test_a_model_says_which_member_its_backbone_lacks(member, model):
    with pytest.raises(ValueError, match=f'Lacking lacks {member}, which {model["type"]} needs. See Backbone'):
        MODELS.build(model | dict(backbone=dict(type='Lacking', missing=member)))


def test_a_backbone_whose_grid_is_no_grid_is_named(monkeypatch):
    monkeypatch.setattr(Grid, 'of', classmethod(lambda cls, clip_size, patch_size: (1, 1, 2)))
    backbone = dict(type='Lacking', missing='pooled')
    monkeypatch.setattr(Lacking, 'make_positions', lambda self, positions, grid, dim, **_: setattr(self, 'grid', grid))
    with pytest.raises(ValueError, match=r'Lacking\.grid=\(1, 1, 2\) is a tuple\. Make it omnimae\.structures\.Grid'):
        MODELS.build(MAE | dict(backbone=backbone))


@pytest.mark.parametrize('member', ['num_layers', 'layer_of'])
def test_layer_decay_says_which_member_a_backbone_lacks(member):
    model = MODELS.build(CLASSIFIER | dict(backbone=dict(type='Lacking', missing=member)))
    wrapper = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=1.0))
    with pytest.raises(ValueError, match=rf'Lacking lacks {member}, which paramwise_cfg.layer_decay=0.5 needs'):
        LayerDecayConstructor(wrapper, dict(layer_decay=0.5))(model)
    LayerDecayConstructor(wrapper)(model)  # one rate for all asks for no layers


def test_layers_that_there_are_not_are_refused(monkeypatch):
    model = MODELS.build(CLASSIFIER | dict(backbone=dict(type='Lacking', missing='')))
    monkeypatch.setattr(Lacking, 'layer_of', lambda self, name: 7)
    wrapper = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=1.0))
    with pytest.raises(ValueError, match=r"Lacking.layer_of\('patch_embed.weight'\) is 7, .* from 0 to 3"):
        LayerDecayConstructor(wrapper, dict(layer_decay=0.5))(model)


def test_weights_of_a_published_layout_are_none_of_an_outside_backbone(tmp_path):
    example('rope')
    model = autoencoder(EXAMPLES['rope'][1])
    torch.save({'blocks.0.attn.qkv.weight': torch.zeros(3, 1)}, tmp_path / 'timm.pth')
    with pytest.raises(ValueError, match=r"timm.pth: has the layout 'timm', which has no names for a RopeViT"):
        load_weights(model, tmp_path / 'timm.pth')
    other = autoencoder(EXAMPLES['rope'][1] | dict(depth=1))
    torch.save(other.state_dict(), tmp_path / 'other.pth')
    with pytest.raises(ValueError, match=r'The file lacks backbone\.blocks\.1\..*depth=1'):
        load_weights(model, tmp_path / 'other.pth')
    config = tmp_path / 'config.py'
    config.write_text(f'default_scope = "omnimae"\nmodel = {MAE | dict(backbone=EXAMPLES["rope"][1])}\n')
    for layout in ('timm', 'huggingface', 'videomae'):
        arguments = [str(tmp_path / 'other.pth'), str(tmp_path / 'out.pth'), '--to', layout, '--config', str(config)]
        with pytest.raises(ValueError, match=f'--to {layout}: no published layout has names for .* a RopeViT'):
            tool('convert_checkpoint').main(arguments)
    weights = {f'backbone.{name}': torch.ones(2) for name in ('stem', 'layers.0')}
    assert recognise(weights) == 'native'
    assert convert(weights) == weights


# --- heads -----------------------------------------------------------------------------------------------------------


@MODELS.register_module()
class MeanHead(nn.Module):
    """Predicts every hidden patch as the same linear function of the mean of what is seen: no blocks, no mask token."""

    def __init__(self, *, in_dim, patch_size, grid, num_extra_tokens, fails=False):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(math.prod(patch_size) * 3, in_dim))
        self.fails = fails

    def forward(self, latent, masks, grid):
        if self.fails:
            assert latent.sum().item() < math.inf
        return (latent.mean(1) @ self.weight.T)[:, None].expand(-1, masks.decode.shape[1], -1)

    def loss(self, latent, masks, grid, pixels):
        return {'loss': self.errors(self(latent, masks, grid), pixels).mean()}

    def predicted_pixels(self, pixels, decode, grid):
        return pixels

    def errors(self, prediction, pixels):
        return (prediction.unflatten(2, (-1, pixels.shape[2])) - pixels[:, :, None]).square().mean((2, 3))


VIT = dict(type='SpatioTemporalViT', embed_dim=12, depth=2, num_heads=2, patch_size=(2, 8, 8), clip_size=(4, 16, 16))


def outside_head(**head) -> nn.Module:
    return MODELS.build(MAE | dict(backbone=VIT, head=dict(type='MeanHead', **head)))


def test_an_outside_head_without_blocks_is_trained_counted_and_loaded(tmp_path):
    model = outside_head()
    clip = torch.randint(256, (2, 3, 4, 16, 16), dtype=torch.uint8)
    model(clip, 'video')['loss'].backward()
    assert model.head.weight.grad.abs().sum() > 0
    [image] = [row for row in pretraining_rows(model) if (row.modality, row.what) == ('image', 'masked, as it runs')]
    assert image.decoder == 12 * 2 * 8 * 8 * 3
    torch.save(model.state_dict(), tmp_path / 'whole.pth')
    assert load_weights(outside_head(), tmp_path / 'whole.pth', complete=True).initialised == ()
    classifier = MODELS.build(CLASSIFIER | dict(backbone=VIT))
    report = load_weights(classifier, tmp_path / 'whole.pth')
    assert {key.partition('.')[0] for key in report.loaded} == {'backbone'}
    torch.save(classifier.state_dict(), tmp_path / 'classifier.pth')
    with pytest.raises(ValueError, match=r'holds a classifier, which has no decoder'):
        load_weights(outside_head(), tmp_path / 'classifier.pth')


DRAWN = """
model['head'] = dict(type='MeanHead')
custom_hooks = [dict(type='ReconstructionHook')]
"""


def test_what_cannot_be_counted_drawn_or_trained_says_so(tmp_path):
    with pytest.raises(ValueError, match=r'arithmetic of MeanHead cannot be counted, because it does not run without'):
        pretraining_rows(outside_head(fails=True))
    clip = torch.randint(256, (3, 4, 16, 16), dtype=torch.uint8)
    with pytest.raises(ValueError, match=r'MeanHead lacks target, which a reconstruction needs'):
        reconstruct(outside_head(), clip, 'video')
    config = write_config(tmp_path / 'drawn.py', PRETRAIN + RECONSTRUCTED, write_data(tmp_path / 'data', 2, 1), DRAWN)
    with pytest.raises(ValueError, match=r'MeanHead lacks target, which ReconstructionHook needs'):
        build_runner(config, tmp_path / 'work').train()
    with pytest.raises(ValueError, match=r'Identity lacks loss and predicted_pixels and errors, which MaskedAuto'):
        MODELS.build(MAE | dict(backbone=VIT, head=dict(type='torch.nn.Identity')))
