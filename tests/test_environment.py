"""environment.yml stays in step with pyproject.toml, which holds the only list of dependencies."""

from __future__ import annotations

import re
import tomllib

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet


@pytest.fixture(scope="module")
def project(root):
    return tomllib.loads((root / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="module")
def environment(root):
    return yaml.safe_load((root / "environment.yml").read_text())


def test_conda_installs_python_and_pip_alone(environment):
    conda = [entry for entry in environment["dependencies"] if isinstance(entry, str)]
    assert [re.split(r"[=<> ]", entry)[0] for entry in conda] == ["python", "pip"]


def test_python_is_one_that_the_project_supports(environment, project):
    (python,) = [e for e in environment["dependencies"] if isinstance(e, str) and e.startswith("python=")]
    assert SpecifierSet(project["requires-python"]).contains(python.removeprefix("python="))


def test_pip_installs_this_project_with_extras_that_exist(environment, project, root):
    (pip,) = [entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict)]
    (line,) = pip
    extras = re.fullmatch(r"-e \.\[([\w,]+)\]", line).group(1).split(",")
    assert set(extras) <= set(project["optional-dependencies"])
    makefile = (root / "Makefile").read_text()
    assert f"--editable '.[{','.join(extras)}]'" in makefile, "make and conda install different extras"


def test_the_name_is_the_project_name(environment, project):
    assert environment["name"] == project["name"]


def requirements(project):
    lists = [project["dependencies"], *project["optional-dependencies"].values()]
    return [Requirement(line) for one in lists for line in one]


def test_every_dependency_states_its_lowest_version(project):
    unbounded = [r.name for r in requirements(project) if not any(s.operator == ">=" for s in r.specifier)]
    assert not unbounded


def test_the_engine_of_the_book_is_jupyter_book_1(project):
    (engine,) = [r for r in requirements(project) if r.name == "jupyter-book"]
    assert engine.specifier.contains("1.0.4.post1") and not engine.specifier.contains("2.0.0")
