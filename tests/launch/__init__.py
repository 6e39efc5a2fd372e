"""Tests of zcell.launch."""
