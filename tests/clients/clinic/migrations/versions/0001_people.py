"""Staff and patients."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "staff",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("kind", sa.String(10), nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("ward", sa.String(20)),
    )
    op.create_table(
        "doctor",
        sa.Column("id", sa.Integer, sa.ForeignKey("staff.id"), primary_key=True),
        sa.Column("licence", sa.String(20), nullable=False, unique=True),
    )
    op.create_table(
        "patient",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("email", sa.String(120), nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("born", sa.Date),
        sa.Column("balance", sa.Numeric(12, 2), nullable=False),
        sa.Column("city", sa.String(20), nullable=False, server_default="none"),
        sa.UniqueConstraint("email", name="patient_email_key"),
    )


def downgrade() -> None:
    for table in ("patient", "doctor", "staff"):
        op.drop_table(table)
