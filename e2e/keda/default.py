"""The default profile of the add-on's end-to-end suite, case by case: each is named for its origin, names are joined where one case
asserts what several do."""

import base64
import os
import socket
import threading
import time

import grpc

from harness import (
    ADDRESS, NAMESPACE, answers, app, apply, ask, asleep, case, kubectl, load, rejects, replicas, route, scale, scaled, until,
)


@case
def TestColdStart():
    apply(*app("cold"), route("cold"), scaled("cold"))
    until("the route is known", lambda: "True" in kubectl("-n", NAMESPACE, "get", "interceptorroute", "cold", "-o", "json"))
    time.sleep(1)
    status, text, headers = ask("cold.test")
    assert (status, headers["x-keda-http-cold-start"]) == (200, "true") and "Name: cold" in text, (status, text)
    assert replicas("cold") == 1
    status, text, _ = ask("cold.test", "/post", "POST", '{"a":1}', {"Content-Type": "application/json"})
    assert status == 200 and '{"a":1}' in text
    asleep("cold")


@case
def TestColdStartFallback():
    fallback = {"fallback": {"service": {"name": "other", "port": 80}}}
    apply(*app("fallen"), *app("other"), route("fallen", timeouts={"readiness": "1s"}, coldStart=fallback))
    scale("other", 1)
    status, text, headers = ask("fallen.test")
    assert status == 200 and "Name: other" in text and "x-keda-http-cold-start" not in headers, (status, text)


@case
def TestColdStartPlaceholder():
    page = {"body": '{"status":"starting"}', "headers": {"Content-Type": "application/json"}}
    metric = {"requestRate": {"targetValue": 1, "window": "10s"}}
    apply(*app("page"), route("page", scalingMetric=metric, coldStart={"placeholder": {"response": page}}), scaled("page"))
    time.sleep(1)
    status, text, headers = ask("page.test")
    assert (status, text, headers["content-type"]) == (503, page["body"], "application/json"), (status, text)
    until("the application answers", lambda: ask("page.test")[0] == 200)


@case
def TestColdStartPlaceholderWithFallback():
    cold_start = {
        "fallback": {"service": {"name": "other", "port": 80}},
        "placeholder": {"response": {"statusCode": 418, "body": "soon"}},
    }
    apply(*app("both"), route("both", coldStart=cold_start))
    time.sleep(1)
    assert ask("both.test")[:2] == (418, "soon")


@case
def TestConcurrencyScaling():
    quick = {"horizontalPodAutoscalerConfig": {"behavior": {"scaleDown": {"stabilizationWindowSeconds": 5}}}}
    metric = {"concurrency": {"targetValue": 5}}
    apply(*app("busy"), route("busy", scalingMetric=metric), scaled("busy", maxReplicaCount=4, advanced=quick))
    time.sleep(1)
    statuses = load("busy.test", "/?wait=500ms", 30, 10)
    assert set(statuses) == {200}, statuses
    assert replicas("busy") >= 1
    asleep("busy")


@case
def TestScaling():
    metric = {"requestRate": {"targetValue": 5, "window": "10s"}}
    apply(*app("rate"), route("rate", scalingMetric=metric), scaled("rate", maxReplicaCount=4))
    time.sleep(1)
    statuses = []
    loading = threading.Thread(target=lambda: statuses.extend(load("rate.test", "/", 40, 10)))
    loading.start()
    until("there are two", lambda: replicas("rate") == 2, 60)
    loading.join()
    assert replicas("rate") == 2 and set(statuses) == {200}, statuses
    asleep("rate")


@case
def TestConcurrentRouting():
    apply(*app("one"), *app("two"), route("one"), route("two"), scaled("one"), scaled("two"))
    time.sleep(1)
    load("one.test", "/", 5, 5)
    assert (replicas("one"), replicas("two")) == (1, 0)
    kubectl("-n", NAMESPACE, "delete", "scaledobject", "one", "two")
    scale("one", 1)
    scale("two", 1)


@case
def TestHostRouting_TestMultipleHostsRouting_TestWildcardHostRouting():
    apply(route("one", hosts=["a.wild.test", "b.test", "c.test"]), route("two", hosts=["*.wild.test"]))
    for host, name in [("a.wild.test", "one"), ("b.test", "one"), ("c.test", "one"), ("x.wild.test", "two"), ("x.y.wild.test", "two")]:
        answers(host, name)
    rejects("wild.test")
    rejects("other.test")


@case
def TestPathRouting_TestCombinedRouting_TestMultipleRulesToSameBackend():
    rules = [{"hosts": ["p.test"], "paths": [{"value": "/api"}]}, {"hosts": ["q.test"]}]
    apply(route("one", rules=rules), route("two", rules=[{"hosts": ["p.test"], "paths": [{"value": "/api/v2"}]}]))
    for host, path, name in [("p.test", "/api/x", "one"), ("p.test", "/api/v2/y", "two"), ("q.test", "/any", "one")]:
        answers(host, name, path)
    rejects("p.test", "/apix")


@case
def TestHeaderRouting_TestHeaderPresenceRouting():
    header = lambda **value: [{"hosts": ["h.test"], "headers": [{"name": "X-Version", **value}]}]
    apply(route("one", rules=header(value="1")), route("two", rules=header()))
    answers("h.test", "one", headers={"x-version": "1"})
    answers("h.test", "two", headers={"x-version": "2"})
    rejects("h.test")


@case
def TestPortNameRouting():
    apply(route("named", target={"service": "one", "portName": "http"}))
    answers("named.test", "one")


@case
def A_port_that_is_not_there_is_a_500_and_what_nobody_has_a_404_both_in_words():
    apply(route("portless", "one", target={"service": "one", "portName": "none"}))
    words = "Internal Server Error\n"
    until("the port is missed", lambda: ask("portless.test")[:2] == (500, words), 5)
    status, text, headers = ask("nobody.test")
    assert (status, text, headers["content-type"]) == (404, "Not Found\n", "text/plain; charset=utf-8"), (status, text)


@case
def TestRouteUpdate_TestRouteDeletion():
    apply(route("moving", "two"))
    answers("moving.test", "two")
    apply(route("moving", "one"))
    answers("moving.test", "one")
    kubectl("-n", NAMESPACE, "delete", "interceptorroute", "moving")
    rejects("moving.test")
    answers("named.test", "one")


@case
def TestStaticRoute():
    health = {"rules": [{"paths": [{"value": "/health"}]}], "response": {"body": "static"}}
    apply(*app("fixed"), route("fixed", staticRoutes=[health]), scaled("fixed"))
    until("the body is static", lambda: ask("fixed.test", "/health")[:2] == (200, "static"), 5)
    time.sleep(10)
    assert replicas("fixed") == 0
    assert ask("fixed.test")[0] == 200
    status, text, _ = ask("fixed.test", "/health")
    assert status == 200 and "Name: fixed" in text, (status, text)


@case
def TestResponseHeaderTimeout():
    apply(*app("one"))
    scale("one", 1)
    apply(route("strict", "one", timeouts={"responseHeader": "200ms"}), route("patient", "one", timeouts={"responseHeader": "10s"}))
    until("the limit holds", lambda: ask("strict.test", "/?wait=5s")[0] == 504, 20)
    until("the limit is long enough", lambda: ask("patient.test", "/?wait=2s")[0] == 200, 20)


@case
def TestRequestTimeout():
    apply(*app("one"))
    scale("one", 1)
    apply(route("strict", "one", timeouts={"request": "500ms"}), route("patient", "one", timeouts={"request": "10s"}))
    until("the limit holds", lambda: ask("strict.test", "/?wait=5s")[0] == 504, 20)
    until("the limit is long enough", lambda: ask("patient.test", "/?wait=2s")[0] == 200, 20)


@case
def TestReadinessTimeout():
    apply(*app("never"), route("never", timeouts={"readiness": "1ms"}))
    until("the limit holds", lambda: ask("never.test")[0] == 504, 5)


@case
def TestGRPC():
    apply(*app("rpc", "rpc.py", "kubernetes.io/h2c"), route("rpc"), scaled("rpc"))
    time.sleep(1)
    channel = grpc.insecure_channel(f"{ADDRESS}:8080", options=[("grpc.default_authority", "rpc.test")])
    assert channel.unary_unary("/echo.Echo/Unary")(b"hi", timeout=90) == b"echo:hi"
    messages = channel.stream_stream("/echo.Echo/Bidi")(iter([b"a", b"b"]), timeout=30)
    assert list(messages) == [b"echo:a", b"echo:b"]
    channel.close()
    asleep("rpc")


@case
def TestWebSocket():
    apply(*app("socket"), route("socket"), scaled("socket"))
    time.sleep(1)
    client = socket.create_connection((ADDRESS, 8080), 90)
    key = base64.b64encode(os.urandom(16)).decode()
    lines = ["GET /chat HTTP/1.1", "Host: socket.test", "Upgrade: websocket", "Connection: Upgrade", f"Sec-WebSocket-Key: {key}"]
    client.sendall("\r\n".join([*lines, "Sec-WebSocket-Version: 13", "", ""]).encode())
    head = b""
    while b"\r\n\r\n" not in head:
        head += client.recv(1)
    assert head.startswith(b"HTTP/1.1 101"), head
    for text in (b"one", b"two"):
        client.sendall(bytes([0x81, 0x80 | len(text)]) + bytes(4) + text)
        assert client.recv(100) == bytes([0x81, len(text)]) + text
    # It counts for as long as it lives, whatever the cool-down.
    time.sleep(15)
    assert replicas("socket") == 1
    client.close()
    asleep("socket")


@case
def TestInvalidInterceptorRouteRejected():
    for bad in (route("bad", scalingMetric={}), route("bad", target={"service": "x", "port": 80, "portName": "http"})):
        try:
            apply(bad)
        except RuntimeError as error:
            assert "invalid" in str(error).lower(), error
        else:
            raise AssertionError("it was accepted")


@case
def TestGracefulShutdown():
    statuses = []
    asking = threading.Thread(target=lambda: statuses.append(ask("named.test", "/?wait=10s")[0]))
    asking.start()
    time.sleep(1)
    kubectl("-n", "keda", "rollout", "restart", "deployment/keda-add-ons-http-interceptor")
    asking.join()
    assert statuses == [200], statuses
    kubectl("-n", "keda", "rollout", "status", "deployment/keda-add-ons-http-interceptor", "--timeout=120s")
