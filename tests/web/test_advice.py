from datetime import datetime

import pytest


def test_advice_is_told_with_its_age_once_a_worker_has_made_it(connected):
    assert connected.http.get("/api/projects/7/advice").get_json() == {"advice": None, "savings": None}
    connected.store.insights.put(7, "advice", {"n_labels": 3, "sentences": {"stop": "Go on <b>labelling</b>."}})
    told = connected.http.get("/api/projects/7/advice").get_json()
    assert told["advice"]["content"]["sentences"]["stop"] == "Go on <b>labelling</b>."
    assert datetime.fromisoformat(told["advice"]["made_at"]).tzinfo is not None
    assert told["savings"] is None


@pytest.mark.parametrize("what", ["advice", "savings"])
def test_advice_and_a_replay_of_labels_are_asked_for_once(connected, what):
    assert connected.http.post(f"/api/projects/7/{what}").get_json() == {"added": True}
    assert connected.http.post(f"/api/projects/7/{what}").get_json() == {"added": False}
    assert connected.queues.depths()["train"] == 1


def test_advice_on_an_unknown_project_is_refused(backend):
    assert backend.http.get("/api/projects/4711/advice").status_code == 404
    assert backend.http.post("/api/projects/4711/savings").status_code == 404
