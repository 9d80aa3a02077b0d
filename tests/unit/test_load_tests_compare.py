"""The load tests' own judgement: targets, medians, and peers that are not there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from load_tests import data
from load_tests.bench import Options, timeline
from load_tests.cli import app
from load_tests.embedded.engines import Work
from load_tests.embedded.measure import our_python, require_engine, run_engine, write_records
from load_tests.errors import Unavailable
from load_tests.generator import LaneResult
from load_tests.measures import Better, Column, Measure, median_column
from load_tests.targets import verdicts
from typer.testing import CliRunner


def figure(name: str, value: float | None, *, unit: str = "1/s", better: Better = "higher") -> Measure:
    return Measure(name=name, value=value, unit=unit, better=better)


def columns(**measures: dict[str, Measure]) -> dict[str, Column]:
    """A column for each keyword: one figure for each scenario."""
    return {
        key.replace("_", "-"): Column(key.replace("_", "-"), key, {name: [one] for name, one in by_scenario.items()})
        for key, by_scenario in measures.items()
    }


@pytest.mark.parametrize(("ours", "met"), [(300.0, True), (299.0, False)])
def test_a_rate_is_compared_with_the_peer(ours: float, met: bool) -> None:
    measure = figure("acknowledged", ours)
    found = list(
        verdicts("ingest", measure, columns(ours={"ingest": measure}, chroma={"ingest": figure("acknowledged", 10)}))
    )
    assert [(verdict.target, verdict.met) for verdict in found] == [("30 x", met)]


@pytest.mark.parametrize(("ours", "met"), [(10.0, True), (11.0, False)])
def test_less_is_better_for_times(ours: float, met: bool) -> None:
    measure = figure("p99", ours, unit="ms", better="lower")
    theirs = figure("p99", 80.0, unit="ms", better="lower")
    found = list(verdicts("query 16", measure, columns(ours={"query 16": measure}, chroma={"query 16": theirs})))
    assert [(verdict.target, verdict.met) for verdict in found] == [("8 x", met)]


@pytest.mark.parametrize(("filtered", "met"), [(3.0, True), (3.1, False)])
def test_a_filtered_query_is_compared_with_our_own_unfiltered_one(filtered: float, met: bool) -> None:
    measure = figure("p50", filtered, unit="ms", better="lower")
    plain = figure("p50", 2.0, unit="ms", better="lower")
    found = list(verdicts("filter 1 %", measure, columns(ours={"filter 1 %": measure, "query 4": plain})))
    assert [(verdict.target, verdict.met) for verdict in found] == [("<= 1.5 x", met)]


@pytest.mark.parametrize(("ours", "met"), [(300.0, True), (301.0, False)])
def test_an_embedded_query_may_take_twice_a_bare_search_and_a_little(ours: float, met: bool) -> None:
    measure = figure("p50", ours, unit="us", better="lower")
    bare = figure("p50", 100.0, unit="us", better="lower")
    found = list(
        verdicts("embedded query", measure, columns(ours={"embedded query": measure}, usearch={"embedded query": bare}))
    )
    assert [(verdict.target, verdict.met) for verdict in found] == [("<= 2 x + 100 us", met)]


def test_recall_counts_for_itself_and_against_a_peer_that_answers_as_fast() -> None:
    measure, better = figure("recall@10", 0.98, unit=""), figure("recall@10", 0.99, unit="")
    name = "embedded filter 1 %"
    found = list(verdicts(name, measure, columns(ours={name: measure}, qdrant_edge={name: better})))
    assert [(verdict.target, verdict.met) for verdict in found] == [(">= 0.97", True), ("1 x", False)]


def test_nothing_is_met_without_a_peer_or_a_figure() -> None:
    measure = figure("acknowledged", 1000.0)
    assert list(verdicts("ingest", measure, columns(ours={"ingest": measure}))) == []
    unknown = columns(ours={"ingest": measure}, chroma={"ingest": figure("acknowledged", None)})
    assert list(verdicts("ingest", measure, unknown)) == []


def test_repeated_runs_give_the_median_and_keep_each_figure() -> None:
    runs = [columns(ours={"ingest": figure("acknowledged", value)})["ours"] for value in (3.0, 1.0, 2.0)]
    found = median_column(runs).find("ingest", "acknowledged")
    assert found is not None
    assert (found.value, found.runs) == (2.0, (3.0, 1.0, 2.0))


def test_a_timeline_tells_when_answers_were_slow() -> None:
    result = LaneResult(started_at=100.0, ended_at=102.0)
    for second, latency in ((0.1, 0.001), (0.2, 0.001), (1.5, 0.5)):
        result.answered_at.append(100.0 + second)
        result.latencies_seconds.append(latency)
    found = timeline(result, step_seconds=1.0)
    assert [(moment.second, moment.per_second) for moment in found] == [(0.0, 2.0), (1.0, 1.0)]
    assert [moment.p50_ms for moment in found] == pytest.approx([1.0, 500.0])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--peer", "chroma", "--chroma-bin", "/nowhere/chroma"], "no such chroma executable"),
        (["--peer", "qdrant-edge"], "--peer-python"),
        (["--peer", "qdrant-edge", "--peer-python", "/nowhere/python"], "/nowhere/python"),
        (["--peer", "nobody"], "no such peer"),
    ],
)
def test_a_peer_that_was_named_and_is_missing_is_an_error(arguments: list[str], said: str) -> None:
    result = CliRunner().invoke(
        app, ["compare", "--data", "synthetic", *arguments], env={"PEER_PYTHON": "", "COLUMNS": "400"}
    )
    assert result.exit_code != 0
    assert said in result.output + result.stderr


def test_an_interpreter_without_the_library_is_an_error() -> None:
    with pytest.raises(Unavailable, match="lancedb"):
        require_engine("lancedb", our_python())


def test_a_library_in_another_process_finds_the_nearest(tmp_path: Path) -> None:
    dataset = data.synthetic(1000, queries=5, ndim=16)
    write_records(tmp_path, dataset.ids, dataset.documents, dataset.vectors, dataset.queries)
    works = (Work("plain"), Work("half", modulus=2, documents=True), Work("view", view=True))
    options = Options(seconds=0.05, rounds=2, checks=5)
    outcome = run_engine("ours", our_python(), tmp_path, directory=tmp_path / "data", works=works, options=options)
    assert set(outcome["works"]) == {"plain", "half"}
    similarities = dataset.queries @ dataset.vectors.T
    for number, answer in enumerate(outcome["works"]["plain"]["answers"]):
        nearest = np.argsort(-similarities[number])[:10]
        assert answer["keys"] == [dataset.ids[row] for row in nearest]
        assert answer["distances"] == pytest.approx((1 - similarities[number][nearest]).tolist(), abs=1e-5)
    for number, answer in enumerate(outcome["works"]["half"]["answers"]):
        nearest = [row for row in np.argsort(-similarities[number]).tolist() if row % 2 == number % 2][:10]
        assert answer["keys"] == [dataset.ids[row] for row in nearest]
        assert answer["documents"] == [dataset.documents[row] for row in nearest]
    assert len(outcome["works"]["half"]["rounds"]) == 2
