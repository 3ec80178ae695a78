"""The two kinds of configuration, never mixed.

`Settings` says where things are: read once from the environment, frozen, passed down; nothing else reads `os.environ`.
`ProjectSettings` says how a project learns: the admin's words, one pydantic model for Label Studio's extra params, the
command line and the JSON API. `{}` is a complete, good configuration.
"""

from __future__ import annotations

import difflib
import json
import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from ls_backend.errors import SettingsError


def default_data_dir() -> Path:
    """Where data goes when DATA_DIR is unset: the user's data folder of the XDG convention."""
    base = os.environ.get("XDG_DATA_HOME") or str(Path.home() / ".local" / "share")
    return Path(base) / "ls-backend"


def default_cache_dir() -> Path:
    """Where files lie that may be deleted at any time: the user's cache folder of the XDG convention."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "ls-backend"


class Settings(BaseSettings):
    """Deployment settings, read from the environment."""

    model_config = SettingsConfigDict(
        frozen=True, extra="ignore", env_ignore_empty=True, populate_by_name=True, env_prefix="LSB_"
    )

    label_studio_url: str | None = Field(
        default=None,
        validation_alias=AliasChoices("LABEL_STUDIO_URL", "LABEL_STUDIO_HOST"),
        description="Label Studio as this backend reaches it. Unset: the address Label Studio sends in /setup.",
    )
    label_studio_api_key: SecretStr | None = Field(
        default=None,
        validation_alias=AliasChoices("LABEL_STUDIO_API_KEY", "LABEL_STUDIO_ACCESS_TOKEN"),
        description="Personal access token or legacy token. Unset: the token Label Studio sends in /setup, if any.",
    )
    backend_url: str | None = Field(
        default=None, description="This backend as Label Studio reaches it. Unset: http://localhost:PORT."
    )
    host: str = Field(default="0.0.0.0", description="Address the server listens on.")  # noqa: S104 - containers need it
    port: int = Field(default=9090, ge=1, le=65535, validation_alias="PORT", description="Port the server listens on.")
    threads: int = Field(default=16, ge=2, le=256, validation_alias="THREADS", description="Threads of the server.")
    data_dir: Path = Field(
        default_factory=default_data_dir,
        validation_alias="DATA_DIR",
        description="Database, embeddings, image cache, thumbnails, embedded Redis.",
    )
    model_dir: Path | None = Field(
        default=None, validation_alias="MODEL_DIR", description="Model versions. Unset: DATA_DIR/models."
    )
    weights_dir: Path = Field(
        default=Path("model_weights"), validation_alias="WEIGHTS_DIR", description="Checkpoints of other backbones."
    )
    download_weights: bool = Field(
        default=True,
        description="Download the weights of a backbone that a project names to WEIGHTS_DIR when they are not there.",
    )
    database_url: SecretStr | None = Field(
        default=None, validation_alias="DATABASE_URL", description="SQLAlchemy URL. Unset: SQLite in DATA_DIR."
    )
    redis_url: SecretStr | None = Field(
        default=None, validation_alias="REDIS_URL", description="Redis for the job queue. Unset: an embedded server."
    )
    basic_auth_user: str | None = Field(
        default=None, validation_alias="BASIC_AUTH_USER", description="User name Label Studio must send. Unset: open."
    )
    basic_auth_pass: SecretStr | None = Field(
        default=None, validation_alias="BASIC_AUTH_PASS", description="Password Label Studio must send."
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        default="INFO", validation_alias="LOG_LEVEL", description="How much is logged."
    )
    log_json: bool = Field(default=False, description="One JSON object per log line instead of text.")
    device: str = Field(default="auto", validation_alias="DEVICE", description="auto, cpu, cuda or cuda:N.")
    rank_workers: int = Field(default=1, ge=1, le=64, description="Processes that refit, rank and publish.")
    embed_workers: int = Field(default=1, ge=1, le=64, description="Processes that read images and embed them.")
    train_workers: int = Field(
        default=1, ge=0, le=64, description="Deeper trainings at the same time; 0: none on this machine."
    )
    predict_deadline_s: float = Field(
        default=20.0, gt=0, le=95, description="Seconds /predict waits for the worker; Label Studio gives up after 100."
    )
    reconcile_s: float = Field(
        default=45.0, ge=1, le=3600, description="Seconds between two comparisons of a project with Label Studio."
    )
    image_timeout_s: float = Field(default=15.0, gt=0, le=600, description="Seconds to fetch one image.")
    image_max_bytes: int = Field(default=64 * 2**20, ge=1024, description="Largest image file accepted, in bytes.")
    image_max_pixels: int = Field(default=100_000_000, ge=1, description="Largest image accepted, in pixels.")
    image_cache_bytes: int = Field(
        default=10 * 2**30, ge=0, description="Bytes of downloaded images kept on disk; the oldest go first."
    )
    local_files_root: Path | None = Field(
        default=None,
        validation_alias=AliasChoices("LOCAL_FILES_DOCUMENT_ROOT", "LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT"),
        description="Folder that holds Label Studio's local files on this machine. Unset: they are downloaded.",
    )
    label_studio_executable: Path | None = Field(
        default=None,
        description="Label Studio's program, for the demo. Unset: the one in .venv-label-studio, then the one on PATH.",
    )

    @property
    def models_path(self) -> Path:
        """Folder of model versions."""
        return self.model_dir or self.data_dir / "models"

    @property
    def thumbnails_path(self) -> Path:
        """Folder of small pictures of the images that were embedded."""
        return self.data_dir / "thumbnails"

    @property
    def sql_url(self) -> str:
        """SQLAlchemy URL of the records."""
        if self.database_url is not None:
            return self.database_url.get_secret_value()
        return f"sqlite:///{self.data_dir / 'ls_backend.sqlite3'}"

    @property
    def public_url(self) -> str:
        """This backend as Label Studio reaches it, without a trailing slash."""
        return (self.backend_url or f"http://localhost:{self.port}").rstrip("/")


def env_names() -> dict[str, tuple[str, ...]]:
    """Environment names of every field of `Settings`; the first one is the one to write down."""
    names: dict[str, tuple[str, ...]] = {}
    for field, info in Settings.model_fields.items():
        alias = info.validation_alias
        if isinstance(alias, AliasChoices):
            names[field] = tuple(str(choice) for choice in alias.choices)
        else:
            names[field] = (str(alias or f"LSB_{field.upper()}"),)
    return names


class Words(BaseModel):
    """Base of the admin's words: frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


Strength = Annotated[float, Field(ge=-4.0, le=4.0)]

BY_CLASS = {"x-keys": "classes"}
"""Said in the JSON schema of an object whose keys are classes of the project, so that a form can list them."""


class Uncertainty(Words):
    """How unsure the model is."""

    method: str = Field(default="margin", description="How doubt is measured.")
    strength: Strength = Field(default=1.0, description="Exponent of this factor; 0 turns it off, negative inverts it.")


class Diversity(Words):
    """How far a task is from what is labelled and already ahead in the queue."""

    method: str = Field(default="coverage", description="How redundancy is measured.")
    strength: Strength = Field(default=1.0, description="Exponent of this factor; 0 turns it off, negative inverts it.")


class Balance(Words):
    """How much the likely classes of a task are missing among the labels."""

    method: str = Field(default="deficit", description="How missing classes are measured.")
    target: Literal["uniform", "input"] | dict[str, Annotated[float, Field(ge=0)]] = Field(
        default="uniform",
        description="Wanted class shares: uniform, input (as the model sees the pool), or a share for each class.",
        json_schema_extra={**BY_CLASS},
    )
    above: float = Field(
        default=1.0,
        ge=1,
        description="Counts only where the most frequent class is more than this many times as frequent as the rarest, "
        "as far as labels and model can tell; 1: always. The preset auto uses 3.",
    )
    strength: Strength = Field(default=1.0, description="Exponent of this factor; 0 turns it off, negative inverts it.")


class Representativeness(Words):
    """How typical a task is of the pool."""

    method: str = Field(default="density", description="How typicality is measured.")
    strength: Strength = Field(default=0.0, description="Exponent of this factor; 0 turns it off, negative inverts it.")
    drop_outliers: float = Field(
        default=0.0, ge=0, le=0.5, description="Share of the least typical tasks left for last (0 to 0.5)."
    )


MEASURED = (
    "image.width",
    "image.height",
    "image.aspect",
    "image.bytes",
    "image.sharpness",
    "image.luminance",
    "image.contrast",
    "image.near_duplicate_distance",
)
"""Fields of a metadata rule that need not be in the task data: they are measured."""


def _measured_names() -> str:
    return ", ".join(f"`{name}`" for name in MEASURED)


class MetadataRule(Words):
    """One rule about a field of the task data."""

    field: str = Field(
        min_length=1, description=f"Name of the field in the task data, or what is measured: {_measured_names()}."
    )
    strength: Strength = Field(default=1.0, description="Exponent of this factor; negative prefers small values.")
    weights: dict[str, Annotated[float, Field(ge=0)]] | Literal["errors"] | None = Field(
        default=None,
        description="Weight of each value of a categorical field; 0 keeps such tasks out of the queue. `errors`: how "
        "often the model is wrong where the field has that value.",
    )
    min: float | None = Field(default=None, description="Tasks below this value are kept out of the queue.")
    max: float | None = Field(default=None, description="Tasks above this value are kept out of the queue.")


class Value(Words):
    """What a label of each class is worth, and what wrong answers cost."""

    classes: dict[str, Annotated[float, Field(gt=0)]] = Field(
        default_factory=dict,
        description="Worth of a label of each class; classes not named count 1.",
        json_schema_extra={**BY_CLASS},
    )
    costs: dict[str, dict[str, Annotated[float, Field(ge=0)]]] = Field(
        default_factory=dict,
        description="Cost of an answer for the method `expected_cost`, by true class and then by answer, as in "
        '`{"crack": {"fine": 20}}`. Not named: 1 for a wrong answer, 0 for the right one.',
        json_schema_extra={**BY_CLASS},
    )
    strength: Strength = Field(default=1.0, description="Exponent of this factor; 0 turns it off, negative inverts it.")

    @property
    def priced_classes(self) -> frozenset[str]:
        """Classes that the costs speak of, as truth or as answer."""
        return frozenset(name for truth, answers in self.costs.items() for name in (truth, *answers))


class Objectives(Words):
    """The named objectives whose product is the priority."""

    uncertainty: Uncertainty = Uncertainty()
    diversity: Diversity = Diversity()
    balance: Balance = Balance()
    representativeness: Representativeness = Representativeness()
    metadata: tuple[MetadataRule, ...] = ()
    value: Value = Value()


DEFAULT_BACKBONE = "efficientnet_lite0"
"""The one that comes with the package; the weights of others are looked for in WEIGHTS_DIR, and downloaded to it."""

TEXT_BACKBONE = "hashed_ngrams"
"""What makes the embeddings of texts, see `language`; a setting names backbones of images only."""

TORCHVISION_BACKBONES = tuple(
    """
    alexnet convnext_base convnext_large convnext_small convnext_tiny densenet121 densenet161 densenet169 densenet201
    efficientnet_b0 efficientnet_b1 efficientnet_b2 efficientnet_b3 efficientnet_b4 efficientnet_b5 efficientnet_b6
    efficientnet_b7 efficientnet_v2_l efficientnet_v2_m efficientnet_v2_s googlenet inception_v3 maxvit_t mnasnet0_5
    mnasnet0_75 mnasnet1_0 mnasnet1_3 mobilenet_v2 mobilenet_v3_large mobilenet_v3_small regnet_x_16gf regnet_x_1_6gf
    regnet_x_32gf regnet_x_3_2gf regnet_x_400mf regnet_x_800mf regnet_x_8gf regnet_y_128gf regnet_y_16gf regnet_y_1_6gf
    regnet_y_32gf regnet_y_3_2gf regnet_y_400mf regnet_y_800mf regnet_y_8gf resnet101 resnet152 resnet18 resnet34
    resnet50 resnext101_32x8d resnext101_64x4d resnext50_32x4d shufflenet_v2_x0_5 shufflenet_v2_x1_0 shufflenet_v2_x1_5
    shufflenet_v2_x2_0 swin_b swin_s swin_t swin_v2_b swin_v2_s swin_v2_t vgg11 vgg11_bn vgg13 vgg13_bn vgg16 vgg16_bn
    vgg19 vgg19_bn vit_b_16 vit_b_32 vit_h_14 vit_l_16 vit_l_32 wide_resnet101_2 wide_resnet50_2
    """.split()  # noqa: SIM905 - a list would be 78 lines
)
"""Classification models of torchvision that end in a linear layer; written down for the server, which has no torch."""

_TIMM_NAME = re.compile(r"timm/\w[\w.-]*")


def check_backbone(name: str) -> None:
    """See that a backbone may exist, by its name alone; what timm has only a worker knows.

    Raises:
        SettingsError: Names the nearest known one.
    """
    known = (DEFAULT_BACKBONE, *TORCHVISION_BACKBONES)
    if name not in known and not _TIMM_NAME.fullmatch(name):
        near = difflib.get_close_matches(name, known, n=1)
        raise SettingsError(
            f"backbone {name} is unknown; expected {DEFAULT_BACKBONE}, a classification model of torchvision, or timm/ "
            "and a model of timm" + (f". Did you mean {near[0]}?" if near else ".")
        )


class Training(Words):
    """Training beyond the heads: what boxes and outlines need, and finer networks can use."""

    depth: Literal["frozen", "finetune"] = Field(
        default="frozen",
        description="What may change: `frozen`, the parts above the backbone; `finetune`, the backbone as well.",
    )
    after: int = Field(default=20, ge=1, le=100_000, description="New labels before it starts again.")
    minutes: float = Field(default=10.0, gt=0, le=10_000, description="Longest time a training may take, in minutes.")
    image_px: int = Field(
        default=320, ge=32, le=4096, description="Pixels of the longer side that images are scaled to for it."
    )
    box_uncertainty: Literal["mean", "max", "sum"] = Field(
        default="mean", description="How the doubts about the boxes of an image are joined."
    )


class ProjectSettings(Words):
    """How one project learns and ranks: the admin's words."""

    preset: str = Field(default="auto", description="Named set of objectives to start from.")
    objectives: dict[str, Any] = Field(
        default_factory=dict, description="Objectives that override the preset, one by one."
    )
    explore: float = Field(default=0.05, ge=0, le=1, description="Share of the queue picked at random.")
    window: int | None = Field(
        default=None, ge=1, le=100_000, description="Tasks published ahead; unset: from annotators and labelling speed."
    )
    retrain_after: int = Field(default=1, ge=1, le=100_000, description="New labels before the model is refitted.")
    min_labels: int = Field(default=10, ge=2, le=100_000, description="Labels before the first model is trained.")
    prelabel: bool = Field(default=True, description="Show the model's prediction as pre-annotation.")
    reasons: bool = Field(
        default=False,
        description="Write why each task of the queue is next into its task data, as `al_reason`, for annotators to "
        "read. The labelling interface must show it: `ls-backend reasons --add-header`. It goes into exports until it "
        "is removed.",
    )
    manage_queue: bool = Field(
        default=True,
        description="Keep Label Studio's sampling mode and model version on our queue; false: only report.",
    )
    backbone: str = Field(
        default=DEFAULT_BACKBONE,
        description="Network that makes the embeddings of images: a classification model of torchvision by name, or "
        "`timm/` and a model of timm. Another one embeds the pool in the background while the present one serves.",
    )
    holdout: float = Field(default=0.2, ge=0, le=0.5, description="Share of the labels kept for measuring.")
    test_set: int = Field(
        default=0,
        ge=0,
        le=100_000,
        description="Tasks of a locked test set, drawn once from all tasks and served first; 0 measures on `holdout`. "
        "No model learns from their labels. Import the tasks before.",
    )
    test_set_by: str | None = Field(
        default=None,
        min_length=1,
        description="Field of the task data whose values the test set has in the same shares as the project.",
    )
    test_set_target: dict[str, Annotated[float, Field(ge=0)]] | None = Field(
        default=None, description="Wanted share of each value of `test_set_by` instead; values not named are left out."
    )
    training: Training = Field(
        default=Training(), description="Deeper training, of boxes and outlines, or of the `model`."
    )
    model: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$",
        description="A label-studio-ml model that predicts instead of ours, as `package.module:ClassName`; it must be "
        "installed beside the workers.",
    )
    seed: int = Field(default=0, ge=0, le=2**31 - 1, description="Seed of everything random.")

    @field_validator("objectives")
    @classmethod
    def _known_objectives(cls, value: dict[str, Any]) -> dict[str, Any]:
        Objectives.model_validate(value)
        return value

    @classmethod
    def from_extra_params(cls, raw: object) -> ProjectSettings:
        """Read what Label Studio sends as `extra_params`: an object, a JSON string, an empty string or nothing.

        Raises:
            SettingsError: Names every wrong key and value, and the nearest known name.
        """
        if raw is None or raw == "":
            return cls()
        if isinstance(raw, str):
            try:
                raw = json.loads(raw)
            except json.JSONDecodeError as error:
                raise SettingsError(
                    f"Extra params are not JSON ({error.msg} at character {error.pos}); expected an object "
                    'such as {"preset": "margin"}.',
                ) from error
        if not isinstance(raw, dict):
            raise SettingsError(f"Extra params are a {type(raw).__name__}; expected a JSON object.")
        try:
            return cls.model_validate(raw)
        except ValidationError as error:
            raise SettingsError("; ".join(_explain(item, cls) for item in error.errors())) from error


def known_names(model: type[BaseModel]) -> set[str]:
    """Every key that may appear anywhere in the settings of `model`."""
    names: set[str] = set()
    for name, field in model.model_fields.items():
        names.add(name)
        nested = field.annotation
        if isinstance(nested, type) and issubclass(nested, BaseModel):
            names |= known_names(nested)
    return names


def _explain(item: Any, model: type[BaseModel]) -> str:  # noqa: ANN401 - pydantic's ErrorDetails
    where = ".".join(str(part) for part in item["loc"])
    if item["type"] == "extra_forbidden":
        known = known_names(model) | known_names(Objectives) | set(MetadataRule.model_fields)
        near = difflib.get_close_matches(str(item["loc"][-1]), sorted(known), n=1)
        return f"{where} is not a setting" + (f"; did you mean {near[0]}?" if near else "")
    value = str(item.get("input"))
    shown = value if len(value) <= 60 else value[:57] + "..."
    return f"{where} is {shown}: {item['msg']}"
