"""The compiled loss: what it computes, how many graphs it takes, and what stays as it was."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import PRETRAINING, TRANSFER, batches, model_config
from tiny_run import CLASSIFY, PRETRAIN, build_runner, losses_of, write_config, write_data
from torch import Tensor, nn
from torch._dynamo import register_backend
from torch._dynamo.testing import CompileCounterWithBackend
from torchvision.ops import StochasticDepth

from omnimae.config import load_config
from omnimae.engine import AutocastOptimWrapper
from omnimae.engine.compiling import compile_loss
from omnimae.registry import MODELS

METHODS = [*PRETRAINING, *TRANSFER]


def step(model: nn.Module, given: dict[str, Any]) -> float:
    """Train a step with the random numbers of step 0 and give its loss."""
    wrapper = AutocastOptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1))
    torch.manual_seed(0)
    loss = model(**given, mode='loss')['loss']
    wrapper.update_params(loss)
    return loss.item()


@pytest.mark.parametrize(
    ('method', 'backend'),
    [
        ('pretrain', 'aot_eager'),
        *((method, 'eager') for method in METHODS if method not in ('pretrain', 'multimae_video', 'depth')),
        *(pytest.param(method, 'aot_eager', marks=pytest.mark.slow) for method in METHODS if method != 'pretrain'),
    ],
)
def test_a_graph_for_each_modality(method: str, backend: str):
    """No break, no graph more in a second epoch; losses and steps, masks and DropPath are those without compile."""
    torch.manual_seed(0)
    cfg = model_config(method, depth=2)  # the first block drops nothing
    if cfg['type'] != 'LinearProbe':
        cfg['backbone'].update(drop_path_rate=0.5, grad_checkpointing=method == 'pretrain')
    model = MODELS.build(cfg).train()
    whole = batches(cfg)
    eager, keys = copy.deepcopy(model), [*model.state_dict()]
    expected = [step(eager, given) for given in whole * 2]

    torch._dynamo.reset()
    counter = CompileCounterWithBackend(backend)
    assert compile_loss(model, dict(backend=counter, fullgraph=True))
    assert [step(model, given) for given in whole * 2] == pytest.approx(expected, rel=1e-5)
    assert counter.frame_count == len(whole)
    assert [*model.state_dict()] == keys
    for one, other in zip(model.parameters(), eager.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


MIXING = """
model['dropout'] = 0.5
model['label_smoothing'] = 0.1
model['data_preprocessor'] = dict(
    type='ClipPreprocessor',
    erasing=dict(type='RandomErasing', fill='noise'),
    mixing=dict(type='MixupCutMix', mixup_alpha=0.8, cutmix_alpha=1.0, switch_prob=0.5),
)
val_dataloader, val_cfg, val_evaluator = test_dataloader, dict(type='ValLoop'), test_evaluator
"""


@pytest.mark.parametrize(
    ('text', 'more', 'graphs'),
    [pytest.param(PRETRAIN, '', 2, id='two', marks=pytest.mark.slow), pytest.param(CLASSIFY, MIXING, 1, id='mixing')],
)
def test_a_whole_training(text: str, more: str, graphs: int, tmp_path: Path):
    """Accumulation, steps that are not full, EMA, checkpointing, mixing, validation in between, going on."""
    config = write_config(tmp_path / 'c.py', text, write_data(tmp_path / 'data'), more)
    counter = CompileCounterWithBackend('aot_eager')
    register_backend(counter, name=f'counting_{graphs}')

    def train(name: str, **options: Any) -> tuple[dict[int, float], dict[str, Tensor]]:
        torch._dynamo.reset()
        counter.clear()
        given = {
            'model.backbone.grad_checkpointing': True,
            'model.backbone.drop_path_rate': 0.5,
            'train_dataloader.batch_size': 4,
            'default_hooks.checkpoint.max_keep_ckpts': 2,
            'custom_hooks': [dict(type='LossesHook'), dict(type='EMAHook')],
        }
        runner = build_runner(config, tmp_path / name, {**given, **options})
        runner.train()
        weights = torch.load(tmp_path / name / 'epoch_2.pth', weights_only=True)
        return losses_of(runner), weights

    compiled = dict(backend=f'counting_{graphs}', fullgraph=True)
    losses, weights = train('eager')
    own, own_weights = train('compiled', compile=compiled)
    assert counter.frame_count == graphs
    assert own == pytest.approx(losses, rel=1e-5)
    for part in ('state_dict', 'ema_state_dict'):
        assert own_weights[part].keys() == weights[part].keys()
        for key, value in weights[part].items():
            ours = own_weights[part][key]
            if key.endswith('qkv.bias'):  # keys' have no gradient but rounding errors, which AdamW makes whole steps of
                value, ours = (x.view(3, -1)[::2] for x in (value, ours))
            torch.testing.assert_close(ours, value, rtol=1e-4, atol=1e-5)
    again, _ = train('again', compile=compiled, resume=True, load_from=str(tmp_path / 'compiled' / 'epoch_1.pth'))
    assert again == {step: loss for step, loss in own.items() if step >= len(own) // 2}


class Layer(nn.Module):
    """The least that has DropPath, dropout and a loss."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.drop = nn.Sequential(nn.Dropout(0.5), StochasticDepth(0.5, mode='row'))

    def forward(self, clip: Tensor, modality: str = 'video', mode: str = 'loss') -> dict[str, Tensor]:
        return {'loss': self.drop(self.layer(clip)).square().mean()}


def test_only_the_loss_of_a_whole_batch_in_training_is_compiled():
    torch._dynamo.reset()
    model, counter = Layer(), CompileCounterWithBackend('eager')
    compile_loss(model, dict(backend=counter))
    calls = []
    for modality, size, training, mode in (
        ('video', 3, True, 'loss'),  # the end of a pass, from which a run was resumed
        ('video', 8, True, 'loss'),
        ('video', 5, True, 'loss'),
        ('image', 4, True, 'loss'),
        ('video', 8, False, 'loss'),
        ('video', 8, True, 'predict'),
        ('video', 8, True, 'loss'),
        ('image', 4, True, 'loss'),
    ):
        model.train(training)(clip=torch.ones(size, 4), modality=modality, mode=mode)
        calls.append(counter.frame_count)
    assert calls == [1, 2, 2, 3, 3, 3, 3, 3]
    twin = copy.deepcopy(model)
    twin.train()(clip=torch.ones(16, 4), mode='loss')
    assert counter.frame_count == 3  # as EMA's copy, say


@pytest.mark.parametrize('method', ['layer', pytest.param('pretrain', marks=pytest.mark.slow)])
def test_inductor_computes_the_same_with_the_same_random_numbers(method: str):
    model, given = Layer(), [dict(clip=torch.randn(8, 4))]
    if method != 'layer':
        cfg = model_config(method, depth=2)
        cfg['backbone'].update(drop_path_rate=0.5)
        model, given = MODELS.build(cfg), batches(cfg)
    eager = copy.deepcopy(model.train())
    compile_loss(model, True)
    losses = [[step(trained, batch) for batch in given * 3] for trained in (eager, model)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)


def test_mistakes_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(ValueError, match="compile='inductor' is neither a bool nor a dict of options"):
        compile_loss(Layer(), 'inductor')
    config = write_config(tmp_path / 'classify.py', CLASSIFY, tmp_path)
    with pytest.raises(ValueError, match="compile.bakend='eager': .* Did you mean 'backend'"):
        load_config(config, {'compile.bakend': 'eager'})
    monkeypatch.setenv('CXX', 'no-compiler')
    with pytest.raises(ValueError, match='needs a compiler for C.., and there is no no-compiler. Install it'):
        compile_loss(Layer(), True)
    assert not compile_loss(Layer(), None)
    assert compile_loss(Layer(), dict(backend='eager'))
