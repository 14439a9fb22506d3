"""Mask generators: which tokens of a grid are hidden (arXiv:2206.08356, section 3.2 and Table 1b).

A generator sees a grid and a count, never pixels. It splits the grid into *units* of tokens that are hidden together
(single tokens, tubes through time, whole time slices) and draws the same number of hidden units for every sample.
The randomness is torch's own, on the device of the clip.

Names in MAE-ST (arXiv:2205.09113, section 5): agnostic is `RandomMasking`, space-only `TubeMasking`, time-only
`FrameMasking`, block-wise `BlockMasking`. All of its masks round the visible tokens down.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from omnimae.registry import MODELS
from omnimae.structures import Grid, Masks, Size3


@MODELS.register_module()
class RandomMasking:
    """Hide single tokens anywhere in the clip, equally likely.

    Args:
        ratio: share of tokens to hide, between 0 and 1.
        round_down: which number is rounded down, 'hidden' as in OmniMAE's release or 'visible' as in MAE and MAE-ST. At
            0.9 a clip of 8x14x14 tokens shows 157 or 156, an image 20 or 19 (OmniMAE's paper has 19). For tubes and
            time slices their number is rounded.
    """

    scores_all = True  # every decoded token counts in the loss

    def __init__(self, *, ratio: float, round_down: str = 'hidden'):
        if not 0 < ratio < 1:
            raise ValueError(f'{type(self).__name__}: ratio={ratio} must lie between 0 and 1.')
        if round_down not in ('hidden', 'visible'):
            raise ValueError(
                f"{type(self).__name__}: round_down={round_down!r} is unknown. Choose 'hidden' or 'visible'."
            )
        self.ratio = ratio
        self.round_down = round_down

    def num_hidden(self, grid: Grid) -> int:
        """Tokens hidden in each sample."""
        hidden = self._num_hidden_units(grid) * self._units(grid, 'meta').shape[1]
        if not 0 < hidden < grid.num_tokens:
            raise ValueError(
                f'{type(self).__name__}(ratio={self.ratio}) hides {hidden} of {grid.num_tokens} tokens on a grid of '
                f'{grid.t}x{grid.h}x{grid.w} (t x h x w) after rounding. Choose a ratio or a mask type that leaves '
                'some tokens visible and some hidden.'
            )
        return hidden

    def __call__(self, batch_size: int, grid: Grid, device: torch.device | str) -> Masks:
        """-> Masks of ``batch_size`` rows, in raster order."""
        units = self._units(grid, device)
        num_hidden = self.num_hidden(grid) // units.shape[1]
        order = self._order(batch_size, grid, device)
        hidden, visible = order[:, :num_hidden], order[:, num_hidden:]
        return Masks(*(units[choice].flatten(1).sort(1).values for choice in (visible, hidden)))

    def _units(self, grid: Grid, device: torch.device | str) -> Tensor:
        """-> (units, tokens per unit) token numbers that are hidden together."""
        return torch.arange(grid.num_tokens, device=device)[:, None]

    def _num_hidden_units(self, grid: Grid) -> int:
        return self._hidden_of(grid.num_tokens, self.ratio * grid.t * grid.h * grid.w)

    def _hidden_of(self, number: int, hidden: float) -> int:
        if self.round_down == 'visible':
            return number - int(number * (1 - self.ratio))
        return int(hidden)

    def _order(self, batch_size: int, grid: Grid, device: torch.device | str) -> Tensor:
        """-> (batch_size, units): units in the order in which they are hidden."""
        return torch.rand(batch_size, len(self._units(grid, 'meta')), device=device).argsort(1)


@MODELS.register_module()
class TubeMasking(RandomMasking):
    """Hide the same places in every time slice."""

    def _units(self, grid: Grid, device: torch.device | str) -> Tensor:
        return torch.arange(grid.num_tokens, device=device).view(grid.t, -1).T

    def _num_hidden_units(self, grid: Grid) -> int:
        return self._hidden_of(grid.h * grid.w, self.ratio * grid.t * grid.h * grid.w / grid.t)


@MODELS.register_module()
class FrameMasking(RandomMasking):
    """Hide whole time slices (tubelets, not single frames)."""

    def _units(self, grid: Grid, device: torch.device | str) -> Tensor:
        return torch.arange(grid.num_tokens, device=device).view(grid.t, -1)

    def _num_hidden_units(self, grid: Grid) -> int:
        return self._hidden_of(grid.t, self.ratio * grid.t)


@MODELS.register_module()
class PerFrameMasking(RandomMasking):
    """Hide the same number of places in every time slice, drawn for each slice."""

    def _num_hidden_units(self, grid: Grid) -> int:
        places = grid.h * grid.w
        return grid.t * self._hidden_of(places, self.ratio * places)

    def _order(self, batch_size: int, grid: Grid, device: torch.device | str) -> Tensor:
        places = grid.h * grid.w
        order = torch.rand(batch_size, grid.t, places, device=device).argsort(2)
        slices = torch.arange(grid.t, device=device)[:, None] * places
        return (order + slices).transpose(1, 2).flatten(1)  # the first of every slice, the second of every slice, ...


@MODELS.register_module()
class BlockMasking(RandomMasking):
    """Hide cuboids of tokens, one after another, until enough are hidden. The last one is cut (MAE-ST).

    Args:
        ratio, round_down: as of `RandomMasking`.
        min_size, max_size: (t, h, w) tokens, the range of each side of a cuboid. A smaller grid limits them. The paper
            does not give them.
    """

    def __init__(
        self,
        *,
        ratio: float,
        round_down: str = 'hidden',
        min_size: Size3 = (2, 4, 4),
        max_size: Size3 = (4, 8, 8),
    ):
        super().__init__(ratio=ratio, round_down=round_down)
        if not all(1 <= low <= high for low, high in zip(min_size, max_size, strict=True)):
            raise ValueError(
                f'BlockMasking: min_size={min_size}, max_size={max_size}. Give sides from 1 on, the smaller ones first.'
            )
        self.min_size, self.max_size = min_size, max_size

    def _order(self, batch_size: int, grid: Grid, device: torch.device | str) -> Tensor:
        sides = [(min(low, n), min(high, n)) for low, high, n in zip(self.min_size, self.max_size, grid, strict=True)]
        volume = math.prod([(low + high) / 2 for low, high in sides])  # torch.compile takes no generator
        # A block leaves 1 - volume / N of the tokens on average; three times as many blocks as leave the visible ones.
        num_blocks = math.ceil(3 * math.log(1 - self.ratio) / math.log1p(-min(volume / grid.num_tokens, 0.5)))
        inside = torch.ones(batch_size, num_blocks, *grid, dtype=torch.bool, device=device)
        for dim, ((low, high), n) in enumerate(zip(sides, grid, strict=True), start=2):
            side = torch.randint(low, high + 1, (batch_size, num_blocks, 1), device=device)
            start = (torch.rand(batch_size, num_blocks, 1, device=device) * (n - side + 1)).long()
            place = torch.arange(n, device=device)
            along = (start <= place) & (place < start + side)
            inside &= along.view(batch_size, num_blocks, *(n if i == dim else 1 for i in (2, 3, 4)))
        inside = inside.flatten(2)
        first = torch.where(inside.any(1), inside.to(torch.uint8).argmax(1), num_blocks)
        # Tokens of a block in raster order. Tokens of none, which are rarely needed, in random order.
        within = torch.where(
            first < num_blocks,
            torch.arange(grid.num_tokens, device=device) / grid.num_tokens,
            torch.rand(batch_size, grid.num_tokens, device=device),
        )
        return (first + within).argsort(1)


@MODELS.register_module()
class CausalMasking(RandomMasking):
    """Show the first tokens in raster order (time slowest), hide the rest: predict the future from the past."""

    def _order(self, batch_size: int, grid: Grid, device: torch.device | str) -> Tensor:
        return torch.arange(grid.num_tokens - 1, -1, -1, device=device).expand(batch_size, -1)


@MODELS.register_module()
class RunningCellMasking(RandomMasking):
    """Hide the same share of every 2x2 cell of places, running through the cell over time (arXiv:2303.16727, 3.2).

    Each sample uses one of four shifted patterns. Over four time slices every place is hidden equally often.

    Args:
        ratio: share of the cell to hide: 0.25, 0.5 or 0.75.
    """

    def __init__(self, *, ratio: float):
        if ratio not in (0.25, 0.5, 0.75):
            raise ValueError(f'RunningCellMasking: ratio={ratio} of a cell of 2x2. Choose 0.25, 0.5 or 0.75.')
        super().__init__(ratio=ratio, round_down='visible')

    def num_hidden(self, grid: Grid) -> int:
        """Tokens hidden in each sample."""
        if grid.h % 2 or grid.w % 2:
            raise ValueError(
                f'RunningCellMasking: a grid of {grid.t}x{grid.h}x{grid.w} (t x h x w) is not made of cells of 2x2. '
                'Choose a size of clips with an even number of patches along height and width.'
            )
        return super().num_hidden(grid)

    def patterns(self, grid: Grid, device: torch.device | str = 'cpu') -> Tensor:
        """-> (4, N) bool, True = hidden: the four patterns."""
        self.num_hidden(grid)
        pattern, t, y, x = torch.meshgrid(*(torch.arange(n, device=device) for n in (4, *grid)), indexing='ij')
        position = 2 * (y % 2) + x % 2  # in the cell, row by row
        return ((position + pattern + t + 1) % 4 < int(4 * self.ratio)).flatten(1)

    def _order(self, batch_size: int, grid: Grid, device: torch.device | str) -> Tensor:
        order = self.patterns(grid, device).to(torch.uint8).argsort(dim=1, descending=True)
        return order[torch.randint(4, (batch_size,), device=device)]


@MODELS.register_module()
class DualMasking:
    """One mask for the encoder, another for the decoder (arXiv:2303.16727, section 3.2).

    The decoder predicts the tokens that its own mask shows. Those that the encoder sees do not count in the loss. Their
    number may differ between samples.

    Args:
        encoder: config of the generator that hides tokens from the encoder.
        decoder: config of the generator that hides tokens from the decoder, too.
    """

    scores_all = False

    def __init__(self, *, encoder: dict, decoder: dict):
        self.encoder, self.decoder = MODELS.build(encoder), MODELS.build(decoder)

    def num_hidden(self, grid: Grid) -> int:
        """Tokens hidden from the encoder in each sample."""
        self.num_decoded(grid)
        return self.encoder.num_hidden(grid)

    def num_decoded(self, grid: Grid) -> int:
        """Tokens that the decoder predicts in each sample."""
        return grid.num_tokens - self.decoder.num_hidden(grid)

    def __call__(self, batch_size: int, grid: Grid, device: torch.device | str) -> Masks:
        """-> Masks of ``batch_size`` rows, in raster order."""
        visible = self.encoder(batch_size, grid, device).visible
        decode = self.decoder(batch_size, grid, device).visible
        seen = torch.zeros(batch_size, grid.num_tokens, dtype=torch.bool, device=device).scatter(1, visible, True)
        return Masks(visible, decode, ~seen.gather(1, decode))


@MODELS.register_module()
class DirichletMasking:
    """Show a fixed number of tokens, shared out over the modalities at random (MultiMAE, arXiv:2204.01678, 3.1).

    Each sample draws the modalities' shares from a Dirichlet distribution, then random tokens of each. Random tokens of
    all fix rounding errors, and replace the share that a small modality cannot fill.

    Args:
        num_visible: tokens of all modalities together that a sample shows.
        alpha: concentration, one for all modalities or one for each by name. At 1 all shares are equally likely. Small
            values show mostly one modality, large ones all equally.
        uniform_subsets: first draw a subset of the modalities, uniformly.
    """

    def __init__(self, *, num_visible: int, alpha: float | Mapping[str, float] = 1.0, uniform_subsets: bool = False):
        values = alpha.values() if isinstance(alpha, Mapping) else [alpha]
        if num_visible < 1 or min(values) <= 0:
            raise ValueError(f'DirichletMasking: num_visible={num_visible} and alpha={alpha} must be positive.')
        self.num_visible = num_visible
        self.alpha = alpha
        self.uniform_subsets = uniform_subsets

    def check(self, grids: Mapping[str, Grid]) -> None:
        """Refuse masks that hide nothing."""
        num_tokens = sum(grid.num_tokens for grid in grids.values())
        if self.num_visible >= num_tokens:
            raise ValueError(
                f'DirichletMasking(num_visible={self.num_visible}) hides nothing of the {num_tokens} tokens of '
                f'{list(grids)}. Choose fewer.'
            )
        if isinstance(self.alpha, Mapping) and (missing := [name for name in grids if name not in self.alpha]):
            raise ValueError(f'DirichletMasking: alpha={dict(self.alpha)} has no value for {missing}. Give one each.')

    def __call__(self, batch_size: int, grids: Mapping[str, Grid], device: torch.device | str) -> Masks:
        """-> Masks over the tokens of all modalities, one after the other; raster order."""
        self.check(grids)
        alpha = [self.alpha[name] if isinstance(self.alpha, Mapping) else self.alpha for name in grids]
        concentration = torch.stack([torch.full((batch_size,), float(a), device=device) for a in alpha], 1)
        if self.uniform_subsets:
            concentration = concentration * self._subsets(batch_size, len(alpha), device) + 1e-5
        shares = torch.distributions.Dirichlet(concentration, validate_args=False).sample()
        counts = (shares * self.num_visible).round()
        # rank of each token in a random order of its modality: those below the modality's count are shown
        ranks = [torch.rand(batch_size, grid.num_tokens, device=device).argsort(1) for grid in grids.values()]
        unshown = torch.cat([rank >= counts[:, i, None] for i, rank in enumerate(ranks)], 1)
        order = (unshown + torch.rand(unshown.shape, device=device)).argsort(1)
        return Masks(*(tokens.sort(1).values for tokens in order.tensor_split([self.num_visible], 1)))

    @staticmethod
    def _subsets(batch_size: int, num_modalities: int, device: torch.device | str) -> Tensor:
        """-> (batch_size, num_modalities) of zeros and ones, each of the subsets but the empty one equally likely."""
        subset = torch.randint(1, 2**num_modalities, (batch_size, 1), device=device)
        return subset >> torch.arange(num_modalities, device=device) & 1
