"""What a principal is shown of a protected column: the value, a mask of it, NULL, or its sealed form. Pure.

The verdicts are the policy's (`policy/decide.py`); here they become part of a plan's outputs. A mask is
of the declared type: for the text types the masked text, for every other type NULL. `hash` shows the
beginning of the equality tag, which the server knows anyway; without equality search there is none, and
NULL is shown.
"""

from collections.abc import Callable
from dataclasses import replace

from proxy.policy.model import Mask, Verdict
from proxy.postgres.plan import Plan, StatementPlan
from proxy.postgres.snapshot import BPCHAR, TEXT, VARCHAR, ProtectedColumn

Decide = Callable[[ProtectedColumn], tuple[Verdict, Mask | None]]
_TEXTS = frozenset({TEXT, VARCHAR, BPCHAR})
_HASH_DIGITS = 16


def shown_to(plan: Plan, decide: Decide) -> Plan:
    """The plan with the outputs that these verdicts leave. A denied column stays: its keys are refused."""
    if not any((s.outputs and any(s.outputs)) or s.copy or s.cursor for s in plan.statements):
        return plan
    return replace(plan, statements=tuple(_statement(s, decide) for s in plan.statements))


def _statement(statement: StatementPlan, decide: Decide) -> StatementPlan:
    copied = statement.copy
    if copied is not None and not copied.inwards:
        columns = tuple((n, None if c is None else _column(c, decide)) for n, c in copied.columns)
        statement = replace(statement, copy=replace(copied, columns=columns))
    cursor = statement.cursor
    if cursor is not None and cursor.outputs:
        shown = tuple(None if c is None else _column(c, decide) for c in cursor.outputs)
        statement = replace(statement, cursor=replace(cursor, outputs=shown))
    if statement.outputs is None:
        return statement
    hidden = len(statement.check.columns) if statement.check is not None else 0
    seen = len(statement.outputs) - hidden  # a test on opened rows needs the right to open them
    outputs = tuple(
        column if column is None or index >= seen else _column(column, decide)
        for index, column in enumerate(statement.outputs)
    )
    return replace(statement, outputs=outputs)


def _column(column: ProtectedColumn, decide: Decide) -> ProtectedColumn | None:
    verdict, mask = decide(column)
    if verdict is Verdict.CIPHERTEXT:
        return None  # passed through as it is stored
    if verdict is Verdict.MASK and mask is not None and _has_mask(column, mask):
        return replace(column, shown=mask)
    if verdict in (Verdict.NULL, Verdict.MASK):
        return replace(column, shown=Verdict.NULL)
    return column


def _has_mask(column: ProtectedColumn, mask: Mask) -> bool:
    if column.type.oid not in _TEXTS or column.type.labels:
        return False
    return mask.pattern != "hash" or column.equality


def needs_no_key(column: ProtectedColumn) -> bool:
    """Nothing of the value is shown."""
    shown = column.shown
    return shown is Verdict.NULL or isinstance(shown, Mask) and shown.pattern == "fixed"


def without_mask(column: ProtectedColumn) -> ProtectedColumn:
    return column if column.shown is None else replace(column, shown=None)


def masked(mask: Mask, value: bytes, column: ProtectedColumn, tag: bytes = b"") -> bytes:
    """The mask of a text, within the declared length. `tag`: of the value, for "hash"."""
    text = value.decode("utf-8", "replace")
    if mask.pattern == "fixed":
        shown = mask.text
    elif mask.pattern == "hash":
        shown = tag.hex()[:_HASH_DIGITS]
    elif mask.pattern == "last4":
        text = text.rstrip(" ") if column.type.oid == BPCHAR else text
        hidden = len(text) - 4 if len(text) > 4 else len(text)
        shown = "*" * hidden + text[hidden:]
    else:
        name, at, host = text.rpartition("@")
        shown = f"{name[:1]}***@{host}" if at and name else "***"
    limit = column.type.typmod - 4
    if limit >= 0:
        shown = shown[:limit]
        if column.type.oid == BPCHAR:
            shown = shown.ljust(limit)
    return shown.encode()
