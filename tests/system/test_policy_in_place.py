"""Conditions and effects of the policy through real connections: purposes, networks, ciphertext."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from botocore.exceptions import ClientError

from proxy.config.model import (
    Address,
    CatalogAccess,
    ColumnConfig,
    PolicyRule,
    PostgresConfig,
    SecretRef,
    TlsClient,
)
from proxy.policy.decide import Policy
from tests.parts.keyring import software_keys
from tests.parts.listening import Listening
from tests.parts.postgres import Postgres
from tests.parts.s3_gateway import Gateway, client
from tests.parts.seaweed import Seaweed

pytestmark = pytest.mark.system


def rule(**written: Any) -> PolicyRule:
    common: dict[str, Any] = {"principals": ("*",), "resources": ("column:*",)}
    return PolicyRule.model_validate(common | written)


RULES = (
    rule(actions=("seal",)),
    rule(actions=("open",), when={"purposes": ("case-*",)}),
    rule(actions=("open",), when={"networks": ("local",)}),
    rule(actions=("open",), effect="mask", mask="email", when={"networks": ("127.0.0.0/8",)},
         resources=("column:*.email",)),
)  # fmt: skip


@pytest.fixture(scope="module")
def doors() -> Iterator[dict[str, dict[str, Any]]]:
    """How to connect: by TCP, and by a Unix socket."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        server = Postgres(Path(folder) / "pg")
        server.start()
        os.environ["SG_TEST_PG"] = server.password
        socket = Path(folder) / ".s.PGSQL.5432"
        config = PostgresConfig(
            listen=(Address(), Address(unix=str(socket))),
            upstream=Address(port=server.port),
            upstream_tls=TlsClient(mode="disable"),
            database=server.database,
            catalog=CatalogAccess(user=server.user, password=SecretRef(env="SG_TEST_PG")),
            columns=(ColumnConfig(column="public.people.email", type="text", ring="app"),),
        )
        login = {"user": server.user, "password": server.password, "dbname": server.database}
        with Listening(config, lambda: software_keys(Path(folder), policy=RULES)) as proxy:
            found = {
                "tcp": login | {"host": "127.0.0.1", "port": proxy.port},
                "socket": login | {"host": folder, "port": 5432},
            }
            with psycopg.connect(**found["tcp"], autocommit=True) as c:
                c.execute("CREATE TABLE people (id int, email text)")
                c.execute("INSERT INTO people VALUES (1, 'ada@example.org')")
            yield found
        server.stop()


def email(door: dict[str, Any], **more: Any) -> Any:
    with psycopg.connect(**door, **more) as c:
        row = c.execute("SELECT email FROM people WHERE id = %s", (1,)).fetchone()
        assert row is not None
        return row[0]


def test_a_stated_purpose_opens_what_is_masked_without_it(doors: dict[str, dict[str, Any]]) -> None:
    assert email(doors["tcp"]) == "a***@example.org"
    assert email(doors["tcp"], options="-c sealgate.purpose=lunch") == "a***@example.org"
    with psycopg.connect(**doors["tcp"], options="-c sealgate.purpose=case-1") as c:
        assert c.execute("SHOW sealgate.purpose").fetchone() == ("case-1",)


def test_a_mask_beats_an_allowance_so_rules_exclude_each_other(
    doors: dict[str, dict[str, Any]],
) -> None:
    """The strictest wins whatever the purpose: the network's mask stays."""
    assert email(doors["tcp"], options="-c sealgate.purpose=case-1") == "a***@example.org"


def test_a_unix_socket_is_a_network_of_its_own(doors: dict[str, dict[str, Any]]) -> None:
    assert email(doors["socket"]) == "ada@example.org"


READ_ONLY_COPY = (
    rule(principals=("s3:app",), resources=("bucket:*",), actions=("seal",)),
    rule(principals=("s3:app",), resources=("bucket:*",), actions=("open",), effect="ciphertext"),
)


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Gateway, Any]]:
    store = Seaweed(tmp_path_factory.mktemp("weed"))
    store.start()
    made = Gateway(store.endpoint, store.access_key, store.secret_key).start()
    yield made, client(store.endpoint, store.access_key, store.secret_key)
    made.stop()
    store.stop()


def test_an_s3_reader_of_ciphertext_gets_the_object_as_it_is_stored(
    gateway: tuple[Gateway, Any],
) -> None:
    place, direct = gateway
    s3 = client(place.endpoint)
    direct.create_bucket(Bucket="sealed-raw")
    s3.put_object(Bucket="sealed-raw", Key="a", Body=b"known " * 50, Metadata={"m": "1"})
    stored = direct.get_object(Bucket="sealed-raw", Key="a")
    raw = stored["Body"].read()
    assert b"known" not in raw
    place.keys.policy = Policy(READ_ONLY_COPY)
    try:
        got = s3.get_object(Bucket="sealed-raw", Key="a")
        assert got["Body"].read() == raw
        assert got["Metadata"] == stored["Metadata"]
        assert s3.head_object(Bucket="sealed-raw", Key="a")["ContentLength"] == len(raw)
        (entry,) = s3.list_objects_v2(Bucket="sealed-raw")["Contents"]
        assert entry["Size"] == len(raw)
        assert (
            s3.get_object(Bucket="sealed-raw", Key="a", Range="bytes=0-7")["Body"].read() == raw[:8]
        )
        with pytest.raises(ClientError) as refused:  # what it may not open it may not copy out
            s3.copy_object(Bucket="sealed-raw", Key="b", CopySource="sealed-raw/a")
        assert refused.value.response["Error"]["Code"] == "AccessDenied"
        s3.put_object(Bucket="sealed-raw", Key="c", Body=b"still sealed")
        assert b"still" not in direct.get_object(Bucket="sealed-raw", Key="c")["Body"].read()
    finally:
        place.keys.policy = Policy(())
    assert s3.get_object(Bucket="sealed-raw", Key="a")["Body"].read() == b"known " * 50


SEALS = rule(principals=("s3:*",), resources=("bucket:*",), actions=("seal",))
OPENS = rule(principals=("s3:*",), resources=("bucket:*",), actions=("open",))
SHOWN = rule(principals=("s3:*",), resources=("bucket:*",), actions=("open",), effect="ciphertext")


@pytest.mark.parametrize("rules", [(SEALS,), (OPENS,), (SEALS, SHOWN)])
def test_a_copy_opens_and_seals_as_reads_and_writes_do(
    gateway: tuple[Gateway, Any], rules: tuple[PolicyRule, ...]
) -> None:
    place, direct = gateway
    s3 = client(place.endpoint)
    for bucket in ("sealed-from", "sealed-to", "plain-from", "plain-to"):
        with contextlib.suppress(ClientError):
            direct.create_bucket(Bucket=bucket)
    for bucket in ("sealed-from", "plain-from"):
        s3.put_object(Bucket=bucket, Key="a", Body=b"known")
    upload = s3.create_multipart_upload(Bucket="sealed-to", Key="p")["UploadId"]
    of_plain = s3.create_multipart_upload(Bucket="plain-to", Key="p")["UploadId"]
    place.keys.policy = Policy(rules)
    may_seal, may_open = SEALS in rules, OPENS in rules
    try:
        for source, target, allowed in (
            ("sealed-from", "sealed-to", False),
            ("sealed-from", "plain-to", may_open),
            ("plain-from", "sealed-to", may_seal),
        ):
            part = {"Key": "p", "PartNumber": 1}
            part["UploadId"] = upload if target == "sealed-to" else of_plain
            for ask in (
                lambda s, t: s3.copy_object(Bucket=t, Key=f"of-{s}", CopySource=f"{s}/a"),
                lambda s, t, p=part: s3.upload_part_copy(Bucket=t, CopySource=f"{s}/a", **p),
            ):
                if allowed:
                    ask(source, target)
                    continue
                with pytest.raises(ClientError) as refused:
                    ask(source, target)
                assert refused.value.response["Error"]["Code"] == "AccessDenied"
            found = direct.list_objects_v2(Bucket=target).get("Contents", [])
            assert (f"of-{source}" in [o["Key"] for o in found]) is allowed
            direct.delete_object(Bucket=target, Key=f"of-{source}")
    finally:
        place.keys.policy = Policy(())


@pytest.mark.parametrize("rules", [(SEALS,), (SEALS, SHOWN)])
def test_what_is_not_sealed_yet_in_a_mixed_place_needs_the_right_to_open(
    gateway: tuple[Gateway, Any], rules: tuple[PolicyRule, ...]
) -> None:
    """A bucket under migration is no hole in its policy."""
    place, direct = gateway
    s3 = client(place.endpoint)
    with contextlib.suppress(ClientError):
        direct.create_bucket(Bucket="mixed-old")
        direct.create_bucket(Bucket="plain-to")
    what = {"Bucket": "mixed-old", "Key": "a"}
    direct.put_object(**what, Body=b"known " * 20)
    asks = [
        lambda: s3.get_object(**what)["Body"].read(),
        lambda: s3.get_object(**what, Range="bytes=0-4"),
        lambda: s3.get_object(**what, Range="bytes=100-109"),
        lambda: s3.head_object(**what),
        lambda: s3.get_object_attributes(**what, ObjectAttributes=["Checksum"]),
        lambda: s3.copy_object(Bucket="plain-to", Key="out", CopySource=what),
    ]
    for ask in asks:
        ask()
    direct.delete_object(Bucket="plain-to", Key="out")
    place.keys.policy = Policy(rules)
    try:
        for ask in asks:
            with pytest.raises(ClientError) as refused:
                ask()
            assert refused.value.response["ResponseMetadata"]["HTTPStatusCode"] == 403
        assert "Contents" not in direct.list_objects_v2(Bucket="plain-to", Prefix="out")
    finally:
        place.keys.policy = Policy(())


def test_an_s3_purpose_counts_if_it_is_signed(gateway: tuple[Gateway, Any]) -> None:
    place, direct = gateway
    s3 = client(place.endpoint)
    direct.create_bucket(Bucket="sealed-why")
    s3.put_object(Bucket="sealed-why", Key="a", Body=b"x")

    def stated(**_: Any) -> None:
        _["params"]["headers"]["x-sealgate-purpose"] = "case-1"

    place.keys.policy = Policy(
        (rule(principals=("s3:*",), resources=("bucket:*",), when={"purposes": ("case-*",)}),)
    )
    try:
        with pytest.raises(ClientError):
            s3.get_object(Bucket="sealed-why", Key="a")
        s3.meta.events.register("before-call.s3.GetObject", stated)
        assert s3.get_object(Bucket="sealed-why", Key="a")["Body"].read() == b"x"
    finally:
        place.keys.policy = Policy(())
