"""The shop's own database access: plain, synchronous SQLAlchemy in a worker thread.

So the same code runs on SQLite and PostgreSQL, and never blocks the event loop.
"""

from collections.abc import Callable
from typing import Concatenate, ParamSpec, TypeVar

from sqlalchemy import create_engine, orm, select
from starlette.concurrency import run_in_threadpool

from .catalogue import TEAS
from .models import Base, Product

P = ParamSpec("P")
T = TypeVar("T")


class Database:
    def __init__(self, url: str) -> None:
        self._engine = create_engine(url, pool_pre_ping=True)  # outlives a restart of the server
        # Pages are rendered after the commit, so objects must stay readable then.
        self._transaction = orm.sessionmaker(self._engine, expire_on_commit=False)

    async def run(
        self, work: Callable[Concatenate[orm.Session, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Call `work(db, ...)` in one transaction: committed if it returns, undone if it raises."""

        def transaction() -> T:
            with self._transaction.begin() as db:
                return work(db, *args, **kwargs)

        return await run_in_threadpool(transaction)

    async def prepare(self) -> None:
        """Create the tables and fill the shelves, unless that has been done."""
        await run_in_threadpool(Base.metadata.create_all, self._engine)
        await self.run(_fill_shelves)

    async def close(self) -> None:
        await run_in_threadpool(self._engine.dispose)


def _fill_shelves(db: orm.Session) -> None:
    if db.scalar(select(Product.id).limit(1)) is None:
        db.add_all(Product(**tea) for tea in TEAS)
