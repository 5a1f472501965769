"""starsessions with Redis. It writes the session back at every request, read or not."""

from redis.asyncio import Redis
from starsessions import SessionAutoloadMiddleware, SessionMiddleware
from starsessions.stores.redis import RedisStore

from .handler import DATABASE_URL, Started, handler, nothing

redis = Redis.from_url(DATABASE_URL)
loaded = SessionAutoloadMiddleware(handler)  # type: ignore[arg-type]
middleware = SessionMiddleware(
    loaded, store=RedisStore(connection=redis), lifetime=86400, cookie_https_only=False
)
app = Started(middleware, nothing, redis.aclose)  # type: ignore[arg-type]
