"""Where in the text does an item of FROM, or an operand of UNION, begin and end? Pure.

The tree has start positions of some nodes only; the rest follows from brackets and reserved words.
What does not follow with certainty is a SyntaxProblem, which the planner makes a refusal. All results
are token indexes, ends exclusive.
"""

from proxy.postgres.grammar import Node, SyntaxProblem, Text, fields, kind

_SET_OPERATORS = ("union", "intersect", "except")
_TAIL = (*_SET_OPERATORS, "order", "limit", "offset", "fetch", "for")
_QUERY_STARTS = ("select", "with", "values", "table", "(")


def extent(message: Node) -> tuple[int, int]:
    """Least and greatest byte position of a node below a message (0, 0: none known)."""
    low, high = 0, 0
    stack = [message]
    while stack:
        node = stack.pop()
        at = getattr(node, "location", 0) if "location" in node.DESCRIPTOR.fields_by_name else 0
        if at > 0:
            low = min(low or at, at)
            high = max(high, at)
        stack += fields(node)
    return low, high


def _label(text: Text, index: int) -> bool:
    """Whether a reserved word is but a name here: behind AS or a dot."""
    return text.word(index - 1) in ("as", ".")


def _unmatched(text: Text, index: int, step: int) -> int:
    """Index of the nearest bracket around token `index` that opens (-1) or closes (1)."""
    opening, closing = (
        ("(", "[") if step > 0 else (")", "]"),
        (")", "]") if step > 0 else ("(", "["),
    )
    index += step
    while 0 <= index < len(text.starts):
        if text.word(index) in opening:
            index = text.matching(index, step)
        elif text.word(index) in closing:
            return index
        index += step
    raise SyntaxProblem("no bracket around", 0)


# -- SELECT and its set operations -----------------------------------------------------------------


def leaf_span(text: Text, statement: Node) -> tuple[int, int]:
    """A SELECT or VALUES from its first word to before its ORDER BY."""
    bare = type(statement)()
    bare.CopyFrom(statement)
    bare.ClearField("with_clause")
    low, _ = extent(bare)
    start = text.at(low) if low else -1
    first = "values" if statement.values_lists else "select"
    while start >= 0 and text.word(start) not in (first, "table"):
        word = text.word(start)
        start = text.matching(start, -1) - 1 if word in (")", "]") else start - 1
    if start < 0:
        raise SyntaxProblem("the query has no beginning", 0)
    return start, _core_end(text, start)


def _core_end(text: Text, index: int) -> int:
    """Before ORDER BY, LIMIT and the like, a set operator, or the bracket that ends it."""
    while index < len(text.starts):
        word = text.word(index)
        if word in (")", "]", ";") or (word in _TAIL and not _label(text, index)):
            return index
        index = text.matching(index, 1) + 1 if word in ("(", "[") else index + 1
    return index


def _own_tail(statement: Node) -> bool:
    limits = (statement.limit_count, statement.limit_offset, statement.with_clause)
    return bool(statement.sort_clause or statement.locking_clause) or any(
        n.ByteSize() for n in limits
    )


def _core(text: Text, statement: Node) -> tuple[int, int]:
    if statement.op <= 1:
        return leaf_span(text, statement)
    (start, _), (_, end) = operands(text, statement)
    return start, end


def operands(text: Text, statement: Node) -> tuple[tuple[int, int], tuple[int, int]]:
    """The two sides of a set operation, with the brackets that are theirs."""
    left = _operand(text, statement.larg)
    while text.word(left[1]) not in _SET_OPERATORS:
        left = _bracketed(text, left)
    right = _operand(text, statement.rarg)
    while text.word(right[0] - 1) not in (*_SET_OPERATORS, "all", "distinct"):
        right = _bracketed(text, right)
    return left, right


def _operand(text: Text, statement: Node) -> tuple[int, int]:
    span = _core(text, statement)
    if _own_tail(statement):  # then it stands in brackets of its own
        return _unmatched(text, span[0], -1), _unmatched(text, span[1] - 1, 1) + 1
    return span


def _bracketed(text: Text, span: tuple[int, int]) -> tuple[int, int]:
    start, end = span
    if text.word(start - 1) != "(" or text.word(end) != ")":
        raise SyntaxProblem("an operand of a set operation is not found", 0)
    return start - 1, end + 1


# -- FROM ------------------------------------------------------------------------------------------


def _alias_end(text: Text, item: Node, index: int) -> int:
    if not item.HasField("alias"):
        return index
    if text.word(index) == "as":
        index += 1
    index += 1
    if item.alias.colnames:
        index = text.matching(index, 1) + 1
    return index


def table_end(text: Text, item: Node) -> int:
    """Behind a table's name and alias."""
    parts = 1 + bool(item.schemaname) + bool(item.catalogname)
    index = text.at(item.location) + 2 * (parts - 1) + 1
    if text.word(index) == "*":
        index += 1
    return _alias_end(text, item, index)


def item_end(text: Text, node: Node) -> int:
    """Behind a table or sub-select in FROM with its alias."""
    if kind(node) == "range_var":
        if not node.range_var.inh and text.word(text.at(node.range_var.location) - 1) == "(":
            raise SyntaxProblem("ONLY (…)", 0)
        return table_end(text, node.range_var)
    if kind(node) != "range_subselect":
        raise SyntaxProblem("this item of FROM", 0)
    item = node.range_subselect
    low, _ = extent(item.subquery)
    index = text.at(low)
    while low:
        index = _unmatched(text, index, -1)
        close = text.matching(index, 1)
        alias = close + 1 + (text.word(close + 1) == "as")
        named = not item.HasField("alias") or names_it(text, alias, item.alias.aliasname)
        before = text.word(index - 1) in ("join", "lateral", "from", ",", "(")
        if named and before and text.word(index + 1) in _QUERY_STARTS:
            return _alias_end(text, item, close + 1)
    raise SyntaxProblem("a sub-select in FROM", 0)


def names_it(text: Text, index: int, name: str) -> bool:
    """Whether the token is this identifier."""
    if not 0 <= index < len(text.starts):
        return False
    raw = text.sql[text.starts[index] : text.ends[index]].decode()
    if raw.startswith('"'):
        return raw[1:-1].replace('""', '"') == name
    return raw.lower() == name


def join_word(text: Text, right: Node) -> int:
    """Index of NATURAL before the right side of a natural join that is a table or sub-select."""
    low, _ = extent(right)
    index = text.at(low)
    if kind(right) == "range_subselect":
        end = item_end(text, right)
        back = end - 1
        while text.word(back) != ")":
            back -= 1
        index = text.matching(back, -1)
    if text.word(index - 1) == "lateral":
        index -= 1
    if text.word(index - 1) == "only":
        index -= 1
    while text.word(index) != "natural" and index > 0:
        index -= 1
        if text.word(index) not in ("join", "inner", "left", "right", "full", "outer", "natural"):
            break
    if text.word(index) != "natural":
        raise SyntaxProblem("NATURAL is not found", 0)
    return index
