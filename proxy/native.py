"""The only door to the compiled module: everything else imports from here.

So that import contracts, which cannot see into a compiled module, still hold, and so that a missing
build is said in one sentence.
"""

# ruff: noqa: F403, TID251
try:
    from proxy._native import *
except ImportError as error:  # pragma: no cover - only without a build
    raise ImportError(
        "the native module is not built: ./run test --fast builds it, or pip install -e ."
    ) from error
