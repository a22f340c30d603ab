"""May this be opened, as the agent sees it? The worker's word is checked against our own policy. Pure.

A worker says on whose behalf it asks; the agent cannot know better who the client is, but it knows
the configuration: which ring a column or bucket has, and what the policy grants. So a worker that
was taken over gets only what some principal may have, and each such lie is in the audit log. The
policy itself is `proxy.policy.decide`; this is the one place where the agent asks it.
"""

from datetime import UTC, datetime

from proxy.config.load import rings_of
from proxy.config.model import Config
from proxy.errors import AccessDenied
from proxy.keys.providers.base import Asking
from proxy.policy.decide import Decision, Policy


class Guard:
    """A changed configuration is a new guard; an edge of a condition of time a new policy in it."""

    def __init__(self, config: Config) -> None:
        self._policy = Policy(config.policy)
        self._rings = frozenset(rings_of(config))
        self._audit_ring = config.audit.ring if config.audit is not None else None
        postgres, s3 = config.postgres, config.s3
        columns = postgres.columns if postgres else ()
        self._columns = {
            (c.domain or f"{postgres.database if postgres else ''}.{c.column}", c.ring)
            for c in columns
        }
        self._buckets = [b for b in (s3.buckets if s3 else ()) if b.ring]

    def check(self, ring: str, asking: Asking | None) -> Decision | None:
        """The decision that allows it; None where the proxy itself has a configured ring made
        ready. Raises AccessDenied."""
        if ring not in self._rings:
            raise AccessDenied(f"ring {ring} is not in the configuration")
        if asking is None:
            return None
        if asking.resource.ring != ring or not self._has(asking):
            raise AccessDenied(
                f"{asking.resource.kind}:{asking.resource.name} is not under ring {ring}"
            )
        if self._policy.stale(now := datetime.now(UTC)):
            self._policy = self._policy.renewed(now)
        decision = self._policy.decide(asking.principal, asking.resource, asking.action)
        if not decision.allowed:
            raise AccessDenied(
                f"{asking.principal.kind}:{asking.principal.name} may not {asking.action.value} "
                f"{asking.resource.kind}:{asking.resource.name}"
            )
        return decision

    def check_audit(self, ring: str) -> None:
        """Raises AccessDenied unless the audit log's chains begin with this ring."""
        if ring != self._audit_ring:
            raise AccessDenied(f"ring {ring} is not the audit log's")

    def _has(self, asking: Asking) -> bool:
        resource = asking.resource
        if resource.kind == "column":
            return (resource.name, resource.ring) in self._columns
        if resource.kind == "bucket":
            bucket, _, prefix = resource.name.partition("/")
            return any(
                b.ring == resource.ring and b.prefix == prefix and _matches(b.bucket, bucket)
                for b in self._buckets
            )
        return False


def _matches(pattern: str, bucket: str) -> bool:
    if pattern.endswith("*"):
        return bucket.startswith(pattern[:-1])
    return pattern == bucket
