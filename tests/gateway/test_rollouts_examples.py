"""The examples of docs/rollouts.md: each is what its tool reads, and every command in it is one that `sluice` takes."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hcl2
import pytest
import typer
import yaml
from typer.testing import CliRunner

from gateway.cli import app

DOCS = Path(__file__).parents[2] / "docs"
EXAMPLES = DOCS / "examples" / "rollouts"
# What a tool puts in where the command stands: any number will do.
PLACEHOLDER = re.compile(r"\$\{\{[^}]*\}\}|\{\{[^}]*\}\}|\$\{[^}]*\}|\$\w+|\"\$\([^)]*\)\"")


def commands_in(text: str) -> Iterator[list[str]]:
    """Each `sluice …` command, its words as a shell would make them."""
    text = re.sub(r"\\\n\s*", " ", text)  # a line that goes on
    text = re.sub(r'"\n\s*"', "", text)  # a Python string that goes on
    for line in text.splitlines():
        for found in re.findall(r"\bsluice ((?:push|rollout|policy) .*)", PLACEHOLDER.sub("7", line)):
            command = re.split(r"\s(?:#|>|\||&&)\s?|`", found)[0].strip()
            yield words_of(command)


def words_of(command: str) -> list[str]:
    """Without what closes the string that the command stands in."""
    while True:
        try:
            if not command.endswith(","):
                return shlex.split(command)
        except ValueError:
            pass
        command = command[:-1]


def parse(words: list[str]) -> None:
    """What the command line would make of it, without doing it. Raises what Typer raises."""
    command: Any = typer.main.get_command(app)
    context = typer.Context(command)
    while hasattr(command, "get_command"):
        name, *words = words
        command = command.get_command(context, name)
        assert command is not None, f"there is no command {name}"
    command.make_context(command.name, words, parent=context)


FILES = sorted(path for path in EXAMPLES.iterdir() if path.suffix != ".yaml" or path.name != "plan.yaml")
EVERY = [
    pytest.param(words, id=f"{path.name}: {' '.join(words)[:60]}")
    for path in [*FILES, DOCS / "rollouts.md"]
    for words in commands_in(path.read_text())
]


def test_every_example_has_commands() -> None:
    assert [path.name for path in FILES] == ["Jenkinsfile", "airflow.py", "github-actions.yaml", "main.tf"]
    for path in FILES:
        assert any(words[:2] == ["rollout", "start"] for words in commands_in(path.read_text())), path


@pytest.mark.parametrize("words", EVERY)
def test_every_command_is_one_that_the_command_line_takes(words: list[str]) -> None:
    parse(words)


def test_a_command_that_is_none_is_refused() -> None:
    with pytest.raises(Exception, match="No such option"):
        parse(["rollout", "start", "fraud", "--to", "7", "--wiat"])


def test_the_workflow_of_github_actions_has_its_shape() -> None:
    document = yaml.safe_load((EXAMPLES / "github-actions.yaml").read_text())
    steps = document["jobs"]["rollout"]["steps"]
    assert all(("run" in step) != ("uses" in step) for step in steps)
    assert {"SLUICE_ADMIN_URL", "SLUICE_TOKEN"} <= document["jobs"]["rollout"]["env"].keys()


def test_the_dag_of_airflow_is_python_whose_tasks_follow_each_other() -> None:
    tree = ast.parse((EXAMPLES / "airflow.py").read_text())
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    operators = [call for call in calls if getattr(call.func, "id", "") == "BashOperator"]
    assert [keyword.value.value for call in operators for keyword in call.keywords if keyword.arg == "task_id"] == [  # type: ignore[attr-defined]
        "publish",
        "rollout",
    ]


def test_the_configuration_of_terraform_is_one() -> None:
    document = hcl2.loads((EXAMPLES / "main.tf").read_text())
    assert "fraud_version" in str(document["variable"])
    assert "local-exec" in str(document["resource"])


def test_the_pipeline_of_jenkins_has_as_many_braces_that_close_as_open() -> None:
    text = (EXAMPLES / "Jenkinsfile").read_text()
    depth = 0
    for letter in text:
        depth += {"{": 1, "}": -1}.get(letter, 0)
        assert depth >= 0
    assert depth == 0
    assert "stages" in text


@pytest.mark.parametrize("file", ["plan.yaml", ""])
def test_plans_of_the_documentation_make_sense(file: str, tmp_path: Path) -> None:
    path = EXAMPLES / file
    if not file:
        (block,) = re.findall(r"```yaml\n(.*?)```", (DOCS / "rollouts.md").read_text(), re.DOTALL)
        path = tmp_path / "plan.yaml"
        path.write_text(block)
    result = CliRunner().invoke(app, ["rollout", "plan", "--check", str(path)])
    assert result.exit_code == 0, (result.output, result.exception)
