"""Every benchmark, one after another, and then the report. Arguments go to each of them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time

QUESTIONS = (
    "import_time",
    "middleware_cost",
    "store_load_replace",
    "http_asgi",
    "http_wsgi",
    "http_express",
    "guard_cost",
    "touch_wal",
    "sweep",
)


def main() -> None:
    failed = []
    for question in QUESTIONS:
        if question == "http_express" and not (
            shutil.which("node") and os.environ.get("BENCHMARK_NODE_PATH")
        ):
            print("http_express is left out: it needs Node and npm\n", flush=True)
            continue
        began = time.monotonic()
        command = [sys.executable, "-m", f"benchmarks.{question}", *sys.argv[1:]]
        if subprocess.run(command, check=False).returncode:
            failed.append(question)
        print(f"{question}: {time.monotonic() - began:.0f} s\n", flush=True)
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")
    if "--smoke" not in sys.argv:
        subprocess.run([sys.executable, "-m", "benchmarks.report"], check=True)


if __name__ == "__main__":
    main()
