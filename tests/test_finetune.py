"""The recipes of the six benchmarks: each runs on its own annotation format, and has its batch on any number of GPUs.

Their numbers are compared with the paper in `test_paper`. Recipes of other methods and benchmarks run here, too; their
numbers are tested with the methods.
"""

from __future__ import annotations

import itertools
import json
import math
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from zipfile import ZipFile

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmengine.runner import Runner
from paper_tables import IMAGES, TABLE_4, TABLE_5, VIDEOS
from test_tools import tool
from tiny_benchmarks import TINY, write_ek100_test

from omnimae.checkpoint import save_file
from omnimae.config import load_config
from omnimae.data.formats import BENCHMARKS
from omnimae.data.formats.preparation import prepare
from omnimae.registry import DATA_SAMPLERS, MODELS, OPTIM_WRAPPER_CONSTRUCTORS

FINETUNE = Path(__file__).parents[1] / 'configs' / 'omnimae' / 'finetune'
# What a test changes to run a recipe: width, depth, batch, length (of training and of clips), size. Nothing else.
SMALL = {
    'model.init_cfg': None,
    'model.backbone.embed_dim': 24,
    'model.backbone.depth': 2,
    'model.backbone.num_heads': 2,
    'model.backbone.clip_size': (4, 224, 224),
    'train_dataloader.batch_size': 4,
    'train_dataloader.batch_sampler.global_batch_size': 8,
    **{f'{split}_dataloader.num_workers': 0 for split in ('train', 'val', 'test')},
    **{f'{split}_dataloader.persistent_workers': False for split in ('train', 'val', 'test')},
    'param_scheduler.warmup_epochs': 1,
    'train_cfg.max_epochs': 2,
    'train_cfg.val_interval': 1,
    'optim_wrapper.dtype': None,
    'default_hooks.checkpoint.max_keep_ckpts': 1,
}

_number = itertools.count()


def config_of(size: str, benchmark: str) -> Config:
    return load_config(FINETUNE / f'vit-{size}_{benchmark}.py')


def source_of(cfg: Config, split: str) -> Config:
    [source] = cfg[f'{split}_dataloader'].dataset.sources.values()
    return source


@pytest.mark.parametrize(('size', 'benchmark'), {**TABLE_4, **TABLE_5})
@pytest.mark.parametrize('gpus', [1, 2, 8, 32])
def test_global_batch_on_any_number_of_gpus(size, benchmark, gpus):
    cfg = config_of(size, benchmark)
    dataset = SimpleNamespace(names=('a',), sources=[_Rows(replicas=source_of(cfg, 'train').get('replicas', 1))])
    sampler = DATA_SAMPLERS.build(dict(cfg.train_dataloader.sampler, dataset=dataset, seed=0))
    batches = DATA_SAMPLERS.build(
        dict(
            cfg.train_dataloader.batch_sampler,
            sampler=sampler,
            batch_size=cfg.train_dataloader.batch_size,
            world_size=gpus,
            rank=0,
        )
    )
    batch = {**TABLE_4, **TABLE_5}[size, benchmark][3]
    assert cfg.train_dataloader.batch_size * gpus * batches.accumulation[0] == batch
    assert len(batches) == math.ceil(100_000 * dataset.sources[0].replicas / batch)


class _Rows(SimpleNamespace):
    def __len__(self) -> int:
        return 100_000


def test_rates_of_vit_base_on_in1k():
    """BEiT's rule: the head has the peak rate, each layer below it 0.65 of the one above."""
    cfg = config_of('b', 'in1k')
    with torch.device('meta'):
        model = MODELS.build(cfg.model)
    rule = OPTIM_WRAPPER_CONSTRUCTORS.get('LayerDecayConstructor')(cfg.optim_wrapper, cfg.optim_wrapper.paramwise_cfg)
    groups = {id(p): (g['lr'], g['weight_decay']) for g in rule.param_groups(model) for p in g['params']}
    rates = {name: groups[id(parameter)] for name, parameter in model.named_parameters()}
    assert rates['head.weight'] == (4e-3, 1e-4)
    assert rates['norm.bias'] == (4e-3, 0.0)
    assert rates['backbone.blocks.11.mlp.fc1.weight'] == (4e-3 * 0.65, 1e-4)
    assert rates['backbone.blocks.0.attn.qkv.bias'] == (4e-3 * 0.65**12, 0.0)
    assert rates['backbone.patch_embed.weight'] == (4e-3 * 0.65**13, 1e-4)


@pytest.fixture(scope='module')
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every benchmark in small, in its own format, prepared as the user prepares it."""
    root = tmp_path_factory.mktemp('benchmarks')
    for name, tiny in TINY.items():
        tiny.write(root / tiny.folder)
        if name == 'ek100':
            write_ek100_test(root / tiny.folder)
        prepare(name, root / tiny.folder)
    return root


@pytest.mark.parametrize(
    ('method', 'name', 'benchmark'),
    [
        *(('omnimae', f'vit-b_{benchmark}', benchmark) for benchmark in (*IMAGES, *VIDEOS)),
        ('mae', 'vit-b_in1k', 'in1k'),
        ('videomae', 'vit-b-800e_ssv2', 'ssv2'),
        ('videomae', 'vit-b_ucf101', 'ucf101'),
        ('videomae', 'v2_vit-g_k710', 'k710'),
        ('videomae', 'v2_vit-g-k710_hmdb51', 'hmdb51'),
        ('mae_st', 'vit-b_k400', 'k400'),
    ],
)
def test_trains_validates_and_tests(method, name, benchmark, data, tmp_path, monkeypatch):
    """Two epochs of the recipe on eight samples, then the test of what was exported."""
    monkeypatch.setenv('OMNIMAE_DATA', str(data))
    classes = len(TINY[benchmark].classes)
    options = {**SMALL, 'model.num_classes': classes}
    if method == 'mae':
        options['model.backbone.clip_size'] = (1, 224, 224)
    if BENCHMARKS[benchmark].modality == 'video':
        options |= {f'{split}_dataloader.dataset.sources.videos.num_frames': 4 for split in ('train', 'val', 'test')}
    for part in ('val_evaluator', 'test_evaluator'):
        options[f'{part}.topk'] = (1, 2)
    options['test_evaluator.out_file'] = str(tmp_path / 'scores.npz')
    cfg = load_config(FINETUNE.parents[1] / method / 'finetune' / f'{name}.py', options)
    halve_sizes(cfg._cfg_dict)
    cfg.model.backbone.clip_size = (cfg.model.backbone.clip_size[0], 112, 112)
    cfg.work_dir, cfg.experiment_name = str(tmp_path / 'work'), f'{name}_{next(_number)}'
    runner = Runner.from_cfg(cfg)
    runner.train()
    replicas = source_of(cfg, 'train').get('replicas', 1)
    assert runner.iter == 2 * replicas  # steps of 8 samples, replicas counted
    scalars = {key: buffer.current() for key, buffer in runner.message_hub.log_scalars.items()}
    assert math.isfinite(scalars['train/loss'])
    assert 0 <= scalars['val/accuracy/top1'] <= 100
    kinds = ['ema', 'raw'] if method == 'omnimae' and benchmark in IMAGES else ['raw']
    exported = [path.name for path in Path(cfg.work_dir).glob('*.safetensors')]
    assert sorted(name for name in exported if not name.startswith('best')) == [
        f'epoch_2_{kind}.safetensors' for kind in kinds
    ]
    best = [name for name in exported if name.startswith('best')]
    keeps_best = benchmark in IMAGES  # Table 4, and MAE's release
    assert [re.sub(r'epoch_[12]', 'epoch_N', name) for name in best] == (
        [f'best_accuracy_top1_epoch_N_{kinds[0]}.safetensors'] if keeps_best else []
    )

    metrics = runner.test()
    with np.load(tmp_path / 'scores.npz') as file:
        assert file['scores'].shape == (8, classes)
        assert len(set(file['ids'].tolist())) == 8
    if benchmark == 'ek100':
        parts = ('verb_top1', 'noun_top1', 'unseen_action_top1', 'tail_verb_top1', 'tail_noun_top1', 'tail_action_top1')
        assert {f'accuracy/{part}' for part in parts} <= metrics.keys(), json.dumps(metrics)
        submits(cfg, data / 'epic100', tmp_path)


def halve_sizes(value: Any) -> None:
    """Of everything that resizes to 224 pixels, or to 256 before it crops."""
    if isinstance(value, dict):
        if value.get('size') in (224, 256):
            value['size'] = {224: 112, 256: 128}[value['size']]
        value = list(value.values())
    if isinstance(value, list | tuple):
        for item in value:
            halve_sizes(item)


def submits(cfg: Config, root: Path, folder: Path) -> None:
    """From the test set without labels to the challenge's file."""
    [source] = cfg.test_dataloader.dataset.sources.values()
    source.ann_file = str(root / 'epic100_test_list_videos.txt')
    cfg.test_evaluator.out_file, cfg.work_dir = str(folder / 'test.npz'), str(folder / 'test')
    cfg.experiment_name += '_test'
    assert Runner.from_cfg(cfg).test() == {}
    words = [folder / 'test.npz', '--actions', root / 'actions.csv', '--submission', folder / 'submission.zip']
    tool('score').main([str(word) for word in words])
    with ZipFile(folder / 'submission.zip') as archive:
        results = json.loads(archive.read('test.json'))['results']
    assert [*results] == ['P03_101_0', 'P03_101_1']
    assert [{*result['action']} for result in results.values()] == [{'0,1', '1,2', '2,0', '2,2'}] * 2


def test_the_head_begins_with_the_rows_of_its_classes(data, tmp_path, monkeypatch):
    """From a classifier of K710 to one of K400, by the names that the prepared data have."""
    monkeypatch.setenv('OMNIMAE_DATA', str(data))
    options = {key: value for key, value in SMALL.items() if key.startswith('model.backbone')} | {
        'model.num_classes': 3,
        **{f'{split}_dataloader.dataset.sources.videos.num_frames': 4 for split in ('train', 'val', 'test')},
    }
    folder = FINETUNE.parents[1] / 'videomae' / 'finetune'
    large = MODELS.build(load_config(folder / 'v2_vit-g_k710.py', {**options, 'model.init_cfg': None}).model)
    torch.nn.init.normal_(large.head.weight)
    save_file(large.state_dict(), tmp_path / 'k710.safetensors', {})
    monkeypatch.setenv('OMNIMAE_CHECKPOINT', str(tmp_path / 'k710.safetensors'))
    (data / 'kinetics710' / 'k710_identical_label_merge.json').write_text('{"air drumming": "drumming in the air"}')
    model = MODELS.build(load_config(folder / 'v2_vit-g-k710_k400.py', options).model)
    with DefaultScope.overwrite_default_scope('omnimae'):
        model.init_weights()
    # abseiling, air drumming, zumba of K400 among zumba, abseiling, drumming in the air of K710
    assert torch.equal(model.head.weight, large.head.weight[[1, 2, 0]])


BASELINES = Path(__file__).parents[1] / 'configs' / 'baselines'


@pytest.mark.parametrize('benchmark', [*IMAGES, *VIDEOS])
@pytest.mark.parametrize('size', 'bl')
@pytest.mark.parametrize('method', ['mae', 'videomae'])
def test_baselines_differ_in_their_start_alone(method, size, benchmark):
    cfg = load_config(BASELINES / method / f'vit-{size}_{benchmark}.py').to_dict()
    ours = config_of(size, benchmark).to_dict()
    start, omnimae = cfg['model'].pop('init_cfg'), ours['model'].pop('init_cfg')
    assert cfg == ours
    assert start['checkpoint'] != omnimae['checkpoint']
    assert f'/{method}' in start['checkpoint']
