"""What masking the decoder, too, saves: VideoMAE V2's dual masking beside the encoder's mask alone, in one process.

python benchmarks/bench_dual_masking.py --out FOLDER [--arch base] [--device cpu] [--precision fp32] [--batch 1]
                                        [--rounds 7] [--threads 1]

Both have the model of configs/videomae/v2_vit-*_hybrid.py, the same weights, clips and encoder's mask; with both masks
the decoder runs on the visible tokens and half of all, with one on all tokens (ViT-B: 944 and 1568). A step is forward,
loss and backward, until the gradients are dropped. The two take turns, after warm-up; the speed-up is the median of its
rounds. FLOPs are those of the forward pass (omnimae.flops, 2 for each MAC). Memory is that of one more clip: what a
step of twice the batch adds at its peak less what one of the batch adds (as in bench_step.py), by the clips between.
Prints a table and writes table.md and results.json.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from bench_step import DTYPES, ROOT, build, cpu_memory, gpu_memory, machine, ours, setup, step, take_turns
from mmengine.config import Config

from omnimae.flops import pretraining_rows
from omnimae.structures import to_json

WAYS = ('encoder', 'dual')


def parse_args(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description='What masking the decoder saves.')
    parser.add_argument('--out', type=Path, required=True, metavar='FOLDER', help='where table.md and results.json go')
    parser.add_argument('--arch', default='base', choices=['base', 'large', 'huge', 'giant'])
    parser.add_argument('--device', default='cpu', choices=['cpu', 'cuda'])
    parser.add_argument('--precision', nargs='+', default=['fp32'], choices=list(DTYPES))
    parser.add_argument('--batch', type=int, default=1, metavar='CLIPS')
    parser.add_argument('--rounds', type=int, default=7)
    parser.add_argument('--threads', type=int, default=os.cpu_count(), help='of torch, on the CPU')
    return parser.parse_args(words)


def model_config(arch: str) -> dict:
    """The model of configs/videomae/v2_*, without recomputed activations, which would cost the two differently."""
    cfg = Config.fromfile(ROOT / f'configs/videomae/v2_vit-{arch[0]}_hybrid.py').model.to_dict()
    for part in ('backbone', 'head'):
        cfg[part]['grad_checkpointing'] = False
    return cfg


def masked_by(cfg: dict, way: str) -> dict:
    """The same model, masked for the encoder alone or for both."""
    dual = cfg['mask_generator']['video']
    return {**cfg, 'mask_generator': dict(video=dual if way == 'dual' else dual['encoder'])}


def added_memory(cfg: dict, clips: int, precision: str, args: argparse.Namespace) -> float:
    """MB that a step adds at its peak."""
    if args.device == 'cpu':
        return cpu_memory(cfg, 'video', clips, 'ours', precision, args.threads)
    return gpu_memory(ours(setup(build(cfg, args.device), 'video', clips)), precision)


def measure(args: argparse.Namespace) -> list[dict]:
    """One row per precision and way."""
    cfg = model_config(args.arch)
    setups = {way: setup(build(masked_by(cfg, way), args.device), 'video', args.batch) for way in WAYS}
    setups['encoder'].model.load_state_dict(setups['dual'].model.state_dict())
    contenders = {way: ours(this) for way, this in setups.items()}
    rows = []
    for precision in args.precision:
        calls = {way: partial(step, contenders[way], precision, args.device) for way in WAYS}
        times = take_turns(calls, args.rounds, args.device)
        for way in WAYS:
            model, masks = setups[way].model, setups[way].masks
            [forward] = [row for row in pretraining_rows(model) if row.what == 'masked, as it runs']
            added = [
                added_memory(masked_by(cfg, way), clips, precision, args) for clips in (args.batch, 2 * args.batch)
            ]
            rows.append(
                dict(
                    arch=args.arch,
                    batch=args.batch,
                    precision=precision,
                    masks=way,
                    decoder_tokens=masks.visible.shape[1] + masks.decode.shape[1],
                    encoder_gflops=2 * forward.encoder / 1e9,
                    decoder_gflops=2 * forward.decoder / 1e9,
                    seconds=times[way].tolist(),
                    speed_up=float(np.median(times['encoder'] / times[way])),
                    memory_of_a_clip_mb=(added[1] - added[0]) / args.batch,
                )
            )
            print(rows[-1], flush=True)
    return rows


def table(rows: Sequence[dict]) -> str:
    """Markdown, a line per precision and way."""
    lines = [
        '| step | precision | masked | decoder tokens | forward GFLOPs of a clip, encoder + decoder | seconds (range) '
        '| speed-up | memory of a clip |',
        '|---' * 8 + '|',
    ]
    for row in rows:
        cells = [
            f'{row["batch"]} clips, ViT-{row["arch"]}',
            row['precision'],
            dict(encoder='encoder alone', dual='encoder and decoder')[row['masks']],
            str(row['decoder_tokens']),
            f'{row["encoder_gflops"]:.1f} + {row["decoder_gflops"]:.1f}',
            f'{np.median(row["seconds"]):.3f} ({min(row["seconds"]):.3f} - {max(row["seconds"]):.3f})',
            f'{row["speed_up"]:.2f}',
            f'{row["memory_of_a_clip_mb"]:.0f} MB',
        ]
        lines.append(f'| {" | ".join(cells)} |')
    return '\n'.join(lines)


def main(words: Sequence[str] | None = None) -> None:
    """Measure and write the table."""
    args = parse_args(words)
    torch.set_num_threads(args.threads)
    rows = measure(args)
    args.out.mkdir(parents=True, exist_ok=True)
    record = dict(arguments={**vars(args), 'out': None}, machine=machine(args.device), steps=rows)
    (args.out / 'results.json').write_text(to_json(record, indent=2) + '\n')
    (args.out / 'table.md').write_text(f'{table(rows)}\n')
    print(table(rows))


if __name__ == '__main__':
    main()
