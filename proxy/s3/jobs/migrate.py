"""Seals what is in a bucket, in place or into another bucket; or opens it, the other way round.

In place the write is conditional on the ETag that was read, so an object that a client replaces
meanwhile is left to that client's own write (it comes sealed through the gateway). Objects that are
sealed already are skipped, so the job may be run again at any time.
"""

from proxy.errors import ConfigError
from proxy.s3.jobs.engine import Engine, Entry, Refused
from proxy.s3.jobs.runner import Did
from proxy.s3.jobs.transfer import Place, transfer
from proxy.s3.operations.stored import envelope_text
from proxy.s3.s3error import OriginFailed


class Migration:
    """`work` for each entry of the source. `target_bucket` empty: in place."""

    def __init__(
        self,
        engine: Engine,
        bucket: str,
        prefix: str,
        target_bucket: str = "",
        target_prefix: str | None = None,
        *,
        dry_run: bool = False,
        verify: bool = False,
    ) -> None:
        self._engine = engine
        self._bucket = bucket
        self._prefix = prefix
        self._target = target_bucket or bucket
        self._target_prefix = prefix if target_prefix is None else target_prefix
        self._dry_run = dry_run
        self._verify = verify
        self.in_place = not target_bucket
        state = engine.rule(bucket, prefix).state
        if self.in_place and state != "mixed":
            raise ConfigError(
                f"the bucket {bucket} is {state}; to seal it in place it has to be mixed, so that "
                "its plaintext objects can be read while they are sealed"
            )

    def target_of(self, key: str) -> Place:
        """Where an object of the source goes."""
        return Place(self._target, self._target_prefix + key[len(self._prefix) :])

    async def work(self, entry: Entry) -> tuple[Did, int]:
        source, target = Place(self._bucket, entry.key), self.target_of(entry.key)
        if self.in_place:
            head = await self._engine.head(source.bucket, source.key)
            if head.status == 404 or envelope_text(head.headers) is not None:
                return Did.SKIPPED, 0
            condition = [("if-match", head.get("etag"))]
        else:
            head = await self._engine.head(target.bucket, target.key)
            if head.status == 200:
                return Did.SKIPPED, 0
            condition = [("if-none-match", "*")]
        if head.status not in (200, 404):
            raise OriginFailed(f"the origin answered {head.status} to a HEAD")
        if self._dry_run:
            return Did.DONE, entry.stored_bytes
        try:
            return Did.DONE, await transfer(self._engine, source, target, condition, self._verify)
        except Refused as error:
            if error.status in (404, 412):  # a client was faster: its own write counts
                return Did.SKIPPED, 0
            raise
