"""Messages written by scapy, which knows nothing of this product, are read as what they are."""

from __future__ import annotations

import warnings

from inspectors.playbook import udp, values

from classifier.inspectors import inspect
from classifier.inspectors.base import Evidence

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from scapy.layers.dhcp import BOOTP, DHCP
    from scapy.layers.dns import DNS, DNSQR, DNSRR, DNSRRSRV
    from scapy.layers.kerberos import KRB_AS_REQ, KRB_KDC_REQ_BODY, Kerberos, PrincipalName
    from scapy.layers.ldap import LDAP, LDAP_SearchRequest
    from scapy.layers.ntp import NTPHeader
    from scapy.layers.snmp import SNMP
    from scapy.packet import Packet


def _read(*messages: Packet) -> Evidence:
    found = inspect(udp([bytes(message) for message in messages]))
    assert isinstance(found, Evidence), found
    return found


def test_dns() -> None:
    asked = DNSQR(qname="_ldap._tcp.contoso.com", qtype="SRV")
    assert values(_read(DNS(rd=1, qd=asked)), "dns.query") == ["_ldap._tcp.contoso.com SRV"]
    said = [
        DNSRRSRV(rrname="_ldap._tcp.contoso.com", port=389, target="dc1.contoso.com"),
        DNSRR(rrname="a.b", rdata="1.2.3.4"),
    ]
    found = _read(DNS(qr=1, qd=asked, an=said))
    assert found.reversed is True
    assert values(found, "dns.answer") == ["_ldap._tcp.contoso.com SRV dc1.contoso.com:389", "a.b A 1.2.3.4"]


def test_cldap() -> None:
    assert values(_read(LDAP(protocolOp=LDAP_SearchRequest(baseObject=b"DC=contoso"))), "ldap.base-dn") == [
        "DC=contoso"
    ]


def test_kerberos() -> None:
    body = KRB_KDC_REQ_BODY(
        etype=[18, 23], realm=b"CONTOSO.COM", kdcOptions=0, nonce=1,
        cname=PrincipalName.fromUPN("ann@CONTOSO.COM"), sname=PrincipalName.fromSPN("exchangeMDB/cas.contoso.com"),
    )  # fmt: skip
    found = _read(Kerberos(root=KRB_AS_REQ(reqBody=body)))
    assert values(found, "kerberos.client") == ["ann"]
    assert values(found, "kerberos.service") == ["exchangeMDB/cas.contoso.com"]
    assert values(found, "kerberos.etype-offered") == ["aes256-cts", "rc4-hmac"]


def test_foreign() -> None:
    assert _read(NTPHeader(version=4, mode=3)).protocol == "ntp"
    assert _read(SNMP()).protocol == "snmp"
    assert _read(BOOTP(op=1) / DHCP(options=[("message-type", "discover"), "end"])).protocol == "dhcp"
