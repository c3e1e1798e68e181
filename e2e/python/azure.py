"""Puts a file into an emulator of Azure's storage, in the container `models`: azure.py ENDPOINT NAME <CONTENT.

The account and its key are the ones that every emulator knows.
"""

import base64
import email.utils
import hashlib
import hmac
import sys
import urllib.request

ACCOUNT = "devstoreaccount1"
KEY = base64.b64decode("Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==")


def put(path: str, body: bytes, headers: dict, query: dict) -> None:
    headers = headers | {"x-ms-date": email.utils.formatdate(usegmt=True), "x-ms-version": "2021-08-06"}
    named = "".join(f"{name}:{value}\n" for name, value in sorted(headers.items()))
    resource = f"/{ACCOUNT}/{ACCOUNT}/{path}" + "".join(f"\n{name}:{value}" for name, value in sorted(query.items()))
    length = str(len(body)) if body else ""
    kind = "application/octet-stream"
    signed = "\n".join(["PUT", "", "", length, "", kind, "", "", "", "", "", "", named + resource])
    signature = base64.b64encode(hmac.new(KEY, signed.encode(), hashlib.sha256).digest()).decode()
    url = f"{sys.argv[1]}/{ACCOUNT}/{path}" + ("?" + "&".join(f"{n}={v}" for n, v in query.items()) if query else "")
    headers |= {"Authorization": f"SharedKey {ACCOUNT}:{signature}", "Content-Type": kind}
    urllib.request.urlopen(urllib.request.Request(url, body, headers, method="PUT")).close()


put("models", b"", {}, {"restype": "container"})
put(f"models/{sys.argv[2]}", sys.stdin.buffer.read(), {"x-ms-blob-type": "BlockBlob"}, {})
