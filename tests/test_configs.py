"""Every shipped config: it loads, its parts take their arguments, its arithmetic is the recipe's, and it trains."""

from __future__ import annotations

import ast
import copy
import functools
import inspect
import itertools
import json
import math
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmengine.runner import Runner
from PIL import Image
from tiny_run import write_data

from omnimae.checkpoint import export
from omnimae.config import TOP_LEVEL, load_config
from omnimae.data.datasets import MixedDataset, collate_clips
from omnimae.registry import DATA_SAMPLERS, DATASETS, HOOKS, METRICS, MODELS, TRANSFORMS
from omnimae.structures import Address, Grid

ROOT = Path(__file__).parents[1]
CONFIGS = sorted(
    (path for path in (ROOT / 'configs').rglob('*.py') if '_base_' not in path.parts),
    key=lambda path: (len(path.parts), path),  # the main ones before their ablations
)
DEMO = ROOT / 'configs' / 'demo'  # runs as it is, in the tests of the demo
PAPER = ROOT / 'configs' / 'omnimae'
# run in `test_frozen`
FROZEN = [path for name in ('linear', 'attentive', 'knn') for path in (ROOT / 'configs').glob(f'*/{name}')]
FINETUNE = [*(ROOT / 'configs').glob('*/finetune'), ROOT / 'configs' / 'baselines']  # run in `test_finetune`
DENSE = [PAPER / 'dense']  # run in `test_dense_recipes`, as are those of multimae/finetune
SMALL_ONES = ROOT / 'configs' / 'small'  # run in `test_small_configs`
CUSTOM = ROOT / 'configs' / 'custom'
OWN = sorted({*CUSTOM.glob('*.py')} - {*CUSTOM.glob('pretrain*.py')})  # run in `test_custom_finetune`
ELSEWHERE = {DEMO, SMALL_ONES, *FROZEN, *FINETUNE, *DENSE, *OWN}
RECIPES = [path for path in CONFIGS if not ELSEWHERE & {path, *path.parents}]
ABLATIONS = PAPER / 'ablations'

# The published data sets: https://image-net.org (train), and the SSv2 training list.
NUM_ROWS = dict(in1k=1_281_167, ssv2=168_913)

CROPS = ('RandomResizedCrop', 'MultiScaleCrop', 'ResizeShort', 'CenterCrop')

# What `shrink` changes to run a recipe in a test: sizes and lengths, by the type that has them, and replicas to two.
SMALL = {
    'SpatioTemporalViT': dict(arch=None, embed_dim=32, depth=2, num_heads=2, clip_size=(4, 112, 112)),
    **dict.fromkeys(('MAEHead', 'CrossMAEHead'), dict(embed_dim=32, depth=1, num_heads=2)),
    'MultiModalViT': dict(arch=None, embed_dim=32, depth=2, num_heads=2),
    'CrossAttentionHead': dict(embed_dim=32, depth=1, num_heads=2),
    'DirichletMasking': dict(num_visible=24),
    **dict.fromkeys(CROPS, dict(size=112)),
    'VideoDataset': dict(num_frames=4, clip_seconds=0.5),
    'MixedSampler': dict(repeats={}),  # all of the few files
    'MixedBatchSampler': dict(global_batch_size=16),
    'EpochTrainLoop': dict(max_epochs=1),
    'WarmupCosineLR': dict(warmup_epochs=0),
}
SMALL_LOADER = dict(batch_size=8, num_workers=0, persistent_workers=False)

_number = itertools.count()
built = set()  # models of `test_loads_and_its_model_builds`
trained = set()  # runs of `test_trains_a_step_of_each_source`


loaded = functools.cache(load_config)  # for tests that only look


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT / 'configs').with_suffix(''))


def components(value: Any):
    """Every dict with a type, at any depth."""
    if isinstance(value, dict):
        if 'type' in value:
            yield value
        value = list(value.values())
    if isinstance(value, list | tuple):
        for item in value:
            yield from components(item)


def stem_of(cfg: Config) -> Any:
    """What cuts the colours into patches: the backbone, or one of its tokenizers."""
    return cfg.model.backbone.tokenizers.rgb if 'tokenizers' in cfg.model.backbone else cfg.model.backbone


def shrink(cfg: Config) -> Config:
    cfg = copy.deepcopy(cfg)
    stem = stem_of(cfg)
    frames, side = min(stem.clip_size[0], 4), 8 * stem.patch_size[1]  # cells need it even
    backbone = dict(SMALL['SpatioTemporalViT'], clip_size=(frames, side, side))
    small = {**SMALL, 'SpatioTemporalViT': backbone, **dict.fromkeys(CROPS, dict(size=side))}
    small['PatchTokenizer'] = dict(clip_size=(frames, side, side))
    small['ClassMapTokenizer'] = dict(clip_size=(frames, side // 4, side // 4))
    changes = [(part, small.get(part['type'], {})) for part in components([cfg[key] for key in cfg])]
    for part, change in [*changes, (cfg.train_dataloader, SMALL_LOADER), (cfg.val_dataloader, SMALL_LOADER)]:
        for key, value in change.items():
            part[key] = value
        if part.get('replicas', 1) > 1:
            part['replicas'] = 2
    return cfg


@pytest.fixture(scope='module')
def data(tmp_path_factory) -> Path:
    """Make the documented folders, with a few files in each."""
    root = tmp_path_factory.mktemp('data')
    made = write_data(root / 'made', num_pictures=16, num_movies=2)
    links = {
        'pictures': ['imagenet/train', 'imagenet/val', 'custom/images'],
        'movies': [
            *('sthv2/videos', 'kinetics400/videos_train/class', 'kinetics400/videos_val/class', 'custom/videos'),
            *('kinetics710/videos_train/class', 'ava/clips', 'webvid2m/videos', 'ucf101/UCF-101'),
        ],
    }
    for source, targets in links.items():
        for target in targets:
            (root / target).parent.mkdir(parents=True, exist_ok=True)
            (root / target).symlink_to(made / source)
    for split in ('train', 'val'):
        for name, folder in ((f'sthv2/sthv2_{split}', ''), (f'ucf101/ucf101_{split}', 'UCF-101/')):
            (root / f'{name}_list_videos.txt').write_text(f'{folder}0.mp4 3\n{folder}1.mp4 7\n')
        write_maps(root / 'imagenet_multimae' / split, made / 'pictures')
    return root


def write_maps(root: Path, pictures: Path) -> None:
    """Pictures with maps of depth and classes, in MultiMAE's layout."""
    for path in pictures.rglob('*.*'):
        grey = np.asarray(Image.open(path).convert('L'))
        for name, pixels in dict(rgb=grey, depth=grey.astype(np.uint16) << 8, semseg=grey // 2).items():
            target = (root / name / path.relative_to(pictures)).with_suffix('.png')
            target.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(target)


@pytest.fixture
def data_environment(data, monkeypatch) -> None:
    monkeypatch.setenv('OMNIMAE_DATA', str(data))
    monkeypatch.setenv('OMNIMAE_IMAGES', str(data / 'custom' / 'images'))
    monkeypatch.setenv('OMNIMAE_VIDEOS', str(data / 'custom' / 'videos'))


# ---------------------------------------------------------------------------------------------------------------------
# Every file


@pytest.mark.parametrize('path', CONFIGS, ids=name_of)
def test_loads_and_its_model_builds(path):
    cfg = loaded(path)
    assert cfg.keys() <= TOP_LEVEL.keys()
    own = dict(num_classes=3) if cfg.model.get('num_classes', 0) is None else {}  # its data say how many
    model = {**cfg.model, **own}
    kind = json.dumps({**model, 'init_cfg': None}, sort_keys=True)
    if kind not in built:  # many configs have one model and differ in the weights that they start from
        with torch.device('meta'):
            assert all(parameter.is_meta for parameter in MODELS.build(model).parameters())
        built.add(kind)


# What the Runner or the parent component gives to a part when it is built.
GIVEN = {DATA_SAMPLERS: ('dataset', 'sampler', 'batch_size')}


@pytest.mark.parametrize('path', CONFIGS, ids=name_of)
def test_parts_take_their_arguments(path):
    cfg = loaded(path)
    registries = {
        'dataset': DATASETS,
        'sampler': DATA_SAMPLERS,
        'batch_sampler': DATA_SAMPLERS,
        'custom_hooks': HOOKS,
        'default_hooks': HOOKS,
        'val_evaluator': METRICS,
        'test_evaluator': METRICS,
    }
    found = [(registry, part) for key in registries for registry, part in parts_under(cfg, key, registries[key])]
    loaders = [key for key in cfg if key.endswith('_dataloader')]
    assert len(found) > 5 * len(loaders)
    for registry, part in found:
        if 'priority' in part:
            part.pop('priority')
        component = registry.get(part.pop('type'))
        given = {name: None for name in GIVEN.get(registry, ()) if name in inspect.signature(component).parameters}
        inspect.signature(component).bind(**given, **part)  # refuses what is unknown, and what is missing


def parts_under(cfg: Config, key: str, registry) -> list[tuple]:
    """All typed dicts below the key, wherever the key stands; transforms in datasets have their own registry."""
    found = []

    def walk(value: Any, registry) -> None:
        if isinstance(value, dict):
            if 'type' in value and registry is not None:
                found.append((registry, dict(value)))
            for name, item in value.items():
                walk(item, TRANSFORMS if name == 'transforms' else registry)
        elif isinstance(value, list | tuple):
            for item in value:
                walk(item, registry)

    for place in (cfg, *(cfg[loader] for loader in cfg if loader.endswith('_dataloader'))):
        if key in place:
            walk(place[key], registry)
    return found


@pytest.mark.parametrize('path', CONFIGS, ids=name_of)
def test_docstring_is_its_record(path):
    record = ast.get_docstring(ast.parse(path.read_text())) or ''
    relative = str(path.relative_to(ROOT))
    assert re.search(rf'(train\.py|dist_train\.sh|test\.py) {re.escape(relative)}', record), 'its own command'
    assert re.search(r'Expect: |[Nn]ot yet run', record), 'what it gave, or that it was not run'
    said = r'(\d+) (?:(image|clip)s )?per GPU x (\d+) GPUs(?:\s+x (\d+) accumulated)?'
    for whole in re.findall(r'global batch (\d+ = [^)]*)', record):
        loader, (batch, cuts) = loaded(path).train_dataloader, whole.split(' = ', 1)
        sizes = set()
        for per_gpu, unit, gpus, accumulated in re.findall(said, cuts):
            assert int(batch) == int(per_gpu) * int(gpus) * int(accumulated or 1)
            sizes.add((unit.replace('clip', 'video'), int(per_gpu)))
        size = loader.batch_size
        assert sizes == ({('', size)} if isinstance(size, int) else {*size.items()})
        assert int(batch) == loader.batch_sampler.global_batch_size


@pytest.mark.parametrize('path', RECIPES, ids=name_of)
def test_one_clip_size_everywhere(path):
    cfg = loaded(path)
    frames, *size = stem_of(cfg).clip_size
    for part in components([cfg.train_dataloader.dataset.to_dict(), cfg.val_dataloader.dataset.to_dict()]):
        if part['type'] == 'VideoDataset':
            assert part['num_frames'] == frames
        if part['type'] in CROPS:
            assert [part['size']] * 2 == size


@pytest.mark.parametrize(
    'cell',
    [
        'table-1a_mask-75-90',
        'table-1b_video-tube',
        'table-1c_decoder-4x384',
        'figure-5a_image-replicas-1',
        'figure-5a_video-replicas-4',
        'figure-5c_ratio-1-1',
    ],
)
def test_cells_that_are_the_base(cell):
    assert load_config(ABLATIONS / f'{cell}.py').to_dict() == loaded(ABLATIONS / 'ablation_base.py').to_dict()


# ---------------------------------------------------------------------------------------------------------------------
# Models


def hidden(cfg: Config) -> tuple[int, int]:
    """Hidden tokens of an image and of a clip."""
    grid = Grid.of(cfg.model.backbone.clip_size, cfg.model.backbone.patch_size)
    generators = {key: MODELS.build(generator) for key, generator in cfg.model.mask_generator.items()}
    return generators['image'].num_hidden(grid._replace(t=1)), generators['video'].num_hidden(grid)


# Parameters: released weights, and the release's training config; tokens: the release's generators, run on its grids.
@pytest.mark.parametrize(
    ('config', 'parameters', 'tokens'),
    [
        ('vit-b_in1k-ssv2', 94_217_856, (176, 1489)),
        ('vit-l_in1k-ssv2', 317_803_520, (176, 1489)),
        ('vit-h_in1k-ssv2', 657_655_448, (230, 1945)),
        ('vit-b_in1k-k400', 94_217_856, (176, 1489)),
        ('vit-b_in1k-ssv2_pixels', 94_217_856, (176, 1489)),
        ('vit-b_in1k-ssv2_release', 94_222_464, (147, 1411)),
        ('ablations/ablation_base', 94_217_856, (147, 1408)),
        ('ablations/table-1a_mask-90-75', 94_217_856, (176, 1176)),
        ('ablations/table-1a_mask-75-95', 94_217_856, (147, 1488)),
        ('ablations/table-1b_video-random', 94_217_856, (147, 1411)),
        ('ablations/table-1b_video-causal', 94_217_856, (147, 1411)),
        ('ablations/table-1b_video-frame', 94_217_856, (147, 1372)),
        ('ablations/table-1b_image-causal', 94_217_856, (147, 1408)),
        ('ablations/table-1c_decoder-separate', 86_236_416 + 26_390_272 + 7_981_440, (147, 1408)),
    ],
)
def test_sizes(config, parameters, tokens):
    cfg = loaded(PAPER / f'{config}.py')
    with torch.device('meta'):
        model = MODELS.build(cfg.model)
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters
    assert hidden(cfg) == tokens


# ---------------------------------------------------------------------------------------------------------------------
# Arithmetic


def batch_sampler(cfg: Config, world_size: int, rows: dict[str, int]):
    """Build the config's own samplers over sources of the given lengths."""
    loader = cfg.train_dataloader
    named = loader.dataset.sources.items()
    sources = {
        name: FakeSource(rows[name], source.get('replicas', 1), DATASETS.get(source.type).modality)
        for name, source in named
    }
    dataset = SimpleNamespace(names=tuple(sources), sources=list(sources.values()))
    sampler = DATA_SAMPLERS.build(dict(loader.sampler, dataset=dataset, seed=0))
    made = dict(loader.batch_sampler, sampler=sampler, batch_size=loader.batch_size, world_size=world_size, rank=0)
    return DATA_SAMPLERS.build(made)


class FakeSource(SimpleNamespace):
    def __init__(self, rows: int, replicas: int, modality: str):
        super().__init__(rows=rows, replicas=replicas, modality=modality)

    def __len__(self) -> int:
        return self.rows


IN1K_SSV2 = [path for path in RECIPES if PAPER in path.parents and 'k400' not in path.stem]


@pytest.mark.parametrize('path', IN1K_SSV2, ids=name_of)
@pytest.mark.parametrize(('gpus', 'accumulation'), [(1, (8, 32)), (8, (1, 4)), (64, (1, 1))])
def test_global_batch_on_any_number_of_gpus(path, gpus, accumulation):
    cfg = loaded(path)
    if gpus > 8:  # as the docstrings say
        cfg = load_config(path, {'train_dataloader.batch_size': 32})
    sampler = batch_sampler(cfg, gpus, NUM_ROWS)
    assert (sampler.global_batch_size, sampler.accumulation) == (2048, accumulation)
    assert sampler.batch_sizes == ((256, 64) if gpus <= 8 else (32, 32))


def test_batch_sizes_of_the_table_make_the_global_batch():
    """Of GPUs with 24, 48 and 80 GB, on 1 to 8 of them."""
    rows = re.findall(r'^\| (recipe|at most, \d+ GB) \|(.*)\|$', (ROOT / 'docs/recipes.md').read_text(), re.MULTILINE)
    assert len(rows) == 4
    for name, row in rows:
        for model, cell in zip('blh', row.split('|'), strict=True):
            image, video = map(int, cell.split('/'))
            path = PAPER / f'vit-{model}_in1k-ssv2.py'
            options = {'train_dataloader.batch_size.image': image, 'train_dataloader.batch_size.video': video}
            cfg = load_config(path, options)
            assert all(batch_sampler(cfg, gpus, NUM_ROWS).steps == (626, 82) for gpus in (1, 2, 4, 8))
            if name == 'recipe':
                assert loaded(path).train_dataloader.batch_size == dict(image=image, video=video)


# ceil(1281167 / 2048) = 626 steps of images; of videos int(ceil(168913 r / 2048) x repeats).
@pytest.mark.parametrize(
    ('config', 'images', 'videos'),
    [
        ('vit-b_in1k-ssv2', 626, 82),
        ('vit-l_in1k-ssv2', 626, 82),
        ('vit-h_in1k-ssv2', 626, 82),
        ('vit-b_in1k-ssv2_release', 626, 82),
        ('ablations/ablation_base', 626, 82),
    ],
)
def test_steps_per_epoch(config, images, videos):
    cfg = loaded(PAPER / f'{config}.py')
    for gpus in (1, 8):
        sampler = batch_sampler(cfg, gpus, NUM_ROWS)
        assert sampler.steps == (images, videos)
        assert len(sampler) == images + videos


@pytest.mark.parametrize(
    ('config', 'epochs', 'steps', 'lr', 'dtype'),
    [
        ('vit-b_in1k-ssv2', 1600, 1_132_800, 3e-4, 'bfloat16'),
        ('vit-b_in1k-ssv2_release', 800, 566_400, 1.6e-3, 'float16'),
        ('ablations/table-1a_mask-90-95', 800, 566_400, 3e-4, 'bfloat16'),
    ],
)
def test_recipe(config, epochs, steps, lr, dtype):
    cfg = loaded(PAPER / f'{config}.py')
    assert cfg.train_cfg.max_epochs == epochs
    assert len(batch_sampler(cfg, 8, NUM_ROWS)) * epochs == steps
    optimizer = dict(type='AdamW', lr=lr, betas=(0.9, 0.95), weight_decay=0.05, fused=True)
    assert cfg.optim_wrapper.optimizer == optimizer
    assert cfg.optim_wrapper.dtype == dtype
    assert cfg.param_scheduler.warmup_epochs == 40
    assert cfg.param_scheduler.rescale == (not config.endswith('_release'))


def test_data_root_moves_with_one_variable(monkeypatch):
    monkeypatch.setenv('OMNIMAE_DATA', '/elsewhere')
    for name in ('vit-b_in1k-ssv2', 'vit-b_in1k-k400'):
        cfg = load_config(PAPER / f'{name}.py')
        loaders = (cfg.train_dataloader, cfg.val_dataloader)
        sources = [source for loader in loaders for source in loader.dataset.sources.values()]
        paths = [source.get(key) for source in sources for key in ('root', 'ann_file') if source.get(key)]
        assert len(paths) >= 4
        assert all(path.startswith('/elsewhere/') for path in paths)


@pytest.mark.parametrize(('gpus', 'accumulation'), [(1, 8), (2, 4), (8, 1)])
@pytest.mark.parametrize('name', ['pretrain', 'pretrain_from_released'])
def test_custom_accumulation(name, gpus, accumulation):
    sampler = batch_sampler(loaded(CUSTOM / f'{name}.py'), gpus, dict(images=200, videos=9))
    assert (sampler.global_batch_size, sampler.accumulation) == (256, (accumulation, accumulation))
    assert sampler.steps == (1, 1)  # a small folder still has both


# ---------------------------------------------------------------------------------------------------------------------
# Real steps


@pytest.fixture(scope='module')
def released(tmp_path_factory) -> tuple[Path, dict[str, torch.Tensor]]:
    """A file in the released layout, and the weights of the shrunk model that it has."""
    torch.manual_seed(1)
    state_dict = MODELS.build(shrink(load_config(CUSTOM / 'pretrain.py')).model).state_dict()
    path = tmp_path_factory.mktemp('released') / 'released.torch'
    torch.save(export(state_dict), path)
    return path, state_dict


@pytest.fixture
def released_checkpoint(released, monkeypatch) -> dict[str, torch.Tensor]:
    """The weights of the file that configs begin with."""
    path, state_dict = released
    monkeypatch.setenv('OMNIMAE_CHECKPOINT', str(path))
    return state_dict


@pytest.mark.parametrize('path', RECIPES, ids=name_of)
@pytest.mark.usefixtures('data_environment', 'released_checkpoint')
def test_trains_a_step_of_each_source(path, tmp_path):
    """One step of each source, with validation, pictures, checkpoint and export behind them.

    Recipes whose shrunk runs differ in numbers alone have it once: larger models, longer schedules, other ratios.
    """
    run = re.sub(r'\d+(\.\d+)?', '0', json.dumps(shrink(loaded(path)).to_dict(), sort_keys=True))
    if run in trained:
        return
    trained.add(run)
    cfg = shrink(load_config(path))  # of the data and weights of this test
    cfg.work_dir, cfg.experiment_name = str(tmp_path / 'work'), f'{path.stem}_{next(_number)}'
    runner = Runner.from_cfg(cfg)
    runner.train()

    steps = runner.train_dataloader.batch_sampler.steps
    assert all(steps)
    assert runner.iter == sum(steps)
    scalars = {key: buffer.current() for key, buffer in runner.message_hub.log_scalars.items()}
    if cfg.model.type == 'MultiMAE':
        curves = {'val/reconstruction/image', *(f'train/{head.error}_{task}' for task, head in cfg.model.head.items())}
    else:
        kinds = ('train/mse_', 'val/reconstruction/')
        modalities = {source.modality for source in runner.train_dataloader.dataset.sources}
        curves = {kind + modality for modality in modalities for kind in kinds}
    assert all(math.isfinite(scalars[curve]) for curve in curves)
    state = runner.optim_wrapper.optimizer.state
    untouched = [name for name, value in runner.model.named_parameters() if not state[value]['exp_avg'].any()]
    assert not untouched, 'every parameter gets a gradient from images or videos'
    for pattern in ('epoch_1.pth', 'epoch_1_raw.safetensors', 'reconstructions/*.png'):
        assert list((tmp_path / 'work').glob(pattern)), pattern


def test_continues_from_released_weights_with_the_decoder(released_checkpoint):
    model = MODELS.build(shrink(load_config(CUSTOM / 'pretrain_from_released.py')).model)
    with DefaultScope.overwrite_default_scope('omnimae'):
        model.init_weights()
    assert model.state_dict().keys() == released_checkpoint.keys()
    for key, value in model.state_dict().items():
        assert torch.equal(value, released_checkpoint[key]), key


@pytest.mark.usefixtures('data_environment')
def test_documented_folders_make_batches_of_the_recipe():
    """At full size, from the folders that the docstring of the data names."""
    cfg = load_config(PAPER / 'vit-b_in1k-ssv2.py')
    train, val = (MixedDataset(sources=loader.dataset.sources) for loader in (cfg.train_dataloader, cfg.val_dataloader))
    images, videos = (collate_clips([train[Address(source, 1, seed=5)]]) for source in (0, 1))
    assert tuple(images['clips']['rgb'].shape) == (1, 3, 1, 224, 224)
    assert tuple(videos['clips']['rgb'].shape) == (4, 3, 16, 224, 224)
    assert [tuple(val[row]['clips']['rgb'].shape[3:]) for row in (0, 16)] == [(1, 224, 224), (16, 224, 224)]
