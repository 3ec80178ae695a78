"""Put on PYTHONPATH of worker processes: replaces `ls_backend.engine` by a body that writes down when it ran.

Everything else is real: Redis, RQ, workers, supervisor, store. What the body does is told by files in DATA_DIR:

    slow        seconds a run takes
    crash       the process kills itself in the middle, and removes the file
    raise       "unreachable" or "bug"
    changing    another backbone is to take over
    hang        "held": a native call that holds the interpreter; "native": one that does not, and heeds no signal
"""

import contextlib
import fcntl
import os
import sys
import time
import types
from pathlib import Path

sys.path.remove(str(Path(__file__).parent))  # children of this process import their own copy by PYTHONPATH


def _told(folder, name):
    with contextlib.suppress(FileNotFoundError):
        return (folder / name).read_text()
    return None


def _note(folder, line):
    with (folder / "runs.log").open("a") as log:
        fcntl.flock(log, fcntl.LOCK_EX)
        log.write(line + "\n")


def _body(context, kind, project_id):
    import ctypes
    import hashlib
    import signal

    from ls_backend.errors import Unreachable

    folder = context.settings.data_dir
    _note(folder, f"begin {kind} {project_id} {os.getpid()} {time.time()}")
    if (seconds := _told(folder, "slow")) is not None:
        time.sleep(float(seconds))
    if _told(folder, "crash") is not None:
        (folder / "crash").unlink(missing_ok=True)
        os.kill(os.getpid(), signal.SIGKILL)
    if (hang := _told(folder, "hang")) is not None:
        (folder / "hang").unlink(missing_ok=True)
        if hang == "held":
            ctypes.PyDLL(None).sleep(600)
        hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)  # many minutes
    how = _told(folder, "raise")
    if how == "unreachable":
        raise Unreachable("Label Studio gave no answer within 3 s.")
    if how == "bug":
        raise ZeroDivisionError("division by zero")
    _note(folder, f"end {kind} {project_id} {os.getpid()} {time.time()}")


class Context:
    def __init__(self, settings):
        from ls_backend.store import Store

        self.settings = settings
        self.store = Store(settings.sql_url)


def changing(context, project):
    return _told(context.settings.data_dir, "changing") is not None


def update_project(context, project_id):
    seen = context.store.projects.get(project_id).wanted_generation
    _body(context, "update", project_id)
    context.store.projects.finish(project_id, seen)


def embed_pool(context, project_id):
    _body(context, "embed", project_id)
    left = int(_told(context.settings.data_dir, "chunks") or 0)
    if left:
        (context.settings.data_dir / "chunks").write_text(str(left - 1))
    return types.SimpleNamespace(remaining=left > 0)


def predict_tasks(context, project_id, task_ids):
    _body(context, "predict", project_id)
    context.store.predictions.put(project_id, "al-1-stand-in", {task_id: [0.5, 0.5] for task_id in task_ids})


def _plain(kind):
    def run(context, project_id, **how):
        _body(context, kind, project_id)

    return run


def _module(name, **content):
    module = types.ModuleType(name)
    module.__dict__.update(content)
    sys.modules[name] = module


_module("ls_backend.engine")
_module("ls_backend.engine.backbones", changing=changing)
_module("ls_backend.engine.context", Context=Context)
_module("ls_backend.engine.update", update_project=update_project)
_module("ls_backend.engine.embed_pool", embed_pool=embed_pool)
_module("ls_backend.engine.predict", predict_tasks=predict_tasks)
_module("ls_backend.engine.reconcile", reconcile=_plain("reconcile"))
_module("ls_backend.engine.sync", sync=_plain("sync"))
