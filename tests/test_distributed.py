"""Two ranks on CPU. `test_stopping` starts them as a user does: ``bash tools/dist_train.sh CONFIG 2``."""

from __future__ import annotations

import importlib.util
import json
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.config import Config
from programs import ROOT, TOOLS, environment, run_ranks
from safetensors.torch import load_file
from tiny_run import CLASSIFY, PRETRAIN, RECONSTRUCTED, build_runner, write_config, write_data

from omnimae.checkpoint import load_weights
from omnimae.commands import load_run_config
from omnimae.config import default_work_dir, load_config
from omnimae.engine import setup_distributed

# A user's own hook, outside the package: notes what each rank does in each step.
PROBE = """
import json
from pathlib import Path

import torch
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from omnimae.registry import HOOKS


@HOOKS.register_module()
class ProbeHook(Hook):
    priority = 'HIGH'

    def after_train_iter(self, runner, batch_idx, data_batch, outputs=None):
        note = dict(
            modality=[batch['modality'] for batch in data_batch],
            size=[len(batch['clips']['rgb']) for batch in data_batch],
            ids=[batch['ids'] for batch in data_batch],
            loss=outputs['loss'].item(),
            ddp=[getattr(runner.model, name) for name in ('find_unused_parameters', 'gradient_as_bucket_view')],
            weights=[parameter.double().sum().item() for parameter in runner.model.parameters()],
        )
        with Path(runner.work_dir, f'rank{get_rank()}.jsonl').open('a') as file:
            file.write(json.dumps(note) + '\\n')
"""


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(('127.0.0.1', 0))
        return sock.getsockname()[1]


def on_two_ranks(tool: str, *words: Any, output: Path) -> None:
    """``TOOL WORDS`` on two ranks, which end well."""
    ranks = run_ranks(TOOLS / tool, *words, '--launcher', 'pytorch', output=output)
    assert [rank.returncode for rank in ranks] == [0, 0], ranks[0].stderr[-2000:]


def test_ranks_agree_on_everything_but_the_data_and_stop_together(tmp_path: Path):
    """One decoder and batch size per modality, accumulation, bfloat16.

    Five pictures of twenty are broken, four are accepted.
    """
    data = write_data(tmp_path / 'data')
    broken = sorted((data / 'pictures').rglob('*.png'))[::4]
    for picture in broken:
        picture.write_bytes(b'')
    (tmp_path / 'probe.py').write_text(PROBE)
    more = (
        RECONSTRUCTED
        + """
decoder = model.pop('head')
model['head'] = dict(image=decoder, video=decoder)
custom_imports = dict(imports=['probe'])
custom_hooks = [dict(type='ProbeHook')]
val_dataloader['batch_size'] = 4
default_hooks['broken_files'] = dict(min_failures=4, max_ratio=0.0)
"""
    )
    config = write_config(tmp_path / 'pretrain.py', PRETRAIN, data, more)
    options = ['--launcher', 'pytorch', '--work-dir', tmp_path / 'work', '--amp', '--cfg-options']
    options += ['train_dataloader.batch_size.image=2', 'train_dataloader.batch_size.video=4']
    env = environment(PYTHONPATH=f'{tmp_path}:{ROOT}')
    results = run_ranks(TOOLS / 'train.py', config, *options, output=tmp_path, env=env)

    assert [result.returncode for result in results] == [1, 1]
    log = next((tmp_path / 'work').rglob('*.log')).read_text()
    cuts = (
        'Effective batch: 8 = 2 per rank x 2 ranks x 2 accumulated micro-batches (images of pictures) '
        '= 4 per rank x 2 ranks x 1 accumulated micro-batches (videos of movies); 5 optimizer steps'
    )
    assert cuts in log
    assert 'val_dataloader: opened all 28 samples before training' in log  # by two ranks
    assert 'val_dataloader: 5 of 28 samples cannot be read' in log
    ranks = [
        [json.loads(line) for line in (tmp_path / 'work' / f'rank{rank}.jsonl').read_text().splitlines()]
        for rank in (0, 1)
    ]
    assert len(ranks[0]) == len(ranks[1])
    for ours, theirs in zip(*ranks, strict=True):
        assert (ours['modality'], ours['size']) == (theirs['modality'], theirs['size'])
        assert ours['ids'] != theirs['ids']
        assert ours['loss'] == theirs['loss']  # of the step, not of the rank
        assert ours['weights'] == theirs['weights']
        assert ours['ddp'] == [True, True]
    assert {modality for note in ranks[0] for modality in note['modality']} == {'image', 'video'}
    assert ranks[0][0]['weights'] != ranks[0][-1]['weights']
    assert "dtype='bfloat16'" in (tmp_path / 'work' / 'pretrain.py').read_text()
    assert [*(tmp_path / 'work').rglob('events.out.tfevents*')]

    for result in results:
        assert '\nValueError: 5 broken files among ' in result.stderr
    listed = (tmp_path / 'work' / 'broken_files.txt').read_text().splitlines()
    assert sorted(line.split('\t')[0] for line in listed) == [str(picture) for picture in broken]


def test_two_ranks_train_and_test_like_one(tmp_path: Path):
    data = write_data(tmp_path / 'data')
    # AdamW would divide the noise in gradients that are zero, those of the keys' biases, by itself
    more = "\noptim_wrapper['optimizer'] = dict(type='SGD', lr=0.1)\n"
    more += 'default_hooks = dict(checkpoint=dict(by_epoch=False, interval=4))\n'
    config = write_config(tmp_path / 'classify.py', CLASSIFY, data, more)
    options = ['--cfg-options', 'train_dataloader.batch_size=2', 'compile.backend=eager']
    on_two_ranks('train.py', config, '--work-dir', tmp_path / 'two', *options, output=tmp_path / 'trains')
    assert 'The loss is compiled' in next((tmp_path / 'two').rglob('*.log')).read_text()

    one = build_runner(config, tmp_path / 'one')
    one.train()
    exported = tmp_path / 'two' / 'epoch_2_raw.safetensors'
    weights = load_file(exported)
    resumed = build_runner(
        config, tmp_path / 'resumed', {'load_from': str(tmp_path / 'two' / 'iter_4.pth'), 'resume': True}
    )
    resumed.train()  # on one rank, from within the second epoch of two ranks
    for name, value in one.model.state_dict().items():
        torch.testing.assert_close(weights[name], value, rtol=0, atol=1e-6)
        torch.testing.assert_close(resumed.model.state_dict()[name], value, rtol=0, atol=1e-6)

    words = ['--work-dir', tmp_path / 'tested', '--out', tmp_path / 'out.json']
    on_two_ranks('test.py', config, exported, *words, output=tmp_path / 'tests')
    tester = build_runner(config, tmp_path / 'test', {'test_evaluator.out_file': str(tmp_path / 'one.npz')})
    load_weights(tester.model, exported)
    assert json.loads((tmp_path / 'out.json').read_text()) == pytest.approx(tester.test())
    scores = [np.load(tmp_path / name) for name in ('out.npz', 'one.npz')]
    assert sorted(scores[0]['ids']) == sorted(scores[1]['ids'])
    assert len(scores[0]['ids']) == 20
    order = [np.argsort(score['ids']) for score in scores]
    np.testing.assert_allclose(*(score['scores'][i] for score, i in zip(scores, order, strict=True)), atol=1e-6)


def test_the_command_line_says_what_is_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr('omnimae.commands.setup_environment', lambda: None)
    monkeypatch.setenv('LOCAL_RANK', '0')
    spec = importlib.util.spec_from_file_location('train', TOOLS / 'train.py')
    train = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(train)
    config = write_config(tmp_path / 'classify.py', CLASSIFY, tmp_path, "load_from = 'weights.pth'\n")

    def configured(*words: str) -> Config:
        args = train.parse_args([str(config), *words])
        cfg = load_run_config(args)
        train.apply_arguments(cfg, args)
        return cfg

    assert (configured().get('resume', False), configured().load_from) == (False, 'weights.pth')
    assert (configured('--resume').get('resume', False), configured('--resume').load_from) == (False, 'weights.pth')
    assert (configured('--resume', 'iter_5.pth').resume, configured('--resume', 'iter_5.pth').load_from) == (
        True, 'iter_5.pth'
    )  # fmt: skip
    assert configured('--resume', 'iter_5.pth', '--resume').load_from == 'iter_5.pth'  # as launchers say it again
    assert configured().work_dir == 'work_dirs/classify'
    assert default_work_dir('configs/omnimae/linear/vit-b_in1k.py') == 'work_dirs/omnimae/linear/vit-b_in1k'
    assert default_work_dir('/a/configs/b/configs/mae/c.py') == 'work_dirs/mae/c'
    assert configured('--work-dir', 'elsewhere').work_dir == 'elsewhere'


def test_slurm_without_a_gpu_is_translated_for_gloo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    if torch.cuda.is_available():
        pytest.skip('MMEngine starts GPU ranks under Slurm itself')
    for name in ('RANK', 'WORLD_SIZE', 'LOCAL_RANK'):
        monkeypatch.setenv(name, '')  # or they would stay
        monkeypatch.delenv(name)
    slurm = {'SLURM_PROCID': '0', 'SLURM_NTASKS': '1', 'SLURM_LOCALID': '0', 'SLURM_NODELIST': 'here'}
    for name, value in {**slurm, 'MASTER_ADDR': '127.0.0.1', 'MASTER_PORT': str(free_port())}.items():
        monkeypatch.setenv(name, value)
    config = write_config(tmp_path / 'classify.py', CLASSIFY, write_data(tmp_path / 'data'))
    cfg = load_config(config, {'launcher': 'slurm', 'find_unused_parameters': True})
    setup_distributed(cfg)
    assert torch.distributed.get_backend() == 'gloo'
    torch.distributed.destroy_process_group()
    assert cfg.model_wrapper_cfg.device_ids is None
    assert cfg.model_wrapper_cfg.find_unused_parameters
