"""What other settings would change: as an update would rank, without a trace of it."""

from __future__ import annotations

from datetime import timedelta

import pytest

from ls_backend.engine import configure
from ls_backend.engine.preview import HEAD, preview
from ls_backend.errors import SettingsError
from ls_backend.settings import ProjectSettings
from ls_backend.store.database import Database
from ls_backend.store.schema import metadata

CONFIG = (
    '<View><Image name="image" value="$image"/><Choices name="digit" toName="image" choice="single">'
    + "".join(f'<Choice value="{digit}"/>' for digit in range(10))
    + "</Choices></View>"
)


@pytest.fixture
def desk(make_desk):
    made = make_desk(120, window=60)
    made.context.store.projects.set(made.pid, label_config=CONFIG)
    made.label(*made.tasks[:30])
    made.train()
    return made


def serve(desk):
    """Put the order by the present settings in force, as an update does; answer its task ids."""
    ranked = desk.rank(60, model=model(desk))
    after_the_labels = desk.now + timedelta(seconds=1)  # or the annotator would hold a task of it
    desk.serve([row.task_id for row in ranked.rows], flipped=after_the_labels)
    desk.context.store.projects.set(desk.pid, window_version="al-cold:1")
    return [row.task_id for row in ranked.rows]


def model(desk):
    from ls_backend.engine.retrain import serving_model

    return serving_model(desk.context, desk.pid)


def ask(desk, **words):
    store, settings = desk.context.store, desk.context.settings
    token = configure.ask_preview(store, settings, desk.pid, ProjectSettings(**words))
    assert configure.previewed(store, desk.pid, token)["state"] == "asked"
    preview(desk.context, desk.pid, token)
    return configure.previewed(store, desk.pid, token)


def records(desk):
    """Every row of every table but the previews."""
    database = Database(desk.context.settings.sql_url)
    with database.read() as connection:
        found = {
            name: sorted(map(repr, connection.execute(table.select())))
            for name, table in metadata.tables.items()
            if name != "insights"
        }
    database.dispose()
    return found


def test_the_settings_in_force_would_change_nothing(desk):
    window = serve(desk)
    shown = ask(desk, window=60)
    assert shown["state"] == "done"
    assert [row["task_id"] for row in shown["after"]] == window[:HEAD] == [row["task_id"] for row in shown["before"]]
    assert [row["was"] for row in shown["after"]] == list(range(HEAD))


@pytest.mark.parametrize("words", [{"preset": "margin"}, {"preset": "random", "seed": 4}, {"preset": "core_set"}])
def test_the_preview_is_the_order_that_follows_when_the_settings_are_saved(desk, words):
    window = serve(desk)
    shown = ask(desk, **words, window=60)
    desk.settings(**words, window=60)
    saved = desk.rank(60, model=model(desk)).rows[:HEAD]
    assert [row["task_id"] for row in shown["after"]] == [row.task_id for row in saved]
    assert [row["reason"] for row in shown["after"]] == [row.reason for row in saved]
    assert [row["factors"] for row in shown["after"]] == [pytest.approx(row.factors) for row in saved]
    assert [row["task_id"] for row in shown["after"]] != window[:HEAD]
    place = {task_id: rank for rank, task_id in enumerate(window)}
    assert [row["was"] for row in shown["after"]] == [place.get(row["task_id"]) for row in shown["after"]]


def test_nothing_but_the_preview_is_recorded(desk):
    serve(desk)
    before = records(desk)
    shown = ask(desk, preset="entropy", test_set=20, objectives={"metadata": [{"field": "no_such_field"}]})
    assert records(desk) == before
    assert any("'no_such_field'" in note for note in shown["notes"])
    assert any("test set of 20 tasks would be drawn" in note for note in shown["notes"])
    assert desk.problems("metadata-field") == {}


def test_what_is_labelled_meanwhile_counts_neither_before_nor_after(desk):
    window = serve(desk)
    desk.label(window[0])
    shown = ask(desk, window=60)
    assert window[0] not in {row["task_id"] for row in (*shown["before"], *shown["after"])}
    assert shown["before"][0] == {**shown["before"][0], "task_id": window[1], "rank": 0, "was": 0}


def test_without_embeddings_the_reason_is_told(make_desk):
    desk = make_desk(5)
    desk.context.store.projects.set(desk.pid, label_config=CONFIG)
    desk.context.store.tasks.forget_content(desk.pid, desk.tasks)
    shown = ask(desk)
    assert (shown["state"], shown["after"]) == ("failed", [])
    assert "No task of project 1 has an embedding yet" in shown["error"]


def test_an_error_nobody_foresaw_ends_the_waiting_and_is_raised(desk, monkeypatch):
    monkeypatch.setattr("ls_backend.engine.preview.view", lambda *_, **__: 1 / 0)
    store = desk.context.store
    token = configure.ask_preview(store, desk.context.settings, desk.pid, ProjectSettings())
    with pytest.raises(ZeroDivisionError):
        preview(desk.context, desk.pid, token)
    shown = configure.previewed(store, desk.pid, token)
    assert shown["state"] == "failed"
    assert "ZeroDivisionError" in shown["error"]


def test_settings_that_cannot_be_are_refused_before_a_worker_is_asked(desk):
    with pytest.raises(SettingsError, match="not a label"):
        ask(desk, objectives={"value": {"classes": {"eleven": 2}}})


def test_only_the_last_previews_are_kept(desk):
    store, settings = desk.context.store, desk.context.settings
    tokens = [configure.ask_preview(store, settings, desk.pid, ProjectSettings(seed=seed)) for seed in range(7)]
    kept = [token for token in tokens if store.insights.get(desk.pid, configure.preview_kind(token))]
    assert kept == tokens[-configure.PREVIEWS_KEPT :]
    with pytest.raises(SettingsError, match="no preview"):
        configure.previewed(store, desk.pid, tokens[0])
    preview(desk.context, desk.pid, tokens[0])
    assert store.insights.get(desk.pid, configure.preview_kind(tokens[0])) is None
