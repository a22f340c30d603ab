"""Which Binds may be done natively from now on (native/fastbind.pyx). Pure.

A Bind that Python has just done in full shows how the next ones of the same statement go. Python sees
one Bind a second all the same, so that policy, key limits and metrics are never older than that.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from proxy.native import FAST_INT, FAST_PASS, FAST_RAW, FAST_TEXT, ColumnCodec, FastBind
from proxy.postgres.needs import Use as KeyUse
from proxy.postgres.plan import ParamTarget, Use
from proxy.postgres.snapshot import BYTEA, INT2, INT4, INT8, TEXT, UNKNOWN, UUID, VARCHAR
from proxy.postgres.statements import Statement
from proxy.postgres.types.base import TextContext
from proxy.postgres.values import action_of, result_rows

if TYPE_CHECKING:
    from proxy.native import RowPlan

SECONDS = 1.0
COUNT = 10_000  # Binds, whichever comes first
_WIDTH = {INT2: 2, INT4: 4, INT8: 8, UUID: 16, BYTEA: 0, TEXT: 0, VARCHAR: 0}
_KIND = {INT2: FAST_INT, INT4: FAST_INT, INT8: FAST_INT, UUID: FAST_RAW, BYTEA: FAST_RAW}
_KIND |= {TEXT: FAST_TEXT, VARCHAR: FAST_TEXT}
_TEXT = (0, TEXT, VARCHAR, UNKNOWN)

_Param = tuple[int, ColumnCodec | None, bool, int, int]


def fast_bind(
    statement: Statement, codecs: Mapping[KeyUse, ColumnCodec], ctx: TextContext
) -> FastBind | None:
    """How further Binds go without Python; None where a value needs more than is done there."""
    plan = statement.plan
    if plan.check is not None:
        return None  # whether a row stays depends on the operands
    params: list[_Param] = []
    for target in plan.params:
        if target.column in statement.several:
            return None
        param = _param(target, statement.oids, codecs)
        if param is None:
            return None
        params.append(param)
    outputs = plan.outputs if plan.outputs is not None and any(plan.outputs) else None
    text: RowPlan | None = None
    binary: RowPlan | None = None
    if outputs is not None:
        text = result_rows(outputs, (0,) * len(outputs), codecs, ctx, False)
        binary = result_rows(outputs, (1,) * len(outputs), codecs, ctx, False)
    sealed = [column is not None for column in outputs or ()]
    n_client = len(plan.client_params)
    return FastBind(statement, params, n_client, sealed, text, binary, SECONDS, COUNT)


def _param(
    target: ParamTarget, oids: tuple[int, ...], codecs: Mapping[KeyUse, ColumnCodec]
) -> _Param | None:
    if target.use is Use.PASS:
        return target.client_index, None, False, FAST_PASS, 0
    column = target.column
    if (
        target.how is not None
        or target.use not in (Use.STORE, Use.TAG, Use.SEARCH)
        or column is None
    ):
        return None
    store = target.use is Use.STORE
    if store and column.search.match is not None:
        return None  # a text may have too many tokens, which Python says
    oid = column.type.oid
    kind = _KIND.get(oid)
    if kind is None or column.type.labels or (store and column.type.typmod != -1):
        return None
    declared = oids[target.client_index] if target.client_index < len(oids) else 0
    if declared not in (_TEXT if kind == FAST_TEXT else (0, oid)):
        return None
    codec = codecs[column, action_of(target.use)]
    if not isinstance(codec, ColumnCodec):
        return None
    return target.client_index, codec, store, kind, _WIDTH[oid]
