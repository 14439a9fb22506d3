"""The scripts of benchmarks/ that time a step: they run at a tiny size, and what they compare computes one loss."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from mmengine.config import Config

from omnimae.checkpoint import save_file
from omnimae.config import load_config
from omnimae.registry import MODELS
from omnimae.visualization.reconstructions import HIDDEN_GREY

ROOT = Path(__file__).parents[1]
TINY = dict(
    type='MaskedAutoencoder',
    backbone=dict(
        type='SpatioTemporalViT', embed_dim=48, depth=2, num_heads=4, patch_size=(2, 16, 16), clip_size=(4, 48, 48)
    ),
    head=dict(type='MAEHead', embed_dim=32, depth=2, num_heads=4),
    mask_generator=dict(image=dict(type='RandomMasking', ratio=0.5), video=dict(type='RandomMasking', ratio=0.75)),
)


@pytest.fixture
def bench_step(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / 'benchmarks'))
    import bench_step

    monkeypatch.setattr(bench_step, 'model_config', lambda arch: TINY)
    return bench_step


@pytest.fixture
def bench_scaling(bench_step: ModuleType, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    import bench_scaling

    monkeypatch.setattr(bench_scaling, 'model_config', lambda arch: TINY)
    return bench_scaling


@pytest.mark.slow
def test_steps_are_measured(bench_step, tmp_path, monkeypatch):
    monkeypatch.setattr(bench_step, 'cpu_memory', lambda *_: 1.0)  # a process each
    monkeypatch.setattr(bench_step, 'PEAK_SIZE', {'cpu': 64})
    bench_step.main(['--out', str(tmp_path), '--rounds', '1', '--batch', '2', '1', '--threads', '1'])
    record = json.loads((tmp_path / 'results.json').read_text())
    measured = [(row['modality'], row['precision'], row['path']) for row in record['steps']]
    ways = {'image': ['ours', 'plain', 'mmpretrain'], 'video': ['ours', 'plain']}
    assert measured == [(m, p, way) for m in ('image', 'video') for p in ('fp32', 'bf16') for way in ways[m]]
    assert all(row['seconds'][0] > 0 for row in record['steps'])
    tables = (tmp_path / 'table.md').read_text()
    assert tables.count('| plain |') == 4
    assert '| not fused |' in tables


@pytest.mark.parametrize('modality', ['image', 'video'])
def test_the_plain_path_has_our_loss_and_gradients(bench_step, modality):
    this = bench_step.setup(bench_step.build(TINY, 'cpu'), modality, 2)
    bench_step.check_losses(this)
    gradients = []
    for contender in (bench_step.ours(this), bench_step.plain(this)):
        contender.loss().backward()
        gradients.append([parameter.grad.clone() for parameter in contender.parameters])
        this.model.zero_grad()
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_another_loss_is_refused(bench_step, monkeypatch):
    monkeypatch.setattr(bench_step.dense_reference, 'norm', lambda x, *_: x)
    this = bench_step.setup(bench_step.build(TINY, 'cpu'), 'image', 2)
    with pytest.raises(RuntimeError, match='image: the loss is .*, that of the plain path'):
        bench_step.check_losses(this)


def test_what_a_step_adds_is_counted(bench_step):
    this = bench_step.setup(bench_step.build(TINY, 'cpu'), 'image', 2)
    macs = bench_step.masked_row(this.model, 'image', '', 5).total
    assert this.masks.visible.shape == (2, 5)
    assert this.flops == 2 * 6 * macs
    ways = {name: make(this) for name, make in bench_step.DECODERS.items()}
    flops = [ways[name].setup.flops for name in ('self, half', 'cross, half', 'cross, quarter')]
    assert [this.flops, *flops] == sorted([this.flops, *flops], reverse=True)
    assert all(way.loss().item() > 0 for way in ways.values())


def test_growth_is_measured(bench_scaling, tmp_path, monkeypatch):
    for name, value in dict(VISIBLE=(4, 8), FRAMES=(2, 4), IMAGE_SIZES=(32, 64), WORKERS=(0,), RANK_BATCHES={}).items():
        monkeypatch.setattr(bench_scaling, name, value)
    monkeypatch.setattr(bench_scaling, 'BATCHES', {'image': (1, 2), 'video': (1, 2)})
    monkeypatch.setattr(bench_scaling, 'workers', lambda rounds: bench_scaling.Series('loader', [0], [[1.0]], {}))
    bench_scaling.main(['--out', str(tmp_path), '--rounds', '1', '--threads', '1'])
    record = json.loads((tmp_path / 'results.json').read_text())
    assert [one['values'] for one in record['series']] == [[4, 8], [2, 4], [32, 64], [1, 2], [1, 2], [0]]
    assert record['series'][3]['laws']['linear'] == [1, 2]
    assert (tmp_path / 'scaling.png').exists()
    assert '2 clips: frames' in (tmp_path / 'table.md').read_text()


def test_off_is_relative_to_the_law(bench_scaling):
    one = bench_scaling.Series('x', [1, 2], [[1.0, 1.0, 5.0], [8.0, 8.0, 8.0]], {'linear': [1.0, 2.0]})
    np.testing.assert_allclose(one.off('linear'), [-0.5, 1.0])  # 1 and 4 per unit, 2 in the geometric mean


def test_dual_masking_is_measured(bench_step, tmp_path, monkeypatch):
    import bench_dual_masking

    tiny = Config.fromfile(ROOT / 'configs' / '_base_' / 'models' / 'videomae_v2_vit-base.py').model.to_dict()
    tiny['backbone'] |= dict(arch=None, embed_dim=24, depth=1, num_heads=2, clip_size=(4, 64, 64))
    tiny['head'] |= dict(embed_dim=16, depth=1, num_heads=2)
    monkeypatch.setattr(bench_dual_masking, 'model_config', lambda arch: tiny)
    monkeypatch.setattr(bench_dual_masking, 'cpu_memory', lambda cfg, _, clips, *more: 7.0 + 3.0 * clips)
    bench_dual_masking.main(['--out', str(tmp_path), '--rounds', '1', '--batch', '2', '--threads', '1'])
    alone, both = json.loads((tmp_path / 'results.json').read_text())['steps']
    assert (alone['masks'], alone['decoder_tokens']) == ('encoder', 32)
    assert (both['masks'], both['decoder_tokens']) == ('dual', 4 + 16)  # tubes hide 14 of 16 places, in two slices
    assert alone['encoder_gflops'] == both['encoder_gflops']
    assert alone['decoder_gflops'] > both['decoder_gflops']
    assert alone['memory_of_a_clip_mb'] == 3.0
    assert '| 2 clips, ViT-base | fp32 | encoder and decoder | 20 |' in (tmp_path / 'table.md').read_text()


@pytest.mark.slow
def test_the_plan_is_measured(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / 'benchmarks'))
    import bench_plan

    monkeypatch.setattr(bench_plan, 'STEPS', {'demo/pretrain.py': dict(image=dict(cpu=2), video=dict(cpu=1))})
    monkeypatch.setattr(bench_plan, 'TOKENS', {'cpu': 1024})
    bench_plan.main(['--out', str(tmp_path), '--rounds', '1'])
    record = json.loads((tmp_path / 'results.json').read_text())
    assert [row['step'] for row in record['rows']] == ['demo/pretrain, 2 images', 'demo/pretrain, 1 video']
    assert all(row['error'] == row['foretold'] / row['seconds'] - 1 for row in record['rows'])
    assert '| demo/pretrain, 1 video |' in (tmp_path / 'table.md').read_text()

    # a machine of 2 TFLOP/s in products, 1 in attention, 0.5 with narrow heads, and 100 GB/s
    rates = {step.name: step for step in bench_plan._rate_steps('cpu', reduced=False)}
    seconds = {}
    for name, tflops in {'product': 2, 'attention 64': 1, 'attention 24': 0.5, 'bytes': 1}.items():
        count, line = rates[name].count, np.array([1, rates[name].size])
        is_product = line @ count.flops > 0
        seconds[name] = (line @ count.flops).sum() / tflops / 1e12 + (line @ count.moved)[~is_product].sum() / 1e11
    card = bench_plan._measured_card(rates, seconds, 'cpu')
    shares = card.attention_share, card.narrow_attention_share
    assert (card.float32, card.bandwidth, *shares) == pytest.approx((2, 100, 0.5, 0.25))


def test_draw_ratios_hides_more_and_more(demo_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / 'benchmarks'))
    import draw_ratios

    config = ROOT / 'configs' / 'small' / 'pictures.py'
    save_file(MODELS.build(load_config(config).model).state_dict(), tmp_path / 'drawn.safetensors', {})
    seen, unseen = (next((demo_root / 'images' / split / 'coffee_top_left').iterdir()) for split in ('train', 'val'))
    clip = next((demo_root / 'videos' / 'val' / 'coffee_top_left').iterdir())
    words = [str(config), str(tmp_path / 'drawn.safetensors'), '--out-dir', str(tmp_path / 'out')]
    words += ['--seen', str(seen), '--unseen', str(unseen), str(clip)]
    hidden = []
    sheet = draw_ratios.sheet

    def count(title, rows, columns=()):
        shares = [[(panel == HIDDEN_GREY).all(2).mean() for panel in row.panels] for row in rows]
        hidden.append(np.array(shares))
        return sheet(title, rows, columns)

    monkeypatch.setattr(draw_ratios, 'sheet', count)
    draw_ratios.main(words)
    assert sorted(path.name for path in (tmp_path / 'out').iterdir()) == ['images.png', 'video_1.png']
    video, images = hidden
    for row in images:  # 48, 57 and 60 of 64 tokens
        np.testing.assert_allclose(row[1::2], (48 / 64, 57 / 64, 60 / 64), atol=0.02)
    assert (images[:, ::2] < 0.05).all()
    np.testing.assert_allclose(video[1::2].mean(1), (0.75, 0.9, 0.95), atol=0.06)
    with pytest.raises(ValueError, match='nowhere.jpg does not exist'):
        draw_ratios.main([*words[:-1], 'nowhere.jpg'])
    draw_ratios.main([*words[:3], str(tmp_path / 'clips'), '--seen', str(clip), '--unseen', str(clip)])
    assert sorted(path.name for path in (tmp_path / 'clips').iterdir()) == ['video_1.png', 'video_2.png']
