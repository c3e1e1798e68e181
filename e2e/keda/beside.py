"""A real KEDA and a real add-on: we take the add-on's place and give it back, KEDA scales on our external scaler, and we leave its
ScaledObjects alone. The cases build on each other. `beside.py IMAGE [CASE...]`"""

import json
import subprocess
import sys
import threading
import time

from harness import HERE, IMAGE, NAMESPACE, app, apply, ask, asleep, case, kubectl, load, main, replicas, route, scaled, until
from standalone import http_scaled_object


def scaled_by_us(name):
    """Whether Pilotlight says that it scaled or woke this workload."""
    lines = []
    for part in ("operator", "scaler", "interceptor"):
        lines += kubectl("-n", "keda", "logs", f"deployment/keda-add-ons-http-{part}", "--tail=-1").splitlines()
    about = [line for line in lines if f"{NAMESPACE}/{name}" in line]
    return any(": scaled " in line or ": woken " in line for line in about)


def object_of(name):
    return json.loads(kubectl("-n", NAMESPACE, "get", "scaledobject", name, "-o", "json"))


def switch(*command):
    """Asks an awake application all the while; what was not answered."""
    failed, over = [], threading.Event()

    def asking():
        while not over.is_set():
            try:
                status = ask("real.test")[0]
            except OSError as error:
                status = error
            if status != 200:
                failed.append(status)
            time.sleep(0.05)

    thread = threading.Thread(target=asking)
    thread.start()
    try:
        subprocess.run([str(part) for part in command], check=True, stdout=sys.stderr)
        time.sleep(5)
    finally:
        over.set()
        thread.join()
    return failed


def account():
    path = "{.spec.template.spec.serviceAccountName}"
    return kubectl("-n", "keda", "get", "deployment", "keda-add-ons-http-interceptor", "-o", f"jsonpath={path}")


@case
def From_the_add_on_to_Pilotlight_no_request_is_lost():
    apply(*app("real"), route("real"), scaled("real"))
    until("KEDA has taken it", lambda: "ScaledObjectReady" in json.dumps(object_of("real")), 60)
    assert account() == "keda-add-ons-http-interceptor"
    until("the add-on wakes it", lambda: ask("real.test")[0] == 200, 90)
    failed = switch(HERE / "install", IMAGE)
    assert account() == "pilotlight-activator"
    assert not failed, failed


@case
def KEDA_wakes_on_the_first_request_and_ends_what_is_idle():
    asleep("real")
    assert ask("real.test")[0] == 200
    assert replicas("real") == 1
    asleep("real")
    assert not scaled_by_us("real")


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
    assert not scaled_by_us("many")


@case
def KEDA_gets_the_ScaledObject_of_an_HTTPScaledObject():
    apply(*app("handed"), http_scaled_object("handed", replicas={"min": 0, "max": 3}, scaledownPeriod=5))
    until("KEDA has taken it", lambda: "ScaledObjectReady" in json.dumps(object_of("handed")), 60)
    owner = object_of("handed")["metadata"]["ownerReferences"][0]
    assert (owner["kind"], owner["name"]) == ("HTTPScaledObject", "handed"), owner
    assert ask("handed.test")[0] == 200
    asleep("handed")
    assert not scaled_by_us("handed")
    kubectl("-n", NAMESPACE, "delete", "httpscaledobject", "handed", "--timeout=60s")
    gone = lambda: "handed" not in kubectl("-n", NAMESPACE, "get", "scaledobject", "-o", "name")
    until("its ScaledObject is gone", gone, 60)


@case
def The_add_on_s_own_scaler_counts_by_our_queue():
    trigger = {"type": "external-push", "metadata": {"scalerAddress": "add-on-scaler.keda:9090", "interceptorRoute": "theirs"}}
    apply(*app("theirs"), route("theirs"), scaled("theirs", triggers=[trigger]))
    until("KEDA has taken it", lambda: "ScaledObjectReady" in json.dumps(object_of("theirs")), 60)
    assert ask("theirs.test")[0] == 200
    asleep("theirs")
    assert not scaled_by_us("theirs")


@case
def Back_to_the_add_on_and_again_to_Pilotlight():
    until("it is awake", lambda: ask("real.test")[0] == 200, 30)
    failed = switch(HERE.parent.parent / "manifests/install/keda-switch", "add-on")
    assert account() == "keda-add-ons-http-interceptor"
    assert not failed, failed
    asleep("real")
    until("the add-on wakes it", lambda: ask("real.test")[0] == 200, 90)
    failed = switch(HERE / "install", IMAGE)
    assert not failed, failed


@case
def Without_KEDA_we_go_on_where_it_was():
    for part in ("keda-operator", "keda-metrics-apiserver"):
        kubectl("-n", "keda", "scale", "deployment", part, "--replicas=0")
    # A minute after the lease was renewed last.
    time.sleep(80)
    assert ask("real.test")[0] == 200
    asleep("real")
    assert scaled_by_us("real")


main(sys.modules[__name__])
