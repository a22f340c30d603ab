"""Which uses of a sealed column are possible, and what is said of those that are not: one table."""

from proxy.postgres.plan import Refusal
from proxy.postgres.snapshot import ProtectedColumn

RULES: dict[str, tuple[str, str]] = {
    # operation: (is it handled, what to do instead or how it is done)
    "=": ("yes", "equality tag"),
    "<>": ("yes", "equality tag"),
    "IN": ("yes", "equality tags, element by element"),
    "ANY": ("yes", "array of equality tags"),
    "ALL": ("yes", "array of equality tags"),
    "IS DISTINCT FROM": ("yes", "equality tag"),
    "IS NULL": ("yes", "unchanged: NULL stays NULL"),
    "count": ("yes", "unchanged; DISTINCT counts tags"),
    "GROUP BY": ("yes", "groups by the tag"),
    "DISTINCT": ("yes", "DISTINCT ON the tag, of columns; else select the column itself."),
    "JOIN": ("yes", "compares tags of columns of one domain"),
    "lower(c) =": ("yes", "second tag, with `transform`"),
    "min, max": ("yes", "order tokens, with `order`"),
    "<": ("no", "Set `order: true` or `range` for the column, or filter in the application."),
    "ORDER BY": ("no", "Set `order: true` for the column, or sort in the application."),
    "sorted": (
        "no",
        "Name the column itself in ORDER BY, not an expression; beside DISTINCT one of its outputs.",
    ),
    "window": ("no", "Use min and max as plain aggregates, or ORDER BY with LIMIT 1."),
    "transform": (
        "no",
        "With `transform`, compare f(column) by =, <>, IN or IS DISTINCT FROM with f(value).",
    ),
    "LIKE, ILIKE": ("yes", "n-grams and prefixes, with `match`; opened rows are tested"),
    "BETWEEN": ("yes", "order tokens, or buckets with `range`; opened rows are tested"),
    "recheck": (
        "no",
        "Buckets and n-grams give a superset: search in a plain SELECT and count or cut there.",
    ),
    "LIKE": ("no", "Set `match` for the column, or compare whole values with =."),
    "two roles": (
        "no",
        "The server would see the value: send it as a parameter of its own where that is meant.",
    ),
    "expression": ("no", "Read the column itself and compute in the application."),
    "function": (
        "no",
        "Read the column itself and compute in the application; `transform` serves lower and upper in "
        "comparisons, `match` LIKE.",
    ),
    "grouped expression": ("no", "Group by the column itself."),
    "grouping sets": ("no", "Group by the column in queries of their own."),
    "cast": ("no", "Read the column itself and convert in the application."),
    "whole row": ("no", "Name the columns instead of the row."),
    "USING": ("yes", "becomes ON, comparing tags; else write JOIN … ON with an equality instead."),
    "set operation": ("yes", "by tags; else remove duplicates in the application."),
    "write": ("no", "Write a parameter, a literal, NULL, or a column of the same domain."),
    "domain": (
        "no",
        "Give both columns one `domain` in the configuration to compare or copy them.",
    ),
    "no equality": (
        "no",
        "Set `equality: true` for the column; the cloud then sees which rows hold equal values.",
    ),
    "truncating cast": (
        "no",
        "Cast to the type without a length; the column's own length is checked.",
    ),
    "statement": ("no", "Use SELECT, INSERT, UPDATE, DELETE or MERGE on the protected table."),
    "view": ("no", "Query the protected table itself."),
    "both": (
        "no",
        "Send the value twice: once for the protected column, once for the other use.",
    ),
    "qualify": ("no", "Write the table's name or alias before the column."),
    "constant": ("no", "Compare with the constant in the query over the view instead."),
    "copy": (
        "no",
        "Create the table with its columns declared in the configuration, then INSERT … SELECT.",
    ),
    "rotation": (
        "no",
        "Seal the column's values anew under the active key (`sealgate postgres reseal`).",
    ),
    "recursive": ("no", "Recursive queries over protected columns are not handled."),
    "DEFAULT": ("no", "Send the value; the server cannot compute a sealed one."),
    "type": ("no", "Declare the type that the configuration names, or change the configuration."),
    "constraint": (
        "no",
        "Only NOT NULL, UNIQUE, PRIMARY KEY, REFERENCES (NO ACTION, RESTRICT, ON DELETE CASCADE) and"
        " IS [NOT] NULL in a CHECK hold on sealed values; check the rest in the application.",
    ),
    "index": (
        "no",
        "Only an index on the column itself is possible, where its WHERE asks of protected columns"
        " IS NULL at most.",
    ),
    "layout": (
        "no",
        "Use `layout: generated`, or write CREATE UNIQUE INDEX: keys need a column of their own.",
    ),
    "equal defaults": (
        "no",
        "Rows that take a default hold the very same bytes: put `equal-defaults` into the column's"
        " `acknowledge`, or drop the DEFAULT and send the value.",
    ),
    "collation": ("no", 'Leave COLLATE out, or use "C": sealed values are compared byte by byte.'),
    "reference": ("no", "Name the columns: REFERENCES table (column)."),
    "partition": ("no", "Partition by a column that is not protected."),
    "like": ("no", "Write the columns out, and list the table in the configuration."),
    "rename": ("no", "List the new name in the configuration with the same domain, then rename."),
    "alter": ("no", "Migrate the column: create a new one and copy through the proxy."),
}


def refuse(rule: str, column: ProtectedColumn | None, what: str, position: int = 0) -> Refusal:
    """The refusal for a use of a column (or of a statement): 0A000, with what to do instead."""
    if column is not None:
        message = f'{what} on protected column "{column.table}.{column.column}" is not supported'
    else:
        message = what
    return Refusal("0A000", message, RULES[rule][1], position)
