"""An S3 server on loopback that checks signatures, with one bucket: s3.py FOLDER.

Puts every file of FOLDER into the bucket `models`, under its path in FOLDER. Prints one line of JSON (`endpoint`, `key`,
`secret`) and serves until its standard input ends.
"""

import json
import os
import pathlib
import sys

# Calls before that many need no right signature: those that set the server up.
SETTING_UP = 10_000
os.environ["INITIAL_NO_AUTH_ACTION_COUNT"] = str(SETTING_UP)
os.environ["AWS_DEFAULT_REGION"] = "us-east-1"

import boto3
import moto.core.responses as responses
from moto.server import ThreadedMotoServer

import logging

logging.getLogger("werkzeug").setLevel(logging.ERROR)

server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
host, port = server.get_host_and_port()
endpoint = f"http://{host}:{port}"


def client(name):
    return boto3.client(name, endpoint_url=endpoint, aws_access_key_id="any", aws_secret_access_key="any")


s3, iam = client("s3"), client("iam")
s3.create_bucket(Bucket="models")
folder = pathlib.Path(sys.argv[1])
for path in sorted(folder.rglob("*")):
    if path.is_file():
        s3.put_object(Bucket="models", Key=str(path.relative_to(folder)), Body=path.read_bytes())

iam.create_user(UserName="runtime")
allowed = {"Effect": "Allow", "Action": ["s3:GetObject", "s3:ListBucket"], "Resource": "*"}
policy = {"Version": "2012-10-17", "Statement": [allowed]}
iam.put_user_policy(UserName="runtime", PolicyName="read", PolicyDocument=json.dumps(policy))
key = iam.create_access_key(UserName="runtime")["AccessKey"]

# From here on every call is checked.
responses.ActionAuthenticatorMixin.request_count = SETTING_UP
print(json.dumps({"endpoint": endpoint, "key": key["AccessKeyId"], "secret": key["SecretAccessKey"]}), flush=True)
sys.stdin.read()
server.stop()
