"""What the manifests may say in resources that are not Kubernetes' own.

npm packages have the schemas of Istio, Gateway API, Envoy Gateway and Contour (package.json), which schemas.mjs holds the manifests
against. No package was found with those of Consul, Gloo and kgateway, nor with what IstioOperator's `spec` may be: its CRD takes anything.
So for them, and for what no schema says (that nothing fails open, that a deadline is there), this is a list of the fields that the
manifests use, by hand, each looked up in the CRDs of Istio, Gateway API, Envoy Gateway, Contour, consul-k8s and Gloo as of July and August
2026, and of kgateway 2. A field that is not here is an error: whoever adds one looks it up. `validate.py --crds DIR` holds the manifests
against real CRDs.

In a schema: a dict is an object with these fields and no others, `name!` one that must be there; a list of one is a list of those;
a set is what a string may be; a type is a type; ANY is not looked at; MAP has strings for values.
"""

ANY = object()
MAP = object()

_TARGET = {"group!": str, "kind!": str, "name!": str}
_SECRET = {"name!": str, "namespace": str}
_SELECTOR = {"matchLabels!": MAP}

# EnvoyProxy's `initContainers` and `pod` are Kubernetes' own, and looked at as such.
CUSTOM = {
    ("networking.istio.io/v1", "ServiceEntry"): {
        "hosts!": [str],
        "exportTo": [str],
        "location": {"MESH_EXTERNAL", "MESH_INTERNAL"},
        "resolution": {"NONE", "STATIC", "DNS", "DNS_ROUND_ROBIN", "DYNAMIC_DNS"},
        "ports": [{"name!": str, "number!": int, "protocol": {"GRPC", "HTTP", "HTTPS", "HTTP2", "TCP", "TLS"}}],
        "endpoints": [{"address": str}],
    },
    ("networking.istio.io/v1", "Sidecar"): {
        "workloadSelector": {"labels!": MAP},
        "ingress": [{"port!": {"name!": str, "number!": int, "protocol!": {"HTTP"}}, "defaultEndpoint": str}],
    },
    ("security.istio.io/v1", "PeerAuthentication"): {"mtls": {"mode": {"STRICT"}}},
    ("security.istio.io/v1", "RequestAuthentication"): {
        "selector": _SELECTOR,
        "jwtRules": [{"issuer!": str, "audiences": [str], "jwksUri": str, "outputClaimToHeaders": [{"header!": str, "claim!": str}]}],
    },
    # Nothing here but CUSTOM: an ALLOW would be another policy.
    ("security.istio.io/v1", "AuthorizationPolicy"): {
        "selector": _SELECTOR,
        "action!": {"CUSTOM"},
        "provider!": {"name!": str},
        "rules!": [{}],
    },
    ("install.istio.io/v1alpha1", "IstioOperator"): {
        "meshConfig": {
            "pathNormalization": {"normalization": {"DECODE_AND_MERGE_SLASHES"}},
            "extensionProviders": [
                {
                    "name!": str,
                    "envoyExtAuthzGrpc": {
                        "service!": str,
                        "port!": int,
                        "timeout!": str,
                        "failOpen!": {False},
                        "statusOnError!": {"503"},
                    },
                }
            ],
        }
    },
    ("gateway.networking.k8s.io/v1", "GatewayClass"): {
        "controllerName!": str,
        "parametersRef": _TARGET | {"namespace": str},
    },
    ("gateway.networking.k8s.io/v1", "Gateway"): {
        "gatewayClassName!": str,
        "listeners!": [
            {
                "name!": str,
                "protocol!": {"HTTPS"},
                "port!": int,
                "hostname": str,
                "tls": {"mode": {"Terminate"}, "certificateRefs": [{"name!": str}]},
                "allowedRoutes": {"namespaces": {"from": {"Same"}}},
            }
        ],
    },
    ("gateway.networking.k8s.io/v1", "HTTPRoute"): {
        "parentRefs": [{"name!": str}],
        "hostnames": [str],
        "rules": [{"backendRefs": [{"name!": str, "port": int}]}],
    },
    ("gateway.networking.k8s.io/v1beta1", "ReferenceGrant"): {
        "from!": [{"group!": str, "kind!": str, "namespace!": str}],
        "to!": [{"group!": str, "kind!": str}],
    },
    ("gateway.envoyproxy.io/v1alpha1", "EnvoyProxy"): {
        "filterOrder": [{"name!": str, "after": str, "before": str}],
        "provider": {
            "type!": {"Kubernetes"},
            "kubernetes": {
                "envoyDeployment": {
                    "replicas": int,
                    "pod": {"labels": MAP, "securityContext": ANY, "volumes": [ANY]},
                    "container": {"volumeMounts": [ANY]},
                    "initContainers": [ANY],
                }
            },
        },
    },
    ("gateway.envoyproxy.io/v1alpha1", "ClientTrafficPolicy"): {
        "targetRefs": [_TARGET],
        "path": {"escapedSlashesAction": {"RejectRequest"}, "disableMergeSlashes": {False}},
        "headers": {"withUnderscoresAction": {"RejectRequest"}, "earlyRequestHeaders": {"remove": [str]}},
    },
    ("gateway.envoyproxy.io/v1alpha1", "Backend"): {
        "appProtocols": [{"gateway.envoyproxy.io/h2c"}],
        "endpoints": [{"unix": {"path!": str}}],
    },
    ("gateway.envoyproxy.io/v1alpha1", "SecurityPolicy"): {
        "targetRefs": [_TARGET],
        "jwt": {
            "providers!": [
                {
                    "name!": str,
                    "issuer": str,
                    "audiences": [str],
                    "remoteJWKS": {"uri!": str},
                    "claimToHeaders": [{"claim!": str, "header!": str}],
                }
            ]
        },
        "extAuth": {
            "failOpen!": {False},
            "statusOnError!": {503},
            "timeout!": str,
            "recomputeRoute": {False},
            "grpc": {"backendRefs": [{"group": str, "kind": str, "name!": str, "port": int}]},
        },
    },
    ("projectcontour.io/v1alpha1", "ExtensionService"): {
        "protocol": {"h2"},
        "services!": [{"name!": str, "port!": int}],
        "validation!": {"caSecret!": str, "subjectName!": str},
        "timeoutPolicy": {"response": str},
        "circuitBreakerPolicy": {"maxRequests": int},
    },
    ("projectcontour.io/v1", "HTTPProxy"): {
        "virtualhost": {
            "fqdn!": str,
            "tls": {"secretName": str, "clientValidation": {"caSecret": str}},
            "authorization": {
                "extensionRef": {"name": str, "namespace": str},
                "responseTimeout!": str,
                "failOpen!": {False},
                "authPolicy": {"context": MAP},
            },
        },
        "routes": [{"services": [{"name!": str, "port!": int}]}],
    },
    ("consul.hashicorp.com/v1alpha1", "ServiceDefaults"): {
        "protocol": {"http"},
        "envoyExtensions": [
            {
                "name!": {"builtin/ext-authz"},
                "required!": {True},
                # The CRD takes any arguments; these are those of the extension.
                "arguments": {
                    "proxyType": {"connect-proxy"},
                    "config!": {
                        "failureModeAllow!": {False},
                        "statusOnError!": {503},
                        "metadataContextNamespaces": [str],
                        "grpcService": {"target": {"uri": str, "timeout!": str}},
                    },
                },
            }
        ],
    },
    ("gloo.solo.io/v1", "Upstream"): {
        "useHttp2!": {True},
        "kube": {"serviceName": str, "serviceNamespace": str, "servicePort": int},
        "sslConfig!": {"secretRef": _SECRET, "sni": str, "verifySubjectAltName!": [str]},
    },
    ("gloo.solo.io/v1", "Settings"): {
        "extauth": {
            "extauthzServerRef!": _SECRET,
            "grpcService!": {},
            "transportApiVersion": {"V3"},
            "requestTimeout!": str,
            "failureModeAllow!": {False},
            "statusOnError!": {503},
            "clearRouteCache": {False},
        }
    },
    ("gateway.solo.io/v1", "VirtualService"): {
        "sslConfig": {"secretRef": _SECRET, "oneWayTls": {False}},
        "virtualHost": {
            "domains": [str],
            "options": {"extauth!": {"customAuth": {"contextExtensions": MAP}}},
            "routes": [{"matchers": [{"prefix": str}], "routeAction": ANY}],
        },
    },
    ("gateway.kgateway.dev/v1alpha1", "BackendConfigPolicy"): {
        "targetRefs": [_TARGET],
        "tls!": {"secretRef!": {"name!": str}, "sni": str, "verifySubjectAltNames!": [str], "alpnProtocols": [str]},
    },
    ("gateway.kgateway.dev/v1alpha1", "GatewayExtension"): {
        "extAuth": {
            "grpcService!": {"backendRef!": {"name!": str, "port": int}, "requestTimeout!": str},
            "failOpen!": {False},
            "statusOnError!": {503},
            "clearRouteCache": {False},
        }
    },
    ("gateway.kgateway.dev/v1alpha1", "TrafficPolicy"): {
        "targetRefs": [_TARGET],
        "extAuth": {"extensionRef!": _SECRET, "contextExtensions": MAP},
    },
}

# A field that is younger than a package: the package, the version that has not got it, and where it is. With another version it counts.
NEWER = {
    # Since Envoy Gateway 1.8.
    ("gateway.envoyproxy.io/v1alpha1", "SecurityPolicy"): (
        "@kubernetes-models/envoy-gateway",
        "2.0.0",
        ["spec", "extAuth", "statusOnError"],
    ),
}


def mistakes(value: object, schema: object, place: str) -> list[str]:
    """What in a value is not as its schema says."""
    if schema is ANY:
        return []
    if schema is MAP:
        ok = isinstance(value, dict) and all(isinstance(item, str) for item in value.values())
        return [] if ok else [f"{place}: not a map of strings"]
    if isinstance(schema, set):
        # True and 1 are equal in Python, and not here.
        ok = any(value == allowed and type(value) is type(allowed) for allowed in schema)
        return [] if ok else [f"{place}: {value!r}, and not one of {sorted(map(repr, schema))}"]
    if isinstance(schema, type):
        return [] if type(value) is schema else [f"{place}: {value!r} is no {schema.__name__}"]
    if isinstance(schema, list):
        if not isinstance(value, list):
            return [f"{place}: not a list"]
        return [found for index, item in enumerate(value) for found in mistakes(item, schema[0], f"{place}[{index}]")]
    if not isinstance(value, dict):
        return [f"{place}: not an object"]
    fields = {name.rstrip("!"): (inner, name.endswith("!")) for name, inner in schema.items()}
    found = [f"{place}: no field {name!r} is known here" for name in value if name not in fields]
    for name, (inner, is_required) in fields.items():
        if name in value:
            found += mistakes(value[name], inner, f"{place}.{name}")
        elif is_required:
            found.append(f"{place}: {name!r} is missing")
    return found
