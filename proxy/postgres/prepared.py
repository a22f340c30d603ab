"""Prepared statements of SQL: PREPARE, EXECUTE, DEALLOCATE over protected columns. Pure.

They share their names with those of the protocol. PREPARE is planned as if its query came by Parse, and
kept as such; EXECUTE binds its arguments as Bind would: constants for protected parameters become sealed
values or tags in the text, everything else stays as it is written.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from proxy.postgres.plan import Named, Plan, Refusal, StatementPlan, Use
from proxy.postgres.snapshot import BYTEA, BYTEA_ARRAY, TEXT_ARRAY, ProtectedColumn
from proxy.postgres.sqlstate import CONFIGURATION_LIMIT_EXCEEDED
from proxy.postgres.statements import ANY_NAME, Change, PlainNames, Statement
from proxy.postgres.token_lists import LISTS
from proxy.postgres.types.array import binary_array_elements
from proxy.postgres.types.base import DataError
from proxy.postgres.values import needed_for_bind, needed_for_text, server_parameters, several_keys

if TYPE_CHECKING:
    from collections.abc import Callable

    from proxy.postgres.session import Session

    PlanQuery = Callable[[bytes, tuple[int, ...]], Plan]

_TYPES = {BYTEA: b"bytea", BYTEA_ARRAY: b"bytea[]", TEXT_ARRAY: b"text[]"}
_HINT = "Prepare and bind it by the extended query protocol, or use the simple one for both."


_PREPARES = re.compile(
    rb'\bprepare\b(?:\s+(?:"((?:[^"]|"")+)"|([a-z_\x80-\xff][a-z0-9_$\x80-\xff]*)))?',
    re.IGNORECASE,
)


def know_names(names: PlainNames, sql: bytes, plans: tuple[StatementPlan, ...]) -> None:
    """The names that a PREPARE in this text gives which is no statement of it, but inside a function's
    body or a string, may be bound from now on. Where it stands without one that is plain, any may."""
    hidden = list(_PREPARES.finditer(sql))
    if len(hidden) == sum(s.named is not None and s.named.verb == "prepare" for s in plans):
        return  # `name_changes` knows these
    for found in hidden:
        quoted, plain = found.groups()
        if quoted is not None:
            names.assume(quoted.replace(b'""', b'"'), True)
        elif plain is not None:
            names.assume(plain.lower(), True)
        else:
            names.assume(ANY_NAME, True)


def with_names(
    session: Session,
    plans: tuple[StatementPlan, ...],
    plan_query: PlanQuery,
    still: Callable[[bytes, Statement], Statement],
    simple: bool,
) -> tuple[tuple[StatementPlan, ...], tuple[Statement | None, ...]]:
    """The statements of one text as they go to the server, and what each PREPARE makes of its name.

    `still` sees to it that a statement means what it meant. Raises Refusal, DataError, Wait, Uncertain.
    """
    here: dict[bytes, Statement | None] = {}
    prepared: set[bytes] = set()  # ... and are there, if the text comes so far
    found, made = [], []
    for plan in plans:
        named, new = plan.named, None
        if named is not None and named.verb == "prepare":
            plan, new = _prepare(session, plan, named, plan_query, simple)
            here[named.name] = new
            prepared.add(named.name)
        elif named is not None and named.verb == "deallocate":
            here[named.name] = None
            prepared = prepared - {named.name} if named.name else set()
        elif named is not None:
            known = here.get(named.name) or session.statements.look(
                named.name, session.wire.segment
            )
            gone = bool(here.keys() & {b"", named.name})
            if known is None and named.name not in prepared and (
                gone or not session.plain.may_be(named.name, session.wire.segment)
            ):  # fmt: skip
                # its values may have been meant for something protected
                shown = named.name.decode("utf-8", "replace")
                raise Refusal("26000", f'prepared statement "{shown}" does not exist')
            if known is not None:
                # a statement on a mere namesake is kept, too: the server analyses it anew
                if named.verb == "inside" or not simple:
                    raise Refusal(
                        "0A000", "this EXECUTE of a statement on protected columns", _HINT
                    )
                if named.name not in here:
                    known = still(named.name, known)
                if known.plan.rewritten or known.plan.outputs:
                    plan = _execute(session, plan, named, known)
        found.append(plan)
        made.append(new)
    return tuple(found), tuple(made)


def _prepare(
    session: Session, plan: StatementPlan, named: Named, plan_query: PlanQuery, simple: bool
) -> tuple[StatementPlan, Statement | None]:
    oids = tuple(oid for _, oid in named.types)
    inside = plan_query(named.sql, oids)
    (query,) = inside.statements
    if inside.transparent and not inside.sensitive:
        return plan, None
    if query.check is not None:
        raise Refusal("0A000", "PREPARE of a search that opened rows are tested for", _HINT)
    if query.copy is not None or query.cursor is not None or query.named is not None:
        raise Refusal("0A000", "PREPARE of this statement on protected tables")
    if len(session.statements) >= session.site.config.limits.max_statements_per_session:
        raise Refusal(
            CONFIGURATION_LIMIT_EXCEEDED,
            "too many prepared statements on protected columns in one session",
        )
    codecs = session.codecs(needed_for_text(query))
    several = several_keys(query, codecs)
    statement = Statement(query, oids, named.sql, session.as_of, several=several)
    if not simple:
        raise Refusal("0A000", "this PREPARE on protected columns", _HINT)
    if inside.transparent:
        return plan, statement
    head = named.head + _type_list(query, named, several) + b" AS "
    done = replace(query, segments=(head, *query.segments), rewritten=True, outputs=None)
    return replace(done, check=None, shown=None, command=plan.command, named=named), statement


def _type_list(query: StatementPlan, named: Named, several: frozenset[ProtectedColumn]) -> bytes:
    """The parameters' types for the server; none where it finds them itself."""
    if not query.params or not named.types:
        return b""
    shown = []
    for target, oid in zip(query.params, server_oids(query, (), several), strict=True):
        if target.use is Use.PASS:
            given = target.client_index < len(named.types)
            shown.append(named.types[target.client_index][0] if given else b"unknown")
        else:
            shown.append(_TYPES[oid])
    return b" (" + b", ".join(shown) + b")"


def _execute(
    session: Session, plan: StatementPlan, named: Named, statement: Statement
) -> StatementPlan:
    query = statement.plan
    if query.check is not None:  # prepared by Parse
        raise Refusal("0A000", "EXECUTE of a search that opened rows are tested for", _HINT)
    codecs = session.codecs(needed_for_bind(query))
    if not several_keys(query, codecs) <= statement.several:
        raise Refusal("0A000", "a key ring was rotated since the statement was prepared", _HINT)
    arguments = named.arguments
    if query.client_params and len(arguments) != len(query.client_params):
        raise DataError(
            "42601",
            f"wrong number of parameters for prepared statement"
            f' "{named.name.decode("utf-8", "replace")}"',
        )
    lists = any(target.use in LISTS for target in query.params)
    for target in query.params:
        if (target.use is not Use.PASS or lists) and not arguments[target.client_index].constant:
            raise Refusal(
                "0A000",
                "an expression as argument of EXECUTE for a protected column",
                "Write a constant, without a cast.",
            )
    values = [a.value if a.constant else b"" for a in arguments]
    _, sealed = server_parameters(
        query, statement.oids, (), values, codecs, session.text_context, statement.several
    )
    pieces = []
    oids = server_oids(query, statement.oids, statement.several)
    for target, value, oid in zip(query.params, sealed, oids, strict=True):
        passes = target.use is Use.PASS
        pieces.append(arguments[target.client_index].text if passes else _literal(value, oid))
    written = b"(" + b", ".join(pieces) + b")" if pieces else b""
    return replace(
        plan,
        segments=(b"EXECUTE " + _quoted(named.name) + written + b";",),
        rewritten=True,
        outputs=query.outputs,
        shown=query.shown,
    )


def _literal(value: bytes | None, oid: int) -> bytes:
    shown = _TYPES[oid]
    if value is None:
        return b"NULL::" + shown
    if oid == BYTEA:
        return b"decode('" + value.hex().encode() + b"', 'hex')"
    items = [
        b"NULL" if item is None else b"decode('" + item.hex().encode() + b"', 'hex')"
        for item in binary_array_elements(value)
    ]
    if oid == TEXT_ARRAY:
        items = [i if i == b"NULL" else b"convert_from(" + i + b", 'UTF8')" for i in items]
    return b"ARRAY[" + b", ".join(items) + b"]::" + shown


def _quoted(name: bytes) -> bytes:
    return b'"' + name.replace(b'"', b'""') + b'"'


def name_changes(
    session: Session, plan: StatementPlan, statement: Statement | None
) -> list[Change[Any]]:
    """What becomes of the names of prepared statements; to be noted when the statement is sent."""
    named, names, segment = plan.named, session.statements, session.wire.segment
    if named is None or named.verb not in ("prepare", "deallocate"):
        return []
    if named.verb == "deallocate" and not named.name:
        found = [*names.table, *session.plain.table]
    else:
        found = [named.name]
    for name in found:
        session.wire.fast.pop(name, None)
    if statement is not None:
        return [names.change(named.name, statement, segment)]
    made = [names.change(name, None, segment) for name in found if name in names.table]
    if named.verb == "prepare":
        sent = session.plain.sent(named.name, segment)
        return made if sent is None else [*made, sent]
    return [
        *made,
        *(session.plain.change(n, None, segment) for n in found if n in session.plain.table),
    ]


def server_oids(
    plan: StatementPlan, declared: tuple[int, ...], several: frozenset[ProtectedColumn]
) -> tuple[int, ...]:
    """Parameter types for the server's Parse."""
    if not plan.params:
        return declared
    oids = []
    for target in plan.params:
        if target.use is Use.PASS:
            i = target.client_index
            oids.append(target.server_oid or (declared[i] if i < len(declared) else 0))
        elif target.use is Use.SEARCH:
            oids.append(BYTEA_ARRAY if target.column in several else BYTEA)
        else:
            oids.append(target.server_oid or BYTEA)
    return tuple(oids)
