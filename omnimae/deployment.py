"""A classifier or frozen features as one file that runs without this package: ONNX or ``torch.export``."""

from __future__ import annotations

import json
import os
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from torch import Tensor, nn

import omnimae
from omnimae.apis import ClassificationInferencer, FeatureExtractor, Inferencer, find_source, resolve
from omnimae.inputs import default_source, sampling_of
from omnimae.structures import check_out

METADATA = 'omnimae'  # its key in the files
TOLERANCE = 1e-4  # of the largest output


def export_model(
    config: Config | str | os.PathLike,
    checkpoint: str | os.PathLike | None,
    out: str | os.PathLike,
    *,
    modality: str | None = None,
    features: bool = False,
    cfg_options: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Export a model, and check that the file gives the same outputs for batches of 1 and 3.

    The input is one view, (B, 3, H, W) of images or (B, 3, T, H, W) of clips: float32 RGB, normalised. B is free. The
    output is ``logits`` (B, classes), or ``features`` (B, D) of a model without classes. The metadata ``omnimae`` is
    JSON: task, shape, mean and std, the transforms and views of the config's tests, names of classes.

    Args:
        config: folder of a run, see `find_run`, or what `get_model` takes.
        checkpoint: see `get_model`. None takes that of the folder.
        out: a name that ends in ``.onnx`` (needs onnx, onnxscript and onnxruntime) or ``.pt2``.
        modality: 'image' or 'video'. By default what the config tests, else what the model is made for.
        features: export the input of a classifier's head, see `FeatureExtractor`.
        cfg_options: see `get_model`.

    Returns:
        The metadata, and ``largest_difference`` of the outputs.

    Raises:
        ValueError: another ending, missing packages, a model that cannot be exported, or different outputs. Then there
            is no file.
    """
    out = Path(out)
    write = _WRITERS.get(out.suffix)
    if write is None:
        raise ValueError(f'{out}: the name decides the format. It must end in {" or ".join(_WRITERS)}.')
    check_out(out, is_folder=False, name='out: ')
    if out.suffix == '.onnx':
        _import_onnx()  # an error now costs no time
    model, about = _prepare(config, checkpoint, modality, features, cfg_options)
    shape = about['input']['shape'][1:]
    example = torch.randn(2, *shape)  # torch.export takes a batch of 1 for a constant
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter('ignore')  # of PyTorch about itself
        try:
            program = torch.export.export(model, (example,), dynamic_shapes=({0: torch.export.Dim('batch')},))
        except Exception as error:
            reason = str(error).strip().partition('\n')[0]
            raise ValueError(f'torch.export cannot read the code of the model: {reason}') from error
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix='.export-', dir=out.parent) as folder:
            run = write(program, Path(folder) / out.name, about)
            difference = max(_difference(model, run, torch.randn(size, *shape), out) for size in (1, 3))
            for file in sorted(Path(folder).iterdir()):  # an ONNX of more than 2 GB has its weights in a second one
                os.replace(file, out.parent / file.name)
    return {**about, 'largest_difference': difference}


class _OneView(nn.Module):
    """(B, 3, [T,] H, W) -> the output: a model as others call it."""

    def __init__(self, model: nn.Module, method: str):
        super().__init__()
        self.model, self.method = model, method

    def forward(self, pixels: Tensor) -> Tensor:
        return getattr(self.model, self.method)(pixels[:, :, None] if pixels.dim() == 4 else pixels)


def _prepare(
    config: Any, checkpoint: Any, modality: str | None, features: bool, options: Mapping[str, Any] | None
) -> tuple[nn.Module, dict[str, Any]]:
    cfg, checkpoint = resolve(config, checkpoint, options)
    classifies = 'num_classes' in cfg.model and not features
    kind: type[Inferencer] = ClassificationInferencer if classifies else FeatureExtractor
    given = kind(cfg, checkpoint, device='cpu')
    backbone, processor = given.model.backbone, given.model.data_preprocessor
    processor = getattr(processor, 'modalities', {'rgb': processor})['rgb']
    clip_size = backbone.grid.clip_size(backbone.patch_size)
    if modality is None:
        tested = [x for x in ('video', 'image') if find_source(cfg, x)]
        modality = (tested or ['video' if clip_size[0] > 1 else 'image'])[0]
    source = find_source(cfg, modality) or default_source(modality, clip_size)
    sampling = None if modality == 'image' else sampling_of(source)
    frames = 1 if sampling is None else sampling.num_frames
    crops = given.pipelines[modality](np.zeros((frames, *clip_size[1:], 3), np.uint8))  # of one clip
    shape = [3, *crops.shape[-2 if sampling is None else -3 :]]
    output = 'logits' if classifies else 'features'
    about: dict[str, Any] = dict(
        task='classification' if classifies else 'features',
        modality=modality,
        input=dict(
            name=modality,
            shape=['batch', *shape],
            dtype='float32',
            pixels='RGB in 0..1, minus mean, divided by std',
            mean=[round(x, 6) for x in processor.mean.tolist()],
            std=[round(x, 6) for x in processor.std.tolist()],
        ),
        output=output,
        transforms=[dict(transform) for transform in source.get('transforms', ())],
        views=(len(crops) if crops.dim() == 5 else 1) * (1 if sampling is None else sampling.num_clips),
    )
    if sampling is not None:
        about['sampling'] = sampling._asdict()
    if isinstance(given, ClassificationInferencer):
        about['average_of_views'] = 'probabilities' if given.softmax else 'logits'
        if given.classes is not None:
            about['classes'] = given.classes
    about['omnimae'] = omnimae.__version__
    return _OneView(given.model, 'predict' if classifies else 'features').eval(), about


def _difference(model: nn.Module, run: Any, pixels: Tensor, out: Path) -> float:
    wanted, given = model(pixels), torch.as_tensor(run(pixels))
    difference, largest = float((given - wanted).abs().max()), float(wanted.abs().max())
    if not difference <= TOLERANCE * largest:  # not for NaN
        raise ValueError(
            f'{out}: its outputs for a batch of {len(pixels)} differ by {difference:.2g}, and the largest is '
            f'{largest:.2g}. No file was left. Try the other format, or another version of PyTorch.'
        )
    return difference


def _import_onnx() -> Any:
    try:
        import onnx  # noqa: F401
        import onnxruntime
        import onnxscript  # noqa: F401
    except ImportError:
        raise ValueError(
            'An .onnx file needs three packages. Run `pip install onnx onnxscript onnxruntime`, or write a .pt2 file.'
        ) from None
    return onnxruntime


def _write_onnx(program: Any, path: Path, about: dict[str, Any]) -> Any:
    exported: Any = torch.onnx.export(
        program,
        (),
        dynamo=True,
        verbose=False,
        dynamic_shapes=({0: torch.export.Dim('batch')},),  # its name
        input_names=[about['input']['name']],
        output_names=[about['output']],
    )
    exported.model.metadata_props[METADATA] = json.dumps(about)
    exported.save(path)
    session = _import_onnx().InferenceSession(path, providers=['CPUExecutionProvider'])
    return lambda pixels: session.run(None, {about['input']['name']: pixels.numpy()})[0]


def _write_program(program: Any, path: Path, about: dict[str, Any]) -> Any:
    torch.export.save(program, path, extra_files={METADATA: json.dumps(about)})
    return torch.export.load(path).module()


_WRITERS = {'.onnx': _write_onnx, '.pt2': _write_program}
