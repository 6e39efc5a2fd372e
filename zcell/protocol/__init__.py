"""Sans-IO protocol: frames, envelopes, handshake, routing, credit, transfer machines. No sockets, no clocks, no threads."""
