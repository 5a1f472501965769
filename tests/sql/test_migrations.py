"""Alembic: the generated table is on the app's MetaData, so its migrations make it."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy import Column, Engine, Integer, MetaData, Table, create_engine, text

from tests.fixtures.services import Services
from tests.sql.drivers import ONE_A_DATABASE, Way, a_sid, ways
from websessions.sid import Sid
from websessions.sql import SQLSessionStore
from websessions.store import Lock

ENV = """
from alembic import context

config = context.config
connection = config.attributes["connection"]
context.configure(connection=connection, target_metadata=config.attributes["metadata"])
with context.begin_transaction():
    context.run_migrations()
"""
TEMPLATE = '''"""${message}"""
revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}
import sqlalchemy as sa
from alembic import op
${imports if imports else ""}

def upgrade():
    ${upgrades if upgrades else "pass"}


def downgrade():
    ${downgrades if downgrades else "pass"}
'''


class Project:
    """An app's folder of migrations."""

    def __init__(self, folder: Path, engine: Engine, metadata: MetaData) -> None:
        (folder / "versions").mkdir(parents=True)
        (folder / "env.py").write_text(ENV)
        (folder / "script.py.mako").write_text(TEMPLATE)
        self.folder, self.engine, self.metadata = folder, engine, metadata

    def run(self, name: str, *args: Any, **kwargs: Any) -> None:
        config = Config()
        config.set_main_option("script_location", str(self.folder).replace("%", "%%"))
        config.set_main_option("path_separator", "os")
        with self.engine.connect() as connection:
            config.attributes.update(connection=connection, metadata=self.metadata)
            getattr(command, name)(config, *args, **kwargs)
            connection.commit()

    def scripts(self) -> list[str]:
        return [path.read_text() for path in sorted((self.folder / "versions").glob("*.py"))]


@ways(*ONE_A_DATABASE)
def test_a_migration_creates_the_table_and_the_next_finds_no_difference(
    services: Services, way: Way, tmp_path: Path
) -> None:
    url = way.url(services, fresh=True)
    metadata = MetaData()
    Table("users", metadata, Column("id", Integer, primary_key=True))
    with SQLSessionStore(url, registry=metadata, check_expiration_interval=None) as store:
        engine = create_engine(url)
        project = Project(tmp_path / "migrations", engine, store.table.metadata)

        project.run("revision", message="sessions", autogenerate=True)
        [script] = project.scripts()
        assert "import websessions" not in script, "a migration has to outlive the package"
        assert "'sessions_lease'" in script
        project.run("upgrade", "head")

        with engine.connect() as connection:
            context = MigrationContext.configure(connection, opts={"compare_type": True})
            assert compare_metadata(context, metadata) == []

        sid = a_sid()
        store.set(sid, {"text": "🛒" * 30_000})
        assert store.get(sid) == {"text": "🛒" * 30_000}
        assert store.clear_expired_sessions() == 0
        store.sync()  # finds everything there

        project.run("check")
        project.run("downgrade", "base")
        with pytest.raises(Exception, match=r"call sync\(\)"):
            store.get(sid)
        engine.dispose()


@ways(*ONE_A_DATABASE)
def test_a_table_that_sync_made_is_no_difference_either(services: Services, way: Way) -> None:
    url = way.url(services, fresh=True)
    with SQLSessionStore(url, check_expiration_interval=None) as store:
        store.sync()
        engine = create_engine(url)
        with engine.connect() as connection:
            context = MigrationContext.configure(connection)
            assert compare_metadata(context, store.table.metadata) == []
        engine.dispose()


@ways(*ONE_A_DATABASE)
def test_a_migration_adds_the_columns_of_the_lock(
    services: Services, way: Way, tmp_path: Path
) -> None:
    """To a table of an earlier version, whose sessions go on meanwhile."""
    url, sid = way.url(services, fresh=True), a_sid()
    with SQLSessionStore(url, check_expiration_interval=None) as store:
        store.sync()
        store.set(sid, {"n": 1})
        engine = create_engine(url)
        with engine.begin() as connection:
            for column in ("locked_by", "locked_until"):
                connection.execute(text(f"ALTER TABLE sessions DROP COLUMN {column}"))
        project = Project(tmp_path / "migrations", engine, store.table.metadata)
        project.run("revision", message="lock", autogenerate=True)
        [script] = project.scripts()
        assert re.findall(r"add_column\('sessions', sa.Column\('(\w+)'", script) == [
            "locked_by",
            "locked_until",
        ]
        project.run("upgrade", "head")
        until = datetime.now(UTC) + timedelta(minutes=1)
        assert store.perform([Lock(Sid(sid).digest(), "me", until)]) == [True]
        assert store.get(sid) == {"n": 1}
        engine.dispose()
