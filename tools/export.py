"""Export a classifier, or frozen features, to one file that runs without this package: ONNX or torch.export.

python tools/export.py RUN FILE.onnx
python tools/export.py CONFIG CHECKPOINT FILE.pt2 [--modality image|video] [--features] [--cfg-options k=v ...]

RUN is the folder of a fine-tuning or a probe. A pretraining gives features. The outputs of the file are compared with
those of the model, and a file with other outputs is not left. ONNX needs `pip install onnx onnxscript onnxruntime`.
docs/export.md says what goes in and out, and how to load the file.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from omnimae.stopping import start_tool

if __name__ == '__main__':
    start_tool('No file was written. The same command starts anew.')  # the imports take seconds

from mmengine.registry import init_default_scope

from omnimae.commands import add_cfg_options
from omnimae.deployment import export_model


def parse_args(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='folder of a run, or a config')
    parser.add_argument('checkpoint', nargs='?', help='path or URL of the weights; default: the best of the folder')
    parser.add_argument('out', help='the file, .onnx or .pt2')
    parser.add_argument(
        '--modality', choices=['image', 'video'], help='what goes in; default: what the config tests, videos first'
    )
    parser.add_argument('--features', action='store_true', help='features of a classifier, instead of logits')
    add_cfg_options(parser)
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> None:
    """Export."""
    args = parse_args(words)
    init_default_scope('omnimae')
    about = export_model(**vars(args))
    given, shape = about['input'], ' x '.join(map(str, about['input']['shape']))
    classes = f' of {len(about["classes"])} classes' if about.get('classes') else ''
    print(
        f'{args.out}: {given["name"]} ({shape}) -> {about["output"]}{classes}. Outputs differ from those of the model '
        f'by {about["largest_difference"]:.1g} at most.'
    )


if __name__ == '__main__':
    main()
