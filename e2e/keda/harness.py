"""What the cases share: a cluster with the overlay `keda` in it, applications, objects, requests."""

import atexit
import contextlib
import http.client
import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time

HERE = pathlib.Path(__file__).resolve().parent
NAMESPACE = "e2e-keda"
IMAGE = sys.argv[1]
SCALER = "keda-add-ons-http-external-scaler.keda:9090"


def case(function):
    function.is_case = True
    return function


def main(*modules):
    """Runs the cases of these modules, or those that the command line names; ends the process with 1 where one failed."""
    apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
    wanted, failed = sys.argv[2:], 0
    for module in modules:
        for name, function in list(vars(module).items()):
            of_module = getattr(function, "is_case", False) and function.__module__ == module.__name__
            if not of_module or (wanted and name not in wanted):
                continue
            began = time.time()
            try:
                function()
                result = "pass"
            except Exception as error:
                failed += 1
                result = f"FAIL {type(error).__name__}: {error}"
            print(f"{name:80} {time.time() - began:6.1f} s  {result}", flush=True)
    sys.exit(1 if failed else 0)


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


def patch(kind, name, document, namespace=NAMESPACE):
    kubectl("-n", namespace, "patch", kind, name, "--type=strategic", "--patch", json.dumps(document))


def restored(name, count):
    until(f"{name} has {count} replicas again", lambda: replicas(name) == count, 30)


def node_address():
    """Where pods reach a server of this process."""
    path = '{.items[0].status.addresses[?(@.type=="InternalIP")].address}'
    return kubectl("get", "nodes", "-o", f"jsonpath={path}").strip()


@contextlib.contextmanager
def interceptor(env, secrets=None):
    """The interceptor with these variables and Secrets (by their paths) for as long as it is entered; then it is as before."""
    deployment = "deployment/keda-add-ons-http-interceptor"
    names = {path: f"test-{index}" for index, path in enumerate(secrets or {})}
    container = {
        "name": kubectl("-n", "keda", "get", deployment, "-o", "jsonpath={.spec.template.spec.containers[0].name}"),
        "env": [{"name": name, "value": value} for name, value in env.items()],
        "volumeMounts": [{"name": name, "mountPath": path, "readOnly": True} for path, name in names.items()],
    }
    volumes = [{"name": names[path], "secret": {"secretName": secret}} for path, secret in (secrets or {}).items()]
    spec = {"containers": [container], "volumes": volumes}
    rolled_out = lambda: kubectl("-n", "keda", "rollout", "status", deployment, "--timeout=120s")
    patch("deployment", "keda-add-ons-http-interceptor", {"spec": {"template": {"spec": spec}}}, "keda")
    try:
        rolled_out()
        yield
    finally:
        kubectl("-n", "keda", "rollout", "undo", deployment)
        rolled_out()


class Authority:
    """Signs certificates, which openssl makes."""

    def __init__(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="e2e-keda-"))
        atexit.register(shutil.rmtree, self.folder)
        self.run("req", "-x509", "-nodes", "-subj", "/CN=test", "-keyout", "ca.key", "-out", "ca.crt", *self.KEY)
        self.pem = (self.folder / "ca.crt").read_bytes()

    KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256")

    def run(self, *args):
        subprocess.run(["openssl", *args], cwd=self.folder, check=True, capture_output=True)

    def secret(self, namespace, name, *hosts):
        """A Secret with a certificate for these names and its key."""
        (self.folder / "names").write_text("subjectAltName=" + ",".join(f"DNS:{host}" for host in hosts))
        self.run("req", "-nodes", "-subj", "/CN=app", "-keyout", "tls.key", "-out", "tls.csr", *self.KEY)
        signed = ("-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-extfile", "names", "-out", "tls.crt")
        self.run("x509", "-req", "-in", "tls.csr", *signed)
        files = (f"--cert={self.folder}/tls.crt", f"--key={self.folder}/tls.key")
        apply(json.loads(kubectl("-n", namespace, "create", "secret", "tls", name, *files, "--dry-run=client", "-o", "json")))


def scale(name, count):
    kubectl("-n", NAMESPACE, "scale", "deployment", name, f"--replicas={count}")
    ready = lambda: kubectl("-n", NAMESPACE, "get", "deployment", name, "-o", "jsonpath={.status.readyReplicas}")
    until(f"{name} is ready", lambda: (ready() or "0") == str(count))


def meta(kind, version, name, spec):
    return {"apiVersion": version, "kind": kind, "metadata": {"name": name, "namespace": NAMESPACE}, "spec": spec}


def app(name, program="web.py", protocol=None, tls=None):
    """A Deployment without replicas, and its Service. With `tls`, the name of a Secret, it speaks TLS only."""
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
    if tls:
        container["env"].append({"name": "TLS", "value": "/tls"})
        container["volumeMounts"].append({"name": "tls", "mountPath": "/tls", "readOnly": True})
        pod["volumes"].append({"name": "tls", "secret": {"secretName": tls}})
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


def ask(host, path="/", method="GET", body=None, headers=None, tls=None):
    """Over TLS with this context, which is told the host's name."""
    connection = http.client.HTTPConnection(ADDRESS, 8443 if tls else 8080, timeout=90)
    if tls:
        connection.sock = tls.wrap_socket(socket.create_connection((ADDRESS, 8443), 90), server_hostname=host)
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
