"""Configs: what is mistyped is refused before anything is built, with the key, its value and its file."""

from pathlib import Path

import pytest

from omnimae.config import load_config

RUNTIME = Path(__file__).parents[1] / 'configs' / '_base_' / 'default_runtime.py'

BASE = f"""
_base_ = ['{RUNTIME}']
num_epochs = 3
size = 32
crop = [dict(type='RandomResizedCrop', size=size)]
model = dict(
    type='MaskedAutoencoder',
    backbone=dict(type='SpatioTemporalViT', arch='small', clip_size=(16, size, size)),
    head=dict(type='MAEHead', embed_dim=32, depth=1, num_heads=2, target=dict(type='PixelTarget')),
    mask_generator=dict(image=dict(type='RandomMasking', ratio=0.9), video=dict(type='RandomMasking', ratio=0.95)),
)
train_dataloader = dict(
    batch_size=4,
    dataset=dict(type='MixedDataset', sources=dict(pictures=dict(type='ImageDataset', root='x', transforms=crop))),
    sampler=dict(type='MixedSampler', repeats=dict(pictures=1.0)),
    batch_sampler=dict(type='MixedBatchSampler', global_batch_size=8),
    collate_fn=dict(type='collate_clips'),
)
train_cfg = dict(type='EpochTrainLoop', max_epochs=num_epochs)
optim_wrapper = dict(
    type='AutocastOptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-3),
    clip_grad=dict(type='norm', max_norm=1.0),
    constructor='LayerDecayConstructor',
    paramwise_cfg=dict(layer_decay=0.75),
)
param_scheduler = dict(type='WarmupCosineLR', warmup_epochs=1)
"""


@pytest.fixture
def base(tmp_path: Path) -> Path:
    path = tmp_path / 'base.py'
    path.write_text(BASE)
    return path


def child_of(base: Path, text: str) -> Path:
    path = base.with_name('child.py')
    path.write_text(f"_base_ = ['base.py']\n{text}\n")
    return path


def test_a_right_config_passes_and_its_helpers_are_gone(base: Path):
    cfg = load_config(base)
    assert cfg.train_cfg.max_epochs == 3
    assert not {'num_epochs', 'size', 'crop'} & set(cfg.keys())


def test_a_dumped_config_loads_again(base: Path, tmp_path: Path):
    cfg = load_config(base)
    cfg.dump(tmp_path / 'dumped.py')
    assert load_config(tmp_path / 'dumped.py').to_dict() == cfg.to_dict()


def test_a_base_variable_may_be_read_by_a_child(base: Path):
    base.write_text(BASE + 'longer = 7\n')
    cfg = load_config(child_of(base, 'train_cfg = dict(max_epochs=_base_.longer)'))
    assert cfg.train_cfg.max_epochs == 7


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('train_cgf = dict(max_epochs=9)', r"child\.py: train_cgf = dict\(max_epochs=9\).*Did you mean 'train_cfg'"),
        # the base has used its own value by now, so this would change nothing
        ('num_epochs = 9', r"child\.py: num_epochs = 9: neither .* reads 'num_epochs'\. Use it, or remove it"),
        ("model = dict(type='MaskedAutoencodr')", r"child\.py: model\.type='MaskedAutoencodr'.*'MaskedAutoencoder'"),
        ('model = dict(backbone=dict(drop_path=0.1))', r'child\.py: model\.backbone\.drop_path=0\.1:.*drop_path_rate'),
        (
            'model = dict(mask_generator=dict(image=dict(rato=0.5)))',
            r"child\.py: model\.mask_generator\.image\.rato=0\.5: RandomMasking .* Did you mean 'ratio'",
        ),
        ("model = dict(head=dict(target=dict(norm='channel')))", r"model\.head\.target\.norm='channel': PixelTarget"),
        ('train_dataloader = dict(num_worker=2)', r"train_dataloader\.num_worker=2: build_dataloader .*'num_workers'"),
        (
            "train_dataloader = dict(dataset=dict(sources=dict(pictures=dict(annfile='x'))))",
            r"dataset\.sources\.pictures\.annfile='x': ImageDataset .*'ann_file'",
        ),
        (  # VideoDataset hands **kwargs to a base class that takes no others
            "train_dataloader = dict(dataset=dict(sources=dict(clips=dict(type='VideoDataset', root='x', frames=4))))",
            r'dataset\.sources\.clips\.frames=4: VideoDataset has no such argument',
        ),
        (
            "train_dataloader = dict(dataset=dict(sources=dict(pictures=dict(transforms=[dict(type='Flop')]))))",
            r"sources\.pictures\.transforms\.0\.type='Flop': no transform .*'Flip'.*prefix.*custom_imports",
        ),
        ("train_dataloader = dict(collate_fn=dict(type='collate_clip'))", r"collate_fn\.type='collate_clip'"),
        ('train_dataloader = dict(batch_sampler=dict(batch=8))', r'batch_sampler\.batch=8: MixedBatchSampler'),
        (
            'train_dataloader = dict(batch_size=dict(_delete_=True, image=4, vidoe=2))',
            r"child\.py: train_dataloader\.batch_size=\{'image': 4, 'vidoe': 2\}: contradicts .*sources=\['pictures'\] "
            r'of .*base\.py\. batch_size\.vidoe=2: no source .* Remove it, or name one of pictures, image\.$',
        ),
        ('train_cfg = dict(epochs=9)', r"train_cfg\.epochs=9: EpochTrainLoop .*'max_epochs'"),
        ('optim_wrapper = dict(optimizer=dict(decay=0.1))', r'optim_wrapper\.optimizer\.decay=0\.1: AdamW '),
        ('optim_wrapper = dict(accumulative_counts=2)', r'optim_wrapper\.accumulative_counts=2: AutocastOptimWrapper'),
        (
            "optim_wrapper = dict(paramwise_cfg=dict(rule='beit'))",
            r"child\.py: optim_wrapper\.paramwise_cfg=.*rule is 'beit'\. Choose 'release' or 'paper'",
        ),
        ('param_scheduler = dict(warmup=1)', r"param_scheduler\.warmup=1: WarmupCosineLR .*'warmup_epochs'"),
        ('default_hooks = dict(logger=dict(intervall=5))', r"logger\.intervall=5: LoggerHook .*'interval'"),
        # CheckpointHook takes **kwargs and would fail when it saves for the first time
        ('default_hooks = dict(checkpoint=dict(intervall=5))', r'checkpoint\.intervall=5: CheckpointHook'),
        ("custom_hooks = [dict(type='EMAHok')]", r"custom_hooks\.0\.type='EMAHok': no hook .*'EMAHook'"),
        ("val_evaluator = dict(type='ClipAcuracy')", r"val_evaluator\.type='ClipAcuracy'.*'ClipAccuracy'"),
        ('randomness = dict(sed=1)', r"randomness\.sed=1: set_randomness .*'seed'"),
        (
            'randomness = dict(diff_rank_seed=True)',
            r'child\.py: randomness\.diff_rank_seed=True: ranks would differ in the order of data',
        ),
        ("default_scope = 'mmengine'", r"default_scope is 'mmengine', it must be 'omnimae'"),
    ],
)  # fmt: skip
def test_a_mistake_in_a_file_is_refused(base: Path, text: str, message: str):
    with pytest.raises(ValueError, match=message):
        load_config(child_of(base, text))


def test_the_message_names_the_file_with_the_mistake(base: Path):
    base.write_text(BASE.replace('ratio=0.95', 'raito=0.95'))
    with pytest.raises(ValueError, match=r'base\.py: model\.mask_generator\.video\.raito=0\.95'):
        load_config(child_of(base, 'train_cfg = dict(max_epochs=9)'))


def test_batch_sizes_of_sources_take_the_place_of_one_number_and_back(base: Path):
    for option in ({'train_dataloader.batch_size.image': 8}, {'train_dataloader.batch_size': dict(image=8)}):
        assert load_config(base, option).train_dataloader.batch_size == dict(image=8)
    by_source = child_of(base, 'train_dataloader = dict(batch_size=dict(_delete_=True, image=8))')
    assert load_config(by_source).train_dataloader.batch_size == dict(image=8)
    option = {'train_dataloader.batch_size.pictures': 2}
    assert load_config(by_source, option).train_dataloader.batch_size == dict(image=8, pictures=2)
    assert load_config(by_source, {'train_dataloader.batch_size': 2}).train_dataloader.batch_size == 2


@pytest.mark.parametrize(
    ('option', 'message'),
    [
        ({'train_cgf.max_epochs': 1}, r"--cfg-options: train_cgf\.max_epochs=1: .*'train_cfg'"),
        ({'num_epochs': 1}, r"--cfg-options: num_epochs=1: there is no key 'num_epochs'"),
        ({'train_cfg.max_epoch': 1}, r"--cfg-options: train_cfg\.max_epoch=1: .*'max_epochs'"),
        ({'model.backbone.type': 'ViT'}, r"--cfg-options: model\.backbone\.type='ViT'"),
        (
            {'train_dataloader.batch_size.video': 2},
            r"--cfg-options: train_dataloader\.batch_size=\{'video': 2\}: .* batch_size\.video=2: no source and no ",
        ),
        (
            {'train_dataloader.batch_size': {}},
            r"--cfg-options: .* batch_size=\{\} has no number for the source 'pictures'. Add batch_size\.pictures, or ",
        ),
        ({'train_dataloader.batch_size.image': '4'}, r"--cfg-options: .* batch_size\.image='4' is no whole number"),
    ],
)
def test_a_mistake_on_the_command_line_is_refused(base: Path, option: dict, message: str):
    with pytest.raises(ValueError, match=message):
        load_config(base, option)


def test_options_are_applied(base: Path):
    assert load_config(base, {'train_cfg.max_epochs': 5}).train_cfg.max_epochs == 5


def test_components_of_another_package_are_checked_but_not_what_they_build(base: Path):
    policies = "[dict(type='AutoContrast'), dict(type='Equalize')]"  # MMPretrain's own names
    text = """
from_mmpretrain = dict(type='mmpretrain.RandAugment', policies={}, num_policies=2, magnitude_level=9{})
train_dataloader = dict(dataset=dict(sources=dict(pictures=dict(transforms=[from_mmpretrain]))))
"""
    load_config(child_of(base, text.format(policies, '')))
    with pytest.raises(ValueError, match=r"transforms\.0\.magnitude=9: RandAugment .*'magnitude"):
        load_config(child_of(base, text.format(policies, ', magnitude=9')))
