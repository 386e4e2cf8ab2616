"""Makers of the small captures in `captures/`: scapy builds the packets, these modules tell the stories.

    scene.py     hosts, a clock, TCP and UDP conversations, and what is true about each of them
    files.py     classic pcap and pcapng in every variant, written byte by byte
    der.py tokens.py rpc.py    ASN.1, authentication tokens, DCE/RPC and endpoint-mapper bytes
    talk.py      whole exchanges: ask the mapper, bind, call; TLS, SMTP, LDAP openings
    stories_*.py one function a capture; `python -m captures.makers` runs them all

A maker labels a conversation with what it KNOWS, because it made it, never with what a reader said about it.
It must not import `classifier`: an answer key that shares code with the answer proves nothing.
"""
