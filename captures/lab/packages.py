"""The Debian packages that the laboratory runs, and how to install them without starting any of their services."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from captures.lab.network import LabError

PACKAGES = (
    "curl", "dovecot-imapd", "dovecot-pop3d", "ethtool", "iproute2", "krb5-user", "ldap-utils", "libnet-ssleay-perl",
    "libsasl2-modules-gssapi-mit", "nftables", "nginx-light", "openssl", "postfix", "procps", "samba",
    "samba-ad-provision", "samba-common-bin", "samba-dsdb-modules", "samba-vfs-modules", "sip-tester", "slapd",
    "smbclient", "stunnel4", "swaks",
    "tcpdump", "winbind",
)  # fmt: skip
POLICY = Path("/usr/sbin/policy-rc.d")
NO = "#!/bin/sh\n# of captures.lab, while it installs\nexit 101\n"


@contextmanager
def no_services() -> Iterator[None]:
    """Debian starts services as it installs them, unless policy-rc.d says no (Debian policy 9.3.3)."""
    made = not POLICY.exists() or POLICY.read_text() == NO  # of a laboratory that was killed
    if made:
        POLICY.write_text(NO)
        POLICY.chmod(0o755)
    try:
        yield
    finally:
        if made:
            POLICY.unlink()


def install() -> None:
    """apt-get, asking nothing."""
    with no_services():
        apt("update")
        apt("install", "-y", "--no-install-recommends", *PACKAGES)


def apt(*words: str) -> None:
    """Run apt-get to its end, also when interrupted: half of a package is worse than a late answer."""
    quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    command = ["apt-get", "-qq", *words]
    process = subprocess.Popen(command, env=quiet, stdin=subprocess.DEVNULL, start_new_session=True)
    try:
        status = process.wait()
    except KeyboardInterrupt:
        process.wait()
        raise
    if status:
        raise LabError(f"{' '.join(command)}: exit status {status}")


def missing() -> list[str]:
    """Packages that are not installed."""
    words = ["dpkg-query", "-W", "-f", "${Package} ${db:Status-Status}\n", *PACKAGES]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    there = {line.split()[0] for line in done.stdout.splitlines() if line.endswith(" installed")}
    return [name for name in PACKAGES if name not in there]
