"""Settings through the JSON API, beside Label Studio that repeats its extra params."""

from __future__ import annotations

import pytest

PATH = "/api/projects/7/settings"


def shown(backend):
    answer = backend.http.get(PATH)
    assert answer.status_code == 200
    return answer.get_json()


def put(backend, settings, expected=None, **how):
    return backend.http.put(PATH, json={"settings": settings, "expected": expected}, **how)


def test_settings_in_force_say_where_they_come_from_and_what_they_come_to(connected):
    found = shown(connected)
    assert (found["revision"], found["source"], found["who"]) == (1, "label-studio", "anonymous")
    assert found["settings"]["preset"] == "auto"
    assert found["objectives"]["uncertainty"] == {"method": "margin", "strength": 1.0}


def test_a_saved_change_is_in_force_and_wakes_the_worker(connected):
    answer = put(connected, {"preset": "margin"}, expected=1)
    assert answer.status_code == 200
    assert answer.get_json() == shown(connected)
    assert (answer.get_json()["revision"], answer.get_json()["source"]) == (2, "api")
    assert connected.waiting() == ["update-7-a"]
    assert answer.get_json()["objectives"]["diversity"]["strength"] == 0


def test_repeated_extra_params_do_not_undo_it_and_new_ones_hold(connected):
    connected.set_up(extra_params={"preset": "margin"})
    put(connected, {"preset": "entropy"})
    for _ in range(3):
        assert connected.set_up(extra_params='{"preset":  "margin"}').status_code == 200
    assert shown(connected)["settings"]["preset"] == "entropy"
    connected.set_up(extra_params={"preset": "bald"})
    assert (shown(connected)["settings"]["preset"], shown(connected)["source"]) == ("bald", "label-studio")


def test_a_repetition_that_no_longer_fits_the_labels_is_not_refused_but_said(connected):
    words = {"objectives": {"value": {"classes": {"cat": 2}}}}
    connected.set_up(extra_params=words)
    renamed = connected.config.replace('"cat"', '"lynx"')
    assert connected.set_up(extra_params=words, schema=renamed).status_code == 200
    assert connected.codes() == ["settings-invalid"]
    put_back = connected.set_up(extra_params=words)
    assert put_back.status_code == 200
    assert connected.codes() == []


def test_the_second_of_two_admins_gets_409_with_who_and_what(connected):
    assert put(connected, {"preset": "margin"}, expected=1).status_code == 200
    answer = put(connected, {"explore": 0.5}, expected=1)
    assert answer.status_code == 409
    told = answer.get_json()
    assert told["error"] == "settings-conflict"
    assert "anonymous (api) has saved revision 2" in told["message"]
    assert 'preset from "auto" to "margin"' in told["message"]
    assert shown(connected)["settings"]["explore"] == 0.05


@pytest.mark.parametrize(
    ("sent", "words"),
    [
        ({"explore": 3}, "explore is 3"),
        ({"explor": 0.1}, "did you mean explore"),
        ({"preset": "margn"}, "did you mean 'margin'"),
        ({"objectives": {"balance": {"target": {"cow": 1}}}}, "cow is not a label of this project"),
    ],
)
@pytest.mark.parametrize("path", [PATH, f"{PATH}/preview"])
def test_what_is_wrong_is_refused_by_name(connected, path, sent, words):
    connected.store.projects.set(7, label_config=connected.config)  # as the first update does
    call = connected.http.put if path == PATH else connected.http.post
    answer = call(path, json={"settings": sent})
    assert answer.status_code == 400
    assert words in answer.get_json()["message"]
    assert connected.waiting() == []


def test_the_history_lists_revisions_with_their_differences_and_undo_goes_back(connected):
    put(connected, {"explore": 0.2})
    revisions = connected.http.get(f"{PATH}/history").get_json()["revisions"]
    assert [item["revision"] for item in revisions] == [2, 1]
    assert revisions[0]["differences"] == [{"path": "explore", "before": "0.05", "after": "0.2"}]
    undone = connected.http.post(f"{PATH}/undo", json={"expected": 2})
    assert undone.status_code == 200
    assert (undone.get_json()["revision"], undone.get_json()["settings"]["explore"]) == (3, 0.05)
    assert connected.http.post(f"{PATH}/undo", json={"expected": 2}).status_code == 409
    assert connected.http.post(f"{PATH}/undo", json={"expected": 3, "to": 2}).get_json()["settings"]["explore"] == 0.2


def test_a_form_of_another_site_cannot_undo_anything(connected):
    put(connected, {"explore": 0.2})
    answer = connected.http.post(f"{PATH}/undo", data='{"expected": 2}', content_type="text/plain")
    assert answer.status_code == 422
    assert shown(connected)["revision"] == 2


def test_who_saves_is_the_name_of_basic_authentication_and_an_unchecked_name_is_none(deploy):
    guarded, unguarded = deploy(basic_auth_user="ana", basic_auth_pass="secret"), deploy()
    for backend, who in ((guarded, "ana"), (unguarded, "anonymous")):
        sent = {"auth": ("ana", "secret")}
        backend.store.projects.ensure(7)
        assert put(backend, {"seed": 1}, expected=0, **sent).get_json()["who"] == who


def test_a_preview_is_asked_of_a_worker_before_its_other_work(connected):
    connected.queues.kick(7)
    answer = connected.http.post(f"{PATH}/preview", json={"settings": {"preset": "margin"}})
    assert answer.status_code == 202
    token = answer.get_json()["token"]
    assert connected.waiting() == [f"preview-7-{token}", "update-7-a"]
    found = connected.http.get(f"{PATH}/preview/{token}").get_json()
    assert (found["state"], found["settings"]["preset"]) == ("asked", "margin")
    assert shown(connected)["settings"]["preset"] == "auto"
    assert connected.http.get(f"{PATH}/preview/0123").status_code == 400


def test_the_schema_is_served_and_markup_is_only_stored(connected):
    assert "explore" in connected.http.get("/api/settings/schema").get_json()["properties"]
    rule = {"field": "<img src=x onerror=alert(1)>"}
    put(connected, {"objectives": {"metadata": [rule]}})
    answer = connected.http.get(PATH)
    assert answer.content_type == "application/json"
    assert answer.get_json()["settings"]["objectives"]["metadata"] == [rule]


@pytest.mark.parametrize("path", ["", "/history", "/preview/12"])
def test_a_project_that_is_not_connected_is_not_found(backend, path):
    assert backend.http.get(f"/api/projects/99/settings{path}").status_code == 404
