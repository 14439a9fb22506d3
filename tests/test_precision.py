"""Evaluation computes in what the recipe trains in, and what it compares is not rounded."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from test_tools import tool
from tiny_models import batches, model_config
from tiny_run import CLASSIFY, PRETRAIN, build_runner, write_config, write_data

from omnimae.apis import ClassificationInferencer, FeatureExtractor, predict_maps
from omnimae.checkpoint import save_file
from omnimae.config import load_config
from omnimae.engine import ValLoop, dtype_of, evaluating, precision, setup_distributed
from omnimae.models.vit import Mlp
from omnimae.registry import MODELS
from omnimae.structures import is_first

# The training pictures, in the middle.
HELD_OUT = """
held_out = dict(
    batch_size=8,
    num_workers=0,
    dataset=dict(
        type='MixedDataset', sources=dict(pictures=dict(pictures, transforms=[dict(type='CenterCrop', size=32)]))
    ),
    sampler=dict(type='EvalSampler'),
    batch_sampler=dict(type='EvalBatchSampler'),
    collate_fn=dict(type='collate_clips'),
)
"""


@pytest.fixture
def predicted_in(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[torch.dtype]]:
    """What the MLPs of models answer in where nothing is trained, on a CPU that is said to have units for bfloat16."""
    monkeypatch.setattr(torch.cpu, '_is_amx_tile_supported', lambda: True)
    found: list[torch.dtype] = []

    def note(module: torch.nn.Module, inputs: tuple, output: torch.Tensor) -> None:
        if isinstance(module, Mlp) and not torch.is_grad_enabled():
            found.append(output.dtype)

    handle = torch.nn.modules.module.register_module_forward_hook(note)
    yield found
    handle.remove()


def noted(found: list[torch.dtype]) -> set[torch.dtype]:
    dtypes = {*found}
    found.clear()
    return dtypes


def train(config: Path, work_dir: Path, **options: object) -> None:
    build_runner(config, work_dir, {'train_cfg.val_interval': 2, **options}).train()


@pytest.fixture(scope='module')
def data(tmp_path_factory) -> Path:
    return write_data(tmp_path_factory.mktemp('data') / 'made', num_pictures=8, num_movies=1)


@pytest.mark.parametrize('dtype', [None, 'bfloat16'])
def test_a_classifier_is_evaluated_in_what_it_trains_in(data, tmp_path, predicted_in, dtype):
    more = f"""{HELD_OUT}
optim_wrapper['dtype'] = {dtype!r}
val_dataloader = held_out
val_cfg = dict()  # MMEngine's own, by its default
val_evaluator = test_evaluator
custom_hooks = [dict(type='KNNHook', bank_dataloader=held_out, query_dataloader=held_out, interval=2, k=1)]
"""
    config = write_config(tmp_path / 'classify.py', CLASSIFY, data, more)
    expected = {torch.float32 if dtype is None else torch.bfloat16}
    runner = build_runner(config, tmp_path / 'work')
    runner.test()
    assert noted(predicted_in) == expected
    weights = tmp_path / 'weights.safetensors'
    save_file(runner.model.state_dict(), weights, {})
    for kind in (ClassificationInferencer, FeatureExtractor):
        kind(config, weights, progress=False)(data / 'pictures')
        assert noted(predicted_in) == expected
    words = [config, weights, '--out', tmp_path / 'features.npz', '--work-dir', tmp_path / 'work']
    tool('extract_features').main([str(word) for word in words])
    assert noted(predicted_in) == expected

    train(config, tmp_path / 'val', custom_hooks=None)
    assert noted(predicted_in) == expected
    train(config, tmp_path / 'knn', val_dataloader=None, val_cfg=None, val_evaluator=None)
    assert noted(predicted_in) == expected


def test_pretraining_draws_and_validates_in_what_it_trains_in(data, tmp_path, predicted_in, monkeypatch):
    more = f"""{HELD_OUT}
optim_wrapper['dtype'] = 'bfloat16'
val_dataloader = held_out
val_cfg = dict()
val_evaluator = dict(type='ReconstructionLoss')
custom_hooks = [dict(type='ReconstructionHook', interval=2)]
"""
    config = write_config(tmp_path / 'pretrain.py', PRETRAIN, data, more)
    train(config, tmp_path / 'val', custom_hooks=None)
    assert noted(predicted_in) == {torch.bfloat16}
    monkeypatch.setattr(ValLoop, 'run', lambda self: None)
    train(config, tmp_path / 'pictures')
    assert noted(predicted_in) == {torch.bfloat16}
    weights = tmp_path / 'val' / 'epoch_2_raw.safetensors'
    words = [config, weights, data / 'pictures', '--out-dir', tmp_path / 'drawn']
    tool('visualize_reconstruction').main([str(word) for word in words])
    assert noted(predicted_in) == {torch.bfloat16}


def test_neighbours_are_found_in_what_the_loop_says(data, tmp_path, predicted_in):
    more = """
model = dict(type='FrozenBackbone', backbone=model['backbone'])
test_cfg = dict(type='KNNTestLoop', bank_dataloader=test_dataloader, num_classes=2, k=1, dtype='bfloat16')
train_cfg = train_dataloader = optim_wrapper = param_scheduler = None
"""
    config = write_config(tmp_path / 'knn.py', CLASSIFY, data, more)
    runner = build_runner(config, tmp_path / 'work')
    runner.test()
    assert noted(predicted_in) == {torch.bfloat16}
    assert runner.test_loop.bank.dtype == torch.float32
    assert dtype_of(load_config(config)) == 'bfloat16'


def test_maps_are_predicted_in_what_the_recipe_trains_in(tmp_path, predicted_in):
    cfg = Config(
        dict(model=model_config('multimae_finetune'), optim_wrapper=dict(dtype='bfloat16'), default_scope='omnimae')
    )
    cfg.model.backbone.tokenizers = dict(rgb=cfg.model.backbone.tokenizers['rgb'])
    weights = tmp_path / 'weights.safetensors'
    with DefaultScope.overwrite_default_scope('omnimae'):
        save_file(MODELS.build({**cfg.model, 'init_cfg': None}).state_dict(), weights, {})
        [result] = predict_maps(cfg, weights, np.zeros((64, 64, 3), np.uint8))
    assert result.error is None
    assert noted(predicted_in) == {torch.bfloat16}


def test_what_a_config_trains_in():
    def of(**wrapper: object) -> str | None:
        return dtype_of(Config(dict(optim_wrapper=wrapper, test_cfg=dict(dtype='float16'))))

    assert of(type='AutocastOptimWrapper') is None
    assert of(type='AutocastOptimWrapper', dtype='bfloat16') == 'bfloat16'
    assert of(type='AmpOptimWrapper') == 'float16'
    assert of(type='AmpOptimWrapper', dtype='bfloat16') == 'bfloat16'
    assert dtype_of({}) is None


def test_evaluation_is_reduced_only_where_the_device_has_units_for_it(monkeypatch):
    def autocast(dtype: str | None, device: str) -> torch.dtype | None:
        with evaluating(dtype, device):
            return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None

    assert autocast('bfloat16', 'cpu') is None
    for name in ('_is_avx512_bf16_supported', '_is_amx_tile_supported'):
        with monkeypatch.context() as patch:
            patch.setattr(torch.cpu, name, lambda: True)
            assert autocast('bfloat16', 'cpu') == torch.bfloat16
            assert autocast('float16', 'cpu') is None
            assert autocast(None, 'cpu') is None
    for has_units in (False, True):
        monkeypatch.setattr(torch.cuda, 'is_bf16_supported', lambda including_emulation=True, has=has_units: has)
        assert precision.computes(torch.bfloat16, 'cuda') == has_units
        assert precision.computes(torch.float16, 'cuda')


@pytest.mark.parametrize('method', ['finetune_videos', 'linear_images'])
def test_scores_are_not_rounded_to_equal_ones(method):
    """Of 1000 classes with scores near one another bfloat16 leaves some dozen different ones."""
    cfg = model_config(method)
    with DefaultScope.overwrite_default_scope('omnimae'):
        torch.manual_seed(0)
        model = MODELS.build({**cfg, 'num_classes': 1000}).eval()
    head = [module for module in model.modules() if isinstance(module, torch.nn.Linear)][-1]
    torch.nn.init.ones_(head.bias)
    [batch] = batches(cfg, size=2)
    with torch.no_grad(), torch.autocast('cpu', torch.bfloat16):
        scores = model.predict(batch['clip'])
    assert scores.dtype == torch.float32
    assert all(len(row.unique()) > 990 for row in scores)


@pytest.mark.parametrize('method', ['multimae_finetune', 'depth'])
def test_maps_are_not_rounded_to_equal_numbers(method):
    cfg = model_config(method)
    if method == 'multimae_finetune':
        cfg['task']['num_classes'] = 150
    with DefaultScope.overwrite_default_scope('omnimae'):
        torch.manual_seed(0)
        model = MODELS.build(cfg).eval()
    layers = [module for module in model.head.modules() if isinstance(module, torch.nn.Conv2d)]
    torch.nn.init.ones_(layers[-1].bias)
    [batch] = batches(cfg, size=2)
    with torch.no_grad(), torch.autocast('cpu', torch.bfloat16):
        output = model.outputs(batch['clips'])
    assert output.dtype == torch.float32
    if method == 'depth':
        assert len(output.unique()) > 0.9 * output.numel()
    else:
        assert is_first(output, output.argmax(1)).all()


def test_float32_precision_is_one_switch(tmp_path, data, monkeypatch):
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    config = write_config(tmp_path / 'classify.py', CLASSIFY, data)

    def products(*options: tuple[str, str]) -> tuple[str, bool]:
        setup_distributed(load_config(config, dict(options)))
        return torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32

    torch.set_float32_matmul_precision('highest')
    try:
        assert products()[0] == 'highest'  # a CPU has its own precision
        monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
        assert products() == ('high', True)
        assert products(('env_cfg.float32_precision', 'highest')) == ('highest', False)
        with pytest.raises(ValueError, match=r"env_cfg\.float32_precision='tf32': .* takes 'high' or 'highest'"):
            products(('env_cfg.float32_precision', 'tf32'))
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]
