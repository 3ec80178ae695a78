"""Written words that could drift from the code."""

from __future__ import annotations

import ast
import importlib.util
import json
import re
import shlex
from pathlib import Path

import pytest
import typer
from prometheus_client.metrics import MetricWrapperBase

from ls_backend import metrics
from ls_backend.cli import app
from ls_backend.settings import ProjectSettings, Settings, env_names
from ls_backend.strategies import Plan
from ls_backend.web.app import create_app

REPOSITORY = Path(__file__).resolve().parents[1]
DOCS = REPOSITORY / "docs"
README = (REPOSITORY / "README.md").read_text()
PAGES = sorted([*REPOSITORY.glob("*.md"), *DOCS.rglob("*.md"), REPOSITORY / "model_weights" / "README.md"])
DECISIONS = sorted((DOCS / "decisions").glob("[0-9]*.md"))


def name_of(path):
    return str(path.relative_to(REPOSITORY))


def rows_below(text, head):
    """Cells of the rows of the first table whose head starts with the given cells."""
    table = text.split(f"\n| {head} |", 1)[1].split("\n\n", 1)[0]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]


def anchors(path):
    """Names a link may point to inside a page, as GitHub makes them from headings."""
    headings = re.findall(r"^#+ (.+)$", path.read_text(), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading).lower().replace(" ", "-") for heading in headings}


def codes_in_the_code():
    """Every code a person may meet: of errors, of findings that are not "ok", of failed jobs."""
    found = set()
    for path in (REPOSITORY / "ls_backend").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                assigned = [item for item in node.body if isinstance(item, ast.Assign)]
                found |= {item.value.value for item in assigned if item.targets[0].id == "code"}
            elif isinstance(node, ast.Call):
                is_finding = getattr(node.func, "id", "") == "Finding" and len(node.args) > 1
                given = [argument.value if is_text(argument) else None for argument in node.args[:2]]
                if is_finding and given[0] is not None and given[1] != "ok":
                    found.add(given[0])
                found |= {item.value.value for item in node.keywords if item.arg == "code" and is_text(item.value)}
            elif isinstance(node, ast.Assign) and isinstance(node.value, ast.Tuple):
                first = getattr(node.targets[0], "elts", [None])[0]
                if getattr(first, "id", "") == "code" and is_text(node.value.elts[0]):
                    found.add(node.value.elts[0].value)
    return found


def is_text(node):
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def read_env_example():
    """Name -> (value, the comment above it)."""
    found = {}
    comment = []
    for line in (REPOSITORY / ".env.example").read_text().splitlines():
        if line.startswith("#"):
            comment.append(line.removeprefix("#").strip())
        elif line:
            name, value = line.split("=", 1)
            found[name] = (value, " ".join(comment))
            comment = []
        else:
            comment = []
    return found


def test_the_env_example_names_every_setting_with_its_description():
    written = read_env_example()
    assert set(written) == {names[0] for names in env_names().values()}
    for field, (first, *others) in env_names().items():
        _, comment = written[first]
        assert Settings.model_fields[field].description in comment
        assert all(re.search(rf"\b{name}\b", comment) for name in others)


def test_the_env_example_shows_the_defaults(monkeypatch):
    for names in env_names().values():
        for name in names:
            monkeypatch.delenv(name, raising=False)
    untouched = Settings()
    for name, (value, _) in read_env_example().items():
        monkeypatch.setenv(name, value)
    assert Settings() == untouched


def test_every_environment_name_is_unique():
    names = [name for group in env_names().values() for name in group]
    assert len(names) == len(set(names))


def test_the_compose_file_uses_only_known_settings():
    known = {name for group in env_names().values() for name in group}
    text = (REPOSITORY / "docker-compose.yml").read_text()
    assert set(re.findall(r"\$\{([A-Z_]+)", text)) <= known


@pytest.mark.parametrize("page", ["settings.md", "strategies.md"])
def test_the_generated_pages_are_what_the_code_says(page):
    spec = importlib.util.spec_from_file_location("docs_generate", DOCS / "generate.py")
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    expected = generate.pages()[DOCS / page]
    assert (DOCS / page).read_text() == expected, "run `make docs`"


def test_the_settings_page_has_every_setting():
    text = (DOCS / "settings.md").read_text()
    names = {name for group in env_names().values() for name in group} | set(ProjectSettings.model_fields)
    assert [name for name in sorted(names) if f"`{name}`" not in text] == []


def test_the_readme_names_demo_and_test_before_anything_else():
    assert re.findall(r"\bmake [a-z]+", README)[:2] == ["make demo", "make test"]
    assert README.index("make test") < README.index("##")


def test_every_code_has_its_row_in_the_troubleshooting_and_no_row_is_out_of_date():
    rows = rows_below(README, "Code")
    written = [row[0].strip("`") for row in rows]
    assert written == sorted(written)
    assert set(written) == codes_in_the_code()
    assert all(len(row) == 3 and all(row) for row in rows)


def test_the_codes_are_really_found_in_the_code():
    found = codes_in_the_code()
    assert {"backend-error", "model-version", "job-timeout", "worker-died", "webhook-narrowed", "redis"} <= found
    assert "ml-backend" not in found, "that one only says that all is well"


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_every_link_leads_somewhere(path):
    text = re.sub(r"```.*?```", "", path.read_text(), flags=re.DOTALL)
    broken = []
    for target in re.findall(r"\]\(([^)]+)\)", text):
        file, _, anchor = target.partition("#")
        if "://" in target:
            continue
        there = (path.parent / file).resolve() if file else path
        if not there.exists() or (anchor and anchor not in anchors(there)):
            broken.append(target)
    assert broken == []


def all_commands():
    """Name -> command; one of a group has the name of both, as in "settings get"."""
    found = {}
    for name, command in typer.main.get_command(app).commands.items():
        inner = getattr(command, "commands", None)
        found |= {name: command} if inner is None else {f"{name} {key}": value for key, value in inner.items()}
    return found


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_every_command_in_the_documents_exists_with_its_options(path):
    commands = all_commands()
    groups = {name.partition(" ")[0] for name in commands if " " in name}
    wrong = []
    for line in re.findall(r"\bls-backend ([a-z][^\n`|#;(]*)", path.read_text()):
        try:
            name, *words = shlex.split(line)
        except ValueError:
            name, *words = line.split()
        if name in groups and words:
            name = f"{name} {words.pop(0)}"
        if name not in commands:
            wrong.append(line)
            continue
        options = {text for option in commands[name].params for text in (*option.opts, *option.secondary_opts)}
        wrong += [f"{name} {word}" for word in words if word.startswith("--") and word not in options]
    assert wrong == []


def test_the_readme_lists_every_command():
    written = {re.match(r"`ls-backend ([a-z ]+[a-z])", row[0]).group(1) for row in rows_below(README, "Command")}
    assert written == set(all_commands())


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_every_make_target_in_the_documents_exists(path):
    targets = set(re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(), flags=re.MULTILINE))
    named = set(re.findall(r"(?:`|\$ )make ([a-z-]+)", path.read_text()))
    assert named <= targets


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_every_own_environment_name_in_the_documents_exists(path):
    known = {name for group in env_names().values() for name in group}
    assert set(re.findall(r"\bLSB_[A-Z_]+\b", path.read_text())) <= known


def test_the_plans_of_the_readme_are_valid_and_name_known_methods():
    examples = [row[1].strip("`") for row in rows_below(README, "You have")]
    examples += re.findall(r"--settings '(.+)'", README)
    assert len(examples) > 5
    for example in examples:
        Plan.from_settings(ProjectSettings.from_extra_params(json.loads(example)))


def test_the_protocol_page_lists_every_path_of_the_server(tmp_path):
    server = create_app(Settings.model_validate({"DATA_DIR": tmp_path, "REDIS_URL": "redis://127.0.0.1:1/0"}))
    served = {
        (re.sub(r"<int:", "<", rule.rule), method)
        for rule in server.url_map.iter_rules()
        for method in rule.methods - {"HEAD", "OPTIONS"}
        if not rule.rule.startswith(("/docs", "/static"))
    }
    text = (DOCS / "protocol.md").read_text()
    rows = re.findall(r"^\| (`/.*?) \| (GET|POST|PUT|PATCH|DELETE) \|", text, flags=re.MULTILINE)
    written = {(path, method) for paths, method in rows for path in re.findall(r"`(/[^`]*)`", paths)}
    assert written == served


def test_the_metrics_are_documented_under_the_names_they_have():
    ours = [item for item in vars(metrics).values() if isinstance(item, MetricWrapperBase)]
    declared = {sample.name for item in ours for sample in item.describe()}
    written = [
        row[0].strip("`").removesuffix("_total") for row in rows_below((DOCS / "operations.md").read_text(), "Name")
    ]
    assert set(written) == declared


@pytest.mark.parametrize("path", DECISIONS, ids=name_of)
def test_a_decision_says_why_and_what_it_costs(path):
    text = path.read_text()
    number = int(path.name[:4])
    assert text.startswith(f"# {number}. ")
    assert re.findall(r"^## (.+)$", text, flags=re.MULTILINE) == ["Context", "Decision", "Consequences"]
    assert f"]({path.name})" in (DOCS / "decisions" / "README.md").read_text()


def test_the_decisions_are_numbered_without_gaps():
    assert [int(path.name[:4]) for path in DECISIONS] == list(range(1, len(DECISIONS) + 1))
