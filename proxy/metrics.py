"""Every metric of the product, in one place. Leaf module.

Names have base units and `_total` for counters; labels are few and never text of a user. With
several workers, prometheus-client's multiprocess mode (PROMETHEUS_MULTIPROC_DIR) adds them up.
"""

from prometheus_client import Counter, Gauge, Histogram

pg_client_connections = Gauge(
    "sealgate_pg_client_connections", "Open client sessions", multiprocess_mode="livesum"
)
pg_connections_total = Counter("sealgate_pg_connections_total", "Connections accepted")
pg_connections_refused_total = Counter(
    "sealgate_pg_connections_refused_total", "Connections that came to nothing", ["reason"]
)  # limit | slow | tls | startup
pg_authentications_total = Counter(
    "sealgate_pg_authentications_total", "Clients authenticated by the proxy itself", ["outcome"]
)  # ok | failed
pg_bytes_total = Counter(
    "sealgate_pg_bytes_total", "Bytes of both legs, TLS taken off", ["leg", "direction"]
)  # client | server, in | out
pg_errors_total = Counter(
    "sealgate_pg_errors_total", "Errors that clients got, by class of SQLSTATE", ["sqlstate_class"]
)
pg_upstream_up = Gauge(
    "sealgate_pg_upstream_up", "1 unless the last attempt failed", ["host"],
    multiprocess_mode="livemin",
)  # fmt: skip
pg_statements_total = Counter(
    "sealgate_pg_statements_total", "Statements planned", ["outcome"]
)  # encrypted | passthrough | refused
pg_values_total = Counter("sealgate_pg_values_total", "Values sealed or opened", ["op"])
pg_plan_cache_hits_total = Counter("sealgate_pg_plan_cache_hits_total", "Plans found")
pg_plan_cache_misses_total = Counter("sealgate_pg_plan_cache_misses_total", "Plans made")
pg_integrity_failures_total = Counter(
    "sealgate_pg_integrity_failures_total", "Values that did not open"
)

s3_requests_total = Counter("sealgate_s3_requests_total", "Requests", ["op", "code"])
s3_bytes_total = Counter("sealgate_s3_bytes_total", "Plaintext bytes", ["direction"])
s3_plain_reads_total = Counter(
    "sealgate_s3_plain_reads_total", "Objects without envelope served from mixed buckets"
)
s3_integrity_failures_total = Counter(
    "sealgate_s3_integrity_failures_total", "Objects that did not open"
)

key_cache_entries = Gauge(
    "sealgate_key_cache_entries", "Rings held open", multiprocess_mode="livesum"
)
key_cache_hits_total = Counter("sealgate_key_cache_hits_total", "Rings found open")
key_unwraps_total = Counter(
    "sealgate_key_unwraps_total", "Ring keys asked of the root", ["provider", "outcome"]
)
key_unwrap_duration_seconds = Histogram(
    "sealgate_key_unwrap_duration_seconds",
    "Time for one ring key",
    buckets=(0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5),
)
hsm_member_up = Gauge(
    "sealgate_hsm_member_up", "1 while this token of the cluster is used", ["member"],
    multiprocess_mode="livemin",
)  # fmt: skip
hsm_member_calls_total = Counter(
    "sealgate_hsm_member_calls_total", "Calls of one token", ["member", "outcome"]
)  # ok | integrity | device | overloaded | unfit
hsm_failovers_total = Counter(
    "sealgate_hsm_failovers_total", "Requests passed on to another token", ["reason"]
)  # slow | failed
hsm_up = Gauge("sealgate_hsm_up", "1 while the root answers", multiprocess_mode="livemin")
keys_wiped_total = Counter("sealgate_keys_wiped_total", "Keys overwritten when they left the cache")
key_denials_total = Counter("sealgate_key_denials_total", "Refused by policy")

audit_lines_total = Counter("sealgate_audit_lines_total", "Audit lines written", ["event"])
audit_lost_total = Counter("sealgate_audit_lost_total", "Audit lines that could not be written")
audit_up = Gauge(
    "sealgate_audit_up", "1 while audit lines can be written", multiprocess_mode="livemin"
)
audit_sink_lag_bytes = Gauge(
    "sealgate_audit_sink_lag_bytes", "Audit bytes that a sink has not taken yet", ["sink"],
    multiprocess_mode="livemax",
)  # fmt: skip
