"""Which rule of the configuration covers this bucket and key? First match wins.

Pure. A request for a bucket as a whole takes the first rule for the bucket, whatever its prefix:
that names its origin; lists decide entry by entry.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache

from proxy.config.model import BucketConfig
from proxy.policy.model import Resource, Verdict
from proxy.s3.s3error import S3Error


class Buckets:
    """The bucket rules in their order."""

    def __init__(self, rules: Sequence[BucketConfig]) -> None:
        self._rules = tuple(rules)
        self._of_bucket = lru_cache(maxsize=1024)(self._rules_of)

    def _rules_of(self, bucket: str) -> tuple[BucketConfig, ...]:
        return tuple(r for r in self._rules if _matches(r.bucket, bucket))

    def for_key(self, bucket: str, key: str) -> BucketConfig:
        """Raises S3Error NoSuchBucket where no rule is: what is not configured is not served."""
        for rule in self._of_bucket(bucket):
            if key.startswith(rule.prefix):
                return rule
        raise S3Error("NoSuchBucket", BucketName=bucket)

    def for_bucket(self, bucket: str) -> BucketConfig:
        for rule in self._of_bucket(bucket):
            return rule
        raise S3Error("NoSuchBucket", BucketName=bucket)

    def find(self, bucket: str, key: str) -> BucketConfig | None:
        return next((r for r in self._of_bucket(bucket) if key.startswith(r.prefix)), None)

    def covers(self, bucket: str) -> bool:
        return bool(self._of_bucket(bucket))

    def shown(self, bucket: str, verdict: Callable[[Resource], Verdict]) -> "Buckets":
        """The rules of one bucket as a reader has them."""
        return Buckets([as_shown(rule, bucket, verdict) for rule in self._of_bucket(bucket)])

    def any_protected(self, bucket: str) -> bool:
        """Some key of the bucket may be sealed."""
        return any(r.state != "plain" for r in self._of_bucket(bucket))


def as_shown(
    rule: BucketConfig, bucket: str, verdict: Callable[[Resource], Verdict]
) -> BucketConfig:
    """The rule as a reader has it: who is shown ciphertext reads the place as if it were plain.

    Not a mixed place, where what is stored may not be ciphertext: to read there takes the right to open."""
    if rule.state != "sealed" or verdict(resource_of(rule, bucket)) is not Verdict.CIPHERTEXT:
        return rule
    return rule.model_copy(update={"state": "plain"})


def _matches(pattern: str, bucket: str) -> bool:
    return bucket.startswith(pattern[:-1]) if pattern.endswith("*") else bucket == pattern


def resource_of(rule: BucketConfig, bucket: str) -> Resource:
    """What the policy decides about: the bucket's name and the rule's prefix."""
    assert rule.ring is not None
    return Resource("bucket", f"{bucket}/{rule.prefix}", rule.ring)
