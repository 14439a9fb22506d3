"""Checkpoint files: read without running code, written whole or not at all, at a path or an address."""

from __future__ import annotations

import argparse
import difflib
import hashlib
import os
import pickle
import re
import secrets
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import safetensors.torch
import torch
from mmengine.dist import barrier, get_rank
from mmengine.fileio import exists
from mmengine.runner.checkpoint import (
    _get_mmengine_home,
    get_deprecated_model_names,
    get_external_models,
    get_mmcls_models,
    get_torchvision_models,
)
from safetensors import SafetensorError, safe_open
from torch import Tensor

from omnimae.registry import FUNCTIONS
from omnimae.structures import VARIABLES

WRAPPERS = ('state_dict', 'model', 'module', 'model_state')  # keys under which checkpoints keep the weights

# Schemes of MMEngine's names of published weights -> their addresses.
CATALOGUES: dict[str, Callable[[], dict[str, str]]] = {
    **dict.fromkeys(('torchvision', 'modelzoo'), get_torchvision_models),
    **dict.fromkeys(('open-mmlab', 'openmmlab'), get_external_models),
    'mmcls': get_mmcls_models,
}

_OTHER_REPOSITORIES = ('hf://datasets/', 'hf://spaces/', 'hf://buckets/')  # fsspec reads them


def read_file(path: str | os.PathLike, *, mmap: bool = False) -> dict[str, Any]:
    """Read all of a checkpoint on the CPU; of .safetensors as {'state_dict': ..., 'meta': ...}.

    Args:
        path: .safetensors or any file of ``torch.save``, or the address of one; or the folder of a run.
        mmap: map the tensors from the file, which then has to stay. Zipped files of ``torch.save`` alone can be mapped.

    Raises:
        ValueError: no such file, not a checkpoint, or one that holds more than tensors and plain values. Such a file
            could run code while it is read.
    """
    path = path_of(path)
    with local_file(path) as local:
        if not os.path.isfile(local):
            raise ValueError(f'{path}: no such checkpoint file. Give a file, an address, or the folder of a training.')
        if local.endswith('.safetensors') or path.endswith('.safetensors'):
            return _read_safetensors(local, path)
        return _read_pickle(local, path, mmap)


def path_of(path: str | os.PathLike) -> str:
    """Path or address of a checkpoint. In the folder of a run, which has a config, `find_weights` chooses.

    Raises:
        ValueError: another folder, or a config.
    """
    path = str(path)
    if path.endswith('.py'):
        raise ValueError(f'{path}: a config is no checkpoint. Give the config first, and then the checkpoint.')
    folder = Path(path).expanduser()
    if not folder.is_dir():
        return path
    found = find_weights(folder) if any(folder.glob('*.py')) else None
    if found is None and is_run(folder):
        raise ValueError(
            f'{path}: the run of this folder has not saved a checkpoint yet. Wait for one, or give a file of weights.'
        )
    if found is None:
        held = sorted(str(x) for x in folder.iterdir() if x.suffix in ('.pth', '.pt', '.safetensors'))
        raise ValueError(
            f'{path}: a folder is no checkpoint, unless it is of a run, with a config (.py). Give a file, such as '
            f'{", ".join(held[:3]) or "x.pth"}.'
        )
    return found


def is_run(folder: Path) -> bool:
    """Whether a training has begun in a folder: it has a config, and a log in a folder of its time."""
    return any(folder.glob('*.py')) and any(folder.glob('*/*.log'))


def find_weights(folder: str | os.PathLike) -> str | None:
    """Find the weights of a run in its folder: the best ones if the run kept them, else the last."""
    exports = sorted(Path(folder).glob('*.safetensors'), key=_quality)
    return str(exports[-1]) if exports else find_latest_checkpoint(str(folder))


def _quality(path: Path) -> tuple[bool, int, bool]:
    """Best before last, late before early, averaged before raw: as they were validated."""
    numbers = re.findall(r'\d+', path.stem)
    return path.name.startswith('best_'), int(numbers[-1]) if numbers else -1, path.stem.endswith('_ema')


def find_latest_checkpoint(work_dir: str) -> str | None:
    """The checkpoint that ``last_checkpoint`` names, or else the newest one in the folder. None if there is none.

    MMEngine writes ``last_checkpoint`` in place, so it may be empty after a kill. It stores the path as it was given,
    which is wrong from another folder or if the work directory was moved. Not mended in 0.11.0rc0.
    """
    folder = Path(work_dir)
    named = folder / 'last_checkpoint'
    if named.exists() and (text := named.read_text().strip()):
        for path in (str(folder / Path(text).name), text):
            if os.path.exists(path) or ('://' in path and exists(path)):
                return path
    whole = [path for path in folder.glob('*.pth') if not path.name.startswith('best_')]
    return str(max(whole, key=lambda path: path.stat().st_mtime)) if whole else None


def unwrap(content: Mapping) -> dict[str, Any]:
    """Find the state dict within a checkpoint: under one of ``WRAPPERS``, or the whole of it.

    Names are those without the prefixes of torch.compile and DistributedDataParallel.
    """
    state_dict = next((content[key] for key in WRAPPERS if isinstance(content.get(key), Mapping)), content)
    return {str(key).replace('_orig_mod.', '').removeprefix('module.'): value for key, value in state_dict.items()}


@contextmanager
def local_file(path: str) -> Iterator[str]:
    """Give a local path for a path or an address. A copy of http(s) or a hub stays; one of another storage does not.

    ``hf://ORG/NAME[@REVISION]/FILE`` is a file of a model on Hugging Face, without FILE its model.safetensors.
    """
    path = os.path.expanduser(path)
    if path.partition('://')[0] in CATALOGUES:
        path = _address(path)
    with ExitStack() as fetching:
        if path.startswith(('http://', 'https://')):
            path = _downloaded(path)
        elif path.startswith('hf://') and not path.startswith(_OTHER_REPOSITORIES):
            path = _from_hub(path)
        elif '://' in path:
            try:
                path = str(fetching.enter_context(FUNCTIONS.get('find_backend')(path).get_local_path(path)))
            except (OSError, ImportError) as error:
                raise ValueError(
                    f'{path}: cannot be fetched ({error}). Check the address, and its credentials.'
                ) from error
        yield path


def _address(path: str) -> str:
    """Look up MMEngine's names of published weights, such as ``torchvision://vit_b_16``."""
    scheme, _, name = path.partition('://')
    addresses = CATALOGUES[scheme]()
    name = get_deprecated_model_names().get(name, name) if scheme.startswith('open') else name
    if name not in addresses:
        near = difflib.get_close_matches(name, addresses, 1)
        raise ValueError(f'{path}: {scheme} has no weights of that name.' + (f' Near is {near[0]}.' if near else ''))
    address = addresses[name]
    return address if '://' in address else os.path.join(_get_mmengine_home(), address)


def _downloaded(address: str) -> str:
    """Download a file, once, into torch's folder for checkpoints -> its path."""
    parts = urlparse(address)
    folder = os.path.join(torch.hub.get_dir(), 'checkpoints')
    # Hugging Face calls every file model.safetensors; the address tells them apart
    stem, suffix = os.path.splitext(os.path.basename(parts.path))
    target = os.path.join(folder, f'{stem}-{hashlib.sha256(address.encode()).hexdigest()[:8]}{suffix}')
    if get_rank() != 0:
        barrier()  # the first process downloads; only those on machines with another disk still have to
    if not os.path.exists(target):
        os.makedirs(folder, exist_ok=True)
        try:
            torch.hub.download_url_to_file(address, target, progress=False)
        except OSError as error:
            variable = VARIABLES.get(address)
            how = f'{variable}=FILE in front of the command' if variable else 'its path in place of the address'
            raise ValueError(
                f'{address}: cannot be downloaded ({error}). Download it elsewhere, and give {how}. Or save it as '
                f'{target}.'
            ) from error
    if get_rank() == 0:
        barrier()
    return target


def _from_hub(address: str) -> str:
    """Download a file of a model on Hugging Face into its cache -> its path."""
    organisation, name, file, *_ = [*address.removeprefix('hf://').split('/', 2), '', '']
    name, _, revision = name.partition('@')
    try:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import EntryNotFoundError
    except ImportError as error:
        raise ValueError(
            f'{address}: hf:// needs huggingface_hub. Run pip install huggingface_hub, or download the file and give '
            'its path.'
        ) from error
    try:
        return hf_hub_download(f'{organisation}/{name}', file or 'model.safetensors', revision=revision or None)
    except (OSError, ValueError, EntryNotFoundError) as error:
        raise ValueError(
            f'{address}: cannot be downloaded ({first_line(error)}). Check hf://ORG/NAME/FILE and the access to it '
            '(hf auth login), or download the file and give its path.'
        ) from error


def _read_safetensors(local: str, path: str) -> dict[str, Any]:
    try:
        with safe_open(local, framework='pt') as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            return {'state_dict': tensors, 'meta': dict(file.metadata() or {})}
    except SafetensorError as error:
        raise ValueError(f'{path}: not a readable .safetensors file ({error}). Truncated? Copy it again.') from error


def _read_pickle(local: str, path: str, mmap: bool) -> dict[str, Any]:
    try:
        # the trainers of MAE and VideoMAE store their command line, a plain container of values
        with torch.serialization.safe_globals([argparse.Namespace]), open(local, 'rb') as file:
            is_zip, is_pickle = zipfile.is_zipfile(local), file.read(1) == b'\x80'
            content = torch.load(local, map_location='cpu', weights_only=True, mmap=mmap and is_zip)
    except pickle.UnpicklingError as error:
        if not (is_zip or is_pickle):
            raise ValueError(f'{path}: not a checkpoint, neither of torch.save nor .safetensors.') from error
        raise ValueError(
            f'{path}: refused, because it holds more than tensors and plain values and could run code when read '
            f'({first_line(error)}). If you trust it, save its state dict alone with torch.save and give that file.'
        ) from error
    except Exception as error:  # whatever broken bytes lead torch to
        raise ValueError(f'{path}: no readable checkpoint ({first_line(error)}). Truncated? Copy it again.') from error
    if not isinstance(content, dict):
        raise ValueError(f'{path}: holds a {type(content).__name__}, expected a dict of tensors by name.')
    return content


def first_line(error: Exception) -> str:
    """Shorten what an exception says."""
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


@contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
    """Give a temporary path to write to; afterwards that file, whole and on the disk, replaces ``path``.

    Raises:
        OSError: it could not be written. The file at ``path`` is unchanged.
    """
    path = Path(path)
    unfinished = path.with_name(f'{path.name}.{secrets.token_hex(4)}.tmp')  # nobody else's
    try:
        unfinished.touch()
        mode = unfinished.stat().st_mode  # as the umask says; safetensors makes files readable by their owner alone
        yield unfinished
        if unfinished.stat().st_mode != mode:
            unfinished.chmod(mode)
        _to_disk(unfinished)
        os.replace(unfinished, path)
        _to_disk(path.parent)  # the new name, too
    except (OSError, RuntimeError) as error:  # torch's writer turns a full disk into a RuntimeError
        reason = str(error.strerror if isinstance(error, OSError) else error).splitlines()[0]
        raise OSError(
            f'{path} could not be written: {reason}. The file that was there is unchanged. Check that the disk has '
            'space and that the folder is writable.'
        ) from error
    finally:
        with suppress(OSError):
            unfinished.unlink()


def _to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def save_file(state_dict: Mapping[str, Tensor], path: str | os.PathLike, meta: Mapping[str, str]) -> None:
    """Write weights and metadata, as .safetensors or else as a file of torch, never half a file."""
    path = Path(path)
    if not path.parent.is_dir():
        raise ValueError(f'{path}: the folder {path.parent} does not exist. Create it first.')
    with replacing(path) as unfinished:
        if path.suffix == '.safetensors':
            # the format wants every tensor contiguous and in storage of its own
            whole = {key: x.detach().clone(memory_format=torch.contiguous_format) for key, x in state_dict.items()}
            safetensors.torch.save_file(whole, unfinished, dict(meta))
        else:
            torch.save(dict(state_dict=dict(state_dict), meta=dict(meta)), unfinished)
