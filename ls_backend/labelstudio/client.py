"""What this backend says to Label Studio, one method for each thing; the answers are words of `domain.py`.

Lists are read in stretches that begin after the last task of the one before (by id, or by time of change), never by
page number: a task deleted or changed meanwhile would shift the pages and another one would be lost.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Literal

import httpx

from ls_backend.domain import Annotation, Prediction, ProjectState, Task
from ls_backend.errors import LabelStudioError, Rejected
from ls_backend.labelstudio import accounts, order_tab, records
from ls_backend.labelstudio.records import MlBackend, PredictionRow, Webhook
from ls_backend.labelstudio.transport import BULK_TIMEOUT_S, Transport

SECRET_HEADER = "X-LSB-Secret"  # noqa: S105 - the name of the header, not its value
"""Header with which Label Studio proves that an event comes from a webhook this backend has set up."""

_STRETCH = 10_000
_CHANGED_STRETCH = 1_000
_UPLOADS_AT_ONCE = 50


class Client(Transport):
    """Label Studio as one user; safe to share between threads.

    Every method raises `Unreachable` when Label Studio gives no answer and `Rejected` when it refuses; only reads are
    repeated.
    """

    # -- who and what --

    def whoami(self) -> dict[str, Any]:
        """Return the user behind the token: id, email and so on."""
        return dict(self.get("/api/current-user/whoami"))

    def version(self) -> str:
        """Return the release of Label Studio, such as "1.23.2"."""
        return str(self.get("/api/version")["release"])

    def projects(self) -> list[ProjectState]:
        """Return all projects the user sees."""
        answer = self.get("/api/projects/", {"page_size": _STRETCH}, timeout_s=BULK_TIMEOUT_S)
        return [records.project(row) for row in answer["results"]]

    def project(self, pid: int) -> ProjectState:
        """Return a project as it is now."""
        return records.project(self.get(f"/api/projects/{pid}/"))

    def update_project(self, pid: int, **fields: object) -> ProjectState:
        """Change fields of a project, named as in Label Studio's API. Label Studio calls our webhook meanwhile."""
        return records.project(self.call("PATCH", f"/api/projects/{pid}/", body=fields))

    # -- tasks and annotations --

    def tasks(self, pid: int, *, updated_after: datetime | None = None) -> Iterator[Task]:
        """Read tasks without their annotations: all of them by id, or those changed since a moment."""
        if updated_after is None:
            rows = self._all_tasks(pid, records.TASK_FIELDS)
        else:
            rows = self._changed(pid, updated_after, {"include": records.TASK_FIELDS})
        return map(records.task, rows)

    def changed_tasks(self, pid: int, updated_after: datetime) -> list[Task]:
        """Read tasks changed since a moment with all their annotations, cancelled ones included.

        A deleted task is not reported: compare `task_ids` now and then. Drafts, locks and bulk imports of predictions
        do not count as changes, annotations, task data and single predictions do. A change is dated before it can be
        read, so ask from some seconds before the latest one known, or one that was slower to be stored is lost.
        """
        fields = {"fields": "all", "include": f"{records.TASK_FIELDS},{records.ANNOTATION_FIELDS}"}
        return [records.task(row, with_annotations=True) for row in self._changed(pid, updated_after, fields)]

    def annotations(self, pid: int) -> dict[int, tuple[Annotation, ...]]:
        """Read all annotations of a project, cancelled ones included, by task id; tasks without any are left out."""
        rows = self.get(f"/api/projects/{pid}/export", {"exportType": "JSON"}, timeout_s=BULK_TIMEOUT_S)
        return {int(row["id"]): records.annotations_of(row) for row in rows}

    def task_ids(self, pid: int) -> set[int]:
        """Return the ids of all tasks of a project."""
        return {int(row["id"]) for row in self._all_tasks(pid, "id")}

    def some_tasks(self, pid: int, task_ids: Collection[int]) -> dict[int, Task]:
        """Read a few tasks as they are now, without their annotations; those that are gone are left out."""
        return {
            int(row["id"]): records.task(row) for row in self._selected(pid, task_ids, {"include": records.TASK_FIELDS})
        }

    def _selected(self, pid: int, task_ids: Collection[int], fields: dict[str, str]) -> list[dict[str, Any]]:
        if not task_ids:
            return []  # Label Studio would answer all of them
        query = {"selectedItems": {"all": False, "included": sorted(task_ids)}}
        params = {"project": pid, "page": 1, "page_size": len(task_ids), "resolve_uri": "false"}
        params |= {"query": json.dumps(query), **fields}
        rows: list[dict[str, Any]] = self.get("/api/tasks/", params, timeout_s=BULK_TIMEOUT_S)["tasks"]
        return rows

    def _all_tasks(self, pid: int, include: str) -> Iterator[dict[str, Any]]:
        last = 0
        while True:
            condition = _condition("id", "greater", "Number", last)
            page = self._task_page(pid, [condition], "tasks:id", _STRETCH, {"include": include})
            yield from page
            if len(page) < _STRETCH:
                return
            last = int(page[-1]["id"])

    def _changed(self, pid: int, since: datetime, fields: dict[str, str]) -> Iterator[dict[str, Any]]:
        found: dict[int, dict[str, Any]] = {}
        stretch = _CHANGED_STRETCH
        while True:
            condition = _condition("updated_at", "greater", "Datetime", records.moment_text(since))
            page = self._task_page(pid, [condition], "tasks:updated_at", stretch, fields)
            found |= {int(row["id"]): row for row in page}
            if len(page) < stretch:
                return iter(found.values())
            again_from = records.moment(page[-1]["updated_at"]) - timedelta(microseconds=1)
            if again_from > since:
                since = again_from
            else:  # more tasks share one instant than a stretch holds
                stretch *= 4

    def _task_page(
        self, pid: int, conditions: list[dict[str, Any]], ordering: str, size: int, fields: dict[str, str]
    ) -> list[dict[str, Any]]:
        query = {"filters": {"conjunction": "and", "items": conditions}, "ordering": [ordering]}
        # resolve_uri: storage URIs as they are stored, not as links that differ for each task
        params = {"project": pid, "page": 1, "page_size": size, "resolve_uri": "false", "query": json.dumps(query)}
        rows: list[dict[str, Any]] = self.get("/api/tasks/", params | fields, timeout_s=BULK_TIMEOUT_S)["tasks"]
        return rows

    # -- the labelling queue --

    def queue_head(self, pid: int, limit: int) -> list[tuple[int, float]]:
        """Return unfinished tasks with a prediction of the version in force as Label Studio orders them.

        Locks of annotators are not considered. Without a version in force there is no order, and the list is empty.

        Returns:
            (task id, score) pairs, next one first.
        """
        if not self.project(pid).model_version:
            return []  # Label Studio would average the scores of all versions
        conditions = [
            _condition("predictions_score", "greater_or_equal", "Number", 0),
            _condition("completed_at", "empty", "Datetime", value=True),
        ]
        fields = {"include": "id,predictions_score"}
        rows = self._task_page(pid, conditions, "tasks:predictions_score", limit, fields)
        # A flip between choosing the rows and writing them down leaves rows without a score of the new version.
        scored = [row for row in rows if row["predictions_score"] is not None]
        return [(int(row["id"]), float(row["predictions_score"])) for row in scored]

    def import_predictions(self, pid: int, rows: Sequence[Prediction]) -> int:
        """Import predictions in one request and return how many Label Studio created, which may be fewer."""
        body = [
            {"task": row.task_id, "result": list(row.result), "score": row.score, "model_version": row.model_version}
            for row in rows
        ]
        path = f"/api/projects/{pid}/import/predictions"
        return int(self.call("POST", path, body=body, timeout_s=BULK_TIMEOUT_S)["created"])

    def predictions(self, pid: int, version: str) -> list[PredictionRow]:
        """Return the predictions of a version, oldest first.

        Label Studio cannot filter predictions by version, so all of the project are read: about 0.1 s for each 1,000.
        """
        rows = self.get("/api/predictions/", {"project": pid}, timeout_s=BULK_TIMEOUT_S)
        found = [records.prediction_row(row) for row in rows if row["model_version"] == version]
        return sorted(found, key=lambda row: row.prediction_id)

    def prediction_ids(self, pid: int, version: str) -> dict[int, int]:
        """Return the prediction id of each task that has one of this version (of several, the newest)."""
        return {row.task_id: row.prediction_id for row in self.predictions(pid, version)}

    def prediction_ids_of(self, pid: int, version: str, task_ids: Collection[int]) -> dict[int, int]:
        """Return the same as `prediction_ids` for a few tasks.

        Costs about 2 ms a prediction of those tasks, of whatever version, and does not depend on the project's size.
        """
        tasks = self._selected(pid, task_ids, {"fields": "all", "include": "id,predictions"})
        found = [row for task in tasks for row in task["predictions"] if row["model_version"] == version]
        return {int(row["task"]): int(row["id"]) for row in sorted(found, key=lambda row: int(row["id"]))}

    def version_counts(self, pid: int) -> dict[str, int]:
        """Return how many predictions of each version the project holds."""
        return {str(name): int(count) for name, count in self.get(f"/api/projects/{pid}/model-versions").items()}

    def retag_prediction(self, prediction_id: int, version: str) -> None:
        """Move one prediction to another version; its id stays, so an open editor can still submit."""
        self.call("PATCH", f"/api/predictions/{prediction_id}/", body={"model_version": version})

    def delete_prediction(self, prediction_id: int) -> None:
        """Delete one prediction; one that is gone already is fine."""
        try:
            self.call("DELETE", f"/api/predictions/{prediction_id}/")
        except Rejected as error:
            if error.status != httpx.codes.NOT_FOUND:
                raise

    def delete_version(self, pid: int, version: str) -> int:
        """Delete all predictions of a version that is not in force and return how many there were.

        Raises:
            LabelStudioError: If the version is in force: Label Studio would forget it and serve tasks at random.
        """
        if self.project(pid).model_version == version:
            raise LabelStudioError(
                f"The predictions of version {version} order the queue of project {pid}; they cannot be deleted.",
                hint="Publish another version first.",
                project=pid,
            )
        path = f"/api/projects/{pid}/model-versions"
        answer = self.call("DELETE", path + "/", body={"model_version": version}, timeout_s=BULK_TIMEOUT_S)
        return int(answer["deleted_predictions"])

    def ensure_order_tab(self, pid: int, field: str) -> Literal["created", "kept"]:
        """Make sure that the Data Manager has a tab of the labelling queue; one of its title stays as it is.

        Args:
            pid: Project.
            field: Field of the task data that is labelled.
        """
        views = self.get("/api/dm/views/", {"project": pid})
        if any((row.get("data") or {}).get("title") == order_tab.TITLE for row in views):
            return "kept"
        if not views:
            first = {"title": order_tab.FIRST_TITLE, "type": "list", "target": "tasks"}
            self.call("POST", "/api/dm/views/", body={"project": pid, "data": first})
        self.call("POST", "/api/dm/views/", body={"project": pid, "data": order_tab.contents(field)})
        return "created"

    # -- how the project is connected to this backend --

    def ml_backends(self, pid: int) -> list[MlBackend]:
        """Return the connected ML backends. Label Studio asks each for its health before it answers."""
        return [records.ml_backend(row) for row in self.get("/api/ml/", {"project": pid})]

    def put_ml_backend(
        self,
        pid: int,
        url: str,
        title: str,
        *,
        backend_id: int | None = None,
        extra_params: dict[str, Any] | None = None,
        basic_auth: tuple[str, str] | None = None,
    ) -> MlBackend:
        """Connect an ML backend; Label Studio calls its /health and /setup before it answers.

        With `backend_id` the connection of that one is replaced; all fields are sent, since Label Studio fails without
        its URL.
        """
        body: dict[str, Any] = {
            "project": pid,
            "url": url,
            "title": title,
            "auth_method": "NONE",
            "is_interactive": False,
        }
        if extra_params is not None:
            body["extra_params"] = extra_params
        if basic_auth is not None:
            body |= {"auth_method": "BASIC_AUTH", "basic_auth_user": basic_auth[0], "basic_auth_pass": basic_auth[1]}
        if backend_id is None:
            return records.ml_backend(self.call("POST", "/api/ml/", body=body))
        return records.ml_backend(self.call("PATCH", f"/api/ml/{backend_id}", body=body))

    def delete_ml_backend(self, backend_id: int) -> None:
        """Disconnect an ML backend. Its webhook stays."""
        self.call("DELETE", f"/api/ml/{backend_id}")

    def webhooks(self, pid: int) -> list[Webhook]:
        """Return the outgoing webhooks of a project."""
        return [records.webhook(row) for row in self.get("/api/webhooks/", {"project": pid})]

    def ensure_webhook(self, pid: int, url: str, secret: str) -> Literal["created", "updated", "kept"]:
        """Make sure that events of the project reach `url` with our secret, and that nobody has narrowed them."""
        want = {
            "url": url,
            "is_active": True,
            "send_payload": True,
            "send_for_all_actions": True,
            "headers": {SECRET_HEADER: secret},
        }
        found = next((hook for hook in self.webhooks(pid) if hook.url == url), None)
        if found is None:
            self.call("POST", "/api/webhooks/", body={**want, "project": pid})
            return "created"
        wanted_headers = found.headers | {SECRET_HEADER: secret}
        complete = found.is_active and found.send_payload and found.send_for_all_actions
        if complete and wanted_headers == found.headers:
            return "kept"
        # Label Studio empties the list of actions when a change does not repeat it.
        body = {**want, "headers": wanted_headers, "actions": list(found.actions)}
        self.call("PATCH", f"/api/webhooks/{found.webhook_id}/", body=body)
        return "updated"

    def delete_webhook(self, webhook_id: int) -> None:
        """Delete a webhook."""
        self.call("DELETE", f"/api/webhooks/{webhook_id}/")

    # -- what owners and annotators do: for the demo and the tests --

    def create_project(self, title: str, label_config: str, **fields: object) -> int:
        """Create a project and return its id."""
        body = {"title": title, "label_config": label_config, **fields}
        return int(self.call("POST", "/api/projects/", body=body)["id"])

    def delete_project(self, pid: int) -> None:
        """Delete a project with everything in it."""
        self.call("DELETE", f"/api/projects/{pid}/", timeout_s=BULK_TIMEOUT_S)

    def upload_images(self, pid: int, files: Mapping[str, bytes]) -> list[int]:
        """Upload image files as tasks and return the task ids in the order of the files."""
        names = list(files)
        task_ids: list[int] = []
        for start in range(0, len(names), _UPLOADS_AT_ONCE):
            parts = [(name, (name, files[name])) for name in names[start : start + _UPLOADS_AT_ONCE]]
            task_ids += self._import(pid, files=parts)
        return task_ids

    def upload_files(self, pid: int, files: Mapping[str, bytes]) -> dict[str, str]:
        """Upload files without making tasks and return file name -> reference for the task data.

        Label Studio rewrites odd file names: keep to letters, digits, dots and dashes, and to names used once.
        """
        path = f"/api/projects/{pid}/import"
        names = list(files)
        references: dict[str, str] = {}
        for start in range(0, len(names), _UPLOADS_AT_ONCE):
            some = names[start : start + _UPLOADS_AT_ONCE]
            answer = self.call(
                "POST",
                path,
                params={"commit_to_project": "false"},
                files=[(name, (name, files[name])) for name in some],
                timeout_s=BULK_TIMEOUT_S,
            )
            stored = self.get(f"/api/projects/{pid}/file-uploads", {"ids": json.dumps(answer["file_upload_ids"])})
            paths = {str(row["file"]).partition("-")[2]: f"/data/{row['file']}" for row in stored}
            references |= {name: paths[name] for name in some}
        return references

    def import_tasks(self, pid: int, tasks: Sequence[Mapping[str, Any]]) -> list[int]:
        """Import tasks such as {"data": {"image": url}} and return their ids in the same order."""
        return self._import(pid, body=list(tasks))

    def _import(
        self, pid: int, *, body: object = None, files: list[tuple[str, tuple[str, bytes]]] | None = None
    ) -> list[int]:
        path = f"/api/projects/{pid}/import"
        params = {"return_task_ids": "true"}
        answer = self.call("POST", path, params=params, body=body, files=files, timeout_s=BULK_TIMEOUT_S)
        return sorted(int(task_id) for task_id in answer["task_ids"])

    def next_task(self, pid: int) -> dict[str, Any] | None:
        """Ask for the next task as the button "Label All Tasks" does; None when Label Studio has none."""
        params = {"id": "next_task", "project": pid}
        try:
            task: dict[str, Any] = self.call("POST", "/api/dm/actions", params=params, body={"project": str(pid)})
        except Rejected as error:
            if error.status == httpx.codes.NOT_FOUND:
                return None
            raise
        return task

    def submit(
        self,
        task_id: int,
        result: Sequence[Mapping[str, Any]],
        *,
        parent_prediction: int | None = None,
        lead_time: float = 1.0,
    ) -> int:
        """Submit an annotation as the editor does and return its id.

        Args:
            task_id: Task that is annotated.
            result: Regions.
            parent_prediction: Id of the prediction the editor showed.
            lead_time: Seconds the annotator took.
        """
        return self._annotate(task_id, result, parent_prediction, lead_time, cancelled=False)

    def skip(
        self,
        task_id: int,
        *,
        result: Sequence[Mapping[str, Any]] = (),
        parent_prediction: int | None = None,
        lead_time: float = 1.0,
    ) -> int:
        """Skip a task as the editor does, which sends along what it showed, and return the annotation id."""
        return self._annotate(task_id, result, parent_prediction, lead_time, cancelled=True)

    def _annotate(
        self,
        task_id: int,
        result: Sequence[Mapping[str, Any]],
        parent_prediction: int | None,
        lead_time: float,
        *,
        cancelled: bool,
    ) -> int:
        body = {
            "result": list(result),
            "was_cancelled": cancelled,
            "parent_prediction": parent_prediction,
            "lead_time": lead_time,
        }
        return int(self.call("POST", f"/api/tasks/{task_id}/annotations/", body=body)["id"])

    def update_annotation(self, annotation_id: int, **fields: object) -> None:
        """Change fields of an annotation, named as in Label Studio's API."""
        self.call("PATCH", f"/api/annotations/{annotation_id}/", body=fields)

    def delete_annotation(self, annotation_id: int) -> None:
        """Delete an annotation."""
        self.call("DELETE", f"/api/annotations/{annotation_id}/")

    def update_task(self, task_id: int, data: Mapping[str, Any]) -> None:
        """Replace the data of a task. Label Studio sends no event for it."""
        self.call("PATCH", f"/api/tasks/{task_id}/", body={"data": dict(data)})

    def delete_tasks(self, pid: int, task_ids: Collection[int]) -> None:
        """Delete tasks by the Data Manager's action, which tells the webhooks once."""
        body = {"selectedItems": {"all": False, "included": sorted(task_ids)}}
        params = {"id": "delete_tasks", "project": pid}
        self.call("POST", "/api/dm/actions", params=params, body=body, timeout_s=BULK_TIMEOUT_S)

    def create_user(self, email: str, password: str) -> str:
        """Invite a user, sign him up and return his legacy token."""
        return accounts.sign_up(self.url, str(self.get("/api/invite")["token"]), email, password)

    def personal_access_token(self, email: str, password: str) -> str:
        """Create a personal access token of a user; Label Studio shows each only once."""
        return accounts.personal_access_token(self.url, email, password)


def _condition(column: str, operator: str, kind: str, value: object) -> dict[str, Any]:
    return {"filter": f"filter:tasks:{column}", "operator": operator, "type": kind, "value": value}
