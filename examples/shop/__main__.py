"""Open the shop: `python examples/shop`."""

import argparse
import os
import socket
import sys
from contextlib import suppress
from pathlib import Path

import uvicorn
from sqlalchemy.engine import make_url

HERE = Path(__file__).resolve().parent
if not __package__:
    # `python examples/shop` puts this folder on the path; the package is one level up.
    sys.path[0] = str(HERE.parent)

from shop.app import create_app
from shop.secret import load_secret

FIRST_PORT = 8000


class Server(uvicorn.Server):
    """Uvicorn that says where the shop is, once it really answers."""

    def __init__(self, config: uvicorn.Config, greeting: str) -> None:
        super().__init__(config)
        self._greeting = greeting

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            print(self._greeting, flush=True)


def main() -> None:
    options = parse_options()
    options.data.mkdir(parents=True, exist_ok=True)
    database_url = options.database or f"sqlite:///{options.data / 'shop.db'}"
    listener = open_listener(options.host, options.port)
    greeting = (
        f"\n  Shop is open at http://{address(listener)}\n"
        f"  Sessions, customers and orders: {make_url(database_url)!r}\n"
        "  Ctrl+C closes it; start it again and nobody has been forgotten.\n"
    )
    app = create_app(database_url, load_secret(options.data / "secret"))
    config = uvicorn.Config(app, log_level="warning")
    with suppress(KeyboardInterrupt):  # Ctrl+C is how it is meant to end
        Server(config, greeting).run(sockets=[listener])


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="shop", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
    parser.add_argument(
        "--port",
        type=int,
        help=f"port to listen on; 0 takes any (the first free one from {FIRST_PORT})",
    )
    parser.add_argument(
        "--database",
        default=os.environ.get("DATABASE_URL", ""),
        metavar="URL",
        help="sqlite:///file or postgresql+psycopg://... (DATABASE_URL, or SQLite in --data)",
    )
    parser.add_argument(
        "--data",
        type=Path,
        default=HERE / "data",
        metavar="FOLDER",
        help="where the SQLite file and the generated secret live (%(default)s)",
    )
    return parser.parse_args()


def open_listener(host: str, port: int | None) -> socket.socket:
    """Listen on `port`, or on the first free one when none was asked for."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    candidates = range(FIRST_PORT, FIRST_PORT + 100) if port is None else [port]
    problem: OSError | None = None
    for candidate in candidates:
        try:
            return socket.create_server((host, candidate), family=family)
        except OSError as error:
            problem = error
    sys.exit(f"Can not listen on {host}, port {candidates[0]}: {problem}. Try another --port.")


def address(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


if __name__ == "__main__":
    main()
