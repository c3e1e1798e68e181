"""A real KEDA beside us: it scales on our external scaler, and we leave its ScaledObjects alone. `beside.py IMAGE [CASE...]`"""

import json
import sys
import threading
import time

from harness import NAMESPACE, app, apply, ask, asleep, case, kubectl, load, main, replicas, route, scaled, until
from standalone import http_scaled_object


def scaled_by(name):
    """Who wrote the replicas of a Deployment: field managers."""
    text = kubectl("-n", NAMESPACE, "get", "deployment", name, "-o", "json", "--show-managed-fields")
    entries = json.loads(text)["metadata"]["managedFields"]
    return {entry["manager"] for entry in entries if entry.get("subresource") == "scale"}


def object_of(name):
    return json.loads(kubectl("-n", NAMESPACE, "get", "scaledobject", name, "-o", "json"))


@case
def KEDA_wakes_on_the_first_request_and_ends_what_is_idle():
    apply(*app("real"), route("real"), scaled("real"))
    until("KEDA has taken it", lambda: "ScaledObjectReady" in json.dumps(object_of("real")), 60)
    assert ask("real.test")[0] == 200
    assert replicas("real") == 1
    asleep("real")
    assert scaled_by("real") == {"keda"}, scaled_by("real")


@case
def KEDA_s_autoscaler_follows_our_counts():
    metric = {"requestRate": {"targetValue": 5, "window": "10s"}}
    apply(*app("many"), route("many", scalingMetric=metric), scaled("many", maxReplicaCount=4))
    until("KEDA has taken it", lambda: "ScaledObjectReady" in json.dumps(object_of("many")), 60)
    statuses = []
    loading = threading.Thread(target=lambda: statuses.extend(load("many.test", "/", 75, 10)))
    loading.start()
    until("there are two", lambda: replicas("many") == 2, 75)
    loading.join()
    assert set(statuses) == {200}, statuses
    asleep("many")
    assert "pilotlight-autoscaler" not in scaled_by("many"), scaled_by("many")


@case
def KEDA_gets_the_ScaledObject_of_an_HTTPScaledObject():
    apply(*app("handed"), http_scaled_object("handed", replicas={"min": 0, "max": 3}, scaledownPeriod=5))
    until("KEDA has taken it", lambda: "ScaledObjectReady" in json.dumps(object_of("handed")), 60)
    owner = object_of("handed")["metadata"]["ownerReferences"][0]
    assert (owner["kind"], owner["name"]) == ("HTTPScaledObject", "handed"), owner
    assert ask("handed.test")[0] == 200
    asleep("handed")
    assert scaled_by("handed") == {"keda"}, scaled_by("handed")
    kubectl("-n", NAMESPACE, "delete", "httpscaledobject", "handed", "--timeout=60s")
    gone = lambda: "handed" not in kubectl("-n", NAMESPACE, "get", "scaledobject", "-o", "name")
    until("its ScaledObject is gone", gone, 60)


@case
def Without_KEDA_we_go_on_where_it_was():
    for part in ("keda-operator", "keda-metrics-apiserver"):
        kubectl("-n", "keda", "scale", "deployment", part, "--replicas=0")
    # A minute after the lease was renewed last.
    time.sleep(80)
    assert ask("real.test")[0] == 200
    asleep("real")
    assert "pilotlight-autoscaler" in scaled_by("real"), scaled_by("real")


main(sys.modules[__name__])
