"""The add-on's older suite with HTTPScaledObjects, and what of KEDA itself stands in for it here: ScaledObjects without KEDA."""

import http.server
import json
import random
import threading
import time

from harness import NAMESPACE, SCALER, app, apply, ask, asleep, case, kubectl, load, meta, node_address, replicas, restored, route, scale, scaled, until


def http_scaled_object(name, **more):
    target = {"name": name, "kind": "Deployment", "apiVersion": "apps/v1", "service": name, "port": 80}
    return meta("HTTPScaledObject", "http.keda.sh/v1alpha1", name, {"hosts": [f"{name}.test"], "scaleTargetRef": target} | more)


def condition(name, *texts):
    found = lambda: kubectl("-n", NAMESPACE, "get", "scaledobject", name, "-o", "json")
    until(f"the condition of {name} says {texts}", lambda: all(text in found() for text in texts), 30)


@case
def Legacy_http_scaled_object_0_1_0():
    apply(*app("legacy"), http_scaled_object("legacy", replicas={"min": 0, "max": 3}, scaledownPeriod=10))
    time.sleep(1)
    assert ask("legacy.test")[0] == 200
    status = json.loads(kubectl("-n", NAMESPACE, "get", "httpso", "legacy", "-o", "json"))["status"]
    assert (status["targetWorkload"], status["targetService"]) == ("apps/v1/Deployment/legacy", "legacy:80"), status
    assert status["conditions"][0]["status"] == "True", status
    asleep("legacy")


@case
def Legacy_skip_scaledobject_creation_0_4_0():
    route = http_scaled_object("skip", scalingMetric={"requestRate": {"targetValue": 2, "window": "10s", "granularity": "1s"}})
    route["metadata"]["annotations"] = {"httpscaledobject.keda.sh/skip-scaledobject-creation": "true"}
    trigger = {"type": "external-push", "metadata": {"scalerAddress": SCALER, "httpScaledObject": "skip"}}
    own = scaled("skip", minReplicaCount=0, maxReplicaCount=4, triggers=[trigger])
    del own["spec"]["idleReplicaCount"]
    apply(*app("skip"), route, own)
    time.sleep(1)
    statuses = []
    loading = threading.Thread(target=lambda: statuses.extend(load("skip.test", "/", 45, 10)))
    loading.start()
    until("there are four", lambda: replicas("skip") == 4, 60)
    loading.join()
    assert set(statuses) == {200}, statuses
    asleep("skip")


@case
def A_deleted_object_gives_the_replicas_of_before_back():
    restore = {"restoreToOriginalReplicaCount": True}
    apply(*app("back"), *app("aback"), route("back"))
    scale("back", 2)
    scale("aback", 2)
    apply(scaled("back", cooldownPeriod=2, pollingInterval=2, advanced=restore))
    apply(http_scaled_object("aback", replicas={"min": 0, "max": 3}, scaledownPeriod=2))
    asleep("back")
    asleep("aback")
    for kind, name in (("scaledobject", "back"), ("httpscaledobject", "aback")):
        kubectl("-n", NAMESPACE, "delete", kind, name, "--timeout=60s")
        restored(name, 2)
        scale(name, 0)


@case
def Requests_at_the_moment_of_scale_to_zero_are_all_answered():
    trigger = {"scalerAddress": SCALER, "interceptorRoute": "race"}
    quick = {"cooldownPeriod": 2, "pollingInterval": 1, "triggers": [{"type": "external-push", "metadata": trigger}]}
    apply(*app("race"), route("race"), scaled("race", **quick))
    time.sleep(1)
    answers, end, pick = [], time.time() + 60, random.Random(7)
    while time.time() < end:
        status, _, headers = ask("race.test")
        answers.append((status, headers.get("x-keda-http-cold-start")))
        # About the time at which the last replica goes: 2 s for which an arrival counts, and as much to cool down.
        time.sleep(pick.uniform(3.5, 5.5))
    assert {status for status, _ in answers} == {200}, answers
    assert [cold for _, cold in answers].count("true") > 2, answers


@case
def A_prometheus_trigger_has_its_secret_and_one_that_needs_KEDA_is_named():
    class Prometheus(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            right = self.headers["Authorization"] == "Bearer sesame" and self.path.startswith("/api/v1/query?query=up")
            body = json.dumps({"data": {"resultType": "vector", "result": [{"value": [1, "3"]}]}}).encode()
            self.send_response(200 if right else 401)
            self.end_headers()
            self.wfile.write(body if right else b"")

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("0.0.0.0", 0), Prometheus)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    metadata = {"serverAddress": f"http://{node_address()}:{server.server_port}", "query": "up", "threshold": "1", "authModes": "bearer"}
    trigger = {"type": "prometheus", "metadata": metadata, "authenticationRef": {"name": "prometheus"}}
    key = {"parameter": "bearerToken", "name": "prometheus", "key": "token"}
    authentication = lambda spec: meta("TriggerAuthentication", "keda.sh/v1alpha1", "prometheus", spec)
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "prometheus", "namespace": NAMESPACE}, "stringData": {"token": "sesame"}}
    own = scaled("metered", minReplicaCount=0, maxReplicaCount=5, triggers=[trigger])
    del own["spec"]["idleReplicaCount"]
    apply(*app("metered"), authentication({"hashiCorpVault": {"address": "http://vault"}}), own)
    condition("metered", "InvalidTrigger", "hashiCorpVault")
    assert replicas("metered") == 0
    kubectl("-n", NAMESPACE, "delete", "triggerauthentication", "prometheus")
    apply(secret, authentication({"secretTargetRef": [key]}))
    until("there are three", lambda: replicas("metered") == 3, 60)
    kubectl("-n", NAMESPACE, "delete", "scaledobject", "metered")
    scale("metered", 0)
    server.shutdown()


@case
def An_unknown_trigger_is_named_and_its_workload_left_alone():
    apply(*app("foreign"), scaled("foreign", triggers=[{"type": "kafka", "metadata": {}}]))
    condition("foreign", "UnsupportedTrigger", "kafka")
    assert replicas("foreign") == 0
