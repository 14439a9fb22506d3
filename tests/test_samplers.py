"""Properties of the mixed batches for any sizes, ratios, ranks and epochs, and the paper's numbers."""

from __future__ import annotations

import inspect
import itertools
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader, Dataset

from omnimae.data import samplers
from omnimae.data.datasets import MixedDataset
from omnimae.data.samplers import EvalBatchSampler, EvalSampler, MixedBatchSampler, MixedSampler
from omnimae.registry import DATASETS
from omnimae.structures import Address


@DATASETS.register_module()
class Counted(Dataset):
    """A source of which only the size matters."""

    def __init__(self, *, rows: int, replicas: int = 1, modality: str = 'image'):
        self.rows, self.replicas, self.modality = rows, replicas, modality

    def __len__(self) -> int:
        return self.rows

    def __getitem__(self, key):
        return key


def mixed(*sizes: tuple[int, int]) -> MixedDataset:
    sources = {f's{i}': dict(type='Counted', rows=rows, replicas=replicas) for i, (rows, replicas) in enumerate(sizes)}
    return MixedDataset(sources=sources)


def steps_of(dataset, *, epoch=0, seed=0, repeats=None, start_step=0, **kwargs) -> list[list[list[Address]]]:
    """The micro-batches of one rank, grouped by step."""
    sampler = MixedSampler(dataset=dataset, seed=seed, repeats=repeats)
    sampler.set_epoch(epoch)
    batches = MixedBatchSampler(sampler=sampler, **kwargs)
    batches.start_step = start_step
    micro_batches = iter(batches)
    steps = [
        list(itertools.islice(micro_batches, len(batches.step_sizes(step)))) for step in range(start_step, len(batches))
    ]
    assert next(micro_batches, None) is None
    return steps


@st.composite
def recipes(draw) -> dict:
    """Datasets with ratios, and a way to spread a global batch over ranks and the micro-batches of each source."""
    sizes = draw(st.lists(st.tuples(st.integers(1, 90), st.sampled_from([1, 2, 4])), min_size=1, max_size=3))
    world_size, accumulation = draw(st.integers(1, 4)), draw(st.integers(1, 3))
    batch_size: int | dict[str, int] = 4 * draw(st.integers(1, 3))
    whole = batch_size
    if draw(st.booleans()):
        batch_size = {f's{i}': replicas * draw(st.integers(1, 4)) for i, (_, replicas) in enumerate(sizes)}
        whole = math.lcm(4, *batch_size.values())
    global_batch_size = whole * world_size * accumulation
    repeats = {}
    for i, (rows, replicas) in enumerate(sizes):
        per_pass = -(-rows * replicas // global_batch_size)
        repeats[f's{i}'] = draw(st.integers(1, 3 * per_pass)) / per_pass
    return dict(
        dataset=mixed(*sizes),
        repeats=repeats,
        batch_size=batch_size,
        global_batch_size=global_batch_size,
        world_size=world_size,
        seed=draw(st.integers(0, 2**31)),
        epoch=draw(st.integers(0, 2000)),
    )


def all_ranks(recipe: dict) -> list[list[list[list[Address]]]]:
    return [steps_of(rank=rank, **recipe) for rank in range(recipe['world_size'])]


PROPERTY = settings(max_examples=60, deadline=None)


@PROPERTY
@given(recipes())
def test_ranks_agree_on_source_and_number_of_micro_batches(recipe):
    ranks = all_ranks(recipe)
    for step in zip(*ranks, strict=True):
        micro_batches = [micro_batch for rank in step for micro_batch in rank]
        assert len({address.source for micro_batch in micro_batches for address in micro_batch}) == 1
        assert len({len(rank) for rank in step}) == 1
        index = micro_batches[0][0].source
        source, size = recipe['dataset'].sources[index], recipe['batch_size']
        size = size if isinstance(size, int) else size[f's{index}']
        assert all(0 < len(rows) * source.replicas <= size for rows in micro_batches)
        assert len(step[0]) * size * len(ranks) == recipe['global_batch_size']


@PROPERTY
@given(recipes())
def test_every_row_of_a_step_counts_once_however_it_is_cut(recipe):
    ranks = all_ranks(recipe)
    sampler = MixedSampler(dataset=recipe['dataset'], seed=recipe['seed'], repeats=recipe['repeats'])
    sampler.set_epoch(recipe['epoch'])
    names = ('batch_size', 'global_batch_size', 'world_size')
    batches = MixedBatchSampler(sampler=sampler, rank=0, **{name: recipe[name] for name in names})
    whole = steps_of(**{**recipe, 'world_size': 1, 'rank': 0, 'batch_size': recipe['global_batch_size']})
    for step, (ours, (expected,)) in enumerate(zip(zip(*ranks, strict=True), whole, strict=True)):
        sizes = batches.step_sizes(step)
        replicas = recipe['dataset'].sources[expected[0].source].replicas
        for rank, micro_batches in enumerate(ours):
            # what does not count is there to have something for the micro-batch
            assert [max(size // replicas, 1) for size in sizes[:, rank]] == [*map(len, micro_batches)]
        counted = [
            row
            for j, row_of_sizes in enumerate(sizes)
            for rank, size in enumerate(row_of_sizes)
            if size
            for row in ours[rank][j]
        ]
        assert counted == expected


@PROPERTY
@given(recipes())
def test_a_whole_pass_reads_every_row_and_once_but_for_the_filling_of_its_last_step(recipe):
    recipe['repeats'] = None
    ranks = all_ranks(recipe)
    for source, dataset in enumerate(recipe['dataset'].sources):
        steps = [
            [address.index for rank in step for micro_batch in rank for address in micro_batch]
            for step in zip(*ranks, strict=True)
            if step[0][0][0].source == source
        ]
        whole, last = steps[:-1], steps[-1]
        assert sorted(sum(whole, []) + sorted(set(last))) == list(range(len(dataset)))
        assert all(len(step) * dataset.replicas == recipe['global_batch_size'] for step in whole)
        shares = max(len(ranks) * len(step) for step in ranks[0] if step[0][0].source == source)
        assert len(last) - len(set(last)) < max(shares, 1)
        assert max(Counter(last).values()) - min(Counter(last).values()) <= 1


@PROPERTY
@given(recipes(), st.data())
def test_start_step_gives_exactly_the_rest(recipe, data):
    rank = data.draw(st.integers(0, recipe['world_size'] - 1))
    steps = steps_of(rank=rank, **recipe)
    start = data.draw(st.integers(0, len(steps)))
    assert steps_of(rank=rank, start_step=start, **recipe) == steps[start:]


@PROPERTY
@given(recipes())
def test_samples_of_a_step_do_not_depend_on_the_number_of_ranks(recipe):
    ranks = all_ranks(recipe)
    alone = steps_of(**{**recipe, 'world_size': 1, 'rank': 0})
    for step, expected in zip(zip(*ranks, strict=True), alone, strict=True):
        together = {address for rank in step for micro_batch in rank for address in micro_batch}
        assert together == {address for micro_batch in expected for address in micro_batch}


@PROPERTY
@given(recipes())
def test_steps_follow_the_formula(recipe):
    steps = steps_of(rank=0, **recipe)
    taken = Counter(step[0][0].source for step in steps)
    for i, source in enumerate(recipe['dataset'].sources):
        per_pass = -(-len(source) * source.replicas // recipe['global_batch_size'])
        assert taken[i] == round(per_pass * recipe['repeats'][f's{i}'])  # the strategy draws whole numbers of steps


@pytest.mark.parametrize(('batch_size', 'world_size', 'accumulation'), [(32, 64, 1), (32, 8, 8), (256, 1, 8)])
def test_the_papers_epoch_has_708_steps(batch_size, world_size, accumulation):
    dataset = mixed((1281167, 1), (168913, 4))
    sampler = MixedSampler(dataset=dataset, repeats=dict(s1=0.25), seed=0)
    batches = MixedBatchSampler(
        sampler=sampler, batch_size=batch_size, global_batch_size=2048, rank=0, world_size=world_size
    )
    assert batches.accumulation == (accumulation, accumulation)
    assert batches.steps == (626, 82)
    assert batches.steps_per_epoch == len(batches) == 708
    sizes = Counter((micro_batch[0].source, len(micro_batch)) for micro_batch in batches)
    # 1281167 = 625 * 2048 + 1167, and 1167 shared out over ranks and micro-batches makes ceil(1167 / shares) each.
    shares = world_size * accumulation
    assert sizes == {
        (0, batch_size): 625 * accumulation,
        (0, -(-1167 // shares)): accumulation - (shares == 8),
        (1, batch_size // 4): 82 * accumulation,
    } | ({(0, 145): 1} if shares == 8 else {})  # 1167 = 7 * 146 + 145


def test_micro_batches_of_each_modality_and_of_a_source_that_has_its_own():
    """2048 samples a step on 8 ranks, by hand; the rows of each step are those of one number."""
    sources = dict(in1k=(100_000, 1, 'image'), ssv2=(20_000, 4, 'video'), k400=(30_000, 4, 'video'))
    names = ('rows', 'replicas', 'modality')
    dataset = MixedDataset(
        sources={name: dict(type='Counted', **dict(zip(names, facts, strict=True))) for name, facts in sources.items()}
    )
    key = dict(global_batch_size=2048, rank=3, world_size=8)
    batches = MixedBatchSampler(
        sampler=MixedSampler(dataset=dataset, seed=0), batch_size=dict(image=256, video=32, k400=64), **key
    )
    assert (batches.batch_sizes, batches.accumulation) == ((256, 32, 64), (1, 8, 4))
    assert batches.steps == (49, 40, 59)
    shapes = {batches.step_sizes(step).shape for step in range(len(batches))}
    assert shapes == {(1, 8), (8, 8), (4, 8)}
    assert {(len(rows), rows[0].source) for rows in batches} >= {(256, 0), (8, 1), (16, 2)}
    one = MixedBatchSampler(sampler=batches.sampler, batch_size=32, **key)
    for step in range(len(batches)):
        assert batches.step_sizes(step).sum() == one.step_sizes(step).sum()


def test_known_epoch():
    dataset = mixed((5, 1), (2, 2))
    steps = steps_of(dataset, batch_size=2, global_batch_size=2, rank=0, world_size=1, seed=3)
    rows = [(step[0][0].source, [address.index for address in step[0]]) for step in steps]
    assert rows == [(1, [0]), (0, [2, 1]), (0, [3, 4]), (1, [1]), (0, [0])]
    assert {address.seed for step in steps for address in step[0]} == {17377065875818098562}


def test_schedule_mixes_the_sources_evenly_over_an_epoch():
    dataset = mixed((8000, 1), (4000, 4))
    steps = steps_of(dataset, repeats=dict(s1=0.5), batch_size=8, rank=0, world_size=1)
    videos = np.array([step[0][0].source == 1 for step in steps])
    halves = videos[: len(videos) // 2].sum(), videos[len(videos) // 2 :].sum()
    assert sum(halves) == 1000
    assert abs(halves[0] - 500) < 60


def test_epochs_and_seeds_draw_other_orders_and_the_same_ones_again():
    dataset = mixed((64, 1), (64, 1))
    key = dict(batch_size=8, rank=0, world_size=1)
    drawn = [steps_of(dataset, epoch=epoch, seed=seed, **key) for epoch in range(3) for seed in range(3)]
    assert all(a != b for a, b in itertools.combinations(drawn, 2))
    assert drawn == [steps_of(dataset, epoch=epoch, seed=seed, **key) for epoch in range(3) for seed in range(3)]


def test_a_quarter_of_a_source_is_another_one_each_epoch():
    dataset = mixed((1024, 1))
    key = dict(repeats=dict(s0=0.25), batch_size=8, rank=0, world_size=1)
    epochs = [steps_of(dataset, epoch=epoch, **key) for epoch in range(40)]
    quarters = [{address.index for step in steps for address in step[0]} for steps in epochs]
    assert all(len(quarter) == 256 for quarter in quarters)
    assert set.union(*quarters) == set(range(1024))
    assert abs(np.mean([len(a & b) for a, b in itertools.pairwise(quarters)]) - 64) < 8


def test_each_pass_over_a_source_has_its_own_order_and_randomness():
    steps = steps_of(mixed((32, 1)), repeats=dict(s0=2.5), batch_size=8, rank=0, world_size=1)
    addresses = [address for step in steps for address in step[0]]
    passes = [addresses[:32], addresses[32:64], addresses[64:]]
    indices = [[address.index for address in one] for one in passes]
    assert sorted(indices[0]) == sorted(indices[1]) == list(range(32))
    assert len(set(indices[2])) == 16
    assert indices[0] != indices[1]
    assert indices[1][:16] != indices[2]
    assert [len({address.seed for address in one}) for one in passes] == [1, 1, 1]
    assert len({one[0].seed for one in passes}) == 3


def test_steps_of_a_fraction_do_not_lose_one_to_rounding():
    assert int(100 * 0.29) == 28
    dataset = mixed((100, 1))
    batches = MixedBatchSampler(
        sampler=MixedSampler(dataset=dataset, repeats=dict(s0=0.29), seed=0), batch_size=1, rank=0, world_size=1
    )
    assert len(batches) == 29


@pytest.mark.parametrize('num_workers', [0, 2])
def test_start_step_survives_a_loader_and_counts_for_one_epoch(num_workers):
    dataset = mixed((40, 1))
    batches = MixedBatchSampler(sampler=MixedSampler(dataset=dataset, seed=0), batch_size=4, rank=0, world_size=1)
    loader = DataLoader(
        dataset, batch_sampler=batches, num_workers=num_workers, collate_fn=list, persistent_workers=num_workers > 0
    )
    expected = list(batches)
    for start in (7, 0, 3):
        batches.start_step = start
        assert list(loader) == expected[start:]
        assert batches.start_step == 0
    batches.sampler.set_epoch(1)
    assert list(loader) == list(batches) != expected


def test_epoch_set_during_an_iteration_counts_for_the_next():
    dataset = mixed((40, 1), (40, 1))
    batches = MixedBatchSampler(sampler=MixedSampler(dataset=dataset, seed=0), batch_size=4, rank=0, world_size=1)
    expected = list(batches)
    running = iter(batches)
    taken = [next(running)]
    batches.sampler.set_epoch(5)
    assert taken + list(running) == expected


def test_rank_and_world_size_are_mmengines_by_default(monkeypatch):
    monkeypatch.setattr(samplers, 'get_rank', lambda: 1)
    monkeypatch.setattr(samplers, 'get_world_size', lambda: 2)
    dataset = mixed((40, 1), (40, 1))
    assert steps_of(dataset, batch_size=4) == steps_of(dataset, batch_size=4, rank=1, world_size=2)
    assert list(EvalSampler(dataset=dataset)) == list(EvalSampler(dataset=dataset, rank=1, world_size=2))


def test_seed_is_drawn_when_none_is_given():
    assert isinstance(MixedSampler(dataset=mixed((4, 1))).seed, int)


@pytest.mark.parametrize(
    ('sizes', 'message'),
    [
        (
            dict(batch_size=24, global_batch_size=2048, world_size=8),
            r'global_batch_size=2048 is not a multiple of batch_size=24 x 8 ranks = 192. '
            r'Nearest: batch_size=16 or 32, or global_batch_size=1920 or 2112.',
        ),
        (
            dict(batch_size=32, global_batch_size=2048, world_size=3),
            r'batch_size=32 x 3 ranks = 96. Nearest: global_batch_size=2016 or 2112.',
        ),
        (
            dict(batch_size=32, global_batch_size=64, world_size=8),
            r'batch_size=32 x 8 ranks = 256. Nearest: batch_size=4 or 8, or global_batch_size=256.',
        ),
        (
            dict(batch_size=30, global_batch_size=30, world_size=1),
            r"batch_size=30 counts replicas .* of every source, \{'s0': 1, 's1': 4\}. Nearest: 28 or 32.",
        ),
        (dict(batch_size=2, world_size=1), r'batch_size=2 counts replicas .* Nearest: 4.'),
        (dict(batch_size=0, world_size=1), r'^batch_size=0 counts replicas .* Nearest: 4.'),
        (dict(batch_size='32', world_size=1), r"^batch_size='32' is no whole number. Give 1 or more.$"),
        (
            dict(batch_size=dict(image=32, vidoe=8), world_size=1),
            r'^batch_size.vidoe=8: no source and no modality has that name. Remove it, or name one of s0, s1, image.$',
        ),
        (
            dict(batch_size=dict(s0=32), world_size=1),
            r"^batch_size=\{'s0': 32\} has no number for the source 's1'. Add batch_size.s1, or batch_size.image for",
        ),
        (
            dict(batch_size=dict(image=32, s1=30), global_batch_size=960, world_size=1),
            r"^batch_size.s1=30 counts replicas and must be a multiple of .*, \{'s1': 4\}. Nearest: 28 or 32.$",
        ),
        (
            dict(batch_size=dict(s0=3, s1=0), global_batch_size=960, world_size=1),
            r'^batch_size.s1=0 counts replicas .* Nearest: 4.$',
        ),
        (dict(batch_size=dict(image=2.5), world_size=1), r'^batch_size.image=2.5 is no whole number'),
        (
            dict(batch_size=dict(s0=32, s1=24), global_batch_size=2048, world_size=8),
            r'^global_batch_size=2048 is not a multiple of batch_size.s1=24 x 8 ranks = 192. '
            r'Nearest: batch_size.s1=16 or 32, or global_batch_size=1536 or 2304.$',
        ),
        (
            dict(batch_size=dict(s0=8, s1=12), world_size=2),
            r'differs between sources, \[8, 12\], .* Set global_batch_size to a multiple of 48.',
        ),
        (
            dict(batch_size=32, global_batch_size=64, world_size=1, repeats=dict(s1=0.01)),
            r"Source 's1' has no step: one pass has 25 steps of global_batch_size=64, times repeats=0.01. "
            r'Set repeats to at least 0.04',
        ),
    ],
)
def test_sizes_that_do_not_fit_say_the_nearest_that_do(sizes, message):
    repeats = sizes.pop('repeats', None)
    sampler = MixedSampler(dataset=mixed((1000, 1), (400, 4)), repeats=repeats, seed=0)
    with pytest.raises(ValueError, match=message):
        MixedBatchSampler(sampler=sampler, rank=0, **sizes)


def test_wrong_repeats_say_the_remedy():
    with pytest.raises(ValueError, match=r"repeats has \['ssv2'\], but the sources are \['s0'\]"):
        MixedSampler(dataset=mixed((4, 1)), repeats=dict(ssv2=0.25))
    with pytest.raises(ValueError, match=r"repeats={'s0': 0} is not positive. To leave a source out"):
        MixedSampler(dataset=mixed((4, 1)), repeats=dict(s0=0))


@PROPERTY
@given(
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=3),
    world_size=st.integers(1, 5),
    batch_size=st.integers(1, 9),
)
def test_evaluation_reads_each_row_on_one_rank_and_one_source_a_batch(sizes, world_size, batch_size):
    dataset = mixed(*((size, 1) for size in sizes))
    read = []
    for rank in range(world_size):
        sampler = EvalSampler(dataset=dataset, seed=0, rank=rank, world_size=world_size)
        batches = EvalBatchSampler(sampler=sampler, batch_size=batch_size)
        drawn = list(batches)
        assert len(drawn) == len(batches)
        assert [row for batch in drawn for row in batch] == list(sampler)
        assert len(sampler) == sum(map(len, drawn))
        for batch in drawn:
            assert 0 < len(batch) <= batch_size
            assert len(set(np.searchsorted(dataset.starts, batch, side='right'))) == 1
        read += list(sampler)
    assert sorted(read) == list(range(len(dataset)))


def test_known_evaluation_shares():
    dataset = mixed((5, 1), (3, 1))
    shares = [list(EvalSampler(dataset=dataset, rank=rank, world_size=2)) for rank in range(2)]
    assert shares == [[0, 2, 4, 6], [1, 3, 5, 7]]
    batches = EvalBatchSampler(sampler=EvalSampler(dataset=dataset, rank=0, world_size=2), batch_size=2)
    assert list(batches) == [[0, 2], [4], [6]]
    for size in (0, dict(image=4)):
        with pytest.raises(ValueError, match=f'batch_size={size} is no positive integer. Give one number'):
            EvalBatchSampler(sampler=batches.sampler, batch_size=size)


def test_every_sampler_is_configured_by_name():
    for cls in (MixedSampler, MixedBatchSampler, EvalSampler, EvalBatchSampler):
        assert all(p.kind is p.KEYWORD_ONLY for p in inspect.signature(cls).parameters.values()), cls
