"""The gradient and the logged values of a step are those of its global batch, however it is cut.

Masks are given and nothing is dropped: only random numbers may differ from cut to cut.
"""

from __future__ import annotations

import functools
import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.model import BaseModel, MMDistributedDataParallel
from mmengine.registry import DefaultScope
from programs import run_ranks
from torch import Tensor, nn

from omnimae.engine import AutocastOptimWrapper, EpochTrainLoop
from omnimae.engine.feeding import Feed
from omnimae.registry import MODELS
from omnimae.structures import Batch, Grid, Masks

GLOBAL_BATCH = 8
# micro-batch sizes of a rank; a negative one is of samples that do not count
CUTS = [(1,) * 8, (2,) * 4, (4,) * 2, (3, 5), (5, 2, 1), (4, 4, -2)]
# of two ranks, micro-batch by micro-batch
RANKS = {'one each': [(4, 4)], 'two each': [(2, 2), (2, 2)], 'uneven': [(4, 3), (1, -1)]}

VIT = dict(type='SpatioTemporalViT', embed_dim=24, depth=2, num_heads=2, patch_size=(2, 8, 8), clip_size=(4, 32, 32))
IMAGE_VIT = dict(VIT, patch_size=(1, 8, 8), clip_size=(1, 32, 32))
HEAD = dict(type='MAEHead', embed_dim=16, depth=1, num_heads=2)
DUAL = dict(
    type='DualMasking', encoder=dict(type='TubeMasking', ratio=0.75), decoder=dict(type='RunningCellMasking', ratio=0.5)
)
PATCHES = dict(type='PatchTokenizer', patch_size=(1, 8, 8), clip_size=(1, 32, 32))
MULTIMODAL = dict(
    type='MultiModalViT',
    embed_dim=24,
    depth=2,
    num_heads=2,
    tokenizers=dict(
        rgb=dict(PATCHES, channels=3),
        depth=dict(PATCHES, channels=1),
        semseg=dict(type='ClassMapTokenizer', num_classes=5, patch_size=(1, 2, 2), clip_size=(1, 8, 8)),
    ),
)
TASK = dict(type='CrossAttentionHead', embed_dim=16, depth=1, num_heads=2)


@MODELS.register_module()
class NeighbourMixing:
    """Mixes the two of each pair with given shares, so that the cut changes nothing."""

    def __call__(self, clip: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        pairs = torch.arange(len(clip)).view(-1, 2).flip(1).flatten()
        return 0.7 * clip + 0.3 * clip[pairs], 0.7 * targets + 0.3 * targets[pairs]


def autoencoder(masks: dict, target: dict) -> dict:
    generators = dict(image=dict(type='RandomMasking', ratio=0.5), video=masks)
    return dict(type='MaskedAutoencoder', backbone=VIT, head=dict(HEAD, target=target), mask_generator=generators)


def dense(head: dict, task: dict) -> dict:
    return dict(type='DensePredictor', backbone=IMAGE_VIT, head=head, task=task)


def classifier(**more) -> dict:
    return dict(type='Classifier', backbone=VIT, num_classes=5, head_init_std=0.5, **more)


CONVNEXT = dict(type='ConvNeXtHead', embed_dim=128, depth=1)
TUBE = dict(type='TubeMasking', ratio=0.75)
MODEL_CONFIGS = {
    'omnimae': autoencoder(TUBE, dict(type='PixelTarget')),
    'mae': autoencoder(TUBE, dict(type='PixelTarget', normalize='patch')),
    'mae_st': autoencoder(TUBE, dict(type='PixelTarget', normalize='patch', frames='first')),
    'videomae': autoencoder(TUBE, dict(type='PixelTarget', eps_on='deviation')),
    'videomae_v2': autoencoder(DUAL, dict(type='PixelTarget', eps_on='deviation')),
    'crossmae': dict(
        autoencoder(TUBE, {}),
        head=dict(HEAD, type='CrossMAEHead', layers=range(3), target=dict(type='PixelTarget')),
        decode_ratio=0.5,
    ),
    'multimae': dict(
        type='MultiMAE',
        backbone=MULTIMODAL,
        head=dict(
            rgb=dict(TASK, error='mse'),
            depth=dict(TASK, error='l1'),
            semseg=dict(TASK, error='cross_entropy'),
            norm_rgb=dict(TASK, modality='rgb', error='mse', target=dict(type='PixelTarget', normalize='patch')),
        ),
        mask_generator=dict(type='DirichletMasking', num_visible=16),
    ),
    'segmentation': dense(CONVNEXT, dict(type='SegmentationTask', num_classes=5)),
    'depth_l1': dense(CONVNEXT, dict(type='DepthTask', mean=100.0, std=20.0, error='l1')),
    'depth_berhu': dense(CONVNEXT, dict(type='DepthTask', mean=100.0, std=20.0)),
    'classifier': classifier(label_smoothing=0.1),
    'mixing': classifier(
        label_smoothing=0.1, data_preprocessor=dict(type='ClipPreprocessor', mixing=dict(type='NeighbourMixing'))
    ),
    'probe': dict(type='LinearProbe', backbone=VIT, num_classes=5, head_init_std=0.5),
    'attentive': dict(type='AttentiveProbe', backbone=VIT, num_classes=5, num_queries=4),
}
MODEL_CONFIGS['multimae_uncertain'] = dict(MODEL_CONFIGS['multimae'], uncertainty=True)
PROBES = ('probe', 'attentive')
RANKED = ('omnimae', 'crossmae', 'videomae_v2', 'multimae_uncertain', 'segmentation', 'depth_l1', 'depth_berhu')
RANKED += ('mixing', *PROBES)
SINGLE = ('multimae', 'multimae_uncertain', *PROBES)  # what they compute in single precision anyway


@pytest.fixture(autouse=True)
def _scope():
    with DefaultScope.overwrite_default_scope('omnimae'):
        yield


def make_model(name: str) -> BaseModel:
    torch.manual_seed(0)
    model = MODELS.build(MODEL_CONFIGS[name])
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    return (model if name in SINGLE else model.double()).train()


def make_samples(name: str) -> Batch:
    """A step of eight samples that count very differently: from hardly to fully labelled, from none to all hidden."""
    rng = torch.Generator().manual_seed(1)

    def integers(high: int, *shape: int, dtype: torch.dtype = torch.uint8) -> Tensor:
        return torch.randint(high, shape, generator=rng, dtype=dtype)

    ids = [str(number) for number in range(GLOBAL_BATCH)]
    kind = MODEL_CONFIGS[name]['type']
    if kind in ('MaskedAutoencoder', 'Classifier', 'LinearProbe', 'AttentiveProbe'):
        batch = dict(clips=dict(rgb=integers(256, GLOBAL_BATCH, 3, 4, 32, 32)), modality='video', ids=ids)
        if kind != 'MaskedAutoencoder':
            return batch | dict(labels=integers(5, GLOBAL_BATCH, dtype=torch.int64))
        torch.manual_seed(2)
        cfg = MODEL_CONFIGS[name]
        masks = MODELS.build(cfg['mask_generator']['video'])(GLOBAL_BATCH, Grid(2, 4, 4), 'cpu')
        masks = masks.part(cfg.get('decode_ratio', 1))
        if masks.scored is not None:
            masks.scored[:3, 2:] = False
        return batch | dict(masks=masks)
    clips = dict(
        rgb=integers(256, GLOBAL_BATCH, 3, 1, 32, 32),
        depth=integers(60000, GLOBAL_BATCH, 1, 1, 32, 32, dtype=torch.int32),
        semseg=integers(5, GLOBAL_BATCH, 1, 1, 8, 8),
    )
    clips['depth'][1:3] = -1
    if kind == 'MultiMAE':
        order = torch.rand(GLOBAL_BATCH, 48, generator=rng).argsort(1)
        order[:5] = torch.arange(48).roll(-16)  # depth is shown to the first ones, and is not scored
        masks = Masks(*(x.sort(1).values for x in order.split([16, 32], 1)))
        return dict(clips=clips, modality='image', ids=ids, masks=masks)
    target = integers(5, GLOBAL_BATCH, 1, 1, 32, 32) if name == 'segmentation' else clips['depth'] // 300 + 1
    unknown = 255 if name == 'segmentation' else -1
    labelled = torch.tensor([0.1, 1.0, 0.1, 0.0, 0.7, 1.0, 0.1, 0.4]).view(-1, 1, 1, 1, 1)
    target = target.masked_fill(torch.rand(target.shape, generator=rng) >= labelled, unknown)
    return dict(clips=dict(rgb=clips['rgb']), target=target, modality='image', ids=ids)


def take(batch: Batch, rows: list[int]) -> Batch:
    """Some samples of a batch."""

    def pick(value):
        if isinstance(value, Tensor):
            return value[rows].clone()
        if isinstance(value, dict):
            return {key: pick(item) for key, item in value.items()}
        if isinstance(value, Masks):
            return Masks(*map(pick, value))
        return [value[row] for row in rows] if isinstance(value, list) else value

    return {key: pick(value) for key, value in batch.items()}


def run_step(model: nn.Module, batch: Batch, table: list[tuple[int, ...]], rank: int = 0) -> dict[str, Tensor]:
    """Gradients, logged values and buffers of a step; ``table``: sizes of each micro-batch, rank by rank."""
    gradients: dict[str, Tensor] = {}
    inner = getattr(model, 'module', model)
    optimizer = torch.optim.SGD([x for x in model.parameters() if x.requires_grad], lr=0.1)
    optimizer.register_step_pre_hook(
        lambda *_: gradients.update(
            {f'gradient {name}': x.grad for name, x in inner.named_parameters() if x.grad is not None}
        )
    )
    sizes, micro_batches, position = np.array(table).clip(0), [], 0
    for row in table:
        for owner, size in enumerate(row):
            if owner == rank:
                rows = range(position, position + size) if size > 0 else range(-size)  # some are read again
                micro_batches.append(take(batch, [*rows]))
            position += max(size, 0)
    assert position == GLOBAL_BATCH

    class Loop(EpochTrainLoop):
        def __init__(self):
            pass

    logs: dict[str, Tensor] = {}
    loop = Loop()
    loop.batch_sampler = SimpleNamespace(rank=rank, step_sizes=lambda step: sizes)
    loop._runner = SimpleNamespace(
        model=model,
        optim_wrapper=AutocastOptimWrapper(optimizer),
        call_hook=lambda name, outputs=None, **_: logs.update(outputs or {}),
    )
    loop._iter = loop._skipped_in_a_row = 0
    loop._buffers = []
    loop.feed = Feed(iter(()), inner.data_preprocessor)
    loop.run_iter(0, micro_batches)
    buffers = {name: x for name, x in inner.named_buffers() if 'running' in name or 'tracked' in name}
    return {**gradients, **{f'logged {key}': value for key, value in logs.items()}, **buffers}


def assert_same(got: dict[str, Tensor], expected: dict[str, Tensor], case: str) -> None:
    assert got.keys() == expected.keys()
    rtol = 1e-5 if case.split()[0] in SINGLE else 1e-6
    atol = rtol * max(x.abs().max().item() for name, x in expected.items() if name.split()[0] == 'gradient')
    for name, value in expected.items():
        message = functools.partial('{}, {}: {}'.format, case, name)
        torch.testing.assert_close(got[name], value, rtol=rtol, atol=atol, check_dtype=False, msg=message)


@pytest.mark.parametrize('name', MODEL_CONFIGS)
def test_a_step_does_not_depend_on_its_micro_batches(name: str):
    batch = make_samples(name)
    whole = run_step(make_model(name), batch, [(GLOBAL_BATCH,)])
    assert any(x.abs().max() > 1e-3 for key, x in whole.items() if 'gradient' in key)
    for cut in CUTS:
        if name == 'mixing' and any(size % 2 for size in cut):
            continue
        assert_same(run_step(make_model(name), batch, [(size,) for size in cut]), whole, f'{name} {cut}')


def train_a_rank(folder: Path) -> None:
    rank = int(os.environ['RANK'])
    torch.distributed.init_process_group('gloo', init_method=f'file://{folder}/store', rank=rank, world_size=2)
    with DefaultScope.overwrite_default_scope('omnimae'):
        results = {
            (name, cut): run_step(MMDistributedDataParallel(make_model(name)), make_samples(name), table, rank)
            for name in RANKED
            for cut, table in RANKS.items()
            if (name, cut) != ('mixing', 'uneven')
        }
    torch.save(results, folder / f'{rank}.pt')
    torch.distributed.destroy_process_group()


def test_a_step_does_not_depend_on_its_ranks(tmp_path: Path):
    assert [rank.returncode for rank in run_ranks(train_a_rank, tmp_path, output=tmp_path)] == [0, 0]
    whole = {name: run_step(make_model(name), make_samples(name), [(GLOBAL_BATCH,)]) for name in RANKED}
    for rank in (0, 1):
        for (name, cut), result in torch.load(tmp_path / f'{rank}.pt', weights_only=True).items():
            assert_same(result, whole[name], f'{name} {cut}, rank {rank}')


def test_every_model_and_task_with_a_loss_is_tried():
    """A new one has to say above what its loss is a mean over."""
    with_loss = {name for name, part in MODELS.module_dict.items() if hasattr(part, 'loss')}
    tried: set[str] = set()

    def walk(value: object) -> None:
        if isinstance(value, dict):
            tried.add(value.get('type', ''))
            for item in value.values():
                walk(item)

    walk(MODEL_CONFIGS)
    assert {name for name in with_loss if MODELS.get(name).__module__.startswith('omnimae.')} <= tried


def test_masks_that_score_differently_are_drawn_and_counted_before_the_first_forward():
    """Those that score all alike are drawn by the forward, as ever: nothing is drawn or counted for them."""
    batches = [take(make_samples('videomae_v2'), [*rows]) for rows in (range(3), range(3, 8))]
    for batch in batches:
        del batch['masks']
    torch.manual_seed(0)
    assert make_model('omnimae').begin_step([{**batch} for batch in batches], [3, 5], 8) is None
    drawn = [{**batch} for batch in batches]
    counts = make_model('videomae_v2').begin_step(drawn, [3, 5], 8)
    assert [int(count) for count in counts] == [int(batch['masks'].scored.sum()) for batch in drawn]
    assert counts[0] * 5 != counts[1] * 3


def test_the_largest_error_of_a_step_is_that_of_what_is_dropped_in_it():
    torch.manual_seed(0)
    backbone = dict(IMAGE_VIT, drop_path_rate=0.5)
    model = MODELS.build(dict(MODEL_CONFIGS['depth_berhu'], backbone=backbone)).train()
    batches = [take(make_samples('depth_berhu'), [*rows]) for rows in (range(3), range(3, 8))]
    state = torch.get_rng_state()
    with torch.no_grad():
        model.begin_step(batches, [3, 5], 8)
        assert torch.equal(torch.get_rng_state(), state)
        errors = [model.task.errors(model.outputs(batch['clips']), batch['target']) for batch in batches]
        assert not torch.equal(torch.get_rng_state(), state)
    assert batches[0]['largest_error'] == batches[1]['largest_error'] == max(x.max() for x in errors)
