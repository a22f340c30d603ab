# cython: language_level=3
# What the debug flavour counts (SEALGATE_DEBUG_NATIVE=1): objects that must be gone when the
# last user is. Poisoning of freed slots is in sg_arena.h.
FLAVOUR = "debug" if SEALGATE_DEBUG else "release"


def debug_counters() -> dict[str, int]:
    """Live slots, cached schedules, stream schedules and libcrypto contexts (release: zeros)."""
    if not SEALGATE_DEBUG or sg_map == NULL:
        return {"slots": 0, "schedules": 0, "streams": 0, "contexts": 0}
    return {"slots": sg_used, "schedules": sg_cached, "streams": SG_STREAMS - sg_nstream_free,
            "contexts": sg_contexts}
