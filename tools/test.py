"""Test a checkpoint of this package, of MMEngine's Runner, or a published one.

python tools/test.py RUN [--out FILE] [--analyze DIR]
python tools/test.py CONFIG CHECKPOINT [--out FILE] [--analyze DIR] [--cfg-options k=v ...]
                     [--launcher none|pytorch|slurm]

--analyze writes the confusion matrix and the most confident errors of a classifier, as pictures and tables.

tools/score.py computes metrics from the scores that --out writes, or averages them with those of other tests. Data
without labels, such as a challenge's test set, have scores alone.
"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path

from omnimae.stopping import start_tool

if __name__ == '__main__':
    start_tool()  # the imports take seconds

from mmengine.config import Config
from mmengine.dist import is_main_process

from omnimae.apis import datasets_of
from omnimae.checkpoint import Checkpoint, load_weights
from omnimae.commands import add_run_arguments, load_run_config, new_parser, out_folder
from omnimae.config import infer_num_classes
from omnimae.consistency import metrics_of
from omnimae.engine import EvaluationRunner, HeadSizeHook, analyze, find_run, leave_distributed, setup_distributed
from omnimae.evaluation import load_scores
from omnimae.structures import check_out, to_json


def parse_args(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Command line."""
    parser = new_parser(__doc__)
    parser.add_argument('checkpoint', nargs='?', help='path or URL of the weights; default: the best of the folder RUN')
    add_run_arguments(parser)
    parser.add_argument(
        '--out', type=Path, metavar='FILE.json',
        help='write metrics to this file, ids, labels and scores of a classifier to FILE.npz, predicted maps to FILE/',
    )  # fmt: skip
    parser.add_argument(
        '--analyze', type=out_folder, metavar='DIR',
        help='draw confusion matrix and worst samples of a classifier into DIR',
    )  # fmt: skip
    args = parser.parse_args(words)
    if args.out is not None:
        check_out(args.out.with_suffix('.json'), is_folder=False, name='--out: ')
    if Path(args.config).is_dir():
        args.config, found = find_run(args.config)
        args.checkpoint = args.checkpoint or found
    elif args.checkpoint is None:
        parser.error(f'{args.config} is no folder of a run, and there is no checkpoint. Give RUN, or CONFIG CHECKPOINT')
    return args


def apply_arguments(cfg: Config, args: argparse.Namespace) -> None:
    """Write what the command line says into the config."""
    cfg.load_from, cfg.resume = None, False
    scores = None if args.out is None else args.out.with_suffix('.npz')
    if scores is None and args.analyze is not None:
        scores = args.analyze / 'scores.npz'
    for evaluator in metrics_of(cfg, 'test'):
        if scores and evaluator['type'] == 'ClipAccuracy':
            evaluator['out_file'] = str(scores)
        elif args.out and evaluator['type'] in ('SegmentationScore', 'DepthScore'):
            evaluator['out_dir'] = str(args.out.with_suffix(''))


ADD = 'Add test_dataloader, test_cfg and test_evaluator.'
JUDGE = """It is a pretraining. Labelled data judge it, by k-NN, a probe or fine-tuning{also}:
  export OMNIMAE_LABELLED=DATA        # DATA/{kind}/train/CLASS/*, DATA/{kind}/val/CLASS/*
  omnimae test custom/knn_{kind} {run}
  OMNIMAE_CHECKPOINT={run} omnimae train custom/linear_{kind}
  OMNIMAE_CHECKPOINT={run} omnimae train custom/attentive_{kind}
  omnimae finetune DATA --checkpoint {run} --out classifier"""


def how_to_judge(cfg: Config, args: argparse.Namespace) -> str:
    """The commands that test a pretraining."""
    kinds = [f'{modality}s' for modality, _ in datasets_of(cfg, 'train_dataloader')]
    kind, *others = sorted({*kinds}) or ['images']
    folder = Path(args.config).parent
    run = folder if folder == Path(args.checkpoint).parent else args.checkpoint
    also = f' (for {others[0]}: {others[0]} in place of {kind})' if others else ''
    return JUDGE.format(kind=kind, run=shlex.quote(str(run)), also=also)


def main() -> None:
    """Test."""
    args = parse_args()
    cfg = load_run_config(args, args.checkpoint)
    if cfg.get('test_evaluator') is None:
        remedy = how_to_judge(cfg, args) if 'mask_generator' in cfg.get('model', {}) else ADD
        raise ValueError(f'{args.config} has no test. {remedy}')
    apply_arguments(cfg, args)
    metric = next((x for x in metrics_of(cfg, 'test') if x['type'] == 'ClipAccuracy'), None)
    if args.analyze is not None and metric is None:
        raise ValueError(f'{args.config} tests no classifier by ClipAccuracy. Leave out --analyze.')
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)  # an error now costs no hours of testing
    setup_distributed(cfg)
    checkpoint = Checkpoint.read(args.checkpoint)
    classes = max(checkpoint.classes, key=len, default=None)
    infer_num_classes(cfg, classes)
    runner = EvaluationRunner.from_cfg(cfg)
    load_weights(runner.model, checkpoint, complete=True)
    del checkpoint  # its memory
    if classes is not None:
        for hook in runner.hooks:
            if isinstance(hook, HeadSizeHook):
                hook.expect(args.checkpoint, classes)
    metrics = runner.test()
    if args.out and is_main_process():
        args.out.with_suffix('.json').write_text(to_json(metrics, indent=2) + '\n')
    if args.analyze and is_main_process():
        scores, dataset = load_scores([metric['out_file']]), runner.test_dataloader.dataset
        for path in analyze(scores, dataset, args.analyze, classes=classes, softmax=metric.get('softmax', False)):
            print(path)
    leave_distributed()


if __name__ == '__main__':
    main()
