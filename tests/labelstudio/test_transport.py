from __future__ import annotations

import base64
import http.server
import json
import threading
import time

import pytest
import stamina

from ls_backend.errors import Rejected, Unreachable
from ls_backend.labelstudio.transport import Transport

LEGACY = "0123456789abcdef0123456789abcdef01234567"


def jwt(**claims):
    coded = base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
    return f"e30.{coded}.c2ln"


@pytest.fixture(autouse=True)
def _no_waiting():
    with stamina.set_testing(True, attempts=3):
        yield


@pytest.fixture
def server():
    """A server whose answers a test scripts: (method, path) -> function of the request, or (status, body)."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def _any(self):
            length = int(self.headers.get("Content-Length") or 0)
            body = self.rfile.read(length)
            self.server.seen.append((self.command, self.path, dict(self.headers), body))
            answer = self.server.answers[self.command, self.path.partition("?")[0]]
            status, text = answer(self) if callable(answer) else answer
            if status is None:
                self.close_connection = True
                return
            data = text.encode() if isinstance(text, str) else json.dumps(text).encode()
            self.send_response(status)
            if status == 302:
                self.send_header("Location", "https://elsewhere.example.com/")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_PATCH = do_DELETE = _any  # noqa: N815 - the names http.server looks for

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = False
    server.seen, server.answers = [], {}
    server.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def transport(server):
    with Transport(server.url, LEGACY, timeout_s=5) as transport:
        yield transport


def test_legacy_and_access_tokens_are_sent_as_what_they_are(server):
    server.answers["GET", "/x"] = (200, {})
    for token, header in [(LEGACY, f"Token {LEGACY}"), (access := jwt(token_type="access"), f"Bearer {access}")]:
        with Transport(server.url, f" {token}\n") as transport:
            transport.get("/x")
        assert server.seen[-1][2]["Authorization"] == header


def test_a_sub_path_of_the_address_is_kept(server):
    server.answers["GET", "/ls/api/x"] = (200, {"here": True})
    with Transport(server.url + "/ls/", LEGACY) as transport:
        assert transport.get("/api/x") == {"here": True}


@pytest.mark.parametrize(("life_s", "exchanges"), [(300, 1), (59, 2)])
def test_a_personal_token_is_exchanged_once_and_renewed_before_it_ends(server, life_s, exchanges):
    server.answers["POST", "/api/token/refresh/"] = (200, {"access": jwt(iat=1000, exp=1000 + life_s)})
    server.answers["GET", "/x"] = (200, {})
    with Transport(server.url, jwt(token_type="refresh")) as transport:
        transport.get("/x")
        transport.get("/x")
    assert [path for _, path, _, _ in server.seen].count("/api/token/refresh/") == exchanges


def test_an_access_token_that_is_refused_is_exchanged_once_more(server):
    good = jwt(token_type="access", iat=0, exp=300, n="good")
    bad = jwt(token_type="access", iat=0, exp=300, n="bad")
    issued = [good, bad]
    server.answers["POST", "/api/token/refresh/"] = lambda _: (200, {"access": issued.pop()})
    server.answers["POST", "/x"] = lambda request: (
        (201, {"made": 1}) if request.headers["Authorization"] == f"Bearer {good}" else (401, {"detail": "no"})
    )
    with Transport(server.url, jwt(token_type="refresh")) as transport:
        assert transport.call("POST", "/x", body={}) == {"made": 1}


def test_a_revoked_personal_token_is_rejected_without_a_loop(server):
    server.answers["POST", "/api/token/refresh/"] = (401, {"detail": "Token is blacklisted"})
    with Transport(server.url, jwt(token_type="refresh")) as transport, pytest.raises(Rejected) as caught:
        transport.call("POST", "/x")
    assert caught.value.status == 401
    assert "LABEL_STUDIO_API_KEY" in caught.value.hint
    assert len(server.seen) == 1


def test_threads_share_one_exchange(server):
    def issue(_):
        time.sleep(0.05)
        return 200, {"access": jwt(token_type="access", iat=0, exp=300)}

    server.answers["POST", "/api/token/refresh/"] = issue
    server.answers["GET", "/x"] = (200, {})
    with Transport(server.url, jwt(token_type="refresh")) as transport:
        threads = [threading.Thread(target=transport.get, args=("/x",)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    paths = [path for _, path, _, _ in server.seen]
    assert paths.count("/api/token/refresh/") == 1
    assert paths.count("/x") == 8


def test_a_refusal_is_told_in_the_server_s_words(server, transport):
    server.answers["PATCH", "/x"] = (
        400,
        {"detail": "Validation error", "validation_errors": {"score": ["too large"], "non_field_errors": ["odd"]}},
    )
    with pytest.raises(Rejected, match=r"PATCH /x with 400: Validation error; too large; odd") as caught:
        transport.call("PATCH", "/x", body={})
    assert caught.value.status == 400


def test_the_token_is_in_no_message(server, transport):
    server.answers["GET", "/x"] = (400, {"detail": f"bad token {LEGACY}"})
    with pytest.raises(Rejected) as caught:
        transport.get("/x")
    assert LEGACY not in str(caught.value)
    assert "[token]" in str(caught.value)


def test_a_long_html_refusal_becomes_one_short_line(server, transport):
    server.answers["GET", "/x"] = (418, "<html><body>" + "<p>I am\na teapot</p>" * 100)
    with pytest.raises(Rejected) as caught:
        transport.get("/x")
    assert "<" not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


def test_a_page_that_is_no_json_is_not_label_studio(server, transport):
    server.answers["GET", "/x"] = (200, "<html>Sign in</html>")
    with pytest.raises(Rejected, match="not JSON") as caught:
        transport.get("/x")
    assert "LABEL_STUDIO_URL" in caught.value.hint


def test_a_redirect_is_not_followed_but_told(server, transport):
    server.answers["GET", "/x"] = (302, "")
    with pytest.raises(Rejected, match=r"https://elsewhere\.example\.com"):
        transport.get("/x")
    assert len(server.seen) == 1


@pytest.mark.parametrize("trouble", [(500, {"detail": "database is locked"}), (503, ""), (None, "")])
def test_reads_are_repeated_after_a_passing_failure(server, transport, trouble):
    answers = [(200, {"fine": True}), trouble]
    server.answers["GET", "/x"] = lambda _: answers.pop()
    assert transport.get("/x") == {"fine": True}


def test_reads_give_up_after_three_tries(server, transport):
    server.answers["GET", "/x"] = (500, {"detail": "broken"})
    with pytest.raises(Rejected, match="broken"):
        transport.get("/x")
    assert len(server.seen) == 3


def test_writes_and_refused_reads_are_never_repeated(server, transport):
    server.answers["POST", "/x"] = (500, {})
    server.answers["GET", "/x"] = (404, {})
    with pytest.raises(Rejected):
        transport.call("POST", "/x")
    with pytest.raises(Rejected):
        transport.get("/x")
    assert len(server.seen) == 2


def test_nobody_there_is_unreachable():
    with Transport("http://127.0.0.1:1", LEGACY) as transport, pytest.raises(Unreachable, match=r"GET /x"):
        transport.get("/x")


def test_no_answer_in_time_is_unreachable_and_not_asked_again(server):
    def slow(_):
        time.sleep(0.5)
        return 200, {}

    server.answers["GET", "/x"] = slow
    with Transport(server.url, LEGACY, timeout_s=0.1) as transport, pytest.raises(Unreachable):
        transport.get("/x")
    assert len(server.seen) == 1


@pytest.mark.parametrize("url", ["", "labelstudio:8080", "ftp://host", "http://[::1", "http://host:port"])
def test_an_address_that_is_none_is_unreachable(url):
    with Transport(url, LEGACY) as transport, pytest.raises(Unreachable):
        transport.get("/x")


def test_an_empty_answer_is_none(server, transport):
    server.answers["DELETE", "/x"] = (204, "")
    assert transport.call("DELETE", "/x") is None


@pytest.mark.parametrize("token", ["", "  ", "two words", "schlüssel", "a\nb"])
def test_what_cannot_be_a_token_is_rejected_without_asking(server, token):
    with Transport(server.url, token) as transport, pytest.raises(Rejected) as caught:
        transport.get("/x")
    assert caught.value.status == 401
    assert server.seen == []
