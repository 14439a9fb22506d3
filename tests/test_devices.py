"""The device of a run, what keeps it from a GPU, and how DDP is set up: with a GPU that is only said to be there."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.runner import runner as runner_module
from tiny_run import CLASSIFY, PRETRAIN, build_runner, write_config, write_data
from torch.distributed import HashStore

from omnimae.apis import get_model
from omnimae.config import load_config
from omnimae.engine import AutocastOptimWrapper, choose_device, compat, devices, distributed, setup_distributed


@pytest.fixture(autouse=True)
def _forget(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv('OMNIMAE_DEVICE', raising=False)
    devices._refuse_idle_card.cache_clear()
    yield
    devices._refuse_idle_card.cache_clear()


class Meeting:
    """Stands for GPUs and the process group that the ranks make on them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, gpus: int) -> None:
        self.backend, self.options, self.device = '', {}, None
        monkeypatch.setattr(torch.cuda, 'is_available', lambda: gpus > 0)
        monkeypatch.setattr(torch.cuda, 'device_count', lambda: gpus)
        monkeypatch.setattr(torch.cuda, 'set_device', lambda index: setattr(self, 'device', index))
        monkeypatch.setattr(torch.distributed, 'init_process_group', self._meet)
        monkeypatch.setattr(distributed, 'meet', lambda seconds: (HashStore(), ['here', 'here']))
        monkeypatch.setattr(distributed.heartbeat, 'begin', lambda *_, **options: setattr(self, 'watch', options))
        for name, value in dict(RANK=1, LOCAL_RANK=1, WORLD_SIZE=2, LOCAL_WORLD_SIZE=2).items():
            monkeypatch.setenv(name, str(value))

    def _meet(self, backend: str, **options: Any) -> None:
        self.backend, self.options = backend, options


def configured(tmp_path: Path, text: str = CLASSIFY, options: dict[str, Any] | None = None, more: str = '') -> Config:
    return load_config(
        write_config(tmp_path / 'config.py', text, tmp_path, more), {'launcher': 'pytorch', **(options or {})}
    )


@pytest.mark.parametrize('gpus', [0, 2])
def test_ddp_is_the_same_on_gpus_and_cpus(tmp_path, monkeypatch, gpus):
    meeting = Meeting(monkeypatch, gpus)
    own = dict(device_ids=[1] if gpus else None, type='MMDistributedDataParallel')
    common = dict(broadcast_buffers=False, gradient_as_bucket_view=True, **own)

    cfg = configured(tmp_path)
    setup_distributed(cfg)
    assert cfg.model_wrapper_cfg == dict(find_unused_parameters=False, **common)
    assert meeting.device == (1 if gpus else None)
    assert meeting.backend == ('nccl' if gpus else 'gloo')
    assert meeting.options.get('device_id') == (torch.device('cuda', 1) if gpus else None)

    # a config's own arguments add to those, and none of them is lost
    cfg = configured(tmp_path, more='find_unused_parameters = True\nmodel_wrapper_cfg = dict(static_graph=True)\n')
    setup_distributed(cfg)
    assert cfg.model_wrapper_cfg == dict(find_unused_parameters=True, static_graph=True, **common)

    # separate decoders need no word of the config
    more = "decoder = model.pop('head')\nmodel['head'] = dict(image=decoder, video=decoder)\n"
    cfg = configured(tmp_path, PRETRAIN, more=more)
    setup_distributed(cfg)
    assert cfg.model_wrapper_cfg == dict(find_unused_parameters=True, **common)

    # what is no DDP takes no arguments of DDP
    cfg = configured(tmp_path, options={'model_wrapper_cfg.type': 'MMFullyShardedDataParallel'})
    setup_distributed(cfg)
    assert cfg.model_wrapper_cfg == dict(type='MMFullyShardedDataParallel')


def test_sources_of_other_modalities_use_a_part_of_the_model_each():
    def config(*modalities: tuple[str, ...]) -> Config:
        sources = {
            str(number): dict(modalities={name: {} for name in names}) for number, names in enumerate(modalities)
        }
        head = dict(rgb=dict(type='CrossAttentionHead'), depth=dict(type='CrossAttentionHead'))
        return Config(dict(model=dict(head=head), train_dataloader=dict(dataset=dict(sources=sources))))

    assert not distributed.parts_vary(config(('rgb', 'depth'), ('depth', 'rgb')))
    assert distributed.parts_vary(config(('rgb', 'depth'), ('rgb',)))


@pytest.mark.parametrize('gpus', [0, 2])
@pytest.mark.parametrize('launcher', ['pytorch', 'slurm'])
def test_a_timeout_is_a_number_of_seconds_everywhere(tmp_path, monkeypatch, gpus, launcher):
    meeting = Meeting(monkeypatch, gpus)
    slurm = dict(SLURM_PROCID=1, SLURM_LOCALID=1, SLURM_NTASKS=2, SLURM_NODELIST='here', MASTER_ADDR='127.0.0.1')
    for name, value in slurm.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.delenv('MASTER_PORT', raising=False)
    options = {'launcher': launcher, 'env_cfg.dist_cfg.timeout': 90.5, 'env_cfg.dist_cfg.port': 29511}
    setup_distributed(configured(tmp_path, options=options))
    assert meeting.options['timeout'] == timedelta(seconds=150.5)  # the heartbeat gives up before it
    assert meeting.watch == dict(patience=90.5, silence=60.0)
    assert os.environ.get('MASTER_PORT') == ('29511' if launcher == 'slurm' else None)
    for wrong in ('30min', 0, True):
        with pytest.raises(ValueError, match=rf'dist_cfg\.timeout={wrong!r} is no number of seconds\. Give one'):
            setup_distributed(configured(tmp_path, options={'env_cfg.dist_cfg.timeout': wrong}))
    with pytest.raises(ValueError, match=r"dist_cfg\.timout=5: .*Did you mean 'timeout'"):
        configured(tmp_path, options={'env_cfg.dist_cfg.timout': 5})


def test_a_timeout_reaches_gloo(tmp_path, monkeypatch):
    for name, value in dict(RANK=0, LOCAL_RANK=0, WORLD_SIZE=1, MASTER_ADDR='127.0.0.1', MASTER_PORT=0).items():
        monkeypatch.setenv(name, str(value))
    setup_distributed(configured(tmp_path, options={'env_cfg.dist_cfg.timeout': 77}))
    try:
        group = torch.distributed.distributed_c10d._get_default_group()
        assert group._get_backend(torch.device('cpu')).options._timeout == timedelta(seconds=137)
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize(('ranks', 'local_rank'), [('2', 0), ('2', 1), (None, 1)])  # Slurm does not say how many
def test_more_ranks_than_gpus_are_refused_before_they_meet(tmp_path, monkeypatch, ranks, local_rank):
    meeting = Meeting(monkeypatch, 1)
    monkeypatch.setenv('LOCAL_RANK', str(local_rank))
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '3')
    if ranks is None:
        monkeypatch.delenv('LOCAL_WORLD_SIZE')
    words = (
        r"2 ranks on this machine, and PyTorch sees 1 GPU\(s\) \(CUDA_VISIBLE_DEVICES='3'\)\..*GPUS=1 of dist_train\.sh"
        r'.*--nproc-per-node 1'
    )
    with pytest.raises(ValueError, match=words):
        setup_distributed(configured(tmp_path))
    assert meeting.backend == ''


def test_a_rank_that_slurm_gives_a_gpu_of_its_own_takes_it(tmp_path, monkeypatch):
    meeting = Meeting(monkeypatch, 1)
    monkeypatch.delenv('LOCAL_WORLD_SIZE')
    slurm = dict(SLURM_PROCID=1, SLURM_LOCALID=1, SLURM_NTASKS=2, MASTER_ADDR='127.0.0.1', MASTER_PORT=29500)
    for name, value in {**slurm, 'SLURM_GPUS_PER_TASK': 1}.items():
        monkeypatch.setenv(name, str(value))
    cfg = configured(tmp_path, options={'launcher': 'slurm'})
    setup_distributed(cfg)
    assert (meeting.device, cfg.model_wrapper_cfg.device_ids) == (0, [0])


class Machine:
    """A machine with a GPU that PyTorch does not see."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        (folder / 'gpus' / '0000:01:00.0').mkdir(parents=True)
        self.driver = folder / 'version'
        self.driver.write_text('NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  470.256.02\nGCC version: 12\n')
        monkeypatch.setattr(devices, '_CARDS', ((folder / 'gpus', '*'),))
        monkeypatch.setattr(devices, '_DRIVER', self.driver)
        monkeypatch.setattr(torch.version, 'cuda', '13.0')
        monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
        monkeypatch.setattr(torch.cuda, 'init', self._fail)
        monkeypatch.delenv('CUDA_VISIBLE_DEVICES', raising=False)

    @staticmethod
    def _fail() -> None:
        raise RuntimeError(
            'The NVIDIA driver on your system is too old (found version 11040). Please update your GPU driver by ...'
        )


def test_a_gpu_that_pytorch_cannot_use_is_not_left_idle_in_silence(tmp_path, monkeypatch):
    machine = Machine(monkeypatch, tmp_path)
    words = (
        r'NVIDIA GPU, driver 470\.256\.02, that PyTorch .* cannot use; it is built for CUDA 13\.0: The NVIDIA driver '
        r'on your system is too old \(found version 11040\)\. Update the driver, or .* To compute on the CPU on '
        r"purpose, set CUDA_VISIBLE_DEVICES=''\."
    )
    cfg = configured(tmp_path)
    cfg.launcher = 'none'
    for start in (choose_device, runner_module.get_device, lambda: setup_distributed(cfg), lambda: get_model(cfg)):
        with pytest.raises(RuntimeError, match=words):
            start()
    get_model(cfg, device='cpu')

    for value in ('', '-1', 'NoDevFiles'):
        monkeypatch.setenv('CUDA_VISIBLE_DEVICES', value)
        assert choose_device() == 'cpu'
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '7')
    with pytest.raises(RuntimeError, match="CUDA_VISIBLE_DEVICES='7' must name a GPU that is there"):
        choose_device()
    monkeypatch.setenv('OMNIMAE_DEVICE', 'cpu')
    assert choose_device() == 'cpu'

    monkeypatch.delenv('OMNIMAE_DEVICE')
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '0')
    monkeypatch.setattr(torch.version, 'cuda', None)
    machine.driver.unlink()
    devices._refuse_idle_card.cache_clear()
    with pytest.raises(RuntimeError, match=r'driver unknown, .* is built without CUDA\. Install a build with CUDA'):
        choose_device()


@pytest.mark.parametrize(('code', 'has_card'), [(0, True), (9, False)])
def test_nvidia_smi_is_asked_where_the_kernel_says_nothing(tmp_path, monkeypatch, code, has_card):
    monkeypatch.setattr(devices, '_CARDS', ())
    command = tmp_path / 'nvidia-smi'
    command.write_text(f'#!/bin/sh\nexit {code}\n')
    command.chmod(0o755)
    monkeypatch.setenv('PATH', str(tmp_path))
    assert devices._has_card() == has_card
    monkeypatch.setenv('PATH', '')
    assert not devices._has_card()


def test_runner_and_python_take_the_same_device(tmp_path, monkeypatch):
    monkeypatch.setattr('mmengine.device.utils.DEVICE', 'mps')  # what MMEngine would take on Apple's
    assert runner_module.get_device() == choose_device() == 'cpu'
    monkeypatch.setenv('OMNIMAE_DEVICE', 'meta')
    runner = build_runner(
        write_config(tmp_path / 'classify.py', CLASSIFY, write_data(tmp_path / 'data')), tmp_path / 'work'
    )
    assert next(runner.model.parameters()).device.type == 'meta'
    assert next(get_model(runner.cfg).parameters()).device.type == 'meta'


@pytest.mark.parametrize('name', ['gpu', 'cuda:1'])
def test_the_environment_names_a_kind_of_device(monkeypatch, name):
    monkeypatch.setenv('OMNIMAE_DEVICE', name)
    with pytest.raises(ValueError, match=rf"OMNIMAE_DEVICE='{name}' is no kind of device\. Choose 'cpu', 'cuda'"):
        choose_device()


def test_a_checkpoint_is_read_into_the_memory_of_the_cpu(tmp_path):
    torch.save({'curve': torch.ones(3, dtype=torch.float64)}, tmp_path / 'a.pth')
    checkpoint = compat.load_from_plain(str(tmp_path / 'a.pth'), map_location='meta')
    assert checkpoint['state_dict']['curve'].device.type == 'cpu'


def test_a_gpu_without_bfloat16_is_told_of_float16(monkeypatch):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'is_bf16_supported', lambda including_emulation=True: including_emulation)
    monkeypatch.setattr(torch.cuda, 'get_device_name', lambda: 'Tesla V100')
    with pytest.raises(
        ValueError, match=r"dtype='bfloat16', which Tesla V100 lacks\. Set optim_wrapper\.dtype='float16'"
    ):
        AutocastOptimWrapper(optimizer, dtype='bfloat16')
    AutocastOptimWrapper(optimizer)
