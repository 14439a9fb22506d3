"""The compiled loss: what it computes, how many graphs it takes, and what stays as it was."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import PRETRAINING, TRANSFER, batches, model_config
from tiny_run import CLASSIFY, write_config
from torch import Tensor, nn
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
    cfg = model_config(method)
    if cfg['type'] != 'LinearProbe':
        cfg['backbone'].update(drop_path_rate=0.2, grad_checkpointing=method == 'pretrain')
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


def test_inductor_draws_the_same_random_numbers():
    model = Layer().train()
    clip, losses = torch.randn(8, 4), []
    for compiled in (False, True):
        if compiled:
            compile_loss(model, True)
        torch.manual_seed(0)
        losses.append([model(clip=clip, mode='loss')['loss'].item() for _ in range(5)])
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
