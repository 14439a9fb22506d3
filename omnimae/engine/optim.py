"""Precision, parameter groups and learning rate of a training step.

If the paper (arXiv:2206.08356) lacks a number or the release differs from it, a comment has the release's number.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, cast

import torch
from mmengine.dist import all_reduce, get_world_size
from mmengine.logging import MessageHub
from mmengine.optim import BaseOptimWrapper, OptimWrapper, _ParamScheduler
from torch import Tensor, nn

from omnimae.registry import OPTIM_WRAPPER_CONSTRUCTORS, OPTIM_WRAPPERS, OPTIMIZERS, PARAM_SCHEDULERS
from omnimae.structures import Backbone, require, unwrapped

from .devices import choose_device
from .precision import DTYPES, computes
from .sharding import ShardedOptimizer


@OPTIM_WRAPPERS.register_module()
class AutocastOptimWrapper(OptimWrapper):
    """Optimizer wrapper with autocast, on CPU and GPU.

    MMEngine's AmpOptimWrapper needs a GPU, also in 0.11.0rc0. Gradient accumulation is not an argument. The train loop
    sets the number of micro-batches and their weights before each step.

    A step is left out on all ranks if the loss of a micro-batch on any rank, or a gradient, is not finite. With float16
    such a gradient is an overflow: it lowers the loss scale, and ``skipped`` stays false.

    A step does not synchronise with the device. PyTorch's fused Adams and LARS read on the device, as ``found_inf``,
    whether to leave it out. For other optimizers the host reads it, which synchronises once a step.

    Attributes:
        skipped: (), on the device: whether the last step was left out. With float16: because of its loss.
        logs: () each, on the device, of the last step: 'grad_norm' if it is clipped, 'loss_scale' with float16.

    Args:
        optimizer: the optimizer.
        dtype: None trains in float32, 'bfloat16' needs no loss scaling, 'float16' scales the loss dynamically.
        clip_grad: arguments of ``torch.nn.utils.clip_grad_norm_``.
        shard: keep on each rank a part of the optimizer's state, see `ShardedOptimizer`.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        dtype: Literal['bfloat16', 'float16'] | None = None,
        clip_grad: dict[str, Any] | None = None,
        shard: bool = False,
    ) -> None:
        if dtype not in DTYPES:
            raise ValueError(f"optim_wrapper.dtype is {dtype!r}. Choose None, 'bfloat16' or 'float16'.")
        if shard and get_world_size() > 1:
            optimizer = ShardedOptimizer(optimizer)
        super().__init__(optimizer, clip_grad=clip_grad)
        self.dtype = DTYPES[dtype]
        self.device_type = torch.device(choose_device()).type
        if self.device_type == 'cuda' and self.dtype is not None and not computes(self.dtype, 'cuda'):
            raise ValueError(
                f"optim_wrapper.dtype='bfloat16', which {torch.cuda.get_device_name()} lacks. Set optim_wrapper.dtype="
                "'float16', which scales the loss (--cfg-options optim_wrapper.dtype=float16), or None for float32."
            )
        self.scaler = torch.amp.GradScaler(self.device_type, enabled=self.dtype == torch.float16)
        self.skipped = torch.tensor(False)
        self.logs: dict[str, Tensor] = {}
        self._weights: Sequence[float | Tensor] = ()
        self._finite: list[Tensor] = []  # of the micro-batches since the last step

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Autocast, and no gradient exchange for a micro-batch that is not the last of its step."""
        autocast = torch.autocast(self.device_type, dtype=self.dtype, enabled=self.dtype is not None)
        with super().optim_context(model), autocast:
            yield

    def begin_step(self, weights: Sequence[float | Tensor]) -> None:
        """Begin a step with one micro-batch for each weight. Losses are multiplied by the weights, 1 on average."""
        self._weights = weights
        self._accumulative_counts = len(weights)
        self._inner_count, self._max_counts = 0, -1  # micro-batches of this step; MMEngine counts those of the run

    def scale_loss(self, loss: Tensor) -> Tensor:
        """() -> (): the share of a micro-batch in the loss of its step."""
        part = super().scale_loss(loss)
        return part * self._weights[self._inner_count] if self._weights else part

    def backward(self, loss: Tensor, **kwargs: Any) -> None:
        """() -> gradients of the scaled loss, added to the existing ones."""
        self._finite.append(loss.detach().isfinite())
        super().backward(self.scaler.scale(loss), **kwargs)

    def get_lr(self) -> dict[str, list[float]]:
        """Learning rates by name. Empty if the optimizer finds its own."""
        has_rate = all(group.get('lr') is not None for group in self.param_groups)
        return super().get_lr() if has_rate else {}

    def step(self, **kwargs: Any) -> None:
        """Unscale, clip and update, unless something is not finite."""
        self.scaler.unscale_(self.optimizer)
        self.logs = {}
        norm = self._clip()
        finite = torch.stack([*self._finite, norm.isfinite()])
        self._finite.clear()
        finite = torch.stack([finite[:-1].all(), finite.all()]).float()
        all_reduce(finite, 'min')
        loss_is_finite, all_is_finite = finite
        self._update(1 - all_is_finite, **kwargs)
        self.skipped = 1 - all_is_finite
        if self.scaler.is_enabled():
            self._update_scale(loss_is_finite)
            self.skipped = 1 - loss_is_finite
            self.logs['loss_scale'] = self.scaler.scale(torch.ones_like(norm))

    def _clip(self) -> Tensor:
        """Clip the gradients. Returns their norm before that, ()."""
        parameters = [x for group in self.optimizer.param_groups for x in group['params'] if x.grad is not None]
        if self.clip_grad_kwargs and self.clip_func is nn.utils.clip_grad_norm_:
            norm = self.logs[self.grad_name] = self.clip_func(parameters, **self.clip_grad_kwargs)
            return norm
        norm = torch.stack(torch._foreach_norm([x.grad for x in parameters])).norm()
        if self.clip_grad_kwargs:  # by value, which would hide an infinite gradient from the norm
            self.clip_func(parameters, **self.clip_grad_kwargs)
        return norm

    def _update(self, found_inf: Tensor, **kwargs: Any) -> None:
        own: Any = self.optimizer.optim if isinstance(self.optimizer, ShardedOptimizer) else self.optimizer
        # torch 2.15: if the first step of a fused SGD is left out, its momentum is uninitialised memory.
        if getattr(own, '_step_supports_amp_scaling', False) and not isinstance(own, torch.optim.SGD):
            own.grad_scale, own.found_inf = None, found_inf
            self.optimizer.step(**kwargs)
            del own.grad_scale, own.found_inf
        elif not found_inf:  # synchronises
            self.optimizer.step(**kwargs)

    def _update_scale(self, loss_is_finite: Tensor) -> None:
        """Halve the scale after an overflow, double it after 2000 steps without. Keep it if the loss is not finite."""
        state: Any = self.scaler._scale, self.scaler._growth_tracker  # tensors, once a loss was scaled
        before = [x.clone() for x in state]
        self.scaler.update()
        for now, then in zip(state, before, strict=True):
            now.copy_(torch.where(loss_is_finite > 0, now, then))

    def state_dict(self) -> dict[str, Any]:
        """State of the optimizer and of the loss scale."""
        return {**super().state_dict(), 'scaler': self.scaler.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the state. The loss scale of a checkpoint with another precision is absent or empty, and starts anew."""
        state_dict = dict(state_dict)
        if scaler := state_dict.pop('scaler', None):
            self.scaler.load_state_dict(scaler)
        super().load_state_dict(state_dict)


@OPTIMIZERS.register_module()
class LARS(torch.optim.Optimizer):
    """Layer-wise adaptive rate scaling of SGD with momentum (arXiv:1708.03888), as in MAE's linear probe.

    The gradient g of a weight w is scaled by trust_coefficient * |w| / |g + weight_decay * w|, then
    momentum_buffer = momentum * momentum_buffer + g and w -= lr * momentum_buffer. Parameters of one dimension (biases)
    are neither scaled nor decayed. (MMPretrain's LARS also scales them. Its momentum includes the learning rate of each
    step.)

    Args:
        params: parameters, or groups of them.
        lr: learning rate.
        momentum: factor of the buffer in each step.
        weight_decay: of the weights.
        trust_coefficient: size of a step relative to the weight, at a learning rate of 1.
    """

    _step_supports_amp_scaling = True  # PyTorch's flag of an optimizer that reads ``found_inf``

    def __init__(
        self,
        params: Any,
        lr: float,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        trust_coefficient: float = 0.001,
    ) -> None:
        defaults = dict(lr=lr, momentum=momentum, weight_decay=weight_decay, trust_coefficient=trust_coefficient)
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # MMEngine gives no closure
        """Update every parameter that has a gradient, unless there is a ``found_inf``, (), that is not 0."""
        found_inf = getattr(self, 'found_inf', None)
        for group in self.param_groups:
            for parameter in group['params']:
                if parameter.grad is None:
                    continue
                update = parameter.grad
                if parameter.dim() > 1:
                    update = update.add(parameter, alpha=group['weight_decay'])
                    sizes = parameter.norm(), update.norm()
                    scaled = group['trust_coefficient'] * sizes[0] / sizes[1]
                    update = update * torch.where(sizes[0] * sizes[1] > 0, scaled, 1.0)
                state = self.state[parameter]
                if 'momentum_buffer' not in state:
                    state['momentum_buffer'] = torch.zeros_like(parameter)
                momentum = state['momentum_buffer'] * group['momentum'] + update
                _replace(state['momentum_buffer'], momentum, found_inf)
                _replace(parameter, parameter.add(momentum, alpha=-group['lr']), found_inf)


def _replace(old: Tensor, new: Tensor, found_inf: Tensor | None) -> None:
    old.copy_(new if found_inf is None else torch.where(found_inf > 0, old, new))


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class LayerDecayConstructor:
    """Parameter groups with layer-wise learning rates, and no weight decay for some parameters.

    Biases, norms and other parameters of one dimension are not decayed. All others are, as in OmniMAE's release, unless
    ``no_decay`` names them, because methods differ in which tokens and positions they decay.

    The backbone assigns parameters to layers (`Backbone.layer_of`). With L layers, decay d and rule 'release' the
    learning rate is multiplied by d^(L+2) before the layers (patch embedding, class token, learned positions), by
    d^(L+1-i) in layer i, and by d after the layers. Rule 'paper', of BEiT, MAE and the paper's notation, has one factor
    d less everywhere.

    Args:
        optim_wrapper_cfg: config of the wrapper, with ``optimizer``.
        paramwise_cfg: ``layer_decay`` (None: one learning rate, two groups), ``rule``, and ``no_decay``, names of
            parameters or their endings. 'mask_token' is the one of each decoder.
    """

    def __init__(self, optim_wrapper_cfg: dict[str, Any], paramwise_cfg: dict[str, Any] | None = None) -> None:
        options = {'layer_decay': None, 'rule': 'release', 'no_decay': (), **(paramwise_cfg or {})}
        self.layer_decay, self.rule, self.no_decay = (options.pop(key) for key in ('layer_decay', 'rule', 'no_decay'))
        if options:
            raise ValueError(
                f"paramwise_cfg has unknown keys {sorted(options)}; it takes 'layer_decay', 'rule' and 'no_decay'."
            )
        if self.rule not in ('release', 'paper'):
            raise ValueError(f"paramwise_cfg.rule is {self.rule!r}. Choose 'release' or 'paper'.")
        if self.layer_decay is not None and not 0 < self.layer_decay <= 1:
            raise ValueError(f'paramwise_cfg.layer_decay is {self.layer_decay}. Choose None or a factor in (0, 1].')
        if isinstance(self.no_decay, str):
            raise ValueError(f'paramwise_cfg.no_decay is {self.no_decay!r}. Give a list of names.')
        self.wrapper_cfg = dict(optim_wrapper_cfg)
        self.optimizer_cfg = self.wrapper_cfg.pop('optimizer')

    def __call__(self, model: nn.Module) -> OptimWrapper:
        """Build the optimizer over ``model``'s groups and wrap it."""
        optimizer = self._optimizer(self.param_groups(unwrapped(model)))
        return OPTIM_WRAPPERS.build(self.wrapper_cfg, default_args=dict(type='OptimWrapper', optimizer=optimizer))

    def param_groups(self, model: nn.Module) -> list[dict[str, Any]]:
        """One group per learning rate and weight decay, in the order of the model's parameters."""
        self._check_names(model)
        defaults = self._optimizer([torch.zeros(1, requires_grad=True)]).defaults
        rate = defaults.get('lr')  # some optimizers find their own
        if rate is None and self.layer_decay is not None:
            raise ValueError(
                f'optim_wrapper.optimizer={self.optimizer_cfg} has no lr that paramwise_cfg.layer_decay='
                f'{self.layer_decay} could multiply. Give it one, or layer_decay=None.'
            )
        groups: dict[tuple[int, bool], dict[str, Any]] = {}
        for name, parameter, decayed in self._trainable(model):
            exponent = 0 if self.layer_decay is None else self._exponent(name, cast(Backbone, model.backbone))
            group = {
                'params': [],
                **({} if rate is None else {'lr': rate * (self.layer_decay or 1.0) ** exponent}),
                'weight_decay': defaults.get('weight_decay', 0.0) if decayed else 0.0,
            }
            groups.setdefault((exponent, decayed), group)['params'].append(parameter)
        return list(groups.values())

    def _optimizer(self, params: list[Any]) -> torch.optim.Optimizer:
        return OPTIMIZERS.build(dict(self.optimizer_cfg, params=params))

    def _exponent(self, name: str, backbone: Backbone) -> int:
        require(backbone, f'paramwise_cfg.layer_decay={self.layer_decay}', 'num_layers', 'layer_of')
        part, _, own = name.partition('.')
        last = backbone.num_layers + 1
        layer = backbone.layer_of(own) if part == 'backbone' else last
        if layer not in range(last + 1):
            raise ValueError(
                f'{type(backbone).__name__}.layer_of({own!r}) is {layer!r}, which is no number from 0 to {last} '
                '(num_layers + 1).'
            )
        return last + (self.rule == 'release') - layer

    def _trainable(self, model: nn.Module) -> Iterator[tuple[str, nn.Parameter, bool]]:
        """Name, parameter and whether weight decay applies; one with several names by the first."""
        seen: set[nn.Parameter] = set()
        for prefix, module in model.named_modules():
            for name, parameter in module.named_parameters(prefix, recurse=False):
                if parameter.requires_grad and parameter not in seen:
                    seen.add(parameter)
                    spared = any(_ends(name, ending) for ending in ('bias', *self.no_decay))
                    decayed = parameter.dim() > 1 and not isinstance(module, nn.LayerNorm) and not spared
                    yield name, parameter, decayed

    def _check_names(self, model: nn.Module) -> None:
        names = [name for name, _ in model.named_parameters()]
        for ending in self.no_decay:
            if not any(_ends(name, ending) for name in names):
                near = difflib.get_close_matches(ending, {name.rpartition('.')[2] for name in names}, 1)
                raise ValueError(
                    f'paramwise_cfg.no_decay has {ending!r}, and no parameter of the {type(model).__name__} is called '
                    f'so. {f"Did you mean {near[0]!r}?" if near else "Leave it out."}'
                )


def _ends(name: str, ending: str) -> bool:
    """Whether these are the last words of a dotted name."""
    return f'.{name}'.endswith(f'.{ending}')


def warmup_cosine(where: float, peak: float, warmup: float, start_lr: float, end_lr: float, rescale: bool) -> float:
    """Learning rate at the fraction ``where`` of the training, of which ``warmup`` is the linear part.

    With ``rescale`` the cosine starts at the end of the warm-up. Without it the cosine starts at 0, and the learning
    rate drops after the warm-up (in the release's pretraining from 1.6e-3 to 1.59015e-3).
    """
    if where + 1e-6 <= warmup:
        return start_lr + (peak - start_lr) * where / warmup
    if rescale:
        where = (where - warmup) / (1 - warmup)
    return end_lr + 0.5 * (peak - end_lr) * (1 + math.cos(math.pi * where))


@PARAM_SCHEDULERS.register_module()
class WarmupCosineLR(_ParamScheduler):
    """Linear warm-up, then a cosine, set before every optimizer step (see ``warmup_cosine``).

    The peak is the optimizer's ``lr``. All groups have the same factor, including ``end_lr``. The learning rate follows
    from the step and the config alone, so a resumed run follows its own config.

    Args:
        optimizer: given by the Runner.
        warmup_epochs: length of the warm-up.
        start_lr: learning rate of the first step.
        end_lr: learning rate at the end.
        rescale: whether the cosine starts at the end of the warm-up.
        peak_in_warmup: whether the peak is the last step of the warm-up, as in the linspace of VideoMAE and MultiMAE.
            Otherwise it is the first step after the warm-up.
        end: epochs of the whole training. The Runner sets it to those of the train loop.
    """

    def __init__(
        self,
        optimizer: BaseOptimWrapper,
        warmup_epochs: float,
        start_lr: float = 1e-6,
        end_lr: float = 0.0,
        rescale: bool = True,
        *,
        peak_in_warmup: bool = False,
        end: int,
    ) -> None:
        if not 0 <= warmup_epochs < end:
            raise ValueError(
                f'param_scheduler.warmup_epochs is {warmup_epochs}, the training has {end} epochs. '
                'Choose a shorter warm-up (0 for none) or train longer.'
            )
        self.warmup = warmup_epochs / end
        self.start_lr, self.end_lr, self.rescale = start_lr, end_lr, rescale
        self.peak = optimizer.defaults['lr']
        # MMEngine gives a scheduler the epochs, not the steps. EpochTrainLoop writes the steps to the message hub.
        self.num_steps = MessageHub.get_current_instance().get_info('max_iters')
        assert self.num_steps, 'build WarmupCosineLR after EpochTrainLoop'
        steps = round(self.warmup * self.num_steps)
        self.stretch = steps / max(steps - 1, 1) if peak_in_warmup else 1.0
        super().__init__(optimizer, 'lr', end=self.num_steps, by_epoch=False)

    def _get_value(self) -> list[float]:
        where = self.last_step / self.num_steps
        if where < self.warmup:
            where *= self.stretch
        lr = warmup_cosine(where, self.peak, self.warmup, self.start_lr, self.end_lr, self.rescale)
        return [base * lr / self.peak if base else 0.0 for base in self.base_values]

    def state_dict(self) -> dict[str, int]:
        """The position in the schedule."""
        return {'last_step': self.last_step, '_global_step': self._global_step}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Restore the position, and set this config's learning rate for it in place of the checkpoint's."""
        super().load_state_dict(state_dict)
        self.last_step = self._global_step  # last_step stops one step before the end, but a longer run continues
        for group, value in zip(self.optimizer.param_groups, self._get_value(), strict=True):
            group['lr'] = value
