"""Tests on real engines: `make engines` installs and starts them, as root on Debian, and stops everything it started."""

import pytest

pytest.register_assert_rewrite("tests.launch.conformance")  # before anything imports it
