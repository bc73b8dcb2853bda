"""An issuer of tokens to try daypass with: OIDC discovery, a key set, and a token for whatever name is asked for.

    python3 issuer.py [PORT] [ADDRESS] [ISSUER]        (port 0: any free one, printed)

    curl localhost:9000/token -d sub=alice@corp -d groups=engineering,oncall

Not an identity provider: it asks nobody who they are, so whoever reaches it can be anybody. It must never be reachable where
something real is protected, and nothing real may trust it.

RS256 by hand, because Python's standard library signs nothing with a private key: a key pair is made when it starts, is kept in
memory alone, and only the public half is ever sent. That is the textbook's RSA, slow and not constant in time. For tokens
that anybody may have anyway that costs nothing, and it needs no package and no image of its own.
"""

import base64
import hashlib
import json
import secrets
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs

# Envoy's jwt_authn takes the first, the API of daypass the second: one token for both.
AUDIENCES = ["daypass-demo", "daypass"]
LIFETIME_SECONDS = 8 * 3600
KEY_BITS = 2048
PUBLIC_EXPONENT = 65537
# What stands before a SHA-256 digest in a PKCS #1 v1.5 signature (RFC 8017, section 9.2).
SHA256_PREFIX = bytes.fromhex("3031300d060960864801650304020105000420")
# Of a form with a name and some groups.
MAX_BODY_BYTES = 64 * 1024
SMALL_PRIMES = [n for n in range(3, 2000, 2) if all(n % divisor for divisor in range(3, int(n**0.5) + 1, 2))]


def encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def number(value: int) -> str:
    return encode(value.to_bytes((value.bit_length() + 7) // 8, "big"))


def is_prime(candidate: int) -> bool:
    """Miller and Rabin, 40 rounds: wrong once in 2^80."""
    if any(candidate % prime == 0 for prime in SMALL_PRIMES):
        return False
    odd, twos = candidate - 1, 0
    while odd % 2 == 0:
        odd, twos = odd // 2, twos + 1
    for _ in range(40):
        power = pow(secrets.randbelow(candidate - 3) + 2, odd, candidate)
        if power in (1, candidate - 1):
            continue
        for _ in range(twos - 1):
            power = pow(power, 2, candidate)
            if power == candidate - 1:
                break
        else:
            return False
    return True


def prime(bits: int) -> int:
    while True:
        # The two highest bits set: the product of two of these has all its bits.
        candidate = secrets.randbits(bits) | (0b11 << (bits - 2)) | 1
        if candidate % PUBLIC_EXPONENT != 1 and is_prime(candidate):
            return candidate


class Key:
    def __init__(self) -> None:
        p, q = prime(KEY_BITS // 2), prime(KEY_BITS // 2)
        self.modulus = p * q
        self.private = pow(PUBLIC_EXPONENT, -1, (p - 1) * (q - 1))
        public = {"e": number(PUBLIC_EXPONENT), "kty": "RSA", "n": number(self.modulus)}
        # Its RFC 7638 thumbprint: another start has another key, and another name for it.
        self.name = encode(hashlib.sha256(json.dumps(public, separators=(",", ":"), sort_keys=True).encode()).digest())
        self.jwk = public | {"alg": "RS256", "use": "sig", "kid": self.name}

    def sign(self, message: bytes) -> bytes:
        size = KEY_BITS // 8
        digest = SHA256_PREFIX + hashlib.sha256(message).digest()
        padded = b"\x00\x01" + b"\xff" * (size - len(digest) - 3) + b"\x00" + digest
        return pow(int.from_bytes(padded, "big"), self.private, self.modulus).to_bytes(size, "big")

    def token(self, claims: dict) -> str:
        header = {"alg": "RS256", "typ": "JWT", "kid": self.name}
        signed = ".".join(encode(json.dumps(part).encode()) for part in (header, claims))
        return f"{signed}.{encode(self.sign(signed.encode()))}"


class Issuer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    key: Key
    issuer: str

    def do_GET(self) -> None:
        if self.path == "/.well-known/openid-configuration":
            self.answer(200, {
                "issuer": self.issuer,
                "jwks_uri": f"{self.issuer}/jwks.json",
                "token_endpoint": f"{self.issuer}/token",
                "id_token_signing_alg_values_supported": ["RS256"],
                "response_types_supported": ["token"],
                "subject_types_supported": ["public"],
            })  # fmt: skip
        elif self.path == "/jwks.json":
            self.answer(200, {"keys": [self.key.jwk]})
        else:
            self.answer(404, {"error": "not_found"})

    def do_POST(self) -> None:
        length = self.headers.get("content-length", "")
        if not length.isdecimal() or int(length) > MAX_BODY_BYTES:
            self.close_connection = True
            return self.answer(400, {"error": "invalid_request"})
        form = parse_qs(self.rfile.read(int(length)).decode(errors="replace"))
        subject = form.get("sub", [""])[-1]
        if self.path != "/token" or not subject:
            return self.answer(400, {"error": "invalid_request", "error_description": "POST /token with sub=NAME, groups=A,B"})
        groups = [group for given in form.get("groups", []) for group in given.split(",") if group]
        now = int(time.time())
        claims = {"iss": self.issuer, "aud": AUDIENCES, "sub": subject, "groups": groups, "iat": now, "exp": now + LIFETIME_SECONDS}
        token = self.key.token(claims)
        self.answer(200, {"access_token": token, "token_type": "Bearer", "expires_in": LIFETIME_SECONDS})

    def answer(self, status: int, document: dict) -> None:
        body = (json.dumps(document) + "\n").encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("cache-control", "no-store")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Who asked for which name is nobody's business in a log that also has the demo's errors."""


if __name__ == "__main__":
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 9000
    address = sys.argv[2] if len(sys.argv) > 2 else "127.0.0.1"
    Issuer.key = Key()
    server = ThreadingHTTPServer((address, port), Issuer)
    Issuer.issuer = sys.argv[3] if len(sys.argv) > 3 else f"http://127.0.0.1:{server.server_port}"
    print(f"issuer {Issuer.issuer} listens on {address}:{server.server_port}", flush=True)
    server.serve_forever()
