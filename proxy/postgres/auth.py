"""Authentication messages: which are passed through, and what is taken out on the way.

PostgreSQL documentation, "SASL Authentication". Pure. The proxy learns no password: SCRAM runs
between client and server. Where TLS ends at the proxy the two legs have different certificates,
so channel binding cannot hold; SCRAM-SHA-256-PLUS is withdrawn from the offer.
"""

from proxy.postgres.messages import AUTHENTICATION, Malformed, frame

OK, CLEARTEXT, MD5, SASL, SASL_CONTINUE, SASL_FINAL = 0, 3, 5, 10, 11, 12
GSS, GSS_CONTINUE, SSPI = 7, 8, 9


def request_code(payload: bytes) -> int:
    """Which Authentication message this is."""
    if len(payload) < 4:
        raise Malformed("authentication message too short")
    return int.from_bytes(payload[:4], "big")


def withdraw_channel_binding(payload: bytes) -> bytes:
    """The whole AuthenticationSASL message for the client, without any -PLUS mechanism."""
    if not payload.endswith(b"\0\0"):
        raise Malformed("list of mechanisms without end")
    offered = payload[4:-2].split(b"\0")
    kept = [name for name in offered if not name.endswith(b"-PLUS")]
    body = payload[:4] + b"".join(name + b"\0" for name in kept) + b"\0"
    return frame(AUTHENTICATION, body)


def offers_channel_binding(payload: bytes) -> bool:
    return any(name.endswith(b"-PLUS") for name in payload[4:].split(b"\0"))
