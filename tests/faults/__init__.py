"""The tests' own faulty world: a proxy that cuts, freezes and delays connections, and clients that send junk."""
