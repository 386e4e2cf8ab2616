"""A laboratory of real servers in network namespaces, and the captures that come from it.

Owns the network, the servers and clients, the recordings, and the truth about each conversation: what the servers'
configuration and logs say. Must not know `classifier`; only the table at the end runs the command `exflow`.
`programs/` run inside a namespace, each in a process of its own; `scenarios/` say who talks to whom.
"""
