"""The user's own commands, from data to pictures, on the smallest demo data; and a golden loss curve."""

from __future__ import annotations

import functools
import json
import os
import re
import subprocess
from pathlib import Path

import av
import numpy as np
import pytest
from mmengine.hooks import Hook
from mmengine.runner import Runner
from PIL import Image
from programs import ROOT, TOOLS, command, environment
from tiny_run import build_runner, write_config

from omnimae.evaluation import accuracy
from omnimae.registry import HOOKS
from omnimae.synthetic.demo import CLASSES, SPLITS, make_maps

SHORT = [
    'log_processor.window_size=1',
    'train_dataloader.num_workers=0',
    'train_dataloader.persistent_workers=False',
    'train_dataloader.batch_size=8',
    'train_dataloader.batch_sampler.global_batch_size=8',
    'default_hooks.logger.interval=1',
    'default_hooks.checkpoint.interval=1',
    'default_hooks.checkpoint.max_keep_ckpts=2',
]

GOLDEN = Path(__file__).parent / 'data' / 'demo_loss_curve.json'
GOLDEN_FINETUNE = Path(__file__).parent / 'data' / 'demo_finetune_loss_curve.json'
GOLDEN_DEMO = Path(__file__).parent / 'data' / 'demo_config_loss_curves.json'
DEMO_CONFIGS = [path for path in sorted((ROOT / 'configs' / 'demo').glob('*.py')) if not path.stem.startswith('knn_')]
# Independent of configs/, whose settings may change; in each modality one step of 8 samples and one of 4.
GOLDEN_CONFIG = """
_base_ = ['{runtime}']
model = dict(
    type='MaskedAutoencoder',
    backbone=dict(
        type='SpatioTemporalViT', embed_dim=32, depth=2, num_heads=2, patch_size=(2, 8, 8), clip_size=(4, 32, 32)
    ),
    head=dict(type='MAEHead', embed_dim=16, depth=1, num_heads=2),
    mask_generator=dict(image=dict(type='RandomMasking', ratio=0.5), video=dict(type='RandomMasking', ratio=0.75)),
)
crop = [dict(type='RandomResizedCrop', size=32)]
images = dict(type='ImageDataset', root='{data}/images', transforms=crop)
videos = dict(type='VideoDataset', root='{data}/videos', clip_seconds=0.5, num_frames=4, replicas=2, transforms=crop)
train_dataloader = dict(
    batch_size=4,
    num_workers=0,
    dataset=dict(type='MixedDataset', sources=dict(images=images, videos=videos)),
    sampler=dict(type='MixedSampler'),
    batch_sampler=dict(type='MixedBatchSampler', global_batch_size=8),
    collate_fn=dict(type='collate_clips'),
)
train_cfg = dict(type='EpochTrainLoop', max_epochs=2)
optim_wrapper = dict(
    type='AutocastOptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-2, betas=(0.9, 0.95), weight_decay=0.05),
    constructor='LayerDecayConstructor',
)
param_scheduler = dict(type='WarmupCosineLR', warmup_epochs=1)
custom_hooks = [dict(type='CurveHook')]
"""
# The same data, told apart by the colours of their names, with all that a recipe of fine-tuning has.
FINETUNE_CHANGES = """
model = dict(
    type='Classifier',
    backbone=dict(model['backbone'], drop_path_rate=0.2),
    num_classes=3,
    label_smoothing=0.1,
    data_preprocessor=dict(
        type='ClipPreprocessor',
        erasing=dict(type='RandomErasing', prob=0.5, fill='noise'),
        mixing=dict(type='MixupCutMix'),
    ),
)
augment = [*crop, dict(type='Flip'), dict(type='RandAugment', policy='timm', magnitude=9, num_layers=2)]
for source in (images, videos):
    source |= dict(ann_file=source['root'] + '.txt', transforms=augment)
optim_wrapper |= dict(paramwise_cfg=dict(layer_decay=0.75), clip_grad=dict(max_norm=1.0))
custom_hooks += [dict(type='EMAHook', momentum=0.1)]
"""


@HOOKS.register_module()
class CurveHook(Hook):
    """Keeps [modality, loss] of every step."""

    def before_train(self, runner: Runner) -> None:
        self.curve: list[list[str | float]] = []

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict | None = None, outputs: dict | None = None
    ) -> None:
        self.curve.append([data_batch[0]['modality'], outputs['loss'].item()])


def write_lossless_data(root: Path) -> None:
    """12 PNG images and 6 FFV1 videos of stripes that move: the same pixels with every version of the codecs."""
    rng = np.random.default_rng(0)
    (root / 'images').mkdir(parents=True)
    (root / 'videos').mkdir()
    for index in range(18):
        picture = stripes(rng)
        if index < 12:
            Image.fromarray(picture).save(root / 'images' / f'{index}.png')
        else:
            write_lossless_video(root / 'videos' / f'{index - 12}.mkv', picture, 2)

    for kind, suffix, count in (('images', 'png', 12), ('videos', 'mkv', 6)):
        (root / f'{kind}.txt').write_text(''.join(f'{index}.{suffix} {index % 3}\n' for index in range(count)))


def stripes(rng: np.random.Generator) -> np.ndarray:
    """-> (40, 48, 3): stripes of a direction and width of their own in each colour."""
    y, x = np.mgrid[:40, :48][..., None]
    return (y * rng.integers(9, size=3) + x * rng.integers(9, size=3)).astype(np.uint8)


def write_lossless_video(path: Path, picture: np.ndarray, pixels: int, num_frames: int = 12) -> None:
    """(H, W, 3) that moves sideways, at 10 frames a second."""
    with av.open(str(path), 'w') as container:
        stream = container.add_stream('ffv1', rate=10)
        stream.height, stream.width, stream.pix_fmt = *picture.shape[:2], 'bgr0'
        for shift in range(num_frames):
            frame = av.VideoFrame.from_ndarray(np.roll(picture, pixels * shift, 1), 'rgb24')
            container.mux(stream.encode(frame.reformat(format='bgr0')))
        container.mux(stream.encode())


def write_lossless_demo(root: Path) -> None:
    """The folders of the demo data, with an image of each class, a video of eight and eight images without a class."""
    rng = np.random.default_rng(0)
    for split in SPLITS:
        for name in CLASSES:
            folder = root / 'images' / split / name
            folder.mkdir(parents=True)
            Image.fromarray(stripes(rng)).save(folder / '0.png')
        for number, name in enumerate(CLASSES[:8]):
            folder = root / 'videos' / split / name
            folder.mkdir(parents=True)
            write_lossless_video(folder / '0.mkv', stripes(rng), number - 4, 24)
        rows = ''.join(f'{name}/0.mkv {label}\n' for label, name in enumerate(CLASSES[:8]))
        (root / 'videos' / f'{split}.txt').write_text(rows)
    (root / 'videos' / 'few.txt').write_text(rows)
    (root / 'images' / 'few.txt').write_text(''.join(f'{name}/0.png {c}\n' for c, name in enumerate(CLASSES)))
    (root / 'whole' / 'train').mkdir(parents=True)
    for number in range(8):
        Image.fromarray(stripes(rng)).save(root / 'whole' / 'train' / f'{number}.png')
    make_maps(root)


def scalars(work: Path) -> list[dict]:
    """The logged values of the latest run in a work directory."""
    log = max(work.glob('*/vis_data/scalars.json'))
    return [json.loads(line) for line in log.read_text().splitlines()]


@pytest.fixture(scope='module')
def pretrained(quarter_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A work directory of two epochs of pretraining: one, and one more after a resume."""
    work = tmp_path_factory.mktemp('pretrain')
    options = [*SHORT, 'train_cfg.max_epochs=2', 'train_cfg.val_interval=2', 'custom_hooks.0.interval=2']
    env = environment(OMNIMAE_DATA=str(quarter_root.parent))
    train = [TOOLS / 'train.py', 'configs/demo/pretrain.py', '--work-dir', work]
    command(*train, '--cfg-options', *options, output=work / 'said', env=env)
    (work / 'epoch_2.pth').unlink()
    (work / 'epoch_2_raw.safetensors').unlink()
    (work / 'first.json').write_text(json.dumps(scalars(work)))
    command(*train, '--resume', work / 'epoch_1.pth', '--cfg-options', *options, output=work / 'said', env=env)
    return work


def test_resuming_repeats_the_run(pretrained: Path):
    first, second = json.loads((pretrained / 'first.json').read_text()), scalars(pretrained)
    curves = [{x['step']: x['loss'] for x in run if 'loss' in x} for run in (first, second)]
    again = {step: curves[0][step] for step in curves[1]}
    assert min(curves[1]) > min(curves[0])  # the second run did not begin anew
    assert curves[1] == pytest.approx(again, rel=1e-6)
    assert (pretrained / 'epoch_2_raw.safetensors').exists()
    assert list((pretrained / 'reconstructions').glob('epoch_2_*.png'))
    assert {'reconstruction/image', 'reconstruction/video'} <= second[-1].keys()


def test_fine_tune_test_and_count_again(pretrained: Path, quarter_root: Path, tmp_path: Path):
    weights = pretrained / 'epoch_2_raw.safetensors'
    config, env = 'configs/demo/finetune_videos.py', environment(OMNIMAE_DATA=str(quarter_root.parent))
    run = functools.partial(command, output=tmp_path / 'said', env=env)
    short = ['train_cfg.max_epochs=1', 'train_cfg.val_interval=1', 'param_scheduler.warmup_epochs=0']
    options = [*SHORT, *short, f'model.init_cfg.checkpoint={weights}']
    output = run(TOOLS / 'train.py', config, '--work-dir', tmp_path, '--cfg-options', *options)
    assert weights.name in output  # the report of what was loaded names its file
    validated = scalars(tmp_path)[-1]['accuracy/top1']

    out = tmp_path / 'scores.json'
    checkpoint = tmp_path / 'epoch_1_raw.safetensors'
    run(TOOLS / 'test.py', config, checkpoint, '--work-dir', tmp_path / 'test', '--out', out)
    assert json.loads(out.read_text())['accuracy/top1'] == pytest.approx(validated, abs=1e-4)
    stored = np.load(out.with_suffix('.npz'))
    assert len(set(stored['ids'].tolist())) == 16  # 2 photographs, 4 corners, 2 videos
    assert accuracy(stored['scores'], stored['labels'], (1,))['top1'] == pytest.approx(validated, abs=1e-4)


def test_pictures_of_an_image_and_a_video(pretrained: Path, quarter_root: Path, tmp_path: Path):
    image = min(quarter_root.glob('images/val/chelsea_top_left/*.jpg'))
    video = min(quarter_root.glob('videos/val/chelsea_top_left/*'))
    weights = pretrained / 'epoch_2_raw.safetensors'
    words = [TOOLS / 'visualize_reconstruction.py', 'configs/demo/pretrain.py', weights, image, video]
    command(
        *words, '--out-dir', tmp_path / 'out', output=tmp_path, env=environment(OMNIMAE_DATA=str(quarter_root.parent))
    )
    assert {path.suffix for path in (tmp_path / 'out').rglob('*.*')} == {'.png', '.gif'}


@pytest.mark.parametrize(('golden', 'changes'), [(GOLDEN, ''), (GOLDEN_FINETUNE, FINETUNE_CHANGES)])
def test_loss_curve_is_the_golden_one(tmp_path: Path, golden: Path, changes: str):
    """Anything that changes training shows here; if it is meant to, write the curve anew and say why in the commit.

    UPDATE_GOLDEN=1 python -m pytest tests/test_end_to_end.py -k golden
    """
    write_lossless_data(tmp_path / 'data')
    config = write_config(tmp_path / 'golden.py', GOLDEN_CONFIG + changes, tmp_path / 'data')
    runner = build_runner(config, tmp_path / 'work')
    runner.train()
    curve = next(hook.curve for hook in runner.hooks if isinstance(hook, CurveHook))
    if os.environ.get('UPDATE_GOLDEN'):
        golden.write_text('[\n ' + ',\n '.join(map(json.dumps, curve)) + '\n]\n')
    (modalities, losses), (expected_modalities, expected) = (
        zip(*steps, strict=True) for steps in (curve, json.loads(golden.read_text()))
    )
    assert modalities == expected_modalities
    assert losses == pytest.approx(expected, rel=1e-4)


@pytest.fixture(scope='module')
def lossless_demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the demo data of `write_lossless_demo`."""
    root = tmp_path_factory.mktemp('lossless')
    write_lossless_demo(root / 'demo')
    return root


@pytest.mark.parametrize('config', DEMO_CONFIGS, ids=lambda path: path.stem)
def test_loss_curve_of_a_demo_config(
    config: Path, lossless_demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """As above: UPDATE_GOLDEN=1 python -m pytest tests/test_end_to_end.py -k demo_config."""
    monkeypatch.setenv('OMNIMAE_DATA', str(lossless_demo))
    options = {
        'model.init_cfg': None,
        'train_dataloader.num_workers': 0,
        'train_dataloader.persistent_workers': False,
        'train_dataloader.batch_size': 4,
        'train_dataloader.batch_sampler.global_batch_size': 8,
        'train_cfg.max_epochs': 2,
        'train_cfg.val_begin': 3,
        'custom_hooks': [dict(type='CurveHook')],
    }
    runner = build_runner(config, tmp_path, options)
    runner.train()
    curve = next(hook.curve for hook in runner.hooks if isinstance(hook, CurveHook))
    golden = json.loads(GOLDEN_DEMO.read_text()) if GOLDEN_DEMO.exists() else {}
    if os.environ.get('UPDATE_GOLDEN'):
        golden[config.stem] = [loss for _, loss in curve]
        GOLDEN_DEMO.write_text(json.dumps(dict(sorted(golden.items())), indent=1) + '\n')
    assert [loss for _, loss in curve] == pytest.approx(golden[config.stem], rel=1e-4)


@pytest.mark.slow
def test_quickstart(tmp_path: Path):
    environment = {**os.environ, 'OMNIMAE_DATA': str(tmp_path / 'data'), 'WORK': str(tmp_path / 'work')}
    result = subprocess.run(
        ['bash', 'tools/quickstart.sh'], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=900
    )
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    accuracies = [[*map(float, row)] for row in re.findall(r'([\d.]+) % +([\d.]+) %$', result.stdout, re.MULTILINE)]
    assert len(accuracies) == 2
    for pretrained, scratch in accuracies:
        assert pretrained > scratch > 25  # chance is 4.2
    for name in ('Pictures', 'Log', 'Checkpoint'):
        paths = re.search(rf'^{name} +(.+)$', result.stdout, re.MULTILINE)[1].split()
        assert all(Path(path).exists() for path in paths)
