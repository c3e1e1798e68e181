"""The profile `tls` of the add-on's suite: the interceptor with `KEDA_HTTP_PROXY_TLS_ENABLED`."""

import ssl

import grpc

from harness import ADDRESS, NAMESPACE, Authority, app, apply, ask, case, interceptor, route, scaled, until

TLS = {"KEDA_HTTP_PROXY_TLS_ENABLED": "true", "KEDA_HTTP_PROXY_TLS_SKIP_VERIFY": "true"}


@case
def TestTLSTermination_TestGRPCOverTLS():
    authority = Authority()
    authority.secret("keda", "proxy-tls", "*.example.com")
    authority.secret("keda", "more-tls", "abc.test")
    for name in ("tls-app", "grpc-tls-app"):
        authority.secret(NAMESPACE, name, name)
    apply(*app("tls-app", tls="tls-app"), route("tls-app", hosts=["tls-test.example.com", "abc.test", "other.test"]), scaled("tls-app"))
    apply(*app("grpc-tls-app", "rpc.py", "kubernetes.io/h2c", "grpc-tls-app"))
    apply(route("grpc-tls-app", hosts=["grpc-tls.example.com"]), scaled("grpc-tls-app"))
    env = TLS | {"KEDA_HTTP_PROXY_TLS_CERT_STORE_PATHS": "/additional-certs"}
    with interceptor(env, {"/certs": "proxy-tls", "/additional-certs/abc": "more-tls"}):
        context = ssl.create_default_context(cadata=authority.pem.decode())
        answered = lambda host: ask(host, tls=context)
        until("TLS is there", lambda: answered("tls-test.example.com"), 30)
        status, text, headers = answered("tls-test.example.com")
        assert status == 200 and "Name: tls-app\n" in text and "x-keda-http-cold-start" in headers, (status, text)

        host = "grpc-tls.example.com"
        options = [("grpc.ssl_target_name_override", host), ("grpc.default_authority", host)]
        channel = grpc.secure_channel(f"{ADDRESS}:8443", grpc.ssl_channel_credentials(authority.pem), options)
        assert channel.unary_unary("/echo.Echo/Unary")(b"hi", timeout=90) == b"echo:hi"
        channel.close()

        # The certificate of the store for its own name, the first one for all others, which is not for this one.
        assert answered("abc.test")[0] == 200
        try:
            answered("other.test")
        except ssl.SSLCertVerificationError as error:
            assert "other.test" in str(error), error
        else:
            raise AssertionError("the certificate is for another name")
        # Plain text is served beside it, and an application that speaks TLS only does not answer that.
        assert ask("tls-test.example.com")[0] == 502
