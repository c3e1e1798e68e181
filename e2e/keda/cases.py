"""The end-to-end list of KEDA's HTTP add-on, case by case, against the overlay under its names, without KEDA.

Each case is named for its origin; where one asserts more than one of the list, the names are joined. Applications are Python
programs of `apps/` that run from the node's own files. Exit code 0: all passed.
"""

import base64
import http.client
import json
import os
import pathlib
import socket
import subprocess
import sys
import threading
import time

import grpc

HERE = pathlib.Path(__file__).resolve().parent
NAMESPACE = "e2e-keda"
IMAGE = sys.argv[1]
SCALER = "keda-add-ons-http-external-scaler.keda:9090"
CASES = []


def case(function):
    CASES.append(function)
    return function


# --- the cluster ---------------------------------------------------------------------------------------------------------------


def kubectl(*args, text=None):
    result = subprocess.run(["kubectl", *args], input=text, capture_output=True, text=True)
    if result.returncode:
        raise RuntimeError(result.stderr.strip())
    return result.stdout


def apply(*documents):
    kubectl("apply", "-f", "-", text="\n---\n".join(json.dumps(document) for document in documents))


def until(what, holds, limit=120):
    end, last = time.time() + limit, None
    while time.time() < end:
        try:
            if holds():
                return
            last = None
        except Exception as error:
            last = error
        time.sleep(0.5)
    raise AssertionError(f"never: {what}; {last or ''}")


def replicas(name):
    return int(kubectl("-n", NAMESPACE, "get", "deployment", name, "-o", "jsonpath={.spec.replicas}") or 0)


def scale(name, count):
    kubectl("-n", NAMESPACE, "scale", "deployment", name, f"--replicas={count}")
    ready = lambda: kubectl("-n", NAMESPACE, "get", "deployment", name, "-o", "jsonpath={.status.readyReplicas}")
    until(f"{name} is ready", lambda: ready() == str(count))


def meta(kind, version, name, spec):
    return {"apiVersion": version, "kind": kind, "metadata": {"name": name, "namespace": NAMESPACE}, "spec": spec}


def app(name, program="web.py", protocol=None):
    """A Deployment without replicas, and its Service."""
    # What the interpreter and its packages need of the node.
    folders = ["/usr", sys.base_prefix, sys.prefix, str(HERE)]
    mounts = {folder: folder for folder in folders} | {"/lib": "/usr/lib", "/lib64": "/usr/lib64"}
    mounts = {path: source for path, source in mounts.items() if path == "/usr" or not path.startswith("/usr/")}
    mounts = {path: source for path, source in mounts.items() if os.path.isdir(source)}
    names = {path: f"v{index}" for index, path in enumerate(mounts)}
    container = {
        "name": "app",
        "image": IMAGE,
        "imagePullPolicy": "IfNotPresent",
        "securityContext": {"runAsUser": 0},
        "command": [sys.executable, str(HERE / "apps" / program)],
        "env": [{"name": "APP", "value": name}],
        "ports": [{"name": "http", "containerPort": 8080}],
        "readinessProbe": {"tcpSocket": {"port": 8080}, "periodSeconds": 1},
        "volumeMounts": [{"name": names[path], "mountPath": path, "readOnly": True} for path in mounts],
    }
    pod = {
        "terminationGracePeriodSeconds": 1,
        "containers": [container],
        "volumes": [{"name": names[path], "hostPath": {"path": source}} for path, source in mounts.items()],
    }
    port = {"name": "http", "port": 80, "targetPort": "http"} | ({"appProtocol": protocol} if protocol else {})
    labels = {"app": name}
    template = {"metadata": {"labels": labels}, "spec": pod}
    return [
        meta("Deployment", "apps/v1", name, {"replicas": 0, "selector": {"matchLabels": labels}, "template": template}),
        meta("Service", "v1", name, {"selector": labels, "ports": [port]}),
    ]


def route(name, service=None, hosts=None, **spec):
    default = {
        "target": {"service": service or name, "port": 80},
        "scalingMetric": {"concurrency": {"targetValue": 100}},
        "rules": [{"hosts": hosts or [f"{name}.test"]}],
        "timeouts": {"readiness": "60s"},
    }
    return meta("InterceptorRoute", "http.keda.sh/v1beta1", name, default | spec)


def scaled(name, **spec):
    """The default of the add-on's suite: 1 replica while active, 0 otherwise."""
    trigger = {"type": "external-push", "metadata": {"scalerAddress": SCALER, "interceptorRoute": name}}
    default = {
        "scaleTargetRef": {"name": name},
        "minReplicaCount": 1,
        "maxReplicaCount": 1,
        "idleReplicaCount": 0,
        "cooldownPeriod": 10,
        "pollingInterval": 5,
        "triggers": [trigger],
    }
    return meta("ScaledObject", "keda.sh/v1alpha1", name, default | spec)


# --- requests ------------------------------------------------------------------------------------------------------------------

ADDRESS = kubectl("-n", "keda", "get", "service", "keda-add-ons-http-interceptor-proxy", "-o", "jsonpath={.spec.clusterIP}")


def ask(host, path="/", method="GET", body=None, headers=None):
    connection = http.client.HTTPConnection(ADDRESS, 8080, timeout=90)
    connection.request(method, path, body, {"Host": host} | (headers or {}))
    answer = connection.getresponse()
    text = answer.read().decode()
    return answer.status, text, {key.lower(): value for key, value in answer.getheaders()}


def answers(host, name, path="/", **more):
    """Waits for a change of routes to arrive."""

    def holds():
        status, text, _ = ask(host, path, **more)
        return status == 200 and f"Name: {name}\n" in text and f"Path: {path}\n" in text

    until(f"{host}{path} is answered by {name}", holds, 5)


def rejects(host, path="/", **more):
    until(f"{host}{path} is rejected", lambda: ask(host, path, **more)[0] == 404, 5)


def load(host, path, seconds, rate):
    statuses, threads, end = [], [], time.time() + seconds
    while time.time() < end:
        threads.append(threading.Thread(target=lambda: statuses.append(ask(host, path)[0])))
        threads[-1].start()
        time.sleep(1 / rate)
    for thread in threads:
        thread.join()
    return statuses


def asleep(name):
    until(f"{name} is at zero", lambda: replicas(name) == 0)


# --- the list ------------------------------------------------------------------------------------------------------------------


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
    apply(route("strict", "one", timeouts={"responseHeader": "200ms"}), route("patient", "one", timeouts={"responseHeader": "10s"}))
    until("the limit holds", lambda: ask("strict.test", "/?wait=5s")[0] == 504, 20)
    until("the limit is long enough", lambda: ask("patient.test", "/?wait=2s")[0] == 200, 20)


@case
def TestRequestTimeout():
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


@case
def TestPrometheusMetrics():
    service = "/api/v1/namespaces/keda/services/keda-add-ons-http-interceptor-metrics:2223/proxy/metrics"
    ask("named.test")
    metrics = kubectl("get", "--raw", service)
    for name in ("interceptor_request_count_total", "interceptor_request_duration_seconds", "interceptor_request_concurrency"):
        assert name in metrics, name


@case
def Legacy_http_scaled_object_0_1_0():
    target = {"name": "legacy", "kind": "Deployment", "apiVersion": "apps/v1", "service": "legacy", "port": 80}
    spec = {"hosts": ["legacy.test"], "scaleTargetRef": target, "replicas": {"min": 0, "max": 3}, "scaledownPeriod": 10}
    apply(*app("legacy"), meta("HTTPScaledObject", "http.keda.sh/v1alpha1", "legacy", spec))
    time.sleep(1)
    assert ask("legacy.test")[0] == 200
    status = json.loads(kubectl("-n", NAMESPACE, "get", "httpso", "legacy", "-o", "json"))["status"]
    assert (status["targetWorkload"], status["targetService"]) == ("apps/v1/Deployment/legacy", "legacy:80"), status
    assert status["conditions"][0]["status"] == "True", status
    asleep("legacy")


@case
def An_unknown_trigger_is_named_and_its_workload_left_alone():
    apply(*app("foreign"), scaled("foreign", triggers=[{"type": "kafka", "metadata": {}}]))
    object = lambda: kubectl("-n", NAMESPACE, "get", "scaledobject", "foreign", "-o", "json")
    until("the condition names it", lambda: "UnsupportedTrigger" in object() and "kafka" in object(), 30)
    assert replicas("foreign") == 0


def main():
    kubectl("apply", "-f", "-", text=json.dumps({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}))
    wanted, failed = sys.argv[2:], 0
    for function in CASES:
        if wanted and function.__name__ not in wanted:
            continue
        began = time.time()
        try:
            function()
            result = "pass"
        except Exception as error:
            failed += 1
            result = f"FAIL {type(error).__name__}: {error}"
        print(f"{function.__name__:70} {time.time() - began:6.1f} s  {result}", flush=True)
    sys.exit(1 if failed else 0)


main()
