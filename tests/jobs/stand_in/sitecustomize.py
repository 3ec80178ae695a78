"""Put on PYTHONPATH of worker processes: replaces `ls_backend.engine` by a body that writes down when it ran.

Everything else is real: Redis, RQ, workers, supervisor, store. What the body does is told by files in DATA_DIR:

    slow        seconds a run takes
    linger      seconds the process takes to end after its work, as with large libraries on a busy machine
    crash       the process kills itself in the middle, and removes the file
    raise       "unreachable" or "bug"
    changing    another backbone is to take over
    hang        "held": a native call that holds the interpreter; "native": one that does not, and heeds no signal
    due         an update finds that control "box" calls for a training, and removes the file
    insights-due  what people can see is out of date
    advice-due  so is the advice
    reasons-due there are reasons to write; removed by the third run that writes some

Trainings count epochs, and write down how far they are like real ones:

    epochs      how many, 5 unless told; epoch_s is how long one takes, 0.05
    train-crash the child kills itself after the epoch told, and again in the next child unless the file is removed
    train-hang  the child sleeps after the epoch told
"""

import atexit
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
    if (seconds := _told(folder, "linger")) is not None:
        atexit.register(time.sleep, float(seconds))
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


def connect(context, project_id):
    _body(context, "connect", project_id)
    context.store.projects.ensure(project_id)
    context.store.projects.bump(project_id)


def embed_pool(context, project_id):
    _body(context, "embed", project_id)
    left = int(_told(context.settings.data_dir, "chunks") or 0)
    if left:
        (context.settings.data_dir / "chunks").write_text(str(left - 1))
    return types.SimpleNamespace(read=64, failed=0, remaining=left > 0)


def predict_tasks(context, project_id, task_ids):
    _body(context, "predict", project_id)
    context.store.predictions.put(project_id, "al-1-stand-in", {task_id: [0.5, 0.5] for task_id in task_ids})


def _epochs(context, training, beat):
    folder = context.settings.data_dir
    reached = folder / f"epoch-{training.training_id}"
    crash, hang = _told(folder, "train-crash"), _told(folder, "train-hang")
    for epoch in range(int(_told(folder, reached.name) or 0) + 1, int(_told(folder, "epochs") or 5) + 1):
        time.sleep(float(_told(folder, "epoch_s") or 0.05))
        reached.write_text(str(epoch))
        _note(folder, f"epoch{epoch} train {training.project_id} {os.getpid()} {time.time()}")
        beat()
        if not context.store.trainings.report(training.training_id, {"epoch": epoch}):
            return "cancelled"
        if crash and epoch >= int(crash):
            os.kill(os.getpid(), 9)
        if hang and epoch >= int(hang):
            time.sleep(600)
    return "done"


def train(context, training_id, beat):
    from ls_backend.errors import Unreachable

    training = context.store.trainings.get(training_id)
    if training is None or not training.is_open:
        return
    if _told(context.settings.data_dir, "raise"):
        raise Unreachable("Label Studio gave no answer within 3 s.")
    context.store.trainings.begin(training_id, classes=training.classes, n_labels=0, labels_until=None)
    _note(context.settings.data_dir, f"begin train {training.project_id} {os.getpid()} {time.time()}")
    how = _epochs(context, training, beat)
    _note(context.settings.data_dir, f"end train {training.project_id} {os.getpid()} {time.time()}")
    context.store.trainings.finish(training_id, how, version_id="deep-1-0badcafe" if how == "done" else None)


def ask(context, project_id):
    due = context.settings.data_dir / "due"
    if due.exists():
        due.unlink()
        context.store.trainings.ask(project_id, "box", classes=("car",), n_labels=1)


def give_up(context, training_id, code, deaths):
    context.store.trainings.finish(training_id, "failed", error=f"code {code}, {deaths} times")


def judge_pool(context, project_id, control, told):
    _body(context, "judge", project_id)
    context.store.projects.bump(project_id)
    told(True)


def preview(context, project_id, token):
    _body(context, "preview", project_id)
    context.store.insights.put(project_id, f"preview:{token}", {"state": "done"})


def _advise(kind):
    def run(context, project_id, *, say):
        say("begun")
        _body(context, kind, project_id)

    return run


class Looked:
    def __init__(self, project_id, findings, **how):
        self.findings = findings


def examine(context):
    _body(context, "examine", 0)
    return []


def keep(context, looks):
    for look in looks:
        _note(context.settings.data_dir, f"kept examine 0 {len(look.findings)} {time.time()}")


def _plain(kind):
    def run(context, project_id, **how):
        _body(context, kind, project_id)

    return run


def write_reasons(context, project_id, *, budget_s):
    _body(context, "reasons", project_id)
    due = context.settings.data_dir / "reasons-due"
    if due.exists():
        due.write_text(due.read_text() + ".")
        if len(due.read_text()) == 3:
            due.unlink()


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
_module("ls_backend.engine.preview", preview=preview)
_module("ls_backend.engine.reconcile", reconcile=_plain("reconcile"))
_module("ls_backend.engine.sync", sync=_plain("sync"))
_module("ls_backend.engine.connect", connect=connect)
_module(
    "ls_backend.engine.insights",
    find_out=_plain("insights"),
    due=lambda store, project_id: (Path(os.environ["DATA_DIR"]) / "insights-due").exists(),
)
_module(
    "ls_backend.engine.reasons",
    write=write_reasons,
    due=lambda store, project_id: (Path(os.environ["DATA_DIR"]) / "reasons-due").exists(),
)
_module("ls_backend.engine.deep", ask=ask, train=train, give_up=give_up)
_module("ls_backend.engine.doctor", examine=examine, keep=keep, Looked=Looked)
_module("ls_backend.engine.judge", judge_pool=judge_pool, due=lambda context, project_id: [])
_module(
    "ls_backend.engine.advice",
    renew=_advise("advice"),
    replay_savings=_advise("savings"),
    due=lambda store, project_id: (Path(os.environ["DATA_DIR"]) / "advice-due").exists(),
)
for name in ("deep", "judge", "reasons"):
    setattr(sys.modules["ls_backend.engine"], name, sys.modules[f"ls_backend.engine.{name}"])
