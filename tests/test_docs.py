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
import yaml
from prometheus_client.metrics import MetricWrapperBase

from ls_backend import metrics
from ls_backend.cli import app
from ls_backend.settings import ProjectSettings, Settings, env_names
from ls_backend.strategies import Plan, strategies
from ls_backend.web.app import create_app

REPOSITORY = Path(__file__).resolve().parents[1]
DOCS = REPOSITORY / "docs"
README = (REPOSITORY / "README.md").read_text()
PAGES = sorted([*REPOSITORY.glob("*.md"), *DOCS.rglob("*.md"), REPOSITORY / "model_weights" / "README.md"])
DECISIONS = sorted((DOCS / "decisions").glob("[0-9]*.md"))


def name_of(path):
    return str(path.relative_to(REPOSITORY))


def script(name):
    """Import a script that lies in docs/."""
    spec = importlib.util.spec_from_file_location(f"docs_{name}", DOCS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def pictures(path):
    """Targets of the pictures in a page, as Markdown and as HTML, which can have one for dark screens."""
    text = path.read_text()
    return re.findall(r"!\[[^\]]*\]\(([^)]+)\)", text) + re.findall(r"\b(?:src|srcset)=\"([^\"]+)\"", text)


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
    expected = script("generate").pages()[DOCS / page]
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


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_every_picture_is_there_and_is_described(path):
    assert [target for target in pictures(path) if not (path.parent / target).is_file()] == []
    assert "![](" not in path.read_text()
    assert path.read_text().count("<img ") == len(re.findall(r"<img [^>]*\balt=\"[^\"]+\"", path.read_text()))


def test_every_page_of_the_dashboard_is_photographed_light_and_dark_and_no_picture_is_left_over(tmp_path):
    server = create_app(Settings.model_validate({"DATA_DIR": tmp_path, "REDIS_URL": "redis://127.0.0.1:1/0"}))
    expected = script("screenshots").files(server)
    assert {"projects-light.png", "projects-dark.png", "queue-dark.png"} < expected
    there = {path.name: path for path in (DOCS / "images").iterdir()}
    assert set(there) == expected, "run `make screenshots`"
    for name, path in there.items():
        assert path.read_bytes().startswith(b"\x89PNG"), name
        assert 5_000 < path.stat().st_size < 250_000, name


def test_the_readme_and_the_tutorial_show_pictures():
    assert len(pictures(REPOSITORY / "README.md")) >= 4
    assert len(pictures(DOCS / "tutorial.md")) >= 4


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


def declared_metrics():
    """Names of our metrics as Prometheus stores them, without the suffixes of histograms."""
    counted = [item.describe()[0] for item in vars(metrics).values() if isinstance(item, MetricWrapperBase)]
    names = {f"{item.name}_total" if item.type == "counter" else item.name for item in counted}
    measured = [item for item in vars(metrics).values() if isinstance(item, metrics.Measured)]
    return names | {f"{item.name}_total" if item.kind == "counter" else item.name for item in measured}


def metrics_in(text):
    """Names of our metrics in an expression or a whole file."""
    found = set(re.findall(r"\blsb_[a-z_]+\b", text))
    return {re.sub(r"_(bucket|sum|count)$", "", name) for name in found}


def test_the_metrics_are_documented_under_the_names_and_labels_they_have():
    rows = rows_below((DOCS / "operations.md").read_text(), "Name")
    assert {row[0].strip("`") for row in rows} == declared_metrics()
    written = {row[0].strip("`").removesuffix("_total"): re.findall(r"`(\w+)`", row[2]) for row in rows}
    for item in vars(metrics).values():
        if isinstance(item, metrics.Measured):
            assert written[item.name] == list(item.labels), item.name


def panels_of(dashboard):
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def test_the_dashboard_shows_every_metric_and_no_other():
    dashboard = json.loads((DOCS / "grafana" / "ls_backend.json").read_text())
    panels = panels_of(dashboard)
    shown = [target["expr"] for panel in panels for target in panel["targets"]]
    assert metrics_in(" ".join(shown)) == declared_metrics()
    assert all(panel["description"] and panel["title"] for panel in panels)
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])


def test_the_dashboard_lets_its_user_choose_the_data_source():
    dashboard = json.loads((DOCS / "grafana" / "ls_backend.json").read_text())
    variables = {item["name"]: item for item in dashboard["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource"
    assert metrics_in(variables["project"]["query"]["query"]) <= declared_metrics()
    sources = [part["datasource"] for panel in panels_of(dashboard) for part in (panel, *panel["targets"])]
    assert {source["uid"] for source in sources} == {"${datasource}"}


def test_the_alerts_are_rules_about_metrics_we_have_and_are_documented():
    (group,) = yaml.safe_load((DOCS / "grafana" / "alerts.yml").read_text())["groups"]
    for rule in group["rules"]:
        assert metrics_in(rule["expr"]), rule["alert"]
        assert metrics_in(rule["expr"]) <= declared_metrics(), rule["alert"]
        assert set(rule) == {"alert", "expr", "for", "labels", "annotations"}
        assert rule["labels"]["severity"] in {"warning", "critical"}
        assert set(rule["annotations"]) == {"summary", "description"}
        named = set(re.findall(r"`ls-backend ([a-z]+)", rule["annotations"]["description"]))
        assert named <= set(typer.main.get_command(app).commands)
    written = [row[0].strip("`") for row in rows_below((DOCS / "operations.md").read_text(), "Alert")]
    assert written == [rule["alert"] for rule in group["rules"]]


def test_every_strategy_is_on_its_page():
    text = (DOCS / "strategies.md").read_text()
    assert [item.name for item in strategies() if f"`{item.name}`" not in text] == []


def codes_of_findings():
    """Code -> module, of every finding that is not "ok" and every failed job that the code names in place."""
    found = {}
    for path in (REPOSITORY / "ls_backend").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Finding" and len(node.args) > 1:
                code, level = node.args[:2]
                if is_text(code) and not (is_text(level) and level.value == "ok"):
                    found[code.value] = path.name
    return found | dict.fromkeys(("job-failed", "job-timeout", "worker-died"), "tasks.py")


def codes_in_the_tests():
    """Every text that stands alone in a test, in what it is parametrized with or in a helper beside it."""
    texts = set()
    for path in (REPOSITORY / "tests").rglob("test_*.py"):
        if path != Path(__file__):
            texts |= {node.value for node in ast.walk(ast.parse(path.read_text())) if is_text(node)}
    return texts


def test_every_finding_is_provoked_in_a_test():
    provoked = codes_in_the_tests()
    assert {code: module for code, module in codes_of_findings().items() if code not in provoked} == {}


def test_the_findings_are_really_found_in_the_code():
    found = codes_of_findings()
    assert found["webhook-narrowed"] == "doctor.py"
    assert found["no-worker"] == "checkup.py"
    assert found["project-deleted"] == "sync.py"
    assert "ml-backend" not in found
    assert "no-such-code" not in codes_in_the_tests()


CHECKS = {
    "a setting of the deployment": (DOCS / "settings.md", "LSB_RECONCILE_S", test_the_settings_page_has_every_setting),
    "a setting of a project": (DOCS / "settings.md", "min_labels", test_the_settings_page_has_every_setting),
    "a strategy": (DOCS / "strategies.md", "core_set", test_every_strategy_is_on_its_page),
    "a metric": (
        DOCS / "operations.md",
        "lsb_order_applied",
        test_the_metrics_are_documented_under_the_names_and_labels_they_have,
    ),
    "a panel": (DOCS / "grafana" / "ls_backend.json", "lsb_up", test_the_dashboard_shows_every_metric_and_no_other),
    "an alert": (
        DOCS / "operations.md",
        "LsBackendNoWorker",
        test_the_alerts_are_rules_about_metrics_we_have_and_are_documented,
    ),
    "a command": (REPOSITORY / "README.md", "retry --project N --kind K", test_the_readme_lists_every_command),
    "a code": (
        REPOSITORY / "README.md",
        "webhook-silent",
        test_every_code_has_its_row_in_the_troubleshooting_and_no_row_is_out_of_date,
    ),
    "a path": (DOCS / "protocol.md", "/api/jobs/retry", test_the_protocol_page_lists_every_path_of_the_server),
}


@pytest.mark.parametrize(("page", "name", "check"), CHECKS.values(), ids=CHECKS.keys())
def test_a_check_fails_when_its_page_loses_a_name(page, name, check, monkeypatch, tmp_path):
    whole = page.read_text()
    lost = re.sub(rf"(?<![\w-]){re.escape(name)}(?![\w-])", "lost", whole)
    assert lost != whole
    read = Path.read_text
    monkeypatch.setattr(
        Path, "read_text", lambda path, *args, **how: lost if path == page else read(path, *args, **how)
    )
    monkeypatch.setitem(globals(), "README", (REPOSITORY / "README.md").read_text())
    with pytest.raises(AssertionError):
        check(**({"tmp_path": tmp_path} if "tmp_path" in check.__code__.co_varnames else {}))


@pytest.mark.parametrize("path", DECISIONS, ids=name_of)
def test_a_decision_says_why_and_what_it_costs(path):
    text = path.read_text()
    number = int(path.name[:4])
    assert text.startswith(f"# {number}. ")
    assert re.findall(r"^## (.+)$", text, flags=re.MULTILINE) == ["Context", "Decision", "Consequences"]
    assert f"]({path.name})" in (DOCS / "decisions" / "README.md").read_text()


def test_the_decisions_are_numbered_without_gaps():
    assert [int(path.name[:4]) for path in DECISIONS] == list(range(1, len(DECISIONS) + 1))
