"""Visits, and more columns of a patient."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.add_column("patient", sa.Column("seen", sa.DateTime(timezone=True)))
    op.add_column("patient", sa.Column("profile", JSONB))
    op.add_column("patient", sa.Column("allergies", sa.ARRAY(sa.Text)))
    op.add_column("patient", sa.Column("readings", sa.ARRAY(sa.Integer)))
    op.create_table(
        "visit",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("patient_id", sa.Integer, sa.ForeignKey("patient.id"), nullable=False),
        sa.Column("doctor_id", sa.Integer, sa.ForeignKey("doctor.id")),
        sa.Column("note", sa.Text, nullable=False),
    )
    op.create_index("ix_patient_name", "patient", ["name"])


def downgrade() -> None:
    op.drop_index("ix_patient_name", "patient")
    op.drop_table("visit")
    for column in ("readings", "allergies", "profile", "seen"):
        op.drop_column("patient", column)
