"""Workspaces: what a job needs travels to it, what it made travels back, whole or not at all."""
