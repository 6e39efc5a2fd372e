"""Declares the native extensions, and nothing else: metadata lives in pyproject.toml.

Build flags stay portable. SIMD kernels are compiled by function target attributes and chosen at run time, so a wheel built
on one machine runs on every machine of its architecture.
"""

from __future__ import annotations

import os
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

NATIVE = "zcell/_native"
COMPILE = ["-O3", "-std=c11", "-fno-strict-aliasing", "-Wall", "-Wextra", "-Wno-unused-parameter", "-Wno-psabi"]
LINK: list[str] = []
if os.environ.get("ZCELL_SANITIZE"):  # the sanitizer build of `make sanitize`
    COMPILE += ["-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-fno-omit-frame-pointer"]
    LINK += ["-fsanitize=address,undefined"]


def extension(name: str, *kernels: str) -> Extension:
    """One extension module `zcell._native.NAME` from its .pyx and the C kernels beside it."""
    return Extension(
        f"zcell._native.{name}",
        [f"{NATIVE}/{name}.pyx", *(f"{NATIVE}/{kernel}" for kernel in kernels)],
        include_dirs=[NATIVE],
        depends=sorted(map(str, Path(NATIVE).glob("*.h"))),
        extra_compile_args=COMPILE,
        extra_link_args=LINK,
    )


# the SHA-256 tree, for every extension that hashes (see sha256_kernel.h)
SHA256 = (
    "sha256_portable.c",
    "sha256_x86.c",
    "sha256_arm.c",
    "sha256_messages.c",
    "sha256_tree.c",
    "sha256_dispatch.c",
)

EXTENSIONS: list[Extension] = [
    extension("sha256", *SHA256),
    extension("chunk", "chunk_frame.c", *SHA256),
    extension("zipstream", "zipstream_record.c"),
    extension("handover"),
]

setup(ext_modules=cythonize(EXTENSIONS, language_level=3, compiler_directives={"embedsignature": True}))
