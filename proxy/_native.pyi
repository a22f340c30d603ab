"""Types of the compiled module. native/_native.pyx includes the parts named in each heading."""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import Any

# ---- arena.pyx -------------------------------------------------------------------------------
FLAVOUR: str  # "release" | "debug"

class NativeError(Exception): ...
class KeyGone(NativeError): ...  # a handle was used after its slot was wiped
class OpenFailed(NativeError): ...  # authentication failed: one class for every cause
class ArenaFull(NativeError): ...

class KeyHandle:
    """32 secret bytes in the locked arena. No method gives them out; no copy, no pickle."""

    @property
    def alive(self) -> bool: ...
    def wipe(self) -> None: ...
    def same(self, other: KeyHandle) -> bool: ...  # constant time

def arena_init(slots: int = 4096, allow_unlocked: bool = False) -> None: ...  # idempotent
def arena_report() -> dict[
    str, object
]: ...  # backend, locked, slots, used, slot_bytes, engine, openssl
def debug_counters() -> dict[
    str, int
]: ...  # slots, schedules, streams, contexts (zeros in release)
def key_random() -> KeyHandle: ...
def key_import(secret: bytearray | memoryview) -> KeyHandle: ...  # 32 bytes; source wiped in place
def wipe(buffer: bytearray | memoryview) -> None: ...
def random_bytes(n: int) -> bytes: ...  # public randomness, 0 to 1 MiB
def ct_equal(a: bytes, b: bytes) -> bool: ...
def harden_process() -> dict[str, bool]: ...  # not_dumpable, no_core: what the kernel confirms

# ---- channel.pyx -----------------------------------------------------------------------------
CHANNEL_KEYS: int  # most keys of a message
CHANNEL_PAYLOAD: int  # most bytes of a message beside them

class ChannelError(NativeError): ...  # what came is not a message

def channel_send(
    fd: int, kind: int, request: int, keys: Sequence[KeyHandle], payload: bytes
) -> bool: ...  # False: would block
def channel_receive(
    fd: int,
) -> tuple[int, int, tuple[KeyHandle, ...], bytes] | None: ...  # None: would block

# ---- mac.pyx ---------------------------------------------------------------------------------
def hkdf_sha256(
    key: KeyHandle, salt: bytes, info: bytes
) -> KeyHandle: ...  # RFC 5869, 32 bytes out
def hkdf_sha256_public(key: KeyHandle, salt: bytes, info: bytes, n: int) -> bytes: ...  # ids only
def hmac_sha256(key: KeyHandle, data: bytes) -> bytes: ...
def hmac_tags(key: KeyHandle, messages: list[bytes], n: int) -> list[bytes]: ...
def order_digits(key: KeyHandle, number: bytes, bits: int) -> bytes: ...  # 2 * bits bytes
def scrypt_key(passphrase: bytearray, salt: bytes, n: int, r: int, p: int) -> KeyHandle: ...

# ---- curves.pyx ------------------------------------------------------------------------------
def ed25519_public(seed: KeyHandle) -> bytes: ...  # RFC 8032
def ed25519_sign(seed: KeyHandle, message: bytes) -> bytes: ...  # 64 bytes
def x25519_public(private: KeyHandle) -> bytes: ...  # RFC 7748
def hpke_seal(
    recipient: bytes, info: bytes, aad: bytes, secret: KeyHandle
) -> tuple[bytes, bytes]: ...  # RFC 9180 base mode: (enc, 48 bytes)
def hpke_open(
    private: KeyHandle, enc: bytes, info: bytes, aad: bytes, sealed: bytes
) -> KeyHandle: ...

# ---- shares.pyx: SLIP-0039, 256-bit secrets ----------------------------------------------------
class ShareError(NativeError): ...  # shares or words do not fit together

def slip39_encrypt(
    master: KeyHandle, passphrase: bytearray, salt: bytes, exponent: int, decrypt: bool = False
) -> KeyHandle: ...
def slip39_split(secret: KeyHandle, threshold: int, count: int) -> list[KeyHandle]: ...
def slip39_combine(shares: list[tuple[int, KeyHandle]]) -> KeyHandle: ...
def slip39_words(share: KeyHandle, header: int, table: bytes) -> bytearray: ...  # caller wipes
def slip39_parse(text: bytearray, table: bytes) -> tuple[int, KeyHandle]: ...  # caller wipes text

# ---- aead.pyx --------------------------------------------------------------------------------
def engines() -> list[str]: ...  # e.g. ["ipsec-mb", "libcrypto"], best first
def use_engine(name: str) -> None: ...
def gcm_seal(
    key: KeyHandle, nonce: bytes, plaintext: bytes, aad: bytes
) -> bytes: ...  # 12-byte nonce
def gcm_open(key: KeyHandle, nonce: bytes, sealed: bytes, aad: bytes) -> bytes: ...
def xaes_seal(key: KeyHandle, nonce: bytes, plaintext: bytes, aad: bytes) -> bytes: ...  # 24
def xaes_open(key: KeyHandle, nonce: bytes, sealed: bytes, aad: bytes) -> bytes: ...
def wrap_key(
    kek: KeyHandle, key: KeyHandle, nonce: bytes, aad: bytes
) -> bytes: ...  # AES-256-GCM, 48 bytes
def unwrap_key(kek: KeyHandle, nonce: bytes, wrapped: bytes, aad: bytes) -> KeyHandle: ...

# ---- column.pyx ------------------------------------------------------------------------------
CANON_IDENTITY: int  # canonical form = plaintext bytes
CANON_INT: int  # 2/4/8-byte integer -> 8-byte big-endian signed
CANON_CALL: int  # ask the Python callable

class ColumnCodec:
    """Seals and opens values of one column (docs/reference/format.md, section "Column value")."""

    def __init__(
        self,
        domain: bytes,
        type_oid: int,
        equality: bool,
        transform_id: int = 0,
        pad_to: int = 0,
        canonical_kind: int = 0,
        canonical_call: Callable[[bytes], bytes] | None = None,
    ) -> None: ...
    def add_key(
        self, key_id: bytes, seal: KeyHandle, equality: KeyHandle | None, active: bool
    ) -> None: ...
    def set_tokens(self, tokens: Any, descriptor: bytes) -> None: ...
    @property
    def tokens(self) -> Any: ...  # crypto.tokens.Tokens or None
    @property
    def alive(self) -> bool: ...  # every key in it still lives
    @property
    def handles(self) -> list[KeyHandle]: ...
    def seal(self, plain: bytes) -> bytes: ...
    def open(self, value: bytes) -> bytes: ...
    def seal_many(self, plains: Sequence[bytes | None]) -> list[bytes | None]: ...
    def open_many(self, values: Sequence[bytes | None]) -> list[bytes | None]: ...
    def tag(
        self, plain: bytes
    ) -> bytes: ...  # 16 bytes, active index key (canonical form taken inside)
    @property
    def index_keys(self) -> int: ...  # how many tags a value may have
    def tags(self, plain: bytes) -> list[bytes]: ...  # active first, then retired

# ---- chunks.pyx ------------------------------------------------------------------------------
class PartSealer:
    """One Cobblestone-256 stream being sealed (C2SP chunked-encryption)."""

    def __init__(self, key: KeyHandle, context: bytes) -> None: ...  # random salt
    @property
    def header(self) -> bytes: ...  # 24-byte salt ‖ 32-byte commitment
    def update(
        self, data: bytes | bytearray | memoryview
    ) -> bytes: ...  # whole sealed chunks ready
    def finish(self) -> bytes: ...  # last, short chunk

class PartOpener:
    """Opens chunks first..last of one stream; raises OpenFailed on the first bad chunk."""

    def __init__(
        self, key: KeyHandle, context: bytes, header: bytes, first_chunk: int = 0
    ) -> None: ...
    def update(
        self, data: bytes | bytearray | memoryview
    ) -> bytes: ...  # plaintext of whole chunks
    def finish(self, at_end: bool = True) -> bytes: ...
    # at_end=True: what is buffered must be the final (short) chunk; False: a range that stops
    # at a chunk border, nothing may be left over

# ---- scan.pyx --------------------------------------------------------------------------------
class Watch:
    """A set of lower-case identifiers. `hit` is conservative: True whenever in doubt."""

    def __init__(self, words: Sequence[bytes]) -> None: ...
    def hit(self, sql: bytes) -> bool: ...
    def expire(self) -> None: ...

def strip_literals(sql: bytes) -> tuple[bytes, list[int]] | None:
    """(text with byte 1 for strings and 2 for numbers, [start, end, ...]); None in doubt or if none.

    Holds for standard_conforming_strings = on.
    """

# ---- rows.pyx, frames.pyx: used by proxy/postgres only; the semantics are in the files ----------
ROW_COPY: int
ROW_TEXT: int
ROW_INT: int
ROW_BOOL: int
ROW_NULL: int
ROW_FIXED: int
ROW_UUID: int
ROW_HEX: int
ROW_DATE: int
ROW_TIMESTAMP: int
ROW_NUMERIC: int
ROW_TIMESTAMP_UTC: int
ROW_CALL: int
ROW_LENIENT: int

def hot_text(kind: int, value: bytes) -> bytes | None: ...

class RowShape(ValueError): ...

class RowPlan:
    failed: int
    def __init__(
        self,
        columns: Sequence[
            tuple[ColumnCodec | None, int, Callable[[bytes], bytes] | bytes | None] | None
        ],
        text_input: bool = False,
    ) -> None: ...
    def renew(self, codecs: Sequence[ColumnCodec | None]) -> None: ...
    def filter(self, hidden: int, test: Callable[[list[bytes | None]], bool]) -> None: ...
    def value_lost(self, index: int) -> None: ...

# ---- copy.pyx: the data of one COPY; the semantics are in the file ------------------------------
COPY_TEXT_FORMAT: int
COPY_CSV_FORMAT: int
COPY_BINARY_FORMAT: int

class CopyBad(ValueError): ...  # (the server's message, hint)

class CopyStream:
    line: int
    failed: int
    again: bool
    def __init__(
        self,
        columns: Sequence[
            tuple[ColumnCodec | None, int, Callable[[bytes], bytes] | bytes | None, int] | None
        ],
        sealing: bool,
        form: int,
        *,
        limit: int,
        delimiter: bytes = ...,
        null: bytes = ...,
        quote: bytes = ...,
        escape: bytes = ...,
        default: bytes | None = None,
        header: Sequence[bytes] | None = None,
        pass_header: bool = False,
        check_header: Callable[[list[bytes | None]], None] | None = None,
        force_first: Iterable[int] = (),
        force_null: Iterable[int] = (),
        marker: bool = True,
    ) -> None: ...
    @property
    def rest(self) -> bool: ...
    def renew(self, codecs: Sequence[ColumnCodec | None]) -> None: ...
    def value_lost(self, index: int) -> None: ...
    def feed(self, data: bytes, last: bool = False) -> bytes: ...

class WireError(Exception):
    side: str  # "client" | "server"

def take_error_counts() -> dict[str, int]: ...

class Wire:
    status: bytes
    server_skips: bool
    copy_in: bool
    stalled: bool
    draining: bool
    discard: bool
    authenticating: bool
    segment_open: bool
    segment: int
    watch_ready: bool
    fast: dict[bytes, FastBind]
    parses: dict[bytes, FastParse]
    watch: Watch | None
    unflushed: bool
    def __init__(
        self,
        limit: int,
        statements: dict[bytes, Any],
        portals: dict[bytes, Any],
        hands_off: bool = False,
        plain: dict[bytes, Any] | None = None,
        parsing: Callable[[bytes], object] | None = None,
    ) -> None: ...
    unnamed_plain: bool
    on_error: Callable[[bytes], bytes | None] | None
    def without_values(self, portal: bytes, name: bytes, cookie: object) -> None: ...
    @property
    def unnamed_statement(self) -> Any: ...
    def forget_fast(self) -> None: ...
    @property
    def expected(self) -> int: ...
    @property
    def client_buffered(self) -> int: ...
    @property
    def mid_message(self) -> bool: ...
    @property
    def server_buffered(self) -> int: ...
    def expect(
        self,
        kind: int,
        flags: int = 0,
        cookie: object = None,
        rows: RowPlan | CopyStream | None = None,
    ) -> bool: ...
    def set_rows(self, rows: RowPlan | CopyStream | None) -> None: ...
    def drain(self, poison: bytes) -> None: ...
    def begin_copy(self, stream: CopyStream | None) -> None: ...
    def fail_copy(self, message: bytes, marker: bytes, error: bytes) -> None: ...
    def client_feed(self, data: bytes) -> None: ...
    def client_next(self) -> tuple[int, Any, None] | None: ...
    def server_feed(self, data: bytes) -> None: ...
    def server_next(self) -> tuple[int, Any, Any] | None: ...
    def forward_client(self) -> None: ...
    def drop_client(self) -> None: ...
    def forward_server(self) -> None: ...
    def drop_server(self) -> None: ...
    def put_server(self, message: bytes) -> None: ...
    def put_client(self, message: bytes) -> None: ...
    def to_server(self) -> bytes: ...
    def to_client(self) -> bytes: ...

# ---- relay.pyx ---------------------------------------------------------------------------------
class Traffic:
    """Bytes since the last `take`: from clients, to clients, from servers, to servers."""

    def __getitem__(self, place: int) -> int: ...
    def add(self, place: int, n: int) -> None: ...
    def take(self) -> tuple[int, int, int, int]: ...

class Relay:
    """Both legs of a session at work: the common event goes on natively while `quick` is set."""

    quick: bool
    timed: bool
    asked: bool
    def __init__(
        self,
        owner: object,
        wire: Wire,
        traffic: Traffic,
        client: object,
        client_fd: int,
        server: object,
        server_fd: int,
    ) -> None: ...
    def stop(self) -> None: ...
    def flush(self) -> None: ...
    def client_sent(self, data: bytes) -> None: ...
    def server_sent(self, data: bytes) -> None: ...

def relay_end(relay: Relay, server: bool, before: asyncio.Protocol) -> asyncio.BaseProtocol:
    """The protocol of a transport once there is a session: bytes to `relay`, all else to `before`."""

# ---- pkcs11.pyx ------------------------------------------------------------------------------
class Pkcs11Error(NativeError):
    code: int
    function: str

Template = Sequence[tuple[int, bool | int | bytes | KeyHandle]]

class Pkcs11Core:
    """One PKCS#11 module, dlopen'ed and C_Initialize'd with CKF_OS_LOCKING_OK by us."""

    def __init__(self, path: str, parameters: str | None = None) -> None: ...
    def slots(self) -> list[dict[str, Any]]: ...
    def open_session(self, slot: int) -> int: ...
    def close_session(self, session: int) -> None: ...
    def login(self, session: int, pin: bytearray) -> None: ...
    def find_key(self, session: int, label: bytes | None, id: bytes | None) -> int: ...
    def generate_aes_key(self, session: int, label: bytes, id: bytes) -> int: ...
    def gcm_wrap(
        self, session: int, key: int, iv: bytes, secret: KeyHandle, aad: bytes
    ) -> bytes: ...
    def gcm_unwrap(
        self, session: int, key: int, iv: bytes, wrapped: bytes, aad: bytes
    ) -> KeyHandle: ...
    def gcm_encrypt(self, session: int, key: int, iv: bytes, data: bytes, aad: bytes) -> bytes: ...
    def gcm_decrypt(self, session: int, key: int, iv: bytes, data: bytes, aad: bytes) -> bytes: ...
    def gcm_seal(self, session: int, key: int, iv: bytes, data: bytes, aad: bytes) -> bytes: ...
    def gcm_open(self, session: int, key: int, sealed: bytes, aad: bytes) -> bytes: ...
    def random(self, session: int, n: int) -> bytes: ...
    def attribute(self, session: int, obj: int, attribute: int) -> bytes: ...
    def reinitialize(self) -> None: ...  # C_Finalize + C_Initialize; no call may be under way

class Pkcs11Module(Pkcs11Core):
    """The same, with all that is done to objects; mechanisms and attributes by number."""

    def mechanisms(self, slot: int) -> frozenset[int]: ...
    def generate(self, session: int, kind: int, template: Template) -> int: ...
    def generate_pair(
        self, session: int, kind: int, public: Template, private: Template
    ) -> tuple[int, int]: ...
    def create(self, session: int, template: Template) -> int: ...
    def destroy(self, session: int, obj: int) -> None: ...
    def find(self, session: int, template: Template) -> list[int]: ...
    def public(self, session: int, obj: int, attribute: int) -> bytes: ...
    def wrap(self, session: int, kind: int, by: int, key: int, oaep_hash: int = 0) -> bytes: ...
    def unwrap(
        self,
        session: int,
        kind: int,
        by: int,
        wrapped: bytes,
        template: Template,
        oaep_hash: int = 0,
    ) -> int: ...
    def sign(self, session: int, kind: int, key: int, data: bytes) -> bytes: ...
    def check_value(self, session: int, key: int) -> bytes: ...  # 3 bytes

FAST_PASS: int
FAST_TEXT: int
FAST_INT: int
FAST_RAW: int

class FastDescribe:
    statement: Any
    format: int
    def learn(self, seen: bytes, told: bytes) -> None: ...

class FastParse:
    """Does a Parse of the unnamed statement without Python; see native/fastbind.pyx."""

    statement: Any
    describe: Any
    uses: int
    def __init__(
        self, message: bytes, binding: FastBind, statement: object, describe: object
    ) -> None: ...

class FastBind:
    """Turns the Binds of one statement into the server's without Python; see native/fastbind.pyx."""

    uses: int
    def __init__(
        self,
        statement: object,
        params: list[tuple[int, ColumnCodec | None, bool, int, int]],
        n_client: int,
        outputs: list[bool],
        text: RowPlan | None,
        binary: RowPlan | None,
        seconds: float,
        count: int,
    ) -> None: ...
