"""Which rows make a batch. In training a step has one source, the same on all ranks. Evaluation takes each row once.

The steps of an epoch follow from (seed, epoch) alone. So training resumes at any step without a saved state, and the
samples of a step are the same for any number of ranks.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from mmengine.dist import get_rank, get_world_size, sync_random_seed
from mmengine.logging import print_log

from omnimae.data.datasets import MixedDataset
from omnimae.data.lookahead import Keys, look_ahead
from omnimae.registry import DATA_SAMPLERS
from omnimae.structures import Address, sizes_by_source

# First word after (seed, epoch): each use has its own stream of random numbers.
_SCHEDULE, _ROWS, _ADDRESS = range(3)


@DATA_SAMPLERS.register_module()
class MixedSampler:
    """The random orders of an epoch; `MixedBatchSampler` cuts batches from them.

    Args:
        dataset: given by MMEngine.
        repeats: source name -> passes of an epoch, 1 by default. 0.25 takes another random quarter of the steps each
            epoch. 2.5 takes two and a half passes, each in its own order.
        seed: given by MMEngine; None draws one for all ranks.
    """

    def __init__(self, *, dataset: MixedDataset, repeats: Mapping[str, float] | None = None, seed: int | None = None):
        repeats = dict(repeats or {})
        if unknown := sorted(set(repeats) - set(dataset.names)):
            raise ValueError(f'repeats has {unknown}, but the sources are {list(dataset.names)}. Use their names.')
        if wrong := {name: value for name, value in repeats.items() if value <= 0}:
            raise ValueError(f'repeats={wrong} is not positive. To leave a source out, drop it from sources.')
        self.dataset = dataset
        self.repeats = tuple(repeats.get(name, 1.0) for name in dataset.names)
        self.seed = sync_random_seed() if seed is None else seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Use the orders of this epoch from now on. MMEngine's DistSamplerSeedHook calls it."""
        self.epoch = epoch

    def schedule(self, epoch: int, steps: tuple[int, ...]) -> np.ndarray:
        """The source of each step of an epoch, given how many steps each source has."""
        sources = np.repeat(np.arange(len(steps)), steps)
        return np.random.default_rng(self._seeds(epoch, _SCHEDULE)).permutation(sources)

    def order(self, epoch: int, source: int, pass_index: int) -> np.ndarray:
        """The rows of a source in the random order of one pass over it."""
        rng = np.random.default_rng(self._seeds(epoch, _ROWS, source, pass_index))
        return rng.permutation(len(self.dataset.sources[source]))

    def address_seed(self, epoch: int, pass_index: int) -> int:
        """`Address.seed` in one pass of an epoch."""
        return int(self._seeds(epoch, _ADDRESS, pass_index).generate_state(1, np.uint64)[0])

    def _seeds(self, epoch: int, *words: int) -> np.random.SeedSequence:
        return np.random.SeedSequence((self.seed, epoch, *words))


@DATA_SAMPLERS.register_module()
class MixedBatchSampler:
    """The batches of this rank, each of one source.

    An optimizer step takes ``global_batch_size`` samples of one source, replicas included. They are spread over all
    ranks and over ``accumulation = global_batch_size / (batch_size * world size)`` micro-batches. Each source has its
    own accumulation if ``batch_size`` differs. The samples of a step do not depend on it. A source of n rows with r
    replicas has

        int(ceil(n * r / global_batch_size) * repeats)

    steps an epoch. A random permutation says which step takes which source. OmniMAE on 64 x 32 = 2048: ImageNet
    1281167 rows -> 626 steps, SSv2 168913 rows x 4 replicas x 0.25 -> int(330 * 0.25) = 82, together 708.

    No row is dropped or counted twice. The last step of a pass spreads the remaining rows over ranks and micro-batches.
    A micro-batch without one gets a row that does not count, see `step_sizes`.

    Iterating yields micro-batches, ``len(step_sizes(step))`` for each step. ``len()`` counts **steps**.

    Attributes:
        batch_sizes: of each source.
        accumulation: of each source.
        start_step: set it to start the next iteration at this step of the epoch. Steps before it cost nothing.
        steps_per_epoch: the same as ``len()``.

    Args:
        sampler: given by MMEngine.
        batch_size: samples per rank and micro-batch: one number, or source name or modality -> number, as in
            ``dict(image=256, video=32)``. Replicas count: 32 are 8 videos in 4 crops each.
        global_batch_size: samples per optimizer step. The default is one micro-batch of every rank.
        rank, world_size: of this process; the default is MMEngine's.
    """

    def __init__(
        self,
        *,
        sampler: MixedSampler,
        batch_size: int | Mapping[str, int],
        global_batch_size: int | None = None,
        rank: int | None = None,
        world_size: int | None = None,
    ):
        self.sampler = sampler
        self.rank = get_rank() if rank is None else rank
        self.world_size = get_world_size() if world_size is None else world_size
        sources = dict(zip(sampler.dataset.names, sampler.dataset.sources, strict=True))
        sizes = sizes_by_source(batch_size, sources)
        self.batch_sizes = tuple(size for _, size in sizes.values())
        if global_batch_size is None:
            global_batch_size = _default_global_batch(self.batch_sizes, self.world_size)
        self.global_batch_size = global_batch_size
        replicas = {name: source.replicas for name, source in sources.items()}
        _check_sizes(sizes, global_batch_size, self.world_size, replicas)
        self._replicas = np.array([*replicas.values()])
        self.accumulation = tuple(global_batch_size // (size * self.world_size) for size in self.batch_sizes)
        self.start_step = 0

        self._rows_per_step = tuple(self.global_batch_size // r for r in replicas.values())
        self._steps_per_pass = tuple(
            math.ceil(len(source) / rows)
            for source, rows in zip(sampler.dataset.sources, self._rows_per_step, strict=True)
        )
        # 1e-9 because 0.29 * 100 = 28.999999999999996.
        self.steps = tuple(int(n * r + 1e-9) for n, r in zip(self._steps_per_pass, sampler.repeats, strict=True))
        self.steps_per_epoch = sum(self.steps)
        self._check_every_source_has_steps()
        self._plan: tuple[int, np.ndarray] = -1, np.empty((0, 2), np.int64)

    def __len__(self) -> int:
        return self.steps_per_epoch

    def __iter__(self) -> Iterator[Keys]:
        return look_ahead(self._batches())

    def _batches(self) -> Iterator[list[Address]]:
        # A loader with workers calls iter() twice and uses the second. So nothing runs before the first next().
        first_step, self.start_step = self.start_step, 0
        epoch = self.sampler.epoch
        schedule = self.sampler.schedule(epoch, self.steps)
        done = np.bincount(schedule[:first_step], minlength=len(self.steps))
        streams = [self._steps_of(source, epoch, int(first)) for source, first in enumerate(done)]
        for source in schedule[first_step:].tolist():
            rows, seed = next(streams[source])
            counts = self._counts(source, len(rows))
            shares = np.resize(rows, (*counts.shape, counts[0, 0]))  # starts again when the rows run out
            for share, count in zip(shares[:, self.rank].tolist(), counts[:, self.rank].tolist(), strict=True):
                yield [Address(source, row, seed) for row in share[: max(count, 1)]]

    def _steps_of(self, source: int, epoch: int, first_step: int) -> Iterator[tuple[np.ndarray, int]]:
        """For each step of one source: its rows over all ranks, and the seed of their addresses."""
        rows_per_step = self._rows_per_step[source]
        for step in range(first_step, self.steps[source]):
            pass_index, position = divmod(step, self._steps_per_pass[source])
            if step == first_step or position == 0:
                order = self.sampler.order(epoch, source, pass_index)
                seed = self.sampler.address_seed(epoch, pass_index)
            yield order[position * rows_per_step : (position + 1) * rows_per_step], seed

    def step_sizes(self, step: int) -> np.ndarray:
        """-> (accumulation, world size): how many samples of each micro-batch of a step count."""
        if self._plan[0] != self.sampler.epoch:
            self._plan = self.sampler.epoch, self._plan_of(self.sampler.epoch)
        source, num_rows = self._plan[1][step]
        return self._counts(source, num_rows) * self._replicas[source]

    def _plan_of(self, epoch: int) -> np.ndarray:
        """-> (steps, 2): source and number of rows of each step."""
        schedule = self.sampler.schedule(epoch, self.steps)
        num_rows = np.empty_like(schedule)
        for source, rows_per_step in enumerate(self._rows_per_step):
            first = np.arange(self.steps[source]) % self._steps_per_pass[source] * rows_per_step
            left = len(self.sampler.dataset.sources[source]) - first
            num_rows[schedule == source] = left.clip(max=rows_per_step)
        return np.stack([schedule, num_rows], 1)

    def _counts(self, source: int, num_rows: int) -> np.ndarray:
        """-> (accumulation, world size): rows of each micro-batch; the last ones have fewer or none."""
        shares = self.accumulation[source] * self.world_size
        size = math.ceil(num_rows / shares)
        return (num_rows - size * np.arange(shares)).clip(0, size).reshape(-1, self.world_size)

    def _check_every_source_has_steps(self) -> None:
        for number, name in enumerate(self.sampler.dataset.names):
            if self.steps[number] == 0:
                steps = self._steps_per_pass[number]
                raise ValueError(
                    f'Source {name!r} has no step: one pass has {steps} steps of global_batch_size='
                    f'{self.global_batch_size}, times repeats={self.sampler.repeats[number]}. Set repeats to at least '
                    f'{1 / steps:.4g}, or lower global_batch_size.'
                )


def _default_global_batch(batch_sizes: Sequence[int], world_size: int) -> int:
    """The samples of one micro-batch of every rank."""
    if len({*batch_sizes}) > 1:
        raise ValueError(
            f'batch_size differs between sources, {list(batch_sizes)}, but all steps have as many samples. Set '
            f'global_batch_size to a multiple of {math.lcm(*batch_sizes) * world_size}.'
        )
    return batch_sizes[0] * world_size


def _check_sizes(
    sizes: Mapping[str, tuple[str, int]], global_batch_size: int, world_size: int, replicas: Mapping[str, int]
) -> None:
    """Replicas must divide the batch size, and batch size x ``world_size`` must divide ``global_batch_size``."""
    for key, size in sizes.values():
        own = {name: replicas[name] for name in sizes if sizes[name][0] == key}
        unit = math.lcm(*own.values())
        if size < 1 or size % unit:
            raise ValueError(
                f'{key}={size} counts replicas and must be a multiple of those of every source, {own}. '
                f'Nearest: {_list_multiples(unit, size)}.'
            )
        if global_batch_size % (size * world_size) or global_batch_size < 1:
            per_rank = global_batch_size // world_size if global_batch_size % world_size == 0 else 0
            fitting = [number for number in range(unit, per_rank + 1, unit) if per_rank % number == 0]
            nearest = sorted(sorted(fitting, key=lambda number: abs(number - size))[:2])
            whole = math.lcm(*(number for _, number in sizes.values())) * world_size
            raise ValueError(
                f'global_batch_size={global_batch_size} is not a multiple of {key}={size} x {world_size} ranks '
                f'= {size * world_size}. Nearest: '
                + (f'{key}={" or ".join(map(str, nearest))}, or ' if nearest else '')
                + f'global_batch_size={_list_multiples(whole, global_batch_size)}.'
            )


def _list_multiples(unit: int, value: int) -> str:
    """The multiples of ``unit`` below and above ``value``."""
    below = max(value, 0) // unit * unit
    return f'{below} or {below + unit}' if below else f'{unit}'


@DATA_SAMPLERS.register_module()
class EvalSampler:
    """Every row of every source once: rank r takes rows r, r + world size, ...

    Keys are ints, counted through all sources: the keys of evaluation samples. MMEngine collects results from the ranks
    in turn, so they are in order. Rows with files to ``skip`` are left out.

    Args:
        dataset: given by MMEngine.
        seed: given by MMEngine, not used.
        rank, world_size: of this process; the default is MMEngine's.

    Attributes:
        shares: the rows of this rank, of each source.
    """

    def __init__(
        self, *, dataset: MixedDataset, seed: int | None = None, rank: int | None = None, world_size: int | None = None
    ):
        rank = get_rank() if rank is None else rank
        world_size = get_world_size() if world_size is None else world_size
        rows = [np.arange(*ends) for ends in itertools.pairwise(dataset.starts.tolist())]
        if skipped := dataset.skipped_rows():
            rows = [part[~np.isin(part, skipped)] for part in rows]
            print_log(f'{len(skipped)} of {len(dataset)} samples are left out, as skip says.', 'current')
        starts = np.cumsum([0, *map(len, rows)]).tolist()
        if not starts[-1]:
            raise ValueError('skip leaves out all samples. Repair the files, or shorten skip.')
        firsts = [(rank - start) % world_size for start in starts]
        self.shares = [part[first::world_size] for first, part in zip(firsts, rows, strict=False)]

    def __len__(self) -> int:
        return sum(map(len, self.shares))

    def __iter__(self) -> Iterator[int]:
        for share in self.shares:
            yield from share.tolist()


@DATA_SAMPLERS.register_module()
class EvalBatchSampler:
    """This rank's rows of an `EvalSampler` in order, ``batch_size`` at a time, one source a batch.

    The last batch of a source may be smaller, and ranks may have different numbers of batches.
    """

    def __init__(self, *, sampler: EvalSampler, batch_size: int):
        if not isinstance(batch_size, int) or batch_size < 1:
            raise ValueError(f'batch_size={batch_size} is no positive integer. Give one number for all sources.')
        self.sampler = sampler
        self.batch_size = batch_size

    def __len__(self) -> int:
        return sum(math.ceil(len(share) / self.batch_size) for share in self.sampler.shares)

    def __iter__(self) -> Iterator[Keys]:
        return look_ahead(self._batches())

    def _batches(self) -> Iterator[list[int]]:
        for share in self.sampler.shares:
            for start in range(0, len(share), self.batch_size):
                yield share[start : start + self.batch_size].tolist()
