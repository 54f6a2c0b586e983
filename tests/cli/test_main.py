"""The output of the command line, its streams and its exit status."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import pytest
from tests.examples import read_example

from archwright import api
from archwright.cli import build_parser, main, show_platform
from archwright.cli.verbs import GROUPS, VERBS, Verb
from archwright.contract.plan import Plan
from archwright.contract.record import replace
from archwright.errors import OperateError
from archwright.home import Home
from archwright.plan.plan_file import write_plan
from archwright.settings import child_environment

from ..command_line import CommandLine


def test_an_error_is_three_lines_or_json_on_standard_error(cli: CommandLine) -> None:
    Path("needs.yaml").write_text("version: 1\norganisation: {name: A, contry: DE}\n", encoding="utf-8")
    out, err = cli.run("plan needs.yaml", 2)
    code, where, hint = err.splitlines()
    assert out == "" and code.startswith("AW-NEEDS-") and "contry" in code
    assert where.strip().startswith("needs.yaml:2") and "country" in hint
    error = cli.json_error("plan needs.yaml", 2)
    assert set(error) == {"code", "message", "where", "hint", "nearest"}
    assert error["where"]["file"] == "needs.yaml" and error["where"]["line"] == 2
    assert "country" in error["nearest"]


def test_records_of_others_do_not_move_the_cursor(capsys: pytest.CaptureFixture[str]) -> None:
    said = "Grüße\n\ttab \x1b]0;owned\x07\x1b[2J\x9b1A\r end"
    show_platform.print_stream(iter([said]))
    sys.stdout.write(OperateError("AW-OPS-32", said).lines())
    out = capsys.readouterr().out
    assert out.isascii() is False and not any(sign in out for sign in "\x1b\x07\x9b\r") and "Grüße\n\ttab" in out


@pytest.mark.parametrize(
    ("line", "status"),
    [
        ("plan nowhere.yaml", 2),
        ("explain nowhere.json", 2),
        ("models fetch no-such-model", 2),
        ("catalog show no-such-thing", 2),
        ("reconcile", 9),
        ("ask anybody?", 8),
        ("key create --role king", 2),
    ],
)
def test_exit_statuses(line: str, status: int, cli: CommandLine) -> None:
    assert 2 <= len(cli.error(line, status).splitlines()) <= 3


@pytest.mark.parametrize("verb", [*VERBS, *(Verb(name, text) for name, text in GROUPS.items())], ids=lambda v: v.name)
def test_help_names_defaults_and_repeatable_options(verb: Verb, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        build_parser().parse_args([*verb.words, "--help"])
    assert verb.help.split()[0] in capsys.readouterr().out
    for arg in verb.args:
        assert not arg.help.endswith(".") and (arg.kind != "texts" or arg.help.endswith("(repeatable)"))
        assert arg.required or arg.kind in ("flag", "texts") or "default" in arg.help, arg.name


@pytest.mark.parametrize("line", ["", "no-such-verb", "plan", "up --port abc", "key create --no-such-option 1"])
def test_usage_errors_end_with_2(line: str, cli: CommandLine) -> None:
    assert len(cli.error(line, 2).splitlines()) == 3
    assert cli.json_error(line, 2)["code"] == "AW-USE-07"


@pytest.mark.enable_socket
def test_an_infeasible_plan_is_shown_written_and_refused_by_up(cli: CommandLine) -> None:
    text = read_example("desk").replace("this-machine", "cloud").replace("per_month: 60", "per_month: 1")
    Path("needs.yaml").write_text(text, encoding="utf-8")
    out, err = cli.run("plan needs.yaml -o plan.json", 3)
    assert "cloud-aws" in out and err.startswith("AW-PLAN-03") and len(err.splitlines()) == 3
    cli.run("explain plan.json cloud-aws")
    for source in ("needs.yaml", "plan.json"):
        assert cli.error(f"up {source} --detach --port 0", 3).startswith("AW-PLAN-")


def test_markup_in_names_is_text(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    text = read_example("desk").replace("name: Desk", 'name: "[bold]x[/nope]"').replace("this-machine", "cloud")
    Path("needs.yaml").write_text(text, encoding="utf-8")
    assert main(["plan", "needs.yaml"]) in (0, 3)
    assert "[bold]x[/nope]" in capsys.readouterr().out


def test_init_writes_a_template_once(cli: CommandLine) -> None:
    cli.run("init --template clinic")
    assert "Klinikverbund" in Path("needs.yaml").read_text(encoding="utf-8")
    assert "AW-USE-02" in cli.error("init", 2), "an existing file is never overwritten"


def test_tenants_keys_and_audit(cli: CommandLine, home: Home) -> None:
    cli.run("tenant create acme")
    made = cli.json("key create --tenant acme")
    assert made["key"].startswith("aw_") and made["tenant"] == "acme"
    cli.run(f"key revoke {made['id']}")
    listed = cli.json("key list --tenant acme")
    assert [row["revoked"] for row in listed] == [True] and made["key"] not in json.dumps(listed)
    made_at = datetime.fromtimestamp(listed[0]["created_at"]).astimezone()
    shown = cli.text("key list")
    assert made["id"] in shown and f"{made_at:%Y-%m}" in shown, "to be copied, and to be read"
    assert "second_place  none" in cli.text("audit verify", 10)
    assert cli.json_error("audit verify", 10)["code"] == "AW-STO-23"
    settings_file = home.root / "archwright.toml"
    settings_file.write_text('audit_second_place = "none"\n')
    assert cli.json("audit verify")["second_place"].startswith("none, by audit_second_place")
    settings_file.unlink()
    acts = [act["action"] for act in cli.json("audit list") if not act["action"].endswith(".list")]
    assert acts == ["key.revoke", "key.create", "tenant.create"]


def test_tables_and_records_print(cli: CommandLine, null_plan: Plan) -> None:
    write_plan(null_plan, Path("plan.json"))
    lines = "models list,tenant list,settings,status,down,down --dry-run,catalog check"
    lines += ",catalog show SmolLM2-135M-Instruct,explain plan.json,explain plan.json ttft_s,reconcile plan.json"
    for line in lines.split(","):
        assert cli.text(line).strip(), line
        cli.json(line)


@pytest.mark.enable_socket
def test_doctor_fails_when_the_model_is_missing(cli: CommandLine) -> None:
    assert "archwright models fetch" in cli.text("doctor", 2)


@pytest.mark.process
def test_a_closed_pipe_ends_quietly(home: Home) -> None:
    line = f"{sys.executable} -P -m archwright catalog check | head -1"
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
        words = [sys.executable, "-P", "-m", "archwright", "ask", "Hello?"]
        run = subprocess.run(
            words, env=child_environment({"PYTHONIOENCODING": "latin-1"}), capture_output=True, check=False
        )
    finally:
        api.down()
    assert (run.returncode, run.stderr) == (0, b"")
    assert b"ja ?" in run.stdout


def test_a_password_in_the_database_url_is_not_shown(cli: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ARCHWRIGHT_DATABASE_URL", "postgresql+psycopg://me:hunter2@db/aw")
    out = cli.text("settings")
    assert "hunter2" not in out and "@db/aw" in out
