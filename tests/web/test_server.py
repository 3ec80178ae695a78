"""The server as a process: what only shows on the wire, in its memory and in its log."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

START_S = 5.0
MEMORY_MB = 250


def setup_body(recorded, **changes):
    return {**recorded["setup"]["body"], "project": "21.1795385194", "extra_params": None, **changes}


def test_the_reason_phrase_names_the_setting_and_the_nearest_known_one(server, recorded):
    # Label Studio shows the reason phrase to the admin, and nothing else of the answer.
    status, reason, _ = server.request("POST", "/setup", setup_body(recorded, extra_params={"retrain_aftr": 5}))
    assert status == 400
    assert "retrain_aftr is not a setting; did you mean retrain_after?" in reason
    assert reason.isascii()


def test_the_reason_phrase_survives_odd_text(server, recorded):
    status, reason, _ = server.request(
        "POST", "/setup", setup_body(recorded, extra_params={"préset\r\nX-Evil: 1<b>": "ü" * 5000})
    )
    assert status == 400
    assert reason.isascii()
    assert "<" not in reason
    assert len(reason) <= 400


def test_an_unsupported_config_is_explained_in_the_reason_phrase(server, recorded):
    schema = '<View><Image name="image" value="$image"/><KeyPointLabels name="eye" toName="image"/></View>'
    status, reason, _ = server.request("POST", "/setup", setup_body(recorded, schema=schema))
    assert status == 400
    assert "KeyPointLabels eye is none of them" in reason


def test_a_body_of_5_mb_is_taken_in_time(server, recorded):
    assert server.request("POST", "/setup", setup_body(recorded))[0] == 200
    event = json.loads(json.dumps(recorded["webhook_annotation_created"]["body"]))
    event["project"]["id"] = 21
    event["annotation"]["result"] = [{"value": {"rle": [7] * 1_700_000}}]
    body = json.dumps(event).encode()
    assert len(body) > 5_000_000
    started = time.monotonic()
    assert server.request("POST", "/webhook", body)[0] == 201
    assert time.monotonic() - started < 1.0, "Label Studio hangs up after one second"


def test_tokens_and_payloads_are_in_no_log_line(server, recorded):
    secrets = {
        "access_token": "token-7f3a9c",
        "password": "password-7f3a9c",
        "label": "label-7f3a9c",
        "header": "header-7f3a9c",
        "task": "task-7f3a9c",
    }
    event = json.loads(json.dumps(recorded["webhook_annotation_created"]["body"]).replace("cat", secrets["label"]))
    event["project"] |= {"id": 21, "token": secrets["access_token"]}
    task = {"id": 1, "data": {"image": f"/{secrets['task']}.png"}}
    predict = {"tasks": [task], "project": "21", "params": {"login": "u", "password": secrets["password"]}}
    bodies = [
        ("/setup", setup_body(recorded, access_token=secrets["access_token"])),
        ("/setup", setup_body(recorded, access_token=secrets["access_token"], extra_params={"windw": 1})),
        ("/setup", setup_body(recorded, access_token=[secrets["access_token"]])),
        ("/webhook", event),
        ("/webhook", {**event, "action": None}),
        ("/webhook", json.dumps(event).encode()[:-1]),
        ("/predict", predict),
        ("/predict", {**predict, "tasks": [{"data": task["data"]}]}),
    ]
    for path, body in bodies:
        server.request("POST", path, body, {"X-LSB-Secret": secrets["header"]})
    log = server.log()
    assert "refused" in log, "the log is the one of these requests"
    for kind, secret in secrets.items():
        assert secret not in log, f"the {kind} is in the log"


def test_the_server_never_imports_torch(server, recorded):
    assert server.request("POST", "/setup", setup_body(recorded))[0] == 200
    server.request("POST", "/predict", {"tasks": [{"id": 1, "data": {}}], "project": "21"})
    server.request("GET", "/api/projects/21")
    for pid in server.pids():
        mapped = Path(f"/proc/{pid}/maps").read_text()
        for library in ("torch", "lance", "pyarrow", "cv2", "pandas"):
            assert f"/{library}/" not in mapped, f"process {pid} of the server has loaded {library}"


def test_the_server_is_small_and_quick_to_start(server):
    load = os.getloadavg()[0] / (os.cpu_count() or 1)
    memory_mb = sum(_own_memory(pid) for pid in server.pids()) / 2**20
    assert memory_mb < MEMORY_MB, f"the server takes {memory_mb:.0f} MB"
    if server.start_s >= START_S and load > 1.0:
        pytest.skip(f"the machine is loaded {load:.1f} times over: the start took {server.start_s:.1f} s, not judged")
    assert server.start_s < START_S, f"healthy after {server.start_s:.1f} s on a machine loaded {load:.1f} times over"


def _own_memory(pid):
    """Resident bytes of a process, pages shared with others counted in part."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    raise AssertionError(pid)
