"""What every section of the configuration is made of."""

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """Frozen, and an unknown setting is an error. Its docstring and comments are the manual's text."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class SecretRef(Section):
    """Where a secret is. Exactly one of the three."""

    env: str | None = None
    file: str | None = None
    command: str | None = None
