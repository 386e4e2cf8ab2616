"""A client of Exchange's RPC: asks the endpoint mapper, binds with credentials, makes calls; impacket's or scapy's.

python -m captures.lab.programs.rpc_client LIBRARY SERVER INTERFACE [options]
"""

from __future__ import annotations

import argparse
import os

from captures.lab.programs import rpc_server
from captures.makers import rpc

LEVELS = {"none": 1, "connect": 2, "integrity": 5, "privacy": 6}


def with_impacket(options: argparse.Namespace, interface: rpc.Syntax) -> None:
    """impacket: NDR32 only, NTLM only (it doesn't understand scapy's Kerberos)."""
    from impacket.dcerpc.v5 import epm, transport
    from impacket.uuid import uuidtup_to_bin

    syntax = uuidtup_to_bin((interface.uuid, f"{interface.major}.{interface.minor}"))
    where = f"ncacn_ip_tcp:{options.server}[{options.port}]"
    if not options.port:
        where = epm.hept_map(options.server, syntax, protocol="ncacn_ip_tcp")
    link = transport.DCERPCTransportFactory(where)
    if options.level != "none":
        link.set_credentials(options.user, options.password, options.domain)
    peer = link.get_dce_rpc()
    peer.set_auth_level(LEVELS[options.level])
    peer.connect()
    peer.bind(syntax)
    pause(options)
    for opnum in options.calls:
        peer.call(opnum, os.urandom(48 + 16 * (opnum % 7)))
        peer.recv()
    peer.disconnect()


def with_scapy(options: argparse.Namespace, interface: rpc.Syntax) -> None:
    """scapy: NDR32 or, with three contexts as Windows, NDR64."""
    from scapy.layers.dcerpc import DCE_C_AUTHN_LEVEL, DCERPC_Transport, find_dcerpc_interface
    from scapy.layers.msrpce.rpcclient import DCERPC_Client
    from scapy.packet import Raw

    rpc_server.register(interface)
    found = find_dcerpc_interface(interface.name)
    package = None if options.level == "none" else scapy_package(options)
    peer = DCERPC_Client(
        DCERPC_Transport.NCACN_IP_TCP, ndr64=options.ndr64, verb=False, ssp=package,
        auth_level=DCE_C_AUTHN_LEVEL(LEVELS[options.level]),
    )  # fmt: skip
    peer.connect(options.server, options.port or scapy_port(options, found))
    peer.bind(found)
    pause(options)
    for opnum in options.calls:
        peer.sr1_req(Raw(os.urandom(48 + 16 * (opnum % 7))), opnum=opnum)
    peer.close()


def scapy_package(options: argparse.Namespace) -> object:
    """NTLM, Kerberos, or SPNEGO with Kerberos."""
    from scapy.layers.kerberos import KerberosSSP
    from scapy.layers.ntlm import NTLMSSP
    from scapy.layers.spnego import SPNEGOSSP

    name = {"UPN": f"{options.user}@{options.domain}", "PASSWORD": options.password}
    if options.package == "ntlm":
        return NTLMSSP(**name)
    ticket = KerberosSSP(SPN=options.spn, DC_IP=options.kdc, **name)
    return ticket if options.package == "kerberos" else SPNEGOSSP([ticket])


def scapy_port(options: argparse.Namespace, interface: object) -> int:
    """What the endpoint mapper says."""
    from scapy.layers.dcerpc import DCERPC_Transport, find_dcerpc_interface
    from scapy.layers.msrpce.rpcclient import DCERPC_Client

    mapper = DCERPC_Client(DCERPC_Transport.NCACN_IP_TCP, ndr64=options.ndr64, verb=False)
    mapper.connect(options.server, 135)
    mapper.bind(find_dcerpc_interface("ept"))
    answers = mapper.epm_map(interface)
    mapper.close()
    if not answers:
        raise SystemExit(f"{interface} is not registered")
    return int(answers[0][1])


def pause(options: argparse.Namespace) -> None:
    """Wait for a line, if so told."""
    if options.pause:
        print("paused", flush=True)
        input()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("library", choices=("impacket", "scapy"))
    parser.add_argument("server")
    parser.add_argument("interface", choices=sorted(rpc_server.INTERFACES))
    parser.add_argument("--level", choices=sorted(LEVELS), default="privacy")
    parser.add_argument("--calls", type=int, nargs="*", default=[10, 11, 11, 1])
    parser.add_argument("--port", type=int, default=0, help="go there without asking the mapper")
    parser.add_argument("--package", choices=("ntlm", "kerberos", "negotiate"), default="ntlm")
    parser.add_argument("--kdc", help="where tickets come from")
    parser.add_argument("--spn", help="the service's name in the ticket")
    parser.add_argument("--ndr64", action="store_true")
    parser.add_argument("--pause", action="store_true", help="say so after the bind, and wait for a line")
    parser.add_argument("--user", default="alice")
    parser.add_argument("--password", default="not-a-secret")
    parser.add_argument("--domain", default="example.test")
    options = parser.parse_args()
    interface = rpc_server.INTERFACES[options.interface]
    {"impacket": with_impacket, "scapy": with_scapy}[options.library](options, interface)


if __name__ == "__main__":
    main()
