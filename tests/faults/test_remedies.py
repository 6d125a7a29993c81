"""Every remedy in a message exists: commands and their options, extras, make's targets, settings of the config."""

import ast
import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest
import typer

from fusionerlib.cli.app import app
from fusionerlib.config import RunConfig
from tests.conftest import ROOT

SOURCES = [file for part in ("fusionerlib", "workbook", "studies") for file in sorted((ROOT / part).rglob("*.py"))]


def texts(file: Path) -> list[tuple[int, str]]:
    """(line, text) of every string of a module that is no docstring; ``{}`` stands for what an f-string puts in."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    skipped: set[int] = set()
    for node in ast.walk(tree):
        body = getattr(node, "body", [])
        for statement in body if isinstance(body, list) else []:
            if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
                skipped.add(id(statement.value))
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            skipped.update(id(part) for part in ast.walk(node))
            parts = [str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values]
            found.append((node.lineno, "".join(parts)))
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in skipped:
            found.append((node.lineno, node.value))
    return found


ALL = [(f"{file.relative_to(ROOT)}:{line}", text) for file in SOURCES for line, text in texts(file)]


def matches(pattern: str) -> list[tuple[str, str]]:
    """(where, match) of ``pattern`` in all texts."""
    return [(where, found) for where, text in ALL for found in re.findall(pattern, text)]


def command_problem(command: str) -> str:
    """What is wrong with a command line ``fusioner ...``; "" for nothing."""
    try:
        words = shlex.split(command.replace("{}", "X"))[1:]
    except ValueError as error:
        return str(error)
    node: Any = typer.main.get_command(app)
    path = ["fusioner"]
    while hasattr(node, "commands") and words and not words[0].startswith("-"):
        # A clone's commands are listed by the group, not in its dictionary.
        following = node.get_command(None, words[0])
        if following is None:
            return "" if set(words[0]) <= set("X.") else f"no command {words[0]!r}"
        node = following
        path.append(words.pop(0))
        if not hasattr(node, "params"):
            return ""
    known = {option for parameter in node.params for option in (*parameter.opts, *parameter.secondary_opts)} | {
        "--help"
    }
    unknown = [word for word in words if re.match(r"--?[a-z]", word) and word.partition("=")[0] not in known]
    return f"{' '.join(path)} has no {unknown[0]}" if unknown else ""


def test_every_command_in_a_message_exists_with_its_options() -> None:
    found = matches(r"`(fusioner(?: [^`]*)?)`")
    assert len(found) > 15
    wrong = {(where, command): command_problem(command) for where, command in found}
    assert {key: problem for key, problem in wrong.items() if problem} == {}


def test_the_check_itself_finds_what_is_wrong() -> None:
    assert command_problem("fusioner fetch {} --accept-digest {}") == ""
    assert "no command" in command_problem("fusioner fetsch clip")
    assert "has no --accept" in command_problem("fusioner fetch clip --accept X")
    assert "has no --frm" in command_problem("fusioner data pascal --frm X")


def test_every_option_in_a_message_is_one_of_some_command() -> None:
    known: set[str] = {"--help", "--num_processes", "--force-reinstall", "--sys-prefix"}

    def gather(node: Any) -> None:
        known.update(option for one in node.params for option in (*one.opts, *one.secondary_opts))
        for name in node.list_commands(None) if hasattr(node, "commands") else []:
            following = node.get_command(None, name)
            if hasattr(following, "params"):
                gather(following)

    gather(typer.main.get_command(app))
    options = [
        (where, option)
        for where, text in ALL
        if " " in text and not re.match(r"[-\w]+$", text)
        for option in re.findall(r"(?<![\w-])(--[a-z][\w-]+)", text)
    ]
    assert len(options) > 15
    others = {"--porcelain", "--num", "--executor", "--parameters"}  # of git, and of commands that only a clone has
    assert {(where, option) for where, option in options if option not in known | others} == set()


def test_every_extra_in_a_message_exists_and_suits_a_clone_and_a_wheel() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    found = matches(r"pip install [^`;,)]*")
    assert len(found) > 10
    for where, command in found:
        for extra in re.findall(r"\[([\w,]+)\]", command):
            assert set(extra.split(",")) <= set(extras), (where, command)
        # `-e .` needs the folder of the clone as the current one; this works everywhere.
        assert "-e" not in command.split(), (where, command)


def test_every_target_of_make_in_a_message_exists() -> None:
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    found = matches(r"`make ([a-z-]+)")
    assert found and {(where, target) for where, target in found if target not in targets} == set()


@pytest.mark.parametrize("pattern", [r"--set '?([a-z_]+)[=\s]", r"\bset ([a-z_]+) = ", r"\(set ([a-z_]+)\)"])
def test_every_setting_in_a_message_exists(pattern: str) -> None:
    leaves = {
        *RunConfig.leaf_sections(),
        "preset",
        "root",
        "visual_weights",
        "text_weights",
        "objects",
        "images",
        "seed",
    }
    wrong = {(where, leaf) for where, leaf in matches(pattern) if leaf not in leaves}
    assert wrong == set()
