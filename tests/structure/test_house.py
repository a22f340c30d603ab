"""Do the modules keep the rules of the house: who imports whom, and who may do I/O?"""

import ast
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODULES = sorted((ROOT / "proxy").rglob("*.py"))

# package -> packages of ours that it may import (itself always)
LEAVES = {"errors", "native", "metrics", "config", "policy"}
BELOW = LEAVES | {"crypto", "keys", "audit"}
ALLOWED = {
    "errors": set(), "native": set(), "metrics": set(), "config": {"errors"},
    "policy": {"errors", "config", "crypto"},
    "crypto": {"native", "errors"},
    "audit": LEAVES | {"crypto"},
    "keys": BELOW,
    "postgres": BELOW,
    "s3": BELOW,
    "runtime": BELOW | {"postgres", "s3"},
    "cli": BELOW | {"postgres", "s3", "runtime"},
}  # fmt: skip

IO = {"asyncio", "socket", "ssl", "threading", "aiohttp", "asyncpg", "aiobotocore", "pkcs11"}
PURE_PACKAGES = ("crypto", "policy", "postgres/types")


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            if node.module == "proxy":
                found |= {f"proxy.{alias.name}" for alias in node.names}
            else:
                found.add(node.module)
    return found


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_module_imports_by_itself(path: Path) -> None:
    importlib.import_module(name_of(path))


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_point_one_way(path: Path) -> None:
    parts = name_of(path).split(".")
    if len(parts) < 2:
        return
    ours = {name.split(".")[1] for name in imports(path) if name.startswith("proxy.")}
    ours.discard("_native" if parts[1] == "native" else "")
    wrong = ours - ALLOWED[parts[1]] - {parts[1], "__version__"}
    assert not wrong, f"{name_of(path)} imports {sorted(wrong)}"


def test_pure_packages_do_no_io() -> None:
    for package in PURE_PACKAGES:
        for path in sorted((ROOT / "proxy" / package).rglob("*.py")):
            used = {name.split(".")[0] for name in imports(path)} & IO
            assert not used, f"{name_of(path)} imports {sorted(used)}"


def test_only_the_door_imports_the_compiled_module() -> None:
    users = [name_of(p) for p in MODULES if "proxy._native" in imports(p)]
    assert users == ["proxy.native"]


def test_no_module_is_past_six_hundred_lines() -> None:
    long = {name_of(p): n for p in MODULES if (n := len(p.read_text().splitlines())) > 600}
    assert not long


def test_every_module_opens_with_what_it_answers() -> None:
    silent = [
        name_of(p) for p in MODULES if p.read_text() and not ast.get_docstring(ast.parse(p.read_text()))
    ]  # fmt: skip
    assert not silent
