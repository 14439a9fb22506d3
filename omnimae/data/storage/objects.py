"""Object stores that fsspec reads: S3, Google Cloud, Azure, Hugging Face and others."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from tempfile import NamedTemporaryFile
from typing import Any, TypeVar

from omnimae.data.storage.backends import RangeBackend
from omnimae.data.storage.patience import AWAY, timeout
from omnimae.stopping import StorageRefusedError

T = TypeVar('T')

# Prefix of the address -> the package that reads it, besides fsspec.
PACKAGES = {
    **dict.fromkeys(('s3', 's3a'), 's3fs'),
    **dict.fromkeys(('gs', 'gcs'), 'gcsfs'),
    **dict.fromkeys(('az', 'abfs', 'abfss', 'adl'), 'adlfs'),
    **dict.fromkeys(('hf',), 'huggingface_hub'),
    **dict.fromkeys(('memory',), 'fsspec'),
}
# Names of errors of the libraries below fsspec: credentials are missing or wrong.
REFUSALS = ('NoCredentials', 'PartialCredentials', 'RefreshError', 'DefaultCredentials', 'TokenRetrieval')
MISTAKES = (TypeError, ValueError, AttributeError, NotImplementedError, ImportError)  # in arguments or installations


class FsspecBackend(RangeBackend, name='fsspec', prefixes=PACKAGES):
    """Files of every storage that fsspec reads, by their addresses, such as ``s3://BUCKET/NAME``.

    Credentials are those of the storage's own tools. For S3 these are ``AWS_ACCESS_KEY_ID``, ``AWS_PROFILE``, the role
    of the machine, and ``AWS_ENDPOINT_URL`` for a server that is not Amazon's. Every process has its own connections,
    because those of its parent do not work after a fork.

    Args:
        options: for the file system of fsspec, such as ``endpoint_url`` or ``anon=True`` for S3.
    """

    is_thread_safe = True

    def __init__(self, **options: Any) -> None:
        self.options = options
        self._stores: dict[tuple[int, str], Any] = {}  # by process and prefix of the address; threads share them
        self._locks: dict[int, threading.Lock] = {}  # by process: a thread of the parent may hold one

    def __reduce__(self) -> tuple:
        return partial(FsspecBackend, **self.options), ()

    def get(self, filepath: str) -> bytes:
        """The whole file."""
        return self._ask(filepath, lambda store: store.cat_file(filepath))

    def get_range(self, filepath: str, start: int = 0, stop: int | None = None) -> bytes:
        """The bytes [start, stop) of a file, or fewer if it ends before."""
        if start == stop:
            return b''
        try:
            return self._ask(filepath, lambda store: store.cat_file(filepath, start=start, end=stop))
        except OSError:
            if start < self._ask(filepath, lambda store: store.size(filepath)):
                raise
            return b''  # beyond the end

    def put(self, obj: bytes, filepath: str) -> None:
        """Write a file. Object stores show it when it is complete."""
        self._ask(filepath, lambda store: store.pipe_file(filepath, bytes(obj)))

    def put_text(self, obj: str, filepath: str, encoding: str = 'utf-8') -> None:
        """Write a text."""
        self.put(obj.encode(encoding), filepath)

    def exists(self, filepath: str) -> bool:
        """Whether the file or folder exists."""
        return self._kind(filepath) is not None

    def isdir(self, filepath: str) -> bool:
        """Whether there are files below an address."""
        return self._kind(filepath) == 'directory'

    def isfile(self, filepath: str) -> bool:
        """Whether the file exists."""
        return self._kind(filepath) == 'file'

    def _kind(self, filepath: str) -> str | None:
        try:
            return self._ask(filepath, lambda store: store.info(filepath))['type']
        except FileNotFoundError:
            return None

    def size(self, filepath: str) -> int:
        """Bytes of a file."""
        return self._ask(filepath, lambda store: store.size(filepath))

    def remove(self, filepath: str) -> None:
        """Remove a file."""
        self._ask(filepath, lambda store: store.rm_file(filepath))

    def join_path(self, filepath: str, *filepaths: str) -> str:
        """An address below another."""
        return '/'.join([filepath.rstrip('/'), *(path.strip('/') for path in filepaths)])

    def list_dir_or_file(
        self,
        dir_path: str,
        list_dir: bool = True,
        list_file: bool = True,
        suffix: str | tuple[str, ...] | None = None,
        recursive: bool = False,
    ) -> Iterator[str]:
        """Files and folders below an address, relative to it, without names that begin with a dot."""
        depth = None if recursive else 1
        found = self._ask(dir_path, lambda s: s.find(dir_path, maxdepth=depth, withdirs=True, detail=True))
        store = self._store(dir_path)
        root = store._strip_protocol(dir_path).rstrip('/') + '/'
        for path, info in found.items():
            name, wanted = path.removeprefix(root), list_dir if info['type'] == 'directory' else list_file
            is_hidden = any(part.startswith('.') for part in name.split('/'))
            if wanted and name and path != name and not is_hidden and (suffix is None or name.endswith(suffix)):
                yield name

    @contextmanager
    def get_local_path(self, filepath: str) -> Iterator[str]:
        """A temporary copy on a local disk."""
        with NamedTemporaryFile() as file:
            self._ask(filepath, lambda store: store.get_file(filepath, file.name))
            yield file.name

    def _ask(self, address: str, ask: Callable[[Any], T]) -> T:
        store = self._store(address)
        try:
            return ask(store)
        except MISTAKES:
            raise
        except FileNotFoundError as error:
            raise FileNotFoundError(errno.ENOENT, 'no such file', address) from error
        except PermissionError as error:
            raise _refused(address, error) from error
        except OSError as error:
            if error.errno is not None and error.errno not in AWAY:
                raise  # an error of this file
            raise ConnectionError(f'{type(error).__name__}: {error}') from error
        except Exception as error:  # of any type: fsspec passes on those of the libraries below it
            if type(error).__name__.startswith(REFUSALS):
                raise _refused(address, error) from error
            raise ConnectionError(f'{type(error).__name__}: {error}') from error

    def _store(self, address: str) -> Any:
        prefix = address.partition('://')[0]
        key = os.getpid(), prefix
        with self._locks.setdefault(os.getpid(), threading.Lock()):
            if key not in self._stores:
                self._stores[key] = self._open(prefix)
            return self._stores[key]

    def _open(self, prefix: str) -> Any:
        try:
            from fsspec import get_filesystem_class

            kind = get_filesystem_class(prefix)
        except ImportError as error:
            package = PACKAGES.get(prefix)
            remedy = f'pip install {package}' if package else str(error)
            raise ImportError(
                f'Addresses of {prefix}:// need another package. Run: {remedy}'
                + (" (or: pip install 'omnimae[s3]')" if package == 's3fs' else '')
            ) from error
        options: dict[str, Any] = dict(use_listings_cache=False)
        if is_s3 := PACKAGES.get(prefix) == 's3fs':  # `patience` repeats reads; botocore alone would wait 60 s, 5 times
            seconds = timeout()
            options['config_kwargs'] = dict(connect_timeout=seconds, read_timeout=seconds, retries=dict(max_attempts=1))
        store = kind(**(options | self.options), skip_instance_cache=True)
        if is_s3:
            store.retries = 1
        return store


def _refused(address: str, error: Exception) -> StorageRefusedError:
    text = ' '.join(str(error).split())
    return StorageRefusedError(
        f'{address}: {type(error).__name__}: {text}. The storage refuses access. Set its credentials in the '
        'environment, as for its own tools. Some storages also answer this for a missing file.'
    )
