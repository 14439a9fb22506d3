"""Files of web servers, read for days: with timeouts, ranges, and any characters in names."""

from __future__ import annotations

import errno
import gzip
import http.client
import os
import re
import ssl
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import quote, unquote_to_bytes, urlsplit, urlunsplit
from urllib.request import Request, urlopen

from mmengine.fileio import HTTPBackend as MMEngineHTTPBackend

from omnimae.data.storage.backends import RangeBackend
from omnimae.data.storage.patience import timeout
from omnimae.stopping import StorageRefusedError

MISSING, REFUSED, BUSY = (404, 410), (401, 403, 407), (408, 425, 429)
ELSEWHERE = (301, 302, 303, 307, 308)  # redirects in a circle, as without a login, or to no web server
BEYOND_THE_END = 416


class HTTPBackend(RangeBackend, MMEngineHTTPBackend, name='http', prefixes=('http', 'https')):
    """Replaces MMEngine's backend of the same name, which has no timeout.

    A network error or a busy server is a ConnectionError or TimeoutError. A missing file is a FileNotFoundError. A
    server that refuses access raises a StorageRefusedError.
    """

    def get_range(self, filepath: str, start: int = 0, stop: int | None = None) -> bytes:
        """The bytes [start, stop) of a file, or fewer if it ends before."""
        if start == stop:
            return b''
        with _answer(filepath, start, stop) as answer:
            if answer is None:
                return b''
            data = answer.read()  # http.client compares it with the announced length
            if answer.status != http.client.PARTIAL_CONTENT:
                is_packed = answer.headers.get('Content-Encoding') == 'gzip'  # though we did not ask for it
                return (gzip.decompress(data) if is_packed else data)[start:stop]
            content_range = answer.headers.get('Content-Range', f'bytes {start}-')
            if not content_range.startswith(f'bytes {start}-'):  # as some caches do
                raise ConnectionError(f'asked for the bytes from {start} on, but the server sent {content_range!r}')
            return data

    def exists(self, filepath: str) -> bool:
        """Whether the file exists. Its first byte is requested, because not every server answers HEAD."""
        try:
            with _answer(filepath, 0, 1):
                return True
        except FileNotFoundError:
            return False

    def size(self, filepath: str) -> int | None:
        """Bytes of a file; None if the server does not say. A server that ignores ranges raises a ValueError."""
        with _answer(filepath, 0, 1) as answer:
            if answer is None or answer.status != http.client.PARTIAL_CONTENT:
                raise ValueError(
                    f'The server of {os.path.dirname(filepath)} gives whole files only, but parts of archives are '
                    'read. Use another one (nginx, Apache and object stores take range requests), or copy the archives.'
                )
            total = answer.headers.get('Content-Range', '').rpartition('/')[2]
        return int(total) if total.isdecimal() else None


@contextmanager
def _answer(address: str, start: int, stop: int | None) -> Iterator[Any]:
    """The open answer of the server; None if the file ends before ``start``."""
    url, login = _without_login(quoted(address))
    request = Request(url)
    if login:
        request.add_unredirected_header('Authorization', login)
    if (start, stop) != (0, None):
        request.add_header('Range', f'bytes={start}-{"" if stop is None else stop - 1}')
    seconds = timeout()
    try:
        with urlopen(request, timeout=seconds) as answer:
            if answer.url != url and answer.headers.get_content_type() == 'text/html':
                raise StorageRefusedError(
                    f'{address}: the server sends the web page {answer.url} instead of the file. It may ask for a '
                    'login. Use an address without a login, or one with a signature.'
                )
            yield answer
    except HTTPError as error:
        with error:
            if error.code != BEYOND_THE_END:
                raise _translated(error, address) from error
        yield None
    except http.client.InvalidURL as error:
        raise ValueError(f'{address!r} is not an address: {error}. Correct root or the list.') from error
    except URLError as error:
        if isinstance(error.reason, str):
            raise ValueError(f'{address!r} is not an address: {error.reason}. Correct root or the list.') from error
        raise _of_connection(error.reason, address) from error
    except (http.client.HTTPException, ssl.SSLError) as error:
        raise _of_connection(error, address) from error


def _without_login(address: str) -> tuple[str, str | None]:
    """An address without NAME:PASSWORD@, and the header that holds them."""
    parts = urlsplit(address)
    login, at, host = parts.netloc.rpartition('@')
    if not at:
        return address, None
    return parts._replace(netloc=host).geturl(), f'Basic {b64encode(unquote_to_bytes(login)).decode()}'


def _translated(error: HTTPError, address: str) -> Exception:
    text = f'HTTP {error.code} {error.reason}'
    if error.code in MISSING:
        return FileNotFoundError(errno.ENOENT, text, address)
    if error.code in REFUSED or error.code in ELSEWHERE:
        return StorageRefusedError(
            f'{address}: {text}. The server refuses access to this file. Check its permissions, and the credentials '
            'in the address or of the proxy. Some servers also answer this for a missing file.'
        )
    if error.code >= 500 or error.code in BUSY:
        busy: Any = ConnectionError(text)
        seconds = error.headers.get('Retry-After') or ''
        busy.retry_after = float(seconds) if re.fullmatch(r'\d{1,6}', seconds) else 0.0
        return busy
    return OSError(errno.EINVAL, text, address)


def _of_connection(reason: Any, address: str) -> Exception:
    if isinstance(reason, ssl.SSLCertVerificationError):
        return StorageRefusedError(
            f'{address}: {reason.verify_message}. The certificate of the server is not trusted. Correct the address, '
            'or set SSL_CERT_FILE to the file of the certificate.'
        )
    return reason if isinstance(reason, TimeoutError) else ConnectionError(f'{type(reason).__name__}: {reason}')


def quoted(address: str) -> str:
    """An address as it is sent: characters that an address may not hold become %XX. An existing %XX stays."""
    address = re.sub('%(?![0-9A-Fa-f]{2})', '%25', address).replace('#', '%23')
    parts = urlsplit(address)
    host = parts.netloc if parts.netloc.isascii() else parts.netloc.encode('idna').decode()
    path, query = (quote(os.fsencode(part), safe="/%:@!$&'()*+,;=~?") for part in (parts.path, parts.query))
    return urlunsplit((parts.scheme, host, path, query, ''))
