"""Checkpoints: safe reading, published layouts both ways, other encoders, loading into models, clear refusals."""

from __future__ import annotations

import argparse
import http.server
import json
import re
import runpy
import sys
import threading
import types
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage.data
import torch
import torch.nn.functional as F
import yaml
from mmengine.registry import DefaultScope
from PIL import Image

from omnimae.apis import find_source
from omnimae.checkpoint import (
    Resizing,
    convert,
    export,
    export_timm,
    export_transformers,
    layouts,
    load_file,
    load_weights,
    recognise,
    save_file,
    translate,
)
from omnimae.config import load_config
from omnimae.engine.compat import load_from_plain
from omnimae.inputs import Pipeline
from omnimae.registry import MODELS
from omnimae.structures import VARIABLES, Masks

ROOT = Path(__file__).parents[1]
KEY_LISTS = Path(__file__).parent / 'data' / 'omnimae_released_keys.txt'


def read_key_lists() -> dict[str, dict[str, tuple[int, ...]]]:
    """Released file -> {key: shape}."""
    lists: dict[str, dict[str, tuple[int, ...]]] = {}
    for line in KEY_LISTS.read_text().splitlines():
        if line.startswith('['):
            shapes = lists[line[1 : line.index(']')]] = {}
        elif line and not line.startswith('#'):
            key, shape = line.split()
            blocks = re.search(r'\{0-(\d+)\}', key)
            for block in range(int(blocks[1]) + 1 if blocks else 1):
                shapes[re.sub(r'\{.*\}', str(block), key)] = tuple(map(int, shape.split(',')))
    return lists


RELEASED = read_key_lists()
SIZES = {
    'vitb': dict(arch='base', patch_size=(2, 16, 16), head=dict(embed_dim=384, depth=4)),
    'vitl': dict(arch='large', patch_size=(2, 16, 16), head=dict(embed_dim=512, depth=4)),
    'vith': dict(arch='huge', patch_size=(2, 14, 14), head=dict(embed_dim=512, depth=8)),
}


@pytest.fixture(autouse=True)
def _scope():
    with DefaultScope.overwrite_default_scope('omnimae'):
        yield


def released_state(name: str) -> dict[str, torch.Tensor]:
    """Every released key at its real shape, filled with a number of its own; takes no memory."""
    return {key: torch.tensor(0.5 + i).expand(shape) for i, (key, shape) in enumerate(RELEASED[name].items())}


def tiny_autoencoder(*, dim=48, depth=2, qkv_bias=False, clip_size=(4, 32, 32), per_modality=False, init_cfg=None):
    head = dict(type='MAEHead', embed_dim=32, depth=1, num_heads=4, qkv_bias=qkv_bias)
    return MODELS.build(
        dict(
            type='MaskedAutoencoder',
            backbone=tiny_backbone(dim, depth, clip_size),
            head=dict(image=head, video=head) if per_modality else head,
            mask_generator=dict(video=dict(type='RandomMasking', ratio=0.5)),
            init_cfg=init_cfg,
        )
    )


def tiny_classifier(*, num_classes=5, dim=48, depth=2, init_cfg=None, backbone_init=None):
    backbone = dict(tiny_backbone(dim, depth, (4, 32, 32)), init_cfg=backbone_init)
    return MODELS.build(dict(type='Classifier', backbone=backbone, num_classes=num_classes, init_cfg=init_cfg))


def tiny_backbone(dim: int, depth: int, clip_size: tuple[int, int, int]) -> dict:
    size = dict(embed_dim=dim, depth=depth, num_heads=4)
    return dict(type='SpatioTemporalViT', **size, patch_size=(2, 8, 8), clip_size=clip_size)


def randomised(model, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    for tensor in model.state_dict().values():
        tensor.copy_(torch.randn(tensor.shape, generator=generator))
    return model


def released_twin(model) -> dict[str, torch.Tensor]:
    """Make the released state dict of a tiny pretraining model, named independently of the converter."""
    names = {
        r'^backbone\.patch_embed': 'trunk.patch_embed.proj.1',
        r'^backbone\.': 'trunk.',
        r'^head\.pred\.': 'HEAD.',
        r'^head\.blocks\.': 'trunk.decoder.decoder_blocks.',
        r'^head\.mask_token': 'trunk.mask_token',
        r'^head\.': 'trunk.decoder.',
    }
    twin = {}
    for key, value in model.state_dict().items():
        pattern = next(pattern for pattern in names if re.match(pattern, key))
        twin[re.sub(pattern, names[pattern], key).replace('HEAD', 'head')] = value
    return twin


def shapes(state: dict[str, torch.Tensor]) -> dict[str, tuple[int, ...]]:
    return {key: tuple(value.shape) for key, value in state.items()}


def assert_equal_states(one, other):
    assert set(one) == set(other)
    for key in one:
        assert torch.equal(one[key], other[key]), key


# ---------------------------------------------------------------------------------------------------------------------
# Layouts


def test_the_key_lists_are_the_published_nine():
    assert {name: len(keys) for name, keys in RELEASED.items()} == {
        'vitb_pretrain': 201, 'vitb_in1k_ft': 151, 'vitb_ssv2_ft': 151,
        'vitl_pretrain': 345, 'vitl_in1k_ft': 295, 'vitl_ssv2_ft': 295,
        'vith_pretrain': 485, 'vith_in1k_ft': 391, 'vith_ssv2_ft': 391,
    }  # fmt: skip


@pytest.mark.parametrize('name', RELEASED)
def test_released_layout_fits_our_model_of_that_size(name):
    size = SIZES[name[:4]]
    backbone = dict(type='SpatioTemporalViT', arch=size['arch'], patch_size=size['patch_size'])
    with torch.device('meta'):
        if name.endswith('pretrain'):
            head = dict(type='MAEHead', num_heads=16, qkv_bias=False, **size['head'])
            model = MODELS.build(dict(type='MaskedAutoencoder', backbone=backbone, head=head, mask_generator={}))
        else:
            num_classes = 1000 if 'in1k' in name else 174
            model = MODELS.build(dict(type='Classifier', backbone=backbone, num_classes=num_classes))
    assert shapes(convert(released_state(name))) == shapes(model.state_dict())


@pytest.mark.parametrize('name', RELEASED)
def test_released_layout_round_trip_keeps_every_value(name):
    state = released_state(name)
    assert recognise(state) == 'omnimae'
    ours = convert(state, 'omnimae')
    assert recognise(ours) == 'native'
    again = export(ours)
    assert shapes(again) == RELEASED[name]
    assert all(again[key] is state[key] for key in state)


def test_each_tensor_lands_under_the_right_name():
    model = randomised(tiny_autoencoder())
    assert_equal_states(convert(released_twin(model)), model.state_dict())


@pytest.mark.parametrize(
    ('name', 'spelling'),
    [('vitb_pretrain', 'heads.0.projector.'), ('vitb_in1k_ft', 'heads.0.'), ('vitb_ssv2_ft', 'heads.0.0.')],
)
def test_trainer_checkpoint_equals_the_released_one(name, spelling):
    state = released_state(name)
    trainer = {re.sub(r'^head\.', spelling, key): value for key, value in state.items()}
    if name.endswith('pretrain'):
        extra = {f'trunk.decoder.decoder_blocks.{i}.attn.qkv.bias': torch.ones(1152) for i in range(4)}
        trainer, state = trainer | extra, state | extra
    ours = convert({'model': trainer, 'optimizer': {}, 'epoch': 3})
    assert_equal_states(ours, convert(state))
    assert_equal_states(export(ours), state)


def test_missing_and_unplaced_keys_are_listed():
    state = released_state('vitb_pretrain')
    del state['trunk.blocks.3.mlp.fc1.bias']
    state['trunk.cls_token'] = torch.zeros(1)
    listed = r'without a place: trunk\.cls_token\. Missing keys: trunk\.blocks\.3\.mlp\.fc1\.bias'
    with pytest.raises(ValueError, match=listed):
        convert(state)


def test_a_bias_in_one_decoder_block_only_is_refused():
    state = released_state('vitb_pretrain')
    state['trunk.decoder.decoder_blocks.2.attn.qkv.bias'] = torch.zeros(1152)
    with pytest.raises(ValueError, match=r'without a place: trunk\.decoder\.decoder_blocks\.2\.attn\.qkv\.bias'):
        convert(state)


def test_a_head_under_two_names_is_refused():
    state = released_state('vitb_in1k_ft')
    state['heads.0.weight'] = torch.zeros(1000, 768)
    with pytest.raises(ValueError, match=r'without a place: heads\.0\.weight'):
        convert(state)


def test_unknown_layouts_are_refused():
    with pytest.raises(ValueError, match=r'unknown; its keys are conv1\.weight\. Known layouts: native, omnimae'):
        convert({'conv1.weight': torch.zeros(1)})
    with pytest.raises(ValueError, match=r"source='omnimea' is unknown\. Choose from native, omnimae"):
        convert(released_state('vitb_in1k_ft'), 'omnimea')


def test_a_new_layout_is_one_table(monkeypatch):
    """The one of the guide, in both directions."""
    [entry] = re.findall(r"```python\n('example': .*?)```", (ROOT / 'docs' / 'extending.md').read_text(), re.DOTALL)
    for name, layout in eval(f'{{{entry}}}', vars(layouts)).items():
        monkeypatch.setitem(layouts.LAYOUTS, name, layout)
    backbone = dict(tiny_backbone(48, 2, (1, 32, 32)), patch_size=(1, 8, 8))
    for model in (dict(type='Classifier', num_classes=5), dict(type='FrozenBackbone')):
        state = randomised(MODELS.build(dict(model, backbone=backbone))).state_dict()
        theirs = export(state, 'example')
        assert recognise(theirs) == 'example'
        assert theirs['stem.kernel'].shape == (48, 3, 8, 8)
        assert torch.equal(theirs['layers.1.k.bias'], state['backbone.blocks.1.attn.qkv.bias'][48:96])
        assert_equal_states(convert(theirs), state)
    with pytest.raises(ValueError, match=r'has patches of 2 frames, and this layout is for images alone'):
        export(tiny_classifier().state_dict(), 'example')
    norm = layouts.Line('pooled_norm.', 'norm.')  # of a classifier, among the names of its encoder
    options = dict(marks=('trunk.stem.kernel',), prefixes=dict(classifier='trunk.'), head=layout.head[1:])
    monkeypatch.setitem(layouts.LAYOUTS, 'example', layout._replace(encoder=(*layout.encoder, norm), **options))
    state = randomised(MODELS.build(dict(type='Classifier', num_classes=5, backbone=backbone))).state_dict()
    theirs = export(state, 'example')
    assert {'trunk.pooled_norm.weight', 'trunk.layers.0.norm1.bias', 'classes.bias'} < theirs.keys()
    assert_equal_states(convert(theirs), state)


def test_one_decoder_per_modality_has_no_released_layout():
    with pytest.raises(ValueError, match=r'one decoder for all .* no names for head\.image\.mask_token'):
        export(tiny_autoencoder(per_modality=True).state_dict())


# ---------------------------------------------------------------------------------------------------------------------
# Files


@pytest.mark.parametrize('name', ['weights.pth', 'weights.safetensors'])
def test_saved_weights_come_back_with_what_was_said_of_them(tmp_path, name):
    state = randomised(tiny_autoencoder()).state_dict()
    state['head.pos_embed'] = state['backbone.pos_embed']  # one storage for two tensors
    save_file(state, tmp_path / name, {'weights': 'ema', 'epoch': '7'})
    again, meta = load_file(tmp_path / name)
    assert_equal_states(again, state)
    assert meta == {'weights': 'ema', 'epoch': '7'}
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize(('extra', 'weights'), [({}, 'raw'), ({'ema_state_dict': {}}, 'ema')])
def test_runner_checkpoint_says_whether_its_weights_are_averaged(tmp_path, extra, weights):
    state = tiny_autoencoder().state_dict()
    torch.save({'state_dict': state, 'meta': {'epoch': 2}, 'optimizer': {}, **extra}, tmp_path / 'epoch_2.pth')
    again, meta = load_file(tmp_path / 'epoch_2.pth')
    assert_equal_states(again, state)
    assert meta == {'epoch': 2, 'weights': weights}


class Malicious:
    """Creates a file when unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize('zipped', [True, False])
def test_a_checkpoint_that_would_run_code_is_refused(tmp_path, zipped):
    path = tmp_path / 'evil.pth'
    content = {'state_dict': {}, 'payload': Malicious(tmp_path / 'pwned')}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match=r'evil\.pth: refused, because it holds more than tensors'):
        load_file(path)
    assert not (tmp_path / 'pwned').exists()


@pytest.mark.parametrize(
    ('name', 'content', 'reason'),
    [
        ('empty.pth', b'', 'no readable checkpoint'),
        ('page.pth', b'<html>404</html>', 'not a checkpoint'),
        ('pointer.pth', b'version https://git-lfs.github.com/spec/v1\n', 'not a checkpoint'),
        ('empty.safetensors', b'', r'not a readable \.safetensors file'),
        ('page.safetensors', b'<html>404</html>', r'not a readable \.safetensors file'),
    ],
)
def test_files_that_are_no_checkpoints(tmp_path, name, content, reason):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=rf'{re.escape(name)}: {reason}'):
        load_file(tmp_path / name)


@pytest.mark.parametrize('name', ['weights.pth', 'weights.safetensors'])
def test_truncated_files_are_refused(tmp_path, name):
    save_file(tiny_classifier().state_dict(), tmp_path / name, {})
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=rf'{re.escape(name)}: '):
        load_file(tmp_path / name)


def test_bytes_that_mislead_torch_are_no_readable_checkpoint(tmp_path):
    torch.save({'weight': torch.zeros(2)}, tmp_path / 'a.pth', _use_new_zipfile_serialization=False)
    (tmp_path / 'a.pth').write_bytes((tmp_path / 'a.pth').read_bytes().replace(b'_tensor_v2', b'_tensor_v3'))
    with pytest.raises(ValueError, match=r'a\.pth: no readable checkpoint \(.*argument'):
        load_file(tmp_path / 'a.pth')
    with pytest.raises(ValueError, match=r'a\.pth: no readable checkpoint'):
        load_from_plain(str(tmp_path / 'a.pth'))


def test_a_missing_file_and_a_file_without_tensors(tmp_path):
    with pytest.raises(ValueError, match=r'nowhere\.pth: no such checkpoint file'):
        load_file(tmp_path / 'nowhere.pth')
    torch.save({'epoch': 3}, tmp_path / 'numbers.pth')
    with pytest.raises(ValueError, match=r'numbers\.pth: holds no tensors by name'):
        load_file(tmp_path / 'numbers.pth')
    torch.save([torch.zeros(1)], tmp_path / 'list.pth')
    with pytest.raises(ValueError, match=r'list\.pth: holds a list, expected a dict'):
        load_file(tmp_path / 'list.pth')
    with pytest.raises(ValueError, match=r'the folder .*absent does not exist'):
        save_file({}, tmp_path / 'absent' / 'x.pth', {})


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


def test_an_address_is_downloaded_once(tmp_path, monkeypatch):
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'cache'))
    state = tiny_classifier().state_dict()
    save_file(state, tmp_path / 'served.pth', {})
    (tmp_path / 'other').mkdir()
    save_file(randomised(tiny_classifier()).state_dict(), tmp_path / 'other' / 'served.pth', {})
    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), partial(QuietHandler, directory=tmp_path))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f'http://127.0.0.1:{server.server_port}'
    try:
        assert_equal_states(load_file(f'{address}/served.pth')[0], state)
        other = load_file(f'{address}/other/served.pth')[0]  # of the same name, but not the same file
        assert not torch.equal(other['head.weight'], state['head.weight'])
        said = r'absent\.pth: cannot be downloaded \(HTTP Error 404.*\)\. Download it elsewhere, and give '
        place = rf'\. Or save it as {tmp_path}/cache/hub/checkpoints/absent-\w+\.pth\.$'
        with pytest.raises(ValueError, match=f'{said}its path in place of the address{place}'):
            load_file(f'{address}/absent.pth')
        monkeypatch.setitem(VARIABLES, f'{address}/absent.pth', 'OMNIMAE_CHECKPOINT')  # as `load_config` does
        with pytest.raises(ValueError, match=f'{said}OMNIMAE_CHECKPOINT=FILE in front of the command{place}'):
            load_file(f'{address}/absent.pth')
    finally:
        server.shutdown()
        server.server_close()
    assert_equal_states(load_file(f'{address}/served.pth')[0], state)  # from the cache


# ---------------------------------------------------------------------------------------------------------------------
# Into models


@pytest.fixture
def released_file(tmp_path):
    """Save a tiny model's weights in the released layout; give file and model."""
    model = randomised(tiny_autoencoder())
    torch.save(released_twin(model), tmp_path / 'released.torch')
    return tmp_path / 'released.torch', model


def test_pretraining_continues_from_released_weights(released_file):
    path, source = released_file
    model = tiny_autoencoder()
    report = load_weights(model, path)
    assert_equal_states(model.state_dict(), source.state_dict())
    assert report.source == 'omnimae'
    assert (report.left, report.initialised) == ((), ())


def test_a_classifier_takes_the_backbone_and_reports_the_rest(released_file):
    path, source = released_file
    model = tiny_classifier()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    report = load_weights(model, path)
    after, pretrained = model.state_dict(), source.state_dict()
    assert report.initialised == ('norm.weight', 'norm.bias', 'head.weight', 'head.bias')
    assert all(torch.equal(after[key], before[key]) for key in report.initialised)
    assert set(report.loaded) == {key for key in pretrained if re.match(r'backbone\.(?!norm)', key)}
    assert all(torch.equal(after[key], pretrained[key]) for key in report.loaded)
    assert set(report.left) == set(pretrained) - set(report.loaded)
    assert 'freshly initialised 4 tensors (norm 2, head 2)' in str(report)
    assert 'backbone.norm 2' in str(report)


def test_a_classifier_takes_a_fitting_head_and_leaves_another(tmp_path):
    source = randomised(tiny_classifier(num_classes=5))
    save_file(source.state_dict(), tmp_path / 'ft.safetensors', {})
    same, other = tiny_classifier(num_classes=5), tiny_classifier(num_classes=3)
    assert load_weights(same, tmp_path / 'ft.safetensors').left == ()
    assert_equal_states(same.state_dict(), source.state_dict())
    report = load_weights(other, tmp_path / 'ft.safetensors')
    assert set(report.left) == set(report.initialised) == {'head.weight', 'head.bias'}
    assert torch.equal(other.norm.weight, source.norm.weight)


@pytest.fixture
def head_of_five(tmp_path):
    """Save a classifier of five classes, a to e, with the lists of two others and of their renamed classes."""
    source = randomised(tiny_classifier(num_classes=5))
    torch.save({'module': export(source.state_dict())}, tmp_path / 'five.pt')
    contents = {
        'three.json': '[4, 0, 2]', 'far.json': '[4, 0, 5]', 'words.json': '["a", "b", "c"]', 'broken.json': '[4, 0',
        'five.txt': 'a\nb\nc\nd\ne\n', 'three.txt': 'e\nold a\nc\n', 'renamed.json': '{"old a": "a", "c": "b"}',
    }  # fmt: skip
    for name, content in contents.items():
        (tmp_path / name).write_text(content)
    return source


@pytest.mark.parametrize('by_name', [False, True])
def test_a_classifier_takes_its_classes_from_a_larger_head(tmp_path, head_of_five, by_name):
    names = dict(source='five.txt', target='three.txt', renamed='renamed.json')
    label_map = {key: str(tmp_path / file) for key, file in names.items()} if by_name else str(tmp_path / 'three.json')
    init_cfg = dict(type='Checkpoint', checkpoint=str(tmp_path / 'five.pt'), label_map=label_map)
    model = tiny_classifier(num_classes=3, init_cfg=init_cfg)
    model.init_weights()
    for name in ('weight', 'bias'):
        old, new = head_of_five.head.get_parameter(name), model.head.get_parameter(name)
        assert torch.equal(new, torch.stack([old[4], old[0], old[2]]))
    assert torch.equal(model.norm.weight, head_of_five.norm.weight)
    # one head for the same clip: the logits of the classes that both know
    clip = torch.randint(256, (2, 3, 4, 32, 32), dtype=torch.uint8)
    torch.testing.assert_close(model.predict(clip), head_of_five.predict(clip)[:, [4, 0, 2]])


@pytest.mark.parametrize(
    ('file', 'num_classes', 'text'),
    [
        ('three.json', 4, r"three.json' is for 3 classes, and the model has num_classes=4\. Give the map for these"),
        ('far.json', 3, r"far.json': class 2 is class 5 of the checkpoint, and .*five.pt has a head for 5, counted"),
        ('words.json', 3, r"words.json' holds no list of class indices\. Give one, or two lists of names"),
        ('renamed.json', 3, r"renamed.json' holds no list of class indices"),
        ('broken.json', 3, r'label_map: .*broken.json is no readable JSON file \(.+\)\. Correct it'),
        ('none.json', 3, r'label_map: .*none.json is no readable JSON file \(.*No such file'),
        (
            dict(source='five.txt', target='three.txt'),
            3,
            r"five.txt has no class 'old a' \(1 of 3 are missing\), which",
        ),
        (dict(source='five.txt', target='none.txt'), 3, r'label_map: .*none.txt does not exist\. Give a file with one'),
        (dict(source='five.txt'), 3, r"label_map has the keys \['source'\]\. Give source and target"),
        (dict(source='five.txt', target='five.txt', renamed='three.json'), 5, r"three.json' holds no names by name"),
    ],
)
def test_wrong_label_maps_are_refused(tmp_path, head_of_five, file, num_classes, text):
    is_list = isinstance(file, str)
    label_map = str(tmp_path / file) if is_list else {key: str(tmp_path / name) for key, name in file.items()}
    with pytest.raises(ValueError, match=text):
        load_weights(tiny_classifier(num_classes=num_classes), tmp_path / 'five.pt', label_map=label_map)


def test_label_maps_are_for_heads(tmp_path, head_of_five, released_file):
    label_map = str(tmp_path / 'three.json')
    with pytest.raises(ValueError, match='released.torch: holds no classifier, so label_map has no head to pick from'):
        load_weights(tiny_classifier(num_classes=3), released_file[0], label_map=label_map)
    with pytest.raises(ValueError, match='label_map is for the head of a Classifier, and this model has none'):
        load_weights(tiny_autoencoder(), released_file[0], label_map=label_map)


def test_a_classifier_takes_the_backbone_of_a_probe_and_a_probe_not_that_of_a_classifier(tmp_path):
    classifier = tiny_classifier()
    backbone = tiny_backbone(48, 2, (4, 32, 32))
    probe = MODELS.build(dict(type='LinearProbe', num_classes=3, backbone=backbone))
    save_file(probe.state_dict(), tmp_path / 'probe.pth', {})
    report = load_weights(classifier, tmp_path / 'probe.pth')
    assert report.initialised == ('norm.weight', 'norm.bias', 'head.weight', 'head.bias')
    assert torch.equal(classifier.backbone.blocks[0].attn.qkv.weight, probe.backbone.blocks[0].attn.qkv.weight)
    save_file({**classifier.state_dict(), 'more': torch.zeros(1)}, tmp_path / 'more.pth', {})
    with pytest.raises(ValueError, match=r'Both have embed_dim=48, depth=2, patch_size=\(2, 8, 8\), but other parts'):
        load_weights(classifier, tmp_path / 'more.pth')
    save_file(classifier.state_dict(), tmp_path / 'ft.pth', {})
    with pytest.raises(ValueError, match=r'norm follows the pooling\. Run the .* model\.norm=pooled$'):
        load_weights(probe, tmp_path / 'ft.pth')
    pooled = MODELS.build(dict(type='LinearProbe', num_classes=3, norm='pooled', backbone=backbone))
    assert 'norm.weight' in load_weights(pooled, tmp_path / 'ft.pth').loaded


def test_released_classifier_keeps_its_norm_and_head(tmp_path):
    source = randomised(tiny_classifier())
    torch.save(export(source.state_dict()), tmp_path / 'ft.torch')
    model = tiny_classifier()
    load_weights(model, tmp_path / 'ft.torch')
    assert_equal_states(model.state_dict(), source.state_dict())


def test_half_precision_files_are_loaded_at_the_precision_of_the_model(tmp_path):
    source = randomised(tiny_autoencoder())
    save_file({key: value.bfloat16() for key, value in source.state_dict().items()}, tmp_path / 'half.pth', {})
    model = tiny_autoencoder()
    load_weights(model, tmp_path / 'half.pth')
    assert model.head.pred.weight.dtype == torch.float32
    assert torch.equal(model.head.pred.weight, source.head.pred.weight.bfloat16().float())


@pytest.mark.parametrize(
    ('model', 'message'),
    [
        (
            dict(dim=64),
            r'released\.torch does not fit the model\. backbone\.pos_embed is \(1, 32, 48\) in the file and '
            r'\(1, 32, 64\) in the model \(32 tensors differ in size\)\. The file has embed_dim=48, depth=2, '
            r'patch_size=\(2, 8, 8\), head\.embed_dim=32, head\.depth=1; the model has embed_dim=64, .*Choose',
        ),
        (
            dict(depth=3),
            r'The file lacks backbone\.blocks\.2\.norm1\.weight, .* and 4 more\. The file has embed_dim=48, depth=2, '
            r'.*the model has embed_dim=48, depth=3',
        ),
        (
            dict(depth=1),
            r'The model has no place for backbone\.blocks\.1\.norm1\.weight.*Choose the model of that size',
        ),
        (
            dict(clip_size=(8, 32, 32)),
            r'pos_embed is \(1, 32, 48\) in the file and \(1, 64, 48\) in the model.*Set clip_size .*\(32 tokens\)',
        ),
        (
            dict(qkv_bias=True),
            r'The file lacks head\.blocks\.0\.attn\.qkv\.bias\. Set head\.qkv_bias=False',
        ),
        (
            dict(per_modality=True),
            r'its decoders are head\., those of the model head\.image\., head\.video\.\. Give the model',
        ),
    ],
)
def test_a_checkpoint_of_another_model_is_one_clear_error(released_file, model, message):
    with pytest.raises(ValueError, match=message):
        load_weights(tiny_autoencoder(**model), released_file[0])


@pytest.mark.parametrize('kind', ['encoder', 'classifier'])
def test_the_message_has_the_options_that_make_a_backbone_fit(tmp_path, kind):
    """k-NN with own tiny weights, whose config is that of a base model."""
    tiny = dict(type='SpatioTemporalViT', arch='tiny', patch_size=(2, 32, 32), clip_size=(16, 224, 224))
    if kind == 'encoder':
        weights, first = {f'backbone.{key}': x for key, x in MODELS.build(tiny).state_dict().items()}, ''
    else:
        weights, first = MODELS.build(dict(type='Classifier', num_classes=3, backbone=tiny)).state_dict(), 'norm=pooled'
    path = tmp_path / 'w.safetensors'
    save_file(weights, path, {})
    given: dict[str, Any] = {}
    for options in (f'{first} backbone.arch=tiny backbone.patch_size=2,32,32', f'{first} backbone.patch_size=2,32,32'):
        words = ' '.join(f'model.{option}' for option in options.split())
        model = MODELS.build(load_config('custom/knn_images', given).model)
        with pytest.raises(ValueError, match=re.escape(f'Run the same command and --cfg-options {words}') + '$'):
            load_weights(model, path, complete=True)
        given = {'model.backbone.arch': 'tiny'}
    given |= {'model.backbone.patch_size': [2, 32, 32]} | ({'model.norm': 'pooled'} if first else {})
    load_weights(MODELS.build(load_config('custom/knn_images', given).model), path, complete=True)


def test_decoders_per_modality(tmp_path):
    source = randomised(tiny_autoencoder(per_modality=True))
    path = tmp_path / 'two.safetensors'
    save_file(source.state_dict(), path, {})
    same = tiny_autoencoder(per_modality=True)
    load_weights(same, path)
    assert_equal_states(same.state_dict(), source.state_dict())
    with pytest.raises(ValueError, match=r'its decoders are head\.image\., head\.video\., those of the model head\.\.'):
        load_weights(tiny_autoencoder(), path)
    assert len(load_weights(tiny_classifier(), path).initialised) == 4


def test_a_classifier_of_another_width_is_refused(released_file):
    with pytest.raises(ValueError, match=r'file has embed_dim=48.*the model has embed_dim=64.*Choose'):
        load_weights(tiny_classifier(dim=64), released_file[0])


def test_wrong_kinds_of_checkpoint_are_refused(tmp_path, released_file):
    save_file(tiny_classifier().state_dict(), tmp_path / 'ft.pth', {})
    with pytest.raises(ValueError, match=r'ft\.pth: holds a classifier, which has no decoder'):
        load_weights(tiny_autoencoder(), tmp_path / 'ft.pth')
    torch.save({'conv1.weight': torch.zeros(1)}, tmp_path / 'resnet.pth')
    with pytest.raises(ValueError, match=r'resnet\.pth: The layout of this state dict is unknown'):
        load_weights(tiny_autoencoder(), tmp_path / 'resnet.pth')
    with pytest.raises(ValueError, match=r'is for a model, not for a SpatioTemporalViT\. Move init_cfg up'):
        load_weights(tiny_autoencoder().backbone, released_file[0])


def test_init_cfg_loads_a_checkpoint_last(released_file):
    path, source = released_file
    init_cfg = dict(type='Checkpoint', checkpoint=str(path))
    model = tiny_autoencoder(init_cfg=init_cfg)
    model.init_weights()
    assert_equal_states(model.state_dict(), source.state_dict())
    # MMEngine would initialise the child after the parent and so overwrite what was loaded
    classifier = tiny_classifier(init_cfg=init_cfg, backbone_init=dict(type='Constant', layer='Linear', val=3.0))
    classifier.init_weights()
    assert torch.equal(classifier.backbone.blocks[0].mlp.fc1.weight, source.backbone.blocks[0].mlp.fc1.weight)


# ---------------------------------------------------------------------------------------------------------------------
# Other encoders in


def fill(shapes: dict[str, tuple[int, ...]], seed: int = 0) -> dict[str, torch.Tensor]:
    """Draw small random weights, with norms near one."""
    generator = torch.Generator().manual_seed(seed)
    return {
        key: 0.2 * torch.randn(shape, generator=generator) + (1.0 if 'norm' in key and key.endswith('weight') else 0.0)
        for key, shape in shapes.items()
    }


def encoder_shapes(kernel: tuple[int, ...], dim=48, depth=2, prefix='') -> dict[str, tuple[int, ...]]:
    """Keys of a ViT as timm names them, without positions and qkv biases."""
    keys = {'patch_embed.proj.weight': (dim, 3, *kernel), 'patch_embed.proj.bias': (dim,)}
    for block in range(depth):
        sizes = {
            'attn.qkv': (3 * dim, dim),
            'attn.proj': (dim, dim),
            'mlp.fc1': (4 * dim, dim),
            'mlp.fc2': (dim, 4 * dim),
        }
        for name, size in sizes.items():
            keys[f'blocks.{block}.{name}.weight'] = size
            if name != 'attn.qkv':
                keys[f'blocks.{block}.{name}.bias'] = size[:1]
        for name in ('norm1', 'norm2'):
            keys |= {f'blocks.{block}.{name}.weight': (dim,), f'blocks.{block}.{name}.bias': (dim,)}
    return {prefix + key: shape for key, shape in keys.items()}


def mae_file(*, side=4, dim=48, with_decoder=False, fine_tuned=False) -> dict[str, torch.Tensor]:
    """Make the weights of an image MAE for (8 * side)^2 pixels, named as its repository does."""
    shapes = encoder_shapes((8, 8), dim) | {'cls_token': (1, 1, dim), 'pos_embed': (1, 1 + side * side, dim)}
    shapes |= {f'blocks.{block}.attn.qkv.bias': (3 * dim,) for block in range(2)}
    norm = 'fc_norm' if fine_tuned else 'norm'
    shapes |= {f'{norm}.weight': (dim,), f'{norm}.bias': (dim,)}
    if fine_tuned:
        shapes |= {'head.weight': (5, dim), 'head.bias': (5,)}
    if with_decoder:
        shapes |= {'mask_token': (1, 1, 32), 'decoder_pos_embed': (1, 1 + side * side, 32), 'decoder_embed.bias': (32,)}
    return fill(shapes)


def videomae_file(*, fine_tuned=False, dim=48) -> dict[str, torch.Tensor]:
    """Make the weights of a VideoMAE, pretrained or fine-tuned, named as its repository does."""
    prefix = '' if fine_tuned else 'encoder.'
    shapes = encoder_shapes((2, 8, 8), dim, prefix=prefix)
    shapes |= {f'{prefix}blocks.{block}.attn.{name}': (dim,) for block in range(2) for name in ('q_bias', 'v_bias')}
    if fine_tuned:
        shapes |= {'fc_norm.weight': (dim,), 'fc_norm.bias': (dim,), 'head.weight': (5, dim), 'head.bias': (5,)}
    else:
        decoder = encoder_shapes((2, 8, 8), 32, 1, prefix='decoder.')
        shapes |= {key: shape for key, shape in decoder.items() if 'patch_embed' not in key}
        shapes |= {f'decoder.blocks.0.attn.{name}': (32,) for name in ('q_bias', 'v_bias')}
        shapes |= {'encoder.norm.weight': (dim,), 'encoder.norm.bias': (dim,), 'mask_token': (1, 1, 32)}
        shapes |= {'decoder.norm.weight': (32,), 'decoder.norm.bias': (32,), 'encoder_to_decoder.weight': (32, dim)}
        shapes |= {'decoder.head.weight': (384, 32), 'decoder.head.bias': (384,)}
    return fill(shapes)


def sinusoids(num_positions: int, dim: int) -> torch.Tensor:
    """Tabulate VideoMAE's positions, entry by entry as specified."""
    table = torch.tensor(
        [[n / 10000 ** (2 * (j // 2) / dim) for j in range(dim)] for n in range(num_positions)], dtype=torch.float64
    )
    table[:, 0::2], table[:, 1::2] = table[:, 0::2].sin(), table[:, 1::2].cos()
    return table.float()


def dense_encoder(state, pixels, positions, num_heads=4) -> torch.Tensor:
    """Run a ViT of timm's names, written down anew: (B, 3, [T,] H, W) -> tokens (B, N, D) before any final norm."""
    conv = F.conv2d if pixels.dim() == 4 else F.conv3d
    kernel = state['patch_embed.proj.weight']
    x = conv(pixels, kernel, state['patch_embed.proj.bias'], stride=kernel.shape[2:]).flatten(2).transpose(1, 2)
    x = x + positions
    dim = x.shape[2]

    def linear(name, x):
        return x @ state[f'{name}.weight'].T + state[f'{name}.bias']

    def norm(name, x):
        return F.layer_norm(x, (dim,), state[f'{name}.weight'], state[f'{name}.bias'], 1e-6)

    for block in range(2):
        name = f'blocks.{block}'
        y = norm(f'{name}.norm1', x) @ state[f'{name}.attn.qkv.weight'].T
        if f'{name}.attn.q_bias' in state:  # keys have none
            y[..., :dim] += state[f'{name}.attn.q_bias']
            y[..., 2 * dim :] += state[f'{name}.attn.v_bias']
        else:
            y += state[f'{name}.attn.qkv.bias']
        q, k, v = (z.unflatten(2, (num_heads, -1)).transpose(1, 2) for z in y.chunk(3, dim=2))
        attention = (q @ k.transpose(2, 3) * q.shape[-1] ** -0.5).softmax(-1)
        x = x + linear(f'{name}.attn.proj', (attention @ v).transpose(1, 2).flatten(2))
        x = x + linear(f'{name}.mlp.fc2', F.gelu(linear(f'{name}.mlp.fc1', norm(f'{name}.norm2', x))))
    return x


def random_clip(*size: int) -> torch.Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(7))


@torch.no_grad()
def test_videomae_gives_its_own_features(tmp_path):
    state = videomae_file()
    torch.save({'model': state, 'epoch': 799}, tmp_path / 'videomae.pth')
    model = tiny_classifier()
    report = load_weights(model, tmp_path / 'videomae.pth')
    clip = random_clip(2, 3, 4, 32, 32)
    encoder = {key.removeprefix('encoder.'): value for key, value in state.items()}
    torch.testing.assert_close(
        model.backbone(clip), dense_encoder(encoder, clip, sinusoids(32, 48)), rtol=1e-5, atol=1e-5
    )
    image = clip[:, :, :1]  # Figure 2's baseline: the image repeated over a tubelet, at the first time step
    repeated = dense_encoder(encoder, image.repeat(1, 1, 2, 1, 1), sinusoids(16, 48))
    torch.testing.assert_close(model.backbone(image), repeated, rtol=1e-5, atol=1e-5)
    assert report.source == 'videomae'
    assert report.fixed == ('backbone.pos_embed',)
    assert report.initialised == ('norm.weight', 'norm.bias', 'head.weight', 'head.bias')
    decoder = {key for key in videomae_autoencoder().state_dict() if key.startswith('head.')} - {'head.pos_embed'}
    assert set(report.left) == {'backbone.norm.weight', 'backbone.norm.bias', *decoder}
    assert 'fixed and not in the file 1 tensors (backbone.pos_embed 1)' in str(report)


@torch.no_grad()
@pytest.mark.parametrize('prefix', ['', '_orig_mod.', 'module.', 'backbone.'])
def test_fine_tuned_videomae_gives_its_own_logits(tmp_path, prefix):
    state = videomae_file(fine_tuned=True)
    torch.save({'module': {prefix + key: value for key, value in state.items()}}, tmp_path / 'ft.pth')
    model = tiny_classifier()
    load_weights(model, tmp_path / 'ft.pth', complete=True)
    clip = random_clip(2, 3, 4, 32, 32)
    tokens = dense_encoder(state, clip, sinusoids(32, 48))
    pooled = F.layer_norm(tokens.mean(1), (48,), state['fc_norm.weight'], state['fc_norm.bias'], 1e-6)
    expected = pooled @ state['head.weight'].T + state['head.bias']
    torch.testing.assert_close(model.logits(clip), expected, rtol=1e-5, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize('fine_tuned', [False, True])
def test_mae_is_inflated_to_clips(tmp_path, fine_tuned):
    state = mae_file(with_decoder=not fine_tuned, fine_tuned=fine_tuned)
    torch.save({'model': state}, tmp_path / 'mae.pth')
    model = tiny_classifier()
    report = load_weights(model, tmp_path / 'mae.pth')
    image, positions = random_clip(2, 3, 32, 32), state['pos_embed'][:, 1:]
    expected = dense_encoder(state, image, positions)  # without the class token, which we have not
    torch.testing.assert_close(model.backbone(image.unsqueeze(2)), expected, rtol=1e-5, atol=1e-5)
    still = model.backbone(image.unsqueeze(2).repeat(1, 1, 2, 1, 1))  # one tubelet that does not move
    torch.testing.assert_close(still, expected, rtol=1e-5, atol=1e-5)
    # two tubelets: positions of the image, and what the sinusoids change from step to step
    clip, kernel = random_clip(2, 3, 4, 32, 32), state['patch_embed.proj.weight']
    later = positions + sinusoids(2, 48)[1] - sinusoids(1, 48)[0]
    video = state | {'patch_embed.proj.weight': torch.stack([kernel / 2, kernel / 2], 2)}
    expected = dense_encoder(video, clip, torch.cat([positions, later], 1))
    torch.testing.assert_close(model.backbone(clip), expected, rtol=1e-5, atol=1e-5)
    # the order of tubelets matters, though the table is not trained
    swapped = model.backbone(torch.cat([clip[:, :, 2:], clip[:, :, :2]], 2))
    assert (swapped.mean(1) - expected.mean(1)).abs().max() > 0.01
    assert report.source == 'timm'
    assert set(report.inflated) == {'backbone.patch_embed.weight', 'backbone.pos_embed'} < set(report.loaded)
    rest = ['head.bias', 'head.weight', 'norm.bias', 'norm.weight'] if fine_tuned else [
        'backbone.norm.bias', 'backbone.norm.weight', 'decoder_embed.bias', 'decoder_pos_embed', 'mask_token'
    ]  # fmt: skip
    assert sorted(report.left) == sorted([*rest, 'backbone.cls_token'])
    assert report.initialised == ('norm.weight', 'norm.bias', 'head.weight', 'head.bias')
    assert 'of these inflated from images 2 tensors' in str(report)


def videomae_autoencoder(final_norm=True, **head):
    cfg = dict(type='MAEHead', embed_dim=32, depth=1, num_heads=4, qkv_bias='qv', tokens='decoder', embed_bias=False)
    return MODELS.build(
        dict(
            type='MaskedAutoencoder',
            backbone=dict(tiny_backbone(48, 2, (4, 32, 32)), qkv_bias='qv', final_norm=final_norm),
            head={**cfg, **head},
            mask_generator=dict(video=dict(type='TubeMasking', ratio=0.5)),
        )
    )


def test_pretrained_videomae_keeps_its_decoder(tmp_path):
    state = videomae_file()
    torch.save({'model': state, 'epoch': 799}, tmp_path / 'videomae.pth')
    model = videomae_autoencoder()
    positions = model.head.pos_embed.clone()
    model.head.pos_embed.fill_(7)  # of weights that it had before
    report = load_weights(model, tmp_path / 'videomae.pth', complete=True)
    assert (report.left, report.initialised) == ((), ())
    assert report.fixed == ('backbone.pos_embed', 'head.pos_embed')
    assert torch.equal(model.head.pos_embed, positions)
    assert torch.equal(model.head.mask_token, state['mask_token'][0])
    assert torch.equal(model.head.decoder_embed.weight, state['encoder_to_decoder.weight'])
    query, key, value = model.head.blocks[0].attn.qkv.bias.chunk(3)
    assert torch.equal(query, state['decoder.blocks.0.attn.q_bias'])
    assert torch.equal(value, state['decoder.blocks.0.attn.v_bias'])
    assert not key.any()
    tables = {key: x for key, x in videomae_autoencoder().state_dict().items() if key.endswith('pos_embed')}
    assert_equal_states(export(model.state_dict(), 'videomae', positions=tables), state)


def test_videomae_fits_no_decoder_of_another_kind(tmp_path):
    torch.save(videomae_file(), tmp_path / 'videomae.pth')
    with pytest.raises(ValueError, match=r"file lacks head\.decoder_embed\.bias\. .*See head\.tokens: 'encoder'"):
        load_weights(videomae_autoencoder(embed_bias=True), tmp_path / 'videomae.pth')
    state = tiny_autoencoder().state_dict()
    tables = {key: x.clone() for key, x in state.items() if key.endswith('pos_embed')}
    with pytest.raises(
        ValueError, match=r"tokens='decoder', embed_bias=False\. It has no names for head\.decoder_embed\.bias"
    ):
        export(state, 'videomae', positions=tables)
    tables['backbone.pos_embed'] += 1
    with pytest.raises(ValueError, match=r'backbone\.pos_embed does not hold the fixed sinusoids'):
        export(state, 'videomae', positions=tables)
    broken = videomae_file()
    del broken['decoder.head.bias']
    with pytest.raises(ValueError, match=r'Missing keys: decoder\.head\.bias'):
        convert(broken)


def test_a_classifier_in_videomaes_names_and_back():
    model = random_model('classifier')
    state = model.state_dict()
    weights = export(state, 'videomae', positions={'backbone.pos_embed': state['backbone.pos_embed']})
    assert shapes(weights) == shapes(videomae_file(fine_tuned=True))
    for block in range(2):
        state[f'backbone.blocks.{block}.attn.qkv.bias'][48:96] = 0
    del state['backbone.pos_embed']
    assert_equal_states(convert(weights), state)


def test_what_was_loaded_before_leaves_no_positions_behind(tmp_path):
    torch.save({'model': mae_file()}, tmp_path / 'mae.pth')
    torch.save(videomae_file(), tmp_path / 'videomae.pth')
    used = tiny_classifier()
    load_weights(used, tmp_path / 'mae.pth')
    for name in ('mae.pth', 'videomae.pth'):
        fresh = tiny_classifier()
        load_weights(fresh, tmp_path / name)
        load_weights(used, tmp_path / name)
        assert_equal_states(used.backbone.state_dict(), fresh.backbone.state_dict())


def test_mae_converted_is_a_model_of_single_frames():
    state, left = translate(mae_file())
    backbone = dict(tiny_backbone(48, 2, (1, 32, 32)), patch_size=(1, 8, 8), cls_token=True)
    target = {f'backbone.{key}' for key in MODELS.build(backbone).state_dict()}
    assert (set(state), left) == (target, ())
    assert recognise(state) == 'native'
    assert state['backbone.patch_embed.weight'].shape == (48, 3, 1, 8, 8)


def test_mae_of_another_image_size_is_one_clear_error(tmp_path):
    torch.save(mae_file(side=6), tmp_path / 'mae.pth')
    message = r'pos_embed is \(1, 36, 48\) in the file and \(1, 32, 48\) in the model.*Set clip_size .*\(36 tokens\)'
    with pytest.raises(ValueError, match=message):
        load_weights(tiny_classifier(), tmp_path / 'mae.pth')


def test_encoders_have_no_decoder_and_half_a_bias_is_refused(tmp_path):
    state = {key: x for key, x in videomae_file().items() if key.startswith('encoder.')}
    torch.save(state, tmp_path / 'videomae.pth')
    with pytest.raises(ValueError, match=r'videomae\.pth: holds an encoder alone, which has no decoder'):
        load_weights(tiny_autoencoder(), tmp_path / 'videomae.pth')
    del state['encoder.blocks.1.attn.v_bias']
    with pytest.raises(ValueError, match=r'does not fit the layout .videomae.*Missing keys: blocks\.1\.attn\.v_bias'):
        convert(state)
    with pytest.raises(ValueError, match=r'does not fit the layout .timm.*without a place: dist_token'):
        convert(mae_file() | {'dist_token': torch.zeros(1)})


def test_a_converted_encoder_loads_like_the_original(tmp_path):
    torch.save(videomae_file(), tmp_path / 'videomae.pth')
    save_file(convert(videomae_file()), tmp_path / 'ours.safetensors', {})
    one, other = tiny_classifier(), tiny_classifier()
    load_weights(one, tmp_path / 'videomae.pth')
    assert load_weights(other, tmp_path / 'ours.safetensors').fixed == ('backbone.pos_embed',)
    assert_equal_states(one.backbone.state_dict(), other.backbone.state_dict())


def test_a_command_line_in_a_checkpoint_does_no_harm(tmp_path):
    torch.save({'model': mae_file(), 'args': argparse.Namespace(lr=1e-3, data='x')}, tmp_path / 'mae.pth')
    assert_equal_states(load_file(tmp_path / 'mae.pth')[0], mae_file())


def test_complete_refuses_what_would_stay_at_its_initial_values(tmp_path, released_file):
    message = r'has no values for norm\.weight, norm\.bias, head\.weight, head\.bias, so the results'
    with pytest.raises(ValueError, match=message):
        load_weights(tiny_classifier(), released_file[0], complete=True)
    save_file(tiny_classifier(num_classes=5).state_dict(), tmp_path / 'ft.pth', {})
    message = r'ft\.pth has a head for 5 classes, and the model has num_classes=3.*model\.num_classes=5'
    with pytest.raises(ValueError, match=message):
        load_weights(tiny_classifier(num_classes=3), tmp_path / 'ft.pth', complete=True)
    load_weights(tiny_classifier(num_classes=5), tmp_path / 'ft.pth', complete=True)


# ---------------------------------------------------------------------------------------------------------------------
# Ours out


def random_model(kind: str):
    """Randomise all weights but the positions, which transformers' model keeps fixed."""
    model = tiny_autoencoder() if kind == 'pretraining' else tiny_classifier()
    generator = torch.Generator().manual_seed(3)
    for parameter in model.parameters():
        parameter.data.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model


@torch.no_grad()
def test_timm_weights_give_our_features_of_an_image():
    model = random_model('classifier')
    weights, config = export_timm(model.state_dict(), model.backbone)
    image = random_clip(2, 3, 32, 32)
    tokens = dense_encoder(weights, image, weights['pos_embed'])
    torch.testing.assert_close(tokens, model.backbone(image.unsqueeze(2)), rtol=1e-5, atol=1e-5)
    assert {key for key in weights if 'blocks' not in key} == {
        'patch_embed.proj.weight', 'patch_embed.proj.bias', 'pos_embed',
        'fc_norm.weight', 'fc_norm.bias', 'head.weight', 'head.bias',
    }  # fmt: skip
    expected = dict(img_size=(32, 32), patch_size=(8, 8), embed_dim=48, depth=2, num_heads=4, mlp_ratio=4.0)
    assert expected.items() <= config['model_args'].items()
    again = convert(weights)
    assert torch.equal(again['head.weight'], model.head.weight)
    assert torch.equal(again['backbone.patch_embed.weight'][:, :, 0], model.backbone.patch_embed.weight.sum(2))


def test_huggingface_weights_come_back_but_for_the_bias_of_the_keys():
    model = random_model('classifier')
    ours = model.state_dict()
    weights, config = export_transformers(ours, model.backbone)
    attention = ('query.weight', 'key.weight', 'value.weight', 'q_bias', 'v_bias')
    layers = ('attention.output.dense', 'intermediate.dense', 'output.dense', 'layernorm_before', 'layernorm_after')
    ends = ('weight', 'bias')
    assert {key for key in weights if '.layer.1.' not in key} == {
        *(f'videomae.embeddings.patch_embeddings.projection.{end}' for end in ends),
        *(f'videomae.encoder.layer.0.attention.attention.{key}' for key in attention),
        *(f'videomae.encoder.layer.0.{layer}.{end}' for layer in layers for end in ends),
        *(f'{layer}.{end}' for layer in ('fc_norm', 'classifier') for end in ends),
    }
    for block in range(2):
        ours[f'backbone.blocks.{block}.attn.qkv.bias'][48:96] = 0
    del ours['backbone.pos_embed']
    assert_equal_states(convert(weights), ours)
    newer = {'q_bias': 'query.bias', 'v_bias': 'value.bias'}
    renamed = {re.sub('[qv]_bias$', lambda match: newer[match[0]], key): x for key, x in weights.items()}
    assert_equal_states(convert(renamed), ours)
    assert (config['num_frames'], config['image_size'], config['patch_size'], config['tubelet_size']) == (4, 32, 8, 2)
    assert config['id2label'].keys() == {'0', '1', '2', '3', '4'}


def test_export_refuses_what_the_other_side_cannot_hold():
    model = random_model('classifier')
    state, backbone = model.state_dict(), model.backbone
    other = MODELS.build(tiny_backbone(48, 2, (4, 40, 32)))
    with pytest.raises(ValueError, match=r'has 32 positions, and clips of the model have 2x5x4 tokens'):
        export_timm(state, other)
    with pytest.raises(ValueError, match=r'missing\. Load the weights into a model of ours'):
        export_timm({'conv1.weight': torch.zeros(1)}, backbone)
    with pytest.raises(ValueError, match=r'does not hold the fixed sinusoids'):
        export_transformers({**state, 'backbone.pos_embed': torch.zeros(1, 32, 48)}, backbone)
    with pytest.raises(ValueError, match=r'It has no names for .*head\.1\.weight'):
        export_timm({**state, 'head.1.weight': torch.zeros(3, 48)}, backbone)


CONFIG = """
_base_ = ['{runtime}']
model = dict(
    type='{kind}',
    backbone=dict(
        type='SpatioTemporalViT', embed_dim=48, depth=2, num_heads=4, patch_size=(2, 8, 8), clip_size=(4, 32, 32)
    ),
    {more}
)
"""


@pytest.fixture(params=['pretraining', 'classifier'])
def exported(request, tmp_path):
    """Convert a model with the tool; give the model and a function layout -> folder."""
    model = random_model(request.param)
    save_file(model.state_dict(), tmp_path / 'ours.pth', {})
    is_classifier = request.param == 'classifier'
    more = 'num_classes=5' if is_classifier else "head=dict(type='MAEHead'), mask_generator=dict()"
    runtime = ROOT / 'configs' / '_base_' / 'default_runtime.py'
    kind = 'Classifier' if is_classifier else 'MaskedAutoencoder'
    config = tmp_path / 'config.py'
    config.write_text(CONFIG.format(runtime=runtime, kind=kind, more=more))

    def convert_to(layout: str) -> Path:
        folder = tmp_path / layout
        run_tool([str(tmp_path / 'ours.pth'), str(folder), '--to', layout, '--config', str(config)])
        return folder

    return model, convert_to


def run_tool(words: list[str]) -> None:
    runpy.run_path(str(ROOT / 'tools' / 'convert_checkpoint.py'))['main'](words)


@torch.no_grad()
def test_timm_loads_our_weights_and_agrees(exported):
    timm = pytest.importorskip('timm')
    model, convert_to = exported
    theirs = timm.create_model(f'local-dir:{convert_to("timm")}', pretrained=True).eval()
    image = random_clip(2, 3, 32, 32)
    tokens = model.backbone(image.unsqueeze(2))
    expected = model.logits(image.unsqueeze(2)) if hasattr(model, 'logits') else tokens.mean(1)
    torch.testing.assert_close(theirs(image), expected, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_transformers_reads_the_folder_of_timm_and_agrees(exported):
    """Its own ViT has the head on a class token, so this is how it gets a classifier of images."""
    pytest.importorskip('timm')
    transformers = pytest.importorskip('transformers')
    model, convert_to = exported
    image, is_classifier = random_clip(2, 3, 32, 32), hasattr(model, 'logits')
    kind = transformers.AutoModelForImageClassification if is_classifier else transformers.AutoModel
    theirs, info = kind.from_pretrained(convert_to('timm'), output_loading_info=True)
    assert not any(info.values())
    result = theirs.eval()(pixel_values=image)
    if is_classifier:
        torch.testing.assert_close(result.logits, model.logits(image.unsqueeze(2)), rtol=1e-5, atol=1e-5)
    else:
        tokens = model.backbone(image.unsqueeze(2))
        torch.testing.assert_close(result.last_hidden_state, tokens, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_transformers_loads_our_weights_and_agrees(exported):
    transformers = pytest.importorskip('transformers')
    model, convert_to = exported
    folder, clip = convert_to('huggingface'), random_clip(2, 3, 4, 32, 32)
    frames = clip.transpose(1, 2)  # theirs is (B, T, C, H, W)
    if hasattr(model, 'logits'):
        theirs, info = transformers.VideoMAEForVideoClassification.from_pretrained(folder, output_loading_info=True)
        # their last norm has an eps of 1e-5, ours of 1e-6: the same to a part in 1e5
        torch.testing.assert_close(theirs.eval()(frames).logits, model.logits(clip), rtol=1e-4, atol=1e-4)
    else:
        theirs, info = transformers.VideoMAEModel.from_pretrained(folder, output_loading_info=True)
        tokens = theirs.eval()(frames).last_hidden_state
        torch.testing.assert_close(tokens, model.backbone(clip), rtol=1e-5, atol=1e-5)
    assert not info['missing_keys']
    assert not info['unexpected_keys']


@torch.no_grad()
def test_a_model_of_transformers_comes_in(tmp_path):
    transformers = pytest.importorskip('transformers')
    config = transformers.VideoMAEConfig(
        image_size=32, patch_size=8, num_frames=4, hidden_size=48, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=192, layer_norm_eps=1e-6, num_labels=5,
    )  # fmt: skip
    theirs = transformers.VideoMAEForVideoClassification(config).eval()
    for parameter in theirs.parameters():
        parameter.copy_(0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(parameter))))
    theirs.save_pretrained(tmp_path)
    model = tiny_classifier()
    report = load_weights(model, tmp_path / 'model.safetensors', complete=True)
    assert report.source == 'huggingface'
    clip = random_clip(2, 3, 4, 32, 32)
    torch.testing.assert_close(model.logits(clip), theirs(clip.transpose(1, 2)).logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(('layout', 'name'), [('videomae', 'videomae_v2'), ('mae', 'mae')])
def test_the_tool_writes_what_a_demo_trained_in_its_method_s_names(tmp_path, layout, name):
    config = ROOT / 'configs' / 'demo' / f'{name}.py'
    model = MODELS.build(load_config(config).model)
    for parameter in model.parameters():
        parameter.data.normal_()
    state = model.state_dict()
    save_file(state, tmp_path / 'ours.pth', {})
    run_tool([str(tmp_path / 'ours.pth'), str(tmp_path / 'theirs.pth'), '--to', layout, '--config', str(config)])
    assert recognise(load_file(tmp_path / 'theirs.pth')[0]) == dict(mae='timm', videomae='videomae')[layout]
    again = MODELS.build(load_config(config).model)
    assert load_weights(again, tmp_path / 'theirs.pth', complete=True).left == ()
    if layout == 'videomae':  # where the biases of the keys, which do nothing, are zero
        for key in (key for key in state if key.endswith('qkv.bias')):
            state[key].chunk(3)[1].zero_()
    assert_equal_states(again.state_dict(), state)


@torch.no_grad()
@pytest.mark.parametrize('final_norm', [True, False])
def test_a_pretraining_model_of_transformers_comes_in_with_its_decoder(tmp_path, final_norm):
    transformers = pytest.importorskip('transformers')
    config = transformers.VideoMAEConfig(
        image_size=32, patch_size=8, num_frames=4, hidden_size=48, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=192, decoder_hidden_size=32, decoder_num_hidden_layers=1, decoder_num_attention_heads=4,
        decoder_intermediate_size=128, layer_norm_eps=1e-6, use_mean_pooling=not final_norm,
    )  # fmt: skip
    theirs = transformers.VideoMAEForPreTraining(config).eval()
    for parameter in theirs.parameters():
        parameter.copy_(0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(parameter))))
    theirs.save_pretrained(tmp_path)
    model = videomae_autoencoder(final_norm=final_norm)
    report = load_weights(model, tmp_path / 'model.safetensors', complete=True)
    assert (report.source, report.left, report.initialised) == ('huggingface', (), ())
    hidden = torch.rand(2, 32).argsort(1) < 24
    clip = random_clip(2, 3, 4, 32, 32)
    patches = torch.stack([row['patches'] for row in model.predict(clip, 'video', Masks.from_hidden(hidden))])
    # their decoder's last norm has an eps of 1e-5
    torch.testing.assert_close(patches, theirs(clip.transpose(1, 2), hidden).logits, rtol=1e-3, atol=1e-3)


def test_the_tool_converts_to_the_released_layout_and_back(tmp_path, capsys):
    state = random_model('pretraining').state_dict()
    save_file(state, tmp_path / 'ours.safetensors', {})
    run_tool([str(tmp_path / 'ours.safetensors'), str(tmp_path / 'released.torch'), '--to', 'omnimae'])
    assert recognise(load_file(tmp_path / 'released.torch')[0]) == 'omnimae'
    run_tool([str(tmp_path / 'released.torch'), str(tmp_path / 'again.pth')])
    assert_equal_states(load_file(tmp_path / 'again.pth')[0], state)
    torch.save(mae_file(with_decoder=True), tmp_path / 'mae.pth')
    run_tool([str(tmp_path / 'mae.pth'), str(tmp_path / 'mae.safetensors')])
    left = '3 tensors have no place in our models and are left: mask_token, decoder_pos_embed, decoder_embed.bias'
    assert left in capsys.readouterr().out
    with pytest.raises(ValueError, match=r'mae\.pth: --to videomae needs --config'):
        run_tool([str(tmp_path / 'mae.pth'), str(tmp_path / 'other.pth'), '--to', 'videomae'])
    with pytest.raises(ValueError, match=r'mae\.pth: --to timm needs --config'):
        run_tool([str(tmp_path / 'mae.pth'), str(tmp_path / 'folder'), '--to', 'timm'])


def test_a_head_on_the_class_token_is_not_exported_as_one_on_the_mean(tmp_path):
    config = tmp_path / 'cls.py'
    base = ROOT / 'configs' / 'demo' / 'mae_finetune.py'
    config.write_text(f"_base_ = ['{base}']\nmodel = dict(backbone=dict(pool='cls'), pretrained_norm=True)\n")
    save_file(MODELS.build(load_config(config).model).state_dict(), tmp_path / 'cls.pth', {})
    with pytest.raises(
        ValueError, match=r"timm is for heads on the mean of the tokens here, and this model has pool='cls'"
    ):
        run_tool([str(tmp_path / 'cls.pth'), str(tmp_path / 'folder'), '--to', 'timm', '--config', str(config)])


SOURCE = """
test_dataloader = dict(batch_size=4, collate_fn=dict(type='collate_clips'), dataset=dict(
    type='MixedDataset', sources=dict(pets=dict(
    type='{kind}Dataset', root='/home/me/pets/val', {more} transforms=[
        dict(type='ResizeShort', size=40, interpolation='bicubic'), dict(type='CenterCrop', size=32)]))))
train_dataloader = dict(batch_size=4, collate_fn=dict(type='collate_clips'), dataset=dict(
    type='MixedDataset', sources=dict(pets=dict(
    type='{kind}Dataset', root='/home/me/pets/train', {more} transforms=[]))))
"""


@pytest.fixture
def photograph() -> np.ndarray:
    return np.ascontiguousarray(skimage.data.astronaut()[:200, 40:341])  # a real one, wider than high


def exported_classifier(tmp_path: Path, layout: str, kind: str) -> tuple[Path, Pipeline]:
    """Export a classifier with class names -> the folder, and our test pipeline."""
    names = ['cat', 'dog', 'Löwe', 'ox', 'ant']
    save_file(
        random_model('classifier').state_dict(), tmp_path / 'ours.pth', {'classes': json.dumps(names), 'epoch': '7'}
    )
    config = tmp_path / 'config.py'
    runtime = ROOT / 'configs' / '_base_' / 'default_runtime.py'
    source = SOURCE.format(kind=kind, more='num_frames=4,' if kind == 'Video' else '')
    text = CONFIG.format(runtime=runtime, kind='Classifier', more='num_classes=5')
    config.write_text(f'"""Pets, a recipe."""\n{text}{source}')
    run_tool([str(tmp_path / 'ours.pth'), str(tmp_path / layout), '--to', layout, '--config', str(config)])
    return tmp_path / layout, Pipeline(find_source(load_config(config), kind.lower()), kind.lower())


def normalized(clip: torch.Tensor) -> torch.Tensor:
    return MODELS.build(dict(type='ClipPreprocessor')).normalize(clip)


@pytest.mark.parametrize('kind', ['Image', 'Video'])
def test_transformers_prepares_a_photograph_as_our_tests(tmp_path, photograph, kind):
    transformers = pytest.importorskip('transformers')
    folder, pipeline = exported_classifier(tmp_path, 'huggingface', kind)
    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    theirs = processor([Image.fromarray(photograph)], return_tensors='pt')['pixel_values'][0, 0]
    ours = normalized(pipeline(photograph[None]))[0, :, 0]
    assert theirs.shape == ours.shape == (3, 32, 32)
    assert (theirs - ours).abs().max() < 0.02  # a level of 255 is 0.017 after division by std
    config = transformers.AutoConfig.from_pretrained(folder)
    assert config.id2label == {0: 'cat', 1: 'dog', 2: 'Löwe', 3: 'ox', 4: 'ant'}
    assert config.label2id['Löwe'] == 2


def test_timm_prepares_a_photograph_as_our_tests(tmp_path, photograph):
    timm = pytest.importorskip('timm')
    folder, pipeline = exported_classifier(tmp_path, 'timm', 'Image')
    model = timm.create_model(f'local-dir:{folder}', pretrained=True)
    prepare = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
    ours = normalized(pipeline(photograph[None]))[0, :, 0]
    assert (prepare(Image.fromarray(photograph)) - ours).abs().max() < 0.1  # Pillow rounds between its two passes
    assert model.pretrained_cfg['label_names'] == ['cat', 'dog', 'Löwe', 'ox', 'ant']
    transformers = pytest.importorskip('transformers')  # it reads the same folder
    theirs = transformers.AutoImageProcessor.from_pretrained(folder)(Image.fromarray(photograph))['pixel_values'][0]
    assert (theirs - ours).abs().max() < 0.1
    assert transformers.AutoConfig.from_pretrained(folder).id2label[2] == 'Löwe'


def test_images_in_the_form_of_videomae_are_told_the_way_to_timm(tmp_path, capsys):
    hint = 'This model is for images, and VideoMAE takes clips. Export --to timm: transformers reads that, too.'
    folder, _ = exported_classifier(tmp_path, 'timm', 'Image')
    assert 'transformers.AutoModelForImageClassification.from_pretrained' in (folder / 'README.md').read_text('utf-8')
    assert hint not in capsys.readouterr().out
    exported_classifier(tmp_path, 'huggingface', 'Image')
    assert hint in capsys.readouterr().out
    exported_classifier(tmp_path, 'huggingface', 'Video')
    assert hint not in capsys.readouterr().out


def test_a_folder_has_a_model_card_without_paths_of_this_machine(tmp_path):
    folder, _ = exported_classifier(tmp_path, 'huggingface', 'Video')
    card = (folder / 'README.md').read_text(encoding='utf-8')
    _, head, text = card.split('---\n', 2)
    expected = dict(license='other', library_name='transformers', pipeline_tag='video-classification')
    assert expected.items() <= yaml.safe_load(head).items()
    assert 'model-index' not in yaml.safe_load(head)
    for part in (
        'Not known here. Fill in a table.',
        'Pets, a recipe.',
        'cat, dog, Löwe',
        'pets (pets/train)',
        'epoch 7',
        'VideoMAEForVideoClassification',
    ):
        assert part in text
    assert '/home/me' not in card
    assert str(tmp_path) not in card


def write_run(folder: Path, tested: str | None) -> None:
    """Write what a training of two epochs leaves, and perhaps a test of a checkpoint."""
    lines = [dict(iter=3, epoch=1, step=3, loss=1.0), {'accuracy/top1': 35.0, 'accuracy/top1_best': 35.0, 'step': 1}]
    lines += [dict(iter=6, epoch=2, step=6, loss=0.5), {'accuracy/top1': 61.25, 'time': 0.1, 'step': 2}]
    (folder / 'a' / 'vis_data').mkdir(parents=True)
    (folder / 'a' / 'vis_data' / 'scalars.json').write_text('\n'.join(map(json.dumps, lines)))
    (folder / 'a' / 'a.log').write_text('Effective batch: 8; 3 optimizer steps per epoch, 6 in all.')
    if tested is not None:
        (folder / 'b').mkdir()
        (folder / 'b' / 'b.json').write_text(json.dumps({'accuracy/top1': 64.5, 'time': 0.1}))
        (folder / 'b' / 'b.log').write_text(f'Weights from run/{tested} (layout native, raw): loaded 3')


@pytest.mark.parametrize(
    ('meta', 'tested', 'custom', 'value', 'said'),
    [
        (dict(epoch='2', iter='6'), None, '', 61.25, 'Validation of these weights, after epoch 2'),
        (dict(epoch='1', iter='3'), None, '', 35.0, 'Validation of these weights, after epoch 1'),
        (dict(epoch='1', iter='5'), None, '', None, 'Not known here'),  # saved within an epoch
        (dict(epoch='2', iter='6'), 'ours.pth', '', 64.5, 'Test of these weights'),
        (dict(epoch='2', iter='6'), 'other.pth', '', 61.25, 'Validation of these weights'),
        (
            dict(epoch='2', iter='6', weights='raw'),
            None,
            "custom_hooks = [dict(type='EMAHook')]",
            None,
            'Not known here',
        ),
    ],
)
def test_a_card_has_the_metrics_of_the_run(tmp_path, meta, tested, custom, value, said):
    hub = pytest.importorskip('huggingface_hub')
    save_file(random_model('classifier').state_dict(), tmp_path / 'ours.pth', meta)
    write_run(tmp_path, tested)
    runtime = ROOT / 'configs' / '_base_' / 'default_runtime.py'
    text = CONFIG.format(runtime=runtime, kind='Classifier', more='num_classes=5')
    (tmp_path / 'pets.py').write_text(text + SOURCE.format(kind='Image', more='') + custom)
    words = [str(tmp_path / 'ours.pth'), str(tmp_path / 'out'), '--to', 'huggingface']
    run_tool([*words, '--config', str(tmp_path / 'pets.py')])
    card = hub.ModelCard.load(tmp_path / 'out' / 'README.md')  # it checks the results
    assert said in card.text
    results = card.data.eval_results or []
    assert [result.metric_value for result in results] == ([] if value is None else [value])
    assert [result.metric_type for result in results] == ['accuracy'] * len(results)
    assert {result.dataset_name for result in results} <= {'pets'}
    assert value is None or f'| accuracy/top1 | {value:.4g} |' in card.text


def test_released_weights_keep_their_licence(tmp_path):
    torch.save({'model': export(random_model('pretraining').state_dict())}, tmp_path / 'released.torch')
    config = tmp_path / 'config.py'
    runtime = ROOT / 'configs' / '_base_' / 'default_runtime.py'
    more = "head=dict(type='MAEHead'), mask_generator=dict()"
    config.write_text(CONFIG.format(runtime=runtime, kind='MaskedAutoencoder', more=more))
    run_tool([str(tmp_path / 'released.torch'), str(tmp_path / 'out'), '--to', 'timm', '--config', str(config)])
    assert 'license: cc-by-nc-4.0\n' in (tmp_path / 'out' / 'README.md').read_text(encoding='utf-8')


def test_what_resizing_cannot_say_and_timm_s_share():
    assert Resizing.of([]) == Resizing()
    three = [dict(type='ResizeShort', size=9), dict(type='ThreeCrop', size=8)]
    assert Resizing.of(three) == Resizing(9, (8, 8), 'bilinear')
    assert Resizing.of([dict(type='ResizeLong', size=9)]) is None
    assert Resizing.of(three[::-1]) is None
    model = random_model('classifier')
    for short in (32, 40, 93, 186):
        config = export_timm(model.state_dict(), model.backbone, resizing=Resizing(short))[1]
        assert int(32 / config['pretrained_cfg']['crop_pct']) == short


def test_a_name_of_the_hub_is_fetched_into_its_cache(tmp_path, monkeypatch):
    model, asked = random_model('classifier'), []

    def download(repository: str, file: str, revision: str | None = None) -> str:
        asked.append((repository, file, revision))
        if file == 'no.pth' or repository == 'me/':
            raise FileNotFoundError('404')
        return str(tmp_path / 'model.safetensors')

    save_file(model.state_dict(), tmp_path / 'model.safetensors', {})
    hub = types.ModuleType('huggingface_hub')
    hub.hf_hub_download = download
    hub.errors = types.ModuleType('huggingface_hub.errors')
    hub.errors.EntryNotFoundError = type('EntryNotFoundError', (Exception,), {})
    monkeypatch.setitem(sys.modules, 'huggingface_hub', hub)
    monkeypatch.setitem(sys.modules, 'huggingface_hub.errors', hub.errors)
    for name in ('me/pets', 'me/pets@v1/sub/x.safetensors'):
        assert_equal_states(load_file(f'hf://{name}')[0], model.state_dict())
    assert asked == [('me/pets', 'model.safetensors', None), ('me/pets', 'sub/x.safetensors', 'v1')]
    with pytest.raises(ValueError, match=r'hf://me/pets/no\.pth: cannot be downloaded \(404\)\. Check hf://ORG/NAME'):
        load_file('hf://me/pets/no.pth')
    with pytest.raises(ValueError, match=r'hf://me: cannot be downloaded'):
        load_file('hf://me')
    monkeypatch.setitem(sys.modules, 'huggingface_hub', None)
    with pytest.raises(ValueError, match='Run pip install huggingface_hub, or download the file and give its path'):
        load_file('hf://me/pets')
