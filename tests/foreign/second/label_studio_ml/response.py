"""The answer class of 2.x; its predictions are the SDK's."""

from label_studio_sdk.label_interface.objects import PredictionValue
from pydantic import BaseModel


class ModelResponse(BaseModel):
    model_config = {"protected_namespaces": ()}

    model_version: str | None = None
    predictions: list[list[PredictionValue] | PredictionValue]
