"""The job functions: thin wrappers that decide when and how often the engine runs, never what it does.

    update_project  engine.update, when the wanted generation is ahead of the done one
    embed           engine.embed_pool, a chunk a job, until nothing remains
    predict         engine.predict for tasks somebody waits for
    preview         engine.preview for settings somebody tries out
    insights        engine.insights, after an update that changed something, or when somebody asks
    reasons         engine.reasons, after an update, a few seconds a job, until nothing remains
    reconcile       engine.reconcile
    sync            engine.sync
    connect         engine.connect, when somebody asks for it
    train           engine.deep, in a process of its own, for a training that the records want
    judge           engine.judge, likewise, for the pool of a control
    advice          engine.advice.renew, likewise, now and then
    savings         engine.advice.replay_savings, likewise, when somebody asks for it
    examine         engine.doctor, whose findings are kept as problems

Errors are recorded (records and Redis), paused and healed by the supervisor; they do not leave the job, because RQ
would repeat it at once. A killed worker's job is repeated at once.
"""

from __future__ import annotations

import importlib
import threading
import time
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import structlog
from rq import get_current_job
from rq.timeouts import JobTimeoutException

from ls_backend import logs
from ls_backend.domain import Finding
from ls_backend.errors import BackendError, QueueError
from ls_backend.jobs import children
from ls_backend.jobs.queues import DEPLOYMENT, EMBED, RANK, TIMEOUT_S, TRAIN, Queues
from ls_backend.jobs.sights import Pace
from ls_backend.settings import Settings

if TYPE_CHECKING:
    from ls_backend.engine.context import Context

worker_settings: ContextVar[Settings] = ContextVar("worker_settings")
"""Settings of the worker process that runs the jobs; set once by `workers.work`."""

stopping = threading.Event()
"""Set when the worker process is asked to end: a job that can go on later breaks off."""

_MODULES = {
    RANK: ("ls_backend.engine.update", "ls_backend.engine.reconcile", "ls_backend.engine.sync"),
    EMBED: ("ls_backend.engine.embed_pool", "ls_backend.engine.predict"),
}
_INSIGHTS_S = 20.0
"""Seconds between two insights into a project that nobody has asked for."""
_ADVICE_S = 60.0
"""Seconds after which advice is tried again where it could not be made."""
_REASONS_S = 3.0
"""Seconds of writing reasons before other work of the embed worker has its turn: somebody may wait for a prediction."""
_LOCK_WAITS_S = 120.0  # behind an update that runs in another worker
_log = logs.get(__name__)


@dataclass(frozen=True, slots=True)
class _Run:
    """One kind of work on one project.

    Attributes:
        lock: Runs with the same lock are never at the same time; None for work that may overlap.
        wait_s: Seconds to wait for the lock; with 0 the work is left to the run that holds it.
    """

    kind: str
    project_id: int
    lock: str | None = None
    wait_s: float = 0.0


@cache
def _context(settings: Settings) -> Context:
    """Models, caches and connections, kept as long as the worker lives."""
    from ls_backend.engine.context import Context  # noqa: PLC0415 - slow to import, and not in the server

    return Context(settings)


@cache
def _queues(settings: Settings) -> Queues:
    return Queues.of(settings)


def warm_up(settings: Settings, queue: str) -> None:
    """Import what the jobs of a queue need, so that the first one does not wait for it."""
    if queue == TRAIN:
        return  # PyTorch is loaded by a process that ends with its training, so that an idle worker is small
    _context(settings).warm_up()
    for module in _MODULES[queue]:
        importlib.import_module(module)


def update_project(project_id: int) -> None:
    """Bring a project's model and queue up to its wanted generation."""

    def body(context: Context) -> None:
        from ls_backend.engine.update import update_project as engine_update  # noqa: PLC0415 - slow to import

        project = context.store.projects.get(project_id)
        if project is None or project.wanted_generation <= project.done_generation:
            return
        engine_update(context, project_id)

    _run(_Run("update", project_id, lock=f"project-{project_id}"), body)


def reconcile(project_id: int) -> None:
    """Compare Label Studio with the records; skipped while the project is being updated."""

    def body(context: Context) -> None:
        from ls_backend.engine.reconcile import reconcile as engine_reconcile  # noqa: PLC0415 - slow to import

        engine_reconcile(context, project_id)

    _run(_Run("reconcile", project_id, lock=f"project-{project_id}"), body)


def sync(project_id: int, rebuild: bool) -> None:  # noqa: FBT001 - RQ passes positional arguments
    """Read a project from Label Studio in full, then update it."""

    def body(context: Context) -> None:
        from ls_backend.engine.sync import sync as engine_sync  # noqa: PLC0415 - slow to import

        engine_sync(context, project_id, rebuild=rebuild)
        context.store.projects.bump(project_id)

    _run(_Run("sync", project_id, lock=f"project-{project_id}", wait_s=_LOCK_WAITS_S), body)


def connect(project_id: int) -> None:
    """Have Label Studio serve a project in our order."""

    def body(context: Context) -> None:
        from ls_backend.engine.connect import connect as engine_connect  # noqa: PLC0415 - slow to import

        engine_connect(context, project_id)

    _run(_Run("connect", project_id, lock=f"project-{project_id}", wait_s=_LOCK_WAITS_S), body)


def embed(project_id: int) -> None:
    """Read and embed the next chunk of new images; the next chunk is a job of its own."""

    def body(context: Context) -> None:
        from ls_backend.engine.embed_pool import embed_pool  # noqa: PLC0415 - slow to import

        queues = _queues(context.settings)
        seen = queues.embeds_wanted(project_id)
        started = time.monotonic()
        made = embed_pool(context, project_id)
        if tasks := made.read + made.failed:
            queues.note_pace(project_id, Pace(tasks, time.monotonic() - started))
        if made.remaining or queues.embeds_wanted(project_id) != seen:
            queues.kick_embed(project_id)

    _run(_Run("embed", project_id, lock=f"embed-{project_id}"), body)


def predict(project_id: int, task_ids: list[int]) -> None:
    """Predict tasks somebody waits for, and tell them how it ended."""

    def body(context: Context) -> None:
        from ls_backend.engine.predict import predict_tasks  # noqa: PLC0415 - slow to import

        predict_tasks(context, project_id, task_ids)

    _run(_Run("predict", project_id), body)


def preview(project_id: int, token: str) -> None:
    """Rank with settings that somebody tries out, and tell him."""

    def body(context: Context) -> None:
        from ls_backend.engine.preview import preview as engine_preview  # noqa: PLC0415 - slow to import

        engine_preview(context, project_id, token)

    _run(_Run("preview", project_id), body)


def insights(project_id: int) -> None:
    """Make what people can see of a project's embeddings and heads."""

    def body(context: Context) -> None:
        from ls_backend.engine.insights import find_out  # noqa: PLC0415 - slow to import

        if context.store.projects.get(project_id) is not None:
            find_out(context, project_id)

    _run(_Run("insights", project_id, lock=f"insights-{project_id}"), body)


def reasons(project_id: int) -> None:
    """Write the reasons of the window in force into the task data, and take those out that are over."""

    def body(context: Context) -> None:
        from ls_backend.engine import reasons as engine_reasons  # noqa: PLC0415 - slow to import

        if context.store.projects.get(project_id) is None:
            return
        engine_reasons.write(context, project_id, budget_s=_REASONS_S)
        if engine_reasons.due(context.store, project_id):
            _queues(context.settings).kick_reasons(project_id)

    _run(_Run("reasons", project_id, lock=f"reasons-{project_id}"), body)


def train(project_id: int, training_id: int) -> None:
    """Carry out a training that the records want, then have what it made look at the pool."""

    def body(context: Context) -> None:
        children.train(context, training_id, stopping)

    _run(_Run("train", project_id, lock=f"deep-{project_id}"), body)


def judge(project_id: int, control: str) -> None:
    """Have the deep version in force of a control look at what it has not judged of the pool."""

    def body(_context: Context) -> None:
        children.judge(project_id, control, stopping)

    _run(_Run("judge", project_id, lock=f"deep-{project_id}"), body)


def advice(project_id: int) -> None:
    """Look at a project from all sides, and keep what there is to say."""

    def body(_context: Context) -> None:
        children.advise("advice", project_id, stopping)

    _run(_Run("advice", project_id, lock=f"advice-{project_id}"), body)


def savings(project_id: int) -> None:
    """Replay the labels of a project, and keep what its plan has saved."""

    def body(_context: Context) -> None:
        children.advise("savings", project_id, stopping)

    _run(_Run("savings", project_id, lock=f"savings-{project_id}"), body)


def examine() -> None:
    """Look at every known trap, and keep what is found as problems."""

    def body(context: Context) -> None:
        from ls_backend.engine import doctor  # noqa: PLC0415 - slow to import
        from ls_backend.jobs import checkup  # noqa: PLC0415 - only here

        doctor.keep(context, [checkup.look(context.settings), *doctor.examine(context)])

    _run(_Run("examine", DEPLOYMENT, lock="examine"), body)


def _run(run: _Run, body: Callable[[Context], None]) -> None:
    job = get_current_job()
    if job is None:
        raise QueueError(f"{run.kind} was called outside a worker; expected a job.", hint="Start jobs with `Queues`.")
    settings = worker_settings.get()
    queues = _queues(settings)
    done = False
    about = {"job": job.id, "kind": run.kind} | ({} if run.project_id == DEPLOYMENT else {"project": run.project_id})
    started = time.monotonic()
    with structlog.contextvars.bound_contextvars(**about):
        try:
            done = _hold_and_run(settings, run, job.id, body)
        except Exception as error:  # noqa: BLE001 - the border of the job: all is recorded here, timeouts too
            _record(settings, run, error, time.monotonic() - started)
        if run.kind in ("predict", "preview"):
            queues.answer(job.id, done=done)
        else:
            _wake_followers(settings, run)


def _hold_and_run(settings: Settings, run: _Run, job_id: str, body: Callable[[Context], None]) -> bool:
    queues = _queues(settings)
    longest_s = TIMEOUT_S[run.kind] + 60
    with queues.alone(run.lock or job_id, job_id, longest_s=longest_s, wait_s=run.wait_s) as taken:
        if not taken and run.wait_s:
            raise QueueError(
                f"Another run of project {run.project_id} goes on for more than {run.wait_s:.0f} s.",
                hint="Ask again when it is done.",
            )
        if not taken:
            return False  # the run that holds the lock looks again when it ends
        queues.started(run.kind, run.project_id)
        context = _context(settings)
        started = time.monotonic()
        body(context)
        queues.succeeded(run.kind, run.project_id, seconds=time.monotonic() - started)
        _resolve(context, run)
    return True


def _wake_followers(settings: Settings, run: _Run) -> None:
    """Kick what this run left to do or refused to others; what is lost here is healed by the supervisor."""
    if stopping.is_set() and run.kind in ("train", "judge"):
        return  # a kick now might come back to this very worker
    queues = _queues(settings)
    try:
        store = _context(settings).store
        project = store.projects.get(run.project_id)
        if project is None:
            return
        behind = project.wanted_generation > project.done_generation
        if behind and not queues.resting("update", run.project_id):
            queues.kick(run.project_id)
        waiting = run.kind != "embed" and bool(store.tasks.unread(run.project_id, 1))
        if run.kind == "reconcile":  # often enough for a change of backbone, which is hours of work or none
            from ls_backend.engine.backbones import changing  # noqa: PLC0415 - slow to import

            waiting = waiting or changing(_context(settings), project)
        if waiting and not queues.resting("embed", run.project_id):
            queues.kick_embed(run.project_id)
        if run.kind in ("update", "reconcile") and not behind:  # a foreign model may have been mended meanwhile
            _want_deeper(settings, run.project_id)
        for training in store.trainings.open(run.project_id) if run.kind in ("update", "train", "judge") else ():
            queues.kick_train(run.project_id, training.training_id)
        _want_shown(settings, run)  # last: what learns must not wait, or fail, for what people look at
    except Exception:  # noqa: BLE001 - the job itself is done, and the supervisor makes up for this
        _log.exception("what follows this job was not started; the supervisor will")


def _want_deeper(settings: Settings, project_id: int) -> None:
    """Note which controls call for a deeper training, and have the pool looked at where it was not."""
    from ls_backend.engine import deep  # noqa: PLC0415 - slow to import
    from ls_backend.engine import judge as engine_judge  # noqa: PLC0415 - slow to import

    context = _context(settings)
    deep.ask(context, project_id)
    for control in engine_judge.due(context, project_id):
        _queues(settings).kick_judge(project_id, control)


def _want_shown(settings: Settings, run: _Run) -> None:
    """Have what people look at follow what this run has changed."""
    if run.kind in ("update", "reconcile", "insights"):
        _want_advice(settings, run.project_id)
        _want_insights(settings, run.project_id)
    if run.kind in ("update", "reconcile"):
        _want_reasons(settings, run.project_id)


def _want_insights(settings: Settings, project_id: int) -> None:
    """Have the insights made anew when what they were made from has changed, now and then: people only look at them."""
    from ls_backend.engine.insights import due  # noqa: PLC0415 - slow to import

    queues = _queues(settings)
    if queues.resting("insights", project_id) or not due(_context(settings).store, project_id):
        return
    if queues.claim(f"insights-{project_id}", seconds=_INSIGHTS_S):  # what is refused here comes after the next job
        queues.kick_insights(project_id)


def _want_advice(settings: Settings, project_id: int) -> None:
    """Have advice made anew when there is something new to say: it takes a process of its own, and nobody waits."""
    from ls_backend.engine.advice import due  # noqa: PLC0415 - slow to import

    queues = _queues(settings)
    if due(_context(settings).store, project_id) and queues.claim(f"advice-{project_id}", seconds=_ADVICE_S):
        queues.kick_advice(project_id)


def _want_reasons(settings: Settings, project_id: int) -> None:
    """Have reasons written or removed, where an update or the settings call for it."""
    from ls_backend.engine.reasons import due  # noqa: PLC0415 - slow to import

    queues = _queues(settings)
    if not queues.resting("reasons", project_id) and due(_context(settings).store, project_id):
        queues.kick_reasons(project_id)


def _subject(run: _Run) -> str:
    return f"job {run.kind}"


def _resolve(context: Context, run: _Run) -> None:
    for problem in context.store.problems.open(run.project_id):
        if problem.finding.subject == _subject(run):
            context.store.problems.resolve(run.project_id, problem.finding.code, problem.finding.subject)


def _record(settings: Settings, run: _Run, error: Exception, seconds: float) -> None:
    code, hint = "job-failed", BackendError.hint
    if isinstance(error, BackendError):
        code, hint = error.code, error.hint
        _log.warning("job failed", code=code, error=str(error))
    else:
        _log.error("job failed", exc_info=error)
    if isinstance(error, JobTimeoutException):
        code, hint = "job-timeout", "Look at the log for what took so long; the job is tried again after a pause."
    message = str(error) or type(error).__name__
    try:
        _queues(settings).record_failure(
            run.kind, run.project_id, code=code, message=message, hint=hint, seconds=seconds, error=error
        )
        if run.kind == "connect" and _context(settings).store.projects.get(run.project_id) is None:
            return  # a number that is no project of ours: the failed job says so for a day, nothing would end a problem
        # People see less, and nothing waits for it.
        level = "warning" if run.kind in ("insights", "preview", "reasons", "advice", "savings") else "error"
        finding = Finding(code, level, _subject(run), message, hint)
        _context(settings).store.problems.report(run.project_id, finding)
    except Exception:  # noqa: BLE001 - the record of a failure must not become another one
        _log.exception("the failure could not be recorded", code=code)
