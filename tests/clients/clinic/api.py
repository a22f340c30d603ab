"""A small JSON API over the models: plain WSGI (PEP 3333), no framework."""

import datetime as dt
import json
from collections.abc import Callable, Iterable
from decimal import Decimal
from typing import Any
from urllib.parse import parse_qs

from sqlalchemy import Engine, func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session, selectinload

from tests.clients.clinic.models import Patient, Visit

Answer = tuple[str, Any]


class Api:
    """GET /patients?email=&born_from=&page=, POST /patients, GET and DELETE /patients/<email>,
    POST /patients/<email>/visits."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def __call__(
        self, environ: dict[str, Any], start: Callable[[str, list[tuple[str, str]]], Any]
    ) -> Iterable[bytes]:
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        try:
            with Session(self._engine) as session, session.begin():
                status, answer = self._route(
                    session, environ["REQUEST_METHOD"], environ["PATH_INFO"].strip("/").split("/"),
                    parse_qs(environ.get("QUERY_STRING", "")), json.loads(body or b"{}"),
                )  # fmt: skip
        except IntegrityError:
            status, answer = "409 Conflict", {"error": "exists"}
        start(status, [("Content-Type", "application/json")])
        return [json.dumps(answer).encode()]

    def _route(
        self, s: Session, method: str, path: list[str], query: dict[str, list[str]], body: Any
    ) -> Answer:
        match method, path:
            case "GET", ["patients"]:
                return "200 OK", self._list(s, query)
            case "POST", ["patients"]:
                s.add(patient := Patient(**body | {"balance": Decimal(body["balance"]),
                                                   "born": dt.date.fromisoformat(body["born"])}))  # fmt: skip
                s.flush()
                return "201 Created", shown(patient)
            case _, ["patients", email, *rest]:
                found = s.scalars(
                    select(Patient)
                    .where(Patient.email == email)
                    .options(selectinload(Patient.visits))
                ).one_or_none()
                if found is None:
                    return "404 Not Found", {}
                if method == "DELETE":
                    s.delete(found)
                    return "200 OK", {}
                if method == "POST" and rest == ["visits"]:
                    found.visits.append(Visit(note=body["note"]))
                    s.flush()
                return "200 OK", shown(found) | {"visits": [v.note for v in found.visits]}
        return "405 Method Not Allowed", {}

    @staticmethod
    def _list(s: Session, query: dict[str, list[str]]) -> Any:
        wanted = select(Patient)
        if "email" in query:
            wanted = wanted.where(Patient.email.in_(query["email"]))
        if "born_from" in query:
            wanted = wanted.where(Patient.born >= dt.date.fromisoformat(query["born_from"][0]))
        count = s.scalar(select(func.count()).select_from(wanted.subquery()))
        page = int(query.get("page", ["0"])[0])
        rows = s.scalars(wanted.order_by(Patient.born, Patient.id).offset(page * 5).limit(5))
        return {"count": count, "patients": [shown(p) for p in rows]}


def shown(p: Patient) -> dict[str, Any]:
    return {"email": p.email, "name": p.name, "born": p.born and p.born.isoformat(),
            "balance": str(p.balance), "profile": p.profile, "allergies": p.allergies}  # fmt: skip
