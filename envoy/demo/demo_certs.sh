#!/usr/bin/env bash
# Certificates to try daypass with: an authority, Envoy's own, and a workload's. Whoever reads ca.key can be any workload.
#
#   envoy/demo/demo_certs.sh [SPIFFE-ID] [DIR]
#
# writes ca, server and client (.crt and .key) into envoy/keys, or into DIR. Run it again for another workload: the
# authority and the server's certificate stay, the client's is made anew.
set -euo pipefail

id=${1:-spiffe://corp.example/ns/prod/sa/orders-web}
dir=${2:-$(dirname "$0")/../keys}
days=30
mkdir -p "$dir"
cd "$dir"

# new NAME SUBJECT-ALT-NAMES: a key, and a certificate of the authority for it
new() {
    openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj "/CN=$1" -keyout "$1.key" -out "$1.csr" 2>/dev/null
    openssl x509 -req -in "$1.csr" -CA ca.crt -CAkey ca.key -CAcreateserial -days "$days" -out "$1.crt" 2>/dev/null \
        -extfile <(printf 'subjectAltName=%s\nbasicConstraints=CA:FALSE\nextendedKeyUsage=serverAuth,clientAuth\n' "$2")
    rm "$1.csr"
    # Envoy may run as another user and must read it; it is worth nothing beyond this demo.
    chmod 0644 "$1.key"
}

if [ ! -f ca.crt ]; then
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days "$days" -subj "/CN=daypass demo authority" \
        -addext "basicConstraints=critical,CA:TRUE" -addext "keyUsage=critical,keyCertSign,cRLSign" -keyout ca.key -out ca.crt 2>/dev/null
fi
[ -f server.crt ] || new server "DNS:orders.example,DNS:localhost,IP:127.0.0.1"
new client "URI:$id"
echo "$PWD: ca, server, client ($id)"
