"""Datagrams between two cluster nodes, both on 3343, each in its turn; what is in them is nobody's format.

python -m captures.lab.programs.heartbeat OWN OTHER BEATS
"""

from __future__ import annotations

import os
import socket
import struct
import sys
import time

PORT, PAUSE_SECONDS = 3343, 0.25


def main(own: str, other: str, beats: str) -> None:
    """Send so many, and take what comes."""
    link = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    link.bind((own, PORT))
    link.setblocking(False)
    for number in range(int(beats)):
        link.sendto(struct.pack("<IQ", number, time.time_ns()) + os.urandom(52), (other, PORT))
        time.sleep(PAUSE_SECONDS)
        try:
            link.recv(2048)
        except BlockingIOError:
            continue


if __name__ == "__main__":
    main(*sys.argv[1:])
