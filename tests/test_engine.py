"""Schedule, parameter groups, precision, accumulation, hooks and the safe reading of checkpoints."""

from __future__ import annotations

import contextlib
import copy
import functools
import gc
import itertools
import json
import logging
import math
import multiprocessing
import pickle
import re
import time
import weakref
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.logging import HistoryBuffer, MessageHub
from mmengine.model import BaseModel
from mmengine.optim import OptimWrapper
from mmengine.registry import LOG_PROCESSORS
from mmengine.runner import CheckpointLoader, Runner
from safetensors import safe_open
from safetensors.torch import save_file
from streams import Streams
from tiny_run import CLASSIFY, PRETRAIN, RECONSTRUCTED, build_runner, hook_of, write_config, write_data
from torch import Tensor, nn

from omnimae import registry
from omnimae.checkpoint import load_file, load_weights
from omnimae.config import load_config
from omnimae.engine.hooks import BrokenFileHook, EMAHook, StepSeedHook
from omnimae.engine.labels import HeadSizeHook, LabelHook
from omnimae.engine.optim import LARS, AutocastOptimWrapper, LayerDecayConstructor, WarmupCosineLR, warmup_cosine
from omnimae.engine.saving import PlainCheckpointHook
from omnimae.evaluation import ClipAccuracy, SegmentationScore, load_scores
from omnimae.models.classifier import Classifier
from omnimae.registry import HOOKS, METRICS, MODELS, TRANSFORMS

RUNTIME = Path(__file__).parents[1] / 'configs/_base_/default_runtime.py'
_number = itertools.count()


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope='module')
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp('data'))


# ---------------------------------------------------------------------------------------------------------------------
# Learning rate


@pytest.mark.parametrize(
    ('where', 'lr'), [(0, 1e-6), (0.025, 8.005e-4), (0.05, 1.59015e-3), (0.1, 1.56085e-3), (0.5, 8e-4), (0.9, 3.915e-5)]
)
def test_pretraining_schedule_has_the_rates_of_the_release(where: float, lr: float):
    actual = warmup_cosine(where, peak=1.6e-3, warmup=0.05, start_lr=1e-6, end_lr=0.0, rescale=False)
    assert actual == pytest.approx(lr, rel=2e-4)


def test_a_rescaled_cosine_starts_at_the_peak_and_ends_at_the_floor():
    def lr(where: float) -> float:
        return warmup_cosine(where, peak=1e-3, warmup=0.125, start_lr=1e-6, end_lr=1e-6, rescale=True)

    assert lr(0.125) == pytest.approx(1e-3)
    assert lr(0.5625) == pytest.approx((1e-3 + 1e-6) / 2)  # half way between warm-up and end
    assert lr(1.0) == pytest.approx(1e-6)


def make_schedule(num_steps: int, groups: list[dict], **kwargs) -> tuple[OptimWrapper, WarmupCosineLR]:
    hub = MessageHub.get_instance(f'schedule{next(_number)}')
    hub.update_info('max_iters', num_steps)
    optim_wrapper = OptimWrapper(torch.optim.SGD(groups, lr=1.6e-3))
    return optim_wrapper, WarmupCosineLR(optim_wrapper, **kwargs)


def test_the_rate_is_set_before_each_step_and_scales_every_group_alike():
    groups = [dict(params=[nn.Parameter(torch.zeros(1))], lr=1.6e-3 * scale) for scale in (0.5, 0.25)]
    optim_wrapper, scheduler = make_schedule(40, groups, warmup_epochs=0.5, end=10, rescale=False)
    seen = []
    for _ in range(40):
        seen.append([group['lr'] for group in optim_wrapper.optimizer.param_groups])
        optim_wrapper.step()
        scheduler.step()
    expected = [warmup_cosine(step / 40, 1.6e-3, 0.05, 1e-6, 0.0, False) for step in range(40)]
    np.testing.assert_allclose(seen, np.outer(expected, (0.5, 0.25)), rtol=1e-12)


@pytest.mark.parametrize(('steps', 'warmup', 'epochs'), [(4, 2, 10), (7, 1, 3), (1, 1, 4), (5, 0, 2)])
def test_the_warm_up_of_videomae_and_multimae_ends_with_the_peak(steps: int, warmup: int, epochs: int):
    """Their cosine_scheduler in numbers: linspace from 0 to the peak, then a cosine from the peak on."""
    groups = [dict(params=[nn.Parameter(torch.zeros(1))])]
    total, first = steps * epochs, steps * warmup
    optim_wrapper, scheduler = make_schedule(
        total, groups, warmup_epochs=warmup, end=epochs, start_lr=0.0, end_lr=1e-5, peak_in_warmup=True
    )
    seen = []
    for _ in range(total):
        seen.append(optim_wrapper.optimizer.param_groups[0]['lr'])
        optim_wrapper.step()
        scheduler.step()
    cosine = np.cos(np.pi * np.arange(total - first) / (total - first))
    expected = [*np.linspace(0, 1.6e-3, first), *(1e-5 + 0.5 * (1.6e-3 - 1e-5) * (1 + cosine))]
    np.testing.assert_allclose(seen, expected, rtol=1e-9)


def test_a_schedule_takes_up_its_place_and_follows_the_config_it_is_resumed_with():
    parameter = nn.Parameter(torch.zeros(1))
    optim_wrapper, first = make_schedule(40, [dict(params=[parameter])], warmup_epochs=1, end=10)
    for _ in range(7):
        optim_wrapper.step()
        first.step()
    optim_wrapper, second = make_schedule(40, [dict(params=[parameter])], warmup_epochs=1, end=10, end_lr=1e-4)
    second.load_state_dict(first.state_dict())
    assert optim_wrapper.optimizer.param_groups[0]['lr'] == warmup_cosine(7 / 40, 1.6e-3, 0.1, 1e-6, 1e-4, True)


def test_a_schedule_that_has_ended_goes_on_in_a_longer_run():
    parameter = nn.Parameter(torch.zeros(1))
    optim_wrapper, first = make_schedule(40, [dict(params=[parameter])], warmup_epochs=1, end=10)
    for _ in range(40):
        optim_wrapper.step()
        first.step()
    optim_wrapper, second = make_schedule(80, [dict(params=[parameter])], warmup_epochs=1, end=20)
    second.load_state_dict(first.state_dict())
    for step in (40, 41):
        rate = warmup_cosine(step / 80, 1.6e-3, 0.05, 1e-6, 0, True)
        np.testing.assert_allclose(optim_wrapper.optimizer.param_groups[0]['lr'], rate, rtol=1e-12)
        second.step()


@pytest.mark.parametrize('micro_batch', [4, 2])
def test_a_whole_run_has_the_rates_of_the_formula_at_100_steps(data: Path, tmp_path: Path, micro_batch: int):
    """What the optimizer steps with, each step in one piece or in two: 20 epochs of 5 steps, 2 of warm-up."""
    peak, floor, decay = 4e-3, 1e-6, 0.65
    more = """
train_cfg['max_epochs'] = 20
train_dataloader['batch_sampler']['global_batch_size'] = 4
optim_wrapper['optimizer']['lr'] = 4e-3
optim_wrapper['paramwise_cfg'] = dict(layer_decay=0.65, rule='paper')
param_scheduler = dict(type='WarmupCosineLR', warmup_epochs=2, start_lr=1e-6, end_lr=1e-6)
default_hooks = dict(logger=dict(interval=100), checkpoint=dict(interval=20))
"""
    config = write_config(tmp_path / 'classify.py', CLASSIFY, data, more)
    runner = build_runner(config, tmp_path / 'work', {'train_dataloader.batch_size': micro_batch})
    seen = []
    runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
    optimizer = runner.optim_wrapper.optimizer
    optimizer.register_step_pre_hook(lambda *_: seen.append([group['lr'] for group in optimizer.param_groups]))
    runner.train()

    expected = [floor + (peak - floor) * step / 10 for step in range(10)]
    expected += [floor + (peak - floor) * (1 + math.cos(math.pi * step / 90)) / 2 for step in range(90)]
    scales = sorted({decay**exponent for exponent in (3, 2, 1, 0)})  # patch embedding, two blocks, norm and head
    np.testing.assert_allclose([sorted(set(rates)) for rates in seen], np.outer(expected, scales), rtol=1e-12)


def test_a_warmup_as_long_as_the_training_is_refused():
    with pytest.raises(ValueError, match='warmup_epochs is 40, the training has 2 epochs'):
        make_schedule(10, [dict(params=[nn.Parameter(torch.zeros(1))])], warmup_epochs=40, end=2)


# ---------------------------------------------------------------------------------------------------------------------
# Parameter groups


def constructor(**paramwise) -> LayerDecayConstructor:
    wrapper = dict(type='AutocastOptimWrapper', optimizer=dict(type='AdamW', lr=1e-3, weight_decay=0.05))
    return LayerDecayConstructor(wrapper, paramwise)


def groups_by_name(model: nn.Module, constructor: LayerDecayConstructor) -> dict[str, dict]:
    names = {parameter: name for name, parameter in model.named_parameters()}
    groups = constructor.param_groups(model)
    found = {names[parameter]: group for group in groups for parameter in group['params']}
    assert len(found) == sum(len(group['params']) for group in groups) == len(names)  # each parameter once
    return found


@pytest.mark.parametrize(('rule', 'less'), [('release', 0), ('paper', 1)])
@pytest.mark.parametrize(
    ('lr', 'decay', 'weight_decay'), [(4e-3, 0.65, 1e-4), (1e-3, 0.75, 0.05)], ids=['in1k', 'ssv2']
)
def test_every_rate_and_decay_of_vit_b_to_the_last_digit(rule, less, lr, decay, weight_decay):
    """The release: stem d^14, block k d^(13 - k), norm and head d; the paper one factor less everywhere."""
    with torch.device('meta'):
        model = MODELS.build(
            dict(type='Classifier', backbone=dict(type='SpatioTemporalViT', arch='base'), num_classes=1000)
        )
    exponents = {f'backbone.patch_embed.{part}': 14 for part in ('weight', 'bias')}
    for block in range(12):
        for layer in ('norm1', 'norm2', 'attn.qkv', 'attn.proj', 'mlp.fc1', 'mlp.fc2'):
            for part in ('weight', 'bias'):
                exponents[f'backbone.blocks.{block}.{layer}.{part}'] = 13 - block
    exponents |= {f'{layer}.{part}': 1 for layer in ('norm', 'head') for part in ('weight', 'bias')}
    assert len(exponents) == 150
    wrapper = dict(type='AutocastOptimWrapper', optimizer=dict(type='AdamW', lr=lr, weight_decay=weight_decay))
    groups = groups_by_name(model, LayerDecayConstructor(wrapper, dict(layer_decay=decay, rule=rule)))
    for name, exponent in exponents.items():
        exact = Decimal(str(lr)) * Decimal(str(decay)) ** (exponent - less)
        assert groups[name]['lr'] == pytest.approx(float(exact), rel=1e-15, abs=0), name
        decayed = name.endswith('weight') and 'norm' not in name
        assert groups[name]['weight_decay'] == (weight_decay if decayed else 0), name
    assert groups['head.weight']['lr'] == pytest.approx({0: lr * decay, 1: lr}[less], rel=1e-15)


def test_pretraining_has_two_groups_and_decays_the_mask_token_but_no_bias_and_no_norm():
    with torch.device('meta'):
        model = MODELS.build(
            dict(
                type='MaskedAutoencoder',
                backbone=dict(type='SpatioTemporalViT', arch='small'),
                head=dict(type='MAEHead', embed_dim=64, depth=2, num_heads=4),
                mask_generator=dict(video=dict(type='RandomMasking', ratio=0.9)),
            )
        )
    groups = groups_by_name(model, constructor())
    assert len(constructor().param_groups(model)) == 2
    assert {group['lr'] for group in groups.values()} == {1e-3}
    decayed = {name for name, group in groups.items() if group['weight_decay'] == 0.05}
    assert decayed == {name for name in groups if not name.endswith('bias') and 'norm' not in name}
    assert 'head.mask_token' in decayed


@pytest.mark.parametrize(
    ('paramwise', 'message'),
    [
        (dict(layer_dekay=0.5), r"unknown keys \['layer_dekay'\]"),
        (dict(rule='mae'), "rule is 'mae'. Choose 'release' or 'paper'"),
        (dict(layer_decay=1.5), r'layer_decay is 1\.5\. Choose None or a factor in \(0, 1\]'),
        (dict(no_decay='mask_token'), "no_decay is 'mask_token'. Give a list of names"),
    ],
)
def test_wrong_paramwise_cfg_is_refused(paramwise: dict, message: str):
    with pytest.raises(ValueError, match=message):
        constructor(**paramwise)


def test_no_decay_spares_what_it_names_in_every_decoder_and_nothing_that_ends_alike():
    decoder = dict(type='MAEHead', embed_dim=64, depth=1, num_heads=4)
    with torch.device('meta'):
        model = MODELS.build(
            dict(
                type='MaskedAutoencoder',
                backbone=dict(type='SpatioTemporalViT', arch='small', cls_token=True, positions='learned'),
                head=dict(image=decoder, video=decoder),
                mask_generator={name: dict(type='RandomMasking', ratio=0.9) for name in ('image', 'video')},
            )
        )
    plain, spared = (
        {name for name, group in groups_by_name(model, rule).items() if not group['weight_decay']}
        for rule in (constructor(), constructor(no_decay=['mask_token', 'backbone.cls_token']))
    )
    assert spared - plain == {'backbone.cls_token', 'head.image.mask_token', 'head.video.mask_token'}
    with pytest.raises(ValueError, match=r"no_decay has 'mask_tokens', .* Did you mean 'mask_token'\?"):
        constructor(no_decay=['mask_tokens']).param_groups(model)
    with pytest.raises(ValueError, match=r"no_decay has 'embed_cls', and no parameter of the MaskedAutoencoder"):
        constructor(no_decay=['embed_cls']).param_groups(model)


def test_what_has_one_dimension_is_not_decayed():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.PReLU(4), nn.LayerNorm((4, 5)))
    groups = groups_by_name(model, constructor())
    assert [name for name, group in groups.items() if group['weight_decay']] == ['0.weight']


@pytest.mark.parametrize(
    ('optimizer', 'expected'),
    [
        (dict(type='AdamW', lr=1.0), (1.0, 0.01)),
        (dict(type='AdamW'), (1e-3, 0.01)),
        (dict(type='Adam', lr=1.0), (1.0, 0.0)),
        (dict(type='SGD', lr=1.0, weight_decay=0.3), (1.0, 0.3)),
        (dict(type='LARS', lr=1.0), (1.0, 0.0)),
        (dict(type='Rprop', lr=1.0), (1.0, 0.0)),  # has none at all
    ],
)
def test_what_the_config_leaves_out_is_the_optimizer_s_own_default(optimizer: dict, expected: tuple):
    wrapper = LayerDecayConstructor(dict(type='AutocastOptimWrapper', optimizer=optimizer), {})(nn.Linear(3, 2))
    weight, bias = wrapper.optimizer.param_groups
    assert (weight['lr'], weight['weight_decay']) == expected
    assert (bias['lr'], bias['weight_decay']) == (expected[0], 0.0)


# ---------------------------------------------------------------------------------------------------------------------
# Precision


def test_bfloat16_computes_in_bfloat16_on_cpu_and_keeps_weights_in_float32():
    model = nn.Linear(4, 2)
    wrapper = AutocastOptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1), dtype='bfloat16')
    before = model.weight.clone()
    with wrapper.optim_context(model):
        output = model(torch.ones(3, 4))
    wrapper.update_params(output.float().mean())
    assert output.dtype == torch.bfloat16
    assert model.weight.dtype == torch.float32
    assert not torch.equal(model.weight, before)


def test_gradients_are_exchanged_for_the_last_micro_batch_of_a_step_alone():
    held_back = []

    class Exchanging(nn.Linear):
        @contextlib.contextmanager
        def no_sync(self):
            held_back.append(wrapper.inner_count)
            yield

    model = Exchanging(2, 1)
    wrapper = AutocastOptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1))
    wrapper._accumulative_counts = 3
    for _ in range(6):
        with wrapper.optim_context(model):
            loss = model(torch.ones(1, 2)).sum()
        wrapper.update_params(loss)
    assert held_back == [0, 1, 3, 4]


def test_float16_scales_the_loss_skips_an_overflow_and_remembers_its_scale():
    model = nn.Linear(4, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    wrapper = AutocastOptimWrapper(optimizer, dtype='float16', clip_grad=dict(max_norm=1))
    before = model.weight.clone()
    scale = wrapper.scaler.get_scale()
    wrapper.update_params(model(torch.ones(3, 4)).mean() * 1e37)  # infinite when it is scaled
    assert torch.equal(model.weight, before)
    assert wrapper.scaler.get_scale() == scale / 2
    other = AutocastOptimWrapper(torch.optim.SGD(nn.Linear(4, 2).parameters(), lr=0.1), dtype='float16')
    other.load_state_dict(wrapper.state_dict())
    assert other.scaler.get_scale() == scale / 2
    full = AutocastOptimWrapper(torch.optim.SGD(nn.Linear(4, 2).parameters(), lr=0.1))
    full.load_state_dict(wrapper.state_dict())  # another precision: the scale is left
    assert full.scaler.state_dict() == {}


OPTIMIZERS = {
    'fused AdamW': functools.partial(torch.optim.AdamW, lr=0.1, fused=True),
    'AdamW': functools.partial(torch.optim.AdamW, lr=0.1),
    'fused SGD': functools.partial(torch.optim.SGD, lr=0.1, momentum=0.9, fused=True),
    'LARS': functools.partial(LARS, lr=0.1),
}


@pytest.mark.parametrize('name', OPTIMIZERS)
@pytest.mark.parametrize('dtype', [None, 'float16'])
@pytest.mark.parametrize('clip', [dict(max_norm=1.0), dict(type='value', clip_value=0.1)], ids=['norm', 'value'])
def test_a_step_that_is_left_out_leaves_no_trace(name: str, dtype: str | None, clip: dict):
    def train(faults: list[str]) -> tuple[list[Tensor], dict, list[bool]]:
        torch.manual_seed(0)
        model, skipped = nn.Linear(40, 20), []
        wrapper = AutocastOptimWrapper(OPTIMIZERS[name](model.parameters()), dtype, clip_grad=dict(clip))
        for fault in faults:
            loss = model(torch.ones(3, 40)).square().mean()
            if fault == 'loss':
                loss = loss + torch.inf  # the gradient is finite
            if fault == 'gradient':
                loss = loss + (model.weight - model.weight.detach()).sqrt().sum()  # adds 0, and is infinite
            wrapper.update_params(loss)
            skipped.append(bool(wrapper.skipped))
        return [*model.parameters()], wrapper.state_dict()['scaler'], skipped

    weights, scaler, skipped = train(['', ''])
    assert skipped == [False, False]
    for fault in ('loss', 'gradient'):
        for faults in ([fault, '', ''], ['', fault, '']):
            ours, ours_scaler, skipped = train(faults)
            assert all(map(torch.equal, ours, weights)), faults
            # in float16 a gradient is expected to overflow now and then
            assert skipped == [x == 'loss' or (x == 'gradient' and dtype is None) for x in faults]
            if dtype and fault == 'gradient':
                steps_since = 2 - faults.index(fault)
                assert ours_scaler == {**scaler, 'scale': scaler['scale'] / 2, '_growth_tracker': steps_since}
            else:
                assert ours_scaler == scaler


def test_norm_of_the_gradient_and_scale_of_the_loss_are_logged(data: Path, tmp_path: Path):
    options = {'optim_wrapper.dtype': 'float16', 'optim_wrapper.clip_grad': dict(max_norm=1e-3)}
    runner = build_runner(write_config(tmp_path / 'classify.py', CLASSIFY, data), tmp_path / 'work', options)
    runner.train()
    norms, scales = (runner.message_hub.get_scalar(f'train/{key}').data[0] for key in ('grad_norm', 'loss_scale'))
    assert (len(norms), len(scales)) == (6, 6)  # optimizer steps
    assert all(norms > 1e-3)  # as it was before
    assert all(scales == 2**16)


def test_unknown_dtype_is_refused():
    with pytest.raises(ValueError, match="dtype is 'fp16'. Choose None, 'bfloat16' or 'float16'"):
        AutocastOptimWrapper(torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=0.1), dtype='fp16')


# ---------------------------------------------------------------------------------------------------------------------
# Loop


class CountHook(Hook):
    """Counts more than bfloat16 can, and keeps what it is told."""

    def count_step(self, runner: Runner, data_batch: list, counts: dict) -> None:
        counts['pixels'] = 300_001

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: list, outputs: dict) -> None:
        self.counted, self.outputs = runner.train_loop.counts['pixels'], outputs


class PlainPreprocessor(nn.Module):
    """What MMEngine accepts as a preprocessor, and no more."""

    def forward(self, data: dict, training: bool = False) -> dict:
        return dict(clip=data['clips']['rgb'])


class PlainModel(BaseModel):
    """Its loss is in bfloat16, as under autocast."""

    def __init__(self) -> None:
        super().__init__(PlainPreprocessor())
        self.bias = nn.Parameter(torch.ones(()))

    def forward(self, clip: Tensor, mode: str) -> dict[str, Tensor]:
        return dict(loss=(clip.float().mean() / 255 - self.bias).abs().bfloat16())


class PlainWrapper(OptimWrapper):
    """Knows on the host that no step is left out, and says nothing else."""

    skipped = False

    def begin_step(self, weights: list) -> None:
        pass


def test_model_preprocessor_and_wrapper_may_be_anybodys(data: Path, tmp_path: Path):
    runner = build_runner(write_config(tmp_path / 'classify.py', CLASSIFY, data), tmp_path / 'work')
    runner.model, hook = PlainModel(), CountHook()
    runner.optim_wrapper = PlainWrapper(torch.optim.SGD(runner.model.parameters(), lr=0.1))
    runner.register_hook(hook)
    runner.train()
    assert hook.counted == 300_001
    assert hook.outputs['loss'].dtype == torch.float32
    assert hook.outputs.keys() == {'loss'}
    assert runner.model.bias < 1


def test_accumulated_micro_batches_make_the_big_batch(data: Path, tmp_path: Path):
    """Parameters after two epochs are those of the batch in one piece, and logs are means over the step.

    20 pictures are steps of 12 and 8: of 12 and 8, of 4, 4, 4 and 3, 3, 2, and of twelve times one and eight times one.
    """
    config = write_config(tmp_path / 'classify.py', CLASSIFY, data)
    # AdamW would divide the noise in gradients that are zero, those of the keys' biases, by itself
    options = {
        'optim_wrapper.optimizer': dict(type='SGD', lr=0.1),
        'train_dataloader.batch_sampler.global_batch_size': 12,
    }
    runners = [
        build_runner(config, tmp_path / str(size), {**options, 'train_dataloader.batch_size': size})
        for size in (12, 4, 1)
    ]
    whole, *cut = [runner.train() for runner in runners]
    for model in cut:
        for one, other in zip(whole.parameters(), model.parameters(), strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=1e-6)
    curves = [[runner.message_hub.get_scalar(f'train/{key}').data[0] for key in ('loss', 'top1')] for runner in runners]
    assert len(curves[0][0]) == 4  # optimizer steps
    for curve in curves[1:]:
        np.testing.assert_allclose(curve, curves[0], rtol=1e-5)


def normalised_head(runner: Runner) -> None:
    runner.model.head = nn.Sequential(nn.BatchNorm1d(24), nn.Linear(24, 2))


@pytest.mark.parametrize(
    ('options', 'change', 'message'),
    [
        (
            {'auto_scale_lr': dict(enable=True, base_batch_size=32)},
            None,
            r'auto_scale_lr.enable=True scales by train_dataloader.batch_size, .* multiply .*lr by 0.25',
        ),
        (
            {},
            normalised_head,
            r'model.head.0 is a BatchNorm1d, .* each of 4 micro-batches .*train_dataloader.batch_size=8, ',
        ),
        (
            {
                'train_dataloader.batch_size': 1,
                'model.data_preprocessor': dict(type='ClipPreprocessor', mixing=dict(type='MixupCutMix')),
            },
            None,
            'batch_size=1, replicas=1, leaves nothing to mix with. Set train_dataloader.batch_size to 2 or more',
        ),
        (
            {
                'train_dataloader.dataset.sources.pictures.replicas': 2,
                'model.data_preprocessor': dict(type='ClipPreprocessor', mixing=dict(type='MixupCutMix')),
            },
            None,
            'batch_size=2, replicas=2, leaves nothing to mix with. Set train_dataloader.batch_size to 4 or more',
        ),
        (
            {
                'train_dataloader.batch_size': dict(image=4, more=2),
                'train_dataloader.dataset.sources.more': dict(
                    type='ImageDataset',
                    root='{data}/pictures',
                    replicas=2,
                    transforms=[dict(type='RandomResizedCrop', size=32)],
                ),
                'model.data_preprocessor': dict(type='ClipPreprocessor', mixing=dict(type='MixupCutMix')),
            },
            None,
            "for the source 'more' train_dataloader.batch_size=2, replicas=2, leaves nothing to mix with",
        ),
        (
            {'train_dataloader.batch_size': dict(pictures=4)},
            normalised_head,
            r'model.head.0 is a BatchNorm1d, .* each of 2 micro-batches .*train_dataloader.batch_size=8, ',
        ),
    ],
)
def test_what_depends_on_how_a_step_is_cut_is_refused(data: Path, tmp_path: Path, options, change, message):
    config = write_config(tmp_path / 'classify.py', CLASSIFY, data)
    options = {'train_dataloader.batch_size': 2, **options}
    if more := options.get('train_dataloader.dataset.sources.more'):
        options['train_dataloader.dataset.sources.more'] = dict(more, root=str(data / 'pictures'))
    runner = build_runner(config, tmp_path / 'work', options)
    if change:
        change(runner)
    with pytest.raises(ValueError, match=message):
        runner.train()


def test_a_loader_without_batch_sampler_is_refused(data: Path, tmp_path: Path):
    config = write_config(tmp_path / 'classify.py', CLASSIFY, data)
    runner = build_runner(config, tmp_path / 'work')
    runner._train_dataloader.pop('batch_sampler')
    with pytest.raises(ValueError, match=r"no batch_sampler.*Add batch_sampler=dict\(type='MixedBatchSampler'"):
        runner.train()


@TRANSFORMS.register_module()
class Wait:
    """10 ms a file."""

    def __call__(self, clip: np.ndarray, rng: np.random.Generator | None) -> np.ndarray:
        time.sleep(0.01)
        return clip


@pytest.mark.parametrize('on_gpu', [False, True])
def test_logged_times_rates_and_eta_are_those_of_optimizer_steps(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, on_gpu: bool
):
    if on_gpu:
        Streams(monkeypatch)  # the loader is waited for while a step is computed
    more = """
train_dataloader['batch_size'] = 2
pictures['transforms'].append(dict(type='Wait'))
param_scheduler = dict(type='WarmupCosineLR', warmup_epochs=1)
"""
    runner = build_runner(write_config(tmp_path / 'classify.py', CLASSIFY, data, more), tmp_path / 'work')
    runner.train()
    scalars = {name: buffer.data[0] for name, buffer in runner.message_hub.log_scalars.items()}
    files = 4 * 2, 4 * 2, 4 * 1  # micro-batches times files; the last step of an epoch has half
    waits = scalars['train/data_time']
    assert all(waits >= 0.01 * np.array(files * 2))
    if not on_gpu:
        assert all(waits < scalars['train/time'])
    np.testing.assert_allclose(scalars['train/images_per_second'], np.array(files * 2) / scalars['train/time'])
    np.testing.assert_allclose(
        scalars['train/base_lr'], [warmup_cosine(step / 6, 1e-3, 0.5, 1e-6, 0.0, True) for step in range(6)]
    )
    assert runner.message_hub.get_info('eta') == 0
    log = next((tmp_path / 'work').rglob('*.log')).read_text()
    effective = 'Effective batch: 8 = 2 per rank x 1 ranks x 4 accumulated micro-batches; '
    assert f'{effective}3 optimizer steps per epoch, 6 in all.' in log
    assert "An epoch takes each image of 'pictures' once." in log
    assert log.count(' parameters: lr ') == len(runner.optim_wrapper.param_groups)
    assert '  6,912 parameters: lr 0.0004219, weight decay 0.05' in log  # two layers below the head: 0.75**3
    assert 'before_train_iter' not in log


def test_the_time_left_counts_each_modality_by_its_own_steps(data: Path, tmp_path: Path):
    runner = build_runner(write_config(tmp_path / 'config.py', PRETRAIN, data), tmp_path / 'work')

    class Noted(Hook):
        priority = 'LOW'  # after the timer

        def after_train_iter(self, runner, batch_idx, data_batch, outputs=None):
            left = runner.message_hub.runtime_info.get('eta')
            steps.append((data_batch[0]['modality'], runner.message_hub.get_scalar('train/time').current(), left))

    steps: list[tuple[str, float, float | None]] = []
    runner.register_hook(Noted())
    runner.train()
    assert len(steps) == 10
    for number, (_, _, left) in enumerate(steps, 1):
        seconds = {name: [time for kind, time, _ in steps[:number] if kind == name] for name in ('image', 'video')}
        if all(seconds.values()):  # an epoch has three steps of images and two of videos
            epoch = 3 * np.mean(seconds['image']) + 2 * np.mean(seconds['video'])
            assert left == pytest.approx((10 - number) * epoch / 5)
        else:
            assert left is None


# ---------------------------------------------------------------------------------------------------------------------
# Hooks


def fake_runner(work_dir: Path) -> SimpleNamespace:
    hub = MessageHub.get_instance(f'fake{next(_number)}')
    logger = logging.getLogger('omnimae.tests')
    return SimpleNamespace(work_dir=str(work_dir), message_hub=hub, logger=logger, val_loop=None)


def test_random_numbers_of_a_step_follow_from_seed_and_step():
    def draw(**where) -> torch.Tensor:
        mode, batch = where.pop('mode', 'train'), where.pop('batch', 0)
        StepSeedHook()._before_iter(SimpleNamespace(**{'seed': 0, 'iter': 0, **where}), batch, mode=mode)
        return torch.rand(4)

    first = draw()
    assert torch.equal(draw(batch=9), first)  # the step counts, not where it stands in the epoch
    assert torch.equal(draw(mode='val', iter=3), draw(mode='val', iter=8))  # each validation is the same
    others = [draw(iter=1), draw(seed=1), draw(mode='val'), draw(mode='val', batch=1)]
    assert all(not torch.equal(first, other) for other in others)


def step(names: list[str], broken: list[str] = ()) -> list[dict]:
    """A step of one micro-batch with two replicas of each file."""
    failures = [(name, f'cut\noff {name}') for name in broken]
    return [dict(ids=[name for name in names for _ in range(2)], failures=failures)]


def take_a_step(hook: BrokenFileHook, runner: SimpleNamespace, index: int, batches: list[dict]) -> None:
    hook.count_step(runner, batches, counts := {})
    runner.train_loop = SimpleNamespace(counts=counts)
    hook.after_train_iter(runner, index, batches)


def test_broken_files_are_counted_once_and_listed_once(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    runner, hook = fake_runner(tmp_path), BrokenFileHook()
    hook.before_train(runner)
    for _ in range(30):  # the same file again and again is one broken file
        take_a_step(hook, runner, 0, step(['a', 'b', 'c'], broken=['x', 'y']))
    assert (tmp_path / 'broken_files.txt').read_text() == 'x\tcut off x\ny\tcut off y\n'
    assert [record.message for record in caplog.records] == [
        f'Broken file, replaced by another: {name} (cut\noff {name})' for name in 'xy'
    ]
    assert (hook.tried, list(hook.broken)) == (150, ['x', 'y'])


def test_counts_of_broken_files_go_on_and_lines_are_not_written_twice(tmp_path: Path):
    runner, hook = fake_runner(tmp_path), BrokenFileHook()
    hook.before_train(runner)
    take_a_step(hook, runner, 0, step(['a'], broken=['x']))
    saved = copy.deepcopy(runner.message_hub.state_dict())
    take_a_step(hook, runner, 0, step(['b'], broken=['y']))
    resumed_runner, resumed = fake_runner(tmp_path), BrokenFileHook()
    resumed_runner.message_hub.load_state_dict(saved)  # from before y was met
    resumed.before_train(resumed_runner)
    assert (resumed.tried, list(resumed.broken)) == (2, ['x'])
    take_a_step(resumed, resumed_runner, 0, step(['b'], broken=['y', 'z']))
    assert (resumed.tried, list(resumed.broken)) == (5, ['x', 'y', 'z'])
    lines = (tmp_path / 'broken_files.txt').read_text().splitlines()
    assert lines == ['x\tcut off x', 'y\tcut off y', 'z\tcut off z']


@pytest.mark.parametrize(('tried', 'accepted'), [(200, 10), (2000, 20)])
def test_more_than_ten_broken_files_and_than_one_percent_stop_the_run(tmp_path: Path, tried: int, accepted: int):
    runner, hook = fake_runner(tmp_path), BrokenFileHook()
    hook.before_train(runner)
    broken = [f'broken{i}' for i in range(accepted)]
    take_a_step(hook, runner, 0, step([str(i) for i in range(tried - accepted)], broken))
    message = rf'(?s){accepted + 1} broken files among {tried + 1} tried.*\n  broken0: cut.*last: cut'
    with pytest.raises(ValueError, match=message):
        take_a_step(hook, runner, 1, step([], ['last']))


def test_the_log_smooths_training_and_not_the_accuracies_of_validations():
    hub = MessageHub.get_instance('smoothing')
    for value in (0.2, 0.4):
        train = {f'train/{name}': value for name in ('loss', 'top1', 'top1_image', 'mse_video', 'l1_depth')}
        val = {f'val/{name}': value for name in ('accuracy/top1', 'accuracy/time_lapse/top1', 'depth/rel', 'time')}
        hub.update_scalars(train | val)
    runner = SimpleNamespace(message_hub=hub)
    processor = LOG_PROCESSORS.build(Config.fromfile(RUNTIME).log_processor)
    train, val = (processor._collect_scalars([], runner, mode) for mode in ('train', 'val'))
    assert train == pytest.approx({'loss': 0.3, 'top1': 0.3, 'top1_image': 0.3, 'mse_video': 0.3, 'l1_depth': 0.3})
    assert val == pytest.approx({'accuracy/top1': 0.4, 'accuracy/time_lapse/top1': 0.4, 'depth/rel': 0.4, 'time': 0.3})
    whole = processor._collect_scalars([], runner, 'train', reserve_prefix=True)
    assert whole['train/top1'] == pytest.approx(0.3)


def test_curves_in_memory_are_bounded():
    buffer = HistoryBuffer(range(20_000), [1] * 20_000)
    PlainCheckpointHook().after_train_epoch(SimpleNamespace(message_hub=SimpleNamespace(log_scalars={'loss': buffer})))
    buffer.update(7.0)
    assert len(buffer.data[0]) == PlainCheckpointHook.HISTORY
    assert buffer.current() == 7


def test_exports_hold_raw_and_averaged_weights_and_say_which(data: Path, tmp_path: Path):
    options = {'custom_hooks': [dict(type='EMAHook', momentum=0.5)], 'default_hooks.export.interval': 1}
    runner = build_runner(write_config(tmp_path / 'classify.py', CLASSIFY, data), tmp_path / 'work', options)
    runner.train()
    model, hooks = runner.model, [hook for hook in runner.hooks if hasattr(hook, 'ema_model')]
    for weights, expected in (('raw', model), ('ema', hooks[0].ema_model.module)):
        with safe_open(tmp_path / 'work' / f'epoch_2_{weights}.safetensors', 'pt') as file:
            meta = {'weights': weights, 'epoch': '2', 'iter': '6', 'classes': '["a", "b"]'}
            assert file.metadata() == meta
            assert {*file.keys()} == {*model.state_dict()}
            assert all(torch.equal(file.get_tensor(name), value) for name, value in expected.state_dict().items())
    assert not torch.equal(model.head.weight, hooks[0].ema_model.module.head.weight)
    assert len([*(tmp_path / 'work').glob('*.safetensors')]) == 4


@METRICS.register_module()
class ScriptedAccuracy(ClipAccuracy):
    """Gives the values it was told to give, one a validation."""

    def __init__(self, *, values: list[float], **kwargs: Any) -> None:
        super().__init__(topk=(1,), **kwargs)
        self.values = iter(values)

    def compute_metrics(self, results: list) -> dict[str, float]:
        return dict(top1=next(self.values))


def scripted(folder: Path, data: Path, values: list[float], **options: Any) -> Runner:
    """A training of four epochs whose validations give ``values``."""
    more = '\nval_dataloader, val_cfg, val_evaluator = test_dataloader, dict(type="ValLoop"), test_evaluator\n'
    options |= {
        'val_evaluator': dict(_delete_=True, type='ScriptedAccuracy', values=values),
        'default_hooks.checkpoint.save_best': 'accuracy/top1',
        'default_hooks.checkpoint.max_keep_ckpts': 1,
        'train_cfg.max_epochs': 4,
    }
    return build_runner(write_config(folder.with_suffix('.py'), CLASSIFY, data, more), folder, options)


@pytest.mark.parametrize('weights', ['ema', 'raw'])
def test_the_best_weights_are_kept_exported_and_reported_beside_the_last(data: Path, tmp_path: Path, weights: str):
    hooks = [dict(type='EMAHook', momentum=0.5)] if weights == 'ema' else []
    hooks.append(dict(type='WeightsHook'))
    runner = scripted(tmp_path / 'work', data, [50.0, 90.0, 90.0, 70.0], custom_hooks=hooks)
    runner.train()
    file = tmp_path / 'work' / f'best_accuracy_top1_epoch_2_{weights}.safetensors'
    assert [path.name for path in (tmp_path / 'work').glob('best*.safetensors')] == [file.name]
    with safe_open(file, 'pt') as stored:
        expected = dict(weights=weights, best='accuracy/top1', epoch='2', iter='6', classes='["a", "b"]')
        assert stored.metadata() == expected
        seen = hook_of(runner, WeightsHook).in_validation
        assert torch.equal(stored.get_tensor('head.weight'), seen[len(seen) // 4])  # in the second of four validations
    load_weights(MODELS.build(load_config(tmp_path / 'work.py').model), file, complete=True)
    [log] = (tmp_path / 'work').rglob('*.log')
    said = re.findall(r'accuracy/top1: last (\d+)\.0000, best (\d+)\.0000 at epoch (\d)', log.read_text())
    assert said == [('50', '50', '1'), ('90', '90', '2'), ('90', '90', '2'), ('70', '90', '2')]
    [scalars] = (tmp_path / 'work').rglob('scalars.json')
    rows = [row for row in map(json.loads, scalars.read_text().splitlines()) if 'accuracy/top1_best' in row]
    assert [(row['accuracy/top1_best'], row['accuracy/top1_best_epoch'], row['step']) for row in rows] == [
        (50, 1, 1), (90, 2, 2), (90, 2, 3), (90, 2, 4)
    ]  # fmt: skip


def test_the_best_weights_are_known_after_a_resume_from_another_folder(data: Path, tmp_path: Path):
    runner = scripted(tmp_path / 'work', data, [50.0, 90.0, 60.0])
    with pytest.raises(StopIteration):  # the run ends in its last validation
        runner.train()
    (tmp_path / 'work').rename(tmp_path / 'moved')
    runner = scripted(tmp_path / 'moved', data, [70.0], resume=True)
    runner.train()
    names = sorted(path.name for path in (tmp_path / 'moved').glob('best*'))
    assert names == ['best_accuracy_top1_epoch_2.pth', 'best_accuracy_top1_epoch_2_raw.safetensors']
    logs = ''.join(path.read_text() for path in (tmp_path / 'moved').rglob('*.log'))
    assert 'accuracy/top1: last 70.0000, best 90.0000 at epoch 2.' in logs


@HOOKS.register_module()
class WeightsHook(Hook):
    """Keeps the head's weights after each step and in each validation."""

    def before_train(self, runner: Runner) -> None:
        self.after_steps: list[torch.Tensor] = []
        self.in_validation: list[torch.Tensor] = []

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: list, outputs: dict | None = None) -> None:
        self.after_steps.append(runner.model.head.weight.detach().clone())

    def before_val_iter(self, runner: Runner, batch_idx: int, data_batch: dict | None = None) -> None:
        self.in_validation.append(runner.model.head.weight.detach().clone())


RECIPE = """
model['backbone']['drop_path_rate'] = 0.5
model['label_smoothing'] = 0.1
model['data_preprocessor'] = dict(
    type='ClipPreprocessor',
    erasing=dict(type='RandomErasing', fill='noise', prob=0.5),
    mixing=dict(type='MixupCutMix'),
)
pictures['transforms'].append(dict(type='RandAugment', policy='timm', magnitude=9, num_layers=2))
train_dataloader['batch_size'] = 4
val_dataloader, val_cfg, val_evaluator = test_dataloader, dict(type='ValLoop'), test_evaluator
param_scheduler = dict(type='WarmupCosineLR', warmup_epochs=1)
custom_hooks = [dict(type='EMAHook', momentum=0.25), dict(type='WeightsHook')]
default_hooks = dict(
    logger=dict(interval=1), checkpoint=dict(_delete_=True, type='CheckpointHook', by_epoch=False, interval=4)
)
"""


def test_averaged_weights_follow_the_recurrence_are_validated_exported_and_tested(data: Path, tmp_path: Path):
    """The average starts with the weights after the first step: a = (1 - m) a + m w after each other step."""
    config = write_config(tmp_path / 'classify.py', CLASSIFY, data, RECIPE)
    runner = build_runner(config, tmp_path / 'work')
    runner.train()
    weights, ema = hook_of(runner, WeightsHook), hook_of(runner, EMAHook)
    assert len(weights.after_steps) == 6  # optimizer steps, of two micro-batches each
    averages = [weights.after_steps[0]]
    for weight in weights.after_steps[1:]:
        averages.append(0.75 * averages[-1] + 0.25 * weight)
    average = ema.ema_model.module.head.weight
    torch.testing.assert_close(average, averages[5], rtol=0, atol=1e-7)
    for seen, epoch_end in zip(weights.in_validation, [2] * 5 + [5] * 5, strict=True):
        torch.testing.assert_close(seen, averages[epoch_end], rtol=0, atol=1e-7)
    assert torch.equal(runner.model.head.weight, weights.after_steps[5])

    # A test of the exported average, with the config of the training and its EMAHook, repeats the last validation.
    tester = build_runner(config, tmp_path / 'test')
    assert not load_weights(tester.model, str(tmp_path / 'work' / 'epoch_2_ema.safetensors')).initialised
    metrics = tester.test()
    assert torch.equal(tester.model.head.weight, average)
    assert metrics['accuracy/top1'] == runner.message_hub.get_scalar('val/accuracy/top1').current()


def test_a_resumed_run_with_the_whole_recipe_is_the_run_that_never_stopped(data: Path, tmp_path: Path):
    config = write_config(tmp_path / 'classify.py', CLASSIFY, data, RECIPE)
    whole = build_runner(config, tmp_path / 'whole')
    whole.train()
    resumed = build_runner(
        config, tmp_path / 'parts', {'load_from': str(tmp_path / 'whole' / 'iter_4.pth'), 'resume': True}
    )
    resumed.train()
    assert len(hook_of(resumed, WeightsHook).after_steps) == 2
    for a, b in ((whole.model, resumed.model), *[[hook_of(r, EMAHook).ema_model for r in (whole, resumed)]]):
        assert all(torch.equal(a.state_dict()[name], value) for name, value in b.state_dict().items())


@pytest.mark.parametrize(
    ('num_classes', 'more', 'message'),
    [
        (
            3,
            '',
            "train_dataloader: source 'pictures' has 2 classes, and the model's head tells 3 apart. Set model.num_cla",
        ),
        (
            1,
            "pictures.update(ann_file='{list}')",
            'has the label 1, counted from 0, and .* head tells 1 apart. Set .*=2,',
        ),
    ],
)
def test_a_head_of_another_size_than_the_classes_is_refused(data: Path, tmp_path: Path, num_classes, more, message):
    paths = [f'{"ab"[label]}/{label}.png {label}' for label in (0, 1)]
    (tmp_path / 'list.txt').write_text('\n'.join(paths))
    more = more.replace('{list}', str(tmp_path / 'list.txt'))
    config = write_config(tmp_path / 'classify.py', CLASSIFY, data, f'\n{more}\n')
    options = {'model.num_classes': num_classes, 'custom_hooks': [dict(type='HeadSizeHook')]}
    with pytest.raises(ValueError, match=message):
        build_runner(config, tmp_path / 'work', options).train()
    if not more:
        with pytest.raises(ValueError, match=message.replace('train_', 'test_')):
            build_runner(config, tmp_path / 'test', options).test()


def test_the_names_of_the_classes_are_compared_too():
    def runner(*classes: tuple[str, ...] | None) -> SimpleNamespace:
        sources = [SimpleNamespace(classes=names, labels=np.array([0, 1])) for names in classes]
        dataset = SimpleNamespace(names=['images', 'videos'][: len(sources)], sources=sources)
        loaders = {f'{split}_dataloader': SimpleNamespace(dataset=dataset) for split in ('train', 'val', 'test')}
        model = SimpleNamespace(data_preprocessor=SimpleNamespace(num_classes=2))
        return SimpleNamespace(model=model, val_loop=None, **loaders)

    cats_dogs, cats_foxes = ('cat', 'dog'), ('cat', 'fox')
    hook = HeadSizeHook()
    hook.before_train(runner(cats_dogs, None))
    hook.before_val(runner(cats_dogs, cats_dogs))
    with pytest.raises(
        ValueError,
        match="^val_dataloader: source 'images' has other classes than train_dataloader: source 'images': label 1 is "
        "'fox' here and 'dog' there",
    ):
        hook.before_val(runner(cats_foxes))
    trains = runner(cats_dogs)
    trains.val_loop, trains.val_dataloader = object(), runner(cats_foxes).val_dataloader
    with pytest.raises(ValueError, match='^val_dataloader: '):  # before any step, not at the first validation
        HeadSizeHook().before_train(trains)
    with pytest.raises(ValueError, match="source 'videos' has other classes than test_dataloader: source 'images'"):
        HeadSizeHook().before_test(runner(cats_dogs, cats_foxes))
    tests = HeadSizeHook()
    tests.expect('epoch_9.pth', cats_dogs)  # no training in this process, which would know the names
    tests.before_test(runner(cats_dogs, None))
    with pytest.raises(ValueError, match="has other classes than epoch_9.pth: label 1 is 'fox' here and 'dog'"):
        tests.before_test(runner(cats_foxes))


def labelled_runner(size: int, train: list[int] | None, val: list[int] | None, names=None, **metric) -> SimpleNamespace:
    """A runner of a classifier with one source a loader."""
    loaders = {
        f'{split}_dataloader': SimpleNamespace(
            dataset=SimpleNamespace(
                names=['pictures'],
                sources=[SimpleNamespace(classes=names, labels=None if labels is None else np.array(labels))],
            )
        )
        for split, labels in (('train', train), ('val', val), ('test', val))
    }
    loop = SimpleNamespace(evaluator=SimpleNamespace(metrics=[ClipAccuracy(**{'topk': (1,), **metric})]))
    model = SimpleNamespace(data_preprocessor=SimpleNamespace(num_classes=size))
    said: list[str] = []
    return SimpleNamespace(
        model=model, val_loop=loop, test_loop=loop, logger=SimpleNamespace(warning=said.append), said=said, **loaders
    )


def test_classes_that_never_occur_are_named_once():
    runner = labelled_runner(1000, [*range(992)], [*range(999)])
    LabelHook().before_train(runner)
    train, val = runner.said
    assert train.startswith(
        'train_dataloader: 8 of 1000 classes never occur: class 992, class 993, class 994, class 995, class 996 and 3 '
        'more. If this is not intended, check num_classes and the labels'
    )
    assert val.startswith('val_dataloader: 1 of 1000 classes never occur: class 999. If')
    runner = labelled_runner(3, [1, 2], [0, 1, 2], names=('cat', 'dog', 'fox'))
    LabelHook().before_train(runner)
    [said] = runner.said
    assert said.startswith("train_dataloader: 1 of 3 classes never occur: 'cat'. If")


@pytest.mark.parametrize(
    ('size', 'labels', 'message'), [(1, [0], "'cat', one of 1 classes"), (3, [2], "'fox', one of 3")]
)
def test_data_of_a_single_class_are_said_to_mean_nothing(size, labels, message):
    runner = labelled_runner(size, labels, labels, names=('cat', 'dog', 'fox')[:size])
    LabelHook().before_train(runner)
    assert [message in said and 'an accuracy says nothing' in said for said in runner.said] == [True, True]


def test_samples_without_labels_are_refused_before_anything_runs(tmp_path: Path):
    message = (
        r"val_dataloader: source 'pictures' has no labels, and ClipAccuracy counts them\. .* train without validation"
    )
    with pytest.raises(ValueError, match=message):
        LabelHook().before_train(labelled_runner(2, [0, 1], None))
    with pytest.raises(ValueError, match=r"test_dataloader: source 'pictures' has no labels.* test with --out FILE"):
        LabelHook().before_test(labelled_runner(2, [0, 1], None))
    LabelHook().before_test(labelled_runner(2, [0, 1], None, out_file=str(tmp_path / 'scores.npz')))


def test_maps_that_are_lacking_are_refused_before_anything_runs():
    runner = labelled_runner(2, None, None)
    runner.val_loop.evaluator.metrics = [SegmentationScore()]
    runner.val_dataloader.dataset.sources[0].target = None
    with pytest.raises(
        ValueError, match="val_dataloader: source 'pictures' has no true maps, and SegmentationScore nee"
    ):
        LabelHook().before_train(runner)


def test_more_k_than_the_head_has_classes_is_refused_before_anything_runs():
    """Where no source knows the names of its classes."""
    with pytest.raises(ValueError, match=r'topk=\(1, 5\) asks for more than the 2 classes there are. Lower topk'):
        LabelHook().before_train(labelled_runner(2, [0, 1], [0, 1], topk=(1, 5)))


def test_scores_without_labels_go_through_the_runner(data: Path, tmp_path: Path):
    (tmp_path / 'list.txt').write_text('a/0.png\nb/1.png\n')
    more = f"\ntest_dataloader['dataset']['sources']['pictures']['ann_file'] = '{tmp_path}/list.txt'\n"
    config = write_config(tmp_path / 'classify.py', CLASSIFY, data, more)
    with pytest.raises(ValueError, match="test_dataloader: source 'pictures' has no labels"):
        build_runner(config, tmp_path / 'refused').test()
    out = tmp_path / 'scores.npz'
    assert build_runner(config, tmp_path / 'work', {'test_evaluator.out_file': str(out)}).test() == {}
    assert load_scores([out]).ids.tolist() == ['a/0.png', 'b/1.png']


def test_a_head_of_the_right_size_and_a_model_without_head_pass(data: Path, tmp_path: Path):
    options = {'custom_hooks': [dict(type='HeadSizeHook')]}
    for name, text in (('classify', CLASSIFY), ('pretrain', PRETRAIN)):
        config = write_config(tmp_path / f'{name}.py', text, data)
        runner = build_runner(config, tmp_path / name, {**options, 'train_cfg.max_epochs': 1, 'param_scheduler': None})
        runner.train()
        assert runner.iter in (3, 5)


def test_reconstructions_of_held_out_samples_are_drawn(data: Path, tmp_path: Path):
    config = write_config(
        tmp_path / 'pretrain.py',
        PRETRAIN,
        data,
        """
centre = [dict(type='CenterCrop', size=32)]
val_dataloader = dict(
    batch_size=4,
    num_workers=0,
    dataset=dict(
        type='MixedDataset',
        sources=dict(pictures=dict(pictures, transforms=centre), movies=dict(movies, transforms=centre)),
    ),
    sampler=dict(type='EvalSampler'),
    batch_sampler=dict(type='EvalBatchSampler'),
    collate_fn=dict(type='collate_clips'),
)
val_cfg = dict(type='ValLoop')
val_evaluator = dict(type='ReconstructionLoss')
custom_hooks = [dict(type='ReconstructionHook', interval=1, num_samples=2)]
""",
    )
    runner = build_runner(config, tmp_path / 'work', {'train_cfg.val_interval': 2})
    runner.train()
    files = sorted(path.name for path in (tmp_path / 'work' / 'reconstructions').iterdir())
    epochs = [[f'epoch_{epoch}_{name}.png' for name in ('movies_1', 'movies_2', 'pictures')] for epoch in (1, 2)]
    assert files == epochs[0] + epochs[1]
    assert {'val/reconstruction/image', 'val/reconstruction/video'} <= runner.message_hub.log_scalars.keys()


def test_a_finished_run_leaves_neither_its_model_nor_its_workers_behind(data: Path, tmp_path: Path):
    config = write_config(tmp_path / 'config.py', PRETRAIN + RECONSTRUCTED, data)
    workers = {'train_dataloader.num_workers': 2, 'train_dataloader.persistent_workers': True}
    runner = build_runner(config, tmp_path / 'work', workers)
    before = {process.pid for process in multiprocessing.active_children()}
    runner.train()
    kept = weakref.ref(runner.model)
    del runner
    gc.collect()
    assert kept() is None
    assert {process.pid for process in multiprocessing.active_children()} <= before


def test_reconstructions_without_held_out_data_are_refused(data: Path, tmp_path: Path):
    options = {'custom_hooks': [dict(type='ReconstructionHook')]}
    runner = build_runner(write_config(tmp_path / 'pretrain.py', PRETRAIN, data), tmp_path / 'work', options)
    with pytest.raises(ValueError, match='ReconstructionHook needs held-out samples: set val_dataloader'):
        runner.train()


# ---------------------------------------------------------------------------------------------------------------------
# Checkpoints and environment


class Malice:
    """Runs code when it is unpickled."""

    def __reduce__(self):
        return (print, ('code from a checkpoint ran',))


@pytest.mark.filterwarnings('ignore:Detected pickle protocol')
@pytest.mark.parametrize('wrap', [lambda x: x, lambda x: {'state_dict': {}, 'message_hub': x}], ids=['bare', 'inside'])
def test_a_checkpoint_with_code_in_it_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture, wrap):
    torch.save(wrap(Malice()), tmp_path / 'malice.pth')
    (tmp_path / 'bare.pth').write_bytes(pickle.dumps(wrap(Malice())))
    for name in ('malice.pth', 'bare.pth'):
        with pytest.raises(ValueError, match=rf'{name}: refused, because it holds more than tensors and plain values'):
            CheckpointLoader.load_checkpoint(str(tmp_path / name))
    assert 'ran' not in capsys.readouterr().out


def test_the_runner_reads_safetensors(tmp_path: Path):
    save_file({'weight': torch.arange(3.0)}, tmp_path / 'weights.safetensors', {'weights': 'raw'})
    checkpoint = CheckpointLoader.load_checkpoint(str(tmp_path / 'weights.safetensors'))
    assert checkpoint['state_dict']['weight'].tolist() == [0, 1, 2]
    assert checkpoint['meta'] == {'weights': 'raw'}


def test_a_missing_or_truncated_checkpoint_is_named(tmp_path: Path):
    with pytest.raises(ValueError, match=r'none\.pth'):
        CheckpointLoader.load_checkpoint(str(tmp_path / 'none.pth'))
    torch.save({'weight': torch.zeros(1000)}, tmp_path / 'cut.pth')
    (tmp_path / 'cut.pth').write_bytes((tmp_path / 'cut.pth').read_bytes()[:500])
    with pytest.raises(ValueError, match=r'cut\.pth: no readable checkpoint'):
        CheckpointLoader.load_checkpoint(str(tmp_path / 'cut.pth'))


def test_nothing_is_resumed_from_weights_alone(data: Path, tmp_path: Path):
    options = {'load_from': str(tmp_path / 'epoch_1_raw.safetensors'), 'resume': True}
    config = write_config(tmp_path / 'classify.py', CLASSIFY, data)
    runner = build_runner(config, tmp_path / 'work', options)
    save_file(runner.model.state_dict(), options['load_from'], {'epoch': '1', 'iter': '5'})
    with pytest.raises(ValueError, match=r'epoch_1_raw\.safetensors holds weights alone.*Give an epoch_N\.pth'):
        runner.train()


def test_a_checkpoint_of_another_size_is_refused(data: Path, tmp_path: Path):
    config = write_config(tmp_path / 'classify.py', CLASSIFY, data)
    runner = build_runner(config, tmp_path / 'work')
    weights = {name: value.clone() for name, value in runner.model.state_dict().items()}
    weights['head.weight'] = torch.zeros(5, 24)
    torch.save({'state_dict': weights, 'meta': {}}, tmp_path / 'other.pth')
    runner = build_runner(config, tmp_path / 'work', {'load_from': str(tmp_path / 'other.pth')})
    message = r'other\.pth does not fit the model: head\.weight is \(5, 24\) there and \(2, 24\) in the model \(1 such'
    with pytest.raises(ValueError, match=message):
        runner.train()


# ---------------------------------------------------------------------------------------------------------------------
# Optimizers that are built otherwise


@registry.OPTIMIZERS.register_module()
class RatelessSGD(torch.optim.Optimizer):
    """Finds its own rate, and has no ``lr``."""

    def __init__(self, params: Any, weight_decay: float = 0.0) -> None:
        super().__init__(params, dict(weight_decay=weight_decay))

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        for group in self.param_groups:
            for parameter in (x for x in group['params'] if x.grad is not None):
                parameter -= 1e-3 * parameter.grad


@registry.OPTIMIZERS.register_module()
class NoneSGD(RatelessSGD):
    """Finds its own rate where ``lr`` is None, as Adafactor does."""

    def __init__(self, params: Any, lr: float | None = None) -> None:
        torch.optim.Optimizer.__init__(self, params, dict(lr=lr))


@MODELS.register_module()
class TiedClassifier(Classifier):
    """Two blocks share a weight."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        first, second = self.backbone.blocks
        second.mlp.fc1.weight = first.mlp.fc1.weight


OPTIMIZER = 'optim_wrapper.optimizer'


@pytest.mark.parametrize(
    ('optimizer', 'more'),
    [
        (dict(type='AdamW'), {}),  # lr=1e-3, by default
        (dict(type='AdamW', lr=0), {'param_scheduler': dict(type='WarmupCosineLR', warmup_epochs=1)}),
        (dict(type='RatelessSGD'), {'optim_wrapper.paramwise_cfg': None}),
        (dict(type='NoneSGD'), {'optim_wrapper.paramwise_cfg': None}),
        (dict(type='AdamW', lr=1e-3), {'model.type': 'TiedClassifier', 'custom_hooks': [dict(type='EMAHook')]}),
    ],
)
def test_optimizers_without_a_rate_and_tied_weights_train_and_resume(data: Path, tmp_path: Path, optimizer, more):
    config = write_config(tmp_path / 'classify.py', CLASSIFY, data)
    options = {OPTIMIZER: dict(_delete_=True, **optimizer), **more}
    whole = build_runner(config, tmp_path / 'whole', options)
    whole.train()
    optimizer = whole.optim_wrapper.optimizer
    resumed = build_runner(
        config, tmp_path / 'parts', options | {'resume': True, 'load_from': str(tmp_path / 'whole' / 'epoch_1.pth')}
    )
    resumed.train()
    weights = resumed.model.state_dict()
    assert all(torch.equal(weights[name], value) for name, value in whole.model.state_dict().items())
    if 'model.type' in more:
        names = [f'backbone.blocks.{block}.mlp.fc1.weight' for block in (0, 1)]
        assert torch.equal(weights[names[0]], weights[names[1]])
        exported = load_file(tmp_path / 'whole' / 'epoch_2_ema.safetensors')[0]
        assert torch.equal(exported[names[0]], exported[names[1]])
        assert sum(len(group['params']) for group in optimizer.param_groups) == len([*whole.model.parameters()])


def test_rates_for_an_optimizer_without_one_are_refused(data: Path, tmp_path: Path):
    config = write_config(tmp_path / 'classify.py', CLASSIFY, data)
    options: dict = {OPTIMIZER: dict(_delete_=True, type='RatelessSGD')}
    with pytest.raises(ValueError, match=r"'RatelessSGD'\} has no lr that paramwise_cfg\.layer_decay=0\.75 could mul"):
        build_runner(config, tmp_path / 'work', options).train()
    options |= {'optim_wrapper.paramwise_cfg': None}
    for schedule in (dict(type='WarmupCosineLR', warmup_epochs=1), dict(type='MultiStepLR', milestones=[1])):
        with pytest.raises(ValueError, match=r'optimizer is RatelessSGD without a learning rate, and param_scheduler'):
            build_runner(config, tmp_path / 'work', options | {'param_scheduler': schedule}).train()
