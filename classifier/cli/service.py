"""What a long-running command needs of the system: signals, fewer rights, a unit for systemd."""

from __future__ import annotations

import os
import pwd
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import click

UNIT: Final = """\
# exflow on a mirror port. systemctl edit --full exflow@.service, then: systemctl enable --now exflow@eth1
[Unit]
Description=exflow on %i
After=network.target

[Service]
ExecStart={command} sniff %i -o /var/lib/exflow/%i.jsonl --rotate 3600 --endpoint-map /var/lib/exflow/endpoints.jsonl
ExecReload=/bin/kill -HUP $MAINPID
KillSignal=SIGTERM
TimeoutStopSec=90
Restart=on-failure
DynamicUser=yes
StateDirectory=exflow
CacheDirectory=exflow
Environment=XDG_CACHE_HOME=/var/cache/exflow
AmbientCapabilities=CAP_NET_RAW
CapabilityBoundingSet=CAP_NET_RAW
NoNewPrivileges=yes
ProtectSystem=strict
ProtectHome=yes
PrivateTmp=yes
PrivateDevices=yes
ProtectKernelTunables=yes
ProtectKernelModules=yes
ProtectKernelLogs=yes
ProtectControlGroups=yes
ProtectClock=yes
ProtectHostname=yes
RestrictAddressFamilies=AF_PACKET AF_UNIX AF_INET AF_NETLINK
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
UMask=0027

[Install]
WantedBy=multi-user.target
"""
"""Compiled kernels need memory that is writable and then executable: no MemoryDenyWriteExecute."""


@contextmanager
def rights_of(user: str | None) -> Iterator[None]:
    """Load modules as that user, open the socket inside, and be nobody else behind it.

    Compiled kernels are then kept in that user's own cache. Raises click.UsageError for an unknown user, and for
    one who can't read Python.
    """
    if user is None:
        yield
        return
    try:
        entry = pwd.getpwnam(user)
    except KeyError as error:
        raise click.UsageError(f"no user {user!r}") from error
    if os.geteuid() != 0:
        raise click.UsageError("--user is for root, who gives rights up")
    os.environ["HOME"] = entry.pw_dir
    os.environ.pop("XDG_CACHE_HOME", None)
    os.seteuid(entry.pw_uid)
    unreadable = [path for path in (os.__file__, __file__) if not os.access(path, os.R_OK, effective_ids=True)]
    if unreadable:
        os.seteuid(0)
        raise click.UsageError(f"{user} can't read {unreadable[0]}: install Python and exflow where that user may")
    import classifier.compiled  # noqa: F401

    os.seteuid(0)
    yield
    os.setgroups([])
    os.setgid(entry.pw_gid)
    os.setuid(entry.pw_uid)


def on_signals(stop: Callable[[], None], reload: Callable[[], None]) -> None:
    """SIGINT and SIGTERM flush and end; a second SIGINT ends at once. SIGHUP reads settings again,
    or ends what its terminal has left."""

    def end(*_: object) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        stop()

    signal.signal(signal.SIGINT, end)
    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGHUP, lambda *_: reload())
