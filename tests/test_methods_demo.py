"""The small configs of the other methods: each trains on the demo's data and resumes exactly."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.hooks import Hook
from tiny_run import build_runner

from omnimae.registry import HOOKS

DEMO = Path(__file__).parents[1] / 'configs' / 'demo'


@HOOKS.register_module()
class DemoLossHook(Hook):
    """Keeps the loss of every step."""

    def before_train(self, runner) -> None:
        self.losses: dict[int, float] = {}

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        self.losses[runner.iter] = outputs['loss'].item()


@pytest.mark.parametrize(('method', 'modality', 'steps'), [('videomae_v2', 'video', 12), ('mae', 'image', 3)])
def test_trains_and_resumes_exactly(
    method: str, modality: str, steps: int, demo_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv('OMNIMAE_DATA', str(demo_root.parent))
    short = {'max_epochs': 2, 'val_interval': 2}
    options = {f'train_cfg.{key}': value for key, value in short.items()} | {
        'train_dataloader.num_workers': 0,
        'train_dataloader.persistent_workers': False,
        'default_hooks.checkpoint.interval': 1,
        'default_hooks.checkpoint.max_keep_ckpts': 2,
        'custom_hooks': [dict(type='DemoLossHook'), dict(type='ReconstructionHook', interval=2)],
    }

    def train(name: str, **more) -> dict[int, float]:
        runner = build_runner(DEMO / f'{method}.py', tmp_path / name, {**options, **more})
        runner.train()
        assert f'val/reconstruction/{modality}' in runner.message_hub.log_scalars
        return next(hook.losses for hook in runner.hooks if isinstance(hook, DemoLossHook))

    whole = train('whole')
    again = train('again', resume=True, load_from=str(tmp_path / 'whole' / 'epoch_1.pth'))
    assert len(whole) == 2 * steps  # of 32 samples, of 96 videos in four crops or 96 images
    assert again == {step: loss for step, loss in whole.items() if step >= steps}
    ends = [torch.load(tmp_path / name / 'epoch_2.pth', weights_only=True) for name in ('whole', 'again')]
    assert all(torch.equal(x, ends[1]['state_dict'][key]) for key, x in ends[0]['state_dict'].items())
    assert np.mean([*whole.values()][-3:]) < np.mean([*whole.values()][:3])
    assert list((tmp_path / 'whole' / 'reconstructions').glob('*.png'))
