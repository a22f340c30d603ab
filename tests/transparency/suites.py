"""The outside test suites: where each comes from and how it is run against a server.

None of them is part of this project: what a package registry offers is fetched with pip or npm when
it is needed; the suites of psycopg 3 and node-postgres are in their repositories alone, and run
where a checkout is given (`--source psycopg=DIR`).
"""

import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import psycopg

from tests.transparency.outcome import from_junit


@dataclass(frozen=True)
class Target:
    """Where a run of a suite connects to, as a superuser."""

    port: int
    user: str
    password: str
    database: str

    @property
    def env(self) -> dict[str, str]:
        return {
            "PGHOST": "127.0.0.1",
            "PGPORT": str(self.port),
            "PGUSER": self.user,
            "PGPASSWORD": self.password,
            "PGDATABASE": self.database,
        }

    def url(self, scheme: str) -> str:
        return f"{scheme}://{self.user}:{self.password}@127.0.0.1:{self.port}/{self.database}"

    def dsn(self) -> str:
        return (
            f"host=127.0.0.1 port={self.port} user={self.user} password={self.password} "
            f"dbname={self.database}"
        )


@dataclass(frozen=True)
class Suite:
    """`run(folder, target, select)` gives the outcome of each test."""

    name: str
    fetch: Callable[[Path, Path | None], Path]
    run: Callable[[Path, Target, Sequence[str]], dict[str, str]]
    prepare: Sequence[str] = ()  # statements, run directly in the fresh database
    settings: dict[str, str] = field(default_factory=dict)  # of the server
    bounded: Sequence[str] = ()  # what runs in CI; () is all
    # Ends of test ids whose outcome says how many bytes lie between the two ends, or how soon
    # something came: a relay of any kind changes that, PgBouncer or HAProxy as well.
    timed: Sequence[str] = ()


def sdist(package: str) -> Callable[[Path, Path | None], Path]:
    """Unpacks the source distribution of the installed version of `package`."""

    def fetch(cache: Path, source: Path | None) -> Path:
        if source is not None:
            return source
        release = version(package)
        folder = cache / f"{package.lower()}-{release}"
        if not folder.exists():
            cache.mkdir(parents=True, exist_ok=True)
            command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-input",
                       "--no-build-isolation", "--no-binary", ":all:", "-d", str(cache),
                       f"{package}=={release}"]  # fmt: skip
            subprocess.run(command, check=True)
            packed = next(cache.glob(f"{package.lower()}-{release}.tar.gz"))
            with tarfile.open(packed) as archive:
                archive.extractall(cache, filter="data")
        return folder

    return fetch


def given(cache: Path, source: Path | None) -> Path:
    if source is None:
        raise FileNotFoundError("this suite is in its repository only: give --source NAME=DIR")
    return source


def _pytest(
    folder: Path, target: Target, arguments: Sequence[str], env: dict[str, str]
) -> dict[str, str]:
    report = folder / f"junit-{target.port}-{os.getpid()}.xml"
    report.unlink(missing_ok=True)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:randomly",
               "--timeout=120", f"--junitxml={report}", *arguments]  # fmt: skip
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("PG", "PYTEST", "PYTHON"))}
    with (folder / f"output-{target.port}.txt").open("ab") as log:
        done = subprocess.run(
            command, cwd=folder, env=clean | env, stdout=log, stderr=log, timeout=3000, check=False
        )
    if done.returncode not in (0, 1) or not report.exists():  # 2: a file could not even be read
        raise RuntimeError(f"{folder.name} did not run, see output-{target.port}.txt in {folder}")
    return from_junit(report)


def _asyncpg(folder: Path, target: Target, select: Sequence[str]) -> dict[str, str]:
    own = folder / "alone"  # beside the installed package, not the source tree of it
    if not own.exists():
        own.mkdir()
        shutil.copytree(folder / "tests", own / "tests")
    picked = [f"tests/{name}" for name in select] or ["tests"]
    arguments = ["-k", "not flake8 and not mypy and not sourcecode", *picked]
    libraries = _libraries(folder.parent / "libraries")
    return _pytest(own, target, arguments, target.env | {"PYTHONPATH": str(libraries)})


def _sqlalchemy(driver: str) -> Callable[[Path, Target, Sequence[str]], dict[str, str]]:
    def run(folder: Path, target: Target, select: Sequence[str]) -> dict[str, str]:
        picked = list(select) or ["test/dialect/test_suite.py", "test/dialect/postgresql"]
        arguments = ["--dburi", target.url(f"postgresql+{driver}"), "--maxfail=100000", *picked]
        return _pytest(folder, target, arguments, {})

    return run


def _psycopg(folder: Path, target: Target, select: Sequence[str]) -> dict[str, str]:
    libraries = _libraries(Path("build", "outside", "libraries").absolute())
    own = folder / "alone"
    if not own.exists():
        own.mkdir()
        shutil.copytree(folder / "tests", own / "tests")
    picked = list(select) or ["tests"]
    arguments = ["-m", "not refcount and not mypy and not subprocess", "-o", "addopts=", *picked]
    env = {"PSYCOPG_TEST_DSN": target.dsn(), "PYTHONPATH": str(libraries)}
    return _pytest(own, target, arguments, env)


def _libraries(folder: Path) -> Path:
    """What the suites need beside our own environment, in a folder of its own."""
    if not folder.exists():
        command = [sys.executable, "-m", "pip", "install", "-q", "--no-input", "--no-deps"]
        names = ("distro", "anyio", "sniffio", "idna", "psycopg-pool", "pproxy")
        subprocess.run([*command, "--target", str(folder), *names], check=True)
    return folder


def _node(folder: Path, target: Target, select: Sequence[str]) -> dict[str, str]:
    """One process for each file, as its own Makefile does; a file's steps are tests of their own."""
    package = _node_package(folder)
    found: dict[str, str] = {}
    files = sorted((package / "test" / "integration").rglob("*-tests.js"))
    env = {k: v for k, v in os.environ.items() if not k.startswith("PG")} | target.env
    for file in files:
        name = str(file.relative_to(package / "test"))
        if select and not any(word in name for word in select):
            continue
        try:
            done = subprocess.run(
                ["node", str(file), target.url("postgres")],
                cwd=package, env=env | {"PGTESTNOSSL": "1"}, capture_output=True, text=True,
                timeout=60, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            found[name] = "error"
            continue
        found[name] = "passed" if done.returncode == 0 else "failed"
        for line in done.stdout.splitlines():
            step, mark, rest = line.strip().partition(" ✔")
            if mark and not rest:
                found[f"{name}::{step}"] = "passed"
        if done.returncode:
            with (folder / f"output-{target.port}.txt").open("a") as log:
                log.write(f"== {name}\n{done.stdout}{done.stderr}\n")
    return found


def _node_package(folder: Path) -> Path:
    """`pg` as npm installs it, with the repository's tests put beside it."""
    own = folder / "alone"
    package = own / "node_modules" / "pg"
    if not (package / "test").exists():
        own.mkdir(exist_ok=True)
        names = ["pg", "async@2.6.4", "bluebird@3.7.2", "co@4.6.0", "pg-copy-streams@0.3.0",
                 "pg-cursor"]  # fmt: skip
        command = ["npm", "install", "--silent", "--no-audit", "--no-fund", "--prefix", str(own)]
        subprocess.run([*command, *names], check=True)
        shutil.copytree(folder / "packages" / "pg" / "test", package / "test")
    return package


SUITES = {
    s.name: s
    for s in (
        Suite(
            "asyncpg", sdist("asyncpg"), _asyncpg,
            bounded=("test_prepare.py", "test_execute.py", "test_cursor.py", "test_copy.py",
                     "test_transaction.py", "test_cancellation.py", "test_listeners.py"),
            # expects the server's error before 4 MiB are written: one more pair of sockets holds them
            timed=("test_executemany_server_failure_during_writes",),
        ),
        *(
            Suite(
                f"sqlalchemy-{driver}", sdist("SQLAlchemy"), _sqlalchemy(driver),
                prepare=("CREATE SCHEMA test_schema", "CREATE SCHEMA test_schema_2",
                         "CREATE EXTENSION hstore", "CREATE EXTENSION citext"),
                settings={"max_prepared_transactions": "10"},
                bounded=("test/dialect/postgresql/test_query.py",
                         "test/dialect/postgresql/test_on_conflict.py"),
            )
            for driver in ("psycopg", "asyncpg")
        ),
        Suite(
            "psycopg", given, _psycopg,
            prepare=("CREATE EXTENSION hstore",), settings={"max_prepared_transactions": "10"},
        ),
        Suite("node-postgres", given, _node),
    )
}  # fmt: skip


def prepare(suite: Suite, target: Target) -> None:
    """Makes the fresh database of a run; `target` must be the server itself."""
    admin = Target(target.port, target.user, target.password, "postgres")
    with psycopg.connect(admin.dsn(), autocommit=True) as c:
        c.execute(f'CREATE DATABASE "{target.database}"')
    with psycopg.connect(target.dsn(), autocommit=True) as c:
        for statement in suite.prepare:
            c.execute(statement)
