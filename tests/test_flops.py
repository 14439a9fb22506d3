"""The analytic count of arithmetic: against torch's own counter on real forwards, and the paper's savings."""

from __future__ import annotations

import pytest
import torch
from mmengine.registry import DefaultScope
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from omnimae.flops import classifier_rows, masked_row, pretraining_rows
from omnimae.registry import MODELS

PAPER = {
    # arch: (head, patch, visible tokens of image and video in the paper, least reductions)
    'base': (dict(embed_dim=384, depth=4), (2, 16, 16), (19, 78), (5.9, 7.6)),
    'large': (dict(embed_dim=512, depth=4), (2, 16, 16), (19, 78), (7.5, 11.4)),
    'huge': (dict(embed_dim=512, depth=8), (2, 14, 14), (25, 102), (7.5, 11.3)),
}
TINY = dict(embed_dim=24, depth=3, num_heads=2, patch_size=(2, 8, 8), clip_size=(6, 32, 24))


@pytest.fixture(autouse=True)
def _scope(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr('omnimae.models.ops.USE_ONEDNN', False)  # whose products torch's counter does not know
    with DefaultScope.overwrite_default_scope('omnimae'):
        yield


def autoencoder(backbone: dict, head: dict, *, image: float = 0.9, video: float = 0.95, per_modality: bool = False):
    head = dict(type='MAEHead', **head)
    masks = dict(image=dict(type='RandomMasking', ratio=image), video=dict(type='RandomMasking', ratio=video))
    return MODELS.build(
        dict(
            type='MaskedAutoencoder',
            backbone=dict(type='SpatioTemporalViT', **backbone),
            head=dict(image=head, video=head) if per_modality else head,
            mask_generator=masks,
        )
    )


def tiny(**kwargs):
    return autoencoder(TINY, dict(embed_dim=16, depth=2, num_heads=4), image=0.5, video=0.8, **kwargs)


def counted_macs(run) -> int:
    """Let torch count; its explicit attention consists of products that it knows."""
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        run()
    assert counter.get_total_flops() % 2 == 0
    return counter.get_total_flops() // 2


@pytest.mark.parametrize(('modality', 'clip_size'), [('image', (1, 32, 24)), ('video', (6, 32, 24))])
@pytest.mark.parametrize('per_modality', [False, True])
def test_the_count_is_what_torch_counts(modality, clip_size, per_modality):
    model, batch = tiny(per_modality=per_modality), 3
    num_tokens, num_visible = {'image': (12, 6), 'video': (36, 8)}[modality]
    row = masked_row(model, modality, 'masked, as it runs', num_visible)
    assert row.num_tokens == num_tokens
    queries = row.num_tokens * 24 * 16  # embedded once per batch, not in the count
    clip = torch.zeros(batch, 3, *clip_size)
    assert counted_macs(lambda: model.loss(clip, modality)) == batch * row.total + queries


@pytest.mark.parametrize(('row', 'clip_size'), [(0, (1, 32, 24)), (1, (6, 32, 24))])
def test_the_count_of_a_classifier_is_what_torch_counts(row, clip_size):
    model = MODELS.build(dict(type='Classifier', backbone=dict(type='SpatioTemporalViT', **TINY), num_classes=7))
    clip = torch.zeros(2, 3, *clip_size)
    assert counted_macs(lambda: model.predict(clip)) == 2 * classifier_rows(model)[row].total


def test_a_hand_count():
    with torch.device('meta'):
        model = autoencoder(
            dict(embed_dim=4, depth=1, num_heads=1, patch_size=(2, 2, 2), clip_size=(4, 4, 4)),
            dict(embed_dim=2, depth=1, num_heads=1),
        )
    row = masked_row(model, 'video', 'by hand', 2)
    # 2 of 8 tokens: embedding 2*24*4, linear 2*12*4*4, attention 2*2*2*4
    assert row.encoder == 192 + 384 + 32
    # embedding 2*4*2, qkv 8*3*2*2, proj and MLP 6*9*2*2, attention 2*6*8*2, prediction 6*2*24
    assert row.decoder == 16 + 96 + 216 + 192 + 288


@pytest.mark.parametrize('arch', ['base', *(pytest.param(arch, marks=pytest.mark.slow) for arch in ('large', 'huge'))])
def test_masking_saves_what_the_paper_says(arch):
    head, patch_size, visible, least = PAPER[arch]
    with torch.device('meta'):
        model = autoencoder(dict(arch=arch, patch_size=patch_size), head)
    rows = pretraining_rows(model)
    image, video = rows[:3], rows[3:]
    assert tuple(x[2].num_visible for x in (image, video)) == visible
    assert tuple(x[1].num_visible for x in (image, video)) == tuple(n + 1 for n in visible)
    for (whole, _, paper), reduction in zip((image, video), least, strict=True):
        assert whole.total / paper.total >= reduction


def test_vit_base_on_an_image_is_the_known_number():
    with torch.device('meta'):
        backbone = dict(type='SpatioTemporalViT', arch='base')
        model = MODELS.build(dict(type='Classifier', backbone=backbone, num_classes=1000))
    image, video = classifier_rows(model)
    assert image.total / 1e9 == pytest.approx(17.5, abs=0.1)  # 17.6 is published for ViT-B/16 with its class token
    assert video.total / 1e9 == pytest.approx(180.3, abs=0.1)  # 180 is published for VideoMAE's


def test_a_mask_generator_from_outside_needs_no_ratio():
    class HalfMasking:
        def num_hidden(self, grid):
            return grid.num_tokens // 2

    model = tiny()
    model.mask_generator['image'] = HalfMasking()
    rows = [row for row in pretraining_rows(model) if row.modality == 'image']
    assert [(row.what, row.num_visible) for row in rows] == [('all tokens', 12), ('masked, as it runs', 6)]


@pytest.mark.parametrize(('kind', 'head'), [('LinearProbe', 24 * 7), ('FrozenBackbone', 0)])
def test_frozen_backbones_are_counted_with_what_is_on_top(kind, head):
    more = dict(num_classes=7) if kind == 'LinearProbe' else {}
    model = MODELS.build(dict(type=kind, backbone=dict(type='SpatioTemporalViT', **TINY), **more))
    classifier = MODELS.build(dict(type='Classifier', backbone=dict(type='SpatioTemporalViT', **TINY), num_classes=7))
    for frozen, whole in zip(classifier_rows(model), classifier_rows(classifier), strict=True):
        assert frozen.total == whole.total - 24 * 7 + head
