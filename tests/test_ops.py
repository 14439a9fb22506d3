"""The linear layer through oneDNN, and attention in bfloat16, compute what PyTorch's own do."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omnimae.models import ops
from omnimae.models.ops import Linear

pytestmark = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available() or not hasattr(torch.ops.mkldnn, '_linear_pointwise'),
    reason='this build of torch has no oneDNN',
)


@pytest.fixture(autouse=True)
def _onednn(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(ops, 'USE_ONEDNN', True)
    torch.manual_seed(0)


def layers(bias: bool = True) -> tuple[Linear, nn.Linear]:
    ours, theirs = Linear(24, 40, bias=bias), nn.Linear(24, 40, bias=bias)
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


def outcome(layer: nn.Module, x: Tensor, weights: Tensor | float) -> list[Tensor]:
    x = x.detach().requires_grad_()
    y = layer(x)
    (y * weights).sum().backward()
    return [y, x.grad, *(parameter.grad for parameter in layer.parameters())]


@pytest.mark.parametrize('bias', [True, False])
@pytest.mark.parametrize('shape', [(24,), (1, 24), (7, 24), (3, 5, 24), (2, 3, 5, 24)])
def test_values_and_gradients_are_those_of_torch(shape, bias):
    x, weights = torch.randn(shape), torch.randn(*shape[:-1], 40)
    for a, b in zip(*(outcome(layer, x, weights) for layer in layers(bias)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
        assert a.stride() == b.stride()


def test_memory_in_any_order_is_read():
    x = torch.randn(4, 24, 6).transpose(1, 2)  # and the gradient of a sum has no memory of its own
    for a, b in zip(*(outcome(layer, x, 1.0) for layer in layers()), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_only_float32_on_the_cpu_goes_to_onednn(monkeypatch):
    calls = []
    product = ops._product
    monkeypatch.setattr(ops, '_product', lambda *args: (calls.append(args[0].dtype), product(*args))[1])
    ours, _ = layers()
    ours(torch.randn(2, 24))
    assert calls == [torch.float32]
    with torch.autocast('cpu', torch.bfloat16):
        assert ours(torch.randn(2, 24)).dtype == torch.bfloat16
    assert ours.double()(torch.randn(2, 24).double()).dtype == torch.float64
    assert ours.to('meta')(torch.randn(2, 24, device='meta')).shape == (2, 40)
    assert len(calls) == 1


def test_frozen_parameters_get_no_gradient():
    ours, _ = layers()
    ours.requires_grad_(False)
    x = torch.randn(2, 24, requires_grad=True)
    ours(x).sum().backward()
    assert x.grad is not None
    assert ours.weight.grad is None


@pytest.mark.parametrize(('queries', 'keys'), [(20, 20), (10, 512), (513, 513), (400, 900), (785, 785)])
def test_attention_in_bfloat16_is_torchs(queries, keys, monkeypatch):
    blocks = []
    monkeypatch.setattr(ops, '_weights', lambda *args, f=ops._weights: (blocks.append(len(args[0])), f(*args))[1])
    # as the model gives them: heads are a view, and so is the gradient
    q, k, v = (torch.randn(2, n, 3, 24, dtype=torch.bfloat16).transpose(1, 2) for n in (queries, keys, keys))
    weights = torch.randn(2, queries, 3, 24).transpose(1, 2)

    def run(attention, dtype):
        inputs = [x.to(dtype).detach().requires_grad_() for x in (q, k, v)]
        out = attention(*inputs)
        return [out, *torch.autograd.grad(out, inputs, weights.to(dtype))]

    exact = run(F.scaled_dot_product_attention, torch.float64)
    with torch.autocast('cpu', torch.bfloat16):
        ours = run(ops.attend, torch.bfloat16)
    for a, b in zip(ours, exact, strict=True):
        assert a.dtype == torch.bfloat16
        assert (a - b).norm() < 1e-2 * b.norm()
    assert bool(blocks) == (keys > ops.SHORT)
    assert not blocks or max(blocks) <= ops.ROWS
