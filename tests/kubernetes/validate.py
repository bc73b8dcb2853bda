"""Whether the manifests in envoy/kubernetes are what Kubernetes, Envoy and daypass take, without a cluster.

    .tools/venv/bin/python tests/kubernetes/validate.py --envoy PATH --daypass PATH --certificates DIR [--kubectl PATH] [--crds DIR]

Every variant is rendered and each of its documents held against

- Kubernetes' own schemas, strictly, of the oldest version that has all that is used and of the newest (kubernetes-validate);
- for what others define, those projects' schemas as npm packages have them (schemas.mjs; `make tools` installs them), the fields listed in
  kinds.py, and with --crds the CRDs found there. Which kinds no package has, the output says;
- rules that no schema has: what is referred to exists, pods are locked down, nobody is killed before they are done;
- Envoy itself (`--mode validate`) for each of its configurations, and daypass itself (`serve --validate`) for each of its own.

With kubectl, variants are rendered as they would be applied. Without it a few lines here do what the manifests need of kustomize, and
the output says so. It must never say that all is well after it looked at nothing.
"""

import argparse
import copy
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import jsonschema
import kubernetes_validate
import yaml

import kinds

ROOT = Path(__file__).resolve().parent.parent.parent
# Where `make tools` puts what tests/kubernetes/package.json names.
PACKAGES = ROOT / ".tools" / "node"
# The oldest where sidecars are for good, and the newest that the package has.
VERSIONS = ["1.33", "1.37"]
# Made by whoever installs it: envoy/kubernetes/README.md lists them.
PROVIDED = {
    "ConfigMap": {"redis-ca", "daypass-check-clients"},
    "Secret": {"redis-tls", "daypass-redis", "daypass-redis-api", "daypass-api-tls", "daypass-check-tls"},
}
POD_SECURITY = "pod-security.kubernetes.io/enforce"
# daypass finishes checks for this long (limits.drain_timeout), and must not be killed before.
DRAIN_SECONDS = 10
# Fields of Istio's and Gloo's CRDs leave these out; every object has them.
OBJECT_FIELDS = {"apiVersion": {}, "kind": {}, "metadata": {}}


class Check:
    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        self.root: Path = arguments.root
        self.problems: list[str] = []
        self.counts: dict[str, int] = {}
        self.custom: list[tuple[str, dict]] = []
        self.by_package: dict[str, set[str]] = {}
        self.by_hand: set[str] = set()
        self.crds = read_crds(arguments.crds) if arguments.crds else {}
        self.seen_texts: set[str] = set()

    def count(self, what: str) -> None:
        self.counts[what] = self.counts.get(what, 0) + 1

    def problem(self, where: str, what: str) -> None:
        self.problems.append(f"{where}: {what}")

    # -- what there is

    def variants(self) -> list[Path]:
        found = sorted(path.parent for path in self.root.rglob("kustomization.yaml"))
        chosen = [path for path in found if load(path / "kustomization.yaml")["kind"] == "Kustomization"]
        only = self.arguments.only
        return [path for path in chosen if not only or path.name in only]

    def documents(self, variant: Path) -> list[dict]:
        if not self.arguments.kubectl:
            return read_variant(variant)
        command = [self.arguments.kubectl, "kustomize", str(variant)]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.returncode != 0:
            self.problem(variant.name, result.stderr.strip())
            return []
        return [document for document in yaml.safe_load_all(result.stdout) if document]

    # -- one document

    def schema(self, where: str, document: dict) -> None:
        key = (document.get("apiVersion", ""), document.get("kind", ""))
        if key in kinds.CUSTOM:
            spec = document.get("spec", {})
            for mistake in kinds.mistakes(spec, kinds.CUSTOM[key], "spec"):
                self.problem(where, mistake)
            self.count("documents by the fields in kinds.py")
            self.custom.append((where, document))
            self.crd(where, key, document)
            return
        for version in VERSIONS:
            try:
                kubernetes_validate.validate(document, version, strict=True)
            except kubernetes_validate.ValidationError as error:
                place = ".".join(str(part) for part in error.absolute_path)
                self.problem(where, f"{place}: {error.message} (Kubernetes {version})")
            except (kubernetes_validate.SchemaNotFoundError, kubernetes_validate.VersionNotSupportedError) as error:
                self.problem(where, f"{error.message}, and kinds.py has none")
        self.count("documents by Kubernetes' schemas")

    def packages(self) -> None:
        """All resources of other projects at once: to read the packages takes a while."""
        if not self.custom:
            return
        command = ["node", str(ROOT / "tests" / "kubernetes" / "schemas.mjs"), str(PACKAGES)]
        pinned = json.loads((PACKAGES / "package.json").read_text())["dependencies"]
        known = []
        for where, document in self.custom:
            package, version, path = kinds.NEWER.get((document["apiVersion"], document["kind"]), ("", "", []))
            less = without(document, path) if pinned.get(package) == version else document
            if less != document:
                print(f"newer than {package} {version}, by kinds.py alone: {'.'.join(path)} of {where}")
            known.append(less)
        result = subprocess.run(command, input=json.dumps(known), capture_output=True, text=True, check=False)
        if result.returncode != 0:
            self.problem("schemas.mjs", result.stderr.strip())
            return
        for (where, document), answer in zip(self.custom, json.loads(result.stdout), strict=True):
            kind = f"{document['kind']} ({document['apiVersion']})"
            if answer is None:
                self.by_hand.add(kind)
                continue
            for mistake in answer["mistakes"]:
                self.problem(where, f"{mistake} ({answer['package']})")
            self.by_package.setdefault(answer["package"], set()).add(kind)
            self.count("documents by packages' schemas")

    def crd(self, where: str, key: tuple[str, str], document: dict) -> None:
        if not self.crds:
            return
        if key not in self.crds:
            print(f"no CRD in {self.arguments.crds} for {key[1]} ({key[0]})")
            return
        for error in jsonschema.Draft7Validator(self.crds[key]).iter_errors(document):
            place = ".".join(str(part) for part in error.absolute_path)
            self.problem(where, f"{place}: {error.message[:200]} (CRD)")
        self.count("documents by CRDs")

    # -- what no schema knows

    def pods(self, where: str, document: dict) -> list[tuple[str, dict, dict]]:
        """Name, labels and spec of the pods that a document makes, volume claims as volumes."""
        kind, spec = document.get("kind"), document.get("spec", {})
        if kind in ("Deployment", "StatefulSet", "DaemonSet"):
            pod = dict(spec["template"]["spec"])
            claims = [{"name": claim["metadata"]["name"], "claim": True} for claim in spec.get("volumeClaimTemplates", [])]
            pod["volumes"] = pod.get("volumes", []) + claims
            return [(where, spec["template"]["metadata"].get("labels", {}), pod)]
        if kind == "EnvoyProxy":
            # The parts of a pod that it gives, looked at as a pod: Envoy's own container has a name that nobody here gave it.
            made = spec["provider"]["kubernetes"]["envoyDeployment"]
            own = [container | {"restartPolicy": "Always"} for container in made["initContainers"]]
            pod = {"volumes": made["pod"]["volumes"], "securityContext": made["pod"]["securityContext"], "initContainers": own}
            plain = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": pod | {"containers": [{"name": "envoy"}]}}
            self.schema(f"{where} (its pod)", plain)
            return [(where, made["pod"]["labels"], pod | {"automountServiceAccountToken": False, "terminationGracePeriodSeconds": 60})]
        return []

    def pod(self, where: str, pod: dict, made: dict[str, set[str]]) -> None:
        context = pod.get("securityContext", {})
        if context.get("seccompProfile", {}).get("type") != "RuntimeDefault":
            self.problem(where, "no seccomp profile")
        if pod.get("automountServiceAccountToken") is not False:
            self.problem(where, "it has a token of the cluster's API, which nothing here asks for anything")
        volumes = {volume["name"]: volume for volume in pod.get("volumes", [])}
        containers = pod.get("initContainers", []) + pod.get("containers", [])
        used = set()
        for container in containers:
            name = f"{where}, container {container['name']}"
            self.container(name, container, context)
            used |= self.mounts(name, container, volumes)
        for unused in volumes.keys() - used:
            self.problem(where, f"nobody mounts the volume {unused}")
        for volume in volumes.values():
            for kind, field, key in (("ConfigMap", "configMap", "name"), ("Secret", "secret", "secretName")):
                name = volume.get(field, {}).get(key)
                if name and name not in made[kind] | PROVIDED[kind]:
                    self.problem(where, f"nobody makes the {kind} {name}")
        if any(container["name"] == "daypass" for container in containers):
            pauses = [c.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0) for c in containers]
            needed = max(pauses) + DRAIN_SECONDS
            if pod.get("terminationGracePeriodSeconds", 30) <= needed:
                self.problem(where, f"killed before it is done: it needs more than {needed} s (terminationGracePeriodSeconds)")
        self.count("pods by the rules here")

    def container(self, where: str, container: dict, context: dict) -> None:
        own = container.get("securityContext", {})
        is_root = own.get("runAsUser") == 0
        if own.get("allowPrivilegeEscalation") is not False or own.get("readOnlyRootFilesystem") is not True:
            self.problem(where, "may gain privileges, or writes to its root")
        if own.get("capabilities", {}).get("drop") != ["ALL"]:
            self.problem(where, "keeps capabilities")
        # One that makes a directory of the host somebody else's; it says why where it stands.
        if not (own.get("runAsNonRoot", context.get("runAsNonRoot")) or (is_root and own["capabilities"].get("add"))):
            self.problem(where, "may run as root")
        resources = container.get("resources", {})
        if not resources.get("requests") or "memory" not in resources.get("limits", {}):
            self.problem(where, "no requests, or no limit of memory")
        if "cpu" in resources.get("limits", {}):
            self.problem(where, "a limit of CPU: a throttled check is a denial")
        if not re.search(r":[^:/]*\d[^:/]*$", container["image"]):
            self.problem(where, f"{container['image']} names no version")
        ports = {port.get("name") for port in container.get("ports", [])}
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            for how in ("httpGet", "tcpSocket"):
                port = container.get(probe, {}).get(how, {}).get("port")
                if isinstance(port, str) and port not in ports:
                    self.problem(where, f"{probe} asks at a port {port}, which it has not")
        if container.get("livenessProbe", {}).get("httpGet", {}).get("path") == "/readyz":
            self.problem(where, "a Redis that is away is not mended by restarts (livenessProbe at /readyz)")

    def mounts(self, where: str, container: dict, volumes: dict) -> set[str]:
        paths = {mount["mountPath"]: mount for mount in container.get("volumeMounts", [])}
        for path, mount in paths.items():
            if mount["name"] not in volumes:
                self.problem(where, f"no volume {mount['name']}")
            for outer, other in paths.items():
                if outer != path and path.startswith(outer.rstrip("/") + "/") and other.get("readOnly"):
                    self.problem(where, f"{path} lies in {outer}, which is read-only: nothing can be mounted there")
        return {mount["name"] for mount in paths.values()}

    def relations(self, where: str, document: dict, pods: list[tuple[str, dict, dict]]) -> None:
        """Selectors select something, and ports are there."""

        def selected(labels: dict) -> list[dict]:
            return [spec for _, found, spec in pods if labels.items() <= found.items()]

        kind, spec = document["kind"], document.get("spec", {})
        labels = None
        if kind == "Service":
            labels = spec["selector"]
            containers = [c for pod in selected(labels) for c in pod.get("initContainers", []) + pod["containers"]]
            names = {port.get("name") for container in containers for port in container.get("ports", [])}
            for port in spec["ports"]:
                if isinstance(port.get("targetPort"), str) and port["targetPort"] not in names:
                    self.problem(where, f"no port {port['targetPort']} in the pods it selects")
        elif kind in ("PodDisruptionBudget", "Deployment", "StatefulSet", "DaemonSet"):
            labels = spec["selector"]["matchLabels"]
        elif kind == "NetworkPolicy":
            labels = spec["podSelector"].get("matchLabels")
        if labels and not selected(labels):
            self.problem(where, f"selects no pod: {labels}")
        is_of_cluster = kind in ("Namespace", "GatewayClass")
        if self.arguments.kubectl and not is_of_cluster and not document["metadata"].get("namespace"):
            self.problem(where, "no namespace")

    # -- configurations inside of ConfigMaps

    def texts(self, variant: str, document: dict) -> None:
        if document["kind"] != "ConfigMap":
            return
        for name, text in document.get("data", {}).items():
            if text in self.seen_texts:
                continue
            self.seen_texts.add(text)
            where = f"{name_of(variant, document)}, {name}"
            if name == "envoy.yaml":
                self.envoy(where, document["data"])
            elif name == "daypass.yaml":
                self.daypass(where, text)

    def envoy(self, where: str, files: dict[str, str]) -> None:
        """What is mounted in a pod is not here: certificates of the caller's instead, and the other files of the ConfigMap."""
        certificates = str(self.arguments.certificates)
        with tempfile.TemporaryDirectory() as directory:
            for name, text in files.items():
                text = re.sub(r"filename: \S+\.(crt|key)", rf"filename: {certificates}/ca.\1", text)
                text = text.replace("path: /run/secrets/tls", f"path: {certificates}").replace("/etc/envoy", directory)
                (Path(directory) / name).write_text(text)
            command = [self.arguments.envoy, "--mode", "validate", "-l", "error", "-c", f"{directory}/envoy.yaml"]
            result = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.returncode != 0:
            self.problem(where, f"Envoy refuses it: {(result.stderr + result.stdout).strip()}")
        self.count("configurations by Envoy")

    def daypass(self, where: str, text: str) -> None:
        certificates = self.arguments.certificates
        text = re.sub(r"(?<=: )/run/secrets/\S+\.crt", f"{certificates}/ca.crt", text)
        text = re.sub(r"(?<=: )/run/secrets/\S+\.key", f"{certificates}/ca.key", text)
        # Policies stand beside it in the ConfigMap, and are looked at where they lie.
        text = text.replace("/etc/daypass/entitlements.yaml", str(self.root / "office" / "entitlements.yaml"))
        with tempfile.TemporaryDirectory() as directory:
            text = text.replace("/var/lib/daypass", directory)
            file = Path(directory) / "daypass.yaml"
            file.write_text(text)
            command = [self.arguments.daypass, "serve", "--validate", "--config", str(file)]
            result = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.returncode != 0:
            self.problem(where, f"daypass refuses it: {(result.stderr + result.stdout).strip()}")
        self.count("configurations by daypass")

    def redis(self) -> None:
        """The settings and users are those of deploy/redis, which tests run on real servers."""

        def lines(path: Path) -> list[str]:
            return [line for line in path.read_text().splitlines() if line and not line.startswith("#")]

        shipped = ROOT / "deploy" / "redis"
        users = set(lines(shipped / "users.acl"))
        for line in lines(self.root / "redis" / "users.acl"):
            if line not in users:
                self.problem("redis/users.acl", f"not a line of deploy/redis/users.acl: {line[:60]}...")
        settings = set(lines(self.root / "redis" / "redis.conf"))
        for line in lines(shipped / "redis.conf"):
            if line not in settings | {"protected-mode yes"}:
                self.problem("redis/redis.conf", f"lacks what deploy/redis/redis.conf has: {line}")

    def run(self) -> None:
        for variant in self.variants():
            documents = self.documents(variant)
            made = {kind: {d["metadata"]["name"] for d in documents if d["kind"] == kind} for kind in PROVIDED}
            pods = []
            for document in documents:
                where = name_of(variant.name, document)
                self.schema(where, document)
                self.texts(variant.name, document)
                pods += self.pods(where, document)
            is_restricted = [d for d in documents if d["metadata"].get("labels", {}).get(POD_SECURITY) == "restricted"]
            for where, _, pod in pods:
                self.pod(where, pod, made)
                added = [c for c in pod.get("initContainers", []) if c.get("securityContext", {}).get("capabilities", {}).get("add")]
                if is_restricted and (added or any("hostPath" in volume for volume in pod["volumes"])):
                    self.problem(where, "its namespace is restricted, and would refuse it")
            for document in documents:
                self.relations(name_of(variant.name, document), document, pods)
            self.count("variants")
        # Read by istioctl, and by no kustomization.
        mesh = self.root / "istio" / "mesh.yaml"
        if not self.arguments.only:
            self.schema("istio/mesh.yaml", load(mesh))
            self.redis()
        self.packages()


def load(path: Path) -> dict:
    return yaml.safe_load(path.read_text())


def name_of(variant: str, document: dict) -> str:
    return f"{variant}: {document.get('kind')} {document.get('metadata', {}).get('name')}"


def read_variant(variant: Path, documents: list[dict] | None = None) -> list[dict]:
    """As much of kustomize as the manifests use, for machines without kubectl. Names get no hash, and nothing a namespace."""
    kustomization = load(variant / "kustomization.yaml")
    # A component works on what there is already.
    documents = [] if documents is None else documents
    for resource in kustomization.get("resources", []):
        path = variant / resource
        if path.is_dir():
            documents += read_variant(path)
        else:
            documents += [document for document in yaml.safe_load_all(path.read_text()) if document]
    for field, kind in (("configMapGenerator", "ConfigMap"), ("secretGenerator", "Secret")):
        for generator in kustomization.get(field, []):
            data = {name: (variant / name).read_text() for name in generator["files"]}
            values = {"data": data} if kind == "ConfigMap" else {"stringData": data}
            if generator.get("behavior") == "replace":
                documents[:] = [d for d in documents if (d["kind"], d["metadata"]["name"]) != (kind, generator["name"])]
            documents.append({"apiVersion": "v1", "kind": kind, "metadata": {"name": generator["name"]}} | values)
    for component in kustomization.get("components", []):
        read_variant(variant / component, documents)
    for patch in kustomization.get("patches", []):
        text = (variant / patch["path"]).read_text() if "path" in patch else patch["patch"]
        for index, document in enumerate(documents):
            if is_target(patch["target"], document):
                documents[index] = patched(document, yaml.safe_load(text))
    return documents


def is_target(target: dict, document: dict) -> bool:
    metadata = document["metadata"]
    labels = dict(pair.split("=") for pair in target.get("labelSelector", "").split(",") if pair)
    is_named = target.get("name", metadata["name"]) == metadata["name"]
    return document["kind"] == target["kind"] and is_named and labels.items() <= metadata.get("labels", {}).items()


def patched(document: dict, patch: dict | list) -> dict:
    if isinstance(patch, dict):
        return merged(document, {"spec": patch["spec"]})
    changed = copy.deepcopy(document)
    for change in patch:
        *path, last = [part.replace("~1", "/") for part in change["path"].split("/")[1:]]
        place = changed
        for part in path:
            place = place[int(part) if isinstance(place, list) else part]
        if change["op"] == "replace" and not isinstance(place, list) and last not in place:
            raise SystemExit(f"PROBLEM {change['path']} of {document['kind']} {document['metadata']['name']} is not there")
        place[last] = change["value"]
    return changed


def merged(base: object, patch: object) -> object:
    """Strategic merge: objects by field, lists of objects by what names them, and anything else is replaced."""
    if isinstance(base, dict) and isinstance(patch, dict):
        return base | {name: merged(base.get(name), value) for name, value in patch.items()}
    if isinstance(base, list) and isinstance(patch, list) and all(isinstance(item, dict) for item in base + patch):
        key = "mountPath" if any("mountPath" in item for item in base + patch) else "name"
        added = [item for item in patch if item[key] not in {other[key] for other in base}]
        by_key = {item[key]: item for item in patch}
        return [merged(item, by_key[item[key]]) if item[key] in by_key else item for item in base] + added
    return patch


def without(document: dict, path: list[str]) -> dict:
    if path[0] not in document:
        return document
    if len(path) == 1:
        return {name: value for name, value in document.items() if name != path[0]}
    return document | {path[0]: without(document[path[0]], path[1:])}


def read_crds(directory: Path) -> dict[tuple[str, str], dict]:
    found = {}
    for path in sorted(directory.rglob("*.yaml")):
        for document in yaml.safe_load_all(path.read_text()):
            if document and document.get("kind") == "CustomResourceDefinition":
                spec = document["spec"]
                for version in spec["versions"]:
                    schema = strict(version["schema"]["openAPIV3Schema"])
                    schema["properties"] |= OBJECT_FIELDS
                    found[f"{spec['group']}/{version['name']}", spec["names"]["kind"]] = schema
    return found


def strict(schema: object) -> object:
    """A CRD's schema, where a field that it does not name is an error. Its rules in CEL are not evaluated."""
    if not isinstance(schema, dict):
        return schema
    if schema.get("x-kubernetes-preserve-unknown-fields"):
        return {}
    if schema.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    made = {name: value for name, value in schema.items() if not isinstance(value, bool) or name == "uniqueItems"}
    if "properties" in made:
        made["properties"] = {name: strict(inner) for name, inner in made["properties"].items()}
        made.setdefault("additionalProperties", False)
    for name in ("items", "additionalProperties"):
        if name in made:
            made[name] = strict(made[name])
    return made


def main() -> int:
    parser = argparse.ArgumentParser(description="Looks at envoy/kubernetes without a cluster.")
    parser.add_argument("--root", type=Path, default=ROOT / "envoy" / "kubernetes")
    parser.add_argument("--envoy", required=True)
    parser.add_argument("--daypass", required=True)
    parser.add_argument("--certificates", type=Path, required=True, help="a directory with ca.crt and ca.key")
    parser.add_argument("--kubectl", default="")
    parser.add_argument("--crds", type=Path, help="a directory with CRDs, to hold other projects' resources against")
    parser.add_argument("--only", action="append", help="a variant; otherwise all")
    check = Check(parser.parse_args())
    if not (PACKAGES / "node_modules").is_dir():
        print(f"PROBLEM no schemas of other projects in {PACKAGES}; `make tools` installs them")
        return 1
    check.run()
    for problem in check.problems:
        print(f"PROBLEM {problem}")
    for what, count in check.counts.items():
        print(f"{count} {what}")
    for package, covered in sorted(check.by_package.items()):
        print(f"by {package}: {', '.join(sorted(covered))}")
    if check.by_hand and not check.crds:
        print(f"in no package, by the fields in kinds.py alone: {', '.join(sorted(check.by_hand))}")
    if not check.arguments.kubectl:
        print("rendered by read_variant, not by kubectl")
    if not check.counts.get("variants"):
        print("PROBLEM there are no variants")
        return 1
    return 1 if check.problems else 0


if __name__ == "__main__":
    sys.exit(main())
