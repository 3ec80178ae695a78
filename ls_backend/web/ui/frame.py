"""What every page of the dashboard shares: its frame, the project it is about, how moments and shares read.

A page reads the records and Redis, never Label Studio, so it is as quick with 100,000 tasks as with ten, and is there
while Label Studio is away. Everything comes from people or from Label Studio, so all of it is escaped: templates end in
.html, and nothing is marked safe.
"""

from __future__ import annotations

from datetime import UTC, datetime

from flask import render_template

from ls_backend import __version__
from ls_backend.store import Project, Store

_OF_TASK = "task "
_SETTINGS_PAGES = {
    "general settings": "settings",
    "annotation settings": "settings/annotation",
    "labelling interface": "settings/labeling",
    "model settings": "settings/ml",
    "ML backend": "settings/ml",
    "webhook": "settings/webhooks",
}
"""Subject of a finding -> page of Label Studio's project settings that shows it."""


def page(template: str, **values: object) -> str:
    """Return a page.

    Args:
        template: File in templates/ui.
        values: What the template shows.
    """
    return render_template(f"ui/{template}", version=__version__, now=datetime.now(UTC), **values)


def titles(store: Store) -> dict[int, str | None]:
    """Return what the connected projects are called."""
    return {item.id: item.title for item in store.projects.active()}


def task_url(project: Project) -> str | None:
    """Return where Label Studio shows a task, up to its id; None for an address no link may lead to."""
    host = (project.hostname or "").rstrip("/")
    if not host.startswith(("http://", "https://")):
        return None
    return f"{host}/projects/{project.id}/data?task="


def place_url(project: Project, subject: str) -> str | None:
    """Return where Label Studio shows what a finding is about; None where that is not known.

    Args:
        project: Whose finding it is.
        subject: Of the finding: "general settings", "task 12".
    """
    tasks = task_url(project)
    if tasks is None:
        return None
    if subject.startswith(_OF_TASK) and subject.removeprefix(_OF_TASK).isdecimal():
        return tasks + subject.removeprefix(_OF_TASK)
    page_of = _SETTINGS_PAGES.get(subject)
    return None if page_of is None else tasks.removesuffix("data?task=") + page_of


def ago(moment: datetime | None, now: datetime) -> str:
    """Say how long ago something was, in the largest unit that fits."""
    if moment is None:
        return "never"
    return f"{span(max((now - moment).total_seconds(), 0.0))} ago"


def span(seconds: float) -> str:
    """Say how long something takes, in the largest unit that fits."""
    for unit, size in (("day", 86_400), ("hour", 3_600), ("minute", 60)):
        if seconds >= size:
            number = round(seconds / size)
            return f"{number} {unit}{'s' if number != 1 else ''}"
    return f"{round(seconds)} s"


def per_cent(share: float | None) -> str:
    """Write a share as per cent; "none" where there is none."""
    return "none" if share is None else f"{100 * share:.1f} %"
