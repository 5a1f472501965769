"""No session at all: what uvicorn and the application cost."""

from .handler import Started, bare_handler, nothing

app = Started(bare_handler, nothing, nothing)
