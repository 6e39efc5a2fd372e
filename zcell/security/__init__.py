"""Identity of cells and secrecy of links: the proofs of the link handshake, secrets on disk, the place of the sealing."""
