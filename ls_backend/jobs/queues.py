"""The doors to the job queues: wake a project's work, wait for an answer, look at what is going on.

A kick says "there is something to do", never what: that is in the records. It may be lost or come twice. A lost one is
healed by the supervisor, a second one finds the same job id and is refused.

Two job ids for each project and kind ("update-7-a", "update-7-b"): while a job runs, one successor may wait. With a
single id an event that arrives after the job's last look at the records and before its end would wake nobody.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime

import redis
from redis.backoff import ConstantBackoff
from redis.retry import Retry as ReconnectPolicy
from rq import Queue
from rq import Retry as JobRetry
from rq.exceptions import DuplicateJobError
from rq.intermediate_queue import IntermediateQueue

from ls_backend.errors import SettingsError
from ls_backend.jobs import flight, redis_server, tally
from ls_backend.jobs.keys import answer_key, failures_key, job_key, pace_key, pause_key, tries_key, wanted_key
from ls_backend.jobs.sights import Pace, Sights
from ls_backend.settings import Settings

RANK = "rank"
EMBED = "embed"
TRAIN = "train"
NAMES = (RANK, EMBED, TRAIN)
SERIALIZER = "json"

_DAYS_S = 8 * 86_400  # more than any training is allowed; a process that hangs is noticed by its silence
TIMEOUT_S = {
    "update": 600,
    "reconcile": 300,
    "sync": 3600,
    "connect": 300,
    "embed": 900,
    "predict": 120,
    "insights": 120,
    "preview": 120,
    "reasons": 120,
    "train": _DAYS_S,
    "judge": _DAYS_S,
    "advice": 1800,
    "savings": 6 * 3600,
    "examine": 300,
}
"""Seconds a job of each kind may run."""

KIND_QUEUES = {
    "update": RANK,
    "reconcile": RANK,
    "sync": RANK,
    "connect": RANK,
    "embed": EMBED,
    "predict": EMBED,
    "insights": EMBED,
    "preview": RANK,
    "reasons": EMBED,
    "train": TRAIN,
    "judge": TRAIN,
    "advice": TRAIN,
    "savings": TRAIN,
    "examine": EMBED,
}
_FUNCTIONS = {
    "update": "ls_backend.jobs.tasks.update_project",
    "reconcile": "ls_backend.jobs.tasks.reconcile",
    "sync": "ls_backend.jobs.tasks.sync",
    "connect": "ls_backend.jobs.tasks.connect",
    "embed": "ls_backend.jobs.tasks.embed",
    "predict": "ls_backend.jobs.tasks.predict",
    "insights": "ls_backend.jobs.tasks.insights",
    "preview": "ls_backend.jobs.tasks.preview",
    "reasons": "ls_backend.jobs.tasks.reasons",
    "train": "ls_backend.jobs.tasks.train",
    "judge": "ls_backend.jobs.tasks.judge",
    "advice": "ls_backend.jobs.tasks.advice",
    "savings": "ls_backend.jobs.tasks.savings",
    "examine": "ls_backend.jobs.tasks.examine",
}
_SLOTS = "ab"
_IS_BUSY = """
local status = redis.call('hget', KEYS[1], 'status')
if status == 'queued' then
  if redis.call('lpos', KEYS[2], ARGV[1]) or redis.call('lpos', KEYS[3], ARGV[1]) then return 1 end
elseif status == 'started' then
  for _, entry in ipairs(redis.call('zrange', KEYS[4], 0, -1)) do
    if string.sub(entry, 1, #ARGV[1] + 1) == ARGV[1] .. ':' then return 1 end
  end
else
  return 0
end
redis.call('del', KEYS[1])
return 0
"""
_RETRIES = 2  # runs again after the death of a worker; a job's own errors are recorded, not repeated at once
_FAILURE_TTL_S = 5  # 0 would end healthy workers while they clean up, longer would block the id of a failed job
_ANSWER_TTL_S = 60
_FAILURE_KEPT_S = 86_400
_LONGEST_PAUSE_S = 60
_PACE_KEPT_S = 600
DEPLOYMENT = 0
"""In place of a project's id: work that concerns the whole deployment."""


class Queues(Sights):
    """The job queues of a deployment. Thread-safe; one for each process.

    Every method raises `QueueError` when Redis gives no answer within about two seconds. A caller that has bumped the
    project's wanted generation may go on after a failed kick: the supervisor repeats it.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        connection = redis.Redis.from_url(
            url,
            socket_connect_timeout=1,
            socket_timeout=2,
            retry=ReconnectPolicy(ConstantBackoff(0.05), 1),
            retry_on_error=[redis.ConnectionError],
        )
        queues = {name: Queue(name, connection=connection, serializer=SERIALIZER) for name in NAMES}
        super().__init__(connection, queues, KIND_QUEUES)

    @classmethod
    def of(cls, settings: Settings) -> Queues:
        """Return the queues of a deployment: REDIS_URL, or the embedded server of its data folder."""
        return cls(redis_url(settings))

    def close(self) -> None:
        """Let go of the connections."""
        self._redis.close()

    def kick(self, project_id: int) -> bool:
        """Wake `update_project`. Bump the project's wanted generation first, and commit it.

        Returns:
            Whether a job was added; False when one waits already and will see the bump.
        """
        return self._enqueue_single("update", project_id)

    def kick_embed(self, project_id: int) -> bool:
        """Wake the reading and embedding of the project's new images; like `kick`."""
        with self._talking():
            self._redis.incr(wanted_key("embed", project_id))
        return self._enqueue_single("embed", project_id)

    def kick_reconcile(self, project_id: int) -> bool:
        """Wake a comparison of Label Studio with the records; False when one waits or runs already."""
        return self._enqueue("reconcile", f"reconcile-{project_id}", (project_id,))

    def kick_sync(self, project_id: int, *, rebuild: bool = False) -> bool:
        """Wake a full read of Label Studio; False when one waits or runs already.

        Args:
            project_id: Project to read.
            rebuild: Forget first what is known of its tasks.
        """
        return self._enqueue("sync", f"sync-{project_id}" + ("-rebuild" if rebuild else ""), (project_id, rebuild))

    def kick_connect(self, project_id: int) -> bool:
        """Wake the connecting of a project; False when that waits or runs already."""
        return self._enqueue_freed("connect", f"connect-{project_id}", (project_id,))

    def kick_insights(self, project_id: int) -> bool:
        """Wake the making of what people can see of embeddings and heads; False when one waits that will see it all."""
        return self._enqueue_single("insights", project_id)

    def kick_reasons(self, project_id: int) -> bool:
        """Wake the writing of reasons into task data; False when one waits that will see what is to be written."""
        return self._enqueue_single("reasons", project_id)

    def kick_train(self, project_id: int, training_id: int) -> bool:
        """Wake a training that the records want; False when it waits or runs already, or failed and rests."""
        if self.resting("train", project_id):
            return False
        return self._enqueue_freed("train", f"train-{project_id}-{training_id}", (project_id, training_id))

    def kick_judge(self, project_id: int, control: str) -> bool:
        """Wake a deep version to look at the pool; False when that waits or runs already, or failed and rests."""
        if self.resting("judge", project_id):
            return False
        digest = hashlib.sha256(control.encode("utf-8", "backslashreplace")).hexdigest()[:16]
        return self._enqueue("judge", f"judge-{project_id}-{digest}", (project_id, control))

    def kick_advice(self, project_id: int) -> bool:
        """Wake the making of advice; False when it waits or runs already."""
        return self._enqueue("advice", f"advice-{project_id}", (project_id,))

    def kick_savings(self, project_id: int) -> bool:
        """Wake the replay of a project's labels; False when it waits or runs already."""
        return self._enqueue("savings", f"savings-{project_id}", (project_id,))

    def kick_examine(self) -> bool:
        """Wake a look at every known trap, kept as problems; False when one waits or runs already."""
        return self._enqueue_freed("examine", f"examine-{DEPLOYMENT}", ())

    def retry(self, kind: str, project_id: int) -> bool:
        """End the pause of failed work and wake it; what nobody waits for any more is only forgotten.

        Trainings and their looks at the pool are woken through a comparison, which knows what is due: see `work.retry`
        for a training that is over.

        Returns:
            Whether a job was added; False when one waits already, and for `predict` and `preview`, which are asked for
            anew.

        Raises:
            SettingsError: There is no such kind.
        """
        if kind not in KIND_QUEUES:
            raise SettingsError(
                f"There is no kind of job {kind!r}; expected one of {', '.join(KIND_QUEUES)}.",
                hint="List the failed jobs with `ls-backend jobs`.",
            )
        with self._talking():
            self._redis.delete(pause_key(kind, project_id), tries_key(kind, project_id))
            if kind in ("predict", "preview"):
                self._redis.hdel(failures_key(project_id), kind)
        if kind == "examine":
            return self.kick_examine()
        kicks = {
            "update": self.kick,
            "embed": self.kick_embed,
            "sync": self.kick_sync,
            "connect": self.kick_connect,
            "savings": self.kick_savings,
        }
        if kind in kicks:
            return kicks[kind](project_id)
        return kind not in ("predict", "preview") and self.kick_reconcile(project_id)

    def heal(self, project_id: int) -> bool:
        """Like `kick`, unless an update is on its way already, or failed and its pause is not over."""
        if self.resting("update", project_id):
            return False
        with self._talking():
            if any([self._is_busy("update", f"update-{project_id}-{slot}") for slot in _SLOTS]):  # noqa: C419 - every look also frees a lost id
                return False
        return self.kick(project_id)

    def resting(self, kind: str, project_id: int) -> bool:
        """Whether such work failed and its pause is not over.

        The pause doubles with each failed or killed run, from 2 s to 60 s.
        """
        with self._talking():
            return bool(self._redis.exists(pause_key(kind, project_id)))

    def end_pauses(self) -> None:
        """Let failed work be tried at once: a restart often follows a repair. The next failure rests as long again."""
        with self._talking():
            for key in self._redis.scan_iter(pause_key("*", "*")):
                self._redis.delete(key)

    def embeds_wanted(self, project_id: int) -> int:
        """Count of `kick_embed` so far; lets a running job see that it was kicked again."""
        with self._talking():
            return int(self._redis.get(wanted_key("embed", project_id)) or 0)

    @contextmanager
    def alone(self, name: str, job_id: str, *, longest_s: int, wait_s: float = 0.0) -> Iterator[bool]:
        """Hold the lock `name` for a running job while the block runs: see `flight.alone`."""
        with flight.alone(self._redis, name, job_id, longest_s=longest_s, wait_s=wait_s) as taken:
            yield taken

    def claim(self, name: str, *, seconds: float) -> bool:
        """Return True to one caller in a stretch of `seconds`, whichever process asks first."""
        with self._talking():
            return bool(self._redis.set(f"lsb:claim:{name}", 1, nx=True, px=int(seconds * 1000)))

    def predict(self, project_id: int, task_ids: Sequence[int], *, deadline_s: float) -> bool:
        """Have tasks read, embedded and predicted before anything else, and wait for it.

        Callers that ask for the same tasks at the same time share one job.

        Args:
            project_id: Their project.
            task_ids: Tasks the records have no prediction for.
            deadline_s: Seconds to wait; the job goes on afterwards, so the next question finds its answer.

        Returns:
            Whether the predictions are in the records now; False after a failure or the deadline.
        """
        deadline = time.monotonic() + deadline_s
        ids = sorted({int(task_id) for task_id in task_ids})
        digest = hashlib.sha256(json.dumps(ids).encode()).hexdigest()[:24]
        job_id = f"predict-{project_id}-{digest}"
        with self._talking():
            if not self._is_known(job_id):
                self._redis.delete(answer_key(job_id))
        self._enqueue("predict", job_id, (project_id, ids), at_front=True)
        return self._answer(job_id, deadline)

    def preview(self, project_id: int, token: str, *, deadline_s: float = 0.0) -> bool:
        """Have a preview made that the records want, before anything else, since somebody looks at the page.

        Args:
            project_id: Its project.
            token: From `engine.configure.ask_preview`.
            deadline_s: Seconds to wait for it; 0 to look for it later.

        Returns:
            Whether it is in the records now.
        """
        deadline = time.monotonic() + deadline_s
        job_id = f"preview-{project_id}-{token}"
        self._enqueue("preview", job_id, (project_id, token), at_front=True)
        return self._answer(job_id, deadline)

    def note_pace(self, project_id: int, pace: Pace) -> None:
        """Keep how fast a chunk was embedded, for those who ask how long the rest takes."""
        with self._talking():
            self._redis.set(pace_key(project_id), json.dumps([pace.tasks, pace.seconds]), ex=_PACE_KEPT_S)

    def started(self, kind: str, project_id: int) -> None:
        """Note that a run begins: until it succeeds the project is in its pause, whatever ends the run."""
        with self._talking():
            tries = int(self._redis.incr(tries_key(kind, project_id)))
            pause_s = min(2**tries, _LONGEST_PAUSE_S)
            pipeline = self._redis.pipeline()
            pipeline.expire(tries_key(kind, project_id), 10 * _LONGEST_PAUSE_S)
            pipeline.set(pause_key(kind, project_id), tries, ex=pause_s)
            pipeline.execute()

    def succeeded(self, kind: str, project_id: int, *, seconds: float | None = None) -> None:
        """Note that a run did what it should, and how long it took: no pause, no failure."""
        with self._talking():
            pipeline = self._redis.pipeline()
            tally.note(pipeline, kind, tally.DONE, seconds)
            pipeline.delete(tries_key(kind, project_id), pause_key(kind, project_id))
            pipeline.hdel(failures_key(project_id), kind)
            pipeline.execute()

    def record_failure(
        self,
        kind: str,
        project_id: int,
        *,
        code: str,
        message: str,
        hint: str,
        seconds: float | None = None,
        error: Exception | None = None,
    ) -> None:
        """Keep why a run failed where it can be read even when the database is what failed, and count it.

        Args:
            kind: What failed.
            project_id: For which project.
            code: Stable name of the error.
            message: In words.
            hint: What to do.
            seconds: How long the run took; None for a worker that died.
            error: What was raised; None for a worker that died.
        """
        told = {"code": code, "message": message, "hint": hint, "at": datetime.now(UTC).isoformat()}
        with self._talking():
            pipeline = self._redis.pipeline()
            tally.note(pipeline, kind, tally.DIED if error is None else tally.FAILED, seconds, error)
            pipeline.hset(failures_key(project_id), kind, json.dumps(told))
            pipeline.expire(failures_key(project_id), _FAILURE_KEPT_S)
            pipeline.execute()

    def answer(self, job_id: str, *, done: bool) -> None:
        """Tell those who wait for a predict or preview job how it ended."""
        with self._talking():
            self._redis.set(answer_key(job_id), int(done), ex=_ANSWER_TTL_S)

    def _answer(self, job_id: str, deadline: float) -> bool:
        pause_s = 0.005
        while True:
            with self._talking():
                pipeline = self._redis.pipeline()  # one transaction: the answer is set before the job disappears
                pipeline.get(answer_key(job_id))
                pipeline.hget(job_key(job_id), "status")
                answer, status = pipeline.execute()
            if answer is not None:
                return bool(int(answer))
            if status in (None, b"failed", b"stopped", b"canceled"):
                return False
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                return False
            time.sleep(min(pause_s, left_s))
            pause_s = min(pause_s * 1.5, 0.1)

    def _is_busy(self, kind: str, job_id: str) -> bool:
        """Whether a job waits or runs; frees its id when it only says so, as a Redis that lost data may leave it."""
        queue = self._queues[KIND_QUEUES[kind]]
        between = IntermediateQueue.get_intermediate_queue_key(queue.key)
        keys = (job_key(job_id), queue.key, between, queue.started_job_registry.key)
        return bool(self._redis.eval(_IS_BUSY, len(keys), *keys, job_id))

    def _is_known(self, job_id: str) -> bool:
        return bool(self._redis.exists(job_key(job_id)))

    def _enqueue_single(self, kind: str, project_id: int) -> bool:
        return any(self._enqueue(kind, f"{kind}-{project_id}-{slot}", (project_id,)) for slot in _SLOTS)

    def _enqueue_freed(self, kind: str, job_id: str, args: tuple[object, ...]) -> bool:
        """Enqueue what nothing else would wake again, also where a Redis without data has left the id."""
        with self._talking():
            if self._is_busy(kind, job_id):
                return False
        return self._enqueue(kind, job_id, args)

    def _enqueue(self, kind: str, job_id: str, args: tuple[object, ...], *, at_front: bool = False) -> bool:
        with self._talking():
            try:
                self._queues[KIND_QUEUES[kind]].enqueue_call(
                    _FUNCTIONS[kind],
                    args,
                    job_id=job_id,
                    unique=True,
                    timeout=TIMEOUT_S[kind],
                    result_ttl=0,
                    failure_ttl=_FAILURE_TTL_S,
                    retry=JobRetry(max=_RETRIES),
                    at_front=at_front,
                    description=job_id,
                )
            except DuplicateJobError:
                return False
        return True


def redis_url(settings: Settings) -> str:
    """Return the Redis of a deployment: REDIS_URL, or the embedded server of its data folder."""
    if settings.redis_url is not None:
        return settings.redis_url.get_secret_value()
    return redis_server.url_of(settings.data_dir)
