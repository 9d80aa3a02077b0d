"""Pictures of results, as PNG files beside the JSON."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from load_tests.errors import Unavailable
from load_tests.measures import Column

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from load_tests.growth import Growth
    from load_tests.soak import Soak
    from load_tests.stream import Streamed

_COLOURS = {
    "ours": "#c0392b",
    "chroma": "#2c6fbb",
    "qdrant-edge": "#7d3c98",
    "lancedb": "#148f77",
    "usearch": "#7f8c8d",
    "empty handler": "#b7950b",
}
_KINDS = ("#c0392b", "#2c6fbb", "#148f77", "#b7950b", "#7d3c98")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
_DPI = 130
_RECALL_MIN = 0.97


def require_matplotlib() -> None:
    """Make sure that plots can be drawn, before anything is measured.

    Raises:
        Unavailable: matplotlib is not installed.
    """
    try:
        import matplotlib
    except ImportError as error:
        raise Unavailable("plots need matplotlib; install the dependency group: pip install --group bench") from error
    matplotlib.use("Agg")


def plot_comparison(columns: Mapping[str, Column], title: str, stem: Path) -> list[Path]:
    """Throughput over recall, and latency under write load over time; files that begin with `stem`."""
    files = [_save(_throughput_over_recall(columns, title), stem.with_name(f"{stem.name}-recall.png"))]
    if any(column.timelines for column in columns.values()):
        files.append(_save(_latency_over_time(columns, title), stem.with_name(f"{stem.name}-writes.png")))
    return files


def _throughput_over_recall(columns: Mapping[str, Column], title: str) -> Figure:
    """Servers on the left, libraries in the caller's process on the right; usearch as a curve over its `ef`."""
    figure, (servers, libraries) = _figure(2, width=14, height=5.6)
    for axes, prefix in ((servers, ""), (libraries, "embedded ")):
        names = [f"{prefix}query"] if prefix else ["query 4"]
        names += sorted({s for c in columns.values() for s in c.measures if s.startswith(f"{prefix}filter")}, key=_share)
        names += ["contains"] if not prefix else []
        for column in columns.values():
            _points(axes, column, names)
        axes.axvline(_RECALL_MIN, color="#999999", linestyle=":", linewidth=1)
        axes.set(xlabel="recall@10 (dotted: asked for)", ylabel="queries per second", yscale="log")
    usearch = columns.get("usearch")
    if usearch is not None:
        _curve(libraries, usearch)
    servers.set_title("over HTTP, 4 connections")
    libraries.set_title("in process, one thread (usearch: by ef)")
    for axes in (servers, libraries):
        axes.legend(fontsize=7, ncols=2, loc="best", framealpha=0.9)
    figure.suptitle(title)
    return figure


def _points(axes: Axes, column: Column, names: list[str]) -> None:
    for marker, name in zip(_MARKERS, names, strict=False):
        recall, throughput = column.find(name, "recall@10"), column.find(name, "throughput")
        if recall is None or throughput is None or recall.value is None or throughput.value is None:
            continue
        axes.plot(
            recall.value,
            throughput.value,
            marker=marker,
            color=_COLOURS[column.key],
            linestyle="none",
            alpha=0.85,
            label=f"{column.label.split(' ')[0]}: {name.removeprefix('embedded ')}",
        )


def _curve(axes: Axes, usearch: Column) -> None:
    swept = [name for name in usearch.measures if name.startswith("embedded query, ef ")]
    figures = [(usearch.find(name, "recall@10"), usearch.find(name, "throughput")) for name in swept]
    points = [(recall.value, rate.value) for recall, rate in figures if recall and rate]
    axes.plot(*zip(*points, strict=True), color=_COLOURS["usearch"], linewidth=1, marker=".", zorder=0)


def _share(name: str) -> float:
    return float(name.split()[-2])


def _latency_over_time(columns: Mapping[str, Column], title: str) -> Figure:
    """The queries beside a writer in a closed loop, and what the writer achieved."""
    figure, (queries, writes) = _figure(2, width=14, height=5)
    for column in columns.values():
        for name, moments in column.timelines.items():
            seconds = [moment.second for moment in moments]
            colour, label = _COLOURS[column.key], column.label
            if name.endswith(": query"):
                queries.plot(seconds, [m.p50_ms for m in moments], color=colour, label=f"{label}, p50")
                queries.plot(seconds, [m.p99_ms for m in moments], color=colour, linestyle="--", label=f"{label}, p99")
            else:
                writes.plot(seconds, [m.p50_ms for m in moments], color=colour, label=f"{label}, p50")
                writes.plot(seconds, [m.p99_ms for m in moments], color=colour, linestyle="--", label=f"{label}, p99")
    queries.set(title="queries, 4 connections", xlabel="seconds", ylabel="latency (ms)", yscale="log")
    writes.set(title="batches of the writer beside them", xlabel="seconds", ylabel="latency (ms)", yscale="log")
    for axes in (queries, writes):
        axes.legend(fontsize=8)
    figure.suptitle(f"{title}: latency under write load")
    return figure


def plot_soak(soak: Soak, title: str, file: Path) -> Path:
    """Latencies, lag, memory and disk, minute by minute."""
    figure, (latencies, lags, sizes) = _figure(3, width=17, height=6)
    numbers = [minute.number for minute in soak.minutes]
    for kind, colour in zip(soak.minutes[0].count, _KINDS, strict=False):
        style = {"color": colour, "marker": "."}
        latencies.plot(numbers, [minute.p50_ms[kind] for minute in soak.minutes], label=f"{kind}, p50", **style)
        latencies.plot(numbers, [minute.p99_ms[kind] for minute in soak.minutes], label=f"{kind}, p99", ls="--", **style)
    latencies.set(title="latency", ylabel="ms", yscale="log")
    lags.plot(numbers, [m.lag_seconds_p50 for m in soak.minutes], marker=".", color=_KINDS[0], label="median")
    lags.plot(numbers, [m.lag_seconds_max for m in soak.minutes], marker=".", color=_KINDS[1], label="most")
    lags.set(title="lag, acknowledged to indexed", ylabel="seconds", ylim=(0, None))
    for label, colour, values in (
        ("memory (PSS), all processes", _KINDS[0], [m.memory_bytes for m in soak.minutes]),
        ("un-evictable memory, largest process", _KINDS[1], [m.unevictable_bytes_max for m in soak.minutes]),
        ("disk", _KINDS[2], [m.disk_bytes for m in soak.minutes]),
    ):
        mebibytes = [value / 2**20 if value is not None else None for value in values]
        sizes.plot(numbers, mebibytes, marker=".", color=colour, label=label)
    sizes.set(title="memory and disk", ylabel="MiB", ylim=(0, None))
    for axes in (latencies, lags, sizes):
        axes.set_xlabel("minute")
        axes.xaxis.get_major_locator().set_params(integer=True)
    latencies.legend(fontsize=7, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.12))
    lags.legend(fontsize=8)
    sizes.legend(fontsize=8)
    figure.suptitle(f"{soak.label}, {title}: soak")
    return _save(figure, file)


def plot_growth(growth: Growth, title: str, file: Path) -> Path:
    """Latency, ingest and memory over the number of records."""
    from load_tests.growth import KINDS, UNEVICTABLE_MIB_MAX

    figure, (latencies, rates, sizes) = _figure(3, width=17, height=5)
    records = [size.records for size in growth.sizes]
    for number, name in enumerate(growth.sizes[0].p50_ms):
        colour, style = _KINDS[number % len(KINDS)], "--" if name.endswith("embedded") else "-"
        latencies.plot(records, [size.p50_ms[name] for size in growth.sizes], style, marker=".", color=colour, label=name)
    latencies.set(title="p50 at 1 connection", ylabel="ms", ylim=(0, None))
    rates.plot(records, [size.ingest_per_second for size in growth.sizes], marker=".", color=_KINDS[0])
    rates.set(title="ingest, acknowledged, since the size before", ylabel="vectors per second", ylim=(0, None))
    for role, colour in zip(growth.roles, _KINDS, strict=False):
        values = [size.unevictable_mib.get(role) for size in growth.sizes]
        sizes.plot(records, values, marker=".", color=colour, label=role)
    sizes.axhline(UNEVICTABLE_MIB_MAX, color="#999999", linestyle=":", linewidth=1)
    sizes.set(title="un-evictable memory, most of a process (dotted: target)", ylabel="MiB", ylim=(0, None))
    for axes in (latencies, rates, sizes):
        axes.set(xlabel="records", xscale="log")
        axes.set_xticks(records, [f"{count:,}" for count in records], rotation=40, ha="right")
        axes.minorticks_off()
    latencies.legend(fontsize=8)
    sizes.legend(fontsize=8)
    figure.suptitle(f"{growth.label}, {title}: growth")
    return _save(figure, file)


def plot_streams(streams: list[Streamed], title: str, file: Path) -> Path:
    """Durable lines and memory over time, of each stream."""
    figure, (lines, sizes) = _figure(2, width=13, height=5)
    for item, colour in zip(streams, _KINDS, strict=False):
        seconds = [look.seconds for look in item.looks]
        lines.plot(seconds, [look.position for look in item.looks], color=colour, label=item.way)
        for name, style in (("client_mib", "-"), ("worker_mib", "--"), ("compactor_mib", ":"), ("builder_mib", "-.")):
            values = [getattr(look, name) for look in item.looks]
            sizes.plot(seconds, values, style, color=colour, label=f"{item.way}: {name.removesuffix('_mib')}")
    lines.set(title="lines that are durable", ylabel="lines", xlabel="seconds", ylim=(0, None))
    sizes.set(title="un-evictable memory, most of a process", ylabel="MiB", xlabel="seconds", ylim=(0, None))
    lines.legend(fontsize=8)
    sizes.legend(fontsize=8)
    figure.suptitle(f"{title}: streams of one client")
    return _save(figure, file)


def _figure(panels: int, *, width: float, height: float) -> tuple[Figure, Any]:
    require_matplotlib()
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, panels, figsize=(width, height), layout="constrained")
    for each in axes:
        each.grid(True, which="major", color="#e5e5e5", linewidth=0.7)
        each.set_axisbelow(True)
    return figure, axes


def _save(figure: Figure, file: Path) -> Path:
    from matplotlib import pyplot

    figure.savefig(file, dpi=_DPI)
    pyplot.close(figure)
    return file
