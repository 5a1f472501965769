"""What importing costs: websessions and its ASGI middleware, over importing SQLAlchemy alone.

Each import happens in a new interpreter, which times it itself; in turn, so that a busy moment
hits them all. The rival to be over is `import sqlalchemy`.
"""

from __future__ import annotations

import json
import subprocess
import sys

from .harness.machine import CORES, pinned
from .harness.results import Contender, Figure, Ratio, Results, alternating, arguments, chosen

ALONE, ASGI, SQL = "sqlalchemy", "websessions, websessions.asgi", "the same and websessions.sql"
IMPORTS = {
    ALONE: "sqlalchemy",
    ASGI: "sqlalchemy, websessions, websessions.asgi",
    SQL: "sqlalchemy, websessions, websessions.asgi, websessions.sql",
}
CONTENDERS = [
    Contender(ALONE, "bare"),
    Contender(ASGI, "ours", "over sqlalchemy"),
    Contender(SQL, "ours", "over sqlalchemy"),
]
CASE = "import"
FIGURES = [
    Figure(metric, of, CASE, minus=ALONE, at_most=50 if of == ASGI else None)
    for of in (ASGI, SQL)
    for metric in ("wall_ms", "cpu_ms")
]
RATIOS = [Ratio("wall_ms", of, ALONE, CASE) for of in (ASGI, SQL)]


def measure(imports: str) -> dict[str, float]:
    program = (
        "import json, time; wall, cpu = time.perf_counter(), time.process_time();"
        f"import {imports};"
        "wall, cpu = time.perf_counter() - wall, time.process_time() - cpu;"
        "print(json.dumps({'wall_ms': wall * 1e3, 'cpu_ms': cpu * 1e3}))"
    )
    # Isolated: what is installed is imported, not what lies in this folder.
    command = pinned(CORES.app, sys.executable, "-I", "-c", program)
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    values: dict[str, float] = json.loads(done.stdout)
    return values


def main() -> None:
    options = arguments(repeats=20)
    contenders = chosen(CONTENDERS, options)
    results = Results(
        "import_time",
        "The import",
        __doc__ or "",
        contenders,
        RATIOS,
        vars(options),
        FIGURES,
    )
    print(results.title)
    for contender in contenders:
        measure(IMPORTS[contender.name])  # leaves the bytecode behind
    for repeat, contender in alternating(contenders, options.repeats):
        results.add(contender.name, CASE, repeat, **measure(IMPORTS[contender.name]))
    results.save()


if __name__ == "__main__":
    main()
