"""Tests on real engines: `make engines` installs and starts them, as root on Debian, and stops everything it started."""
