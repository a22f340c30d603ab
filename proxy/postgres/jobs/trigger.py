"""The trigger that belongs to a migrating column, as SQL. Pure.

It runs after all other BEFORE triggers and does two things for each row that is written: where the value
that clients use has changed, in any bit, the other form is taken away; and the token columns that the server
does not generate itself are computed. (A generated column could only be added by rewriting the table under a
lock.) Its WHEN is always true: with it the trigger depends on the column, which then cannot be dropped alone.
"""

from proxy.postgres.indexing import index_columns, quoted
from proxy.postgres.jobs.standing import OURS, Standing, name


def trigger(at: Standing, *, sealed: bool, other: str | None) -> list[str]:
    """Statements that put it there for this form, and drop the one for another. `other`: None when there is
    no other form any more; then it stays only where it computes tokens."""
    c = name(at.current)
    called = name(f"zzz_{OURS}{at.current}")
    function = f"{name(at.column.schema)}.{name(f'{OURS}{at.oid}_{at.current}')}"
    done = [
        f"DROP TRIGGER IF EXISTS {called} ON {at.table}",
        f"DROP FUNCTION IF EXISTS {function}()",
    ]
    body = []
    if other is not None:
        body.append(
            f"IF TG_OP = 'INSERT' THEN NEW.{name(other)} := NULL;"
            f" ELSIF ROW(NEW.{c})::record OPERATOR(pg_catalog.*<>) ROW(OLD.{c})::record"
            f" THEN NEW.{name(other)} := NULL; END IF;"
        )
    holder = at.current if sealed else other
    if holder is not None:
        for tokens in index_columns(at.column):
            if tokens.name in at.loose:
                made = tokens.expression(b"NEW." + quoted(holder)).decode()
                body.append(f"NEW.{name(tokens.name)} := {made};")
    if not body:
        return done
    text = " ".join(body)
    done.append(
        f"CREATE FUNCTION {function}() RETURNS trigger LANGUAGE plpgsql"
        f" SET search_path = pg_catalog, pg_temp AS $sealgate$ BEGIN {text} RETURN NEW; END $sealgate$"
    )
    done.append(
        f"CREATE TRIGGER {called} BEFORE INSERT OR UPDATE ON {at.table} FOR EACH ROW"
        f" WHEN (NEW.{c} IS NULL OR NEW.{c} IS NOT NULL) EXECUTE FUNCTION {function}()"
    )
    return done
