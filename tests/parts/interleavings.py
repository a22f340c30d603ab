"""Random conversations of a client that knows the protocol and makes mistakes: messages, and their cuts.

The same bytes go to a server with plain columns and through the proxy to sealed ones: `users (id, email, age,
note)`, of which email and age are protected, and `mails (email, age)`. A value for a protected column has
`canary` in it, or is a number from CANARY_AGE on. In MIXED conversations a mistake (a Bind meant for another
statement, a csv line in a COPY of text) puts it into a plain column, as it does without a proxy; in those of
PROTECTED every parameter and cell is protected, whatever is mixed up, so no canary may ever leave.
"""

import random
import struct

from tests.dialogue import msg

CANARY_AGE = 1_600_000_000
Statements = dict[str, tuple[str, ...]]
_COMMON: Statements = {
    "SELECT generate_series(1, 5) AS n": (), "SELECT nothing": (), "SELEC": (), "": (), "SELECT 1 / 0": (),
    "BEGIN": (), "COMMIT": (), "ROLLBACK": (), "SAVEPOINT s": (), "ROLLBACK TO s": (),
    "SELECT id, email, age, note FROM users ORDER BY id": (),
    "COPY (SELECT email, age FROM users ORDER BY id) TO STDOUT": (),
}  # fmt: skip
_MIXED: Statements = {  # text -> what its parameters are
    "INSERT INTO users VALUES ($1, $2, $3)": ("id", "email", "age"),
    "INSERT INTO users (email, id) VALUES ($1, $2) RETURNING email, age, id": ("email", "id"),
    "INSERT INTO users VALUES ($1, $2, 7) ON CONFLICT (id) DO UPDATE SET email = excluded.email": (
        "id", "email"),
    "SELECT email, id FROM users WHERE email = $1 ORDER BY id": ("email",),
    "SELECT age FROM users WHERE id = $1": ("id",),
    "SELECT id FROM users WHERE email IN ($1, $2) ORDER BY id": ("email", "email"),
    "UPDATE users SET email = $1, age = $2 WHERE id = $3 RETURNING age, email": ("email", "age", "id"),
    "UPDATE users SET note = $1 WHERE email = $2": ("note", "email"),
    "DELETE FROM users WHERE id = $1 RETURNING email": ("id",),
    "SELECT $1::int4 + 1, $2::text": ("id", "note"), "SELECT 1 / $1::int4": ("id",),
    "COPY users FROM STDIN": (), "COPY users (email, id) FROM STDIN (FORMAT csv)": (),
}  # fmt: skip
_PROTECTED: Statements = {
    "INSERT INTO users VALUES (31, $1, $2)": ("email", "age"),
    "INSERT INTO users (email, id) VALUES ($1, 32) RETURNING email, age, id": ("email",),
    "INSERT INTO users VALUES (1, $1, $2) ON CONFLICT (id) DO UPDATE SET email = excluded.email": (
        "email", "age"),
    "INSERT INTO mails SELECT $1, $2": ("email", "age"),
    "SELECT email, id FROM users WHERE email = $1 ORDER BY id": ("email",),
    "SELECT id FROM users WHERE email IN ($1, $2) ORDER BY id": ("email", "email"),
    "UPDATE users SET email = $1, age = $2 WHERE id = 3 RETURNING age, email": ("email", "age"),
    "DELETE FROM mails WHERE email = $1": ("email",),
    "COPY mails FROM STDIN": (), "COPY mails (age, email) FROM STDIN (FORMAT csv)": (),
    "COPY mails FROM STDIN (FORMAT binary)": (),
}  # fmt: skip
_QUERIES = (
    "SELECT id, email FROM users ORDER BY id", "SELECT 1; SELECT email FROM users ORDER BY id LIMIT 2",
    "INSERT INTO users VALUES (100, 'canary-q', 1600000001)", "DELETE FROM users WHERE id > 5",
    "BEGIN; INSERT INTO users VALUES (101, 'canary-r', NULL)", "COMMIT", "ROLLBACK", "BEGIN",
    "SELECT email FROM users WHERE email = 'canary-1'; SELECT 1/0; SELECT 2", "SELECT 'x'::int4", "",
    "COPY users (id, email) TO STDOUT (FORMAT csv)", "SAVEPOINT s", "ROLLBACK TO s", "DEALLOCATE ALL",
    "DECLARE c CURSOR FOR SELECT email FROM users ORDER BY id", "FETCH 2 FROM c", "CLOSE c",
)  # fmt: skip
MIXED = _COMMON | _MIXED, (
    *_QUERIES, "COPY users FROM STDIN", "COPY users (id, email, age) FROM STDIN (FORMAT csv, HEADER)",
    "SELECT 1; COPY users FROM STDIN; SELECT 2", "COPY users (email, age) FROM STDIN (FORMAT binary)",
)  # fmt: skip
PROTECTED = _COMMON | _PROTECTED, (
    *_QUERIES, "COPY mails FROM STDIN", "COPY mails (age, email) FROM STDIN (FORMAT csv, HEADER)",
    "SELECT 1; COPY mails FROM STDIN; SELECT 2", "COPY mails FROM STDIN (FORMAT binary)",
)  # fmt: skip
NAMES = ("", "", "", "a", "b")
PORTALS = ("", "", "", "p")


class Conversation:
    """One client's messages, up to `length` of them; it remembers what it prepared, right or wrong."""

    def __init__(self, seed: str, of: tuple[Statements, tuple[str, ...]]) -> None:
        self._r = random.Random(seed)
        self._statements, self._queries = of
        self._apart = (
            of is PROTECTED
        )  # what takes no parameters has a name of its own, and gets none
        self._prepared: dict[str, str] = {}

    def messages(self, length: int) -> list[bytes]:
        out: list[bytes] = []
        while len(out) < length:
            out += self._step()
        return out

    def cut(self, data: bytes) -> list[bytes]:
        """The bytes in pieces: whole, byte by byte, or of random lengths."""
        step = self._r.choice((1, 7, 40, 400, len(data)))
        pieces = []
        while data:
            size = self._r.randint(1, max(1, step))
            pieces.append(data[:size])
            data = data[size:]
        return pieces

    def _step(self) -> list[bytes]:
        r = self._r
        draw = r.random()
        if draw < 0.45:
            return self._extended()
        if draw < 0.62:
            return [msg("S")]
        if draw < 0.80:
            return self._query(r.choice(self._queries))
        name, portal = r.choice(NAMES).encode(), r.choice(PORTALS).encode()
        return [r.choice((
            msg("H"), msg("D", b"S" + name + b"\0"), msg("D", b"P" + portal + b"\0"),
            msg("C", b"S" + name + b"\0"), msg("C", b"P" + portal + b"\0"), self._execute(portal),
            self._bind(name.decode(), portal), msg("d", self._line()), msg("c"), msg("f", b"canary-no\0"),
        ))]  # fmt: skip

    def _extended(self) -> list[bytes]:
        """Parse, Bind, Describe, Execute, with any of them left out now and then."""
        r = self._r
        name, portal = r.choice(NAMES), r.choice(PORTALS).encode()
        out = []
        if name not in self._prepared or r.random() < 0.6:
            sql = r.choice(list(self._statements))
            if self._apart and not self._statements[sql]:
                name = "plain"
            self._prepared[name] = sql
            out.append(msg("P", f"{name}\0{sql}\0".encode() + b"\0\0"))
            if r.random() < 0.2:
                out.append(msg("D", b"S" + name.encode() + b"\0"))
        sql = self._prepared[name]
        out.append(self._bind(name, portal))
        if r.random() < 0.5:
            out.append(msg("D", b"P" + portal + b"\0"))
        out.append(self._execute(portal))
        if r.random() < 0.1:
            del out[r.randrange(len(out))]
        if sql.startswith("COPY") and "FROM" in sql:
            out += self._copy(sql)
        elif r.random() < 0.2:
            out.append(self._execute(portal))
        if r.random() < 0.6:
            out.append(msg("S"))
        return out

    def _query(self, sql: str) -> list[bytes]:
        copies = "FROM STDIN" in sql
        return [msg("Q", sql.encode() + b"\0"), *(self._copy(sql) if copies else ())]

    def _copy(self, sql: str) -> list[bytes]:
        """Data of some format, whole or not, with a Flush in the middle, and an end. (A Sync there
        is a documented limit: reference/postgres-sessions.md, "COPY".)"""
        r = self._r
        data = b"".join(self._line() for _ in range(r.randint(0, 4)))
        if "binary" in sql and r.random() < 0.8:
            data = b"PGCOPY\n\xff\r\n\0" + b"\0" * 8 + struct.pack("!hi", 2, 8) + b"canary-8"
            data += struct.pack("!iih", 4, CANARY_AGE, -1)
        out = []
        while data:
            size = r.randint(1, len(data))
            out.append(msg("d", data[:size]))
            data = data[size:]
            if r.random() < 0.05:
                out.append(msg("H"))
        return [*out, msg("f", b"canary-why\0") if r.random() < 0.15 else msg("c")]

    def _line(self) -> bytes:
        """Mostly what COPY of all columns takes as text; sometimes csv, sometimes too little."""
        r = self._r
        key, email, age = (
            r.randint(200, 999),
            f"canary-{r.randint(0, 9)}",
            CANARY_AGE + r.randint(0, 9),
        )
        return r.choice((
            f"{key}\t{email}\t{age}\tn\n", f"{key}\t{email}\t{age}\tn\n", f"{key}\t\\N\t\\N\t\\N\n",
            f"{email}\t{age}\n", f"{age},{email}\n", f"{email},{key}\n", f'{key},"{email}",{age}\n',
            f"{key}\t{email}\tcanary-bad\tn\n", "\\.\n",
            f"{key}\t{email}\n", "id,email,age\n",
        )).encode()  # fmt: skip

    def _bind(self, name: str, portal: bytes) -> bytes:
        r = self._r
        kinds = list(self._statements[self._prepared.get(name, "")])
        if r.random() < 0.05 and name != "plain":
            kinds.append("email")
        formats = r.choice(([], [0], [1], [r.randint(0, 1) for _ in kinds]))
        each = [formats[0]] * len(kinds) if len(formats) == 1 else formats or [0] * len(kinds)
        values = b"".join(map(self._value, kinds, each))
        results = r.choice(([], [], [0], [1]))
        return msg(
            "B",
            portal + b"\0" + name.encode() + b"\0" + struct.pack(f"!H{len(formats)}h", len(formats), *formats)
            + struct.pack("!H", len(kinds)) + values
            + struct.pack(f"!H{len(results)}h", len(results), *results),
        )  # fmt: skip

    def _value(self, kind: str, fmt: int) -> bytes:
        r = self._r
        if r.random() < 0.1:
            return b"\xff\xff\xff\xff"
        if kind in ("email", "note"):
            word = "canary-" if kind == "email" else "note-"
            raw = word.encode() + str(r.randint(0, 9)).encode() * r.choice((1, 1, 1, 50, 3000))
        else:
            number = r.randint(0, 9) if kind == "id" else CANARY_AGE + r.randint(0, 9)
            raw = struct.pack("!i", number) if fmt else str(number).encode()
            if r.random() < 0.06:
                raw = b"canary-bad" if kind == "age" else b"bad"
        return struct.pack("!i", len(raw)) + raw

    def _execute(self, portal: bytes) -> bytes:
        return msg("E", portal + b"\0" + struct.pack("!i", self._r.choice((0, 0, 0, 1, 2))))
