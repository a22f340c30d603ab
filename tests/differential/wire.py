"""One side of a comparison: a libpq connection, and all that a client sees of an answer."""

from __future__ import annotations

import select
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import pq

from tests.differential.statement import Rendered, Value


@dataclass(frozen=True)
class Answer:
    """One result of a statement. `columns`: name, type OID, type modifier, length, format."""

    status: str
    sqlstate: str = ""
    message: str = ""
    tag: bytes = b""
    columns: tuple[tuple[Any, ...], ...] = ()
    rows: tuple[tuple[bytes | None, ...], ...] = ()


@dataclass(frozen=True)
class Outcome:
    answers: tuple[Answer, ...]
    transaction: int

    @property
    def error(self) -> Answer | None:
        return next((a for a in self.answers if a.sqlstate), None)


class Side:
    def __init__(self, conninfo: str) -> None:
        # libpq's blocking calls hold the GIL, which a proxy or tap in this process needs: so psycopg's
        # own connect, and waiting with `select` below
        self._owner = psycopg.connect(conninfo, autocommit=True)
        self.conn = self._owner.pgconn
        self.simple("SET client_min_messages = error")
        self._binary: dict[tuple[str, str], bytes | None] = {}

    def close(self) -> None:
        self._owner.close()

    def run(self, what: Rendered, binary: dict[Value, bytes] | None = None) -> Outcome:
        """All answers to a statement, and the transaction's state behind it."""
        if what.values is None:
            self.conn.send_query(what.sql.encode())
        else:
            texts: list[bytes | None] = []
            for v in what.values:
                if v.text is None:
                    texts.append(None)
                else:
                    texts.append(binary[v] if what.binary and binary else v.text.encode())
            formats = [1 if what.binary else 0] * len(texts)
            self.conn.send_query_params(
                what.sql.encode(), texts or None, None, formats or None,
                pq.Format.BINARY if what.binary_result else pq.Format.TEXT,
            )  # fmt: skip
        return self._collect()

    def simple(self, sql: str) -> Outcome:
        return self.run(Rendered(sql, None))

    def describe(self, sql: str, types: int) -> tuple[Any, ...]:
        """Parameter types and columns of a statement, or its SQLSTATE."""
        self.conn.send_prepare(b"", sql.encode(), [0] * types)
        result = self.last()
        if result.status == pq.ExecStatus.FATAL_ERROR:
            return ("error", state_of(result))
        self.conn.send_describe_prepared(b"")
        result = self.last()
        if result.status == pq.ExecStatus.FATAL_ERROR:
            return ("error", state_of(result))
        params = tuple(result.param_type(i) for i in range(result.nparams))
        return ("ok", params, _columns(result))

    def copy_out(self, sql: str) -> tuple[bytes, str]:
        """(what came, SQLSTATE)."""
        self.conn.send_query(sql.encode())
        result = self._next()
        if result.status != pq.ExecStatus.COPY_OUT:
            self._collect()
            return b"", state_of(result) or "00000"
        parts = []
        while True:
            size, data = self.conn.get_copy_data(1)
            if size == 0:
                self._wait()
                continue
            if size < 0:
                break
            parts.append(bytes(data))
        last = self._collect().error
        return b"".join(parts), last.sqlstate if last else ""

    def copy_in(self, sql: str, data: bytes, step: int) -> str:
        """SQLSTATE, or the empty string; `data` goes in pieces of `step` bytes."""
        self.conn.send_query(sql.encode())
        result = self._next()
        if result.status != pq.ExecStatus.COPY_IN:
            self._collect()
            return state_of(result) or "00000"
        for at in range(0, len(data), step):
            self.conn.put_copy_data(data[at : at + step])
        self.conn.put_copy_end()
        last = self._collect().error
        return last.sqlstate if last else ""

    def binary(self, value: Value) -> bytes | None:
        """The binary form of a value, as this server has it; None where the text is not valid."""
        name = value.type + ("[]" if value.array else "")
        assert value.text is not None
        key = (name, value.text)
        if key not in self._binary:
            self.conn.send_query_params(
                f"SELECT $1::{name}".encode(), [value.text.encode()], result_format=pq.Format.BINARY
            )
            done = self.last()
            ok = done.status == pq.ExecStatus.TUPLES_OK
            self._binary[key] = done.get_value(0, 0) if ok else None
        return self._binary[key]

    def last(self) -> Any:
        """The last result of what was sent."""
        kept = None
        while (result := self._next()) is not None:
            kept = result
            if result.status in (pq.ExecStatus.COPY_IN, pq.ExecStatus.COPY_OUT):
                break
        return kept

    def _next(self) -> Any:
        while self.conn.is_busy():
            self._wait()
        return self.conn.get_result()

    def _wait(self) -> None:
        ready, _, _ = select.select([self.conn.socket], [], [], 60)
        assert ready, "no answer within a minute"
        self.conn.consume_input()

    def _collect(self) -> Outcome:
        answers = []
        while (result := self._next()) is not None:
            answers.append(_answer(result))
            if result.status in (pq.ExecStatus.COPY_IN, pq.ExecStatus.COPY_OUT):
                break
        return Outcome(tuple(answers), int(self.conn.transaction_status))


def _answer(result: Any) -> Answer:
    state = state_of(result)
    if state:
        message = result.error_field(pq.DiagnosticField.MESSAGE_PRIMARY) or b""
        return Answer("ERROR", state, message.decode("utf-8", "replace"))
    rows = tuple(
        tuple(result.get_value(i, j) for j in range(result.nfields)) for i in range(result.ntuples)
    )
    tag = result.command_status or b""
    return Answer(result.status.name if hasattr(result.status, "name") else str(result.status),
                  tag=tag, columns=_columns(result), rows=rows)  # fmt: skip


def _columns(result: Any) -> tuple[tuple[Any, ...], ...]:
    return tuple(
        (result.fname(i), result.ftype(i), result.fmod(i), result.fsize(i), result.fformat(i))
        for i in range(result.nfields)
    )


def state_of(result: Any) -> str:
    if result.status != pq.ExecStatus.FATAL_ERROR:
        return ""
    state = result.error_field(pq.DiagnosticField.SQLSTATE)
    return state.decode() if state else "?????"
