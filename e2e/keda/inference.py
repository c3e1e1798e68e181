"""InferenceServices named by ScaledObjects: the trigger's key is `inferenceService`."""

import json
import threading
import time

from harness import HERE, NAMESPACE, SCALER, app, apply, ask, asleep, case, kubectl, meta, replicas, scaled, until

FLOWERS = json.dumps({"instances": [[6.8, 2.8, 4.8, 1.4], [6.0, 3.4, 4.5, 1.6]]})


def models():
    """A claim on the examples' models, which lie on the node."""
    volume = {
        "capacity": {"storage": "1Gi"},
        "accessModes": ["ReadOnlyMany"],
        "storageClassName": "",
        "hostPath": {"path": str(HERE.parent.parent / "manifests/examples")},
        "claimRef": {"namespace": NAMESPACE, "name": "models"},
    }
    claim = {
        "accessModes": ["ReadOnlyMany"],
        "storageClassName": "",
        "volumeName": f"models-{NAMESPACE}",
        "resources": {"requests": {"storage": "1Gi"}},
    }
    name = {"name": f"models-{NAMESPACE}"}
    apply({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": name, "spec": volume})
    apply(meta("PersistentVolumeClaim", "v1", "models", claim))
    # A pod whose claim is not bound yet is told to its client as one that can't be placed.
    kubectl("-n", NAMESPACE, "wait", "pvc/models", "--for=jsonpath={.status.phase}=Bound", "--timeout=60s")


def trigger(kind, service):
    metadata = {"scalerAddress": SCALER, "inferenceService": service, "targetValue": "1"}
    return [{"type": kind, "metadata": metadata}]


def predict():
    status, text, _ = ask(f"iris.{NAMESPACE}.example.com", "/v1/models/iris:predict", "POST", FLOWERS)
    assert (status, json.loads(text)) == (200, {"predictions": [1, 1]}), (status, text)


def service_and_follower():
    """The service's own workload by `external-push`, another one that follows it by `external`: both 0 -> 1 -> 0."""
    models()
    predictor = {"minReplicas": 0, "model": {"modelFormat": {"name": "onnx"}, "storageUri": "pvc://models/iris.onnx"}}
    service = meta("InferenceService", "serving.kserve.io/v1beta1", "iris", {"predictor": predictor})
    service["metadata"]["annotations"] = {"serving.kserve.io/autoscalerClass": "external"}
    apply(service)
    until("its workload is there", lambda: kubectl("-n", NAMESPACE, "get", "deployment", "iris-predictor"), 60)
    own = scaled("iris", scaleTargetRef={"name": "iris-predictor"}, triggers=trigger("external-push", "iris"))
    apply(*app("follower"), own, scaled("follower", triggers=trigger("external", "iris")))
    asleep("iris-predictor")
    assert replicas("follower") == 0
    queue = "/api/v1/namespaces/keda/services/keda-add-ons-http-interceptor-admin:9090/proxy/queue"
    counts = lambda: json.loads(kubectl("get", "--raw", queue)).get(f"{NAMESPACE}/iris")
    until("it has its key in /queue", lambda: counts() is not None, 30)
    before = counts()["RequestCount"]

    predict()
    assert replicas("iris-predictor") == 1
    assert counts()["RequestCount"] == before + 1
    over = threading.Event()

    def asking():
        while not over.is_set():
            predict()
            time.sleep(0.2)

    thread = threading.Thread(target=asking)
    thread.start()
    try:
        until("what follows it is awake", lambda: replicas("follower") == 1, 60)
    finally:
        over.set()
        thread.join()
    asleep("iris-predictor")
    asleep("follower")


@case
def An_InferenceService_and_what_follows_it_are_scaled_by_ScaledObjects_that_name_it():
    service_and_follower()
    kubectl("-n", NAMESPACE, "delete", "scaledobject", "iris", "follower", "--timeout=60s")
    kubectl("-n", NAMESPACE, "delete", "inferenceservice", "iris", "--timeout=60s")
