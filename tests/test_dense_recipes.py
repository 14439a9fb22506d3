"""The recipes of dense transfer: their numbers are the release's, and each runs on its own layout of files."""

from __future__ import annotations

import importlib.util
import itertools
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.registry import DefaultScope
from mmengine.runner import Runner
from PIL import Image
from tiny_run import losses_of

from omnimae.apis import predict_maps
from omnimae.checkpoint import load_weights
from omnimae.config import load_config
from omnimae.data.transforms import resize
from omnimae.flops import dense_macs
from omnimae.registry import MODELS, OPTIM_WRAPPER_CONSTRUCTORS

CONFIGS = Path(__file__).parents[1] / 'configs'
MULTIMAE = CONFIGS / 'multimae' / 'finetune'

# lr, epochs, batch, GPUs, weight decay, DropPath, size, precision: the released configs
RELEASE = {
    'ade20k': (1e-4, 64, 16, 4, 0.05, 0.1, 512, 'bfloat16'),
    **dict.fromkeys(('hypersim_rgb', 'hypersim_depth', 'hypersim_rgb-depth'), (1e-4, 25, 16, 4, 0.05, 0.1, 512, None)),
    **dict.fromkeys(('nyuv2_rgb', 'nyuv2_depth', 'nyuv2_rgb-depth'), (1e-4, 200, 8, 4, 0.05, 0.1, 640, 'bfloat16')),
    'depth-nyuv2': (1e-4, 2000, 128, 2, 1e-4, 0.0, 256, None),
}
INPUTS = {name: tuple(name.split('_')[1].split('-')) if '_' in name else ('rgb',) for name in RELEASE}

# What a test changes to run a recipe: width, depth, batch, length and pixels. Nothing else.
SMALL = {
    'model.init_cfg': None,
    'model.backbone.embed_dim': 16,
    'model.backbone.depth': 4,
    'model.backbone.num_heads': 2,
    'train_dataloader.batch_size': 2,
    'train_dataloader.batch_sampler.global_batch_size': 4,
    **{f'{split}_dataloader.num_workers': 0 for split in ('train', 'val', 'test')},
    **{f'{split}_dataloader.persistent_workers': False for split in ('train', 'val', 'test')},
    'param_scheduler.warmup_epochs': 0.5,
    'train_cfg.max_epochs': 2,
    'train_cfg.val_interval': 1,
    'optim_wrapper.dtype': None,
    'default_hooks.checkpoint.interval': 1,
    'default_hooks.checkpoint.max_keep_ckpts': 2,
}

_number = itertools.count()


def sources_of(cfg, split: str) -> Any:
    return cfg[f'{split}_dataloader'].dataset.sources.images


# ---------------------------------------------------------------------------------------------------------------------
# Numbers


def test_every_recipe_is_in_the_table():
    assert {path.stem.removeprefix('vit-b_') for path in MULTIMAE.glob('*.py')} == {'in1k', *RELEASE}
    assert len({name.replace('-', '_') for name in RELEASE}) == len(RELEASE)  # nobody sees such a difference


@pytest.mark.parametrize('name', RELEASE)
def test_numbers_of_the_release(name):
    cfg = load_config(MULTIMAE / f'vit-b_{name}.py')
    lr, epochs, batch, gpus, weight_decay, drop_path, size, dtype = RELEASE[name]
    assert cfg.optim_wrapper.optimizer == dict(
        type='AdamW', lr=lr, betas=(0.9, 0.999), weight_decay=weight_decay, fused=True
    )
    rule = dict(layer_decay=0.75, rule='paper', no_decay=('global_tokens',))
    assert (cfg.optim_wrapper.dtype, cfg.optim_wrapper.paramwise_cfg) == (dtype, rule)
    assert cfg.train_cfg.max_epochs == epochs
    loader = cfg.train_dataloader
    assert loader.batch_sampler.global_batch_size == loader.batch_size * gpus == batch
    schedule = dict(type='WarmupCosineLR', warmup_epochs=100 if epochs == 2000 else 1, start_lr=0.0, end_lr=0.0)
    assert cfg.param_scheduler == dict(schedule, rescale=True, peak_in_warmup=True)
    assert cfg.model.backbone.drop_path_rate == drop_path
    assert tuple(cfg.model.backbone.tokenizers) == INPUTS[name]
    assert tuple(cfg.model.get('read', ('rgb',))) == INPUTS[name][:1]
    for split in ('train', 'val', 'test'):
        source = sources_of(cfg, split)
        assert (*(m for m in source.modalities if m != source.target),) == INPUTS[name]
        assert source.transforms[-1].size == size
    if name == 'depth-nyuv2':
        assert cfg.model.head == dict(type='DPTHead', layers=(2, 5, 8, 11), layer_dims=(96, 192, 384, 768), dim=256)
        assert cfg.model.task == dict(type='DepthTask', mean=2070.7764, std=777.5723, error='berhu')
    else:
        assert cfg.model.head == dict(type='ConvNeXtHead', embed_dim=6144, upscale=4, depth=4)
        assert cfg.model.task == dict(type='SegmentationTask', num_classes=150 if name == 'ade20k' else 40)
        assert sources_of(cfg, 'train').transforms[2] == dict(type='LargeScaleJitter', size=size, scale=(0.1, 2.0))
        assert sources_of(cfg, 'train').modalities.semseg.reduce_zero_label


def test_numbers_of_the_release_on_in1k():
    cfg = load_config(MULTIMAE / 'vit-b_in1k.py')
    assert cfg.optim_wrapper.optimizer.lr == 5e-4 * 1024 / 256
    assert (cfg.optim_wrapper.optimizer.weight_decay, cfg.optim_wrapper.paramwise_cfg.layer_decay) == (0.05, 0.65)
    assert (cfg.train_cfg.max_epochs, cfg.train_dataloader.batch_sampler.global_batch_size) == (100, 1024)
    schedule = dict(type='WarmupCosineLR', warmup_epochs=5, start_lr=0.0, end_lr=1e-6, rescale=True)
    assert cfg.param_scheduler == dict(schedule, peak_in_warmup=True)
    assert cfg.model.data_preprocessor.erasing.prob == 0
    augment = dict(type='RandAugment', policy='timm', magnitude=9, num_layers=2)
    [images] = cfg.train_dataloader.dataset.sources.values()
    assert images.transforms[-1] == dict(augment, interpolation='bicubic', fill=(124, 116, 104))
    assert not cfg.custom_hooks
    with torch.device('meta'):
        model = MODELS.build(cfg.model)
    # the encoder of MultiMAE with the tokenizer of RGB, a norm and 1,000 classes
    encoder = 12 * 7_087_872 + 768 + 16 * 16 * 3 * 768 + 768
    assert sum(parameter.numel() for parameter in model.parameters()) == encoder + 2 * 768 + 768 * 1000 + 1000


@pytest.mark.parametrize('name', ['ade20k', 'depth-nyuv2'])
def test_recipes_of_omnimae_differ_in_their_backbone_alone(name):
    ours, multimae = (
        load_config(path / f'vit-b_{name}.py').to_dict() for path in (CONFIGS / 'omnimae' / 'dense', MULTIMAE)
    )
    backbone, theirs = (cfg['model'].pop('backbone') for cfg in (ours, multimae))
    spared = [cfg['optim_wrapper']['paramwise_cfg'].pop('no_decay', ()) for cfg in (ours, multimae)]
    assert spared == [(), ('global_tokens',)]  # ours has none
    start, their_start = (cfg['model'].pop('init_cfg')['checkpoint'] for cfg in (ours, multimae))
    assert ours == multimae
    assert (backbone['type'], theirs['type']) == ('SpatioTemporalViT', 'MultiModalViT')
    assert backbone.get('drop_path_rate', 0) == theirs['drop_path_rate']
    assert start.endswith('/vitb_pretrain.torch')
    assert 'multimae-b_98_rgb%2B-depth-semseg_1600e_multivit' in their_start


def test_arithmetic_of_segmentation():
    """On 512x512: 1024 tokens and the global one through the encoder, 128x128 pixels through four ConvNeXt blocks."""
    with torch.device('meta'):
        model = MODELS.build(load_config(MULTIMAE / 'vit-b_ade20k.py').model)
    encoder = 1024 * 768 * 768 + 12 * (1025 * 12 * 768**2 + 2 * 1025**2 * 768)
    head = 1024 * 768 * 6144 + 128**2 * (4 * (49 * 384 + 8 * 384**2) + 384 * 150)
    assert dense_macs(model, 512) == encoder + head


def test_rates_by_layer():
    """BEiT's rule: tokenizers and global token are the first layer, the head and its blocks are behind the last."""
    cfg = load_config(MULTIMAE / 'vit-b_hypersim_rgb-depth.py')
    with torch.device('meta'):
        model = MODELS.build(cfg.model)
    rule = OPTIM_WRAPPER_CONSTRUCTORS.get('LayerDecayConstructor')(cfg.optim_wrapper, cfg.optim_wrapper.paramwise_cfg)
    groups = {id(p): (g['lr'], g['weight_decay']) for g in rule.param_groups(model) for p in g['params']}
    rates = {name: groups[id(parameter)] for name, parameter in model.named_parameters()}
    assert rates['head.proj.weight'] == rates['head.blocks.0.mlp.fc1.weight'] == (1e-4, 0.05)
    assert rates['head.blocks.3.norm.weight'] == (1e-4, 0.0)
    assert rates['backbone.blocks.11.mlp.fc1.weight'] == (1e-4 * 0.75, 0.05)
    first = [name for name in rates if name.startswith(('backbone.tokenizers.', 'backbone.global_tokens'))]
    assert len(first) == 5
    assert {rates[name][0] for name in first} == {1e-4 * 0.75**13}
    assert {name: rates[name][1] for name in first if not name.endswith('bias')} == {
        'backbone.global_tokens': 0.0,
        'backbone.tokenizers.rgb.patch_embed.weight': 0.05,
        'backbone.tokenizers.depth.patch_embed.weight': 0.05,
    }


def test_own_images_are_segmented_by_classes_that_count_from_0(tmp_path, monkeypatch):
    """Where the inherited recipe of ADE20K counts from 1: in training, validation and test."""
    monkeypatch.setenv('OMNIMAE_MAPS', 'my/maps')
    own = f"_base_ = '{CONFIGS}/custom/segmentation.py'\nmodel = dict(task=dict(num_classes=19))\n"
    (tmp_path / 'own.py').write_text(own)
    cfg = load_config(tmp_path / 'own.py')
    assert cfg.model.task.num_classes == 19
    for split, root in (('train', 'my/maps/train'), ('val', 'my/maps/val'), ('test', 'my/maps/val')):
        source = sources_of(cfg, split)
        assert source.root == root
        assert source.modalities == dict(
            rgb=dict(folder='images'), semseg=dict(kind='classes', folder='labels', reduce_zero_label=False)
        )


# ---------------------------------------------------------------------------------------------------------------------
# Runs


def write_maps(folders: dict[str, Path], names: list[str]) -> None:
    """Pictures of 40x56 in which the class of a pixel is its brightness, and depth grows with it; 0 is no class."""
    rng = np.random.default_rng(len(names))
    for name in names:
        kinds = rng.integers(0, 4, (5, 7)).repeat(8, 0).repeat(8, 1)
        maps = dict(
            rgb=(kinds * 60 + rng.integers(0, 20, kinds.shape))[..., None].repeat(3, 2).astype(np.uint8),
            depth=(1000 + 500 * kinds).astype(np.uint16),
            mask_valid=np.where(rng.random(kinds.shape) < 0.9, 255, 0).astype(np.uint8),
            semseg=kinds.astype(np.uint8),
        )
        for kind, folder in folders.items():
            path = folder / f'{name}.{"jpg" if kind == "rgb" and "ade" in str(folder) else "png"}'
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(maps[kind]).save(path)


@pytest.fixture(scope='module')
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four images of each split of each data set, laid out as the configs say."""
    root = tmp_path_factory.mktemp('dense')
    ade = root / 'ade' / 'ADEChallengeData2016'
    for split, short in (('training', 'train'), ('validation', 'val')):
        folders = dict(rgb=ade / 'images' / split, semseg=ade / 'annotations' / split)
        write_maps(folders, [f'ADE_{short}_{number:08}' for number in range(1, 5)])
    kinds = ('rgb', 'depth', 'mask_valid', 'semseg')
    for split in ('train', 'val', 'test'):
        scenes = [f'ai_001_00{number % 2}/frame.{number:04}' for number in range(4)]
        write_maps({kind: root / 'hypersim' / split / kind for kind in kinds}, scenes)
    for split in ('train', 'test'):
        write_maps({kind: root / 'nyuv2' / split / kind / 'data' for kind in kinds}, [f'{n:04}' for n in range(4)])
    return root


def options_of(path: Path) -> dict[str, Any]:
    """Shrink a recipe to images of 64x64, or 128 for the coarsest scale of DPT."""
    cfg = load_config(path)
    options = dict(SMALL)
    for split in ('train', 'val', 'test'):
        for i, transform in enumerate(sources_of(cfg, split).transforms):
            if 'size' in transform:
                options[f'{split}_dataloader.dataset.sources.images.transforms.{i}.size'] = 64
    if cfg.model.head.type == 'DPTHead':
        options |= {'model.head.layers': (0, 1, 2, 3), 'model.head.layer_dims': (8, 8, 8, 8), 'model.head.dim': 8}
    else:
        options |= {'model.head.embed_dim': 128, 'model.head.depth': 1}
    return options


def run(path: Path, work_dir: Path, **more: Any) -> Runner:
    cfg = load_config(path, {**options_of(path), **more})
    cfg.work_dir, cfg.experiment_name = str(work_dir), f'dense_{next(_number)}'
    return Runner.from_cfg(cfg)


PATHS = [
    *(MULTIMAE / f'vit-b_{name}.py' for name in RELEASE),
    *(CONFIGS / 'omnimae' / 'dense' / f'vit-b_{name}.py' for name in ('ade20k', 'depth-nyuv2')),
]


@pytest.mark.parametrize('path', PATHS, ids=lambda path: f'{path.parts[-3]}-{path.stem}')
def test_trains_validates_and_tests(path, data, tmp_path, monkeypatch):
    """Two epochs of the recipe on four images, then the test of what was exported."""
    monkeypatch.setenv('OMNIMAE_DATA', str(data))
    runner = run(path, tmp_path / 'work')
    runner.train()
    assert runner.iter == 2
    prefix = 'depth/delta1' if 'depth-nyuv2' in path.stem else 'segmentation/mIoU'
    scalars = {key: buffer.current() for key, buffer in runner.message_hub.log_scalars.items()}
    assert math.isfinite(scalars['train/loss'])
    assert 0 <= scalars[f'val/{prefix}'] <= 100
    state = runner.optim_wrapper.optimizer.state
    untouched = [name for name, value in runner.model.named_parameters() if not state[value]['exp_avg'].any()]
    assert not untouched
    assert [picture.name for picture in (tmp_path / 'work' / 'predictions').iterdir()] == ['epoch_2_images.png']
    absent = re.findall(
        r'(train|val)_dataloader: (.* never occur: .*)\. If', next((tmp_path / 'work').rglob('*.log')).read_text()
    )
    size = getattr(runner.model.task, 'num_classes', 3)  # classes 1 to 3 of the files are 0 to 2
    said = f'{size - 3} of {size} classes never occur: class 3, class 4, class 5, class 6, class 7 and {size - 8} more'
    assert absent == ([('train', said), ('val', said)] if size > 3 else [])

    again = run(path, tmp_path / 'test')
    load_weights(again.model, tmp_path / 'work' / 'epoch_2_raw.safetensors', complete=True)
    assert again.test() == runner.test()


def test_resumes_exactly_and_learns(data, tmp_path, monkeypatch):
    monkeypatch.setenv('OMNIMAE_DATA', str(data))
    path = MULTIMAE / 'vit-b_hypersim_rgb-depth.py'
    options = {
        'train_cfg.max_epochs': 12,
        'train_cfg.val_interval': 12,
        'param_scheduler.warmup_epochs': 1,
        'optim_wrapper.optimizer.lr': 3e-2,
        'default_hooks.checkpoint.interval': 6,
        'custom_hooks': [dict(type='LossesHook')],
    }

    def train(name: str, **more: Any) -> tuple[Runner, dict[int, float]]:
        runner = run(path, tmp_path / name, **options, **more)
        runner.train()
        return runner, losses_of(runner)

    runner, whole = train('whole')
    _, again = train('again', resume=True, load_from=str(tmp_path / 'whole' / 'epoch_6.pth'))
    assert again == {step: loss for step, loss in whole.items() if step >= 6}
    ends = [
        torch.load(tmp_path / name / 'epoch_12.pth', weights_only=True)['state_dict'] for name in ('whole', 'again')
    ]
    assert all(torch.equal(x, ends[1][key]) for key, x in ends[0].items())
    losses = [*whole.values()]
    assert np.mean(losses[-3:]) < 0.9 * np.mean(losses[:3])


def test_the_demo_fine_tunes_what_it_pretrained(few_root, tmp_path, monkeypatch):
    monkeypatch.setenv('OMNIMAE_DATA', str(few_root.parent))
    short = {'train_cfg.max_epochs': 1, 'param_scheduler.warmup_epochs': 0, 'train_dataloader.num_workers': 0}
    short |= {'train_dataloader.persistent_workers': False, 'default_hooks.checkpoint.interval': 1}

    def train(name: str, **more: Any) -> Runner:
        cfg = load_config(CONFIGS / 'demo' / f'{name}.py', {**short, **more})
        cfg.work_dir, cfg.experiment_name = str(tmp_path / name), f'dense_{next(_number)}'
        runner = Runner.from_cfg(cfg)
        runner.train()
        return runner

    train('multimae')
    start = {'model.init_cfg.checkpoint': str(tmp_path / 'multimae' / 'epoch_1_raw.safetensors')}
    runner = train('multimae_finetune', **start, **{'train_cfg.max_epochs': 3, 'train_cfg.val_interval': 3})
    assert runner.message_hub.get_scalar('val/segmentation/aAcc').current() > 30  # of 8 classes
    assert list((tmp_path / 'multimae_finetune' / 'predictions').glob('epoch_3_images.png'))


# ---------------------------------------------------------------------------------------------------------------------
# What it starts from


def pretrained(path: Path) -> tuple[dict[str, torch.Tensor], Path]:
    """A small MultiMAE of all modalities, as its pretraining leaves it."""
    patch, size = (1, 16, 16), (1, 64, 64)
    tokenizers = dict(
        rgb=dict(type='PatchTokenizer', channels=3, patch_size=patch, clip_size=size),
        depth=dict(type='PatchTokenizer', channels=1, patch_size=patch, clip_size=size),
    )
    torch.manual_seed(3)
    model = MODELS.build(
        dict(
            type='MultiMAE',
            backbone=dict(type='MultiModalViT', embed_dim=16, depth=4, num_heads=2, tokenizers=tokenizers),
            head={
                name: dict(type='CrossAttentionHead', embed_dim=16, depth=1, num_heads=2, error=error)
                for name, error in dict(rgb='mse', depth='l1').items()
            },
            mask_generator=dict(type='DirichletMasking', num_visible=8),
        )
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
    torch.save(dict(state_dict=model.state_dict()), path)
    return model.state_dict(), path


@pytest.mark.parametrize('name', ['hypersim_rgb', 'hypersim_depth', 'hypersim_rgb-depth', 'depth-nyuv2'])
def test_starts_from_pretraining(name, tmp_path):
    """Blocks, global token and the tokenizers that there are come from the file, the head does not."""
    weights, file = pretrained(tmp_path / 'pretrained.pth')
    path = MULTIMAE / f'vit-b_{name}.py'
    options = options_of(path)
    del options['model.init_cfg']
    cfg = load_config(path, {**options, 'model.init_cfg.checkpoint': str(file)})
    for modality in cfg.model.backbone.tokenizers:
        cfg.model.backbone.tokenizers[modality].clip_size = (1, 64, 64)
    with DefaultScope.overwrite_default_scope('omnimae'):
        model = MODELS.build(cfg.model)
        before = {key: x.clone() for key, x in model.state_dict().items()}
        model.init_weights()
    after = model.state_dict()
    for key, x in after.items():
        assert torch.equal(x, weights[key] if key.startswith('backbone.') else before[key]), key


@pytest.mark.parametrize('folder', ['omnimae/dense', 'multimae/finetune'])
def test_starts_from_a_plain_vit(folder, tmp_path):
    """OmniMAE's own weights in its recipe; those of an image model, without its norm and class token, in MultiMAE's."""
    path = CONFIGS / folder / 'vit-b_ade20k.py'
    options = options_of(path)
    del options['model.init_cfg']
    omnimae = load_config(CONFIGS / 'omnimae' / 'dense' / 'vit-b_ade20k.py', options_of(path)).model.backbone
    images = dict(omnimae, patch_size=(1, 16, 16), clip_size=(1, 224, 224), positions='sincos2d')
    torch.manual_seed(3)
    vit = MODELS.build(dict(omnimae if folder == 'omnimae/dense' else images, final_norm=True))
    weights = {f'backbone.{key}': torch.randn_like(x) for key, x in vit.state_dict().items()}
    torch.save(dict(state_dict=weights), tmp_path / 'vit.pth')
    with DefaultScope.overwrite_default_scope('omnimae'):
        model = MODELS.build(
            load_config(path, {**options, 'model.init_cfg.checkpoint': str(tmp_path / 'vit.pth')}).model
        )
        model.init_weights()
    loaded = {key.replace('tokenizers.rgb.', ''): x for key, x in model.backbone.state_dict().items()}
    loaded.pop('global_tokens', None)
    assert len(loaded) == len(weights) - 2  # those of the norm
    for key, x in loaded.items():
        assert torch.equal(x, weights[f'backbone.{key}']), key


# ---------------------------------------------------------------------------------------------------------------------
# Own images


@pytest.fixture
def small_runs(tmp_path: Path) -> dict[str, tuple[Path, Path]]:
    """Shrunk recipes as files of their own, and weights of them."""
    made = {}
    for name in ('ade20k', 'depth-nyuv2', 'hypersim_rgb-depth'):
        path = MULTIMAE / f'vit-b_{name}.py'
        config, weights = tmp_path / f'{name}.py', tmp_path / f'{name}.pth'
        cfg = load_config(path, options_of(path))
        cfg.dump(config)
        torch.manual_seed(0)
        torch.save(dict(state_dict=MODELS.build(cfg.model).state_dict()), weights)
        made[name] = config, weights
    return made


def test_maps_of_own_images(small_runs, tmp_path):
    """At the size that the config tests at nothing is resized; maps of others have the size of the image again."""
    config, weights = small_runs['ade20k']
    rng = np.random.default_rng(0)
    square, wide = (rng.integers(0, 256, size, np.uint8) for size in ((64, 64, 3), (40, 130, 3)))
    [same, other] = predict_maps(config, weights, [square, wide], device='cpu')
    model = MODELS.build({**load_config(config).model, 'init_cfg': None}).eval()
    load_weights(model, weights)
    clips = {'rgb': torch.from_numpy(square).permute(2, 0, 1)[None, :, None]}
    assert np.array_equal(same.pixels, model.predict(clips)[0]['classes'].numpy())
    assert (other.pixels.shape, other.pixels.dtype, other.error) == ((40, 130), np.uint8, None)
    config, weights = small_runs['depth-nyuv2']
    [depth] = predict_maps(config, weights, wide, device='cpu')
    assert (depth.pixels.shape, depth.pixels.dtype) == ((40, 130), np.float32)


def test_maps_of_photos_are_those_of_the_upright_picture(small_runs, tmp_path):
    config, weights = small_runs['ade20k']
    upright = np.random.default_rng(0).integers(0, 256, (64, 40, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned clockwise
    Image.fromarray(np.rot90(upright)).save(tmp_path / 'a.png', exif=exif)
    [of_file, of_array] = predict_maps(config, weights, [tmp_path / 'a.png', upright], device='cpu')
    np.testing.assert_array_equal(of_file.image, upright)
    np.testing.assert_array_equal(of_file.pixels, of_array.pixels)


def test_maps_take_the_interpolation_of_the_config(small_runs):
    path, weights = small_runs['depth-nyuv2']
    config = load_config(path)
    [fit, *_] = sources_of(config, 'test').transforms
    fit.interpolation = 'bicubic'
    image = np.random.default_rng(0).integers(0, 256, (1, 128, 128, 3), np.uint8)
    [predicted] = predict_maps(config, weights, image, device='cpu')
    model = MODELS.build({**config.model, 'init_cfg': None}).eval()
    load_weights(model, weights)
    clip = torch.from_numpy(resize(image, 64, 64, 'bicubic')).movedim(-1, 0)[None]
    with torch.no_grad():
        [expected] = model.task.resized_results(model.outputs({'rgb': clip}), (128, 128))
    np.testing.assert_allclose(predicted.pixels, expected['depth'].numpy(), rtol=1e-5)


def test_predict_maps_writes_maps_and_pictures(small_runs, tmp_path, capsys):
    spec = importlib.util.spec_from_file_location('predict_maps', CONFIGS.parent / 'tools' / 'predict_maps.py')
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    for image in ('a/1.png', 'a/1.webp', 'b/1.png'):
        (tmp_path / 'in' / image).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((30, 50, 3), 99, np.uint8)).save(tmp_path / 'in' / image)
    (tmp_path / 'in' / 'b.png').write_bytes(b'nothing')
    names = ['a/1.png.png', 'a/1.webp.png', 'b/1.png']
    for name, dtype in (('ade20k', np.uint8), ('depth-nyuv2', np.uint16)):
        config, weights = small_runs[name]
        out = tmp_path / name
        with pytest.raises(SystemExit, match=r'^1 of 4 files could not be read:\n.*b\.png: not an image'):
            tool.main([str(config), str(weights), str(tmp_path / 'in'), '--out-dir', str(out), '--device', 'cpu'])
        said = f'6 files in {out}: maps/a/1.png.png, pictures/a/1.png.png, maps/a/1.webp.png, '
        assert said in capsys.readouterr().out
        for folder in (out / 'maps', out / 'pictures'):
            assert sorted(str(path.relative_to(folder)) for path in folder.rglob('*.png')) == names
        pixels = np.array(Image.open(out / 'maps' / 'b' / '1.png'))
        assert (pixels.shape, pixels.dtype) == ((30, 50), dtype)


def test_maps_need_a_model_of_rgb(small_runs):
    with pytest.raises(ValueError, match='predicts no maps from RGB alone'):
        predict_maps(*small_runs['hypersim_rgb-depth'], np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(ValueError, match='predicts no maps from RGB alone'):
        predict_maps(MULTIMAE / 'vit-b_in1k.py', small_runs['ade20k'][1], np.zeros((8, 8, 3), np.uint8))


def test_maps_need_weights_and_a_size(small_runs):
    path, weights = small_runs['ade20k']
    config, image = load_config(path), np.zeros((8, 8, 3), np.uint8)
    with pytest.raises(ValueError, match='checkpoint=None: results of initial weights mean nothing'):
        predict_maps(config, None, image)
    for transforms, name in (([], 'nothing'), ([dict(type='CenterCrop', size=64)], 'CenterCrop')):
        sources_of(config, 'test').transforms = transforms
        with pytest.raises(ValueError, match=f'transforms of the test source begin with {name}'):
            predict_maps(config, weights, image)
