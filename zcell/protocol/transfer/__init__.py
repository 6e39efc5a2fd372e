"""The transfer of one object between two cells, sans-IO: a receiver that asks, a sender that serves.

Invariant of the package: no sockets, no clocks, no threads. Time comes in as an argument (seconds of any monotonic clock), what
arrived comes in as a method call, and what to do next comes out as a list of actions. So every loss, duplicate, reordering,
crash and restart can be driven by a test in virtual time.

The receiver owns the transfer. It asks for ranges of chunks as far as its window allows; the sender serves them in the order
asked for, on the data lane. Nothing is ever sent twice because a timer fired: a timer only makes the receiver send a *probe*,
on which the sender puts a *mark* behind everything it was asked for before. When the mark arrives, whatever was asked for
before it and has not arrived is lost, and is asked for again.
"""
