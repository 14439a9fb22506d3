"""Exported files: their outputs, their metadata, and what is refused."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config

from omnimae import deployment
from omnimae.apis import get_model
from omnimae.checkpoint import save_file
from omnimae.deployment import export_model
from omnimae.models import ops
from omnimae.registry import MODELS

BACKBONE = dict(
    type='SpatioTemporalViT', embed_dim=24, depth=1, num_heads=2, patch_size=(2, 16, 16), clip_size=(4, 32, 32)
)
STATISTICS = dict(type='ClipPreprocessor', mean=(0.5, 0.4, 0.3), std=(0.25, 0.5, 0.125))
MEAN, STD = (torch.tensor(STATISTICS[name]).view(3, 1, 1, 1) for name in ('mean', 'std'))
CROP = [dict(type='ResizeShort', size=36), dict(type='CenterCrop', size=32)]
KINDS = {
    'classifier': dict(type='Classifier', num_classes=3, head_init_std=0.5),
    'class token': dict(
        type='Classifier', num_classes=3, head_init_std=0.5, backbone=dict(BACKBONE, cls_token=True, pool='cls')
    ),
    'linear probe': dict(type='LinearProbe', num_classes=3),
    'attentive probe': dict(type='AttentiveProbe', num_classes=3, num_queries=4),
    'features': dict(type='FrozenBackbone'),
}


def make(kind: str, folder: Path) -> tuple[Config, Path]:
    """A config that tests images, whose classes are named, and weights."""
    source = dict(type='ImageDataset', root='nowhere', transforms=CROP, classes=('cat', 'dög', 'owl'))
    model = dict(dict(backbone=BACKBONE, data_preprocessor=STATISTICS), **KINDS[kind])
    config = Config(dict(default_scope='omnimae', model=model, test_dataloader=dict(dataset=source)))
    save_file(MODELS.build(config.model).state_dict(), folder / 'weights.safetensors', {})
    return config, folder / 'weights.safetensors'


def wanted(config: Config, weights: Path, clip: torch.Tensor) -> np.ndarray:
    """What the model says of uint8 clips."""
    model = get_model(config, weights, device='cpu')
    method = model.features if config.model.type == 'FrozenBackbone' else model.predict
    with torch.no_grad():
        return method(clip).numpy()


def test_a_program_has_the_outputs_of_the_model(tmp_path, monkeypatch):
    monkeypatch.setattr(ops, 'USE_ONEDNN', True)  # its operator is of some CPUs alone
    config, weights = make('attentive probe', tmp_path)
    about = export_model(config, weights, tmp_path / 'out' / 'a.pt2')
    assert about['largest_difference'] < 1e-5
    extra = {'omnimae': ''}
    program = torch.export.load(tmp_path / 'out' / 'a.pt2', extra_files=extra)
    stored = json.loads(extra['omnimae'])
    assert stored == {key: json.loads(json.dumps(about[key])) for key in stored}
    assert about.keys() - stored.keys() == {'largest_difference'}
    assert (stored['classes'], stored['task'], stored['views']) == (['cat', 'dög', 'owl'], 'classification', 1)
    assert stored['transforms'] == CROP
    assert stored['input']['mean'] == [0.5, 0.4, 0.3]
    assert stored['input']['shape'] == ['batch', 3, 32, 32]
    assert not [node for node in program.graph.nodes if 'mkldnn' in str(node.target) or 'autocast' in str(node.target)]
    clip = torch.randint(256, (5, 3, 1, 32, 32), dtype=torch.uint8)
    given = program.module()(((clip / 255 - MEAN) / STD)[:, :, 0]).detach().numpy()
    monkeypatch.setattr(ops, 'USE_ONEDNN', False)
    assert np.ptp(given) > 1e-3
    np.testing.assert_allclose(given, wanted(config, weights, clip), atol=1e-5)
    assert [path.name for path in (tmp_path / 'out').iterdir()] == ['a.pt2']


@pytest.mark.slow
@pytest.mark.parametrize('modality', ['image', 'video'])
@pytest.mark.parametrize('kind', KINDS)
def test_onnx_runtime_has_the_outputs_of_the_model(kind, modality, tmp_path):
    onnxruntime = pytest.importorskip('onnxruntime')
    config, weights = make(kind, tmp_path)
    about = export_model(config, weights, tmp_path / 'a.onnx', modality=modality)
    session = onnxruntime.InferenceSession(tmp_path / 'a.onnx')
    stored = json.loads(session.get_modelmeta().custom_metadata_map['omnimae'])
    assert stored.get('classes') == (None if kind == 'features' else ['cat', 'dög', 'owl'])
    assert session.get_inputs()[0].shape == stored['input']['shape'] == about['input']['shape']
    assert session.get_outputs()[0].name == ('features' if kind == 'features' else 'logits')
    clip = torch.randint(256, (5, 3, 1 if modality == 'image' else 4, 32, 32), dtype=torch.uint8)
    pixels = (clip / 255 - MEAN) / STD
    pixels = pixels[:, :, 0] if modality == 'image' else pixels
    [given] = session.run(None, {modality: pixels.numpy()})
    np.testing.assert_allclose(given, wanted(config, weights, clip), atol=1e-5)


def test_a_file_with_other_outputs_is_not_left(tmp_path, monkeypatch):
    config, weights = make('classifier', tmp_path)
    monkeypatch.setattr(torch.export, 'export', lambda *args, **kwargs: None)

    def write(program, path, about):
        path.write_text('wrong')
        return lambda pixels: torch.zeros(len(pixels), 3)

    monkeypatch.setitem(deployment._WRITERS, '.pt2', write)
    with pytest.raises(ValueError, match=r'a\.pt2: its outputs for a batch of 1 differ by .* No file was left'):
        export_model(config, weights, tmp_path / 'out' / 'a.pt2')
    assert not [*(tmp_path / 'out').iterdir()]


def test_what_cannot_be_exported(tmp_path, monkeypatch):
    config, weights = make('classifier', tmp_path)
    with pytest.raises(ValueError, match=r'a\.pth: the name decides the format. It must end in \.onnx or \.pt2'):
        export_model(config, weights, tmp_path / 'a.pth')
    monkeypatch.setitem(sys.modules, 'onnxscript', None)
    with pytest.raises(ValueError, match='pip install onnx onnxscript onnxruntime'):
        export_model(config, weights, tmp_path / 'a.onnx')


def test_the_input_is_that_of_the_tests(tmp_path):
    config, weights = make('classifier', tmp_path)
    source = dict(type='VideoDataset', num_frames=4, num_clips=2, clip_seconds=1.0)
    source['transforms'] = [dict(type='ResizeShort', size=32), dict(type='ThreeCrop', size=32)]
    config.test_dataloader.dataset = dict(sources=dict(a=config.test_dataloader.dataset, b=source))
    config.test_evaluator = dict(softmax=True)
    _, about = deployment._prepare(config, weights, None, False, None)
    assert about['input']['name'] == about['modality'] == 'video'
    assert about['input']['shape'] == ['batch', 3, 4, 32, 32]
    assert (about['views'], about['average_of_views']) == (6, 'probabilities')
    assert (about['sampling']['num_clips'], about['sampling']['clip_seconds']) == (2, 1.0)
    model, about = deployment._prepare(config, weights, 'image', True, None)
    assert (about['task'], about['input']['shape'], about['views']) == ('features', ['batch', 3, 32, 32], 1)
    assert 'classes' not in about
    with torch.no_grad():
        assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 24)
