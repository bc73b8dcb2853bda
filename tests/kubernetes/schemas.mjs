// Holds resources of other projects against those projects' schemas, as npm's @kubernetes-models have them.
//
//     node schemas.mjs DIRECTORY < documents.json
//
// DIRECTORY has the package.json beside this and what was installed by it. Read is a list of documents, written a list of answers in the
// same order: null where no package has a schema for what is in the document, otherwise the package and what is wrong.
//
// The packages' validators know values (types, ranges, patterns, what must be there) and let unknown fields pass, as Kubernetes prunes
// them. Their TypeScript types, made of the same schemas, know every field. So a document is held against both.

import { existsSync, readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join, resolve } from "node:path";
import { pathToFileURL } from "node:url";

const directory = resolve(process.argv[2]);
const ts = createRequire(join(directory, "package.json"))("typescript");
const read = (path) => JSON.parse(readFileSync(path, "utf8"));
const packages = Object.keys(read(join(directory, "package.json")).dependencies).filter((name) => name !== "typescript");
const versions = Object.fromEntries(packages.map((name) => [name, read(join(directory, "node_modules", name, "package.json")).version]));

/** Which package has the kind of a document. */
function packageOf({ apiVersion, kind }) {
  return packages.find((name) => existsSync(join(directory, "node_modules", name, apiVersion, `${kind}.d.ts`)));
}

/** One file of TypeScript with all of the documents in it. */
function program(documents) {
  const file = join(directory, "documents.ts");
  const lines = documents.map((document, index) => {
    const name = packageOf(document);
    const type = name ? `import("${name}/${document.apiVersion}").I${document.kind}` : "unknown";
    return `export const d${index}: ${type} = ${JSON.stringify(document)};\n`;
  });
  const options = {
    lib: ["lib.es2022.d.ts"],
    module: ts.ModuleKind.ESNext,
    moduleResolution: ts.ModuleResolutionKind.Bundler,
    noEmit: true,
    skipLibCheck: true,
    strict: true,
    target: ts.ScriptTarget.ES2022,
    types: [],
  };
  const host = ts.createCompilerHost(options);
  const { fileExists, getSourceFile } = host;
  host.fileExists = (path) => resolve(path) === file || fileExists.call(host, path);
  host.getSourceFile = (path, ...more) =>
    resolve(path) === file ? ts.createSourceFile(path, lines.join(""), ...more) : getSourceFile.call(host, path, ...more);
  const made = ts.createProgram([file], options, host);
  return { made, source: made.getSourceFile(file) };
}

/** The number of the document that a place in the file is in, and the field there. */
function placeOf(source, position) {
  let index = -1;
  const path = [];
  const visit = (node) => {
    if (position < node.getStart(source) || position >= node.getEnd()) return;
    if (ts.isVariableDeclaration(node)) index = Number(node.name.text.slice(1));
    if (ts.isPropertyAssignment(node)) path.push(node.name.text);
    if (ts.isArrayLiteralExpression(node.parent ?? node)) path.push(node.parent.elements.indexOf(node));
    ts.forEachChild(node, visit);
  };
  ts.forEachChild(source, visit);
  return { index, place: path.join(".") };
}

/** What a resource says is in its `spec`. A type without one (Istio's operator: anything goes) says nothing of it. */
function knowsFields(made, source, index) {
  const declaration = source.statements[index].declarationList.declarations[0];
  const checker = made.getTypeChecker();
  return Boolean(checker.getTypeAtLocation(declaration.name).getProperty("spec"));
}

async function byValidator(name, document) {
  const models = await import(pathToFileURL(join(directory, "node_modules", name, document.apiVersion, "index.js")));
  try {
    new models[document.kind](document).validate();
    return [];
  } catch (error) {
    if (!error.errors) throw error;
    return error.errors.map(({ instancePath, message }) => `${instancePath.slice(1).replaceAll("/", ".")}: ${message}`);
  }
}

const documents = read(0);
const { made, source } = program(documents);
const found = documents.map(() => []);
for (const diagnostic of ts.getPreEmitDiagnostics(made)) {
  const message = ts.flattenDiagnosticMessageText(diagnostic.messageText, "; ").replaceAll(/\s+/g, " ");
  if (diagnostic.file !== source) throw new Error(`${diagnostic.file?.fileName}: ${message}`);
  const { index, place } = placeOf(source, diagnostic.start);
  if (index < 0) throw new Error(message);
  found[index].push(`${place}: ${message.slice(0, 300)}`);
}
const answers = [];
for (const [index, document] of documents.entries()) {
  const name = packageOf(document);
  if (!name || !knowsFields(made, source, index)) {
    answers.push(null);
    continue;
  }
  answers.push({ package: `${name} ${versions[name]}`, mistakes: [...found[index], ...(await byValidator(name, document))] });
}
process.stdout.write(JSON.stringify(answers));
