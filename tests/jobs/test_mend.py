"""What mends which problem, and what a person has to do himself."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from ls_backend.domain import MENDED_BY_CONNECTING, Finding, Task
from ls_backend.errors import SettingsError
from ls_backend.jobs import mend
from ls_backend.jobs.keys import pause_key


def wrong(code, subject="webhook", level="error"):
    return Finding(code, level, subject, "It is wrong.", "Do this.")


def woken(deployment, project_id=7):
    return [job.kind for job in deployment.queues.jobs(project_id) if job.state == "queued"]


@pytest.mark.parametrize("code", sorted(MENDED_BY_CONNECTING))
def test_what_connecting_repairs_is_connected_again(with_redis, code):
    with_redis.connect_project(7)
    with_redis.store.problems.report(7, wrong(code))
    assert mend.mend(with_redis.store, with_redis.queues, 7, code, "webhook")
    assert woken(with_redis) == ["connect"]
    assert not mend.mend(with_redis.store, with_redis.queues, 7, code, "webhook"), "it is on its way"


@pytest.mark.parametrize("code", ["sampling-mode", "webhook-missing", "model-version"])
def test_what_was_put_right_and_is_only_told_needs_nothing(with_redis, code):
    with_redis.connect_project(7)
    assert mend.mender(with_redis.store.projects.get(7), wrong(code, level="warning")) is None


def test_a_lost_order_is_put_back_by_a_comparison_unless_the_owner_manages_it(with_redis):
    with_redis.connect_project(7)
    finding = wrong("model-version", "annotation settings")
    with_redis.store.problems.report(7, finding)
    assert mend.mend(with_redis.store, with_redis.queues, 7, "model-version", "annotation settings")
    assert woken(with_redis) == ["reconcile"]
    with_redis.store.projects.set(7, settings_json='{"manage_queue": false}')
    assert mend.mender(with_redis.store.projects.get(7), finding) is None


def test_an_image_is_read_again_at_once(with_redis):
    with_redis.connect_project(7)
    tasks = with_redis.store.tasks
    made = datetime.now(UTC)
    tasks.upsert(7, [Task(n, {"image": f"{n}.png"}, made, False, 0, 0) for n in (3, 4)], image_field="image")
    for number in (3, 4):
        tasks.set_image_error(7, number, "404")
        with_redis.store.problems.report(7, wrong("image-unreadable", f"task {number}", "warning"))
    assert tasks.unread(7, 9) == []
    assert mend.mend(with_redis.store, with_redis.queues, 7, "image-unreadable", "task 3")
    assert [row.task_id for row in tasks.unread(7, 9)] == [3]
    assert woken(with_redis) == ["embed"]


def test_a_failed_job_is_tried_again_without_its_pause(with_redis):
    with_redis.connect_project(7)
    with_redis.queues.started("update", 7)
    with_redis.store.problems.report(7, wrong("job-failed", "job update"))
    assert mend.mend(with_redis.store, with_redis.queues, 7, "job-failed", "job update")
    assert woken(with_redis) == ["update"]
    assert with_redis.redis.exists(pause_key("update", 7)) == 0
    with_redis.store.problems.report(None, wrong("job-timeout", "job examine"))
    assert mend.mend(with_redis.store, with_redis.queues, None, "job-timeout", "job examine")
    assert woken(with_redis, 0) == ["examine"]


def test_a_training_that_failed_is_wanted_anew_but_not_one_that_lacks_labels(with_redis):
    with_redis.connect_project(7)
    trainings = with_redis.store.trainings
    asked = trainings.ask(7, "box", classes=("car",), n_labels=12)
    trainings.finish(asked.training_id, "failed", error="memory was short")
    with_redis.store.problems.report(7, wrong("training-error", "training of box"))
    assert mend.mend(with_redis.store, with_redis.queues, 7, "training-error", "training of box")
    assert [item.control for item in trainings.open(7)] == ["box"]
    assert mend.mender(None, wrong("too-few-labels", "training of box", "warning")) is None


@pytest.mark.parametrize("subject", ["annotation settings", "job of a person", "DATA_DIR"])
def test_what_takes_a_person_is_refused_with_its_remedy(with_redis, subject):
    with_redis.connect_project(7)
    with_redis.store.problems.report(7, wrong("overlap", subject))
    with pytest.raises(SettingsError, match="Nothing here mends overlap") as refused:
        mend.mend(with_redis.store, with_redis.queues, 7, "overlap", subject)
    assert refused.value.hint == "Do this."


def test_a_problem_that_is_over_is_not_mended(with_redis):
    with_redis.connect_project(7)
    with pytest.raises(SettingsError, match="no open problem 'webhook-missing'"):
        mend.mend(with_redis.store, with_redis.queues, 7, "webhook-missing", "webhook")
    assert woken(with_redis) == []
