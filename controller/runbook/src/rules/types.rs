//! What can be known of an expression before there is any evidence.

use std::fmt;

use prost_reflect::{EnumDescriptor, FieldDescriptor, Kind, MessageDescriptor};

/// The kind of value that an expression gives.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Type {
    /// Anything: the items of an empty list, or what an error left behind.
    Any,
    Bool,
    Int,
    Double,
    Text,
    /// A text that is one of a few words.
    Word(EnumDescriptor),
    List(Box<Type>),
    Message(MessageDescriptor),
}

impl Type {
    pub(crate) fn of(field: &FieldDescriptor) -> Self {
        let single = match field.kind() {
            Kind::Bool => Self::Bool,
            Kind::Double | Kind::Float => Self::Double,
            Kind::String | Kind::Bytes => Self::Text,
            Kind::Message(message) => Self::Message(message),
            Kind::Enum(descriptor) => Self::Word(descriptor),
            _ => Self::Int,
        };
        if field.is_list() || field.is_map() { Self::List(Box::new(single)) } else { single }
    }

    pub(crate) fn list(of: Self) -> Self {
        Self::List(Box::new(of))
    }

    pub(crate) fn is_text(&self) -> bool {
        matches!(self, Self::Any | Self::Text | Self::Word(_))
    }

    pub(crate) fn is_bool(&self) -> bool {
        matches!(self, Self::Any | Self::Bool)
    }

    pub(crate) fn is_number(&self) -> bool {
        matches!(self, Self::Any | Self::Int | Self::Double)
    }

    /// Whether `==` between the two can ever hold.
    pub(crate) fn comparable(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Any, _) | (_, Self::Any) => true,
            (Self::List(a), Self::List(b)) => a.comparable(b),
            (Self::Message(a), Self::Message(b)) => a == b,
            _ => {
                (self.is_number() && other.is_number())
                    || (self.is_text() && other.is_text())
                    || self == other
            }
        }
    }

    /// What holds both.
    pub(crate) fn join(self, other: Self) -> Self {
        match (self, other) {
            (a, b) if a == b => a,
            (Self::List(a), Self::List(b)) => Self::list(a.join(*b)),
            (a, b) if a.is_text() && b.is_text() && a != Self::Any && b != Self::Any => Self::Text,
            _ => Self::Any,
        }
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("anything"),
            Self::Bool => f.write_str("a truth value"),
            Self::Int => f.write_str("an integer"),
            Self::Double => f.write_str("a decimal number"),
            Self::Text | Self::Word(_) => f.write_str("a text"),
            Self::List(_) => f.write_str("a list"),
            Self::Message(message) => write!(f, "a {}", message.name()),
        }
    }
}
