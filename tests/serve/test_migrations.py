"""Stores of older versions: their tables become those of this one, and nothing is lost."""

from store_cases import case, review

from misgiving.serve.database import METADATA, MIGRATIONS, engine_for, migrate
from misgiving.serve.store import CaseQuery, Store


def columns(connection, table):
    cursor = connection.exec_driver_sql(f"SELECT * FROM {table} WHERE 1 = 0")
    return sorted(cursor.keys())


def test_migrations_make_the_tables_that_queries_know(place):
    engine = engine_for(place)
    with engine.begin() as connection:
        migrate(connection, place)
        for name, table in METADATA.tables.items():
            assert columns(connection, name) == sorted(table.columns.keys())
    engine.dispose()


def test_migrations_are_applied_in_order_and_only_once(place):
    steps = (
        ("CREATE TABLE a (x TEXT)",),
        ("ALTER TABLE a ADD COLUMN y TEXT", "INSERT INTO a VALUES ('x', 'y')"),
    )
    engine = engine_for(place)
    for known in (1, 2, 2):
        with engine.begin() as connection:
            migrate(connection, place, steps[:known])
    with engine.begin() as connection:
        assert connection.exec_driver_sql("SELECT x, y FROM a").all() == [("x", "y")]
        versions = connection.exec_driver_sql("SELECT version FROM misgiving_schema").scalars()
        assert sorted(versions) == [1, 2]
    engine.dispose()


def migrated_from(place, schemas, *rows):
    """Open a store of today, made of one with only the first schemas and with these rows."""
    engine = engine_for(place)
    with engine.begin() as connection:
        migrate(connection, place, MIGRATIONS[:schemas])
        for row in rows:
            connection.exec_driver_sql(row)
    engine.dispose()
    return Store.open(place)


def test_cases_of_the_first_schema_survive_all_migrations(place):
    migrated = migrated_from(
        place,
        1,
        "INSERT INTO cases VALUES ('00', '2026-01-01T00:00:00Z', 'n', 'MEL', 0.5, '{}', 0.5, "
        "0.5, 0.5, 0.5, 'defer', 'r', 0.5, 0.5, 's', 'm', NULL, false, false, 0.5)",
    )
    assert migrated.review("00", review("looked at"))
    assert migrated.case("00").review.note == "looked at"
    migrated.add([case(1, policy_fingerprint="p")])
    assert [one.number for one in migrated.decided("p")] == [2]
    migrated.close()


WITH_FOREIGN = 4  # schemas that called out-of-distribution images foreign


def test_decisions_of_older_stores_are_renamed(place):
    migrated = migrated_from(
        place,
        WITH_FOREIGN,
        "INSERT INTO cases (id, received, name, predicted_class, probability, probabilities, "
        "error_probability, foreign_p_value, decision, reason, score, foreign_score, sha256, "
        "model_fingerprint, image_kept, reviewed, doubt) VALUES "
        "('01', '2026-01-01T00:00:00Z', 'a', 'MEL', 0.6, '{\"MEL\": 0.6}', 0.4, 0.01, "
        "'foreign', 'r', 0.25, -7.5, 's', 'm', false, false, 0.4), "
        "('02', '2026-01-02T00:00:00Z', 'b', 'NV', 0.9, '{\"NV\": 0.9}', 0.1, 0.5, "
        "'accept', 'r', 0.75, -1.5, 's', 'm', false, false, 0.1)",
    )
    found = migrated.page(CaseQuery(decisions=("ood",))).cases
    assert [(one.id, one.ood_p_value, one.ood_score) for one in found] == [("01", 0.01, -7.5)]
    assert found[0].acceptance_score == 0.25
    assert migrated.case("02").decision == "accept"
    assert migrated.counts() == {"accept": 1, "defer": 0, "ood": 1}
    migrated.close()


WITH_CLASS = 6  # schemas in which every review named a class


def test_reviews_of_older_stores_are_kept_beside_those_that_name_no_class(place):
    migrated = migrated_from(
        place,
        WITH_CLASS,
        "INSERT INTO cases (id, received, name, predicted_class, probabilities, decision, "
        "reason, sha256, model_fingerprint, image_kept, reviewed, doubt) VALUES ('01', "
        "'2026-01-01T00:00:00Z', 'a', 'MEL', '{}', 'defer', 'r', 's', 'm', false, true, 0.4)",
        "INSERT INTO reviews (case_id, verdict, final_class, note, reviewer, reviewed_at) "
        "VALUES ('01', 'override', 'NV', 'old', 'A', '2026-01-01T00:00:00Z')",
    )
    migrated.review("01", review("new", verdict="unsure", final_class=None))
    found = [(one.verdict, one.final_class, one.note) for one in migrated.reviews("01")]
    assert found == [("override", "NV", "old"), ("unsure", None, "new")]
    migrated.close()
