"""Frozen features of a data set in files, computed by several ranks, continued after a kill.

Features are written in shards of consecutive samples. A shard that exists is complete. So after a kill only the missing
shards remain to be computed, on any number of ranks.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.dist import barrier, get_rank, get_world_size, is_main_process
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch import Tensor, nn
from torch.utils.data import DataLoader

from omnimae.checkpoint import replacing
from omnimae.evaluation import INDEX, Features
from omnimae.evaluation.npz import join_npz, read_npz, write_npz
from omnimae.registry import MODELS
from omnimae.structures import Batch

from .distributed import of_main_rank
from .folder import lock, unlock
from .labels import lacking
from .precision import device_of, evaluating
from .reading import list_broken, naming_fatal_files

SHARD_SIZE = 1024  # samples: 3 MB of ViT-B, 12 s of images at 80 a second


def frozen_model(model: dict) -> dict:
    """The config of any of our models -> that of its backbone alone, with the norm of the model's features.

    A model of several modalities takes RGB.
    """
    norm = model.get('norm', getattr(MODELS.get(model['type']), 'feature_norm', 'token'))
    preprocessor = model.get('data_preprocessor') or {}
    rgb = (preprocessor.get('modalities') or {}).get('rgb', preprocessor)
    statistics = {key: value for key, value in rgb.items() if key in ('mean', 'std')}
    return dict(
        type='FrozenBackbone',
        backbone=model['backbone'],
        norm=norm,
        data_preprocessor=dict(type='ClipPreprocessor', **statistics),
    )


def frozen_features(model: BaseModel, dtype: str | None) -> Callable[[Batch], Tensor]:
    """A FrozenBackbone and its precision -> a function: batch -> (B, D)."""

    def compute(batch: Batch) -> Tensor:
        with evaluating(dtype, device_of(model)):
            samples = model.test_step(batch)
        return torch.stack([sample['features'] for sample in samples])

    return compute


@torch.no_grad()
def collect(compute: Callable[[Batch], Tensor], batches: Iterable[Batch]) -> Features:
    """The features of all samples of some batches."""
    ids: list[str] = []
    labels: list[int] = []
    features: list[Tensor] = []
    for batch in batches:
        ids += batch['ids']
        labels += batch['labels'].tolist() if 'labels' in batch else []
        features.append(compute(batch).float().cpu())
    whole = torch.cat(features) if features else torch.empty(0, 0)
    return Features(np.array(ids, str), np.array(labels, np.int64), whole.numpy())


def write_features(
    runner: Runner,
    compute: Callable[[Batch], Tensor],
    loader: DataLoader,
    out: Path,
    *,
    key: str,
    origin: Mapping[str, str],
    overwrite: bool = False,
    shard_size: int = SHARD_SIZE,
) -> None:
    """Write the features of all readable samples, in the order of the data set, as .npz: see `load_features`.

    Args:
        runner: has the log and the work directory, which gets the list of unreadable files.
        compute: a batch of the loader -> (B, D).
        loader: of test samples by an EvalSampler. Its rows are distributed again.
        out: a file that ends in .npz, or a folder, which keeps the shards.
        key: of the loader in the config.
        origin: what the features depend on, name -> text. Existing shards of another origin are refused.
        overwrite: ignore existing shards.
        shard_size: samples in a file. Existing shards keep their size.
    """
    names = lacking(loader.dataset)
    if names and len(names) < len(loader.dataset.names):  # type: ignore[attr-defined]
        raise ValueError(f'{key}: source {names[0]!r} has no labels, and others have. Extract them one by one.')
    folder = out.with_name(f'{out.name}.parts') if out.suffix == '.npz' else out
    sampler: Any = loader.batch_sampler.sampler  # type: ignore[union-attr]
    rows = type(sampler)(dataset=loader.dataset, rank=0, world_size=1).shares
    shards = _begin(folder, rows, dict(origin), overwrite, shard_size)
    missing = [name for name in shards if not (folder / name).exists()]
    barrier()  # all ranks have listed the missing shards before the first is written
    if len(missing) < len(shards):
        runner.logger.info(f'Going on in {folder}: {len(shards) - len(missing)} of {len(shards)} shards are there.')
    own = missing[get_rank() :: get_world_size()]
    sampler.shares = [piece for name in own for piece in shards[name]]
    with naming_fatal_files(runner, loader.dataset, key):
        for name, batches in _by_shard(loader, {name: shards[name] for name in own}):
            with replacing(folder / name) as file:
                write_npz(file, _shard(compute, batches))
    barrier()
    if is_main_process():
        _finish(runner, out, folder, [*shards])
        unlock(folder.resolve())
    barrier()


def _begin(
    folder: Path, rows: Sequence[np.ndarray], origin: dict[str, str], overwrite: bool, shard_size: int
) -> dict[str, list[np.ndarray]]:
    """Name -> rows of each shard, by source. The main rank prepares the folder."""
    share = -(-sum(map(len, rows)) // get_world_size())
    size = of_main_rank(lambda: _prepare(folder, origin, overwrite, min(shard_size, share)))
    cuts = np.cumsum([0, *map(len, rows)])
    shards: dict[str, list[np.ndarray]] = {}
    for first in range(0, int(cuts[-1]), size):
        ends = [np.clip((first - cut, first + size - cut), 0, None) for cut in cuts[:-1].tolist()]
        pieces = (part[begin:end] for part, (begin, end) in zip(rows, ends, strict=True))
        shards[f'features_{first // size:06}.npz'] = [piece for piece in pieces if len(piece)]
    return shards


def _prepare(folder: Path, origin: dict[str, str], overwrite: bool, shard_size: int) -> int:
    """Make the folder, or check that its shards have this origin. Returns the size of a shard."""
    folder.mkdir(parents=True, exist_ok=True)
    lock(folder.resolve(), '--out')
    for unfinished in folder.glob('*.npz.*.tmp'):  # left by a killed run
        unfinished.unlink()
    index, found = folder / INDEX, sorted(folder.glob('features_*.npz'))
    if overwrite:
        for path in [index, *found]:
            path.unlink(missing_ok=True)
        found = []
    if not index.exists() and not found:
        with replacing(index) as file:
            file.write_text(json.dumps(dict(origin=origin, shard_size=shard_size, shards=None), indent=1))
        return shard_size
    known = json.loads(index.read_text()) if index.exists() else dict(origin={})
    if others := [name for name, text in origin.items() if known['origin'].get(name) != text]:
        raise ValueError(
            f'{folder} has features of other {" and ".join(others)}. Give another --out, or recompute by --overwrite.'
        )
    return known['shard_size']


def _by_shard(loader: DataLoader, shards: Mapping[str, list[np.ndarray]]) -> Iterator[tuple[str, Iterator[Batch]]]:
    """The batches of each shard. No batch has samples of two shards, because the sampler's shares are the shards."""
    batches = iter(loader)
    batch_size = loader.batch_sampler.batch_size  # type: ignore[union-attr]
    for name, pieces in shards.items():
        number = sum(-(-len(piece) // batch_size) for piece in pieces)
        yield name, (next(batches) for _ in range(number))


def _shard(compute: Callable[[Batch], Tensor], batches: Iterator[Batch]) -> dict[str, np.ndarray]:
    """The contents of a shard: those of `Features`, and (files, 2) paths and reasons of files that cannot be read."""
    broken: list[tuple[str, str]] = []

    def readable() -> Iterator[Batch]:
        for batch in batches:
            broken.extend(batch['failures'])
            if batch['ids']:
                yield batch

    content = collect(compute, readable())._asdict()
    return {**content, 'broken': np.array(broken, str).reshape(-1, 2)}


def _finish(runner: Runner, out: Path, folder: Path, shards: list[str]) -> None:
    """Count the features. Write the index of the folder, or join the shards into one file."""
    if missing := [name for name in shards if not (folder / name).exists()]:
        raise ValueError(
            f'{folder} lacks {len(missing)} of {len(shards)} shards, first {missing[0]}. Machines without a shared '
            'disk write to their own. Give --out a place that all ranks see, and run it again.'
        )
    broken: dict[str, str] = {}
    sizes, width = [], 0
    for name in shards:
        part = read_npz(folder / name, ('features', 'broken'))
        sizes.append(len(part['features']))
        width = max(width, part['features'].shape[1])
        broken |= dict(part['broken'].tolist())
    if not any(sizes):
        path, reason = next(iter(broken.items()))
        raise ValueError(f'None of the {len(broken)} files can be read, first {path} ({reason}).')
    if out == folder:
        index = json.loads((folder / INDEX).read_text()) | dict(shards=dict(zip(shards, sizes, strict=True)))
        with replacing(folder / INDEX) as file:
            file.write_text(json.dumps(index, indent=1))
    else:
        full = [folder / name for name, size in zip(shards, sizes, strict=True) if size]
        with replacing(out) as unfinished:
            join_npz(unfinished, full, Features._fields)
        for file in [*folder.glob('features_*.npz'), folder / INDEX]:
            file.unlink()
        unlock(folder.resolve())
        if not any(folder.iterdir()):
            folder.rmdir()
    runner.logger.info(f'{sum(sizes)} features of {width} numbers are in {out}.')
    if broken:
        place = list_broken(runner.work_dir, broken)
        runner.logger.warning(f'{len(broken)} files could not be read and are left out; they are listed in {place}.')


def digest(model: nn.Module) -> str:
    """A hash of a model's weights."""
    found = hashlib.blake2b(digest_size=16)
    for name, value in sorted(model.state_dict().items()):
        found.update(name.encode())
        found.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return found.hexdigest()


def digest_of_data(dataset: Any) -> str:
    """A hash of the samples of a MixedDataset, their order, and which of them are skipped."""
    said = json.dumps([dataset.fingerprint(), dataset.skipped_rows()])
    return hashlib.blake2b(said.encode(), digest_size=16).hexdigest()
