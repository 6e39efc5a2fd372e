"""The native layer: thin Cython over plain C, one extension module per concern. Invariant: heavy work runs without the GIL."""
