"""The JSON API of the whole deployment: its jobs, its problems, the doctor."""

from __future__ import annotations

from typing import Any

from flask_openapi3.blueprint import APIBlueprint
from flask_openapi3.models.tag import Tag
from pydantic import BaseModel, Field

from ls_backend.domain import plain
from ls_backend.jobs import work
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
        return {"problems": [plain(item) for item in backend.store.problems.open_anywhere()]}

    @door.post("/doctor", summary="Have a worker look at every known trap; what it finds becomes problems")
    def doctor() -> tuple[dict[str, Any], int]:
        return {"woken": backend.queues.kick_examine()}, 202

    return door
