"""MultiMAE: tokenizers, masks, heads, losses and files, held against the release and a plain path written anew."""

from __future__ import annotations

import csv
import json
import math
import re
from fractions import Fraction
from pathlib import Path

import av
import dense_reference as dense
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmengine.registry import DefaultScope
from odd_videos import ODD
from PIL import Image
from programs import ROOT, TOOLS, environment, run_ranks
from test_datasets import write_video
from test_tools import tool

from omnimae.checkpoint import convert, export, export_timm, load_file, load_weights, to_plain
from omnimae.config import load_config
from omnimae.data.aligned import AlignedDataset, AlignedVideoDataset
from omnimae.data.formats.preparation import prepare_aligned
from omnimae.data.media.errors import BrokenFileError
from omnimae.data.media.orientation import orient
from omnimae.flops import task_rows
from omnimae.models.vit import run_blocks
from omnimae.registry import MODELS
from omnimae.structures import Address, Grid, Masks, token_spans
from omnimae.synthetic.demo import make_maps
from omnimae.visualization.reconstructions import reconstruct_tasks

CONFIGS = Path(__file__).parents[1] / 'configs'


@pytest.fixture(autouse=True)
def _scope():
    with DefaultScope.overwrite_default_scope('omnimae'):
        yield


def multimae(backbone: dict, decoder: dict, clip_size: tuple = (1, 32, 32), patch: tuple = (1, 8, 8), **kwargs):
    """Make a model of three modalities and four tasks; maps of classes have a quarter of the height and width."""
    shared = dict(patch_size=patch, clip_size=clip_size)
    quarter = {key: (x[0], x[1] // 4, x[2] // 4) for key, x in shared.items()}
    tokenizers = dict(
        rgb=dict(type='PatchTokenizer', channels=3, **shared),
        depth=dict(type='PatchTokenizer', channels=1, **shared),
        semseg=dict(type='ClassMapTokenizer', num_classes=133, **quarter),
    )
    head = dict(type='CrossAttentionHead', **decoder)
    parts = dict(
        backbone=dict(type='MultiModalViT', tokenizers=tokenizers, **backbone),
        head=dict(
            rgb=dict(head, error='mse'),
            depth=dict(head, error='l1'),
            semseg=dict(head, error='cross_entropy'),
            norm_rgb=dict(head, modality='rgb', error='mse', target=dict(type='PixelTarget', normalize='patch')),
        ),
        mask_generator=dict(type='DirichletMasking', num_visible=8),
    )
    return MODELS.build(dict(type='MultiMAE', **{**parts, **kwargs}))


# --- against the release ---------------------------------------------------------------------------------------------


def test_outputs_and_losses_equal_the_release():
    golden = np.load(Path(__file__).parent / 'data' / 'multimae_tiny.npz')
    theirs = {key[11:]: torch.from_numpy(golden[key]) for key in golden.files if key.startswith('state_dict/')}
    size = dict(clip_size=(1, 64, 64), patch=(1, 16, 16))
    model = multimae(dict(embed_dim=48, depth=2, num_heads=4), dict(embed_dim=32, num_heads=4), **size)
    for name, x in convert({'model': theirs}).items():
        if name.endswith('pos_embed'):  # the published tables are our fixed ones
            torch.testing.assert_close(x, model.state_dict()[name], rtol=0, atol=1e-6)
    model.load_state_dict(convert({'model': theirs}))
    back = export(model.state_dict(), 'multimae')
    assert all(torch.equal(back.pop(name), x) for name, x in theirs.items())
    assert not back
    clips = {name: torch.from_numpy(golden[f'x/{name}']).unsqueeze(2) for name in ('rgb', 'depth')}
    clips['semseg'] = torch.from_numpy(golden['x/semseg'])[:, None, None]
    masks = Masks.from_hidden(torch.cat([torch.from_numpy(golden[f'masks/{name}']).bool() for name in clips], 1))
    rows, losses = model.predict(clips, masks), model(clips, masks)
    for task, error in dict(rgb='mse', depth='l1', semseg='cross_entropy', norm_rgb='mse').items():
        patches = torch.stack([row['patches'][task] for row in rows])
        side = 4 if task == 'semseg' else 16
        image = patches.view(3, 4, 4, side, side, -1).permute(0, 5, 1, 3, 2, 4).reshape(3, -1, 4 * side, 4 * side)
        torch.testing.assert_close(image, torch.from_numpy(golden[f'out/{task}']), rtol=0, atol=1e-5)
        assert losses[f'{error}_{task}'].item() == pytest.approx(float(golden[f'losses/{task}']), rel=1e-6)
    total = sum(float(golden[f'losses/{task}']) for task in ('rgb', 'depth', 'semseg', 'norm_rgb'))
    assert losses['loss'].item() == pytest.approx(total, rel=1e-6)


def test_arithmetic_by_hand():
    with torch.device('meta'):
        model = MODELS.build(load_config(CONFIGS / 'multimae' / 'vit-b_in1k.py').model)
    whole, masked = task_rows(model)
    embedding = 196 * 768 * (768 + 256 + 1024)
    for row, num_visible in ((whole, 588), (masked, 98)):
        n, weights, width = num_visible + 1, 12 * 12 * 768**2, 256
        assert row.encoder == embedding + n * weights + 12 * 2 * n**2 * 768
        outputs = 196 * width * (768 + 256 + 133 * 16 + 768)
        cross = n * 768 * width + n * 2 * width**2 + 196 * 2 * width**2 + 2 * 196 * n * width + 196 * 8 * width**2
        blocks = 2 * (196 * 12 * width**2 + 2 * 196**2 * width)
        assert row.decoder == 4 * (cross + blocks) + outputs
        assert (row.num_visible, row.num_tokens, row.modality) == (num_visible, 588, 'image')


def test_parameters_are_the_published_ones():
    with torch.device('meta'):
        model = multimae(dict(arch='base'), {}, clip_size=(1, 224, 224), patch=(1, 16, 16))
    dim, d = 768, 256
    block = lambda n: 4 * n + (n * 3 * n + 3 * n) + (n * n + n) + (n * 4 * n + 4 * n) + (4 * n * n + n)  # noqa: E731
    tokenizers = {
        'rgb': 3 * 256 * dim + dim,
        'depth': 256 * dim + dim,
        'semseg': 133 * 64 + 64 * 16 * dim + dim,
    }
    attention = (d * d + d) + (d * 2 * d + 2 * d) + (d * d + d)
    decoder = (dim * d + d) + d + 3 * d + 3 * 2 * d + attention + (d * 4 * d + 4 * d) + (4 * d * d + d) + 2 * block(d)
    outputs = {'rgb': 768, 'depth': 256, 'semseg': 133 * 16, 'norm_rgb': 768}
    heads = {task: decoder + n * d + n for task, n in outputs.items()}

    def count(module: torch.nn.Module) -> int:
        return sum(x.numel() for x in module.parameters())

    assert count(model.backbone.blocks) == 12 * block(dim) == 85_054_464
    assert {name: count(x) for name, x in model.backbone.tokenizers.items()} == tokenizers
    assert {task: count(x) for task, x in model.head.items()} == heads
    assert count(model) == 12 * block(dim) + dim + sum(tokenizers.values()) + sum(heads.values()) == 97_917_072
    rounded = [round(n / 1e6, 2) for n in (*tokenizers.values(), *heads.values())]
    assert rounded == [0.59, 0.20, 0.80, 2.77, 2.63, 3.11, 2.77]


# --- masks -----------------------------------------------------------------------------------------------------------

THREE = dict(rgb=Grid(1, 14, 14), depth=Grid(1, 14, 14), semseg=Grid(1, 14, 14))


def shares(generator: dict, grids: dict[str, Grid] = THREE, batch_size: int = 2000) -> torch.Tensor:
    """(batch_size, modalities): how many tokens of each are seen."""
    masks = MODELS.build(dict(type='DirichletMasking', **generator))(batch_size, grids, 'cpu')
    tokens = torch.cat([masks.visible, masks.decode], 1).sort(1).values
    assert (tokens == torch.arange(tokens.shape[1])).all()
    return torch.stack(
        [((masks.visible >= span.start) & (masks.visible < span.stop)).sum(1) for span in token_spans(grids).values()],
        1,
    )


@pytest.mark.parametrize(('name', 'epochs'), [('vit-b_in1k', 1600), ('vit-b_in1k_400e', 400)])
def test_pretraining_recipes(name, epochs):
    """cfgs/pretrain of the release, and the defaults of run_pretraining_multimae.py."""
    cfg = load_config(CONFIGS / 'multimae' / f'{name}.py')
    [images] = cfg.train_dataloader.dataset.sources.values()
    crop = dict(type='RandomResizedCrop', size=224, scale=(0.2, 1.0), interpolation='bicubic', depth='bicubic')
    assert images.transforms == [crop, dict(type='Flip', prob=0.5)]
    assert cfg.train_dataloader.batch_sampler.global_batch_size == 2048
    optimizer = dict(type='AdamW', lr=8e-4, betas=(0.9, 0.95), weight_decay=0.05, fused=True)
    assert (cfg.optim_wrapper.optimizer, cfg.optim_wrapper.get('clip_grad')) == (optimizer, None)
    schedule = dict(type='WarmupCosineLR', warmup_epochs=40, start_lr=0.0, end_lr=0.0)
    assert cfg.param_scheduler == dict(schedule, rescale=True, peak_in_warmup=True)
    assert cfg.train_cfg.max_epochs == epochs


def test_every_sample_sees_98_of_588_tokens():
    masks = MODELS.build(dict(type='DirichletMasking', num_visible=98))(256, THREE, 'cpu')
    assert (masks.visible.shape, masks.decode.shape, masks.scored) == ((256, 98), (256, 490), None)
    assert (masks.visible.diff(dim=1) > 0).all()  # raster order, none twice
    assert len({tuple(row.tolist()) for row in masks.visible}) == 256


def test_shares_are_uniform_on_the_simplex():
    torch.manual_seed(0)
    counts = shares(dict(num_visible=98))
    assert (counts.sum(1) == 98).all()
    for share in counts.float().T / 98:  # of one modality: P(share < x) = 1 - (1 - x)^2, a mean of 1/3
        assert share.mean().item() == pytest.approx(1 / 3, abs=0.02)
        for x in (0.1, 0.3, 0.6):
            assert (share < x).float().mean().item() == pytest.approx(1 - (1 - x) ** 2, abs=0.04)
    assert counts.min() == 0
    assert counts.max() >= 95  # P(share > 0.97) is 0.0009, for each of 6000


def test_alpha_and_subsets_move_the_shares():
    torch.manual_seed(0)
    even, uneven = (shares(dict(num_visible=98, alpha=alpha)).float().std(0).mean() for alpha in (100.0, 0.1))
    assert even < 6 < 35 < uneven
    first = shares(dict(num_visible=98, alpha=dict(rgb=8.0, depth=1.0, semseg=1.0)))[:, 0].float().mean() / 98
    assert first.item() == pytest.approx(0.8, abs=0.02)
    taking_part = (shares(dict(num_visible=98, uniform_subsets=True)) > 1).sum(1).bincount(minlength=4) / 2000
    assert taking_part.tolist() == pytest.approx([0, 3 / 7, 3 / 7, 1 / 7], abs=0.04)


def test_a_small_modality_is_shown_whole_and_the_rest_made_up():
    grids = dict(rgb=Grid(1, 14, 14), semseg=Grid(1, 2, 2))
    counts = shares(dict(num_visible=98, alpha=dict(rgb=1e-3, semseg=10.0)), grids)
    assert (counts == torch.tensor([94, 4])).all()
    assert shares(dict(num_visible=8), dict(rgb=Grid(1, 4, 4))).unique().tolist() == [8]


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (dict(num_visible=0), r'num_visible=0 and alpha=1.0 must be positive'),
        (dict(num_visible=8, alpha=dict(rgb=0.0)), 'must be positive'),
        (dict(num_visible=48), r'hides nothing of the 48 tokens of \[.rgb., .depth., .semseg.\]. Choose fewer'),
        (dict(num_visible=8, alpha=dict(rgb=1.0)), r"has no value for \['depth', 'semseg'\]. Give one each"),
    ],
)
def test_masks_that_cannot_be_drawn(arguments, message):
    with pytest.raises(ValueError, match=message):
        tiny(mask_generator=dict(type='DirichletMasking', **arguments))


# --- against a plain path --------------------------------------------------------------------------------------------


def tiny(**kwargs) -> torch.nn.Module:
    """Make a small model with random parameters everywhere."""
    model = multimae(dict(embed_dim=24, depth=2, num_heads=2), dict(embed_dim=16, num_heads=2), **kwargs)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            is_norm = re.search(r'norm\d?\.weight$', name) is not None
            parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator) + is_norm)
    return model


def random_clips(batch_size: int = 3, frames: int = 1, side: int = 32) -> dict[str, torch.Tensor]:
    return dict(
        rgb=torch.randn(batch_size, 3, frames, side, side),
        depth=torch.randn(batch_size, 1, frames, side, side),
        semseg=torch.randint(133, (batch_size, 1, frames, side // 4, side // 4), dtype=torch.uint8),
    )


def random_masks(batch_size: int, num_tokens: int, num_visible: int) -> Masks:
    return Masks(*torch.rand(batch_size, num_tokens).argsort(1).tensor_split([num_visible], 1))


def plain_table(t: int, h: int, w: int, dim: int) -> torch.Tensor:
    """(t*h*w, dim): row then column, sines then cosines; and the difference of 1-D sinusoids from step 0."""
    rates = 10000 ** -(np.arange(dim // 4) / (dim // 4))
    time = dense.sinusoid(t, dim)[0].numpy()
    rows = []
    for step in range(t):
        for y in range(h):
            for x in range(w):
                place = np.concatenate([np.sin(y * rates), np.cos(y * rates), np.sin(x * rates), np.cos(x * rates)])
                rows.append(place + time[step] - time[0])
    return torch.tensor(np.array(rows), dtype=torch.float32)


def plain_losses(
    clips: dict[str, torch.Tensor], masks: Masks, p: dict[str, torch.Tensor], patch: tuple
) -> dict[str, torch.Tensor]:
    """All four errors, one sample after the other: convolutions, full-size slots, images put together again."""
    tasks = dict(rgb='rgb', depth='depth', semseg='semseg', norm_rgb='rgb')
    sizes = dict(rgb=patch, depth=patch, semseg=(patch[0], patch[1] // 4, patch[2] // 4))
    start: dict[str, int] = {}
    sums: dict[str, list] = {task: [] for task in tasks}
    for row in range(len(masks.visible)):
        tokens, positions, names = [], [], []
        for name, clip in clips.items():
            x, stem = clip[row : row + 1], f'backbone.tokenizers.{name}'
            if name == 'semseg':
                x = p[f'{stem}.class_embed.weight'][x[:, 0].long()].movedim(-1, 1)
            feature = F.conv3d(x, p[f'{stem}.patch_embed.weight'], p[f'{stem}.patch_embed.bias'], stride=sizes[name])
            grid = feature.shape[2:]
            start[name] = sum(map(len, tokens))
            tokens.append(feature[0].flatten(1).T + plain_table(*grid, 24))
            positions.append(plain_table(*grid, 16))
            names += [name] * len(tokens[-1])
        visible = masks.visible[row]
        x = torch.cat([torch.cat(tokens)[visible], p['backbone.global_tokens'][0]])[None]
        x = dense.blocks(x, p, 'backbone.blocks', 2)[0]
        table = torch.cat(positions)
        for task, modality in tasks.items():
            head = f'head.{task}'
            table_here = table + torch.cat([p[f'{head}.modality_embed.{name}'] for name in names])
            y = F.linear(x, p[f'{head}.decoder_embed.weight'], p[f'{head}.decoder_embed.bias'])
            slots = [p[f'{head}.mask_token'][0]] * len(names)
            for place, token in zip(visible.tolist(), y, strict=False):
                slots[place] = token
            slots = torch.stack(slots) + table_here
            own = slice(start[modality], start[modality] + names.count(modality))
            context = dense.norm(torch.cat([slots[visible], y[-1:]]), p, f'{head}.context_norm')
            queries = dense.norm(slots[own], p, f'{head}.query_norm')
            q = F.linear(queries, p[f'{head}.attn.q.weight'], p[f'{head}.attn.q.bias']).view(-1, 2, 8)
            k, v = F.linear(context, p[f'{head}.attn.kv.weight'], p[f'{head}.attn.kv.bias']).view(-1, 2, 2, 8).unbind(1)
            weights = (torch.einsum('qhd,khd->hqk', q, k) * 8**-0.5).softmax(-1)
            z = torch.einsum('hqk,khd->qhd', weights, v).flatten(1)
            z = F.linear(z, p[f'{head}.attn.proj.weight'], p[f'{head}.attn.proj.bias'])
            inner = F.linear(dense.norm(z, p, f'{head}.norm'), p[f'{head}.mlp.fc1.weight'], p[f'{head}.mlp.fc1.bias'])
            z = z + F.linear(F.gelu(inner), p[f'{head}.mlp.fc2.weight'], p[f'{head}.mlp.fc2.bias'])
            z = dense.blocks(z[None], p, f'{head}.blocks', 2)[0]
            z = F.linear(z, p[f'{head}.pred.weight'], p[f'{head}.pred.bias'])
            truth = clips[modality][row]
            (pt, ph, pw), (t, h, w) = sizes[modality], clips[modality].shape[2:]
            whole = z.view(t // pt, h // ph, w // pw, pt, ph, pw, -1).permute(6, 0, 3, 1, 4, 2, 5).reshape(-1, t, h, w)
            if task == 'norm_rgb':
                cut = truth.unfold(1, pt, pt).unfold(2, ph, ph).unfold(3, pw, pw)
                mean, var = cut.mean((0, 4, 5, 6)), cut.permute(1, 2, 3, 0, 4, 5, 6).flatten(3).var(3)
                grown = [
                    m.repeat_interleave(pt, 0).repeat_interleave(ph, 1).repeat_interleave(pw, 2) for m in (mean, var)
                ]
                truth = (truth - grown[0]) / (grown[1] + 1e-6).sqrt()
            if task == 'semseg':
                error = F.cross_entropy(whole[None], truth.long(), reduction='none')[0]
            else:
                error = ((whole - truth).abs() if task == 'depth' else (whole - truth).square()).mean(0)
            hidden = torch.ones(len(names)).scatter(0, visible, 0.0)[own].view(t // pt, h // ph, w // pw)
            hidden = hidden.repeat_interleave(pt, 0).repeat_interleave(ph, 1).repeat_interleave(pw, 2)
            sums[task].append((error * hidden).sum() / hidden.sum())
    return {task: torch.stack(values).nanmean() for task, values in sums.items()}


@pytest.mark.parametrize(('frames', 'patch'), [(1, (1, 8, 8)), (4, (2, 8, 8))])
def test_losses_and_gradients_equal_the_plain_path(frames, patch):
    torch.manual_seed(1)
    clips, num_tokens = random_clips(3, frames), 3 * 16 * (frames // patch[0])
    model, masks = tiny(clip_size=(frames, 32, 32), patch=patch), random_masks(3, num_tokens, 11)
    parameters = {name: x.detach().clone().requires_grad_() for name, x in model.named_parameters()}
    expected = plain_losses(clips, masks, parameters, patch)
    losses = model(clips, masks)
    for task, error in dict(rgb='mse', depth='l1', semseg='cross_entropy', norm_rgb='mse').items():
        assert losses[f'{error}_{task}'].item() == pytest.approx(expected[task].item(), rel=3e-6), task
    total = sum(expected.values())
    assert losses['loss'].item() == pytest.approx(total.item(), rel=3e-6)
    losses['loss'].backward()
    total.backward()
    for name, parameter in model.named_parameters():
        scale = parameters[name].grad.abs().max() + 1e-3
        assert (parameter.grad - parameters[name].grad).abs().max() < 1e-4 * scale, name


def test_first_weights_are_the_published_ones():
    torch.manual_seed(0)
    model = multimae(dict(embed_dim=96, depth=1, num_heads=2), dict(embed_dim=64, num_heads=2))
    attention = model.backbone.blocks[0].attn.qkv.weight
    for weight, bound in (
        (attention, (6 / (96 + 96)) ** 0.5),
        (model.head.rgb.attn.kv.weight, (6 / (64 + 64)) ** 0.5),
        (model.head.rgb.blocks[0].attn.qkv.weight, (6 / (64 + 64)) ** 0.5),
        (model.backbone.blocks[0].mlp.fc1.weight, (6 / (96 + 384)) ** 0.5),
        (model.backbone.tokenizers.semseg.patch_embed.weight, (6 / (96 + 4 * 64)) ** 0.5),
    ):
        assert 0.98 * bound < weight.abs().max() <= bound
    assert (model.head.rgb.mask_token == 0).all()
    for weight in (model.backbone.global_tokens, model.head.rgb.modality_embed['depth']):
        assert 0.01 < weight.std() < 0.03


# --- what may be given -----------------------------------------------------------------------------------------------


def test_masks_of_the_user_count_per_sample():
    """The published code takes the number of all samples together for each, and is right for one sample only."""
    model, clips = tiny(), random_clips()
    hidden = torch.ones(3, 48, dtype=torch.bool)
    for row, tokens in enumerate(([0, 1, 2, 3], [16, 17, 40, 41], [0, 20, 30, 47])):
        hidden[row, tokens] = False
    together = model.predict(clips, Masks.from_hidden(hidden))
    assert together[1]['visible'].tolist() == [16, 17, 40, 41]
    for row in range(3):
        [alone] = model.predict(
            {name: x[row : row + 1] for name, x in clips.items()}, Masks.from_hidden(hidden[row : row + 1])
        )
        for task, patches in alone['patches'].items():
            torch.testing.assert_close(together[row]['patches'][task], patches)
            torch.testing.assert_close(together[row]['losses'][task], alone['losses'][task])


def test_masks_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"are for 32 tokens, and \['rgb', 'depth', 'semseg'\] have 48"):
        tiny()(random_clips(), random_masks(3, 32, 8))
    masks = random_masks(3, 48, 8)
    with pytest.raises(ValueError, match=r'masks.scored leaves out 30 tokens, .* Give masks with scored=None'):
        tiny()(random_clips(), masks._replace(scored=torch.arange(40).expand(3, -1) < 30))


def test_samples_that_hide_nothing_of_a_modality_do_not_count_there():
    model, clips = tiny(), random_clips(2)
    hidden = torch.ones(2, 48, dtype=torch.bool)
    hidden[0, :16] = False  # sees all of the colours
    hidden[1, 16:32] = False  # and of the depth
    rows, losses = model.predict(clips, Masks.from_hidden(hidden)), model(clips, Masks.from_hidden(hidden))
    assert [row['losses']['rgb'].isnan().item() for row in rows] == [True, False]
    assert [row['losses']['depth'].isnan().item() for row in rows] == [False, True]
    torch.testing.assert_close(losses['mse_rgb'], rows[1]['losses']['rgb'])
    torch.testing.assert_close(losses['l1_depth'], rows[0]['losses']['depth'])
    torch.testing.assert_close(
        losses['cross_entropy_semseg'], (rows[0]['losses']['semseg'] + rows[1]['losses']['semseg']) / 2
    )
    torch.testing.assert_close(rows[0]['loss'], rows[0]['losses']['depth'] + rows[0]['losses']['semseg'])


def test_a_task_that_no_sample_has_to_do_is_zero_and_has_no_gradient():
    model, clips = tiny(), random_clips(2)
    hidden = torch.ones(2, 48, dtype=torch.bool)
    hidden[:, :16] = False
    losses = model(clips, Masks.from_hidden(hidden))
    assert (losses['mse_rgb'], losses['mse_norm_rgb']) == (0, 0)
    losses['loss'].backward()
    assert all(x.grad is not None and x.grad.isfinite().all() for x in model.parameters())
    assert all((x.grad == 0).all() for x in model.head.rgb.parameters())


def test_leaving_a_modality_out_is_hiding_all_of_it():
    model, clips = tiny(), random_clips()
    visible = torch.arange(16).expand(3, -1)
    hidden = torch.arange(16, 48).expand(3, -1)
    all_given = model.predict(clips, Masks(visible, hidden))
    some_given = model.predict({'rgb': clips['rgb']}, Masks(visible, hidden[:, :0]))
    for given, left_out in zip(all_given, some_given, strict=True):
        for task, patches in given['patches'].items():
            torch.testing.assert_close(left_out['patches'][task], patches, rtol=1e-4, atol=1e-5)
        assert set(left_out['losses']) == {'rgb', 'norm_rgb'}


@pytest.mark.parametrize('names', [['depth'], ['semseg', 'rgb'], ['semseg', 'depth', 'rgb']])
def test_any_subset_trains_in_any_order(names):
    model, clips = tiny(), random_clips()
    losses = model({name: clips[name] for name in names})
    errors = dict(rgb=['mse_rgb', 'mse_norm_rgb'], depth=['l1_depth'], semseg=['cross_entropy_semseg'])
    assert set(losses) == {'loss', *(key for name in names for key in errors[name])}
    assert losses['loss'].isfinite()
    rows = model.predict({name: clips[name] for name in names})
    assert {task: tuple(x.shape) for task, x in rows[0]['patches'].items()} == {
        'rgb': (16, 192), 'depth': (16, 64), 'semseg': (16, 4 * 133), 'norm_rgb': (16, 192),
    }  # fmt: skip


def test_decoders_without_blocks_predict():
    head = dict(type='CrossAttentionHead', error='mse', embed_dim=16, num_heads=2, depth=0)
    model, clips = tiny(head=dict(rgb=head)), random_clips()
    model(clips)['loss'].backward()
    assert all(parameter.grad is not None for parameter in model.head.parameters())
    x = torch.randn(2, 5, 16)
    assert torch.equal(run_blocks(model.head.rgb.blocks, x, grad_checkpointing=False, first=2), x[:, 2:])


def test_a_modality_that_no_task_predicts_predicts_others():
    clips = random_clips()
    model = tiny(head=dict(rgb=dict(type='CrossAttentionHead', error='mse', embed_dim=16, num_heads=2)))
    [row, *_] = model.predict({'depth': clips['depth']})
    assert (row['patches']['rgb'].shape, row['losses'], row['loss']) == ((16, 192), {}, 0)
    with pytest.raises(ValueError, match=r"No task of \['rgb'\] predicts one of \['depth'\], so there is no loss"):
        model({'depth': clips['depth']})


def test_images_of_another_size_and_in_a_model_of_videos():
    model = tiny(clip_size=(4, 32, 32), patch=(2, 8, 8))
    for frames, side, num_tokens in ((1, 32, 16), (4, 64, 128), (8, 32, 64)):
        rows = model.predict({'depth': random_clips(2, frames, side)['depth']})
        assert rows[0]['patches']['semseg'].shape == (num_tokens, 2 * 4 * 133)
        assert rows[0]['modality'] == ('image' if frames == 1 else 'video')
        assert rows[0]['loss'].isfinite()


def test_what_cannot_be_given():
    model, clips = tiny(), random_clips()
    for given, message in (({}, 'was given no clip'), ({'heat': clips['depth']}, r"was given \['heat'\]")):
        with pytest.raises(ValueError, match=rf"has tokenizers for \['rgb', 'depth', 'semseg'\], and {message}"):
            model(given)
    with pytest.raises(ValueError, match=r"mode='tensor' is unknown. Choose 'loss' or 'predict'"):
        model(clips, mode='tensor')
    with pytest.raises(
        ValueError, match=r'layers=\[1, 0\] are not ascending numbers of blocks. The backbone has 0 to 1'
    ):
        model.backbone.forward_layers(model.data_preprocessor.normalize(clips), [1, 0])


@pytest.mark.parametrize(
    ('head', 'message'),
    [
        (dict(normals=dict(error='l1')), "no tokenizer for modality='normals'. Choose from .*; a task of another name"),
        (dict(rgb=dict(error='mae')), "error='mae' is unknown. Choose one of mse, l1, cross_entropy"),
        (dict(semseg=dict(error='cross_entropy', target=dict(type='PixelTarget'))), 'is for values, not for classes'),
        (
            dict(depth=dict(error='l1', target=dict(type='PixelTarget'))),
            "of RGB, and modality='depth' has channels=1",
        ),
        (dict(rgb=dict(error='mse', target=dict(type='PixelTarget', frames='first'))), "frames='first' has no effect"),
        (dict(rgb=dict(error='mse', num_heads=3)), 'num_heads=3 does not divide embed_dim=256'),
        (dict(rgb=dict(error='mse', embed_dim=18, num_heads=2)), 'embed_dim=18 is no multiple of 4'),
        ({}, 'head is empty. Name at least one task'),
    ],
)
def test_heads_that_cannot_be_built(head, message):
    with pytest.raises(ValueError, match=message):
        tiny(head={task: dict(type='CrossAttentionHead', **cfg) for task, cfg in head.items()})


def test_layers_of_the_encoder_in_one_pass():
    backbone, clips = tiny().backbone, random_clips()
    first, last = backbone.forward_layers({'semseg': clips['semseg'], 'rgb': clips['rgb']}, [0, 1])
    assert list(first.grids) == ['rgb', 'semseg']  # the tokenizers' order
    torch.testing.assert_close(backbone.blocks[1](first.x), last.x)
    torch.testing.assert_close(backbone({'rgb': clips['rgb'], 'semseg': clips['semseg']}).x, last.x)
    assert torch.equal(last.of('semseg'), last.x[:, 16:32])
    assert torch.equal(last.extra, last.x[:, 32:])
    assert last.extra.shape == (3, 1, 24)
    assert torch.equal(last.maps('semseg')[:, :, 0, 1, 2], last.x[:, 16 + 6])


def test_pixels_without_a_class():
    clips = {'semseg': random_clips()['semseg']}
    clips['semseg'][:, :, :, :4] = 255
    settings = dict(type='ClassMapTokenizer', num_classes=133, clip_size=(1, 8, 8), patch_size=(1, 2, 2))
    padded = MODELS.build(dict(settings, embed_dim=24, padding_class=True))
    patches, _ = padded.patchify(clips['semseg'])
    assert torch.equal(padded.embed(patches)[:, :8], padded.patch_embed.bias.expand(3, 8, -1))
    errors = tiny().head.semseg.errors(torch.randn(3, 16, 4 * 133), patches)
    assert (errors[:, :8] == 0).all()
    assert (errors[:, 8:] > 0).all()


def test_learned_weights_of_the_tasks():
    model, clips = tiny(uncertainty=True), random_clips()
    masks = random_masks(3, 48, 8)
    with torch.no_grad():
        for parameter, value in zip(model.log_variances.values(), (0.5, -0.3, 0.0, 1.0), strict=True):
            parameter.fill_(value)
    losses = model(clips, masks)
    errors = [losses[key].item() for key in ('mse_rgb', 'l1_depth', 'cross_entropy_semseg', 'mse_norm_rgb')]
    variances = [model.log_variances[task].item() for task in ('rgb', 'depth', 'semseg', 'norm_rgb')]
    expected = sum(math.exp(-s) * error + s for s, error in zip(variances, errors, strict=True))
    assert losses['loss'].item() == pytest.approx(expected, rel=1e-5)
    only_colours = model({'rgb': clips['rgb']}, Masks(torch.arange(16).expand(3, -1), torch.zeros(3, 0).long()))
    assert only_colours['loss'] == 0  # a task that has nothing to do has no weight either


def test_decoders_in_float32_within_autocast():
    head = tiny().head.semseg
    latent, visible = torch.randn(2, 9, 24).bfloat16(), torch.arange(8).expand(2, -1)
    grids = {name: Grid(1, 4, 4) for name in ('rgb', 'depth', 'semseg')}
    with torch.autocast('cpu', torch.bfloat16):
        assert head(latent, visible, grids, grids['semseg']).dtype == torch.bfloat16
        head.float32 = True
        assert head(latent, visible, grids, grids['semseg']).dtype == torch.float32


# --- videos beside maps ----------------------------------------------------------------------------------------------


@pytest.fixture(scope='module')
def clips_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A video whose frame i is the grey 4 i, beside depth of 100 i with a row number, and classes of i."""
    root = tmp_path_factory.mktemp('clips')
    write_video(root / 'rgb' / 'walk' / 'a.mp4', num_frames=30)
    frames = np.arange(30)[:, None, None] * np.ones((1, 48, 64), int)
    for name, maps in dict(depth=(100 * frames).astype(np.uint16), semseg=frames.astype(np.uint8)).items():
        (root / name / 'walk').mkdir(parents=True)
        np.save(root / name / 'walk' / 'a.npy', maps)
    return root


def clips_of(root: Path, **more) -> AlignedVideoDataset:
    modalities = dict(rgb={}, depth={}, semseg=dict(kind='classes', num_classes=30, stride=4))
    crop = [dict(type='RandomResizedCrop', size=16)] if more.pop('train', False) else []
    settings = dict(modalities=modalities, clip_seconds=2.0, num_frames=8, transforms=crop)
    return AlignedVideoDataset(root=str(root), **{**settings, **more})


def _views(sample: dict) -> dict[str, torch.Tensor]:
    """Of an evaluation sample, (V, C, T, H, W) each."""
    return {name: clip[0] for name, clip in sample['clips'].items()}


@pytest.mark.parametrize('sampling', [dict(), dict(sampling='sparse'), dict(sampling='strided', stride=3)])
def test_frames_of_all_modalities_are_of_the_same_time(clips_root, sampling):
    for seed in range(20):
        clips = clips_of(clips_root, **sampling, replicas=2, train=True)[Address(0, 0, seed)]['clips']
        assert {name: tuple(x.shape) for name, x in clips.items()} == {
            'rgb': (2, 3, 8, 16, 16), 'depth': (2, 1, 8, 16, 16), 'semseg': (2, 1, 8, 4, 4),
        }  # fmt: skip
        numbers = clips['semseg'][0, 0, :, 0, 0].int()
        assert (clips['depth'][0, 0, :, 0, 0] == 100 * numbers).all()
        assert ((clips['rgb'].float().mean((0, 1, 3, 4)) / 4).round() == numbers).all()
        assert numbers.diff().min() >= 0
    assert (clips['depth'].dtype, clips['semseg'].dtype) == (torch.int32, torch.uint8)


@pytest.mark.parametrize('sampling', [dict(), dict(sampling='sparse'), dict(sampling='spread', stride=2)])
def test_a_second_video_may_be_shorter(clips_root, tmp_path, sampling):
    """Clips lie where both have frames, and maps belong to the frames of the first."""
    for name in ('rgb', 'semseg'):
        (tmp_path / name).symlink_to(clips_root / name)
    write_video(tmp_path / 'heat' / 'walk' / 'a.mp4', num_frames=15)
    modalities = dict(rgb={}, heat=dict(kind='rgb'), semseg=dict(kind='classes'))
    source = clips_of(tmp_path, **sampling, modalities=modalities, clip_seconds=1.0, num_frames=4)
    trained = (source[Address(0, 0, seed)]['clips'] for seed in range(8))
    for clips in (_views(source[0]), *trained):
        numbers = [(clips[name].float().mean((0, 1, 3, 4)) / 4).round().tolist() for name in ('rgb', 'heat')]
        assert numbers[0] == numbers[1] == clips['semseg'][0, 0, :, 0, 0].tolist()
        assert max(numbers[0]) <= 14


MATRICES = {1: (1, 0, 0, 1), 2: (-1, 0, 0, 1), 6: (0, 1, -1, 0), 7: (0, -1, -1, 0)}  # EXIF's number -> a, b, c, d


def write_sides(path: Path, orientation: int) -> np.ndarray:
    """A video of four greys, each in a quarter as it is coded, and a display matrix -> what is coded."""
    coded = np.kron([[0, 80], [160, 240]], np.ones((24, 32), np.uint8)).astype(np.uint8)
    path.parent.mkdir(parents=True)
    with av.open(str(path), 'w') as container:
        stream = container.add_stream('libx264', rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, 'yuv420p'
        a, b, c, d = (65536 * x for x in MATRICES[orientation])
        stream.set_display_matrix([a, b, 0, c, d, 0, 0, 0, 1 << 30])
        for _ in range(10):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.dstack([coded] * 3), format='rgb24')))
        container.mux(stream.encode(None))
    return coded


@pytest.mark.parametrize('aligned_as', ['stored', 'upright'])
@pytest.mark.parametrize('orientation', MATRICES)
def test_maps_of_videos_are_turned_with_them(tmp_path, orientation, aligned_as):
    coded = write_sides(tmp_path / 'rgb' / 'a.mp4', orientation)
    maps = coded if aligned_as == 'stored' else orient(coded[..., None], orientation)[..., 0]
    (tmp_path / 'depth').mkdir()
    np.save(tmp_path / 'depth' / 'a.npy', np.stack([maps] * 10))
    settings = dict(modalities=dict(rgb={}, depth={}), clip_seconds=0.5, num_frames=2)
    clips = clips_of(tmp_path, **settings, **({} if aligned_as == 'stored' else dict(aligned_as='upright')))
    clips = _views(clips[0])
    assert clips['depth'][0, 0, 0].tolist() == orient(coded[..., None], orientation)[..., 0].tolist()
    assert (clips['rgb'][0, :1].int() - clips['depth'][0].int()).abs().float().mean() < 2
    if orientation in (6, 7):
        other = 'upright' if aligned_as == 'stored' else 'stored'
        with pytest.raises(BrokenFileError, match=rf"different sizes, .*aligned_as='{other}'"):
            clips_of(tmp_path, **settings, aligned_as=other)[0]


def test_testing_takes_the_same_clip_every_time(clips_root):
    source = clips_of(clips_root)
    assert torch.equal(source[0]['clips']['depth'], source[0]['clips']['depth'])
    assert _views(source[0])['semseg'][0, 0, :, 0, 0].tolist() == [0, 2, 5, 8, 10, 13, 16, 19]
    assert (source[0]['modality'], source[0]['label'], len(source)) == ('video', 0, 1)


def test_times_of_frames_and_maps_may_round_differently(tmp_path):
    """Frame 81 of 30 a second starts where a clip of 2.7 seconds ends; of 97 maps it would start 4e-16 s earlier."""
    write_video(tmp_path / 'rgb' / 'walk' / 'a.mp4', num_frames=97, fps=30)
    (tmp_path / 'semseg' / 'walk').mkdir(parents=True)
    np.save(tmp_path / 'semseg' / 'walk' / 'a.npy', np.arange(97, dtype=np.uint8).repeat(48 * 64).reshape(97, 48, 64))
    source = clips_of(tmp_path, modalities=dict(rgb={}, semseg=dict(kind='classes')), clip_seconds=2.7, num_frames=2)
    clips = _views(source[0])
    assert (clips['rgb'].float().mean((0, 1, 3, 4)) / 4).round().tolist() == [0, 80 % 64]
    assert clips['semseg'][0, 0, :, 0, 0].tolist() == [0, 80]


@pytest.mark.parametrize('sampling', [dict(clip_seconds=0.7), dict(sampling='sparse')])
def test_maps_have_the_times_of_their_frames_where_the_frame_rate_varies(tmp_path, sampling):
    (tmp_path / 'rgb' / 'walk').mkdir(parents=True)
    (tmp_path / 'semseg' / 'walk').mkdir(parents=True)
    stamps = [*range(10), *range(20, 40, 2), *range(70, 80)]  # in 1 / 20 s
    write_numbered(tmp_path / 'rgb' / 'walk' / 'a.mp4', stamps)
    np.save(tmp_path / 'semseg' / 'walk' / 'a.npy', np.arange(30, dtype=np.uint8).repeat(48 * 64).reshape(30, 48, 64))
    source = clips_of(tmp_path, **sampling, modalities=dict(rgb={}, semseg=dict(kind='classes')), train=True)
    for seed in range(20):
        clips = source[Address(0, 0, seed)]['clips']
        numbers = (clips['rgb'].float().mean((0, 1, 3, 4)) / 4).round()
        assert numbers.tolist() == clips['semseg'][0, 0, :, 0, 0].tolist()


@pytest.mark.parametrize('kind', ['hidden vp8.webm', 'hidden vp9.avi', 'fields.mp4', 'not coded.mp4'])
def test_maps_are_those_of_frames_where_packets_are_not(tmp_path, kind):
    video = Path(ODD[kind](tmp_path))
    (tmp_path / 'rgb').mkdir()
    (tmp_path / 'depth').mkdir()
    video.rename(tmp_path / 'rgb' / f'a{video.suffix}')
    with av.open(str(tmp_path / 'rgb' / f'a{video.suffix}')) as container:
        frames = [frame.to_ndarray(format='rgb24', threads=1) for frame in container.decode(video=0)]
    maps = np.arange(len(frames), dtype=np.uint16).repeat(frames[0][..., 0].size)
    np.save(tmp_path / 'depth' / 'a.npy', maps.reshape(-1, *frames[0].shape[:2]))
    for more in (dict(clip_seconds=0.8), dict(sampling='sparse'), dict(sampling='strided', stride=3)):
        source = clips_of(tmp_path, modalities=dict(rgb={}, depth={}), num_frames=6, **more)
        for clips in (_views(source[0]), *(source[Address(0, 0, seed)]['clips'] for seed in (1, 2))):
            numbers = clips['depth'][0, 0, :, 0, 0].tolist()
            assert len({*numbers}) == 6
            np.testing.assert_array_equal(clips['rgb'][0].movedim(0, -1), [frames[number] for number in numbers])


def write_numbered(path: Path, stamps: list[int]) -> None:
    """A grey of 4 i at each time stamp in 1 / 20 s."""
    with av.open(str(path), 'w') as container:
        stream = container.add_stream('libx264', rate=20)
        stream.height, stream.width, stream.codec_context.time_base = 48, 64, Fraction(1, 20)
        for number, stamp in enumerate(stamps):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 4 * number, np.uint8), 'rgb24')
            frame.pts, frame.time_base = stamp, Fraction(1, 20)
            container.mux(stream.encode(frame.reformat(format='yuv420p')))
        container.mux(stream.encode())


def test_only_the_frames_of_the_clip_are_read(clips_root, monkeypatch):
    opened = []
    load = np.load
    monkeypatch.setattr(np, 'load', lambda *args, **kwargs: opened.append(load(*args, **kwargs)) or opened[-1])
    clips_of(clips_root)[0]
    assert [type(array) for array in opened] == [np.memmap, np.memmap]


@pytest.mark.parametrize(
    ('array', 'message'),
    [
        (np.zeros((30, 48, 64), np.float32), r'float32 \(30, 48, 64\); store integers of shape'),
        (np.zeros((48, 64), np.uint8), r'uint8 \(48, 64\); store integers of shape'),
        (np.full((30, 48, 64), 30, np.uint8), 'has the class 30, and num_classes=30'),
        (np.zeros((30, 48, 60), np.uint8), r"different sizes, .*'semseg': \(48, 60\)"),
        (np.array([[['pickled']]], object), 'Python objects in dtype'),
        (None, 'No data left'),
    ],
)
def test_arrays_that_are_no_maps(clips_root, tmp_path, array, message):
    for name in ('rgb', 'depth'):
        (tmp_path / name).symlink_to(clips_root / name)
    (tmp_path / 'semseg' / 'walk').mkdir(parents=True)
    if array is None:
        (tmp_path / 'semseg' / 'walk' / 'a.npy').touch()
    else:
        np.save(tmp_path / 'semseg' / 'walk' / 'a.npy', array)
    with pytest.raises(BrokenFileError, match=message):
        clips_of(tmp_path)[0]


def test_modalities_of_video_that_cannot_be_used(clips_root):
    for modalities in (dict(depth={}), dict(rgb={}, depth=dict(valid='semseg'))):
        with pytest.raises(ValueError, match="put one of kind='rgb' first, whose videos give the times, and use no"):
            clips_of(clips_root, modalities=modalities)


def test_maps_of_the_demo_fit_their_files(demo_root):
    before = {path: path.stat().st_mtime_ns for path in demo_root.glob('semseg/**/*.png')}
    assert make_maps(demo_root) == len(before) + 2 * 24  # all images, and a video of each place
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())
    image = next(demo_root.glob('images/train/coffee_top_left/*.jpg'))
    depth, classes = (
        np.asarray(Image.open((demo_root / name / image.relative_to(demo_root)).with_suffix('.png')))
        for name in ('depth', 'semseg')
    )
    pixels = np.asarray(Image.open(image))
    assert depth.shape == classes.shape == pixels.shape[:2]
    assert (depth.dtype, classes.dtype) == (np.uint16, np.uint8)
    assert np.corrcoef(depth.flatten(), pixels.mean(2).flatten())[0, 1] > 0.6
    assert classes.max() < 8
    video = demo_root / 'videos' / 'train' / (demo_root / 'depth/videos/train.txt').read_text().splitlines()[0]
    maps = np.load((demo_root / 'depth' / video.relative_to(demo_root)).with_suffix('.npy'))
    with av.open(str(video)) as container:
        assert len(maps) == len([*container.decode(video=0)])


# --- pseudo labels ---------------------------------------------------------------------------------------------------


def write_labels(root: Path) -> None:
    """Six samples: two whole, without depth, without a picture, with depth of another size, with a class too high."""
    for name in 'abcdef':
        size = (8, 10) if name == 'e' else (8, 8)
        files = dict(
            rgb=np.zeros((8, 8, 3), np.uint8),
            depth=np.zeros(size, np.uint16),
            semseg=np.full((8, 8), 133 if name == 'f' else 132, np.uint8),
        )
        files.pop({'c': 'depth', 'd': 'rgb'}.get(name, ''), None)
        for modality, pixels in files.items():
            (root / modality / 'x').mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(root / modality / 'x' / f'{name}.{"jpg" if modality == "rgb" else "png"}')


def test_the_check_of_pseudo_labels_says_what_lacks(tmp_path, capsys):
    write_labels(tmp_path)
    modalities = dict(rgb={}, depth={}, semseg=dict(kind='classes', num_classes=133))
    with pytest.raises(
        ValueError, match=r"has no file for 'x/c' .* the first of 1. Complete it, or leave these out by"
    ):
        AlignedDataset(root=str(tmp_path), modalities=modalities)
    tool('prepare_dataset').main(['multimae', '--root', str(tmp_path), '--workers', '1'])
    assert (tmp_path / 'aligned_list.txt').read_text() == 'x/a.jpg\nx/b.jpg\n'
    with open(tmp_path / 'left_out.csv', newline='') as file:
        reasons = {row['sample']: row['reason'] for row in csv.DictReader(file)}
    assert reasons == {
        'x/c': 'no file of depth',
        'x/d': 'no file of rgb',
        'x/e.jpg': "sizes differ: {'rgb': '8x8', 'depth': '8x10', 'semseg': '8x8'}",
        'x/f.jpg': 'semseg: has the class 133, and num_classes=133',
    }
    assert '2 samples\n1 without rgb\n1 without depth\n0 without semseg\n2 complete' in capsys.readouterr().out
    source = AlignedDataset(root=str(tmp_path), modalities=modalities, ann_file=str(tmp_path / 'aligned_list.txt'))
    assert [source[row]['id'] for row in range(len(source))] == ['x/a.jpg', 'x/b.jpg']


def test_labels_of_which_none_is_whole(tmp_path):
    write_labels(tmp_path)
    for name in 'ab':
        (tmp_path / 'depth' / 'x' / f'{name}.png').write_bytes(b'')
    with pytest.raises(ValueError, match='none of the 6 samples is whole. See .*left_out.csv'):
        prepare_aligned(tmp_path, dict(rgb={}, depth={}, semseg=dict(kind='classes', num_classes=133)))


# --- weights of other models -----------------------------------------------------------------------------------------


def vit(**kwargs) -> torch.nn.Module:
    settings = dict(embed_dim=24, depth=2, num_heads=2, patch_size=(1, 8, 8), clip_size=(1, 32, 32))
    positions = dict(positions='sincos2d', cls_token=True, final_norm=False)
    return MODELS.build(dict(type='SpatioTemporalViT', **{**settings, **positions, **kwargs}))


def saved(model: torch.nn.Module, path: Path) -> str:
    torch.save({'model': export(model.state_dict(), 'multimae')}, path)
    return str(path)


def test_a_classifier_takes_the_colours_of_a_multimae(tmp_path):
    model, path = tiny(), tmp_path / 'theirs.pth'
    backbone = dict(type='SpatioTemporalViT', embed_dim=24, depth=2, num_heads=2, cls_token=True)
    backbone.update(patch_size=(1, 8, 8), clip_size=(1, 32, 32), positions='sincos2d')
    classifier = MODELS.build(dict(type='Classifier', backbone=backbone, num_classes=3))
    report = load_weights(classifier, saved(model, path))
    assert report.source == 'multimae'
    taken = ('backbone.blocks.', 'backbone.tokenizers.rgb.', 'backbone.global_tokens')
    assert {*report.left} == {name for name in model.state_dict() if not name.startswith(taken)}
    clip = torch.randn(2, 3, 1, 32, 32)
    tokens = model.backbone({'rgb': clip})
    torch.testing.assert_close(classifier.backbone(clip), tokens.of('rgb'))  # the order of tokens changes nothing
    torch.testing.assert_close(classifier.backbone.encode(*classifier.backbone.patchify(clip))[:, :1], tokens.extra)


def test_a_masked_autoencoder_takes_no_multimae(tmp_path):
    backbone = dict(type='SpatioTemporalViT', embed_dim=24, depth=2, num_heads=2, patch_size=(1, 8, 8))
    model = MODELS.build(
        dict(
            type='MaskedAutoencoder',
            backbone=dict(backbone, clip_size=(1, 32, 32)),
            head=dict(type='MAEHead', embed_dim=12, depth=1, num_heads=2),
            mask_generator=dict(image=dict(type='RandomMasking', ratio=0.5)),
        )
    )
    with pytest.raises(ValueError, match=r'theirs\.pth: holds a model of several modalities.* or a MultiMAE'):
        load_weights(model, saved(tiny(), tmp_path / 'theirs.pth'))


def test_a_multimae_begins_with_a_plain_vit_and_goes_back(tmp_path):
    plain = vit(final_norm=True)
    state = {f'backbone.{name}': x for name, x in plain.state_dict().items()}
    torch.save(state, tmp_path / 'vit.pth')
    model = tiny()
    before = {name: x.clone() for name, x in model.state_dict().items()}
    report = load_weights(model, tmp_path / 'vit.pth')
    kept = {name for name, x in model.state_dict().items() if torch.equal(x, before[name])}
    assert kept == {*report.initialised}
    assert report.left == ('backbone.norm.weight', 'backbone.norm.bias')
    assert {name for name in kept if name.startswith('backbone.')} == {
        name for name in before if name.startswith(('backbone.tokenizers.depth', 'backbone.tokenizers.semseg'))
    }
    back = to_plain(model.state_dict())[0]
    assert back.keys() == {name for name in state if not name.startswith('backbone.norm.')}
    assert all(torch.equal(back[name], x) for name, x in state.items() if name in back)


@pytest.mark.parametrize('positions', ['learned', 'separable'])
def test_learned_positions_of_a_plain_vit_come_along(positions, tmp_path):
    """Of places, times and the class token: the tokens of the colours are those of the plain ViT."""
    plain = vit(positions=positions, patch_size=(2, 8, 8), clip_size=(4, 32, 32))
    torch.save({f'backbone.{name}': x for name, x in plain.state_dict().items()}, tmp_path / 'vit.pth')
    model = tiny(clip_size=(4, 32, 32), patch=(2, 8, 8))
    report = load_weights(model, tmp_path / 'vit.pth')
    clip = torch.randn(2, 3, 4, 32, 32)
    tokens = model.backbone({'rgb': clip})
    expected = plain.encode(*plain.patchify(clip))
    torch.testing.assert_close(tokens.of('rgb'), expected[:, 1:], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(tokens.extra, expected[:, :1], rtol=1e-5, atol=1e-6)
    assert 'backbone.tokenizers.rgb.pos_embed' in report.loaded
    assert (report.left, report.fixed) == ((), ())


def test_files_of_both_through_the_command(tmp_path):
    model = tiny()
    theirs, ours, again = saved(model, tmp_path / 'theirs.pth'), tmp_path / 'ours.safetensors', tmp_path / 'again.pth'
    convert_checkpoint = tool('convert_checkpoint').main
    convert_checkpoint([theirs, str(ours)])
    convert_checkpoint([str(ours), str(again), '--to', 'multimae'])
    states = [load_file(path)[0] for path in (theirs, again)]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(x, states[1][name]) for name, x in states[0].items())
    torch.save({f'backbone.{name}': x for name, x in vit().state_dict().items()}, tmp_path / 'vit.pth')
    convert_checkpoint([str(tmp_path / 'vit.pth'), str(tmp_path / 'part.pth'), '--to', 'multimae'])
    part = load_file(tmp_path / 'part.pth')[0]
    assert {name.split('.')[0] for name in part} == {'global_tokens', 'input_adapters', 'encoder'}


def test_timm_computes_what_the_encoder_does_of_colours(tmp_path):
    timm = pytest.importorskip('timm')
    model = tiny()
    weights, about = export_timm(to_plain(model.state_dict())[0], model.backbone)
    theirs = timm.models.VisionTransformer(**{**about['model_args'], 'num_classes': 0}).eval()
    theirs.load_state_dict(weights)
    clip = torch.randn(2, 3, 1, 32, 32)
    tokens = model.backbone({'rgb': clip})
    expected = torch.cat([tokens.extra, tokens.of('rgb')], 1)
    torch.testing.assert_close(theirs.forward_features(clip[:, :, 0]), expected, rtol=1e-4, atol=1e-5)


def test_transfer_takes_some_modalities_and_adds_the_class_of_none(tmp_path):
    model, path = tiny(), tmp_path / 'theirs.pth'
    tokenizers = dict(
        semseg=dict(
            type='ClassMapTokenizer', num_classes=133, padding_class=True, patch_size=(1, 2, 2), clip_size=(1, 8, 8)
        ),
        heat=dict(type='PatchTokenizer', channels=1, patch_size=(1, 8, 8), clip_size=(1, 32, 32)),
    )
    target = torch.nn.Module()
    target.backbone = MODELS.build(
        dict(type='MultiModalViT', embed_dim=24, depth=2, num_heads=2, tokenizers=tokenizers)
    )
    report = load_weights(target, saved(model, path))
    assert all(name.startswith('backbone.tokenizers.heat.') for name in report.initialised)
    assert (target.backbone.tokenizers.semseg.class_embed.weight[133] == 0).all()
    clip = {'semseg': random_clips()['semseg']}
    torch.testing.assert_close(target.backbone(clip).x, model.backbone(clip).x)


def test_a_model_of_videos_begins_with_one_of_images(tmp_path):
    model, path = tiny(), tmp_path / 'theirs.pth'
    target = torch.nn.Module()
    tokenizers = dict(rgb=dict(type='PatchTokenizer', channels=3, patch_size=(2, 8, 8), clip_size=(4, 32, 32)))
    target.backbone = MODELS.build(
        dict(type='MultiModalViT', embed_dim=24, depth=2, num_heads=2, tokenizers=tokenizers)
    )
    fresh = target.backbone.tokenizers.rgb.pos_embed.clone()
    report = load_weights(target, saved(model, path))
    assert report.inflated == ('backbone.tokenizers.rgb.patch_embed.weight', 'backbone.tokenizers.rgb.pos_embed')
    torch.testing.assert_close(target.backbone.tokenizers.rgb.pos_embed, fresh)
    image = torch.randn(2, 3, 1, 32, 32)
    torch.testing.assert_close(target.backbone({'rgb': image}).x, model.backbone({'rgb': image}).x)


def test_learned_weights_of_the_tasks_stand_in_no_published_file(tmp_path):
    """One model begins with a file that has none, another leaves them."""
    weighted, plain = tiny(uncertainty=True), tiny()
    names = {f'log_variances.{task}' for task in weighted.head}
    written = [export(model.state_dict(), 'multimae') for model in (weighted, plain)]
    assert written[0].keys() == written[1].keys()
    report = load_weights(weighted, saved(plain, tmp_path / 'theirs.pth'))
    assert ({*report.initialised}, report.left) == (names, ())
    torch.save(weighted.state_dict(), tmp_path / 'weighted.pth')
    report = load_weights(plain, tmp_path / 'weighted.pth', complete=True)
    assert (report.initialised, {*report.left}) == ((), names)
    assert {*load_weights(weighted, tmp_path / 'weighted.pth', complete=True).loaded} >= names


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda x: x.pop('encoder.1.attn.qkv.weight'), r'Missing keys: encoder.1.attn.qkv.weight'),
        (lambda x: x.pop('output_adapters.rgb.query_norm.bias'), 'Missing keys: output_adapters.rgb.query_norm.bias'),
        (lambda x: x.update({'encoder.0.gamma': torch.ones(1)}), 'Keys without a place: encoder.0.gamma'),
        (lambda x: x.pop('input_adapters.depth.proj.weight'), "for 'depth', and the encoder has no adapter"),
    ],
)
def test_files_that_are_not_whole_are_refused(change, message):
    theirs = export(tiny().state_dict(), 'multimae')
    change(theirs)
    with pytest.raises(ValueError, match=message):
        convert(theirs)


def test_what_their_layout_has_no_place_for():
    with pytest.raises(ValueError, match='patches of 2 frames, and this layout is for images alone'):
        export(tiny(clip_size=(2, 32, 32), patch=(2, 8, 8)).state_dict(), 'multimae')
    with pytest.raises(ValueError, match='has 8 places, and this layout is for square images alone'):
        export(tiny(clip_size=(1, 16, 32)).state_dict(), 'multimae')
    with pytest.raises(ValueError, match='has no names for backbone.cls_token'):
        export({f'backbone.{name}': x for name, x in vit().state_dict().items()}, 'multimae')
    with pytest.raises(ValueError, match=r"RGB can be made of a model of \['depth', 'semseg'\] with 1 global tokens"):
        to_plain({key: x for key, x in tiny().state_dict().items() if 'tokenizers.rgb.' not in key})


# --- pictures --------------------------------------------------------------------------------------------------------


def stored_clips(frames: int = 1) -> dict[str, torch.Tensor]:
    """One sample as a data set gives it."""
    return dict(
        rgb=torch.randint(256, (3, frames, 32, 32), dtype=torch.uint8),
        depth=torch.randint(2**16, (1, frames, 32, 32), dtype=torch.int32),
        semseg=torch.randint(133, (1, frames, 8, 8), dtype=torch.uint8),
    )


def test_what_is_seen_stays_and_what_is_not_is_predicted():
    model, clips = tiny(), stored_clips()
    results = reconstruct_tasks(model, clips, inputs=['rgb'])
    assert list(results) == ['rgb', 'depth', 'semseg', 'norm_rgb']
    assert {result.original.shape for result in results.values()} == {(1, 32, 32, 3)}
    picture = clips['rgb'].movedim(0, -1).numpy()
    for task in ('rgb', 'norm_rgb'):
        for view in results[task][:3]:
            np.testing.assert_array_equal(view, picture)
    assert (results['depth'].masked == 127).all()
    assert not (results['depth'].reconstruction == 127).all()
    assert results['depth'].caption.startswith(
        '16 of 16 patches of rgb, 0 of 16 patches of depth, 0 of 16 patches of s'
    )
    # greys rank as depth does, and each class has a colour
    grey, depth = results['depth'].original[0, :, :, 0].flatten(), clips['depth'].flatten().numpy()
    assert (np.diff(grey[depth.argsort()].astype(int)) >= 0).all()
    colours = results['semseg'].original[0, ::4, ::4].reshape(64, 3)
    classes = clips['semseg'].flatten().tolist()
    assert len({(number, tuple(colour)) for number, colour in zip(classes, colours.tolist(), strict=True)}) == len(
        {*classes}
    )


def test_predicted_pictures_are_the_predictions():
    model, clips = tiny(), stored_clips()
    results = reconstruct_tasks(model, {'rgb': clips['rgb']}, inputs=['rgb'])
    everything = Masks(torch.arange(16)[None], torch.zeros(1, 0).long())
    with torch.no_grad():
        [row] = model.predict({'rgb': clips['rgb'][None]}, everything)
    assert list(results) == ['rgb', 'depth', 'semseg', 'norm_rgb']
    assert (results['depth'].original == 127).all()  # nobody knows
    assert results['depth'].caption == '16 of 16 patches of rgb visible. No depth is given.'
    assert 'given' not in results['rgb'].caption
    classes = row['patches']['semseg'].view(4, 4, 2, 2, 133).argmax(-1).permute(0, 2, 1, 3).reshape(8, 8)
    picture = results['semseg'].reconstruction[0, ::4, ::4]
    for number in classes.unique():
        assert len({tuple(colour) for colour in picture[classes == number].tolist()}) == 1
    depth = row['patches']['depth'].view(4, 4, 8, 8).permute(0, 2, 1, 3).reshape(32, 32)
    grey = 255 * (depth - depth.min()) / (depth.max() - depth.min())
    np.testing.assert_allclose(results['depth'].reconstruction[0, :, :, 0], grey.numpy(), atol=0.51)


def test_a_task_that_needs_the_original_is_left_out_without_it():
    model, clips = tiny(), stored_clips()
    assert list(reconstruct_tasks(model, {'depth': clips['depth']}, inputs=['depth'])) == ['rgb', 'depth', 'semseg']
    with pytest.raises(ValueError, match=r"inputs=\['rgb'\] are not all among the clips, \['depth'\]"):
        reconstruct_tasks(model, {'depth': clips['depth']}, inputs=['rgb'])


def test_clips_are_drawn_frame_by_frame():
    results = reconstruct_tasks(tiny(clip_size=(4, 32, 32), patch=(2, 8, 8)), stored_clips(4))
    assert {result.reconstruction.shape for result in results.values()} == {(4, 32, 32, 3)}
    assert 'visible, l1 ' in results['depth'].caption


def test_the_command_draws_images_and_data_sets(demo_root, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv('OMNIMAE_DATA', str(demo_root.parent))
    config, weights, out = CONFIGS / 'demo' / 'multimae.py', tmp_path / 'weights.pth', tmp_path / 'out'
    torch.save(MODELS.build(load_config(config).model).state_dict(), weights)
    photo = next(demo_root.glob('images/val/coffee_top_left/*.jpg'))
    draw = tool('visualize_reconstruction').main
    draw([str(config), str(weights), str(demo_root), str(photo), '--inputs', 'rgb', '--out-dir', str(out)])
    assert len(list(out.glob('*.png'))) == 9
    unread = tmp_path / 'unread.pth'  # inputs are looked at first
    unread.touch()
    with pytest.raises(ValueError, match=r'nowhere is neither an image nor the root of a data set'):
        draw([str(config), str(unread), str(tmp_path / 'nowhere'), '--out-dir', str(out)])
    with pytest.raises(ValueError, match=r'nowhere\.jpg does not exist'):
        draw([str(config), str(unread), str(tmp_path / 'nowhere.jpg'), '--out-dir', str(out)])
    with pytest.raises(ValueError, match=r'coffee_top_left: the folder cannot be the root.* is not a folder'):
        draw([str(config), str(unread), str(photo.parent), '--out-dir', str(out)])
    encoder = {name: x for name, x in load_file(weights)[0].items() if name.startswith('backbone.')}
    torch.save(encoder, tmp_path / 'encoder.pth')
    with pytest.raises(ValueError, match=r'encoder\.pth has no values for head\.'):
        draw([str(config), str(tmp_path / 'encoder.pth'), str(photo), '--out-dir', str(out)])
    config = CONFIGS / 'demo' / 'multimae_video.py'
    torch.save(MODELS.build(load_config(config).model).state_dict(), weights)
    draw([str(config), str(weights), str(demo_root), '--out-dir', str(out / 'clips')])
    assert len(list((out / 'clips').glob('*_depth.png'))) == 8


# --- ranks -----------------------------------------------------------------------------------------------------------


def test_every_parameter_takes_part_in_every_step(tmp_path):
    """DistributedDataParallel refuses the next step where one does not, also if no sample hides any of a modality."""
    torch.distributed.init_process_group('gloo', init_method=f'file://{tmp_path}/store', rank=0, world_size=1)
    try:
        model = torch.nn.parallel.DistributedDataParallel(tiny(uncertainty=True))
        seen = torch.arange(16).expand(3, -1)
        for masks in (None, Masks(seen, torch.arange(16, 48).expand(3, -1)), None):
            model.zero_grad(set_to_none=True)
            model(random_clips(), masks)['loss'].backward()
            assert all(parameter.grad is not None for parameter in model.parameters())
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_ranks_have_the_same_weights(demo_root, tmp_path, monkeypatch):
    monkeypatch.setenv('OMNIMAE_DATA', str(demo_root.parent))
    (tmp_path / 'probe.py').write_text(PROBE)
    config = tmp_path / 'config.py'
    config.write_text(f"""
_base_ = ['{CONFIGS / 'demo' / 'multimae.py'}']
train_cfg = dict(max_epochs=1)
param_scheduler = dict(warmup_epochs=0)
train_dataloader = dict(batch_size=8, num_workers=0, persistent_workers=False)
val_dataloader = val_cfg = val_evaluator = None
custom_imports = dict(imports=['probe'])
custom_hooks = [dict(type='RankHook')]
""")
    words = [config, '--work-dir', tmp_path / 'work', '--launcher', 'pytorch']
    env = environment(PYTHONPATH=f'{tmp_path}:{ROOT}')
    results = run_ranks(TOOLS / 'train.py', *words, output=tmp_path, env=env)
    assert [result.returncode for result in results] == [0, 0], results[0].stderr[-3000:]
    ranks = [json.loads((tmp_path / 'work' / f'rank{rank}.json').read_text()) for rank in range(2)]
    assert len(ranks[0]['ids']) == len(ranks[1]['ids']) == 72
    assert not {*ranks[0]['ids']} & {*ranks[1]['ids']}
    assert ranks[0]['weights'] == ranks[1]['weights']


# A user's own hook: notes what each rank saw and has in the end.
PROBE = """
import json
from pathlib import Path

from mmengine.dist import get_rank
from mmengine.hooks import Hook
from omnimae.registry import HOOKS


@HOOKS.register_module()
class RankHook(Hook):
    ids = []

    def after_train_iter(self, runner, batch_idx, data_batch, outputs=None):
        self.ids += [name for batch in data_batch for name in batch['ids']]

    def after_train(self, runner):
        weights = [parameter.double().sum().item() for parameter in runner.model.parameters()]
        file = Path(runner.work_dir, f'rank{get_rank()}.json')
        file.write_text(json.dumps(dict(ids=self.ids, weights=weights)))
"""
