"""The optimizer's state in parts on two ranks: the same numbers, the same checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.runner import Runner
from programs import run_ranks
from test_resume import same
from tiny_run import PRETRAIN, build_runner, write_config, write_data

from omnimae.config import load_config
from omnimae.engine import leave_distributed, setup_distributed
from omnimae.registry import OPTIMIZERS

STEPS, SAVED = 10, 7  # in two epochs of five
MORE = f"""
train_dataloader['batch_size'] = 2
optim_wrapper['optimizer'].update(type='Halved', factor=0.5)
optim_wrapper.update(clip_grad=dict(max_norm=1.0), paramwise_cfg=dict(layer_decay=0.75, no_decay=['mask_token']))
custom_hooks = [dict(type='EMAHook', momentum=0.1)]
default_hooks['checkpoint'] = dict(by_epoch=False, interval={SAVED})
"""
FROM_WHOLE, FROM_SHARDED = (dict(resume=True, load_from=f'{name}/iter_{SAVED}.pth') for name in ('whole', 'sharded'))
RUNS = {
    'whole': {},
    'sharded': {'optim_wrapper.shard': True},
    'whole_from_sharded': FROM_SHARDED,
    'sharded_from_whole': {'optim_wrapper.shard': True, **FROM_WHOLE},
}


class NoNumberHook(Hook):
    """The loss of rank 1 is no number in step 2."""

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        model = runner.model.module
        vars(model).pop('loss', None)
        if runner.iter == 2 and get_rank() == 1:
            loss = model.loss
            model.loss = lambda *args: {key: value * torch.nan for key, value in loss(*args).items()}


def train_all(config: Path) -> None:
    """What both ranks do: every run, one after the other."""
    for name, options in RUNS.items():
        cfg = load_config(config, options)
        cfg.work_dir, cfg.experiment_name, cfg.launcher = name, name, 'pytorch'
        setup_distributed(cfg)
        torch.distributed.init_process_group = lambda *args, **kwargs: None  # once is enough
        runner = Runner.from_cfg(cfg)
        runner.register_hook(NoNumberHook())
        runner.train()
        optimizer = runner.optim_wrapper.optimizer
        state = getattr(optimizer, 'optim', optimizer).state
        numbers = sum(x.numel() for entry in state.values() for x in entry.values())
        Path(name, f'rank{get_rank()}').write_text(str(numbers))
    leave_distributed()


@OPTIMIZERS.register_module()
class Halved(torch.optim.AdamW):
    """Its rates are multiplied by an argument that is none of its defaults."""

    def __init__(self, params: Any, factor: float, **options: Any) -> None:
        super().__init__(params, **options)
        self.factor = factor

    def step(self, closure: None = None) -> None:
        rates = [group['lr'] for group in self.param_groups]
        for group in self.param_groups:
            group['lr'] *= self.factor
        super().step(closure)
        for group, rate in zip(self.param_groups, rates, strict=True):
            group['lr'] = rate


def test_two_ranks_with_and_without_shards(tmp_path: Path):
    """Layer decay, EMA, clipping, accumulation and a step that is left out; resumed by the other way in an epoch."""
    config = write_config(tmp_path / 'pretrain.py', PRETRAIN, write_data(tmp_path / 'data'), MORE)
    ranks = run_ranks(train_all, config, output=tmp_path, cwd=tmp_path)
    assert [rank.returncode for rank in ranks] == [0, 0], ranks[0].stderr[-3000:]

    def end(name: str, step: int = STEPS) -> dict[str, Any]:
        return torch.load(tmp_path / name / f'iter_{step}.pth', weights_only=True)

    whole = end('whole')
    assert 'step 3 (iteration 3)\tloss nan' in (tmp_path / 'whole' / 'skipped_steps.txt').read_text()
    for name in RUNS.keys() - {'whole'}:
        other = end(name)
        for key in ('state_dict', 'ema_state_dict', 'optimizer', 'param_schedulers'):
            assert same(whole[key], other[key]), (name, key)
        losses = [x['message_hub']['log_scalars']['train/loss'][0] for x in (whole, other)]
        torch.testing.assert_close(*losses, rtol=0, atol=0, equal_nan=True)

    # each rank has about half of what it has without shards
    sizes = {name: [int((tmp_path / name / f'rank{rank}').read_text()) for rank in (0, 1)] for name in RUNS}
    assert sizes['whole'][0] == sizes['whole'][1] == sum(sizes['sharded'])
    assert max(sizes['sharded']) < 0.6 * sum(sizes['sharded'])
    assert sizes['sharded_from_whole'] == sizes['sharded']

    # one rank goes on where two were
    options = {'resume': True, 'load_from': str(tmp_path / 'sharded' / f'iter_{SAVED}.pth')}
    one = build_runner(config, tmp_path / 'one', {'optim_wrapper.shard': True, **options})
    one.train()
    assert one.iter == STEPS
    assert len(end('one')['optimizer']['state']) == len(whole['optimizer']['state'])
