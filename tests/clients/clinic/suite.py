"""The clinic's own tests. They know nothing of the proxy: CLINIC_URL says where the database is.

`test_sqlalchemy_project.py` runs them directly and through the proxy; pytest does not collect this file.
"""

import asyncio
import datetime as dt
import io
import json
import os
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy import (
    Engine,
    MetaData,
    Table,
    bindparam,
    case,
    create_engine,
    delete,
    func,
    insert,
    inspect,
    literal,
    or_,
    select,
    tuple_,
    union_all,
    update,
)
from sqlalchemy.dialects.postgresql import insert as pg_insert
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import (
    Session,
    aliased,
    joinedload,
    raiseload,
    selectin_polymorphic,
    selectinload,
    subqueryload,
    with_polymorphic,
)

from tests.clients.clinic.api import Api
from tests.clients.clinic.models import Base, Doctor, Nurse, Patient, Staff, Visit

URL = os.environ["CLINIC_URL"]
UTC = dt.UTC


def migrations() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.set_main_option("path_separator", "os")
    return config


@pytest.fixture(scope="session")
def engine() -> Iterator[Engine]:
    command.upgrade(migrations(), "head")
    made = create_engine(URL)
    yield made
    made.dispose()


def patient(i: int) -> dict[str, Any]:
    return {
        "email": f"Canary-{i}@x", "name": f"canary-name-{i % 7}",
        "born": dt.date(1990, 1, 1) + dt.timedelta(i),
        "balance": Decimal(i - 5) * Decimal("10.25"),
        "seen": dt.datetime(2024, 2, 29, i % 24, 30, 0, 123456, UTC) if i % 3 else None,
        "profile": {"canary": i, "nested": [1, None, "ü"]} if i % 4 else None,
        "allergies": ["canary-nut", None, 'quo"ted, {x}'] if i % 2 else [],
        "readings": [i, None, -i] if i % 5 else None, "city": f"c{i % 3}",
    }  # fmt: skip


@pytest.fixture
def s(engine: Engine) -> Iterator[Session]:
    """Twenty patients with visits, staff; rolled back afterwards."""
    with Session(engine) as session:
        session.execute(insert(Patient), [patient(i) for i in range(20)])
        doctors = [Doctor(name=f"canary-dr-{i}", licence=f"canary-l{i}") for i in range(3)]
        session.add_all(
            [*doctors, Nurse(name="canary-nurse", ward="canary-ward"), Nurse(name="n2")]
        )
        for i, p in enumerate(session.scalars(select(Patient).order_by(Patient.id).limit(6))):
            p.visits = [Visit(note=f"canary-note-{i}-{n}", doctor=doctors[n]) for n in range(i % 3)]
        session.flush()
        session.expire_all()
        yield session
        session.rollback()


# ---- reading -------------------------------------------------------------------------------------


@pytest.mark.parametrize("i", range(6))
def test_every_type_comes_back_as_it_was_written(s: Session, i: int) -> None:
    found = s.scalars(select(Patient).where(Patient.email == f"Canary-{i}@x")).one()
    assert {k: getattr(found, k) for k in patient(i)} == patient(i)


def test_filters(s: Session) -> None:
    def emails(*where: Any) -> list[str]:
        return list(s.scalars(select(Patient.email).where(*where).order_by(Patient.id)))

    assert len(emails(Patient.email.in_(["Canary-1@x", "Canary-2@x", "none"]))) == 2
    assert len(emails(Patient.email.not_in(["Canary-1@x"]))) == 19
    assert emails(Patient.email.in_([])) == []
    assert (
        len(emails(or_(Patient.name == "canary-name-1", Patient.born == dt.date(1990, 1, 1)))) == 4
    )
    assert len(emails(Patient.born.between(dt.date(1990, 1, 3), dt.date(1990, 1, 5)))) == 3
    assert len(emails(Patient.balance > Decimal("0"), Patient.born < dt.date(1990, 1, 10))) == 3
    assert len(emails(Patient.seen.is_(None))) == 7
    assert (
        emails(Patient.name.is_distinct_from("canary-name-0"), Patient.city == "c0")[0]
        == "Canary-3@x"
    )
    assert emails(Patient.name == None) == []  # noqa: E711  (SQLAlchemy's IS NULL)
    pairs = tuple_(Patient.email, Patient.city).in_([("Canary-1@x", "c1"), ("Canary-2@x", "c1")])
    assert emails(pairs) == ["Canary-1@x"]
    assert len(emails(Patient.email == func.any(["Canary-1@x", "Canary-2@x"]))) == 2
    assert emails(Patient.readings == [1, None, -1]) == ["Canary-1@x"]
    assert emails(Patient.profile == {"nested": [1, None, "ü"], "canary": 2}) == ["Canary-2@x"]
    assert s.get(Patient, 0) is None
    assert s.query(Patient).filter_by(email="Canary-9@x").one().city == "c0"
    assert s.scalar(select(select(Patient).where(Patient.email == "Canary-9@x").exists()))


def test_order_extremes_and_keyset_pages(s: Session) -> None:
    assert s.execute(select(func.min(Patient.born), func.max(Patient.balance))).one() == (
        dt.date(1990, 1, 1), Decimal("143.50"))  # fmt: skip
    down = s.scalars(select(Patient.born).order_by(Patient.born.desc()).limit(2)).all()
    assert down == [dt.date(1990, 1, 20), dt.date(1990, 1, 19)]
    seen: list[Any] = []
    after: tuple[Any, int] | None = None
    while True:
        page = select(Patient.balance, Patient.id).order_by(Patient.balance, Patient.id).limit(6)
        if after:
            page = page.where(or_(Patient.balance > after[0],
                                  (Patient.balance == after[0]) & (Patient.id > after[1])))  # fmt: skip
        if not (rows := s.execute(page).all()):
            break
        seen += [r.balance for r in rows]
        after = tuple(rows[-1])  # type: ignore[assignment]
    assert seen == sorted(patient(i)["balance"] for i in range(20))


def test_groups_sets_and_windows(s: Session) -> None:
    groups = s.execute(select(Patient.name, func.count()).group_by(Patient.name)).all()
    assert sorted(groups)[0] == ("canary-name-0", 3) and len(groups) == 7
    assert s.scalar(select(func.count(Patient.name.distinct()))) == 7
    assert len(s.scalars(select(Patient.name).distinct()).all()) == 7
    many = select(Patient.name).group_by(Patient.name).having(func.count() > 2)
    assert len(s.scalars(many).all()) == 6
    both = union_all(select(Patient.email), select(Patient.email))
    assert len(s.execute(both).all()) == 40
    one, two = (select(Patient.name).where(Patient.city == c) for c in ("c0", "c1"))
    assert {r[0] for r in s.execute(one.intersect(two))} == {f"canary-name-{i}" for i in range(7)}
    rank = func.row_number().over(partition_by=Patient.name, order_by=Patient.id).label("n")
    inner = select(Patient.email, rank).subquery()
    assert s.scalar(select(func.count()).select_from(inner).where(inner.c.n == 1)) == 7
    cte = select(Patient.id, Patient.email).where(Patient.city == "c0").cte()
    assert (
        len(s.execute(select(cte.c.email).join(Patient, Patient.email == cte.c.email)).all()) == 7
    )
    label = case((Patient.email == "Canary-1@x", literal("first")), else_=literal("other"))
    assert sorted(set(s.scalars(select(label)))) == ["first", "other"]
    other = aliased(Patient)
    same = select(func.count()).select_from(Patient).join(other, Patient.name == other.name)
    assert s.scalar(same) == 6 * 9 + 4
    inside = select(Patient.id).where(Patient.email == other.email).exists()
    assert s.scalar(select(func.count()).select_from(other).where(inside)) == 20


def test_hybrids_compare_the_protected_column(s: Session) -> None:
    assert (
        s.scalars(select(Patient).where(Patient.email_any_case == "cANARY-4@X")).one().city == "c1"
    )
    assert s.scalar(select(func.count()).where(Patient.owes)) == 5
    assert s.scalars(select(Patient).where(Patient.owes).limit(1)).one().owes


@pytest.mark.parametrize("load", [joinedload, selectinload, subqueryload], ids=lambda f: f.__name__)
def test_relationships_load_every_way(s: Session, load: Any) -> None:
    wanted = select(Patient).options(
        load(Patient.visits).options(load(Visit.doctor)), raiseload("*")
    )
    found = s.scalars(wanted.order_by(Patient.id).limit(6)).unique().all()
    assert [[(v.note, v.doctor.licence) for v in p.visits] for p in found][2] == [
        ("canary-note-2-0", "canary-l0"), ("canary-note-2-1", "canary-l1")]  # fmt: skip


def test_relationships_load_lazily_and_filter(s: Session) -> None:
    doctor = s.scalars(select(Doctor).where(Doctor.licence == "canary-l1")).one()
    assert [v.note for v in doctor.visits] == ["canary-note-2-1", "canary-note-5-1"]
    wanted = select(Patient).where(Patient.visits.any(Visit.note == "canary-note-2-1"))
    assert s.scalars(wanted).one().email == "Canary-2@x"
    joined = select(Visit.note).join(Visit.patient).where(Patient.email == "Canary-5@x")
    assert s.scalars(joined.order_by(Visit.id)).all() == ["canary-note-5-0", "canary-note-5-1"]
    has = (
        select(func.count())
        .select_from(Visit)
        .where(Visit.doctor.has(Doctor.licence == "canary-l0"))
    )
    assert s.scalar(has) == 4


def test_inheritance(s: Session) -> None:
    everyone = s.scalars(select(Staff).order_by(Staff.id)).all()
    assert [type(e).__name__ for e in everyone] == ["Doctor"] * 3 + ["Nurse"] * 2
    assert everyone[0].licence == "canary-l0"  # type: ignore[attr-defined]
    every = with_polymorphic(Staff, "*")
    found = s.scalars(select(every).where(or_(every.Doctor.licence == "canary-l1",
                                              every.Nurse.ward == "canary-ward")))  # fmt: skip
    assert {f.name for f in found} == {"canary-dr-1", "canary-nurse"}
    loaded = s.scalars(select(Staff).options(selectin_polymorphic(Staff, [Doctor, Nurse]))).all()
    assert {x.licence for x in loaded if isinstance(x, Doctor)} == {
        f"canary-l{i}" for i in range(3)
    }
    assert s.scalars(select(Nurse).where(Nurse.ward == "canary-ward")).one().name == "canary-nurse"
    everyone[0].licence = "canary-new"  # type: ignore[attr-defined]
    everyone[0].name = "canary-renamed"
    s.flush()
    assert (
        s.scalars(select(Doctor.name).where(Doctor.licence == "canary-new")).one()
        == "canary-renamed"
    )


# ---- writing -------------------------------------------------------------------------------------


def test_unit_of_work(s: Session) -> None:
    made = Patient(**patient(20), visits=[Visit(note="canary-a"), Visit(note="canary-b")])
    s.add(made)
    s.flush()
    made.email, made.readings = "Canary-changed@x", [7]
    s.flush()
    s.expire(made)
    assert (made.email, made.readings, made.visits[1].note) == ("Canary-changed@x", [7], "canary-b")
    moved = s.merge(Patient(id=made.id, name="canary-merged"))
    assert moved is made and made.email == "Canary-changed@x"
    s.refresh(made, with_for_update=True)
    s.delete(made)
    s.flush()
    assert s.scalar(select(func.count()).where(Visit.note.in_(["canary-a", "canary-b"]))) == 0


def test_bulk_inserts(s: Session) -> None:
    rows = [patient(i) | {"email": f"canary-bulk-{i}"} for i in range(20)]
    back = s.execute(
        insert(Patient).returning(Patient.id, Patient.email, sort_by_parameter_order=True), rows
    ).all()
    assert [r.email for r in back] == [r["email"] for r in rows]
    assert [r.id for r in back] == sorted(r.id for r in back)
    objects = s.scalars(insert(Visit).returning(Visit), [
        {"note": f"canary-{i}", "patient_id": back[0].id} for i in range(1500)])  # fmt: skip
    assert len(objects.all()) == 1500  # more than one page of insertmanyvalues
    s.execute(insert(Visit).values([{"note": "canary-v", "patient_id": back[1].id}] * 3))
    assert s.scalar(select(func.count()).where(Visit.note == "canary-v")) == 3
    s.bulk_insert_mappings(Visit.__mapper__, [{"note": "canary-w", "patient_id": back[1].id}] * 3)
    assert s.scalar(select(func.count()).where(Visit.note == "canary-w")) == 3
    copied = select(Visit.note, Visit.patient_id).where(Visit.note == "canary-w")
    s.execute(insert(Visit).from_select(["note", "patient_id"], copied))
    assert s.scalar(select(func.count()).where(Visit.note == "canary-w")) == 6


def test_bulk_updates_and_deletes(s: Session) -> None:
    ids = list(s.scalars(select(Patient.id).order_by(Patient.id).limit(8)))
    s.execute(update(Patient), [{"id": i, "name": f"canary-u{n}"} for n, i in enumerate(ids)])
    s.expire_all()
    assert s.get_one(Patient, ids[3]).name == "canary-u3"
    done = s.execute(
        update(Patient).where(Patient.email == "Canary-1@x").values(name="canary-z", readings=[1])
        .returning(Patient.name, Patient.readings)
    )  # fmt: skip
    assert done.one() == ("canary-z", [1])
    for sync in ("fetch", "evaluate", False):
        n = s.execute(update(Patient).where(Patient.name == "canary-z").values(born=None),
                      execution_options={"synchronize_session": sync}).rowcount  # fmt: skip
        assert n == 1
    many = (
        update(Patient.__table__)
        .where(Patient.__table__.c.email == bindparam("e"))
        .values(name=bindparam("n"))
    )
    s.connection().execute(many, [{"e": f"Canary-{i}@x", "n": f"canary-m{i}"} for i in range(5)])
    assert (
        s.scalar(select(func.count()).where(Patient.name.in_([f"canary-m{i}" for i in range(5)])))
        == 5
    )
    other = aliased(Patient)
    copied = update(Patient).where(Patient.id == ids[0], other.id == ids[1]).values(name=other.name)
    s.execute(copied, execution_options={"synchronize_session": False})
    s.execute(update(Patient).where(Patient.id == ids[7]).values(
        name=case((Patient.email == "Canary-7@x", "canary-c1"), else_="canary-c2")))  # fmt: skip
    s.expire_all()
    assert s.get_one(Patient, ids[0]).name == "canary-m1"
    assert s.get_one(Patient, ids[7]).name == "canary-c1"
    gone = s.scalars(
        delete(Patient)
        .where(Patient.email.in_(["Canary-8@x", "Canary-9@x"]))
        .returning(Patient.email)
    )
    assert sorted(gone) == ["Canary-8@x", "Canary-9@x"]


def test_upserts(s: Session) -> None:
    into = pg_insert(Patient)
    rows = [patient(i) | {"name": "canary-up", "balance": Decimal("1.005")} for i in (1, 2, 25)]
    upsert = into.on_conflict_do_update(
        index_elements=[Patient.email],
        set_={"name": into.excluded.name, "balance": into.excluded.balance},
    ).returning(Patient.email, Patient.balance)
    assert len(s.execute(upsert, rows).all()) == 3
    assert s.scalar(select(func.count()).where(Patient.name == "canary-up")) == 3
    assert s.scalar(select(func.count()).where(Patient.balance == Decimal("1.01"))) == 3
    named = into.values(patient(3) | {"name": "canary-c"}).on_conflict_do_update(
        constraint="patient_email_key", set_={"name": "canary-other"},
        where=Patient.name != into.excluded.name)  # fmt: skip
    s.execute(named)
    assert s.scalar(select(Patient.name).where(Patient.email == "Canary-3@x")) == "canary-other"
    s.execute(into.on_conflict_do_nothing(), [patient(4), patient(26)])
    assert s.scalar(select(func.count()).select_from(Patient)) == 22


def test_errors_are_the_databases(s: Session) -> None:
    def code(work: Any) -> str | None:
        with pytest.raises(DBAPIError) as caught, s.begin_nested():
            work()
        return getattr(caught.value.orig, "sqlstate", None)

    assert code(lambda: s.execute(insert(Patient).values(patient(1)))) == "23505"
    assert code(lambda: s.execute(insert(Patient).values(patient(30) | {"name": None}))) == "23502"
    assert (
        code(lambda: s.execute(insert(Patient).values(patient(30) | {"email": "x" * 121})))
        == "22001"
    )
    assert (
        code(lambda: s.execute(insert(Patient).values(patient(30) | {"balance": Decimal("1e11")})))
        == "22003"
    )
    assert code(lambda: s.execute(insert(Visit).values(note="x", patient_id=-1))) == "23503"
    assert s.scalar(select(func.count()).select_from(Patient)) == 20


def test_savepoints_and_transactions(s: Session) -> None:
    with s.begin_nested():
        s.add(Patient(**patient(21)))
    inner = s.begin_nested()
    s.add(Patient(**patient(22)))
    s.flush()
    inner.rollback()
    with pytest.raises(IntegrityError), s.begin_nested():
        s.add(Patient(**patient(21)))
    found = s.scalars(
        select(Patient.email).where(Patient.email.in_(["Canary-21@x", "Canary-22@x"]))
    )
    assert found.all() == ["Canary-21@x"]


@pytest.mark.parametrize("level", ["AUTOCOMMIT", "REPEATABLE READ", "SERIALIZABLE"])
def test_isolation_levels(engine: Engine, level: str) -> None:
    with engine.connect().execution_options(isolation_level=level) as c:
        c.execute(insert(Staff).values(kind="staff", name=f"canary-{level}"))
        c.commit()
        assert c.execute(delete(Staff).where(Staff.name == f"canary-{level}")).rowcount == 1
        c.commit()


# ---- streams, reflection, migrations, API, asyncio ------------------------------------------------


def test_streams(s: Session) -> None:
    stream = s.execute(select(Patient.email).order_by(Patient.id).execution_options(yield_per=3))
    assert [len(part) for part in stream.partitions()] == [3] * 6 + [2]
    c = s.connection().execution_options(stream_results=True, max_row_buffer=4)
    rows = c.execute(select(Patient.email, Patient.allergies).order_by(Patient.id))
    assert rows.fetchone() == ("Canary-0@x", [])
    assert len(rows.fetchmany(5)) == 5 and len(rows.fetchall()) == 14


def test_reflection_sees_declared_types(engine: Engine) -> None:
    table = Table("patient", MetaData(), autoload_with=engine)
    assert {c.name: str(c.type) for c in table.columns} == {
        "id": "INTEGER", "email": "VARCHAR(120)", "name": "TEXT", "born": "DATE",
        "balance": "NUMERIC(12, 2)", "seen": "TIMESTAMP", "profile": "JSONB", "allergies": "ARRAY",
        "readings": "ARRAY", "city": "VARCHAR(20)"}  # fmt: skip
    seen = inspect(engine)
    assert [u["column_names"] for u in seen.get_unique_constraints("patient")] == [["email"]]
    indexes = {i["name"]: i["column_names"] for i in seen.get_indexes("patient")}
    assert indexes == {"patient_email_key": ["email"], "ix_patient_name": ["name"]}
    assert sorted(seen.get_table_names()) == [
        "alembic_version", "doctor", "patient", "staff", "visit"]  # fmt: skip
    with engine.connect() as c:
        assert compare_metadata(MigrationContext.configure(c), Base.metadata) == []
        c.execute(insert(table), [patient(i) for i in range(3)])
        found = c.execute(select(table).where(table.c.email == "Canary-1@x")).mappings().one()
        assert {k: v for k, v in found.items() if k != "id"} == patient(1)
        c.rollback()


class Client:
    """Calls a WSGI application."""

    def __init__(self, app: Api) -> None:
        self._app = app

    def __call__(self, method: str, path: str, query: str = "", **body: Any) -> tuple[int, Any]:
        sent = json.dumps(body).encode()
        seen: list[str] = []
        parts = self._app(
            {"REQUEST_METHOD": method, "PATH_INFO": path, "QUERY_STRING": query,
             "CONTENT_LENGTH": str(len(sent)), "wsgi.input": io.BytesIO(sent)},
            lambda status, headers: seen.append(status),
        )  # fmt: skip
        return int(seen[0].split()[0]), json.loads(b"".join(parts))


def test_the_api(engine: Engine) -> None:
    call = Client(Api(engine))
    made = [{"email": f"canary-api-{i}@x", "name": "canary-api", "born": f"2001-01-{i + 1:02}",
             "balance": "12.50", "profile": {"i": i}, "allergies": ["canary-x"]}
            for i in range(12)]  # fmt: skip
    for body in made:
        assert call("POST", "/patients", **body) == (201, body)
    assert call("POST", "/patients", **made[0])[0] == 409
    status, page = call("GET", "/patients", "born_from=2001-01-03&page=1")
    assert (status, page["count"]) == (200, 10) and page["patients"] == made[7:12]
    assert call("GET", "/patients", "email=canary-api-1@x&email=none")[1]["count"] == 1
    assert call("POST", "/patients/canary-api-1@x/visits", note="canary-n")[1]["visits"] == [
        "canary-n"
    ]
    for body in made:
        assert call("DELETE", f"/patients/{body['email']}")[0] == 200
    assert call("GET", "/patients/canary-api-1@x") == (404, {})


def test_asyncio() -> None:
    async def work() -> None:
        engine = create_async_engine(URL.replace("+psycopg", "+asyncpg"))
        async with AsyncSession(engine) as a:
            await a.execute(insert(Patient), [patient(i) for i in range(20)])
            found = (await a.scalars(select(Patient).where(Patient.email == "Canary-1@x"))).one()
            assert {k: getattr(found, k) for k in patient(1)} == patient(1)
            into = pg_insert(Patient)
            upsert = into.on_conflict_do_update(
                index_elements=["email"], set_={"name": into.excluded.name, "born": None})  # fmt: skip
            await a.execute(upsert, [patient(i) | {"name": "canary-up"} for i in (1, 2, 21)])
            assert await a.scalar(select(func.count()).where(Patient.name == "canary-up")) == 3
            a.add(Visit(note="canary-async", patient_id=found.id))
            await a.flush()
            loaded = (
                select(Patient).options(selectinload(Patient.visits)).where(Patient.id == found.id)
            )
            again = (await a.scalars(loaded, execution_options={"populate_existing": True})).one()
            assert [v.note for v in again.visits] == ["canary-async"]
            stream = await a.stream(
                select(Patient.email).order_by(Patient.id).execution_options(yield_per=4)
            )
            assert len([r async for r in stream]) == 21
            with pytest.raises(IntegrityError):
                async with a.begin_nested():
                    await a.execute(insert(Patient).values(patient(3)))
            with pytest.raises((DataError, DBAPIError)):
                async with a.begin_nested():
                    await a.execute(insert(Patient).values(patient(40) | {"email": "x" * 121}))
            ordered = (
                select(Patient.born)
                .where(Patient.born >= dt.date(1990, 1, 5))
                .order_by(Patient.born)
            )
            assert (await a.scalars(ordered.limit(1))).one() == dt.date(1990, 1, 5)
            assert await a.scalar(select(func.count()).where(Patient.owes)) == 5
            await a.rollback()

        async def one(i: int) -> str | None:
            async with AsyncSession(engine) as b:
                b.add(Patient(**patient(i) | {"email": f"canary-par-{i}"}))
                await b.flush()
                found = await b.scalar(
                    select(Patient.email).where(Patient.email == f"canary-par-{i}")
                )
                await b.rollback()
                return found

        assert await asyncio.gather(*map(one, range(10))) == [f"canary-par-{i}" for i in range(10)]
        await engine.dispose()

    asyncio.run(work())


def test_zz_leaves_rows_behind_after_migrating_down_and_up(engine: Engine) -> None:
    """Last: what the runner then looks at on the server."""
    command.downgrade(migrations(), "0001")
    command.upgrade(migrations(), "head")
    command.downgrade(migrations(), "base")
    command.upgrade(migrations(), "head")
    with Session(engine) as session, session.begin():
        session.add_all(
            [Patient(**patient(i), visits=[Visit(note="canary-left")]) for i in range(1, 5)]
        )
        session.add_all(
            [Doctor(name="canary-d", licence="canary-l"), Nurse(name="canary-e", ward="canary-w")]
        )
