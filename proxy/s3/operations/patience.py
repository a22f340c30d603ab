"""A long copy keeps its client: 200 at once, blanks while it lasts, then the result or the error.

That is what S3 does, and what SDKs read: an Error document inside a 200 is a failed copy. A copy that
is over within `QUIET_SECONDS` gets an ordinary answer with its own status.
"""

import asyncio
import contextlib
from collections.abc import Coroutine
from dataclasses import dataclass

from proxy.s3 import xml
from proxy.s3.call import Call
from proxy.s3.failures import answer_to
from proxy.s3.message import Headers
from proxy.s3.s3error import S3Error

QUIET_SECONDS = 10.0
_CODES = {403: "AccessDenied", 404: "NoSuchKey", 412: "PreconditionFailed"}
_DECLARATION = b'<?xml version="1.0" encoding="UTF-8"?>\n'


@dataclass(frozen=True, slots=True)
class Result:
    """What the client gets of a copy: `document` begins with an XML declaration or is no XML."""

    status: int
    headers: Headers
    document: bytes


async def answer(call: Call, work: Coroutine[None, None, Result]) -> None:
    """Runs `work` and answers its result; what it raises, after the client was told of it."""
    task = asyncio.ensure_future(work)
    try:
        while not (await asyncio.wait({task}, timeout=QUIET_SECONDS))[0]:
            if not call.writer.started:
                call.writer.start(200, [("content-type", "application/xml")], None)
                call.writer.write_body(_DECLARATION)
            call.writer.write_body(b" ")
        try:
            result = task.result()
        except Exception as error:
            if call.writer.started:
                request_id = getattr(call.writer, "request_id", "")
                document = answer_to(error)[0].to_xml(call.request.path, request_id)
                _finish(call, document)
            raise
        if call.writer.started:
            _finish(call, _told_late(call, result))
        else:
            call.reply(result.status, result.headers, result.document)
    finally:
        if not task.done():
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await task


def _told_late(call: Call, result: Result) -> bytes:
    """What stands for the status, too, which can't be told any more."""
    if result.status == 200 or xml.error_of(result.document)[0]:
        return result.document
    error = S3Error(_CODES.get(result.status, "ServiceUnavailable"))
    return error.to_xml(call.request.path, getattr(call.writer, "request_id", ""))


def _finish(call: Call, document: bytes) -> None:
    _, declared, rest = document.partition(b"?>")
    call.writer.write_body(rest.lstrip() if declared else document)
    call.writer.finish()
