"""What a stranger finds in the repository is there: make targets, links, versions, one address."""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pytest brings it

ROOT = Path(__file__).resolve().parents[2]
GITHUB = ROOT / ".github"
CHECKS = GITHUB / "workflows" / "checks.yml"
WORKFLOWS = sorted((GITHUB / "workflows").glob("*.yml"))
FORMS = sorted(path for path in (GITHUB / "ISSUE_TEMPLATE").glob("*.yml") if path.name != "config.yml")
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "CODE_OF_CONDUCT.md")),
    GITHUB / "pull_request_template.md",
]
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
TARGETS = set(re.findall(r"^([a-z0-9-]+):", MAKEFILE, flags=re.MULTILINE))
LINK = re.compile(r"\]\(\s*([^)\s]+)\)")


def content(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def pyproject() -> Any:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def matrix() -> list[dict[str, str]]:
    return list(content(CHECKS)["jobs"]["test"]["strategy"]["matrix"]["include"])


def made(command: str) -> set[str]:
    """The targets that a command line hands to make."""
    words = (word for line in re.findall(r"\bmake\b(.*)", command) for word in line.split())
    return {word for word in words if re.fullmatch(r"[a-z0-9-]+", word)}


def jobs() -> list[Any]:
    return [
        pytest.param(job, id=f"{path.stem}.{name}") for path in WORKFLOWS for name, job in content(path)["jobs"].items()
    ]


def broken_links(page: Path) -> list[str]:
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}
    found = []
    for target in LINK.findall(text):
        file, _, anchor = target.partition("#")
        if target.startswith("https://"):
            continue
        if file and not (page.parent / file).exists():
            found.append(target)
        if anchor and not file and anchor not in anchors:
            found.append(target)
    return found


@pytest.mark.parametrize("job", jobs())
def test_workflows_run_targets_of_the_makefile(job: dict[str, Any]) -> None:
    commands = [step["run"] for step in job.get("steps", []) if "run" in step]
    assert set().union(*map(made, commands)) <= TARGETS
    assert not [command for command in commands if re.search(r"\b(pytest|ruff|mypy|sphinx)\b", command)]


def test_the_matrix_names_targets_of_the_makefile() -> None:
    assert {row["target"] for row in matrix()} <= TARGETS


def test_each_check_of_make_ci_runs_in_the_workflow() -> None:
    in_ci = re.search(r"for target in ([a-z0-9 -]+);", MAKEFILE)
    assert in_ci is not None
    in_workflow = made(CHECKS.read_text(encoding="utf-8")) | {row["target"] for row in matrix()}
    # test-zennit1 is the matrix's rows with Zennit 1
    assert set(in_ci[1].split()) - in_workflow == {"test-zennit1"}


def test_every_supported_python_and_zennit_is_tested() -> None:
    classifiers = "\n".join(pyproject()["project"]["classifiers"])
    assert {row["python"] for row in matrix()} == set(re.findall(r":: (3\.\d+)$", classifiers, flags=re.MULTILINE))
    zennit1 = re.search(r"^ZENNIT1 := (\S+)$", MAKEFILE, flags=re.MULTILINE)
    oldest = re.search(r"^zennit==(\S+)$", (ROOT / "tests" / "oldest.txt").read_text(), flags=re.MULTILINE)
    assert zennit1 is not None
    assert oldest is not None
    assert {row["zennit"] for row in matrix()} == {oldest[1], zennit1[1]}
    assert {row["zennit"] for row in matrix() if row["target"] == "test-oldest"} == {oldest[1]}


def test_pre_commit_runs_the_tools_of_make_lint() -> None:
    recipe = re.search(r"^lint:.*\n((?:\t.*\n)+)", MAKEFILE, flags=re.MULTILINE)
    assert recipe is not None
    in_lint = re.findall(r"\$\(BIN\)/([\w-]+(?: (?:check|format|-m \w+))?)", recipe[1])
    (local,) = (repo for repo in content(ROOT / ".pre-commit-config.yaml")["repos"] if repo["repo"] == "local")
    entries = [hook["entry"].removeprefix(".venv/bin/") for hook in local["hooks"]]
    assert [tool for tool in in_lint if not any(f"{entry} ".startswith(f"{tool} ") for entry in entries)] == []
    assert len(in_lint) == len(entries)


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.name)
def test_workflows_have_few_rights_and_fixed_majors(workflow: Path) -> None:
    settings = content(workflow)
    assert settings["permissions"] == {"contents": "read"}
    assert "group" in settings["concurrency"]
    for name, job in settings["jobs"].items():
        assert job.get("permissions", {}) == ({"id-token": "write"} if name == "publish" else {})
        for step in job.get("steps", []):
            assert re.search(r"@(release/)?v\d+$", step.get("uses", "@v1"))
            if step.get("uses", "").startswith("actions/checkout@"):
                assert step["with"] == {"persist-credentials": False}


@pytest.mark.parametrize("form", FORMS, ids=lambda path: path.name)
def test_issue_forms_have_what_github_needs(form: Path) -> None:
    settings = content(form)
    assert {"name", "description", "body"} <= settings.keys()
    ids = [field["id"] for field in settings["body"]]
    assert len(set(ids)) == len(ids)
    for field in settings["body"]:
        assert field["type"] in {"textarea", "dropdown"}
        assert field["attributes"]["label"]


def test_the_script_of_the_bug_form_runs() -> None:
    form = content(GITHUB / "ISSUE_TEMPLATE" / "bug.yml")
    (code,) = (field["attributes"]["value"] for field in form["body"] if field["id"] == "code")
    names: dict[str, Any] = {}
    exec(code, names)
    _, penalty = names["ISNetRegularizer"](names["model"], layers=())(names["images"], names["masks"])
    assert penalty.isfinite()


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_relative_links_lead_somewhere(page: Path) -> None:
    assert broken_links(page) == []


def test_that_test_would_see(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# One, two\n[a](none.md) ![b](none.png) [c](#one-two) [d](#three) [e](https://example.org)\n")
    assert broken_links(page) == ["none.md", "none.png", "#three"]


def test_release_date_is_the_same_everywhere() -> None:
    heading = re.search(r"^## \[(\d\S+)\] - (\S+)$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert heading is not None
    citation = content(ROOT / "CITATION.cff")
    assert (heading[1], heading[2]) == (citation["version"], str(citation["date-released"]))


def test_one_address() -> None:
    home = content(ROOT / "CITATION.cff")["repository-code"]
    owner_and_name = home.removeprefix("https://github.com/")
    assert pyproject()["project"]["urls"]["Homepage"] == home
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    ours = re.findall(r"https://(?:raw\.githubusercontent|github)\.com/([\w-]+/[\w-]+)", text)
    assert set(ours) == {owner_and_name}


def test_readme_has_only_absolute_links_on_pypi() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for rule in pyproject()["tool"]["hatch"]["metadata"]["hooks"]["fancy-pypi-readme"]["substitutions"]:
        text = re.sub(rule["pattern"], rule["replacement"], text)
    targets = LINK.findall(text) + re.findall(r"(?:src|srcset|href)=\"([^\"]+)", text)
    assert targets
    assert [target for target in targets if not target.startswith("https://")] == []


def test_the_check_of_a_release_sees_faults(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.whl", "w") as wheel:
        wheel.writestr("a.dist-info/METADATA", "Version: 1.0.0\n\n[a](docs/a.md)\n")
        wheel.writestr("tests/__pycache__/a.pyc", "")
    tarfile.open(tmp_path / "a.tar.gz", "w:gz").close()
    script = [sys.executable, str(ROOT / ".ci" / "check_dist.py"), str(tmp_path), "v2.0.0"]
    result = subprocess.run(script, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    for part in [
        "a.whl lacks zennit_isnet/py.typed",
        "a.tar.gz lacks pyproject.toml",
        "a.whl has tests/__pycache__/a.pyc",
        "a.whl would install tests",
        "links to docs/a.md",
        "the tag is v2.0.0 and the version is 1.0.0",
    ]:
        assert part in result.stderr
