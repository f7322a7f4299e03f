use std::fmt;
use std::str::FromStr;

/// What a peer is. Each role has its own issuing CA, so that a listener admits a role by the roots
/// that it trusts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    /// The program on a host.
    Agent,
    /// A person with `vigiectl`.
    Operator,
    /// A program that uses the controller's API.
    Tool,
    /// The controller, towards everyone.
    Controller,
}

impl Role {
    pub const ALL: [Self; 4] = [Self::Agent, Self::Operator, Self::Tool, Self::Controller];

    /// The role as it stands in an identity.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::Operator => "operator",
            Self::Tool => "tool",
            Self::Controller => "controller",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Role {
    type Err = UnknownRole;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|role| role.as_str() == text).ok_or(UnknownRole)
    }
}

/// The text is no role.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a role is one of agent, operator, tool, controller")]
pub struct UnknownRole;
