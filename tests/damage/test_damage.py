"""Flipped bits and torn files of every kind: found, healed or refused; never a wrong answer, never the end of a process.

    scripts/test tests/damage                                     a few dozen cases
    CHROMA_ASYNC_DAMAGE_CASES=600 scripts/test tests/damage -s    600 cases, and what they found
    CHROMA_ASYNC_DAMAGE_SEED=17 scripts/test tests/damage -s      case 17 again, and only that

The oracle is what the directory answered before it was damaged, compared with a dictionary when it was made.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from tests.damage.case import KINDS, NAMES, Damage, answers_of, inflict, look, make_template
from tests.damage.case import SETTINGS as TEMPLATE_SETTINGS
from tests.support.engines import engine_at

CASES = int(os.environ.get("CHROMA_ASYNC_DAMAGE_CASES", "40"))
ONLY = os.environ.get("CHROMA_ASYNC_DAMAGE_SEED")
SEEDS = [int(ONLY)] if ONLY else list(range(CASES))

FOLLOWS_FROM_OTHERS = {"columns", "graph", "log.committed"}
"""Kinds whose damage must not be seen by anybody."""

TAILS = {"log journal"}
"""Kinds that hold the newest entries: they may be lost, when that is reported."""


@pytest.fixture(scope="module")
def templates(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A directory at rest, and one as a crash leaves it, with SQLite's journals."""
    place = tmp_path_factory.mktemp("templates")
    asyncio.run(make_template(place / "rest"))
    asyncio.run(make_template(place / "running", crashed=place / "crashed"))
    return {"rest": place / "rest", "crashed": place / "crashed"}


@pytest.fixture(scope="module")
def truths(templates: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for name, path in templates.items():
        copy = tmp_path_factory.mktemp("truth") / name
        shutil.copytree(path, copy)
        found[name] = asyncio.run(_answers(copy))
    return found


async def _answers(directory: Path) -> dict[str, Any]:
    async with engine_at(directory, TEMPLATE_SETTINGS) as engine:
        return {name: await answers_of(engine, name) for name in NAMES}


def is_right(answer: Any, truth: Any, *, tail_lost: bool) -> bool:
    """Whether an answer is the true one; or, where a lost tail was reported, one without newest records."""
    if answer == truth:
        return True
    if not tail_lost:
        return False
    records = answer["records"]
    lost = truth["records"].keys() - records.keys()
    same = all(truth["records"][name] == value for name, value in records.items())
    return same and answer["count"] == len(records) and all(int(name.split("-")[1]) >= 200 for name in lost)


def judge(damage: Damage, seen: dict[str, Any], truth: dict[str, Any]) -> str:
    """Say in a word what became of a case; raise what must not be."""
    tail_lost = damage.kind in TAILS and "log.tail_lost" in seen["logged"]
    states = set[str]()
    for moment in ("at_once", "healed"):
        told = seen[moment]
        if isinstance(told, str):
            assert damage.kind in {"log", "log journal", "VERSION"}, f"{moment}: the whole directory was refused: {told}"
            states.add("directory refused")
            continue
        for name in NAMES:
            if isinstance(told[name], str):
                assert damage.kind not in FOLLOWS_FROM_OTHERS, f"{moment}: {name} was refused: {told[name]}"
                states.add("collection refused")
            else:
                assert is_right(told[name], truth[name], tail_lost=tail_lost), f"{moment}: wrong answer of {name}"
        refused = [name for name in NAMES if isinstance(told[name], str)]
        if damage.file.startswith("collections/"):
            assert len(refused) <= 1, f"{moment}: damage to one collection refused both"
        if moment == "at_once" and refused:
            assert seen["damaged"], "it was refused, but verify found nothing"
    if states:
        return sorted(states)[0]
    if tail_lost:
        return "tail lost and reported"
    if seen["damaged"]:
        return "found and healed"
    return "harmless"


@pytest.mark.timeout(3600)
def test_damage_is_found_healed_or_refused(
    templates: dict[str, Path], truths: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    found: Counter[tuple[str, str]] = Counter()
    failures: list[str] = []
    kinds = list(KINDS)
    for seed in SEEDS:
        kind = kinds[seed % len(kinds)]
        template = "crashed" if kind.endswith("journal") or seed // len(kinds) % 4 == 3 else "rest"
        directory, outcome = tmp_path / f"{seed}", tmp_path / f"{seed}.json"
        shutil.copytree(templates[template], directory)
        damage = inflict(directory, kind, seed)
        assert damage is not None, f"no file of kind {kind}"
        try:
            look(directory, outcome)
            found[kind, judge(damage, json.loads(outcome.read_text()), truths[template])] += 1
        except AssertionError as error:
            failures.append(f"seed={seed} {damage} {error}")
        shutil.rmtree(directory)
    for (kind, state), count in sorted(found.items()):
        print(f"{kind:16} {state:24} {count:5}")
    assert not failures, "\n".join(failures)
