"""What a training will cost: counts on fake tensors against real steps, and the tool."""

from __future__ import annotations

import importlib.util
import itertools
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.profiler import profile

from omnimae.flops import masked_row
from omnimae.models import ops
from omnimae.planning import CARDS, GIB, Memory, Source, count_step, fitting_batch, sources_of
from omnimae.registry import MODELS

ROOT = Path(__file__).parents[1]
MODEL = dict(
    type='MaskedAutoencoder',
    backbone=dict(type='SpatioTemporalViT', embed_dim=48, depth=2, num_heads=2, clip_size=(4, 32, 32)),
    mask_generator=dict(image=dict(type='RandomMasking', ratio=0.5), video=dict(type='RandomMasking', ratio=0.75)),
    head=dict(type='MAEHead', embed_dim=24, depth=1, num_heads=2),
)


def plan(*words: str) -> None:
    spec = importlib.util.spec_from_file_location('plan', ROOT / 'tools/plan.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.main(words)


def inputs(frames: int):
    modality = 'image' if frames == 1 else 'video'
    return lambda size: dict(clip=torch.zeros(size, 3, frames, 32, 32, dtype=torch.uint8), modality=modality)


@pytest.mark.parametrize(('modality', 'frames', 'visible'), [('image', 1, 2), ('video', 4, 2)])
def test_flops_are_those_of_the_formula(modality, frames, visible):
    model = MODELS.build(MODEL)
    count = count_step(model, inputs(frames), reduced=False)
    row = masked_row(model, modality, 'masked', visible)
    # 3 times forward, 3.5 times in attention, 2 times where patches are embedded: nothing reads their gradient
    embedding = visible * model.backbone.patch_embed.weight.numel() // (3 - min(frames, 2))
    assert 2 * (3 * row.total - embedding) < count.flops[1].sum() < 2 * 3.5 * row.total


@pytest.mark.parametrize('grad_checkpointing', [False, True])
def test_the_peaks_are_those_of_a_real_step(grad_checkpointing, monkeypatch):
    """Compared with what PyTorch's allocator notes: with checkpointing a block's activations are there once more."""
    backbone = dict(MODEL['backbone'], depth=6, grad_checkpointing=grad_checkpointing)
    model = MODELS.build({**MODEL, 'backbone': backbone, 'head': dict(MODEL['head'], depth=2)})
    monkeypatch.setattr(ops, 'USE_ONEDNN', False)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)

    def peak(size: int) -> int:
        given = inputs(4)(size)
        with profile(profile_memory=True) as profiler:
            model(**given)['loss'].backward()
        changes = [x for x in profiler.profiler.kineto_results.events() if x.name() == '[memory]']
        return max(itertools.accumulate(x.nbytes() for x in sorted(changes, key=lambda x: x.start_ns())))

    memory = Memory({}, count_step(model, inputs(4), reduced=False).alive)
    clips = 16 * 3 * 4 * 32 * 32
    assert peak(16) == pytest.approx(memory.activations(16) - clips, rel=0.02)


def test_the_callers_model_stays_as_it_is():
    with torch.device('meta'):
        model = MODELS.build(MODEL)
    count_step(model, inputs(1), reduced=True)
    assert {parameter.device.type for parameter in model.parameters()} == {'meta'}
    assert all(parameter.grad is None for parameter in model.parameters())


def test_small_batches_are_bound_by_launches():
    count = count_step(MODELS.build(MODEL), inputs(1), reduced=True)
    card = CARDS['h100']
    assert count.seconds(1, card, reduced=True) == pytest.approx(count.num_kernels * card.launch)
    large = count.seconds(10**6, card, reduced=True)
    assert large == pytest.approx(count.seconds(10**6, card._replace(launch=0.0), reduced=True))
    assert count.seconds(10**6, card, reduced=False) > large
    assert count.seconds(10**6, card._replace(bandwidth=card.bandwidth / 2), reduced=True) > large


def test_memory_by_hand():
    once, per_sample = (2.0, 0.0), (0.5, 1.0)  # forward, backward
    memory = Memory({'weights': 2.0 * GIB, 'CUDA': 1.0 * GIB}, alive=np.array([once, per_sample]) * GIB)
    assert memory.of(1) == (3 + 2.5) * GIB
    assert memory.of(6) == (3 + 6) * GIB
    assert memory.largest_batch(11 * GIB) == int(1 + 10 * 0.92 - 3)
    assert memory.largest_batch(6 * GIB) == int((1 + 5 * 0.92 - 3 - 2) / 0.5)
    assert memory.largest_batch(2 * GIB) == 0


@pytest.mark.parametrize(
    ('largest', 'global_batch_size', 'num_gpus', 'replicas', 'expected'),
    [(300, 2048, 8, 1, 256), (100, 2048, 8, 4, 64), (3, 2048, 8, 4, 0), (9, 96, 1, 3, 6), (8, 100, 8, 1, 0)],
)
def test_fitting_batch(largest, global_batch_size, num_gpus, replicas, expected):
    assert fitting_batch(largest, global_batch_size, num_gpus, replicas) == expected


def test_steps_are_those_of_the_sampler():
    clips = dict(clip=((3, 1, 2, 2), torch.uint8))
    assert Source('in1k', 'image', 1281167, 'publication', 1, 1.0, clips, None).steps(2048) == 626
    assert Source('ssv2', 'video', 168913, 'publication', 4, 0.25, clips, None).steps(2048) == 82


def test_sources_of_aligned_data():
    crop = dict(type='RandomResizedCrop', size=(32, 48))
    modalities = dict(rgb=dict(), depth=dict(), semseg=dict(kind='classes', stride=4))
    source = dict(type='AlignedDataset', root='nowhere', modalities=modalities, target='depth', transforms=[crop])
    [found] = sources_of(dict(train_dataloader=dict(dataset=dict(sources=dict(rooms=source)))), dict(rooms=7))
    assert found.clips == {'rgb': ((3, 1, 32, 48), torch.uint8), 'semseg': ((1, 1, 8, 12), torch.uint8)}
    assert found.target == ((1, 1, 32, 48), torch.int32)
    assert (found.rows, found.bytes_a_sample) == (7, 3 * 32 * 48 + 8 * 12 + 4 * 32 * 48)


def test_unknown_source():
    with pytest.raises(ValueError, match=r"--rows names \['x'\], but the sources are \['a'\]. Name those."):
        sources_of(dict(train_dataloader=dict(dataset=dict(sources=dict(a={})))), dict(x=1))


@pytest.mark.parametrize('config', ['pretrain', 'finetune_videos', 'linear_images', 'multimae', 'videomae_v2'])
def test_the_tool(config, capsys):
    """Every kind of model is planned; without data it says what is unknown."""
    plan(f'configs/demo/{config}.py', '--gpus', '2', '--gpu', '4090')
    said = capsys.readouterr().out
    assert '2 x 4090: 24 GiB, 165 TFLOP/s in bfloat16' in said
    assert 'largest batch size in 24 GiB' in said
    assert 'Not measured: other models and cards' in said
    assert 'launch = 3e-05: fitted to 11 steps' in said
    assert ('give --rows SOURCE=N' in said) == ('hours of' in said and ' ?' in said)


def test_gpus_that_do_not_divide_the_global_batch_are_refused():
    with pytest.raises(ValueError, match=r'--gpus 3 do not divide the global batch size of \d+, .* Take 2 or 4\.'):
        plan('configs/demo/pretrain.py', '--gpus', '3')


def test_each_source_is_planned_at_its_own_size(capsys):
    sizes = ('train_dataloader.batch_size.image=32', 'train_dataloader.batch_size.video=16')
    plan('configs/demo/pretrain.py', '--cfg-options', *sizes)
    said = capsys.readouterr().out
    numbers = r' +(\d+) +(\d+) +(\d+)\n'  # the third source are whole photographs
    assert re.search('batch size of the config' + numbers, said).groups() == ('32', '16', '32')
    images, videos, whole = re.search('samples/s of a device' + numbers, said).groups()
    assert int(images) == int(whole) == pytest.approx(2 * int(videos), rel=0.02)  # all wait for launches


def test_numbers_of_the_users_own_make_no_surer_hours(capsys):
    plan('configs/demo/linear_images.py', '--memory', '16', '--rows', 'images=1000000000')
    hours = re.search(r'The whole recipe: (.+) hours, probably (.+) to (.+)\.', capsys.readouterr().out)
    total, low, high = map(float, hours.groups())
    assert (low, high) == pytest.approx((total / 2, total * 2), rel=0.01)
