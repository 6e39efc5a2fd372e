"""The command line. Invariant: with ``--json`` standard output is one JSON object a line, and nothing else."""
