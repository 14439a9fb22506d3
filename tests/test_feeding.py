"""Batches on their way to a GPU while it computes others, with its streams played on the CPU."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.registry import DefaultScope
from streams import Streams
from test_steps import GLOBAL_BATCH, RANKED, make_model, make_samples, run_step
from tiny_run import CLASSIFY, PRETRAIN, build_runner, write_config, write_data

from omnimae.engine import loops
from omnimae.engine.feeding import Feed
from omnimae.models.preprocessor import ClipPreprocessor
from omnimae.registry import HOOKS


@pytest.fixture(scope='module')
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp('data'))


@pytest.mark.parametrize('name', RANKED)
def test_a_step_is_the_same_with_copies_beside_it(name: str, monkeypatch: pytest.MonkeyPatch):
    with DefaultScope.overwrite_default_scope('omnimae'):
        cut = [(2,)] * (GLOBAL_BATCH // 2)
        plain = run_step(make_model(name), make_samples(name), cut)
        streams = Streams(monkeypatch)
        beside = run_step(make_model(name), make_samples(name), cut)
    assert plain.keys() == beside.keys()
    assert all(torch.equal(plain[key], beside[key]) for key in plain)
    assert streams.events == ['send', 'wait', 'send', 'wait', 'send', 'wait', 'send', 'wait']


@HOOKS.register_module()
class HostHook(Hook):
    """Changes a batch, and notes which batches hooks see and what a step logs."""

    def before_train(self, runner) -> None:
        self.seen, self.losses = [], []

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        data_batch[0]['clips']['rgb'] = data_batch[0]['clips']['rgb'] // 2

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        self.seen += [(batch['ids'], batch['clips']['rgb'].float().mean().item()) for batch in data_batch]
        self.losses.append(outputs['loss'].item())


@pytest.mark.parametrize('text', [PRETRAIN, CLASSIFY], ids=['pretrain', 'classify'])
def test_a_run_is_the_same_with_copies_beside_it(
    text: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def train(name: str) -> tuple:
        options = {'train_dataloader.batch_size': 2, 'custom_hooks': [dict(type='HostHook')]}
        runner = build_runner(write_config(tmp_path / 'config.py', text, data), tmp_path / name, options)
        runner.train()
        hook = next(hook for hook in runner.hooks if isinstance(hook, HostHook))
        return hook.losses, hook.seen, [*runner.model.state_dict().values()]

    plain = train('plain')
    streams = Streams(monkeypatch)
    beside = train('beside')
    assert plain[:2] == beside[:2]
    assert all(map(torch.equal, plain[2], beside[2]))
    assert streams.events.count('send') > len(plain[1])


def test_the_next_micro_batch_is_sent_before_one_is_computed_and_the_next_step_before_the_host_waits(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    events = Streams(monkeypatch).events
    options = {'train_dataloader.batch_size': 4, 'train_cfg.max_epochs': 1}
    runner = build_runner(write_config(tmp_path / 'classify.py', CLASSIFY, data), tmp_path / 'work', options)
    loss, read = runner.model.loss, loops._read
    monkeypatch.setattr(runner.model, 'loss', lambda *args: events.append('compute') or loss(*args))
    monkeypatch.setattr(loops, '_read', lambda *args: events.append('read') or read(*args))
    runner.train()  # steps of 8, 8 and 4 samples: the last one is of 2 and 2
    step = ['send', 'wait', 'send', 'compute', 'wait', 'compute']
    ahead = ['send', 'read', 'wait']
    assert events == [*step, *ahead, *step, *ahead, *step, 'read']


def test_labels_are_checked_on_the_host_and_not_on_the_device():
    preprocessor = ClipPreprocessor(num_classes=3)
    clips = dict(rgb=torch.zeros(2, 3, 1, 4, 4))
    batch = dict(clips=clips, modality='image', labels=torch.tensor([0, 3]), ids=['a', 'b'])
    with pytest.raises(ValueError, match=r"label 3 of 'b' is none of the model's 3 classes"):
        preprocessor.move(batch)
    preprocessor._device = torch.device('meta')
    there = preprocessor.move({**batch, 'labels': torch.tensor([0, 3], device='meta')})
    assert there.keys() == {'clips', 'modality', 'labels'}


def test_nothing_is_done_ahead_on_a_cpu():
    steps = iter([[dict(clips=dict(rgb=torch.ones(1)))], [dict(clips=dict(rgb=torch.zeros(1)))]])
    feed = Feed(steps, ClipPreprocessor())
    [batch] = first = next(feed)
    taken = feed.take(first)
    assert [*feed.on_device(taken)] == taken
    assert taken[0] is not batch
    assert taken[0]['clips']['rgb'] is batch['clips']['rgb']
    feed.look_ahead()
    assert len([*steps]) == 1
