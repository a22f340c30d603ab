"""From a YAML file to a checked `Config`; each problem with its file, line and column.

I/O module. The file is read as a tree of nodes whose scalars are all strings: `no` is not False
here, and `12:30` not 750; the types decide. All errors are reported at once. The environment
overrides a setting: SEALGATE_KEYS__CACHE__MAX_AGE_SECONDS=60, with a double
underscore between levels.
"""

import difflib
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from proxy.config.model import BucketConfig, Config, PostgresConfig
from proxy.config.policy import names_that_miss, unknown_groups
from proxy.errors import ConfigError

_PREFIX = "SEALGATE_"
Path_ = tuple[str | int, ...]


class _Tree:
    """A document as plain values, and where each of them stands."""

    def __init__(self) -> None:
        self.places: dict[Path_, tuple[int, int]] = {}
        self.problems: list[tuple[tuple[int, int], Path_, str]] = []

    def value(self, node: yaml.Node | None, path: Path_) -> Any:
        if node is None:
            return {}
        mark = (node.start_mark.line + 1, node.start_mark.column + 1)
        self.places.setdefault(path, mark)
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self.value(item, (*path, i)) for i, item in enumerate(node.value)]
        if node.tag.endswith(":null"):
            return None
        return str(node.value)

    def _mapping(self, node: yaml.MappingNode, path: Path_) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, item in node.value:
            name = str(key.value)
            mark = (key.start_mark.line + 1, key.start_mark.column + 1)
            if name in found:
                self.problems.append((mark, (*path, name), "is there twice; keep one"))
            self.places[(*path, name)] = mark
            found[name] = self.value(item, (*path, name))
        return found

    def place(self, path: Path_) -> tuple[int, int]:
        """Where the nearest known ancestor of `path` stands."""
        while path and path not in self.places:
            path = path[:-1]
        return self.places.get(path, (1, 1))


def load(path: str | Path, environ: Mapping[str, str] | None = None) -> Config:
    """The configuration. ConfigError: one line for each problem, `file:line:col: key: what`."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from None
    return parse(text, str(path), os.environ if environ is None else environ)


def parse(text: str, name: str, environ: Mapping[str, str]) -> Config:
    """As `load`, from a text."""
    tree = _Tree()
    try:
        document = tree.value(yaml.compose(text, Loader=yaml.SafeLoader), ())
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"{mark.line + 1}:{mark.column + 1}" if mark else "1:1"
        raise ConfigError(f"{name}:{where}: not YAML: {error.problem}") from None
    if not isinstance(document, dict):
        raise ConfigError(f"{name}:1:1: a mapping is expected at the top")
    _overlay(document, environ)
    problems = list(tree.problems)
    config = None
    try:
        config = Config.model_validate(document)
    except ValidationError as error:
        for item in error.errors():
            at = _as_written(_without_tags(item["loc"]), document)
            problems.append((tree.place(at), at, _explain(dict(item), document, at)))
    if config is not None:
        found = [(_as_written(at, document), what) for at, what in inconsistencies(config)]
        problems += [(tree.place(at), at, what) for at, what in found]
    if problems:
        lines = [
            f"{name}:{line}:{column}: {_dotted(at)}: {what}"
            for (line, column), at, what in sorted(problems, key=lambda p: p[0])
        ]
        raise ConfigError("\n".join(lines))
    assert config is not None
    return config


def dump(config: Config, generation: int) -> str:
    """A loaded configuration as one text, for another process of ours."""
    return json.dumps({"generation": generation, "config": config.model_dump(mode="json")})


def load_dump(path: str | Path) -> tuple[Config, int]:
    """What `dump` wrote to a file, and its generation."""
    return read_dump(Path(path).read_text(encoding="utf-8"))


def read_dump(text: str) -> tuple[Config, int]:
    """What `dump` made, and its generation."""
    document = json.loads(text)
    return Config.model_validate(document["config"]), int(document["generation"])


def inconsistencies(config: Config) -> list[tuple[Path_, str]]:
    """What each setting allows alone, but not together."""
    found: list[tuple[Path_, str]] = []
    if config.s3:
        origins = {o.name for o in config.s3.origins}
        for i, bucket in enumerate(config.s3.buckets):
            at: Path_ = ("s3", "buckets", i)
            if bucket.origin not in origins:
                names = ", ".join(sorted(origins)) or "none"
                found.append(((*at, "origin"), f"no origin {bucket.origin!r}; there are: {names}"))
            if needs_ring(bucket) and not bucket.ring:
                found.append((at, f"a {bucket.state} bucket needs `ring:`, the key ring's name"))
        keys = [c.access_key for c in config.s3.credentials]
        for i, key in enumerate(keys):
            if key in keys[:i]:
                found.append((("s3", "credentials", i, "access_key"), "is there twice; keep one"))
    if config.postgres:
        found += _login(config.postgres)
        columns = [c.column for c in config.postgres.columns]
        for i, name in enumerate(columns):
            at = ("postgres", "columns", i, "column")
            if name.count(".") != 2:
                found.append((at, f"{name!r} is not schema.table.column; write all three parts"))
            if name in columns[:i]:
                found.append((at, f"{name} is there twice; keep one"))
        found += _migrating(config.postgres)
    found += unknown_groups(config.policy)
    if config.postgres:
        database = config.postgres.database
        named = {f"{database}.{c.column}": c.domain for c in config.postgres.columns if c.domain}
        found += names_that_miss(config.policy, named)
    if not (config.postgres or config.s3):
        found.append(((), "neither `postgres:` nor `s3:`; write at least one of them"))
    return found


def _migrating(postgres: PostgresConfig) -> list[tuple[Path_, str]]:
    """What `state: migrating` cannot go with."""
    found: list[tuple[Path_, str]] = []
    for i, column in enumerate(postgres.columns):
        at: Path_ = ("postgres", "columns", i, "state")
        if column.state != "migrating":
            continue
        if column.layout != "generated":
            found.append((at, "migrating needs `layout: generated`"))
        if postgres.target_session_attrs in ("read-only", "standby", "prefer-standby"):
            found.append((at, "migrating needs sessions on the primary; see target_session_attrs"))
    return found


def _login(postgres: PostgresConfig) -> list[tuple[Path_, str]]:
    """TLS and authentication that cannot work together."""
    found: list[tuple[Path_, str]] = []
    auth, tls = postgres.auth, postgres.tls
    at: Path_ = ("postgres", "auth")
    clients = tls.clients if tls is not None else None
    if auth.mode.startswith("certificate") and clients is None:
        found.append(((*at, "mode"), "certificates of clients need `postgres.tls.clients:`"))
    elif auth.mode.startswith("certificate") and clients and not clients.must_match_user:
        found.append(((*at, "mode"), "needs `postgres.tls.clients.must_match_user: true`"))
    if auth.mode == "certificate-or-scram" and clients and clients.required:
        found.append(((*at, "mode"), "needs `postgres.tls.clients.required: false`"))
    if auth.channel_binding == "require" and tls is None:
        found.append(((*at, "channel_binding"), "`require` needs `postgres.tls:`"))
    if auth.mode == "scram" and not auth.users_file and not any(u.secret for u in auth.users):
        found.append(((*at, "mode"), "scram needs `users_file:`, or `users:` with secrets"))
    names = [u.user for u in auth.users]
    for i, name in enumerate(names):
        if name in names[:i]:
            found.append(((*at, "users", i, "user"), f"{name} is there twice; keep one"))
    if any(not a.unix and not a.port for a in postgres.upstream):
        found.append((("postgres", "upstream"), "an address has no port; write host:5432"))
    upstream = postgres.upstream_tls
    if (upstream.cert_file is None) != (upstream.key_file is None):
        found.append((("postgres", "upstream_tls"), "write both cert_file and key_file, or none"))
    return found


def digest(config: Config) -> str:
    """SHA-256 of a configuration, for the audit log; it holds no secret."""
    return hashlib.sha256(config.model_dump_json().encode()).hexdigest()


def policy_digest(config: Config) -> str:
    """SHA-256 of the policy alone."""
    return hashlib.sha256(config.policy.model_dump_json().encode()).hexdigest()


def needs_ring(bucket: BucketConfig) -> bool:
    return bucket.state != "plain"


def rings_of(config: Config) -> list[str]:
    """Every ring that the configuration names, sorted."""
    names: set[str] = set()
    if config.postgres:
        names |= {c.ring for c in config.postgres.columns}
    if config.s3:
        names |= {b.ring for b in config.s3.buckets if b.ring}
    return sorted(names)


def _overlay(document: dict[str, Any], environ: Mapping[str, str]) -> None:
    for name, value in environ.items():
        if not name.startswith(_PREFIX) or "__" not in name:
            continue
        *levels, last = name[len(_PREFIX) :].lower().split("__")
        place = document
        for level in levels:
            place = place.setdefault(level, {})
            if not isinstance(place, dict):
                raise ConfigError(f"environment variable {name}: {level} is not a section")
        place[last] = value


def _without_tags(loc: tuple[str | int, ...]) -> Path_:
    """Pydantic puts the chosen kind of a union into the path; the file has no such level."""
    kinds = ("pkcs11", "pkcs11-cluster", "software")
    tags = {*(("provider", kind) for kind in kinds), ("store", "file")}
    kept: list[str | int] = []
    for part in loc:
        if kept and (kept[-1], part) in tags:
            continue
        kept.append(part)
    return tuple(kept)


def _as_written(at: Path_, document: Mapping[str, Any]) -> Path_:
    """A policy that is a list has its rules at once, without the level `rules`."""
    if at[:2] == ("policy", "rules") and isinstance(document.get("policy"), list):
        return ("policy", *at[2:])
    return at


def _dotted(at: Path_) -> str:
    return ".".join(str(p) for p in at) or "the file"


def _explain(item: dict[str, Any], document: Any, at: Path_) -> str:
    kind, got = item["type"], item.get("input")
    if kind == "missing":
        return "is missing; write it"
    if kind == "extra_forbidden":
        known = _names_at(Config, at[:-1])
        close = difflib.get_close_matches(str(at[-1]), known, 1)
        hint = f"; did you mean {close[0]!r}?" if close else f"; known here: {', '.join(known)}"
        return f"no such setting{hint}"
    shown = f" (got {got!r})" if isinstance(got, str) and len(got) < 60 else ""
    return f"{item['msg']}{shown}"


def _names_at(model: type[BaseModel], at: Path_) -> list[str]:
    """Names of the settings at a path, as far as the types tell without the document."""
    options: list[type[BaseModel]] = [model]
    for part in at:
        if isinstance(part, int):
            continue
        options = [
            m
            for o in options
            if part in o.model_fields
            for m in _models(o.model_fields[part].annotation)
        ]
    return sorted({name for o in options for name in o.model_fields})


def _models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [m for a in getattr(annotation, "__args__", ()) for m in _models(a)]
