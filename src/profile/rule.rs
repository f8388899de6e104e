//! One endpoint rule: `VERDICT ENTITY [PROTO[/PORT[-PORT]]] [# comment]`.

use std::fmt;
use std::str::FromStr;

use super::entity::{Entity, EntityError};
use super::transport::{Transport, TransportError};

/// What a matching rule says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RuleVerdict {
    Permit,
    Ask,
    Deny,
}

/// An endpoint rule as typed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Rule {
    pub verdict: RuleVerdict,
    pub entity: Entity,
    pub transport: Option<Transport>,
    pub comment: Option<Box<str>>,
}

/// Why a text is no rule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RuleError {
    #[error("the rule is empty; write VERDICT ENTITY [PROTOCOL[/PORT]], such as `+ .example.com TCP/443`")]
    Empty,
    #[error("`{0}` is no verdict; write + (permit), - (deny) or ? (ask), then a space")]
    Verdict(String),
    #[error("the rule names no entity; write `{0} *` if everything is meant")]
    NoEntity(String),
    #[error("`{0}` is one field too many; write VERDICT ENTITY [PROTOCOL[/PORT]] and a comment after #")]
    TooLong(String),
    #[error(transparent)]
    Entity(#[from] EntityError),
    #[error(transparent)]
    Transport(#[from] TransportError),
}

impl FromStr for Rule {
    type Err = RuleError;

    fn from_str(text: &str) -> Result<Self, RuleError> {
        let (text, comment) = match text.split_once('#') {
            Some((rule, comment)) => (rule, Some(comment.trim()).filter(|comment| !comment.is_empty())),
            None => (text, None),
        };
        let mut fields = text.split_whitespace();
        let verdict = match fields.next() {
            None => return Err(RuleError::Empty),
            Some("+") => RuleVerdict::Permit,
            Some("-") => RuleVerdict::Deny,
            Some("?") => RuleVerdict::Ask,
            Some(other) => return Err(RuleError::Verdict(other.to_owned())),
        };
        let entity = fields.next().ok_or_else(|| RuleError::NoEntity(verdict.to_string()))?.parse()?;
        let transport = fields.next().map(Transport::from_str).transpose()?;
        if let Some(extra) = fields.next() {
            return Err(RuleError::TooLong(extra.to_owned()));
        }
        Ok(Self { verdict, entity, transport, comment: comment.map(Box::from) })
    }
}

impl fmt::Display for RuleVerdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Permit => "+",
            Self::Ask => "?",
            Self::Deny => "-",
        })
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.verdict, self.entity)?;
        if let Some(transport) = &self.transport {
            write!(f, " {transport}")?;
        }
        match &self.comment {
            Some(comment) => write!(f, " # {comment}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_prints_as_it_is_read() {
        for (typed, printed) in [
            ("+ .example.com TCP/443", "+ .example.com TCP/443"),
            ("  -   *  ", "- *"),
            ("? LAN", "? LAN"),
            ("+ * */80-90 #  web ", "+ * */80-90 # web"),
            ("- 10.0.0.0/8 udp/dns#x", "- 10.0.0.0/8 UDP/53 # x"),
        ] {
            let rule: Rule = typed.parse().expect(typed);
            assert_eq!(rule.to_string(), printed);
            assert_eq!(printed.parse::<Rule>().as_ref(), Ok(&rule));
        }
    }

    #[test]
    fn what_is_no_rule_is_refused_with_the_right_form() {
        for (text, hint) in [
            ("", "VERDICT ENTITY"),
            ("# x", "VERDICT ENTITY"),
            ("+", "+ *"),
            ("+*", "then a space"),
            ("allow x", "+ (permit)"),
            ("+ a TCP/1 b", "one field too many"),
            ("+ 1.2.3.*", "CIDR"),
            ("- x TCP/0", "1 to 65535"),
            ("+ example.com:443", "behind the protocol"),
            ("+ https://example.com", "the name alone"),
            ("+ 192.0.2.9/24", "192.0.2.0/24"),
            ("- x *", "*/443"),
        ] {
            let error = text.parse::<Rule>().expect_err(text).to_string();
            assert!(error.contains(hint), "{error} should speak of {hint}");
        }
    }
}
