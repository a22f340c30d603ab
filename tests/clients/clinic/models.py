"""The models of a clinic: what a team would write who have never heard of the proxy."""

import datetime as dt
from decimal import Decimal
from typing import Any

from sqlalchemy import ARRAY, Date, DateTime, ForeignKey, Integer, Numeric, String, Text, func
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.hybrid import Comparator, hybrid_property
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship


class Base(DeclarativeBase):
    pass


class AnyCase(Comparator[str]):
    """Compares without regard to case."""

    def __eq__(self, other: Any) -> Any:  # type: ignore[override]
        return func.lower(self.__clause_element__()) == func.lower(other)


class Staff(Base):
    __tablename__ = "staff"
    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str] = mapped_column(String(10))
    name: Mapped[str] = mapped_column(Text)
    __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "staff"}


class Doctor(Staff):
    """Joined-table inheritance: the protected licence is in a table of its own."""

    __tablename__ = "doctor"
    id: Mapped[int] = mapped_column(ForeignKey("staff.id"), primary_key=True)
    licence: Mapped[str] = mapped_column(String(20), unique=True)
    visits: Mapped[list["Visit"]] = relationship(back_populates="doctor", order_by="Visit.id")
    __mapper_args__ = {"polymorphic_identity": "doctor"}


class Nurse(Staff):
    """Single-table inheritance: the protected ward is a column of `staff`."""

    ward: Mapped[str | None] = mapped_column(String(20))
    __mapper_args__ = {"polymorphic_identity": "nurse"}


class Patient(Base):
    __tablename__ = "patient"
    id: Mapped[int] = mapped_column(primary_key=True)
    email: Mapped[str] = mapped_column(String(120), unique=True)
    name: Mapped[str] = mapped_column(Text, index=True)
    born: Mapped[dt.date | None] = mapped_column(Date)
    balance: Mapped[Decimal] = mapped_column(Numeric(12, 2))
    seen: Mapped[dt.datetime | None] = mapped_column(DateTime(timezone=True))
    profile: Mapped[dict[str, Any] | None] = mapped_column(JSONB(none_as_null=True))
    allergies: Mapped[list[str] | None] = mapped_column(ARRAY(Text))
    readings: Mapped[list[int] | None] = mapped_column(ARRAY(Integer))
    city: Mapped[str] = mapped_column(String(20), server_default="none")
    visits: Mapped[list["Visit"]] = relationship(
        back_populates="patient", order_by="Visit.id", cascade="all, delete-orphan"
    )

    @hybrid_property
    def email_any_case(self) -> str:
        return self.email.lower()

    @email_any_case.inplace.comparator
    @classmethod
    def _email_any_case(cls) -> AnyCase:
        return AnyCase(cls.email)

    @hybrid_property
    def owes(self) -> bool:
        return self.balance < 0

    @owes.inplace.expression
    @classmethod
    def _owes(cls) -> Any:
        return cls.balance < Decimal(0)


class Visit(Base):
    __tablename__ = "visit"
    id: Mapped[int] = mapped_column(primary_key=True)
    patient_id: Mapped[int] = mapped_column(ForeignKey("patient.id"))
    doctor_id: Mapped[int | None] = mapped_column(ForeignKey("doctor.id"))
    note: Mapped[str] = mapped_column(Text)
    patient: Mapped[Patient] = relationship(back_populates="visits")
    doctor: Mapped[Doctor | None] = relationship(back_populates="visits")
