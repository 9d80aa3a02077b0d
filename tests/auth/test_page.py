"""The page about who may call says what is so: its options exist, its lines parse, its commands make what it shows."""

from __future__ import annotations

import re

import click
from tests.architecture.tree import ROOT

from chroma_async.cli.auth import auth
from chroma_async.cli.commands import run
from chroma_async.server.auth import chroma
from chroma_async.server.auth.lines import parse_roles

PAGE = (ROOT / "docs" / "auth.md").read_text(encoding="utf-8")
SECURITY = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")


def options(command: click.Command) -> set[str]:
    return {name for parameter in command.params for name in parameter.opts}


def test_options_on_the_pages_exist() -> None:
    known = options(run) | {name for command in auth.commands.values() for name in options(command)}
    known |= {"--collection", "--after", "--json", "--trusted-proxy"}
    named = set(re.findall(r"--[a-z]+(?:-[a-z]+)+", PAGE + SECURITY))
    assert named - known == set()
    assert {name for name in options(run) if name.startswith(("--auth-", "--audit-"))} - named <= {
        "--auth-token",
        "--auth-roles-file",
    }


def test_lines_of_the_roles_file_on_the_page_are_taken() -> None:
    lines = re.findall(r"^    (\{\"(?:name|group)\".*\"role\".*\})$", PAGE, re.MULTILINE)
    roles = parse_roles("\n".join(line for line in lines if "sha256" not in line))
    assert (len(roles.names["alice"]), len(roles.groups), len(roles.everyone)) == (2, 1, 1)


def test_variables_of_chroma_on_the_page_are_known() -> None:
    known = chroma.OLD_NAMES | chroma.NEW_NAMES | chroma.ROLES_NAMES
    named = set(re.findall(r"CHROMA_(?:SERVER_)?AUTH[A-Z]*_[A-Z_]+", PAGE))
    assert named <= known
    assert {name for name in known if "IGNORE" not in name and "CONFIG" not in name} <= named
