"""Run-time settings of a session that change the meaning of texts and the form of values. Pure.

The server reports some by ParameterStatus; the others (search_path, bytea_output, extra_float_digits,
timezone_abbreviations, current role), and the names of temporary tables, are asked for with `QUERY`
whenever a statement may have changed them, before the next plan is made, and at the end of a
transaction that changed them.
"""

import codecs
import json

from proxy.postgres.messages import Malformed

QUERY = (
    b"SELECT pg_catalog.concat_ws(pg_catalog.chr(10), CURRENT_USER,"
    b" pg_catalog.current_setting('extra_float_digits'),"
    b" pg_catalog.current_setting('bytea_output'),"
    b" pg_catalog.current_setting('timezone_abbreviations'),"
    b" CASE WHEN pg_catalog.pg_my_temp_schema() OPERATOR(pg_catalog.=) 0::pg_catalog.oid THEN '[]'"
    b" ELSE (SELECT COALESCE(pg_catalog.json_agg(c.relname)::pg_catalog.text, '[]')"
    b" FROM pg_catalog.pg_class c WHERE c.relkind OPERATOR(pg_catalog.=) ANY ('{r,p,v,m,f,S}')"
    b" AND c.relnamespace OPERATOR(pg_catalog.=) pg_catalog.pg_my_temp_schema()) END,"
    b" pg_catalog.current_setting('search_path'))"
)

# PostgreSQL encoding -> Python codec, for encodings in which no ASCII byte is part of a longer
# character (server-safe ones; PostgreSQL documentation, "Character Set Support").
_CODECS = {
    "UTF8": "utf-8",
    "SQL_ASCII": "utf-8",
    "LATIN1": "iso8859-1",
    "LATIN2": "iso8859-2",
    "LATIN9": "iso8859-15",
    "WIN1250": "cp1250",
    "WIN1251": "cp1251",
    "WIN1252": "cp1252",
    "KOI8R": "koi8-r",
    "EUC_JP": "euc-jp",
    "EUC_KR": "euc-kr",
}


class Settings:
    def __init__(self, startup: dict[str, str]) -> None:
        self.reported: dict[str, str] = {}
        self.user = startup["user"]
        self.search_path: tuple[str, ...] = ("$user", "public")
        self.extra_float_digits = 1
        self.bytea_output = "hex"
        self.abbreviations = "Default"
        self.temporary: frozenset[str] = frozenset()  # names of this session's temporary tables
        self.known = False  # the unreported ones were read and nothing changed them since
        self.changed_in_transaction = False
        self.ascii_as_it_is = True  # in client_encoding, a byte below 128 is that character
        self.readings = 0  # rises with every `read`

    def report(self, payload: bytes) -> None:
        """ParameterStatus."""
        words = payload.split(b"\0")
        if len(words) != 3:
            raise Malformed("ParameterStatus")
        name = words[0].decode("latin-1")
        self.reported[name] = words[1].decode("utf-8", "replace")
        if name == "search_path":  # PostgreSQL 18 tells of it, also where a function has set it
            self.known = False
        self.ascii_as_it_is = self.client_encoding in ("UTF8", "SQL_ASCII")

    def read(self, answer: bytes) -> None:
        """Takes the answer to QUERY."""
        parts = answer.decode(self.codec or "utf-8", "strict").split("\n", 5)
        if len(parts) != 6:
            raise Malformed("settings")
        self.user, digits, self.bytea_output, self.abbreviations, tables, path = parts
        try:
            self.temporary = frozenset(json.loads(tables))
        except (ValueError, TypeError):
            raise Malformed("settings") from None
        self.extra_float_digits = int(digits)
        self.search_path = parse_search_path(path)
        self.known = True
        self.readings += 1

    def may_change(self) -> None:
        """A statement that changes settings is on its way to the server."""
        self.known = False
        self.changed_in_transaction = True

    def transaction_ended(self) -> None:
        if self.changed_in_transaction:
            self.changed_in_transaction = False
            self.known = False

    @property
    def standard_conforming_strings(self) -> bool:
        return self.reported.get("standard_conforming_strings", "on") == "on"

    @property
    def server_version(self) -> int:
        """The major version; 0 if not known."""
        digits = self.reported.get("server_version", "").partition(".")[0]
        return int(digits) if digits.isdecimal() else 0

    @property
    def client_encoding(self) -> str:
        return self.reported.get("client_encoding", "UTF8")

    @property
    def codec(self) -> str | None:
        """Python's codec for client_encoding; None where SQL cannot be read safely."""
        name = _CODECS.get(self.client_encoding)
        return None if name is None else codecs.lookup(name).name


def parse_search_path(text: str) -> tuple[str, ...]:
    """Names of a search_path setting, unquoted and folded as SplitIdentifierString does."""
    names: list[str] = []
    at, end = 0, len(text)
    while at < end:
        if text[at] in " \t\n,":
            at += 1
            continue
        if text[at] == '"':
            name = ""
            at += 1
            while at < end:
                if text[at] == '"':
                    if text[at + 1 : at + 2] != '"':
                        break
                    at += 1
                name += text[at]
                at += 1
            at += 1
        else:
            start = at
            while at < end and text[at] not in " \t\n,":
                at += 1
            name = text[start:at].lower()
        names.append(name)
    return tuple(names)
