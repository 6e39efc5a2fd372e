"""One conformance suite for cells; every behaviour runs over tcp, ipc and inproc."""
