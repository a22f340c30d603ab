"""How is an output column named that has no alias (PostgreSQL, parse_target.c, FigureColname)? Pure.

An edit must not change the name: where it would, the old one is written behind it.
"""

from typing import TYPE_CHECKING

from proxy.postgres.grammar import Node, kind, strings
from proxy.postgres.names import quoted

if TYPE_CHECKING:
    from proxy.postgres.query import Query

_FIXED = {
    "coalesce_expr": "coalesce", "row_expr": "row", "a_array_expr": "array",
    "grouping_func": "grouping", "xml_serialize": "xmlserialize",
}  # fmt: skip


def implied_name(node: Node) -> str:
    """The name that the server gives the column."""
    return _figured(node)[0] or "?column?"


def _figured(node: Node) -> tuple[str, int]:
    """(name, how good it is: 0 none, 1 of a type or CASE, 2 of a column or function)."""
    which = kind(node)
    if which == "column_ref":
        return strings(node.column_ref.fields)[-1], 2
    if which == "a_indirection":
        named = [n for n in node.a_indirection.indirection if kind(n) == "string"]
        return (named[-1].string.sval, 2) if named else _figured(node.a_indirection.arg)
    if which == "func_call":
        return strings(node.func_call.funcname)[-1], 2
    if which == "a_expr" and node.a_expr.kind == 6:
        return "nullif", 2
    if which == "type_cast":
        inside, strength = _figured(node.type_cast.arg)
        if strength > 1:
            return inside, strength
        return strings(node.type_cast.type_name.names)[-1], 1
    if which == "collate_clause":
        return _figured(node.collate_clause.arg)
    if which == "case_expr":
        inside, strength = _figured(node.case_expr.defresult)
        return (inside, strength) if strength > 1 else ("case", 1)
    if which == "min_max_expr":
        return ("greatest" if node.min_max_expr.op == 1 else "least"), 2
    if which == "sub_link":
        return _sub_link(node.sub_link)
    if which in _FIXED:
        return _FIXED[which], 2
    return "", 0


def _sub_link(link: Node) -> tuple[str, int]:
    if link.sub_link_type == 1:
        return "exists", 2
    if link.sub_link_type == 7:
        return "array", 2
    if link.sub_link_type != 5:
        return "", 0
    statement = link.subselect.select_stmt
    while statement.op > 1:
        statement = statement.larg
    if statement.values_lists:
        return "column1", 2
    if not statement.target_list:
        return "", 0
    target = statement.target_list[0].res_target
    return (target.name, 2) if target.name else _figured(target.val)


def keep_name(query: "Query", node: Node) -> None:
    """Writes the name behind an expression that was edited, where the edit may have changed it."""
    end = _end(query, node)
    if end and (kind(node) != "func_call" or _changes(node)):
        query.edits.replace(end, end, b" AS " + quoted(implied_name(node)))


def _changes(call: Node) -> bool:
    """min and max are written in another way."""
    return strings(call.func_call.funcname)[-1] in ("min", "max")


def _end(query: "Query", node: Node) -> int:
    """Where the expression ends; 0 where its name does not change by edits inside it."""
    text = query.text
    leaf = query.operands.leaf(node)
    if leaf is not None:
        return 0 if kind(node) == "param_ref" else leaf.end
    which = kind(node)
    if which == "func_call":
        index = text.at(node.func_call.location)
        while text.word(index) != "(":
            index += 1
        close = text.matching(index, 1)
        if node.func_call.agg_filter.ByteSize():
            close = text.matching(close + 2, 1)
        return 0 if node.func_call.HasField("over") else text.ends[close]
    if which == "column_ref":
        return query.expressions.span(node.column_ref)[1]
    if which == "a_expr" and node.a_expr.kind == 6:
        return text.ends[text.matching(text.at(node.a_expr.location) + 1, 1)]
    if which == "case_expr":
        depth, index = 1, text.at(node.case_expr.location) + 1
        while depth and index < len(text.starts):
            depth += {"case": 1, "end": -1}.get(text.word(index), 0)
            index += 1
        return text.ends[index - 1]
    if which == "type_cast":
        inside = _end(query, node.type_cast.arg)
        return query.operands.cast_span(node.type_cast, 0, inside)[1] if inside else 0
    return 0
