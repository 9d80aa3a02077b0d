"""`chroma-async config` says what a server would use, and where from, without telling secrets."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from chroma_async.cli.commands import app, run
from chroma_async.cli.config import MASKED, shown
from chroma_async.cli.retention import retention_settings
from chroma_async.cli.run_options import variable
from chroma_async.settings import AuthSettings, EngineSettings, ServerSettings


def config(*arguments: str, **environment: str) -> Result:
    return CliRunner().invoke(app, ["config", *arguments], env=environment)


def found(*arguments: str, **environment: str) -> dict[str, dict[str, Any]]:
    result = config("--json", *arguments, **environment)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_the_access_log_needs_no_form() -> None:
    assert found("--access-log")["access_log"]["value"] == "text"
    assert found("--access-log", "json")["access_log"]["value"] == "json"


def test_each_value_has_its_source_and_the_command_line_goes_first() -> None:
    rows = found("--port", "9", CHROMA_ASYNC_PORT="7", CHROMA_ASYNC_WORKERS="3", CHROMA_ASYNC_SERVER="uvicorn")
    assert rows["port"] == {"value": 9, "source": "command line"}
    assert rows["workers"] == {"value": 3, "source": "environment CHROMA_ASYNC_WORKERS"}
    assert rows["server"] == {"value": "uvicorn", "source": "environment CHROMA_ASYNC_SERVER"}
    assert rows["host"] == {"value": "127.0.0.1", "source": "default"}
    assert "http_server" not in rows


def test_every_option_of_run_is_there_and_has_a_variable() -> None:
    rows = found()
    variables = [variable(option) for option in run.params]
    assert len(set(variables)) == len(variables)
    for option in run.params:
        assert isinstance(option, click.Option)
        name = option.opts[0].removeprefix("--")
        assert name.replace("-", "_") in rows
        assert variable(option) == "CHROMA_ASYNC_" + name.upper().replace("-", "_"), option.opts


def test_every_option_of_run_reaches_what_it_is_for() -> None:
    """Most go by their names into settings, so one with another name would be lost."""
    names = {str(option.name) for option in run.params}
    taken = [entry.name for kind in (EngineSettings, ServerSettings, AuthSettings) for entry in fields(kind)]
    assert names - set(taken) == {"path", "log_retention"}
    assert len(set(taken)) == len(taken)  # else one option would mean two settings


def test_a_value_of_the_command_line_is_not_told_to_come_from_chroma() -> None:
    rows = found("--auth-jwt-jwks", "keys.json", "--auth-jwt-algorithm", "EdDSA", "--audit-log", "audit")
    assert rows["auth_jwt_algorithm"] == {"value": ["EdDSA"], "source": "command line"}
    assert not [name for name, row in rows.items() if "CHROMA_SERVER" in row["source"]]


def test_defaults_are_those_that_count() -> None:
    rows = found()
    assert rows["sync_interval"] == {"value": EngineSettings().sync_interval_seconds, "source": "default"}
    assert rows["log_retention"] == {"value": "1MiB", "source": "default"}
    assert rows["brief_seconds"] == {"value": 0.01, "source": "default, no option"}  # embedded engines have another
    settings = EngineSettings()
    assert retention_settings("1MiB") == {
        "log_retention_bytes": settings.log_retention_bytes,
        "log_retention_seconds": settings.log_retention_seconds,
    }


def test_secrets_are_masked(tmp_path: Path) -> None:
    token = "abcdefghijklmnopqrstuvwxyz0123456789"
    environment = {"CHROMA_ASYNC_AUTH_TOKEN": token, "CHROMA_ASYNC_AUTH_JWT_JWKS": "https://u:pw@keys.example.org/k?key=s3"}
    for arguments in ((), ("--json",)):
        result = config(*arguments, **environment)
        assert result.exit_code == 0, result.output
        assert MASKED in result.stdout
        for secret in (token, "u:pw", "s3"):
            assert secret not in result.output
    old = {"CHROMA_SERVER_AUTHN_PROVIDER": "token", "CHROMA_SERVER_AUTHN_CREDENTIALS": token}
    result = config("--json", **old)
    if result.exit_code == 0:
        assert any("CHROMA_SERVER_AUTH" in row["source"] for row in json.loads(result.stdout).values())
    assert token not in result.output


@pytest.mark.parametrize("value", ["https://a:b@c/d", "https://c/d?token=b"])
def test_urls_lose_what_lets_somebody_in(value: str) -> None:
    assert "b" not in str(shown("x", value)).replace("d?", "")


def test_wrong_options_and_variables_are_told_as_run_does() -> None:
    assert config("--workers", "0").exit_code == 2
    unknown = config("--no-such-option")
    assert (unknown.exit_code, " config [OPTIONS]" in unknown.stderr) == (2, True)
    assert config(CHROMA_ASYNC_WORKERS="none").exit_code == 2


def test_variable_that_is_misspelt_is_told() -> None:
    result = config(CHROMA_ASYNC_WORKRES="3")
    assert result.exit_code == 0
    assert "CHROMA_ASYNC_WORKRES is no setting; did you mean CHROMA_ASYNC_WORKERS?" in result.stderr


@pytest.mark.parametrize(
    "option",
    [
        "--body-timeout-seconds",
        "--drain-seconds",
        "--graceful-seconds",
        "--head-seconds",
        "--keep-alive-seconds",
        "--requests-per-second",
        "--sync-interval",
    ],
)
@pytest.mark.parametrize("number", ["nan", "inf", "-1", "soon"])
def test_a_number_that_is_none_is_refused(option: str, number: str) -> None:
    result = config("--durability", "interval", option, number)
    assert (result.exit_code, option in result.stderr) == (2, True)
