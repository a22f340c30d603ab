"""Builds the one extension, proxy._native, from native/_native.pyx.

SEALGATE_DEBUG_NATIVE=1 selects the debug flavour: bounds checks, overflow checks, live-object
counters and poison on free. Everything declarative is in pyproject.toml.
"""

import os

from Cython.Build import cythonize
from setuptools import Extension, setup

DEBUG = os.environ.get("SEALGATE_DEBUG_NATIVE") == "1"

_flags = ["-std=gnu11", "-Wall", "-Wextra", "-Wno-unused-parameter", "-Wno-unused-function",
          "-Wno-sign-compare", "-Wno-missing-field-initializers", "-fstack-protector-strong",
          "-fno-strict-aliasing", "-DOPENSSL_SUPPRESS_DEPRECATED"]
# overflowcheck hands differences of pointers to a helper for integers: harmless, and debug only
_flags += ["-O1", "-g", "-Wno-int-conversion"] if DEBUG else ["-O2", "-g0"]

setup(
    ext_modules=cythonize(
        [
            Extension(
                "proxy._native",
                ["native/_native.pyx"],
                include_dirs=["native"],
                libraries=["crypto", "dl"],
                define_macros=[("SEALGATE_DEBUG", "1" if DEBUG else "0")],
                extra_compile_args=_flags,
                extra_link_args=["-Wl,-z,now", "-Wl,-z,relro"],
                depends=[os.path.join("native", n) for n in sorted(os.listdir("native"))
                         if n.endswith((".pyx", ".pxi", ".h", ".c"))],
            )
        ],
        compiler_directives={
            "language_level": 3,
            "boundscheck": DEBUG,
            "wraparound": False,
            "cdivision": True,
            "initializedcheck": DEBUG,
            "overflowcheck": DEBUG,
            "embedsignature": True,
        },
        compile_time_env=None,
    ),
)
