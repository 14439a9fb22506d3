"""What a sample costs from its file to a uint8 batch, beside three public pipelines in the same run.

python benchmarks/bench_loader.py --data FOLDER --out FOLDER [--rounds 5] [--workers 1 2]

FOLDER holds images and videos at any depth. Ours is the loader of configs/_base_/datasets/in1k_ssv2.py with its
transforms and the reader 'pyav'. Clips are also read from both kinds of copies (prepare_dataset.py --short-side 256),
which are made first; a table has their bytes, PSNR and SSIM. Beside ours are

- decord: mmaction2's DecordInit (1 thread, its default), DecordDecode, RandomResizedCrop, Resize. SampleFrames cannot
  say "16 frames over 2.7 s", so it is told which frames to take;
- mmpretrain: LoadImageFromFile (pillow), RandomResizedCrop (bicubic, pillow), RandomFlip, PackInputs;
- release: as OmniMAE's release reads clips. The whole file in memory, PyAV from the keyframe before the clip through
  all its frames (all of the file where the stream does not say how long it is, as in Matroska and WebM), float32, 16
  of them, and for each replica a short side of 256 and then a crop.

All take the same frames and draw boxes by the same law: area 0.2 to 1 of an image, 0.08 to 1 of a clip, aspect 3/4 to
4/3, to 224 pixels. Replicas are crops of one clip; decord and mmpretrain have none and read the file again for each.
Images are also read from a store that takes 20 ms for each file, by one worker and by more; see bench_storage.py, too.
Pipelines take turns, the first round does not count; numbers are medians over the rounds with their range. CPU time is
that of all threads and processes. Freed memory is kept for all pipelines, as in our workers. Prints tables and writes
table.md and results.json.
"""

from __future__ import annotations

import argparse
import io
import os
import pickle
import random
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import av
import cv2
import numpy as np
import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.fileio import BaseStorageBackend, register_backend
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from omnimae.data.annotations import scan_files
from omnimae.data.datasets import MixedDataset, collate_clips
from omnimae.data.formats.reencode import COPIES, reencode, scaled_size
from omnimae.data.media import open_video
from omnimae.data.media.extensions import IMAGE_EXTENSIONS, VIDEO_EXTENSIONS
from omnimae.data.media.frames import pick_frames, train_start
from omnimae.data.media.images import read_image
from omnimae.data.samplers import MixedBatchSampler, MixedSampler
from omnimae.data.transforms import random_box, resize
from omnimae.data.transport import set_malloc
from omnimae.registry import DATASETS
from omnimae.structures import Address, to_json

ROOT = Path(__file__).parents[1]
RECIPE = Config.fromfile(ROOT / 'configs/_base_/datasets/in1k_ssv2.py').train_dataloader.dataset.sources
SECONDS, NUM_FRAMES = RECIPE.ssv2.clip_seconds, RECIPE.ssv2.num_frames
STARTS = (0.25, 0.75)  # of a clip, as shares of what the video allows
REPLICAS = (1, 4)
SHORT_SIDE = 256  # of the copies
LUMA = np.array([0.299, 0.587, 0.114])
BATCH = 8  # files that a worker takes for a batch
STORE_WORKERS = (1, 2, 4, 8, 16)
LATENCY = 0.02  # seconds that each read of the slow store takes

Pipeline = Callable[[Sequence[int], int], Tensor]  # (rows, replicas) -> a batch


class Clip(NamedTuple):
    """A stretch of a video, and the numbers of the frames that make it a clip."""

    path: str
    start: float
    frames: np.ndarray


def parse_args(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description='CPU and wall time of a sample, from its file to a uint8 batch.')
    parser.add_argument('--data', type=Path, required=True, metavar='FOLDER', help='images and videos, at any depth')
    parser.add_argument('--out', type=Path, required=True, metavar='FOLDER', help='where table.md and results.json go')
    parser.add_argument('--rounds', type=int, default=5)
    parser.add_argument('--workers', type=int, nargs='+', default=list(range(1, (os.cpu_count() or 1) + 1)))
    return parser.parse_args(words)


# ---- The data ----


def find_files(data: Path, extensions: Sequence[str]) -> list[str]:
    """Paths of the files below ``data``, none if there are none."""
    found = any(path.suffix.lower() in extensions for path in data.rglob('*'))
    return [str(data.absolute() / path) for path in scan_files(str(data), extensions)] if found else []


def decode_sequentially(path: str) -> tuple[np.ndarray, list[av.VideoFrame]]:
    """All frames of a file as PyAV gives them, and their times after the start of the stream in seconds."""
    with av.open(path) as container:
        stream: Any = container.streams.video[0]
        frames: list[Any] = list(container.decode(stream))
        origin = stream.start_time or 0
        if container.format.name == 'avi':  # it begins with its first frame, see open_video
            origin = min(frame.pts for frame in frames)
        # AVI has no times of display; its frames come in order, labelled in order of decoding.
        return np.array(sorted(float((frame.pts - origin) * stream.time_base) for frame in frames)), frames


def find_clips(paths: Sequence[str]) -> tuple[list[Clip], int]:
    """The clips that are read, and how many of them our reader gives other than sequential decoding of the file."""
    clips, num_wrong = [], 0
    for path in paths:
        times, frames = decode_sequentially(path)
        with open_video(path) as video:
            for start in {round(train_start(video.duration, SECONDS, share), 3) for share in STARTS}:
                clips.append(Clip(path, start, pick_frames(times, start, SECONDS, NUM_FRAMES)))
                expected = np.stack([frames[i].to_ndarray(format='rgb24', threads=1) for i in clips[-1].frames])
                num_wrong += not np.array_equal(video.read(start, SECONDS, NUM_FRAMES), expected)
    return clips, num_wrong


def make_copies(paths: Sequence[str], folder: Path) -> tuple[dict[str, list[str]], dict[str, dict]]:
    """Copies of the videos by kind, and what each kind costs and keeps."""
    copies, records = {}, {}
    for codec, kind in COPIES.items():
        copies[codec] = [str(folder / f'{number}_{codec}{kind.ending}') for number in range(len(paths))]
        begin = cpu_seconds()
        for path, copy in zip(paths, copies[codec], strict=True):
            reencode(path, copy, SHORT_SIDE, codec)
        seconds = cpu_seconds() - begin
        qualities = np.array([quality_of(*pair) for pair in zip(paths, copies[codec], strict=True)])
        size = sum(os.path.getsize(copy) for copy in copies[codec])
        psnr, ssim = qualities.T.tolist()
        records[codec] = dict(mb=size / 1e6, cpu_seconds=seconds, psnr=psnr, ssim=ssim)
    return copies, records


def quality_of(path: str, copy: str) -> tuple[float, float]:
    """PSNR of RGB and SSIM of luma of every eighth frame of a copy, to the original in the copy's size."""
    errors, similarities = [], []
    with open_video(path) as before, open_video(copy) as after:
        for number, ((_, old), (_, new)) in enumerate(zip(before.frames(), after.frames(), strict=True)):
            if number % 8 == 0:
                height, width = scaled_size(old.height, old.width, SHORT_SIDE)
                old = old.reformat(width, height, 'rgb24', interpolation='BICUBIC').to_ndarray()
                new = new.reformat(format='rgb24').to_ndarray()
                errors.append(np.mean((old.astype(float) - new) ** 2))
                similarities.append(structural_similarity(old @ LUMA, new @ LUMA))
    return float(10 * np.log10(255**2 / np.mean(errors))), float(np.mean(similarities))


def structural_similarity(a: np.ndarray, b: np.ndarray) -> float:
    """SSIM of two pictures from 0 to 255 (Wang et al. 2004), with a Gaussian window of 1.5 pixels."""

    def blur(x: np.ndarray) -> np.ndarray:
        return cv2.GaussianBlur(x, (11, 11), 1.5)

    mean_a, mean_b = blur(a), blur(b)
    var_a, var_b, cov = blur(a * a) - mean_a**2, blur(b * b) - mean_b**2, blur(a * b) - mean_a * mean_b
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    similarity = (2 * mean_a * mean_b + c1) * (2 * cov + c2) / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))
    return float(similarity.mean())


def copies_table(records: Mapping[str, dict], originals: Sequence[str]) -> str:
    """The kinds of copies beside each other."""
    lines = [line('', ['MB', 'PSNR, dB', 'SSIM', 'CPU s to make']), rule(4)]
    lines.append(line('originals', [f'{sum(map(os.path.getsize, originals)) / 1e6:.1f}', '', '', '']))
    for codec, record in records.items():
        cells = [f'{record["mb"]:.1f}']
        cells += [f'{np.mean(record[k]):.{n}f} (least {min(record[k]):.{n}f})' for k, n in (('psnr', 1), ('ssim', 4))]
        lines.append(line(f'{codec} copies', [*cells, f'{record["cpu_seconds"]:.1f}']))
    return '\n'.join(lines)


def differ_from_pillow(paths: Sequence[str]) -> float:
    """Mean absolute difference of our image crops to those that Pillow resizes, in grey levels of 255."""
    rng = np.random.default_rng(0)
    differences = []
    for path in paths:
        image = read_image(path)
        height, width = image.shape[1:3]
        box = random_box(height, width, (0.2, 1.0), (3 / 4, 4 / 3), rng)
        crop = image[:, box.top : box.top + box.height, box.left : box.left + box.width]
        expected = np.asarray(Image.fromarray(crop[0]).resize((224, 224), Image.Resampling.BICUBIC))
        differences.append(np.abs(resize(crop, 224, 224, 'bicubic')[0].astype(int) - expected).mean())
    return float(np.mean(differences))


# ---- Pipelines ----


def our_source(kind: str, paths: Sequence[str], replicas: int, folder: Path, **options: Any) -> dict:
    """The recipe's source with these rows: images, or clips as spans of videos."""
    ann_file = folder / f'{kind}.txt'
    ann_file.write_text(''.join(f'{path.removeprefix("/")}\n' for path in paths))
    source = RECIPE.in1k if kind == 'images' else RECIPE.ssv2
    return dict(source, root='/', ann_file=str(ann_file), replicas=replicas, **options)


def span(clip: Clip) -> str:
    """A line of a list that leaves training no other clip than this one."""
    return f'{clip.path} {clip.start:.3f} {clip.start + SECONDS:.3f}'


class Ours:
    """Rows of the recipe's dataset."""

    def __init__(self, kind: str, rows: Sequence[str], folder: Path) -> None:
        self._datasets = {n: DATASETS.build(our_source(kind, rows, n, folder)) for n in REPLICAS}

    def __call__(self, rows: Sequence[int], replicas: int) -> Tensor:
        dataset = self._datasets[replicas]
        return collate_clips([dataset[Address(0, row, random.getrandbits(32))] for row in rows])['clips']['rgb']


class Decord:
    """mmaction2's pipeline, once for each replica."""

    def __init__(self, clips: Sequence[Clip]) -> None:
        from mmaction.datasets import transforms as T

        self._clips = clips
        self._transforms = [
            T.DecordInit(),
            T.DecordDecode(),
            T.RandomResizedCrop(area_range=(0.08, 1.0)),
            T.Resize(scale=(224, 224), keep_ratio=False),
            T.FormatShape(input_format='NCTHW'),
            T.PackActionInputs(),
        ]

    def __call__(self, rows: Sequence[int], replicas: int) -> Tensor:
        return torch.cat([self._read(self._clips[row]) for row in rows for _ in range(replicas)])

    def _read(self, clip: Clip) -> Tensor:
        results: Any = dict(filename=clip.path, frame_inds=clip.frames, clip_len=NUM_FRAMES, num_clips=1)
        for transform in self._transforms:
            results = transform(results)
        return results['inputs']


class MMPretrain:
    """mmpretrain's pipeline, once for each replica."""

    def __init__(self, paths: Sequence[str]) -> None:
        from mmpretrain.datasets import transforms as T

        self._paths = paths
        self._transforms = [
            T.LoadImageFromFile(imdecode_backend='pillow'),
            T.RandomResizedCrop(224, crop_ratio_range=(0.2, 1.0), interpolation='bicubic', backend='pillow'),
            T.RandomFlip(prob=0.5),
            T.PackInputs(),
        ]

    def __call__(self, rows: Sequence[int], replicas: int) -> Tensor:
        return torch.stack([self._read(self._paths[row]) for row in rows for _ in range(replicas)])

    def _read(self, path: str) -> Tensor:
        results: Any = dict(img_path=path)
        for transform in self._transforms:
            results = transform(results)
        return results['inputs']


class Release:
    """Clips as the release reads them."""

    def __init__(self, clips: Sequence[Clip]) -> None:
        self._clips = clips

    def __call__(self, rows: Sequence[int], replicas: int) -> Tensor:
        return torch.stack([crop for row in rows for crop in self._read(self._clips[row], replicas)])

    def _read(self, clip: Clip, replicas: int) -> list[Tensor]:
        frames = self._decode(Path(clip.path).read_bytes(), clip.start)
        picked = frames[:, torch.linspace(0, frames.shape[1] - 1, NUM_FRAMES).long()] / 255
        return [self._crop(picked.clone()) for _ in range(replicas)]

    def _decode(self, data: bytes, start: float) -> Tensor:
        """The frames of a clip, float32 (3, T, H, W)."""
        with av.open(io.BytesIO(data)) as container:
            stream: Any = container.streams.video[0]
            unit, origin = stream.time_base, stream.start_time or 0
            begin, end = start / unit + origin, (start + SECONDS) / unit + origin
            if stream.duration is not None:
                container.seek(max(int(begin) - 1024, 0), stream=stream)
            inside = []
            for frame in container.decode(stream):
                if stream.duration is not None and frame.pts >= end:
                    break
                if stream.duration is None or frame.pts >= begin:
                    inside.append((frame.pts, frame))
            pictures = [(pts, torch.from_numpy(frame.to_rgb().to_ndarray())) for pts, frame in inside]
        return torch.stack([p for pts, p in pictures if begin <= pts < end]).permute(3, 0, 1, 2).float()

    def _crop(self, clip: Tensor) -> Tensor:
        """Float (3, T, H, W) -> (3, T, 224, 224)."""
        height, width = clip.shape[2:]
        short = min(height, width)
        clip = F.interpolate(clip, (height * 256 // short, width * 256 // short), mode='bilinear')
        height, width = clip.shape[2:]
        rng = np.random.default_rng(random.getrandbits(32))
        box = random_box(height, width, (0.08, 1.0), (3 / 4, 4 / 3), rng)
        clip = clip[:, :, box.top : box.top + box.height, box.left : box.left + box.width]
        return F.interpolate(clip, (224, 224), mode='bilinear')


# ---- One process ----


def take_turns(calls: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, np.ndarray]:
    """CPU and wall seconds of each call in each round, (rounds, 2); the calls in turn, a first round not counted."""
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}
    for number in range(-1, rounds):
        for name, call in calls.items():
            random.seed(number)
            np.random.seed(number % 2**32)
            cpu, wall = cpu_seconds(), time.perf_counter()
            call()
            cost = cpu_seconds() - cpu, time.perf_counter() - wall
            if number >= 0:
                seconds[name].append(cost)
    return {name: np.array(costs) for name, costs in seconds.items()}


def cpu_seconds() -> float:
    """CPU time so far of all threads of this process and of its children that have ended."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def time_group(pipelines: Mapping[str, Pipeline], rows: Sequence[int], rounds: int) -> list[dict]:
    """One record per pipeline and number of replicas: milliseconds a sample, over these rows."""

    def run(pipeline: Pipeline, replicas: int) -> None:
        for begin in range(0, len(rows), BATCH):
            pipeline(rows[begin : begin + BATCH], replicas)

    calls = {(name, n): partial(run, pipeline, n) for n in REPLICAS for name, pipeline in pipelines.items()}
    seconds = take_turns({f'{name} {n}': call for (name, n), call in calls.items()}, rounds)
    return [
        dict(pipeline=name, replicas=n, cpu_ms=list(costs[:, 0]), wall_ms=list(costs[:, 1]))
        for name, n in calls
        for costs in [seconds[f'{name} {n}'] * 1000 / len(rows)]
    ]


def cost_table(groups: Mapping[str, list[dict]]) -> str:
    """CPU milliseconds a sample of each group, and how many times ours the others cost in its rounds' median."""
    keys = [(record['pipeline'], record['replicas']) for record in next(iter(groups.values()))]
    lines = [line('CPU ms a sample', [f'{name}, {count(n, "replica")}' for name, n in keys]), rule(len(keys))]
    for group, records in groups.items():
        lines.append(line(group, [spread(record['cpu_ms']) for record in records]))
    cpu, wall = (
        np.exp(np.mean([[np.log(np.median(r[kind])) for r in records] for records in groups.values()], axis=0))
        for kind in ('cpu_ms', 'wall_ms')
    )
    ours = {n: mean for (name, n), mean in zip(keys, cpu, strict=True) if name == 'ours'}
    if len(groups) > 1:
        lines.append(line('geometric mean', [f'{mean:.2f}' for mean in cpu]))
    lines.append(line('the same, wall', [f'{mean:.2f}' for mean in wall]))
    lines.append(line('times ours', [f'{mean / ours[n]:.2f}' for (_, n), mean in zip(keys, cpu, strict=True)]))
    return '\n'.join(lines)


def line(head: str, cells: Sequence[str]) -> str:
    """A line of a table."""
    return f'| {head} | {" | ".join(cells)} |'


def rule(num_cells: int) -> str:
    """The line below a table's head."""
    return '|---' * (num_cells + 1) + '|'


def count(n: int, what: str) -> str:
    """Two workers, one worker."""
    return f'{n} {what}' if n == 1 else f'{n} {what}s'


def spread(values: Sequence[float]) -> str:
    """Median and range."""
    return f'{np.median(values):.2f} ({min(values):.2f}-{max(values):.2f})'


# ---- Worker processes ----


class Rows(Dataset):
    """Samples of a pipeline, for a DataLoader."""

    def __init__(self, pipeline: Pipeline, replicas: int) -> None:
        self._pipeline, self._replicas = pipeline, replicas

    def __getitem__(self, row: int) -> Tensor:
        return self._pipeline([row], self._replicas)


def our_loader(source: dict, passes: int, batch_size: int, **options: Any) -> DataLoader:
    """The loader of training, over one source."""
    dataset = MixedDataset(sources=dict(source=source))
    sampler = MixedSampler(dataset=dataset, repeats=dict(source=passes), seed=0)
    batches = MixedBatchSampler(sampler=sampler, batch_size=batch_size, rank=0, world_size=1)
    return DataLoader(dataset, batch_sampler=batches, collate_fn=collate_clips, **options)


def their_loader(pipeline: Pipeline, replicas: int, rows: Sequence[int], num_workers: int) -> DataLoader:
    """A loader as plain as can be over another pipeline."""
    data: Any = Rows(pipeline, replicas)
    return DataLoader(data, sampler=rows, batch_size=BATCH, collate_fn=torch.cat, num_workers=num_workers)


def time_workers(
    pipelines: Mapping[str, Pipeline], source: dict, num_rows: int, workers: Sequence[int], passes: int
) -> list[dict]:
    """One record per pipeline and number of workers, with the replicas of the source. Starting the workers counts."""
    replicas, rows = source['replicas'], np.random.default_rng(0).permutation(np.tile(np.arange(num_rows), passes))
    calls: dict[str, Callable[[], object]] = {}
    for n in workers:
        loader = our_loader(source, passes, BATCH * replicas, num_workers=n)
        calls[f'ours {n}'] = partial(drain, loader)
        for name, pipeline in pipelines.items():
            calls[f'{name} {n}'] = partial(drain, their_loader(pipeline, replicas, rows.tolist(), n))
    records = []
    for key, costs in take_turns(calls, rounds=3).items():
        name, n_workers = key.split()
        cpu_ms, wall_ms = (costs * 1000 / len(rows)).T.tolist()
        records.append(dict(pipeline=name, replicas=replicas, workers=int(n_workers), cpu_ms=cpu_ms, wall_ms=wall_ms))
    return records


def drain(loader: DataLoader) -> None:
    """Take all batches; the workers end with them."""
    for _ in loader:
        pass


def workers_table(groups: Mapping[str, list[dict]]) -> str:
    """Wall and CPU milliseconds a sample."""
    workers = sorted({record['workers'] for records in groups.values() for record in records})
    lines = [line('wall ms a sample (CPU ms)', [count(n, 'worker') for n in workers]), rule(len(workers))]
    for group, records in groups.items():
        for name in dict.fromkeys(record['pipeline'] for record in records):
            medians = [[np.median(r[k]) for k in ('wall_ms', 'cpu_ms')] for r in records if r['pipeline'] == name]
            lines.append(line(f'{group}: {name}', [f'{wall:.2f} ({cpu:.2f})' for wall, cpu in medians]))
    return '\n'.join(lines)


def measure_process(source: dict, before: int) -> dict:
    """Memory of one worker on the recipe's batches of 32, and what a sample sends from it to the main process.

    Args:
        source: of the samples.
        before: RSS in bytes of a process that has imported torch.
    """
    # A worker that is started afresh, not forked, shares nothing with the main process that would not be counted.
    loader = our_loader(source, 3, 32, num_workers=1, multiprocessing_context='spawn')
    batches: Any = iter(loader)
    for batch in batches:
        clip = batch.pop('clips')['rgb']
        sent = clip.nbytes + len(pickle.dumps(batch))
        status = Path(f'/proc/{batches._workers[0].pid}/status').read_text()
    [peak] = re.findall(r'VmHWM:\s+(\d+) kB', status)
    return dict(
        rss_mb=(1024 * int(peak) - before) / 1e6, bytes_a_sample=sent // len(clip), bytes_a_value=sent / clip.numel()
    )


def torch_rss() -> int:
    """RSS in bytes of a process that has imported torch."""
    program = "import torch; print(open('/proc/self/statm').read().split()[1])"
    pages = subprocess.run([sys.executable, '-c', program], capture_output=True, check=True).stdout
    return int(pages) * os.sysconf('SC_PAGE_SIZE')


def process_table(records: Mapping[str, dict]) -> str:
    """Memory of a worker and bytes that it sends."""
    head = ['peak RSS above `import torch`', 'bytes sent a sample', 'bytes a value']
    lines = [line('a worker on batches of 32', head), rule(3)]
    for name, record in records.items():
        cells = [f'{record["rss_mb"]:.0f} MB', f'{record["bytes_a_sample"]:,}', f'{record["bytes_a_value"]:.3f}']
        lines.append(line(name, cells))
    return '\n'.join(lines)


# ---- A slow store ----


class SlowStore(BaseStorageBackend):
    """Local files, each of which takes ``LATENCY`` longer."""

    def get(self, filepath: str) -> bytes:
        time.sleep(LATENCY)
        return Path(filepath).read_bytes()

    def get_text(self, filepath: str, encoding: str = 'utf-8') -> str:
        return Path(filepath).read_text(encoding)


register_backend('slow', SlowStore)


def time_store(source: dict, workers: Sequence[int], passes: int) -> dict:
    """Wall milliseconds a sample from the disk and from the slow store, by number of workers."""
    stores = {'disk': source, 'slow': dict(source, backend_args=dict(backend='slow'))}
    calls = {
        f'{name} {n}': partial(drain, our_loader(store, passes, BATCH * source['replicas'], num_workers=n))
        for n in workers
        for name, store in stores.items()
    }
    num_samples = passes * len(DATASETS.build(source))
    wall = {key: np.median(costs[:, 1]) * 1000 / num_samples for key, costs in take_turns(calls, rounds=3).items()}
    return {name: {n: wall[f'{name} {n}'] for n in workers} for name in stores}


def store_table(wall: Mapping[str, Mapping[int, float]]) -> str:
    """The stores beside each other."""
    workers = list(wall['disk'])
    lines = [line('wall ms a sample, 1 replica', [count(n, 'worker') for n in workers]), rule(len(workers))]
    names = {'disk': 'disk', 'slow': f'{LATENCY * 1000:.0f} ms a read'}
    lines += [line(names[name], [f'{wall[name][n]:.2f}' for n in workers]) for name in names]
    return '\n'.join(lines)


# ---- All of it ----


def measure_images(paths: Sequence[str], folder: Path, args: argparse.Namespace) -> tuple[dict, list[str]]:
    """All about images: records, tables."""
    sources = [our_source('images', paths, n, folder) for n in REPLICAS]
    process = {'images': measure_process(sources[0], torch_rss())}
    theirs: dict[str, Pipeline] = {'mmpretrain': MMPretrain(paths)}
    rows = range(len(paths))
    pipelines: dict[str, Pipeline] = {'ours': Ours('images', paths, folder), **theirs}
    costs = {f'{len(paths)} images': time_group(pipelines, rows, args.rounds)}
    workers = {
        f'images, {count(source["replicas"], "replica")}': time_workers(
            theirs, source, len(paths), args.workers, 4 // source['replicas']
        )
        for source in sources
    }
    difference = differ_from_pillow(paths)
    store = time_store(sources[0], STORE_WORKERS, passes=2)
    tables = [
        cost_table(costs),
        f'Our crops differ from those that Pillow resizes by {difference:.3f} of 255 grey levels on average.',
        workers_table(workers),
        process_table(process),
        store_table(store),
    ]
    return dict(costs=costs, workers=workers, process=process, store=store, difference_to_pillow=difference), tables


def measure_clips(paths: Sequence[str], folder: Path, args: argparse.Namespace) -> tuple[dict, list[str]]:
    """All about clips: records, tables."""
    clips, num_wrong = find_clips(paths)
    lines = [span(clip) for clip in clips]
    copies, made = make_copies(paths, folder)
    ours = {'ours': Ours('clips', lines, folder)}
    for codec, files in copies.items():
        copy_of = dict(zip(paths, files, strict=True))
        spans = [span(clip._replace(path=copy_of[clip.path])) for clip in clips]
        ours[f'{codec} copies'] = Ours(codec, spans, folder)
    sources = [our_source('clips', lines, n, folder) for n in REPLICAS]
    process = {
        f'clips, {count(source["replicas"], "replica")}': measure_process(source, torch_rss()) for source in sources
    }
    theirs: dict[str, Pipeline] = {'decord': Decord(clips), 'release': Release(clips)}
    pipelines: dict[str, Pipeline] = {**ours, **theirs}
    costs = {}
    for path in paths:
        rows = [row for row, clip in enumerate(clips) if clip.path == path]
        costs[Path(path).name] = time_group(pipelines, rows, args.rounds)
    workers = {
        f'clips, {count(source["replicas"], "replica")}': time_workers(theirs, source, len(clips), args.workers, 1)
        for source in sources
    }
    tables = [
        copies_table(made, paths),
        cost_table(costs),
        f'{num_wrong} of {len(clips)} clips differ from sequential decoding of their file.',
        workers_table(workers),
        process_table(process),
    ]
    records = dict(costs=costs, workers=workers, process=process, copies=made)
    return dict(records, clips_unlike_sequential_decoding=num_wrong), tables


def main() -> None:
    """Measure what FOLDER has, and write the tables."""
    args = parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    set_malloc()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    av.logging.set_level(av.logging.PANIC)
    results, tables = {}, []
    for kind, extensions, measure in (
        ('images', IMAGE_EXTENSIONS, measure_images),
        ('clips', VIDEO_EXTENSIONS, measure_clips),
    ):
        if paths := find_files(args.data, extensions):
            with tempfile.TemporaryDirectory() as folder:
                results[kind], new = measure(paths, Path(folder), args)
            tables += new
            print(*new, sep='\n\n', end='\n\n', flush=True)
    (args.out / 'results.json').write_text(to_json(results, indent=2) + '\n')
    (args.out / 'table.md').write_text('\n\n'.join(tables) + '\n')


if __name__ == '__main__':
    main()
