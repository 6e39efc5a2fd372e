"""Tests of the Docker launcher's rules that need no engine; those on an engine are in tests/engines."""
