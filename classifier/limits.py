"""Every bound on memory and work, with its reason. Hitting one is counted and reported.

Sizes are in bytes, times in nanoseconds unless the name says otherwise.
"""

from __future__ import annotations

from typing import Final

KIB: Final = 1024
MIB: Final = 1024 * 1024

# ---- reading ---------------------------------------------------------------------------
READ_BLOCK: Final = 2 * MIB
"""Bytes read from a capture at a time: large enough for the disk, small enough for the L2/L3 cache."""

MERGED_BLOCK: Final = 1 * MIB
"""Bytes of packets that come from several captures in turns, in one batch: more than any packet has, and no more than
stays in the cache until it is read."""

MAX_PACKET: Final = 256 * KIB
"""Largest captured length believed (Wireshark's WTAP_MAX_PACKET_SIZE_STANDARD); more is damage."""

MAX_BLOCK: Final = 16 * MIB
"""Largest pcapng block believed; longer ones are damage."""

MAX_PACKET_BLOCK: Final = 512 * KIB
"""Largest pcapng block believed to hold a packet: the largest packet and as much again of options."""

MAX_DAMAGES: Final = 100
"""Damaged places listed of one capture; nobody reads on, and a hostile one has millions."""

MAX_INTERFACES: Final = 4096
"""Interfaces in one pcapng section."""

COMPRESSED_BLOCK: Final = 64 * KIB
"""Bytes read from a compressed capture at a time."""

COMPRESSED_PIECE: Final = 4 * KIB
"""Bytes decompressed at a time: those that turn out corrupt give nothing, so that the rest of them is lost."""

MAX_EXPANSION: Final = 1000
"""How often a compressed capture may swell: packets of zeros come near it (DEFLATE ends at 1032), bombs of xz and
bzip2 go far beyond."""

MAX_UNASKED_EXPANSION: Final = 256 * MIB
"""Content of a compressed capture that may come of however little: read in a second."""

MAX_DECODER_LOG: Final = 27
"""Memory of a decompressor, as a power of two: 128 MiB, what `zstd -d` takes without being told (--long=27), and twice
what `xz -9` needs."""

# ---- listening -------------------------------------------------------------------------
LIVE_BLOCK: Final = 1 * MIB
"""One block of the ring shared with the kernel; a packet has to fit in."""

LIVE_RING: Final = 256 * MIB
"""The whole ring: half a second of 4 Gbit/s. Measured: the longest that nobody reads it, since a full table is carried
over, is 0.65 seconds; at 330,000 packets a second it holds 1.2."""

LIVE_BLOCKS_AT_ONCE: Final = 4
"""Blocks of the ring in one batch: with the least that a packet takes there, its rows hold them."""

MAX_SNAPLEN: Final = 256 * KIB
"""Snap length by default, as tcpdump has it."""

LIVE_CONVERSATIONS: Final = 512 * KIB
"""Conversations open at a time; beyond it the least promising ones are ended early, and counted. About 220 MB."""

LIVE_ARENA: Final = 128 * MIB
"""First bytes kept of all open conversations."""

LIVE_SEGMENTS: Final = 1_000_000
"""Segments remembered of all open conversations."""

LIVE_ENDED: Final = 128 * MIB
"""Ended conversations kept for what is learnt later, with what was found in them; the oldest go first. Measured: 570
bytes of each, and 3 KB of each different thing that they say: 150,000 where one of ten says something new."""

LIVE_ENDED_SILENT: Final = 16 * MIB
"""The same of those without payload, so that a scan displaces no others; some 40,000."""

LIVE_LAST_REVIEWS: Final = 3
"""How often all that is kept is labelled anew at the end, where it doesn't fit into one reading."""

LIVE_WAITING: Final = 192 * MIB
"""Ended conversations that wait for their label; beyond it they are dropped unreported, and counted."""

LIVE_READ: Final = 256 * KIB
"""Conversations that are read and labelled at once; the others wait for the next time."""

LIVE_READING: Final = 2 * KIB
"""Bytes that one of them takes meanwhile, besides its first bytes. Measured: 0.4 of a scan, 0.6 of mixed traffic,
1.4 where every one names another server."""

LIVE_RECORD: Final = 512
"""Bytes of a record that waits to be written. Measured: 170 to 290."""

LIVE_PROGRAM: Final = 256 * MIB
"""What the program itself takes: the interpreter, libraries, kernels, signatures. Measured: 160 to 200 MiB."""

LIVE_DELAY: Final = 64 * MIB
"""Packets that wait to learn whether they are worth keeping."""

LIVE_DELAY_SECONDS: Final = 20
"""How long they wait at most: longer than a label takes to be found."""

LIVE_VERDICTS: Final = 4 * MIB
"""Conversations whose label is remembered for their packets; more can't begin while packets wait."""

LIVE_ANNOUNCEMENTS: Final = 20_000
"""Announcements of ports kept with all their repetitions; beyond it only the newest of each."""

LIVE_ANNOUNCEMENT: Final = 3 * KIB
"""Bytes that one of them takes with what is filed of it. Measured: 2.1; an annotation may have half a kilobyte more."""

LIVE_HOSTS: Final = 50_000
"""Hosts whose acts and names are remembered when their conversations have left; the longest silent go first."""

LIVE_NAMES: Final = 16
"""Names remembered of one host, the best ones."""

LIVE_HOST: Final = 12 * KIB
"""Bytes that one host takes. Measured: 1.8 with five acts and three names, 10.8 with 40 and 16 of the longest."""

TCP_TIMEOUT_NS: Final = 7440 * 10**9
"""Silence that ends an established TCP conversation (RFC 5382 REQ-5: at least 2 hours 4 minutes)."""

ATTEMPT_TIMEOUT_NS: Final = 60 * 10**9
"""Silence that ends one of which only one side was ever seen; by then a SYN was sent six times."""

CLOSED_TIMEOUT_NS: Final = 5 * 10**9
"""How long a closed one waits for late segments."""

ACTIVE_TIMEOUT_NS: Final = 300 * 10**9
"""After this a conversation that goes on is reported again, for its counts."""

LIVE_RECORDS: Final = 400_000
"""Records that wait for a slow sink; further ones are dropped for it, and counted. A whole scan's, of some seconds."""

# ---- headers ---------------------------------------------------------------------------
MAX_LAYERS: Final = 24
"""Headers walked in one packet (tags, tunnels, extension headers) before it is given up."""

MAX_ENCAPSULATIONS: Final = 8
"""Tags and tunnels remembered per packet; deeper nesting is walked but not listed."""

MAX_ENCAPSULATION_STACKS: Final = 65_536
"""Distinct stacks of tags and tunnels in one run."""

FRAGMENT_TABLE: Final = 4096
"""IP datagrams under reassembly at a time; the oldest gives way (RFC 791 asks for a timer too)."""

FRAGMENT_TIMEOUT_NS: Final = 60 * 10**9
"""How long fragments wait for their siblings (RFC 8200 section 4.5: 60 seconds)."""

FRAGMENT_COPIES: Final = 64
"""Finished IP datagrams remembered for a mirror port's copies of their fragments, which follow within milliseconds."""

MAX_DATAGRAM: Final = 65_535
"""Largest reassembled IP datagram (RFC 791 section 3.1)."""

# ---- conversations ----------------------------------------------------------------------
MAX_CONVERSATIONS: Final = 8_000_000
"""Conversations in one table; packets of further ones are counted and left out."""

UDP_TIMEOUT_NS: Final = 120 * 10**9
"""Silence after which UDP datagrams of the same ports are a new conversation (RFC 4787 REQ-5: at least 2 minutes)."""

SPAN_WINDOW_NS: Final = 10 * 10**6
"""How soon a mirror port's copy follows its original; retransmission timers start at 200 ms (RFC 6298 asks 1 s)."""

SPAN_PACKETS: Final = 64 * KIB
"""Packets remembered for that: what comes in 10 ms at 6 million packets a second. A power of two; 512 KiB."""

MAX_HOLES: Final = 1_000_000
"""Gaps remembered at a time in all TCP streams together, waiting for late segments."""

MAX_HOLES_SEARCHED: Final = 1024
"""Newest gaps of a stream that a late segment may close; reordering leaves a handful, an attacker a million."""

# ---- first bytes ------------------------------------------------------------------------
ARENA: Final = 256 * MIB
"""First bytes kept of all conversations together; as many again may be read of those who left (`READ_EARLY`)."""

ARENA_DEEP: Final = 192 * MIB
"""Above this much of the arena in use, conversations keep only their `KEEP_PLAIN` first bytes."""

READ_EARLY: Final = 32 * MIB
"""First bytes in use at which conversations that are over are read, so that theirs can be given back."""

READ_EARLY_SEGMENTS: Final = 256 * KIB
"""Segments in use at which the same is done."""

READ_EARLY_SPARE: Final = 64 * MIB
"""Memory that is kept for the first bytes of those who leave next; what they took beyond it is given back."""

PARTY: Final = 128 * KIB
"""Conversations that leave together to be read early; others leave at the next look."""

MAX_PROCESSES: Final = 8
"""Processes that inspect at a time; more would wait for the one that feeds them."""

MANY_DIALOGUES: Final = 4096
"""Distinct dialogues for which other processes are called: some 0.2 s of work, of which their start and the way there
and back cost half."""

KEEP_PLAIN: Final = 1 * KIB
"""First bytes kept per direction before the protocol is known, and of protocols with nothing further to read."""

KEEP_LINES: Final = 4 * KIB
"""Per direction, of protocols that tell about themselves in a dialogue (SMTP, HTTP, LDAP, SIP ...)."""

KEEP_DIALOGUE: Final = 8 * KIB
"""Per direction, of TLS: a handshake with its certificates, to where encryption begins."""

KEEP_RPC: Final = 256 * KIB
"""Per direction, of DCE/RPC: later alter_contexts and the level of real requests are in there.
The middle of long stubs takes no memory (`streams`)."""

KEEP_PIPE: Final = 1 * MIB
"""Per direction, of SMB: a named pipe may be opened after other work. The inside of long messages that nobody reads
takes no memory (`streams`), but counts: a stream of files has as many zeros for its inspector."""

PIPE_MESSAGE: Final = 8 * KIB
"""Longest SMB message kept whole because its data may be the rest of an RPC PDU whose beginning came before. PDUs have
up to 5,840 octets in all practice (rpcrt4's max_xmit_frag; 4,280 in most pipes), though their length field has 16 bits;
what begins with a PDU is kept whole however long it is."""

KEEP_EPM: Final = 4 * MIB
"""Per direction, of conversations with port 135 or 593: read to their end in all practice."""

MAX_BEFORE_START: Final = 64 * KIB
"""How far before its first seen byte a stream whose SYN is missing may still grow (late segments: one window)."""

MAX_SEGMENTS: Final = 4_000_000
"""Segments remembered for first bytes; one-byte segments must not eat the machine."""

# ---- inspection -------------------------------------------------------------------------
MAX_PDUS: Final = 20_000
"""PDUs read of one conversation."""

MAX_CONTEXTS: Final = 256
"""Presentation contexts of one RPC association (p_context_elem counts are one byte: C706 section 12.6.3.1)."""

MAX_CALLS: Final = 4096
"""RPC calls waiting for their answer in one association."""

MAX_STUB: Final = 1 * MIB
"""Stub bytes joined from the fragments of one call to the endpoint mapper."""

MAX_TOWERS: Final = 4096
"""Towers read from one endpoint-mapper answer."""

MAX_TOWER: Final = 2 * KIB
"""Bytes of one protocol tower; real ones have 75."""

MAX_FLOORS: Final = 16
"""Floors of one tower; real ones have up to 6 (C706 appendix L)."""

MAX_RTS_COMMANDS: Final = 64
"""Commands of one RTS PDU; set-up messages have up to 7 (MS-RPCH 2.2.4)."""

MAX_TOKEN: Final = 64 * KIB
"""Authentication token (SPNEGO, NTLM, Kerberos) looked into."""

MAX_ASN1_DEPTH: Final = 24
"""Nesting of ASN.1 values followed in a token."""

MAX_ASN1_VALUES: Final = 256
"""ASN.1 values in a row looked at on one level of a token."""

MAX_LINE: Final = 64 * KIB
"""One line of a text protocol; a header with a Kerberos token has up to 48 KiB (MaxTokenSize)."""

MAX_HEADERS: Final = 200
"""Header lines of one HTTP or SIP message."""

MAX_TEXT: Final = 512
"""Characters of any string taken from the network into evidence."""

MAX_SIGNS: Final = 256
"""Signs kept of one conversation."""

MAX_HANDSHAKE: Final = 64 * KIB
"""One TLS handshake message; certificate chains of real servers stay below 16 KiB."""

MAX_CERTIFICATE: Final = 16 * KIB
"""One X.509 certificate handed to the library that parses it."""

MAX_COMMANDS: Final = 4096
"""Lines, messages or records read of one side of a text protocol or a framed one."""

MAX_COMPOUND: Final = 64
"""SMB messages in one frame, or commands in one AndX chain; Windows sends up to 7."""

MAX_PIPES: Final = 256
"""Named pipes followed in one SMB session."""

MAX_SIGN_VALUES: Final = 100_000
"""Values of signs whose patterns are remembered; then they are looked up anew."""

# ---- endpoint map -----------------------------------------------------------------------
MAX_ANNOUNCEMENTS: Final = 1_000_000
"""Announcements of ports kept in one endpoint map."""

MAX_TOLD_OF_PORT: Final = 256
"""Different things told of one port (kind and interface); a busy svchost serves some dozens of interfaces on one."""

# ---- output -----------------------------------------------------------------------------
RENDER_ROWS: Final = 2048
"""Rows turned into text at a time: some megabytes, which stay in the cache until they are written."""

PARQUET_ROWS: Final = 64 * KIB
"""Rows in one row group: bounds the memory that Arrow copies take."""

OVERVIEW_ROWS: Final = 20
"""Lines of each small table of a result at a glance; how many more there are is told."""

NOTEBOOK_ROWS: Final = 50
"""Rows that a notebook shows of a result by itself."""

MAX_KEYLOG: Final = 16 * MIB
"""Session keys of one run, from a file and from captures; a session has up to a kilobyte."""

DECRYPTED_CONVERSATIONS: Final = 2000
"""Conversations that are read decrypted in one run; tshark follows them, and reads the capture for each hundred."""

DECRYPTED_AT_ONCE: Final = 100
"""Conversations that tshark follows at a time; it keeps all they say in memory."""

FOLLOW_BYTES: Final = 4 * 1024 * 1024
"""Bytes that `Conversation.follow` shows of both sides together; more is no reading for a person."""

TOOL_SECONDS: Final = 300
"""How long one of Wireshark's programs may take for one request."""

PROFILE_GROUPS: Final = 40
"""Data paths that a Wireshark profile has colours and buttons for; Wireshark tries every colour on every packet."""

PROFILE_TERMS: Final = 100
"""Conversations or hosts in one display filter of a profile, for the same reason."""

REPORT_EXPLANATIONS: Final = 10_000
"""Conversations whose evidence is in an HTML report, about a kilobyte each; the report says so."""

FIGURE_ROWS: Final = 30
"""Rows of a figure: what one page holds at a readable size. What is left out is one more row, or told."""

FIGURE_TEXT: Final = 56
"""Characters of one text in a figure; the longest id of a data path has fewer."""

TIMELINE_BARS: Final = 600
"""Conversations that a timeline shows one by one; more are counted over time."""

MAP_HOSTS: Final = 24
"""Hosts with a box of their own each on a map; among more, those with the same roles share one."""

MAP_SHARED: Final = 3
"""Hosts with the same roles that share a box on a map of many."""

MAP_KINDS: Final = 7
"""Combinations of roles with boxes of their own in a column of such a map; the rarer ones share one."""

MAP_ARROWS: Final = 60
"""Arrows on a map; where there are more, each pair of boxes keeps its two commonest paths, and one arrow for others."""

MAP_PATHS: Final = 16
"""Data paths with a look of their own on a map: six colours in three line styles, less two for the rest."""

UNSEEN_PATHS: Final = 60
"""Documented paths without a conversation that a report lists; how many more there are is told."""

FRAME_COMMENTS: Final = 32
"""Comments on one frame of an extract; Wireshark shows each on a line of its own. How many more there are is told."""

COMMENT_LENGTH: Final = 1024
"""Bytes of one comment; a value of a stranger may be far longer. Cut with an ellipsis (pcapng allows 65535)."""

HOST_NAME_LENGTH: Final = 250
"""Bytes of a host's name in an extract; Wireshark keeps 256."""
