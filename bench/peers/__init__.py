"""The alternatives: what a careful person would write with plain sockets and no more. Each does what zcell is compared with."""
