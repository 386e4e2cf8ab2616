"""What runs inside a namespace: servers and clients that no package offers, and the wire that loses packets."""
