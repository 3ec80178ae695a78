"""How fast and how small the server is: /webhook under load while the worker trains, memory, cold start.

    .venv/bin/python benchmarks/service.py [--rate 50] [--seconds 20] [--json FILE]

A real Label Studio, the whole backend as processes, and a person's labels coming in at two a second, so that the worker
refits, ranks and publishes all the time. Exit status 1 when a bound is broken.
"""

from __future__ import annotations

import argparse
import http.client
import json
import statistics
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ls_backend.demo.digits import LABEL_CONFIG, digits
from ls_backend.demo.label_studio import LabelStudioServer
from ls_backend.demo.stack import Stack
from ls_backend.engine.context import Context
from ls_backend.labelstudio.client import SECRET_HEADER, Client
from ls_backend.settings import Settings

TASKS = 400
P99_MS = 100.0
MEMORY_MB = 250.0
COLD_S = 5.0


def main() -> int:
    """Measure and say whether every bound holds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", type=int, default=50, help="events a second")
    parser.add_argument("--seconds", type=int, default=20, help="length of the load")
    parser.add_argument("--json", type=Path, help="file for the figures")
    given = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name,
        LabelStudioServer.start(Path(name) / "ls") as studio,
    ):
        folder = Path(name)
        cold = statistics.median(_cold_start(folder / f"cold-{turn}", studio) for turn in range(3))
        with Stack(folder / "backend", studio.url, studio.token) as stack:
            figures = {"cold_start_s": round(cold, 2), **_load(stack, studio.client(), given.rate, given.seconds)}
    print(json.dumps(figures, indent=2))
    if given.json:
        given.json.write_text(json.dumps(figures, indent=2) + "\n")
    broken = [
        figures["webhook_ms"]["p99"] > P99_MS,
        figures["server_memory_mb"] >= MEMORY_MB,
        figures["cold_start_s"] >= COLD_S,
        figures["failed"] > 0,
    ]
    return 1 if any(broken) else 0


def _cold_start(folder: Path, studio: LabelStudioServer) -> float:
    """Return the seconds from `ls-backend serve` to the first good /health."""
    stack = Stack(folder, studio.url, studio.token)
    started = time.perf_counter()
    stack.start("serve")
    seconds = time.perf_counter() - started
    stack.stop()
    return seconds


def _load(stack: Stack, client: Client, rate: int, seconds: int) -> dict[str, object]:
    items = digits(TASKS, seed=0)
    project_id = client.create_project("load", LABEL_CONFIG)
    files = client.upload_files(project_id, {item.name: item.png for item in items})
    tasks = client.import_tasks(project_id, [{"data": {"image": files[item.name]}} for item in items])
    truth = {task: item.label for task, item in zip(tasks, items, strict=True)}
    stack.command("connect", "--project", str(project_id))
    stack.settled(project_id)
    for task in tasks[:40]:
        _label(client, task, truth[task])
    stack.settled(project_id, labels=40)
    secret = Context(Settings.model_validate({"DATA_DIR": stack.data_dir})).project(project_id).webhook_secret or ""
    stop = threading.Event()
    person = threading.Thread(target=_keep_labelling, args=(client, tasks[40:], truth, stop), daemon=True)
    before = len(stack.get(f"/api/projects/{project_id}")["versions"])
    person.start()
    times, failed = _fire(stack.port, project_id, secret, rate, seconds)
    stop.set()
    person.join()
    after = len(stack.get(f"/api/projects/{project_id}")["versions"])
    milliseconds = sorted(1000 * value for value in times)
    return {
        "rate": rate,
        "seconds": seconds,
        "events": len(times),
        "failed": failed,
        "models_trained_meanwhile": after - before,
        "webhook_ms": {
            name: round(milliseconds[min(len(milliseconds) - 1, int(share * len(milliseconds)))], 1)
            for name, share in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99), ("max", 1.0))
        },
        "server_memory_mb": round(_memory_mb(stack.port), 1),
    }


def _label(client: Client, task: int, label: str) -> None:
    result = [{"from_name": "digit", "to_name": "image", "type": "choices", "value": {"choices": [label]}}]
    client.submit(task, result)


def _keep_labelling(client: Client, tasks: list[int], truth: dict[int, str], stop: threading.Event) -> None:
    for task in tasks:
        if stop.wait(0.5):
            return
        _label(client, task, truth[task])


def _fire(port: int, project_id: int, secret: str, rate: int, seconds: int) -> tuple[list[float], int]:
    """Send events at a fixed rate, each on a connection of its own as Label Studio does; late ones are not left out."""
    body = json.dumps({"action": "ANNOTATION_CREATED", "project": {"id": project_id}, "task": {"id": 1}}).encode()
    headers = {"Content-Type": "application/json", SECRET_HEADER: secret}

    def send(due: float) -> tuple[float, bool]:
        time.sleep(max(0.0, due - time.perf_counter()))
        started = min(due, time.perf_counter())
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        connection.request("POST", "/webhook", body, headers)
        good = connection.getresponse().status == 201
        connection.close()
        return time.perf_counter() - started, good

    begin = time.perf_counter() + 0.5
    with ThreadPoolExecutor(32) as senders:
        answers = list(senders.map(send, [begin + turn / rate for turn in range(rate * seconds)]))
    return [seconds for seconds, _ in answers], sum(not good for _, good in answers)


def _memory_mb(port: int) -> float:
    """Return the resident memory of the server's processes: the arbiter and its worker."""
    total = 0.0
    for entry in Path("/proc").iterdir():
        try:
            command = (entry / "cmdline").read_bytes()
            if b"gunicorn" not in command or f":{port}".encode() not in command:
                continue
            status = (entry / "status").read_text()
        except OSError:
            continue
        total += int(status.split("VmRSS:")[1].split()[0]) / 1024
    return total


if __name__ == "__main__":
    sys.exit(main())
