"""Benchmarks. Invariant: every figure stands beside an alternative measured in the same run, with the noise of both."""
