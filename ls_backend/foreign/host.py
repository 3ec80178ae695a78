"""One foreign model, constructed and called as label-studio-ml's own server does it.

There are two interfaces under one class name, told apart by what the installed `LabelStudioMLBase` has:

- 1.x (1.0.9 is the last on PyPI): `Model(label_config=, train_output=, hostname=, access_token=)`,
  `predict(tasks, **kwargs) -> list`, `fit(tasks, workdir=, **kwargs) -> train_output`, a dict of plain JSON that the
  next construction gets.
- 2.x (from its repository): `Model(project_id=, label_config=)`, `predict(tasks, context=None, **kwargs)` returns a
  list or a `ModelResponse`, `fit(event, data, **kwargs)` gets what a webhook says. State is kept with `self.set` in a
  cache below MODEL_DIR. A model is constructed anew after each fit, for there every request constructs one.

This module runs in the model's process only (`child`), the one place where label_studio_ml may be imported: it loads
PyTorch where there is one, changes how multiprocessing starts processes, and keeps global state.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import json
import os
import shutil
import sys
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ls_backend.errors import ForeignModelFailed, ForeignModelUnknown
from ls_backend.foreign.order import Order

START_TRAINING = "START_TRAINING"
_STATE = "state.json"

NOT_OURS = (Exception, SystemExit)
"""Whatever a foreign model may raise, `sys.exit()` too."""


class Host:
    """A constructed model and what it has learned.

    Raises:
        ForeignModelUnknown: The path leads to no model.
        ForeignModelFailed: Its constructor raised.
    """

    def __init__(self, order: Order) -> None:
        self._order = order
        self._folder = Path(order.folder)
        self._folder.mkdir(parents=True, exist_ok=True)
        _provide(order)
        base = _base()
        self._is_second = hasattr(base, "set")
        self._class = load_class(order.path, base)
        self._fits, self._train_output = self._read_state()
        self._model = self._first()

    @property
    def version(self) -> str:
        """Changes whenever the model has learned: "initial", then "fit-1", "fit-2" and so on."""
        return f"fit-{self._fits}" if self._fits else "initial"

    def predict(self, tasks: list[dict[str, Any]], context: dict[str, Any] | None) -> list[Any]:
        """Return the model's entries as plain JSON, whatever their number.

        Args:
            tasks: As Label Studio sends them.
            context: What an annotator has drawn so far, `{"result": [...]}`, in interactive pre-annotation.

        Raises:
            TypeError: The answer is no list, or holds something JSON cannot.
        """
        answer = self._model.predict(tasks, context=context)
        version = getattr(self._model, "model_version", None) if self._is_second else None
        return list(_entries(answer, version))

    def fit(self, tasks: list[dict[str, Any]], event: str) -> None:
        """Let the model learn, then construct it anew on what it has learned; after an error the old one stays.

        Args:
            tasks: With `annotations`; cancelled ones are left out, and tasks without any other.
            event: Label Studio's name of what happened. "START_TRAINING" means: learn from all of these tasks; with
                another a 2.x model is called once for each annotation, as by webhooks.
        """
        usable = list(_usable(tasks))
        if self._is_second:
            self._fit_second(usable, event)
            self._model = self._construct(None)
            self._fits += 1
            self._write_state()
            return
        workdir = self._folder / "fits" / str(self._fits + 1)
        shutil.rmtree(workdir, ignore_errors=True)  # of a fit that did not come to its end
        workdir.mkdir(parents=True)
        try:
            output = self._fit_first(usable, event, workdir)
            if isinstance(output, dict) and output:
                output = json.loads(json.dumps(output, default=plain))
                self._model = self._construct(output)
        except BaseException:
            shutil.rmtree(workdir, ignore_errors=True)
            raise
        self._fits += 1
        if isinstance(output, dict) and output:  # without one, what was learned is in the model itself, and only there
            self._train_output = output
            self._write_state()

    def _fit_first(self, tasks: list[dict[str, Any]], event: str, workdir: Path) -> object:
        """Call a 1.x `fit` with the tasks; one that cannot do without the webhook's words gets those as well."""
        given = [{**task, "completions": task["annotations"]} for task in tasks]  # their name before Label Studio 1.0
        if not _insists_on(self._model.fit, "data"):
            try:
                return self._model.fit(given, workdir=str(workdir))
            except KeyError as missing:
                if missing.args != ("data",):
                    raise
        last = tasks[-1:]
        payload = next(self._payloads(last), self._project())
        return self._model.fit(given, workdir=str(workdir), event=event, data=payload, job_id=str(self._fits + 1))

    def _fit_second(self, tasks: list[dict[str, Any]], event: str) -> None:
        """Call a 2.x `fit` as its webhook does, with the labelled tasks as well where it takes more arguments."""
        more = {"tasks": tasks} if _takes_more(self._model.fit) else {}
        for payload in [self._project()] if event == START_TRAINING else self._payloads(tasks):
            self._model.fit(event, payload, **more)

    def _project(self) -> dict[str, Any]:
        return {"project": {"id": self._order.project_id, "label_config": self._order.label_config}}

    def _payloads(self, tasks: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """Yield what a webhook says of each annotation."""
        for task in tasks:
            told = {key: value for key, value in task.items() if key != "annotations"}
            for annotation in task["annotations"]:
                ids = {"task": task.get("id"), "project": self._order.project_id}
                yield {**self._project(), "task": told, "annotation": {**annotation, **ids}}

    def _first(self) -> Any:  # noqa: ANN401 - a class of somebody else
        """Construct on what was learned before; when that no longer works, from nothing."""
        if self._train_output is None:
            return self._construct(None)
        try:
            return self._construct(self._train_output)
        except ForeignModelFailed as error:
            sys.stderr.write(f"{error} It starts again without what it had learned.\n")
            self._fits, self._train_output = 0, None
            return self._construct(None)

    def _construct(self, train_output: dict[str, Any] | None) -> Any:  # noqa: ANN401 - a class of somebody else
        order = self._order
        given: dict[str, Any] = {"label_config": order.label_config}
        if self._is_second:
            given["project_id"] = str(order.project_id)
        else:
            given |= {"train_output": train_output, "hostname": order.hostname, "access_token": order.access_token}
        try:
            return self._class(**given)
        except NOT_OURS as error:
            traceback.print_exc()
            raise ForeignModelFailed(
                f"Model {order.path} raised {words(error)} in its constructor; expected a model for this label config.",
                hint="Check that the model is made for these control tags; the log of the worker has its traceback.",
            ) from error

    def _read_state(self) -> tuple[int, dict[str, Any] | None]:
        """Read what the same class has learned before: count of fits, and the last train_output."""
        try:
            state = json.loads((self._folder / _STATE).read_text())
        except (FileNotFoundError, json.JSONDecodeError):
            return 0, None
        return (state["fits"], state["train_output"]) if state["path"] == self._order.path else (0, None)

    def _write_state(self) -> None:
        state = {"path": self._order.path, "fits": self._fits, "train_output": self._train_output}
        fresh = self._folder / f"{_STATE}.new"
        fresh.write_text(json.dumps(state))
        fresh.replace(self._folder / _STATE)


def load_class(path: str, base: type) -> type:
    """Find a class by "package.module:ClassName".

    Raises:
        ForeignModelUnknown: The module or the class is missing, the module cannot be imported, or the class does not
            derive from `base`.
    """
    module_name, _, class_name = path.partition(":")
    if not module_name or not class_name:
        raise ForeignModelUnknown(f"model is {path!r}; expected package.module:ClassName.")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and f"{module_name}.".startswith(f"{error.name}."):
            raise ForeignModelUnknown(
                f"model is {path!r}, but there is no module {error.name}; expected one that the workers can import.",
                hint="Correct the setting model, or put the module into the workers' working directory or PYTHONPATH.",
            ) from error
        raise ForeignModelUnknown(
            f"model is {path!r}, but {module_name} needs {error.name}, which is not installed.",
            hint=f"Install {error.name} where the workers run, then restart them.",
        ) from error
    except NOT_OURS as error:
        traceback.print_exc()
        raise ForeignModelUnknown(
            f"model is {path!r}, but importing {module_name} raised {words(error)}.",
            hint="Correct the module; the log of the worker has its traceback.",
        ) from error
    found = getattr(module, class_name, None)
    if isinstance(found, type) and issubclass(found, base) and found is not base:
        return found
    models = [name for name, item in vars(module).items() if isinstance(item, type) and issubclass(item, base)]
    models = [name for name in models if getattr(module, name) is not base]
    near = difflib.get_close_matches(class_name, models, n=1) or models[:1]
    what = f"has no class {class_name}" if found is None else f"{class_name} does not derive from LabelStudioMLBase"
    raise ForeignModelUnknown(
        f"model is {path!r}, but {f'{module_name} ' if found is None else ''}{what}"
        + (f"; did you mean {near[0]}?" if near else "; expected a class that derives from LabelStudioMLBase.")
    )


def words(error: BaseException) -> str:
    """Return an error of somebody else as one line: its type and the start of its text."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}" + (f": {text[:300]}" if text else "")


def plain(value: Any) -> Any:  # noqa: ANN401 - whatever a model puts into its answer
    """Turn what JSON does not know into what it does: numbers and arrays of NumPy and PyTorch, objects of pydantic.

    Raises:
        TypeError: It is none of these.
    """
    for name in ("tolist", "model_dump", "_dict"):  # arrays and scalars; pydantic; the SDK's Region
        convert = getattr(value, name, None)
        if callable(convert):
            return convert()
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    raise TypeError(f"the answer holds a {type(value).__name__}, which is no JSON")


def _base() -> type:
    try:
        module = importlib.import_module("label_studio_ml.model")
    except ImportError as error:
        raise ForeignModelUnknown(
            f"The setting model needs label-studio-ml, which cannot be imported here: {error}.",
            hint="Run `make setup`, or pip install 'ls-backend[ml]' and then pip install --no-deps label-studio-ml.",
        ) from error
    base: type = module.LabelStudioMLBase
    return base


def _provide(order: Order) -> None:
    """Say where things are in the names the ecosystem's models read; before label_studio_ml is imported."""
    os.environ["MODEL_DIR"] = order.folder
    if order.hostname:
        os.environ["LABEL_STUDIO_URL"] = os.environ["LABEL_STUDIO_HOST"] = order.hostname
    if order.access_token:
        os.environ["LABEL_STUDIO_API_KEY"] = order.access_token


def _entries(answer: object, version: object) -> Iterator[Any]:
    """Yield the entries of an answer: a list, a `ModelResponse`, or its fields in a dict."""
    answer = _fields(answer)
    if isinstance(answer, dict):
        version = answer.get("model_version") or version
        answer = answer.get("predictions")
    if not isinstance(answer, list | tuple):
        raise TypeError(f"predict returned a {type(answer).__name__}; expected a list with an entry for each task")
    named = {"model_version": str(version)} if version else {}
    for item in answer:
        entry = _fields(item)
        if isinstance(entry, list | tuple):
            entry = [_fields(each) for each in entry]
            entry = [{**named, **each} if isinstance(each, dict) else each for each in entry]
        elif isinstance(entry, dict):
            entry = {**named, **entry}
        yield json.loads(json.dumps(entry, default=plain))


def _fields(thing: Any) -> Any:  # noqa: ANN401 - pydantic's or not
    """Return what was set on an object of pydantic: the SDK's `PredictionValue` has score 0 when nobody gave one."""
    return thing.model_dump(exclude_unset=True) if hasattr(thing, "model_dump") else thing


def _usable(tasks: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for task in tasks:
        given = [item for item in task.get("annotations") or () if not item.get("was_cancelled")]
        if given:
            yield {**task, "annotations": given}


def _insists_on(function: Any, name: str) -> bool:  # noqa: ANN401 - a method of somebody else
    parameter = inspect.signature(function).parameters.get(name)
    return parameter is not None and parameter.default is inspect.Parameter.empty


def _takes_more(function: Any) -> bool:  # noqa: ANN401 - a method of somebody else
    parameters = inspect.signature(function).parameters
    return "tasks" in parameters or any(item.kind is item.VAR_KEYWORD for item in parameters.values())
