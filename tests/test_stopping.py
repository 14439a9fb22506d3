"""Stopping where it hurts: in validations, between ranks, without a launcher, with checkpoints elsewhere."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.fileio import BaseStorageBackend, register_backend
from mmengine.hooks import Hook
from mmengine.runner import Runner
from programs import TOOLS, environment
from test_faults import with_validation
from test_resume import same
from tiny_run import CLASSIFY, build_runner, hook_of, write_config, write_data
from torch.utils.data import DataLoader, Dataset

from omnimae.engine import EarlyStoppingHook
from omnimae.engine.compat import find_latest_checkpoint, load_from_plain, wait_until_written
from omnimae.engine.preemption import _SurvivingWorker
from omnimae.registry import HOOKS
from omnimae.stopping import PREEMPTED


@pytest.fixture(scope='module')
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp('data'), num_movies=1)


@pytest.fixture
def config(data: Path, tmp_path: Path) -> Path:
    return with_validation(write_config(tmp_path / 'classify.py', CLASSIFY, data))


@HOOKS.register_module()
class SlowValidationHook(Hook):
    """Is signalled in the validation behind an epoch, which takes its time; notes how many validations ended."""

    def __init__(self, epoch: int, number: int = signal.SIGTERM) -> None:
        self.epoch, self.number, self.ended = epoch, number, 0

    def before_val_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        if runner.epoch == self.epoch and batch_idx == 1:
            os.kill(os.getpid(), self.number)
            time.sleep(100)

    def after_val_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        self.ended += 1


def test_a_validation_ends_at_once_and_is_done_again(config: Path, tmp_path: Path):
    """With the weights of the training in the checkpoint, not the average that is validated."""
    torch.set_num_threads(1)
    ema = dict(type='EMAHook', momentum=0.1)

    def build(name: str, epoch: int, **more: Any) -> Runner:
        hooks = [ema, dict(type='SlowValidationHook', epoch=epoch)]
        checkpoint = {'default_hooks.checkpoint.save_best': 'accuracy/top1'}
        return build_runner(config, tmp_path / name, {'custom_hooks': hooks, **checkpoint, **more})

    begin = time.monotonic()
    with pytest.raises(SystemExit) as end:
        build('parts', 1).train()
    assert end.value.code == PREEMPTED
    assert time.monotonic() - begin < 90
    saved = torch.load(tmp_path / 'parts' / 'preempted.pth', weights_only=True)['meta']
    assert (saved['epoch'], saved['iter']) == (1, 3)
    resumed, whole = build('parts', 0, resume=True), build('whole', 0)
    resumed.train()
    whole.train()
    assert hook_of(resumed, SlowValidationHook).ended == hook_of(whole, SlowValidationHook).ended == 2
    ends = [torch.load(tmp_path / name / 'epoch_2.pth', weights_only=True) for name in ('parts', 'whole')]
    for key in ('state_dict', 'ema_state_dict', 'optimizer'):
        assert same(ends[0][key], ends[1][key]), key
    [log] = (tmp_path / 'whole').glob('*/*.log')
    [*lines] = re.findall(r'Epoch\(val\) .*', log.read_text())
    assert len(lines) == 2
    assert not any('validat' in line for line in lines)  # 'validated: 2'


def test_a_validation_alone_needs_no_training(config: Path, tmp_path: Path):
    runner = build_runner(config, tmp_path / 'work', {'default_hooks.checkpoint.save_best': 'accuracy/top1'})
    assert 'accuracy/top1' in runner.val()
    assert not [*(tmp_path / 'work').glob('*.pth')]


PROBE = """
import os
import time
from pathlib import Path
from mmengine.dist import get_rank
from omnimae.data.datasets import ImageDataset
from omnimae.engine import PreemptionHook
from omnimae.registry import DATASETS

PreemptionHook.PATIENCE = 1.0


@DATASETS.register_module()
class StuckImages(ImageDataset):
    # the storage of rank 1 does not answer any more, from the third step on, or in the validation, which reads its ten
    # files a second time
    trained = validated = 0

    def read(self, path, rng):
        StuckImages.trained += rng is not None
        StuckImages.validated += rng is None
        is_over = StuckImages.trained > 8 if os.environ['STUCK'] == 'train' else StuckImages.validated > 14
        if get_rank() == 1 and is_over:
            Path(os.environ['NOTE']).write_text(str(os.getpid()))
            while True:
                time.sleep(0.05)
        return super().read(path, rng)
"""


def stuck_ranks(data: Path, tmp_path: Path, where: str) -> subprocess.Popen:
    """Two ranks, of which one waits for data and the other for it."""
    (tmp_path / 'probe.py').write_text(PROBE)
    more = "\ncustom_imports = dict(imports=['probe'])\n"
    for loader in ('train', 'test'):
        more += f"{loader}_dataloader['dataset']['sources']['pictures']['type'] = 'StuckImages'\n"
    config = with_validation(write_config(tmp_path / 'classify.py', CLASSIFY, data, more))
    options = ['--work-dir', tmp_path / 'work', '--cfg-options', 'train_dataloader.batch_size=4']
    path = f'{tmp_path}:{TOOLS.parent}'
    env = environment(STUCK=where, NOTE=str(tmp_path / 'stuck'), PYTHONPATH=path)
    command = ['bash', TOOLS / 'dist_train.sh', config, '2', *options]
    with (tmp_path / 'output.txt').open('w') as output:
        process = subprocess.Popen(command, env=env, stdout=output, stderr=output)
    while not (tmp_path / 'stuck').exists() or not (tmp_path / 'stuck').read_text():
        assert process.poll() is None, (tmp_path / 'output.txt').read_text()[-3000:]
        time.sleep(0.05)
    time.sleep(0.5)  # the other rank is in a collective
    return process


def saved_by(process: subprocess.Popen, tmp_path: Path, seconds: float) -> tuple[int, int]:
    """Epoch and step that are saved within so many seconds."""
    end = time.monotonic() + seconds
    note = tmp_path / 'work' / 'last_checkpoint'
    while not (note.exists() and note.read_text().endswith('preempted.pth')):
        assert time.monotonic() < end, (tmp_path / 'output.txt').read_text()[-3000:]
        time.sleep(0.1)
    meta = torch.load(tmp_path / 'work' / 'preempted.pth', weights_only=True)['meta']
    return meta['epoch'], meta['iter']


@pytest.mark.slow
def test_ranks_save_where_one_waits_for_data_and_the_other_for_it(data: Path, tmp_path: Path):
    """Only the one that waits is signalled; the main one learns of it when the connection is gone."""
    process = stuck_ranks(data, tmp_path, 'train')
    os.kill(int((tmp_path / 'stuck').read_text()), signal.SIGUSR1)
    assert process.wait(timeout=60) == PREEMPTED, (tmp_path / 'output.txt').read_text()[-3000:]
    assert saved_by(process, tmp_path, 1) == (0, 2)


@pytest.mark.slow
@pytest.mark.parametrize(('where', 'number', 'place'), [('train', 9, (0, 2)), ('val', 9, (1, 3)), ('val', 15, (1, 3))])
def test_ranks_save_when_their_launcher_is_killed(data: Path, tmp_path: Path, where: str, number: int, place: tuple):
    """Also by SIGKILL, after which they trained on."""
    process = stuck_ranks(data, tmp_path, where)
    ranks = Path(f'/proc/{process.pid}/task/{process.pid}/children').read_text().split()
    process.send_signal(number)
    process.wait(timeout=60)
    assert saved_by(process, tmp_path, 60) == place
    end = time.monotonic() + 30
    while any(Path('/proc', rank).exists() for rank in ranks) and time.monotonic() < end:
        time.sleep(0.1)
    assert not any(Path('/proc', rank).exists() for rank in ranks)


def test_ranks_end_with_their_launcher(tmp_path: Path):
    """SIGKILL of torchrun; a rank that does nothing gets SIGTERM, and saves."""
    program = tmp_path / 'rank.py'
    program.write_text(
        'import os, signal, sys, time\n'
        'from pathlib import Path\n'
        'from omnimae.stopping import follow_launcher\n'
        'follow_launcher()\n'
        f'signal.signal(15, lambda *_: (Path({str(tmp_path / "saved")!r}).touch(), sys.exit(75)))\n'
        f'Path({str(tmp_path / "ready")!r}).write_text(str(os.getpid()))\n'
        'time.sleep(60)\n'
    )
    command = ['bash', '-c', f'{sys.executable} {program} & wait']
    process = subprocess.Popen(command, env=environment(TORCHELASTIC_RUN_ID='none'))
    while not (tmp_path / 'ready').exists() or not (tmp_path / 'ready').read_text():
        time.sleep(0.02)
    process.kill()
    process.wait()
    end = time.monotonic() + 60
    while not (tmp_path / 'saved').exists():
        assert time.monotonic() < end
        time.sleep(0.02)


# ---------------------------------------------------------------------------------------------------------------------
# Checkpoints elsewhere


class ElsewhereBackend(BaseStorageBackend):
    """A storage of its own addresses."""

    root: Path

    def _file(self, path: str) -> Path:
        return self.root / path.split('://')[1]

    def get(self, path: str) -> bytes:
        return self._file(path).read_bytes()

    def get_text(self, path: str, encoding: str = 'utf-8') -> str:
        return self._file(path).read_text(encoding)

    @contextmanager
    def get_local_path(self, path: str) -> Iterator[str]:
        yield str(self._file(path))

    def put(self, content: bytes, path: str) -> None:
        self._file(path).parent.mkdir(parents=True, exist_ok=True)
        self._file(path).write_bytes(content)

    def exists(self, path: str) -> bool:
        return self._file(path).exists()

    def isfile(self, path: str) -> bool:
        return self._file(path).is_file()

    def isdir(self, path: str) -> bool:
        return self._file(path).is_dir()

    def remove(self, path: str) -> None:
        self._file(path).unlink()

    def join_path(self, path: str, *parts: str) -> str:
        return '/'.join([path, *parts])


register_backend('elsewhere', ElsewhereBackend, prefixes='elsewhere', force=True)


@pytest.mark.parametrize('is_remote', [False, True])
def test_checkpoints_elsewhere_are_found_again(config: Path, tmp_path: Path, is_remote: bool):
    """Also the one by time and that of a preemption, which a machine that is gone would take along."""
    ElsewhereBackend.root = tmp_path / 'bucket'
    out = 'elsewhere://runs' if is_remote else str(tmp_path / 'bucket' / 'runs')
    there, work = tmp_path / 'bucket' / 'runs' / 'work', tmp_path / 'work'
    hook = dict(type='CheckpointHook', out_dir=out, minutes=0.0, max_keep_ckpts=1, save_best='accuracy/top1')
    options: dict = {'default_hooks.checkpoint': hook}
    stop = dict(type='SignalHook', number=signal.SIGINT, step=4)
    with pytest.raises(KeyboardInterrupt):
        build_runner(config, work, options | {'custom_hooks': [stop, stop]}).train()
    wait_until_written()
    assert find_latest_checkpoint(str(work)) == f'{out}/work/timed.pth'
    stop['step'] = 4
    with pytest.raises(SystemExit):
        build_runner(config, work, options | {'custom_hooks': [stop], 'resume': True}).train()
    assert find_latest_checkpoint(str(work)) == f'{out}/work/preempted.pth'
    runner = build_runner(config, work, options | {'resume': True})
    runner.train()
    assert runner.iter == 6
    assert {path.name for path in there.iterdir() if 'best' not in path.name} == {'epoch_2.pth', 'preempted.pth'}
    assert len([*there.glob('best_*')]) == 1
    assert find_latest_checkpoint(str(work)) == f'{out}/work/epoch_2.pth'


def test_what_a_checkpoint_says_of_itself_is_not_run(tmp_path: Path):
    """MMEngine's Runner runs `meta.config` when it resumes."""
    torch.save({'state_dict': {}, 'meta': {'config': 'import os', 'epoch': 1}}, tmp_path / 'a.pth')
    assert load_from_plain(str(tmp_path / 'a.pth'))['meta'] == {'epoch': 1}


# ---------------------------------------------------------------------------------------------------------------------
# Stopping early


@HOOKS.register_module()
class ScoresHook(Hook):
    """Gives the validations these scores."""

    priority = 'VERY_HIGH'

    def __init__(self, scores: list[float]) -> None:
        self.scores = scores

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float]) -> None:
        metrics['accuracy/top1'] = self.scores[runner.epoch - 1]


def test_early_stopping_goes_on_counting_after_a_resume(config: Path, tmp_path: Path):
    scores = [50.0, 60.0, 55.0, 55.0, 55.0, 55.0]

    def run(name: str, patience: int = 3, max_epochs: int = 6, **more: Any) -> Runner:
        stopping = dict(type='EarlyStoppingHook', monitor='accuracy/top1', patience=patience)
        hooks = [dict(type='ScoresHook', scores=scores), stopping]
        best = {'default_hooks.checkpoint.save_best': 'accuracy/top1'}
        options = {'custom_hooks': hooks, 'train_cfg.max_epochs': max_epochs, **best, **more}
        runner = build_runner(config, tmp_path / name, options)
        runner.train()
        return runner

    run('work', max_epochs=4)  # two validations were no better
    resumed = run('work', resume=True)
    assert resumed.epoch == 5
    assert (hook_of(resumed, EarlyStoppingHook).best_score, hook_of(resumed, EarlyStoppingHook).wait_count) == (60, 3)
    assert run('work', resume=True).epoch == 5  # it has stopped, and does not train on
    assert run('work', resume=True, patience=9).epoch == 6


# ---------------------------------------------------------------------------------------------------------------------
# What is refused before training


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'default_hooks.checkpoint.save_best': 'acuracy/top1'}, r"save_best='acuracy/top1' is no score of the valida"
         r"tion\. Did you mean 'accuracy/top1'"),
        ({'default_hooks.checkpoint.save_best': 'knn/top', 'default_hooks.checkpoint.rule': 'greater'},
         r"save_best='knn/top' is no score .* It has accuracy/mean_class, accuracy/top1\."),
        ({'custom_hooks': [dict(type='EarlyStoppingHook', monitor='accuracy/top5')]},
         r"monitor of EarlyStoppingHook='accuracy/top5' is no score"),
        ({'default_hooks.checkpoint.save_best': 'accuracy/top1', 'val_cfg': None, 'val_dataloader': None,
          'val_evaluator': None}, r"save_best='accuracy/top1' is a score of validations, and this run has none"),
        ({'train_cfg.val_interval': 0}, r'train_cfg\.val_interval=0 is not positive\. Give the epochs between'),
        ({'default_hooks.plain_checkpoint': None}, r'default_hooks\.plain_checkpoint=None: without'),
        ({'train_cfg': dict(_delete_=True, type='IterBasedTrainLoop', max_iters=3)},
         r"train_cfg\.type='IterBasedTrainLoop': this loop of MMEngine .* Set train_cfg=dict\(type='EpochTrainLoop'"),
        ({'train_cfg.type': 'EpochBasedTrainLoop'}, r"train_cfg\.type='EpochBasedTrainLoop': this loop of MMEngine"),
        ({'train_cfg': dict(_delete_=True, by_epoch=False, max_iters=3)}, r'train_cfg=\{.*\}: this loop of MMEngine'),
    ],
)  # fmt: skip
def test_what_cannot_work_is_refused_by_name(config: Path, tmp_path: Path, options: dict, message: str):
    with pytest.raises(ValueError, match=message):
        build_runner(config, tmp_path / 'work', options).train()


OWN = ('step_seed', 'throughput', 'head_size', 'labels', 'broken_files', 'resume', 'export', 'preemption')
OF_MMENGINE = ('runtime_info', 'timer', 'sampler_seed', 'logger', 'param_scheduler', 'checkpoint')


@pytest.mark.parametrize('names', [OWN, OF_MMENGINE, ('timer',)], ids=len)
def test_hooks_can_be_left_out(config: Path, tmp_path: Path, names: tuple[str, ...]):
    options = {f'default_hooks.{name}': None for name in names}
    runner = build_runner(config, tmp_path / 'work', options)
    runner.train()
    assert runner.iter == 6
    present = {type(hook).__name__.lower() for hook in runner.hooks}
    assert not {f'{name.replace("_", "")}hook' for name in names} & present


def test_schedules_of_mmengine_resume_in_an_epoch(config: Path, tmp_path: Path):
    schedules = [
        dict(type='MultiStepLR', by_epoch=True, milestones=[1], gamma=0.1),
        dict(type='CosineAnnealingMomentum', by_epoch=False, eta_min=0.5, T_max=6),
        dict(type='ReduceOnPlateauLR', monitor='accuracy/top1', patience=0, threshold=1000.0),
    ]
    options = {'param_scheduler': schedules}
    whole = build_runner(config, tmp_path / 'whole', options)
    whole.train()
    stop = dict(type='SignalHook', number=signal.SIGTERM, step=3)
    with pytest.raises(SystemExit):
        build_runner(config, tmp_path / 'parts', options | {'custom_hooks': [stop]}).train()
    resumed = build_runner(config, tmp_path / 'parts', options | {'resume': True})
    resumed.train()
    assert same(dict(resumed.model.state_dict()), dict(whole.model.state_dict()))
    rates = [[group['lr'] for group in runner.optim_wrapper.optimizer.param_groups] for runner in (whole, resumed)]
    assert rates[0] == rates[1]


class Handing(Dataset):
    """What `multiprocessing.resource_sharer` does in a worker whose parent is gone."""

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> int:
        sys.excepthook(ConnectionResetError, ConnectionResetError(), None)
        return os.getpid()


def test_a_worker_prints_no_traceback_of_a_parent_that_ends(capfd: pytest.CaptureFixture):
    loader = DataLoader(Handing(), num_workers=1, worker_init_fn=_SurvivingWorker(1.0, None))
    assert next(iter(loader)).item() != os.getpid()
    assert 'ConnectionResetError' not in capfd.readouterr().err
