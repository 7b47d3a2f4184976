"""An ordinary HTTPS server: records of 16384 bytes, whatever a client offers, as S3 sends them.

    ordinary.py CERT.pem KEY.pem FILE

OpenSSL would heed max_fragment_length, and some devices always offer it. Listens on a free port of
127.0.0.1, prints its number, answers every request with the file, and ends when its stdin does.
"""

import socket
import sys
import threading

from tlslite.api import HandshakeSettings, TLSConnection, X509CertChain, parsePEMKey
from tlslite.errors import TLSError


def serve(sock, chain, key, body):
    settings = HandshakeSettings()
    settings.record_size_limit = None
    try:
        client = TLSConnection(sock)
        client.handshakeServer(
            certChain=chain, privateKey=key, settings=settings, alpn=[bytearray(b"http/1.1")]
        )
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            piece = client.read(max=2**14, min=1)
            if not piece:
                return
            head += piece
        client.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body))
        client.write(body)
        client.close()
    except (TLSError, OSError):
        pass  # a client that could take no more: what the tests are about
    finally:
        sock.close()


def main():
    cert, key, file = sys.argv[1:4]
    chain = X509CertChain()
    with open(cert, encoding="ascii") as text:
        chain.parsePemList(text.read())
    with open(key, encoding="ascii") as text:
        key = parsePEMKey(text.read(), private=True)
    with open(file, "rb") as bytes_:
        body = bytes_.read()
    listener = socket.create_server(("127.0.0.1", 0))
    print(listener.getsockname()[1], flush=True)
    # The process ends with its stdin; whoever is served then is cut.
    threading.Thread(target=accept, args=(listener, chain, key, body), daemon=True).start()
    sys.stdin.read()


def accept(listener, chain, key, body):
    while True:
        sock, _ = listener.accept()
        sock.settimeout(30)
        threading.Thread(target=serve, args=(sock, chain, key, body), daemon=True).start()


main()
