"""Sealgate: a transparent encryption proxy for PostgreSQL and S3 object storage."""

__version__ = "0.1.0"
