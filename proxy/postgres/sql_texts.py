"""Functions that run SQL out of a text, or read a table by its name: what they do is not seen here. Pure.

One that runs a query is let through where the query is one constant that can be looked through: it names
nothing protected, calls no other such function and changes nothing of the session. The others are refused.
"""

from proxy.native import Watch
from proxy.postgres.grammar import Node, fields, kind, strings
from proxy.postgres.names import Names
from proxy.postgres.plan import Refusal

_XML = ("_to_xml", "_to_xmlschema", "_to_xml_and_xmlschema")
# PostgreSQL documentation: "Mapping Tables to XML", "Gathering Document Statistics" (ts_stat), "Query
# Rewriting" (ts_rewrite); modules dblink, tablefunc, xml2
_RUN = frozenset(
    {
        *("query" + form for form in _XML),
        "ts_stat", "ts_rewrite", "xpath_table",
        "dblink", "dblink_exec", "dblink_open", "dblink_send_query",
        "crosstab", "crosstab2", "crosstab3", "crosstab4",
    }
)  # fmt: skip
_READ = frozenset(
    {
        *(what + form for what in ("table", "schema", "database", "cursor") for form in _XML),
        "connectby",
        "dblink_build_sql_insert", "dblink_build_sql_update", "dblink_build_sql_delete",
    }
)  # fmt: skip
WORDS = (*sorted(_RUN), *sorted(_READ))
WATCH = Watch([word.encode() for word in WORDS])
_QUERY_IN_TS_REWRITE = 2  # arguments of the form that runs one


def looked_through(node: Node, names: Names, effects: tuple[str, ...]) -> None:
    """Nothing of that kind is in this statement but what can be seen through. `effects`: words of
    statements that change the session. Refusal."""
    stack = [node]
    while stack:
        message = stack.pop()
        if message.DESCRIPTOR.name == "FuncCall":
            _call(message, names, effects)
        stack += fields(message)


def _call(call: Node, names: Names, effects: tuple[str, ...]) -> None:
    name = strings(call.funcname)[-1]
    position = max(call.location, 0) + 1
    if name in _READ:
        raise Refusal(
            "0A000",
            f"{name}() is not supported in a database with protected columns",
            "Read the table by a SELECT and make the document in the application.",
            position,
        )
    if name not in _RUN or (name == "ts_rewrite" and len(call.args) != _QUERY_IN_TS_REWRITE):
        return
    seen = names.ctx.standard_conforming_strings and not call.func_variadic
    words = {*names.watched(), *(table for _, table in names.snapshot.moving), *effects, *WORDS}
    watch = Watch([word.lower().encode() for word in words])
    for argument in call.args:
        text = _constant(argument)
        if not seen or text is None or watch.hit(text.encode()):
            raise Refusal(
                "0A000",
                f"{name}() of a text that is computed, or that names something protected",
                "Send the query as a statement of its own.",
                position,
            )


def _constant(node: Node) -> str | None:
    """The text of a constant, be it cast or named; None for anything else."""
    which = kind(node)
    if which == "type_cast":
        return _constant(node.type_cast.arg)
    if which == "named_arg_expr":
        return _constant(node.named_arg_expr.arg)
    if which != "a_const":
        return None
    return str(node.a_const.sval.sval) if node.a_const.WhichOneof("val") == "sval" else ""
