"""The hosts of the stories: one Exchange 2010 organisation, an older one, and strangers."""

from __future__ import annotations

from captures.makers.scene import Host, Scene

PLACES = {
    "hub1": ("HUB1", "10.10.1.11", "hub-transport", "2010"),
    "hub2": ("HUB2", "10.10.1.12", "hub-transport", "2010"),
    "edge1": ("EDGE1", "192.0.2.25", "edge-transport", "2010"),
    "mbx1": ("MBX1", "10.10.1.21", "mailbox", "2010"),
    "mbx2": ("MBX2", "10.10.1.22", "mailbox", "2010"),
    "cas1": ("CAS1", "10.10.1.31", "client-access", "2010"),
    "cas2": ("CAS2", "10.10.1.32", "client-access", "2010"),
    "um1": ("UM1", "10.10.1.41", "unified-messaging", "2010"),
    "dc1": ("DC1", "10.10.1.5", "active-directory", ""),
    "fsw1": ("FSW1", "10.10.1.61", "witness-server", ""),
    "rms1": ("RMS1", "10.10.1.71", "ad-rms", ""),
    "lync1": ("LYNC1", "10.10.1.81", "ocs-lync", ""),
    "gateway1": ("GW1", "10.10.9.60", "ip-gateway", ""),
    "admin1": ("ADMIN1", "10.10.8.9", "admin-workstation", ""),
    "outlook1": ("OUTLOOK1", "10.10.9.101", "outlook", ""),
    "outlook2": ("OUTLOOK2", "10.10.9.102", "outlook", ""),
    "browser1": ("WEB1", "10.10.9.111", "browser", ""),
    "phone1": ("PHONE1", "10.10.9.121", "eas-device", ""),
    "ews1": ("EWSAPP1", "10.10.9.131", "web-service-client", ""),
    "mailer1": ("MAILER1", "10.10.9.141", "smtp-client", ""),
    "pop1": ("POP1", "10.10.9.151", "pop3-client", ""),
    "imap1": ("IMAP1", "10.10.9.161", "imap4-client", ""),
    "internet1": ("mx", "198.51.100.25", "internet-mta", ""),
    "be1": ("BE1", "10.20.1.21", "back-end", "2003"),
    "be2": ("BE2", "10.20.1.22", "back-end", "2003"),
    "fe1": ("FE1", "10.20.1.31", "front-end", "2003"),
    "old1": ("EX55", "10.20.1.55", "exchange-server", "5.5"),
    "ex1": ("EX1", "10.30.1.11", "mailbox", "2016"),
    "ex2": ("EX2", "10.30.1.12", "mailbox", "2016"),
    "edge2": ("EDGE2", "192.0.2.26", "edge-transport", "2016"),
    "x400": ("X400GW", "203.0.113.102", "x400-mta", ""),
    "news1": ("NEWS1", "203.0.113.119", "nntp-server", ""),
    "reader1": ("READER1", "10.10.9.171", "nntp-client", ""),
}


def host(scene: Scene, key: str) -> Host:
    """A host of the organisation, entered into the scene's inventory at its first appearance."""
    name, address, role, version = PLACES[key]
    known = next((item for item in scene.hosts if item.address == address), None)
    return known or scene.host(name, address, role, version=version)


def hosts(scene: Scene, *keys: str) -> list[Host]:
    return [host(scene, key) for key in keys]


def role_of(key: str) -> str:
    return PLACES[key][2]
