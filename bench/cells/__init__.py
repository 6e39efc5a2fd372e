"""The programs that use zcell, one process each, as a parent, a relay, a job. They know its public interface and nothing else."""

SECRET = b"a secret of the benchmarks only!"
