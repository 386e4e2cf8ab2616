"""TLS with session keys: real TLS stacks (OpenSSL, through Python's ssl, and nginx and curl in the laboratory), whose
keys were logged, labelled by what was said inside; and keys that are wrong, missing or inside the capture."""

from __future__ import annotations

import shutil
import ssl
import subprocess
import tomllib
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from answer_key import disagreements
from click.testing import CliRunner
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

import classifier
from captures.makers import files, rpc
from captures.makers.rows2010 import outlook_anywhere
from captures.makers.scene import Host, Scene, Span, Tcp
from classifier import cli, limits
from classifier.errors import MissingToolError, UsageError
from classifier.inspectors import http2

LAB = Path(__file__).resolve().parents[1] / "captures" / "lab"
INDEX = {entry["file"]: entry for entry in tomllib.loads((LAB / "INDEX.toml").read_text())["capture"]}
needs_tshark = pytest.mark.skipif(not shutil.which("tshark"), reason="TSHARK MISSING: nothing is decrypted")


def web(**given: Any) -> classifier.Result:
    return classifier.classify(
        LAB / "web-client-access.pcap", inventory=LAB / "web-client-access.inventory.toml", jobs=1, **given
    )


# ---- nginx and curl ----------------------------------------------------------------------------------


@needs_tshark
def test_a_real_session_has_the_label_of_the_same_request_in_clear() -> None:
    """Each request was made twice, on 80 and on 443; the server's log has it (`note` of the index)."""
    notes = {truth["first_frame"]: truth.get("note") for truth in INDEX["web-client-access.pcap"]["conversation"]}
    result = web(keylog=LAB / "web-client-access.keylog")
    clear = {notes[talk.first_frame]: talk for talk in result if talk.server_port == 80}
    sealed = {notes[talk.first_frame]: talk for talk in result if talk.server_port == 443 and talk.protocol == "http"}
    assert len(sealed) >= 9
    shared = set(clear) & set(sealed)
    assert len(shared) >= 8
    for note in shared:
        assert sealed[note].data_paths == clear[note].data_paths
        assert sealed[note].authentication == clear[note].authentication == "basic"
        assert (sealed[note].encryption, clear[note].encryption) == ("tls-implicit", "none")
        assert sealed[note].tls_version
        assert [fact["value"] for fact in sealed[note].evidence if fact["field"] == "tls.decrypted"] == ["http"]


@needs_tshark
def test_keys_narrow_the_labels_and_contradict_no_truth() -> None:
    entry = INDEX["web-client-access.pcap"]
    before, after = web(), web(keylog=LAB / "web-client-access.keylog")
    said = {(talk.transport, talk.first_frame): talk for talk in after}
    known = [{name: value for name, value in truth.items() if name not in ("protocol", "certainty")}
             for truth in entry["conversation"]]  # fmt: skip
    assert [line for truth in known for line in disagreements(truth, said)] == []
    narrowed = [talk.id for talk in after if len(talk.data_paths) < len(before[talk.id].data_paths)]
    sealed = [truth for truth in entry["conversation"] if truth["protocol"] == "tls" and "note" in truth]
    assert len(narrowed) == len(sealed) >= 10


@needs_tshark
def test_frames_of_what_was_said_inside_are_tsharks() -> None:
    path, keys = LAB / "web-client-access.pcap", LAB / "web-client-access.keylog"
    command = ["tshark", "-n", "-r", str(path), "-o", f"tls.keylog_file:{keys}", "-o", "http.desegment_body:FALSE",
               "-Y", "tls && http.request", "-T", "fields", "-e", "frame.number", "-e", "http.request.uri"]  # fmt: skip
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    theirs = {int(frame): uri.partition("?")[0] for frame, uri in (line.split("\t") for line in told.splitlines())}
    ours = {
        fact["frame"]: fact["value"]
        for talk in web(keylog=keys) if talk.protocol == "http" and talk.tls_version
        for fact in talk.evidence if fact["field"] == "http.path"
    }
    assert len(theirs) >= 8
    assert {frame: ours.get(frame) for frame in theirs} == theirs


@needs_tshark
def test_keys_inside_the_capture_are_used_unasked(tmp_path: Path) -> None:
    path = tmp_path / "with-keys.pcapng"
    secrets = f"tls,{LAB / 'web-client-access.keylog'}"
    subprocess.run(
        ["editcap", "--inject-secrets", secrets, str(LAB / "web-client-access.pcap"), str(path)], check=True
    )
    inventory = LAB / "web-client-access.inventory.toml"
    inside = classifier.classify(path, inventory=inventory, jobs=1)
    beside = web(keylog=LAB / "web-client-access.keylog")
    assert [talk.data_paths for talk in inside] == [talk.data_paths for talk in beside]
    assert [talk.protocol for talk in inside] == [talk.protocol for talk in beside]


def test_keys_inside_the_capture_without_tshark_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    editcap = shutil.which("editcap")
    if editcap is None:
        pytest.skip("EDITCAP MISSING: no capture with keys inside")
    path = tmp_path / "with-keys.pcapng"
    secrets = f"tls,{LAB / 'web-client-access.keylog'}"
    subprocess.run([editcap, "--inject-secrets", secrets, str(LAB / "web-client-access.pcap"), str(path)], check=True)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    result = classifier.classify(path, jobs=1)
    assert len(result) == len(INDEX["web-client-access.pcap"]["conversation"])
    assert any("session keys not used: tshark is not installed" in words for words in result.shortfalls)
    with pytest.raises(MissingToolError, match="tshark is not installed"):
        web(keylog=LAB / "web-client-access.keylog")


# ---- Python's ssl ------------------------------------------------------------------------------------


class Sealed(Tcp):
    """A connection whose two ends are real TLS stacks; what they exchange goes into the capture."""

    contexts: tuple[ssl.SSLContext, ssl.SSLContext]

    def __init__(self, scene: Scene, client: Host, server: Host, port: int) -> None:
        super().__init__(scene, client, server, port)
        self._bios = {end: (ssl.MemoryBIO(), ssl.MemoryBIO()) for end in (client, server)}
        self._ends = {
            client: self.contexts[0].wrap_bio(*self._bios[client], server_hostname="mail.example.test"),
            server: self.contexts[1].wrap_bio(*self._bios[server], server_side=True),
        }
        waiting = [client, server]
        while waiting:
            for end in list(waiting):
                try:
                    self._ends[end].do_handshake()
                    waiting.remove(end)
                except ssl.SSLWantReadError:
                    pass
                self._carry(end)

    def say(self, sender: Host, data: bytes, **how: Any) -> Span:
        self._ends[sender].write(data)
        return self._carry(sender)

    def _carry(self, sender: Host) -> Span:
        records = self._bios[sender][1].read()
        self._bios[self.other(sender)][0].write(records)
        return super().say(sender, records) if records else Span(0, 0)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A key and a certificate that it signed itself, in one file."""
    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), now, now + timedelta(1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("mail.example.test")]), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "server.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(private + made.public_bytes(serialization.Encoding.PEM))
    return path


def contexts(certificate: Path, keys: Path, version: ssl.TLSVersion) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    ours, theirs = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ours.check_hostname, ours.verify_mode = False, ssl.CERT_NONE
    ours.keylog_filename = str(keys)
    theirs.load_cert_chain(certificate)
    for context in (ours, theirs):
        context.minimum_version = context.maximum_version = version
    return ours, theirs


@pytest.fixture(params=[ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["1.2", "1.3"])
def sealed(request: pytest.FixtureRequest, certificate: Path, tmp_path: Path) -> type[Sealed]:
    found = contexts(certificate, tmp_path / "keys.txt", request.param)
    return type("SealedNow", (Sealed,), {"contexts": found})


def recorded(scene: Scene, folder: Path) -> classifier.Result:
    path = folder / "sealed.pcap"
    path.write_bytes(files.classic(scene.in_time()[0]))
    inventory = folder / "hosts.toml"
    hosts = (f'[[host]]\naddress = "{host.address}"\nrole = ["{host.role[0]}"]\n' for host in scene.hosts)
    inventory.write_text("".join(hosts))
    return classifier.classify(path, inventory=inventory, keylog=folder / "keys.txt", jobs=1)


@needs_tshark
def test_mapi_over_http_is_told_with_its_request_types(sealed: type[Sealed], tmp_path: Path) -> None:
    scene = Scene("mapi-http")
    outlook, mailbox = scene.host("o", "10.10.9.101", "outlook"), scene.host("m", "10.30.1.11", "mailbox")
    tcp = sealed(scene, outlook, mailbox, 443)
    for number, kind in enumerate(("Connect", "Execute", "Disconnect")):
        tcp.ask(
            f"POST /mapi/emsmdb/?MailboxId=1 HTTP/1.1\r\nHost: mail.example.test\r\nX-RequestType: {kind}\r\n"
            f"X-RequestId: {{{number}}}\r\nContent-Type: application/mapi-http\r\nContent-Length: 3000\r\n\r\n".encode()
        )
        tcp.ask(scene.noise(3000))
        tcp.answer(
            f"HTTP/1.1 200 OK\r\nX-RequestType: {kind}\r\nX-ResponseCode: 0\r\nContent-Type: application/mapi-http\r\n"
            "Content-Length: 5\r\n\r\nhello".encode()
        )
    tcp.close()
    [talk] = recorded(scene, tmp_path)
    assert (talk.protocol, talk.encryption, talk.certainty) == ("http", "tls-implicit", "certain")
    assert any("mapi" in path for path in talk.data_paths)
    told = [fact["value"] for fact in talk.evidence if fact["field"] == "http.x-requesttype"]
    assert told == ["Connect", "Execute", "Disconnect"]
    assert "read inside TLS, with the session's keys: http" in talk.explain()
    assert all(talk.first_frame < fact["frame"] <= talk.last_frame for fact in talk.evidence if fact["kind"] == "sign")


@needs_tshark
def test_rpc_over_http_is_told_with_its_inner_interfaces(
    sealed: type[Sealed], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both channels of one virtual connection, each inside TLS."""
    scene = Scene("outlook-anywhere")
    outlook, cas = scene.host("o", "10.10.9.101", "outlook"), scene.host("c", "10.10.1.31", "client-access")
    monkeypatch.setattr(scene, "tcp", lambda client, server, port: sealed(scene, client, server, 443))
    outlook_anywhere(scene, outlook, cas, "cas-outlook-anywhere")
    result = recorded(scene, tmp_path)
    assert [talk.protocol for talk in result] == ["rpc-over-http"] * 2
    assert all("cas-outlook-anywhere" in talk.data_paths for talk in result)
    assert all(talk.encryption == "tls-implicit" for talk in result)
    bound = {(each["uuid"], each["accepted"]) for talk in result for each in talk.rpc_interfaces}
    assert bound == {(rpc.EMSMDB.uuid, True)}
    assert result[1].tls_version == result[2].tls_version
    assert result[1].tls_version


@needs_tshark
def test_other_protocols_inside(sealed: type[Sealed], tmp_path: Path) -> None:
    scene = Scene("others")
    reader, cas = scene.host("r", "10.10.9.151", "pop3-client"), scene.host("c", "10.10.1.31", "client-access")
    pop = sealed(scene, reader, cas, 995)
    pop.answer(b"+OK The Microsoft Exchange POP3 service is ready.\r\n")
    pop.ask(b"USER alice\r\n")
    pop.answer(b"+OK\r\n")
    pop.ask(b"PASS secret\r\n")
    pop.answer(b"+OK User successfully logged on.\r\n")
    odd = sealed(scene, reader, cas, 443)
    odd.ask(scene.noise(400))
    odd.answer(scene.noise(400))
    result = recorded(scene, tmp_path)
    assert (result[1].protocol, result[1].authentication, result[1].encryption) == ("pop3", "basic", "tls-implicit")
    assert "password-in-clear" not in {finding["id"] for finding in result[1].findings}
    assert result[2].protocol == "tls"
    assert not any(fact["field"] == "tls.decrypted" for fact in result[2].evidence)


@needs_tshark
def test_a_bound_on_conversations_is_told(
    sealed: type[Sealed], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("classifier.decryption.DECRYPTED_CONVERSATIONS", 1)
    monkeypatch.setattr("classifier.decryption.KEEP_RPC", 40)
    scene = Scene("two")
    client, cas = scene.host("b", "10.10.9.111", "browser"), scene.host("c", "10.10.1.31", "client-access")
    for _ in range(2):
        sealed(scene, client, cas, 443).ask(b"GET /owa/ HTTP/1.1\r\nHost: mail.example.test\r\n\r\n")
    result = recorded(scene, tmp_path)
    assert [talk.protocol for talk in result] == ["http", "tls"]
    assert result.counters["conversations_with_session_keys_beyond_limit"] == 1


# ---- what can go wrong -------------------------------------------------------------------------------


@needs_tshark
def test_keys_of_others_change_nothing() -> None:
    before, after = web(), web(keylog=LAB / "web-foreign.keylog")
    assert [talk.to_dict() for talk in before] == [talk.to_dict() for talk in after]


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "no key of a TLS session"),
        (b"CLIENT_RANDOM 00 11\n", "no key of a TLS session"),
        (b"\xff\x00\x1b[31m" * 100, "no key of a TLS session"),
        (b"#" * (limits.MAX_KEYLOG + 1), "bytes of keys"),
    ],
    ids=["empty", "short", "binary", "large"],
)
def test_a_file_without_keys_is_wrong_usage(tmp_path: Path, content: bytes, complaint: str) -> None:
    path = tmp_path / "keys.txt"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=complaint):
        web(keylog=path)


def test_standard_input_is_refused_before_it_is_read() -> None:
    with pytest.raises(UsageError, match="second time"):
        classifier.classify("-", keylog=LAB / "web-client-access.keylog")


@needs_tshark
def test_the_command_takes_keys() -> None:
    arguments = ["classify", str(LAB / "web-foreign.pcap"), "--keylog", str(LAB / "web-foreign.keylog"), "--jobs", "1"]
    done = CliRunner().invoke(cli.exflow, arguments, standalone_mode=False)
    assert done.return_value == 0
    assert done.stdout.count("tcp/http") == 6
    assert "tcp/tls" not in done.stdout
    assert "certain" not in done.stdout


# ---- HTTP/2 ------------------------------------------------------------------------------------------


def test_header_blocks_are_told_as_http1() -> None:
    from hpack import Encoder

    block = Encoder().encode(
        [(":method", "POST"), (":path", "/EWS/Exchange.asmx"), (":authority", "mail"), ("user-agent", "a\r\nb")]
    )
    cut = len(block) // 2
    frames = http2.PREFACE + _frame(4, 0, b"") + _frame(1, 0, block[:cut]) + _frame(9, 4, block[cut:])
    frames += _frame(0, 1, b"x")
    [(end, head)] = http2.as_http1(frames)
    assert head.splitlines()[:3] == [b"POST /EWS/Exchange.asmx HTTP/1.1", b"Host: mail", b"user-agent: a  b"]
    assert end == len(frames) - 10


def _frame(kind: int, flags: int, body: bytes) -> bytes:
    return len(body).to_bytes(3, "big") + bytes((kind, flags)) + bytes(4) + body


@given(st.binary(max_size=400), st.integers(0, 255), st.integers(0, 255))
def test_no_bytes_break_it(data: bytes, kind: int, flags: int) -> None:
    for body in (data, http2.PREFACE + data, _frame(kind, flags, data), _frame(1, flags | 4, data)):
        assert all(0 <= end <= len(body) and head.endswith(b"\r\n\r\n") for end, head in http2.as_http1(body))
