"""Litestar without sessions."""

from litestar import Litestar, MediaType, get


@get(["/read", "/write"], media_type=MediaType.TEXT)
async def bare() -> str:
    return "0"


app = Litestar([bare])
