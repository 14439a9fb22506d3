"""Count the multiply-adds of a model, attention included, and the reduction by masking.

python tools/get_flops.py CONFIG [--cfg-options k=v ...]
"""

import argparse
from collections.abc import Sequence

from omnimae.stopping import start_tool

if __name__ == '__main__':
    start_tool()  # the imports take seconds

import torch
from torch import nn

from omnimae.commands import add_cfg_options, new_parser
from omnimae.config import infer_num_classes
from omnimae.engine import load_config_for
from omnimae.flops import FORMULA, Row, classifier_rows, dense_macs, pretraining_rows, task_rows
from omnimae.registry import MODELS
from omnimae.structures import require


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Command line."""
    parser = new_parser(__doc__)
    add_cfg_options(parser)
    return parser.parse_args(argv)


def describe(model: nn.Module) -> str:
    """Size and parameters, in one line."""
    backbone = model.backbone
    require(backbone, 'get_flops.py', 'grid', 'patch_size', 'embed_dim', 'num_layers')
    clip_size = 'x'.join(map(str, backbone.grid.clip_size(backbone.patch_size)))
    patch_size = 'x'.join(map(str, backbone.patch_size))
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return (
        f'{type(model).__name__}, {parameters / 1e6:.1f} M parameters: width {backbone.embed_dim}, '
        f'{backbone.num_layers} blocks, patches of {patch_size}, clips of {clip_size} (frames x height x width)'
    )


def _giga(number: float) -> str:
    """Two decimals, or two digits of what is small."""
    return f'{number / 1e9:{".2g" if 0 < number < 1e8 else ".2f"}}'


def table(rows: Sequence[Row]) -> str:
    """One line per row. Reductions are relative to the row of the same modality without hidden tokens."""
    whole = {row.modality: row.total for row in rows if row.num_visible == row.num_tokens}
    lines = [f'{"GMACs of one clip":36}{"K / N":>13}{"encoder":>10}{"decoder":>10}{"total":>10}{"reduction":>11}']
    for row in rows:
        counts = f'{row.num_visible} / {row.num_tokens}'
        gmacs = ''.join(f'{_giga(macs):>10}' for macs in (row.encoder, row.decoder, row.total))
        reduction = f'{whole[row.modality] / row.total:.2f}x' if row.num_visible < row.num_tokens else ''
        lines.append(f'{f"{row.modality}, {row.what}":36}{counts:>13}{gmacs}{reduction:>11}'.rstrip())
    return '\n'.join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    """Count."""
    args = parse_args(argv)
    cfg = load_config_for(args.config, None, args.cfg_options)
    infer_num_classes(cfg)
    with torch.device('meta'):
        model = MODELS.build(cfg.model)
    if cfg.model.type == 'DensePredictor':
        size = cfg.test_dataloader.dataset.sources.images.transforms[-1]['size']
        parameters = sum(parameter.numel() for parameter in model.parameters())
        print(f'DensePredictor, {parameters / 1e6:.1f} M parameters')
        print(f'GMACs of an image of {size}x{size}: {_giga(dense_macs(model, size))}')
        return
    if cfg.model.type == 'MultiMAE':
        parameters = sum(parameter.numel() for parameter in model.parameters())
        print(
            f'MultiMAE, {parameters / 1e6:.2f} M parameters: {", ".join(model.backbone.modalities)}; all tasks together'
        )
        print(table(task_rows(model)))
        return
    rows = pretraining_rows(model) if hasattr(model, 'mask_generator') else classifier_rows(model)
    print(describe(model), FORMULA, table(rows), sep='\n\n')


if __name__ == '__main__':
    main()
