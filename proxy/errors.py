"""The families of errors that a caller can act on; the protocol edges translate them once.

Leaf module. A message here is for the operator's log; what a client sees is chosen at the edge
(`postgres.sqlstate`, `s3.s3error`), so that it says nothing to an attacker.
"""


class SealgateError(Exception):
    """Root of every error that this program raises on purpose."""


class ConfigError(SealgateError):
    """The configuration cannot be used; the text names file, line and what to write instead."""


class AccessDenied(SealgateError):
    """The principal is not who it says, or may not do this."""


class KeyUnavailable(SealgateError):
    """A key is needed and cannot be had now: token away, breaker open, ring disabled, store down."""


class AuditUnavailable(KeyUnavailable):
    """No audit line can be written, and the setting says that then nothing is done."""


class KeyDestroyed(KeyUnavailable):
    """The ring version was destroyed; nothing will ever open what it sealed."""


class IntegrityError(SealgateError):
    """Sealed bytes do not open: altered, moved, truncated, or sealed under an unknown key.

    One class and one text for every cause, so that a client learns nothing from the difference.
    """


class Unsupported(SealgateError):
    """Refused because it is not provably handled on protected data."""
