"""The output of the command line, its streams and its exit status."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import pytest

from archwright import api
from archwright.cli import build_parser, main, show
from archwright.cli.verbs import GROUPS, VERBS, Verb
from archwright.contract.plan import Plan
from archwright.contract.record import replace
from archwright.errors import OperateError
from archwright.home import Home
from archwright.needs.template import read_template
from archwright.plan.plan_file import write_plan
from archwright.settings import child_environment


def test_an_error_is_three_lines_on_standard_error(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    Path("needs.yaml").write_text("version: 1\norganisation: {name: A, contry: DE}\n", encoding="utf-8")
    assert main(["plan", "needs.yaml"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    code, where, hint = err.splitlines()
    assert code.startswith("AW-NEEDS-") and "contry" in code
    assert where.strip().startswith("needs.yaml:2") and "country" in hint


def test_what_others_said_does_not_move_the_cursor(capsys: pytest.CaptureFixture[str]) -> None:
    said = "Grüße\n\ttab \x1b]0;owned\x07\x1b[2J\x9b1A\r end"
    show.print_stream(iter([said]))
    sys.stdout.write(OperateError("AW-OPS-32", said).lines())
    out = capsys.readouterr().out
    assert out.isascii() is False and not any(sign in out for sign in "\x1b\x07\x9b\r") and "Grüße\n\ttab" in out


def test_an_error_as_json(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    Path("needs.yaml").write_text("version: 1\norganisation: {name: A, contry: DE}\n", encoding="utf-8")
    assert main(["plan", "needs.yaml", "--json"]) == 2
    error = json.loads(capsys.readouterr().err)
    assert set(error) == {"code", "message", "where", "hint", "nearest"}
    assert error["where"]["file"] == "needs.yaml" and error["where"]["line"] == 2
    assert "country" in error["nearest"]


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (["plan", "nowhere.yaml"], 2),
        (["explain", "nowhere.json"], 2),
        (["models", "fetch", "no-such-model"], 2),
        (["catalog", "show", "no-such-thing"], 2),
        (["reconcile"], 9),
        (["ask", "anybody?"], 8),
        (["key", "create", "--role", "king"], 2),
    ],
)
def test_exit_statuses(words: list[str], status: int, home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == status
    assert 2 <= len(capsys.readouterr().err.splitlines()) <= 3


@pytest.mark.parametrize("verb", [*VERBS, *(Verb(name, text) for name, text in GROUPS.items())], ids=lambda v: v.name)
def test_help_names_defaults_and_repeatable_options(verb: Verb, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        build_parser().parse_args([*verb.words, "--help"])
    assert verb.help.split()[0] in capsys.readouterr().out
    for arg in verb.args:
        assert not arg.help.endswith(".") and (arg.kind != "texts" or arg.help.endswith("(repeatable)"))
        assert arg.required or arg.kind in ("flag", "texts") or "default" in arg.help, arg.name


def test_usage_errors_end_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    for words in ([], ["no-such-verb"], ["plan"], ["up", "--port", "abc"], ["key", "create", "--no-such-option", "1"]):
        assert main(words) == 2
        assert len(capsys.readouterr().err.splitlines()) == 3
        assert main([*words, "--json"]) == 2
        assert json.loads(capsys.readouterr().err)["code"] == "AW-USE-07"


@pytest.mark.enable_socket
def test_an_infeasible_plan_is_shown_written_and_refused_by_up(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    text = read_template("clinic").replace("capex: 900000, per_month: 30000", "capex: 0, per_month: 30")
    Path("needs.yaml").write_text(text, encoding="utf-8")
    assert main(["plan", "needs.yaml", "-o", "plan.json"]) == 3
    out, err = capsys.readouterr()
    assert "cloud-aws" in out and err.startswith("AW-PLAN-03") and len(err.splitlines()) == 3
    assert main(["explain", "plan.json", "cloud-aws"]) == 0
    capsys.readouterr()
    for source in ("needs.yaml", "plan.json"):
        assert main(["up", source, "--detach", "--port", "0"]) == 3
        assert capsys.readouterr().err.startswith("AW-PLAN-")


def test_markup_in_names_is_text(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    text = read_template("desk").replace("name: Desk", 'name: "[bold]x[/nope]"').replace("this-machine", "cloud")
    Path("needs.yaml").write_text(text, encoding="utf-8")
    assert main(["plan", "needs.yaml"]) in (0, 3)
    assert "[bold]x[/nope]" in capsys.readouterr().out


def test_init_writes_a_template_once(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init", "--template", "clinic"]) == 0
    assert "Klinikverbund" in Path("needs.yaml").read_text(encoding="utf-8")
    assert main(["init"]) == 2, "an existing file is never overwritten"
    assert "AW-USE-02" in capsys.readouterr().err


def test_tenants_keys_and_audit(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tenant", "create", "acme"]) == 0
    assert main(["key", "create", "--tenant", "acme", "--json"]) == 0
    made = json.loads(capsys.readouterr().out.split("\n", 2)[2])
    assert made["key"].startswith("aw_") and made["tenant"] == "acme"
    assert main(["key", "revoke", made["id"]]) == 0
    capsys.readouterr()
    assert main(["key", "list", "--tenant", "acme", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [row["revoked"] for row in listed] == [True] and made["key"] not in json.dumps(listed)
    assert main(["key", "list"]) == 0
    shown = capsys.readouterr().out
    made_at = datetime.fromtimestamp(listed[0]["created_at"]).astimezone()
    assert made["id"] in shown and f"{made_at:%Y-%m}" in shown, "to be copied, and to be read"
    assert main(["audit", "verify"]) == 0
    assert main(["audit", "list", "--json"]) == 0
    acts = json.loads(capsys.readouterr().out.split("\n", 2)[2])
    assert [act["action"] for act in acts] == ["key.revoke", "key.create", "tenant.create"]


def test_tables_and_records_print(home: Home, null_plan: Plan, capsys: pytest.CaptureFixture[str]) -> None:
    write_plan(null_plan, Path("plan.json"))
    for words in (
        ["models", "list"],
        ["tenant", "list"],
        ["settings"],
        ["status"],
        ["down"],
        ["down", "--dry-run"],
        ["catalog", "check"],
        ["catalog", "show", "SmolLM2-135M-Instruct"],
        ["explain", "plan.json"],
        ["explain", "plan.json", "ttft_s"],
        ["reconcile", "plan.json"],
    ):
        assert main(words) == 0, words
        assert capsys.readouterr().out.strip(), words
        if words != ["down"]:
            assert main([*words, "--json"]) == 0
            json.loads(capsys.readouterr().out)


@pytest.mark.enable_socket
def test_doctor_fails_when_the_model_is_missing(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 1
    assert "archwright models fetch" in capsys.readouterr().out


@pytest.mark.process
def test_a_closed_pipe_ends_quietly(home: Home) -> None:
    line = f"{sys.executable} -m archwright catalog check | head -1"
    run = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=False)
    assert run.stderr == "" and run.stdout.startswith("table")


@pytest.mark.enable_socket
def test_an_answer_this_terminal_has_no_letters_for(home: Home, null_plan: Plan) -> None:
    """A character that the terminal lacks is shown as a question mark."""
    settings = {"text": "ja \N{SNOWMAN} nein"}
    pool = replace(null_plan.pools[0], launch=replace(null_plan.pools[0].launch, settings=settings))
    write_plan(replace(null_plan, pools=(pool,)), Path("plan.json"))
    api.up("plan.json", detach=True, port=0)
    try:
        words = [sys.executable, "-m", "archwright", "ask", "Hello?"]
        run = subprocess.run(
            words, env=child_environment({"PYTHONIOENCODING": "latin-1"}), capture_output=True, check=False
        )
    finally:
        api.down()
    assert (run.returncode, run.stderr) == (0, b"")
    assert b"ja ?" in run.stdout


def test_a_password_in_the_database_url_is_not_shown(
    home: Home, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ARCHWRIGHT_DATABASE_URL", "postgresql+psycopg://me:hunter2@db/aw")
    assert main(["settings"]) == 0
    out = capsys.readouterr().out
    assert "hunter2" not in out and "@db/aw" in out
