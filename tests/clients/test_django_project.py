"""A Django project with sensitive columns: migrations, its ORM, its admin, and `manage.py test`, unchanged.

The project knows nothing of the proxy; `manage.py test` makes a database of its own, which the proxy
protects by its name. The same tests run directly on plain columns first.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from proxy.config.model import (
    Address,
    CatalogAccess,
    ColumnConfig,
    PostgresConfig,
    SecretRef,
    TlsClient,
)
from tests.parts.apart import Apart
from tests.parts.postgres import Postgres
from tests.parts.tap import Tap

pytestmark = pytest.mark.system
pytest.importorskip("django", reason="Django is not installed")

SETTINGS = """
import os
SECRET_KEY = "only for tests"
INSTALLED_APPS = ["django.contrib.admin", "django.contrib.auth", "django.contrib.contenttypes",
                  "django.contrib.sessions", "django.contrib.messages", "people"]
MIDDLEWARE = ["django.contrib.sessions.middleware.SessionMiddleware",
              "django.contrib.auth.middleware.AuthenticationMiddleware",
              "django.contrib.messages.middleware.MessageMiddleware"]
TEMPLATES = [{"BACKEND": "django.template.backends.django.DjangoTemplates", "APP_DIRS": True,
              "OPTIONS": {"context_processors": [
                  "django.template.context_processors.request",
                  "django.contrib.auth.context_processors.auth",
                  "django.contrib.messages.context_processors.messages"]}}]
ROOT_URLCONF = "site_urls"
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
DATABASES = {"default": {"ENGINE": "django.db.backends.postgresql", "NAME": "shop",
    "HOST": "127.0.0.1", "PORT": os.environ["DB_PORT"], "USER": os.environ["DB_USER"],
    "PASSWORD": os.environ["DB_PASSWORD"], "TEST": {"NAME": os.environ["DB_NAME"], "TEMPLATE": "template0"}}}
"""
MODELS = """
from django.db import models
class Person(models.Model):
    name = models.CharField(max_length=80)
    email = models.CharField(max_length=120, unique=True)
    born = models.DateField(null=True)
    salary = models.DecimalField(max_digits=12, decimal_places=2, null=True)
    notes = models.JSONField(default=dict)
    team = models.CharField(max_length=20, default="none")
    calls = models.IntegerField(default=0, editable=False)
    alias = models.CharField(max_length=80, null=True, blank=True)
"""
ADMIN = """
from django.contrib import admin
from people.models import Person
@admin.register(Person)
class PersonAdmin(admin.ModelAdmin):
    list_display = ["name", "email", "born", "team"]
    list_filter = ["team", "born", ("alias", admin.EmptyFieldListFilter)]
    search_fields = ["=name", "email__exact"]
    ordering = ["-born", "id"]
"""
URLS = """
from django.contrib import admin
from django.urls import path
urlpatterns = [path("admin/", admin.site.urls)]
"""
TESTS = """
import datetime as dt
import io
import tempfile
from decimal import Decimal
from django.core.management import call_command
from django.contrib.auth.models import User
from django.db import IntegrityError, transaction
from django.core.paginator import Paginator
from django.db.models import Count, Exists, F, Max, Min, OuterRef, Q, Subquery
from django.test import TestCase
from people.models import Person

class People(TestCase):
    @classmethod
    def setUpTestData(cls):
        made = [Person(name=f"n{i}", email=f"canary-{i}@x", born=dt.date(2000, 1, i + 1),
                       salary=Decimal("10.50") * i, notes={"i": i}, team=f"t{i % 2}") for i in range(20)]
        Person.objects.bulk_create(made)

    def test_get_and_filter(self):
        p = Person.objects.get(email="canary-3@x")
        self.assertEqual((p.name, p.born, p.salary, p.notes),
                         ("n3", dt.date(2000, 1, 4), Decimal("31.50"), {"i": 3}))
        self.assertEqual(Person.objects.filter(email__in=["canary-1@x", "canary-2@x", "no"]).count(), 2)
        self.assertEqual(Person.objects.exclude(email="canary-1@x").count(), 19)
        self.assertEqual(Person.objects.filter(Q(name="n1") | Q(born=dt.date(2000, 1, 3))).count(), 2)
        self.assertEqual(Person.objects.filter(born__isnull=True).count(), 0)
        self.assertTrue(Person.objects.filter(email="canary-9@x").exists())

    def test_save_update_delete(self):
        p = Person.objects.get(email="canary-3@x")
        p.email = "canary-new@x"
        p.save()
        p.refresh_from_db()
        self.assertEqual(p.email, "canary-new@x")
        self.assertEqual(Person.objects.filter(name="n4").update(email="canary-u@x"), 1)
        self.assertEqual(Person.objects.filter(email="canary-u@x").delete()[0], 1)

    def test_get_or_create_and_friends(self):
        p, made = Person.objects.get_or_create(email="canary-5@x", defaults={"name": "other"})
        self.assertFalse(made)
        p, made = Person.objects.update_or_create(email="canary-g@x", defaults={"name": "canary-g"})
        self.assertTrue(made)
        p, made = Person.objects.update_or_create(email="canary-g@x", defaults={"name": "canary-h"})
        self.assertEqual((made, p.name), (False, "canary-h"))

    def test_unique_is_the_databases(self):
        with self.assertRaises(IntegrityError), transaction.atomic():
            Person.objects.create(name="x", email="canary-1@x")

    def test_bulk(self):
        people = list(Person.objects.order_by("id")[:5])
        for p in people:
            p.salary = Decimal("1.25")
        self.assertEqual(Person.objects.bulk_update(people, ["salary"]), 5)
        self.assertEqual(Person.objects.filter(salary=Decimal("1.25")).count(), 5)
        Person.objects.bulk_create(
            [Person(name="up", email="canary-1@x"), Person(name="up", email="canary-b@x")],
            update_conflicts=True, unique_fields=["email"], update_fields=["name"])
        self.assertEqual(Person.objects.filter(name="up").count(), 2)
        self.assertEqual(len(Person.objects.in_bulk(["canary-1@x"], field_name="email")), 1)

    def test_values_groups_and_iterators(self):
        self.assertIn("canary-0@x", list(Person.objects.values_list("email", flat=True)))
        self.assertEqual(Person.objects.values("email").distinct().count(), 20)
        groups = dict(Person.objects.values_list("team").annotate(n=Count("email")))
        self.assertEqual(groups, {"t0": 10, "t1": 10})
        self.assertEqual(sum(1 for _ in Person.objects.order_by("id").iterator(chunk_size=3)), 20)

    def test_the_admin_lists_adds_and_changes(self):
        self.client.force_login(User.objects.create_superuser("root", "r@x", "p"))
        self.assertContains(self.client.get("/admin/people/person/"), "canary-7@x")
        form = {"name": "A", "email": "canary-admin@x", "born": "1990-02-03", "salary": "5.00",
                "notes": '{"k": 1}', "team": "t0"}
        answer = self.client.post("/admin/people/person/add/", form)
        self.assertEqual(answer.status_code, 302, answer.content)
        p = Person.objects.get(email="canary-admin@x")
        page = f"/admin/people/person/{p.pk}/change/"
        self.assertContains(self.client.get(page), "canary-admin@x")
        self.assertEqual(self.client.post(page, {**form, "name": "B"}).status_code, 302)
        self.assertEqual(self.client.get("/admin/people/person/?team__exact=t1").status_code, 200)

    def listed(self, query):
        answer = self.client.get("/admin/people/person/?" + query)
        self.assertEqual(answer.status_code, 200, answer)
        return [p.name for p in answer.context["cl"].result_list]

    def test_the_admin_searches_filters_and_sorts(self):
        self.client.force_login(User.objects.create_superuser("root", "r@x", "p"))
        self.assertEqual(self.listed("q=N7"), ["n7"])
        self.assertEqual(self.listed("q=canary-3@x"), ["n3"])
        self.assertEqual(self.listed("q=nobody"), [])
        self.assertEqual(self.listed("")[:2], ["n19", "n18"])
        self.assertEqual(self.listed("o=3")[:2], ["n0", "n1"])
        self.assertEqual(self.listed("o=4.-3&team__exact=t1")[:2], ["n19", "n17"])
        self.assertEqual(self.listed("born__gte=2000-01-18&born__lt=2000-01-20"), ["n18", "n17"])
        self.assertEqual(self.listed("born__isnull=True"), [])
        self.assertEqual(len(self.listed("alias__isempty=1")), 20)
        ids = Person.objects.filter(name__in=["n1", "n2"]).values_list("pk", flat=True)
        done = self.client.post("/admin/people/person/", {
            "action": "delete_selected", "_selected_action": list(ids), "post": "yes"})
        self.assertEqual((done.status_code, Person.objects.count()), (302, 18))

    def test_ordering_ranges_and_pages(self):
        self.assertEqual(Person.objects.order_by("-salary").first().name, "n19")
        self.assertEqual(Person.objects.latest("born").name, "n19")
        self.assertEqual(Person.objects.aggregate(a=Min("born"), b=Max("salary")),
                         {"a": dt.date(2000, 1, 1), "b": Decimal("199.50")})
        self.assertEqual(Person.objects.filter(salary__range=(Decimal("10"), Decimal("32"))).count(), 3)
        self.assertEqual(Person.objects.filter(born__lte=dt.date(2000, 1, 4), name__iexact="N3").count(), 1)
        pages = Paginator(Person.objects.order_by("born"), 6)
        self.assertEqual((pages.num_pages, [p.name for p in pages.page(4)]), (4, ["n18", "n19"]))

    def test_expressions(self):
        Person.objects.filter(email="canary-1@x").update(calls=F("calls") + 3)
        self.assertEqual(Person.objects.get(email="canary-1@x").calls, 3)
        self.assertEqual(Person.objects.filter(name="n2").update(alias=F("name")), 1)
        p = Person.objects.get(alias="n2")
        self.assertEqual(Person.objects.filter(alias=F("name")).get(), p)
        p.name = F("alias")
        p.save()
        p.refresh_from_db()
        self.assertEqual(p.name, "n2")
        again = Person.objects.filter(name=OuterRef("alias"))
        self.assertEqual(Person.objects.filter(Exists(again)).count(), 1)
        one = Person.objects.annotate(e=Subquery(again.values("email")[:1])).get(pk=p.pk)
        self.assertEqual(one.e, "canary-2@x")

    def test_bulk_by_parts_and_in_bulk(self):
        made = Person.objects.bulk_create(
            [Person(name=f"canary-b{i}", email=f"canary-b{i}@x") for i in range(25)], batch_size=10)
        self.assertTrue(all(p.pk for p in made))
        for p in made:
            p.name, p.born, p.notes = p.name + "!", dt.date(1999, 1, 1), {"b": p.name}
        n = Person.objects.bulk_update(made, ["name", "born", "notes"], batch_size=7)
        self.assertEqual(n, 25)
        found = Person.objects.in_bulk([p.pk for p in made])
        self.assertEqual({(p.name, p.notes["b"]) for p in found.values()},
                         {(f"canary-b{i}!", f"canary-b{i}") for i in range(25)})
        by_email = Person.objects.in_bulk([p.email for p in made], field_name="email")
        self.assertEqual(len(by_email), 25)
        Person.objects.bulk_create([Person(name="x", email="canary-b1@x")], ignore_conflicts=True)
        self.assertEqual(Person.objects.get(email="canary-b1@x").name, "canary-b1!")

    def test_dumpdata_and_loaddata(self):
        before = list(Person.objects.order_by("id").values())
        with tempfile.NamedTemporaryFile(suffix=".json") as file:
            call_command("dumpdata", "people", output=file.name)
            Person.objects.all().delete()
            self.assertEqual(Person.objects.count(), 0)
            call_command("loaddata", file.name, stdout=io.StringIO())
            self.assertEqual(list(Person.objects.order_by("id").values()), before)
            call_command("loaddata", file.name, stdout=io.StringIO())  # over what is there
        self.assertEqual(list(Person.objects.order_by("id").values()), before)

    def test_locks_savepoints_and_instances(self):
        with transaction.atomic():
            p = Person.objects.select_for_update().get(email="canary-1@x")
            with self.assertRaises(IntegrityError), transaction.atomic():
                Person.objects.filter(pk=p.pk).update(email="canary-2@x")
            p.name = "canary-kept"
            p.save(update_fields=["name"])
        self.assertEqual(Person.objects.only("name").get(pk=p.pk).name, "canary-kept")
        self.assertEqual(Person.objects.defer("notes").get(pk=p.pk).notes, {"i": 1})
        one, two = (Person.objects.filter(team=t).values("name") for t in ("t0", "t1"))
        self.assertEqual(one.union(two).count(), 20)
        self.assertEqual(one.intersection(two).count(), 0)
        self.assertEqual(list(Person.objects.raw(
            "SELECT * FROM people_person WHERE email = %s", ["canary-2@x"]))[0].name, "n2")
"""
# column -> declared type and what is asked for beside equality
COLUMNS: dict[str, tuple[str, dict[str, object]]] = {
    "name": ("varchar(80)", {"transform": "upper"}), "email": ("varchar(120)", {}),
    "born": ("date", {"order": True}), "salary": ("numeric(12,2)", {"order": True}),
    "notes": ("jsonb", {}),
    "alias": ("varchar(80)", {"domain": "test_shop.public.people_person.name", "transform": "upper"}),
}  # fmt: skip


TEST = ("test", "--keepdb", "-v", "1")


def manage(project: Path, env: dict[str, str], *words: str) -> str:
    """What `manage.py` with these words says on standard error; it has to succeed."""
    more = {"DJANGO_SETTINGS_MODULE": "settings", "PYTHONPATH": str(project)}
    done = subprocess.run(
        [sys.executable, "-m", "django", *words], cwd=project, env={**os.environ, **env, **more},
        capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stderr


def test_a_django_project_runs_its_own_tests_with_sealed_columns() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.chmod(folder, 0o755)
        project = folder / "project"
        (project / "people" / "migrations").mkdir(parents=True)
        for path, text in {
            "settings.py": SETTINGS, "site_urls.py": URLS, "people/__init__.py": "",
            "people/models.py": MODELS, "people/admin.py": ADMIN, "people/tests.py": TESTS,
            "people/migrations/__init__.py": "",
        }.items():  # fmt: skip
            (project / path).write_text(text)
        server = Postgres(folder / "pg")
        server.start()
        os.environ["SG_TEST_PG"] = server.password
        try:
            import psycopg

            with psycopg.connect(server.dsn(), autocommit=True) as c:
                c.execute("CREATE DATABASE test_shop")
            with Tap("127.0.0.1", server.port) as tap:
                config = PostgresConfig(
                    listen=Address(),
                    upstream=Address(port=tap.port),
                    upstream_tls=TlsClient(mode="disable"),
                    database="test_shop",
                    catalog=CatalogAccess(user=server.user, password=SecretRef(env="SG_TEST_PG")),
                    columns=tuple(
                        ColumnConfig.model_validate(
                            {"column": f"public.people_person.{c}", "type": t, "ring": "app",
                             "equality": True, "acknowledge": ("order-correlated",)} | more
                        )
                        for c, (t, more) in COLUMNS.items()
                    ),
                )
                login = {"DB_USER": server.user, "DB_PASSWORD": server.password}
                direct = login | {"DB_PORT": str(server.port), "DB_NAME": "test_plain"}
                manage(project, direct, "makemigrations", "people")
                assert "Ran 13 tests" in manage(project, direct, *TEST)
                with Apart(config, folder) as proxy:
                    through = login | {"DB_PORT": str(proxy.port), "DB_NAME": "test_shop"}
                    assert "Ran 13 tests" in manage(project, through, *TEST)
                assert b"canary-" not in tap.to_server
        finally:
            server.stop()
