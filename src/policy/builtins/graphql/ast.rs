//! Documents of GraphQL and their form as objects of policy: gqlparser's fields by their Go names, with empty lists,
//! absent nodes and places in the text left out, as OPA does.
//!
//! Objects come from policy and from requests, so reading one back is bounded in depth and believes nothing.

use std::collections::BTreeMap;
use std::fmt;

use regorus::Value;

use super::lexer::Position;

/// Levels of an object that is read as a document; what the parser lets through has fewer.
const MAX_OBJECT_DEPTH: usize = 512;

/// An object that is not the form of a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed;

pub trait Form: Sized {
    /// [`Value::Undefined`] for what is left out.
    fn to_value(&self) -> Value;
    fn from_value(value: &Value, depth: usize) -> Result<Self, Malformed>;

    /// What a member is that is not there.
    fn absent() -> Result<Self, Malformed> {
        Err(Malformed)
    }

    fn from_member(value: Option<&Value>, depth: usize) -> Result<Self, Malformed> {
        match value {
            None | Some(Value::Null) => Self::absent(),
            Some(value) if depth < MAX_OBJECT_DEPTH => Self::from_value(value, depth + 1),
            Some(_) => Err(Malformed),
        }
    }
}

impl Form for String {
    fn to_value(&self) -> Value {
        Value::from(self.as_str())
    }

    fn from_value(value: &Value, _depth: usize) -> Result<Self, Malformed> {
        value.as_string().map(ToString::to_string).map_err(|_| Malformed)
    }

    fn absent() -> Result<Self, Malformed> {
        Ok(Self::new())
    }
}

impl Form for bool {
    fn to_value(&self) -> Value {
        Value::Bool(*self)
    }

    fn from_value(value: &Value, _depth: usize) -> Result<Self, Malformed> {
        value.as_bool().copied().map_err(|_| Malformed)
    }

    fn absent() -> Result<Self, Malformed> {
        Ok(false)
    }
}

impl<T: Form> Form for Option<T> {
    fn to_value(&self) -> Value {
        self.as_ref().map_or(Value::Undefined, T::to_value)
    }

    fn from_value(value: &Value, depth: usize) -> Result<Self, Malformed> {
        T::from_value(value, depth).map(Some)
    }

    fn absent() -> Result<Self, Malformed> {
        Ok(None)
    }
}

impl<T: Form> Form for Box<T> {
    fn to_value(&self) -> Value {
        T::to_value(self)
    }

    fn from_value(value: &Value, depth: usize) -> Result<Self, Malformed> {
        T::from_value(value, depth).map(Self::new)
    }
}

impl<T: Form> Form for Vec<T> {
    fn to_value(&self) -> Value {
        if self.is_empty() {
            return Value::Undefined;
        }
        Value::from(self.iter().map(T::to_value).collect::<Vec<_>>())
    }

    fn from_value(value: &Value, depth: usize) -> Result<Self, Malformed> {
        let item = |item: &Value| T::from_member(Some(item), depth);
        match value {
            Value::Array(items) => items.iter().map(item).collect(),
            Value::Set(items) => items.iter_sorted().map(item).collect(),
            _ => Err(Malformed),
        }
    }

    fn absent() -> Result<Self, Malformed> {
        Ok(Self::new())
    }
}

/// What validation would fill in, in another place: always shown the same.
#[derive(Debug, Default)]
pub struct Unset<const IS_TEXT: bool>;

impl<const IS_TEXT: bool> Form for Unset<IS_TEXT> {
    fn to_value(&self) -> Value {
        if IS_TEXT { Value::from("") } else { Value::Bool(false) }
    }

    fn from_value(_value: &Value, _depth: usize) -> Result<Self, Malformed> {
        Ok(Self)
    }

    fn absent() -> Result<Self, Malformed> {
        Ok(Self)
    }
}

macro_rules! node {
    ($name:ident { $($key:ident => $field:ident: $type:ty,)* }) => {
        #[derive(Debug, Default)]
        pub struct $name {
            /// Unknown for what came as an object.
            #[allow(dead_code, reason = "documents have no use for theirs")]
            pub at: Option<Position>,
            $(pub $field: $type,)*
        }

        impl Form for $name {
            fn to_value(&self) -> Value {
                let members = [$((stringify!($key), self.$field.to_value())),*];
                let shown = members.into_iter().filter(|(_, value)| *value != Value::Undefined);
                Value::from(shown.map(|(key, value)| (Value::from(key), value)).collect::<BTreeMap<_, _>>())
            }

            fn from_value(value: &Value, depth: usize) -> Result<Self, Malformed> {
                let members = value.as_object().map_err(|_| Malformed)?;
                Ok(Self {
                    at: None,
                    $($field: Form::from_member(members.get(&Value::from(stringify!($key))), depth)?,)*
                })
            }
        }
    };
}

macro_rules! words {
    ($name:ident { $($variant:ident = $word:literal),+ $(,)? }) => {
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
        pub enum $name {
            #[default]
            $($variant),+
        }

        impl $name {
            pub fn from_word(word: &str) -> Option<Self> {
                match word {
                    $($word => Some(Self::$variant),)+
                    _ => None,
                }
            }

            pub fn word(self) -> &'static str {
                match self {
                    $(Self::$variant => $word),+
                }
            }
        }

        impl Form for $name {
            fn to_value(&self) -> Value {
                Value::from(self.word())
            }

            fn from_value(value: &Value, _depth: usize) -> Result<Self, Malformed> {
                value.as_string().ok().and_then(|word| Self::from_word(word)).ok_or(Malformed)
            }
        }
    };
}

words!(Operation { Query = "query", Mutation = "mutation", Subscription = "subscription" });
words!(TypeKind {
    Scalar = "SCALAR",
    Object = "OBJECT",
    Interface = "INTERFACE",
    Union = "UNION",
    Enum = "ENUM",
    InputObject = "INPUT_OBJECT",
});

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LiteralKind {
    #[default]
    Variable,
    Int,
    Float,
    Text,
    Block,
    Boolean,
    Null,
    Enum,
    List,
    Object,
}

const LITERAL_KINDS: [LiteralKind; 10] = [
    LiteralKind::Variable,
    LiteralKind::Int,
    LiteralKind::Float,
    LiteralKind::Text,
    LiteralKind::Block,
    LiteralKind::Boolean,
    LiteralKind::Null,
    LiteralKind::Enum,
    LiteralKind::List,
    LiteralKind::Object,
];

impl Form for LiteralKind {
    fn to_value(&self) -> Value {
        LITERAL_KINDS.iter().position(|kind| kind == self).map_or(Value::Undefined, Value::from)
    }

    fn from_value(value: &Value, _depth: usize) -> Result<Self, Malformed> {
        let index = value.as_u32().ok().and_then(|index| usize::try_from(index).ok());
        index.and_then(|index| LITERAL_KINDS.get(index)).copied().ok_or(Malformed)
    }

    fn absent() -> Result<Self, Malformed> {
        Ok(Self::Variable)
    }
}

node!(QueryDocument {
    Operations => operations: Vec<OperationDefinition>,
    Fragments => fragments: Vec<FragmentDefinition>,
});
node!(OperationDefinition {
    Operation => operation: Operation,
    Name => name: String,
    VariableDefinitions => variables: Vec<VariableDefinition>,
    Directives => directives: Vec<Directive>,
    SelectionSet => selections: Vec<Selection>,
});
node!(VariableDefinition {
    Variable => name: String,
    Type => kind: TypeRef,
    DefaultValue => default: Option<Literal>,
    Directives => directives: Vec<Directive>,
    Used => used: Unset<false>,
});
node!(FragmentDefinition {
    Name => name: String,
    VariableDefinition => variables: Vec<VariableDefinition>,
    TypeCondition => condition: String,
    Directives => directives: Vec<Directive>,
    SelectionSet => selections: Vec<Selection>,
});
node!(Field {
    Alias => alias: String,
    Name => name: String,
    Arguments => arguments: Vec<Argument>,
    Directives => directives: Vec<Directive>,
    SelectionSet => selections: Vec<Selection>,
});
node!(FragmentSpread {
    Name => name: String,
    Directives => directives: Vec<Directive>,
});
node!(InlineFragment {
    TypeCondition => condition: String,
    Directives => directives: Vec<Directive>,
    SelectionSet => selections: Vec<Selection>,
});
node!(Argument {
    Name => name: String,
    Value => value: Literal,
});
node!(Directive {
    Name => name: String,
    Arguments => arguments: Vec<Argument>,
    Location => location: Unset<true>,
});
node!(Literal {
    Raw => raw: String,
    Children => children: Vec<ChildLiteral>,
    Kind => kind: LiteralKind,
    ExpectedTypeHasDefault => has_default: Unset<false>,
});
node!(ChildLiteral {
    Name => name: String,
    Value => value: Literal,
});
node!(TypeRef {
    NamedType => name: String,
    Elem => item: Option<Box<TypeRef>>,
    NonNull => non_null: bool,
});

node!(SchemaDocument {
    Schema => schemas: Vec<SchemaDefinition>,
    SchemaExtension => schema_extensions: Vec<SchemaDefinition>,
    Directives => directives: Vec<DirectiveDefinition>,
    Definitions => definitions: Vec<Definition>,
    Extensions => extensions: Vec<Definition>,
});
node!(SchemaDefinition {
    Description => description: String,
    Directives => directives: Vec<Directive>,
    OperationTypes => roots: Vec<OperationType>,
});
node!(OperationType {
    Operation => operation: Operation,
    Type => name: String,
});
node!(Definition {
    Kind => kind: TypeKind,
    Description => description: String,
    Name => name: String,
    Directives => directives: Vec<Directive>,
    Interfaces => interfaces: Vec<String>,
    Fields => fields: Vec<FieldDefinition>,
    Types => members: Vec<Member>,
    EnumValues => values: Vec<EnumValue>,
    BuiltIn => built_in: bool,
});
node!(FieldDefinition {
    Description => description: String,
    Name => name: String,
    Arguments => arguments: Vec<ArgumentDefinition>,
    DefaultValue => default: Option<Literal>,
    Type => kind: TypeRef,
    Directives => directives: Vec<Directive>,
});
node!(ArgumentDefinition {
    Description => description: String,
    Name => name: String,
    DefaultValue => default: Option<Literal>,
    Type => kind: TypeRef,
    Directives => directives: Vec<Directive>,
});
node!(EnumValue {
    Description => description: String,
    Name => name: String,
    Directives => directives: Vec<Directive>,
});
node!(DirectiveDefinition {
    Description => description: String,
    Name => name: String,
    Arguments => arguments: Vec<ArgumentDefinition>,
    Locations => locations: Vec<String>,
    IsRepeatable => is_repeatable: bool,
});

/// A type in a union: only its name, but with its place.
#[derive(Debug)]
pub struct Member {
    pub at: Option<Position>,
    pub name: String,
}

impl Form for Member {
    fn to_value(&self) -> Value {
        self.name.to_value()
    }

    fn from_value(value: &Value, depth: usize) -> Result<Self, Malformed> {
        Ok(Self { at: None, name: String::from_value(value, depth)? })
    }
}

#[derive(Debug)]
pub enum Selection {
    Field(Field),
    Spread(FragmentSpread),
    Inline(InlineFragment),
}

impl Form for Selection {
    fn to_value(&self) -> Value {
        match self {
            Self::Field(field) => field.to_value(),
            Self::Spread(spread) => spread.to_value(),
            Self::Inline(inline) => inline.to_value(),
        }
    }

    /// By the member that only one of them has.
    fn from_value(value: &Value, depth: usize) -> Result<Self, Malformed> {
        let members = value.as_object().map_err(|_| Malformed)?;
        let has = |key: &str| members.get(&Value::from(key)).is_some();
        if has("Alias") {
            Field::from_value(value, depth).map(Self::Field)
        } else if has("TypeCondition") || !has("Name") {
            InlineFragment::from_value(value, depth).map(Self::Inline)
        } else {
            FragmentSpread::from_value(value, depth).map(Self::Spread)
        }
    }
}

impl TypeRef {
    /// The named type inside all lists.
    pub fn base(&self) -> &str {
        let mut kind = self;
        while let Some(item) = &kind.item {
            kind = item;
        }
        &kind.name
    }

    /// Whether a value of this type may stand where the other is expected.
    pub fn fits(&self, expected: &Self, is_non_null: bool) -> bool {
        let items = match (&self.item, &expected.item) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(item), Some(expected)) => item.fits(expected, expected.non_null),
        };
        self.name == expected.name && items && (self.non_null || !is_non_null)
    }
}

impl fmt::Display for TypeRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.item {
            Some(item) => write!(f, "[{item}]")?,
            None => f.write_str(&self.name)?,
        }
        f.write_str(if self.non_null { "!" } else { "" })
    }
}

impl fmt::Display for Literal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (open, close) = match self.kind {
            LiteralKind::Variable => return write!(f, "${}", self.raw),
            LiteralKind::Text | LiteralKind::Block => return write!(f, "{:?}", self.raw),
            LiteralKind::List => ('[', ']'),
            LiteralKind::Object => ('{', '}'),
            _ => return f.write_str(&self.raw),
        };
        write!(f, "{open}")?;
        for (index, child) in self.children.iter().enumerate() {
            f.write_str(if index > 0 { "," } else { "" })?;
            if self.kind == LiteralKind::Object {
                write!(f, "{}:", child.name)?;
            }
            write!(f, "{}", child.value)?;
        }
        write!(f, "{close}")
    }
}
