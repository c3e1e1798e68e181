"""The profile `observability` of the add-on's suite, with a collector in this process in the place of its collector and Jaeger."""

import contextlib
import http.server
import threading

from harness import app, apply, ask, case, interceptor, kubectl, node_address, route, scaled, until

METRICS = ("interceptor_request_count_total", "interceptor_request_duration_seconds", "interceptor_request_concurrency")


def exposed():
    return kubectl("get", "--raw", "/api/v1/namespaces/keda/services/keda-add-ons-http-interceptor-metrics:2223/proxy/metrics")


def fields(data):
    """The fields of a message in protobuf's wire format: numbers, or bytes that may be messages."""
    at, found = 0, []

    def varint():
        nonlocal at
        value, shift = 0, 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while at < len(data):
        key = varint()
        number, wire = key >> 3, key & 7
        if wire == 0:
            found.append((number, varint()))
        else:
            length = varint() if wire == 2 else {1: 8, 5: 4}[wire]
            found.append((number, data[at : at + length]))
            at += length
    return found


def of(message, *path):
    """All fields at the end of a path of numbers."""
    for number in path[:-1]:
        message = b"".join(value for known, value in fields(message) if known == number)
    return [value for known, value in fields(message) if known == path[-1]]


def attributes(message, number):
    """Keys and values of OpenTelemetry's attributes: texts, or integers."""
    pairs = {}
    for pair in of(message, number):
        (key,), (value,) = of(pair, 1), of(pair, 2)
        pairs[key.decode()] = next((inner for known, inner in fields(value) if known in (1, 3)), None)
    return pairs


@contextlib.contextmanager
def collector():
    """Takes OTLP over HTTP: the bodies of each path."""
    bodies = {"/v1/traces": [], "/v1/metrics": []}

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            bodies.get(self.path, []).append(body)
            self.send_response(200)
            self.send_header("Content-Type", "application/x-protobuf")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("0.0.0.0", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    env = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://{node_address()}:{server.server_port}",
        "OTEL_EXPORTER_OTLP_METRICS_ENABLED": "true",
        "OTEL_EXPORTER_OTLP_TRACES_ENABLED": "true",
        "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf",
        "OTEL_METRIC_EXPORT_INTERVAL": "2000",
    }
    try:
        with interceptor(env):
            yield bodies
    finally:
        server.shutdown()


@case
def TestPrometheusMetrics():
    apply(*app("seen"), route("seen"), scaled("seen"))
    until("it is answered", lambda: ask("seen.test")[0] == 200, 90)
    metrics = exposed()
    for name in METRICS:
        assert name in metrics, name


@case
def TestOtelTracing():
    apply(*app("traced"), route("traced"), scaled("traced"))
    with collector() as bodies:
        def answered_client_span():
            # Again and again: the first may still have gone to the interceptor of before.
            assert ask("traced.test")[0] == 200
            for body in bodies["/v1/traces"]:
                for spans in of(body, 1):
                    if attributes(b"".join(of(spans, 1)), 1).get("service.name") != b"keda-http-interceptor":
                        continue
                    # Kind 3 is a client's.
                    for span in of(spans, 2, 2):
                        if 3 in of(span, 6) and attributes(span, 9).get("http.response.status_code") == 200:
                            return True
            return False

        until("a client's span tells the status", answered_client_span, 60)


@case
def TestOtelMetrics():
    apply(*app("measured"), route("measured"), scaled("measured"))
    with collector() as bodies:
        stems = [name.removesuffix("_total").removesuffix("_seconds").encode() for name in METRICS]

        def arrived():
            # Again and again: the first may still have gone to the interceptor of before.
            assert ask("measured.test")[0] == 200
            # A collector's own exporter for Prometheus makes underscores of dots and adds units.
            names = b"".join(bodies["/v1/metrics"]).replace(b".", b"_")
            return all(stem in names for stem in stems)

        until("the metrics have arrived", arrived, 60)


@case
def The_variables_of_the_request_log_and_of_the_exporter_have_their_effect():
    apply(*app("logged"), route("logged"), scaled("logged"))
    with interceptor({"KEDA_HTTP_LOG_REQUESTS": "true", "OTEL_PROM_EXPORTER_ENABLED": "false"}):

        def written():
            # Again and again: the first may still have gone to the interceptor of before.
            assert ask("logged.test", "/some?way=1", headers={"User-Agent": "e2e \"quoted\""})[0] == 200
            log = kubectl("-n", "keda", "logs", "deployment/keda-add-ons-http-interceptor", "--tail=-1")
            lines = [line for line in log.splitlines() if '"GET /some?way=1 HTTP/1.1" 200 ' in line]
            return any(line.endswith('"-" "e2e \\"quoted\\""') for line in lines)

        until("the request is in the log", written, 60)
        try:
            exposed()
        except RuntimeError:
            return
        raise AssertionError("metrics are exposed")
