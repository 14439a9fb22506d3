"""Storages that are away, slow or refuse: each fault is injected, by a web server of its own or below `os`."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest
from PIL import Image

from omnimae.data import storage
from omnimae.data.media.errors import BrokenImageError
from omnimae.data.media.images import read_image
from omnimae.data.storage import patience
from omnimae.data.storage.http import quoted
from omnimae.stopping import StorageAwayError, StorageRefusedError

PICTURE = np.random.default_rng(0).integers(0, 256, (40, 48, 3), np.uint8)


def png(picture: np.ndarray = PICTURE) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, 'PNG')
    return stream.getvalue()


class Server(ThreadingHTTPServer):
    """Serves ``files``. ``faults`` are met one by one, each by one request: a status, or 'hang', 'cut', 'reset'."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(('127.0.0.1', 0), Handler)
        self.files: dict[str, bytes] = {}
        self.faults: list[Any] = []
        self.requests: list[tuple[str, str | None]] = []  # path as it came, range
        self.takes_ranges = True
        self.url = f'http://127.0.0.1:{self.server_port}'

    def handle_error(self, *_: Any) -> None: ...


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server, asked = self.server, self.headers['Range']
        server.requests.append((self.path, asked))
        fault = server.faults.pop(0) if server.faults else None
        data = server.files.get(unquote(self.path).lstrip('/'))
        if fault == 'hang':
            time.sleep(3)
        elif fault == 'reset':
            self.connection.close()
        elif isinstance(fault, tuple):
            self.answer(fault[0], **fault[1])
        elif isinstance(fault, int) or data is None:
            self.answer(fault or 404)
        elif asked and server.takes_ranges:
            first, _, last = asked.removeprefix('bytes=').partition('-')
            if int(first) >= len(data):
                self.answer(416)
            else:
                self.answer(206, data[int(first) : int(last) + 1 if last else None])
        else:
            self.answer(200, data, is_cut=fault == 'cut')

    def answer(self, status: int, data: bytes = b'', is_cut: bool = False, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace('_', '-'), value)
        self.send_header('Content-Length', str(len(data)))
        self.end_headers()
        self.wfile.write(data[: len(data) // 2] if is_cut else data)

    def log_message(self, *_: Any) -> None: ...


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, 'FIRST_PAUSE', 0.01)
    monkeypatch.setenv('OMNIMAE_STORAGE_PATIENCE', '0.3')
    monkeypatch.setenv('OMNIMAE_STORAGE_TIMEOUT', '0.2')


PASSING = [500, 502, 503, 504, 429, 408, 'hang', 'cut', 'reset']


@pytest.mark.parametrize('fault', PASSING)
def test_a_server_that_is_away_for_a_moment_costs_no_file(server: Server, monkeypatch, fault: int | str):
    monkeypatch.setenv('OMNIMAE_STORAGE_PATIENCE', '20')
    server.files['a.png'] = png()
    server.faults = [fault, fault]
    np.testing.assert_array_equal(read_image(f'{server.url}/a.png')[0], PICTURE)
    assert len(server.requests) == 3


@pytest.mark.parametrize('fault', PASSING)
def test_a_server_that_stays_away_is_named(server: Server, fault: int | str):
    server.faults = [fault] * 100
    begin = time.monotonic()
    message = rf'Storage {server.url} is away, .*: \d+ reads of {server.url}/a\.png failed in \d+ s, .*OMNIMAE'
    with pytest.raises(StorageAwayError, match=message):
        read_image(f'{server.url}/a.png')
    assert 0.3 <= time.monotonic() - begin < 2


def test_where_nobody_listens_a_storage_is_away():
    for url in ('http://127.0.0.1:1', 'http://nowhere.invalid', 'https://127.0.0.1:1'):
        with pytest.raises(StorageAwayError, match=rf'Storage {url} is away'):
            read_image(f'{url}/a.png')
    assert StorageAwayError.code == 75


@pytest.mark.parametrize('status', [401, 403, 407])
def test_a_server_that_refuses_stops_at_once(server: Server, monkeypatch, status: int):
    monkeypatch.setenv('OMNIMAE_STORAGE_PATIENCE', '100')
    server.faults = [status]
    with pytest.raises(StorageRefusedError, match=rf'{server.url}/a\.png: HTTP {status} .*Check who may, and the cred'):
        read_image(f'{server.url}/a.png')
    assert StorageRefusedError.code == 1


@pytest.mark.parametrize('status', [404, 410, 400])
def test_a_file_that_is_not_on_a_server_is_broken(server: Server, status: int):
    server.faults = [status]
    with pytest.raises(BrokenImageError, match=rf'a\.png: .*HTTP {status}'):
        read_image(f'{server.url}/a.png')
    assert len(server.requests) == 1


def test_a_server_says_how_long_it_wants_to_be_left_alone(server: Server, monkeypatch):
    monkeypatch.setenv('OMNIMAE_STORAGE_PATIENCE', '20')
    server.files['a'], server.faults = b'a', [(503, dict(Retry_After='1'))]
    begin = time.monotonic()
    assert storage.read(f'{server.url}/a') == b'a'
    assert time.monotonic() - begin > 1


@pytest.mark.parametrize('takes_ranges', [True, False])
def test_parts_of_files(server: Server, tmp_path: Path, takes_ranges: bool):
    data = server.files['a'] = bytes(range(100))
    server.takes_ranges = takes_ranges
    (tmp_path / 'a').write_bytes(data)
    for address in (f'{server.url}/a', str(tmp_path / 'a')):
        for start, stop in [(0, None), (0, 1), (10, 20), (90, 120), (95, None), (100, None), (200, 210), (7, 7)]:
            assert storage.read(address, None, start, stop) == data[start:stop], (address, start, stop)
    if takes_ranges:
        assert ('/a', 'bytes=10-19') in server.requests


@pytest.mark.parametrize('name', ['a b', 'ä', '50%', 'a#1', 'a+b&c=d', "o'k(1)[2]", 'a\udce4'])
def test_names_of_any_kind_are_found_on_a_server(server: Server, name: str):
    name += '.png'
    server.files['ordner ö/' + name.encode('utf-8', 'surrogateescape').decode(errors='replace')] = png()
    assert read_image(f'{server.url}/ordner ö/{name}').shape == (1, 40, 48, 3)


def test_an_address_that_is_quoted_already_stays():
    assert quoted('http://h:8/a%20b?sig=x%2By&t=1') == 'http://h:8/a%20b?sig=x%2By&t=1'
    assert quoted('http://bücher.example/a') == 'http://xn--bcher-kva.example/a'


def test_a_server_sends_elsewhere(server: Server):
    server.files['new place/ä.png'] = png()
    server.faults = [(302, dict(Location='/new place/\u00c3\u00a4.png'))]  # its bytes are UTF-8
    assert read_image(f'{server.url}/a.png').shape == (1, 40, 48, 3)


def test_a_server_is_asked_for_files_before_training(server: Server):
    assert storage.exists(f'{server.url}/a') is False
    server.files['a'] = b''
    assert storage.exists(f'{server.url}/a') is True
    server.faults = [503]
    assert storage.exists(f'{server.url}/a') is True
    server.faults = [403]
    with pytest.raises(StorageRefusedError):
        storage.exists(f'{server.url}/a')


@pytest.mark.parametrize('value', ['soon', '-1', 'nan'])
def test_settings_are_numbers(monkeypatch, value: str):
    monkeypatch.setenv('OMNIMAE_STORAGE_PATIENCE', value)
    with pytest.raises(ValueError, match=f"OMNIMAE_STORAGE_PATIENCE='{value}' is no number of seconds. Give one, such"):
        patience.patience()
    monkeypatch.setenv('OMNIMAE_STORAGE_PATIENCE', '')
    assert (patience.patience(), patience.timeout()) == (120, 0.2)
