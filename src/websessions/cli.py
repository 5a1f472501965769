"""The command line: `websessions import` moves sessions of Express's tables into one of our own."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Final

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from sqlalchemy import Engine

from .errors import ConfigurationError, WebSessionsError
from .moving import Moved, MovingStore, move_all
from .sql import SQLSessionStore
from .sql.dialects import sqlite_as_it_is, sqlite_file

__all__ = ["main"]

_LAYOUTS: Final = {
    "connect-session-sequelize": SQLSessionStore.connect_session_sequelize,
    "connect-pg-simple": SQLSessionStore.connect_pg_simple,
    "express-mysql-session": SQLSessionStore.express_mysql_session,
}


@click.group()
@click.version_option(package_name="websessions")
def main() -> None:
    """Server-side web sessions: tools."""


@main.command("import")
@click.argument("source", metavar="FROM")
@click.argument("target", metavar="TO")
@click.option(
    "--layout",
    type=click.Choice(list(_LAYOUTS)),
    default="connect-session-sequelize",
    show_default=True,
    help="Which package made the table FROM.",
)
@click.option("--table", help="Its name, if it is not the package's own.")
@click.option("--schema", help="Its schema, if it is not the database's default.")
@click.option(
    "--target-table",
    help="The name of the table TO, sessions by default. In one database the two names differ.",
)
@click.option("--target-schema", help="Its schema, if it is not the database's default.")
@click.option(
    "--user-id-key",
    default="user_id",
    show_default=True,
    help="The key of a session that the column user_id of the table TO follows.",
)
@click.option("--dry-run", is_flag=True, help="Only read, in both, and say what would be moved.")
def import_sessions(
    source: str,
    target: str,
    layout: str,
    table: str | None,
    schema: str | None,
    target_table: str | None,
    target_schema: str | None,
    user_id_key: str,
    dry_run: bool,
) -> None:
    """Move the live sessions of the database FROM into the database TO.

    Both are URLs of SQLAlchemy, with a sync driver or none, and may be the same. The table in TO
    is created if it is missing. Nobody is logged out, if the app accepts the former cookie
    meanwhile (the option `former` and a MovingStore). It can be interrupted and run again; what
    could not be moved is left where it is, and the exit code is 1.
    """
    with ExitStack() as opened:
        with _about("FROM"):
            former = _as_it_is(source, opened)
            if former is None:
                raise ConfigurationError(f"there is no file {sqlite_file(source)}")
            old = opened.enter_context(
                _LAYOUTS[layout](
                    former, check_expiration_interval=0, table_name=table, schema=schema
                )
            )
        with _about("TO"):
            there = _as_it_is(target, opened)
            new = opened.enter_context(
                SQLSessionStore(
                    target if there is None or not dry_run else there,
                    check_expiration_interval=0,
                    table_name=target_table,
                    schema=target_schema,
                    mirror_fields={"user_id": user_id_key},
                )
            )
            if new._opened.is_blocking_sqlite and not new._opened.is_file:
                raise ConfigurationError("the database is in memory, and ends with this command")
        with _about("--target-table"):
            stores = MovingStore(new, old)
        prepare: Callable[[], None] = new.sync
        if dry_run:
            prepare = new._database.check_tables if there is not None else _no_file_yet
        moved: Moved | None = None
        try:
            for moved in _import(stores, prepare, dry_run=dry_run):  # noqa: B007  the last one counts
                pass
        finally:
            if moved is not None:
                _report(moved, dry_run=dry_run)
        assert moved is not None  # the last step is yielded always
        with _about("FROM"):
            # Rows that are no records are passed over by whoever reads a page of them.
            unread = old.length() - (moved.looked_at if dry_run else moved.failed)
        if unread > 0:
            click.echo(f"{unread} could not be read, or came meanwhile", err=True)
    sys.exit(1 if moved.failed or unread > 0 else 0)


def _as_it_is(url: str, opened: ExitStack) -> str | Engine | None:
    """What a store takes to read a database and change nothing; None for a file that is missing."""
    path = sqlite_file(url)
    if path is None:
        return url
    if not os.path.exists(path):
        return None
    engine = sqlite_as_it_is(path)
    opened.callback(engine.dispose)
    return engine


def _report(moved: Moved, *, dry_run: bool) -> None:
    verb = "would be moved" if dry_run else "moved"
    click.echo(f"{moved.moved} of {moved.looked_at} live sessions {verb}")
    for reason, count in sorted(moved.reasons.items()):
        click.echo(f"{count} can not be moved: {reason}", err=True)


def _no_file_yet() -> None:
    """Nothing to look at."""


def _import(stores: MovingStore, prepare: Callable[[], None], *, dry_run: bool) -> Iterator[Moved]:
    with _about("FROM (its table: --layout, --table, --schema)"):
        total = stores.source.length()
    with _about("TO"):
        prepare()
    with (
        _about("FROM or TO, while sessions were moved"),
        Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
        ) as progress,
    ):
        task = progress.add_task("reading" if dry_run else "moving", total=total)
        for moved in move_all(stores, dry_run=dry_run):
            progress.update(task, completed=moved.looked_at)
            yield moved


@contextmanager
def _about(argument: str) -> Iterator[None]:
    """Puts before an error's message which argument it is about."""
    try:
        yield
    except WebSessionsError as error:
        raise click.ClickException(f"{argument}: {error}") from error
    except Exception as error:
        # Its text may quote a session, or a URL with its password.
        raise click.ClickException(f"{argument}: {type(error).__name__}") from error
