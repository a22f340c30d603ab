"""HSMs for tests: tokens of SoftHSM and of NSS softokn that hold given keys, and a module that
forwards to one of them and fails, waits or hangs as it is told."""

import ctypes
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
SOFTOKN = next(
    (
        str(path)
        for folder in ("/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64", "/usr/lib")
        for path in (Path(folder) / "libsoftokn3.so", Path(folder) / "nss/libsoftokn3.so")
        if path.exists()
    ),
    None,
)  # fmt: skip
PIN = "246810"
LABEL = "sealgate"


def softhsm(folder: Path, module: str, root: bytes, wrap: bytes) -> dict[str, Any]:
    """A SoftHSM of its own (a copy of the library, so that several live in one process), with a
    token that holds these two keys: the settings of a member."""
    (folder / "tokens").mkdir(parents=True)
    conf = folder / "softhsm2.conf"
    conf.write_text(
        f"directories.tokendir = {folder}/tokens\nobjectstore.backend = file\nlog.level = ERROR\n"
    )
    copy = folder / "libsofthsm2.so"
    shutil.copy(module, copy)
    environment = {"SOFTHSM2_CONF": str(conf)}
    token = ["--label", LABEL, "--so-pin", "12345678", "--pin", PIN]
    subprocess.run(
        ["softhsm2-util", "--init-token", "--free", *token],
        env={**os.environ, **environment}, check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    settings = {"module": str(copy), "token_label": LABEL, "environment": environment}
    put_keys(settings, root, wrap)
    return {**settings, "pin": {"env": "TOKEN_PIN"}}


def softokn(folder: Path, root: bytes, wrap: bytes) -> dict[str, Any]:
    """The same of NSS: a database in `folder`, its token initialised through PKCS #11."""
    assert SOFTOKN is not None
    folder.mkdir(parents=True)
    settings = {
        "module": SOFTOKN,
        "module_parameters": f"configdir='sql:{folder}' certPrefix='' keyPrefix='' "
        "secmod='secmod.db' flags=",
        "token_label": "NSS Certificate DB",
    }
    put_keys(settings, root, wrap)
    return {**settings, "pin": {"env": "TOKEN_PIN"}}


def faulty(folder: Path, member: dict[str, Any]) -> dict[str, Any]:
    """`member` behind a module of ours, in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    built = folder / "libfaulty.so"
    subprocess.run(
        ["cc", "-shared", "-fPIC", "-O1", "-I", str(ROOT / "native"), "-o", str(built),
         str(Path(__file__).with_name("faulty_hsm.c")), "-ldl"],
        check=True,
    )  # fmt: skip
    Path(f"{built}.target").write_text(member["module"] + "\n")
    return {**member, "module": str(built)}


def tell(member: dict[str, Any], *lines: str) -> None:
    """What the module does from the next call on; nothing: it forwards."""
    control = Path(f"{member['module']}.control")
    control.with_suffix(".new").write_text("".join(f"{line}\n" for line in lines))
    control.with_suffix(".new").replace(control)


def put_keys(settings: dict[str, Any], root: bytes, wrap: bytes) -> None:
    """Both keys, as an HSM's cloning would bring them; in a process of its own."""
    subprocess.run(
        [sys.executable, "-m", __name__, settings["module"], settings.get("module_parameters", ""),
         settings["token_label"], root.hex(), wrap.hex()],
        cwd=ROOT, env={**os.environ, **settings.get("environment", {})}, check=True,
    )  # fmt: skip


_PLACES = {
    "C_Initialize": 0, "C_Finalize": 1, "C_GetSlotList": 4, "C_GetTokenInfo": 6, "C_InitPIN": 10,
    "C_OpenSession": 12, "C_Login": 18, "C_Logout": 19, "C_CreateObject": 20,
}  # fmt: skip


class _Args(ctypes.Structure):
    _fields_ = [
        ("mutex", ctypes.c_void_p * 4), ("flags", ctypes.c_ulong),
        ("parameters", ctypes.c_char_p), ("reserved", ctypes.c_void_p),
    ]  # fmt: skip


class _Attribute(ctypes.Structure):
    _fields_ = [
        ("type", ctypes.c_ulong),
        ("value", ctypes.c_void_p),
        ("size", ctypes.c_ulong),
    ]


def _put(path: str, parameters: str, label: str, root: bytes, wrap: bytes) -> None:
    table = ctypes.POINTER(ctypes.c_void_p)()  # a version, then pointers; NSS exports no others
    assert ctypes.CDLL(path).C_GetFunctionList(ctypes.byref(table)) == 0

    def attempt(name: str, *arguments: Any) -> int:
        function = ctypes.CFUNCTYPE(ctypes.c_ulong)(table[1 + _PLACES[name]] or 0)
        return int(function(*arguments))

    def call(name: str, *arguments: Any) -> None:
        code = attempt(name, *arguments)
        assert code == 0, f"{name}: {code:#x}"

    arguments = _Args(flags=2, parameters=parameters.encode() or None)
    call("C_Initialize", ctypes.byref(arguments))
    slots, count = (ctypes.c_ulong * 16)(), ctypes.c_ulong(16)
    call("C_GetSlotList", 1, None, ctypes.byref(count))
    count = ctypes.c_ulong(16)
    call("C_GetSlotList", 1, slots, ctypes.byref(count))
    info = ctypes.create_string_buffer(512)
    for slot in slots[: count.value]:
        call("C_GetTokenInfo", ctypes.c_ulong(slot), info)
        if info.raw[:32].decode().strip() == label:
            break
    else:
        raise AssertionError("no token of this label")
    session = ctypes.c_ulong()
    call(
        "C_OpenSession", ctypes.c_ulong(slot), ctypes.c_ulong(6), None, None, ctypes.byref(session)
    )
    if parameters:  # NSS: a fresh database has an empty SO PIN and no user PIN
        call("C_Login", session, ctypes.c_ulong(0), b"", ctypes.c_ulong(0))
        attempt("C_InitPIN", session, PIN.encode(), ctypes.c_ulong(len(PIN)))
        attempt("C_Logout", session)
    call("C_Login", session, ctypes.c_ulong(1), PIN.encode(), ctypes.c_ulong(len(PIN)))
    for name, value, uses in (("sealgate-root", root, (0x104, 0x105)),
                              ("sealgate-wrap", wrap, (0x106, 0x107))):  # fmt: skip
        number = ctypes.c_ulong
        template: list[tuple[int, bytes]] = [
            (0x0, bytes(number(4))), (0x100, bytes(number(0x1F))), (0x1, b"\1"), (0x2, b"\1"),
            (0x103, b"\1"), (0x162, b"\0"), (0x3, name.encode()), (0x102, name.encode().rjust(16, b"-")),
            (0x11, value), *((use, b"\1" if use in uses else b"\0")
                             for use in (0x104, 0x105, 0x106, 0x107)),
        ]  # fmt: skip
        kept = [ctypes.create_string_buffer(raw, len(raw)) for _, raw in template]
        items = (_Attribute * len(template))(
            *(
                _Attribute(kind, ctypes.cast(buffer, ctypes.c_void_p), len(raw))
                for (kind, raw), buffer in zip(template, kept, strict=True)
            )
        )
        handle = ctypes.c_ulong()
        call("C_CreateObject", session, items, number(len(template)), ctypes.byref(handle))
    call("C_Finalize", None)


if __name__ == "__main__":
    _put(
        sys.argv[1],
        sys.argv[2],
        sys.argv[3],
        bytes.fromhex(sys.argv[4]),
        bytes.fromhex(sys.argv[5]),
    )
