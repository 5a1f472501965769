"""What the app should do. It passes; let it fail."""

import asyncio

import httpx
from bug import app, store


def test_it_counts() -> None:
    async def story() -> None:
        await store.sync()
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as browser:
            assert (await browser.get("/")).json() == {"count": 1}
            assert (await browser.get("/")).json() == {"count": 2}
        await store.close()

    asyncio.run(story())
