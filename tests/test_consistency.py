"""Values of a config that contradict each other are refused, with both keys, both values and where they stand."""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from omnimae.config import load_config
from omnimae.consistency import CROPS

CONFIGS = Path(__file__).parents[1] / 'configs'
SSV2 = 'train_dataloader.dataset.sources.ssv2'


@pytest.mark.parametrize(
    ('name', 'options', 'message'),
    [
        # trained on interpolated positions, and the 112 was ignored
        (
            'omnimae/vit-b_in1k-ssv2',
            {'model.backbone.clip_size': (16, 112, 112)},
            r'in1k_ssv2\.py: train_dataloader\.dataset\.sources\.in1k\.transforms\.0\.size=224: contradicts '
            r'model\.backbone\.clip_size=\(16, 112, 112\) of --cfg-options\. .* set interpolate_positions=True',
        ),
        (
            'omnimae/finetune/vit-b_ssv2',
            {'model.backbone.clip_size': (16, 112, 112)},
            r'transforms\.\d\.size=224: contradicts model\.backbone\.clip_size=\(16, 112, 112\)',
        ),
        (
            'omnimae/vit-b_in1k-ssv2',
            {f'{SSV2}.transforms.0.size': (224, 192)},
            r'--cfg-options: .*ssv2\.transforms\.0\.size=\(224, 192\): contradicts model\.backbone\.clip_size=.*224',
        ),
        (
            'omnimae/vit-b_in1k-ssv2',
            {f'{SSV2}.num_frames': 8},
            r'--cfg-options: train_dataloader\.dataset\.sources\.ssv2\.num_frames=8: contradicts '
            r'model\.backbone\.clip_size=.*16, 224, 224\) of .*omnimae_vit-base\.py',
        ),
        (
            'videomae/v2_vit-g_hybrid',
            {'model.backbone.patch_size': (2, 15, 15)},
            r'size=224: contradicts model\.backbone\.patch_size=\(2, 15, 15\) of --cfg-options\. Choose a multiple',
        ),
        (
            'omnimae/vit-b_in1k-ssv2',  # of the validation, too
            {'val_dataloader.dataset.sources.ssv2.num_frames': 15},
            r'val_dataloader\.dataset\.sources\.ssv2\.num_frames=15: contradicts model\.backbone\.patch_size=.*2, 16',
        ),
        (
            'multimae/vit-b_in1k',
            {'model.backbone.tokenizers.semseg.clip_size': (1, 224, 224)},
            r'size=224: contradicts model\.backbone\.tokenizers\.semseg\.clip_size=\(1, 224, 224\)',
        ),
        (
            'multimae/vit-b_in1k',
            {'model.backbone.tokenizers.semseg.num_classes': 150},
            r'modalities\.semseg\.num_classes=133: contradicts model\.backbone\.tokenizers\.semseg\.num_classes=150',
        ),
        (
            'demo/linear_images',
            {'model.num_classes': 10},
            r'sources\.images\.num_classes=24: contradicts model\.num_classes=10 of --cfg-options',
        ),
        (
            'custom/finetune',
            {'model.num_classes': 3, 'train_dataloader.dataset.sources.images.classes': ['cat', 'dog']},
            r"classes=\['cat', 'dog'\]: contradicts model\.num_classes=3",
        ),
        (
            'demo/knn_images',
            {'test_dataloader.dataset.sources.images.num_classes': 10},
            r'images\.num_classes=10: contradicts test_cfg\.num_classes=24',
        ),
        (
            'mae/vit-b_in1k',
            {'model.head.target.mean': (0.5, 0.5, 0.5)},
            r'model\.head\.target\.mean=\(0\.5, 0\.5, 0\.5\): contradicts model\.data_preprocessor\.mean=.*0\.485',
        ),
        (
            'omnimae/vit-b_in1k-ssv2',
            {'model.mask_generator': {'_delete_': True, 'video': {'type': 'RandomMasking', 'ratio': 0.9}}},
            r"sources\.in1k\.type='ImageDataset': contradicts model\.mask_generator=\['video'\] of --cfg-options\. Add",
        ),
        (
            'omnimae/vit-b_in1k-ssv2',
            {'val_dataloader.dataset.sources.ssv2.num_clips': 5},
            r"sources\.ssv2\.num_clips=5: contradicts val_evaluator='ReconstructionLoss'",
        ),
        (
            'omnimae/vit-b_in1k-ssv2',
            {'train_cfg.max_epochs': 40},
            r'800e\.py: param_scheduler\.warmup_epochs=40: contradicts train_cfg\.max_epochs=40 of --cfg-options',
        ),
    ],
)
def test_contradictions_are_refused(name: str, options: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        load_config(CONFIGS / f'{name}.py', options)


@pytest.mark.parametrize(
    ('name', 'options'),
    [
        # on purpose
        ('omnimae/vit-b_in1k-ssv2', {'model.backbone.clip_size': (16, 112, 112), 'interpolate_positions': True}),
        ('omnimae/vit-b_in1k-ssv2', {f'{SSV2}.num_frames': 8, 'interpolate_positions': True}),
        # tests may have other sizes, and images have one frame
        ('mae/finetune/vit-b_in1k', {'test_dataloader.dataset.sources.images.transforms.1.size': 448}),
        ('omnimae/finetune/vit-b_in1k', {'model.num_classes': 1000}),
        # both at once
        ('omnimae/finetune/vit-b_ssv2', {'model.num_classes': 3}),
        ('omnimae/vit-b_in1k-ssv2', {'train_cfg.max_epochs': 3, 'param_scheduler.warmup_epochs': 1}),
    ],
)
def test_what_agrees_or_is_meant_passes(name: str, options: dict[str, Any]):
    cfg = load_config(CONFIGS / f'{name}.py', options)
    assert cfg.get('interpolate_positions', False) == options.get('interpolate_positions', False)


def test_maps_are_larger_than_what_the_positions_are_for_and_say_so():
    for name in ('multimae/finetune/vit-b_ade20k', 'omnimae/dense/vit-b_depth-nyuv2'):
        path = CONFIGS / f'{name}.py'
        assert load_config(path).interpolate_positions
        with pytest.raises(ValueError, match=r'size=(512|256): contradicts model\.backbone.*\.clip_size='):
            load_config(path, {'interpolate_positions': False})


def test_a_size_of_crops_and_a_number_of_frames_stand_once_in_a_file():
    for path in CONFIGS.rglob('*.py'):
        calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
        said = Counter()
        for call in calls:
            words = {word.arg: word.value.value for word in call.keywords if isinstance(word.value, ast.Constant)}
            crop = words.get('size') if words.get('type') in CROPS else None
            said.update(value for value in (crop, words.get('num_frames')) if value is not None)
        assert not said or max(said.values()) == 1, f'{path}: {said}. Give it a name.'
