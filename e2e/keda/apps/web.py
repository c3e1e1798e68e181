"""A plain HTTP and WebSocket application: says who it is and what it was asked, waits where `?wait=500ms` says so, and echoes frames."""

import base64
import hashlib
import http.server
import os
import ssl
import struct
import time

NAME = os.environ["APP"]
GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        if self.headers.get("Upgrade", "").lower() == "websocket":
            return self.websocket()
        if "wait=" in self.path:
            text = self.path.split("wait=")[1]
            time.sleep(float(text.rstrip("ms")) / (1000 if text.endswith("ms") else 1))
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        answer = f"Name: {NAME}\nHost: {self.headers.get('Host')}\nPath: {self.path}\n".encode() + body
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    do_POST = do_GET

    def websocket(self):
        accept = hashlib.sha1(self.headers["Sec-WebSocket-Key"].encode() + GUID).digest()
        self.send_response(101)
        self.send_header("Upgrade", "websocket")
        self.send_header("Connection", "Upgrade")
        self.send_header("Sec-WebSocket-Accept", base64.b64encode(accept).decode())
        self.end_headers()
        self.wfile.flush()
        self.close_connection = True
        while True:
            head = self.rfile.read(2)
            if len(head) < 2:
                return
            kind, length = head[0] & 15, head[1] & 127
            if length == 126:
                (length,) = struct.unpack(">H", self.rfile.read(2))
            mask = self.rfile.read(4)
            data = bytes(byte ^ mask[at % 4] for at, byte in enumerate(self.rfile.read(length)))
            if kind == 8:
                return
            self.wfile.write(bytes([0x80 | kind, len(data)]) + data)
            self.wfile.flush()

    def log_message(self, *_):
        pass


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128


server = Server(("0.0.0.0", 8080), Handler)
if "TLS" in os.environ:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(os.environ["TLS"] + "/tls.crt", os.environ["TLS"] + "/tls.key")
    # The handshake is made by the connection's own thread: a probe that only connects would hold up all others.
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
server.serve_forever()
