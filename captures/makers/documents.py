"""Ids of the reference tables that several stories share, and rows of different documents that say the same.

Sources: the tables' own notes, and reference/ambiguity.md section 4 (pairs that no packet separates).
"""

from __future__ import annotations

MAPPER = ("note-rpc-epm-135", "doc-dynamic-port-range")
"""Rows that hold for any conversation with the mapper, or on any port that was handed out."""

TO_MAILBOX = ("cas-to-mailbox", "mailbox-availability")
DIRECTORY = ("mailbox-active-directory", "mailbox-system-attendant-active-directory", "mailbox-rus-active-directory")
BETWEEN_CAS = ("cas-to-cas-owa", "cas-to-cas-activesync", "cas-to-cas-ews")
BETWEEN_MAILBOX_SERVERS = (
    "mailbox-assistants",
    "mailbox-system-attendant-listen",
    "mailbox-system-attendant-mapi-client",
    "mailbox-rus-rpc",
    "mailbox-content-indexing",
    "mailbox-adtopology-service",
    "mailbox-clustering",
    "note-cluster-dynamic-rpc",
)

OUTLOOK = ("note-mapi-clients-use-cas",)
OUTLOOK_ALSO = (*MAPPER, "doc-rpc-client-access-static", "doc-address-book-static")
"""Whether an administrator has fixed a port that the mapper hands out, no packet says."""

SAME_SERVICE = {
    "e2003-smtp": ("smtp",),
    "e2003-resvc": ("routing-engine",),
    "e2003-mta-x400": ("x400",),
    "e2003-mta-epm": ("mta-rpc", "intrasite-mta", "site-connector"),
    "e2003-mta-dynamic": ("mta-rpc", "intrasite-mta", "site-connector"),
    "e2003-sa-epm": ("mapi-epm", "mapi-sa"),
    "e2003-sa-dynamic": ("mapi-epm", "mapi-sa"),
    "e2003-is-epm": ("mapi-epm", "mapi-store"),
    "e2003-is-dynamic": ("mapi-epm", "mapi-store"),
    "e2003-is-newmail-udp": ("newmail-udp",),
    "e2003-is-rpchttp": ("rpchttp-store",),
    "e2003-sa-rpchttp": ("rpchttp-rfr", "rpchttp-nspi"),
    "e2003-srs-epm": ("srs", "intrasite-directory"),
    "e2003-srs-dynamic": ("srs", "intrasite-directory"),
    "e2003-srs-ldap": ("srs", "adc"),
    "e2003-adc-379": ("srs", "adc"),
    "e2003-adc-389": ("adc", "active-directory"),
    "e2003-mgmt-epm": ("management-wmi",),
    "e2003-mgmt-dynamic": ("management-wmi",),
    "e2003-www-http": ("http",),
    "e2003-www-https": ("http", "rpchttp-client"),
    "e2003-www-fe-be": ("fe-be-http",),
    "e2003-pop3": ("pop3",),
    "e2003-pop3s": ("pop3",),
    "e2003-pop3-fe-be": ("fe-be-pop3",),
    "e2003-imap4": ("imap4",),
    "e2003-imap4s": ("imap4",),
    "e2003-imap4-fe-be": ("fe-be-imap4",),
    "e2003-nntp": ("nntp",),
    "e2003-nntps": ("nntp",),
    "e2003-nntp-feed": ("nntp",),
    "e2003-eas-autd": ("eas-autd",),
}
"""Rows of other_versions.csv that document the same service of Exchange 2003 once more."""


def restated(paths: tuple[str, ...]) -> tuple[str, ...]:
    """What other documents call these paths."""
    return tuple(dict.fromkeys(twin for path in paths for twin in SAME_SERVICE.get(path, ())))
