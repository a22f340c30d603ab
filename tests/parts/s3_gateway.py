"""The S3 gateway on a uvloop thread of the test process, with a ring that needs no token."""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import boto3
import uvloop
from botocore.config import Config

from proxy import native
from proxy.config.model import (
    Address,
    BucketConfig,
    OriginConfig,
    S3Config,
    S3Credential,
    S3Limits,
    SecretRef,
    TlsServer,
)
from proxy.errors import AccessDenied, KeyUnavailable
from proxy.keys.handles import RingKeys, RingVersionKey
from proxy.policy.decide import Policy
from proxy.policy.model import Action, Mask, Principal, Resource, Verdict
from proxy.s3.gateway import S3Gateway

BUCKETS = (
    BucketConfig(bucket="sealed-*", prefix="open/", origin="o", state="plain"),
    BucketConfig(bucket="sealed-*", origin="o", ring="main"),
    BucketConfig(bucket="mixed-*", origin="o", ring="main", state="mixed"),
    BucketConfig(bucket="plain-*", origin="o", state="plain"),
    BucketConfig(bucket="public-*", origin="o", ring="main", anonymous="read"),
    BucketConfig(bucket="other-*", origin="o", ring="other"),
    BucketConfig(bucket="second-*", origin="o2", ring="other"),
    BucketConfig(bucket="away-*", origin="nowhere", ring="main"),
    BucketConfig(bucket="keyless-*", origin="o", ring="keyless"),
    BucketConfig(bucket="denied-*", origin="o", ring="denied"),
)


class Keys:
    """Stands in for KeyService: one ring in memory, one that is away, one that is denied.
    `policy` has a say in what readers are shown."""

    policy = Policy(())

    def __init__(self) -> None:
        native.arena_init(4096, True)
        self.ring = RingKeys("main", 1, (self._version(1, "active"),))
        self.other = RingKeys("other", 1, (self._version(1, "active"),))

    def _version(self, number: int, state: Any) -> RingVersionKey:
        return RingVersionKey(native.random_bytes(16), number, native.key_random(), state)

    def rotate(self) -> None:
        old = [RingVersionKey(v.id, v.number, v.handle, "retired") for v in self.ring.versions]
        fresh = self._version(len(old) + 1, "active")
        self.ring = RingKeys("main", len(old) + 1, (fresh, *old))

    def ring_keys_now(self, who: Principal, what: Resource, action: Action) -> RingKeys | None:
        self.authorise(who, what, action)
        if what.ring == "keyless":
            raise KeyUnavailable("token away")
        return self.other if what.ring == "other" else self.ring

    def authorise(self, who: Principal, what: Resource, action: Action) -> None:
        if what.ring == "denied" or not self.policy.decide(who, what, action).allowed:
            raise AccessDenied("policy")

    async def ring_keys(self, who: Principal, what: Resource, action: Action) -> RingKeys:
        raise AssertionError("always in memory")

    async def refresh(self, ring: str) -> RingKeys:
        return self.other if ring == "other" else self.ring

    @property
    def shows(self) -> bool:
        return self.policy.shows

    def verdict(self, who: Principal, what: Resource) -> tuple[Verdict, Mask | None]:
        decision = self.policy.decide(who, what, Action.OPEN)
        return decision.verdict, decision.mask

    def note_bytes(self, keys: RingKeys, n: int) -> None:
        """Limits are the real service's."""


class Gateway:
    """Runs until `stop`; `endpoint` is where clients go."""

    def __init__(
        self,
        origin: str,
        access_key: str,
        secret_key: str,
        tls: TlsServer | None = None,
        second: str | None = None,
        **limits: Any,
    ) -> None:
        self.keys = Keys()
        self._secrets = {
            "CLIENT": "client-secret",
            "SESSION": "session-secret",
            "TOKEN": "the-token",
            "OA": access_key,
            "OS": secret_key,
        }
        keys = {"access_key": SecretRef(env="OA"), "secret_key": SecretRef(env="OS")}
        config = S3Config(
            listen=Address(),
            host_suffix="s3.test",
            tls=tls,
            credentials=(
                S3Credential(access_key="CLIENT", secret=SecretRef(env="CLIENT"), principal="app"),
                S3Credential(
                    access_key="SESSION",
                    secret=SecretRef(env="SESSION"),
                    principal="app",
                    session_token=SecretRef(env="TOKEN"),
                ),
            ),
            origins=(
                OriginConfig(name="o", endpoint=origin, **keys),
                OriginConfig(name="o2", endpoint=second or origin, **keys),
                OriginConfig(name="nowhere", endpoint="http://127.0.0.1:1", **keys),
            ),
            buckets=BUCKETS,
            limits=S3Limits(**limits),
        )
        self.loop = uvloop.new_event_loop()
        self.gateway = S3Gateway(
            config, self.keys, resolve_secret=lambda ref: self._secrets[str(ref.env)]
        )
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> "Gateway":
        self._thread.start()
        self.run(self.gateway.start)
        self.port = self.gateway.address[1]
        scheme = "http" if self.gateway.config.tls is None else "https"
        self.endpoint = f"{scheme}://127.0.0.1:{self.port}"
        return self

    def stop(self) -> None:
        self.run(lambda: self.gateway.drain(2))
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(5)
        self.loop.close()

    def run(self, make: Callable[[], Coroutine[Any, Any, None]]) -> None:
        asyncio.run_coroutine_threadsafe(make(), self.loop).result(20)

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()


def client(
    endpoint: str, access_key: str = "CLIENT", secret: str = "client-secret", **c: Any
) -> Any:
    """boto3 with the defaults of today, without its retries."""
    config = Config(retries={"max_attempts": 1}, **c)
    return boto3.client(
        "s3",
        endpoint_url=endpoint,
        aws_access_key_id=access_key,
        aws_secret_access_key=secret,
        region_name="us-east-1",
        config=config,
    )
