"""Between a read and a write that feeds on it: what holds the write up holds the read."""

from proxy.s3.wire import Wire


class Tap:
    """In the shape of a Wire, as far as back-pressure goes."""

    def __init__(self) -> None:
        self._feeds: object = None
        self._source: Wire | None = None
        self._held = 0

    def hold(self, reason: int) -> None:
        self._held |= reason
        if self._source is not None:
            self._source.hold(reason)

    def release(self, reason: int) -> None:
        self._held &= ~reason
        if self._source is not None:
            self._source.release(reason)

    def fed_by(self, source: Wire | None) -> None:
        before, self._source = self._source, source
        if before is not None and self._held:
            before.release(self._held)
        if source is not None and self._held:
            source.hold(self._held)
