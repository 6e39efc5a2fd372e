"""The hand-over of secrets to a job, as launchers use it. Invariant: `zcell.security.credentials` alone knows the file."""

from zcell.security.credentials import (
    VARIABLE,
    Credentials,
    credentials_from_env,
    credentials_text,
    read_credentials,
    remove_credentials,
    write_credentials,
)

__all__ = [
    "VARIABLE",
    "Credentials",
    "credentials_from_env",
    "credentials_text",
    "read_credentials",
    "remove_credentials",
    "write_credentials",
]
