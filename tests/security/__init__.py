"""Each row of the security tables, driven."""
