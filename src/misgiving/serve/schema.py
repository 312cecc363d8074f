"""The version of a store's tables, which Alembic migrates."""

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory

from misgiving.errors import DataError

VERSION = sa.table("misgiving_version", sa.column("version_num"))
FIRST, WITH_ANSWER = "0001", "0002"  # the versions of stores that do not say theirs


def prepare_tables(connection: sa.Connection, tables: sa.MetaData, *, upgrade: bool) -> bool:
    """Create the tables of an empty database, and upgrade others, within the caller's transaction.

    Args:
        connection: To the database.
        tables: As they are after the last migration.
        upgrade: Also upgrade tables of an earlier version.

    Returns:
        False if they are of an earlier version.

    Raises:
        DataError: The tables are not those of a store, or of a later version.
    """
    settings = Config(
        attributes={"connection": connection, "version_table": VERSION.name},
    )
    settings.set_main_option("script_location", "misgiving.serve:migrations")
    scripts = ScriptDirectory.from_config(settings)
    inspector = sa.inspect(connection)
    is_new = not inspector.has_table("cases")
    if not is_new and not inspector.has_table(VERSION.name):
        columns = {column["name"] for column in inspector.get_columns("cases")}
        command.stamp(settings, WITH_ANSWER if "answer" in columns else FIRST)
    version = None if is_new else connection.execute(sa.select(VERSION)).scalar()
    head = scripts.get_current_head()
    if version not in (None, *(script.revision for script in scripts.walk_revisions())):
        raise DataError(f"its version {version} is that of a newer misgiving")
    if version != head:
        if not (is_new or upgrade):
            return False
        command.upgrade(settings, "head")
    _check_columns(connection, tables)
    return True


def _check_columns(connection: sa.Connection, tables: sa.MetaData) -> None:
    inspector = sa.inspect(connection)
    for name, table in tables.tables.items():
        exists = inspector.has_table(name)
        columns = {each["name"] for each in inspector.get_columns(name)} if exists else {}
        if columns != {*table.columns.keys()}:
            raise DataError(f"its table {name} has another schema")
