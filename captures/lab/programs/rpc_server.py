"""An Exchange server's RPC: an endpoint mapper on 135, and interfaces on ports that the system hands out.

Security packages, NDR32 and NDR64, signing and sealing are scapy's. Three things scapy's own server can't do are done
here: it reads from a stream by PDU (scapy's takes each recv for one), it serves several interfaces on a port and
refuses others as Windows does (bind_ack, abstract syntax not supported; scapy's answers bind_nak), and its mapper
learns and forgets ports while it runs. impacket's server knows no authentication at all.

    python -m captures.lab.programs.rpc_server CONFIG.json

CONFIG: address; netbios, domain; accounts {name: password}; kerberos {spns (by interface), password, salt}, if tickets
are taken; services [{interfaces, port (0: any), registered (list of interfaces, default all)}]. A line `restart N` on
standard input moves service N to another port. One JSON object a line on standard output says what happened: the
laboratory's truth comes from these lines.
"""

from __future__ import annotations

import json
import os
import socket
import struct
import sys
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from scapy.config import conf
from scapy.layers.dcerpc import (
    DceRpc5,
    DceRpc5AlterContext,
    DceRpc5Bind,
    DceRpc5BindAck,
    DceRpc5PortAny,
    DceRpc5Request,
    DceRpc5Result,
    DceRpc5TransferSyntax,
    DCERPC_Transport,
    register_dcerpc_interface,
)
from scapy.layers.kerberos import KerberosSSP
from scapy.layers.msrpce.ept import prot_and_addr_t, protocol_tower_t
from scapy.layers.msrpce.raw.ept import ept_map_Request, ept_map_Response, twr_p_t
from scapy.layers.msrpce.rpcserver import DCERPC_Server
from scapy.layers.ntlm import NTLMSSP, MD4le
from scapy.layers.spnego import SPNEGOSSP
from scapy.libs.rfc3961 import EncryptionType, Key
from scapy.packet import Packet, Raw

from captures.makers import rpc

NOT_REGISTERED = 0x16C9A0D6
ABSTRACT_SYNTAX_NOT_SUPPORTED = 1
MAPPER_PORT = 135
INTERFACES = {item.name: item for item in (rpc.EPM, rpc.EMSMDB, rpc.ASYNC_EMSMDB, rpc.NSPI, rpc.RFRI)}


def register(item: rpc.Syntax) -> None:
    """Make scapy know an interface; its calls are opaque."""
    register_dcerpc_interface(item.name, uuid.UUID(item.uuid), f"{item.major}.{item.minor}", {})


class Server:
    """What is served where: the live endpoint map of one host."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.config = config
        self.listeners: dict[int, socket.socket] = {}
        self.ports: dict[str, int] = {}
        self._print = threading.Lock()

    def say(self, event: str, **facts: Any) -> None:
        """One line of the log."""
        with self._print:
            print(json.dumps({"event": event, **facts}), flush=True)

    def serve(self, number: int) -> None:
        """Listen for one service (-1: the mapper) and enter its port into the map."""
        service = self.config["services"][number] if number >= 0 else {"interfaces": ["epmapper"], "port": MAPPER_PORT}
        address = self.config["address"]
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        listener = socket.create_server((address, service["port"]), family=family)
        self.listeners[number] = listener
        port = listener.getsockname()[1]
        self.ports.update(dict.fromkeys(service.get("registered", service["interfaces"]), port))
        self.say("listening", interfaces=service["interfaces"], port=port)
        threading.Thread(target=self._accept, args=(listener, service["interfaces"], port), daemon=True).start()

    def restart(self, number: int) -> None:
        """The service ends and comes back on another port."""
        self.listeners[number].shutdown(socket.SHUT_RDWR)
        self.listeners[number].close()
        self.serve(number)

    def _accept(self, listener: socket.socket, interfaces: list[str], port: int) -> None:
        while True:
            try:
                connection, peer = listener.accept()
            except OSError:
                return
            talk = Conversation(self, interfaces, port, peer[:2])
            threading.Thread(target=talk.loop, args=(connection,), daemon=True).start()

    def package(self, kind: int, interface: str) -> Any:
        """The security package that a bind names: NTLM, Kerberos, or SPNEGO over both ([MS-RPCE] 2.2.1.1.7)."""
        known = [self._ntlm()]
        if spn := self.config.get("kerberos", {}).get("spns", {}).get(interface):
            known.insert(0, self._kerberos(spn))
        found = next((item for item in known if item.auth_type == kind), None)
        return found or SPNEGOSSP(known)

    def _kerberos(self, spn: str) -> Any:
        """The key of the account that owns the service's name (RFC 3962 section 4)."""
        account = self.config["kerberos"]
        etype = EncryptionType.AES256_CTS_HMAC_SHA1_96
        secret, salt = account["password"].encode(), account["salt"].encode()
        return KerberosSSP(SPN=spn, KEY=Key.string_to_key(etype, secret, salt))

    def _ntlm(self) -> Any:
        """The accounts of this server."""
        names = {name: MD4le(password) for name, password in self.config.get("accounts", {}).items()}
        domain = self.config["domain"]
        return NTLMSSP(
            IDENTITIES=names,
            DOMAIN_FQDN=domain,
            DOMAIN_NB_NAME=domain.split(".")[0].upper(),
            COMPUTER_NB_NAME=self.config["netbios"],
        )


class Conversation(DCERPC_Server):
    """One connection: scapy's server, with the interfaces of one port and a log."""

    def __init__(self, host: Server, interfaces: list[str], port: int, peer: tuple[str, int]) -> None:
        super().__init__(DCERPC_Transport.NCACN_IP_TCP, ndr64=host.config.get("ndr64", True), verb=False, port=port)
        self.host, self.peer, self.said = host, peer, 0
        self.served = {uuid.UUID(INTERFACES[name].uuid): name for name in interfaces}

    def loop(self, connection: socket.socket) -> None:
        try:
            for message in pdus(connection):
                self.recv(message)
                while (answer := self.get_response()) is not None:
                    self._send(connection, bytes(answer))
        except OSError as error:
            self.host.say("error", client=self.peer, port=self.port, text=str(error))
        finally:
            connection.close()

    def _send(self, connection: socket.socket, data: bytes) -> None:
        """Send one PDU; which bytes of the stream it was is kept for the log."""
        connection.sendall(data)
        self.said += len(data)

    def recv(self, data: bytes) -> None:
        message = DceRpc5(data)
        if not (DceRpc5Bind in message or DceRpc5AlterContext in message):
            super().recv(message)
            return
        asked = [context.abstract_syntax.if_uuid for context in message.context_elem]
        accepted = [item for item in dict.fromkeys(asked) if item in self.served]
        if message.auth_verifier and not self.session.ssp:
            name = self.served[accepted[0]] if accepted else ""
            self.session.ssp = self.host.package(message.auth_verifier.auth_type, name)
        level = message.auth_verifier.auth_level if message.auth_verifier else 1
        if accepted:
            super().recv(message)
        else:
            self._refuse(message)
        self.host.say(
            "bound", client=self.peer, port=self.port, accepted=[str(item) for item in accepted],
            refused=[str(item) for item in dict.fromkeys(asked) if item not in self.served],
            package=self._package(), level=level,
        )  # fmt: skip

    def _package(self) -> str:
        """Which security package is in use; within SPNEGO, what was agreed on."""
        used = self.session.ssp
        if isinstance(used, SPNEGOSSP):
            used = self.session.sspcontext.ssp
        return {NTLMSSP: "ntlm", KerberosSSP: "kerberos"}.get(type(used), "none")

    def _refuse(self, message: Packet) -> None:
        nothing = DceRpc5TransferSyntax(if_uuid="NULL", if_version=0)
        refusal = DceRpc5Result(result=2, reason=ABSTRACT_SYNTAX_NOT_SUPPORTED, transfer_syntax=nothing)
        ack = DceRpc5BindAck(
            assoc_group_id=1, sec_addr=DceRpc5PortAny(port_spec=str(self.port).encode() + b"\0"),
            results=[refusal for _ in message.context_elem],
        )  # fmt: skip
        self.queue.append(DceRpc5(call_id=message.call_id, endian=message.endian) / ack)

    def make_reply(self, message: Packet) -> Packet:
        request = message[DceRpc5Request]
        if uuid.UUID(rpc.EPM.uuid) in self.served:
            return self._map(request)
        self.host.say("called", client=self.peer, port=self.port, opnum=request.opnum, size=len(request.payload))
        return Raw(os.urandom(16 * (2 + request.opnum % 20)))

    def _map(self, request: Packet) -> Packet:
        """ept_map ([C706] appendix O): the port of the interface asked for, or ept_s_not_registered."""
        asked = request[ept_map_Request]
        tower = protocol_tower_t(asked.valueof("map_tower.tower_octet_string"))
        interface = tower.floors[0].uuid
        name = next((item.name for item in INTERFACES.values() if uuid.UUID(item.uuid) == interface), "")
        port = self.host.ports.get(name)
        response = self._found(tower, asked, port) if port else self._unknown(asked)
        size = 24 + len(bytes(response))
        self.host.say(
            "mapped", client=self.peer, port=self.port, uuid=str(interface), found=port or 0, first=self.said,
            last=self.said + size,
        )  # fmt: skip
        return response

    def _found(self, tower: Packet, asked: Packet, port: int) -> Packet:
        own = self.host.config["address"]
        address = "0.0.0.0" if ":" in own else own  # a tower has no room for IPv6
        floors = [
            *tower.floors[:3],
            prot_and_addr_t(lhs_length=1, protocol_identifier="NCACN_IP_TCP", rhs_length=2, rhs=port),
            prot_and_addr_t(lhs_length=1, protocol_identifier="IP", rhs_length=4, rhs=address),
        ]
        answer = twr_p_t(tower_octet_string=bytes(protocol_tower_t(floors=floors)))
        response = ept_map_Response(ITowers=[answer], ndr64=self.ndr64)
        response.ITowers.max_count = asked.max_towers
        return response

    def _unknown(self, asked: Packet) -> Packet:
        response = ept_map_Response(ITowers=[], ndr64=self.ndr64, status=NOT_REGISTERED)
        response.ITowers.max_count = asked.max_towers
        return response


def pdus(connection: socket.socket) -> Iterator[bytes]:
    """PDUs from a stream: the fragment length is at offset 8 of the header ([C706] 12.6.3.1)."""
    buffer = b""
    while True:
        while len(buffer) >= 16 and len(buffer) >= (size := struct.unpack_from("<H", buffer, 8)[0]) >= 16:
            yield buffer[:size]
            buffer = buffer[size:]
        piece = connection.recv(65536)
        if not piece:
            return
        buffer += piece


def main() -> None:
    conf.dcerpc_force_header_signing = True  # impacket signs headers, and doesn't announce it
    for item in INTERFACES.values():
        if item is not rpc.EPM:
            register(item)
    server = Server(json.loads(Path(sys.argv[1]).read_text()))
    for number in range(len(server.config["services"])):
        server.serve(number)
    server.serve(-1)
    for line in sys.stdin:
        server.restart(int(line.split()[1]))


if __name__ == "__main__":
    main()
