"""`ZCELL_SHA256_KERNEL` demands a kernel: it is used, or the first use fails and says what this CPU can run."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from zcell._native import sha256

HASH_AND_TELL = """
from zcell import digest
from zcell._native import sha256
from zcell.errors import KernelError

print(*digest.kernels())
for use in (lambda: digest.kernel(), lambda: digest.leaves(b"x"), digest.TreeHasher, lambda: digest.Digest.of(b"abc")):
    try:
        print(type(use()).__name__)
    except KernelError as error:
        print("KernelError", error)
print(sha256.chunk_root(b"abc", kernel="portable").hex())
"""


def run_with_demand(demand: str | None, code: str = HASH_AND_TELL) -> list[str]:
    environment = {key: value for key, value in os.environ.items() if key != "ZCELL_SHA256_KERNEL"}
    if demand is not None:
        environment["ZCELL_SHA256_KERNEL"] = demand
    child = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True, timeout=60
    )
    return child.stdout.splitlines()


@pytest.mark.parametrize("name", sha256.kernels())
def test_a_demanded_kernel_is_the_one_in_use(name: str) -> None:
    assert run_with_demand(name, "from zcell import digest; print(digest.kernel())") == [name]


@pytest.mark.parametrize("demand", [None, ""])
def test_without_a_demand_the_best_kernel_is_in_use(demand: str | None) -> None:
    assert run_with_demand(demand, "from zcell import digest; print(digest.kernel())") == [sha256.kernels()[0]]


@pytest.mark.parametrize("name", ["nonsense", "openssl", "Portable", "lanes16-generic"])
def test_an_unmet_demand_fails_every_use_and_import_none(name: str) -> None:
    usable, *uses, explicit = run_with_demand(name)
    assert usable.split() == list(sha256.kernels())
    for use in uses:
        assert use.startswith("KernelError ZCELL_SHA256_KERNEL demands")
        assert repr(name) in use
        assert all(kernel in use for kernel in sha256.kernels())
    assert explicit == sha256.chunk_root(b"abc").hex()
