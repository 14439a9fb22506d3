"""Frozen backbones: what a probe may change, LARS by hand, features in files, k-NN in tests and during pretraining."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.runner import Runner
from programs import TOOLS, run_ranks
from test_configs import FROZEN, PAPER, SMALL, SMALL_LOADER, name_of
from test_tools import tool
from tiny_run import CLASSIFY, PRETRAIN, build_runner, losses_of, write_config, write_data
from torch import nn
from torch.utils.data import DataLoader

from omnimae.checkpoint import export, load_weights, save_file, to_plain
from omnimae.config import load_config
from omnimae.data.samplers import EvalSampler
from omnimae.engine import LARS, frozen_model, knn
from omnimae.engine.extraction import collect
from omnimae.engine.knn import _pooled
from omnimae.engine.reading import Readable
from omnimae.evaluation import knn_accuracy, load_features
from omnimae.models import AttentiveProbe, FrozenBackbone, LinearProbe
from omnimae.models.probe import FeatureNorm, QueryPooling
from omnimae.registry import MODELS

BACKBONE = dict(
    type='SpatioTemporalViT', embed_dim=24, depth=2, num_heads=2, patch_size=(2, 16, 16), clip_size=(4, 32, 32)
)
PRETRAINING = dict(
    type='MaskedAutoencoder',
    backbone=BACKBONE,
    head=dict(type='MAEHead', embed_dim=16, depth=1, num_heads=2),
    mask_generator=dict(image=dict(type='RandomMasking', ratio=0.5)),
)

PATCHES = dict(type='PatchTokenizer', patch_size=(2, 16, 16), clip_size=(4, 32, 32))
MULTIMODAL = dict(
    type='MultiModalViT',
    embed_dim=24,
    depth=2,
    num_heads=2,
    tokenizers=dict(rgb=dict(PATCHES, channels=3), depth=dict(PATCHES, channels=1)),
)
MULTIMAE = dict(
    type='MultiMAE',
    backbone=MULTIMODAL,
    head=dict(rgb=dict(type='CrossAttentionHead', error='mse', embed_dim=16, depth=1, num_heads=2)),
    mask_generator=dict(type='DirichletMasking', num_visible=4),
)
DENSE = dict(
    type='DensePredictor',
    backbone=BACKBONE,
    head=dict(type='ConvNeXtHead', embed_dim=32, depth=1),
    task=dict(type='SegmentationTask', num_classes=5),
)

# Behind a config of `tiny_run`: its test pictures in ``test_dataloader``, all of them as the bank too.
KNN = """
model = dict(type='FrozenBackbone', backbone=model['backbone'])
test_cfg = dict(type='KNNTestLoop', bank_dataloader=test_dataloader, num_classes=3, k=3)  # two occur
"""
WATCHED = """
custom_hooks = [dict(type='LossesHook')]
"""
ONLINE = """
evaluated = dict(
    batch_size=4,
    num_workers=0,
    dataset=dict(
        type='MixedDataset',
        sources=dict(pictures=dict(pictures, transforms=[dict(type='CenterCrop', size=32)])),
    ),
    sampler=dict(type='EvalSampler'),
    batch_sampler=dict(type='EvalBatchSampler'),
    collate_fn=dict(type='collate_clips'),
)
custom_hooks += [dict(type='KNNHook', bank_dataloader=evaluated, query_dataloader=evaluated, interval=1, k=1)]
"""


@pytest.fixture(scope='module')
def data(tmp_path_factory) -> Path:
    """21 pictures, which two ranks cannot share evenly."""
    return write_data(tmp_path_factory.mktemp('data') / 'made', num_pictures=21, num_movies=4)


@pytest.fixture
def pretrained(tmp_path) -> Path:
    torch.manual_seed(3)
    model = MODELS.build(PRETRAINING)
    nn.init.normal_(model.backbone.norm.weight)  # a norm that is not the one of a new model
    save_file(model.state_dict(), tmp_path / 'pretrained.safetensors', {})
    return tmp_path / 'pretrained.safetensors'


def probe(**options) -> LinearProbe:
    torch.manual_seed(0)
    return MODELS.build(dict(type='LinearProbe', num_classes=3, backbone=dict(BACKBONE, drop_path_rate=0.5), **options))


def clips(batch: int = 4, seed: int = 0) -> torch.Tensor:
    return torch.randint(256, (batch, 3, 4, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


# ---------------------------------------------------------------------------------------------------------------------
# Probe


def test_only_the_linear_layer_is_trained():
    model, labels = probe(), torch.tensor([0, 1, 2, 0])
    before = {key: value.clone() for key, value in model.state_dict().items()}
    trainable = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert trainable == ['head.1.weight', 'head.1.bias']
    optimizer = torch.optim.SGD([parameter for parameter in model.parameters() if parameter.requires_grad], lr=1.0)
    model.train().loss(clips(), labels)['loss'].backward()
    optimizer.step()
    assert all(parameter.grad is None for parameter in model.backbone.parameters())
    changed = {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    assert changed == {'head.1.weight', 'head.1.bias', *(f'head.0.{name}' for name in BUFFERS)}


BUFFERS = ('running_mean', 'running_var', 'num_batches_tracked')


def test_nothing_of_the_backbone_is_dropped_in_training():
    model = probe()
    training = model.train().features(clips())
    assert not any(part.training for part in model.backbone.modules())
    assert torch.equal(training, model.features(clips()))
    assert torch.equal(training, model.eval().features(clips()))
    assert all(part.training for part in model.train().head.modules())


def test_features_are_the_mean_of_normalised_tokens():
    model = probe()
    nn.init.normal_(model.backbone.norm.weight)
    clip = model.data_preprocessor.normalize(clips())
    tokens = model.backbone.encode(*model.backbone.patchify(clip))
    torch.testing.assert_close(model.features(clips()), tokens.mean(1))
    views = torch.stack([clips(seed=0), clips(seed=1)], 1)
    expected = (model.features(clips(seed=0)) + model.features(clips(seed=1))) / 2
    torch.testing.assert_close(model.features(views), expected)
    logits = (model.eval().predict(clips(seed=0)) + model.predict(clips(seed=1))) / 2
    torch.testing.assert_close(model.predict(views), logits)


def test_features_of_the_class_token():
    backbone = dict(BACKBONE, cls_token=True, pool='cls')
    model = MODELS.build(dict(type='LinearProbe', num_classes=3, backbone=backbone))
    nn.init.normal_(model.backbone.norm.weight)
    tokens = model.backbone.encode(*model.backbone.patchify(model.data_preprocessor.normalize(clips())))
    assert tokens.shape[1] == 1 + 8
    torch.testing.assert_close(model.features(clips()), tokens[:, 0])
    alone = MODELS.build(frozen_model(dict(type='LinearProbe', backbone=backbone)))
    alone.load_state_dict(model.state_dict(), strict=False)
    torch.testing.assert_close(alone.features(clips()), tokens[:, 0])


def test_feature_norm_is_batch_norm_without_affine():
    ours, theirs = FeatureNorm(6), nn.BatchNorm1d(6, eps=1e-6, affine=False)
    for seed in range(3):
        x = 5 + 3 * torch.randn(4, 6, generator=torch.Generator().manual_seed(seed))
        torch.testing.assert_close(ours(x), theirs(x))
    for name, value in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], value)
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x))
    single = ours.train()(x[:1])  # where batch norm would fail: as in evaluation, and nothing is learnt from it
    torch.testing.assert_close(single, theirs(x[:1]))
    assert ours.num_batches_tracked == 3


def test_probe_takes_pretrained_and_fine_tuned_backbones(pretrained, tmp_path):
    model = probe()
    report = load_weights(model, pretrained)
    assert 'backbone.norm.weight' in report.loaded
    assert all(key.startswith('head.') for key in report.initialised)

    classifier = MODELS.build(dict(type='Classifier', backbone=BACKBONE, num_classes=7))
    nn.init.normal_(classifier.norm.weight)
    save_file(classifier.state_dict(), tmp_path / 'tuned.safetensors', {})
    tuned = MODELS.build(frozen_model(dict(type='Classifier', backbone=BACKBONE, num_classes=7)))
    assert not load_weights(tuned, tmp_path / 'tuned.safetensors').initialised
    tokens = classifier.backbone(classifier.data_preprocessor.normalize(clips()))
    torch.testing.assert_close(tuned.features(clips()), classifier.norm(tokens.mean(1)))

    save_file(model.state_dict(), tmp_path / 'probe.safetensors', {})
    frozen = FrozenBackbone(backbone=dict(BACKBONE))
    assert not load_weights(frozen, tmp_path / 'probe.safetensors').initialised
    torch.testing.assert_close(frozen.features(clips()), model.features(clips()))


@pytest.mark.parametrize(
    'cfg',
    [
        MULTIMAE,
        dict(MULTIMAE, backbone=dict(MULTIMODAL, final_norm=True)),
        dict(PRETRAINING, backbone=dict(BACKBONE, final_norm=False)),
        DENSE,
        dict(DENSE, backbone=MULTIMODAL),
    ],
    ids=['multimae', 'multimae-norm', 'mae-no-norm', 'dense', 'dense-multimodal'],
)
def test_features_have_the_norm_that_their_backbone_has(cfg, tmp_path):
    statistics = dict(mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
    nested = dict(type='MultiModalPreprocessor', modalities=dict(rgb=dict(type='ClipPreprocessor', **statistics)))
    is_mae = cfg['type'] == 'MaskedAutoencoder'
    cfg = dict(cfg, data_preprocessor=dict(type='ClipPreprocessor', **statistics) if is_mae else nested)
    model = MODELS.build(cfg)
    for parameter in model.backbone.norm.parameters():
        nn.init.normal_(parameter)
    save_file(model.state_dict(), tmp_path / 'weights.safetensors', {})
    expected = model.backbone.pooled((clips() / 255 - 0.5) / 0.25)
    torch.testing.assert_close(_pooled(model, dict(clips=dict(rgb=clips()))), expected)
    frozen = MODELS.build(frozen_model(cfg))
    load_weights(frozen, tmp_path / 'weights.safetensors', complete=True)
    torch.testing.assert_close(frozen.features(clips()), expected)
    model = MODELS.build(dict(frozen_model(cfg), type='LinearProbe', num_classes=3))
    report = load_weights(model, tmp_path / 'weights.safetensors')
    assert all(key.startswith('head.') for key in report.initialised)
    torch.testing.assert_close(model.features(clips()), expected)


CLASSIFIER = dict(type='Classifier', backbone=BACKBONE, num_classes=3)


@pytest.mark.parametrize('backbone', [BACKBONE, MULTIMODAL], ids=['plain', 'multimodal'])
def test_classifiers_and_dense_predictors_begin_with_the_backbone_of_the_other(backbone, tmp_path):
    file = tmp_path / 'weights.safetensors'
    for start, goal in ((CLASSIFIER, DENSE), (DENSE, CLASSIFIER)):
        first, second = (dict(cfg, backbone=backbone) for cfg in (start, goal))
        model = MODELS.build(first)
        save_file(model.state_dict(), file, {})
        fresh = MODELS.build(second)
        report = load_weights(fresh, file)
        for name, x in fresh.backbone.state_dict().items():
            assert torch.equal(x, model.backbone.state_dict()[name]), name
        report = load_weights(fresh, file)
        assert {*report.left} == {name for name in model.state_dict() if not name.startswith('backbone.')}
        assert {*report.initialised} == {name for name in fresh.state_dict() if not name.startswith('backbone.')}
        with pytest.raises(ValueError, match=r'has no values for (head|norm)\..* Give the checkpoint of a training'):
            load_weights(fresh, file, complete=True)
    save_file(MODELS.build(dict(CLASSIFIER, backbone=backbone)).state_dict(), file, {})
    with pytest.raises(ValueError, match=r'norm follows the pooling. Run the same .* model.norm=pooled$'):
        load_weights(FrozenBackbone(backbone=backbone), file)


def test_errors_of_frozen_models(pretrained, tmp_path):
    save_file(to_plain(MODELS.build(MULTIMAE).state_dict())[0], tmp_path / 'plain.safetensors', {})
    backbone = dict(BACKBONE, cls_token=True)
    with pytest.raises(ValueError, match=r'lacks backbone.norm.weight, backbone.norm.bias. .*final_norm=False$'):
        load_weights(FrozenBackbone(backbone=backbone), tmp_path / 'plain.safetensors')
    load_weights(FrozenBackbone(backbone=dict(backbone, final_norm=False)), tmp_path / 'plain.safetensors')
    model = MODELS.build(dict(PRETRAINING, backbone=dict(BACKBONE, final_norm=False)))
    with pytest.raises(ValueError, match=r'no place for backbone.norm.bias.* model.backbone.final_norm=True$'):
        load_weights(model, pretrained)
    with pytest.raises(ValueError, match=r"norm='both' is unknown\. Choose 'token', 'pooled' or None"):
        FrozenBackbone(backbone=dict(BACKBONE), norm='both')
    with pytest.raises(ValueError, match=r"pool='max' is unknown\. Choose 'mean' or 'cls'"):
        FrozenBackbone(backbone=dict(BACKBONE, pool='max'))
    with pytest.raises(ValueError, match=r"the backbone has no class token\. Set cls_token=True, or pool='mean'"):
        FrozenBackbone(backbone=dict(BACKBONE, pool='cls'))
    with pytest.raises(ValueError, match='a FrozenBackbone has nothing to train'):
        FrozenBackbone(backbone=dict(BACKBONE))(clips(), mode='loss')
    with pytest.raises(ValueError, match=r'LinearProbe\.loss needs labels'):
        probe()(clips())
    with pytest.raises(ValueError, match=r"The label 3 of 'a' is none of the model's 3 classes"):
        probe().data_preprocessor(dict(clips=dict(rgb=clips(1)), labels=torch.tensor([3]), ids=['a']))


ATTENTIVE = dict(type='AttentiveProbe', num_classes=3, num_queries=4)


def attentive(**options) -> AttentiveProbe:
    torch.manual_seed(0)
    return MODELS.build({**ATTENTIVE, 'backbone': BACKBONE, **options})


def waves(*shape: int, start: int = 0) -> torch.Tensor:
    number = start + torch.arange(np.prod(shape), dtype=torch.float64)
    return torch.sin(1.7 * number + start).view(shape).float()


def test_query_pooling_is_the_published_module():
    """The numbers are those of poolings/ep.py of github.com/billpsomas/efficient-probing with its norm and layer."""
    head = nn.Sequential(QueryPooling(8, 4), FeatureNorm(8), nn.Linear(8, 3))
    values = 3 * waves(4, 8, start=1), waves(8, 8, start=2), waves(3, 8, start=3), waves(3, start=4)
    head.load_state_dict(dict(zip(dict(head.named_parameters()), values, strict=True)), strict=False)
    logits = head(waves(3, 5, 8))
    expected = [[2.299791, -0.333613, -2.556249], [-1.492071, 3.195996, 4.847843], [-3.750530, -3.061347, 0.702487]]
    torch.testing.assert_close(logits, torch.tensor(expected), rtol=0, atol=1e-5)
    nn.functional.cross_entropy(logits, torch.tensor([0, 1, 2])).backward()
    queries = [0.00177194, 0.00214599, -0.00232494, -0.00154688, 0.00272355, 0.00084505, -0.00294131, -0.00008711]
    value = [-0.00104645, -0.00141998, 0.00141236, 0.00105603, -0.00168449, -0.00062196, 0.00184476, 0.00014658]
    torch.testing.assert_close(head[0].queries.grad[1], torch.tensor(queries), rtol=0, atol=1e-6)
    torch.testing.assert_close(head[0].value.weight.grad[3], torch.tensor(value), rtol=0, atol=2e-6)
    assert head[2].weight.grad.norm() == pytest.approx(1.157970, abs=1e-5)


def test_an_attentive_probe_trains_its_head_alone_through_the_norm_of_the_step():
    model, labels = attentive().train(), torch.tensor([0, 1, 2, 0])
    names = ['head.pool.queries', 'head.pool.value.weight', 'head.1.weight', 'head.1.bias']
    trained = {name: x for name, x in model.named_parameters() if x.requires_grad}
    assert [*trained] == names
    assert model.head[0].queries.std().item() == pytest.approx(0.02, rel=0.3)
    plain = model.loss(clips(), labels)
    expected = torch.autograd.grad(plain['loss'], [*trained.values()])
    batch = dict(clips=dict(rgb=clips()), labels=labels, ids=[*'abcd'], modality='video')
    with torch.no_grad():
        model.begin_step([batch], [4], 4)
    assert 'clips' not in batch
    stepped = model(**model.data_preprocessor(batch, training=True), mode='loss')
    torch.testing.assert_close(stepped, plain)
    for got, gradient in zip(torch.autograd.grad(stepped['loss'], [*trained.values()]), expected, strict=True):
        torch.testing.assert_close(got, gradient, rtol=1e-4, atol=1e-6)
    with pytest.raises(ValueError, match=r'AttentiveProbe\.loss needs labels'), torch.no_grad():
        model.begin_step([dict(clips=dict(rgb=clips()), ids=[*'abcd'])], [4], 4)


@pytest.mark.parametrize(
    'backbone', [dict(BACKBONE, cls_token=True, pool='cls'), MULTIMODAL], ids=['cls', 'multimodal']
)
def test_an_attentive_probe_reads_all_tokens_of_images_and_clips(backbone, tmp_path):
    model = attentive(backbone=backbone).eval()
    for clip in (clips(), clips()[:, :, :1]):
        given = model.data_preprocessor.normalize(clip)
        tokens = model.backbone(given if 'tokenizers' not in backbone else dict(rgb=given))
        torch.testing.assert_close(model.predict(clip), model.head(getattr(tokens, 'x', tokens)))
    views = torch.stack([clips(seed=0), clips(seed=1)], 1)
    torch.testing.assert_close(model.predict(views), (model.predict(clips(seed=0)) + model.predict(clips(seed=1))) / 2)
    assert {*model(views, mode='predict')[0]} == {'scores', 'probabilities'}
    save_file(model.state_dict(), tmp_path / 'probe.safetensors', {})
    again = attentive(backbone=backbone).eval()
    nn.init.zeros_(again.head[0].queries)
    load_weights(again, tmp_path / 'probe.safetensors', complete=True)
    assert torch.equal(again.predict(clips()), model.predict(clips()))
    frozen = FrozenBackbone(backbone=dict(backbone))  # the backbone of a probe's checkpoint loads anywhere
    assert not load_weights(frozen, tmp_path / 'probe.safetensors').initialised


def test_errors_of_an_attentive_probe():
    with pytest.raises(
        ValueError, match=r'num_queries=32 does not divide the 24 channels .* Choose a divisor, such as 8'
    ):
        attentive(num_queries=32)

    class NoTokens(nn.Module):
        embed_dim = 24
        pooled = None

    with pytest.raises(ValueError, match='NoTokens lacks tokens, which AttentiveProbe needs'):
        attentive(backbone=dict(type=NoTokens))


def test_lars_by_hand():
    # |w| = 5, |g| = 10: scaled by 0.1 * 5 / 10 = 0.05, so the buffer is (0.3, 0.4) and w becomes (2.4, 3.2);
    # then |w| = 4, scaled by 0.04: 0.9 * (0.3, 0.4) + (0.24, 0.32) = (0.51, 0.68); lr 2, then 1
    weight, bias = nn.Parameter(torch.tensor([[3.0, 4.0]])), nn.Parameter(torch.tensor([1.0]))
    optimizer = LARS([weight, bias], lr=2.0, trust_coefficient=0.1)
    for lr, expected in ((2.0, [2.4, 3.2]), (1.0, [1.89, 2.52])):
        optimizer.param_groups[0]['lr'] = lr
        weight.grad, bias.grad = torch.tensor([[6.0, 8.0]]), torch.tensor([0.1])
        optimizer.step()
        assert weight[0].tolist() == pytest.approx(expected)
    assert bias.item() == pytest.approx(1 - 2 * 0.1 - (0.9 * 0.1 + 0.1))  # plain SGD


def test_lars_starts_from_zero_and_decays():
    weight = nn.Parameter(torch.zeros(1, 2))
    optimizer = LARS([weight], lr=1.0, momentum=0.0, weight_decay=0.5, trust_coefficient=0.1)
    weight.grad = torch.tensor([[-3.0, -4.0]])
    optimizer.step()  # a weight of zero has no size to go by: not scaled
    assert weight[0].tolist() == [3.0, 4.0]
    weight.grad = torch.zeros(1, 2)
    optimizer.step()  # the update is 0.5 w = (1.5, 2) of length 2.5, scaled by 0.1 * 5 / 2.5
    assert weight[0].tolist() == pytest.approx([2.7, 3.6])


@pytest.mark.parametrize('kind', ['LinearProbe', 'AttentiveProbe'])
def test_a_probe_trains_and_is_tested_through_the_runner(data, tmp_path, pretrained, kind):
    own = dict(head_init_std=0.01) if kind == 'LinearProbe' else dict(num_queries=4)
    more = f"""
for key in ('dropout', 'head_init_std'):
    model.pop(key, None)
model.update(type='{kind}', init_cfg=dict(type='Checkpoint', checkpoint='{pretrained}'), **{own})
optim_wrapper['optimizer'] = dict(type='LARS', lr=500.0)
optim_wrapper.pop('paramwise_cfg')
param_scheduler = dict(type='WarmupCosineLR', warmup_epochs=1, start_lr=0.0)
"""
    config = write_config(tmp_path / 'probe.py', CLASSIFY, data, more)
    runner = build_runner(config, tmp_path / 'work')
    runner.train()
    before = MODELS.build(PRETRAINING)
    load_weights(before, pretrained)
    for name, value in runner.model.backbone.state_dict().items():
        assert torch.equal(value, before.backbone.state_dict()[name]), name
    assert runner.model.head[-2].num_batches_tracked == 6
    assert runner.model.head[-1].weight.std() > 0.02
    tester = build_runner(config, tmp_path / 'test')
    load_weights(tester.model, tmp_path / 'work' / 'epoch_2_raw.safetensors', complete=True)
    assert tester.test().keys() == {'accuracy/top1', 'accuracy/mean_class'}


# ---------------------------------------------------------------------------------------------------------------------
# Features and k-NN


def knn_config(folder: Path, data: Path) -> Path:
    return write_config(folder / 'knn.py', CLASSIFY, data, KNN)


@pytest.mark.parametrize('world_size', [1, 2, 3, 5])
@pytest.mark.parametrize('sizes', [(7,), (4, 4), (1, 5, 2), (1,)])
def test_shares_of_the_ranks_come_back_in_order(sizes, world_size, monkeypatch):
    starts = np.cumsum([0, *sizes])
    dataset = type('Dataset', (), dict(starts=starts, skipped_rows=list))
    rows = [list(EvalSampler(dataset=dataset, rank=rank, world_size=world_size)) for rank in range(world_size)]
    assert len(rows[0]) - len(rows[-1]) <= 1  # what MMEngine's own way of collecting relies on
    batches = [[dict(ids=[str(x)], labels=torch.tensor([x])) for x in share] for share in rows]  # a rank may have none
    shares = [collect(lambda batch: batch['labels'][:, None] * 2.0, share) for share in batches]
    monkeypatch.setattr(knn, 'all_gather_object', lambda own: shares)
    together = knn.extract(
        lambda batch: batch['labels'][:, None],
        Readable(SimpleNamespace(), DataLoader([], batch_size=None), 'loader', None),
    )
    assert together.ids.tolist() == [str(row) for row in range(sum(sizes))]
    assert together.labels.tolist() == list(range(sum(sizes)))
    assert together.features.tolist() == [[2.0 * row] for row in range(sum(sizes))]


def test_features_in_a_file_are_those_of_the_model(data, tmp_path, pretrained, capsys):
    config = knn_config(tmp_path, data)
    main = tool('extract_features').main
    for name in ('test', 'bank'):
        words = [config, pretrained, '--out', tmp_path / f'{name}.npz', '--data', name, '--work-dir', tmp_path / 'work']
        main([str(word) for word in words])
    stored = load_features(tmp_path / 'test.npz')
    runner = build_runner(config, tmp_path / 'test')
    load_weights(runner.model, pretrained)
    dataset = runner.test_dataloader.dataset
    expected = [runner.model.eval().features(dataset[row]['clips']['rgb'])[0] for row in range(len(dataset))]
    np.testing.assert_allclose(stored.features, torch.stack(expected), atol=1e-5)
    assert stored.ids.tolist() == [dataset[row]['id'] for row in range(21)]
    assert stored.labels.tolist() == [dataset[row]['label'] for row in range(21)]

    from_model = runner.test()
    result = knn_accuracy(load_features(tmp_path / 'bank.npz'), stored, k=3)
    assert {f'accuracy/{key}': value for key, value in result.items()} == pytest.approx(from_model)
    capsys.readouterr()
    tool('knn').main([str(tmp_path / f'{name}.npz') for name in ('bank', 'test')] + ['--k', '3', '--topk', '1'])
    printed = json.loads(capsys.readouterr().out)
    assert printed == {f'knn/{key}': value for key, value in result.items()}

    with pytest.raises(ValueError, match=r'knn\.py has no val_dataloader\. Choose another --data'):
        main([str(config), str(pretrained), '--out', 'x.npz', '--data', 'val'])
    no_data = ['--cfg-options', 'test_cfg.bank_dataloader.dataset.sources.pictures.root=nowhere']
    with pytest.raises(
        ValueError, match=r'nowhere\.pth: no such checkpoint file\. Give a file, an address, or the fold'
    ):
        main([str(config), 'nowhere.pth', '--out', str(tmp_path / 'x.npz'), *no_data])


def test_knn_that_cannot_be_counted_is_refused_before_anything_runs(data, tmp_path):
    (tmp_path / 'list.txt').write_text('a/0.png\nb/1.png\n')
    unlabelled = {'dataset.sources.pictures.ann_file': str(tmp_path / 'list.txt')}
    config = knn_config(tmp_path, data)
    options = {f'test_cfg.bank_dataloader.{key}': value for key, value in unlabelled.items()}
    with pytest.raises(ValueError, match=r"bank_dataloader: source 'pictures' has no labels, which k-NN needs"):
        build_runner(config, tmp_path / 'bank', options).test()
    (tmp_path / 'labels.txt').write_text('a/0.png 0\nb/1.png 1\n')  # without names of the classes
    place = 'test_dataloader.dataset.sources.pictures.ann_file'
    options = {'test_evaluator.topk': (1, 5), place: str(tmp_path / 'labels.txt')}
    with pytest.raises(ValueError, match=r'^ClipAccuracy: topk=\(1, 5\) asks for more than the 3 classes there are'):
        build_runner(config, tmp_path / 'topk', options).test()
    online = write_config(tmp_path / 'online.py', PRETRAIN, data, WATCHED + ONLINE)
    options = {f'custom_hooks.1.query_dataloader.{key}': value for key, value in unlabelled.items()}
    with pytest.raises(ValueError, match=r"knn: query_dataloader: source 'pictures' has no labels, which k-NN needs"):
        build_runner(online, tmp_path / 'online', options).train()


def test_two_ranks_test_like_one_to_the_last_sample(data, tmp_path, pretrained, capsys):
    config = knn_config(tmp_path, data)
    words = [config, pretrained, '--launcher', 'pytorch', '--out', tmp_path / 'two.json']
    ranks = run_ranks(TOOLS / 'test.py', *words, output=tmp_path, cwd=tmp_path)
    assert [rank.returncode for rank in ranks] == [0, 0], ranks[0].stderr[-2000:]
    assert not (tmp_path / '.dist_test').exists()
    assert not [*tmp_path.rglob('collected')]  # where the ranks exchanged results
    one = build_runner(config, tmp_path / 'one', {'test_evaluator.out_file': str(tmp_path / 'one.npz')})
    load_weights(one.model, pretrained)
    metrics = one.test()
    assert json.loads((tmp_path / 'two.json').read_text()) == metrics
    ours, theirs = (np.load(tmp_path / f'{name}.npz') for name in ('one', 'two'))
    assert ours['ids'].tolist() == theirs['ids'].tolist()
    assert len(set(ours['ids'].tolist())) == 21
    np.testing.assert_allclose(ours['scores'], theirs['scores'], atol=1e-5)
    without = ours['probabilities'] == 0  # the third class has no vote
    np.testing.assert_array_equal(ours['scores'][without], -np.inf)
    np.testing.assert_array_equal(ours['scores'][~without], ours['probabilities'][~without])
    assert without.any()

    capsys.readouterr()
    tool('score').main([str(tmp_path / 'two.npz'), '--topk', '1'])
    assert json.loads(capsys.readouterr().out) == metrics


def test_pretraining_does_not_notice_that_it_is_watched(data, tmp_path):
    losses, logs = [], []
    for name, more in (('alone', WATCHED), ('watched', WATCHED + ONLINE)):
        runner = build_runner(write_config(tmp_path / f'{name}.py', PRETRAIN, data, more), tmp_path / name)
        runner.train()
        losses.append(losses_of(runner))
        logs.append(next((tmp_path / name).rglob('*.log')).read_text())
    assert losses[0] == losses[1]
    assert len(losses[0]) == runner.max_iters
    assert re.findall(r'Epoch (\d): knn/top1: (\S+)', logs[1]) == [('1', '100.0000'), ('2', '100.0000')]  # itself
    assert 'knn/top1' not in logs[0]
    [scalars] = (tmp_path / 'watched').rglob('scalars.json')
    curve = [row for row in map(json.loads, scalars.read_text().splitlines()) if 'knn/top1' in row]
    assert [(row['knn/top1'], row['step']) for row in curve] == [(100.0, 1), (100.0, 2)]


# ---------------------------------------------------------------------------------------------------------------------
# Configs

# Beside what `shrink` changes: a probe takes few samples a step, and few of them vote.
FEW = {'MixedBatchSampler': dict(global_batch_size=8), 'KNNTestLoop': dict(k=2), 'ThreeCrop': dict(size=112)}
FROZEN_CONFIGS = [path for folder in FROZEN for path in sorted(folder.glob('*.py'))]


@pytest.fixture
def benchmarks(data, tmp_path, monkeypatch) -> None:
    """The documented folders of IN1K and SSv2, and a released checkpoint of the shrunk backbone."""
    for split in ('train', 'val'):
        for index, picture in enumerate(sorted((data / 'pictures').rglob('*.png'))):
            link = tmp_path / 'imagenet' / split / f'class{index % 6}' / picture.name
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(picture)
        (tmp_path / 'sthv2').mkdir(exist_ok=True)
        (tmp_path / 'sthv2' / f'sthv2_{split}_list_videos.txt').write_text('0.mp4 3\n1.mp4 7\n2.mp4 173\n')
    (tmp_path / 'sthv2' / 'videos').symlink_to(data / 'movies')
    torch.manual_seed(1)
    model = dict(PRETRAINING, backbone=dict(BACKBONE, **SMALL['SpatioTemporalViT'], qkv_bias=True))
    save_file(export(MODELS.build(model).state_dict()), tmp_path / 'released.safetensors', {})
    monkeypatch.setenv('OMNIMAE_DATA', str(tmp_path))
    monkeypatch.setenv('OMNIMAE_CHECKPOINT', str(tmp_path / 'released.safetensors'))


def small(path: Path, work_dir: Path) -> Runner:
    """A config's Runner, shrunk."""
    cfg = load_config(path).to_dict()
    num_frames = cfg['model']['backbone']['clip_size'][0]
    for part in dicts_of(cfg):
        part.update(SMALL.get(part.get('type'), {}) | FEW.get(part.get('type'), {}))
        if part.get('type') == 'SpatioTemporalViT':
            part['clip_size'] = (min(num_frames, 4), 112, 112)
        if part.get('type') in ('LinearProbe', 'AttentiveProbe') and 'in1k' in path.stem:
            part['num_classes'] = 6  # folders
        if 'collate_fn' in part:
            part.update(SMALL_LOADER)
    cfg |= dict(work_dir=str(work_dir), experiment_name=f'{path.parent.stem}_{path.stem}')
    return Runner.from_cfg(Config(cfg, format_python_code=False))


def dicts_of(value) -> list[dict]:
    """All dicts, at any depth."""
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else []
    return ([value] if isinstance(value, dict) else []) + [part for item in parts for part in dicts_of(item)]


@pytest.mark.parametrize('path', FROZEN_CONFIGS, ids=name_of)
def test_configs_compare_training_with_validation_samples(path):
    cfg = load_config(path)
    train = cfg.test_cfg.bank_dataloader if path.parent.stem == 'knn' else cfg.train_dataloader
    ([train], [test]) = (loader.dataset.sources.values() for loader in (train, cfg.test_dataloader))
    num_classes = cfg.test_cfg.num_classes if path.parent.stem == 'knn' else cfg.model.num_classes
    assert {train.num_classes, test.num_classes} == {num_classes}
    places = [source.get('ann_file') or source.root for source in (train, test)]
    assert places[0].replace('train', 'val') == places[1] != places[0]
    assert train.get('clip_seconds') == test.get('clip_seconds')
    assert ('actions' in cfg.test_evaluator) == ('ek100' in path.stem)


@pytest.mark.parametrize(
    'path',
    [
        path
        for path in FROZEN_CONFIGS
        if path.stem == 'vit-b_in1k' or (path.parent.stem != 'attentive' and path.stem.endswith(('in1k', 'ssv2')))
    ],
    ids=name_of,
)
@pytest.mark.usefixtures('benchmarks')
def test_configs_run(path, tmp_path):
    runner = small(path, tmp_path / 'work')
    if runner.cfg.model.backbone.get('cls_token'):  # the file has none
        runner.model.init_cfg = None
    if path.parent.stem != 'knn':
        runner.train()
        assert runner.iter == (3 if 'in1k' in path.stem else 1)
    else:
        load_weights(runner.model, tmp_path / 'released.safetensors', complete=True)
    assert runner.test().keys() == {'accuracy/top1', 'accuracy/top5', 'accuracy/mean_class'}


@pytest.mark.parametrize(('size', 'epochs', 'patch'), [('b', 90, 16), ('l', 50, 16), ('h', 50, 14)])
def test_recipe_of_the_probe_of_mae(size, epochs, patch):
    cfg = load_config(PAPER.parent / 'mae' / 'linear' / f'vit-{size}_in1k.py')
    backbone = cfg.model.backbone
    assert (backbone.pool, backbone.cls_token, cfg.model.get('norm', 'token')) == ('cls', True, 'token')
    assert backbone.patch_size == (1, patch, patch)
    assert cfg.optim_wrapper.optimizer == dict(type='LARS', lr=6.4, momentum=0.9, weight_decay=0.0)
    assert cfg.train_dataloader.batch_sampler.global_batch_size == 16384
    assert (cfg.train_cfg.max_epochs, cfg.param_scheduler.warmup_epochs) == (epochs, 10)
    for loader in (cfg.val_dataloader, cfg.test_dataloader):
        assert [part['size'] for part in loader.dataset.sources.images.transforms] == [256, 224]
    crop, flip = cfg.train_dataloader.dataset.sources.images.transforms
    assert crop == dict(type='RandomResizedCrop', size=224, interpolation='bicubic', redraw=False)
    assert flip == dict(type='Flip', prob=0.5)


def test_recipe_of_the_attentive_probe():
    for name, norm, epochs in (('omnimae/attentive/vit-b', 'token', 90), ('mae/attentive/vit-l', None, 90)):
        cfg = load_config(PAPER.parent / f'{name}_in1k.py')
        assert (cfg.model.type, cfg.model.get('norm', 'token')) == ('AttentiveProbe', norm)
        assert cfg.optim_wrapper.optimizer == dict(type='LARS', lr=1.6, momentum=0.9, weight_decay=0.0)
        assert cfg.train_dataloader.batch_sampler.global_batch_size == 4096
        assert (cfg.train_cfg.max_epochs, cfg.param_scheduler.warmup_epochs) == (epochs, 10)


def test_recipe_of_the_probe():
    for name, batch, views in (('in1k', 16384, 1), ('ssv2', 1024, 15)):
        cfg = load_config(PAPER / 'linear' / f'vit-b_{name}.py')
        assert cfg.train_dataloader.batch_sampler.global_batch_size == batch
        assert cfg.optim_wrapper.optimizer == dict(type='LARS', lr=0.1 * batch / 256, momentum=0.9, weight_decay=0.0)
        assert (cfg.train_cfg.max_epochs, cfg.param_scheduler.warmup_epochs) == (90, 10)
        [source] = cfg.test_dataloader.dataset.sources.values()
        crops = 3 if source.transforms[-1].type == 'ThreeCrop' else 1
        assert source.get('num_clips', 1) * crops == views
