"""Debian's servers as the laboratory runs them, with all that they write in the scenario's folder."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from captures.lab.laboratory import Laboratory
from captures.lab.network import run, wait_for
from captures.makers import rpc
from captures.makers.scene import Host

PASSWORD = "not-a-secret"

POSTFIX = """compatibility_level = 3.6
queue_directory = {place}/queue
data_directory = {place}/data
maillog_file = {place}/log
maillog_file_prefixes = {place}
myhostname = {name}
mydestination =
local_transport = discard
local_recipient_maps =
virtual_mailbox_domains = {domain}
virtual_transport = discard
relayhost =
disable_dns_lookups = yes
smtp_host_lookup = native
inet_interfaces = {address}
inet_protocols = ipv4
mynetworks = {address}/32
smtpd_tls_security_level = {tls}
smtpd_tls_cert_file = {certificate}
smtpd_tls_key_file = {key}
smtpd_tls_loglevel = 1
smtp_tls_security_level = {tls}
smtp_tls_loglevel = 1
alias_maps =
"""
POSTFIX_SERVICES = """smtp inet n - n - - smtpd
submission inet n - n - - smtpd
pickup unix n - n 60 1 pickup
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
smtp unix - - n - - smtp
discard unix - - n - - discard
error unix - - n - - error
retry unix - - n - - error
anvil unix - - n - 1 anvil
scache unix - - n - 1 scache
tlsmgr unix - - n 1000? 1 tlsmgr
proxymap unix - - n - - proxymap
postlog unix-dgram n - n - 1 postlogd
"""
DOVECOT = """base_dir = {place}/run
state_dir = {place}/state
log_path = {place}/log
protocols = imap pop3
listen = {address}
ssl = yes
ssl_cert = <{certificate}
ssl_key = <{key}
disable_plaintext_auth = no
mail_location = maildir:{place}/mail/%u
mail_uid = mail
mail_gid = mail
first_valid_uid = 1
passdb {{
  driver = static
  args = password={password}
}}
userdb {{
  driver = static
  args = uid=mail gid=mail home={place}/mail
}}
"""
NGINX = """daemon off;
pid {place}/pid;
worker_processes 1;
events {{}}
http {{
  log_format lab '$remote_addr\t$remote_port\t$server_port\t$request_method\t$request_uri\t$http_user_agent';
  access_log {place}/access lab;
  client_body_temp_path {place}/body;
  proxy_temp_path {place}/proxy;
  fastcgi_temp_path {place}/fastcgi;
  uwsgi_temp_path {place}/uwsgi;
  scgi_temp_path {place}/scgi;
  server {{
    listen {address}:80;
    listen {address}:443 ssl http2;
    ssl_certificate {certificate};
    ssl_certificate_key {key};
{site}
  }}
}}
"""
LDS = "OU=MSExchangeGateway"
SLAPD = """include /etc/ldap/schema/core.schema
modulepath /usr/lib/ldap
moduleload back_ldif
pidfile {place}/pid
argsfile {place}/args
TLSCertificateFile {certificate}
TLSCertificateKeyFile {key}
database ldif
suffix "{suffix}"
rootdn "cn=sync,{suffix}"
rootpw {password}
directory {place}/data
"""
SAMBA = """interfaces=lo {address}/32
bind interfaces only=yes
dns forwarder=
log file={place}/log
pid directory={place}/run
ncalrpc dir={place}/run/ncalrpc
server services=s3fs rpc ldap cldap kdc dns winbindd
kdc default domain supported enctypes=24
"""
KERBEROS = """[libdefaults]
default_realm=EXAMPLE.TEST
udp_preference_limit=1
rdns=false
dns_lookup_kdc=false
[realms]
EXAMPLE.TEST={{
kdc={address}
}}
[domain_realm]
.example.test=EXAMPLE.TEST
"""
MEMBER = """[global]
workgroup=EXAMPLE
realm=EXAMPLE.TEST
security=ads
netbios name={name}
disable netbios=yes
kerberos method=secrets only
"""
OWN_PLACE = """[global]
private dir={place}
lock directory={place}
state directory={place}
cache directory={place}
pid directory={place}
"""
"""Settings of Samba's clients, that keep their files out of the machine's folders."""
SECRET = "Not-a-secret-1"
"""The directory's administrator; Samba wants capitals and digits."""


def certificate(lab: Laboratory, host: Host, *names: str) -> tuple[Path, Path]:
    """A self-signed certificate for a host and its key, in PEM."""
    place, key = lab.folder / f"{host.name}.pem", lab.folder / f"{host.name}.key"
    listed = ",".join(f"DNS:{name}" for name in names or (host.fqdn,))
    run(
        "openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "30", "-subj", f"/CN={host.name}",
        "-addext", f"subjectAltName={listed}", "-keyout", str(key), "-out", str(place),
    )  # fmt: skip
    return place, key


def postfix(lab: Laboratory, host: Host, domain: str, *, tls: bool = True) -> Path:
    """Postfix on 25 and 587; throws away what is for its domain. Its folder, with the file `log`.

    tls: does it offer and ask for STARTTLS?
    """
    place = lab.folder / f"{host.name}-postfix"
    chain, key = certificate(lab, host)
    settings = POSTFIX.format(
        place=place, name=host.fqdn, domain=domain, address=host.address, certificate=chain, key=key,
        tls="may" if tls else "none",
    )  # fmt: skip
    lab.write(f"{place.name}/main.cf", settings)
    lab.write(f"{place.name}/master.cf", POSTFIX_SERVICES)
    for name in ("queue", "data"):
        (place / name).mkdir()
    run("chown", "postfix", str(place / "data"))
    lab.start(host, "postfix", "-c", str(place), "start-fg")
    lab.listening(host, 25, 587)
    return place


def post(lab: Laboratory, host: Host, place: Path, server: Host) -> None:
    """Let the Postfix of a host send a message to a server, by its address (RFC 5321 4.1.3), and wait for it."""
    recipient = f"b@[{server.address}]"
    lab.call(host, "sh", "-c", f"echo hello | sendmail -C {place} -f a@{host.fqdn} '{recipient}'")
    sent = f"to=<{recipient}>"
    wait_for(lambda: any(sent in line and "status=sent" in line for line in logged(place)), f"{host.name} to send")


def logged(place: Path) -> list[str]:
    """The lines of a server's log."""
    return (place / "log").read_text().splitlines()


def dovecot(lab: Laboratory, host: Host) -> Path:
    """Dovecot on 110, 143, 993 and 995. Its folder, with the file `log`."""
    place = lab.folder / f"{host.name}-dovecot"
    chain, key = certificate(lab, host)
    settings = DOVECOT.format(place=place, address=host.address, certificate=chain, key=key, password=PASSWORD)
    path = lab.write(f"{place.name}/dovecot.conf", settings)
    (place / "mail").mkdir()
    run("chown", "mail:mail", str(place / "mail"))
    lab.start(host, "dovecot", "-F", "-c", str(path))
    lab.listening(host, 110, 143, 993, 995)
    return place


def nginx(lab: Laboratory, host: Host, site: str, *names: str) -> Path:
    """nginx with the locations `site` on 80, and on 443 with these names. Its folder, with the file `access`."""
    place = lab.folder / f"{host.name}-nginx"
    chain, key = certificate(lab, host, *names)
    settings = NGINX.format(place=place, address=host.address, certificate=chain, key=key, site=site)
    path = lab.write(f"{place.name}/nginx.conf", settings)
    lab.start(host, "nginx", "-c", str(path), "-e", str(place / "error"))
    lab.listening(host, 80, 443)
    return place


def slapd(lab: Laboratory, host: Host, port: int, secure: int) -> None:
    """OpenLDAP with one empty container, in clear on `port` and with TLS on `secure`."""
    place = lab.folder / f"{host.name}-slapd"
    chain, key = certificate(lab, host)
    settings = SLAPD.format(place=place, certificate=chain, key=key, suffix=LDS, password=PASSWORD)
    path = lab.write(f"{place.name}/slapd.conf", settings)
    (place / "data").mkdir()
    entry = lab.write(f"{place.name}/base.ldif", f"dn: {LDS}\nobjectClass: organizationalUnit\nou: MSExchangeGateway\n")
    lab.call(host, "slapadd", "-f", str(path), "-l", str(entry))
    where = f"ldap://{host.address}:{port}/ ldaps://{host.address}:{secure}/"
    lab.start(host, "slapd", "-d", "0", "-f", str(path), "-h", where)
    lab.listening(host, port, secure)


def ldap(lab: Laboratory, client: Host, where: str, program: str, *words: str) -> None:
    """One of OpenLDAP's clients, with the password of `slapd`; it takes any certificate."""
    who = ("-x", "-H", where, "-D", f"cn=sync,{LDS}", "-w", PASSWORD)
    lab.call(client, program, *who, *words, env={"LDAPTLS_REQCERT": "never"})


class Samba:
    """Samba as the domain controller of example.test, and clients that know it by its name."""

    def __init__(self, lab: Laboratory, host: Host, *others: Host) -> None:
        self.lab, self.host = lab, host
        self.settings = ("-s", str(lab.folder / f"{host.name}-samba" / "etc" / "smb.conf"))
        self.place = lab.folder / f"{host.name}-samba"
        options = SAMBA.format(place=self.place, address=host.address).splitlines()
        words = (
            "domain", "provision", "--realm=EXAMPLE.TEST", "--domain=EXAMPLE", "--server-role=dc",
            "--dns-backend=SAMBA_INTERNAL", f"--adminpass={SECRET}", f"--host-name={host.name.lower()}",
            f"--host-ip={host.address}", f"--targetdir={self.place}",
        )  # fmt: skip
        lab.call(host, "samba-tool", *words, *(f"--option={option}" for option in options))
        (self.place / "run").mkdir()
        self.tool("spn", "add", f"ldap/{host.fqdn}", f"{host.name}$")
        known = "".join(f"{item.address} {item.fqdn}\n" for item in (host, *others))
        self.hosts = lab.write("hosts", f"127.0.0.1 localhost\n{known}")
        self.resolver = lab.write("resolv.conf", f"nameserver {host.address}\n")
        place = lab.folder / "samba-clients"
        place.mkdir()
        self.alone = ("-s", str(lab.write("samba-clients.conf", OWN_PLACE.format(place=place))))
        self.kerberos = lab.write("krb5.conf", KERBEROS.format(address=host.address))

    def begin(self) -> None:
        """Serve; on a /run of its own, since smbd looks for winbindd in /run/samba whatever it is told."""
        alone = 'mount -t tmpfs tmpfs /run && mkdir /run/samba && exec "$@"'
        self.lab.start(self.host, "sh", "-c", alone, "sh", "samba", "-i", *self.settings)
        self.lab.listening(self.host, 53, 88, 135, 389, 445, 3268)

    def tool(self, *words: str) -> str:
        """Administer the directory, on its own files."""
        return self.lab.call(self.host, "samba-tool", *words, *self.settings)

    def user(self, name: str) -> None:
        """A new account; its password is `SECRET`."""
        self.tool("user", "create", name, SECRET)

    def service(self, name: str, spns: dict[str, str]) -> dict[str, Any]:
        """A new account that owns these names (by interface); what a server needs to read tickets for them."""
        self.user(name)
        for spn in sorted({*spns.values()}):
            self.tool("spn", "add", spn, name)
        return {"spns": spns, "password": SECRET, "salt": f"EXAMPLE.TEST{name}"}

    def call(self, client: Host, *words: str, fails: bool = False) -> str:
        """Run a client that finds the server in /etc/hosts, and no DNS; `ip netns exec` keeps mounts apart."""
        env = {"KRB5_CONFIG": str(self.kerberos), "KRB5CCNAME": f"{self.lab.folder}/{client.name}.tickets"}
        mounts = f"mount --bind {self.hosts} /etc/hosts && mount --bind {self.resolver} /etc/resolv.conf"
        mounted = ("sh", "-c", f'{mounts} && exec "$@"', "sh", *words)
        return self.lab.call(client, *mounted, log=f"{client.name}.log", env=env, fails=fails)

    def join(self, client: Host) -> None:
        """Make a host a member of the domain, and let it prove that it is one."""
        place = self.lab.folder / f"{client.name}-member"
        place.mkdir()
        lines = MEMBER.format(name=client.name) + OWN_PLACE.format(place=place)
        settings = str(self.lab.write(f"{client.name}.conf", lines))
        user = ("-U", f"Administrator%{SECRET}", "--no-dns-updates")
        self.call(client, "net", "ads", "join", "-s", settings, *user)
        self.call(client, "net", "ads", "testjoin", "-s", settings)

    def ports(self, *interfaces: rpc.Syntax) -> dict[str, int]:
        """Where interfaces listen: the endpoint mapper is asked from the server itself, on its loopback."""
        program = (
            "import sys; from impacket.dcerpc.v5 import epm; from impacket.uuid import uuidtup_to_bin; print(epm."
            "hept_map('127.0.0.1', uuidtup_to_bin((sys.argv[1], sys.argv[2])), protocol='ncacn_ip_tcp'))"
        )
        found = {}
        for item in interfaces:
            words = (sys.executable, "-c", program, item.uuid, f"{item.major}.0")
            said = self.lab.call(self.host, *words, log=f"map-{item.name}.log")
            found[item.name] = int(said.rpartition("[")[2].rstrip("]\n"))
        return found
