"""The JSON API of the whole deployment: its jobs, its problems, the doctor."""

from __future__ import annotations

from typing import Any

from flask_openapi3.blueprint import APIBlueprint
from flask_openapi3.models.tag import Tag
from pydantic import BaseModel, Field

from ls_backend.domain import plain
from ls_backend.jobs import mend, work
from ls_backend.web.answers import ProjectPath
from ls_backend.web.protocol import Backend

TAG = Tag(name="operations", description="What the deployment is at and what is wrong")


class OfProject(BaseModel):
    """Which project's rows."""

    project: int | None = Field(default=None, ge=1, description="Of this project only")


class Again(BaseModel):
    """Failed work to try again."""

    kind: str = Field(description="Kind of the job, as in the list of jobs")
    project: int = Field(ge=0, description="Label Studio's project id; 0 for work of the whole deployment")


class ToMend(BaseModel):
    """An open problem."""

    project: int | None = Field(default=None, ge=1, description="Whose problem it is; unset for the deployment's")
    code: str = Field(description="Of its finding, as in the list of problems")
    subject: str = Field(description="Likewise")


def blueprint(backend: Backend) -> APIBlueprint:
    """Return these routes."""
    door = APIBlueprint("operations", __name__, url_prefix="/api", abp_tags=[TAG])

    @door.get("/jobs", summary="What runs, waits and failed, and how far the long work is")
    def jobs(query: OfProject) -> dict[str, Any]:
        return work.look(backend.store, backend.queues, query.project).plain()

    @door.post("/jobs/retry", summary="Try failed work again at once")
    def retry(body: Again) -> tuple[dict[str, Any], int]:
        return {"woken": work.retry(backend.store, backend.queues, body.kind, body.project)}, 202

    @door.post("/projects/<int:project_id>/connect", summary="Have a worker connect a project; safe to repeat")
    def connect(path: ProjectPath) -> tuple[dict[str, Any], int]:
        return {"added": backend.queues.kick_connect(path.project_id)}, 202

    @door.get("/problems", summary="Every open problem, of the projects and of the deployment, latest first")
    def every_problem() -> dict[str, Any]:
        projects = {item.id: item for item in backend.store.projects.active()}
        found = [(item, projects.get(item.project_id or 0)) for item in backend.store.problems.open_anywhere()]
        return {
            "problems": [
                {**plain(item), "mended_by": None if (by := mend.mender(of, item.finding)) is None else by.kind}
                for item, of in found
            ]
        }

    @door.post("/problems/fix", summary="Have a worker mend an open problem")
    def fix(body: ToMend) -> tuple[dict[str, Any], int]:
        return {"woken": mend.mend(backend.store, backend.queues, body.project, body.code, body.subject)}, 202

    @door.post("/doctor", summary="Have a worker look at every known trap; what it finds becomes problems")
    def doctor() -> tuple[dict[str, Any], int]:
        return {"woken": backend.queues.kick_examine()}, 202

    return door
