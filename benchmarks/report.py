"""Write what benchmarks/results/ holds into docs/performance.md, with plots as SVG beside it.

Only the parts between markers are written; the prose around them is a person's. Each question has
one part; a part whose markers are missing is put at the end of the page:

    <!-- benchmarks: http_asgi -->
    <!-- /benchmarks: http_asgi -->

and `summary` (the figures that were promised), `rivals` (where a rival is better) and `machine`
are parts as well.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from .all import QUESTIONS
from .harness.results import METRICS, RESULTS, Metric, goal, number

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "performance.md"
PLOTS = "benchmarks"
"""The folder of the plots, beside the page."""

COLOURS = {"ours": "#2563eb", "rival": "#9ca3af", "bare": "#e5e7eb"}
CLOSE = 1.05
"""A rival is better when it is by more than this; below it is noise."""

Result = Mapping[str, Any]


# Values


def values(
    result: Result, metric: str, contestant: str, case: str, load: int | None
) -> list[float]:
    return [
        one[metric]
        for one in result["measurements"]
        if (one["contestant"], one["case"], one["load"]) == (contestant, case, load)
        and metric in one
    ]


def combinations(result: Result) -> list[tuple[str, int | None]]:
    """The cases and loads that were measured, case by case."""
    cases = list(dict.fromkeys(one["case"] for one in result["measurements"]))
    found = {(one["case"], one["load"]) for one in result["measurements"]}
    return sorted(found, key=lambda item: (cases.index(item[0]), item[1] or 0))


def metrics(result: Result) -> list[str]:
    return [name for name in METRICS if any(name in one for one in result["measurements"])]


def where(case: str, load: int | None) -> str:
    return case if load is None else f"{case}, {load} in flight"


def spread(found: Sequence[float]) -> str:
    if not found:
        return ""
    low, high = number(min(found)), number(max(found))
    middle = number(median(found))
    return middle if low == high else f"{middle} ({low} to {high})"


# Parts of the page


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def question_part(result: Result) -> str:
    """What was measured, the plots, the ratios, and every number."""
    parts = [result["what"].strip()]
    parts += [f"![{text}]({PLOTS}/{file})" for file, text in plots(result)]
    judged = [*result["figures"], *result["ratios"]]
    if judged:
        parts.append(table(("ratio", "median (min to max)", "promised"), map(ratio_row, judged)))
    everything = [measured_table(result, *combination) for combination in combinations(result)]
    everything += [f"- {note}" for note in result["notes"]]
    parts.append(
        "<details><summary>All measurements</summary>\n\n"
        + "\n\n".join(everything)
        + f"\n\n{conditions(result)}\n</details>"
    )
    return "\n\n".join(parts)


def ratio_row(one: Mapping[str, Any]) -> tuple[str, str, str]:
    metric = METRICS[one["metric"]]
    place = where(one["case"], one["load"])
    unit = ""
    if "to" in one:
        over = ", over bare" if one["over"] else ""
        other = f" in *{one['to_case']}*" if one["to_case"] else ""
        text = f"{place}: {metric.label}{over}, {one['of']} / {one['to']}{other}"
    else:
        over = f" over {one['minus']}" if one["minus"] else ""
        text = f"{place}: {metric.label}{over}, {one['of']}"
        unit = f" {metric.unit}".rstrip()
    found = f"{number(one['median'])}{unit} ({number(one['min'])} to {number(one['max'])})"
    return text, found, goal(one).removeprefix(", ").replace("NOT MET", "**not met**")


def measured_table(result: Result, case: str, load: int | None) -> str:
    columns = [
        name
        for name in metrics(result)
        if any(values(result, name, c["name"], case, load) for c in result["contestants"])
    ]
    heads = [f"{METRICS[name].label}, {METRICS[name].unit}".rstrip(", ") for name in columns]
    rows = []
    for contestant in result["contestants"]:
        cells = [spread(values(result, name, contestant["name"], case, load)) for name in columns]
        if any(cells):
            said = f" ({contestant['what']})" if contestant["what"] else ""
            rows.append((f"{contestant['name']}{said}", *cells))
    return table((f"**{where(case, load)}**", *heads), rows)


def conditions(result: Result) -> str:
    options, services = result["options"], dict(result["services"])
    said = [f"{result['started']}; {options['repeats']} repeats, order alternating"]
    if options.get("loads"):
        said.append(f"{options['seconds']:g} s each")
    for name, value in services.items():
        if isinstance(value, Mapping):
            value = ", ".join(f"{key} {setting}" for key, setting in value.items())
        said.append(f"{name}: {value}")
    said.append(", ".join(f"{name} {value}" for name, value in result["versions"].items()))
    return "; ".join(said) + "."


def machine_part(results: Sequence[Result]) -> str:
    machines = {json.dumps(result["machine"]): result["machine"] for result in results}
    lines = []
    for one in machines.values():
        cores = one["pinning"]
        lines.append(
            f"{one['cores']} cores of {one['cpu']}, {one['memory']}, {one['kernel']}."
            f" The app ran on core {_list(cores['app'])}, the databases on"
            f" {_list(cores['database'])}, the client on {_list(cores['client'])}."
        )
    lines.append(
        "Repeat it with `scripts/benchmark`, which installs the rivals and takes about two hours;"
        " `scripts/benchmark NAME` answers one question (`benchmarks/README.md`)."
    )
    return "\n\n".join(lines)


def _list(cores: Sequence[int]) -> str:
    return ", ".join(map(str, cores))


def summary_part(results: Sequence[Result]) -> str:
    """Every figure that has a limit."""
    rows = [
        ratio_row(one)
        for result in results
        for one in (*result["figures"], *result["ratios"])
        if one["met"] is not None
    ]
    return (
        table(("figure", "median (min to max)", "promised"), rows) if rows else "Nothing measured."
    )


def rivals_part(results: Sequence[Result]) -> str:
    """Each rival that was better at something than its peer among ours, and by how much."""
    parts = []
    for result in results:
        lines = [
            line
            for case, load in combinations(result)
            for metric in metrics(result)
            if METRICS[metric].judged
            for line in better(result, METRICS[metric], metric, case, load)
        ]
        if lines:
            parts.append(f"**{result['title']}**\n\n" + "\n".join(lines))
    return "\n\n".join(parts) or "Nowhere in these runs."


def better(result: Result, kind: Metric, metric: str, case: str, load: int | None) -> list[str]:
    """A line for each of ours that rivals beat at one thing."""
    by_kind: dict[str, dict[str, float]] = {"ours": {}, "rival": {}}
    peers = {}
    for contestant in result["contestants"]:
        found = values(result, metric, contestant["name"], case, load)
        if found and contestant["kind"] in by_kind:
            by_kind[contestant["kind"]][contestant["name"]] = median(found)
            peers[contestant["name"]] = contestant["peer"]
    ours = by_kind["ours"]
    if not ours:
        return []
    best = (min if kind.less_is_better else max)(ours, key=lambda name: ours[name])
    ahead: dict[str, list[str]] = {}
    for name, value in by_kind["rival"].items():
        peer = peers[name] if peers[name] in ours else best
        low, high = sorted((ours[peer], value))
        if (value < ours[peer]) == kind.less_is_better and high > CLOSE * low:
            ahead.setdefault(peer, []).append(f"{name} {number(value)}")
    unit = f" {kind.unit}".rstrip()
    return [
        f"- {where(case, load)}, {kind.label}: {', '.join(names)},"
        f" against {number(ours[peer])}{unit} of {peer}"
        for peer, names in ahead.items()
    ]


# Plots

_PLOTTED: Mapping[str, Sequence[str]] = {
    "store_load_replace": ("app_us", "database_us", "p99_ms"),
    "http_asgi": ("app_us", "per_second", "p99_ms"),
    "http_wsgi": ("app_us",),
    "http_express": ("app_us", "per_second"),
    "middleware_cost": ("app_us",),
    "guard_cost": ("app_us", "lost_share"),
    "touch_wal": ("wal_bytes", "hot_share"),
    "sweep": ("p99_ms", "rows_per_second"),
    "import_time": ("wall_ms",),
}


def plots(result: Result) -> list[tuple[str, str]]:
    """The files of a question's plots and what they show; drawn by `draw`."""
    return [
        (f"{result['question']}-{metric}.svg", f"{result['title']}: {METRICS[metric].label}")
        for metric in _PLOTTED.get(result["question"], ())
        if metric in metrics(result)
    ]


def axis_limit(highest: Sequence[float]) -> float:
    """The largest value, or less where one bar would dwarf all others: that one is cut off."""
    *_, second, largest = (0.0, 0.0, *sorted(highest))
    return 1.5 * second if 0 < 3 * second < largest else largest


def draw(result: Result, metric: str, path: Path) -> None:
    """Bars with their spread: a panel for each case and load."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams |= {"svg.hashsalt": "websessions", "svg.fonttype": "none", "font.size": 8}
    from matplotlib import pyplot as plt

    panels = [
        (case, load)
        for case, load in combinations(result)
        if any(values(result, metric, c["name"], case, load) for c in result["contestants"])
    ]
    names = [
        c["name"]
        for c in result["contestants"]
        if any(values(result, metric, c["name"], *panel) for panel in panels)
    ]
    kinds = {c["name"]: c["kind"] for c in result["contestants"]}
    columns = 2 if len(panels) == 4 else min(3, len(panels))
    rows = -(-len(panels) // columns)
    size = (2.2 + 2.4 * columns, rows * (0.5 + 0.22 * len(names)) + 0.4)
    figure, axes = plt.subplots(
        rows, columns, figsize=size, squeeze=False, sharey=True, layout="constrained"
    )
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    for axis, (case, load) in zip(axes.flat, panels, strict=False):
        measured = {name: values(result, metric, name, case, load) for name in names}
        highest = [max(found) for found in measured.values() if found]
        # Only what is worse is cut off, never what is better.
        limit = axis_limit(highest) if METRICS[metric].less_is_better else max(highest)
        for place, (name, found) in enumerate(measured.items()):
            if not found:
                continue
            middle = median(found)
            axis.barh(
                place,
                middle,
                color=COLOURS[kinds[name]],
                xerr=[[middle - min(found)], [max(found) - middle]],
                error_kw={"lw": 0.8, "ecolor": "#374151"},
            )
            axis.annotate(
                number(middle) + (" (cut off)" if middle > limit else ""),
                (min(max(found), limit), place),
                xytext=(3, 0),
                textcoords="offset points",
                va="center",
                fontsize=7,
            )
        axis.set_title(where(case, load), fontsize=8)
        axis.set_xlim(0, limit * 1.3 or 1)
        axis.locator_params(axis="x", nbins=4)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0][0].set_yticks(range(len(names)), names)
    axes[0][0].invert_yaxis()
    kind = METRICS[metric]
    worth = "less is better" if kind.less_is_better else "more is better"
    unit = f", {kind.unit}" if kind.unit else ""
    figure.suptitle(f"{result['title']}: {kind.label}{unit} ({worth})", fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


# The page


def put(page: str, name: str, text: str) -> str:
    """The page with this part between its markers, or at its end."""
    begin, end = f"<!-- benchmarks: {name} -->", f"<!-- /benchmarks: {name} -->"
    part = f"{begin}\n{text}\n{end}"
    present = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
    if present.search(page):
        return present.sub(lambda _: part, page, count=1)
    return f"{page.rstrip()}\n\n{part}\n"


def main() -> None:
    parser = argparse.ArgumentParser(description="Write docs/performance.md from the results.")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--page", type=Path, default=PAGE)
    options = parser.parse_args()
    results = [
        json.loads(path.read_text(encoding="utf-8"))
        for question in QUESTIONS
        if (path := options.results / f"{question}.json").exists()
    ]
    if not results:
        raise SystemExit(f"no results in {options.results}: run scripts/benchmark")
    page = "# Performance\n"
    if options.page.exists():
        page = options.page.read_text(encoding="utf-8")
    page = put(page, "machine", machine_part(results))
    page = put(page, "summary", summary_part(results))
    page = put(page, "rivals", rivals_part(results))
    for result in results:
        for metric in _PLOTTED.get(result["question"], ()):
            if metric in metrics(result):
                file = f"{result['question']}-{metric}.svg"
                draw(result, metric, options.page.parent / PLOTS / file)
        page = put(page, result["question"], question_part(result))
    options.page.write_text(page, encoding="utf-8")
    print(f"wrote {options.page} and {options.page.parent / PLOTS}")


if __name__ == "__main__":
    main()
