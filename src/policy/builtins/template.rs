//! `strings.render_template`: the part of Go's `text/template` that means something for JSON.
//!
//! Numbers of the input are texts to Go (`json.Number`), and so they are here. Template and input can be strangers':
//! steps and output are bounded, and what Go has beyond this is an error, not a guess.

mod functions;
mod parse;

use regorus::Value;

use self::functions::Datum;
use self::parse::{Branch, Node, Operand, Pipeline};
use super::{Builtin, Fault, Outcome, binary, text};

pub const BUILTINS: [Builtin; 1] = [binary("strings.render_template", render)];

/// Nodes and pipelines that one rendering goes through.
const MAX_STEPS: usize = 200_000;
/// Bytes of the result, and of any text on the way.
const MAX_OUTPUT: usize = 4 << 20;
/// Bytes of all texts that functions get and variables keep.
const MAX_WORK: usize = 32 << 20;
/// Levels of the variables' value.
const MAX_DEPTH: usize = 512;

fn render(template: &Value, variables: &Value) -> Outcome {
    let template = text(1, template)?;
    if !matches!(variables, Value::Object(_)) {
        return Err(Fault::operand(2, "object", variables));
    }
    is_json(variables, 0)?;
    let fault = |message: String| Fault::failed(format!("template: {message}"));
    let nodes = parse::parse(template).map_err(fault)?;
    let root = Datum::Json(variables);
    let mut run = Run { root: root.clone(), variables: Vec::new(), output: String::new(), steps: 0, work: 0 };
    run.nodes(&nodes, &root).map_err(fault)?;
    Ok(Value::from(run.output.replace("<no value>", "<undefined>")))
}

/// OPA reads the variables as JSON, which knows no sets and no other keys than strings.
fn is_json(value: &Value, depth: usize) -> Result<(), Fault> {
    let not_json = || Fault::failed("the variables are not JSON");
    if depth > MAX_DEPTH {
        return Err(not_json());
    }
    match value {
        Value::Array(items) => items.iter().try_for_each(|item| is_json(item, depth + 1)),
        Value::Object(members) => members.iter().try_for_each(|(key, value)| {
            if matches!(key, Value::String(_)) { is_json(value, depth + 1) } else { Err(not_json()) }
        }),
        Value::Set(_) | Value::Undefined => Err(not_json()),
        _ => Ok(()),
    }
}

type Rendered<T> = Result<T, String>;

/// How a list of nodes ended.
#[derive(PartialEq, Eq)]
enum Flow {
    Next,
    Break,
    Continue,
}

struct Run<'a> {
    root: Datum<'a>,
    /// The innermost last.
    variables: Vec<(String, Datum<'a>)>,
    output: String,
    steps: usize,
    work: usize,
}

impl<'a> Run<'a> {
    fn step(&mut self) -> Rendered<()> {
        self.steps += 1;
        if self.steps > MAX_STEPS || self.output.len() > MAX_OUTPUT || self.work > MAX_WORK {
            return Err(format!("rendering takes more than {MAX_STEPS} steps or {MAX_OUTPUT} bytes"));
        }
        Ok(())
    }

    fn nodes(&mut self, nodes: &[Node], dot: &Datum<'a>) -> Rendered<Flow> {
        for node in nodes {
            self.step()?;
            let flow = match node {
                Node::Text(text) => {
                    self.output.push_str(text);
                    Flow::Next
                }
                Node::Output(pipeline) => {
                    let value = self.pipeline(pipeline, dot)?;
                    if pipeline.variables.is_empty() {
                        value.print(&mut self.output, MAX_OUTPUT);
                    }
                    Flow::Next
                }
                Node::If(branch) => self.conditional(branch, dot, false)?,
                Node::With(branch) => self.conditional(branch, dot, true)?,
                Node::Range(branch) => self.range(branch, dot)?,
                Node::Break => Flow::Break,
                Node::Continue => Flow::Continue,
            };
            if flow != Flow::Next {
                return Ok(flow);
            }
        }
        Ok(Flow::Next)
    }

    /// Variables that the block declares end with it.
    fn block(&mut self, nodes: &[Node], dot: &Datum<'a>, declared: usize) -> Rendered<Flow> {
        let flow = self.nodes(nodes, dot)?;
        self.variables.truncate(declared);
        Ok(flow)
    }

    fn conditional(&mut self, branch: &Branch, dot: &Datum<'a>, is_with: bool) -> Rendered<Flow> {
        let declared = self.variables.len();
        let value = self.pipeline(&branch.pipeline, dot)?;
        if !value.is_true() {
            self.block(&branch.otherwise, dot, declared)
        } else if is_with {
            self.block(&branch.body, &value, declared)
        } else {
            self.block(&branch.body, dot, declared)
        }
    }

    fn range(&mut self, branch: &Branch, dot: &Datum<'a>) -> Rendered<Flow> {
        let declared = self.variables.len();
        let value = self.commands(&branch.pipeline, dot)?;
        let items = value.items(MAX_STEPS)?;
        if items.is_empty() {
            return self.block(&branch.otherwise, dot, declared);
        }
        self.steps += items.len();
        for (key, item) in items {
            self.step()?;
            let both = match branch.pipeline.variables.as_slice() {
                [] => Vec::new(),
                [only] => vec![(only, item.clone())],
                [first, second, ..] => vec![(first, key), (second, item.clone())],
            };
            for (name, value) in both {
                self.set(name, value, branch.pipeline.declares)?;
            }
            if self.block(&branch.body, &item, declared)? == Flow::Break {
                break;
            }
        }
        Ok(Flow::Next)
    }

    fn set(&mut self, name: &str, value: Datum<'a>, declares: bool) -> Rendered<()> {
        if declares {
            self.variables.push((name.to_owned(), value));
            return Ok(());
        }
        let known = self.variables.iter_mut().rev().find(|(known, _)| known == name);
        known.ok_or_else(|| format!("undefined variable \"${name}\""))?.1 = value;
        Ok(())
    }

    fn pipeline(&mut self, pipeline: &Pipeline, dot: &Datum<'a>) -> Rendered<Datum<'a>> {
        let value = self.commands(pipeline, dot)?;
        match pipeline.variables.as_slice() {
            [] => {}
            [name] => self.set(name, value.clone(), pipeline.declares)?,
            _ => return Err("too many declarations".to_owned()),
        }
        Ok(value)
    }

    fn commands(&mut self, pipeline: &Pipeline, dot: &Datum<'a>) -> Rendered<Datum<'a>> {
        self.step()?;
        let mut value = None;
        for command in &pipeline.commands {
            value = Some(self.command(command, value, dot)?);
        }
        value.ok_or_else(|| "missing value for command".to_owned())
    }

    /// `last` is the value that was piped in.
    fn command(
        &mut self,
        command: &[Operand],
        last: Option<Datum<'a>>,
        dot: &Datum<'a>,
    ) -> Rendered<Datum<'a>> {
        let Some((first, operands)) = command.split_first() else {
            return Err("missing value for command".to_owned());
        };
        let Operand::Call(name) = first else {
            if !operands.is_empty() || last.is_some() {
                return Err("can't give argument to non-function".to_owned());
            }
            if matches!(first, Operand::Nil) {
                return Err("nil is not a command".to_owned());
            }
            return self.operand(first, dot);
        };
        // These two stop at the first value that decides.
        if matches!(name.as_str(), "and" | "or") {
            let mut value = None;
            for operand in operands {
                let found = self.operand(operand, dot)?;
                let decides = found.is_true() == (name == "or");
                value = Some(found);
                if decides {
                    return value.ok_or_else(String::new);
                }
            }
            return last.or(value).ok_or_else(|| format!("wrong number of args for {name}"));
        }
        let mut values = Vec::with_capacity(operands.len() + 1);
        for operand in operands {
            values.push(self.operand(operand, dot)?);
        }
        values.extend(last);
        let result = functions::call(name, &values, MAX_OUTPUT)?;
        self.work += result.bytes();
        Ok(result)
    }

    fn operand(&mut self, operand: &Operand, dot: &Datum<'a>) -> Rendered<Datum<'a>> {
        self.step()?;
        let value = match operand {
            Operand::Dot => dot.clone(),
            Operand::Nil => Datum::Missing,
            Operand::Field(fields) => dot.fields(fields)?,
            Operand::Variable(name, fields) => {
                let known =
                    self.variables.iter().rev().find(|(known, _)| known == name).map(|(_, value)| value);
                let value = known.or_else(|| name.is_empty().then_some(&self.root));
                value.ok_or_else(|| format!("undefined variable \"${name}\""))?.fields(fields)?
            }
            Operand::Call(_) => self.command(std::slice::from_ref(operand), None, dot)?,
            Operand::Bool(value) => Datum::Bool(*value),
            Operand::Int(value) => Datum::Int(*value),
            Operand::Float(value) => Datum::Float(*value),
            Operand::Text(value) => Datum::Text(value.clone()),
            Operand::Group(pipeline, fields) => self.pipeline(pipeline, dot)?.fields(fields)?,
        };
        self.work += value.bytes();
        Ok(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rendered(template: &str, variables: &str) -> Result<String, String> {
        let variables = Value::from_json_str(variables).unwrap();
        match render(&Value::from(template), &variables) {
            Ok(value) => Ok(value.as_string().unwrap().to_string()),
            Err(fault) => Err(fault.to_string()),
        }
    }

    #[test]
    fn renders_as_go() {
        let variables = r#"{"n": 0, "s": "a<b", "l": [1, "x", null, [true]], "o": {"b": {"c": 1.5}, "a": "y"}, "z": null,
            "e": []}"#;
        for (template, wanted) in [
            ("a {{- /* no */ -}} b", "ab"),
            ("{{.o.b.c}} {{.o}} {{.l}}", "1.5 map[a:y b:map[c:1.5]] [1 x <nil> [true]]"),
            ("{{.z}} {{.no}} {{.no.more}}", "<undefined> <undefined> <undefined>"),
            ("{{if .n}}number{{else}}none{{end}}", "number"),
            ("{{if .e}}a{{else if .s}}b{{else}}c{{end}}", "b"),
            ("{{range $k, $v := .o}}{{$k}}={{$v}};{{end}}", "a=y;b=map[c:1.5];"),
            ("{{range .e}}x{{else}}none{{end}}", "none"),
            (
                "{{range $i, $e := .l}}{{if eq $i 1}}{{continue}}{{end}}{{if gt $i 2}}{{break}}{{end}}{{$i}}{{end}}",
                "02",
            ),
            ("{{with .o.b}}{{.c}}{{$.s}}{{end}}", "1.5a<b"),
            (
                "{{len .l}} {{index .l 1}} {{index .o \"a\"}} {{.s | html | printf \"%q\"}}",
                "4 x y \"a&lt;b\"",
            ),
            ("{{$x := 1}}{{if true}}{{$x = 2}}{{end}}{{$x}}", "2"),
            (
                "{{print 1 2 \"a\" .n}} {{println 1}}{{printf \"%05d|%-3s|%v\" 42 \"a\" .l}}",
                "1 2a0 1\n00042|a  |[1 x <nil> [true]]",
            ),
            (
                "{{and .s .n}} {{or .e \"d\"}} {{not .e}} {{eq .s \"q\" \"a<b\"}} {{ne .n \"0\"}} {{lt 1 2}}",
                "0 d true true false true",
            ),
            (
                "{{(index .o \"b\").c}} {{urlquery \"a b&c\"}} {{js \"it's\"}} {{slice .s 1 2}}",
                "1.5 a+b%26c it\\'s <",
            ),
            ("{{ \"{{\" }} {{`a}}b`}}", "{{ a}}b"),
        ] {
            assert_eq!(rendered(template, variables).as_deref(), Ok(wanted), "{template}");
        }
        for bad in [
            "{{",
            "{{.a",
            "{{end}}",
            "{{if}}x{{end}}",
            "{{if .a}}",
            "{{nope 1}}",
            "{{.s.b}}",
            "{{.z.b}}",
            "{{$y}}",
            "{{eq .n 1}}",
            "{{index .l 9}}",
            "{{range .s}}{{end}}",
            "{{template \"x\"}}",
            "{{break}}",
            "{{(1}}",
            "{{1 2}}",
            "{{\"a}}",
            "{{}}",
            "{{/* x }}",
            "{{if .a}}{{else}}{{else}}{{end}}",
            "{{printf \"%Z\" 1}}",
            "{{call .s}}",
            "{{lt .l 1}}",
        ] {
            assert!(rendered(bad, variables).is_err(), "{bad}");
        }
    }

    #[test]
    fn hostile_templates_end() {
        let deep = "{{if .a}}".repeat(10_000);
        assert!(rendered(&deep, "{}").is_err());
        let parens = format!("{{{{{}1}}}}", "(".repeat(10_000));
        assert!(rendered(&parens, "{}").is_err());
        let items = format!("{{\"l\": [{}0]}}", "0,".repeat(1000));
        let cubed = "{{range .l}}{{range $.l}}{{range $.l}}xxxxxxxx{{end}}{{end}}{{end}}";
        assert!(rendered(cubed, &items).is_err());
        assert!(rendered("{{printf \"%999999999d\" 1}}", "{}").is_err());
        assert!(rendered("{{range 999999999999}}{{end}}", "{}").is_err());
        let kept = (0..1000).fold(
            "{{$a := printf \"%9999s\" \"\"}}{{$a = printf \"%s%s%s%s%s%s\" $a $a $a $a $a $a}}".to_owned(),
            |text, n| text + &format!("{{{{$b{n} := print $a $a $a $a $a $a}}}}"),
        );
        assert!(rendered(&kept, "{}").is_err());
        let doubled = "{{$x := \"aaaaaaaa\"}}".to_owned() + &"{{$x = print $x $x}}".repeat(60);
        assert!(rendered(&doubled, "{}").is_err());
    }
}
