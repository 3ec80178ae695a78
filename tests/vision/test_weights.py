"""Checkpoints that are not there yet, fetched from a server on this machine."""

from __future__ import annotations

import hashlib
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
from torchvision import models as zoo

from ls_backend.errors import SettingsError
from ls_backend.settings import TORCHVISION_BACKBONES
from ls_backend.vision import backbones, weights
from ls_backend.vision.weights import Source

NAME = "shufflenet_v2_x0_5"


class Shelf(BaseHTTPRequestHandler):
    """Serves `files`, path -> (status, headers, body), and notes what it was asked for."""

    files: dict[str, tuple[int, dict[str, str], bytes]]
    asked: list[str]

    def do_GET(self):
        self.asked.append(self.path)
        status, headers, body = self.files.get(self.path, (404, {}, b""))
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def shelf():
    handler = type("OwnShelf", (Shelf,), {"files": {}, "asked": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    handler.url = f"http://127.0.0.1:{server.server_port}"
    yield handler
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def state():
    torch.manual_seed(0)
    return zoo.get_model(NAME, weights=None).state_dict()


def put(shelf, path, body, status=200, **headers):
    shelf.files[path] = (status, headers, body)
    return f"{shelf.url}{path}"


def source(url, body=b"", **given):
    return Source(
        **{"url": url, "suffix": ".pth", "sha256": hashlib.sha256(body).hexdigest()[:8]} | {"max_bytes": 1000} | given
    )


def left_in(folder):
    return sorted(path.name for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock")


def test_a_checkpoint_is_kept_under_the_name_of_the_network(shelf, tmp_path):
    url = put(shelf, "/x-00.pth", b"weights")
    path = weights.fetch("resnet18", source(url, b"weights"), tmp_path / "not" / "there")
    assert path == tmp_path / "not" / "there" / "resnet18.pth"
    assert path.read_bytes() == b"weights"
    assert left_in(tmp_path) == ["resnet18.pth"]


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"sha256": "0" * 8}, "SHA-256 begins with"),
        ({"max_bytes": 6}, "larger than"),
        ({"url": "http://127.0.0.1:9/x.pth"}, "Connect"),
        ({"url": "no address"}, "could not be downloaded"),
    ],
)
def test_what_is_not_the_file_is_not_kept_and_the_way_out_is_said(given, reason, shelf, tmp_path):
    url = put(shelf, "/x.pth", b"weights")
    wanted = source(**{"url": url, "body": b"weights"} | given)
    with pytest.raises(SettingsError, match=reason) as caught:
        weights.fetch("resnet18", wanted, tmp_path)
    assert wanted.url in str(caught.value)
    assert str(tmp_path / "resnet18.pth") in caught.value.hint
    assert left_in(tmp_path) == []


def test_a_missing_file_and_a_torn_one_are_refused(shelf, tmp_path):
    with pytest.raises(SettingsError, match="404"):
        weights.fetch("resnet18", source(f"{shelf.url}/x.pth"), tmp_path)
    url = put(shelf, "/torn.pth", b"weigh", **{"Content-Length": "7"})
    with pytest.raises(SettingsError, match="could not be downloaded"):
        weights.fetch("resnet18", source(url, sha256=""), tmp_path)
    assert left_in(tmp_path) == []


def test_a_folder_that_cannot_be_written_is_named(shelf, tmp_path):
    (tmp_path / "weights").write_text("a file")
    with pytest.raises(SettingsError, match="cannot be written") as caught:
        weights.fetch("resnet18", source(put(shelf, "/x.pth", b"")), tmp_path / "weights")
    assert str(tmp_path / "weights") in str(caught.value)


def test_what_a_killed_process_left_is_written_over(shelf, tmp_path):
    (tmp_path / ".resnet18.pth.partial").write_bytes(b"half of something longer")
    url = put(shelf, "/x.pth", b"weights")
    weights.fetch("resnet18", source(url, b"weights"), tmp_path)
    assert (tmp_path / "resnet18.pth").read_bytes() == b"weights"
    assert left_in(tmp_path) == ["resnet18.pth"]


def test_of_many_that_want_it_one_downloads_it(shelf, tmp_path):
    wanted = source(put(shelf, "/x.pth", b"weights"), b"weights")
    with ThreadPoolExecutor(6) as pool:
        paths = set(pool.map(lambda _: weights.fetch("resnet18", wanted, tmp_path), range(6)))
    assert paths == {tmp_path / "resnet18.pth"}
    assert shelf.asked == ["/x.pth"]


@pytest.mark.parametrize("right", [True, False])
def test_a_hub_tells_the_digest_before_it_sends_us_to_its_storage(right, shelf, tmp_path):
    put(shelf, "/storage", b"weights")
    told = hashlib.sha256(b"weights" if right else b"others").hexdigest()
    url = put(shelf, "/model", b"", 302, **{"Location": "/storage", "X-Linked-ETag": f'"{told}"'})
    wanted = source(url, sha256="", suffix=".safetensors")
    if right:
        assert weights.fetch("timm/net.a1", wanted, tmp_path) == tmp_path / "timm" / "net.a1.safetensors"
    else:
        with pytest.raises(SettingsError, match="SHA-256"):
            weights.fetch("timm/net.a1", wanted, tmp_path)


def test_in_the_background_the_error_waits_for_who_asks(tmp_path):
    future = weights.fetch_in_background("resnet18", source("http://127.0.0.1:9/x.pth"), tmp_path)
    assert isinstance(future.exception(timeout=60), SettingsError)


@pytest.fixture
def published(shelf, state, tmp_path_factory, monkeypatch):
    """The default weights of a small network, on our own server."""
    file = tmp_path_factory.mktemp("published") / "weights.pth"
    torch.save(state, file)
    body = file.read_bytes()
    path = f"/models/shufflenet-{hashlib.sha256(body).hexdigest()[:10]}.pth"
    url = put(shelf, path, body)
    monkeypatch.setattr(zoo.get_model_weights(NAME).DEFAULT.value, "url", url)
    return url


def test_torchvision_weights_are_downloaded_once_and_then_found(published, shelf, tmp_path):
    first = backbones.load(NAME, weights_dir=tmp_path, device="cpu", download=True)
    again = backbones.load(NAME, weights_dir=tmp_path, device="cpu")
    assert (first.identity, first.dim) == (again.identity, 1024)
    assert len(shelf.asked) == 1
    assert left_in(tmp_path) == [f"{NAME}.pth"]


def test_without_leave_to_download_the_address_is_said(published, shelf, tmp_path):
    with pytest.raises(SettingsError, match=rf"{NAME}\.pth") as caught:
        backbones.load(NAME, weights_dir=tmp_path, device="cpu")
    assert published in caught.value.hint
    assert "LSB_DOWNLOAD_WEIGHTS" in caught.value.hint
    assert shelf.asked == []


def test_a_file_of_the_right_name_with_other_bytes_is_refused(published, shelf, tmp_path):
    path = published.removeprefix(shelf.url)
    put(shelf, path, b"x" + shelf.files[path][2][1:])
    with pytest.raises(SettingsError, match="SHA-256"):
        backbones.load(NAME, weights_dir=tmp_path, device="cpu", download=True)
    assert left_in(tmp_path) == []


def test_the_server_knows_the_models_that_can_be_had():
    linear = {name for name in zoo.list_models(module=zoo) if not name.startswith("squeezenet")}
    assert set(TORCHVISION_BACKBONES) == linear


def test_every_default_of_torchvision_names_its_digest_and_size():
    for name in zoo.list_models(module=zoo):
        found = backbones._torchvision_source(name)
        assert found.url.startswith("https://")
        assert len(found.sha256) >= 8, name
        assert 10**6 < found.max_bytes < 3 * 2**30
