"""A gRPC application: echoes, one message or a stream of them."""

import os
import pathlib
from concurrent import futures

import grpc


class Echo(grpc.GenericRpcHandler):
    def service(self, call):
        if call.method == "/echo.Echo/Unary":
            return grpc.unary_unary_rpc_method_handler(lambda message, _: b"echo:" + message)
        if call.method == "/echo.Echo/Bidi":
            return grpc.stream_stream_rpc_method_handler(lambda messages, _: (b"echo:" + message for message in messages))
        return None


server = grpc.server(futures.ThreadPoolExecutor(8))
server.add_generic_rpc_handlers((Echo(),))
if "TLS" in os.environ:
    folder = pathlib.Path(os.environ["TLS"])
    pair = ((folder / "tls.key").read_bytes(), (folder / "tls.crt").read_bytes())
    server.add_secure_port("0.0.0.0:8080", grpc.ssl_server_credentials([pair]))
else:
    server.add_insecure_port("0.0.0.0:8080")
server.start()
server.wait_for_termination()
