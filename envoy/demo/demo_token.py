"""Tokens to try daypass with. Not an identity provider: whoever reads the key can be anybody.

    python3 envoy/demo/demo_token.py alice@corp [--groups sre,dev] [--keys DIR]

prints a signed JWT for the name, and on first use makes the key it is signed with, in the form Envoy reads
(keys/jwks.json beside the Envoy configuration).
"""

import argparse
import base64
import hashlib
import hmac
import json
import os
import secrets
import time
from pathlib import Path

ISSUER = "https://idp.example"
AUDIENCE = "daypass-demo"
LIFETIME_SECONDS = 8 * 3600


def encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def key(directory: Path) -> bytes:
    """The signing key of a directory, made if there is none."""
    path = directory / "jwks.json"
    if not path.exists():
        directory.mkdir(parents=True, exist_ok=True)
        jwk = {"kty": "oct", "alg": "HS256", "kid": "demo", "k": encode(secrets.token_bytes(32))}
        # Envoy may run as another user and must read it; it is worth nothing beyond this demo.
        path.write_text(json.dumps({"keys": [jwk]}))
    text = json.loads(path.read_text())["keys"][0]["k"]
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def token(directory: Path, subject: str, groups: list[str]) -> str:
    now = int(time.time())
    header = {"alg": "HS256", "typ": "JWT", "kid": "demo"}
    claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": subject, "groups": groups, "iat": now, "exp": now + LIFETIME_SECONDS}
    signed = ".".join(encode(json.dumps(part).encode()) for part in (header, claims))
    signature = hmac.new(key(directory), signed.encode(), hashlib.sha256).digest()
    return f"{signed}.{encode(signature)}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Makes a token to try daypass with.")
    parser.add_argument("subject")
    parser.add_argument("--groups", default="", help="comma-separated")
    parser.add_argument("--keys", type=Path, default=Path(os.path.dirname(__file__)).parent / "keys")
    arguments = parser.parse_args()
    print(token(arguments.keys, arguments.subject, [group for group in arguments.groups.split(",") if group]))
