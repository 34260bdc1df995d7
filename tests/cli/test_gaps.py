"""`gaps` and `gaps ack`."""

from __future__ import annotations

import signal

import pytest

from dsqlcdc.core.ports import GAP_KINDS

from .conftest import Project, squeezed


def test_without_gaps_the_exit_is_0_and_stdout_is_empty(project: Project) -> None:
    answer = project.run("gaps", "CONFIG")
    assert (answer.code, answer.out, answer.err) == (0, "", "No gaps.\n")
    assert not (project.directory / "state.db").exists(), "reading makes no file"
    assert project.run("gaps", "CONFIG", "--json").out == ""


def test_an_unacknowledged_gap_is_shown_with_its_bounds_and_remedy_and_exits_3(project: Project) -> None:
    project.gap("g1")
    answer = project.run("gaps", "CONFIG")
    assert answer.code == 3
    assert [line.split() for line in answer.out.splitlines()] == [
        ["ID", "KIND", "SINK", "SHARD", "FROM", "TO", "FOUND", "ACKNOWLEDGED", "DETAIL"],
        ["g1", "trimmed", "lake", "shardId-000000000001", "2023-11-14T22:13:20Z", "2023-11-14T23:13:20Z", "2023-11-15T01:00:00Z", "no"],
    ]
    assert squeezed(answer.err) == (
        "g1: What was committed between T and T may not have been delivered: read these rows from the database. "
        "Then run: dsqlcdc gaps ack g1 DIR/dsqlcdc.yaml --reason '…'"
    )


def test_an_acknowledged_gap_is_listed_and_exits_0(project: Project) -> None:
    project.gap("g1")
    assert project.run("gaps", "ack", "g1", "CONFIG", "--reason", "copied from a snapshot", "--yes").code == 0
    (gap,) = project.gaps()
    assert (gap.acked, gap.acked_at > 0) == ("copied from a snapshot", True)
    answer = project.run("gaps", "CONFIG", "--json")
    (told,) = answer.jsons
    assert (answer.code, told["id"], told["acked"], told["from_time"]) == (0, "g1", "copied from a snapshot", "2023-11-14T22:13:20Z")


def test_acknowledging_twice_keeps_the_first_reason_and_says_so(project: Project) -> None:
    project.gap("g1")
    project.run("gaps", "ack", "g1", "CONFIG", "--reason", "first", "--yes")
    answer = project.run("gaps", "ack", "g1", "CONFIG", "--reason", "second")
    assert answer.code == 0
    assert answer.err.endswith(": first\n")
    assert project.gaps()[0].acked == "first"


def test_ack_needs_a_reason(project: Project) -> None:
    project.gap("g1")
    for reason in ([], ["--reason", "  "]):
        answer = project.run("gaps", "ack", "g1", "CONFIG", *reason, "--yes")
        assert (answer.code, answer.err.startswith("DSQLCDC-E090 a gap is acknowledged with a reason.")) == (2, True)
    assert project.gaps()[0].acked == ""


def test_an_unknown_gap_is_an_error_that_changes_nothing(project: Project) -> None:
    answer = project.run("gaps", "ack", "g9", "CONFIG", "--reason", "x", "--yes")
    assert answer.code == 2
    assert answer.err == "DSQLCDC-E091 no such gap, pipeline orders-cdc: g9. Run: dsqlcdc gaps DIR/dsqlcdc.yaml\n"
    assert not (project.directory / "state.db").exists()


def test_without_a_terminal_it_does_not_guess_the_answer(project: Project) -> None:
    project.gap("g1")
    answer = project.run("gaps", "ack", "g1", "CONFIG", "--reason", "x")
    assert answer.code == 2
    assert answer.out == ""
    assert "Run: dsqlcdc gaps ack g1 DIR/dsqlcdc.yaml --reason '…' --yes" in answer.err
    assert project.gaps()[0].acked == ""


@pytest.mark.parametrize(("given", "acked"), [("y\n", "x"), ("n\n", ""), ("\n", "")])
def test_on_a_terminal_it_asks_and_no_is_the_default(project: Project, monkeypatch: pytest.MonkeyPatch, given: str, acked: str) -> None:
    import io

    stdin = io.StringIO(given)
    monkeypatch.setattr(stdin, "isatty", lambda: True)
    monkeypatch.setattr("sys.stdin", stdin)
    project.gap("g1")
    answer = project.run("gaps", "ack", "g1", "CONFIG", "--reason", "x")
    assert (answer.code, project.gaps()[0].acked) == (0, acked)
    assert ("Nothing was changed." in answer.err) == (acked == "")


def test_all_that_the_filters_let_through_is_shown_and_acknowledged_at_once(project: Project) -> None:
    project.gap("g1")
    project.gap("g2", kind="reset")
    project.gap("g3", kind="reset", sink="hook")
    project.run("gaps", "ack", "g2", "CONFIG", "--reason", "first", "--yes")
    words = ("gaps", "ack", "--all", "CONFIG", "--reason", "copied")
    assert (project.run(*words).code, sum(bool(gap.acked) for gap in project.gaps())) == (2, 1), "it asks"
    assert project.run("gaps", "ack", "--all", "CONFIG", "--yes").err.startswith("DSQLCDC-E090 a gap is acknowledged with a reason.")
    assert project.run("gaps", "CONFIG", "--kind", "trimmed", "--json").jsons[0]["id"] == "g1"
    answer = project.run(*words, "--sink", "lake", "--yes", "--json")
    assert (answer.code, [gap["id"] for gap in answer.jsons]) == (0, ["g1"])
    assert "g1" in answer.err, "what is acknowledged is shown"
    assert answer.err.endswith("1 of 1 gap acknowledged.\n")
    assert project.run(*words, "--yes").code == 0
    assert {gap.id: gap.acked for gap in project.gaps()} == {"g1": "copied", "g2": "first", "g3": "copied"}
    assert project.run(*words, "--yes").err == "No gaps to acknowledge.\n"
    assert project.run("gaps", "CONFIG").code == 0


@pytest.mark.parametrize(
    "words", [["ack"], ["ack", "--all"], ["--all", "CONFIG"], ["ack", "g1", "--all", "CONFIG"], ["ack", "g1", "CONFIG", "--kind", "reset"]]
)
def test_words_that_mean_nothing_are_a_usage_error(project: Project, words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    (project.directory / "ack").write_text(project.config.read_text())
    monkeypatch.chdir(project.directory)
    answer = project.run("gaps", *words, "--reason", "x", "--yes")
    assert (answer.code, answer.err.startswith("DSQLCDC-E090 these are not the arguments of `gaps`")) == (2, True)


def test_incomplete_rows_have_their_own_remedy(project: Project) -> None:
    project.gap("g2", kind="incomplete", from_time=0.0, to_time=0.0)
    assert "Pieces of oversized rows never came" in project.run("gaps", "CONFIG").err


def test_the_first_ctrl_c_at_a_question_ends_the_command_with_nothing_done(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> bool:
        signal.raise_signal(signal.SIGINT)
        return True

    project.gap("g1")
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("dsqlcdc.cli.selection.agreed", interrupted)
    before = signal.getsignal(signal.SIGINT)
    assert project.run("gaps", "ack", "g1", "CONFIG", "--reason", "seen").code == 130
    assert [gap.acked for gap in project.gaps()] == [""]
    assert signal.getsignal(signal.SIGINT) is before


def test_a_kind_that_no_gap_has_is_a_mistake_of_usage(project: Project) -> None:
    project.gap("g1")
    for words in (["CONFIG"], ["ack", "--all", "CONFIG", "--reason", "seen"]):
        answer = project.run("gaps", *words, "--kind", "nonsense")
        assert (answer.code, all(kind in answer.err for kind in GAP_KINDS)) == (2, True)
    assert project.run("gaps", "CONFIG", "--kind", "recreated").code == 0
    assert project.run("gaps", "CONFIG", "--kind", "trimmed").code == 3
    assert all(kind in project.run("gaps", "--help").out for kind in GAP_KINDS)
