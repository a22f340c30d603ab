"""Pairs of tables with columns of random types, the same on both sides; which are sealed says `config`."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from proxy.config.model import ColumnConfig
from tests.differential.values import FEW_VALUES, GOOD, WITHOUT_EQUALITY, supported

NAMES = ("email", "Mixed Case", "select", "größe", "x1", 'quo"ted', "note", "c")


def quoted(name: str) -> str:
    plain = name.isascii() and name.isidentifier() and name.islower() and name != "select"
    return name if plain else '"' + name.replace('"', '""') + '"'


@dataclass(frozen=True)
class Column:
    name: str
    type: str
    sealed: bool = True
    equality: bool = True
    domain: str | None = None

    @property
    def sql(self) -> str:
        return quoted(self.name)


@dataclass
class Table:
    schema: str
    name: str
    columns: list[Column]
    constraints: list[str] = field(default_factory=list)

    @property
    def sql(self) -> str:
        return (
            quoted(self.name) if self.schema == "public" else f"{self.schema}.{quoted(self.name)}"
        )

    @property
    def sealed(self) -> list[Column]:
        return [c for c in self.columns if c.sealed]

    def ddl(self) -> list[str]:
        columns = ", ".join(f"{c.sql} {c.type}" for c in self.columns)
        made = f"CREATE TABLE {self.sql} (id int PRIMARY KEY, p int, q text, {columns}"
        return [made + "".join(f", {c}" for c in self.constraints) + ")"]


@dataclass
class Pair:
    """Two tables that share the domain of their column `j`; `unique` is a column of `a` that has a
    UNIQUE constraint, for ON CONFLICT."""

    number: int
    a: Table
    b: Table
    joined: Column
    unique: Column

    @property
    def tables(self) -> tuple[Table, Table]:
        return self.a, self.b


def make_pair(source: random.Random, number: int) -> Pair:
    types = supported()
    searchable = [t for t in types if t not in WITHOUT_EQUALITY]
    wide = [t for t in searchable if t not in FEW_VALUES and len(GOOD[t]) > 2]
    domain = f"diff.pair{number}"
    joined = Column("j", source.choice(wide), domain=domain)
    unique = Column("u", source.choice(wide))
    plain = [Column("plain_1", source.choice(types), sealed=False)]
    extra_a = _extra(source, types, 3)
    extra_b = [Column("k", joined.type, domain=domain), *_extra(source, types, 2)]
    a = Table("public", f"a{number}", [joined, unique, *extra_a, *plain], ["UNIQUE (u)"])
    b = Table("public", f"b{number}", [joined, *extra_b])
    return Pair(number, a, b, joined, unique)


def _extra(source: random.Random, types: list[str], count: int) -> list[Column]:
    names = source.sample(NAMES, count)
    columns = []
    for name in names:
        kind = source.choice(types)
        equality = kind not in WITHOUT_EQUALITY and source.random() < 0.8
        columns.append(Column(name, kind, equality=equality))
    return columns


def config(pairs: list[Pair]) -> tuple[ColumnConfig, ...]:
    return tuple(
        ColumnConfig(
            column=f"{t.schema}.{t.name}.{c.name}", type=c.type, ring="app", equality=c.equality,
            domain=c.domain, acknowledge=("equality-low-cardinality",),
        )
        for pair in pairs for t in pair.tables for c in t.sealed
    )  # fmt: skip
