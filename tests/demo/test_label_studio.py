from __future__ import annotations

import http.server
import signal
import socket
import subprocess
import sys
import threading
import time

import httpx
import pytest

from ls_backend.demo import label_studio as launcher
from ls_backend.demo.label_studio import LabelStudioServer, PortTaken, find_executable
from ls_backend.errors import SettingsError, Unreachable


def script(path, body):
    path.write_text(f"#!{sys.executable}\n{body}")
    path.chmod(0o755)
    return path


def whoami(server):
    return httpx.get(
        f"{server.url}/api/current-user/whoami", headers={"Authorization": f"Token {server.token}"}, timeout=10
    )


def is_running(pid):
    """Alive and not a zombie that waits for init."""
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False).stdout
    return bool(state.strip()) and not state.startswith("Z")


def wait_until(condition, seconds=10.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.05)


# A stand-in that speaks Label Studio's start-up protocol: used only where the real one cannot be made to misbehave.
STAND_IN = """
import http.server, sys
port = int(sys.argv[sys.argv.index("--port") + 1]) + {offset}
class Health(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers()
    def log_message(self, *args): pass
server = http.server.HTTPServer(("127.0.0.1", port), Health)
print(f"Starting development server at http://127.0.0.1:{{port}}/", flush=True)
server.serve_forever()
"""


PARENT = """
import sys, time
from pathlib import Path
from ls_backend.demo.label_studio import LabelStudioServer
server = LabelStudioServer.start(Path(sys.argv[1]), executable=Path(sys.argv[2]))
print(server._process.pid, flush=True)
time.sleep(600)
"""


def test_a_missing_label_studio_names_the_make_target(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "prefix", str(tmp_path / ".venv"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SettingsError) as caught:
        find_executable()
    assert "make setup-label-studio" in caught.value.hint


def test_a_given_program_that_cannot_run_is_not_replaced_by_another(tmp_path):
    with pytest.raises(SettingsError, match="no-such-program"):
        find_executable(tmp_path / "no-such-program")


def test_the_program_beside_our_environment_wins_over_path(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "prefix", str(tmp_path / ".venv"))
    beside = tmp_path / ".venv-label-studio" / "bin" / "label-studio"
    on_path = tmp_path / "bin" / "label-studio"
    for place in (on_path, beside):
        place.parent.mkdir(parents=True)
    script(on_path, "")
    monkeypatch.setenv("PATH", str(on_path.parent))
    assert find_executable() == on_path
    script(beside, "")
    assert find_executable() == beside


def test_a_server_that_dies_while_starting_shows_its_own_words(tmp_path):
    broken = script(tmp_path / "label-studio", "raise SystemExit('no space left on this disk')")
    with pytest.raises(Unreachable, match="exit code 1") as caught:
        LabelStudioServer.start(tmp_path / "data", executable=broken)
    assert "no space left on this disk" in str(caught.value)


def test_a_server_that_never_answers_is_stopped_and_shown(tmp_path):
    silent = script(tmp_path / "label-studio", "import os, time; print(os.getpid(), flush=True); time.sleep(600)")
    with pytest.raises(Unreachable, match="did not answer within 1 s"):
        LabelStudioServer.start(tmp_path / "data", executable=silent, start_timeout_s=1.0)
    pid = int((tmp_path / "data" / "label-studio.log").read_text().split()[0])
    assert not is_running(pid)


def test_a_taken_port_is_refused_at_once(tmp_path):
    program = script(tmp_path / "label-studio", STAND_IN.format(offset=0))
    with socket.socket() as stranger:
        stranger.bind(("127.0.0.1", 0))
        stranger.listen()
        with pytest.raises(PortTaken, match=str(stranger.getsockname()[1])):
            LabelStudioServer.start(tmp_path / "data", executable=program, port=stranger.getsockname()[1])


def test_a_server_that_moved_to_another_port_is_not_mistaken_for_a_healthy_stranger(tmp_path, monkeypatch):
    """A stranger answers /health on our port while our child listens on the next one."""
    program = script(tmp_path / "label-studio", STAND_IN.format(offset=1))
    monkeypatch.setattr(launcher, "_is_taken", lambda _port: False)  # it came after we looked
    stranger = http.server.HTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler)
    thread = threading.Thread(target=stranger.serve_forever)
    thread.start()
    try:
        with pytest.raises(PortTaken):
            LabelStudioServer.start(tmp_path / "data", executable=program, port=stranger.server_port)
    finally:
        stranger.shutdown()
        thread.join()
        stranger.server_close()


def test_stop_ends_the_whole_group_and_may_be_called_twice(tmp_path):
    child = (
        "import subprocess, sys\nsleeper = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
    )
    program = script(
        tmp_path / "label-studio", child + "print('sleeper', sleeper.pid, flush=True)\n" + STAND_IN.format(offset=0)
    )
    server = LabelStudioServer.start(tmp_path / "data", executable=program)
    sleeper = int(server.log_tail().split("sleeper ")[1].split()[0])
    assert is_running(sleeper)
    server.stop()
    server.stop()
    wait_until(lambda: not is_running(sleeper))
    assert not server.running


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can end a child with its parent")
def test_the_server_dies_when_its_parent_is_killed(tmp_path):
    program = script(tmp_path / "label-studio", STAND_IN.format(offset=0))
    parent = subprocess.Popen(
        [
            sys.executable,
            "-c",
            PARENT,
            str(tmp_path / "data"),
            str(program),
        ],
        stdout=subprocess.PIPE,
    )
    with parent:
        child = int(parent.stdout.readline())
        assert is_running(child)
        parent.send_signal(signal.SIGKILL)
        parent.wait()
        wait_until(lambda: not is_running(child))


@pytest.mark.e2e
def test_the_real_server_accepts_the_token_and_the_password(label_studio):
    assert whoami(label_studio).json()["email"] == label_studio.email
    with httpx.Client(base_url=label_studio.url, follow_redirects=True, timeout=20) as session:
        session.get("/user/login/")
        form = {"email": label_studio.email, "password": label_studio.password}
        session.post("/user/login/", data={**form, "csrfmiddlewaretoken": session.cookies["csrftoken"]})
        assert session.get("/api/current-user/whoami").json()["email"] == label_studio.email


@pytest.mark.e2e
def test_a_restart_keeps_address_and_data_and_a_second_server_starts_from_the_template(
    label_studio, label_studio_executable, tmp_path
):
    # The session's server has paid for the template already.
    started = time.monotonic()
    with LabelStudioServer.start(tmp_path, executable=label_studio_executable) as server:
        assert time.monotonic() - started < 25
        headers = {"Authorization": f"Token {server.token}"}
        made = httpx.post(f"{server.url}/api/projects/", headers=headers, json={"title": "kept"}, timeout=20).json()
        url = server.url
        server.restart()
        assert server.url == url != label_studio.url
        found = httpx.get(f"{url}/api/projects/{made['id']}/", headers=headers, timeout=20)
        assert found.json()["title"] == "kept"


@pytest.mark.e2e
def test_legacy_tokens_can_be_switched_off(label_studio_executable, tmp_path):
    with LabelStudioServer.start(tmp_path, executable=label_studio_executable, legacy_token=False) as server:
        assert whoami(server).status_code == 401
        server.stop()
        # Still off, and asking for it again is harmless.
    with LabelStudioServer.start(tmp_path, executable=label_studio_executable, legacy_token=False) as server:
        assert whoami(server).status_code == 401


@pytest.mark.e2e
def test_an_unfinished_copy_of_the_template_is_begun_again(label_studio, label_studio_executable, tmp_path):
    del label_studio  # made the template
    (tmp_path / ".env").write_text("SECRET_KEY=torn")
    (tmp_path / f"{launcher.DATABASE_FILE}.copying").write_bytes(b"half")
    with LabelStudioServer.start(tmp_path, executable=label_studio_executable) as server:
        assert whoami(server).status_code == 200
