"""Files that cannot be read: their list, and evaluation without them."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from mmengine import dist
from mmengine.dist import all_gather_object, is_main_process
from mmengine.runner import BaseLoop, Runner
from torch.utils.data import DataLoader, Dataset

from omnimae.stopping import StorageAwayError, command_with
from omnimae.structures import Batch

SECONDS = 2.0  # for which files are opened before a training: some 500 photographs of ImageNet with two workers


def append_lines(file: Path, lines: Iterable[str]) -> None:
    """Add lines to a text file. File names in them may be any bytes, which are written unchanged."""
    with file.open('a', encoding='utf-8', errors='surrogateescape') as stream:
        stream.writelines(f'{line}\n' for line in lines)


def list_broken(folder: str | Path, failures: Mapping[str, str]) -> Path:
    """Add new lines "path, tab, reason" to ``broken_files.txt`` in a folder.

    Only the main rank writes. Returns the file, which datasets accept as ``skip``.
    """
    file = Path(folder, 'broken_files.txt')
    if is_main_process() and failures:
        text = file.read_text(encoding='utf-8', errors='surrogateescape') if file.exists() else ''
        listed = {line.split('\t')[0] for line in text.split('\n')}
        new = {path: reason for path, reason in failures.items() if path not in listed}
        append_lines(file, (f'{path}\t{" ".join(reason.split())}' for path, reason in new.items()))
    return file


@contextmanager
def naming_fatal_files(runner: Runner, dataset: Any, key: str) -> Iterator[None]:
    """If a worker of a loader dies (out of memory, a crash in a codec), list and name the file that it was reading.

    Use it around the whole loop: PyTorch raises the error wherever the main process is, not only in the loader.

    Args:
        runner: has the work directory for the list.
        dataset: of the loader.
        key: of the loader in the config.

    Raises:
        RuntimeError: a worker died. The message says how to continue without the file.
    """
    try:
        yield
    except RuntimeError as error:
        message = re.match(r'DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\)(.*)', str(error))
        if message is None:
            raise
        paths = [dataset.being_read(int(process)) for process in message[1].split(', ')]
        file = Path(runner.work_dir, 'broken_files.txt')
        append_lines(file, (f'{path}\ta loader worker died reading it' for path in paths if path is not None))
        raise RuntimeError(
            f'A loader worker died ({message[2].strip(" .")}) while it read {", ".join(map(str, paths))}. If memory '
            f'was short, lower {key}.num_workers. To go on without the file, which is listed now: '
            f'{_command(runner, f"{key}.dataset.sources.NAME.skip={file}")}'
        ) from error


def _command(runner: Runner, *options: str) -> str:
    resume = ['--resume'] if isinstance(runner._train_loop, BaseLoop) else []
    return command_with(*resume, '--cfg-options', *options)


class Readable:
    """The batches of an evaluation loader, numbered, without the samples that cannot be read.

    Loop over them within `watching`. A sample that is left out is logged at once. `finish` counts and lists those
    of all ranks. It refuses them if a metric needs all samples, because a score over fewer samples is another score.

    Args:
        runner: has the log, and the work directory for the list.
        loader: of evaluation samples.
        key: of the loader in the config, such as 'val_dataloader'.
        judge: name of a metric that needs every sample, such as 'ClipAccuracy'; None if some may be left out.

    Attributes:
        failures: (source, path, reason) of each sample of this rank that could not be read.
    """

    def __init__(self, runner: Runner, loader: DataLoader, key: str, judge: str | None) -> None:
        self.runner, self.loader, self.key, self.judge = runner, loader, key, judge
        self.failures: list[tuple[str, str, str]] = []
        self._num_read = 0
        self._away: StorageAwayError | None = None

    def __iter__(self) -> Iterator[tuple[int, Batch]]:
        self.failures, self._num_read, self._away = [], 0, None
        for number, batch in enumerate(self.loader):
            if self._note(batch):
                yield number, batch

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Name the file of a worker that dies. `finish` raises the error of a storage that is away, on all ranks."""
        try:
            with naming_fatal_files(self.runner, self.loader.dataset, self.key):
                yield
        except StorageAwayError as error:
            self._away = error

    def _note(self, batch: Any) -> bool:
        """Log the failures of a batch. Returns whether it has samples."""
        if not isinstance(batch, dict) or 'failures' not in batch:
            return True  # of a dataset of another kind
        for path, reason in batch['failures']:
            self.failures.append((batch.get('source', ''), path, reason))
            self.runner.logger.warning(f'{self.key}: cannot be read: {path} ({reason})')
        self._num_read += len(batch['ids'])
        return bool(batch['ids'])

    def finish(self) -> None:
        """Count and list the samples that could not be read. All ranks call this.

        Raises:
            StorageAwayError: on all ranks, if a storage did not answer.
        """
        self._report(len(self.failures) + self._num_read)

    def open_some(self, seconds: float = SECONDS) -> None:
        """Read samples before a training, for some seconds on each rank: all if they are few, else a random part."""
        begin = time.monotonic()
        sampler = getattr(self.loader.batch_sampler, 'sampler', self.loader.sampler)
        rows = np.random.default_rng(0).permutation([*sampler]).tolist()  # type: ignore[misc]
        opening = DataLoader(
            _Opening(self.loader.dataset),
            batch_size=None,
            sampler=rows,
            num_workers=min(self.loader.num_workers, len(rows)),
            multiprocessing_context=self.loader.multiprocessing_context,
        )
        with self.watching():
            for sample in opening:
                self._note(sample)
                if time.monotonic() - begin > seconds:
                    break
        self._report(len(rows), f' in {time.monotonic() - begin:.1f} s')

    def _report(self, size: int, opened: str = '') -> None:
        raise_together(self._away)
        shares = all_gather_object((self.failures, self._num_read, size))
        failures = [failure for share, _, _ in shares for failure in share]
        tried, size = len(failures) + sum(read for _, read, _ in shares), sum(size for _, _, size in shares)
        if opened:
            of = f'all {size}' if tried >= size else f'{tried} of {size}'
            self.runner.logger.info(f'{self.key}: opened {of} samples before training{opened}.')
        if not failures:
            return
        file = list_broken(self.runner.work_dir, {path: reason for _, path, reason in failures})
        _, path, reason = failures[0]
        found = f'{self.key}: {len(failures)} of {tried} samples cannot be read, first {path} ({reason})'
        found += f'; {file} lists the files.'
        if self.judge is None and len(failures) < tried:
            self.runner.logger.warning(f'{found} They are left out.')
            return
        options = [
            f'{self.key}.dataset.sources.{name}.skip={file}' for name in dict.fromkeys(name for name, *_ in failures)
        ]
        why = f'{self.judge} of the others would be another number' if self.judge else 'Nothing is left'
        raise ValueError(f'{found} {why}. Repair them, or leave them out: {_command(self.runner, *options)}')


def judge_of(metrics: Sequence[Any]) -> str | None:
    """The name of a metric that needs every sample. Others have the attribute ``may_lack_samples = True``."""
    return next((type(metric).__name__ for metric in metrics if not getattr(metric, 'may_lack_samples', False)), None)


class _Opening(Dataset):
    """Whether samples can be read, without the samples."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __getitem__(self, row: int) -> dict[str, Any]:
        sample = self.dataset[row]
        if not isinstance(sample, dict) or 'failures' not in sample:
            return {'failures': [], 'ids': [row]}
        found = {key: sample[key] for key in ('source', 'failures') if key in sample}
        return {**found, 'ids': [row] * ('clips' in sample)}


def raise_together(error: StorageAwayError | None) -> None:
    """Raise an error of any rank on all ranks. All ranks call this at the same place.

    Raises:
        StorageAwayError: any rank has an error.
    """
    met = [x for x in dist.all_gather_object(error and (type(error), message_of(error))) if x]
    if met:
        kind, message = max(met, key=lambda pair: pair[0] is not StorageAwayError)  # a refusal first
        raise error or kind(message)


def message_of(error: StorageAwayError) -> str:
    """The text of an error, without the traceback that a loader's worker adds."""
    return str(error).strip().splitlines()[-1].removeprefix(f'{type(error).__module__}.{type(error).__name__}: ')
