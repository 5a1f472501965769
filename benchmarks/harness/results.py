"""How a benchmark is run and kept: contestants in alternating order, ratios with their spread."""

from __future__ import annotations

import argparse
import inspect
import json
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Literal, TypeVar

from . import machine

RESULTS = Path(__file__).resolve().parents[1] / "results"

PACKAGES = (
    "websessions SQLAlchemy asyncpg psycopg psycopg-pool greenlet msgspec uvicorn uvloop httptools"
    " gunicorn starlette starsessions redis litestar advanced-alchemy flask Flask-Session"
    " Flask-SQLAlchemy django"
)

Kind = Literal["bare", "ours", "rival"]
T = TypeVar("T")


@dataclass(frozen=True)
class Metric:
    """Something that is measured: its unit, and whether less of it is better."""

    label: str
    unit: str
    less_is_better: bool = True
    judged: bool = True
    """Whether the report counts it when it says where a rival is better."""


METRICS: dict[str, Metric] = {
    "app_us": Metric("app CPU", "µs"),
    "database_us": Metric("database CPU", "µs"),
    "per_second": Metric("throughput", "/s", less_is_better=False),
    "p50_ms": Metric("p50", "ms"),
    "p99_ms": Metric("p99", "ms"),
    "lost": Metric("lost updates", ""),
    "lost_share": Metric("lost updates", "%"),
    "wal_bytes": Metric("WAL", "bytes"),
    "hot_share": Metric("HOT updates", "%", less_is_better=False),
    "seconds": Metric("duration", "s"),
    "rows_per_second": Metric("swept", "rows/s", less_is_better=False),
    "wall_ms": Metric("import", "ms"),
    "cpu_ms": Metric("import, CPU", "ms"),
    "late": Metric("calls started over 5 ms late", "%", judged=False),
}


@dataclass(frozen=True)
class Ratio:
    """A figure that is promised: `of` divided by `to`, in the same repeat of the same run.

    `over` names what is subtracted from each first: the bare app of `of`, and that of `to`.
    `to_case` is the case of `to` where that is another one.
    """

    metric: str
    of: str
    to: str
    case: str
    load: int | None = None
    over: tuple[str, str] | None = None
    at_most: float | None = None
    at_least: float | None = None
    to_case: str | None = None

    def met(self, value: float) -> bool | None:
        if self.at_most is not None:
            return value <= self.at_most
        return None if self.at_least is None else value >= self.at_least


@dataclass(frozen=True)
class Figure:
    """A figure with a limit of its own: the metric of `of`, less that of `minus`."""

    metric: str
    of: str
    case: str
    load: int | None = None
    minus: str | None = None
    at_most: float | None = None
    at_least: float | None = None

    met = Ratio.met


@dataclass(frozen=True)
class Contender:
    """A contestant as the report names it."""

    name: str
    kind: Kind
    what: str = ""
    peer: str = ""
    """Which of ours a rival is like; without one it is measured by the best of ours."""


@dataclass
class Results:
    """All that one script found out; `save` writes it as JSON for the report."""

    question: str
    title: str
    what: str
    contestants: Sequence[Contender]
    ratios: Sequence[Ratio]
    options: Mapping[str, Any]
    figures: Sequence[Figure] = ()
    services: Mapping[str, Any] = field(default_factory=dict)
    measurements: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    started: str = field(default_factory=lambda: time.strftime("%Y-%m-%d %H:%M:%S %Z"))

    def add(
        self, contestant: str, case: str, repeat: int, load: int | None = None, **values: float
    ) -> None:
        self.measurements.append(
            {"contestant": contestant, "case": case, "load": load, "repeat": repeat, **values}
        )
        shown = "  ".join(
            f"{METRICS[name].label} {number(value)} {METRICS[name].unit}".rstrip()
            for name, value in values.items()
        )
        where = case if load is None else f"{case} x{load}"
        print(f"  [{repeat}] {contestant:38} {where:22} {shown}", flush=True)

    def _by_repeat(self, metric: str, case: str, load: int | None) -> dict[int, dict[str, float]]:
        """For each repeat, the metric by contestant."""
        found: dict[int, dict[str, float]] = defaultdict(dict)
        for one in self.measurements:
            if (one["case"], one["load"]) == (case, load) and metric in one:
                found[one["repeat"]][one["contestant"]] = one[metric]
        return found

    def ratio_values(self, ratio: Ratio) -> list[float]:
        """The ratio in each repeat that has all its parts."""
        values = []
        above_in = self._by_repeat(ratio.metric, ratio.case, ratio.load)
        below_in = self._by_repeat(ratio.metric, ratio.to_case or ratio.case, ratio.load)
        of_bare, to_bare = ratio.over or (None, None)
        for repeat in above_in.keys() & below_in.keys():
            above = _less(above_in[repeat], ratio.of, of_bare)
            below = _less(below_in[repeat], ratio.to, to_bare)
            if above is not None and below is not None and below > 0:
                values.append(above / below)
        return values

    def figure_values(self, figure: Figure) -> list[float]:
        """The figure in each repeat that has all its parts."""
        found = self._by_repeat(figure.metric, figure.case, figure.load).values()
        values = [_less(by_name, figure.of, figure.minus) for by_name in found]
        return [value for value in values if value is not None]

    def save(self) -> Path:
        """Write the JSON, print the verdicts, and return the file."""
        ratios = [_judged(one, self.ratio_values(one)) for one in self.ratios]
        figures = [_judged(one, self.figure_values(one)) for one in self.figures]
        document = {
            **asdict(self),
            "ratios": [one for one in ratios if one],
            "figures": [one for one in figures if one],
            "machine": machine.describe(),
            "versions": machine.versions(PACKAGES.split()),
        }
        smoke = self.options.get("smoke")
        folder = RESULTS / "smoke" if smoke else RESULTS
        folder.mkdir(exist_ok=True, parents=True)
        path = folder / f"{self.question}.json"
        path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
        print(f"\n{self.title}" + (" (smoke: it works; the figures mean nothing)" if smoke else ""))
        for one in () if smoke else (*document["figures"], *document["ratios"]):
            print(f"  {said(one)}")
        print(f"  -> {path}\n")
        return path


def _less(by_name: Mapping[str, float], name: str, bare: str | None) -> float | None:
    """A contestant's value, less the bare one's; None where either was not measured."""
    if name not in by_name or (bare is not None and bare not in by_name):
        return None
    return by_name[name] - (0.0 if bare is None else by_name[bare])


def _judged(one: Ratio | Figure, values: list[float]) -> dict[str, Any] | None:
    if not values:
        return None
    middle = median(values)
    spread = {"median": middle, "min": min(values), "max": max(values)}
    return {**asdict(one), **spread, "met": one.met(middle)}


def said(one: Mapping[str, Any]) -> str:
    """A ratio or a figure, its spread and its limit in one line."""
    metric = METRICS[one["metric"]]
    where = one["case"] if one["load"] is None else f"{one['case']} x{one['load']}"
    spread = f"{number(one['median'])} ({number(one['min'])} to {number(one['max'])})"
    if "to" in one:
        over = " over bare" if one["over"] else ""
        other = f" in {one['to_case']}" if one["to_case"] else ""
        text = f"{metric.label}{over}, {one['of']} / {one['to']}{other} = {spread}"
    else:
        over = f" over {one['minus']}" if one["minus"] else ""
        text = f"{metric.label}{over}, {one['of']} = {spread} {metric.unit}".rstrip()
    return f"{where}: {text}{goal(one)}"


def goal(one: Mapping[str, Any]) -> str:
    """The limit and whether it was kept, if there is one."""
    if one["met"] is None:
        return ""
    word, limit = ("at most", one["at_most"])
    if limit is None:
        word, limit = "at least", one["at_least"]
    return f", {word} {limit:g}: {'met' if one['met'] else 'NOT MET'}"


def number(value: float) -> str:
    """Three digits that count."""
    size = abs(value)
    if size >= 100 or value == 0:
        return f"{value:,.0f}"
    return f"{value:.1f}" if size >= 10 else f"{value:.2f}"


def arguments(
    *, loads: Sequence[int] = (), seconds: float = 4.0, repeats: int = 5
) -> argparse.Namespace:
    """The options that every script takes; the script's own docstring is its help."""
    caller = sys._getframe(1).f_globals
    parser = argparse.ArgumentParser(
        description=inspect.cleandoc(caller["__doc__"]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--repeats", type=int, default=repeats, help=f"default {repeats}")
    parser.add_argument(
        "--seconds", type=float, default=seconds, help=f"each measurement; default {seconds:g}"
    )
    parser.add_argument(
        "--loads",
        type=lambda text: tuple(int(part) for part in text.split(",")),
        default=tuple(loads),
        help=f"connections or calls in flight; default {','.join(map(str, loads))}",
    )
    parser.add_argument("--only", default="", help="contestants whose name holds one of a,b,c")
    parser.add_argument("--smoke", action="store_true", help="does it work? Measures nothing")
    options = parser.parse_args()
    if options.smoke:
        options.repeats, options.seconds = 1, 0.3
    return options


def chosen(contestants: Sequence[T], options: argparse.Namespace) -> list[T]:
    """Those that `--only` names."""
    parts = [part for part in options.only.split(",") if part]
    return [one for one in contestants if not parts or any(p in one.name for p in parts)]  # type: ignore[attr-defined]


def alternating(contestants: Sequence[T], repeats: int) -> Iterator[tuple[int, T]]:
    """Each contestant once a repeat, in an order that turns round each time."""
    for repeat in range(repeats):
        for one in contestants if repeat % 2 == 0 else reversed(contestants):
            yield repeat, one


def percentile(values: list[float], share: float) -> float:
    """Of a sorted list."""
    return values[min(len(values) - 1, int(len(values) * share))] if values else 0.0
