"""The version of a store's tables, which Alembic migrates."""

import sqlalchemy as sa

from misgiving.errors import DataError

VERSION = sa.Table(
    "misgiving_version", sa.MetaData(), sa.Column("version_num", sa.String(32), primary_key=True)
)
FIRST, WITH_ANSWER = "0001", "0002"  # the versions of stores that do not say theirs
CURRENT = "0012"  # of the tables in the code, to which the last migration leads


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
    if not sa.inspect(connection).has_table(VERSION.name):
        _set_version(connection, tables)
    version = connection.execute(sa.select(VERSION)).scalar_one()
    if version > CURRENT:
        raise DataError(f"its version {version} is that of a newer misgiving")
    if version < CURRENT:
        if not upgrade:
            return False
        migrate(connection)
    _check_columns(connection, tables)
    return True


def _set_version(connection: sa.Connection, tables: sa.MetaData) -> None:
    """Create the tables, or tell the version of those that there are."""
    inspector, version = sa.inspect(connection), CURRENT
    if inspector.has_table("cases"):
        columns = {column["name"] for column in inspector.get_columns("cases")}
        version = WITH_ANSWER if "answer" in columns else FIRST
    VERSION.create(connection)
    connection.execute(sa.insert(VERSION).values(version_num=version))
    if version == CURRENT:
        tables.create_all(connection)


def migrate(connection: sa.Connection) -> None:
    """Run the migrations that come after the version of the tables."""
    from alembic import command  # 13 MB, which a service does not need
    from alembic.config import Config

    settings = Config(attributes={"connection": connection, "version_table": VERSION.name})
    settings.set_main_option("script_location", "misgiving.serve:migrations")
    command.upgrade(settings, "head")


def _check_columns(connection: sa.Connection, tables: sa.MetaData) -> None:
    inspector = sa.inspect(connection)
    for name, table in tables.tables.items():
        exists = inspector.has_table(name)
        columns = {each["name"] for each in inspector.get_columns(name)} if exists else {}
        if columns != {*table.columns.keys()}:
            raise DataError(f"its table {name} has another schema")
