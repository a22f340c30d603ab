"""Django and Alembic change a schema with protected columns, through the proxy, as they always do."""

import os
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy import (
    Column,
    ForeignKey,
    Integer,
    MetaData,
    String,
    Table,
    UniqueConstraint,
    create_engine,
)

from proxy.config.model import (
    ColumnConfig,
)
from tests.parts.database import database
from tests.parts.keyring import software_keys
from tests.parts.listening import Listening

pytestmark = pytest.mark.system


def column(name: str, kind: str, equality: bool = True, **more: object) -> ColumnConfig:
    return ColumnConfig(column=f"public.{name}", type=kind, ring="app", equality=equality, **more)  # type: ignore[arg-type]


COLUMNS = (
    column("shop_person.email", "varchar(80)"), column("shop_person.phone", "varchar(20)"),
    column("shop_person.mobile", "varchar(20)", domain="shop.public.shop_person.phone"),
    column("shop_person.note", "text", False, acknowledge=("equal-defaults",)),
    column("members.email", "varchar(80)"), column("members.nick", "varchar(20)"),
    column("orders.buyer", "varchar(80)", domain="shop.public.members.email"),
)  # fmt: skip


@pytest.fixture(scope="module")
def stack():
    with (
        database(COLUMNS, catalog_masking=True) as made,
        Listening(made.config, lambda: software_keys(made.folder)) as proxy,
    ):
        yield made.server, proxy


# ---- Django --------------------------------------------------------------------------------------

SETTINGS = """
SECRET_KEY = "x"
INSTALLED_APPS = ["shop"]
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
DATABASES = {{"default": {{"ENGINE": "django.db.backends.postgresql", "NAME": "{database}",
    "USER": "{user}", "PASSWORD": "{password}", "HOST": "127.0.0.1", "PORT": "{port}"}}}}
"""
MODELS = """from django.db import models


class Person(models.Model):
    {}

    class Meta:
        {}
"""
VERSIONS = [
    (["email = models.CharField(max_length=80, unique=True)", "age = models.IntegerField(default=0)"],
     ["ordering = ['id']"]),
    (["email = models.CharField(max_length=80, unique=True)", "age = models.IntegerField(default=0)",
      "phone = models.CharField(max_length=20, db_index=True, default='unknown')",
      "note = models.TextField(default='')"],
     ["constraints = [models.UniqueConstraint(fields=['phone', 'id'], name='phone_age')]"]),
    (["email = models.CharField(max_length=80, db_index=True, null=True)",
      "mobile = models.CharField(max_length=20, default='unknown')"],
     ["indexes = [models.Index(fields=['mobile', 'email'], name='both')]"]),
]  # fmt: skip
USE = """
import django; django.setup()
from shop.models import Person
first = {first!r}
if first:
    Person.objects.create(email="a@x")
    Person.objects.bulk_create([Person(email=f"{{i}}@x") for i in range(5)])
found = Person.objects.get(email="a@x")
assert Person.objects.filter(email__in=["1@x", "2@x"]).count() == 2
print({show})
"""


def django(folder: Path, *words: str) -> str:
    env = {**os.environ, "DJANGO_SETTINGS_MODULE": "settings", "PYTHONPATH": str(folder)}
    done = subprocess.run(
        [sys.executable, *words], cwd=folder, env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_django_migrates_and_uses_its_models(stack, tmp_path):
    server, proxy = stack
    (tmp_path / "settings.py").write_text(
        SETTINGS.format(
            database=server.database, user=server.user, password=server.password, port=proxy.port
        )
    )
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "__init__.py").write_text("")
    shows = ["found.age", "(found.phone, found.note)", "found.mobile"]
    for number, ((fields, meta), show) in enumerate(zip(VERSIONS, shows, strict=True)):
        (tmp_path / "shop" / "models.py").write_text(
            MODELS.format("\n    ".join(fields), "\n        ".join(meta))
        )
        if number == 2:  # an interactive question: was phone renamed to mobile?
            (tmp_path / "shop" / "migrations" / "0003_step.py").write_text(THIRD)
            assert "No changes" in django(
                tmp_path, "-m", "django", "makemigrations", "--dry-run", "shop"
            )
        else:
            django(tmp_path, "-m", "django", "makemigrations", "-n", "step", "shop")
        django(tmp_path, "-m", "django", "sqlmigrate", "shop", f"000{number + 1}")
        django(tmp_path, "-m", "django", "migrate")
        out = django(tmp_path, "-c", USE.format(first=number == 0, show=show))
        assert out.strip() == ["0", "('unknown', '')", "unknown"][number]
    inspected = django(tmp_path, "-m", "django", "inspectdb", "shop_person")
    assert "email = models.CharField(max_length=80" in inspected and "__bx" not in inspected
    django(tmp_path, "-m", "django", "migrate", "shop", "0001")
    django(tmp_path, "-m", "django", "migrate", "shop", "zero")
    with psycopg.connect(server.dsn()) as direct:
        assert direct.execute("SELECT to_regclass('shop_person')").fetchone() == (None,)


THIRD = """
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("shop", "0002_step")]
    operations = [
        migrations.RemoveConstraint("person", "phone_age"),
        migrations.AlterField("person", "phone", models.CharField(max_length=20, default="unknown")),
        migrations.RenameField("person", "phone", "mobile"),
        migrations.RemoveField("person", "age"),
        migrations.RemoveField("person", "note"),
        migrations.AlterField(
            "person", "email", models.CharField(max_length=80, db_index=True, null=True)
        ),
        migrations.AddIndex("person", models.Index(fields=["mobile", "email"], name="both")),
    ]
"""


# ---- Alembic -------------------------------------------------------------------------------------


def metadata(version: int) -> MetaData:
    found = MetaData()
    columns = [Column("id", Integer, primary_key=True), Column("email", String(80), nullable=False)]
    if version == 2:
        columns.append(Column("nick", String(20), index=True))
    Table("members", found, *columns, UniqueConstraint("email", name="uq_members_email"))
    if version == 2:
        Table(
            "orders", found, Column("id", Integer, primary_key=True),
            Column("buyer", String(80), ForeignKey("members.email", name="fk_buyer")),
        )  # fmt: skip
    return found


ENV = """
from alembic import context
from sqlalchemy import create_engine
config = context.config
engine = create_engine(config.get_main_option("url"))
with engine.connect() as connection:
    context.configure(
        connection=connection,
        target_metadata=config.attributes["metadata"],
        include_name=lambda name, kind, parents: kind != "table" or name in ("members", "orders"),
    )
    with context.begin_transaction():
        context.run_migrations()
engine.dispose()
"""
MAKO = """revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}
import sqlalchemy as sa
from alembic import op
${imports if imports else ""}


def upgrade():
    ${upgrades if upgrades else "pass"}


def downgrade():
    ${downgrades if downgrades else "pass"}
"""


def test_alembic_generates_and_runs_revisions(stack, tmp_path):
    server, proxy = stack
    url = f"postgresql+psycopg://{server.user}:{server.password}@127.0.0.1:{proxy.port}/shop"
    (tmp_path / "versions").mkdir()
    (tmp_path / "env.py").write_text(ENV)
    (tmp_path / "script.py.mako").write_text(MAKO)
    config = Config()
    config.set_main_option("script_location", str(tmp_path))
    config.set_main_option("path_separator", "os")
    config.set_main_option("url", url)
    engine = create_engine(url)
    for version in (1, 2):
        config.attributes["metadata"] = metadata(version)
        command.revision(config, "step", autogenerate=True, rev_id=str(version))
        command.upgrade(config, "head")
        with engine.connect() as connection:
            seen = MigrationContext.configure(
                connection,
                opts={
                    "include_name": lambda n, kind, _: kind != "table" or n in ("members", "orders")
                },
            )
            left = compare_metadata(seen, metadata(version))
        assert left == []
    with engine.begin() as connection:
        connection.exec_driver_sql("INSERT INTO members VALUES (1, 'a@x', 'n')")
        connection.exec_driver_sql("INSERT INTO orders VALUES (1, 'a@x')")
        found = connection.exec_driver_sql("SELECT nick FROM members WHERE email = 'a@x'").scalar()
        assert found == "n"
        connection.exec_driver_sql("DELETE FROM orders")
    with psycopg.connect(server.dsn()) as direct:
        assert direct.execute("SELECT get_byte(email, 0) FROM members").fetchone() == (197,)
    command.downgrade(config, "base")
    engine.dispose()
    with psycopg.connect(server.dsn()) as direct:
        assert direct.execute("SELECT to_regclass('members')").fetchone() == (None,)
