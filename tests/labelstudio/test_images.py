from __future__ import annotations

import base64
import hashlib
import http.server
import io
import threading
import time
from urllib.parse import parse_qs, urlsplit

import pytest
from PIL import Image

from ls_backend.errors import ImageUnreadable, Rejected, Unreachable
from ls_backend.labelstudio.images import Downloader
from ls_backend.labelstudio.transport import Transport

TOKEN = "0123456789abcdef0123456789abcdef01234567"
LIMIT = 100_000
CONFIG = (
    '<View><Image name="image" value="$image"/><Choices name="label" toName="image">'
    '<Choice value="cat"/><Choice value="dog"/></Choices></View>'
)


def png(shade=0):
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (shade, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def sha(data):
    return hashlib.sha256(data).hexdigest()


class Site:
    """A web server in this process whose pages a test writes; it remembers every request."""

    def __init__(self):
        site = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                site.seen.append((self.path, dict(self.headers)))
                page = site.pages.get(self.path.partition("?")[0], (404, {}, b""))
                page = page(self) if callable(page) else page
                if page is None:
                    return
                status, headers, body = page
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                if "Content-Length" not in headers:
                    self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args):
                pass

        class Server(http.server.ThreadingHTTPServer):
            def handle_error(self, *args):
                pass  # the client hangs up where a limit is tested

        self.pages, self.seen = {}, []
        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    def close(self):
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def tokens(self):
        return [headers.get("Authorization") for _, headers in self.seen]


@pytest.fixture
def site():
    site = Site()
    yield site
    site.close()


@pytest.fixture
def elsewhere():
    site = Site()
    yield site
    site.close()


@pytest.fixture
def downloader(site, tmp_path):
    with Transport(site.url, TOKEN) as transport, make(transport, tmp_path / "cache") as downloader:
        yield downloader


def make(transport, cache, **changes):
    limits = {"timeout_s": 5.0, "max_bytes": LIMIT, "cache_bytes": 10 * LIMIT}
    return Downloader(transport, cache, **limits | changes)


def test_an_upload_is_fetched_with_the_token(site, downloader):
    site.pages["/data/upload/1/a.png"] = (200, {}, png())
    assert downloader.fetch("/data/upload/1/a.png", task_id=1) == (sha(png()), png())
    assert site.tokens() == [f"Token {TOKEN}"]


def test_an_upload_is_asked_for_once(site, downloader, tmp_path):
    site.pages["/data/upload/1/a.png"] = (200, {}, png())
    first = downloader.fetch("/data/upload/1/a.png", task_id=1)
    site.pages.clear()
    assert downloader.fetch("/data/upload/1/a.png", task_id=2) == first
    with Transport(site.url, TOKEN) as transport, make(transport, tmp_path / "cache") as another:
        assert another.fetch("/data/upload/1/a.png", task_id=1) == first
    assert len(site.seen) == 1


def test_a_sub_path_is_kept_and_not_doubled(site, tmp_path):
    site.pages["/ls/data/upload/1/a.png"] = (200, {}, png())
    with Transport(site.url + "/ls", TOKEN) as transport, make(transport, tmp_path) as downloader:
        assert downloader.fetch("/data/upload/1/a.png", task_id=1)[1] == png()
        assert downloader.fetch("/ls/data/upload/1/a.png", task_id=1)[1] == png()


def test_another_host_never_sees_the_token(elsewhere, downloader):
    elsewhere.pages["/a.png"] = (200, {}, png())
    assert downloader.fetch(f"{elsewhere.url}/a.png", task_id=1)[1] == png()
    assert elsewhere.tokens() == [None]


def test_a_neighbour_on_the_same_host_but_outside_the_sub_path_never_sees_the_token(site, tmp_path):
    site.pages["/other/a.png"] = (200, {}, png())
    with Transport(site.url + "/ls", TOKEN) as transport, make(transport, tmp_path) as downloader:
        downloader.fetch(f"{site.url}/other/a.png", task_id=1)
    assert site.tokens() == [None]


def test_storage_uris_are_resolved_by_label_studio_and_the_token_stays_there(site, elsewhere, downloader):
    site.pages["/tasks/7/presign/"] = (303, {"Location": f"{elsewhere.url}/bucket/a.png?signature=x"}, b"")
    elsewhere.pages["/bucket/a.png"] = (200, {}, png())
    for uri in ("s3://bucket/ä b.png", "gs://bucket/a.png", "azure-blob://bucket/a.png"):
        assert downloader.fetch(uri, task_id=7)[1] == png()
        asked = parse_qs(urlsplit(site.seen[-1][0]).query)["fileuri"][0]
        assert base64.urlsafe_b64decode(asked).decode() == uri
    assert set(site.tokens()) == {f"Token {TOKEN}"}
    assert set(elsewhere.tokens()) == {None}


def test_a_storage_uri_without_storage_says_what_to_check(downloader):
    with pytest.raises(ImageUnreadable, match="404") as caught:
        downloader.fetch("s3://bucket/a.png", task_id=7)
    assert "cloud storage" in caught.value.hint


def test_an_unchanged_image_is_not_sent_twice_and_a_changed_one_is_noticed(elsewhere, downloader):
    def page(request):
        if request.headers.get("If-None-Match") == etag:
            return 304, {}, b""
        return 200, {"ETag": etag}, body

    elsewhere.pages["/a.png"] = page
    etag, body = '"1"', png(1)
    assert downloader.fetch(f"{elsewhere.url}/a.png", task_id=1)[1] == png(1)
    assert downloader.fetch(f"{elsewhere.url}/a.png", task_id=1)[1] == png(1)
    assert elsewhere.seen[1][1]["If-None-Match"] == '"1"'
    etag, body = '"2"', png(2)
    assert downloader.fetch(f"{elsewhere.url}/a.png", task_id=1) == (sha(png(2)), png(2))


def test_a_damaged_copy_is_fetched_again(site, downloader, tmp_path):
    site.pages["/data/upload/1/a.png"] = (200, {}, png())
    content_hash, _ = downloader.fetch("/data/upload/1/a.png", task_id=1)
    kept = tmp_path / "cache" / "objects" / content_hash[:2] / content_hash
    kept.write_bytes(png()[:20])
    assert downloader.fetch("/data/upload/1/a.png", task_id=1)[1] == png()
    assert len(site.seen) == 2


def test_two_label_studios_may_share_a_cache(site, elsewhere, tmp_path):
    site.pages["/data/upload/1/a.png"] = (200, {}, png(1))
    elsewhere.pages["/data/upload/1/a.png"] = (200, {}, png(2))
    for each, shade in ((site, 1), (elsewhere, 2)):
        with Transport(each.url, TOKEN) as transport, make(transport, tmp_path) as downloader:
            assert downloader.fetch("/data/upload/1/a.png", task_id=1)[1] == png(shade)


def test_the_cache_stays_within_its_limit_and_keeps_what_was_used_last(site, tmp_path):
    body = bytes(1000)
    with Transport(site.url, TOKEN) as transport, make(transport, tmp_path, cache_bytes=5500) as downloader:
        for number in range(20):
            site.pages[f"/data/upload/1/{number}.png"] = (200, {}, bytes([number]) + body)
            downloader.fetch(f"/data/upload/1/{number}.png", task_id=number)
            time.sleep(0.01)
        downloader.fetch("/data/upload/1/19.png", task_id=19)
    files = [path for path in (tmp_path / "objects").rglob("*") if path.is_file()]
    assert 1 <= len(files) <= 5
    assert len([path for path in (tmp_path / "index").rglob("*") if path.is_file()]) <= 6
    assert len(site.seen) == 20


def test_without_a_cache_nothing_is_written(site, tmp_path):
    site.pages["/data/upload/1/a.png"] = (200, {}, png())
    with Transport(site.url, TOKEN) as transport, make(transport, tmp_path, cache_bytes=0) as downloader:
        downloader.fetch("/data/upload/1/a.png", task_id=1)
        downloader.fetch("/data/upload/1/a.png", task_id=1)
    assert list(tmp_path.iterdir()) == []
    assert len(site.seen) == 2


def test_a_cache_that_cannot_be_written_costs_nothing_but_itself(site, tmp_path):
    (tmp_path / "cache").write_text("a file where a folder should be")
    site.pages["/data/upload/1/a.png"] = (200, {}, png())
    with Transport(site.url, TOKEN) as transport, make(transport, tmp_path / "cache") as downloader:
        assert downloader.fetch("/data/upload/1/a.png", task_id=1)[1] == png()


def test_threads_fetching_the_same_images_get_whole_ones(site, downloader):
    for number in range(5):
        site.pages[f"/data/upload/1/{number}.png"] = (200, {}, png(number))
    found = []

    def fetch_all():
        found.extend((number, downloader.fetch(f"/data/upload/1/{number}.png", task_id=1)[1]) for number in range(5))

    threads = [threading.Thread(target=fetch_all) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 40
    assert all(data == png(number) for number, data in found)


@pytest.mark.parametrize("told", [True, False])
def test_too_large_an_image_is_not_read_to_its_end(elsewhere, downloader, told):
    sent = []

    def page(request):
        request.send_response(200)
        if told:
            request.send_header("Content-Length", str(10**9))
        request.end_headers()
        for _ in range(1000):
            request.wfile.write(bytes(LIMIT // 10))
            sent.append(1)

    elsewhere.pages["/a.png"] = page
    with pytest.raises(ImageUnreadable, match="the limit is 100000") as caught:
        downloader.fetch(f"{elsewhere.url}/a.png", task_id=3)
    assert len(sent) < 1000
    assert "LSB_IMAGE_MAX_BYTES" in caught.value.hint


def test_a_trickle_is_given_up_at_the_deadline(elsewhere, site, tmp_path):
    def page(request):
        request.send_response(200)
        request.end_headers()
        for _ in range(100):
            request.wfile.write(b"x")
            request.wfile.flush()
            time.sleep(0.05)

    elsewhere.pages["/a.png"] = page
    begin = time.monotonic()
    with (
        Transport(site.url, TOKEN) as transport,
        make(transport, tmp_path, timeout_s=0.5) as downloader,
        pytest.raises(ImageUnreadable, match=r"within 0\.5 s"),
    ):
        downloader.fetch(f"{elsewhere.url}/a.png", task_id=3)
    assert time.monotonic() - begin < 2


@pytest.mark.parametrize(
    ("headers", "body", "words"),
    [
        ({"Content-Type": "text/html; charset=utf-8"}, b"hello", "web page"),
        ({"Content-Type": "image/png"}, b"  <!DOCTYPE html><html>login</html>", "web page"),
        ({}, b"", "empty"),
    ],
)
def test_what_is_no_image_is_refused_and_not_kept(elsewhere, downloader, tmp_path, headers, body, words):
    elsewhere.pages["/a.png"] = (200, headers, body)
    with pytest.raises(ImageUnreadable, match=words):
        downloader.fetch(f"{elsewhere.url}/a.png", task_id=3)
    assert not (tmp_path / "cache" / "objects").exists()


def test_endless_redirects_end(elsewhere, downloader):
    elsewhere.pages["/a.png"] = (302, {"Location": "/a.png"}, b"")
    with pytest.raises(ImageUnreadable, match="redirects more than"):
        downloader.fetch(f"{elsewhere.url}/a.png", task_id=3)


def test_a_redirect_to_a_file_is_not_followed(elsewhere, downloader):
    elsewhere.pages["/a.png"] = (302, {"Location": "file:///etc/passwd"}, b"")
    with pytest.raises(ImageUnreadable, match="not a web address"):
        downloader.fetch(f"{elsewhere.url}/a.png", task_id=3)


@pytest.mark.parametrize("status", [401, 403, 429, 500, 503])
def test_label_studio_refusing_is_not_the_image_s_fault(site, downloader, status):
    site.pages["/data/upload/1/a.png"] = (status, {}, b"")
    with pytest.raises(Rejected) as caught:
        downloader.fetch("/data/upload/1/a.png", task_id=1)
    assert caught.value.status == status


def test_label_studio_not_answering_is_not_the_image_s_fault(tmp_path):
    with (
        Transport("http://127.0.0.1:1", TOKEN) as transport,
        make(transport, tmp_path) as downloader,
        pytest.raises(Unreachable),
    ):
        downloader.fetch("/data/upload/1/a.png", task_id=1)


def test_a_deleted_upload_and_a_silent_host_are_the_image_s_fault(downloader):
    with pytest.raises(ImageUnreadable, match="404") as caught:
        downloader.fetch("/data/upload/1/gone.png", task_id=12)
    assert "task 12" in str(caught.value)
    assert caught.value.context["task"] == 12
    with pytest.raises(ImageUnreadable, match="gives no answer"):
        downloader.fetch("http://127.0.0.1:1/a.png", task_id=12)


@pytest.mark.parametrize(
    "reference", ["", "a.png", "ftp://host/a.png", "//host/a.png", "http://[::1", "http://host:port/a.png", "http://"]
)
def test_what_is_no_address_is_refused(downloader, reference):
    with pytest.raises(ImageUnreadable):
        downloader.fetch(reference, task_id=1)


def test_secrets_in_an_address_are_not_repeated(downloader):
    with pytest.raises(ImageUnreadable) as caught:
        downloader.fetch("http://user:pass-word@127.0.0.1:1/a.png?signature=hush", task_id=1)
    assert "pass-word" not in str(caught.value)
    assert "hush" not in str(caught.value)


def test_data_uris_are_decoded(downloader):
    coded = base64.b64encode(png()).decode()
    assert downloader.fetch(f"data:image/png;base64,{coded}", task_id=1) == (sha(png()), png())
    assert downloader.fetch("data:,a%20b", task_id=1)[1] == b"a b"


@pytest.mark.parametrize("uri", ["data:image/png", "data:image/png;base64,%%%", "data:image/png;base64,"])
def test_broken_data_uris_are_refused(downloader, uri):
    with pytest.raises(ImageUnreadable):
        downloader.fetch(uri, task_id=1)


def test_large_data_uris_are_refused(downloader):
    with pytest.raises(ImageUnreadable, match="limit"):
        downloader.fetch("data:," + "x" * (LIMIT + 1), task_id=1)


def test_local_files_are_downloaded_unless_their_folder_is_here(site, downloader):
    site.pages["/data/local-files/"] = (200, {}, png())
    assert downloader.fetch("/data/local-files/?d=set/a.png", task_id=1)[1] == png()
    assert site.seen[0][0] == "/data/local-files/?d=set/a.png"


def test_local_files_are_read_from_their_folder(site, tmp_path):
    root = tmp_path / "root"
    (root / "set").mkdir(parents=True)
    (root / "set" / "ä b.png").write_bytes(png())
    (tmp_path / "secret").write_bytes(b"secret")
    (root / "link").symlink_to(tmp_path / "secret")
    (root / "large").write_bytes(bytes(LIMIT + 1))
    with Transport(site.url, TOKEN) as transport, make(transport, tmp_path / "c", local_files_root=root) as downloader:
        assert downloader.fetch("/data/local-files/?d=set/%C3%A4%20b.png", task_id=1)[1] == png()
        assert downloader.fetch(f"{site.url}/data/local-files/?d=set/ä b.png", task_id=1)[1] == png()
        for escape in ("../secret", "%2E%2E/secret", "link", "set/../../secret", f"{tmp_path}/secret"):
            with pytest.raises(ImageUnreadable):
                downloader.fetch(f"/data/local-files/?d={escape}", task_id=1)
        for unfit in ("set", "absent.png", "", "large", "a%00b"):
            with pytest.raises(ImageUnreadable):
                downloader.fetch(f"/data/local-files/?d={unfit}", task_id=1)
    assert site.seen == []


@pytest.mark.e2e
def test_a_real_upload_is_fetched_with_each_kind_of_token(client, label_studio, tmp_path):
    pid = client.create_project("images", CONFIG)
    try:
        client.upload_images(pid, {"my pic (1).png": png(9)})
        (task,) = client.tasks(pid)
        with make(client, tmp_path / "a") as downloader:
            assert downloader.fetch(task.data["image"], task_id=task.task_id)[1] == png(9)
        with Transport(label_studio.url, "wrong") as transport, make(transport, tmp_path / "b") as downloader:
            with pytest.raises(Rejected) as caught:
                downloader.fetch(task.data["image"], task_id=task.task_id)
            assert caught.value.status == 401
    finally:
        client.delete_project(pid)
