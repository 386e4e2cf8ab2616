"""The Debian packages that the laboratory runs, and how to install them without starting any of their services."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PACKAGES = (
    "curl", "dovecot-imapd", "dovecot-pop3d", "ethtool", "iproute2", "krb5-user", "ldap-utils", "libnet-ssleay-perl",
    "libsasl2-modules-gssapi-mit", "nftables", "nginx-light", "openssl", "postfix", "procps", "samba",
    "samba-ad-provision", "samba-common-bin", "samba-dsdb-modules", "samba-vfs-modules", "sip-tester", "slapd",
    "smbclient", "stunnel4", "swaks",
    "tcpdump", "winbind",
)  # fmt: skip
POLICY = Path("/usr/sbin/policy-rc.d")


@contextmanager
def no_services() -> Iterator[None]:
    """Debian starts services as it installs them, unless policy-rc.d says no (Debian policy 9.3.3)."""
    made = not POLICY.exists()
    if made:
        POLICY.write_text("#!/bin/sh\nexit 101\n")
        POLICY.chmod(0o755)
    try:
        yield
    finally:
        if made:
            POLICY.unlink()


def install() -> None:
    """apt-get, asking nothing."""
    quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    with no_services():
        subprocess.run(["apt-get", "update", "-qq"], env=quiet, check=True)
        words = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *PACKAGES]
        subprocess.run(words, env=quiet, check=True, stdin=subprocess.DEVNULL)


def missing() -> list[str]:
    """Packages that are not installed."""
    words = ["dpkg-query", "-W", "-f", "${Package} ${db:Status-Status}\n", *PACKAGES]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    there = {line.split()[0] for line in done.stdout.splitlines() if line.endswith(" installed")}
    return [name for name in PACKAGES if name not in there]
