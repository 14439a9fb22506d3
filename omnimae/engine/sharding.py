"""An optimizer with a part of its state on each rank (ZeRO, stage 1: arXiv:1910.02054)."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.optim import Optimizer
from torch.utils._pytree import tree_leaves, tree_map_only


class ShardedOptimizer(ZeroRedundancyOptimizer):
    """PyTorch's ZeroRedundancyOptimizer around any optimizer: the same numbers, a part of the state on each rank.

    Each rank updates the parameters whose state it has, and sends them to the others. A checkpoint has the state of all
    parameters, as without sharding. So a run may resume on any number of ranks, sharded or not.

    PyTorch's ``state_dict`` pickles each part and sends it to all ranks, in GPU memory. Here the tensors go to the
    main rank, one by one. PyTorch's ``load_state_dict`` moves Adam's step counts to the CPU, but ``fused=True`` needs
    them on the GPU. Neither is mended in torch 2.14.

    Args:
        optimizer: an optimizer without state. It is changed to hold the parameters of this rank.
    """

    _default_device: torch.device  # PyTorch's class has no such annotation

    def __init__(self, optimizer: Optimizer) -> None:
        def keep(groups: list[dict[str, Any]]) -> Optimizer:
            optimizer.param_groups = []
            for group in groups:
                optimizer.add_param_group(group)
            return optimizer

        # PyTorch would build another one from its defaults, which may lack some of its arguments.
        super().__init__(optimizer.param_groups, keep)  # type: ignore[arg-type]
        self.defaults = optimizer.defaults
        numbers = {x: number for number, x in enumerate(_parameters(self))}
        self._numbers = [numbers[x] for x in _parameters(self.optim)]  # of the parameters of this rank, among all

    def state_dict(self) -> dict[str, Any]:
        """The state of all parameters on the main rank, empty on the others. All ranks call this together."""
        own = {self._numbers[place]: entry for place, entry in self.optim.state_dict()['state'].items()}
        forms: list[Any] = [None] * self.world_size
        dist.gather_object(tree_map_only(Tensor, lambda x: x.to('meta'), own), forms if self.rank == 0 else None)
        if self.rank > 0:
            for x in tree_leaves(own):
                if isinstance(x, Tensor):
                    dist.send(x.to(self._default_device).contiguous(), 0)
            return {}
        state = tree_map_only(Tensor, Tensor.cpu, own)
        for rank in range(1, self.world_size):
            state |= tree_map_only(Tensor, partial(self._receive, rank), forms[rank])
        return {**Optimizer.state_dict(self), 'state': dict(sorted(state.items()))}

    def _receive(self, rank: int, form: Tensor) -> Tensor:
        x = torch.empty(form.shape, dtype=form.dtype, device=self._default_device)
        dist.recv(x, rank)
        return x.cpu()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load this rank's part of the state of all parameters."""
        state, groups = state_dict['state'], self.optim.state_dict()['param_groups']
        own = {place: state[number] for place, number in enumerate(self._numbers) if number in state}
        for group, given in zip(groups, state_dict['param_groups'], strict=True):
            group.update({**given, 'params': group['params']})
        self.optim.load_state_dict(dict(state=own, param_groups=groups))
        for group, given in zip(self.param_groups, self.optim.param_groups, strict=True):
            group.update({**given, 'params': group['params']})


def _parameters(optimizer: Optimizer) -> list[Tensor]:
    """The parameters in the order of the numbers in a state dict."""
    return [x for group in optimizer.param_groups for x in group['params']]
