"""What Alembic runs for each migration; the caller hands in a connection inside a transaction."""

from alembic import context

from nas.store.tables import VERSION_TABLE, metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    version_table=VERSION_TABLE,
)
context.run_migrations()
