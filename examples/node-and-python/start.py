"""Start both apps behind one address: `python examples/node-and-python/start.py`.

NODE_PATH is where the npm packages are; `scripts/node-and-python` installs them and comes here.
"""

import argparse
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent


def main() -> int:
    parser = argparse.ArgumentParser(prog="node-and-python", description=__doc__)
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--data", type=Path, default=HERE / "data")
    options = parser.parse_args()
    options.data.mkdir(parents=True, exist_ok=True)
    node = shutil.which("node")
    if node is None:
        print("This example needs Node: there is no program called node.", file=sys.stderr)
        return 1
    environment = {
        **os.environ,
        "DATABASE": str(options.data / "sessions.db"),
        "SESSION_SECRET": load_secret(options.data / "secret"),
    }
    if answers(options.port):
        print(f"Port {options.port} is taken: name another one with --port.", file=sys.stderr)
        return 1
    port, python_port = str(options.port), str(free_port())
    commands = {
        "FastAPI": [sys.executable, "-m", "uvicorn", "fastapi_app:app", "--port", python_port],
        "Express": [node, "express_app.js", port, python_port],
    }
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    apps: dict[str, subprocess.Popen[bytes]] = {}
    ended = None
    try:
        for (name, command), listening in zip(commands.items(), (python_port, port), strict=True):
            apps[name] = subprocess.Popen(command, cwd=HERE, env=environment)  # noqa: S603
            while not answers(int(listening)):
                if ended := first_ended(apps):
                    return 1
                time.sleep(0.05)
        print(f"\n  Express and FastAPI share a login at http://127.0.0.1:{port}\n", flush=True)
        while not (ended := first_ended(apps)):
            time.sleep(0.2)
        return 1
    except KeyboardInterrupt:  # Ctrl+C is how it is meant to end
        return 0
    finally:
        for app in apps.values():
            app.terminate()
        for app in apps.values():
            app.wait()
        if ended:
            print(f"{ended}; it says why above.", file=sys.stderr)


def load_secret(path: Path) -> str:
    """The same at every start, or everybody would be logged out."""
    if not path.exists():
        path.touch(mode=0o600)
        path.write_text(secrets.token_urlsafe(32))
    return path.read_text()


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def first_ended(apps: dict[str, subprocess.Popen[bytes]]) -> str | None:
    """Which one it was, if one has ended: then none is of use without it."""
    for name, app in apps.items():
        code = app.poll()
        if code is not None:
            return f"{name} has ended with exit code {code}"
    return None


if __name__ == "__main__":
    sys.exit(main())
