"""`store.model`: the sessions as the app's ORM sees them."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import MetaData, String, func, select
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    MappedAsDataclass,
    Session,
    foreign,
    mapped_column,
    relationship,
)
from sqlalchemy.util import greenlet_spawn

from tests.fixtures.services import Services
from tests.sql.drivers import ALL, ONE_A_DATABASE, Way, a_name, a_sid, ways
from websessions.sql import AsyncSQLSessionStore, SQLSessionStore


@ways(*ALL)
async def test_the_orm_can_query_it(services: Services, way: Way) -> None:
    async with way.open(way.url(services), table_name=a_name()) as store:
        await store.set(a_sid(), {"user_id": "ann"})
        await store.set(a_sid(), {"user_id": "bob"})
        await store.set(a_sid(), {})
        model: Any = store.store.model

        def query() -> Any:
            with Session(store.engine) as session:
                found = session.scalars(select(model).where(model.user_id == "ann")).one()
                count = session.scalar(select(func.count()).select_from(model))
                return found.user_id, found.version, count

        asked = greenlet_spawn(query) if way.async_driver else None
        result = query() if asked is None else await asked
        assert result == ("ann", 1, 3)


@ways(*ONE_A_DATABASE)
async def test_the_orm_can_log_somebody_out(services: Services, way: Way) -> None:
    """Deleting a user's rows is a way to end their sessions everywhere."""
    async with way.open(way.url(services), table_name=a_name()) as store:
        ann, bob = a_sid(), a_sid()
        await store.set(ann, {"user_id": "ann"})
        await store.set(bob, {"user_id": "bob"})
        model: Any = store.store.model
        with Session(store.engine) as session, session.begin():
            for row in session.scalars(select(model).where(model.user_id == "ann")):
                session.delete(row)
        assert await store.get(ann) is None
        assert await store.get(bob) == {"user_id": "bob"}


async def test_an_async_orm_session_can_query_it(services: Services) -> None:
    engine = create_async_engine(services.url("asyncpg"))
    async with AsyncSQLSessionStore(engine, table_name=a_name()) as store:
        await store.sync()
        await store.set(a_sid(), {"user_id": "ann"})
        async with AsyncSession(engine) as session:
            found = (await session.scalars(select(store.model))).one()
            assert found.user_id == "ann"
    await engine.dispose()


def memory_store(**options: Any) -> SQLSessionStore:
    return SQLSessionStore("sqlite://", check_expiration_interval=None, **options)


def test_the_class_is_named_by_model_key() -> None:
    assert memory_store().model.__name__ == "Session"
    assert memory_store(model_key="Visit").model.__name__ == "Visit"


def test_the_class_is_the_same_each_time() -> None:
    store = memory_store()
    assert store.model is store.model


def test_without_a_registry_each_store_has_a_class_of_its_own() -> None:
    assert memory_store().model is not memory_store().model


def test_two_stores_on_one_base_share_the_class_of_one_table() -> None:
    class Base(DeclarativeBase):
        pass

    one, same = memory_store(registry=Base), memory_store(registry=Base)
    other = memory_store(registry=Base, model_key="Other")
    assert one.model is same.model
    assert other.model is not one.model


def test_a_metadata_is_enough_for_a_class() -> None:
    store = memory_store(registry=MetaData())
    store.sync()
    with Session(store._opened.engine) as session:
        assert session.scalars(select(store.model)).all() == []
    store.close()


@ways(*ONE_A_DATABASE)
async def test_a_class_of_the_app_s_base_can_relate_to_it(services: Services, way: Way) -> None:
    """The generated class is in the app's registry, so its relationships find it by name."""
    users, sessions = a_name("users"), a_name("sessions")

    class Base(DeclarativeBase):
        pass

    class User(Base):
        __tablename__ = users
        id: Mapped[str] = mapped_column(String(50), primary_key=True)
        sessions: Mapped[list[Any]] = relationship(
            "WebSession",
            primaryjoin=lambda: User.id == foreign(Base.metadata.tables[sessions].c.user_id),
            viewonly=True,
        )

    options: dict[str, Any] = {"registry": Base, "model_key": "WebSession"}
    async with way.open(way.url(services), table_name=sessions, **options) as store:
        Base.metadata.create_all(store.engine)
        assert issubclass(store.store.model, Base)
        await store.set(a_sid(), {"user_id": "ann"})
        await store.set(a_sid(), {"user_id": "bob"})
        with Session(store.engine) as session:
            session.add(User(id="ann"))
            session.flush()
            [found] = session.get_one(User, "ann").sessions
            assert isinstance(found, store.store.model)
            session.rollback()


def base_with_columns() -> Any:
    class Base(DeclarativeBase):
        id: Mapped[int] = mapped_column(primary_key=True)

    return Base


def base_of_dataclasses() -> Any:
    class Base(MappedAsDataclass, DeclarativeBase):
        pass

    return Base


def base_with_a_table_name() -> Any:
    from sqlalchemy.orm import declared_attr

    class Base(DeclarativeBase):
        @declared_attr.directive
        def __tablename__(cls) -> str:  # noqa: N805
            return str(cls.__name__).lower()

    return Base


@pytest.mark.parametrize("base", [base_with_columns, base_of_dataclasses, base_with_a_table_name])
def test_an_unusual_base_will_do(base: Any) -> None:
    """One that gives every class columns can not be a parent of a class of another table."""
    registry = base()
    store = memory_store(registry=registry)
    store.sync()
    store.set(a_sid(), {"user_id": "ann"})
    with Session(store._opened.engine) as session:
        assert session.scalars(select(store.model)).one().user_id == "ann"
    assert store.model in [mapper.class_ for mapper in registry.registry.mappers]
    store.close()


def test_a_table_of_the_app_s_without_a_class_gets_one() -> None:
    from tests.sql.test_table_option import node_table

    store = memory_store(table=node_table(MetaData(), "visits"), model_key="Visit")
    assert store.model.__name__ == "Visit"
    assert store.model.__table__ is store.table
