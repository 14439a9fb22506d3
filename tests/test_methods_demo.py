"""The small configs of the other methods: each trains on the demo's data and resumes exactly."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_run import build_runner, losses_of

DEMO = Path(__file__).parents[1] / 'configs' / 'demo'


@pytest.fixture
def options(quarter_root: Path, monkeypatch: pytest.MonkeyPatch) -> dict:
    """Two epochs with a checkpoint of each, in as many steps as the demo has, on a quarter of its data."""
    monkeypatch.setenv('OMNIMAE_DATA', str(quarter_root.parent))
    return {
        'train_cfg.max_epochs': 2,
        'train_cfg.val_interval': 2,
        'train_dataloader.batch_size': 8,
        'train_dataloader.batch_sampler.global_batch_size': 8,
        'train_dataloader.num_workers': 0,
        'train_dataloader.persistent_workers': False,
        'default_hooks.checkpoint.interval': 1,
        'default_hooks.checkpoint.max_keep_ckpts': 2,
    }


def assert_same_end(folder: Path) -> None:
    """The weights of ``again``, which was resumed, are those of ``whole``."""
    ends = [torch.load(folder / name / 'epoch_2.pth', weights_only=True) for name in ('whole', 'again')]
    assert all(torch.equal(x, ends[1]['state_dict'][key]) for key, x in ends[0]['state_dict'].items())


@pytest.mark.parametrize(
    ('method', 'modality', 'steps'),
    [
        *(('videomae', 'video', 3), ('videomae_v2', 'video', 12), ('mae', 'image', 3)),
        *(('mae_st', 'video', 6), ('multimae', 'image', 3), ('multimae_video', 'video', 3)),
    ],
)
def test_trains_and_resumes_exactly(method: str, modality: str, steps: int, options: dict, tmp_path: Path):
    options['custom_hooks'] = [dict(type='LossesHook'), dict(type='ReconstructionHook', interval=2)]

    def train(name: str, **more) -> dict[int, float]:
        runner = build_runner(DEMO / f'{method}.py', tmp_path / name, {**options, **more})
        runner.train()
        assert f'val/reconstruction/{modality}' in runner.message_hub.log_scalars
        return losses_of(runner)

    whole = train('whole')
    again = train('again', resume=True, load_from=str(tmp_path / 'whole' / 'epoch_1.pth'))
    assert len(whole) == 2 * steps  # of 8 samples, of 24 videos in one, two or four crops or 24 images
    assert again == {step: loss for step, loss in whole.items() if step >= steps}
    assert_same_end(tmp_path)
    assert np.mean([*whole.values()][-3:]) < np.mean([*whole.values()][:3])
    assert list((tmp_path / 'whole' / 'reconstructions').glob('*.png'))


@pytest.mark.parametrize(('method', 'steps'), [('videomae', 6), ('mae', 3)])
def test_fine_tunes_what_it_pretrained_and_resumes_exactly(method: str, steps: int, options: dict, tmp_path: Path):
    def runner(config: str, name: str, **more):
        hooks = {'custom_hooks': [dict(type='LossesHook')]}
        return build_runner(DEMO / f'{config}.py', tmp_path / name, {**options, **hooks, **more})

    pretraining = runner(method, 'pretraining', **{'train_cfg.max_epochs': 1, 'param_scheduler.warmup_epochs': 0})
    pretraining.train()
    weights = {'model.init_cfg.checkpoint': str(tmp_path / 'pretraining' / 'epoch_1_raw.safetensors')}
    losses = {}
    for name, more in (('whole', {}), ('again', dict(resume=True, load_from=str(tmp_path / 'whole' / 'epoch_1.pth')))):
        tuning = runner(f'{method}_finetune', name, **weights, **more)
        tuning.train()
        losses[name] = losses_of(tuning)
        assert 0 <= tuning.message_hub.log_scalars['val/accuracy/top1'].current() <= 100
    assert len(losses['whole']) == 2 * steps
    assert losses['again'] == {step: loss for step, loss in losses['whole'].items() if step >= steps}
    assert_same_end(tmp_path)
    log = next((tmp_path / 'whole').rglob('*.log')).read_text()
    assert 'freshly initialised 4 tensors (norm 2, head 2)' in log
