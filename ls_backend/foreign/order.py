"""What the process of a foreign model is told at its start."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Order:
    """Which model to run, for which project.

    Attributes:
        path: "package.module:ClassName".
        label_config: XML of the labelling interface.
        folder: Where the model keeps what it learns; one for each project and model.
        project_id: Label Studio's id.
        hostname: Label Studio's address, for models that read files or tasks from there; "" when they must not.
        access_token: Label Studio's token for the same; "" for none.
    """

    path: str
    label_config: str
    folder: str
    project_id: int
    hostname: str = ""
    access_token: str = ""
