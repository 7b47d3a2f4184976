"""A TLS client that sends whatever ClientHello it is told to, and says what the server made of it.

    hello.py HOST PORT PATH < cases > answers

Each line of the input is a JSON object, a case; for each, one connection and one line of output.

    case        any name; it comes back
    tls         "1.2", "1.3", or "both": the versions offered
    extensions  [[type, "data in hex"], ...]: put in place of the client's own of these types; a type
                may be there twice
    retry       true: a key share only of a group that the server does not take, so that it must ask
                again (HelloRetryRequest, RFC 8446 section 4.1.4)
    fragment    n: the ClientHello goes out in records of n bytes

    version     what was negotiated, "1.2" or "1.3"
    alert       the number of the alert that the server sent, or null
    extensions  {type: "data in hex"} of ServerHello and EncryptedExtensions
    retried     whether a HelloRetryRequest came
    handshake   [[message type, length with its header, first record, last record], ...]
    largest     plaintext bytes of the largest record: {"handshake": n, "application": n}
    body        bytes of the body of GET PATH, or null
    error       what went wrong on this side, if not an alert

It does not look at the certificate: what is examined here is the handshake and its records.
"""

import hashlib
import json
import socket
import sys

from tlslite.api import HandshakeSettings, TLSConnection
from tlslite.constants import ContentType
from tlslite.errors import TLSError, TLSRemoteAlert
from tlslite.extensions import TLSExtension
from tlslite.messages import ClientHello

# Seconds until a silent server is given up.
PATIENCE = 20

SERVER_HELLO = 2
ENCRYPTED_EXTENSIONS = 8

# The random of a ServerHello that is a HelloRetryRequest (RFC 8446 section 4.1.3).
RETRY = hashlib.sha256(b"HelloRetryRequest").digest()

VERSIONS = {"1.2": ((3, 3), (3, 3)), "1.3": ((3, 4), (3, 4)), "both": ((3, 3), (3, 4))}


class Client(TLSConnection):
    """A client with extensions of its own choice, that remembers every record's plaintext."""

    def __init__(self, sock, extensions):
        super().__init__(sock)
        self.own = [(kind, bytearray.fromhex(data)) for kind, data in extensions]
        self.records = []  # (content type, plaintext)
        receive = self._recordLayer.recvRecord

        def watched():
            for result in receive():
                if result not in (0, 1):
                    header, parser = result
                    self.records.append((header.type, bytes(parser.bytes)))
                yield result

        self._recordLayer.recvRecord = watched

    def _sendMsg(self, msg, *args, **kwargs):
        if isinstance(msg, ClientHello):
            # Once more in the second ClientHello: the same.
            kinds = {kind for kind, _ in self.own}
            kept = [ext for ext in msg.extensions if ext.extType not in kinds]
            msg.extensions = kept + [
                TLSExtension(extType=kind).create(data) for kind, data in self.own
            ]
        return super()._sendMsg(msg, *args, **kwargs)


def settings(case):
    wanted = HandshakeSettings()
    wanted.minVersion, wanted.maxVersion = VERSIONS[case.get("tls", "both")]
    # What supported_versions says: all that it knows, unless told otherwise.
    wanted.versions = [v for v in ((3, 4), (3, 3)) if wanted.minVersion <= v <= wanted.maxVersion]
    wanted.cipherNames = ["aes128gcm"]
    wanted.record_size_limit = None
    if any(kind == 28 for kind, _ in case.get("extensions", [])):
        # For what it believes to have sent; the extension itself is put in place later.
        wanted.record_size_limit = 2**14 + 1
    wanted.eccCurves = ["secp256r1", "secp384r1", "secp521r1"]
    wanted.keyShares = ["secp521r1"] if case.get("retry") else ["secp256r1"]
    wanted.dhGroups = []
    return wanted


def converse(client, case, host, path, answer):
    """The handshake, a request and its answer."""
    if case.get("fragment"):
        client.recordSize = case["fragment"]
    client.handshakeClientCert(settings=settings(case), serverName=host)
    client.recordSize = 2**14
    answer["version"] = {(3, 3): "1.2", (3, 4): "1.3"}[client.version]
    client.write(f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
    got = bytearray()
    while True:
        piece = client.read(max=2**14, min=1)
        if not piece:
            break
        got += piece
    head, _, body = bytes(got).partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200 "):
        raise ValueError(head[:100].decode("latin-1"))
    answer["body"] = len(body)


def messages(records):
    """The handshake's messages: type, bytes, and the records in which they begin and end."""
    stream, ends = bytearray(), []
    for at, (kind, data) in enumerate(records):
        if kind == ContentType.handshake:
            stream += data
            ends.append((len(stream), at))
    found, offset = [], 0
    while offset + 4 <= len(stream):
        length = 4 + int.from_bytes(stream[offset + 1 : offset + 4], "big")
        if offset + length > len(stream):
            break
        first = next(at for end, at in ends if end > offset)
        last = next(at for end, at in ends if end >= offset + length)
        found.append((stream[offset], bytes(stream[offset : offset + length]), first, last))
        offset += length
    return found


def extensions(message):
    """(type, data) of a ServerHello's or an EncryptedExtensions' extensions."""
    at = 4
    if message[0] == SERVER_HELLO:
        at += 2 + 32  # version, random
        at += 1 + message[at] + 2 + 1  # session id, cipher suite, compression
    at += 2
    while at + 4 <= len(message):
        kind = int.from_bytes(message[at : at + 2], "big")
        length = int.from_bytes(message[at + 2 : at + 4], "big")
        yield kind, message[at + 4 : at + 4 + length]
        at += 4 + length


def examine(records, answer):
    largest = answer["largest"]
    for kind, data in records:
        name = {ContentType.handshake: "handshake", ContentType.application_data: "application"}
        if kind in name:
            largest[name[kind]] = max(largest[name[kind]], len(data))
    for kind, message, first, last in messages(records):
        answer["handshake"].append([kind, len(message), first, last])
        if kind == SERVER_HELLO and message[6:38] == RETRY:
            answer["retried"] = True
        elif kind in (SERVER_HELLO, ENCRYPTED_EXTENSIONS):
            for extension, data in extensions(message):
                answer["extensions"][str(extension)] = data.hex()


def run(case, host, port, path):
    answer = {
        "case": case["case"],
        "version": None,
        "alert": None,
        "extensions": {},
        "retried": False,
        "handshake": [],
        "largest": {"handshake": 0, "application": 0},
        "body": None,
        "error": None,
    }
    with socket.create_connection((host, port), timeout=PATIENCE) as sock:
        client = Client(sock, case.get("extensions", []))
        try:
            converse(client, case, host, path, answer)
        except TLSRemoteAlert as alert:
            answer["alert"] = alert.description
        except (TLSError, OSError, ValueError) as error:
            answer["error"] = f"{type(error).__name__}: {error}"
        examine(client.records, answer)
    return answer


def main():
    host, port, path = sys.argv[1:4]
    for line in sys.stdin:
        print(json.dumps(run(json.loads(line), host, int(port), path)), flush=True)


main()
