"""Opens every object of a bucket to its last byte, and says which ones do not open."""

from proxy.s3.jobs.engine import Engine, Entry
from proxy.s3.jobs.runner import Did
from proxy.s3.jobs.transfer import Place, read_whole
from proxy.s3.operations.stored import envelope_text


class Verification:
    """`work` reads; plaintext objects of a mixed place are counted as skipped."""

    def __init__(self, engine: Engine, bucket: str) -> None:
        self._engine = engine
        self._bucket = bucket

    async def work(self, entry: Entry) -> tuple[Did, int]:
        place = Place(self._bucket, entry.key)
        if self._engine.rule(*_at(place)).state == "mixed":
            head = await self._engine.head(place.bucket, place.key)
            if head.status == 404 or envelope_text(head.headers) is None:
                return Did.SKIPPED, 0
        count = 0

        def take(piece: memoryview) -> None:
            nonlocal count
            count += len(piece)

        await read_whole(self._engine, place, take)
        return Did.DONE, count


def _at(place: Place) -> tuple[str, str]:
    return place.bucket, place.key
