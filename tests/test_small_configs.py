"""CIFAR-10 through the commands of ImageNet: pretrain, fine-tune, probe, k-NN; here on two images of each class."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from mmengine.runner import Runner
from tiny_benchmarks import write_image

from omnimae.checkpoint import load_weights
from omnimae.config import load_config

SMALL = Path(__file__).parents[1] / 'configs' / 'small'
CLASSES = load_config(SMALL / 'cifar10_finetune.py').train_dataloader.dataset.sources.images.classes
OPTIONS = {
    'train_dataloader.num_workers': 0,
    'train_dataloader.persistent_workers': False,
    'val_dataloader.num_workers': 0,
    'train_cfg.max_epochs': 1,
    'train_cfg.val_interval': 1,
    'param_scheduler.warmup_epochs': 0,
    'custom_hooks': None,
}


@pytest.fixture(scope='module')
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data, laid out as the config's docstring says, and a folder for the runs."""
    root = tmp_path_factory.mktemp('small')
    lines = []
    for split in ('train', 'test'):
        for label, name in enumerate(CLASSES):
            for number in range(2):
                write_image(root / 'cifar10' / split / name / f'{number:04}.jpg', label, number)
                lines += [f'{name}/{number:04}.jpg {name}'] * (split == 'train')
    (root / 'cifar10' / 'train_10k.txt').write_text('\n'.join(lines) + '\n')
    return root


def run(name: str, work: Path, **options) -> Runner:
    cfg = load_config(SMALL / f'cifar10_{name}.py', {**OPTIONS, **options})
    cfg.work_dir, cfg.experiment_name = str(work / name), f'small_{name}'
    return Runner.from_cfg(cfg)


def test_pretrain_fine_tune_probe_and_knn(work, monkeypatch):
    monkeypatch.setenv('OMNIMAE_DATA', str(work))
    pretraining = run('pretrain', work)
    pretraining.train()
    assert math.isfinite(pretraining.message_hub.get_scalar('val/reconstruction/image').current())
    weights = str(work / 'pretrain' / 'epoch_1_raw.safetensors')
    for name in ('finetune', 'linear'):
        runner = run(name, work, **{'model.init_cfg.checkpoint': weights})
        runner.train()
        assert 0 <= runner.test()['accuracy/top1'] <= 100
    knn = load_config(SMALL / 'cifar10_knn.py', {'test_dataloader.num_workers': 0, 'test_evaluator.topk': (1, 4)})
    knn.test_cfg.bank_dataloader.num_workers = 0
    knn.work_dir, knn.experiment_name = str(work / 'knn'), 'small_knn'
    runner = Runner.from_cfg(knn)
    load_weights(runner.model, weights, complete=True)
    metrics = runner.test()
    assert metrics['accuracy/top4'] >= 90, json.dumps(metrics)  # ten classes of three colours: four tie at most
