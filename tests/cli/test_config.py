"""`config lint|show|schema`."""

from __future__ import annotations

import json

import yaml
from jsonschema import Draft202012Validator

from .conftest import Project


def test_a_good_file_has_no_findings(project: Project) -> None:
    answer = project.run("config", "lint", "CONFIG")
    assert (answer.code, answer.out, answer.err) == (0, "", "DIR/dsqlcdc.yaml: no mistakes.\n")
    assert project.run("config", "lint", "CONFIG", "--json").json["ok"] is True


def test_every_mistake_is_a_line_on_stdout_and_the_exit_is_2(project: Project) -> None:
    project.write("sorce: {}\nstate: {type: sqlight}\n")
    answer = project.run("config", "lint", "CONFIG")
    assert answer.code == 2
    assert len(answer.out.splitlines()) == 2
    assert all(line.startswith("DSQLCDC-E0") and "DIR/dsqlcdc.yaml:" in line for line in answer.out.splitlines())
    assert "Run:" not in answer.out  # this is what it would say to run
    assert answer.err == "DIR/dsqlcdc.yaml: 2 mistakes.\n"


def test_findings_as_json_have_places(project: Project) -> None:
    project.write("sorce: {}\n")
    answer = project.run("config", "lint", "CONFIG", "--json")
    (finding,) = answer.json["findings"]
    assert answer.code == 2
    assert (finding["line"], finding["column"], finding["code"]) == (5, 1, "DSQLCDC-E010")


def test_other_commands_say_every_mistake_too(project: Project) -> None:
    project.write("sorce: {}\nstate: {type: sqlight}\n")
    answer = project.run("status", "CONFIG")
    assert (answer.code, answer.out, len(answer.err.splitlines())) == (2, "", 2)


def test_show_is_yaml_that_lints(project: Project) -> None:
    shown = project.run("config", "show", "CONFIG").out.replace("DIR", str(project.directory))
    assert yaml.safe_load(shown)["pipeline"] == "orders-cdc"
    assert json.loads(project.run("config", "show", "CONFIG", "--json").out)["sinks"]["lake"]["type"] == "drop"
    project.config.write_text(shown)
    assert project.run("config", "lint", "CONFIG").code == 0


def test_the_schema_takes_the_file_and_refuses_a_misspelt_one(project: Project) -> None:
    schema = project.run("config", "schema").json
    assert project.run("config", "schema", "--json").json == schema
    Draft202012Validator.check_schema(schema)
    written = yaml.safe_load(project.config.read_text())
    assert Draft202012Validator(schema).is_valid(written)
    assert not Draft202012Validator(schema).is_valid({**written, "sorce": {}})
