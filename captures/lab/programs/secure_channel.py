"""A member of the domain calls Netlogon and LSA through its secure channel ([MS-NRPC] 3.3), over TCP.

    /usr/bin/python3 -m captures.lab.programs.secure_channel SETTINGS SERVER

Debian's own Python runs this: it has Samba's. SETTINGS: smb.conf of the member.
"""

from __future__ import annotations

import sys

from samba.credentials import Credentials
from samba.dcerpc import lsa, netlogon
from samba.param import LoadParm


def main(settings: str, server: str) -> None:
    known = LoadParm()
    known.load(settings)
    machine = Credentials()
    machine.guess(known)
    machine.set_machine_account(known)
    sealed = f"ncacn_ip_tcp:{server}[schannel,seal]"
    print(netlogon.netlogon(sealed, known, machine).netr_DsRGetDCName(None, "example.test", None, None, 0).dc_unc)
    name = lsa.String()
    name.string = "Administrator"
    asked = lsa.lsarpc(sealed, known, machine)
    print(asked.LookupNames4([name], lsa.TransSidArray3(), lsa.LSA_LOOKUP_NAMES_ALL, 0, 0, 2)[1].sids[0].sid)


if __name__ == "__main__":
    main(*sys.argv[1:])
