"""Answers that are made to break a grader: quickly wrong, nothing of them is run, and no code of ours could run it."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
INSIDE = ROOT / "src/corollary/rewards/sandbox/inside.py"  # runs in a sandbox only
FORBIDDEN = {"eval", "exec", "compile", "parse_expr", "sympify", "__import__"}
FILES = sorted((ROOT / "src").rglob("*.py"))


def called(source: str) -> set[str]:
    """The names of what is called in a source, with and without what they are attributes of; `re.compile` is none."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Call(func=ast.Name(id=name)):
                names.add(name)
            case ast.Call(func=ast.Attribute(value=ast.Name(id=of), attr=name)) if of in (
                "builtins",
                "sympy",
                "__builtins__",
            ):
                names.add(name)
            case ast.alias(name=name):
                names.add(name.rpartition(".")[2])
    return names


def test_hostile_answers_are_judged_quickly_and_nothing_of_them_is_run(tmp_path):
    done = subprocess.run(
        [sys.executable, ROOT / "tests/rewards/hostile.py"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    took = json.loads(done.stdout)
    assert took["answers"] == 500
    assert took["seconds"] < 10
    assert took["grown_mib"] < 100
    assert took["earned"] < 100
    assert took["compiled"]["number"] == took["compiled"]["equation"] == []
    # sympy makes a number of a token's digits by compiling them; nothing else of an answer gets there
    assert all(
        re.fullmatch(r"from sympy import \*|(Integer|Float) \('?[0-9.]{1,20}'? \)", text)
        for text in took["compiled"]["math"]
    )
    assert not Path("/tmp/corollary-was-here").exists()


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT / "src")))
def test_nothing_outside_a_sandbox_runs_text_as_code(file):
    found = called(file.read_text()) & FORBIDDEN
    assert found == ({"exec", "compile"} if file == INSIDE else set())


def test_the_lint_sees_what_it_looks_for():
    source = (
        "import re\nfrom sympy import parse_expr as p\nre.compile('a')\neval('1')\nbuiltins.exec('1')\nmodel.eval()"
    )
    assert called(source) & FORBIDDEN == {"parse_expr", "eval", "exec"}
