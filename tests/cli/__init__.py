"""Tests of zcell.cli."""
