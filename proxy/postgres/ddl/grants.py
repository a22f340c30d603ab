"""GRANT and REVOKE on columns: who may read a protected column may read its tags. Pure."""

from proxy.postgres.ddl.context import Ddl
from proxy.postgres.ddl.spans import bracket_from, elements
from proxy.postgres.grammar import Node, kind, strings
from proxy.postgres.indexing import index_columns
from proxy.postgres.names import quoted
from proxy.postgres.plan import Refusal

_READ = ("select", "references", "")  # "": ALL


def grant(ddl: Ddl, statement: Node) -> None:
    """GRANT or REVOKE."""
    tables = [n.range_var for n in statement.objects if kind(n) == "range_var"]
    privileges = [n.access_priv for n in statement.privileges if n.access_priv.cols]
    if not privileges or not any(ddl.sealed(t) for t in tables):
        return
    if len(tables) > 1:
        raise Refusal(
            "0A000", "column privileges on several tables, one of them protected", "One by one."
        )
    sealed = ddl.sealed(tables[0])
    index = ddl.text.at(tables[0].location)
    while ddl.text.word(index - 1) not in (";", ""):
        index -= 1
    for privilege in privileges:
        opening = bracket_from(ddl.text, index)
        spans = elements(ddl.text, opening)
        index = spans[-1][1] + 2
        for (_, last), name in zip(spans, strings(privilege.cols), strict=True):
            ddl.not_hidden(name, sealed)
            column = sealed.get(name)
            if column is None or privilege.priv_name.lower() not in _READ:
                continue
            ddl.edits.columns.add(column)
            end = ddl.text.ends[last]
            beside = b"".join(b", " + quoted(i.name) for i in index_columns(column))
            if beside:
                ddl.edits.replace(end, end, beside)
